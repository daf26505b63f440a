package group

import (
	"cmp"
	"time"

	"github.com/google/btree"
)

type timerKind int

const (
	session   timerKind = iota // of member
	pendingID                  // of an id that has not joined
	joinPhase                  // of group
	syncPhase                  // likewise
)

// timer is one deadline. It belongs to its member or group and is in the tree
// while it is armed.
type timer struct {
	kind   timerKind
	armed  bool
	at     time.Time
	order  uint64 // of arming
	group  *group
	member *member
	id     string
}

func newTimers() *btree.BTreeG[*timer] {
	return btree.NewG(32, func(a, b *timer) bool {
		return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.order, b.order)) < 0
	})
}

// arm sets the deadline of t.
func (c *Coordinator) arm(t *timer, at time.Time) {
	c.stop(t)
	c.armed++
	t.at, t.order, t.armed = at, c.armed, true
	c.timers.ReplaceOrInsert(t)
}

func (c *Coordinator) stop(t *timer) {
	if t.armed {
		c.timers.Delete(t)
		t.armed = false
	}
}

// Next returns when Tick is due.
func (c *Coordinator) Next() (time.Time, bool) {
	t, ok := c.timers.Min()
	if !ok || !c.loaded {
		return time.Time{}, false
	}
	return t.at, true
}

// Tick ends what is due by now: sessions, ids that nobody joined with, and the
// join and sync phases of groups.
func (c *Coordinator) Tick(now time.Time) Result {
	s := c.begin(now)
	for c.loaded {
		t, ok := c.timers.Min()
		if !ok || t.at.After(now) {
			break
		}
		c.stop(t)
		c.expire(s, t)
	}
	return s.Result
}

func (c *Coordinator) expire(s *step, t *timer) {
	switch t.kind {
	case session:
		c.remove(s, t.member)
		c.shrunk(s, t.group, true)
	case pendingID:
		delete(t.group.pending, t.id)
		c.shrunk(s, t.group, false)
	case joinPhase:
		c.endJoinPhase(s, t.group)
	case syncPhase:
		c.endSyncPhase(s, t.group)
	}
}
