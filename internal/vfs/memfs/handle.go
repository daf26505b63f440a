package memfs

import (
	"io/fs"
	"math"
	"slices"
	"sync/atomic"

	"github.com/rifflelog/riffle/internal/vfs"
)

// handle is an open file.
type handle struct {
	m        *FS
	f        *file
	name     string
	writable bool
	closed   atomic.Bool
}

func (h *handle) Name() string { return h.name }

func (h *handle) Close() error {
	if h.closed.Swap(true) {
		return pathError("close", h.name, fs.ErrClosed)
	}
	h.f.ref(-1)
	h.m.openFiles.Add(-1)
	return nil
}

func (h *handle) Size() (int64, error) {
	if err := h.mayRead("stat", 0, 0); err != nil {
		return 0, err
	}
	return h.f.length(), nil
}

func (h *handle) ReadAt(p []byte, off int64) (int, error) {
	if err := h.mayRead("read", off, 0); err != nil {
		return 0, err
	}
	return h.f.readAt(p, off)
}

func (h *handle) WriteAt(p []byte, off int64) (int, error) {
	if err := h.mayWrite("write", off, int64(len(p))); err != nil {
		return 0, err
	}
	n, err := h.f.writeAt(p, off)
	if err != nil {
		return n, pathError("write", h.name, err)
	}
	return n, nil
}

func (h *handle) WriteVec(pieces [][]byte, off int64) (int, error) {
	return h.WriteAt(slices.Concat(pieces...), off)
}

func (h *handle) Truncate(size int64) error {
	if err := h.mayWrite("truncate", size, 0); err != nil {
		return err
	}
	h.f.truncate(size)
	return nil
}

func (h *handle) Allocate(off, n int64) error {
	err := h.mayWrite("allocate", off, n)
	if err == nil && n == 0 {
		err = pathError("allocate", h.name, fs.ErrInvalid)
	}
	if err != nil {
		return err
	}
	if err := h.f.allocate(off, n); err != nil {
		return pathError("allocate", h.name, err)
	}
	return nil
}

func (h *handle) Zero(_ vfs.Site, off, n int64) error {
	if err := h.mayWrite("zero", off, n); err != nil {
		return err
	}
	h.f.zero(off, n)
	return nil
}

func (h *handle) Sync(vfs.Site) error {
	if err := h.mayRead("sync", 0, 0); err != nil {
		return err
	}
	h.f.sync()
	return nil
}

// FailSync does to the file what a flush that fails does: everything stays
// readable, counts as clean, and is not written by a later flush unless it is
// written to the file again. Package errfs calls it for an injected error.
func (h *handle) FailSync() { h.f.failSync() }

func (h *handle) Map(off int64, n int, writable bool) (vfs.Mapping, error) {
	if off%vfs.PageSize != 0 || n <= 0 {
		return nil, pathError("map", h.name, fs.ErrInvalid)
	}
	may := h.mayRead
	if writable {
		may = h.mayWrite
	}
	if err := may("map", off, int64(n)); err != nil {
		return nil, err
	}
	h.f.ref(1)
	h.m.mappings.Add(1)
	return &mapping{m: h.m, f: h.f, name: h.name, off: off, n: n, writable: writable}, nil
}

func (h *handle) mayRead(op string, off, n int64) error {
	if h.closed.Load() {
		return pathError(op, h.name, fs.ErrClosed)
	}
	if off < 0 || n < 0 || off > math.MaxInt64-n {
		return pathError(op, h.name, fs.ErrInvalid)
	}
	return nil
}

func (h *handle) mayWrite(op string, off, n int64) error {
	if err := h.mayRead(op, off, n); err != nil {
		return err
	}
	if !h.writable {
		return pathError(op, h.name, fs.ErrPermission)
	}
	return nil
}

// mapping is a part of a file; the memory is the file's.
type mapping struct {
	m        *FS
	f        *file
	name     string
	off      int64
	n        int // 0 when it is unmapped
	writable bool
}

func (p *mapping) Len() int { return p.n }

func (p *mapping) ReadAt(b []byte, off int64) (int, error) {
	if !p.holds(off, len(b)) {
		return 0, pathError("read", p.name, fs.ErrInvalid)
	}
	if len(b) == 0 {
		return 0, nil
	}
	if err := p.f.load(b, p.off+off); err != nil {
		return 0, pathError("read", p.name, err)
	}
	return len(b), nil
}

func (p *mapping) WriteAt(b []byte, off int64) (int, error) {
	if err := p.mayWrite("write", off, len(b)); err != nil || len(b) == 0 {
		return 0, err
	}
	if err := p.f.store(b, p.off+off); err != nil {
		return 0, pathError("write", p.name, err)
	}
	return len(b), nil
}

func (p *mapping) Load(off int) (uint64, error) {
	if !p.holds(int64(off), 8) || off%8 != 0 {
		return 0, pathError("load", p.name, fs.ErrInvalid)
	}
	v, err := p.f.loadWord(p.off + int64(off))
	if err != nil {
		return 0, pathError("load", p.name, err)
	}
	return vfs.LittleEndian(v), nil
}

func (p *mapping) Store(off int, v uint64) error {
	if err := p.mayWrite("store", int64(off), 8); err != nil {
		return err
	}
	if off%8 != 0 {
		return pathError("store", p.name, fs.ErrInvalid)
	}
	if err := p.f.storeWord(p.off+int64(off), vfs.LittleEndian(v)); err != nil {
		return pathError("store", p.name, err)
	}
	return nil
}

func (p *mapping) Prefault(off, n int) error {
	if err := p.mayWrite("prefault", int64(off), n); err != nil || n == 0 {
		return err
	}
	if err := p.f.prefault(p.off+int64(off), n); err != nil {
		return pathError("prefault", p.name, err)
	}
	return nil
}

// Detach does nothing: pages are always present.
func (p *mapping) Detach(off, n int) error {
	if !p.holds(int64(off), n) {
		return pathError("detach", p.name, fs.ErrInvalid)
	}
	return nil
}

func (p *mapping) Unmap() error {
	if p.n == 0 {
		return pathError("unmap", p.name, fs.ErrClosed)
	}
	p.n = 0
	p.f.ref(-1)
	p.m.mappings.Add(-1)
	return nil
}

func (p *mapping) holds(off int64, n int) bool {
	return off >= 0 && n >= 0 && off <= int64(p.n) && int64(n) <= int64(p.n)-off
}

func (p *mapping) mayWrite(op string, off int64, n int) error {
	if !p.holds(off, n) {
		return pathError(op, p.name, fs.ErrInvalid)
	}
	if !p.writable {
		return pathError(op, p.name, fs.ErrPermission)
	}
	return nil
}
