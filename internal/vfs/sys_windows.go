package vfs

import (
	"errors"
	"io/fs"
	"math"
	"os"

	"golang.org/x/sys/windows"
)

// openFile is os.OpenFile for the flags that osFS uses, except that an open
// file may be renamed and removed (FILE_SHARE_DELETE). A file cannot take the
// name of one that is open, though.
func openFile(name string, flag int, perm fs.FileMode) (*os.File, error) {
	f, err := createFile(name, flag)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	if flag&os.O_TRUNC != 0 {
		if err := f.Truncate(0); err != nil {
			f.Close()
			return nil, err
		}
	}
	return f, nil
}

func createFile(name string, flag int) (*os.File, error) {
	path, err := windows.UTF16PtrFromString(name)
	if err != nil {
		return nil, err
	}
	access := uint32(windows.GENERIC_READ)
	// A handle for reading may stand for a directory; the caller looks.
	attributes := uint32(windows.FILE_ATTRIBUTE_NORMAL | windows.FILE_FLAG_BACKUP_SEMANTICS)
	if flag&os.O_RDWR != 0 {
		access |= windows.GENERIC_WRITE
		attributes = windows.FILE_ATTRIBUTE_NORMAL
	}
	mode := uint32(windows.OPEN_EXISTING)
	if flag&os.O_CREATE != 0 {
		mode = windows.OPEN_ALWAYS
	}
	const share = windows.FILE_SHARE_READ | windows.FILE_SHARE_WRITE | windows.FILE_SHARE_DELETE
	h, err := windows.CreateFile(path, access, share, nil, mode, attributes, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(h), name), nil
}

// rename is os.Rename, except that it is durable on return, since no SyncDir
// makes it so, and that a directory in the way is fs.ErrExist. The system calls
// that a denied access.
func rename(from, to string) error {
	err := moveFile(from, to)
	if err == nil {
		return nil
	}
	if info, e := os.Lstat(to); e == nil && info.IsDir() {
		if _, e := os.Lstat(from); e == nil {
			err = windows.ERROR_ALREADY_EXISTS
		}
	}
	return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
}

func moveFile(from, to string) error {
	source, err := windows.UTF16PtrFromString(from)
	if err != nil {
		return err
	}
	target, err := windows.UTF16PtrFromString(to)
	if err != nil {
		return err
	}
	return windows.MoveFileEx(source, target, windows.MOVEFILE_REPLACE_EXISTING|windows.MOVEFILE_WRITE_THROUGH)
}

// syncDir does nothing: Windows has no flush of a directory. NTFS logs changes
// of names in order, a file's Sync flushes that log with the file, and rename
// waits for it.
func syncDir(*os.File) error { return nil }

func lockFile(f *os.File) error {
	const flags = windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY
	err := windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, math.MaxUint32, math.MaxUint32, new(windows.Overlapped))
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) || errors.Is(err, windows.ERROR_IO_PENDING) {
		return ErrLocked
	}
	return err
}

func unlockFile(f *os.File) error {
	err := windows.UnlockFileEx(windows.Handle(f.Fd()), 0, math.MaxUint32, math.MaxUint32, new(windows.Overlapped))
	if err != nil {
		return pathError("unlock", f.Name(), err)
	}
	return nil
}

func maxFiles() int { return math.MaxInt }

func tooManyFiles(err error) bool { return errors.Is(err, windows.ERROR_TOO_MANY_OPEN_FILES) }

func diskFull(err error) bool {
	return errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL) ||
		errors.Is(err, windows.ERROR_DISK_QUOTA_EXCEEDED)
}
