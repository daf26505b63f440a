package riffle

import (
	"context"
	"errors"
	"iter"
)

// Sync returns nil when everything that was appended to the log before is on stable
// storage, FlushAsync topics included. Partitions are flushed concurrently; those
// with nothing to flush cost next to nothing. Topics are durable once they are
// created, so this is about records.
//
// If ctx ends, the flushes go on without the caller. Nothing is in doubt that was
// not before. Errors: ErrClosed, ctx's, and a *PartitionError for each partition
// that cannot be flushed, ErrPartitionFailed, while the others are. Kafka: what
// flush.messages and flush.ms are for.
func (l *Log) Sync(ctx context.Context) error {
	return l.sync(ctx, func(yield func(*Partition) bool) {
		for t := range l.Topics() {
			for p := range t.Partitions() {
				if !yield(p) {
					return
				}
			}
		}
		yield(l.meta)
	})
}

// Sync is [Log.Sync] for the partitions of one topic: ErrTopicNotFound if it is
// deleted.
func (t *Topic) Sync(ctx context.Context) error {
	if t.all()[0].gone.Load() {
		return notFound(t.name)
	}
	return t.log.sync(ctx, t.Partitions())
}

// Sync is [Log.Sync] for one partition: ErrTopicNotFound if its topic is deleted. It
// shares a flush with appends that wait for one.
func (p *Partition) Sync(ctx context.Context) error {
	if p.gone.Load() {
		return p.error("sync", notFound(p.topic.name))
	}
	err := p.topic.log.sync(ctx, func(yield func(*Partition) bool) { yield(p) })
	if err != nil {
		return p.error("sync", err)
	}
	return nil
}

// sync flushes partitions. All flushes are asked for before one is waited for: at
// most maxFlushers run at a time.
func (l *Log) sync(ctx context.Context, parts iter.Seq[*Partition]) (err error) {
	if err := l.errReadOnly(); err != nil {
		return err
	}
	defer l.guard(&err)
	if err := ctx.Err(); err != nil {
		return err
	}
	if l.isClosing() {
		return l.closedError()
	}
	type wait struct {
		p     *Partition
		round *flushRound
	}
	var waits []wait
	var errs []error
	for p := range parts {
		round, err := p.askForFlush()
		switch {
		case err != nil:
			errs = append(errs, p.error("sync", err))
		case round != nil:
			waits = append(waits, wait{p, round})
		}
	}
	for _, w := range waits {
		switch err := l.await(ctx, w.round); {
		case errors.Is(err, ErrPartitionFailed):
			errs = append(errs, w.p.error("sync", err))
		case err != nil:
			return err // ctx or the log has ended
		}
	}
	return errors.Join(errs...)
}

// askForFlush sees to it that what is appended is flushed, and returns what to wait
// for; nil if it is flushed, or deleted.
func (p *Partition) askForFlush() (*flushRound, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.flushed >= p.dataEnd && p.cut == p.cutFlushed, p.gone.Load():
		return nil, nil
	}
	if err := p.writable(); err != nil {
		return nil, err
	}
	round, lead := p.flushing.join()
	if lead && !p.topic.log.startFlush(func() { p.flush(round) }) {
		p.flushing.drop(round)
		return nil, p.topic.log.closedError()
	}
	return round, nil
}

// flushTo returns when all before end, which was the log end, is flushed. It is for
// whoever wrote nothing: nothing is in doubt.
func (p *Partition) flushTo(ctx context.Context, end Offset) error {
	p.mu.Lock()
	end = min(end, p.dataEnd)
	if err := p.writable(); err != nil && p.flushed < end {
		p.mu.Unlock()
		return err
	}
	return p.unlockAndFlush(ctx, end)
}
