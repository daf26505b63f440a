package riffle

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/batch"
	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// closedLog returns a file system with a log of one topic of n values, closed
// cleanly, and the name of the partition's file.
func closedLog(t *testing.T, n int, cfg *TopicConfig) (fsys vfs.FS, dir, file string) {
	fsys, dir = testDir(t)
	l, err := open(fsys, dir, nil)
	require.NoError(t, err)
	p := partOf(t, l, "topic", cfg)
	appendValues(t, p, 0, n)
	require.NoError(t, l.Close())
	return fsys, dir, p.path(logFileName(0))
}

// killedLog is closedLog of a process that was killed, before a recovery point was written.
func killedLog(t *testing.T, n int, cfg *TopicConfig) (fsys vfs.FS, dir, file string) {
	fsys, dir = testDir(t)
	l, err := openTuned(fsys, dir, nil, gapTuning)
	require.NoError(t, err)
	p := partOf(t, l, "topic", cfg)
	appendValues(t, p, 0, n)
	for p := range l.partitions() {
		require.NoError(t, p.closeFiles())
	}
	require.NoError(t, kill(l))
	return fsys, dir, p.path(logFileName(0))
}

// edit changes a file's bytes.
func edit(t *testing.T, fsys vfs.FS, name string, change func(f vfs.File, size int64) error) {
	t.Helper()
	f, err := fsys.OpenWrite(name)
	require.NoError(t, err)
	size, err := f.Size()
	require.NoError(t, err)
	require.NoError(t, change(f, size))
	require.NoError(t, f.Close())
}

func fileSize(t *testing.T, fsys vfs.FS, name string) int64 {
	t.Helper()
	e, err := fsys.Stat(name)
	require.NoError(t, err)
	return e.Size
}

// batchSize is the size of a batch of appendValues with an index of one digit.
const batchSize = batch.HeaderSize + 9

// TestTornTailIsCut cuts the file of a killed process at every byte of its last
// batch, and appends things that are no batch: what is whole is there, the rest
// is cut from the file, and appending goes on.
func TestTornTailIsCut(t *testing.T) {
	t.Parallel()
	tails := map[string][]byte{
		"zeros":               make([]byte, 5000),
		"garbage":             []byte(strings.Repeat("garbage", 100)),
		"one byte":            {0},
		"a length, and ended": {0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 1, 0},
	}
	for cut := range batchSize {
		tails[fmt.Sprintf("%d bytes of a batch", cut)] = nil
	}
	for name, tail := range tails {
		fsys, dir, file := killedLog(t, 4, nil)
		want := 4
		edit(t, fsys, file, func(f vfs.File, size int64) error {
			var cut int64
			if n, _ := fmt.Sscanf(name, "%d bytes", &cut); n == 1 {
				want = 3
				return f.Truncate(size - batchSize + cut)
			}
			_, err := f.WriteAt(tail, size)
			return err
		})
		l := openAt(t, fsys, dir, nil)
		p := partOf(t, l, "topic", nil)
		require.Equal(t, wantValues(0, want), readValues(t, p, Earliest), name)
		require.EqualValues(t, want*batchSize, fileSize(t, fsys, file), name)
		appendValues(t, p, want, want+2)
		require.Equal(t, wantValues(0, want+2), readValues(t, p, Earliest), name)
	}
}

// TestWhatIsNotABatchOfThisPlaceIsCut appends a whole batch with the wrong
// offset behind the end, as old bytes in reused space would look.
func TestWhatIsNotABatchOfThisPlaceIsCut(t *testing.T) {
	for _, offset := range []int64{0, 2, 4, 100} {
		fsys, dir, file := killedLog(t, 3, nil)
		edit(t, fsys, file, func(f vfs.File, size int64) error {
			b := make([]byte, batchSize)
			if _, err := f.ReadAt(b, 0); err != nil {
				return err
			}
			batch.Batch(b).SetBaseOffset(offset)
			_, err := f.WriteAt(b, size)
			return err
		})
		p := partOf(t, openAt(t, fsys, dir, nil), "topic", nil)
		require.Equal(t, wantValues(0, 3), readValues(t, p, Earliest))
	}
}

// TestDamageAfterCleanCloseIsNotCut flips a bit of each batch of a log that was
// closed cleanly: all was flushed, so this is no torn end. Nothing is cut, what
// is whole can be read, the error tells where and where to go on, and nothing
// is appended.
func TestDamageAfterCleanCloseIsNotCut(t *testing.T) {
	for bad := range 5 {
		fsys, dir, file := closedLog(t, 5, nil)
		size := fileSize(t, fsys, file)
		edit(t, fsys, file, func(f vfs.File, _ int64) error {
			_, err := f.WriteAt([]byte{0xff}, int64(bad*batchSize+batch.HeaderSize+6))
			return err
		})
		var logged strings.Builder
		l := openAt(t, fsys, dir, &Options{Logger: slog.New(slog.NewTextHandler(&logged, nil))})
		require.Contains(t, logged.String(), "level=ERROR")
		p := partOf(t, l, "topic", nil)
		got, err := collect(p, Earliest)
		require.Equal(t, wantValues(0, bad), got)
		var ce *CorruptError
		require.ErrorAs(t, err, &ce)
		require.ErrorIs(t, err, ErrCorrupt)
		require.Equal(t, file, ce.File)
		require.EqualValues(t, bad*batchSize, ce.Pos)
		require.Equal(t, Offset(bad), ce.Offset)
		if bad < 4 {
			require.Equal(t, Offset(bad+1), ce.Next)
			require.Equal(t, wantValues(bad+1, 5), readValues(t, p, ce.Next))
		} else {
			require.Equal(t, NoOffset, ce.Next)
		}
		_, err = p.Append(ctx, Record{})
		requireAll(t, err, ErrReadOnly, ErrCorrupt)
		require.Equal(t, Offset(5), p.Bounds().End)
		require.Equal(t, size, fileSize(t, fsys, file), "nothing is cut")
	}
}

// TestDamageFarFromTheEndIsNotCut damages the log of a killed process further
// from the end than can be unflushed: it must have been flushed. Damage that is
// nearer may be what a power cut left, and is cut.
func TestDamageFarFromTheEndIsNotCut(t *testing.T) {
	fsys, dir := memfs.New(), "/data"
	l, err := open(fsys, dir, nil)
	require.NoError(t, err)
	cfg := &TopicConfig{Flush: FlushAsync, MaxMessageBytes: 16 << 20}
	p := partOf(t, l, "topic", cfg)
	big := make([]byte, 15<<20)
	var before []byte
	for range 6 {
		_, err := p.Append(ctx, Record{Value: big})
		require.NoError(t, err)
		if before == nil {
			before, err = vfs.ReadFile(fsys, dir+"/"+boundsName, 1<<20)
			require.NoError(t, err)
		}
	}
	one := p.active().size / 6
	// With the bounds of its beginning a log that was closed is like one that was
	// killed when all had been flushed, but no recovery point.
	require.NoError(t, l.Close())
	require.NoError(t, vfs.WriteFileAtomic(fsys, "", dir+"/"+boundsName, before))
	damage := func(n int64) *Partition {
		disk := fsys.CrashClone(0)
		edit(t, disk, p.path(logFileName(0)), func(f vfs.File, _ int64) error {
			_, err := f.WriteAt([]byte{1}, n*one+100)
			return err
		})
		return partOf(t, openAt(t, disk, dir, nil), "topic", cfg)
	}
	far := damage(0)
	_, err = far.Append(ctx, Record{})
	require.ErrorIs(t, err, ErrReadOnly)
	_, err = collect(far, Earliest)
	var ce *CorruptError
	require.ErrorAs(t, err, &ce)
	require.Equal(t, Offset(1), ce.Next)
	require.Len(t, readValues(t, far, 1), 5)

	near := damage(4)
	_, err = near.Append(ctx, Record{})
	require.NoError(t, err)
	require.Len(t, readValues(t, near, Earliest), 5)
}

// TestDamageAfterAKillIsNotCut damages a batch that others follow, of a process
// that was killed a moment ago: the machine went on, so nothing but the very last
// batch can be torn. After a power cut the same bytes pass for a torn end.
func TestDamageAfterAKillIsNotCut(t *testing.T) {
	disk := memfs.New()
	l, err := openTuned(disk, "/data", nil, tuning{ceilingStep: 100, boundsDelay: Forever, reserveBytes: 4096})
	require.NoError(t, err)
	p := partOf(t, l, "topic", nil)
	appendValues(t, p, 0, 5)
	require.NoError(t, kill(l))
	edit(t, disk, p.path(logFileName(0)), func(f vfs.File, _ int64) error {
		_, err := f.WriteAt([]byte{0xff}, 2*batchSize+batch.HeaderSize+6)
		return errors.Join(err, f.Sync(""))
	})
	cut := disk.CrashClone(0)

	p = partOf(t, openAt(t, disk, "/data", nil), "topic", nil)
	_, err = p.Append(ctx, Record{})
	requireAll(t, err, ErrReadOnly, ErrCorrupt)
	require.Equal(t, wantValues(3, 5), readValues(t, p, 3))

	p = partOf(t, openAt(t, cut, "/data", nil), "topic", nil)
	_, err = p.Append(ctx, Record{})
	require.NoError(t, err)
}

// TestDamageWhileOpen spoils batches under a reader: an error with the place,
// and appends go on.
func TestDamageWhileOpen(t *testing.T) {
	fsys, dir := testDir(t)
	l := openAt(t, fsys, dir, nil)
	p := partOf(t, l, "topic", nil)
	appendValues(t, p, 0, 6)
	edit(t, fsys, p.path(logFileName(0)), func(f vfs.File, _ int64) error {
		_, err := f.WriteAt([]byte{0xff, 0xff, 0xff, 0xff}, 2*batchSize+8) // the length
		return err
	})
	got, err := collect(p, Earliest)
	require.Equal(t, wantValues(0, 2), got)
	var ce *CorruptError
	require.ErrorAs(t, err, &ce)
	require.Equal(t, Offset(3), ce.Next)
	appendValues(t, p, 6, 8)
	require.Equal(t, wantValues(3, 8), readValues(t, p, ce.Next))
	_, err = collect(p, 2)
	require.ErrorIs(t, err, ErrCorrupt)
}

// TestNextIsReadableBehindALyingHeader spoils the last offset delta of a batch,
// which then seems to have the offsets of those behind it: the CRC finds it out,
// and what is behind can be read from where the error says.
func TestNextIsReadableBehindALyingHeader(t *testing.T) {
	fsys, dir := testDir(t)
	p := partOf(t, openAt(t, fsys, dir, nil), "topic", nil)
	appendValues(t, p, 0, 6)
	edit(t, fsys, p.path(logFileName(0)), func(f vfs.File, _ int64) error {
		_, err := f.WriteAt([]byte{0, 0, 0, 2}, 2*batchSize+23)
		return err
	})
	_, err := collect(p, Earliest)
	var ce *CorruptError
	require.ErrorAs(t, err, &ce)
	require.Equal(t, Offset(3), ce.Next)
	require.Equal(t, wantValues(3, 6), readValues(t, p, ce.Next))
	require.Equal(t, wantValues(4, 6), readValues(t, p, ce.Next+1))
	_, err = collect(p, 2)
	require.ErrorIs(t, err, ErrCorrupt)
}

// TestHeaderLiesToWhoBeginsBehindIt spoils what a header says of offsets or of its
// length, in a batch that readers pass over who begin behind it. They find the
// damage there, not at the batches that seem not to follow, and read on behind it;
// others are told from where they can.
func TestHeaderLiesToWhoBeginsBehindIt(t *testing.T) {
	for name, c := range map[string]struct {
		at    int64
		bytes []byte
	}{
		"one offset more":    {23, []byte{0, 0, 0, 3}},
		"two offsets more":   {23, []byte{0, 0, 0, 4}},
		"beyond the end":     {23, []byte{0, 1, 0, 0}},
		"one offset less":    {23, []byte{0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2}},
		"shorter":            {8, []byte{0, 0, 0, 60}},
		"longer":             {8, []byte{0, 0, 1, 20}},
		"beyond the file":    {8, []byte{0, 1, 0, 0}},
		"a value":            {batch.HeaderSize + 7, []byte{1}},
		"the attributes too": {21, []byte{0, 0, 0, 0, 0, 5}},
	} {
		for _, last := range []bool{false, true} { // it is the last one of the file, or of the log
			for _, segment := range []int64{1 << 20, 1024} {
				testLyingHeader(t, name, c.at, c.bytes, last, segment)
			}
		}
	}
}

// testLyingHeader changes the batch of three records at offset 9.
func testLyingHeader(t *testing.T, name string, at int64, bytes []byte, last bool, segment int64) {
	fsys, dir := testDir(t)
	l := openAt(t, fsys, dir, nil)
	p := partOf(t, l, "topic", &TopicConfig{SegmentBytes: segment})
	require.NoError(t, p.becomeReplica(ctx, 0))
	all := run(0, 1, 6) // to offset 12
	if !last {
		all = append(all, run(12, 1, 6)...)
		all[6].pad = 600 // in another file, if they are small
	}
	replicate(t, p, all)
	showAll(t, p)
	edit(t, fsys, p.path(logFileName(0)), func(f vfs.File, _ int64) error {
		_, err := f.WriteAt(bytes, int64(len(encodeAll(all[:5])))+at)
		return err
	})
	args := []any{"%s, last: %v, segments of %d", name, last, segment}
	end := endOf(0, all)
	for from := range end {
		got, err := collect(p, from)
		if from >= 12 {
			require.NoError(t, err, args...)
			require.Len(t, got, int(end-from), args...)
			continue
		}
		var ce *CorruptError
		require.ErrorAs(t, err, &ce, args...)
		require.Equal(t, Offset(9), ce.Offset, args...)
		require.Len(t, got, int(max(0, 9-from)), args...)
		if last {
			require.Equal(t, NoOffset, ce.Next, args...)
		} else {
			require.Equal(t, Offset(12), ce.Next, args...)
		}
	}
}

// TestFileCutUnderAReader shortens the file of an open log: an error, no crash.
func TestFileCutUnderAReader(t *testing.T) {
	fsys, dir := testDir(t)
	l := openAt(t, fsys, dir, nil)
	p := partOf(t, l, "topic", nil)
	appendValues(t, p, 0, 6)
	edit(t, fsys, p.path(logFileName(0)), func(f vfs.File, _ int64) error { return f.Truncate(3*batchSize + 20) })
	_, err := collect(p, Earliest)
	var ce *CorruptError
	require.ErrorAs(t, err, &ce)
	require.Equal(t, NoOffset, ce.Next)
}

// TestUnreadablePartition takes away a partition's file, or its permission to be
// opened, or puts another topic's directory in its place: nothing of it can be
// read or appended, the error says why, also at the next opening, nothing in it
// changes, and other partitions go on.
func TestUnreadablePartition(t *testing.T) {
	for name, spoil := range map[string]func(fsys *errfs.FS, file string) error{
		"missing": func(fsys *errfs.FS, file string) error { return fsys.Remove(file) },
		"forbidden": func(fsys *errfs.FS, file string) error {
			fsys.Add(errfs.Rule{Kind: errfs.OpenWrite, Name: file, Err: fs.ErrPermission})
			return nil
		},
		"of another topic": func(fsys *errfs.FS, file string) error {
			return vfs.WriteFileAtomic(fsys, "", filepath.Join(filepath.Dir(file), partitionMetadataName), formatPartitionMetadata(newID()))
		},
	} {
		inner, dir, file := closedLog(t, 3, nil)
		fsys := errfs.New(inner)
		require.NoError(t, spoil(fsys, file))
		for range 2 {
			l, err := open(fsys, dir, nil)
			require.NoError(t, err, name)
			p := partOf(t, l, "topic", nil)
			_, err = collect(p, Earliest)
			requireAll(t, err, ErrReadOnly)
			_, err = p.Append(ctx, Record{})
			requireAll(t, err, ErrReadOnly)
			if name == "forbidden" {
				requireAll(t, err, fs.ErrPermission)
			} else {
				requireAll(t, err, ErrCorrupt)
			}
			other := partOf(t, l, "other", nil)
			_, err = other.Append(ctx, Record{})
			require.NoError(t, err)
			require.NoError(t, l.Close())
		}
		if name != "missing" {
			require.EqualValues(t, 3*batchSize, fileSize(t, inner, file))
		}
	}
}

// TestFirstAppendFindsAnotherTopicsDirectory makes the directory that a new
// partition needs another topic's, as on a file system that folds case: it is
// left as it is.
func TestFirstAppendFindsAnotherTopicsDirectory(t *testing.T) {
	fsys, dir := testDir(t)
	l := openAt(t, fsys, dir, nil)
	p := partOf(t, l, "topic", nil)
	require.NoError(t, fsys.Mkdir(p.dir))
	require.NoError(t, vfs.WriteFileAtomic(fsys, "", p.path(partitionMetadataName), formatPartitionMetadata(newID())))
	require.NoError(t, vfs.WriteFileAtomic(fsys, "", p.path(logFileName(0)), []byte("theirs")))
	_, err := p.Append(ctx, Record{})
	requireAll(t, err, ErrCorrupt)
	require.EqualValues(t, len("theirs"), fileSize(t, fsys, p.path(logFileName(0))))
}

// TestSeveralDamagesFarFromTheEnd damages two batches of a killed process, the
// second near the first: what goes on behind both shows that they had been
// flushed.
func TestSeveralDamagesFarFromTheEnd(t *testing.T) {
	fsys, dir := memfs.New(), "/data"
	l, err := open(fsys, dir, nil)
	require.NoError(t, err)
	cfg := &TopicConfig{Flush: FlushAsync, MaxMessageBytes: 16 << 20}
	p := partOf(t, l, "topic", cfg)
	big := make([]byte, 8<<20)
	for range 12 {
		_, err := p.Append(ctx, Record{Value: big})
		require.NoError(t, err)
	}
	one := p.active().size / 12
	require.NoError(t, l.Close())
	require.NoError(t, fsys.Remove(dir+"/"+boundsName))
	edit(t, fsys, p.path(logFileName(0)), func(f vfs.File, _ int64) error {
		_, err := f.WriteAt([]byte{1}, 100)
		_, err2 := f.WriteAt([]byte{1}, 2*one+100)
		return errors.Join(err, err2)
	})
	p = partOf(t, openAt(t, fsys, dir, nil), "topic", cfg)
	_, err = p.Append(ctx, Record{})
	require.ErrorIs(t, err, ErrReadOnly)
	require.Equal(t, Offset(12), p.Bounds().End)
	require.Len(t, readValues(t, p, 3), 9)
}

// TestFollowOfADamagedPartitionEnds shows that nobody waits for records that
// cannot come.
func TestFollowOfADamagedPartitionEnds(t *testing.T) {
	fsys, dir, file := closedLog(t, 3, nil)
	edit(t, fsys, file, func(f vfs.File, _ int64) error {
		_, err := f.WriteAt([]byte{0xff}, batch.HeaderSize+6)
		return err
	})
	p := partOf(t, openAt(t, fsys, dir, nil), "topic", nil)
	var got []string
	for r, err := range p.Follow(ctx, 1, nil) {
		if err != nil {
			require.ErrorIs(t, err, ErrReadOnly)
			break
		}
		got = append(got, string(r.Value))
	}
	require.Equal(t, wantValues(1, 3), got)
}

// TestDamagedMetadataFailsOpen spoils the metadata log: no topic is forgotten
// silently.
func TestDamagedMetadataFailsOpen(t *testing.T) {
	fsys, dir, file := closedLog(t, 1, nil)
	meta := strings.Replace(file, "topic-0", metadataDir, 1)
	edit(t, fsys, meta, func(f vfs.File, _ int64) error {
		_, err := f.WriteAt([]byte{0xff}, 100)
		return err
	})
	_, err := open(fsys, dir, nil)
	var ce *CorruptError
	require.ErrorAs(t, err, &ce)
	require.Equal(t, meta, ce.File)
}

// TestLostBounds takes away the file of bounds, or spoils it: everything is
// there, and damage is judged without it.
func TestLostBounds(t *testing.T) {
	for name, spoil := range map[string]func(fsys vfs.FS, file string) error{
		"missing": func(fsys vfs.FS, file string) error { return fsys.Remove(file) },
		"empty":   func(fsys vfs.FS, file string) error { return vfs.WriteFileAtomic(fsys, "", file, nil) },
		"garbage": func(fsys vfs.FS, file string) error {
			return vfs.WriteFileAtomic(fsys, "", file, []byte(strings.Repeat("garbage", 1000)))
		},
	} {
		fsys, dir, _ := closedLog(t, 5, nil)
		require.NoError(t, spoil(fsys, filepath.Join(dir, boundsName)), name)
		p := partOf(t, openAt(t, fsys, dir, nil), "topic", nil)
		require.Equal(t, wantValues(0, 5), readValues(t, p, Earliest), name)
		appendValues(t, p, 5, 6)
	}
}

// TestDamageWithLostBounds takes away the file of bounds and flips a bit of each
// batch: whole ones behind it show that it may have been flushed, so nothing is
// cut. The last one passes for a torn end.
func TestDamageWithLostBounds(t *testing.T) {
	for bad := range 5 {
		fsys, dir, file := closedLog(t, 5, nil)
		require.NoError(t, fsys.Remove(filepath.Join(dir, boundsName)))
		edit(t, fsys, file, func(f vfs.File, _ int64) error {
			_, err := f.WriteAt([]byte{0xff}, int64(bad*batchSize+batch.HeaderSize+6))
			return err
		})
		p := partOf(t, openAt(t, fsys, dir, nil), "topic", nil)
		if bad == 4 {
			appendValues(t, p, 4, 5)
			continue
		}
		_, err := p.Append(ctx, Record{})
		requireAll(t, err, ErrReadOnly, ErrCorrupt)
		require.Equal(t, wantValues(bad+1, 5), readValues(t, p, Offset(bad+1)))
	}
}

// TestUserBytesThatLookLikeBatches stores a batch as a record's value and tears
// the record: the inner one is not taken for a batch of the log.
func TestUserBytesThatLookLikeBatches(t *testing.T) {
	fsys, dir, file := killedLog(t, 3, nil)
	var b batch.Builder
	b.Begin(nil, 0, 0)
	require.NoError(t, batch.Add(&b, 1, nil, []byte("inner"), []Header(nil)))
	inner, err := b.Finish(batch.NoProducer)
	require.NoError(t, err)
	batch.Batch(inner).SetBaseOffset(4)
	edit(t, fsys, file, func(f vfs.File, size int64) error {
		garbage := append(append(make([]byte, 50, 500), inner...), "more of the value"...)
		_, err := f.WriteAt(garbage, size)
		return err
	})
	p := partOf(t, openAt(t, fsys, dir, nil), "topic", nil)
	require.Equal(t, wantValues(0, 3), readValues(t, p, Earliest))
	appendValues(t, p, 3, 4)
}

// valueOfBatches is a value that holds whole batches, which follow each other from
// an offset on, between other bytes.
func valueOfBatches(from Offset) []byte {
	value := append(make([]byte, 50, 2000), encodeAll(run(from, 0, 5))...)
	return append(value, strings.Repeat("more of the value", 20)...)
}

// killedAtBatches returns the log of a killed process with records v0 to v2, one
// with a value of batches whose offsets are those that come next, and more of v4 and
// so on; and where the batch with the value begins and ends.
func killedAtBatches(t *testing.T, flush FlushPolicy, more int) (disk *memfs.FS, name string, pos, end int64) {
	t.Helper()
	disk = memfs.New()
	l, err := openTuned(disk, "/data", nil, gapTuning)
	require.NoError(t, err)
	p := partOf(t, l, "topic", &TopicConfig{Flush: flush, FlushInterval: Forever})
	appendValues(t, p, 0, 3)
	pos = p.active().size
	_, err = p.Append(ctx, Record{Value: valueOfBatches(4)})
	require.NoError(t, err)
	end = p.active().size
	appendValues(t, p, 4, 4+more)
	require.NoError(t, kill(l))
	return disk, p.path(logFileName(0)), pos, end
}

// TestTornValueOfBatches tears a batch in a kill, at many bytes, whose value holds
// batches that would go on from it: its own header and record say that these bytes
// are its. It is cut, also with zeros behind it.
func TestTornValueOfBatches(t *testing.T) {
	t.Parallel()
	for _, flush := range []FlushPolicy{FlushBeforeAck, FlushAsync} {
		for _, spare := range []int64{0, 5000} {
			_, _, pos, end := killedAtBatches(t, flush, 0)
			for size := end - 2; size >= pos; size -= 5 { // the last byte is 0
				disk, name, _, _ := killedAtBatches(t, flush, 0)
				edit(t, disk, name, func(f vfs.File, _ int64) error {
					return errors.Join(f.Truncate(size), f.Allocate(0, size+spare))
				})
				l, err := openTuned(disk, "/data", nil, gapTuning)
				require.NoError(t, err)
				p := partOf(t, l, "topic", nil)
				require.Equal(t, wantValues(0, 3), readValues(t, p, Earliest), "%d bytes of %d", size-pos, end-pos)
				appendValues(t, p, 3, 5)
				require.NoError(t, l.Close())
			}
		}
	}
}

// TestDamageAtAValueOfBatches spoils such a batch, or its header, of a killed
// process, with others behind it: nothing is cut, also if the header says that all
// the others are its. None of the value's batches is shown: where reading can go
// on is behind it.
func TestDamageAtAValueOfBatches(t *testing.T) {
	for name, c := range map[string]struct {
		at    int64
		bytes []byte
	}{
		"value":   {batch.HeaderSize + 20, []byte{1}},
		"records": {batch.HeaderSize - 1, []byte{2}},
		"offsets": {26, []byte{7}},
		"longer":  {8, []byte{0, 0, 9, 0}},
		"shorter": {8, []byte{0, 0, 3, 0}},
		"record":  {batch.HeaderSize + 1, []byte{0x7f}},
	} {
		disk, file, pos, _ := killedAtBatches(t, FlushAsync, 2)
		edit(t, disk, file, func(f vfs.File, _ int64) error {
			_, err := f.WriteAt(c.bytes, pos+c.at)
			return err
		})
		size := fileSize(t, disk, file)
		for range 2 {
			l, err := openTuned(disk, "/data", nil, gapTuning)
			require.NoError(t, err)
			p := partOf(t, l, "topic", nil)
			_, err = p.Append(ctx, Record{})
			requireAll(t, err, ErrReadOnly, ErrCorrupt)
			got, err := collect(p, Earliest)
			require.Equal(t, wantValues(0, 3), got, name)
			var ce *CorruptError
			require.ErrorAs(t, err, &ce, name)
			require.Equal(t, Offset(3), ce.Offset, name)
			if name != "shorter" { // which hides where it ends
				require.Equal(t, Offset(4), ce.Next, name)
				require.Equal(t, wantValues(4, 6), readValues(t, p, ce.Next), name)
			}
			require.Equal(t, size, fileSize(t, disk, file), name)
			require.NoError(t, l.Close())
		}
	}
}

// tornDisk returns a disk after a power cut that left the records v0 to v2 and
// behind them a torn batch.
func tornDisk(t *testing.T, torn []byte) *memfs.FS {
	t.Helper()
	disk := memfs.New()
	l := openAt(t, disk, "/data", nil)
	appendValues(t, partOf(t, l, "topic", nil), 0, 3)
	name := "/data/topic-0/" + logFileName(0)
	f, err := disk.OpenWrite(name)
	require.NoError(t, err)
	size, err := f.Size()
	require.NoError(t, err)
	_, err = f.WriteAt(torn, size)
	require.NoError(t, err)
	require.NoError(t, f.Sync(""))
	require.NoError(t, f.Close())
	return disk.CrashClone(1)
}

// TestWhatIsCutIsKept cuts a torn end: a file beside the log has it, durably,
// before the cut is, or else the test shows that it does not. The next one takes
// its place.
func TestWhatIsCutIsKept(t *testing.T) {
	torn := []byte("half of a batch, torn off by a power cut")
	name := "/data/topic-0/" + cutName(3)
	kept := func(skip vfs.Site) bool {
		disk := tornDisk(t, torn)
		fsys := errfs.New(disk)
		fsys.Skip(skip)
		var after []*memfs.FS
		fsys.OnOp(func(op errfs.Op) error {
			if op.Kind == errfs.Truncate {
				for seed := range uint64(20) {
					after = append(after, disk.CrashClone(seed))
				}
			}
			return nil
		})
		openAt(t, fsys, "/data", nil)
		require.NotEmpty(t, after)
		for _, c := range after {
			if data, err := vfs.ReadFile(c, name, 1<<20); err != nil || string(data) != string(torn) {
				return false
			}
		}
		return true
	}
	require.True(t, kept(""))
	require.False(t, kept(siteRecoveryCut))
	require.False(t, kept(siteRecoveryCutDir))

	disk := tornDisk(t, torn)
	old, err := disk.Create("/data/topic-0/" + cutName(1))
	require.NoError(t, err)
	require.NoError(t, old.Close())
	p := partOf(t, openAt(t, disk, "/data", nil), "topic", nil)
	require.Equal(t, wantValues(0, 3), readValues(t, p, Earliest))
	appendValues(t, p, 3, 4)
	_, err = disk.Stat(old.Name())
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// TestRemovedFileIsKept tears the first batch of the only file, in a power cut:
// the file is removed, and what was in it, whole batches behind the torn one too,
// is kept, without the space that was allocated ahead. Without room to keep it
// nothing is removed.
func TestRemovedFileIsKept(t *testing.T) {
	disk := memfs.New()
	l, p := openGap(t, disk)
	appendValues(t, p, 0, 9)
	require.NoError(t, kill(l))
	name := "/data/topic-0/" + logFileName(0)
	edit(t, disk, name, func(f vfs.File, _ int64) error {
		_, err := f.WriteAt([]byte{0xff}, batchSize-1)
		return errors.Join(err, f.Truncate(9*batchSize+2*maxWindow+5000), f.Sync(""))
	})
	disk = disk.CrashClone(1)
	torn, err := vfs.ReadFile(disk, name, 4*maxWindow)
	require.NoError(t, err)

	fsys := errfs.New(disk)
	fsys.Add(errfs.Rule{Kind: errfs.Create, Name: "/data/topic-0/" + cutName(0), Err: vfs.ErrNoSpace})
	l, p = openGap(t, fsys)
	_, err = p.Append(ctx, Record{})
	requireAll(t, err, ErrReadOnly, vfs.ErrNoSpace)
	require.NoError(t, l.Close())
	require.EqualValues(t, len(torn), fileSize(t, disk, name))

	l, p = openGap(t, disk)
	_, err = disk.Stat(name)
	require.ErrorIs(t, err, fs.ErrNotExist)
	kept, err := vfs.ReadFile(disk, "/data/topic-0/"+cutName(0), 4*maxWindow)
	require.NoError(t, err)
	require.Equal(t, bytes.TrimRight(torn, "\x00"), kept)
	at, err := p.Append(ctx, Record{})
	require.NoError(t, err)
	require.Equal(t, Offset(100), at)
	require.NoError(t, l.Close())
}

// TestNothingIsCutThatCannotBeKept has no room for what would be cut: the
// partition can be read, takes no appends, its file stays as it is, and nothing
// is counted as cut. With room, the next opening cuts.
func TestNothingIsCutThatCannotBeKept(t *testing.T) {
	disk := tornDisk(t, []byte("torn"))
	name := "/data/topic-0/" + logFileName(0)
	before, err := vfs.ReadFile(disk, name, 1<<20)
	require.NoError(t, err)
	fsys := errfs.New(disk)
	fsys.Add(errfs.Rule{Kind: errfs.Create, Name: "/data/topic-0/" + cutName(3), Err: vfs.ErrNoSpace})
	l, err := open(fsys, "/data", nil)
	require.NoError(t, err)
	p := partOf(t, l, "topic", nil)
	require.Equal(t, wantValues(0, 3), readValues(t, p, Earliest))
	require.Zero(t, p.topic.counts.cut.Load())
	_, err = p.Append(ctx, Record{})
	requireAll(t, err, ErrReadOnly, vfs.ErrNoSpace)
	require.NoError(t, l.Close())
	after, err := vfs.ReadFile(disk, name, 1<<20)
	require.NoError(t, err)
	require.Equal(t, before, after)

	p = partOf(t, openAt(t, disk, "/data", nil), "topic", nil)
	require.EqualValues(t, len("torn"), p.topic.counts.cut.Load())
	appendValues(t, p, 3, 4)
}

// TestOldCutThatStays cannot remove what was cut earlier, or list the directory:
// the new cut is kept, so the end is cut and appends go on.
func TestOldCutThatStays(t *testing.T) {
	for _, kind := range []errfs.Kind{errfs.ReadDir, errfs.Remove} {
		disk := tornDisk(t, []byte("torn"))
		old := "/data/topic-0/" + cutName(1)
		require.NoError(t, vfs.WriteFileAtomic(disk, "", old, []byte("earlier")))
		fsys := errfs.New(disk)
		var kept atomic.Bool // operations come from the log's goroutines too
		fsys.OnOp(func(op errfs.Op) error {
			if op.Site == siteRecoveryCutDir {
				kept.Store(true)
			}
			if kept.Load() && op.Kind == kind && strings.HasPrefix(old, op.Name) {
				return fs.ErrPermission
			}
			return nil
		})
		p := partOf(t, openAt(t, fsys, "/data", nil), "topic", nil)
		appendValues(t, p, 3, 4)
		_, err := disk.Stat(old)
		require.NoError(t, err)
		_, err = disk.Stat("/data/topic-0/" + cutName(3))
		require.NoError(t, err)
	}
}

// TestKilledLogOpensWithoutAFlush kills a FlushAsync log: all that it wrote is
// there at once, and is written and flushed in the background, from the recovery
// point on.
func TestKilledLogOpensWithoutAFlush(t *testing.T) {
	disk := memfs.New()
	tune := tuning{ceilingStep: 1000, boundsDelay: Forever, reserveBytes: 4096}
	l, err := openTuned(disk, "/data", nil, tune)
	require.NoError(t, err)
	p := partOf(t, l, "topic", &TopicConfig{Flush: FlushAsync, FlushInterval: Forever})
	appendValues(t, p, 0, 100)
	require.NoError(t, kill(l))

	fsys := errfs.New(disk)
	arrived, release := fsys.Block(errfs.Rule{Kind: errfs.Sync, Site: siteFlush})
	l, err = openTuned(fsys, "/data", nil, tune)
	require.NoError(t, err)
	p = partOf(t, l, "topic", nil)
	require.Equal(t, wantValues(0, 100), readValues(t, p, Earliest))
	appendValues(t, p, 100, 110)
	<-arrived
	release()
	l.tasks.Wait()
	l2, err := openTuned(disk.CrashClone(3), "/data", nil, tune)
	require.NoError(t, err)
	require.Equal(t, wantValues(0, 100), readValues(t, partOf(t, l2, "topic", nil), Earliest)[:100])
	require.NoError(t, l2.Close())
	require.NoError(t, l.Close())
}
