package riffle

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/batch"
	"github.com/rifflelog/riffle/internal/invariants"
	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// Cut at each offset, above and below the high watermark: the batch that it is
// in goes too, as do the epochs that begin behind. The log goes on there in
// another epoch, and opening it again finds the same. Kafka: UnifiedLogTest,
// "truncate".
func TestTruncateTo(t *testing.T) {
	t.Parallel()
	all := run(0, 1, 25)
	all = append(all, run(endOf(0, all), 4, 25)...)
	end := endOf(0, all)
	for _, hw := range []Offset{0, 40, end} {
		for n := Offset(0); n <= end+2; n += 3 {
			fsys := memfs.New()
			l := openAt(t, fsys, "/data", nil)
			p := partOf(t, l, "topic", &TopicConfig{SegmentBytes: 1024})
			require.NoError(t, p.becomeReplica(ctx, 0))
			replicate(t, p, all)
			_, err := p.setHighWatermark(ctx, hw)
			require.NoError(t, err)
			hw := p.Bounds().HighWatermark

			require.NoError(t, p.truncateTo(ctx, n))
			kept := before(all, n)
			left := endOf(0, kept)
			require.Equal(t, Bounds{LastStable: min(hw, left), HighWatermark: min(hw, left), End: left}, p.Bounds(), "at %d", n)
			requireEpochs(t, epochsIn(kept), p)
			more := run(left, 6, 20)
			replicate(t, p, more)
			now := append(kept[:len(kept):len(kept)], more...)
			requireEpochs(t, epochsIn(now), p)
			showAll(t, p)
			requireSent(t, now, p, "at %d", n)
			require.NoError(t, l.Close())
			l = openAt(t, fsys, "/data", nil)
			requireSent(t, now, partOf(t, l, "topic", nil))
			require.NoError(t, l.Close())
			require.Zero(t, fsys.OpenFiles())
		}
	}
}

// Truncation at the end or beyond keeps all batches, and drops an epoch that
// has none. Kafka: UnifiedLog.truncateTo, "always truncate epoch cache".
func TestTruncateBeyondTheEndDropsEpochs(t *testing.T) {
	fsys, l, p := slowFS(t, nil)
	require.NoError(t, p.becomeReplica(ctx, 0))
	all := run(0, 1, 5)
	replicate(t, p, all)
	remove := fsys.Add(errfs.Rule{Kind: errfs.Write, Name: p.path(logFileName(0)), Err: vfs.ErrNoSpace})
	end, err := p.appendReplica(ctx, sent{50, 1, 2, 0}.encode())
	require.ErrorIs(t, err, ErrDiskFull)
	remove()
	require.Equal(t, Offset(50), end)
	require.Equal(t, []epochEntry{{1, 0}, {2, 50}}, p.epochs.load())
	for range 2 {
		require.NoError(t, p.truncateTo(ctx, 60))
		require.Equal(t, endOf(0, all), p.Bounds().End)
		requireEpochs(t, epochsIn(all), p)
	}
	require.NoError(t, l.Close())
	p = partOf(t, openAt(t, fsys, "/data", nil), "topic", nil)
	require.Equal(t, endOf(0, all), p.Bounds().End)
	requireSent(t, all, p)
}

// A replica that has nothing its leader still has goes on at the leader's start,
// below or above what it had, also if it had no file. Kafka: UnifiedLogTest,
// "truncate fully and start at".
func TestTruncateFullyAndStartAt(t *testing.T) {
	for _, flush := range []FlushPolicy{FlushBeforeAck, FlushAsync} {
		fsys, dir := testDir(t)
		l := openAt(t, fsys, dir, nil)
		p := partOf(t, l, "topic", &TopicConfig{Flush: flush, SegmentBytes: 1024})
		require.NoError(t, p.becomeReplica(ctx, 0))
		for i, n := range []Offset{500, 900, 30, 30, 0, 77} {
			restart := p.truncateFullyAndStartAt
			if b := p.Bounds(); n < b.Start {
				restart = p.truncateTo
			}
			require.NoError(t, restart(ctx, n))
			want := Bounds{Start: n, LastStable: n, HighWatermark: n, End: n}
			require.Equal(t, want, p.Bounds())
			require.Empty(t, p.epochs.load())
			if i%2 == 0 {
				for range 2 {
					require.NoError(t, l.Close())
					l = openAt(t, fsys, dir, nil)
					p = partOf(t, l, "topic", nil)
					require.Equal(t, want, p.Bounds())
				}
				require.NoError(t, p.becomeReplica(ctx, 0))
			}
			all := run(n, int32(i), 40)
			replicate(t, p, all)
			showAll(t, p)
			requireSent(t, all, p)
			require.Equal(t, n, p.Bounds().Start)
		}
	}
}

// What follows ends where the log parts from what it has shown, and says where,
// also if the log has grown again since; a loop that has shown less goes on.
// Kafka: LogTruncationException, KIP-320.
func TestFollowFindsATruncation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, _, p := slowFS(t, &TopicConfig{SegmentBytes: 1024})
		require.NoError(t, p.becomeReplica(ctx, 0))
		all := run(0, 1, 40)
		replicate(t, p, all)
		showAll(t, p)
		errs := make(chan error, 2)
		follow := func(from, stop Offset) {
			var err error
			for r, e := range p.Follow(ctx, from, nil) {
				if err = e; e == nil && r.Offset == stop {
					break
				}
			}
			errs <- err
		}
		go follow(70, NoOffset)
		synctest.Wait()
		require.NoError(t, p.truncateTo(ctx, 60))
		left := p.Bounds().End
		var oe *OffsetError
		require.ErrorAs(t, <-errs, &oe)
		require.Equal(t, OffsetError{Offset: endOf(0, all), Start: 0, End: left}, *oe)

		// They look only when the log is longer than before.
		seen := make(chan struct{})
		resume := make(chan struct{})
		go func() {
			var err error
			for r, e := range p.Records(ctx, 40, nil) {
				if err = e; e == nil && r.Offset == 54 {
					close(seen)
					<-resume
				}
			}
			errs <- err
		}()
		go follow(0, left+20)
		<-seen
		synctest.Wait()
		require.NoError(t, p.truncateTo(ctx, 50))
		parted := p.Bounds().End
		more := run(parted, 2, 60)
		replicate(t, p, more)
		showAll(t, p)
		close(resume)
		first, second := <-errs, <-errs
		for _, err := range []error{first, second} {
			require.ErrorAs(t, err, &oe)
			require.Equal(t, parted, oe.End)
		}
	})
}

// A log that has grown longer than what a loop has shown, in an epoch that was
// kept, is told from that all the same: the epoch that it has shown is gone.
func TestLoopFindsAnotherEpochInItsPlace(t *testing.T) {
	p := newPart(t, &TopicConfig{SegmentBytes: 1024})
	require.NoError(t, p.becomeReplica(ctx, 0))
	all := run(0, 3, 12)
	parted := endOf(0, all)
	replicate(t, p, append(all[:12:12], run(parted, 5, 12)...))
	showAll(t, p)
	var err error
	for r, e := range p.Records(ctx, Earliest, nil) {
		if err = e; err != nil || r.Offset != parted+7 {
			continue
		}
		require.NoError(t, p.truncateTo(ctx, parted))
		replicate(t, p, run(parted, 3, 30))
		showAll(t, p)
	}
	var oe *OffsetError
	require.ErrorAs(t, err, &oe)
	require.Equal(t, parted, oe.End)
}

// checkHook calls a function before each check of a batch that is read.
type checkHook struct {
	vfs.FS
	onCheck func()
}

func (h *checkHook) Check(site vfs.Site, ok bool) bool {
	if site == siteReadCheck && h.onCheck != nil {
		h.onCheck()
	}
	return h.FS.Check(site, ok)
}

// A loop that finds a batch while the log is cut forgets it: where it goes on is
// judged by what it has shown.
func TestLoopForgetsWhatItHasNotShown(t *testing.T) {
	fsys := &checkHook{FS: memfs.New()}
	p := partOf(t, openAt(t, fsys, "/data", nil), "topic", nil)
	require.NoError(t, p.becomeReplica(ctx, 0))
	replicate(t, p, append(run(0, 3, 3), run(6, 5, 3)...))
	showAll(t, p)
	checks := 0
	fsys.onCheck = func() {
		if checks++; checks != 4 {
			return
		}
		require.NoError(t, p.truncateTo(ctx, 3))
		replicate(t, p, run(3, 4, 9))
		showAll(t, p)
	}
	shown := 0
	var err error
	for _, err = range p.Records(ctx, Earliest, nil) {
		if err == nil {
			shown++
		}
	}
	var oe *OffsetError
	require.ErrorAs(t, err, &oe)
	require.Equal(t, OffsetError{Offset: 6, End: 3}, *oe)
	require.Equal(t, 6, shown)
}

// What was committed before the partition became a replica may still be being
// read, so it is not cut in place. A copy nobody has read.
func TestWhatWasCommittedOnceIsNotCutInPlace(t *testing.T) {
	p := newPart(t, nil)
	require.NoError(t, p.becomeReplica(ctx, 0))
	all := run(0, 1, 12)
	replicate(t, p, all)
	showAll(t, p)
	require.NoError(t, p.becomeReplica(ctx, 0))
	old := p.active().file
	require.NoError(t, p.truncateTo(ctx, endOf(0, all))) // of nothing
	require.Same(t, old, p.active().file)
	require.NoError(t, p.truncateTo(ctx, 12))
	require.NotSame(t, old, p.active().file)
	old = p.active().file
	require.NoError(t, p.truncateTo(ctx, 6))
	require.Same(t, old, p.active().file)
	showAll(t, p)
	requireSent(t, before(all, 6), p)
}

// A replica that is damaged can be cut at the damage, or before it. A cut behind
// it, or one that would keep it, is refused; the log stays as it is.
func TestTruncationAtDamage(t *testing.T) {
	all := run(0, 1, 12)
	for name, c := range map[string]struct {
		in      int64 // the batch at offset 6
		refused []Offset
	}{
		"magic":       {16, []Offset{7, 9, 24}},
		"base offset": {7, []Offset{7, 9, 24}},
		"value":       {batch.HeaderSize + 6, []Offset{7, 9, 24}},
	} {
		p := newPart(t, nil)
		require.NoError(t, p.becomeReplica(ctx, 0))
		replicate(t, p, all)
		edit(t, p.topic.log.fs, p.path(logFileName(0)), func(f vfs.File, _ int64) error {
			_, err := f.WriteAt([]byte{0x71}, int64(len(encodeAll(all[:3])))+c.in)
			return err
		})
		for _, n := range c.refused {
			require.ErrorIs(t, p.truncateTo(ctx, n), batch.ErrCorrupt, "%s, at %d", name, n)
			require.Equal(t, Bounds{End: endOf(0, all)}, p.Bounds())
		}
		require.NoError(t, p.truncateTo(ctx, 6), name)
		replicate(t, p, all[3:])
		showAll(t, p)
		requireSent(t, all, p, name)
	}
}

// A crash leaves a copy that is not needed. It goes when the log is opened.
func TestCopyOfATruncationIsRemoved(t *testing.T) {
	fsys, l, p := slowFS(t, nil)
	require.NoError(t, p.becomeReplica(ctx, 0))
	all := run(0, 1, 12)
	replicate(t, p, all)
	showAll(t, p)
	name := p.path(logFileName(0)) + vfs.TempSuffix
	fsys.Add(errfs.Rule{Kind: errfs.Rename, Name: name, Err: errfs.ErrInjected})
	require.ErrorIs(t, p.truncateTo(ctx, 6), ErrPartitionFailed)
	_, err := fsys.Stat(name)
	require.NoError(t, err)
	require.NoError(t, l.Close())
	l = openAt(t, fsys, "/data", nil)
	requireSent(t, all, partOf(t, l, "topic", nil))
	_, err = fsys.Stat(name)
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// No log can be cut at a negative offset. Kafka: IllegalArgumentException.
func TestTruncationAtANegativeOffset(t *testing.T) {
	p := newPart(t, nil)
	require.NoError(t, p.becomeReplica(ctx, 0))
	all := run(0, 1, 3)
	replicate(t, p, all)
	require.ErrorIs(t, p.truncateTo(ctx, NoOffset), ErrOffsetOutOfRange)
	require.ErrorIs(t, p.truncateFullyAndStartAt(ctx, NoOffset), ErrOffsetOutOfRange)
	require.Equal(t, Bounds{End: endOf(0, all)}, p.Bounds())
}

// Index entries behind the cut are gone, and there is room for as many again.
// Kafka: UnifiedLogTest, "truncating restores index capacity".
func TestTruncationGivesTheIndexRoom(t *testing.T) {
	p := newPart(t, nil)
	require.NoError(t, p.becomeReplica(ctx, 0))
	var all []sent
	for i := range 20 {
		all = append(all, sent{Offset(i), 1, 1, 5000})
	}
	replicate(t, p, all)
	require.Equal(t, 19, p.active().index.Load().offset.len())
	for _, n := range []Offset{10, 5, 5, 1} {
		require.NoError(t, p.truncateTo(ctx, n))
		require.Equal(t, int(n-1), p.active().index.Load().offset.len())
		replicate(t, p, all[n:])
		require.Equal(t, 19, p.active().index.Load().offset.len())
		showAll(t, p)
		requireSent(t, all, p)
	}
}

// A disk that is full leaves all as it was if nothing has been removed yet. An
// error afterwards takes the partition offline; what was to be kept can be read.
func TestTruncationThatFails(t *testing.T) {
	all := run(0, 1, 30)
	all = append(all, run(endOf(0, all), 2, 30)...)
	for _, site := range []vfs.Site{
		siteTruncateBounds, siteTruncateEpochs, siteTruncateCopy, siteTruncateNames, siteTruncateDir, siteTruncateSwap, siteRestartBounds,
	} {
		disk := memfs.New()
		fsys := errfs.New(disk)
		l := openAt(t, fsys, "/data", nil)
		p := partOf(t, l, "topic", &TopicConfig{SegmentBytes: 1024})
		require.NoError(t, p.becomeReplica(ctx, 0))
		replicate(t, p, all)
		showAll(t, p)
		cut := func() error { return p.truncateTo(ctx, 30) }
		if site == siteRestartBounds {
			cut = func() error { return p.truncateFullyAndStartAt(ctx, 30) }
		}
		remove := fsys.FailSite(site, 0, vfs.ErrNoSpace)
		err := cut()
		require.ErrorIs(t, err, ErrDiskFull, site)
		remove()
		mended := site == siteTruncateBounds || site == siteTruncateEpochs || site == siteTruncateCopy
		left := all
		switch {
		case site == siteRestartBounds:
			left = nil
		case !mended:
			left = before(all, 30)
		}
		requireSent(t, left, p, site)
		more := run(p.Bounds().End, 2, 3)
		_, failed := p.appendReplica(ctx, encodeAll(more))
		if !mended {
			require.ErrorIs(t, failed, ErrPartitionFailed, site)
			require.NoError(t, l.Close())
			require.Zero(t, disk.OpenFiles(), site)
			continue
		}
		require.NoError(t, failed, site)
		require.Equal(t, endOf(0, all), more[0].base)
		data, err := vfs.ReadFile(fsys, p.path(epochCheckpointName), maxSideFile)
		require.NoError(t, err)
		epochs, err := parseEpochs(data)
		require.NoError(t, err)
		require.Equal(t, epochsIn(all), epochs.load(), site)
		entries, err := fsys.ReadDir(p.dir)
		require.NoError(t, err)
		for _, e := range entries {
			require.False(t, strings.HasSuffix(e.Name, vfs.TempSuffix), e.Name)
		}
		require.NoError(t, cut(), site)
		requireSent(t, before(all, 30), p, site)
		require.NoError(t, l.Close())
		l = openAt(t, fsys, "/data", nil)
		requireSent(t, before(all, 30), partOf(t, l, "topic", nil), site)
	}
}

// A roll that failed leaves a file. A truncation removes it, or the log would
// end there after opening again.
func TestTruncationAfterAFailedRoll(t *testing.T) {
	fsys, l, p := slowFS(t, &TopicConfig{SegmentBytes: 1024})
	require.NoError(t, p.becomeReplica(ctx, 0))
	all := run(0, 1, 11)
	replicate(t, p, all)
	remove := fsys.FailSite(siteRollSyncDir, 0, vfs.ErrNoSpace)
	large := sent{endOf(0, all), 1, 1, 1000}
	_, err := p.appendReplica(ctx, large.encode())
	require.ErrorIs(t, err, ErrDiskFull)
	remove()
	require.NoError(t, p.truncateTo(ctx, 9))
	kept := before(all, 9)
	require.NoError(t, l.Close())
	l = openAt(t, fsys, "/data", nil)
	p = partOf(t, l, "topic", nil)
	require.Equal(t, endOf(0, kept), p.Bounds().End)
	requireSent(t, kept, p)
}

// A truncation waits for the flush that is running, and the next one for the
// truncation, whose end it finds.
func TestTruncationAndFlushesExclude(t *testing.T) {
	for _, all := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			fsys, _, p := slowFS(t, nil)
			require.NoError(t, p.becomeReplica(ctx, 0))
			replicate(t, p, run(0, 1, 3))
			arrived, release := fsys.Block(errfs.Rule{Site: siteFlush})
			var wg sync.WaitGroup
			wg.Go(func() { replicate(t, p, run(6, 1, 1)) })
			<-arrived
			held, letGo := fsys.Block(errfs.Rule{Site: siteTruncateBounds})
			wg.Go(func() {
				if all {
					require.NoError(t, p.truncateFullyAndStartAt(ctx, 3))
				} else {
					require.NoError(t, p.truncateTo(ctx, 3))
				}
			})
			synctest.Wait()
			require.Equal(t, Offset(7), p.Bounds().End)
			release()
			<-held
			wg.Go(func() {
				p.mu.Lock()
				require.NoError(t, p.unlockAndFlush(ctx, 8))
			})
			synctest.Wait()
			letGo()
			wg.Wait()
			require.Equal(t, Offset(3), p.Bounds().End)
			require.Equal(t, Offset(3), p.flushed)
		})
	}
}

// Readers and followers run while the log is cut and grows again in other
// epochs. Each loop shows records whose offsets and epochs go on, of batches
// that were sent, and ends with an *OffsetError at most.
func TestReadersWhileTruncating(t *testing.T) {
	t.Parallel()
	for _, cfg := range []TopicConfig{
		{Flush: FlushBeforeAck, SegmentBytes: 1024},
		{Flush: FlushAsync, SegmentBytes: 1024},
		{Flush: FlushAsync, SegmentBytes: 1 << 20, FlushInterval: Forever}, // mapped
		{Flush: FlushAsync, SegmentBytes: 4 << 10, FlushInterval: Forever}, // and sealed meanwhile
	} {
		disk := memfs.New()
		l, err := openTuned(disk, "/data", nil, tuning{boundsDelay: Forever, reserveBytes: 4096})
		require.NoError(t, err)
		p := partOf(t, l, "topic", &cfg)
		require.NoError(t, p.becomeReplica(ctx, 0))
		done := make(chan struct{})
		var wg sync.WaitGroup
		for i := range 3 {
			wg.Go(func() {
				for {
					select {
					case <-done:
						return
					default:
					}
					if err := readThrough(p, i == 0, done); err != nil {
						t.Error(err)
						return
					}
					if b := p.Bounds(); b.Start > b.HighWatermark || b.HighWatermark > b.End {
						t.Errorf("bounds %+v", b)
					}
				}
			})
		}
		wg.Go(func() {
			if err := showMost(p, done); err != nil {
				t.Error(err)
			}
		})
		var all []sent
		start := Offset(0)
		for i := range int32(60) {
			more := run(endOf(start, all), i, 40)
			all = append(all, more...)
			replicate(t, p, more)
			_, err := p.setHighWatermark(ctx, endOf(start, all)-20)
			require.NoError(t, err)
			switch n := endOf(start, all) - Offset(i*37%90); {
			case i%10 == 9:
				start, all = n, nil
				require.NoError(t, p.truncateFullyAndStartAt(ctx, n))
			default:
				all = before(all, n)
				require.NoError(t, p.truncateTo(ctx, n))
				if len(all) == 0 {
					start = min(start, n)
				}
			}
			all = all[:len(all):len(all)]
		}
		close(done)
		p.wake()
		// Who waits is at the end, and goes on with what comes.
		replicate(t, p, run(endOf(start, all), 99, 1))
		showAll(t, p)
		wg.Wait()
		require.NoError(t, l.Close())
		require.Zero(t, disk.Mappings())
		require.Zero(t, disk.OpenFiles())
	}
}

// A mapped segment is unmapped when it is cut, in place, by a copy, or as a
// whole; space that was allocated behind its end goes too. What is appended next
// is mapped again. Nothing stays mapped or open when the log is closed.
func TestTruncationOfAMappedSegment(t *testing.T) {
	disk, fsys, count := counting()
	l, p := mappedPart(t, fsys, TopicConfig{})
	require.NoError(t, p.becomeReplica(ctx, 0))
	var all []sent
	append200 := func(epoch int32) {
		before := count(errfs.MapWrite)
		more := run(endOf(0, all), epoch, 200)
		for _, s := range more {
			replicate(t, p, []sent{s})
			l.tasks.Wait()
		}
		all = append(all[:len(all):len(all)], more...)
		require.Greater(t, count(errfs.MapWrite), before+150)
		require.Equal(t, 1+len(p.active().mapped.load()), disk.Mappings()) // one is of bounds
	}
	append200(1)
	for i, n := range []Offset{endOf(0, all) + 5, 300, 200, 0, 100} {
		if i > 1 {
			showAll(t, p) // a copy
		}
		if all = before(all, n); i == 4 {
			all = nil
			require.NoError(t, p.truncateFullyAndStartAt(ctx, 0))
		} else {
			require.NoError(t, p.truncateTo(ctx, n))
		}
		l.tasks.Wait()
		require.Equal(t, 1, disk.Mappings()) // bounds
		if len(all) > 0 {
			size, err := p.active().file.Size()
			require.NoError(t, err)
			require.Equal(t, p.active().size, size)
		}
		append200(int32(i) + 2)
		hw := p.Bounds().HighWatermark
		showAll(t, p)
		requireSent(t, all, p)
		seen := count(errfs.MapRead)
		for _, err := range p.Records(ctx, endOf(0, all)-3, nil) {
			require.NoError(t, err)
		}
		require.Greater(t, count(errfs.MapRead), seen)
		_ = p.becomeReplica(ctx, hw) // so that the next cut is in place again
	}
	require.NoError(t, l.Close())
	require.Zero(t, disk.Mappings())
	require.Zero(t, disk.OpenFiles())
	l, p = mappedPart(t, fsys, TopicConfig{})
	requireSent(t, all, p)
	require.NoError(t, l.Close())
}

// A truncation waits until the space that is being allocated is there, and cuts
// it off.
func TestTruncationWaitsForGrowing(t *testing.T) {
	for _, kind := range []errfs.Kind{errfs.Prefault, errfs.Allocate} {
		testTruncationWaits(t, kind)
	}
}

func testTruncationWaits(t *testing.T, kind errfs.Kind) {
	synctest.Test(t, func(t *testing.T) {
		_, fsys, _ := counting()
		l, p := mappedPart(t, fsys, TopicConfig{})
		require.NoError(t, p.becomeReplica(ctx, 0))
		all := run(0, 1, 40)
		replicate(t, p, all)
		synctest.Wait()
		arrived, release := fsys.Block(errfs.Rule{Kind: kind})
		for under := false; !under; {
			s := sent{endOf(0, all), 1, 1, 0}
			replicate(t, p, []sent{s})
			all = append(all, s)
			synctest.Wait()
			select {
			case <-arrived:
				under = true
			default:
			}
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			require.NoError(t, p.truncateTo(ctx, 10))
		}()
		synctest.Wait()
		require.Greater(t, p.Bounds().End, Offset(10))
		release()
		<-done
		l.tasks.Wait()
		size, err := p.active().file.Size()
		require.NoError(t, err)
		require.Equal(t, p.active().size, size)
		require.Nil(t, p.active().mapped.load())
		require.NoError(t, l.Close())
	})
}

// timedReplica is a replica whose batches have timestamps that go forward and
// back, in each generation others.
type timedReplica struct {
	t     *testing.T
	l     *Log
	p     *Partition
	times []int64 // by offset
	made  int64
}

func (r *timedReplica) open(fsys vfs.FS, segment int64) {
	l, err := openTuned(fsys, crashDir, nil, tuning{boundsDelay: Forever, reserveBytes: 4096})
	require.NoError(r.t, err)
	r.l, r.p = l, partOf(r.t, l, "topic", &TopicConfig{SegmentBytes: segment})
	require.NoError(r.t, r.p.becomeReplica(ctx, 0))
}

// fill appends batches of one size and epoch until there are 20.
func (r *timedReplica) fill() {
	r.made++
	for i := len(r.times); i < 20; i++ {
		ts := 1000*r.made + int64(7*i%20)
		_, err := r.p.appendReplica(ctx, sent{Offset(i), 1, 0, 1500}.encodeAt(ts))
		require.NoError(r.t, err)
		r.times = append(r.times, ts)
	}
}

func (r *timedReplica) truncate(n int) {
	require.NoError(r.t, r.p.truncateTo(ctx, Offset(n)))
	r.times = r.times[:n]
}

// check looks for times in all of p, also in what is committed of it.
func (r *timedReplica) check(p *Partition) {
	for _, hw := range []int{0, 3, 7, len(r.times)} {
		if hw > len(r.times) {
			continue
		}
		got, err := p.setHighWatermark(ctx, Offset(hw))
		require.NoError(r.t, err)
		if got != Offset(hw) {
			continue // more has been committed
		}
		largest := NoOffset
		for o, ts := range r.times[:hw] {
			if largest == NoOffset || ts > r.times[largest] {
				largest = Offset(o)
			}
		}
		for _, ts := range append([]int64{0, 1005, 2013, 3009, 1 << 40}, r.times...) {
			want := NoOffset
			if i := slices.IndexFunc(r.times[:hw], func(have int64) bool { return have >= ts }); i >= 0 {
				want = Offset(i)
			}
			got, err := p.offsetAt(ctx, ts)
			require.NoError(r.t, err)
			require.Equal(r.t, want, got, "time %d, high watermark %d", ts, hw)
		}
		got, err = p.offsetOfMaxTimestamp(ctx)
		require.NoError(r.t, err)
		require.Equal(r.t, largest, got, "high watermark %d", hw)
	}
}

// A truncation cuts the time index too, in place and by a copy, of the active
// segment and of one that is sealed. What files knew of the batches that are cut
// is forgotten: after a power cut, and after a clean stop, times are found in
// the batches that have taken their places.
func TestTruncationForgetsTimes(t *testing.T) {
	for _, segment := range []int64{1 << 20, 8 << 10} {
		for _, shown := range []bool{false, true} {
			for _, n := range []int{1, 5, 9, 10, 14} {
				disk := memfs.New()
				r := &timedReplica{t: t}
				r.open(disk, segment)
				r.fill()
				require.NoError(t, r.l.Close())
				require.NoError(t, flushSideFiles(disk))
				require.NoError(t, disk.SyncDir("", crashDir+"/topic-0"))
				for range 2 {
					r.open(disk, segment)
					if shown {
						r.check(r.p)
					}
					r.truncate(n)
					if shown {
						r.check(r.p)
					}
					r.fill()
					require.NoError(t, r.l.Close())
					for seed := range uint64(6) {
						again := &timedReplica{t: t, times: r.times}
						again.open(disk.CrashClone(seed), segment)
						again.check(again.p)
						require.NoError(t, again.l.Close())
					}
				}
			}
		}
	}
}

// Who seals a segment while it is cut, or afterwards, leaves no file of what it
// was.
func TestCutSegmentIsNotSealed(t *testing.T) {
	disk := memfs.New()
	r := &timedReplica{t: t}
	r.open(disk, 8<<10)
	r.fill()
	old := r.p.segs.Load().list[0]
	end := int(r.p.segs.Load().list[1].base)
	r.l.tasks.Wait()
	name := r.p.path(segmentFileName(old.base, sealSuffix))
	_, err := disk.Stat(name)
	require.NoError(t, err)
	r.truncate(end) // it is the last one, and nothing of it is cut
	require.NoError(t, r.p.seal(old, nil))
	_, err = disk.Stat(name)
	require.ErrorIs(t, err, fs.ErrNotExist)
	r.fill()
	sealed := r.p.segs.Load().list[0]
	r.truncate(end - 1) // a copy, since it may be being sealed
	require.NotSame(t, sealed.file, r.p.active().file)
	require.Error(t, r.p.seal(sealed, nil))
	active := r.p.active()
	r.truncate(end - 2) // nobody reads there
	require.Same(t, active.file, r.p.active().file)
	r.fill()
	r.check(r.p)
	require.NoError(t, r.l.Close())
	require.Zero(t, disk.OpenFiles())
}

// If a truncation fails before anything is cut, what is known of segments is
// known again.
func TestFailedTruncationForgetsNothing(t *testing.T) {
	disk := memfs.New()
	fsys := errfs.New(disk)
	r := &timedReplica{t: t}
	r.open(fsys, 8<<10)
	r.fill()
	r.check(r.p)
	r.l.tasks.Wait()
	for _, rule := range []errfs.Rule{
		{Site: siteTruncateCopy, Err: vfs.ErrNoSpace},
		{Kind: errfs.Remove, Name: r.p.path(segmentFileName(0, sealSuffix)), Err: vfs.ErrNoSpace},
	} {
		remove := fsys.Add(rule)
		require.ErrorIs(t, r.p.truncateTo(ctx, 2), ErrDiskFull)
		remove()
		r.check(r.p)
	}
	name := r.p.path(segmentFileName(r.p.active().base, sealSuffix))
	require.NoError(t, r.l.Close())
	_, err := disk.Stat(name)
	require.NoError(t, err)
	r.open(disk, 8<<10)
	r.check(r.p)
	require.NoError(t, r.l.Close())
}

// A follower's batches leave DiskReserve free, as those of users do, and are
// counted as those are.
func TestReplicaKeepsTheReserveAndCounts(t *testing.T) {
	disk := memfs.New()
	l := openAt(t, disk, "/data", nil)
	p := partOf(t, l, "topic", nil)
	require.NoError(t, p.becomeReplica(ctx, 0))
	all := run(0, 1, 10)
	replicate(t, p, all)
	m := l.Metrics().Total
	require.Equal(t, int64(10), m.Appends)
	require.Equal(t, int64(endOf(0, all)), m.Records)
	require.Equal(t, int64(len(encodeAll(all))), m.AppendedBytes)

	disk.SetFree(32 << 20)
	large := sent{endOf(0, all), 1, 1, maxCredit + 1}
	end, err := p.appendReplica(ctx, large.encode())
	require.ErrorIs(t, err, ErrDiskFull)
	require.Equal(t, large.base, end)
	require.Equal(t, int64(1), l.Metrics().Total.AppendErrors)
	require.NoError(t, p.truncateTo(ctx, 0))
	disk.SetFree(1 << 40)
	all = run(0, 2, 3)
	replicate(t, p, all)
	showAll(t, p)
	requireSent(t, all, p)
}

// showMost commits all but the last records of p, again and again: beside cuts in
// place too.
func showMost(p *Partition, done chan struct{}) error {
	for range until(done) {
		if _, err := p.setHighWatermark(ctx, p.Bounds().End-15); err != nil {
			return err
		}
	}
	return nil
}

// readThrough reads or follows p once.
func readThrough(p *Partition, follow bool, done chan struct{}) error {
	loop := p.Records
	if follow {
		loop = p.Follow
	}
	next, epoch := NoOffset, noEpoch
	for r, err := range loop(ctx, Earliest, nil) {
		if errors.Is(err, ErrOffsetOutOfRange) {
			return nil
		}
		if err != nil {
			return err
		}
		var s sent
		_, err := fmt.Sscanf(string(r.Value), "%d@%d", &s.base, &s.epoch)
		if err != nil || s.epoch != r.LeaderEpoch || r.Offset < s.base || r.Offset > s.base+2 ||
			next != NoOffset && r.Offset != next || r.LeaderEpoch < epoch {
			return fmt.Errorf("record %d of epoch %d is %q, want offset %d", r.Offset, r.LeaderEpoch, r.Value, next)
		}
		next, epoch = r.Offset+1, r.LeaderEpoch
		select {
		case <-done:
			if follow {
				return nil
			}
		default:
		}
	}
	return nil
}

// replicaRun is a crashRun for a replica: the power fails before each operation
// of appending, truncating and starting anew. Of each state it knows which logs
// may be found.
type replicaRun struct {
	mem   *memfs.FS
	fs    *errfs.FS
	skip  vfs.Site
	seeds uint64 // states drawn per operation
	flush FlushPolicy

	every, from int64 // see sampled; zero: the power fails before each operation

	l     *Log
	p     *Partition
	legal []legalLog
	made  bool // the partition's directory is

	killed  bool // the process dies, and with it no more than its memory
	mapped  bool // batches were stored into a mapped file
	skipped bool // a site has been left out: before that all is as if none was
	broken  error
	states  int
}

// legalLog is what may be found: batches from start on, of which some may be
// missing at the end.
type legalLog struct {
	start   Offset
	batches []sent
	least   int // how many there are at least
}

// run lets the power fail everywhere, or the process die at an operation, or
// neither.
func (r *replicaRun) run(everywhere bool, die int64) error {
	r.killed = die > 0
	if everywhere {
		if err := r.keptEpoch(); err != nil {
			return err
		}
	}
	r.mem = memfs.New()
	r.fs = errfs.New(r.mem)
	r.fs.Skip(r.skip)
	var mu sync.Mutex // opening flushes in the background
	r.fs.OnOp(func(op errfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		if die > 0 && op.N >= die {
			return errDead
		}
		if r.broken != nil {
			return errDead
		}
		r.mapped = r.mapped || op.Kind == errfs.MapWrite && strings.HasSuffix(op.Name, logSuffix)
		if r.skip != "" && op.Site == r.skip {
			r.skipped = true
		}
		everywhere := everywhere && (op.N-r.from)%max(r.every, 1) == 0 && (r.skip == "" || r.skipped) && changes(op)
		for seed := uint64(0); everywhere && r.broken == nil && seed < r.seeds; seed++ {
			r.states++
			if err := r.verify(r.mem.CrashClone(seed), seed); err != nil {
				r.broken = fmt.Errorf("crash before %v, seed %d: %w", op, seed, err)
			}
		}
		return nil
	})
	err := r.workload()
	r.fs.OnOp(nil)
	if die > 0 && r.l != nil {
		_ = kill(r.l) // if it could be closed, it is
	}
	return errors.Join(r.broken, err)
}

// keptEpoch cuts an epoch off, goes on in the one before in the same segment,
// and stops cleanly. The next opening believes the checkpoint of epochs.
func (r *replicaRun) keptEpoch() error {
	r.mem = memfs.New()
	r.fs = errfs.New(r.mem)
	r.fs.Skip(r.skip)
	if err := r.open(); err != nil {
		return err
	}
	if err := r.p.becomeReplica(ctx, 0); err != nil {
		return err
	}
	all := run(0, 1, 12)
	for i := range all {
		all[i].pad = 500 // what is behind an index entry is read anew
	}
	set := encodeAll(append(all[:3:3], run(6, 2, 3)...))
	if _, err := r.p.appendReplica(ctx, set); err != nil {
		return err
	}
	if err := r.p.truncateTo(ctx, 3); err != nil {
		return err
	}
	if _, err := r.p.appendReplica(ctx, encodeAll(all[2:])); err != nil {
		return err
	}
	if err := errors.Join(r.l.Close(), flushSideFiles(r.mem)); err != nil {
		return err
	}
	r.made = true
	defer func() { r.made = false }()
	for seed := range uint64(40) { // the names of the side files have to survive too
		if _, err := r.check(r.mem.CrashClone(seed), []legalLog{{batches: all, least: len(all)}}); err != nil {
			return fmt.Errorf("an epoch that was kept: %w", err)
		}
	}
	return nil
}

// flushSideFiles flushes what is known of segments, as a system may at any time,
// but not the names of these files.
func flushSideFiles(fsys vfs.FS) error {
	dir := crashDir + "/topic-0"
	entries, err := fsys.ReadDir(dir)
	for _, e := range entries {
		if strings.HasSuffix(e.Name, logSuffix) || e.Name == epochCheckpointName {
			continue
		}
		f, failed := fsys.OpenWrite(dir + "/" + e.Name)
		if err = errors.Join(err, failed); failed == nil {
			err = errors.Join(err, f.Sync(""), f.Close())
		}
	}
	return err
}

func openReplica(fsys vfs.FS, log io.Writer) (*Log, error) {
	opts := &Options{Logger: slog.New(slog.NewTextHandler(log, nil))}
	return openCrashedWith(fsys, opts)
}

func (r *replicaRun) open() (err error) {
	if r.l, err = openReplica(r.fs, io.Discard); err != nil {
		return err
	}
	cfg := &TopicConfig{Flush: r.flush, FlushInterval: Forever, SegmentBytes: crashSegment}
	t, err := r.l.EnsureTopic(ctx, "topic", cfg)
	if err == nil {
		r.p = t.all()[0]
	}
	return err
}

// workload is a replica's life under leaders that do not agree.
func (r *replicaRun) workload() error {
	r.legal = []legalLog{{}}
	if err := r.open(); err != nil {
		return err
	}
	// Its own log at first, with a ceiling.
	r.legal = []legalLog{{batches: []sent{{0, 1, 0, 9}}}}
	_, err := r.p.Append(ctx, Record{Value: []byte(sent{0, 1, 0, 9}.value())})
	r.l.tasks.Wait() // see append
	if err != nil {
		return err
	}
	r.legal[0].least, r.made = r.sure(1), true
	steps := []func() error{
		func() error { return r.p.becomeReplica(ctx, 0) },
		func() error { return r.append(1, 6) },
		func() error { return r.append(2, 6) },
		func() error { return r.show(6) },
		func() error { return r.truncate(21) }, // in place
		func() error { return r.append(3, 2) },
		func() error { return r.truncate(14) }, // in place
		func() error { return r.append(2, 1) }, // in an epoch that was kept
		r.reopen,
		func() error { return r.append(4, 5) },
		func() error { return r.show(math.MaxInt64) },
		func() error { return r.truncate(9) }, // a copy
		func() error { return r.append(5, 3) },
		func() error { return r.truncate(0) },
		func() error { return r.append(6, 6) },
		func() error { return r.restart(100) },
		func() error { return r.append(7, 6) },
		func() error { return r.show(math.MaxInt64) },
		func() error { return r.restart(50) },
		r.reopen,
		func() error { return r.append(8, 4) },
		func() error { return r.truncate(52) },
		r.reopen,
		func() error { return r.append(9, 2) },
	}
	for i, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	return r.l.Close()
}

// sure is how many of n batches that were just appended are flushed.
func (r *replicaRun) sure(n int) int {
	if r.flush == FlushAsync {
		return 0
	}
	return n
}

// now is the log as it is.
func (r *replicaRun) now() legalLog { return r.legal[0] }

func (r *replicaRun) append(epoch int32, batches int) error {
	now := r.now()
	more := run(endOf(now.start, now.batches), epoch, batches)
	for i := range more {
		more[i].pad = 1000 * (1 + (i+int(epoch))%5)
	}
	for _, s := range more {
		now.batches = append(now.batches[:len(now.batches):len(now.batches)], s)
		r.legal = []legalLog{now}
		_, err := r.p.appendReplica(ctx, s.encode())
		r.l.tasks.Wait() // one goroutine at a time, so that a seed says it all
		if err != nil {
			return err
		}
		now.least = max(now.least, r.sure(len(now.batches)))
	}
	r.legal[0] = now
	return nil
}

func (r *replicaRun) show(o Offset) error {
	_, err := r.p.setHighWatermark(ctx, o)
	return err
}

func (r *replicaRun) truncate(n Offset) error {
	now := r.now()
	kept := before(now.batches, n)
	now.least = min(now.least, len(kept))
	r.legal = []legalLog{now}
	err := r.p.truncateTo(ctx, n)
	r.l.tasks.Wait()
	if err == nil {
		r.legal = []legalLog{{start: now.start, batches: kept, least: len(kept)}}
	}
	return err
}

func (r *replicaRun) restart(n Offset) error {
	now := r.now()
	now.least = 0
	r.legal = []legalLog{now, {start: n}}
	err := r.p.truncateFullyAndStartAt(ctx, n)
	r.l.tasks.Wait()
	if err == nil {
		r.legal = r.legal[1:]
	}
	return err
}

// reopen kills the process, opens the log again, and closes and opens it.
func (r *replicaRun) reopen() error {
	err := kill(r.l)
	for range 2 {
		if err == nil {
			err = r.open()
		}
		if err == nil {
			_, err = r.found(r.p)
		}
		if err == nil {
			r.legal[0].least = len(r.legal[0].batches)
			err = r.l.Close()
		}
	}
	if err == nil {
		err = r.open()
	}
	if err == nil {
		err = r.p.becomeReplica(ctx, 0)
	}
	return err
}

// verify opens a state that a crash left: it is a legal log, and what it shows
// survives the next crash, also one during recovery. As a replica it takes
// another leader's batch, behind which nothing old appears.
func (r *replicaRun) verify(disk *memfs.FS, seed uint64) error {
	var log strings.Builder
	openLogged := func(fsys vfs.FS) (*Log, error) { return openReplica(fsys, &log) }
	l, err := crashWhileOpening(disk, r.skip, seed, openLogged, func(disk *memfs.FS) error {
		_, err := r.check(disk, r.legal)
		return err
	})
	if err != nil {
		return err
	}
	p := partitionOf(l, "topic")
	if p == nil {
		return l.Close()
	}
	if err := lostEpochs(log.String()); r.made && err != nil {
		return err
	}
	found, err := r.found(p)
	if err != nil {
		return err
	}
	found.least = len(found.batches)
	more := sent{endOf(found.start, found.batches), 1, 100, 0}
	if r.killed { // not all of it is on the disk because it could be read there
		if _, err := r.check(disk.CrashClone(seed), []legalLog{found}); err != nil {
			return fmt.Errorf("after a power cut: %w", err)
		}
		if n := len(found.batches); n > 0 {
			more.epoch = found.batches[n-1].epoch // of which no file says that it begins
		}
	}
	after := found
	after.batches = append(found.batches[:len(found.batches):len(found.batches)], more)
	if _, err := p.appendReplica(ctx, more.encode()); err != nil {
		return err
	}
	after.least = max(found.least, r.sure(len(after.batches)))
	if _, err := r.check(disk.CrashClone(seed), []legalLog{after}); err != nil {
		return fmt.Errorf("after one more append: %w", err)
	}
	return l.Close()
}

// check opens disk and compares what it shows.
func (r *replicaRun) check(disk *memfs.FS, legal []legalLog) (found legalLog, err error) {
	fsys := errfs.New(disk)
	fsys.Skip(r.skip)
	var log strings.Builder
	l, err := openReplica(fsys, &log)
	if err != nil {
		return found, err
	}
	if p := partitionOf(l, "topic"); p != nil {
		found, err = (&replicaRun{legal: legal}).found(p)
	}
	if r.made {
		err = errors.Join(err, lostEpochs(log.String()))
	}
	return found, errors.Join(err, l.Close())
}

// lostEpochs says from what was logged that all batches had to be read for their
// epochs.
func lostEpochs(log string) error {
	if strings.Contains(log, "leader epochs are taken") {
		return errors.New("the epochs are lost")
	}
	return nil
}

// found returns what p has as a replica, which must be a legal log.
func (r *replicaRun) found(p *Partition) (found legalLog, err error) {
	if err := p.becomeReplica(ctx, math.MaxInt64); err != nil {
		return found, err
	}
	b := p.Bounds()
	found.start = b.Start
	if found.batches, err = readSent(p); err != nil {
		return found, err
	}
	for _, want := range r.legal {
		n := len(found.batches)
		if want.least <= n && n <= len(want.batches) && slices.Equal(found.batches, want.batches[:n]) &&
			b.Start == want.start && b.End == endOf(b.Start, found.batches) && slices.Equal(p.epochs.load(), epochsIn(found.batches)) {
			return found, nil
		}
	}
	return found, fmt.Errorf("found %+v, end %d, epochs %v, of %+v", found, b.End, p.epochs.load(), r.legal)
}

// TestNoCrashBreaksAReplica lets the power fail before each operation of a
// replica's life, and lets the process die at some of them.
func TestNoCrashBreaksAReplica(t *testing.T) {
	t.Parallel()
	seeds := uint64(2)
	if invariants.Enabled {
		seeds = 1 // see TestEveryReplicaSiteIsNeeded
	}
	for _, flush := range []FlushPolicy{FlushBeforeAck, FlushAsync} {
		every, from := sampled(t, 1)
		r := &replicaRun{seeds: seeds, flush: flush, every: every, from: from}
		require.NoError(t, r.run(true, 0))
		require.Equal(t, flush == FlushAsync, r.mapped)
		t.Logf("%d states", r.states)
		every, from = sampled(t, 5)
		require.NoError(t, killReplicas(flush, "", every, from))
	}
}

// killReplicas lets the process die at one operation of every, see sampled.
func killReplicas(flush FlushPolicy, skip vfs.Site, every, from int64) error {
	for die := 1 + from%every; ; die += every {
		r := &replicaRun{flush: flush, skip: skip}
		err := r.run(false, die)
		if r.fs.Ops() < die {
			return err
		}
		if err := r.verify(r.mem, 0); err != nil {
			return fmt.Errorf("killed at operation %d: %w", die, err)
		}
	}
}

// replicaSites are the places that flush something for the sake of a crash of a
// replica.
var replicaSites = []vfs.Site{
	siteTruncateBounds, siteTruncateEpochs, siteTruncateNames,
	siteTruncateCopy, siteTruncateDir, siteTruncateFlush, siteTruncateSwap, siteRestartBounds,
}

// TestEveryReplicaSiteIsNeeded leaves out one site after the other and shows
// that the same run then finds a broken promise.
func TestEveryReplicaSiteIsNeeded(t *testing.T) {
	t.Parallel()
	if invariants.Enabled {
		return // one goroutine at a time: builds without the race detector see as much
	}
	flushes := []FlushPolicy{FlushBeforeAck, FlushAsync}
	for _, site := range replicaSites {
		t.Run(string(site), func(t *testing.T) {
			t.Parallel()
			// What shows without many states shows sooner.
			var broken error
			for i := 0; i < 6 && broken == nil; i++ {
				flush := flushes[i%2]
				switch i / 2 {
				case 0:
					broken = (&replicaRun{seeds: 1, flush: flush, skip: site}).run(true, 0)
				case 1:
					broken = killReplicas(flush, site, 5, 0)
				default:
					broken = (&replicaRun{seeds: 6, flush: flush, skip: site}).run(true, 0)
				}
			}
			require.Error(t, broken, "nothing breaks without %s", site)
			t.Log(broken)
		})
	}
	r := &replicaRun{flush: FlushAsync}
	require.NoError(t, r.run(false, 0))
	for _, site := range r.fs.Sites() {
		if !strings.HasPrefix(string(site), "bounds.") {
			require.Contains(t, slices.Concat(crashSites, replicaSites), site)
		}
	}
}
