package batch

import (
	"encoding/binary"
	"hash/crc32"
)

// The CRC-32C of a batch covers a header that changes after the records have been
// encoded, and the records, which do not. A CRC is linear: that of two pieces one after
// the other is that of the first, moved by the length of the second, XOR that of the
// second. So the records are summed once, while they are in the processor's cache, and
// a header that changes costs no second pass over them.
//
// To move a CRC by n bytes is to multiply it by x^(8n) modulo the polynomial. Here, as in
// the CRC itself, the highest bit is the coefficient of x^0.

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// powers has x^(2^k) modulo the polynomial at k.
var powers = func() (p [32]uint32) {
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

// moved returns what crc is, of bytes that n others follow, in the CRC of all.
func moved(crc uint32, n int) uint32 {
	for k := 3; n > 0; k, n = k+1, n>>1 { // 2^3 bits a byte
		if n&1 != 0 {
			crc = multiply(powers[k], crc)
		}
	}
	return crc
}

// joined is the CRC of two pieces: the first one, and n bytes behind it.
func joined(first, second uint32, n int) uint32 { return moved(first, n) ^ second }

// sumStep is how many bytes a Builder sums at a time: they are in the processor's first
// cache still, and to join what is summed costs less than to sum as many again.
const sumStep = 8 << 10

func (b Batch) setCRC(crc uint32) { binary.BigEndian.PutUint32(b[posCRC:], crc) }

// putCRC sums all.
func (b Batch) putCRC() { b.setCRC(crc32.Checksum(b[posAttributes:], castagnoli)) }

// putCRCOf is putCRC of a batch whose records have been summed.
func (b Batch) putCRCOf(records uint32) { b.setCRC(joined(b.headSum(), records, len(b)-HeaderSize)) }

// headSum is the CRC of what it covers of the header.
func (b Batch) headSum() uint32 { return crc32.Checksum(b[posAttributes:HeaderSize], castagnoli) }

// changeHead has change change what the CRC covers of the header, and renews the CRC, which
// must be right.
func (b Batch) changeHead(change func()) {
	if len(b) < sumStep {
		change()
		b.putCRC()
		return
	}
	before := b.headSum()
	change()
	b.setCRC(b.CRC() ^ moved(before^b.headSum(), len(b)-HeaderSize))
}
