package riffle

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rifflelog/riffle/internal/compress"
)

// Acks says when a record counts as sent.
type Acks int

// The acks.
const (
	// AcksDefault is AcksAll.
	AcksDefault Acks = iota
	// AcksAll: when it is committed, as the topic's FlushPolicy says. Kafka: acks=all.
	AcksAll
	// AcksLeader is the same on one node. Kafka: acks=1.
	AcksLeader
	// AcksNone: when it is in the producer's buffer. Its offset is not told, nor, but by
	// Flush, whether it could be appended. Kafka: acks=0.
	AcksNone
)

// ProducerOptions are a producer's options. The zero value, like a nil pointer, means
// the defaults.
type ProducerOptions struct {
	// Acks says when a record counts as sent. Default AcksAll. Kafka: acks.
	Acks Acks
	// Linger is how long a batch that is not full waits for more records. Default 0: it
	// leaves as soon as it can, which is when the one before it in its partition is
	// committed. Kafka: linger.ms, 5 ms there from 4.0 on.
	Linger time.Duration
	// BatchBytes is how large a batch grows, in bytes, before compression, at least 1 KiB;
	// a larger record is a batch of its own, and a batch that its topic turns out not to
	// take (MaxMessageBytes is after compression) is sent in parts. Each partition that has
	// something buffered takes that much of BufferBytes. Default 64 KiB. Kafka: batch.size,
	// 16 KiB there: there is no network here.
	BatchBytes int
	// BufferBytes is how much memory the producer takes for what is not yet sent, and to
	// know the callbacks of that, to a tenth more; who wants to buffer more waits until a
	// sixteenth of it is free. At least twice BatchBytes. Default 32 MiB. Kafka:
	// buffer.memory.
	BufferBytes int64
	// Compression is how batches are compressed, if the topic keeps what producers
	// send (CompressionProducer). Default CompressionNone. Kafka: compression.type.
	Compression Compression
	// CompressionLevel is the codec's level, gzip 1 to 9, lz4 1 to 17, zstd 1 to 22; zero
	// is its default. Kafka: compression.gzip.level and the like (KIP-390).
	CompressionLevel int
	// Partitioner chooses the partition of a record. Default, and where it returns a
	// negative number: murmur2 of the key as in Java; without a key, one partition a
	// batch, at random. Kafka: partitioner.class.
	Partitioner Partitioner
	// DeliveryTimeout is how long after it was buffered a record fails with ErrTimeout; if
	// it had been appended by then and was not committed, with ErrInDoubt as well. Until
	// then it is tried again while the disk is full. Default 2 min. Kafka:
	// delivery.timeout.ms. There is no number of retries, and order is always kept.
	DeliveryTimeout time.Duration
	// Hooks are called for each record, in this order.
	Hooks []ProducerHooks
	// ClientID names the producer in what the log's Logger is told. Kafka: client.id.
	ClientID string
}

// ProducerHooks are called for each record of a producer. A nil one is skipped. They may
// be called concurrently, and must not call the producer.
type ProducerHooks struct {
	// Send is called before a record is sent, on the caller's goroutine, and may change
	// it. An error refuses the record, and is what its sender gets.
	Send func(context.Context, *Record) error
	// Acked is called when a record was sent or has failed, before its done, where that
	// is; not for one that Send or Enqueue refused. Its panics are logged.
	Acked func(RecordMetadata, error)
}

// RecordMetadata says where a record went. Of one that failed, Offset is NoOffset.
type RecordMetadata struct {
	Topic     string    // its name
	Partition int       // -1 if none was chosen
	Offset    Offset    // NoOffset under AcksNone
	Timestamp time.Time // as it is stored, in UTC: the record's, or that of the append (LogAppendTime)
}

const (
	defaultBatchBytes      = 64 << 10
	minBatchBytes          = 1 << 10
	defaultBufferBytes     = 32 << 20
	defaultDeliveryTimeout = 2 * time.Minute
)

// resolve checks o and fills in what it leaves open.
func (o *ProducerOptions) resolve() (ProducerOptions, error) {
	var r ProducerOptions
	if o != nil {
		r = *o
	}
	if r.Acks == AcksDefault {
		r.Acks = AcksAll
	}
	if r.BatchBytes == 0 {
		r.BatchBytes = defaultBatchBytes
	}
	if r.BufferBytes == 0 {
		r.BufferBytes = max(defaultBufferBytes, 2*int64(r.BatchBytes))
	}
	if r.DeliveryTimeout == 0 {
		r.DeliveryTimeout = defaultDeliveryTimeout
	}
	if r.Compression == CompressionDefault {
		r.Compression = CompressionNone
	}
	return r, invalidOptions("ProducerOptions", r.problems())
}

func (o *ProducerOptions) problems() []error {
	var bad []error
	report := func(ok bool, format string, args ...any) {
		if !ok {
			bad = append(bad, fmt.Errorf(format, args...))
		}
	}
	report(AcksAll <= o.Acks && o.Acks <= AcksNone, "Acks is %d, which is no Acks", o.Acks)
	report(o.Linger >= 0, "Linger is %v, want 0 or more", o.Linger)
	report(minBatchBytes <= o.BatchBytes && o.BatchBytes <= maxMaxMessageBytes,
		"BatchBytes is %d, want %d to %d", o.BatchBytes, minBatchBytes, maxMaxMessageBytes)
	report(o.BufferBytes >= 2*int64(o.BatchBytes), "BufferBytes is %d, want at least twice BatchBytes, %d", o.BufferBytes, o.BatchBytes)
	report(CompressionNone <= o.Compression && o.Compression <= CompressionZstd,
		"Compression is %d, want none, gzip, snappy, lz4 or zstd", o.Compression)
	report(o.DeliveryTimeout > o.Linger, "DeliveryTimeout is %v, want more than Linger, %v", o.DeliveryTimeout, o.Linger)
	if o.CompressionLevel != 0 && len(bad) == 0 {
		if err := compress.CheckLevel(o.Compression.codec(), o.CompressionLevel); err != nil {
			bad = append(bad, fmt.Errorf("CompressionLevel: %w", err))
		}
	}
	return bad
}

// SendError says which records of a SendAll have failed. It unwraps to their errors.
type SendError struct {
	Errs []error // one for each record; nil for those that were sent
}

// Error implements error.
func (e *SendError) Error() string {
	failed := 0
	for _, err := range e.Errs {
		if err != nil {
			failed++
		}
	}
	return fmt.Sprintf("riffle: %d of %d records were not sent: %v", failed, len(e.Errs), errors.Join(e.Errs...))
}

// Unwrap returns the errors of the records that were not sent.
func (e *SendError) Unwrap() []error {
	var errs []error
	for _, err := range e.Errs {
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}
