package riffle

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"
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
	// DiskReserve is how many bytes of the disk appends leave free: one that
	// would leave less is ErrDiskFull, until there is room again. Creating topics
	// goes on: 16 MiB more are set aside for that, in the file reserve, which is
	// given up when there is no other space. Default 64 MiB; NoLimit: appends
	// fill the disk, and nothing is set aside. Kafka has no such key: there a
	// full disk takes the log directory offline.
	DiskReserve int64
	// Logger hears what the log does in the background: what recovery found,
	// flushes that failed. Default: nothing is logged.
	Logger *slog.Logger
}

// TopicConfig describes a topic. A field left zero follows [Options.Defaults],
// and what is zero there too has the default given here.
type TopicConfig struct {
	// Partitions is how many partitions the topic is created with, at most
	// 10,000. Default 1. Kafka: num.partitions.
	Partitions int
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
}

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
		if k.get(&c) == "" && k.get(&base) != "" {
			// What get printed, set takes.
			_ = k.set(&c, k.get(&base))
		}
	}
	return c
}

// builtin returns the defaults of a topic whose options set none.
func builtin() TopicConfig {
	return TopicConfig{
		Partitions:      1,
		Flush:           FlushBeforeAck,
		FlushInterval:   defaultFlushInterval,
		SegmentBytes:    defaultSegmentBytes,
		SegmentAge:      defaultSegmentAge,
		Compression:     CompressionProducer,
		TimestampType:   CreateTime,
		MaxMessageBytes: defaultMaxMessageBytes,
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
	report(FlushDefault <= c.Flush && c.Flush <= FlushAsync,
		"Flush is %d, which is no FlushPolicy", c.Flush)
	report(wholeMillis(c.FlushInterval),
		"FlushInterval is %v, want whole milliseconds, at least 1ms, or Forever", c.FlushInterval)
	report(c.SegmentBytes == 0 || minSegmentBytes <= c.SegmentBytes && c.SegmentBytes <= maxSegmentBytes,
		"SegmentBytes is %d, want %d to %d", c.SegmentBytes, minSegmentBytes, maxSegmentBytes)
	report(wholeMillis(c.SegmentAge),
		"SegmentAge is %v, want whole milliseconds, at least 1ms, or Forever", c.SegmentAge)
	report(CompressionDefault <= c.Compression && c.Compression <= CompressionZstd,
		"Compression is %d, which is no Compression", c.Compression)
	report(TimestampDefault <= c.TimestampType && c.TimestampType <= LogAppendTime,
		"TimestampType is %d, which is no TimestampType", c.TimestampType)
	report(0 <= c.MaxMessageBytes && c.MaxMessageBytes <= maxMaxMessageBytes,
		"MaxMessageBytes is %d, want 1 to %d", c.MaxMessageBytes, maxMaxMessageBytes)
	return bad
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
	}
	return r, nil
}

// configKey is one field of a TopicConfig under the key and in the words that
// Kafka has for it: what the metadata log stores. An empty string is a field
// left zero.
type configKey struct {
	name string
	get  func(*TopicConfig) string
	set  func(*TopicConfig, string) error
}

// configKeys are all fields but Partitions, which is no configuration in Kafka
// either.
var configKeys = []configKey{
	enumKey("compression.type", []string{"", "producer", "none", "gzip", "snappy", "lz4", "zstd"},
		func(c *TopicConfig) *Compression { return &c.Compression }),
	millisKey("flush.ms", func(c *TopicConfig) *time.Duration { return &c.FlushInterval }),
	bytesKey("max.message.bytes", func(c *TopicConfig) *int { return &c.MaxMessageBytes }),
	enumKey("message.timestamp.type", []string{"", "CreateTime", "LogAppendTime"},
		func(c *TopicConfig) *TimestampType { return &c.TimestampType }),
	enumKey("riffle.flush", []string{"", "before-ack", "async"}, // ours: Kafka has no such key
		func(c *TopicConfig) *FlushPolicy { return &c.Flush }),
	bytesKey("segment.bytes", func(c *TopicConfig) *int64 { return &c.SegmentBytes }),
	millisKey("segment.ms", func(c *TopicConfig) *time.Duration { return &c.SegmentAge }),
}

// bytesKey is a key whose values are a number of bytes.
func bytesKey[T ~int | ~int64](name string, field func(*TopicConfig) *T) configKey {
	return configKey{
		name: name,
		get: func(c *TopicConfig) string {
			if *field(c) == 0 {
				return ""
			}
			return strconv.FormatInt(int64(*field(c)), 10)
		},
		set: func(c *TopicConfig, s string) error {
			n, err := strconv.ParseInt(s, 10, 64)
			*field(c) = T(n)
			if err == nil && int64(T(n)) != n {
				err = fmt.Errorf("%s is %s: %w", name, s, strconv.ErrRange)
			}
			return err
		},
	}
}

// millisKey is a key whose values are a number of milliseconds; Kafka's largest
// number is Forever.
func millisKey(name string, field func(*TopicConfig) *time.Duration) configKey {
	return configKey{
		name: name,
		get:  func(c *TopicConfig) string { return formatMillis(*field(c)) },
		set: func(c *TopicConfig, s string) (err error) {
			*field(c), err = parseMillis(s)
			return err
		},
	}
}

// enumKey is a key whose values are words, listed by their number.
func enumKey[T ~int](name string, words []string, field func(*TopicConfig) *T) configKey {
	return configKey{
		name: name,
		get:  func(c *TopicConfig) string { return words[*field(c)] },
		set: func(c *TopicConfig, s string) error {
			for i, w := range words {
				if w == s {
					*field(c) = T(i)
					return nil
				}
			}
			return fmt.Errorf("%s is %q, want one of %s", name, s, strings.Join(words[1:], ", "))
		},
	}
}

// formatMillis prints a duration as Kafka does; Forever is its largest number.
func formatMillis(d time.Duration) string {
	switch d {
	case 0:
		return ""
	case Forever:
		return strconv.FormatInt(math.MaxInt64, 10)
	}
	return strconv.FormatInt(d.Milliseconds(), 10)
}

func parseMillis(s string) (time.Duration, error) {
	ms, err := strconv.ParseInt(s, 10, 64)
	if err != nil || ms < 0 {
		return 0, fmt.Errorf("%q is no number of milliseconds", s)
	}
	if ms > int64(Forever/time.Millisecond) {
		return Forever, nil
	}
	return time.Duration(ms) * time.Millisecond, nil
}

// configMap returns the fields of c that are set, by Kafka's keys.
func (c *TopicConfig) configMap() map[string]string {
	m := make(map[string]string)
	for _, k := range configKeys {
		if s := k.get(c); s != "" {
			m[k.name] = s
		}
	}
	return m
}

// setConfigMap sets the fields that m names. A key that it does not know is an
// error: a later version wrote it and means something by it.
func (c *TopicConfig) setConfigMap(m map[string]string) error {
	known := 0
	for _, k := range configKeys {
		s, ok := m[k.name]
		if !ok {
			continue
		}
		known++
		if err := k.set(c, s); err != nil {
			return err
		}
	}
	if known != len(m) {
		return fmt.Errorf("%w: topic configuration %v", errors.ErrUnsupported, m)
	}
	return nil
}
