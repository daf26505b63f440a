package riffle

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/invariants"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// TestPollAllocates a twentieth of an allocation a record at most: some for each chunk, none for
// each record.
func TestPollAllocates(t *testing.T) {
	if invariants.Enabled {
		return // pools forget at random under the race detector
	}
	l := openQuiet(t)
	p := partOf(t, l, "topic", quiet)
	recs := make([]Record, 500)
	for i := range recs {
		recs[i].Value = make([]byte, 100)
	}
	for range 40 {
		_, err := p.Append(ctx, recs...)
		require.NoError(t, err)
	}
	for _, group := range []string{"", "g"} {
		c := consumerOf(t, l, ConsumerOptions{Topics: []string{"topic"}, Group: group, ManualCommit: true})
		polled(t, c)
		allocs := testing.AllocsPerRun(30, func() {
			if recs, err := c.Poll(ctx); err != nil || len(recs) != 500 {
				t.Fatal(len(recs), err)
			}
		})
		require.LessOrEqual(t, allocs/500, 0.05)
		t.Logf("group %q: %.4f allocations a record", group, allocs/500)
	}
}

// TestPollOfOneRecordAllocates its slice and its value: a follower that is told of each record
// alone pays for no queue.
func TestPollOfOneRecordAllocates(t *testing.T) {
	if invariants.Enabled {
		return // pools forget at random under the race detector
	}
	l := openQuiet(t)
	p := partOf(t, l, "topic", quiet)
	c := consumerOf(t, l, ConsumerOptions{Topics: []string{"topic"}})
	rec := Record{Value: make([]byte, 100)}
	allocs := testing.AllocsPerRun(200, func() {
		_, err := p.Append(ctx, rec)
		require.NoError(t, err)
		if recs, err := c.Poll(ctx); err != nil || len(recs) != 1 {
			t.Fatal(len(recs), err)
		}
	})
	require.LessOrEqual(t, allocs, 3.0)
}

// TestIdleConsumersCostLittle: 10,000 of them, that have read all there is, have no goroutine, no
// timer that fires, and some KiB each.
func TestIdleConsumersCostLittle(t *testing.T) {
	const most = int64(4 << 10)
	many := 10_000
	if invariants.Enabled {
		many = 500
	}
	synctest.Test(t, func(t *testing.T) {
		l := openAt(t, memfs.New(), "/data", nil)
		var topics []string
		for i := range 20 {
			topics = append(topics, fmt.Sprintf("topic%d", i))
			appendValues(t, partOf(t, l, topics[i], async), 0, 1)
		}
		time.Sleep(time.Hour) //lint:sleep in a bubble of synctest: what the append has begun ends
		list := make([]*Consumer, many)
		goroutines, before := ourGoroutines(), heapBytes()
		for i := range list {
			c, err := l.NewConsumer(&ConsumerOptions{Topics: []string{topics[i%20]}})
			require.NoError(t, err)
			polled(t, c)
			list[i] = c
		}
		each := (heapBytes() - before) / int64(many)
		t.Logf("%d bytes each", each)
		if !invariants.Enabled {
			require.LessOrEqual(t, each, most)
		}
		synctest.Wait()
		require.LessOrEqual(t, ourGoroutines(), goroutines)
		for _, c := range list {
			require.Nil(t, c.clock.timer.Load())
			require.Nil(t, c.commitTimer)
			require.NoError(t, c.Close())
		}
		for p := range l.partitions() {
			require.Nil(t, p.followers.Load())
		}
	})
}

// TestIdleMembersHaveNoTimer: while polls of a group's members wait, time passes and nothing of
// ours runs.
func TestIdleMembersHaveNoTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := openAt(t, memfs.New(), "/data", nil)
		_, err := l.CreateTopic(ctx, "topic", &TopicConfig{Partitions: 4})
		require.NoError(t, err)
		ended, end := context.WithCancel(ctx)
		var all sync.WaitGroup
		var list []*Consumer
		for i := range 4 {
			c := consumerOf(t, l, ConsumerOptions{Group: "g", Topics: []string{"topic"}})
			list = append(list, c)
			all.Go(func() {
				if _, err := c.Poll(ended); err == nil {
					panic(fmt.Sprint("consumer ", i, " has a record"))
				}
			})
		}
		time.Sleep(time.Hour) //lint:sleep in a bubble of synctest: they join
		synctest.Wait()
		for _, c := range list {
			require.Len(t, c.Assignment(), 1)
			require.False(t, c.clock.armed.Load())
			require.Nil(t, c.commitTimer)
		}
		end()
		all.Wait()
	})
}

// TestConsumerOfAReadOnlyLog follows a writer's topics: their records, new partitions, new topics
// and deleted ones, and seeks to what has come since.
func TestConsumerOfAReadOnlyLog(t *testing.T) {
	fsys, dir := testDir(t)
	l := openAt(t, fsys, dir, nil)
	top, err := l.CreateTopic(ctx, "topic", nil)
	require.NoError(t, err)
	appendValues(t, top.all()[0], 0, 2)
	r := openAt(t, fsys, dir, &Options{ReadOnly: true})
	_, err = r.NewConsumer(&ConsumerOptions{Group: "g"})
	require.ErrorIs(t, err, ErrReadOnly)
	c := consumerOf(t, r, ConsumerOptions{Topics: []string{"topic", "later"}})
	require.Equal(t, wantValues(0, 2), polledAll(t, c, 2))
	go func() { // while the poll waits
		later, err := l.CreateTopic(ctx, "later", nil)
		if err == nil {
			_, err = later.all()[0].Append(ctx, Record{Value: []byte("new")})
		}
		if err != nil {
			panic(err)
		}
	}()
	require.Equal(t, []string{"new"}, polled(t, c))
	require.NoError(t, top.SetPartitions(ctx, 2))
	_, err = top.all()[1].Append(ctx, Record{Value: []byte("grown")})
	require.NoError(t, err)
	require.Equal(t, []string{"grown"}, polled(t, c))
	appendValues(t, top.all()[0], 2, 4)
	require.Eventually(t, func() bool { return c.Seek(at0, 3) == nil }, 20*time.Second, time.Millisecond, "no poll has seen that")
	require.Equal(t, wantValues(3, 4), polled(t, c))
	require.NoError(t, l.DeleteTopic(ctx, "later"))
	appendValues(t, top.all()[0], 4, 5)
	require.Equal(t, wantValues(4, 5), polled(t, c))
	require.Eventually(t, func() bool {
		short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
		defer cancel()
		_, _ = c.Poll(short)
		return len(c.Assignment()) == 2
	}, 20*time.Second, time.Millisecond)
	byHand := consumerOf(t, r, ConsumerOptions{OffsetReset: ResetLatest})
	require.NoError(t, byHand.Assign(at0))
	require.Eventually(t, func() bool { return byHand.Seek(at0, 4) == nil }, 20*time.Second, time.Millisecond)
	require.Equal(t, wantValues(4, 5), polled(t, byHand))
}

// TestDamageInAReadOnlyLog is the error of its partition, once; the others go on.
func TestDamageInAReadOnlyLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memfs.New()
		w := openAt(t, mem, "/data", nil)
		bad, good := partOf(t, w, "bad", nil), partOf(t, w, "good", nil)
		appendValues(t, bad, 0, 2)
		appendValues(t, good, 0, 2)
		require.NoError(t, mem.Remove(bad.segs.Load().list[0].file.Name()))
		c := consumerOf(t, readOnlyAt(t, mem, "/data"), ConsumerOptions{Topics: []string{"bad", "good"}})
		var values []string
		var failed []error
		for len(values) < 2 || len(failed) == 0 {
			recs, err := c.Poll(ctx)
			for _, r := range recs {
				values = append(values, string(r.Value))
			}
			if err != nil {
				failed = append(failed, err)
			}
		}
		require.Equal(t, wantValues(0, 2), values)
		require.Len(t, failed, 1)
		var at *PartitionError
		require.ErrorAs(t, failed[0], &at)
		require.Equal(t, "bad", at.Topic)
		requireAll(t, failed[0], ErrCorrupt)
		requireIdle(t, c)
		appendValues(t, good, 2, 4)
		require.Equal(t, wantValues(2, 4), polledAll(t, c, 2))
	})
}

// polledAll polls until there are n records: what another process appends comes to be seen a
// batch at a time.
func polledAll(t testing.TB, c *Consumer, n int) (values []string) {
	t.Helper()
	for len(values) < n {
		values = append(values, polled(t, c)...)
	}
	return values
}

// TestWaitingPollKeepsNoRecord: what it has handed out is the caller's alone.
func TestWaitingPollKeepsNoRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // or the context could end before the poll begins
		l := openAt(t, memfs.New(), "/data", nil)
		p := partOf(t, l, "topic", async)
		_, err := p.Append(ctx, Record{Value: make([]byte, 100_000)})
		require.NoError(t, err)
		c := consumerOf(t, l, ConsumerOptions{Topics: []string{"topic"}})
		recs, err := c.Poll(ctx)
		require.NoError(t, err)
		value := weak.Make(&recs[0].Value[0])
		clear(recs)
		short, cancel := context.WithTimeout(ctx, time.Millisecond)
		defer cancel()
		_, err = c.Poll(short)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		runtime.GC()
		require.Nil(t, value.Value())
		runtime.KeepAlive(c)
	})
}
