package riffle

import (
	"errors"
	"io/fs"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/rifflelog/riffle/internal/vfs"
)

// maxOpenFiles is how many segments a log keeps open, if the process may have
// four times as many files: the program that embeds us needs some too.
const maxOpenFiles = 4096

// files opens the files of segments when they are used, and closes those that
// were not used for longest when too many are open. Those that are not flushed or
// are mapped stay open: what could not be opened could not be flushed, and of a
// file that is closed the system may forget that a write failed.
type files struct {
	fs       vfs.FS
	limit    int
	readOnly bool // files are opened for reading

	// mu guards the ring of open files, in which the hand goes round (the clock
	// algorithm): it closes the first one that was not used since it last passed.
	mu   sync.Mutex
	ring []*segmentFile
	hand int
}

func newFiles(fsys vfs.FS) *files {
	return &files{fs: fsys, limit: max(8, min(maxOpenFiles, fsys.MaxFiles()/4))}
}

// file returns the file of that name, which must exist. It is opened with its
// first use.
func (all *files) file(name string) vfs.File { return &segmentFile{files: all, name: name} }

// create makes an empty file, or empties one.
func (all *files) create(name string) (vfs.File, error) {
	file, err := all.fs.Create(name)
	if err != nil {
		return nil, err
	}
	f := &segmentFile{files: all, name: name}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.opened(file)
	return f, nil
}

// rename gives a file that create has made another name, under which it is opened
// again. On Windows no other file may be open under that name.
func (f *segmentFile) rename(to string) error {
	f.mu.Lock() // nobody opens it meanwhile, under either name
	defer f.mu.Unlock()
	if o := f.files.forget(f); o != nil {
		if err := o.Close(); err != nil {
			return err
		}
	}
	err := f.files.fs.Rename(f.name, to)
	if err == nil {
		f.name = to
	}
	return err
}

// segmentFile is a file that may be closed at any time while it is not in use,
// and is opened again. A file that was closed under an operation says
// fs.ErrClosed and has done nothing; the operation begins anew.
type segmentFile struct {
	files *files
	file  atomic.Pointer[openFile] // nil while it is not open. Set under mu
	used  atomic.Bool              // since the hand passed it
	dirty atomic.Bool              // it was changed or mapped since it was flushed
	mu    sync.Mutex               // one goroutine opens it
	name  string                   // guarded by mu
	ended atomic.Bool              // closed for good. Set under mu
	check func() error             // of a file that another process may replace
}

type openFile struct{ vfs.File }

// get returns the file, open.
func (f *segmentFile) get() (*openFile, error) {
	if o := f.file.Load(); o != nil {
		if !f.used.Load() {
			f.used.Store(true)
		}
		return o, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if o := f.file.Load(); o != nil {
		return o, nil
	}
	if f.ended.Load() {
		return nil, &fs.PathError{Op: "open", Path: f.name, Err: fs.ErrClosed}
	}
	file, err := f.open()
	if err != nil {
		return nil, err
	}
	return f.opened(file), nil
}

// open opens the file, and checks then that it is the one that is meant: by its
// name it may be another partition's by now.
func (f *segmentFile) open() (vfs.File, error) {
	if !f.files.readOnly {
		return f.files.fs.OpenWrite(f.name)
	}
	file, err := f.files.fs.Open(f.name)
	if err != nil {
		return nil, err
	}
	if f.check != nil {
		err = f.check()
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// opened takes file over, and closes another one if there are too many. Called
// under mu.
func (f *segmentFile) opened(file vfs.File) *openFile {
	o := &openFile{file}
	f.used.Store(true)
	f.file.Store(o)
	if old := f.files.admit(f); old != nil {
		_ = old.Close() // what was written is there; what is flushed says the flush
	}
	return o
}

// admit takes note of an open file, and returns one to close if there are too
// many.
func (all *files) admit(f *segmentFile) *openFile {
	all.mu.Lock()
	defer all.mu.Unlock()
	all.ring = append(all.ring, f)
	if len(all.ring) <= all.limit {
		return nil
	}
	for range 2 * len(all.ring) { // the second time nothing was used
		all.hand %= len(all.ring)
		old := all.ring[all.hand]
		if old != f && !old.dirty.Load() && !old.used.Swap(false) {
			all.ring = slices.Delete(all.ring, all.hand, all.hand+1)
			return old.file.Swap(nil)
		}
		all.hand++
	}
	return nil // each has something to flush
}

// closeUnused closes the files that were not used since it was called last: an
// idle partition has none open.
func (all *files) closeUnused() {
	all.mu.Lock()
	var unused []*openFile
	all.ring = slices.DeleteFunc(all.ring, func(f *segmentFile) bool {
		if f.dirty.Load() || f.used.Swap(false) {
			return false
		}
		unused = append(unused, f.file.Swap(nil))
		return true
	})
	all.mu.Unlock()
	for _, o := range unused {
		_ = o.Close()
	}
}

// closed says whether err came because o was closed to make room.
func (f *segmentFile) closed(o *openFile, err error) bool {
	return errors.Is(err, fs.ErrClosed) && f.file.Load() != o && !f.ended.Load()
}

// changed notes that the file is to be flushed, also if it was changed through a
// mapping.
func (f *segmentFile) changed() {
	if !f.dirty.Load() {
		f.dirty.Store(true)
	}
}

// do calls op with the open file.
func (f *segmentFile) do(op func(vfs.File) error) error {
	for {
		o, err := f.get()
		if err != nil {
			return err
		}
		if err = op(o.File); !f.closed(o, err) {
			return err
		}
	}
}

func (f *segmentFile) Name() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.name
}

// ReadAt and WriteAt do without a closure, which would be allocated.

func (f *segmentFile) ReadAt(p []byte, off int64) (int, error) {
	for {
		o, err := f.get()
		if err != nil {
			return 0, err
		}
		if n, err := o.ReadAt(p, off); !f.closed(o, err) {
			return n, err
		}
	}
}

func (f *segmentFile) WriteAt(p []byte, off int64) (int, error) {
	f.changed()
	for {
		o, err := f.get()
		if err != nil {
			return 0, err
		}
		if n, err := o.WriteAt(p, off); !f.closed(o, err) {
			return n, err
		}
	}
}

// WriteVec is for large writes: see there.
func (f *segmentFile) WriteVec(pieces [][]byte, off int64) (n int, err error) {
	f.changed()
	err = f.do(func(file vfs.File) error { n, err = file.WriteVec(pieces, off); return err })
	return n, err
}

func (f *segmentFile) Size() (size int64, err error) {
	err = f.do(func(file vfs.File) (err error) { size, err = file.Size(); return err })
	return size, err
}

func (f *segmentFile) Truncate(size int64) error {
	f.changed()
	return f.do(func(file vfs.File) error { return file.Truncate(size) })
}

// Allocate leaves nothing to be flushed: space that is lost is allocated again, and who
// writes into it says so. Else an idle partition's file would stay open, since this often
// ends after the last flush.
func (f *segmentFile) Allocate(off, n int64) error {
	return f.do(func(file vfs.File) error { return file.Allocate(off, n) })
}

func (f *segmentFile) Zero(site vfs.Site, off, n int64) error {
	f.changed()
	return f.do(func(file vfs.File) error { return file.Zero(site, off, n) })
}

// Sync does not see what is written while it runs; nor does its caller, who takes
// note of more to flush before the next one.
func (f *segmentFile) Sync(site vfs.Site) error {
	dirty := f.dirty.Swap(false)
	err := f.do(func(file vfs.File) error { return file.Sync(site) })
	if err != nil && dirty {
		f.dirty.Store(true)
	}
	return err
}

func (f *segmentFile) Map(off int64, n int, writable bool) (m vfs.Mapping, err error) {
	err = f.do(func(file vfs.File) (err error) { m, err = file.Map(off, n, writable); return err })
	return m, err
}

// Close closes the file for good.
func (f *segmentFile) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended.Swap(true) {
		return &fs.PathError{Op: "close", Path: f.name, Err: fs.ErrClosed}
	}
	o := f.files.forget(f)
	if o == nil {
		return nil
	}
	return o.Close()
}

// forget removes f from the ring, and returns the file if it is open.
func (all *files) forget(f *segmentFile) *openFile {
	all.mu.Lock()
	defer all.mu.Unlock()
	if i := slices.Index(all.ring, f); i >= 0 {
		all.ring = slices.Delete(all.ring, i, i+1)
	}
	return f.file.Swap(nil)
}
