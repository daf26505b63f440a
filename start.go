package riffle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/rifflelog/riffle/internal/vfs"
)

// siteStart is the flush of a log start that has moved, before what is below it
// goes.
const siteStart vfs.Site = "start.bounds.flush"

// DeleteBefore deletes the records before offset to, which becomes the log start:
// [Bounds].Start. Latest stands for the high watermark, and deletes all that can
// be read. Offsets go on as before. Loops that stand before to end with
// *OffsetError, others go on.
//
// When it returns nil, the records are gone for good, whatever happens to the
// machine; the space of those files that have none left is given back soon after,
// and so it succeeds on a full disk. If there is nothing before to, it does nothing.
//
// If ctx ends, or the disk fails, while it waits for that, the error is ErrInDoubt:
// the records may be gone then, or go later, together. Any other error means that
// they are there: *OffsetError if to is beyond the high watermark, or negative and
// not Latest; ErrPolicy if the topic's Cleanup does not delete; ErrInvalidTopic for
// the log's own topics; ErrTopicNotFound if it is deleted; ErrReadOnly,
// ErrPartitionFailed, ErrDiskFull, ErrClosed, and ctx's. Kafka: DeleteRecords.
func (p *Partition) DeleteBefore(ctx context.Context, to Offset) error {
	err := p.alive(ctx)
	if err == nil {
		p.mu.Lock()
		err = p.writable()
		p.mu.Unlock()
	}
	if err == nil {
		to, err = p.checkDelete(to)
	}
	if err == nil && to > p.snapshot().start() {
		err = p.moveStartFor(ctx, to)
	}
	if err != nil {
		return p.error("delete", err)
	}
	return nil
}

// checkDelete returns the offset that to stands for, or says why records before it
// cannot be deleted. The order is Kafka's: Partition.deleteRecordsOnLeader.
func (p *Partition) checkDelete(to Offset) (Offset, error) {
	b := p.Bounds()
	if to == Latest {
		to = b.HighWatermark
	}
	switch {
	case p.topic.internal:
		return 0, fmt.Errorf("%w: %s is the log's own", ErrInvalidTopic, p.topic.name)
	case !p.topic.config().Cleanup.deletes():
		return 0, fmt.Errorf("%w: Cleanup is CleanupCompact", ErrPolicy)
	case to < 0 || to > b.HighWatermark:
		return 0, &OffsetError{Offset: to, Start: b.Start, End: b.HighWatermark}
	}
	return to, nil
}

// moveStartFor is moveStart for a caller whose ctx may end before it does. One such
// move at a time is on a goroutine of the log: who comes meanwhile waits on his own,
// so that a disk that hangs does not gather goroutines.
func (p *Partition) moveStartFor(ctx context.Context, to Offset) error {
	asked, err := p.askToMove(ctx)
	if err != nil {
		return err
	}
	result := make(chan error, 1)
	move := func() {
		err := p.moveStart(to, "asked for")
		p.endAsked(asked)
		result <- err
	}
	if !p.topic.log.start(move) {
		p.endAsked(asked)
		return p.topic.log.closedError()
	}
	return p.topic.log.answer(ctx, result)
}

// askToMove waits until no other move that was asked for is under way.
func (p *Partition) askToMove(ctx context.Context) (chan struct{}, error) {
	for {
		p.mu.Lock()
		before := p.asking
		if before == nil {
			mine := make(chan struct{})
			p.asking = mine
			p.mu.Unlock()
			return mine, nil
		}
		p.mu.Unlock()
		select {
		case <-before:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-p.topic.log.closing:
			return nil, p.topic.log.closedError()
		}
	}
}

// endAsked lets the next one go on.
func (p *Partition) endAsked(asked chan struct{}) {
	p.mu.Lock()
	p.asking = nil
	p.mu.Unlock()
	close(asked)
}

// moveStart makes to the log start offset, unless that is beyond it already. To is
// at most the high watermark. It is for goroutines that closing waits for, goes on
// beside appends and rolls, and works on a full disk. Reason is for the logger.
//
// Step by step, and what would go wrong otherwise: (1) if no record is left, the
// next segment is begun, so that there is one whose name is the log end; (2) the
// start is made durable in bounds, or what is deleted next would be missed, as
// damage, and what is acknowledged as deleted could be back; (3) it is shown,
// together with the segments that are left, so that a reader that finds a file
// closed looks again; (4) the files below it are removed, in any order: what a crash
// leaves of them lies below the start, and recovery removes it.
//
// After an error of step 2 the start is where it was, but may have moved when the
// log is opened next.
func (p *Partition) moveStart(to Offset, reason string) error {
	return p.topic.log.space.insist(func() error {
		return diskError(p.tryToMoveStart(to, reason))
	})
}

func (p *Partition) tryToMoveStart(to Offset, reason string) error {
	if err := p.makeWay(func() bool { return to >= p.end }); err != nil {
		return err
	}
	begun, err := p.beginMove(to)
	if err != nil || !begun {
		return err
	}
	n, bytes, err := p.moveNow(to)
	if err != nil {
		return err
	}
	// When the move has ended: the logger is the caller's code, and may append, and the
	// first append waits for a move.
	p.topic.log.opts.Logger.Info("records are deleted", "topic", p.topic.name, "partition", p.index,
		"start", int64(to), "segments", n, "bytes", bytes, "reason", reason)
	return nil
}

// moveNow is the move that has begun. It returns how many segments have gone, and their bytes.
func (p *Partition) moveNow(to Offset) (n int, bytes int64, err error) {
	defer p.endMove()
	if err := p.syncStart(to); err != nil {
		return 0, 0, err
	}
	n, bytes = p.publishStart(to)
	p.wake() // whoever waits has been passed, if it waits at the end of what is gone
	p.removeSoon()
	return n, bytes, nil
}

// makeWay begins the next segment if all, called under mu, says that no record of
// the active one shall be left. Before that, and before bounds say anything of a
// partition that was not closed cleanly, its epoch is begun: what they say is said
// by this boot of the machine, which has not seen the records that may be lost.
func (p *Partition) makeWay(all func() bool) error {
	p.mu.Lock()
	begin := !p.begun && p.unclean && !p.replica && p.active() != nil
	roll := p.hasRecords() && all()
	p.mu.Unlock()
	if !begin && !roll {
		return nil
	}
	return p.changeAlone(context.Background(), func() error {
		if begin && !p.begun {
			if err := p.begin(p.end, p.nextEpoch()); err != nil {
				return err
			}
		}
		p.mu.Lock()
		roll := p.hasRecords() && all()
		p.mu.Unlock()
		if roll {
			return p.roll()
		}
		return nil
	})
}

// hasRecords says whether the active segment has batches. Called under mu.
func (p *Partition) hasRecords() bool {
	seg := p.active()
	return seg != nil && seg.size > 0
}

// beginMove has other moves of the start, and changes that may take bounds back,
// wait until endMove. It returns false if the start is not before to.
func (p *Partition) beginMove(to Offset) (bool, error) {
	for {
		p.mu.Lock()
		waiting := p.changing
		if waiting == nil {
			waiting = p.moving
		}
		segs, err := p.segs.Load(), p.writable()
		needed := segs != nil && segs.start() < to && to <= Offset(p.highWatermark.Load())
		if err == nil && needed && waiting == nil {
			p.moving = make(chan struct{})
			p.mu.Unlock()
			return true, nil
		}
		p.mu.Unlock()
		if err != nil || !needed {
			return false, err
		}
		select {
		case <-waiting:
		case <-p.topic.log.broken:
			return false, p.topic.log.closedError()
		}
	}
}

func (p *Partition) endMove() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.moving)
	p.moving = nil
}

// waitForMove returns when the start is not being moved. It is for changes, during
// which no other move begins.
func (p *Partition) waitForMove() error {
	p.mu.Lock()
	moving := p.moving
	p.mu.Unlock()
	if moving == nil {
		return nil
	}
	select {
	case <-moving:
		return nil
	case <-p.topic.log.broken:
		return p.topic.log.closedError()
	}
}

// syncStart notes durably that the log starts at to. After an error bounds are to
// say again what they said.
func (p *Partition) syncStart(to Offset) error {
	b := p.topic.log.bounds
	entry, _, _, err := b.slotFor(p.topic.id, int32(p.index))
	if err != nil {
		return err
	}
	p.mu.Lock()
	before := p.start
	p.entry = entry
	p.setStart(to)
	p.mu.Unlock()
	if err = b.sync(siteStart); err != nil {
		p.mu.Lock()
		p.setStart(before)
		p.mu.Unlock()
		err = inDoubt(err)
	}
	return err
}

// setStart notes in bounds where the log starts. Of a partition that nobody has
// appended to, all else stays as it is there: that it was closed cleanly. Called
// under mu.
func (p *Partition) setStart(o Offset) {
	p.start = o
	_, part, known := p.topic.log.bounds.lookup(p.entry.key)
	if p.begun || !known {
		p.setBounds(false)
		return
	}
	part.start = o
	p.entry.setCrash(part)
}

// publishStart shows that the log starts at to. It returns how many segments go,
// and their size.
func (p *Partition) publishStart(to Offset) (n int, bytes int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	segs := p.segs.Load()
	for n < len(segs.list)-1 && segs.list[n+1].base <= to {
		bytes += segs.list[n].size
		n++
	}
	p.cuts.Add(1)
	p.deleted = append(p.deleted, segs.list[:n]...)
	p.segs.Store(segs.startingAt(n, to))
	p.epochs.truncateFromStart(to)
	if active := p.active(); active.size == 0 && active.base <= to {
		// Nothing before it can be missed, a gap neither.
		p.dataEnd, p.flushed = max(p.dataEnd, active.base), max(p.flushed, active.base)
	}
	p.cuts.Add(1)
	p.publishChange(false)
	c := p.count()
	c.startMoves++
	c.deletedSegments += int64(n)
	c.deletedBytes += bytes
	return n, bytes
}

// removeSoon removes the files of deleted segments in the background. If that cannot
// be, the next opening does.
func (p *Partition) removeSoon() {
	p.mu.Lock()
	n := len(p.deleted)
	p.mu.Unlock()
	if n > 0 {
		p.topic.log.inBackground(func() { _ = p.removeDeleted() })
	}
}

// removeDeleted removes the files of deleted segments. What cannot be removed is tried
// again with the next check of retention, and before anything may bring the start
// back.
func (p *Partition) removeDeleted() error {
	p.removing.Lock() // also if there are none: somebody else may be at it
	defer p.removing.Unlock()
	p.mu.Lock()
	gone := p.deleted
	p.deleted = nil
	p.mu.Unlock()
	var left []*segment
	var errs []error
	for _, seg := range gone {
		if err := p.removeFiles(seg); err != nil {
			left, errs = append(left, seg), append(errs, err)
			p.topic.log.opts.Logger.Warn("file of deleted records is not removed", "file", seg.file.Name(), "err", err)
		}
	}
	p.mu.Lock()
	p.deleted = append(left, p.deleted...)
	p.mu.Unlock()
	return errors.Join(errs...)
}

// leaveDeleted closes the files of deleted segments and leaves them to who removes the
// whole directory: by its name, another topic's may be found from now on.
func (p *Partition) leaveDeleted() {
	p.removing.Lock()
	defer p.removing.Unlock()
	p.mu.Lock()
	gone := p.deleted
	p.deleted = nil
	p.mu.Unlock()
	for _, seg := range gone {
		_ = seg.file.Close()
	}
}

// removeFiles closes a segment for good and removes its files, that of its batches
// last: the others are made from it.
func (p *Partition) removeFiles(seg *segment) error {
	if err := p.forget(seg); err != nil {
		return err
	}
	if err := seg.file.Close(); err != nil && !errors.Is(err, fs.ErrClosed) {
		return err
	}
	err := p.topic.log.fs.Remove(p.path(logFileName(seg.base)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
