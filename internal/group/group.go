package group

import (
	"encoding/binary"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/rifflelog/riffle/internal/invariants"
)

// state is what a group is doing.
//
//	empty ──► preparing ──► completing ──► stable
//	  ▲         ▲  │ ▲           │           │
//	  └─────────│──┘ └───────────┴───────────┘
//	    nobody joined
//
// A group that is gone is Dead to those who ask.
type state int

const (
	empty      state = iota // no members; perhaps offsets
	preparing               // members join
	completing              // members wait for what the leader assigns
	stable
)

func (st state) String() string {
	return [...]string{"Empty", "PreparingRebalance", "CompletingRebalance", "Stable"}[st]
}

// consumerType is the protocol type of consumers; others, such as Connect's,
// use groups for something else.
const consumerType = "consumer"

// group is one consumer group.
type group struct {
	name         string
	state        state
	since        int64 // when state began, in milliseconds; -1 if a record of Kafka before 2.1 does not say
	generation   int32
	protocolType string // empty: only offsets are kept here
	protocol     string // the chosen one; empty before there is one, and while the group is
	leader       string // Invariant: a member's id; empty without members
	written      bool   // there is a record of it in the log

	members   []*member // in the order in which they came
	byID      map[string]*member
	static    map[string]*member // by instance id
	pending   map[string]*timer  // ids that were given out and have not joined (KIP-394)
	supported map[string]int     // by protocol: how many members support it
	joining   int                // members whose join call waits
	unsynced  int                // members with a join answer that have not synced

	// initial: the join phase of an empty group, which lasts as long as members
	// come (grown), and at most remaining longer.
	initial   bool
	grown     bool
	remaining time.Duration

	joinTimer timer // Invariant: armed while preparing
	syncTimer timer // Invariant: armed while unsynced > 0

	offsets map[string]map[int32]offset
}

func newGroup(name string) *group {
	g := &group{
		name:      strings.Clone(name),
		since:     -1,
		byID:      map[string]*member{},
		static:    map[string]*member{},
		pending:   map[string]*timer{},
		supported: map[string]int{},
		offsets:   map[string]map[int32]offset{},
	}
	g.joinTimer = timer{kind: joinPhase, group: g}
	g.syncTimer = timer{kind: syncPhase, group: g}
	return g
}

func (g *group) size() int {
	if g == nil {
		return 0
	}
	return len(g.members)
}

func (g *group) become(st state, now time.Time) {
	g.state, g.since = st, now.UnixMilli()
}

// add makes m a member. The first one sets the type of the group and leads it.
func (g *group) add(m *member, protocolType string) {
	if len(g.members) == 0 {
		g.protocolType, g.leader = strings.Clone(protocolType), m.id
	}
	m.group = g
	m.timer = timer{kind: session, group: g, member: m}
	g.members = append(g.members, m)
	g.byID[m.id] = m
	if m.instance != "" {
		g.static[m.instance] = m
	}
	g.support(m, 1)
}

func (g *group) delete(m *member) {
	g.members = slices.DeleteFunc(g.members, func(o *member) bool { return o == m })
	delete(g.byID, m.id)
	if m.instance != "" {
		delete(g.static, m.instance)
	}
	g.support(m, -1)
	if g.leader == m.id {
		g.leader = ""
		if len(g.members) > 0 {
			g.leader = g.members[0].id
		}
	}
}

// update gives m the protocols and timeouts of what it says now.
func (g *group) update(m, says *member) {
	g.support(m, -1)
	m.protocols, m.rebalance, m.session = says.protocols, says.rebalance, says.session
	g.support(m, 1)
}

// rename gives a static member the id of the process that took its place.
func (g *group) rename(m *member, id string) {
	delete(g.byID, m.id)
	if g.leader == m.id {
		g.leader = id
	}
	m.id = id
	g.byID[id] = m
}

func (g *group) support(m *member, n int) {
	for _, p := range m.protocols {
		if g.supported[p.name] += n; g.supported[p.name] == 0 {
			delete(g.supported, p.name)
		}
	}
}

// accepts reports whether a member of that type can be with the others: one of
// its protocols is supported by all of them.
func (g *group) accepts(protocolType string, protocols []protocol) bool {
	if protocolType == "" || len(protocols) == 0 {
		return false
	}
	if g.state == empty {
		return true
	}
	return protocolType == g.protocolType && slices.ContainsFunc(protocols, func(p protocol) bool {
		return g.supported[p.name] == len(g.members)
	})
}

// choose returns the protocol with the most votes: each member votes for the
// first of its own that all support. Among equals the oldest member decides.
func (g *group) choose() string {
	votes := map[string]int{}
	best := ""
	for _, m := range g.members {
		i := slices.IndexFunc(m.protocols, func(p protocol) bool { return g.supported[p.name] == len(g.members) })
		invariants.Check(i >= 0, "group %q has no protocol that all support", g.name)
		if i >= 0 {
			votes[m.protocols[i].name]++
		}
	}
	for _, m := range g.members {
		for _, p := range m.protocols {
			if votes[p.name] > votes[best] {
				best = p.name
			}
		}
	}
	return best
}

// electLeader sees to it that the leader is one who joined, and reports whether
// anybody did.
func (g *group) electLeader() bool {
	if m := g.byID[g.leader]; m != nil && m.join != nil {
		return true
	}
	for _, m := range g.members {
		if m.join != nil {
			g.leader = m.id
			return true
		}
	}
	return false
}

// rebalanceTimeout is the longest of the members'.
func (g *group) rebalanceTimeout() time.Duration {
	longest := time.Duration(0)
	for _, m := range g.members {
		longest = max(longest, m.rebalance)
	}
	return longest
}

// advance counts the generation on.
func (g *group) advance() {
	if g.generation == math.MaxInt32 {
		g.generation = 0 // it must not become negative, which means none
	}
	g.generation++
}

// mayBeSubscribed tells of topics whether members subscribe to them. Where that
// cannot be known, because none is chosen yet or the metadata is not that of a
// consumer, a group of consumers may subscribe to any.
func (g *group) mayBeSubscribed() (all bool, topics map[string]bool) {
	if g.protocolType != consumerType || g.state == empty {
		return false, nil
	}
	topics = map[string]bool{}
	for _, m := range g.members {
		named, ok := topicsOf(m.metadata(g.protocol))
		if !ok {
			return true, nil
		}
		for _, topic := range named {
			topics[topic] = true
		}
	}
	return false, topics
}

// topicsOf reads the topics of a ConsumerProtocolSubscription: after two bytes
// of version come an array length and strings, in all its versions.
func topicsOf(metadata []byte) (topics []string, ok bool) {
	if len(metadata) < 6 {
		return nil, false
	}
	n, rest := int32(binary.BigEndian.Uint32(metadata[2:])), metadata[6:]
	if n < 0 || int64(n)*2 > int64(len(rest)) {
		return nil, false
	}
	for range n {
		if len(rest) < 2 {
			return nil, false
		}
		size := int(int16(binary.BigEndian.Uint16(rest)))
		if size < 0 || size > len(rest)-2 {
			return nil, false
		}
		topics = append(topics, string(rest[2:2+size]))
		rest = rest[2+size:]
	}
	return topics, true
}

// check states what is true of a group between two steps.
func (g *group) check() {
	if !invariants.Enabled {
		return
	}
	joining, unsynced := 0, 0
	for _, m := range g.members {
		m.check()
		if m.join != nil {
			joining++
		}
		if m.unsynced {
			unsynced++
		}
	}
	at := func(ok bool, what string) {
		invariants.Check(ok, "group %q in %v, generation %d: %s", g.name, g.state, g.generation, what)
	}
	at(joining == g.joining && unsynced == g.unsynced, "counts of who joins and who has not synced")
	at(len(g.members) == len(g.byID), "ids of members")
	at((g.state == empty) == (len(g.members) == 0) || g.state == preparing, "empty without members alone")
	at((g.leader == "") == (len(g.members) == 0) && (g.leader == "" || g.byID[g.leader] != nil), "the leader is a member")
	at((g.state == preparing) == g.joinTimer.armed, "a join phase has an end")
	at((g.unsynced > 0) == g.syncTimer.armed, "members sync in time")
	at(g.state == preparing || g.joining == 0, "who joins waits for a join phase")
	at(g.state != completing || g.byID[g.leader].unsynced, "the leader has not synced, or the group were stable")
	at(!g.initial || g.state == preparing, "the first phase is a join phase")
	if len(g.members) > 0 {
		at(g.supports() > 0, "a protocol that all support")
	}
}

// supports counts the protocols that all members support.
func (g *group) supports() int {
	n := 0
	//lint:order a sum does not depend on the order
	for _, members := range g.supported {
		if members == len(g.members) {
			n++
		}
	}
	return n
}
