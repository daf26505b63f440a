package riffle

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
)

// Topic returns the topic of that name: ErrTopicNotFound if there is none.
func (l *Log) Topic(name string) (*Topic, error) {
	if l.isClosing() {
		return nil, l.closedError()
	}
	err := l.lookForTopics()
	l.mu.Lock()
	defer l.mu.Unlock()
	if t := l.topics[name]; t != nil {
		return t, nil
	}
	return nil, errors.Join(notFound(name), err)
}

// partition returns the partition of that name.
func (l *Log) partition(tp TopicPartition) (*Partition, error) {
	t, err := l.Topic(tp.Topic)
	if err != nil {
		return nil, err
	}
	return t.Partition(tp.Partition)
}

// knownPartition returns the partition of that name, nil if it is not known: a read-only log
// does not look for it.
func (l *Log) knownPartition(tp TopicPartition) *Partition {
	l.mu.Lock()
	t := l.topics[tp.Topic]
	l.mu.Unlock()
	if t == nil || tp.Partition < 0 || tp.Partition >= t.NumPartitions() {
		return nil
	}
	return t.all()[tp.Partition]
}

func notFound(name string) error { return fmt.Errorf("%w: %q", ErrTopicNotFound, name) }

// Topics iterates over the topics that there are as the loop begins, by name, the log's
// own last.
func (l *Log) Topics() iter.Seq[*Topic] {
	return func(yield func(*Topic) bool) {
		_ = l.lookForTopics() // what is known, is known
		l.known()(yield)
	}
}

// known is Topics without a look at what another process has changed.
func (l *Log) known() iter.Seq[*Topic] {
	return func(yield func(*Topic) bool) {
		l.mu.Lock()
		topics := l.sortedTopics()
		l.mu.Unlock()
		for _, t := range topics {
			if !yield(t) {
				return
			}
		}
	}
}

// sortedTopics returns the topics by name. Called under mu.
func (l *Log) sortedTopics() []*Topic {
	topics := slices.Collect(maps.Values(l.topics))
	slices.SortFunc(topics, func(a, b *Topic) int {
		if a.internal != b.internal {
			return map[bool]int{false: -1, true: 1}[a.internal]
		}
		return strings.Compare(a.name, b.name)
	})
	return topics
}

// CreateTopic creates a topic, which is durable when it returns. A nil cfg means
// the defaults. It makes no directory: that comes with the first append to a
// partition. Errors: ErrTopicExists, ErrInvalidTopic, ErrInvalidOptions,
// ErrDiskFull, ErrClosed; ErrPartitionFailed or ErrCorrupt if it cannot be seen to
// that no group has offsets of an earlier topic of that name. If ctx ends while it
// waits, the error is ErrInDoubt: the topic may come to be.
func (l *Log) CreateTopic(ctx context.Context, name string, cfg *TopicConfig) (*Topic, error) {
	t, err := l.createTopic(ctx, name, cfg)
	if err != nil {
		return nil, fmt.Errorf("create topic: %w", err)
	}
	return t, nil
}

// EnsureTopic returns the topic of that name and creates it, like CreateTopic,
// if there is none. Of the configuration of one that exists only Partitions is
// looked at: ErrTopicMismatch if it has fewer.
func (l *Log) EnsureTopic(ctx context.Context, name string, cfg *TopicConfig) (*Topic, error) {
	t, err := l.Topic(name)
	for errors.Is(err, ErrTopicNotFound) { // or it was deleted between the two
		if t, err = l.createTopic(ctx, name, cfg); errors.Is(err, ErrTopicExists) {
			t, err = l.Topic(name)
		}
	}
	if l.view != nil && errors.Is(err, ErrReadOnly) {
		if t, _ = l.Topic(name); t != nil {
			err = nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("ensure topic: %w", err)
	}
	if cfg != nil && cfg.Partitions > t.NumPartitions() {
		return nil, fmt.Errorf("ensure topic: %w: %q has %d partitions, want %d", ErrTopicMismatch, name, t.NumPartitions(), cfg.Partitions)
	}
	return t, nil
}

func (l *Log) createTopic(ctx context.Context, name string, cfg *TopicConfig) (*Topic, error) {
	if err := checkTopicName(name); err != nil {
		return nil, err
	}
	var own TopicConfig
	if cfg != nil {
		own = *cfg
	}
	return l.makeTopic(ctx, name, own)
}

// makeTopic is createTopic for any name.
func (l *Log) makeTopic(ctx context.Context, name string, own TopicConfig) (*Topic, error) {
	effective := own.over(l.opts.Defaults)
	if err := invalidOptions("TopicConfig", effective.problems()); err != nil {
		return nil, err
	}
	// These two are fixed from now on, whatever the defaults will be.
	own.Partitions, own.Flush = effective.Partitions, effective.Flush

	t := l.newTopic(name, newID(), own)
	var remains *Topic
	err := l.changeTopic(ctx, name, topicChange{
		check: func() error {
			if l.topics[name] != nil {
				return fmt.Errorf("%w: %q", ErrTopicExists, name)
			}
			remains = l.halfGone[name]
			return l.checkCollision(name)
		},
		make: func() error {
			if remains != nil {
				if err := l.moveAway(remains); err != nil {
					return err
				}
			}
			// A deletion may have ended before that was done, with the process.
			if err := l.forgetOffsets(siteForgetMade, name); err != nil {
				return err
			}
			return l.addTopic(t)
		},
	})
	if err != nil {
		return nil, err
	}
	return t, nil
}

// DeleteTopic deletes a topic and all of its records. When it returns nil, that
// is durable, and the name is free for another topic, of another id. Its disk
// space comes back in the background. From now on appends to it are
// ErrTopicNotFound, and so is every loop over its records that begins; a loop that
// has begun goes on to the readable end, where one that follows ends with
// ErrTopicNotFound. On a full disk it deletes too.
//
// Errors: ErrTopicNotFound, ErrInvalidTopic for a topic of the log's own,
// ErrClosed. If ctx ends while it waits, the error is ErrInDoubt: the topic may go.
// An error of the file system, or ErrPartitionFailed or ErrCorrupt if groups cannot
// forget its offsets, may leave the topic deleted and its name not free;
// then the next DeleteTopic or CreateTopic of that name tries again, and Open does.
func (l *Log) DeleteTopic(ctx context.Context, name string) error {
	if err := l.deleteTopic(ctx, name); err != nil {
		return fmt.Errorf("delete topic: %w", err)
	}
	return nil
}

func (l *Log) deleteTopic(ctx context.Context, name string) error {
	if err := checkTopicName(name); err != nil {
		return err
	}
	var t *Topic
	known := false
	return l.changeTopic(ctx, name, topicChange{
		check: func() error {
			if t = l.topics[name]; t != nil {
				known = true
			} else if t = l.halfGone[name]; t == nil {
				return notFound(name)
			}
			return nil
		},
		make: func() error {
			if known {
				if err := l.removeTopic(t); err != nil {
					return err
				}
			}
			if err := l.forgetOffsets(siteForgetDeleted, name); err != nil {
				return err
			}
			return l.moveAway(t)
		},
	})
}

// topicChange is a change of one topic.
type topicChange struct {
	check   func() error // whether it may be made; called under Log.mu
	prepare func() error // calls the caller's code, on his goroutine. May be nil
	make    func() error // makes it durable, then known
}

// changeTopic makes a change of the topic of that name, while which there is no
// other. Once it is begun, it goes on if ctx ends, so that the name does not
// stay taken: ErrInDoubt.
func (l *Log) changeTopic(ctx context.Context, name string, c topicChange) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := l.errReadOnly(); err != nil {
		return err
	}
	if err := l.reserveName(ctx, name, c.check); err != nil {
		return err
	}
	begun := false
	defer func() {
		if !begun {
			l.releaseName(name)
		}
	}()
	if c.prepare != nil {
		if err := c.prepare(); err != nil {
			return err
		}
	}
	result := make(chan error, 1)
	begun = l.start(func() {
		err := c.make()
		l.releaseName(name)
		result <- err
	})
	if !begun {
		return l.closedError()
	}
	return l.answer(ctx, result)
}

// answer returns the result of what goes on without the caller if ctx ends:
// ErrInDoubt, unless it came with that.
func (l *Log) answer(ctx context.Context, result <-chan error) error {
	select {
	case err := <-result:
		return err
	case <-l.broken:
		return inDoubt(l.closedError())
	case <-ctx.Done():
	}
	select {
	case err := <-result:
		return err
	default:
		return inDoubt(ctx.Err())
	}
}

// reserveName makes name the caller's to change, if check allows that, and all
// that differ from it only by '.' and '_'. It waits for a change of such a name
// that is under way.
func (l *Log) reserveName(ctx context.Context, name string, check func() error) error {
	key := metricName(name)
	for {
		if l.isClosing() {
			return l.closedError()
		}
		l.mu.Lock()
		underway := l.changing[key]
		if underway == nil {
			err := check()
			if err == nil {
				l.changing[key] = make(chan struct{})
			}
			l.mu.Unlock()
			return err
		}
		l.mu.Unlock()
		select {
		case <-underway:
		case <-l.closing: // or it has failed
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// releaseName ends the reservation of a name.
func (l *Log) releaseName(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.changing[metricName(name)])
	delete(l.changing, metricName(name))
}

// checkCollision refuses a name that another topic's metrics would share.
// Called under mu.
func (l *Log) checkCollision(name string) error {
	if other := l.metricNames[metricName(name)]; other != nil && other.name != name {
		return fmt.Errorf("%w: %q differs from %q only by '.' and '_'", ErrInvalidTopic, name, other.name)
	}
	return nil
}

// addTopic makes t durable, then known.
func (l *Log) addTopic(t *Topic) error {
	own := &t.state.Load().own
	err := l.appendMetadata(kindTopic, topicRecord{
		Name: t.name, ID: formatID(t.id), Partitions: own.Partitions, Config: own.configMap(),
	})
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.putTopic(t)
	return nil
}

// putTopic makes t known. Called under mu.
func (l *Log) putTopic(t *Topic) {
	l.topics[t.name] = t
	l.tellConsumers()
	l.metricNames[metricName(t.name)] = t
}

// dropTopic makes t unknown. Called under mu.
func (l *Log) dropTopic(t *Topic) {
	delete(l.topics, t.name)
	l.tellConsumers()
	delete(l.metricNames, metricName(t.name))
	for _, p := range t.all() {
		l.remains[p] = true
	}
}

// removeTopic makes the deletion of t durable, then known.
func (l *Log) removeTopic(t *Topic) error {
	if err := l.appendMetadata(kindDeletion, deletionRecord{ID: formatID(t.id)}); err != nil {
		return err
	}
	l.mu.Lock()
	l.dropTopic(t)
	l.halfGone[t.name] = t // its name is not free yet
	l.mu.Unlock()
	for _, p := range t.all() {
		p.gone.Store(true)
		p.wake()
	}
	return nil
}
