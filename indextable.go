package riffle

import (
	"bytes"
	"fmt"
	"sort"
	"sync/atomic"
)

// indexEntry is an entry of an index as it is stored: a fixed number of bytes.
type indexEntry[E any] interface {
	size() int            // in the file; the same for all of a kind
	encode(b []byte)      // writes size bytes
	decode(b []byte) E    // reads them; the receiver does not matter
	follows(prev E) error // says why it cannot come after prev
}

// indexTable is what the kinds of index have in common: the content of the
// file, entry by entry in order. One goroutine at a time changes it, under the
// partition's lock; any number look things up meanwhile, without a lock.
type indexTable[E indexEntry[E]] struct {
	// block is nil before the first entry.
	//
	// A reader loads block, then its length, and looks at no byte beyond. The
	// writer writes an entry's bytes first and stores the length after them, so
	// whoever sees the length sees the bytes: an atomic store happens before
	// the load that observes it. Bytes below the length never change. So what
	// would change them, growing or truncation, makes a new block, and readers
	// of the old one finish with what they found there.
	block    atomic.Pointer[indexBlock]
	origin   E   // what the first entry follows; not in the file
	maxBytes int // of the file
}

// indexBlock is memory for entries.
type indexBlock struct {
	buf  []byte
	used atomic.Int64 // bytes of buf that are entries; only grows
}

// minIndexBlock is how many entries the first block has room for: most
// partitions of a log are small.
const minIndexBlock = 16

// push appends an entry, if there is room for it and for spare more. It
// allocates only when the block is full, each time twice as much.
func (t *indexTable[E]) push(e E, spare int) error {
	entries := t.entries()
	if err := e.follows(t.lastEntry()); err != nil {
		return fmt.Errorf("add entry %d: %w", entries.len(), err)
	}
	if !t.room(1 + spare) {
		return fmt.Errorf("add entry %d: index of at most %d bytes is full", entries.len(), t.maxBytes)
	}
	used, end := len(entries), len(entries)+e.size()
	b := t.block.Load()
	if b != nil && end <= len(b.buf) {
		e.encode(b.buf[used:end])
		b.used.Store(int64(end))
		return nil
	}
	grown := make([]byte, min(max(2*used, minIndexBlock*e.size()), t.maxBytes))
	copy(grown, entries)
	e.encode(grown[used:end])
	t.replace(grown, end)
	return nil
}

// parse takes over the content of a file, whose entries must follow each other.
// If the file may have been allocated ahead, zero entries at its end are cut.
func (t *indexTable[E]) parse(data []byte, ahead bool) error {
	size := t.origin.size()
	if len(data)%size != 0 {
		return fmt.Errorf("%d bytes are not a multiple of %d", len(data), size)
	}
	if ahead {
		used := len(bytes.TrimRight(data, "\x00"))
		data = data[:(used+size-1)/size*size] // the last entry may itself end with zeros
	}
	entries, prev := indexEntries[E](data), t.origin
	for i := range entries.len() {
		e := entries.at(i)
		if err := e.follows(prev); err != nil {
			return fmt.Errorf("entry %d: %w", i, err)
		}
		prev = e
	}
	t.replace(bytes.Clone(data), len(data))
	return nil
}

// cut drops the entries from the first one that is beyond.
func (t *indexTable[E]) cut(beyond func(E) bool) {
	entries := t.entries()
	keep := entries.search(beyond) * t.origin.size()
	if keep < len(entries) {
		t.replace(bytes.Clone(entries[:keep]), keep)
	}
}

// copyFrom takes over the entries of another.
func (t *indexTable[E]) copyFrom(other *indexTable[E]) {
	entries := other.entries()
	t.replace(bytes.Clone(entries), len(entries))
}

// floor returns the last entry before all that are above.
func (t *indexTable[E]) floor(above func(E) bool) (e E, ok bool) {
	e, _, ok = t.around(above)
	return e, ok
}

// around returns the last entry before all that are above, and the first of
// those; origin if there is none.
func (t *indexTable[E]) around(above func(E) bool) (e, next E, ok bool) {
	entries := t.entries()
	i := entries.search(above)
	e, next = t.origin, t.origin
	if i > 0 {
		e = entries.at(i - 1)
	}
	if i < entries.len() {
		next = entries.at(i)
	}
	return e, next, i > 0
}

// lastEntry returns the last entry; origin if there is none.
func (t *indexTable[E]) lastEntry() E {
	entries := t.entries()
	if len(entries) == 0 {
		return t.origin
	}
	return entries.at(entries.len() - 1)
}

// room says whether n more entries fit.
func (t *indexTable[E]) room(n int) bool {
	return len(t.entries())+n*t.origin.size() <= t.maxBytes
}

// len returns how many entries there are.
func (t *indexTable[E]) len() int { return t.entries().len() }

// bytesFrom returns the content of the file from byte pos on, nil if it ends
// there or before: what is to be written when the file has pos bytes. After a
// truncation it is the caller's to cut the file before he writes more. The
// bytes do not change, and must not be changed.
func (t *indexTable[E]) bytesFrom(pos int) []byte {
	if entries := t.entries(); pos < len(entries) {
		return entries[pos:]
	}
	return nil
}

func (t *indexTable[E]) replace(buf []byte, used int) {
	b := &indexBlock{buf: buf}
	b.used.Store(int64(used))
	t.block.Store(b)
}

// entries returns what there is now; later changes do not touch it.
func (t *indexTable[E]) entries() indexEntries[E] {
	b := t.block.Load()
	if b == nil {
		return nil
	}
	used := b.used.Load()
	return b.buf[:used:used]
}

// indexEntries are encoded entries.
type indexEntries[E indexEntry[E]] []byte

func (s indexEntries[E]) len() int {
	var e E
	return len(s) / e.size()
}

func (s indexEntries[E]) at(i int) E {
	var e E
	return e.decode(s[i*e.size():])
}

// search returns the first i for which f is true of entry i, as it must be of
// all after it; the number of entries if there is none.
func (s indexEntries[E]) search(f func(E) bool) int {
	return sort.Search(s.len(), func(i int) bool { return f(s.at(i)) })
}
