package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// errCannot is the error of a contender that cannot do the work of a row: its cell stays empty.
var errCannot = errors.New("not possible")

func errMissing(i int) error { return fmt.Errorf("no record %d", i) }

// sample is what one turn took.
type sample struct {
	operations int
	elapsed    time.Duration
	allocs     uint64 // of the whole process
}

// seconds is the time of one operation.
func (s sample) seconds() float64 { return s.elapsed.Seconds() / float64(s.operations) }

// bench is one run of the program.
type bench struct {
	scale scale
	dir   string
	fills map[string]bool      // directories that are filled
	kept  map[*contender]*turn // stores that stay open until the row ends
	used  int                  // directories
}

// newBench returns a run at a scale in a directory.
func newBench(s scale, dir string) *bench {
	return &bench{scale: s, dir: dir, fills: map[string]bool{}, kept: map[*contender]*turn{}}
}

// poolSize is how many different records are appended, over and over: as many as fit
// into a processor's cache with what else is needed.
const poolSize = 1000

// pool returns records of size bytes that no compression makes smaller, the same in each run.
func pool(size int) [][]byte {
	random := rand.NewChaCha8([32]byte{1})
	records := make([][]byte, poolSize)
	for i := range records {
		records[i] = make([]byte, size)
		_, _ = random.Read(records[i]) // never fails
	}
	return records
}

// turn is one contender's turn at one row.
type turn struct {
	scale   scale
	size    int // of a record
	writers int
	records [][]byte
	store   store
	stored  int // records that are there before
	used    int // records
	warm    bool
	sample  sample
	sink    byte
}

// timed runs f and counts its operations, with no garbage of others left.
func (t *turn) timed(f func() (operations int, err error)) error {
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	began := time.Now()
	n, err := f()
	t.sample.elapsed = time.Since(began)
	runtime.ReadMemStats(&after)
	t.sample.operations, t.sample.allocs = n, after.Mallocs-before.Mallocs
	if err == nil && n == 0 {
		err = errors.New("no operation was done")
	}
	return err
}

// repeat calls f until the time is over, or most times. It looks at the clock about
// each millisecond: that can take as long as an operation.
func (t *turn) repeat(limit time.Duration, most int, f func() error) (calls int, err error) {
	began := time.Now()
	chunk, checked := 1, began
	for calls < most {
		for range min(chunk, most-calls) {
			if err := f(); err != nil {
				return calls, err
			}
			calls++
		}
		now := time.Now()
		if now.Sub(began) >= limit {
			break
		}
		if now.Sub(checked) < time.Millisecond {
			chunk *= 2
		}
		checked = now
	}
	return calls, nil
}

// next returns the next record to append.
func (t *turn) next() []byte {
	t.used++
	return t.records[t.used%len(t.records)]
}

// calls appends n records a call.
func (t *turn) calls(n int) error {
	f := func() error { return t.store.appendMany(t.records[:n]) }
	if n == 1 {
		f = func() error { return t.store.appendOne(t.next()) }
	}
	if err := t.warmUp(n, f); err != nil {
		return err
	}
	return t.timed(func() (int, error) {
		calls, err := t.repeat(t.scale.turn, t.scale.room/t.size/n, f)
		return calls * n, err
	})
}

// warmUp calls f, which appends n records, for a small part of a turn: until files have
// their first pages, and caches what they need.
func (t *turn) warmUp(n int, f func() error) error {
	if t.warm {
		return nil
	}
	t.warm = true
	_, err := t.repeat(t.scale.turn/10, max(1, t.scale.room/16/t.size/n), f)
	return err
}

// singly appends one record a call; its sample is the median call. A disk that is busy
// makes few of them take a hundred times as long as the others, and those would
// decide a mean of so short a turn.
func (t *turn) singly() error {
	f := func() error { return t.store.appendOne(t.next()) }
	if err := t.warmUp(1, f); err != nil {
		return err
	}
	var calls []float64
	err := t.timed(func() (int, error) {
		return t.repeat(t.scale.turn, 1<<30, func() error {
			began := time.Now()
			err := f()
			calls = append(calls, float64(time.Since(began)))
			return err
		})
	})
	t.sample.elapsed = time.Duration(median(calls) * float64(t.sample.operations))
	return err
}

// pipelined enqueues records, and waits for all of them at the end.
func (t *turn) pipelined() error {
	p, ok := t.store.(pipeliner)
	if !ok {
		return errCannot
	}
	enqueue := func() error { return p.enqueue(t.next()) }
	if err := t.warmUp(1, enqueue); err != nil {
		return err
	}
	if err := p.drain(); err != nil {
		return err
	}
	return t.timed(func() (int, error) {
		n, err := t.repeat(t.scale.turn, t.scale.room/t.size, enqueue)
		if err != nil {
			return n, err
		}
		return n, p.drain()
	})
}

// together has all writers append at the same time, one record a call.
func (t *turn) together() error { return t.atOnce(t.store.appendOne) }

// sentTogether has as many goroutines share a producer.
func (t *turn) sentTogether() error {
	s, ok := t.store.(sender)
	if !ok {
		return errCannot
	}
	return t.atOnce(s.send)
}

func (t *turn) atOnce(add func(record []byte) error) error {
	if err := t.warmUp(1, func() error { return add(t.next()) }); err != nil {
		return err
	}
	return t.timed(func() (int, error) {
		var done atomic.Int64
		var all sync.WaitGroup
		errs := make([]error, t.writers)
		until := time.Now().Add(t.scale.turn)
		for w := range t.writers {
			all.Go(func() {
				n := 0
				for errs[w] == nil && (n == 0 || time.Now().Before(until)) {
					errs[w] = add(t.records[(w+n)%len(t.records)])
					n++
				}
				done.Add(int64(n))
			})
		}
		all.Wait()
		return int(done.Load()), errors.Join(errs...)
	})
}

// readAll reads all records in order, again and again.
func (t *turn) readAll(owned bool) error {
	r, ok := t.store.(reader)
	if !ok {
		return errCannot
	}
	return t.timed(func() (int, error) {
		passes, err := t.repeat(t.scale.turn, 1000, func() error {
			n, bytes := 0, 0
			err := r.readAll(owned, func(record []byte) {
				n, bytes = n+1, bytes+len(record)
				t.sink += record[0]
			})
			if err == nil && (n != t.stored || bytes != n*t.size) {
				err = fmt.Errorf("read %d records with %d bytes, %d were appended", n, bytes, t.stored)
			}
			return err
		})
		return passes * t.stored, err
	})
}

// readAt reads single records in an order that comes by all of them.
func (t *turn) readAt() error {
	r, ok := t.store.(reader)
	if !ok {
		return errCannot
	}
	i := 0
	return t.timed(func() (int, error) {
		return t.repeat(t.scale.turn, 1<<30, func() error {
			i = (i*48_261 + 11) % t.stored
			record, err := r.readAt(i)
			if err == nil && len(record) != t.size {
				err = fmt.Errorf("record %d has %d bytes", i, len(record))
			}
			return err
		})
	})
}

// fresh returns a turn on a store of its own, which is removed afterwards: so nobody's
// background work, and nobody's pages, are left to the next one.
func fresh(s settings, size int, work func(*turn) error) func(*bench, *contender) (sample, error) {
	records := pool(size)
	return func(b *bench, c *contender) (_ sample, err error) {
		s := s
		s.room = b.scale.room
		if s.dir, err = b.newDir(); err != nil {
			return sample{}, err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(s.dir)) }()
		st, err := c.open(s)
		if err != nil {
			return sample{}, err
		}
		t := &turn{scale: b.scale, size: size, writers: s.writers, records: records, store: st}
		err = work(t)
		return t.sample, errors.Join(err, st.close())
	}
}

// kept returns a turn on a store that stays open until the row ends: for work that leaves
// nothing to do in the background, so that turns can be short and many.
func kept(s settings, size int, work func(*turn) error) func(*bench, *contender) (sample, error) {
	records := pool(size)
	return func(b *bench, c *contender) (sample, error) {
		t := b.kept[c]
		if t == nil {
			s := s
			s.room = b.scale.room
			var err error
			if s.dir, err = b.newDir(); err != nil {
				return sample{}, err
			}
			st, err := c.open(s)
			if err != nil {
				return sample{}, err
			}
			t = &turn{size: size, writers: s.writers, records: records, store: st}
			b.kept[c] = t
		}
		t.scale = b.scale
		err := work(t)
		return t.sample, err
	}
}

// closeKept closes what kept has opened.
func (b *bench) closeKept() error {
	var err error
	for _, t := range b.kept {
		err = errors.Join(err, t.store.close())
	}
	clear(b.kept)
	return err
}

// newDir makes a directory that nobody has used.
func (b *bench) newDir() (string, error) {
	b.used++
	dir := filepath.Join(b.dir, fmt.Sprint(b.used))
	return dir, os.Mkdir(dir, 0o700)
}

// fill is what a store has in it when it is read.
type fill struct {
	name  string
	size  int // of a record
	batch int // records a call
	count int // of records
}

// of returns the directory of c's store with that in it, which is filled once.
func (f fill) of(b *bench, c *contender) (dir string, err error) {
	dir = filepath.Join(b.dir, f.name+"-"+filepath.Base(c.name))
	if b.fills[dir] {
		return dir, nil
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	defer func() {
		if b.fills[dir] = err == nil; err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	n := f.count
	st, err := c.open(settings{dir: dir, writers: 1, room: n * f.size})
	if err != nil {
		return "", err
	}
	records := pool(f.size)
	for i := 0; i < n && err == nil; i += f.batch {
		if f.batch == 1 {
			err = st.appendOne(records[i%len(records)])
		} else {
			err = st.appendMany(records[:min(f.batch, n-i)])
		}
	}
	return dir, errors.Join(err, st.close())
}

// filled returns a turn on a store that has something in it and was closed.
func filled(f fill, work func(*turn) error) func(*bench, *contender) (sample, error) {
	return func(b *bench, c *contender) (sample, error) {
		dir, err := f.of(b, c)
		if err != nil {
			return sample{}, err
		}
		st, err := c.open(settings{dir: dir, writers: 1})
		if err != nil {
			return sample{}, err
		}
		t := &turn{scale: b.scale, size: f.size, stored: f.count, store: st}
		err = work(t)
		return t.sample, errors.Join(err, st.close())
	}
}

// reopened returns a turn that opens such a store and reads both ends of it.
func reopened(f fill) func(*bench, *contender) (sample, error) {
	return func(b *bench, c *contender) (sample, error) {
		dir, err := f.of(b, c)
		if err != nil {
			return sample{}, err
		}
		var st store
		t := &turn{}
		err = t.timed(func() (n int, err error) {
			if st, err = c.open(settings{dir: dir, writers: 1}); err != nil {
				return 0, err
			}
			r, ok := st.(reader)
			if !ok {
				return 0, errCannot
			}
			for _, i := range []int{0, f.count - 1} {
				if _, err := r.readAt(i); err != nil {
					return 0, err
				}
			}
			return 1, nil
		})
		if st != nil {
			err = errors.Join(err, st.close())
		}
		return t.sample, err
	}
}
