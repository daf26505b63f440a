package riffle

import (
	"sync/atomic"
	"time"

	"github.com/rifflelog/riffle/internal/vfs"
)

// Under FlushAsync a small batch is copied into the mapped file instead of
// written: that takes a tenth of the time, since it makes no system call. A large
// one is written into space that was allocated before, which takes two thirds of
// the time of making the file longer. What could hurt the program is kept from it:
//
//   - A store into a hole of a full disk faults. So space is allocated, in growing
//     extents, before it is mapped, and only on file systems where that is enough
//     (vfs.Space.MapWrites).
//   - A page fault holds up a thread of the Go scheduler. So the pages behind the
//     end are touched ahead, on a goroutine of the log, unless large batches would
//     pass over them; an append that finds none touched writes instead. Bytes are
//     read from the mapping only while they are not flushed.
//   - A mapping costs an entry of the kernel's tables. So a partition has none
//     before it is busy, what is flushed is given back, and all of it once it is
//     idle. The space behind the end stays until the segment is full or closed.
const (
	// maxMappedWrite is the largest batch that is copied into the mapping. Larger
	// ones are written as fast, and need no pages touched: only space set aside.
	maxMappedWrite = 8 << 10
	// mapAfter is how many unflushed bytes make a partition busy enough.
	mapAfter = 4 << 10
	// An extent is as large as what is before it, between these. Unmapping is done
	// in such pieces too: the kernel lets nobody else fault meanwhile.
	minExtent = vfs.PageSize
	maxExtent = 8 << 20
	// So many bytes are touched ahead: few at first and after each FlushInterval,
	// twice as many each time. At full speed the most are used up while a flush of
	// flushAt bytes holds up the touching of more.
	minTouch = 64 << 10
	maxTouch = 2 << 20
	// touchPiece is how much of it at a time.
	touchPiece = 256 << 10
	// maxMappings is how many extents a log may have mapped. Kafka maps only its
	// indexes; the kernel's default limit is 65,530 for the whole process.
	maxMappings = 4096
	// maxSettingAside is how many partitions set space aside at a time: each takes a thread
	// until the disk has done it, and the Go runtime ends a program that has 10,000.
	maxSettingAside = 8
)

// extent is a mapped part of a segment's file.
type extent struct {
	vfs.Mapping
	off  int64        // where it begins in the file
	end  int64        // where it ends
	log  *Log         // whose mappings it counts for
	pins atomic.Int32 // the segment's own, and one for each copy out that is under way; 0 for good
}

// pin keeps x mapped until unpin. It returns false if it is not mapped any more.
func (x *extent) pin() bool {
	for {
		n := x.pins.Load()
		if n == 0 || x.pins.CompareAndSwap(n, n+1) {
			return n > 0
		}
	}
}

// unpin gives a pin back; the last one unmaps.
func (x *extent) unpin() {
	if x.pins.Add(-1) == 0 {
		_ = x.Unmap() // nothing would be lost or held but memory
		x.log.mappings.Add(-1)
	}
}

// extents are the mapped parts of a segment in their order. They do not change:
// to map one more is to replace them.
type extents []*extent

// find returns the extent that has [off, off+n), nil if none has all of it.
// What is asked for is mostly in the last one.
func (list extents) find(off int64, n int) *extent {
	for i := len(list) - 1; i >= 0; i-- {
		if x := list[i]; off >= x.off {
			if off+int64(n) <= x.end {
				return x
			}
			return nil
		}
	}
	return nil
}

// end returns where the last one ends.
func (list extents) end() int64 {
	if len(list) == 0 {
		return 0
	}
	return list[len(list)-1].end
}

// mapping is what a segment that is appended to has mapped. Guarded by the
// partition's lock, except for list.
type mapping struct {
	list atomic.Pointer[extents]
	// own is the first byte that is read from here: this incarnation wrote it, and
	// it is not flushed, so it is in memory. What is before it may not be.
	own atomic.Int64
	// touched ends the pages that are allocated, mapped and present; at or before
	// the segment's size there are none.
	touched int64
	step    int64 // how much to touch ahead
	next    int64 // the size at which to touch more
	// Since the segment had size since, batches of small bytes came that could be copied.
	since, small int64
	// Closed when the task that is under way has ended; nil if none is. They are
	// two because allocating waits for a flush that is running, and touching for
	// less.
	touching, extending chan struct{}

	// What larger batches are written into: space up to byte aside of the file, and the
	// size at which to set more aside.
	aside, asideNext int64

	grown  bool // the file may be longer than the segment
	fixed  bool // nothing more is mapped, since nothing more is appended
	unmaps int  // counts how often all was unmapped
}

// load returns what is mapped.
func (m *mapping) load() extents {
	if list := m.list.Load(); list != nil {
		return *list
	}
	return nil
}

// read copies bytes that are in memory for sure, if they are mapped.
func (m *mapping) read(p []byte, off int64) bool {
	if off < m.own.Load() {
		return false
	}
	x := m.load().find(off, len(p))
	if x == nil || !x.pin() {
		return false
	}
	defer x.unpin()
	_, err := x.ReadAt(p, off-x.off)
	return err == nil // reading the file tells what the fault is
}

// takes says whether pages are there for a batch of n bytes at byte pos. Called under the
// partition's lock.
func (m *mapping) takes(n int, pos int64) bool {
	return pos+int64(n) <= m.touched && n <= maxMappedWrite
}

// write copies b to byte pos, if pages are there for it. Called under the
// partition's lock.
func (m *mapping) write(b []byte, pos int64) bool {
	if !m.takes(len(b), pos) {
		return false
	}
	x := m.load().find(pos, len(b))
	if x == nil {
		return false // it passes the end of one
	}
	if _, err := x.WriteAt(b, pos-x.off); err != nil {
		m.touched = 0 // writing the file tells what the fault is
		return false
	}
	return true
}

// unmap gives all extents back, each when the last reader has left it. It
// returns them, for release. Called under the partition's lock.
func (m *mapping) unmap() extents {
	list := m.load()
	m.list.Store(nil)
	m.touched, m.step, m.next = 0, 0, 0
	m.aside, m.asideNext = 0, 0
	m.unmaps++
	return list
}

// flushed takes note that the first size bytes are on the disk: who reads there
// reads the file. It returns the extents that nobody needs any more, for release.
// Called under the partition's lock.
func (m *mapping) flushed(size int64) extents {
	m.own.Store(size)
	list := m.load()
	n := 0
	for n < len(list) && list[n].end <= size {
		n++
	}
	if n > 0 {
		if rest := list[n:]; len(rest) > 0 {
			m.list.Store(&rest)
		} else {
			m.list.Store(nil)
		}
	}
	return list[:n]
}

// release unmaps in the background. Called without a lock.
func (l *Log) release(list extents) {
	if len(list) > 0 && !l.start(list.unpin) {
		list.unpin()
	}
}

// unpin gives the segment's own pins back.
func (list extents) unpin() {
	for _, x := range list {
		x.unpin()
	}
}

// grows says whether space behind the end of the active segment should be
// allocated. Called under mu.
func (p *Partition) grows() bool {
	return p.topic.log.mapWrites && p.topic.config().Flush == FlushAsync && p.unflushed() >= p.topic.log.mapAfter
}

// growSoon touches more pages in the background when a quarter of those ahead
// is used, maps a first extent when an append of n bytes shows that the
// partition is busy, and sets space aside for large batches. Called under mu, after
// the append.
func (p *Partition) growSoon(seg *segment, n int) {
	m := &seg.mapped
	if n > maxMappedWrite {
		if seg.size >= m.asideNext && !m.fixed && m.extending == nil && p.grows() {
			p.inTask(&m.extending, func() { p.setAside(seg) })
		}
		return
	}
	m.small += int64(n)
	switch {
	case seg.size < m.next || m.fixed || m.touching != nil || m.extending != nil && m.list.Load() == nil:
	case m.passed(seg.size):
		m.next = seg.size + p.topic.log.minTouch
	case m.list.Load() != nil:
		p.inTask(&m.touching, func() { p.touch(seg) })
	case p.grows():
		p.inTask(&m.extending, func() { p.extend(seg) })
	}
}

// passed says whether large batches are most of what came since it was asked last: they would
// pass over the pages that are touched ahead. Called under the partition's lock.
func (m *mapping) passed(size int64) bool {
	large := m.since > 0 && size-m.since > 2*m.small // what was there at first says nothing
	m.since, m.small = size, 0
	return large
}

// inTask runs f on a goroutine of the log, with task set to what is closed when it
// has ended. Called under mu.
func (p *Partition) inTask(task *chan struct{}, f func()) {
	done := make(chan struct{})
	*task = done
	started := p.topic.log.start(func() {
		defer func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			*task = nil
			close(done)
		}()
		f()
	})
	if !started {
		*task = nil
	}
}

// touch makes pages behind the end present, piece by piece. If they are not when
// an append needs them, it writes.
func (p *Partition) touch(seg *segment) {
	m := &seg.mapped
	p.mu.Lock()
	defer p.mu.Unlock()
	unmaps, step := m.unmaps, min(max(p.topic.log.minTouch, m.step), maxTouch)
	for m.unmaps == unmaps && !m.fixed {
		list, from := m.load(), max(seg.size, m.touched)
		to := min(from+touchPiece, seg.size+step, list.end())
		if from >= to {
			break
		}
		if !p.unlockAndTouch(list, from, to) {
			step = p.topic.log.minTouch / 2
			break
		}
		if m.unmaps == unmaps && !m.fixed {
			m.touched = to
		}
	}
	if m.unmaps != unmaps || m.fixed {
		return
	}
	m.step, m.next = 2*step, seg.size+step/4
	if m.load().end()-seg.size < 2*step && m.extending == nil {
		p.inTask(&m.extending, func() { p.extend(seg) })
	}
}

// unlockAndTouch is called with mu held, and returns with it held.
func (p *Partition) unlockAndTouch(list extents, from, to int64) bool {
	p.mu.Unlock()
	defer p.mu.Lock()
	return list.touch(from, to)
}

// touch makes the pages of [from, to) present, as far as they are mapped.
func (list extents) touch(from, to int64) bool {
	ok := true
	for _, x := range list {
		lo, hi := max(from, x.off), min(to, x.end)
		if lo < hi && x.pin() {
			ok = x.Prefault(int(lo-x.off), int(hi-lo)) == nil && ok
			x.unpin()
		}
	}
	return ok
}

// detach makes the pages of [from, to) absent, as far as they are mapped.
func (list extents) detach(from, to int64) {
	for _, x := range list {
		lo, hi := max(from, x.off), min(to, x.end)
		if lo < hi && x.pin() {
			_ = x.Detach(int(lo-x.off), int(hi-lo))
			x.unpin()
		}
	}
}

// extend sets the space behind what is mapped aside, and maps it too.
func (p *Partition) extend(seg *segment) {
	m := &seg.mapped
	p.mu.Lock()
	size, unmaps, end := seg.size, m.unmaps, m.load().end()
	m.grown = true
	p.mu.Unlock()

	x := p.mapExtent(seg, max(size, end))

	p.mu.Lock()
	late := m.unmaps != unmaps || m.fixed
	switch list := m.load(); {
	case x == nil:
		m.next = seg.size + max(p.topic.log.minTouch, m.step)
	case !late:
		more := append(append(make(extents, 0, len(list)+1), list...), x)
		m.list.Store(&more)
		if m.touching == nil && m.touched <= seg.size {
			p.inTask(&m.touching, func() { p.touch(seg) })
		}
	}
	p.mu.Unlock()
	if x != nil && late {
		x.unpin()
	}
}

// setAside allocates the space that large batches come to next. Without it they
// make the file longer. What is mapped for small ones serves too.
func (p *Partition) setAside(seg *segment) {
	l := p.topic.log
	defer l.asides.Add(-1)
	if l.asides.Add(1) > maxSettingAside {
		return // the next append asks again
	}
	m := &seg.mapped
	p.mu.Lock()
	pos, unmaps := max(seg.size, m.aside, m.load().end()), m.unmaps
	if ahead := pos - seg.size; ahead > min(seg.size, maxExtent)/2 {
		m.aside, m.asideNext = pos, pos-ahead/2
		p.mu.Unlock()
		return
	}
	m.grown = true
	p.mu.Unlock()

	off, n, ok := p.allocate(seg, pos)

	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case m.unmaps != unmaps: // it was cut
	case ok:
		m.aside = off + n
		m.asideNext = m.aside - n/2
	default:
		m.asideNext = seg.size + maxExtent
	}
}

// allocate allocates the extent that byte pos is in, if there is room for it.
func (p *Partition) allocate(seg *segment, pos int64) (off, n int64, ok bool) {
	off = pos / vfs.PageSize * vfs.PageSize
	limit := (p.topic.config().SegmentBytes + vfs.PageSize - 1) / vfs.PageSize * vfs.PageSize
	n = min(max(minExtent, off), maxExtent, limit-off) / vfs.PageSize * vfs.PageSize
	ok = n > 0 && // else the segment is full
		p.topic.log.space.admit(n, time.Now().UnixMilli()) == nil && seg.file.Allocate(off, n) == nil
	return off, n, ok
}

// mapExtent allocates and maps the extent that byte pos is in. It returns nil if
// it cannot.
func (p *Partition) mapExtent(seg *segment, pos int64) *extent {
	l := p.topic.log
	if l.mappings.Add(1) > maxMappings {
		l.mappings.Add(-1)
		return nil
	}
	if off, n, ok := p.allocate(seg, pos); ok {
		if m, err := seg.file.Map(off, int(n), true); err == nil {
			x := &extent{Mapping: m, off: off, end: off + n, log: l}
			x.pins.Store(1)
			return x
		}
	}
	l.mappings.Add(-1)
	return nil
}

// fix ends the growing of the active segment, to which nothing is appended any
// more, and cuts the space behind its end; the next flush covers that. Called
// without a lock.
func (p *Partition) fix(seg *segment) error {
	size, grown := p.endGrowing(seg)
	if !grown {
		return nil
	}
	length, err := seg.file.Size()
	if err != nil || length <= size {
		return err
	}
	err = seg.file.Truncate(size)
	p.mu.Lock()
	p.cut++ // after it: a flush that is running does not cover it
	p.mu.Unlock()
	return err
}

// endGrowing ends the growing of the active segment, for good. It returns the
// segment's size, and whether its file may be longer. Called without a lock.
func (p *Partition) endGrowing(seg *segment) (size int64, grown bool) {
	p.mu.Lock()
	seg.mapped.fixed, seg.mapped.touched = true, 0
	tasks := []chan struct{}{seg.mapped.touching, seg.mapped.extending}
	p.mu.Unlock()
	for _, task := range tasks {
		if task == nil {
			continue
		}
		select {
		case <-task:
		case <-p.topic.log.broken:
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return seg.size, seg.mapped.grown // a task may have begun only now
}
