//go:build !linux

package main

import "os"

func mapFile(*os.File, int, bool) ([]byte, error) {
	return nil, errCannot
}

func unmapFile([]byte) error { return nil }

func flushData(f *os.File) error { return f.Sync() }
