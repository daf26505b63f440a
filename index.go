package riffle

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/cespare/xxhash/v2"

	"github.com/rifflelog/riffle/internal/batch"
	"github.com/rifflelog/riffle/internal/vfs"
)

const (
	// indexInterval is how many bytes of batches one index entry stands for:
	// what a look-up may have to walk through. Kafka: index.interval.bytes.
	indexInterval = 4096
	// maxIndexBytes is how large the file of an index may be. Kafka:
	// segment.index.bytes.
	maxIndexBytes = 10 << 20

	indexSuffix     = ".index"
	timeIndexSuffix = ".timeindex"
	txnIndexSuffix  = ".txnindex"
)

// An index says nothing that the batches do not. Its file is written when the
// segment is sealed or the log is closed, with a seal beside it, and is not
// flushed.
//
// An entry of the offset index is used only if the batch at its position has the
// offset that it says. No batch can confirm an entry of the time index, which
// speaks of all that come before it: that file is believed only as the seal has
// its hash. What is not believed is made anew from the batches.

// segmentIndex is what is known of where things are in a segment.
type segmentIndex struct {
	offset  *offsetIndex
	time    *timeIndex // nil if there was a file that nothing confirms
	damaged bool       // they end where the segment's batches are damaged
}

// newSegmentIndex returns the indexes of an empty segment.
func newSegmentIndex(base Offset) *segmentIndex {
	return &segmentIndex{offset: newOffsetIndex(base, maxIndexBytes), time: newTimeIndex(base, maxIndexBytes)}
}

// add takes note of a batch at byte pos, whose last offset is last, and of the
// largest timestamp so far, which the batch that ends at maxOffset has. It
// returns false if there is no room.
func (x *segmentIndex) add(last Offset, pos, maxTimestamp int64, maxOffset Offset) bool {
	if x.offset.add(last, pos) != nil {
		return false
	}
	_ = x.time.maybeAdd(maxTimestamp, maxOffset) // with fewer entries it finds what it found, slower
	return true
}

// full says that it is time for a new segment.
func (x *segmentIndex) full() bool { return x.offset.full() || x.time.full() }

// clone returns indexes that can be changed apart from x.
func (x *segmentIndex) clone() *segmentIndex {
	c := newSegmentIndex(x.offset.base)
	c.offset.copyFrom(&x.offset.indexTable)
	c.time.copyFrom(&x.time.indexTable)
	return c
}

// truncate drops what is known of the batch at byte pos, whose last offset is
// last, and of those behind it.
func (x *segmentIndex) truncate(last Offset, pos int64) {
	x.offset.truncate(pos)
	x.time.truncate(last)
}

// indexName is the name of the offset index.
func indexName(base Offset) string { return segmentFileName(base, indexSuffix) }

// indexOf returns the indexes of a segment. It reads or rebuilds them if they are
// not in memory. Only withTime it is sure to return a time index.
func (p *Partition) indexOf(seg *segment, withTime bool) (*segmentIndex, error) {
	enough := func(x *segmentIndex) bool { return x != nil && (x.time != nil || !withTime) }
	if x := seg.index.Load(); enough(x) {
		return x, nil
	}
	seg.loading.Lock()
	defer seg.loading.Unlock()
	if x := seg.index.Load(); enough(x) {
		return x, nil
	}
	x, err := p.loadIndex(seg)
	if err != nil || !enough(x) {
		return p.rebuildIndex(seg)
	}
	seg.index.Store(x)
	return x, nil
}

// loadIndex reads the indexes of a sealed segment from their files. Without a
// seal that is the offset index alone.
func (p *Partition) loadIndex(seg *segment) (*segmentIndex, error) {
	if s := p.loadSeal(seg); s != nil {
		return p.loadSealedIndex(s)
	}
	data, err := p.readIndex(seg.base, indexSuffix)
	if err != nil {
		return nil, err
	}
	x, err := loadOffsetIndex(data, seg.base, p.surveyed(seg), maxIndexBytes)
	return &segmentIndex{offset: x}, err
}

// loadSealedIndex reads the indexes that s confirms.
func (p *Partition) loadSealedIndex(s *seal) (*segmentIndex, error) {
	offsets, err := p.readIndex(s.base, indexSuffix)
	if err != nil {
		return nil, err
	}
	times, err := p.readIndex(s.base, timeIndexSuffix)
	if err != nil {
		return nil, err
	}
	if xxhash.Sum64(offsets) != s.index || xxhash.Sum64(times) != s.timeIndex {
		return nil, errors.New("indexes are not those that were sealed")
	}
	x, err := loadOffsetIndex(offsets, s.base, s.size, maxIndexBytes)
	if err != nil {
		return nil, err
	}
	t, err := loadTimeIndex(times, s.base, maxIndexBytes)
	return &segmentIndex{offset: x, time: t}, err
}

// loadClosed reads the indexes of what was the last segment when they were
// written, and may have grown since.
func (p *Partition) loadClosed(base Offset) (*segmentIndex, error) {
	s, err := p.readSeal(base)
	if err != nil {
		return nil, err
	}
	return p.loadSealedIndex(s)
}

func (p *Partition) readIndex(base Offset, suffix string) ([]byte, error) {
	return vfs.ReadFile(p.topic.log.fs, p.path(segmentFileName(base, suffix)), maxIndexBytes)
}

// rebuildIndex makes the indexes anew from the batches, up to the first that is
// damaged: what is behind that is found by walking. Called with loading held.
func (p *Partition) rebuildIndex(seg *segment) (*segmentIndex, error) {
	p.topic.counts.indexesRebuilt.Add(1)
	// Elsewhere: the logger is the caller's code, and may append, with a condition that needs
	// the index.
	p.topic.log.inBackground(func() {
		p.topic.log.opts.Logger.Info("index is made anew", "topic", p.topic.name, "partition", p.index, "segment", int64(seg.base))
	})
	sealed := seg != p.active() // for good, and its size is final
	x, s, err := p.survey(seg, nil)
	if err != nil && !isDamage(err) {
		return nil, err
	}
	if err == nil && sealed {
		seg.seal.Store(s)
		// Closing the log waits for this goroutine: nothing is written later.
		p.topic.log.inBackground(func() { p.saveIndex(seg, x, s) })
	}
	x.damaged = err != nil
	seg.index.Store(x)
	return x, nil
}

// dropIndex forgets an index that was found to be wrong, and makes it anew.
func (p *Partition) dropIndex(seg *segment, wrong *segmentIndex) error {
	seg.loading.Lock()
	defer seg.loading.Unlock()
	if seg.index.Load() != wrong {
		return nil // somebody else has
	}
	_, err := p.rebuildIndex(seg)
	return err
}

// closeIndex writes the indexes of a segment that is full and flushed, and to
// which nothing is appended any more.
func (p *Partition) closeIndex(seg *segment) {
	p.mu.Lock()
	seg.addClosing()
	x, s := seg.index.Load(), seg.sum(p.dataEnd)
	p.mu.Unlock()
	seg.seal.Store(nil)
	if p.saveIndex(seg, x, s) {
		seg.seal.Store(s)
	}
}

// saveActive writes the indexes of the active segment if they have something to
// say that their files do not, and if all of it is flushed: what is lost in a
// power cut must not be remembered. Nothing is appended any more.
func (p *Partition) saveActive(seg *segment) {
	p.mu.Lock()
	x := seg.index.Load()
	stale := x.offset.len() != seg.saved && p.damaged == nil && p.failed == nil && p.flushed >= p.dataEnd
	var s *seal
	if stale {
		s = seg.sum(p.dataEnd)
	}
	p.mu.Unlock()
	if stale {
		p.saveIndex(seg, x, s)
	}
}

// saveIndex writes the files of x, and s, which confirms them. Nothing depends
// on them but time, so that an error is only logged. A crash in between leaves
// files that do not fit together.
func (p *Partition) saveIndex(seg *segment, x *segmentIndex, s *seal) bool {
	seg.saving.Lock()
	defer seg.saving.Unlock()
	if seg.forgotten {
		return false
	}
	for _, f := range []struct {
		suffix string
		data   []byte
	}{
		{indexSuffix, x.offset.bytesFrom(0)},
		{timeIndexSuffix, x.time.bytesFrom(0)},
		{sealSuffix, s.format()},
	} {
		if !p.writeSideFile(s.base, f.suffix, f.data) {
			return false
		}
	}
	return true
}

// saveSeal writes s alone, which confirms files that are there.
func (p *Partition) saveSeal(seg *segment, s *seal) bool {
	seg.saving.Lock()
	defer seg.saving.Unlock()
	return !seg.forgotten && p.writeSideFile(s.base, sealSuffix, s.format())
}

// forget removes the files of a segment's indexes and its seal, for what they
// know is about to be cut. No others are written, until remember is called.
func (p *Partition) forget(seg *segment) error {
	seg.saving.Lock()
	defer seg.saving.Unlock()
	seg.forgotten = true
	for _, suffix := range sideSuffixes {
		err := p.topic.log.fs.Remove(p.path(segmentFileName(seg.base, suffix)))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// remember takes forget back, since nothing is cut: files may be written again.
func (p *Partition) remember(seg *segment) {
	seg.saving.Lock()
	seg.forgotten = false
	seg.saving.Unlock()
	p.mu.Lock()
	seg.saved = 0
	p.mu.Unlock()
}

// isForgotten says that files of the indexes of s would mean nothing.
func (s *segment) isForgotten() bool {
	s.saving.Lock()
	defer s.saving.Unlock()
	return s.forgotten
}

func (p *Partition) writeSideFile(base Offset, suffix string, data []byte) bool {
	if p.shadow != nil {
		return false
	}
	name := p.path(segmentFileName(base, suffix))
	file, err := p.topic.log.fs.Create(name)
	if err == nil {
		_, err = file.WriteAt(data, 0)
		err = errors.Join(err, file.Close())
	}
	if err != nil {
		p.topic.log.opts.Logger.Warn("index is not written", "file", name, "err", err)
	}
	return err == nil
}

// place returns where to begin looking for offset o in a segment: a batch with
// no offset above o, and its base offset.
func (p *Partition) place(seg *segment, w *window, o Offset) (pos int64, base Offset, err error) {
	for range 2 {
		x, err := p.indexOf(seg, false)
		if err != nil {
			return 0, 0, err
		}
		at, pos, next, ok := x.offset.findBetween(o)
		if !ok {
			break
		}
		if next > 0 {
			w.step = int(min(minWindow, next-pos+spareWindow))
		}
		base, err := batchBase(w, pos, at)
		w.step = minWindow
		if err == nil {
			return pos, base, nil
		}
		if !isDamage(err) && !errors.Is(err, io.EOF) {
			return 0, 0, err
		}
		if err := p.dropIndex(seg, x); err != nil {
			return 0, 0, err
		}
	}
	return 0, seg.base, nil
}

// batchBase returns the base offset of the batch at pos, whose last offset must
// be last.
func batchBase(w *window, pos int64, last Offset) (Offset, error) {
	head, err := w.bytes(pos, batch.HeaderSize)
	if err != nil {
		return 0, err
	}
	h := batch.Batch(head)
	if !batch.Plausible(head) || Offset(h.LastOffset()) != last {
		return 0, fmt.Errorf("%w: no batch that ends at offset %d", batch.ErrCorrupt, last)
	}
	return Offset(h.BaseOffset()), nil
}
