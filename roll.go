package riffle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/rifflelog/riffle/internal/vfs"
)

// The places at which a new segment depends on what came before.
const (
	siteRollFlushed vfs.Site = "roll.flushed" // that the old segment is on stable storage
	siteRollSyncDir vfs.Site = "roll.syncdir" // before the new one takes batches
)

// unlockAndRoll begins the next segment, or the first one, or waits for the roll
// that is under way. It is called with mu held and releases it. The caller looks anew
// afterwards: a roll that failed for want of space may be tried again.
func (p *Partition) unlockAndRoll(ctx context.Context) error {
	if p.rolling != nil {
		rolling := p.rolling
		p.mu.Unlock()
		select {
		case <-rolling:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-p.topic.log.broken:
			return p.topic.log.closedError()
		}
	}
	rolling := make(chan struct{})
	p.rolling = rolling
	p.mu.Unlock()
	if ctx.Done() == nil {
		return p.rollHere()
	}
	// Like a flush, a roll cannot be interrupted.
	result := make(chan error, 1)
	if !p.topic.log.start(func() { result <- p.roll() }) {
		return p.rollHere()
	}
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-p.topic.log.broken:
		return p.topic.log.closedError()
	}
}

// rollHere runs roll on the caller's goroutine, and keeps a panic of ours from
// it.
func (p *Partition) rollHere() (err error) {
	defer p.topic.log.guard(&err)
	return p.roll()
}

// roll begins the next segment, or makes the directory with the first one. While
// it runs nothing is appended.
//
// Step by step, and what would go wrong otherwise: (1) the old segment is
// flushed, so that only the last file of a partition can have a torn end, and a
// bad batch in any other is damage; (2) the new file is made, and what an
// earlier attempt left under its name is emptied; (3) its name is made durable,
// since a flush of the file alone would not save it; (4) only then it takes
// batches.
func (p *Partition) roll() error {
	p.mu.Lock()
	segs, end := p.segs.Load(), Offset(p.end.Load())
	if segs == nil || p.topic.log.fs.Check(siteRollFlushed, p.flushed == end) {
		p.mu.Unlock()
	} else if err := p.unlockAndFlush(context.Background(), end); err != nil {
		// The partition is offline, which writable says.
		p.mu.Lock()
		p.endRoll()
		return nil
	}
	var file vfs.File
	var err error
	if segs == nil {
		segs = new(segmentSet)
		file, err = p.create()
	} else {
		p.writeIndex(segs.active().index.Load())
		file, err = p.createSegment(end)
	}
	p.mu.Lock()
	defer p.reportFailure()
	defer p.endRoll()
	switch {
	case err != nil:
		return p.rollFailed(fmt.Errorf("begin segment %d: %w", end, err))
	case p.closed:
		return file.Close() // too late: nothing will be appended
	}
	p.segs.Store(segs.with(newSegment(end, file).withIndex(newOffsetIndex(end, maxIndexBytes))))
	p.flushedSize = 0
	return nil
}

// rollFailed decides what a failed roll means. Nothing was appended, so nothing
// is in doubt; a full disk and what is wrong with the directory may be mended.
func (p *Partition) rollFailed(err error) error {
	var damaged *CorruptError
	if full := diskError(err); errors.Is(full, ErrDiskFull) || errors.As(err, &damaged) {
		return full
	}
	p.fail(err)
	return fmt.Errorf("%w: %w", ErrPartitionFailed, err)
}

// endRoll lets the others go on. Called with mu held; it releases it.
func (p *Partition) endRoll() {
	close(p.rolling)
	p.rolling = nil
	p.mu.Unlock()
}

// createSegment makes the file of a segment, durably.
func (p *Partition) createSegment(base Offset) (vfs.File, error) {
	file, err := p.topic.log.fs.Create(p.path(logFileName(base)))
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
func (p *Partition) create() (vfs.File, error) {
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
	file, err := fsys.Create(p.path(logFileName(0)))
	if err != nil {
		return nil, err
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
