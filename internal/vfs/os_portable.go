//go:build !linux || portable

package vfs

import "errors"

// canMap says whether Map works.
const canMap = false

// allocate cannot set space aside here and only sets the size.
func (o *osFile) allocate(off, n int64) error { return o.grow(off + n) }

func (o *osFile) zero(off, n int64) error { return o.writeZeros(off, n) }

func (o *osFile) sync() error { return o.f.Sync() }

func bootID() string { return "" }

func (o *osFile) mapRange(int64, int, bool) (Mapping, error) {
	return nil, pathError("map", o.f.Name(), errors.ErrUnsupported)
}
