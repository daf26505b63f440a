package riffle

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/rifflelog/riffle/internal/batch"
	"github.com/rifflelog/riffle/internal/compress"
	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// timedLog is a log of records whose timestamps are known, by offset.
type timedLog struct {
	disk  *memfs.FS
	cfg   *TopicConfig
	log   *Log
	p     *Partition
	times []int64
}

func openTimed(t require.TestingT, l *timedLog) {
	log, err := open(l.disk, "/data", nil)
	require.NoError(t, err)
	top, err := log.EnsureTopic(ctx, "topic", l.cfg)
	require.NoError(t, err)
	l.log, l.p = log, top.all()[0]
}

// append appends one batch of records with the given timestamps, each of size
// bytes.
func (l *timedLog) append(t require.TestingT, codec compress.Codec, size int, times ...int64) {
	var b batch.Builder
	b.Begin(nil, codec, codec.DefaultLevel())
	for _, ts := range times {
		require.NoError(t, batch.Add(&b, ts, nil, make([]byte, size), []Header(nil)))
	}
	out, err := b.Finish(batch.NoProducer)
	require.NoError(t, err)
	if l.p.topic.config().TimestampType == LogAppendTime {
		now := times[len(times)-1]
		batch.Batch(out).SetLogAppendTime(now)
		times = append([]int64(nil), times...)
		for i := range times {
			times[i] = now
		}
	}
	_, err = l.p.append(ctx, out, 0)
	require.NoError(t, err)
	l.times = append(l.times, times...)
}

// check compares every answer with a plain scan.
func (l *timedLog) check(t require.TestingT) {
	top := int64(-3)
	for _, ts := range l.times {
		top = max(top, ts)
	}
	for ts := int64(-3); ts <= min(top+2, 60); ts++ {
		got, err := l.p.offsetAt(ctx, ts)
		require.NoError(t, err)
		require.Equal(t, l.scan(ts), got, "first of at least %d in %v", ts, l.times)
	}
	want := NoOffset
	if top > batch.NoTimestamp {
		want = l.scan(top)
	}
	got, err := l.p.offsetOfMaxTimestamp(ctx)
	require.NoError(t, err)
	require.Equal(t, want, got, "largest in %v", l.times)
}

func (l *timedLog) scan(ts int64) Offset {
	for o, have := range l.times {
		if have >= ts {
			return Offset(o)
		}
	}
	return NoOffset
}

// TestOffsetAtIsThatOfAPlainScan appends batches with timestamps that grow, stay,
// go back or are not there, compressed or not, in segments of any size; closes
// the log or not, and opens it again after spoiling files that are derived from
// the batches. The first record of each time and the largest are those that
// looking at all of them finds.
func TestOffsetAtIsThatOfAPlainScan(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		l := &timedLog{disk: memfs.New(), cfg: &TopicConfig{
			Flush:         rapid.SampledFrom([]FlushPolicy{FlushBeforeAck, FlushAsync}).Draw(t, "flush"),
			SegmentBytes:  rapid.Int64Range(6<<10, 60<<10).Draw(t, "segment"),
			TimestampType: rapid.SampledFrom([]TimestampType{CreateTime, CreateTime, LogAppendTime}).Draw(t, "type"),
			SegmentAge:    Forever,
		}}
		openTimed(t, l)
		now := int64(0)
		for range rapid.IntRange(1, 4).Draw(t, "incarnations") {
			for range rapid.IntRange(0, 40).Draw(t, "batches") {
				var times []int64
				for range rapid.IntRange(1, 4).Draw(t, "records") {
					now = max(now+rapid.Int64Range(-3, 4).Draw(t, "step"), batch.NoTimestamp)
					ts := now
					if rapid.IntRange(0, 9).Draw(t, "none") == 0 {
						ts = batch.NoTimestamp
					}
					times = append(times, ts)
				}
				codec := rapid.SampledFrom([]compress.Codec{compress.None, compress.None, compress.Snappy}).Draw(t, "codec")
				l.append(t, codec, rapid.IntRange(0, 1200).Draw(t, "size"), times...)
			}
			l.check(t)
			if rapid.Bool().Draw(t, "kill") {
				require.NoError(t, kill(l.log))
			} else {
				require.NoError(t, l.log.Close())
			}
			spoil(t, l.disk)
			openTimed(t, l)
			l.check(t)
		}
		require.NoError(t, l.log.Close())
	})
}

// spoil removes, cuts and changes some of the files that are derived.
func spoil(t *rapid.T, fsys vfs.FS) {
	entries, err := fsys.ReadDir("/data/topic-0")
	if err != nil {
		return // nothing was appended
	}
	for _, e := range entries {
		if !isSideFile(e.Name) {
			continue
		}
		name := "/data/topic-0/" + e.Name
		switch rapid.IntRange(0, 7).Draw(t, e.Name) {
		case 0:
			require.NoError(t, fsys.Remove(name))
		case 1:
			flipBit(t, fsys, name, rapid.Int64Range(0, 1<<20).Draw(t, "bit"))
		case 2:
			f, err := fsys.OpenWrite(name)
			require.NoError(t, err)
			require.NoError(t, f.Truncate(rapid.Int64Range(0, e.Size+20).Draw(t, "size")))
			require.NoError(t, f.Close())
		}
	}
}

func isSideFile(name string) bool {
	for _, suffix := range sideSuffixes {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return false
}

// flipBit changes one bit of a file, if it has any.
func flipBit(t require.TestingT, fsys vfs.FS, name string, bit int64) {
	f, err := fsys.OpenWrite(name)
	require.NoError(t, err)
	size, err := f.Size()
	require.NoError(t, err)
	if size > 0 {
		at, b := bit/8%size, make([]byte, 1)
		_, err := f.ReadAt(b, at)
		require.NoError(t, err)
		b[0] ^= 1 << (bit % 8)
		_, err = f.WriteAt(b, at)
		require.NoError(t, err)
	}
	require.NoError(t, f.Close())
}

// TestOffsetAtSeesWhatIsCommitted holds up a flush: a record that is not
// committed is not found, not even if the time index knows it already.
func TestOffsetAtSeesWhatIsCommitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys, _, p := slowFS(t, nil)
		at := func(ms int64, size int) Record {
			return Record{Timestamp: time.UnixMilli(ms), Value: make([]byte, size)}
		}
		_, err := p.Append(ctx, at(10, 5000))
		require.NoError(t, err)
		_, release := fsys.Block(errfs.Rule{Site: siteFlush})
		done := make(chan error)
		go func() {
			_, err := p.Append(ctx, at(20, 1))
			done <- err
		}()
		synctest.Wait()
		require.Equal(t, 1, p.active().index.Load().time.len())
		find := func(ts int64) []Offset {
			first, err := p.offsetAt(ctx, ts)
			require.NoError(t, err)
			largest, err := p.offsetOfMaxTimestamp(ctx)
			require.NoError(t, err)
			return []Offset{first, largest}
		}
		require.Equal(t, []Offset{NoOffset, 0}, find(11))
		release()
		require.NoError(t, <-done)
		require.Equal(t, []Offset{1, 1}, find(11))
	})
}

// TestOffsetAtEnds: without records there is no offset; a context that has ended,
// a closed log and a partition that cannot be read say so.
func TestOffsetAtEnds(t *testing.T) {
	fsys, dir := testDir(t)
	l := openAt(t, fsys, dir, nil)
	p := partOf(t, l, "topic", nil)
	both := func(c context.Context) (errs []error) {
		o, err := p.offsetAt(c, 0)
		require.Equal(t, NoOffset, o)
		errs = append(errs, err)
		o, err = p.offsetOfMaxTimestamp(c)
		require.Equal(t, NoOffset, o)
		return append(errs, err)
	}
	require.Equal(t, []error{nil, nil}, both(ctx))
	ended, cancel := context.WithCancel(ctx)
	cancel()
	for _, err := range both(ended) {
		requireAll(t, err, context.Canceled)
	}
	appendValues(t, p, 0, 1)
	name := p.path(logFileName(0))
	require.NoError(t, l.Close())
	for _, err := range both(ctx) {
		requireAll(t, err, ErrClosed)
	}
	require.NoError(t, fsys.Remove(name))
	p = partOf(t, openAt(t, fsys, dir, nil), "topic", nil)
	for _, err := range both(ctx) {
		requireAll(t, err, ErrReadOnly)
	}
}

// TestOffsetAtMeetsDamage flips a bit of a batch in a sealed segment that has
// lost its seal: what comes before it is found, what may be in it is an error,
// and so is the largest timestamp.
func TestOffsetAtMeetsDamage(t *testing.T) {
	l := &timedLog{disk: memfs.New(), cfg: &TopicConfig{SegmentBytes: 10 << 10}}
	openTimed(t, l)
	for i := range int64(30) {
		l.append(t, compress.None, 900, 2*i)
	}
	base := segmentBases(l.p)[1]
	require.NoError(t, l.log.Close())
	require.NoError(t, l.disk.Remove("/data/topic-0/"+segmentFileName(base, sealSuffix)))
	flipBit(t, l.disk, "/data/topic-0/"+logFileName(base), 8*(3*971+500))
	openTimed(t, l)
	for ts := range int64(2*base + 5) {
		at, err := l.p.offsetAt(ctx, ts)
		require.NoError(t, err)
		require.Equal(t, Offset((ts+1)/2), at)
	}
	for range 2 {
		for _, ts := range []int64{int64(2*base + 5), 1000} {
			_, err := l.p.offsetAt(ctx, ts)
			var ce *CorruptError
			require.ErrorAs(t, err, &ce)
			require.Equal(t, base+3, ce.Offset, fmt.Sprint(ts))
		}
		_, err := l.p.offsetOfMaxTimestamp(ctx)
		requireAll(t, err, ErrCorrupt)
	}
	require.NoError(t, l.log.Close())
}

// TestOffsetAtOfATime: the first record at t or later, in milliseconds; without one
// the readable end. A time before all records finds the first, also one that has no
// place in a timestamp.
func TestOffsetAtOfATime(t *testing.T) {
	p := newPart(t, async)
	at := func(tm time.Time) Offset {
		o, err := p.OffsetAt(ctx, tm)
		require.NoError(t, err)
		return o
	}
	require.Zero(t, at(time.Time{}), "the end of nothing")
	for _, ms := range []int64{1000, 2000, 1500, 3000} {
		_, err := p.Append(ctx, Record{Timestamp: time.UnixMilli(ms)})
		require.NoError(t, err)
	}
	_, err := p.Append(ctx, Record{Timestamp: time.UnixMilli(100)}, Record{Timestamp: time.UnixMilli(3001)})
	require.NoError(t, err)
	for want, times := range map[Offset][]time.Time{
		0: {{}, time.UnixMilli(-1), time.Unix(0, 0), time.UnixMilli(1000), time.Unix(-1<<62, 0)},
		1: {time.UnixMilli(1000).Add(1), time.UnixMilli(1001), time.UnixMilli(2000).In(time.FixedZone("x", 3600))},
		3: {time.UnixMilli(2000).Add(999_999), time.UnixMilli(2999)},
		5: {time.UnixMilli(3000).Add(time.Microsecond), time.UnixMilli(3001)},
		6: {time.UnixMilli(3001).Add(1), time.Date(300_000_000, 1, 1, 0, 0, 0, 0, time.UTC), time.Unix(1<<62, 0)},
	} {
		for _, tm := range times {
			require.Equal(t, want, at(tm), tm)
		}
	}
}

// TestOffsetAtIsTheReadableEnd: what is not committed yet is not before the end.
func TestOffsetAtIsTheReadableEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys, _, p := slowFS(t, nil)
		appendValues(t, p, 0, 3)
		arrived, release := fsys.Block(errfs.Rule{Site: siteFlush})
		done := make(chan error)
		go func() { _, err := p.Append(ctx, Record{}); done <- err }()
		<-arrived
		o, err := p.OffsetAt(ctx, time.Now().Add(time.Hour))
		require.NoError(t, err)
		require.Equal(t, Offset(3), o)
		release()
		require.NoError(t, <-done)
	})
}

// TestOffsetAtSaysWhy returns NoOffset with the error of a log that is closed.
func TestOffsetAtSaysWhy(t *testing.T) {
	p := newPart(t, nil)
	require.NoError(t, p.topic.log.Close())
	o, err := p.OffsetAt(ctx, time.Now())
	requireAll(t, err, ErrClosed)
	require.Equal(t, NoOffset, o)
}
