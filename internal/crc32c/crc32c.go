// Package crc32c computes CRC-32C, the checksum of record batches (Castagnoli's
// polynomial, as hash/crc32 has it), faster than hash/crc32 where the processor can.
package crc32c

import "hash/crc32"

// A CRC without its inversions is linear: that of two pieces one after the other is that
// of the first, moved by the length of the second, XOR that of the second. To move one by
// n bytes is to multiply it by x^(8n) modulo the polynomial. Here, as in the CRC itself,
// the highest bit is the coefficient of x^0.

var table = crc32.MakeTable(crc32.Castagnoli)

// Checksum returns the CRC of p.
func Checksum(p []byte) uint32 { return Update(0, p) }

// Update returns the CRC of what crc is of, with p behind it.
func Update(crc uint32, p []byte) uint32 { return update(crc, p) }

// Join returns the CRC of two pieces: the first one's, and that of n bytes behind it.
func Join(first, second uint32, n int) uint32 { return Move(first, n) ^ second }

// Move returns what crc adds to the CRC of a piece that n bytes follow. It is linear:
// the Move of two CRCs' XOR is the XOR of their Moves.
func Move(crc uint32, n int) uint32 {
	for k := 3; n > 0; k, n = k+1, n>>1 { // 2^3 bits a byte
		if n&1 != 0 {
			crc = timesPower(crc, k)
		}
	}
	return crc
}

// powers has x^(2^k) modulo the polynomial at k: as many as a length in bits may need.
var powers = func() (p [66]uint32) {
	p[0] = 1 << 30 // x^1
	for k := 1; k < len(p); k++ {
		p[k] = multiply(p[k-1], p[k-1])
	}
	return p
}()

// multiply returns a times b modulo the polynomial.
func multiply(a, b uint32) (product uint32) {
	for bit := uint32(1) << 31; bit != 0; bit >>= 1 {
		if a&bit != 0 {
			product ^= b
		}
		b = b>>1 ^ crc32.Castagnoli&-(b&1)
	}
	return product
}
