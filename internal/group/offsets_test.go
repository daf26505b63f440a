package group

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Members commit in their generation, unless it waits for its assignment, and
// anybody commits to a group without members.
func TestWhoMayCommit(t *testing.T) {
	r := newRig(t)
	anyone := func(group string, version int16) int16 {
		return r.commit(false, commitRequest(group, version, "t", 0, 5))
	}
	require.Zero(t, anyone("g", 9), "a group that did not exist")
	require.Zero(t, anyone("g", 9), "one without members")
	require.Zero(t, anyone("", 9), "the group without a name")
	require.Equal(t, codeInvalidGroupID, anyone(strings.Repeat("g", 1<<15), 9))

	a, b := r.member(), r.member()
	r.settle(a, b)
	require.Zero(t, a.commit("t", 0, 6))
	require.Equal(t, codeUnknownMemberID, anyone("g", 9))
	other := *a
	other.generation++
	require.Equal(t, codeIllegalGeneration, other.commit("t", 0, 7))
	other.generation = -1
	require.Equal(t, codeIllegalGeneration, other.commit("t", 0, 7))
	other.id = "x"
	require.Equal(t, codeUnknownMemberID, other.commit("t", 0, 7))

	a.join()
	require.Zero(t, b.commit("t", 0, 8), "before it joins again")
	b.join().joined()
	a.joined()
	require.Equal(t, codeRebalanceInProgress, b.commit("t", 0, 9))
	require.Equal(t, int64(8), r.fetch("g", "t", 0))

	require.Zero(t, a.leave())
	require.Zero(t, b.leave())
	require.Equal(t, codeUnknownMemberID, b.commit("t", 0, 9))
	require.Zero(t, anyone("g", 9))

	req := commitRequest("none", 9, "t", 0, 1)
	req.Generation, req.MemberID = 1, "x"
	require.Equal(t, codeGroupIDNotFound, r.commit(false, req))
	req.Version = 8
	require.Equal(t, codeIllegalGeneration, r.commit(false, req))
	require.Equal(t, []string{"", "g"}, r.c.Groups())
}

// A commit changes nothing before its record is applied, and is not soft: if it
// cannot be appended, nothing has happened.
func TestCommitIsAppliedFromTheLog(t *testing.T) {
	r := newRig(t)
	a := r.member()
	r.settle(a)
	require.Zero(t, a.commit("t", 0, 5))
	req := commitRequest("g", 9, "t", 0, 6)
	req.MemberID, req.Generation = a.id, a.generation
	before := r.dump()
	res := r.c.Handle(Call{ID: 1000, Request: req}, r.now)
	require.False(t, res.Soft)
	require.Len(t, res.Records, 1)
	require.Equal(t, before, r.dump())
	require.Equal(t, int64(5), r.fetch("g", "t", 0))
	failed := res.Answers[0].Fail(codeNotCoordinator).Response.(*kmsg.OffsetCommitResponse)
	require.Equal(t, codeNotCoordinator, failed.Topics[0].Partitions[0].ErrorCode)
}

// Each partition has its own answer; what is refused leaves the others alone.
func TestCommitAnswersByPartition(t *testing.T) {
	r := newRig(t)
	req := commitRequest("g", 9, "t", 0, 5)
	add := func(topic string, partition int32, metadata string) {
		one := commitRequest("g", 9, topic, partition, 5).Topics[0]
		one.Partitions[0].Metadata = &metadata
		req.Topics = append(req.Topics, one)
	}
	add("t", 1, strings.Repeat("x", 4096))
	add("t", 2, strings.Repeat("x", 4097))
	add("t", -1, "")
	add("", 0, "")
	add(strings.Repeat("t", 250), 0, "")
	resp := answerOf[*kmsg.OffsetCommitResponse](r, r.call(false, req))
	var codes []int16
	for i, topic := range resp.Topics {
		require.Equal(t, req.Topics[i].Topic, topic.Topic)
		codes = append(codes, topic.Partitions[0].ErrorCode)
	}
	unknown := codeUnknownTopicOrPartition
	require.Equal(t, []int16{0, 0, codeOffsetMetadataTooLarge, unknown, unknown, unknown}, codes)
	require.Len(t, r.log, 2)
}

// Of two commits for one partition the one later in the log holds.
func TestLaterCommitWins(t *testing.T) {
	r := newRig(t)
	older := (&offset{offset: 7, epoch: -1, expires: -1}).record("g", "t", 0)
	newer := (&offset{offset: 3, epoch: -1, expires: -1}).record("g", "t", 0)
	require.NoError(t, r.c.Apply(newer, 11))
	require.NoError(t, r.c.Apply(older, 10))
	require.Equal(t, int64(3), r.fetch("g", "t", 0))
}

func fetchRequest(version int16, group string, topics ...kmsg.OffsetFetchRequestGroupTopic) *kmsg.OffsetFetchRequest {
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Version = version
	if version >= 8 {
		g := kmsg.NewOffsetFetchRequestGroup()
		g.Group, g.Topics = group, topics
		req.Groups = append(req.Groups, g)
		return req
	}
	req.Group = group
	for _, t := range topics {
		topic := kmsg.NewOffsetFetchRequestTopic()
		topic.Topic, topic.Partitions = t.Topic, t.Partitions
		req.Topics = append(req.Topics, topic)
	}
	return req
}

// What was never committed is at -1, without an error, also in a group that
// does not exist; without topics all that is committed is told, in order.
func TestFetchOffsets(t *testing.T) {
	r := newRig(t)
	req := commitRequest("g", 9, "t", 1, 5)
	req.Topics[0].Partitions[0].LeaderEpoch = 3
	req.Topics[0].Partitions[0].Metadata = kmsg.StringPtr("m")
	require.Zero(t, r.commit(false, req))
	require.Zero(t, r.commit(false, commitRequest("g", 9, "a", 0, 6)))
	asked := kmsg.NewOffsetFetchRequestGroupTopic()
	asked.Topic, asked.Partitions = "t", []int32{0, 1}

	resp := answerOf[*kmsg.OffsetFetchResponse](r, r.call(false, fetchRequest(7, "g", asked)))
	require.Zero(t, resp.ErrorCode)
	p := resp.Topics[0].Partitions
	require.Equal(t, []int64{-1, 5}, []int64{p[0].Offset, p[1].Offset})
	require.Equal(t, []int32{-1, 3}, []int32{p[0].LeaderEpoch, p[1].LeaderEpoch})
	require.Equal(t, []string{"", "m"}, []string{*p[0].Metadata, *p[1].Metadata})

	resp = answerOf[*kmsg.OffsetFetchResponse](r, r.call(false, fetchRequest(7, "g")))
	require.Equal(t, "a", resp.Topics[0].Topic)
	require.Equal(t, int64(6), resp.Topics[0].Partitions[0].Offset)
	require.Equal(t, int64(5), resp.Topics[1].Partitions[0].Offset)

	both := fetchRequest(9, "g")
	both.Groups = append(both.Groups, fetchRequest(9, "none", asked).Groups...)
	resp = answerOf[*kmsg.OffsetFetchResponse](r, r.call(false, both))
	require.Equal(t, int64(6), resp.Groups[0].Topics[0].Partitions[0].Offset)
	require.Equal(t, int64(5), resp.Groups[0].Topics[1].Partitions[0].Offset)
	require.Zero(t, resp.Groups[1].ErrorCode)
	for _, p := range resp.Groups[1].Topics[0].Partitions {
		require.Equal(t, int64(-1), p.Offset)
		require.Zero(t, p.ErrorCode)
	}
	require.Equal(t, []string{"g"}, r.c.Groups())
}

// Where topics are named by id and nobody knows the name, the answer says so.
func TestTopicsThatAreOnlyIDs(t *testing.T) {
	r := newRig(t)
	id := [16]byte{1}
	req := commitRequest("g", 10, "", 0, 5)
	req.Topics[0].TopicID = id
	commit := answerOf[*kmsg.OffsetCommitResponse](r, r.call(false, req))
	require.Equal(t, codeUnknownTopicID, commit.Topics[0].Partitions[0].ErrorCode)
	require.Equal(t, id, commit.Topics[0].TopicID)
	asked := kmsg.NewOffsetFetchRequestGroupTopic()
	asked.TopicID, asked.Partitions = id, []int32{0}
	fetch := answerOf[*kmsg.OffsetFetchResponse](r, r.call(false, fetchRequest(10, "g", asked)))
	require.Equal(t, codeUnknownTopicID, fetch.Groups[0].Topics[0].Partitions[0].ErrorCode)
	require.Equal(t, id, fetch.Groups[0].Topics[0].TopicID)
}

// Versions 2 to 4 may ask for an expiry of their own.
func TestCommitWithExpiry(t *testing.T) {
	r := newRig(t)
	req := commitRequest("g", 4, "t", 0, 5)
	req.RetentionTimeMillis = 1000
	require.Zero(t, r.commit(false, req))
	req = commitRequest("g", 4, "t", 1, 5)
	req.RetentionTimeMillis = math.MaxInt64
	require.Zero(t, r.commit(false, req))
	req.Version, req.Topics[0].Partitions[0].Partition = 5, 2
	require.Zero(t, r.commit(false, req))
	require.Equal(t, r.now.UnixMilli()+1000, r.c.groups["g"].offsets["t"][0].expires)
	require.Equal(t, int64(math.MaxInt64), r.c.groups["g"].offsets["t"][1].expires)
	require.Equal(t, int64(-1), r.c.groups["g"].offsets["t"][2].expires)
	r.pass(time.Second)
	r.take(r.c.Expire(r.now))
	require.Equal(t, int64(-1), r.fetch("g", "t", 0))
	require.Equal(t, int64(5), r.fetch("g", "t", 1))
}

// Offsets of a group without members age since it became empty, those of one
// that never had any since each was committed.
func TestExpiryWithoutMembers(t *testing.T) {
	const week = 7 * 24 * time.Hour
	r := newRig(t)
	require.Zero(t, r.commit(false, commitRequest("simple", 9, "t", 0, 5)))
	a := r.member()
	r.settle(a)
	require.Zero(t, a.commit("t", 0, 5))
	a.again()
	r.pass(time.Hour) // its session ends after 10 s
	require.Equal(t, "Empty", r.state("g"))
	require.Zero(t, r.commit(false, commitRequest("simple", 9, "t", 1, 5)))
	require.Zero(t, r.commit(false, commitRequest("g", 9, "t", 1, 5)))
	expire := func() []string {
		records := len(r.log)
		r.take(r.c.Expire(r.now))
		for _, rec := range r.log[records:] {
			require.Nil(t, rec.Value)
		}
		r.reloadAndCompare()
		return r.c.Groups()
	}
	r.pass(week - time.Hour - 1)
	require.Equal(t, []string{"g", "simple"}, expire())
	require.Equal(t, int64(5), r.fetch("simple", "t", 0))
	r.pass(1)
	expire()
	require.Equal(t, int64(-1), r.fetch("simple", "t", 0))
	require.Equal(t, int64(5), r.fetch("simple", "t", 1))
	require.Equal(t, int64(5), r.fetch("g", "t", 0))
	r.pass(10*time.Second - 1)
	require.Equal(t, []string{"g", "simple"}, expire())
	r.pass(1)
	require.Equal(t, []string{"simple"}, expire(), "all of g, whenever committed")
	r.pass(time.Hour)
	require.Empty(t, expire())
}

// With members, offsets of topics that none subscribes to age; while they join,
// none do; and of other types than consumers nothing is known.
func TestExpiryWithMembers(t *testing.T) {
	const week = 7 * 24 * time.Hour
	r := newRig(t)
	a := r.member(isLocal, consumes("t"))
	r.settle(a)
	connect := r.member(isLocal, func(w *who) { w.group, w.kind = "connect", "connect" })
	r.settle(connect)
	for _, w := range []*who{a, connect} {
		require.Zero(t, w.commit("t", 0, 5))
		require.Zero(t, w.commit("u", 0, 5))
	}
	r.pass(week)
	a.join().joined()
	r.take(r.c.Expire(r.now))
	require.Equal(t, int64(5), r.fetch("g", "u", 0), "completing")
	a.sync().synced()
	r.take(r.c.Expire(r.now))
	require.Equal(t, int64(5), r.fetch("g", "t", 0))
	require.Equal(t, int64(-1), r.fetch("g", "u", 0))
	require.Equal(t, int64(5), r.fetch("connect", "u", 0))
	require.Equal(t, []string{"connect", "g"}, r.c.Groups())
}

// Metadata that is not a consumer's says nothing of topics, so all are kept.
func TestUnreadableSubscription(t *testing.T) {
	r := newRig(t)
	a := r.member()
	req := a.joinRequest()
	req.Version, req.Protocols[0].Metadata = 3, []byte{0, 1, 0xff}
	a.joinID = r.call(false, req)
	a.joined().sync().synced()
	require.Zero(t, a.commit("u", 0, 5))
	r.now = r.now.Add(8 * 24 * time.Hour)
	r.take(r.c.Expire(r.now))
	require.Equal(t, int64(5), r.fetch("g", "u", 0))
	require.Equal(t, codeGroupSubscribedToTopic, r.deleteOffset("g", "u", 0))
}

func (r *rig) deleteOffset(group, topic string, partition int32) int16 {
	r.t.Helper()
	req := kmsg.NewPtrOffsetDeleteRequest()
	req.Group = group
	t := kmsg.NewOffsetDeleteRequestTopic()
	t.Topic = topic
	p := kmsg.NewOffsetDeleteRequestTopicPartition()
	p.Partition = partition
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	resp := answerOf[*kmsg.OffsetDeleteResponse](r, r.call(false, req))
	if resp.ErrorCode != 0 {
		return resp.ErrorCode
	}
	return resp.Topics[0].Partitions[0].ErrorCode
}

// Offsets can be deleted of topics that no member subscribes to.
func TestDeleteOffsets(t *testing.T) {
	r := newRig(t)
	a := r.member()
	r.settle(a)
	require.Zero(t, a.commit("t", 0, 5))
	require.Zero(t, a.commit("u", 0, 5))
	require.Equal(t, codeGroupSubscribedToTopic, r.deleteOffset("g", "t", 0))
	require.Zero(t, r.deleteOffset("g", "u", 0))
	require.False(t, r.last.Soft)
	records := len(r.log)
	require.Zero(t, r.deleteOffset("g", "u", 0))
	require.Len(t, r.log, records, "nothing to delete")
	require.Equal(t, int64(5), r.fetch("g", "t", 0))
	require.Equal(t, int64(-1), r.fetch("g", "u", 0))
	require.Equal(t, codeGroupIDNotFound, r.deleteOffset("none", "t", 0))
	require.Equal(t, codeInvalidGroupID, r.deleteOffset("", "t", 0))

	require.Zero(t, a.leave())
	require.Zero(t, r.deleteOffset("g", "t", 0))
	connect := r.member(func(w *who) { w.group, w.kind = "connect", "connect" })
	r.settle(connect)
	require.Equal(t, codeNonEmptyGroup, r.deleteOffset("connect", "t", 0))
}

// A group without members can be deleted, with its offsets.
func TestDeleteGroups(t *testing.T) {
	r := newRig(t)
	a := r.member()
	r.settle(a)
	require.Zero(t, a.commit("t", 0, 5))
	require.Zero(t, r.commit(false, commitRequest("simple", 9, "t", 0, 5)))
	remove := func(names ...string) (codes []int16) {
		req := kmsg.NewPtrDeleteGroupsRequest()
		req.Groups = names
		for i, g := range answerOf[*kmsg.DeleteGroupsResponse](r, r.call(false, req)).Groups {
			require.Equal(t, names[i], g.Group)
			codes = append(codes, g.ErrorCode)
		}
		return codes
	}
	require.Equal(t, []int16{codeNonEmptyGroup, codeGroupIDNotFound}, remove("g", "none"))
	a.join().joined()
	require.Equal(t, []int16{codeNonEmptyGroup}, remove("g"))
	require.Zero(t, a.leave())
	w := r.member()
	w.id = answerOf[*kmsg.JoinGroupResponse](r, r.call(false, w.joinRequest())).MemberID
	records := len(r.log)
	require.Equal(t, []int16{0, 0, 0}, remove("g", "simple", "g"))
	require.False(t, r.last.Soft)
	require.Len(t, r.log, records+4)
	require.Empty(t, r.c.Groups())
	r.reload()
	require.Empty(t, r.c.Groups())
	require.Equal(t, codeUnknownMemberID, w.join().joinCode(), "its id went with the group")
	_, ok := r.c.Next()
	require.False(t, ok)
}

// Deleting a topic removes its offsets in all groups.
func TestDeletedTopicTakesItsOffsets(t *testing.T) {
	r := newRig(t)
	a := r.member()
	r.settle(a)
	require.Zero(t, a.commit("t", 0, 5))
	require.Zero(t, a.commit("t", 1, 5))
	require.Zero(t, a.commit("u", 0, 5))
	require.Zero(t, r.commit(false, commitRequest("simple", 9, "t", 0, 5)))
	res := r.c.DeleteTopic("t")
	require.False(t, res.Soft)
	require.Len(t, res.Records, 3)
	require.Equal(t, int64(5), r.fetch("g", "t", 0))
	r.take(res)
	require.Equal(t, []string{"g"}, r.c.Groups(), "nothing is left of the simple one")
	require.Equal(t, int64(-1), r.fetch("g", "t", 0))
	require.Equal(t, int64(5), r.fetch("g", "u", 0))
	require.Zero(t, a.heartbeat())
	r.reloadAndCompare()
}

// Replay gives each key its last record, and nothing where that is a tombstone.
func TestReplay(t *testing.T) {
	r := newRig(t)
	a := r.member(isStatic("a"))
	r.settle(a)
	for i := range int64(3) {
		require.Zero(t, a.commit("t", 0, i))
		require.Zero(t, a.commit("u", 0, i))
	}
	r.reloadAndCompare()
	require.Equal(t, int64(2), r.fetch("g", "t", 0))
	require.Zero(t, r.deleteOffset("g", "x", 0))
	r.take(r.c.DeleteTopic("t"))
	r.reloadAndCompare()
	require.Equal(t, int64(-1), r.fetch("g", "t", 0))
	require.Equal(t, int64(2), r.fetch("g", "u", 0))
	require.Zero(t, a.heartbeat())
}

// What there is not, or is of another id by now, is committed for nobody.
func TestCommitOfUnknownPartitions(t *testing.T) {
	id := [16]byte{1}
	r := newRig(t, func(cfg *Config) {
		cfg.Known = func(topic string, of [16]byte, partition int32) bool {
			return topic == "t" && partition < 2 && (of == [16]byte{} || of == id)
		}
	})
	require.Zero(t, r.commit(false, commitRequest("g", 9, "t", 1, 5)))
	require.Equal(t, codeUnknownTopicOrPartition, r.commit(false, commitRequest("g", 9, "t", 2, 5)))
	require.Equal(t, codeUnknownTopicOrPartition, r.commit(false, commitRequest("g", 9, "other", 0, 5)))
	byID := commitRequest("g", 10, "t", 1, 6)
	byID.Topics[0].TopicID = id
	require.Zero(t, r.commit(false, byID))
	byID = commitRequest("g", 10, "t", 1, 7)
	byID.Topics[0].TopicID = [16]byte{2}
	require.Equal(t, codeUnknownTopicOrPartition, r.commit(false, byID))
	require.Equal(t, int64(6), r.fetch("g", "t", 1))
	require.Equal(t, int64(-1), r.fetch("g", "t", 2))
}
