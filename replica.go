package riffle

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rifflelog/riffle/internal/batch"
)

// A replica is a partition whose batches come from a leader, with their offsets
// and epochs, and whose high watermark is what the leader says. It never gives
// out an offset or an epoch of its own. Kafka: ReplicaManager, and UnifiedLog's
// appendAsFollower.

var (
	// errReplica: Append to a partition that takes batches from a leader only.
	// Kafka: NOT_LEADER_OR_FOLLOWER.
	errReplica = errors.New("partition is a replica, its leader appends to it")
	// errNoReplica: a leader's batch for a partition that gives out its offsets
	// itself.
	errNoReplica = errors.New("partition is not a replica")
	// errGap: a leader's batches leave out offsets inside an epoch. Kafka takes
	// that, since compaction leaves such gaps. Here nothing is compacted, and who
	// reads or recovers takes them for damage: see follows.
	errGap = errors.New("offsets are left out inside a leader epoch")
)

// snapshot is a partition as it was at one moment, as far as readers need it.
type snapshot struct {
	cuts               int64
	segs               *segmentSet // nil if there is none
	highWatermark, end Offset
}

// snapshot returns a partition's segments and bounds as they were together.
// Mostly they only grow, so that it is enough to load the high watermark first.
// When they may go back, which is done under mu, cuts is odd meanwhile and
// another number afterwards.
func (p *Partition) snapshot() snapshot {
	s := p.loadSnapshot()
	if s.cuts%2 == 0 && p.cuts.Load() == s.cuts {
		return s
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.loadSnapshot()
}

func (p *Partition) loadSnapshot() (s snapshot) {
	s.cuts = p.cuts.Load()
	s.highWatermark = Offset(p.highWatermark.Load())
	s.segs, s.end = p.segs.Load(), p.logEnd()
	return s
}

// start is the log start offset.
func (s snapshot) start() Offset {
	if s.segs == nil {
		return s.highWatermark
	}
	return s.segs.start()
}

// changeAlone makes a change as soon as no other is under way, the log start
// moving included. If ctx ends, the change may go on.
func (p *Partition) changeAlone(ctx context.Context, change func() error) error {
	for {
		p.mu.Lock()
		if err := p.writable(); err != nil {
			p.mu.Unlock()
			return err
		}
		if p.changing == nil {
			return p.unlockAndChange(ctx, func() error {
				if err := p.waitForMove(); err != nil {
					return err
				}
				return change()
			})
		}
		if err := p.unlockAndChange(ctx, nil); err != nil {
			return err
		}
	}
}

// becomeReplica makes the partition a replica, of which all before highWatermark
// is committed: as far as it has that, and at its start at least.
//
// A replica ends with its last batch: what its leader has between that and a
// later end, it would miss for good. So a gap at the end is cut off, which a
// ceiling has left, or an epoch of which no batch was kept.
func (p *Partition) becomeReplica(ctx context.Context, highWatermark Offset) error {
	err := p.changeAlone(ctx, func() error {
		p.takeBack()
		if p.dataEnd == p.end {
			return nil
		}
		c, err := p.findCut(p.dataEnd)
		if err == nil {
			err = p.truncate(c)
		}
		return err
	})
	if err == nil {
		p.wake() // whoever waits behind the gap, or where nothing is committed now
		_, err = p.setHighWatermark(ctx, highWatermark)
	}
	if err != nil {
		return p.error("become a replica", err)
	}
	return nil
}

// takeBack makes a partition a replica of which nothing is committed.
func (p *Partition) takeBack() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cuts.Add(1)
	p.beginChange(true)
	defer p.endChange()
	defer p.cuts.Add(1)
	p.replica, p.asked, p.ceiling = true, noCeiling, noCeiling
	p.epoch, _ = p.epochs.latest()
	if segs := p.segs.Load(); segs != nil {
		for _, seg := range segs.list {
			seg.lent = max(seg.lent, seg.committed.Swap(0))
		}
	}
	p.setEnd(p.end) // which the high watermark does not show any more
	p.highWatermark.Store(int64(p.start))
}

// appendReplica appends a leader's batches, of which the last may be cut short,
// and returns the log end, from which the replica goes on. Each batch keeps its
// offset and epoch. If one of them is corrupt or does not follow, none is
// appended: batch.ErrCorrupt, batch.ErrOffsetOrder, errGap. No size is too
// large, that was the leader's to say. When it returns nil, the batches are
// flushed as the topic's Flush says. They are not committed by that.
//
// After another error the batches before the log end are there.
func (p *Partition) appendReplica(ctx context.Context, set []byte) (end Offset, err error) {
	defer p.topic.log.guardAppend(&err)
	if err = ctx.Err(); err == nil {
		err = p.appendSet(ctx, set)
	}
	if err != nil {
		p.countError()
		err = p.error("append", err)
	}
	return p.logEnd(), err
}

func (p *Partition) appendSet(ctx context.Context, set []byte) error {
	set, next, err := p.checkSet(set)
	if err != nil || len(set) == 0 {
		return err
	}
	now := time.Now().UnixMilli()
	for len(set) > 0 {
		var b batch.Batch
		if b, set, err = batch.Split(set); err != nil {
			return err
		}
		if err = p.lockWithRoom(ctx, b, now); err != nil {
			return err
		}
		unmapped, err := p.appendRaw(b)
		p.mu.Unlock()
		if err != nil {
			p.reportFailure()
			p.topic.log.release(unmapped)
			return err
		}
	}
	if p.topic.config().Flush == FlushAsync {
		return nil
	}
	p.mu.Lock()
	return inDoubt(p.unlockAndFlush(ctx, next))
}

// checkSet returns the whole batches of set and the offset after them, if all of
// them can be appended.
func (p *Partition) checkSet(set []byte) (whole []byte, next Offset, err error) {
	p.mu.Lock()
	end, epoch := p.end, p.epoch
	p.mu.Unlock()
	n, after, err := batch.Replicated(set, int64(end))
	for rest := set[:n]; err == nil && len(rest) > 0; {
		var b batch.Batch
		if b, rest, err = batch.Split(rest); err == nil {
			err = goesOn(end, epoch, b)
			end, epoch = Offset(b.NextOffset()), b.LeaderEpoch()
		}
	}
	return set[:n], Offset(after), err
}

// goesOn says why b cannot be appended to a replica that ends with end and epoch.
func goesOn(end Offset, epoch int32, b batch.Batch) error {
	switch base := Offset(b.BaseOffset()); {
	case base < end:
		return fmt.Errorf("%w: batch at offset %d, the log ends at %d", batch.ErrOffsetOrder, base, end)
	case b.LeaderEpoch() < max(epoch, 0):
		return fmt.Errorf("%w: batch at offset %d has leader epoch %d, after %d", batch.ErrOffsetOrder, base, b.LeaderEpoch(), epoch)
	case base > end && b.LeaderEpoch() == epoch:
		return fmt.Errorf("%w: batch at offset %d in epoch %d, the log ends at %d", errGap, base, epoch, end)
	}
	return nil
}

// accepts says why b is not the partition's to append: a replica takes batches
// that have an epoch, which go on from its end, others take those that get one.
// Called under mu.
func (p *Partition) accepts(b batch.Batch) error {
	switch given := b.LeaderEpoch() != noEpoch; {
	case p.replica && !given:
		return errReplica
	case !p.replica && given:
		return errNoReplica
	case !given || p.changing != nil: // it is asked again after the change
		return nil
	}
	return goesOn(p.end, p.epoch, b)
}

// setHighWatermark commits the batches before o, as the leader has, and returns
// the high watermark. It only rises, to the end of a batch, and not beyond what
// is there or, under FlushBeforeAck, flushed. Kafka:
// UnifiedLog.maybeUpdateHighWatermark.
func (p *Partition) setHighWatermark(ctx context.Context, o Offset) (Offset, error) {
	for {
		p.mu.Lock()
		switch {
		case !p.replica:
			p.mu.Unlock()
			return NoOffset, errNoReplica
		case p.changing != nil: // which may be a truncation
			if err := p.unlockAndChange(ctx, nil); err != nil {
				return NoOffset, err
			}
			continue
		}
		to := min(o, p.commitable())
		if hw := Offset(p.highWatermark.Load()); to <= hw {
			p.mu.Unlock()
			return hw, nil
		}
		if seg := p.active(); to == p.dataEnd {
			p.commitTo(to, seg, seg.size) // above the high watermark, there is a segment
			p.mu.Unlock()
			p.wake()
			return to, nil
		}
		// What is not committed may be cut in place. Nothing is cut during a change.
		failed := make(chan error, 1)
		err := p.unlockAndChange(ctx, func() error {
			failed <- p.commitBefore(to)
			return nil // the partition stays as it is
		})
		if err == nil {
			err = <-failed
		}
		p.wake()
		return Offset(p.highWatermark.Load()), err
	}
}

// commitBefore commits the batches that lie before o as a whole. Nothing is cut
// meanwhile.
func (p *Partition) commitBefore(o Offset) error {
	seg := p.segs.Load().find(o)
	p.mu.Lock()
	size := seg.size
	p.mu.Unlock()
	pos, end, err := p.boundary(seg, size, o)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if end > Offset(p.highWatermark.Load()) {
		p.commitTo(end, seg, pos)
	}
	return nil
}

// commitable is how far the high watermark may rise: not into a gap, behind which a
// first append has begun and failed. Called under mu.
func (p *Partition) commitable() Offset {
	if p.topic.config().Flush == FlushBeforeAck && p.flushed < p.dataEnd {
		return p.flushed
	}
	return p.dataEnd
}

// commitTo commits all before hw: pos bytes of seg and all segments before it.
// Called under mu.
func (p *Partition) commitTo(hw Offset, seg *segment, pos int64) {
	for _, s := range p.segs.Load().list {
		if s.base < seg.base {
			s.committed.Store(s.size)
		}
	}
	seg.committed.Store(pos)
	p.highWatermark.Store(int64(hw))
	p.publishSoon()
}

// boundary returns where in the first limit bytes of a segment the batches end
// that lie before offset o as a whole, and the offset after them. It looks at no
// batch that begins at o: that one may be what is to be cut, since it is damaged.
func (p *Partition) boundary(seg *segment, limit int64, o Offset) (pos int64, end Offset, err error) {
	if o <= seg.base {
		return 0, seg.base, nil
	}
	r := readers.Get().(*reader)
	defer r.release()
	r.start(p, o)
	r.win.reset(seg, limit)
	if pos, end, err = p.place(seg, &r.win, o-1); err != nil {
		return 0, 0, err
	}
	for epoch := noEpoch; pos < limit && end < o; {
		head, err := r.win.bytes(pos, batch.HeaderSize)
		if err == nil {
			err = headerFollows(end, epoch, head)
		}
		if err != nil {
			if isDamage(err) {
				if spare, failed := zeros(seg, pos, limit); spare || failed != nil {
					return pos, end, failed // a crash brought back what was cut
				}
				err = &CorruptError{File: seg.file.Name(), Pos: pos, Offset: end, Next: NoOffset, Err: err}
			}
			return 0, 0, err
		}
		h := batch.Batch(head)
		if Offset(h.NextOffset()) > o {
			break
		}
		size, err := batch.Size(head)
		if err != nil {
			return 0, 0, err
		}
		pos, end, epoch = pos+int64(size), Offset(h.NextOffset()), h.LeaderEpoch()
	}
	return pos, end, nil
}

// headerFollows says why head is not the header of the batch that comes next: at
// want or, if no batch is known before it, behind a gap.
func headerFollows(want Offset, epoch int32, head []byte) error {
	if !batch.Plausible(head) {
		return fmt.Errorf("%w: no header of a batch", batch.ErrCorrupt)
	}
	h := batch.Batch(head)
	if epoch == noEpoch {
		want = max(want, Offset(h.BaseOffset()))
	}
	return checkFollows(want, epoch, h)
}
