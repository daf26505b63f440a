package riffle

import (
	"context"
	"time"
)

// SegmentInfo describes a segment, a file of batches, as it was at one moment.
type SegmentInfo struct {
	// Base and End are the offsets that are the segment's: [Base, End). Those of the
	// first segment before Bounds.Start are deleted, though their bytes are there.
	Base, End Offset
	// Bytes is the size of its batches. The file may be longer while it is Active.
	Bytes int64
	// MaxTimestamp is the largest timestamp of its records, deleted ones included;
	// zero if they have none, or it is not known: after a crash, or with damage.
	MaxTimestamp time.Time
	// Active says that it is appended to. All others are sealed.
	Active bool
	// File is the path of the file.
	File string
}

// Segments returns the partition's segments by their offsets; none before the
// first append. They are of one moment: when it returns there may be more, and
// retention may have deleted the first. That a partition is damaged or offline
// changes nothing. It may read a small file for each segment.
func (p *Partition) Segments() []SegmentInfo {
	_ = p.catchUp(context.Background()) // reading says what is wrong
	p.mu.Lock()
	segs, end := p.segs.Load(), p.end
	if segs == nil {
		p.mu.Unlock()
		return nil
	}
	infos := make([]SegmentInfo, len(segs.list))
	for i, seg := range segs.list {
		infos[i] = SegmentInfo{Base: seg.base, End: end, Bytes: seg.size, Active: seg == segs.active(), File: p.path(logFileName(seg.base))}
		if infos[i].Active {
			infos[i].MaxTimestamp = timeOf(seg.maxTimestamp)
		} else {
			infos[i].End = segs.list[i+1].base
		}
	}
	p.mu.Unlock()
	for i, seg := range segs.list {
		if !infos[i].Active {
			infos[i].MaxTimestamp = p.sealedTime(seg)
		}
	}
	return infos
}

// sealedTime returns the largest timestamp of a sealed segment, as far as it is
// known without reading its batches.
func (p *Partition) sealedTime(seg *segment) time.Time {
	s := seg.seal.Load()
	if s == nil {
		seg.loading.Lock()
		s = p.loadSeal(seg)
		seg.loading.Unlock()
	}
	if s == nil {
		return time.Time{}
	}
	return timeOf(s.maxTimestamp)
}
