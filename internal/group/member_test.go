package group

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A heartbeat tells a member to join again while others do, and is an error of
// who is not, or not any more, in the generation.
func TestHeartbeat(t *testing.T) {
	r := newRig(t)
	a, b := r.member(), r.member()
	r.settle(a, b)
	require.Zero(t, a.heartbeat())

	stranger, old, elsewhere := *a, *a, *a
	stranger.id, elsewhere.group = "x", "none"
	old.generation--
	require.Equal(t, codeUnknownMemberID, stranger.heartbeat())
	require.Equal(t, codeIllegalGeneration, old.heartbeat())
	require.Equal(t, codeUnknownMemberID, elsewhere.heartbeat())
	elsewhere.group = ""
	require.Equal(t, codeInvalidGroupID, elsewhere.heartbeat())

	a.join()
	require.Equal(t, codeRebalanceInProgress, b.heartbeat())
	b.join().joined()
	require.Zero(t, b.heartbeat(), "completing")
	require.Zero(t, a.joined().leave())
	require.Zero(t, b.leave())
	require.Equal(t, codeUnknownMemberID, b.heartbeat(), "empty")
}

// Heartbeats, also while others join, syncing and committing keep a session up.
func TestSessionsAreKeptUp(t *testing.T) {
	for name, sign := range map[string]func(w *who){
		"heartbeat": func(w *who) { require.Zero(t, w.heartbeat()) },
		"commit":    func(w *who) { require.Zero(t, w.commit("t", 0, 1)) },
		"sync":      func(w *who) { w.sync().synced() },
		"join":      func(w *who) { w.join().joined() },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			a, b := r.member(), r.member(func(w *who) { w.session = 10 * time.Minute })
			r.settle(b, a) // a follows
			for range 5 {
				r.pass(a.session - 1)
				sign(a)
			}
			require.Equal(t, "Stable", r.state("g"))
			r.pass(a.session)
			require.Equal(t, "PreparingRebalance", r.state("g"))
		})
	}
	r := newRig(t)
	a, b := r.member(), r.member()
	r.settle(a, b)
	a.join()
	for range 5 {
		r.pass(b.session - 1)
		require.Equal(t, codeRebalanceInProgress, b.heartbeat())
	}
	require.Len(t, r.described("g").Members, 2)
}

// No session ends while a call waits: neither of who joins nor of who syncs.
func TestWaitingKeepsSessionsUp(t *testing.T) {
	r := newRig(t)
	a, b := r.member(), r.member()
	r.settle(a, b)
	a.join()
	for range 5 {
		r.pass(9 * time.Second)
		b.heartbeat()
	}
	require.True(t, r.waits(a.joinID))
	b.join().joined()
	a.joined()
	b.sync()
	for range 5 {
		r.pass(9 * time.Second)
		require.Zero(t, a.heartbeat())
	}
	require.True(t, r.waits(b.syncID))
	a.sync().synced()
	b.synced()
	r.pass(9 * time.Second)
	require.Zero(t, b.heartbeat(), "it began anew")
}

// A member whose session ends is removed. The others join again, and those who
// wait for it already wait no longer.
func TestSessionEnds(t *testing.T) {
	r := newRig(t)
	a, b := r.member(), r.member(func(w *who) { w.session = 20 * time.Second })
	r.settle(a, b)
	r.pass(10 * time.Second)
	require.Equal(t, codeUnknownMemberID, a.heartbeat())
	require.Equal(t, codeRebalanceInProgress, b.heartbeat())
	b.join().joined().sync().synced()

	c := r.member()
	r.settle(b, c)
	b.join()
	r.pass(10*time.Second - 1)
	require.True(t, r.waits(b.joinID))
	r.pass(1)
	require.Len(t, b.joined().members, 1)
	require.Equal(t, "CompletingRebalance", r.state("g"))
	r.pass(20 * time.Second)
	require.Equal(t, "Empty", r.state("g"))
}

// The waiting call of a member that is removed is answered.
func TestRemovedMembersAreAnswered(t *testing.T) {
	r := newRig(t)
	a, b, c := r.member(), r.member(), r.member()
	r.settle(a, b, c)
	b.topics = []string{"u"}
	b.join()
	require.Zero(t, b.leave())
	require.Equal(t, codeUnknownMemberID, b.joinCode())

	a.join()
	c.join()
	a.joined()
	c.joined().sync()
	require.Zero(t, c.leave())
	require.Equal(t, codeUnknownMemberID, c.syncCode())
}

// Who leaves is gone at once, one by one or several together, static ones by
// their instance id alone; who is not there is told so.
func TestLeave(t *testing.T) {
	r := newRig(t)
	a, b, c, d := r.member(), r.member(isStatic("b")), r.member(isStatic("c")), r.member()
	r.settle(a, b, c, d)
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Version, req.Group = 5, "g"
	add := func(id, instance string) {
		m := kmsg.NewLeaveGroupRequestMember()
		m.MemberID = id
		if instance != "" {
			m.InstanceID = &instance
		}
		req.Members = append(req.Members, m)
	}
	add("", "b")
	add(c.id, "c")
	add("x", "")
	add("", "x")
	add("", "")
	add(d.id, "c")
	add(a.id, "")
	before := len(r.log)
	resp := answerOf[*kmsg.LeaveGroupResponse](r, r.call(false, req))
	require.Zero(t, resp.ErrorCode)
	var codes []int16
	for i, m := range resp.Members {
		require.Equal(t, req.Members[i].MemberID, m.MemberID)
		codes = append(codes, m.ErrorCode)
	}
	unknown := codeUnknownMemberID
	require.Equal(t, []int16{0, 0, unknown, unknown, unknown, unknown, 0}, codes)
	require.Equal(t, "PreparingRebalance", r.state("g"))
	require.Len(t, r.described("g").Members, 1)
	require.Len(t, r.log, before)

	old := kmsg.NewPtrLeaveGroupRequest()
	old.Version, old.Group, old.MemberID = 2, "g", "x"
	require.Equal(t, codeUnknownMemberID, answerOf[*kmsg.LeaveGroupResponse](r, r.call(false, old)).ErrorCode)
	old.MemberID = d.id
	require.Zero(t, answerOf[*kmsg.LeaveGroupResponse](r, r.call(false, old)).ErrorCode)
	require.Equal(t, "Empty", r.state("g"))
	require.Len(t, r.log, before+1)
	old.Group = ""
	require.Equal(t, codeInvalidGroupID, answerOf[*kmsg.LeaveGroupResponse](r, r.call(false, old)).ErrorCode)
	old.Group = "none"
	require.Equal(t, codeUnknownMemberID, answerOf[*kmsg.LeaveGroupResponse](r, r.call(false, old)).ErrorCode)
	r.reload()
	require.Equal(t, "Empty", r.state("g"))
}

// An id that was given out and is given up makes nobody in a stable group join
// again.
func TestLeaveOfAPendingID(t *testing.T) {
	r := newRig(t)
	a := r.member()
	r.settle(a)
	w := r.member()
	w.id = answerOf[*kmsg.JoinGroupResponse](r, r.call(false, w.joinRequest())).MemberID
	require.Zero(t, w.leave())
	require.Equal(t, "Stable", r.state("g"))
	require.Equal(t, codeUnknownMemberID, w.join().joinCode())
}

// Requests before Loaded are answered as of a coordinator that loads.
func TestWhileLoading(t *testing.T) {
	c := New(DefaultConfig())
	code := func(req kmsg.Request) int16 {
		res := c.Handle(Call{ID: 1, Request: req}, epoch)
		require.Empty(t, res.Records)
		require.Len(t, res.Answers, 1)
		switch resp := res.Answers[0].Response.(type) {
		case *kmsg.JoinGroupResponse:
			return resp.ErrorCode
		case *kmsg.SyncGroupResponse:
			return resp.ErrorCode
		case *kmsg.HeartbeatResponse:
			return resp.ErrorCode
		case *kmsg.LeaveGroupResponse:
			return resp.ErrorCode
		case *kmsg.OffsetCommitResponse:
			return resp.Topics[0].Partitions[0].ErrorCode
		case *kmsg.OffsetFetchResponse:
			return resp.Groups[0].ErrorCode
		case *kmsg.OffsetDeleteResponse:
			return resp.ErrorCode
		case *kmsg.DescribeGroupsResponse:
			return resp.Groups[0].ErrorCode
		case *kmsg.ListGroupsResponse:
			return resp.ErrorCode
		case *kmsg.DeleteGroupsResponse:
			return resp.Groups[0].ErrorCode
		}
		return 0
	}
	fetch := kmsg.NewPtrOffsetFetchRequest()
	fetch.Version = 8
	fetch.Groups = append(fetch.Groups, kmsg.NewOffsetFetchRequestGroup())
	describe := kmsg.NewPtrDescribeGroupsRequest()
	describe.Groups = []string{"g"}
	deletion := kmsg.NewPtrDeleteGroupsRequest()
	deletion.Groups = []string{"g"}
	for _, req := range []kmsg.Request{
		kmsg.NewPtrJoinGroupRequest(), kmsg.NewPtrLeaveGroupRequest(), commitRequest("g", 9, "t", 0, 1), fetch,
		kmsg.NewPtrOffsetDeleteRequest(), describe, kmsg.NewPtrListGroupsRequest(), deletion,
	} {
		require.Equal(t, codeCoordinatorLoadInProgress, code(req), "%T", req)
	}
	require.Equal(t, codeRebalanceInProgress, code(kmsg.NewPtrSyncGroupRequest()))
	require.Zero(t, code(kmsg.NewPtrHeartbeatRequest()))
	_, ok := c.Next()
	require.False(t, ok)
}

// Drop answers all who wait, once, and says why.
func TestDropAnswersAll(t *testing.T) {
	r := newRig(t)
	a, b := twoJoined(r)
	b.sync()
	c, d := r.member(func(w *who) { w.group = "h" }), r.member(func(w *who) { w.group = "h" })
	r.settle(c, d)
	c.join()
	answers := r.c.Drop(codeNotCoordinator)
	require.Len(t, answers, 2)
	require.Equal(t, b.syncID, answers[0].ID)
	require.Equal(t, codeNotCoordinator, answers[0].Response.(*kmsg.SyncGroupResponse).ErrorCode)
	require.Equal(t, c.joinID, answers[1].ID)
	require.Equal(t, codeNotCoordinator, answers[1].Response.(*kmsg.JoinGroupResponse).ErrorCode)
	require.Empty(t, r.c.Groups())
	require.Empty(t, r.c.Drop(codeNotCoordinator))
	require.NotEmpty(t, a.id)
}

// DescribeGroups tells metadata and assignments of a stable group alone; what
// does not exist is Dead, and an error since version 6.
func TestDescribe(t *testing.T) {
	r := newRig(t)
	a := r.member(isStatic("i"))
	r.settle(a)
	d := r.described("g")
	require.Equal(t, "Stable", d.State)
	require.Equal(t, "consumer", d.ProtocolType)
	require.Equal(t, "range", d.Protocol)
	require.Equal(t, int32(-1<<31), d.AuthorizedOperations)
	m := d.Members[0]
	require.Equal(t, []string{a.id, "i", "client", "/10.0.0.1"}, []string{m.MemberID, *m.InstanceID, m.ClientID, m.ClientHost})
	require.Equal(t, "to "+a.id, string(m.MemberAssignment))
	require.Equal(t, subscription("t"), m.ProtocolMetadata)

	a.join().joined()
	d = r.described("g")
	require.Equal(t, "CompletingRebalance", d.State)
	require.Empty(t, d.Protocol)
	require.Empty(t, d.Members[0].ProtocolMetadata)

	d = r.described("none")
	require.Equal(t, "Dead", d.State)
	require.Zero(t, d.ErrorCode)
	req := kmsg.NewPtrDescribeGroupsRequest()
	req.Version, req.Groups = 6, []string{"none"}
	d = answerOf[*kmsg.DescribeGroupsResponse](r, r.call(false, req)).Groups[0]
	require.Equal(t, codeGroupIDNotFound, d.ErrorCode)
}

// ListGroups filters by state and type, in any case.
func TestList(t *testing.T) {
	r := newRig(t)
	r.settle(r.member(func(w *who) { w.group = "b" }))
	require.Zero(t, r.commit(false, commitRequest("a", 9, "t", 0, 1)))
	list := func(states, types []string) (names []string) {
		req := kmsg.NewPtrListGroupsRequest()
		req.Version, req.StatesFilter, req.TypesFilter = 5, states, types
		for _, g := range answerOf[*kmsg.ListGroupsResponse](r, r.call(false, req)).Groups {
			require.Equal(t, "classic", g.GroupType)
			names = append(names, g.Group+" "+g.ProtocolType+" "+g.GroupState)
		}
		return names
	}
	require.Equal(t, []string{"a  Empty", "b consumer Stable"}, list(nil, nil))
	require.Equal(t, []string{"b consumer Stable"}, list([]string{"stable", "Dead"}, []string{"Classic"}))
	require.Empty(t, list(nil, []string{"consumer"}))
}
