package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle"
)

// The program runs twice on one directory. Afterwards each order has a history that the
// rules allow, no request was granted twice, though many were asked twice and some decided
// on what was no longer so, and the views are what reading the events without them gives.
func TestHistoriesAreLegal(t *testing.T) {
	dir := t.TempDir()
	var out bytes.Buffer
	for range 2 {
		out.Reset()
		require.NoError(t, run(t.Context(), []string{dir}, &out))
	}
	histories := make(map[string][]string)
	requests := make(map[string]bool)
	revenue, states := make(map[string]int), make(map[string]int)
	withLog(t, dir, func(_ *riffle.Log, topic *riffle.Topic) {
		for id, e := range events(t, topic) {
			require.False(t, requests[e.Request], "%s is granted twice", e.Request)
			requests[e.Request] = true
			histories[id] = append(histories[id], e.State)
			revenue[e.Product] += e.Cents
		}
	})
	require.Len(t, histories, 800)
	for id, h := range histories {
		require.Equal(t, []string{"placed", "paid"}, h[:2], id)
		require.Contains(t, []string{"shipped", "cancelled"}, h[2], id)
		require.Len(t, h, 3, id)
		states[h[2]]++
	}
	require.Contains(t, out.String(), fmt.Sprintf("revenue:  %s\n", &view{totals: revenue}))
	require.Contains(t, out.String(), fmt.Sprintf("states:   %s\n", &view{totals: states}))
	require.Contains(t, out.String(), "rebuilt:  revenue, from 2400 events in ")
}

// Of two who decide at once, the second one's append is refused: the order is shipped by
// one service between the decision of the other to cancel it and its append. It reads
// again, and decides otherwise.
func TestSecondToDecideDecidesAgain(t *testing.T) {
	withLog(t, t.TempDir(), func(_ *riffle.Log, topic *riffle.Topic) {
		warehouse, shop := newService(topic), newService(topic)
		for _, state := range []string{"placed", "paid"} {
			require.NoError(t, shop.handle(t.Context(), "1", request{state, state, "rose"}))
		}
		shop.appendIf = func(part *riffle.Partition, ctx context.Context, cond riffle.Condition, recs ...riffle.Record) (riffle.Offset, error) {
			require.NoError(t, warehouse.handle(ctx, "1", request{"ship", "shipped", ""}))
			return part.AppendIf(ctx, cond, recs...)
		}
		err := shop.handle(t.Context(), "1", request{"cancel", "cancelled", ""})
		require.ErrorIs(t, err, errRefused)
		require.EqualValues(t, 1, shop.conflicts.Load())
		require.Len(t, maps.Collect(events(t, topic)), 1)
	})
}

// A request whose outcome was in doubt is asked again: whether it had been written by then
// or not, it is granted, and has happened once.
func TestRequestInDoubtHappensOnce(t *testing.T) {
	for _, written := range []bool{true, false} {
		withLog(t, t.TempDir(), func(_ *riffle.Log, topic *riffle.Topic) {
			s := newService(topic)
			s.appendIf = func(part *riffle.Partition, ctx context.Context, cond riffle.Condition, recs ...riffle.Record) (riffle.Offset, error) {
				if written {
					_, err := part.AppendIf(ctx, cond, recs...)
					require.NoError(t, err)
				}
				return riffle.NoOffset, riffle.ErrInDoubt
			}
			r := request{"a", "placed", "rose"}
			require.ErrorIs(t, s.handle(t.Context(), "1", r), riffle.ErrInDoubt)
			s.appendIf = (*riffle.Partition).AppendIf
			require.NoError(t, s.handle(t.Context(), "1", r))
			n := 0
			for _, e := range events(t, topic) {
				require.Equal(t, "placed", e.State)
				n++
			}
			require.Equal(t, 1, n)
		})
	}
}

// What a group hands out again counts once.
func TestViewCountsEachEventOnce(t *testing.T) {
	v := newView("revenue", revenueByProduct)
	value, err := json.Marshal(event{State: "paid", Product: "rose", Cents: 250})
	require.NoError(t, err)
	for _, offset := range []riffle.Offset{0, 1, 0, 1, 2} {
		require.NoError(t, v.add(&riffle.Record{Offset: offset, Key: []byte("1"), Value: value}))
	}
	require.Equal(t, 750, v.totals["rose"])
	require.Equal(t, 3, v.events)
}

// An event that cannot be read ends the program with an error, while it serves and while a
// view is built.
func TestDamagedEventIsAnError(t *testing.T) {
	withLog(t, t.TempDir(), func(db *riffle.Log, topic *riffle.Topic) {
		_, err := topic.PartitionFor([]byte("x")).Append(t.Context(), riffle.Record{Key: []byte("x"), Value: []byte("?")})
		require.NoError(t, err)
		require.ErrorContains(t, story(t.Context(), db, topic, io.Discard), "invalid character")
		require.ErrorContains(t, newView("revenue", revenueByProduct).build(t.Context(), db, topic), "view revenue")
	})
}

// The rules, by the state of an order: what may happen next.
func TestRules(t *testing.T) {
	may := map[string][]string{
		"":        {"placed"},
		"placed":  {"cancelled", "paid"},
		"paid":    {"cancelled", "shipped"},
		"shipped": nil, "cancelled": nil,
	}
	for from, want := range may {
		var got []string
		for to := range may {
			if _, err := (order{state: from, product: "rose"}).decide(request{"a", to, "rose"}); err == nil {
				got = append(got, to)
			}
		}
		slices.Sort(got)
		require.Equal(t, want, got, "from %q", from)
	}
}

// Arguments that make no sense print the usage.
func TestUsage(t *testing.T) {
	for _, args := range [][]string{{"-h"}, {"a", "b"}} {
		var out bytes.Buffer
		require.NoError(t, run(t.Context(), args, &out))
		require.Equal(t, usage, out.String())
	}
}

// events iterates over the events by their orders, in the order of each partition.
func events(t *testing.T, topic *riffle.Topic) func(func(string, event) bool) {
	return func(yield func(string, event) bool) {
		for p := range topic.Partitions() {
			for rec, err := range p.Records(t.Context(), riffle.Earliest, nil) {
				require.NoError(t, err)
				var e event
				require.NoError(t, json.Unmarshal(rec.Value, &e))
				if !yield(string(rec.Key), e) {
					return
				}
			}
		}
	}
}

// withLog opens the log in dir while body runs.
func withLog(t *testing.T, dir string, body func(*riffle.Log, *riffle.Topic)) {
	t.Helper()
	db, err := riffle.Open(dir, nil)
	require.NoError(t, err)
	topic, err := db.EnsureTopic(t.Context(), "orders", ordersConfig)
	require.NoError(t, err)
	body(db, topic)
	require.NoError(t, db.Close())
}
