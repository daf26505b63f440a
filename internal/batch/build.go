package batch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/rifflelog/riffle/internal/compress"
	"github.com/rifflelog/riffle/internal/crc32c"
	"github.com/rifflelog/riffle/internal/prefetch"
)

// ErrTooLarge: more bytes than a limit allows. Kafka: MESSAGE_TOO_LARGE.
var ErrTooLarge = errors.New("record batch is too large")

// Producer is what a batch says of an idempotent producer.
type Producer struct {
	ID            int64
	Epoch         int16
	Sequence      int32 // of the first record
	Transactional bool
}

// NoProducer is what a batch says when its producer is not idempotent.
var NoProducer = Producer{ID: NoProducerID, Epoch: NoProducerEpoch, Sequence: NoSequence}

// HeaderField is any struct of a header's two fields, so that callers pass
// their own type without conversion.
type HeaderField interface {
	~struct {
		Key   string
		Value []byte
	}
}

// Builder encodes one batch after the other. Its zero value is ready; it keeps
// a buffer for compression between batches. It is for one goroutine at a time.
type Builder struct {
	buf   []byte // the caller's, with the batch from start on
	start int
	codec compress.Codec
	level int
	limit int // of Len

	// sum is the CRC of the records before buf[summed]; more are summed once buf has
	// sumAt bytes.
	sum           uint32
	summed, sumAt int

	count   int32
	baseTs  int64
	maxTs   int64
	scratch []byte // compressed records
}

// Begin starts a batch at the end of dst, which belongs to the builder until
// Finish gives it back. Its records are compressed by codec at level (see
// [compress.CheckLevel]).
func (b *Builder) Begin(dst []byte, codec compress.Codec, level int) {
	b.start = len(dst)
	b.buf = slices.Grow(dst, HeaderSize)[:len(dst)+HeaderSize]
	b.codec, b.level = codec, level
	b.sum, b.summed, b.sumAt = 0, len(b.buf), len(b.buf)+sumStep
	b.limit = MaxSize
	if codec != compress.None {
		b.limit = HeaderSize + MaxInflated
	}
	b.count, b.baseTs, b.maxTs = 0, NoTimestamp, NoTimestamp
}

// Limit makes Add refuse what would take the batch beyond n bytes, before
// compression. It may be called after Begin, and lowers the limit only: a batch
// has at most MaxSize bytes, and its records inflate to at most MaxInflated.
func (b *Builder) Limit(n int) { b.limit = min(b.limit, n) }

// Len is the size of the batch so far, in bytes, before compression.
func (b *Builder) Len() int { return len(b.buf) - b.start }

// Count is the number of records so far.
func (b *Builder) Count() int { return int(b.count) }

// Add appends a record to the batch that b builds. The timestamp is in
// milliseconds; a nil key or value is null, an empty one is not. On
// ErrTooLarge, when the batch would pass its limit, nothing is added or
// allocated; ErrInvalid says that there are more than MaxHeaders headers.
func Add[H HeaderField](b *Builder, timestamp int64, key, value []byte, headers []H) error {
	if len(headers) == 0 && b.AddSmall(timestamp, key, value) {
		return nil
	}
	size, err := headersSize(headers)
	if err != nil {
		return err
	}
	i, err := b.add(timestamp, key, value, size)
	if err != nil {
		return err
	}
	i = putVarint(b.buf, i, int64(len(headers)))
	for _, h := range headers {
		f := struct {
			Key   string
			Value []byte
		}(h)
		i = putVarint(b.buf, i, int64(len(f.Key)))
		i += copy(b.buf[i:], f.Key)
		i = putBytes(b.buf, i, f.Value)
	}
	return nil
}

// headersSize returns the encoded size of headers, with their count.
func headersSize[H HeaderField](headers []H) (int, error) {
	if len(headers) > MaxHeaders {
		return 0, fmt.Errorf("%w: %d headers, at most %d", ErrInvalid, len(headers), MaxHeaders)
	}
	size := int64(varintLen(int64(len(headers))))
	for _, h := range headers {
		f := struct {
			Key   string
			Value []byte
		}(h)
		size += int64(varintLen(int64(len(f.Key))) + len(f.Key) + bytesLen(f.Value))
	}
	if size > MaxInflated {
		return 0, fmt.Errorf("%w: headers of %d bytes", ErrTooLarge, size)
	}
	return int(size), nil
}

// add appends a record whose headers take size bytes, with their count, and
// returns where in b.buf they go.
func (b *Builder) add(ts int64, key, value []byte, size int) (at int, err error) {
	base := ts
	if b.count > 0 {
		base = b.baseTs
	}
	tsDelta, offsetDelta := zigzag(ts-base), zigzag(int64(b.count))
	body := 1 + uvarintLen(tsDelta) + uvarintLen(offsetDelta) + bytesLen(key) + bytesLen(value) + size
	total := varintLen(int64(body)) + body
	if b.Len()+total > b.limit || b.count == math.MaxInt32 {
		return 0, fmt.Errorf("%w: a record of %d bytes after %d, of at most %d", ErrTooLarge, total, b.Len(), b.limit)
	}
	if len(b.buf) >= b.sumAt {
		b.sumUp()
	}

	at = len(b.buf)
	b.buf = slices.Grow(b.buf, total)[:at+total]
	p, i := b.buf, at
	i = putVarint(p, i, int64(body))
	p[i] = 0 // attributes: none are defined
	i = putUvarint(p, i+1, tsDelta)
	i = putUvarint(p, i, offsetDelta)
	i = putBytes(p, i, key)
	i = putBytes(p, i, value)

	b.baseTs = base
	b.maxTs = max(b.maxTs, ts)
	b.count++
	return i, nil
}

// Bounds of what AddSmall adds: all numbers but the record's length take two bytes at
// most, and that takes two exactly.
const (
	smallNumber = 1 << 14
	smallLeast  = 1 << 6
	smallMost   = smallNumber/2 - smallHead
	smallHead   = 2 + 1 + 2 + 2 + 2 + 2 + 1 // what such a record has besides key and value
)

// ahead is how far ahead Prefetch looks, in bytes: a few records.
const ahead = 768

// Prefetch says that n more bytes will be added soon, to memory that somebody else may have
// read last.
func (b *Builder) Prefetch(n int) {
	if from := len(b.buf) + ahead; from+n <= cap(b.buf) {
		prefetch.Write(b.buf[from : from+n])
	}
}

// AddSmall is Add of a record without headers for most, in half its time: it returns false,
// and has done nothing, if this one has numbers that are too large or too small for it, or
// would pass the limit.
func (b *Builder) AddSmall(ts int64, key, value []byte) bool {
	if b.count == 0 {
		b.baseTs = ts
	}
	at, n := len(b.buf), len(key)+len(value)
	tsDelta, offsetDelta := zigzag(ts-b.baseTs), uint64(b.count)<<1
	if n < smallLeast || n > smallMost || tsDelta|offsetDelta >= smallNumber ||
		at+n+smallHead > min(cap(b.buf), b.start+b.limit) {
		return false
	}
	if len(b.buf) >= b.sumAt {
		b.sumUp()
	}

	p := b.buf[at : at+n+smallHead]
	p[2] = 0 // attributes
	i := putSmall(p, 3, tsDelta)
	i = putSmall(p, i, offsetDelta)
	i = putSmallBytes(p, i, key)
	i = putSmallBytes(p, i, value)
	p[i] = 0 // headers
	i++
	putSmall(p, 0, uint64(i-2)<<1)

	b.buf = b.buf[:at+i]
	b.maxTs = max(b.maxTs, ts)
	b.count++
	return true
}

// sumUp sums the records that were not.
func (b *Builder) sumUp() {
	if b.codec != compress.None {
		b.sumAt = math.MaxInt // what is summed is compressed first
		return
	}
	b.sum = crc32c.Update(b.sum, b.buf[b.summed:])
	b.summed, b.sumAt = len(b.buf), len(b.buf)+sumStep
}

// AddRecord is Add of a record that was read from a batch, with its headers as
// they are encoded there.
func (b *Builder) AddRecord(r *Record) error {
	count := int64(r.Headers.n)
	i, err := b.add(r.Timestamp, r.Key, r.Value, varintLen(count)+len(r.Headers.raw))
	if err != nil {
		return err
	}
	i = putVarint(b.buf, i, count)
	copy(b.buf[i:], r.Headers.raw)
	return nil
}

// Finish completes the batch and returns the buffer given to Begin with the
// batch at its end. The base offset is 0 and the leader epoch unknown, as a
// client sends it; the log assigns both. An error leaves the buffer as it was
// given to Begin.
func (b *Builder) Finish(p Producer) ([]byte, error) {
	return b.finish(p, 0)
}

func (b *Builder) finish(p Producer, attrs uint16) ([]byte, error) {
	summed := b.summed > b.start+HeaderSize // else they are few
	if summed {
		b.sumUp()
	}
	buf := b.buf
	b.buf = nil
	if b.count == 0 {
		return buf[:b.start], fmt.Errorf("%w: no records", ErrInvalid)
	}
	if b.codec != compress.None {
		var err error
		b.scratch, err = compress.Append(b.scratch[:0], b.codec, b.level, buf[b.start+HeaderSize:])
		if err != nil {
			return buf[:b.start], err
		}
		if len(b.scratch) > MaxSize-HeaderSize {
			return buf[:b.start], fmt.Errorf("%w: %d bytes compressed", ErrTooLarge, len(b.scratch))
		}
		buf = append(buf[:b.start+HeaderSize], b.scratch...)
		if cap(b.scratch) > maxKept {
			b.scratch = nil
		}
	}
	h := Batch(buf[b.start:])
	h.SetBaseOffset(0)
	binary.BigEndian.PutUint32(h[posLength:], uint32(len(h)-PrefixSize))
	h.SetLeaderEpoch(NoLeaderEpoch)
	h[posMagic] = Magic
	binary.BigEndian.PutUint16(h[posAttributes:], attrs|uint16(b.codec))
	binary.BigEndian.PutUint32(h[posLastOffsetDelta:], uint32(b.count-1))
	binary.BigEndian.PutUint64(h[posBaseTimestamp:], uint64(b.baseTs))
	binary.BigEndian.PutUint64(h[posMaxTimestamp:], uint64(b.maxTs))
	h.putProducer(p)
	binary.BigEndian.PutUint32(h[posCount:], uint32(b.count))
	if summed {
		h.putCRCOf(b.sum)
	} else {
		h.putCRC()
	}
	return buf, nil
}

// maxKept is the largest buffer that a Builder or Reader keeps for its next
// batch: Kafka's default max.message.bytes, with room.
const maxKept = 2 << 20

// bytesLen is the encoded size of a nullable byte string.
func bytesLen(p []byte) int {
	if p == nil {
		return 1
	}
	return varintLen(int64(len(p))) + len(p)
}

// putBytes encodes a nullable byte string at b[i:] and returns the index after it.
func putBytes(b []byte, i int, p []byte) int {
	if p == nil {
		b[i] = varintNull
		return i + 1
	}
	i = putVarint(b, i, int64(len(p)))
	return i + copy(b[i:], p)
}

// putSmallBytes is putBytes of fewer than smallNumber/2 bytes.
func putSmallBytes(b []byte, i int, p []byte) int {
	if p == nil {
		b[i] = varintNull
		return i + 1
	}
	i = putSmall(b, i, uint64(len(p))<<1)
	return i + copy(b[i:], p)
}
