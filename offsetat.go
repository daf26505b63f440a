package riffle

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/rifflelog/riffle/internal/batch"
)

// OffsetAt returns the offset of the first committed record, in the order of
// offsets, with a timestamp of t or later; if there is none, the readable end. To
// replay from a time, read from there: records that follow may be older, since
// under CreateTime it is the producers who say what time it is.
//
// Timestamps have milliseconds. A t before 1970, such as the zero time, finds the
// first record that has a timestamp. Errors: *CorruptError, ErrReadOnly, ErrClosed,
// and ctx's. Kafka: ListOffsets, Consumer.offsetsForTimes.
func (p *Partition) OffsetAt(ctx context.Context, t time.Time) (Offset, error) {
	if err := p.catchUp(ctx); err != nil {
		return NoOffset, p.error("read", err)
	}
	end := Offset(p.highWatermark.Load())
	o, err := p.offsetAt(ctx, millisFrom(t))
	if err == nil && o == NoOffset {
		o = end // what has come meanwhile was older, or is for the next call
	}
	return o, err
}

// millisFrom returns the first timestamp that is not before t.
func millisFrom(t time.Time) int64 {
	switch {
	case t.Unix() < 0:
		return 0
	case t.Unix() >= math.MaxInt64/1000:
		return math.MaxInt64
	}
	ms := t.UnixMilli()
	if t.After(time.UnixMilli(ms)) {
		ms++
	}
	return ms
}

// offsetAt returns the offset of the first committed record with a timestamp of
// at least ts, in milliseconds; NoOffset if there is none. Kafka: ListOffsets
// with a timestamp.
//
// The first segment whose largest timestamp is not smaller has it, unless a
// batch's header says more than its records. So reading begins there, where the
// time index says, and does not stop at its end.
func (p *Partition) offsetAt(ctx context.Context, ts int64) (Offset, error) {
	return p.search(ctx, func(s snapshot) (Offset, error) {
		from, err := p.placeOfTime(s.segs, ts)
		if err != nil {
			return NoOffset, p.error("read", p.closedOr(err))
		}
		return p.firstSince(ctx, from, ts)
	})
}

// offsetOfMaxTimestamp returns the offset of the first committed record with the
// largest timestamp; NoOffset if no record has one. Kafka: ListOffsets with
// MAX_TIMESTAMP, -3.
//
// Of sealed segments the largest is known. Of the last one that has something
// committed the time index knows it up to some batch, and those behind that are
// read.
func (p *Partition) offsetOfMaxTimestamp(ctx context.Context) (Offset, error) {
	return p.search(ctx, func(s snapshot) (Offset, error) { return p.maxTimestampIn(ctx, s) })
}

func (p *Partition) maxTimestampIn(ctx context.Context, s snapshot) (Offset, error) {
	largest, at, from, err := p.placeOfMax(ctx, s)
	if err != nil {
		return NoOffset, p.error("read", p.closedOr(err))
	}
	found := NoOffset
	err = p.searchTime(ctx, from, largest+1, func(r *reader) bool {
		r.since = r.records.Record.Timestamp + 1 // the others are passed over
		found = Offset(r.records.Record.Offset)
		return true
	})
	if err != nil || found != NoOffset || at == NoOffset {
		return found, err
	}
	return p.firstSince(ctx, at, largest)
}

// search returns what find finds in the segments of s, once more if bounds have
// gone back meanwhile.
func (p *Partition) search(ctx context.Context, find func(s snapshot) (Offset, error)) (Offset, error) {
	if !p.enter() {
		return NoOffset, p.error("read", notFound(p.topic.name))
	}
	defer p.leave()
	for {
		err := p.catchUp(ctx)
		s := p.snapshot()
		if err == nil {
			err = p.alive(ctx)
		}
		if err == nil && s.segs == nil && p.damaged != nil {
			err = fmt.Errorf("%w: %w", ErrReadOnly, p.damaged)
		}
		if err != nil {
			return NoOffset, p.error("read", err)
		}
		if s.segs == nil {
			return NoOffset, nil
		}
		o, err := find(s)
		if p.shadow != nil && err != nil {
			if err = p.explain(ctx, s, err); err == nil {
				continue
			}
		}
		if p.cuts.Load() == s.cuts {
			return o, err
		}
	}
}

// placeOfTime returns an offset in the batch from which to look for ts, or in
// one before it.
func (p *Partition) placeOfTime(segs *segmentSet, ts int64) (Offset, error) {
	i := 0
	for ; i < len(segs.list)-1; i++ {
		s, err := p.sealOf(segs.list[i])
		if err != nil {
			return 0, err
		}
		if s == nil || s.maxTimestamp >= ts {
			break // of a damaged one it is not known
		}
	}
	x, err := p.indexOf(segs.list[i], true)
	if err != nil {
		return 0, err
	}
	at, _ := x.time.find(ts)
	return at, nil
}

// placeOfMax returns the largest timestamp of the segments that are known, and
// an offset in the first batch that has it, NoOffset if none has one; and from
// where on there may be larger ones.
func (p *Partition) placeOfMax(ctx context.Context, s snapshot) (largest int64, at, from Offset, err error) {
	largest, at = batch.NoTimestamp, NoOffset
	last := s.segs.find(max(s.start(), s.highWatermark-1))
	for i, seg := range s.segs.list {
		if seg == last {
			break
		}
		if seg.base < s.start() { // its seal speaks of deleted records too
			if largest, at, err = p.largestIn(ctx, s.start(), s.segs.list[i+1].base); err != nil {
				return 0, 0, 0, err
			}
			continue
		}
		sealed, err := p.sealOf(seg)
		if sealed == nil || err != nil {
			return largest, at, seg.base, err // reading says what is wrong with it
		}
		if sealed.maxTimestamp > largest {
			largest, at = sealed.maxTimestamp, sealed.maxOffset
		}
	}
	x, err := p.indexOf(last, true)
	if err != nil {
		return 0, 0, 0, err
	}
	if _, from = x.time.last(); from >= s.highWatermark {
		from = last.base
	}
	return largest, at, from, nil
}

// largestIn returns the largest timestamp of the records in [from, until), and
// the offset of the first that has it; NoOffset if none has one.
func (p *Partition) largestIn(ctx context.Context, from, until Offset) (largest int64, at Offset, err error) {
	largest, at = batch.NoTimestamp, NoOffset
	err = p.searchTime(ctx, from, largest+1, func(r *reader) bool {
		o, ts := Offset(r.records.Record.Offset), r.records.Record.Timestamp
		if o < until && ts > largest {
			largest, at = ts, o
		}
		return o < until
	})
	return largest, at, err
}

// firstSince returns the offset of the first committed record of at least ts in
// the batch of offset from or behind it; NoOffset if there is none.
func (p *Partition) firstSince(ctx context.Context, from Offset, ts int64) (Offset, error) {
	found := NoOffset
	err := p.searchTime(ctx, from, ts, func(r *reader) bool {
		found = Offset(r.records.Record.Offset)
		return false
	})
	return found, err
}

// searchTime calls body for the committed records with timestamps of at least
// r.since, ts at first, in the batch of offset from and behind it, until it
// returns false.
func (p *Partition) searchTime(ctx context.Context, from Offset, ts int64, body func(*reader) bool) error {
	r := readers.Get().(*reader)
	defer r.release()
	start := p.snapshot().start() // records before it are deleted, their batch may not be
	r.start(p, max(from, start))
	r.since = ts
	for {
		if err := p.alive(ctx); err != nil {
			return p.error("read", err)
		}
		found, err := r.load(ctx)
		if err != nil {
			return p.error("read", p.closedOr(err))
		}
		if !found {
			return nil
		}
		for r.records.Next() {
			if Offset(r.records.Record.Offset) >= start && r.records.Record.Timestamp >= r.since && !body(r) {
				return nil
			}
		}
		if err := r.records.Err(); err != nil {
			return p.error("read", r.damage(r.at, r.base, err))
		}
		r.next = r.expect
	}
}
