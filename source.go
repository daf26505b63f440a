package riffle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
)

// source is a partition that a consumer reads. Kafka: TopicPartitionState.
type source struct {
	c  *Consumer
	tp TopicPartition

	// queued says that it is in ready, or it is its turn: who commits something need not say
	// so again.
	queued atomic.Bool

	// Guarded by the consumer's mu.

	p       *Partition // nil while there is none
	state   sourceState
	seek    seekTo // where to begin, while that is to be found
	paused  bool
	untold  bool // Assigned is to be called first
	version int  // counts what makes void what is being read
	// next is the next record to hand out, epoch that of the one before; noEpoch if none was.
	next  Offset
	epoch int32
	// passed is the same as of the last poll: what automatic commits cover. committed is what
	// was committed last, as far as it is known here; NoOffset if it is not.
	passed      Offset
	passedEpoch int32
	committed   Offset
	handing     bool    // it is in handed
	undone      *undone // with MarkDone
	offline     bool    // that no more can come has been told
	err         error   // to be told; see tell

	// What only who polls has.

	r    *reader // nil while nothing is buffered
	of   int     // version that r is of
	in   bool    // r is in a batch
	cur  cursor  // where to go on without r; of another version it is void
	took int     // bytes in this turn
}

type sourceState int

const (
	sourceSeeking sourceState = iota // its position is to be found
	sourceReading
	sourceFailed // its error has been told: it waits for a Seek
)

func newSource(c *Consumer, tp TopicPartition) *source {
	s := &source{c: c, tp: tp, passed: NoOffset, committed: NoOffset}
	if c.opts.MarkDone {
		s.undone = new(undone)
	}
	s.startAt(seekTo{kind: seekInitial})
	return s
}

// tie ties the source to its partition, if that exists, and takes it off one that is deleted:
// another one of that name is another partition. Called under the consumer's mu.
func (s *source) tie() {
	if s.p != nil && s.p.gone.Load() {
		s.unbind()
		s.startAt(seekTo{kind: seekInitial})
	}
	if s.p != nil {
		return
	}
	p := s.c.log.knownPartition(s.tp)
	if p == nil || p.gone.Load() {
		return
	}
	s.p = p
	p.follow(s)
	s.c.attention.Store(true) // its position is to be found
}

func (s *source) unbind() {
	if s.p != nil {
		s.p.unfollow(s)
		s.p = nil
	}
	s.version++
}

// drop takes a source from the consumer. Called under mu.
func (c *Consumer) drop(s *source) {
	s.unbind()
	delete(c.sources, s.tp)
	c.handed = slices.DeleteFunc(c.handed, func(o *source) bool { return o == s })
}

// startAt has the source begin anew. Called under the consumer's mu.
func (s *source) startAt(to seekTo) {
	s.seek, s.state = to, sourceSeeking
	s.version++
	s.offline, s.err = false, nil
	s.passed, s.handing = NoOffset, false
	s.c.handed = slices.DeleteFunc(s.c.handed, func(o *source) bool { return o == s })
	s.undone.reset()
}

// tell has a poll return an error of the source, once. Called under the consumer's mu.
func (s *source) tell(err error) {
	s.err = err
	s.c.failing = append(s.c.failing, s)
	s.c.lookUp()
}

// found gives a source that was seeking its position. Called under the consumer's mu.
func (s *source) found(next Offset, epoch int32) {
	s.next, s.epoch, s.state = next, epoch, sourceReading
	s.passed, s.passedEpoch = next, epoch
	s.news()
}

// news implements follower: the source may have records, or its partition has come to an end.
func (s *source) news() {
	if s.queued.Load() || !s.queued.CompareAndSwap(false, true) {
		return
	}
	s.c.enqueue(s)
	s.c.rouse()
}

// sourceQueue is a queue that keeps its memory.
type sourceQueue struct {
	list  []*source
	first int // what is before it is nil
}

// enqueue puts a source behind those that are ready.
func (c *Consumer) enqueue(s *source) {
	c.readyMu.Lock()
	defer c.readyMu.Unlock()
	q := &c.ready
	if q.first > len(q.list)/2 {
		n := copy(q.list, q.list[q.first:])
		clear(q.list[n:])
		q.list, q.first = q.list[:n], 0
	}
	q.list = append(q.list, s)
}

// nextReady takes the source that has waited longest; nil if there is none.
func (c *Consumer) nextReady() *source {
	c.readyMu.Lock()
	defer c.readyMu.Unlock()
	q := &c.ready
	if q.first == len(q.list) {
		return nil
	}
	s := q.list[q.first]
	q.list[q.first] = nil
	q.first++
	return s
}

// othersAreReady says whether a source waits for its turn.
func (c *Consumer) othersAreReady() bool {
	c.readyMu.Lock()
	defer c.readyMu.Unlock()
	return c.ready.first < len(c.ready.list)
}

// pass takes note that more records are asked for: those that were handed out are passed.
func (c *Consumer) pass() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.handed) == 0 {
		return
	}
	for _, s := range c.handed {
		s.passed, s.passedEpoch, s.handing = s.next, s.epoch, false
	}
	clear(c.handed)
	c.handed = c.handed[:0]
	c.commitLater()
}

// take appends records to recs, of which there are size bytes, up to most. It does not wait. A
// source has its turn until it has no more, or until MaxPartitionBytes and the end of a batch,
// if another is ready: so there is one at most that holds a batch in memory.
func (c *Consumer) take(ctx context.Context, most int, recs []Record, size int) ([]Record, int, error) {
	for len(recs) < most && size < c.opts.MaxBytes && !c.log.isClosing() {
		if c.turn == nil {
			if c.turn = c.nextReady(); c.turn == nil {
				break
			}
			c.turn.took = 0
		}
		s, had, took := c.turn, len(recs), c.turn.took
		var more bool
		recs, more = s.read(most, recs, c.opts.MaxBytes-size)
		size += s.took - took
		if err := c.deliver(ctx, recs[had:]); err != nil {
			return nil, 0, err
		}
		switch {
		case !more:
			c.endTurn()
		case s.took >= c.opts.MaxPartitionBytes && !s.in:
			if s.took = 0; c.othersAreReady() {
				c.endTurn()
				c.enqueue(s)
			}
		}
	}
	return recs, size, nil
}

// endTurn has the source whose turn it is give back the memory of what it reads.
func (c *Consumer) endTurn() {
	if c.turn != nil {
		c.turn.park()
		c.turn = nil
	}
}

// deliver calls the hooks. If one panics, that is the poll's error, and what the poll has taken
// comes again with the next one; also if one ends the goroutine.
func (c *Consumer) deliver(ctx context.Context, recs []Record) (err error) {
	if len(c.opts.Hooks) == 0 || len(recs) == 0 {
		return nil
	}
	delivered := false
	defer func() {
		if !delivered {
			c.takeBack()
		}
	}()
	err = calling("Deliver", func() error {
		for i := range recs {
			for _, h := range c.opts.Hooks {
				if h.Deliver != nil {
					h.Deliver(ctx, &recs[i])
				}
			}
		}
		return nil
	})
	delivered = err == nil
	return err
}

// takeBack has what was taken in this poll come again.
func (c *Consumer) takeBack() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.handed {
		s.next, s.epoch, s.handing = s.passed, s.passedEpoch, false
		s.undone.takeBack(s.passed)
		s.state, s.err, s.offline = sourceReading, nil, false // an error behind it comes again too
		s.version++
		s.news()
	}
	clear(c.handed)
	c.handed = c.handed[:0]
}

// recordSize is what counts of a record for MinBytes and the like.
func recordSize(r *Record) int {
	n := len(r.Key) + len(r.Value)
	for i := range r.Headers {
		n += len(r.Headers[i].Key) + len(r.Headers[i].Value)
	}
	return n
}

// read appends records of the source to recs, up to most of them and about as many bytes. It
// returns false if there are no more now.
func (s *source) read(most int, recs []Record, bytes int) ([]Record, bool) {
	c := s.c
	c.mu.Lock()
	p, version, next, ok := s.p, s.version, s.next, s.readable()
	most = min(most, len(recs)+s.undone.room()) // Done, beside it, only makes more
	c.mu.Unlock()
	if s.of != version {
		s.letGo()
	}
	if !ok {
		return recs, s.rest(p)
	}
	had := len(recs)
	out, drained, err := s.readFrom(p, next, version, most, recs, bytes)

	c.mu.Lock()
	if s.version != version || !s.readable() && len(out) > had {
		c.mu.Unlock()
		s.letGo()
		clear(out[had:])       // what comes in their place fills in what it has
		return out[:had], true // there was a Seek, or it is lost: look again
	}
	if s.r != nil && s.r.next > s.next {
		s.next = s.r.next
		if len(out) > had {
			s.epoch = out[len(out)-1].LeaderEpoch
			if s.undone != nil {
				s.undone.add(out[had:])
			}
			if !s.handing {
				s.handing = true
				c.handed = append(c.handed, s)
			}
		} else if !s.handing && s.passed != NoOffset {
			s.passed = s.next // nothing was shown on the way
		}
	}
	report := func() {}
	if err != nil {
		report = s.fail(err)
	}
	c.mu.Unlock()
	report()
	if err != nil || drained {
		s.park()
		return out, s.rest(p)
	}
	return out, true
}

// readable says whether records may be handed out. Called under the consumer's mu.
func (s *source) readable() bool {
	return s.p != nil && s.state == sourceReading && !s.paused && !s.untold && s.c.sources[s.tp] == s &&
		s.undone.room() > 0
}

// readFrom reads records of p from next on.
func (s *source) readFrom(p *Partition, next Offset, version, most int, recs []Record, bytes int) (_ []Record, drained bool, err error) {
	if !p.enter() {
		return recs, true, notFound(s.tp.Topic)
	}
	defer p.leave()
	if err := p.alive(context.Background()); err != nil {
		return recs, true, nil // the poll finds that too
	}
	if s.r == nil {
		s.r, s.of, s.in = readers.Get().(*reader), version, false
		if s.cur.of(p, next) {
			s.r.resume(p, s.cur)
		} else {
			s.r.start(p, next)
		}
	}
	if p.damaged != nil && p.segs.Load() == nil {
		return recs, true, fmt.Errorf("%w: %w", ErrReadOnly, p.damaged)
	}
	r, a := s.r, &s.c.arena
	for until := s.took + bytes; len(recs) < most && s.took < until; {
		if !s.in {
			if s.took >= s.c.opts.MaxPartitionBytes {
				break
			}
			found, err := r.load(context.Background())
			if err != nil || !found {
				return recs, true, p.closedOr(err)
			}
			s.in = !r.control
		}
		if !s.in || !r.records.Next() {
			if err := r.records.Err(); s.in && err != nil {
				return recs, true, r.damage(r.at, r.base, err)
			}
			r.next, s.in = r.expect, false
			continue
		}
		if Offset(r.records.Record.Offset) < r.next {
			continue
		}
		if recs == nil {
			recs = make([]Record, 0, min(int64(most), maxAhead, max(1, p.highWatermark.Load()-int64(r.next))))
		}
		n := len(recs)
		if n < cap(recs) {
			recs = recs[:n+1] // which is empty
		} else {
			recs = append(recs, Record{})
		}
		a.fill(&recs[n], r)
		r.next = Offset(r.records.Record.Offset) + 1
		s.took += max(recordSize(&recs[n]), 1)
	}
	return recs, false, nil
}

// maxAhead is for how many records Poll makes room before it knows that it will return so many:
// MaxBytes may end it long before MaxPollRecords.
const maxAhead = 4096

// letGo gives back what is buffered, and forgets the place.
func (s *source) letGo() {
	if s.r != nil {
		s.r.release()
		s.r = nil
	}
	s.cur, s.in = cursor{}, false
}

// park gives back what is buffered, and remembers the place, unless it is in a batch.
func (s *source) park() {
	switch {
	case s.r == nil:
	case s.in:
		s.letGo()
	default:
		s.cur = s.r.cursor()
		s.r.release()
		s.r = nil
	}
}

// rest takes the source out of the queue, unless there is something after all: then it returns
// true.
func (s *source) rest(p *Partition) bool {
	s.queued.Store(false)
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if !s.readable() {
		return false // who changes that says so
	}
	if s.p != p { // and found it in the queue
		return s.queued.CompareAndSwap(false, true)
	}
	if p.gone.Load() {
		c.topicsNews.Store(true)
		c.lookUp()
		return false
	}
	if Offset(p.highWatermark.Load()) > s.next || p.cuts.Load() != s.cur.cuts && s.cur.p == p {
		return s.queued.CompareAndSwap(false, true) // else who commits has queued it
	}
	if err := p.noMore(); err != nil && !s.offline && !p.gone.Load() {
		s.offline = true
		s.tell(p.error("read", err))
	}
	return false
}

// fail decides what an error of reading means. Called under the consumer's mu; report is called
// when that is released, since the logger is the caller's code.
func (s *source) fail(err error) (report func()) {
	c, p := s.c, s.p
	var out *OffsetError
	switch {
	case c.log.isClosing():
	case errors.Is(err, ErrTopicNotFound): // rest looks after that
	case errors.As(err, &out) && c.opts.OffsetReset != ResetError && p.noMore() == nil: // one that cannot be opened shows nothing
		s.startAt(seekTo{kind: seekReset})
		c.lookUp()
		return func() {
			c.log.opts.Logger.Warn("offset is out of range, and is reset", "client", c.opts.ClientID, "group", c.opts.Group,
				"topic", s.tp.Topic, "partition", s.tp.Partition, "offset", out.Offset, "start", out.Start, "end", out.End)
		}
	default:
		s.state = sourceFailed
		s.version++
		s.tell(p.error("read", err))
	}
	return func() {}
}

// awaitOthers has the partitions of a read-only log looked after until done is called. What is
// wrong with one of them is told as such.
func (c *Consumer) awaitOthers(ctx context.Context) (done func(), err error) {
	type place struct {
		s       *source
		p       *Partition
		version int
	}
	c.mu.Lock()
	places := make([]place, 0, len(c.sources))
	for _, s := range c.sources {
		if s.p != nil && s.state == sourceReading {
			places = append(places, place{s, s.p, s.version})
		}
	}
	c.mu.Unlock()
	var all []func()
	done = func() {
		for _, f := range all {
			f()
		}
	}
	for _, at := range places {
		f, err := at.p.await()
		if err != nil {
			done()
			return nil, err
		}
		all = append(all, f)
		hw := at.p.highWatermark.Load()
		err = at.p.catchUp(ctx)
		if err != nil && (ctx.Err() != nil || c.log.isClosing() || errors.Is(err, errUnsettled)) {
			done()
			return nil, err
		}
		if err != nil {
			report := func() {}
			c.mu.Lock()
			if at.s.version == at.version && at.s.state == sourceReading {
				report = at.s.fail(err)
			}
			c.mu.Unlock()
			report()
		}
		if at.p.highWatermark.Load() != hw {
			at.p.wake()
		}
	}
	return done, nil
}

// pollClock notices when a member of a group has not polled for MaxPollInterval. Polling
// costs it no look at the clock: a timer counts, four times in that interval, whether there
// was a poll. While a poll waits there is no timer.
type pollClock struct {
	polls  atomic.Int64 // begun and ended
	armed  atomic.Bool
	seen   int64
	quiet  int // how often there was none
	timer  atomic.Pointer[time.Timer]
	closed atomic.Bool
}

// enter takes note that a poll begins.
func (k *pollClock) enter(c *Consumer) {
	if c.member != nil {
		k.polls.Add(1) // odd: it is polling
	}
}

func (k *pollClock) leave(c *Consumer) {
	if c.member == nil {
		return
	}
	k.polls.Add(1)
	if k.armed.Load() || c.opts.MaxPollInterval == Forever || !k.armed.CompareAndSwap(false, true) {
		return
	}
	k.seen, k.quiet = -1, 0
	k.arm(c)
}

func (k *pollClock) arm(c *Consumer) {
	every := c.opts.MaxPollInterval / 4
	k.timer.Store(c.log.after(every, func() { k.tick(c) }))
	if k.closed.Load() {
		k.stop()
	}
}

func (k *pollClock) tick(c *Consumer) {
	now := k.polls.Load()
	switch {
	case now%2 == 1:
		k.armed.Store(false)
		if k.polls.Load() != now && k.armed.CompareAndSwap(false, true) {
			k.seen, k.quiet = -1, 0
			k.arm(c) // it has ended meanwhile, and found the timer armed
		}
		return
	case now == k.seen:
		k.quiet++
	default:
		k.seen, k.quiet = now, 0
	}
	if k.quiet < 4 {
		k.arm(c)
		return
	}
	k.armed.Store(false)
	c.member.overdue(now)
}

func (k *pollClock) stop() {
	k.closed.Store(true)
	if t := k.timer.Load(); t != nil {
		t.Stop()
	}
}
