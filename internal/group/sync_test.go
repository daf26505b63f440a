package group

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// twoJoined returns a leader and a follower that have not synced.
func twoJoined(r *rig) (leader, follower *who) {
	a, b := r.member(), r.member()
	r.settle(a, b)
	a.join()
	b.join()
	return a.joined(), b.joined()
}

// The group is stable when the record with the assignment is applied, and the
// answers come with that record.
func TestAssignmentIsWrittenFirst(t *testing.T) {
	r := newRig(t)
	a, b := twoJoined(r)
	b.sync()
	req := kmsg.NewPtrSyncGroupRequest()
	req.Version, req.Group, req.MemberID, req.Generation = 5, "g", a.id, a.generation
	part := kmsg.NewSyncGroupRequestGroupAssignment()
	part.MemberID, part.MemberAssignment = a.id, []byte("all")
	unknown := kmsg.NewSyncGroupRequestGroupAssignment()
	unknown.MemberID, unknown.MemberAssignment = "nobody", []byte("x")
	req.GroupAssignment = []kmsg.SyncGroupRequestGroupAssignment{part, unknown}
	res := r.c.Handle(Call{ID: 1000, Request: req}, r.now)
	require.True(t, res.Soft)
	require.Len(t, res.Records, 1)
	require.Len(t, res.Answers, 2)
	require.Equal(t, completing, r.c.groups["g"].state)
	copy(part.MemberAssignment, "GGG") // the request is the caller's again

	r.take(res)
	require.Equal(t, "Stable", r.state("g"))
	require.Equal(t, []byte("all"), answerOf[*kmsg.SyncGroupResponse](r, 1000).MemberAssignment)
	b.synced()
	require.Empty(t, b.assigned)
	d := r.described("g")
	require.Equal(t, []byte("all"), d.Members[0].MemberAssignment)
	require.Empty(t, d.Members[1].MemberAssignment)

	r.reload()
	again := r.described("g")
	require.Equal(t, d, again)
}

// If the record cannot be appended, the coordinator is loaded anew: the group
// is as it was before, and who waited has been answered.
func TestAssignmentThatIsNotWritten(t *testing.T) {
	r := newRig(t)
	a, b := twoJoined(r)
	b.sync()
	a.r.c.groups["g"].check()
	req := kmsg.NewPtrSyncGroupRequest()
	req.Version, req.Group, req.MemberID, req.Generation = 5, "g", a.id, a.generation
	res := r.c.Handle(Call{ID: 1000, Request: req}, r.now)
	for _, answer := range res.Answers {
		r.answers[answer.ID] = answer.Fail(codeNotCoordinator).Response
	}
	r.reload()
	require.Equal(t, codeNotCoordinator, b.syncCode())
	require.Nil(t, answerOf[*kmsg.SyncGroupResponse](r, 1000).Protocol)
	require.Equal(t, "Stable", r.state("g"))
	require.Equal(t, a.generation-1, r.c.groups["g"].generation)
	require.Equal(t, codeIllegalGeneration, a.heartbeat())
	r.settle(a, b)
}

// An assignment that no record can hold is an error to all, and a new join
// phase.
func TestAssignmentTooLarge(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MaxRecordBytes = 1000 })
	a, b := twoJoined(r)
	b.sync()
	req := kmsg.NewPtrSyncGroupRequest()
	req.Version, req.Group, req.MemberID, req.Generation = 5, "g", a.id, a.generation
	part := kmsg.NewSyncGroupRequestGroupAssignment()
	part.MemberID, part.MemberAssignment = a.id, make([]byte, 1000)
	req.GroupAssignment = []kmsg.SyncGroupRequestGroupAssignment{part}
	a.syncID = r.call(false, req)
	require.Equal(t, codeUnknownServerError, a.syncCode())
	require.Equal(t, codeUnknownServerError, b.syncCode())
	require.Equal(t, "PreparingRebalance", r.state("g"))
	r.settle(a, b)
}

// Who got a join answer and does not sync in time is removed, and the others
// join again, whether the leader had synced or not.
func TestMembersThatDoNotSync(t *testing.T) {
	for name, leaderSyncs := range map[string]bool{"the follower": true, "the leader": false} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			a, b := twoJoined(r)
			syncs, silent := a, b
			if !leaderSyncs {
				syncs, silent = b, a
			}
			syncs.sync()
			for range 9 {
				r.pass(6 * time.Second)
				require.Zero(t, silent.heartbeat(), "its session is kept up")
				if leaderSyncs {
					require.Zero(t, syncs.heartbeat())
				}
			}
			r.pass(6 * time.Second)
			if leaderSyncs {
				require.Equal(t, codeRebalanceInProgress, syncs.heartbeat())
			} else {
				require.Equal(t, codeRebalanceInProgress, syncs.syncCode())
			}
			require.Equal(t, codeUnknownMemberID, silent.heartbeat())
			require.True(t, syncs.join().joined().leader)
		})
	}
}

// Nobody is removed who has synced in time.
func TestMembersThatSync(t *testing.T) {
	r := newRig(t)
	a, b := twoJoined(r)
	a.sync().synced()
	for range 10 {
		r.pass(5900 * time.Millisecond)
		require.Zero(t, a.heartbeat())
		require.Zero(t, b.heartbeat())
	}
	b.sync().synced()
	r.pass(2 * time.Second)
	require.Equal(t, "Stable", r.state("g"))
	require.Zero(t, b.heartbeat())
}

// What cannot sync is told why.
func TestSyncRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		code   int16
		change func(r *kmsg.SyncGroupRequest)
	}{
		"no group":         {codeInvalidGroupID, func(r *kmsg.SyncGroupRequest) { r.Group = "" }},
		"unknown group":    {codeUnknownMemberID, func(r *kmsg.SyncGroupRequest) { r.Group = "none" }},
		"unknown member":   {codeUnknownMemberID, func(r *kmsg.SyncGroupRequest) { r.MemberID = "none" }},
		"unknown instance": {codeUnknownMemberID, func(r *kmsg.SyncGroupRequest) { r.InstanceID = kmsg.StringPtr("i") }},
		"old generation":   {codeIllegalGeneration, func(r *kmsg.SyncGroupRequest) { r.Generation-- }},
		"other type":       {codeInconsistentGroupProtocol, func(r *kmsg.SyncGroupRequest) { r.ProtocolType = kmsg.StringPtr("x") }},
		"other protocol":   {codeInconsistentGroupProtocol, func(r *kmsg.SyncGroupRequest) { r.Protocol = kmsg.StringPtr("x") }},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			a, _ := twoJoined(r)
			before := r.dump()
			req := kmsg.NewPtrSyncGroupRequest()
			req.Version, req.Group, req.MemberID, req.Generation = 5, "g", a.id, a.generation
			test.change(req)
			require.Equal(t, test.code, answerOf[*kmsg.SyncGroupResponse](r, r.call(false, req)).ErrorCode)
			require.Equal(t, before, r.dump())
		})
	}
}

// While members join, who syncs has to join; in a stable group it gets what it
// has, as often as it asks.
func TestSyncByState(t *testing.T) {
	r := newRig(t)
	a, b := twoJoined(r)
	a.sync().synced()
	b.sync().synced()
	b.sync().synced()
	require.Equal(t, "to "+b.id, b.assigned)
	a.join()
	require.Equal(t, codeRebalanceInProgress, b.sync().syncCode())
}

// A new join phase ends the waiting of those who have synced.
func TestRebalanceWhileSyncing(t *testing.T) {
	r := newRig(t)
	a, b := twoJoined(r)
	b.sync()
	c := r.member().join()
	require.Equal(t, codeRebalanceInProgress, b.syncCode())
	a.join()
	b.join()
	require.Equal(t, a.generation+1, c.joined().generation)
}

// A second sync call of a member takes the place of the first.
func TestSyncCallGivenUp(t *testing.T) {
	r := newRig(t)
	a, b := twoJoined(r)
	b.sync()
	first := b.syncID
	b.sync()
	require.Equal(t, codeRebalanceInProgress, answerOf[*kmsg.SyncGroupResponse](r, first).ErrorCode)
	a.sync()
	b.synced()
}
