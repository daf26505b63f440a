package riffle

import (
	"context"
	"errors"

	"github.com/rifflelog/riffle/internal/batch"
)

// Appends that do not wait for the flush: a producer's, and those of the log's own topics.

// appendAhead gives batches the next offsets and writes them, one behind the other, as many
// as the partition can take in one write, at least the first one. It does not wait for the
// flush: it returns how many, and the round that commits them, nil if they are committed
// already. When that has ended, ended is called, on another goroutine. With an error, n is
// how many it is about: of those either nothing is written, or they are in doubt.
func (p *Partition) appendAhead(ctx context.Context, batches []batch.Batch, now int64, ended func()) (n int, round *flushRound, err error) {
	if err := p.lockWithRoom(ctx, batches[0], now); err != nil {
		return 1, nil, err
	}
	n = p.together(batches, now)
	_, unmapped, err := p.appendLocked(batches[0], batches[1:n]...)
	if err != nil {
		err = p.unlockAndUndo(ctx, n, err)
		p.reportFailure()
		p.topic.log.release(unmapped)
		return n, nil, err
	}
	if p.topic.config().Flush == FlushAsync {
		p.mu.Unlock()
		p.wake()
		return n, nil, nil
	}
	round, lead := p.flushing.join()
	round.watchers = append(round.watchers, ended)
	if lead {
		lead = !p.topic.log.startFlush(func() { p.flush(round) })
	}
	p.mu.Unlock()
	if lead {
		p.topic.log.run(func() { p.flush(round) })
	}
	return n, round, nil
}

// unlockAndUndo returns err, with which a write of n batches has failed, once nothing of them
// can be found any more. Of one alone a torn part was left and is cut off, of several whole
// batches: a power cut could bring those back as long as the cut is not flushed. Called with mu
// held, which it releases.
func (p *Partition) unlockAndUndo(ctx context.Context, n int, err error) error {
	if n == 1 || p.failed != nil { // then they are in doubt
		p.mu.Unlock()
		return err
	}
	if failed := p.unlockAndFlush(ctx, p.flushed); failed != nil {
		return errors.Join(inDoubt(failed), err)
	}
	return err
}

// together is how many batches can be written at once, of which the first one can: those
// that belong into the same segment, with what is unflushed and the disk allow it. What
// goes into the mapping goes alone, which takes less. Called under mu.
func (p *Partition) together(batches []batch.Batch, now int64) int {
	seg, cfg := p.active(), p.topic.config()
	if len(batches) == 1 || seg.size == 0 || seg.mapped.takes(len(batches[0]), seg.size) {
		return 1
	}
	bytes, next := len(batches[0]), p.end+Offset(batches[0].Count())
	for i, b := range batches[1:] {
		after := next + Offset(b.Count())
		if seg.shouldRollAt(seg.size+int64(bytes), b, next, now, cfg) || after > p.ceiling ||
			p.unflushed()+int64(bytes+len(b)) > maxUnflushed || !p.draw(int64(len(b)), now) {
			return 1 + i
		}
		bytes, next = bytes+len(b), after
	}
	return len(batches)
}
