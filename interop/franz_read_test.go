package interop

import (
	"fmt"
	"hash/crc32"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"

	"github.com/rifflelog/riffle/internal/batch"
	"github.com/rifflelog/riffle/internal/compress"
)

// TestFranzReadsOurRandomBatches draws batches of every codec, level, producer,
// timestamp type and kind of record, writes them by our encoder, and reads them
// by franz-go's message definitions and by its consumer: every field of batch
// and records is what was drawn.
func TestFranzReadsOurRandomBatches(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := genContent().Draw(t, "batch")
		b := c.encode(t)
		requireFields(t, &c, b)
		requireFranzReads(t, &c, b)
	})
}

// TestFranzReadsOurBigBatches does the same with 2 MB of records for every codec
// and level: many blocks of each, and matches far back.
func TestFranzReadsOurBigBatches(t *testing.T) {
	records := big(2 << 10)
	for _, codec := range codecs {
		for _, level := range levels[codec] {
			t.Run(fmt.Sprintf("%v/%d", codec, level), func(t *testing.T) {
				c := plain(codec, records...)
				c.Level = level
				requireFranzReads(t, &c, c.encode(t))
			})
		}
	}
}

// TestFranzReadsOurBatchesOneAfterTheOther gives franz-go's consumer a log of
// batches of all codecs, which it must split as we do, and of which it must drop
// an aborted transaction by our marker.
func TestFranzReadsOurBatchesOneAfterTheOther(t *testing.T) {
	var log []byte
	var want []record
	add := func(c content) int64 {
		if len(log) > 0 {
			c.BaseOffset = want[len(want)-1].Offset + 1
		}
		log = append(log, c.encode(t)...)
		want = append(want, c.want()...)
		return c.BaseOffset
	}
	for _, codec := range codecs {
		add(plain(codec, everyKind()...))
	}
	kept := len(want)
	txn := plain(compress.Zstd, everyKind()...)
	txn.Producer = batch.Producer{ID: 9, Epoch: 1, Transactional: true}
	first := add(txn)
	add(marker(txn, false, 3))

	part := kmsg.NewFetchResponseTopicPartition()
	part.RecordBatches = log
	aborted := kmsg.NewFetchResponseTopicPartitionAbortedTransaction()
	aborted.ProducerID, aborted.FirstOffset = txn.Producer.ID, first
	part.AbortedTransactions = append(part.AbortedTransactions, aborted)

	got, next := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{KeepControlRecords: true}, &part, kgo.DefaultDecompressor(), nil)
	require.NoError(t, got.Err)
	require.Equal(t, want[len(want)-1].Offset+1, next)
	requireRecords(t, want, fromFranz(got.Records))

	got, next = kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{IsolationLevel: kgo.ReadCommitted()}, &part, kgo.DefaultDecompressor(), nil)
	require.NoError(t, got.Err)
	require.Equal(t, want[len(want)-1].Offset+1, next)
	requireRecords(t, want[:kept], fromFranz(got.Records))
}

// TestFranzRefusesOurBatchWithAChangedByte changes each byte that the CRC covers,
// and the CRC: franz-go must see every change, or the tests above do not show
// that it checks our CRC.
func TestFranzRefusesOurBatchWithAChangedByte(t *testing.T) {
	c := plain(compress.None, record{Timestamp: start, Value: []byte("value")})
	const posCRC = 17
	for i := posCRC; i < len(c.encode(t)); i++ {
		b := c.encode(t)
		b[i] ^= 0x10
		part := kmsg.NewFetchResponseTopicPartition()
		part.RecordBatches = b
		got, _ := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{}, &part, kgo.DefaultDecompressor(), nil)
		require.ErrorContains(t, got.Err, "crc", "byte %d", i)
		require.ErrorIs(t, b.Check(), batch.ErrCorrupt, "byte %d", i)
	}
}

// requireFields compares every field of b, read by franz-go's definitions of
// RecordBatch and Record, with what c asks for.
func requireFields(t require.TestingT, c *content, b batch.Batch) {
	var got kmsg.RecordBatch
	require.NoError(t, got.ReadFrom(b))
	payload, err := kgo.DefaultDecompressor().Decompress(got.Records, kgo.CompressionCodecType(c.Codec))
	require.NoError(t, err)

	attrs := int16(c.Codec)
	if c.LogAppendTime != batch.NoTimestamp {
		attrs |= 1 << 3
	}
	if c.Producer.Transactional {
		attrs |= 1 << 4
	}
	if c.Marker != nil {
		attrs |= 1 << 5
	}
	maxTime := batch.NoTimestamp
	for _, r := range c.want() {
		maxTime = max(maxTime, r.Timestamp)
	}
	first := c.Records[0].Timestamp
	require.Equal(t, kmsg.RecordBatch{
		FirstOffset:          c.BaseOffset,
		Length:               int32(len(b) - 12),
		PartitionLeaderEpoch: c.LeaderEpoch,
		Magic:                2,
		CRC:                  int32(crc32.Checksum(b[21:], castagnoli)),
		Attributes:           attrs,
		LastOffsetDelta:      int32(len(c.Records) - 1),
		FirstTimestamp:       first,
		MaxTimestamp:         maxTime,
		ProducerID:           c.Producer.ID,
		ProducerEpoch:        c.Producer.Epoch,
		FirstSequence:        c.Producer.Sequence,
		NumRecords:           int32(len(c.Records)),
		Records:              got.Records,
	}, got)

	for i, r := range c.Records {
		length, n := kbin.Varint(payload)
		size := min(n+int(length), len(payload))
		var rec kmsg.Record
		requireEqual(t, nil, rec.ReadFrom(payload[:size]), "error of record", i)
		delta := r.Timestamp - first
		want := kmsg.Record{Length: length, TimestampDelta: int32(delta), TimestampDelta64: delta, OffsetDelta: int32(i), Key: r.Key, Value: r.Value}
		if len(r.Headers) > 0 || rec.Headers != nil {
			want.Headers = []kmsg.Header{}
		}
		for _, h := range r.Headers {
			want.Headers = append(want.Headers, kmsg.Header{Key: h.Key, Value: h.Value})
		}
		requireEqual(t, want, rec, "record", i)
		// Nothing of ours is left over in the record that franz-go does not know.
		requireEqual(t, payload[:size], rec.AppendTo(nil), "bytes of record", i)
		payload = payload[size:]
	}
	require.Empty(t, payload)
}

// requireFranzReads gives b to what franz-go's consumer does with a fetch
// response, its check of the CRC included, and compares every record.
func requireFranzReads(t require.TestingT, c *content, b batch.Batch) {
	part := kmsg.NewFetchResponseTopicPartition()
	part.RecordBatches = b
	got, next := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{KeepControlRecords: true}, &part, kgo.DefaultDecompressor(), nil)
	require.NoError(t, got.Err)
	want := c.want()
	for i := range want {
		// The consumer has times in nanoseconds, which wrap before 1677 and
		// after 2262. requireFields compares all milliseconds.
		want[i].Timestamp = time.Unix(0, want[i].Timestamp*1e6).UnixMilli()
	}
	require.Equal(t, want[len(want)-1].Offset+1, next)
	requireRecords(t, want, fromFranz(got.Records))
	wantAttrs := attributes{
		codec: uint8(c.Codec), transactional: c.Producer.Transactional, control: c.Marker != nil,
		producerID: c.Producer.ID, producerEpoch: c.Producer.Epoch, leaderEpoch: c.LeaderEpoch,
	}
	if c.LogAppendTime != batch.NoTimestamp {
		wantAttrs.timestampType = 1
	}
	for i, r := range got.Records {
		requireEqual(t, wantAttrs, attributes{
			r.Attrs.CompressionType(), r.Attrs.TimestampType(), r.Attrs.IsTransactional(), r.Attrs.IsControl(), r.ProducerID, r.ProducerEpoch, r.LeaderEpoch,
		}, "attributes of record", i)
	}
}

// attributes is what franz-go's consumer says of a record's batch.
type attributes struct {
	codec                  uint8
	timestampType          int8
	transactional, control bool
	producerID             int64
	producerEpoch          int16
	leaderEpoch            int32
}

// fromFranz returns franz-go's records as ours.
func fromFranz(records []*kgo.Record) []record {
	var out []record
	for _, r := range records {
		c := record{Offset: r.Offset, Timestamp: r.Timestamp.UnixMilli(), Key: r.Key, Value: r.Value}
		for _, h := range r.Headers {
			c.Headers = append(c.Headers, header{h.Key, h.Value})
		}
		out = append(out, c)
	}
	return out
}
