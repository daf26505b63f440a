package riffle

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/invariants"
	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// startRun lets the power fail before each operation of a life in which records are
// deleted: what is acknowledged as deleted is gone, all else that is durable is
// there, and the log goes on.
type startRun struct {
	mem   *memfs.FS
	fs    *errfs.FS
	skip  vfs.Site
	flush FlushPolicy
	seeds uint64

	every, from int64 // see sampled; zero: the power fails before each operation

	l          *Log
	p          *Partition
	start, end Offset // of what is acknowledged
	most       Offset // the start that was asked for last
	sent       Offset
	broken     error
	states     int
}

func (r *startRun) run() error {
	r.mem = memfs.New()
	r.fs = errfs.New(r.mem)
	r.fs.Skip(r.skip)
	var mu sync.Mutex // opening flushes in the background
	r.fs.OnOp(func(op errfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		for seed := uint64(0); r.broken == nil && seed < r.seeds && (op.N-r.from)%max(r.every, 1) == 0 && changes(op); seed++ {
			r.states++
			if err := r.verify(r.mem.CrashClone(seed)); err != nil {
				r.broken = fmt.Errorf("crash before %v, seed %d: %w", op, seed, err)
			}
		}
		if r.broken != nil {
			return errDead
		}
		return nil
	})
	err := r.workload()
	r.fs.OnOp(nil)
	return errors.Join(r.broken, err)
}

func (r *startRun) workload() error {
	if err := r.open(r.fs); err != nil {
		return err
	}
	for _, step := range []func() error{
		func() error { return r.append(20) },
		func() error { return r.delete(8) },
		func() error { return r.delete(13) },
		func() error { return r.append(3) },
		r.reopen,
		func() error { return r.delete(15) },
		func() error { return r.delete(23) },
		r.reopen,
		func() error { return r.append(9) },
		func() error { return r.delete(32) },
		func() error { return r.append(9) },
		func() error { return r.delete(36) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return r.l.Close()
}

func (r *startRun) open(fsys vfs.FS) (err error) {
	if r.l, err = openCrashed(fsys); err == nil {
		var t *Topic
		cfg := &TopicConfig{SegmentBytes: 1024, Flush: r.flush, FlushInterval: Forever}
		if t, err = r.l.EnsureTopic(ctx, "topic", cfg); err == nil {
			r.p = t.all()[0]
		}
	}
	return err
}

func (r *startRun) reopen() error {
	if err := r.l.Close(); err != nil {
		return err
	}
	r.end = r.sent
	return r.open(r.fs)
}

func (r *startRun) append(n int) error {
	for range n {
		r.sent++
		if _, err := r.p.Append(ctx, startRecord(r.sent-1)); err != nil {
			return err
		}
		r.l.tasks.Wait()
		if r.flush == FlushBeforeAck {
			r.end = r.sent
		}
	}
	return nil
}

func startRecord(o Offset) Record {
	return Record{Timestamp: time.UnixMilli(1000), Value: fmt.Appendf(nil, "%0180d", o)}
}

func (r *startRun) delete(to Offset) error {
	r.most = to
	if err := r.p.DeleteBefore(ctx, to); err != nil {
		return err
	}
	r.start = to
	r.l.tasks.Wait()
	return nil
}

// verify opens a state that a crash left, appends, and does the same once more.
func (r *startRun) verify(disk *memfs.FS) error {
	v := &startRun{flush: r.flush}
	fsys := errfs.New(disk)
	fsys.Skip(r.skip)
	next := Offset(-1)
	for range 3 {
		if err := v.open(fsys); err != nil {
			return err
		}
		b := v.p.Bounds()
		if v.p.damaged != nil || b.Start < r.start || b.Start > r.most && b.Start < r.end || b.End < r.end || next >= 0 && b.End != next {
			return fmt.Errorf("bounds %+v, start %d to %d, end at least %d, or %d: %w", b, r.start, r.most, r.end, next, v.p.damaged)
		}
		at := b.Start
		for rec, err := range v.p.Records(ctx, Earliest, nil) {
			if err == nil && (rec.Offset != at && at < r.end || string(rec.Value) != string(startRecord(rec.Offset).Value)) {
				err = fmt.Errorf("offset %d, want %d", rec.Offset, at)
			}
			if err != nil {
				return err
			}
			at = rec.Offset + 1
		}
		if at < r.end {
			return fmt.Errorf("records end at %d, want %d", at, r.end)
		}
		if _, err := v.p.Append(ctx, startRecord(b.End)); err != nil {
			return err
		}
		next = b.End + 1
		if err := v.l.Close(); err != nil {
			return err
		}
	}
	return nil
}

// TestNoCrashBringsDeletedRecordsBack lets the power fail everywhere while records
// are deleted.
func TestNoCrashBringsDeletedRecordsBack(t *testing.T) {
	t.Parallel()
	seeds := uint64(3)
	if invariants.Enabled {
		seeds = 1
	}
	for _, flush := range []FlushPolicy{FlushBeforeAck, FlushAsync} {
		every, from := sampled(t, 1)
		r := &startRun{flush: flush, seeds: seeds, every: every, from: from}
		require.NoError(t, r.run())
		t.Logf("%d states", r.states)
		require.Contains(t, r.fs.Sites(), siteStart)
	}
}

// TestStartSiteIsNeeded leaves the flush of the start out, and shows that the same
// run then finds a broken promise.
func TestStartSiteIsNeeded(t *testing.T) {
	t.Parallel()
	var broken error
	for i := 0; i < 4 && broken == nil; i++ {
		flush := []FlushPolicy{FlushBeforeAck, FlushAsync}[i%2]
		broken = (&startRun{flush: flush, seeds: 1 + uint64(i/2)*6, skip: siteStart}).run()
	}
	require.Error(t, broken, "nothing breaks without %s", siteStart)
	t.Log(broken)
}
