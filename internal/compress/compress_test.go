package compress

import (
	"bytes"
	stdgzip "compress/gzip"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/rifflelog/riffle/internal/invariants"
)

var (
	allCodecs = []Codec{None, Gzip, Snappy, LZ4, Zstd}
	// coders are the codecs that change anything.
	coders = []Codec{Gzip, Snappy, LZ4, Zstd}
)

// noise is n bytes that no codec shrinks.
func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	return b
}

// records is n bytes that shrink as records do.
func records(n int) []byte {
	var b []byte
	r := rand.New(rand.NewPCG(1, 2))
	for i := 0; len(b) < n; i++ {
		b = fmt.Appendf(b, `{"order":%d,"customer":"c-%04d","amount":%d.%02d,"state":"paid"}`, i, r.IntN(2000), r.IntN(900), r.IntN(100))
	}
	return b[:n]
}

// data draws bytes of 0 to most in length: random, repeating, or between the two.
func data(t *rapid.T, most int) []byte {
	n := rapid.OneOf(rapid.IntRange(0, 300), rapid.IntRange(0, most), rapid.SampledFrom([]int{
		32<<10 - 1, 32 << 10, 32<<10 + 1, 64<<10 - 1, 64 << 10, 64<<10 + 1, 128 << 10, 128<<10 + 1, most,
	})).Draw(t, "n")
	n = min(n, most)
	r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
	b := make([]byte, n)
	alphabet := 1 << rapid.IntRange(0, 8).Draw(t, "bits")
	for i := 0; i < n; {
		if i > 0 && alphabet < 256 && r.IntN(4) > 0 {
			from, run := r.IntN(i), 1+r.IntN(200)
			for ; run > 0 && i < n; run-- {
				b[i] = b[from]
				from, i = from+1, i+1
			}
			continue
		}
		b[i] = byte(r.IntN(alphabet))
		i++
	}
	return b
}

func mustAppend(t require.TestingT, dst []byte, c Codec, src []byte) []byte {
	out, err := Append(dst, c, c.DefaultLevel(), src)
	require.NoError(t, err)
	return out
}

// levels are those of a codec that differ, at least at their ends.
func levels(c Codec) []int {
	switch c {
	case Gzip:
		return []int{-1, 1, 2, 3, 4, 5, 6, 7, 8, 9}
	case LZ4:
		return []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 17}
	case Zstd:
		return []int{-131072, -5, 0, 1, 3, 6, 10, 22}
	}
	return []int{0}
}

// Whatever is compressed, with any codec and level, comes out as it went in, behind what dst held
// before: random bytes of 0 to 1 MiB, shrinking a lot, a little or not at all.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := rapid.SampledFrom(allCodecs).Draw(t, "codec")
		level := rapid.SampledFrom(levels(c)).Draw(t, "level")
		src := data(t, 1<<20)
		prefix := rapid.SliceOfN(rapid.Byte(), 0, 9).Draw(t, "prefix")
		packed, err := Append(bytes.Clone(prefix), c, level, src)
		require.NoError(t, err)
		require.True(t, bytes.HasPrefix(packed, prefix))
		out, err := AppendDecoded(bytes.Clone(prefix), c, packed[len(prefix):], len(src))
		require.NoError(t, err)
		require.True(t, bytes.Equal(out[:len(prefix)], prefix))
		require.True(t, bytes.Equal(out[len(prefix):], src))
	})
}

// Every codec at each of its levels returns nothing for nothing, and one byte for one byte.
func TestEmptyAndTinyInputAtEveryLevel(t *testing.T) {
	for _, c := range allCodecs {
		for _, level := range levels(c) {
			for _, src := range []string{"", "x"} {
				packed, err := Append(nil, c, level, []byte(src))
				require.NoError(t, err)
				out, err := AppendDecoded(nil, c, packed, len(src))
				require.NoError(t, err, "%v %d", c, level)
				require.Equal(t, src, string(out), "%v %d", c, level)
			}
		}
	}
}

// Names, validity and levels are Kafka's: a table of each codec's range (KIP-390) and its neighbours.
func TestCodecsAndLevelsAreKafkas(t *testing.T) {
	names := []string{"none", "gzip", "snappy", "lz4", "zstd"}
	for i, name := range names {
		require.Equal(t, name, Codec(i).String())
		require.True(t, Codec(i).Valid())
		require.NoError(t, CheckLevel(Codec(i), Codec(i).DefaultLevel()))
	}
	require.Equal(t, "codec(5)", Codec(5).String())
	for _, c := range []Codec{-1, 5, 7, 127, -128} {
		require.False(t, c.Valid())
		require.ErrorIs(t, CheckLevel(c, 0), ErrUnknownCodec)
		out, err := Append([]byte("kept"), c, 0, []byte("x"))
		require.ErrorIs(t, err, ErrUnknownCodec)
		require.Equal(t, "kept", string(out))
		out, err = AppendDecoded([]byte("kept"), c, []byte("x"), 1)
		require.ErrorIs(t, err, ErrUnknownCodec)
		require.Equal(t, "kept", string(out))
	}
	require.Equal(t, []int{0, -1, 0, 9, 3}, []int{None.DefaultLevel(), Gzip.DefaultLevel(), Snappy.DefaultLevel(), LZ4.DefaultLevel(), Zstd.DefaultLevel()})
	good := map[Codec][]int{None: {0}, Gzip: {-1, 1, 9}, Snappy: {0}, LZ4: {1, 9, 17}, Zstd: {-131072, 0, 3, 22}}
	bad := map[Codec][]int{None: {-1, 1}, Gzip: {-2, 0, 10}, Snappy: {-1, 1}, LZ4: {-1, 0, 18}, Zstd: {-131073, 23}}
	for _, c := range allCodecs {
		for _, level := range good[c] {
			require.NoError(t, CheckLevel(c, level), "%v %d", c, level)
		}
		for _, level := range bad[c] {
			require.ErrorIs(t, CheckLevel(c, level), ErrLevel, "%v %d", c, level)
			out, err := Append([]byte("kept"), c, level, []byte("x"))
			require.ErrorIs(t, err, ErrLevel)
			require.Equal(t, "kept", string(out))
		}
	}
}

// A limit is the last length that is fine: the output's own length passes, one less is ErrTooLarge
// and leaves dst as it was, for small and large outputs and with dst having spare capacity or none.
func TestLimitIsExact(t *testing.T) {
	for _, c := range allCodecs {
		sizes := []int{0, 1, 2, 100, 5000, 32 << 10, 64 << 10, 100_000, 128 << 10, 300_000}
		if invariants.Enabled {
			sizes = []int{0, 1, 100, 64 << 10} // as in TestDamagedBytesNeverPanic
		}
		for _, n := range sizes {
			for _, src := range [][]byte{records(n), noise(n), make([]byte, n)} {
				for name, packed := range variants(t, c, src) {
					for _, spare := range []int{0, 3, n, n + 100, 4 * n} {
						dst := append(make([]byte, 0, 4+spare), "kept"...)
						for _, limit := range []int{n, n + 1, n + 200_000, math.MaxInt} {
							out, err := AppendDecoded(dst, c, packed, limit)
							require.NoError(t, err, "%s %d", name, n)
							require.True(t, bytes.Equal(out[4:], src), "%s %d", name, n)
						}
						for _, limit := range []int{n - 1, n / 2, 0, -1, math.MinInt} {
							if n == 0 || limit == n {
								continue
							}
							out, err := AppendDecoded(dst, c, packed, limit)
							require.ErrorIs(t, err, ErrTooLarge, "%s %d limit %d", name, n, limit)
							require.NotErrorIs(t, err, ErrCorrupt)
							require.Equal(t, "kept", string(out))
						}
					}
				}
			}
		}
	}
}

// variants are the ways in which Kafka's clients and ours write src with the codec.
func variants(t require.TestingT, c Codec, src []byte) map[string][]byte {
	out := map[string][]byte{c.String(): mustAppend(t, nil, c, src)}
	var b bytes.Buffer
	switch c {
	case Gzip:
		z := stdgzip.NewWriter(&b)
		z.Name, z.Extra, z.Comment = "näme", []byte("extra"), "comment"
		_, err := z.Write(src)
		require.NoError(t, err)
		require.NoError(t, z.Close())
		out["gzip, all headers"] = b.Bytes()
	case Snappy:
		out["snappy, raw block"] = s2.EncodeSnappy(nil, src)
	case LZ4:
		for _, size := range []lz4.BlockSize{lz4.Block64Kb, lz4.Block256Kb, lz4.Block4Mb} {
			for _, sums := range []bool{false, true} {
				var b bytes.Buffer
				z := lz4.NewWriter(&b)
				options := []lz4.Option{lz4.ConcurrencyOption(1), lz4.BlockSizeOption(size), lz4.BlockChecksumOption(sums), lz4.ChecksumOption(sums)}
				if sums && len(src) > 0 {
					options = append(options, lz4.SizeOption(uint64(len(src))))
				}
				require.NoError(t, z.Apply(options...))
				_, err := z.Write(src)
				require.NoError(t, err)
				require.NoError(t, z.Close())
				out[fmt.Sprintf("lz4, %v, checksums %v", size, sums)] = b.Bytes()
			}
		}
	case Zstd:
		z, err := zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1), zstd.WithZeroFrames(true))
		require.NoError(t, err)
		for part := src; len(part) > 0; part = part[min(len(part), 10_000):] { // a stream, of unknown size
			_, err = z.Write(part[:min(len(part), 10_000)])
			require.NoError(t, err)
		}
		require.NoError(t, z.Close())
		out["zstd, stream"] = b.Bytes()
	}
	return out
}

// Each foreign library reads what we write: the standard library's gzip, the reference framing by
// hand for snappy, the lz4 Reader, and zstd's streaming decoder.
func TestOthersReadOurs(t *testing.T) {
	for _, src := range [][]byte{nil, []byte("a"), records(200_000), noise(200_000), make([]byte, 200_000)} {
		for _, c := range []Codec{Gzip, LZ4, Zstd} {
			for _, level := range levels(c) {
				packed, err := Append(nil, c, level, src)
				require.NoError(t, err)
				var r io.Reader
				switch c {
				case Gzip:
					r, err = stdgzip.NewReader(bytes.NewReader(packed))
				case LZ4:
					r = lz4.NewReader(bytes.NewReader(packed))
				default:
					r, err = zstd.NewReader(bytes.NewReader(packed), zstd.WithDecoderConcurrency(1))
				}
				require.NoError(t, err)
				out, err := io.ReadAll(r)
				require.NoError(t, err)
				require.True(t, bytes.Equal(src, out), "%v %d", c, level)
			}
		}
	}
}

// Streams one after another read as one, as their formats say, and what is no stream behind one is
// ErrCorrupt.
func TestConcatenatedStreamsAreOne(t *testing.T) {
	for _, c := range coders {
		a, b := records(70_000), noise(1000)
		for name, first := range variants(t, c, a) {
			if name == "snappy, raw block" {
				continue // says its length once, at the beginning
			}
			joined := bytes.Clone(first)
			joined = mustAppend(t, joined, c, nil)
			joined = mustAppend(t, joined, c, b)
			out, err := AppendDecoded(nil, c, joined, len(a)+len(b))
			require.NoError(t, err, name)
			require.True(t, bytes.Equal(out, append(bytes.Clone(a), b...)), name)
			_, err = AppendDecoded(nil, c, joined, len(a)+len(b)-1)
			require.ErrorIs(t, err, ErrTooLarge, name)
			for _, junk := range []string{"\x00", "junk", "\x00\x00\x00\x07junk", "(\xb5/"} {
				out, err := AppendDecoded([]byte("kept"), c, append(bytes.Clone(joined), junk...), 1<<20)
				require.ErrorIs(t, err, ErrCorrupt, "%s + %q", name, junk)
				require.Equal(t, "kept", string(out))
			}
		}
	}
}

// A stream cut anywhere is ErrCorrupt, dst untouched. Only snappy's Java framing cannot tell: cut
// between two chunks (or right behind its header), it is what came before.
func TestTruncatedAnywhere(t *testing.T) {
	for _, c := range coders {
		src := append(bytes.Repeat(records(400), 33_000/400+1), noise(300)...)
		for name, packed := range variants(t, c, src) {
			quiet := 0
			for i := range packed {
				out, err := AppendDecoded([]byte("kept"), c, packed[:i], 1<<20)
				if err == nil {
					require.Equal(t, "snappy", name)
					require.True(t, bytes.HasPrefix(src, out[4:]))
					quiet++
					continue
				}
				require.ErrorIs(t, err, ErrCorrupt, "%s cut to %d", name, i)
				require.Equal(t, "kept", string(out))
			}
			if name == "snappy" {
				require.Equal(t, 2, quiet, "behind the header and behind the first of two chunks")
			}
		}
	}
}

// A flipped bit or an overwritten byte never panics, never gives more than the limit, and leaves dst
// alone when it is an error: every bit of the first 40 bytes, and 80 random places.
func TestDamagedBytesNeverPanic(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	step := 1
	if invariants.Enabled {
		step = 7 // it looks for what is shared between goroutines and for bad pointers
	}
	for _, c := range coders {
		for _, src := range [][]byte{records(3000), noise(500), make([]byte, 150_000), records(70_000)} {
			for _, packed := range variants(t, c, src) {
				for i := 0; i < 400; i += step {
					bad := bytes.Clone(packed)
					if i < 320 {
						bad[min(i/8, len(bad)-1)] ^= 1 << (i % 8)
					} else {
						bad[r.IntN(len(bad))] = byte(r.Uint32())
					}
					checkDecode(t, c, bad, len(src))
				}
			}
		}
	}
}

// checkDecode decodes any bytes and checks what AppendDecoded promises for them.
func checkDecode(t require.TestingT, c Codec, src []byte, limit int) {
	before := bytes.Clone(src)
	dst := append(make([]byte, 0, 64), "kept"...)
	out, err := AppendDecoded(dst, c, src, limit)
	require.True(t, bytes.Equal(before, src), "src is only read")
	require.True(t, len(out) >= 4 && string(out[:4]) == "kept", "dst's bytes are kept")
	if err != nil {
		require.Len(t, out, 4)
		require.True(t, errors.Is(err, ErrCorrupt) != errors.Is(err, ErrTooLarge), "one of the two: %v", err)
		return
	}
	require.LessOrEqual(t, len(out)-4, limit)
}

// Bytes of no codec's making are ErrCorrupt, with a cause: nothing at all, zeros, text, noise.
func TestJunkIsCorrupt(t *testing.T) {
	for _, c := range coders {
		for _, junk := range [][]byte{nil, {0xff}, make([]byte, 100), []byte("no codec writes this"), noise(1000)} {
			out, err := AppendDecoded([]byte("kept"), c, junk, 1<<20)
			require.ErrorIs(t, err, ErrCorrupt, "%v %q", c, junk)
			require.Equal(t, "kept", string(out))
		}
		_, err := AppendDecoded(nil, c, nil, 0)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	}
}

// One pool serves many goroutines at once: each checks its own round trips, under -race.
func TestConcurrentUse(t *testing.T) {
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			var packed, out []byte
			for i := range 40 {
				src := append(records(20_000+1000*g), byte(g), byte(i))
				c := allCodecs[(g+i)%len(allCodecs)]
				var err error
				if packed, err = Append(packed[:0], c, c.DefaultLevel(), src); err != nil {
					t.Error(err)
				}
				if _, err := AppendDecoded(nil, c, packed[:len(packed)/2], 100); err == nil && c != Snappy {
					t.Error("half a stream")
				}
				if out, err = AppendDecoded(out[:0], c, packed, len(src)); err != nil || !bytes.Equal(out, src) {
					t.Error(c, err)
				}
			}
		})
	}
	wg.Wait()
}

// startedGoroutines counts the goroutines that code has started, but not those of the runtime, which
// NumGoroutine counts while a collection runs cleanups.
func startedGoroutines() int64 {
	stacks := make([]byte, 64<<10)
	stacks = stacks[:runtime.Stack(stacks, true)]
	return int64(bytes.Count(stacks, []byte("\ncreated by ")) - bytes.Count(stacks, []byte("\ncreated by runtime.")))
}

// No library works behind our back: a watcher counts goroutines all the while that every codec
// compresses and inflates many blocks, with GOMAXPROCS raised so that a concurrent coder would show.
func TestNoGoroutines(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(8))
	src := records(600_000)
	var most atomic.Int64
	var wg sync.WaitGroup
	stop, started := make(chan struct{}), make(chan struct{})
	wg.Go(func() {
		close(started)
		for {
			select {
			case <-stop:
				return
			default:
				most.Store(max(most.Load(), startedGoroutines()))
				runtime.Gosched()
			}
		}
	})
	<-started
	before := startedGoroutines()
	for _, c := range allCodecs {
		for _, level := range levels(c) {
			if c == LZ4 && level > 10 || c == Zstd && level > 10 {
				continue // as level 10, only slower
			}
			packed, err := Append(nil, c, level, src)
			require.NoError(t, err)
			_, err = AppendDecoded(nil, c, packed, len(src))
			require.NoError(t, err)
			_, err = AppendDecoded(nil, c, packed, len(src)/2)
			require.ErrorIs(t, err, ErrTooLarge)
		}
	}
	require.LessOrEqual(t, startedGoroutines(), before)
	close(stop)
	wg.Wait()
	require.Positive(t, most.Load())
	require.LessOrEqual(t, most.Load(), before)
}
