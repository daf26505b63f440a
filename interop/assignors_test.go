package interop

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"

	"github.com/rifflelog/riffle/internal/group"
)

// checkConsumers calls check with random groups in which each partition has at
// most one owner, and all claims are of one generation. Members are in the order
// in which a leader gets them: by instance ID, then by ID.
func checkConsumers(t *testing.T, check func(t *rapid.T, members []group.Member, partitions map[string]int32)) {
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.IntRange(0, 20).Draw(t, "members missing")
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		var members []group.Member
		for i := range 21 - most {
			m := group.Member{ID: fmt.Sprintf("m%02d", i), Generation: 7}
			if random.IntN(4) == 0 {
				m.InstanceID = fmt.Sprintf("i%02d", 99-i)
			}
			members = append(members, m)
		}
		slices.SortFunc(members, func(a, b group.Member) int {
			return cmp.Or(-cmp.Compare(min(len(a.InstanceID), 1), min(len(b.InstanceID), 1)), cmp.Compare(a.InstanceID, b.InstanceID), cmp.Compare(a.ID, b.ID))
		})
		partitions := map[string]int32{}
		equal := random.IntN(2) == 0
		for i := range 1 + random.IntN(6) {
			topic := fmt.Sprint("t", i)
			partitions[topic] = int32(random.IntN(10))
			var readers []int
			for k := range members {
				if equal || random.IntN(2) == 0 || k == i%len(members) {
					members[k].Topics = append(members[k].Topics, topic)
					readers = append(readers, k)
				}
			}
			first := readers[:1+random.IntN(len(readers))] // the rest is new
			for p := range partitions[topic] {
				if random.IntN(5) > 0 {
					m := &members[first[random.IntN(len(first))]]
					m.Owned = append(m.Owned, group.TopicPartition{Topic: topic, Partition: p})
				}
			}
		}
		check(t, members, partitions)
	})
}

// balanceWithFranz gives the group to an assignor of franz-go, with the bytes that
// we would have joined with, and reads its answers.
func balanceWithFranz(t require.TestingT, b kgo.GroupBalancer, members []group.Member, partitions map[string]int32) map[string][]group.TopicPartition {
	var joined []kmsg.JoinGroupResponseMember
	for _, m := range members {
		if b.ProtocolName() == "sticky" { // it has revoked all when it joins
			m.UserData, m.Owned = group.EncodeStickyUserData(m.Owned, m.Generation), nil
		}
		j := kmsg.JoinGroupResponseMember{MemberID: m.ID, ProtocolMetadata: group.EncodeSubscription(m)}
		if m.InstanceID != "" {
			j.InstanceID = &m.InstanceID
		}
		joined = append(joined, j)
	}
	balancer, _, err := b.MemberBalancer(joined)
	require.NoError(t, err)
	into, err := balancer.(kgo.GroupMemberBalancerOrError).BalanceOrError(partitions)
	require.NoError(t, err)
	result := map[string][]group.TopicPartition{}
	for _, a := range into.IntoSyncAssignment() {
		parts, _, err := group.DecodeAssignment(a.MemberAssignment)
		require.NoError(t, err)
		result[a.MemberID] = parts
		again, err := kgo.ParseConsumerSyncAssignment(group.EncodeAssignment(parts, nil))
		require.NoError(t, err)
		require.Equal(t, numbers(parts), again)
	}
	return result
}

// numbers returns the partitions by topic.
func numbers(parts []group.TopicPartition) map[string][]int32 {
	byTopic := map[string][]int32{}
	for _, p := range parts {
		byTopic[p.Topic] = append(byTopic[p.Topic], p.Partition)
	}
	return byTopic
}

// Range and round robin give every member what franz-go's give it.
func TestWeAssignAsFranzDoes(t *testing.T) {
	checkConsumers(t, func(t *rapid.T, members []group.Member, partitions map[string]int32) {
		for _, c := range []struct {
			franz kgo.GroupBalancer
			ours  func([]group.Member, map[string]int32) map[string][]group.TopicPartition
		}{{kgo.RangeBalancer(), group.Range}, {kgo.RoundRobinBalancer(), group.RoundRobin}} {
			want := balanceWithFranz(t, c.franz, members, partitions)
			got := c.ours(members, partitions)
			require.Equal(t, slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got)))
			for id := range want {
				require.Equal(t, numbers(want[id]), numbers(got[id]), "%s, %s", c.franz.ProtocolName(), id)
			}
		}
	})
}

// Sticky gives the members the loads that franz-go's gives them, in some order,
// and leaves as many partitions where they are.
func TestWeStickAsFranzDoes(t *testing.T) {
	checkConsumers(t, func(t *rapid.T, members []group.Member, partitions map[string]int32) {
		franz := balanceWithFranz(t, kgo.StickyBalancer(), members, partitions)
		ours := group.Sticky(members, partitions)
		require.Equal(t, loads(franz), loads(ours))
		require.Equal(t, kept(members, franz), kept(members, ours))
	})
}

// What cooperative-sticky of either side takes away goes to nobody.
func TestFranzMovesNothingThatIsOwned(t *testing.T) {
	checkConsumers(t, func(t *rapid.T, members []group.Member, partitions map[string]int32) {
		franz := balanceWithFranz(t, kgo.CooperativeStickyBalancer(), members, partitions)
		ours := group.CooperativeSticky(members, partitions)
		require.NoError(t, group.CheckCooperative(members, franz))
		require.NoError(t, group.CheckCooperative(members, ours))
		require.Equal(t, kept(members, franz), kept(members, ours))
	})
}

// loads returns how many partitions the members have, the fewest first.
func loads(result map[string][]group.TopicPartition) []int {
	var loads []int
	for _, parts := range result {
		loads = append(loads, len(parts))
	}
	slices.Sort(loads)
	return loads
}

// kept counts what stays where it is.
func kept(members []group.Member, result map[string][]group.TopicPartition) int {
	n := 0
	for _, m := range members {
		for _, p := range m.Owned {
			if slices.Contains(result[m.ID], p) {
				n++
			}
		}
	}
	return n
}

// We read what franz-go's clients join with as what they said: topics, what they
// own, since when.
func TestWeReadFranzsSubscriptions(t *testing.T) {
	owned := map[string][]int32{"a": {0, 2}, "b": {1}}
	want := []group.TopicPartition{{Topic: "a", Partition: 0}, {Topic: "a", Partition: 2}, {Topic: "b", Partition: 1}}
	for _, b := range []kgo.GroupBalancer{kgo.RangeBalancer(), kgo.RoundRobinBalancer(), kgo.StickyBalancer(), kgo.CooperativeStickyBalancer()} {
		m, err := group.DecodeSubscription(b.JoinGroupMetadata([]string{"a", "b"}, owned, 7))
		require.NoError(t, err, b.ProtocolName())
		require.Equal(t, []string{"a", "b"}, m.Topics, b.ProtocolName())
		require.Equal(t, int32(7), m.Generation, b.ProtocolName())
		if b.ProtocolName() == "sticky" || b.IsCooperative() {
			require.Equal(t, want, m.Owned, b.ProtocolName())
		} else {
			require.Empty(t, m.Owned, b.ProtocolName())
		}
	}
}
