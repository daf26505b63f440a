package group

import (
	"bytes"
	"slices"
	"strings"
	"time"

	"github.com/rifflelog/riffle/internal/invariants"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// localHost is the client host of local members in their record: by it they are
// known when it is loaded. The hosts of others come from addresses.
const localHost = "in-process"

// newMemberTimeout is how long the join call of a member waits that was never
// in a generation: its client may be gone, and has no id to send heartbeats
// with. Kafka: GroupCoordinator.NewMemberJoinTimeoutMs.
const newMemberTimeout = 5 * time.Minute

// protocol is one that a member supports, with what it says to its leader.
type protocol struct {
	name     string
	metadata []byte // never changed, since answers share it
}

// member is one member of a group.
type member struct {
	group      *group
	id         string
	instance   string // of a static member; empty otherwise
	clientID   string
	host       string
	local      bool
	detached   bool // local, and its session runs all the same
	rebalance  time.Duration
	session    time.Duration
	protocols  []protocol // in order of preference
	assignment []byte     // never changed, since answers share it
	fresh      bool       // was in no generation yet
	unsynced   bool       // has a join answer, and did not sync since

	join  *joinCall // waits, if any
	sync  *syncCall // likewise
	timer timer     // its session, or the end of its first join call
}

type joinCall struct {
	id   uint64
	resp *kmsg.JoinGroupResponse
}

type syncCall struct {
	id   uint64
	resp *kmsg.SyncGroupResponse
}

// newMember returns the member that a join request describes, without an id.
func newMember(call Call, r *kmsg.JoinGroupRequest) *member {
	m := &member{
		clientID:  cut(call.ClientID, maxString),
		host:      cut(call.Host, maxString),
		local:     call.Local,
		rebalance: time.Duration(r.RebalanceTimeoutMillis) * time.Millisecond,
		session:   time.Duration(r.SessionTimeoutMillis) * time.Millisecond,
	}
	if r.InstanceID != nil {
		m.instance = strings.Clone(*r.InstanceID)
	}
	if m.local {
		m.host = localHost
	}
	if m.rebalance <= 0 { // version 0 has none
		m.rebalance = max(m.session, time.Second)
	}
	for _, p := range r.Protocols {
		if !slices.ContainsFunc(m.protocols, func(o protocol) bool { return o.name == p.Name }) {
			m.protocols = append(m.protocols, protocol{strings.Clone(p.Name), bytes.Clone(p.Metadata)})
		}
	}
	return m
}

// metadata returns what m says under a protocol.
func (m *member) metadata(name string) []byte {
	for _, p := range m.protocols {
		if p.name == name {
			return p.metadata
		}
	}
	return nil
}

// says reports whether o supports the same protocols with the same metadata.
func (m *member) says(o *member) bool {
	return slices.EqualFunc(m.protocols, o.protocols, func(a, b protocol) bool {
		return a.name == b.name && bytes.Equal(a.metadata, b.metadata)
	})
}

func (m *member) waits() bool { return m.join != nil || m.sync != nil }

// instanceID is how messages name the instance.
func (m *member) instanceID() *string {
	if m.instance == "" {
		return nil
	}
	return kmsg.StringPtr(m.instance)
}

func (m *member) check() {
	at := func(ok bool, what string) {
		invariants.Check(ok, "member %q of group %q: %s", m.id, m.group.name, what)
	}
	at(m.group.byID[m.id] == m, "found by its id")
	at(m.instance == "" || m.group.static[m.instance] == m, "found by its instance id")
	switch {
	case m.local && !m.detached:
		at(!m.timer.armed, "local members have no session")
	case m.fresh && m.join != nil && !m.local:
		at(m.timer.armed, "the first join call of a member has an end")
	default:
		at(m.timer.armed != m.waits(), "a session runs while nothing waits")
	}
	at(m.join == nil || m.sync == nil, "waits once")
}

// touch restarts the session of m. None runs while a call of it waits.
func (c *Coordinator) touch(s *step, m *member) {
	switch {
	case m.waits():
		if !m.fresh || m.local {
			c.stop(&m.timer)
		}
	case m.local && !m.detached:
		c.stop(&m.timer)
	default:
		c.arm(&m.timer, s.now.Add(m.session))
	}
}

// heard restarts the session of m because of a request: a local member that was
// given up is back.
func (c *Coordinator) heard(s *step, m *member) {
	m.detached = false
	c.touch(s, m)
}

// remove takes m out of its group and answers its waiting calls. What that
// means for the group is the caller's to decide.
func (c *Coordinator) remove(s *step, m *member) {
	g := m.group
	if !m.waits() {
		s.wake(m)
	}
	c.stop(&m.timer)
	s.refuseWaiting(m, codeUnknownMemberID)
	c.synced(m)
	g.delete(m)
}

// refuseWaiting answers the waiting calls of m with an error.
func (s *step) refuseWaiting(m *member, code int16) {
	if m.join != nil {
		s.refuseJoin(m.takeJoin(), "", code)
	}
	if m.sync != nil {
		s.refuseSync(m.takeSync(), code)
	}
}

// waitJoin makes call the waiting join call of m. One that waits already was
// given up by its client.
func (c *Coordinator) waitJoin(s *step, m *member, call joinCall) {
	if m.join != nil {
		s.refuseJoin(m.takeJoin(), m.id, codeRebalanceInProgress)
	}
	if m.sync != nil {
		s.refuseSync(m.takeSync(), codeRebalanceInProgress)
	}
	m.join = &call
	m.group.joining++
	c.heard(s, m)
}

func (m *member) takeJoin() joinCall {
	call := *m.join
	m.join = nil
	m.group.joining--
	return call
}

func (m *member) takeSync() syncCall {
	call := *m.sync
	m.sync = nil
	return call
}

// synced notes that m has synced, or that nobody waits for it to.
func (c *Coordinator) synced(m *member) {
	if !m.unsynced {
		return
	}
	m.unsynced = false
	if m.group.unsynced--; m.group.unsynced == 0 {
		c.stop(&m.group.syncTimer)
	}
}

// known returns the member that a request names, or the error for it. A static
// member whose place another process took is fenced.
func (g *group) known(id string, instance *string) (*member, int16) {
	if g == nil {
		return nil, codeUnknownMemberID
	}
	if instance != nil {
		switch m := g.static[*instance]; {
		case m == nil:
			return nil, codeUnknownMemberID
		case m.id != id:
			return nil, codeFencedInstanceID
		}
	}
	if m := g.byID[id]; m != nil {
		return m, 0
	}
	return nil, codeUnknownMemberID
}

// leave removes members, whom version 3 and later names in a list, also by
// their instance id alone.
func (c *Coordinator) leave(s *step, call Call, r *kmsg.LeaveGroupRequest) {
	resp := r.ResponseKind().(*kmsg.LeaveGroupResponse)
	s.answer(call.ID, resp)
	if !validName(r.Group) {
		resp.ErrorCode = codeInvalidGroupID
		return
	}
	leaving := r.Members
	if r.Version < 3 {
		leaving = []kmsg.LeaveGroupRequestMember{{MemberID: r.MemberID}}
	}
	g := c.groups[r.Group]
	before := g.size()
	for _, l := range leaving {
		code := c.leaveOne(s, g, l)
		if r.Version < 3 {
			resp.ErrorCode = code
			continue
		}
		m := kmsg.NewLeaveGroupResponseMember()
		m.MemberID, m.InstanceID, m.ErrorCode = l.MemberID, l.InstanceID, code
		resp.Members = append(resp.Members, m)
	}
	if g != nil {
		c.shrunk(s, g, g.size() < before)
	}
}

func (c *Coordinator) leaveOne(s *step, g *group, l kmsg.LeaveGroupRequestMember) int16 {
	if g == nil {
		return codeUnknownMemberID
	}
	if t := g.pending[l.MemberID]; t != nil {
		c.stop(t)
		delete(g.pending, l.MemberID)
		return 0
	}
	id := l.MemberID
	if id == "" && l.InstanceID != nil && g.static[*l.InstanceID] != nil {
		id = g.static[*l.InstanceID].id
	}
	m, code := g.known(id, l.InstanceID)
	if code == 0 {
		c.remove(s, m)
	}
	return code
}

// shrunk goes on with a group after members left it, or ids that were to join.
func (c *Coordinator) shrunk(s *step, g *group, members bool) {
	switch {
	case g.state == preparing:
		c.tryCompleteJoin(s, g)
	case members:
		c.rebalance(s, g)
	}
	c.forget(g)
}

// heartbeat says to a member whether it has to join again.
func (c *Coordinator) heartbeat(s *step, call Call, r *kmsg.HeartbeatRequest) {
	resp := r.ResponseKind().(*kmsg.HeartbeatResponse)
	s.answer(call.ID, resp)
	if !validName(r.Group) {
		resp.ErrorCode = codeInvalidGroupID
		return
	}
	g := c.groups[r.Group]
	m, code := g.known(r.MemberID, r.InstanceID)
	if code == 0 && r.Generation != g.generation {
		code = codeIllegalGeneration
	}
	if code != 0 {
		resp.ErrorCode = code
		return
	}
	c.heard(s, m)
	if g.state == preparing {
		resp.ErrorCode = codeRebalanceInProgress
	}
}

// cut copies a string, without what is beyond n bytes.
func cut(text string, n int) string { return strings.Clone(text[:min(len(text), n)]) }
