// Package errfs is a file system that fails, waits and leaves things out on
// purpose.
//
// It wraps any other file system, and makes an [Op] of every call, those of
// files and mappings included. A test sees them with OnOp, and sets [Rule]s for
// them. Counting operations orders the calls of all goroutines: to let the race
// detector see races through mappings, use package memfs without this one.
package errfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"

	"github.com/rifflelog/riffle/internal/vfs"
)

// Kind is the name of a method.
type Kind string

// The kinds of operations. An injected error of Close, Unlock or Unmap is
// returned after the thing was closed, as close(2) does. Check and BootID have
// no error to return: one of Check is ignored, one of BootID makes it unknown.
const (
	Create    Kind = "create"
	Open      Kind = "open"
	OpenWrite Kind = "openwrite"
	Rename    Kind = "rename" // Op.Name is the old name
	Remove    Kind = "remove"
	Mkdir     Kind = "mkdir"
	ReadDir   Kind = "readdir"
	Stat      Kind = "stat"
	SyncDir   Kind = "syncdir"
	Lock      Kind = "lock"
	Unlock    Kind = "unlock"
	Space     Kind = "space"
	BootID    Kind = "bootid"
	Check     Kind = "check"
	Read      Kind = "read"
	Write     Kind = "write"
	Close     Kind = "close"
	Size      Kind = "size"
	Truncate  Kind = "truncate"
	Allocate  Kind = "allocate"
	Zero      Kind = "zero"
	Sync      Kind = "sync"
	Map       Kind = "map"
	MapRead   Kind = "mapread"  // also Load
	MapWrite  Kind = "mapwrite" // also Store
	Prefault  Kind = "prefault"
	Detach    Kind = "detach"
	Unmap     Kind = "unmap"
)

// Op describes an operation that is about to begin.
type Op struct {
	N    int64 // 1 for the first one of this FS, 2, 3, ...
	Kind Kind
	Name string   // of the file or directory, as the caller gave it
	Site vfs.Site // of Sync, SyncDir, Zero and Check
	Off  int64    // in the file or, for MapRead, MapWrite, Prefault and Detach, in the mapping; Truncate's size
	Len  int64    // bytes
}

// String returns op in one line, for messages of tests.
func (op Op) String() string {
	return fmt.Sprintf("#%d %s %s %s [%d,+%d)", op.N, op.Kind, op.Name, op.Site, op.Off, op.Len)
}

// ErrInjected is the error of a [Rule] that says to fail, but not how.
var ErrInjected = errors.New("injected error")

// Partial is an error to inject into a Write or MapWrite: the first Bytes are
// written, then an error that unwraps to Err is returned. In other operations
// nothing is done.
type Partial struct {
	Bytes int
	Err   error
}

// Error implements error.
func (p *Partial) Error() string { return fmt.Sprintf("after %d bytes: %v", p.Bytes, p.Err) }

// Unwrap returns p.Err.
func (p *Partial) Unwrap() error { return p.Err }

// FS wraps a file system; it implements [vfs.FS]. It is safe for concurrent
// use, and so is each of its methods from within OnOp and rules: they run
// without any lock held.
type FS struct {
	inner vfs.FS

	mu    sync.Mutex // guards what follows
	n     int64
	onOp  func(Op) error
	rules []*rule
	skip  map[vfs.Site]bool
	sites map[vfs.Site]bool
}

// New returns a file system that does what inner does.
func New(inner vfs.FS) *FS {
	return &FS{inner: inner, skip: map[vfs.Site]bool{}, sites: map[vfs.Site]bool{}}
}

// Inner returns the file system that New was given.
func (e *FS) Inner() vfs.FS { return e.inner }

// OnOp has f called before each operation from now on; nil ends that. An error
// of f is the operation's result, in an *fs.PathError unless it is one, and
// nothing is done, with three exceptions:
//
//   - A write does a part if the error is a *Partial.
//   - A failed Sync of a file of memfs leaves the content readable and takes it
//     for clean, so that the next flush works but does not bring it to the disk.
//   - What is closed is closed: see [Kind].
//
// f may wait, and may use the inner file system, but not this one: it would be
// called for that too.
func (e *FS) OnOp(f func(Op) error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.onOp = f
}

// Skip leaves the site out: its Sync, SyncDir or Zero returns nil and does
// nothing, and its Check returns true.
func (e *FS) Skip(site vfs.Site) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.skip[site] = true
}

// Ops returns the number of operations so far.
func (e *FS) Ops() int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.n
}

// Sites returns the sites seen so far, sorted.
func (e *FS) Sites() []vfs.Site {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Sorted(maps.Keys(e.sites))
}

// begin counts an operation, and tells what OnOp and the rules want of it: an
// error, or to leave it out.
func (e *FS) begin(op Op) (skip bool, err error) {
	e.mu.Lock()
	e.n++
	op.N = e.n
	if op.Site != "" {
		e.sites[op.Site] = true
		skip = e.skip[op.Site]
	}
	onOp := e.onOp
	rules := e.matching(op)
	e.mu.Unlock()

	for _, r := range rules {
		if r.Before != nil {
			r.Before(op)
		}
		if err == nil {
			err = r.result(op)
		}
	}
	if onOp != nil {
		asked := onOp(op) // also if the answer changes nothing
		err = first(err, asked)
	}
	return skip, inPath(op, err)
}

// inPath returns err in an *fs.PathError, unless it is nil or has a path.
func inPath(op Op, err error) error {
	var path *fs.PathError
	var link *os.LinkError
	if err == nil || errors.As(err, &path) || errors.As(err, &link) {
		return err
	}
	return &fs.PathError{Op: string(op.Kind), Path: op.Name, Err: err}
}

// Create implements [vfs.FS].
func (e *FS) Create(name string) (vfs.File, error) { return e.open(Create, name, e.inner.Create) }

// Open implements [vfs.FS].
func (e *FS) Open(name string) (vfs.File, error) { return e.open(Open, name, e.inner.Open) }

// OpenWrite implements [vfs.FS].
func (e *FS) OpenWrite(name string) (vfs.File, error) {
	return e.open(OpenWrite, name, e.inner.OpenWrite)
}

func (e *FS) open(kind Kind, name string, open func(string) (vfs.File, error)) (vfs.File, error) {
	if _, err := e.begin(Op{Kind: kind, Name: name}); err != nil {
		return nil, err
	}
	f, err := open(name)
	if err != nil {
		return nil, err
	}
	return &file{e, f}, nil
}

// Rename implements [vfs.FS].
func (e *FS) Rename(from, to string) error {
	if _, err := e.begin(Op{Kind: Rename, Name: from}); err != nil {
		return err
	}
	return e.inner.Rename(from, to)
}

// Remove implements [vfs.FS].
func (e *FS) Remove(name string) error {
	if _, err := e.begin(Op{Kind: Remove, Name: name}); err != nil {
		return err
	}
	return e.inner.Remove(name)
}

// Mkdir implements [vfs.FS].
func (e *FS) Mkdir(name string) error {
	if _, err := e.begin(Op{Kind: Mkdir, Name: name}); err != nil {
		return err
	}
	return e.inner.Mkdir(name)
}

// ReadDir implements [vfs.FS].
func (e *FS) ReadDir(name string) ([]vfs.DirEntry, error) {
	if _, err := e.begin(Op{Kind: ReadDir, Name: name}); err != nil {
		return nil, err
	}
	return e.inner.ReadDir(name)
}

// Stat implements [vfs.FS].
func (e *FS) Stat(name string) (vfs.DirEntry, error) {
	if _, err := e.begin(Op{Kind: Stat, Name: name}); err != nil {
		return vfs.DirEntry{}, err
	}
	return e.inner.Stat(name)
}

// SyncDir implements [vfs.FS].
func (e *FS) SyncDir(site vfs.Site, name string) error {
	skip, err := e.begin(Op{Kind: SyncDir, Name: name, Site: site})
	if skip || err != nil {
		return err
	}
	return e.inner.SyncDir(site, name)
}

// Lock implements [vfs.FS].
func (e *FS) Lock(name string) (io.Closer, error) {
	if _, err := e.begin(Op{Kind: Lock, Name: name}); err != nil {
		return nil, err
	}
	l, err := e.inner.Lock(name)
	if err != nil {
		return nil, err
	}
	return &lock{e, name, l}, nil
}

// Space implements [vfs.FS].
func (e *FS) Space(name string) (vfs.Space, error) {
	if _, err := e.begin(Op{Kind: Space, Name: name}); err != nil {
		return vfs.Space{}, err
	}
	return e.inner.Space(name)
}

// BootID implements [vfs.FS].
func (e *FS) BootID() string {
	if _, err := e.begin(Op{Kind: BootID}); err != nil {
		return ""
	}
	return e.inner.BootID()
}

// MaxFiles implements [vfs.FS].
func (e *FS) MaxFiles() int { return e.inner.MaxFiles() }

// Check implements [vfs.FS].
func (e *FS) Check(site vfs.Site, ok bool) bool {
	skip, _ := e.begin(Op{Kind: Check, Site: site})
	return skip || e.inner.Check(site, ok)
}

type lock struct {
	e     *FS
	name  string
	inner io.Closer
}

func (l *lock) Close() error {
	_, err := l.e.begin(Op{Kind: Unlock, Name: l.name})
	return first(err, l.inner.Close())
}

func first(a, b error) error {
	if a != nil {
		return a
	}
	return b
}
