package riffle_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"

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

// Metrics are plain numbers. This prints them as Prometheus reads them; its
// client library takes the same ones.
func ExampleLog_Metrics() {
	db, remove := temporary()
	defer remove()
	ctx := context.Background()
	orders, err := db.CreateTopic(ctx, "orders", nil)
	if err != nil {
		log.Fatal(err)
	}
	part, err := orders.Partition(0)
	if err != nil {
		log.Fatal(err)
	}
	for _, value := range []string{"2 tulips", strings.Repeat("tulip ", 100)} {
		if _, err := part.Append(ctx, riffle.Record{Value: []byte(value)}); err != nil {
			log.Fatal(err)
		}
	}
	for _, t := range db.Metrics().Topics {
		fmt.Printf("records_total{topic=%q} %d\n", t.Topic, t.Records)
		h := t.BatchBytes
		for i, bound := range h.Bounds {
			fmt.Printf("batch_bytes_bucket{topic=%q,le=\"%g\"} %d\n", t.Topic, bound, h.Counts[i])
		}
		fmt.Printf("batch_bytes_bucket{topic=%q,le=\"+Inf\"} %d\n", t.Topic, h.Count)
		fmt.Printf("batch_bytes_sum{topic=%q} %g\n", t.Topic, h.Sum)
		fmt.Printf("batch_bytes_count{topic=%q} %d\n", t.Topic, h.Count)
	}
	// Output:
	// records_total{topic="orders"} 2
	// batch_bytes_bucket{topic="orders",le="256"} 1
	// batch_bytes_bucket{topic="orders",le="1024"} 2
	// batch_bytes_bucket{topic="orders",le="4096"} 2
	// batch_bytes_bucket{topic="orders",le="16384"} 2
	// batch_bytes_bucket{topic="orders",le="65536"} 2
	// batch_bytes_bucket{topic="orders",le="262144"} 2
	// batch_bytes_bucket{topic="orders",le="1.048576e+06"} 2
	// batch_bytes_bucket{topic="orders",le="4.194304e+06"} 2
	// batch_bytes_bucket{topic="orders",le="1.6777216e+07"} 2
	// batch_bytes_bucket{topic="orders",le="6.7108864e+07"} 2
	// batch_bytes_bucket{topic="orders",le="+Inf"} 2
	// batch_bytes_sum{topic="orders"} 746
	// batch_bytes_count{topic="orders"} 2
}
