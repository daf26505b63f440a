package group

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// stickyCases are those of Kafka's AbstractStickyAssignorTest and
// StickyAssignorTest that name who gets what, racks left out, and some more.
var stickyCases = []struct {
	name, members string
	partitions    map[string]int32
	want          string
}{
	{"no topic", "c1", map[string]int32{"t1": 2}, "c1"},
	{"a topic that is not there", "c1 t1", nil, "c1"},
	{"several consumers, mixed topics", "c1 t1\nc2 t1,t2\nc3 t1", map[string]int32{"t1": 3, "t2": 2}, "c1 t1:0,2\nc2 t2:0,1\nc3 t1:1"},
	{
		"a start deals in a circle, by name", "c1 t1,t2\nc2 t1,t2",
		map[string]int32{"t1": 3, "t2": 3},
		"c1 t1:0,2 t2:1\nc2 t1:1 t2:0,2",
	},
	{
		"a consumer joins", "c1 t1 @1 t1:0,1,2\nc2 t1",
		map[string]int32{"t1": 3},
		"c1 t1:0,1\nc2 t1:2",
	},
	{
		"a consumer leaves", "c2 t1 @2 t1:1,2",
		map[string]int32{"t1": 3},
		"c2 t1:0,1,2",
	},
	{
		"a topic is new", "c1 t1,t2 @2 t1:0,2\nc2 t1,t2 @2 t1:1",
		map[string]int32{"t1": 3, "t2": 3},
		"c1 t1:0,2 t2:1\nc2 t1:1 t2:0,2",
	},
	{
		"a topic is deleted", "c1 t1,t2 @2 t1:0 t2:0,1\nc2 t1,t2 @2 t1:1",
		map[string]int32{"t1": 2},
		"c1 t1:0\nc2 t1:1",
	},
	{"the only topic is deleted", "c1 t1 @2 t1:0,1", nil, "c1"},
	{
		"a topic is not read any more", "c1 t2 @2 t1:0,1\nc2 t1,t2 @2 t2:0,1",
		map[string]int32{"t1": 2, "t2": 2},
		"c1 t2:0,1\nc2 t1:0,1",
	},
	{
		"consumers with their share are full", "c1 t1 @1 t1:0,1\nc2 t1 @1 t1:2\nc3 t1",
		map[string]int32{"t1": 4},
		"c1 t1:0,1\nc2 t1:2\nc3 t1:3",
	},
	{
		"who has less than the others is served first", "c1 t1\nc2 t1 @1 t1:0\nc3 t1 @1 t1:1",
		map[string]int32{"t1": 3},
		"c1 t1:2\nc2 t1:0\nc3 t1:1",
	},
	{
		"an older generation's claims lose", "c1 t1,t2 @5 t1:0,2 t2:1\nc2 t1,t2 @4 t1:0,2 t2:1",
		map[string]int32{"t1": 3, "t2": 3},
		"c1 t1:0,2 t2:1\nc2 t1:1 t2:0,2",
	},
	{
		"so do claims of no generation", "c1 t1,t2 @5 t1:0,2 t2:1\nc2 t1,t2 @-1 t1:0,2 t2:1",
		map[string]int32{"t1": 3, "t2": 3},
		"c1 t1:0,2 t2:1\nc2 t1:1 t2:0,2",
	},
	{
		"an older claim that nobody contradicts holds", "c1 t1 @5 t1:0\nc2 t1 @4 t1:1,2",
		map[string]int32{"t1": 3},
		"c1 t1:0\nc2 t1:1,2",
	},
	{
		"a newer claim wins, though it is for a topic not read", "c1 t2 @5 t1:0\nc2 t1 @4 t1:0\nc3 t1",
		map[string]int32{"t1": 2, "t2": 1},
		"c1 t2:0\nc2 t1:0\nc3 t1:1",
	},
	{
		"of two claims in one generation neither holds", "c1 t1 @1 t1:0,1\nc2 t1 @1 t1:0,2\nc3 t1",
		map[string]int32{"t1": 3},
		"c1 t1:1\nc2 t1:2\nc3 t1:0",
	},
	{
		"nor does an older third one", "c1 t1 @1 t1:0,1\nc2 t1 @1 t1:0,2\nc3 t1 @0 t1:0\nc4 t1",
		map[string]int32{"t1": 4},
		"c1 t1:1\nc2 t1:2\nc3 t1:0\nc4 t1:3",
	},
	{
		"unlike both, a third newer one", "c1 t1 @1 t1:0,1\nc2 t1 @1 t1:0,2\nc3 t1 @2 t1:0",
		map[string]int32{"t1": 3},
		"c1 t1:1\nc2 t1:2\nc3 t1:0",
	},
	{
		"a claim made twice is one claim", "c1 t1 @1 t1:1,1\nc2 t1",
		map[string]int32{"t1": 2},
		"c1 t1:1\nc2 t1:0",
	},
	{
		"a chain of moves", "c1 t1 @1 t1:0,1\nc2 t1,t2 @1 t2:0\nc3 t2",
		map[string]int32{"t1": 2, "t2": 1},
		"c1 t1:0\nc2 t1:1\nc3 t2:0",
	},
}

func TestSticky(t *testing.T) {
	for _, c := range stickyCases {
		t.Run(c.name, func(t *testing.T) {
			group := parseMembers(t, c.members)
			requireResult(t, c.want, Sticky(group, c.partitions))
		})
	}
}

// Against an oracle that tries every assignment of small groups: Sticky has the
// best balance, and of all with that balance the fewest moves.
func TestStickyIsBalancedThenMovesFewest(t *testing.T) {
	checkGroups(t, sizes{members: 5, topics: 4, partitions: 2, wild: true}, func(t *rapid.T, g drawnGroup) {
		result := Sticky(g.members, g.partitions)
		checkValid(t, g, result, nil)
		require.Equal(t, best(g), scoreOf(g, result))
	})
}

// With equal subscriptions loads differ by at most one, and what stays is what
// arithmetic says: everybody keeps the lesser share, and as many keep one more as
// there are greater shares.
func TestStickyWithEqualSubscriptions(t *testing.T) {
	checkGroups(t, sizes{members: 40, topics: 5, partitions: 30, equal: true, wild: true}, func(t *rapid.T, g drawnGroup) {
		if len(g.members) == 0 {
			return
		}
		result := Sticky(g.members, g.partitions)
		checkValid(t, g, result, nil)
		owned, total := map[string]int{}, 0
		for _, count := range g.partitions {
			total += int(count)
		}
		for p, by := range owners(g.members) {
			if p.Partition >= 0 && p.Partition < g.partitions[p.Topic] {
				owned[by]++
			}
		}
		share, greater := total/len(g.members), total%len(g.members)
		kept := 0
		for _, m := range g.members {
			require.Contains(t, []int{share, share + 1}, len(result[m.ID]))
			kept += min(owned[m.ID], share)
			if owned[m.ID] > share && greater > 0 {
				kept++
				greater--
			}
		}
		require.Equal(t, total-kept, scoreOf(g, result).moves)
	})
}

// In larger groups: no single move makes the loads more even; the same members
// with what they got keep it, all of it; and with equal subscriptions they do so
// too when one of them leaves. (With others, balance may ask for more: the oracle
// above knows.)
func TestStickyStaysWithWhatItGave(t *testing.T) {
	checkGroups(t, sizes{members: 16, topics: 6, partitions: 9, wild: true}, func(t *rapid.T, g drawnGroup) {
		result := Sticky(g.members, g.partitions)
		checkValid(t, g, result, nil)
		checkNoMoveHelps(t, g, result)
		g.take(result)
		require.Equal(t, result, Sticky(g.members, g.partitions))
		if len(g.members) < 2 {
			return
		}
		left := g.members[len(g.members)/2].ID
		g.members = slices.DeleteFunc(g.members, func(m Member) bool { return m.ID == left })
		after := Sticky(g.members, g.partitions)
		checkValid(t, g, after, nil)
		checkNoMoveHelps(t, g, after)
		if len(g.members) > 0 && allReadTheSame(g.members) {
			g.owned(func(m Member, p TopicPartition) {
				require.Contains(t, after[m.ID], p, "it moved, though only %s left", left)
			})
		}
	})
}

// Nineteen consumers, of which each reads one topic more than the one before it,
// lose one from their middle: AbstractStickyAssignorTest.testReassignmentAfterOneConsumerLeaves.
// Those that stay keep all they had, since the best balance allows it.
func TestReassignmentAfterOneConsumerLeaves(t *testing.T) {
	g := drawnGroup{partitions: map[string]int32{}}
	var topics []string
	for i := 1; i < 20; i++ {
		topics = append(topics, fmt.Sprintf("t%02d", i))
		g.partitions[topics[i-1]] = int32(i)
		g.members = append(g.members, Member{ID: fmt.Sprintf("c%02d", i), Topics: slices.Clone(topics), Generation: -1})
	}
	g.take(Sticky(g.members, g.partitions))
	g.members = slices.Delete(g.members, 9, 10)
	after := Sticky(g.members, g.partitions)
	checkValid(t, g, after, nil)
	checkNoMoveHelps(t, g, after)
	g.checkKeeps(t, after)
}

// CooperativeSticky gives what Sticky gives, without what another one claims, and
// moves nothing that is owned. When all have joined again with what they then
// have, it gives the rest, and has Sticky's balance: two rounds, whatever the
// claims were.
func TestCooperativeStickyNeedsTwoRounds(t *testing.T) {
	checkGroups(t, sizes{members: 20, topics: 6, partitions: 9, wild: true}, func(t *rapid.T, g drawnGroup) {
		whole := Sticky(g.members, g.partitions)
		claimed, owner := map[TopicPartition]bool{}, owners(g.members)
		g.owned(func(_ Member, p TopicPartition) { claimed[p] = true })
		var moving []TopicPartition
		for _, m := range g.members {
			for _, p := range whole[m.ID] {
				if claimed[p] && owner[p] != m.ID {
					moving = append(moving, p)
				}
			}
		}
		first := CooperativeSticky(g.members, g.partitions)
		checkValid(t, g, first, moving)
		require.NoError(t, CheckCooperative(g.members, first))
		g.take(first)
		second := CooperativeSticky(g.members, g.partitions)
		checkValid(t, g, second, nil)
		require.NoError(t, CheckCooperative(g.members, second))
		g.checkKeeps(t, second)
		require.Equal(t, scoreOf(g, whole).squares, scoreOf(g, second).squares)
	})
}

// StickyAssignor gives a partition that two members claim to one of them, or to a
// third; CooperativeStickyAssignor first to nobody, since both may be reading:
// testPartitionsTransferringOwnershipIncludeThePartitionClaimedByMultipleConsumersInSameGeneration.
func TestCooperativeStickyWithholdsWhatTwoClaim(t *testing.T) {
	partitions := map[string]int32{"t1": 3}
	two := parseMembers(t, "c1 t1 @1 t1:0,1\nc2 t1 @1 t1:0,2\nc3 t1")
	requireResult(t, "c1 t1:1\nc2 t1:2\nc3", CooperativeSticky(two, partitions))
	one := parseMembers(t, "c1 t1 @1 t1:0,1\nc2 t1 @1 t1:0,2")
	requireResult(t, "c1 t1:1\nc2 t1:2", CooperativeSticky(one, partitions))
	older := parseMembers(t, "c1 t1 @2 t1:0,1\nc2 t1 @1 t1:0,2")
	requireResult(t, "c1 t1:0,1\nc2 t1:2", CooperativeSticky(older, partitions))
}

// Without leave to look for fewer moves, the balance is the same and each
// partition has its one owner, but more of them may move.
func TestFewestMovesMayBeCutShort(t *testing.T) {
	moved := false
	checkGroups(t, sizes{members: 20, topics: 8, partitions: 5, wild: true}, func(t *rapid.T, g drawnGroup) {
		s := newSticky(g.members, g.partitions)
		result := s.named(s.assign(0))
		checkValid(t, g, result, nil)
		all := Sticky(g.members, g.partitions)
		require.Equal(t, scoreOf(g, all).squares, scoreOf(g, result).squares)
		require.LessOrEqual(t, scoreOf(g, all).moves, scoreOf(g, result).moves)
		moved = moved || scoreOf(g, all).moves < scoreOf(g, result).moves
	})
	require.True(t, moved, "the search never mattered")
}
