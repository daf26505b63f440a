package riffle_test

import (
	"context"
	"fmt"
	"log"

	"github.com/rifflelog/riffle"
)

// A producer chooses partitions: records with the same key are in one, in order. Send
// returns when the record is committed.
func ExampleProducer() {
	db, remove := temporary()
	defer remove()
	ctx := context.Background()
	if _, err := db.CreateTopic(ctx, "orders", &riffle.TopicConfig{Partitions: 4}); err != nil {
		log.Fatal(err)
	}
	producer, err := db.NewProducer(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer producer.Close()
	for _, order := range []string{"2 tulips", "1 rose"} {
		at, err := producer.Send(ctx, riffle.Record{Topic: "orders", Key: []byte("ann"), Value: []byte(order)})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s: partition %d, offset %d\n", order, at.Partition, at.Offset)
	}
	// Output:
	// 2 tulips: partition 2, offset 0
	// 1 rose: partition 2, offset 1
}

// Enqueue does not wait for the disk: records are appended in batches, and each hears of
// its end. Flush waits for them.
func ExampleProducer_Enqueue() {
	db, remove := temporary()
	defer remove()
	ctx := context.Background()
	if _, err := db.CreateTopic(ctx, "clicks", nil); err != nil {
		log.Fatal(err)
	}
	producer, err := db.NewProducer(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer producer.Close()
	var last riffle.Offset
	for i := range 10_000 {
		click := riffle.Record{Topic: "clicks", Value: fmt.Appendf(nil, "click %d", i)}
		err := producer.Enqueue(ctx, click, func(at riffle.RecordMetadata, err error) {
			if err != nil {
				log.Print(err)
			}
			last = at.Offset // in order, on one goroutine
		})
		if err != nil {
			log.Fatal(err)
		}
	}
	if err := producer.Flush(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println("on stable storage up to", last)
	// Output:
	// on stable storage up to 9999
}
