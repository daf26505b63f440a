//go:build !amd64 || portable

package prefetch

func write(*byte, int) {}
