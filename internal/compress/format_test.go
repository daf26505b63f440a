package compress

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/stretchr/testify/require"
)

func unhex(t *testing.T, s string) []byte {
	b, err := hex.DecodeString(strings.NewReplacer(" ", "", "\n", "", "\t", "", "|", "").Replace(s))
	require.NoError(t, err)
	return b
}

// Three bytes and none, compressed by each codec, are exactly these bytes: the headers are those of
// Kafka's Java client, byte by byte, and what we have written stays readable.
func TestGoldenBytes(t *testing.T) {
	for _, g := range []struct {
		codec Codec
		src   string
		hex   string
	}{
		{Gzip, "", "1f8b08 00 00000000 00 ff | 0300 | 00000000 00000000"},
		{Gzip, "abc", "1f8b08 00 00000000 00 ff | 000300fcff616263 0300 | c2412435 03000000"},
		{Snappy, "", "82 534e41505059 00 | 00000001 00000001"},
		{Snappy, "abc", "82 534e41505059 00 | 00000001 00000001 | 00000005 | 03 08 616263"},
		{LZ4, "", "04224d18 60 40 82 | 00000000"},
		{LZ4, "abc", "04224d18 60 40 82 | 03000080 616263 | 00000000"},
		{Zstd, "", "28b52ffd 20 00 | 010000"},
		{Zstd, "abc", "28b52ffd 00 00 | 190000 616263"},
	} {
		want := unhex(t, g.hex)
		require.Equal(t, hex.EncodeToString(want), hex.EncodeToString(mustAppend(t, nil, g.codec, []byte(g.src))), "%v %q", g.codec, g.src)
		out, err := AppendDecoded(nil, g.codec, want, len(g.src))
		require.NoError(t, err)
		require.Equal(t, g.src, string(out))
	}
}

// The Java framing has a chunk for each 32 KiB of input: 70,000 bytes are chunks of 32,768, 32,768
// and 4,464, each with its length before it.
func TestSnappyChunksAre32KiB(t *testing.T) {
	src := records(70_000)
	packed := mustAppend(t, nil, Snappy, src)
	rest := bytes.TrimPrefix(packed, []byte(xerialHeader))
	require.Len(t, rest, len(packed)-16)
	for _, want := range []int{32768, 32768, 4464} {
		n := binary.BigEndian.Uint32(rest)
		block, err := s2.Decode(nil, rest[4:4+n])
		require.NoError(t, err)
		require.Equal(t, src[:want], block)
		rest, src = rest[4+n:], src[want:]
	}
	require.Empty(t, rest)
}

// The framing's version is checked as snappy-java does, and a chunk's length is believed only if the
// bytes are there: a table of headers and chunks.
func TestSnappyFramingIsChecked(t *testing.T) {
	const chunk = "00000005 03 08 616263"
	for name, c := range map[string]struct {
		hex  string
		want string
	}{
		"version 1":          {"82534e4150505900 00000001 00000001" + chunk, "abc"},
		"later, readable":    {"82534e4150505900 00000002 00000001" + chunk, "abc"},
		"header alone":       {"82534e4150505900 00000001 00000001", ""},
		"second stream":      {"82534e4150505900 00000001 00000001" + chunk + "82534e4150505900 00000001 00000001" + chunk, "abcabc"},
		"version 0":          {"82534e4150505900 00000000 00000001" + chunk, "!"},
		"later, unreadable":  {"82534e4150505900 00000002 00000002" + chunk, "!"},
		"negative length":    {"82534e4150505900 00000001 00000001 ffffffff 03 08 616263", "!"},
		"length too long":    {"82534e4150505900 00000001 00000001 00000006 03 08 616263", "!"},
		"length too short":   {"82534e4150505900 00000001 00000001 00000004 03 08 616263", "!"},
		"zero length":        {"82534e4150505900 00000001 00000001 00000000", "!"},
		"raw block":          {"03 08 616263", "abc"},
		"raw, nothing":       {"00", ""},
		"raw, behind it":     {"03 08 616263 00 61", "!"},
		"raw, huge":          {"ffffffff0f 08 616263", "!"},
		"raw, an S2 repeat":  {"0b 08 616263 0d 00 00", "!"},
		"raw, a copy of all": {"07 08 616263 01 03", "abcabca"},
	} {
		out, err := AppendDecoded(nil, Snappy, unhex(t, c.hex), 100)
		if c.want == "!" {
			require.ErrorIs(t, err, ErrCorrupt, name)
			continue
		}
		require.NoError(t, err, name)
		require.Equal(t, c.want, string(out), name)
	}
}

// An lz4 frame with what Kafka does not use, or with a checksum or length that is not so, is
// ErrCorrupt: one table of descriptors (the header checksum made right) and one of changed bytes.
func TestLZ4FrameIsChecked(t *testing.T) {
	frame := func(flags, bd byte, rest string) []byte {
		b := []byte{0x04, 0x22, 0x4d, 0x18, flags, bd}
		if flags&lz4FlagSize != 0 {
			b = append(b, 3, 0, 0, 0, 0, 0, 0, 0)
		}
		b = append(b, byte(xxh32(b[4:])>>8))
		return append(b, unhex(t, rest)...)
	}
	const abc = "03000080 616263 00000000"
	for name, good := range map[string][]byte{
		"plain":            frame(0x60, 0x40, abc),
		"4 MiB":            frame(0x60, 0x70, abc),
		"dependent":        frame(0x40, 0x40, abc),
		"size":             frame(0x68, 0x40, abc),
		"content checksum": frame(0x64, 0x40, abc+"ff53d132"),
		"block checksum":   frame(0x70, 0x40, "03000080 616263 ff53d132 00000000"),
		"empty block":      frame(0x60, 0x40, "00000080"+abc),
	} {
		out, err := AppendDecoded(nil, LZ4, good, 3)
		require.NoError(t, err, name)
		require.Equal(t, "abc", string(out), name)
		_, err = AppendDecoded(nil, LZ4, good, 2)
		require.ErrorIs(t, err, ErrTooLarge, name)
	}
	for name, bad := range map[string][]byte{
		"version 0":            frame(0x20, 0x40, abc),
		"version 2":            frame(0xa0, 0x40, abc),
		"reserved flag":        frame(0x62, 0x40, abc),
		"dictionary":           frame(0x61, 0x40, abc),
		"block maximum 3":      frame(0x60, 0x30, abc),
		"reserved, high":       frame(0x60, 0xc0, abc),
		"reserved, low":        frame(0x60, 0x41, abc),
		"another size":         frame(0x68, 0x40, "02000080 6162 00000000"),
		"content checksum":     frame(0x64, 0x40, abc+"ff53d133"),
		"block checksum":       frame(0x70, 0x40, "03000080 616263 ff53d133 00000000"),
		"stored over maximum":  frame(0x60, 0x40, "01000180"+strings.Repeat("61", 65537)+"00000000"),
		"block over maximum":   frame(0x60, 0x40, "0c010000 1f 61 0100"+strings.Repeat("ff", 257+6)+"00"+"00000000"),
		"match before all":     frame(0x60, 0x40, "09000000 10 61 0200 5061626364 00000000"),
		"ends with a match":    frame(0x60, 0x40, "04000000 10 61 0100 00000000"),
		"legacy frame":         unhex(t, "02214c18 03000000 616263"),
		"skippable frame":      unhex(t, "502a4d18 00000000"),
		"header checksum":      unhex(t, "04224d18 60 40 83"+abc),
		"independent, reaches": frame(0x60, 0x40, "04000080 61626364 09000000 10 61 0400 5061626364 00000000"),
	} {
		out, err := AppendDecoded([]byte("kept"), LZ4, bad, 1<<20)
		require.ErrorIs(t, err, ErrCorrupt, name)
		require.Equal(t, "kept", string(out), name)
	}
}

// A block that is not independent copies from the blocks before it, but never from what dst held
// before the frame: a frame by hand, whose second block begins with a copy of the first.
func TestLZ4DependentBlocks(t *testing.T) {
	header := []byte{0x04, 0x22, 0x4d, 0x18, 0x40, 0x40}
	header = append(header, byte(xxh32(header[4:])>>8))
	frame := append(bytes.Clone(header), unhex(t, "04000080 61626364  09000000 00 0400 50 6566676869 00000000")...)
	out, err := AppendDecoded([]byte("kept"), LZ4, frame, 100)
	require.NoError(t, err)
	require.Equal(t, "keptabcdabcdefghi", string(out))

	alone := append(bytes.Clone(header), unhex(t, "09000000 00 0400 50 6566676869 00000000")...)
	_, err = AppendDecoded([]byte("kept"), LZ4, alone, 100)
	require.ErrorIs(t, err, ErrCorrupt)
}

// The frame code agrees with the library's: our bytes are those of its Writer with Kafka's options,
// for the fast level and the others, compressible or not, at the lengths around one and two blocks.
func TestLZ4FramesAreTheLibrarys(t *testing.T) {
	for _, n := range []int{1, 100, 65535, 65536, 65537, 131072, 200_000} {
		for _, src := range [][]byte{records(n), noise(n)} {
			for level, theirs := range map[int]lz4.CompressionLevel{9: lz4.Fast, 1: lz4.Level1, 8: lz4.Level8, 17: lz4.Level9} {
				var b bytes.Buffer
				z := lz4.NewWriter(&b)
				require.NoError(t, z.Apply(lz4.ConcurrencyOption(1), lz4.BlockSizeOption(lz4.Block64Kb), lz4.ChecksumOption(false), lz4.CompressionLevelOption(theirs)))
				_, err := z.Write(src)
				require.NoError(t, err)
				require.NoError(t, z.Close())
				ours, err := Append(nil, LZ4, level, src)
				require.NoError(t, err)
				require.True(t, bytes.Equal(b.Bytes(), ours), "%d bytes, level %d", n, level)
			}
		}
	}
}

// xxh32 gives the reference's values, and the checksum that the lz4 library puts behind a frame, for
// every length from 1 to 200 (each path through the loops).
func TestXXH32(t *testing.T) {
	for s, want := range map[string]uint32{
		"": 0x02cc5d05, "a": 0x550d7456, "abc": 0x32d153ff, "Nobody inspects the spammish repetition": 0xe2293b2f,
	} {
		require.Equal(t, want, xxh32([]byte(s)), s)
	}
	for n := 1; n <= 200; n++ {
		var b bytes.Buffer
		z := lz4.NewWriter(&b)
		require.NoError(t, z.Apply(lz4.ConcurrencyOption(1), lz4.ChecksumOption(true)))
		_, err := z.Write(noise(n))
		require.NoError(t, err)
		require.NoError(t, z.Close())
		require.Equal(t, binary.LittleEndian.Uint32(b.Bytes()[b.Len()-4:]), xxh32(noise(n)))
	}
}

// A zstd frame that claims what it cannot hold or what we do not read is refused by its headers: a
// table of frames by hand, and one with a checksum that is changed.
func TestZstdFrameIsChecked(t *testing.T) {
	for name, c := range map[string]struct {
		hex  string
		want error
	}{
		"a byte":               {"28b52ffd 20 01 | 090000 61", nil},
		"behind a skippable":   {"502a4d18 02000000 ffff 28b52ffd 20 01 | 090000 61", nil},
		"run of one":           {"28b52ffd 20 01 | 0b0000 61", nil},
		"blocks of nothing":    {"28b52ffd 20 01 | 080000 61 000000 000000 010000", nil},
		"nothing, no size":     {"28b52ffd 00 00 | 090000 61", nil},
		"only a skippable":     {"502a4d18 02000000 ffff", ErrCorrupt},
		"skippable, cut":       {"502a4d18 03000000 ffff", ErrCorrupt},
		"less than declared":   {"28b52ffd 20 02 | 090000 61", ErrCorrupt},
		"more than declared":   {"28b52ffd 20 00 | 090000 61", ErrCorrupt},
		"4 GiB declared":       {"28b52ffd a0 ffffffff | 090000 61", ErrCorrupt},
		"2^63 declared":        {"28b52ffd e0 ffffffffffffff7f | 090000 61", ErrCorrupt},
		"no last block":        {"28b52ffd 20 01 | 080000 61", ErrCorrupt},
		"reserved block":       {"28b52ffd 20 01 | 0f0000 61", ErrCorrupt},
		"block over 128 KiB":   {"28b52ffd 00 58 | 0b0010 61 61", ErrCorrupt},
		"dictionary":           {"28b52ffd 21 07 01 | 090000 61", ErrCorrupt},
		"window of 128 MiB":    {"28b52ffd 00 88 | 090000 61", nil},
		"window over it":       {"28b52ffd 00 89 | 090000 61", ErrTooLarge},
		"window of 3.75 TiB":   {"28b52ffd 00 ff | 090000 61", ErrTooLarge},
		"more than the limit":  {"28b52ffd 60 0001 | 031000 61", ErrTooLarge},
		"no size, over limit":  {"28b52ffd 00 58 | 0b0800 61", ErrTooLarge},
		"garbage in the block": {"28b52ffd 00 58 | 250000 ffffffff", ErrCorrupt},
	} {
		out, err := AppendDecoded([]byte("kept"), Zstd, unhex(t, c.hex), 100)
		if c.want != nil {
			require.ErrorIs(t, err, c.want, name)
			require.Equal(t, "kept", string(out))
			continue
		}
		require.NoError(t, err, name)
		require.Equal(t, "kepta", string(out), name)
	}
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(true))
	require.NoError(t, err)
	packed := z.EncodeAll(records(1000), nil)
	_, err = AppendDecoded(nil, Zstd, packed, 1000)
	require.NoError(t, err)
	packed[len(packed)-1] ^= 1
	_, err = AppendDecoded(nil, Zstd, packed, 1000)
	require.ErrorIs(t, err, ErrCorrupt)
}

// What DecodeAll returns becomes part of dst wherever it lies: behind dst, or elsewhere.
func TestAdoptTakesOutputFromAnywhere(t *testing.T) {
	dst := append(make([]byte, 0, 10), "kept"...)
	behind := append(dst, "abc"...)[4:]
	for _, out := range [][]byte{behind, []byte("abc"), bytes.Repeat([]byte("abc"), 5)} {
		got := adopt(dst, out)
		require.Equal(t, "kept"+string(out), string(got))
	}
	require.Equal(t, "kept", string(adopt(dst, nil)))
}

// A zstd frame that shrinks far more than records do is read whatever its header is, and its declared
// size and its checksum still count: an independent encoder's frames with and without a single
// segment, checksum and long window, each also with the declared size or the checksum one off.
func TestDenseZstdFramesAreChecked(t *testing.T) {
	src := append(records(64<<10), make([]byte, 2<<20)...)
	for _, opts := range [][]zstd.EOption{
		{zstd.WithSingleSegment(true), zstd.WithEncoderCRC(false)},
		{zstd.WithSingleSegment(true), zstd.WithEncoderCRC(true)},
		{zstd.WithSingleSegment(false), zstd.WithEncoderCRC(true), zstd.WithWindowSize(1 << 10)},
		{zstd.WithSingleSegment(false), zstd.WithEncoderCRC(true), zstd.WithWindowSize(8 << 20)},
	} {
		enc, err := zstd.NewWriter(nil, opts...)
		require.NoError(t, err)
		packed := enc.EncodeAll(src, nil)
		require.Less(t, zstdTrust*len(packed), len(src), "not dense")
		var h zstd.Header
		require.NoError(t, h.Decode(packed))
		require.EqualValues(t, len(src), h.FrameContentSize)

		out, err := AppendDecoded([]byte("kept"), Zstd, packed, len(src))
		require.NoError(t, err, "%+v", h)
		require.True(t, bytes.Equal(append([]byte("kept"), src...), out))
		_, err = AppendDecoded(nil, Zstd, packed, len(src)-1)
		require.ErrorIs(t, err, ErrTooLarge)

		for _, by := range []int8{-1, 1} {
			bad := bytes.Clone(packed)
			bad[h.HeaderSize-4] += byte(by) // the lowest byte of the size
			_, err = AppendDecoded(nil, Zstd, bad, 1<<30)
			require.ErrorIs(t, err, ErrCorrupt, "%+v", h)
			if h.HasCheckSum {
				bad = bytes.Clone(packed)
				bad[len(bad)-1] += byte(by)
				_, err = AppendDecoded(nil, Zstd, bad, 1<<30)
				require.ErrorIs(t, err, ErrCorrupt, "%+v", h)
			}
		}
	}
}
