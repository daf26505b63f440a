package batch

import "math/bits"

// Zigzag varints as in protocol buffers: seven bits a byte, least significant
// first, the high bit says that more follow. Kafka has them in 32 and 64 bits.

const (
	maxVarint32 = 5  // bytes
	maxVarint64 = 10 // bytes
	varintNull  = 1  // -1, the length of a byte string that is null
)

// uvarintLen returns how many bytes the unsigned value takes.
func uvarintLen(u uint64) int {
	return int((9*uint(bits.Len64(u|1)) + 64) / 64)
}

func zigzag(v int64) uint64 { return uint64(v)<<1 ^ uint64(v>>63) }

func varintLen(v int64) int { return uvarintLen(zigzag(v)) }

// putVarint writes v to b[i:], which has room, and returns the index after it.
func putVarint(b []byte, i int, v int64) int { return putUvarint(b, i, zigzag(v)) }

// putUvarint is putVarint of an unsigned value.
func putUvarint(b []byte, i int, u uint64) int {
	for u >= 0x80 {
		b[i] = byte(u) | 0x80
		u >>= 7
		i++
	}
	b[i] = byte(u)
	return i + 1
}

// putSmall is putUvarint of a value below smallNumber.
func putSmall(b []byte, i int, u uint64) int {
	if u < 0x80 {
		b[i] = byte(u)
		return i + 1
	}
	b[i], b[i+1] = byte(u)|0x80, byte(u>>7)
	return i + 2
}

// varint reads a value of at most 64 bits from the beginning of b and returns
// how many bytes it took, 0 if b is too short or the value too long.
func varint(b []byte) (v int64, n int) {
	if len(b) > 0 && b[0] < 0x80 {
		return int64(b[0]>>1) ^ -int64(b[0]&1), 1
	}
	return varintSlow(b)
}

func varintSlow(b []byte) (v int64, n int) {
	if len(b) > 1 && b[0] >= 0x80 && b[1] < 0x80 { // most lengths
		return (int64(b[0]&0x7f)>>1 | int64(b[1])<<6) ^ -int64(b[0]&1), 2
	}
	var u uint64
	for i := 0; i < len(b) && i < maxVarint64; i++ {
		c := b[i]
		if i == maxVarint64-1 && c > 1 {
			return 0, 0 // more than 64 bits
		}
		u |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			return int64(u>>1) ^ -int64(u&1), i + 1
		}
	}
	return 0, 0
}

// varint32 is varint for the fields that Kafka reads into 32 bits: at most five
// bytes, of which the last has four bits that count.
func varint32(b []byte) (v int64, n int) {
	if len(b) > 0 && b[0] < 0x80 {
		return int64(b[0]>>1) ^ -int64(b[0]&1), 1
	}
	v, n = varintSlow(b)
	if n > maxVarint32 || v != int64(int32(v)) {
		return 0, 0
	}
	return v, n
}
