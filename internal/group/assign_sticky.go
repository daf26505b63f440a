package group

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// Sticky is Kafka's StickyAssignor (KIP-54): the members' loads, in partitions,
// are as near to each other as the subscriptions allow, and of all results with
// that balance it takes one that moves the fewest partitions from members that
// own them. With equal subscriptions loads differ by at most one.
//
// Who owns a partition follows from the members' claims (KIP-341): the newest
// generation counts, and of two claims of one generation neither does.
//
// Kafka's class looks at one partition at a time, and may stop at a balance that
// only a chain of moves improves. This one does not stop there, so the two may
// differ where subscriptions do.
func Sticky(members []Member, partitions map[string]int32) map[string][]TopicPartition {
	s := newSticky(members, partitions)
	return s.named(s.assign(maxLooks))
}

// CooperativeSticky is Kafka's CooperativeStickyAssignor (KIP-429): what Sticky
// gives, without the partitions that somebody else still claims. Those go to
// nobody; when the members that lost them have joined again without them, the
// next assignment gives them out, and moves nothing else.
//
// A claim that has lost against a newer one counts here: who makes it may still
// be reading.
func CooperativeSticky(members []Member, partitions map[string]int32) map[string][]TopicPartition {
	s := newSticky(members, partitions)
	given := s.assign(maxLooks)
	for m := range given {
		given[m] = slices.DeleteFunc(given[m], func(p place) bool {
			c := s.claims[p.topic][p.partition]
			return c.owner != int32(m) && c.claims > 0
		})
	}
	return s.named(given)
}

// sticky is one run of the assignor. Topics and members are indexes here.
//
// Partitions that nobody can tell apart need not be looked at one by one: topics
// with the same readers make a class, and a table says how many partitions of
// each class each of its readers gets. With equal subscriptions there is one
// class. The numbers are settled first: fill, balance, fewestMoves. Then deal
// says which partitions these are.
type sticky struct {
	members []Member
	topics  []subscribed
	claims  [][]claim // by topic and partition
	table
}

// table is how many partitions of each class each member gets.
type table struct {
	classes []class
	cells   []cell    // by class, then in the order of its readers
	mine    [][]int32 // by member: its cells
	load    []int     // by member: the sum of gets over its cells
}

// class is a set of topics with the same readers.
type class struct {
	topics  []int32
	readers []int32
	count   int32 // of partitions
	first   int32 // its first cell; it has one for each reader
}

// cell is what one member has to do with one class.
type cell struct {
	class, member int32
	owns          int32 // how many of the class's partitions the member owns
	gets          int32 // how many it gets
}

// claim is what is claimed of one partition.
type claim struct {
	owner      int32 // the member that owns it, or nobody
	generation int32 // the newest that it is claimed in
	claims     int32 // how many members claim it
	last       int32 // one of these
}

// place is a partition by its topic's index.
type place struct{ topic, partition int32 }

const nobody int32 = -1

func newSticky(members []Member, partitions map[string]int32) *sticky {
	members = inOrder(members)
	s := &sticky{members: members, topics: subscribedTopics(members, partitions)}
	s.readClaims()
	s.makeClasses()
	s.makeCells()
	s.countOwned()
	return s
}

// readClaims finds the owner of each partition. What is claimed of partitions
// that nobody reads, or that are not there, is ignored.
func (s *sticky) readClaims() {
	index := make(map[string]int, len(s.topics))
	s.claims = make([][]claim, len(s.topics))
	for t, topic := range s.topics {
		index[topic.topic] = t
		s.claims[t] = make([]claim, topic.count)
		for p := range s.claims[t] {
			s.claims[t][p].owner = nobody
		}
	}
	for i, m := range s.members {
		for _, p := range m.Owned {
			t, ok := index[p.Topic]
			if ok && p.Partition >= 0 && p.Partition < s.topics[t].count {
				s.claims[t][p.Partition].add(int32(i), m.Generation)
			}
		}
	}
}

// add takes one member's claim. A member's claims of one partition follow one
// another, so that one it makes twice is seen.
func (c *claim) add(member, generation int32) {
	if c.claims > 0 && c.last == member {
		return
	}
	c.claims++
	c.last = member
	switch {
	case c.claims == 1 || generation > c.generation:
		c.owner, c.generation = member, generation
	case generation == c.generation:
		c.owner = nobody
	}
}

// makeClasses puts topics with the same readers together: the classes with the
// fewest readers first, since they have the least choice.
func (s *sticky) makeClasses() {
	index := map[string]int{}
	var key []byte
	for t, topic := range s.topics {
		key = key[:0]
		for _, m := range topic.readers {
			key = binary.LittleEndian.AppendUint32(key, uint32(m))
		}
		i, ok := index[string(key)]
		if !ok {
			i = len(s.classes)
			index[string(key)] = i
			s.classes = append(s.classes, class{readers: topic.readers})
		}
		c := &s.classes[i]
		c.topics = append(c.topics, int32(t))
		c.count += topic.count
	}
	slices.SortStableFunc(s.classes, func(a, b class) int { return cmp.Compare(len(a.readers), len(b.readers)) })
}

func (s *sticky) makeCells() {
	s.load = make([]int, len(s.members))
	s.mine = make([][]int32, len(s.members))
	for i := range s.classes {
		c := &s.classes[i]
		c.first = int32(len(s.cells))
		for _, m := range c.readers {
			s.mine[m] = append(s.mine[m], int32(len(s.cells)))
			s.cells = append(s.cells, cell{class: int32(i), member: m})
		}
	}
}

// countOwned counts what the members own in each class. What an owner does not
// read any more is as good as nobody's.
func (s *sticky) countOwned() {
	for _, c := range s.classes {
		for _, t := range c.topics {
			for _, cl := range s.claims[t] {
				if i, reads := slices.BinarySearch(c.readers, cl.owner); reads {
					s.cells[c.first+int32(i)].owns++
				}
			}
		}
	}
}

// assign returns each member's partitions, sorted. looks bounds fewestMoves.
func (s *sticky) assign(looks int) [][]place {
	for i := range s.cells {
		c := &s.cells[i]
		c.gets = c.owns
		s.load[c.member] += int(c.owns)
	}
	for i := range s.classes {
		s.fill(&s.classes[i])
	}
	s.balance()
	s.fewestMoves(looks)
	given := make([][]place, len(s.members))
	for i := range s.classes {
		s.deal(&s.classes[i], given)
	}
	for _, places := range given {
		slices.SortFunc(places, func(a, b place) int {
			return cmp.Or(cmp.Compare(a.topic, b.topic), cmp.Compare(a.partition, b.partition))
		})
	}
	return given
}

// fill gives what nobody owns of the class to its readers with the least load.
func (t *table) fill(c *class) {
	cells := t.cells[c.first:][:len(c.readers)]
	rest := int(c.count)
	byLoad := make([]int32, len(cells))
	for i := range cells {
		byLoad[i] = int32(i)
		rest -= int(cells[i].owns)
	}
	loadOf := func(i int32) int { return t.load[cells[i].member] }
	slices.SortStableFunc(byLoad, func(a, b int32) int { return cmp.Compare(loadOf(a), loadOf(b)) })

	// The first n are raised to the load of the next one for as long as rest
	// lasts, as water fills vessels of different floors.
	n := 1
	for ; n < len(byLoad); n++ {
		step := n * (loadOf(byLoad[n]) - loadOf(byLoad[n-1]))
		if step > rest {
			break
		}
		rest -= step
	}
	level, longer := loadOf(byLoad[n-1])+rest/n, rest%n
	for k, i := range byLoad[:n] {
		take := level - loadOf(i)
		if k < longer {
			take++
		}
		cells[i].gets += int32(take)
		t.load[cells[i].member] += take
	}
}

// deal gives the class's partitions to its readers, in the numbers of the table:
// first to each what it owns, then the rest in a circle that begins with those
// who lack the most.
func (s *sticky) deal(c *class, given [][]place) {
	cells := s.cells[c.first:][:len(c.readers)]
	lacks := make([]int32, len(cells))
	for i := range cells {
		lacks[i] = cells[i].gets
	}
	var rest []place
	for _, t := range c.topics {
		for p, cl := range s.claims[t] {
			at := place{t, int32(p)}
			i, owned := slices.BinarySearch(c.readers, cl.owner)
			if owned && lacks[i] > 0 {
				lacks[i]--
				given[cl.owner] = append(given[cl.owner], at)
			} else {
				rest = append(rest, at)
			}
		}
	}
	open := make([]int, len(cells))
	for i := range open {
		open[i] = i
	}
	slices.SortStableFunc(open, func(a, b int) int { return cmp.Compare(lacks[b], lacks[a]) })
	for len(rest) > 0 {
		open = slices.DeleteFunc(open, func(i int) bool { return lacks[i] == 0 })
		for _, i := range open[:min(len(open), len(rest))] {
			lacks[i]--
			given[c.readers[i]] = append(given[c.readers[i]], rest[0])
			rest = rest[1:]
		}
	}
}

// named says whose partitions these are.
func (s *sticky) named(given [][]place) map[string][]TopicPartition {
	named := make([][]TopicPartition, len(given))
	for m, places := range given {
		named[m] = make([]TopicPartition, len(places))
		for i, p := range places {
			named[m][i] = TopicPartition{s.topics[p.topic].topic, p.partition}
		}
	}
	return resultOf(s.members, named)
}
