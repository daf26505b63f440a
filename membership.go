package riffle

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/rifflelog/riffle/internal/group"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// membership is a consumer's side of its group. Kafka: ConsumerCoordinator. It acts inside
// polls alone: it sends a request, goes on reading where it may, and looks at the answer in
// the poll that finds it, or that it wakes.
//
//	away → joining → syncing → joined → joining ...
//
// What the coordinator wants to tell comes as a wake: then a heartbeat asks what it is.
type membership struct {
	c     *Consumer
	woken atomic.Bool // the coordinator has something to tell

	// Guarded by the consumer's mu.

	id         string // given by the coordinator; empty before
	generation int32  // -1 before the first
	ownedIn    int32  // the generation in which it got what it has
	phase      memberPhase
	rejoin     bool     // another join is needed
	lost       bool     // others may have the partitions already
	fatal      error    // it can never be a member again
	topics     []string // as it joined for
	protocol   string
	counts     map[string]int   // of the topics of all members, as the leader has assigned them; nil of others
	previous   []TopicPartition // what it had before it gave up all
	asked      int              // counts requests: an answer to an earlier one is late
	pending    bool             // the last one has no answer yet
	answer     kmsg.Response    // or it has this one
	answerErr  error
	failed     int         // times in a row that the coordinator, or an assignor, could not do its work
	resting    bool        // until retry fires nothing is asked for
	retry      *time.Timer // nil if it has not failed yet
}

type memberPhase int

const (
	memberAway memberPhase = iota
	memberJoining
	memberSyncing
	memberJoined
)

const (
	// A member that has failed to join is not to burn the host's time, nor to disturb the
	// others of its group. Kafka: retry.backoff.ms, retry.backoff.max.ms.
	retryBackoff    = 100 * time.Millisecond
	maxRetryBackoff = time.Second
)

func newMembership(c *Consumer) *membership { return &membership{c: c, generation: -1, ownedIn: -1} }

// wake has the next poll ask the coordinator what has happened.
func (m *membership) wake() {
	m.woken.Store(true)
	m.c.lookUp()
}

// caller is who the consumer is to the coordinator.
func (m *membership) caller() groupCaller {
	return groupCaller{member: m, clientID: m.c.opts.ClientID, host: localHost}
}

// tend does what can be done now to be a member with the share that it should have. News
// says that topics have changed.
func (m *membership) tend(ctx context.Context, news bool) (err error) {
	var first error // of callbacks: the rebalance goes on
	keep := func(err error) {
		if first == nil {
			first = err
		}
	}
	if news {
		m.lookAtTopics()
	}
	for {
		if err := m.c.mayGoOn(ctx); err != nil {
			keep(err)
			return first // what has been begun goes on with the next poll
		}
		m.c.mu.Lock()
		fatal, lost, answered := m.fatal, m.lost, m.answer != nil || m.answerErr != nil
		wanted := m.c.subscribed.kind() == toTopics
		free, phase, rejoin := !m.pending && !m.resting, m.phase, m.rejoin
		m.c.mu.Unlock()
		switch {
		case lost:
			keep(m.lose(ctx))
		case fatal != nil:
			return fatal
		case !wanted:
			m.woken.Store(false)
			keep(m.giveUp(ctx))
			return first
		case answered:
			again, err := m.take(ctx)
			keep(err)
			if err != nil && !again {
				return first
			}
		case free && phase == memberJoined && m.woken.Swap(false):
			m.sendHeartbeat()
		case free && (phase == memberAway || phase == memberJoined && rejoin):
			keep(m.prepare(ctx))
			if err := m.sendJoin(); err != nil {
				m.rest()
				keep(err)
				return first
			}
		default:
			return first
		}
	}
}

// send sends a request; the answer comes by way of lookUp.
func (m *membership) send(req kmsg.Request) {
	m.c.mu.Lock()
	m.asked++
	asked, id := m.asked, m.id
	m.pending = true
	m.c.mu.Unlock()
	m.c.log.callGroup(m.caller(), req, func(resp kmsg.Response, err error) {
		m.c.mu.Lock()
		late := m.asked != asked
		if !late {
			m.pending, m.answer, m.answerErr = false, resp, err
		}
		m.c.mu.Unlock()
		if join, ok := resp.(*kmsg.JoinGroupResponse); ok && late && join.ErrorCode == 0 && join.MemberID != id {
			m.sendLeave(join.MemberID, nil) // nobody is this member any more
		}
		m.c.lookUp()
	})
}

// noteID takes the id from an answer that nobody has looked at yet. Called under the consumer's
// mu.
func (m *membership) noteID() {
	if join, ok := m.answer.(*kmsg.JoinGroupResponse); ok && join.ErrorCode == codeNone {
		m.id = join.MemberID
	}
}

// forget makes late the answer that is waited for, and whatever came. Called under the
// consumer's mu.
func (m *membership) forget() {
	m.asked++
	m.pending, m.answer, m.answerErr = false, nil, nil
}

// goAway makes the consumer no member of any generation. Called under the consumer's mu.
func (m *membership) goAway() {
	m.phase, m.generation, m.ownedIn, m.rejoin, m.counts = memberAway, -1, -1, false, nil
	m.forget()
}

func (m *membership) sendHeartbeat() {
	req := kmsg.NewPtrHeartbeatRequest()
	req.Version = 4
	m.c.mu.Lock()
	req.Group, req.Generation, req.MemberID, req.InstanceID = m.c.opts.Group, m.generation, m.id, m.instance()
	m.c.mu.Unlock()
	m.send(req)
}

// instance is the static member's id, nil if it is none.
func (m *membership) instance() *string {
	if m.c.opts.InstanceID == "" {
		return nil
	}
	return &m.c.opts.InstanceID
}

// sendJoin asks to take part in the next generation. An error is an assignor's: then nothing is
// asked for.
func (m *membership) sendJoin() error {
	o := &m.c.opts
	req := kmsg.NewPtrJoinGroupRequest()
	req.Version = 9
	req.Group, req.ProtocolType, req.InstanceID = o.Group, "consumer", m.instance()
	req.SessionTimeoutMillis = int32(o.SessionTimeout.Milliseconds())
	req.RebalanceTimeoutMillis = int32(min(o.MaxPollInterval.Milliseconds(), math.MaxInt32))
	topics, owned := m.c.wanted(), m.c.Assignment()
	m.c.mu.Lock()
	req.MemberID = m.id
	me := group.Member{Topics: topics, Owned: groupPartitions(owned), Generation: m.ownedIn}
	previous := owned
	if len(owned) == 0 {
		previous = m.previous
	}
	m.c.mu.Unlock()
	for _, a := range o.Assignors {
		if a.UserData != nil {
			err := calling("assignor "+a.Name, func() error {
				me.UserData = a.UserData(previous, me.Generation)
				return nil
			})
			if err != nil {
				return err
			}
		}
		p := kmsg.NewJoinGroupRequestProtocol()
		p.Name, p.Metadata = a.Name, group.EncodeSubscription(me)
		req.Protocols = append(req.Protocols, p)
		me.UserData = nil
	}
	m.c.mu.Lock()
	m.topics, m.counts = topics, nil
	m.phase, m.rejoin = memberJoining, false
	m.c.mu.Unlock()
	m.send(req)
	return nil
}

// rest lets some time pass before the coordinator is asked again: longer each time that it
// fails.
func (m *membership) rest() {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	if m.resting {
		return
	}
	m.resting = true
	backoff := min(retryBackoff<<min(m.failed, 10), maxRetryBackoff)
	m.failed++
	if m.retry != nil {
		m.retry.Reset(backoff)
		return
	}
	m.retry = time.AfterFunc(backoff, func() {
		m.c.mu.Lock()
		m.resting = false
		m.c.mu.Unlock()
		m.c.lookUp()
	})
}

// prepare gives up what the consumer cannot keep during a rebalance: all, or where all
// assignors are cooperative what it does not subscribe to any more.
func (m *membership) prepare(ctx context.Context) error {
	have := m.c.Assignment()
	if m.cooperative() {
		topics := m.c.wanted()
		have = slices.DeleteFunc(have, func(tp TopicPartition) bool { return slices.Contains(topics, tp.Topic) })
	} else {
		m.c.mu.Lock()
		if len(have) > 0 {
			m.previous = have
		}
		m.c.mu.Unlock()
	}
	return m.revoke(ctx, have)
}

func (m *membership) cooperative() bool {
	return !slices.ContainsFunc(m.c.opts.Assignors, func(a Assignor) bool { return !a.Cooperative })
}

// revoke commits what was passed, tells Revoked or Lost, and takes partitions from the consumer. The
// commit is not cut short with ctx: others would read again what it covers.
func (m *membership) revoke(ctx context.Context, parts []TopicPartition) error {
	if len(parts) == 0 {
		return nil
	}
	long, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	_ = m.c.commitPassed(long, true) // an error is logged
	cancel()
	defer m.drop(parts) // also where a callback ends the goroutine
	return m.tellGone(ctx, parts)
}

// tellGone calls Revoked with partitions that go, and Lost with those that are deleted.
func (m *membership) tellGone(ctx context.Context, parts []TopicPartition) error {
	var revoked, lost []TopicPartition
	for _, tp := range parts {
		if m.c.log.knownPartition(tp) != nil {
			revoked = append(revoked, tp)
		} else {
			lost = append(lost, tp)
		}
	}
	var errs []error
	if len(revoked) > 0 {
		errs = append(errs, m.c.call(ctx, "Revoked", m.c.opts.Revoked, revoked))
	}
	if len(lost) > 0 {
		errs = append(errs, m.c.call(ctx, "Lost", m.c.opts.Lost, lost))
	}
	return errors.Join(errs...)
}

// drop takes partitions from the consumer, unless it has others by now, that are assigned by
// hand: a callback may do that.
func (m *membership) drop(parts []TopicPartition) {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	if m.c.subscribed.kind() == byHand {
		return
	}
	for _, tp := range parts {
		if s := m.c.sources[tp]; s != nil {
			m.c.drop(s)
		}
	}
}

// lose takes everything from a consumer that is no member any more.
func (m *membership) lose(ctx context.Context) error {
	parts := m.c.Assignment()
	m.c.mu.Lock()
	m.lost = false
	m.goAway()
	m.c.mu.Unlock()
	if len(parts) == 0 {
		return nil
	}
	defer m.drop(parts) // also where a callback ends the goroutine
	return m.c.call(ctx, "Lost", m.c.opts.Lost, parts)
}

// giveUp leaves the group without closing the consumer, which has no subscription any more.
func (m *membership) giveUp(ctx context.Context) error {
	if !m.isIn() {
		return nil
	}
	m.c.mu.Lock()
	byHand := m.c.subscribed.kind() == byHand
	m.c.mu.Unlock()
	var err error
	if !byHand { // else it has other partitions by now
		err = m.revoke(ctx, m.c.Assignment())
	}
	m.c.mu.Lock()
	m.noteID()
	id := m.id
	m.id = ""
	m.goAway()
	m.c.mu.Unlock()
	if id != "" {
		m.sendLeave(id, nil)
	}
	return err
}

// sendLeave takes a member out of the group; a static one only stops being looked after, so
// that its session goes on without it. Done, which may be nil, is called when that is so.
func (m *membership) sendLeave(id string, done func()) {
	if done == nil {
		done = func() {}
	}
	if m.c.opts.InstanceID != "" {
		m.c.log.detachMember(m.c.opts.Group, id)
		done()
		return
	}
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Version = 5
	req.Group = m.c.opts.Group
	one := kmsg.NewLeaveGroupRequestMember()
	one.MemberID = id
	req.Members = append(req.Members, one)
	m.c.log.callGroup(m.caller(), req, func(kmsg.Response, error) { done() })
}

// leave ends the membership for good: what was passed is committed, and Revoked is told.
func (m *membership) leave(ctx context.Context) (err error) {
	parts := m.c.Assignment()
	m.c.mu.Lock()
	lost := m.lost || m.fatal != nil
	byHand := m.c.subscribed.kind() == byHand
	m.c.mu.Unlock()
	defer m.retire()
	defer func() { err = errors.Join(err, m.leaveGroup(ctx)) }() // also where a callback ends the goroutine
	switch {
	case lost && len(parts) > 0:
		err = m.c.call(ctx, "Lost", m.c.opts.Lost, parts)
	case len(parts) > 0:
		err = m.c.commitPassed(ctx, true)
		if !byHand {
			err = errors.Join(err, m.tellGone(ctx, parts))
		}
	}
	return err
}

// leaveGroup has the coordinator know that it leaves, if it is a member.
func (m *membership) leaveGroup(ctx context.Context) error {
	m.c.mu.Lock()
	m.noteID()
	id := m.id
	m.forget()
	m.c.mu.Unlock()
	if id == "" {
		return nil
	}
	left := make(chan struct{})
	m.sendLeave(id, func() { close(left) })
	select {
	case <-left:
	case <-ctx.Done():
		return ctx.Err()
	case <-m.c.log.broken:
	}
	return nil
}

// retire makes late whatever the coordinator still has to say.
func (m *membership) retire() {
	m.c.mu.Lock()
	m.forget()
	m.phase, m.id = memberAway, ""
	if m.retry != nil {
		m.retry.Stop()
	}
	m.c.mu.Unlock()
	m.c.log.forgetMember(m)
}

// isMoving says whether a rebalance is under way that the consumer takes part in.
func (m *membership) isMoving() bool {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	return m.phase == memberJoining || m.phase == memberSyncing
}

// advance goes on with a rebalance as far as that calls nobody: until the partitions are known.
// What the consumer gives up it gives up in a poll. Wait says whether it waits for answers.
func (m *membership) advance(ctx context.Context, wait bool) error {
	defer m.c.rouse() // what is taken from signal here is for polls
	for {
		m.c.mu.Lock()
		_, joins := m.answer.(*kmsg.JoinGroupResponse)
		pending := m.pending
		m.c.mu.Unlock()
		if joins {
			if _, err := m.take(ctx); err != nil {
				return err
			}
			continue
		}
		if !pending || !wait {
			return nil
		}
		select {
		case <-m.c.signal:
		case <-ctx.Done():
			return ctx.Err()
		case <-m.c.log.broken:
			return m.c.log.closedError()
		}
	}
}

// overdue is called when the consumer has not polled for MaxPollInterval; polls is how often
// it had.
func (m *membership) overdue(polls int64) {
	m.c.mu.Lock()
	if m.c.clock.polls.Load() != polls || m.phase == memberAway || m.lost {
		m.c.mu.Unlock()
		return
	}
	m.noteID()
	id := m.id
	m.lost = true
	if m.c.opts.InstanceID == "" {
		m.id = ""
	}
	m.forget()
	m.c.mu.Unlock()
	m.c.log.opts.Logger.Warn("consumer has not polled for MaxPollInterval and leaves its group",
		"client", m.c.opts.ClientID, "group", m.c.opts.Group, "interval", m.c.opts.MaxPollInterval)
	if id != "" {
		m.sendLeave(id, nil)
	}
	m.c.lookUp()
}

// commitRequest returns a request to commit as the member that the consumer is now: none, if
// it assigns its partitions by hand.
func (m *membership) commitRequest() *kmsg.OffsetCommitRequest {
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Version = 9
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	req.Group, req.Generation = m.c.opts.Group, -1
	if m.c.subscribed.kind() != byHand {
		req.Generation, req.MemberID, req.InstanceID = m.generation, m.id, m.instance()
	}
	return req
}

// lookAtTopics has the consumer join again if what it subscribes to is another set of topics
// now, or, as the leader, if somebody's topics have come, gone or grown.
func (m *membership) lookAtTopics() {
	topics := m.c.wanted()
	m.c.mu.Lock()
	counts, joined := m.counts, m.phase == memberJoined || m.phase == memberSyncing
	changed := joined && !slices.Equal(topics, m.topics)
	m.c.mu.Unlock()
	for name, n := range counts {
		changed = changed || m.c.log.countPartitions(name) != n
	}
	if changed {
		m.c.mu.Lock()
		m.rejoin = true
		m.c.mu.Unlock()
	}
}

// take looks at the answer that has come. Again says that an error, which is a callback's,
// does not end what can be done now.
func (m *membership) take(ctx context.Context) (again bool, err error) {
	m.c.mu.Lock()
	answer, failed := m.answer, m.answerErr
	m.forget()
	m.c.mu.Unlock()
	defer func() {
		if err != nil && !again {
			m.rest()
		}
	}()
	if failed != nil {
		m.askAgain()
		return false, failed
	}
	switch resp := answer.(type) {
	case *kmsg.HeartbeatResponse:
		return false, m.judge(resp.ErrorCode)
	case *kmsg.JoinGroupResponse:
		if resp.ErrorCode != 0 {
			return false, m.judge(resp.ErrorCode)
		}
		return false, m.joined(resp)
	case *kmsg.SyncGroupResponse:
		if resp.ErrorCode != 0 {
			return false, m.judge(resp.ErrorCode)
		}
		return m.synced(ctx, resp)
	}
	return false, fmt.Errorf("group %q: unexpected answer %T", m.c.opts.Group, answer)
}

// askAgain has the member ask once more for what it got no answer to. One that is in its group
// does not begin a rebalance for that: it might have to give up what it has.
func (m *membership) askAgain() {
	m.c.mu.Lock()
	joined := m.phase == memberJoined
	m.c.mu.Unlock()
	if joined {
		m.woken.Store(true)
		return
	}
	m.startAgain()
}

// startAgain has the consumer join once more as who it is, keeping what it has.
func (m *membership) startAgain() {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	if m.phase == memberJoining || m.phase == memberSyncing {
		m.phase = memberAway
	}
	m.rejoin = true
}

// judge decides what a code of the coordinator's means. What is nil has been dealt with.
func (m *membership) judge(code int16) error {
	switch code {
	case codeNone:
		m.c.mu.Lock()
		m.failed = 0
		m.c.mu.Unlock()
	case codeRebalanceInProgress:
		m.startAgain()
	case codeUnknownMember, codeIllegalGeneration:
		m.c.mu.Lock()
		m.lost = true
		if code == codeUnknownMember {
			m.id = ""
		}
		m.c.mu.Unlock()
	case codeFencedInstance:
		m.c.mu.Lock()
		m.lost, m.fatal = true, groupError(code)
		m.c.mu.Unlock()
	default:
		m.askAgain()
		return groupError(code)
	}
	return nil
}

// isIn says whether the consumer is a member, as far as it knows, or on its way to be one.
func (m *membership) isIn() bool {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	return m.phase != memberAway || m.id != ""
}

// joined is called with the answer to a join: the leader assigns partitions, and all ask for
// their own.
func (m *membership) joined(resp *kmsg.JoinGroupResponse) error {
	m.c.mu.Lock()
	m.id, m.generation, m.phase = resp.MemberID, resp.Generation, memberSyncing
	if resp.Protocol != nil {
		m.protocol = *resp.Protocol
	}
	m.c.mu.Unlock()
	req := kmsg.NewPtrSyncGroupRequest()
	req.Version = 5
	req.Group, req.Generation, req.MemberID, req.InstanceID = m.c.opts.Group, resp.Generation, resp.MemberID, m.instance()
	req.ProtocolType, req.Protocol = resp.ProtocolType, resp.Protocol
	if resp.LeaderID == resp.MemberID {
		decided := false
		defer func() {
			if !decided { // also where the assignor ends the goroutine
				m.startAgain()
			}
		}()
		result, err := m.lead(resp)
		if err != nil {
			return err
		}
		decided = true
		req.GroupAssignment = result
	}
	m.send(req)
	return nil
}

// lead decides who gets what. A leader that came back as the same static member only watches
// the topics (KIP-814): what was not assigned may have come while it was away.
func (m *membership) lead(resp *kmsg.JoinGroupResponse) ([]kmsg.SyncGroupRequestGroupAssignment, error) {
	members := make([]GroupMember, 0, len(resp.Members))
	counts := make(map[string]int)
	for _, from := range resp.Members {
		s, err := group.DecodeSubscription(from.ProtocolMetadata)
		if err != nil {
			return nil, fmt.Errorf("subscription of member %s: %w", from.MemberID, err)
		}
		to := GroupMember{
			ID: from.MemberID, Topics: s.Topics, Owned: ourPartitions(s.Owned), Generation: s.Generation, UserData: s.UserData,
		}
		if from.InstanceID != nil {
			to.InstanceID = *from.InstanceID
		}
		members = append(members, to)
		for _, name := range s.Topics {
			if _, known := counts[name]; !known {
				counts[name] = m.c.log.countPartitions(name)
			}
		}
	}
	if resp.SkipAssignment {
		if err := m.countAssigned(counts); err != nil {
			return nil, err
		}
	}
	m.c.mu.Lock()
	m.counts = counts
	i := slices.IndexFunc(m.c.opts.Assignors, func(a Assignor) bool { return a.Name == m.protocol })
	m.c.mu.Unlock()
	if resp.SkipAssignment {
		return nil, nil
	}
	if i < 0 {
		return nil, fmt.Errorf("group %q: %w: the assignor %q is not ours", m.c.opts.Group, errAssignment, m.protocol)
	}
	there := maps.Clone(counts)
	maps.DeleteFunc(there, func(_ string, n int) bool { return n == 0 })
	result, err := m.c.opts.Assignors[i].assign(members, there)
	if err != nil {
		return nil, err
	}
	list := make([]kmsg.SyncGroupRequestGroupAssignment, 0, len(members))
	for _, to := range members {
		a := kmsg.NewSyncGroupRequestGroupAssignment()
		parts := result[to.ID]
		sortPartitions(parts)
		a.MemberID, a.MemberAssignment = to.ID, group.EncodeAssignment(groupPartitions(parts), nil)
		list = append(list, a)
	}
	return list, nil
}

// countAssigned makes counts those of the partitions that are assigned: lookAtTopics compares
// them with what there is.
func (m *membership) countAssigned(counts map[string]int) error {
	d, err := m.c.log.Group(m.c.opts.Group).describe(context.Background())
	if err != nil {
		return err
	}
	for name := range counts {
		counts[name] = 0
	}
	for _, one := range d.Members {
		for _, tp := range one.Assignment {
			counts[tp.Topic]++
		}
	}
	return nil
}

// synced is called with the answer to a sync: the consumer gets what is new, and gives up what
// is not its own any more; then it joins once more, so that this can be given to another. An
// error that does not end what can be done now is a callback's.
func (m *membership) synced(ctx context.Context, resp *kmsg.SyncGroupResponse) (again bool, err error) {
	parts, _, err := group.DecodeAssignment(resp.MemberAssignment)
	if len(resp.MemberAssignment) == 0 {
		parts, err = nil, nil // the leader knows nothing of us: nothing is ours
	}
	if err != nil {
		m.startAgain()
		return false, fmt.Errorf("assignment: %w", err)
	}
	mine := ourPartitions(parts)
	kept := make(map[TopicPartition]bool, len(mine))
	for _, tp := range mine {
		kept[tp] = true
	}
	gone := slices.DeleteFunc(m.c.Assignment(), func(tp TopicPartition) bool { return kept[tp] })
	m.c.mu.Lock()
	m.phase, m.ownedIn, m.failed = memberJoined, m.generation, 0
	m.rejoin = m.rejoin || len(gone) > 0
	m.c.mu.Unlock()
	err = m.revoke(ctx, gone)
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	if m.c.subscribed.kind() == byHand {
		return true, err
	}
	for _, s := range m.c.setSources(mine) {
		s.untold = true
	}
	m.c.tellNone = true
	m.c.topicsNews.Store(true) // they may have changed since the leader looked
	m.c.lookUp()
	return true, err
}
