package riffle

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rifflelog/riffle/internal/batch"
	"github.com/rifflelog/riffle/internal/vfs"
)

// segment is one file of batches, end to end. Whoever appends holds the
// partition's lock; reading takes none.
type segment struct {
	base Offset // of its first batch, and in its name
	file vfs.File
	// index and seal are nil until they are needed; loading is held while they
	// are read or made. The index of an active segment is always there, and
	// what it has as seal means nothing.
	index   atomic.Pointer[segmentIndex]
	seal    atomic.Pointer[seal]
	loading sync.Mutex
	// saving is held while the files of index and seal are written, and guards
	// forgotten: a truncation has removed them, and no others may come.
	saving    sync.Mutex
	forgotten bool
	made      int64 // when it was made or opened, for a first batch without a timestamp
	// committed is how many of its bytes are committed.
	committed atomic.Int64

	// Guarded by the partition's lock while the segment is active, constant
	// afterwards.

	size           int64 // where the next batch goes: all bytes before it are batches
	indexed        int64 // where the batch begins that has the last index entry
	firstTimestamp int64 // the largest of the first batch, NoTimestamp if there is none
	// maxTimestamp is the largest of all batches, maxOffset the last offset of
	// the first one that has it: NoTimestamp and base if none has one.
	maxTimestamp int64
	maxOffset    Offset
	saved        int // how many entries of the offset index are in its file
	mapped       mapping
	lent         int64 // bytes before it were committed once: somebody may be reading them

	again int64 // bytes before it may have to be written once more before they are flushed
}

func newSegment(base Offset, file vfs.File) *segment {
	return &segment{
		base: base, file: file, made: time.Now().UnixMilli(),
		firstTimestamp: batch.NoTimestamp, maxTimestamp: batch.NoTimestamp, maxOffset: base,
	}
}

// shouldRoll says whether b, which will begin at offset next, belongs into the
// next segment, in Kafka's order of reasons (LogSegment.shouldRoll): the size;
// the age, by the records' own time, and by the clock only if the segment's
// first batch has none; an index being full; the range of offsets that it can
// say. A segment without batches takes any.
func (s *segment) shouldRoll(b batch.Batch, next Offset, now int64, cfg *TopicConfig) bool {
	return s.shouldRollAt(s.size, b, next, now, cfg)
}

// shouldRollAt is shouldRoll for when the segment has size bytes: those that it has, or more.
func (s *segment) shouldRollAt(size int64, b batch.Batch, next Offset, now int64, cfg *TopicConfig) bool {
	if s.size == 0 {
		return false
	}
	if size+int64(len(b)) > cfg.SegmentBytes {
		return true
	}
	age := now - s.made
	if s.firstTimestamp != batch.NoTimestamp {
		age = b.MaxTimestamp() - s.firstTimestamp
	}
	if cfg.SegmentAge != Forever && age > cfg.SegmentAge.Milliseconds() {
		return true
	}
	return s.index.Load().full() || next+Offset(b.LastOffsetDelta())-s.base > math.MaxInt32
}

// withIndex gives a segment that will be appended to its index.
func (s *segment) withIndex(x *segmentIndex) *segment {
	s.index.Store(x)
	_, s.indexed = x.offset.last()
	s.maxTimestamp, s.maxOffset = x.time.last()
	return s
}

// ReadAt implements io.ReaderAt for what is committed: from memory what this
// incarnation has mapped and written, from the file what it has not.
func (s *segment) ReadAt(p []byte, off int64) (int, error) {
	if s.mapped.read(p, off) {
		return len(p), nil
	}
	return s.file.ReadAt(p, off)
}

// append writes b, a whole batch, and those behind it to the end. After an error nothing is
// behind the end but zeros, unless the error is errUnsure; the extents that it returns
// are no longer the segment's.
func (s *segment) append(b batch.Batch, behind ...batch.Batch) (extents, error) {
	if len(behind) == 0 && s.mapped.write(b, s.size) {
		s.file.(*segmentFile).changed()
	} else if err := s.write(b, behind); err != nil {
		if errors.Is(err, vfs.ErrNoFiles) {
			return nil, err // the file could not even be opened
		}
		// What is there of them must not stay: the next batch may be shorter, and
		// the rest behind it could look like a batch.
		unmapped := s.mapped.unmap()
		s.mapped.next = s.size + minTouch
		if cut := s.cut(); cut != nil {
			return unmapped, errors.Join(errUnsure, err, cut)
		}
		return unmapped, err
	}
	s.found(b)
	for _, b := range behind {
		s.found(b)
	}
	return nil, nil
}

// write writes batches to the end of the file.
func (s *segment) write(b batch.Batch, behind []batch.Batch) (err error) {
	if len(behind) == 0 {
		_, err = s.file.WriteAt(b, s.size)
		return err
	}
	pieces := make([][]byte, 1, 1+len(behind))
	pieces[0] = b
	for _, b := range behind {
		pieces = append(pieces, b)
	}
	_, err = s.file.WriteVec(pieces, s.size)
	return err
}

// cut cuts the file behind the last batch. A full btrfs refuses, also where there
// is nothing to cut.
func (s *segment) cut() error {
	err := s.file.Truncate(s.size)
	if err == nil {
		return nil
	}
	if size, failed := s.file.Size(); failed == nil && size == s.size {
		return nil
	}
	return err
}

// found takes note of b, which stands at the end.
func (s *segment) found(b batch.Batch) {
	if s.size == 0 {
		s.firstTimestamp = b.MaxTimestamp()
	}
	if ts := b.MaxTimestamp(); ts > s.maxTimestamp {
		s.maxTimestamp, s.maxOffset = ts, Offset(b.LastOffset())
	}
	if s.size-s.indexed > indexInterval {
		// Full, it stays as it is: what follows is found by walking.
		if s.index.Load().add(Offset(b.LastOffset()), s.size, s.maxTimestamp, s.maxOffset) {
			s.indexed = s.size
		}
	}
	s.size += int64(len(b))
}

// errUnsure: a failed write may have left bytes behind the end.
var errUnsure = errors.New("part of a batch may be left in the file")

const (
	// minWindow is what a reader reads at first: a few small batches cost one
	// system call, and a single one not much more than itself.
	minWindow = 8 << 10
	// spareWindow is how much it reads beyond the next index entry, if that is less:
	// the batch there may be the one that is looked for.
	spareWindow = 1 << 10
	// maxWindow is what it reads when it goes on in order. It is most of what a program
	// that only consumes has in memory, and garbage is collected when as much again has
	// been allocated: with half of it, a third of such a program's time goes there.
	maxWindow = 2 << 20
)

// window reads the batches of a file through a buffer that it keeps. Its zero
// value needs reset. It is for one goroutine at a time.
type window struct {
	file  io.ReaderAt
	limit int64  // bytes of the file that may be read
	buf   []byte // bytes [off, off+len(buf)) of the file
	off   int64
	step  int  // how much to read next
	own   bool // buf is what this incarnation wrote, from memory: no disk has had it
}

// reset goes to another file, of which the first limit bytes may be read.
func (w *window) reset(file io.ReaderAt, limit int64) {
	w.file, w.limit = file, limit
	w.buf, w.off, w.step = w.buf[:0], 0, minWindow
	if cap(w.buf) > 2*maxWindow {
		w.buf = nil // one large batch shall not be kept in a pool
	}
}

// batch returns the batch at pos, in memory that is valid until the next call.
// Its length and magic are checked, no more. io.EOF at the limit;
// batch.ErrTruncated or batch.ErrCorrupt if there is none; any other error is
// the file's.
func (w *window) batch(pos int64) (batch.Batch, error) {
	if pos == w.limit {
		return nil, io.EOF
	}
	if b, ok := w.buffered(pos); ok {
		return b, nil
	}
	head, err := w.bytes(pos, batch.PrefixSize)
	if err != nil {
		return nil, err
	}
	size, err := batch.Size(head)
	if err != nil {
		return nil, err
	}
	b, err := w.bytes(pos, size)
	if err != nil {
		return nil, err
	}
	first, _, err := batch.Split(b)
	return first, err
}

// buffered is batch for one that is wholly in the buffer, as most small ones are.
func (w *window) buffered(pos int64) (batch.Batch, bool) {
	if pos < w.off || pos >= w.off+int64(len(w.buf)) {
		return nil, false
	}
	b, _, err := batch.Split(w.buf[pos-w.off:])
	return b, err == nil && pos+int64(len(b)) <= w.limit
}

// bytes returns n bytes from pos, batch.ErrTruncated if they pass the limit.
func (w *window) bytes(pos int64, n int) ([]byte, error) {
	if pos+int64(n) > w.limit {
		return nil, fmt.Errorf("%w: %d bytes of %d are there", batch.ErrTruncated, w.limit-pos, n)
	}
	if pos < w.off || pos+int64(n) > w.off+int64(len(w.buf)) {
		if err := w.fill(pos, n); err != nil {
			return nil, err
		}
	}
	i := int(pos - w.off)
	return w.buf[i : i+n], nil
}

// fill reads at least n bytes from pos.
func (w *window) fill(pos int64, n int) error {
	size := int(min(int64(max(n, w.step)), w.limit-pos))
	w.step = min(4*w.step, maxWindow)
	if cap(w.buf) < size {
		w.buf = make([]byte, size)
	}
	w.buf, w.off = w.buf[:size], pos
	seg, _ := w.file.(*segment)
	if w.own = seg != nil && seg.mapped.read(w.buf, pos); w.own {
		return nil
	}
	if got, err := w.file.ReadAt(w.buf, pos); got < size {
		w.buf = w.buf[:0]
		if errors.Is(err, io.EOF) {
			// The file is shorter than it was: somebody cut it.
			return fmt.Errorf("%w: file ends at byte %d", batch.ErrTruncated, pos+int64(got))
		}
		return err
	}
	return nil
}

// isDamage tells an error that says what the bytes are from one that says that
// they could not be read.
func isDamage(err error) bool {
	return errors.Is(err, batch.ErrCorrupt) || errors.Is(err, batch.ErrTruncated)
}

// findBatch searches file from byte pos for a batch with an offset of at least
// from: checked by its CRC, and followed by another that goes on from it or by
// the limit. It returns where, and -1 if there is none. Bytes that users stored
// may look like a batch; among other bytes they do not look like two.
func findBatch(file io.ReaderAt, pos, limit int64, from Offset) (at int64, base Offset, err error) {
	var search, follow window
	search.reset(file, limit)
	follow.reset(file, limit)
	search.step = maxWindow
	for pos+batch.HeaderSize <= limit {
		head, err := search.bytes(pos, batch.HeaderSize)
		if err != nil {
			return -1, NoOffset, err
		}
		ahead := search.buf[pos-search.off:]
		if skip := batch.IndexPlausible(ahead); skip != 0 {
			pos += int64(skip)
			continue
		}
		if h := batch.Batch(head); Offset(h.BaseOffset()) >= from {
			ok, err := startsChain(&follow, pos, h)
			if err != nil {
				return -1, NoOffset, err
			}
			if ok {
				return pos, Offset(h.BaseOffset()), nil
			}
		}
		pos++
	}
	return -1, NoOffset, nil
}

// behind returns where to look for batches behind the bad one at byte pos of a
// file: not among the bytes of which its own header and records say that they
// are its, since a value may hold whole batches.
func behind(file io.ReaderAt, pos, limit int64) (int64, error) {
	var w window
	w.reset(file, limit)
	head, err := w.bytes(pos, batch.HeaderSize)
	if err != nil {
		return pos + 1, unlessDamage(err)
	}
	h := batch.Batch(bytes.Clone(head))
	size, err := batch.Size(h)
	if err != nil {
		return pos + 1, nil
	}
	// It is whole if what stands behind it goes on from it.
	after, err := w.bytes(pos+int64(size), batch.HeaderSize)
	if err == nil && batch.Plausible(after) && follows(Offset(h.NextOffset()), h.LeaderEpoch(), batch.Batch(after)) {
		return pos + int64(size), nil
	}
	if err = unlessDamage(err); err != nil {
		return pos, err
	}
	b, err := w.bytes(pos, int(min(int64(size), limit-pos)))
	if err != nil {
		return pos + 1, unlessDamage(err)
	}
	return min(limit, pos+int64(max(1, batch.Claimed(b)))), nil
}

// startsChain says whether the header h, at pos, is that of a whole batch, and
// after it comes one that goes on from it, space that was allocated ahead, or the
// limit. It looks at what comes
// after first: checking a CRC at every header that users' bytes may be made to
// look like would take for ever.
func startsChain(w *window, pos int64, h batch.Batch) (bool, error) {
	size, err := batch.Size(h)
	if err != nil {
		return false, nil
	}
	next := h.NextOffset()
	if end := pos + int64(size); end != w.limit {
		after, err := w.bytes(end, int(min(batch.HeaderSize, max(0, w.limit-end))))
		if err != nil {
			return false, unlessDamage(err)
		}
		if !allZero(after) && (!batch.Plausible(after) || !follows(Offset(next), h.LeaderEpoch(), batch.Batch(after))) {
			return false, nil
		}
	}
	b, err := w.batch(pos)
	if err == nil {
		err = b.Check()
	}
	return err == nil, unlessDamage(err)
}

// zeros says whether bytes [pos, end) of a file are zeros: space that was
// allocated ahead.
func zeros(file io.ReaderAt, pos, end int64) (bool, error) {
	err := eachPiece(file, pos, end, func(piece []byte, _ int64) error {
		if !allZero(piece) {
			return errNotZero
		}
		return nil
	})
	if errors.Is(err, errNotZero) {
		return false, nil
	}
	return err == nil, err
}

// errNotZero ends the look at what may be zeros.
var errNotZero = errors.New("not zero")

// eachPiece reads bytes [pos, end) of a file and calls f with each piece of them
// and where it is, until f returns an error. The piece is lent.
func eachPiece(file io.ReaderAt, pos, end int64, f func(piece []byte, at int64) error) error {
	buf := make([]byte, min(maxWindow, max(0, end-pos)))
	for pos < end {
		buf = buf[:min(int64(len(buf)), end-pos)]
		if _, err := file.ReadAt(buf, pos); err != nil {
			return err
		}
		if err := f(buf, pos); err != nil {
			return err
		}
		pos += int64(len(buf))
	}
	return nil
}

// zeroBlock is what allZero compares with.
var zeroBlock [4096]byte

func allZero(b []byte) bool {
	for len(b) > len(zeroBlock) {
		if !bytes.Equal(b[:len(zeroBlock)], zeroBlock[:]) {
			return false
		}
		b = b[len(zeroBlock):]
	}
	return bytes.Equal(b, zeroBlock[:len(b)])
}

// unlessDamage returns err only if the bytes could not be read.
func unlessDamage(err error) error {
	if isDamage(err) {
		return nil
	}
	return err
}
