package group

import (
	"encoding/binary"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// rig is a coordinator with its log and clock, as the one who embeds it has
// them. Time moves when a test says so.
type rig struct {
	t       tester
	cfg     Config
	c       *Coordinator
	now     time.Time
	log     []Record
	answers map[uint64]kmsg.Response
	woken   []string
	calls   uint64
	ids     int
	last    Result
}

var epoch = time.UnixMilli(1_700_000_000_000)

// tester is a test, or a run of a property.
type tester interface {
	require.TestingT
	Helper()
}

// newRig returns one without an initial delay.
func newRig(t tester, change ...func(*Config)) *rig {
	r := &rig{t: t, now: epoch, answers: map[uint64]kmsg.Response{}}
	r.cfg = DefaultConfig()
	r.cfg.InitialDelay = 0
	r.cfg.NewMemberID = func(prefix string) string {
		r.ids++
		return fmt.Sprintf("%s-%d", prefix, r.ids)
	}
	for _, f := range change {
		f(&r.cfg)
	}
	r.c = New(r.cfg)
	r.take(r.c.Loaded(r.now))
	return r
}

// take appends and applies the records of a result, and gives its answers.
func (r *rig) take(res Result) {
	r.t.Helper()
	r.last = res
	require.False(r.t, res.Soft && len(res.Records) == 0)
	for _, rec := range res.Records {
		r.log = append(r.log, rec)
		require.NoError(r.t, r.c.Apply(rec, int64(len(r.log))))
	}
	for _, a := range res.Answers {
		require.NotContains(r.t, r.answers, a.ID, "answered twice")
		r.answers[a.ID] = a.Response
	}
	r.woken = append(r.woken, res.Wake...)
	r.c.check()
}

// reload drops the coordinator and loads another from the log.
func (r *rig) reload() {
	r.t.Helper()
	for _, a := range r.c.Drop(codeNotCoordinator) {
		require.NotContains(r.t, r.answers, a.ID, "answered twice")
		r.answers[a.ID] = a.Response
	}
	r.c = New(r.cfg)
	for i, rec := range r.log {
		require.NoError(r.t, r.c.Apply(rec, int64(i+1)))
	}
	r.take(r.c.Loaded(r.now))
}

const codeNotCoordinator int16 = 16

// pass lets time go by, with every timer that is due on the way.
func (r *rig) pass(d time.Duration) {
	r.t.Helper()
	end := r.now.Add(d)
	for {
		at, ok := r.c.Next()
		if !ok || at.After(end) {
			break
		}
		r.now = at
		r.take(r.c.Tick(r.now))
	}
	r.now = end
}

// call hands a request in and returns the number of the call.
func (r *rig) call(local bool, req kmsg.Request) uint64 {
	r.t.Helper()
	r.calls++
	r.take(r.c.Handle(Call{ID: r.calls, Local: local, ClientID: "client", Host: "/10.0.0.1", Request: req}, r.now))
	return r.calls
}

// waits reports whether a call has no answer yet.
func (r *rig) waits(id uint64) bool { return r.answers[id] == nil }

func answerOf[R kmsg.Response](r *rig, id uint64) R {
	r.t.Helper()
	require.Contains(r.t, r.answers, id, "no answer yet")
	return r.answers[id].(R)
}

// who is a member as a test drives it.
type who struct {
	r          *rig
	group      string
	local      bool
	id         string
	instance   string
	version    int16 // of joins
	kind       string
	protocols  []string
	topics     []string
	session    time.Duration
	rebalance  time.Duration
	generation int32
	leader     bool
	members    []kmsg.JoinGroupResponseMember
	assigned   string
	joinID     uint64
	syncID     uint64
}

func (r *rig) member(change ...func(*who)) *who {
	w := &who{
		r: r, group: "g", version: 9, kind: consumerType, protocols: []string{"range"}, topics: []string{"t"},
		session: 10 * time.Second, rebalance: time.Minute,
	}
	for _, f := range change {
		f(w)
	}
	return w
}

func isLocal(w *who)                      { w.local = true }
func isStatic(instance string) func(*who) { return func(w *who) { w.instance = instance } }
func supports(names ...string) func(*who) { return func(w *who) { w.protocols = names } }
func consumes(topics ...string) func(*who) {
	return func(w *who) { w.topics = topics }
}

// subscription is what a consumer says to its leader, in version 0.
func subscription(topics ...string) []byte {
	b := binary.BigEndian.AppendUint16(nil, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(len(topics)))
	for _, topic := range topics {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(topic))), topic...)
	}
	return binary.BigEndian.AppendUint32(b, 0xffffffff) // no user data
}

func (w *who) instanceID() *string {
	if w.instance == "" {
		return nil
	}
	return &w.instance
}

func (w *who) joinRequest() *kmsg.JoinGroupRequest {
	req := kmsg.NewPtrJoinGroupRequest()
	req.Version, req.Group, req.MemberID, req.InstanceID, req.ProtocolType = w.version, w.group, w.id, w.instanceID(), w.kind
	req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = int32(w.session.Milliseconds()), int32(w.rebalance.Milliseconds())
	for _, name := range w.protocols {
		p := kmsg.NewJoinGroupRequestProtocol()
		p.Name, p.Metadata = name, subscription(w.topics...)
		req.Protocols = append(req.Protocols, p)
	}
	return req
}

// join sends a join call; joined takes its answer.
func (w *who) join() *who {
	w.r.t.Helper()
	w.joinID = w.r.call(w.local, w.joinRequest())
	if resp, ok := w.r.answers[w.joinID].(*kmsg.JoinGroupResponse); ok && resp.ErrorCode == codeMemberIDRequired {
		w.id = resp.MemberID
		w.joinID = w.r.call(w.local, w.joinRequest())
	}
	return w
}

func (w *who) joinCode() int16 {
	w.r.t.Helper()
	return answerOf[*kmsg.JoinGroupResponse](w.r, w.joinID).ErrorCode
}

func (w *who) joined() *who {
	w.r.t.Helper()
	resp := answerOf[*kmsg.JoinGroupResponse](w.r, w.joinID)
	require.Zero(w.r.t, resp.ErrorCode)
	w.id, w.generation, w.members = resp.MemberID, resp.Generation, resp.Members
	w.leader = resp.LeaderID == resp.MemberID && !resp.SkipAssignment
	return w
}

// sync sends a sync call, with each member's id as its assignment if it leads.
func (w *who) sync() *who {
	w.r.t.Helper()
	req := kmsg.NewPtrSyncGroupRequest()
	req.Version, req.Group, req.MemberID, req.InstanceID, req.Generation = 5, w.group, w.id, w.instanceID(), w.generation
	req.ProtocolType = &w.kind
	if w.leader {
		for _, m := range w.members {
			a := kmsg.NewSyncGroupRequestGroupAssignment()
			a.MemberID, a.MemberAssignment = m.MemberID, []byte("to "+m.MemberID)
			req.GroupAssignment = append(req.GroupAssignment, a)
		}
	}
	w.syncID = w.r.call(w.local, req)
	return w
}

func (w *who) syncCode() int16 {
	w.r.t.Helper()
	return answerOf[*kmsg.SyncGroupResponse](w.r, w.syncID).ErrorCode
}

func (w *who) synced() *who {
	w.r.t.Helper()
	resp := answerOf[*kmsg.SyncGroupResponse](w.r, w.syncID)
	require.Zero(w.r.t, resp.ErrorCode)
	w.assigned = string(resp.MemberAssignment)
	return w
}

func (w *who) heartbeat() int16 {
	w.r.t.Helper()
	req := kmsg.NewPtrHeartbeatRequest()
	req.Version, req.Group, req.MemberID, req.InstanceID, req.Generation = 4, w.group, w.id, w.instanceID(), w.generation
	return answerOf[*kmsg.HeartbeatResponse](w.r, w.r.call(w.local, req)).ErrorCode
}

func (w *who) leave() int16 {
	w.r.t.Helper()
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Version, req.Group = 5, w.group
	m := kmsg.NewLeaveGroupRequestMember()
	m.MemberID, m.InstanceID = w.id, w.instanceID()
	req.Members = append(req.Members, m)
	resp := answerOf[*kmsg.LeaveGroupResponse](w.r, w.r.call(w.local, req))
	require.Zero(w.r.t, resp.ErrorCode)
	return resp.Members[0].ErrorCode
}

func commitRequest(group string, version int16, topic string, partition int32, offset int64) *kmsg.OffsetCommitRequest {
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Version, req.Group = version, group
	t := kmsg.NewOffsetCommitRequestTopic()
	t.Topic = topic
	p := kmsg.NewOffsetCommitRequestTopicPartition()
	p.Partition, p.Offset = partition, offset
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	return req
}

func (w *who) commit(topic string, partition int32, offset int64) int16 {
	w.r.t.Helper()
	req := commitRequest(w.group, 9, topic, partition, offset)
	req.MemberID, req.InstanceID, req.Generation = w.id, w.instanceID(), w.generation
	return w.r.commit(w.local, req)
}

func (r *rig) commit(local bool, req *kmsg.OffsetCommitRequest) int16 {
	r.t.Helper()
	return answerOf[*kmsg.OffsetCommitResponse](r, r.call(local, req)).Topics[0].Partitions[0].ErrorCode
}

// fetch returns what is committed.
func (r *rig) fetch(group, topic string, partition int32) int64 {
	r.t.Helper()
	o, _ := r.c.groups[group].offset(topic, partition)
	return o.offset
}

// state returns what DescribeGroups says of a group.
func (r *rig) state(group string) string {
	r.t.Helper()
	return r.described(group).State
}

func (r *rig) described(group string) kmsg.DescribeGroupsResponseGroup {
	r.t.Helper()
	req := kmsg.NewPtrDescribeGroupsRequest()
	req.Version, req.Groups = 5, []string{group}
	return answerOf[*kmsg.DescribeGroupsResponse](r, r.call(false, req)).Groups[0]
}

// settle lets members join, until they are together in a stable group.
func (r *rig) settle(members ...*who) {
	r.t.Helper()
	for _, w := range members {
		w.join()
	}
	for _, w := range members {
		if !r.waits(w.joinID) && r.c.groups[w.group].state == preparing {
			w.joined().join()
		}
	}
	for _, w := range slices.Backward(members) { // the leader last
		w.joined().sync()
	}
	for _, w := range members {
		w.synced()
	}
	require.Equal(r.t, "Stable", r.state(members[0].group))
}

// dump writes down all that the coordinator holds, timers included.
func (r *rig) dump() string {
	var b strings.Builder
	for _, name := range r.c.Groups() {
		g := r.c.groups[name]
		fmt.Fprintf(&b, "%s %v since %d, generation %d, %s/%s, leader %s, written %v\n",
			name, g.state, g.since, g.generation, g.protocolType, g.protocol, g.leader, g.written)
		for _, m := range g.members {
			fmt.Fprintf(&b, "  %s %q %s %s local %v %v %v %v %q fresh %v unsynced %v joins %v syncs %v timer %v %v\n",
				m.id, m.instance, m.clientID, m.host, m.local, m.rebalance, m.session, m.protocols, m.assignment,
				m.fresh, m.unsynced, m.join != nil, m.sync != nil, m.timer.armed, m.timer.at.UnixMilli())
		}
		fmt.Fprintf(&b, "  pending %v, offsets %v\n", slices.Sorted(maps.Keys(g.pending)), g.offsets)
	}
	return b.String()
}

// reloadAndCompare drops and loads the coordinator, whose members are not local
// and do not wait, and whose sessions began just now or do not matter.
func (r *rig) reloadAndCompare() {
	r.t.Helper()
	timers := regexp.MustCompile(`(?m)timer .*$`)
	before := timers.ReplaceAllString(r.dump(), "")
	r.reload()
	require.Equal(r.t, before, timers.ReplaceAllString(r.dump(), ""))
}
