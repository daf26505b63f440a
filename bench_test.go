package riffle

import (
	"context"
	"hash/crc32"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/vfs"
)

// benchPart returns a partition on the real file system.
func benchPart(b *testing.B, cfg *TopicConfig) *Partition {
	l, err := Open(filepath.Join(b.TempDir(), "data"), nil)
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, l.Close()) })
	return partOf(b, l, "topic", cfg)
}

// records returns n records with values of the given size.
func benchRecs(n, size int) []Record {
	value := make([]byte, size)
	recs := make([]Record, n)
	for i := range recs {
		recs[i].Value = value
	}
	return recs
}

// rate reports records and bytes a second.
func rate(b *testing.B, recs []Record) {
	b.SetBytes(int64(len(recs) * len(recs[0].Value)))
	b.ReportMetric(float64(b.N*len(recs))/b.Elapsed().Seconds()/1000, "krec/s")
}

// BenchmarkAppendAsync appends without flushing; raw is the same bytes with a
// CRC, in one write a batch.
func BenchmarkAppendAsync(b *testing.B) {
	for _, c := range []struct {
		name    string
		n, size int
	}{{"1x100", 1, 100}, {"1000x100", 1000, 100}, {"1000x1024", 1000, 1024}} {
		recs := benchRecs(c.n, c.size)
		b.Run(c.name+"/riffle", func(b *testing.B) {
			p := benchPart(b, &TopicConfig{Flush: FlushAsync, FlushInterval: Forever, MaxMessageBytes: 4 << 20})
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.Append(ctx, recs...); err != nil {
					b.Fatal(err)
				}
			}
			rate(b, recs)
		})
		b.Run(c.name+"/raw", func(b *testing.B) {
			f := rawFile(b)
			buf := make([]byte, c.n*(c.size+9)+61)
			table := crc32.MakeTable(crc32.Castagnoli)
			pos, unflushed := int64(0), 0
			for b.Loop() {
				buf[0] = byte(crc32.Checksum(buf[21:], table))
				if _, err := f.WriteAt(buf, pos); err != nil {
					b.Fatal(err)
				}
				pos += int64(len(buf))
				if unflushed += len(buf); unflushed >= flushAt {
					unflushed = 0
					if err := f.Sync(""); err != nil {
						b.Fatal(err)
					}
				}
			}
			rate(b, recs)
		})
	}
}

func rawFile(b *testing.B) vfs.File {
	f, err := vfs.OS().Create(filepath.Join(b.TempDir(), "raw"))
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, f.Close()) })
	return f
}

// BenchmarkAppendDurable appends one record of 100 bytes a call and waits for
// the flush; raw is a write and a flush of the same bytes.
func BenchmarkAppendDurable(b *testing.B) {
	recs := benchRecs(1, 100)
	cancelable, cancel := context.WithCancel(ctx)
	defer cancel()
	for name, c := range map[string]context.Context{"background": ctx, "cancelable": cancelable} {
		b.Run("1/"+name, func(b *testing.B) {
			p := benchPart(b, nil)
			for b.Loop() {
				if _, err := p.Append(c, recs...); err != nil {
					b.Fatal(err)
				}
			}
			rate(b, recs)
		})
	}
	b.Run("1/raw", func(b *testing.B) {
		f := rawFile(b)
		buf := make([]byte, 170)
		pos := int64(0)
		for b.Loop() {
			if _, err := f.WriteAt(buf, pos); err != nil {
				b.Fatal(err)
			}
			pos += int64(len(buf))
			if err := f.Sync(""); err != nil {
				b.Fatal(err)
			}
		}
		rate(b, recs)
	})
	b.Run("64", func(b *testing.B) {
		p := benchPart(b, nil)
		for b.Loop() {
			var wg sync.WaitGroup
			for range 64 {
				wg.Go(func() {
					for range 10 {
						if _, err := p.Append(ctx, recs...); err != nil {
							b.Error(err)
						}
					}
				})
			}
			wg.Wait()
		}
		rate(b, benchRecs(640, 100))
	})
}

// BenchmarkRead reads batches of 1,000 records of 100 bytes, and single records
// at offsets all over the partition, which are flushed: so they are read from the
// file.
func BenchmarkRead(b *testing.B) {
	p := benchPart(b, &TopicConfig{Flush: FlushAsync})
	recs := benchRecs(1000, 100)
	const batches = 200
	for range batches {
		_, err := p.Append(ctx, recs...)
		require.NoError(b, err)
	}
	all := benchRecs(batches*1000, 100)
	b.Run("views", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			n := 0
			for v, err := range p.Views(ctx, Earliest, nil) {
				if err != nil {
					b.Fatal(err)
				}
				n += len(v.Value())
			}
			if n != len(all)*100 {
				b.Fatal(n)
			}
		}
		rate(b, all)
	})
	b.Run("records", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			n := 0
			for r, err := range p.Records(ctx, Earliest, nil) {
				if err != nil {
					b.Fatal(err)
				}
				n += len(r.Value)
			}
			if n != len(all)*100 {
				b.Fatal(n)
			}
		}
		rate(b, all)
	})
	single := benchPart(b, &TopicConfig{Flush: FlushAsync})
	const singles = 100_000
	for range singles {
		_, err := single.Append(ctx, recs[0])
		require.NoError(b, err)
	}
	flushAll(b, single)
	b.Run("at", func(b *testing.B) {
		b.ReportAllocs()
		at := Offset(0)
		for b.Loop() {
			at = (at*48_261 + 11) % singles // comes by all of them
			for _, err := range single.Views(ctx, at, nil) {
				if err != nil {
					b.Fatal(err)
				}
				break
			}
		}
	})
}
