package riffle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rifflelog/riffle/internal/batch"
	"github.com/rifflelog/riffle/internal/compress"
	"github.com/rifflelog/riffle/internal/invariants"
	"github.com/rifflelog/riffle/internal/vfs"
)

// Partition is one ordered log of records. Its methods are safe for concurrent
// use: appends follow each other in some order, reading waits for no append.
type Partition struct {
	topic *Topic
	index int
	dir   string

	// damaged is why the partition is read-only, nil if it is not. It is set when
	// the log is opened. Where there are no segments then, nothing can be read.
	damaged error
	// Set when the log is opened, as is epochs.

	unclean bool // it was not closed cleanly: appending begins a new epoch
	epochs  *epochCache
	// staleEpochs says that leader-epoch-checkpoint may not be what epochs are: it has
	// one that was to begin at the end, or beyond. Guarded by mu. Before the next append
	// it is written, since an earlier epoch may go on there.
	staleEpochs bool

	// segs is replaced as a whole, under mu. Nil until there is a file.
	segs atomic.Pointer[segmentSet]

	// mu guards what appending changes.
	mu       sync.Mutex
	closed   bool
	failed   error // why the partition is offline; nil if it is not
	reported bool  // failed has been logged
	flushing flushQueue
	// flushed says up to where the partition is on stable storage, flushedSize
	// the same of the active segment: only that may have unflushed bytes.
	// Invariant: flushed <= end, flushedSize <= size of the active segment.
	flushed     Offset
	flushedSize int64
	// cut counts how often the active segment's file was cut, cutFlushed how many of
	// these a flush has covered.
	cut, cutFlushed int
	cutting         bool          // a truncation is under way, as bounds say too
	changing        chan struct{} // closed when the change that is under way has ended; nil if none is
	moving          chan struct{} // the same of the log start moving; see moveStart
	asking          chan struct{} // the same of a move that DeleteBefore waits for; see moveStartFor
	deleted         []*segment    // those below the start whose files are still there
	begun           bool          // this incarnation may append
	mustRoll        bool          // a roll has failed on its way
	unfinished      Offset        // of a file that was begun and is no segment yet, or NoOffset; for changes
	start           Offset        // of the log, as bounds have it or are to have it
	end             Offset        // of the log, where the next record goes
	dataEnd         Offset        // after the last batch: below end in a gap
	epoch           int32         // of batches that are appended; until begun the highest known, or noEpoch
	entry           *boundsEntry  // nil until there is a directory
	// ceiling is the offset that no record may have before a higher one is on
	// the disk; asked is the one that was set there last. Invariant: end <=
	// ceiling <= asked, once begun.
	ceiling, asked Offset
	raising        bool        // in the background
	timer          *time.Timer // runs while a FlushAsync partition has unflushed bytes or is mapped
	timed          bool
	drawn          int64     // what is left of what was drawn on the credit of a look at the disk
	drawnOn        *diskLook // that look; nil if there was none
	counts         *counts   // nil until there is something to count
	replica        bool      // its batches and its high watermark come from a leader
	listed         bool      // other processes are to be shown what was committed

	shadow *shadow // of a read-only log's partition; else nil

	// gone says that the topic is deleted; moved where the directory is since,
	// nil before. users is one for the topic and one for each loop: who leaves
	// last removes the files. See moveAway.
	gone  atomic.Bool
	moved atomic.Pointer[string]
	users atomic.Int64

	// cuts counts the changes by which bounds may go back, twice each: it is odd
	// while one is being made. Changed under mu. See snapshot.
	cuts atomic.Int64
	// shownEnd is the log end where that is not the high watermark, else at most that: see
	// logEnd. Changed under mu. Invariant: shownEnd <= end.
	shownEnd atomic.Int64
	// highWatermark is the end of what is committed. Changed under mu, after
	// the segment's committed and after segs: a reader that sees it finds the
	// bytes. Invariant: highWatermark <= end.
	highWatermark atomic.Int64
	// removing is held while the files of deleted segments are removed. It is taken with
	// no lock held.
	removing sync.Mutex
	// waiting is what loops at the high watermark wait on; nil if there are
	// none, so that an append with nobody waiting pays one atomic load.
	waiting atomic.Pointer[bell]
	// followers are to hear of each commit, until they are taken off. Under mu another list
	// takes its place, which may go on behind the end of the one before in the same memory;
	// nil if it is empty.
	followers atomic.Pointer[[]follower]
}

// follower is who wants to hear that there may be something new.
type follower interface {
	// news is called with no lock held, by whoever commits: it must not wait.
	news()
}

// bell is rung once, by closing it.
type bell struct{ rung chan struct{} }

// Bounds are a partition's offsets at one moment:
// Start <= LastStable <= HighWatermark <= End.
type Bounds struct {
	Start         Offset // what was before it is deleted. Kafka: log start offset
	LastStable    Offset // before it, every transaction has ended
	HighWatermark Offset // before it, every record is committed: readable
	End           Offset // of the next record to be appended. Kafka: log end offset
}

func newPartition(t *Topic, index int, dir string) *Partition {
	p := &Partition{topic: t, index: index, dir: dir, epochs: newEpochCache(nil), epoch: noEpoch, unfinished: NoOffset}
	p.users.Store(1)
	if t.log.view != nil {
		p.shadow = newShadow()
	}
	return p
}

// Index is the partition's number in its topic, from 0.
func (p *Partition) Index() int { return p.index }

// Topic is the topic that the partition is of.
func (p *Partition) Topic() *Topic { return p.topic }

// Bounds returns the partition's bounds. They may have grown when it returns.
func (p *Partition) Bounds() Bounds {
	_ = p.catchUp(context.Background()) // reading says what is wrong
	return p.bounds()
}

// bounds are the bounds as far as they are known here.
func (p *Partition) bounds() Bounds {
	s := p.snapshot()
	return Bounds{Start: s.start(), LastStable: s.highWatermark, HighWatermark: s.highWatermark, End: s.end}
}

// Append writes recs as one batch, all or nothing, and returns the offset of
// the first. It ignores their Topic, Partition, Offset and LeaderEpoch, and
// compresses only if the topic sets a codec. Together they must fit
// [TopicConfig.MaxMessageBytes].
//
// When it returns nil, the records are committed as [TopicConfig.Flush] says.
// Under FlushBeforeAck, if ctx ends or a flush fails while it waits for that,
// the error is ErrInDoubt: the records may or may not be found later. Any other
// error means that nothing was written. Errors: ErrInvalidRecord,
// ErrRecordTooLarge, ErrBatchTooLarge, ErrDiskFull, ErrReadOnly,
// ErrPartitionFailed, ErrClosed, and ctx's.
func (p *Partition) Append(ctx context.Context, recs ...Record) (Offset, error) {
	at, err := p.encodeAndAppend(ctx, Condition{}, recs)
	if err != nil {
		p.countError()
		return NoOffset, p.error("append", err)
	}
	return at, nil
}

func (p *Partition) encodeAndAppend(ctx context.Context, cond Condition, recs []Record) (at Offset, err error) {
	if err := ctx.Err(); err != nil {
		return NoOffset, err
	}
	if err := p.topic.log.errReadOnly(); err != nil {
		return NoOffset, err
	}
	if p.topic.internal && p != p.topic.log.meta {
		return NoOffset, errInternal(p.topic.name)
	}
	defer p.topic.log.guardAppend(&err)
	e := encoders.Get().(*encoder)
	defer e.release()
	now := e.now()
	b, err := e.encode(recs, p.topic.config(), now)
	if err != nil {
		return NoOffset, err
	}
	return p.appendIf(ctx, cond, b, now)
}

// error wraps err with the place, once.
func (p *Partition) error(op string, err error) error {
	var already *PartitionError
	if errors.As(err, &already) {
		return err
	}
	return &PartitionError{Op: op, Topic: p.topic.name, Partition: p.index, Err: err}
}

// encoder turns records into a batch. It keeps its buffers.
type encoder struct {
	b    batch.Builder
	buf  []byte
	read time.Time // when the wall clock was read last
	wall int64     // what it said, in nanoseconds since 1970
}

var encoders = sync.Pool{New: func() any { return new(encoder) }}

// maxPooled is the largest buffer that goes back to a pool.
const maxPooled = 2 << 20

// release gives e back, without a buffer that is too large to keep.
func (e *encoder) release() {
	if cap(e.buf) > maxPooled {
		e.buf = nil
	}
	encoders.Put(e)
}

// now is the time in milliseconds. The monotonic clock alone takes half as long
// to read as both, so it says what has passed since the wall clock was read. After
// a millisecond that is read again, so that setting it is noticed.
func (e *encoder) now() int64 {
	passed := time.Since(e.read)
	if passed < 0 || passed >= time.Millisecond {
		e.read, passed = time.Now(), 0
		e.wall = e.read.UnixNano()
	}
	return (e.wall + int64(passed)) / int64(time.Millisecond)
}

// encode returns recs as a batch, in memory that is valid until the next call. It is
// compressed as the topic says.
func (e *encoder) encode(recs []Record, cfg *TopicConfig, now int64) (batch.Batch, error) {
	codec := cfg.Compression.codec()
	return e.encodeAs(recs, cfg, codec, codec.DefaultLevel(), now)
}

// encodeAs is encode with another codec.
func (e *encoder) encodeAs(recs []Record, cfg *TopicConfig, codec compress.Codec, level int, now int64) (batch.Batch, error) {
	if len(recs) == 0 {
		return nil, fmt.Errorf("%w: no records", ErrInvalidRecord)
	}
	most := int(min(int64(cfg.MaxMessageBytes), cfg.SegmentBytes))
	e.b.Begin(e.buf[:0], codec, level)
	if codec == compress.None {
		e.b.Limit(most)
	}
	keyed := cfg.Cleanup.compacts()
	for i := range recs {
		r := &recs[i]
		if len(r.Headers) == 0 && !keyed && r.Timestamp.IsZero() && e.b.AddSmall(now, r.Key, r.Value) {
			continue // what most are, in less time
		}
		if _, err := addRecord(&e.b, r, keyed, now); err != nil {
			alone := i == 0 || len(r.Key)+len(r.Value) > most
			return nil, fmt.Errorf("record %d: %w", i, encodeError(err, alone))
		}
	}
	b, err := e.b.Finish(batch.NoProducer)
	if err == nil && len(b) > most {
		err = fmt.Errorf("%w: %d bytes compressed, the topic takes %d", batch.ErrTooLarge, len(b), most)
	}
	e.buf = b[:0]
	if err != nil {
		return nil, encodeError(err, len(recs) == 1)
	}
	if cfg.TimestampType == LogAppendTime {
		batch.Batch(b).SetLogAppendTime(now)
	}
	return b, nil
}

// addRecord adds r to the batch that b builds, which takes only records with a key if it is
// keyed. It returns the time that r has there.
func addRecord(b *batch.Builder, r *Record, keyed bool, now int64) (ts int64, err error) {
	if keyed && r.Key == nil {
		return 0, fmt.Errorf("%w: it has no key, and the topic is compacted", batch.ErrInvalid)
	}
	if ts, err = millis(r.Timestamp, now); err != nil {
		return 0, err
	}
	return ts, batch.Add(b, ts, r.Key, r.Value, r.Headers)
}

// millis returns a record's timestamp as a batch has it.
func millis(t time.Time, now int64) (int64, error) {
	switch {
	case t.IsZero():
		return now, nil
	case t.Unix() < 0:
		return 0, fmt.Errorf("%w: timestamp %v is before 1970", batch.ErrInvalid, t)
	case t.Unix() >= math.MaxInt64/1000:
		return 0, fmt.Errorf("%w: timestamp %v does not fit", batch.ErrInvalid, t)
	}
	return t.UnixMilli(), nil
}

// append is appendIf without a condition.
func (p *Partition) append(ctx context.Context, b batch.Batch, now int64) (Offset, error) {
	return p.appendIf(ctx, Condition{}, b, now)
}

// appendIf assigns the next offsets to b, writes it, and returns when it is
// committed. The order is the one that crash safety rests on: under
// FlushBeforeAck a batch is durable first, then visible, then acknowledged.
func (p *Partition) appendIf(ctx context.Context, cond Condition, b batch.Batch, now int64) (Offset, error) {
	if err := p.lockIf(ctx, cond, b, now); err != nil {
		return NoOffset, err
	}
	base, unmapped, err := p.appendLocked(b)
	if err != nil {
		p.mu.Unlock()
		p.reportFailure()
		p.topic.log.release(unmapped)
		return NoOffset, err
	}
	if p.topic.config().Flush == FlushAsync {
		p.mu.Unlock()
		p.wake()
		return base, nil
	}
	return base, inDoubt(p.unlockAndFlush(ctx, base+Offset(b.Count())))
}

// appendLocked gives b, and those behind it, the next offsets and the epoch, and writes
// them. Called under mu, which it releases if it panics.
func (p *Partition) appendLocked(b batch.Batch, behind ...batch.Batch) (base Offset, unmapped extents, err error) {
	base = p.end
	b.SetBaseOffset(int64(base))
	b.SetLeaderEpoch(p.epoch)
	next := b.NextOffset()
	for _, b := range behind {
		b.SetBaseOffset(next)
		b.SetLeaderEpoch(p.epoch)
		next = b.NextOffset()
	}
	unmapped, err = p.appendRaw(b, behind...)
	return base, unmapped, err
}

// appendRaw writes b, and those behind it, which have the offsets and the epoch that come
// next, to the active segment, and commits them if nothing need be flushed for that.
// Called under mu, which it releases if it panics.
func (p *Partition) appendRaw(b batch.Batch, behind ...batch.Batch) (unmapped extents, err error) {
	ok := false
	defer func() {
		if !ok {
			p.mu.Unlock()
		}
	}()
	seg := p.active()
	if unmapped, err = seg.append(b, behind...); err != nil {
		if !errors.Is(err, vfs.ErrNoFiles) { // else there is nothing to flush, nor a file to do it
			p.cut++
		}
		err = p.writeFailed(err)
	} else {
		last, bytes := b, len(b)
		p.count().appended(b.Count(), len(b))
		for _, last = range behind {
			bytes += len(last)
			p.count().appended(last.Count(), len(last))
		}
		p.end = Offset(last.NextOffset())
		p.dataEnd = p.end
		cfg := p.topic.config()
		if cfg.Flush != FlushAsync || p.replica { // else the high watermark shows it
			p.setEnd(p.end)
		}
		if cfg.Flush == FlushAsync {
			p.flushLater(cfg)
			p.growSoon(seg, bytes)
			// Last: a store that others may see waits until those of the batches are done.
			p.commit(p.end, seg, seg.size)
		}
	}
	ok = true
	return unmapped, err
}

// lockWithRoom locks p for an append of b, once the partition can take it: on a disk
// and in a segment that have room, and with no more than maxUnflushed bytes unflushed. A
// batch larger than that goes alone.
func (p *Partition) lockWithRoom(ctx context.Context, b batch.Batch, now int64) error {
	for admitted := false; ; admitted = true {
		p.mu.Lock()
		err := p.writable()
		if err == nil {
			err = p.accepts(b)
		}
		if err != nil {
			p.mu.Unlock()
			return err
		}
		// After the reasons that last: a full disk may heal.
		if !admitted && !p.draw(int64(len(b)), now) {
			p.mu.Unlock() // looking may wait for the disk
			if err := p.topic.log.space.look(int64(len(b)), now); err != nil {
				return err
			}
			continue
		}
		// A change may go on when ctx has ended and b is its owner's again, so it gets
		// what it needs of b now.
		end := p.end
		epoch, base, next := b.LeaderEpoch(), Offset(b.BaseOffset()), end+Offset(b.Count())
		var change func() error
		switch {
		case p.changing != nil:
		case !p.begun || epoch > p.epoch || p.staleEpochs:
			change = func() error { return p.beginAppending(epoch, base) }
		case p.mustRoll || p.active().shouldRoll(b, end, now, p.topic.config()):
			change = p.roll
		case next > p.ceiling:
			change = func() error { return p.raiseCeiling(next) }
		case p.mayWrite(len(b)):
			return nil
		default:
			// If the flush fails, writable says so: of this batch nothing is
			// written, so there is no doubt about it.
			_ = p.unlockAndFlush(ctx, end)
			if err := ctx.Err(); err != nil {
				return err
			}
			continue
		}
		if err := p.unlockAndChange(ctx, change); err != nil {
			return err
		}
	}
}

// mayWrite says whether n bytes can be written before a flush. Called under mu.
func (p *Partition) mayWrite(n int) bool {
	unflushed := p.unflushed()
	return unflushed == 0 || unflushed+int64(n) <= maxUnflushed
}

// unflushed is how many bytes are written and not flushed. Called under mu.
func (p *Partition) unflushed() int64 { return p.activeSize() - p.flushedSize }

// activeSize is where the next batch goes. Called under mu.
func (p *Partition) activeSize() int64 {
	if seg := p.active(); seg != nil {
		return seg.size
	}
	return 0
}

// active is the segment that is appended to; nil if there is no file. Called
// under mu, or by who knows that no other can come.
func (p *Partition) active() *segment {
	if segs := p.segs.Load(); segs != nil {
		return segs.active()
	}
	return nil
}

// writable says why p takes no appends. Called under mu.
func (p *Partition) writable() error {
	switch {
	case p.gone.Load():
		return notFound(p.topic.name)
	case p.shadow != nil && !p.topic.log.isClosing():
		return p.topic.log.errReadOnly()
	case p.closed || p.topic.log.isClosing():
		return p.topic.log.closedError()
	case p.failed != nil:
		return fmt.Errorf("%w: %w", ErrPartitionFailed, p.failed)
	case p.damaged != nil:
		return fmt.Errorf("%w: %w", ErrReadOnly, p.damaged)
	}
	return nil
}

// writeFailed decides what a failed write means: a full disk heals, and that the
// process may open no more files, anything else takes the partition offline, and leaves in doubt what is in the file.
// Called under mu; reportFailure follows.
func (p *Partition) writeFailed(err error) error {
	full := diskError(err)
	if (errors.Is(full, ErrDiskFull) || errors.Is(err, vfs.ErrNoFiles)) && !errors.Is(err, errUnsure) {
		return full
	}
	p.fail(err)
	return fmt.Errorf("%w: %w: %w", ErrPartitionFailed, ErrInDoubt, err)
}

// fail takes the partition offline: what is committed can be read, nothing is
// appended or flushed any more. Called under mu; reportFailure follows when it
// is released.
func (p *Partition) fail(err error) {
	if p.failed == nil {
		p.failed = err
	}
}

// reportFailure logs that the partition is offline, once, and wakes the loops
// that wait for more. The logger is the caller's code, so no lock is held.
func (p *Partition) reportFailure() {
	p.mu.Lock()
	failed, first := p.failed, p.failed != nil && !p.reported
	p.reported = p.failed != nil
	p.mu.Unlock()
	if first {
		p.topic.log.opts.Logger.Error("partition is offline", "topic", p.topic.name, "partition", p.index, "err", failed)
		p.wake()
	}
}

// commit makes all before end readable, which is size bytes of seg, unless that
// is for a leader to say. Called under mu; wake follows when it is released.
func (p *Partition) commit(end Offset, seg *segment, size int64) {
	if p.replica {
		return
	}
	invariants.Check(end <= p.end && int64(end) >= p.highWatermark.Load(),
		"high watermark from %d to %d, log end %d", p.highWatermark.Load(), end, p.end)
	seg.committed.Store(size)
	p.highWatermark.Store(int64(end))
	p.publishSoon()
}

// setEnd sets the log end. An append that is committed at once does without it: the high
// watermark shows the end, and each store that others may see takes its time. Called
// under mu.
func (p *Partition) setEnd(o Offset) {
	p.end = o
	p.shownEnd.Store(int64(o))
}

// logEnd is the log end for who does not hold mu. Of shownEnd and the high watermark
// neither is beyond it, and one of them is it: before the high watermark is lowered
// below it, shownEnd is set. So the high watermark is loaded first: who finds it lowered
// finds that.
func (p *Partition) logEnd() Offset {
	hw := p.highWatermark.Load()
	return Offset(max(hw, p.shownEnd.Load()))
}

// wake lets the loops that wait at the high watermark look again.
func (p *Partition) wake() {
	if p.waiting.Load() != nil {
		if b := p.waiting.Swap(nil); b != nil {
			close(b.rung)
		}
	}
	if all := p.followers.Load(); all != nil {
		for _, f := range *all {
			f.news()
		}
	}
}

// follow has f hear of what is committed from now on, and of the partition's end.
func (p *Partition) follow(f follower) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []follower
	if all := p.followers.Load(); all != nil {
		list = *all
	}
	list = append(list, f) // behind the end of the lists that others may read
	p.followers.Store(&list)
}

// unfollow takes f off again. It may hear of one more commit.
func (p *Partition) unfollow(f follower) {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.followers.Load()
	if all == nil {
		return
	}
	list := slices.DeleteFunc(slices.Clone(*all), func(g follower) bool { return g == f })
	if len(list) == 0 {
		p.followers.Store(nil)
		return
	}
	p.followers.Store(&list)
}

// bell returns the bell that the next wake rings. The caller must look at what
// it waits for once more before it waits: a commit that came before the bell
// was there rang nothing.
func (p *Partition) bell() *bell {
	for {
		if b := p.waiting.Load(); b != nil {
			return b
		}
		b := &bell{rung: make(chan struct{})}
		if p.waiting.CompareAndSwap(nil, b) {
			return b
		}
	}
}

// refuse ends appending, for good. When it returns no file will be made either,
// which matters to whoever opens the directory next.
func (p *Partition) refuse() {
	p.mu.Lock()
	p.closed = true
	if p.timer != nil {
		p.timer.Stop()
	}
	waiting := []chan struct{}{p.changing, p.moving}
	p.mu.Unlock()
	for _, done := range waiting {
		if done == nil {
			continue
		}
		select {
		case <-done:
		case <-p.topic.log.broken:
		}
	}
}

// flushRest waits for the flushes that are under way, after refuse, and flushes
// what is unflushed. An offline partition has said so to whoever appended.
func (p *Partition) flushRest() error {
	if p.segs.Load() == nil {
		return nil
	}
	p.awaitFlushes()
	p.mu.Lock()
	if p.failed != nil || !p.begun {
		p.mu.Unlock()
		return nil
	}
	p.mu.Unlock()
	err := p.fix(p.active())
	p.mu.Lock()
	err = errors.Join(err, p.unlockAndFlush(context.Background(), p.end))
	if err != nil {
		return p.error("close", err)
	}
	return nil
}

// awaitFlushes waits for the flushes that are under way or asked for.
func (p *Partition) awaitFlushes() {
	p.mu.Lock()
	rounds := []*flushRound{p.flushing.running, p.flushing.next}
	p.mu.Unlock()
	for _, round := range rounds {
		if round == nil {
			continue
		}
		select {
		case <-round.done:
		case <-p.topic.log.broken:
		}
	}
}

// markClean notes in bounds that everything is flushed, if that is so; the next
// flush of bounds makes it a clean stop.
func (p *Partition) markClean() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.begun && p.failed == nil && p.flushed == p.end {
		p.setBounds(true)
	}
}

// setBounds notes in bounds what is true of the partition. The recovery point
// does not enter a gap: a torn batch behind it would look like damage. Called
// under mu.
func (p *Partition) setBounds(clean bool) {
	p.entry.setCrash(crashPart{
		start: p.start, flushed: min(p.flushed, p.dataEnd), ceiling: p.asked, clean: clean, failed: p.failed != nil || p.cutting,
	})
}

// epochBefore is the epoch of the batch before offset o, noEpoch if that is not
// known.
func (p *Partition) epochBefore(o Offset) int32 {
	epoch, _ := p.epochs.epochAt(o - 1)
	return epoch
}

// closeFiles closes the segments' files. A reader that is in one gets an error,
// which it turns into ErrClosed.
func (p *Partition) closeFiles() error {
	if segs := p.segs.Load(); segs != nil {
		p.mu.Lock()
		unmapped := segs.active().mapped.unmap()
		p.mu.Unlock()
		p.topic.log.release(unmapped)
		p.saveActive(segs.active())
	}
	return p.closeSegments()
}

func (p *Partition) closeSegments() error {
	p.mu.Lock()
	list := slices.Clone(p.deleted) // the next opening removes them
	p.mu.Unlock()
	if segs := p.segs.Load(); segs != nil {
		list = append(list, segs.list...)
	}
	var errs []error
	for _, seg := range list {
		if err := seg.file.Close(); !errors.Is(err, fs.ErrClosed) { // one whose removal has failed
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// name is the partition's topic and number.
func (p *Partition) name() TopicPartition { return TopicPartition{p.topic.name, p.index} }

// path returns the name of a file in the partition's directory.
func (p *Partition) path(name string) string {
	if dir := p.moved.Load(); dir != nil {
		return filepath.Join(*dir, name)
	}
	return filepath.Join(p.dir, name)
}
