package riffle_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/rifflelog/riffle"
)

// Another process follows a directory while one writes it. Here both are one
// process, with a log each.
func ExampleOptions_readOnly() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "riffle")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	writer, err := riffle.Open(dir, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer writer.Close()
	reader, err := riffle.Open(dir, &riffle.Options{ReadOnly: true})
	if err != nil {
		log.Fatal(err)
	}
	defer reader.Close()
	orders, err := writer.CreateTopic(ctx, "orders", nil)
	if err != nil {
		log.Fatal(err)
	}
	seen := make(chan string)
	go func() {
		defer close(seen)
		same, err := reader.Topic("orders")
		if err != nil {
			log.Fatal(err)
		}
		for rec, err := range same.PartitionFor(nil).Follow(ctx, riffle.Earliest, &riffle.ReadOptions{Until: 2}) {
			if err != nil {
				log.Fatal(err)
			}
			seen <- string(rec.Value)
		}
	}()
	for _, order := range []string{"2 tulips", "1 rose"} {
		if _, err := orders.PartitionFor(nil).Append(ctx, riffle.Record{Value: []byte(order)}); err != nil {
			log.Fatal(err)
		}
		fmt.Println(<-seen)
	}
	_, err = reader.CreateTopic(ctx, "refunds", nil)
	fmt.Println(err)
	// Output:
	// 2 tulips
	// 1 rose
	// create topic: riffle: read-only: the log was opened with Options.ReadOnly
}
