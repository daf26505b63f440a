package group

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Two members join, the second makes the first join again; the leader's
// assignment reaches both, and only then is the group stable.
func TestMembersJoinAndSync(t *testing.T) {
	r := newRig(t)
	a := r.member().join().joined()
	require.Equal(t, int32(1), a.generation)
	require.True(t, a.leader)
	a.sync().synced()
	require.Equal(t, "Stable", r.state("g"))

	b := r.member().join()
	require.True(t, r.waits(b.joinID))
	require.Equal(t, codeRebalanceInProgress, a.heartbeat())
	a.join().joined()
	b.joined()
	require.Equal(t, int32(2), b.generation)
	require.False(t, b.leader)
	require.Empty(t, b.members)
	require.Len(t, a.members, 2)

	b.sync()
	require.True(t, r.waits(b.syncID))
	require.Equal(t, "CompletingRebalance", r.state("g"))
	a.sync().synced()
	b.synced()
	require.Equal(t, "to "+b.id, b.assigned)
	require.Equal(t, "Stable", r.state("g"))
}

// A new dynamic member is sent away with an id to come back with. Who does not
// come back within its session cannot come back later.
func TestNewMemberNeedsAnID(t *testing.T) {
	r := newRig(t)
	w := r.member()
	id := r.call(false, w.joinRequest())
	resp := answerOf[*kmsg.JoinGroupResponse](r, id)
	require.Equal(t, codeMemberIDRequired, resp.ErrorCode)
	require.Equal(t, "client-1", resp.MemberID)
	require.Equal(t, "Empty", r.state("g"))
	w.id = resp.MemberID
	r.pass(w.session - 1)
	require.Contains(t, r.c.groups["g"].pending, w.id)
	w.join().joined()
	require.Empty(t, r.c.groups["g"].pending)

	late := r.member()
	late.id = answerOf[*kmsg.JoinGroupResponse](r, r.call(false, late.joinRequest())).MemberID
	r.pass(late.session)
	require.Equal(t, codeUnknownMemberID, late.join().joinCode())

	// Nothing is left of a group that nobody joined.
	other := r.member(func(w *who) { w.group = "other" })
	r.call(false, other.joinRequest())
	require.Equal(t, []string{"g", "other"}, r.c.Groups())
	r.pass(other.session)
	require.Equal(t, []string{"g"}, r.c.Groups()[:1])
	require.NotContains(t, r.c.Groups(), "other")
}

// Versions before 4, static members and those of this process join at once.
func TestWhoNeedsNoID(t *testing.T) {
	for name, change := range map[string]func(*who){
		"version 3": func(w *who) { w.version = 3 },
		"static":    isStatic("i"),
		"local":     isLocal,
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			w := r.member(change)
			w.joinID = r.call(w.local, w.joinRequest())
			require.True(t, w.joined().leader)
		})
	}
}

// A long client id is in the member's id in part.
func TestLongClientID(t *testing.T) {
	r := newRig(t)
	req := r.member().joinRequest()
	req.Version = 3
	r.take(r.c.Handle(Call{ID: 1000, ClientID: strings.Repeat("c", math.MaxInt16), Request: req}, r.now))
	require.Len(t, answerOf[*kmsg.JoinGroupResponse](r, 1000).MemberID, 255+len("-1"))
}

// What cannot join is told why, and nothing has changed.
func TestJoinRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		code   int16
		change func(*kmsg.JoinGroupRequest)
	}{
		"no group":              {codeInvalidGroupID, func(r *kmsg.JoinGroupRequest) { r.Group = "" }},
		"a name too long":       {codeInvalidGroupID, func(r *kmsg.JoinGroupRequest) { r.Group = strings.Repeat("x", 1<<15) }},
		"session too short":     {codeInvalidSessionTimeout, func(r *kmsg.JoinGroupRequest) { r.SessionTimeoutMillis = 5_999 }},
		"session too long":      {codeInvalidSessionTimeout, func(r *kmsg.JoinGroupRequest) { r.SessionTimeoutMillis = 1_800_001 }},
		"unknown group":         {codeUnknownMemberID, func(r *kmsg.JoinGroupRequest) { r.Group, r.MemberID = "none", "x" }},
		"unknown member":        {codeUnknownMemberID, func(r *kmsg.JoinGroupRequest) { r.MemberID = "x" }},
		"another type":          {codeInconsistentGroupProtocol, func(r *kmsg.JoinGroupRequest) { r.ProtocolType = "connect" }},
		"no type":               {codeInconsistentGroupProtocol, func(r *kmsg.JoinGroupRequest) { r.Group, r.ProtocolType = "new", "" }},
		"no protocol":           {codeInconsistentGroupProtocol, func(r *kmsg.JoinGroupRequest) { r.Group, r.Protocols = "new", nil }},
		"nothing in common":     {codeInconsistentGroupProtocol, func(r *kmsg.JoinGroupRequest) { r.Protocols[0].Name = "sticky" }},
		"protocol with no name": {codeInvalidRequest, func(r *kmsg.JoinGroupRequest) { r.Protocols[0].Name = "" }},
		"too many protocols":    {codeInvalidRequest, func(r *kmsg.JoinGroupRequest) { r.Protocols = make([]kmsg.JoinGroupRequestProtocol, 65) }},
		"empty instance id":     {codeInvalidRequest, func(r *kmsg.JoinGroupRequest) { r.InstanceID = kmsg.StringPtr("") }},
		"instance id too long":  {codeInvalidRequest, func(r *kmsg.JoinGroupRequest) { r.InstanceID = kmsg.StringPtr(strings.Repeat("x", 250)) }},
		"unknown instance": {codeUnknownMemberID, func(r *kmsg.JoinGroupRequest) {
			r.MemberID, r.InstanceID = "x", kmsg.StringPtr("i")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			a := r.member()
			r.settle(a)
			before := r.dump()
			req := r.member().joinRequest()
			test.change(req)
			resp := answerOf[*kmsg.JoinGroupResponse](r, r.call(false, req))
			require.Equal(t, test.code, resp.ErrorCode)
			require.Equal(t, int32(-1), resp.Generation)
			require.Equal(t, before, r.dump())
		})
	}
}

// Each member votes for the first protocol that all support.
func TestProtocolWithMostVotes(t *testing.T) {
	for name, test := range map[string]struct {
		members [][]string
		want    string
	}{
		"one":              {[][]string{{"b", "a"}}, "b"},
		"in common":        {[][]string{{"a", "b"}, {"c", "b"}}, "b"},
		"majority":         {[][]string{{"a", "b"}, {"b", "a"}, {"b", "a"}}, "b"},
		"a tie":            {[][]string{{"a", "b"}, {"b", "a"}}, "a"},
		"first but of one": {[][]string{{"x", "a", "b"}, {"b", "a"}, {"b", "a", "y"}}, "b"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			var all []*who
			for _, names := range test.members {
				all = append(all, r.member(supports(names...)))
			}
			r.settle(all...)
			require.Equal(t, test.want, r.described("g").Protocol)
		})
	}
}

// A name given twice counts once.
func TestProtocolGivenTwice(t *testing.T) {
	r := newRig(t)
	a, b := r.member(supports("a", "a", "b")), r.member(supports("b"))
	r.settle(a, b)
	require.Equal(t, "b", r.described("g").Protocol)
	require.Zero(t, a.leave())
	require.Equal(t, map[string]int{"b": 1}, r.c.groups["g"].supported)
}

// An empty group waits for its delay, again for each time that brought a new
// member, and no longer than members wait for a rebalance.
func TestInitialDelay(t *testing.T) {
	r := newRig(t, func(c *Config) { c.InitialDelay = 3 * time.Second })
	a := r.member(func(w *who) { w.rebalance = 7 * time.Second })
	a.join()
	r.pass(2 * time.Second)
	require.True(t, r.waits(a.joinID), "all have joined, and the delay goes on")
	b := r.member(func(w *who) { w.rebalance = 7 * time.Second }).join()
	r.pass(1 * time.Second) // 3 s: b came, 3 more
	require.True(t, r.waits(a.joinID))
	r.pass(1 * time.Second)
	c := r.member().join()
	r.pass(2 * time.Second) // 6 s: c came, but only 1 of 7 is left
	require.True(t, r.waits(a.joinID))
	r.pass(time.Second - 1)
	require.True(t, r.waits(a.joinID))
	r.pass(1)
	for _, w := range []*who{a, b, c} {
		require.Equal(t, int32(1), w.joined().generation)
	}
}

// Without new members the delay is over after once.
func TestInitialDelayForOne(t *testing.T) {
	r := newRig(t, func(c *Config) { c.InitialDelay = 3 * time.Second })
	a := r.member().join()
	r.pass(3*time.Second - 1)
	require.True(t, r.waits(a.joinID))
	r.pass(1)
	a.joined()
}

// A join phase waits for ids that were given out, until they have joined, are
// given up, or their session ends.
func TestJoinPhaseWaitsForIDs(t *testing.T) {
	for name, end := range map[string]func(r *rig, w *who){
		"joins":  func(_ *rig, w *who) { w.join() },
		"leaves": func(r *rig, w *who) { require.Zero(r.t, w.leave()) },
		"ends":   func(r *rig, w *who) { r.pass(w.session) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			a := r.member()
			r.settle(a)
			w := r.member()
			w.id = answerOf[*kmsg.JoinGroupResponse](r, r.call(false, w.joinRequest())).MemberID
			a.join() // the leader
			require.True(t, r.waits(a.joinID))
			end(r, w)
			require.Equal(t, int32(2), a.joined().generation)
		})
	}
}

// The join phase lasts as long as the most patient member wants. Then dynamic
// members that did not join are gone, and static ones are not.
func TestJoinPhaseEnds(t *testing.T) {
	r := newRig(t)
	long := func(w *who) { w.session = 10 * time.Minute }
	a := r.member(long)
	b := r.member(long, func(w *who) { w.rebalance = 2 * time.Minute })
	c := r.member(long, isStatic("c"))
	r.settle(a, b, c)
	require.Len(t, r.described("g").Members, 3)

	a.join()
	r.pass(2*time.Minute - 1)
	require.True(t, r.waits(a.joinID))
	r.pass(1)
	a.joined()
	require.Len(t, a.members, 2)
	require.Equal(t, c.id, a.members[1].MemberID)
	require.Equal(t, subscription("t"), a.members[1].ProtocolMetadata)
	require.Equal(t, codeUnknownMemberID, b.heartbeat())

	// The static one goes when its session ends, not because it did not sync.
	a.sync().synced()
	for range 7 { // two minutes are over
		r.pass(time.Minute)
		require.Zero(t, a.heartbeat())
		require.Len(t, r.described("g").Members, 2)
	}
	r.pass(time.Minute)
	require.Len(t, r.described("g").Members, 1)
}

// With static members alone, of which none joined, the phase goes on.
func TestJoinPhaseGoesOnWithoutMembers(t *testing.T) {
	r := newRig(t)
	long := func(w *who) { w.session = 10 * time.Minute }
	a := r.member(long, isStatic("a"))
	b := r.member()
	r.settle(a, b)
	require.Zero(t, b.leave())
	r.pass(a.rebalance + time.Second)
	require.Equal(t, "PreparingRebalance", r.state("g"))
	require.Equal(t, int32(2), r.c.groups["g"].generation)
	require.Equal(t, int32(3), a.join().joined().generation)
}

// The leader is who joined first, and if it does not join again, one who did.
func TestLeaderThatDoesNotJoinAgain(t *testing.T) {
	r := newRig(t)
	a, b, c := r.member(), r.member(), r.member()
	r.settle(a, b, c)
	require.True(t, a.leader)
	require.Zero(t, c.leave())
	b.join()
	for range 10 {
		r.pass(6 * time.Second)
		a.heartbeat()
	}
	require.True(t, b.joined().leader)
	require.Len(t, b.members, 1)
}

// The generation counts completed join phases, also that which leaves nobody.
func TestGenerations(t *testing.T) {
	r := newRig(t)
	a := r.member()
	r.settle(a)
	require.Equal(t, int32(1), a.generation)
	a.join().joined().sync().synced()
	require.Equal(t, int32(2), a.generation)
	require.Zero(t, a.leave())
	require.Equal(t, "Empty", r.state("g"))
	require.Equal(t, int32(3), r.c.groups["g"].generation)
	b := r.member()
	r.settle(b)
	require.Equal(t, int32(4), b.generation)
	r.reload()
	require.Equal(t, int32(4), r.c.groups["g"].generation)
}

// The first join call of a member waits for five minutes at most, though its
// session is shorter: it knows no id to send heartbeats with.
func TestNewMemberWaitsFiveMinutes(t *testing.T) {
	r := newRig(t)
	a := r.member(isStatic("a"), func(w *who) { w.session, w.rebalance = 30*time.Minute, 30*time.Minute })
	r.settle(a)
	b := r.member(func(w *who) { w.version = 3 }).join()
	r.pass(5*time.Minute - 1)
	require.True(t, r.waits(b.joinID))
	r.pass(1)
	require.Equal(t, codeUnknownMemberID, b.joinCode())
	require.Empty(t, answerOf[*kmsg.JoinGroupResponse](r, b.joinID).MemberID)
	require.Len(t, r.described("g").Members, 1)
}

// In a stable group a follower with nothing new gets its generation, and the
// leader, or who has something new to say, makes all join again. Before the
// leader has synced, that holds for the leader too.
func TestJoinAgain(t *testing.T) {
	for name, test := range map[string]struct {
		stable, leader, changed bool
		rebalances              bool
	}{
		"stable, follower":              {true, false, false, false},
		"stable, follower, changed":     {true, false, true, true},
		"stable, leader":                {true, true, false, true},
		"stable, leader, changed":       {true, true, true, true},
		"completing, follower":          {false, false, false, false},
		"completing, follower, changed": {false, false, true, true},
		"completing, leader":            {false, true, false, false},
		"completing, leader, changed":   {false, true, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			a, b := r.member(), r.member()
			r.settle(a, b)
			if !test.stable {
				a.join()
				b.join()
				a.joined()
				b.joined()
			}
			w := b
			if test.leader {
				w = a
			}
			if test.changed {
				w.topics = []string{"t", "u"}
			}
			before := w.generation
			w.join()
			require.Equal(t, test.rebalances, r.waits(w.joinID))
			if test.rebalances {
				require.Equal(t, "PreparingRebalance", r.state("g"))
				return
			}
			require.Equal(t, before, w.joined().generation)
			if test.leader {
				require.Len(t, w.members, 2)
			}
		})
	}
}

// A second join call of a member takes the place of the first, which is
// answered.
func TestJoinCallGivenUp(t *testing.T) {
	r := newRig(t)
	a, b := r.member(), r.member()
	r.settle(a, b)
	a.join()
	first := a.joinID
	a.join()
	require.Equal(t, codeRebalanceInProgress, answerOf[*kmsg.JoinGroupResponse](r, first).ErrorCode)
	b.join()
	require.Equal(t, int32(3), a.joined().generation)
}

// A full group takes no more; when it joins again, the first to come stay.
func TestMaxSize(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MaxSize = 2 })
	a, b := r.member(), r.member()
	r.settle(a, b)
	require.Equal(t, codeGroupMaxSizeReached, r.member().join().joinCode())
	require.Equal(t, "Stable", r.state("g"))

	a.join()
	c := r.member().join()
	require.True(t, r.waits(c.joinID), "there is room until b joins")
	require.Equal(t, codeGroupMaxSizeReached, b.join().joinCode())
	a.joined()
	c.joined()
	require.Equal(t, codeUnknownMemberID, b.heartbeat())
}

// A static member may come back to a full group.
func TestMaxSizeCountsStaticMembersOnce(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MaxSize = 2 })
	a, b := r.member(), r.member(isStatic("b"))
	r.settle(a, b)
	b.again().join().joined()
	require.Equal(t, codeGroupMaxSizeReached, r.member(isStatic("c")).join().joinCode())

	a.join()
	require.True(t, r.waits(r.member().join().joinID))
	require.Equal(t, codeGroupMaxSizeReached, b.again().join().joinCode(), "it came too late")
	require.Equal(t, int32(3), a.joined().generation)
}

// A group that is too large when it is loaded has to join again.
func TestMaxSizeWhenLoaded(t *testing.T) {
	r := newRig(t)
	a, b := r.member(), r.member()
	r.settle(a, b)
	r.cfg.MaxSize = 1
	r.reload()
	require.Equal(t, "PreparingRebalance", r.state("g"))
	a.join()
	require.Equal(t, codeGroupMaxSizeReached, b.join().joinCode())
	a.joined()
}
