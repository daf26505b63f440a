package riffle_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/rifflelog/riffle"
)

// billAll has a member of the group "billing" handle the next records, commit and leave.
func billAll(ctx context.Context, db *riffle.Log) {
	c, err := db.NewConsumer(&riffle.ConsumerOptions{Group: "billing", Topics: []string{"orders"}})
	if err != nil {
		log.Fatal(err)
	}
	recs, err := c.Poll(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, rec := range recs {
		fmt.Println("billed", string(rec.Value))
	}
	if err := c.Commit(ctx); err != nil {
		log.Fatal(err)
	}
	if err := c.Close(); err != nil {
		log.Fatal(err)
	}
}

// How far a group is, seen from outside.
func ExampleGroup() {
	db, remove := temporary()
	defer remove()
	ctx := context.Background()
	threeOrders(ctx, db)
	billAll(ctx, db)
	orders, err := db.Topic("orders")
	if err != nil {
		log.Fatal(err)
	}
	if _, err := orders.PartitionFor(nil).Append(ctx, riffle.Record{Value: []byte("1 daisy")}); err != nil {
		log.Fatal(err)
	}

	for group := range db.Groups() {
		d, err := group.Describe(ctx)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s is %s, with %d members\n", group.Name(), d.State, len(d.Members))
		progress, err := group.Progress(ctx)
		if err != nil {
			log.Fatal(err)
		}
		for _, p := range progress {
			fmt.Printf("%s-%d: at %d of %d\n", p.Topic, p.Partition, p.Committed.Offset, p.End)
		}
	}
	// Output:
	// billed 2 tulips
	// billed 1 rose
	// billed 3 lilies
	// billing is Empty, with 0 members
	// orders-0: at 3 of 4
}

// A group that has no members is sent back, and its next member handles the records again.
func ExampleGroup_Reset() {
	db, remove := temporary()
	defer remove()
	ctx := context.Background()
	threeOrders(ctx, db)

	c, err := db.NewConsumer(&riffle.ConsumerOptions{Group: "billing", Topics: []string{"orders"}})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := c.Poll(ctx); err != nil {
		log.Fatal(err)
	}
	to := map[riffle.TopicPartition]riffle.Offset{{Topic: "orders", Partition: 0}: 1}
	err = db.Group("billing").Reset(ctx, to)
	fmt.Println(errors.Is(err, riffle.ErrGroupNotEmpty))
	if err := c.Close(); err != nil {
		log.Fatal(err)
	}
	if err := db.Group("billing").Reset(ctx, to); err != nil {
		log.Fatal(err)
	}
	billAll(ctx, db)
	// Output:
	// true
	// billed 1 rose
	// billed 3 lilies
}

// A group is sent back to a time: each partition to its first record that is not older.
func ExampleGroup_ResetTime() {
	db, remove := temporary()
	defer remove()
	ctx := context.Background()
	threeOrders(ctx, db)
	billAll(ctx, db)
	if err := db.Group("billing").ResetTime(ctx, noon.Add(90*time.Minute)); err != nil {
		log.Fatal(err)
	}
	billAll(ctx, db)
	// Output:
	// billed 2 tulips
	// billed 1 rose
	// billed 3 lilies
	// billed 3 lilies
}
