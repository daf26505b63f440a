//go:build linux && !portable

package vfs

import (
	"errors"
	"io/fs"
	"os"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mapping is a shared mapping of a file.
//
// A load or store may fault: the file was cut (also by another process), the
// device failed, or it is full. The kernel then sends SIGBUS, which ends a Go
// program, unless the goroutine has asked for a panic with SetPanicOnFault. So
// every access to mem is in read, write, load or store below: each asks for
// the panic, catches it, and puts the earlier setting back. A panic that is not
// a fault of this very mapping goes on unchanged.
type mapping struct {
	name     string
	writable bool
	mem      []byte
}

func (m *mapping) Len() int { return len(m.mem) }

func (m *mapping) ReadAt(p []byte, off int64) (int, error) {
	if !m.holds(off, len(p)) {
		return 0, pathError("read", m.name, fs.ErrInvalid)
	}
	if !m.read(p, int(off)) {
		return 0, pathError("read", m.name, ErrFault)
	}
	return len(p), nil
}

func (m *mapping) WriteAt(p []byte, off int64) (int, error) {
	if err := m.mayWrite("write", off, len(p)); err != nil {
		return 0, err
	}
	if !m.write(p, int(off)) {
		return 0, pathError("write", m.name, ErrFault)
	}
	return len(p), nil
}

func (m *mapping) Load(off int) (uint64, error) {
	if !m.holds(int64(off), 8) || off%8 != 0 {
		return 0, pathError("load", m.name, fs.ErrInvalid)
	}
	v, ok := m.load(off)
	if !ok {
		return 0, pathError("load", m.name, ErrFault)
	}
	return LittleEndian(v), nil
}

func (m *mapping) Store(off int, v uint64) error {
	if err := m.mayWrite("store", int64(off), 8); err != nil {
		return err
	}
	if off%8 != 0 {
		return pathError("store", m.name, fs.ErrInvalid)
	}
	if !m.store(off, LittleEndian(v)) {
		return pathError("store", m.name, ErrFault)
	}
	return nil
}

// Prefault does nothing on kernels before 5.14, which lack the call.
func (m *mapping) Prefault(off, n int) error {
	if err := m.mayWrite("prefault", int64(off), n); err != nil || n == 0 {
		return err
	}
	start := off - off%os.Getpagesize() // what is populated starts on a page
	err := retry(func() error { return unix.Madvise(m.mem[start:off+n], unix.MADV_POPULATE_WRITE) })
	switch {
	case err == nil || errors.Is(err, unix.EINVAL):
		return nil
	case errors.Is(err, unix.EFAULT) || errors.Is(err, unix.EHWPOISON):
		return pathError("prefault", m.name, ErrFault)
	}
	return shortage(pathError("prefault", m.name, err))
}

func (m *mapping) Detach(off, n int) error {
	if !m.holds(int64(off), n) {
		return pathError("detach", m.name, fs.ErrInvalid)
	}
	// Whole pages: what is beside them may be in use.
	page := os.Getpagesize()
	from, to := (off+page-1)/page*page, (off+n)/page*page
	if from >= to {
		return nil
	}
	if err := retry(func() error { return unix.Madvise(m.mem[from:to], unix.MADV_DONTNEED) }); err != nil {
		return pathError("detach", m.name, err)
	}
	return nil
}

func (m *mapping) Unmap() error {
	mem := m.mem
	m.mem = nil
	if mem == nil {
		return pathError("unmap", m.name, fs.ErrClosed)
	}
	if err := unix.Munmap(mem); err != nil {
		return pathError("unmap", m.name, err)
	}
	return nil
}

func (m *mapping) holds(off int64, n int) bool {
	return off >= 0 && off <= int64(len(m.mem)) && int64(n) <= int64(len(m.mem))-off && n >= 0
}

func (m *mapping) mayWrite(op string, off int64, n int) error {
	if !m.holds(off, n) {
		return pathError(op, m.name, fs.ErrInvalid)
	}
	if !m.writable {
		return pathError(op, m.name, fs.ErrPermission)
	}
	return nil
}

// read, write, load and store report whether they got through without a fault.

func (m *mapping) read(p []byte, off int) (ok bool) {
	defer m.catch(debug.SetPanicOnFault(true))
	copy(p, m.mem[off:])
	return true
}

func (m *mapping) write(p []byte, off int) (ok bool) {
	defer m.catch(debug.SetPanicOnFault(true))
	copy(m.mem[off:], p)
	return true
}

func (m *mapping) load(off int) (v uint64, ok bool) {
	defer m.catch(debug.SetPanicOnFault(true))
	return atomic.LoadUint64((*uint64)(unsafe.Pointer(&m.mem[off]))), true
}

func (m *mapping) store(off int, v uint64) (ok bool) {
	defer m.catch(debug.SetPanicOnFault(true))
	atomic.StoreUint64((*uint64)(unsafe.Pointer(&m.mem[off])), v)
	return true
}

// catch ends a guarded access: it puts the goroutine's setting back to what it
// was, and swallows a panic only if it is a fault of this mapping. It must be
// deferred itself, since recover works only there.
func (m *mapping) catch(old bool) {
	debug.SetPanicOnFault(old)
	if r := recover(); r != nil && !m.faulted(r) {
		panic(r)
	}
}

// faulted tells whether r is the panic of a fault with an address in m.
func (m *mapping) faulted(r any) bool {
	fault, ok := r.(interface {
		runtime.Error
		Addr() uintptr
	})
	if !ok || len(m.mem) == 0 {
		return false
	}
	base := uintptr(unsafe.Pointer(&m.mem[0]))
	page := uintptr(os.Getpagesize())
	end := base + (uintptr(len(m.mem))+page-1)/page*page
	return fault.Addr() >= base && fault.Addr() < end
}
