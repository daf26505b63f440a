package riffle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"sync"

	"github.com/rifflelog/riffle/internal/batch"
	"github.com/rifflelog/riffle/internal/invariants"
	"github.com/rifflelog/riffle/internal/vfs"
)

// siteReadCheck is the check of each batch that is read.
const siteReadCheck vfs.Site = "read.check"

// ReadOptions are options of a loop over records. A nil pointer means the
// defaults.
type ReadOptions struct {
	// Until is where the loop ends, itself not included. Zero: at the readable
	// end as the loop begins, or never if the loop follows. Latest: at the
	// readable end also if it follows.
	Until Offset
}

// Records iterates over the records in [from, opts.Until), by default to the
// readable end as the loop begins. Each record is the caller's for good.
//
// From is an offset, Earliest or Latest. An error comes once, last, with the
// zero Record: *OffsetError, *CorruptError, ErrClosed, or ctx's. A loop over
// the same iterator begins anew.
func (p *Partition) Records(ctx context.Context, from Offset, opts *ReadOptions) iter.Seq2[Record, error] {
	return p.owned(ctx, from, opts, false)
}

// Follow is like Records, but waits for more records at the readable end, until
// ctx ends or opts.Until is reached. A record is seen as soon as it is
// committed. To go on in another process, keep the last record's Offset + 1. It also ends if no more can come: ErrPartitionFailed,
// ErrReadOnly.
func (p *Partition) Follow(ctx context.Context, from Offset, opts *ReadOptions) iter.Seq2[Record, error] {
	return p.owned(ctx, from, opts, true)
}

// Views is like Records, but lends each record until the loop body ends:
// nothing is copied or allocated for it.
func (p *Partition) Views(ctx context.Context, from Offset, opts *ReadOptions) iter.Seq2[View, error] {
	return p.lent(ctx, from, opts, false)
}

// FollowViews is Follow with Views.
func (p *Partition) FollowViews(ctx context.Context, from Offset, opts *ReadOptions) iter.Seq2[View, error] {
	return p.lent(ctx, from, opts, true)
}

func (p *Partition) owned(ctx context.Context, from Offset, opts *ReadOptions, follow bool) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		a := arena{ahead: true}
		err := p.read(ctx, from, opts, follow, func(r *reader) bool {
			return yield(a.record(View{r}), nil)
		})
		if err != nil {
			yield(Record{}, err)
		}
	}
}

func (p *Partition) lent(ctx context.Context, from Offset, opts *ReadOptions, follow bool) iter.Seq2[View, error] {
	return func(yield func(View, error) bool) {
		err := p.read(ctx, from, opts, follow, func(r *reader) bool {
			if !invariants.Enabled {
				return yield(View{r}, nil)
			}
			// Whoever keeps a view past its time shall find it overwritten.
			buf := r.records.Record.Move(nil)
			defer invariants.Scribble(buf)
			return yield(View{r}, nil)
		})
		if err != nil {
			yield(View{}, err)
		}
	}
}

// read calls body with a reader at each record of the range until it returns
// false. Its error, if any, is for the caller of the loop.
func (p *Partition) read(ctx context.Context, from Offset, opts *ReadOptions, follow bool, body func(*reader) bool) error {
	if err := p.catchUp(ctx); err != nil {
		return p.error("read", err)
	}
	if !p.enter() {
		return p.error("read", notFound(p.topic.name))
	}
	defer p.leave()
	next, until, err := p.resolve(from, opts, follow)
	if err == nil {
		err = p.alive(ctx)
	}
	if err == nil && p.damaged != nil && p.segs.Load() == nil {
		err = fmt.Errorf("%w: %w", ErrReadOnly, p.damaged)
	}
	if err != nil {
		return p.error("read", err)
	}
	r := readers.Get().(*reader)
	defer r.release()
	r.start(p, next)
	r.fromStart = from == Earliest
	for r.next < until {
		if err := p.alive(ctx); err != nil {
			return p.error("read", err)
		}
		found, err := r.load(ctx)
		if err == nil && !found {
			if !follow {
				return nil
			}
			r.count()
			if err = p.waitFor(ctx, r.next, r.cuts); err == nil {
				continue
			}
		}
		if err != nil {
			return p.error("read", p.closedOr(err))
		}
		more, err := r.each(ctx, until, body)
		if err != nil {
			return p.error("read", err)
		}
		if !more {
			return nil
		}
	}
	return nil
}

// resolve turns from and opts.Until into offsets, as of now.
func (p *Partition) resolve(from Offset, opts *ReadOptions, follow bool) (next, until Offset, err error) {
	b := p.bounds()
	switch {
	case from == Earliest:
		next = b.Start
	case from == Latest:
		next = b.HighWatermark
	case from < b.Start || from > b.End:
		return 0, 0, &OffsetError{Offset: from, Start: b.Start, End: b.End}
	default:
		next = from
	}
	if opts != nil {
		until = opts.Until
	}
	switch {
	case until < 0 && until != Latest:
		return 0, 0, fmt.Errorf("%w: ReadOptions: Until is %d", ErrInvalidOptions, until)
	case until == Latest || until == 0 && !follow:
		until = b.HighWatermark
	case until == 0:
		until = math.MaxInt64
	case !follow:
		until = min(until, b.HighWatermark)
	}
	return next, until, nil
}

// alive returns why reading must stop, if it must.
func (p *Partition) alive(ctx context.Context) error {
	if p.topic.log.isClosing() {
		return p.topic.log.closedError()
	}
	return ctx.Err()
}

// closedOr returns ErrClosed in place of an error that closing the log made.
func (p *Partition) closedOr(err error) error {
	if p.topic.log.isClosing() {
		return p.topic.log.closedError()
	}
	return err
}

// waitFor returns nil when there may be a record at offset next, or bounds have
// gone back since they were as cuts says.
func (p *Partition) waitFor(ctx context.Context, next Offset, cuts int64) error {
	b := p.bell()
	if p.shadow != nil {
		done, err := p.await()
		if err != nil {
			return err
		}
		defer done()
		if err := p.catchUp(ctx); err != nil {
			return err
		}
	}
	if Offset(p.highWatermark.Load()) > next || p.cuts.Load() != cuts {
		return nil
	}
	if err := p.noMore(); err != nil {
		return err
	}
	select {
	case <-b.rung:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-p.topic.log.closing:
		return p.topic.log.closedError()
	}
}

// noMore returns why nothing can come behind what is committed, if that is so.
func (p *Partition) noMore() error {
	p.mu.Lock()
	failed := p.failed
	p.mu.Unlock()
	switch {
	case p.gone.Load():
		return notFound(p.topic.name)
	case failed != nil:
		return fmt.Errorf("%w: %w", ErrPartitionFailed, failed)
	case p.damaged != nil:
		return fmt.Errorf("%w: %w", ErrReadOnly, p.damaged)
	}
	return nil
}

// reader walks through the committed batches of a partition. It takes no lock.
type reader struct {
	p         *Partition
	cuts      int64       // as of the snapshot that it has looked at
	segs      *segmentSet // likewise
	seg       *segment    // nil if the place of the record to come is to be looked for
	next      Offset      // the record to come
	pos       int64       // of the batch to come
	expect    Offset      // its base offset
	fromStart bool        // the log start was asked for, wherever it is, and nothing was shown yet
	since     int64       // batches with a smaller largest timestamp are passed over
	tail      *segment    // if not nil, what is not committed is read too, up to tailEnd of this segment
	tailEnd   int64       // likewise
	passed    int32       // epoch of the batch before; noEpoch if that is not known
	guessed   bool        // passed is what leader-epoch-checkpoint had said
	// passedOver is the batch before, if only its header was looked at.
	passedOver batchPlace
	epoch      int32        // of the batch whose records are in records
	lineage    []epochEntry // the log's epochs when that one was found
	at         int64        // its place
	base       Offset       // its base offset
	control    bool         // its records are the log's own
	win        window
	records    batch.Reader

	batches, bytes int64 // read and not counted in the topic
}

// batchPlace is where a batch is, and the offset that it should begin with.
type batchPlace struct {
	seg  *segment // nil if there is none
	pos  int64
	base Offset
}

var readers = sync.Pool{New: func() any { return new(reader) }}

// start goes to offset next of p.
func (r *reader) start(p *Partition, next Offset) {
	r.p, r.seg, r.next, r.passed, r.epoch = p, nil, next, noEpoch, noEpoch
	r.since, r.cuts, r.lineage = math.MinInt64, -1, nil // it has seen no snapshot yet
	r.fromStart = false
	r.tail = nil
}

func (r *reader) release() {
	r.count()
	r.p, r.segs, r.seg, r.tail, r.lineage, r.passedOver = nil, nil, nil, nil, nil, batchPlace{}
	r.records.Release()
	r.win.reset(nil, 0)
	readers.Put(r)
}

// count adds what was read to the topic's counts, where it costs nothing: not
// for each batch.
func (r *reader) count() {
	r.p.topic.counts.readBatches.Add(r.batches)
	r.p.topic.counts.readBytes.Add(r.bytes)
	r.batches, r.bytes = 0, 0
}

// load goes to the batch that has offset next, or to the first one after it. It
// returns false if none is committed. If bounds went back meanwhile, what it has
// found may be gone, and its error may come of that: it looks again.
func (r *reader) load(ctx context.Context) (found bool, err error) {
	defer r.p.topic.log.guard(&err)
	next, epoch, lineage := r.next, r.epoch, r.lineage
	for ; ; r.next, r.epoch, r.lineage = next, epoch, lineage { // as of what was shown
		s := r.p.snapshot()
		if r.fromStart && r.next < s.start() {
			r.next, next = s.start(), s.start() // who asked for Earliest has named no offset
		}
		if s.cuts != r.cuts {
			err = r.startAnew(s)
		}
		if err == nil && r.next < s.start() {
			err = &OffsetError{Offset: r.next, Start: s.start(), End: s.end}
		}
		if err == nil {
			found, err = r.find(s)
		}
		if r.p.shadow != nil && !found {
			if err = r.p.atEnd(ctx, s, err); err == nil && r.p.segs.Load() != s.segs {
				r.seg = nil // it may be none of the partition's any more
				continue
			}
		}
		if r.p.cuts.Load() == s.cuts {
			return found, err
		}
		found, err = false, nil
	}
}

// startAnew looks for the record to come once more, since bounds have gone back.
// It must go on from what was shown last: an *OffsetError says where the log
// and what was shown part, also if the log is longer again than what was shown.
// Kafka: LogTruncationException, KIP-320.
func (r *reader) startAnew(s snapshot) error {
	r.cuts, r.seg = s.cuts, nil
	end := s.end
	if r.epoch != noEpoch && r.next >= s.start() {
		end = min(end, parting(r.lineage, r.epoch, r.next, s.start(), r.p.epochs.load()))
	}
	if r.next < s.start() || r.next > end {
		return &OffsetError{Offset: r.next, Start: s.start(), End: max(end, s.start())}
	}
	return nil
}

// find is load as of s.
func (r *reader) find(s snapshot) (found bool, err error) {
	hw, segs := s.highWatermark, s.segs
	if r.segs = segs; r.next >= hw {
		return false, nil
	}
	if segs == nil {
		r.next = hw // all before it is a gap
		return false, nil
	}
	if r.seg == nil {
		seg := segs.find(r.next)
		r.enter(seg)
		r.expect, r.passedOver = seg.base, batchPlace{}
		if r.next > seg.base {
			if r.pos, r.expect, err = r.p.place(seg, &r.win, r.next); err != nil {
				return false, err
			}
		}
		r.passed, r.guessed = r.p.epochBefore(r.expect), true
	}
	r.win.limit = r.limit(r.seg)
	for r.expect < hw {
		b, err := r.win.batch(r.pos)
		if err == nil {
			err = checkFollows(r.expect, r.passed, b)
		}
		if err != nil {
			again, err := r.notThere(hw, err)
			if again {
				continue
			}
			return false, err
		}
		if Offset(b.LastOffset()) < r.next {
			before := batchPlace{r.seg, r.pos, r.expect}
			r.pass(b)
			r.passedOver = before
			continue
		}
		if found, err = r.take(b); r.leap(err) {
			continue // its header had said that it has the record to come
		}
		if found || err != nil {
			return found, err
		}
	}
	return false, nil
}

// notThere decides what it means that the batch to come is not where it should
// be, because of err. If the search goes on it returns true, and is where it does.
func (r *reader) notThere(hw Offset, err error) (again bool, failed error) {
	if r.guessed && isDamage(err) {
		r.guessed = false
		if epoch := r.epochFound(r.expect); epoch != r.passed {
			r.passed = epoch // the checkpoint, which has no checksum, is wrong
			return true, nil
		}
	}
	end := errors.Is(err, io.EOF)
	next, after := r.behindZeros(err), r.segs.after(r.seg)
	if end && after != nil && after.base < hw {
		next = after
	}
	if next != nil {
		r.enter(next)
		return true, nil
	}
	switch wrong := r.blame(err); {
	case wrong != nil:
		err = wrong
	case end && r.limit(r.seg) > r.win.limit:
		// More was shown since the limit was looked at: of another process's log, what
		// seemed lost may be found.
		r.win.limit = r.limit(r.seg)
		return true, nil
	case end && r.p.damaged == nil && (r.p.shadow == nil || r.p.shadow.isGap(after, hw)):
		r.next = max(r.next, hw) // an unclean stop has left a gap before it
		return false, nil
	}
	err = r.damage(r.pos, r.expect, err)
	return r.leap(err), err
}

// epochFound returns the epoch of the last batch before offset o that can be read;
// noEpoch if there is none.
func (r *reader) epochFound(o Offset) int32 {
	seg, epoch := r.segs.find(o-1), noEpoch
	var w window
	w.reset(seg, r.limit(seg))
	pos, _, err := r.p.place(seg, &w, o-1)
	for err == nil {
		var b batch.Batch
		if b, err = w.batch(pos); err != nil || Offset(b.NextOffset()) > o || b.Check() != nil {
			break
		}
		pos, epoch = pos+int64(len(b)), b.LeaderEpoch()
	}
	return epoch
}

// blame goes back to the batch that was passed over, if that is the reason of err:
// its header was believed, but its bytes are wrong. It returns what is.
func (r *reader) blame(err error) error {
	before := r.passedOver
	if before.seg == nil || !isDamage(err) && !errors.Is(err, io.EOF) {
		return nil
	}
	limit := r.limit(before.seg)
	var w window
	w.reset(before.seg, limit)
	b, wrong := w.batch(before.pos)
	if wrong == nil {
		wrong = b.Check()
	}
	if !isDamage(wrong) {
		return nil // it is right, or cannot be read now
	}
	r.seg, r.pos, r.expect = before.seg, before.pos, before.base
	r.win.reset(r.seg, limit)
	return wrong
}

// take makes b, whose header is right, the batch to be read, unless it is too
// old, and goes behind it.
func (r *reader) take(b batch.Batch) (found bool, err error) {
	// Only who looks for a key believes memory: a CRC of each small batch would be a
	// third of his time.
	if r.tail == nil || !r.win.own || invariants.Enabled {
		if err := b.Check(); !r.p.topic.log.fs.Check(siteReadCheck, err == nil) {
			return false, r.damage(r.pos, r.expect, err)
		}
	}
	if b.MaxTimestamp() < r.since {
		r.pass(b)
		return false, nil
	}
	if err := r.records.Reset(b, batch.MaxInflated); err != nil {
		return false, r.damage(r.pos, r.expect, err)
	}
	r.at, r.base, r.epoch, r.control = r.pos, Offset(b.BaseOffset()), b.LeaderEpoch(), b.Control()
	r.lineage = r.p.epochs.load()
	r.pass(b)
	r.batches, r.bytes = r.batches+1, r.bytes+int64(len(b))
	return true, nil
}

// behindZeros returns the segment that follows if there is no batch because of
// space that was allocated ahead: a crash may have brought it back after it was
// cut.
func (r *reader) behindZeros(err error) *segment {
	next := r.segs.after(r.seg)
	if next == nil || !isDamage(err) {
		return nil
	}
	if spare, err := zeros(r.seg, r.pos, r.win.limit); err != nil || !spare {
		return nil
	}
	return next
}

// enter goes to the beginning of a segment.
func (r *reader) enter(seg *segment) {
	r.seg, r.pos = seg, 0
	r.win.reset(seg, r.limit(seg))
}

// limit is how many bytes of a segment may be read.
func (r *reader) limit(seg *segment) int64 {
	switch r.tail {
	case nil:
		return seg.committed.Load()
	case seg:
		return r.tailEnd
	}
	return seg.size // it is not appended to any more
}

// leap goes over damage, if the record to come is behind it.
func (r *reader) leap(err error) bool {
	if err == nil {
		return false // before e is allocated: this is asked for each batch
	}
	var e *CorruptError
	if !errors.As(err, &e) || e.Next == NoOffset || r.next < e.Next {
		return false
	}
	if seg := r.segs.find(e.Next); seg != r.seg {
		r.enter(seg)
	} else {
		r.pos = e.nextPos
	}
	r.expect, r.passed, r.guessed, r.passedOver = e.Next, r.p.epochBefore(e.Next), true, batchPlace{}
	return true
}

// pass goes behind b.
func (r *reader) pass(b batch.Batch) {
	r.pos += int64(len(b))
	r.passedOver = batchPlace{}
	r.expect, r.passed, r.guessed = Offset(b.NextOffset()), b.LeaderEpoch(), false
}

// each calls body for the records of the batch in [next, until). It returns
// false when the loop is over.
func (r *reader) each(ctx context.Context, until Offset, body func(*reader) bool) (bool, error) {
	for r.records.Next() {
		o := Offset(r.records.Record.Offset)
		if o < r.next {
			continue
		}
		if o >= until {
			return false, nil
		}
		r.next, r.fromStart = o+1, false
		if !body(r) {
			return false, nil
		}
		if err := ctx.Err(); err != nil {
			return false, err
		}
	}
	if err := r.records.Err(); err != nil {
		return false, r.damage(r.at, r.base, err)
	}
	r.next = r.expect
	return true, nil
}

// recordBytes is an upper bound of the bytes of keys and values that are still
// to come in this batch, the present record included.
func (r *reader) recordBytes() int {
	rec := &r.records.Record
	return r.records.Remaining() + len(rec.Key) + len(rec.Value) + rec.Headers.Size()
}

// damage turns what is wrong with the batch at byte pos, which should begin with
// offset base, into a *CorruptError, and leaves errors of the file system as
// they are.
func (r *reader) damage(pos int64, base Offset, err error) error {
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: file ends", batch.ErrTruncated)
	}
	if !isDamage(err) {
		return err
	}
	e := &CorruptError{File: r.seg.file.Name(), Pos: pos, Offset: base, Next: NoOffset, Err: err}
	if at, next, ferr := r.findNext(pos, base+1); ferr != nil {
		e.Err = errors.Join(err, ferr)
	} else {
		e.Next, e.nextPos = next, at
	}
	if after := r.segs.after(r.seg); e.Next == NoOffset && after != nil {
		e.Next = after.base
	}
	return e
}

// findNext searches the segment for a batch with an offset of at least from: at
// byte pos, where a batch may be right and only not follow, or behind the bad one
// there.
func (r *reader) findNext(pos int64, from Offset) (at int64, base Offset, err error) {
	var w window
	w.reset(r.seg, r.win.limit)
	if b, err := w.batch(pos); err != nil || b.Check() != nil || Offset(b.BaseOffset()) < from {
		if pos, err = behind(r.seg, pos, r.win.limit); err != nil {
			return -1, NoOffset, err
		}
	}
	return findBatch(r.seg, pos, r.win.limit, from)
}

// cursor is where a reader is, without its memory. The zero cursor is nowhere.
type cursor struct {
	p       *Partition
	cuts    int64
	seg     *segment
	next    Offset
	pos     int64
	expect  Offset
	passed  int32
	guessed bool
	epoch   int32
	lineage []epochEntry
}

// cursor returns where r is. It must not be in a batch.
func (r *reader) cursor() cursor {
	return cursor{r.p, r.cuts, r.seg, r.next, r.pos, r.expect, r.passed, r.guessed, r.epoch, r.lineage}
}

// of says whether the cursor is at offset next of p.
func (c *cursor) of(p *Partition, next Offset) bool { return c.p == p && c.next == next }

// resume goes to where another reader of p was.
func (r *reader) resume(p *Partition, c cursor) {
	r.start(p, c.next)
	r.cuts, r.epoch, r.lineage = c.cuts, c.epoch, c.lineage
	if r.seg = c.seg; r.seg == nil {
		return
	}
	r.pos, r.expect, r.passed, r.guessed, r.passedOver = c.pos, c.expect, c.passed, c.guessed, batchPlace{}
	r.win.reset(r.seg, r.limit(r.seg))
}
