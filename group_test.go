package riffle

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rifflelog/riffle/internal/vfs/memfs"
	"github.com/stretchr/testify/require"
)

// ledgerOfReads is what members of a group were handed, by value.
type readLedger struct {
	mu  sync.Mutex
	got map[string]int
}

func (g *readLedger) add(recs []Record) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range recs {
		g.got[string(r.Value)]++
	}
}

func (g *readLedger) len() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.got)
}

// TestCleanClosesNeitherLoseNorRepeat: members come and go, each commits what it has handled
// before it is closed, and every record is handled once.
func TestCleanClosesNeitherLoseNorRepeat(t *testing.T) {
	for _, assignor := range []Assignor{CooperativeStickyAssignor(), StickyAssignor(), RangeAssignor(), RoundRobinAssignor()} {
		t.Run(assignor.Name, func(t *testing.T) { cleanCloses(t, assignor) })
	}
}

func cleanCloses(t *testing.T, assignor Assignor) {
	fsys := memfs.New()
	l := openAt(t, fsys, "/data", &Options{Defaults: TopicConfig{Flush: FlushAsync}})
	top, err := l.CreateTopic(ctx, "topic", &TopicConfig{Partitions: 8})
	require.NoError(t, err)
	const many = 4000
	ledger := &readLedger{got: map[string]int{}}
	ended, end := context.WithCancel(ctx)
	var all sync.WaitGroup
	member := func(polls int) {
		c, err := l.NewConsumer(&ConsumerOptions{Group: "group", Topics: []string{"topic"}, MaxPollRecords: 10, Assignors: []Assignor{assignor}})
		require.NoError(t, err)
		for ; polls != 0; polls-- {
			recs, err := c.Poll(ended)
			if errors.Is(err, context.Canceled) {
				break
			}
			require.NoError(t, err)
			ledger.add(recs)
		}
		if err := c.Commit(ctx); err != nil {
			t.Error(err)
		}
		require.NoError(t, c.Close())
	}
	for range 3 {
		all.Go(func() {
			for ended.Err() == nil {
				member(rand.IntN(30) + 1)
			}
		})
	}
	for i := range many {
		_, err := top.all()[i%8].Append(ctx, Record{Value: fmt.Appendf(nil, "%d", i)})
		require.NoError(t, err)
		if i%100 == 0 {
			require.Eventually(t, func() bool { return ledger.len() > i-1000 }, 20*time.Second, time.Millisecond)
		}
	}
	require.Eventually(t, func() bool { return ledger.len() == many }, 20*time.Second, time.Millisecond)
	end()
	all.Wait()
	for value, n := range ledger.got {
		require.Equal(t, 1, n, value)
	}
}

// TestGroupsOfALogWithoutAny: before there is a topic of committed offsets, every group is one
// that there is not, and asking makes none.
func TestGroupsOfALogWithoutAny(t *testing.T) {
	l := openAt(t, memfs.New(), "/data", nil)
	defer l.Close()
	g := l.Group("group")
	_, err := g.Describe(ctx)
	require.ErrorIs(t, err, ErrGroupNotFound)
	_, err = g.Progress(ctx)
	require.ErrorIs(t, err, ErrGroupNotFound)
	require.ErrorIs(t, g.Delete(ctx), ErrGroupNotFound)
	require.ErrorIs(t, g.DeleteOffsets(ctx, TopicPartition{Topic: "topic"}), ErrGroupNotFound)
	c, err := l.NewConsumer(&ConsumerOptions{Group: "group", Topics: []string{"topic"}})
	require.NoError(t, err)
	at, err := c.Committed(ctx, TopicPartition{Topic: "topic"})
	require.NoError(t, err)
	require.Empty(t, at)
	require.NoError(t, c.Close())
	require.Empty(t, slices.Collect(l.Groups()))
	_, err = l.Topic(offsetsTopic)
	require.ErrorIs(t, err, ErrTopicNotFound)
}
