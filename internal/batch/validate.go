package batch

import (
	"errors"
	"fmt"
	"math"

	"github.com/rifflelog/riffle/internal/compress"
)

var (
	// ErrInvalid: whole, but not what the log takes. Kafka: INVALID_RECORD.
	ErrInvalid = errors.New("record batch is invalid")
	// ErrInvalidTimestamp: a timestamp outside the topic's bounds. Kafka:
	// INVALID_TIMESTAMP.
	ErrInvalidTimestamp = errors.New("record timestamp is invalid")
	// ErrSetTooLarge: batches that no segment can hold. Kafka:
	// RECORD_LIST_TOO_LARGE.
	ErrSetTooLarge = errors.New("record batches are larger than a segment")
	// ErrOffsetOrder: a leader's batches whose offsets do not go on. Kafka:
	// OFFSETS_OUT_OF_ORDER in UnifiedLog.
	ErrOffsetOrder = errors.New("batch offsets are out of order")
)

// RecordError says which records of a refused batch were at fault, all of them
// by their index in it (KIP-467).
type RecordError struct {
	Err     error // ErrInvalidTimestamp if any record has that fault, else ErrInvalid
	Indexes []int
	Reason  string // of the first
}

// Error lists the reason and the number of records.
func (e *RecordError) Error() string {
	return fmt.Sprintf("%v: record %d: %s (%d records at fault)", e.Err, e.Indexes[0], e.Reason, len(e.Indexes))
}

// Unwrap returns Err.
func (e *RecordError) Unwrap() error { return e.Err }

// Origin says who wrote a batch.
type Origin int8

const (
	// OriginClient is a producer.
	OriginClient Origin = iota
	// OriginCoordinator is the log itself: it may write control batches, and
	// commits offsets of a transaction without sequence numbers.
	OriginCoordinator
)

// Rules are what a topic asks of a producer's batch.
type Rules struct {
	Origin          Origin
	Now             int64 // milliseconds
	Compacted       bool  // cleanup.policy has compact: every record needs a key
	TimestampType   TimestampType
	BeforeMax       int64 // milliseconds. Kafka: message.timestamp.before.max.ms, default math.MaxInt64
	AfterMax        int64 // likewise message.timestamp.after.max.ms
	KeepCodec       bool  // compression.type=producer
	Codec           compress.Codec
	Level           int
	MaxMessageBytes int // Kafka: max.message.bytes
	SegmentBytes    int // Kafka: segment.bytes
}

// Validator checks what producers send, as Kafka's LogValidator does. Its zero
// value is ready; it keeps buffers between batches. It is for one goroutine at
// a time.
type Validator struct {
	r   Reader
	b   Builder
	buf []byte
}

// Produce checks set, which must be exactly one batch from offset 0, and
// returns the batch to append: set itself, whose header may be changed in
// place, or one built anew that is valid until the next call. It is built anew
// if the topic has another codec, or if the records' offsets have gaps; a level
// alone is no reason (KIP-390). Nothing is to be appended after an error.
func (v *Validator) Produce(set []byte, rules *Rules) (Batch, error) {
	b, err := oneBatch(set, rules)
	if err != nil {
		return nil, err
	}
	sparse, err := v.checkRecords(b, rules)
	defer v.r.Release()
	if err != nil {
		return nil, err
	}
	if sparse || !rules.KeepCodec && rules.Codec != b.Codec() {
		if b, err = v.rebuild(b, rules); err != nil {
			return nil, err
		}
		if err := checkSize(b, rules); err != nil {
			return nil, err
		}
	}
	if rules.TimestampType == LogAppendTime {
		b.SetLogAppendTime(rules.Now)
	}
	return b, nil
}

// oneBatch returns the batch that set is, with all checked that the header says.
func oneBatch(set []byte, rules *Rules) (Batch, error) {
	if len(set) == 0 {
		return nil, fmt.Errorf("%w: no batch", ErrInvalid)
	}
	b, rest, err := Split(set)
	if errors.Is(err, ErrTruncated) {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if err != nil {
		return nil, err
	}
	if err := checkSize(b, rules); err != nil {
		return nil, err
	}
	// Every batch's checksum comes before any other reason to refuse: what is
	// corrupt in transit is sent again, what is invalid is not.
	if err := b.checkCRC(); err != nil {
		return nil, err
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("%w: %d bytes after the one batch", ErrInvalid, len(rest))
	}
	span := int64(b.LastOffsetDelta()) + 1
	switch {
	case b.BaseOffset() != 0:
		return nil, fmt.Errorf("%w: base offset %d, want 0", ErrInvalid, b.BaseOffset())
	case b.Count() <= 0 || span != int64(b.Count()):
		return nil, fmt.Errorf("%w: %d records in %d offsets", ErrInvalid, b.Count(), span)
	case rules.Origin == OriginClient && b.Control():
		return nil, fmt.Errorf("%w: control batch from a client", ErrInvalid)
	case rules.Origin == OriginClient && b.ProducerID() >= 0 && b.BaseSequence() < 0:
		return nil, fmt.Errorf("%w: producer %d with sequence %d", ErrInvalid, b.ProducerID(), b.BaseSequence())
	case b.TimestampType() == LogAppendTime:
		return nil, fmt.Errorf("%w: a producer may not set LogAppendTime", ErrInvalidTimestamp)
	}
	return b, b.checkHeader()
}

func checkSize(b Batch, rules *Rules) error {
	switch {
	case len(b) > rules.MaxMessageBytes:
		return fmt.Errorf("%w: %d bytes, the topic takes %d", ErrTooLarge, len(b), rules.MaxMessageBytes)
	case len(b) > rules.SegmentBytes:
		return fmt.Errorf("%w: %d bytes, a segment has %d", ErrSetTooLarge, len(b), rules.SegmentBytes)
	}
	return nil
}

// checkRecords reads every record of b and reports all that are at fault, and
// whether their offsets have gaps.
func (v *Validator) checkRecords(b Batch, rules *Rules) (sparse bool, err error) {
	v.r.anyOrder = true
	if err := v.r.Reset(b, MaxInflated); err != nil {
		return false, err
	}
	var bad *RecordError
	for i := 0; v.r.Next(); i++ {
		sparse = sparse || v.r.last != int64(i)
		reason, fault := checkRecord(&v.r.Record, rules)
		if fault == nil {
			continue
		}
		if bad == nil {
			bad = &RecordError{Err: fault, Reason: reason}
		}
		if fault == ErrInvalidTimestamp {
			bad.Err = fault
		}
		bad.Indexes = append(bad.Indexes, i)
	}
	if err := v.r.Err(); err != nil {
		return false, err
	}
	if bad != nil {
		return false, bad
	}
	return sparse, nil
}

func checkRecord(r *Record, rules *Rules) (reason string, fault error) {
	if rules.TimestampType == CreateTime && r.Timestamp != NoTimestamp {
		if lo, hi := saturatingSub(rules.Now, rules.BeforeMax), saturatingAdd(rules.Now, rules.AfterMax); r.Timestamp < lo || r.Timestamp > hi {
			return fmt.Sprintf("timestamp %d is not in [%d, %d]", r.Timestamp, lo, hi), ErrInvalidTimestamp
		}
	}
	if rules.Compacted && r.Key == nil {
		return "no key, in a compacted topic", ErrInvalid
	}
	return "", nil
}

// rebuild encodes the records of b again, numbered from 0 without gaps.
func (v *Validator) rebuild(b Batch, rules *Rules) (Batch, error) {
	codec, level := rules.Codec, rules.Level
	if rules.KeepCodec {
		codec, level = b.Codec(), b.Codec().DefaultLevel()
	}
	if err := v.r.Reset(b, MaxInflated); err != nil {
		return nil, err
	}
	v.b.Begin(v.buf[:0], codec, level)
	for v.r.Next() {
		if err := v.b.AddRecord(&v.r.Record); err != nil {
			return nil, err
		}
	}
	if err := v.r.Err(); err != nil {
		return nil, err
	}
	var attrs uint16
	if b.Control() {
		attrs = attrControl
	}
	buf, err := v.b.finish(Producer{
		ID: b.ProducerID(), Epoch: b.ProducerEpoch(), Sequence: b.BaseSequence(), Transactional: b.Transactional(),
	}, attrs)
	if cap(buf) <= maxKept {
		v.buf = buf[:0]
	}
	return Batch(buf), err
}

// Replicated checks what a leader sends: batches with offsets, of which the
// last may be cut short, to be appended where the log ends. It returns how many
// bytes of set are whole batches, and the log's end after them. A batch that is
// corrupt, or whose offsets are below the end, refuses all of set; gaps are
// fine (compaction leaves them), and there is no limit on a batch's size: it
// was the leader's to refuse. Offsets that overlap within set are
// ErrOffsetOrder.
func Replicated(set []byte, end int64) (n int, next int64, err error) {
	next = end
	for rest := set; len(rest) > 0; {
		b, after, err := Split(rest)
		if errors.Is(err, ErrTruncated) {
			break
		}
		if err == nil {
			err = b.Check()
		}
		if err != nil {
			return 0, end, err
		}
		if b.BaseOffset() < next {
			return 0, end, fmt.Errorf("%w: batch at offset %d, the log ends at %d", ErrOffsetOrder, b.BaseOffset(), next)
		}
		next = b.NextOffset()
		n += len(b)
		rest = after
	}
	return n, next, nil
}

func saturatingAdd(a, b int64) int64 {
	if b > math.MaxInt64-a {
		return math.MaxInt64
	}
	return a + b
}

func saturatingSub(a, b int64) int64 {
	if a < math.MinInt64+b {
		return math.MinInt64
	}
	return a - b
}
