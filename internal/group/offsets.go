package group

import (
	"maps"
	"math"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// offset is what a group committed for a partition.
type offset struct {
	at        int64 // of the record that says so
	offset    int64
	epoch     int32 // of the leader that the last record before it came from; -1 if not known
	metadata  string
	committed int64 // when, in milliseconds
	expires   int64 // when, in milliseconds; -1: by the coordinator's retention
}

// setOffset takes over a committed offset. Of two for one partition the one
// later in the log wins.
func (g *group) setOffset(topic string, partition int32, o offset) {
	partitions := g.offsets[topic]
	if partitions == nil {
		partitions = map[int32]offset{}
		g.offsets[topic] = partitions
	}
	if have, ok := partitions[partition]; !ok || o.at >= have.at {
		partitions[partition] = o
	}
}

func (g *group) deleteOffset(topic string, partition int32) {
	delete(g.offsets[topic], partition)
	if len(g.offsets[topic]) == 0 {
		delete(g.offsets, topic)
	}
}

// tombstones returns those of all offsets of the group.
func (g *group) tombstones() []Record {
	var records []Record
	for _, topic := range slices.Sorted(maps.Keys(g.offsets)) {
		for _, partition := range slices.Sorted(maps.Keys(g.offsets[topic])) {
			records = append(records, offsetTombstone(g.name, topic, partition))
		}
	}
	return records
}

// commit takes an OffsetCommit request.
func (c *Coordinator) commit(s *step, call Call, r *kmsg.OffsetCommitRequest) {
	m, code := c.mayCommit(r)
	if code != 0 {
		s.answer(call.ID, Refuse(r, code))
		return
	}
	if m != nil {
		c.touch(s, m) // one that is detached stays so: who commits need not be who polls
	}
	resp := r.ResponseKind().(*kmsg.OffsetCommitResponse)
	commitAnswer(r, resp)
	refused := false
	for i, t := range r.Topics {
		for j, p := range t.Partitions {
			o := c.committed(r, &p, s.now)
			if code := c.checkOffset(r, &t, p.Partition, o); code != 0 {
				resp.Topics[i].Partitions[j].ErrorCode = code
				refused = true
				continue
			}
			s.Records = append(s.Records, o.record(r.Group, t.Topic, p.Partition))
		}
	}
	if refused && call.Whole {
		s.Records = nil
	}
	s.answer(call.ID, resp)
}

// mayCommit decides who may commit: members in their generation, and anybody to
// a group without members, such as a consumer that assigns partitions by hand.
func (c *Coordinator) mayCommit(r *kmsg.OffsetCommitRequest) (*member, int16) {
	if len(r.Group) > maxString {
		return nil, codeInvalidGroupID
	}
	g := c.groups[r.Group]
	switch {
	case g == nil && r.Generation < 0:
		return nil, 0
	case g == nil && r.Version >= 9:
		return nil, codeGroupIDNotFound
	case g == nil:
		return nil, codeIllegalGeneration
	case g.state == empty && r.Generation < 0:
		return nil, 0
	}
	m, code := g.known(r.MemberID, r.InstanceID)
	switch {
	case code != 0:
		return nil, code
	case r.Generation != g.generation:
		return nil, codeIllegalGeneration
	case g.state == completing:
		return nil, codeRebalanceInProgress
	}
	return m, 0
}

// committed returns the offset that a request commits.
func (c *Coordinator) committed(r *kmsg.OffsetCommitRequest, p *kmsg.OffsetCommitRequestTopicPartition, now time.Time) *offset {
	o := &offset{offset: p.Offset, epoch: p.LeaderEpoch, committed: now.UnixMilli(), expires: -1}
	if p.Metadata != nil {
		o.metadata = *p.Metadata
	}
	if r.Version == 1 && p.Timestamp >= 0 {
		o.committed = p.Timestamp
	}
	if r.Version >= 2 && r.Version <= 4 && r.RetentionTimeMillis >= 0 {
		o.expires = o.committed + min(r.RetentionTimeMillis, math.MaxInt64-max(o.committed, 0))
	}
	return o
}

func (c *Coordinator) checkOffset(r *kmsg.OffsetCommitRequest, t *kmsg.OffsetCommitRequestTopic, partition int32, o *offset) int16 {
	switch {
	case t.Topic == "" && r.Version >= 10:
		return codeUnknownTopicID
	case t.Topic == "" || len(t.Topic) > MaxName || partition < 0:
		return codeUnknownTopicOrPartition
	case c.cfg.Known != nil && !c.cfg.Known(t.Topic, t.TopicID, partition):
		return codeUnknownTopicOrPartition
	case len(o.metadata) > min(c.cfg.MaxMetadataBytes, maxString):
		return codeOffsetMetadataTooLarge
	}
	return 0
}

// commitAnswer names what the request names.
func commitAnswer(r *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse) {
	for _, t := range r.Topics {
		topic := kmsg.NewOffsetCommitResponseTopic()
		topic.Topic, topic.TopicID = t.Topic, t.TopicID
		for _, p := range t.Partitions {
			partition := kmsg.NewOffsetCommitResponseTopicPartition()
			partition.Partition = p.Partition
			topic.Partitions = append(topic.Partitions, partition)
		}
		resp.Topics = append(resp.Topics, topic)
	}
}

// fetch takes an OffsetFetch request. What was never committed is at -1, and a
// group that does not exist is no error: all of its offsets are.
func (c *Coordinator) fetch(s *step, call Call, r *kmsg.OffsetFetchRequest) {
	resp := r.ResponseKind().(*kmsg.OffsetFetchResponse)
	s.answer(call.ID, resp)
	fetchAnswer(r, resp)
	if r.Version < 8 {
		g := c.groups[r.Group]
		if r.Topics == nil {
			for _, t := range g.allOffsets() {
				topic := kmsg.NewOffsetFetchResponseTopic()
				topic.Topic = t.Topic
				topic.Partitions = make([]kmsg.OffsetFetchResponseTopicPartition, len(t.Partitions))
				for i, p := range t.Partitions {
					topic.Partitions[i].Partition = p
				}
				resp.Topics = append(resp.Topics, topic)
			}
		}
		for _, t := range resp.Topics {
			for i := range t.Partitions {
				p := &t.Partitions[i]
				o, _ := g.offset(t.Topic, p.Partition)
				p.Offset, p.LeaderEpoch, p.Metadata = o.offset, o.epoch, kmsg.StringPtr(o.metadata)
			}
		}
		return
	}
	for i := range r.Groups {
		c.fetchGroup(&r.Groups[i], &resp.Groups[i], r.Version)
	}
}

func (c *Coordinator) fetchGroup(asked *kmsg.OffsetFetchRequestGroup, resp *kmsg.OffsetFetchResponseGroup, version int16) {
	g := c.groups[asked.Group]
	topics := asked.Topics
	if topics == nil {
		topics = g.allOffsets()
	}
	for _, t := range topics {
		topic := kmsg.NewOffsetFetchResponseGroupTopic()
		topic.Topic, topic.TopicID = t.Topic, t.TopicID
		for _, index := range t.Partitions {
			p := kmsg.NewOffsetFetchResponseGroupTopicPartition()
			o, _ := g.offset(t.Topic, index)
			p.Partition, p.Offset, p.LeaderEpoch, p.Metadata = index, o.offset, o.epoch, kmsg.StringPtr(o.metadata)
			if t.Topic == "" && version >= 10 {
				p.ErrorCode = codeUnknownTopicID
			}
			topic.Partitions = append(topic.Partitions, p)
		}
		resp.Topics = append(resp.Topics, topic)
	}
}

// allOffsets names the partitions that the group has committed, by topic.
func (g *group) allOffsets() []kmsg.OffsetFetchRequestGroupTopic {
	if g == nil {
		return nil
	}
	var topics []kmsg.OffsetFetchRequestGroupTopic
	for _, name := range slices.Sorted(maps.Keys(g.offsets)) {
		t := kmsg.NewOffsetFetchRequestGroupTopic()
		t.Topic, t.Partitions = name, slices.Sorted(maps.Keys(g.offsets[name]))
		topics = append(topics, t)
	}
	return topics
}

// offset returns what is committed, or -1.
func (g *group) offset(topic string, partition int32) (offset, bool) {
	if g != nil {
		if o, ok := g.offsets[topic][partition]; ok {
			return o, true
		}
	}
	return offset{offset: -1, epoch: -1}, false
}

// fetchAnswer names the groups that the request names; before version 8 its
// partitions.
func fetchAnswer(r *kmsg.OffsetFetchRequest, resp *kmsg.OffsetFetchResponse) {
	if r.Version >= 8 {
		for _, asked := range r.Groups {
			g := kmsg.NewOffsetFetchResponseGroup()
			g.Group = asked.Group
			resp.Groups = append(resp.Groups, g)
		}
		return
	}
	for _, t := range r.Topics {
		topic := kmsg.NewOffsetFetchResponseTopic()
		topic.Topic = t.Topic
		for _, index := range t.Partitions {
			p := kmsg.NewOffsetFetchResponseTopicPartition()
			p.Partition = index
			topic.Partitions = append(topic.Partitions, p)
		}
		resp.Topics = append(resp.Topics, topic)
	}
}

// deleteOffsets takes an OffsetDelete request. What members may subscribe to is
// kept.
func (c *Coordinator) deleteOffsets(s *step, call Call, r *kmsg.OffsetDeleteRequest) {
	g := c.groups[r.Group]
	switch {
	case !validName(r.Group):
		s.answer(call.ID, Refuse(r, codeInvalidGroupID))
		return
	case g == nil:
		s.answer(call.ID, Refuse(r, codeGroupIDNotFound))
		return
	case g.state != empty && g.protocolType != consumerType:
		s.answer(call.ID, Refuse(r, codeNonEmptyGroup))
		return
	}
	resp := r.ResponseKind().(*kmsg.OffsetDeleteResponse)
	all, topics := g.mayBeSubscribed()
	for _, t := range r.Topics {
		topic := kmsg.NewOffsetDeleteResponseTopic()
		topic.Topic = t.Topic
		for _, asked := range t.Partitions {
			p := kmsg.NewOffsetDeleteResponseTopicPartition()
			p.Partition = asked.Partition
			if all || topics[t.Topic] {
				p.ErrorCode = codeGroupSubscribedToTopic
			} else if _, ok := g.offset(t.Topic, p.Partition); ok {
				s.Records = append(s.Records, offsetTombstone(g.name, t.Topic, p.Partition))
			}
			topic.Partitions = append(topic.Partitions, p)
		}
		resp.Topics = append(resp.Topics, topic)
	}
	s.answer(call.ID, resp)
}

// Expire returns tombstones of the offsets that are older than they are kept,
// and of groups that have neither members nor offsets (KIP-211).
func (c *Coordinator) Expire(now time.Time) Result {
	s := &step{now: now}
	for _, name := range c.Groups() {
		g := c.groups[name]
		left := c.expireOffsets(s, g)
		if left == 0 && g.state == empty && len(g.pending) == 0 {
			s.Records = append(s.Records, groupTombstone(name))
		}
	}
	return s.Result
}

// expireOffsets returns how many offsets of the group are left. In a group
// without members they age since it became empty; where members consume, those
// of topics that none of them subscribes to, since they were committed; and so
// do those of a group that never had members. While a group rebalances nothing
// ages.
func (c *Coordinator) expireOffsets(s *step, g *group) (left int) {
	ages := g.protocolType == "" || g.state == empty || g.state == stable && g.protocolType == consumerType
	all, subscribed := g.mayBeSubscribed()
	for _, topic := range slices.Sorted(maps.Keys(g.offsets)) {
		for _, partition := range slices.Sorted(maps.Keys(g.offsets[topic])) {
			o := g.offsets[topic][partition]
			since := o.committed
			if g.state == empty && g.protocolType != "" && g.since >= 0 {
				since = g.since
			}
			expired := s.now.UnixMilli()-since >= c.cfg.OffsetRetention.Milliseconds()
			if o.expires != -1 {
				expired = s.now.UnixMilli() >= o.expires
			}
			if !ages || all || subscribed[topic] || !expired {
				left++
				continue
			}
			s.Records = append(s.Records, offsetTombstone(g.name, topic, partition))
		}
	}
	return left
}
