package riffle

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// valueFor returns a value with which a batch of one record has n bytes.
func valueFor(t testing.TB, n int) []byte {
	t.Helper()
	var e encoder
	for size := n; size >= 0; size-- {
		value := make([]byte, size)
		b, err := e.encode([]Record{{Value: value}}, &TopicConfig{SegmentBytes: 1 << 30, MaxMessageBytes: 1 << 26}, 1)
		require.NoError(t, err)
		if len(b) == n {
			return value
		}
	}
	t.Fatalf("no batch has %d bytes", n)
	return nil
}

// TestMetricsCountAppends appends batches of known sizes to two topics, with a
// roll, an error and flushes that take a known time: each number is what was
// done, the totals are the sums, and after Close they are the last ones.
func TestMetricsCountAppends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := errfs.New(memfs.New())
		l := openAt(t, fsys, "/data", nil)
		require.Empty(t, l.Metrics().Topics)
		require.Zero(t, l.Metrics().Total.BatchBytes.Count)
		sure, err := l.CreateTopic(ctx, "sure", &TopicConfig{Partitions: 3, SegmentBytes: 1500})
		require.NoError(t, err)
		later := partOf(t, l, "later", &TopicConfig{Flush: FlushAsync, FlushInterval: Forever})
		p := sure.all()[1]
		fsys.Add(errfs.Rule{Site: siteFlush, Before: func(errfs.Op) { <-time.After(3 * time.Millisecond) }})
		for _, size := range []int{256, 257, 1024} { // the last one in a segment of its own
			_, err := p.Append(ctx, Record{Value: valueFor(t, size)})
			require.NoError(t, err)
		}
		_, err = p.Append(ctx, Record{Value: make([]byte, 1<<20)})
		require.ErrorIs(t, err, ErrRecordTooLarge)
		for range 2 {
			_, err = later.Append(ctx, Record{}, Record{}, Record{})
			require.NoError(t, err)
		}
		require.Len(t, readValues(t, p, 1), 2)

		m := l.Metrics()
		require.Len(t, m.Topics, 2)
		one, async := m.Topics[1], m.Topics[0]
		require.Equal(t, "sure", one.Topic)
		require.Equal(t, 3, one.Partitions)
		require.EqualValues(t, []int64{3, 3, 1537, 1}, []int64{one.Appends, one.Records, one.AppendedBytes, one.AppendErrors})
		require.EqualValues(t, []int64{1, 2, 1537, 0}, []int64{one.Rolls, one.Segments, one.Bytes, one.UnflushedBytes})
		require.EqualValues(t, []int64{2, 1281}, []int64{one.ReadBatches, one.ReadBytes})
		require.EqualValues(t, []int64{3, 0}, []int64{one.Flushes, one.FlushErrors})
		require.Equal(t, []float64{256, 1024, 4096}, one.BatchBytes.Bounds[:3])
		require.Equal(t, []int64{1, 3, 3}, one.BatchBytes.Counts[:3])
		require.EqualValues(t, 3, one.BatchBytes.Count)
		require.InDelta(t, 1537, one.BatchBytes.Sum, 0)
		require.Equal(t, []float64{0.001, 0.0025, 0.005}, one.FlushSeconds.Bounds[3:6])
		require.Equal(t, []int64{0, 0, 3}, one.FlushSeconds.Counts[3:6])
		require.InDelta(t, 0.009, one.FlushSeconds.Sum, 1e-9)

		require.EqualValues(t, []int64{2, 6, 0, 1}, []int64{async.Appends, async.Records, async.Flushes, async.Segments})
		require.Equal(t, async.AppendedBytes, async.UnflushedBytes)
		require.Equal(t, 4, m.Total.Partitions)
		require.EqualValues(t, []int64{5, 9, 1, 3, 3}, []int64{m.Total.Appends, m.Total.Records, m.Total.AppendErrors, m.Total.Flushes, m.Total.Segments})
		require.Equal(t, one.AppendedBytes+async.AppendedBytes, m.Total.AppendedBytes)
		require.Equal(t, []int64{3, 5}, m.Total.BatchBytes.Counts[:2])
		require.EqualValues(t, []int64{2, 2}, []int64{m.Metadata.Appends, m.Metadata.Flushes})
		require.Equal(t, metadataTopic, m.Metadata.Topic)
		require.EqualValues(t, 3, m.BoundsFlushes, "the first append of each partition")

		require.NoError(t, l.Close())
		last := l.Metrics()
		require.EqualValues(t, []int64{1, 0}, []int64{last.Topics[0].Flushes, last.Topics[0].UnflushedBytes})
		require.EqualValues(t, 4, last.BoundsFlushes)
		require.Equal(t, one, last.Topics[1])
	})
}

// TestMetricsOfAFailedFlush: it is a flush, an error, and a partition offline.
func TestMetricsOfAFailedFlush(t *testing.T) {
	fsys := errfs.New(memfs.New())
	l := openAt(t, fsys, "/data", nil)
	p := partOf(t, l, "topic", nil)
	appendValues(t, p, 0, 1)
	fsys.FailSite(siteFlush, 1, nil)
	for range 2 {
		_, err := p.Append(ctx, Record{})
		require.ErrorIs(t, err, ErrPartitionFailed)
	}
	m := l.Metrics().Total
	require.EqualValues(t, []int64{2, 1, 2, 2}, []int64{m.Flushes, m.FlushErrors, m.AppendErrors, m.Appends}, "one is in doubt")
	require.Equal(t, 1, m.OfflinePartitions)
	require.EqualValues(t, 2, m.FlushSeconds.Count)
	require.Positive(t, m.UnflushedBytes)
}

// TestMetricsOfRecovery counts what opening reads after a kill, cuts of a torn
// batch, and finds damaged; and the indexes that are made anew.
func TestMetricsOfRecovery(t *testing.T) {
	disk := memfs.New()
	cfg := &TopicConfig{SegmentBytes: 40_000}
	const size = 5000
	l, err := openTuned(disk, "/data", nil, gapTuning) // no recovery point is written in time
	require.NoError(t, err)
	p := partOf(t, l, "topic", cfg)
	value := valueFor(t, size)
	for range 10 { // two segments
		_, err := p.Append(ctx, Record{Value: value})
		require.NoError(t, err)
	}
	killed := disk.CrashClone(1)
	killed.SetBootID(disk.BootID())
	require.NoError(t, l.Close())

	recovered := func(fsys vfs.FS) TopicMetrics {
		t.Helper()
		l := openAt(t, fsys, "/data", nil)
		for range partitionOf(l, "topic").Records(ctx, 1, nil) {
			continue
		}
		require.NoError(t, l.Close())
		return l.Metrics().Total
	}
	m := recovered(disk)
	require.Equal(t, RecoveryMetrics{ReadBytes: size}, m.Recovery, "the last index entry's")
	require.Zero(t, m.IndexesRebuilt)

	for _, base := range []Offset{0, 8} {
		require.NoError(t, disk.Remove(p.path(indexName(base))))
	}
	m = recovered(disk)
	require.Equal(t, RecoveryMetrics{ReadBytes: 2 * size}, m.Recovery, "all of the last segment")
	require.EqualValues(t, 2, m.IndexesRebuilt)

	file, err := killed.OpenWrite(p.path(logFileName(8)))
	require.NoError(t, err)
	_, err = file.WriteAt(bytes.Repeat([]byte{1}, 123), 2*size)
	require.NoError(t, err)
	require.NoError(t, file.Close())
	m = recovered(killed)
	require.Equal(t, RecoveryMetrics{ReadBytes: 10 * size, CutBytes: 123, UncleanPartitions: 1}, m.Recovery)
	require.EqualValues(t, 10*size, m.Bytes)

	require.NoError(t, flipValue(disk, p.dir))
	m = recovered(disk)
	require.Equal(t, 1, m.Recovery.DamagedPartitions)
	require.Zero(t, m.Recovery.CutBytes)
}

// TestMetricsWhileAllIsBusy reads metrics beside appends and loops: what was
// appended before the call is counted, and no number goes back.
func TestMetricsWhileAllIsBusy(t *testing.T) {
	fsys, dir := testDir(t)
	l := openAt(t, fsys, dir, nil)
	top, err := l.CreateTopic(ctx, "topic", &TopicConfig{Partitions: 4, Flush: FlushAsync, SegmentBytes: 4096})
	require.NoError(t, err)
	loops, stop := context.WithCancel(ctx)
	var appending, others sync.WaitGroup
	for p := range top.Partitions() {
		appending.Go(func() {
			for i := range 200 {
				if _, err := p.Append(ctx, Record{Value: fmt.Appendf(nil, "%0100d", i)}); err != nil {
					t.Error(err)
				}
			}
		})
		others.Go(func() {
			for range p.Follow(loops, Earliest, nil) {
				continue
			}
		})
	}
	others.Go(func() {
		for last := (TopicMetrics{}); loops.Err() == nil; {
			m := l.Metrics().Total
			if m.Appends < last.Appends || m.Appends != m.BatchBytes.Count || m.Bytes != m.AppendedBytes || m.Rolls < last.Rolls {
				t.Errorf("%+v after %+v", m, last)
			}
			last = m
		}
	})
	appending.Wait()
	require.EqualValues(t, 800, l.Metrics().Total.Appends)
	stop()
	others.Wait()
	require.LessOrEqual(t, l.Metrics().Total.ReadBatches, int64(800))
}

// TestIdlePartitionsCountNothing: a partition that was never used has no counts,
// so that it costs nothing but the pointer to them.
func TestIdlePartitionsCountNothing(t *testing.T) {
	l := openAt(t, memfs.New(), "/data", nil)
	p := partOf(t, l, "topic", nil)
	require.EqualValues(t, 0, l.Metrics().Total.Appends)
	require.Nil(t, p.counts)
}
