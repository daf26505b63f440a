package riffle

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/invariants"
	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// producerOn returns a producer of a log with one topic.
func producerOn(t testing.TB, fsys vfs.FS, dir string, cfg *TopicConfig, opts *ProducerOptions) *Producer {
	t.Helper()
	l := openAt(t, fsys, dir, nil)
	_, err := l.EnsureTopic(ctx, "topic", cfg)
	require.NoError(t, err)
	p, err := l.NewProducer(opts)
	require.NoError(t, err)
	return p
}

// newProducerOn is producerOn in a directory of its own.
func newProducerOn(t testing.TB, cfg *TopicConfig, opts *ProducerOptions) *Producer {
	t.Helper()
	fsys, dir := testDir(t)
	return producerOn(t, fsys, dir, cfg, opts)
}

// values returns what is in partition i of the topic.
func (p *Producer) values(t testing.TB, i int) []string {
	top, err := p.log.Topic("topic")
	require.NoError(t, err)
	return readValues(t, top.all()[i], Earliest)
}

// to is a record of the topic with a value.
func to(value string) Record { return Record{Topic: "topic", Value: []byte(value)} }

// TestSend sends records of all kinds: where each went is what is said, and it is there.
func TestSend(t *testing.T) {
	p := newProducerOn(t, &TopicConfig{Partitions: 3}, nil)
	top, err := p.log.Topic("topic")
	require.NoError(t, err)
	for i := range 50 {
		r := to(fmt.Sprintf("v%d", i))
		r.Timestamp = time.UnixMilli(int64(1000 + i)).UTC()
		r.Headers = []Header{{Key: "h", Value: []byte{byte(i)}}}
		if i%2 == 0 {
			r.Key = fmt.Appendf(nil, "key-%d", i%7)
		}
		m, err := p.Send(ctx, r)
		require.NoError(t, err)
		require.Equal(t, "topic", m.Topic)
		require.Equal(t, r.Timestamp, m.Timestamp)
		if r.Key != nil {
			require.Equal(t, top.PartitionFor(r.Key).Index(), m.Partition)
		}
		found := false
		for got, err := range top.all()[m.Partition].Records(ctx, m.Offset, nil) {
			require.NoError(t, err)
			require.Equal(t, r.Value, got.Value)
			require.Equal(t, r.Key, got.Key)
			require.Equal(t, r.Headers, got.Headers)
			require.Equal(t, r.Timestamp, got.Timestamp)
			found = true
			break
		}
		require.True(t, found)
	}
	require.False(t, p.running, "no goroutine while nothing is held")
}

// TestEnqueueKeepsOrder enqueues from several goroutines, to several partitions, in small
// batches and under both policies: each record's done is called once, in order, with the
// offset at which it is.
func TestEnqueueKeepsOrder(t *testing.T) {
	for _, cfg := range []TopicConfig{{Partitions: 3}, {Partitions: 3, Flush: FlushAsync}} {
		p := newProducerOn(t, &cfg, &ProducerOptions{BatchBytes: 1 << 10, BufferBytes: 8 << 10})
		const senders, each = 4, 300
		type ack struct {
			m     RecordMetadata
			order int
		}
		var mu sync.Mutex
		acks := map[string]ack{}
		var wg sync.WaitGroup
		for s := range senders {
			wg.Go(func() {
				for i := range each {
					name := fmt.Sprintf("%d/%d", s, i)
					err := p.Enqueue(ctx, Record{Topic: "topic", Key: []byte{byte(s)}, Value: []byte(name)}, func(m RecordMetadata, err error) {
						mu.Lock()
						defer mu.Unlock()
						if _, twice := acks[name]; twice || err != nil {
							t.Errorf("%s: twice %v, %v", name, twice, err)
						}
						acks[name] = ack{m, len(acks)}
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		require.NoError(t, p.Flush(ctx))
		require.Len(t, acks, senders*each)
		for s := range senders {
			for i := range each {
				a := acks[fmt.Sprintf("%d/%d", s, i)]
				require.Equal(t, fmt.Sprintf("%d/%d", s, i), p.values(t, a.m.Partition)[a.m.Offset])
				if i > 0 {
					before := acks[fmt.Sprintf("%d/%d", s, i-1)]
					require.Less(t, before.m.Offset, a.m.Offset)
					require.Less(t, before.order, a.order)
				}
			}
		}
		require.NoError(t, p.Close())
		require.Zero(t, p.used, "all memory is back")
	}
}

// TestBatchesGrowWhileOneIsFlushed: at linger 0 the first record leaves at once, and what
// comes while it is flushed leaves as one batch.
func TestBatchesGrowWhileOneIsFlushed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := errfs.New(memfs.New())
		p := producerOn(t, fsys, "/data", nil, nil)
		_, err := p.Send(ctx, to("first")) // makes the directory
		require.NoError(t, err)
		slowFlushes(fsys, time.Second)
		for i := range 100 {
			require.NoError(t, p.Enqueue(ctx, to(fmt.Sprintf("v%d", i)), nil))
			synctest.Wait()
		}
		before := p.log.Metrics().Total.Appends
		require.EqualValues(t, 2, before, "the first record alone, and the one that was alone then")
		require.NoError(t, p.Flush(ctx))
		require.EqualValues(t, 3, p.log.Metrics().Total.Appends)
		require.Len(t, p.values(t, 0), 101)
	})
}

// TestLinger: a batch waits for more records as long as it may, and no longer; when it is
// full, flushed, or the producer is closed, it does not wait.
func TestLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := producerOn(t, memfs.New(), "/data", async, &ProducerOptions{Linger: time.Second, BatchBytes: 1 << 10})
		appends := func() int64 {
			synctest.Wait()
			return p.log.Metrics().Total.Appends
		}
		began := time.Now()
		require.NoError(t, p.Enqueue(ctx, to("a"), nil))
		time.Sleep(999 * time.Millisecond)
		require.NoError(t, p.Enqueue(ctx, to("b"), nil))
		require.Zero(t, appends())
		time.Sleep(time.Millisecond)
		require.EqualValues(t, 1, appends())
		require.Equal(t, []string{"a", "b"}, p.values(t, 0))

		for range 20 {
			require.NoError(t, p.Enqueue(ctx, to(strings.Repeat("x", 100)), nil))
		}
		require.EqualValues(t, 3, appends(), "two are full")
		require.NoError(t, p.Flush(ctx))
		require.EqualValues(t, 4, appends())
		m, err := p.Send(ctx, to("c"))
		require.NoError(t, err)
		require.EqualValues(t, 22, m.Offset)
		require.Equal(t, began.Add(2*time.Second), time.Now(), "Send lingers, Flush does not")
		_, err = p.SendAll(ctx, to("d"), to("e"))
		require.NoError(t, err)
		require.NoError(t, p.Enqueue(ctx, to("f"), nil))
		require.NoError(t, p.Close())
		require.Equal(t, began.Add(2*time.Second), time.Now())
		require.Equal(t, []string{"c", "d", "e", "f"}, p.values(t, 0)[22:])
	})
}

// TestProducerHasOneGoroutine while it holds records, for all partitions, and none otherwise.
func TestProducerHasOneGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := &TopicConfig{Partitions: 3, Flush: FlushAsync}
		p := producerOn(t, memfs.New(), "/data", cfg, &ProducerOptions{Linger: time.Minute, Partitioner: Manual})
		goroutines := func() int {
			synctest.Wait()
			p.log.tasks.mu.Lock()
			defer p.log.tasks.mu.Unlock()
			return p.log.tasks.running
		}
		for range 2 {
			require.Zero(t, goroutines())
			for i := range 3 {
				require.NoError(t, p.Enqueue(ctx, Record{Topic: "topic", Partition: i}, nil))
			}
			require.Equal(t, 1, goroutines())
			require.NoError(t, p.Flush(ctx))
		}
		require.Zero(t, goroutines())
	})
}

// TestBackPressure: who finds the buffer full waits, first come, first served, and goes on
// when there is room; or leaves with his context, and nothing of his is sent.
func TestBackPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := errfs.New(memfs.New())
		// Two batches, with up to half as much for who waits for their records, and no third.
		p := producerOn(t, fsys, "/data", nil, &ProducerOptions{BatchBytes: 1 << 10, BufferBytes: 3<<10 - 1})
		_, err := p.Send(ctx, to("first"))
		require.NoError(t, err)
		heal := slowFlushes(fsys, 10*time.Second)
		defer heal()
		big := strings.Repeat("x", 900)
		for i := range 2 {
			require.NoError(t, p.Enqueue(ctx, to(fmt.Sprint(i, big)), nil))
		}
		var order []int
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i := range 3 {
			wg.Go(func() {
				if err := p.Enqueue(ctx, to(fmt.Sprint(i+2, big)), nil); err != nil {
					t.Error(err)
				}
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
			})
			synctest.Wait()
		}
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		err = p.Enqueue(short, to("never"), nil)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NotErrorIs(t, err, ErrInDoubt)
		mu.Lock()
		early := len(order)
		mu.Unlock()
		require.Zero(t, early)
		wg.Wait()
		require.NoError(t, p.Close())
		require.ElementsMatch(t, []int{0, 1, 2}, order)
		got := p.values(t, 0)
		require.Len(t, got, 6)
		for i, v := range got[1:] {
			require.Equal(t, fmt.Sprint(i, big), v)
		}
		require.Zero(t, p.used)
	})
}

// TestDeliveryTimeout: what cannot be appended in time fails with ErrTimeout, and is not
// there; what is appended and not flushed is in doubt. A disk that has room again takes
// what is still waiting.
func TestDeliveryTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := errfs.New(memfs.New())
		p := producerOn(t, fsys, "/data", nil, &ProducerOptions{DeliveryTimeout: 10 * time.Second})
		_, err := p.Send(ctx, to("first"))
		require.NoError(t, err)
		heal := fsys.Add(errfs.Rule{Kind: errfs.Write, Err: vfs.ErrNoSpace})
		began := time.Now()
		_, err = p.Send(ctx, to("too late"))
		requireAll(t, err, ErrTimeout)
		require.NotErrorIs(t, err, ErrInDoubt)
		require.Equal(t, 10*time.Second, time.Since(began))
		result := make(chan error, 1)
		require.NoError(t, p.Enqueue(ctx, to("healed"), func(_ RecordMetadata, err error) { result <- err }))
		time.Sleep(5 * time.Second)
		heal()
		require.NoError(t, <-result)
		require.Less(t, time.Since(began), 17*time.Second)
		require.Equal(t, []string{"first", "healed"}, p.values(t, 0))

		heal = slowFlushes(fsys, time.Minute)
		defer heal()
		began = time.Now()
		require.NoError(t, p.Enqueue(ctx, to("in doubt"), func(_ RecordMetadata, err error) { result <- err }))
		requireAll(t, <-result, ErrTimeout, ErrInDoubt)
		require.Equal(t, 10*time.Second, time.Since(began))
		time.Sleep(2 * time.Minute)
		require.Equal(t, []string{"first", "healed", "in doubt"}, p.values(t, 0))
	})
}

// TestTopicsComeGrowAndGo: a producer sends to topics that appear, finds partitions that
// are added, and says what was sent to a topic that is deleted.
func TestTopicsComeGrowAndGo(t *testing.T) {
	fsys, dir := testDir(t)
	l := openAt(t, fsys, dir, nil)
	p, err := l.NewProducer(&ProducerOptions{Partitioner: Manual})
	require.NoError(t, err)
	_, err = p.Send(ctx, to("a"))
	require.ErrorIs(t, err, ErrTopicNotFound)
	top, err := l.CreateTopic(ctx, "topic", nil)
	require.NoError(t, err)
	_, err = p.Send(ctx, to("a"))
	require.NoError(t, err)
	second := to("b")
	second.Partition = 1
	_, err = p.Send(ctx, second)
	require.ErrorIs(t, err, ErrPartitionNotFound)
	require.NoError(t, top.SetPartitions(ctx, 2))
	m, err := p.Send(ctx, second)
	require.NoError(t, err)
	require.Equal(t, 1, m.Partition)
	require.NoError(t, l.DeleteTopic(ctx, "topic"))
	require.ErrorIs(t, p.Enqueue(ctx, to("c"), nil), ErrTopicNotFound)
	_, err = l.CreateTopic(ctx, "topic", nil)
	require.NoError(t, err)
	_, err = p.Send(ctx, to("d"))
	require.NoError(t, err)
	require.Equal(t, []string{"d"}, p.values(t, 0))
	require.NoError(t, l.Close())

	l = openAt(t, fsys, dir, &Options{AutoCreateTopics: true})
	p, err = l.NewProducer(nil)
	require.NoError(t, err)
	_, err = p.Send(ctx, Record{Topic: "made for it"})
	require.ErrorIs(t, err, ErrInvalidTopic)
	_, err = p.Send(ctx, Record{Topic: "made"})
	require.NoError(t, err)
	_, err = l.Topic("made")
	require.NoError(t, err)
}

// TestDeletedWhileBuffered: what is buffered for a topic that is deleted fails, also
// without a done.
func TestDeletedWhileBuffered(t *testing.T) {
	p := newProducerOn(t, nil, &ProducerOptions{Linger: time.Hour, DeliveryTimeout: 2 * time.Hour})
	result := make(chan error, 1)
	require.NoError(t, p.Enqueue(ctx, to("a"), func(_ RecordMetadata, err error) { result <- err }))
	require.NoError(t, p.Enqueue(ctx, to("b"), nil))
	require.NoError(t, p.log.DeleteTopic(ctx, "topic"))
	require.ErrorIs(t, p.Flush(ctx), ErrTopicNotFound)
	require.ErrorIs(t, <-result, ErrTopicNotFound)
	require.NoError(t, p.Flush(ctx), "told once")
}

// TestProducerRefuses what no topic takes, at once, and what comes behind it is sent.
func TestProducerRefuses(t *testing.T) {
	p := newProducerOn(t, &TopicConfig{MaxMessageBytes: 5000}, &ProducerOptions{BatchBytes: 1 << 10, BufferBytes: 8 << 10})
	large := to(strings.Repeat("x", 6000))
	_, err := p.Send(ctx, large)
	require.ErrorIs(t, err, ErrRecordTooLarge)
	require.ErrorIs(t, p.Enqueue(ctx, large, nil), ErrRecordTooLarge)
	require.ErrorIs(t, p.Enqueue(ctx, to(strings.Repeat("x", 10000)), nil), ErrRecordTooLarge)
	early := to("early")
	early.Timestamp = time.Unix(-5, 0)
	require.ErrorIs(t, p.Enqueue(ctx, early, nil), ErrInvalidRecord)
	require.ErrorIs(t, p.Enqueue(ctx, Record{Topic: "a/b"}, nil), ErrTopicNotFound)
	gone, cancel := context.WithCancel(ctx)
	cancel()
	require.ErrorIs(t, p.Enqueue(gone, to("x"), nil), context.Canceled)
	for i := range 10 { // each larger than BatchBytes, and all larger than the topic's limit
		require.NoError(t, p.Enqueue(ctx, to(fmt.Sprint(i, strings.Repeat("y", 2000))), nil))
	}
	require.NoError(t, p.Flush(ctx))
	require.Len(t, p.values(t, 0), 10)
	require.Zero(t, p.used)
	require.NoError(t, p.Close())
	require.ErrorIs(t, p.Enqueue(ctx, to("late"), nil), ErrClosed)
	_, err = p.Send(ctx, to("late"))
	require.ErrorIs(t, err, ErrClosed)
	require.NoError(t, p.Close())

	compacted := newProducerOn(t, &TopicConfig{Cleanup: CleanupCompact}, nil)
	require.ErrorIs(t, compacted.Enqueue(ctx, to("no key"), nil), ErrInvalidRecord)
}

// TestProducerLeavesTheLogsTopicsAlone: who wrote to them could make up what groups have committed.
func TestProducerLeavesTheLogsTopicsAlone(t *testing.T) {
	p := newProducerOn(t, nil, nil)
	_, err := p.Send(ctx, to("a"))
	require.NoError(t, err)
	require.NoError(t, p.log.Group("group").Reset(ctx, map[TopicPartition]Offset{{"topic", 0}: 1}))
	_, err = p.log.Topic(offsetsTopic)
	require.NoError(t, err)
	r := Record{Topic: offsetsTopic, Key: []byte("k")}
	_, err = p.Send(ctx, r)
	require.ErrorIs(t, err, ErrInvalidTopic)
	require.ErrorIs(t, p.Enqueue(ctx, r, nil), ErrInvalidTopic)
}

// TestSendAll waits once, and says of each record how it went.
func TestSendAll(t *testing.T) {
	p := newProducerOn(t, nil, &ProducerOptions{Linger: time.Hour, DeliveryTimeout: 2 * time.Hour})
	metas, err := p.SendAll(ctx, to("a"), Record{Topic: "none"}, to("b"))
	var failed *SendError
	require.ErrorAs(t, err, &failed)
	require.ErrorIs(t, err, ErrTopicNotFound)
	require.NoError(t, failed.Errs[0])
	require.ErrorIs(t, failed.Errs[1], ErrTopicNotFound)
	require.NoError(t, failed.Errs[2])
	require.Equal(t, []Offset{0, NoOffset, 1}, []Offset{metas[0].Offset, metas[1].Offset, metas[2].Offset})
	metas, err = p.SendAll(ctx)
	require.NoError(t, err)
	require.Empty(t, metas)
	require.Equal(t, []string{"a", "b"}, p.values(t, 0))
}

// TestSendAllWhoseContextEnds while the flush takes its time: what may be found later is in
// doubt, what was refused is not.
func TestSendAllWhoseContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := errfs.New(memfs.New())
		p := producerOn(t, fsys, "/data", nil, nil)
		_, err := p.Send(ctx, to("first"))
		require.NoError(t, err)
		heal := slowFlushes(fsys, 10*time.Second)
		defer heal()
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		began := time.Now()
		metas, err := p.SendAll(short, to("a"), Record{Topic: "none"}, to("b"))
		require.Equal(t, time.Second, time.Since(began))
		var failed *SendError
		require.ErrorAs(t, err, &failed)
		told := func() {
			for _, i := range []int{0, 2} {
				requireAll(t, failed.Errs[i], ErrInDoubt, context.DeadlineExceeded)
				require.Equal(t, NoOffset, metas[i].Offset)
			}
			require.ErrorIs(t, failed.Errs[1], ErrTopicNotFound)
			require.NotErrorIs(t, failed.Errs[1], ErrInDoubt)
		}
		told()
		require.NoError(t, p.Flush(ctx))
		told() // it is the caller's
		require.Equal(t, []string{"first", "a", "b"}, p.values(t, 0))
	})
}

// TestTooLargeBatchIsSplit: a topic takes less than it did when records were buffered, or
// compressing them saves less than the producer hoped. They are sent in order, in more
// batches, with their headers and times; a record that is too large alone fails.
func TestTooLargeBatchIsSplit(t *testing.T) {
	for _, codec := range []Compression{CompressionNone, CompressionLZ4} {
		p := newProducerOn(t, nil, &ProducerOptions{Linger: time.Hour, DeliveryTimeout: 2 * time.Hour, Compression: codec})
		noise := make([]byte, 200)
		source := rand.New(rand.NewPCG(1, 2))
		var want []string
		var at []Offset
		var errs []error
		for i := range 100 {
			for j := range noise {
				noise[j] = byte(source.Uint32())
			}
			r := to(fmt.Sprint(i, " ", string(noise)))
			if i == 37 {
				r.Value = append(r.Value, make([]byte, 3000)...)
				if codec != CompressionNone {
					r.Value = slices.Repeat([]byte(want[0]+want[1]), 10) // LZ4 makes one of ten
				}
			}
			r.Headers = []Header{{Key: "i", Value: []byte{byte(i)}}}
			r.Timestamp = time.UnixMilli(int64(1000 - i)).UTC()
			want = append(want, string(r.Value))
			done := func(m RecordMetadata, err error) {
				at, errs = append(at, m.Offset), append(errs, err)
				require.Equal(t, r.Timestamp, m.Timestamp)
			}
			if i%10 == 9 {
				done = nil
			}
			require.NoError(t, p.Enqueue(ctx, r, done))
		}
		top, err := p.log.Topic("topic")
		require.NoError(t, err)
		require.NoError(t, top.SetConfig(ctx, func(c *TopicConfig) { c.MaxMessageBytes = 1000 }))
		require.NoError(t, p.Flush(ctx), "the one that fails has a done")
		require.Len(t, errs, 90)
		if codec == CompressionNone {
			require.ErrorIs(t, errs[34], ErrRecordTooLarge)
			require.Equal(t, NoOffset, at[34])
			want = slices.Delete(want, 37, 38)
			at, errs = slices.Delete(at, 34, 35), slices.Delete(errs, 34, 35)
		}
		require.Equal(t, want, p.values(t, 0))
		require.NoError(t, errors.Join(errs...))
		require.True(t, slices.IsSorted(at))
		require.Len(t, slices.Compact(at), len(errs))
		for rec, err := range top.all()[0].Records(ctx, 50, nil) {
			require.NoError(t, err)
			i := rec.Headers[0].Value[0]
			require.Equal(t, time.UnixMilli(int64(1000)-int64(i)).UTC(), rec.Timestamp)
			require.Contains(t, string(rec.Value), fmt.Sprint(i, " "))
		}
		require.Greater(t, p.log.Metrics().Total.Appends, int64(20))
		require.Zero(t, p.used)
	}
}

// TestSplitTellsFlush: a record without a done that is too large alone is what Flush tells.
func TestSplitTellsFlush(t *testing.T) {
	p := newProducerOn(t, nil, &ProducerOptions{Linger: time.Hour, DeliveryTimeout: 2 * time.Hour})
	for _, size := range []int{1, 1000, 1} {
		require.NoError(t, p.Enqueue(ctx, to(strings.Repeat("x", size)), nil))
	}
	top, err := p.log.Topic("topic")
	require.NoError(t, err)
	require.NoError(t, top.SetConfig(ctx, func(c *TopicConfig) { c.MaxMessageBytes = 500 }))
	require.ErrorIs(t, p.Flush(ctx), ErrRecordTooLarge)
	require.NoError(t, p.Flush(ctx))
	require.Equal(t, []string{"x", "x"}, p.values(t, 0))
}

// TestAcksNone tells no offset and waits for nothing.
func TestAcksNone(t *testing.T) {
	p := newProducerOn(t, nil, &ProducerOptions{Acks: AcksNone})
	m, err := p.Send(ctx, to("a"))
	require.NoError(t, err)
	require.Equal(t, RecordMetadata{Topic: "topic", Partition: 0, Offset: NoOffset}, m)
	result := make(chan RecordMetadata, 1)
	require.NoError(t, p.Enqueue(ctx, to("b"), func(m RecordMetadata, _ error) { result <- m }))
	require.Equal(t, NoOffset, (<-result).Offset)
	require.NoError(t, p.Close())
	require.NoError(t, p.log.Sync(ctx))
	require.Equal(t, []string{"a", "b"}, p.values(t, 0))
}

// TestProducerCompression: the producer's codec holds where the topic keeps what producers
// send, the topic's elsewhere.
func TestProducerCompression(t *testing.T) {
	for _, topic := range []Compression{CompressionProducer, CompressionNone, CompressionSnappy} {
		for _, direct := range []bool{true, false} {
			p := newProducerOn(t, &TopicConfig{Compression: topic}, &ProducerOptions{Compression: CompressionZstd, CompressionLevel: 5})
			r := to(strings.Repeat("abc", 1000))
			if direct {
				_, err := p.Send(ctx, r)
				require.NoError(t, err)
			} else {
				require.NoError(t, p.Enqueue(ctx, r, nil))
				require.NoError(t, p.Flush(ctx))
			}
			want := topic
			if topic == CompressionProducer {
				want = CompressionZstd
			}
			top, err := p.log.Topic("topic")
			require.NoError(t, err)
			var w window
			seg := top.all()[0].active()
			w.reset(seg, seg.size)
			b, err := w.batch(0)
			require.NoError(t, err)
			require.Equal(t, want.codec(), b.Codec())
			require.Equal(t, []string{string(r.Value)}, p.values(t, 0))
		}
	}
}

// TestProducerHooks: hooks see each record before and after, may change or refuse it; a
// panic of a callback hurts nobody else.
func TestProducerHooks(t *testing.T) {
	var seen []string
	var mu sync.Mutex
	refuse := errors.New("refused")
	p := newProducerOn(t, nil, &ProducerOptions{Hooks: []ProducerHooks{{
		Send: func(_ context.Context, r *Record) error {
			if string(r.Value) == "bad" {
				return refuse
			}
			r.Value = append([]byte("changed "), r.Value...)
			return nil
		},
		Acked: func(m RecordMetadata, err error) {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, fmt.Sprint(m.Partition, m.Offset, err))
		},
	}, {}}})
	value := []byte("a")
	_, err := p.Send(ctx, Record{Topic: "topic", Value: value})
	require.NoError(t, err)
	require.Equal(t, "a", string(value))
	_, err = p.Send(ctx, to("bad"))
	require.ErrorIs(t, err, refuse)
	require.ErrorIs(t, p.Enqueue(ctx, to("bad"), nil), refuse)
	require.NoError(t, p.Enqueue(ctx, to("b"), nil))
	require.NoError(t, p.Enqueue(ctx, to("c"), func(RecordMetadata, error) { panic("the caller's") }))
	require.NoError(t, p.Enqueue(ctx, to("d"), nil))
	require.NoError(t, p.Flush(ctx))
	require.Equal(t, []string{"changed a", "changed b", "changed c", "changed d"}, p.values(t, 0))
	require.Equal(t, []string{"0 0 <nil>", "0 1 <nil>", "0 2 <nil>", "0 3 <nil>"}, seen)
}

// TestPartitioners: round robin goes round, a custom one is asked, and leaves the choice;
// records without a key go to one partition a batch.
func TestPartitioners(t *testing.T) {
	three := &TopicConfig{Partitions: 3}
	p := newProducerOn(t, three, &ProducerOptions{Partitioner: RoundRobin()})
	for i := range 9 {
		m, err := p.Send(ctx, to("x"))
		require.NoError(t, err)
		require.Equal(t, i%3, m.Partition)
	}
	p = newProducerOn(t, three, &ProducerOptions{Partitioner: func(r *Record, n int) int {
		if string(r.Value) == "mine" {
			return n - 1
		}
		return -1
	}})
	m, err := p.Send(ctx, to("mine"))
	require.NoError(t, err)
	require.Equal(t, 2, m.Partition)
	m, err = p.Send(ctx, Record{Topic: "topic", Key: []byte("k")})
	require.NoError(t, err)
	require.Equal(t, keyPartition([]byte("k"), 3), m.Partition)
	m, err = p.Send(ctx, Record{Topic: "topic", Key: []byte{}})
	require.NoError(t, err)
	require.Equal(t, keyPartition(nil, 3), m.Partition, "an empty key is one")

	p = newProducerOn(t, three, &ProducerOptions{Linger: time.Hour, DeliveryTimeout: 2 * time.Hour})
	for range 4 {
		for range 5 {
			require.NoError(t, p.Enqueue(ctx, to("x"), nil))
		}
		require.NoError(t, p.Flush(ctx))
	}
	for i := range 3 {
		require.Zero(t, len(p.values(t, i))%5, "a batch is not parted")
	}
}

// TestProducerTimestamps: a record keeps its own time; without one it gets that of sending
// it, in a batch that of the batch's first; where the topic stamps, the time of the append.
func TestProducerTimestamps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, stamp := range []TimestampType{CreateTime, LogAppendTime} {
			p := producerOn(t, memfs.New(), "/data", &TopicConfig{TimestampType: stamp}, &ProducerOptions{Linger: time.Minute})
			own := time.UnixMilli(5000).UTC()
			sent := time.Now().UTC().Truncate(time.Millisecond)
			var got []time.Time
			done := func(m RecordMetadata, err error) {
				require.NoError(t, err)
				got = append(got, m.Timestamp)
			}
			require.NoError(t, p.Enqueue(ctx, to("a"), done))
			time.Sleep(time.Second)
			require.NoError(t, p.Enqueue(ctx, Record{Topic: "topic", Timestamp: own}, done))
			require.NoError(t, p.Enqueue(ctx, to("c"), done))
			time.Sleep(time.Minute)
			synctest.Wait()
			want := []time.Time{sent, own, sent}
			if stamp == LogAppendTime {
				at := sent.Add(time.Minute)
				want = []time.Time{at, at, at}
			}
			require.Equal(t, want, got)
			top, err := p.log.Topic("topic")
			require.NoError(t, err)
			got = nil
			for rec, err := range top.all()[0].Records(ctx, Earliest, nil) {
				require.NoError(t, err)
				got = append(got, rec.Timestamp)
			}
			require.Equal(t, want, got)

			direct, err := p.log.NewProducer(nil)
			require.NoError(t, err)
			m, err := direct.Send(ctx, to("d"))
			require.NoError(t, err)
			require.Equal(t, time.Now().UTC().Truncate(time.Millisecond), m.Timestamp)
			m, err = direct.Send(ctx, Record{Topic: "topic", Timestamp: own})
			require.NoError(t, err)
			require.Equal(t, stamp == CreateTime, m.Timestamp.Equal(own))
			require.NoError(t, p.log.Close())
		}
	})
}

// TestRecordIsTheCallersAgain: what is changed after Enqueue is not sent.
func TestRecordIsTheCallersAgain(t *testing.T) {
	p := newProducerOn(t, nil, &ProducerOptions{Linger: time.Hour, DeliveryTimeout: 2 * time.Hour})
	value, key := []byte("value"), []byte("key")
	headers := []Header{{Key: "h", Value: []byte("header")}}
	require.NoError(t, p.Enqueue(ctx, Record{Topic: "topic", Key: key, Value: value, Headers: headers}, nil))
	value[0], key[0], headers[0].Value[0], headers[0].Key = 'x', 'x', 'x', "x"
	require.NoError(t, p.Flush(ctx))
	top, err := p.log.Topic("topic")
	require.NoError(t, err)
	for rec, err := range top.all()[0].Records(ctx, Earliest, nil) {
		require.NoError(t, err)
		require.Equal(t, "key value h header", fmt.Sprintf("%s %s %s %s", rec.Key, rec.Value, rec.Headers[0].Key, rec.Headers[0].Value))
	}
}

// TestFlushWaitsForWhatWasThere: a record that is enqueued while Flush waits is not waited
// for.
func TestFlushWaitsForWhatWasThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := errfs.New(memfs.New())
		p := producerOn(t, fsys, "/data", nil, &ProducerOptions{Linger: time.Minute})
		heal := slowFlushes(fsys, time.Second)
		defer heal()
		var ended []string
		enqueue := func(name string) {
			require.NoError(t, p.Enqueue(ctx, to(name), func(RecordMetadata, error) { ended = append(ended, name) }))
		}
		enqueue("before")
		flushed := make(chan error)
		go func() { flushed <- p.Flush(ctx) }()
		synctest.Wait()
		enqueue("after")
		require.NoError(t, <-flushed)
		require.Equal(t, []string{"before"}, ended)
		require.NoError(t, p.Flush(ctx))
		require.Equal(t, []string{"before", "after"}, ended)
	})
}

// TestEnqueueFromDone: a done may enqueue the next record, also when its own has failed.
func TestEnqueueFromDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := errfs.New(memfs.New())
		p := producerOn(t, fsys, "/data", nil, &ProducerOptions{DeliveryTimeout: 5 * time.Second})
		_, err := p.Send(ctx, to("first"))
		require.NoError(t, err)
		heal := fsys.Add(errfs.Rule{Kind: errfs.Write, Err: vfs.ErrNoSpace})
		result := make(chan error, 2)
		require.NoError(t, p.Enqueue(ctx, to("too late"), func(_ RecordMetadata, err error) {
			heal()
			result <- err
			result <- p.Enqueue(ctx, to("a"), func(RecordMetadata, error) { result <- p.Enqueue(ctx, to("b"), nil) })
		}))
		require.ErrorIs(t, <-result, ErrTimeout)
		require.NoError(t, <-result)
		require.NoError(t, <-result)
		require.NoError(t, p.Flush(ctx))
		require.Equal(t, []string{"first", "a", "b"}, p.values(t, 0))
	})
}

// TestCloseEndsWaiting: who waits for room when the producer is closed gets ErrClosed.
func TestCloseEndsWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := errfs.New(memfs.New())
		p := producerOn(t, fsys, "/data", nil, &ProducerOptions{BatchBytes: 1 << 10, BufferBytes: 2 << 10})
		heal := fsys.Add(errfs.Rule{Kind: errfs.Write, Err: vfs.ErrNoSpace})
		var taken []string
		waiting := make(chan error)
		go func() {
			for i := 0; ; i++ {
				v := fmt.Sprint(i, strings.Repeat("x", 900))
				if err := p.Enqueue(ctx, to(v), nil); err != nil {
					waiting <- err
					return
				}
				taken = append(taken, v)
			}
		}()
		synctest.Wait()
		closed := make(chan error)
		go func() { closed <- p.Close() }()
		require.ErrorIs(t, <-waiting, ErrClosed)
		heal()
		require.NoError(t, <-closed)
		require.NotEmpty(t, taken)
		require.Equal(t, taken, p.values(t, 0))
	})
}

// TestCloseSendsWhatIsThere: closing the producer, or the log, sends what is buffered; with
// a context that ends what is not appended fails with ErrClosed.
func TestCloseSendsWhatIsThere(t *testing.T) {
	slow := &ProducerOptions{Linger: time.Hour, DeliveryTimeout: 2 * time.Hour}
	fsys, dir := testDir(t)
	p := producerOn(t, fsys, dir, nil, slow)
	require.NoError(t, p.Enqueue(ctx, to("a"), nil))
	require.NoError(t, p.log.Close())
	require.ErrorIs(t, p.Enqueue(ctx, to("late"), nil), ErrClosed)
	_, err := p.log.NewProducer(nil)
	require.ErrorIs(t, err, ErrClosed)
	require.NoError(t, p.Close())
	l := openAt(t, fsys, dir, nil)
	require.Equal(t, []string{"a"}, readValues(t, partOf(t, l, "topic", nil), Earliest))

	synctest.Test(t, func(t *testing.T) {
		fsys := errfs.New(memfs.New())
		p := producerOn(t, fsys, "/data", nil, nil)
		_, err := p.Send(ctx, to("first"))
		require.NoError(t, err)
		heal := fsys.Add(errfs.Rule{Kind: errfs.Write, Err: vfs.ErrNoSpace})
		result := make(chan error, 1)
		require.NoError(t, p.Enqueue(ctx, to("b"), func(_ RecordMetadata, err error) { result <- err }))
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		require.ErrorIs(t, p.Shutdown(short), context.DeadlineExceeded)
		require.ErrorIs(t, <-result, ErrClosed)
		heal()
		require.Equal(t, []string{"first"}, p.values(t, 0))
	})
}

// TestFailedFlushIsInDoubt: after a failed flush nothing is acknowledged, each record hears
// of it once, and what comes later too.
func TestFailedFlushIsInDoubt(t *testing.T) {
	fsys := errfs.New(memfs.New())
	p := producerOn(t, fsys, "/data", nil, &ProducerOptions{BatchBytes: 1 << 10, BufferBytes: 1 << 20})
	_, err := p.Send(ctx, to("first"))
	require.NoError(t, err)
	fsys.FailSite(siteFlush, 0, errors.New("broken"))
	var mu sync.Mutex
	var errs []error
	for i := range 100 {
		err := p.Enqueue(ctx, to(fmt.Sprint(i, strings.Repeat("x", 100))), func(_ RecordMetadata, err error) {
			mu.Lock()
			errs = append(errs, err)
			mu.Unlock()
		})
		require.NoError(t, err)
	}
	require.NoError(t, p.Flush(ctx), "all have a done")
	require.Len(t, errs, 100)
	for _, err := range errs {
		require.ErrorIs(t, err, ErrPartitionFailed)
	}
	require.True(t, slices.ContainsFunc(errs, func(err error) bool { return errors.Is(err, ErrInDoubt) }))
	require.Equal(t, []string{"first"}, p.values(t, 0))
	_ = p.log.Close()
}

// TestReadOnlyLogHasNoProducer: it would have nothing to do.
func TestReadOnlyLogHasNoProducer(t *testing.T) {
	fsys, dir := testDir(t)
	require.NoError(t, openAt(t, fsys, dir, nil).Close())
	_, err := openAt(t, fsys, dir, &Options{ReadOnly: true}).NewProducer(nil)
	require.ErrorIs(t, err, ErrReadOnly)
}

// TestInvalidProducerOptions lists every problem.
func TestInvalidProducerOptions(t *testing.T) {
	fsys, dir := testDir(t)
	l := openAt(t, fsys, dir, nil)
	_, err := l.NewProducer(&ProducerOptions{
		Acks: 9, Linger: -1, BatchBytes: 1, BufferBytes: 1, Compression: CompressionProducer, DeliveryTimeout: -2,
	})
	require.ErrorIs(t, err, ErrInvalidOptions)
	for _, field := range []string{"Acks", "Linger", "BatchBytes", "BufferBytes", "Compression", "DeliveryTimeout"} {
		require.ErrorContains(t, err, field)
	}
	_, err = l.NewProducer(&ProducerOptions{Compression: CompressionGzip, CompressionLevel: 10})
	require.ErrorContains(t, err, "CompressionLevel")
}

// TestSendAllocatesNothing: a record that is sent, or enqueued, with a done or without, takes
// no allocation of its own.
func TestSendAllocatesNothing(t *testing.T) {
	if invariants.Enabled {
		return // pools forget at random under the race detector
	}
	l := openQuiet(t)
	partOf(t, l, "topic", quiet)
	p, err := l.NewProducer(nil)
	require.NoError(t, err)
	value := make([]byte, 100)
	_, err = p.Send(ctx, Record{Topic: "topic", Value: value})
	require.NoError(t, err)
	require.Zero(t, testing.AllocsPerRun(100, func() { _, _ = p.Send(ctx, Record{Topic: "topic", Value: value}) }))
	const many = 1000
	for _, done := range []func(RecordMetadata, error){nil, func(RecordMetadata, error) {}} {
		allocs := testing.AllocsPerRun(20, func() {
			for range many {
				_ = p.Enqueue(ctx, Record{Topic: "topic", Value: value}, done)
			}
			_ = p.Flush(ctx)
		})
		require.Less(t, allocs, many/5.0)
	}
}

// TestProducerKeepsToItsMemory fills the buffer while the disk is full: what is held, dones
// included, is within BufferBytes and a tenth. A context ends when all stand still, which in
// a bubble of synctest is when the buffer is full, however long that took.
func TestProducerKeepsToItsMemory(t *testing.T) {
	const buffer = 8 << 20
	synctest.Test(t, func(t *testing.T) {
		fsys := errfs.New(memfs.New())
		p := producerOn(t, fsys, "/data", &TopicConfig{Partitions: 4}, &ProducerOptions{BufferBytes: buffer})
		_, err := p.SendAll(ctx, to("a"), to("b"))
		require.NoError(t, err)
		for _, size := range []int{20, 100, 3000} {
			heal := fsys.Add(errfs.Rule{Kind: errfs.Write, Err: vfs.ErrNoSpace})
			value := make([]byte, size)
			ended, sent := 0, 0
			done := func(RecordMetadata, error) { ended++ } // on one goroutine
			before := heapBytes()
			short, cancel := context.WithTimeout(ctx, time.Second)
			for err = nil; err == nil; sent++ {
				err = p.Enqueue(short, Record{Topic: "topic", Value: value}, done)
			}
			sent-- // the last one found no room
			cancel()
			held := heapBytes() - before
			heal() // first: with a disk that stays full, closing takes its time
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Greater(t, held, int64(buffer/2), "it is full")
			require.LessOrEqual(t, held, int64(buffer+buffer/10), "of %d bytes", size)
			require.NoError(t, p.Flush(ctx))
			require.Equal(t, sent, ended)
		}
	})
}
