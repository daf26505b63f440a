package riffle

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
)

// The metadata log is a partition of its own, in meta/, whose records say which
// topics there are. A record's key is its kind, its value is JSON. A reader
// that meets a kind or a field that it does not know refuses the directory: a
// later version wrote it, and what it means is not for us to guess.
//
// Its records are those of a Raft log: the offset of a record is its index, the
// epoch of its batch its term. Both only grow, without gaps, since nothing is
// shown before it is flushed. Index 0 means "none" there, so a log that is to be
// replicated begins with a snapshot, which every log has or can make.

const (
	metadataDir = "meta"
	// metadataTopic is the name that Kafka has for it.
	metadataTopic = "__cluster_metadata"
)

// The kinds of records.
const (
	kindTopic      = "topic"            // topicRecord: a topic was created
	kindConfig     = "topic-config"     // configRecord: its configuration is another one
	kindPartitions = "topic-partitions" // partitionsRecord: it has more partitions
	kindDeletion   = "topic-deletion"   // deletionRecord: it is deleted

	// Of snapshots: the first record and the last one.

	kindSnapshot    = "snapshot"
	kindSnapshotEnd = "snapshot-end"

	// kindHardState is reserved for what a member of a quorum has to remember: its
	// term, its vote. No version writes it yet, so every one refuses it.
	kindHardState = "hard-state"
)

// metadataTopicID is Kafka's constant for the topic of that name.
var metadataTopicID = [16]byte{15: 1}

type topicRecord struct {
	Name       string            `json:"name"`
	ID         string            `json:"id"` // as in partition.metadata
	Partitions int               `json:"partitions"`
	Config     map[string]string `json:"config"` // by Kafka's keys: what the topic itself sets
}

type configRecord struct {
	ID     string            `json:"id"`
	Config map[string]string `json:"config"` // all of it
}

type partitionsRecord struct {
	ID         string `json:"id"`
	Partitions int    `json:"partitions"` // in all
}

type deletionRecord struct {
	ID string `json:"id"`
}

// metaImage is what the metadata log says, up to some offset. It is made by
// applying its records in order, also where a snapshot is written: so a snapshot
// is what it stands for.
type metaImage struct {
	topics  map[[16]byte]*metaTopic
	names   map[string]*metaTopic
	deleted map[[16]byte]bool // by records that were applied, not by those before a snapshot
	from    Offset            // where the snapshot ends that it begins with; 0 without one
}

type metaTopic struct {
	name string
	id   [16]byte
	own  TopicConfig
}

func newMetaImage() *metaImage {
	return &metaImage{
		topics: make(map[[16]byte]*metaTopic), names: make(map[string]*metaTopic), deleted: make(map[[16]byte]bool),
	}
}

// sorted returns the topics by name.
func (m *metaImage) sorted() []*metaTopic {
	topics := make([]*metaTopic, 0, len(m.topics))
	for _, t := range m.topics {
		topics = append(topics, t)
	}
	slices.SortFunc(topics, func(a, b *metaTopic) int { return cmp.Compare(a.name, b.name) })
	return topics
}

// apply applies a record. Its error is errors.ErrUnsupported: the record is whole,
// and not one that this version writes.
func (m *metaImage) apply(kind string, value []byte) (err error) {
	switch kind {
	case kindTopic:
		err = m.applyTopic(value)
	case kindConfig:
		err = m.applyConfig(value)
	case kindPartitions:
		err = m.applyPartitions(value)
	case kindDeletion:
		err = m.applyDeletion(value)
	default:
		err = errors.New("unknown kind")
	}
	if err != nil {
		err = fmt.Errorf("%w: %q: %w", errors.ErrUnsupported, kind, err)
	}
	return err
}

func (m *metaImage) applyTopic(value []byte) error {
	var r topicRecord
	if err := decodeStrictly(value, &r); err != nil {
		return err
	}
	t := &metaTopic{name: r.Name, own: TopicConfig{Partitions: r.Partitions}}
	var err error
	if t.id, err = parseID(r.ID); err == nil {
		err = t.own.setConfigMap(r.Config)
	}
	if err == nil {
		err = errors.Join(append(t.own.problems(), checkReadableName(r.Name))...)
	}
	if err == nil && (m.names[t.name] != nil || m.topics[t.id] != nil || r.Partitions == 0) {
		err = ErrTopicExists
	}
	if err != nil {
		return fmt.Errorf("topic %q: %w", r.Name, err)
	}
	m.topics[t.id], m.names[t.name] = t, t
	return nil
}

func (m *metaImage) applyConfig(value []byte) error {
	var r configRecord
	if err := decodeStrictly(value, &r); err != nil {
		return err
	}
	t, err := m.topic(r.ID)
	if err != nil {
		return err
	}
	own := TopicConfig{Partitions: t.own.Partitions}
	if err = own.setConfigMap(r.Config); err == nil {
		err = errors.Join(own.problems()...)
	}
	if err == nil && own.Flush != t.own.Flush {
		err = errors.New("its flush policy is fixed")
	}
	if err != nil {
		return fmt.Errorf("topic %q: %w", t.name, err)
	}
	t.own = own
	return nil
}

func (m *metaImage) applyPartitions(value []byte) error {
	var r partitionsRecord
	if err := decodeStrictly(value, &r); err != nil {
		return err
	}
	t, err := m.topic(r.ID)
	if err != nil {
		return err
	}
	if r.Partitions < t.own.Partitions || r.Partitions > maxPartitions {
		return fmt.Errorf("topic %q: %d partitions after %d", t.name, r.Partitions, t.own.Partitions)
	}
	t.own.Partitions = r.Partitions
	return nil
}

func (m *metaImage) applyDeletion(value []byte) error {
	var r deletionRecord
	if err := decodeStrictly(value, &r); err != nil {
		return err
	}
	t, err := m.topic(r.ID)
	if err != nil {
		return err
	}
	delete(m.topics, t.id)
	delete(m.names, t.name)
	m.deleted[t.id] = true
	return nil
}

// topic returns the topic of a record that changes it.
func (m *metaImage) topic(id string) (*metaTopic, error) {
	key, err := parseID(id)
	if err == nil && m.topics[key] == nil {
		err = fmt.Errorf("%w: id %s", ErrTopicNotFound, id)
	}
	return m.topics[key], err
}

// record returns the record that creates t as it is.
func (t *metaTopic) record() topicRecord {
	return topicRecord{Name: t.name, ID: formatID(t.id), Partitions: t.own.Partitions, Config: t.own.configMap()}
}

// decodeStrictly decodes JSON, and refuses fields that v does not have.
func decodeStrictly(value []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(value))
	d.DisallowUnknownFields()
	return d.Decode(v)
}

// newMetadataPartition returns the metadata log, before recovery.
func (l *Log) newMetadataPartition() *Partition {
	own := TopicConfig{Flush: FlushBeforeAck, MaxMessageBytes: defaultMaxMessageBytes, Cleanup: CleanupDelete, Retention: Forever}
	t := &Topic{log: l, name: metadataTopic, id: metadataTopicID, internal: true}
	p := newPartition(t, 0, filepath.Join(l.dir, metadataDir))
	t.state.Store(&topicState{own: own, effective: own.over(builtin()), partitions: []*Partition{p}})
	return p
}

// appendMetadata makes a change durable. On a full disk it uses the reserve.
func (l *Log) appendMetadata(kind string, record any) error {
	value, err := json.Marshal(record)
	if err != nil {
		return err
	}
	err = l.space.insist(func() error {
		_, err := l.meta.Append(context.Background(), Record{Key: []byte(kind), Value: value})
		return err
	})
	if err == nil {
		l.snapshotSoon()
		l.meta.publishNow() // before directories come and go
	}
	return err
}

// replayMetadata returns what the metadata log says up to its end, and that end:
// what the newest snapshot says, and the records behind it.
func (l *Log) replayMetadata() (*metaImage, Offset, error) {
	if l.meta.damaged != nil {
		return nil, 0, l.meta.error("open", l.meta.damaged)
	}
	image, next, err := l.loadSnapshot()
	if err != nil {
		return nil, 0, err
	}
	for v, err := range l.meta.Views(context.Background(), next, nil) {
		if err == nil {
			if err = image.apply(string(v.Key()), v.Value()); err != nil {
				err = fmt.Errorf("record %d: %w", v.Offset(), err)
			}
		}
		if err != nil {
			return nil, 0, fmt.Errorf("replay metadata: %w", err)
		}
		next = v.Offset() + 1
	}
	return image, next, nil
}

// loadTopics makes the topics that the metadata log says. It returns the ids of
// those whose deletion it says.
func (l *Log) loadTopics() (deleted map[[16]byte]bool, err error) {
	image, _, err := l.replayMetadata()
	if err != nil {
		return nil, err
	}
	for _, m := range image.sorted() {
		l.putTopic(l.newTopic(m.name, m.id, m.own))
	}
	l.snapshots.end = image.from
	return image.deleted, l.bounds.retain(func(id [16]byte, partition int32) bool {
		m := image.topics[id]
		return m != nil && int(partition) < m.own.Partitions || id == metadataTopicID
	})
}

// metaPath returns the name of a file of the metadata log.
func (l *Log) metaPath(name string) string { return filepath.Join(l.dir, metadataDir, name) }
