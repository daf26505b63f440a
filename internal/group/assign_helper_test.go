package group

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// drawnGroup is members with claims of all kinds over a few topics.
type drawnGroup struct {
	members    []Member
	partitions map[string]int32
}

// sizes are the most that a drawn group has, of everything.
type sizes struct {
	members, topics, partitions int
	equal, wild                 bool // all subscribe to the same; claims contradict each other
}

// checkGroups calls check with many groups. Their sizes and kind are rapid's,
// which makes them small when it looks for a small failure; the rest comes from
// a seed, since rapid's own numbers are mostly small, and small groups are simple.
func checkGroups(t *testing.T, most sizes, check func(*rapid.T, drawnGroup)) {
	rapid.Check(t, func(t *rapid.T) {
		size := sizes{
			members:    most.members - rapid.IntRange(0, most.members).Draw(t, "members missing"),
			topics:     most.topics - rapid.IntRange(0, most.topics).Draw(t, "topics missing"),
			partitions: most.partitions,
			equal:      most.equal || rapid.Bool().Draw(t, "equal subscriptions"),
			wild:       most.wild && rapid.Bool().Draw(t, "wild claims"),
		}
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		for range 20 {
			check(t, drawGroup(random, size))
		}
	})
}

func drawGroup(random *rand.Rand, size sizes) drawnGroup {
	g := drawnGroup{partitions: map[string]int32{}}
	names := []string{"unknown"} // never in partitions
	for i := range size.topics {
		names = append(names, fmt.Sprint("t", i))
		g.partitions[names[i+1]] = int32(random.IntN(size.partitions + 1))
	}
	for i := range size.members {
		m := Member{ID: fmt.Sprint("m", i), Topics: names}
		if random.IntN(5) == 0 {
			m.InstanceID = fmt.Sprint("i", size.members-i)
		}
		if !size.equal {
			m.Topics = nil
			for range 1 + random.IntN(2*len(names)) { // some of them twice
				m.Topics = append(m.Topics, names[random.IntN(len(names))])
			}
		}
		g.members = append(g.members, m)
	}
	g.drawClaims(random, size.wild)
	return g
}

// drawClaims gives each partition to some member, or leaves it. If they are
// wild, members also make claims that contradict each other, of several generations, of
// what they do not read, and of what is not there.
func (g *drawnGroup) drawClaims(random *rand.Rand, wild bool) {
	if len(g.members) == 0 {
		return
	}
	few := random.IntN(4) // a lopsided start: the first members own it all
	for _, topic := range slices.Sorted(maps.Keys(g.partitions)) {
		for p := range g.partitions[topic] {
			m := &g.members[random.IntN(len(g.members))]
			if few > 0 {
				m = &g.members[random.IntN(min(few, len(g.members)))]
			}
			if random.IntN(5) > 0 && (wild || slices.Contains(m.Topics, topic)) {
				m.Owned = append(m.Owned, TopicPartition{topic, p})
			}
		}
	}
	for i := range g.members {
		m := &g.members[i]
		m.Generation = 5
		if !wild {
			continue
		}
		m.Generation = int32(random.IntN(4) - 1)
		for range random.IntN(4) {
			m.Owned = append(m.Owned, TopicPartition{fmt.Sprint("t", random.IntN(4)), int32(random.IntN(4) - 1)})
		}
	}
}

// checkValid checks that each partition of a topic that somebody reads has one
// owner, who reads it, but for those in without, which have none; that members
// with nothing are there too; and that all is sorted.
func checkValid(t require.TestingT, g drawnGroup, result map[string][]TopicPartition, without []TopicPartition) {
	require.Len(t, result, len(g.members))
	missing := map[TopicPartition]bool{}
	for _, m := range g.members {
		for _, topic := range m.Topics {
			for p := range g.partitions[topic] {
				missing[TopicPartition{topic, p}] = true
			}
		}
	}
	for _, m := range g.members {
		parts, ok := result[m.ID]
		require.True(t, ok, "member %s", m.ID)
		require.True(t, slices.IsSortedFunc(parts, comparePartitions), "%v", parts)
		for _, p := range parts {
			if !missing[p] || !slices.Contains(m.Topics, p.Topic) {
				require.Fail(t, "wrong owner", "%v has two owners, or is not there, or %s does not read it", p, m.ID)
			}
			delete(missing, p)
		}
	}
	require.ElementsMatch(t, without, slices.Collect(maps.Keys(missing)))
}

// owners returns whose claims hold: the newest generation's, if one member makes it.
func owners(members []Member) map[TopicPartition]string {
	newest := map[TopicPartition]int32{}
	owner := map[TopicPartition]string{}
	for _, m := range members {
		for _, p := range m.Owned {
			if at, ok := newest[p]; !ok || m.Generation > at {
				newest[p] = m.Generation
			}
		}
	}
	for _, m := range members {
		for _, p := range m.Owned {
			if m.Generation != newest[p] {
				continue
			}
			if by, ok := owner[p]; ok && by != m.ID {
				owner[p] = "two members"
			} else {
				owner[p] = m.ID
			}
		}
	}
	return owner
}

// score is what an assignment is judged by: the squares of the loads, and how
// many partitions are with others than their owners.
type score struct{ squares, moves int }

func scoreOf(g drawnGroup, result map[string][]TopicPartition) score {
	owner := owners(g.members)
	var s score
	for _, m := range g.members {
		s.squares += len(result[m.ID]) * len(result[m.ID])
		for _, p := range result[m.ID] {
			if owner[p] != m.ID {
				s.moves++
			}
		}
	}
	return s
}

// best tries every assignment.
func best(g drawnGroup) score {
	var all []TopicPartition
	for _, topic := range slices.Sorted(maps.Keys(g.partitions)) {
		for p := range g.partitions[topic] {
			all = append(all, TopicPartition{topic, p})
		}
	}
	owner := owners(g.members)
	loads := make([]int, len(g.members))
	least := score{1 << 30, 0}
	var try func(i, moves int)
	try = func(i, moves int) {
		if i == len(all) {
			s := score{0, moves}
			for _, load := range loads {
				s.squares += load * load
			}
			if s.squares < least.squares || s.squares == least.squares && s.moves < least.moves {
				least = s
			}
			return
		}
		given := false
		for k, m := range g.members {
			if !slices.Contains(m.Topics, all[i].Topic) {
				continue
			}
			given = true
			loads[k]++
			if owner[all[i]] == m.ID {
				try(i+1, moves)
			} else {
				try(i+1, moves+1)
			}
			loads[k]--
		}
		if !given {
			try(i+1, moves)
		}
	}
	try(0, 0)
	return least
}

// checkNoMoveHelps checks that no partition could go from a member to one that
// reads it too and has at least two less.
func checkNoMoveHelps(t require.TestingT, g drawnGroup, result map[string][]TopicPartition) {
	for _, from := range g.members {
		for _, p := range result[from.ID] {
			for _, to := range g.members {
				if len(result[from.ID])-len(result[to.ID]) >= 2 && slices.Contains(to.Topics, p.Topic) {
					require.Fail(t, "not balanced", "%v of %s would be better with %s", p, from.ID, to.ID)
				}
			}
		}
	}
}

// take makes the members own what they were given, in the next generation.
func (g *drawnGroup) take(result map[string][]TopicPartition) {
	for i := range g.members {
		m := &g.members[i]
		m.Owned, m.Generation = result[m.ID], 9
	}
}

// owned calls f for everything that a member claims.
func (g *drawnGroup) owned(f func(Member, TopicPartition)) {
	for _, m := range g.members {
		for _, p := range m.Owned {
			f(m, p)
		}
	}
}

// checkKeeps checks that all members have what they own.
func (g *drawnGroup) checkKeeps(t require.TestingT, result map[string][]TopicPartition) {
	g.owned(func(m Member, p TopicPartition) {
		if !slices.Contains(result[m.ID], p) {
			require.Fail(t, "it moved", "%v of %s", p, m.ID)
		}
	})
}

// allReadTheSame reports whether subscriptions are equal.
func allReadTheSame(members []Member) bool {
	for _, m := range members {
		if !slices.Equal(m.Topics, members[0].Topics) {
			return false
		}
	}
	return true
}
