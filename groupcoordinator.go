package riffle

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rifflelog/riffle/internal/batch"
	"github.com/rifflelog/riffle/internal/group"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// localHost is the host of members in this process. Those of other processes have an
	// address.
	localHost = "in-process"
	// maxGroupBatch bounds what is appended at once; more is appended in several batches.
	maxGroupBatch = maxOffsetsBatch / 2
	// reloadPause is how long a state that could not be loaded is not loaded again for
	// members, who ask again and again. What users ask for is tried at once.
	reloadPause = 200 * time.Millisecond
)

// groupCaller is who sends a request: a member of this process, or somebody else.
type groupCaller struct {
	member   *membership // nil: not of this process
	clientID string
	host     string
	node     nodeAddress // where it reached us
	whole    bool        // it commits all or nothing
}

// nodeAddress is where a node is reached.
type nodeAddress struct {
	id   int32
	host string
	port int32
}

// groupReply gets the answer to a request, once, on any goroutine, with no lock held. An
// error says that the coordinator could not do its work.
type groupReply func(kmsg.Response, error)

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
	// loadErr is why the state could not be loaded, loadNext when members may have it tried
	// again.
	loadErr  error
	loadNext time.Time

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

func (l *Log) newCoordinator(p *Partition) *coordinator {
	return &coordinator{
		log: l, part: p, turn: make(chan struct{}, 1),
		calls: make(map[uint64]groupReply), from: make(map[uint64]*membership), local: make(map[string]*membership),
	}
}

// handle has the state decide a request.
func (co *coordinator) handle(from groupCaller, req kmsg.Request, reply groupReply) {
	co.turn <- struct{}{}
	id := co.newCall(reply)
	switch r := req.(type) {
	case *kmsg.JoinGroupRequest:
		if from.member != nil {
			co.from[id] = from.member
		}
	case *kmsg.LeaveGroupRequest:
		for _, m := range r.Members {
			if co.local[m.MemberID] == from.member { // else it has to hear of it
				delete(co.local, m.MemberID)
			}
		}
	}
	if err := co.refusal(req); err != nil {
		after := co.answer(id, nil, err)
		<-co.turn
		callAll(after)
		return
	}
	co.step(func(state *group.Coordinator, now time.Time) group.Result {
		return state.Handle(group.Call{
			ID: id, Local: from.member != nil, Whole: from.whole, ClientID: from.clientID, Host: from.host, Request: req,
		}, now)
	}, id, reads(req))
}

// refusal is why a request is not even decided: nobody would answer one that waits, once the log
// is closing.
func (co *coordinator) refusal(req kmsg.Request) error {
	switch {
	case co.log.isClosing():
		return co.log.closedError()
	case co.loadErr != nil && comesAgain(req) && time.Now().Before(co.loadNext):
		return co.loadErr
	}
	return nil
}

// reads says whether a request changes nothing.
func reads(req kmsg.Request) bool {
	switch req.(type) {
	case *kmsg.OffsetFetchRequest, *kmsg.DescribeGroupsRequest, *kmsg.ListGroupsRequest:
		return true
	}
	return false
}

// newCall takes note of who is to be answered. The caller has the turn.
func (co *coordinator) newCall(reply groupReply) (id uint64) {
	co.last++
	co.calls[co.last] = reply
	return co.last
}

// comesAgain says whether a request is one that members repeat until it succeeds.
func comesAgain(req kmsg.Request) bool {
	switch req.(type) {
	case *kmsg.JoinGroupRequest, *kmsg.SyncGroupRequest, *kmsg.HeartbeatRequest:
		return true
	}
	return false
}

func callAll(list []func()) {
	for _, f := range list {
		f()
	}
}

// run makes a step that nobody has asked for, and returns when it is committed.
func (co *coordinator) run(decide func(*group.Coordinator, time.Time) group.Result) error {
	co.turn <- struct{}{}
	if co.state == nil && co.part.bounds().End == 0 {
		<-co.turn
		return nil // it has never been used
	}
	done := make(chan error, 1)
	id := co.newCall(func(_ kmsg.Response, err error) { done <- err })
	co.step(func(state *group.Coordinator, now time.Time) group.Result {
		res := decide(state, now)
		res.Answers = append(res.Answers, group.Answer{ID: id})
		return res
	}, id, false)
	select {
	case err := <-done:
		return err
	case <-co.log.broken:
		return co.log.closedError()
	}
}

// step makes one step of the state, whose turn the caller has, and gives the turn back. What
// is asked for by call, if it is not 0, is answered in any case. Who only reads gets what there
// is also while nothing can be written.
func (co *coordinator) step(decide func(*group.Coordinator, time.Time) group.Result, call uint64, reads bool) {
	var after []func()
	defer func() {
		<-co.turn
		callAll(after)
	}()
	err := co.load(&after)
	if err != nil && reads {
		err = co.look()
		defer func() { co.state = nil }()
	}
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
		co.settle(round, nil, after) // who asks next sees what was appended
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

// append appends records and applies them. It returns the flush that commits them, nil if there
// are none. With an error some may have been appended, if there is a flush: each stands alone, and
// those are applied.
func (co *coordinator) append(records []group.Record, now time.Time) (round *flushRound, err error) {
	if len(records) > 0 {
		err = co.log.errReadOnly()
	}
	for len(records) > 0 && err == nil {
		n, size := 0, 0
		for n < len(records) && (n == 0 || size+recordBytes(records[n]) <= maxGroupBatch) {
			size += recordBytes(records[n])
			n++
		}
		var next *flushRound
		if next, err = co.appendBatch(records[:n], now); err == nil {
			round = next
		} else if round != nil {
			err = inDoubt(err)
		}
		records = records[n:]
	}
	return round, err
}

// recordBytes is about what a record takes in a batch.
func recordBytes(r group.Record) int { return len(r.Key) + len(r.Value) + 32 }

func (co *coordinator) appendBatch(records []group.Record, now time.Time) (round *flushRound, err error) {
	recs := make([]Record, len(records))
	for i, r := range records {
		recs[i] = Record{Key: r.Key, Value: r.Value, Timestamp: now}
	}
	e := encoders.Get().(*encoder)
	defer e.release()
	var base Offset
	err = co.log.space.insist(func() error {
		b, err := e.encode(recs, co.part.topic.config(), now.UnixMilli()) // an append that fails may have given it an epoch
		if err == nil {
			_, round, err = co.part.appendAhead(context.Background(), []batch.Batch{b}, now.UnixMilli(), func() {})
			base = Offset(b.BaseOffset())
		}
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
		*after = append(*after, func() { settled(list, inDoubt(co.log.closedError())) })
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
		list := []settlement{first}
		if err != nil {
			err = co.part.error("commit", inDoubt(err))
			co.turn <- struct{}{}
			var after []func()
			co.drop(err, &after)
			co.mu.Lock()
			list = append(list, co.unsettled...) // it is offline: they fail like it, or rest on what has failed
			co.unsettled = nil
			co.mu.Unlock()
			<-co.turn
			callAll(after)
		}
		settled(list, err)
	}
}

// drop gives up the state: it will be loaded once more. Who waits for others gets the error, and
// the members of this process are woken, to join again; what is in the log already is answered
// when its flush has ended. The caller has the turn.
func (co *coordinator) drop(err error, after *[]func()) {
	if co.state == nil {
		return
	}
	co.log.opts.Logger.Warn("group coordinator is dropped", "partition", co.part.index, "err", err)
	co.state = nil
	for id := range co.calls {
		*after = append(*after, co.answer(id, nil, err)...)
	}
	for id, m := range co.local {
		delete(co.local, id)
		*after = append(*after, m.wake)
	}
}

// load replays the partition, if there is no state. The caller has the turn.
func (co *coordinator) load(after *[]func()) (err error) {
	if co.log.view != nil {
		return co.look()
	}
	if co.state != nil {
		return nil
	}
	defer func() {
		if co.loadErr = err; err != nil {
			co.loadNext = time.Now().Add(reloadPause)
		}
	}()
	return co.guarded(func() error {
		state, err := co.replay()
		if err != nil {
			return err
		}
		now := time.Now()
		co.state = state
		round, err := co.append(state.Loaded(now).Records, now)
		if err != nil {
			co.state = nil
			return err
		}
		co.settle(round, nil, after)
		co.arm(now)
		return nil
	})
}

// look is load for the moment, without writing that the members of this process have ended with
// an earlier one.
func (co *coordinator) look() error {
	return co.guarded(func() error {
		state, err := co.replay()
		if err == nil {
			state.Loaded(time.Now())
			co.state = state
		}
		return err
	})
}

// replay reads all that is committed. What an earlier state has appended is flushed first: else
// it would be committed without this one knowing.
func (co *coordinator) replay() (*group.Coordinator, error) {
	if co.log.view == nil {
		err := co.part.flushTo(context.Background(), co.part.bounds().End)
		if err != nil && !errors.Is(err, ErrPartitionFailed) { // nothing more is committed there
			return nil, co.part.error("load", err)
		}
	}
	state := group.New(co.log.groupConfig())
	for v, err := range co.part.Views(context.Background(), Earliest, nil) {
		if err != nil {
			return nil, err
		}
		r := group.Record{Key: v.Key(), Value: v.Value()}
		if err := state.Apply(r, int64(v.Offset())); err != nil {
			co.log.opts.Logger.Error("record of a group is passed over",
				"partition", co.part.index, "offset", v.Offset(), "err", err)
		}
	}
	return state, nil
}

// arm has tick called when the next timer of the state is due. The caller has the turn.
func (co *coordinator) arm(now time.Time) {
	if co.state == nil || co.part == nil || co.log.view != nil || co.log.isClosing() {
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
	co.step(func(state *group.Coordinator, now time.Time) group.Result { return state.Tick(now) }, 0, false)
}

// isUnused says whether nothing was ever written, nor asked for.
func (co *coordinator) isUnused() bool {
	co.turn <- struct{}{}
	defer func() { <-co.turn }()
	return co.state == nil && co.part.bounds().End == 0
}
