package riffle

import (
	"context"
	"encoding/binary"
	"hash/crc32"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/vfs"
)

// The benchmarks in this file run one piece of work beside the raw operation that
// limits it, in turns, so that a slow moment of the machine hits both. They report
// the median of each, "x-raw", ours divided by the raw one, and "ns-more", the median of
// what ours took more than the raw one beside it.

// turns runs ours and raw in turns for as long as b says, and reports medians
// for one of the n operations that each call does. What is to be done between the
// turns is not counted.
func turns(b *testing.B, n int, ours, raw func(), between ...func()) {
	var times [2][]float64
	for b.Loop() {
		for _, f := range between {
			f()
		}
		for i, f := range []func(){ours, raw} {
			began := time.Now()
			f()
			times[i] = append(times[i], float64(time.Since(began))/float64(n))
		}
	}
	more := make([]float64, len(times[0]))
	for i := range more {
		more[i] = times[0][i] - times[1][i]
	}
	b.ReportMetric(median(more), "ns-more")
	a, r := median(times[0]), median(times[1])
	b.ReportMetric(a, "ns/ours")
	b.ReportMetric(r, "ns/raw")
	b.ReportMetric(a/r, "x-raw")
	b.ReportMetric(0, "ns/op")
}

func median(x []float64) float64 {
	slices.Sort(x)
	return x[len(x)/2]
}

// rawMapping is a touched mapping of a file, into which batches are copied.
type rawMapping struct {
	b     *testing.B
	m     vfs.Mapping
	pos   int64
	next  uint64
	table *crc32.Table
}

func newRawMapping(b *testing.B, size int) *rawMapping {
	f := rawFile(b)
	require.NoError(b, f.Allocate(0, int64(size)))
	m, err := f.Map(0, size, true)
	require.NoError(b, err)
	require.NoError(b, m.Prefault(0, size))
	b.Cleanup(func() { require.NoError(b, m.Unmap()) })
	return &rawMapping{b: b, m: m, table: crc32.MakeTable(crc32.Castagnoli)}
}

// append copies batch behind the last one, with a header of its own and a CRC of
// what Kafka's covers.
func (r *rawMapping) append(batch []byte) {
	be := binary.BigEndian
	r.next++
	be.PutUint64(batch, r.next)
	be.PutUint32(batch[8:], uint32(len(batch)-12))
	be.PutUint32(batch[12:], 1)
	batch[16] = 2
	be.PutUint16(batch[21:], 0)
	be.PutUint32(batch[23:], 0)
	be.PutUint64(batch[27:], r.next)
	be.PutUint64(batch[35:], r.next)
	be.PutUint64(batch[43:], 1<<64-1)
	be.PutUint16(batch[51:], 1<<16-1)
	be.PutUint32(batch[53:], 1<<32-1)
	be.PutUint32(batch[57:], 1)
	be.PutUint32(batch[17:], crc32.Checksum(batch[21:], r.table))
	if r.pos+int64(len(batch)) > int64(r.m.Len()) {
		r.pos = 0
	}
	if _, err := r.m.WriteAt(batch, r.pos); err != nil {
		r.b.Fatal(err)
	}
	r.pos += int64(len(batch))
}

// BenchmarkLimitAppend appends batches under FlushAsync, less than is flushed
// meanwhile, beside copies of ready batches into a touched mapping. That one never
// takes a new page, as a log must: so the large batches are also appended beside
// writes of ready ones, with a CRC, to the end of a file.
func BenchmarkLimitAppend(b *testing.B) {
	bench := func(name string, recs, runs int, raw func(b *testing.B, batch []byte) (append, flush func())) {
		b.Run(name, func(b *testing.B) {
			recs, batch := benchRecs(recs, 100), make([]byte, 61+108*recs)
			p := benchPart(b, &TopicConfig{Flush: FlushAsync, FlushInterval: Forever})
			rawAppend, rawFlush := raw(b, batch)
			turns(b, runs, func() {
				for range runs {
					if _, err := p.Append(ctx, recs...); err != nil {
						b.Fatal(err)
					}
				}
			}, func() {
				for range runs {
					rawAppend()
				}
			}, func() { flushAll(b, p) }, rawFlush)
		})
	}
	copies := func(b *testing.B, batch []byte) (append, flush func()) {
		m := newRawMapping(b, 64<<20)
		return func() { m.append(batch) }, func() {}
	}
	writes := func(b *testing.B, batch []byte) (append, flush func()) {
		f, pos, table := rawFile(b), int64(0), crc32.MakeTable(crc32.Castagnoli)
		return func() {
			batch[0] = byte(crc32.Checksum(batch[21:], table))
			if _, err := f.WriteAt(batch, pos); err != nil {
				b.Fatal(err)
			}
			pos += int64(len(batch))
		}, func() { require.NoError(b, f.Sync("")) }
	}
	bench("1x100", 1, 30_000, copies)
	bench("1000x100", 1000, 100, copies)
	bench("1000x100 written", 1000, 100, writes)
}

// flushAll flushes p.
func flushAll(b *testing.B, p *Partition) {
	p.mu.Lock()
	require.NoError(b, p.unlockAndFlush(ctx, p.dataEnd))
}

// BenchmarkLimitStream appends 1,000 records of 100 bytes a call for long, under
// FlushAsync, beside writing ready batches with a CRC and flushing each 16 MiB.
func BenchmarkLimitStream(b *testing.B) {
	const runs = 1600 // 160 MB: ten flushes
	recs := benchRecs(1000, 100)
	p := benchPart(b, &TopicConfig{Flush: FlushAsync, FlushInterval: Forever})
	f := rawFile(b)
	batch := make([]byte, 61+108*1000)
	table := crc32.MakeTable(crc32.Castagnoli)
	pos := int64(0)
	turns(b, runs, func() {
		for range runs {
			if _, err := p.Append(ctx, recs...); err != nil {
				b.Fatal(err)
			}
		}
		flushAll(b, p)
	}, func() {
		unflushed := 0
		for i := range runs {
			batch[0] = byte(crc32.Checksum(batch[21:], table))
			if _, err := f.WriteAt(batch, pos); err != nil {
				b.Fatal(err)
			}
			pos += int64(len(batch))
			if unflushed += len(batch); unflushed >= flushAt || i == runs-1 {
				unflushed = 0
				if err := f.Sync(""); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}

// BenchmarkLimitDurable appends one record a call under FlushBeforeAck, with a
// context that cannot end and one that can, beside a write and a flush.
func BenchmarkLimitDurable(b *testing.B) {
	cancelable, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, c := range []struct {
		name string
		ctx  context.Context
	}{{"background", ctx}, {"cancelable", cancelable}} {
		b.Run(c.name, func(b *testing.B) {
			recs := benchRecs(1, 100)
			p := benchPart(b, nil)
			f := rawFile(b)
			batch, pos := make([]byte, 169), int64(0)
			turns(b, 1, func() {
				if _, err := p.Append(c.ctx, recs...); err != nil {
					b.Fatal(err)
				}
			}, func() {
				if _, err := f.WriteAt(batch, pos); err != nil {
					b.Fatal(err)
				}
				pos += int64(len(batch))
				if err := f.Sync(""); err != nil {
					b.Fatal(err)
				}
			})
		})
	}
}

// groupCommit is a group commit with nothing else: writers share flushes.
type groupCommit struct {
	mu           sync.Mutex
	flushed      sync.Cond
	f            vfs.File
	pos          int64
	round, ended int // of flushes
	busy         bool
}

func (g *groupCommit) append(batch []byte) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, err := g.f.WriteAt(batch, g.pos); err != nil {
		return err
	}
	g.pos += int64(len(batch))
	need := g.round + 1
	for g.ended < need {
		if g.busy {
			g.flushed.Wait()
			continue
		}
		g.busy = true
		g.round++
		round := g.round
		g.mu.Unlock()
		err := g.f.Sync("")
		g.mu.Lock()
		g.busy, g.ended = false, round
		g.flushed.Broadcast()
		if err != nil {
			return err
		}
	}
	return nil
}

// BenchmarkLimitGroup has 64 goroutines append one record a call each under
// FlushBeforeAck: to one partition, beside a bare group commit; and to 32
// partitions, beside one goroutine that does it all.
func BenchmarkLimitGroup(b *testing.B) {
	const writers, each = 64, 40
	recs := benchRecs(1, 100)
	together := func(b *testing.B, f func(writer int) error) {
		var all sync.WaitGroup
		for w := range writers {
			all.Go(func() {
				for range each {
					if err := f(w); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
	}
	b.Run("one partition", func(b *testing.B) {
		p := benchPart(b, nil)
		g := &groupCommit{f: rawFile(b)}
		g.flushed.L = &g.mu
		batch := make([]byte, 169)
		turns(b, writers*each, func() {
			together(b, func(int) error { _, err := p.Append(ctx, recs...); return err })
		}, func() {
			together(b, func(int) error { return g.append(batch) })
		})
	})
	b.Run("32 partitions", func(b *testing.B) {
		l, err := Open(filepath.Join(b.TempDir(), "data"), nil)
		require.NoError(b, err)
		b.Cleanup(func() { require.NoError(b, l.Close()) })
		top, err := l.CreateTopic(ctx, "topic", &TopicConfig{Partitions: 32})
		require.NoError(b, err)
		parts := slices.Collect(top.Partitions())
		for _, p := range parts { // makes its files
			_, err := p.Append(ctx, recs...)
			require.NoError(b, err)
		}
		turns(b, writers*each, func() {
			together(b, func(w int) error { _, err := parts[w%32].Append(ctx, recs...); return err })
		}, func() {
			for i := range writers * each {
				if _, err := parts[i%32].Append(ctx, recs...); err != nil {
					b.Fatal(err)
				}
			}
		})
	})
}

// BenchmarkWake measures the time from an append to a waiting reader's loop body,
// one record at a time, as a round trip between two goroutines: half of it is a
// channel's.
func BenchmarkWake(b *testing.B) {
	p := benchPart(b, &TopicConfig{Flush: FlushAsync})
	recs := benchRecs(1, 100)
	_, err := p.Append(ctx, recs...)
	require.NoError(b, err)
	follow, stop := context.WithCancel(ctx)
	defer stop()
	seen := make(chan time.Time, 1)
	go func() {
		for _, err := range p.FollowViews(follow, Latest, nil) {
			if err != nil {
				close(seen)
				return
			}
			seen <- time.Now()
		}
	}()
	var waits []float64
	for b.Loop() {
		began := time.Now()
		if _, err := p.Append(ctx, recs...); err != nil {
			b.Fatal(err)
		}
		waits = append(waits, float64((<-seen).Sub(began)))
	}
	slices.Sort(waits)
	b.ReportMetric(waits[len(waits)/2], "ns/p50")
	b.ReportMetric(waits[len(waits)*99/100], "ns/p99")
}

// BenchmarkOpen opens a log of 1 GiB in 256 MiB segments and reads its first and
// last record: after it was closed, after a kill, and after a power cut, which to
// the disk is the same but for the boot id.
func BenchmarkOpen(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "data")
	recs := benchRecs(100, 1024)
	fill := func(dir string, bytes int) *Log {
		l, err := Open(dir, nil)
		require.NoError(b, err)
		p := partOf(b, l, "topic", async)
		for n := 0; n < bytes; n += 100 << 10 {
			_, err := p.Append(ctx, recs...)
			require.NoError(b, err)
		}
		return l
	}
	require.NoError(b, fill(dir, 1<<30).Close())
	read := func(fsys vfs.FS) *Log {
		l, err := open(fsys, dir, nil)
		require.NoError(b, err)
		p := partOf(b, l, "topic", nil)
		for _, from := range []Offset{Earliest, p.dataEnd - 1} {
			n := 0
			for _, err := range p.Views(ctx, from, nil) {
				require.NoError(b, err)
				n++
				break
			}
			require.Equal(b, 1, n)
		}
		return l
	}
	report := func(b *testing.B, prepare func(), fsys vfs.FS) {
		var times []float64
		for range 7 {
			prepare()
			began := time.Now()
			l := read(fsys)
			times = append(times, float64(time.Since(began).Microseconds())/1000)
			require.NoError(b, l.Close())
		}
		b.ReportMetric(median(times), "ms")
	}
	b.Run("closed", func(b *testing.B) { report(b, func() {}, vfs.OS()) })
	killed := func() {
		l := fill(dir, 40<<20)
		for p := range l.partitions() {
			p.refuse()
		}
		require.NoError(b, kill(l))
	}
	b.Run("killed", func(b *testing.B) { report(b, killed, vfs.OS()) })
	b.Run("another boot", func(b *testing.B) { report(b, killed, &otherBoot{FS: vfs.OS()}) })
}

// otherBoot is a file system on a machine that was started again.
type otherBoot struct{ vfs.FS }

func (*otherBoot) BootID() string { return "another" }
