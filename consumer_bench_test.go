package riffle

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// BenchmarkPoll reads records of 100 bytes that are in memory, with one consumer, beside a loop
// over Records.
func BenchmarkPoll(b *testing.B) {
	l, err := Open(b.TempDir(), &Options{Defaults: TopicConfig{Flush: FlushAsync}})
	require.NoError(b, err)
	defer func() { require.NoError(b, l.Close()) }()
	top, err := l.CreateTopic(ctx, "topic", nil)
	require.NoError(b, err)
	const many = 500_000
	batch := make([]Record, 500)
	for i := range batch {
		batch[i] = Record{Value: make([]byte, 100)}
	}
	for range many / len(batch) {
		_, err := top.all()[0].Append(ctx, batch...)
		require.NoError(b, err)
	}
	for _, group := range []string{"", "group"} {
		b.Run(fmt.Sprintf("group=%t", group != ""), func(b *testing.B) {
			c, err := l.NewConsumer(&ConsumerOptions{Topics: []string{"topic"}, Group: group})
			require.NoError(b, err)
			defer func() { require.NoError(b, c.Close()) }()
			_, err = c.Poll(ctx)
			require.NoError(b, err)
			b.ReportAllocs()
			b.ResetTimer()
			n := 0
			for b.Loop() {
				for left := many; left > 0; {
					if left == many {
						require.NoError(b, c.Seek(TopicPartition{"topic", 0}, Earliest))
					}
					recs, err := c.Poll(ctx)
					if err != nil {
						b.Fatal(err)
					}
					left -= len(recs)
					n += len(recs)
				}
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "records/s")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/record")
		})
	}
	b.Run("Records", func(b *testing.B) {
		n := 0
		for b.Loop() {
			for _, err := range top.all()[0].Records(ctx, Earliest, nil) {
				if err != nil {
					b.Fatal(err)
				}
				n++
			}
		}
		b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "records/s")
	})
}
