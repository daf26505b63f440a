package riffle

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"
	"unicode/utf16"

	"github.com/rifflelog/riffle/internal/group"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// offsetsTopic holds what groups have committed, and who their members are.
	offsetsTopic = "__consumer_offsets"
	// offsetsPartitions is how many partitions it has. It can never change: a group's name
	// says which of them it is in. Kafka: offsets.topic.num.partitions, 50 there.
	offsetsPartitions = 16
	// localHost is the host of members in this process. Those of other processes have an
	// address.
	localHost = "in-process"
	// expireInterval is how often offsets are looked for that have expired. Kafka:
	// offsets.retention.check.interval.ms.
	expireInterval = 10 * time.Minute
)

// groupCaller is who sends a request: a member of this process, or somebody else.
type groupCaller struct {
	member   *membership // nil: not of this process
	clientID string
	host     string
}

// groupReply gets the answer to a request, once, on any goroutine, with no lock held. An
// error says that the coordinator could not do its work.
type groupReply func(kmsg.Response, error)

// coordinators are the groups of a log: a coordinator for each partition of offsetsTopic.
type coordinators struct {
	mu     sync.Mutex // guards what follows; nothing is locked under it
	list   []*coordinator
	expiry *time.Timer
}

// coordinator is the shell around the groups in one partition. Kafka: GroupCoordinator. The
// state decides; what it decides is appended, then applied, and the answer given when it is
// committed. When it cannot be appended or flushed, the state is dropped, and loaded once more
// by replay.
type coordinator struct {
	log  *Log
	part *Partition

	// turn holds one while a request is decided, appended and applied. It is taken with no
	// lock held but none of a partition or a topic.
	turn  chan struct{}
	state *group.Coordinator // nil: it is to be loaded
	calls map[uint64]groupReply
	from  map[uint64]*membership // joins of this process
	last  uint64                 // call
	local map[string]*membership // by member id
	timer *time.Timer

	// mu guards what follows. Nothing is locked under it.
	mu        sync.Mutex
	unsettled []settlement // in the order of the log
	settling  bool         // a goroutine waits for the first of them
}

// settlement is answers that are given when a flush has ended.
type settlement struct {
	round   *flushRound
	answers []func(error)
}

// callGroup sends a request to the coordinator of a group.
func (l *Log) callGroup(name string, from groupCaller, req kmsg.Request, reply groupReply) {
	co, err := l.coordinatorOf(name, creates(req))
	if errors.Is(err, errNoGroups) {
		co, err = &coordinator{log: l, turn: make(chan struct{}, 1), state: group.New(l.groupConfig())}, nil
		co.init()
	}
	if err != nil {
		reply(nil, err)
		return
	}
	co.handle(from, req, reply)
}

// askGroup is callGroup that waits. If ctx ends, what was asked for may come to be: ErrInDoubt,
// unless it changes nothing.
func (l *Log) askGroup(ctx context.Context, name string, from groupCaller, req kmsg.Request) (kmsg.Response, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	type result struct {
		resp kmsg.Response
		err  error
	}
	done := make(chan result, 1)
	l.callGroup(name, from, req, func(resp kmsg.Response, err error) { done <- result{resp, err} })
	select {
	case r := <-done:
		return r.resp, r.err
	case <-l.broken:
		return nil, inDoubt(l.closedError())
	case <-ctx.Done():
	}
	select {
	case r := <-done:
		return r.resp, r.err
	default:
	}
	if _, reads := req.(*kmsg.OffsetFetchRequest); reads {
		return nil, ctx.Err()
	}
	return nil, inDoubt(ctx.Err())
}

// creates says whether a request makes offsetsTopic, if there is none.
func creates(req kmsg.Request) bool {
	switch req.(type) {
	case *kmsg.JoinGroupRequest, *kmsg.OffsetCommitRequest:
		return true
	}
	return false
}

// coordinatorOf returns the coordinator of a group: errNoGroups if there is no offsetsTopic,
// and it is not to be made.
func (l *Log) coordinatorOf(name string, create bool) (*coordinator, error) {
	all, err := l.coordinators(create)
	if err != nil {
		return nil, err
	}
	return all[groupPartition(name, len(all))], nil
}

// groupPartition is the partition of a group among n. Kafka: Utils.abs of Java's hash of its
// name.
func groupPartition(name string, n int) int {
	var hash uint32
	for _, unit := range utf16.Encode([]rune(name)) {
		hash = 31*hash + uint32(unit)
	}
	return int(hash&0x7fffffff) % n
}

// coordinators returns the coordinators by partition.
func (l *Log) coordinators(create bool) ([]*coordinator, error) {
	if l.isClosing() {
		return nil, l.closedError()
	}
	l.groups.mu.Lock()
	all := l.groups.list
	l.groups.mu.Unlock()
	if all != nil {
		return all, nil
	}
	t, err := l.offsetsTopic(create)
	if err != nil {
		return nil, err
	}
	l.groups.mu.Lock()
	defer l.groups.mu.Unlock()
	if l.groups.list == nil {
		for _, p := range t.all() {
			co := &coordinator{log: l, part: p, turn: make(chan struct{}, 1)}
			co.init()
			l.groups.list = append(l.groups.list, co)
		}
		l.groups.expiry = l.after(expireInterval, l.expireOffsets)
	}
	return l.groups.list, nil
}

// offsetsTopic returns the topic of committed offsets.
func (l *Log) offsetsTopic(create bool) (*Topic, error) {
	t, err := l.Topic(offsetsTopic)
	if !errors.Is(err, ErrTopicNotFound) {
		return t, err
	}
	if !create {
		return nil, errNoGroups
	}
	t, err = l.makeTopic(context.Background(), offsetsTopic, TopicConfig{
		Partitions: offsetsPartitions, Cleanup: CleanupCompact, Flush: FlushBeforeAck,
		SegmentBytes: 100 << 20, MaxMessageBytes: 16 << 20, // one group's members are one record
		Retention: Forever, Compression: CompressionProducer, TimestampType: CreateTime,
	})
	if errors.Is(err, ErrTopicExists) {
		t, err = l.Topic(offsetsTopic)
	}
	return t, err
}

func (l *Log) groupConfig() group.Config {
	cfg := group.DefaultConfig()
	cfg.InitialDelay = l.opts.GroupInitialDelay
	cfg.NewMemberID = func(clientID string) string {
		var id [16]byte
		_, _ = rand.Read(id[:]) // never fails
		return clientID + "-" + hex.EncodeToString(id[:])
	}
	return cfg
}

func (co *coordinator) init() {
	co.calls, co.from, co.local = make(map[uint64]groupReply), make(map[uint64]*membership), make(map[string]*membership)
}

// handle has the state decide a request.
func (co *coordinator) handle(from groupCaller, req kmsg.Request, reply groupReply) {
	co.turn <- struct{}{}
	co.last++
	id := co.last
	co.calls[id] = reply
	switch r := req.(type) {
	case *kmsg.JoinGroupRequest:
		if from.member != nil {
			co.from[id] = from.member
		}
	case *kmsg.LeaveGroupRequest:
		for _, m := range r.Members {
			delete(co.local, m.MemberID)
		}
	}
	co.step(func(state *group.Coordinator, now time.Time) group.Result {
		if commit, ok := req.(*kmsg.OffsetCommitRequest); ok {
			co.log.refuseGone(commit)
		}
		return state.Handle(group.Call{
			ID: id, Local: from.member != nil, ClientID: from.clientID, Host: from.host, Request: req,
		}, now)
	}, id)
}

// step makes one step of the state, whose turn the caller has, and gives the turn back. What
// is asked for by call, if it is not 0, is answered in any case.
func (co *coordinator) step(decide func(*group.Coordinator, time.Time) group.Result, call uint64) {
	var after []func()
	defer func() {
		<-co.turn
		for _, f := range after {
			f()
		}
	}()
	err := co.load(&after)
	if err == nil {
		err = co.guarded(func() error { return co.decide(decide, call, &after) })
	}
	if err != nil {
		after = append(after, co.answer(call, nil, err)...)
	}
}

// guarded calls f, and turns a panic of ours into an error.
func (co *coordinator) guarded(f func() error) (err error) {
	defer co.log.guard(&err)
	return f()
}

// decide makes a step, appends and applies what it says, and arranges for the answers.
func (co *coordinator) decide(decide func(*group.Coordinator, time.Time) group.Result, call uint64, after *[]func()) error {
	now := time.Now()
	res := decide(co.state, now)
	round, err := co.append(res.Records, now)
	if err != nil {
		if res.Soft {
			co.drop(err, after)
		} else {
			co.forgetAnswers(res.Answers, err, after)
		}
		return err
	}
	for _, a := range res.Answers {
		co.noteMember(a)
	}
	var answers []func(error)
	for _, a := range res.Answers {
		answers = append(answers, co.give(a))
	}
	co.settle(round, answers, after)
	for _, id := range res.Wake {
		if m := co.local[id]; m != nil {
			*after = append(*after, m.wake)
		}
	}
	co.arm(now)
	return nil
}

// noteMember takes note of which member of this process has which id.
func (co *coordinator) noteMember(a group.Answer) {
	m := co.from[a.ID]
	delete(co.from, a.ID)
	if join, ok := a.Response.(*kmsg.JoinGroupResponse); ok && m != nil && join.ErrorCode == codeNone {
		co.local[join.MemberID] = m
	}
}

// give returns what gives an answer to whoever asked.
func (co *coordinator) give(a group.Answer) func(error) {
	reply := co.calls[a.ID]
	delete(co.calls, a.ID)
	return func(err error) {
		switch {
		case reply == nil:
		case err != nil:
			reply(nil, err)
		default:
			reply(a.Response, nil)
		}
	}
}

// answer answers one call, if it has no answer yet.
func (co *coordinator) answer(call uint64, resp kmsg.Response, err error) []func() {
	reply := co.calls[call]
	delete(co.calls, call)
	delete(co.from, call)
	if reply == nil {
		return nil
	}
	return []func(){func() { reply(resp, err) }}
}

func (co *coordinator) forgetAnswers(answers []group.Answer, err error, after *[]func()) {
	for _, a := range answers {
		*after = append(*after, co.answer(a.ID, nil, err)...)
	}
}

// append appends records as one batch and applies them. It returns the flush that commits them,
// nil if there are none.
func (co *coordinator) append(records []group.Record, now time.Time) (round *flushRound, err error) {
	if len(records) == 0 {
		return nil, nil
	}
	recs := make([]Record, len(records))
	for i, r := range records {
		recs[i] = Record{Key: r.Key, Value: r.Value, Timestamp: now}
	}
	e := encoders.Get().(*encoder)
	defer e.release()
	b, err := e.encode(recs, co.part.topic.config(), now.UnixMilli())
	if err != nil {
		return nil, err
	}
	var base Offset
	err = co.log.space.insist(func() error {
		base, round, err = co.part.appendAhead(context.Background(), b, now.UnixMilli(), func() {})
		return err
	})
	if err != nil {
		return nil, co.part.error("append", err)
	}
	for i, r := range records {
		if err := co.state.Apply(r, int64(base)+int64(i)); err != nil {
			panic(fmt.Sprintf("group coordinator cannot apply what it wrote: %v", err))
		}
	}
	return round, nil
}

// settle gives answers once a round has ended, and those before them. A nil round is the last
// one that there was.
func (co *coordinator) settle(round *flushRound, answers []func(error), after *[]func()) {
	co.mu.Lock()
	defer co.mu.Unlock()
	if round == nil && !co.settling {
		for _, give := range answers {
			*after = append(*after, func() { give(nil) })
		}
		return
	}
	if round == nil && len(answers) == 0 {
		return
	}
	co.unsettled = append(co.unsettled, settlement{round, answers})
	if co.settling {
		return
	}
	if co.settling = co.log.start(co.settleAll); !co.settling {
		list := co.unsettled
		co.unsettled = nil
		*after = append(*after, func() { settled(list, co.log.closedError()) })
	}
}

func settled(list []settlement, err error) {
	for _, s := range list {
		for _, give := range s.answers {
			give(err)
		}
	}
}

// settleAll runs on a goroutine of the log's while there are answers to be given.
func (co *coordinator) settleAll() {
	for {
		co.mu.Lock()
		if len(co.unsettled) == 0 {
			co.settling = false
			co.mu.Unlock()
			return
		}
		first := co.unsettled[0]
		co.unsettled = co.unsettled[1:]
		co.mu.Unlock()
		if first.round == nil {
			settled([]settlement{first}, nil)
			continue
		}
		err := co.log.await(context.Background(), first.round)
		if err != nil {
			err = co.part.error("commit", inDoubt(err))
			co.turn <- struct{}{}
			var after []func()
			co.drop(err, &after)
			<-co.turn
			for _, f := range after {
				f()
			}
		}
		settled([]settlement{first}, err)
	}
}

// drop gives up the state: it will be loaded once more. Who waits gets the error, and the
// members of this process are woken, to join again. The caller has the turn.
func (co *coordinator) drop(err error, after *[]func()) {
	if co.state == nil {
		return
	}
	co.log.opts.Logger.Warn("group coordinator is dropped", "partition", co.part.index, "err", err)
	co.state = nil
	for id := range co.calls {
		*after = append(*after, co.answer(id, nil, err)...)
	}
	co.mu.Lock()
	list := co.unsettled
	co.unsettled = nil
	co.mu.Unlock()
	*after = append(*after, func() { settled(list, err) })
	for id, m := range co.local {
		delete(co.local, id)
		*after = append(*after, m.wake)
	}
}

// load replays the partition, if there is no state. The caller has the turn.
func (co *coordinator) load(after *[]func()) error {
	if co.state != nil {
		return nil
	}
	return co.guarded(func() error {
		state := group.New(co.log.groupConfig())
		for v, err := range co.part.Views(context.Background(), Earliest, nil) {
			if err != nil {
				return err
			}
			r := group.Record{Key: v.Key(), Value: v.Value()}
			if err := state.Apply(r, int64(v.Offset())); err != nil {
				co.log.opts.Logger.Error("record of a group is passed over",
					"partition", co.part.index, "offset", v.Offset(), "err", err)
			}
		}
		co.state = state
		err := co.decide(func(state *group.Coordinator, now time.Time) group.Result { return state.Loaded(now) }, 0, after)
		if err != nil {
			co.state = nil
		}
		return err
	})
}

// arm has tick called when the next timer of the state is due. The caller has the turn.
func (co *coordinator) arm(now time.Time) {
	if co.state == nil {
		return
	}
	next, ok := co.state.Next()
	switch {
	case !ok:
		if co.timer != nil {
			co.timer.Stop()
		}
	case co.timer == nil:
		co.timer = co.log.after(max(0, next.Sub(now)), co.tick)
	default:
		co.timer.Reset(max(0, next.Sub(now)))
	}
}

func (co *coordinator) tick() {
	co.turn <- struct{}{}
	if co.state == nil {
		<-co.turn
		return
	}
	co.step(func(state *group.Coordinator, now time.Time) group.Result { return state.Tick(now) }, 0)
}

// run makes a step that nobody has asked for, and returns when it is committed.
func (co *coordinator) run(decide func(*group.Coordinator, time.Time) group.Result) error {
	done := make(chan error, 1)
	co.turn <- struct{}{}
	var after []func()
	err := co.load(&after)
	if err == nil {
		err = co.guarded(func() error {
			now := time.Now()
			res := decide(co.state, now)
			round, err := co.append(res.Records, now)
			if err == nil {
				co.settle(round, []func(error){func(err error) { done <- err }}, &after)
				co.arm(now)
			}
			return err
		})
	}
	<-co.turn
	for _, f := range after {
		f()
	}
	if err != nil {
		return err
	}
	select {
	case err = <-done:
		return err
	case <-co.log.broken:
		return co.log.closedError()
	}
}

// detachMember begins the session of a static member that is not looked after any more.
func (l *Log) detachMember(name, id string) {
	co, err := l.coordinatorOf(name, false)
	if err != nil {
		return
	}
	co.turn <- struct{}{}
	co.step(func(state *group.Coordinator, now time.Time) group.Result { return state.Detach(name, id, now) }, 0)
}

// forgetMember drops what the coordinator knows of a member of this process.
func (l *Log) forgetMember(m *membership) {
	l.groups.mu.Lock()
	all := l.groups.list
	l.groups.mu.Unlock()
	if all == nil {
		return
	}
	co := all[groupPartition(m.c.opts.Group, len(all))]
	co.turn <- struct{}{}
	for id, o := range co.local {
		if o == m {
			delete(co.local, id)
		}
	}
	<-co.turn
}

// forgetOffsets takes a topic's offsets from all groups, durably.
func (l *Log) forgetOffsets(topic string) error {
	all, err := l.coordinators(false)
	if errors.Is(err, errNoGroups) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, co := range all {
		if co.part.bounds().End == 0 {
			continue
		}
		if err := co.run(func(state *group.Coordinator, _ time.Time) group.Result { return state.DeleteTopic(topic) }); err != nil {
			return err
		}
	}
	return nil
}

// expireOffsets takes what has expired from all groups, and again later.
func (l *Log) expireOffsets() {
	all, err := l.coordinators(false)
	if err != nil {
		return
	}
	for _, co := range all {
		if co.part.bounds().End == 0 || l.isClosing() {
			continue
		}
		if err := co.run((*group.Coordinator).Expire); err != nil && !l.isClosing() {
			l.opts.Logger.Warn("offsets do not expire", "partition", co.part.index, "err", err)
		}
	}
	l.groups.mu.Lock()
	defer l.groups.mu.Unlock()
	l.groups.expiry.Reset(expireInterval)
}

// refuseGone takes from a commit what is of topics that are not there: it would outlive them.
// The coordinator, whose turn it is, is told by a negative partition. A topic is gone before
// its offsets are forgotten.
func (l *Log) refuseGone(req *kmsg.OffsetCommitRequest) {
	for i := range req.Topics {
		t := &req.Topics[i]
		n := l.countPartitions(t.Topic)
		for j := range t.Partitions {
			if int(t.Partitions[j].Partition) >= n {
				t.Partitions[j].Partition = -1
			}
		}
	}
}

// isLoaded says whether there is a state, as far as nobody is just loading it.
func (co *coordinator) isLoaded() bool {
	co.turn <- struct{}{}
	defer func() { <-co.turn }()
	return co.state != nil
}

// stopGroups stops the timers of groups.
func (l *Log) stopGroups() {
	l.groups.mu.Lock()
	defer l.groups.mu.Unlock()
	if l.groups.expiry != nil {
		l.groups.expiry.Stop()
	}
	for _, co := range l.groups.list {
		co.turn <- struct{}{}
		if co.timer != nil {
			co.timer.Stop()
		}
		<-co.turn
	}
}
