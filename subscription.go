package riffle

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
)

// subscription is what a consumer wants to read. Kafka: SubscriptionState.
type subscription struct {
	topics  []string
	pattern func(name string) bool
	parts   []TopicPartition // assigned by hand
	number  int              // counts subscriptions and assignments
}

// The kinds of subscription, of which a consumer has one at a time.
const (
	toNothing = iota
	toTopics  // by name or pattern
	byHand
)

func (s *subscription) kind() int {
	switch {
	case len(s.topics) > 0 || s.pattern != nil:
		return toTopics
	case len(s.parts) > 0:
		return byHand
	}
	return toNothing
}

// Subscribe replaces the topics that the consumer reads. Without any, it ends the
// subscription: then Poll is ErrInvalidState until there is another, or an assignment. It takes
// effect with the next Poll. Without any, it also ends an assignment by hand, at once, and
// commits nothing for that. Errors: ErrInvalidTopic; ErrInvalidState for topics while partitions
// are assigned by hand; ErrClosed.
func (c *Consumer) Subscribe(topics ...string) error {
	for _, name := range topics {
		if err := checkReadableName(name); err != nil {
			return c.error("subscribe", err)
		}
	}
	topics = slices.Compact(slices.Sorted(slices.Values(topics)))
	c.mu.Lock()
	defer c.mu.Unlock()
	if isClosed(c.closing) {
		return c.error("subscribe", ErrClosed)
	}
	if c.subscribed.kind() == byHand && len(topics) > 0 {
		return c.error("subscribe", fmt.Errorf("%w: partitions are assigned by hand", ErrInvalidState))
	}
	if c.subscribed.kind() == byHand {
		c.setSources(nil) // at once: they are no share in the group, and Revoked is not told of them
	}
	c.subscribed = subscription{topics: topics, number: c.subscribed.number + 1}
	c.topicsNews.Store(true)
	c.lookUp()
	return nil
}

// Assign replaces the partitions that the consumer reads, without a share in its group, if it
// has one, whose offsets it reads and commits all the same: no other member must have them. Those
// that stay keep their position. Of those that go, what was passed is committed before, unless
// ManualCommit, in up to 30 s; if that fails, it is logged. One that does not exist is waited for.
// Without any, it ends the assignment, or the subscription. Errors: ErrInvalidTopic,
// ErrPartitionNotFound for a negative number; ErrInvalidState while the consumer subscribes;
// ErrClosed.
func (c *Consumer) Assign(parts ...TopicPartition) error {
	for _, tp := range parts {
		if err := checkReadableName(tp.Topic); err != nil {
			return c.error("assign", err)
		}
		if tp.Partition < 0 {
			return c.error("assign", fmt.Errorf("%w: %v", ErrPartitionNotFound, tp))
		}
	}
	c.commitDropped(parts)
	c.mu.Lock()
	defer c.mu.Unlock()
	if isClosed(c.closing) {
		return c.error("assign", ErrClosed)
	}
	if c.subscribed.kind() == toTopics && len(parts) > 0 {
		return c.error("assign", fmt.Errorf("%w: the consumer subscribes to topics", ErrInvalidState))
	}
	if c.subscribed.kind() == toTopics {
		c.subscribed = subscription{number: c.subscribed.number + 1}
		c.topicsNews.Store(true)
		c.lookUp()
		return nil
	}
	c.subscribed = subscription{parts: slices.Clone(parts), number: c.subscribed.number + 1}
	c.setSources(parts)
	for _, s := range c.sources {
		s.tie()
	}
	c.lookUp()
	return nil
}

// commitDropped commits, before partitions that are assigned by hand are replaced, what was
// passed of those that go, unless ManualCommit.
func (c *Consumer) commitDropped(keep []TopicPartition) {
	c.mu.Lock()
	due := false
	if c.subscribed.kind() == byHand {
		for tp, s := range c.sources {
			o, _ := s.toCommit(false)
			due = due || o != NoOffset && o != s.committed && !slices.Contains(keep, tp)
		}
	}
	c.mu.Unlock()
	if due {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		_ = c.commitPassed(ctx, false) // an error is logged
	}
}

// Assignment returns the partitions that the consumer reads now, by name and number.
func (c *Consumer) Assignment() []TopicPartition {
	c.mu.Lock()
	defer c.mu.Unlock()
	parts := slices.Collect(maps.Keys(c.sources))
	sortPartitions(parts)
	return parts
}

func sortPartitions(parts []TopicPartition) { slices.SortFunc(parts, comparePartitions) }

func comparePartitions(a, b TopicPartition) int {
	return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
}

// wanted returns the topics that are subscribed to: by name also those that do not exist.
func (c *Consumer) wanted() []string {
	c.mu.Lock()
	names, pattern := c.subscribed.topics, c.subscribed.pattern
	c.mu.Unlock()
	if pattern == nil {
		return names
	}
	names = nil
	for t := range c.log.Topics() {
		if !t.internal && pattern(t.name) {
			names = append(names, t.name)
		}
	}
	return names
}

// wholeName returns whether pattern matches a name as a whole, as Java's Matcher.matches does.
// The pattern's text is not compiled again, in other text: \Q without \E, and what only POSIX
// allows, would not be what it is.
func wholeName(pattern *regexp.Regexp) func(name string) bool {
	longest := *pattern
	longest.Longest() // if it matches the whole, that is its longest match
	return func(name string) bool {
		at := longest.FindStringIndex(name)
		return at != nil && at[0] == 0 && at[1] == len(name)
	}
}

// assignAll gives a consumer without a group all partitions of its topics.
func (c *Consumer) assignAll(ctx context.Context) error {
	c.mu.Lock()
	number := c.subscribed.number
	c.mu.Unlock()
	var parts []TopicPartition
	for _, name := range c.wanted() {
		if t, err := c.log.Topic(name); err == nil {
			for i := range t.NumPartitions() {
				parts = append(parts, TopicPartition{name, i})
			}
		}
	}
	revoked, lost := c.without(parts)
	var errs []error
	if len(revoked) > 0 {
		errs = append(errs, c.call(ctx, "Revoked", c.opts.Revoked, revoked))
	}
	c.mu.Lock()
	if c.subscribed.number != number {
		c.mu.Unlock()
		c.lookUp() // it wants something else by now
		return errors.Join(errs...)
	}
	for _, s := range c.setSources(parts) {
		s.untold = true
	}
	c.mu.Unlock()
	if len(lost) > 0 {
		errs = append(errs, c.call(ctx, "Lost", c.opts.Lost, lost))
	}
	return errors.Join(errs...)
}

// without returns which partitions the consumer has besides keep: those that are still there,
// and those that are deleted.
func (c *Consumer) without(keep []TopicPartition) (there, deleted []TopicPartition) {
	kept := make(map[TopicPartition]bool, len(keep))
	for _, tp := range keep {
		kept[tp] = true
	}
	for _, tp := range c.Assignment() {
		if kept[tp] {
			continue
		}
		if _, err := c.log.partition(tp); err == nil {
			there = append(there, tp)
		} else {
			deleted = append(deleted, tp)
		}
	}
	return there, deleted
}

// setSources makes parts what the consumer reads. It returns what is new. Called under mu.
func (c *Consumer) setSources(parts []TopicPartition) (added []*source) {
	keep := make(map[TopicPartition]bool, len(parts))
	for _, tp := range parts {
		keep[tp] = true
	}
	for tp, s := range c.sources {
		if !keep[tp] {
			c.drop(s)
		}
	}
	for _, tp := range parts {
		if c.sources[tp] == nil {
			s := newSource(c, tp)
			c.sources[tp] = s
			added = append(added, s)
		}
	}
	return added
}

// bindSources ties sources to their partitions, as far as these exist.
func (c *Consumer) bindSources() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.sources {
		s.tie()
	}
}

// inOrder returns the sources by their partitions. Called under mu.
func (c *Consumer) inOrder() []*source {
	return slices.SortedFunc(maps.Values(c.sources), func(a, b *source) int { return comparePartitions(a.tp, b.tp) })
}

// tellAssigned calls Assigned with what is new, and with what it has failed for.
func (c *Consumer) tellAssigned(ctx context.Context) error {
	c.mu.Lock()
	tell := c.tellNone
	var told []*source
	var parts []TopicPartition
	for _, s := range c.inOrder() {
		if s.untold {
			told, parts = append(told, s), append(parts, s.tp)
		}
	}
	c.mu.Unlock()
	if len(told) == 0 && !tell {
		return nil
	}
	if err := c.call(ctx, "Assigned", c.opts.Assigned, parts); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tellNone = false
	for _, s := range told {
		s.untold = false
		s.news()
	}
	return nil
}
