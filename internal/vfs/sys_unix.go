//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package vfs

import (
	"errors"
	"io/fs"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

func openFile(name string, flag int, perm fs.FileMode) (*os.File, error) {
	return os.OpenFile(name, flag, perm)
}

func rename(from, to string) error { return os.Rename(from, to) }

// syncDir flushes an open directory. Some file systems cannot and say EINVAL:
// there names are as durable as they ever get.
func syncDir(dir *os.File) error {
	if err := dir.Sync(); !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}

// lockFile locks f for this open file: another one in the same process is as
// foreign as one in another process.
func lockFile(f *os.File) error {
	err := flock(f, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrLocked
	}
	return err
}

func unlockFile(f *os.File) error {
	if err := flock(f, unix.LOCK_UN); err != nil {
		return pathError("unlock", f.Name(), err)
	}
	return nil
}

func flock(f *os.File, how int) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	err = conn.Control(func(fd uintptr) {
		result = retry(func() error { return unix.Flock(int(fd), how) })
	})
	if err != nil {
		return fs.ErrClosed // Control's one error
	}
	return result
}

// maxFiles is the soft limit, which the Go runtime has raised as far as it may.
func maxFiles() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return minFiles
	}
	return int(min(uint64(limit.Cur), math.MaxInt32))
}

// minFiles is what POSIX systems have at least allowed for decades.
const minFiles = 256

// maxRetries is far more signals than come while a system call that can finish
// does so.
const maxRetries = 1000

// retry calls f until no signal interrupts it, or gives up with EINTR.
func retry(f func() error) error {
	var err error
	for range maxRetries {
		if err = f(); err != unix.EINTR {
			return err
		}
	}
	return err
}

func tooManyFiles(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE)
}

func diskFull(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}
