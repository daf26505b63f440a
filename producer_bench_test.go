package riffle

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// producerAt returns a producer, and a topic to send to.
func producerAt(b testing.TB, cfg *TopicConfig, opts *ProducerOptions) *Producer {
	l, err := Open(b.TempDir(), nil)
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, l.Close()) })
	_, err = l.CreateTopic(ctx, "topic", cfg)
	require.NoError(b, err)
	p, err := l.NewProducer(opts)
	require.NoError(b, err)
	return p
}

// BenchmarkEnqueue enqueues records of 100 bytes without a pause, and waits for the last
// one. Target: 4.5 million a second under FlushAsync.
func BenchmarkEnqueue(b *testing.B) {
	var failed atomic.Int64
	done := func(_ RecordMetadata, err error) {
		if err != nil {
			failed.Add(1)
		}
	}
	for _, c := range []struct {
		name string
		cfg  *TopicConfig
		size int
		done func(RecordMetadata, error)
	}{
		{"async", &TopicConfig{Flush: FlushAsync}, 100, done},
		{"asyncnil", &TopicConfig{Flush: FlushAsync}, 100, nil},
		{"async4", &TopicConfig{Flush: FlushAsync, Partitions: 4}, 100, done},
		{"durable", &TopicConfig{}, 100, done},
		{"async1k", &TopicConfig{Flush: FlushAsync}, 1024, done},
		{"durable1k", &TopicConfig{}, 1024, done},
	} {
		b.Run(c.name, func(b *testing.B) {
			p := producerAt(b, c.cfg, nil)
			r := Record{Topic: "topic", Value: make([]byte, c.size)}
			b.ReportAllocs()
			for b.Loop() {
				if err := p.Enqueue(ctx, r, c.done); err != nil {
					b.Fatal(err)
				}
			}
			require.NoError(b, p.Flush(ctx))
			require.Zero(b, failed.Load())
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1e6, "Mrec/s")
		})
	}
}

// BenchmarkSend sends one record at a time, beside Append of the same.
func BenchmarkSend(b *testing.B) {
	for _, c := range []struct {
		name string
		cfg  *TopicConfig
	}{{"async", &TopicConfig{Flush: FlushAsync}}, {"durable", nil}} {
		value := make([]byte, 100)
		b.Run(c.name+"/append", func(b *testing.B) {
			p := producerAt(b, c.cfg, nil)
			top, err := p.log.Topic("topic")
			require.NoError(b, err)
			part := top.all()[0]
			b.ReportAllocs()
			for b.Loop() {
				if _, err := part.Append(ctx, Record{Value: value}); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(c.name+"/send", func(b *testing.B) {
			p := producerAt(b, c.cfg, nil)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.Send(ctx, Record{Topic: "topic", Value: value}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("durable64", func(b *testing.B) {
		p := producerAt(b, nil, nil)
		var n atomic.Int64
		var wg sync.WaitGroup
		b.ResetTimer()
		for range 64 {
			wg.Go(func() {
				for n.Add(1) <= int64(b.N) {
					if _, err := p.Send(ctx, Record{Topic: "topic", Value: make([]byte, 100)}); err != nil {
						b.Error(err)
					}
				}
			})
		}
		wg.Wait()
	})
}
