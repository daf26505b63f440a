package memfs

import (
	"encoding/binary"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"
)

const (
	pageBytes   = 4096
	sectorBytes = 512 // what a disk writes as a whole

	// maxPast is how many states of a page, and how many sizes of a file, are
	// remembered since the last flush. One more takes the place of another, so
	// that those kept are spread over that time: see crowded.
	maxPast = 8
)

// page is 4 KiB of a file.
//
// The disk may hold any state of past that belongs to its age, or the live one.
// A cut inside a page leaves it in its place on the disk, where it is then
// written over, also if the cut itself is lost: states of later ages may be
// there too. A cut that takes the whole page away ends that: what is written
// there afterwards has another place, which is not the file's without the cut.
// Invariant: if neither dirty nor lost, past is empty and live is on the disk.
type page struct {
	live block // first, to be aligned for atomic access

	// mu gives stores through mappings an order. They hold the file's mu for
	// reading; whoever holds it for writing needs no mu. It guards all that
	// follows. Bytes of live are copied without it, so that it hides no race
	// from the race detector.
	mu    sync.Mutex
	dirty bool    // changed since the last flush, also one that failed
	lost  bool    // a flush of it failed since the last one that worked on it
	past  []state // before live, oldest first
	clock int     // how many were put there
	age   int     // that live belongs to: the number of the last cut that changed it

	// still is what live is after the stores through mappings so far. While
	// they run live is at no moment at rest, and cannot be remembered itself.
	// It counts only if stored: since the first of them after any other change.
	still  *block
	stored bool
	spare  *block // no longer in past, to be used again
}

type block [pageBytes]byte

// state is what a page was; nil means zeros.
type state struct {
	age   int
	time  int // by the page's clock
	data  *block
	fresh bool // the cut that began its age took the whole page away
}

// change is called before live is changed by all but stores through a mapping.
func (p *page) change() {
	p.remember(&p.live)
	p.dirty, p.stored = true, false
}

// store copies b to the given byte on behalf of a mapping.
func (p *page) store(from int, b []byte) {
	p.mu.Lock()
	p.willStore(from, b)
	p.mu.Unlock()
	copy(p.live[from:], b)
}

// storeWord stores all at once, and in the order in which words are remembered.
func (p *page) storeWord(from int, v uint64) {
	var b [8]byte
	binary.NativeEndian.PutUint64(b[:], v)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.willStore(from, b[:])
	atomic.StoreUint64((*uint64)(unsafe.Pointer(&p.live[from])), v)
}

// touch does what making the page writable for a mapping does.
func (p *page) touch() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.willStore(0, nil)
}

// willStore is called before b is stored through a mapping. The caller holds mu.
func (p *page) willStore(from int, b []byte) {
	if p.still == nil {
		p.still = new(block)
	}
	if !p.stored {
		*p.still = p.live // no store has begun since it was changed otherwise
	}
	p.remember(p.still)
	copy(p.still[from:], b)
	p.dirty, p.stored = true, true
}

// remember adds what the page is now to past.
func (p *page) remember(now *block) {
	if n := len(p.past); n > 0 && p.past[n-1].age == p.age && p.past[n-1].is(now) {
		return
	}
	data := p.spare
	if p.spare = nil; data == nil {
		data = new(block)
	}
	*data = *now
	p.add(state{age: p.age, data: data})
}

// add adds s to past, and may forget another one.
func (p *page) add(s state) {
	s.time = p.clock
	p.clock++
	p.past = append(p.past, s)
	if i := crowded(p.past, func(s state) (int, int) { return s.age, s.time }); i > 0 {
		p.spare = p.past[i].data
		p.past = slices.Delete(p.past, i, i+1)
	}
}

// cut zeroes the page from the given byte on, because the file ends there in
// the new age. What the disk may hold of the page in that age is what it held
// before, cut in the same way.
func (p *page) cut(from, age int) {
	p.change()
	if from == 0 {
		p.add(state{age: age, fresh: true})
	} else {
		for _, s := range slices.Clone(p.past) {
			if s.age == p.age {
				p.add(s.cut(from, age))
			}
		}
	}
	clear(p.live[from:])
	p.age = age
}

// flushed is called when a flush of the file has worked.
func (p *page) flushed() {
	switch {
	case p.dirty:
		p.past, p.lost = nil, false
	case p.lost: // it was taken for clean, so the disk is where it was
		var past []state
		for _, s := range p.past {
			if s.age == p.age {
				past = append(past, state{data: s.data})
			}
		}
		p.past = past
	}
	p.dirty, p.age, p.stored, p.spare = false, 0, false, nil
}

// states returns what the disk may hold of a page that is dirty or lost, oldest
// first, if the file on it is in the given age, and has been written to in the
// ages up to written.
func (p *page) states(age, written int) []*block {
	all := append(p.past[:len(p.past):len(p.past)], state{age: p.age, data: &p.live})
	newest := -1
	for _, s := range all {
		if s.age <= age {
			newest = s.age
		}
	}
	if newest < 0 {
		return []*block{nil} // the page came with a later age
	}
	var states []*block
	for _, s := range all {
		if s.age > newest && (s.age > written || s.fresh) {
			break
		}
		if s.age >= newest {
			states = append(states, s.data)
		}
	}
	return states
}

func (s state) is(b *block) bool {
	if s.data == nil {
		return *b == block{}
	}
	return *s.data == *b
}

func (s state) cut(from, age int) state {
	if s.data == nil {
		return state{age: age}
	}
	data := *s.data
	clear(data[from:])
	return state{age: age, data: &data}
}

// crowded returns which element of s is to be forgotten: of more than maxPast
// the one whose neighbours are closest to each other in time. It is neither the
// last one nor the first one of its age; 0 if there is no other.
func crowded[T any](s []T, when func(T) (age, time int)) int {
	if len(s) <= maxPast {
		return 0
	}
	found, least := 0, math.MaxInt
	for i := 1; i < len(s)-1; i++ {
		ageBefore, before := when(s[i-1])
		age, _ := when(s[i])
		_, after := when(s[i+1])
		if age == ageBefore && after-before < least {
			found, least = i, after-before
		}
	}
	return found
}
