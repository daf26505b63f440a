package prefetch

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestWriteOnlySays: nothing changes, whatever part of memory it is.
func TestWriteOnlySays(t *testing.T) {
	p := make([]byte, 10_000)
	for i := range p {
		p[i] = byte(i)
	}
	Write(nil)
	for n := 0; n < len(p); n += 61 {
		Write(p[n:])
		Write(p[:n:n])
	}
	for i := range p {
		require.Equal(t, byte(i), p[i])
	}
	require.Zero(t, testing.AllocsPerRun(10, func() { Write(p) }))
}
