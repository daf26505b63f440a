package errfs

import (
	"errors"
	"slices"

	"github.com/rifflelog/riffle/internal/vfs"
)

// file is an open file of FS.
type file struct {
	e     *FS
	inner vfs.File
}

func (f *file) Name() string { return f.inner.Name() }

func (f *file) begin(op Op) (skip bool, err error) {
	op.Name = f.inner.Name()
	return f.e.begin(op)
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	if _, err := f.begin(Op{Kind: Read, Off: off, Len: int64(len(p))}); err != nil {
		return 0, err
	}
	return f.inner.ReadAt(p, off)
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	if _, err := f.begin(Op{Kind: Write, Off: off, Len: int64(len(p))}); err != nil {
		return writePart(f.inner.WriteAt, p, off, err)
	}
	return f.inner.WriteAt(p, off)
}

func (f *file) WriteVec(pieces [][]byte, off int64) (int, error) {
	all := slices.Concat(pieces...)
	if _, err := f.begin(Op{Kind: Write, Off: off, Len: int64(len(all))}); err != nil {
		return writePart(f.inner.WriteAt, all, off, err)
	}
	return f.inner.WriteVec(pieces, off)
}

func (f *file) Close() error {
	_, err := f.begin(Op{Kind: Close})
	return first(err, f.inner.Close())
}

func (f *file) Size() (int64, error) {
	if _, err := f.begin(Op{Kind: Size}); err != nil {
		return 0, err
	}
	return f.inner.Size()
}

func (f *file) Truncate(size int64) error {
	if _, err := f.begin(Op{Kind: Truncate, Off: size}); err != nil {
		return err
	}
	return f.inner.Truncate(size)
}

func (f *file) Allocate(off, n int64) error {
	if _, err := f.begin(Op{Kind: Allocate, Off: off, Len: n}); err != nil {
		return err
	}
	return f.inner.Allocate(off, n)
}

func (f *file) Zero(site vfs.Site, off, n int64) error {
	skip, err := f.begin(Op{Kind: Zero, Site: site, Off: off, Len: n})
	if skip || err != nil {
		return err
	}
	return f.inner.Zero(site, off, n)
}

func (f *file) Sync(site vfs.Site) error {
	skip, err := f.begin(Op{Kind: Sync, Site: site})
	if err != nil {
		if inner, ok := f.inner.(interface{ FailSync() }); ok {
			inner.FailSync()
		}
		return err
	}
	if skip {
		return nil
	}
	return f.inner.Sync(site)
}

// FailSync passes a failed flush of an FS around this one on.
func (f *file) FailSync() {
	if inner, ok := f.inner.(interface{ FailSync() }); ok {
		inner.FailSync()
	}
}

func (f *file) Map(off int64, n int, writable bool) (vfs.Mapping, error) {
	if _, err := f.begin(Op{Kind: Map, Off: off, Len: int64(n)}); err != nil {
		return nil, err
	}
	m, err := f.inner.Map(off, n, writable)
	if err != nil {
		return nil, err
	}
	return &mapping{f.e, f.inner.Name(), m}, nil
}

// mapping is a mapping of a file of FS.
type mapping struct {
	e     *FS
	name  string
	inner vfs.Mapping
}

func (m *mapping) Len() int { return m.inner.Len() }

func (m *mapping) begin(kind Kind, off int64, n int) error {
	_, err := m.e.begin(Op{Kind: kind, Name: m.name, Off: off, Len: int64(n)})
	return err
}

func (m *mapping) ReadAt(p []byte, off int64) (int, error) {
	if err := m.begin(MapRead, off, len(p)); err != nil {
		return 0, err
	}
	return m.inner.ReadAt(p, off)
}

func (m *mapping) WriteAt(p []byte, off int64) (int, error) {
	if err := m.begin(MapWrite, off, len(p)); err != nil {
		return writePart(m.inner.WriteAt, p, off, err)
	}
	return m.inner.WriteAt(p, off)
}

func (m *mapping) Load(off int) (uint64, error) {
	if err := m.begin(MapRead, int64(off), 8); err != nil {
		return 0, err
	}
	return m.inner.Load(off)
}

func (m *mapping) Store(off int, v uint64) error {
	if err := m.begin(MapWrite, int64(off), 8); err != nil {
		return err
	}
	return m.inner.Store(off, v)
}

func (m *mapping) Prefault(off, n int) error {
	if err := m.begin(Prefault, int64(off), n); err != nil {
		return err
	}
	return m.inner.Prefault(off, n)
}

func (m *mapping) Detach(off, n int) error {
	if err := m.begin(Detach, int64(off), n); err != nil {
		return err
	}
	return m.inner.Detach(off, n)
}

func (m *mapping) Unmap() error {
	return first(m.begin(Unmap, 0, m.inner.Len()), m.inner.Unmap())
}

// writePart writes what err, if it is a *Partial, says, and returns err.
func writePart(write func([]byte, int64) (int, error), p []byte, off int64, err error) (int, error) {
	var part *Partial
	if !errors.As(err, &part) {
		return 0, err
	}
	n, failed := write(p[:min(part.Bytes, len(p))], off)
	if failed != nil {
		return n, failed
	}
	return n, err
}
