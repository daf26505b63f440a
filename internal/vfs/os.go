package vfs

import (
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"syscall"
)

// OS returns the file system of the operating system. Files are made with mode
// 0o644 and directories with 0o755, before umask. On Linux, unless built with
// the tag portable, it allocates space and maps files; elsewhere Allocate only
// sets sizes and Map returns errors.ErrUnsupported.
func OS() FS { return osFS{} }

// osFS holds no state. What it calls and does not find in this file is in
// os_linux.go or os_portable.go (how files are flushed, allocated and mapped),
// and in sys_*.go and space_*.go (what differs even there).
type osFS struct{}

func (osFS) Create(name string) (File, error) {
	return open(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
}

func (osFS) Open(name string) (File, error) { return open(name, os.O_RDONLY) }

func (osFS) OpenWrite(name string) (File, error) { return open(name, os.O_RDWR) }

func (osFS) Rename(from, to string) error { return shortage(rename(from, to)) }

func (osFS) Remove(name string) error { return os.Remove(name) }

func (osFS) Mkdir(name string) error { return shortage(os.Mkdir(name, 0o755)) }

func (osFS) ReadDir(name string) ([]DirEntry, error) {
	list, err := os.ReadDir(name)
	if err != nil {
		return nil, err
	}
	entries := make([]DirEntry, 0, len(list))
	for _, e := range list {
		info, err := follow(name, e)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed since it was listed
		}
		if err != nil {
			return nil, err
		}
		entries = append(entries, dirEntry(info))
	}
	return entries, nil
}

// follow describes what e of the directory dir stands for, as Stat does; e itself
// if it is a link that leads nowhere.
func follow(dir string, e os.DirEntry) (fs.FileInfo, error) {
	const link = fs.ModeSymlink | fs.ModeIrregular // Windows has irregular ones
	if e.Type()&link == 0 {
		return e.Info()
	}
	info, err := os.Stat(filepath.Join(dir, e.Name()))
	if errors.Is(err, fs.ErrNotExist) {
		return e.Info()
	}
	return info, err
}

func (osFS) Stat(name string) (DirEntry, error) {
	info, err := os.Stat(name)
	if err != nil {
		return DirEntry{}, err
	}
	return dirEntry(info), nil
}

func (osFS) SyncDir(_ Site, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return shortage(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return pathError("syncdir", name, syscall.ENOTDIR)
	}
	return shortage(syncDir(f))
}

func (osFS) Lock(name string) (io.Closer, error) {
	f, err := openFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, shortage(err)
	}
	if err := lockFile(f); err != nil {
		f.Close()
		return nil, pathError("lock", name, err)
	}
	return osLock{f}, nil
}

func (osFS) Space(name string) (Space, error) {
	space, err := spaceOf(name)
	if err != nil {
		return Space{}, pathError("statfs", name, err)
	}
	space.MapWrites = space.MapWrites && canMap
	return space, nil
}

func (osFS) BootID() string { return bootID() }

func (osFS) MaxFiles() int { return maxFiles() }

func (osFS) Check(_ Site, ok bool) bool { return ok }

// osLock is a locked file. The lock is given back before the file is closed,
// because a child process that is just being started has a copy of the handle.
type osLock struct{ f *os.File }

func (l osLock) Close() error {
	return errors.Join(unlockFile(l.f), l.f.Close())
}

// osFile is an open file of osFS. It is safe for concurrent use.
type osFile struct {
	f        *os.File
	writable bool
	growing  growLock
}

func open(name string, flag int) (File, error) {
	f, err := openFile(name, flag, 0o644)
	if err != nil {
		return nil, shortage(err)
	}
	if flag == os.O_RDONLY { // which opens directories too
		info, err := f.Stat()
		if err == nil && info.IsDir() {
			err = pathError("open", name, syscall.EISDIR)
		}
		if err != nil {
			f.Close()
			return nil, err
		}
	}
	return &osFile{f: f, writable: flag != os.O_RDONLY}, nil
}

func (o *osFile) Name() string { return o.f.Name() }

func (o *osFile) Close() error { return shortage(o.f.Close()) }

func (o *osFile) Size() (int64, error) {
	info, err := o.f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (o *osFile) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, pathError("read", o.f.Name(), fs.ErrInvalid)
	}
	return o.f.ReadAt(p, off)
}

// WriteAt goes on after short writes, as os.File does.
func (o *osFile) WriteAt(p []byte, off int64) (int, error) {
	if err := o.mayChange("write", off, int64(len(p))); err != nil {
		return 0, err
	}
	o.growing.RLock()
	defer o.growing.RUnlock()
	n, err := o.f.WriteAt(p, off)
	return n, shortage(err)
}

func (o *osFile) WriteVec(pieces [][]byte, off int64) (int, error) {
	size := 0
	for _, p := range pieces {
		size += len(p)
	}
	if err := o.mayChange("write", off, int64(size)); err != nil {
		return 0, err
	}
	o.growing.RLock()
	defer o.growing.RUnlock()
	n, err := o.writeVec(pieces, off)
	return n, shortage(err)
}

func (o *osFile) Truncate(size int64) error {
	if err := o.mayChange("truncate", size, 0); err != nil {
		return err
	}
	return shortage(o.f.Truncate(size))
}

func (o *osFile) Allocate(off, n int64) error {
	err := o.mayChange("allocate", off, n)
	if err == nil && n == 0 {
		err = pathError("allocate", o.f.Name(), fs.ErrInvalid)
	}
	if err != nil {
		return err
	}
	return shortage(o.allocate(off, n))
}

func (o *osFile) Zero(_ Site, off, n int64) error {
	if err := o.mayChange("zero", off, n); err != nil {
		return err
	}
	size, err := o.Size()
	if err != nil {
		return err
	}
	n = min(n, size-off)
	if n <= 0 {
		return nil
	}
	return shortage(o.zero(off, n))
}

func (o *osFile) Sync(_ Site) error { return shortage(o.sync()) }

func (o *osFile) Map(off int64, n int, writable bool) (Mapping, error) {
	if off < 0 || off%PageSize != 0 || n <= 0 || off > math.MaxInt64-int64(n) {
		return nil, pathError("map", o.f.Name(), fs.ErrInvalid)
	}
	if writable && !o.writable {
		return nil, pathError("map", o.f.Name(), fs.ErrPermission)
	}
	return o.mapRange(off, n, writable)
}

// mayChange tells whether [off, off+n) is a range that may be changed through
// this handle.
func (o *osFile) mayChange(op string, off, n int64) error {
	if off < 0 || n < 0 || off > math.MaxInt64-n {
		return pathError(op, o.f.Name(), fs.ErrInvalid)
	}
	if !o.writable {
		return pathError(op, o.f.Name(), fs.ErrPermission)
	}
	return nil
}

// zeroChunk is how much is written at a time where zeros must be written.
const zeroChunk = 64 << 10

// writeZeros zeroes [off, off+n), which lies inside the file, by writing.
func (o *osFile) writeZeros(off, n int64) error {
	zeros := make([]byte, min(n, zeroChunk))
	for n > 0 {
		w, err := o.f.WriteAt(zeros[:min(n, zeroChunk)], off)
		if err != nil {
			return err
		}
		off, n = off+int64(w), n-int64(w)
	}
	return nil
}

func dirEntry(info fs.FileInfo) DirEntry {
	e := DirEntry{Name: info.Name(), Dir: info.IsDir()}
	if !e.Dir {
		e.Size = info.Size()
	}
	return e
}
