package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rifflelog/riffle"
)

// ordersConfig: events are kept for good, and are on stable storage before they count.
var ordersConfig = &riffle.TopicConfig{Partitions: 4, Retention: riffle.Forever, Flush: riffle.FlushBeforeAck}

// event is something that has happened to an order: a record of the topic "orders", whose
// key is the order's id.
type event struct {
	Request string `json:"request"` // that asked for it
	State   string `json:"state"`   // placed, paid, shipped, cancelled
	Product string `json:"product"`
	Cents   int    `json:"cents"` // what it moves: paid to us, or, less than 0, back
}

// order is what its events make of an order.
type order struct {
	state    string
	product  string
	paid     int
	requests []string // that have been granted
}

// apply adds an event.
func (o order) apply(e event) order {
	o.state, o.product = e.State, e.Product
	o.paid += e.Cents
	o.requests = append(slices.Clip(o.requests), e.Request)
	return o
}

// request is what a customer or the warehouse wants.
type request struct {
	id      string // the same when it is asked again
	state   string // that the order shall have
	product string // of a new one
}

// errRefused: what is asked for cannot be, as the order is.
var errRefused = errors.New("refused")

// decide returns what happens to an order by a request. It is where the rules are.
func (o order) decide(r request) (event, error) {
	e := event{Request: r.id, State: r.state, Product: o.product}
	switch {
	case r.state == "placed" && o.state == "":
		e.Product = r.product
	case r.state == "paid" && o.state == "placed":
		e.Cents = prices[o.product]
	case r.state == "shipped" && o.state == "paid":
	case r.state == "cancelled" && (o.state == "placed" || o.state == "paid"):
		e.Cents = -o.paid
	default:
		return event{}, fmt.Errorf("%w: an order that is %q cannot be %s", errRefused, o.state, r.state)
	}
	return e, nil
}

// service grants requests or refuses them. It knows what it has read of each partition.
type service struct {
	topic     *riffle.Topic
	appendIf  func(*riffle.Partition, context.Context, riffle.Condition, ...riffle.Record) (riffle.Offset, error)
	parts     []known
	conflicts atomic.Int64
}

// known is what a service knows of the orders in one partition.
type known struct {
	mu     sync.Mutex
	orders map[string]order
	next   riffle.Offset // events before it are in orders
}

func newService(topic *riffle.Topic) *service {
	s := &service{topic: topic, appendIf: (*riffle.Partition).AppendIf, parts: make([]known, topic.NumPartitions())}
	for i := range s.parts {
		s.parts[i].orders, s.parts[i].next = make(map[string]order), riffle.Earliest
	}
	return s
}

// handle grants a request: nil says that what it asks for is on stable storage. With
// errRefused nothing has happened. With riffle.ErrInDoubt, or another error, it is not
// known here: who asks again with the same id learns it, and what has happened does not
// happen twice.
func (s *service) handle(ctx context.Context, id string, r request) error {
	part := s.topic.PartitionFor([]byte(id))
	k := &s.parts[part.Index()]
	for {
		o, seen, err := k.read(ctx, part, id)
		if err != nil {
			return err
		}
		if slices.Contains(o.requests, r.id) {
			return nil // it was granted when it was asked before
		}
		e, err := o.decide(r)
		if err != nil {
			return err
		}
		value, err := json.Marshal(e)
		if err != nil {
			return err
		}
		rec := riffle.Record{Key: []byte(id), Value: value}
		_, err = s.appendIf(part, ctx, riffle.KeyUnchanged(rec.Key, seen), rec)
		if !errors.Is(err, riffle.ErrConflict) {
			return err
		}
		s.conflicts.Add(1) // another was first: read again, decide again
	}
}

// read returns an order as it is now, and the offset up to which its events are in it.
func (k *known) read(ctx context.Context, part *riffle.Partition, id string) (order, riffle.Offset, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for v, err := range part.Views(ctx, k.next, nil) {
		var e event
		if err == nil {
			err = json.Unmarshal(v.Value(), &e)
		}
		if err != nil {
			return order{}, 0, fmt.Errorf("read orders: %w", err)
		}
		k.orders[string(v.Key())] = k.orders[string(v.Key())].apply(e)
		k.next = v.Offset() + 1
	}
	return k.orders[id], k.next, nil
}

// buy is one customer's visit: an order is placed, paid and shipped, and every third one
// cancelled while it is shipped. It returns how often that was too late, and how often a
// request was asked again.
func buy(ctx context.Context, services []*service, id, product string, i int) (late, again int, err error) {
	for _, state := range []string{"placed", "paid"} {
		n, err := ask(ctx, services[i%2], id, request{id + state, state, product}, i%5 == 0)
		again += n
		if err != nil {
			return 0, again, err
		}
	}
	wishes := []string{"shipped", "cancelled"}
	if i%3 != 0 {
		wishes = wishes[:1]
	}
	errs := make([]error, len(wishes))
	asked := make([]int, len(wishes))
	var both sync.WaitGroup
	for j, state := range wishes {
		both.Go(func() { asked[j], errs[j] = ask(ctx, services[j], id, request{id + state, state, product}, false) })
	}
	both.Wait()
	for j, state := range wishes {
		again += asked[j]
		switch {
		case errors.Is(errs[j], errRefused) && len(wishes) == 2: // one of them had to be
			if state == "cancelled" {
				late++
			}
		case errs[j] != nil:
			return late, again, errs[j]
		}
	}
	return late, again, nil
}

// ask has a service handle a request. An impatient customer gives up after a moment, when
// the request may have been granted or not, and asks again.
func ask(ctx context.Context, s *service, id string, r request, impatient bool) (again int, err error) {
	if impatient {
		moment, cancel := context.WithTimeout(ctx, 300*time.Microsecond)
		defer cancel()
		err := s.handle(moment, id, r)
		if !errors.Is(err, context.DeadlineExceeded) {
			return 0, err
		}
		again++
	}
	return again, s.handle(ctx, id, r)
}
