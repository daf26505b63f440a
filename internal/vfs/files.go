package vfs

import (
	"encoding/binary"
	"fmt"
	"io"
	"path/filepath"
)

// TempSuffix ends the name of a file that WriteFileAtomic has not finished. One
// that is found after a crash can be removed.
const TempSuffix = ".tmp"

// WriteFileAtomic makes data the durable content of the file name. After a
// crash at any point, or an error, the file has its old content (or still does
// not exist) or all of the new one. Its two flushes are the sites site+".flush"
// and site+".syncdir".
//
// After an error from the last step, flushing the directory, the new content
// is already there to read. Two calls for one name must not run at once.
func WriteFileAtomic(fsys FS, site Site, name string, data []byte) error {
	if err := ReplaceFile(fsys, site+".flush", name, data); err != nil {
		return err
	}
	return fsys.SyncDir(site+".syncdir", filepath.Dir(name))
}

// ReplaceFile is WriteFileAtomic without its last step: until the directory is
// flushed, a crash may leave the old content, or no file where there was none.
// It flushes at site.
func ReplaceFile(fsys FS, site Site, name string, data []byte) error {
	temp := name + TempSuffix
	err := writeFlushed(fsys, site, temp, data)
	if err == nil {
		err = fsys.Rename(temp, name)
	}
	if err != nil {
		_ = fsys.Remove(temp) // it may not be there; the first error is the one to tell
	}
	return err
}

func writeFlushed(fsys FS, site Site, name string, data []byte) error {
	f, err := fsys.Create(name)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, 0)
	if err == nil {
		err = f.Sync(site)
	}
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}

// ReadFile returns the content of the file name. A file of more than limit
// bytes is an error and is not read.
func ReadFile(fsys FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > limit {
		return nil, pathError("read", name, fmt.Errorf("%d bytes are more than the limit of %d", size, limit))
	}
	data := make([]byte, size)
	n, err := f.ReadAt(data, 0)
	if n == len(data) {
		return data, nil
	}
	if err == io.EOF {
		err = pathError("read", name, io.ErrUnexpectedEOF) // it was cut meanwhile
	}
	return nil, err
}

// LittleEndian turns a word in this machine's byte order into one whose bytes
// in memory are little-endian, or back.
func LittleEndian(v uint64) uint64 {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], v)
	return binary.NativeEndian.Uint64(b[:])
}
