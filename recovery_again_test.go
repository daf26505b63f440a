package riffle

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// asyncIn returns the partition of an asynchronous topic that flushes only when it is told.
func asyncIn(t *testing.T, l *Log) *Partition {
	top, err := l.EnsureTopic(ctx, "topic", &TopicConfig{Flush: FlushAsync, FlushInterval: Forever, SegmentBytes: 4096})
	require.NoError(t, err)
	return top.all()[0]
}

// againTuning has operations come in one order.
var againTuning = tuning{ceilingStep: 5, boundsDelay: Forever, reserveBytes: 4096, sealAtOnce: true}

// wholeAfter opens a disk, and says that nothing in it is damaged.
func wholeAfter(t *testing.T, disk *memfs.FS, seed uint64) {
	l, err := openTuned(disk, "/data", nil, againTuning)
	require.NoError(t, err)
	p := asyncIn(t, l)
	require.NoError(t, p.damaged, "seed %d", seed)
	for _, err := range p.Records(ctx, Earliest, nil) {
		require.NoError(t, err, "seed %d", seed)
	}
	require.NoError(t, l.Close())
}

// TestCutByAnOpeningThatDied: an opening cuts a torn end, and dies before that is flushed. The
// next one finds nothing to be cut, and the log goes on in another file. A power cut after
// that must not bring the torn end back, where it would be damage.
func TestCutByAnOpeningThatDied(t *testing.T) {
	for _, sameBoot := range []bool{true, false} {
		t.Run(fmt.Sprintf("sameBoot=%t", sameBoot), func(t *testing.T) {
			disk := memfs.New()
			l, err := openTuned(disk, "/data", nil, againTuning)
			require.NoError(t, err)
			p := asyncIn(t, l)
			_, err = p.Append(ctx, Record{Value: make([]byte, 1000)})
			require.NoError(t, err)
			require.NoError(t, l.Sync(ctx))
			require.NoError(t, l.bounds.sync(siteBoundsFlush))
			seg := p.active()
			_, err = seg.file.WriteAt(noise(1, 500), seg.size)
			require.NoError(t, err)
			require.NoError(t, seg.file.Sync(siteFlush))
			require.NoError(t, kill(l))
			if !sameBoot {
				disk = disk.CrashClone(1)
			}

			dying := errfs.New(disk)
			dying.Add(errfs.Rule{Kind: errfs.Sync, Site: siteRecoveryFlush, Err: errors.New("dies")})
			l, err = openTuned(dying, "/data", nil, againTuning)
			require.NoError(t, err)
			require.NoError(t, kill(l))

			l, err = openTuned(disk, "/data", nil, againTuning)
			require.NoError(t, err)
			p = asyncIn(t, l)
			_, err = p.Append(ctx, Record{Value: make([]byte, 3500)}) // it has no room in the first file
			require.NoError(t, err)
			require.Len(t, p.segs.Load().list, 2)
			for seed := range uint64(20) {
				wholeAfter(t, disk.CrashClone(seed), seed)
			}
			require.NoError(t, kill(l))
		})
	}
}

// TestTwoEmptyFilesBehindGaps: the log goes on behind a gap in a new file, whose first batch a
// power cut takes, and then behind another one in the next file. When the power fails again,
// neither that file is durable nor the removal of the one before: both may be there, and none
// of it is damage.
func TestTwoEmptyFilesBehindGaps(t *testing.T) {
	both := 0
	for seed := range uint64(60) {
		disk := memfs.New()
		l, err := openTuned(disk, "/data", nil, againTuning)
		require.NoError(t, err)
		for range 2 {
			_, err = asyncIn(t, l).Append(ctx, Record{Value: make([]byte, 1500)})
			require.NoError(t, err)
		}
		require.NoError(t, l.Sync(ctx))
		disk = cutPower(t, l, disk, seed)

		l, err = openTuned(disk, "/data", nil, againTuning)
		require.NoError(t, err)
		_, err = asyncIn(t, l).Append(ctx, Record{Value: make([]byte, 1500)}) // in a file of its own
		require.NoError(t, err)
		disk = cutPower(t, l, disk, seed)

		failing := errfs.New(disk)
		l, err = openTuned(failing, "/data", nil, againTuning)
		require.NoError(t, err)
		p := asyncIn(t, l)
		empty := p.active().size == 0
		failing.Add(errfs.Rule{Kind: errfs.SyncDir, Site: siteRollSyncDir, Err: vfs.ErrNoSpace})
		_, err = p.Append(ctx, Record{Value: make([]byte, 1500)})
		if empty {
			require.ErrorIs(t, err, ErrDiskFull)
		}
		for again := range uint64(10) {
			after := disk.CrashClone(again)
			if emptyFiles(t, after) == 2 {
				both++
			}
			wholeAfter(t, after, again)
			wholeAfter(t, after, again)
		}
		require.NoError(t, kill(l))
	}
	require.NotZero(t, both, "no power cut has left two empty files")
}

// cutPower ends a log with its machine.
func cutPower(t *testing.T, l *Log, disk *memfs.FS, seed uint64) *memfs.FS {
	after := disk.CrashClone(seed)
	require.NoError(t, kill(l))
	return after
}

// emptyFiles counts the partition's files of batches that have none.
func emptyFiles(t *testing.T, disk *memfs.FS) (n int) {
	entries, err := disk.ReadDir("/data/topic-0")
	require.NoError(t, err)
	for _, e := range entries {
		if _, ok := parseLogFileName(e.Name); ok && e.Size == 0 {
			n++
		}
	}
	return n
}

// TestTruncationThatAKillEndedIsDurable: a process is killed when a truncation has removed or
// replaced a file, and before that is durable. What the next opening finds is shown: a power
// cut brings nothing of the old file back, alone, behind what was appended since in the same
// epoch, or in place of it.
func TestTruncationThatAKillEndedIsDurable(t *testing.T) {
	for _, test := range []struct {
		site vfs.Site
		at   int    // the how manieth time
		show bool   // what is cut is committed, so that the file is replaced by a copy
		to   Offset // of the batches [0, 1), [1, 3), [3, 6), [6, 7) and, in another file, [7, 9), [9, 12)
		left int    // batches that are found
	}{
		{siteTruncateDir, 1, false, 2, 4},
		{siteTruncateDir, 2, false, 0, 0},
		{siteTruncateSwap, 1, true, 9, 5},
		{siteTruncateFlush, 1, false, 9, 5},
	} {
		durableAfterAKill := func(t *testing.T, flush FlushPolicy) {
			disk := memfs.New()
			dying := errfs.New(disk)
			l, err := openTuned(dying, "/data", nil, againTuning)
			require.NoError(t, err)
			p := partOf(t, l, "topic", &TopicConfig{SegmentBytes: 4096, Flush: flush, FlushInterval: Forever})
			require.NoError(t, p.becomeReplica(ctx, 0))
			all := run(0, 1, 6)
			for i := range all {
				all[i].pad = 500
			}
			replicate(t, p, all)
			require.Equal(t, []Offset{0, 7}, basesOf(p.Segments()))
			if test.show {
				showAll(t, p)
			}
			l.tasks.Wait()
			times := 0
			dying.Add(errfs.Rule{Site: test.site, Decide: func(errfs.Op) error {
				if times++; times == test.at {
					return errors.New("dies")
				}
				return nil
			}})
			require.Error(t, p.truncateTo(ctx, test.to))
			require.NoError(t, kill(l))

			slow := errfs.New(disk)
			_, release := slow.Block(errfs.Rule{Kind: errfs.Sync, Site: siteFlush}) // in the background
			l, err = openTuned(slow, "/data", nil, againTuning)
			require.NoError(t, err)
			p = partOf(t, l, "topic", nil)
			left := all[:test.left:test.left]
			requireSent(t, left, p)
			requireAfterPowerCut(t, disk, left)
			release()
			require.NoError(t, p.becomeReplica(ctx, 0))
			more := run(endOf(0, left), 1, 1)
			replicate(t, p, more)
			require.NoError(t, l.Sync(ctx))
			requireAfterPowerCut(t, disk, append(left, more...))
			require.NoError(t, kill(l))
		}
		for _, flush := range []FlushPolicy{FlushBeforeAck, FlushAsync} {
			t.Run(fmt.Sprintf("%s/%d/%v", test.site, test.at, flush), func(t *testing.T) { durableAfterAKill(t, flush) })
		}
	}
}

// requireAfterPowerCut wants these batches, and no damage, in whatever a power cut leaves.
func requireAfterPowerCut(t *testing.T, disk *memfs.FS, want []sent) {
	for seed := range uint64(20) {
		l, err := openTuned(disk.CrashClone(seed), "/data", nil, againTuning)
		require.NoError(t, err)
		p := partOf(t, l, "topic", nil)
		require.NoError(t, p.damaged, "seed %d", seed)
		requireSent(t, want, p, "seed %d", seed)
		require.NoError(t, l.Close())
	}
}

// TestRemovalThatAKillEndedIsDurable has an opening die when it has removed the last file and
// before that is durable: a torn one, or the empty one that a deletion has left, behind files
// whose removal is not durable either. The next opening finds none. Until its first append has a
// file, a power cut at any operation brings back nothing that is damage beside that.
func TestRemovalThatAKillEndedIsDurable(t *testing.T) {
	for _, deleted := range []bool{false, true} {
		t.Run(fmt.Sprintf("deleted=%t", deleted), func(t *testing.T) {
			disk := tornAlone(t)
			if deleted {
				disk = deletedAndBack(t)
			}
			dying := errfs.New(disk)
			dying.FailSite(siteRecoveryDir, 1, errDead)
			l, p := openGap(t, dying)
			require.ErrorIs(t, p.damaged, errDead)
			require.NoError(t, kill(l))
			require.Empty(t, batchFiles(t, disk))

			beside := 0 // operations with the next file there
			fsys := errfs.New(disk)
			fsys.OnOp(func(op errfs.Op) error {
				for seed := uint64(0); changes(op) && seed < 16; seed++ {
					l, p := openGap(t, disk.CrashClone(seed))
					_, err := p.Append(ctx, Record{})
					require.NoError(t, err, "power cut before %v, seed %d", op, seed)
					require.NoError(t, kill(l))
				}
				if len(batchFiles(t, disk)) > 0 {
					beside++
				}
				return nil
			})
			l, p = openGap(t, fsys)
			at, err := p.Append(ctx, Record{})
			require.NoError(t, err)
			require.Equal(t, Offset(100), at)
			fsys.OnOp(nil)
			require.NoError(t, kill(l))
			require.Greater(t, beside, 1)
		})
	}
}

// tornAlone is a disk with a partition that has one file, with nothing whole in it.
func tornAlone(t *testing.T) *memfs.FS {
	disk := afterLoss(t, 0)
	edit(t, disk, "/data/topic-0/"+logFileName(0), func(f vfs.File, _ int64) error {
		_, err := f.WriteAt(noise(1, 500), 0)
		return errors.Join(err, f.Sync(""))
	})
	return disk
}

// deletedAndBack is a disk with a partition of which all was deleted, and a power cut has
// brought all of its files back.
func deletedAndBack(t *testing.T) *memfs.FS {
	disk := memfs.New()
	l, p := openGap(t, disk)
	for range 5 {
		_, err := p.Append(ctx, Record{Value: make([]byte, 3000)})
		require.NoError(t, err)
	}
	require.NoError(t, p.DeleteBefore(ctx, Latest))
	l.tasks.Wait()
	require.Equal(t, []Offset{5}, batchFiles(t, disk))
	require.NoError(t, kill(l))
	return powerCut(t, disk, func(c *memfs.FS) bool { return len(batchFiles(t, c)) == 4 })
}

// batchFiles returns the partition's files of batches by their base offsets.
func batchFiles(t *testing.T, disk vfs.FS) (bases []Offset) {
	entries, err := disk.ReadDir("/data/topic-0")
	require.NoError(t, err)
	for _, e := range entries {
		if base, ok := parseLogFileName(e.Name); ok {
			bases = append(bases, base)
		}
	}
	return bases
}

// TestDeletedFileIsBackAlone has a power cut bring a file back that was deleted, but not the
// empty one behind it, whose removal was durable: the directory was not flushed in between.
// All that the file ever had is below the start, so nothing is missing: the log goes on.
func TestDeletedFileIsBackAlone(t *testing.T) {
	for name, cfg := range map[string]*TopicConfig{"sure": nil, "async": async} {
		t.Run(name, func(t *testing.T) {
			mem := memfs.New()
			l, err := open(mem, "/data", nil)
			require.NoError(t, err)
			p := partOf(t, l, "topic", cfg)
			appendValues(t, p, 0, 6)
			old := make([]byte, batchSize)
			_, err = p.active().file.ReadAt(old, 0)
			require.NoError(t, err)
			require.NoError(t, p.DeleteBefore(ctx, Latest))
			l.tasks.Wait()
			require.NoError(t, kill(l))
			require.NoError(t, mem.Remove("/data/topic-0/"+logFileName(6)))
			f, err := mem.Create("/data/topic-0/" + logFileName(0))
			require.NoError(t, err)
			_, err = f.WriteAt(old, 0)
			require.NoError(t, errors.Join(err, f.Close()))

			for range 2 {
				l, err = open(mem, "/data", nil)
				require.NoError(t, err)
				p = partOf(t, l, "topic", nil)
				require.NoError(t, p.damaged)
				require.GreaterOrEqual(t, p.Bounds().Start, Offset(6))
				at, err := p.Append(ctx, Record{Value: []byte("next")})
				require.NoError(t, err)
				require.GreaterOrEqual(t, at, Offset(6))
				require.Equal(t, "next", readValues(t, p, at)[0])
				require.NoError(t, l.Close())
			}
		})
	}
}

// TestWhatIsBackBelowTheStartChangesNothing deletes all of a partition, and lets any of its files
// be back without the empty one behind them, alone or beside that of a first append that did not
// come to its end: the log is what it is with no file at all, its epochs too, and goes on.
func TestWhatIsBackBelowTheStartChangesNothing(t *testing.T) {
	for i := range 8 {
		flush, cut, clean := []FlushPolicy{FlushBeforeAck, FlushAsync}[i%2], i&2 > 0, i&4 > 0
		t.Run(fmt.Sprintf("%v/cut=%t/clean=%t", flush, cut, clean), func(t *testing.T) {
			want := ""
			for _, back := range [][]Offset{{}, {0}, {2}, {0, 2}} {
				for _, next := range []Offset{NoOffset, 100} {
					disk := deletedExcept(t, flush, clean, back, next)
					if cut {
						disk = disk.CrashClone(1)
					}
					l, err := openTuned(disk, "/data", nil, gapTuning)
					require.NoError(t, err)
					p := partOf(t, l, "topic", nil)
					got := fmt.Sprint(p.Bounds(), p.flushed, p.dataEnd, p.epoch, p.epochs.load(), batchFiles(t, disk), p.damaged)
					if want == "" {
						want = got
						require.Equal(t, []epochEntry{{1, 5}}, p.epochs.load())
					}
					require.Equal(t, want, got, "files %v and %d", back, next)
					at, err := p.Append(ctx, Record{})
					require.NoError(t, err)
					require.GreaterOrEqual(t, at, Offset(5))
					require.NoError(t, l.Close())
					wholeAfter(t, disk, 0)
				}
			}
		})
	}
}

// TestEpochsOfWhatIsBack: without leader-epoch-checkpoint, what is back below the start says in which
// epoch the log goes on.
func TestEpochsOfWhatIsBack(t *testing.T) {
	disk := deletedExcept(t, FlushBeforeAck, true, []Offset{2}, NoOffset)
	require.NoError(t, disk.Remove("/data/topic-0/"+epochCheckpointName))
	l, p := openGap(t, disk)
	require.Equal(t, []epochEntry{{1, 5}}, p.epochs.load())
	at, err := p.Append(ctx, Record{})
	require.NoError(t, err)
	require.Equal(t, Offset(5), at)
	require.NoError(t, l.Close())
	wholeAfter(t, disk, 0)
}

// deletedExcept is a disk with a partition of which all of two epochs was deleted, maybe since it
// was closed, but for files that are back, and an empty one at next.
func deletedExcept(t *testing.T, flush FlushPolicy, clean bool, back []Offset, next Offset) *memfs.FS {
	disk := memfs.New()
	old := map[Offset][]byte{}
	for _, n := range []int{3, 2} { // two to a file
		l, err := openTuned(disk, "/data", nil, gapTuning)
		require.NoError(t, err)
		p := partOf(t, l, "topic", &TopicConfig{Flush: flush, FlushInterval: Forever, SegmentBytes: 8 << 10})
		for range n {
			_, err := p.Append(ctx, Record{Value: make([]byte, 3000)})
			require.NoError(t, err)
		}
		if n == 2 {
			require.Equal(t, []Offset{0, 2, 4}, segmentBases(p))
			for _, base := range back {
				old[base], err = vfs.ReadFile(disk, p.path(logFileName(base)), 1<<20)
				require.NoError(t, err)
			}
			if clean {
				require.NoError(t, l.Close())
				l, err = openTuned(disk, "/data", nil, gapTuning)
				require.NoError(t, err)
				p = partOf(t, l, "topic", nil)
			}
			require.NoError(t, p.DeleteBefore(ctx, Latest))
		}
		require.NoError(t, kill(l))
	}
	require.Equal(t, []Offset{5}, batchFiles(t, disk))
	require.NoError(t, disk.Remove("/data/topic-0/"+logFileName(5)))
	if next != NoOffset {
		old[next] = nil
	}
	for base, data := range old {
		f, err := disk.Create("/data/topic-0/" + logFileName(base))
		require.NoError(t, err)
		_, err = f.WriteAt(data, 0)
		require.NoError(t, errors.Join(err, f.Sync(""), f.Close()))
	}
	require.NoError(t, disk.SyncDir("", "/data/topic-0"))
	return disk
}

// TestOnlyWhatIsBelowTheStartIsRemovedLater: of the empty files behind a deleted one that is back,
// one cannot be removed. That is an error: were it removed while the log is open, as those below the
// start are, a segment could be in its place by then, with records that were acknowledged.
func TestOnlyWhatIsBelowTheStartIsRemovedLater(t *testing.T) {
	disk := deletedExcept(t, FlushBeforeAck, true, []Offset{0}, 100)
	f, err := disk.Create("/data/topic-0/" + logFileName(200))
	require.NoError(t, err)
	require.NoError(t, errors.Join(f.Close(), disk.SyncDir("", "/data/topic-0")))
	fsys := errfs.New(disk)
	fsys.Add(errfs.Rule{Kind: errfs.Remove, Name: "/data/topic-0/" + logFileName(100), Times: 1, Err: errDead})
	l, p := openGap(t, fsys)
	_, err = p.Append(ctx, Record{})
	require.ErrorIs(t, err, errDead)
	require.ErrorIs(t, err, ErrReadOnly)
	require.NoError(t, kill(l))

	l, p = openGap(t, fsys)
	_, err = p.Append(ctx, make([]Record, 95)...)
	require.NoError(t, err)
	at, err := p.Append(ctx, Record{Value: make([]byte, 8000)}) // in a file of its own
	require.NoError(t, err)
	require.NoError(t, p.removeDeleted())
	require.NoError(t, kill(l))
	require.Equal(t, []Offset{5, 100}, batchFiles(t, disk))
	l, p = openGap(t, disk)
	require.Len(t, readValues(t, p, at), 1)
	require.NoError(t, kill(l))
}
