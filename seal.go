package riffle

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/rifflelog/riffle/internal/batch"
	"github.com/rifflelog/riffle/internal/vfs"
)

// seal is what a segment was found to hold when nothing more was to be appended
// to it: the content of its .seal file. Big endian:
//
//	0          8     12    16      24      32      40
//	+----------+-----+-----+-------+-------+-------+
//	| rfl-seal | 1   | 0   | base  | size  | next  |
//	+----------+-----+-----+-------+-------+-------+
//	40        48        56      64      72       80      88       96
//	+---------+---------+-------+-------+--------+-------+--------+
//	| largest | its     | hash: | hash: | hash:  | hash: | hash   |
//	| timest. | offset  | .log  | .index| .timei.| .txni.|        |
//	+---------+---------+-------+-------+--------+-------+--------+
//
// The hashes are xxhash64, the last one of the bytes before it. At 12 is how
// many transactions were aborted in it.
//
// It is derived, and not flushed: one that is torn, missing or of another size
// of the segment is as good as none. It is made anew when it is needed.
type seal struct {
	base         Offset
	size         int64  // bytes of batches
	next         Offset // after the last batch
	maxTimestamp int64  // the largest; NoTimestamp if there is none
	maxOffset    Offset // last offset of the first batch that has it; else base
	// Of the files; 0 is unknown. The log's is, until all of it has been read.
	log, index, timeIndex, txnIndex uint64
}

const (
	sealSuffix  = ".seal"
	sealMagic   = "rfl-seal"
	sealVersion = 1
	sealSize    = 96
)

// format returns the content of the file.
func (s *seal) format() []byte {
	b := make([]byte, 0, sealSize)
	b = append(b, sealMagic...)
	b = binary.BigEndian.AppendUint32(b, sealVersion)
	b = binary.BigEndian.AppendUint32(b, 0)
	for _, v := range []uint64{
		uint64(s.base), uint64(s.size), uint64(s.next), uint64(s.maxTimestamp), uint64(s.maxOffset),
		s.log, s.index, s.timeIndex, s.txnIndex,
	} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return binary.BigEndian.AppendUint64(b, xxhash.Sum64(b))
}

// parseSeal reads what format wrote.
func parseSeal(b []byte) (*seal, error) {
	if len(b) != sealSize || string(b[:8]) != sealMagic {
		return nil, errors.New("this is no seal")
	}
	field := func(i int) uint64 { return binary.BigEndian.Uint64(b[16+8*i:]) }
	if got := xxhash.Sum64(b[:sealSize-8]); got != field(9) {
		return nil, fmt.Errorf("hash is %016x, the seal says %016x", got, field(9))
	}
	if version := binary.BigEndian.Uint32(b[8:]); version != sealVersion {
		return nil, fmt.Errorf("version %d is not %d", version, sealVersion)
	}
	s := &seal{
		base: Offset(field(0)), size: int64(field(1)), next: Offset(field(2)),
		maxTimestamp: int64(field(3)), maxOffset: Offset(field(4)),
		log: field(5), index: field(6), timeIndex: field(7), txnIndex: field(8),
	}
	switch {
	case s.base < 0 || s.size < 0 || s.next < s.base:
		return nil, fmt.Errorf("%d bytes with offsets [%d, %d)", s.size, s.base, s.next)
	case s.maxTimestamp < batch.NoTimestamp || s.maxOffset < s.base || s.maxOffset > s.next:
		return nil, fmt.Errorf("largest timestamp %d at offset %d of [%d, %d)", s.maxTimestamp, s.maxOffset, s.base, s.next)
	case binary.BigEndian.Uint32(b[12:]) != 0:
		return nil, errors.New("aborted transactions are of a later version")
	}
	return s, nil
}

// sum returns the seal of s, which ends at offset next, as far as it is known in
// memory: without the hash of the log.
func (s *segment) sum(next Offset) *seal {
	x := s.index.Load()
	return &seal{
		base: s.base, size: s.size, next: next, maxTimestamp: s.maxTimestamp, maxOffset: s.maxOffset,
		index: xxhash.Sum64(x.offset.bytesFrom(0)), timeIndex: xxhash.Sum64(x.time.bytesFrom(0)),
	}
}

// surveyed is how many bytes of a segment its indexes speak of when they are
// read or made anew: all of them, but of the active one those that are committed.
// The others may be cut and written once more.
func (p *Partition) surveyed(seg *segment) int64 {
	if seg != p.active() {
		return seg.size
	}
	return seg.committed.Load()
}

// survey reads these bytes of a segment and checks them. It returns the
// indexes and the seal that it should have. At damage, which is its error, the
// indexes know what comes before, and there is no seal. It ends when the log
// closes. A pace that is not nil holds it back.
func (p *Partition) survey(seg *segment, pace *pacer) (*segmentIndex, *seal, error) {
	x := newSegmentIndex(seg.base)
	found := newSegment(seg.base, nil).withIndex(x)
	next, epoch := seg.base, noEpoch // what goes over from one segment to the next, readers check
	hash := xxhash.New()
	var w window
	w.reset(seg, p.surveyed(seg))
	for {
		if p.topic.log.isClosing() {
			return nil, nil, p.topic.log.closedError()
		}
		b, err := w.batch(found.size)
		if errors.Is(err, io.EOF) {
			break
		}
		if isDamage(err) {
			if spare, _ := zeros(seg, found.size, w.limit); spare {
				break // a crash brought back what was cut
			}
		}
		if found.size == 0 && err == nil && Offset(b.BaseOffset()) != next {
			epoch = p.epochBefore(next) // behind a gap
		}
		if err == nil {
			err = errors.Join(checkFollows(next, epoch, b), b.Check())
		}
		if err != nil {
			return x, nil, fmt.Errorf("byte %d: %w", found.size, err)
		}
		_, _ = hash.Write(b) // never fails
		pace.took(len(b), p.topic.log.closing)
		found.found(b)
		next, epoch = Offset(b.NextOffset()), b.LeaderEpoch()
	}
	found.addClosing()
	s := found.sum(next)
	s.log = hash.Sum64()
	return x, s, nil
}

// pacer holds work in the background back to a tenth of a processor, so that it
// takes little from what it follows: sealing reads all that was appended.
type pacer struct {
	began time.Time // when the present piece was begun
	bytes int       // of it
}

// pacedPiece is how much is done between two rests.
const pacedPiece = 1 << 20

// took notes that n bytes are done, and rests after each piece, nine times as
// long as it took, but not once stop is closed.
func (c *pacer) took(n int, stop <-chan struct{}) {
	if c == nil {
		return
	}
	if c.bytes += n; c.bytes < pacedPiece {
		return
	}
	rest := time.NewTimer(min(9*time.Since(c.began), time.Second))
	defer rest.Stop()
	select {
	case <-rest.C:
	case <-stop:
	}
	c.began, c.bytes = time.Now(), 0
}

// addClosing gives the time index its last entry: the largest timestamp of all.
// Without room for it, which full keeps, the seal has that too.
func (s *segment) addClosing() {
	_ = s.index.Load().time.maybeAddClosing(s.maxTimestamp, s.maxOffset)
}

// sealOf returns the seal of a segment that is not active: from memory, its
// file, or if need be its batches. Nil if the segment is damaged.
func (p *Partition) sealOf(seg *segment) (*seal, error) {
	if s := seg.seal.Load(); s != nil {
		return s, nil
	}
	seg.loading.Lock()
	defer seg.loading.Unlock()
	s := p.loadSeal(seg)
	if x := seg.index.Load(); s == nil && (x == nil || !x.damaged) {
		if _, err := p.rebuildIndex(seg); err != nil {
			return nil, err
		}
		s = seg.seal.Load()
	}
	return s, nil
}

// loadSeal returns the seal from memory or its file; nil if there is none that
// is of the segment as it is. Called with loading held.
func (p *Partition) loadSeal(seg *segment) *seal {
	if s := seg.seal.Load(); s != nil {
		return s
	}
	s, err := p.readSeal(seg.base)
	if err != nil || s.size != p.surveyed(seg) {
		return nil
	}
	seg.seal.Store(s)
	return s
}

// readSeal reads the seal of the segment that begins at base.
func (p *Partition) readSeal(base Offset) (*seal, error) {
	data, err := vfs.ReadFile(p.topic.log.fs, p.path(segmentFileName(base, sealSuffix)), sealSize)
	if err != nil {
		return nil, err
	}
	s, err := parseSeal(data)
	if err == nil && s.base != base {
		err = fmt.Errorf("the seal is of segment %d, want %d", s.base, base)
	}
	return s, err
}

// sealQueue is the segments that were sealed and whose batches are still to be
// read. One goroutine of the log works through it, and is gone when it is empty.
type sealQueue struct {
	mu      sync.Mutex // guards what follows; nothing is locked under it
	waiting []sealTask
	running bool
}

type sealTask struct {
	p   *Partition
	seg *segment
}

// sealLater sees to it that seg, to which nothing is appended any more, is
// sealed.
func (p *Partition) sealLater(seg *segment) {
	q := &p.topic.log.seals
	q.mu.Lock()
	q.waiting = append(q.waiting, sealTask{p, seg})
	start := !q.running
	q.running = true
	q.mu.Unlock()
	if start {
		p.topic.log.inBackground(p.topic.log.sealAll)
	}
}

// next returns what is to be sealed next, and whether there is anything.
func (q *sealQueue) next() (sealTask, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.running = len(q.waiting) > 0
	if !q.running {
		q.waiting = nil
		return sealTask{}, false
	}
	t := q.waiting[0]
	q.waiting = q.waiting[1:]
	return t, true
}

func (l *Log) sealAll() {
	var pace *pacer
	if !l.sealAtOnce {
		pace = &pacer{began: time.Now()}
	}
	for {
		t, ok := l.seals.next()
		if !ok {
			return
		}
		if err := t.p.seal(t.seg, pace); err != nil && !l.isClosing() && !t.seg.isForgotten() {
			l.opts.Logger.Warn("segment is not sealed", "file", t.seg.file.Name(), "err", err)
		}
	}
}

// inBackground runs f on a goroutine of the log, unless it is too far closed: f
// only saves time.
func (l *Log) inBackground(f func()) {
	if l.sealAtOnce {
		l.run(f)
	} else {
		l.start(f)
	}
}

// seal reads all of a segment that is not active, and writes its seal. From then
// on its indexes take no memory until they are needed.
func (p *Partition) seal(seg *segment, pace *pacer) error {
	x, s, err := p.survey(seg, pace)
	if err != nil {
		return err
	}
	seg.loading.Lock()
	defer seg.loading.Unlock()
	known := seg.seal.Load() // that of files which were written
	written := known != nil && known.index == s.index && known.timeIndex == s.timeIndex &&
		p.saveSeal(seg, s) || p.saveIndex(seg, x, s)
	seg.seal.Store(s)
	if written {
		seg.index.Store(nil)
	}
	return nil
}

// checkSealed returns a *CorruptError if the file of a segment that is not
// active is not, bit for bit, what was sealed. Was that never hashed, its
// batches are checked, and it is sealed now.
func (p *Partition) checkSealed(seg *segment) error {
	s, err := p.sealOf(seg)
	if err != nil {
		return err
	}
	if s == nil || s.log == 0 {
		err = p.seal(seg, nil)
	} else {
		err = p.checkHash(seg, s)
	}
	if isDamage(err) {
		return &CorruptError{File: seg.file.Name(), Offset: seg.base, Next: NoOffset, Err: err}
	}
	return err
}

func (p *Partition) checkHash(seg *segment, s *seal) error {
	hash := xxhash.New()
	var w window
	w.reset(seg.file, s.size)
	for pos := int64(0); pos < s.size; {
		if p.topic.log.isClosing() {
			return p.topic.log.closedError()
		}
		piece, err := w.bytes(pos, int(min(maxWindow, s.size-pos)))
		if err != nil {
			return err
		}
		_, _ = hash.Write(piece) // never fails
		pos += int64(len(piece))
	}
	if got := hash.Sum64(); got != s.log {
		return fmt.Errorf("%w: hash is %016x, the seal says %016x", batch.ErrCorrupt, got, s.log)
	}
	return nil
}

// sideSuffixes end the names of the files that are derived from a segment.
var sideSuffixes = []string{sealSuffix, indexSuffix, timeIndexSuffix, txnIndexSuffix}

// removeOrphans removes files that were derived from segments which are not
// there, and those that a crash has left unfinished: a truncation's copy has the
// size of a segment.
func (p *Partition) removeOrphans(entries []vfs.DirEntry, segments []*segment) {
	there := make(map[Offset]bool, len(segments))
	for _, seg := range segments {
		there[seg.base] = true
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name, vfs.TempSuffix) && !e.Dir {
			p.removeSideFile(e.Name)
		}
		for _, suffix := range sideSuffixes {
			if base, ok := parseFileName(e.Name, suffix); ok && !e.Dir && !there[base] {
				p.removeSideFile(e.Name)
			}
		}
	}
}

// removeStale removes what is known of a segment whose end is about to be cut,
// unless all of it was found again before the cut.
func (p *Partition) removeStale(seg *segment) {
	if seg.saved == 0 || seg.index.Load().offset.len() < seg.saved {
		p.removeSideFiles(seg.base)
		seg.saved = 0
	}
}

// removeSegment removes the file of a segment, and those derived from it.
func (p *Partition) removeSegment(base Offset) error {
	p.removeSideFiles(base)
	return p.topic.log.fs.Remove(p.path(logFileName(base)))
}

func (p *Partition) removeSideFiles(base Offset) {
	for _, suffix := range sideSuffixes {
		p.removeSideFile(segmentFileName(base, suffix))
	}
}

func (p *Partition) removeSideFile(name string) {
	name = p.path(name)
	if err := p.topic.log.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.topic.log.opts.Logger.Warn("file is not removed", "file", name, "err", err)
	}
}
