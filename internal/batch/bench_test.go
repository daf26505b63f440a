package batch

import (
	"fmt"
	"testing"

	"github.com/rifflelog/riffle/internal/compress"
)

const benchRecords = 1000

// BenchmarkEncode builds batches of 1,000 records of 100 bytes, CRC included.
func BenchmarkEncode(b *testing.B) {
	for _, codec := range codecs {
		b.Run(codec.String(), func(b *testing.B) {
			value := benchValue()
			var bld Builder
			var buf []byte
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				bld.Begin(buf[:0], codec, codec.DefaultLevel())
				for i := range benchRecords {
					if err := Add(&bld, int64(i), nil, value, []header(nil)); err != nil {
						b.Fatal(err)
					}
				}
				var err error
				if buf, err = bld.Finish(NoProducer); err != nil {
					b.Fatal(err)
				}
				n += benchRecords
			}
			perRecord(b, n)
		})
	}
}

// BenchmarkDecode checks and iterates over the same batches.
func BenchmarkDecode(b *testing.B) {
	for _, codec := range codecs {
		b.Run(codec.String(), func(b *testing.B) {
			var bld Builder
			bld.Begin(nil, codec, codec.DefaultLevel())
			value := benchValue()
			for i := range benchRecords {
				if err := Add(&bld, int64(i), nil, value, []header(nil)); err != nil {
					b.Fatal(err)
				}
			}
			buf, err := bld.Finish(NoProducer)
			if err != nil {
				b.Fatal(err)
			}
			var r Reader
			b.ReportAllocs()
			n, bytes := 0, 0
			for b.Loop() {
				if err := Batch(buf).Check(); err != nil {
					b.Fatal(err)
				}
				if err := r.Reset(buf, MaxInflated); err != nil {
					b.Fatal(err)
				}
				for r.Next() {
					bytes += len(r.Record.Value)
					n++
				}
			}
			if bytes != n*len(value) || r.Err() != nil {
				b.Fatal(fmt.Errorf("%d bytes in %d records: %w", bytes, n, r.Err()))
			}
			perRecord(b, n)
		})
	}
}

// BenchmarkKeys checks batches of 1,000 records of 100 bytes, and iterates over
// their keys.
func BenchmarkKeys(b *testing.B) {
	var bld Builder
	bld.Begin(nil, compress.None, 0)
	value := benchValue()
	for i := range benchRecords {
		if err := Add(&bld, int64(i), value[:10], value[10:], []header(nil)); err != nil {
			b.Fatal(err)
		}
	}
	buf, err := bld.Finish(NoProducer)
	if err != nil {
		b.Fatal(err)
	}
	var r Reader
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		if err := Batch(buf).Check(); err != nil {
			b.Fatal(err)
		}
		if err := r.Reset(buf, MaxInflated); err != nil {
			b.Fatal(err)
		}
		for r.NextKey() {
			n++
		}
	}
	perRecord(b, n)
}

func benchValue() []byte {
	value := make([]byte, 100)
	for i := range value {
		value[i] = "0123456789abcdef"[i*7%16]
	}
	return value
}

// perRecord reports time per record beside the time per batch.
func perRecord(b *testing.B, records int) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(records), "ns/record")
}
