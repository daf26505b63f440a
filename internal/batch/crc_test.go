package batch

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/rifflelog/riffle/internal/compress"
)

// TestBuilderSumsWhatItBuilds builds batches of records of all sizes, with headers or
// without, one after the other in memory that was used before, beside builders that are
// never in a hurry: they encode each record in the plain way and sum the whole batch at
// the end.
func TestBuilderSumsWhatItBuilds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		codec := rapid.SampledFrom([]compress.Codec{compress.None, compress.None, compress.Snappy}).Draw(t, "codec")
		var fast Builder
		for range rapid.IntRange(1, 2).Draw(t, "batches") {
			prefix := make([]byte, rapid.IntRange(0, 3).Draw(t, "prefix"))
			room := bytes.Repeat([]byte{0xff}, rapid.SampledFrom([]int{0, 1000, 300 << 10}).Draw(t, "room"))
			limit := rapid.OneOf(rapid.IntRange(100, 20_000), rapid.Just(MaxSize)).Draw(t, "limit")
			var plain Builder
			fast.Begin(append(room[:0], prefix...), codec, 0)
			plain.Begin(bytes.Clone(prefix), codec, 0)
			fast.Limit(limit)
			plain.Limit(limit)
			addSome(t, &fast, &plain)
			require.Equal(t, plain.Count(), fast.Count())
			plain.summed = 0 // nothing
			want, wantErr := plain.Finish(NoProducer)
			got, err := fast.Finish(NoProducer)
			require.Equal(t, wantErr, err)
			require.True(t, bytes.Equal(want, got), "the same bytes")
			if err == nil {
				require.NoError(t, Batch(got[len(prefix):]).Check())
			}
		}
	})
}

// TestBuilderSumsManyRecords builds a batch of which the last offsets are not small.
func TestBuilderSumsManyRecords(t *testing.T) {
	var fast, plain Builder
	fast.Begin(nil, compress.None, 0)
	plain.Begin(nil, compress.None, 0)
	for range smallNumber/2 + 100 {
		require.NoError(t, Add[header](&fast, 1, nil, make([]byte, 100), nil))
		require.NoError(t, addPlain(&plain, 1, nil, make([]byte, 100), nil))
	}
	plain.summed = 0 // nothing
	want, err := plain.Finish(NoProducer)
	require.NoError(t, err)
	got, err := fast.Finish(NoProducer)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got), "the same bytes")
}

// TestBuilderKeepsItsLimit adds a record of which all numbers take two bytes, under each limit
// around its size.
func TestBuilderKeepsItsLimit(t *testing.T) {
	value := make([]byte, 64)
	for limit := 64 * (len(value) + 8); ; limit++ {
		var fast, plain Builder
		fast.Begin(make([]byte, 3, 20_000), compress.None, 0)
		plain.Begin(nil, compress.None, 0)
		for i := range 64 {
			require.NoError(t, Add[header](&fast, int64(i), nil, value, nil))
			require.NoError(t, addPlain(&plain, int64(i), nil, value, nil))
		}
		fast.Limit(limit)
		plain.Limit(limit)
		err := Add[header](&fast, 64, value, value, nil)
		require.Equal(t, addPlain(&plain, 64, value, value, nil), err, "limit %d", limit)
		if require.Equal(t, plain.Len(), fast.Len()); err == nil {
			require.Equal(t, limit, fast.Len())
			return
		}
	}
}

// addSome adds the same records to both builders, to one of them in the plain way.
func addSome(t *rapid.T, fast, plain *Builder) {
	sizes := []int{0, 1, 40, smallLeast - 1, smallLeast, 100, 1000, smallMost - 1, smallMost, smallMost + 1, 2 * smallMost}
	now := rapid.SampledFrom([]int64{0, 1_700_000_000_000}).Draw(t, "now")
	for range rapid.IntRange(1, 20).Draw(t, "records") {
		key := make([]byte, rapid.SampledFrom(sizes).Draw(t, "key"))
		value := bytes.Repeat([]byte("v"), rapid.SampledFrom(sizes).Draw(t, "value"))
		if rapid.Bool().Draw(t, "no key") {
			key = nil
		}
		if rapid.IntRange(0, 9).Draw(t, "no value") == 0 {
			value = nil
		}
		var headers []header
		if rapid.IntRange(0, 3).Draw(t, "headers") == 0 {
			headers = []header{{"h", make([]byte, rapid.SampledFrom(sizes).Draw(t, "header"))}}
		}
		now += rapid.SampledFrom([]int64{0, 1, -1, 63, 64, smallNumber / 2, -smallNumber, 1 << 40}).Draw(t, "time")
		times := rapid.SampledFrom([]int{1, 1, 1, 100}).Draw(t, "times")
		if len(key)+len(value) > 2000 {
			times = 1 // it is large enough
		}
		for range times {
			err, want := Add(fast, now, key, value, headers), addPlain(plain, now, key, value, headers)
			if err != nil || want != nil {
				require.Equal(t, want, err)
				break
			}
		}
	}
}

// addPlain is Add without its shorter way.
func addPlain(b *Builder, ts int64, key, value []byte, headers []header) error {
	size, err := headersSize(headers)
	if err != nil {
		return err
	}
	i, err := b.add(ts, key, value, size)
	if err != nil {
		return err
	}
	i = putVarint(b.buf, i, int64(len(headers)))
	for _, h := range headers {
		i = putVarint(b.buf, i, int64(len(h.Key)))
		i += copy(b.buf[i:], h.Key)
		i = putBytes(b.buf, i, h.Value)
	}
	return nil
}

// TestHeaderChangesKeepTheCRC changes what the CRC covers of the header, in batches small
// and large: it is what summing the whole batch gives.
func TestHeaderChangesKeepTheCRC(t *testing.T) {
	for _, n := range []int{1, 10, 1000, 20_000} {
		b := encode(t, compress.None, NoProducer, values(n, []byte("key"))...)
		b.SetProducer(Producer{ID: 7, Epoch: 3, Sequence: int32(n), Transactional: true})
		require.Equal(t, int64(7), b.ProducerID())
		require.NoError(t, b.Check())
		b.SetLogAppendTime(99)
		require.Equal(t, int64(99), b.MaxTimestamp())
		require.NoError(t, b.Check())

		// What was wrong before is not made right in a large one: nobody reads it.
		if b[len(b)-2] ^= 1; len(b) >= sumStep {
			b.SetProducer(NoProducer)
			require.ErrorIs(t, b.Check(), ErrCorrupt)
			require.NotZero(t, binary.BigEndian.Uint32(b[posCRC:]))
		}
	}
}
