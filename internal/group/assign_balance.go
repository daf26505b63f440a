package group

import (
	"math"
	"slices"

	"github.com/rifflelog/riffle/internal/invariants"
)

// balance evens the loads out, as far as subscriptions allow: afterwards there is
// no chain of members in which each gives the next one a partition, and whose
// first has at least two more than its last. Then the sum of the squares of the
// loads is the least possible (Harvey, Ladner, Lovász and Tamir: Semi-matchings
// for bipartite graphs and load balancing).
//
// A search starts at all members with the greatest load. If no chain leads from
// them to a load that is two less, then all that they reach have that load or
// one less, and can give nothing to the others: these members are done, and the
// next search is among the rest.
func (t *table) balance() {
	done := make([]bool, len(t.load))
	for {
		top := -1
		for m, load := range t.load {
			if !done[m] {
				top = max(top, load)
			}
		}
		if top < 0 {
			return
		}
		search := t.newChainSearch(top, done)
		if last := search.run(); last != nobody {
			t.shift(search, last)
			continue
		}
		for _, m := range search.queue {
			done[m] = true
		}
	}
}

// chainSearch looks for a chain, breadth first.
type chainSearch struct {
	*table
	top   int
	done  []bool
	queue []int32 // members that were reached
	takes []int32 // by member: the cell in which it would get one more; or chainBegin, unseen
	gives []int32 // by class: the cell of the member that would give one; or unseen
}

const (
	unseen     int32 = -1
	chainBegin int32 = -2 // the chain begins here
)

func (t *table) newChainSearch(top int, done []bool) *chainSearch {
	s := &chainSearch{
		table: t, top: top, done: done,
		takes: slices.Repeat([]int32{unseen}, len(t.load)),
		gives: slices.Repeat([]int32{unseen}, len(t.classes)),
	}
	for m, load := range t.load {
		if !done[m] && load == top {
			s.takes[m] = chainBegin
			s.queue = append(s.queue, int32(m))
		}
	}
	return s
}

// run returns the last member of a shortest chain, or nobody.
func (s *chainSearch) run() int32 {
	for i := 0; i < len(s.queue); i++ {
		for _, give := range s.mine[s.queue[i]] {
			c := s.cells[give].class
			if s.cells[give].gets == 0 || s.gives[c] != unseen {
				continue
			}
			s.gives[c] = give
			if last := s.reach(&s.classes[c]); last != nobody {
				return last
			}
		}
	}
	return nobody
}

// reach adds the class's readers to the queue, without those that are done, from
// whom no chain leads on. If the chain can end with one of them it returns the one
// with the least load.
func (s *chainSearch) reach(c *class) int32 {
	last := nobody
	for i, m := range c.readers {
		if s.takes[m] != unseen || s.done[m] {
			continue
		}
		s.takes[m] = c.first + int32(i)
		s.queue = append(s.queue, m)
		if s.load[m] <= s.top-2 && (last == nobody || s.load[m] < s.load[last]) {
			last = m
		}
	}
	return last
}

// shift moves as many partitions along the chain as its cells have, and as leave
// its first member with no less than its last.
func (t *table) shift(s *chainSearch, last int32) {
	n := (s.top - t.load[last]) / 2
	m := last
	for take := s.takes[m]; take != chainBegin; take = s.takes[m] {
		give := s.gives[t.cells[take].class]
		n = min(n, int(t.cells[give].gets))
		m = t.cells[give].member
	}
	invariants.Check(n > 0, "a chain from member %d to member %d moves %d partitions", m, last, n)
	t.load[m] -= n
	t.load[last] += n
	m = last
	for take := s.takes[m]; take != chainBegin; take = s.takes[m] {
		give := s.gives[t.cells[take].class]
		t.cells[take].gets += int32(n)
		t.cells[give].gets -= int32(n)
		m = t.cells[give].member
	}
}

// maxLooks bounds fewestMoves: how many cells it looks at, in half a second or so.
// Random groups of a thousand members need a third of it at most. If a group needs
// more, its balance is right, but some partitions move that need not, for which
// cooperative-sticky may take a third round.
const maxLooks = 1 << 26

// fewestMoves changes the table, at the same balance, so that members keep as
// many of their partitions as they can.
//
// The table is a flow from classes to members. A cell costs one for each
// partition that it gets beyond what it owns. What else has the same balance
// differs from the table by rotations: each member on the way takes one partition
// of a class, and gives one of another; or takes one and gives none, while
// another with one more than it gives one and takes none, so that the two change
// loads. A flow has the least cost if no rotation has a negative one (Klein), so
// rotations are done until there is none. They are found as Bellman and Ford do.
//
// It stops when it has looked at more than looks cells.
func (t *table) fewestMoves(looks int) {
	for t.givesUp() {
		r := newRotations(t)
		for {
			if looks -= len(t.cells); looks < 0 {
				return
			}
			if !r.relax() {
				return
			}
			if r.turn() {
				break
			}
		}
	}
}

// givesUp reports whether a member gets less of a class than it owns. If none
// does, nothing moves.
func (t *table) givesUp() bool {
	return slices.ContainsFunc(t.cells, func(c cell) bool { return c.gets < c.owns })
}

// rotations is the graph in which a rotation is a cycle. Its nodes are the
// members, the classes, and a node for each load k, at which a member with load k
// that has taken one passes on to a member with load k+1 that gives one.
type rotations struct {
	*table
	loads  int       // the first node of a load
	cost   []int32   // by node: the least cost of a path that ends there
	parent []int32   // by node: where that path comes from, or nobody
	by     []int32   // by node: the cell in which its last step takes or gives
	levels [][]int32 // the members with each load, from 0
}

func newRotations(t *table) *rotations {
	levels := make([][]int32, slices.Max(t.load)+2)
	for m, load := range t.load {
		levels[load] = append(levels[load], int32(m))
	}
	loads := len(t.load) + len(t.classes)
	nodes := loads + len(levels)
	return &rotations{
		table: t, loads: loads, levels: levels,
		cost: make([]int32, nodes), parent: slices.Repeat([]int32{nobody}, nodes), by: make([]int32, nodes),
	}
}

// takeCost is what one partition more costs, giveCost what one less does.
func (c *cell) takeCost() int32 {
	if c.gets < c.owns {
		return 0
	}
	return 1
}

func (c *cell) giveCost() int32 {
	if c.gets > c.owns {
		return -1
	}
	return 0
}

// relax looks once at each step that a path can take, and reports whether one
// made a path cheaper.
func (r *rotations) relax() bool {
	changed := false
	step := func(from, to, cost, by int32) {
		if at := r.cost[from] + cost; at < r.cost[to] {
			r.cost[to], r.parent[to], r.by[to] = at, from, by
			changed = true
		}
	}
	members := int32(len(r.load))
	for i := range r.cells {
		c := &r.cells[i]
		if c.gets > 0 {
			step(c.member, members+c.class, c.giveCost(), int32(i))
		}
	}
	for i := range r.cells {
		c := &r.cells[i]
		step(members+c.class, c.member, c.takeCost(), int32(i))
	}
	for k := range len(r.levels) - 1 {
		node := int32(r.loads + k)
		for _, m := range r.levels[k] {
			step(m, node, 0, nobody)
		}
		for _, m := range r.levels[k+1] {
			step(node, m, 0, nobody)
		}
	}
	return changed
}

// turn does the rotations that the paths have run into, and reports whether there
// was one. A path that leads back into itself is a cycle of negative cost; no two
// of them share a node.
func (r *rotations) turn() bool {
	seen := make([]int32, len(r.parent)) // by node: the walk that passed it
	found := false
	for start := range r.parent {
		walk := int32(start + 1)
		node := int32(start)
		for node != nobody && seen[node] == 0 {
			seen[node] = walk
			node = r.parent[node]
		}
		if node != nobody && seen[node] == walk {
			r.rotate(node)
			found = true
		}
	}
	return found
}

// rotate does one rotation, with as many partitions as cost the same.
func (r *rotations) rotate(start int32) {
	members := int32(len(r.load))
	n := int32(math.MaxInt32)
	r.each(start, func(from, to int32) {
		switch {
		case to >= int32(r.loads) || from >= int32(r.loads):
			n = 1 // more would change the balance
		case from < members:
			n = min(n, r.cells[r.by[to]].canGive())
		default:
			n = min(n, r.cells[r.by[to]].canTake())
		}
	})
	r.each(start, func(from, to int32) {
		switch {
		case to >= int32(r.loads):
			r.load[from]++
		case from >= int32(r.loads):
			r.load[to]--
		case from < members:
			r.cells[r.by[to]].gets -= n
		default:
			r.cells[r.by[to]].gets += n
		}
	})
}

// each calls f for every step of the cycle through start.
func (r *rotations) each(start int32, f func(from, to int32)) {
	for to := start; ; to = r.parent[to] {
		f(r.parent[to], to)
		if r.parent[to] == start {
			return
		}
	}
}

// canGive is how many the cell can give at the same cost, canTake how many it
// can take.
func (c *cell) canGive() int32 {
	if c.gets > c.owns {
		return c.gets - c.owns
	}
	return c.gets
}

func (c *cell) canTake() int32 {
	if c.gets < c.owns {
		return c.owns - c.gets
	}
	return math.MaxInt32
}
