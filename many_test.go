package riffle

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// heapBytes is what is reachable.
func heapBytes() int64 {
	runtime.GC()
	runtime.GC() // what pools held
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestIdleTopicsAreCheap makes many topics: none has a directory, a goroutine
// or an open file before it is appended to, and each takes at most 4 KB of memory,
// also when it has been.
func TestIdleTopicsAreCheap(t *testing.T) {
	const topics = 400
	fsys, dir := testDir(t)
	if *fsFlag != "os" {
		t.Skip("no files on disk") // files in memory would be counted
	}
	empty := heapBytes()
	l, err := open(fsys, dir, nil) // not openAt, which keeps it
	require.NoError(t, err)
	for i := range topics {
		_, err := l.CreateTopic(ctx, fmt.Sprintf("topic-%d", i), async)
		require.NoError(t, err)
	}
	l.tasks.Wait()
	require.Empty(t, dirsOf(t, fsys, dir))
	require.LessOrEqual(t, len(l.files.ring), 1)
	require.LessOrEqual(t, (heapBytes()-empty)/topics, int64(4<<10))
	require.NoError(t, l.Close())

	l, err = open(fsys, dir, nil)
	require.NoError(t, err)
	require.LessOrEqual(t, (heapBytes()-empty)/topics, int64(4<<10))
	for top := range l.Topics() {
		appendValues(t, top.all()[0], 0, 1)
	}
	require.NoError(t, l.Close())
	l, err = open(fsys, dir, nil)
	require.NoError(t, err)
	l.tasks.Wait()
	require.Equal(t, wantValues(0, 1), readValues(t, partOf(t, l, "topic-399", nil), Earliest))
	require.LessOrEqual(t, len(l.files.ring), 16)
	require.LessOrEqual(t, (heapBytes()-empty)/topics, int64(4<<10))
	require.NoError(t, l.Close())
}

// BenchmarkManyTopics creates 10,000 topics of one partition, opens the log with them,
// and once more when each has a record. It reports seconds, and bytes of memory a
// topic.
func BenchmarkManyTopics(b *testing.B) {
	const topics = 10_000
	for b.Loop() {
		dir := b.TempDir()
		empty := heapBytes()
		l, err := Open(dir, nil)
		require.NoError(b, err)
		began := time.Now()
		for i := range topics {
			_, err := l.CreateTopic(ctx, fmt.Sprintf("topic-%d", i), async)
			require.NoError(b, err)
		}
		b.ReportMetric(time.Since(began).Seconds(), "s/create")
		b.ReportMetric(float64(heapBytes()-empty)/topics, "B/topic")
		reopen := func(unit string) {
			require.NoError(b, l.Close())
			began := time.Now()
			l, err = Open(dir, nil)
			require.NoError(b, err)
			b.ReportMetric(time.Since(began).Seconds(), unit)
		}
		reopen("s/open")
		for top := range l.Topics() {
			_, err := top.all()[0].Append(ctx, Record{Value: []byte("x")})
			require.NoError(b, err)
		}
		reopen("s/open-full")
		b.ReportMetric(float64(heapBytes()-empty)/topics, "B/topic-full")
		require.NoError(b, l.Close())
	}
}
