package riffle

import (
	"context"
	"fmt"
	"time"

	"github.com/rifflelog/riffle/internal/vfs"
)

const (
	// maxUnflushed is how many bytes of a partition may be written and not
	// flushed: an append that would pass it waits for a flush. Recovery relies
	// on it: what stands further than this behind a bad batch was written after
	// that batch had been flushed, so the batch is damaged, not torn.
	maxUnflushed = 64 << 20
	// flushAt is how many unflushed bytes start a flush under FlushAsync,
	// whatever FlushInterval says.
	flushAt = 16 << 20
)

// siteFlush is the flush that appends wait for.
const siteFlush vfs.Site = "partition.flush"

// flushQueue is a partition's group commit: at most one flush runs, and at most
// one waits for it to end. Who asks for a flush while one runs joins the
// waiting one, since the running one may not cover what he wrote. Whoever made
// a round runs it. Guarded by the partition's lock.
type flushQueue struct {
	running, next *flushRound
}

// flushRound is one flush that several may wait for.
type flushRound struct {
	after *flushRound   // runs before this one; nil if none did
	done  chan struct{} // closed when the flush has ended
	err   error         // set before done is closed
	// watchers are called once it is closed.
	watchers []func()
}

// unlockAndFlush returns when all before end is flushed. It is called with mu
// held, and releases it. If ctx ends first, the flush goes on without the
// caller, who gets ctx's error. After any error, what the caller wrote is in doubt.
func (p *Partition) unlockAndFlush(ctx context.Context, end Offset) error {
	if p.flushed >= end && p.cut == p.cutFlushed {
		p.mu.Unlock()
		return nil
	}
	round, lead := p.flushing.join()
	if lead && ctx.Done() != nil {
		// A flush cannot be interrupted, so it must not run on a goroutine whose
		// ctx can end. The log owns this one, and waits for it when it closes.
		lead = !p.topic.log.startFlush(func() { p.flush(round) })
	}
	p.mu.Unlock()
	if lead {
		p.topic.log.run(func() { p.flush(round) })
	}
	return p.topic.log.await(ctx, round)
}

// await returns how a round has ended, or why it is not waited for any more.
func (l *Log) await(ctx context.Context, round *flushRound) error {
	select {
	case <-round.done:
		return round.err
	case <-l.broken:
		return l.closedError()
	case <-ctx.Done():
	}
	select {
	case <-round.done: // the answer came with the end of ctx
		return round.err
	default:
		return ctx.Err()
	}
}

// join returns a round that has not begun, and whether the caller must run it.
func (q *flushQueue) join() (round *flushRound, lead bool) {
	if q.next != nil {
		return q.next, false
	}
	round = &flushRound{after: q.running, done: make(chan struct{})}
	if q.running == nil {
		q.running = round
	} else {
		q.next = round
	}
	return round, true
}

// flush runs a round: it waits for the one before, flushes the file, and
// commits what that covers.
//
// Step by step, and what would go wrong otherwise: (1) the end is taken before
// the flush begins, since bytes written during it may not be covered; (2) the
// high watermark moves only after it, since readers must never see what a power
// cut could take; (3) waiters hear of it last.
func (p *Partition) flush(round *flushRound) {
	if round.after != nil {
		select {
		case <-round.after.done:
		case <-p.topic.log.broken:
			return // it may never end; who waits for this one hears of that too
		}
		round.after = nil // or every round would be kept by its successor
	}
	p.mu.Lock()
	if p.flushing.next == round {
		p.flushing.running, p.flushing.next = round, nil
	}
	seg, end := p.active(), p.dataEnd // not in a gap: see setBounds
	size, from, touched, err := int64(0), p.flushedSize, int64(0), p.failed
	if seg != nil {
		size, touched = seg.size, seg.mapped.touched
	}
	cut := p.cut
	needed := err == nil && (p.flushed < end || cut > p.cutFlushed)
	p.mu.Unlock()

	began := time.Now()
	if needed {
		seg.mapped.load().detach(from, size) // or the flush interrupts everybody for each page
		err = p.flushAgain(seg, from)
		seg.mapped.load().touch(size, touched) // the flush has made them read-only
	}
	took := time.Since(began)

	var unneeded extents
	p.mu.Lock()
	if needed {
		p.count().flushed(took, err)
	}
	p.flushing.running = nil
	if err != nil {
		p.fail(err)
		// Some of what was written may be found after a restart all the same.
		round.err = fmt.Errorf("%w: %w", ErrPartitionFailed, err)
	} else {
		p.flushed = max(p.flushed, end)
		p.cutFlushed = max(p.cutFlushed, cut)
		if seg != nil && seg == p.active() {
			p.flushedSize = size
			unneeded = seg.mapped.flushed(size)
		}
		if end > Offset(p.highWatermark.Load()) {
			p.commit(end, seg, size)
		}
	}
	if p.begun {
		p.setBounds(false)
	}
	p.mu.Unlock()
	close(round.done)
	for _, ended := range round.watchers { // nobody joins a round that runs
		ended()
	}
	p.topic.log.release(unneeded)
	p.wake()
	p.reportFailure()
	p.topic.log.flushBoundsSoon(size - from)
}

// flushLater sees to it that what a FlushAsync partition has just written is
// flushed: within FlushInterval, or at once if much has gathered; and that its
// ceiling is raised before an append has to wait for that. Called under mu.
func (p *Partition) flushLater(cfg *TopicConfig) {
	if end := p.end; p.ceiling-end < p.topic.log.ceilingStep/2 && !p.raising {
		p.raising = p.topic.log.start(func() { _ = p.raiseCeiling(end) }) // else an append does
	}
	if p.unflushed() >= flushAt && p.flushing == (flushQueue{}) {
		p.flushInBackground()
		return
	}
	if !p.timed && cfg.FlushInterval != Forever {
		p.flushAfter(cfg.FlushInterval)
	}
}

// flushAfter has flushOnTime run after an interval. Called under mu.
func (p *Partition) flushAfter(interval time.Duration) {
	p.timed = true
	if p.timer == nil {
		p.timer = p.topic.log.after(interval, p.flushOnTime)
	} else {
		p.timer.Reset(interval)
	}
}

// intervalChanged sees to it that what is unflushed is flushed within
// FlushInterval as it is now.
func (p *Partition) intervalChanged() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer != nil && p.timed {
		p.timer.Stop()
		p.timed = false
	}
	mapped := false
	if seg := p.active(); seg != nil {
		mapped = seg.mapped.list.Load() != nil
	}
	if interval := p.topic.config().FlushInterval; !p.closed && interval != Forever && (mapped || p.flushed < p.dataEnd) {
		p.flushAfter(interval)
	}
}

// flushOnTime runs when FlushInterval has passed since the first unflushed
// append, or since it ran last for a partition that is mapped: if nothing is to be
// flushed then, it is idle, and is unmapped.
func (p *Partition) flushOnTime() {
	p.mu.Lock()
	p.timed = false
	seg := p.active()
	var unmapped extents
	switch {
	case p.closed || seg == nil:
	case p.failed != nil:
		unmapped = seg.mapped.unmap()
	case p.flushed < p.dataEnd:
		p.flushInBackground()
		if seg.mapped.step = 0; seg.mapped.list.Load() != nil {
			p.flushAfter(p.topic.config().FlushInterval) // to see whether it has become idle
		}
	default:
		unmapped = seg.mapped.unmap()
	}
	p.mu.Unlock()
	p.topic.log.release(unmapped)
}

// flushInBackground starts a flush unless one is waiting to. Called under mu.
func (p *Partition) flushInBackground() {
	if round, lead := p.flushing.join(); lead {
		if !p.topic.log.startFlush(func() { p.flush(round) }) {
			p.flushing.drop(round)
		}
	}
}

// flushFound flushes what a killed process has left unflushed.
func (p *Partition) flushFound() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.damaged == nil && (p.flushed < p.dataEnd || p.cut > p.cutFlushed) {
		p.flushInBackground()
	}
}

// drop takes back a round that nobody will run and nobody waits for.
func (q *flushQueue) drop(round *flushRound) {
	if q.running == round {
		q.running = nil
	} else {
		q.next = nil
	}
}
