package riffle

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// TestEachRecordIsToldOfItself enqueues records of which some have a done, some a time of
// their own, with hooks or without, in batches of a few: who is told hears the offset and the
// time that the log has, in order, also after a done that panics.
func TestEachRecordIsToldOfItself(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var told, hooked []RecordMetadata
		opts := &ProducerOptions{BatchBytes: 1 << 10, Linger: time.Hour, DeliveryTimeout: 2 * time.Hour}
		if rapid.Bool().Draw(rt, "hooks") {
			opts.Hooks = []ProducerHooks{{Acked: func(m RecordMetadata, err error) {
				require.NoError(rt, err)
				hooked = append(hooked, m)
			}}}
		}
		p := producerOn(t, memfs.New(), "/data", nil, opts)
		defer func() { require.NoError(rt, p.log.Close()) }()
		var heard []int
		var times []time.Time
		n := rapid.IntRange(1, 120).Draw(rt, "records")
		for i := range n {
			r := Record{Topic: "topic", Value: make([]byte, rapid.SampledFrom([]int{0, 10, 100, 700}).Draw(rt, "size"))}
			if rapid.IntRange(0, 3).Draw(rt, "timed") == 0 {
				r.Timestamp = time.UnixMilli(rapid.Int64Range(0, 1<<41).Draw(rt, "time")).UTC()
			}
			var done func(RecordMetadata, error)
			if rapid.IntRange(0, 2).Draw(rt, "heard") > 0 {
				panics := rapid.IntRange(0, 9).Draw(rt, "panics") == 0
				done = func(m RecordMetadata, err error) {
					require.NoError(rt, err)
					told = append(told, m)
					if panics {
						panic("of the test")
					}
				}
				heard = append(heard, i)
			}
			times = append(times, r.Timestamp)
			require.NoError(rt, p.Enqueue(ctx, r, done))
		}
		require.NoError(rt, p.Flush(ctx))
		top, err := p.log.Topic("topic")
		require.NoError(rt, err)
		var all []RecordMetadata
		for rec, err := range top.all()[0].Records(ctx, Earliest, nil) {
			require.NoError(rt, err)
			if own := times[len(all)]; !own.IsZero() {
				require.Equal(rt, own, rec.Timestamp)
			}
			all = append(all, RecordMetadata{Topic: "topic", Offset: rec.Offset, Timestamp: rec.Timestamp})
			if len(all) == n {
				break
			}
		}
		require.Len(rt, told, len(heard))
		for k, i := range heard {
			require.Equal(rt, all[i], told[k])
		}
		if opts.Hooks != nil {
			require.Equal(rt, all, hooked)
		}
	})
}

// TestDonesAreForgotten: memory that is used again keeps none alive, nor what it refers to.
func TestDonesAreForgotten(t *testing.T) {
	p := newProducerOn(t, nil, nil)
	top, err := p.log.Topic("topic")
	require.NoError(t, err)
	b := &sendBatch{count: 5}
	for n := range b.count {
		b.dones.set(n, func(RecordMetadata, error) {}, nil)
	}
	p.tell(top.all()[0], b, ErrClosed)
	for _, done := range b.dones[:cap(b.dones)] {
		require.Nil(t, done)
	}
}
