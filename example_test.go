package riffle_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/rifflelog/riffle"
)

// The README's program: open a directory, append, read back.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "riffle")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	db, err := riffle.Open(dir, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	orders, err := db.EnsureTopic(ctx, "orders", nil)
	if err != nil {
		log.Fatal(err)
	}
	part, err := orders.Partition(0)
	if err != nil {
		log.Fatal(err)
	}
	at, err := part.Append(ctx, riffle.Record{Key: []byte("ann"), Value: []byte("2 tulips")})
	if err != nil {
		log.Fatal(err) // nothing was written, unless it is riffle.ErrInDoubt
	}
	fmt.Println("on stable storage at offset", at)

	for rec, err := range part.Records(ctx, riffle.Earliest, nil) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%d: %s ordered %s\n", rec.Offset, rec.Key, rec.Value)
	}
	// Output:
	// on stable storage at offset 0
	// 0: ann ordered 2 tulips
}

// temporary returns a new log in a directory that remove removes.
func temporary() (db *riffle.Log, remove func()) {
	dir, err := os.MkdirTemp("", "riffle")
	if err != nil {
		log.Fatal(err)
	}
	if db, err = riffle.Open(dir, nil); err != nil {
		log.Fatal(err)
	}
	return db, func() {
		if err := errors.Join(db.Close(), os.RemoveAll(dir)); err != nil {
			log.Fatal(err)
		}
	}
}

// A log outlives the process that wrote it.
func ExampleLog() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "riffle")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for range 2 {
		db, err := riffle.Open(dir, nil)
		if err != nil {
			log.Fatal(err)
		}
		visits, err := db.EnsureTopic(ctx, "visits", nil)
		if err != nil {
			log.Fatal(err)
		}
		part, err := visits.Partition(0)
		if err != nil {
			log.Fatal(err)
		}
		at, err := part.Append(ctx, riffle.Record{Value: []byte("hello")})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("visit", at)
		if err := db.Close(); err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// visit 0
	// visit 1
}

// Each partition has its own order and its own offsets. What a topic does not
// set follows the log's defaults.
func ExampleTopic() {
	db, remove := temporary()
	defer remove()
	ctx := context.Background()
	clicks, err := db.CreateTopic(ctx, "clicks", &riffle.TopicConfig{
		Partitions:  3,
		Flush:       riffle.FlushAsync, // fast: a power cut may lose the last second
		Compression: riffle.CompressionZstd,
	})
	if err != nil {
		log.Fatal(err)
	}
	for part := range clicks.Partitions() {
		at, err := part.Append(ctx, riffle.Record{Value: []byte("first")}, riffle.Record{Value: []byte("second")})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("partition %d: first at %d, end at %d\n", part.Index(), at, part.Bounds().End)
	}
	// Output:
	// partition 0: first at 0, end at 2
	// partition 1: first at 0, end at 2
	// partition 2: first at 0, end at 2
}

// Follow waits for records that are yet to come; Views lends them, without a
// copy, while the loop body runs.
func ExamplePartition() {
	db, remove := temporary()
	defer remove()
	ctx := context.Background()
	topic, err := db.CreateTopic(ctx, "ticks", nil)
	if err != nil {
		log.Fatal(err)
	}
	part, err := topic.Partition(0)
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		for i := range 3 {
			if _, err := part.Append(ctx, riffle.Record{Value: fmt.Appendf(nil, "tick %d", i)}); err != nil {
				log.Print(err)
			}
		}
	}()
	for rec, err := range part.Follow(ctx, riffle.Earliest, &riffle.ReadOptions{Until: 3}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(string(rec.Value))
	}
	longest := 0
	for v, err := range part.Views(ctx, 1, nil) {
		if err != nil {
			log.Fatal(err)
		}
		longest = max(longest, len(v.Value()))
	}
	fmt.Println("longest after the first:", longest)
	// Output:
	// tick 0
	// tick 1
	// tick 2
	// longest after the first: 6
}
