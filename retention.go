package riffle

import (
	"errors"
	"time"

	"github.com/rifflelog/riffle/internal/batch"
)

const (
	// retentionDelay is how long after opening retention is checked first. Kafka:
	// log.initial.task.delay.ms.
	retentionDelay = 30 * time.Second
	// retentionInterval is how long it rests between two checks. Kafka:
	// log.retention.check.interval.ms.
	retentionInterval = 5 * time.Minute
)

// checkRetentionAfter has retention checked after d, and again and again. One timer
// serves all partitions.
func (l *Log) checkRetentionAfter(d time.Duration) {
	l.taskMu.Lock()
	defer l.taskMu.Unlock()
	switch {
	case l.stopped || l.retentionInterval == 0:
	case l.retentionTimer == nil:
		l.retentionTimer = l.after(d, func() {
			l.checkRetention(time.Now())
			l.checkRetentionAfter(l.retentionInterval)
		})
	default:
		l.retentionTimer.Reset(d)
	}
}

// checkRetention deletes what is too old as of now, or too much, in all topics but
// the log's own, and what could not be removed earlier; and it closes the files that
// nobody has used since it did so last. It is for goroutines that closing waits for.
// What fails is tried again by the next check.
func (l *Log) checkRetention(now time.Time) {
	l.files.closeUnused()
	l.removeStrays(now)
	_ = l.meta.removeDeleted()
	for t := range l.Topics() {
		for _, p := range t.all() {
			if l.isClosing() {
				return
			}
			_ = p.removeDeleted()
			if err := p.checkRetention(now); err != nil && !l.isClosing() {
				l.opts.Logger.Warn("old records are not deleted", "topic", t.name, "partition", p.index, "err", err)
			}
		}
	}
}

// checkRetention deletes the oldest segments of which all records are older than
// Retention, and those without which the partition still has RetentionBytes. What
// is below the log start is gone already. Kafka: UnifiedLog.deleteOldSegments.
//
// A replica does the same: it has a clock of its own, and deletes nothing at or
// above its high watermark.
func (p *Partition) checkRetention(now time.Time) error {
	cfg := p.topic.config()
	if !cfg.Cleanup.deletes() || p.topic.internal || cfg.Retention == Forever && cfg.RetentionBytes == NoLimit {
		return nil
	}
	e := expiry{p: p, cfg: cfg, now: now.UnixMilli()}
	if !e.begin() {
		return nil
	}
	n, reason, err := e.count()
	to := e.endOf(n - 1)
	if err == nil && n == len(e.segs) {
		to, err = e.endActive()
	}
	if p.cuts.Load() != e.cuts {
		return nil // segments have gone meanwhile, and others may have taken their places
	}
	if n == 0 {
		return err
	}
	return errors.Join(err, p.moveStart(to, reason)) // what has expired goes, whatever is wrong with the next one
}

// expiry finds the segments of a partition that have expired, as of one moment.
type expiry struct {
	p   *Partition
	cfg *TopicConfig
	now int64 // milliseconds

	cuts          int64 // of the partition, then
	segs          []*segment
	highWatermark Offset
	end           Offset
	active        *segment
	activeSize    int64
	activeTime    int64 // its largest timestamp
	total         int64 // bytes of all segments, if there is a limit
}

// begin looks at the partition. It returns false if nothing of it can be deleted:
// damage is left as it is, for whoever wants to repair it.
func (e *expiry) begin() bool {
	p := e.p
	p.mu.Lock()
	defer p.mu.Unlock()
	segs := p.segs.Load()
	if segs == nil || p.writable() != nil {
		return false
	}
	e.cuts, e.segs, e.active = p.cuts.Load(), segs.list, segs.active()
	e.highWatermark, e.end = Offset(p.highWatermark.Load()), p.end
	e.activeSize, e.activeTime = e.active.size, e.active.maxTimestamp
	if e.cfg.RetentionBytes != NoLimit {
		for _, seg := range e.segs {
			e.total += seg.size
		}
	}
	return true
}

// count returns how many segments have expired, from the oldest on, and why the
// last of them has. It stops at the first one that has not, also if its largest
// timestamp lies in the future, as in Kafka; at the high watermark; and at one
// that is damaged.
func (e *expiry) count() (n int, reason string, err error) {
	for i, seg := range e.segs {
		if e.endOf(i) > e.highWatermark || seg == e.active && e.activeSize == 0 {
			break
		}
		why, err := e.reason(seg)
		if err != nil || why == "" {
			return n, reason, err
		}
		if seg != e.active { // whose size changes, and behind which nothing is counted
			e.total -= seg.size
		}
		n, reason = i+1, why
	}
	return n, reason, nil
}

// endOf is where segment i ends, and the first one begins.
func (e *expiry) endOf(i int) Offset {
	if i == len(e.segs)-1 {
		return e.end
	}
	return e.segs[i+1].base
}

// endActive begins the next segment, since all have expired, on a full disk too, and
// returns the end of the last one that goes: what was appended meanwhile stays, with
// its segment. After an error that is the one before the active one.
func (e *expiry) endActive() (Offset, error) {
	unchanged := func() bool { return e.p.active() == e.active && e.active.size == e.activeSize }
	err := e.p.topic.log.space.insist(func() error { return diskError(e.p.makeWay(unchanged)) })
	if err != nil {
		return e.active.base, err
	}
	e.p.mu.Lock()
	defer e.p.mu.Unlock()
	if e.p.active() == e.active || e.active.size != e.activeSize {
		return e.active.base, nil
	}
	return e.end, nil
}

// reason says why a segment has expired, empty if it has not. Time is looked at
// first, where that opens no file.
func (e *expiry) reason(seg *segment) (string, error) {
	tooMuch := seg != e.active && e.cfg.RetentionBytes != NoLimit && e.total-seg.size >= e.cfg.RetentionBytes
	if e.cfg.Retention == Forever && !tooMuch {
		return "", nil
	}
	largest, ok, err := e.largestTimestamp(seg)
	switch {
	case err != nil || !ok:
		return "", err
	case e.cfg.Retention != Forever && e.now-largest > e.cfg.Retention.Milliseconds():
		return "older than Retention", nil
	case tooMuch:
		return "more than RetentionBytes", nil
	}
	return "", nil
}

// largestTimestamp returns that of a segment; false if it is damaged. Without
// timestamps it is when this incarnation made or opened it: Kafka has the file's
// time there.
func (e *expiry) largestTimestamp(seg *segment) (int64, bool, error) {
	largest := e.activeTime
	if seg != e.active {
		s, err := e.p.sealOf(seg)
		if err != nil || s == nil {
			return 0, false, err
		}
		largest = s.maxTimestamp
	}
	if largest == batch.NoTimestamp {
		largest = seg.made
	}
	return largest, true, nil
}
