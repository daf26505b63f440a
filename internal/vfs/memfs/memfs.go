// Package memfs is a file system in memory that can show what a power cut
// leaves behind.
//
// It behaves as a file system of Linux does, mappings included, and remembers
// for each file and directory what has been flushed and what the disk may hold
// instead. [FS.CrashClone] draws one of the states that follow from that; its
// comment is the crash model.
//
// Files are heap memory, and a mapping is the same memory. Reads, and reads and
// writes through a mapping, take no lock that orders them against each other,
// so the race detector sees a byte that is stored through a mapping and read
// without synchronization. WriteAt does order: the kernel's write does too.
package memfs

import (
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/rifflelog/riffle/internal/vfs"
)

// defaultFree is how much may be written to a new FS: more than any test does.
const defaultFree = 1 << 40

// FS is a file system in memory; it implements [vfs.FS]. Its root, "/", exists;
// a relative name starts there too. It is safe for concurrent use.
type FS struct {
	free      atomic.Int64 // bytes that may still be taken
	used      atomic.Int64 // bytes that files have taken
	openFiles atomic.Int64
	mappings  atomic.Int64

	boot      atomic.Pointer[string] // the boot id
	powerCuts atomic.Int64           // power cuts that led here

	// mu guards the names. It may be held when a file's mu is taken, never the
	// reverse.
	mu      sync.Mutex
	root    *node
	nextID  int64
	live    *tree     // names as they are now
	durable *tree     // names after a crash, before any of changes is applied
	changes []*change // changes of names not yet in durable, in order
	locked  map[*node]bool
}

// node is a file or, if file is nil, a directory. Its names are in the trees.
type node struct {
	id   int64
	file *file
}

// New returns an empty file system with 1 TiB of free space.
func New() *FS {
	m := &FS{locked: map[*node]bool{}}
	m.root = m.newNode(nil)
	m.live, m.durable = newTree(), newTree()
	m.free.Store(defaultFree)
	m.SetBootID("boot-0")
	return m
}

// SetBootID sets what BootID returns; at first it is "boot-0", and "boot-n"
// after n power cuts in a row.
func (m *FS) SetBootID(id string) { m.boot.Store(&id) }

// SetFree sets how many bytes may still be written. Space is taken in pages of
// 4 KiB when they are first written or allocated, and given back by Truncate
// and by removing a file. Names take none. Beyond it, writes and allocations
// return vfs.ErrNoSpace, perhaps after a part, and stores through a mapping
// vfs.ErrFault.
func (m *FS) SetFree(n int64) { m.free.Store(max(n, 0)) }

// OpenFiles counts the files and locks that are open.
func (m *FS) OpenFiles() int { return int(m.openFiles.Load()) }

// Mappings counts the mappings that have not been unmapped.
func (m *FS) Mappings() int { return int(m.mappings.Load()) }

// Create implements [vfs.FS].
func (m *FS) Create(name string) (vfs.File, error) { return m.open("open", name, true, true) }

// Open implements [vfs.FS].
func (m *FS) Open(name string) (vfs.File, error) { return m.open("open", name, false, false) }

// OpenWrite implements [vfs.FS].
func (m *FS) OpenWrite(name string) (vfs.File, error) { return m.open("open", name, false, true) }

func (m *FS) open(op, name string, create, writable bool) (vfs.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.openNode(name, create)
	if err != nil {
		return nil, pathError(op, name, err)
	}
	if create {
		n.file.truncate(0)
	}
	n.file.ref(1)
	m.openFiles.Add(1)
	return &handle{m: m, f: n.file, name: name, writable: writable}, nil
}

// openNode finds the file name, or makes it.
func (m *FS) openNode(name string, create bool) (*node, error) {
	at, n, err := m.locate(name)
	switch {
	case err != nil:
		return nil, err
	case n == nil && !create:
		return nil, fs.ErrNotExist
	case n == nil:
		n = m.newNode(newFile(m))
		m.change(&change{node: n, to: at})
	case n.file == nil:
		return nil, syscall.EISDIR
	}
	return n, nil
}

// Rename implements [vfs.FS].
func (m *FS) Rename(from, to string) error {
	if err := m.rename(from, to); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

func (m *FS) rename(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	source, n, err := m.locate(from)
	if err != nil {
		return err
	}
	target, old, err := m.locate(to)
	switch {
	case err != nil:
		return err
	case n == nil:
		return fs.ErrNotExist
	case old != nil && old.file == nil:
		return fs.ErrExist
	case source.dir == nil || strings.HasPrefix(clean(to), clean(from)+"/"):
		return fs.ErrInvalid // the root, or a directory into itself
	case old == n:
		return nil
	case old != nil && n.file == nil:
		return syscall.ENOTDIR
	}
	m.change(&change{node: n, from: source, to: target})
	if old != nil {
		old.file.ref(-1)
	}
	return nil
}

// Remove implements [vfs.FS].
func (m *FS) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	at, n, err := m.locate(name)
	switch {
	case err != nil:
	case n == nil:
		err = fs.ErrNotExist
	case at.dir == nil:
		err = fs.ErrInvalid // the root
	case n.file == nil && len(m.live.names[n]) > 0:
		err = syscall.ENOTEMPTY
	}
	if err != nil {
		return pathError("remove", name, err)
	}
	m.change(&change{node: n, from: at})
	if n.file != nil {
		n.file.ref(-1)
	}
	return nil
}

// Mkdir implements [vfs.FS].
func (m *FS) Mkdir(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	at, n, err := m.locate(name)
	if err == nil && n != nil {
		err = fs.ErrExist
	}
	if err != nil {
		return pathError("mkdir", name, err)
	}
	m.change(&change{node: m.newNode(nil), to: at})
	return nil
}

// ReadDir implements [vfs.FS].
func (m *FS) ReadDir(name string) ([]vfs.DirEntry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, err := m.dir(name)
	if err != nil {
		return nil, pathError("readdir", name, err)
	}
	entries := []vfs.DirEntry{}
	for _, name := range m.live.sorted(dir) {
		entries = append(entries, m.live.names[dir][name].entry(name))
	}
	return entries, nil
}

// Stat implements [vfs.FS].
func (m *FS) Stat(name string) (vfs.DirEntry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, n, err := m.locate(name)
	if err == nil && n == nil {
		err = fs.ErrNotExist
	}
	if err != nil {
		return vfs.DirEntry{}, pathError("stat", name, err)
	}
	return n.entry(path.Base(clean(name))), nil
}

// SyncDir implements [vfs.FS].
func (m *FS) SyncDir(_ vfs.Site, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, err := m.dir(name)
	if err != nil {
		return pathError("syncdir", name, err)
	}
	m.flushNames(dir)
	return nil
}

// Lock implements [vfs.FS].
func (m *FS) Lock(name string) (io.Closer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.openNode(name, true)
	if err == nil && m.locked[n] {
		err = vfs.ErrLocked
	}
	if err != nil {
		return nil, pathError("lock", name, err)
	}
	m.locked[n] = true
	n.file.ref(1)
	m.openFiles.Add(1)
	return &lock{m: m, n: n, name: name}, nil
}

// Space implements [vfs.FS].
func (m *FS) Space(name string) (vfs.Space, error) {
	if _, err := m.Stat(name); err != nil {
		return vfs.Space{}, err
	}
	free := m.free.Load()
	return vfs.Space{Free: free, Total: free + m.used.Load(), Type: "memfs", MapWrites: true}, nil
}

// BootID implements [vfs.FS].
func (m *FS) BootID() string { return *m.boot.Load() }

// MaxFiles implements [vfs.FS]: there is no limit.
func (m *FS) MaxFiles() int { return math.MaxInt }

// Check implements [vfs.FS].
func (m *FS) Check(_ vfs.Site, ok bool) bool { return ok }

// lock is a lock that is held until it is closed.
type lock struct {
	m    *FS
	n    *node
	name string
}

func (l *lock) Close() error {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	if l.n == nil {
		return pathError("unlock", l.name, fs.ErrClosed)
	}
	delete(l.m.locked, l.n)
	l.n.file.ref(-1)
	l.n = nil
	l.m.openFiles.Add(-1)
	return nil
}

// locate finds the place that name stands for and what is there: nil if there
// is nothing. The root's place has no directory. The caller holds mu.
func (m *FS) locate(name string) (place, *node, error) {
	if name == "" {
		return place{}, nil, fs.ErrNotExist
	}
	at, n := place{}, m.root
	for part := range strings.SplitSeq(strings.TrimPrefix(clean(name), "/"), "/") {
		switch {
		case part == "": // name is the root
			return at, n, nil
		case n == nil:
			return place{}, nil, fs.ErrNotExist
		case n.file != nil:
			return place{}, nil, syscall.ENOTDIR
		}
		at = place{n, part}
		n = m.live.names[n][part]
	}
	return at, n, nil
}

// dir finds the directory name. The caller holds mu.
func (m *FS) dir(name string) (*node, error) {
	_, n, err := m.locate(name)
	switch {
	case err != nil:
		return nil, err
	case n == nil:
		return nil, fs.ErrNotExist
	case n.file != nil:
		return nil, syscall.ENOTDIR
	}
	return n, nil
}

func (m *FS) newNode(f *file) *node {
	m.nextID++
	return &node{id: m.nextID, file: f}
}

// take takes n bytes of free space, if there are so many.
func (m *FS) take(n int64) bool {
	for {
		free := m.free.Load()
		if free < n {
			return false
		}
		if m.free.CompareAndSwap(free, free-n) {
			m.used.Add(n)
			return true
		}
	}
}

func (m *FS) giveBack(n int64) {
	m.used.Add(-n)
	m.free.Add(n)
}

func (n *node) entry(name string) vfs.DirEntry {
	if n.file == nil {
		return vfs.DirEntry{Name: name, Dir: true}
	}
	return vfs.DirEntry{Name: name, Size: n.file.length()}
}

// clean returns name as an absolute path with slashes.
func clean(name string) string {
	name = strings.TrimPrefix(name, filepath.VolumeName(name))
	return path.Clean("/" + filepath.ToSlash(name))
}

func pathError(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: name, Err: err}
}
