package riffle

import (
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
	t := &Topic{log: l, name: name, id: id}
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

// reservedTopics are names of Kafka's that stand for what is the log's own.
var reservedTopics = []string{metadataTopic, "__consumer_offsets", "__transaction_state"}

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
