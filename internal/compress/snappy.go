package compress

import (
	"encoding/binary"
	"errors"
	"io"
	"slices"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/snappy"
)

// Kafka's Java client writes snappy in the framing of the library snappy-java (xerial), everything
// big endian:
//
//	0        8         12        16
//	| magic  | version | oldest  | chunk | chunk | ...
//	| 8 bytes| int32 1 | int32 1 |
//
//	chunk:  | length int32 | snappy block of that length |
//
// There is no end mark and no checksum. "oldest" is the oldest version that can read the rest. Other
// clients (librdkafka, franz-go) write one raw block instead. The two cannot be mistaken: as a raw
// block the magic declares 10,626 bytes and begins with a copy, of nothing.
const (
	xerialMagic      = "\x82SNAPPY\x00"
	xerialHeader     = xerialMagic + "\x00\x00\x00\x01\x00\x00\x00\x01"
	xerialVersionPos = len(xerialMagic)
	xerialLengthLen  = 4
	// xerialChunk is how much input snappy-java puts into a chunk.
	xerialChunk = 32 << 10
)

// snappyMaxRatio bounds what a byte of a block can become: the densest element, a copy, takes three
// bytes and gives at most 64, which is less than 22 for each.
const snappyMaxRatio = 22

var (
	errXerialVersion = errors.New("snappy framing of an unknown version")
	errSnappyLength  = errors.New("snappy block declares more than it can hold")
)

func appendSnappy(dst, src []byte) []byte {
	dst = append(dst, xerialHeader...)
	for len(src) > 0 {
		chunk := src[:min(len(src), xerialChunk)]
		src = src[len(chunk):]
		dst = slices.Grow(dst, xerialLengthLen+s2.MaxEncodedLen(len(chunk)))
		pos := len(dst) + xerialLengthLen
		block := s2.EncodeSnappy(dst[pos:pos:cap(dst)], chunk)
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(block)))
		dst = dst[:pos+len(block)]
	}
	return dst
}

func appendUnsnapped(dst, src []byte, limit int) ([]byte, error) {
	if !isXerial(src) {
		return appendSnappyBlock(dst, src, limit)
	}
	// First only the lengths: what is too large costs nothing, and the rest is allocated at once.
	total := 0
	for rest := src; len(rest) > 0; {
		block, next, err := cutXerial(rest)
		if err != nil {
			return dst, corrupt(Snappy, err)
		}
		n, err := snappyDecodedLen(block)
		if err != nil {
			return dst, corrupt(Snappy, err)
		}
		if total += n; total > limit {
			return dst, tooLarge(Snappy, limit)
		}
		rest = next
	}
	dst = slices.Grow(dst, total)
	for end := len(dst) + total; len(src) > 0; {
		block, rest, err := cutXerial(src)
		if err != nil {
			return dst, corrupt(Snappy, err)
		}
		if dst, err = appendSnappyBlock(dst, block, end-len(dst)); err != nil {
			return dst, err
		}
		src = rest
	}
	return dst, nil
}

func isXerial(src []byte) bool {
	return len(src) >= len(xerialMagic) && string(src[:len(xerialMagic)]) == xerialMagic
}

// snappyNothing is a block that becomes nothing.
var snappyNothing = []byte{0}

// cutXerial returns the block of the next chunk and what follows it. A header, which begins a stream
// and may begin another one behind it, counts as a chunk of nothing.
func cutXerial(src []byte) (block, rest []byte, err error) {
	if isXerial(src) {
		if len(src) < len(xerialHeader) {
			return nil, nil, io.ErrUnexpectedEOF
		}
		version := binary.BigEndian.Uint32(src[xerialVersionPos:])
		oldest := binary.BigEndian.Uint32(src[xerialVersionPos+4:])
		if version == 0 || oldest > 1 {
			return nil, nil, errXerialVersion
		}
		return snappyNothing, src[len(xerialHeader):], nil
	}
	if len(src) < xerialLengthLen {
		return nil, nil, io.ErrUnexpectedEOF
	}
	n := uint64(binary.BigEndian.Uint32(src))
	src = src[xerialLengthLen:]
	if n > uint64(len(src)) {
		return nil, nil, io.ErrUnexpectedEOF
	}
	return src[:n], src[n:], nil
}

// snappyDecodedLen returns what the block declares, if it could hold that.
func snappyDecodedLen(block []byte) (int, error) {
	n, err := snappy.DecodedLen(block)
	if err == nil && n/snappyMaxRatio > len(block) {
		err = errSnappyLength
	}
	return n, err
}

// appendSnappyBlock appends at most limit bytes. The decoder is the strict one: the other also takes
// S2's repeats, which Kafka's other clients cannot read.
func appendSnappyBlock(dst, block []byte, limit int) ([]byte, error) {
	n, err := snappyDecodedLen(block)
	if err != nil {
		return dst, corrupt(Snappy, err)
	}
	if n > limit {
		return dst, tooLarge(Snappy, limit)
	}
	dst = slices.Grow(dst, n)
	if _, err := snappy.DecodeStrict(dst[len(dst):len(dst):len(dst)+n], block); err != nil {
		return dst, corrupt(Snappy, err)
	}
	return dst[:len(dst)+n], nil
}
