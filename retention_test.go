package riffle

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/batch"
	"github.com/rifflelog/riffle/internal/invariants"
	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// noon is what the clock of a check of retention says in these tests.
var noon = time.Date(2024, 5, 1, 12, 0, 0, 0, time.UTC)

// aged is the size of each of the segments that appendAged makes, in bytes.
const aged = 670

// appendAged appends a segment's worth of records for each age, in hours before
// noon, and returns where each segment begins and the last one ends.
func appendAged(t testing.TB, p *Partition, ages ...int) (bases []Offset) {
	t.Helper()
	for _, age := range ages {
		at, err := p.Append(ctx, Record{Timestamp: noon.Add(-time.Duration(age) * time.Hour), Value: make([]byte, 600)})
		require.NoError(t, err)
		bases = append(bases, at)
	}
	p.topic.log.tasks.Wait()
	return append(bases, p.Bounds().End)
}

// retainAt checks retention once, and waits for what that begins.
func retainAt(p *Partition, now time.Time) {
	p.topic.log.checkRetention(now)
	p.topic.log.tasks.Wait()
}

// Segments go from the oldest on while all of their records are older than
// Retention, and no further than the first that stays: a time in the future keeps
// all that follow. Kafka:
// UnifiedLogTest.shouldDeleteTimeBasedSegmentsReadyToBeDeleted, deletableSegments.
func TestRetentionByTime(t *testing.T) {
	for _, c := range []struct {
		ages  []int
		limit time.Duration
		gone  int
	}{
		{[]int{9, 8, 7, 1}, 6 * time.Hour, 3},
		{[]int{9, 8, 7, 1}, 7 * time.Hour, 2}, // seven hours are not more
		{[]int{9, 1, 8, 7}, 6 * time.Hour, 1},
		{[]int{9, -1000, 8, 7}, 6 * time.Hour, 1},
		{[]int{9, 8, 7}, 6 * time.Hour, 3}, // the active one is rolled
		{[]int{9, 8, 7}, Forever, 0},
		{[]int{1, 9, 9}, 6 * time.Hour, 0},
		{[]int{9}, time.Microsecond, 1}, // Kafka's 0
		{[]int{0}, time.Microsecond, 0},
	} {
		l, p := openStart(t, memfs.New(), &TopicConfig{SegmentBytes: 1024, SegmentAge: Forever, Retention: c.limit})
		bases := appendAged(t, p, c.ages...)
		require.Len(t, p.Segments(), len(c.ages))
		for range 3 { // the second time there is nothing to do: testRetentionIdempotency
			retainAt(p, noon)
			require.Equal(t, bases[c.gone], p.Bounds().Start, "%+v", c)
			require.Equal(t, bases[len(c.ages)], p.Bounds().End)
			require.Len(t, p.Segments(), max(len(c.ages)-c.gone, 1))
			require.Equal(t, basesOf(p.Segments()), logFiles(t, p))
		}
		at, err := p.Append(ctx, Record{Timestamp: noon})
		require.NoError(t, err)
		require.Equal(t, bases[len(c.ages)], at)
		require.NoError(t, l.Close())
	}
}

// The oldest segments go while what is left is no less than RetentionBytes; the
// active one never. Kafka: UnifiedLogTest.shouldDeleteSizeBasedSegments,
// shouldNotDeleteSizeBasedSegmentsWhenUnderRetentionSize.
func TestRetentionBySize(t *testing.T) {
	for limit, gone := range map[int64]int{
		NoLimit: 0, 1: 3, aged: 3, aged + 1: 2, 2 * aged: 2, 2*aged + 1: 1, 3 * aged: 1, 3*aged + 1: 0, 1 << 40: 0,
	} {
		l, p := openStart(t, memfs.New(), &TopicConfig{SegmentBytes: 1024, Retention: Forever, RetentionBytes: limit})
		bases := appendAged(t, p, 0, 0, 0, 0)
		require.Equal(t, int64(aged), p.Segments()[0].Bytes)
		retainAt(p, noon)
		require.Equal(t, bases[gone], p.Bounds().Start, "%d", limit)
		require.NoError(t, l.Close())
	}
}

// Time and size count together, and what they are is looked at anew at each check.
// Kafka: UnifiedLog.deleteOldSegments, LogManagerTest.testTopicConfigChangeUpdatesLogConfig.
func TestRetentionFollowsTheConfiguration(t *testing.T) {
	l, p := openStart(t, memfs.New(), &TopicConfig{SegmentBytes: 1024, SegmentAge: Forever, Retention: Forever})
	bases := appendAged(t, p, 9, 1, 8, 7, 1, 1)
	for _, c := range []struct {
		age   time.Duration
		bytes int64
		start Offset
	}{{Forever, NoLimit, bases[0]}, {6 * time.Hour, 4 * aged, bases[4]}, {Forever, 2 * aged, bases[4]}, {Forever, aged, bases[5]}} {
		undo := setRetention(p.topic, c.age, c.bytes)
		retainAt(p, noon)
		require.Equal(t, c.start, p.Bounds().Start)
		undo()
	}
	require.NoError(t, l.Close())
}

// Time and size are nothing to a topic that only compacts, nor to the log's own;
// the start that was moved is. Kafka:
// shouldNotDeleteSegmentsWhenPolicyDoesNotIncludeDelete,
// shouldDeleteStartOffsetBreachedSegmentsWhenPolicyDoesNotIncludeDelete.
func TestRetentionNeedsThePolicy(t *testing.T) {
	cfg := &TopicConfig{SegmentBytes: 1024, SegmentAge: Forever, Retention: time.Hour, RetentionBytes: 1, Cleanup: CleanupCompact}
	l, p := openStart(t, memfs.New(), cfg)
	for range 3 {
		_, err := p.Append(ctx, Record{Timestamp: noon.Add(-9 * time.Hour), Key: []byte("k"), Value: make([]byte, 600)})
		require.NoError(t, err)
	}
	before := l.meta.Bounds()
	retainAt(p, noon.Add(1000*time.Hour))
	require.Zero(t, p.Bounds().Start)
	require.Equal(t, before, l.meta.Bounds())
	require.NoError(t, p.moveStart(1, "compacted topics have a start too"))
	require.Equal(t, []Offset{1, 2}, logFiles(t, p))
	require.NoError(t, l.Close())
}

// What is not committed does not go, however old it is. Kafka:
// UnifiedLogTest.testCannotDeleteSegmentsAtOrAboveHighWatermark. A replica checks
// by its own clock.
func TestRetentionStopsAtTheHighWatermark(t *testing.T) {
	l, p := openStart(t, memfs.New(), &TopicConfig{SegmentBytes: 1024, SegmentAge: Forever, Retention: time.Hour})
	bases := appendAged(t, p, 9, 8, 7, 6)
	require.NoError(t, p.becomeReplica(ctx, 0))
	for _, c := range []struct {
		hw    Offset
		start Offset
	}{{bases[0], bases[0]}, {bases[2], bases[2]}, {bases[3], bases[3]}, {bases[4], bases[4]}} {
		_, err := p.setHighWatermark(ctx, c.hw)
		require.NoError(t, err)
		retainAt(p, noon)
		require.Equal(t, Bounds{c.start, c.hw, c.hw, bases[4]}, p.Bounds())
	}
	require.NoError(t, l.Close())
}

// A segment whose records have no timestamps is as old as this incarnation has had
// it. Kafka takes the file's time.
func TestRetentionWithoutTimestamps(t *testing.T) {
	l, p := openStart(t, memfs.New(), &TopicConfig{SegmentBytes: 1024, Retention: time.Hour})
	require.NoError(t, p.becomeReplica(ctx, 0))
	var b batch.Builder
	for i := range 3 {
		b.Begin(nil, 0, 0)
		require.NoError(t, batch.Add[Header](&b, batch.NoTimestamp, nil, make([]byte, 600), nil))
		data, err := b.Finish(batch.NoProducer)
		require.NoError(t, err)
		batch.Batch(data).SetBaseOffset(int64(i))
		batch.Batch(data).SetLeaderEpoch(0)
		_, err = p.appendReplica(ctx, data)
		require.NoError(t, err)
	}
	showAll(t, p)
	require.Len(t, p.Segments(), 3)
	retainAt(p, time.Now())
	require.Zero(t, p.Bounds().Start)
	retainAt(p, time.Now().Add(2*time.Hour))
	require.Equal(t, Offset(3), p.Bounds().Start)
	require.NoError(t, l.Close())
}

// What is appended between the look at the active segment and its end stays, and
// the segment with it.
func TestRetentionSparesWhatComes(t *testing.T) {
	l, p := openStart(t, memfs.New(), &TopicConfig{SegmentBytes: 1024, SegmentAge: Forever, Retention: time.Hour})
	bases := appendAged(t, p, 9, 8)
	e := expiry{p: p, cfg: p.topic.config(), now: noon.UnixMilli()}
	require.True(t, e.begin())
	n, reason, err := e.count()
	require.NoError(t, err)
	require.Equal(t, 2, n)
	require.Equal(t, "older than Retention", reason)
	_, err = p.Append(ctx, Record{Timestamp: noon})
	require.NoError(t, err)
	for range 2 {
		to, err := e.endActive()
		require.NoError(t, err)
		require.Equal(t, bases[1], to)
		appendAged(t, p, 0) // in the next one
	}
	retainAt(p, noon)
	require.Equal(t, bases[1], p.Bounds().Start)
	require.NoError(t, l.Close())
}

// Damage is left as it is, with the segments behind it, for whoever can repair it.
// Nothing is deleted of a partition that takes no appends.
func TestRetentionLeavesDamage(t *testing.T) {
	cfg := &TopicConfig{SegmentBytes: 1024, SegmentAge: Forever, Retention: time.Hour, RetentionBytes: 1}
	disk := memfs.New()
	l, p := openStart(t, disk, cfg)
	bases := appendAged(t, p, 9, 8, 7, 0)
	require.NoError(t, l.Close())
	name := fmt.Sprintf("/data/topic-0/%020d", bases[1])
	edit(t, disk, name+logSuffix, func(f vfs.File, size int64) error {
		_, err := f.WriteAt([]byte{1}, size-100)
		return err
	})
	require.NoError(t, disk.Remove(name+sealSuffix))
	require.NoError(t, disk.Remove(name+indexSuffix))
	l, p = openStart(t, disk, nil)
	require.NoError(t, p.damaged)
	retainAt(p, noon)
	require.Equal(t, bases[1], p.Bounds().Start)
	require.NoError(t, l.Close())

	require.NoError(t, flipValue(disk, "/data/topic-0"))
	l, p = openStart(t, disk, nil)
	require.Error(t, p.damaged)
	retainAt(p, noon.Add(1000*time.Hour))
	require.Equal(t, bases[1], p.Bounds().Start)
	p.damaged = nil
	p.mu.Lock()
	p.fail(errors.New("broken"))
	p.mu.Unlock()
	retainAt(p, noon.Add(1000*time.Hour))
	require.Equal(t, bases[1], p.Bounds().Start)
	require.NoError(t, l.Close())
}

// The first check comes half a minute after opening, the others every five minutes,
// as in Kafka: log.initial.task.delay.ms, log.retention.check.interval.ms.
func TestRetentionIsCheckedOnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := open(memfs.New(), "/data", nil)
		require.NoError(t, err)
		p := partOf(t, l, "topic", &TopicConfig{SegmentBytes: 1024, Retention: time.Minute})
		appendNow := func() {
			_, err := p.Append(ctx, Record{Value: make([]byte, 600)})
			require.NoError(t, err)
		}
		start := func(after time.Duration) Offset {
			time.Sleep(after)
			synctest.Wait()
			return p.Bounds().Start
		}
		_, err = p.Append(ctx, Record{Timestamp: time.Now().Add(-time.Hour), Value: make([]byte, 600)})
		require.NoError(t, err)
		appendNow()
		require.Zero(t, start(retentionDelay-time.Millisecond))
		require.Equal(t, Offset(1), start(time.Millisecond))
		appendNow()
		require.Equal(t, Offset(1), start(retentionInterval-time.Millisecond))
		require.Equal(t, Offset(3), start(time.Millisecond))
		appendNow()
		require.Equal(t, Offset(3), start(retentionInterval-time.Second))
		require.NoError(t, l.Close())
		require.Equal(t, Offset(3), start(time.Hour), "a closed log checks nothing")
	})
}

// A check opens no file of a partition with nothing to delete, asks for no memory,
// and reads what is known of a sealed segment once.
func TestRetentionOfIdlePartitionsIsCheap(t *testing.T) {
	disk := memfs.New()
	cfg := &TopicConfig{SegmentBytes: 1024, SegmentAge: Forever, Retention: 10 * time.Hour, RetentionBytes: 1 << 20}
	l, p := openStart(t, disk, cfg)
	appendAged(t, p, 9, 8, 7)
	appendAged(t, partOf(t, l, "one", cfg), 9)
	require.NoError(t, l.Close())
	fsys := errfs.New(disk)
	l, p = openStart(t, fsys, nil)
	partOf(t, l, "empty", cfg)
	before := fsys.Ops()
	retainAt(p, noon)
	require.Equal(t, before, fsys.Ops()-opsOf(t, fsys, func() { _, _ = p.readSeal(0) }), "the oldest one's seal")
	retainAt(p, noon) // closes what was opened for that
	before = fsys.Ops()
	if !invariants.Enabled {
		allocs := testing.AllocsPerRun(100, func() {
			for t := range l.Topics() {
				for _, p := range t.all() {
					_, _ = p.removeDeleted(), p.checkRetention(noon)
				}
			}
		})
		require.LessOrEqual(t, allocs, 6.0, "the list of topics, sorted")
	}
	retainAt(p, noon)
	require.Equal(t, before, fsys.Ops())
	require.NoError(t, l.Close())
}

// opsOf returns how many operations f makes.
func opsOf(t testing.TB, fsys *errfs.FS, f func()) int64 {
	t.Helper()
	before := fsys.Ops()
	f()
	return fsys.Ops() - before
}

// What was deleted is counted, and the logger hears of it and why.
func TestDeletionIsCountedAndLogged(t *testing.T) {
	var log bytes.Buffer
	opts := &Options{Logger: slog.New(slog.NewTextHandler(&log, nil))}
	l, err := openTuned(memfs.New(), "/data", opts, tuning{boundsDelay: Forever, reserveBytes: 4096})
	require.NoError(t, err)
	p := partOf(t, l, "topic", &TopicConfig{SegmentBytes: 1024, SegmentAge: Forever, Retention: 6 * time.Hour, RetentionBytes: 2*aged + 1})
	appendAged(t, p, 9, 8, 1, 1, 1, 1)
	retainAt(p, noon)
	require.NoError(t, p.DeleteBefore(ctx, 4))
	l.tasks.Wait()
	m := l.Metrics()
	for _, m := range []TopicMetrics{m.Topics[0], m.Total} {
		require.Equal(t, []int64{2, 4, 4 * aged, 2, 2 * aged}, []int64{m.StartMoves, m.DeletedSegments, m.DeletedBytes, m.Segments, m.Bytes})
	}
	require.NoError(t, l.Close())
	require.Contains(t, log.String(), `msg="records are deleted" topic=topic partition=0 start=3 segments=3 bytes=2010 reason="more than RetentionBytes"`)
	require.Contains(t, log.String(), `start=4 segments=1 bytes=670 reason="asked for"`)
}

// A check that fails says so, and the next one does it. On a disk without a free
// byte it deletes, so that there is room.
func TestRetentionThatFails(t *testing.T) {
	m := memfs.New()
	fsys := errfs.New(m)
	var log bytes.Buffer
	tune := tuning{boundsDelay: Forever, reserveBytes: testReserve}
	l, err := openTuned(fsys, "/data", &Options{DiskReserve: testKeep, Logger: slog.New(slog.NewTextHandler(&log, nil))}, tune)
	require.NoError(t, err)
	p := partOf(t, l, "topic", &TopicConfig{SegmentBytes: 1024, SegmentAge: Forever, Retention: time.Hour})
	bases := appendAged(t, p, 9, 8, 7)
	fail := fsys.FailSite(siteStart, 0, errfs.ErrInjected)
	retainAt(p, noon)
	fail()
	require.Zero(t, p.Bounds().Start)
	require.Contains(t, log.String(), "old records are not deleted")
	m.SetFree(0)
	retainAt(p, noon)
	require.Equal(t, bases[3], p.Bounds().Start)
	require.Equal(t, []Offset{bases[3]}, logFiles(t, p))
	require.NoError(t, l.Close())
}

// An active segment that has expired is looked at while it is appended to: for the
// race detector.
func TestRetentionBesideAnAppend(t *testing.T) {
	l, p := openStart(t, memfs.New(), &TopicConfig{SegmentAge: Forever, Retention: time.Hour, RetentionBytes: 1 << 30})
	appendAged(t, p, 9)
	e := expiry{p: p, cfg: p.topic.config(), now: noon.UnixMilli()}
	require.True(t, e.begin())
	var wg sync.WaitGroup
	wg.Go(func() {
		if n, _, err := e.count(); err != nil || n != 1 {
			t.Error(n, err)
		}
	})
	_, err := p.Append(ctx, Record{Timestamp: noon})
	wg.Wait()
	require.NoError(t, err)
	require.NoError(t, l.Close())
}

// On a disk without room for the next segment's file retention uses what is set aside,
// and if there is none, deletes what needs no such file.
func TestRetentionWithoutRoomForAFile(t *testing.T) {
	for times, gone := range map[int]int{1: 3, 2: 2} {
		fsys := errfs.New(memfs.New())
		l := openKeeping(t, fsys, testKeep)
		p := partOf(t, l, "topic", &TopicConfig{SegmentBytes: 1024, SegmentAge: Forever, Retention: time.Hour})
		bases := appendAged(t, p, 9, 8, 7)
		fsys.Add(errfs.Rule{Kind: errfs.Create, Name: p.path(logFileName(bases[3])), Times: times, Err: vfs.ErrNoSpace})
		retainAt(p, noon)
		require.Equal(t, bases[gone], p.Bounds().Start)
		retainAt(p, noon)
		require.Equal(t, bases[3], p.Bounds().Start)
		require.Equal(t, []Offset{bases[3]}, logFiles(t, p))
	}
}
