package riffle

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/rifflelog/riffle/internal/batch"
	"github.com/rifflelog/riffle/internal/vfs"
)

// The places in recovery that a crash or damage must not pass.
const (
	siteRecoveryFlush  vfs.Site = "recovery.flush"   // before what was found is shown
	siteRecoveryCheck  vfs.Site = "recovery.check"   // of each batch
	siteRecoveryDamage vfs.Site = "recovery.damage"  // that a bad batch is the end, not the middle
	siteRecoveryID     vfs.Site = "recovery.id"      // that the directory is this topic's
	siteRecoveryDir    vfs.Site = "recovery.syncdir" // of names that a power cut may take back

	// Of what is kept of a torn end, before it is cut.

	siteRecoveryCut    vfs.Site = "recovery.cut.flush"
	siteRecoveryCutDir vfs.Site = "recovery.cut.syncdir"
)

// scan is what a partition's files were found to hold.
type scan struct {
	part       crashPart    // what bounds say
	known      bool         // they say something
	whole      bool         // the epochs are not known, so everything is read
	checkpoint []epochEntry // the epochs that were read from the file
	point      Offset       // the recovery point: all before it was flushed once
	epoch      int32        // of the last batch; noEpoch if that is not known
	segments   []*segment
	end        Offset     // after the last whole batch
	before     Offset     // the same of the segments before the one that is scanned
	begun      epochEntry // the last epoch that began, as its file says
	torn       bool       // bytes behind it are to be cut
	damaged    error      // *CorruptError of the first damage; nil if there is none

	// Of the segment that is being scanned, in the end the last one.

	seg       *segment
	last      bool
	noMore    bool // neither it nor those behind it have anything
	fileSize  int64
	pointSize int64 // where the first batch at or after the recovery point begins
}

// killed says that the process was ended, but not the machine, no flush had failed,
// and no truncation was under way: what was written is there.
func (s *scan) killed() bool { return s.known && s.part.sameBoot && !s.part.failed }

// dataEnd is the end without the gap that may be before an empty last file: the
// recovery point must not enter that.
func (s *scan) dataEnd() Offset {
	if len(s.segments) > 1 && s.seg.size == 0 {
		return s.before
	}
	return s.end
}

// recover opens the partition's files, if there are any, and makes what they
// hold readable.
//
// It reads the files from the recovery point on; what is below was flushed, and
// is checked when it is read. A bad batch is either the torn end of what was being
// written when the process or machine stopped: it was never acknowledged, and
// is cut. Or it is damage to what had been flushed: nothing is cut then, what
// is whole can be read, and the partition takes no appends. Only the last file
// can have a torn end, because the one before was flushed before it was made.
//
// The order, and what would go wrong otherwise: (1) cut the torn end, or a
// shorter batch written over it would be followed by old bytes; (2) write the
// batches above the recovery point once more, since a flush that failed in an
// earlier process leaves pages in memory that look written and are not; (3)
// flush, since what is shown must survive a power cut, and the directory if a roll
// or a truncation may have ended before it had flushed that, see syncNames; (4) show
// it, and take appends. Each step may be repeated: a crash in the midst of them changes
// nothing.
//
// Where a power cut may have taken records that had been shown, the log goes on
// at its ceiling, so that their offsets are not used again.
func (p *Partition) recover() (err error) {
	fsys := p.topic.log.fs
	s := &scan{epoch: noEpoch}
	p.entry, s.part, s.known = p.topic.log.bounds.lookup(boundsKey{p.topic.id, int32(p.index)})
	if s.known {
		s.point = s.part.flushed
	}
	defer func() {
		if err == nil {
			return
		}
		for _, seg := range s.segments {
			err = errors.Join(err, seg.file.Close())
		}
		err = p.error("open", err)
	}()
	if err := p.openSegments(s); err != nil {
		return err
	}
	if err := p.loadEpochs(s); err != nil {
		return err
	}
	if err := p.scanSegments(s); err != nil {
		return err
	}
	if len(s.segments) > 0 && s.damaged == nil && (s.end < s.part.start || s.dataEnd() < s.point) {
		if err := p.goOnAtStart(s); err != nil {
			return err
		}
	}
	if s.fileSize > 0 || len(s.segments) > 1 || p.keepsEmpty(s) {
		// All was durable before the first batch was written.
		if err := p.checkID(); !fsys.Check(siteRecoveryID, err == nil) {
			return err
		}
	}
	p.flushed = s.dataEnd() // below a gap: a torn batch behind it is no damage
	if len(s.segments) > 0 {
		if err := p.adopt(s); err != nil {
			return err
		}
	}
	p.reportCut(s)
	p.unclean = s.known && !s.part.clean || !s.known && s.end > 0
	end := s.end
	if s.damaged == nil {
		end = p.goesOnAt(s)
	}
	p.start, p.dataEnd = end, s.dataEnd()
	if segs := p.segs.Load(); segs != nil {
		p.start = segs.start()
	}
	p.epochs.clamp(s.part.start, end)
	checkpoint := newEpochCache(s.checkpoint)
	checkpoint.truncateFromStart(s.part.start) // of what is below, it may say more
	p.staleEpochs = !slices.Equal(checkpoint.load(), p.epochs.load())
	p.keepEpochs(s)
	p.asked = s.part.ceiling
	p.damaged = s.damaged
	p.setEnd(end)
	p.highWatermark.Store(int64(end))
	return nil
}

// scanSegments reads what is to be read. If batches say that the epochs in the
// checkpoint are wrong, which has no checksum, all are read for theirs. Then its last
// epoch has begun only if no batches are where it should begin.
func (p *Partition) scanSegments(s *scan) error {
	s.checkpoint = p.epochs.load()
	err := p.scanAll(s)
	if !errors.Is(err, errWrongEpochs) {
		return err
	}
	p.topic.log.opts.Logger.Warn("leader epochs are taken from the batches", "file", p.path(epochCheckpointName), "err", err)
	last := s.begun
	*s = scan{part: s.part, known: s.known, point: s.point, whole: true, epoch: noEpoch, segments: s.segments}
	p.epochs, p.epoch = newEpochCache(nil), noEpoch
	if err = p.scanAll(s); last.start < s.end || last.epoch <= p.epoch {
		return err
	}
	s.begun, p.epoch = last, last.epoch // its batches are lost
	p.epochs.assign(last.epoch, last.start)
	return err
}

func (p *Partition) scanAll(s *scan) error {
	for i, seg := range s.segments {
		s.seg, s.last = seg, i == len(s.segments)-1
		s.noMore = allEmpty(s.segments[i:])
		if err := p.checkBase(s); err != nil {
			return err
		}
		if s.trusted(i) {
			p.trustSegment(s, s.segments[i+1].base)
		} else if err := p.scanSegment(s); err != nil {
			return err
		}
	}
	return nil
}

// keepEpochs writes the epochs that were taken from the batches. If it cannot, they
// are taken from there once more.
func (p *Partition) keepEpochs(s *scan) {
	if !s.whole || s.damaged != nil || p.segs.Load() == nil {
		return
	}
	if err := vfs.WriteFileAtomic(p.topic.log.fs, siteEpochs, p.path(epochCheckpointName), p.epochs.format()); err != nil {
		p.topic.log.opts.Logger.Warn("leader epochs are not written", "dir", p.dir, "err", err)
		return
	}
	p.staleEpochs = false
}

// errWrongEpochs: a batch has not the epoch that leader-epoch-checkpoint says.
var errWrongEpochs = errors.New("the epochs are not those of the batches")

// checkEpoch compares the epoch of b, which is whole and where it should be, with
// the checkpoint. That was flushed before b was written. Only a truncation that a
// crash has ended is ahead of batches, and these are not below the recovery point.
// Of what is below the log start it need not say anything.
func (s *scan) checkEpoch(b batch.Batch) error {
	base := Offset(b.BaseOffset())
	want, _ := newEpochCache(s.checkpoint).epochAt(base)
	if s.whole || base < s.part.start || want == b.LeaderEpoch() || base >= s.point && want <= b.LeaderEpoch() {
		return nil
	}
	return fmt.Errorf("%w: the batch at offset %d has epoch %d, not %d", errWrongEpochs, base, b.LeaderEpoch(), want)
}

// adopt makes what was scanned durable, and then the partition's.
func (p *Partition) adopt(s *scan) error {
	p.keepTorn(s)
	if s.damaged == nil && s.end == s.segments[0].base && !p.keepsEmpty(s) {
		// Nothing in it was ever acknowledged, and the directory may be half
		// made: the first append makes it anew, perhaps for another offset.
		// Where it would have begun is not where the log does, unless bounds say so.
		if s.known {
			s.end = s.part.start
			p.flushed = s.end
		}
		return p.removeLast(s)
	}
	for n := len(s.segments); s.damaged == nil && s.seg.size == 0 && n > 1 && s.segments[n-2].size == 0; n-- {
		// The last one was about to take its place: see segmentToBegin.
		if err := p.giveUp(s, n-2); err != nil {
			return err
		}
	}
	if err := p.repair(s); err != nil {
		return err
	}
	for _, seg := range s.segments {
		seg.committed.Store(seg.size)
		seg.mapped.own.Store(seg.size)
		if seg != s.seg && s.damaged == nil {
			seg.index.Store(nil) // it has files, for when it is needed
		}
	}
	p.segs.Store(&segmentSet{list: s.segments, from: min(s.part.start, s.end)})
	if end := s.dataEnd(); s.known && s.damaged == nil && min(p.flushed, end) > s.point && p.afterGap(s) == s.end {
		part := s.part
		part.start, part.flushed = p.segs.Load().start(), end
		p.entry.setCrash(part)
	}
	return nil
}

// goOnAtStart has the log go on at its start, if that is not damage: records before
// it were lost or are deleted, and nothing is left behind it but what may be torn, or
// the empty file of a first append. The epochs are those that have begun, as if there were
// no file: what is found of the records says less.
func (p *Partition) goOnAtStart(s *scan) error {
	if p.keepTorn(s); s.damaged != nil {
		return nil
	}
	p.reportCut(s)
	s.end, s.torn = s.part.start, false
	if !s.whole {
		p.epochs.replace(s.checkpoint)
	}
	for n := len(s.segments) - 2; n >= 0 && s.segments[n].base >= s.part.start; n-- {
		// An empty one. Its name may be that of a segment later.
		if err := p.giveUp(s, n); err != nil {
			return err
		}
	}
	p.deleted = append(p.deleted, s.segments[:len(s.segments)-1]...)
	_ = p.removeDeleted() // as in openSegments
	return p.removeLast(s)
}

// removeLast removes the only file that is left. Beside the one that is made next a power
// cut must not bring it back: its torn end would be damage there.
func (p *Partition) removeLast(s *scan) error {
	s.segments = nil
	err := errors.Join(s.seg.file.Close(), p.removeSegment(s.seg.base))
	if err == nil {
		err = p.topic.log.fs.SyncDir(siteRecoveryDir, p.dir)
	}
	return err
}

// keepsEmpty says that the only file has no batch because all were deleted, as
// bounds say: it is where the log goes on. Of a replica that was to begin there they
// say the same before its directory is whole.
func (p *Partition) keepsEmpty(s *scan) bool {
	kept := len(s.segments) == 1 && s.damaged == nil && s.fileSize == 0 && s.known && s.part.start > 0 &&
		s.seg.base == s.part.start && s.end == s.part.start && p.goesOnAt(s) == s.end
	if kept {
		_, err := p.topic.log.fs.Stat(p.path(partitionMetadataName))
		kept = !errors.Is(err, fs.ErrNotExist)
	}
	return kept
}

// goesOnAt returns the offset at which the log goes on.
func (p *Partition) goesOnAt(s *scan) Offset {
	end := p.afterGap(s)
	if !s.known || !s.part.clean { // a clean stop has no gap before it
		// The epoch may have begun behind one without a batch that was kept.
		end = max(end, s.begun.start)
	}
	return end
}

// afterGap returns the offset at which the log goes on after its records, or
// where those were that a power cut may have taken.
func (p *Partition) afterGap(s *scan) Offset {
	if s.known && !s.part.clean && (!s.part.sameBoot || s.part.failed) && s.damaged == nil && p.topic.config().Flush == FlushAsync &&
		s.part.ceiling != noCeiling {
		return max(s.end, s.part.ceiling)
	}
	return s.end
}

// loadEpochs reads leader-epoch-checkpoint. If it cannot be read, the batches
// tell, all of them.
func (p *Partition) loadEpochs(s *scan) error {
	name := p.path(epochCheckpointName)
	data, err := vfs.ReadFile(p.topic.log.fs, name, maxSideFile)
	if err == nil {
		var c *epochCache
		if c, err = parseEpochs(data); err == nil {
			p.epochs = c
			if all := c.load(); len(all) > 0 {
				s.begun = all[len(all)-1]
				p.epoch = s.begun.epoch
			}
			return nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(s.segments) > 0 {
		s.whole = true
		p.topic.log.opts.Logger.Warn("leader epochs are taken from the batches", "file", name, "err", err)
	}
	return nil
}

// openSegments opens the files of batches, in the order of their names.
func (p *Partition) openSegments(s *scan) error {
	fsys := p.topic.log.fs
	entries, err := fsys.ReadDir(p.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		base, ok := parseLogFileName(e.Name)
		if !ok || e.Dir {
			continue
		}
		seg := newSegment(base, p.topic.log.files.file(p.path(e.Name)))
		seg.size = e.Size
		s.segments = append(s.segments, seg)
	}
	p.removeOrphans(entries, s.segments)
	for len(s.segments) > 1 && s.segments[1].base <= s.part.start {
		p.deleted, s.segments = append(p.deleted, s.segments[0]), s.segments[1:] // it is below the start
	}
	_ = p.removeDeleted() // what cannot be removed is in nobody's way, and tried again
	for len(s.segments) > 1 && s.point <= s.part.start && allEmpty(s.segments) {
		// First appends have made them, at one offset and then at another, and none
		// came to its end: there may be nothing else in the directory.
		if err := p.giveUp(s, 0); err != nil {
			return err
		}
	}
	if len(s.segments) > 0 {
		return nil
	}
	if s.point > s.part.start {
		return &CorruptError{File: p.path(logFileName(0)), Offset: 0, Next: NoOffset, Err: fs.ErrNotExist}
	}
	s.end = s.part.start // which a truncation may have moved
	if err != nil {
		return nil // there is no directory yet
	}
	return p.syncNames(s)
}

// allEmpty says that no file has a byte.
func allEmpty(segments []*segment) bool {
	return !slices.ContainsFunc(segments, func(s *segment) bool { return s.size > 0 })
}

// checkBase checks that a file begins where the one before ended, or behind a
// gap that an unclean stop has left.
func (p *Partition) checkBase(s *scan) error {
	base := s.seg.base
	if s.seg == s.segments[0] {
		if s.end = s.part.start; !s.known || base < s.end {
			s.end = base // the start may be in the midst of it
		}
	}
	if i := slices.Index(s.segments, s.seg); i == 0 || s.segments[i-1].size > 0 {
		s.before = s.end // else that of the one before it is
	}
	if base == s.end {
		return nil
	}
	size, err := s.seg.file.Size()
	if err != nil {
		return err
	}
	var w window
	w.reset(s.seg.file, size)
	b, err := w.batch(0)
	if err == nil {
		err = b.Check()
	}
	// With nothing in it yet, or a torn first batch. No gap has the recovery point in it.
	// Of several that have nothing, all but the last were about to be removed.
	// What is below the start is not missed: the file before this one may have been deleted.
	gap := base > s.end && ((s.last || s.noMore) && s.before >= s.point || s.noMore && s.point <= s.part.start)
	switch {
	case err == nil:
		if err := s.checkEpoch(b); err != nil {
			return err
		}
		gap = follows(s.end, s.epoch, b)
	case !isDamage(err) && !errors.Is(err, io.EOF):
		return err
	}
	if !gap {
		err := fmt.Errorf("%w: segment begins at offset %d, want %d", batch.ErrCorrupt, base, s.end)
		p.damage(s, 0, base, err)
	}
	s.end = base
	return nil
}

// follows says whether b may stand where offset want and an epoch of at least
// epoch is expected. Only the first batch of a higher epoch may leave a gap.
func follows(want Offset, epoch int32, b batch.Batch) bool {
	base := Offset(b.BaseOffset())
	if epoch == noEpoch {
		return base == want
	}
	return base == want && b.LeaderEpoch() >= epoch || base > want && b.LeaderEpoch() > epoch
}

// checkFollows returns batch.ErrCorrupt if b does not follow.
func checkFollows(want Offset, epoch int32, b batch.Batch) error {
	if follows(want, epoch, b) {
		return nil
	}
	return fmt.Errorf("%w: batch has base offset %d in epoch %d, want %d in epoch %d",
		batch.ErrCorrupt, b.BaseOffset(), b.LeaderEpoch(), want, epoch)
}

// trusted says whether the segment with number i need not be read: the next one
// has batches that were flushed. Before one that has none, where it ends shows
// whether a file is missing.
func (s *scan) trusted(i int) bool {
	return !s.last && !s.whole && s.segments[i+1].base < s.point
}

// trustSegment takes a file below the recovery point as it is: it is whole, or a
// reader will find what is wrong with it.
func (p *Partition) trustSegment(s *scan, next Offset) {
	s.end, s.epoch = next, p.epochBefore(next)
}

// resume begins the scan of a segment at the last place below the recovery
// point that the index on disk knows, if that proves to be right.
func (p *Partition) resume(s *scan, w *window) error {
	if s.seg.base >= s.point || s.whole {
		return nil
	}
	x, err := p.loadClosed(s.seg.base)
	if err != nil {
		p.topic.counts.indexesRebuilt.Add(1)
		return nil // it is made anew
	}
	at, pos, ok := x.offset.find(s.point)
	if !ok {
		return nil
	}
	base, err := batchBase(w, pos, at)
	if err != nil {
		p.topic.counts.indexesRebuilt.Add(1)
		return unlessDamage(err)
	}
	head, err := w.bytes(0, batch.HeaderSize)
	if err != nil {
		return unlessDamage(err)
	}
	s.seg.saved = x.offset.len()
	x.truncate(at, pos)
	s.seg.withIndex(x)
	s.seg.firstTimestamp = batch.Batch(head).MaxTimestamp()
	s.seg.size, s.end, s.epoch = pos, base, noEpoch
	return nil
}

// giveUp removes a file that is no part of the log.
func (p *Partition) giveUp(s *scan, i int) error {
	seg := s.segments[i]
	s.segments = slices.Delete(s.segments, i, i+1)
	return errors.Join(seg.file.Close(), p.removeSegment(seg.base))
}

// scanSegment reads a file, checks its batches and completes its index.
func (p *Partition) scanSegment(s *scan) (err error) {
	if s.fileSize, err = s.seg.file.Size(); err != nil {
		return err
	}
	s.seg.size = 0
	var w window
	w.reset(s.seg.file, s.fileSize)
	s.pointSize = 0
	s.seg.withIndex(newSegmentIndex(s.seg.base))
	if err := p.resume(s, &w); err != nil {
		return err
	}
	p.epochs.truncateFromEnd(s.end) // the batches say the rest
	for {
		if s.end <= s.point {
			s.pointSize = s.seg.size
		}
		b, err := w.batch(s.seg.size)
		if err == nil {
			err = p.checkScanned(b, s)
		}
		if err == nil {
			s.seg.found(b)
			p.topic.counts.recovered.Add(int64(len(b)))
			s.end, s.epoch = Offset(b.NextOffset()), b.LeaderEpoch()
			p.epochs.assign(b.LeaderEpoch(), Offset(b.BaseOffset()))
			p.epoch = max(p.epoch, b.LeaderEpoch())
			continue
		}
		atEnd := errors.Is(err, io.EOF)
		if isDamage(err) {
			var failed error
			if atEnd, failed = zeros(s.seg, s.seg.size, s.fileSize); failed != nil {
				return failed
			}
		}
		if atEnd && (!s.last || s.end >= s.point || s.point <= s.part.start) {
			// What is missing at the end of another file shows at the next one. What is below the
			// start is not missed: a file that was deleted may be back, and the one behind it not.
			return nil
		}
		if !atEnd && !isDamage(err) {
			return err
		}
		if done, err := p.judge(s, err); done || err != nil {
			return err
		}
	}
}

// checkScanned checks the next batch.
func (p *Partition) checkScanned(b batch.Batch, s *scan) error {
	err := b.Check()
	if err == nil && Offset(b.BaseOffset()) == s.end {
		if wrong := s.checkEpoch(b); wrong != nil {
			return wrong
		}
	}
	if err == nil {
		err = checkFollows(s.end, s.epoch, b)
	}
	if p.topic.log.fs.Check(siteRecoveryCheck, err == nil) {
		return nil
	}
	return err
}

// judge decides what the bad batch at the end of what was scanned is, because
// of cause: the torn end, when the scan is done, or damage, behind which it goes
// on if it can.
func (p *Partition) judge(s *scan, cause error) (done bool, err error) {
	seg := s.seg
	from, err := behind(seg.file, seg.size, s.fileSize)
	if err != nil {
		return true, err
	}
	at, base, err := findBatch(seg.file, from, s.fileSize, s.end+1)
	if err != nil {
		return true, err
	}
	// A killed process leaves one torn batch, behind which there is nothing: the
	// pages of a file are lost in any order only with the machine. And no crash
	// takes bounds: without them, who knows what had been flushed.
	flushed := !s.last || s.end < s.point || (s.killed() || !s.known) && at >= 0
	for from, next := at, base; !flushed && from >= 0; {
		end, after, err := chainEnd(seg.file, from, s.fileSize)
		if err != nil {
			return true, err
		}
		flushed = end > seg.size+maxUnflushed
		if from, next, err = findBatch(seg.file, end+1, s.fileSize, max(next, after)); err != nil {
			return true, err
		}
	}
	if s.damaged == nil && p.topic.log.fs.Check(siteRecoveryDamage, !flushed) {
		s.torn = true
		return true, nil
	}
	p.damage(s, seg.size, base, cause)
	if at < 0 {
		// Nothing to be read is left here. The end stays beyond what was
		// flushed; if another file follows, the end is its beginning.
		if s.last {
			s.end = max(s.end, s.point)
		}
		seg.size = s.fileSize
		return true, nil
	}
	s.end, seg.size, s.epoch = base, at, noEpoch
	seg.indexed = -indexInterval - 1 // what follows must be found without walking through this
	return false, nil
}

// damage takes note of damage at byte pos of the segment that is scanned, where
// the batch with offset s.end should be.
func (p *Partition) damage(s *scan, pos int64, next Offset, cause error) {
	if s.damaged != nil {
		return
	}
	s.damaged = &CorruptError{File: s.seg.file.Name(), Pos: pos, Offset: s.end, Next: next, Err: cause}
	p.topic.log.opts.Logger.Error("partition is damaged and takes no appends",
		"topic", p.topic.name, "partition", p.index, "err", s.damaged)
}

// chainEnd returns where the batches that go on from the one at pos end, and the
// offset after them.
func chainEnd(file vfs.File, pos, limit int64) (end int64, next Offset, err error) {
	var w window
	w.reset(file, limit)
	epoch := noEpoch
	for next = NoOffset; ; {
		b, err := w.batch(pos)
		if errors.Is(err, io.EOF) {
			return pos, next, nil
		}
		if err == nil {
			err = b.Check()
		}
		if err != nil || next != NoOffset && !follows(next, epoch, b) {
			return pos, next, unlessDamage(err)
		}
		pos, next, epoch = pos+int64(len(b)), Offset(b.NextOffset()), b.LeaderEpoch()
	}
}

// checkID compares the directory's partition.metadata with the topic. The error
// is a *CorruptError, or says that the file could not be read.
func (p *Partition) checkID() error {
	name := p.path(partitionMetadataName)
	data, err := vfs.ReadFile(p.topic.log.fs, name, maxSideFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil {
		var id [16]byte
		if id, err = parsePartitionMetadata(data); err == nil && id != p.topic.id {
			err = fmt.Errorf("topic id is %s, want %s", formatID(id), formatID(p.topic.id))
		}
	}
	if err != nil {
		return &CorruptError{File: name, Offset: NoOffset, Next: NoOffset, Err: err}
	}
	return nil
}

// reportCut says what of an unfinished append was cut.
func (p *Partition) reportCut(s *scan) {
	if s.torn && s.damaged == nil {
		p.topic.counts.cut.Add(s.fileSize - s.seg.size)
		p.topic.log.opts.Logger.Error("an unfinished append was cut",
			"topic", p.topic.name, "partition", p.index, "offset", s.end, "bytes", s.fileSize-s.seg.size)
	}
}

// repair makes what was scanned durable. All but the last segment is. Of a
// damaged one nothing is cut.
func (p *Partition) repair(s *scan) error {
	seg := s.seg
	if s.damaged == nil && s.fileSize > seg.size {
		if s.torn {
			p.removeStale(seg)
		}
		if err := seg.file.Truncate(seg.size); err != nil {
			return err
		}
		p.cut++
	}
	if err := p.syncNames(s); err != nil {
		return err
	}
	p.flushed, p.flushedSize = s.dataEnd(), seg.size
	if s.end <= s.point && !s.torn && !s.part.failed {
		// All of it was flushed, but not the cut of an opening that has died since. What
		// comes next in another file waits for that.
		if !s.part.clean && p.cut == 0 {
			p.cut++
		}
		return nil
	}
	if s.killed() && s.damaged == nil && p.topic.config().Flush == FlushAsync {
		// All is in memory, and need be no more durable than it was.
		p.flushed, p.flushedSize, seg.again = s.point, s.pointSize, seg.size
		return nil
	}
	if err := rewrite(seg.file, max(s.pointSize, seg.size-maxUnflushed), seg.size); err != nil {
		return err
	}
	p.cutFlushed = p.cut
	return seg.file.Sync(siteRecoveryFlush)
}

// syncNames flushes the directory, if what was found in it may not be durable: a roll that
// was ended leaves an empty last file, a truncation names that are gone or another file's,
// and an opening that has died in removeLast leaves none.
func (p *Partition) syncNames(s *scan) error {
	unsure := len(s.segments) == 0 || s.seg.size == 0
	if s.damaged != nil || !unsure && !s.part.failed {
		return nil
	}
	return p.topic.log.fs.SyncDir(siteRecoveryDir, p.dir)
}

// flushAgain flushes a file. What a process that was killed had written to it
// is written once more before: its flush may have failed.
func (p *Partition) flushAgain(seg *segment, from int64) error {
	if from = max(from, seg.again-maxUnflushed); from < seg.again {
		if err := rewrite(seg.file, from, seg.again); err != nil {
			return err
		}
	}
	seg.again = 0
	return seg.file.Sync(siteFlush)
}

// copyBytes writes bytes [pos, end) of a file to another one, from byte at on.
func copyBytes(to vfs.File, at int64, from io.ReaderAt, pos, end int64) error {
	return eachPiece(from, pos, end, func(piece []byte, from int64) error {
		_, err := to.WriteAt(piece, at+from-pos)
		return err
	})
}

// rewrite writes bytes [pos, end) of file over themselves, so that the next
// flush really writes them.
func rewrite(file vfs.File, pos, end int64) error { return copyBytes(file, pos, file, pos, end) }
