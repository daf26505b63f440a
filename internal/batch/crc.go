package batch

import (
	"encoding/binary"

	"github.com/rifflelog/riffle/internal/crc32c"
)

// The CRC-32C of a batch covers a header that changes after the records have been
// encoded, and the records, which do not. So the records are summed once, while they are in
// the processor's cache, and a header that changes costs no second pass over them.

// sumStep is how many bytes a Builder sums at a time: they are in the processor's first
// cache still, and to join what is summed costs less than to sum as many again.
const sumStep = 8 << 10

func (b Batch) setCRC(crc uint32) { binary.BigEndian.PutUint32(b[posCRC:], crc) }

// putCRC sums all.
func (b Batch) putCRC() { b.setCRC(crc32c.Checksum(b[posAttributes:])) }

// putCRCOf is putCRC of a batch whose records have been summed.
func (b Batch) putCRCOf(records uint32) {
	b.setCRC(crc32c.Join(b.headSum(), records, len(b)-HeaderSize))
}

// headSum is the CRC of what it covers of the header.
func (b Batch) headSum() uint32 { return crc32c.Checksum(b[posAttributes:HeaderSize]) }

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
	b.setCRC(b.CRC() ^ crc32c.Move(before^b.headSum(), len(b)-HeaderSize))
}
