package riffle

import (
	"sort"
	"sync/atomic"
)

// indexInterval is how many bytes of batches one index entry stands for: what a
// look-up may have to walk through. Kafka: index.interval.bytes.
const indexInterval = 4096

// positions finds the place of an offset in a file: a sparse list of batches,
// kept in memory and built by recovery. One goroutine at a time adds to it, any
// number look up.
type positions struct {
	// entries is replaced as a whole. Elements beyond its length are written
	// before it is, and nobody looks at them until then.
	entries atomic.Pointer[[]position]
	last    int64 // pos of the last entry; the writer's
}

// position says that a batch with that base offset begins at byte pos.
type position struct {
	base Offset
	pos  int64
}

// add takes note of a batch. Unless it must be found exactly, it is left out if
// the last entry is near.
func (x *positions) add(base Offset, pos int64, exactly bool) {
	old := x.load()
	if len(old) > 0 && !exactly && pos-x.last < indexInterval {
		return
	}
	entries := append(old, position{base, pos})
	x.entries.Store(&entries)
	x.last = pos
}

// find returns the last entry at or before o, false if there is none.
func (x *positions) find(o Offset) (position, bool) {
	entries := x.load()
	i := sort.Search(len(entries), func(i int) bool { return entries[i].base > o })
	if i == 0 {
		return position{}, false
	}
	return entries[i-1], true
}

func (x *positions) load() []position {
	if p := x.entries.Load(); p != nil {
		return *p
	}
	return nil
}
