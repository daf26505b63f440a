package riffle

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// Consumer reads the records of topics: of partitions that it is assigned by hand, of all
// partitions of the topics that it subscribes to, or, in a group, of those that are its share.
//
// A record is handed out when Poll returns it or Records yields it. It is passed when the
// next Poll, or the next step of the loop, asks for more. Automatic commits cover what was
// passed; Commit covers what was handed out. So a break or a panic never commits the record
// at hand.
//
// Poll and Records belong to one goroutine at a time: a second one gets ErrInvalidState. The
// rest is safe for concurrent use. A consumer has no goroutine of its own.
type Consumer struct {
	log    *Log
	opts   ConsumerOptions
	member *membership // nil without a group

	polling atomic.Bool   // Poll or Records has it
	busy    chan struct{} // holds one while a poll or closing is at work
	signal  chan struct{} // to who waits in Poll; holds one
	closing chan struct{} // closed when Shutdown has begun
	closed  chan struct{} // closed when it has ended
	err     error         // of that
	begin   sync.Once     // closes closing
	finish  sync.Once     // starts to close

	// attention says that there is something to do besides reading: see attend.
	attention  atomic.Bool
	wakeup     atomic.Bool
	topicsNews atomic.Bool // topics have come, gone or grown
	commitDue  atomic.Bool // AutoCommitInterval has passed since something was

	// readyMu guards ready: sources that may have records, the longest waiting first. Nothing
	// is locked under it.
	readyMu sync.Mutex
	ready   sourceQueue

	// mu guards what follows. Nothing is locked under it but readyMu, a partition's lock, and
	// Log.mu.
	mu          sync.Mutex
	subscribed  subscription
	sources     map[TopicPartition]*source
	handed      []*source // of which records were handed out since the last poll
	failing     []*source // of which a poll is to return the error
	tellNone    bool      // Assigned is to be called, even if there is nothing new
	commitTimer *time.Timer
	commitArmed bool

	// What only who polls has.

	turn  *source // whose turn it is
	arena arena
	clock pollClock

	// committing holds one while a commit is made: what comes later is later in the log too.
	committing chan struct{}
}

// NewConsumer returns a consumer. A nil opts means the defaults. A topic that does not exist
// is waited for. Errors: ErrInvalidOptions, ErrClosed; ErrReadOnly for one with a Group in a
// read-only log.
func (l *Log) NewConsumer(opts *ConsumerOptions) (*Consumer, error) {
	resolved, err := opts.resolve()
	if err != nil {
		return nil, fmt.Errorf("new consumer: %w", err)
	}
	c := &Consumer{
		log: l, opts: resolved, arena: arena{ahead: true},
		busy: make(chan struct{}, 1), committing: make(chan struct{}, 1), signal: make(chan struct{}, 1),
		closing: make(chan struct{}), closed: make(chan struct{}),
		sources:    make(map[TopicPartition]*source),
		subscribed: subscription{topics: resolved.Topics},
	}
	if resolved.TopicPattern != nil {
		c.subscribed.pattern = wholeName(resolved.TopicPattern)
	}
	if resolved.Group != "" {
		if err := l.errReadOnly(); err != nil {
			return nil, fmt.Errorf("new consumer: %w", err)
		}
		c.member = newMembership(c)
	}
	c.attention.Store(true)
	c.topicsNews.Store(true)
	if err := l.addConsumer(c); err != nil {
		return nil, fmt.Errorf("new consumer: %w", err)
	}
	return c, nil
}

// Poll returns records as soon as there are some: from one to MaxPollRecords, of one partition
// or several, those of each in its order. It blocks until there is one, ctx ends, Wakeup is
// called, or an error is to be told: it never returns no records and no error, nor both. They
// are the caller's for good.
//
// An error of a partition, a *PartitionError, is returned once. That partition waits for a
// Seek, and the others go on with the next call. Other errors: ctx's, ErrWakeup, ErrClosed,
// ErrInvalidState without a subscription or from a second goroutine, ErrFenced (final), those
// of callbacks and assignors, ErrPartitionFailed or ErrDiskFull if the group's state cannot be
// written, and ErrCorrupt if it cannot be read: polls try again 100 ms later, then up to 1 s,
// and go on with the partitions that the consumer has. With one, nothing was handed out. In a group, Poll is where the consumer joins,
// gives up partitions and gets others.
func (c *Consumer) Poll(ctx context.Context) ([]Record, error) {
	if err := c.claim(); err != nil {
		return nil, err
	}
	defer c.polling.Store(false)
	return c.poll(ctx, c.opts.MaxPollRecords, nil)
}

// Records iterates over the records as they come, until ctx ends or there is an error, which
// comes once, last. Each step counts as a Poll: MaxPollInterval is for one body. To go on
// after an error that Poll would survive, begin another loop.
func (c *Consumer) Records(ctx context.Context) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		if err := c.claim(); err != nil {
			yield(Record{}, err)
			return
		}
		defer c.polling.Store(false)
		one := make([]Record, 0, 1)
		for {
			clear(one[:1])
			recs, err := c.poll(ctx, 1, one)
			if err != nil {
				yield(Record{}, err)
				return
			}
			if !yield(recs[0], nil) {
				return
			}
		}
	}
}

// claim makes the caller who polls.
func (c *Consumer) claim() error {
	if !c.polling.CompareAndSwap(false, true) {
		return c.error("poll", fmt.Errorf("%w: another goroutine polls", ErrInvalidState))
	}
	return nil
}

// poll appends up to most records to into, which is empty up to its capacity.
func (c *Consumer) poll(ctx context.Context, most int, into []Record) (recs []Record, err error) {
	defer c.log.guard(&err)
	if err := c.begins(ctx); err != nil {
		return nil, c.error("poll", err)
	}
	c.pass()
	c.clock.enter(c) // what is taken from now on is not handed out before leave
	defer func() {
		c.clock.leave(c)
		<-c.busy
	}()
	for {
		if err := c.mayGoOn(ctx); err != nil {
			return nil, c.error("poll", err)
		}
		if c.attention.Load() {
			if err := c.attend(ctx); err != nil {
				return nil, c.error("poll", err)
			}
		}
		if recs, err = c.gather(ctx, most, into); err != nil {
			return nil, c.error("poll", err)
		}
		if len(recs) > 0 {
			return recs, nil
		}
		c.arena.buf, c.arena.used = nil, 0 // all but used up, and it may be as large as the last record
		if err := c.wait(ctx, nil); err != nil {
			return nil, c.error("poll", err)
		}
	}
}

// begins waits until no commit lets a rebalance go on, nor the consumer closes.
func (c *Consumer) begins(ctx context.Context) error {
	select {
	case c.busy <- struct{}{}:
		return nil
	default:
	}
	select {
	case c.busy <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-c.closing:
		return ErrClosed
	case <-c.log.closing:
		return c.log.closedError()
	}
}

// mayGoOn returns why a poll must end, if it must.
func (c *Consumer) mayGoOn(ctx context.Context) error {
	switch {
	case c.log.isClosing():
		return c.log.closedError()
	case isClosed(c.closing):
		return ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if c.wakeup.Load() && c.wakeup.CompareAndSwap(true, false) {
		return ErrWakeup
	}
	return nil
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// gather takes records. If there are some, it waits until they are MinBytes, or MaxWait has
// passed: it never gives up what it has, unless a hook has failed.
func (c *Consumer) gather(ctx context.Context, most int, into []Record) ([]Record, error) {
	recs, size, err := c.take(ctx, most, into, 0)
	var timer *time.Timer
	enough := min(c.opts.MinBytes, c.opts.MaxBytes)
	for err == nil && 0 < size && size < enough && len(recs) < most && !c.attention.Load() && !c.wakeup.Load() {
		if timer == nil {
			timer = time.NewTimer(c.opts.MaxWait)
			defer timer.Stop()
		}
		if c.wait(ctx, timer.C) != nil {
			break
		}
		recs, size, err = c.take(ctx, most, recs, size)
	}
	return recs, err
}

// wait returns nil when there may be something to do, or after has fired: then that is to
// be seen once more.
func (c *Consumer) wait(ctx context.Context, after <-chan time.Time) error {
	var look <-chan time.Time
	if c.log.view != nil {
		done, err := c.awaitOthers(ctx)
		if err != nil {
			return err
		}
		defer done()
		timer := time.NewTimer(topicsInterval)
		defer timer.Stop()
		look = timer.C
	}
	select {
	case <-c.signal:
		return nil
	case <-look:
		c.topicsNews.Store(true)
		c.attention.Store(true)
		return nil
	case <-after:
		return context.DeadlineExceeded
	case <-ctx.Done():
		return ctx.Err()
	case <-c.closing:
		return ErrClosed
	case <-c.log.closing:
		return c.log.closedError()
	}
}

// topicsInterval is how often a consumer of a read-only log looks for topics that the
// writer has made or deleted, while it waits.
const topicsInterval = 100 * time.Millisecond

// rouse has who waits in Poll look again.
func (c *Consumer) rouse() {
	select {
	case c.signal <- struct{}{}:
	default:
	}
}

// lookUp has the next poll, or the one that waits, attend to what has happened.
func (c *Consumer) lookUp() {
	c.attention.Store(true)
	c.rouse()
}

// nextError returns the errors of partitions that are to be told, all together.
func (c *Consumer) nextError() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, s := range c.failing {
		if s.err != nil && c.sources[s.tp] == s {
			errs = append(errs, s.err)
		}
		s.err = nil
	}
	c.failing = nil
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}

// attend does what there is to do besides reading. What cannot be done yet has lookUp called
// when it can.
func (c *Consumer) attend(ctx context.Context) error {
	c.attention.Store(false)
	attended := false
	defer func() {
		if !attended { // also where a callback ends the goroutine
			c.attention.Store(true) // what is left is for the next poll
		}
	}()
	if c.commitDue.Swap(false) {
		c.commitInBackground()
	}
	err := c.tendAssignment(ctx)
	if err == nil {
		err = c.tellAssigned(ctx)
	}
	if err != nil {
		return err
	}
	attended = true
	if err := c.findPositions(ctx); err != nil {
		return err
	}
	return c.nextError()
}

// tendAssignment brings what the consumer has in line with what it is to have.
func (c *Consumer) tendAssignment(ctx context.Context) error {
	news := c.topicsNews.Swap(false)
	c.mu.Lock()
	kind := c.subscribed.kind()
	c.mu.Unlock()
	if c.member != nil && (kind != byHand || c.member.isIn()) {
		if err := c.member.tend(ctx, news); err != nil {
			c.topicsNews.Store(c.topicsNews.Load() || news)
			return err
		}
	}
	if c.member == nil && kind != byHand {
		if err := c.assignAll(ctx); err != nil {
			return err
		}
	}
	if kind == toNothing {
		return fmt.Errorf("%w: the consumer has neither a subscription nor an assignment", ErrInvalidState)
	}
	if news && c.log.view != nil {
		_ = c.log.lookForTopics() // what is known, is known
	}
	c.bindSources()
	return nil
}

// Wakeup has the Poll or the step of Records that waits, or else the next one, return
// ErrWakeup, once. Records that it has handed out are not lost by that. Where a context can
// be cancelled instead, that is plainer.
func (c *Consumer) Wakeup() {
	c.wakeup.Store(true)
	c.rouse()
}

// Shutdown closes the consumer: Poll ends with ErrClosed, what was passed is committed unless
// ManualCommit, Revoked is called, and the group goes on without the consumer at once; a static
// member's partitions wait for it. When ctx ends it stops waiting, and returns ctx's error: then
// what was not committed comes again. It returns the first error; it may be called again. To end
// a loop around Poll without repeats, Commit before.
func (c *Consumer) Shutdown(ctx context.Context) error {
	c.begin.Do(func() { close(c.closing) })
	select {
	case c.busy <- struct{}{}:
	case <-c.closed:
	case <-c.log.broken:
		return c.error("close", c.log.closedError())
	case <-ctx.Done():
		return c.error("close", ctx.Err())
	}
	c.finish.Do(func() {
		defer close(c.closed)
		c.err = c.shutdown(ctx)
		<-c.busy
	})
	<-c.closed // who is second has waited for it
	return c.err
}

func (c *Consumer) shutdown(ctx context.Context) (err error) {
	defer c.log.guard(&err)
	defer c.log.dropConsumer(c)
	c.clock.stop()
	c.mu.Lock()
	if c.commitTimer != nil {
		c.commitTimer.Stop()
	}
	c.mu.Unlock()
	defer func() { // also where a callback ends the goroutine
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, s := range c.sources {
			c.drop(s)
		}
		c.endTurn()
	}()
	if c.member == nil {
		return nil
	}
	if err := c.member.leave(ctx); err != nil {
		return c.error("close", err)
	}
	return nil
}

// Close is Shutdown with 30 seconds to do it in.
func (c *Consumer) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return c.Shutdown(ctx)
}

// error says what the consumer was doing, unless err says it.
func (c *Consumer) error(op string, err error) error {
	var at *PartitionError
	if errors.As(err, &at) {
		return err
	}
	if c.opts.Group != "" {
		return fmt.Errorf("consumer of group %q: %s: %w", c.opts.Group, op, err)
	}
	return fmt.Errorf("consumer: %s: %w", op, err)
}

// call calls one of the caller's callbacks, if it is set.
func (c *Consumer) call(ctx context.Context, what string, f func(context.Context, *Consumer, []TopicPartition) error, parts []TopicPartition) error {
	if f == nil {
		return nil
	}
	return calling(what, func() error { return f(ctx, c, parts) })
}

// calling calls the caller's code, and turns a panic in it into an error.
func calling(what string, f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%s has panicked: %v\n%s", what, r, debug.Stack())
		}
	}()
	if err = f(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
