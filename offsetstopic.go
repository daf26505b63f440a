package riffle

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"sync"
	"time"
	"unicode/utf16"

	"github.com/rifflelog/riffle/internal/group"
	"github.com/rifflelog/riffle/internal/vfs"
)

const (
	// offsetsTopic holds what groups have committed, and who their members are.
	offsetsTopic = "__consumer_offsets"
	// offsetsPartitions is how many partitions it has. It can never change: a group's name
	// says which of them it is in. Kafka: offsets.topic.num.partitions, 50 there.
	offsetsPartitions = 16
	// maxOffsetsBatch is its MaxMessageBytes: one group's members are one record.
	maxOffsetsBatch = 16 << 20
	// expireInterval is how often offsets are looked for that have expired. Kafka:
	// offsets.retention.check.interval.ms.
	expireInterval = 10 * time.Minute
)

// The places where offsets of a topic that is gone are forgotten.
const (
	siteForgetDeleted vfs.Site = "topic.delete.offsets" // before its directories go
	siteForgetMade    vfs.Site = "topic.create.offsets" // before another topic has its name
)

// coordinators are the groups of a log: a coordinator for each partition of offsetsTopic.
type coordinators struct {
	mu     sync.Mutex // guards what follows; nothing is locked under it
	list   []*coordinator
	expiry *time.Timer
}

// errNoGroups: a log without the topic of committed offsets has no groups.
var errNoGroups = errors.New("no group has been used yet")

// coordinatorOf returns the coordinator of a group. Without offsetsTopic, if that is not to be
// made, it is one that knows no group.
func (l *Log) coordinatorOf(name string, create bool) (*coordinator, error) {
	all, err := l.coordinators(create)
	if errors.Is(err, errNoGroups) {
		co := l.newCoordinator(nil)
		co.state = group.New(l.groupConfig())
		co.state.Loaded(time.Now())
		return co, nil
	}
	if err != nil {
		return nil, err
	}
	return all[groupPartition(name, len(all))], nil
}

// groupPartition is the partition of a group among n. Kafka: Utils.abs of Java's hash of its
// name.
func groupPartition(name string, n int) int {
	var hash uint32
	for _, unit := range utf16.Encode([]rune(name)) {
		hash = 31*hash + uint32(unit)
	}
	return int(hash&0x7fffffff) % n
}

// coordinators returns the coordinators by partition: errNoGroups if there is no offsetsTopic,
// and it is not to be made.
func (l *Log) coordinators(create bool) ([]*coordinator, error) {
	if l.isClosing() {
		return nil, l.closedError()
	}
	l.groups.mu.Lock()
	all := l.groups.list
	l.groups.mu.Unlock()
	if all != nil {
		return all, nil
	}
	t, err := l.offsetsTopic(create)
	if err != nil {
		return nil, err
	}
	l.groups.mu.Lock()
	defer l.groups.mu.Unlock()
	if l.groups.list == nil {
		for _, p := range t.all() {
			l.groups.list = append(l.groups.list, l.newCoordinator(p))
		}
		if l.view == nil {
			l.groups.expiry = l.after(expireInterval, l.expireOffsets)
		}
	}
	return l.groups.list, nil
}

// offsetsTopic returns the topic of committed offsets.
func (l *Log) offsetsTopic(create bool) (*Topic, error) {
	t, err := l.Topic(offsetsTopic)
	if !errors.Is(err, ErrTopicNotFound) {
		return t, err
	}
	if !create {
		return nil, errNoGroups
	}
	t, err = l.makeTopic(context.Background(), offsetsTopic, TopicConfig{
		Partitions: offsetsPartitions, Cleanup: CleanupCompact, Flush: FlushBeforeAck,
		SegmentBytes: 100 << 20, MaxMessageBytes: maxOffsetsBatch,
		Retention: Forever, Compression: CompressionProducer, TimestampType: CreateTime,
	})
	if errors.Is(err, ErrTopicExists) {
		t, err = l.Topic(offsetsTopic)
	}
	return t, err
}

func (l *Log) groupConfig() group.Config {
	cfg := group.DefaultConfig()
	cfg.InitialDelay = l.opts.GroupInitialDelay
	cfg.MaxRecordBytes = maxOffsetsBatch - 4<<10 // less the headers of its batch
	cfg.Known = l.isPartition
	cfg.NewMemberID = func(clientID string) string {
		var id [16]byte
		_, _ = rand.Read(id[:]) // never fails
		return clientID + "-" + hex.EncodeToString(id[:])
	}
	return cfg
}

// isPartition says whether there is such a partition of a topic, of that id unless it is zero.
// A topic is gone before its offsets are forgotten, so that no commit outlives it.
func (l *Log) isPartition(topic string, id [16]byte, partition int32) bool {
	t, err := l.Topic(topic)
	return err == nil && (id == [16]byte{} || id == t.id) && int(partition) < t.NumPartitions()
}

// countPartitions is how many partitions a topic has, 0 if there is no such topic.
func (l *Log) countPartitions(name string) int {
	t, err := l.Topic(name)
	if err != nil {
		return 0
	}
	return t.NumPartitions()
}

// detachMember begins the session of a static member that is not looked after any more.
func (l *Log) detachMember(name, id string) {
	co, err := l.coordinatorOf(name, false)
	if err != nil {
		return
	}
	co.turn <- struct{}{}
	co.step(func(state *group.Coordinator, now time.Time) group.Result { return state.Detach(name, id, now) }, 0, false)
}

// forgetMember drops what the coordinator knows of a member of this process.
func (l *Log) forgetMember(m *membership) {
	l.groups.mu.Lock()
	all := l.groups.list
	l.groups.mu.Unlock()
	if all == nil {
		return
	}
	co := all[groupPartition(m.c.opts.Group, len(all))]
	co.turn <- struct{}{}
	for id, o := range co.local {
		if o == m {
			delete(co.local, id)
		}
	}
	<-co.turn
}

// forgetOffsets takes a topic's offsets from all groups, durably, unless site says that there
// are none.
func (l *Log) forgetOffsets(site vfs.Site, topic string) error {
	all, err := l.coordinators(false)
	if errors.Is(err, errNoGroups) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, co := range all {
		err := co.run(func(state *group.Coordinator, _ time.Time) group.Result {
			gone := state.DeleteTopic(topic)
			if l.fs.Check(site, len(gone.Records) == 0) {
				return group.Result{}
			}
			return gone
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// expireOffsets takes what has expired from all groups, and again later.
func (l *Log) expireOffsets() {
	all, err := l.coordinators(false)
	if err != nil {
		return
	}
	for _, co := range all {
		if err := co.run((*group.Coordinator).Expire); err != nil && !l.isClosing() {
			l.opts.Logger.Warn("offsets do not expire", "partition", co.part.index, "err", err)
		}
	}
	l.groups.mu.Lock()
	defer l.groups.mu.Unlock()
	if !l.isClosing() {
		l.groups.expiry.Reset(expireInterval)
	}
}

// stopGroups stops the timers of groups. Who waits for others of a group gets ErrClosed.
func (l *Log) stopGroups() {
	l.groups.mu.Lock()
	all := l.groups.list
	if l.groups.expiry != nil {
		l.groups.expiry.Stop()
	}
	l.groups.mu.Unlock()
	for _, co := range all {
		co.turn <- struct{}{}
		if co.timer != nil {
			co.timer.Stop()
		}
		var after []func()
		for id := range co.calls {
			after = append(after, co.answer(id, nil, l.closedError())...)
		}
		<-co.turn
		callAll(after)
	}
}
