package compress

import (
	"bytes"
	"encoding/binary"
	"math"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/stretchr/testify/require"
)

// allocated returns the bytes that f allocates on the heap, pools warm: no garbage collection empties
// them in between, and there is no other processor, whose pools f might find empty.
func allocated(f func()) uint64 {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	f()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// 64 MiB of zeros, compressed by each codec in each of its forms, stop at a limit of 1 MiB: the error
// is ErrTooLarge, and all that is allocated on the way, by all attempts together, is less than six
// times the limit. (Only zstd without a declared size has attempts; the others need under three.)
func TestBombStopsAtLimit(t *testing.T) {
	const limit = 1 << 20
	size := 64 << 20
	if raceEnabled {
		size = 8 << 20 // a tenth of the speed
	}
	zeros := make([]byte, size)
	for _, c := range coders {
		for name, packed := range variants(t, c, zeros) {
			most := uint64(3 * limit)
			if name == "zstd, stream" {
				most = 6 * limit
			}
			n := allocated(func() {
				_, err := AppendDecoded(nil, c, packed, limit)
				require.ErrorIs(t, err, ErrTooLarge, name)
			})
			t.Logf("%s: %d bytes of input, %d allocated", name, len(packed), n)
			if !raceEnabled { // where a pool forgets, a coder is allocated anew
				require.Less(t, n, most, name)
			}
		}
	}
}

// A header that declares gigabytes, in front of little or nothing, allocates next to nothing, however
// high the limit: frames and blocks by hand.
func TestDeclaredSizeIsNotBelieved(t *testing.T) {
	for name, c := range map[string]struct {
		codec Codec
		hex   string
	}{
		"snappy block of 4 GiB":       {Snappy, "ffffffff0f 08 616263"},
		"snappy chunk of 2 GiB":       {Snappy, "82534e4150505900 00000001 00000001 7fffffff 03 08 616263"},
		"lz4 frame of 2^60, 4 MiB":    {LZ4, "04224d18 68 70 0000000000000010 c6 00000000"},
		"lz4 block of 4 MiB, cut":     {LZ4, "04224d18 60 70 73 00004000 616263"},
		"lz4 legacy":                  {LZ4, "02214c18 03000000 616263"},
		"zstd frame of 2 GiB":         {Zstd, "28b52ffd a0 ffffff7f | 090000 61"},
		"zstd window of 128 MiB":      {Zstd, "28b52ffd 00 88 | 250000 ffffffff"},
		"zstd frame of 1 GiB, single": {Zstd, "28b52ffd a0 00000040 | 250000 ffffffff"},
		// Blocks that say they are compressed: each may become 128 KiB, as far as its header goes.
		"zstd blocks of one byte":      {Zstd, "28b52ffd a0 00000008 |" + strings.Repeat("0c0000 00", 1023) + "0d0000 00"},
		"zstd blocks that are corrupt": {Zstd, "28b52ffd a0 00000008 |" + strings.Repeat("1c0000 ffffff", 1023) + "1d0000 ffffff"},
		// The first becomes 128 KiB, of one literal repeated; the others are corrupt.
		"zstd blocks, one good": {Zstd, "28b52ffd a0 00000008 |" + "2c0000 0d002061 00" + strings.Repeat("1c0000 ffffff", 1022) + "1d0000 ffffff"},
	} {
		src := unhex(t, c.hex)
		n := allocated(func() {
			_, err := AppendDecoded(nil, c.codec, src, math.MaxInt)
			require.ErrorIs(t, err, ErrCorrupt, name)
		})
		t.Logf("%s: %d bytes of input, %d allocated", name, len(src), n)
		// A zstd attempt may allocate up to a block, and doubles on the way there.
		if !raceEnabled {
			require.Less(t, n, uint64(512<<10), name)
		}
	}
}

// After warming up, compressing and inflating into buffers with room allocate nothing, for every
// codec at its default level and for records and noise. So does gzip: its reader would allocate only
// for a name, a comment or an extra field in a header, which Kafka's clients do not write, or when a
// stream's Huffman codes are longer than any before in that reader.
func TestSteadyStateAllocatesNothing(t *testing.T) {
	if raceEnabled {
		// There is nothing to measure: every fourth coder is allocated anew.
		t.Skip("a sync.Pool forgets at random under the race detector")
	}
	for _, c := range allCodecs {
		for _, src := range [][]byte{nil, records(100), records(16 << 10), records(300_000), noise(16 << 10), noise(300_000)} {
			packed := make([]byte, 0, 2*len(src)+4096)
			n := testing.AllocsPerRun(100, func() { packed = mustAppend(t, packed[:0], c, src) })
			require.Zero(t, n, "%v: compress %d", c, len(src))
			for name, packed := range variants(t, c, src) {
				if name == "gzip, all headers" {
					continue
				}
				out := make([]byte, 0, len(src)) // exactly
				n = testing.AllocsPerRun(100, func() {
					var err error
					out, err = AppendDecoded(out[:0], c, packed, 1<<20)
					require.NoError(t, err)
				})
				require.Zero(t, n, "%s: inflate %d", name, len(src))
			}
		}
	}
}

// Into nothing, an output is allocated about once: records that shrink to a quarter or less cost at
// most four times their size in all, however the codec learns the size.
func TestOutputGrowsWithWhatIsProduced(t *testing.T) {
	for _, c := range coders {
		src := records(300_000)
		for name, packed := range variants(t, c, src) {
			n := allocated(func() {
				out, err := AppendDecoded(nil, c, packed, 1<<30)
				require.NoError(t, err)
				require.LessOrEqual(t, cap(out), 4*len(src), name)
			})
			if !raceEnabled {
				require.Less(t, n, uint64(4*len(src)), name)
			}
		}
	}
}

// collected says whether the garbage collector takes the array that use returns, although keep, which
// had it in hands, is still there.
func collected(keep any, use func() []byte) bool {
	gone := watched(use)
	for range 20 {
		runtime.GC()
		select {
		case <-gone:
			runtime.KeepAlive(keep)
			return true
		case <-time.After(10 * time.Millisecond):
		}
	}
	runtime.KeepAlive(keep)
	return false
}

// watched calls f in a frame of its own, so that no stack slot holds the result, and returns what is
// closed when the result is gone.
//
//go:noinline
func watched(f func() []byte) <-chan struct{} {
	gone := make(chan struct{})
	b := f()
	runtime.AddCleanup(&b[0], func(c chan struct{}) { close(c) }, gone)
	return gone
}

// A coder in the pool holds nothing of the caller's: with the coder kept alive, the garbage collector
// takes the input and the output, after successes and after errors.
func TestPooledCodersForgetCallersBytes(t *testing.T) {
	src := append(records(150_000), noise(150_000)...)
	for _, cut := range []int{0, 1, 1000} {
		z, err := newZstdDecoder()
		require.NoError(t, err)
		g := new(gzipDecoder)
		for _, c := range []Codec{Gzip, Zstd} {
			for name, packed := range variants(t, c, src) {
				packed = packed[:len(packed)-cut]
				use := func(in, out []byte) {
					if c == Zstd {
						_, err = z.append(out[:1], in, len(src))
						z.release()
					} else {
						_, err = g.append(out[:1], in, len(src))
						g.release()
					}
					require.Equal(t, cut > 0, err != nil)
				}
				require.True(t, collected([]any{z, g}, func() []byte {
					in := bytes.Clone(packed)
					use(in, make([]byte, len(src)+1))
					return in
				}), "%s: input", name)
				require.True(t, collected([]any{z, g}, func() []byte {
					out := make([]byte, len(src)+1)
					use(packed, out)
					return out
				}), "%s: output", name)
			}
		}
	}
	for _, level := range []int{1, 3, 6, 10} {
		enc, err := newZstdEncoder(zstdSpeed(level))
		require.NoError(t, err)
		for _, n := range []int{1000, len(src)} {
			require.True(t, collected(enc, func() []byte {
				in := bytes.Clone(src[len(src)-n:])
				enc.EncodeAll(in, nil)
				return in
			}), "level %d: input of %d", level, n)
			require.True(t, collected(enc, func() []byte {
				return enc.EncodeAll(src[len(src)-n:], make([]byte, 0, 2*n))
			}), "level %d: output of %d", level, n)
		}
	}
	for _, level := range levels(Gzip) {
		enc, err := newGzipEncoder(level)
		require.NoError(t, err)
		require.True(t, collected(enc, func() []byte {
			in := bytes.Clone(src)
			_, err := enc.append(nil, in)
			require.NoError(t, err)
			return in
		}), "gzip level %d: input", level)
		require.True(t, collected(enc, func() []byte {
			out, err := enc.append(make([]byte, 0, 2*len(src)), src)
			require.NoError(t, err)
			return out
		}), "gzip level %d: output", level)
	}
}

// The densest streams are still read: the ratios by which a declared size is judged are not too low.
// A megabyte of zeros is the densest that each compressor writes; for snappy, which could be denser,
// a block by hand of nothing but 64-byte copies.
func TestDensestStreamsAreRead(t *testing.T) {
	for _, c := range coders {
		zeros := make([]byte, 1<<20)
		for name, packed := range variants(t, c, zeros) {
			out, err := AppendDecoded(nil, c, packed, len(zeros))
			require.NoError(t, err, name)
			require.True(t, bytes.Equal(zeros, out), name)
		}
	}
	const copies = 10_000
	block := binary.AppendUvarint(nil, 1+64*copies)
	block = append(block, 0x00, 'a')
	for range copies {
		block = append(block, 0xfe, 0x01, 0x00)
	}
	n, err := s2.DecodedLen(block)
	require.NoError(t, err)
	require.Equal(t, 1+64*copies, n)
	out, err := AppendDecoded(nil, Snappy, block, n)
	require.NoError(t, err)
	require.Equal(t, n, bytes.Count(out, []byte("a")))
}
