//go:build linux && !portable

package vfs

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// canMap says whether Map works.
const canMap = true

// growLock does nothing: what makes a file longer here never makes it shorter.
type growLock struct{}

func (growLock) RLock()   {}
func (growLock) RUnlock() {}

// pieceBytes is how much is allocated or zeroed at a time. Some kernels give a
// whole fallocate up, and what it did back, when any signal comes (tmpfs), and
// Go's own come every 10 ms: each piece takes less.
const pieceBytes = 16 << 20

// allocate falls back to writing zeros where the file system does not know
// fallocate (NFS before 4.2, ext3).
func (o *osFile) allocate(off, n int64) error {
	err := o.fallocate("allocate", 0, off, n)
	if unsupported(err) {
		return o.appendZeros(off + n)
	}
	return err
}

// zero keeps the size also if the file shrinks while it runs.
func (o *osFile) zero(off, n int64) error {
	err := o.fallocate("zero", unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	if unsupported(err) {
		return o.writeZeros(off, n)
	}
	return err
}

func (o *osFile) fallocate(op string, mode uint32, off, n int64) error {
	return inPieces(off, n, func(off, n int64) error {
		return o.control(op, func(fd int) error { return unix.Fallocate(fd, mode, off, n) })
	})
}

// inPieces calls f for [off, off+n) piece by piece until it fails.
func inPieces(off, n int64, f func(off, n int64) error) error {
	for n > 0 {
		piece := min(n, pieceBytes)
		if err := f(off, piece); err != nil {
			return err
		}
		off, n = off+piece, n-piece
	}
	return nil
}

// appendZeros makes the file at least size bytes long. The kernel writes each
// zero behind the end as it then is. Setting the size instead would cut off what
// was written behind it since it was asked for.
func (o *osFile) appendZeros(size int64) error {
	zeros := make([]byte, zeroChunk)
	for {
		now, err := o.Size()
		if err != nil || now >= size {
			return err
		}
		chunk := zeros[:min(size-now, zeroChunk)]
		err = o.control("allocate", func(fd int) error {
			_, err := unix.Pwritev2(fd, [][]byte{chunk}, 0, unix.RWF_APPEND)
			return err
		})
		if err != nil {
			return err
		}
	}
}

// maxVec is how many pieces the kernel takes in a write: IOV_MAX.
const maxVec = 1024

func (o *osFile) writeVec(pieces [][]byte, off int64) (written int, err error) {
	pieces = slices.Clone(pieces) // they are cut below
	for {
		for len(pieces) > 0 && len(pieces[0]) == 0 {
			pieces = pieces[1:]
		}
		if len(pieces) == 0 {
			return written, nil
		}
		n := 0
		err := o.control("write", func(fd int) (err error) {
			n, err = unix.Pwritev(fd, pieces[:min(len(pieces), maxVec)], off+int64(written))
			return err
		})
		if err == nil && n <= 0 {
			err = pathError("write", o.f.Name(), io.ErrUnexpectedEOF)
		}
		if err != nil {
			return written, err
		}
		written += n
		for n > 0 {
			part := min(n, len(pieces[0]))
			pieces[0], n = pieces[0][part:], n-part
			if len(pieces[0]) == 0 {
				pieces = pieces[1:]
			}
		}
	}
}

func (o *osFile) sync() error {
	return o.control("sync", unix.Fdatasync)
}

func (o *osFile) mapRange(off int64, n int, writable bool) (Mapping, error) {
	prot := unix.PROT_READ
	if writable {
		prot |= unix.PROT_WRITE
	}
	m := &mapping{name: o.f.Name(), writable: writable}
	err := o.control("map", func(fd int) (err error) {
		m.mem, err = unix.Mmap(fd, off, n, prot, unix.MAP_SHARED)
		return err
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

// bootID is a random id that the kernel draws when it starts. A container has
// its host's, whose page cache it uses.
func bootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "" // no /proc here
	}
	return string(bytes.TrimSpace(id))
}

// control calls f with the file's descriptor, again if a signal interrupts it,
// and keeps the descriptor from being closed and reused meanwhile.
func (o *osFile) control(op string, f func(fd int) error) error {
	conn, err := o.f.SyscallConn()
	if err != nil {
		return pathError(op, o.f.Name(), err)
	}
	var result error
	err = conn.Control(func(fd uintptr) { result = retry(func() error { return f(int(fd)) }) })
	if err != nil {
		return pathError(op, o.f.Name(), fs.ErrClosed) // Control's one error
	}
	if result != nil {
		return pathError(op, o.f.Name(), result)
	}
	return nil
}

func unsupported(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS)
}
