package riffle

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
)

// The metadata log is a partition of its own, in meta/, whose records say which
// topics there are. A record's key is its kind, its value is JSON. A reader
// that meets a kind or a field that it does not know refuses the directory: a
// later version wrote it, and what it means is not for us to guess.

const (
	metadataDir = "meta"
	// metadataTopic is the name that Kafka has for it.
	metadataTopic = "__cluster_metadata"
	kindTopic     = "topic"
)

// metadataTopicID is Kafka's constant for the topic of that name.
var metadataTopicID = [16]byte{15: 1}

// topicRecord is the value of a kindTopic record: a topic was created.
type topicRecord struct {
	Name       string            `json:"name"`
	ID         string            `json:"id"` // as in partition.metadata
	Partitions int               `json:"partitions"`
	Config     map[string]string `json:"config"` // by Kafka's keys: what the topic itself sets
}

// newMetadataPartition returns the metadata log, before recovery.
func (l *Log) newMetadataPartition() *Partition {
	own := TopicConfig{Flush: FlushBeforeAck, MaxMessageBytes: defaultMaxMessageBytes}
	t := &Topic{log: l, name: metadataTopic, id: metadataTopicID, internal: true}
	p := newPartition(t, 0, filepath.Join(l.dir, metadataDir))
	t.state.Store(&topicState{own: own, effective: own.over(builtin()), partitions: []*Partition{p}})
	return p
}

// appendTopic makes the creation of t durable.
func (l *Log) appendTopic(t *Topic) error {
	own := &t.state.Load().own
	value, err := json.Marshal(topicRecord{
		Name: t.name, ID: formatID(t.id), Partitions: own.Partitions, Config: own.configMap(),
	})
	if err != nil {
		return err
	}
	return l.space.insist(func() error {
		_, err := l.meta.Append(context.Background(), Record{Key: []byte(kindTopic), Value: value})
		return err
	})
}

// replayMetadata rebuilds the topics from the metadata log.
func (l *Log) replayMetadata() error {
	if l.meta.damaged != nil {
		return l.meta.error("open", l.meta.damaged)
	}
	for v, err := range l.meta.Views(context.Background(), Earliest, nil) {
		if err == nil {
			err = l.applyMetadata(v)
		}
		if err != nil {
			return fmt.Errorf("replay metadata: %w", err)
		}
	}
	return nil
}

func (l *Log) applyMetadata(v View) error {
	if kind := string(v.Key()); kind != kindTopic {
		return fmt.Errorf("record %d is a %q: %w", v.Offset(), kind, errors.ErrUnsupported)
	}
	var r topicRecord
	d := json.NewDecoder(bytes.NewReader(v.Value()))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return fmt.Errorf("record %d: %w: %w", v.Offset(), errors.ErrUnsupported, err)
	}
	own := TopicConfig{Partitions: r.Partitions}
	id, err := parseID(r.ID)
	if err == nil {
		err = own.setConfigMap(r.Config)
	}
	if err == nil {
		err = errors.Join(append(own.problems(), checkTopicName(r.Name))...)
	}
	if err == nil && l.topics[r.Name] != nil {
		err = ErrTopicExists
	}
	if err != nil {
		return fmt.Errorf("record %d: topic %q: %w: %w", v.Offset(), r.Name, errors.ErrUnsupported, err)
	}
	l.topics[r.Name] = l.newTopic(r.Name, id, own)
	return nil
}
