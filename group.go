package riffle

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/rifflelog/riffle/internal/group"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Group is a consumer group seen from outside. It is safe for concurrent use. A group comes to
// be with its first member, or its first committed offset. What it has committed expires 7 days
// after its last member has left; 7 days after it was committed, if the group never had members,
// because its consumers assign partitions by hand, or if no member subscribes to the topic. Members
// end with their process: when the log is opened they are forgotten, so that a restarted service
// reads on at once. Kafka: offsets.retention.minutes.
type Group struct {
	log  *Log
	name string
}

// GroupState is what a group is doing, in Kafka's words.
type GroupState string

// The states of a group.
const (
	// GroupEmpty has no members. It may have committed offsets.
	GroupEmpty GroupState = "Empty"
	// GroupPreparingRebalance waits for its members to join.
	GroupPreparingRebalance GroupState = "PreparingRebalance"
	// GroupCompletingRebalance waits for its leader to assign the partitions.
	GroupCompletingRebalance GroupState = "CompletingRebalance"
	// GroupStable has members that know their partitions.
	GroupStable GroupState = "Stable"
)

// GroupDescription is what a group looked like at one moment.
type GroupDescription struct {
	State    GroupState          // what it is doing
	Protocol string              // the Name of the assignor in use; empty while there is none
	Members  []MemberDescription // in the order in which they joined
}

// MemberDescription is one member of a group.
type MemberDescription struct {
	ID         string           // given by the coordinator
	InstanceID string           // ConsumerOptions.InstanceID
	ClientID   string           // ConsumerOptions.ClientID
	Host       string           // "in-process"
	Topics     []string         // what it subscribes to; none unless the group is GroupStable
	Assignment []TopicPartition // what it is assigned, by name and number; none unless the group is GroupStable
}

// Progress is how far a group is in one partition.
type Progress struct {
	Topic     string   // its name
	Partition int      // from 0
	Committed Position // where the group goes on
	End       Offset   // the readable end
	Lag       Lag      // between the two
}

// Group returns the group of that name, whether or not there is one.
func (l *Log) Group(name string) *Group { return &Group{log: l, name: name} }

// Groups iterates over the groups that there are as the loop begins, by name. If the groups
// cannot be read, it has none, and Options.Logger hears of it.
func (l *Log) Groups() iter.Seq[*Group] {
	return func(yield func(*Group) bool) {
		names, err := l.groupNames()
		if err != nil {
			l.opts.Logger.Error("groups cannot be read", "err", err)
		}
		for _, name := range names {
			if !yield(l.Group(name)) {
				return
			}
		}
	}
}

func (l *Log) groupNames() ([]string, error) {
	req := kmsg.NewPtrListGroupsRequest()
	req.Version = 5
	answer, err := l.groupRequest(context.Background(), groupCaller{}, req)
	if err != nil {
		return nil, err
	}
	resp, ok := answer.(*kmsg.ListGroupsResponse)
	if !ok {
		return nil, errUnexpected(answer)
	}
	var names []string
	for _, g := range resp.Groups {
		names = append(names, g.Group)
	}
	return names, groupError(resp.ErrorCode)
}

// Name is the group's name.
func (g *Group) Name() string { return g.name }

// Describe returns the group's state and its members. In a read-only log those of the writer's
// process are not seen. Errors: ErrGroupNotFound; those of reading its state; ctx's. Kafka:
// DescribeGroups.
func (g *Group) Describe(ctx context.Context) (GroupDescription, error) {
	d, err := g.describe(ctx)
	if err != nil {
		return GroupDescription{}, g.error("describe", err)
	}
	return d, nil
}

func (g *Group) describe(ctx context.Context) (GroupDescription, error) {
	req := kmsg.NewPtrDescribeGroupsRequest()
	req.Version, req.Groups = 6, []string{g.name}
	answer, err := g.log.groupRequest(ctx, groupCaller{}, req)
	if err != nil {
		return GroupDescription{}, err
	}
	resp, ok := answer.(*kmsg.DescribeGroupsResponse)
	if !ok || len(resp.Groups) != 1 {
		return GroupDescription{}, errUnexpected(answer)
	}
	from := resp.Groups[0]
	if err := groupError(from.ErrorCode); err != nil {
		return GroupDescription{}, err
	}
	d := GroupDescription{State: GroupState(from.State), Protocol: from.Protocol}
	for _, m := range from.Members {
		to := MemberDescription{ID: m.MemberID, ClientID: m.ClientID, Host: m.ClientHost}
		if m.InstanceID != nil {
			to.InstanceID = *m.InstanceID
		}
		if s, err := group.DecodeSubscription(m.ProtocolMetadata); err == nil {
			to.Topics = s.Topics
		}
		if parts, _, err := group.DecodeAssignment(m.MemberAssignment); err == nil {
			to.Assignment = ourPartitions(parts)
			sortPartitions(to.Assignment)
		}
		d.Members = append(d.Members, to)
	}
	return d, nil
}

// Progress returns, for each partition for which the group has a committed offset, how far it
// is, by name and number. Errors: ErrGroupNotFound; those of reading its state; ctx's.
func (g *Group) Progress(ctx context.Context) ([]Progress, error) {
	list, err := g.progress(ctx)
	if err != nil {
		return nil, g.error("progress", err)
	}
	return list, nil
}

func (g *Group) progress(ctx context.Context) ([]Progress, error) {
	at, err := g.committed(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]Progress, 0, len(at))
	for tp, pos := range at {
		one := Progress{Topic: tp.Topic, Partition: tp.Partition, Committed: pos}
		if p, err := g.log.partition(tp); err == nil {
			one.End = p.Bounds().HighWatermark
			one.Lag = p.lagAt(ctx, pos.Offset, one.End)
		}
		list = append(list, one)
	}
	slices.SortFunc(list, func(a, b Progress) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return list, ctx.Err()
}

// committed returns all that the group has committed: ErrGroupNotFound if there is no such
// group.
func (g *Group) committed(ctx context.Context) (map[TopicPartition]Position, error) {
	at, err := g.log.committed(ctx, g.name, nil)
	if err != nil || len(at) > 0 {
		return at, err
	}
	if _, err := g.describe(ctx); err != nil {
		return nil, err
	}
	return g.log.committed(ctx, g.name, nil) // it may have been made between the two
}

// Reset commits offsets for the group, all or none: Earliest, Latest or an offset of each
// partition. Its members go on there when they come back. It makes a group that there is none
// of. Errors: ErrGroupNotEmpty while it has members; ErrTopicNotFound, ErrPartitionNotFound;
// *OffsetError; ErrPartitionFailed, ErrDiskFull. If ctx ends while it waits, ErrInDoubt. Kafka:
// kafka-consumer-groups --reset-offsets.
func (g *Group) Reset(ctx context.Context, to map[TopicPartition]Offset) error {
	at := make(map[*Partition]Offset, len(to))
	for tp, o := range to {
		p, err := g.log.partition(tp)
		if err != nil {
			return g.error("reset", err)
		}
		switch b := p.Bounds(); {
		case o == Earliest:
			o = b.Start
		case o == Latest:
			o = b.HighWatermark
		case o < b.Start || o > b.End:
			return g.error("reset", p.error("reset", &OffsetError{Offset: o, Start: b.Start, End: b.End}))
		}
		at[p] = o
	}
	return g.reset(ctx, at)
}

// ResetTime is Reset to the first records with a timestamp of t or later: in all partitions of
// the topics, or of those for which the group has committed something, if none is named.
func (g *Group) ResetTime(ctx context.Context, t time.Time, topics ...string) error {
	if len(topics) == 0 {
		at, err := g.committed(ctx)
		if err != nil {
			return g.error("reset", err)
		}
		for tp := range at {
			if !slices.Contains(topics, tp.Topic) {
				topics = append(topics, tp.Topic)
			}
		}
	}
	at := make(map[*Partition]Offset)
	for _, name := range topics {
		topic, err := g.log.Topic(name)
		if err != nil {
			return g.error("reset", err)
		}
		for p := range topic.Partitions() {
			o, err := p.OffsetAt(ctx, t)
			if err != nil {
				return g.error("reset", err)
			}
			at[p] = o
		}
	}
	return g.reset(ctx, at)
}

// reset commits offsets in these partitions: if a topic is another one by now, nothing.
func (g *Group) reset(ctx context.Context, to map[*Partition]Offset) error {
	if len(to) == 0 {
		return nil
	}
	at := make(map[TopicPartition]Position, len(to))
	topics := make(map[string]*Topic)
	for p, o := range to {
		if t := topics[p.topic.name]; t != nil && t != p.topic {
			return g.error("reset", notFound(t.name)) // it was made again in between
		}
		at[p.name()], topics[p.topic.name] = Position{Offset: o}, p.topic
	}
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Version, req.Group, req.Generation = 9, g.name, -1
	fillCommit(req, at)
	for i := range req.Topics {
		req.Topics[i].TopicID = topics[req.Topics[i].Topic].id
	}
	err := g.log.commitAs(ctx, groupCaller{whole: true}, req)
	if errors.Is(err, ErrUnknownMember) {
		err = ErrGroupNotEmpty // only members may commit then
	}
	if err != nil {
		return g.error("reset", err)
	}
	return nil
}

// DeleteOffsets deletes what the group has committed for partitions, of topics that none of its
// members subscribes to. Errors: ErrGroupNotFound; ErrGroupNotEmpty if one does, and then the
// others are deleted all the same; ErrPartitionFailed, ErrDiskFull. Kafka: OffsetDelete.
func (g *Group) DeleteOffsets(ctx context.Context, parts ...TopicPartition) error {
	req := kmsg.NewPtrOffsetDeleteRequest()
	req.Group = g.name
	parts = slices.Clone(parts)
	sortPartitions(parts)
	for _, tp := range parts {
		if !isPartitionNumber(tp.Partition) {
			continue // nothing is committed for it
		}
		n := len(req.Topics)
		if n == 0 || req.Topics[n-1].Topic != tp.Topic {
			t := kmsg.NewOffsetDeleteRequestTopic()
			t.Topic = tp.Topic
			req.Topics = append(req.Topics, t)
			n++
		}
		p := kmsg.NewOffsetDeleteRequestTopicPartition()
		p.Partition = int32(tp.Partition)
		req.Topics[n-1].Partitions = append(req.Topics[n-1].Partitions, p)
	}
	answer, err := g.log.groupRequest(ctx, groupCaller{}, req)
	if err != nil {
		return g.error("delete offsets", err)
	}
	resp, ok := answer.(*kmsg.OffsetDeleteResponse)
	if !ok {
		return g.error("delete offsets", errUnexpected(answer))
	}
	err = groupError(resp.ErrorCode)
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if failed := groupError(p.ErrorCode); failed != nil && err == nil {
				err = fmt.Errorf("%w: %s", failed, TopicPartition{t.Topic, int(p.Partition)})
			}
		}
	}
	if err != nil {
		return g.error("delete offsets", err)
	}
	return nil
}

// Delete deletes the group with all that it has committed. Errors: ErrGroupNotFound;
// ErrGroupNotEmpty while it has members; ErrPartitionFailed, ErrDiskFull. If ctx ends while it
// waits, ErrInDoubt. Kafka: DeleteGroups.
func (g *Group) Delete(ctx context.Context) error {
	req := kmsg.NewPtrDeleteGroupsRequest()
	req.Version, req.Groups = 2, []string{g.name}
	answer, err := g.log.groupRequest(ctx, groupCaller{}, req)
	if err != nil {
		return g.error("delete", err)
	}
	resp, ok := answer.(*kmsg.DeleteGroupsResponse)
	if !ok || len(resp.Groups) != 1 {
		return g.error("delete", errUnexpected(answer))
	}
	if err := groupError(resp.Groups[0].ErrorCode); err != nil {
		return g.error("delete", err)
	}
	return nil
}

func (g *Group) error(op string, err error) error {
	return fmt.Errorf("group %q: %s: %w", g.name, op, err)
}
