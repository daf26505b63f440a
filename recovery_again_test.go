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
