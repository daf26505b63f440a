package riffle

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// sentRecord is a record of TestEveryRecordEndsOnce.
type sentRecord struct {
	partition int
	refused   error // by Enqueue or Send, with nothing in doubt
	ended     int   // how often it heard of its end
	turn      int   // when, among all
	err       error
	at        Offset
	hadNoDone bool
	taken     bool // Enqueue has returned
	group     int  // of records that one goroutine has enqueued
}

// sendRun is one life of a producer.
type sendRun struct {
	p    *Producer
	fs   *errfs.FS
	mu   sync.Mutex
	recs []*sentRecord
	wg   sync.WaitGroup

	broken error // by Flush
	groups int
	turns  int
}

// TestEveryRecordEndsOnce draws lives of a producer: records one at a time, all at once or
// without waiting, from several goroutines, with contexts that end, flushes, a full disk
// that heals, writes and flushes that fail or take their time, a topic that takes less, a log
// that fails, dones that end their goroutine, and a close with or without patience. Each record
// that was taken ends once; what was acknowledged is in the log once, at its offset, in the
// order in which it was sent and hears of it; what failed without doubt is not there.
func TestEveryRecordEndsOnce(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		cfg := &TopicConfig{Partitions: 2, SegmentBytes: 4 << 10, FlushInterval: time.Second}
		cfg.Flush = rapid.SampledFrom([]FlushPolicy{FlushBeforeAck, FlushAsync}).Draw(rt, "flush")
		opts := &ProducerOptions{
			Linger:     rapid.SampledFrom([]time.Duration{0, 0, 10 * time.Millisecond}).Draw(rt, "linger"),
			BatchBytes: 1 << 10, BufferBytes: 4 << 10, DeliveryTimeout: 5 * time.Second, Partitioner: Manual,
		}
		r := &sendRun{}
		var steps []func()
		for range rapid.IntRange(1, 25).Draw(rt, "steps") {
			steps = append(steps, r.step(rt))
		}
		patience := rapid.SampledFrom([]time.Duration{0, time.Second, time.Minute}).Draw(rt, "close within")
		producerFirst := rapid.Bool().Draw(rt, "producer first")
		if rapid.IntRange(0, 5).Draw(rt, "breaks") == 0 { // a panic of ours
			at := rapid.IntRange(0, len(steps)).Draw(rt, "at")
			steps = slices.Insert(steps, at, func() { r.p.log.breakDown("test") })
		}
		var broken error
		synctest.Test(t, func(*testing.T) { // what is drawn is drawn outside
			broken = r.live(cfg, opts, steps, patience, producerFirst)
		})
		require.NoError(rt, broken)
	})
}

// live is a life of a producer, and of its log. It returns what was not as promised.
func (r *sendRun) live(cfg *TopicConfig, opts *ProducerOptions, steps []func(), patience time.Duration, producerFirst bool) error {
	mem := memfs.New()
	r.fs = errfs.New(mem)
	l, err := open(r.fs, "/data", nil)
	if err != nil {
		return err
	}
	if _, err = l.CreateTopic(ctx, "topic", cfg); err != nil {
		return err
	}
	if r.p, err = l.NewProducer(opts); err != nil {
		return err
	}
	for _, step := range steps {
		step()
		synctest.Wait()
	}
	short, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if producerFirst {
		_ = r.p.Shutdown(short)
	} else {
		_ = l.Shutdown(short)
	}
	r.wg.Wait()
	time.Sleep(10 * time.Second) //lint:sleep in a bubble of synctest: what hangs ends
	_ = r.p.Close()
	_ = l.Close()
	synctest.Wait()
	return r.judge(mem)
}

// step draws a thing to do.
func (r *sendRun) step(t *rapid.T) func() {
	patience := rapid.SampledFrom([]time.Duration{0, 0, time.Millisecond, 2 * time.Second}).Draw(t, "patience")
	within := func(f func(context.Context)) func() {
		return func() {
			r.wg.Go(func() {
				ctx := ctx
				if patience > 0 {
					short, cancel := context.WithTimeout(ctx, patience)
					defer cancel()
					ctx = short
				}
				f(ctx)
			})
		}
	}
	switch rapid.IntRange(0, 10).Draw(t, "step") {
	case 0:
		return within(r.flush)
	case 1:
		pause := rapid.SampledFrom([]time.Duration{time.Millisecond, time.Second}).Draw(t, "pause")
		return func() { time.Sleep(pause) } //lint:sleep in a bubble of synctest
	case 2:
		kind := rapid.SampledFrom([]errfs.Kind{errfs.Write, errfs.Sync, errfs.Create, errfs.MapWrite}).Draw(t, "kind")
		err := rapid.SampledFrom([]error{vfs.ErrNoSpace, vfs.ErrNoSpace, errors.New("broken")}).Draw(t, "error")
		wait := rapid.SampledFrom([]time.Duration{time.Millisecond, 300 * time.Millisecond, 7 * time.Second}).Draw(t, "heals after")
		return func() {
			heal := r.fs.Add(errfs.Rule{Kind: kind, Err: err})
			r.wg.Go(func() { time.Sleep(wait); heal() }) //lint:sleep in a bubble of synctest
		}
	case 3:
		return func() {
			heal := r.fs.Add(errfs.Rule{Kind: errfs.Sync, Decide: func(errfs.Op) error { time.Sleep(time.Second); return nil }}) //lint:sleep in a bubble of synctest
			r.wg.Go(func() { time.Sleep(3 * time.Second); heal() })                                                              //lint:sleep in a bubble of synctest
		}
	case 10:
		most := rapid.SampledFrom([]int{0, 150, 600}).Draw(t, "MaxMessageBytes")
		return within(func(ctx context.Context) {
			if top, err := r.p.log.Topic("topic"); err == nil {
				_ = top.SetConfig(ctx, func(c *TopicConfig) { c.MaxMessageBytes = most })
			}
		})
	case 4, 5:
		rec, s := r.record(t)
		return within(func(ctx context.Context) {
			m, err := r.p.Send(ctx, rec)
			r.ended(s, m, err)
		})
	}
	var recs []Record
	var all []*sentRecord
	for range rapid.IntRange(1, 8).Draw(t, "records") {
		rec, s := r.record(t)
		recs, all = append(recs, rec), append(all, s)
	}
	quiet := rapid.IntRange(0, 4).Draw(t, "quiet") == 0
	exits := rapid.IntRange(0, 4).Draw(t, "dones end the goroutine") == 0
	r.groups++
	for _, s := range all {
		s.group = r.groups
	}
	return within(func(ctx context.Context) {
		for i, rec := range recs {
			r.enqueue(ctx, rec, all[i], quiet, exits)
		}
	})
}

// record draws a record, which names its number.
func (r *sendRun) record(t *rapid.T) (Record, *sentRecord) {
	s := &sentRecord{partition: rapid.IntRange(0, 1).Draw(t, "partition")}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.recs = append(r.recs, s)
	size := rapid.SampledFrom([]int{0, 10, 400, 1500}).Draw(t, "size")
	value := fmt.Appendf(nil, "%d ", len(r.recs)-1)
	return Record{Topic: "topic", Partition: s.partition, Value: append(value, make([]byte, size)...)}, s
}

func (r *sendRun) enqueue(ctx context.Context, rec Record, s *sentRecord, quiet, exits bool) {
	done := func(m RecordMetadata, err error) {
		r.ended(s, m, err)
		if exits {
			runtime.Goexit()
		}
	}
	if quiet {
		done = nil
	}
	err := r.p.Enqueue(ctx, rec, done)
	r.mu.Lock()
	defer r.mu.Unlock()
	s.hadNoDone = quiet
	s.taken = err == nil
	if err != nil {
		s.refused = err
	}
}

// flush flushes, and sees that all that was enqueued before has ended.
func (r *sendRun) flush(ctx context.Context) {
	var before []*sentRecord
	r.mu.Lock()
	for _, s := range r.recs {
		if s.taken && !s.hadNoDone {
			before = append(before, s)
		}
	}
	r.mu.Unlock()
	err := r.p.Flush(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range before {
		if ctx.Err() == nil && !errors.Is(err, ErrClosed) && s.ended == 0 {
			r.broken = errors.New("a flush did not wait for a record")
		}
	}
}

func (r *sendRun) ended(s *sentRecord, m RecordMetadata, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.ended++
	r.turns++
	s.turn = r.turns
	s.err, s.at = err, m.Offset
}

// judge compares what the records heard with what the log has.
func (r *sendRun) judge(mem *memfs.FS) error {
	if r.p.used != 0 || r.p.running {
		return fmt.Errorf("%d bytes are held, running: %v", r.p.used, r.p.running)
	}
	if r.broken != nil {
		return r.broken
	}
	found, err := r.found(mem)
	if err != nil {
		return err
	}
	last, turns := map[[2]int]Offset{}, map[[2]int]int{}
	for n, s := range r.recs {
		at, there := found[n]
		if line := [2]int{s.group, s.partition}; there && s.group > 0 {
			if before, ok := last[line]; ok && at < before {
				return fmt.Errorf("record %d is at %d, one sent before it at %d", n, at, before)
			}
			last[line] = at
		}
		if line := [2]int{s.group, s.partition}; s.group > 0 && s.ended > 0 {
			if s.turn < turns[line] {
				return fmt.Errorf("record %d has ended before one sent before it", n)
			}
			turns[line] = s.turn
		}
		switch {
		case s.refused != nil && (s.ended > 0 || there):
			return fmt.Errorf("record %d was refused with %w, ended %d times, there: %v", n, s.refused, s.ended, there)
		case s.refused != nil:
		case s.hadNoDone && s.ended > 0 || !s.hadNoDone && s.ended != 1:
			return fmt.Errorf("record %d has ended %d times", n, s.ended)
		case s.hadNoDone:
		case s.err == nil && (!there || at != s.at):
			return fmt.Errorf("record %d was acknowledged at %d, there: %v, at %d", n, s.at, there, at)
		case s.err != nil && !errors.Is(s.err, ErrInDoubt) && there:
			return fmt.Errorf("record %d failed without doubt, and is there: %w", n, s.err)
		}
	}
	return nil
}

// found returns the offsets of the records that are in the log.
func (r *sendRun) found(mem *memfs.FS) (map[int]Offset, error) {
	l, err := open(mem, "/data", nil)
	if err != nil {
		return nil, err
	}
	defer func() { _ = l.Close() }()
	top, err := l.Topic("topic")
	if err != nil {
		return nil, err
	}
	found := map[int]Offset{}
	for i, p := range top.all() {
		for rec, err := range p.Records(ctx, Earliest, nil) {
			if err != nil {
				return nil, err
			}
			var n int
			if _, err := fmt.Sscan(string(rec.Value[:min(5, len(rec.Value))]), &n); err != nil {
				return nil, err
			}
			if _, twice := found[n]; twice || r.recs[n].partition != i {
				return nil, fmt.Errorf("record %d is there twice, or not where it belongs", n)
			}
			found[n] = rec.Offset
		}
	}
	return found, nil
}
