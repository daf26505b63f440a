package compress

import (
	"fmt"
	"testing"
)

var benchSizes = []int{1 << 10, 16 << 10, 1 << 20} // a few records, Kafka's default batch, the largest

// BenchmarkAppend compresses batches of JSON records at the default level.
func BenchmarkAppend(b *testing.B) {
	for _, c := range coders {
		for _, n := range benchSizes {
			src := records(n)
			b.Run(fmt.Sprintf("%v/%d", c, n), func(b *testing.B) {
				b.SetBytes(int64(n))
				b.ReportAllocs()
				var packed []byte
				for b.Loop() {
					packed = mustAppend(b, packed[:0], c, src)
				}
				b.ReportMetric(float64(n)/float64(len(packed)), "ratio")
			})
		}
	}
}

// BenchmarkAppendDecoded inflates them, into a buffer that is used again; snappy also as one raw
// block, and zstd also as a stream that does not declare its size.
func BenchmarkAppendDecoded(b *testing.B) {
	for _, c := range coders {
		for _, n := range benchSizes {
			src := records(n)
			for _, name := range []string{c.String(), "snappy, raw block", "zstd, stream"} {
				packed, ok := variants(b, c, src)[name]
				if !ok {
					continue
				}
				b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
					b.SetBytes(int64(n))
					b.ReportAllocs()
					var out []byte
					for b.Loop() {
						var err error
						if out, err = AppendDecoded(out[:0], c, packed, n); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}
