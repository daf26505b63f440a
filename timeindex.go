package riffle

import (
	"encoding/binary"
	"fmt"

	"github.com/rifflelog/riffle/internal/batch"
)

// timeIndex finds where in a segment to begin looking for a timestamp: the
// content of its .timeindex file, in Kafka's format.
//
//	0                 8        12
//	+-----------------+--------+
//	| timestamp       | offset |  int64, int32, big endian
//	+-----------------+--------+
//
// timestamp is the largest, in milliseconds, of all records up to and including
// offset, which is stored less the segment's base. Timestamps grow strictly,
// from 0; offsets do not go back.
//
// One goroutine at a time changes it, any number look things up.
type timeIndex struct {
	base Offset
	indexTable[timeEntry]
}

// newTimeIndex returns the index of an empty segment. Its file may have up to
// maxBytes. Kafka: segment.index.bytes.
func newTimeIndex(base Offset, maxBytes int) *timeIndex {
	origin := timeEntry{ts: batch.NoTimestamp}
	return &timeIndex{base, indexTable[timeEntry]{origin: origin, maxBytes: maxBytes}}
}

// loadTimeIndex returns the index that data, the content of a file, holds.
// Space allocated ahead is cut, so the file may be longer than the index.
// Whether the offset of last is in the segment is the caller's to check.
//
// An entry of zeros can be real: timestamp 0 at the segment's base. It is the
// first then, and the only one, as timestamps grow. It is kept if others
// follow, or if it is the whole file, as when the file was trimmed. In a file
// that was allocated ahead it is taken for more of the same: that segment was
// not closed, so its index is made anew anyway.
func loadTimeIndex(data []byte, base Offset, maxBytes int) (*timeIndex, error) {
	x := newTimeIndex(base, maxBytes)
	if err := x.parse(data, len(data) > x.origin.size()); err != nil {
		return nil, fmt.Errorf("time index: %w", err)
	}
	return x, nil
}

// maybeAdd takes note, whenever the offset index gets an entry, of the largest
// timestamp in the segment and the last offset of the first batch that has it.
// It adds nothing if the timestamp is that of the last entry, or NoTimestamp.
// Going back is an error.
func (x *timeIndex) maybeAdd(ts int64, o Offset) error { return x.maybePush(ts, o, 1) }

// maybeAddClosing is maybeAdd for the end of the segment, so that the last entry
// holds its largest timestamp. It may take the place that full keeps free.
func (x *timeIndex) maybeAddClosing(ts int64, o Offset) error { return x.maybePush(ts, o, 0) }

func (x *timeIndex) maybePush(ts int64, o Offset, spare int) error {
	rel, err := relativeOffset(x.base, o)
	if last := x.lastEntry(); err == nil && (ts != last.ts || rel < last.rel) {
		err = x.push(timeEntry{ts, rel}, spare)
	}
	if err != nil {
		return fmt.Errorf("time index: %w", err)
	}
	return nil
}

// find returns the offset of the last entry with a timestamp of at most ts:
// records before it have no larger timestamp than the entry's, and the first
// record of at least ts is in its batch or after it. Without such an entry it
// returns the segment's base.
func (x *timeIndex) find(ts int64) (at Offset, ok bool) {
	e, ok := x.floor(func(e timeEntry) bool { return e.ts > ts })
	return x.base + Offset(e.rel), ok
}

// last returns the last entry: once the segment is closed, its largest
// timestamp. If there is none, batch.NoTimestamp and the segment's base.
func (x *timeIndex) last() (ts int64, at Offset) {
	e := x.lastEntry()
	return e.ts, x.base + Offset(e.rel)
}

// full says whether only the closing entry fits: time for a new segment.
func (x *timeIndex) full() bool { return !x.room(2) }

// truncate drops the entries with offsets of o and above.
func (x *timeIndex) truncate(o Offset) {
	x.cut(func(e timeEntry) bool { return x.base+Offset(e.rel) >= o })
}

// timeEntry is an entry as it is stored.
type timeEntry struct {
	ts  int64
	rel int32
}

func (timeEntry) size() int { return 12 }

func (e timeEntry) encode(b []byte) {
	binary.BigEndian.PutUint64(b, uint64(e.ts))
	binary.BigEndian.PutUint32(b[8:], uint32(e.rel))
}

func (timeEntry) decode(b []byte) timeEntry {
	return timeEntry{int64(binary.BigEndian.Uint64(b)), int32(binary.BigEndian.Uint32(b[8:]))}
}

func (e timeEntry) follows(prev timeEntry) error {
	if e.rel < prev.rel {
		return fmt.Errorf("relative offset %d is below %d", e.rel, prev.rel)
	}
	if e.ts <= prev.ts {
		return fmt.Errorf("timestamp %d is not above %d", e.ts, prev.ts)
	}
	return nil
}
