package riffle

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/rifflelog/riffle/internal/batch"
	"github.com/rifflelog/riffle/internal/compress"
)

// Forever is an endless time.
const Forever time.Duration = math.MaxInt64

// NoLimit is no limit, where a number of bytes is asked for.
const NoLimit = -1

// Options are a log's options. The zero value, like a nil pointer, means the
// defaults.
type Options struct {
	// Defaults are for topics that leave a field zero, also for those created
	// by an earlier Open. Kafka: the broker's log.* keys.
	Defaults TopicConfig
	// AutoCreateTopics makes a topic, with the defaults, when a producer sends to one that
	// does not exist. Kafka: auto.create.topics.enable, true there: a typing error should
	// not make a topic.
	AutoCreateTopics bool
	// DiskReserve is how many bytes of the disk appends leave free: one that
	// would leave less is ErrDiskFull, until there is room again. Creating topics
	// goes on: 16 MiB more are set aside for that, in the file reserve, which is
	// given up when there is no other space. Default 64 MiB; NoLimit: appends
	// fill the disk, and nothing is set aside. Kafka has no such key: there a
	// full disk takes the log directory offline.
	DiskReserve int64
	// ReadOnly reads a directory that another process may be writing, or has
	// written, and takes part in nothing: no lock is taken, nothing is made or
	// changed, and whatever would write is ErrReadOnly. What the writer commits is
	// seen within 25 ms, unless the machine is too busy, through his death and
	// restart; nothing uncommitted is. See [Open]. Kafka has no such key: there a
	// consumer asks a broker.
	ReadOnly bool
	// GroupInitialDelay is how long a group that is empty waits for more members after the
	// first, so that they share its partitions at once; more members prolong it. Default 0.
	// Kafka: group.initial.rebalance.delay.ms, 3 s there: members in one process come at once.
	GroupInitialDelay time.Duration
	// Logger hears what the log does in the background: what recovery found,
	// flushes that failed. Its handler may append to the log, but must not wait for a
	// producer or a consumer, which may be waiting for it. Its panics are dropped. Default:
	// nothing is logged.
	Logger *slog.Logger
}

// TopicConfig describes a topic. A field left zero follows [Options.Defaults],
// and what is zero there too has the default given here.
type TopicConfig struct {
	// Partitions is how many partitions the topic is created with, at most
	// 10,000. Default 1. Kafka: num.partitions.
	Partitions int
	// Cleanup is how old records go. Default CleanupDelete. Kafka: cleanup.policy.
	// There is no cleaner yet: with CleanupCompact all records stay, and with
	// CleanupCompactDelete those go that CleanupDelete would delete.
	Cleanup CleanupPolicy
	// Retention is how old a record grows, by its timestamp, before its segment
	// may be deleted: once all records of the segment are older, and those before
	// it are deleted. That is looked at every five minutes, and 30 s after opening. Records
	// without timestamps are as old as the log has been open. Whole milliseconds, or Forever; less than a millisecond is Kafka's 0. Default 7
	// days, as in Kafka: an event store wants Forever. Kafka: retention.ms.
	Retention time.Duration
	// RetentionBytes is how large a partition grows, in bytes, before its oldest
	// segments are deleted; it never falls below that for it. Default NoLimit.
	// Kafka: retention.bytes.
	RetentionBytes int64
	// Flush says when an appended record is committed. Default FlushBeforeAck;
	// the value is fixed when the topic is created. Kafka has no such key: it
	// does what FlushAsync does, and relies on replicas.
	Flush FlushPolicy
	// FlushInterval is how long a record of a FlushAsync topic stays unflushed
	// at most: whole milliseconds, at least one, or Forever. Default 1 s.
	// Kafka: flush.ms, by default endless there.
	FlushInterval time.Duration
	// SegmentBytes is how large a file of batches grows before the next one is
	// begun, in bytes; from 1 KiB to 2 GiB - 1. A larger batch is
	// ErrBatchTooLarge. Default 256 MiB. Kafka: segment.bytes, 1 GiB there:
	// servers have fewer, larger disks.
	SegmentBytes int64
	// SegmentAge is how far apart the timestamps of the first and the last batch
	// of a file may be: whole milliseconds, at least one, or Forever. Default
	// 7 days. Kafka: segment.ms.
	SegmentAge time.Duration
	// Compression is how batches are compressed. Default CompressionProducer:
	// as the producer sent them, and not at all for Partition.Append. Kafka:
	// compression.type.
	Compression Compression
	// TimestampType says whose clock records' timestamps are from. Default
	// CreateTime. Kafka: message.timestamp.type.
	TimestampType TimestampType
	// MaxMessageBytes is the largest batch, in bytes, after compression; from
	// 1 to 64 MiB. Default 1 MiB + 12. Kafka: max.message.bytes.
	MaxMessageBytes int
	// MinCleanableRatio is how much of a compacted partition must be new before it
	// is cleaned: more than 0, at most 1. Default 0.5. Kafka:
	// min.cleanable.dirty.ratio.
	MinCleanableRatio float64
	// DeleteRetention is how long a tombstone is kept in a compacted topic, from
	// the first cleaning on: whole milliseconds, or Forever; less than a
	// millisecond is Kafka's 0. Default 24 h. Kafka: delete.retention.ms.
	DeleteRetention time.Duration
	// MinCompactionLag is how long a record is safe from compaction: whole
	// milliseconds, at most MaxCompactionLag; less than a millisecond is none.
	// Default none. Kafka: min.compaction.lag.ms.
	MinCompactionLag time.Duration
	// MaxCompactionLag is how long a record may wait for compaction: whole
	// milliseconds, at least one, or Forever. Default Forever. Kafka:
	// max.compaction.lag.ms.
	MaxCompactionLag time.Duration
}

// CleanupPolicy says how a topic's old records go.
type CleanupPolicy int

// The cleanup policies.
const (
	// CleanupDefault follows Options.Defaults, and is CleanupDelete there.
	CleanupDefault CleanupPolicy = iota
	// CleanupDelete deletes the oldest segments: see Retention and RetentionBytes.
	CleanupDelete
	// CleanupCompact keeps at least the last record of each key. Records need a
	// key: ErrInvalidRecord.
	CleanupCompact
	// CleanupCompactDelete does both.
	CleanupCompactDelete
)

// deletes says whether retention deletes segments.
func (c CleanupPolicy) deletes() bool { return c != CleanupCompact }

// compacts says whether each record is one of a key.
func (c CleanupPolicy) compacts() bool { return c == CleanupCompact || c == CleanupCompactDelete }

// FlushPolicy says when a record is committed: readable, and acknowledged to
// whoever appended it.
type FlushPolicy int

// The flush policies.
const (
	// FlushDefault follows Options.Defaults, and is FlushBeforeAck there.
	FlushDefault FlushPolicy = iota
	// FlushBeforeAck commits a record once it is on stable storage. Concurrent
	// appends share one flush.
	FlushBeforeAck
	// FlushAsync commits a record once the operating system has it. A crash of
	// the process loses nothing, a power cut may lose what FlushInterval left
	// unflushed. This is Kafka's way.
	FlushAsync
)

// Compression is how a topic's batches are compressed.
type Compression int

// The compressions.
const (
	// CompressionDefault follows Options.Defaults, and is CompressionProducer
	// there.
	CompressionDefault Compression = iota
	// CompressionProducer keeps what the producer sent.
	CompressionProducer
	// CompressionNone stores batches as they are.
	CompressionNone
	// CompressionGzip is the smallest of the old codecs, and the slowest.
	CompressionGzip
	// CompressionSnappy is fast and compresses little.
	CompressionSnappy
	// CompressionLZ4 inflates fastest.
	CompressionLZ4
	// CompressionZstd compresses best for its time (KIP-110).
	CompressionZstd
)

// codec returns the codec that Append uses.
func (c Compression) codec() compress.Codec {
	if c < CompressionNone {
		return compress.None
	}
	return compress.Codec(c - CompressionNone)
}

// TimestampType says whose clock records' timestamps are from.
type TimestampType int

// The timestamp types.
const (
	// TimestampDefault follows Options.Defaults, and is CreateTime there.
	TimestampDefault TimestampType = iota
	// CreateTime keeps the time that the record was sent with.
	CreateTime
	// LogAppendTime gives all records of a batch the time at which it was
	// appended.
	LogAppendTime
)

const (
	defaultDiskReserve     = 64 << 20
	defaultFlushInterval   = time.Second
	defaultMaxMessageBytes = 1<<20 + 12 // Kafka's
	defaultSegmentBytes    = 256 << 20
	defaultSegmentAge      = 7 * 24 * time.Hour // Kafka's
	defaultRetention       = 7 * 24 * time.Hour // Kafka's
	defaultCleanableRatio  = 0.5                // Kafka's
	defaultDeleteRetention = 24 * time.Hour     // Kafka's
	minSegmentBytes        = 1 << 10
	// maxSegmentBytes is what Kafka's indexes can say of a place in a file.
	maxSegmentBytes = math.MaxInt32
	// maxMaxMessageBytes is also no more than may be unflushed at all.
	maxMaxMessageBytes = batch.MaxSize
	// maxPartitions bounds what one call may ask us to hold in memory: about
	// 4 MB for a topic of as many.
	maxPartitions = 10_000
)

// over returns c with its zero fields taken from base.
func (c TopicConfig) over(base TopicConfig) TopicConfig {
	if c.Partitions == 0 {
		c.Partitions = base.Partitions
	}
	for _, k := range configKeys {
		k.take(&c, &base)
	}
	return c
}

// builtin returns the defaults of a topic whose options set none.
func builtin() TopicConfig {
	return TopicConfig{
		Partitions:        1,
		Cleanup:           CleanupDelete,
		Retention:         defaultRetention,
		RetentionBytes:    NoLimit,
		Flush:             FlushBeforeAck,
		FlushInterval:     defaultFlushInterval,
		SegmentBytes:      defaultSegmentBytes,
		SegmentAge:        defaultSegmentAge,
		Compression:       CompressionProducer,
		TimestampType:     CreateTime,
		MaxMessageBytes:   defaultMaxMessageBytes,
		MinCleanableRatio: defaultCleanableRatio,
		DeleteRetention:   defaultDeleteRetention,
		MaxCompactionLag:  Forever,
	}
}

// problems lists what is wrong with the fields that are set.
func (c *TopicConfig) problems() []error {
	var bad []error
	report := func(ok bool, format string, args ...any) {
		if !ok {
			bad = append(bad, fmt.Errorf(format, args...))
		}
	}
	report(0 <= c.Partitions && c.Partitions <= maxPartitions,
		"Partitions is %d, want 1 to %d", c.Partitions, maxPartitions)
	report(CleanupDefault <= c.Cleanup && c.Cleanup <= CleanupCompactDelete,
		"Cleanup is %d, which is no CleanupPolicy", c.Cleanup)
	report(c.RetentionBytes >= NoLimit,
		"RetentionBytes is %d, want a number of bytes or NoLimit", c.RetentionBytes)
	report(FlushDefault <= c.Flush && c.Flush <= FlushAsync,
		"Flush is %d, which is no FlushPolicy", c.Flush)
	report(c.SegmentBytes == 0 || minSegmentBytes <= c.SegmentBytes && c.SegmentBytes <= maxSegmentBytes,
		"SegmentBytes is %d, want %d to %d", c.SegmentBytes, minSegmentBytes, maxSegmentBytes)
	report(CompressionDefault <= c.Compression && c.Compression <= CompressionZstd,
		"Compression is %d, which is no Compression", c.Compression)
	report(TimestampDefault <= c.TimestampType && c.TimestampType <= LogAppendTime,
		"TimestampType is %d, which is no TimestampType", c.TimestampType)
	report(0 <= c.MaxMessageBytes && c.MaxMessageBytes <= maxMaxMessageBytes,
		"MaxMessageBytes is %d, want 1 to %d", c.MaxMessageBytes, maxMaxMessageBytes)
	report(0 <= c.MinCleanableRatio && c.MinCleanableRatio <= 1,
		"MinCleanableRatio is %v, want more than 0, at most 1", c.MinCleanableRatio)
	for _, d := range c.durations() {
		if d.least > 0 {
			report(wholeMillis(d.value), "%s is %v, want whole milliseconds, at least 1ms, or Forever", d.name, d.value)
		} else {
			report(wholeMillis(d.value) || 0 < d.value && d.value < time.Millisecond,
				"%s is %v, want whole milliseconds, or less than one, or Forever", d.name, d.value)
		}
	}
	report(c.MaxCompactionLag == 0 || c.MinCompactionLag <= c.MaxCompactionLag,
		"MinCompactionLag is %v, more than MaxCompactionLag, %v", c.MinCompactionLag, c.MaxCompactionLag)
	return bad
}

// namedDuration is a field that is a time.
type namedDuration struct {
	name  string
	value time.Duration
	least time.Duration // Kafka's smallest value
}

func (c *TopicConfig) durations() []namedDuration {
	return []namedDuration{
		{"FlushInterval", c.FlushInterval, time.Millisecond},
		{"SegmentAge", c.SegmentAge, time.Millisecond},
		{"Retention", c.Retention, 0},
		{"DeleteRetention", c.DeleteRetention, 0},
		{"MinCompactionLag", c.MinCompactionLag, 0},
		{"MaxCompactionLag", c.MaxCompactionLag, time.Millisecond},
	}
}

// wholeMillis says whether d is a time that Kafka's milliseconds can tell, or
// left zero.
func wholeMillis(d time.Duration) bool {
	return d == 0 || d == Forever || d > 0 && d%time.Millisecond == 0
}

// invalidOptions returns ErrInvalidOptions with every problem, nil if there is
// none.
func invalidOptions(where string, problems []error) error {
	if len(problems) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s: %w", ErrInvalidOptions, where, errors.Join(problems...))
}

// resolve checks o and fills in what it leaves open.
func (o *Options) resolve() (Options, error) {
	var r Options
	if o != nil {
		r = *o
	}
	var bad []error
	if r.DiskReserve < NoLimit {
		bad = append(bad, fmt.Errorf("DiskReserve is %d, want a number of bytes or NoLimit", r.DiskReserve))
	}
	if r.GroupInitialDelay < 0 {
		bad = append(bad, fmt.Errorf("GroupInitialDelay is %v, want 0 or more", r.GroupInitialDelay))
	}
	err := errors.Join(invalidOptions("Options", bad), invalidOptions("Options.Defaults", r.Defaults.problems()))
	if err != nil {
		return r, err
	}
	r.Defaults = r.Defaults.over(builtin())
	if r.DiskReserve == 0 {
		r.DiskReserve = defaultDiskReserve
	}
	if r.Logger == nil {
		r.Logger = slog.New(slog.DiscardHandler)
	} else {
		r.Logger = slog.New(hostHandler{r.Logger.Handler()})
	}
	return r, nil
}
