package riffle

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/rifflelog/riffle/internal/batch"
	"github.com/rifflelog/riffle/internal/compress"
)

// What a producer holds: per partition an open batch, which takes records, batches
// that are full, and batches that are appended and not committed; and the memory that
// they take. Kafka: RecordAccumulator, BufferPool.

// sendTopic is a topic as a producer knows it. Guarded by the producer's lock.
type sendTopic struct {
	topic  *Topic
	queues []*sendQueue // by partition
	sticky int          // the partition of records without a key, until its batch is closed
}

// sendQueue is what a producer holds for a partition, in the order in which it was
// sent. Guarded by the producer's lock.
type sendQueue struct {
	t      *sendTopic
	p      *Partition
	open   *sendBatch   // takes records; nil if there is none
	full   []*sendBatch // to be appended
	flying []*sendBatch // appended, and not known to be committed; those that failed behind them
	hand   []*sendBatch // what the producer's goroutine is appending, or telling of its end
	listed bool         // it is in Producer.active

	// What only the producer's goroutine has.

	retryAt time.Time // not before then; zero if nothing has failed
	backoff time.Duration
}

func (q *sendQueue) empty() bool {
	return q.open == nil && len(q.full) == 0 && len(q.flying) == 0 && len(q.hand) == 0
}

// handed takes b out of hand.
func (q *sendQueue) handed(b *sendBatch) {
	if i := slices.Index(q.hand, b); i >= 0 {
		q.hand = slices.Delete(q.hand, i, i+1)
	}
}

// next is the batch that is appended next; nil if there is none.
func (q *sendQueue) next() *sendBatch {
	if len(q.full) > 0 {
		return q.full[0]
	}
	return q.open
}

// sendBatch is records on their way. It is made of memory that is used again.
type sendBatch struct {
	builder batch.Builder
	buf     []byte
	plain   bool        // it is not compressed
	encoded batch.Batch // nil until no more records are taken
	count   int
	now     int64                                  // in ms, when it was opened: of records without a timestamp
	since   time.Time                              // the same
	dones   perRecord[func(RecordMetadata, error)] // who wants to hear of it
	times   perRecord[int64]                       // where it is not now
	room    int64                                  // bytes that it takes, before compression
	charged int64                                  // what it counts for in Producer.used
	silent  int                                    // records without a done

	end   Offset      // once it is appended
	round *flushRound // that will commit it; nil if it is committed, or err says why not
	err   error
	ended chan struct{}
}

// perRecord has something of a batch's records, by their number. It ends with the last one
// that has some: for most batches it is empty, or small against the records.
type perRecord[T any] []T

// perRecordSize is what one of them takes in memory.
const perRecordSize = 8

// lacks returns how many entries more it is made for when it gets one for record n.
func (l perRecord[T]) lacks(n int) int {
	if n < cap(l) {
		return 0
	}
	return max(2*cap(l), n+1, 4) - cap(l)
}

// set puts v in for record n, behind all that it has; those between have none.
func (l *perRecord[T]) set(n int, v, none T) {
	if more := l.lacks(n); more > 0 {
		*l = append(make([]T, 0, cap(*l)+more), *l...)
	}
	for len(*l) < n {
		*l = append(*l, none)
	}
	*l = append(*l, v)
}

// get returns that of record n.
func (l perRecord[T]) get(n int, none T) T {
	if n < len(l) {
		return l[n]
	}
	return none
}

// part returns those of records first to end, in memory of its own.
func (l perRecord[T]) part(first, end int) perRecord[T] {
	return slices.Clone(l[min(first, len(l)):min(end, len(l))])
}

// size is what it takes in memory.
func (l perRecord[T]) size() int64 { return int64(cap(l)) * perRecordSize }

var sendBatches = sync.Pool{New: func() any { return new(sendBatch) }}

// reset makes b ready for the next use.
func (b *sendBatch) reset() {
	if cap(b.buf) > maxPooled {
		b.buf = nil
	}
	clear(b.dones)
	*b = sendBatch{builder: b.builder, buf: b.buf[:0], dones: b.dones[:0], times: b.times[:0]}
}

// size is how many bytes it has: once it is encoded, its builder has none.
func (b *sendBatch) size() int {
	if b.encoded != nil {
		return len(b.encoded)
	}
	return b.builder.Len()
}

// lists is what dones and times take in memory.
func (b *sendBatch) lists() int64 { return b.dones.size() + b.times.size() }

// lacks is how much more they take with a record that somebody wants to hear of, or that
// has a time.
func (b *sendBatch) lacks(heard, timed bool) (bytes int64) {
	if heard {
		bytes = int64(b.dones.lacks(b.count)) * perRecordSize
	}
	if timed {
		bytes += int64(b.times.lacks(b.count)) * perRecordSize
	}
	return bytes
}

// maxRecordHead is what a record takes besides its bytes, at most: lengths, deltas.
const maxRecordHead = 5 + 1 + 10 + 5 + 5 + 5 + 5

// recordBound is how many bytes a record takes in a batch at most.
func recordBound(r *Record) int64 {
	n := int64(maxRecordHead) + int64(len(r.Key)) + int64(len(r.Value))
	for i := range r.Headers {
		n += 10 + int64(len(r.Headers[i].Key)) + int64(len(r.Headers[i].Value))
	}
	return n
}

// lookUp returns a topic as p knows it now. Called with mu held.
func (p *Producer) lookUp(name string) (*sendTopic, error) {
	t := p.last
	if t == nil || t.topic.name != name {
		t = p.topics[name]
	}
	if t == nil || t.queues[0].p.gone.Load() {
		topic, err := p.log.Topic(name)
		if err != nil {
			delete(p.topics, name)
			return nil, err
		}
		if topic.internal {
			return nil, errInternal(name)
		}
		p.forgetTopics()
		t = &sendTopic{topic: topic, sticky: -1}
		p.topics[name] = t
	}
	if all := t.topic.all(); len(all) > len(t.queues) {
		for _, part := range all[len(t.queues):] {
			t.queues = append(t.queues, &sendQueue{t: t, p: part})
		}
	}
	p.last = t
	return t, nil
}

// minTopics is how many topics a producer may know before it forgets deleted ones.
const minTopics = 64

// forgetTopics forgets those that are deleted, each time that there are twice as many as
// were left the time before. Called with mu held.
func (p *Producer) forgetTopics() {
	if len(p.topics) < max(p.forgetAt, minTopics) {
		return
	}
	maps.DeleteFunc(p.topics, func(_ string, t *sendTopic) bool { return t.queues[0].p.gone.Load() })
	p.forgetAt = 2 * len(p.topics)
}

// choose returns the queue of r by the default partitioner. Called with mu held.
func (t *sendTopic) choose(r *Record) *sendQueue {
	switch {
	case len(t.queues) == 1:
		return t.queues[0]
	case r.Key != nil:
		return t.queues[keyPartition(r.Key, len(t.queues))]
	case t.sticky < 0 || t.sticky >= len(t.queues):
		t.sticky = rand.IntN(len(t.queues))
	}
	return t.queues[t.sticky]
}

// add puts r into its partition's open batch, if there is memory for it. It returns how
// many bytes it takes if there is not. Called with mu held.
func (p *Producer) add(q *sendQueue, r *Record, done func(RecordMetadata, error)) (missing int64, err error) {
	bound := recordBound(r)
	if b := q.open; b != nil && (int64(b.builder.Len())+bound > b.room || p.crowded(b, r, done)) {
		p.closeOpen(q)
	}
	if q.open == nil {
		size := max(int64(p.opts.BatchBytes), batch.HeaderSize+bound)
		if size > p.opts.BufferBytes {
			return 0, fmt.Errorf("%w: %d bytes, BufferBytes is %d", ErrRecordTooLarge, bound, p.opts.BufferBytes)
		}
		if p.used+size > p.opts.BufferBytes {
			p.full = true
			return size, nil
		}
		if len(p.waiters) > 0 && !p.granted {
			return size, nil
		}
		p.openBatch(q, size)
	}
	b := q.open
	b.builder.Prefetch(int(bound)) // where the goroutine was last
	compacts := q.p.topic.config().Cleanup.compacts()
	if len(r.Headers) == 0 && !compacts && r.Timestamp.IsZero() && b.builder.AddSmall(b.now, r.Key, r.Value) {
		p.added(q, b, b.now, done) // what most are, in less time
		return 0, nil
	}
	ts, err := addRecord(&b.builder, r, compacts, b.now)
	if err != nil {
		if b.count == 0 {
			q.open = nil
			p.free(b)
		}
		return 0, encodeError(err, true)
	}
	p.added(q, b, ts, done)
	return 0, nil
}

// crowded says whether b, which has records, would take too much memory for r besides its
// bytes. For small ones that is no less.
func (p *Producer) crowded(b *sendBatch, r *Record, done func(RecordMetadata, error)) bool {
	more := b.lacks(done != nil, !r.Timestamp.IsZero())
	return more > 0 && !p.fits(more)
}

// fits says whether n more bytes keep to BufferBytes, if only to a sixteenth more: what is
// opened when that much is used shall take more than a record.
func (p *Producer) fits(n int64) bool {
	return p.used+n <= p.opts.BufferBytes+p.opts.BufferBytes/16
}

// openBatch opens a batch that takes size bytes.
func (p *Producer) openBatch(q *sendQueue, size int64) {
	b := sendBatches.Get().(*sendBatch)
	if n := int64(cap(b.buf)); n < size || n > size+size/16 { // no more than it counts for
		b.buf = make([]byte, 0, size)
	}
	if n := b.lists(); n > size/2 || !p.fits(size+n) {
		b.dones, b.times = nil, nil // of a producer with larger batches, or more room
	}
	b.charged = size + b.lists()
	p.used += b.charged
	b.since = time.Now()
	b.now = b.since.UnixMilli()
	cfg := q.p.topic.config()
	codec, level := p.codecFor(cfg)
	b.builder.Begin(b.buf, codec, level)
	b.plain = codec == compress.None
	b.room = int64(p.opts.BatchBytes)
	if b.plain {
		most := min(int64(cfg.MaxMessageBytes), cfg.SegmentBytes)
		b.builder.Limit(int(most))
		b.room = min(b.room, most)
	}
	q.open = b
}

// codecFor is how a batch of a topic is compressed: the topic's wish comes first.
func (p *Producer) codecFor(cfg *TopicConfig) (codec compress.Codec, level int) {
	if cfg.Compression != CompressionProducer {
		codec = cfg.Compression.codec()
		return codec, codec.DefaultLevel()
	}
	codec = p.opts.Compression.codec()
	if p.opts.CompressionLevel != 0 {
		return codec, p.opts.CompressionLevel
	}
	return codec, codec.DefaultLevel()
}

// added takes note of a record that was put into b, the open batch of q.
func (p *Producer) added(q *sendQueue, b *sendBatch, ts int64, done func(RecordMetadata, error)) {
	if more := b.lacks(done != nil, ts != b.now); more > 0 {
		b.charged += more
		p.used += more
	}
	if done == nil {
		b.silent++
	} else {
		b.dones.set(b.count, done, nil)
	}
	if ts != b.now {
		b.times.set(b.count, ts, b.now)
	}
	b.count++
	if !q.listed {
		q.listed = true
		p.active = append(p.active, q)
	}
	if int64(b.builder.Len()) >= b.room {
		p.closeOpen(q)
	}
	p.poke(b.count == 1 || q.open == nil)
}

// closeOpen ends the taking of records by a queue's open batch. Called with mu held.
func (p *Producer) closeOpen(q *sendQueue) {
	q.full = append(q.full, q.open)
	q.open = nil
	if q.t.sticky == q.p.index {
		q.t.sticky = -1
	}
}

// free gives the memory of a batch back, and lets those go on who wait for some. Called
// with mu held.
func (p *Producer) free(b *sendBatch) {
	p.used -= b.charged
	if b.ended != nil {
		close(b.ended)
	}
	b.reset()
	sendBatches.Put(b)
	p.grant()
}

// roomWaiter is somebody who waits for memory: first come, first served.
type roomWaiter struct {
	size  int64
	ready chan struct{}
}

// grant lets the first go on who wait for memory, if there is enough. He asks again,
// before all others. Once all is used, a sixteenth has to be free: woken for each batch
// that is sent, he would be there long after the next one has left, and fill one at a time.
// Called with mu held.
func (p *Producer) grant() {
	free := p.opts.BufferBytes - p.used
	if p.full && free < p.opts.BufferBytes/16 {
		return
	}
	p.full = false
	if len(p.waiters) > 0 && p.waiters[0].size <= free {
		w := p.waiters[0]
		select {
		case <-w.ready:
		default:
			close(w.ready)
		}
	}
}

// waitForRoom waits until it is w's turn, which is one of p.waiters, and there are so many
// bytes. He may wait again then, and keeps his place, if a batch that is open has grown
// meanwhile. Called with mu held, which it releases and takes again; also if it returns an
// error.
func (p *Producer) waitForRoom(ctx context.Context, w *roomWaiter, size int64) error {
	w.size, w.ready = size, make(chan struct{})
	p.poke(true) // what is open leaves now
	p.mu.Unlock()
	var err error
	select {
	case <-w.ready:
	case <-ctx.Done():
		err = ctx.Err()
	case <-p.closing:
	case <-p.log.broken:
	}
	p.mu.Lock()
	if err == nil && (p.closed || p.log.hasFailed()) {
		err = p.log.closedError()
	}
	return err
}

// served ends the wait of w. Called with mu held.
func (p *Producer) served(w *roomWaiter) {
	p.waiters = slices.DeleteFunc(p.waiters, func(o *roomWaiter) bool { return o == w })
	p.grant()
}
