package riffle

import (
	"context"
	"errors"
	"io/fs"

	"github.com/rifflelog/riffle/internal/batch"
	"github.com/rifflelog/riffle/internal/invariants"
	"github.com/rifflelog/riffle/internal/vfs"
)

// The places at which a truncation depends on what came before.
const (
	siteTruncateBounds vfs.Site = "truncate.bounds.flush" // of a lower recovery point
	siteTruncateCopy   vfs.Site = "truncate.copy.flush"   // of the part of a segment that is kept
	siteTruncateEpochs vfs.Site = "truncate.epochs.flush" // of those that are kept
	siteTruncateNames  vfs.Site = "truncate.syncdir"      // of their file, and of seals that are removed
	siteTruncateDir    vfs.Site = "truncate.drop.syncdir" // of each segment that is removed
	siteTruncateFlush  vfs.Site = "truncate.flush"        // of the segment that was cut
	siteTruncateSwap   vfs.Site = "truncate.swap.syncdir" // of the segment that was replaced
	siteRestartBounds  vfs.Site = "restart.bounds.flush"  // of another log start
)

// cut says what of a partition is kept.
type cut struct {
	kept []*segment // the last of which is cut; none if the log starts anew at end
	gone []*segment
	end  Offset   // the log end afterwards
	next *segment // what the last one that is kept is afterwards; nil if none is
}

// last returns the last one that is kept.
func (c *cut) last() *segment { return c.kept[len(c.kept)-1] }

// changed returns the segments of which something is cut.
func (c *cut) changed() []*segment {
	if c.next == nil {
		return c.gone
	}
	return append([]*segment{c.last()}, c.gone...)
}

// copied says that the last one is replaced by a copy.
func (c *cut) copied() bool {
	return c.next != nil && c.next.file != nil && c.next.file != c.last().file
}

// truncateTo removes the batches of a replica with an offset at or beyond n, the
// one that n is in included. The log ends with the last batch before it then,
// and so do its epochs, also if n is beyond the end: the last epoch may have no
// batch. If n is not behind the first batch, nothing is left, and if it is below
// the start, the log starts at n. The high watermark is lowered if need be.
//
// When it returns nil, that is durable. If ctx ends, it may go on. After an error
// of the file system the partition is offline, unless the disk was full before
// anything was removed. Kafka: UnifiedLog.truncateTo.
func (p *Partition) truncateTo(ctx context.Context, n Offset) error {
	return p.changeReplica(ctx, n, func() (cut, error) { return p.findCut(n) })
}

// truncateFullyAndStartAt removes all batches of a replica, and has it go on at
// n: start, high watermark and end. The rest is as of truncateTo. Kafka:
// UnifiedLog.truncateFullyAndStartAt, for a follower that is below its leader's
// start.
func (p *Partition) truncateFullyAndStartAt(ctx context.Context, n Offset) error {
	return p.changeReplica(ctx, n, func() (cut, error) { return p.cutAll(n), nil })
}

func (p *Partition) changeReplica(ctx context.Context, n Offset, find func() (cut, error)) error {
	p.mu.Lock()
	replica := p.replica
	p.mu.Unlock()
	var err error
	switch {
	case !replica:
		err = errNoReplica
	case n < 0: // Kafka: IllegalArgumentException
		b := p.Bounds()
		err = &OffsetError{Offset: n, Start: b.Start, End: b.End}
	default:
		err = p.changeAlone(ctx, func() error {
			c, err := find()
			if err == nil {
				err = p.truncate(c)
			}
			return err
		})
	}
	if err != nil {
		return p.error("truncate", err)
	}
	p.wake() // whoever waits behind the end
	return nil
}

// findCut returns the cut at offset n.
func (p *Partition) findCut(n Offset) (c cut, err error) {
	segs := p.segs.Load()
	if segs == nil {
		return p.cutAll(min(n, p.end)), nil
	}
	if n < segs.start() {
		return p.cutAll(n), nil
	}
	for i := len(segs.list); i > 0; i-- {
		seg := segs.list[i-1]
		pos, end, err := p.boundary(seg, seg.size, n)
		if err != nil {
			return cut{}, err
		}
		if end < segs.start() {
			break // the start is in that batch, and does not go back
		}
		if pos == 0 {
			continue // the segment before goes on, and is followed by another when it is full
		}
		next, err := p.cutAt(seg, pos)
		return cut{kept: segs.list[:i], gone: segs.list[i:], end: end, next: next}, err
	}
	return p.cutAll(segs.start()), nil
}

// cutAt returns what a segment is after a cut at byte pos, as yet without a file.
// As recovery does, it goes to the last place before that which the index knows,
// and finds the batches from there on once more: the time index has no entry of
// its own for each.
func (p *Partition) cutAt(seg *segment, pos int64) (*segment, error) {
	x, err := p.indexOf(seg, true)
	if err != nil {
		return nil, err
	}
	var w window
	w.reset(seg, pos)
	at, from, ok := x.offset.findPos(pos - 1)
	if ok {
		_, err = batchBase(&w, from, at)
		ok = err == nil // else the index is wrong
	}
	next := newSegment(seg.base, nil).withIndex(newSegmentIndex(seg.base))
	if ok {
		x = x.clone()
		x.truncate(at, from)
		head, err := w.bytes(0, batch.HeaderSize)
		if err != nil {
			return nil, err
		}
		next.withIndex(x).size = from
		next.firstTimestamp = batch.Batch(head).MaxTimestamp()
	}
	for next.size < pos {
		b, err := w.batch(next.size)
		if err == nil {
			err = b.Check()
		}
		if isDamage(err) {
			return nil, &CorruptError{File: seg.file.Name(), Pos: next.size, Offset: NoOffset, Next: NoOffset, Err: err}
		}
		if err != nil {
			return nil, err
		}
		next.found(b)
	}
	return next, nil
}

// cutAll returns the cut that leaves nothing, after which the log goes on at n.
func (p *Partition) cutAll(n Offset) cut {
	c := cut{end: n}
	if segs := p.segs.Load(); segs != nil {
		c.gone = segs.list
	}
	return c
}

// truncate makes a cut. Nothing is appended or flushed meanwhile.
//
// Step by step, and what would go wrong otherwise: (1) the recovery point is
// lowered to where the log will end, or what is missing would be taken for
// damage, and bounds say as of a flush that failed that what can be read may not be
// on the disk: of a process that is killed on the way, the next one shows what it
// finds, and a power cut would take that back; (2) if somebody may read what is cut, what is kept of that segment is
// copied, and flushed; (3) what side files know of the batches that are cut is
// removed, or it would be believed of those that take their places; the epochs
// that begin there or beyond are dropped, or batches that are appended there next,
// in an epoch that is kept, would seem to be of one of those; until the batches
// are gone, recovery finds their epochs in them; (4) the log is shown to end
// there, so that who finds a file cut or closed looks again; (5) the segments
// behind are removed, the last one first, and each durably before the next, or
// one could survive behind a gap; (6) the last one is cut, and flushed, or
// replaced by its copy, or later batches could be followed by old ones.
//
// Up to step 3 an error leaves all as it was. Afterwards it takes the partition
// offline.
func (p *Partition) truncate(c cut) error {
	release, err := p.holdFlushes()
	if err != nil {
		return err
	}
	defer release()
	if err := p.removeDeleted(); err != nil {
		return err // a file that is below the start now may not be then
	}
	epochs, err := p.prepareCut(&c)
	if err != nil {
		return err
	}
	if seg := p.active(); seg != nil {
		p.endGrowing(seg)
	}
	p.publishCut(c, epochs)
	err = p.cutFiles(c)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endChange()
	if err != nil {
		p.fail(err) // also if the disk is full: the files are no more what they were
		return err
	}
	p.flushed, p.flushedSize, p.cutFlushed, p.mustRoll = c.end, p.activeSize(), p.cut, false
	p.staleEpochs, p.unfinished, p.cutting = false, NoOffset, false
	p.setBounds(false)
	return nil
}

// prepareCut does what can be taken back if it fails. It returns the epochs that
// are left.
func (p *Partition) prepareCut(c *cut) (epochs *epochCache, err error) {
	floor, flushed, start := c.end, p.flushed, p.start
	if c.next == nil {
		floor = start
	}
	lower := func() {
		if p.segs.Load() == nil && c.end < start {
			// Nothing is there, also not at the end, where it would have begun: bounds
			// shall not say so even for a moment.
			p.start, floor = c.end, c.end
		}
		p.flushed, p.cutting = min(p.flushed, floor), true
	}
	if err = p.syncBounds(siteTruncateBounds, lower); err == nil && c.next != nil {
		err = p.fileFor(c)
	}
	for _, seg := range c.changed() {
		if err == nil {
			err = p.forget(seg)
		}
	}
	if err == nil {
		epochs, err = p.cutEpochs(c)
	}
	if err == nil {
		return epochs, nil
	}
	for _, seg := range c.changed() {
		p.remember(seg)
	}
	if c.copied() {
		err = errors.Join(err, c.next.file.Close(), p.topic.log.fs.Remove(c.next.file.Name()))
	}
	p.mu.Lock()
	p.flushed, p.start, p.cutting = flushed, start, false
	p.mu.Unlock()
	return nil, err
}

// fileFor gives the segment with which the log ends its file: the one that there
// is or, if somebody may read what is cut, a copy. That is, readers, and of a
// segment that is not active who seals it.
func (p *Partition) fileFor(c *cut) (err error) {
	old, next := c.last(), c.next
	invariants.Check(old.again == 0, "%d bytes of a killed process are to be flushed after opening", old.again)
	next.committed.Store(min(old.committed.Load(), next.size))
	next.mapped.own.Store(next.size)
	p.mu.Lock()
	lent := max(old.lent, old.committed.Load())
	p.mu.Unlock()
	if next.size < lent || next.size < old.size && old != p.active() {
		next.file, err = p.copySegment(old, next.size)
		return err
	}
	next.lent, next.file = lent, old.file
	return nil
}

// holdFlushes returns when no flush is running, and keeps others from beginning
// until release is called: it takes the place of a round. Opening has begun one
// for what a killed process wrote, so that is flushed too.
func (p *Partition) holdFlushes() (release func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		before := p.flushing.next
		if before == nil {
			before = p.flushing.running
		}
		if before == nil {
			break
		}
		p.mu.Unlock()
		select {
		case <-before.done:
		case <-p.topic.log.broken:
			err = p.topic.log.closedError()
		}
		p.mu.Lock()
		if err != nil {
			return nil, err
		}
	}
	if err := p.writable(); err != nil {
		return nil, err // that flush has failed
	}
	round := &flushRound{done: make(chan struct{})}
	p.flushing.running = round
	return func() {
		p.mu.Lock()
		p.flushing.running = nil
		p.mu.Unlock()
		close(round.done)
	}, nil
}

// cutEpochs returns the epochs that a cut leaves, and puts them into the file,
// whose name cutFiles makes durable. Also if they do not change: the file may
// have more of them.
func (p *Partition) cutEpochs(c *cut) (*epochCache, error) {
	epochs := newEpochCache(nil)
	if c.next != nil {
		epochs.replace(p.epochs.load())
		epochs.truncateFromEnd(c.end)
	}
	err := vfs.ReplaceFile(p.topic.log.fs, siteTruncateEpochs, p.path(epochCheckpointName), epochs.format())
	if p.segs.Load() == nil && errors.Is(err, fs.ErrNotExist) {
		err = nil // there is no directory yet
	}
	return epochs, err
}

// cutFiles makes a cut in the partition's directory, durably.
func (p *Partition) cutFiles(c cut) error {
	err := p.topic.log.fs.SyncDir(siteTruncateNames, p.dir)
	if len(c.changed()) == 0 && errors.Is(err, fs.ErrNotExist) {
		err = nil // there is no directory yet
	}
	closing := c.gone
	if c.copied() {
		closing = c.changed()
	}
	for _, seg := range closing {
		if failed := seg.file.Close(); !errors.Is(failed, fs.ErrClosed) { // by who was to replace it
			err = errors.Join(err, failed)
		}
	}
	if err == nil && p.unfinished != NoOffset {
		err = p.dropSegment(p.unfinished)
	}
	for i := len(c.gone) - 1; i >= 0 && err == nil; i-- {
		err = p.dropSegment(c.gone[i].base)
	}
	switch {
	case err != nil:
		return err
	case c.next == nil:
		return p.syncBounds(siteRestartBounds, func() { p.start, p.flushed, p.cutting = c.end, c.end, false })
	case c.copied():
		return p.replaceSegment(c.next)
	}
	return p.cutSegment(c.next)
}

// dropSegment removes the file of a segment, if it is there, durably.
func (p *Partition) dropSegment(base Offset) error {
	if err := p.removeSegment(base); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return p.topic.log.fs.SyncDir(siteTruncateDir, p.dir)
}

// cutSegment cuts a segment's file in place, durably. Nobody reads there.
func (p *Partition) cutSegment(seg *segment) error {
	if err := seg.cut(); err != nil {
		return err
	}
	return seg.file.Sync(siteTruncateFlush)
}

// copySegment writes the first n bytes of a segment to another file, durably.
// After an error there is none.
func (p *Partition) copySegment(seg *segment, n int64) (vfs.File, error) {
	name := p.path(logFileName(seg.base)) + vfs.TempSuffix
	to, err := p.topic.log.files.create(name)
	if err != nil {
		return nil, err
	}
	if err = copyBytes(to, 0, seg.file, 0, n); err == nil {
		err = to.Sync(siteTruncateCopy)
	}
	if err != nil {
		return nil, errors.Join(err, to.Close(), p.topic.log.fs.Remove(name))
	}
	return to, nil
}

// replaceSegment gives the copy that seg is in the name of what it replaces,
// durably. That has been closed, as Windows wants it.
func (p *Partition) replaceSegment(seg *segment) error {
	if err := seg.file.(*segmentFile).rename(p.path(logFileName(seg.base))); err != nil {
		return err
	}
	return p.topic.log.fs.SyncDir(siteTruncateSwap, p.dir)
}

// publishCut shows what a cut leaves.
func (p *Partition) publishCut(c cut, epochs *epochCache) {
	p.mu.Lock()
	var unmapped extents
	if seg := p.active(); seg != nil {
		unmapped = seg.mapped.unmap()
	}
	p.beginChange(true)
	p.cuts.Add(1)
	p.epochs.replace(epochs.load())
	p.epoch, _ = epochs.latest()
	hw := min(Offset(p.highWatermark.Load()), c.end)
	if c.next != nil {
		p.segs.Store(&segmentSet{list: append(c.kept[:len(c.kept)-1:len(c.kept)-1], c.next), from: p.start})
	} else {
		// The next batch makes the directory's first file again.
		p.segs.Store(nil)
		p.begun, hw = false, c.end
	}
	p.highWatermark.Store(int64(hw))
	p.setEnd(c.end)
	p.dataEnd, p.flushedSize = c.end, min(p.flushedSize, p.activeSize())
	p.cuts.Add(1)
	p.mu.Unlock()
	unmapped.unpin()
}
