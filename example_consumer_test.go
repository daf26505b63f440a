package riffle_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"slices"
	"sync"
	"time"

	"github.com/rifflelog/riffle"
)

// noon is when the first order of threeOrders comes, the others an hour later each.
var noon = time.Date(2026, time.May, 1, 12, 0, 0, 0, time.UTC)

// threeOrders makes a topic "orders" with three records in its one partition.
func threeOrders(ctx context.Context, db *riffle.Log) {
	orders, err := db.CreateTopic(ctx, "orders", &riffle.TopicConfig{Retention: riffle.Forever})
	if err != nil {
		log.Fatal(err)
	}
	for i, order := range []string{"2 tulips", "1 rose", "3 lilies"} {
		at := noon.Add(time.Duration(i) * time.Hour)
		if _, err := orders.PartitionFor(nil).Append(ctx, riffle.Record{Timestamp: at, Value: []byte(order)}); err != nil {
			log.Fatal(err)
		}
	}
}

// A member of a group handles each record at least once: it is passed when the loop asks for
// the next one. What is passed is committed every 5 seconds and by Close; where one member
// breaks off, the next one goes on.
func ExampleConsumer() {
	db, remove := temporary()
	defer remove()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	threeOrders(ctx, db)

	bill := func(ready map[string]bool) error {
		c, err := db.NewConsumer(&riffle.ConsumerOptions{Group: "billing", Topics: []string{"orders"}})
		if err != nil {
			return err
		}
		defer c.Close()
		for rec, err := range c.Records(ctx) {
			if errors.Is(err, context.Canceled) {
				return nil // the way to end it
			}
			if err != nil {
				return err
			}
			if !ready[string(rec.Value)] {
				return fmt.Errorf("cannot bill %s now", rec.Value) // it comes again
			}
			fmt.Println("billed", string(rec.Value))
			if rec.Offset == 2 {
				cancel()
			}
		}
		return nil
	}
	fmt.Println(bill(map[string]bool{"2 tulips": true}))
	fmt.Println(bill(map[string]bool{"1 rose": true, "3 lilies": true}))
	// Output:
	// billed 2 tulips
	// cannot bill 1 rose now
	// billed 1 rose
	// billed 3 lilies
	// <nil>
}

// At least once, by hand: handle first, then commit. Who breaks off in between handles the
// record again.
func ExampleConsumer_Commit() {
	db, remove := temporary()
	defer remove()
	ctx := context.Background()
	threeOrders(ctx, db)

	member := func() *riffle.Consumer {
		c, err := db.NewConsumer(&riffle.ConsumerOptions{
			Group: "billing", Topics: []string{"orders"}, ManualCommit: true, MaxPollRecords: 2,
		})
		if err != nil {
			log.Fatal(err)
		}
		return c
	}
	bill := func(c *riffle.Consumer) {
		recs, err := c.Poll(ctx)
		if err != nil {
			log.Fatal(err)
		}
		for _, rec := range recs {
			fmt.Println("billed", string(rec.Value))
		}
	}
	first := member()
	bill(first) // and ends without a commit: nothing else commits
	if err := first.Close(); err != nil {
		log.Fatal(err)
	}
	second := member()
	defer second.Close()
	for range 2 {
		bill(second)
		if err := second.Commit(ctx); err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// billed 2 tulips
	// billed 1 rose
	// billed 2 tulips
	// billed 1 rose
	// billed 3 lilies
}

// At most once: commit first, then handle. Who breaks off in between never handles the record.
func ExampleConsumer_Commit_atMostOnce() {
	db, remove := temporary()
	defer remove()
	ctx := context.Background()
	threeOrders(ctx, db)

	remind := func(crash bool) {
		c, err := db.NewConsumer(&riffle.ConsumerOptions{
			Group: "reminders", Topics: []string{"orders"}, ManualCommit: true, MaxPollRecords: 2,
		})
		if err != nil {
			log.Fatal(err)
		}
		defer c.Close()
		recs, err := c.Poll(ctx)
		if err != nil {
			log.Fatal(err)
		}
		if err := c.Commit(ctx); err != nil {
			log.Fatal(err) // nobody was reminded; ErrRebalance: poll again
		}
		for _, rec := range recs {
			if crash {
				return
			}
			fmt.Println("reminded of", string(rec.Value))
		}
	}
	remind(true) // of two orders nobody is ever reminded
	remind(false)
	// Output:
	// reminded of 3 lilies
}

// A worker pool: records are handled by several goroutines and done in any order. What is
// committed are those before which all are done.
func ExampleConsumer_Done() {
	db, remove := temporary()
	defer remove()
	ctx := context.Background()
	threeOrders(ctx, db)

	pack := func(c *riffle.Consumer, out string) {
		recs, err := c.Poll(ctx)
		if err != nil {
			log.Fatal(err)
		}
		work := make(chan riffle.Record)
		var workers sync.WaitGroup
		for range 3 {
			workers.Go(func() {
				for rec := range work {
					if string(rec.Value) == out {
						continue // it is not done
					}
					fmt.Println("packed", string(rec.Value))
					c.Done(rec)
				}
			})
		}
		for _, rec := range recs {
			work <- rec
		}
		close(work)
		workers.Wait()
		if err := c.Close(); err != nil { // commits
			log.Fatal(err)
		}
	}
	member := func() *riffle.Consumer {
		c, err := db.NewConsumer(&riffle.ConsumerOptions{Group: "packing", Topics: []string{"orders"}, MarkDone: true})
		if err != nil {
			log.Fatal(err)
		}
		return c
	}
	pack(member(), "1 rose")
	pack(member(), "") // the rose, and what came behind it
	// Unordered output:
	// packed 2 tulips
	// packed 3 lilies
	// packed 1 rose
	// packed 3 lilies
}

// The members of a group share the partitions of a topic. When one comes, it gets its share
// of the others', and when it goes they get it back. What stays where it is is read on
// meanwhile.
func ExampleConsumer_Assignment() {
	db, remove := temporary()
	defer remove()
	ctx := context.Background()
	if _, err := db.CreateTopic(ctx, "orders", &riffle.TopicConfig{Partitions: 6}); err != nil {
		log.Fatal(err)
	}

	moved := make(chan struct{}, 100)
	var members []*riffle.Consumer
	var running sync.WaitGroup
	join := func() {
		c, err := db.NewConsumer(&riffle.ConsumerOptions{
			Group:  "billing",
			Topics: []string{"orders"},
			Assigned: func(context.Context, *riffle.Consumer, []riffle.TopicPartition) error {
				moved <- struct{}{}
				return nil
			},
		})
		if err != nil {
			log.Fatal(err)
		}
		members = append(members, c)
		running.Go(func() {
			for rec, err := range c.Records(ctx) {
				if errors.Is(err, riffle.ErrClosed) {
					return
				}
				if err != nil {
					log.Fatal(err)
				}
				fmt.Println("billed", rec.Value)
			}
		})
	}
	leave := func() {
		if err := members[0].Close(); err != nil {
			log.Fatal(err)
		}
		members = members[1:]
	}
	shares := func() {
		for {
			<-moved
			shares := make([]int, len(members))
			for i, c := range members {
				shares[i] = len(c.Assignment())
			}
			if slices.Min(shares) == 6/len(members) {
				fmt.Println(shares)
				return
			}
		}
	}
	for range 3 {
		join()
		shares()
	}
	leave()
	shares()
	leave()
	leave()
	running.Wait()
	// Output:
	// [6]
	// [3 3]
	// [2 2 2]
	// [3 3]
}

// Replay from a time, without a group: nothing is committed, and nobody else is disturbed.
func ExampleConsumer_SeekTime() {
	db, remove := temporary()
	defer remove()
	ctx := context.Background()
	threeOrders(ctx, db)

	c, err := db.NewConsumer(&riffle.ConsumerOptions{
		Topics: []string{"orders"},
		Assigned: func(_ context.Context, c *riffle.Consumer, parts []riffle.TopicPartition) error {
			for _, tp := range parts {
				if err := c.SeekTime(tp, noon.Add(time.Minute)); err != nil {
					return err
				}
			}
			return nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	recs, err := c.Poll(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, rec := range recs {
		fmt.Println(rec.Timestamp.Format(time.TimeOnly), string(rec.Value))
	}
	// Output:
	// 13:00:00 1 rose
	// 14:00:00 3 lilies
}

// Partitions chosen by hand, without a group: where to go on is the program's to know.
func ExampleConsumer_Assign() {
	db, remove := temporary()
	defer remove()
	ctx := context.Background()
	threeOrders(ctx, db)

	c, err := db.NewConsumer(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	tp := riffle.TopicPartition{Topic: "orders", Partition: 0}
	if err := c.Assign(tp); err != nil {
		log.Fatal(err)
	}
	if err := c.Seek(tp, 1); err != nil {
		log.Fatal(err)
	}
	recs, err := c.Poll(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, rec := range recs {
		fmt.Printf("%d: %s\n", rec.Offset, rec.Value)
	}
	next, err := c.Position(tp)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("goes on at", next)
	// Output:
	// 1: 1 rose
	// 2: 3 lilies
	// goes on at 3
}
