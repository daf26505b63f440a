// Package batch is Kafka's record batch, version 2 (magic 2): building it,
// checking it and iterating over its records. It is the only package that
// knows the layout. It is pure: bytes in, bytes out.
//
// A batch as it is stored and sent, integers big endian:
//
//	 0       8       12      16  17  21   23      27        35        43
//	+-------+-------+-------+---+---+----+-------+---------+---------+
//	| base  | length| leader| 2 |CRC|attr| last  | base    | max     |
//	| offset|       | epoch |   |   |    | delta | time    | time    |
//	+-------+-------+-------+---+---+----+-------+---------+---------+
//	43         51      53      57      61                  12+length
//	+----------+-------+-------+-------+- - - - - - - - - -+
//	| producer | prod. | base  | record| records, perhaps  |
//	| id       | epoch | seq.  | count | compressed        |
//	+----------+-------+-------+-------+- - - - - - - - - -+
//
// length counts the bytes after itself. The CRC-32C covers everything from the
// attributes to the end, so neither base offset nor leader epoch: a log assigns
// both to a batch that a client encoded, and its CRC stays valid.
//
// A record, in zigzag varints except for the attributes byte:
//
//	length | attributes (0) | time delta | offset delta |
//	key length (-1: null) | key | value length (-1: null) | value |
//	header count | { key length | key | value length (-1: null) | value }
package batch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/rifflelog/riffle/internal/compress"
	"github.com/rifflelog/riffle/internal/crc32c"
)

// Where the fields of a batch begin.
const (
	posBaseOffset      = 0
	posLength          = 8
	posLeaderEpoch     = 12
	posMagic           = 16
	posCRC             = 17
	posAttributes      = 21
	posLastOffsetDelta = 23
	posBaseTimestamp   = 27
	posMaxTimestamp    = 35
	posProducerID      = 43
	posProducerEpoch   = 51
	posBaseSequence    = 53
	posCount           = 57
)

const (
	// HeaderSize is the size of a batch without records, in bytes.
	HeaderSize = 61
	// PrefixSize is how many bytes [Size] needs: base offset and length.
	PrefixSize = posLeaderEpoch
	// Magic is the only version that is read and written. Versions 0 and 1
	// are older than Kafka 0.11; Kafka 4 does not write them either.
	Magic = 2
	// MaxSize is the largest batch, in bytes: what a reader must be ready to
	// hold in memory at once. Kafka's own bound is the int32 of the length
	// field; max.message.bytes is 1 MiB there and here.
	MaxSize = 64 << 20
	// MaxInflated is the most that the records of one compressed batch may
	// inflate to, in bytes. It is 128 times Kafka's default max.message.bytes,
	// far above what producers put into a batch (Kafka's batch.size is 16 KiB),
	// and what a batch made to be a bomb can cost a host at most.
	MaxInflated = 128 << 20
	// MaxHeaders is the most headers that one record may have. Each takes two
	// bytes in a batch at least, and twenty times that in memory.
	MaxHeaders = 1 << 16
	// minRecordSize is the smallest record with its length: six varints of one
	// byte and the attributes. It bounds how many records bytes can hold.
	minRecordSize = 7
)

// Values of fields that say "none".
const (
	NoTimestamp     int64 = -1
	NoProducerID    int64 = -1
	NoProducerEpoch int16 = -1
	NoSequence      int32 = -1
	NoLeaderEpoch   int32 = -1
)

// Attribute bits.
const (
	attrCodec         = 0x07
	attrLogAppendTime = 0x08
	attrTransactional = 0x10
	attrControl       = 0x20
	attrDeleteHorizon = 0x40
)

var (
	// ErrTruncated: the bytes end before the batch does.
	ErrTruncated = errors.New("record batch is cut short")
	// ErrCorrupt: the bytes are no batch, or not the ones that were written.
	// Kafka: CORRUPT_MESSAGE.
	ErrCorrupt = errors.New("record batch is corrupt")
)

// TimestampType says whose clock a batch's timestamps are from.
type TimestampType int8

// The timestamp types, by Kafka's numbers.
const (
	CreateTime    TimestampType = 0 // the producer's
	LogAppendTime TimestampType = 1 // the log's: every record has the batch's max timestamp
)

// Batch is the bytes of one batch, exactly: what [Split] returns and what a
// [Builder] makes. Accessors read the header in place and trust its size only.
type Batch []byte

// Size returns how many bytes the batch has that begins with prefix, of which
// PrefixSize bytes are enough. ErrTruncated if there are fewer; ErrCorrupt if
// no batch can have the length that they state. Zeros are never a batch.
func Size(prefix []byte) (int, error) {
	if len(prefix) < PrefixSize {
		return 0, ErrTruncated
	}
	n := int64(int32(binary.BigEndian.Uint32(prefix[posLength:]))) + PrefixSize
	if n < HeaderSize || n > MaxSize {
		return 0, fmt.Errorf("%w: length %d is not in [%d, %d]", ErrCorrupt, n, HeaderSize, MaxSize)
	}
	return int(n), nil
}

// Split returns the first batch in b and what follows it. It looks at length
// and magic only: [Batch.Check] decides whether the batch is whole. The error
// is ErrTruncated when more bytes could make it a batch, else ErrCorrupt.
func Split(b []byte) (first Batch, rest []byte, err error) {
	n, err := Size(b)
	if err != nil {
		return nil, b, err
	}
	if len(b) > posMagic && b[posMagic] != Magic {
		return nil, b, fmt.Errorf("%w: magic %d, want %d", ErrCorrupt, int8(b[posMagic]), Magic)
	}
	if n > len(b) {
		return nil, b, ErrTruncated
	}
	return Batch(b[:n:n]), b[n:], nil
}

// Plausible says whether b begins with what could be a batch's header, so that
// a search for batches need not compute a CRC at every byte.
func Plausible(b []byte) bool {
	if len(b) < HeaderSize || b[posMagic] != Magic {
		return false
	}
	h := Batch(b)
	n := int64(int32(binary.BigEndian.Uint32(b[posLength:]))) + PrefixSize
	return HeaderSize <= n && n <= MaxSize && h.BaseOffset() >= 0 && h.LastOffsetDelta() >= 0 &&
		h.Count() >= 0 && int64(h.Count()) <= int64(h.LastOffsetDelta())+1 && h.Codec().Valid()
}

// IndexPlausible returns the first i for which b[i:] is plausible. If there is
// none, it is the first whose header does not fit into b.
func IndexPlausible(b []byte) int {
	i := 0
	for i+HeaderSize <= len(b) {
		next := bytes.IndexByte(b[i+posMagic:len(b)-HeaderSize+posMagic+1], Magic)
		if next < 0 {
			return len(b) - HeaderSize + 1
		}
		if i += next; Plausible(b[i:]) {
			return i
		}
		i++
	}
	return i
}

// Check verifies the CRC and that the header's fields make sense together. It
// does not look at the records: they are checked as they are read.
func (b Batch) Check() error {
	if len(b) < HeaderSize {
		return ErrTruncated
	}
	if err := b.checkCRC(); err != nil {
		return err
	}
	return b.checkHeader()
}

func (b Batch) checkCRC() error {
	if got, want := crc32c.Checksum(b[posAttributes:]), b.CRC(); got != want {
		return fmt.Errorf("%w: CRC-32C is %08x, header says %08x", ErrCorrupt, got, want)
	}
	return nil
}

func (b Batch) checkHeader() error {
	base, delta, count := b.BaseOffset(), b.LastOffsetDelta(), b.Count()
	switch {
	case b[posMagic] != Magic:
		return fmt.Errorf("%w: magic %d, want %d", ErrCorrupt, int8(b[posMagic]), Magic)
	case base < 0 || delta < 0 || base >= math.MaxInt64-int64(delta):
		return fmt.Errorf("%w: offsets [%d, +%d] are out of range", ErrCorrupt, base, delta)
	case count < 0 || int64(count) > int64(delta)+1:
		return fmt.Errorf("%w: %d records in %d offsets", ErrCorrupt, count, int64(delta)+1)
	case !b.Codec().Valid():
		return fmt.Errorf("%w: unknown compression codec %d", ErrCorrupt, b.Codec())
	}
	return nil
}

// BaseOffset is the offset of the first record, or of the first there was
// before compaction.
func (b Batch) BaseOffset() int64 { return int64(binary.BigEndian.Uint64(b[posBaseOffset:])) }

// LeaderEpoch is the epoch of the leader that assigned the offsets.
func (b Batch) LeaderEpoch() int32 { return int32(binary.BigEndian.Uint32(b[posLeaderEpoch:])) }

// CRC is the checksum that the header states.
func (b Batch) CRC() uint32 { return binary.BigEndian.Uint32(b[posCRC:]) }

// LastOffsetDelta is the last offset less the base offset. Compaction keeps it.
func (b Batch) LastOffsetDelta() int32 { return int32(binary.BigEndian.Uint32(b[posLastOffsetDelta:])) }

// LastOffset is the offset of the last record, or of the last there was.
func (b Batch) LastOffset() int64 { return b.BaseOffset() + int64(b.LastOffsetDelta()) }

// NextOffset is the offset after the last.
func (b Batch) NextOffset() int64 { return b.LastOffset() + 1 }

// BaseTimestamp is what the records' time deltas count from, in milliseconds.
func (b Batch) BaseTimestamp() int64 { return int64(binary.BigEndian.Uint64(b[posBaseTimestamp:])) }

// MaxTimestamp is the largest timestamp, in milliseconds.
func (b Batch) MaxTimestamp() int64 { return int64(binary.BigEndian.Uint64(b[posMaxTimestamp:])) }

// ProducerID is the idempotent producer's id, or NoProducerID.
func (b Batch) ProducerID() int64 { return int64(binary.BigEndian.Uint64(b[posProducerID:])) }

// ProducerEpoch is the idempotent producer's epoch, or NoProducerEpoch.
func (b Batch) ProducerEpoch() int16 { return int16(binary.BigEndian.Uint16(b[posProducerEpoch:])) }

// BaseSequence is the sequence number of the first record, or NoSequence.
func (b Batch) BaseSequence() int32 { return int32(binary.BigEndian.Uint32(b[posBaseSequence:])) }

// Count is the number of records that are there now.
func (b Batch) Count() int32 { return int32(binary.BigEndian.Uint32(b[posCount:])) }

// Codec is how the records are compressed.
func (b Batch) Codec() compress.Codec { return compress.Codec(b.attributes() & attrCodec) }

// TimestampType says whose clock the timestamps are from.
func (b Batch) TimestampType() TimestampType {
	return TimestampType(b.attributes() & attrLogAppendTime >> 3)
}

// Transactional says whether the batch is part of a transaction.
func (b Batch) Transactional() bool { return b.attributes()&attrTransactional != 0 }

// Control says whether the records are the log's own: markers, never shown to
// consumers.
func (b Batch) Control() bool { return b.attributes()&attrControl != 0 }

// DeleteHorizon is when tombstones and markers in the batch may go, in
// milliseconds, if compaction has set it (KIP-534). It is kept in the base
// timestamp, and the records' time deltas count from it.
func (b Batch) DeleteHorizon() (ms int64, ok bool) {
	return b.BaseTimestamp(), b.attributes()&attrDeleteHorizon != 0
}

func (b Batch) attributes() uint16 { return binary.BigEndian.Uint16(b[posAttributes:]) }

// SetBaseOffset moves the batch to other offsets. The CRC does not cover it.
func (b Batch) SetBaseOffset(o int64) { binary.BigEndian.PutUint64(b[posBaseOffset:], uint64(o)) }

// SetLeaderEpoch says which leader assigned the offsets. The CRC does not
// cover it.
func (b Batch) SetLeaderEpoch(e int32) { binary.BigEndian.PutUint32(b[posLeaderEpoch:], uint32(e)) }

// SetProducer makes the batch one of an idempotent or transactional producer,
// which learns its sequence number after it has encoded. It renews the CRC, which
// must be right, without reading the records of a large batch.
func (b Batch) SetProducer(p Producer) { b.changeHead(func() { b.putProducer(p) }) }

// SetLogAppendTime gives every record the time ms without touching the
// records: the header's type and max timestamp say it. It renews the CRC as
// SetProducer does.
func (b Batch) SetLogAppendTime(ms int64) {
	b.changeHead(func() {
		binary.BigEndian.PutUint16(b[posAttributes:], b.attributes()|attrLogAppendTime)
		binary.BigEndian.PutUint64(b[posMaxTimestamp:], uint64(ms))
	})
}

func (b Batch) putProducer(p Producer) {
	attrs := b.attributes() &^ attrTransactional
	if p.Transactional {
		attrs |= attrTransactional
	}
	binary.BigEndian.PutUint16(b[posAttributes:], attrs)
	binary.BigEndian.PutUint64(b[posProducerID:], uint64(p.ID))
	binary.BigEndian.PutUint16(b[posProducerEpoch:], uint16(p.Epoch))
	binary.BigEndian.PutUint32(b[posBaseSequence:], uint32(p.Sequence))
}
