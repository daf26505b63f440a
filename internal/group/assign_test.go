package group

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

type assignor = func([]Member, map[string]int32) map[string][]TopicPartition

var assignors = map[string]assignor{
	"range": Range, "roundrobin": RoundRobin, "sticky": Sticky, "cooperative-sticky": CooperativeSticky,
}

// parseParts reads partitions: "t1:0,1 t2:0".
func parseParts(t require.TestingT, s string) []TopicPartition {
	var all []TopicPartition
	for _, field := range strings.Fields(s) {
		topic, numbers, _ := strings.Cut(field, ":")
		for _, n := range strings.Split(numbers, ",") {
			p, err := strconv.ParseInt(n, 10, 32)
			require.NoError(t, err)
			all = append(all, TopicPartition{topic, int32(p)})
		}
	}
	return all
}

// parseMembers reads a group, a line a member: its ID, instance ID after a slash, the
// topics it reads, and after @ the generation of what it says it has:
//
//	c1/static t1,t2 @3 t1:0,1 t2:0
func parseMembers(t require.TestingT, s string) []Member {
	var all []Member
	for _, line := range strings.Split(strings.TrimSpace(s), "\n") {
		who, claim, claims := strings.Cut(strings.TrimSpace(line), "@")
		m := Member{Generation: -1}
		fields := strings.Fields(who)
		m.ID, m.InstanceID, _ = strings.Cut(fields[0], "/")
		if len(fields) > 1 {
			m.Topics = strings.Split(fields[1], ",")
		}
		if claims {
			generation, owned, _ := strings.Cut(claim, " ")
			n, err := strconv.ParseInt(generation, 10, 32)
			require.NoError(t, err)
			m.Generation, m.Owned = int32(n), parseParts(t, owned)
		}
		all = append(all, m)
	}
	return all
}

// parseResult reads who gets what, a line a member.
func parseResult(t require.TestingT, s string) map[string][]TopicPartition {
	all := map[string][]TopicPartition{}
	for _, line := range strings.Split(strings.TrimSpace(s), "\n") {
		who, what, _ := strings.Cut(strings.TrimSpace(line), " ")
		all[who] = parseParts(t, what)
	}
	return all
}

// requireResult compares what members get; nothing is nothing, nil or empty.
func requireResult(t require.TestingT, want string, got map[string][]TopicPartition) {
	expected := parseResult(t, want)
	require.Equal(t, slices.Sorted(maps.Keys(expected)), slices.Sorted(maps.Keys(got)))
	for id, parts := range expected {
		require.Equal(t, append([]TopicPartition{}, parts...), append([]TopicPartition{}, got[id]...), "member %s", id)
	}
}

// The cases of Kafka's RangeAssignorTest and RoundRobinAssignorTest, those with
// racks left out.
func TestRangeAndRoundRobin(t *testing.T) {
	for _, c := range []struct {
		name, members      string
		partitions         map[string]int32
		ranges, roundRobin string
	}{
		{"one consumer, no topic", "c1", map[string]int32{"t1": 2}, "c1", "c1"},
		{"one consumer, a topic that is not there", "c1 t1", nil, "c1", "c1"},
		{"a topic without partitions", "c1 t1", map[string]int32{"t1": 0}, "c1", "c1"},
		{"one consumer, one topic", "c1 t1", map[string]int32{"t1": 3}, "c1 t1:0,1,2", "c1 t1:0,1,2"},
		{
			"only subscribed topics", "c1 t1",
			map[string]int32{"t1": 3, "other": 3},
			"c1 t1:0,1,2", "c1 t1:0,1,2",
		},
		{
			"one consumer, several topics", "c1 t2,t1",
			map[string]int32{"t1": 1, "t2": 2},
			"c1 t1:0 t2:0,1", "c1 t1:0 t2:0,1",
		},
		{
			"two consumers, one partition", "c1 t1\nc2 t1",
			map[string]int32{"t1": 1},
			"c1 t1:0\nc2", "c1 t1:0\nc2",
		},
		{
			"two consumers, two partitions", "c2 t1\nc1 t1",
			map[string]int32{"t1": 2},
			"c1 t1:0\nc2 t1:1", "c1 t1:0\nc2 t1:1",
		},
		{
			"several consumers, mixed topics", "c1 t1\nc2 t1,t2\nc3 t1",
			map[string]int32{"t1": 3, "t2": 2},
			"c1 t1:0\nc2 t1:1 t2:0,1\nc3 t1:2", "c1 t1:0\nc2 t1:1 t2:0,1\nc3 t1:2",
		},
		{
			"two consumers, two topics, six partitions", "c1 t1,t2\nc2 t1,t2",
			map[string]int32{"t1": 3, "t2": 3},
			"c1 t1:0,1 t2:0,1\nc2 t1:2 t2:2", "c1 t1:0,2 t2:1\nc2 t1:1 t2:0,2",
		},
		{
			"static consumers go by instance ID", "c2/a t1,t2\nc1/b t1,t2",
			map[string]int32{"t1": 3, "t2": 3},
			"c2 t1:0,1 t2:0,1\nc1 t1:2 t2:2", "c2 t1:0,2 t2:1\nc1 t1:1 t2:0,2",
		},
		{
			"a static consumer goes before a dynamic one", "c1 t1,t2\nc2/z t1,t2",
			map[string]int32{"t1": 3, "t2": 3},
			"c2 t1:0,1 t2:0,1\nc1 t1:2 t2:2", "c2 t1:0,2 t2:1\nc1 t1:1 t2:0,2",
		},
		{
			"a topic named twice counts once", "c1 t1,t1\nc2 t1",
			map[string]int32{"t1": 4},
			"c1 t1:0,1\nc2 t1:2,3", "c1 t1:0,2\nc2 t1:1,3",
		},
		{
			"topics with equal counts line up", "c1 t1,t2\nc2 t1,t2\nc3 t1,t2",
			map[string]int32{"t1": 4, "t2": 4},
			"c1 t1:0,1 t2:0,1\nc2 t1:2 t2:2\nc3 t1:3 t2:3", "c1 t1:0,3 t2:2\nc2 t1:1 t2:0,3\nc3 t1:2 t2:1",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			requireResult(t, c.ranges, Range(parseMembers(t, c.members), c.partitions))
			requireResult(t, c.roundRobin, RoundRobin(parseMembers(t, c.members), c.partitions))
		})
	}
}

// Each partition that somebody reads has one owner, who reads it; with Range the
// parts of a topic differ by at most one.
func TestRangeAndRoundRobinAreValid(t *testing.T) {
	checkGroups(t, sizes{members: 9, topics: 4, partitions: 9, wild: true}, func(t *rapid.T, g drawnGroup) {
		checkValid(t, g, RoundRobin(g.members, g.partitions), nil)
		ranges := Range(g.members, g.partitions)
		checkValid(t, g, ranges, nil)
		for topic, count := range g.partitions {
			least, most := count, int32(0)
			for _, m := range g.members {
				if slices.Contains(m.Topics, topic) {
					n := int32(len(slices.DeleteFunc(slices.Clone(ranges[m.ID]), func(p TopicPartition) bool { return p.Topic != topic })))
					least, most = min(least, n), max(most, n)
				}
			}
			require.LessOrEqual(t, most-min(least, most), int32(1), "%s: %v", topic, ranges)
		}
	})
}

// The order in which members, topics and claims are given changes nothing, nor do
// the assignors change what they are given.
func TestOrderOfInputDoesNotMatter(t *testing.T) {
	checkGroups(t, sizes{members: 9, topics: 4, partitions: 9, wild: true}, func(t *rapid.T, g drawnGroup) {
		random := rand.New(rand.NewPCG(3, 4))
		before := cloneMembers(g.members)
		shuffled := cloneMembers(g.members)
		shuffle(random, shuffled)
		for i := range shuffled {
			shuffle(random, shuffled[i].Topics)
			shuffle(random, shuffled[i].Owned)
		}
		for name, assign := range assignors {
			require.Equal(t, assign(g.members, g.partitions), assign(shuffled, g.partitions), name)
		}
		require.Equal(t, before, g.members)
	})
}

func shuffle[T any](random *rand.Rand, s []T) {
	random.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] })
}

func cloneMembers(members []Member) []Member {
	members = slices.Clone(members)
	for i := range members {
		members[i].Topics = slices.Clone(members[i].Topics)
		members[i].Owned = slices.Clone(members[i].Owned)
	}
	return members
}

// A cooperative assignor may give a member what it has, and what nobody has. It
// may not move what another one still owns, whether or not that one keeps it:
// ConsumerCoordinatorTest.testPerformAssignmentShouldValidateCooperativeAssignment.
func TestCheckCooperative(t *testing.T) {
	group := parseMembers(t, "c1 t1 @1 t1:0,1\nc2 t1 @1 t1:2\nc3 t1")
	for _, ok := range []string{
		"c1 t1:0,1\nc2 t1:2\nc3 t1:3",
		"c1 t1:0\nc2 t1:2\nc3", // what moves goes to nobody
		"c1\nc2\nc3",
		"c1 t1:0,1", // c2 and c3 are left out
	} {
		require.NoError(t, CheckCooperative(group, parseResult(t, ok)))
	}
	for _, bad := range []string{
		"c1 t1:0\nc2 t1:2\nc3 t1:1",
		"c1 t1:0,1\nc2 t1:2\nc3 t1:1",
	} {
		require.EqualError(t, CheckCooperative(group, parseResult(t, bad)),
			`a cooperative assignor gives partition 1 of topic "t1" to member "c3" while member "c1" owns it`)
	}
	both := parseMembers(t, "c1 t1 @1 t1:0\nc2 t1 @1 t1:0")
	require.NoError(t, CheckCooperative(both, parseResult(t, "c1 t1:0\nc2")), "it stays with one who owns it")
}
