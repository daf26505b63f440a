// Package vfs is the file system that a log stands on: the few operations
// that it needs, so that they can be answered by the operating system, by
// memory (package memfs) or by a file system that fails on purpose (package
// errfs).
//
// Every operation whose absence would only show after a crash takes a [Site],
// the name of the place that asked for it. A test leaves the operation out by
// that name and shows that something breaks.
package vfs

import (
	"errors"
	"io"
)

// Site names one place in the code that makes something durable, zeroes it or
// checks it: "topic.create.syncdir". Names are unique in the program.
type Site string

// ErrLocked is returned by [FS.Lock] when another process, or another caller
// in this one, holds the lock.
var ErrLocked = errors.New("file is locked by another owner")

// ErrNoSpace is what the error of an operation unwraps to when the device is
// full or a quota is used up.
var ErrNoSpace = errors.New("no space left on device")

// ErrNoFiles is what the error of opening a file unwraps to when the process, or
// the system, may have no more files open. Nothing was done.
var ErrNoFiles = errors.New("too many open files")

// ErrFault is what the error of a [Mapping] unwraps to when the memory behind
// it could not be read or written: the file was cut, or the device failed.
var ErrFault = errors.New("memory fault in a mapped file")

// FS is a file system. Names are paths as the operating system writes them.
// Errors are *[io/fs.PathError] or *[os.LinkError] wherever a path is at fault,
// so errors.Is(err, fs.ErrNotExist) and its like hold. Methods are safe for
// concurrent use. An argument that makes no sense (a negative offset, an empty
// range to allocate or map) is fs.ErrInvalid, changing what was opened for
// reading is fs.ErrPermission, using what was closed is fs.ErrClosed.
type FS interface {
	// Create makes an empty file, or empties an existing one, and opens it for
	// reading and writing. Its name is durable after SyncDir of its directory.
	Create(name string) (File, error)
	// Open opens an existing file for reading.
	Open(name string) (File, error)
	// OpenWrite opens an existing file for reading and writing.
	OpenWrite(name string) (File, error)
	// Rename moves a file or directory, and replaces a file of the new name as
	// one step; fs.ErrExist if the new name is a directory. Durable after
	// SyncDir of both directories.
	Rename(from, to string) error
	// Remove removes a file or an empty directory. A file that is open stays
	// usable through its handles and mappings; Windows may refuse instead.
	Remove(name string) error
	// Mkdir makes a directory whose parent exists; fs.ErrExist if name exists.
	// It and what is in it are durable after SyncDir of the parent and of name.
	Mkdir(name string) error
	// ReadDir lists a directory in name order, and describes each name as Stat
	// does. A symbolic link that leads nowhere is listed as a file.
	ReadDir(name string) ([]DirEntry, error)
	// Stat describes what name stands for, following symbolic links.
	Stat(name string) (DirEntry, error)
	// SyncDir makes the names in directory name durable.
	SyncDir(site Site, name string) error
	// Lock takes the lock that the file name stands for, creating the file if
	// there is none. It does not wait: ErrLocked. Closing the lock, or the
	// process's end, gives it back; the file stays.
	Lock(name string) (io.Closer, error)
	// Space describes the file system that name is on.
	Space(name string) (Space, error)
	// BootID names the time since the machine started: what was written to a
	// file by now is still there to read, flushed or not, as long as it is the
	// same. No two starts share one. Empty if it is unknown.
	BootID() string
	// MaxFiles is how many files the process may have open; math.MaxInt if there
	// is no limit that we know.
	MaxFiles() int
	// Check returns ok. It stands around the condition of each check that a
	// crash must not pass, so that a test can answer true for one site.
	Check(site Site, ok bool) bool
}

// DirEntry describes a file or directory. Size is in bytes, 0 for a directory.
type DirEntry struct {
	Name string // the last element of its path
	Dir  bool
	Size int64
}

// Space describes a file system.
type Space struct {
	Free  int64  // bytes that this process may still write; math.MaxInt64 if unknown
	Total int64  // bytes in all; math.MaxInt64 if unknown
	Type  string // the kernel's name for it: "ext4", "xfs", "btrfs", "tmpfs"; empty if unknown
	// Network: the files may live on another machine. Flushes and locks cannot
	// be trusted there.
	Network bool
	// MapWrites: a store into allocated, mapped space of a file cannot fail for
	// want of space. False where that is unknown.
	MapWrites bool
}

// File is an open file. ReadAt and WriteAt follow [io.ReaderAt] and
// [io.WriterAt] and may run concurrently with each other; they are coherent
// with every Mapping of the same file.
//
// WriteAt writes all of p or returns an error. After an error the file holds
// the first n bytes of p, as reported; each byte of the rest may be old or new,
// and the file may have grown as far as the end of p.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// WriteVec is WriteAt of all pieces, one behind the other. Where the platform can, they
	// are one write: the kernel makes larger pages of it.
	WriteVec(pieces [][]byte, off int64) (n int, err error)
	Name() string // as it was opened
	Size() (int64, error)
	// Truncate sets the size; what it adds reads as zeros.
	Truncate(size int64) error
	// Allocate sets space aside for [off, off+n) and makes the file at least
	// off+n bytes long; bytes not written yet read as zeros, written ones are
	// kept, and so are those that WriteAt of this handle writes meanwhile. Where
	// the platform cannot set space aside, it only sets the size. After an error
	// the file may have grown by a part of it.
	Allocate(off, n int64) error
	// Zero makes [off, off+n) read as zeros without changing the size: what
	// lies beyond the end is left alone.
	Zero(site Site, off, n int64) error
	// Sync returns when everything written to the file before the call, and
	// its size, is on stable storage. After an error nothing is known about
	// what was written since the last flush, also if a later Sync succeeds.
	Sync(site Site) error
	// Map maps [off, off+n) of the file: off is a multiple of PageSize. Bytes
	// beyond the file's end may be mapped but not touched: ErrFault (up to the
	// end of the last page, some platforms give zeros and drop stores instead).
	// A mapping outlives the handle that it came from. A platform without
	// mappings returns errors.ErrUnsupported.
	Map(off int64, n int, writable bool) (Mapping, error)
}

// PageSize is what offsets of mappings are multiples of, on every platform
// (the largest page size of those that we run on).
const PageSize = 64 << 10

// Mapping is a part of a file in memory. The memory is never lent: bytes are
// copied in and out, and a fault while copying is an error, not a crash.
// ReadAt and WriteAt take offsets in the mapping, and return ErrFault, or
// fs.ErrInvalid for a range that is not wholly inside the mapping, with nothing
// promised about how many bytes were copied.
//
// The methods may run concurrently with each other and allocate nothing, but
// ReadAt and WriteAt of the same bytes are a data race. Load and Store are not.
type Mapping interface {
	io.ReaderAt
	io.WriterAt
	Len() int
	// Load reads the 8 bytes at off, a multiple of 8, as one little-endian
	// word: what some Store wrote, in this process or another, never a mixture.
	Load(off int) (uint64, error)
	// Store writes the 8 bytes at off, a multiple of 8, in one step.
	Store(off int, v uint64) error
	// Prefault makes the pages of [off, off+n) present and writable, so that
	// the next write into them does not wait for a page fault. Where the
	// platform cannot, it does nothing.
	Prefault(off, n int) error
	// Detach makes the pages of [off, off+n) absent, all at once: the next access
	// brings each back, with what was stored. Flushing pages that are present
	// interrupts, for each, every processor that runs the program; of absent ones
	// it does not. Where the platform cannot, it does nothing.
	Detach(off, n int) error
	// Unmap gives the memory back. No other call may be running or follow.
	Unmap() error
}
