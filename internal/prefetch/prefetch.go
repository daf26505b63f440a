// Package prefetch tells the processor what memory is needed next.
package prefetch

// Write says that p will be written: where another processor has read it, it takes a
// while until it may be written here, and an atomic operation waits for that. Where there is
// no such instruction it does nothing.
func Write(p []byte) {
	if len(p) > 0 {
		write(&p[0], len(p))
	}
}
