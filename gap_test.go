package riffle

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// gapTuning puts the end of a gap at offset 100.
var gapTuning = tuning{ceilingStep: 100, boundsDelay: Forever, reserveBytes: 4096}

// openGap opens a log with one FlushAsync partition.
func openGap(t *testing.T, fsys vfs.FS) (*Log, *Partition) {
	t.Helper()
	l, err := openTuned(fsys, "/data", nil, gapTuning)
	require.NoError(t, err)
	return l, partOf(t, l, "topic", &TopicConfig{Flush: FlushAsync, FlushInterval: Forever, SegmentBytes: 8 << 10})
}

// afterLoss returns the disk after a power cut that left kept of kept+4 records,
// so that the log goes on behind a gap.
func afterLoss(t *testing.T, kept int) *memfs.FS {
	t.Helper()
	disk := memfs.New()
	l, p := openGap(t, disk)
	appendValues(t, p, 0, kept)
	if kept > 0 {
		p.mu.Lock()
		require.NoError(t, p.unlockAndFlush(ctx, Offset(kept)))
	}
	appendValues(t, p, kept, kept+4)
	require.NoError(t, kill(l))
	return powerCut(t, disk, func(c *memfs.FS) bool {
		return endsAt(c, "/data/topic-0/"+logFileName(0), kept*batchSize)
	})
}

// noSpaceFor lets nothing be written to files, until remove is called.
func noSpaceFor(fsys *errfs.FS, names ...string) (remove func()) {
	var all []func()
	for _, name := range names {
		for _, kind := range []errfs.Kind{errfs.Write, errfs.Allocate} {
			all = append(all, fsys.Add(errfs.Rule{Kind: kind, Name: name, Err: vfs.ErrNoSpace}))
		}
	}
	return func() {
		for _, remove := range all {
			remove()
		}
	}
}

// TestGapOutlivesAFailedFirstAppend begins an incarnation behind a gap, with a
// full disk for its first batch. Then the process is killed, or the log closed:
// the gap is there afterwards, and nothing is taken for damage.
func TestGapOutlivesAFailedFirstAppend(t *testing.T) {
	for _, closed := range []bool{false, true} {
		disk := afterLoss(t, 3)
		fsys := errfs.New(disk)
		l, p := openGap(t, fsys)
		remove := noSpaceFor(fsys, p.path(logFileName(0)))
		_, err := p.Append(ctx, Record{})
		require.ErrorIs(t, err, ErrDiskFull)
		remove()
		if closed {
			require.NoError(t, l.Close())
		} else {
			require.NoError(t, kill(l))
		}
		l, p = openGap(t, disk)
		at, err := p.Append(ctx, Record{})
		require.NoError(t, err)
		require.GreaterOrEqual(t, at, Offset(100))
		require.NoError(t, l.Close())
	}
}

// TestPartitionThatLostEverything goes on with a partition of which a power cut
// left nothing: at its ceiling, in a new epoch, however often it is opened
// before, and as often as it happens.
func TestPartitionThatLostEverything(t *testing.T) {
	disk := afterLoss(t, 0)
	for range 2 {
		l, _ := openGap(t, disk)
		require.NoError(t, l.Close())
	}
	l, p := openGap(t, disk)
	at, err := p.Append(ctx, Record{})
	require.NoError(t, err)
	require.Equal(t, Offset(100), at)
	require.EqualValues(t, 1, p.epoch)
	require.NoError(t, kill(l))

	disk = powerCut(t, disk, func(c *memfs.FS) bool {
		e, err := c.Stat("/data/topic-0/" + logFileName(100))
		return err == nil && e.Size == 0
	})
	for _, want := range []Offset{200, 201, 202} {
		l, p = openGap(t, disk)
		require.Equal(t, want, p.Bounds().End)
		at, err = p.Append(ctx, Record{})
		require.NoError(t, err)
		require.Equal(t, want, at)
		require.NoError(t, l.Close())
	}
}

// TestFileThatWasGivenUpStaysAway lets a power cut leave a file that is not empty
// and has no batch. Another one, at any operation until the next append has its
// own file, does not bring it back beside that, where it would be damage.
func TestFileThatWasGivenUpStaysAway(t *testing.T) {
	disk := memfs.New()
	l, p := openGap(t, disk)
	appendValues(t, p, 0, 4)
	require.NoError(t, kill(l))
	disk = powerCut(t, disk, func(c *memfs.FS) bool {
		data, err := vfs.ReadFile(c, "/data/topic-0/"+logFileName(0), 1<<20)
		return err == nil && len(data) > 0 && allZero(data)
	})
	fsys := errfs.New(disk)
	fsys.OnOp(func(op errfs.Op) error {
		for seed := range uint64(8) {
			l, p := openGap(t, disk.CrashClone(seed))
			_, err := p.Append(ctx, Record{})
			require.NoError(t, err, "power cut before %v, seed %d", op, seed)
			require.NoError(t, kill(l))
		}
		return nil
	})
	l, p = openGap(t, fsys)
	_, err := p.Append(ctx, Record{})
	require.NoError(t, err)
	fsys.OnOp(nil)
	require.NoError(t, l.Close())
}

// TestReadAroundAGapBetweenSegments loses the only batch of the second segment,
// and reads from every offset near the gap that its file begins with.
func TestReadAroundAGapBetweenSegments(t *testing.T) {
	disk := memfs.New()
	l, p := openGap(t, disk)
	big := Record{Value: make([]byte, 3000)}
	for range 3 {
		_, err := p.Append(ctx, big)
		require.NoError(t, err)
	}
	require.Equal(t, []Offset{0, 2}, segmentBases(p))
	require.NoError(t, kill(l))
	disk = powerCut(t, disk, func(c *memfs.FS) bool {
		e, err := c.Stat("/data/topic-0/" + logFileName(2))
		return err == nil && e.Size == 0
	})
	l, p = openGap(t, disk)
	at, err := p.Append(ctx, big)
	require.NoError(t, err)
	require.Equal(t, Offset(100), at)
	for from, want := range map[Offset]int{0: 3, 1: 2, 2: 1, 3: 1, 50: 1, 99: 1, 100: 1, 101: 0} {
		require.Len(t, readValues(t, p, from), want, "from %d", from)
	}
	require.NoError(t, l.Close())
}

// TestRollIsTriedAgain lets a roll fail after it made its file: a smaller batch,
// which would fit the old segment, does not go there, where that file would lie
// in its way.
func TestRollIsTriedAgain(t *testing.T) {
	disk := memfs.New()
	fsys := errfs.New(disk)
	l, p := openGap(t, fsys)
	big := Record{Value: make([]byte, 5000)}
	_, err := p.Append(ctx, big)
	require.NoError(t, err)
	fsys.FailSite(siteRollSyncDir, 1, vfs.ErrNoSpace)
	_, err = p.Append(ctx, big)
	require.ErrorIs(t, err, ErrDiskFull)
	_, err = p.Append(ctx, Record{})
	require.NoError(t, err)
	require.Equal(t, []Offset{0, 1}, segmentBases(p))
	require.NoError(t, l.Close())
	l, p = openGap(t, disk)
	_, err = p.Append(ctx, Record{})
	require.NoError(t, err)
	require.NoError(t, l.Close())
}

// TestLostEpochCheckpoint removes the checkpoint: the epochs are read from the
// batches, of all segments, and do not go back.
func TestLostEpochCheckpoint(t *testing.T) {
	disk := memfs.New()
	for range 2 {
		l, p := openGap(t, disk)
		_, err := p.Append(ctx, Record{Value: make([]byte, 5000)})
		require.NoError(t, err)
		require.NoError(t, kill(l))
	}
	l, p := openGap(t, disk)
	_, err := p.Append(ctx, Record{Value: make([]byte, 5000)})
	require.NoError(t, err)
	require.NoError(t, p.roll())
	require.NoError(t, l.Close())
	require.NoError(t, disk.Remove("/data/topic-0/"+epochCheckpointName))
	l, p = openGap(t, disk)
	_, err = p.Append(ctx, Record{})
	require.NoError(t, err)
	require.EqualValues(t, 2, p.epoch)
	require.Len(t, readValues(t, p, Earliest), 4)
	require.NoError(t, l.Close())
}

// TestRecoveryPointStaysBehindDamage tears a batch in a power cut, and has no room
// for what would be cut the first time: the recovery point does not rise, or the
// next opening would take the torn batch for damage, and forget that offsets
// behind it had been shown.
func TestRecoveryPointStaysBehindDamage(t *testing.T) {
	disk := memfs.New()
	l, p := openGap(t, disk)
	appendValues(t, p, 0, 9)
	require.NoError(t, kill(l))
	edit(t, disk, "/data/topic-0/"+logFileName(0), func(f vfs.File, _ int64) error {
		_, err := f.WriteAt([]byte{0xff}, 8*batchSize-1)
		return errors.Join(err, f.Sync(""))
	})
	disk = disk.CrashClone(1)
	fsys := errfs.New(disk)
	fsys.Add(errfs.Rule{Kind: errfs.Create, Name: "/data/topic-0/" + cutName(7), Err: vfs.ErrNoSpace})
	l, p = openGap(t, fsys)
	_, err := p.Append(ctx, Record{})
	requireAll(t, err, ErrReadOnly, vfs.ErrNoSpace)
	require.NoError(t, l.Close())

	l, p = openGap(t, disk)
	at, err := p.Append(ctx, Record{})
	require.NoError(t, err)
	require.Equal(t, Offset(100), at)
	_, err = disk.Stat("/data/topic-0/" + cutName(7))
	require.NoError(t, err)
	require.NoError(t, l.Close())
}

// TestFileMissingBeforeAnEmptyOne removes the file before an empty last one, which
// a roll has left whose batch found no space, or all files before it: what was
// flushed is missed, so this is no gap.
func TestFileMissingBeforeAnEmptyOne(t *testing.T) {
	for _, left := range []int{0, 1} {
		disk := memfs.New()
		fsys := errfs.New(disk)
		l, err := openTuned(fsys, "/data", nil, gapTuning)
		require.NoError(t, err)
		p := partOf(t, l, "topic", &TopicConfig{SegmentBytes: 8 << 10})
		big := Record{Value: make([]byte, 5000)}
		for range 3 {
			_, err := p.Append(ctx, big)
			require.NoError(t, err)
		}
		fsys.Add(errfs.Rule{Kind: errfs.Write, Name: p.path(logFileName(3)), Err: vfs.ErrNoSpace})
		_, err = p.Append(ctx, big)
		require.ErrorIs(t, err, ErrDiskFull)
		require.Equal(t, []Offset{0, 1, 2, 3}, segmentBases(p))
		require.NoError(t, l.Close())
		for _, base := range []Offset{0, 1, 2}[left:] {
			require.NoError(t, disk.Remove(p.path(logFileName(base))))
		}
		l, err = openTuned(disk, "/data", nil, gapTuning)
		require.NoError(t, err)
		p = partOf(t, l, "topic", nil)
		_, err = p.Append(ctx, Record{})
		requireAll(t, err, ErrReadOnly, ErrCorrupt)
		if left > 0 {
			got, err := collect(p, Earliest)
			require.ErrorIs(t, err, ErrCorrupt)
			require.Len(t, got, left)
		}
		require.NoError(t, l.Close())
	}
}

// TestEmptyFileBehindAGapIsNoDamage lets the first append behind a gap, which
// belongs into a new file, find no space, again and again: the recovery point
// stays out of the gap, so that the file is not taken for one that others are
// missing before.
func TestEmptyFileBehindAGapIsNoDamage(t *testing.T) {
	disk := memfs.New()
	l, p := openGap(t, disk)
	big := Record{Value: make([]byte, 5000)}
	_, err := p.Append(ctx, big)
	require.NoError(t, err)
	p.mu.Lock()
	require.NoError(t, p.unlockAndFlush(ctx, 1))
	require.NoError(t, kill(l))
	disk = disk.CrashClone(1)
	for life := range 6 {
		if life > 3 {
			disk = disk.CrashClone(1) // the machine stops after it was closed
		}
		fsys := errfs.New(disk)
		l, p = openGap(t, fsys)
		noSpaceFor(fsys, p.path(logFileName(p.end)))
		require.LessOrEqual(t, p.entry.part.flushed, Offset(1))
		_, err = p.Append(ctx, big)
		require.ErrorIs(t, err, ErrDiskFull)
		require.NoError(t, l.Close())
	}
	l, p = openGap(t, disk)
	at, err := p.Append(ctx, big)
	require.NoError(t, err)
	require.GreaterOrEqual(t, at, Offset(100))
	require.NoError(t, l.Close())
}

// TestEpochBeyondTheEndIsDropped lets leader-epoch-checkpoint say that the last
// epoch began beyond the end of a log that was closed cleanly: there is no gap, so
// the log goes on at its end.
func TestEpochBeyondTheEndIsDropped(t *testing.T) {
	disk := memfs.New()
	l, p := openGap(t, disk)
	appendValues(t, p, 0, 4)
	require.NoError(t, kill(l))
	l, p = openGap(t, disk)
	appendValues(t, p, 4, 8)
	require.NoError(t, l.Close())
	name := "/data/topic-0/" + epochCheckpointName
	data, err := vfs.ReadFile(disk, name, 1<<10)
	require.NoError(t, err)
	require.Equal(t, "0\n2\n0 0\n1 4\n", string(data))
	require.NoError(t, vfs.WriteFileAtomic(disk, "", name, []byte("0\n2\n0 0\n1 9\n")))
	l, p = openGap(t, disk)
	appendValues(t, p, 8, 10)
	require.Equal(t, wantValues(0, 10), readValues(t, p, Earliest))
	require.NoError(t, l.Close())
	l, p = openGap(t, disk)
	require.Equal(t, wantValues(0, 10), readValues(t, p, Earliest))
	require.NoError(t, l.Close())
}

// threeEpochs returns a log that was closed cleanly, of three epochs with 8 batches
// each, in one file or in many.
func threeEpochs(t *testing.T, segment int64) *memfs.FS {
	t.Helper()
	disk := memfs.New()
	for life := range 3 {
		l, err := openTuned(disk, "/data", nil, gapTuning)
		require.NoError(t, err)
		p := partOf(t, l, "topic", &TopicConfig{SegmentBytes: segment})
		for i := range 8 {
			at, err := p.Append(ctx, Record{Value: make([]byte, 700)})
			require.NoError(t, err)
			require.Equal(t, Offset(8*life+i), at)
		}
		if life == 2 {
			require.NoError(t, l.Close())
		} else {
			require.NoError(t, kill(l))
		}
	}
	return disk
}

// TestFlippedDigitOfAnEpoch changes each digit of leader-epoch-checkpoint, which has
// no checksum: all can be read, from everywhere, and appends go on. If a
// batch that is read when the log is opened has another epoch, all are read for
// theirs, and the file is right again.
func TestFlippedDigitOfAnEpoch(t *testing.T) {
	name := "/data/topic-0/" + epochCheckpointName
	const right = "0\n3\n0 0\n1 8\n2 16\n"
	for _, segment := range []int64{1 << 20, 2048} {
		for i := range right {
			for digit := '0'; digit <= '9'; digit += 3 {
				wrong := []byte(right)
				if wrong[i] == ' ' || wrong[i] == '\n' || wrong[i] == byte(digit) {
					continue
				}
				wrong[i] = byte(digit)
				disk := threeEpochs(t, segment)
				require.NoError(t, vfs.WriteFileAtomic(disk, "", name, wrong))
				if segment > 2048 { // all of it is read
					require.NoError(t, disk.Remove("/data/topic-0/"+segmentFileName(0, sealSuffix)))
				}
				l, err := openTuned(disk, "/data", nil, gapTuning)
				require.NoError(t, err)
				p := partOf(t, l, "topic", nil)
				if segment > 2048 {
					requireEpochs(t, []epochEntry{{0, 0}, {1, 8}, {2, 16}}, p)
					data, err := vfs.ReadFile(disk, name, maxSideFile)
					require.NoError(t, err)
					require.Equal(t, right, string(data), "%q", wrong)
				}
				for from := range Offset(24) {
					require.Len(t, readValues(t, p, from), int(24-from), "%q, from %d", wrong, from)
				}
				for _, seg := range p.segs.Load().list {
					if seg != p.active() {
						require.NoError(t, p.checkSealed(seg), "%q", wrong)
					}
				}
				at, err := p.Append(ctx, Record{})
				require.NoError(t, err, "%q", wrong)
				require.Equal(t, Offset(24), at)
				require.GreaterOrEqual(t, p.epoch, int32(2))
				require.NoError(t, l.Close())
			}
		}
	}
}

// TestWrongEpochsKeepTheLastOne spoils an epoch of the checkpoint whose last one has
// lost all its batches: it is not begun again.
func TestWrongEpochsKeepTheLastOne(t *testing.T) {
	disk := threeEpochs(t, 1<<20)
	name := "/data/topic-0/" + epochCheckpointName
	require.NoError(t, vfs.WriteFileAtomic(disk, "", name, []byte("0\n4\n0 0\n1 9\n2 16\n7 24\n")))
	require.NoError(t, disk.Remove("/data/topic-0/"+segmentFileName(0, sealSuffix))) // all of it is read
	l, err := openTuned(disk, "/data", nil, gapTuning)
	require.NoError(t, err)
	p := partOf(t, l, "topic", nil)
	_, err = p.Append(ctx, Record{})
	require.NoError(t, err)
	requireEpochs(t, []epochEntry{{0, 0}, {1, 8}, {2, 16}, {7, 24}}, p)
	require.NoError(t, l.Close())
}
