package riffle

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/rifflelog/riffle/internal/batch"
)

// Condition is what must hold for [Partition.AppendIf] to append: [NextOffset] or
// [KeyUnchanged]. It may be used again, also concurrently. The zero Condition is
// none: ErrInvalidOptions.
type Condition struct {
	kind   conditionKind
	offset Offset
	key    string
}

type conditionKind byte

const (
	always conditionKind = iota
	nextOffset
	keyUnchanged
	nilKey // a KeyUnchanged of none
)

// NextOffset holds while o is the log end, [Bounds.End]: nothing has been appended
// to the partition since o was that.
func NextOffset(o Offset) Condition { return Condition{kind: nextOffset, offset: o} }

// KeyUnchanged holds while no record from offset since to the log end has that key:
// nothing has been appended under it since records before since were read. Records
// that are not committed yet count. An empty key is a key; nil is none, and
// ErrInvalidOptions. The key is copied.
//
// Since is an offset in [Bounds.Start, Bounds.End], else AppendIf returns
// *OffsetError: what is before the start is gone, and with it the answer. Earliest
// is the start: no record that is still there has the key.
//
// It costs reading the keys from since to the log end: for a thousand small records
// in memory 25 to 50 µs, by how many are in a batch.
func KeyUnchanged(key []byte, since Offset) Condition {
	c := Condition{kind: keyUnchanged, offset: since, key: string(key)}
	if key == nil {
		c.kind = nilKey
	}
	return c
}

// AppendIf appends recs like [Partition.Append], if cond holds: nothing is appended
// in between. Else the error is *ConflictError, and nothing is written. This is the
// expected version of event sourcing, per partition or per key. Kafka does not have
// it (KAFKA-2260).
//
// Under FlushBeforeAck, ErrConflict comes when the end that it rests on is
// committed. If ctx ends or a flush fails while it waits for that, nothing of recs
// was written: the error is ctx's or ErrPartitionFailed, without ErrInDoubt.
//
// Other appends do not wait while keys are read, but for the last 64 KiB at most, or
// for what has come since if they come faster than keys can be read, eight times in a
// row. Errors beyond those of Append: ErrConflict, ErrInvalidOptions, *OffsetError,
// and *CorruptError if what must be read for KeyUnchanged is damaged.
func (p *Partition) AppendIf(ctx context.Context, cond Condition, recs ...Record) (Offset, error) {
	at, err := NoOffset, cond.problem()
	if err == nil {
		at, err = p.encodeAndAppend(ctx, cond, recs)
	}
	if err != nil {
		p.countFailure(err)
		return NoOffset, p.error("append", err)
	}
	return at, nil
}

// problem says why there can be no answer to c.
func (c Condition) problem() error {
	switch {
	case c.kind == always:
		return fmt.Errorf("%w: AppendIf needs a condition", ErrInvalidOptions)
	case c.kind == nilKey:
		return fmt.Errorf("%w: KeyUnchanged needs a key, nil is none", ErrInvalidOptions)
	case c.kind == nextOffset && c.offset < 0:
		return fmt.Errorf("%w: NextOffset(%d) is no offset", ErrInvalidOptions, c.offset)
	}
	return nil
}

// countFailure counts a conditional append that failed.
func (p *Partition) countFailure(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if errors.Is(err, ErrConflict) {
		p.count().conflicts++
	} else {
		p.count().appendErrors++
	}
}

// lockIf is lockWithRoom for an append that cond allows.
func (p *Partition) lockIf(ctx context.Context, cond Condition, b batch.Batch, now int64) error {
	if cond.kind == keyUnchanged {
		return p.lockUnlessKey(ctx, cond, b, now)
	}
	if err := p.lockWithRoom(ctx, b, now); err != nil || cond.kind == always {
		return err
	}
	end := p.end
	if end == cond.offset {
		return nil
	}
	p.mu.Unlock()
	return p.conflict(ctx, cond.offset, end)
}

// conflict returns a *ConflictError once the log end that it rests on is committed.
func (p *Partition) conflict(ctx context.Context, at, end Offset) error {
	if p.topic.config().Flush == FlushBeforeAck {
		if err := p.flushTo(ctx, end); err != nil {
			return err
		}
	}
	return &ConflictError{Offset: at, Next: end}
}

const (
	// maxHeldUp is how many bytes a key is looked for in while appends wait: what
	// they wait is about what an append of as much takes.
	maxHeldUp = 64 << 10
	// maxRounds is how often a key is looked for in what was appended since the
	// last time, before appends wait for it however much that is. Reading is
	// faster than appending, so that a few do.
	maxRounds = 8
)

// lockUnlessKey is lockIf for KeyUnchanged.
//
// Step by step, and what would go wrong otherwise: (1) what is there is searched
// with no lock held, or everybody would wait for it; (2) then what was appended
// meanwhile, until little is left; (3) that is searched while appends wait, as they
// do for any change of the partition, or the last of it might never be reached; no
// lock is held then either, since reading may wait for the disk; (4) the lock is
// taken before they go on, so that b comes next. It has room: lockWithRoom saw to
// that, and nothing has come since.
func (p *Partition) lockUnlessKey(ctx context.Context, cond Condition, b batch.Batch, now int64) error {
	if !p.enter() {
		return notFound(p.topic.name)
	}
	defer p.leave() // never as the last one with mu held: the topic is there then
	s := keySearch{p: p, r: readers.Get().(*reader), cond: cond}
	defer s.end()
	for round := 0; ; round++ {
		if err := p.lockWithRoom(ctx, b, now); err != nil {
			return err
		}
		rest, err := s.look()
		if err == nil && rest > 0 && (rest <= maxHeldUp || round >= maxRounds) {
			if err = s.searchAlone(ctx); err == nil {
				rest, err = s.look()
			}
		}
		if err == nil && rest == 0 {
			return nil
		}
		p.mu.Unlock()
		if err == nil {
			err = s.search(ctx)
		}
		if err != nil {
			return p.orConflict(ctx, err)
		}
	}
}

// orConflict returns err; if it is a conflict, when the log end that it rests on is
// committed.
func (p *Partition) orConflict(ctx context.Context, err error) error {
	var found *ConflictError
	if errors.As(err, &found) {
		return p.conflict(ctx, found.Offset, found.Next)
	}
	return err
}

// keySearch looks for a key from an offset to the log end, and goes on where it was
// when more has been appended.
type keySearch struct {
	p       *Partition
	r       *reader
	cond    Condition
	begun   bool     // the reader is at its place
	resumes bool     // it was there once: all before its next record has been searched
	upTo    snapshot // what has been looked at; its high watermark is the log end
}

// end gives the reader back. What it has read was read for no loop, and is not
// counted.
func (s *keySearch) end() {
	s.r.p, s.r.batches, s.r.bytes = s.p, 0, 0
	s.r.release()
}

// look takes note of the log as it is, and returns how many bytes of it are to be
// searched yet. Called under mu.
func (s *keySearch) look() (rest int64, err error) {
	was := s.upTo
	s.upTo = s.p.loadSnapshot()
	since, start, end := s.cond.offset, s.upTo.start(), s.upTo.end
	if since == Earliest {
		since = start
	}
	if since < start || since > end {
		return 0, &OffsetError{Offset: s.cond.offset, Start: start, End: end}
	}
	r := s.r
	if !s.begun || was.cuts != s.upTo.cuts {
		// The log start has moved, perhaps: its place is to be looked for. What has been
		// searched stays so, since only a replica is truncated, and takes no conditions.
		next := since
		if s.resumes {
			next = max(since, r.next)
		}
		r.start(s.p, next)
		s.begun, s.resumes = true, true
	}
	s.upTo.highWatermark = end
	r.tail, r.tailEnd = s.p.active(), s.p.activeSize()
	switch {
	case r.next == end:
		return 0, nil
	case r.seg == nil:
		return math.MaxInt64, nil // its place is not known
	}
	for _, seg := range s.upTo.segs.list {
		if seg.base >= r.seg.base {
			rest += r.limit(seg)
		}
	}
	return rest - r.pos, nil
}

// searchAlone is search while appends wait. It is called with mu held, and returns
// with it held.
func (s *keySearch) searchAlone(ctx context.Context) error {
	p, done := s.p, make(chan struct{})
	p.changing = done
	p.mu.Unlock()
	err := s.search(ctx)
	p.mu.Lock()
	p.changing = nil
	close(done)
	if err == nil {
		err = p.writable() // closing does not wait, and a flush may have failed
	}
	return err
}

// search looks for the key up to the end that look has seen: *ConflictError if a
// record has it. If bounds have moved meanwhile, and it has failed because of that,
// it begins anew after the next look.
func (s *keySearch) search(ctx context.Context) error {
	r, asked := s.r, int64(-maxHeldUp)
	for {
		if r.pos >= asked+maxHeldUp || r.pos < asked {
			if err := s.p.alive(ctx); err != nil {
				return err
			}
			if s.p.gone.Load() {
				return notFound(s.p.topic.name)
			}
			asked = r.pos
		}
		found, err := r.find(s.upTo)
		if err == nil && found {
			err = s.searchBatch()
		}
		switch {
		case err != nil:
			return s.unlessMoved(err)
		case !found:
			r.next = s.upTo.end
			return nil
		}
		r.next = r.expect
	}
}

// searchBatch looks for the key in the batch that the reader is at.
func (s *keySearch) searchBatch() error {
	records := &s.r.records
	if s.r.control {
		return nil // its keys are the log's own
	}
	for records.NextKey() {
		key := records.Record.Key
		if string(key) == s.cond.key && key != nil && Offset(records.Record.Offset) >= s.r.next {
			return &ConflictError{Offset: Offset(records.Record.Offset), Next: s.upTo.end}
		}
	}
	if err := records.Err(); err != nil {
		return s.r.damage(s.r.at, s.r.base, err)
	}
	return nil
}

// unlessMoved returns err unless bounds are others than look has seen: then what
// was to be read may be gone.
func (s *keySearch) unlessMoved(err error) error {
	var found *ConflictError
	if now := s.p.snapshot(); !errors.As(err, &found) && (now.cuts != s.upTo.cuts || now.start() != s.upTo.start()) {
		s.begun = false
		return nil
	}
	return s.p.closedOr(err)
}
