package riffle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Producer sends records to the topics of a log: it chooses partitions, gathers records
// into batches, and appends them in the order in which they were sent to a partition. It
// is safe for concurrent use. It has one goroutine while it holds records, and none
// otherwise.
type Producer struct {
	log   *Log
	opts  ProducerOptions
	acked bool   // there is a hook that wants to hear of each record
	rouse func() // poke, for a flush that has ended

	closing chan struct{} // closed when Shutdown has begun
	wake    chan struct{} // to the goroutine; holds one

	// mu guards what follows. The partition's lock is not taken under it.
	mu       sync.Mutex
	topics   map[string]*sendTopic
	forgetAt int        // see forgetTopics
	last     *sendTopic // that a record was sent to
	active   []*sendQueue
	used     int64 // of BufferBytes
	waiters  []*roomWaiter
	full     bool          // and little has become free since; see grant
	granted  bool          // the first of them is asking
	running  bool          // there is a goroutine
	asleep   bool          // it waits for wake
	idle     chan struct{} // closed when it has ended; nil if nobody waits for that
	hurry    int           // nobody lingers: so many wait for what is buffered
	closed   bool          // nothing more is taken
	dropping bool          // what is unsent fails
	failed   error         // the first one of closing
	spare    []*sendWaiter
	silent   error // the first error of a record without a done since the last Flush
}

// NewProducer returns a producer. A nil opts means the defaults. Errors:
// ErrInvalidOptions, ErrClosed, ErrReadOnly.
func (l *Log) NewProducer(opts *ProducerOptions) (*Producer, error) {
	resolved, err := opts.resolve()
	if err != nil {
		return nil, fmt.Errorf("new producer: %w", err)
	}
	p := &Producer{
		log: l, opts: resolved, closing: make(chan struct{}), wake: make(chan struct{}, 1),
		topics: make(map[string]*sendTopic),
	}
	for _, h := range resolved.Hooks {
		p.acked = p.acked || h.Acked != nil
	}
	p.rouse = p.pokeLocked
	if err := l.addProducer(p); err != nil {
		return nil, fmt.Errorf("new producer: %w", err)
	}
	return p, nil
}

// Send sends a record and returns when it is acknowledged, as ProducerOptions.Acks says.
// Of r, Topic, Timestamp, Key, Value and Headers count, and Partition with [Manual].
//
// If nothing of its partition is buffered and Linger is 0, it is appended on the caller's
// goroutine, bounded by ctx alone; else it goes through the buffer like one of Enqueue. If
// ctx ends after that, the error is ErrInDoubt. Other errors mean that nothing was written
// unless they are ErrInDoubt too: those of [Partition.Append], ErrTopicNotFound,
// ErrPartitionNotFound, ErrInvalidTopic for a topic of the log's own, ErrTimeout, a hook's;
// with Options.AutoCreateTopics also those of [Log.EnsureTopic].
func (p *Producer) Send(ctx context.Context, r Record) (RecordMetadata, error) {
	if p.opts.Acks == AcksNone {
		return p.sendUnheard(ctx, r)
	}
	part, err := p.prepare(ctx, &r)
	if err != nil {
		return unsent(&r), sendError(&r, err)
	}
	p.mu.Lock()
	q, err := p.route(ctx, &r, part)
	direct := err == nil && q.empty() && p.opts.Linger == 0 && !p.closed
	p.mu.Unlock()
	if err != nil {
		return unsent(&r), sendError(&r, err)
	}
	if direct {
		at, ts, err := q.p.send(ctx, p, r)
		if err == nil || !errors.Is(err, ErrDiskFull) {
			m := RecordMetadata{Topic: r.Topic, Partition: q.p.index, Offset: at, Timestamp: time.UnixMilli(ts).UTC()}
			if err != nil {
				q.p.countError()
				err = q.p.error("send", err)
			}
			if !isRefusal(err) {
				p.callAcked(m, err)
			}
			return m, err
		}
	}
	w := p.sendWaiter()
	p.mu.Lock()
	err = p.enqueue(ctx, q, &r, w.done)
	p.mu.Unlock()
	if err != nil {
		return unsent(&r), sendError(&r, err)
	}
	select {
	case res := <-w.result:
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.spare) < maxSpare {
			p.spare = append(p.spare, w)
		}
		return res.m, res.err
	case <-ctx.Done():
		return unsent(&r), sendError(&r, inDoubt(ctx.Err()))
	case <-p.log.broken:
		return unsent(&r), sendError(&r, inDoubt(p.log.closedError()))
	}
}

// isRefusal says whether err is of a record that no batch can have.
func isRefusal(err error) bool {
	return errors.Is(err, ErrInvalidRecord) || errors.Is(err, ErrRecordTooLarge) || errors.Is(err, ErrBatchTooLarge)
}

// sendUnheard is Send under AcksNone.
func (p *Producer) sendUnheard(ctx context.Context, r Record) (RecordMetadata, error) {
	part, err := p.prepare(ctx, &r)
	if err != nil {
		return unsent(&r), sendError(&r, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	q, err := p.route(ctx, &r, part)
	if err == nil {
		err = p.enqueue(ctx, q, &r, nil)
	}
	m := unsent(&r)
	if err != nil {
		return m, sendError(&r, err)
	}
	m.Partition = q.p.index
	return m, nil
}

// sendWaiter is who waits for a record that was buffered.
type sendWaiter struct {
	result chan sendResult
	done   func(RecordMetadata, error)
}

type sendResult struct {
	m   RecordMetadata
	err error
}

// maxSpare is how many of them a producer keeps.
const maxSpare = 64

// sendWaiter returns one that nobody uses. They are the producer's own: a channel must
// not leave the bubble of testing/synctest that it was made in.
func (p *Producer) sendWaiter() *sendWaiter {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.spare); n > 0 {
		w := p.spare[n-1]
		p.spare = p.spare[:n-1]
		return w
	}
	w := &sendWaiter{result: make(chan sendResult, 1)}
	w.done = func(m RecordMetadata, err error) { w.result <- sendResult{m, err} }
	return w
}

// unsent is what is known of a record that has not been sent.
func unsent(r *Record) RecordMetadata {
	return RecordMetadata{Topic: r.Topic, Partition: -1, Offset: NoOffset, Timestamp: r.Timestamp}
}

func sendError(r *Record, err error) error {
	var at *PartitionError
	if errors.As(err, &at) {
		return err
	}
	return fmt.Errorf("send to %q: %w", r.Topic, err)
}

// SendAll sends records and waits once for all. What it returns has one entry for each; if
// one was not sent, the error is a *SendError, which says why for each. The others are sent
// all the same: it is no transaction.
func (p *Producer) SendAll(ctx context.Context, recs ...Record) ([]RecordMetadata, error) {
	if len(recs) == 0 {
		return nil, nil
	}
	metas, errs := make([]RecordMetadata, len(recs)), make([]error, len(recs))
	left, all := len(recs), make(chan struct{})
	var mu sync.Mutex // guards them until all are done
	end := func(i int, m RecordMetadata, err error) {
		mu.Lock()
		defer mu.Unlock()
		metas[i], errs[i] = m, err
		if left--; left == 0 {
			close(all)
		}
	}
	for i := range recs {
		err := p.Enqueue(ctx, recs[i], func(m RecordMetadata, err error) { end(i, m, err) })
		if err != nil {
			end(i, unsent(&recs[i]), err)
		}
	}
	p.hurryUp(1)
	defer p.hurryUp(-1)
	var ended error
	select {
	case <-all:
	case <-ctx.Done():
		ended = inDoubt(ctx.Err())
	case <-p.log.broken:
		ended = inDoubt(p.log.closedError())
	}
	mu.Lock()
	defer mu.Unlock()
	told, failed := slices.Clone(metas), &SendError{Errs: slices.Clone(errs)} // end may write to its own later
	ok := true
	for i := range recs {
		if ended != nil && failed.Errs[i] == nil && told[i].Topic == "" {
			told[i], failed.Errs[i] = unsent(&recs[i]), ended
		}
		ok = ok && failed.Errs[i] == nil
	}
	if !ok {
		return told, failed
	}
	return told, nil
}

// Enqueue buffers r and returns. Ctx bounds the wait for room in the buffer, not the
// delivery. Either it returns an error, and nothing is sent, or done, which may be nil, is
// called once, when r is acknowledged or has failed: on the producer's goroutine, for the
// records of a partition in order. It must not block or call the producer's Send, SendAll,
// Flush, Shutdown or Close; what it enqueues may find no room, so that its context must
// end. That it panics, or ends its goroutine, as a test's FailNow does, is logged, and keeps
// no other from being called. R and what it points to are the caller's again when Enqueue
// returns. A record without a timestamp gets that of its batch. What fails without a done,
// Flush tells.
//
// Errors: ErrTopicNotFound, ErrPartitionNotFound, ErrInvalidTopic for a topic of the log's own,
// ErrInvalidRecord, ErrRecordTooLarge, ErrClosed, ctx's, a hook's; with Options.AutoCreateTopics
// also those of [Log.EnsureTopic]. Errors of done also: those of [Partition.Append], ErrTimeout;
// ErrInDoubt says that the record may be found later all the same.
func (p *Producer) Enqueue(ctx context.Context, r Record, done func(RecordMetadata, error)) error {
	part, err := p.prepare(ctx, &r)
	if err != nil {
		return sendError(&r, err)
	}
	p.lockSoon()
	defer p.mu.Unlock()
	q, err := p.route(ctx, &r, part)
	if err == nil {
		err = p.enqueue(ctx, q, &r, done)
	}
	if err != nil {
		return sendError(&r, err)
	}
	return nil
}

// prepare asks hooks and partitioner. It returns the partition that r goes to, negative if
// the default partitioner is to decide, and r as the hooks have left it. Only with the
// caller's code r is on the heap.
func (p *Producer) prepare(ctx context.Context, r *Record) (part int, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if len(p.opts.Hooks) > 0 {
		changed := *r
		for _, h := range p.opts.Hooks {
			if h.Send == nil {
				continue
			}
			if err := h.Send(ctx, &changed); err != nil {
				return 0, err
			}
		}
		*r = changed
	}
	if p.opts.Partitioner == nil {
		return -1, nil
	}
	asked := *r
	return p.ask(ctx, &asked)
}

// route returns the queue of the partition that r goes to. Called with mu held, which it
// releases while it makes a topic.
func (p *Producer) route(ctx context.Context, r *Record, part int) (q *sendQueue, err error) {
	t, err := p.lookUp(r.Topic)
	if err != nil && p.log.opts.AutoCreateTopics && errors.Is(err, ErrTopicNotFound) {
		if err = p.makeTopic(ctx, r.Topic); err == nil {
			t, err = p.lookUp(r.Topic)
		}
	}
	switch {
	case err != nil:
		return nil, err
	case part < 0:
		return t.choose(r), nil
	case part >= len(t.queues):
		return nil, fmt.Errorf("%w: the partitioner chose %d of %d", ErrPartitionNotFound, part, len(t.queues))
	}
	return t.queues[part], nil
}

// makeTopic makes a topic without mu, which is held before and after.
func (p *Producer) makeTopic(ctx context.Context, name string) error {
	p.mu.Unlock()
	defer p.mu.Lock() // also if it panics: the caller releases it
	_, err := p.log.EnsureTopic(ctx, name, nil)
	return err
}

// ask asks the caller's partitioner, without a lock.
func (p *Producer) ask(ctx context.Context, r *Record) (int, error) {
	t, err := p.log.Topic(r.Topic)
	if errors.Is(err, ErrTopicNotFound) && p.log.opts.AutoCreateTopics {
		t, err = p.log.EnsureTopic(ctx, r.Topic, nil)
	}
	if err != nil {
		return 0, err
	}
	return p.opts.Partitioner(r, t.NumPartitions()), nil
}

// enqueue puts r into q, once there is room. Called with mu held, which it releases while
// it waits.
func (p *Producer) enqueue(ctx context.Context, q *sendQueue, r *Record, done func(RecordMetadata, error)) error {
	if p.closed || p.log.hasFailed() {
		return p.log.closedError()
	}
	missing, err := p.add(q, r, done)
	if missing == 0 {
		return err
	}
	w := &roomWaiter{}
	p.waiters = append(p.waiters, w)
	defer p.served(w) // before the lock is released
	for missing > 0 {
		if err := p.waitForRoom(ctx, w, missing); err != nil {
			return err
		}
		p.granted = true
		missing, err = p.add(q, r, done)
		p.granted = false
	}
	return err
}

// Flush returns when all that was enqueued before is acknowledged or has failed; what is
// buffered does not linger. Its error is the first one of a record without a done since the
// last Flush; if ctx ends, ctx's, and what is buffered stays so.
func (p *Producer) Flush(ctx context.Context) error {
	p.hurryUp(1)
	defer p.hurryUp(-1)
	for _, ended := range p.outstanding() {
		select {
		case <-ended:
		case <-ctx.Done():
			return fmt.Errorf("flush: %w", ctx.Err())
		case <-p.log.broken:
			return fmt.Errorf("flush: %w", p.log.closedError())
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	err := p.silent
	p.silent = nil
	if err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	return nil
}

// outstanding returns what says of each batch that there is that it has ended. Open ones
// take no more records: those are not waited for.
func (p *Producer) outstanding() []chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []chan struct{}
	for _, q := range p.active {
		if q.open != nil {
			p.closeOpen(q)
		}
		for _, list := range [][]*sendBatch{q.hand, q.flying, q.full} {
			for _, b := range list {
				if b.ended == nil {
					b.ended = make(chan struct{})
				}
				all = append(all, b.ended)
			}
		}
	}
	p.poke(true)
	return all
}

// hurryUp has nobody linger until it is called with -1.
func (p *Producer) hurryUp(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hurry += n
	p.poke(n > 0)
}

// Shutdown takes no more records, and returns when all that it has are acknowledged or have
// failed. When ctx ends it stops waiting and returns ctx's error: what is not appended by
// then fails with ErrClosed. It may be called again, and returns the first error again.
func (p *Producer) Shutdown(ctx context.Context) error {
	p.mu.Lock()
	p.stop()
	var idle chan struct{}
	if p.running {
		if p.idle == nil {
			p.idle = make(chan struct{})
		}
		idle = p.idle
	}
	p.mu.Unlock()
	defer p.log.dropProducer(p)
	var err error
	if idle != nil {
		select {
		case <-idle:
		case <-p.log.broken:
			err = fmt.Errorf("close producer: %w", p.log.closedError())
		case <-ctx.Done():
			err = fmt.Errorf("close producer: %w", ctx.Err())
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.dropping = true
		p.poke(true)
	}
	if p.failed == nil {
		p.failed = err
	}
	return p.failed
}

// stop ends the taking of records. Called with mu held.
func (p *Producer) stop() {
	if !p.closed {
		p.closed = true
		close(p.closing)
	}
	p.poke(true)
}

// Close is Shutdown with 30 seconds to do it in.
func (p *Producer) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return p.Shutdown(ctx)
}
