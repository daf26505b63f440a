package interop

import (
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/rifflelog/riffle/internal/batch"
	"github.com/rifflelog/riffle/internal/compress"
)

// TestMain draws the same random batches in every run, unless -rapid.seed says
// otherwise, and fails if a goroutine outlives the tests.
func TestMain(m *testing.M) {
	if err := errors.Join(flag.Set("rapid.seed", "1"), flag.Set("rapid.checks", "300")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	goleak.VerifyTestMain(m)
}

// start is when the tests' records are from, in milliseconds.
const start int64 = 1_700_000_000_000

var codecs = []compress.Codec{compress.None, compress.Gzip, compress.Snappy, compress.LZ4, compress.Zstd}

// levels are the ends of every codec's range, and its default.
var levels = map[compress.Codec][]int{
	compress.None:   {0},
	compress.Gzip:   {-1, 1, 9},
	compress.Snappy: {0},
	compress.LZ4:    {9, 1, 17},
	compress.Zstd:   {3, -131072, 1, 7, 22},
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type header struct {
	Key   string
	Value []byte
}

// record is a record as a test writes it, or a copy of one that it has read.
type record struct {
	Offset     int64
	Timestamp  int64
	Key, Value []byte
	Headers    []header
}

// content is all that one of our batches says.
type content struct {
	Codec         compress.Codec
	Level         int
	Producer      batch.Producer
	BaseOffset    int64
	LeaderEpoch   int32
	LogAppendTime int64 // NoTimestamp for CreateTime
	Records       []record
	Marker        *batch.Marker // or a transaction's end, at the time of the only record
}

// plain is a batch of no producer, with offsets from 0, at the codec's default
// level.
func plain(codec compress.Codec, records ...record) content {
	return content{
		Codec: codec, Level: codec.DefaultLevel(), Producer: batch.NoProducer,
		LeaderEpoch: batch.NoLeaderEpoch, LogAppendTime: batch.NoTimestamp, Records: records,
	}
}

// encode writes c by our encoder.
func (c *content) encode(t require.TestingT) batch.Batch {
	var b batch.Builder
	var out []byte
	var err error
	if c.Marker != nil {
		p := c.Producer
		p.Sequence, p.Transactional = 7, false // a marker uses neither
		out, err = b.AppendMarker(nil, c.Records[0].Timestamp, p, *c.Marker)
	} else {
		b.Begin(nil, c.Codec, c.Level)
		for _, r := range c.Records {
			require.NoError(t, batch.Add(&b, r.Timestamp, r.Key, r.Value, r.Headers))
		}
		out, err = b.Finish(c.Producer)
	}
	require.NoError(t, err)
	encoded := batch.Batch(out)
	encoded.SetBaseOffset(c.BaseOffset)
	encoded.SetLeaderEpoch(c.LeaderEpoch)
	if c.LogAppendTime != batch.NoTimestamp {
		encoded.SetLogAppendTime(c.LogAppendTime)
	}
	return encoded
}

// want returns the records as a reader must see them: with offsets, and with the
// log's time where that counts.
func (c *content) want() []record {
	var out []record
	for i, r := range c.Records {
		r.Offset = c.BaseOffset + int64(i)
		if c.LogAppendTime != batch.NoTimestamp {
			r.Timestamp = c.LogAppendTime
		}
		out = append(out, r)
	}
	return out
}

// read checks b with our reader and returns copies of its records.
func read(t require.TestingT, b batch.Batch) []record {
	require.NoError(t, b.Check())
	var r batch.Reader
	require.NoError(t, r.Reset(b, batch.MaxInflated))
	var out []record
	for r.Next() {
		c := record{Offset: r.Record.Offset, Timestamp: r.Record.Timestamp, Key: clone(r.Record.Key), Value: clone(r.Record.Value)}
		for k, v := range r.Record.Headers.All() {
			c.Headers = append(c.Headers, header{string(k), clone(v)})
		}
		out = append(out, c)
	}
	require.NoError(t, r.Err())
	return out
}

// requireRecords compares every field. A big batch is compared record by record,
// so that a difference is a line and not the batch.
func requireRecords(t require.TestingT, want, got []record) {
	require.Equal(t, len(want), len(got), "number of records")
	for i := range want {
		requireEqual(t, want[i], got[i], "record", i)
	}
}

// requireEqual is require.Equal for a loop over many records: it looks at the
// stack only if they differ.
func requireEqual[T any](t require.TestingT, want, got T, what string, i int) {
	if !reflect.DeepEqual(want, got) {
		require.Equal(t, want, got, "%s %d", what, i)
	}
}

// clone keeps nil nil and empty empty: null and empty are not the same.
func clone(p []byte) []byte {
	if p == nil {
		return nil
	}
	return append([]byte{}, p...)
}

// inflated returns the records of b, encoded but not compressed.
func inflated(t require.TestingT, b batch.Batch) []byte {
	p, err := compress.AppendDecoded(nil, b.Codec(), b[batch.HeaderSize:], batch.MaxInflated)
	require.NoError(t, err)
	return p
}

// everyKind is records of every kind: null, empty and other keys and values,
// headers, times that go back and jump.
func everyKind() []record {
	many := make([]header, 70)
	for i := range many {
		many[i] = header{fmt.Sprint("h", i), fmt.Append(nil, "v", i)}
	}
	return []record{
		{Timestamp: start, Key: []byte("key"), Value: []byte("value")},
		{Timestamp: start + 1, Value: []byte("null key")},
		{Timestamp: start + 2, Key: []byte("null value")},
		{Timestamp: start + 3},
		{Timestamp: start + 4, Key: []byte{}, Value: []byte{}},
		{Timestamp: start - 100_000, Key: []byte("time"), Value: []byte("back by 100 s")},
		{Timestamp: 1, Key: []byte("time"), Value: []byte("1970")},
		{Timestamp: start, Headers: []header{
			{"h", []byte("x")}, {"null", nil}, {"empty", []byte{}}, {"", []byte("empty key")}, {"h", []byte("again")}, {"ü€😀", []byte("UTF-8")},
		}},
		{Timestamp: start, Value: []byte("70 headers"), Headers: many},
		{Timestamp: start, Key: []byte(strings.Repeat("k", 64)), Value: []byte(strings.Repeat("v", 8192))},
	}
}

// big returns records of words, 100 bytes each on average, and some of random
// bytes that no codec makes smaller: n kB in all, from a fixed seed.
func big(n int) []record {
	rnd := rand.New(rand.NewPCG(1, 2))
	words := strings.Fields("a log is a sequence of records which grows at its end and is read from any offset")
	var out []record
	for size := 0; size < n<<10; {
		r := record{Timestamp: start + int64(len(out)), Key: fmt.Append(nil, "key-", len(out))}
		if len(out)%500 == 499 {
			r.Value = make([]byte, 20_000)
			for i := range r.Value {
				r.Value[i] = byte(rnd.Uint32())
			}
		} else {
			for range 10 + rnd.IntN(20) {
				r.Value = append(append(r.Value, words[rnd.IntN(len(words))]...), ' ')
			}
		}
		size += len(r.Key) + len(r.Value)
		out = append(out, r)
	}
	return out
}

// bytesOrNull draws nil, empty and other byte strings.
func bytesOrNull(most int) *rapid.Generator[[]byte] {
	return rapid.OneOf(rapid.Just[[]byte](nil), rapid.Just([]byte{}), rapid.SliceOfN(rapid.Byte(), 0, most))
}

// genRecords draws the records of a batch, with timestamps from the generator.
func genRecords(timestamp *rapid.Generator[int64]) *rapid.Generator[[]record] {
	one := rapid.Custom(func(t *rapid.T) record {
		r := record{Timestamp: timestamp.Draw(t, "timestamp"), Key: bytesOrNull(40).Draw(t, "key"), Value: bytesOrNull(300).Draw(t, "value")}
		for range rapid.SampledFrom([]int{0, 0, 0, 1, 3, 70}).Draw(t, "headers") {
			r.Headers = append(r.Headers, header{rapid.String().Draw(t, "header key"), bytesOrNull(10).Draw(t, "header value")})
		}
		return r
	})
	return rapid.SliceOfN(one, 1, 40)
}

// anyTime draws all that the field can hold: none, usual times and the extremes.
func anyTime() *rapid.Generator[int64] {
	return rapid.OneOf(rapid.Just(batch.NoTimestamp), rapid.Int64Range(start-1_000_000, start+1_000_000), rapid.Int64())
}

// genContent draws a batch: any codec and level, producer, offsets, timestamp
// type and records; one in eight is a marker.
func genContent() *rapid.Generator[content] {
	return rapid.Custom(func(t *rapid.T) content {
		c := plain(rapid.SampledFrom(codecs).Draw(t, "codec"))
		c.Level = rapid.SampledFrom(levels[c.Codec]).Draw(t, "level")
		c.BaseOffset = rapid.OneOf(rapid.Just[int64](0), rapid.Int64Range(0, math.MaxInt64-100)).Draw(t, "base offset")
		c.LeaderEpoch = rapid.Int32Min(-1).Draw(t, "leader epoch")
		if rapid.Bool().Draw(t, "LogAppendTime") {
			c.LogAppendTime = rapid.Int64Min(0).Draw(t, "append time")
		}
		if rapid.Bool().Draw(t, "idempotent") {
			c.Producer = batch.Producer{
				ID:            rapid.Int64Min(0).Draw(t, "producer id"),
				Epoch:         rapid.Int16Min(0).Draw(t, "producer epoch"),
				Sequence:      rapid.Int32Min(0).Draw(t, "sequence"),
				Transactional: rapid.Bool().Draw(t, "transactional"),
			}
		}
		if rapid.IntRange(0, 7).Draw(t, "marker") == 7 {
			return marker(c, rapid.Bool().Draw(t, "commit"), rapid.Int32Min(0).Draw(t, "coordinator epoch"))
		}
		c.Records = genRecords(anyTime()).Draw(t, "records")
		return c
	})
}

// marker makes c the end of a transaction. The record is as Kafka describes it,
// in bytes: key version and type, value version and coordinator epoch.
func marker(c content, commit bool, coordinatorEpoch int32) content {
	c.Codec, c.Level = compress.None, 0
	c.Marker = &batch.Marker{Commit: commit, CoordinatorEpoch: coordinatorEpoch}
	r := record{Timestamp: start, Key: []byte{0, 0, 0, 0}, Value: []byte{0, 0}}
	if commit {
		r.Key[3] = 1
	}
	e := uint32(coordinatorEpoch)
	r.Value = append(r.Value, byte(e>>24), byte(e>>16), byte(e>>8), byte(e))
	c.Records = []record{r}
	// What a marker always says of its producer.
	c.Producer.Sequence, c.Producer.Transactional = batch.NoSequence, true
	return c
}
