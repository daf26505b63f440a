package batch

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/rifflelog/riffle/internal/compress"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestBatchLayout compares a batch with bytes worked out by hand from Kafka's
// description of the format, field by field.
func TestBatchLayout(t *testing.T) {
	b := encode(t, compress.None, Producer{ID: 0x0102030405060708, Epoch: 9, Sequence: 10, Transactional: true},
		rec{Timestamp: 1000, Key: []byte("k"), Value: []byte("vv"), Headers: []header{{"h", []byte("x")}, {"n", nil}}},
		rec{Timestamp: 1064, Key: nil, Value: []byte{}},
	)
	b.SetBaseOffset(42)
	b.SetLeaderEpoch(7)
	want := strings.Join([]string{
		"000000000000002a", // base offset
		"0000004a",         // length: 74 bytes after this field
		"00000007",         // leader epoch
		"02",               // magic
		"CCCCCCCC",         // CRC-32C of what follows
		"0010",             // attributes: transactional
		"00000001",         // last offset delta
		"00000000000003e8", // base timestamp
		"0000000000000428", // max timestamp
		"0102030405060708", // producer id
		"0009",             // producer epoch
		"0000000a",         // base sequence
		"00000002",         // records
		// length 16, attributes, time +0, offset +0, key 1, value 2, 2 headers
		"20" + "00" + "00" + "00" + "026b" + "047676" + "04" + "02680278" + "026e01",
		// length 7: time +64 takes two bytes; a null key is -1, an empty value 0
		"0e" + "00" + "8001" + "02" + "01" + "00" + "00",
	}, "")
	got := hex.EncodeToString(b)
	got = got[:2*posCRC] + "CCCCCCCC" + got[2*posAttributes:]
	require.Equal(t, want, got)
	require.NoError(t, b.Check())
}

// TestBatchAccessorsReadTheHeader sets every field of a header to a value of
// its own and reads each back.
func TestBatchAccessorsReadTheHeader(t *testing.T) {
	b := encode(t, compress.Snappy, Producer{ID: 11, Epoch: 12, Sequence: 13}, values(3, nil)...)
	b.SetBaseOffset(100)
	b.SetLeaderEpoch(5)
	require.NoError(t, b.Check())
	require.EqualValues(t, 100, b.BaseOffset())
	require.EqualValues(t, 102, b.LastOffset())
	require.EqualValues(t, 103, b.NextOffset())
	require.EqualValues(t, 2, b.LastOffsetDelta())
	require.EqualValues(t, 5, b.LeaderEpoch())
	require.EqualValues(t, 11, b.ProducerID())
	require.EqualValues(t, 12, b.ProducerEpoch())
	require.EqualValues(t, 13, b.BaseSequence())
	require.EqualValues(t, 3, b.Count())
	require.Equal(t, int64(1_700_000_000_000), b.BaseTimestamp())
	require.Equal(t, int64(1_700_000_000_002), b.MaxTimestamp())
	require.Equal(t, compress.Snappy, b.Codec())
	require.Equal(t, CreateTime, b.TimestampType())
	require.False(t, b.Transactional())
	require.False(t, b.Control())
	_, ok := b.DeleteHorizon()
	require.False(t, ok)

	binary.BigEndian.PutUint16(b[posAttributes:], b.attributes()|attrDeleteHorizon)
	ms, ok := b.DeleteHorizon()
	require.True(t, ok)
	require.Equal(t, int64(1_700_000_000_000), ms)
}

// TestLeaderFieldsAreOutsideTheCRC shows behaviour 2: a log assigns offset and
// leader epoch, and the client's checksum stays valid; what the checksum covers
// needs a new one.
func TestLeaderFieldsAreOutsideTheCRC(t *testing.T) {
	b := encode(t, compress.None, NoProducer, values(10, nil)...)
	crc := b.CRC()
	b.SetBaseOffset(math.MaxInt64 - 100)
	b.SetLeaderEpoch(math.MaxInt32)
	require.NoError(t, b.Check())
	require.Equal(t, crc, b.CRC())

	b.SetLogAppendTime(99)
	require.NotEqual(t, crc, b.CRC())
	require.NoError(t, b.Check())

	binary.BigEndian.PutUint64(b[posMaxTimestamp:], 100)
	require.ErrorIs(t, b.Check(), ErrCorrupt)
}

// TestEveryFlippedBitIsFound flips each bit that the CRC covers, and shows that
// none passes.
func TestEveryFlippedBitIsFound(t *testing.T) {
	b := encode(t, compress.None, NoProducer, values(3, []byte("key"))...)
	for i := posCRC; i < len(b); i++ {
		for bit := range 8 {
			b[i] ^= 1 << bit
			require.ErrorIs(t, b.Check(), ErrCorrupt, "byte %d bit %d", i, bit)
			b[i] ^= 1 << bit
		}
	}
	require.NoError(t, b.Check())
}

// TestSplitFindsBatchEnds cuts two batches at every byte: whole batches are
// found, the rest is ErrTruncated, and zeros are never a batch.
func TestSplitFindsBatchEnds(t *testing.T) {
	one := encode(t, compress.None, NoProducer, values(2, nil)...)
	two := encode(t, compress.LZ4, NoProducer, values(5, nil)...)
	set := append(append([]byte{}, one...), two...)
	for n := range len(set) + 1 {
		b, rest, err := Split(set[:n])
		if n < len(one) {
			require.ErrorIs(t, err, ErrTruncated, "%d bytes", n)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, one, b)
		_, rest, err = Split(rest)
		if n < len(set) {
			require.ErrorIs(t, err, ErrTruncated, "%d bytes", n)
		} else {
			require.NoError(t, err)
			require.Empty(t, rest)
		}
	}

	_, _, err := Split(make([]byte, 4096))
	require.ErrorIs(t, err, ErrCorrupt)
	for _, length := range []int32{-1, math.MinInt32, 0, 48, MaxSize} {
		bad := append([]byte{}, one...)
		binary.BigEndian.PutUint32(bad[posLength:], uint32(length))
		_, _, err := Split(bad)
		require.ErrorIs(t, err, ErrCorrupt, "length %d", length)
	}
	for _, magic := range []byte{0, 1, 3, 255} {
		bad := append([]byte{}, one...)
		bad[posMagic] = magic
		_, _, err := Split(bad)
		require.ErrorIs(t, err, ErrCorrupt, "magic %d", magic)
	}
}

// TestCheckRefusesImpossibleHeaders gives each field that later code relies on
// a value that cannot be, under a valid CRC.
func TestCheckRefusesImpossibleHeaders(t *testing.T) {
	for name, spoil := range map[string]func(Batch){
		"negative base offset":         func(b Batch) { b.SetBaseOffset(-1) },
		"offsets past the last":        func(b Batch) { b.SetBaseOffset(math.MaxInt64 - 1) },
		"negative last offset delta":   func(b Batch) { binary.BigEndian.PutUint32(b[posLastOffsetDelta:], 1<<31) },
		"more records than offsets":    func(b Batch) { binary.BigEndian.PutUint32(b[posCount:], 4) },
		"a negative number of records": func(b Batch) { binary.BigEndian.PutUint32(b[posCount:], math.MaxUint32) },
		"an unknown codec":             func(b Batch) { binary.BigEndian.PutUint16(b[posAttributes:], 5) },
	} {
		b := encode(t, compress.None, NoProducer, values(3, nil)...)
		spoil(b)
		b.putCRC()
		require.ErrorIs(t, b.Check(), ErrCorrupt, name)
	}
	require.ErrorIs(t, Batch(make([]byte, HeaderSize-1)).Check(), ErrTruncated)
}

// TestReadRefusesMalformedRecords damages records under a valid CRC, as a
// faulty client would send them.
func TestReadRefusesMalformedRecords(t *testing.T) {
	fresh := func() Batch {
		return encode(t, compress.None, NoProducer,
			rec{Key: []byte("key"), Value: []byte("value"), Headers: []header{{"h", []byte("v")}}},
			rec{Key: []byte("key"), Value: []byte("value")})
	}
	// The first record: length, attributes, time, offset, key length at +4.
	const first = HeaderSize
	for name, spoil := range map[string]func(Batch) Batch{
		"record length too long":     func(b Batch) Batch { b[first] = 0x7e; return b },
		"record length negative":     func(b Batch) Batch { b[first] = 1; return b },
		"record length short":        func(b Batch) Batch { b[first] -= 2; return b },
		"offset delta repeated":      func(b Batch) Batch { b[first+3] = 2; return b },
		"offset delta too large":     func(b Batch) Batch { b[first+3] = 4; return b },
		"key length below -1":        func(b Batch) Batch { b[first+4] = 3; return b },
		"key length too long":        func(b Batch) Batch { b[first+4] = 0x7e; return b },
		"null header key":            func(b Batch) Batch { b[first+4+1+3+1+5+1] = 1; return b },
		"header count too large":     func(b Batch) Batch { b[first+4+1+3+1+5] = 4; return b },
		"header count negative":      func(b Batch) Batch { b[first+4+1+3+1+5] = 1; return b },
		"fewer records than counted": func(b Batch) Batch { return b[:first+int(b[first]/2)+1] },
		"bytes after the last":       func(b Batch) Batch { return append(b, 0) },
		"count without bytes":        func(b Batch) Batch { return b[:first] },
	} {
		b := spoil(fresh())
		binary.BigEndian.PutUint32(b[posLength:], uint32(len(b)-PrefixSize))
		b.putCRC()
		_, err := decode(b)
		require.ErrorIs(t, err, ErrCorrupt, name)
	}
}

// TestReadOfCompactedBatch reads a batch whose first, middle and last records
// compaction took: offsets keep their gaps, and an empty batch is legal.
func TestReadOfCompactedBatch(t *testing.T) {
	b := encode(t, compress.None, NoProducer, values(2, nil)...)
	b.SetBaseOffset(1000)
	binary.BigEndian.PutUint32(b[posLastOffsetDelta:], 60)
	b[HeaderSize+3] = 10                        // offset delta 5
	b[HeaderSize+int(b[HeaderSize])/2+1+3] = 80 // offset delta 40
	b.putCRC()
	got, err := decode(b)
	require.NoError(t, err)
	require.EqualValues(t, 1005, got[0].Offset)
	require.EqualValues(t, 1040, got[1].Offset)
	require.EqualValues(t, 1061, b.NextOffset())

	empty := b[:HeaderSize]
	binary.BigEndian.PutUint32(empty[posLength:], HeaderSize-PrefixSize)
	binary.BigEndian.PutUint32(empty[posCount:], 0)
	empty.putCRC()
	got, err = decode(empty)
	require.NoError(t, err)
	require.Empty(t, got)
}

// TestInflationIsLimited shows that a batch which inflates beyond the limit is
// an error, and one that just reaches it is not.
func TestInflationIsLimited(t *testing.T) {
	for _, codec := range codecs[1:] {
		b := encode(t, codec, NoProducer, rec{Value: make([]byte, 100_000)})
		var r Reader
		require.NoError(t, r.Reset(b, MaxInflated))
		size := r.Remaining()
		require.NoError(t, r.Reset(b, size))
		require.True(t, r.Next())

		err := r.Reset(b, size-1)
		require.ErrorIs(t, err, ErrCorrupt, codec)
		require.ErrorIs(t, err, compress.ErrTooLarge, codec)
		require.False(t, r.Next())
		require.Equal(t, err, r.Err())
	}
}

// TestRoundTrip shows that any records come back as they went in, under every
// codec, with null and empty kept apart and offsets counted from the base.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		recs := rapid.SliceOfN(genRecord(), 1, 20).Draw(t, "records")
		codec := rapid.SampledFrom(codecs).Draw(t, "codec")
		base := rapid.Int64Range(0, math.MaxInt64-20).Draw(t, "base")
		b := encode(t, codec, NoProducer, recs...)
		b.SetBaseOffset(base)
		got, err := decode(b)
		require.NoError(t, err)
		for i := range recs {
			recs[i].Offset = base + int64(i)
		}
		require.Equal(t, recs, got)
	})
}

// TestBuilderAppendsToTheCallersBuffer shows that what stood in the buffer
// stays, and that several batches may be built one after the other.
func TestBuilderAppendsToTheCallersBuffer(t *testing.T) {
	var b Builder
	buf := []byte("before")
	for i, codec := range codecs {
		b.Begin(buf, codec, codec.DefaultLevel())
		require.NoError(t, Add(&b, int64(i), nil, []byte("value"), []header(nil)))
		require.Equal(t, 1, b.Count())
		var err error
		buf, err = b.Finish(NoProducer)
		require.NoError(t, err)
	}
	require.Equal(t, "before", string(buf[:6]))
	rest := buf[6:]
	for i := range codecs {
		var one Batch
		var err error
		one, rest, err = Split(rest)
		require.NoError(t, err)
		recs, err := decode(one)
		require.NoError(t, err)
		require.Equal(t, []rec{{Timestamp: int64(i), Value: []byte("value")}}, recs)
	}
	require.Empty(t, rest)

	b.Begin(buf, compress.None, 0)
	out, err := b.Finish(NoProducer)
	require.ErrorIs(t, err, ErrInvalid)
	require.Len(t, out, len(buf), "an error gives the buffer back as it was")
}

// TestBuilderRefusesWhatDoesNotFit adds a record that would pass MaxSize: it is
// refused before any of its bytes are copied, and the batch goes on without it.
func TestBuilderRefusesWhatDoesNotFit(t *testing.T) {
	huge := make([]byte, MaxInflated) // never touched: no memory stands behind it
	var b Builder
	b.Begin(nil, compress.None, 0)
	require.NoError(t, Add(&b, 1, nil, []byte("a"), []header(nil)))
	require.ErrorIs(t, Add(&b, 1, huge, nil, []header(nil)), ErrTooLarge)
	require.ErrorIs(t, Add(&b, 1, nil, huge, []header(nil)), ErrTooLarge)
	require.ErrorIs(t, Add(&b, 1, nil, nil, []header{{"", huge}, {"", huge}}), ErrTooLarge)
	require.ErrorIs(t, Add(&b, 1, nil, nil, make([]header, MaxHeaders+1)), ErrInvalid)
	require.NoError(t, Add(&b, 1, nil, nil, make([]header, MaxHeaders)))
	size := b.Len()
	b.Limit(size + 7)
	require.ErrorIs(t, Add(&b, 1, nil, []byte("a"), []header(nil)), ErrTooLarge)
	require.Equal(t, size, b.Len())
	require.NoError(t, Add(&b, 1, nil, nil, []header(nil)), "just fits")
	out, err := b.Finish(NoProducer)
	require.NoError(t, err)
	recs, err := decode(out)
	require.NoError(t, err)
	require.Len(t, recs, 3)
	require.Len(t, recs[1].Headers, MaxHeaders)
}

// TestGoldenBatches reads batches that an earlier version wrote, one a codec:
// old bytes stay readable. Without compression the bytes are also written as
// they were; a codec's library may change what it writes.
func TestGoldenBatches(t *testing.T) {
	recs := []rec{
		{Timestamp: 1_700_000_000_000, Key: []byte("key"), Value: []byte("value")},
		{Timestamp: 1_700_000_000_500, Key: nil, Value: []byte("no key"), Headers: []header{{"trace", []byte{1, 2, 3}}, {"", nil}}},
		{Timestamp: 1_699_999_999_999, Key: []byte{}, Value: nil},
		{Timestamp: 1_700_000_000_001, Key: []byte("long"), Value: []byte(strings.Repeat("riffle ", 100))},
	}
	for _, codec := range codecs {
		b := encode(t, codec, Producer{ID: 4711, Epoch: 3, Sequence: 100}, recs...)
		b.SetBaseOffset(5_000_000_000)
		b.SetLeaderEpoch(17)
		name := filepath.Join("testdata", fmt.Sprintf("v2-%s.batch", codec))
		if *update {
			require.NoError(t, os.MkdirAll("testdata", 0o755))
			require.NoError(t, os.WriteFile(name, b, 0o644))
		}
		golden, err := os.ReadFile(name)
		require.NoError(t, err)
		if codec == compress.None {
			require.Equal(t, golden, []byte(b))
		}
		got, err := decode(golden)
		require.NoError(t, err, name)
		for i, want := range recs {
			want.Offset = 5_000_000_000 + int64(i)
			require.Equal(t, want, got[i], name)
		}
		require.Len(t, got, len(recs))
	}
}

// TestMarkers writes both markers and reads them back, and refuses what is no
// marker.
func TestMarkers(t *testing.T) {
	var b Builder
	for _, m := range []Marker{{Commit: true, CoordinatorEpoch: 5}, {Commit: false, CoordinatorEpoch: math.MaxInt32}} {
		out, err := b.AppendMarker(nil, 123, Producer{ID: 1, Epoch: 2, Sequence: 3}, m)
		require.NoError(t, err)
		h := Batch(out)
		require.True(t, h.Control())
		require.True(t, h.Transactional())
		require.Equal(t, NoSequence, h.BaseSequence())
		recs, err := decode(h)
		require.NoError(t, err)
		require.Len(t, recs, 1)
		got, err := ParseMarker(recs[0].Key, recs[0].Value)
		require.NoError(t, err)
		require.Equal(t, m, got)
	}
	out, err := b.AppendMarker(nil, 0, Producer{ID: 1}, Marker{Commit: true, CoordinatorEpoch: 0x01020304})
	require.NoError(t, err)
	// key: version 0, type 1 (commit); value: version 0, epoch
	require.Equal(t, "08"+"00000001"+"0c"+"000001020304", hex.EncodeToString(out[HeaderSize+4:len(out)-1]))

	for _, key := range [][]byte{nil, {0, 0, 0}, {0x80, 0, 0, 1}} {
		_, err := ParseMarker(key, make([]byte, 6))
		require.ErrorIs(t, err, ErrCorrupt)
	}
	_, err = ParseMarker([]byte{0, 0, 0, 1}, make([]byte, 5))
	require.ErrorIs(t, err, ErrCorrupt)
	_, err = ParseMarker([]byte{0, 0, 0, 2}, make([]byte, 6))
	require.ErrorIs(t, err, ErrInvalid)
	typ, err := ParseControl([]byte{0, 0, 0, 2})
	require.NoError(t, err)
	require.EqualValues(t, 2, typ)
}

// TestRecordsAreVarints compares records of any size with the plainest way to
// encode them: one field after the other, and the length when it is known.
func TestRecordsAreVarints(t *testing.T) {
	put := func(b []byte, n int64) []byte { return binary.AppendVarint(b, n) }
	str := func(b, p []byte) []byte {
		if p == nil {
			return put(b, -1)
		}
		return append(put(b, int64(len(p))), p...)
	}
	rapid.Check(t, func(t *rapid.T) {
		bytes := rapid.Custom(func(t *rapid.T) []byte {
			size := rapid.SampledFrom([]int{-1, 0, 1, 57, 63, 64, 8191, 8192}).Draw(t, "size")
			if size < 0 {
				return nil
			}
			return make([]byte, size)
		})
		var recs []rec
		var want []byte
		for i := range rapid.SampledFrom([]int{1, 2, 66}).Draw(t, "records") {
			r := rec{Timestamp: rapid.Int64Range(0, 1<<50).Draw(t, "time"), Key: bytes.Draw(t, "key"), Value: bytes.Draw(t, "value")}
			for range rapid.SampledFrom([]int{0, 0, 0, 1, 2, 64}).Draw(t, "headers") {
				r.Headers = append(r.Headers, header{string(bytes.Draw(t, "name")), bytes.Draw(t, "header")})
			}
			recs = append(recs, r)
			body := put(put([]byte{0}, r.Timestamp-recs[0].Timestamp), int64(i))
			body = put(str(str(body, r.Key), r.Value), int64(len(r.Headers)))
			for _, h := range r.Headers {
				body = str(str(body, []byte(h.Key)), h.Value)
			}
			want = append(put(want, int64(len(body))), body...)
		}
		require.True(t, string(want) == string(encode(t, compress.None, NoProducer, recs...)[HeaderSize:]))
	})
}

// TestVarints compares with encoding/binary over the edges of every length, and
// refuses what is longer than the field.
func TestVarints(t *testing.T) {
	for shift := range 64 {
		for _, v := range []int64{1 << shift, 1<<shift - 1, -1 << shift, -1<<shift - 1} {
			var b [maxVarint64]byte
			n := putVarint(b[:], 0, v)
			require.Equal(t, binary.AppendVarint(nil, v), b[:n])
			require.Equal(t, n, varintLen(v))
			got, m := varint(b[:n])
			require.Equal(t, v, got)
			require.Equal(t, n, m)
			_, m = varint(b[:n-1])
			require.Zero(t, m, "cut short")
			got, m = varint32(b[:n])
			if v == int64(int32(v)) {
				require.Equal(t, v, got)
			} else {
				require.Zero(t, m)
			}
		}
	}
	for _, long := range []string{"80808080808080808002", "8080808080808080808000", "ffffffffffffffffffff01"} {
		b, err := hex.DecodeString(long)
		require.NoError(t, err)
		_, n := varint(b)
		require.Zero(t, n, long)
	}
	_, n := varint32([]byte{0x80, 0x80, 0x80, 0x80, 0x80, 0})
	require.Zero(t, n, "six bytes, though the value is small")
}

// TestReaderReusesItsMemory shows that encoding, checking and iterating
// allocate nothing once the buffers are there.
func TestReaderReusesItsMemory(t *testing.T) {
	recs := values(100, []byte("key"))
	var b Builder
	var r Reader
	var buf []byte
	for _, codec := range []compress.Codec{compress.None, compress.Snappy, compress.Zstd} {
		if raceEnabled && codec == compress.Zstd {
			continue // every fourth coder is allocated anew
		}
		var failed error
		run := func() {
			b.Begin(buf[:0], codec, codec.DefaultLevel())
			for i := range recs {
				failed = errors.Join(failed, Add(&b, recs[i].Timestamp, recs[i].Key, recs[i].Value, recs[i].Headers))
			}
			var err error
			buf, err = b.Finish(NoProducer)
			failed = errors.Join(failed, err, Batch(buf).Check(), r.Reset(buf, MaxInflated))
			n := 0
			for r.Next() {
				n++
			}
			if n != len(recs) {
				failed = errors.Join(failed, r.Err())
			}
		}
		run()
		require.Zero(t, testing.AllocsPerRun(100, run), codec)
		require.NoError(t, failed)
	}
}

// TestIndexPlausible finds what a search byte by byte finds, in bytes that often
// look like a header.
func TestIndexPlausible(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 0, 0, 0, 0, 1, 2}), 0, 400).Draw(t, "bytes")
		want := 0
		for want+HeaderSize <= len(b) && !Plausible(b[want:]) {
			want++
		}
		require.Equal(t, want, IndexPlausible(b))
	})
}

// TestKeysAreThoseOfTheRecords reads random batches by their keys alone: offsets
// and keys are those that Next reads, nil and empty keys told apart. The two may
// take turns.
func TestKeysAreThoseOfTheRecords(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOfN(genRecord(), 1, 20).Draw(t, "records")
		b := encode(t, rapid.SampledFrom(codecs).Draw(t, "codec"), NoProducer, want...)
		turns := rapid.Uint32().Draw(t, "turns")
		var r Reader
		require.NoError(t, r.Reset(b, MaxInflated))
		for i := range want {
			if turns>>i&1 == 1 {
				require.True(t, r.Next())
				require.Equal(t, want[i].Value, cloneBytes(r.Record.Value))
			} else {
				require.True(t, r.NextKey())
			}
			require.EqualValues(t, i, r.Record.Offset)
			require.Equal(t, want[i].Key, cloneBytes(r.Record.Key))
		}
		require.False(t, r.NextKey())
		require.False(t, r.NextKey())
		require.NoError(t, r.Err())
	})
}

// TestKeysOfAMalformedRecord cuts records in their lengths, deltas and keys: each
// is found out. What is behind the key is passed over unseen.
func TestKeysOfAMalformedRecord(t *testing.T) {
	whole := encode(t, compress.None, NoProducer, rec{Key: []byte("key"), Value: []byte("value")})
	for name, c := range map[string]struct {
		pos int
		val byte
		ok  bool
	}{
		"record too long":  {HeaderSize, 0x7e, false},
		"record too short": {HeaderSize, 4, false},
		"time delta":       {HeaderSize + 2, 0xff, false},
		"offset delta":     {HeaderSize + 3, 2, false},
		"key too long":     {HeaderSize + 4, 0x7e, false},
		"key's length":     {HeaderSize + 4, 3, false},
		"value too long":   {HeaderSize + 8, 0x7e, true},
	} {
		b := Batch(bytes.Clone(whole))
		b[c.pos] = c.val
		var r Reader
		require.NoError(t, r.Reset(b, MaxInflated))
		require.Equal(t, c.ok, r.NextKey(), name)
		require.False(t, r.NextKey(), name)
		if c.ok {
			require.NoError(t, r.Err(), name)
		} else {
			require.ErrorIs(t, r.Err(), ErrCorrupt, name)
		}
	}
}

// Of a batch that is cut short Claimed says as much as its records do: at least all
// that is there, but for a length that is cut itself. What its header says is no
// more than that.
func TestClaimedIsWhatHeaderAndRecordsSay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := encode(t, compress.None, NoProducer, rapid.SliceOfN(genRecord(), 1, 5).Draw(t, "records")...)
		require.Equal(t, len(b), Claimed(b))
		require.Equal(t, len(b), Claimed(append(bytes.Clone(b), b...)))
		cut := rapid.IntRange(HeaderSize, len(b)).Draw(t, "cut")
		claimed := Claimed(b[:cut])
		require.GreaterOrEqual(t, claimed, cut-maxVarint32+1)
		require.LessOrEqual(t, claimed, len(b))

		liar := append(bytes.Clone(b), encode(t, compress.None, NoProducer, values(3, nil)...)...)
		size := rapid.IntRange(HeaderSize, len(liar)).Draw(t, "size")
		binary.BigEndian.PutUint32(liar[posLength:], uint32(size-PrefixSize))
		require.LessOrEqual(t, Claimed(liar), min(size, len(b)))
	})
	b := encode(t, compress.None, NoProducer, values(3, nil)...)
	for cut := range HeaderSize {
		require.Zero(t, Claimed(b[:cut]))
	}
	require.Zero(t, Claimed(make([]byte, 100)))
	require.Zero(t, Claimed(encode(t, compress.Snappy, NoProducer, values(3, nil)...)))
}

// TestSmallRecordsAreReadAlike reads records that are well formed, or have a number that is
// wrong, too large or longer than it need be, or are cut anywhere, in the short way and in
// the plain one: what the short one takes, the other one takes alike.
func TestSmallRecordsAreReadAlike(t *testing.T) {
	taken := 0
	rapid.Check(t, func(t *rapid.T) {
		for range 30 {
			data := slices.Clip(drawSmallRecord(t))
			old := Record{Key: []byte("old"), Headers: Headers{n: 1, raw: []byte{2}}}
			short, plain := old, old
			ts, offset, size := parseSmall(data, &short)
			if size == 0 {
				require.Equal(t, old, short)
				continue
			}
			taken++
			wantTS, wantOffset, wantSize := parse(data, &plain)
			require.Equal(t, []int64{wantTS, wantOffset, int64(wantSize)}, []int64{ts, offset, int64(size)})
			require.Zero(t, plain.Headers.n)
			plain.Headers = Headers{}
			require.Equal(t, plain, short)
		}
	})
	require.Greater(t, taken, 100)
}

// drawSmallRecord returns an encoded record in which about one thing is wrong, or nothing,
// and perhaps some bytes behind it.
func drawSmallRecord(t *rapid.T) []byte {
	flaws := rapid.IntRange(0, 1).Draw(t, "flaws")
	number := func(b []byte, name string, u uint64) []byte {
		how := rapid.IntRange(0, 30).Draw(t, name)
		if how > 3 || flaws == 0 {
			return binary.AppendUvarint(b, u)
		}
		flaws--
		switch how {
		case 0:
			return binary.AppendUvarint(b, u^1) // of another sign
		case 1:
			return binary.AppendUvarint(b, u|smallNumber)
		case 2:
			return binary.AppendUvarint(b, u+rapid.SampledFrom([]uint64{2, 4, math.MaxUint64 - 1}).Draw(t, "by"))
		}
		b = binary.AppendUvarint(b, u)
		b[len(b)-1] |= 0x80
		return append(b, 0)
	}
	bytes := func(b []byte, name string) []byte {
		n := rapid.SampledFrom([]int{-1, 0, 1, 30, 63, 64, 100, 1000, smallNumber/2 - 20, smallNumber / 2}).Draw(t, name)
		return append(number(b, name, zigzag(int64(n))), make([]byte, max(n, 0))...)
	}
	deltas := rapid.SampledFrom([]uint64{0, 1, 2, 126, 128, 8192, smallNumber - 2, smallNumber - 1, smallNumber})
	body := number([]byte{0}, "time", deltas.Draw(t, "time"))
	body = number(body, "offset", deltas.Draw(t, "offset")&^1)
	body = bytes(body, "key")
	to := rapid.OneOf(rapid.IntRange(0, 12), rapid.IntRange(len(body), len(body)+2))
	body = number(bytes(body, "value"), "headers", 0)
	if rapid.IntRange(0, 3).Draw(t, "short") == 0 {
		body = body[:min(to.Draw(t, "to"), len(body))]
	}
	data := append(number(nil, "length", uint64(len(body))<<1), body...)
	if rapid.IntRange(0, 3).Draw(t, "cut") == 0 {
		return data[:rapid.IntRange(0, min(len(data), 12)).Draw(t, "at")]
	}
	return append(data, make([]byte, rapid.SampledFrom([]int{0, 0, 20}).Draw(t, "behind"))...)
}
