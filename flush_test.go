package riffle

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// slowFS returns a file system in memory whose flushes can be held up, and a
// partition on it. For use in a bubble.
func slowFS(t *testing.T, cfg *TopicConfig) (*errfs.FS, *Log, *Partition) {
	fsys := errfs.New(memfs.New())
	l := openAt(t, fsys, "/data", nil)
	return fsys, l, partOf(t, l, "topic", cfg)
}

// countSyncs counts flushes of appends from now on.
func countSyncs(fsys *errfs.FS) *atomic.Int64 {
	n := new(atomic.Int64)
	fsys.Add(errfs.Rule{Kind: errfs.Sync, Site: siteFlush, Before: func(errfs.Op) { n.Add(1) }})
	return n
}

// TestNothingIsSeenBeforeItIsFlushed holds up a flush: neither Append nor a
// reader gets past it.
func TestNothingIsSeenBeforeItIsFlushed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys, _, p := slowFS(t, nil)
		appendValues(t, p, 0, 1)
		arrived, release := fsys.Block(errfs.Rule{Site: siteFlush})
		done := make(chan struct{})
		go func() { defer close(done); appendValues(t, p, 1, 2) }()
		<-arrived
		synctest.Wait()
		require.Equal(t, Bounds{LastStable: 1, HighWatermark: 1, End: 2}, p.Bounds())
		require.Equal(t, wantValues(0, 1), readValues(t, p, Earliest))
		require.Empty(t, readValues(t, p, 1), "above the high watermark, below the end: nothing, no error")
		select {
		case <-done:
			t.Fatal("acknowledged before it was flushed")
		default:
		}
		release()
		<-done
		require.Equal(t, wantValues(0, 2), readValues(t, p, Earliest))
	})
}

// TestConcurrentAppendsShareFlushes appends from many goroutines while a flush
// is held up: all of them share the next one.
func TestConcurrentAppendsShareFlushes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys, _, p := slowFS(t, nil)
		appendValues(t, p, 0, 1)
		syncs := countSyncs(fsys)
		arrived, release := fsys.Block(errfs.Rule{Site: siteFlush, Times: 1})
		cancelable, cancel := context.WithCancel(ctx)
		defer cancel()
		var wg sync.WaitGroup
		for i := range 101 {
			c := ctx
			if i%2 == 0 {
				c = cancelable
			}
			wg.Go(func() {
				if _, err := p.Append(c, Record{}); err != nil {
					t.Error(err)
				}
			})
			if i == 0 {
				<-arrived
			}
		}
		synctest.Wait()
		release()
		wg.Wait()
		require.EqualValues(t, 2, syncs.Load(), "one for the first, one for the other hundred")
		require.Equal(t, Offset(102), p.Bounds().HighWatermark)
	})
}

// TestContextEndsWhileFlushing shows that ctx is honoured while a flush hangs,
// that the error says what is unknown, and that the records come all the same.
func TestContextEndsWhileFlushing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys, _, p := slowFS(t, nil)
		appendValues(t, p, 0, 1)
		_, release := fsys.Block(errfs.Rule{Site: siteFlush})
		for i := range 2 { // the first leads the flush, the second waits for its turn
			c, cancel := context.WithTimeout(ctx, time.Second)
			at, err := p.Append(c, Record{Value: fmt.Appendf(nil, "v%d", i+1)})
			cancel()
			requireAll(t, err, ErrInDoubt, context.DeadlineExceeded)
			require.Equal(t, NoOffset, at)
		}
		require.Equal(t, Offset(1), p.Bounds().HighWatermark)
		release()
		synctest.Wait()
		require.Equal(t, wantValues(0, 3), readValues(t, p, Earliest))
	})
}

// TestFailedFlushIsFinal fails one flush while others wait for the next: none is
// acknowledged, the partition takes no more, other partitions go on, and the
// records that were readable stay so after a power cut.
func TestFailedFlushIsFinal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys, l, p := slowFS(t, nil)
		other := partOf(t, l, "other", nil)
		appendValues(t, p, 0, 2)
		arrived, release := fsys.Block(errfs.Rule{Site: siteFlush, Times: 1, Err: errfs.ErrInjected})
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() {
				_, err := p.Append(ctx, Record{Value: []byte("unflushed")})
				requireAll(t, err, ErrPartitionFailed, ErrInDoubt, errfs.ErrInjected)
			})
			if i == 0 {
				<-arrived
			}
		}
		synctest.Wait()
		release()
		wg.Wait()
		_, err := p.Append(ctx, Record{})
		requireAll(t, err, ErrPartitionFailed)
		require.NotErrorIs(t, err, ErrInDoubt, "of this one nothing was written")
		require.Equal(t, Bounds{LastStable: 2, HighWatermark: 2, End: 7}, p.Bounds())
		require.Equal(t, wantValues(0, 2), readValues(t, p, Earliest))
		appendValues(t, other, 0, 2)
		require.NoError(t, l.Close())

		again := openAt(t, fsys.Inner().(*memfs.FS).CrashClone(1), "/data", nil)
		require.Equal(t, wantValues(0, 2), readValues(t, partOf(t, again, "topic", nil), Earliest)[:2])
		require.Equal(t, wantValues(0, 2), readValues(t, partOf(t, again, "other", nil), Earliest))
	})
}

// TestShownAfterAFailedFlushStays opens a log again after a flush had failed,
// without a power cut: its pages are still in memory and look written. What is
// shown then must survive the power cut that comes next.
func TestShownAfterAFailedFlushStays(t *testing.T) {
	for seed := range uint64(20) {
		mem := memfs.New()
		fsys := errfs.New(mem)
		l := openAt(t, fsys, "/data", nil)
		p := partOf(t, l, "topic", nil)
		appendValues(t, p, 0, 2)
		fsys.FailSite(siteFlush, 1, nil)
		_, err := p.Append(ctx, Record{Value: []byte("v2")})
		require.ErrorIs(t, err, ErrInDoubt)
		require.NoError(t, l.Close())

		shown := readValues(t, partOf(t, openAt(t, mem, "/data", nil), "topic", nil), Earliest)
		require.Equal(t, wantValues(0, 3), shown, "a process that reads memory finds it")
		after := readValues(t, partOf(t, openAt(t, mem.CrashClone(seed), "/data", nil), "topic", nil), Earliest)
		require.Equal(t, shown, after)
	}
}

// TestAsyncFlushesOnTime shows that a FlushAsync partition is flushed once in
// each FlushInterval with appends, and not at all without.
func TestAsyncFlushesOnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys, _, p := slowFS(t, &TopicConfig{Flush: FlushAsync, FlushInterval: 2 * time.Second})
		syncs := countSyncs(fsys)
		appendValues(t, p, 0, 10)
		require.Equal(t, wantValues(0, 10), readValues(t, p, Earliest), "committed at once")
		time.Sleep(1999 * time.Millisecond)
		synctest.Wait()
		require.Zero(t, syncs.Load())
		time.Sleep(time.Millisecond)
		synctest.Wait()
		require.EqualValues(t, 1, syncs.Load())
		time.Sleep(time.Hour)
		require.EqualValues(t, 1, syncs.Load(), "nothing to flush, no flush")
		appendValues(t, p, 10, 11)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.EqualValues(t, 2, syncs.Load())
	})
}

// TestAsyncFlushesWhatGathers shows that much unflushed data is flushed before
// its time, and that no append waits for it.
func TestAsyncFlushesWhatGathers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys, _, p := slowFS(t, &TopicConfig{Flush: FlushAsync, FlushInterval: Forever, MaxMessageBytes: 2 << 20})
		syncs := countSyncs(fsys)
		_, release := fsys.Block(errfs.Rule{Site: siteFlush})
		megabyte := Record{Value: make([]byte, 1<<20)}
		for range flushAt>>20 + 2 {
			_, err := p.Append(ctx, megabyte)
			require.NoError(t, err)
		}
		release()
		synctest.Wait()
		require.EqualValues(t, 1, syncs.Load())
		p.mu.Lock()
		require.Positive(t, p.flushed)
		p.mu.Unlock()
	})
}

// TestUnflushedIsBounded holds flushes up: appends go on until the bound and
// wait there, leave when their ctx ends without having written, and go on when
// the flush has ended.
func TestUnflushedIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys, _, p := slowFS(t, &TopicConfig{Flush: FlushAsync, FlushInterval: Forever, MaxMessageBytes: 2 << 20})
		_, release := fsys.Block(errfs.Rule{Site: siteFlush})
		megabyte := Record{Value: make([]byte, 1<<20)}
		n := 0
		for {
			c, cancel := context.WithTimeout(ctx, time.Minute)
			_, err := p.Append(c, megabyte)
			cancel()
			if err != nil {
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.NotErrorIs(t, err, ErrInDoubt)
				break
			}
			n++
		}
		require.Equal(t, maxUnflushed>>20-1, n, "batches are a little over a megabyte")
		require.Equal(t, Offset(n), p.Bounds().End)
		release()
		_, err := p.Append(ctx, megabyte)
		require.NoError(t, err)
	})
}

// TestFullDiskHeals fills the disk: the append says so and leaves nothing
// behind, whatever part of it was written; with room, the next one works and a
// crash finds what was acknowledged.
func TestFullDiskHeals(t *testing.T) {
	mem := memfs.New()
	fsys := errfs.New(mem)
	l := openAt(t, fsys, "/data", &Options{DiskReserve: NoLimit})
	p := partOf(t, l, "topic", nil)
	appendValues(t, p, 0, 3)
	for _, part := range []int{0, 1, 60, 61, 100} {
		fsys.Add(errfs.Rule{Kind: errfs.Write, Name: p.path(logFileName(0)), Times: 1, Err: &errfs.Partial{Bytes: part, Err: vfs.ErrNoSpace}})
		_, err := p.Append(ctx, Record{Value: make([]byte, 200)})
		require.ErrorIs(t, err, ErrDiskFull)
		require.NotErrorIs(t, err, ErrInDoubt)
	}
	mem.SetFree(0)
	_, err := p.Append(ctx, Record{Value: make([]byte, 10_000)})
	require.ErrorIs(t, err, ErrDiskFull)
	_, err = partOf(t, l, "topic", nil).topic.log.CreateTopic(ctx, "other", &TopicConfig{FlushInterval: time.Hour})
	if err != nil {
		require.ErrorIs(t, err, ErrDiskFull)
	}
	mem.SetFree(1 << 20)
	appendValues(t, p, 3, 5)
	require.Equal(t, wantValues(0, 5), readValues(t, p, Earliest))
	again := openAt(t, mem.CrashClone(3), "/data", nil)
	require.Equal(t, wantValues(0, 5), readValues(t, partOf(t, again, "topic", nil), Earliest))
}

// TestFailedWriteThatCannotBeUndone leaves part of a batch behind: the
// partition goes offline rather than append after it.
func TestFailedWriteThatCannotBeUndone(t *testing.T) {
	fsys := errfs.New(memfs.New())
	l := openAt(t, fsys, "/data", nil)
	p := partOf(t, l, "topic", nil)
	appendValues(t, p, 0, 3)
	fsys.Add(errfs.Rule{Kind: errfs.Write, Name: p.path(logFileName(0)), Times: 1, Err: &errfs.Partial{Bytes: 50, Err: vfs.ErrNoSpace}})
	fsys.FailKind(errfs.Truncate, 1, nil)
	_, err := p.Append(ctx, Record{Value: make([]byte, 200)})
	requireAll(t, err, ErrPartitionFailed)
	_, err = p.Append(ctx, Record{})
	requireAll(t, err, ErrPartitionFailed)
	require.Equal(t, wantValues(0, 3), readValues(t, p, Earliest))
	require.NoError(t, l.Close())
	again := openAt(t, fsys, "/data", nil)
	require.Equal(t, wantValues(0, 3), readValues(t, partOf(t, again, "topic", nil), Earliest))
}
