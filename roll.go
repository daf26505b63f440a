package riffle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"

	"github.com/rifflelog/riffle/internal/vfs"
)

// The places at which a new segment depends on what came before.
const (
	siteRollFlushed vfs.Site = "roll.flushed" // that the old segment is on stable storage
	siteRollSyncDir vfs.Site = "roll.syncdir" // before the new one takes batches
)

// The places at which what is promised for the future is made durable before
// it is relied on.
const (
	siteEpochs      vfs.Site = "begin.epochs"       // .flush and .syncdir
	siteBeginBounds vfs.Site = "begin.bounds.flush" // the partition is in use
	siteCeiling     vfs.Site = "ceiling.flush"
)

// unlockAndChange makes a change while which nothing is appended, or waits for
// the one that is under way if change is nil. It is called with mu held and
// releases it. The caller looks anew afterwards.
func (p *Partition) unlockAndChange(ctx context.Context, change func() error) error {
	changing := p.changing
	if change != nil {
		changing = make(chan struct{})
		p.changing = changing
	}
	p.mu.Unlock()
	result := make(chan error, 1)
	if change != nil {
		run := func() { result <- p.change(change) }
		// Like a flush, it cannot be interrupted.
		if ctx.Done() == nil || !p.topic.log.start(run) {
			p.topic.log.run(run)
		}
	}
	select {
	case err := <-result:
		return err
	case <-p.topic.log.broken:
		return p.topic.log.closedError()
	default:
	}
	waiting := changing
	if change != nil {
		waiting = nil // the result comes after it
	}
	select {
	case err := <-result:
		return err
	case <-waiting:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-p.topic.log.broken:
		return p.topic.log.closedError()
	}
}

// change makes a change and lets the others go on. An error of the file system
// takes the partition offline, unless it may be mended: a full disk, too many open
// files, another topic's directory. Nothing was appended, so nothing is in doubt.
func (p *Partition) change(change func() error) error {
	err := change()
	full := diskError(err)
	var damaged *CorruptError
	p.mu.Lock()
	switch {
	case err == nil:
	case errors.Is(full, ErrDiskFull) || errors.Is(err, vfs.ErrNoFiles) || errors.As(err, &damaged):
		err = full
	default:
		p.fail(err)
		err = fmt.Errorf("%w: %w", ErrPartitionFailed, err)
	}
	close(p.changing)
	p.changing = nil
	p.mu.Unlock()
	p.reportFailure()
	return err
}

// beginAppending does what must be durable before the first append of an
// incarnation.
//
// Step by step, and what would go wrong otherwise: (1) the directory is made, if
// there is none; (2) after an unclean stop, a new epoch begins: batches of it
// can be told from those that were lost, and their offsets may leave a gap; its
// file is durable before its batches are, since recovery does not look for
// epochs in what was flushed; (3) bounds say that the partition is in use, or
// the next stop would be taken for a clean one, and up to which offset it may
// append.
//
// Of a replica, given is the epoch that its leader began, and base the offset of its
// first batch, which may leave a gap as well: the log goes on at it. Else given is
// noEpoch.
func (p *Partition) beginAppending(given int32, base Offset) error {
	if given != noEpoch {
		return p.begin(base, given)
	}
	return p.begin(p.end, p.nextEpoch())
}

// begin is beginAppending, where the log goes on at end in an epoch.
func (p *Partition) begin(end Offset, epoch int32) error {
	if err := p.waitForMove(); err != nil {
		return err
	}
	old := p.active()
	next, err := p.segmentToBegin(old, end, epoch)
	if err != nil {
		return err
	}
	err = p.syncBounds(siteBeginBounds, func() {
		p.asked = p.ceilingAbove(end)
		if next != nil && (old == nil || old == p.segs.Load().list[0]) {
			p.start = end
		}
	})
	p.mu.Lock()
	if p.closed || err != nil {
		p.mu.Unlock() // the next attempt makes it anew
		if next != nil {
			err = errors.Join(err, next.file.Close())
		}
		return err
	}
	p.showBegun(old, next, end)
	if next != nil {
		p.unfinished = NoOffset
	}
	p.epochs.assign(epoch, end)
	p.staleEpochs = false
	p.begun, p.epoch, p.ceiling = true, epoch, p.asked
	p.publishChange(false)
	p.mu.Unlock()
	return nil
}

// showBegun shows the segment that the log goes on with at end, if it is not the
// old one. A leader's first batch may be behind a gap: the log starts there then, and
// bounds are in order for whoever looks. Called under mu.
func (p *Partition) showBegun(old, next *segment, end Offset) {
	segs := p.segs.Load()
	switch {
	case next == nil:
	case old == nil:
		segs = new(segmentSet).with(next)
	default:
		segs = segs.withoutActive().with(next)
	}
	if Offset(p.highWatermark.Load()) < end && end == segs.start() {
		p.cuts.Add(1)
		defer p.cuts.Add(1)
		p.highWatermark.Store(int64(end))
	}
	p.segs.Store(segs)
	p.setEnd(end)
}

// segmentToBegin makes the segment that the log goes on with at end, and its
// epoch, durably; nil if that is the active one, which may be nil. An empty one
// that begins elsewhere takes no batch, and is removed: once it is the first, its
// name has to be the offset of its first batch, or a batch would be missed there.
// One flush of the directory covers both.
func (p *Partition) segmentToBegin(active *segment, end Offset, epoch int32) (*segment, error) {
	if active == nil {
		file, err := p.create(end, epoch)
		if err != nil {
			return nil, fmt.Errorf("create partition directory: %w", err)
		}
		return newSegment(end, file).withIndex(newSegmentIndex(end)), nil
	}
	if err := p.writeEpoch(epoch, end); err != nil {
		return nil, fmt.Errorf("begin epoch %d: %w", epoch, err)
	}
	p.mu.Lock()
	goesOn := active.size > 0 || active.base == end && p.unfinished == NoOffset
	p.mu.Unlock()
	if goesOn {
		return nil, nil
	}
	release, err := p.holdFlushes() // opening may have begun one, of this file
	if err != nil {
		return nil, err
	}
	defer release()
	p.endGrowing(active)
	p.mu.Lock()
	unmapped := active.mapped.unmap()
	// All batches are in segments before it, and no flush shall look for it.
	p.flushed, p.cutFlushed = max(p.flushed, p.dataEnd), p.cut
	p.mu.Unlock()
	p.topic.log.release(unmapped)
	if err = p.setUnfinished(active.base); err == nil {
		err = p.removeFiles(active)
	}
	var file vfs.File
	if err == nil {
		file, err = p.createSegment(end)
	}
	if err != nil {
		return nil, fmt.Errorf("begin segment %d: %w", end, err)
	}
	return newSegment(end, file).withIndex(newSegmentIndex(end)), nil
}

// syncBounds changes what bounds say of the partition, durably. Set is called
// under mu. It is for changes while which nothing is appended.
func (p *Partition) syncBounds(site vfs.Site, set func()) error {
	b, entry := p.topic.log.bounds, p.entry
	if entry == nil {
		var err error
		if entry, _, _, err = b.slotFor(p.topic.id, int32(p.index)); err != nil {
			return err
		}
	}
	p.mu.Lock()
	p.entry = entry
	set()
	p.setBounds(false)
	p.mu.Unlock()
	return b.sync(site)
}

// writeEpoch notes durably that batches of an epoch begin at end. In memory they do
// when all is done that comes before the first of them: until then an earlier epoch
// may go on there, and the file is stale.
func (p *Partition) writeEpoch(epoch int32, end Offset) error {
	next := newEpochCache(p.epochs.load())
	p.mu.Lock()
	p.staleEpochs = next.assign(epoch, end) || p.staleEpochs
	stale := p.staleEpochs
	p.mu.Unlock()
	if !stale {
		return nil
	}
	return vfs.WriteFileAtomic(p.topic.log.fs, siteEpochs, p.path(epochCheckpointName), next.format())
}

// nextEpoch is the epoch of this incarnation's batches: after an unclean stop a
// new one, also if no batch of the last one is left.
func (p *Partition) nextEpoch() int32 {
	switch {
	case p.epoch == noEpoch:
		return 0
	case p.unclean:
		return p.epoch + 1
	}
	return p.epoch
}

// noCeiling is the ceiling where offsets may be used again.
const noCeiling Offset = math.MaxInt64

// ceilingAbove returns the ceiling to ask for when offset o must lie below it.
// Only under FlushAsync are records shown that a power cut can take, so that
// their offsets must not be given out again; a replica's are its leader's to
// give out.
func (p *Partition) ceilingAbove(o Offset) Offset {
	if p.topic.config().Flush == FlushBeforeAck || p.replica {
		return noCeiling
	}
	return o + p.topic.log.ceilingStep
}

// raiseCeiling raises the ceiling above o, on the disk first.
func (p *Partition) raiseCeiling(o Offset) error {
	p.mu.Lock()
	p.asked = max(p.asked, p.ceilingAbove(o))
	asked := p.asked
	p.setBounds(false)
	p.mu.Unlock()
	err := p.topic.log.bounds.sync(siteCeiling)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.raising = false
	if err == nil {
		p.ceiling = max(p.ceiling, asked)
	}
	return err
}

// roll begins the next segment.
//
// Step by step, and what would go wrong otherwise: (1) the space behind the end of
// the old segment is cut, and it is flushed, so that only the last file of a partition can have a torn end, and a
// bad batch in any other is damage; (2) the new file is made, and what an
// earlier attempt left under its name is emptied; (3) its name is made durable,
// since a flush of the file alone would not save it; (4) only then it takes
// batches.
func (p *Partition) roll() error {
	segs, end := p.segs.Load(), p.end
	if err := p.fix(segs.active()); err != nil {
		return err
	}
	p.mu.Lock()
	if p.topic.log.fs.Check(siteRollFlushed, p.flushed == end && p.cut == p.cutFlushed) {
		p.mu.Unlock()
	} else if err := p.unlockAndFlush(context.Background(), end); err != nil {
		return err
	}
	p.closeIndex(segs.active())
	file, err := p.createSegment(end)
	p.mu.Lock()
	unmapped := segs.active().mapped.unmap()
	defer p.topic.log.release(unmapped)
	defer p.mu.Unlock()
	// A file that was begun must not stay behind among what is appended next.
	if p.mustRoll = err != nil; p.mustRoll {
		return fmt.Errorf("begin segment %d: %w", end, err)
	}
	p.unfinished = NoOffset
	if p.closed {
		return file.Close() // too late: nothing will be appended
	}
	p.segs.Store(p.segs.Load().with(newSegment(end, file).withIndex(newSegmentIndex(end)))) // the start may have moved
	p.publishChange(false)
	p.sealLater(segs.active())
	p.flushedSize = 0
	p.count().rolls++
	return nil
}

// setUnfinished notes that the file of a segment is about to be made. One that an
// attempt has left elsewhere is removed: the next batches may not begin at it, and
// among segments it would be taken for one. The caller flushes the directory before
// anything is appended.
func (p *Partition) setUnfinished(base Offset) error {
	if left := p.unfinished; left != NoOffset && left != base {
		if err := p.removeSegment(left); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	p.unfinished = base
	return nil
}

// createSegment makes the file of a segment, durably.
func (p *Partition) createSegment(base Offset) (vfs.File, error) {
	if p.topic.log.cause.Load() != nil {
		return nil, p.topic.log.closedError() // a log that has failed does not wait for this
	}
	if err := p.setUnfinished(base); err != nil {
		return nil, err
	}
	file, err := p.topic.log.files.create(p.path(logFileName(base)))
	if err != nil {
		return nil, err
	}
	if err := p.topic.log.fs.SyncDir(siteRollSyncDir, p.dir); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// The places at which the making of a partition's directory is made durable.
const (
	sitePartitionMetadata vfs.Site = "partition.metadata" // .flush and .syncdir
	sitePartitionParent   vfs.Site = "partition.create.syncparent"
)

const partitionMetadataName = "partition.metadata"

// create makes the directory and its files. Everything is durable before the
// first batch is written: a batch that survives a power cut must not be found
// in a directory that does not say whose it is. What an earlier, unfinished
// attempt left is made anew.
func (p *Partition) create(base Offset, epoch int32) (vfs.File, error) {
	fsys := p.topic.log.fs
	if err := fsys.Mkdir(p.dir); errors.Is(err, fs.ErrExist) {
		// It is a remainder of ours, or on a file system that folds case
		// another topic's.
		if err := p.checkID(); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	if err := p.setUnfinished(base); err != nil {
		return nil, err
	}
	file, err := p.topic.log.files.create(p.path(logFileName(base)))
	if err != nil {
		return nil, err
	}
	if err = p.writeEpoch(epoch, base); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	err = vfs.WriteFileAtomic(fsys, sitePartitionMetadata, p.path(partitionMetadataName), formatPartitionMetadata(p.topic.id))
	if err == nil {
		err = fsys.SyncDir(sitePartitionParent, filepath.Dir(p.dir))
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}
