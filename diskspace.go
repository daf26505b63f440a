package riffle

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"time"
)

const (
	reserveName = "reserve"
	// maxCredit is how much users may append before the free space is looked at
	// again: so much may go past the reserve if others fill the disk meanwhile.
	maxCredit = 16 << 20
	// creditTime is how old that look may be, on the clock that batches are
	// stamped with.
	creditTime = time.Second
	// creditPiece is how much of it a partition draws at a time, for a hundred small
	// appends.
	creditPiece = 16 << 10
	// maxReserve keeps sums from overflowing; no disk has as much.
	maxReserve = 1 << 60
)

// diskSpace keeps space for what must go through on a full disk, so that it can
// be emptied: users' appends end while Options.DiskReserve bytes are free. Others
// may use those up too, so there is a file besides, `reserve`, which has really
// been allocated, and is given up when the log itself finds no room. It is safe
// for concurrent use.
//
// Looking at the free space takes microseconds, an append less than one. So a
// look gives a credit that appends draw on: at most a quarter of the room that
// there is, so that the limit is approached in ever smaller steps. What has drawn
// on the credit before a look, and writes after it, is not seen by that look. So
// the reserve is overshot by no more than maxCredit, and the batches and extents
// that are under way.
type diskSpace struct {
	log  *Log
	keep int64 // Options.DiskReserve

	// last is the last look. Another one takes its place as a whole, so that what was drawn
	// on the one before can be told.
	last atomic.Pointer[diskLook]

	// turn is held by whoever looks, makes or removes the file, and guards what
	// follows. It is a channel, since it is waited for while the disk works.
	turn   chan struct{}
	held   bool // the file has its space
	making bool // the file is being made again, in the background
	given  int  // counts how often it was given up
}

func newDiskSpace(l *Log) *diskSpace {
	s := &diskSpace{log: l, keep: min(l.opts.DiskReserve, maxReserve), turn: make(chan struct{}, 1)}
	s.last.Store(new(diskLook))
	return s
}

// draw takes n bytes for an append of users'. It returns false if the free space has to be
// looked at. Called under mu.
//
// The credit is all partitions', and each would wait for the others' drawing. So p draws a
// creditPiece at a time, and what it has not used is worth nothing after another look:
// that gives a credit anew.
func (p *Partition) draw(n, now int64) bool {
	s := p.topic.log.space
	if s.keep == NoLimit || p.topic.internal { // what is the log's own may use the reserve
		return true
	}
	look := s.last.Load()
	if !look.isFresh(now) {
		return false
	}
	if p.drawnOn != look {
		p.drawn, p.drawnOn = 0, look
	}
	if more := n - p.drawn; more > 0 {
		p.drawn += look.draw(more, max(more, creditPiece))
	}
	if p.drawn < n {
		return false
	}
	p.drawn -= n
	return true
}

// diskLook is a look at the free space.
type diskLook struct {
	at     int64        // when, in milliseconds
	credit atomic.Int64 // bytes that may be appended without another look
}

// isFresh says that the look is new enough. Clocks go back at times, and goroutines
// are late.
func (k *diskLook) isFresh(now int64) bool {
	age := now - k.at
	return -creditTime.Milliseconds() < age && age < creditTime.Milliseconds()
}

// draw takes most bytes from the credit, or if there are not as many, n. It returns how
// many it has taken, 0 if there are not even n.
func (k *diskLook) draw(n, most int64) int64 {
	for {
		left := k.credit.Load()
		if left < most {
			most = n
		}
		if left < most {
			return 0
		}
		if k.credit.CompareAndSwap(left, left-most) {
			return most
		}
	}
}

// admit returns ErrDiskFull if n more bytes would leave less than the reserve.
func (s *diskSpace) admit(n, now int64) error {
	if s.keep == NoLimit || s.draw(n, now) {
		return nil
	}
	return s.look(n, now)
}

// draw takes n bytes from the credit of the last look, if that is new enough.
func (s *diskSpace) draw(n, now int64) bool {
	look := s.last.Load()
	return look.isFresh(now) && look.draw(n, n) == n
}

// look is admit by what is really free. A file system that does not say stops
// nobody: the write will.
func (s *diskSpace) look(n, now int64) error {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	if s.draw(n, now) {
		return nil // somebody else has looked
	}
	space, err := s.log.fs.Space(s.log.dir)
	if err != nil {
		return nil
	}
	room := s.room(space.Free) - n
	look := &diskLook{at: now}
	look.credit.Store(min(max(room, 0)/4, maxCredit))
	s.last.Store(look) // also if it is full: nothing is left of the credit before
	if room < 0 {
		return s.full(space.Free)
	}
	if !s.held && !s.making {
		s.making = s.log.start(s.allocateAgain)
	}
	return nil
}

// room is how much of the free space is users' to fill. Space that the file
// shall have and has not is not theirs: giving the file up makes no room for
// them, and making it again takes none. The caller holds the turn.
func (s *diskSpace) room(free int64) int64 { return free - s.keep - s.missing() }

func (s *diskSpace) missing() int64 {
	if s.held {
		return 0
	}
	return s.log.reserveBytes
}

func (s *diskSpace) full(free int64) error {
	err := fmt.Errorf("%w: %d bytes are free, DiskReserve keeps %d", ErrDiskFull, free, s.keep)
	if more := s.missing(); more > 0 {
		err = fmt.Errorf("%w, and the file %q is to have %d", err, reserveName, more)
	}
	return err
}

func (s *diskSpace) path() string { return filepath.Join(s.log.dir, reserveName) }

// open makes the file, or finds it, once the log has been read. A disk without
// room for it is no reason not to open. Without a reserve there shall be none.
func (s *diskSpace) open() {
	if s.keep == NoLimit {
		s.release()
		return
	}
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	e, err := s.log.fs.Stat(s.path())
	s.held = err == nil && e.Size == s.log.reserveBytes
	space, err := s.log.fs.Space(s.log.dir)
	if err == nil && s.room(space.Free) >= 0 {
		err = s.allocate() // also if it is there: a copy of a directory has holes
	}
	if !s.held {
		s.log.opts.Logger.Warn("no space is set aside for a full disk", "file", s.path(), "free", space.Free, "err", err)
	}
}

// allocateAgain makes the file after it was given up, or could not be made. That
// takes its time, so it is done without the turn; if the file is given up
// meanwhile, it is removed once it is made.
func (s *diskSpace) allocateAgain() {
	s.turn <- struct{}{}
	given := s.given
	<-s.turn
	err := s.make()
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	s.making = false
	if s.held = err == nil && given == s.given; !s.held {
		_ = s.log.fs.Remove(s.path()) // a later look tries once more
	}
}

// allocate makes the file and sets its space aside. It is not flushed: if a crash
// takes it, it is made again. The caller holds the turn.
func (s *diskSpace) allocate() error {
	err := s.make()
	if s.held = err == nil; !s.held {
		_ = s.log.fs.Remove(s.path()) // a part of it is of no use
	}
	return err
}

func (s *diskSpace) make() error {
	file, err := s.log.fs.OpenWrite(s.path())
	if err != nil {
		file, err = s.log.fs.Create(s.path())
	}
	if err != nil {
		return err
	}
	return errors.Join(file.Allocate(0, s.log.reserveBytes), file.Close())
}

// release gives the file's space back. It returns false if there is no file.
func (s *diskSpace) release() bool {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	s.held = false
	s.given++
	return s.log.fs.Remove(s.path()) == nil
}

// givenUp is how often the file was given up.
func (s *diskSpace) givenUp() int {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	return s.given
}

// insist runs f, which must go through on a full disk too and can be repeated
// after ErrDiskFull: then once more, with the space that was set aside, also if
// somebody else has given that up since f began.
func (s *diskSpace) insist(f func() error) error {
	given := s.givenUp()
	err := f()
	if !errors.Is(err, ErrDiskFull) || s.givenUp() == given && !s.release() {
		return err
	}
	s.log.opts.Logger.Warn("the disk is full: the space set aside is used", "file", s.path(), "err", err)
	return f()
}
