package riffle

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/rifflelog/riffle/internal/batch"
	"github.com/rifflelog/riffle/internal/vfs"
)

// The places in recovery that a crash or damage must not pass.
const (
	siteRecoveryFlush  vfs.Site = "recovery.flush"  // before what was found is shown
	siteRecoveryCheck  vfs.Site = "recovery.check"  // of each batch
	siteRecoveryDamage vfs.Site = "recovery.damage" // that a bad batch is the end, not the middle
	siteRecoveryID     vfs.Site = "recovery.id"     // that the directory is this topic's
)

// scan is what a partition's file was found to hold.
type scan struct {
	end       Offset // after the last whole batch
	size      int64  // its end in the file
	pointSize int64  // where the first batch at or after the recovery point begins
	fileSize  int64
	torn      bool  // bytes after size are to be cut
	damaged   error // *CorruptError of the first damage; nil if there is none
}

// recover opens the partition's file, if there is one, and makes what it holds
// readable. All before the recovery point was flushed once.
//
// It reads the whole file. A bad batch is either the torn end of what was being
// written when the process or machine stopped: it was never acknowledged, and
// is cut. Or it is damage to what had been flushed: nothing is cut then, what
// is whole can be read, and the partition takes no appends.
//
// The order, and what would go wrong otherwise: (1) cut the torn end, or a
// shorter batch written over it would be followed by old bytes; (2) write the
// batches above the recovery point once more, since a flush that failed in an
// earlier process leaves pages in memory that look written and are not; (3)
// flush, since what is shown must survive a power cut; (4) show it, and take
// appends. Each step may be repeated: a crash in the midst of them changes
// nothing.
func (p *Partition) recover(point Offset) error {
	fsys := p.topic.log.fs
	file, err := fsys.OpenWrite(p.path(logFileName))
	if errors.Is(err, fs.ErrNotExist) && point == 0 {
		return nil // never made, or never finished: the first append makes it
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = &CorruptError{File: p.path(logFileName), Offset: 0, Next: NoOffset, Err: err}
	}
	if err != nil {
		return p.error("open", err)
	}
	seg := &segment{file: file}
	s, err := p.scan(seg, point)
	if err == nil && s.damaged == nil && s.end == 0 {
		// Nothing in it was ever acknowledged, and the directory may be half
		// made: the first append makes it anew.
		return file.Close()
	}
	if err == nil && s.damaged == nil {
		err = p.repair(seg, s, point)
	}
	if err != nil {
		return p.error("open", errors.Join(err, file.Close()))
	}
	seg.size = s.size
	p.flushed, p.flushedSize = s.end, s.size
	p.damaged = s.damaged
	p.end.Store(int64(s.end))
	p.commit(s.end, s.size)
	p.seg.Store(seg)
	return nil
}

// scan reads the file from its beginning and builds its index.
func (p *Partition) scan(seg *segment, point Offset) (*scan, error) {
	fileSize, err := seg.file.Size()
	if err != nil {
		return nil, err
	}
	s := &scan{fileSize: fileSize}
	var w window
	w.reset(seg.file, fileSize)
	for {
		if s.end <= point {
			s.pointSize = s.size
		}
		b, err := w.batch(s.size)
		if err == nil {
			err = p.checkScanned(b, s.end)
		}
		if err == nil {
			seg.index.add(s.end, s.size, false)
			s.end, s.size = Offset(b.NextOffset()), s.size+int64(len(b))
			continue
		}
		atEnd := errors.Is(err, io.EOF)
		if atEnd && s.end >= point {
			return s, p.checkID(s)
		}
		if !atEnd && !isDamage(err) {
			return nil, err
		}
		done, err := p.judge(seg, s, point, err)
		if done || err != nil {
			return s, err
		}
	}
}

// checkScanned checks a batch that must begin with offset want.
func (p *Partition) checkScanned(b batch.Batch, want Offset) error {
	err := b.Check()
	if err == nil && Offset(b.BaseOffset()) != want {
		err = fmt.Errorf("%w: batch has base offset %d, want %d", batch.ErrCorrupt, b.BaseOffset(), want)
	}
	if p.topic.log.fs.Check(siteRecoveryCheck, err == nil) {
		return nil
	}
	return err
}

// judge decides what the bad batch at s.size is, because of cause: the torn
// end, when the scan is done, or damage, behind which it goes on if it can.
func (p *Partition) judge(seg *segment, s *scan, point Offset, cause error) (done bool, err error) {
	at, base, err := findBatch(seg.file, s.size+1, s.fileSize, s.end+1)
	if err != nil {
		return true, err
	}
	flushed := s.end < point
	if !flushed && at >= 0 {
		end, err := chainEnd(seg.file, at, s.fileSize)
		if err != nil {
			return true, err
		}
		flushed = end > s.size+maxUnflushed
	}
	if s.damaged == nil && p.topic.log.fs.Check(siteRecoveryDamage, !flushed) {
		s.torn = true
		return true, p.checkID(s)
	}
	if s.damaged == nil {
		s.damaged = &CorruptError{File: seg.file.Name(), Pos: s.size, Offset: s.end, Next: base, Err: cause}
		p.topic.log.opts.Logger.Error("partition is damaged and takes no appends",
			"topic", p.topic.name, "partition", p.index, "err", s.damaged)
	}
	if at < 0 {
		// Nothing to be read is left. The end stays beyond what was flushed.
		s.end, s.size = max(s.end, point), s.fileSize
		return true, nil
	}
	seg.index.add(base, at, true)
	s.end, s.size = base, at
	return false, nil
}

// chainEnd returns where the batches that go on from the one at pos end.
func chainEnd(file vfs.File, pos, limit int64) (int64, error) {
	var w window
	w.reset(file, limit)
	for next := int64(-1); ; {
		b, err := w.batch(pos)
		if errors.Is(err, io.EOF) {
			return pos, nil
		}
		if err == nil {
			err = b.Check()
		}
		if err != nil || next >= 0 && b.BaseOffset() != next {
			return pos, unlessDamage(err)
		}
		pos, next = pos+int64(len(b)), b.NextOffset()
	}
}

// checkID compares the directory's partition.metadata with the topic. A file
// without batches may be one whose making was not finished.
func (p *Partition) checkID(s *scan) error {
	if s.end == 0 {
		return nil
	}
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
	if !p.topic.log.fs.Check(siteRecoveryID, err == nil) {
		s.torn = false
		s.damaged = &CorruptError{File: name, Offset: NoOffset, Next: NoOffset, Err: err}
	}
	return nil
}

// repair makes what scan found durable.
func (p *Partition) repair(seg *segment, s *scan, point Offset) error {
	if s.torn {
		p.topic.log.opts.Logger.Warn("cut an unfinished append",
			"topic", p.topic.name, "partition", p.index, "offset", s.end, "bytes", s.fileSize-s.size)
		if err := seg.file.Truncate(s.size); err != nil {
			return err
		}
	}
	if s.end <= point && !s.torn {
		return nil // all of it was flushed
	}
	if err := rewrite(seg.file, max(s.pointSize, s.size-maxUnflushed), s.size); err != nil {
		return err
	}
	return seg.file.Sync(siteRecoveryFlush)
}

// rewrite writes bytes [pos, end) of file over themselves, so that the next
// flush really writes them.
func rewrite(file vfs.File, pos, end int64) error {
	buf := make([]byte, min(maxWindow, end-pos))
	for pos < end {
		buf = buf[:min(int64(len(buf)), end-pos)]
		if _, err := file.ReadAt(buf, pos); err != nil {
			return err
		}
		if _, err := file.WriteAt(buf, pos); err != nil {
			return err
		}
		pos += int64(len(buf))
	}
	return nil
}
