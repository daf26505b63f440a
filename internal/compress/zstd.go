package compress

import (
	"encoding/binary"
	"errors"
	"io"
	"math/bits"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"
)

const (
	// zstdWindow is how far back our encoders look, and what a streaming reader of theirs has to keep.
	// Kafka's largest batch is 1 MiB by default (message.max.bytes); more would only cost memory.
	zstdWindow = 1 << 20
	// zstdMaxWindow is the largest window that zstd writes at any level (22) without its long mode,
	// and what the reference decoder takes by default.
	zstdMaxWindow = 128 << 20
	// zstdMaxBlock is the most that a block gives, by the format.
	zstdMaxBlock = 128 << 10
	// zstdMinPacked is the smallest compressed block: a byte about no literals, a byte about no sequences.
	zstdMinPacked = 2
	// zstdTrust is how many times its own length a frame may declare and have it allocated at once.
	// Records hardly ever shrink to less; what does is decoded into room that grows.
	zstdTrust = 16
	// zstdChecksumLen is the content checksum at the end of a frame, if its header says so.
	zstdChecksumLen = 4
)

var (
	errZstdBlock = errors.New("malformed zstd block")
	errZstdSize  = errors.New("zstd frame declares a size that its blocks do not have")
	errZstdFrame = errors.New("no zstd frame that holds data")
	errZstdDict  = errors.New("zstd frame needs a dictionary")
)

// zstdEncoders are pooled by the library's level, of which it has four.
var zstdEncoders [zstd.SpeedBestCompression + 1]sync.Pool

func appendZstd(dst []byte, level int, src []byte) ([]byte, error) {
	speed := zstdSpeed(level)
	enc, _ := zstdEncoders[speed].Get().(*zstd.Encoder)
	if enc == nil {
		var err error
		if enc, err = newZstdEncoder(speed); err != nil {
			return dst, err
		}
	}
	out := enc.EncodeAll(src, dst)
	zstdEncoders[speed].Put(enc)
	return out, nil
}

// zstdSpeed returns the library's level for one of zstd's own.
func zstdSpeed(level int) zstd.EncoderLevel { return zstd.EncoderLevelFromZstd(level) }

// newZstdEncoder returns an encoder for EncodeAll, which with a concurrency of one starts no
// goroutine and needs no Close. Frames carry no checksum, as in Kafka's Java client: the batch has a
// CRC of its own.
func newZstdEncoder(speed zstd.EncoderLevel) (*zstd.Encoder, error) {
	return zstd.NewWriter(nil,
		zstd.WithEncoderLevel(speed),
		zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(zstdWindow),
		zstd.WithEncoderCRC(false),
		zstd.WithZeroFrames(true))
}

// zstdDecoders are given back only clean, see zstdDecoder.release.
var zstdDecoders sync.Pool

// zstdDecoder decodes frames that are whole in memory. Not safe for concurrent use.
type zstdDecoder struct {
	z      *zstd.Decoder
	header zstd.Header
	tiny   [1]byte // what release decodes into
}

// newZstdDecoder returns a decoder for DecodeAll, which with a concurrency of one starts no goroutine
// and needs no Close. The output itself is the window, so that the decoder's own memory is a block or
// two; each call is limited by the capacity that it is given.
func newZstdDecoder() (*zstdDecoder, error) {
	z, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderLowmem(true),
		zstd.WithDecodeAllCapLimit(true),
		zstd.WithDecoderMaxWindow(zstdMaxWindow),
		zstd.WithDecoderMaxMemory(maxInflated+zstdMaxBlock))
	if err != nil {
		return nil, err
	}
	return &zstdDecoder{z: z}, nil
}

// zstdTiny is a frame of one raw block of one byte.
var zstdTiny = []byte{0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x01, 0x09, 0x00, 0x00, 0x00}

// release makes the decoder forget what it decoded. It keeps slices of its last input and output
// until the next call, which in a pool could be never; so the next call is made here.
func (d *zstdDecoder) release() {
	_, _ = d.z.DecodeAll(zstdTiny, d.tiny[:0])
}

func appendUnzstd(dst, src []byte, limit int) ([]byte, error) {
	d, _ := zstdDecoders.Get().(*zstdDecoder)
	if d == nil {
		var err error
		if d, err = newZstdDecoder(); err != nil {
			return dst, err
		}
	}
	out, err := d.append(dst, src, limit)
	d.release()
	zstdDecoders.Put(d)
	if errors.Is(err, ErrTooLarge) {
		return dst, tooLarge(Zstd, limit)
	}
	if err != nil {
		return dst, corrupt(Zstd, err)
	}
	return out, nil
}

func (d *zstdDecoder) append(dst, src []byte, limit int) ([]byte, error) {
	end := len(dst) + limit
	empty := true
	for len(src) > 0 {
		f, err := d.cutFrame(src)
		if err != nil {
			return dst, err
		}
		src = src[len(f.bytes):]
		if f.skippable {
			continue
		}
		empty = false
		if dst, err = d.appendFrame(dst, f, end-len(dst)); err != nil {
			return dst, err
		}
	}
	if empty {
		return dst, errZstdFrame
	}
	return dst, nil
}

// zstdFrame is one frame and what its header and its blocks' headers say.
type zstdFrame struct {
	bytes     []byte
	headerLen int
	skippable bool
	declared  bool   // Invariant: then bound is the size that the header declares.
	bound     uint64 // the most that the frame can become
}

// cutFrame returns the first frame in src, walking over its headers and decompressing nothing.
func (d *zstdDecoder) cutFrame(src []byte) (f zstdFrame, err error) {
	h := &d.header
	if err := h.Decode(src); err != nil {
		return f, err
	}
	end := uint64(h.HeaderSize)
	if h.Skippable {
		f.skippable = true
		end += uint64(h.SkippableSize)
	} else {
		if end, f.bound, err = walkZstdBlocks(src, h.HeaderSize); err != nil {
			return f, err
		}
		if h.HasCheckSum {
			end += zstdChecksumLen
		}
	}
	if end > uint64(len(src)) {
		return f, io.ErrUnexpectedEOF
	}
	f.bytes, f.headerLen = src[:end], h.HeaderSize
	if h.DictionaryID != 0 {
		return f, errZstdDict
	}
	window := h.WindowSize
	if h.HasFCS {
		if h.FrameContentSize > f.bound {
			return f, errZstdSize
		}
		f.declared, f.bound = true, h.FrameContentSize
		if h.SingleSegment {
			window = h.FrameContentSize // the format's rule
		}
	}
	if window > zstdMaxWindow {
		return f, ErrTooLarge
	}
	return f, nil
}

// walkZstdBlocks returns where the blocks from pos on end, and the most that they can become. A block
// begins with 3 bytes, little endian: last (1 bit), type (2 bits), size (21 bits).
func walkZstdBlocks(src []byte, pos int) (end, bound uint64, err error) {
	const (
		headerLen = 3
		raw       = 0
		rle       = 1
		packed    = 2
	)
	for last := false; !last; {
		if len(src)-pos < headerLen {
			return 0, 0, io.ErrUnexpectedEOF
		}
		h := uint32(binary.LittleEndian.Uint16(src[pos:])) | uint32(src[pos+2])<<16
		pos += headerLen
		last = h&1 != 0
		size := int(h >> 3)
		if size > zstdMaxBlock {
			return 0, 0, errZstdBlock
		}
		switch h >> 1 & 3 {
		case raw:
			bound += uint64(size)
		case rle:
			bound += uint64(size)
			size = 1
		case packed:
			if size < zstdMinPacked {
				return 0, 0, errZstdBlock
			}
			bound += zstdMaxBlock
		default:
			return 0, 0, errZstdBlock
		}
		if size > len(src)-pos {
			return 0, 0, io.ErrUnexpectedEOF
		}
		pos += size
	}
	return uint64(pos), bound, nil
}

// appendFrame appends at most room bytes. A frame that declares its size gets exactly that, if the
// spare capacity or the frame's own length is in proportion. Any other (Kafka's Java client writes a
// stream, which declares nothing) is decoded into a guess, and again into twice that for as long as
// the space may be what was missing: a block is at most 128 KiB, so an attempt never gets more than
// twice what the one before produced and a block. There a declared size is only the last attempt's.
func (d *zstdDecoder) appendFrame(dst []byte, f zstdFrame, room int) ([]byte, error) {
	if f.declared && f.bound > uint64(room) {
		return dst, ErrTooLarge
	}
	// One block beyond the room, and it is certain that the room was the reason.
	most := int(min(f.bound, uint64(room)+zstdMaxBlock))
	spare := cap(dst) - len(dst)
	n := min(most, room, max(spare, 4*len(f.bytes)))
	frame := f.bytes
	if f.declared {
		n = min(most, max(spare, zstdMaxBlock, zstdTrust*len(f.bytes)))
		if n < most {
			frame = f.withoutSize()
		}
	}
	for {
		dst = slices.Grow(dst, n)
		out, err := d.z.DecodeAll(frame, dst[len(dst):len(dst):len(dst)+n])
		switch {
		case len(out) > room:
			return dst, ErrTooLarge
		case err == nil && f.declared && len(out) != most:
			return dst, errZstdSize
		case err == nil:
			return adopt(dst, out), nil
		case n == most || n-len(out) >= zstdMaxBlock:
			return dst, err
		}
		n = min(most, max(2*n, 512))
	}
}

// withoutSize returns a copy of a frame that declares its size, with a header that does not: DecodeAll
// wants room for all that is declared before it looks at the first block. The header is the magic
// number, a byte of flags, and a byte with the window, 2^(10+e) * (8+m)/8 bytes as e<<3 | m; a frame
// of a single segment has no such byte, and its size is its window.
func (f zstdFrame) withoutSize() []byte {
	const (
		flagsAt       = 4
		checksum      = 1 << 2
		singleSegment = 1 << 5
	)
	window := f.bytes[flagsAt+1]
	if f.bytes[flagsAt]&singleSegment != 0 {
		window = byte(max(bits.Len64(f.bound-1), 10)-10) << 3
	}
	b := make([]byte, 0, len(f.bytes)) // the header gets no longer
	b = append(b, f.bytes[:flagsAt]...)
	b = append(b, f.bytes[flagsAt]&checksum, window)
	return append(b, f.bytes[f.headerLen:]...)
}

// adopt extends dst by out, which is behind dst already. DecodeAll does not promise that: it goes on
// in an array of its own where it thinks that the capacity is too small. Then out is copied.
func adopt(dst, out []byte) []byte {
	if len(out) == 0 {
		return dst
	}
	if spare := dst[len(dst):cap(dst)]; len(spare) >= len(out) && &spare[0] == &out[0] {
		return dst[:len(dst)+len(out)]
	}
	return append(dst, out...)
}
