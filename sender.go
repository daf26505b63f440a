package riffle

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/rifflelog/riffle/internal/batch"
	"github.com/rifflelog/riffle/internal/vfs"
)

// The goroutine that a producer has while it holds records. Kafka: Sender.
//
// A partition's next batch leaves when it is full, or when nothing of the partition is on its
// way and it has lingered for long enough: so batches are as large as what comes while the
// one before is written and flushed. Full ones do not wait for that: they join the flush
// that comes next.

const (
	// minBackoff is how long a batch waits that finds the disk full; twice as long each time,
	// up to maxBackoff. Kafka: retry.backoff.ms, retry.backoff.max.ms.
	minBackoff = 100 * time.Millisecond
	maxBackoff = time.Second
)

// poke has the goroutine look for what is to be done, if that is so, and starts it if there
// is none. Called with mu held.
func (p *Producer) poke(due bool) {
	switch {
	case !p.running:
		if len(p.active) > 0 {
			p.running = true
			if !p.log.start((&sender{p: p}).run) {
				p.running = false
				p.failAll(p.log.closedError())
			}
		}
	case p.asleep && due:
		p.asleep = false
		p.wake <- struct{}{} // it has room: who is asleep has taken the last one
	}
}

// pokeLocked is poke without mu.
func (p *Producer) pokeLocked() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.poke(true)
}

// lockTries is how often lockSoon looks whether mu is free before it sleeps until it is: for 10
// to 20 microseconds, a few times what the goroutine may have it for.
const lockTries = 20_000

// lockSoon is mu.Lock for the goroutine, and for who enqueues. That one has the lock most of
// the time, but some 50 ns at a time, the goroutine a little longer, once a batch. To be woken
// takes a thousand times as long, and a Lock that spins pauses for a microsecond at a time.
func (p *Producer) lockSoon() {
	for range lockTries {
		if p.mu.TryLock() {
			return
		}
	}
	p.mu.Lock()
}

// Full batches that wait leave together, at most so many, of so many bytes: the kernel
// takes a large write in two thirds of the time. Not compressed ones, of which each takes
// longer than that before it can be written.
const (
	maxTogether      = 16
	maxTogetherBytes = 1 << 20
)

// sendStep is what is to be done for a queue.
type sendStep struct {
	q       *sendQueue
	batches []*sendBatch // one, or several that are appended together
	err     error        // of a batch that has ended
	send    bool         // they are to be appended
}

// run is the goroutine. It ends when nothing is left, or when the caller's code ends it: then
// another one goes on.
func (s *sender) run() {
	p := s.p
	defer func() {
		if s.exited {
			s.exited = false
			p.log.goOn(s.run)
			return
		}
		s.stop()
	}()
	for {
		s.tellAll()
		if len(s.left) > 0 {
			step := s.left[0]
			s.left = s.left[1:]
			s.take(step)
			continue
		}
		now := time.Now()
		p.lockSoon()
		s.settle()
		s.steps, s.taken = s.steps[:0], s.taken[:0]
		next := p.look(s, now)
		if len(s.steps) == 0 {
			if len(p.active) == 0 {
				p.running = false
				if p.idle != nil {
					close(p.idle)
					p.idle = nil
				}
				p.mu.Unlock()
				return
			}
			p.asleep = true
		}
		p.mu.Unlock()
		if len(s.steps) == 0 {
			s.sleep(now, next)
		}
		s.left = s.steps
	}
}

// look gathers what is to be done, and returns when to look again at the latest: zero if
// there is no such time. Called with mu held.
func (p *Producer) look(s *sender, now time.Time) (next time.Time) {
	earliest := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	p.active = slices.DeleteFunc(p.active, func(q *sendQueue) bool {
		q.listed = !q.empty()
		return !q.listed
	})
	for _, q := range p.active {
		for len(q.flying) > 0 {
			b := q.flying[0]
			err, ended := p.outcome(b, now)
			if !ended {
				earliest(b.since.Add(p.opts.DeliveryTimeout))
				break
			}
			s.step(q, q.flying[:1], err, false)
			q.flying = slices.Delete(q.flying, 0, 1)
		}
		for len(q.full) > 0 && len(q.flying) == 0 { // in order
			err := p.overdue(q.full[0], now)
			if err == nil {
				break
			}
			s.step(q, q.full[:1], err, false)
			q.full = slices.Delete(q.full, 0, 1)
		}
		if q.open != nil {
			if err := p.overdue(q.open, now); err != nil && len(q.full) == 0 && len(q.flying) == 0 {
				s.step(q, []*sendBatch{q.open}, err, false)
				q.open = nil
			}
		}
		if at, due := p.due(q, now); due {
			n := q.together()
			s.step(q, q.full[:n], nil, true)
			q.full = slices.Delete(q.full, 0, n)
		} else if !at.IsZero() {
			earliest(at)
		}
		if b := q.next(); b != nil {
			earliest(b.since.Add(p.opts.DeliveryTimeout))
		}
	}
	return next
}

// together is how many of the full batches are appended at once, at least one.
func (q *sendQueue) together() int {
	n, bytes := 1, q.full[0].size()
	for n < min(len(q.full), maxTogether) && q.full[n-1].plain && q.full[n].plain {
		if bytes += q.full[n].size(); bytes > maxTogetherBytes {
			break
		}
		n++
	}
	return n
}

// outcome says how a batch of flying has ended, if it has.
func (p *Producer) outcome(b *sendBatch, now time.Time) (err error, ended bool) {
	if b.round == nil {
		return b.err, true
	}
	select {
	case <-b.round.done:
		return inDoubt(b.round.err), true
	default:
	}
	if p.log.hasFailed() { // the round may never end
		return inDoubt(p.log.closedError()), true
	}
	if now.Sub(b.since) >= p.opts.DeliveryTimeout {
		return inDoubt(fmt.Errorf("%w: DeliveryTimeout is %v", ErrTimeout, p.opts.DeliveryTimeout)), true
	}
	return nil, false
}

// overdue returns why a batch that is not appended is not to be appended any more.
func (p *Producer) overdue(b *sendBatch, now time.Time) error {
	switch {
	case p.dropping:
		return ErrClosed
	case p.log.hasFailed(): // its partitions may be locked for ever
		return p.log.closedError()
	case now.Sub(b.since) >= p.opts.DeliveryTimeout:
		return fmt.Errorf("%w: DeliveryTimeout is %v", ErrTimeout, p.opts.DeliveryTimeout)
	}
	return nil
}

// due says whether the next batch of q is to be appended now, and then it is the first of
// the full ones; or else when to look again. What is open may have been opened after now,
// which is from before the goroutine had the lock. Called with mu held.
func (p *Producer) due(q *sendQueue, now time.Time) (at time.Time, due bool) {
	switch {
	case q.open == nil && len(q.full) == 0:
		return time.Time{}, false
	case now.Before(q.retryAt):
		return q.retryAt, false
	case len(q.full) > 0:
		return time.Time{}, true
	case len(q.flying) > 0 && len(p.waiters) == 0:
		return time.Time{}, false // the end of the one before wakes us
	case p.opts.Linger > 0 && p.hurry == 0 && !p.closed && len(p.waiters) == 0 && now.Sub(q.open.since) < p.opts.Linger:
		return q.open.since.Add(p.opts.Linger), false
	}
	p.closeOpen(q)
	return time.Time{}, true
}

// endedBatch is a batch that nothing more is done for: who wants to hear of it is told, and
// then its memory is given back.
type endedBatch struct {
	q   *sendQueue
	b   *sendBatch
	err error
}

// sender is what the goroutine needs besides the producer.
type sender struct {
	p       *Producer
	steps   []sendStep
	left    []sendStep   // those of them that are still to be done
	taken   []*sendBatch // those of steps
	encoded []batch.Batch
	telling []endedBatch // who wants to hear of them has not; see tellAll
	at      told         // of the first of those
	exited  bool         // the caller's code is ending the goroutine
	ended   []endedBatch // who wants to hear of them has; see settle
	timer   *time.Timer
	ctx     context.Context // bounds one append
	cancel  context.CancelFunc
	made    time.Time // ctx
}

// step takes batches into the goroutine's hand. Called with the producer's lock held.
func (s *sender) step(q *sendQueue, batches []*sendBatch, err error, send bool) {
	q.hand = append(q.hand, batches...)
	n := len(s.taken)
	s.taken = append(s.taken, batches...)
	s.steps = append(s.steps, sendStep{q, s.taken[n:len(s.taken):len(s.taken)], err, send})
}

func (s *sender) stop() {
	if s.timer != nil {
		s.timer.Stop()
	}
	if s.cancel != nil {
		s.cancel()
	}
}

// sleep waits until there may be something to do.
func (s *sender) sleep(now, next time.Time) {
	var timeout <-chan time.Time
	if !next.IsZero() {
		if s.timer == nil {
			s.timer = time.NewTimer(next.Sub(now))
		} else {
			s.timer.Reset(next.Sub(now))
		}
		timeout = s.timer.C
	}
	p := s.p
	select {
	case <-p.wake:
		return
	case <-timeout:
	case <-p.log.broken: // all that is held ends now
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.asleep {
		<-p.wake // who woke us meanwhile has left it there
	}
	p.asleep = false
}

// take does a step. What ended in the one before gives its memory back first: an append may
// take its time.
func (s *sender) take(step sendStep) {
	s.settleNow()
	q, batches := step.q, step.batches
	if !step.send {
		s.end(q, batches[0], step.err)
		return
	}
	n, round, err := s.append(q, batches)
	if n > 1 && errors.Is(err, ErrDiskFull) && again(err) { // there may be room for one
		n, round, err = s.append(q, batches[:1])
	}
	if again(err) {
		n = 1 // the others behind it
	}
	s.putBack(q, batches[n:])
	if err == nil {
		q.retryAt, q.backoff = time.Time{}, 0
		s.appended(q, batches[:n], round)
		return
	}
	for _, b := range batches[:n] {
		s.failed(q, b, err)
	}
}

// appended has batches end, now or with the round that commits them.
func (s *sender) appended(q *sendQueue, batches []*sendBatch, round *flushRound) {
	p := s.p
	if round == nil || p.opts.Acks == AcksNone {
		for _, b := range batches {
			s.end(q, b, nil)
		}
		return
	}
	p.lockSoon()
	defer p.mu.Unlock()
	for _, b := range batches {
		q.handed(b)
		q.flying = append(q.flying, b)
	}
}

// putBack has batches be the next ones again.
func (s *sender) putBack(q *sendQueue, batches []*sendBatch) {
	if len(batches) == 0 {
		return
	}
	s.p.lockSoon()
	defer s.p.mu.Unlock()
	for _, b := range batches {
		q.handed(b)
	}
	q.full = slices.Insert(q.full, 0, batches...)
}

// failed decides what becomes of a batch that could not be appended.
func (s *sender) failed(q *sendQueue, b *sendBatch, err error) {
	p := s.p
	var parts []*sendBatch
	if b.count > 1 && errors.Is(err, ErrBatchTooLarge) {
		parts = p.split(q, b)
	}
	p.lockSoon()
	switch {
	case parts != nil:
		q.handed(b)
		parts[1].ended, b.ended = b.ended, nil // it ends last
		for _, part := range parts {
			p.used += part.charged
		}
		q.full = slices.Insert(q.full, 0, parts...)
		p.free(b)
		p.mu.Unlock()
		return
	case again(err) && !p.dropping:
		q.handed(b)
		q.backoff = min(max(2*q.backoff, minBackoff), maxBackoff)
		q.retryAt = time.Now().Add(q.backoff)
		q.full = slices.Insert(q.full, 0, b)
		p.mu.Unlock()
		return
	case len(q.flying) > 0: // those before it end first
		q.handed(b)
		b.err, b.round = err, nil
		q.flying = append(q.flying, b)
		p.mu.Unlock()
		return
	}
	p.mu.Unlock()
	s.end(q, b, err)
}

// again says whether a batch that could not be appended is tried again: nothing of it is
// written, and what is in the way may go.
func again(err error) bool {
	if errors.Is(err, ErrInDoubt) {
		return false
	}
	return errors.Is(err, ErrDiskFull) || errors.Is(err, vfs.ErrNoFiles) || errors.Is(err, context.DeadlineExceeded)
}

// split parts the records of b, which its topic does not take, into two batches, which
// take its place; nil if that is not possible. Those that are still too large are split
// again, until a record that is too large is alone. Kafka: ProducerBatch.split, which
// parts it into batches of batch.size at once.
func (p *Producer) split(q *sendQueue, b *sendBatch) []*sendBatch {
	var r batch.Reader
	if b.encoded == nil || r.Reset(b.encoded, batch.MaxInflated) != nil {
		return nil
	}
	codec, level := p.codecFor(q.p.topic.config())
	parts := make([]*sendBatch, 0, 2)
	for first, end := 0, b.count/2; first < b.count; first, end = end, b.count {
		part := sendBatches.Get().(*sendBatch)
		part.builder.Begin(part.buf, codec, level)
		part.count, part.now, part.since = end-first, b.now, b.since
		for range part.count {
			if !r.Next() || part.builder.AddRecord(&r.Record) != nil {
				return nil // what was made is garbage: nobody knows of it
			}
		}
		part.dones, part.times = b.dones.part(first, end), b.times.part(first, end)
		for i := range part.count {
			if part.dones.get(i, nil) == nil {
				part.silent++
			}
		}
		part.charged = int64(part.builder.Len()) + part.lists()
		parts = append(parts, part)
	}
	return parts
}

// send appends r alone, on the caller's goroutine, and returns its offset and time.
func (p *Partition) send(ctx context.Context, by *Producer, r Record) (at Offset, ts int64, err error) {
	at = NoOffset // also if it panics
	defer p.topic.log.guardAppend(&err)
	e := encoders.Get().(*encoder)
	defer e.release()
	now := e.now()
	cfg := p.topic.config()
	codec, level := by.codecFor(cfg)
	b, err := e.encodeAs([]Record{r}, cfg, codec, level, now)
	if err != nil {
		return NoOffset, now, err
	}
	ts = b.MaxTimestamp()
	at, err = p.append(ctx, b, now)
	if err != nil {
		at = NoOffset
	}
	return at, ts, err
}

// append completes batches and appends them. It returns how many it has, and the round that
// will commit them, nil if they are committed; with an error, how many that is about: none of
// them is appended.
func (s *sender) append(q *sendQueue, batches []*sendBatch) (n int, round *flushRound, err error) {
	p := s.p
	n = 1
	defer p.log.guardAppend(&err)
	now := time.Now()
	s.encoded = s.encoded[:0]
	for i, b := range batches {
		if err := b.complete(q.p.topic.config(), now.UnixMilli()); err != nil && i == 0 {
			return 1, nil, err
		} else if err != nil {
			break // when it is its turn, it says so again
		}
		s.encoded = append(s.encoded, b.encoded)
	}
	n = len(s.encoded) // after a panic
	n, round, err = q.p.appendAhead(s.bounded(now), s.encoded, now.UnixMilli(), p.rouse)
	if err == nil {
		for i, b := range batches[:n] {
			b.round, b.end = round, Offset(s.encoded[i].NextOffset())
		}
	}
	return n, round, err
}

// complete encodes b, if it is not, as a topic can take it.
func (b *sendBatch) complete(cfg *TopicConfig, now int64) error {
	if b.encoded == nil && b.err == nil {
		var buf []byte
		if buf, b.err = b.builder.Finish(batch.NoProducer); b.err == nil {
			b.encoded = buf
		}
		b.buf = buf[:0]
	}
	if b.err != nil {
		return encodeError(b.err, b.count == 1)
	}
	if most := min(int64(cfg.MaxMessageBytes), cfg.SegmentBytes); int64(len(b.encoded)) > most {
		return encodeError(fmt.Errorf("%w: %d bytes, the topic takes %d", batch.ErrTooLarge, len(b.encoded), most), b.count == 1)
	}
	b.encoded.SetLeaderEpoch(batch.NoLeaderEpoch) // which an attempt that failed has set
	if cfg.TimestampType == LogAppendTime {
		b.encoded.SetLogAppendTime(now)
	}
	return nil
}

// bounded returns a context that ends before long: an append that hangs does not hold up
// what is overdue for ever.
func (s *sender) bounded(now time.Time) context.Context {
	if s.ctx == nil || s.ctx.Err() != nil || now.Sub(s.made) > s.p.opts.DeliveryTimeout/2 {
		s.stop()
		s.ctx, s.cancel = context.WithTimeout(context.Background(), s.p.opts.DeliveryTimeout)
		s.made = now
	}
	return s.ctx
}

// end has all hear of a batch who want to, how it has ended; see tellAll.
func (s *sender) end(q *sendQueue, b *sendBatch, err error) {
	if err != nil {
		err = q.p.error("send", err)
		s.p.log.opts.Logger.Warn("records are not sent",
			"client", s.p.opts.ClientID, "topic", q.p.topic.name, "partition", q.p.index, "records", b.count, "err", err)
	}
	s.telling = append(s.telling, endedBatch{q, b, err})
}

// tellAll tells all who want to hear of batches that have ended; settle gives the memory of
// those back. That of those before it comes first: a done of this one may wait for it. It can
// be called again to go on, where the caller's code has ended the goroutine.
func (s *sender) tellAll() {
	for len(s.telling) > 0 {
		e := s.telling[0]
		if len(e.b.dones) > 0 || s.p.acked {
			s.settleNow()
			s.tell(e)
		}
		s.at = told{}
		s.telling = slices.Delete(s.telling, 0, 1)
		s.ended = append(s.ended, e)
	}
}

// settleNow is settle, if there is something to settle.
func (s *sender) settleNow() {
	if len(s.ended) > 0 {
		s.p.lockSoon()
		defer s.p.mu.Unlock()
		s.settle()
	}
}

// settle gives the memory of batches back that have ended. Called with the producer's lock
// held, when the goroutine needs that anyway, or before the next step.
func (s *sender) settle() {
	p := s.p
	for _, e := range s.ended {
		if e.err != nil && e.b.silent > 0 && p.silent == nil {
			p.silent = e.err
		}
		e.q.handed(e.b)
		p.free(e.b)
	}
	clear(s.ended)
	s.ended = s.ended[:0]
}

// tell calls hooks and dones, and forgets them.
func (s *sender) tell(e endedBatch) {
	end := len(e.b.dones)
	if s.p.acked {
		end = e.b.count
	}
	for s.at.record < end {
		s.tellFrom(e, end)
		s.exited = false // a panic has ended it, if anything
	}
	clear(e.b.dones)
	e.b.dones = e.b.dones[:0]
}

// told is the next of the caller's functions to call: the record's done comes after the
// hooks.
type told struct{ record, hook int }

// tellFrom calls what comes from s.at on, until one panics, or ends the goroutine, as a test's
// FailNow does: that keeps no other from being called, since somebody may wait for it.
func (s *sender) tellFrom(e endedBatch, end int) {
	p, b, part := s.p, e.b, e.q.p
	m := RecordMetadata{Topic: part.topic.name, Partition: part.index, Offset: NoOffset}
	returned := false
	defer func() {
		s.exited = !returned // or it has panicked: then tell goes on, unless it has done both
		if r := recover(); r != nil {
			p.panicked(m, r)
		} else if !returned {
			p.log.opts.Logger.Error("a callback of a producer has ended its goroutine",
				"client", p.opts.ClientID, "topic", m.Topic)
		}
	}()
	appended := e.err == nil && p.opts.Acks != AcksNone
	now, times := b.now, b.times
	if b.encoded != nil && b.encoded.TimestampType() == batch.LogAppendTime {
		now, times = b.encoded.MaxTimestamp(), nil
	}
	last := now
	m.Timestamp = time.UnixMilli(now).UTC()
	for s.at.record < end {
		n := s.at.record
		if appended {
			m.Offset = b.end - Offset(b.count) + Offset(n)
		}
		if ts := times.get(n, now); ts != last {
			last = ts
			m.Timestamp = time.UnixMilli(ts).UTC()
		}
		for p.acked && s.at.hook < len(p.opts.Hooks) {
			h := p.opts.Hooks[s.at.hook].Acked
			if s.at.hook++; h != nil {
				h(m, e.err)
			}
		}
		s.at = told{record: n + 1}
		if done := b.dones.get(n, nil); done != nil {
			done(m, e.err)
		}
	}
	returned = true
}

// callAcked calls the hooks for one record.
func (p *Producer) callAcked(m RecordMetadata, err error) {
	if !p.acked {
		return
	}
	for _, h := range slices.Backward(p.opts.Hooks) {
		defer p.call(h.Acked, m, err) // in order, also where the one before ends the goroutine
	}
}

// call calls the caller's code for one record. Its panic keeps no other code from being
// called: somebody may wait for that.
func (p *Producer) call(f func(RecordMetadata, error), m RecordMetadata, err error) {
	defer func() {
		if r := recover(); r != nil {
			p.panicked(m, r)
		}
	}()
	if f != nil {
		f(m, err)
	}
}

// panicked says what the caller's code has done.
func (p *Producer) panicked(m RecordMetadata, r any) {
	p.log.opts.Logger.Error("a callback of a producer has panicked",
		"client", p.opts.ClientID, "topic", m.Topic, "panic", r, "stack", string(debug.Stack()))
}

// failAll ends all that p holds: there is no goroutine any more that could. Called with mu
// held, by who could not start it, which it releases and takes again.
func (p *Producer) failAll(err error) {
	s := &sender{p: p}
	for _, q := range p.active {
		if q.open != nil {
			p.closeOpen(q)
		}
		for i := range q.full {
			s.step(q, q.full[i:i+1], err, false)
		}
		q.full, q.listed = nil, false
	}
	p.active = nil
	p.mu.Unlock()
	for _, step := range s.steps {
		s.take(step)
	}
	for len(s.telling) > 0 { // the caller's code may end a goroutine
		apart(s.tellAll)
	}
	p.mu.Lock()
	s.settle()
}
