package riffle

import (
	"encoding/binary"
	"fmt"
	"math"
)

// offsetIndex finds the place of an offset in a segment: the content of its
// .index file, in Kafka's format. It knows some of the batches:
//
//	0        4        8
//	+--------+--------+
//	| offset | pos    |  int32 each, big endian
//	+--------+--------+
//
// offset is the last offset of an append, less the segment's base; pos is the
// byte of the segment at which its first batch begins.
//
// Both grow strictly, from 0. The beginning of the segment has no entry: it is
// where to look when no entry is found. So no entry has a zero in it, and an
// entry of zeros is space that was allocated ahead. Kafka, too, writes an entry
// only when more than index.interval.bytes, 0 or more, lie before the batch.
//
// One goroutine at a time changes it, any number look things up.
type offsetIndex struct {
	base Offset
	indexTable[offsetEntry]
}

// newOffsetIndex returns the index of an empty segment. Its file may have up to
// maxBytes. Kafka: segment.index.bytes.
func newOffsetIndex(base Offset, maxBytes int) *offsetIndex {
	return &offsetIndex{base, indexTable[offsetEntry]{maxBytes: maxBytes}}
}

// loadOffsetIndex returns the index that data, the content of a file, holds for
// a segment of segmentSize bytes. Space allocated ahead is cut, so the file may
// be longer than the index. Not checked is what only the segment shows: that a
// batch begins at the position, and which offsets it has.
func loadOffsetIndex(data []byte, base Offset, segmentSize int64, maxBytes int) (*offsetIndex, error) {
	x := newOffsetIndex(base, maxBytes)
	if err := x.parse(data, true); err != nil {
		return nil, fmt.Errorf("offset index: %w", err)
	}
	if _, pos := x.last(); pos > 0 && pos >= segmentSize {
		return nil, fmt.Errorf("offset index: entry %d: position %d is beyond the segment's %d bytes",
			x.len()-1, pos, segmentSize)
	}
	return x, nil
}

// add takes note of an append whose first batch begins at byte pos, not 0, and
// whose last offset is last.
func (x *offsetIndex) add(last Offset, pos int64) error {
	rel, err := relativeOffset(x.base, last)
	if err == nil && (pos <= 0 || pos > math.MaxInt32) {
		err = fmt.Errorf("position %d is not in [1, %d]", pos, math.MaxInt32)
	}
	if err == nil {
		err = x.push(offsetEntry{rel, int32(pos)}, 0)
	}
	if err != nil {
		return fmt.Errorf("offset index: %w", err)
	}
	return nil
}

// find returns the last entry with an offset of at most target: what lies
// before byte pos also lies before target. Without such an entry it returns the
// beginning of the segment.
func (x *offsetIndex) find(target Offset) (at Offset, pos int64, ok bool) {
	at, pos, _, ok = x.findBetween(target)
	return at, pos, ok
}

// findBetween is find, and says at which byte the entry after it is, 0 if there is
// none.
func (x *offsetIndex) findBetween(target Offset) (at Offset, pos, next int64, ok bool) {
	e, after, ok := x.around(func(e offsetEntry) bool { return x.base+Offset(e.rel) > target })
	return x.base + Offset(e.rel), int64(e.pos), int64(after.pos), ok
}

// findPos returns the last entry with a position of at most pos. Without one it
// returns the beginning of the segment.
func (x *offsetIndex) findPos(pos int64) (at Offset, atPos int64, ok bool) {
	e, ok := x.floor(func(e offsetEntry) bool { return int64(e.pos) > pos })
	return x.base + Offset(e.rel), int64(e.pos), ok
}

// last returns the last entry, or the beginning of the segment.
func (x *offsetIndex) last() (at Offset, pos int64) {
	e := x.lastEntry()
	return x.base + Offset(e.rel), int64(e.pos)
}

// full says whether nothing more can be added: time for a new segment.
func (x *offsetIndex) full() bool { return !x.room(1) }

// truncate drops the entries at or beyond byte pos, where the segment is cut.
func (x *offsetIndex) truncate(pos int64) {
	x.cut(func(e offsetEntry) bool { return int64(e.pos) >= pos })
}

// offsetEntry is an entry as it is stored.
type offsetEntry struct{ rel, pos int32 }

func (offsetEntry) size() int { return 8 }

func (e offsetEntry) encode(b []byte) {
	binary.BigEndian.PutUint32(b, uint32(e.rel))
	binary.BigEndian.PutUint32(b[4:], uint32(e.pos))
}

func (offsetEntry) decode(b []byte) offsetEntry {
	return offsetEntry{int32(binary.BigEndian.Uint32(b)), int32(binary.BigEndian.Uint32(b[4:]))}
}

func (e offsetEntry) follows(prev offsetEntry) error {
	if e.rel <= prev.rel {
		return fmt.Errorf("relative offset %d is not above %d", e.rel, prev.rel)
	}
	if e.pos <= prev.pos {
		return fmt.Errorf("position %d is not above %d", e.pos, prev.pos)
	}
	return nil
}

// relativeOffset returns o less base, the segment's, as indexes store it. What
// has no relative offset does not belong into the segment.
func relativeOffset(base, o Offset) (int32, error) {
	if o < base || o-base > math.MaxInt32 {
		return 0, fmt.Errorf("offset %d is not in the %d from %d on", o, int64(math.MaxInt32)+1, base)
	}
	return int32(o - base), nil
}
