package riffle

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/batch"
	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// heldUp is a producer whose first write takes until it is let go, while what it is given
// gathers.
type heldUp struct {
	*Producer
	letGo   func()
	mu      sync.Mutex // guards what follows
	writes  []int64    // how many bytes each has, to the log
	fail    error      // of those after the first
	panics  bool       // they do
	room    int64      // larger ones find the disk full; 0: none does
	done    []string
	offsets []Offset
}

// newHeldUp returns one whose batches have one record of 700 bytes each.
func newHeldUp(t *testing.T, cfg *TopicConfig, opts *ProducerOptions) *heldUp {
	fsys := errfs.New(memfs.New())
	h := &heldUp{}
	opts.BatchBytes = 1 << 10
	l, err := open(fsys, "/data", nil)
	require.NoError(t, err)
	t.Cleanup(func() {
		if err := l.Close(); !h.panics { // else it has said so
			require.NoError(t, err)
		}
	})
	_, err = l.EnsureTopic(ctx, "topic", cfg)
	require.NoError(t, err)
	h.Producer, err = l.NewProducer(opts)
	require.NoError(t, err)
	_, err = h.SendAll(ctx, to("first"), to("second")) // makes the file
	require.NoError(t, err)
	begun, hold := make(chan struct{}), make(chan struct{})
	h.letGo = func() { close(hold) }
	fsys.Add(errfs.Rule{Kind: errfs.Write, Decide: func(op errfs.Op) error {
		if !strings.HasSuffix(op.Name, ".log") || !strings.Contains(op.Name, "topic-") {
			return nil
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.writes = append(h.writes, op.Len)
		if len(h.writes) == 1 {
			h.mu.Unlock()
			close(begun)
			<-hold
			h.mu.Lock()
			return nil
		}
		if h.panics {
			panic("of the test")
		}
		if h.room > 0 && op.Len > h.room {
			return &errfs.Partial{Bytes: int(h.room), Err: vfs.ErrNoSpace}
		}
		return h.fail
	}})
	h.add(t, 1)
	<-begun
	return h
}

func (h *heldUp) setFail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fail = err
}

func (h *heldUp) add(t *testing.T, n int) {
	for range n {
		h.mu.Lock()
		at := len(h.done)
		h.done, h.offsets = append(h.done, ""), append(h.offsets, NoOffset)
		h.mu.Unlock()
		value := fmt.Sprintf("%d ", at)
		require.NoError(t, h.Enqueue(ctx, to(value+strings.Repeat("x", 700)), func(m RecordMetadata, err error) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.done[at] += fmt.Sprint("done ", err)
			h.offsets[at] = m.Offset
		}))
	}
}

// requireTriedAgain waits until what has failed is tried again.
func (h *heldUp) requireTriedAgain(t *testing.T) {
	require.Eventually(t, func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.writes) > 2
	}, 10*time.Second, time.Millisecond, "it is tried again")
}

// requireInOrder requires that all were sent once, in order, and are there.
func (h *heldUp) requireInOrder(t *testing.T) {
	values := h.values(t, 0)
	require.Len(t, values, 2+len(h.done))
	for i := range h.done {
		require.Equal(t, "done <nil>", h.done[i])
		require.Equal(t, Offset(2+i), h.offsets[i])
		require.True(t, strings.HasPrefix(values[2+i], fmt.Sprintf("%d ", i)))
	}
}

// TestBatchesThatWaitLeaveTogether: what has gathered while a batch is written is written in
// few calls, and is told of and read as if each had left alone; compressed batches do leave
// alone.
func TestBatchesThatWaitLeaveTogether(t *testing.T) {
	for _, c := range []struct {
		codec  Compression
		writes []int
	}{
		// The last batch is not full: it leaves alone where those before it are being flushed.
		{CompressionNone, []int{1 + 3, 1 + 4}},
		{CompressionSnappy, []int{1 + 40}},
	} {
		h := newHeldUp(t, nil, &ProducerOptions{Compression: c.codec})
		h.add(t, 40)
		h.letGo()
		require.NoError(t, h.Flush(ctx))
		require.Contains(t, c.writes, len(h.writes))
		h.requireInOrder(t)
	}
}

// TestBatchesTogetherKeepToSegments: those that leave together are in the segments that they
// would be in if each had left alone.
func TestBatchesTogetherKeepToSegments(t *testing.T) {
	var bases [2][]Offset
	for i := range bases {
		h := newHeldUp(t, &TopicConfig{SegmentBytes: 4 << 10}, &ProducerOptions{})
		if i == 0 {
			h.add(t, 40)
			h.letGo()
		} else {
			h.letGo()
			for range 40 {
				require.NoError(t, h.Flush(ctx))
				h.add(t, 1)
			}
		}
		require.NoError(t, h.Flush(ctx))
		h.requireInOrder(t)
		top, err := h.log.Topic("topic")
		require.NoError(t, err)
		for _, seg := range top.all()[0].segs.Load().list {
			bases[i] = append(bases[i], seg.base)
		}
	}
	require.Greater(t, len(bases[0]), 5)
	require.Equal(t, bases[1], bases[0])
}

// TestBatchesTogetherFailTogether: a write that finds the disk full leaves none of them,
// and all are sent again, in order; one that fails leaves them in doubt.
func TestBatchesTogetherFailTogether(t *testing.T) {
	h := newHeldUp(t, nil, &ProducerOptions{})
	h.setFail(&errfs.Partial{Bytes: 2000, Err: vfs.ErrNoSpace})
	h.add(t, 10)
	h.letGo()
	h.requireTriedAgain(t)
	require.Len(t, h.values(t, 0), 3)
	h.setFail(nil)
	require.NoError(t, h.Flush(ctx))
	h.requireInOrder(t)

	h = newHeldUp(t, nil, &ProducerOptions{})
	h.setFail(&errfs.Partial{Bytes: 2000, Err: errors.New("broken")})
	h.add(t, 20)
	h.letGo()
	require.NoError(t, h.Flush(ctx))
	for i, done := range h.done {
		switch {
		case i == 0 && done == "done <nil>": // its flush began before the others were written
		case i <= maxTogether:
			require.Contains(t, done, ErrInDoubt.Error())
			require.Equal(t, 1, strings.Count(done, "done"))
		default: // nothing of it was written
			require.Contains(t, done, ErrPartitionFailed.Error())
			require.NotContains(t, done, ErrInDoubt.Error())
		}
	}
}

// TestBatchesTogetherFitAlone: where the disk has room for one of them at a time, they are
// written one at a time, and without delay.
func TestBatchesTogetherFitAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHeldUp(t, nil, &ProducerOptions{})
		h.room = 1000
		h.add(t, 20)
		began := time.Now()
		h.letGo()
		require.NoError(t, h.Flush(ctx))
		h.requireInOrder(t)
		require.Zero(t, time.Since(began), "by the clock of the bubble")
		require.LessOrEqual(t, len(h.writes), 2*20, "each is tried with others once")
	})
}

// TestBatchesTogetherAreNotTooMany: as many leave together as have a MiB, also when they are
// tried again.
func TestBatchesTogetherAreNotTooMany(t *testing.T) {
	h := newHeldUp(t, nil, &ProducerOptions{})
	h.setFail(vfs.ErrNoSpace)
	for range 10 {
		require.NoError(t, h.Enqueue(ctx, to(strings.Repeat("x", 300<<10)), nil))
	}
	h.letGo()
	h.requireTriedAgain(t)
	h.setFail(nil)
	require.NoError(t, h.Flush(ctx))
	require.Greater(t, h.writes[1], int64(maxTogetherBytes*5/6), "three of them")
	for _, n := range h.writes {
		require.LessOrEqual(t, n, int64(maxTogetherBytes))
	}
}

// TestTogetherKeepsToWhatMayBeUnflushed: a batch may be larger than what may be unflushed
// when nothing is, several together may not.
func TestTogetherKeepsToWhatMayBeUnflushed(t *testing.T) {
	l := openAt(t, memfs.New(), "/data", &Options{DiskReserve: NoLimit})
	p := partOf(t, l, "topic", &TopicConfig{MaxMessageBytes: 64 << 20})
	appendValues(t, p, 0, 1)
	e := new(encoder)
	b, err := e.encode([]Record{{Value: make([]byte, 20<<20)}}, p.topic.config(), e.now())
	require.NoError(t, err)
	p.mu.Lock()
	defer p.mu.Unlock()
	require.Zero(t, p.unflushed())
	require.Equal(t, maxUnflushed/len(b), p.together([]batch.Batch{b, b, b, b, b}, e.now()))
}

// TestTogetherKeepsToCeilingAndCredit: batches that would pass the ceiling, or what was
// drawn on the disk, wait for a lock of their own, which sees to that.
func TestTogetherKeepsToCeilingAndCredit(t *testing.T) {
	p := partOf(t, openAt(t, memfs.New(), "/data", nil), "topic", nil)
	appendValues(t, p, 0, 1)
	e := new(encoder)
	b, err := e.encode(make([]Record, 10), p.topic.config(), e.now())
	require.NoError(t, err)
	now := e.now()
	together := func() int { return p.together([]batch.Batch{b, b, b, b, b}, now) }
	p.mu.Lock()
	defer p.mu.Unlock()
	look := &diskLook{at: now}
	p.topic.log.space.last.Store(look)
	p.drawnOn, p.drawn = look, int64(len(b))*10
	require.Equal(t, 5, together())
	require.Equal(t, int64(len(b))*6, p.drawn)
	p.drawn = int64(len(b)) * 2
	require.Equal(t, 3, together())
	p.drawn = int64(len(b)) * 10
	p.ceiling = p.end + 30
	require.Equal(t, 3, together())
}

// TestBatchesTogetherAreAsAlone: in an epoch that is not the first, batches that are appended
// together are counted, indexed and read as if each had been alone.
func TestBatchesTogetherAreAsAlone(t *testing.T) {
	later := time.Now().Add(time.Hour).UnixMilli()
	tuned := gapTuning
	tuned.mapAfter = 1 << 40 // what goes into a mapping goes alone
	cfg := &TopicConfig{Flush: FlushAsync, FlushInterval: Forever}
	var found [2]string
	for i := range found {
		disk := memfs.New()
		l, err := openTuned(disk, "/data", nil, tuned)
		require.NoError(t, err)
		appendValues(t, partOf(t, l, "topic", cfg), 0, 1)
		require.NoError(t, kill(l))
		l, err = openTuned(disk, "/data", nil, tuned)
		require.NoError(t, err)
		p := partOf(t, l, "topic", cfg)
		appendValues(t, p, 1, 2)
		var batches []batch.Batch
		for n := range 3 {
			recs := make([]Record, 3-n)
			for r := range recs {
				recs[r].Value = make([]byte, 1200)
			}
			b, err := new(encoder).encode(recs, p.topic.config(), later+int64(n))
			require.NoError(t, err)
			batches = append(batches, b)
		}
		if i == 0 {
			n, _, err := p.appendAhead(ctx, batches, time.Now().UnixMilli(), func() {})
			require.NoError(t, err)
			require.Equal(t, 3, n)
		} else {
			for _, b := range batches {
				_, err := p.append(ctx, b, time.Now().UnixMilli())
				require.NoError(t, err)
			}
		}
		for r, err := range p.Records(ctx, 1, nil) {
			require.NoError(t, err)
			require.EqualValues(t, 1, r.LeaderEpoch)
			found[i] += fmt.Sprint(r.Offset, " ")
		}
		m := l.Metrics().Total
		seg := p.active()
		require.EqualValues(t, 1, seg.index.Load().offset.len())
		found[i] += fmt.Sprint(m.Appends, m.Records, m.AppendedBytes, m.BatchBytes, m.Bytes, p.Bounds(),
			seg.maxTimestamp, seg.maxOffset, seg.indexed)
		require.NoError(t, l.Close())
	}
	require.Equal(t, found[1], found[0])
}

// TestPanicWhileWritingLeavesInDoubt: nobody knows what was written, neither of batches
// together nor of one alone.
func TestPanicWhileWritingLeavesInDoubt(t *testing.T) {
	h := newHeldUp(t, nil, &ProducerOptions{})
	h.panics = true
	h.add(t, 10)
	h.outstanding() // also the last one leaves with the others
	h.letGo()
	if err := h.Flush(ctx); err != nil { // else all have ended already
		require.ErrorIs(t, err, ErrClosed)
	}
	h.log.tasks.Wait()
	require.ErrorIs(t, h.Enqueue(ctx, to("late"), nil), ErrClosed)
	for _, done := range h.done[1:] { // the first one may be flushed
		require.Contains(t, done, ErrInDoubt.Error())
		require.Contains(t, done, ErrClosed.Error())
	}

	fsys := errfs.New(memfs.New())
	l, err := open(fsys, "/data", nil)
	require.NoError(t, err)
	p := partOf(t, l, "topic", nil)
	appendValues(t, p, 0, 1)
	fsys.Add(errfs.Rule{Kind: errfs.Write, Name: p.path(logFileName(0)), Decide: func(errfs.Op) error { panic("of the test") }})
	_, err = p.Append(ctx, Record{})
	require.ErrorIs(t, err, ErrInDoubt)
	require.ErrorIs(t, err, ErrClosed)
	_ = l.Close() // it has said why it failed
}

// TestSendThatPanicsHasNoOffset: what is told of a record that is in doubt is not that it is
// the first one of its partition.
func TestSendThatPanicsHasNoOffset(t *testing.T) {
	fsys := errfs.New(memfs.New())
	var acked []RecordMetadata
	hook := ProducerHooks{Acked: func(m RecordMetadata, _ error) { acked = append(acked, m) }}
	l, err := open(fsys, "/data", nil)
	require.NoError(t, err)
	part := partOf(t, l, "topic", nil)
	p, err := l.NewProducer(&ProducerOptions{Hooks: []ProducerHooks{hook}})
	require.NoError(t, err)
	_, err = p.Send(ctx, to("v0"))
	require.NoError(t, err)
	fsys.Add(errfs.Rule{Kind: errfs.Write, Name: part.path(logFileName(0)), Decide: func(errfs.Op) error { panic("of the test") }})
	m, err := p.Send(ctx, to("v1"))
	require.ErrorIs(t, err, ErrInDoubt)
	require.Equal(t, NoOffset, m.Offset)
	require.Equal(t, NoOffset, acked[1].Offset)
	_ = l.Close() // it has said why it failed
}

// emptyBatches are n batches of a record each, for p.
func emptyBatches(t *testing.T, p *Partition, n int) (batches []batch.Batch) {
	for range n {
		b, err := new(encoder).encode([]Record{{}}, p.topic.config(), time.Now().UnixMilli())
		require.NoError(t, err)
		batches = append(batches, b)
	}
	return batches
}

// TestWhatAFullDiskLeavesOfSeveralIsGone: a write of several batches finds the disk full after
// the first one, which is whole. Once that is said, no power cut brings it back.
func TestWhatAFullDiskLeavesOfSeveralIsGone(t *testing.T) {
	for _, flush := range []FlushPolicy{FlushBeforeAck, FlushAsync} {
		disk := memfs.New()
		fsys := errfs.New(disk)
		l, err := open(fsys, "/data", nil)
		require.NoError(t, err)
		p := partOf(t, l, "topic", &TopicConfig{Flush: flush})
		appendValues(t, p, 0, 1)
		require.NoError(t, p.Sync(ctx))
		batches := emptyBatches(t, p, 3)
		fsys.Add(errfs.Rule{
			Kind: errfs.Write, Name: p.path(logFileName(0)), Times: 1,
			Err: &errfs.Partial{Bytes: len(batches[0]) + 1, Err: vfs.ErrNoSpace},
		})
		n, _, err := p.appendAhead(ctx, batches, time.Now().UnixMilli(), func() {})
		require.ErrorIs(t, err, ErrDiskFull)
		require.NotErrorIs(t, err, ErrInDoubt)
		require.Equal(t, 3, n)
		for seed := range uint64(30) {
			clone := disk.CrashClone(seed)
			after := openAt(t, clone, "/data", nil)
			require.Equal(t, wantValues(0, 1), readValues(t, partitionOf(after, "topic"), Earliest))
		}
		require.NoError(t, l.Close())
	}
}

// TestWhatAFullDiskLeavesOfSeveralIsInDoubt as long as its cut is not flushed: where that fails,
// and where nobody waits for it.
func TestWhatAFullDiskLeavesOfSeveralIsInDoubt(t *testing.T) {
	for _, fails := range []bool{true, false} {
		disk := memfs.New()
		fsys := errfs.New(disk)
		l, err := open(fsys, "/data", nil)
		require.NoError(t, err)
		p := partOf(t, l, "topic", nil)
		appendValues(t, p, 0, 1)
		batches := emptyBatches(t, p, 3)
		fsys.Add(errfs.Rule{
			Kind: errfs.Write, Name: p.path(logFileName(0)), Times: 1,
			Err: &errfs.Partial{Bytes: len(batches[0]) + 1, Err: vfs.ErrNoSpace},
		})
		ends, end := context.WithCancel(ctx)
		defer end()
		goOn, err := make(chan struct{}), error(nil)
		if fails {
			err = vfs.ErrNoSpace
		}
		fsys.Add(errfs.Rule{Site: siteFlush, Times: 1, Err: err, Before: func(errfs.Op) {
			if end(); !fails {
				<-goOn
			}
		}})
		n, _, err := p.appendAhead(ends, batches, time.Now().UnixMilli(), func() {})
		close(goOn)
		requireAll(t, err, ErrInDoubt, ErrDiskFull)
		require.False(t, again(err))
		require.Equal(t, 3, n)
		if _, err = p.Append(ctx, Record{Value: []byte("v1")}); fails {
			require.ErrorIs(t, err, ErrPartitionFailed)
			_ = l.Close() // it has said why it failed
			continue
		}
		require.NoError(t, err)
		require.Equal(t, wantValues(0, 2), readValues(t, p, Earliest))
		require.NoError(t, l.Close())
	}
}
