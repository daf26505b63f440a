//go:build !(darwin || freebsd || linux || windows)

package vfs

import (
	"math"
	"os"
)

// spaceOf knows nothing here: no limit is known, and a write tells.
func spaceOf(name string) (Space, error) {
	if _, err := os.Stat(name); err != nil {
		return Space{}, err
	}
	return Space{Free: math.MaxInt64, Total: math.MaxInt64}, nil
}
