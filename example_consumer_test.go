package riffle_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/rifflelog/riffle"
)

// A member of a group handles each record at least once: it is committed after the loop has
// asked for the next one, and where one breaks off, the next member goes on.
func ExampleConsumer() {
	db, remove := temporary()
	defer remove()
	ctx := context.Background()
	if _, err := db.CreateTopic(ctx, "orders", nil); err != nil {
		log.Fatal(err)
	}
	producer, err := db.NewProducer(nil)
	if err != nil {
		log.Fatal(err)
	}
	for _, order := range []string{"2 tulips", "1 rose", "3 lilies"} {
		if _, err := producer.Send(ctx, riffle.Record{Topic: "orders", Value: []byte(order)}); err != nil {
			log.Fatal(err)
		}
	}

	bill := func() error {
		c, err := db.NewConsumer(&riffle.ConsumerOptions{Group: "billing", Topics: []string{"orders"}})
		if err != nil {
			return err
		}
		defer c.Close()
		n := 0
		for rec, err := range c.Records(ctx) {
			if err != nil {
				return err
			}
			if n++; n == 2 {
				return fmt.Errorf("cannot bill %s now", rec.Value) // it comes again
			}
			fmt.Printf("billed %s\n", rec.Value)
			if rec.Offset == 2 {
				return nil
			}
		}
		return nil
	}
	fmt.Println(bill())
	fmt.Println(bill())
	// Output:
	// billed 2 tulips
	// cannot bill 1 rose now
	// billed 1 rose
	// cannot bill 3 lilies now
}

// A group is looked at from outside, and sent back to where it began.
func ExampleGroup() {
	db, remove := temporary()
	defer remove()
	ctx := context.Background()
	orders, err := db.CreateTopic(ctx, "orders", nil)
	if err != nil {
		log.Fatal(err)
	}
	part := orders.PartitionFor(nil)
	if _, err := part.Append(ctx, riffle.Record{Value: []byte("2 tulips")}, riffle.Record{Value: []byte("1 rose")}); err != nil {
		log.Fatal(err)
	}
	c, err := db.NewConsumer(&riffle.ConsumerOptions{Group: "billing", Topics: []string{"orders"}})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := c.Poll(ctx); err != nil {
		log.Fatal(err)
	}
	if err := c.Commit(ctx); err != nil {
		log.Fatal(err)
	}

	billing := db.Group("billing")
	show := func() {
		d, err := billing.Describe(ctx)
		if err != nil {
			log.Fatal(err)
		}
		progress, err := billing.Progress(ctx)
		if err != nil {
			log.Fatal(err)
		}
		for _, p := range progress {
			fmt.Printf("%s, %d members: %s-%d at %d of %d\n", d.State, len(d.Members), p.Topic, p.Partition, p.Committed.Offset, p.End)
		}
	}
	show()
	back := map[riffle.TopicPartition]riffle.Offset{{Topic: "orders"}: riffle.Earliest}
	fmt.Println(errors.Is(billing.Reset(ctx, back), riffle.ErrGroupNotEmpty))
	if err := c.Close(); err != nil {
		log.Fatal(err)
	}
	if err := billing.Reset(ctx, back); err != nil {
		log.Fatal(err)
	}
	show()
	// Output:
	// Stable, 1 members: orders-0 at 2 of 2
	// true
	// Empty, 0 members: orders-0 at 0 of 2
}
