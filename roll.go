package riffle

import (
	"context"
	"errors"
	"fmt"

	"github.com/rifflelog/riffle/internal/vfs"
)

// The places at which a new segment depends on what came before.
const (
	siteRollFlushed vfs.Site = "roll.flushed" // that the old segment is on stable storage
	siteRollSyncDir vfs.Site = "roll.syncdir" // before the new one takes batches
)

// unlockAndRoll begins the next segment, or waits for the roll that is under
// way. It is called with mu held and releases it. The caller looks anew
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
		return p.roll()
	}
	// Like a flush, a roll cannot be interrupted.
	result := make(chan error, 1)
	if !p.topic.log.start(func() { result <- p.roll() }) {
		return p.roll()
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

// roll begins the next segment. While it runs nothing is appended.
//
// Step by step, and what would go wrong otherwise: (1) the old segment is
// flushed, so that only the last file of a partition can have a torn end, and a
// bad batch in any other is damage; (2) the new file is made, and what an
// earlier attempt left under its name is emptied; (3) its name is made durable,
// since a flush of the file alone would not save it; (4) only then it takes
// batches.
func (p *Partition) roll() error {
	p.mu.Lock()
	old, end := p.active(), Offset(p.end.Load())
	flushed := p.topic.log.fs.Check(siteRollFlushed, p.flushed == end)
	if flushed {
		p.mu.Unlock()
	} else if err := p.unlockAndFlush(context.Background(), end); err != nil {
		// The partition is offline, which writable says.
		p.mu.Lock()
		p.endRoll()
		return nil
	}
	file, err := p.createSegment(end)
	p.mu.Lock()
	defer p.endRoll()
	if err != nil {
		return p.writeFailed(fmt.Errorf("roll after segment %d: %w", old.base, err))
	}
	if p.closed {
		return file.Close() // too late: nothing will be appended
	}
	p.segs.Store(p.segs.Load().with(newSegment(end, file)))
	p.flushedSize = 0
	return nil
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
