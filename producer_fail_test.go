package riffle

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// TestPanickingHookKeepsNobodyWaiting: a hook that panics is no reason not to call the next
// one, nor a record's done, on which Send waits; and what was sent is not the caller's panic.
func TestPanickingHookKeepsNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		second := 0
		p := producerOn(t, memfs.New(), "/data", nil, &ProducerOptions{Linger: time.Second, Hooks: []ProducerHooks{
			{Acked: func(RecordMetadata, error) { panic("the hook's") }},
			{Acked: func(RecordMetadata, error) { second++ }},
		}})
		short, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		_, err := p.Send(short, to("a"))
		require.NoError(t, err)
		direct, err := p.log.NewProducer(&ProducerOptions{Hooks: p.opts.Hooks})
		require.NoError(t, err)
		_, err = direct.Send(short, to("b"))
		require.NoError(t, err)
		require.Equal(t, 2, second)
	})
}

// TestBrokenLogEndsRecords: when the log has failed, what a producer holds ends, also what
// lingers or waits for a flush that hangs, and it takes no more, not even from a done.
func TestBrokenLogEndsRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := errfs.New(memfs.New())
		l, err := open(fsys, "/data", nil)
		require.NoError(t, err)
		_, err = l.EnsureTopic(ctx, "topic", &TopicConfig{Partitions: 2})
		require.NoError(t, err)
		p, err := l.NewProducer(&ProducerOptions{Linger: time.Hour, DeliveryTimeout: 2 * time.Hour, Partitioner: Manual})
		require.NoError(t, err)
		slowFlushes(fsys, 10*time.Second)
		var errs, again []error
		done := func(_ RecordMetadata, err error) {
			errs = append(errs, err)
			again = append(again, p.Enqueue(ctx, to("again"), nil))
		}
		require.NoError(t, p.Enqueue(ctx, to("flying"), done))
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		require.ErrorIs(t, p.Flush(short), context.DeadlineExceeded)
		other := to("open")
		other.Partition = 1
		require.NoError(t, p.Enqueue(ctx, other, done))
		synctest.Wait()
		require.Empty(t, errs)
		began := time.Now()
		l.breakDown("test")
		synctest.Wait()
		require.Equal(t, began, time.Now())
		require.Len(t, errs, 2)
		for i, err := range errs {
			require.ErrorIs(t, err, ErrClosed)
			require.Equal(t, i == 0, errors.Is(err, ErrInDoubt))
			require.ErrorIs(t, again[i], ErrClosed)
		}
		require.ErrorIs(t, p.Enqueue(ctx, to("late"), nil), ErrClosed)
		require.Zero(t, p.used)
		require.NoError(t, p.Close())
		require.ErrorIs(t, l.Close(), ErrClosed)
	})
}

// TestProducerForgetsDeletedTopics: topics that come and go leave nothing in it.
func TestProducerForgetsDeletedTopics(t *testing.T) {
	fsys, dir := testDir(t)
	l := openAt(t, fsys, dir, nil)
	p, err := l.NewProducer(nil)
	require.NoError(t, err)
	for i := range 100 {
		name := fmt.Sprint("topic-", i)
		_, err := l.CreateTopic(ctx, name, nil)
		require.NoError(t, err)
		require.NoError(t, p.Enqueue(ctx, Record{Topic: name}, nil))
		require.NoError(t, p.Flush(ctx))
		require.NoError(t, l.DeleteTopic(ctx, name))
		require.LessOrEqual(t, len(p.topics), minTopics+1)
	}
}

// TestWaitingKeepsItsTurn: who is called since there is room, and finds that a batch has
// grown meanwhile, waits on as the first.
func TestWaitingKeepsItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := errfs.New(memfs.New())
		p := producerOn(t, fsys, "/data", nil, &ProducerOptions{BatchBytes: 1 << 10, BufferBytes: 3<<10 - 1})
		heal := fsys.Add(errfs.Rule{Kind: errfs.Write, Err: vfs.ErrNoSpace})
		var order []int
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i := range 5 { // two have room
			wg.Go(func() {
				err := p.Enqueue(ctx, to(strings.Repeat("x", 900)), func(RecordMetadata, error) {
					mu.Lock()
					defer mu.Unlock()
					order = append(order, i)
				})
				if err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		p.mu.Lock()
		require.Len(t, p.waiters, 3)
		used := p.used
		p.used = 0
		p.grant()
		p.used = used
		p.mu.Unlock()
		synctest.Wait()
		heal()
		wg.Wait()
		require.NoError(t, p.Flush(ctx))
		require.Equal(t, []int{0, 1, 2, 3, 4}, order)
	})
}

// emptyPools leaves no batch of another producer, with lists that count.
func emptyPools() {
	for range 2 {
		runtime.GC()
	}
}

// TestWhoWaitsForRoomWaitsForMore: once the buffer is full, who waits is woken when a
// sixteenth of it is free, not for each batch that has left; who needs more, when he has it.
func TestWhoWaitsForRoomWaitsForMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := producerOn(t, memfs.New(), "/data", async, &ProducerOptions{BatchBytes: 1 << 10, BufferBytes: 64 << 10})
		emptyPools()
		gate := make(chan struct{})
		add := func(size int) {
			err := p.Enqueue(ctx, to(strings.Repeat("x", size)), func(RecordMetadata, error) { <-gate })
			if err != nil {
				t.Error(err)
			}
		}
		waiting := func() int {
			synctest.Wait()
			p.mu.Lock()
			defer p.mu.Unlock()
			return len(p.waiters)
		}
		release := func(n int) {
			for range n {
				gate <- struct{}{}
				synctest.Wait()
			}
		}
		held := 0
		go func() {
			for {
				add(900)
				p.mu.Lock()
				if held++; held == 100 {
					p.mu.Unlock()
					return
				}
				p.mu.Unlock()
			}
		}()
		require.Equal(t, 1, waiting())
		full := held
		require.Greater(t, full, 50)
		release(3)
		require.Equal(t, 1, waiting())
		require.Equal(t, full, held, "one batch free, two, three: nobody is woken")
		release(2)
		require.Equal(t, 1, waiting())
		require.Greater(t, held, full+2, "and then for all that have room")
		go add(40 << 10)
		for waiting() > 0 {
			release(1)
		}
		close(gate)
		require.NoError(t, p.Flush(ctx))
		require.Zero(t, p.used)
	})
}

// TestDoneFindsTheRoomOfThoseBefore: two batches end at once, and the buffer has room for
// three. What the first one's done enqueues takes the third place, what the second one's
// does that of the first, which has been told of all that it had.
func TestDoneFindsTheRoomOfThoseBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := errfs.New(memfs.New())
		p := producerOn(t, fsys, "/data", nil, &ProducerOptions{BatchBytes: 1 << 10, BufferBytes: 3600})
		emptyPools()
		_, err := p.Send(ctx, to("first"))
		require.NoError(t, err)
		slowFlushes(fsys, time.Second)
		value := strings.Repeat("x", 1<<10) // a batch each
		require.NoError(t, p.Enqueue(ctx, to(value), nil))
		synctest.Wait()
		var again []error
		for range 2 { // appended meanwhile, they have the next flush in common
			require.NoError(t, p.Enqueue(ctx, to(value), func(RecordMetadata, error) {
				short, cancel := context.WithTimeout(ctx, time.Minute)
				defer cancel()
				again = append(again, p.Enqueue(short, to(value), nil))
			}))
			synctest.Wait()
		}
		require.NoError(t, p.Flush(ctx))
		require.Equal(t, []error{nil, nil}, again)
	})
}

// TestWithoutLingerNothingLingers: a batch that was opened after the goroutine looked at the
// clock, while it waited for the lock, is due all the same.
func TestWithoutLingerNothingLingers(t *testing.T) {
	p := newProducerOn(t, nil, nil)
	top, err := p.log.Topic("topic")
	require.NoError(t, err)
	p.mu.Lock()
	defer p.mu.Unlock()
	q := &sendQueue{t: &sendTopic{}, p: top.all()[0]}
	p.openBatch(q, 1<<10)
	_, due := p.due(q, q.open.since.Add(-time.Microsecond))
	require.True(t, due)
	p.free(q.full[0])
}

// TestOpenBatchesKeepToTheBuffer: what dones of small records take, which is more than the
// records, counts too, also in batches that were opened when there was room; and memory of
// larger batches is not used again when there is none.
func TestOpenBatchesKeepToTheBuffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const parts, buffer = 15, 1 << 20
		p := producerOn(t, memfs.New(), "/data", &TopicConfig{Partitions: parts, Flush: FlushAsync},
			&ProducerOptions{Linger: time.Minute, BatchBytes: buffer / 16, BufferBytes: buffer, Partitioner: Manual})
		heard := 0
		done := func(RecordMetadata, error) { heard++ } // on one goroutine
		most := int64(0)
		for round := range 2 {
			for i := range parts * 5000 {
				require.NoError(t, p.Enqueue(ctx, Record{Topic: "topic", Partition: i % parts}, done))
				p.mu.Lock()
				most = max(most, p.used)
				p.mu.Unlock()
			}
			require.NoError(t, p.Flush(ctx))
			require.Equal(t, parts*5000*(round+1), heard)
		}
		require.LessOrEqual(t, most, int64(buffer+buffer/10))
	})
}

// TestLargeBuffersAreNotKept: a batch takes no more memory than it counts for, also if
// it was a larger one before.
func TestLargeBuffersAreNotKept(t *testing.T) {
	p := newProducerOn(t, nil, nil)
	top, err := p.log.Topic("topic")
	require.NoError(t, err)
	for range 10 { // the pool forgets some under the race detector
		sendBatches.Put(&sendBatch{buf: make([]byte, 0, 1<<20)})
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for range 10 {
		q := &sendQueue{p: top.all()[0]}
		p.openBatch(q, 64<<10)
		require.LessOrEqual(t, int64(cap(q.open.buf)), q.open.charged+q.open.charged/10)
		p.free(q.open)
	}
}

// TestLargeListsAreNotKept: the same of what a batch has beside its bytes: no more than half
// as much, and none that would pass the buffer.
func TestLargeListsAreNotKept(t *testing.T) {
	p := newProducerOn(t, nil, nil)
	top, err := p.log.Topic("topic")
	require.NoError(t, err)
	const size = 64 << 10
	p.mu.Lock()
	defer p.mu.Unlock()
	open := func(lists int) int64 {
		for range 10 {
			sendBatches.Put(&sendBatch{buf: make([]byte, 0, size), times: make(perRecord[int64], 0, lists/perRecordSize)})
		}
		q := &sendQueue{p: top.all()[0]}
		p.openBatch(q, size)
		defer p.free(q.open)
		return q.open.charged
	}
	for range 10 {
		require.LessOrEqual(t, open(size), int64(size+size/2))
	}
	p.used = p.opts.BufferBytes + p.opts.BufferBytes/16 - size
	for range 10 {
		require.Equal(t, int64(size), open(size/4))
	}
	p.used = 0
}

// TestAckedHearsOfNoRefusedRecord: neither of one that Send refuses, nor of one that Enqueue
// does.
func TestAckedHearsOfNoRefusedRecord(t *testing.T) {
	heard := 0
	p := producerOn(t, memfs.New(), "/data", nil, &ProducerOptions{Hooks: []ProducerHooks{{Acked: func(RecordMetadata, error) { heard++ }}}})
	for _, bad := range []Record{
		{Topic: "topic", Value: make([]byte, 2<<20)},
		{Topic: "topic", Timestamp: time.Unix(-1, 0)},
		{Topic: "nowhere"},
	} {
		_, err := p.Send(ctx, bad)
		require.Error(t, err)
		require.Error(t, p.Enqueue(ctx, bad, nil))
	}
	require.Zero(t, heard)
	_, err := p.Send(ctx, Record{Topic: "topic"})
	require.NoError(t, err)
	require.Equal(t, 1, heard)
}

// TestProducerClosesWithItsFirstError: also when a later call finds nothing left to do.
func TestProducerClosesWithItsFirstError(t *testing.T) {
	fsys := errfs.New(memfs.New())
	p := producerOn(t, fsys, "/data", nil, nil)
	_, err := p.Send(ctx, Record{Topic: "topic"})
	require.NoError(t, err)
	heal := fsys.Add(errfs.Rule{Kind: errfs.Write, Err: vfs.ErrNoSpace})
	require.NoError(t, p.Enqueue(ctx, Record{Topic: "topic"}, nil))
	ended, cancel := context.WithCancel(ctx)
	cancel()
	require.ErrorIs(t, p.Shutdown(ended), context.Canceled)
	heal()
	require.ErrorIs(t, p.Close(), context.Canceled)
}

// TestGivingUpWhileTheDiskIsFull gives up while a batch finds the disk full: it ends, and is
// not tried again. The write ends when all others wait, which in a bubble of synctest is after
// Shutdown; nothing but the producer's lock orders the two, as the race detector sees.
func TestGivingUpWhileTheDiskIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := errfs.New(memfs.New())
		p := producerOn(t, fsys, "/data", nil, nil)
		_, err := p.Send(ctx, to("first"))
		require.NoError(t, err)
		time.Sleep(time.Minute) // what that has begun ends: none waits for the lock below
		begun := make(chan struct{}, 10)
		heal := fsys.Add(errfs.Rule{Kind: errfs.Write, Decide: func(op errfs.Op) error {
			if !strings.HasSuffix(op.Name, ".log") {
				return nil
			}
			begun <- struct{}{}
			time.Sleep(50 * time.Millisecond)
			return vfs.ErrNoSpace
		}})
		ended := make(chan error, 1)
		require.NoError(t, p.Enqueue(ctx, to("second"), func(_ RecordMetadata, err error) { ended <- err }))
		<-begun
		now, cancel := context.WithCancel(ctx)
		cancel()
		require.ErrorIs(t, p.Shutdown(now), context.Canceled)
		require.ErrorIs(t, <-ended, ErrDiskFull)
		heal()
		require.Empty(t, begun)
		require.Equal(t, []string{"first"}, p.values(t, 0))
	})
}
