package riffle

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Commit commits the positions behind all records that were handed out; with MarkDone, behind
// those of which all before are done too. What is committed is on stable storage, as are the
// records before it, when Commit returns nil: a FlushAsync topic is flushed for it.
//
// Errors: ErrInvalidState without a Group; ErrRebalance during a rebalance: poll, then commit
// what is still assigned; ErrUnknownMember if the group went on without the consumer;
// ErrFenced; ErrPartitionFailed, ErrDiskFull. If ctx ends while it waits, the error is
// ErrInDoubt.
func (c *Consumer) Commit(ctx context.Context) error {
	return c.commitOp(ctx, func() (map[TopicPartition]Position, error) { return c.positions(true), nil })
}

// CommitRecords commits the positions behind the given records, one or the last of many of
// each partition. Errors: those of Commit; ErrNotAssigned.
func (c *Consumer) CommitRecords(ctx context.Context, done ...Record) error {
	at := make(map[TopicPartition]Position)
	for i := range done {
		r := &done[i]
		tp := TopicPartition{r.Topic, r.Partition}
		if pos, ok := at[tp]; !ok || r.Offset >= pos.Offset {
			at[tp] = Position{Offset: r.Offset + 1, LeaderEpoch: r.LeaderEpoch}
		}
	}
	return c.CommitTo(ctx, at)
}

// CommitTo commits positions. They may lie before those that are committed. Errors: those of
// Commit; ErrNotAssigned; *OffsetError for one beyond the end, or negative; ErrInvalidOptions
// for metadata that is too long. With these nothing is committed; where a partition is deleted or
// offline, the others are.
func (c *Consumer) CommitTo(ctx context.Context, at map[TopicPartition]Position) error {
	if err := c.checkPositions(at); err != nil {
		return c.error("commit", err)
	}
	// Once more when it is its turn: a partition that is another's by then is not to go back.
	return c.commitOp(ctx, func() (map[TopicPartition]Position, error) { return at, c.checkPositions(at) })
}

func (c *Consumer) checkPositions(at map[TopicPartition]Position) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for tp, pos := range at {
		s, err := c.source(tp)
		if err != nil {
			return err
		}
		if s.p == nil {
			return fmt.Errorf("%w: %v does not exist", ErrTopicNotFound, tp)
		}
		if b := s.p.bounds(); pos.Offset < 0 || pos.Offset > b.End {
			return s.p.error("commit", &OffsetError{Offset: pos.Offset, Start: b.Start, End: b.End})
		}
		if len(pos.Metadata) > maxCommitMetadata {
			return fmt.Errorf("%w: metadata has %d bytes, at most %d", ErrInvalidOptions, len(pos.Metadata), maxCommitMetadata)
		}
	}
	return nil
}

// maxCommitMetadata is Kafka's offset.metadata.max.bytes.
const maxCommitMetadata = 4096

func (c *Consumer) commitOp(ctx context.Context, what func() (map[TopicPartition]Position, error)) error {
	if c.member == nil {
		return c.error("commit", fmt.Errorf("%w: the consumer has no Group", ErrInvalidState))
	}
	if isClosed(c.closed) { // before that, Revoked may commit
		return c.error("commit", ErrClosed)
	}
	if err := c.commit(ctx, false, what); err != nil {
		return c.error("commit", err)
	}
	return nil
}

// Done says, with MarkDone, that records are done, in any order and from any goroutine: commits
// cover, of each partition, the records up to the first that is not. While 100,000 records are
// handed out behind such a one, no more of its partition are. Without MarkDone it does nothing.
func (c *Consumer) Done(recs ...Record) {
	if !c.opts.MarkDone {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range recs {
		s := c.sources[TopicPartition{recs[i].Topic, recs[i].Partition}]
		if s == nil {
			continue
		}
		full := s.undone.room() == 0
		s.undone.done(recs[i].Offset)
		if full {
			s.news()
		}
	}
	c.commitLater()
}

// Committed returns what the group has committed for partitions, whoever did, those of other
// members too; if none are named, for all of its own. One without a commit is left out. Errors: ErrInvalidState without a Group;
// ErrPartitionFailed, ErrCorrupt if the group's state cannot be read; ctx's.
func (c *Consumer) Committed(ctx context.Context, parts ...TopicPartition) (map[TopicPartition]Position, error) {
	if c.member == nil {
		return nil, c.error("committed", fmt.Errorf("%w: the consumer has no Group", ErrInvalidState))
	}
	if isClosed(c.closed) {
		return nil, c.error("committed", ErrClosed)
	}
	at, err := c.committed(ctx, parts)
	if err != nil {
		return nil, c.error("committed", err)
	}
	return at, nil
}

func (c *Consumer) committed(ctx context.Context, parts []TopicPartition) (map[TopicPartition]Position, error) {
	return c.log.committed(ctx, c.opts.Group, parts)
}

// positions returns what there is to commit: behind what was handed out, or else what was
// passed. Partitions of which that is committed already are left out, if nobody else commits
// for them: by hand, others may. So are those that are deleted.
func (c *Consumer) positions(handedOut bool) map[TopicPartition]Position {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := handedOut && c.subscribed.kind() == byHand
	if c.clock.polls.Load()%2 == 1 {
		handedOut = false // a poll holds more than that; the rest was passed as it began
	}
	at := make(map[TopicPartition]Position)
	for tp, s := range c.sources {
		o, epoch := s.toCommit(handedOut)
		if o == NoOffset {
			continue
		}
		if o == s.committed && !all {
			s.noteCommitted(o, epoch) // it may have been passed once more
			continue
		}
		if s.p != nil && s.p == c.log.knownPartition(tp) && !s.p.gone.Load() {
			at[tp] = Position{Offset: o, LeaderEpoch: max(epoch, 0)}
		}
	}
	return at
}

// toCommit returns the source's part of positions; NoOffset if there is nothing. Called under
// the consumer's mu.
func (s *source) toCommit(handedOut bool) (Offset, int32) {
	switch {
	case s.state != sourceReading && s.state != sourceFailed || s.passed == NoOffset:
		return NoOffset, noEpoch
	case s.undone != nil:
		return s.undone.next, s.undone.epoch
	case handedOut:
		return s.next, s.epoch
	}
	return s.passed, s.passedEpoch
}

// commit commits what is to be committed once it is this commit's turn: so one that comes later
// never takes back what an earlier one did. Polling says that the caller is who polls, or
// closes.
func (c *Consumer) commit(ctx context.Context, polling bool, what func() (map[TopicPartition]Position, error)) (err error) {
	defer c.log.guard(&err)
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case c.committing <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-c.log.broken:
		return c.log.closedError()
	}
	defer func() { <-c.committing }()
	for try := 1; ; try++ {
		req := c.member.commitRequest()
		at, err := what() // behind req: if a partition goes from now on, the generation does too
		if err != nil || len(at) == 0 {
			return err
		}
		fillCommit(req, at)
		c.nameTopics(req)
		err = c.log.commitAs(ctx, c.member.caller(), req)
		switch {
		case err == nil:
			c.noteCommitted(at)
			return nil
		case errors.Is(err, ErrTopicNotFound) && try < maxCommitTries && isFewer(what, at):
			// a topic was deleted meanwhile; the others are still to be committed
		case errors.Is(err, ErrRebalance) && try < maxCommitTries && c.member.isMoving():
			if err := c.advance(ctx, polling); err != nil {
				return err
			}
		case errors.Is(err, ErrUnknownMember), errors.Is(err, ErrFenced), errors.Is(err, ErrRebalance):
			c.member.wake() // the next poll asks what has happened
			return err
		default:
			if errors.Is(err, ErrInDoubt) {
				c.forgetCommitted(at)
			}
			return err
		}
	}
}

// forgetCommitted takes note that it is not known what is committed now.
func (c *Consumer) forgetCommitted(at map[TopicPartition]Position) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for tp := range at {
		if s := c.sources[tp]; s != nil {
			s.committed = NoOffset
		}
	}
}

// isFewer says whether there is less to be committed by now.
func isFewer(what func() (map[TopicPartition]Position, error), than map[TopicPartition]Position) bool {
	at, _ := what()
	return len(at) < len(than)
}

// maxCommitTries bounds how often a commit in the midst of a rebalance is tried, a
// millisecond or more apart.
const maxCommitTries = 1000

// advanceUnpolled is advance for who does not poll, and has busy, which it gives back: also where
// the assignor ends the goroutine.
func (c *Consumer) advanceUnpolled(ctx context.Context) error {
	defer func() { <-c.busy }()
	return c.member.advance(ctx, false)
}

// advance lets a rebalance go on, which refuses a commit while its leader decides. Who does not
// poll only does for it what can be done now, if nobody polls, and waits for a moment: a poll
// that begins meanwhile need not wait for the commit.
func (c *Consumer) advance(ctx context.Context, polling bool) error {
	if polling {
		return c.member.advance(ctx, true)
	}
	select {
	case c.busy <- struct{}{}:
		if err := c.advanceUnpolled(ctx); err != nil {
			return err
		}
	default:
	}
	moment := time.NewTimer(time.Millisecond)
	defer moment.Stop()
	select {
	case <-moment.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-c.closing:
		return ErrClosed
	}
}

// noteCommitted takes note of what was committed.
func (c *Consumer) noteCommitted(at map[TopicPartition]Position) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for tp, pos := range at {
		if s := c.sources[tp]; s != nil {
			s.noteCommitted(pos.Offset, pos.LeaderEpoch)
		}
	}
}

// noteCommitted takes note that all before offset o is committed. Called under the consumer's mu.
func (s *source) noteCommitted(o Offset, epoch int32) {
	s.committed = o
	if s.passed == NoOffset || o > s.next {
		return
	}
	if s.passed < o {
		s.passed, s.passedEpoch = o, epoch // an automatic commit shall not take it back
	}
	full := s.undone.room() == 0
	s.undone.committed(o, epoch)
	if full {
		s.news() // there may be room
	}
}

// nameTopics says which topics a request means: for another one that has a name by now nothing
// is to be committed.
func (c *Consumer) nameTopics(req *kmsg.OffsetCommitRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range req.Topics {
		t := &req.Topics[i]
		for _, p := range t.Partitions {
			if s := c.sources[TopicPartition{t.Topic, int(p.Partition)}]; s != nil && s.p != nil {
				t.TopicID = s.p.topic.id
			}
		}
	}
}

// fillCommit puts positions into a request, in the order of their partitions.
func fillCommit(req *kmsg.OffsetCommitRequest, at map[TopicPartition]Position) {
	parts := slices.Collect(maps.Keys(at))
	sortPartitions(parts)
	for _, tp := range parts {
		n := len(req.Topics)
		if n == 0 || req.Topics[n-1].Topic != tp.Topic {
			t := kmsg.NewOffsetCommitRequestTopic()
			t.Topic = tp.Topic
			req.Topics = append(req.Topics, t)
			n++
		}
		pos := at[tp]
		p := kmsg.NewOffsetCommitRequestTopicPartition()
		p.Partition, p.Offset = int32(tp.Partition), int64(pos.Offset)
		if pos.LeaderEpoch > 0 {
			p.LeaderEpoch = pos.LeaderEpoch
		}
		if pos.Metadata != "" {
			p.Metadata = &pos.Metadata
		}
		req.Topics[n-1].Partitions = append(req.Topics[n-1].Partitions, p)
	}
}

// commitLater has what was passed committed in AutoCommitInterval, unless that is under way.
// Called under mu.
func (c *Consumer) commitLater() {
	if c.member == nil || c.opts.ManualCommit || c.commitArmed || isClosed(c.closing) {
		return
	}
	c.commitArmed = true
	if c.commitTimer == nil {
		c.commitTimer = time.AfterFunc(c.opts.AutoCommitInterval, func() {
			c.commitDue.Store(true)
			c.lookUp()
		})
		return
	}
	c.commitTimer.Reset(c.opts.AutoCommitInterval)
}

// commitInBackground commits what was passed, without having Poll wait for it.
func (c *Consumer) commitInBackground() {
	c.mu.Lock()
	c.commitArmed = false // what is passed from now on has a time of its own
	c.mu.Unlock()
	c.log.start(func() {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		if c.commitPassed(ctx, false) != nil {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.commitLater()
		}
	})
}

// commitPassed commits what was passed, if that is to be done without the caller's say.
func (c *Consumer) commitPassed(ctx context.Context, polling bool) error {
	if c.opts.ManualCommit || c.member == nil {
		return nil
	}
	err := c.commit(ctx, polling, func() (map[TopicPartition]Position, error) { return c.positions(false), nil })
	if err != nil && !c.log.isClosing() {
		c.log.opts.Logger.Warn("offsets are not committed", "client", c.opts.ClientID, "group", c.opts.Group, "err", err)
	}
	return err
}
