package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// mapFile maps a file. If it is mapped to be written, its space is allocated and its
// pages are touched, so that no store waits for either.
func mapFile(f *os.File, size int, write bool) ([]byte, error) {
	if !write {
		return unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	}
	if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(size)); err != nil {
		return nil, os.NewSyscallError("fallocate", err)
	}
	m, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	if err := unix.Madvise(m, unix.MADV_POPULATE_WRITE); err != nil {
		// Kernels before 5.14 do not know it.
		for i := 0; i < len(m); i += os.Getpagesize() {
			m[i] = 0
		}
	}
	return m, nil
}

func unmapFile(m []byte) error { return unix.Munmap(m) }

// flushData flushes what was written to f, and of its metadata what is needed to read it.
func flushData(f *os.File) error {
	return os.NewSyscallError("fdatasync", unix.Fdatasync(int(f.Fd())))
}
