package riffle

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/rifflelog/riffle/internal/batch"
	"github.com/rifflelog/riffle/internal/invariants"
)

// TestAppendAndReadBack shows that records come back as they were appended,
// with null and empty kept apart, and with the place and time that they got.
func TestAppendAndReadBack(t *testing.T) {
	p := newPart(t, nil)
	before := time.Now().Truncate(time.Millisecond)
	sent := []Record{
		{Key: []byte("key"), Value: []byte("value"), Timestamp: time.UnixMilli(1234).In(time.FixedZone("x", 3600))},
		{Topic: "ignored", Partition: 9, Offset: 9, LeaderEpoch: 9, Key: []byte{}, Value: nil},
		{Key: nil, Value: []byte{}, Headers: []Header{{"a", []byte("1")}, {"b", nil}, {"a", []byte{}}, {"", []byte("x")}}},
	}
	at, err := p.Append(ctx, sent...)
	require.NoError(t, err)
	require.Equal(t, Offset(0), at)
	at, err = p.Append(ctx, Record{Value: []byte("second batch")})
	require.NoError(t, err)
	require.Equal(t, Offset(3), at)

	var got []Record
	for r, err := range p.Records(ctx, Earliest, nil) {
		require.NoError(t, err)
		got = append(got, r)
	}
	require.Len(t, got, 4)
	for i, r := range got[:3] {
		require.Equal(t, "topic", r.Topic)
		require.Equal(t, 0, r.Partition)
		require.Equal(t, Offset(i), r.Offset)
		require.Equal(t, sent[i].Key, r.Key, i)
		require.Equal(t, sent[i].Value, r.Value, i)
		require.Equal(t, sent[i].Headers, r.Headers, i)
		require.Equal(t, time.UTC, r.Timestamp.Location())
	}
	require.Equal(t, time.UnixMilli(1234).UTC(), got[0].Timestamp)
	require.False(t, got[1].Timestamp.Before(before), "no timestamp means now")
	require.Equal(t, Bounds{Start: 0, LastStable: 4, HighWatermark: 4, End: 4}, p.Bounds())

	value, ok := got[2].Header("a")
	require.True(t, ok)
	require.Equal(t, []byte{}, value, "the last of several")
	_, ok = got[2].Header("none")
	require.False(t, ok)
}

// TestViewsShowWhatRecordsCopy reads the same records both ways, and keeps a
// view with Clone.
func TestViewsShowWhatRecordsCopy(t *testing.T) {
	p := newPart(t, nil)
	for i := range 50 {
		_, err := p.Append(ctx, Record{
			Key: fmt.Appendf(nil, "k%d", i), Value: bytes.Repeat([]byte{byte(i)}, i*100), Timestamp: time.UnixMilli(int64(i)),
			Headers: []Header{{"h", []byte{byte(i)}}, {"h", nil}},
		}, Record{Value: []byte("other")})
		require.NoError(t, err)
	}
	var owned, cloned []Record
	for r, err := range p.Records(ctx, 1, nil) {
		require.NoError(t, err)
		owned = append(owned, r)
	}
	for v, err := range p.Views(ctx, 1, nil) {
		require.NoError(t, err)
		r := owned[len(cloned)]
		require.Equal(t, r.Offset, v.Offset())
		require.Equal(t, r.Timestamp, v.Timestamp())
		require.Equal(t, r.Key, v.Key())
		require.Equal(t, r.Value, v.Value())
		value, ok := v.Header("h")
		require.Equal(t, len(r.Headers) > 0, ok)
		require.Nil(t, value)
		n := 0
		for k, val := range v.Headers() {
			require.Equal(t, r.Headers[n].Key, string(k))
			require.Equal(t, r.Headers[n].Value, val)
			n++
		}
		require.Len(t, r.Headers, n)
		cloned = append(cloned, v.Clone())
	}
	require.Equal(t, owned, cloned)
	require.Len(t, owned, 99)
}

// TestLentViewIsOverwritten shows that builds with checks spoil the memory of a
// view that was kept past its time.
func TestLentViewIsOverwritten(t *testing.T) {
	if !invariants.Enabled {
		return // the build without checks is covered by every other test
	}
	p := newPart(t, nil)
	appendValues(t, p, 0, 2)
	var kept []byte
	for v, err := range p.Views(ctx, Earliest, nil) {
		require.NoError(t, err)
		if kept == nil {
			kept = v.Value()
			require.Equal(t, "v0", string(kept))
		}
	}
	require.Equal(t, []byte{0xdb, 0xdb}, kept)
}

// TestRecordsOwnTheirMemory changes what was given to Append and what reading
// returned, and shows that neither reaches another record.
func TestRecordsOwnTheirMemory(t *testing.T) {
	p := newPart(t, nil)
	value := []byte("aaaa")
	_, err := p.Append(ctx, Record{Value: value}, Record{Value: value})
	require.NoError(t, err)
	copy(value, "bbbb")
	var got []Record
	for r, err := range p.Records(ctx, Earliest, nil) {
		require.NoError(t, err)
		_ = append(r.Value, "overrun"...)
		copy(r.Key[:cap(r.Key)], "x")
		got = append(got, r)
	}
	require.Equal(t, "aaaa", string(got[0].Value))
	copy(got[0].Value, "cccc")
	require.Equal(t, "aaaa", string(got[1].Value))
	require.Equal(t, []string{"aaaa", "aaaa"}, readValues(t, p, Earliest))
}

// TestEveryCompression appends under each codec and reads back, and shows that
// the codec is really used.
func TestEveryCompression(t *testing.T) {
	fsys, dir := testDir(t)
	l := openAt(t, fsys, dir, nil)
	value := strings.Repeat("compressible ", 1000)
	for c := CompressionProducer; c <= CompressionZstd; c++ {
		p := partOf(t, l, fmt.Sprintf("topic%d", c), &TopicConfig{Compression: c})
		_, err := p.Append(ctx, Record{Value: []byte(value)}, Record{Key: []byte("k")})
		require.NoError(t, err)
		require.Equal(t, []string{value, ""}, readValues(t, p, Earliest))
		require.Equal(t, c > CompressionNone, p.active().size < 2000, "%d bytes", p.active().size)
	}
}

// TestLogAppendTime shows that such a topic gives records the log's time,
// whatever theirs was.
func TestLogAppendTime(t *testing.T) {
	p := newPart(t, &TopicConfig{TimestampType: LogAppendTime})
	before := time.Now().Truncate(time.Millisecond)
	_, err := p.Append(ctx, Record{Timestamp: time.UnixMilli(5)}, Record{Timestamp: time.Now().Add(time.Hour)})
	require.NoError(t, err)
	for r, err := range p.Records(ctx, Earliest, nil) {
		require.NoError(t, err)
		require.False(t, r.Timestamp.Before(before))
		require.False(t, r.Timestamp.After(time.Now()))
	}
}

// TestAppendRefuses shows the error of each record that no topic takes, and that
// nothing was written.
func TestAppendRefuses(t *testing.T) {
	p := newPart(t, &TopicConfig{MaxMessageBytes: 1000})
	ended, cancel := context.WithCancel(ctx)
	cancel()
	big := make([]byte, 600)
	for name, c := range map[string]struct {
		ctx  context.Context
		recs []Record
		want error
	}{
		"no records":             {ctx, nil, ErrInvalidRecord},
		"before 1970":            {ctx, []Record{{Timestamp: time.UnixMilli(-1)}}, ErrInvalidRecord},
		"too far":                {ctx, []Record{{Timestamp: time.Unix(18446744073709556, 0)}}, ErrInvalidRecord},
		"too many headers":       {ctx, []Record{{Headers: make([]Header, 1<<16+1)}}, ErrInvalidRecord},
		"the second too large":   {ctx, []Record{{}, {Value: make([]byte, 1001)}}, ErrRecordTooLarge},
		"the first too large":    {ctx, []Record{{Value: make([]byte, 1000)}, {}}, ErrRecordTooLarge},
		"one record too large":   {ctx, []Record{{Value: make([]byte, 1000)}}, ErrRecordTooLarge},
		"records too large":      {ctx, []Record{{Value: big}, {Value: big}}, ErrBatchTooLarge},
		"header too large":       {ctx, []Record{{Headers: []Header{{string(big), big}}}}, ErrRecordTooLarge},
		"ctx has ended":          {ended, []Record{{}}, context.Canceled},
		"compressed, does still": {ctx, []Record{{Value: big, Timestamp: time.UnixMilli(math.MinInt64)}}, ErrInvalidRecord},
	} {
		at, err := p.Append(c.ctx, c.recs...)
		require.ErrorIs(t, err, c.want, name)
		require.NotErrorIs(t, err, ErrInDoubt, name)
		require.Equal(t, NoOffset, at, name)
		var pe *PartitionError
		require.ErrorAs(t, err, &pe, name)
		require.Equal(t, "append", pe.Op)
		require.Equal(t, "topic", pe.Topic)
	}
	require.Equal(t, Bounds{}, p.Bounds())
	_, err := p.Append(ctx, Record{Value: make([]byte, 1000-61-8-2)})
	require.NoError(t, err, "just fits")
}

// TestSizeLimitIsOfTheCompressedBatch appends more than MaxMessageBytes of what
// compresses to less.
func TestSizeLimitIsOfTheCompressedBatch(t *testing.T) {
	p := newPart(t, &TopicConfig{MaxMessageBytes: 1000, Compression: CompressionZstd})
	_, err := p.Append(ctx, Record{Value: make([]byte, 100_000)})
	require.NoError(t, err)
	noise := make([]byte, 2000)
	for i, x := 0, uint64(1); i < len(noise); i++ {
		x = x*6364136223846793005 + 1442695040888963407
		noise[i] = byte(x >> 56)
	}
	_, err = p.Append(ctx, Record{Value: noise})
	require.ErrorIs(t, err, ErrRecordTooLarge)
}

// TestReadRanges shows where loops begin and end: named places, Until, offsets
// inside batches, and the bounds beyond which there is an error.
func TestReadRanges(t *testing.T) {
	p := newPart(t, async)
	for i := 0; i < 100; i += 5 {
		var recs []Record
		for j := range 5 {
			recs = append(recs, Record{Value: fmt.Appendf(nil, "v%d", i+j)})
		}
		_, err := p.Append(ctx, recs...)
		require.NoError(t, err)
	}
	read := func(from, until Offset) []string {
		var got []string
		for v, err := range p.Views(ctx, from, &ReadOptions{Until: until}) {
			require.NoError(t, err)
			got = append(got, string(v.Value()))
		}
		return got
	}
	for from := range Offset(101) {
		require.Equal(t, wantValues(int(from), 100), read(from, 0))
	}
	require.Equal(t, wantValues(0, 100), read(Earliest, Latest))
	require.Empty(t, read(Latest, 0))
	require.Equal(t, wantValues(13, 27), read(13, 27))
	require.Equal(t, wantValues(90, 100), read(90, 1000), "Until beyond the end is the end")
	require.Empty(t, read(50, 50))
	require.Empty(t, read(50, 10))

	for _, from := range []Offset{101, math.MaxInt64, -3, NoOffset} {
		n := 0
		for r, err := range p.Records(ctx, from, nil) {
			n++
			var oe *OffsetError
			require.ErrorAs(t, err, &oe)
			require.ErrorIs(t, err, ErrOffsetOutOfRange)
			require.Equal(t, OffsetError{Offset: from, Start: 0, End: 100}, *oe)
			require.Equal(t, Record{}, r)
		}
		require.Equal(t, 1, n, "an error comes once")
	}
	for _, err := range p.Records(ctx, 0, &ReadOptions{Until: Earliest}) {
		require.ErrorIs(t, err, ErrInvalidOptions)
	}
}

// TestIteratorsBeginAnew runs the same iterator twice, with more records there
// the second time, and leaves loops early.
func TestIteratorsBeginAnew(t *testing.T) {
	p := newPart(t, async)
	appendValues(t, p, 0, 5)
	seq := p.Records(ctx, Earliest, nil)
	count := func() (n int) {
		for range seq {
			n++
		}
		return n
	}
	require.Equal(t, 5, count())
	appendValues(t, p, 5, 7)
	require.Equal(t, 7, count())
	for range seq {
		break
	}
	n := 0
	for range seq {
		appendValues(t, p, 7+n, 8+n) // a loop ends where the end was as it began
		n++
	}
	require.Equal(t, 7, n)
}

// TestReadOfNothingHonoursContext shows that a loop at the end, with nothing to
// read, still says that ctx has ended or the log is closed; and that the zero
// View that comes with an error can be looked at.
func TestReadOfNothingHonoursContext(t *testing.T) {
	fsys, dir := testDir(t)
	l, err := open(fsys, dir, nil)
	require.NoError(t, err)
	p := partOf(t, l, "topic", nil)
	ended, cancel := context.WithCancel(ctx)
	cancel()
	loop := func(c context.Context, want error) {
		n := 0
		for v, err := range p.Views(c, Earliest, nil) {
			require.ErrorIs(t, err, want)
			require.Nil(t, v.Key())
			require.Zero(t, v.Clone())
			n++
		}
		require.Equal(t, 1, n)
	}
	loop(ended, context.Canceled)
	require.NoError(t, l.Close())
	loop(ctx, ErrClosed)
}

// TestReadEndsWithContext ends ctx inside a loop.
func TestReadEndsWithContext(t *testing.T) {
	p := newPart(t, async)
	appendValues(t, p, 0, 10)
	c, cancel := context.WithCancel(ctx)
	defer cancel()
	n := 0
	for _, err := range p.Views(c, Earliest, nil) {
		if n++; n == 3 {
			cancel()
		}
		if n == 4 {
			require.ErrorIs(t, err, context.Canceled)
		} else {
			require.NoError(t, err)
		}
	}
	require.Equal(t, 4, n)
}

// TestPanicInALoopBodyIsTheCallers shows that a panic of a loop body passes
// through, and that the partition can be used as before.
func TestPanicInALoopBodyIsTheCallers(t *testing.T) {
	p := newPart(t, async)
	appendValues(t, p, 0, 10)
	require.PanicsWithValue(t, "mine", func() {
		for range p.Records(ctx, Earliest, nil) {
			panic("mine")
		}
	})
	require.Equal(t, wantValues(0, 10), readValues(t, p, Earliest))
}

// TestBatchesOfAnySize appends batches around the sizes of the reader's windows
// and shows that all can be read from any offset.
func TestBatchesOfAnySize(t *testing.T) {
	p := newPart(t, &TopicConfig{Flush: FlushAsync, MaxMessageBytes: 8 << 20})
	sizes := []int{0, 1, minWindow - 100, minWindow, minWindow + 1, maxWindow - 61, maxWindow, 3*maxWindow + 5, 10, 10}
	for i, size := range sizes {
		_, err := p.Append(ctx, Record{Value: bytes.Repeat([]byte{byte(i)}, size)})
		require.NoError(t, err)
	}
	for from := range sizes {
		i := from
		for r, err := range p.Records(ctx, Offset(from), nil) {
			require.NoError(t, err)
			require.Len(t, r.Value, sizes[i])
			require.Equal(t, bytes.Repeat([]byte{byte(i)}, sizes[i]), r.Value)
			i++
		}
		require.Equal(t, len(sizes), i)
	}
}

// TestWindowEndsAtItsLimit shows that bytes behind the limit are not returned,
// also if they have been read: a truncation may have lowered it.
func TestWindowEndsAtItsLimit(t *testing.T) {
	var e encoder
	b, err := e.encode([]Record{{Value: []byte("value")}}, &TopicConfig{SegmentBytes: 1 << 20, MaxMessageBytes: 1 << 20}, 0)
	require.NoError(t, err)
	n := int64(len(b))
	var w window
	w.reset(bytes.NewReader(bytes.Repeat(b, 3)), 3*n)
	for _, limit := range []int64{3 * n, 2*n + 1, 2 * n} {
		w.limit = limit
		for pos := int64(0); pos+n <= limit; pos += n {
			got, err := w.batch(pos)
			require.NoError(t, err)
			require.Equal(t, b, got)
		}
		if rest := limit % n; rest != 0 {
			_, err := w.batch(limit - rest)
			require.ErrorIs(t, err, batch.ErrTruncated)
		}
	}
	_, err = w.batch(2 * n)
	require.ErrorIs(t, err, io.EOF)
}

// TestEncoderClock shows that an encoder's clock says what the system's says, and
// follows within a millisecond when that is set.
func TestEncoderClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e encoder
		for i := range 2000 {
			require.Equal(t, time.Now().UnixMilli(), e.now())
			time.Sleep(time.Duration(i) * 997 * time.Nanosecond)
		}
		before := e.now()
		e.wall += int64(time.Hour) // it was an hour later when the clock was read, and was set back since
		require.Equal(t, before+time.Hour.Milliseconds(), e.now())
		time.Sleep(time.Millisecond)
		require.Equal(t, time.Now().UnixMilli(), e.now())
	})
}

// TestPartitionAgainstAModel runs random appends, reads and reopens against a
// slice of values.
func TestPartitionAgainstAModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		fsys, dir := testDir(t)
		if *fsFlag == "os" {
			dir = t.TempDir()
		}
		cfg := &TopicConfig{
			Flush:       rapid.SampledFrom([]FlushPolicy{FlushBeforeAck, FlushAsync}).Draw(rt, "flush"),
			Compression: Compression(rapid.IntRange(int(CompressionProducer), int(CompressionZstd)).Draw(rt, "compression")),
			// From a batch or two a file to all in one.
			SegmentBytes: rapid.SampledFrom([]int64{0, 5 << 10, 20 << 10}).Draw(rt, "segment"),
		}
		var l *Log
		var p *Partition
		reopen := func(*rapid.T) {
			if l != nil {
				require.NoError(rt, l.Close())
			}
			var err error
			l, err = open(fsys, dir, nil)
			require.NoError(rt, err)
			p = partOf(t, l, "topic", cfg)
		}
		reopen(rt)
		var model []string
		rt.Repeat(map[string]func(*rapid.T){
			"append": func(rt *rapid.T) {
				var recs []Record
				at := len(model)
				for range rapid.IntRange(1, 20).Draw(rt, "records") {
					v := rapid.StringN(0, 200, -1).Draw(rt, "value")
					recs, model = append(recs, Record{Value: []byte(v)}), append(model, v)
				}
				got, err := p.Append(ctx, recs...)
				require.NoError(rt, err)
				require.Equal(rt, Offset(at), got)
			},
			"read": func(rt *rapid.T) {
				from := rapid.IntRange(0, len(model)).Draw(rt, "from")
				require.Equal(rt, append([]string(nil), model[from:]...), readValues(t, p, Offset(from)))
			},
			"reopen": reopen,
			"":       func(rt *rapid.T) { require.Equal(rt, Offset(len(model)), p.Bounds().HighWatermark) },
		})
		require.NoError(rt, l.Close())
	})
}

// TestAllocations shows that appending one record under FlushAsync and reading
// views allocate nothing, and that records cost an allocation for many.
func TestAllocations(t *testing.T) {
	if invariants.Enabled {
		return // the checks allocate
	}
	l := openQuiet(t)
	p := partOf(t, l, "topic", quiet)
	recs := make([]Record, 1000)
	for i := range recs {
		recs[i].Value = make([]byte, 100)
	}
	_, err := p.Append(ctx, recs...)
	require.NoError(t, err)

	one := recs[:1]
	require.Less(t, testing.AllocsPerRun(1000, func() { _, err = p.Append(ctx, one...) }), 0.2,
		"an index entry now and then")
	require.NoError(t, err)

	read := func() {
		n := 0
		for range p.Views(ctx, 0, &ReadOptions{Until: 1000}) {
			n++
		}
		if n != 1000 {
			t.Errorf("%d records", n)
		}
	}
	require.LessOrEqual(t, testing.AllocsPerRun(100, read), 8.0, "a few a loop, none a record")
	own := func() {
		for range p.Records(ctx, 0, &ReadOptions{Until: 1000}) {
			continue
		}
	}
	require.LessOrEqual(t, testing.AllocsPerRun(100, own), 12.0, "two chunks of 64 KiB and a few a loop")
	p = partOf(t, l, "other", quiet)
	for range 1000 {
		_, err := p.Append(ctx, one...)
		require.NoError(t, err)
	}
	require.LessOrEqual(t, testing.AllocsPerRun(100, read), 8.0, "none a batch")
}
