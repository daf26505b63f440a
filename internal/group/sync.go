package group

import (
	"bytes"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// sync takes a SyncGroup request. A follower's waits for the leader's, whose
// assignment is in a record before the group is stable.
func (c *Coordinator) sync(s *step, call Call, r *kmsg.SyncGroupRequest) {
	y := syncCall{call.ID, r.ResponseKind().(*kmsg.SyncGroupResponse)}
	if !validName(r.Group) {
		s.refuseSync(y, codeInvalidGroupID)
		return
	}
	g := c.groups[r.Group]
	m, code := g.known(r.MemberID, r.InstanceID)
	if code == 0 {
		code = g.checkSync(r)
	}
	if code != 0 {
		s.refuseSync(y, code)
		return
	}
	c.synced(m)
	if g.state == stable {
		c.heard(s, m)
		s.acceptSync(m, y, m.assignment)
		return
	}
	if m.sync != nil {
		s.refuseSync(m.takeSync(), codeRebalanceInProgress) // its client gave it up
	}
	m.sync = &y
	c.heard(s, m)
	if m.id == g.leader {
		c.assign(s, g, r.GroupAssignment)
	}
}

func (g *group) checkSync(r *kmsg.SyncGroupRequest) int16 {
	switch {
	case r.Generation != g.generation:
		return codeIllegalGeneration
	case r.ProtocolType != nil && *r.ProtocolType != g.protocolType, r.Protocol != nil && *r.Protocol != g.protocol:
		return codeInconsistentGroupProtocol
	case g.state == preparing:
		return codeRebalanceInProgress
	}
	return 0
}

// assign writes the leader's assignment, which makes the group stable, and
// answers who waits for it. Members that the leader forgot get nothing.
func (c *Coordinator) assign(s *step, g *group, given []kmsg.SyncGroupRequestGroupAssignment) {
	parts := make(map[*member][]byte, len(given))
	for _, a := range given {
		if m := g.byID[a.MemberID]; m != nil {
			parts[m] = a.MemberAssignment
		}
	}
	record := g.record(s.now.UnixMilli(), func(m *member) []byte { return parts[m] })
	if !c.fits(record) {
		for _, m := range g.members {
			if m.sync != nil {
				s.refuseSync(m.takeSync(), codeUnknownServerError)
				c.touch(s, m)
			}
		}
		c.rebalance(s, g)
		return
	}
	s.write(record)
	for _, m := range g.members {
		if m.sync != nil {
			s.acceptSync(m, m.takeSync(), bytes.Clone(parts[m]))
			c.touch(s, m)
		}
	}
}

// endSyncPhase removes the members that got a join answer and did not sync.
func (c *Coordinator) endSyncPhase(s *step, g *group) {
	for _, m := range slices.Clone(g.members) {
		if m.unsynced {
			c.remove(s, m)
		}
	}
	c.rebalance(s, g)
}

func (s *step) acceptSync(m *member, y syncCall, assignment []byte) {
	y.resp.ProtocolType = kmsg.StringPtr(m.group.protocolType)
	y.resp.Protocol = kmsg.StringPtr(m.group.protocol)
	y.resp.MemberAssignment = assignment
	s.answer(y.id, y.resp)
}

func (s *step) refuseSync(y syncCall, code int16) {
	y.resp.ErrorCode = code
	s.answer(y.id, y.resp)
}
