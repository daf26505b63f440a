package riffle

import (
	"errors"
	"fmt"
	"slices"

	"github.com/rifflelog/riffle/internal/group"
)

// Assignor decides which member of a group gets which partitions. It runs in one member,
// the leader, for all of them. Kafka: ConsumerPartitionAssignor.
type Assignor struct {
	// Name is what members agree on: two of one name must do the same. It has 1 to 255 bytes.
	Name string
	// Cooperative says that members keep what they have during a rebalance, and give up what
	// another one is to get after it, by a second one: so a result must not give away what a
	// member still owns; Assign's error says so if it does. Kafka: RebalanceProtocol.
	Cooperative bool
	// Assign returns what each member gets, by its ID; partitions are how many each topic
	// has. What no member subscribes to, or what does not exist, must not be given. It may run
	// concurrently for several groups. Its error ends the rebalance: Poll returns it, and polls
	// after that try again: 100 ms later, then up to 1 s. A panic becomes its error.
	Assign func(members []GroupMember, partitions map[string]int) (map[string][]TopicPartition, error)
	// UserData is sent along with what a member says of itself. May be nil. A panic is as one in
	// Assign.
	UserData func(owned []TopicPartition, generation int32) []byte
}

// GroupMember is what an assignor knows of a member.
type GroupMember struct {
	ID         string           // given to it by the coordinator
	InstanceID string           // ConsumerOptions.InstanceID
	Topics     []string         // what it subscribes to
	Owned      []TopicPartition // what it says it has
	Generation int32            // in which it got that; -1 if it is not known
	UserData   []byte           // what Assignor.UserData said there
}

// CooperativeStickyAssignor balances the partitions and moves as few as it can; a rebalance
// takes from a member only what another is to have. Kafka: CooperativeStickyAssignor
// (KIP-429).
func CooperativeStickyAssignor() Assignor {
	a := builtinAssignor("cooperative-sticky", group.CooperativeSticky)
	a.Cooperative = true
	return a
}

// StickyAssignor is like CooperativeStickyAssignor, but each member gives up all it has
// before a rebalance. Kafka: StickyAssignor (KIP-54).
func StickyAssignor() Assignor {
	a := builtinAssignor("sticky", group.Sticky)
	a.UserData = func(owned []TopicPartition, generation int32) []byte {
		return group.EncodeStickyUserData(groupPartitions(owned), generation)
	}
	return a
}

// RangeAssignor gives each member neighbouring partitions, topic by topic, so that partitions
// of one number in several topics come to one member. Kafka: RangeAssignor.
func RangeAssignor() Assignor { return builtinAssignor("range", group.Range) }

// RoundRobinAssignor deals all partitions to the members in turn. Kafka: RoundRobinAssignor.
func RoundRobinAssignor() Assignor { return builtinAssignor("roundrobin", group.RoundRobin) }

func builtinAssignor(name string, assign func([]group.Member, map[string]int32) map[string][]group.TopicPartition) Assignor {
	return Assignor{Name: name, Assign: func(members []GroupMember, partitions map[string]int) (map[string][]TopicPartition, error) {
		list := make([]group.Member, len(members))
		for i, m := range members {
			list[i] = group.Member{
				ID: m.ID, InstanceID: m.InstanceID, Topics: m.Topics, Owned: groupPartitions(m.Owned),
				Generation: m.Generation, UserData: m.UserData,
			}
		}
		counts := make(map[string]int32, len(partitions))
		for topic, n := range partitions {
			counts[topic] = int32(n)
		}
		result := make(map[string][]TopicPartition, len(members))
		for id, parts := range assign(list, counts) {
			result[id] = ourPartitions(parts)
		}
		return result, nil
	}}
}

func groupPartitions(parts []TopicPartition) []group.TopicPartition {
	list := make([]group.TopicPartition, len(parts))
	for i, tp := range parts {
		list[i] = group.TopicPartition{Topic: tp.Topic, Partition: int32(tp.Partition)}
	}
	return list
}

func ourPartitions(parts []group.TopicPartition) []TopicPartition {
	list := make([]TopicPartition, len(parts))
	for i, tp := range parts {
		list[i] = TopicPartition{tp.Topic, int(tp.Partition)}
	}
	return list
}

// assignorProblems lists what is wrong with a member's assignors.
func assignorProblems(list []Assignor) []error {
	var bad []error
	var names []string
	for _, a := range list {
		switch {
		case a.Name == "" || len(a.Name) > 255:
			bad = append(bad, fmt.Errorf("an assignor's name has %d bytes, want 1 to 255", len(a.Name)))
		case slices.Contains(names, a.Name):
			bad = append(bad, fmt.Errorf("two assignors have the name %q", a.Name))
		}
		if a.Assign == nil {
			bad = append(bad, fmt.Errorf("assignor %q has no Assign", a.Name))
		}
		names = append(names, a.Name)
	}
	return bad
}

// errAssignment: what an assignor decided cannot be.
var errAssignment = errors.New("assignor's result is wrong")

// assign has an assignor decide, and checks what it did: each partition is given once, to
// whoever subscribes to it.
func (a *Assignor) assign(members []GroupMember, partitions map[string]int) (result map[string][]TopicPartition, err error) {
	err = calling("assignor "+a.Name, func() (err error) {
		result, err = a.Assign(members, partitions)
		return err
	})
	if err != nil {
		return nil, err
	}
	owner := make(map[TopicPartition]string)
	topics := make(map[string][]string, len(members))
	for _, m := range members {
		topics[m.ID] = m.Topics
	}
	for id, parts := range result {
		for _, tp := range parts {
			before, taken := owner[tp]
			switch {
			case taken:
				return nil, fmt.Errorf("%w: %v is given to both %s and %s", errAssignment, tp, before, id)
			case tp.Partition < 0 || tp.Partition >= partitions[tp.Topic]:
				return nil, fmt.Errorf("%w: there is no %v", errAssignment, tp)
			case !slices.Contains(topics[id], tp.Topic):
				return nil, fmt.Errorf("%w: %s does not subscribe to %s", errAssignment, id, tp.Topic)
			}
			owner[tp] = id
		}
	}
	if a.Cooperative {
		return result, stillOwned(members, owner)
	}
	return result, nil
}

// stillOwned refuses to give away what somebody has: he must give it up first.
func stillOwned(members []GroupMember, owner map[TopicPartition]string) error {
	for _, m := range members {
		for _, tp := range m.Owned {
			if to, given := owner[tp]; given && to != m.ID && !ownedByNewer(members, m, tp) {
				return fmt.Errorf("%w: %s still owns %v, which is given to %s", errAssignment, m.ID, tp, to)
			}
		}
	}
	return nil
}

// ownedByNewer says whether another member claims tp since a later or the same generation:
// then m's own claim counts for nothing.
func ownedByNewer(members []GroupMember, m GroupMember, tp TopicPartition) bool {
	return slices.ContainsFunc(members, func(o GroupMember) bool {
		return o.ID != m.ID && o.Generation >= m.Generation && slices.Contains(o.Owned, tp)
	})
}
