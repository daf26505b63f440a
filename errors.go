package riffle

import (
	"errors"
	"fmt"

	"github.com/rifflelog/riffle/internal/batch"
	"github.com/rifflelog/riffle/internal/vfs"
)

// Errors that a caller tells apart with [errors.Is]. Methods of partitions wrap
// them in a [*PartitionError].
var (
	// ErrClosed: the log is closed, or being closed.
	ErrClosed = errors.New("riffle: log is closed")
	// ErrInvalidOptions: options or a topic's configuration. Its message lists
	// every problem.
	ErrInvalidOptions = errors.New("riffle: invalid options")
	// ErrLocked: the directory is open for writing, in another process or this
	// one.
	ErrLocked = errors.New("riffle: directory is open already, in this process or another")
	// ErrReadOnly: the log was opened with [Options.ReadOnly]; or a damaged
	// partition takes no appends, and what can be read of it can be read.
	ErrReadOnly = errors.New("riffle: read-only")
	// ErrInDoubt: ctx ended, or the disk failed, after the write was made or
	// begun and before it was known to be committed. It may or may not be found
	// later, so appending again may make a duplicate: read on from the end that
	// was known before, or give records a key by which duplicates are told.
	ErrInDoubt = errors.New("riffle: outcome of the write is unknown")

	// ErrInvalidState: a call that cannot be made now: see there. Kafka:
	// IllegalStateException, ConcurrentModificationException.
	ErrInvalidState = errors.New("riffle: invalid state")
	// ErrFenced: another one has taken this one's place, for good. Kafka:
	// FENCED_INSTANCE_ID.
	ErrFenced = errors.New("riffle: fenced")
	// ErrGroupNotFound: no group has that name. Kafka: GROUP_ID_NOT_FOUND.
	ErrGroupNotFound = errors.New("riffle: group not found")
	// ErrGroupNotEmpty: the group has members, which own its offsets. Kafka:
	// NON_EMPTY_GROUP, GROUP_SUBSCRIBED_TO_TOPIC.
	ErrGroupNotEmpty = errors.New("riffle: group has members")
	// ErrUnknownMember: a commit of a consumer without which its group has gone on. With
	// the next Poll it joins again. Kafka: UNKNOWN_MEMBER_ID.
	ErrUnknownMember = errors.New("riffle: not a member of the group any more")
	// ErrRebalance: a commit during a rebalance. After the next Poll, what the consumer
	// still has can be committed. Kafka: REBALANCE_IN_PROGRESS, ILLEGAL_GENERATION.
	ErrRebalance = errors.New("riffle: group is rebalancing")
	// ErrNotAssigned: the consumer does not have this partition.
	ErrNotAssigned = errors.New("riffle: partition is not assigned to this consumer")
	// ErrNoOffset: the group has no offset for the partition, and OffsetReset is ResetError.
	// Kafka: NoOffsetForPartitionException.
	ErrNoOffset = errors.New("riffle: no committed offset")
	// ErrWakeup: Consumer.Wakeup was called. Kafka: WakeupException.
	ErrWakeup = errors.New("riffle: woken up")
	// ErrTimeout: a producer's DeliveryTimeout has passed. Kafka: TimeoutException.
	ErrTimeout = errors.New("riffle: timed out")

	// ErrTopicExists: CreateTopic of a name that is taken. Kafka:
	// TOPIC_ALREADY_EXISTS.
	ErrTopicExists = errors.New("riffle: topic exists")
	// ErrTopicNotFound: no topic has that name. Kafka:
	// UNKNOWN_TOPIC_OR_PARTITION.
	ErrTopicNotFound = errors.New("riffle: topic not found")
	// ErrTopicMismatch: EnsureTopic found a topic with fewer partitions than
	// asked for.
	ErrTopicMismatch = errors.New("riffle: topic differs from the one asked for")
	// ErrInvalidTopic: a name that no topic may have, or one that differs from
	// another topic's only by '.' and '_'; or a topic of the log's own. Kafka:
	// INVALID_TOPIC_EXCEPTION.
	ErrInvalidTopic = errors.New("riffle: invalid topic")
	// ErrPolicy: DeleteBefore in a topic whose Cleanup does not delete. Kafka:
	// POLICY_VIOLATION.
	ErrPolicy = errors.New("riffle: the topic's policy does not allow it")
	// ErrPartitionNotFound: the topic has fewer partitions.
	ErrPartitionNotFound = errors.New("riffle: partition not found")
	// ErrPartitionFailed: a write or flush of this partition failed, so nothing
	// more is appended to it until the log is opened again. Kafka:
	// KAFKA_STORAGE_ERROR.
	ErrPartitionFailed = errors.New("riffle: partition is offline")

	// ErrOffsetOutOfRange: see [*OffsetError]. Kafka: OFFSET_OUT_OF_RANGE.
	ErrOffsetOutOfRange = errors.New("riffle: offset out of range")
	// ErrConflict: see [*ConflictError].
	ErrConflict = errors.New("riffle: condition does not hold")
	// ErrCorrupt: see [*CorruptError]. Kafka: CORRUPT_MESSAGE.
	ErrCorrupt = errors.New("riffle: data on disk is corrupt")
	// ErrDiskFull: there is no room, or Options.DiskReserve keeps what there is;
	// nothing was written. The same call may succeed when there is.
	ErrDiskFull = errors.New("riffle: disk is full")
	// ErrRecordTooLarge: one record that no batch of the topic can hold. Kafka:
	// RecordTooLargeException.
	ErrRecordTooLarge = errors.New("riffle: record is too large")
	// ErrBatchTooLarge: records that together pass MaxMessageBytes. Kafka:
	// MESSAGE_TOO_LARGE.
	ErrBatchTooLarge = errors.New("riffle: batch is too large")
	// ErrInvalidRecord: records that no topic takes. Kafka: INVALID_RECORD,
	// INVALID_TIMESTAMP.
	ErrInvalidRecord = errors.New("riffle: invalid record")
)

// PartitionError says which operation failed on which partition. It unwraps to
// the reason.
type PartitionError struct {
	Op        string // what was to be done: "append", "read", "delete", "open", "close"
	Topic     string // its name
	Partition int    // from 0
	Err       error  // the reason
}

// Error implements error.
func (e *PartitionError) Error() string {
	return fmt.Sprintf("%s %s-%d: %v", e.Op, e.Topic, e.Partition, e.Err)
}

// Unwrap returns the reason.
func (e *PartitionError) Unwrap() error { return e.Err }

// OffsetError is ErrOffsetOutOfRange with the offsets that there are. Reading
// may begin at any offset in [Start, End], the end included: go on at Start to
// miss nothing that is left, at End for what comes.
type OffsetError struct {
	Offset     Offset // the one asked for
	Start, End Offset // Bounds.Start and Bounds.End
}

// Error implements error.
func (e *OffsetError) Error() string {
	return fmt.Sprintf("%v: %d is not in [%d, %d]", ErrOffsetOutOfRange, e.Offset, e.Start, e.End)
}

// Unwrap returns ErrOffsetOutOfRange.
func (e *OffsetError) Unwrap() error { return ErrOffsetOutOfRange }

// ConflictError is ErrConflict with what broke the condition of an AppendIf.
// Nothing was written. Read on up to Next, decide again, and append if nothing has
// changed since Next.
type ConflictError struct {
	// Offset is, for KeyUnchanged, the offset of the first record with the key;
	// for NextOffset the offset that it was given.
	Offset Offset
	Next   Offset // the log end that was looked at: Bounds.End
}

// Error implements error.
func (e *ConflictError) Error() string {
	return fmt.Sprintf("%v: offset %d, the log goes on at %d", ErrConflict, e.Offset, e.Next)
}

// Unwrap returns ErrConflict.
func (e *ConflictError) Unwrap() error { return ErrConflict }

// CorruptError is ErrCorrupt with the place. For a file of records, reading can
// go on at Next.
type CorruptError struct {
	File   string // path
	Pos    int64  // byte at which the damage was found
	Offset Offset // the offset that should have been there; NoOffset if the file has none
	Next   Offset // the next offset that can be read; NoOffset if there is none
	Err    error  // what is wrong

	nextPos int64 // where Next is, if it is in this file
}

// Error implements error.
func (e *CorruptError) Error() string {
	s := fmt.Sprintf("%v: %s: byte %d", ErrCorrupt, e.File, e.Pos)
	if e.Offset != NoOffset {
		s += fmt.Sprintf(" (offset %d)", e.Offset)
	}
	if e.Next != NoOffset {
		s += fmt.Sprintf(", readable again from offset %d", e.Next)
	}
	return fmt.Sprintf("%s: %v", s, e.Err)
}

// Unwrap returns ErrCorrupt and what is wrong.
func (e *CorruptError) Unwrap() []error { return []error{ErrCorrupt, e.Err} }

// inDoubt says that a write may have been made when waiting for it ended with err;
// nil if it did not.
func inDoubt(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrInDoubt, err)
}

// diskError adds ErrDiskFull to an error of the file system that means it.
func diskError(err error) error {
	if errors.Is(err, vfs.ErrNoSpace) {
		return fmt.Errorf("%w: %w", ErrDiskFull, err)
	}
	return err
}

// encodeError turns what package batch says of a caller's records into our
// words. Alone says that the record that did not fit would not fit alone either.
func encodeError(err error, alone bool) error {
	switch {
	case errors.Is(err, batch.ErrTooLarge) && alone:
		return fmt.Errorf("%w: %w", ErrRecordTooLarge, err)
	case errors.Is(err, batch.ErrTooLarge):
		return fmt.Errorf("%w: %w", ErrBatchTooLarge, err)
	}
	return fmt.Errorf("%w: %w", ErrInvalidRecord, err)
}
