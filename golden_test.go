package riffle

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// goldenDir is a log directory of format 1 that an earlier version wrote.
const goldenDir = "testdata/v1"

// TestGoldenDirectory opens a copy of a directory that an earlier version wrote:
// topics, configurations, ids, records in several segments and epochs are there,
// and it takes more. Old bytes stay readable for good.
func TestGoldenDirectory(t *testing.T) {
	if *updateGolden {
		require.NoError(t, os.RemoveAll(goldenDir))
		writeGolden(t, goldenDir)
		writeGolden(t, goldenDir) // a second incarnation
	}
	dir := filepath.Join(t.TempDir(), "data")
	require.NoError(t, os.CopyFS(dir, os.DirFS(goldenDir)))
	l, err := Open(dir, nil)
	require.NoError(t, err)
	plain, err := l.Topic("plain")
	require.NoError(t, err)
	require.Equal(t, builtin(), plain.Config())
	full, err := l.Topic("full")
	require.NoError(t, err)
	require.Equal(t, goldenConfig().over(builtin()), full.Config())
	for _, top := range []*Topic{plain, full} {
		for p := range top.Partitions() {
			i := 0
			for r, err := range p.Records(ctx, Earliest, nil) {
				require.NoError(t, err)
				want := goldenRecord(i)
				require.Equal(t, Offset(i), r.Offset)
				require.Equal(t, want.Key, r.Key)
				require.Equal(t, want.Value, r.Value)
				require.Equal(t, want.Headers, r.Headers)
				if top == plain {
					require.Equal(t, want.Timestamp, r.Timestamp)
				}
				i++
			}
			require.Equal(t, 60, i)
			if top == plain { // it has no time index and no seal
				at, err := p.offsetAt(ctx, goldenRecord(31).Timestamp.UnixMilli())
				require.NoError(t, err)
				require.Equal(t, Offset(31), at)
			}
			at, err := p.Append(ctx, goldenRecord(i))
			require.NoError(t, err)
			require.Equal(t, Offset(60), at)
		}
	}
	require.NoError(t, l.Close())
}

func goldenConfig() *TopicConfig {
	return &TopicConfig{
		Partitions: 2, Flush: FlushAsync, FlushInterval: time.Minute, Compression: CompressionZstd,
		TimestampType: LogAppendTime, MaxMessageBytes: 4000, SegmentBytes: 1024, SegmentAge: time.Hour,
	}
}

func goldenRecord(i int) Record {
	return Record{
		Timestamp: time.UnixMilli(1_700_000_000_000 + int64(i)).UTC(),
		Key:       fmt.Appendf(nil, "key %d", i),
		Value:     fmt.Appendf(nil, "value %0100d", i),
		Headers:   []Header{{"n", fmt.Append(nil, i)}},
	}
}

// writeGolden appends 30 records to each partition of the golden directory.
func writeGolden(t *testing.T, dir string) {
	l, err := Open(dir, nil)
	require.NoError(t, err)
	for name, cfg := range map[string]*TopicConfig{"plain": nil, "full": goldenConfig()} {
		top, err := l.EnsureTopic(ctx, name, cfg)
		require.NoError(t, err)
		for p := range top.Partitions() {
			from := int(p.Bounds().End)
			for i := from; i < from+30; i++ {
				_, err := p.Append(ctx, goldenRecord(i))
				require.NoError(t, err)
			}
		}
	}
	require.NoError(t, l.Close())
}
