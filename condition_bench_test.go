package riffle

import (
	"fmt"
	"hash/crc32"
	"testing"

	"github.com/stretchr/testify/require"
)

// BenchmarkAppendIf appends a record of 100 bytes if none of the last thousand has
// its key; append is the same without a condition, copy a copy of the bytes that
// are looked at with their CRC.
func BenchmarkAppendIf(b *testing.B) {
	one := keyed(0, 1, 100)[0]
	const back = 1000
	for _, n := range []int{1, 100} {
		fill := func(b *testing.B) (*Partition, int64) {
			p := benchPart(b, &TopicConfig{Flush: FlushAsync})
			for i := 0; i < 4*back; i += n {
				_, err := p.Append(ctx, keyed(i, n, 100)...)
				require.NoError(b, err)
			}
			return p, p.activeSize() / 4
		}
		b.Run(fmt.Sprintf("batches of %d/key", n), func(b *testing.B) {
			p, bytes := fill(b)
			next := p.Bounds().End
			b.ReportAllocs()
			b.SetBytes(bytes)
			for b.Loop() {
				at, err := p.AppendIf(ctx, KeyUnchanged([]byte("another"), next-back), one)
				if err != nil {
					b.Fatal(err)
				}
				if n > 1 {
					b.StopTimer() // what is looked at stays in batches of n
					_, err := p.Append(ctx, keyed(0, n-1, 100)...)
					require.NoError(b, err)
					at += Offset(n - 1)
					b.StartTimer()
				}
				next = at + 1
			}
		})
		b.Run(fmt.Sprintf("batches of %d/copy", n), func(b *testing.B) {
			p, bytes := fill(b)
			from, to := make([]byte, bytes), make([]byte, bytes)
			_, err := p.active().ReadAt(from, 0)
			require.NoError(b, err)
			b.SetBytes(bytes)
			for b.Loop() {
				crc32.Checksum(to[:copy(to, from)], crc32.MakeTable(crc32.Castagnoli))
			}
		})
	}
	b.Run("end", func(b *testing.B) {
		p := benchPart(b, &TopicConfig{Flush: FlushAsync})
		next := Offset(0)
		b.ReportAllocs()
		for b.Loop() {
			at, err := p.AppendIf(ctx, NextOffset(next), one)
			if err != nil {
				b.Fatal(err)
			}
			next = at + 1
		}
	})
	b.Run("append", func(b *testing.B) {
		p := benchPart(b, &TopicConfig{Flush: FlushAsync})
		b.ReportAllocs()
		for b.Loop() {
			if _, err := p.Append(ctx, one); err != nil {
				b.Fatal(err)
			}
		}
	})
}
