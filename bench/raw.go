package main

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"sync/atomic"
)

var rawContender = &contender{
	name: "raw",
	notes: "the operations alone that limit a log. Not flushed: a header, the records and a CRC-32C stored into a mapping of allocated space whose pages were touched " +
		"(Linux; elsewhere the cells stay empty). Durable: a write and an `fdatasync`; of several writers all those that come while one runs share the next. " +
		"Read: the mapping, each CRC checked. Consumed: likewise, copied, and a channel rings. Open: two files are mapped.",
	open: openRaw,
}

func openRaw(s settings) (store, error) {
	if s.durable {
		return openRawDurable(s)
	}
	return openRawMapping(s)
}

// A raw batch is a header as large as Kafka's, with the length of what follows at 0, its CRC
// at 4 and its number of records at 8; then the records, each behind its length in
// the space that Kafka's would take.
const (
	rawHeader = 61
	rawPrefix = 9
)

// rawIndexEntry is the size of an entry of the index: the number of a batch's first record, and its position.
const rawIndexEntry = 16

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// rawMapping stores batches into a mapping and reads them from it. There is an index
// in memory, which is written when it is closed.
type rawMapping struct {
	file, indexFile *os.File
	data            []byte
	writing         bool
	end             int // of the batches
	next            uint64
	index           []byte

	pending, first int // of the batch that enqueue builds: its records, and where it begins
	written        int

	published atomic.Int64  // where consume may read to
	bell      chan struct{} // holds one when it has moved
}

// rawBatchBytes is how much enqueue gathers.
const rawBatchBytes = 64 << 10

func openRawMapping(s settings) (_ store, err error) {
	r := &rawMapping{bell: make(chan struct{}, 1)}
	defer func() {
		if err != nil {
			_ = r.closeFiles()
		}
	}()
	if r.file, err = os.OpenFile(filepath.Join(s.dir, "raw"), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	r.indexFile, err = os.OpenFile(filepath.Join(s.dir, "index"), os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		if r.indexFile, err = os.Create(filepath.Join(s.dir, "index")); err != nil {
			return nil, err
		}
		r.writing = true
		// Room for a batch more, and for what surrounds records of 100 bytes, one a batch.
		r.data, err = mapFile(r.file, 2*s.room+(4<<20), true)
		return r, err
	}
	if err != nil {
		return nil, err
	}
	end, err := r.file.Seek(0, 2)
	if err != nil {
		return nil, err
	}
	if r.data, err = mapFile(r.file, int(end), false); err != nil {
		return nil, err
	}
	entries, err := r.indexFile.Seek(0, 2)
	if err != nil {
		return nil, err
	}
	r.end = int(end)
	r.published.Store(end)
	r.index, err = mapFile(r.indexFile, int(entries), false)
	return r, err
}

func (r *rawMapping) appendOne(record []byte) error {
	if err := r.room(rawHeader + rawPrefix + len(record)); err != nil {
		return err
	}
	r.finish(r.end, r.put(r.end+rawHeader, record), 1)
	return nil
}

func (r *rawMapping) send(record []byte) error {
	if err := r.appendOne(record); err != nil {
		return err
	}
	r.published.Store(int64(r.end))
	select {
	case r.bell <- struct{}{}:
	default:
	}
	return nil
}

func (r *rawMapping) appendMany(records [][]byte) error {
	size := rawHeader
	for _, rec := range records {
		size += rawPrefix + len(rec)
	}
	if err := r.room(size); err != nil {
		return err
	}
	pos := r.end + rawHeader
	for _, rec := range records {
		pos = r.put(pos, rec)
	}
	r.finish(r.end, pos, len(records))
	return nil
}

func (r *rawMapping) enqueue(record []byte) error {
	if r.pending == 0 {
		if err := r.room(rawHeader + rawBatchBytes + rawPrefix + len(record)); err != nil {
			return err
		}
		r.first, r.written = r.end, r.end+rawHeader
	}
	r.written = r.put(r.written, record)
	r.pending++
	if r.written-r.first >= rawBatchBytes {
		return r.drain()
	}
	return nil
}

func (r *rawMapping) drain() error {
	if r.pending > 0 {
		r.finish(r.first, r.written, r.pending)
		r.pending = 0
	}
	return nil
}

func (r *rawMapping) room(size int) error {
	if !r.writing || r.end+size > len(r.data) {
		return errors.New("the mapping is full")
	}
	return nil
}

// put stores a record at pos and returns where it ends.
func (r *rawMapping) put(pos int, record []byte) int {
	binary.LittleEndian.PutUint32(r.data[pos:], uint32(len(record)))
	return pos + rawPrefix + copy(r.data[pos+rawPrefix:], record)
}

// finish gives the batch in [pos, end) its header.
func (r *rawMapping) finish(pos, end, records int) {
	h := r.data[pos:end]
	binary.LittleEndian.PutUint32(h, uint32(end-pos-8))
	binary.LittleEndian.PutUint32(h[8:], uint32(records))
	binary.LittleEndian.PutUint32(h[4:], crc32.Checksum(h[8:], castagnoli))
	r.index = binary.LittleEndian.AppendUint64(r.index, r.next)
	r.index = binary.LittleEndian.AppendUint64(r.index, uint64(pos))
	r.next += uint64(records)
	r.end = end
}

// batch returns the batch at pos, of those that end at last.
func (r *rawMapping) batch(pos, last int) ([]byte, error) {
	if pos+rawHeader > last {
		return nil, errors.New("a torn batch")
	}
	end := pos + 8 + int(binary.LittleEndian.Uint32(r.data[pos:]))
	if end > last {
		return nil, errors.New("a torn batch")
	}
	b := r.data[pos:end]
	if binary.LittleEndian.Uint32(b[4:]) != crc32.Checksum(b[8:], castagnoli) {
		return nil, errors.New("a batch with a wrong CRC")
	}
	return b, nil
}

// nextRecord returns the record at the beginning of rest, and what follows it.
func nextRecord(rest []byte) (record, after []byte) {
	n := rawPrefix + int(binary.LittleEndian.Uint32(rest))
	return rest[rawPrefix:n], rest[n:]
}

func (r *rawMapping) readAll(owned bool, each func([]byte)) error {
	_, _, err := r.walk(0, r.end, owned, func(record []byte) bool { each(record); return true })
	return err
}

// walk calls each for the records of the batches in [pos, end) until it returns false. It returns
// where it has come to.
func (r *rawMapping) walk(pos, end int, owned bool, each func([]byte) bool) (next int, more bool, err error) {
	for pos < end {
		b, err := r.batch(pos, end)
		if err != nil {
			return pos, false, err
		}
		pos += len(b)
		if owned {
			b = clone(b)
		}
		var record []byte
		for rest := b[rawHeader:]; len(rest) > 0; {
			record, rest = nextRecord(rest)
			if !each(record) {
				return pos, false, nil
			}
		}
	}
	return pos, true, nil
}

func (r *rawMapping) consume(ctx context.Context, each func([]byte) bool) error {
	for pos := 0; ; {
		next, more, err := r.walk(pos, int(r.published.Load()), true, each)
		if err != nil || !more {
			return err
		}
		pos = next
		select {
		case <-r.bell:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (r *rawMapping) readAt(i int) ([]byte, error) {
	entry := func(k int) uint64 { return binary.LittleEndian.Uint64(r.index[k*rawIndexEntry:]) }
	k := sort.Search(len(r.index)/rawIndexEntry, func(k int) bool { return entry(k) > uint64(i) }) - 1
	if k < 0 {
		return nil, errMissing(i)
	}
	b, err := r.batch(int(binary.LittleEndian.Uint64(r.index[k*rawIndexEntry+8:])), r.end)
	if err != nil {
		return nil, err
	}
	rest := b[rawHeader:]
	for skip := uint64(i) - entry(k); skip > 0 && len(rest) > 0; skip-- {
		_, rest = nextRecord(rest)
	}
	if len(rest) == 0 {
		return nil, errMissing(i)
	}
	record, _ := nextRecord(rest)
	return record, nil
}

func (r *rawMapping) close() error {
	if !r.writing {
		return errors.Join(unmapFile(r.index), r.closeFiles())
	}
	_, err := r.indexFile.Write(r.index)
	return errors.Join(err, r.file.Truncate(int64(r.end)), flushData(r.file), flushData(r.indexFile), r.closeFiles())
}

func (r *rawMapping) closeFiles() error {
	var err error
	if r.data != nil {
		err = unmapFile(r.data)
	}
	for _, f := range []*os.File{r.file, r.indexFile} {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return err
}

// rawDurable writes batches to a file, and shares flushes.
type rawDurable struct {
	file *os.File

	mu      sync.Mutex // guards what follows
	flushed sync.Cond
	pos     int64
	begun   int // flushes that have begun
	ended   int // and those that have ended
	busy    bool
	failed  error
	batch   []byte
}

func openRawDurable(s settings) (store, error) {
	f, err := os.Create(filepath.Join(s.dir, "raw"))
	if err != nil {
		return nil, err
	}
	r := &rawDurable{file: f}
	r.flushed.L = &r.mu
	return r, nil
}

func (r *rawDurable) appendOne(record []byte) error { return r.appendMany([][]byte{record}) }

func (r *rawDurable) appendMany(records [][]byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.batch = append(r.batch[:0], make([]byte, rawHeader)...)
	for _, rec := range records {
		r.batch = binary.LittleEndian.AppendUint32(r.batch, uint32(len(rec)))
		r.batch = append(r.batch, make([]byte, rawPrefix-4)...)
		r.batch = append(r.batch, rec...)
	}
	binary.LittleEndian.PutUint32(r.batch, uint32(len(r.batch)-8))
	binary.LittleEndian.PutUint32(r.batch[8:], uint32(len(records)))
	binary.LittleEndian.PutUint32(r.batch[4:], crc32.Checksum(r.batch[8:], castagnoli))
	if _, err := r.file.WriteAt(r.batch, r.pos); err != nil {
		return err
	}
	r.pos += int64(len(r.batch))
	return r.flush()
}

// flush waits for a flush that begins from now on. Whoever finds none running runs it.
func (r *rawDurable) flush() error {
	for need := r.begun + 1; r.ended < need && r.failed == nil; {
		if r.busy {
			r.flushed.Wait()
			continue
		}
		r.busy = true
		r.begun++
		r.mu.Unlock()
		err := flushData(r.file)
		r.mu.Lock()
		r.busy, r.ended = false, r.begun
		if r.failed == nil {
			r.failed = err
		}
		r.flushed.Broadcast()
	}
	return r.failed
}

func (r *rawDurable) send(record []byte) error { return r.appendOne(record) }

func (r *rawDurable) close() error { return r.file.Close() }
