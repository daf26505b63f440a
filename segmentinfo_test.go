package riffle

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/vfs"
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

// openStart opens a log whose bounds are flushed only where something depends on it.
func openStart(t testing.TB, fsys vfs.FS, cfg *TopicConfig) (*Log, *Partition) {
	t.Helper()
	l, err := openTuned(fsys, "/data", nil, tuning{ceilingStep: 1000, boundsDelay: Forever, reserveBytes: 4096})
	require.NoError(t, err)
	p := partOf(t, l, "topic", cfg)
	l.tasks.Wait()
	return l, p
}

// Segments lists what there is: bases, ends, sizes, times, of a damaged partition
// too.
func TestSegments(t *testing.T) {
	disk := memfs.New()
	l, p := openStart(t, disk, bothPolicies["FlushBeforeAck"])
	require.Empty(t, p.Segments())
	appendTriples(t, p, 0, 60)
	check := func() {
		next, bytes := Offset(0), int64(0)
		segs := p.Segments()
		for i, s := range segs {
			require.Equal(t, next, s.Base)
			require.Equal(t, time.UnixMilli(int64(1000+s.End-1)).UTC(), s.MaxTimestamp)
			require.Equal(t, i == len(segs)-1, s.Active)
			require.Equal(t, p.path(logFileName(s.Base)), s.File)
			e, err := disk.Stat(s.File)
			require.NoError(t, err)
			require.Equal(t, e.Size, s.Bytes)
			next, bytes = s.End, bytes+s.Bytes
		}
		require.Equal(t, Offset(60), next)
		require.Equal(t, l.Metrics().Topics[0].Bytes, bytes)
	}
	check()
	require.NoError(t, l.Close())
	l, p = openStart(t, disk, nil)
	check()
	require.NoError(t, l.Close())
	require.NoError(t, flipValueAt(disk, "/data/topic-0", 5))
	l, p = openStart(t, disk, nil)
	require.Error(t, p.damaged)
	segs := p.Segments()
	require.Equal(t, Offset(60), segs[len(segs)-1].End)
	require.True(t, segs[0].Base == 0 && segs[0].MaxTimestamp.UnixMilli() == int64(1000+segs[0].End-1))
	require.NoError(t, l.Close())
}
