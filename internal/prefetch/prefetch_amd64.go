//go:build !portable

package prefetch

//go:noescape
func write(p *byte, n int)
