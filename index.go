package riffle

import (
	"errors"
	"fmt"
	"io"

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

	indexSuffix = ".index"
)

// An index says nothing that the batches do not. Its file is written when the
// segment is sealed or the log is closed, is not flushed, and is believed only
// as far as it is checked: entries must grow and lie in the segment, and one is
// used only if the batch at its position has the offset that it says. Else the
// index is made anew.

// indexName is the name of the file beside the segment.
func indexName(base Offset) string { return fmt.Sprintf("%020d%s", base, indexSuffix) }

// indexOf returns the index of a segment, whose first committed bytes are
// batches. It reads or rebuilds it if it is not in memory.
func (p *Partition) indexOf(seg *segment) (*offsetIndex, error) {
	if x := seg.index.Load(); x != nil {
		return x, nil
	}
	seg.loading.Lock()
	defer seg.loading.Unlock()
	if x := seg.index.Load(); x != nil {
		return x, nil
	}
	x, err := p.loadIndex(seg.base, seg.committed.Load())
	if err != nil {
		if x, err = p.rebuildIndex(seg); err != nil {
			return nil, err
		}
		p.writeIndex(x)
	}
	seg.index.Store(x)
	return x, nil
}

// loadIndex reads the index of a segment of size bytes from its file.
func (p *Partition) loadIndex(base Offset, size int64) (*offsetIndex, error) {
	data, err := vfs.ReadFile(p.topic.log.fs, p.path(indexName(base)), maxIndexBytes)
	if err != nil {
		return nil, err
	}
	return loadOffsetIndex(data, base, size, maxIndexBytes)
}

// rebuildIndex makes the index anew from the headers of the batches, up to the
// first that is damaged: what is behind that is found by walking.
func (p *Partition) rebuildIndex(seg *segment) (*offsetIndex, error) {
	p.topic.counts.indexesRebuilt.Add(1)
	p.topic.log.opts.Logger.Info("index is made anew", "topic", p.topic.name, "partition", p.index, "segment", int64(seg.base))
	x := newOffsetIndex(seg.base, maxIndexBytes)
	var w window
	w.reset(seg, seg.committed.Load())
	for pos, indexed := int64(0), int64(0); ; {
		head, err := w.bytes(pos, batch.HeaderSize)
		if err != nil {
			return x, unlessDamage(err)
		}
		h := batch.Batch(head)
		if !batch.Plausible(head) {
			return x, nil
		}
		size, err := batch.Size(head)
		if err != nil {
			return x, nil
		}
		if pos-indexed > indexInterval {
			if x.add(Offset(h.LastOffset()), pos) != nil {
				return x, nil
			}
			indexed = pos
		}
		pos += int64(size)
	}
}

// dropIndex forgets an index that was found to be wrong, and makes it anew.
func (p *Partition) dropIndex(seg *segment, wrong *offsetIndex) error {
	seg.loading.Lock()
	defer seg.loading.Unlock()
	if seg.index.Load() != wrong {
		return nil // somebody else has
	}
	x, err := p.rebuildIndex(seg)
	if err != nil {
		return err
	}
	seg.index.Store(x)
	return nil
}

// writeIndex writes the file of an index. Nothing depends on it but time, so
// that an error is only logged.
func (p *Partition) writeIndex(x *offsetIndex) {
	name := p.path(indexName(x.base))
	file, err := p.topic.log.fs.Create(name)
	if err == nil {
		_, err = file.WriteAt(x.bytesFrom(0), 0)
		err = errors.Join(err, file.Close())
	}
	if err != nil {
		p.topic.log.opts.Logger.Warn("index is not written", "file", name, "err", err)
	}
}

// place returns where to begin looking for offset o in a segment: a batch with
// no offset above o, and its base offset.
func (p *Partition) place(seg *segment, w *window, o Offset) (pos int64, base Offset, err error) {
	for range 2 {
		x, err := p.indexOf(seg)
		if err != nil {
			return 0, 0, err
		}
		at, pos, ok := x.find(o)
		if !ok {
			break
		}
		base, err := batchBase(w, pos, at)
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
