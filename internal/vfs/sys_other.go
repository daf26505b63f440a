//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd || windows)

package vfs

import (
	"errors"
	"io/fs"
	"math"
	"os"
)

func openFile(name string, flag int, perm fs.FileMode) (*os.File, error) {
	return os.OpenFile(name, flag, perm)
}

func rename(from, to string) error { return os.Rename(from, to) }

func syncDir(dir *os.File) error { return dir.Sync() }

// lockFile refuses, and so do all callers that must be alone: two writers
// would be worse than none.
func lockFile(*os.File) error { return errors.ErrUnsupported }

func unlockFile(*os.File) error { return nil }

func maxFiles() int { return math.MaxInt }

func tooManyFiles(error) bool { return false }

func diskFull(error) bool { return false }
