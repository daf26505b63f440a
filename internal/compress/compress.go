// Package compress holds Kafka's four compression codecs: gzip, snappy, lz4 and zstd.
//
// It is pure: bytes in, bytes out. It starts no goroutine and lets no library start one. What the
// codecs need to work is pooled; a pooled coder keeps nothing of the caller's bytes after the call.
//
// Compressed bytes come from disk, from peers and from clients, so a reader gives a limit, and memory
// grows with the bytes that really come out: a size declared in a header is believed only as far as
// the limit and the length of the input allow. All functions are safe for concurrent use.
package compress

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
)

var (
	// ErrTooLarge says that the bytes inflate to more than the caller's limit, or that reading them
	// needs a larger window than we allow.
	ErrTooLarge = errors.New("compress: inflates to more than allowed")
	// ErrCorrupt says that the bytes are not what the codec writes. It wraps the cause.
	ErrCorrupt = errors.New("compress: corrupt data")
	// ErrUnknownCodec says that the number of the codec is not one of Kafka's.
	ErrUnknownCodec = errors.New("compress: unknown codec")
	// ErrLevel says that the codec has no such level.
	ErrLevel = errors.New("compress: level out of range")
)

// maxInflated is the most that AppendDecoded ever appends, whatever the limit: the length of a batch
// is an int32 in Kafka, so nothing larger can be records.
const maxInflated = math.MaxInt32

// Codec is a compression codec by Kafka's number: the low three bits of a batch's attributes.
type Codec int8

// The codecs, by Kafka's numbers.
const (
	None   Codec = 0
	Gzip   Codec = 1
	Snappy Codec = 2
	LZ4    Codec = 3
	Zstd   Codec = 4
)

// String returns Kafka's name of the codec, as in compression.type.
func (c Codec) String() string {
	switch c {
	case None:
		return "none"
	case Gzip:
		return "gzip"
	case Snappy:
		return "snappy"
	case LZ4:
		return "lz4"
	case Zstd:
		return "zstd"
	}
	return fmt.Sprintf("codec(%d)", int8(c))
}

// Valid says whether c is one of Kafka's codecs, None included.
func (c Codec) Valid() bool { return None <= c && c <= Zstd }

// Kafka's default levels (KIP-390).
const (
	gzipDefaultLevel = -1
	lz4DefaultLevel  = 9
	zstdDefaultLevel = 3
)

// DefaultLevel returns Kafka's default level of the codec: -1 for gzip, 9 for lz4, 3 for zstd, and 0
// for the codecs that have no levels.
func (c Codec) DefaultLevel() int {
	switch c {
	case Gzip:
		return gzipDefaultLevel
	case LZ4:
		return lz4DefaultLevel
	case Zstd:
		return zstdDefaultLevel
	}
	return 0
}

// CheckLevel says whether the codec has that level, as in KIP-390: gzip -1 (its default) and 1 to 9,
// lz4 1 to 17, zstd -131072 to 22, and only 0 for none and snappy, which have no levels. The error is
// ErrLevel or ErrUnknownCodec.
func CheckLevel(c Codec, level int) error {
	if !c.Valid() {
		return fmt.Errorf("%w: %d", ErrUnknownCodec, int8(c))
	}
	lo, hi := 0, 0
	switch c {
	case Gzip:
		lo, hi = 1, 9
	case LZ4:
		lo, hi = 1, 17
	case Zstd:
		lo, hi = -131072, 22
	}
	if lo <= level && level <= hi || level == c.DefaultLevel() {
		return nil
	}
	return fmt.Errorf("%w: %v level %d is not in %d to %d", ErrLevel, c, level, lo, hi)
}

// Append compresses src with c at a level that CheckLevel accepts, appends the result to dst and
// returns the extended slice. An empty src gives a valid, empty stream. The spare capacity of dst is
// scratch space and must not overlap src. On an error, dst is returned unchanged.
func Append(dst []byte, c Codec, level int, src []byte) ([]byte, error) {
	if err := CheckLevel(c, level); err != nil {
		return dst, err
	}
	switch c {
	case Gzip:
		return appendGzip(dst, level, src)
	case Snappy:
		return appendSnappy(dst, src), nil
	case LZ4:
		return appendLZ4(dst, level, src)
	case Zstd:
		return appendZstd(dst, level, src)
	}
	return append(dst, src...), nil
}

// AppendDecoded appends what src inflates to, at most limit bytes, to dst and returns the extended
// slice. More than limit bytes (or than an int32 counts) is ErrTooLarge, anything malformed is
// ErrCorrupt, and then dst is returned as it was. Exactly limit bytes are fine; a negative limit
// counts as 0. The spare capacity of dst is scratch space and must not overlap src; where it
// suffices, nothing is allocated for the output.
//
// Several gzip members, lz4 frames, zstd frames or streams of snappy's Java framing one after another
// are read as one, as their formats say. That is why a cut between two of them goes unnoticed, as
// does a cut between two chunks of snappy's Java framing, which has no end mark; the batch's CRC
// notices both. No bytes at all are corrupt for every codec but None.
func AppendDecoded(dst []byte, c Codec, src []byte, limit int) ([]byte, error) {
	if !c.Valid() {
		return dst, fmt.Errorf("%w: %d", ErrUnknownCodec, int8(c))
	}
	// On a 32-bit machine the sum of lengths must not overflow; a zstd attempt may go a block further.
	limit = max(0, min(limit, maxInflated, math.MaxInt-zstdMaxBlock-len(dst)))
	if c == None {
		if len(src) > limit {
			return dst, tooLarge(c, limit)
		}
		return append(dst, src...), nil
	}
	if len(src) == 0 {
		return dst, corrupt(c, io.ErrUnexpectedEOF)
	}
	out, err := dst, error(nil)
	switch c {
	case Gzip:
		out, err = appendGunzipped(dst, src, limit)
	case Snappy:
		out, err = appendUnsnapped(dst, src, limit)
	case LZ4:
		out, err = appendUnLZ4(dst, src, limit)
	case Zstd:
		out, err = appendUnzstd(dst, src, limit)
	}
	if err != nil {
		return dst, err
	}
	return out, nil
}

// grow makes room behind dst for n bytes, or for as much as there is from base on, but not beyond
// end: so what an output of many pieces allocates in all is a small multiple of it.
func grow(dst []byte, base, n, end int) []byte {
	if cap(dst)-len(dst) >= n {
		return dst
	}
	return slices.Grow(dst, min(max(n, len(dst)-base), end-len(dst)))
}

func tooLarge(c Codec, limit int) error {
	return fmt.Errorf("%w: %v, limit %d bytes", ErrTooLarge, c, limit)
}

func corrupt(c Codec, cause error) error {
	return fmt.Errorf("%w: %v: %w", ErrCorrupt, c, cause)
}
