package riffle

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

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
