package memfs

import (
	"maps"
	"slices"
)

// place is a name in a directory.
type place struct {
	dir  *node
	name string
}

// tree says what is where. A node has at most one name.
type tree struct {
	names map[*node]map[string]*node // by directory
	at    map[*node]place
}

func newTree() *tree {
	return &tree{names: map[*node]map[string]*node{}, at: map[*node]place{}}
}

func (t *tree) clone() *tree {
	c := &tree{names: make(map[*node]map[string]*node, len(t.names)), at: maps.Clone(t.at)}
	for dir, names := range t.names {
		c.names[dir] = maps.Clone(names)
	}
	return c
}

// sorted returns the names in dir, in order.
func (t *tree) sorted(dir *node) []string {
	return slices.Sorted(maps.Keys(t.names[dir]))
}

// take takes n's name away, if it has one.
func (t *tree) take(n *node) {
	if at, ok := t.at[n]; ok {
		delete(t.names[at.dir], at.name)
		delete(t.at, n)
	}
}

// put gives n the one name at, and takes it from whatever has it.
func (t *tree) put(n *node, at place) {
	t.take(n)
	if old := t.names[at.dir][at.name]; old != nil {
		t.take(old)
	}
	if t.names[at.dir] == nil {
		t.names[at.dir] = map[string]*node{}
	}
	t.names[at.dir][at.name] = n
	t.at[n] = at
}

// within tells whether n is dir or in it, at any depth.
func (t *tree) within(dir, n *node) bool {
	for n != dir {
		at, ok := t.at[n]
		if !ok {
			return false
		}
		n = at.dir
	}
	return true
}

// change is one operation on names: to make something (from is empty), to
// remove it (to is empty) or to move it.
type change struct {
	node                   *node
	from, to               place
	fromFlushed, toFlushed bool
}

// apply makes the change in t, where those before it may be missing. A move
// takes what it moves from wherever it is, so that it never has two names. A
// move of a directory into itself, and a removal of something that is not
// there, do nothing.
func (c *change) apply(t *tree) {
	switch {
	case c.to.dir == nil:
		if t.at[c.node] == c.from {
			t.take(c.node)
		}
	case !t.within(c.node, c.to.dir):
		t.put(c.node, c.to)
	}
}

// sure tells whether the change survives any crash: every directory that it
// changed has been flushed since.
func (c *change) sure() bool {
	return (c.from.dir == nil || c.fromFlushed) && (c.to.dir == nil || c.toFlushed)
}

func (c *change) removesDir() bool { return c.to.dir == nil && c.node.file == nil }

func (c *change) renames() bool { return c.from.dir != nil && c.to.dir != nil }

// change makes c in the names as they are now. The caller holds mu.
func (m *FS) change(c *change) {
	c.apply(m.live)
	m.changes = append(m.changes, c)
}

// flushNames makes the changes of dir sure, and moves to durable those changes
// that no unsure one can meet. The caller holds mu.
func (m *FS) flushNames(dir *node) {
	flushed := []*node{dir}
	for len(flushed) > 0 {
		dir, flushed = flushed[0], flushed[1:]
		for _, c := range m.changes {
			if c.from.dir == dir {
				c.fromFlushed = true
			}
			if c.to.dir == dir {
				c.toFlushed = true
			}
			// Once a removed directory is surely gone, so are its entries, and
			// nobody can flush it any more.
			if c.removesDir() && c.from.dir == dir {
				flushed = append(flushed, c.node)
			}
		}
	}
	m.settle()
}

// settle moves sure changes to durable. One has to stay behind an unsure one
// that concerns the same node, the same place, or the directory of either: the
// order between them matters.
func (m *FS) settle() {
	nodes, places := map[*node]bool{}, map[place]bool{}
	kept := m.changes[:0]
	for _, c := range m.changes {
		meets := nodes[c.node] || nodes[c.from.dir] || nodes[c.to.dir] || places[c.from] || places[c.to]
		if c.sure() && !meets {
			c.apply(m.durable)
			continue
		}
		kept = append(kept, c)
		nodes[c.node] = true
		for _, at := range []place{c.from, c.to} {
			if at.dir != nil {
				places[at] = true
			}
		}
	}
	clear(m.changes[len(kept):])
	m.changes = kept
}
