package riffle

import (
	"context"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// TestEachRecordIsToldOfItself enqueues records of which some have a done, some a time of
// their own, with hooks or without, in batches of a few: who is told hears the offset and the
// time that the log has, in order, also after a done that panics or ends its goroutine.
func TestEachRecordIsToldOfItself(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var told, hooked []RecordMetadata
		opts := &ProducerOptions{BatchBytes: 1 << 10, Linger: time.Hour, DeliveryTimeout: 2 * time.Hour}
		if rapid.Bool().Draw(rt, "hooks") {
			exits := rapid.Bool().Draw(rt, "hooks end the goroutine")
			first := ProducerHooks{Acked: func(RecordMetadata, error) {
				if exits {
					runtime.Goexit()
				}
			}}
			opts.Hooks = []ProducerHooks{first, {Acked: func(m RecordMetadata, err error) {
				require.NoError(rt, err)
				hooked = append(hooked, m)
			}}}
		}
		p := producerOn(t, memfs.New(), "/data", nil, opts)
		defer func() { require.NoError(rt, p.log.Close()) }()
		var heard []int
		var times []time.Time
		n := rapid.IntRange(1, 120).Draw(rt, "records")
		for i := range n {
			r := Record{Topic: "topic", Value: make([]byte, rapid.SampledFrom([]int{0, 10, 100, 700}).Draw(rt, "size"))}
			if rapid.IntRange(0, 3).Draw(rt, "timed") == 0 {
				r.Timestamp = time.UnixMilli(rapid.Int64Range(0, 1<<41).Draw(rt, "time")).UTC()
			}
			var done func(RecordMetadata, error)
			if rapid.IntRange(0, 2).Draw(rt, "heard") > 0 {
				ends := rapid.IntRange(0, 19).Draw(rt, "ends")
				done = func(m RecordMetadata, err error) {
					require.NoError(rt, err)
					told = append(told, m)
					switch ends {
					case 0, 1:
						panic("of the test")
					case 2, 3:
						runtime.Goexit()
					}
				}
				heard = append(heard, i)
			}
			times = append(times, r.Timestamp)
			require.NoError(rt, p.Enqueue(ctx, r, done))
		}
		require.NoError(rt, p.Flush(ctx))
		top, err := p.log.Topic("topic")
		require.NoError(rt, err)
		var all []RecordMetadata
		for rec, err := range top.all()[0].Records(ctx, Earliest, nil) {
			require.NoError(rt, err)
			if own := times[len(all)]; !own.IsZero() {
				require.Equal(rt, own, rec.Timestamp)
			}
			all = append(all, RecordMetadata{Topic: "topic", Offset: rec.Offset, Timestamp: rec.Timestamp})
			if len(all) == n {
				break
			}
		}
		require.Len(rt, told, len(heard))
		for k, i := range heard {
			require.Equal(rt, all[i], told[k])
		}
		if opts.Hooks != nil {
			require.Equal(rt, all, hooked)
		}
	})
}

// TestDonesAreForgotten: memory that is used again keeps none alive, nor what it refers to.
func TestDonesAreForgotten(t *testing.T) {
	p := newProducerOn(t, nil, nil)
	top, err := p.log.Topic("topic")
	require.NoError(t, err)
	b := &sendBatch{count: 5}
	for n := range b.count {
		b.dones.set(n, func(RecordMetadata, error) {}, nil)
	}
	s := &sender{p: p}
	s.tell(endedBatch{&sendQueue{p: top.all()[0]}, b, ErrClosed})
	for _, done := range b.dones[:cap(b.dones)] {
		require.Nil(t, done)
	}
}

// TestDoneThatEndsItsGoroutine, as FailNow of a test does: what comes behind it is sent and told
// of all the same, of the same write and of others, and the producer can be flushed and closed.
func TestDoneThatEndsItsGoroutine(t *testing.T) {
	h := newHeldUp(t, nil, &ProducerOptions{})
	var exits atomic.Int64
	exit := func(m RecordMetadata, err error) {
		switch exits.Add(1) {
		case 2: // and panics on the way
			defer func() { panic("of the test") }()
		case 3:
			defer runtime.Goexit()
			panic("of the test")
		}
		runtime.Goexit()
	}
	for range 5 {
		h.add(t, 3)
		require.NoError(t, h.Enqueue(ctx, to(strings.Repeat("x", 700)), exit))
	}
	require.NoError(t, h.Enqueue(ctx, to("small"), exit))
	h.letGo()
	require.NoError(t, h.Flush(ctx))
	require.EqualValues(t, 6, exits.Load())
	for _, done := range h.done {
		require.Equal(t, "done <nil>", done)
	}
	require.Len(t, h.values(t, 0), 2+len(h.done)+6)
	require.NoError(t, h.Enqueue(ctx, to("last"), exit))
	require.NoError(t, h.Close())
	require.EqualValues(t, 7, exits.Load())
	h.log.tasks.Wait()
}

// TestHookThatEndsItsGoroutine is called by Send, on its caller's: those behind it are called all
// the same.
func TestHookThatEndsItsGoroutine(t *testing.T) {
	var heard []int
	var hooks []ProducerHooks
	for i := range 4 {
		hooks = append(hooks, ProducerHooks{Acked: func(RecordMetadata, error) {
			switch heard = append(heard, i); i {
			case 1:
				runtime.Goexit()
			case 2:
				panic("of the test")
			}
		}})
	}
	p := newProducerOn(t, nil, &ProducerOptions{Hooks: hooks})
	apart(func() { _, _ = p.Send(ctx, to("x")) })
	require.Equal(t, []int{0, 1, 2, 3}, heard)
}

// TestDoneThatEndsItsGoroutineTooLate: there is none any more that could send what is enqueued.
func TestDoneThatEndsItsGoroutineTooLate(t *testing.T) {
	p := newProducerOn(t, nil, nil)
	p.log.taskMu.Lock()
	p.log.stopped = true
	p.log.taskMu.Unlock()
	told := 0
	err := p.Enqueue(ctx, to("x"), func(_ RecordMetadata, err error) {
		require.ErrorIs(t, err, ErrClosed)
		told++
		runtime.Goexit()
	})
	require.NoError(t, err)
	require.Equal(t, 1, told)
	require.Zero(t, p.used)
	require.NoError(t, p.Close())
	p.log.taskMu.Lock()
	p.log.stopped = false
	p.log.taskMu.Unlock()
}

// TestDoneThatEndsItsGoroutineWhileTheLogCloses: no goroutine can be started any more, and those
// behind hear of their records all the same.
func TestDoneThatEndsItsGoroutineWhileTheLogCloses(t *testing.T) {
	fsys := errfs.New(memfs.New())
	l, err := open(fsys, "/data", nil)
	require.NoError(t, err)
	partOf(t, l, "topic", nil)
	p, err := l.NewProducer(&ProducerOptions{BatchBytes: 1 << 10})
	require.NoError(t, err)
	_, err = p.Send(ctx, to("first"))
	require.NoError(t, err)
	begun, goOn := make(chan struct{}), make(chan struct{})
	fsys.Add(errfs.Rule{Site: siteFlush, Times: 1, Before: func(errfs.Op) {
		close(begun)
		<-goOn
	}})
	var told []error
	add := func() {
		require.NoError(t, p.Enqueue(ctx, to(strings.Repeat("x", 700)), func(_ RecordMetadata, err error) {
			told = append(told, err)
			runtime.Goexit()
		}))
	}
	for range 3 {
		add()
	}
	<-begun
	ended, end := context.WithCancel(ctx)
	end()
	require.ErrorIs(t, p.Shutdown(ended), context.Canceled)
	require.ErrorIs(t, l.Shutdown(ended), context.Canceled)
	require.Eventually(t, func() bool {
		l.taskMu.Lock()
		defer l.taskMu.Unlock()
		return l.stopped
	}, 10*time.Second, time.Millisecond)
	close(goOn)
	require.NoError(t, l.Close())
	require.Len(t, told, 3)
	require.NoError(t, told[0])
	require.Zero(t, p.used, "all is given back")
}
