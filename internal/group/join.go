package group

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// MaxProtocols bounds what one member may support; clients have four.
	MaxProtocols = 64
	// maxPending bounds the ids of one group that were given out and have not
	// joined: each costs memory until its session ends.
	maxPending = 10_000
)

// join takes a JoinGroup request. It is answered at once if the group goes on
// in its generation, or refuses; else when its join phase ends.
func (c *Coordinator) join(s *step, call Call, r *kmsg.JoinGroupRequest) {
	j := joinCall{call.ID, r.ResponseKind().(*kmsg.JoinGroupResponse)}
	if code := c.checkJoin(call, r); code != 0 {
		s.refuseJoin(j, r.MemberID, code)
		return
	}
	g := c.groups[r.Group]
	if g == nil {
		if r.MemberID != "" {
			s.refuseJoin(j, r.MemberID, codeUnknownMemberID)
			return
		}
		g = c.group(r.Group)
	}
	m := g.byID[r.MemberID]
	if r.MemberID == "" && r.InstanceID != nil {
		m = g.static[*r.InstanceID]
	}
	switch {
	case !g.admits(m, c.cfg.MaxSize):
		if m != nil {
			c.remove(s, m)
		}
		s.refuseJoin(j, "", codeGroupMaxSizeReached)
	case r.MemberID == "":
		c.joinNew(s, g, call, r, j)
	default:
		c.joinAgain(s, g, call, r, j)
	}
	if g.state == preparing {
		c.tryCompleteJoin(s, g)
	}
	c.forget(g)
}

// checkJoin looks at what needs no group.
func (c *Coordinator) checkJoin(call Call, r *kmsg.JoinGroupRequest) int16 {
	session := int64(r.SessionTimeoutMillis)
	switch {
	case !validName(r.Group):
		return codeInvalidGroupID
	case session < 0, !call.Local && (session < c.cfg.MinSession.Milliseconds() || session > c.cfg.MaxSession.Milliseconds()):
		return codeInvalidSessionTimeout
	case r.InstanceID != nil && (*r.InstanceID == "" || len(*r.InstanceID) > MaxName):
		return codeInvalidRequest
	case len(r.ProtocolType) > maxString, len(r.Protocols) > MaxProtocols:
		return codeInvalidRequest
	}
	for _, p := range r.Protocols {
		if p.Name == "" || len(p.Name) > maxString {
			return codeInvalidRequest
		}
	}
	return 0
}

// admits reports whether the group has room for the member who joins, nil for a
// new one. While members join, the first to come stay.
func (g *group) admits(m *member, size int) bool {
	switch g.state {
	case empty:
		return true
	case preparing:
		return m != nil && m.join != nil || g.joining < size
	default:
		return m != nil || len(g.members) < size
	}
}

// joinNew takes the join call of one who has no member id yet.
func (c *Coordinator) joinNew(s *step, g *group, call Call, r *kmsg.JoinGroupRequest, j joinCall) {
	m := newMember(call, r)
	if !g.accepts(r.ProtocolType, m.protocols) {
		s.refuseJoin(j, "", codeInconsistentGroupProtocol)
		return
	}
	prefix := m.clientID
	if m.instance != "" {
		prefix = m.instance
	}
	id, err := c.newID(g, prefix)
	if err != nil {
		s.refuseJoin(j, "", codeUnknownServerError)
		return
	}
	switch old := g.static[m.instance]; {
	case old != nil:
		c.replace(s, old, m, id, j)
	case m.instance == "" && r.Version >= 4 && !call.Local:
		c.requireID(s, g, m, id, j)
	default:
		m.id = id
		c.add(s, g, m, r.ProtocolType, j)
	}
}

// requireID answers a new member with the id to join with (KIP-394): a client
// that gives up and tries again does not leave members behind.
func (c *Coordinator) requireID(s *step, g *group, m *member, id string, j joinCall) {
	if len(g.pending) >= maxPending {
		s.refuseJoin(j, "", codeGroupMaxSizeReached)
		return
	}
	t := &timer{kind: pendingID, group: g, id: id}
	g.pending[id] = t
	c.arm(t, s.now.Add(m.session))
	s.refuseJoin(j, id, codeMemberIDRequired)
}

// joinAgain takes the join call of one who names a member id.
func (c *Coordinator) joinAgain(s *step, g *group, call Call, r *kmsg.JoinGroupRequest, j joinCall) {
	says := newMember(call, r)
	if !g.accepts(r.ProtocolType, says.protocols) {
		s.refuseJoin(j, r.MemberID, codeInconsistentGroupProtocol)
		return
	}
	if t := g.pending[r.MemberID]; t != nil && says.instance == "" {
		c.stop(t)
		delete(g.pending, t.id)
		says.id = t.id
		c.add(s, g, says, r.ProtocolType, j)
		return
	}
	m, code := g.known(r.MemberID, r.InstanceID)
	if code != 0 {
		s.refuseJoin(j, r.MemberID, code)
		return
	}
	// In a generation, a member with nothing new to say may have missed its
	// answer. The leader of a stable group has a reason to join: what it
	// assigns depends on more than what members say, such as the number of
	// partitions.
	goesOn := g.state == completing || g.state == stable && m.id != g.leader
	if goesOn && m.says(says) {
		c.heard(s, m)
		s.acceptJoin(m, j, false)
		return
	}
	g.update(m, says)
	c.waitJoin(s, m, j)
	if g.state != preparing {
		c.rebalance(s, g)
	}
}

// add makes m a member, whose join call waits.
func (c *Coordinator) add(s *step, g *group, m *member, protocolType string, j joinCall) {
	m.fresh = true
	g.grown = true
	g.add(m, protocolType)
	c.waitJoin(s, m, j)
	if !m.local {
		c.arm(&m.timer, s.now.Add(newMemberTimeout))
	}
	if g.state != preparing {
		c.rebalance(s, g)
	}
}

// replace gives the place of a static member to a new process with the same
// instance id. In a stable group nobody else has to know (KIP-345): the
// assignment stays, unless other topics are wanted than it was made for.
func (c *Coordinator) replace(s *step, m, says *member, id string, j joinCall) {
	g := m.group
	if !m.waits() {
		s.wake(m)
	}
	s.refuseWaiting(m, codeFencedInstanceID)
	before, leader := m.metadata(g.protocol), g.leader
	g.rename(m, id)
	g.update(m, says)
	m.clientID, m.host, m.local = says.clientID, says.host, says.local
	if g.state == stable && g.choose() == g.protocol && g.sameTopics(before, m.metadata(g.protocol)) {
		if record := g.record(g.since, (*member).assigned); c.fits(record) {
			s.write(record)
			c.heard(s, m)
			if j.resp.Version < 9 {
				// The leader of a stable group is not asked for an assignment. Before
				// versions that can say so, it is told that it is not the leader:
				// the old id is nobody's.
				s.acceptFollower(m, j, leader)
				return
			}
			s.acceptJoin(m, j, true)
			return
		}
	}
	c.waitJoin(s, m, j)
	if m.fresh && !m.local {
		c.arm(&m.timer, s.now.Add(newMemberTimeout))
	}
	if g.state != preparing {
		c.rebalance(s, g)
	}
}

// sameTopics reports whether a and b subscribe to the same topics, or are not
// the metadata of consumers.
func (g *group) sameTopics(a, b []byte) bool {
	if g.protocolType != consumerType {
		return true
	}
	topicsA, okA := topicsOf(a)
	topicsB, okB := topicsOf(b)
	if !okA || !okB {
		return okA == okB
	}
	set := map[string]bool{}
	for _, topic := range topicsA {
		set[topic] = true
	}
	common := map[string]bool{}
	for _, topic := range topicsB {
		if !set[topic] {
			return false
		}
		common[topic] = true
	}
	return len(common) == len(set)
}

// rebalance begins a join phase: all members have to join again.
func (c *Coordinator) rebalance(s *step, g *group) {
	for _, m := range g.members {
		if !m.waits() {
			s.wake(m)
		}
	}
	for _, m := range g.members {
		c.synced(m)
		if m.sync != nil {
			s.refuseSync(m.takeSync(), codeRebalanceInProgress)
			c.touch(s, m)
		}
	}
	timeout := g.rebalanceTimeout()
	g.initial = g.state == empty
	if g.initial {
		g.grown = false
		delay := c.cfg.InitialDelay
		g.remaining = max(timeout-delay, 0)
		timeout = delay
	}
	g.become(preparing, s.now)
	c.arm(&g.joinTimer, s.now.Add(timeout))
	if g.initial && timeout <= 0 {
		c.completeJoin(s, g)
		return
	}
	c.tryCompleteJoin(s, g)
}

// tryCompleteJoin ends the join phase if all have joined. The first phase of a
// group lasts for its delay.
func (c *Coordinator) tryCompleteJoin(s *step, g *group) {
	if g.state == preparing && !g.initial && g.joining == len(g.members) && len(g.pending) == 0 {
		c.completeJoin(s, g)
	}
}

// endJoinPhase is what the timer of a join phase does.
func (c *Coordinator) endJoinPhase(s *step, g *group) {
	if g.initial && g.grown && g.remaining > 0 {
		delay := min(c.cfg.InitialDelay, g.remaining)
		g.grown, g.remaining = false, g.remaining-delay
		c.arm(&g.joinTimer, s.now.Add(delay))
		return
	}
	c.completeJoin(s, g)
}

// completeJoin ends the join phase. Members that have not joined are gone,
// except for static ones, whose session decides.
func (c *Coordinator) completeJoin(s *step, g *group) {
	for _, m := range slices.Clone(g.members) {
		if m.join == nil && m.instance == "" {
			c.remove(s, m)
		}
	}
	if !g.electLeader() && len(g.members) > 0 {
		c.arm(&g.joinTimer, s.now.Add(g.rebalanceTimeout())) // until sessions end
		return
	}
	c.nextGeneration(s, g)
}

// nextGeneration begins one with the members that there are. Those who joined
// get their answers and have to sync; without members the group is empty.
func (c *Coordinator) nextGeneration(s *step, g *group) {
	c.stop(&g.joinTimer)
	g.initial = false
	g.advance()
	if len(g.members) == 0 {
		g.protocol = ""
		g.become(empty, s.now)
		s.write(g.record(g.since, (*member).assigned))
		return
	}
	g.protocol = g.choose()
	g.become(completing, s.now)
	for _, m := range g.members {
		m.assignment = nil
		if m.join == nil {
			continue
		}
		m.fresh = false
		m.unsynced = true
		g.unsynced++
		s.acceptJoin(m, m.takeJoin(), false)
		c.touch(s, m)
	}
	c.arm(&g.syncTimer, s.now.Add(g.rebalanceTimeout()))
}

// acceptJoin answers with the generation that m is in. Its leader gets the
// members, to assign, unless it is told to skip that.
func (s *step) acceptJoin(m *member, j joinCall, skip bool) {
	g := m.group
	s.acceptFollower(m, j, g.leader)
	if m.id != g.leader {
		return
	}
	j.resp.SkipAssignment = skip
	j.resp.Members = make([]kmsg.JoinGroupResponseMember, 0, len(g.members))
	for _, o := range g.members {
		says := kmsg.NewJoinGroupResponseMember()
		says.MemberID, says.InstanceID, says.ProtocolMetadata = o.id, o.instanceID(), o.metadata(g.protocol)
		j.resp.Members = append(j.resp.Members, says)
	}
}

func (s *step) acceptFollower(m *member, j joinCall, leader string) {
	g := m.group
	j.resp.Generation = g.generation
	j.resp.ProtocolType = kmsg.StringPtr(g.protocolType)
	j.resp.Protocol = kmsg.StringPtr(g.protocol)
	j.resp.LeaderID, j.resp.MemberID = leader, m.id
	s.answer(j.id, j.resp)
}

// refuseJoin answers with an error, and with the id to join with.
func (s *step) refuseJoin(j joinCall, id string, code int16) {
	j.resp.ErrorCode, j.resp.MemberID = code, id
	s.answer(j.id, j.resp)
}
