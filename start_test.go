package riffle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// bothPolicies are small segments under each flush policy.
var bothPolicies = map[string]*TopicConfig{
	"FlushBeforeAck": {SegmentBytes: 1024},
	"FlushAsync":     {SegmentBytes: 1024, Flush: FlushAsync, FlushInterval: Forever},
}

// appendTriples appends batches of three records, about five to a segment.
func appendTriples(t testing.TB, p *Partition, from, to int) {
	t.Helper()
	for i := from; i < to; i += 3 {
		var recs []Record
		for j := i; j < i+3; j++ {
			recs = append(recs, Record{Timestamp: time.UnixMilli(int64(1000 + j)), Key: make([]byte, 40), Value: fmt.Appendf(nil, "v%d", j)})
		}
		at, err := p.Append(ctx, recs...)
		require.NoError(t, err)
		require.Equal(t, Offset(i), at)
	}
	p.topic.log.tasks.Wait()
}

// logFiles returns the files of batches of a partition by their base offsets.
func logFiles(t testing.TB, p *Partition) (bases []Offset) {
	t.Helper()
	p.topic.log.tasks.Wait()
	entries, err := p.topic.log.fs.ReadDir(p.dir)
	require.NoError(t, err)
	for _, e := range entries {
		if base, ok := parseLogFileName(e.Name); ok {
			bases = append(bases, base)
		}
	}
	return bases
}

// openStart opens a log whose bounds are flushed only where something depends on it.
func openStart(t testing.TB, fsys vfs.FS, cfg *TopicConfig) (*Log, *Partition) {
	t.Helper()
	l, err := openTuned(fsys, "/data", nil, tuning{ceilingStep: 1000, boundsDelay: Forever, reserveBytes: 4096})
	require.NoError(t, err)
	p := partOf(t, l, "topic", cfg)
	l.tasks.Wait()
	return l, p
}

// What is before the offset is gone, in the midst of a batch too, and its files;
// what is behind stays, whatever is asked for next. After opening it is the same.
// Kafka: testLogStartOffsetAfterDeleteRecords, testDeleteRecordsWithException,
// testLogStartOffsetCheckpoint.
func TestDeleteBefore(t *testing.T) {
	for name, cfg := range bothPolicies {
		t.Run(name, func(t *testing.T) {
			disk := memfs.New()
			l, p := openStart(t, disk, cfg)
			appendTriples(t, p, 0, 60)
			require.Greater(t, len(p.Segments()), 3)
			for _, c := range []struct{ to, start Offset }{
				{0, 0}, {1, 1}, {1, 1}, {0, 1}, {3, 3}, {20, 20}, {19, 20}, {40, 40}, {58, 58},
			} {
				require.NoError(t, p.DeleteBefore(ctx, c.to))
				check := func() {
					require.Equal(t, Bounds{c.start, 60, 60, 60}, p.Bounds())
					require.Equal(t, wantValues(int(c.start), 60), readValues(t, p, Earliest))
					require.Equal(t, wantValues(int(c.start), 60), readValues(t, p, c.start))
					segs := p.Segments()
					require.LessOrEqual(t, segs[0].Base, c.start)
					require.Greater(t, segs[0].End, c.start, "all of the first one is deleted")
					require.Equal(t, basesOf(segs), logFiles(t, p))
					if c.start > 0 {
						var oe *OffsetError
						_, err := collect(p, c.start-1)
						require.ErrorAs(t, err, &oe)
						require.Equal(t, OffsetError{c.start - 1, c.start, 60}, *oe)
					}
					at, err := p.offsetAt(ctx, 1000)
					require.NoError(t, err)
					require.Equal(t, c.start, at)
					at, err = p.offsetOfMaxTimestamp(ctx)
					require.NoError(t, err)
					require.Equal(t, Offset(59), at)
				}
				check()
				require.NoError(t, l.Close())
				l, p = openStart(t, disk, cfg)
				check()
				appended, bounds := p.begun, p.entry.part
				require.False(t, appended)
				require.Equal(t, c.start, bounds.start)
			}
			for _, to := range []Offset{61, -2, -3, NoOffset} {
				var oe *OffsetError
				require.ErrorAs(t, p.DeleteBefore(ctx, to), &oe)
				require.Equal(t, OffsetError{to, 58, 60}, *oe)
			}
			require.NoError(t, l.Close())
			require.ErrorIs(t, p.DeleteBefore(ctx, 59), ErrClosed)
		})
	}
}

func basesOf(segs []SegmentInfo) (bases []Offset) {
	for _, s := range segs {
		bases = append(bases, s.Base)
	}
	return bases
}

// The largest time is that of the records that are left, wherever the deleted ones
// had it; a time is not found in a deleted record of a batch that is left.
func TestTimesOfDeletedRecordsAreNotFound(t *testing.T) {
	l, p := openStart(t, memfs.New(), bothPolicies["FlushBeforeAck"])
	times := []int64{50, 90, 40, 30, 20, 60, 10, 70, 15}
	var recs []Record
	for i := range 60 {
		recs = append(recs, Record{Timestamp: time.UnixMilli(times[i%9] * int64(100-i)), Value: make([]byte, 40)})
	}
	for i := 0; i < 60; i += 3 {
		_, err := p.Append(ctx, recs[i:i+3]...)
		require.NoError(t, err)
	}
	for start := range Offset(60) {
		require.NoError(t, p.DeleteBefore(ctx, start))
		left := recs[start:]
		largest := slices.MaxFunc(left, func(a, b Record) int { return a.Timestamp.Compare(b.Timestamp) }).Timestamp
		want := start + Offset(slices.IndexFunc(left, func(r Record) bool { return r.Timestamp.Equal(largest) }))
		at, err := p.offsetOfMaxTimestamp(ctx)
		require.NoError(t, err)
		require.Equal(t, want, at, "largest from %d", start)
		for _, r := range recs {
			want := NoOffset
			if i := slices.IndexFunc(left, func(o Record) bool { return !o.Timestamp.Before(r.Timestamp) }); i >= 0 {
				want = start + Offset(i)
			}
			at, err := p.offsetAt(ctx, r.Timestamp.UnixMilli())
			require.NoError(t, err)
			require.Equal(t, want, at, "time %v from %d", r.Timestamp, start)
		}
	}
	require.NoError(t, l.Close())
}

// A topic that only compacts refuses, and so do the log's own. Kafka:
// Partition.deleteRecordsOnLeader, ReplicaManager.deleteRecordsOnLocalLog.
func TestDeleteBeforeNeedsThePolicy(t *testing.T) {
	l, p := openStart(t, memfs.New(), &TopicConfig{Cleanup: CleanupCompact})
	err := p.DeleteBefore(ctx, 0)
	requireAll(t, err, ErrPolicy)
	require.EqualError(t, err, "delete topic-0: riffle: the topic's policy does not allow it: Cleanup is CleanupCompact")
	require.ErrorIs(t, l.meta.DeleteBefore(ctx, Latest), ErrInvalidTopic)
	require.NoError(t, partOf(t, l, "both", &TopicConfig{Cleanup: CleanupCompactDelete}).DeleteBefore(ctx, Latest))
	require.NoError(t, l.DeleteTopic(ctx, "topic"))
	require.ErrorIs(t, p.DeleteBefore(ctx, 0), ErrTopicNotFound)
	both := partitionOf(l, "both")
	both.damaged = errors.New("damaged")
	require.ErrorIs(t, both.DeleteBefore(ctx, Latest), ErrReadOnly)
	require.NoError(t, l.Close())
}

// Deleting all leaves one empty segment, whose name is the log end. Whatever
// happens to the machine, the log goes on there, or behind the gap that a power
// cut leaves under FlushAsync, and what comes is found. Kafka:
// UnifiedLogTest.testDeleteOldSegments.
func TestDeleteAllKeepsTheEnd(t *testing.T) {
	for name, cfg := range bothPolicies {
		for _, how := range []string{"close", "kill", "cut", "close and cut"} {
			t.Run(name+"/"+how, func(t *testing.T) {
				disk := memfs.New()
				l, p := openStart(t, disk, cfg)
				appendTriples(t, p, 0, 60)
				next := Offset(60)
				for life := range 5 {
					require.NoError(t, p.DeleteBefore(ctx, Latest))
					require.NoError(t, p.DeleteBefore(ctx, Latest))
					require.Equal(t, Bounds{next, next, next, next}, p.Bounds())
					require.Equal(t, []SegmentInfo{{Base: next, End: next, Active: true, File: p.path(logFileName(next))}}, p.Segments())
					require.Equal(t, []Offset{next}, logFiles(t, p))
					disk, l, p = stopAndOpen(t, how, disk, l, cfg)
					if strings.Contains(how, "cut") && cfg.Flush == FlushAsync && how == "cut" {
						require.Greater(t, p.Bounds().End, next)
						next = p.Bounds().End
					}
					require.Equal(t, Bounds{next, next, next, next}, p.Bounds())
					if life%2 == 0 { // else it is opened once more as it is
						appendTriples(t, p, int(next), int(next)+30)
						require.Equal(t, wantValues(int(next), int(next)+30), readValues(t, p, Earliest))
						next += 30
					} else if p.Segments() == nil {
						_, err := p.Append(ctx, Record{Value: fmt.Appendf(nil, "v%d", next)})
						require.NoError(t, err)
						next++
					}
				}
				require.NoError(t, l.Close())
			})
		}
	}
}

func stopAndOpen(t *testing.T, how string, disk *memfs.FS, l *Log, cfg *TopicConfig) (*memfs.FS, *Log, *Partition) {
	t.Helper()
	l.tasks.Wait()
	if strings.HasPrefix(how, "close") {
		require.NoError(t, l.Close())
	} else {
		require.NoError(t, kill(l))
	}
	if strings.HasSuffix(how, "cut") {
		disk = disk.CrashClone(7)
	}
	l, p := openStart(t, disk, cfg)
	require.NoError(t, p.damaged)
	return disk, l, p
}

// A clean stop stays one if records are deleted after it and nothing is appended:
// there is no gap, and no epoch, whatever the machine does.
func TestDeletionLeavesACleanStopClean(t *testing.T) {
	for name, cfg := range bothPolicies {
		for _, to := range []Offset{7, 31, 60} {
			t.Run(fmt.Sprint(name, to), func(t *testing.T) {
				disk := memfs.New()
				l, p := openStart(t, disk, cfg)
				appendTriples(t, p, 0, 60)
				require.NoError(t, l.Close())
				l, p = openStart(t, disk, cfg)
				require.NoError(t, p.DeleteBefore(ctx, to))
				require.NoError(t, kill(l))
				l, p = openStart(t, disk.CrashClone(3), cfg)
				require.Equal(t, Bounds{to, 60, 60, 60}, p.Bounds())
				appendTriples(t, p, 60, 63)
				require.Equal(t, wantValues(int(to), 63), readValues(t, p, Earliest))
				require.Zero(t, p.epoch)
				require.NoError(t, l.Close())
			})
		}
	}
}

// Of a log that lies behind a gap since a power cut has taken what was shown,
// records are deleted before anything is appended: the offsets of those that were
// lost are not used again, also if the process is killed next.
func TestDeletionBehindAGap(t *testing.T) {
	cfg := bothPolicies["FlushAsync"]
	for _, to := range []Offset{1, 20, 500, Latest} {
		disk := memfs.New()
		l, p := openStart(t, disk, cfg)
		appendTriples(t, p, 0, 60)
		require.NoError(t, kill(l))
		disk = disk.CrashClone(2)
		l, p = openStart(t, disk, cfg)
		require.Equal(t, Offset(1000), p.Bounds().End)
		left := readValues(t, p, Earliest)
		require.NotEmpty(t, left)
		require.Less(t, len(left), 60)
		require.NoError(t, p.DeleteBefore(ctx, to))
		if to == Latest {
			to = 1000
		}
		require.Equal(t, Bounds{to, 1000, 1000, 1000}, p.Bounds())
		left = left[min(int(to), len(left)):]
		require.NoError(t, kill(l))
		for range 2 {
			l, p = openStart(t, disk, cfg)
			require.NoError(t, p.damaged)
			require.Equal(t, Offset(1000), p.Bounds().End)
			require.GreaterOrEqual(t, p.Bounds().Start, to)
			require.Equal(t, left, slices.Clip(append([]string{}, readValues(t, p, Earliest)...)))
			require.NoError(t, l.Close())
		}
	}
}

// Epochs below the start are dropped, the one that it is in begins there. Kafka:
// UnifiedLogTest.shouldUpdateOffsetForLeaderEpochsWhenDeletingSegments.
func TestDeletionDropsEpochs(t *testing.T) {
	disk := memfs.New()
	l, p := openStart(t, disk, bothPolicies["FlushBeforeAck"])
	for i := range 4 { // an epoch for each life
		appendTriples(t, p, 30*i, 30*i+30)
		require.NoError(t, kill(l))
		l, p = openStart(t, disk, bothPolicies["FlushBeforeAck"])
	}
	require.Equal(t, []epochEntry{{0, 0}, {1, 30}, {2, 60}, {3, 90}}, p.epochs.load())
	require.NoError(t, p.DeleteBefore(ctx, 60)) // begins epoch 4 at 120, since the stop was unclean
	require.Equal(t, []epochEntry{{2, 60}, {3, 90}, {4, 120}}, p.epochs.load())
	require.NoError(t, p.DeleteBefore(ctx, 70))
	require.Equal(t, []epochEntry{{2, 70}, {3, 90}, {4, 120}}, p.epochs.load())
	require.NoError(t, p.DeleteBefore(ctx, 119))
	require.Equal(t, []epochEntry{{3, 119}, {4, 120}}, p.epochs.load())
	require.NoError(t, l.Close())
	l, p = openStart(t, disk, nil)
	require.Equal(t, []epochEntry{{3, 119}}, p.epochs.load(), "as the log is")
	require.NoError(t, l.Close())
}

// A loop that stands before the new start gets *OffsetError with the bounds, at its
// next batch, also if its file is gone; one behind it goes on, and one that waits
// at the end is not disturbed.
func TestDeletionPassesReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, p := openStart(t, memfs.New(), bothPolicies["FlushBeforeAck"])
		appendTriples(t, p, 0, 60)
		type loop struct {
			go_  chan struct{}
			last Offset
			err  error
		}
		var wg sync.WaitGroup
		begin := func(from, pause Offset, follow bool) *loop {
			s := &loop{go_: make(chan struct{})}
			records := p.Records(ctx, from, nil)
			if follow {
				records = p.Follow(ctx, from, &ReadOptions{Until: 63})
			}
			wg.Go(func() {
				for r, err := range records {
					if s.err = err; err != nil {
						break
					}
					if s.last = r.Offset; s.last == pause {
						<-s.go_
					}
				}
			})
			return s
		}
		passed, followed, inBatch, at, behind := begin(0, 2, false), begin(0, 4, true), begin(0, 40, true), begin(0, 39, false), begin(0, 50, true)
		waits := begin(60, NoOffset, true)
		synctest.Wait()
		require.NoError(t, p.DeleteBefore(ctx, 40))
		synctest.Wait()
		for _, s := range []*loop{passed, followed, inBatch, at, behind} {
			close(s.go_)
		}
		synctest.Wait()
		appendTriples(t, p, 60, 63)
		wg.Wait()
		for _, c := range []struct {
			s          *loop
			last, next Offset
		}{
			{passed, 2, 3}, {followed, 5, 6}, // what was read already is still shown
		} {
			var oe *OffsetError
			require.ErrorAs(t, c.s.err, &oe)
			require.Equal(t, OffsetError{c.next, 40, 60}, *oe)
			require.Equal(t, c.last, c.s.last)
		}
		for _, s := range []*loop{inBatch, behind, waits} {
			require.NoError(t, s.err)
			require.Equal(t, Offset(62), s.last)
		}
		require.NoError(t, at.err)
		require.Equal(t, Offset(59), at.last)
		require.NoError(t, l.Close())
	})
}

// A loop that has read all of an epoch stands at the new start when that epoch is
// deleted: nothing is missing, and it goes on.
func TestDeletionOfTheEpochBeforeALoop(t *testing.T) {
	disk := memfs.New()
	l, p := openStart(t, disk, bothPolicies["FlushBeforeAck"])
	appendTriples(t, p, 0, 30)
	require.NoError(t, kill(l))
	l, p = openStart(t, disk, bothPolicies["FlushBeforeAck"])
	appendTriples(t, p, 30, 60)
	n := 0
	for r, err := range p.Records(ctx, Earliest, nil) {
		require.NoError(t, err)
		require.Equal(t, Offset(n), r.Offset)
		if n++; n == 30 {
			require.NoError(t, p.DeleteBefore(ctx, 30))
		}
	}
	require.Equal(t, 60, n)
	require.NoError(t, l.Close())
}

// On a disk without a free byte the oldest records can be deleted, and all; then
// appends go on. The next segment is begun in the space that is set aside.
func TestDeleteOnAFullDisk(t *testing.T) {
	for name, cfg := range bothPolicies {
		t.Run(name, func(t *testing.T) {
			m := memfs.New()
			l := openKeeping(t, m, testKeep)
			p := partOf(t, l, "topic", cfg)
			appendTriples(t, p, 0, 60)
			l.space.last.Store(new(diskLook))
			m.SetFree(0)
			_, err := p.Append(ctx, Record{})
			require.ErrorIs(t, err, ErrDiskFull)
			require.NoError(t, p.DeleteBefore(ctx, 31))
			require.NoError(t, p.DeleteBefore(ctx, Latest))
			require.Equal(t, []Offset{60}, logFiles(t, p))
			m.SetFree(10 << 20)
			l.space.last.Store(new(diskLook))
			appendTriples(t, p, 60, 63)
			require.Equal(t, wantValues(60, 63), readValues(t, p, Earliest))
		})
	}
}

// Whose context ends before bounds are flushed is in doubt, and the deletion goes
// on. Whose context has ended, or whose log is closed, deletes nothing.
func TestDeleteBeforeWhoseContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := errfs.New(memfs.New())
		l, p := openStart(t, fsys, bothPolicies["FlushBeforeAck"])
		appendTriples(t, p, 0, 60)
		ended, cancel := context.WithCancel(ctx)
		cancel()
		err := p.DeleteBefore(ended, 20)
		require.ErrorIs(t, err, context.Canceled)
		require.NotErrorIs(t, err, ErrInDoubt)
		fsys.Add(errfs.Rule{Site: siteStart, Before: func(errfs.Op) { time.Sleep(time.Second) }})
		ends, cancel := context.WithTimeout(ctx, time.Millisecond)
		defer cancel()
		requireAll(t, p.DeleteBefore(ends, 20), ErrInDoubt, context.DeadlineExceeded)
		require.Zero(t, p.Bounds().Start)
		// Appends and rolls go on meanwhile, another deletion waits.
		appendTriplesNow(t, p, 60, 90)
		require.Zero(t, p.Bounds().Start)
		require.NoError(t, p.DeleteBefore(ctx, 30))
		require.Equal(t, Bounds{30, 90, 90, 90}, p.Bounds())
		require.Equal(t, wantValues(30, 90), readValues(t, p, Earliest))
		require.NoError(t, l.Close())
	})
}

// appendTriplesNow is appendTriples that waits for nothing in the background.
func appendTriplesNow(t testing.TB, p *Partition, from, to int) {
	t.Helper()
	for i := from; i < to; i += 3 {
		_, err := p.Append(ctx, Record{Value: fmt.Appendf(nil, "v%d", i)}, Record{Value: fmt.Appendf(nil, "v%d", i+1)}, Record{Value: fmt.Appendf(nil, "v%d", i+2)})
		require.NoError(t, err)
	}
}

// A flush of bounds that fails leaves the records, in doubt; appends go on, and it
// can be asked for again. A file that cannot be removed is removed later, or
// when the log is opened.
func TestDeletionThatFails(t *testing.T) {
	fsys := errfs.New(memfs.New())
	l, p := openStart(t, fsys, bothPolicies["FlushBeforeAck"])
	appendTriples(t, p, 0, 60)
	fail := fsys.FailSite(siteStart, 0, errfs.ErrInjected)
	requireAll(t, p.DeleteBefore(ctx, 40), ErrInDoubt, errfs.ErrInjected)
	fail()
	require.Zero(t, p.Bounds().Start)
	require.Zero(t, p.entry.part.start)
	require.Equal(t, wantValues(0, 60), readValues(t, p, Earliest))
	appendTriples(t, p, 60, 63)

	all := logFiles(t, p)
	allow := fsys.Add(errfs.Rule{Kind: errfs.Remove, Err: fs.ErrPermission})
	require.NoError(t, p.DeleteBefore(ctx, 40))
	require.Equal(t, wantValues(40, 63), readValues(t, p, Earliest))
	require.Equal(t, all, logFiles(t, p))
	allow()
	require.NoError(t, p.removeDeleted())
	require.Equal(t, basesOf(p.Segments()), logFiles(t, p))

	allow = fsys.Add(errfs.Rule{Kind: errfs.Remove, Err: fs.ErrPermission})
	require.NoError(t, p.DeleteBefore(ctx, 62))
	l.tasks.Wait()
	require.NoError(t, l.Close())
	allow()
	l, p = openStart(t, fsys, nil)
	require.Equal(t, basesOf(p.Segments()), logFiles(t, p))
	require.Equal(t, wantValues(62, 63), readValues(t, p, Earliest))
	require.NoError(t, l.Close())
}

// A replica's start moves up to its high watermark. A truncation that goes below
// it finds none of the files that lay there, and one into its batch leaves nothing.
func TestReplicaMovesItsStart(t *testing.T) {
	fsys := errfs.New(memfs.New())
	l, p := openStart(t, fsys, bothPolicies["FlushBeforeAck"])
	require.NoError(t, p.becomeReplica(ctx, 0))
	all := run(0, 1, 40)
	replicate(t, p, all)
	_, err := p.setHighWatermark(ctx, all[20].base)
	require.NoError(t, err)
	require.ErrorIs(t, p.DeleteBefore(ctx, all[21].base), ErrOffsetOutOfRange)
	require.NoError(t, p.moveStart(all[21].base, "the leader's"), "bounded by the high watermark")
	require.Zero(t, p.Bounds().Start)
	allow := fsys.Add(errfs.Rule{Kind: errfs.Remove, Err: fs.ErrPermission})
	require.NoError(t, p.moveStart(all[20].base, "the leader's"))
	l.tasks.Wait()
	require.Equal(t, all[20].base, p.Bounds().Start)
	require.NotEmpty(t, p.deleted, "files that would be the log's again")
	allow()
	require.NoError(t, p.truncateFullyAndStartAt(ctx, 1))
	require.Empty(t, logFiles(t, p))
	require.Equal(t, Bounds{1, 1, 1, 1}, p.Bounds())

	set := run(1, 1, 1)
	set[0].n = 5
	replicate(t, p, set)
	showAll(t, p)
	require.NoError(t, p.moveStart(3, "the leader's"))
	require.NoError(t, p.truncateTo(ctx, 4))
	require.Equal(t, Bounds{3, 3, 3, 3}, p.Bounds())
	require.NoError(t, l.Close())
}

// Records are deleted one by one while others are appended, segments roll, loops
// read and follow, and retention is checked. Each loop sees what is there, in order
// and without a hole, until it is passed. Nothing stays open or behind.
func TestReadersBesideDeletion(t *testing.T) {
	for name, cfg := range bothPolicies {
		t.Run(name, func(t *testing.T) {
			disk := memfs.New()
			own := *cfg
			own.RetentionBytes = 3000
			l, p := openStart(t, disk, &own)
			done := make(chan struct{})
			var readers, writers sync.WaitGroup
			passed := 0
			for i := range 2 {
				readers.Go(func() {
					for range until(done) {
						err := readInOrder(p, i == 0, done)
						if i == 1 && errors.Is(err, ErrOffsetOutOfRange) {
							passed++
						} else if err != nil && !errors.Is(err, ErrOffsetOutOfRange) {
							t.Error(err)
						}
						if b := p.Bounds(); b.Start > b.HighWatermark || b.HighWatermark > b.End {
							t.Errorf("bounds %+v", b)
						}
					}
				})
			}
			for range 2 {
				writers.Go(func() {
					for range 300 {
						if _, err := p.Append(ctx, Record{Value: make([]byte, 50)}, Record{}); err != nil {
							t.Error(err)
						}
					}
				})
			}
			writers.Go(func() {
				for i := range 200 {
					to := p.Bounds().HighWatermark - Offset(i%40)
					if err := p.DeleteBefore(ctx, max(to, 0)); err != nil {
						t.Error(err)
					}
					if i%10 == 0 {
						l.checkRetention(time.Now())
						_ = p.Segments()
					}
				}
			})
			writers.Wait()
			close(done)
			p.wake()
			_, err := p.Append(ctx, Record{})
			require.NoError(t, err)
			readers.Wait()
			require.Equal(t, Offset(1201), p.Bounds().End)
			require.Equal(t, basesOf(p.Segments()), logFiles(t, p))
			require.NoError(t, l.Close())
			require.Zero(t, disk.OpenFiles())
			require.Zero(t, disk.Mappings())
		})
	}
}

// readInOrder reads from the start on, until the loop is passed or done is closed.
func readInOrder(p *Partition, follow bool, done chan struct{}) error {
	records := p.Records(ctx, Earliest, nil)
	if follow {
		records = p.Follow(ctx, Earliest, nil)
	}
	next := NoOffset
	for r, err := range records {
		if err != nil {
			return err
		}
		if next != NoOffset && r.Offset != next {
			return fmt.Errorf("offset %d, want %d", r.Offset, next)
		}
		next = r.Offset + 1
		select {
		case <-done:
			return nil
		default:
		}
	}
	return nil
}

// openGarbage is openStart, where records are deleted whose files cannot be removed until allow
// is called.
func openGarbage(t *testing.T, fsys *errfs.FS) (l *Log, p *Partition, allow func()) {
	t.Helper()
	l, p = openStart(t, fsys, bothPolicies["FlushBeforeAck"])
	appendTriples(t, p, 0, 60)
	allow = fsys.Add(errfs.Rule{Kind: errfs.Remove, Err: fs.ErrPermission})
	require.NoError(t, p.DeleteBefore(ctx, 40))
	return l, p, allow
}

// A file of deleted records that cannot be removed when the log is opened is in
// nobody's way.
func TestGarbageThatCannotBeRemoved(t *testing.T) {
	fsys := errfs.New(memfs.New())
	l, _, allow := openGarbage(t, fsys)
	l.tasks.Wait()
	require.NoError(t, l.Close())
	l, p := openStart(t, fsys, nil)
	require.NoError(t, p.damaged)
	require.Equal(t, wantValues(40, 60), readValues(t, p, Earliest))
	appendTriples(t, p, 60, 63)
	allow()
	l.checkRetention(noon)
	require.Equal(t, basesOf(p.Segments()), logFiles(t, p))
	require.NoError(t, l.Close())
}

// Files of deleted records that a kill has left are removed when the log is opened, and are
// not in it.
func TestGarbageIsRemovedWhenOpened(t *testing.T) {
	fsys := errfs.New(memfs.New())
	l, p, allow := openGarbage(t, fsys)
	left := basesOf(p.Segments())
	require.NoError(t, kill(l))
	require.Greater(t, len(logFiles(t, p)), len(left))
	allow()
	l, p = openStart(t, fsys, nil)
	require.Equal(t, left, logFiles(t, p))
	require.Equal(t, left, basesOf(p.Segments()))
	require.Equal(t, wantValues(40, 60), readValues(t, p, Earliest))
	require.NoError(t, l.Close())
}

// What a power cut has left of records that were not deleted is kept and reported, also
// if the batches before it end below the start.
func TestTornEndBehindTheStartIsKept(t *testing.T) {
	cfg := &TopicConfig{Flush: FlushAsync, FlushInterval: Forever}
	value := func(i int) []byte { return fmt.Appendf(nil, "%01000d", i) }
	kept := 0
	for seed := range uint64(60) {
		disk := memfs.New()
		l, p := openStart(t, disk, cfg)
		for i := range 40 {
			_, err := p.Append(ctx, Record{Value: value(i)})
			require.NoError(t, err)
		}
		require.NoError(t, p.DeleteBefore(ctx, 20))
		require.NoError(t, kill(l))
		disk = disk.CrashClone(seed)
		left, err := vfs.ReadFile(disk, p.path(logFileName(0)), 1<<20)
		require.NoError(t, err)
		l, p = openStart(t, disk, cfg)
		require.NoError(t, p.damaged)
		if p.segs.Load() == nil && bytes.Contains(left, value(30)) {
			kept++
			entries, err := disk.ReadDir(p.dir)
			require.NoError(t, err)
			i := slices.IndexFunc(entries, func(e vfs.DirEntry) bool { return strings.HasSuffix(e.Name, cutSuffix) })
			require.GreaterOrEqual(t, i, 0)
			cut, err := vfs.ReadFile(disk, p.path(entries[i].Name), 1<<20)
			require.NoError(t, err)
			require.True(t, bytes.Contains(cut, value(30)))
			require.Positive(t, l.Metrics().Total.Recovery.CutBytes)
		}
		require.NoError(t, l.Close())
	}
	require.NotZero(t, kept)
}

// TestEarliestIsWhereTheLogStarts: a loop from Earliest has named no offset, so a start
// that moves before its first record moves it too; afterwards it is passed like others.
func TestEarliestIsWhereTheLogStarts(t *testing.T) {
	p := newPart(t, nil)
	appendValues(t, p, 0, 20)
	r := readers.Get().(*reader)
	defer r.release()
	for _, from := range []Offset{Earliest, 0} {
		r.start(p, p.Bounds().Start)
		r.fromStart = from == Earliest
		require.NoError(t, p.DeleteBefore(ctx, p.Bounds().Start+5))
		found, err := r.load(ctx)
		if from != Earliest {
			var o *OffsetError
			require.ErrorAs(t, err, &o)
			break
		}
		require.NoError(t, err)
		require.True(t, found)
		require.EqualValues(t, 5, r.next)
		_, err = r.each(ctx, 7, func(*reader) bool { return true })
		require.NoError(t, err)
		require.NoError(t, p.DeleteBefore(ctx, 9))
		_, err = r.load(ctx)
		require.ErrorIs(t, err, ErrOffsetOutOfRange)
	}
}

// TestDeletionsThatHangGatherNoGoroutines: while the disk hangs, one deletion is under
// way, whoever asks; the others leave with their contexts, and nothing of theirs is in
// doubt.
func TestDeletionsThatHangGatherNoGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := errfs.New(memfs.New())
		p := partOf(t, openAt(t, fsys, "/data", nil), "topic", nil)
		appendValues(t, p, 0, 20)
		fsys.Add(errfs.Rule{Kind: errfs.Sync, Site: siteStart, Decide: func(errfs.Op) error {
			time.Sleep(10 * time.Second)
			return nil
		}})
		before := ourGoroutines()
		doubts := 0
		for i := range 100 {
			short, cancel := context.WithTimeout(ctx, time.Millisecond)
			err := p.DeleteBefore(short, Offset(1+i%10))
			require.ErrorIs(t, err, context.DeadlineExceeded)
			if errors.Is(err, ErrInDoubt) {
				doubts++
			}
			cancel()
		}
		synctest.Wait()
		require.Equal(t, 1, doubts, "the one that was begun")
		require.LessOrEqual(t, ourGoroutines(), before+2)
		require.NoError(t, p.DeleteBefore(ctx, 12))
		require.EqualValues(t, 12, p.Bounds().Start)
	})
}
