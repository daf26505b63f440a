package riffle

import (
	"errors"
	"fmt"
	"strings"
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

// counting returns a file system in memory, and what counts its operations on
// the topic's segments by their kind.
func counting() (*memfs.FS, *errfs.FS, func(errfs.Kind) int64) {
	disk := memfs.New()
	fsys := errfs.New(disk)
	var counts sync.Map
	fsys.OnOp(func(op errfs.Op) error {
		if strings.HasPrefix(op.Name, "/data/topic-0/") && strings.HasSuffix(op.Name, logSuffix) {
			n, _ := counts.LoadOrStore(op.Kind, new(atomic.Int64))
			n.(*atomic.Int64).Add(1)
		}
		return nil
	})
	return disk, fsys, func(kind errfs.Kind) int64 {
		if n, ok := counts.Load(kind); ok {
			return n.(*atomic.Int64).Load()
		}
		return 0
	}
}

// mappedPart returns a FlushAsync partition whose file is mapped from its first
// append on.
func mappedPart(t *testing.T, fsys vfs.FS, cfg TopicConfig) (*Log, *Partition) {
	l, err := openTuned(fsys, "/data", nil, tuning{ceilingStep: 1 << 40, boundsDelay: Forever, reserveBytes: 4096})
	require.NoError(t, err)
	cfg.Flush = FlushAsync
	if cfg.FlushInterval == 0 {
		cfg.FlushInterval = Forever
	}
	return l, partOf(t, l, "topic", &cfg)
}

// fillMapped appends until a file has n bytes, and waits after each append for
// what it began.
func fillMapped(t *testing.T, l *Log, p *Partition, n int64) {
	for size := int64(0); size < n; size = p.active().size {
		i := int(p.Bounds().End)
		appendValues(t, p, i, i+1)
		l.tasks.Wait()
	}
}

// TestSmallAppendsMakeNoSystemCall appends small batches to a busy FlushAsync
// partition: each is a store into the mapped file. What they wrote is read
// from there. A large batch is written.
func TestSmallAppendsMakeNoSystemCall(t *testing.T) {
	_, fsys, count := counting()
	l, p := mappedPart(t, fsys, TopicConfig{})
	defer l.Close()
	fillMapped(t, l, p, 300<<10)
	n := int64(p.Bounds().End)
	// One batch a boundary of extents passes it, and is written.
	require.LessOrEqual(t, count(errfs.Write), count(errfs.Map))
	require.Equal(t, n, count(errfs.Write)+count(errfs.MapWrite))
	require.Equal(t, wantValues(0, int(n)), readValues(t, p, Earliest))
	require.Equal(t, "v5", readValues(t, p, 5)[0])
	require.Positive(t, count(errfs.MapRead))

	before := count(errfs.Write)
	_, err := p.Append(ctx, Record{Value: make([]byte, maxMappedWrite)})
	require.NoError(t, err)
	require.Equal(t, before+1, count(errfs.Write))
	require.Len(t, readValues(t, p, Earliest), int(n)+1)
}

// TestWritingOnlyWhereMappingIsNotSafe has a file system on which a store may
// fault for want of space, and a partition that is flushed before each answer:
// neither maps.
func TestWritingOnlyWhereMappingIsNotSafe(t *testing.T) {
	_, fsys, count := counting()
	l, p := mappedPart(t, noMapWrites{fsys}, TopicConfig{})
	sure := partOf(t, l, "sure", nil)
	for i := range 100 {
		appendValues(t, p, i, i+1)
		appendValues(t, sure, i, i+1)
	}
	require.Zero(t, count(errfs.Map))
	require.NoError(t, l.Close())
}

// TestLargeAppendsFindSpaceSetAside appends large batches to a busy FlushAsync partition:
// they are written into space that was allocated ahead, in extents that grow, and not
// mapped. A write that fails gives the space back, as closing does, and then some more is
// allocated. Where mapping is not safe, and before each append is flushed, there is none.
func TestLargeAppendsFindSpaceSetAside(t *testing.T) {
	disk, fsys, count := counting()
	l, p := mappedPart(t, fsys, TopicConfig{SegmentBytes: 3 << 20})
	fill := func(n int) {
		for range n {
			_, err := p.Append(ctx, Record{Value: make([]byte, 100<<10)})
			require.NoError(t, err)
			l.tasks.Wait()
		}
	}
	length := func() int64 {
		f, err := disk.Open(p.active().file.Name())
		require.NoError(t, err)
		defer f.Close()
		n, err := f.Size()
		require.NoError(t, err)
		return n
	}
	fill(10)
	size := p.active().size
	require.Greater(t, length(), size+400<<10)
	require.LessOrEqual(t, length(), int64(3<<20))
	require.Equal(t, int64(10), count(errfs.Write))
	require.Less(t, count(errfs.Allocate), int64(8))
	require.Equal(t, 1, disk.Mappings()) // bounds

	fsys.OnOp(func(op errfs.Op) error {
		if op.Kind == errfs.Write && strings.HasSuffix(op.Name, logSuffix) {
			return vfs.ErrNoSpace
		}
		return nil
	})
	_, err := p.Append(ctx, Record{Value: make([]byte, 100<<10)})
	require.ErrorIs(t, err, ErrDiskFull)
	require.Equal(t, size, length())
	fsys.OnOp(nil)
	fill(10)
	require.Greater(t, length(), p.active().size)
	require.Len(t, readValues(t, p, Earliest), 20)
	before := p.active()
	fill(20)
	require.NotSame(t, before, p.active())
	require.NoError(t, l.Close())
	require.Equal(t, p.active().size, length())

	for name, cfg := range map[string]TopicConfig{"async": {Flush: FlushAsync}, "sure": {}} {
		_, fsys, count := counting()
		var all vfs.FS = fsys
		if name == "async" {
			all = noMapWrites{fsys}
		}
		l, err := open(all, "/data", nil)
		require.NoError(t, err)
		p := partOf(t, l, "topic", &cfg)
		for range 10 {
			_, err := p.Append(ctx, Record{Value: make([]byte, 100<<10)})
			require.NoError(t, err)
		}
		require.NoError(t, l.Close())
		require.Zero(t, count(errfs.Allocate))
	}
}

// TestMixedAppendsShareTheSpaceAhead: a large batch finds space set aside where it is mapped
// for small ones; no more is set aside behind that.
func TestMixedAppendsShareTheSpaceAhead(t *testing.T) {
	disk, fsys, count := counting()
	l, p := mappedPart(t, fsys, TopicConfig{})
	value := make([]byte, 2*maxMappedWrite)
	most := int64(0)
	for i := 0; p.active() == nil || p.active().size < 24<<20; i++ {
		size := maxMappedWrite - 200
		if i%10 == 9 {
			size = len(value)
		}
		_, err := p.Append(ctx, Record{Value: value[:size]})
		require.NoError(t, err)
		l.tasks.Wait()
		f, err := disk.Open(p.active().file.Name())
		require.NoError(t, err)
		length, err := f.Size()
		require.NoError(t, errors.Join(err, f.Close()))
		most = max(most, length-p.active().size)
	}
	require.Positive(t, count(errfs.Map))
	require.LessOrEqual(t, most, int64(16<<20)) // docs/FORMAT.md
	require.NoError(t, l.Close())
}

// TestNothingIsTouchedForLargeAppends: small batches among large ones, which would pass over
// the pages that are touched ahead, are written; once they are among themselves, they are
// copied again.
func TestNothingIsTouchedForLargeAppends(t *testing.T) {
	_, fsys, count := counting()
	l, p := mappedPart(t, fsys, TopicConfig{})
	add := func(size int) {
		_, err := p.Append(ctx, Record{Value: make([]byte, size)})
		require.NoError(t, err)
		l.tasks.Wait()
	}
	for range 100 {
		add(100)
	}
	touched := count(errfs.Prefault)
	require.Positive(t, touched)
	for range 100 {
		add(64 << 10)
		add(100)
	}
	require.LessOrEqual(t, count(errfs.Prefault), touched+1)
	before := count(errfs.MapWrite)
	for range 2000 {
		add(100)
	}
	require.Greater(t, count(errfs.MapWrite), before+1000)
	require.NoError(t, l.Close())
}

// TestFewSetSpaceAsideAtATime: each takes a thread until the disk has done it, and a busy
// log may have more partitions than the process may have threads. Who does not get his turn
// asks again with the next append.
func TestFewSetSpaceAsideAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := errfs.New(memfs.New())
		l, _ := mappedPart(t, fsys, TopicConfig{})
		var now, most, all atomic.Int64
		gate := make(chan struct{})
		fsys.OnOp(func(op errfs.Op) error {
			if op.Kind == errfs.Allocate && strings.HasSuffix(op.Name, logSuffix) {
				n := now.Add(1)
				most.Store(max(most.Load(), n)) // they come one by one
				all.Add(1)
				<-gate
				now.Add(-1)
			}
			return nil
		})
		var parts []*Partition
		for i := range 3 * maxSettingAside {
			parts = append(parts, partOf(t, l, fmt.Sprint("many", i), async))
		}
		appendAll := func() {
			for _, p := range parts {
				_, err := p.Append(ctx, Record{Value: make([]byte, 100<<10)})
				require.NoError(t, err)
				synctest.Wait()
			}
		}
		appendAll()
		require.EqualValues(t, maxSettingAside, most.Load())
		close(gate)
		synctest.Wait()
		appendAll()
		require.GreaterOrEqual(t, all.Load(), int64(len(parts)))
		require.NoError(t, l.Close())
	})
}

// TestGrowingThatBeginsLateIsCut rolls, and closes, while the task that is to allocate
// space has been started and not begun: nothing of the space is left behind the batches.
func TestGrowingThatBeginsLateIsCut(t *testing.T) {
	for name, grow := range map[string]func(*Partition, *segment){
		"aside":  (*Partition).setAside,
		"extent": (*Partition).extend,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				disk := memfs.New()
				l, p := mappedPart(t, noMapWrites{disk}, TopicConfig{})
				for end, do := range []func() error{p.roll, l.Close} {
					appendValues(t, p, end, end+1)
					seg, gate := p.active(), make(chan struct{})
					p.mu.Lock()
					p.inTask(&seg.mapped.extending, func() { <-gate; grow(p, seg) })
					p.mu.Unlock()
					ended := make(chan error)
					go func() { ended <- do() }()
					synctest.Wait()
					close(gate)
					require.NoError(t, <-ended)
					f, err := disk.Open(seg.file.Name())
					require.NoError(t, err)
					length, err := f.Size()
					require.NoError(t, errors.Join(err, f.Close()))
					require.Equal(t, seg.size, length)
				}
			})
		})
	}
}

// noMapWrites says that mapped files are not safe to write.
type noMapWrites struct{ vfs.FS }

func (n noMapWrites) Space(name string) (vfs.Space, error) {
	space, err := n.FS.Space(name)
	space.MapWrites = false
	return space, err
}

// TestQuietPartitionIsNotMapped appends a little, flushes, and so on: nothing is
// mapped before much is appended in one interval.
func TestQuietPartitionIsNotMapped(t *testing.T) {
	disk := memfs.New()
	l, err := open(disk, "/data", nil)
	require.NoError(t, err)
	defer l.Close()
	p := partOf(t, l, "topic", &TopicConfig{Flush: FlushAsync, FlushInterval: Forever})
	for i := range 20 {
		appendValues(t, p, i, i+1)
		p.mu.Lock()
		require.NoError(t, p.unlockAndFlush(ctx, Offset(i+1)))
	}
	require.Equal(t, 1, disk.Mappings()) // bounds
	appendValues(t, p, 20, 20+mapAfter/batchSize+2)
	l.tasks.Wait()
	require.Greater(t, disk.Mappings(), 1)
}

// TestIdlePartitionIsUnmapped lets a busy partition rest for an interval after
// its last flush: nothing is mapped any more, all can be read, and it is mapped
// again when it is busy again.
func TestIdlePartitionIsUnmapped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := memfs.New()
		l, p := mappedPart(t, disk, TopicConfig{FlushInterval: time.Second})
		appendValues(t, p, 0, 100)
		synctest.Wait()
		require.Greater(t, disk.Mappings(), 1)
		time.Sleep(1500 * time.Millisecond) //lint:sleep the clock is synctest's
		synctest.Wait()
		require.Greater(t, disk.Mappings(), 1)
		time.Sleep(time.Second) //lint:sleep the clock is synctest's
		require.Equal(t, 1, disk.Mappings())
		require.Equal(t, wantValues(0, 100), readValues(t, p, Earliest))
		appendValues(t, p, 100, 200)
		synctest.Wait()
		require.Greater(t, disk.Mappings(), 1)
		require.NoError(t, l.Close())
		require.Zero(t, disk.Mappings())
	})
}

// TestSpareSpaceIsCut closes a log, and rolls: no file keeps the space that was
// allocated ahead, and only the active segment is mapped.
func TestSpareSpaceIsCut(t *testing.T) {
	disk := memfs.New()
	l, p := mappedPart(t, disk, TopicConfig{SegmentBytes: 200 << 10})
	fillMapped(t, l, p, 199<<10)
	require.Greater(t, disk.Mappings(), 2)
	first := p.active()
	for p.active() == first {
		appendValues(t, p, int(p.Bounds().End), int(p.Bounds().End)+1)
	}
	l.tasks.Wait()
	require.Len(t, p.active().mapped.load(), disk.Mappings()-1) // and bounds
	entry, err := disk.Stat(first.file.Name())
	require.NoError(t, err)
	require.Equal(t, first.size, entry.Size)
	active, n := p.active(), int(p.Bounds().End)
	entry, err = disk.Stat(active.file.Name())
	require.NoError(t, err)
	require.Greater(t, entry.Size, active.size)

	require.NoError(t, l.Close())
	entry, err = disk.Stat(active.file.Name())
	require.NoError(t, err)
	require.Equal(t, active.size, entry.Size)
	l, p = mappedPart(t, disk, TopicConfig{})
	require.Equal(t, wantValues(0, n), readValues(t, p, Earliest))
	require.NoError(t, l.Close())
}

// TestFaultInAMappingIsAnError lets stores, and reads, into the mapped file
// fault: the file is written and read instead. If that fails too, it says what
// is wrong: a full disk, or a failed partition.
func TestFaultInAMappingIsAnError(t *testing.T) {
	disk := memfs.New()
	fsys := errfs.New(disk)
	l, p := mappedPart(t, fsys, TopicConfig{})
	appendValues(t, p, 0, 10)
	stores := fsys.FailKind(errfs.MapWrite, 0, vfs.ErrFault)
	loads := fsys.FailKind(errfs.MapRead, 0, vfs.ErrFault)
	appendValues(t, p, 10, 20)
	require.Equal(t, wantValues(0, 20), readValues(t, p, Earliest))

	writes := fsys.FailKind(errfs.Write, 0, vfs.ErrNoSpace)
	_, err := p.Append(ctx, Record{Value: []byte("full")})
	require.ErrorIs(t, err, ErrDiskFull)
	writes()
	stores()
	loads()
	appendValues(t, p, 20, 5000)
	require.Equal(t, wantValues(0, 5000), readValues(t, p, Earliest))

	fsys.FailKind(errfs.MapWrite, 0, vfs.ErrFault)
	writes = fsys.FailKind(errfs.Write, 0, errfs.ErrInjected)
	_, err = p.Append(ctx, Record{})
	requireAll(t, err, ErrPartitionFailed, ErrInDoubt)
	require.Equal(t, wantValues(0, 5000), readValues(t, p, Earliest))
	writes()
	require.NoError(t, l.Close())
}

// TestNoRoomToMapAhead lets the space behind the end be refused in each way:
// appends go on by writing, and map again later.
func TestNoRoomToMapAhead(t *testing.T) {
	for _, kind := range []errfs.Kind{errfs.Allocate, errfs.Map, errfs.Prefault} {
		t.Run(string(kind), func(t *testing.T) {
			disk, fsys, count := counting()
			l, p := mappedPart(t, fsys, TopicConfig{})
			fillMapped(t, l, p, 10<<10)
			allow := fsys.FailKind(kind, 0, vfs.ErrNoSpace)
			fillMapped(t, l, p, 150<<10)
			require.Greater(t, count(errfs.Write), int64(100))
			allow()
			fillMapped(t, l, p, 400<<10)
			before := count(errfs.Write)
			fillMapped(t, l, p, 410<<10)
			require.Equal(t, before, count(errfs.Write))
			n := int(p.Bounds().End)
			require.Equal(t, wantValues(0, n), readValues(t, p, Earliest))
			require.NoError(t, l.Close())
			require.Zero(t, disk.Mappings())
		})
	}
}

// TestMappingsAreLimited maps no more than the log may have; the partition that
// gets none writes.
func TestMappingsAreLimited(t *testing.T) {
	disk := memfs.New()
	l, p := mappedPart(t, disk, TopicConfig{})
	l.mappings.Store(maxMappings - 1)
	other := partOf(t, l, "other", &TopicConfig{Flush: FlushAsync, FlushInterval: Forever})
	appendValues(t, p, 0, 1)
	l.tasks.Wait()
	appendValues(t, p, 1, 100)
	appendValues(t, other, 0, 100)
	l.tasks.Wait()
	require.Equal(t, 2, disk.Mappings())
	require.Equal(t, wantValues(0, 100), readValues(t, other, Earliest))
	l.mappings.Add(1 - maxMappings)
	require.NoError(t, l.Close())
	require.Zero(t, l.mappings.Load())
}

// TestReadingWhileExtentsComeAndGo reads all the time while appends map, fail,
// unmap and roll. Under the race detector, on a file system in memory, it sees
// unordered access to mapped bytes.
func TestReadingWhileExtentsComeAndGo(t *testing.T) {
	disk := memfs.New()
	l, p := mappedPart(t, disk, TopicConfig{SegmentBytes: 300 << 10})
	var readers sync.WaitGroup
	stop := make(chan struct{})
	for range 3 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				i := 0
				for v, err := range p.Views(ctx, Earliest, nil) {
					if err != nil || string(v.Value()) != fmt.Sprintf("v%d", i) {
						t.Errorf("record %d is %q: %v", i, v.Value(), err)
						return
					}
					i++
				}
			}
		})
	}
	for i := range 10000 {
		appendValues(t, p, i, i+1)
		if i%1000 == 0 {
			p.mu.Lock()
			unmapped := p.active().mapped.unmap()
			p.mu.Unlock()
			l.release(unmapped)
		}
	}
	close(stop)
	readers.Wait()
	require.NoError(t, l.Close())
	require.Zero(t, disk.Mappings())
}

// TestNothingToCutIsNoError has a full disk on which nothing can be cut either,
// as btrfs does: nothing was written, so the partition heals.
func TestNothingToCutIsNoError(t *testing.T) {
	fsys := errfs.New(memfs.New())
	l := openAt(t, fsys, "/data", nil)
	p := partOf(t, l, "topic", nil)
	appendValues(t, p, 0, 1)
	write, cut := fsys.FailKind(errfs.Write, 0, vfs.ErrNoSpace), fsys.FailKind(errfs.Truncate, 0, vfs.ErrNoSpace)
	_, err := p.Append(ctx, Record{})
	require.ErrorIs(t, err, ErrDiskFull)
	write()
	appendValues(t, p, 1, 2)
	cut()
}

// TestPanicWhileTouchingFailsTheLog lets code of ours panic on the goroutine that
// touches pages: the log fails, the program does not.
func TestPanicWhileTouchingFailsTheLog(t *testing.T) {
	fsys := errfs.New(memfs.New())
	l, p := mappedPart(t, fsys, TopicConfig{})
	fsys.Add(errfs.Rule{Kind: errfs.Prefault, Before: func(errfs.Op) { panic("ours") }})
	appendValues(t, p, 0, 1)
	l.tasks.Wait()
	_, err := p.Append(ctx, Record{})
	require.ErrorIs(t, err, ErrClosed)
	require.ErrorIs(t, l.Close(), ErrClosed)
}

// TestNobodyWaitsForMapping holds up the allocation of space ahead: appends go on
// by writing.
func TestNobodyWaitsForMapping(t *testing.T) {
	fsys := errfs.New(memfs.New())
	l, p := mappedPart(t, fsys, TopicConfig{})
	appendValues(t, p, 0, 1)
	l.tasks.Wait()
	arrived, release := fsys.Block(errfs.Rule{Kind: errfs.Allocate})
	for i, blocked := 1, false; !blocked; i++ {
		appendValues(t, p, i, i+1)
		select {
		case <-arrived:
			blocked = true
		default:
		}
	}
	n := int(p.Bounds().End)
	appendValues(t, p, n, n+5000)
	require.Len(t, readValues(t, p, Earliest), n+5000)
	release()
	require.NoError(t, l.Close())
}

// TestCutOfAFailedWriteIsFlushedBeforeARoll writes a part of a batch to a full
// disk, which is cut, and rolls: a power cut must not bring the part back into a
// file that others follow, where it would be damage.
func TestCutOfAFailedWriteIsFlushedBeforeARoll(t *testing.T) {
	for seed := range uint64(60) {
		disk := memfs.New()
		fsys := errfs.New(disk)
		l, err := openTuned(fsys, "/data", nil, tuning{ceilingStep: 100, boundsDelay: Forever, reserveBytes: 4096, sealAtOnce: true})
		require.NoError(t, err)
		p := partOf(t, l, "topic", &TopicConfig{SegmentBytes: 4096})
		_, err = p.Append(ctx, Record{Value: make([]byte, 1000)})
		require.NoError(t, err)
		fsys.FailKind(errfs.Write, 1, &errfs.Partial{Bytes: 1500, Err: vfs.ErrNoSpace})
		_, err = p.Append(ctx, Record{Value: make([]byte, 2000)})
		require.ErrorIs(t, err, ErrDiskFull)
		_, err = p.Append(ctx, Record{Value: make([]byte, 3500)}) // rolls
		require.NoError(t, err)

		after := openAt(t, disk.CrashClone(seed), "/data", nil)
		p = partOf(t, after, "topic", nil)
		require.Len(t, readValues(t, p, Earliest), 2)
		_, err = p.Append(ctx, Record{})
		require.NoError(t, err)
		require.NoError(t, l.Close())
	}
}
