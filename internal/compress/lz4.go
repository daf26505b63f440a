package compress

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/pierrec/lz4/v4"
)

// LZ4's frame format, version 1, everything little endian:
//
//	| magic 4 | FLG 1 | BD 1 | content size 0 or 8 | HC 1 | block | block | ... | 0 int32 | checksum 0 or 4 |
//
//	FLG:    version (2 bits, 01) | independent | block checksums | content size | content checksum | 0 | dictionary
//	BD:     0 | block maximum (3 bits: 4 to 7 for 64 KiB to 4 MiB) | 0000
//	HC:     the second byte of the xxh32 of FLG to the content size
//	block:  | length int32, highest bit: stored as is | bytes | checksum 0 or 4 |
//
// We take the frames apart ourselves, and leave only the blocks to the library. Its Reader takes two
// buffers of the block maximum as soon as it has read a header: 8 MiB for the eleven bytes of an
// empty frame, and franz-go declares 4 MiB for every batch. Here a block goes from the caller's
// bytes to the caller's bytes.
const (
	lz4Magic       = 0x184D2204
	lz4StoredBit   = 1 << 31
	lz4MagicLen    = 4
	lz4WordLen     = 4 // a length, or a checksum
	lz4SizeLen     = 8
	lz4WindowBytes = 64 << 10 // how far back a block that is not independent may reach

	lz4FlagVersion     = 0b1100_0000
	lz4Version1        = 0b0100_0000
	lz4FlagIndependent = 0b0010_0000
	lz4FlagBlockSum    = 0b0001_0000
	lz4FlagSize        = 0b0000_1000
	lz4FlagSum         = 0b0000_0100
	lz4FlagNotRead     = 0b0000_0011 // reserved, dictionary

	// lz4Header is what Kafka's Java client writes: independent blocks of 64 KiB, nothing else, since
	// the batch has a CRC of its own.
	lz4Header     = "\x04\x22\x4d\x18\x60\x40\x82"
	lz4BlockBytes = 64 << 10
	lz4End        = "\x00\x00\x00\x00"
)

var (
	errLZ4Magic   = errors.New("not an lz4 frame")
	errLZ4Flags   = errors.New("lz4 frame with a version or an option that Kafka does not use")
	errLZ4Sum     = errors.New("lz4 checksum does not match")
	errLZ4Block   = errors.New("malformed lz4 block")
	errLZ4MaxSize = errors.New("lz4 block is larger than its frame declares")
	errLZ4Size    = errors.New("lz4 frame does not hold what it declares")
)

var (
	lz4Encoders     = sync.Pool{New: func() any { return new(lz4.Compressor) }}
	lz4HighEncoders = sync.Pool{New: func() any { return new(lz4.CompressorHC) }}
)

// lz4Encoder compresses one block.
type lz4Encoder interface {
	CompressBlock(src, dst []byte) (int, error)
}

func appendLZ4(dst []byte, level int, src []byte) ([]byte, error) {
	// As in Kafka's Java client, the default is the fast compressor and every other level the thorough one.
	pool := &lz4Encoders
	if level != lz4DefaultLevel {
		pool = &lz4HighEncoders
	}
	enc := pool.Get().(lz4Encoder)
	if high, ok := enc.(*lz4.CompressorHC); ok {
		// The library's levels are search depths, a power of two each, and end at the ninth.
		high.Level = lz4.Level1 << min(level-1, 8)
	}
	out := append(dst, lz4Header...)
	var err error
	for len(src) > 0 && err == nil {
		block := src[:min(len(src), lz4BlockBytes)]
		src = src[len(block):]
		out, err = appendLZ4Block(out, enc, block)
	}
	pool.Put(enc)
	if err != nil {
		return dst, err
	}
	return append(out, lz4End...), nil
}

// appendLZ4Block gives the compressor room for the worst case: with less, it reports what does not
// fit by a panic and a recover of its own.
func appendLZ4Block(dst []byte, enc lz4Encoder, block []byte) ([]byte, error) {
	bound := lz4.CompressBlockBound(len(block))
	dst = slices.Grow(dst, lz4WordLen+bound)
	pos := len(dst) + lz4WordLen
	n, err := enc.CompressBlock(block, dst[pos:pos+bound])
	if err != nil {
		return dst, fmt.Errorf("compress: lz4: %w", err)
	}
	if n >= len(block) {
		dst = binary.LittleEndian.AppendUint32(dst, uint32(len(block))|lz4StoredBit)
		return append(dst, block...), nil
	}
	dst = binary.LittleEndian.AppendUint32(dst, uint32(n))
	return dst[:pos+n], nil
}

// lz4Frame is what a frame's header says.
type lz4Frame struct {
	flags    byte
	blockMax int
	size     uint64 // if flags say so
}

// has says whether the flag is set.
func (f lz4Frame) has(flag byte) bool { return f.flags&flag != 0 }

func appendUnLZ4(dst, src []byte, limit int) ([]byte, error) {
	end := len(dst) + limit
	for len(src) > 0 {
		f, rest, err := readLZ4Header(src)
		if err != nil {
			return dst, corrupt(LZ4, err)
		}
		if dst, src, err = f.append(dst, rest, end-len(dst)); errors.Is(err, ErrTooLarge) {
			return dst, tooLarge(LZ4, limit)
		} else if err != nil {
			return dst, corrupt(LZ4, err)
		}
	}
	return dst, nil
}

// readLZ4Header returns the frame and what follows its header.
func readLZ4Header(src []byte) (f lz4Frame, rest []byte, err error) {
	if len(src) < lz4MagicLen+3 {
		return f, nil, io.ErrUnexpectedEOF
	}
	if binary.LittleEndian.Uint32(src) != lz4Magic {
		return f, nil, errLZ4Magic
	}
	src = src[lz4MagicLen:]
	f.flags = src[0]
	code := src[1] >> 4
	if f.flags&lz4FlagVersion != lz4Version1 || f.has(lz4FlagNotRead) || src[1]&0b1000_1111 != 0 || code < 4 {
		return f, nil, errLZ4Flags
	}
	f.blockMax = 1 << (8 + 2*code)
	n := 2
	if f.has(lz4FlagSize) {
		if len(src) < n+lz4SizeLen+1 {
			return f, nil, io.ErrUnexpectedEOF
		}
		f.size = binary.LittleEndian.Uint64(src[n:])
		n += lz4SizeLen
	}
	if src[n] != byte(xxh32(src[:n])>>8) {
		return f, nil, errLZ4Sum
	}
	return f, src[n+1:], nil
}

// append appends the frame's blocks, at most room bytes, and returns what follows the frame.
func (f lz4Frame) append(dst, src []byte, room int) (out, rest []byte, err error) {
	base := len(dst)
	for {
		var word uint32
		if word, src, err = cutLZ4Word(src); err != nil {
			return dst, nil, err
		}
		if word == 0 {
			break
		}
		n := int(word &^ lz4StoredBit)
		if n > f.blockMax {
			return dst, nil, errLZ4MaxSize
		}
		if n > len(src) {
			return dst, nil, io.ErrUnexpectedEOF
		}
		block := src[:n]
		src = src[n:]
		if f.has(lz4FlagBlockSum) {
			if src, err = cutLZ4Sum(src, block); err != nil {
				return dst, nil, err
			}
		}
		if dst, err = f.appendBlock(dst, base, block, word&lz4StoredBit != 0, room-(len(dst)-base)); err != nil {
			return dst, nil, err
		}
	}
	if f.has(lz4FlagSum) {
		if src, err = cutLZ4Sum(src, dst[base:]); err != nil {
			return dst, nil, err
		}
	}
	if f.has(lz4FlagSize) && f.size != uint64(len(dst)-base) {
		return dst, nil, errLZ4Size
	}
	return dst, src, nil
}

// appendBlock appends one block of the frame whose output begins at base.
func (f lz4Frame) appendBlock(dst []byte, base int, block []byte, stored bool, room int) ([]byte, error) {
	n, ok := len(block), true
	if !stored {
		n, ok = lz4DecodedLen(block)
	}
	if !ok {
		return dst, errLZ4Block
	}
	if n > f.blockMax {
		return dst, errLZ4MaxSize
	}
	if n > room {
		return dst, ErrTooLarge
	}
	dst = grow(dst, base, n, len(dst)+room)
	if stored {
		return append(dst, block...), nil
	}
	var window []byte
	if !f.has(lz4FlagIndependent) {
		window = dst[max(base, len(dst)-lz4WindowBytes):]
	}
	got, err := lz4.UncompressBlockWithDict(block, dst[len(dst):len(dst)+n], window)
	if err != nil {
		return dst, err
	}
	if got != n {
		return dst, errLZ4Block
	}
	return dst[:len(dst)+n], nil
}

// lz4DecodedLen walks over the sequences of a block and adds up what they give, copying nothing: so
// the output is allocated to the byte, and what is too large is told from what is malformed. A block
// is sequences of
//
//	| token: literals (4 bits), match - 4 (4 bits) | more literals 0.. | literals | offset 2 | more match 0.. |
//
// where 15 is continued in bytes to be added, up to one that is not 255, and the last sequence ends
// after its literals. A byte gives at most 255, so that an int cannot overflow within a block.
func lz4DecodedLen(block []byte) (n int, ok bool) {
	for i := 0; i < len(block); {
		token := block[i]
		i++
		literals, i2, ok := lz4Length(block, i, int(token>>4))
		if !ok || literals > len(block)-i2 {
			return 0, false
		}
		i = i2 + literals
		n += literals
		if i == len(block) {
			return n, true
		}
		if len(block)-i < 2 {
			return 0, false
		}
		match, i3, ok := lz4Length(block, i+2, int(token&15))
		if !ok {
			return 0, false
		}
		i = i3
		n += match + 4
	}
	return 0, false
}

// lz4Length continues a length that began as 15, and returns where it ends.
func lz4Length(block []byte, i, length int) (n, end int, ok bool) {
	if length < 15 {
		return length, i, true
	}
	for i < len(block) {
		length += int(block[i])
		i++
		if block[i-1] != 255 {
			return length, i, true
		}
	}
	return 0, 0, false
}

func cutLZ4Word(src []byte) (word uint32, rest []byte, err error) {
	if len(src) < lz4WordLen {
		return 0, nil, io.ErrUnexpectedEOF
	}
	return binary.LittleEndian.Uint32(src), src[lz4WordLen:], nil
}

// cutLZ4Sum checks the checksum at the beginning of src, over sum, and returns what follows it.
func cutLZ4Sum(src, sum []byte) (rest []byte, err error) {
	word, rest, err := cutLZ4Word(src)
	if err != nil {
		return nil, err
	}
	if word != xxh32(sum) {
		return nil, errLZ4Sum
	}
	return rest, nil
}
