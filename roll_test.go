package riffle

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/batch"
	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// TestShouldRoll shows each reason to begin the next segment at its limit:
// size, age by the records' time, the clock where the first batch has no time,
// the range of offsets. A segment without batches takes anything.
func TestShouldRoll(t *testing.T) {
	cfg := &TopicConfig{SegmentBytes: 10_000, SegmentAge: time.Second}
	b := func(size int, maxTimestamp int64, records int32) batch.Batch {
		var bld batch.Builder
		bld.Begin(nil, 0, 0)
		for range records {
			require.NoError(t, batch.Add(&bld, maxTimestamp, nil, nil, []Header(nil)))
		}
		out, err := bld.Finish(batch.NoProducer)
		require.NoError(t, err)
		return append(out, make([]byte, size-len(out))...)
	}
	const opened = 1_000_000
	for name, c := range map[string]struct {
		size     int64
		first    int64
		add      batch.Batch
		next     Offset
		now      int64
		forever  bool
		full     bool
		fullTime bool
		wantRoll bool
	}{
		"fits":                            {size: 9_000, first: 5000, add: b(1000, 5000, 1), now: opened},
		"a byte too large":                {size: 9_001, first: 5000, add: b(1000, 5000, 1), now: opened, wantRoll: true},
		"empty takes what is too large":   {size: 0, first: -1, add: b(20_000, 5000, 1), now: opened},
		"just not old":                    {size: 1, first: 5000, add: b(100, 6000, 1), now: math.MaxInt64},
		"old by the records' time":        {size: 1, first: 5000, add: b(100, 6001, 1), now: opened, wantRoll: true},
		"never old":                       {size: 1, first: 5000, add: b(100, 1<<60, 1), now: opened, forever: true},
		"old, and empty":                  {size: 0, first: -1, add: b(100, 1<<60, 1), now: math.MaxInt64},
		"no first time, clock not passed": {size: 1, first: -1, add: b(100, 1<<60, 1), now: opened + 1000},
		"no first time, clock passed":     {size: 1, first: -1, add: b(100, 0, 1), now: opened + 1001, wantRoll: true},
		"index full":                      {size: 1, first: 0, add: b(100, 0, 1), now: opened, full: true, wantRoll: true},
		"time index full":                 {size: 1, first: 0, add: b(100, 0, 1), now: opened, fullTime: true, wantRoll: true},
		"last offset within range":        {size: 1, first: 0, add: b(100, 0, 3), next: 100 + math.MaxInt32 - 2, now: opened},
		"last offset out of range":        {size: 1, first: 0, add: b(100, 0, 3), next: 100 + math.MaxInt32 - 1, now: opened, wantRoll: true},
	} {
		seg := &segment{base: 100, size: c.size, firstTimestamp: c.first, made: opened}
		x := &segmentIndex{offset: newOffsetIndex(100, 16), time: newTimeIndex(100, 36)}
		require.True(t, x.add(101, 1, 1, 101))
		if c.full {
			require.NoError(t, x.offset.add(102, 2))
		}
		if c.fullTime {
			require.NoError(t, x.time.maybeAdd(2, 102), "the last place is for the closing entry")
		}
		seg.withIndex(x)
		use := *cfg
		if c.forever {
			use.SegmentAge = Forever
		}
		require.Equal(t, c.wantRoll, seg.shouldRoll(c.add, c.next, c.now, &use), name)
	}
}

// segmentBases returns the base offsets of p's segments.
func segmentBases(p *Partition) (bases []Offset) {
	for _, seg := range p.segs.Load().list {
		bases = append(bases, seg.base)
	}
	return bases
}

// TestRollBySize fills segments, shows that each file is as large as it may be
// and named for its first offset, that reading crosses them from any offset,
// and that all is there after opening again.
func TestRollBySize(t *testing.T) {
	for _, flush := range []FlushPolicy{FlushBeforeAck, FlushAsync} {
		fsys, dir := testDir(t)
		l := openAt(t, fsys, dir, nil)
		cfg := &TopicConfig{Flush: flush, SegmentBytes: 1024}
		p := partOf(t, l, "topic", cfg)
		appendValues(t, p, 0, 100)
		bases := segmentBases(p)
		require.Equal(t, []Offset{0, 14, 28}, bases[:3], "14 batches of 70 or 71 bytes")
		for _, base := range bases {
			require.LessOrEqual(t, fileSize(t, fsys, p.path(logFileName(base))), int64(1024))
		}
		for from := range 101 {
			require.Equal(t, wantValues(from, 100), readValues(t, p, Offset(from)))
		}
		require.NoError(t, l.Close())
		p = partOf(t, openAt(t, fsys, dir, nil), "topic", cfg)
		require.Equal(t, bases, segmentBases(p))
		appendValues(t, p, 100, 130)
		require.Equal(t, wantValues(0, 130), readValues(t, p, Earliest))
	}
	p := newPart(t, &TopicConfig{SegmentBytes: 1024})
	_, err := p.Append(ctx, Record{Value: make([]byte, 1024)})
	require.ErrorIs(t, err, ErrRecordTooLarge)
}

// TestRollByAge appends records whose own times are further apart than
// SegmentAge.
func TestRollByAge(t *testing.T) {
	p := newPart(t, &TopicConfig{SegmentAge: time.Minute})
	for _, second := range []int64{1000, 1060, 1061, 1000, 1121, 1122} {
		_, err := p.Append(ctx, Record{Timestamp: time.Unix(second, 0)})
		require.NoError(t, err)
	}
	require.Equal(t, []Offset{0, 2, 5}, segmentBases(p))
}

// TestRollWhileOthersAppendAndRead runs appenders and followers over segments
// that hold a few batches: every record once, in order.
func TestRollWhileOthersAppendAndRead(t *testing.T) {
	const appenders, each = 4, 150
	for _, flush := range []FlushPolicy{FlushBeforeAck, FlushAsync} {
		p := newPart(t, &TopicConfig{Flush: flush, SegmentBytes: 1024, FlushInterval: time.Millisecond})
		cancelable, cancel := context.WithCancel(ctx)
		var wg sync.WaitGroup
		for a := range appenders {
			wg.Go(func() {
				c := ctx
				if a%2 == 0 {
					c = cancelable
				}
				for i := range each {
					if _, err := p.Append(c, Record{Key: []byte{byte(a)}, Value: fmt.Appendf(nil, "%d", i)}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		for range 2 {
			wg.Go(func() {
				if err := followAll(p, appenders, each); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		cancel()
		require.Greater(t, len(segmentBases(p)), 40)
	}
}

// TestRollThatFails lets the disk be full when a segment is due: the append says
// so, and a later one rolls. A file that the attempt left is emptied: a batch in it that
// would follow the first one of the new segment is not the log's.
func TestRollThatFails(t *testing.T) {
	fsys := errfs.New(memfs.New())
	l, err := open(fsys, "/data", nil)
	require.NoError(t, err)
	p := partOf(t, l, "topic", &TopicConfig{SegmentBytes: 1024})
	appendValues(t, p, 0, 14)
	removeRule := fsys.FailSite(siteRollSyncDir, 0, vfs.ErrNoSpace)
	for range 3 {
		_, err := p.Append(ctx, Record{Value: []byte("v14")})
		requireAll(t, err, ErrDiskFull)
		require.NotErrorIs(t, err, ErrInDoubt)
	}
	edit(t, fsys, p.path(logFileName(14)), func(f vfs.File, _ int64) error {
		left, err := new(encoder).encode([]Record{{Value: []byte("old")}}, p.topic.config(), 1)
		require.NoError(t, err)
		left.SetLeaderEpoch(0)
		left.SetBaseOffset(15)
		_, err = f.WriteAt(left, int64(len(left)))
		return err
	})
	removeRule()
	appendValues(t, p, 14, 15)
	require.NoError(t, kill(l))
	l = openAt(t, fsys, "/data", nil)
	p = partOf(t, l, "topic", nil)
	require.Equal(t, wantValues(0, 15), readValues(t, p, Earliest))
	appendValues(t, p, 15, 20)
	require.NoError(t, l.Close())
	p = partOf(t, openAt(t, fsys, "/data", nil), "topic", nil)
	require.Equal(t, wantValues(0, 20), readValues(t, p, Earliest))
}

// TestContextEndsWhileRolling holds up the flush of the old segment: ctx is
// honoured, nothing of the batch was written, and the roll goes on.
func TestContextEndsWhileRolling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys, _, p := slowFS(t, &TopicConfig{Flush: FlushAsync, FlushInterval: Forever, SegmentBytes: 1024})
		appendValues(t, p, 0, 14)
		_, release := fsys.Block(errfs.Rule{Site: siteFlush})
		for range 2 { // the first rolls, the second waits for it
			c, cancel := context.WithTimeout(ctx, time.Second)
			_, err := p.Append(c, Record{})
			cancel()
			requireAll(t, err, context.DeadlineExceeded)
			require.NotErrorIs(t, err, ErrInDoubt)
		}
		require.Equal(t, Offset(14), p.Bounds().End)
		release()
		appendValues(t, p, 14, 15)
		require.Equal(t, []Offset{0, 14}, segmentBases(p))
	})
}

// TestMissingFirstSegment removes the first of several files of a process that
// was killed at once: it is missed, and nothing is taken for a gap.
func TestMissingFirstSegment(t *testing.T) {
	fsys, dir, first := killedLog(t, 60, &TopicConfig{SegmentBytes: 1024})
	require.NoError(t, fsys.Remove(first))
	p := partOf(t, openAt(t, fsys, dir, nil), "topic", nil)
	_, err := p.Append(ctx, Record{})
	requireAll(t, err, ErrReadOnly, ErrCorrupt)
	require.Equal(t, Offset(14), p.Bounds().Start)
	require.Equal(t, wantValues(14, 60), readValues(t, p, Earliest))
}

// TestDamageInAnOlderSegmentIsNotCut damages the end of a segment that others
// follow, of a killed process: it was flushed before they were made. Nothing is
// cut, and reading goes on behind it, also where a whole file is missing.
func TestDamageInAnOlderSegmentIsNotCut(t *testing.T) {
	cfg := &TopicConfig{SegmentBytes: 1024}
	for name, spoil := range map[string]func(fsys vfs.FS, file string) error{
		"last batch cut": func(fsys vfs.FS, file string) error {
			f, err := fsys.OpenWrite(file)
			if err != nil {
				return err
			}
			defer f.Close()
			return f.Truncate(13*71 + 30)
		},
		"file emptied": func(fsys vfs.FS, file string) error {
			f, err := fsys.Create(file)
			if err != nil {
				return err
			}
			return f.Close()
		},
		"file missing": func(fsys vfs.FS, file string) error { return fsys.Remove(file) },
	} {
		fsys, dir, first := killedLog(t, 60, cfg)
		file := first[:len(first)-len(logFileName(0))] + logFileName(14)
		require.NoError(t, spoil(fsys, file), name)
		l := openAt(t, fsys, dir, nil)
		p := partOf(t, l, "topic", nil)
		_, err := p.Append(ctx, Record{})
		requireAll(t, err, ErrReadOnly, ErrCorrupt)
		got, err := collect(p, Earliest)
		var ce *CorruptError
		require.ErrorAs(t, err, &ce, name)
		require.Equal(t, wantValues(0, int(ce.Offset)), got, name)
		require.Equal(t, Offset(28), ce.Next, name)
		require.Equal(t, wantValues(28, 60), readValues(t, p, 28), name)
		require.NoError(t, l.Close())
	}
}

// TestWhoLeavesKeepsHisBatch lets an append's context end while the partition begins
// for it, and writes over its batch, as the next append does with a buffer from the
// pool. On one processor nothing has looked at the batch by then.
func TestWhoLeavesKeepsHisBatch(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	p := newPart(t, nil)
	ended, end := context.WithCancel(ctx)
	end()
	var e encoder
	b, err := e.encode([]Record{{Value: []byte("value")}}, p.topic.config(), 0)
	require.NoError(t, err)
	require.ErrorIs(t, p.lockWithRoom(ended, b, 0), context.Canceled)
	for i := range b {
		b[i] = 'x'
	}
	at, err := p.Append(ctx, Record{Value: []byte("next")})
	require.NoError(t, err)
	require.Zero(t, at)
	for r, err := range p.Records(ctx, Earliest, nil) {
		require.NoError(t, err)
		require.Zero(t, r.LeaderEpoch)
	}
}
