package compress

import (
	"encoding/binary"
	"math/bits"
)

const (
	xxhPrime1 uint32 = 2654435761
	xxhPrime2 uint32 = 2246822519
	xxhPrime3 uint32 = 3266489917
	xxhPrime4 uint32 = 668265263
	xxhPrime5 uint32 = 374761393
)

// xxh32 is the 32-bit xxHash of b with seed 0, the checksum of lz4's frames. (The xxHash library that
// the module uses has only the 64-bit one.)
func xxh32(b []byte) uint32 {
	length := uint32(len(b))
	h := xxhPrime5
	if len(b) >= 16 {
		v1, v2, v3, v4 := xxhPrime1, xxhPrime2, uint32(0), uint32(0)
		v1 += xxhPrime2
		v4 -= xxhPrime1
		for ; len(b) >= 16; b = b[16:] {
			v1 = xxhRound(v1, b[0:4])
			v2 = xxhRound(v2, b[4:8])
			v3 = xxhRound(v3, b[8:12])
			v4 = xxhRound(v4, b[12:16])
		}
		h = bits.RotateLeft32(v1, 1) + bits.RotateLeft32(v2, 7) + bits.RotateLeft32(v3, 12) + bits.RotateLeft32(v4, 18)
	}
	h += length
	for ; len(b) >= 4; b = b[4:] {
		h += binary.LittleEndian.Uint32(b) * xxhPrime3
		h = bits.RotateLeft32(h, 17) * xxhPrime4
	}
	for _, x := range b {
		h += uint32(x) * xxhPrime5
		h = bits.RotateLeft32(h, 11) * xxhPrime1
	}
	h ^= h >> 15
	h *= xxhPrime2
	h ^= h >> 13
	h *= xxhPrime3
	return h ^ h>>16
}

func xxhRound(v uint32, b []byte) uint32 {
	return bits.RotateLeft32(v+binary.LittleEndian.Uint32(b)*xxhPrime2, 13) * xxhPrime1
}
