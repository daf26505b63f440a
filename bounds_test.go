package riffle

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/invariants"
	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

const boundsDir = "/data"

// newBoundsFS returns a file system with an empty, durable directory.
func newBoundsFS(t testing.TB) *memfs.FS {
	m := memfs.New()
	require.NoError(t, m.Mkdir(boundsDir))
	require.NoError(t, m.SyncDir("", "/"))
	return m
}

func openTestBounds(t testing.TB, fsys vfs.FS) *bounds {
	t.Helper()
	b, err := openBounds(fsys, boundsDir, fsys.BootID())
	require.NoError(t, err)
	return b
}

func slotOf(t testing.TB, b *bounds, key boundsKey) *boundsEntry {
	t.Helper()
	e, _, _, err := b.slotFor(key.topic, key.partition)
	require.NoError(t, err)
	return e
}

// testKey is the i-th partition of a topic; neighbours share a sector.
func testKey(i int) boundsKey { return boundsKey{[16]byte{byte(i%2 + 1)}, int32(i / 2)} }

// version is the i-th version of a partition's crash part.
func version(i int) crashPart {
	return crashPart{start: Offset(i / 2), flushed: Offset(i), ceiling: Offset(i + 1000), clean: i%3 == 0, failed: i%5 == 0}
}

// boundsRun runs a small workload, and lets the power fail at each operation.
type boundsRun struct {
	mem   *memfs.FS
	fs    *errfs.FS
	skip  vfs.Site
	seeds uint64
	b     *bounds

	set     map[boundsKey]int // the last version that was set; the first is 1
	durable map[boundsKey]int // the last one that is known to be on the disk

	states int
	broken error
}

func newBoundsRun(t testing.TB, skip vfs.Site, seeds uint64) *boundsRun {
	mem := newBoundsFS(t)
	r := &boundsRun{
		mem: mem, fs: errfs.New(mem), skip: skip, seeds: seeds,
		set: map[boundsKey]int{}, durable: map[boundsKey]int{},
	}
	r.fs.Skip(skip)
	r.fs.OnOp(func(op errfs.Op) error {
		for seed := range seeds {
			if r.broken == nil {
				r.states++
				if err := r.crash(seed); err != nil {
					r.broken = fmt.Errorf("crash before %v, seed %d: %w", op, seed, err)
				}
			}
		}
		return nil
	})
	err := r.workload()
	r.fs.OnOp(nil)
	if r.broken == nil {
		r.broken = err
	}
	if r.broken == nil {
		r.broken = r.rot()
	}
	return r
}

// workload goes through everything that writes: a directory flush and a flush
// that fail, killed processes, partitions in one sector that are written
// together or apart, more partitions than the file has room for, deletion.
func (r *boundsRun) workload() error {
	r.fs.FailSite(siteBoundsDir, 1, nil)
	if err := r.open(); !errors.Is(err, errfs.ErrInjected) {
		return fmt.Errorf("open: %w", err)
	}
	if err := r.open(); err != nil {
		return err
	}
	for _, keys := range [][]int{{0, 1, 2}, {1}, {0, 1}, {0}, {2, 1}} {
		if err := r.write(keys...); err != nil {
			return err
		}
	}
	r.fs.FailSite(siteBoundsFlush, 1, nil)
	if err := r.write(0, 2); !errors.Is(err, errfs.ErrInjected) {
		return fmt.Errorf("sync: %w", err)
	}
	if err := errors.Join(r.open(), r.write(1), r.open(), r.growAndWrite()); err != nil {
		return err
	}
	if err := r.remove(1); err != nil {
		return err
	}
	return errors.Join(r.write(1001), r.write(1001, 0), r.open(), r.retain(0), r.write(1002, 1003), r.open(), r.write(0))
}

// open opens the file as a new process does, after the one before was killed.
// What it finds counts as durable: somebody may rely on it.
func (r *boundsRun) open() (err error) {
	if r.b != nil {
		if err := r.b.close(); err != nil {
			return err
		}
	}
	if r.b, err = openBounds(r.fs, boundsDir, r.fs.BootID()); err != nil {
		return err
	}
	shown, err := r.compare(r.b, r.durable, true)
	for key, v := range shown {
		r.durable[key] = v
	}
	return err
}

// write sets new versions of the partitions, and flushes them.
func (r *boundsRun) write(partitions ...int) error {
	for _, i := range partitions {
		e, _, _, err := r.b.slotFor(testKey(i).topic, testKey(i).partition)
		if err != nil {
			return err
		}
		key := testKey(i)
		r.set[key]++
		e.setCrash(version(r.set[key]))
		o := Offset(r.set[key])
		if err := e.publish(Bounds{Start: o, LastStable: o, HighWatermark: o, End: o}); err != nil {
			return err
		}
	}
	if err := r.b.sync(siteBoundsFlush); err != nil {
		return err
	}
	for _, i := range partitions {
		r.durable[testKey(i)] = r.set[testKey(i)]
	}
	return nil
}

// growAndWrite makes so many partitions that the file grows, and writes some.
func (r *boundsRun) growAndWrite() error {
	const many = (boundsGrow-boundsHeaderSize)/boundsEntrySize + 5
	for i := range many {
		if _, _, _, err := r.b.slotFor(testKey(i).topic, testKey(i).partition); err != nil {
			return err
		}
	}
	return r.write(many-1, 10, many-2)
}

func (r *boundsRun) forget(i int) {
	delete(r.set, testKey(i))
	delete(r.durable, testKey(i))
}

func (r *boundsRun) remove(i int) error {
	e, _, _, err := r.b.slotFor(testKey(i).topic, testKey(i).partition)
	if err != nil {
		return err
	}
	r.forget(i)
	return r.b.remove(e)
}

// retain gives up all partitions but one.
func (r *boundsRun) retain(i int) error {
	for key := range r.set {
		if key != testKey(i) {
			delete(r.set, key)
			delete(r.durable, key)
		}
	}
	return r.b.retain(func(topic [16]byte, partition int32) bool { return boundsKey{topic, partition} == testKey(i) })
}

// compare holds what b has against what was set: each partition has one of its
// versions, none older than the one in atLeast. It returns which. Partitions
// that are not in set are deleted ones.
func (r *boundsRun) compare(b *bounds, atLeast map[boundsKey]int, sameBoot bool) (map[boundsKey]int, error) {
	shown := map[boundsKey]int{}
	for key, last := range r.set {
		_, part, known := b.lookup(key)
		v := 0
		if known {
			v = int(part.flushed)
			want := version(v)
			want.sameBoot = part.sameBoot
			if part != want || v > last {
				return nil, fmt.Errorf("%v is %+v, which was never set: %d", key, part, last)
			}
			if part.sameBoot && !sameBoot {
				return nil, fmt.Errorf("%v is %+v after another boot", key, part)
			}
			shown[key] = v
		}
		if v < atLeast[key] {
			return nil, fmt.Errorf("%v is of version %d, want %d to %d", key, v, atLeast[key], last)
		}
	}
	return shown, nil
}

// crash draws a state of the disk as of now and opens it: it has what is
// durable, and what it shows is so too, whenever the power fails next.
func (r *boundsRun) crash(seed uint64) error {
	disk := r.mem.CrashClone(seed)
	fsys := errfs.New(disk)
	fsys.Skip(r.skip)
	var again error
	fsys.OnOp(func(op errfs.Op) error {
		if again == nil && op.N%5 == int64(seed)%5 {
			again = r.check(disk.CrashClone(seed), r.durable)
		}
		return nil
	})
	b, err := openBounds(fsys, boundsDir, disk.BootID())
	fsys.OnOp(nil)
	if err != nil || again != nil {
		return errors.Join(err, again)
	}
	shown, err := r.compare(b, r.durable, false)
	if err == nil {
		err = r.check(disk.CrashClone(seed), shown)
	}
	return errors.Join(err, b.close())
}

func (r *boundsRun) check(disk *memfs.FS, atLeast map[boundsKey]int) error {
	fsys := errfs.New(disk)
	fsys.Skip(r.skip)
	b, err := openBounds(fsys, boundsDir, disk.BootID())
	if err != nil {
		return err
	}
	_, err = r.compare(b, atLeast, false)
	return errors.Join(err, b.close())
}

// rot flips a bit of a partition's newest slot: it has the version before, in
// doubt; its neighbours have theirs.
func (r *boundsRun) rot() error {
	e, _, _, err := r.b.slotFor(testKey(0).topic, testKey(0).partition)
	if err != nil {
		return err
	}
	at := e.off + boundsSlots + int64(e.durable.index)*boundsSlotSize + 40
	if _, err := r.b.file.WriteAt([]byte{99}, at); err != nil {
		return err
	}
	if err := r.b.close(); err != nil {
		return err
	}
	if r.b, err = openBounds(r.fs, boundsDir, "another boot"); err != nil {
		return err
	}
	defer r.b.close()
	_, part, known := r.b.lookup(testKey(0))
	want := version(r.set[testKey(0)] - 1)
	want.clean, want.failed = false, true
	if !known || part != want {
		return fmt.Errorf("rotten slot: %+v, want %+v", part, want)
	}
	r.forget(0)
	_, err = r.compare(r.b, r.durable, false)
	return err
}

// TestBoundsSurviveCrashes lets the power fail before each operation: each
// partition has the last version that was flushed, or a later one that was set,
// and what one opening shows the next one has too.
func TestBoundsSurviveCrashes(t *testing.T) {
	t.Parallel()
	seeds := uint64(8)
	if invariants.Enabled {
		seeds = 2 // as below
	}
	r := newBoundsRun(t, "", seeds)
	require.NoError(t, r.broken)
	require.Zero(t, r.mem.OpenFiles())
	require.Zero(t, r.mem.Mappings())
	t.Logf("%d states", r.states)
}

// boundsSites are the places in bounds.go that flush or check.
var boundsSites = []vfs.Site{siteBoundsDir, siteBoundsOpen, siteBoundsFlush, siteBoundsCheck}

// TestEveryBoundsSiteIsNeeded leaves out one site after the other and shows that
// the same run then finds a broken promise.
func TestEveryBoundsSiteIsNeeded(t *testing.T) {
	t.Parallel()
	if invariants.Enabled {
		return // as TestEverySiteIsNeeded
	}
	for _, site := range boundsSites {
		t.Run(string(site), func(t *testing.T) {
			r := newBoundsRun(t, site, 4)
			require.Error(t, r.broken, "nothing breaks without %s", site)
			t.Log(r.broken)
		})
	}
	seen := newBoundsRun(t, "", 0).fs.Sites()
	require.ElementsMatch(t, boundsSites, seen)
}

// A slot that comes to the disk torn at any byte, or half of whose bytes are
// there, leaves the version before, and its neighbours in the sector as they
// are. After the first byte of the next slot it is in doubt.
func TestTornSlotLeavesTheOneBefore(t *testing.T) {
	m := newBoundsFS(t)
	b := openTestBounds(t, m)
	left, right := slotOf(t, b, testKey(0)), slotOf(t, b, testKey(1))
	read := func() []byte {
		data := make([]byte, boundsGrow)
		_, err := b.file.ReadAt(data, 0)
		require.NoError(t, err)
		return data
	}
	for v := 1; v <= 3; v++ { // the first has no version before it
		before := read()
		left.setCrash(version(3 * v))
		require.NoError(t, b.sync(siteBoundsFlush))
		after := read()
		at := int(left.off) + boundsSlots + left.durable.index*boundsSlotSize
		if v == 1 {
			right.setCrash(version(7))
			require.NoError(t, b.sync(siteBoundsFlush))
			after, before = read(), slices.Concat(before[:right.off], read()[right.off:])
		}
		for n := range boundsSlotSize + 1 {
			for _, half := range []bool{false, true} {
				torn := slices.Clone(before)
				copy(torn[at:], after[at:at+n])
				if half { // the end came first
					torn = slices.Clone(after)
					copy(torn[at:], before[at:at+n])
				}
				whole := string(torn[at:at+boundsSlotSize]) == string(after[at:at+boundsSlotSize])
				none := string(torn[at:at+boundsSlotSize]) == string(before[at:at+boundsSlotSize])
				want, known := version(3*(v-1)), v > 1
				if whole {
					want, known = version(3*v), true
				} else if known && !none && (v > 2 || !allZero(torn[at:at+boundsSlotSize])) {
					want.clean, want.failed = false, true
				}
				fresh := newBoundsFS(t)
				writeFile(t, fresh, filepath.Join(boundsDir, boundsName), torn)
				b := openTestBounds(t, fresh)
				_, part, ok := b.lookup(left.key)
				part.sameBoot = false
				require.Equal(t, known, ok, "version %d, %d bytes, %v", v, n, half)
				if known {
					require.Equal(t, want, part, "version %d, %d bytes, %v", v, n, half)
				}
				_, part, ok = b.lookup(right.key)
				require.True(t, ok)
				part.sameBoot = false
				require.Equal(t, version(7), part)
				require.NoError(t, b.close())
			}
		}
	}
	require.NoError(t, b.close())
}

func writeFile(t testing.TB, fsys vfs.FS, name string, data []byte) {
	t.Helper()
	f, err := fsys.Create(name)
	require.NoError(t, err)
	_, err = f.WriteAt(data, 0)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

// Both slots bad: that partition is unknown, its place is free, the others are
// known. A damaged header: the slots stand by themselves. A header of a later
// version: refused, unchanged.
func TestDamagedBounds(t *testing.T) {
	t.Run("both slots", func(t *testing.T) {
		var off int64
		_, b, err := damageBounds(t, func(b *bounds) {
			off = slotOf(t, b, testKey(1)).off
			for i := range int64(2) {
				_, err := b.file.WriteAt([]byte{77}, off+boundsSlots+i*boundsSlotSize+90)
				require.NoError(t, err)
			}
		})
		require.NoError(t, err)
		_, _, known := b.lookup(testKey(1))
		require.False(t, known)
		for _, i := range []int{0, 2} {
			_, part, known := b.lookup(testKey(i))
			require.True(t, known)
			require.Equal(t, version(2).flushed, part.flushed)
		}
		require.Equal(t, off, slotOf(t, b, testKey(50)).off)
		require.NoError(t, b.close())
	})
	t.Run("header", func(t *testing.T) {
		_, b, err := damageBounds(t, func(b *bounds) {
			_, err := b.file.WriteAt(bytes.Repeat([]byte{77}, boundsHeaderSize), 0)
			require.NoError(t, err)
		})
		require.NoError(t, err)
		for i := range 3 {
			_, part, known := b.lookup(testKey(i))
			require.True(t, known)
			require.True(t, part.sameBoot) // each slot says so itself
		}
		require.NoError(t, b.close())
	})
	t.Run("later version", func(t *testing.T) {
		later := formatBoundsHeader(boundsHeader{version: 2})
		m, _, err := damageBounds(t, func(b *bounds) {
			_, err := b.file.WriteAt(later, 0)
			require.NoError(t, err)
		})
		require.ErrorIs(t, err, errors.ErrUnsupported)
		data, err := vfs.ReadFile(m, boundsDir+"/"+boundsName, maxSideFile)
		require.NoError(t, err)
		require.Equal(t, later, data[:len(later)])
		require.Zero(t, m.OpenFiles())
	})
	t.Run("one partition twice", func(t *testing.T) {
		_, b, err := damageBounds(t, func(b *bounds) {
			data := make([]byte, boundsEntrySize)
			_, err := b.file.ReadAt(data, slotOf(t, b, testKey(0)).off)
			require.NoError(t, err)
			_, err = b.file.WriteAt(data, slotOf(t, b, testKey(2)).off)
			require.NoError(t, err)
		})
		require.NoError(t, err)
		_, _, known := b.lookup(testKey(0))
		require.False(t, known)
		require.NoError(t, b.close())
	})
}

// damageBounds makes a file with two versions of three partitions, changes it,
// and opens it again.
func damageBounds(t *testing.T, change func(b *bounds)) (*memfs.FS, *bounds, error) {
	m := newBoundsFS(t)
	b := openTestBounds(t, m)
	for i := range 3 {
		for v := range 2 {
			slotOf(t, b, testKey(i)).setCrash(version(v + 1))
			require.NoError(t, b.sync(siteBoundsFlush))
		}
	}
	change(b)
	require.NoError(t, b.close())
	b, err := openBounds(m, boundsDir, m.BootID())
	return m, b, err
}

// However often a flush fails, the last slot that was flushed is not written to,
// and the next flush that works brings what was set.
func TestFailedSyncKeepsTheDurableSlot(t *testing.T) {
	m := newBoundsFS(t)
	fsys := errfs.New(m)
	b := openTestBounds(t, fsys)
	e := slotOf(t, b, testKey(0))
	e.setCrash(version(1))
	require.NoError(t, b.sync(siteBoundsFlush))
	fsys.FailSite(siteBoundsFlush, 3, nil)
	durable := e.durable
	for v := range 3 {
		e.setCrash(version(v + 2))
		require.ErrorIs(t, b.sync(siteBoundsFlush), errfs.ErrInjected)
		data := make([]byte, boundsSlotSize)
		_, err := b.file.ReadAt(data, e.off+boundsSlots+int64(durable.index)*boundsSlotSize)
		require.NoError(t, err)
		s, ok := parseSlot(data)
		require.True(t, ok)
		require.Equal(t, version(1), s.part)
	}
	require.NoError(t, b.sync(siteBoundsFlush))
	require.NoError(t, b.close())
	for seed := range uint64(8) {
		b := openTestBounds(t, m.CrashClone(seed))
		_, part, _ := b.lookup(testKey(0))
		require.Equal(t, version(4), part)
		require.NoError(t, b.close())
	}
}

// The entry of a deleted partition is not written any more, also if a late flush
// of it still says what it did.
func TestRemovedBoundsAreNotWritten(t *testing.T) {
	m := newBoundsFS(t)
	b := openTestBounds(t, m)
	written := slotOf(t, b, testKey(2))
	written.setCrash(version(1))
	require.NoError(t, b.sync(siteBoundsFlush))
	require.NoError(t, b.remove(written))
	written.setCrash(version(2))
	require.Empty(t, b.pending)
	e := slotOf(t, b, testKey(0))
	require.Equal(t, written.off, e.off)
	e.setCrash(version(1))
	require.NoError(t, b.remove(e))
	e.setCrash(version(2))
	require.Empty(t, b.pending)
	other := slotOf(t, b, testKey(1))
	require.Equal(t, e.off, other.off)
	other.setCrash(version(3))
	e.setCrash(version(4))
	require.NoError(t, b.sync(siteBoundsFlush))
	require.NoError(t, b.close())
	b = openTestBounds(t, m)
	_, _, known := b.lookup(testKey(0))
	require.False(t, known)
	_, part, known := b.lookup(testKey(1))
	require.True(t, known)
	require.Equal(t, version(3).flushed, part.flushed)
	require.NoError(t, b.close())
}

// What was written is of the same boot as long as the machine runs and says
// which boot it is.
func TestSameBoot(t *testing.T) {
	m := newBoundsFS(t)
	for _, c := range []struct {
		wrote, reads string
		same         bool
	}{{"a", "a", true}, {"a", "b", false}, {"", "a", false}, {"a", "", false}, {"", "", false}} {
		b, err := openBounds(m, boundsDir, c.wrote)
		require.NoError(t, err)
		slotOf(t, b, testKey(0)).setCrash(version(1))
		require.NoError(t, b.sync(siteBoundsFlush))
		require.NoError(t, b.close())
		b, err = openBounds(m, boundsDir, c.reads)
		require.NoError(t, err)
		_, part, known := b.lookup(testKey(0))
		require.True(t, known)
		require.Equal(t, c.same, part.sameBoot, "%+v", c)
		require.NoError(t, b.close())
		// Opening is not recovering: nobody has looked at the partition since.
		b, err = openBounds(m, boundsDir, c.reads)
		require.NoError(t, err)
		_, part, _ = b.lookup(testKey(0))
		require.Equal(t, c.same, part.sameBoot, "%+v, opened again", c)
		require.NoError(t, b.close())
	}
}

// An error at each operation in turn is returned, leaves nothing open, and takes
// nothing back that was flushed.
func TestBoundsErrorAtEveryCall(t *testing.T) {
	for n := int64(1); ; n++ {
		mem := newBoundsFS(t)
		first := &boundsRun{mem: mem, fs: errfs.New(mem), set: map[boundsKey]int{}, durable: map[boundsKey]int{}}
		require.NoError(t, errors.Join(first.open(), first.write(0, 1), first.b.close()))
		first.b = nil
		before := first.fs.Ops()
		first.fs.FailOp(before+n, nil)
		err := first.open()
		if err == nil {
			err = errors.Join(first.write(0), first.growAndWrite(), first.remove(1), first.write(1), first.b.close())
		}
		done := first.fs.Ops() < before+n
		require.Zero(t, mem.OpenFiles(), "operation %d", n)
		require.Zero(t, mem.Mappings(), "operation %d", n)
		for seed := range uint64(4) {
			require.NoError(t, first.check(mem.CrashClone(seed), first.durable), "operation %d", n)
		}
		if done {
			require.NoError(t, err)
			return
		}
	}
}

// A full disk: a new partition gets an error and the others go on; with space
// again it gets its place.
func TestBoundsOnAFullDisk(t *testing.T) {
	m := newBoundsFS(t)
	b := openTestBounds(t, m)
	m.SetFree(0)
	const room = (boundsGrow - boundsHeaderSize) / boundsEntrySize
	for i := range room {
		slotOf(t, b, testKey(i)).setCrash(version(i))
	}
	_, _, _, err := b.slotFor(testKey(room).topic, testKey(room).partition)
	require.ErrorIs(t, err, vfs.ErrNoSpace)
	require.NoError(t, b.sync(siteBoundsFlush))
	require.NoError(t, slotOf(t, b, testKey(0)).publish(Bounds{}))
	m.SetFree(1 << 20)
	require.EqualValues(t, boundsGrow, slotOf(t, b, testKey(room)).off)
	require.NoError(t, b.close())
}

// XFS refuses to allocate on a full disk also what is allocated already. The file
// can be opened all the same if it is long enough, and is not stored into through
// a mapping, since it may have holes; a new one cannot be made.
func TestBoundsAreOpenedOnAFullDisk(t *testing.T) {
	m := newBoundsFS(t)
	fsys := errfs.New(m)
	fsys.FailKind(errfs.Allocate, 0, vfs.ErrNoSpace)
	_, err := openBounds(fsys, "/data", "")
	require.ErrorIs(t, err, vfs.ErrNoSpace)
	b := openTestBounds(t, m)
	slotOf(t, b, testKey(1)).setCrash(version(1))
	require.NoError(t, b.sync(siteBoundsFlush))
	require.NoError(t, b.close())
	b = openTestBounds(t, fsys)
	_, part, known := b.lookup(testKey(1))
	require.True(t, known)
	require.Equal(t, version(1).flushed, part.flushed)
	require.NoError(t, slotOf(t, b, testKey(1)).publish(Bounds{}))
	require.Zero(t, m.Mappings())
	require.NoError(t, b.close())
}

// unmapped is a file system on which mapped writing is not safe.
type unmapped struct{ vfs.FS }

func (u unmapped) Space(name string) (vfs.Space, error) {
	s, err := u.FS.Space(name)
	s.MapWrites = false
	return s, err
}

// Another mapping of the file sees bounds that grow and keep their order while
// they are published, nothing while segments change, and nothing of what an
// earlier process or another partition left in the entry. The race detector
// watches.
func TestLiveBoundsAreFollowed(t *testing.T) {
	for name, wrap := range map[string]func(vfs.FS) vfs.FS{
		"mapped": func(f vfs.FS) vfs.FS { return f }, "written": func(f vfs.FS) vfs.FS { return unmapped{f} },
	} {
		t.Run(name, func(t *testing.T) {
			fsys, dir := testDir(t)
			require.NoError(t, makeDir(fsys, dir))
			b, err := openBounds(wrap(fsys), dir, fsys.BootID())
			require.NoError(t, err)
			e := slotOf(t, b, testKey(1))
			load, done := liveReader(t, fsys, dir, e.off)
			defer done()
			owner := boundsOwner(b.incarnation, e.key.topic, e.key.partition)
			var reader sync.WaitGroup
			reader.Go(func() { followBounds(t, load, owner, 20000) })
			for i := Offset(0); i <= 20000; i++ {
				change := i%1000 == 500
				if change && e.beginChange(false) != nil || e.publish(Bounds{i / 4, i / 3, i / 2, i}) != nil || change && e.endChange() != nil {
					t.Error("publish failed")
				}
			}
			reader.Wait()
			require.NoError(t, e.beginChange(false))
			_, _, ok, err := readLive(load, owner)
			require.NoError(t, err)
			require.False(t, ok, "while segments change")
			require.NoError(t, e.endChange())
			require.NoError(t, b.remove(e))
			_, _, ok, err = readLive(load, owner)
			require.NoError(t, err)
			require.False(t, ok, "removed")
			again := slotOf(t, b, testKey(2))
			require.Equal(t, e.off, again.off)
			require.NoError(t, again.publish(Bounds{}))
			_, _, ok, err = readLive(load, owner)
			require.NoError(t, err)
			require.False(t, ok, "another partition's")
			require.NoError(t, b.close())
		})
	}
}

// liveReader reads an entry's words through a handle, and a mapping if there are
// any, of its own.
func liveReader(t *testing.T, fsys vfs.FS, dir string, off int64) (load func(int) (uint64, error), done func()) {
	f, err := fsys.Open(filepath.Join(dir, boundsName))
	require.NoError(t, err)
	m, err := f.Map(0, boundsGrow, false)
	if errors.Is(err, errors.ErrUnsupported) {
		return func(at int) (uint64, error) {
			var buf [8]byte
			_, err := f.ReadAt(buf[:], off+int64(at))
			return binary.LittleEndian.Uint64(buf[:]), err
		}, func() { require.NoError(t, f.Close()) }
	}
	require.NoError(t, err)
	return func(at int) (uint64, error) { return m.Load(int(off) + at) },
		func() { require.NoError(t, errors.Join(m.Unmap(), f.Close())) }
}

// followBounds reads until the end is there.
func followBounds(t *testing.T, load func(int) (uint64, error), owner uint64, end Offset) {
	var last Bounds
	var lastGeneration uint64
	for last.End < end {
		w, generation, ok, err := readLive(load, owner)
		if err != nil {
			t.Error(err)
			return
		}
		if !ok {
			continue
		}
		if w.End < last.End || w.HighWatermark < last.HighWatermark || w.Start < last.Start || generation < lastGeneration {
			t.Errorf("%+v after %+v", w, last)
			return
		}
		last, lastGeneration = w, generation
	}
}

// What an earlier process published is nobody's in the next one.
func TestLiveBoundsOfAnEarlierProcess(t *testing.T) {
	m := newBoundsFS(t)
	b := openTestBounds(t, m)
	e := slotOf(t, b, testKey(0))
	e.setCrash(version(1))
	require.NoError(t, b.sync(siteBoundsFlush))
	require.NoError(t, e.publish(Bounds{End: 5}))
	off := e.off
	require.NoError(t, b.close())
	b = openTestBounds(t, m)
	load, done := liveReader(t, m, boundsDir, off)
	defer done()
	owner := boundsOwner(b.incarnation, e.key.topic, e.key.partition)
	_, _, ok, err := readLive(load, owner)
	require.NoError(t, err)
	require.False(t, ok)
	e = slotOf(t, b, testKey(0))
	require.Equal(t, off, e.off)
	require.NoError(t, e.publish(Bounds{End: 4}))
	w, _, ok, err := readLive(load, owner)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, Bounds{End: 4}, w)
	require.NoError(t, b.close())
}

// Publishing allocates nothing, mapped or written.
func TestPublishDoesNotAllocate(t *testing.T) {
	dir := t.TempDir()
	for _, fsys := range []vfs.FS{vfs.OS(), unmapped{vfs.OS()}} {
		b, err := openBounds(fsys, dir, "")
		require.NoError(t, err)
		e := slotOf(t, b, testKey(0))
		o := Offset(0)
		require.Zero(t, testing.AllocsPerRun(100, func() {
			o++
			if err := e.publish(Bounds{o, o, o, o}); err != nil {
				t.Fatal(err)
			}
		}))
		require.NoError(t, b.close())
	}
}

// One flush serves all who wait for one, and each finds his version on the disk
// when it returns: many partitions set and sync at once, beside a flush that
// fails now and then, and are asked after a crash.
func TestBoundsAreSharedByManyPartitions(t *testing.T) {
	m := newBoundsFS(t)
	fsys := errfs.New(m)
	b := openTestBounds(t, fsys)
	last := make([]int, 8)
	var writers sync.WaitGroup
	for i := range last {
		writers.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 0))
			e := slotOf(t, b, testKey(i))
			for v := 1; v <= 50; v++ {
				e.setCrash(version(v))
				if r.IntN(10) == 0 {
					fsys.FailSite(siteBoundsFlush, 1, nil)
				}
				if b.sync(siteBoundsFlush) == nil {
					last[i] = v
				}
			}
		})
	}
	writers.Wait()
	for seed := range uint64(8) {
		disk := m.CrashClone(seed)
		b := openTestBounds(t, disk)
		for i, v := range last {
			_, part, known := b.lookup(testKey(i))
			require.True(t, known)
			require.GreaterOrEqual(t, part.flushed, Offset(v))
			want := version(int(part.flushed))
			require.Equal(t, want, part)
		}
		require.NoError(t, b.close())
	}
	require.NoError(t, b.close())
}

var updateGolden = flag.Bool("update", false, "write the golden files in testdata anew")

// The file is, byte for byte, the golden one, whose tail of zeros is left out,
// and the golden one is read as what was written.
func TestBoundsGolden(t *testing.T) {
	m := newBoundsFS(t)
	b, err := openBoundsAs(m, boundsDir, "3066edf9-d0da-4694-a762-147d193ed447", 0x1122334455667788)
	require.NoError(t, err)
	for i := range 3 {
		for v := 1; v <= 3-i; v++ {
			slotOf(t, b, testKey(i)).setCrash(version(v + 4))
			require.NoError(t, b.sync(siteBoundsFlush))
		}
	}
	e := slotOf(t, b, testKey(1))
	require.NoError(t, errors.Join(e.publish(Bounds{1, 2, 3, 4}), e.beginChange(false), e.endChange()))
	require.NoError(t, b.close())
	data, err := vfs.ReadFile(m, filepath.Join(boundsDir, boundsName), maxSideFile)
	require.NoError(t, err)
	require.Len(t, data, boundsGrow)
	data = bytes.TrimRight(data, "\x00")
	if *updateGolden {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile("testdata/bounds.golden", data, 0o644))
	}
	golden, err := os.ReadFile("testdata/bounds.golden")
	require.NoError(t, err)
	require.Equal(t, golden, data)

	m = newBoundsFS(t)
	writeFile(t, m, filepath.Join(boundsDir, boundsName), golden)
	b = openTestBounds(t, m)
	require.Len(t, b.entries, 3)
	for i := range 3 {
		_, part, known := b.lookup(testKey(i))
		require.True(t, known)
		require.Equal(t, version(7-i), part)
	}
	require.NoError(t, b.close())
}

// FuzzBounds: whatever the file holds, with checksums made right or not, opening
// it does not panic, keeps no more than the file has room for, and what is set
// then is found later; opening changes nothing that is known.
func FuzzBounds(f *testing.F) {
	golden, err := os.ReadFile("testdata/bounds.golden")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(golden, false)
	f.Add(golden, true)
	f.Add(golden[:boundsHeaderSize+100], false)
	f.Add(append(bytes.Repeat([]byte{0}, boundsHeaderSize), golden[boundsHeaderSize:]...), true)
	f.Add([]byte{}, false)
	f.Fuzz(func(t *testing.T, data []byte, sums bool) {
		if sums {
			data = rightSums(data)
		}
		m := newBoundsFS(t)
		writeFile(t, m, filepath.Join(boundsDir, boundsName), data)
		b, err := openBounds(m, boundsDir, "boot")
		if errors.Is(err, errors.ErrUnsupported) {
			return
		}
		require.NoError(t, err)
		require.LessOrEqual(t, len(b.entries)+len(b.free), len(data)/boundsEntrySize)
		before := map[boundsKey]crashPart{}
		for key, e := range b.entries {
			if e.known {
				before[key] = e.part
			}
		}
		slotOf(t, b, testKey(900)).setCrash(version(1))
		require.NoError(t, b.sync(siteBoundsFlush))
		require.NoError(t, b.close())
		b, err = openBounds(m, boundsDir, "boot")
		require.NoError(t, err)
		delete(before, testKey(900))
		for key, part := range before {
			_, again, known := b.lookup(key)
			require.True(t, known)
			require.Equal(t, part, again)
		}
		_, part, known := b.lookup(testKey(900))
		require.True(t, known)
		require.Equal(t, version(1).flushed, part.flushed)
		require.NoError(t, b.close())
	})
}

// rightSums returns a copy of data whose header and slots have the checksums that
// go with what they say, if they say anything.
func rightSums(data []byte) []byte {
	data = slices.Clone(data)
	sum := func(from, at int) {
		if at+8 <= len(data) && !allZero(data[from:at]) {
			binary.LittleEndian.PutUint64(data[at:], xxhash.Sum64(data[from:at]))
		}
	}
	sum(0, boundsHeadEnd-8)
	for at := boundsHeaderSize + boundsSlots; at < len(data); at += boundsEntrySize {
		sum(at, at+boundsSlotSize-8)
		sum(at+boundsSlotSize, at+2*boundsSlotSize-8)
	}
	return data
}
