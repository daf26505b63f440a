package group

import (
	"cmp"
	"fmt"
	"slices"
)

// TopicPartition names a partition.
type TopicPartition struct {
	Topic     string
	Partition int32
}

func comparePartitions(a, b TopicPartition) int {
	return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
}

// Member is what an assignor knows of one member. IDs differ within a group.
//
// Kafka's members also name their rack (KIP-881), so that each reads from a
// replica nearby. Here one node has all partitions, so racks decide nothing.
type Member struct {
	ID         string
	InstanceID string           // group.instance.id of a static member, else empty
	Topics     []string         // what it subscribes to
	Owned      []TopicPartition // what it says it has
	Generation int32            // the group's generation in which it got Owned; -1: unknown
	UserData   []byte           // what its assignor adds
}

// subscribed is a topic that exists and that somebody reads.
type subscribed struct {
	topic   string
	count   int32   // of partitions, above 0
	readers []int32 // indexes of members, ascending, at least one
}

// Range is Kafka's RangeAssignor: each topic on its own is cut into ranges of
// neighbouring partitions, one for each of its readers in order, the first ones
// being one longer where the numbers do not divide. Partitions of the same
// number in topics with equal counts and readers go to the same member.
//
// As with every assignor here: partitions has the number of partitions by topic;
// subscriptions to topics that are not in it are ignored. The result has every
// member by its ID, with its partitions sorted, or with none.
func Range(members []Member, partitions map[string]int32) map[string][]TopicPartition {
	members = inOrder(members)
	given := make([][]TopicPartition, len(members))
	for _, t := range subscribedTopics(members, partitions) {
		readers := int32(len(t.readers))
		share, longer := t.count/readers, t.count%readers
		next := int32(0)
		for i, m := range t.readers {
			end := next + share
			if int32(i) < longer {
				end++
			}
			for ; next < end; next++ {
				given[m] = append(given[m], TopicPartition{t.topic, next})
			}
		}
	}
	return resultOf(members, given)
}

// RoundRobin is Kafka's RoundRobinAssignor: all partitions, sorted, are dealt
// in a circle over the members in order; who does not read the topic is skipped.
func RoundRobin(members []Member, partitions map[string]int32) map[string][]TopicPartition {
	members = inOrder(members)
	given := make([][]TopicPartition, len(members))
	next := int32(0)
	for _, t := range subscribedTopics(members, partitions) {
		for p := range t.count {
			i, _ := slices.BinarySearch(t.readers, next)
			m := t.readers[i%len(t.readers)]
			given[m] = append(given[m], TopicPartition{t.topic, p})
			next = m + 1
		}
	}
	return resultOf(members, given)
}

// CheckCooperative returns an error if the result of a cooperative assignor
// (KIP-429) gives a member what another one still owns and it does not: it would
// begin to read before the other has stopped. Such a partition goes to nobody
// until its owner has given it up and the members have joined again.
func CheckCooperative(members []Member, result map[string][]TopicPartition) error {
	members = inOrder(members)
	owners := map[TopicPartition][]string{}
	for _, m := range members {
		for _, p := range m.Owned {
			owners[p] = append(owners[p], m.ID)
		}
	}
	for _, m := range members {
		for _, p := range result[m.ID] {
			if by := owners[p]; len(by) > 0 && !slices.Contains(by, m.ID) {
				return fmt.Errorf("a cooperative assignor gives partition %d of topic %q to member %q while member %q owns it",
					p.Partition, p.Topic, m.ID, by[0])
			}
		}
	}
	return nil
}

// inOrder returns the members in the order in which assignors serve them: static
// members first, by instance ID, so that a restart, which changes the member ID,
// does not change their place; then the others by member ID.
func inOrder(members []Member) []Member {
	members = slices.Clone(members)
	slices.SortFunc(members, func(a, b Member) int {
		if (a.InstanceID == "") != (b.InstanceID == "") {
			if a.InstanceID != "" {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(a.InstanceID, b.InstanceID), cmp.Compare(a.ID, b.ID))
	})
	return members
}

// subscribedTopics returns the topics that there are and that somebody reads, by
// name. A topic that a member names twice counts once.
func subscribedTopics(members []Member, partitions map[string]int32) []subscribed {
	var topics []subscribed
	index := map[string]int{}
	for m := range members {
		for _, name := range members[m].Topics {
			if partitions[name] <= 0 {
				continue
			}
			i, ok := index[name]
			if !ok {
				i = len(topics)
				index[name] = i
				topics = append(topics, subscribed{topic: name, count: partitions[name]})
			}
			t := &topics[i]
			if n := len(t.readers); n == 0 || t.readers[n-1] != int32(m) {
				t.readers = append(t.readers, int32(m))
			}
		}
	}
	slices.SortFunc(topics, func(a, b subscribed) int { return cmp.Compare(a.topic, b.topic) })
	return topics
}

// resultOf names the members that were given something, or nothing.
func resultOf(members []Member, given [][]TopicPartition) map[string][]TopicPartition {
	result := make(map[string][]TopicPartition, len(members))
	for i, m := range members {
		result[m.ID] = given[i]
	}
	return result
}
