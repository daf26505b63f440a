//go:build !portable

package prefetch

import "golang.org/x/sys/cpu"

// The very first Intel processors of 64 bits fault where later ones without PREFETCHW do
// nothing. None of those has SSE 4.2.
var hasHint = cpu.X86.HasSSE42

func write(p *byte, n int) {
	if hasHint {
		hint(p, n)
	}
}

//go:noescape
func hint(p *byte, n int)
