package riffle

import (
	"fmt"
	"iter"
	"time"

	"github.com/rifflelog/riffle/internal/batch"
)

// Offset is a record's place in its partition, counted from 0. A partition's
// offsets grow and have gaps where nothing is shown.
type Offset int64

// Places that are named rather than counted, for the methods that take one.
const (
	// Earliest is the first offset there is.
	Earliest Offset = -2
	// Latest is the readable end: the offset that the next committed record
	// will have.
	Latest Offset = -1
	// NoOffset is returned where there is no offset to return.
	NoOffset Offset = -1001
)

// Record is one record: what is appended, and what reading returns. It is the
// caller's for good, with all that it points to. Records that are read together
// may share memory, so one small record that is kept can keep 32 KiB.
type Record struct {
	Topic       string // set by reading; Partition.Append ignores it
	Partition   int    // likewise
	Offset      Offset // likewise
	LeaderEpoch int32  // likewise: the epoch in which the offset was assigned
	// Timestamp has millisecond precision and is in UTC when read. Zero, when
	// appended, means now. Before 1970 is ErrInvalidRecord, as in Kafka.
	Timestamp time.Time
	Key       []byte   // nil is no key, empty is a key
	Value     []byte   // nil is a tombstone in a compacted topic, empty is a value
	Headers   []Header // in order; keys may repeat
}

// Header is one header of a record. A record may have several of the same key,
// and keeps their order.
type Header struct {
	Key   string // may be empty
	Value []byte // nil is null, empty is a value
}

// Header returns the value of the last header with that key, as Kafka's
// lastHeader does.
func (r Record) Header(key string) (value []byte, ok bool) {
	for i := len(r.Headers) - 1; i >= 0; i-- {
		if r.Headers[i].Key == key {
			return r.Headers[i].Value, true
		}
	}
	return nil, false
}

// TopicPartition names a partition.
type TopicPartition struct {
	Topic     string // its name
	Partition int    // from 0
}

// String returns the name of the partition's directory: "orders-0".
func (tp TopicPartition) String() string { return fmt.Sprintf("%s-%d", tp.Topic, tp.Partition) }

// View is a record that is lent: it, and all memory that its methods return, is
// valid until the loop body that got it ends. [View.Clone] keeps it. A View is
// for one goroutine at a time.
// The zero View, which comes with an error, is an empty record.
type View struct{ r *reader }

// noReader is behind the zero View.
var noReader = func() *reader {
	r := &reader{p: &Partition{topic: new(Topic)}}
	r.records.Record.Timestamp = batch.NoTimestamp
	return r
}()

func (v View) reader() *reader {
	if v.r == nil {
		return noReader
	}
	return v.r
}

func (v View) rec() *batch.Record { return &v.reader().records.Record }

// Offset is the record's offset.
func (v View) Offset() Offset { return Offset(v.rec().Offset) }

// Timestamp is the record's time in UTC, with millisecond precision; the zero
// time if it has none.
func (v View) Timestamp() time.Time { return timeOf(v.rec().Timestamp) }

// Key is the key: nil for none. Lent memory, not to be changed.
func (v View) Key() []byte { return v.rec().Key }

// Value is the value: nil for a tombstone. Lent memory, not to be changed.
func (v View) Value() []byte { return v.rec().Value }

// Headers iterates over the headers' keys and values in their order. Lent
// memory, not to be changed.
func (v View) Headers() iter.Seq2[[]byte, []byte] { return v.rec().Headers.All() }

// Header returns the value of the last header with that key. Lent memory, not
// to be changed.
func (v View) Header(key string) (value []byte, ok bool) {
	for k, val := range v.rec().Headers.All() {
		if string(k) == key {
			value, ok = val, true
		}
	}
	return value, ok
}

// Clone returns the record with memory of its own.
func (v View) Clone() Record {
	var a arena
	return a.record(v)
}

// arenaSize is how much memory records that are read together share at most: a
// reader that keeps one record of each arena keeps 32 KiB for it. More would be no small object
// to the garbage collector, which takes longer to make.
const arenaSize = 32 << 10

// arena hands out copies of byte strings from shared allocations: one a chunk
// of records rather than two a record.
type arena struct {
	buf  []byte
	used int // of buf
	// ahead says that the records that follow are to be copied too. A chunk is no
	// larger than what there is still to copy in the batch.
	ahead bool
}

// record copies the record that v shows.
func (a *arena) record(v View) (rec Record) {
	a.fill(&rec, v.reader())
	return rec
}

// fill copies the record that from shows into rec, which is empty.
func (a *arena) fill(rec *Record, from *reader) {
	r := &from.records.Record
	a.reserve(len(r.Key)+len(r.Value), from)
	rec.Topic, rec.Partition = from.p.topic.name, from.p.index
	rec.Offset, rec.LeaderEpoch = Offset(r.Offset), from.epoch
	rec.Timestamp = timeOf(r.Timestamp)
	if r.Key != nil {
		rec.Key = a.clone(r.Key)
	}
	if r.Value != nil {
		rec.Value = a.clone(r.Value)
	}
	if n := r.Headers.Len(); n > 0 {
		rec.Headers = make([]Header, 0, n)
		a.reserve(r.Headers.Size(), from)
		for k, val := range r.Headers.All() {
			rec.Headers = append(rec.Headers, Header{Key: string(k), Value: a.clone(val)})
		}
	}
}

// reserve makes room for n bytes in one piece.
func (a *arena) reserve(n int, from *reader) {
	if n <= len(a.buf)-a.used {
		return
	}
	size := n
	if a.ahead {
		size = max(n, min(arenaSize, from.recordBytes()))
	}
	a.buf, a.used = make([]byte, size), 0
}

// clone copies p, for which there is room, and keeps nil nil and empty empty.
// The copy's capacity ends with it, so that appending to it harms no other.
func (a *arena) clone(p []byte) []byte {
	switch {
	case p == nil:
		return nil
	case len(p) == 0:
		return []byte{} // a part of p would keep all of its memory
	}
	first := a.used
	a.used += copy(a.buf[first:], p)
	return a.buf[first:a.used:a.used]
}

// timeOf turns a batch's milliseconds into a time.
func timeOf(ms int64) time.Time {
	if ms == batch.NoTimestamp {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}
