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

// TestGroupOfNone: a log without any group says so, and makes nothing.
func TestGroupOfNone(t *testing.T) {
	inGroupWorld(t, 1, nil, func(t *testing.T, w *groupWorld) {
		g := w.l.Group("none")
		require.Equal(t, "none", g.Name())
		require.Empty(t, slices.Collect(w.l.Groups()))
		_, err := g.Describe(ctx)
		require.ErrorIs(t, err, ErrGroupNotFound)
		_, err = g.Progress(ctx)
		require.ErrorIs(t, err, ErrGroupNotFound)
		require.ErrorIs(t, g.ResetTime(ctx, time.Now()), ErrGroupNotFound, "it has no topics")
		require.ErrorIs(t, g.DeleteOffsets(ctx, TopicPartition{"topic", 0}), ErrGroupNotFound)
		require.ErrorIs(t, g.Delete(ctx), ErrGroupNotFound)
		a := w.join(ConsumerOptions{})
		at, err := a.Committed(ctx, TopicPartition{"topic", 0})
		require.NoError(t, err)
		require.Empty(t, at)
		_, err = w.l.Topic(offsetsTopic)
		require.ErrorIs(t, err, ErrTopicNotFound)

		ended, end := context.WithCancel(ctx)
		end()
		_, err = g.Describe(ended)
		require.ErrorIs(t, err, context.Canceled)
		require.NotErrorIs(t, err, ErrInDoubt)
		require.NoError(t, w.l.Close())
		_, err = g.Describe(ctx)
		require.ErrorIs(t, err, ErrClosed)
		require.ErrorIs(t, g.Delete(ctx), ErrClosed)
		require.Empty(t, slices.Collect(w.l.Groups()))
	})
}

// TestGroupFromOutside: what a group is and how far; its offsets are reset, to an offset or a time,
// and deleted, all or none, while it has no members.
func TestGroupFromOutside(t *testing.T) {
	inGroupWorld(t, 2, nil, func(t *testing.T, w *groupWorld) {
		w.topic("other", 1)
		a := w.join(ConsumerOptions{ClientID: "ann", InstanceID: "i", ManualCommit: true})
		began := time.Now()
		for range 5 {
			w.send("topic")
			letPass(time.Minute)
		}
		w.settle(a)
		require.NoError(t, a.Commit(ctx))
		w.send("topic")
		g := w.l.Group("group")
		d := w.describe("group")
		require.Equal(t, GroupStable, d.State)
		require.Equal(t, "cooperative-sticky", d.Protocol)
		require.Len(t, d.Members, 1)
		both := []TopicPartition{{"topic", 0}, {"topic", 1}}
		d.Members[0].ID = ""
		require.Equal(t, MemberDescription{
			InstanceID: "i", ClientID: "ann", Host: "in-process", Topics: []string{"topic"}, Assignment: both,
		}, d.Members[0])
		letPass(time.Minute)
		list, err := g.Progress(ctx)
		require.NoError(t, err)
		require.Len(t, list, 2)
		require.Equal(t, Offset(5), list[1].Committed.Offset)
		require.Equal(t, Offset(6), list[1].End)
		require.Equal(t, int64(1), list[1].Lag.Records)
		require.GreaterOrEqual(t, list[1].Lag.Time, time.Minute)
		// Not while it has members.
		require.ErrorIs(t, g.Reset(ctx, map[TopicPartition]Offset{both[0]: Earliest}), ErrGroupNotEmpty)
		require.ErrorIs(t, g.ResetTime(ctx, began), ErrGroupNotEmpty)
		require.ErrorIs(t, g.DeleteOffsets(ctx, both[0]), ErrGroupNotEmpty)
		require.ErrorIs(t, g.Delete(ctx), ErrGroupNotEmpty)
		require.Equal(t, Offset(5), w.committed(0))
		require.NoError(t, a.Close())
		letPass(time.Minute)
		// All or none.
		require.ErrorIs(t, g.Reset(ctx, map[TopicPartition]Offset{both[0]: 1, {"none", 0}: 1}), ErrTopicNotFound)
		require.ErrorIs(t, g.Reset(ctx, map[TopicPartition]Offset{both[0]: 1, {"topic", 2}: 1}), ErrPartitionNotFound)
		require.ErrorIs(t, g.Reset(ctx, map[TopicPartition]Offset{both[0]: 1, both[1]: 7}), ErrOffsetOutOfRange)
		require.ErrorIs(t, g.Reset(ctx, map[TopicPartition]Offset{both[0]: NoOffset}), ErrOffsetOutOfRange)
		require.ErrorIs(t, g.ResetTime(ctx, began, "none"), ErrTopicNotFound)
		require.Equal(t, Offset(5), w.committed(0))
		require.NoError(t, g.Reset(ctx, nil))
		require.NoError(t, g.Reset(ctx, map[TopicPartition]Offset{both[0]: Earliest, both[1]: Latest, {"other", 0}: Latest}))
		require.Equal(t, Offset(0), w.committed(0))
		require.Equal(t, Offset(6), w.committed(1))
		require.NoError(t, g.ResetTime(ctx, began.Add(150*time.Second), "topic"))
		require.Equal(t, Offset(3), w.committed(0))
		require.Equal(t, Offset(3), w.committed(1))
		b := w.join(ConsumerOptions{ManualCommit: true})
		w.settle(b)
		require.Len(t, b.handed(), 6)
		require.NoError(t, b.Close())
		require.NoError(t, g.ResetTime(ctx, began.Add(-time.Hour)))
		require.Equal(t, Offset(0), w.committed(1))

		require.NoError(t, g.DeleteOffsets(ctx, both[1], TopicPartition{"none", 3}))
		require.Equal(t, NoOffset, w.committed(1))
		require.Equal(t, Offset(0), w.committed(0))
		require.NoError(t, g.Delete(ctx))
		require.ErrorIs(t, g.Delete(ctx), ErrGroupNotFound)
		require.Empty(t, slices.Collect(w.l.Groups()))
		require.NoError(t, g.Reset(ctx, map[TopicPartition]Offset{both[0]: 2}), "it makes one")
		require.Equal(t, GroupEmpty, w.describe("group").State)
	})
}

// TestGroupNames: a name that Kafka cannot say is refused, any other one is the caller's.
func TestGroupNames(t *testing.T) {
	inGroupWorld(t, 1, nil, func(t *testing.T, w *groupWorld) {
		_, err := w.l.NewConsumer(&ConsumerOptions{Group: string(make([]byte, maxGroupName+1))})
		require.ErrorIs(t, err, ErrInvalidOptions)
		to := map[TopicPartition]Offset{{"topic", 0}: Earliest}
		require.ErrorIs(t, w.l.Group(string(make([]byte, maxGroupName+1))).Reset(ctx, to), ErrInvalidOptions)
		for _, name := range []string{"grüße", "a b/c", string(make([]byte, 1000))} {
			a := w.join(ConsumerOptions{Group: name})
			w.settle(a)
			require.Equal(t, "topic-0", a.has())
			require.NoError(t, a.Close())
		}
		require.Len(t, slices.Collect(w.l.Groups()), 3)
	})
}

// TestProgressOfAGroupThatIsMade: it is not there, or has what it was made with, at each moment.
func TestProgressOfAGroupThatIsMade(t *testing.T) {
	l := openAt(t, memfs.New(), "/data", nil)
	p := partOf(t, l, "topic", nil)
	appendValues(t, p, 0, 10)
	for i := range 300 {
		g := l.Group(fmt.Sprint("group", i))
		made := make(chan error, 1)
		go func() { made <- g.Reset(ctx, map[TopicPartition]Offset{p.name(): 3}) }()
		var list []Progress
		err := ErrGroupNotFound
		for errors.Is(err, ErrGroupNotFound) {
			list, err = g.Progress(ctx)
		}
		require.NoError(t, err)
		require.Len(t, list, 1)
		require.NoError(t, <-made)
	}
}

// TestGroupsOfAReadOnlyLog: who only reads sees what is committed, also what comes, and changes
// nothing.
func TestGroupsOfAReadOnlyLog(t *testing.T) {
	fsys, dir := testDir(t)
	l := openAt(t, fsys, dir, nil)
	p := partOf(t, l, "topic", nil)
	appendValues(t, p, 0, 10)
	require.NoError(t, l.Group("group").Reset(ctx, map[TopicPartition]Offset{p.name(): 3}))
	view := openAt(t, fsys, dir, &Options{ReadOnly: true})
	g := view.Group("group")
	for _, at := range []Offset{3, 7, 5} {
		require.NoError(t, l.Group("group").Reset(ctx, map[TopicPartition]Offset{p.name(): at}))
		require.Eventually(t, func() bool {
			list, err := g.Progress(ctx)
			return err == nil && list[0].Committed.Offset == at && list[0].Lag.Records == int64(10-at)
		}, 20*time.Second, time.Millisecond)
	}
	require.Len(t, slices.Collect(view.Groups()), 1)
	require.ErrorIs(t, g.Reset(ctx, map[TopicPartition]Offset{p.name(): 1}), ErrReadOnly)
	require.ErrorIs(t, g.Delete(ctx), ErrReadOnly)
	require.ErrorIs(t, g.DeleteOffsets(ctx, p.name()), ErrReadOnly)
	require.ErrorIs(t, view.Group("new").Reset(ctx, map[TopicPartition]Offset{p.name(): 1}), ErrReadOnly)
}
