package riffle

import (
	"errors"
	"fmt"
	"time"

	"pgregory.net/rapid"

	"github.com/rifflelog/riffle/internal/model"
)

// deleteBefore deletes the records before some offset: what is acknowledged as
// deleted never comes back, what was not to be deleted stays.
func (m *machine) deleteBefore(t *rapid.T) error {
	top, part := m.drawPartition(t)
	to := rapid.Int64Range(-4, 1000).Draw(t, "to")
	ends, cancel := m.drawContext(t)
	defer cancel()
	p := m.partition(top, part)
	if p == nil || p.damaged != nil {
		return nil
	}
	hw := boundsOf(p).HighWatermark
	if to > 0 {
		to %= hw + 3
	}
	want := to
	if Offset(to) == Latest {
		want = hw
	}
	legal := 0 <= want && want <= hw
	mp, undo := top.parts[part], func() {}
	if legal {
		undo = mp.Deleting(want)
	}
	err := p.DeleteBefore(ends, Offset(to))
	dead := m.dead.Load()
	switch {
	case err == nil && dead: // perhaps too late
		return nil
	case err == nil && legal:
		mp.Deleted(want)
		return nil
	case err == nil:
		return fmt.Errorf("%v: DeleteBefore(%d) of %d", p.name(), to, hw)
	case !errors.Is(err, ErrInDoubt):
		undo()
	}
	faulty := m.faults.Load() > m.before
	if faulty {
		mp.Doubted() // bounds may be torn
	}
	switch {
	case dead,
		errors.Is(err, ErrOffsetOutOfRange) && !legal,
		errors.Is(err, ErrPartitionFailed) && m.faults.Load() > 0,
		errors.Is(err, ErrInDoubt) && (faulty || ends.Err() != nil),
		faulty, ends.Err() != nil && errors.Is(err, ends.Err()):
		return nil
	}
	return fmt.Errorf("%v: %w", p.name(), err)
}

// retain checks retention, with limits and at a time that are drawn. Exactly the
// segments go that have expired.
func (m *machine) retain(t *rapid.T) error {
	top, _ := m.drawPartition(t)
	limit := rapid.SampledFrom([]int64{NoLimit, NoLimit, 1, 3000, 20_000}).Draw(t, "retention bytes")
	age := rapid.SampledFrom([]time.Duration{Forever, time.Hour, 3 * time.Hour}).Draw(t, "retention")
	now := time.UnixMilli(1_700_000_000_000).Add(time.Duration(rapid.IntRange(0, 6).Draw(t, "hours")) * time.Hour)
	if m.partition(top, 0) == nil {
		return nil
	}
	topic := m.partition(top, 0).topic
	defer setRetention(topic, age, limit)()
	wants := map[*Partition]int64{}
	for i, mp := range top.parts {
		if p := m.partition(top, i); p.damaged == nil && !m.hasFailed(top, i) {
			want, err := wantRetained(p, mp, now)
			if err != nil {
				if m.faults.Load() > m.before || m.dead.Load() {
					return nil
				}
				return err
			}
			mp.Deleting(want)
			wants[p] = want
		}
	}
	m.l.checkRetention(now)
	for p, want := range wants {
		switch mp := top.parts[p.index]; {
		case m.faults.Load() > m.before:
			mp.Doubted() // bounds may be torn
		case !m.dead.Load():
			mp.Deleted(want)
		}
	}
	return nil
}

// setRetention changes a topic's limits. What is returned changes them back.
func setRetention(t *Topic, age time.Duration, limit int64) (undo func()) {
	before := t.state.Load()
	after := *before
	after.effective.Retention, after.effective.RetentionBytes = age, limit
	t.state.Store(&after)
	return func() { t.state.Store(before) }
}

// wantRetained returns where a partition is to start after a check of retention: by
// the rule, from the list of its segments.
func wantRetained(p *Partition, mp *model.Partition, now time.Time) (int64, error) {
	cfg := p.topic.config()
	for _, seg := range p.segs.Load().sealed() {
		if s, err := p.sealOf(seg); err != nil || s == nil {
			return 0, fmt.Errorf("%v: segment %d has no seal: %w", p.name(), seg.base, err)
		}
	}
	b, infos := p.Bounds(), p.Segments()
	var total int64
	for _, s := range infos {
		total += s.Bytes
		largest := int64(-1)
		for _, r := range mp.Records(int64(s.Base), int64(s.End)) {
			largest = max(largest, r.Timestamp)
		}
		if whole := s.Base >= b.Start && s.End <= b.HighWatermark && s.Bytes > 0; whole && largest != s.MaxTimestamp.UnixMilli() {
			return 0, fmt.Errorf("%v: largest timestamp of %+v is %d", p.name(), s, largest)
		}
	}
	start := b.Start
	for _, s := range infos {
		total -= s.Bytes
		old := cfg.Retention != Forever && now.Sub(s.MaxTimestamp) > cfg.Retention
		much := cfg.RetentionBytes != NoLimit && total >= cfg.RetentionBytes
		if !old && !much || s.End > b.HighWatermark || s.Active && s.Bytes == 0 {
			break
		}
		start = s.End
	}
	return int64(start), nil
}

// sealed returns all segments but the active one.
func (s *segmentSet) sealed() []*segment {
	if s == nil {
		return nil
	}
	return s.list[:len(s.list)-1]
}
