package riffle

import (
	"context"
	"fmt"
	"iter"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
)

// maxTopicName is how many bytes a topic's name has at most, as in Kafka: with
// "-" and a partition's number it is still a file name everywhere.
const maxTopicName = 249

// Topic is a named set of partitions. It is safe for concurrent use.
type Topic struct {
	log      *Log
	name     string
	id       [16]byte
	internal bool // the log's own: its appends may use DiskReserve
	counts   topicCounts
	// state is replaced as a whole, by whoever has the name reserved.
	state atomic.Pointer[topicState]
}

// topicState is what of a topic can be changed. It never changes itself.
type topicState struct {
	own        TopicConfig // what the topic itself sets
	effective  TopicConfig // with the log's defaults
	partitions []*Partition
}

// newTopic returns a topic with its partitions, none of which has a file yet.
func (l *Log) newTopic(name string, id [16]byte, own TopicConfig) *Topic {
	t := &Topic{log: l, name: name, id: id, internal: slices.Contains(internalTopics, name)}
	t.setState(own, nil)
	return t
}

// setState gives the topic a configuration, and the partitions that it lacks
// behind those that it has.
func (t *Topic) setState(own TopicConfig, partitions []*Partition) {
	s := &topicState{own: own, effective: own.over(t.log.opts.Defaults)}
	s.partitions = make([]*Partition, s.effective.Partitions)
	for i := copy(s.partitions, partitions); i < len(s.partitions); i++ {
		s.partitions[i] = newPartition(t, i, filepath.Join(t.log.dir, TopicPartition{t.name, i}.String()))
	}
	t.state.Store(s)
}

// Name is the topic's name.
func (t *Topic) Name() string { return t.name }

// ID is the topic's id: random, and never the same for two topics, not even of
// one name.
func (t *Topic) ID() [16]byte { return t.id }

// Config returns the configuration that is in effect: what the topic sets over
// [Options.Defaults] over the built-in defaults.
func (t *Topic) Config() TopicConfig { return t.state.Load().effective }

func (t *Topic) config() *TopicConfig { return &t.state.Load().effective }

// all returns the partitions that there are now, which the caller must not change.
func (t *Topic) all() []*Partition { return t.state.Load().partitions }

// NumPartitions is the number of partitions.
func (t *Topic) NumPartitions() int { return len(t.all()) }

// Partition returns partition i, counted from 0: ErrPartitionNotFound if there
// are fewer.
func (t *Topic) Partition(i int) (*Partition, error) {
	all := t.all()
	if i < 0 || i >= len(all) {
		return nil, fmt.Errorf("%w: %s has 0 to %d, asked for %d", ErrPartitionNotFound, t.name, len(all)-1, i)
	}
	return all[i], nil
}

// Partitions iterates over the partitions that there are as the loop begins, by
// their number.
func (t *Topic) Partitions() iter.Seq[*Partition] {
	return func(yield func(*Partition) bool) {
		for _, p := range t.all() {
			if !yield(p) {
				return
			}
		}
	}
}

// PartitionFor returns the partition of a key: the one that Kafka's default
// partitioner and every client that agrees with Java's chooses (murmur2). A nil
// key, for which that partitioner chooses at random, is partition 0 here. It
// changes when partitions are added.
func (t *Topic) PartitionFor(key []byte) *Partition {
	all := t.all()
	if key == nil {
		return all[0]
	}
	return all[keyPartition(key, len(all))]
}

// SetConfig changes the topic's configuration. Change sees what the topic itself
// sets, and may change all but Partitions and Flush, which are fixed:
// ErrInvalidOptions. A field that it sets to zero follows [Options.Defaults]. It is
// called once, on the caller's goroutine, while no other change of the topic is
// made, so it must not change it in another way.
//
// When SetConfig returns nil, the change is durable and in effect: retention at its
// next pass, the size and age of segments with the next append. Errors:
// ErrInvalidOptions, ErrTopicNotFound if the topic was deleted, ErrDiskFull,
// ErrClosed. If ctx ends while it waits, the error is ErrInDoubt: the change may come to
// be. Kafka: IncrementalAlterConfigs.
func (t *Topic) SetConfig(ctx context.Context, change func(*TopicConfig)) error {
	var own TopicConfig
	err := t.log.changeTopic(ctx, t.name, topicChange{
		check: t.isThere,
		prepare: func() error {
			before := t.state.Load().own
			own = before
			change(&own)
			effective := own.over(t.log.opts.Defaults)
			problems := effective.problems()
			if own.Partitions != before.Partitions {
				problems = append(problems, fmt.Errorf("number of partitions is %d, want %d: SetPartitions changes it", own.Partitions, before.Partitions))
			}
			if own.Flush != before.Flush {
				problems = append(problems, fmt.Errorf("flush policy is %d, want %d: it is fixed when the topic is created", own.Flush, before.Flush))
			}
			return invalidOptions("TopicConfig", problems)
		},
		make: func() error {
			err := t.log.appendMetadata(kindConfig, configRecord{ID: formatID(t.id), Config: own.configMap()})
			if err == nil {
				t.setState(own, t.all())
				for _, p := range t.all() {
					p.intervalChanged()
				}
			}
			return err
		},
	})
	if err != nil {
		return fmt.Errorf("set configuration of %q: %w", t.name, err)
	}
	return nil
}

// SetPartitions gives the topic more partitions, n in all, at most 10,000. Fewer
// than it has is ErrInvalidOptions; as many changes nothing. Records stay where
// they are, so those of one key may be in two partitions afterwards:
// [Topic.PartitionFor] may choose another one. The rest is as of SetConfig. Kafka:
// CreatePartitions.
func (t *Topic) SetPartitions(ctx context.Context, n int) error {
	err := t.log.changeTopic(ctx, t.name, topicChange{
		check: t.isThere,
		prepare: func() error {
			if has := t.NumPartitions(); n < has || n > maxPartitions {
				return invalidOptions("partitions", []error{fmt.Errorf("%d, want %d to %d", n, has, maxPartitions)})
			}
			return nil
		},
		make: func() error {
			if n == t.NumPartitions() {
				return nil
			}
			err := t.log.appendMetadata(kindPartitions, partitionsRecord{ID: formatID(t.id), Partitions: n})
			if err == nil {
				own := t.state.Load().own
				own.Partitions = n
				t.setState(own, t.all())
				t.log.mu.Lock()
				t.log.tellConsumers()
				t.log.mu.Unlock()
			}
			return err
		},
	})
	if err != nil {
		return fmt.Errorf("set partitions of %q: %w", t.name, err)
	}
	return nil
}

// isThere returns ErrTopicNotFound if the topic was deleted, and ErrInvalidTopic if it is
// the log's own, which nobody else changes. Called under the log's mu.
func (t *Topic) isThere() error {
	if t.internal {
		return errInternal(t.name)
	}
	if t.log.topics[t.name] == t {
		return nil
	}
	return notFound(t.name)
}

// reservedTopics are names of Kafka's that stand for what is the log's own.
var reservedTopics = []string{metadataTopic, "__consumer_offsets", "__transaction_state"}

// internalTopics are those of them that are topics here.
var internalTopics = []string{offsetsTopic}

func errInternal(name string) error {
	return fmt.Errorf("%w: %q is the log's own", ErrInvalidTopic, name)
}

// checkTopicName returns ErrInvalidTopic for a name that Kafka does not allow,
// or that is the log's own.
func checkTopicName(name string) error {
	switch {
	case slices.Contains(reservedTopics, name):
		return fmt.Errorf("%w: %q is reserved", ErrInvalidTopic, name)
	case name == "" || name == "." || name == "..":
		return fmt.Errorf("%w: %q is no file name to build on", ErrInvalidTopic, name)
	case len(name) > maxTopicName:
		return fmt.Errorf("%w: %d bytes, at most %d", ErrInvalidTopic, len(name), maxTopicName)
	}
	for i := range len(name) {
		c := name[i]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '-' {
			continue
		}
		return fmt.Errorf("%w: %q: byte %d is not one of a-z, A-Z, 0-9, '.', '_' and '-'", ErrInvalidTopic, name, i)
	}
	return nil
}

// metricName is the name under which topics must differ: Kafka's metrics have
// '_' for '.', so that names which differ only by that would be one.
func metricName(name string) string { return strings.ReplaceAll(name, ".", "_") }
