package riffle

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// TestSyncOutlivesAPowerCut appends without flushing, to several partitions of two
// topics: what Sync returns after is there after a power cut, however it is drawn.
// What nothing was appended to since is not flushed once more.
func TestSyncOutlivesAPowerCut(t *testing.T) {
	mem := memfs.New()
	fsys := errfs.New(mem)
	l := openAt(t, fsys, "/data", nil)
	cfg := &TopicConfig{Flush: FlushAsync, FlushInterval: Forever, Partitions: 3}
	a, err := l.CreateTopic(ctx, "a", cfg)
	require.NoError(t, err)
	b, err := l.CreateTopic(ctx, "b", cfg)
	require.NoError(t, err)
	fill := func() {
		for _, top := range []*Topic{a, b} {
			for p := range top.Partitions() {
				at := int(p.Bounds().End)
				appendValues(t, p, at, at+1)
			}
		}
	}
	kept := func(top *Topic, i int) int {
		least := 1000
		for seed := range uint64(20) {
			after := openAt(t, mem.CrashClone(seed), "/data", nil)
			again, err := after.Topic(top.Name())
			require.NoError(t, err)
			least = min(least, len(readValues(t, again.all()[i], Earliest)))
			require.NoError(t, after.Close())
		}
		return least
	}
	syncs := countSyncs(fsys)
	fill()
	require.NoError(t, l.Sync(ctx))
	require.EqualValues(t, 6, syncs.Load())
	require.NoError(t, l.Sync(ctx))
	require.EqualValues(t, 6, syncs.Load(), "nothing to flush")
	fill()
	require.NoError(t, a.Sync(ctx))
	require.EqualValues(t, 9, syncs.Load())
	require.NoError(t, b.all()[1].Sync(ctx))
	require.EqualValues(t, 10, syncs.Load())
	require.Equal(t, []int{2, 2, 2}, []int{kept(a, 0), kept(a, 1), kept(a, 2)})
	require.Equal(t, []int{1, 2, 1}, []int{kept(b, 0), kept(b, 1), kept(b, 2)})
}

// TestSyncWaitsForTheNextFlush appends while a flush runs, which does not cover
// that: Sync waits for the one that does, and several share it.
func TestSyncWaitsForTheNextFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys, l, p := slowFS(t, &TopicConfig{Flush: FlushAsync, FlushInterval: Forever})
		syncs := countSyncs(fsys)
		appendValues(t, p, 0, 1)
		arrived, release := fsys.Block(errfs.Rule{Site: siteFlush, Times: 1})
		done := make(chan error, 4)
		go func() { done <- p.Sync(ctx) }()
		<-arrived
		appendValues(t, p, 1, 2)
		for _, sync := range []func(context.Context) error{p.Sync, p.topic.Sync, l.Sync} {
			go func() { done <- sync(ctx) }()
		}
		synctest.Wait()
		require.Empty(t, done)
		release()
		for range cap(done) {
			require.NoError(t, <-done)
		}
		require.EqualValues(t, 2, syncs.Load())
		p.mu.Lock()
		defer p.mu.Unlock()
		require.Equal(t, Offset(2), p.flushed)
	})
}

// TestSyncFlushesConcurrently holds up flushes: as many as may run at a time do, and
// the others follow.
func TestSyncFlushesConcurrently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := errfs.New(memfs.New())
		l := openAt(t, fsys, "/data", nil)
		top, err := l.CreateTopic(ctx, "many", &TopicConfig{Flush: FlushAsync, FlushInterval: Forever, Partitions: 20})
		require.NoError(t, err)
		for p := range top.Partitions() {
			appendValues(t, p, 0, 1)
		}
		var running atomic.Int64
		_, release := fsys.Block(errfs.Rule{Site: siteFlush, Before: func(errfs.Op) { running.Add(1) }})
		done := make(chan error, 1)
		go func() { done <- l.Sync(ctx) }()
		synctest.Wait()
		require.EqualValues(t, maxFlushers, running.Load())
		release()
		require.NoError(t, <-done)
		require.Zero(t, l.Metrics().Total.UnflushedBytes)
	})
}

// TestSyncThatFails lets one partition's flush fail: Sync says which, and the others
// are flushed. A partition that failed with nothing unflushed has nothing to say.
func TestSyncThatFails(t *testing.T) {
	fsys := errfs.New(memfs.New())
	l := openAt(t, fsys, "/data", nil)
	top, err := l.CreateTopic(ctx, "topic", &TopicConfig{Flush: FlushAsync, FlushInterval: Forever, Partitions: 3})
	require.NoError(t, err)
	for p := range top.Partitions() {
		appendValues(t, p, 0, 1)
	}
	bad := top.all()[1]
	fsys.Add(errfs.Rule{Kind: errfs.Sync, Name: bad.path(logFileName(0)), Err: errfs.ErrInjected})
	for range 2 {
		err = l.Sync(ctx)
		requireAll(t, err, ErrPartitionFailed)
		require.NotErrorIs(t, err, ErrInDoubt)
		var pe *PartitionError
		require.ErrorAs(t, err, &pe)
		require.Equal(t, []any{"sync", "topic", 1}, []any{pe.Op, pe.Topic, pe.Partition})
	}
	for i, p := range top.all() {
		p.mu.Lock()
		require.Equal(t, i != 1, p.flushed == 1, i)
		p.mu.Unlock()
	}
	require.NoError(t, top.all()[0].Sync(ctx))
	requireAll(t, bad.Sync(ctx), ErrPartitionFailed)
}

// TestSyncEnds: with ctx, while the flush goes on without the caller; and with the
// log.
func TestSyncEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys, l, p := slowFS(t, &TopicConfig{Flush: FlushAsync, FlushInterval: Forever})
		appendValues(t, p, 0, 1)
		_, release := fsys.Block(errfs.Rule{Site: siteFlush})
		all := []func(context.Context) error{p.Sync, p.topic.Sync, l.Sync}
		for _, sync := range all {
			c, cancel := context.WithTimeout(ctx, time.Minute)
			err := sync(c)
			cancel()
			requireAll(t, err, context.DeadlineExceeded)
			require.NotErrorIs(t, err, ErrInDoubt)
			require.ErrorIs(t, sync(c), context.DeadlineExceeded, "it had ended before")
		}
		release()
		synctest.Wait()
		p.mu.Lock()
		require.Equal(t, Offset(1), p.flushed)
		p.mu.Unlock()
		require.NoError(t, l.Close())
		for _, sync := range all {
			requireAll(t, sync(ctx), ErrClosed)
		}
	})
}

// TestSyncWhileClosing asks for a flush while the log is being closed, which waits
// for a flush of its own: it ends with ErrClosed or when all is flushed, and nothing
// is flushed later.
func TestSyncWhileClosing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys, l, p := slowFS(t, &TopicConfig{Flush: FlushAsync, FlushInterval: Forever})
		appendValues(t, p, 0, 1)
		arrived, release := fsys.Block(errfs.Rule{Site: siteFlush})
		done := make(chan error, 2)
		go func() { done <- p.Sync(ctx) }()
		<-arrived
		go func() { done <- l.Close() }()
		synctest.Wait()
		_, err := p.askForFlush()
		requireAll(t, err, ErrClosed)
		require.NotErrorIs(t, p.flushTo(ctx, 1), ErrInDoubt)
		release()
		require.NoError(t, <-done)
		require.NoError(t, <-done)
		require.NoError(t, p.flushTo(ctx, 1), "it is flushed")
	})
}

// TestSyncOfManyIdlePartitions costs no flush and no goroutine.
func TestSyncOfManyIdlePartitions(t *testing.T) {
	fsys := errfs.New(memfs.New())
	l, err := openTuned(fsys, "/data", nil, gapTuning) // nothing is published or flushed in time
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	for i := range 5 {
		_, err := l.CreateTopic(ctx, fmt.Sprintf("topic%d", i), &TopicConfig{Partitions: 100})
		require.NoError(t, err)
	}
	ops := fsys.Ops()
	require.NoError(t, l.Sync(ctx))
	require.Equal(t, ops, fsys.Ops())
}

// TestSyncAfterAKill flushes what a killed process has left unflushed.
func TestSyncAfterAKill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memfs.New()
		cfg := &TopicConfig{Flush: FlushAsync, FlushInterval: Forever}
		l, err := open(mem, "/data", nil)
		require.NoError(t, err)
		appendValues(t, partOf(t, l, "topic", cfg), 0, 3)
		require.NoError(t, kill(l))
		fsys := errfs.New(mem)
		arrived, release := fsys.Block(errfs.Rule{Site: siteFlush})
		p := partOf(t, openAt(t, fsys, "/data", nil), "topic", cfg)
		<-arrived
		done := make(chan error, 1)
		go func() { done <- p.Sync(ctx) }()
		synctest.Wait()
		require.Empty(t, done)
		release()
		require.NoError(t, <-done)
		after := openAt(t, mem.CrashClone(1), "/data", nil)
		require.Equal(t, wantValues(0, 3), readValues(t, partOf(t, after, "topic", cfg), Earliest))
	})
}

// TestSyncOfADeletedTopic: the topic is not found, and the log has nothing to flush
// of it.
func TestSyncOfADeletedTopic(t *testing.T) {
	p := newPart(t, &TopicConfig{Flush: FlushAsync, FlushInterval: Forever})
	appendValues(t, p, 0, 1)
	l := p.topic.log
	require.NoError(t, l.DeleteTopic(ctx, "topic"))
	requireAll(t, p.Sync(ctx), ErrTopicNotFound)
	requireAll(t, p.topic.Sync(ctx), ErrTopicNotFound)
	require.NoError(t, l.Sync(ctx))
	round, err := p.askForFlush()
	require.Nil(t, round, "who has begun before has nothing to wait for")
	require.NoError(t, err)
}
