package riffle

import (
	"sync"
	"time"

	"github.com/rifflelog/riffle/internal/invariants"
)

// publishDelay is how long a commit waits for others until other processes are
// shown the high watermark. One window costs a timer, a goroutine and a few
// stores for all partitions together, an append in it a look at a plain bool.
// With the longest pause of who follows, maxPoll, it stays below the 25 ms in
// which a record is to be seen.
const publishDelay = 2 * time.Millisecond

// publisher has the live words of bounds written: soon, when there was a commit,
// and at once when the set of a partition's segments changes.
type publisher struct {
	mu     sync.Mutex   // guards what follows; nothing is locked under it
	listed []*Partition // those that have something to publish, once each
	timer  *time.Timer  // runs while armed
	armed  bool
	err    error // why something was not published; nil if nothing is to be logged
	logged bool
}

// publishSoon has other processes shown before long what was committed. Called
// under mu.
func (p *Partition) publishSoon() {
	if p.listed {
		return
	}
	p.listed = true
	p.topic.log.publishLater(p)
}

func (l *Log) publishLater(p *Partition) {
	s := &l.publisher
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listed = append(s.listed, p)
	l.armPublisher()
}

// armPublisher starts the timer. Called under publisher.mu.
func (l *Log) armPublisher() {
	s := &l.publisher
	switch {
	case s.armed || l.publishDelay == 0:
		return
	case s.timer == nil:
		s.timer = l.after(l.publishDelay, l.publish)
	default:
		s.timer.Reset(l.publishDelay)
	}
	s.armed = true
}

// publish writes the live words of the partitions that are listed.
func (l *Log) publish() {
	s := &l.publisher
	s.mu.Lock()
	listed := s.listed
	s.listed, s.armed = nil, false
	s.mu.Unlock()
	for _, p := range listed {
		p.mu.Lock()
		p.listed = false
		p.publish()
		p.mu.Unlock()
	}
	if len(listed) > 0 {
		l.tell()
	}
	s.mu.Lock()
	err := s.err
	if s.err = nil; err != nil {
		s.logged = true
	}
	s.mu.Unlock()
	if err != nil {
		l.opts.Logger.Warn("other processes do not see what is appended", "err", err)
	}
}

// publishFailed has err logged, once: appends go on without.
func (l *Log) publishFailed(err error) {
	s := &l.publisher
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && s.err == nil && !s.logged {
		s.err = err
		l.armPublisher()
	}
}

// tell lets other processes know that there is something to be seen.
func (l *Log) tell() { l.publishFailed(l.bounds.tell()) }

// publish shows other processes the partition as it is. Called under mu.
func (p *Partition) publish() {
	invariants.Check(p.logEnd() == p.end, "log end %d is shown as %d", p.end, p.logEnd())
	if p.isShown() {
		p.topic.log.publishFailed(p.entry.publish(p.bounds()))
	}
}

// isShown says that the partition has a place in bounds. When its topic is deleted
// that is given up, and may be another's. Called under mu.
func (p *Partition) isShown() bool { return p.entry != nil && !p.gone.Load() }

// publishNow shows other processes the partition as it is, at once: before what
// they would not understand without.
func (p *Partition) publishNow() {
	p.mu.Lock()
	p.publish()
	p.mu.Unlock()
	p.topic.log.tell()
}

// publishChange shows other processes a set of segments, or bounds that went
// back, which were changed in one step. Called under mu.
func (p *Partition) publishChange(back bool) {
	p.beginChange(back)
	p.endChange()
}

// beginChange lets other processes wait for endChange: what they find meanwhile
// may not fit together. Called under mu, as is endChange.
func (p *Partition) beginChange(back bool) {
	if p.isShown() {
		p.topic.log.publishFailed(p.entry.beginChange(back))
	}
}

// endChange shows what there is after a change.
func (p *Partition) endChange() {
	if p.isShown() {
		p.publish()
		p.topic.log.publishFailed(p.entry.endChange())
		p.topic.log.tell()
	}
}

// publishOpened shows all partitions as opening has found them. One that has
// nothing to show is shown with its first append.
func (l *Log) publishOpened() {
	for p := range l.partitions() {
		segs := p.segs.Load()
		if segs == nil && (p.entry == nil || p.damaged != nil) {
			continue
		}
		if p.entry == nil { // bounds were lost
			entry, _, _, err := l.bounds.slotFor(p.topic.id, int32(p.index))
			if err != nil {
				l.publishFailed(err)
				continue
			}
			p.entry = entry
		}
		p.mu.Lock()
		p.publish()
		p.mu.Unlock()
	}
	l.tell()
}

// publishRest shows what is still to be shown when nothing is appended any more,
// and stops the timer.
func (l *Log) publishRest() {
	s := &l.publisher
	s.mu.Lock()
	if s.timer != nil {
		s.timer.Stop()
	}
	s.mu.Unlock()
	l.publish()
}
