package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/rifflelog/riffle"
)

// view is what a group of consumers makes of the events. It is in memory, so it is built
// from the start whenever the program starts.
type view struct {
	group string
	apply func(totals map[string]int, before, now event)

	mu     sync.Mutex
	totals map[string]int
	latest map[string]event      // of each order
	next   map[int]riffle.Offset // of each partition: events before it are in
	events int                   // that are in
	ends   map[int]riffle.Offset // that somebody waits for
	there  chan struct{}         // closed when they are reached
}

func newView(group string, apply func(map[string]int, event, event)) *view {
	return &view{
		group: group, apply: apply, totals: make(map[string]int), latest: make(map[string]event),
		next: make(map[int]riffle.Offset), there: make(chan struct{}),
	}
}

// revenueByProduct adds up what was paid, in cents.
func revenueByProduct(totals map[string]int, _, now event) { totals[now.Product] += now.Cents }

// ordersByState counts the orders in each state.
func ordersByState(totals map[string]int, before, now event) {
	if before.State != "" {
		totals[before.State]--
	}
	totals[now.State]++
}

// String implements fmt.Stringer.
func (v *view) String() string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(v.totals)) {
		if n := v.totals[name]; n != 0 {
			parts = append(parts, fmt.Sprintf("%s %d", name, n))
		}
	}
	return strings.Join(parts, ", ")
}

// follow builds the view from the first event on, by two consumers that share the
// partitions, until ctx ends.
func (v *view) follow(ctx context.Context, db *riffle.Log, topic *riffle.Topic) error {
	start := make(map[riffle.TopicPartition]riffle.Offset)
	for i := range topic.NumPartitions() {
		start[riffle.TopicPartition{Topic: topic.Name(), Partition: i}] = riffle.Earliest
	}
	if err := db.Group(v.group).Reset(ctx, start); err != nil {
		return err
	}
	errs := make([]error, 2)
	var members sync.WaitGroup
	for i := range errs {
		members.Go(func() { errs[i] = v.member(ctx, db, topic) })
	}
	members.Wait()
	return errors.Join(errs...)
}

// member is one of the consumers.
func (v *view) member(ctx context.Context, db *riffle.Log, topic *riffle.Topic) (err error) {
	c, err := db.NewConsumer(&riffle.ConsumerOptions{Group: v.group, Topics: []string{topic.Name()}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	for rec, err := range c.Records(ctx) {
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			err = v.add(&rec)
		}
		if err != nil {
			return fmt.Errorf("view %s: %w", v.group, err)
		}
	}
	return nil
}

// add applies an event, once: a group hands each one out at least once, and again if a
// member ends without having committed it.
func (v *view) add(rec *riffle.Record) error {
	var now event
	if err := json.Unmarshal(rec.Value, &now); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if rec.Offset < v.next[rec.Partition] {
		return nil
	}
	v.next[rec.Partition] = rec.Offset + 1
	v.apply(v.totals, v.latest[string(rec.Key)], now)
	v.latest[string(rec.Key)] = now
	v.events++
	v.look()
	return nil
}

// look tells who waits that the ends are reached. Called under mu.
func (v *view) look() {
	if v.ends == nil {
		return
	}
	for i, end := range v.ends {
		if v.next[i] < end {
			return
		}
	}
	v.ends = nil
	close(v.there)
}

// await waits until all events before the ends are in. It is called once.
func (v *view) await(ctx context.Context, ends map[int]riffle.Offset) error {
	v.mu.Lock()
	v.ends = ends
	v.look()
	v.mu.Unlock()
	select {
	case <-v.there:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// build builds the view as of now.
func (v *view) build(ctx context.Context, db *riffle.Log, topic *riffle.Topic) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() {
		defer stop()
		ended <- v.follow(ctx, db, topic)
	}()
	err := v.await(ctx, endsOf(topic))
	stop()
	return cmp.Or(<-ended, err)
}

// endsOf returns where each partition ends.
func endsOf(topic *riffle.Topic) map[int]riffle.Offset {
	ends := make(map[int]riffle.Offset)
	for p := range topic.Partitions() {
		ends[p.Index()] = p.Bounds().HighWatermark
	}
	return ends
}
