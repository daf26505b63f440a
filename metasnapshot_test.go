package riffle

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// snapshotTuning makes a snapshot after every few records, on the goroutine that
// appended the last.
var snapshotTuning = tuning{ceilingStep: 1_000_000, boundsDelay: time.Second, reserveBytes: 4096, sealAtOnce: true, snapshotEvery: 4}

func openSnapshots(t testing.TB, fsys vfs.FS) *Log {
	t.Helper()
	l, err := openTuned(fsys, "/data", nil, snapshotTuning)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l
}

// describe says what topics a log has, by their names, ids and configurations.
func describe(l *Log) (topics []string) {
	for t := range l.Topics() {
		topics = append(topics, fmt.Sprintf("%s %s %v", t.name, formatID(t.id), t.state.Load().own))
	}
	return topics
}

// manyChanges makes, changes and deletes topics.
func manyChanges(t testing.TB, l *Log) {
	for i := range 20 {
		top, err := l.CreateTopic(ctx, fmt.Sprintf("t%d", i), &TopicConfig{Partitions: 1 + i%3})
		require.NoError(t, err)
		if i%3 == 0 {
			require.NoError(t, top.SetConfig(ctx, func(c *TopicConfig) { c.Retention = time.Duration(i+1) * time.Hour }))
		}
		if i%4 == 0 {
			require.NoError(t, top.SetPartitions(ctx, 9))
		}
		if i%5 == 4 {
			require.NoError(t, l.DeleteTopic(ctx, fmt.Sprintf("t%d", i-2)))
		}
	}
}

// spoilFile changes a byte in the middle of a file.
func spoilFile(t testing.TB, fsys vfs.FS, name string) {
	f, err := fsys.OpenWrite(name)
	require.NoError(t, err)
	size, err := f.Size()
	require.NoError(t, err)
	_, err = f.WriteAt([]byte{'!'}, size/2)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

// TestSnapshotsSayWhatTheLogSays: with the newest snapshot, and with the older one if
// that is damaged, opening finds the topics that the log had. Two are kept, and the log
// from the older one on; without both it cannot be opened, and says why.
func TestSnapshotsSayWhatTheLogSays(t *testing.T) {
	fsys := memfs.New()
	l := openSnapshots(t, fsys)
	manyChanges(t, l)
	want := describe(l)
	require.Len(t, want, 16)
	names, _, err := l.listSnapshots()
	require.NoError(t, err)
	require.Len(t, names, keptSnapshots)
	bounds := l.meta.Bounds()
	newest, ok := parseSnapshotName(names[0])
	require.True(t, ok)
	require.Greater(t, newest, bounds.End-Offset(len(want))-4)
	oldest, ok := parseSnapshotName(names[1])
	require.True(t, ok)
	require.Equal(t, oldest, bounds.Start, "what is in both is not kept in the log")
	require.NoError(t, l.Close())
	for _, name := range names {
		l = openSnapshots(t, fsys)
		require.Equal(t, want, describe(l))
		require.NoError(t, l.Close())
		spoilFile(t, fsys, l.metaPath(name))
	}
	_, err = openTuned(fsys, "/data", nil, snapshotTuning)
	var damage *CorruptError
	require.ErrorAs(t, err, &damage)
	require.Equal(t, l.metaPath(names[0]), damage.File)
	for _, name := range names {
		require.NoError(t, fsys.Remove(l.metaPath(name)))
	}
	_, err = openTuned(fsys, "/data", nil, snapshotTuning)
	require.ErrorAs(t, err, &damage)
}

// TestLogWithoutASnapshot: where the log has all records, damaged snapshots are passed
// over.
func TestLogWithoutASnapshot(t *testing.T) {
	fsys := memfs.New()
	l := openSnapshots(t, fsys)
	for i := range 5 {
		_, err := l.CreateTopic(ctx, fmt.Sprintf("t%d", i), nil)
		require.NoError(t, err)
	}
	want := describe(l)
	names, _, err := l.listSnapshots()
	require.NoError(t, err)
	require.Len(t, names, 1)
	require.NoError(t, l.Close())
	spoilFile(t, fsys, l.metaPath(names[0]))
	require.Equal(t, want, describe(openSnapshots(t, fsys)))
}

// TestSnapshotBeyondTheLog: a snapshot of what the log does not have means that
// records are missing from it. With an older snapshot they would be forgotten, so the
// damage is told where nothing else can be.
func TestSnapshotBeyondTheLog(t *testing.T) {
	fsys := memfs.New()
	l := openSnapshots(t, fsys)
	manyChanges(t, l)
	image, end, err := l.replayMetadata()
	require.NoError(t, err)
	data, err := formatSnapshot(image, end+10, 0, l.meta.topic.config(), 1)
	require.NoError(t, err)
	name := l.metaPath(snapshotName(end+10, 0))
	require.NoError(t, vfs.WriteFileAtomic(fsys, "", name, data))
	require.NoError(t, l.Close())
	_, err = openTuned(fsys, "/data", nil, snapshotTuning)
	var damage *CorruptError
	require.ErrorAs(t, err, &damage)
	require.Equal(t, name, damage.File)
	require.NoError(t, fsys.Remove(name))
	require.NotEmpty(t, describe(openSnapshots(t, fsys)))
}

// TestDamagedSnapshotsAreFound flips each bit and cuts at each byte of a snapshot:
// what is read is what was written, or damage is found, or it is a later version's.
func TestDamagedSnapshotsAreFound(t *testing.T) {
	l := openSnapshots(t, memfs.New())
	manyChanges(t, l)
	image, end, err := l.replayMetadata()
	require.NoError(t, err)
	data, err := formatSnapshot(image, end, 3, l.meta.topic.config(), 1)
	require.NoError(t, err)
	got, at, err := parseSnapshot(data)
	require.NoError(t, err)
	require.Equal(t, end, at)
	require.Equal(t, image.sorted(), got.sorted())
	for n := range data {
		_, _, err := parseSnapshot(data[:n])
		require.True(t, isDamage(err), "cut at byte %d: %v", n, err)
	}
	for i := range 8 * len(data) {
		flipped := slices.Clone(data)
		flipped[i/8] ^= 1 << (i % 8)
		got, _, err := parseSnapshot(flipped)
		if err != nil {
			require.True(t, isDamage(err), "bit %d: %v", i, err)
		} else { // the leader epoch, of which nobody asks
			require.Equal(t, image.sorted(), got.sorted(), "bit %d", i)
		}
	}
	_, _, err = parseSnapshot(append(slices.Clone(data), data...))
	require.True(t, isDamage(err), "%v", err)
}

// TestLaterVersionsSnapshotIsRefused: what a later version says in a snapshot is not
// passed over for an older one.
func TestLaterVersionsSnapshotIsRefused(t *testing.T) {
	for _, rec := range []Record{
		{Key: []byte("quota"), Value: []byte("{}")},
		{Key: []byte(kindTopic), Value: []byte(`{"name":"x","rack":"a"}`)},
	} {
		fsys := memfs.New()
		l := openSnapshots(t, fsys)
		manyChanges(t, l)
		end := l.meta.Bounds().End
		w := snapshotWriter{cfg: l.meta.topic.config(), now: 1}
		w.put(kindSnapshot, snapshotRecord{End: end})
		w.recs = append(w.recs, rec)
		w.put(kindSnapshotEnd, snapshotEndRecord{})
		w.flush()
		require.NoError(t, w.err)
		require.NoError(t, vfs.WriteFileAtomic(fsys, "", l.metaPath(snapshotName(end, 0)), w.data))
		require.NoError(t, l.Close())
		_, err := openTuned(fsys, "/data", nil, snapshotTuning)
		require.ErrorIs(t, err, errors.ErrUnsupported)
	}
}

// TestSnapshotNames prints names and parses them; what is not one is left alone.
func TestSnapshotNames(t *testing.T) {
	require.Equal(t, "00000000000000000123-0000000004.checkpoint", snapshotName(123, 4))
	end, ok := parseSnapshotName(snapshotName(1<<62, noEpoch))
	require.True(t, ok)
	require.Equal(t, Offset(1<<62), end)
	good := snapshotName(1, 1)
	for _, bad := range []string{"", "x", good[1:], good + ".tmp", strings.Replace(good, "-", "+", 1), "-" + good[1:]} {
		_, ok := parseSnapshotName(bad)
		require.False(t, ok, bad)
	}
}

// TestSnapshotsCountAcrossRestarts: what is behind the newest snapshot is counted over
// restarts, or a log that changes little between two of them would grow for ever.
func TestSnapshotsCountAcrossRestarts(t *testing.T) {
	fsys := memfs.New()
	for range 20 {
		l := openSnapshots(t, fsys)
		_, err := l.CreateTopic(ctx, "topic", nil)
		require.NoError(t, err)
		require.NoError(t, l.DeleteTopic(ctx, "topic"))
		require.NoError(t, l.Close())
	}
	l := openSnapshots(t, fsys)
	names, _, err := l.listSnapshots()
	require.NoError(t, err)
	require.Len(t, names, keptSnapshots)
	bounds := l.meta.Bounds()
	require.LessOrEqual(t, bounds.End-bounds.Start, Offset(3*snapshotTuning.snapshotEvery))
}
