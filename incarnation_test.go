package riffle

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// powerCut returns the state of disk after a power cut in which nothing that
// was not flushed survived.
func powerCut(t *testing.T, disk *memfs.FS, lost func(*memfs.FS) bool) *memfs.FS {
	t.Helper()
	for seed := range uint64(200) {
		if c := disk.CrashClone(seed); lost(c) {
			return c
		}
	}
	t.Fatal("no such state")
	return nil
}

// endsAt says whether a file holds n bytes and then nothing but zeros.
func endsAt(fsys vfs.FS, name string, n int) bool {
	data, err := vfs.ReadFile(fsys, name, 1<<20)
	return err == nil && len(data) >= n && allZero(data[n:]) && (n == 0 || !allZero(data[n-batchSize:n]))
}

// TestLostOffsetsAreNotUsedAgain lets a power cut take records of a FlushAsync
// partition that had been shown. Their offsets leave a gap, over which reading
// and following go; opening again without appending changes nothing.
func TestLostOffsetsAreNotUsedAgain(t *testing.T) {
	tune := tuning{ceilingStep: 100, boundsDelay: Forever, reserveBytes: 4096}
	for _, flushed := range []int{0, 3} {
		disk := memfs.New()
		l, err := openTuned(disk, "/data", nil, tune)
		require.NoError(t, err)
		p := partOf(t, l, "topic", &TopicConfig{Flush: FlushAsync, FlushInterval: Forever})
		appendValues(t, p, 0, flushed)
		p.mu.Lock()
		if flushed > 0 {
			require.NoError(t, p.unlockAndFlush(ctx, Offset(flushed)))
		} else {
			p.mu.Unlock()
		}
		appendValues(t, p, flushed, flushed+4)
		require.NoError(t, kill(l))

		disk = powerCut(t, disk, func(c *memfs.FS) bool {
			return endsAt(c, "/data/topic-0/"+logFileName(0), flushed*batchSize)
		})
		for range 3 {
			l, err = openTuned(disk, "/data", nil, tune)
			require.NoError(t, err)
			p = partOf(t, l, "topic", nil)
			require.Equal(t, wantValues(0, flushed), readValues(t, p, p.Bounds().Start))
			require.Equal(t, Offset(100), p.Bounds().End)
			require.Empty(t, readValues(t, p, Latest))
			require.NoError(t, l.Close())
		}

		l = openAt(t, disk, "/data", nil)
		p = partOf(t, l, "topic", nil)
		followed := make(chan Offset)
		go func() {
			defer close(followed)
			for r, err := range p.Follow(ctx, 100, &ReadOptions{Until: 101}) {
				if err != nil {
					t.Error(err)
				}
				followed <- r.Offset
			}
		}()
		at, err := p.Append(ctx, Record{Value: []byte("after")})
		require.NoError(t, err)
		require.Equal(t, Offset(100), at)
		require.Equal(t, Offset(100), <-followed)
		_, more := <-followed
		require.False(t, more)
		want := append(wantValues(0, flushed), "after")
		require.Equal(t, want, readValues(t, p, Earliest))
		if flushed > 0 {
			require.Equal(t, want[flushed:], readValues(t, p, 50), "from inside the gap")
		}
		require.NoError(t, l.Close())
		require.Equal(t, want, readValues(t, partOf(t, openAt(t, disk, "/data", nil), "topic", nil), Earliest))
	}
}

// TestUncleanStopBeginsAnEpoch shows in which epochs records are appended: the
// same after a clean stop, a higher one after a kill, with its checkpoint.
func TestUncleanStopBeginsAnEpoch(t *testing.T) {
	disk := memfs.New()
	next := 0
	for _, c := range []struct {
		epoch int32
		clean bool
	}{{0, true}, {0, true}, {0, false}, {1, false}, {2, true}, {2, true}} {
		l, err := open(disk, "/data", nil)
		require.NoError(t, err)
		p := partOf(t, l, "topic", nil)
		appendValues(t, p, next, next+2)
		var last Record
		for r, err := range p.Records(ctx, Offset(next), nil) {
			require.NoError(t, err)
			last = r
		}
		require.Equal(t, c.epoch, last.LeaderEpoch)
		if next += 2; c.clean {
			require.NoError(t, l.Close())
		} else {
			require.NoError(t, kill(l))
		}
	}
	p := partOf(t, openAt(t, disk, "/data", nil), "topic", nil)
	require.Equal(t, []epochEntry{{0, 0}, {1, 6}, {2, 8}}, p.epochs.load())
	require.Equal(t, wantValues(0, 12), readValues(t, p, Earliest))
}

// TestRecoveryPointRisesWhileOpen shows that bounds are flushed a while after a
// flush of records, so that damage to what was flushed then is known for what it
// is after a power cut; and not at all while nothing happens.
func TestRecoveryPointRisesWhileOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := memfs.New()
		fsys := errfs.New(disk)
		l, err := open(fsys, "/data", nil)
		require.NoError(t, err)
		p := partOf(t, l, "topic", nil)
		appendValues(t, p, 0, 5)
		time.Sleep(15 * time.Minute) // until files that nobody uses are closed
		synctest.Wait()
		ops := fsys.Ops()
		time.Sleep(time.Hour)
		require.Equal(t, ops, fsys.Ops())

		for seed := range uint64(10) {
			after := disk.CrashClone(seed)
			require.NoError(t, flipValueAt(after, "/data/topic-0", 5))
			p := partOf(t, openAt(t, after, "/data", nil), "topic", nil)
			_, err := p.Append(ctx, Record{})
			require.ErrorIs(t, err, ErrReadOnly)
		}
		require.NoError(t, l.Close())
	})
}

// TestCeilingIsRaisedAhead appends more than a ceiling allows: it is raised in
// the background, long before an append must wait.
func TestCeilingIsRaisedAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := errfs.New(memfs.New())
		l, err := openTuned(fsys, "/data", nil, tuning{ceilingStep: 100, boundsDelay: Forever, reserveBytes: 4096})
		require.NoError(t, err)
		p := partOf(t, l, "topic", &TopicConfig{Flush: FlushAsync, FlushInterval: Forever})
		appendValues(t, p, 0, 50)
		arrived, release := fsys.Block(errfs.Rule{Site: siteCeiling})
		appendValues(t, p, 50, 52)
		<-arrived
		appendValues(t, p, 52, 100) // with the disk still busy
		done := make(chan struct{})
		go func() { defer close(done); appendValues(t, p, 100, 101) }()
		synctest.Wait()
		require.Equal(t, Offset(100), p.Bounds().End, "the ceiling holds")
		release()
		<-done
		require.NoError(t, l.Close())
	})
}
