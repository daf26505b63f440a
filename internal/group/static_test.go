package group

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// again returns the process that takes the place of a static member.
func (w *who) again() *who {
	next := *w
	next.id, next.generation, next.leader, next.members = "", 0, false, nil
	return &next
}

// In a stable group a new process takes the place of a static member: it gets
// its assignment in the same generation, nobody joins again, the new id is
// written, and the old one is fenced.
func TestStaticMemberIsReplaced(t *testing.T) {
	r := newRig(t)
	a, b := r.member(), r.member(isStatic("b"))
	r.settle(a, b)
	records := len(r.log)
	next := b.again().join().joined()
	require.NotEqual(t, b.id, next.id)
	require.Equal(t, b.generation, next.generation)
	require.Len(t, r.log, records+1)
	require.True(t, r.last.Soft)
	require.Equal(t, "to "+b.id, next.sync().synced().assigned)
	require.Zero(t, a.heartbeat())

	fenced := codeFencedInstanceID
	require.Equal(t, fenced, b.heartbeat())
	require.Equal(t, fenced, b.commit("t", 0, 1))
	require.Equal(t, fenced, b.sync().syncCode())
	require.Equal(t, fenced, b.leave())
	require.Equal(t, fenced, b.join().joinCode())
	require.Zero(t, next.commit("t", 0, 1))

	r.reload()
	require.Zero(t, next.heartbeat())
	require.Equal(t, fenced, b.heartbeat())
}

// If the record cannot be appended, the old member is still who it was.
func TestReplacementThatIsNotWritten(t *testing.T) {
	r := newRig(t)
	a, b := r.member(), r.member(isStatic("b"))
	r.settle(a, b)
	res := r.c.Handle(Call{ID: 1000, Request: b.again().joinRequest()}, r.now)
	require.True(t, res.Soft)
	r.reload()
	require.Zero(t, b.heartbeat())
	require.Equal(t, "Stable", r.state("g"))
}

// A static leader that comes back leads without assigning. Before version 9
// could say that, it was told that another leads.
func TestStaticLeaderIsReplaced(t *testing.T) {
	r := newRig(t)
	a, b := r.member(isStatic("a")), r.member()
	r.settle(a, b)
	next := a.again().join()
	resp := answerOf[*kmsg.JoinGroupResponse](r, next.joinID)
	require.True(t, resp.SkipAssignment)
	require.Equal(t, resp.MemberID, resp.LeaderID)
	require.Len(t, resp.Members, 2)
	require.Equal(t, "to "+a.id, next.joined().sync().synced().assigned)

	older := next.again()
	older.version = 8
	resp = answerOf[*kmsg.JoinGroupResponse](r, older.join().joinID)
	require.False(t, resp.SkipAssignment)
	require.Equal(t, next.id, resp.LeaderID)
	require.Empty(t, resp.Members)
	older.joined()
	older.join() // it leads: with its id it makes all join again
	require.Equal(t, "PreparingRebalance", r.state("g"))
}

// If the protocol or the topics are no longer what the assignment was made for,
// all join again.
func TestReplacementThatChangesTheGroup(t *testing.T) {
	for name, change := range map[string]func(*who){
		"protocol": supports("sticky"),
		"topics":   consumes("u"),
		"more":     consumes("t", "u"),
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			a := r.member(isStatic("a"), supports("range", "sticky"))
			r.settle(a)
			next := a.again()
			change(next)
			next.join().joined()
			require.Equal(t, a.generation+1, next.generation)
			require.True(t, next.leader)
		})
	}
	r := newRig(t)
	a := r.member(isStatic("a"), consumes("t", "u"))
	r.settle(a)
	next := a.again()
	next.topics = []string{"u", "t"}
	require.Equal(t, a.generation, next.join().joined().generation, "in another order")
}

// While members sync, a replacement makes all join again, since the leader may
// have assigned to the old id; while they join, it just joins.
func TestReplacementByState(t *testing.T) {
	r := newRig(t)
	a, b := r.member(), r.member(isStatic("b"))
	r.settle(a, b)
	a.join()
	b.join()
	a.joined()
	b.joined().sync()
	next := b.again().join()
	require.Equal(t, codeFencedInstanceID, b.syncCode())
	require.Equal(t, "PreparingRebalance", r.state("g"))

	third := next.again().join()
	require.Equal(t, codeFencedInstanceID, next.joinCode())
	a.join().joined()
	require.Equal(t, a.generation, third.joined().generation)
	require.Len(t, a.members, 2)
}

// A known instance with another's id is fenced, an unknown one is unknown.
func TestInstanceAndMemberMustMatch(t *testing.T) {
	r := newRig(t)
	a, b := r.member(isStatic("a")), r.member()
	r.settle(a, b)
	wrong := *a
	wrong.id = b.id
	require.Equal(t, codeFencedInstanceID, wrong.heartbeat())
	require.Equal(t, codeFencedInstanceID, wrong.join().joinCode())
	wrong.instance = "x"
	require.Equal(t, codeUnknownMemberID, wrong.heartbeat())
	require.Equal(t, codeUnknownMemberID, wrong.join().joinCode())
	require.Equal(t, "Stable", r.state("g"))
}

// A static member that is silent goes when its session ends.
func TestStaticMemberGoesWithItsSession(t *testing.T) {
	r := newRig(t)
	a := r.member(isStatic("a"))
	r.settle(a)
	r.pass(a.session - 1)
	require.Equal(t, "Stable", r.state("g"))
	r.pass(1)
	require.Equal(t, "Empty", r.state("g"))
}

// Members of this process have no session, join without a round trip, are woken
// when they should join, and are forgotten by a reload.
func TestLocalMembers(t *testing.T) {
	r := newRig(t)
	a := r.member(isLocal)
	r.settle(a)
	_, ok := r.c.Next()
	require.False(t, ok, "nothing is due")
	require.Equal(t, localHost, r.described("g").Members[0].ClientHost)
	r.pass(24 * time.Hour)
	require.Equal(t, "Stable", r.state("g"))

	b := r.member(isLocal).join()
	require.Equal(t, []string{a.id}, r.woken)
	require.Equal(t, codeRebalanceInProgress, a.heartbeat())
	a.join().joined()
	b.joined().sync()
	a.sync()
	b.synced()

	r.woken = nil
	require.Zero(t, b.leave())
	require.Equal(t, []string{b.id, a.id}, r.woken)
	r.pass(a.rebalance)
	require.Equal(t, "Empty", r.state("g"), "it did not join in time")
	require.Equal(t, codeUnknownMemberID, a.heartbeat())
	require.Equal(t, []string{b.id, a.id, a.id}, r.woken)

	r.settle(a.again(), b.again())
	before := r.c.groups["g"].generation
	records := len(r.log)
	r.reload()
	require.True(t, r.last.Soft)
	require.Equal(t, "Empty", r.state("g"))
	require.Equal(t, before+1, r.c.groups["g"].generation)
	require.Len(t, r.log, records+1)
	r.reload()
	require.Len(t, r.log, records+1, "once is enough")
}

// Where others were in the group too, they join again after a reload.
func TestLoadedForgetsLocalMembers(t *testing.T) {
	r := newRig(t)
	a, b := r.member(isLocal), r.member()
	r.settle(a, b)
	r.reload()
	require.Equal(t, "PreparingRebalance", r.state("g"))
	require.Equal(t, codeRebalanceInProgress, b.heartbeat())
	b.join()
	require.True(t, b.joined().leader)
	require.Equal(t, int32(3), b.generation)
}

// Sessions of others begin anew with a reload.
func TestLoadedRestartsSessions(t *testing.T) {
	r := newRig(t)
	a := r.member()
	r.settle(a)
	r.pass(a.session - 1)
	r.reload()
	r.pass(a.session - 1)
	require.Zero(t, a.heartbeat())
	r.reload()
	r.pass(a.session)
	require.Equal(t, "Empty", r.state("g"))
}

// A static member whose process closed it has its session to come back in.
func TestDetach(t *testing.T) {
	r := newRig(t)
	a := r.member(isLocal, isStatic("a"))
	r.settle(a)
	r.take(r.c.Detach("g", a.id, r.now))
	r.take(r.c.Detach("g", "x", r.now))
	r.take(r.c.Detach("x", a.id, r.now))
	require.Equal(t, []string{a.id}, r.woken, "it may have begun to poll")
	r.pass(a.session - 1)
	next := a.again().join().joined()
	require.Equal(t, a.generation, next.generation)
	require.Equal(t, []string{a.id, a.id}, r.woken)
	r.pass(24 * time.Hour)
	require.Equal(t, "Stable", r.state("g"))

	r.take(r.c.Detach("g", next.id, r.now))
	r.pass(a.session - 1)
	require.Zero(t, next.heartbeat(), "it polls again")
	r.pass(24 * time.Hour)
	require.Equal(t, "Stable", r.state("g"))

	r.take(r.c.Detach("g", next.id, r.now))
	r.pass(a.session - 1)
	require.Zero(t, next.commit("t", 0, 1), "another goroutine of it does that")
	r.pass(a.session - 1)
	require.Equal(t, "Stable", r.state("g"))
	r.pass(1)
	require.Equal(t, "Empty", r.state("g"))
	require.Equal(t, next.id, r.woken[len(r.woken)-1])
}
