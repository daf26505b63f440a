package batch

import (
	"encoding/binary"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/compress"
)

// now is the time of these tests' appends; values() gives times around it.
const now = 1_700_000_000_001

// rules are Kafka's defaults.
func rules(change func(*Rules)) *Rules {
	r := &Rules{
		Now:       now,
		BeforeMax: math.MaxInt64, AfterMax: math.MaxInt64,
		KeepCodec:       true,
		MaxMessageBytes: 1<<20 + 12,
		SegmentBytes:    1 << 30,
	}
	if change != nil {
		change(r)
	}
	return r
}

// TestProduceTakesOneWholeBatch shows what a client's append must look like
// (LogValidator): exactly one batch, from offset 0, with as many records as
// offsets, no control records, and a sequence if it has a producer.
func TestProduceTakesOneWholeBatch(t *testing.T) {
	good := func() Batch {
		return encode(t, compress.None, Producer{ID: 1, Epoch: 0, Sequence: 0}, values(3, nil)...)
	}
	var v Validator
	got, err := v.Produce(good(), rules(nil))
	require.NoError(t, err)
	require.Equal(t, good(), got)

	renew := func(b Batch) Batch { b.putCRC(); return b }
	for name, set := range map[string][]byte{
		"no batch":        nil,
		"two batches":     append(good(), good()...),
		"base offset":     func() []byte { b := good(); b.SetBaseOffset(1); return b }(),
		"too few records": func() []byte { b := good(); binary.BigEndian.PutUint32(b[posCount:], 2); return renew(b) }(),
		"no records": func() []byte {
			b := good()[:HeaderSize]
			binary.BigEndian.PutUint32(b[posLength:], 49)
			binary.BigEndian.PutUint32(b[posCount:], 0)
			return renew(b)
		}(),
		"control batch": func() []byte {
			b := good()
			binary.BigEndian.PutUint16(b[posAttributes:], attrControl)
			return renew(b)
		}(),
		"negative sequence": encode(t, compress.None, Producer{ID: 1, Epoch: 0, Sequence: -1}, values(3, nil)...),
	} {
		_, err := v.Produce(set, rules(nil))
		require.ErrorIs(t, err, ErrInvalid, name)
		require.NotErrorIs(t, err, ErrCorrupt, name)
	}
}

// TestCoordinatorMayWriteWhatClientsMayNot shows that the log itself may append
// control batches, and batches of a producer without a sequence.
func TestCoordinatorMayWriteWhatClientsMayNot(t *testing.T) {
	var v Validator
	own := rules(func(r *Rules) { r.Origin = OriginCoordinator })
	_, err := v.Produce(encode(t, compress.None, Producer{ID: 1, Epoch: 0, Sequence: -1}, values(1, nil)...), own)
	require.NoError(t, err)

	var b Builder
	marker, err := b.AppendMarker(nil, now, Producer{ID: 1}, Marker{Commit: true})
	require.NoError(t, err)
	_, err = v.Produce(marker, own)
	require.NoError(t, err)
	_, err = v.Produce(marker, rules(nil))
	require.ErrorIs(t, err, ErrInvalid)
}

// TestCorruptBatchIsRefusedWhole shows that one bad checksum refuses all that
// came with it, from a client and from a leader.
func TestCorruptBatchIsRefusedWhole(t *testing.T) {
	bad := encode(t, compress.None, NoProducer, values(3, nil)...)
	bad[len(bad)-1] ^= 1
	var v Validator
	_, err := v.Produce(bad, rules(nil))
	require.ErrorIs(t, err, ErrCorrupt)
	_, err = v.Produce(bad[:len(bad)-1], rules(nil))
	require.ErrorIs(t, err, ErrCorrupt, "a client's batch cut short")

	good := encode(t, compress.None, NoProducer, values(3, nil)...)
	bad.SetBaseOffset(3)
	n, next, err := Replicated(append(good, bad...), 0)
	require.ErrorIs(t, err, ErrCorrupt)
	require.Zero(t, n)
	require.Zero(t, next)
}

// TestCompactedTopicNeedsKeys shows that every record without a key is listed,
// and that an empty key is a key.
func TestCompactedTopicNeedsKeys(t *testing.T) {
	recs := values(5, []byte("k"))
	recs[1].Key, recs[3].Key, recs[4].Key = nil, nil, []byte{}
	var v Validator
	for _, codec := range codecs {
		_, err := v.Produce(encode(t, codec, NoProducer, recs...), rules(func(r *Rules) { r.Compacted = true }))
		require.ErrorIs(t, err, ErrInvalid)
		var re *RecordError
		require.ErrorAs(t, err, &re)
		require.Equal(t, []int{1, 3}, re.Indexes)
	}
	_, err := v.Produce(encode(t, compress.None, NoProducer, recs...), rules(nil))
	require.NoError(t, err, "other topics take records without keys")
}

// TestBadTimestampOutweighsMissingKey shows that with both faults in a batch
// the error is the timestamp's, still with every index.
func TestBadTimestampOutweighsMissingKey(t *testing.T) {
	recs := values(4, []byte("k"))
	recs[0].Key = nil
	recs[2].Timestamp = now - 1001
	var v Validator
	_, err := v.Produce(encode(t, compress.None, NoProducer, recs...), rules(func(r *Rules) { r.Compacted, r.BeforeMax = true, 1000 }))
	require.ErrorIs(t, err, ErrInvalidTimestamp)
	require.NotErrorIs(t, err, ErrInvalid)
	var re *RecordError
	require.ErrorAs(t, err, &re)
	require.Equal(t, []int{0, 2}, re.Indexes)
}

// TestCreateTimeBounds shows the window around the log's clock, to the
// millisecond, with no timestamp exempt; and that LogAppendTime is the log's to
// set, not a client's.
func TestCreateTimeBounds(t *testing.T) {
	bounds := rules(func(r *Rules) { r.BeforeMax, r.AfterMax = 1000, 500 })
	for _, c := range []struct {
		ts int64
		ok bool
	}{
		{now, true},
		{now - 1000, true},
		{now - 1001, false},
		{now + 500, true},
		{now + 501, false},
		{NoTimestamp, true},
		{0, false},
		{math.MaxInt64, false},
		{-1 << 62, false},
	} {
		var v Validator
		b := encode(t, compress.None, NoProducer, rec{Timestamp: c.ts})
		_, err := v.Produce(b, bounds)
		if c.ok {
			require.NoError(t, err, c.ts)
		} else {
			require.ErrorIs(t, err, ErrInvalidTimestamp, c.ts)
		}
		_, err = v.Produce(b, rules(nil))
		require.NoError(t, err, "no bounds by default")
		b.SetLogAppendTime(now)
		for _, typ := range []TimestampType{CreateTime, LogAppendTime} {
			_, err = v.Produce(b, rules(func(r *Rules) { r.TimestampType = typ }))
			require.ErrorIs(t, err, ErrInvalidTimestamp)
		}
	}
}

// TestLogAppendTimeChangesTheHeaderOnly shows that the records' bytes stay as
// they were sent and that they report the log's time, whatever theirs was.
func TestLogAppendTimeChangesTheHeaderOnly(t *testing.T) {
	for _, codec := range codecs {
		sent := encode(t, codec, NoProducer, values(3, nil)...)
		payload := append([]byte{}, sent[HeaderSize:]...)
		var v Validator
		got, err := v.Produce(sent, rules(func(r *Rules) {
			r.TimestampType, r.BeforeMax, r.Now = LogAppendTime, 0, 2_000_000_000_000
		}))
		require.NoError(t, err)
		require.Equal(t, payload, []byte(got[HeaderSize:]))
		require.Equal(t, LogAppendTime, got.TimestampType())
		require.Equal(t, int64(2_000_000_000_000), got.MaxTimestamp())
		require.Equal(t, int64(1_700_000_000_000), got.BaseTimestamp())
		recs, err := decode(got)
		require.NoError(t, err)
		for _, r := range recs {
			require.Equal(t, int64(2_000_000_000_000), r.Timestamp)
		}
	}
}

// TestProduceRebuildsOnlyForAnotherCodec shows when the producer's bytes are
// kept: by default always; with a codec of the topic's own unless it differs.
// What is rebuilt says the same, producer and transaction included.
func TestProduceRebuildsOnlyForAnotherCodec(t *testing.T) {
	p := Producer{ID: 7, Epoch: 1, Sequence: 20, Transactional: true}
	recs := values(50, []byte("key"))
	recs[7].Headers = []header{{"h", []byte("v")}, {"n", nil}}
	for _, sent := range codecs {
		for _, topic := range codecs {
			var v Validator
			set := encode(t, sent, p, recs...)
			kept, err := v.Produce(set, rules(nil))
			require.NoError(t, err)
			require.Same(t, &set[0], &kept[0])

			got, err := v.Produce(set, rules(func(r *Rules) {
				r.KeepCodec, r.Codec, r.Level = false, topic, topic.DefaultLevel()
				if topic == compress.Gzip {
					r.Level = 9 // another level than the producer's
				}
			}))
			require.NoError(t, err)
			require.Equal(t, topic, got.Codec())
			require.Equal(t, topic == sent, &set[0] == &got[0], "rebuilt only for another codec")
			require.NoError(t, got.Check())
			require.EqualValues(t, 7, got.ProducerID())
			require.EqualValues(t, 1, got.ProducerEpoch())
			require.EqualValues(t, 20, got.BaseSequence())
			require.True(t, got.Transactional())
			back, err := decode(got)
			require.NoError(t, err)
			for i, want := range recs {
				want.Offset = int64(i)
				require.Equal(t, want, back[i])
			}
		}
	}
}

// TestProduceNumbersSparseRecordsAnew shows that inner offsets with gaps, which
// some clients send, are rebuilt without.
func TestProduceNumbersSparseRecordsAnew(t *testing.T) {
	set := encode(t, compress.None, NoProducer, values(2, nil)...)
	size := int(set[HeaderSize])/2 + 1
	set[HeaderSize+size+3] = 20 // the second record's offset delta: 10
	set.putCRC()
	var v Validator
	got, err := v.Produce(set, rules(nil))
	require.NoError(t, err)
	recs, err := decode(got)
	require.NoError(t, err)
	require.Len(t, recs, 2)
	require.EqualValues(t, 1, recs[1].Offset)
}

// TestProduceSizeLimits shows max.message.bytes before and after the batch is
// rebuilt, and segment.bytes; each limit is the largest that passes.
func TestProduceSizeLimits(t *testing.T) {
	var v Validator
	set := encode(t, compress.None, NoProducer, rec{Timestamp: now, Value: make([]byte, 1000)})
	at := func(message, segment int) *Rules {
		return rules(func(r *Rules) { r.MaxMessageBytes, r.SegmentBytes = message, segment })
	}
	_, err := v.Produce(set, at(len(set), len(set)))
	require.NoError(t, err)
	_, err = v.Produce(set, at(len(set)-1, len(set)))
	require.ErrorIs(t, err, ErrTooLarge)
	_, err = v.Produce(set, at(len(set), len(set)-1))
	require.ErrorIs(t, err, ErrSetTooLarge)

	small := encode(t, compress.Gzip, NoProducer, rec{Timestamp: now, Value: make([]byte, 1000)})
	require.Less(t, len(small), 200)
	_, err = v.Produce(small, rules(func(r *Rules) { r.MaxMessageBytes, r.KeepCodec, r.Codec = 200, false, compress.None }))
	require.ErrorIs(t, err, ErrTooLarge, "fits as sent, not as stored")

	n, _, err := Replicated(set, 0)
	require.NoError(t, err, "a follower takes what its leader took")
	require.Equal(t, len(set), n)
}

// TestReplicatedOffsetsGoOn shows what a follower takes: batches from the end
// on, gaps included, never below the end and never backwards.
func TestReplicatedOffsetsGoOn(t *testing.T) {
	at := func(offset int64) Batch {
		b := encode(t, compress.None, NoProducer, values(10, nil)...)
		b.SetBaseOffset(offset)
		return b
	}
	set := append(at(100), at(110)...)
	n, next, err := Replicated(set, 100)
	require.NoError(t, err)
	require.Equal(t, len(set), n)
	require.EqualValues(t, 120, next)

	_, next, err = Replicated(append(at(105), at(500)...), 100)
	require.NoError(t, err, "gaps above the end are fine")
	require.EqualValues(t, 510, next)

	for name, bad := range map[string][]byte{
		"below the end":         at(99),
		"overlapping the end":   at(95),
		"backwards":             append(at(200), at(150)...),
		"overlapping":           append(at(200), at(209)...),
		"the same offset twice": append(at(200), at(200)...),
	} {
		n, next, err := Replicated(bad, 100)
		require.ErrorIs(t, err, ErrOffsetOrder, name)
		require.Zero(t, n, name)
		require.EqualValues(t, 100, next, name)
	}
}

// TestReplicatedIgnoresACutTail cuts a leader's answer at every byte: whole
// batches count, the rest does not, and nothing at all changes nothing.
func TestReplicatedIgnoresACutTail(t *testing.T) {
	one := encode(t, compress.None, NoProducer, values(10, nil)...)
	two := encode(t, compress.Gzip, NoProducer, values(10, nil)...)
	two.SetBaseOffset(10)
	set := append(append([]byte{}, one...), two...)
	for cut := range len(set) + 1 {
		n, next, err := Replicated(set[:cut], 0)
		require.NoError(t, err)
		switch {
		case cut < len(one):
			require.Zero(t, n)
			require.Zero(t, next)
		case cut < len(set):
			require.Equal(t, len(one), n)
			require.EqualValues(t, 10, next)
		default:
			require.Equal(t, len(set), n)
			require.EqualValues(t, 20, next)
		}
	}
}
