package riffle

import (
	"slices"
	"sync/atomic"
	"time"
)

// Metrics are what a log has done since it was opened, and what it holds.
type Metrics struct {
	Total         TopicMetrics   // the sum over all topics that there were; its Topic is empty
	Topics        []TopicMetrics // by name
	Metadata      TopicMetrics   // of the log's own topic, __cluster_metadata; in no sum
	BoundsFlushes int64          // of the file of bounds, which all partitions share
}

// TopicMetrics are the metrics of a topic. Numbers are counted since the log was
// opened, and grow, unless they are said to be as of now.
type TopicMetrics struct {
	Topic             string          // its name
	Partitions        int             // how many it has
	OfflinePartitions int             // now: those that a failed write or flush has ended
	Appends           int64           // batches that were written
	Records           int64           // in them. Kafka: MessagesInPerSec
	AppendedBytes     int64           // their size as stored. Kafka: BytesInPerSec
	AppendErrors      int64           // appends that returned an error; if that was ErrInDoubt, perhaps in Appends too
	AppendConflicts   int64           // AppendIf calls that ended with ErrConflict; not in AppendErrors
	BatchBytes        Histogram       // size of each batch in Appends
	ReadBatches       int64           // batches that loops have read; counted when one ends, or waits for more
	ReadBytes         int64           // their size as stored. Kafka: BytesOutPerSec
	Flushes           int64           // of segments, failed ones included
	FlushErrors       int64           // those that failed
	FlushSeconds      Histogram       // how long each in Flushes took. Kafka: LogFlushRateAndTimeMs
	Rolls             int64           // segments begun after another one
	StartMoves        int64           // how often records at the beginning were deleted
	DeletedSegments   int64           // segments that went with them
	DeletedBytes      int64           // the size of these
	Segments          int64           // now. Kafka: NumLogSegments
	Bytes             int64           // now: of all segments. Kafka: Size
	UnflushedBytes    int64           // now: of Bytes, what a power cut could take
	IndexesRebuilt    int64           // indexes that were missing or wrong: an unclean stop leaves the last segment's so
	Recovery          RecoveryMetrics // what opening found
}

// RecoveryMetrics are what opening a topic's partitions found.
type RecoveryMetrics struct {
	ReadBytes         int64 // size of the batches that were checked
	CutBytes          int64 // behind the last whole batch: unfinished appends
	UncleanPartitions int   // those that were not closed cleanly
	DamagedPartitions int   // those that take no appends, because of damage or because they cannot be read
}

// Histogram says how values are distributed. As in Prometheus, a bucket counts
// the values up to its bound, those of the buckets before it included.
type Histogram struct {
	Bounds []float64 // ascending, the same in each Histogram of a kind
	Counts []int64   // how many values are at most Bounds[i]
	Count  int64     // how many there are in all
	Sum    float64   // of all values
}

// The bounds of the histograms' buckets: of a batch in bytes, from a small record
// to the largest batch; of a flush, from a drive with a cache that a battery
// keeps to one that stalls.
var (
	batchBounds = [...]int64{
		256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, maxMaxMessageBytes,
	}
	flushBounds = [...]time.Duration{
		100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
		1 * time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
		10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
		100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
		1 * time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second,
	}
)

// Metrics returns the log's metrics. Each partition's are of one moment, not all
// of the same. It waits for no disk. After Close it returns the last ones.
func (l *Log) Metrics() Metrics {
	sizes := histogram(batchBounds[:], 1)
	times := histogram(flushBounds[:], time.Second)
	empty := func() TopicMetrics { return TopicMetrics{BatchBytes: sizes.empty(), FlushSeconds: times.empty()} }
	m := Metrics{Total: empty(), Metadata: empty()}
	l.meta.topic.addTo(&m.Metadata)
	for _, t := range l.countGone(&m.Total) {
		one := empty()
		t.addTo(&one)
		m.Topics = append(m.Topics, one)
		m.Total.add(&one)
	}
	if l.bounds != nil {
		m.BoundsFlushes = l.bounds.flushCount()
	}
	return m
}

// counts are what a partition counts, guarded by its lock. There are none until
// there is something to count, so that an idle partition costs a pointer.
type counts struct {
	appends, records, bytes       int64
	appendErrors, conflicts       int64
	flushes, flushErrors, rolls   int64
	startMoves                    int64
	deletedSegments, deletedBytes int64
	flushTime                     time.Duration
	batches                       [len(batchBounds) + 1]int64 // by bucket; the last has no bound
	flushTimes                    [len(flushBounds) + 1]int64
}

// topicCounts are what a topic counts without a lock: nothing that is done for
// each append.
type topicCounts struct {
	readBatches, readBytes atomic.Int64
	recovered, cut         atomic.Int64 // bytes
	indexesRebuilt         atomic.Int64
}

// count returns the partition's counts, to be changed. Called under mu.
func (p *Partition) count() *counts {
	if p.counts == nil {
		p.counts = new(counts)
	}
	return p.counts
}

func (p *Partition) countError() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count().appendErrors++
}

// appended counts a batch.
func (c *counts) appended(records int32, bytes int) {
	c.appends++
	c.records += int64(records)
	c.bytes += int64(bytes)
	c.batches[bucket(batchBounds[:], int64(bytes))]++
}

// flushed counts a flush.
func (c *counts) flushed(took time.Duration, err error) {
	c.flushes++
	if err != nil {
		c.flushErrors++
	}
	c.flushTime += took
	c.flushTimes[bucket(flushBounds[:], took)]++
}

// bucket returns the first bucket that has v.
func bucket[T ~int64](bounds []T, v T) int {
	for i, b := range bounds {
		if v <= b {
			return i
		}
	}
	return len(bounds)
}

// addTo adds the topic's metrics to m.
func (t *Topic) addTo(m *TopicMetrics) {
	m.Topic, m.Partitions = t.name, len(t.all())
	m.ReadBatches, m.ReadBytes = t.counts.readBatches.Load(), t.counts.readBytes.Load()
	m.IndexesRebuilt = t.counts.indexesRebuilt.Load()
	m.Recovery.ReadBytes, m.Recovery.CutBytes = t.counts.recovered.Load(), t.counts.cut.Load()
	for _, p := range t.all() {
		c := p.addTo(m)
		m.Appends += c.appends
		m.Records += c.records
		m.AppendedBytes += c.bytes
		m.AppendErrors += c.appendErrors
		m.AppendConflicts += c.conflicts
		m.Flushes += c.flushes
		m.FlushErrors += c.flushErrors
		m.Rolls += c.rolls
		m.StartMoves += c.startMoves
		m.DeletedSegments += c.deletedSegments
		m.DeletedBytes += c.deletedBytes
		m.BatchBytes.addBuckets(c.batches[:], float64(c.bytes))
		m.FlushSeconds.addBuckets(c.flushTimes[:], c.flushTime.Seconds())
	}
}

// addTo adds to m what the partition is now, and returns what it has counted.
func (p *Partition) addTo(m *TopicMetrics) (c counts) {
	if p.unclean {
		m.Recovery.UncleanPartitions++
	}
	if p.damaged != nil {
		m.Recovery.DamagedPartitions++
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed != nil {
		m.OfflinePartitions++
	}
	if segs := p.segs.Load(); segs != nil {
		m.Segments += int64(len(segs.list))
		for _, seg := range segs.list {
			m.Bytes += seg.size
		}
		m.UnflushedBytes += p.unflushed()
	}
	if p.counts != nil {
		c = *p.counts
	}
	return c
}

// countGone adds what deleted topics have counted, and returns the others, of the same
// moment: in between a topic would be in neither.
func (l *Log) countGone(m *TopicMetrics) []*Topic {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.deleted != nil {
		m.add(l.deleted)
	}
	for _, t := range l.halfGone {
		gone := t.counted()
		m.add(&gone)
	}
	return l.sortedTopics()
}

// counted is what a topic that is deleted has counted, without what it holds.
func (t *Topic) counted() TopicMetrics {
	m := TopicMetrics{BatchBytes: histogram(batchBounds[:], 1), FlushSeconds: histogram(flushBounds[:], time.Second)}
	t.addTo(&m)
	m.Partitions, m.OfflinePartitions, m.Segments, m.Bytes, m.UnflushedBytes = 0, 0, 0, 0, 0
	return m
}

// countDeleted keeps what a topic has counted that ends to be half gone. Called under
// mu.
func (l *Log) countDeleted(t *Topic) {
	m := t.counted()
	if l.deleted != nil {
		m.add(l.deleted)
	}
	l.deleted = &m
}

// add adds the metrics of a topic.
func (m *TopicMetrics) add(t *TopicMetrics) {
	m.Partitions += t.Partitions
	m.OfflinePartitions += t.OfflinePartitions
	m.Appends += t.Appends
	m.Records += t.Records
	m.AppendedBytes += t.AppendedBytes
	m.AppendErrors += t.AppendErrors
	m.AppendConflicts += t.AppendConflicts
	m.BatchBytes.add(&t.BatchBytes)
	m.ReadBatches += t.ReadBatches
	m.ReadBytes += t.ReadBytes
	m.Flushes += t.Flushes
	m.FlushErrors += t.FlushErrors
	m.FlushSeconds.add(&t.FlushSeconds)
	m.Rolls += t.Rolls
	m.StartMoves += t.StartMoves
	m.DeletedSegments += t.DeletedSegments
	m.DeletedBytes += t.DeletedBytes
	m.Segments += t.Segments
	m.Bytes += t.Bytes
	m.UnflushedBytes += t.UnflushedBytes
	m.IndexesRebuilt += t.IndexesRebuilt
	m.Recovery.ReadBytes += t.Recovery.ReadBytes
	m.Recovery.CutBytes += t.Recovery.CutBytes
	m.Recovery.UncleanPartitions += t.Recovery.UncleanPartitions
	m.Recovery.DamagedPartitions += t.Recovery.DamagedPartitions
}

// histogram returns an empty one with bounds in the given unit.
func histogram[T ~int64](bounds []T, unit T) Histogram {
	var h Histogram
	for _, b := range bounds {
		h.Bounds = append(h.Bounds, float64(b)/float64(unit))
	}
	return h.empty()
}

// empty returns an empty histogram that is the caller's to change.
func (h Histogram) empty() Histogram {
	return Histogram{Bounds: slices.Clone(h.Bounds), Counts: make([]int64, len(h.Bounds))}
}

// addBuckets adds values that were counted by bucket.
func (h *Histogram) addBuckets(buckets []int64, sum float64) {
	n := int64(0)
	for i := range h.Counts {
		n += buckets[i]
		h.Counts[i] += n
	}
	h.Count += n + buckets[len(h.Counts)]
	h.Sum += sum
}

func (h *Histogram) add(other *Histogram) {
	for i := range h.Counts {
		h.Counts[i] += other.Counts[i]
	}
	h.Count += other.Count
	h.Sum += other.Sum
}
