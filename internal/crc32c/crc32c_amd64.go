//go:build !portable

package crc32c

import (
	"hash/crc32"

	"golang.org/x/sys/cpu"
)

// The processor's CRC32 instruction takes 8 bytes, and as long as three of them that do not
// wait for each other. So a few bytes are summed in three streams, which one carry-less
// multiplication each joins. More go through registers of 64 bytes: what is in one is
// congruent to what was, moved by a distance, so that a register is folded onto the bytes
// that far behind it by two multiplications, and only the last 16 bytes meet the CRC32
// instruction. (Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ
// Instruction", Intel, 2009.) What hash/crc32 does, streams from 504 bytes on, is the oracle
// of the tests.
const (
	wideFrom = 256 // the least that the wide way takes
	wideStep = 64  // what that takes a multiple of
	step     = 3 * 8
	maxWords = (wideFrom - 1) / step // that a stream has at most
)

// What the processor has. Tests change them.
var (
	hasStreams = cpu.X86.HasSSE42 && cpu.X86.HasPCLMULQDQ
	// Processors with BF16 do not lower their clock for registers of 64 bytes, as the first
	// ones did that have them: a checksum shall not slow the program down that it is in.
	hasWide = hasStreams && cpu.X86.HasAVX512F && cpu.X86.HasAVX512VL && cpu.X86.HasAVX512DQ &&
		cpu.X86.HasAVX512VPCLMULQDQ && cpu.X86.HasAVX512BF16
)

// A carry-less product that the CRC32 instruction reduces, or that is one half of 128 bits,
// is x^33 times as much as it should be. The numbers that are multiplied by make that good.
const excess = 33

// period is a power of x that is 1 modulo the polynomial.
const period = 1<<31 - 1

// joins has what the first and the second of three streams are multiplied by, by the number
// of words that each has.
var joins = func() (j [maxWords + 1][2]uint64) {
	for words := 1; words < len(j); words++ {
		j[words] = [2]uint64{power(2*64*words - excess), power(64*words - excess)}
	}
	return j
}()

// folding has what both halves of each 16 bytes are multiplied by, to move them.
type folding [8]uint64

// foldings are, in the order in which they are used, by 256 bytes, by 64, and of each 16
// bytes of a register onto its last.
var foldings = [3]folding{
	foldBy(256, 256, 256, 256),
	foldBy(64, 64, 64, 64),
	foldBy(48, 32, 16, 0),
}

func foldBy(bytes ...int) (f folding) {
	for i, n := range bytes {
		if n > 0 { // else it stays
			f[2*i], f[2*i+1] = power(8*n+64-excess), power(8*n-excess)
		}
	}
	return f
}

// exact has powers, without the excess of a product.
var exact = func() (e [len(powers)]uint32) {
	less := uint32(power(period - excess))
	for k := range e {
		e[k] = multiply(powers[k], less)
	}
	return e
}()

// power returns x^n modulo the polynomial.
func power(n int) uint64 {
	p := uint32(1) << 31
	for k := 0; n > 0; k, n = k+1, n>>1 {
		if n&1 != 0 {
			p = multiply(p, powers[k])
		}
	}
	return uint64(p)
}

func timesPower(crc uint32, k int) uint32 {
	if !hasStreams {
		return multiply(crc, powers[k])
	}
	return product(crc, exact[k])
}

func update(crc uint32, p []byte) uint32 {
	if !hasStreams || !hasWide && len(p) >= wideFrom {
		return crc32.Update(crc, table, p)
	}
	crc = ^crc
	if len(p) >= wideFrom {
		n := len(p) / wideStep * wideStep
		crc = wide(crc, &p[0], n, &foldings)
		p = p[n:]
	}
	if words := len(p) / step; words > 0 {
		crc = streams(crc, &p[0], words, &joins[words])
		p = p[words*step:]
	}
	if len(p) > 0 {
		crc = rest(crc, &p[0], len(p))
	}
	return ^crc
}

// streams sums three times words 8 bytes. Crc is without inversion, as in all of these.
//
//go:noescape
func streams(crc uint32, p *byte, words int, join *[2]uint64) uint32

// wide sums n bytes, a multiple of wideStep, of which there are at least wideFrom.
//
//go:noescape
func wide(crc uint32, p *byte, n int, by *[3]folding) uint32

// rest sums n bytes, one after the other.
//
//go:noescape
func rest(crc uint32, p *byte, n int) uint32

// product returns x^excess times a times b.
func product(a, b uint32) uint32
