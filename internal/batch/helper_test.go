package batch

import (
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/rifflelog/riffle/internal/compress"
)

// header is a caller's own header type, as the root package has one.
type header struct {
	Key   string
	Value []byte
}

// rec is a record as a test writes and reads it.
type rec struct {
	Offset     int64
	Timestamp  int64
	Key, Value []byte
	Headers    []header
}

var codecs = []compress.Codec{compress.None, compress.Gzip, compress.Snappy, compress.LZ4, compress.Zstd}

// encode builds a batch of recs, whose offsets it ignores.
func encode(t require.TestingT, codec compress.Codec, p Producer, recs ...rec) Batch {
	var b Builder
	b.Begin(nil, codec, codec.DefaultLevel())
	for _, r := range recs {
		require.NoError(t, Add(&b, r.Timestamp, r.Key, r.Value, r.Headers))
	}
	out, err := b.Finish(p)
	require.NoError(t, err)
	return Batch(out)
}

// decode checks b and returns copies of its records.
func decode(b Batch) ([]rec, error) {
	if err := b.Check(); err != nil {
		return nil, err
	}
	var r Reader
	if err := r.Reset(b, MaxInflated); err != nil {
		return nil, err
	}
	var out []rec
	for r.Next() {
		out = append(out, clone(&r.Record))
	}
	return out, r.Err()
}

func clone(r *Record) rec {
	c := rec{Offset: r.Offset, Timestamp: r.Timestamp, Key: cloneBytes(r.Key), Value: cloneBytes(r.Value)}
	for k, v := range r.Headers.All() {
		c.Headers = append(c.Headers, header{Key: string(k), Value: cloneBytes(v)})
	}
	return c
}

// cloneBytes keeps nil nil and empty empty.
func cloneBytes(p []byte) []byte {
	if p == nil {
		return nil
	}
	return append([]byte{}, p...)
}

// values returns n records with the given key (nil for none).
func values(n int, key []byte) []rec {
	recs := make([]rec, n)
	for i := range recs {
		recs[i] = rec{Timestamp: 1_700_000_000_000 + int64(i), Key: key, Value: []byte{byte(i), byte(i >> 8)}}
	}
	return recs
}

// nullable draws nil, empty and other byte strings.
func nullable(max int) *rapid.Generator[[]byte] {
	return rapid.OneOf(
		rapid.Just[[]byte](nil),
		rapid.Just([]byte{}),
		rapid.SliceOfN(rapid.Byte(), 0, max),
	)
}

func genRecord() *rapid.Generator[rec] {
	return rapid.Custom(func(t *rapid.T) rec {
		r := rec{
			Timestamp: rapid.OneOf(rapid.Just(NoTimestamp), rapid.Int64(), rapid.Int64Range(1_600_000_000_000, 1_800_000_000_000)).Draw(t, "timestamp"),
			Key:       nullable(40).Draw(t, "key"),
			Value:     nullable(300).Draw(t, "value"),
		}
		for range rapid.SampledFrom([]int{0, 0, 0, 1, 3, 70}).Draw(t, "headers") {
			r.Headers = append(r.Headers, header{
				Key:   rapid.String().Draw(t, "header key"),
				Value: nullable(10).Draw(t, "header value"),
			})
		}
		return r
	})
}
