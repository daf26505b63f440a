package riffle

import (
	"context"
	"fmt"
	"time"
)

// Position is where to go on in a partition: what a group commits.
type Position struct {
	Offset Offset // of the next record to read
	// LeaderEpoch is the epoch of the record before it, Record.LeaderEpoch; 0: it is not
	// known, or the first one. Kafka: OffsetAndMetadata (KIP-320).
	LeaderEpoch int32
	// Metadata is the committer's own text, at most 4,096 bytes.
	Metadata string
}

// Lag is how far a reader is behind.
type Lag struct {
	// Records is how many offsets there are from the position to the readable end: where
	// offsets have gaps, more than there are records.
	Records int64
	// Time is how old the next record to read is, by its timestamp; 0 if there is none, or if
	// it has no timestamp, or cannot be read.
	Time time.Duration
}

// seekTo is where a source is to begin.
type seekTo struct {
	kind seekKind
	at   time.Time
}

type seekKind int

const (
	seekInitial seekKind = iota // at the group's offset, else as OffsetReset says
	seekReset                   // as OffsetReset says
	seekStart
	seekEnd
	seekTime // at the first record of at or later
)

// Seek has the consumer go on at an offset, Earliest or Latest in one of its partitions. Buffered
// records of it are dropped, and an error of it is over. Earliest and Latest are looked up by
// the next Poll or Position. Errors: ErrNotAssigned; *OffsetError for an offset that is not
// there, which leaves everything as it was. A partition that does not exist yet has only Earliest
// and Latest. In the midst of a Poll it takes effect at once: what that Poll had not handed
// out is read anew.
func (c *Consumer) Seek(tp TopicPartition, to Offset) error {
	if c.log.view != nil && to >= 0 {
		if p, err := c.log.partition(tp); err == nil {
			p.Bounds() // the writer may have gone on
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := c.source(tp)
	if err != nil {
		return c.error("seek", err)
	}
	switch to {
	case Earliest:
		s.startAt(seekTo{kind: seekStart})
	case Latest:
		s.startAt(seekTo{kind: seekEnd})
	default:
		var b Bounds
		if s.p != nil {
			b = s.p.bounds()
		}
		if s.p == nil || to < b.Start || to > b.End {
			return c.error("seek", &PartitionError{
				Op: "seek", Topic: tp.Topic, Partition: tp.Partition,
				Err: &OffsetError{Offset: to, Start: b.Start, End: b.End},
			})
		}
		s.startAt(seekTo{})
		s.found(to, noEpoch)
	}
	c.lookUp()
	return nil
}

// SeekTime has the consumer go on at the first record with a timestamp of t or later, at the
// readable end if there is none; see [Partition.OffsetAt]. It is looked up by the next Poll or
// Position. Errors: ErrNotAssigned.
func (c *Consumer) SeekTime(tp TopicPartition, t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := c.source(tp)
	if err != nil {
		return c.error("seek", err)
	}
	s.startAt(seekTo{kind: seekTime, at: t})
	c.lookUp()
	return nil
}

// source returns what the consumer has of a partition, tied to that, if it exists. Called under
// mu.
func (c *Consumer) source(tp TopicPartition) (*source, error) {
	s := c.sources[tp]
	switch {
	case s != nil:
		s.tie()
		return s, nil
	case isClosed(c.closed):
		return nil, ErrClosed
	}
	return nil, fmt.Errorf("%w: %v", ErrNotAssigned, tp)
}

// Position returns the offset of the next record of a partition to be handed out. If it is not
// known yet, it is looked up. Errors: ErrNotAssigned; ErrNoOffset with ResetError;
// ErrTopicNotFound while there is no such partition; those of reading.
func (c *Consumer) Position(tp TopicPartition) (Offset, error) {
	at, err := c.position(tp)
	if err != nil {
		return NoOffset, c.error("position", err)
	}
	return at, nil
}

func (c *Consumer) position(tp TopicPartition) (Offset, error) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	for range maxPositionTries {
		c.mu.Lock()
		s, err := c.source(tp)
		if err != nil {
			c.mu.Unlock()
			return 0, err
		}
		p, state, next, known := s.p, s.state, s.next, s.passed != NoOffset
		c.mu.Unlock()
		switch {
		case p == nil:
			if _, err := c.log.partition(tp); err != nil {
				return 0, err
			}
			continue // it has come now
		case known:
			return next, nil
		case state == sourceFailed:
			return 0, p.error("position", ErrNoOffset)
		}
		if err := c.findPosition(ctx, s, nil); err != nil {
			return 0, err
		}
	}
	return 0, fmt.Errorf("%w: it is moved again and again", ErrInvalidState)
}

// maxPositionTries bounds how often Position begins again because of a Seek beside it.
const maxPositionTries = 100

// Pause stops handing out records of partitions until Resume, which goes on where they stopped. A
// Poll that is under way may still return some. A Seek goes on, paused. A partition that the consumer loses is not paused when it
// comes back. Those that it does not have are left out.
func (c *Consumer) Pause(parts ...TopicPartition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, tp := range parts {
		if s := c.sources[tp]; s != nil {
			s.paused = true
		}
	}
}

// Resume ends Pause.
func (c *Consumer) Resume(parts ...TopicPartition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, tp := range parts {
		if s := c.sources[tp]; s != nil && s.paused {
			s.paused = false
			s.news()
		}
	}
}

// Lag returns how far the consumer is behind in its partitions, as far as its position in
// them is known. It reads one record of each that it is behind in.
func (c *Consumer) Lag() map[TopicPartition]Lag {
	type place struct {
		p    *Partition
		next Offset
	}
	c.mu.Lock()
	places := make(map[TopicPartition]place, len(c.sources))
	for tp, s := range c.sources {
		if s.p != nil && s.passed != NoOffset {
			places[tp] = place{s.p, s.next}
		}
	}
	c.mu.Unlock()
	lags := make(map[TopicPartition]Lag, len(places))
	for tp, at := range places {
		lags[tp] = at.p.lagAt(context.Background(), at.next, c.readableEnd(at.p.Bounds()))
	}
	return lags
}

// readableEnd is the end of what the consumer may be shown.
func (c *Consumer) readableEnd(b Bounds) Offset {
	if c.opts.Uncommitted {
		return b.HighWatermark
	}
	return b.LastStable
}

// lagAt is the lag of a reader at offset next, of what is before end.
func (p *Partition) lagAt(ctx context.Context, next, end Offset) Lag {
	next = max(next, p.bounds().Start)
	if next >= end {
		return Lag{}
	}
	lag := Lag{Records: int64(end - next)}
	for v, err := range p.Views(ctx, next, nil) {
		if at := v.Timestamp(); err == nil && !at.IsZero() {
			lag.Time = max(0, time.Since(at))
		}
		break
	}
	return lag
}

// findPositions gives sources that are to begin somewhere their position.
func (c *Consumer) findPositions(ctx context.Context) error {
	type begin struct {
		s       *source
		version int
	}
	c.mu.Lock()
	var seeking []begin
	var initial []TopicPartition
	for _, s := range c.inOrder() {
		if s.p == nil || s.state != sourceSeeking || s.untold {
			continue
		}
		seeking = append(seeking, begin{s, s.version})
		if s.seek.kind == seekInitial {
			initial = append(initial, s.tp)
		}
	}
	c.mu.Unlock()
	var committed map[TopicPartition]Position
	if c.member != nil && len(initial) > 0 {
		var err error
		if committed, err = c.committed(ctx, initial); err != nil {
			c.attention.Store(true)
			return err
		}
	}
	for _, b := range seeking {
		err := c.findPosition(ctx, b.s, committed)
		if err != nil {
			if cause := c.mayGoOn(ctx); cause != nil {
				c.attention.Store(true)
				return cause
			}
			c.mu.Lock()
			if b.s.version == b.version && b.s.state == sourceSeeking {
				b.s.state = sourceFailed
				b.s.tell(err)
			}
			c.mu.Unlock()
		}
	}
	return nil
}

// findPosition gives a source its position, unless something else has meanwhile. What is in
// committed need not be asked for.
func (c *Consumer) findPosition(ctx context.Context, s *source, committed map[TopicPartition]Position) error {
	c.mu.Lock()
	p, version, to := s.p, s.version, s.seek
	c.mu.Unlock()
	if p == nil {
		return nil
	}
	at, epoch, found := NoOffset, noEpoch, NoOffset
	var err error
	if to.kind == seekInitial && c.member != nil {
		if committed == nil {
			if committed, err = c.committed(ctx, []TopicPartition{s.tp}); err != nil {
				return err
			}
		}
		if pos, ok := committed[s.tp]; ok {
			at, epoch, found = pos.Offset, pos.LeaderEpoch, pos.Offset
			if epoch == 0 {
				epoch = noEpoch
			}
		}
	}
	if at == NoOffset {
		at, err = c.named(ctx, p, to)
	}
	if err != nil {
		return p.error("position", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.version == version && s.state == sourceSeeking {
		s.committed = found
		s.found(at, epoch)
	}
	return nil
}

// named returns the offset of a place that is not given by its offset.
func (c *Consumer) named(ctx context.Context, p *Partition, to seekTo) (Offset, error) {
	reset := c.opts.OffsetReset
	switch b := p.Bounds(); {
	case to.kind == seekTime:
		return p.OffsetAt(ctx, to.at)
	case to.kind == seekStart:
		return b.Start, nil
	case to.kind == seekEnd, reset == ResetLatest && to.kind != seekStart:
		return c.readableEnd(b), nil
	case reset == ResetEarliest:
		return b.Start, nil
	}
	return NoOffset, fmt.Errorf("%w: OffsetReset is ResetError", ErrNoOffset)
}
