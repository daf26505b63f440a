package riffle_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"strconv"
	"time"

	"github.com/rifflelog/riffle"
)

// Tail: begin at the readable end, and see each record as soon as it is committed.
func ExamplePartition_Follow() {
	db, remove := temporary()
	defer remove()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	lines, err := db.CreateTopic(ctx, "lines", nil)
	if err != nil {
		log.Fatal(err)
	}
	part, err := lines.Partition(0)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := part.Append(ctx, riffle.Record{Value: []byte("before")}); err != nil {
		log.Fatal(err)
	}
	end := part.Bounds().HighWatermark // riffle.Latest would be the end as the loop begins
	go func() {
		for _, line := range []string{"one", "two", "three"} {
			if _, err := part.Append(ctx, riffle.Record{Value: []byte(line)}); err != nil {
				log.Fatal(err)
			}
		}
	}()
	for rec, err := range part.Follow(ctx, end, nil) {
		if errors.Is(err, context.Canceled) {
			break // the way to end it
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%d: %s\n", rec.Offset, rec.Value)
		if string(rec.Value) == "three" {
			cancel()
		}
	}
	// Output:
	// 1: one
	// 2: two
	// 3: three
}

// Replay from a time: the first record that is not older says where to begin.
func ExamplePartition_OffsetAt() {
	db, remove := temporary()
	defer remove()
	ctx := context.Background()
	orders, err := db.CreateTopic(ctx, "orders", &riffle.TopicConfig{Retention: riffle.Forever})
	if err != nil {
		log.Fatal(err)
	}
	part, err := orders.Partition(0)
	if err != nil {
		log.Fatal(err)
	}
	noon := time.Date(2026, time.May, 1, 12, 0, 0, 0, time.UTC)
	for i, what := range []string{"2 tulips", "1 rose", "7 lilies"} {
		at := noon.Add(time.Duration(i-1) * time.Hour)
		if _, err := part.Append(ctx, riffle.Record{Timestamp: at, Value: []byte(what)}); err != nil {
			log.Fatal(err)
		}
	}
	from, err := part.OffsetAt(ctx, noon)
	if err != nil {
		log.Fatal(err)
	}
	for rec, err := range part.Records(ctx, from, nil) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(rec.Timestamp.Format(time.TimeOnly), string(rec.Value))
	}
	// Output:
	// 12:00:00 1 rose
	// 13:00:00 7 lilies
}

// account is an aggregate: what its events make of it.
type account struct {
	balance int
	seen    riffle.Offset // events before it are in balance
}

// read applies the events that have come since.
func (a *account) read(ctx context.Context, part *riffle.Partition, key string) error {
	for v, err := range part.Views(ctx, a.seen, nil) {
		if err != nil {
			return err
		}
		if string(v.Key()) == key {
			amount, err := strconv.Atoi(string(v.Value()))
			if err != nil {
				return err
			}
			a.balance += amount
		}
		a.seen = v.Offset() + 1
	}
	return nil
}

// Event sourcing: an event is appended only if its aggregate is still the one that
// was decided on. Other keys of the partition do not count.
func ExamplePartition_AppendIf() {
	db, remove := temporary()
	defer remove()
	ctx := context.Background()
	accounts, err := db.CreateTopic(ctx, "accounts", &riffle.TopicConfig{Partitions: 4, Retention: riffle.Forever})
	if err != nil {
		log.Fatal(err)
	}
	part := accounts.PartitionFor([]byte("ann"))
	event := func(key string, amount int) riffle.Record {
		return riffle.Record{Key: []byte(key), Value: []byte(strconv.Itoa(amount))}
	}
	if _, err := part.Append(ctx, event("ann", 100)); err != nil {
		log.Fatal(err)
	}

	withdraw := func(a *account, amount int) {
		for {
			if a.balance < amount {
				fmt.Println("no", amount, "for", a.balance)
				return
			}
			_, err := part.AppendIf(ctx, riffle.KeyUnchanged([]byte("ann"), a.seen), event("ann", -amount))
			if err == nil {
				fmt.Println("withdrawn", amount)
				return
			}
			if !errors.Is(err, riffle.ErrConflict) {
				log.Fatal(err)
			}
			if err := a.read(ctx, part, "ann"); err != nil { // decide again
				log.Fatal(err)
			}
		}
	}
	var here, there account // two who know the same
	for _, a := range []*account{&here, &there} {
		if err := a.read(ctx, part, "ann"); err != nil {
			log.Fatal(err)
		}
	}
	if _, err := part.Append(ctx, event("bob", 5)); err != nil {
		log.Fatal(err)
	}
	withdraw(&here, 70)
	withdraw(&there, 70)
	withdraw(&there, 30)
	// Output:
	// withdrawn 70
	// no 70 for 30
	// withdrawn 30
}
