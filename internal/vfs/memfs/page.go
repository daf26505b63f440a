package memfs

import "sync"

const (
	pageBytes   = 4096
	sectorBytes = 512 // what a disk writes as a whole

	// maxPast is how many states of a page, and how many sizes of a file, are
	// remembered since the last flush. When it is reached every other one is
	// forgotten, so that those kept stay spread over that time; the first one
	// of each age is never forgotten.
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

	// mu lets stores through mappings agree on which is the first into a clean
	// page. They hold the file's mu for reading; whoever holds it for writing
	// needs no mu. It guards dirty and past. It is not taken to read live, so
	// that it hides no race from the race detector.
	mu    sync.Mutex
	dirty bool    // changed since the last flush, also one that failed
	lost  bool    // a flush of it failed since the last one that worked on it
	past  []state // before live, oldest first
	age   int     // that live belongs to: the number of the last cut that changed it
}

type block [pageBytes]byte

// state is what a page was; nil means zeros.
type state struct {
	age   int
	data  *block
	fresh bool // the cut that began its age took the whole page away
}

// change is called before live is changed by all but stores through a mapping.
func (p *page) change() {
	p.remember()
	p.dirty = true
}

// touch is called before a store through a mapping. Only the first one since a
// flush leaves a state behind: later ones may run beside each other, and the
// page is at no moment at rest.
func (p *page) touch() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.dirty {
		p.change()
	}
}

func (p *page) remember() {
	if n := len(p.past); n > 0 && p.past[n-1].age == p.age && p.past[n-1].is(&p.live) {
		return
	}
	data := p.live
	p.past = append(p.past, state{age: p.age, data: &data})
	p.thin()
}

func (p *page) thin() {
	if len(p.past) > maxPast {
		p.past = thin(p.past, func(a, b state) bool { return a.age == b.age })
	}
}

// cut zeroes the page from the given byte on, because the file ends there in
// the new age. What the disk may hold of the page in that age is what it held
// before, cut in the same way.
func (p *page) cut(from, age int) {
	p.change()
	if from == 0 {
		p.past = append(p.past, state{age: age, fresh: true})
	} else {
		for _, s := range p.past {
			if s.age == p.age {
				p.past = append(p.past, s.cut(from, age))
			}
		}
	}
	p.thin()
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
	p.dirty, p.age = false, 0
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

// thin drops every other element, but neither the last one nor one that differs
// in kind from the one before it.
func thin[T any](s []T, same func(a, b T) bool) []T {
	kept := s[:1]
	for i := 1; i < len(s); i++ {
		if i%2 == 0 || i == len(s)-1 || !same(s[i-1], s[i]) {
			kept = append(kept, s[i])
		}
	}
	return kept
}
