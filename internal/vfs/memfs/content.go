package memfs

import (
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/rifflelog/riffle/internal/vfs"
)

// file is the content of a file, and what the disk may hold of it.
type file struct {
	m *FS

	// mu is held for reading by whoever reads the file or stores into it
	// through a mapping, and for writing by all others, so that they see every
	// page at rest.
	mu    sync.RWMutex
	size  int64
	pages []*page // nil, or beyond the end of the slice: zeros that were never written
	taken []bool  // by page: it has its space on the disk
	refs  int     // its name, handles and mappings; at 0 the space is given back

	// Since the last flush that worked: the sizes that the disk may hold,
	// oldest first, the current one last, and the sizes of shrinking truncates,
	// called cuts. Before the n-th cut the disk is in its age n-1: what belongs
	// to different ages never meets.
	sizes []sizeState
	cuts  []int64
	clock int // how many sizes there were
}

// sizeState is a size of the file, and those on the way to it: a write makes the
// file longer page by page, so it may be found with any page boundary in
// (from, size) as its end. All of them count as one, however many they are.
type sizeState struct {
	age, time  int
	from, size int64
}

func newFile(m *FS) *file { return &file{m: m, refs: 1, sizes: []sizeState{{}}} }

// ref adds n to the number of names, handles and mappings.
func (f *file) ref(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refs += n
	if f.refs == 0 {
		f.release(0)
	}
}

// release gives back the space of all pages from the given one on.
func (f *file) release(from int) {
	for i := from; i < len(f.taken); i++ {
		if f.taken[i] {
			f.m.giveBack(pageBytes)
		}
	}
	f.taken = f.taken[:min(from, len(f.taken))]
}

func (f *file) length() int64 {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.size
}

func (f *file) readAt(p []byte, off int64) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	n := int(max(0, min(int64(len(p)), f.size-off)))
	f.copyOut(p[:n], off)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// copyOut copies to p what is at off. The caller holds mu in any way.
func (f *file) copyOut(p []byte, off int64) {
	for len(p) > 0 {
		i, from := split(off)
		n := min(len(p), pageBytes-from)
		if pg := f.at(i); pg != nil {
			copy(p[:n], pg.live[from:])
		} else {
			clear(p[:n])
		}
		p, off = p[n:], off+int64(n)
	}
}

func (f *file) writeAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	done := 0
	var err error
	for done < len(p) {
		i, from := split(off + int64(done))
		pg := f.obtain(i)
		if pg == nil {
			err = vfs.ErrNoSpace
			break
		}
		pg.change()
		done += copy(pg.live[from:], p[done:])
	}
	if done > 0 {
		f.grow(off, off+int64(done))
	}
	return done, err
}

func (f *file) truncate(size int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if size >= f.size {
		f.grow(size, size)
		return
	}
	f.cuts = append(f.cuts, size)
	f.size = size
	f.addSize(size, size)
	first, from := split(size)
	for i := first; i < len(f.pages); i++ {
		if pg := f.pages[i]; pg != nil {
			pg.cut(from, len(f.cuts))
		}
		from = 0
	}
	f.release(pagesOf(size))
}

func (f *file) allocate(off, n int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := int(off / pageBytes); i < pagesOf(off+n); i++ {
		if !f.own(i) {
			return vfs.ErrNoSpace
		}
	}
	f.grow(off, off+n)
	return nil
}

func (f *file) zero(off, n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n = min(n, f.size-off)
	for n > 0 {
		i, from := split(off)
		part := min(n, int64(pageBytes-from))
		if pg := f.at(i); pg != nil {
			pg.change()
			clear(pg.live[from : from+int(part)])
		}
		off, n = off+part, n-part
	}
}

// grow makes the file at least size bytes long, page by page from off on.
func (f *file) grow(off, size int64) {
	if size <= f.size {
		return
	}
	f.addSize(max(f.size, off), size)
	f.size = size
}

// addSize adds to sizes, and may forget another one.
func (f *file) addSize(from, size int64) {
	f.clock++
	f.sizes = append(f.sizes, sizeState{len(f.cuts), f.clock, from, size})
	if i := crowded(f.sizes, func(s sizeState) (int, int) { return s.age, s.time }); i > 0 {
		f.sizes = slices.Delete(f.sizes, i, i+1)
	}
}

// sync does what a flush does that works.
func (f *file) sync() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pages = f.pages[:min(len(f.pages), pagesOf(f.size))]
	for _, pg := range f.pages {
		if pg != nil {
			pg.flushed()
		}
	}
	f.cuts = nil
	f.sizes = []sizeState{{0, f.clock, f.size, f.size}}
}

// failSync does what a flush does that fails, as on Linux: what was to be
// written stays readable and is taken for clean. The next flush will not write
// it, unless it is changed again. Sizes and cuts stay open until then.
func (f *file) failSync() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, pg := range f.pages {
		if pg != nil && pg.dirty {
			pg.dirty, pg.lost = false, true
		}
	}
}

// load copies to p what is at off of a mapping.
func (f *file) load(p []byte, off int64) error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if off+int64(len(p)) > f.size {
		return vfs.ErrFault
	}
	f.copyOut(p, off)
	return nil
}

// store copies p to off of a mapping.
func (f *file) store(p []byte, off int64) error {
	if err := f.fault(off, len(p)); err != nil {
		return err
	}
	defer f.mu.RUnlock()
	for len(p) > 0 {
		i, from := split(off)
		n := min(len(p), pageBytes-from)
		f.pages[i].store(from, p[:n])
		p, off = p[n:], off+int64(n)
	}
	return nil
}

func (f *file) loadWord(off int64) (uint64, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if off+8 > f.size {
		return 0, vfs.ErrFault
	}
	i, from := split(off)
	pg := f.at(i)
	if pg == nil {
		return 0, nil
	}
	return atomic.LoadUint64((*uint64)(unsafe.Pointer(&pg.live[from]))), nil
}

func (f *file) storeWord(off int64, v uint64) error {
	if err := f.fault(off, 8); err != nil {
		return err
	}
	defer f.mu.RUnlock()
	i, from := split(off)
	f.pages[i].storeWord(from, v)
	return nil
}

// prefault makes [off, off+n) present and dirty.
func (f *file) prefault(off int64, n int) error {
	if err := f.fault(off, n); err != nil {
		return err
	}
	defer f.mu.RUnlock()
	for i := int(off / pageBytes); i < pagesOf(off+int64(n)); i++ {
		f.pages[i].touch()
	}
	return nil
}

// fault does what a page fault does before the first store into pages: it makes
// [off, off+n) present. Without an error it returns with mu held for reading.
func (f *file) fault(off int64, n int) error {
	for {
		f.mu.RLock()
		if off+int64(n) > f.size {
			f.mu.RUnlock()
			return vfs.ErrFault
		}
		if f.present(off, n) {
			return nil
		}
		f.mu.RUnlock()
		if !f.populate(off, n) {
			return vfs.ErrFault
		}
	}
}

func (f *file) present(off int64, n int) bool {
	for i := int(off / pageBytes); i < pagesOf(off+int64(n)); i++ {
		if f.at(i) == nil {
			return false
		}
	}
	return true
}

// populate makes the pages of [off, off+n), as far as the file goes.
func (f *file) populate(off int64, n int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := int(off / pageBytes); i < pagesOf(min(off+int64(n), f.size)); i++ {
		if f.obtain(i) == nil {
			return false
		}
	}
	return true
}

// at returns page i, nil if it was never written.
func (f *file) at(i int) *page {
	if i < len(f.pages) {
		return f.pages[i]
	}
	return nil
}

// obtain returns page i to be written, nil if there is no space for it.
func (f *file) obtain(i int) *page {
	if !f.own(i) {
		return nil
	}
	for len(f.pages) <= i {
		f.pages = append(f.pages, nil)
	}
	if f.pages[i] == nil {
		f.pages[i] = &page{age: f.ageOf(i)}
	}
	return f.pages[i]
}

// own takes space for page i, unless it has some.
func (f *file) own(i int) bool {
	for len(f.taken) <= i {
		f.taken = append(f.taken, false)
	}
	if !f.taken[i] {
		f.taken[i] = f.m.take(pageBytes)
	}
	return f.taken[i]
}

// ageOf returns the age that began with the last cut that took page i away.
func (f *file) ageOf(i int) int {
	for age := len(f.cuts); age > 0; age-- {
		if i >= int(f.cuts[age-1]/pageBytes) {
			return age
		}
	}
	return 0
}

// split returns the page that off is in, and where in it.
func split(off int64) (page, from int) { return int(off / pageBytes), int(off % pageBytes) }

// pagesOf returns how many pages hold n bytes.
func pagesOf(n int64) int { return int((n + pageBytes - 1) / pageBytes) }
