package riffle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync/atomic"
	"time"

	"github.com/rifflelog/riffle/internal/batch"
	"github.com/rifflelog/riffle/internal/vfs"
)

// shadow is how a partition of a read-only log follows its writer, who is another
// process or was one. A refresh takes from bounds how far records are committed,
// lists the files if they may be others, and walks over the batches behind those
// that it knows, for their places. Reading is then as in any partition.
//
// What was shown stays while a writer restarts: it was committed, and the next
// writer finds it. He may begin an epoch, cut what was never committed, and make
// files anew, so when he shows the partition, all files are opened again and
// loops look where they are.
type shadow struct {
	// turn is held by who refreshes, and guards what follows. It is a channel,
	// since it is waited for while files are read.
	turn    chan struct{}
	ready   bool     // there was a refresh
	settled bool     // and the last one has found all that could be seen in seen
	seen    viewHead // as of the last refresh
	shown   target   // what it has shown
	walk    *walk    // over the active segment; nil if there is none

	lost atomic.Bool // the last file ends before what was flushed
}

// target is what a refresh is to show.
type target struct {
	Bounds
	flushed Offset // the recovery point
	onDisk  bool   // also the whole batches behind the high watermark
	words   bool   // bounds are from live words: of this incarnation and generation

	incarnation, generation uint64
}

// walk is a place behind a batch of a segment, whose size says where that is.
type walk struct {
	seg   *segment
	end   Offset // after the batch
	epoch int32  // of it; noEpoch if that is not known
}

// shadowSet is the segments that a refresh has found.
type shadowSet struct {
	list  []*segment
	sizes []int64 // of their files
	fresh []*segment
	walk  *walk
	whole bool        // all files are opened anew
	cache *epochCache // nil: the epochs are as they were
	hw    Offset
	lost  bool
}

const (
	// maxRefreshTries is how often a refresh looks again because the writer has
	// changed something meanwhile. It rests in between, from the second time on.
	maxRefreshTries = 12
	// maxExplainTries is how often a reader waits for that: about 2 s in all.
	maxExplainTries = 128
	// minPoll and maxPoll are between which bounds are looked at while somebody
	// waits for records: less and less often while none come.
	minPoll = time.Millisecond
	maxPoll = 16 * time.Millisecond
)

// errUnsettled: the writer is changing the partition's files, or has died while he
// did, and what is asked for cannot be read until he has ended.
var errUnsettled = errors.New("the partition's files are being changed by another process")

func newShadow() *shadow { return &shadow{turn: make(chan struct{}, 1)} }

// refresh shows what is committed by now. It returns false if there may be more
// to see although nothing happens any more. Anew says that files may have changed.
func (p *Partition) refresh(ctx context.Context, anew bool) (settled bool, err error) {
	s := p.shadow
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return false, ctx.Err()
	case <-p.topic.log.closing:
		return false, p.topic.log.closedError()
	}
	defer func() { <-s.turn }()
	if p.topic.log.isClosing() {
		return false, p.topic.log.closedError()
	}
	if p.gone.Load() {
		return true, nil // who leaves last has closed its files, or will
	}
	head, err := p.topic.log.view.look()
	if err != nil {
		return false, err
	}
	if !anew && s.settled && head == s.seen && head.trust != trustSlots {
		return true, nil
	}
	s.settled = false
	for try := range maxRefreshTries {
		if try > 0 {
			if err := p.topic.log.rest(ctx, try); err != nil {
				return false, err
			}
		}
		if done, err := p.refreshOnce(anew, try == maxRefreshTries-1); done {
			return s.settled && s.seen.trust != trustSlots, err
		}
	}
	if s.ready {
		return false, nil // what is shown stays true
	}
	return false, errUnsettled
}

// rest waits, longer with each try.
func (l *Log) rest(ctx context.Context, try int) error {
	t := time.NewTimer(min(minPoll<<min(try-1, 10), maxPoll))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-l.closing:
		return l.closedError()
	}
}

// refreshOnce shows what is committed, unless something has changed meanwhile: what
// was found may not fit together then. An error is one only if nothing has. The
// last time it takes what can be had while bounds are changing.
//
// Step by step, and what would go wrong otherwise: (1) the bounds are read, then
// (2) the files are listed and opened, and the batches before the high watermark
// walked over; (3) that generation and incarnation are the same says that these
// are the files that have what was committed; (4) it is shown. Files that have only
// become more hide none of those, so that a writer who rolls all the time does not
// keep readers waiting.
func (p *Partition) refreshOnce(anew, last bool) (done bool, err error) {
	s, view := p.shadow, p.topic.log.view
	key := boundsKey{p.topic.id, int32(p.index)}
	if _, err := view.look(); err != nil {
		return true, err
	}
	e, err := view.entry(key)
	if err != nil {
		return true, err
	}
	to, ok := s.target(e)
	switch {
	case !ok && s.ready:
		return true, nil // what is shown stays true, if files are found
	case !ok && !last:
		return false, nil
	}
	set, err := p.look(to, anew)
	again, more, failed := p.changed(e)
	if failed != nil || again || more && err != nil {
		return failed != nil, errors.Join(failed, set.discard())
	}
	if err != nil {
		return true, errors.Join(err, set.discard())
	}
	p.show(to, set)
	s.ready, s.settled, s.seen = true, ok && !more, e.head
	return true, nil
}

// changed says whether what was found since e may not fit together, or else
// whether segments may have come behind it.
func (p *Partition) changed(e viewEntry) (again, more bool, err error) {
	view := p.topic.log.view
	head, err := view.look()
	if err != nil || head.incarnation != e.head.incarnation || head.trust != e.head.trust {
		return true, false, err
	}
	now, err := view.entry(boundsKey{p.topic.id, int32(p.index)})
	again = now.owned != e.owned || now.shown != e.shown || now.generation/liveBack != e.generation/liveBack ||
		now.words.Start != e.words.Start // files have gone, and not in their order
	return again, now.generation != e.generation, err
}

// target returns what is to be shown according to e. If ok is false, the bounds
// are changing, and it is what was flushed.
func (s *shadow) target(e viewEntry) (to target, ok bool) {
	to = target{flushed: e.part.flushed, incarnation: e.head.incarnation}
	if e.shown {
		to.Bounds, to.words, to.generation = e.words, true, e.generation
		return to, true
	}
	hw := max(e.part.start, e.part.flushed)
	to.Bounds = Bounds{Start: e.part.start, LastStable: hw, HighWatermark: hw, End: hw}
	to.onDisk = e.head.trust == trustDisk
	if s.ready && !to.onDisk && hw <= s.shown.HighWatermark {
		// The next writer is opening the log, or he has not yet shown the partition.
		start, flushed := to.Start, to.flushed
		to = s.shown
		to.Start, to.flushed, to.onDisk = max(to.Start, start), flushed, false
	}
	return to, !e.owned
}

// look lists and opens the segments, and walks over what is committed.
func (p *Partition) look(to target, anew bool) (set shadowSet, err error) {
	s := p.shadow
	was := s.shown
	set.whole = s.ready && (to.words != was.words || to.incarnation != was.incarnation || to.onDisk ||
		to.generation/liveBack != was.generation/liveBack || to.HighWatermark < was.HighWatermark)
	set.hw, set.walk = to.HighWatermark, s.walk
	segs := p.segs.Load()
	if anew || !s.ready || set.whole || to.generation != was.generation || segs == nil && to.HighWatermark > to.Start {
		if err = p.list(&set, to); err != nil {
			return set, err
		}
		set.cache = p.readEpochs()
	} else if segs != nil {
		set.list = segs.list
	}
	switch n := len(set.list); {
	case n == 0:
		set.walk = nil
		if to.HighWatermark > to.Start {
			err = &CorruptError{File: p.path(logFileName(to.Start)), Offset: to.Start, Next: NoOffset, Err: fs.ErrNotExist}
		}
	case to.words && set.list[0].base > to.Start:
		err = &CorruptError{File: p.path(logFileName(to.Start)), Offset: to.Start, Next: set.list[0].base, Err: fs.ErrNotExist}
	case to.onDisk:
		err = p.walkFiles(&set, to)
	default:
		err = p.walkActive(&set, to)
	}
	return set, err
}

// list finds the segments that are not below the start. Those that are known are
// the same as before, unless all are to be opened anew.
func (p *Partition) list(set *shadowSet, to target) error {
	entries, err := p.topic.log.fs.ReadDir(p.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	known := make(map[Offset]*segment)
	if segs := p.segs.Load(); segs != nil && !set.whole {
		for _, seg := range segs.list {
			known[seg.base] = seg
		}
	}
	for _, e := range entries {
		base, ok := parseLogFileName(e.Name)
		if !ok || e.Dir {
			continue
		}
		if len(set.list) == 1 && base <= to.Start {
			set.list, set.sizes = nil, nil
		}
		seg := known[base]
		if seg == nil {
			seg = newSegment(base, p.topic.log.files.file(p.path(e.Name)))
			seg.file.(*segmentFile).check = p.checkID
			set.fresh = append(set.fresh, seg)
		}
		set.list, set.sizes = append(set.list, seg), append(set.sizes, e.Size)
	}
	if len(set.list) > 0 && to.HighWatermark > to.Start {
		return p.checkID() // else the directory may have been another topic's already
	}
	return nil
}

// discard closes what was opened for a set that is not shown.
func (set *shadowSet) discard() error {
	var errs []error
	for _, seg := range set.fresh {
		errs = append(errs, seg.file.Close())
	}
	return errors.Join(errs...)
}

// readEpochs returns the leader epochs; nil if they cannot be read, and are as
// they were.
func (p *Partition) readEpochs() *epochCache {
	data, err := vfs.ReadFile(p.topic.log.fs, p.path(epochCheckpointName), maxSideFile)
	if err != nil {
		return nil
	}
	c, err := parseEpochs(data)
	if err != nil {
		return nil
	}
	return c
}

// walkActive goes on over the last segment to the high watermark. The others have
// all that they will ever have: they were cut and flushed before the next one was
// made.
func (p *Partition) walkActive(set *shadowSet, to target) error {
	active := set.list[len(set.list)-1]
	if set.walk == nil || set.walk.seg != active {
		if err := p.beginWalk(set, active, walk{end: active.base, epoch: noEpoch}, to.HighWatermark); err != nil {
			return err
		}
	}
	if set.walk.end >= to.HighWatermark {
		return nil
	}
	size, err := active.file.Size()
	if err != nil {
		return err
	}
	stop, err := p.walkTo(set.walk, size, to.HighWatermark, false)
	switch {
	case err != nil:
		return err
	case p.endsInGap(set, to):
		// What is there was appended behind it, and is not committed. Loops stay before
		// it: what comes next says where it ends.
		set.hw = set.walk.end
	case stop == walkEnded && to.flushed > set.walk.end:
		set.lost = true // no gap has the recovery point behind its beginning: see setBounds
	case stop == walkEnded:
		set.hw = set.walk.end // likewise
	case stop == walkDamaged:
		active.committed.Store(size) // reading says what is wrong
	}
	return nil
}

// endsInGap says that no batch is missing between where the walk stopped and the high
// watermark: an unclean stop has left a gap there. If anything stands there, an epoch
// has begun behind it.
func (p *Partition) endsInGap(set *shadowSet, to target) bool {
	cache := set.cache
	if cache == nil {
		cache = p.epochs
	}
	all := cache.load()
	return len(all) > 0 && all[len(all)-1].start == to.HighWatermark && to.flushed <= set.walk.end
}

// beginWalk begins a walk over seg behind what w says of the batch before: at the
// last place before offset o that the index on the disk knows.
func (p *Partition) beginWalk(set *shadowSet, seg *segment, w walk, o Offset) error {
	seg.withIndex(newSegmentIndex(seg.base))
	set.walk = &walk{seg, w.end, w.epoch}
	if o <= seg.base {
		return nil
	}
	size, err := seg.file.Size()
	if err != nil {
		return err
	}
	var win window
	win.reset(seg.file, size)
	// Before o, not at it: the index may know a batch there that is not shown yet, and
	// behind which batch it stands only walking tells.
	s := &scan{seg: seg, point: o - 1, end: w.end, epoch: w.epoch}
	if err := p.resume(s, &win); err != nil {
		return err
	}
	set.walk.end, set.walk.epoch = s.end, s.epoch
	return nil
}

// walkFiles walks over all whole batches behind the recovery point, as recovery
// will. Nobody has opened the log for writing since the machine was started, so
// they are on the disk. What does not follow is damage if it is not at the end,
// and reading will say so.
func (p *Partition) walkFiles(set *shadowSet, to target) error {
	i := 0
	for i+1 < len(set.list) && set.list[i+1].base <= to.flushed {
		i++
	}
	w := walk{end: set.list[i].base, epoch: noEpoch}
	if set.cache != nil {
		w.epoch, _ = set.cache.epochAt(w.end - 1)
	}
	for ; i < len(set.list); i++ {
		seg := set.list[i]
		if set.sizes[i] == 0 { // its directory may be half made
			seg.withIndex(newSegmentIndex(seg.base))
			set.walk = &walk{seg, w.end, w.epoch}
			continue
		}
		stop, err := p.walkFile(set, i, w, to.flushed)
		if err != nil {
			return err
		}
		w = *set.walk
		last := i+1 == len(set.list)
		if stop == walkDamaged && (!last || w.end < to.flushed) {
			seg.committed.Store(set.sizes[i])
		}
		if !last && stop == walkDamaged {
			w.end, w.epoch = set.list[i+1].base, noEpoch
		}
	}
	set.lost = w.end < to.flushed
	set.hw = max(w.end, to.HighWatermark)
	return nil
}

// walkFile walks over a file, behind w or, if its batches do not follow that, from
// its name on.
func (p *Partition) walkFile(set *shadowSet, i int, w walk, flushed Offset) (walkStop, error) {
	seg := set.list[i]
	if err := p.beginWalk(set, seg, w, flushed); err != nil {
		return walkDamaged, err
	}
	stop, err := p.walkTo(set.walk, set.sizes[i], flushed, true)
	if err == nil && stop == walkDamaged && seg.size == 0 && w.end != seg.base && i+1 < len(set.list) {
		set.walk.end, set.walk.epoch = seg.base, noEpoch
		stop, err = p.walkTo(set.walk, set.sizes[i], flushed, true)
	}
	return stop, err
}

// walkStop is where a walk has stopped.
type walkStop int

const (
	walkReached walkStop = iota // at the offset that it should
	walkEnded                   // where the batches end, or before zeros
	walkDamaged                 // at what is no batch, or none that follows
)

// walkTo walks over the batches before offset hw, in the first size bytes of the
// segment's file; if whole is set, over all that follow each other, and checks
// them. Before hw it goes over damage, if there is a batch behind that.
func (p *Partition) walkTo(w *walk, size int64, hw Offset, whole bool) (walkStop, error) {
	for {
		stop, err := p.walkIn(w, size, hw, whole)
		if stop == walkReached && err == nil {
			return stop, nil
		}
		now, failed := w.seg.file.Size()
		if failed != nil || now >= size {
			return stop, errors.Join(err, failed)
		}
		size = now // the writer has cut the space behind its end, and it was read there
	}
}

// walkIn is walkTo as long as the file is not cut.
func (p *Partition) walkIn(w *walk, size int64, hw Offset, whole bool) (walkStop, error) {
	var win window
	win.reset(w.seg.file, size)
	for whole || w.end < hw {
		if p.topic.log.isClosing() {
			return walkDamaged, p.topic.log.closedError()
		}
		b, err := win.batch(w.seg.size)
		if err == nil {
			err = w.check(b, hw, whole)
		}
		if err == nil {
			p.walkedOver(w, b)
			continue
		}
		ended := errors.Is(err, io.EOF)
		if isDamage(err) {
			var failed error
			if ended, failed = zeros(w.seg.file, w.seg.size, size); failed != nil {
				return walkDamaged, failed
			}
		}
		switch {
		case ended:
			return walkEnded, nil
		case !isDamage(err):
			return walkDamaged, err
		case whole && w.end >= hw:
			return walkDamaged, nil
		}
		at, base, err := findBatch(w.seg.file, w.seg.size+1, size, w.end+1)
		if err != nil || at < 0 || base >= hw && !whole {
			return walkDamaged, err
		}
		p.mu.Lock()
		w.seg.size, w.seg.indexed = at, -indexInterval-1 // as recovery does
		p.mu.Unlock()
		w.end, w.epoch = base, noEpoch
	}
	return walkReached, nil
}

// check says whether b may come next. Of what the writer has committed only the
// place is of interest here: reading checks the rest.
func (w *walk) check(b batch.Batch, hw Offset, whole bool) error {
	if !whole && (Offset(b.BaseOffset()) < w.end || Offset(b.NextOffset()) > hw) {
		return fmt.Errorf("%w: batch has offsets [%d, %d), want some in [%d, %d)",
			batch.ErrCorrupt, b.BaseOffset(), b.NextOffset(), w.end, hw)
	}
	if !whole {
		return nil
	}
	if err := b.Check(); err != nil {
		return err
	}
	return checkFollows(w.end, w.epoch, b)
}

// walkedOver goes behind b.
func (p *Partition) walkedOver(w *walk, b batch.Batch) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w.seg.found(b)
	w.seg.committed.Store(max(w.seg.committed.Load(), w.seg.size))
	w.end, w.epoch = Offset(b.NextOffset()), b.LeaderEpoch()
}

// show makes a set the partition's.
func (p *Partition) show(to target, set shadowSet) {
	s := p.shadow
	p.mu.Lock()
	if set.whole {
		p.cuts.Add(1)
	}
	old := p.segs.Load()
	for i, seg := range set.list {
		if seg == set.walk.seg || set.sizes == nil {
			continue
		}
		if seg.size != set.sizes[i] { // a constant, once it is not the active one's
			seg.size = set.sizes[i]
		}
		if s.walk != nil && seg == s.walk.seg {
			seg.index.Store(nil) // it has files, for when it is needed
		}
		seg.committed.Store(seg.size)
	}
	start := to.Start
	if len(set.list) > 0 {
		start = max(start, set.list[0].base)
	}
	if set.cache != nil {
		p.epochs.replace(set.cache.load())
	}
	p.replaceSegments(set.list, start)
	hw := max(set.hw, start)
	p.start = start
	p.flushed, p.flushedSize = hw, p.activeSize()
	p.setEnd(max(hw, to.End))
	p.highWatermark.Store(int64(hw))
	if set.whole {
		p.cuts.Add(1)
	}
	s.lost.Store(set.lost)
	s.shown, s.walk = to, set.walk
	s.shown.HighWatermark = set.hw
	p.mu.Unlock()
	p.closeDropped(old)
	p.wake()
}

// replaceSegments makes list the partition's segments, of which the records before
// start are deleted. A set that is the same stays. Called under mu.
func (p *Partition) replaceSegments(list []*segment, start Offset) {
	old := p.segs.Load()
	switch {
	case len(list) == 0:
		p.segs.Store(nil)
	case old == nil || old.from != start || !slices.Equal(old.list, list):
		p.segs.Store(&segmentSet{list: list, from: start})
	}
}

// closeDropped closes the files of segments that are no more the partition's. A
// reader that is in one looks again.
func (p *Partition) closeDropped(old *segmentSet) {
	segs := p.segs.Load()
	if old == nil || old == segs {
		return
	}
	for _, seg := range old.list {
		if segs == nil || segs.find(seg.base) != seg {
			_ = seg.file.Close() // nothing was written to it
		}
	}
}

// catchUp shows a loop of a read-only log what is committed by now. What of it
// cannot be read, reading will say.
func (p *Partition) catchUp(ctx context.Context) error {
	if p.shadow == nil {
		return nil
	}
	_, err := p.refresh(ctx, false)
	if err != nil && p.isGone(ctx) {
		return nil // who looks for more hears of that
	}
	return err
}

// isGap says whether nothing is missing between the last batch of a file and the
// high watermark. What is shown ends with the last batch of the last file, or where
// that begins: if it ends anywhere else, something is not there that should be.
func (s *shadow) isGap(next *segment, hw Offset) bool {
	return next != nil && next.base == hw && !s.lost.Load()
}

// atEnd returns the error of a reader that has found nothing in s, because of err
// or because it is at the end; nil if it is to look again, or to wait.
func (p *Partition) atEnd(ctx context.Context, s snapshot, err error) error {
	if err != nil {
		return p.explain(ctx, s, err)
	}
	return nil
}

// explain returns why a reader of a read-only log has met err in s, or nil if it
// is to look again: files vanish, are cut and made anew under it.
func (p *Partition) explain(ctx context.Context, s snapshot, err error) error {
	var o *OffsetError
	if errors.As(err, &o) || p.topic.log.isClosing() {
		return err
	}
	for try := 1; try <= maxExplainTries; try++ {
		_, failed := p.refresh(ctx, true)
		if p.isGone(ctx) {
			return notFound(p.topic.name)
		}
		if p.cuts.Load() != s.cuts || p.segs.Load() != s.segs {
			return nil
		}
		if failed != nil {
			return failed
		}
		if p.shadow.isSettled() {
			return err
		}
		if failed := p.topic.log.rest(ctx, try); failed != nil {
			return failed
		}
	}
	return fmt.Errorf("%w: %w", errUnsettled, err)
}

func (s *shadow) isSettled() bool {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	return s.settled
}
