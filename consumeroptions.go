package riffle

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/rifflelog/riffle/internal/group"
)

// OffsetReset says where a consumer begins in a partition for which its group has no
// offset, and goes on where its offset is no longer there. Kafka: auto.offset.reset.
type OffsetReset int

// The ways to begin.
const (
	// ResetDefault is ResetEarliest.
	ResetDefault OffsetReset = iota
	// ResetEarliest begins with the first record that there is.
	ResetEarliest
	// ResetLatest begins with the next record to come.
	ResetLatest
	// ResetError makes it an error, ErrNoOffset or an *OffsetError, and the partition
	// waits for a Seek. Kafka: none.
	ResetError
)

// ConsumerOptions are a consumer's options. The zero value, like a nil pointer, means the
// defaults: then the consumer reads nothing until Assign or Subscribe is called.
type ConsumerOptions struct {
	// Group is the name of the group whose members share the partitions of what they
	// subscribe to, and whose committed offsets say where it goes on. Without one, Topics
	// are read from all of their partitions, and nothing is committed. Kafka: group.id.
	Group string
	// Topics are subscribed to. One that does not exist is waited for.
	Topics []string
	// TopicPattern subscribes to all topics whose whole name it matches, also to those to
	// come, but for the log's own. Not together with Topics. Kafka: subscribe(Pattern).
	TopicPattern *regexp.Regexp
	// OffsetReset says where to begin without a committed offset. Default ResetEarliest, so
	// that nothing is skipped. Kafka: auto.offset.reset, latest there.
	OffsetReset OffsetReset
	// Uncommitted has the consumer read up to the high watermark instead of the last stable
	// offset, and so also records of open and aborted transactions. Control records, which end
	// a transaction, are never handed out. There are no transactions yet: until then all that
	// is below the high watermark is stable. Kafka: isolation.level=read_uncommitted, the
	// default there.
	Uncommitted bool
	// ManualCommit commits nothing but by Commit and its like. Kafka:
	// enable.auto.commit=false.
	ManualCommit bool
	// MarkDone has commits cover what was told to [Consumer.Done] instead of what was
	// passed: for records that other goroutines work on. It needs a Group.
	MarkDone bool
	// AutoCommitInterval is how long after a record was passed it is committed, if Poll or
	// Records is called or waiting then. Default 5 s. Kafka:
	// auto.commit.interval.ms.
	AutoCommitInterval time.Duration
	// Assignors are how the group may share its partitions, the preferred first: all members
	// must have one in common, and the one that most prefer is taken. If all of them are
	// cooperative, a rebalance takes from a member only what another is to have; else each
	// member gives up all first. Default CooperativeStickyAssignor; put RangeAssignor behind
	// it to share a group with clients that know only that. At most 64. Kafka:
	// partition.assignment.strategy.
	Assignors []Assignor
	// InstanceID makes the consumer a static member: when it is closed, or does not poll for
	// MaxPollInterval, its partitions stay its own for SessionTimeout, and another consumer of
	// that id goes on with them without a rebalance. A second one beside it fences the first:
	// ErrFenced. At most 249 bytes. Kafka: group.instance.id (KIP-345).
	InstanceID string
	// SessionTimeout is how long a static member's partitions wait for it. 6 s to 30 min.
	// Default 45 s. The other members of this process have no session: the coordinator knows
	// when they end. Kafka: session.timeout.ms.
	SessionTimeout time.Duration
	// HeartbeatInterval is shorter than SessionTimeout. Default 3 s. It rules members of
	// other processes, which there are none of yet. Kafka: heartbeat.interval.ms.
	HeartbeatInterval time.Duration
	// MaxPollInterval is how long a member of a group may take between two calls of Poll, or
	// for one step of Records; up to a quarter longer is noticed late. After that its
	// partitions go to others, and it joins again with its next poll. It is also how long a
	// rebalance waits for members. Default 5 min. Kafka: max.poll.interval.ms.
	MaxPollInterval time.Duration
	// MinBytes is how much Poll gathers before it returns, of keys, values and headers, unless
	// MaxWait, MaxBytes or MaxPollRecords is reached first. Default 1. Kafka: fetch.min.bytes.
	MinBytes int
	// MaxWait is how long Poll gathers MinBytes, counted from the first record; it is no limit
	// on how long it waits for one. Default 500 ms. Kafka: fetch.max.wait.ms.
	MaxWait time.Duration
	// MaxBytes is how much Poll returns at most, but for the record that passes it. Default
	// 50 MiB. Kafka: fetch.max.bytes.
	MaxBytes int
	// MaxPartitionBytes is how much is read of one partition until it is another's turn: to
	// the end of the batch in which that many bytes are reached. Default 1 MiB. Kafka: max.partition.fetch.bytes.
	MaxPartitionBytes int
	// MaxPollRecords is how many records Poll returns at most. Default 500. Kafka:
	// max.poll.records.
	MaxPollRecords int

	// Assigned is called with the partitions that the consumer has got, before it reads from
	// them: it may Seek. With an error nothing is delivered from them, Poll returns it, and the
	// next Poll calls it again. Kafka: ConsumerRebalanceListener.onPartitionsAssigned.
	//
	// The three are called inside Poll and the steps of Records, Revoked and Lost also inside
	// Close, Shutdown and the log's own, with that call's context; Close has one of 30 seconds.
	// Without a group they are called too, for a subscription; never for what is assigned by hand. They may use the consumer, except for
	// Poll, Records, Close and Shutdown. A panic in one becomes its error. If several fail,
	// the first error is returned; what they are told of has happened all the same.
	Assigned func(ctx context.Context, c *Consumer, parts []TopicPartition) error
	// Revoked is called with partitions that the consumer is about to lose to another one,
	// while it still has them: what was passed is committed already, unless ManualCommit.
	// Kafka: onPartitionsRevoked.
	Revoked func(ctx context.Context, c *Consumer, parts []TopicPartition) error
	// Lost is called with partitions that others may have already: it missed MaxPollInterval,
	// was fenced, or their topic is deleted. Nothing can be committed for them. Default:
	// Revoked is called. Kafka: onPartitionsLost.
	Lost func(ctx context.Context, c *Consumer, parts []TopicPartition) error
	// Hooks are called for each record, in this order.
	Hooks []ConsumerHooks
	// ClientID names the consumer in Group.Describe and in what the log's Logger is told.
	// Default "consumer-" and Group. Kafka: client.id.
	ClientID string
}

// ConsumerHooks are called for each record of a consumer. A nil one is skipped. They must
// not call the consumer.
type ConsumerHooks struct {
	// Deliver is called before a record is handed out, on the goroutine of Poll or Records,
	// and may change it. A panic in it is the error of that call: then nothing was handed out,
	// and all records of that call come again, through all hooks, with the next one.
	Deliver func(context.Context, *Record)
}

const (
	defaultAutoCommitInterval = 5 * time.Second        // Kafka's
	defaultSessionTimeout     = 45 * time.Second       // Kafka's
	minSessionTimeout         = 6 * time.Second        // Kafka: group.min.session.timeout.ms
	maxSessionTimeout         = 30 * time.Minute       // Kafka: group.max.session.timeout.ms
	defaultHeartbeatInterval  = 3 * time.Second        // Kafka's
	defaultMaxPollInterval    = 5 * time.Minute        // Kafka's
	defaultMaxWait            = 500 * time.Millisecond // Kafka's
	defaultMaxBytes           = 50 << 20               // Kafka's
	defaultMaxPartitionBytes  = 1 << 20                // Kafka's
	defaultMaxPollRecords     = 500                    // Kafka's
	maxGroupName              = 32767                  // what a string of Kafka's protocol can be
)

// resolve checks o and fills in what it leaves open.
func (o *ConsumerOptions) resolve() (ConsumerOptions, error) {
	var r ConsumerOptions
	if o != nil {
		r = *o
	}
	r.Topics = slices.Clone(r.Topics)
	r.Assignors = slices.Clone(r.Assignors)
	r.Hooks = slices.Clone(r.Hooks)
	if err := invalidOptions("ConsumerOptions", r.problems()); err != nil {
		return r, err
	}
	setDefault(&r.OffsetReset, ResetEarliest)
	setDefault(&r.AutoCommitInterval, defaultAutoCommitInterval)
	setDefault(&r.SessionTimeout, defaultSessionTimeout)
	setDefault(&r.HeartbeatInterval, defaultHeartbeatInterval)
	setDefault(&r.MaxPollInterval, defaultMaxPollInterval)
	setDefault(&r.MinBytes, 1)
	setDefault(&r.MaxWait, defaultMaxWait)
	setDefault(&r.MaxBytes, defaultMaxBytes)
	setDefault(&r.MaxPartitionBytes, defaultMaxPartitionBytes)
	setDefault(&r.MaxPollRecords, defaultMaxPollRecords)
	if len(r.Assignors) == 0 {
		r.Assignors = []Assignor{CooperativeStickyAssignor()}
	}
	if r.Lost == nil {
		r.Lost = r.Revoked
	}
	setDefault(&r.ClientID, "consumer-"+r.Group)
	return r, nil
}

// setDefault gives a field that is zero its default.
func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// problems lists what is wrong with the fields that are set.
func (o *ConsumerOptions) problems() []error {
	var bad []error
	report := func(ok bool, format string, args ...any) {
		if !ok {
			bad = append(bad, fmt.Errorf(format, args...))
		}
	}
	report(len(o.Group) <= maxGroupName, "Group has %d bytes, at most %d", len(o.Group), maxGroupName)
	for _, name := range o.Topics {
		if err := checkReadableName(name); err != nil {
			bad = append(bad, fmt.Errorf("Topics: %w", err))
		}
	}
	report(o.TopicPattern == nil || len(o.Topics) == 0, "both Topics and TopicPattern are set")
	report(ResetDefault <= o.OffsetReset && o.OffsetReset <= ResetError, "OffsetReset is %d, which is no OffsetReset", o.OffsetReset)
	report(o.Group != "" || !o.MarkDone, "MarkDone is set, and there is no Group to commit for")
	report(o.Group != "" || o.InstanceID == "", "InstanceID is set, and there is no Group")
	report(len(o.InstanceID) <= group.MaxName, "InstanceID has %d bytes, at most %d", len(o.InstanceID), group.MaxName)
	report(len(o.Assignors) <= group.MaxProtocols, "Assignors are %d, at most %d", len(o.Assignors), group.MaxProtocols)
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"AutoCommitInterval", o.AutoCommitInterval},
		{"MaxPollInterval", o.MaxPollInterval},
		{"HeartbeatInterval", o.HeartbeatInterval},
		{"MaxWait", o.MaxWait},
	} {
		report(d.value >= 0, "%s is %v, want more than 0", d.name, d.value)
	}
	report(o.SessionTimeout == 0 || minSessionTimeout <= o.SessionTimeout && o.SessionTimeout <= maxSessionTimeout,
		"SessionTimeout is %v, want %v to %v", o.SessionTimeout, minSessionTimeout, maxSessionTimeout)
	session, heartbeat := o.SessionTimeout, o.HeartbeatInterval
	setDefault(&session, defaultSessionTimeout)
	setDefault(&heartbeat, defaultHeartbeatInterval)
	report(heartbeat < session, "HeartbeatInterval is %v, want less than SessionTimeout, %v", heartbeat, session)
	for _, n := range []struct {
		name  string
		value int
	}{
		{"MinBytes", o.MinBytes},
		{"MaxBytes", o.MaxBytes},
		{"MaxPartitionBytes", o.MaxPartitionBytes},
		{"MaxPollRecords", o.MaxPollRecords},
	} {
		report(n.value >= 0, "%s is %d, want more than 0", n.name, n.value)
	}
	return append(bad, assignorProblems(o.Assignors)...)
}

// checkReadableName is checkTopicName that allows the log's own topics.
func checkReadableName(name string) error {
	if slices.Contains(internalTopics, name) {
		return nil
	}
	if err := checkTopicName(name); err != nil {
		return errors.Join(err)
	}
	return nil
}
