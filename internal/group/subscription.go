package group

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// The bytes that members exchange are Kafka's ConsumerProtocol, in its own
// big-endian types: strings with a length of two bytes, arrays and byte strings
// with one of four, -1 for null.
//
//	subscription           version | topics [] | user data | owned [topic, partitions []] | generation | rack
//	                                 every version           1 on                           2 on         3 on
//	assignment             version | assigned [topic, partitions []] | user data
//	user data of sticky    previous assignment [topic, partitions []] | generation
//	                                                                    version 1, told by the length alone
//	of cooperative-sticky  generation
//
// What comes after the fields of a version that is newer than 3 is ignored.

// consumerProtocol is the version that Kafka 4.0 writes. Every version reads it.
const consumerProtocol = 3

// EncodeSubscription returns the metadata with which a member joins: its topics,
// user data, and what it owns since which generation. Topic names have at most
// 32,767 bytes (249 in Kafka).
func EncodeSubscription(m Member) []byte {
	meta := kmsg.NewConsumerMemberMetadata()
	meta.Version = consumerProtocol
	meta.Topics = slices.Compact(slices.Sorted(slices.Values(m.Topics)))
	meta.UserData = m.UserData
	meta.Generation = m.Generation
	for topic, numbers := range numbersByTopic(m.Owned) {
		meta.OwnedPartitions = append(meta.OwnedPartitions,
			kmsg.ConsumerMemberMetadataOwnedPartition{Topic: topic, Partitions: numbers})
	}
	return meta.AppendTo(nil)
}

// DecodeSubscription reads what a member joined with, of any version. Its ID and
// instance ID are not in there. The result shares no memory with b.
//
// What the member owns is in the subscription, or, if it revoked all before it
// joined, in the user data of Kafka's StickyAssignor. User data in another form
// tells nothing, as in Kafka; it is no error.
func DecodeSubscription(b []byte) (Member, error) {
	var meta kmsg.ConsumerMemberMetadata
	if err := meta.ReadFrom(b); err != nil {
		return Member{}, fmt.Errorf("read a member's subscription: %w", err)
	}
	if meta.Version < 0 {
		return Member{}, fmt.Errorf("read a member's subscription: version %d", meta.Version)
	}
	m := Member{Topics: meta.Topics, UserData: bytes.Clone(meta.UserData), Generation: max(meta.Generation, -1)}
	for _, t := range meta.OwnedPartitions {
		m.Owned = appendNumbers(m.Owned, t.Topic, t.Partitions)
	}
	if err := inOrderOnce(&m.Owned); err != nil {
		return Member{}, fmt.Errorf("read a member's subscription: %w", err)
	}
	if len(m.Owned) == 0 {
		m.readUserData()
	}
	return m, nil
}

// readUserData takes from the user data what a sticky assignor put there.
func (m *Member) readUserData() {
	const generation = 4 // bytes
	if len(m.UserData) == generation {
		if m.Generation < 0 { // CooperativeStickyAssignor, before version 2 had a field for it
			m.Generation = max(int32(binary.BigEndian.Uint32(m.UserData)), -1)
		}
		return
	}
	var meta kmsg.StickyMemberMetadata
	if meta.ReadFrom(m.UserData) != nil {
		return
	}
	var owned []TopicPartition
	size := 4
	for _, t := range meta.CurrentAssignment {
		size += 2 + len(t.Topic) + 4 + 4*len(t.Partitions)
		owned = appendNumbers(owned, t.Topic, t.Partitions)
	}
	// Other assignors' bytes may begin like these. They hardly end like them too.
	if size != len(m.UserData) && size+generation != len(m.UserData) || inOrderOnce(&owned) != nil {
		return
	}
	m.Owned, m.Generation = owned, max(meta.Generation, -1)
}

// EncodeStickyUserData returns what Kafka's StickyAssignor adds to a subscription:
// what the member had, and the generation in which it got it, -1 if unknown.
func EncodeStickyUserData(owned []TopicPartition, generation int32) []byte {
	meta := kmsg.StickyMemberMetadata{Generation: generation}
	for topic, numbers := range numbersByTopic(owned) {
		meta.CurrentAssignment = append(meta.CurrentAssignment,
			kmsg.StickyMemberMetadataCurrentAssignment{Topic: topic, Partitions: numbers})
	}
	b := meta.AppendTo(nil)
	if generation == -1 { // kmsg then writes version 0, Kafka does not
		b = binary.BigEndian.AppendUint32(b, math.MaxUint32)
	}
	return b
}

// EncodeAssignment returns what the leader sends a member.
func EncodeAssignment(parts []TopicPartition, userData []byte) []byte {
	assignment := kmsg.ConsumerMemberAssignment{Version: consumerProtocol, UserData: userData}
	for topic, numbers := range numbersByTopic(parts) {
		assignment.Topics = append(assignment.Topics, kmsg.ConsumerMemberAssignmentTopic{Topic: topic, Partitions: numbers})
	}
	return assignment.AppendTo(nil)
}

// DecodeAssignment reads what the leader sent, of any version: partitions, sorted,
// each once, and user data. Neither shares memory with b.
//
// A coordinator sends no bytes at all to a member that the leader left out. That
// is an error here: ask first.
func DecodeAssignment(b []byte) (parts []TopicPartition, userData []byte, err error) {
	var assignment kmsg.ConsumerMemberAssignment
	if err := assignment.ReadFrom(b); err != nil {
		return nil, nil, fmt.Errorf("read an assignment: %w", err)
	}
	if assignment.Version < 0 {
		return nil, nil, fmt.Errorf("read an assignment: version %d", assignment.Version)
	}
	for _, t := range assignment.Topics {
		parts = appendNumbers(parts, t.Topic, t.Partitions)
	}
	if err := inOrderOnce(&parts); err != nil {
		return nil, nil, fmt.Errorf("read an assignment: %w", err)
	}
	return parts, bytes.Clone(assignment.UserData), nil
}

// numbersByTopic goes through the topics of the partitions, by name, each with its
// partition numbers, sorted, each once.
func numbersByTopic(parts []TopicPartition) func(yield func(string, []int32) bool) {
	parts = slices.Compact(slices.SortedFunc(slices.Values(parts), comparePartitions))
	return func(yield func(string, []int32) bool) {
		for len(parts) > 0 {
			topic := parts[0].Topic
			var numbers []int32
			for len(parts) > 0 && parts[0].Topic == topic {
				numbers = append(numbers, parts[0].Partition)
				parts = parts[1:]
			}
			if !yield(topic, numbers) {
				return
			}
		}
	}
}

func appendNumbers(parts []TopicPartition, topic string, numbers []int32) []TopicPartition {
	for _, n := range numbers {
		parts = append(parts, TopicPartition{topic, n})
	}
	return parts
}

// inOrderOnce sorts what was read and drops what is in it twice. A partition
// below 0 is an error.
func inOrderOnce(parts *[]TopicPartition) error {
	slices.SortFunc(*parts, comparePartitions)
	*parts = slices.Compact(*parts)
	for _, p := range *parts {
		if p.Partition < 0 {
			return fmt.Errorf("partition %d of topic %q", p.Partition, p.Topic)
		}
	}
	return nil
}
