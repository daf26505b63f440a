//go:build !linux || portable

package vfs

import (
	"errors"
	"sync"
)

// canMap says whether Map works.
const canMap = false

// growLock is held for reading while a file is written, and for writing while
// allocate makes it longer.
type growLock struct{ sync.RWMutex }

// allocate cannot set space aside here and only sets the size. A write that made
// the file longer between asking for its size and setting it would be cut off,
// so writes wait.
func (o *osFile) allocate(off, n int64) error {
	o.growing.Lock()
	defer o.growing.Unlock()
	now, err := o.Size()
	if err != nil || now >= off+n {
		return err
	}
	return o.f.Truncate(off + n)
}

func (o *osFile) zero(off, n int64) error { return o.writeZeros(off, n) }

func (o *osFile) writeVec(pieces [][]byte, off int64) (written int, err error) {
	for _, p := range pieces {
		n, err := o.f.WriteAt(p, off+int64(written))
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

func (o *osFile) sync() error { return o.f.Sync() }

func bootID() string { return "" }

func (o *osFile) mapRange(int64, int, bool) (Mapping, error) {
	return nil, pathError("map", o.f.Name(), errors.ErrUnsupported)
}
