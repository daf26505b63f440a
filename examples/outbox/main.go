// Outbox is an order service whose only store is a log of events. What the service
// decides it appends, if the order is still the one that it decided on; and what it has
// appended is at the same time the message to everybody else. So there is no second write
// that could be missing, and no outbox table to be emptied. Two groups of consumers make
// views of the events: revenue by product, and orders by state. One of them is thrown
// away and built again from the start:
//
//	go run ./examples/outbox
//
// The file orders.go decides and appends, views.go reads.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rifflelog/riffle"
)

const usage = `Usage: go run ./examples/outbox [directory]

Places, pays, ships and cancels 400 orders at a log in the directory, or in a temporary
one, and makes two views of all that are there.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "outbox:", err)
		os.Exit(1)
	}
}

// run is the program without its process.
func run(ctx context.Context, args []string, stdout io.Writer) (err error) {
	if len(args) > 1 || len(args) == 1 && strings.HasPrefix(args[0], "-") {
		fmt.Fprint(stdout, usage)
		return nil
	}
	dir := strings.Join(args, "")
	if dir == "" {
		if dir, err = os.MkdirTemp("", "riffle-outbox-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	db, err := riffle.Open(dir, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	topic, err := db.EnsureTopic(ctx, "orders", ordersConfig)
	if err != nil {
		return err
	}
	return story(ctx, db, topic, stdout)
}

// story runs the service and its views, and then one view again.
func story(ctx context.Context, db *riffle.Log, topic *riffle.Topic, stdout io.Writer) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	reading, stop := context.WithCancel(ctx)
	defer stop()
	revenue, states := newView("revenue", revenueByProduct), newView("states", ordersByState)
	var views sync.WaitGroup
	for _, v := range []*view{revenue, states} {
		views.Go(func() {
			if err := v.follow(reading, db, topic); err != nil {
				fail(err) // nobody waits for it in vain
			}
		})
	}

	start := time.Now()
	done, err := serve(ctx, topic, 400)
	took := time.Since(start)
	if err == nil {
		ends := endsOf(topic) // nothing comes behind them
		err = errors.Join(revenue.await(ctx, ends), states.await(ctx, ends))
	}
	if err != nil {
		fail(err)
	}
	stop()
	views.Wait()
	if err := context.Cause(ctx); err != nil { // the first that failed
		return err
	}
	fmt.Fprintf(stdout, "orders:   %v, in %v\n", done, took.Round(time.Millisecond))
	fmt.Fprintf(stdout, "revenue:  %s\n", revenue)
	fmt.Fprintf(stdout, "states:   %s\n", states)

	again := newView("revenue", revenueByProduct)
	start = time.Now()
	if err := again.build(ctx, db, topic); err != nil {
		return err
	}
	if !maps.Equal(again.totals, revenue.totals) {
		return fmt.Errorf("revenue differs: %s, built again %s", revenue, again)
	}
	fmt.Fprintf(stdout, "rebuilt:  revenue, from %d events in %v, and is the same\n", again.events, time.Since(start).Round(time.Millisecond))
	return nil
}

// prices of what can be ordered, in cents.
var prices = map[string]int{"tulip": 120, "rose": 250, "lily": 310, "daisy": 80}

// served is what happened while orders were served.
type served struct{ orders, late, conflicts, impatient int }

// String implements fmt.Stringer.
func (s served) String() string {
	return fmt.Sprintf("%d served, %d cancelled too late; %d times another was first, %d requests asked again",
		s.orders, s.late, s.conflicts, s.impatient)
}

// serve has eight customers at two services, which know of each other by the log alone, as
// two that answer requests would. Every third customer cancels while the order is shipped.
func serve(ctx context.Context, topic *riffle.Topic, n int) (served, error) {
	services := []*service{newService(topic), newService(topic)}
	products := slices.Sorted(maps.Keys(prices))
	day := rand.Text()[:8] // so that orders of another run have other names
	queue := make(chan int)
	var mu sync.Mutex
	all := served{orders: n}
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var customers sync.WaitGroup
	for range 8 {
		customers.Go(func() {
			for i := range queue {
				id, product := fmt.Sprintf("%s-%d", day, i), products[i%len(products)]
				late, impatient, err := buy(ctx, services, id, product, i)
				if err != nil {
					fail(err)
				}
				mu.Lock()
				all.late += late
				all.impatient += impatient
				mu.Unlock()
			}
		})
	}
	for i := range n {
		queue <- i
	}
	close(queue)
	customers.Wait()
	for _, s := range services {
		all.conflicts += int(s.conflicts.Load())
	}
	return all, context.Cause(ctx)
}
