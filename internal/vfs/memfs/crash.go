package memfs

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
)

// CrashClone returns an independent file system in one of the states that the
// disk could be in after a power cut now. The same operations and the same seed
// give the same state. Nothing in it is open or locked, and all of it is
// durable. The original goes on. CrashClone sees the whole file system at one
// moment between operations, also while others use it. The boot id is another
// one.
//
// The model, in which only what was flushed can be trusted:
//
//   - Content. A page of 4 KiB that was not changed since the last Sync of its
//     file is as it is. A changed one is, independently of all others, as of
//     that Sync, or as now, or as at any time in between (of which up to 8 are
//     remembered), or torn: each sector of 512 bytes makes its own choice. Each
//     write and each store through a mapping is such a time.
//   - Size. It is one that the file had since the last Sync, or a page boundary
//     inside a write or an allocation that made it longer. It is independent of
//     the content: longer than what arrived (zeros), or shorter (the rest is
//     gone). Of the operations that changed it, up to 8 are remembered.
//   - Cuts. A Truncate that made the file shorter has happened or not. If not,
//     the file has a size and content from before it, and nothing that was
//     written beyond the cut afterwards; but the page that the cut went through
//     is written in its old place, so it may be as of then or any time since.
//     If it has, nothing of what was there is left.
//   - A failed flush (see package errfs) leaves its pages readable and clean.
//     The disk most likely has none of them, and no later Sync brings them
//     there, unless they are written again. Sizes and cuts are only not durable
//     yet: the next Sync that works makes them so.
//   - Names. Each creation, removal and rename survives on its own, in any
//     subset, until the directory in which it happened has been flushed. A
//     file's Sync does not flush its name, nor does SyncDir that of the
//     directory itself: if its parent's entry is missing, all in it is gone.
//   - Renames are one step: a file is never under both names or neither. One
//     between two directories survives for sure when both have been flushed, and
//     flushing one settles nothing. If one of the directories is itself gone,
//     the file is in the other one, also if that undoes a flushed rename. What
//     was made under the old name survives only together with the rename.
func (m *FS) CrashClone(seed uint64) *FS {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := rand.New(rand.NewPCG(seed, 1))
	c := New()
	files := c.copyNames(m.root, m.namesAfterCrash(r))
	for _, f := range files {
		f.from.mu.Lock()
	}
	for _, f := range files {
		f.from.crash(r, f.to)
	}
	for _, f := range files {
		f.from.mu.Unlock()
	}
	c.SetFree(m.free.Load() + m.used.Load() - c.used.Load())
	c.powerCuts.Store(m.powerCuts.Load() + 1)
	c.SetBootID(fmt.Sprintf("boot-%d", c.powerCuts.Load()))
	return c
}

// mood is how one crash treats one file, or the names. Independent draws alone
// would, for anything large, never leave everything out or everything in.
type mood int

const (
	allOld mood = iota
	allNew
	mixed
	moods = 4 // mixed is twice as likely as each of the others
)

func newMood(r *rand.Rand) mood { return min(mood(r.IntN(moods)), mixed) }

// namesAfterCrash draws a tree. The caller holds mu.
func (m *FS) namesAfterCrash(r *rand.Rand) *tree {
	t := m.durable.clone()
	placed := maps.Clone(t.at) // all that ever had a name in t, here or there
	mood := newMood(r)
	for _, c := range m.changes {
		if !c.sure() {
			coin := r.IntN(2) == 0
			if mood == allOld || mood == mixed && coin {
				continue
			}
		}
		c.apply(t)
		placed[c.node] = c.to
	}
	m.rescue(t, placed)
	return t
}

// rescue finds a place for what was renamed and is nowhere in t, although it is
// one of placed: it is in a directory that is gone, or something that was made
// under its old name has survived and the rename has not. That place is the
// rename's other end, or else where it is now, with the directories that lead
// there. This may take the place of something else, so it is done until nothing
// is left to do: what is where it is now stays there.
func (m *FS) rescue(t *tree, placed map[*node]place) {
	for again := true; again; {
		again = false
		for _, c := range m.changes {
			_, was := placed[c.node]
			// What was renamed within a directory that is itself gone is gone
			// with it.
			was = was && (c.from.dir != c.to.dir || t.within(m.root, c.to.dir))
			if c.renames() && was && !t.within(m.root, c.node) && m.live.within(m.root, c.node) {
				m.findPlace(t, c)
				again = true
			}
		}
	}
}

func (m *FS) findPlace(t *tree, c *change) {
	for _, at := range []place{c.to, c.from} {
		if t.within(m.root, at.dir) && t.names[at.dir][at.name] == nil {
			t.put(c.node, at)
			return
		}
	}
	var missing []*node
	for n := c.node; !t.within(m.root, n); n = m.live.at[n].dir {
		missing = append(missing, n)
	}
	for _, n := range slices.Backward(missing) {
		t.put(n, m.live.at[n])
	}
}

// filePair is a file and its copy.
type filePair struct{ from, to *file }

// copyNames gives m, which is empty, the names that t has below root, and
// returns the files, in an order that depends on their names only.
func (m *FS) copyNames(root *node, t *tree) []filePair {
	var files []filePair
	type dirPair struct{ from, to *node }
	for dirs := []dirPair{{root, m.root}}; len(dirs) > 0; dirs = dirs[1:] {
		for _, name := range t.sorted(dirs[0].from) {
			n, c := t.names[dirs[0].from][name], m.newNode(nil)
			if n.file != nil {
				c.file = newFile(m)
				files = append(files, filePair{n.file, c.file})
			} else {
				dirs = append(dirs, dirPair{n, c})
			}
			m.live.put(c, place{dirs[0].to, name})
			m.durable.put(c, place{dirs[0].to, name})
		}
	}
	return files
}

// crash draws a state of f into c, which is empty. The caller holds f.mu.
func (f *file) crash(r *rand.Rand, c *file) {
	age := r.IntN(len(f.cuts) + 1)
	written := age + r.IntN(len(f.cuts)+1-age)
	c.size = f.drawSize(r, age)
	c.sizes = []sizeState{{0, 0, c.size, c.size}}
	mood := newMood(r)
	for i := range pagesOf(c.size) {
		if pg := f.at(i); pg != nil {
			drawn := c.obtain(i)
			if data := pg.draw(r, age, written, mood); data != nil {
				drawn.live = *data
			}
			if end := c.size - int64(i)*pageBytes; end < pageBytes {
				clear(drawn.live[end:])
			}
		} else if i < len(f.taken) && f.taken[i] {
			c.own(i)
		}
	}
}

func (f *file) drawSize(r *rand.Rand, age int) int64 {
	var sizes []sizeState
	for _, s := range f.sizes {
		if s.age == age {
			sizes = append(sizes, s)
		}
	}
	switch r.IntN(3) {
	case 0:
		return sizes[0].size
	case 1:
		return sizes[len(sizes)-1].size
	}
	return sizes[r.IntN(len(sizes))].draw(r)
}

// draw returns the size or a page boundary on the way to it.
func (s sizeState) draw(r *rand.Rand) int64 {
	first := int(s.from/pageBytes) + 1
	between := max(0, pagesOf(s.size)-first)
	n := r.IntN(between + 1)
	if n == between {
		return s.size
	}
	return int64(first+n) * pageBytes
}

// draw returns what the disk holds of the page; nil means zeros.
func (p *page) draw(r *rand.Rand, age, written int, mood mood) *block {
	if !p.dirty && !p.lost {
		return &p.live
	}
	states := p.states(age, written)
	oldest, newest := states[0], states[len(states)-1]
	switch {
	case len(states) == 1:
		return oldest
	case p.lost && !p.dirty && r.IntN(4) > 0:
		return oldest
	case mood == allOld:
		return oldest
	case mood == allNew:
		return newest
	}
	switch r.IntN(4) {
	case 0:
		return oldest
	case 1:
		return newest
	case 2:
		return states[r.IntN(len(states))]
	}
	return torn(r, states)
}

// torn draws a state for each sector.
func torn(r *rand.Rand, states []*block) *block {
	var torn block
	for at := 0; at < pageBytes; at += sectorBytes {
		if data := states[r.IntN(len(states))]; data != nil {
			copy(torn[at:at+sectorBytes], data[at:])
		}
	}
	return &torn
}
