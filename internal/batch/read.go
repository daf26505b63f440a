package batch

import (
	"fmt"
	"iter"
	"slices"

	"github.com/rifflelog/riffle/internal/compress"
)

// Record is one record of a batch. Key, Value and Headers are parts of the
// batch's bytes, or of the reader's buffer if the batch is compressed: valid
// until the reader's next Reset.
type Record struct {
	Offset     int64
	Timestamp  int64 // milliseconds, or NoTimestamp
	Key, Value []byte
	Headers    Headers
}

// Move copies the record's bytes to the end of buf and makes the record refer to
// the copy.
func (r *Record) Move(buf []byte) []byte {
	move := func(p []byte) []byte {
		if p == nil {
			return nil
		}
		n := len(buf)
		buf = append(buf, p...)
		return buf[n:len(buf):len(buf)]
	}
	buf = slices.Grow(buf, len(r.Key)+len(r.Value)+len(r.Headers.raw))
	r.Key, r.Value, r.Headers.raw = move(r.Key), move(r.Value), move(r.Headers.raw)
	return buf
}

// Headers is the headers of a record, still encoded. They have been checked:
// iterating cannot fail.
type Headers struct {
	n   int
	raw []byte
}

// Len is the number of headers.
func (h Headers) Len() int { return h.n }

// Size is how many bytes the headers take, encoded.
func (h Headers) Size() int { return len(h.raw) }

// All iterates over keys and values, in the order they were sent. Both are
// parts of the record's memory; a nil value is null.
func (h Headers) All() iter.Seq2[[]byte, []byte] {
	return func(yield func(key, value []byte) bool) {
		p := h.raw
		for range h.n {
			key, n := getBytes(p)
			value, m := getBytes(p[n:])
			p = p[n+m:]
			if !yield(key, value) {
				return
			}
		}
	}
}

// Reader iterates over the records of one batch after the other:
//
//	r.Reset(b, limit)
//	for r.Next() {
//		use(&r.Record)
//	}
//	return r.Err()
//
// Its zero value is ready; it keeps a buffer for inflated records. It is for
// one goroutine at a time.
type Reader struct {
	// Record is the record that Next went to. Only Next changes it.
	Record Record

	data  []byte // records not read yet
	count int32  // of them
	last  int64  // offset delta of the record read last

	base, maxTs   int64
	baseTs        int64
	lastDelta     int64
	logAppendTime bool
	anyOrder      bool // offset deltas are not checked: a Validator numbers the records anew

	err      error
	inflated []byte
}

// Reset goes to the beginning of b, which must have passed [Batch.Check].
// Compressed records are inflated, to at most limit bytes: more is ErrCorrupt
// wrapping [compress.ErrTooLarge]. After an error Next returns false and Err
// the same error.
func (r *Reader) Reset(b Batch, limit int) error {
	r.Release()
	r.data = b[HeaderSize:]
	if b.Codec() != compress.None {
		if r.inflated, r.err = compress.AppendDecoded(r.inflated[:0], b.Codec(), r.data, limit); r.err != nil {
			r.data, r.err = nil, fmt.Errorf("%w: %w", ErrCorrupt, r.err)
			return r.err
		}
		r.data = r.inflated
	}
	r.count = b.Count()
	r.last = -1
	r.base, r.baseTs, r.maxTs = b.BaseOffset(), b.BaseTimestamp(), b.MaxTimestamp()
	r.lastDelta = int64(b.LastOffsetDelta())
	r.logAppendTime = b.TimestampType() == LogAppendTime
	if int64(r.count)*minRecordSize > int64(len(r.data)) {
		r.fail("%d records in %d bytes", r.count, len(r.data))
	}
	return r.err
}

// Release lets go of the batch, and of an inflation buffer too large to keep.
func (r *Reader) Release() {
	r.data, r.count, r.err = nil, 0, nil
	r.Record = Record{}
	if cap(r.inflated) > maxKept {
		r.inflated = nil
	}
}

// Remaining is the number of bytes of records that Next has not read: no more
// than that many bytes of keys and values are to come.
func (r *Reader) Remaining() int { return len(r.data) }

// Next goes to the next record. It returns false after the last one, or when
// the records are not well formed: see Err.
func (r *Reader) Next() bool {
	if r.err != nil {
		return false
	}
	if r.count == 0 {
		if len(r.data) > 0 {
			r.fail("%d bytes after the last record", len(r.data))
		}
		return false
	}
	tsDelta, offsetDelta, n := parseSmall(r.data, &r.Record)
	if n == 0 {
		tsDelta, offsetDelta, n = parse(r.data, &r.Record)
	}
	if n == 0 || !r.anyOrder && (offsetDelta <= r.last || offsetDelta > r.lastDelta) {
		r.fail("record is malformed (%d to come, offset delta %d after %d)", r.count, offsetDelta, r.last)
		return false
	}
	r.data = r.data[n:]
	r.count--
	r.last = offsetDelta
	r.Record.Offset = r.base + offsetDelta
	if r.logAppendTime {
		r.Record.Timestamp = r.maxTs
	} else {
		r.Record.Timestamp = r.baseTs + tsDelta
	}
	return true
}

// NextKey is Next for who looks at keys alone: of Record only Offset and Key are
// set. What else the record holds is neither decoded nor checked.
func (r *Reader) NextKey() bool {
	if r.count == 0 || r.err != nil {
		return r.Next() // which says how it ends
	}
	offsetDelta, n := parseKey(r.data, &r.Record.Key)
	if n == 0 || !r.anyOrder && (offsetDelta <= r.last || offsetDelta > r.lastDelta) {
		r.fail("record is malformed (%d to come, offset delta %d after %d)", r.count, offsetDelta, r.last)
		return false
	}
	r.data = r.data[n:]
	r.count--
	r.last = offsetDelta
	r.Record.Offset = r.base + offsetDelta
	return true
}

// Err is why Next or NextKey returned false: nil after the last record, else
// ErrCorrupt.
func (r *Reader) Err() error { return r.err }

func (r *Reader) fail(format string, args ...any) {
	r.data, r.count = nil, 0
	r.Record = Record{}
	r.err = fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}

// parse reads the record at the beginning of data into rec, without offset and
// timestamp, and returns its two deltas and its size: 0 if it is malformed.
// Every length is checked against what is there before it is used. What most
// records do not have is not stored: while garbage is collected, a store of a
// pointer to the heap takes longer than all else here.
func parse(data []byte, rec *Record) (tsDelta, offsetDelta int64, size int) {
	body, n := varint32(data)
	if n == 0 || body < minRecordSize-1 || body > int64(len(data)-n) {
		return 0, 0, 0
	}
	size = n + int(body)
	p := data[n+1 : size : size] // the attributes byte has no meaning yet
	if tsDelta, n = varint(p); n == 0 {
		return 0, 0, 0
	}
	p = p[n:]
	if offsetDelta, n = varint32(p); n == 0 {
		return 0, 0, 0
	}
	p = p[n:]
	key, n := getBytes(p)
	if n == 0 {
		return 0, 0, 0
	}
	if key != nil || rec.Key != nil {
		rec.Key = key
	}
	p = p[n:]
	if rec.Value, n = getBytes(p); n == 0 {
		return 0, 0, 0
	}
	p = p[n:]
	headers, n := varint32(p)
	if n == 0 || headers < 0 || headers > MaxHeaders {
		return 0, 0, 0
	}
	p = p[n:]
	if !headersOK(p, headers) {
		return 0, 0, 0
	}
	if headers != 0 || rec.Headers.n != 0 {
		rec.Headers = Headers{n: int(headers), raw: p}
	}
	return tsDelta, offsetDelta, size
}

// parseSmall is parse for most records, in half its time: it returns a size of 0, and has
// stored nothing, if this one has headers, or a number that takes more than two bytes, or is
// malformed.
func parseSmall(data []byte, rec *Record) (tsDelta, offsetDelta int64, size int) {
	if len(data) < maxSmallHead {
		return 0, 0, 0
	}
	length, i := small(data, 0)
	size = i + int(length>>1)
	ts, i := small(data, i+1) // the attributes byte has no meaning yet
	offset, i := small(data, i)
	k, i := small(data, i)
	if (length|offset)&1 != 0 || length|ts|offset|k >= smallNumber || size > len(data) {
		return 0, 0, 0
	}
	var key []byte
	if k != varintNull {
		end := i + int(k>>1)
		if k&1 != 0 || end > size {
			return 0, 0, 0
		}
		key, i = data[i:end:end], end
	}
	if i+2 > size {
		return 0, 0, 0
	}
	v, i := small(data, i)
	end := i + int(v>>1)
	if v&1 != 0 || v >= smallNumber || end != size-1 || data[end] != 0 {
		return 0, 0, 0
	}
	if key != nil || rec.Key != nil {
		rec.Key = key
	}
	if rec.Headers.n != 0 {
		rec.Headers = Headers{}
	}
	rec.Value = data[i:end:end]
	return int64(ts>>1) ^ -int64(ts&1), int64(offset >> 1), size
}

// maxSmallHead is how many bytes parseSmall looks at before it knows how many there are:
// length, attributes, two deltas and the length of the key.
const maxSmallHead = 2 + 1 + 2 + 2 + 2

// small reads an unsigned number at p[i] that takes one byte or two: it is smallNumber or
// larger if it takes more. It returns the index behind it.
func small(p []byte, i int) (u uint64, next int) {
	if p[i] < 0x80 {
		return uint64(p[i]), i + 1
	}
	return uint64(p[i]&0x7f) | uint64(p[i+1])<<7, i + 2
}

// parseKey is parse for offset and key alone.
func parseKey(data []byte, key *[]byte) (offsetDelta int64, size int) {
	body, n := varint32(data)
	if n == 0 || body < minRecordSize-1 || body > int64(len(data)-n) {
		return 0, 0
	}
	size = n + int(body)
	p := data[n+1 : size : size]
	if _, n = varint(p); n == 0 {
		return 0, 0
	}
	p = p[n:]
	if offsetDelta, n = varint32(p); n == 0 {
		return 0, 0
	}
	if *key, n = getBytes(p[n:]); n == 0 {
		return 0, 0
	}
	return offsetDelta, size
}

// getBytes reads a nullable byte string and returns it with the number of
// bytes that it took with its length: 0 if p is too short.
func getBytes(p []byte) (b []byte, size int) {
	l, n := varint32(p)
	switch {
	case n == 0 || l < -1 || l > int64(len(p)-n):
		return nil, 0
	case l == -1:
		return nil, n
	}
	size = n + int(l)
	return p[n:size:size], size
}

// headersOK says whether p is exactly count headers.
func headersOK(p []byte, count int64) bool {
	for ; count > 0; count-- {
		key, n := getBytes(p)
		if n == 0 || key == nil {
			return false // a header's key is not nullable
		}
		_, m := getBytes(p[n:])
		if m == 0 {
			return false
		}
		p = p[n+m:]
	}
	return len(p) == 0
}

// Claimed returns how many bytes belong for sure to the batch that begins b and is
// damaged or torn off: as far as its records reach, each of which says how long it
// is, but no further than the size that its header states. So no other batch
// begins there, whatever the bytes look like. It may be more than b has. It is 0
// if b begins with no header, or compressed records say nothing.
func Claimed(b []byte) int {
	size, err := Size(b)
	if err != nil || len(b) < HeaderSize || b[posMagic] != Magic || Batch(b).Codec() != compress.None {
		return 0
	}
	reach := HeaderSize
	for range Batch(b).Count() {
		if reach >= len(b) {
			break
		}
		body, n := varint32(b[reach:])
		if n == 0 || body < minRecordSize-1 || body > int64(size-reach-n) {
			break // torn off, or one of the two lies
		}
		reach += n + int(body)
	}
	return reach
}
