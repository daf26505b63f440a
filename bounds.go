package riffle

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"

	"github.com/rifflelog/riffle/internal/invariants"
	"github.com/rifflelog/riffle/internal/vfs"
)

// The places at which the file of bounds is made durable and checked. What
// depends on a slot being durable has a site of its own, which it gives to
// sync.
const (
	siteBoundsDir   vfs.Site = "bounds.create.syncdir" // of the file's name
	siteBoundsOpen  vfs.Site = "bounds.open.flush"     // before what was found is believed
	siteBoundsFlush vfs.Site = "bounds.flush"          // of slots, where there is no narrower reason
	siteBoundsCheck vfs.Site = "bounds.check"          // of each slot
)

const (
	boundsName    = "bounds"
	boundsVersion = 1

	boundsHeaderSize = 4096 // a page of its own
	boundsEntrySize  = 256
	boundsSlotSize   = 96
	boundsSlots      = 64 // where in an entry the first of its two slots is

	// boundsGrow is the smallest size of the file: 240 partitions. It doubles
	// from there, so that there are few mappings.
	boundsGrow = vfs.PageSize
	// maxBoundsSize bounds what a damaged file can make us read and keep: room
	// for a million partitions.
	maxBoundsSize = 256 << 20
)

// crashPart is what is known of a partition after a crash. Each field was true
// on the disk before it was written here, so a version that is too old is still
// true, if it was not taken back: see setCrash.
type crashPart struct {
	start   Offset // the log start offset, at least
	flushed Offset // all before it was flushed: the recovery point
	ceiling Offset // no offset at or beyond it was ever given to a record
	clean   bool   // the partition was closed and everything flushed: nothing is to be scanned
	failed  bool   // a flush failed or a truncation began, so what can be read may not be on the disk

	// sameBoot is set on reading: it was written since the machine started, by
	// a process that had recovered the partition. What was written to the
	// partition's files since then can still be read.
	sameBoot bool
}

// bounds is the file that keeps the bounds of all partitions: for each, the live
// words, which other processes follow, and the crash part, which recovery
// believes. It is safe for concurrent use.
//
// The entry of a partition:
//
//	0        64           160          256
//	+--------+------------+------------+
//	| live   | slot 0     | slot 1     |
//	| words  |            |            |
//	+--------+------------+------------+
//
// # Why two slots, and why they are side by side
//
// A flush may be cut short by a crash, and the kernel may write a page back at
// any time, also while a slot is half copied into it: so the slot being written
// may come to the disk torn. Its checksum shows that, and the other slot, which
// is not touched, has the version before. That one is always durable: a slot is
// only written to once the other one has been flushed. So whatever is on the
// disk, the newest slot that is whole was durable last, or is newer.
//
// A disk writes sectors of 512 bytes as a whole. An entry never straddles two,
// so a sector is two entries of some one moment between flushes, each with its
// last durable slot: who shares the sector loses nothing. If a sector is lost
// altogether, which is beyond what a crash does, then both slots of a partition
// go together. That is on purpose. In sectors of their own the newer one could
// be lost alone, and the older would be believed: a partition that was closed
// cleanly once, at a ceiling long passed. Nothing known is better than that.
//
// For the same reason a bad slot beside a good one, which may be a torn write
// or a durable one that has rotted, casts doubt on what would be dangerous: the
// good one is then not clean, and has failed.
//
// # Who has which entry
//
// A slot says of which partition it is, so nothing else has to be kept: an entry
// without a good slot is free, one that is used again goes on counting its
// versions.
type bounds struct {
	fs          vfs.FS
	file        vfs.File
	dir         string
	mapWrites   bool
	incarnation uint64 // random, of this open file
	boot        uint64 // hash of the boot id; 0 if that is unknown

	// turn is held by whoever writes to the file, or changes what follows. It
	// is a channel, since it is waited for while the disk is flushed.
	turn chan struct{}
	maps []boundsMap
	head vfs.Mapping // of the header; nil if words are written with WriteAt
	size int64       // of the file; entries beyond next were never used
	next int64       // where the first of those is
	free []freeEntry // before next

	// mu guards entries, pending and what an entry says it guards. It is the
	// last lock to be taken, and nothing waits under it.
	mu      sync.Mutex
	entries map[boundsKey]*boundsEntry
	pending []*boundsEntry // set since they were written last, once each
	flushes int64          // by sync

	round, layout atomic.Uint64 // see tell
}

// boundsKey names a partition for good: a topic of the same name made later has
// another id.
type boundsKey struct {
	topic     [16]byte
	partition int32
}

// boundsMap is a mapping of a part of the file.
type boundsMap struct {
	vfs.Mapping
	off int64
}

// freeEntry is an entry that may be given to another partition.
type freeEntry struct {
	off  int64
	slot slotState
}

// slotState says which version of an entry is durable.
type slotState struct {
	seq   uint64 // its number, from 1; 0 if there is none
	index int    // the slot that it is in
}

// openBounds opens the file in dir, or makes it. What it returns is durable. The
// caller holds the log's lock. If it is damaged, what is lost is unknown, no
// more; ErrUnsupported if a later version wrote it.
func openBounds(fsys vfs.FS, dir, bootID string) (*bounds, error) {
	return openBoundsAs(fsys, dir, bootID, rand.Uint64())
}

func openBoundsAs(fsys vfs.FS, dir, bootID string, incarnation uint64) (*bounds, error) {
	space, err := fsys.Space(dir)
	if err != nil {
		return nil, err
	}
	name := filepath.Join(dir, boundsName)
	file, err := fsys.OpenWrite(name)
	if errors.Is(err, fs.ErrNotExist) {
		file, err = fsys.Create(name)
	}
	if err != nil {
		return nil, err
	}
	b := &bounds{
		fs: fsys, file: file, dir: dir, mapWrites: space.MapWrites,
		incarnation: incarnation, boot: hashBootID(bootID),
		turn: make(chan struct{}, 1), entries: make(map[boundsKey]*boundsEntry), next: boundsHeaderSize,
	}
	if err := b.load(); err != nil {
		return nil, fmt.Errorf("load %s: %w", name, errors.Join(err, b.close()))
	}
	return b, nil
}

func hashBootID(id string) uint64 {
	if id == "" {
		return 0
	}
	return xxhash.Sum64String(id)
}

// load reads the file and makes it this incarnation's.
//
// Step by step, and what would go wrong otherwise: (1) read the slots. (2) Write
// all of it over itself, and flush it: an earlier process may have been killed
// before its flush, or its flush may have failed, so a slot that can be read may
// not be on the disk, and the next power cut would take back what somebody
// relied on meanwhile, such as a ceiling. The header goes with it: nothing
// durable depends on it. (3) Map the file. (4) Flush the file's name, unless a
// slot was found, which was not written before the name was durable.
func (b *bounds) load() error {
	size, err := b.file.Size()
	if err != nil {
		return err
	}
	head := make([]byte, boundsHeaderSize)
	if _, err := b.file.ReadAt(head[:min(size, boundsHeaderSize)], 0); err != nil {
		return err
	}
	if h, ok := parseBoundsHeader(head); ok && h.version != boundsVersion {
		return fmt.Errorf("%w: version %d, this one reads %d", errors.ErrUnsupported, h.version, boundsVersion)
	}
	size = min(size, maxBoundsSize)
	if err := b.scan(size); err != nil {
		return err
	}
	had := size
	size = max(boundsGrow, (size+vfs.PageSize-1)/vfs.PageSize*vfs.PageSize)
	// Also if it is long enough: a copy of a directory may have holes. XFS wants
	// free space for it even if there are none; on a full disk nothing is stored
	// through a mapping then, since there may be.
	err = b.file.Allocate(0, size)
	if errors.Is(err, vfs.ErrNoSpace) && had == size {
		b.mapWrites = false
	} else if err != nil {
		return err
	}
	b.round.Store(binary.LittleEndian.Uint64(head[liveRound:]))
	b.layout.Store(binary.LittleEndian.Uint64(head[liveLayout:]))
	copy(head, formatBoundsHeader(boundsHeader{boundsVersion, b.incarnation, b.boot}))
	if _, err := b.file.WriteAt(head[:boundsHeadEnd], 0); err != nil {
		return err
	}
	if b.next > boundsHeaderSize {
		if err := rewrite(b.file, boundsHeaderSize, b.next); err != nil {
			return err
		}
		if err := b.file.Sync(siteBoundsOpen); err != nil {
			return err
		}
	}
	if b.mapMore(0, size); len(b.maps) > 0 {
		b.head = b.maps[0].Mapping
	}
	for _, e := range b.entries {
		b.place(e)
	}
	if len(b.entries) > 0 {
		return nil
	}
	return b.fs.SyncDir(siteBoundsDir, b.dir)
}

// scan reads the entries of a file of the given size.
func (b *bounds) scan(size int64) error {
	return eachPiece(b.file, boundsHeaderSize, size, func(piece []byte, pos int64) error {
		for i := 0; i+boundsEntrySize <= len(piece); i += boundsEntrySize {
			if e := b.parseEntry(piece[i:i+boundsEntrySize], pos+int64(i)); e != nil {
				b.found(e)
			}
		}
		return nil
	})
}

// found takes in the entry of a partition, and the ones before it that are
// nobody's.
func (b *bounds) found(e *boundsEntry) {
	for ; b.next < e.off; b.next += boundsEntrySize {
		b.free = append(b.free, freeEntry{off: b.next})
	}
	b.next = e.off + boundsEntrySize
	if other := b.entries[e.key]; other != nil {
		// We never make two, so one of them was copied there. Which one holds
		// is not to be known.
		other.part, other.known = crashPart{}, false
		b.free = append(b.free, freeEntry{e.off, e.durable})
		return
	}
	b.entries[e.key] = e
}

// parseEntry returns the entry at off; nil if no slot of it is good.
func (b *bounds) parseEntry(data []byte, off int64) *boundsEntry {
	e := &boundsEntry{b: b, off: off, known: true}
	bad := false
	for i := range 2 {
		data := data[boundsSlots+i*boundsSlotSize:][:boundsSlotSize]
		if allZero(data) {
			continue // never written
		}
		s, ok := parseSlot(data)
		if !b.fs.Check(siteBoundsCheck, ok) {
			bad = true
			continue
		}
		if s.seq > e.durable.seq {
			e.key, e.part = s.key, s.part
			e.part.sameBoot = s.boot != 0 && s.boot == b.boot
			e.durable = slotState{s.seq, i}
		}
	}
	if e.durable.seq == 0 {
		return nil
	}
	if bad {
		e.part.clean, e.part.failed = false, true
	}
	return e
}

// mapMore maps [off, off+n) of the file, if mapped writing is safe here. Where
// it cannot be mapped, live words are written with WriteAt.
func (b *bounds) mapMore(off, n int64) {
	if b.mapWrites {
		if m, err := b.file.Map(off, int(n), true); err == nil {
			b.maps = append(b.maps, boundsMap{m, off})
		}
	}
	b.size = off + n
}

// place gives e the mapping that it is in.
func (b *bounds) place(e *boundsEntry) {
	for _, m := range b.maps {
		if e.off >= m.off && e.off < m.off+int64(m.Len()) {
			e.m, e.at = m.Mapping, int(e.off-m.off)
		}
	}
}

// slotFor returns the entry of a partition and its newest version. If known is
// false there is none: the partition is new, or both of its slots were bad. A
// new entry becomes the partition's on the disk with the first setCrash and
// sync. It may wait for a flush and for the file to grow: ErrNoSpace.
func (b *bounds) slotFor(topic [16]byte, partition int32) (e *boundsEntry, part crashPart, known bool, err error) {
	b.turn <- struct{}{}
	defer func() { <-b.turn }()
	key := boundsKey{topic, partition}
	if e, part, known := b.lookup(key); e != nil {
		return e, part, known, nil
	}
	if len(b.free) == 0 && b.next == b.size {
		if err := b.grow(); err != nil {
			return nil, crashPart{}, false, err
		}
	}
	e = &boundsEntry{b: b, key: key}
	if n := len(b.free); n > 0 {
		e.off, e.durable = b.free[n-1].off, b.free[n-1].slot
		b.free = b.free[:n-1]
	} else {
		e.off = b.next
		b.next += boundsEntrySize
	}
	b.place(e)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.entries[key] = e
	return e, crashPart{}, false, nil
}

func (b *bounds) lookup(key boundsKey) (e *boundsEntry, part crashPart, known bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e = b.entries[key]; e != nil {
		part, known = e.part, e.known
	}
	return e, part, known
}

// grow doubles the file. It needs no flush: the flush of the first slot in the
// new space covers the size too. The caller holds the turn.
func (b *bounds) grow() error {
	if b.size >= maxBoundsSize {
		return fmt.Errorf("%s has no room for another partition: %d bytes is its limit", b.file.Name(), maxBoundsSize)
	}
	n := min(b.size, maxBoundsSize-b.size)
	if err := b.file.Allocate(b.size, n); err != nil {
		return err
	}
	b.mapMore(b.size, n)
	return nil
}

// sync makes durable all that was set before the call. One flush serves all who
// wait for one. After an error the versions before are still there, what was set
// may be there or not, and the next sync writes it again. It must not be called
// with a lock held.
func (b *bounds) sync(site vfs.Site) error {
	b.turn <- struct{}{}
	defer func() { <-b.turn }()
	b.mu.Lock()
	writing := b.pending
	b.pending = nil
	slots := make([][boundsSlotSize]byte, len(writing))
	for i, e := range writing {
		e.pending = false
		slots[i] = formatSlot(slot{e.durable.seq + 1, e.key, e.part, b.boot})
	}
	b.mu.Unlock()
	if len(writing) == 0 {
		return nil // whoever had the turn before has flushed it
	}
	err := b.write(writing, slots, site)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.flushes++
	for _, e := range writing {
		if err != nil {
			b.setPending(e)
		} else {
			e.durable = slotState{e.durable.seq + 1, 1 - e.durable.index}
		}
	}
	return err
}

// write writes each entry's slot over the one that is not its last durable one,
// which nobody else changes while the caller has the turn, and flushes.
func (b *bounds) write(entries []*boundsEntry, slots [][boundsSlotSize]byte, site vfs.Site) error {
	for i, e := range entries {
		off := e.off + boundsSlots + int64(1-e.durable.index)*boundsSlotSize
		if _, err := b.file.WriteAt(slots[i][:], off); err != nil {
			return err
		}
	}
	return b.file.Sync(site)
}

// flushCount returns how often sync has flushed the file.
func (b *bounds) flushCount() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.flushes
}

// setPending has the next sync write e. Called under mu.
func (b *bounds) setPending(e *boundsEntry) {
	if !e.pending {
		e.pending = true
		b.pending = append(b.pending, e)
	}
}

// retain gives up the entries that keep does not want: after opening, those of
// topics that are gone.
func (b *bounds) retain(keep func(topic [16]byte, partition int32) bool) error {
	b.mu.Lock()
	var gone []*boundsEntry
	for key, e := range b.entries {
		if !keep(key.topic, key.partition) {
			gone = append(gone, e)
		}
	}
	b.mu.Unlock()
	slices.SortFunc(gone, func(x, y *boundsEntry) int { return cmp.Compare(y.off, x.off) }) // the first is used again first
	var errs []error
	for _, e := range gone {
		errs = append(errs, b.remove(e))
	}
	return errors.Join(errs...)
}

// remove gives up the entry of a partition whose deletion is durable. Nothing
// may be done with e any more. What is on the disk stays until another partition
// gets the entry. The error is of telling other processes.
func (b *bounds) remove(e *boundsEntry) error {
	b.turn <- struct{}{} // no sync is writing it
	defer func() { <-b.turn }()
	b.mu.Lock()
	delete(b.entries, e.key)
	b.pending = slices.DeleteFunc(b.pending, func(p *boundsEntry) bool { return p == e })
	b.mu.Unlock()
	b.free = append(b.free, freeEntry{e.off, e.durable})
	err := e.setWord(liveOwner, 0)
	b.layout.Add(1)
	return errors.Join(err, b.tell())
}

// close closes the file. Nothing may be running or follow. What was set and not
// flushed is lost.
func (b *bounds) close() error {
	var errs []error
	for _, m := range b.maps {
		errs = append(errs, m.Unmap())
	}
	return errors.Join(append(errs, b.file.Close())...)
}

// boundsEntry is a partition's place in the file.
type boundsEntry struct {
	b   *bounds
	key boundsKey
	off int64       // in the file
	m   vfs.Mapping // nil if live words are written with WriteAt
	at  int         // in m

	// durable is the version on the disk. Changed under both the turn and mu.
	durable slotState
	part    crashPart // as set last. Guarded by mu
	known   bool      // part was found in the file, or set. Guarded by mu
	pending bool      // it is in bounds.pending. Guarded by mu

	// What the live words are, for whoever holds the partition's lock.
	shown      bool // they are this incarnation's
	live       liveWords
	generation uint64
	buf        [8 * len(liveWords{})]byte // for writeBounds
}

// setCrash notes what is true of the partition from now on. It is on the disk
// when a sync that began later has returned; until then, and after a crash, the
// version before may be what is found. So what is set must already be durable
// itself; and a caller that takes something back (clears clean, lowers flushed
// to truncate, sets failed) must sync before it does what makes the version
// before untrue. The same holds for what he relies on: a higher ceiling or start.
func (e *boundsEntry) setCrash(p crashPart) {
	invariants.Check(p.start >= 0 && p.flushed >= 0 && p.ceiling >= 0, "negative bounds: %+v", p)
	p.sameBoot = e.b.boot != 0
	e.b.mu.Lock()
	defer e.b.mu.Unlock()
	if e.b.entries[e.key] != e {
		return // removed: the place may be another partition's
	}
	e.part, e.known = p, true
	e.b.setPending(e)
}

// slot is one version of an entry's crash part.
//
//	0        8               24     28  29  30  32
//	+--------+---------------+------+---+---+---+
//	| seq    | topic id      | part.| 1 |flg| 0 |
//	+--------+---------------+------+---+---+---+
//	32       40       48       56     64    88       96
//	+--------+--------+--------+------+-----+--------+
//	| start  | flushed| ceiling| boot | 0   | hash   |
//	+--------+--------+--------+------+-----+--------+
//
// Little endian. The hash is xxhash64 of what is before it.
type slot struct {
	seq  uint64 // from 1: zeros are no slot
	key  boundsKey
	part crashPart
	boot uint64
}

const (
	slotClean  = 1 << 0
	slotFailed = 1 << 1
)

func formatSlot(s slot) (data [boundsSlotSize]byte) {
	le := binary.LittleEndian
	le.PutUint64(data[0:], s.seq)
	copy(data[8:], s.key.topic[:])
	le.PutUint32(data[24:], uint32(s.key.partition))
	data[28] = boundsVersion
	if s.part.clean {
		data[29] |= slotClean
	}
	if s.part.failed {
		data[29] |= slotFailed
	}
	le.PutUint64(data[32:], uint64(s.part.start))
	le.PutUint64(data[40:], uint64(s.part.flushed))
	le.PutUint64(data[48:], uint64(s.part.ceiling))
	le.PutUint64(data[56:], s.boot)
	le.PutUint64(data[88:], xxhash.Sum64(data[:88]))
	return data
}

// parseSlot reads a slot. It is good if it is, byte for byte, one that
// formatSlot writes.
func parseSlot(data []byte) (s slot, ok bool) {
	le := binary.LittleEndian
	s = slot{
		seq: le.Uint64(data[0:]),
		key: boundsKey{[16]byte(data[8:24]), int32(le.Uint32(data[24:]))},
		part: crashPart{
			start: Offset(le.Uint64(data[32:])), flushed: Offset(le.Uint64(data[40:])), ceiling: Offset(le.Uint64(data[48:])),
			clean: data[29]&slotClean != 0, failed: data[29]&slotFailed != 0,
		},
		boot: le.Uint64(data[56:]),
	}
	p := s.part
	ok = s.seq > 0 && s.key.partition >= 0 && p.start >= 0 && p.flushed >= 0 && p.ceiling >= 0
	return s, ok && formatSlot(s) == [boundsSlotSize]byte(data)
}

// boundsHeader says whose the live words are.
//
//	0          8       12      16            24     32     40
//	+----------+-------+-------+-------------+------+------+
//	| rflbound | 1     | 0     | incarnation | boot | hash |
//	+----------+-------+-------+-------------+------+------+
//
// Little endian; up to 4096 zeros, but for the words of tell. The hash is xxhash64 of what is before it,
// boot that of the boot id, 0 if that is unknown. A header that a crash has torn
// does no harm: it is another boot then, and slots have a version and a boot of
// their own.
type boundsHeader struct {
	version     uint32
	incarnation uint64
	boot        uint64
}

const (
	boundsMagic   = "rflbound"
	boundsHeadEnd = 40
)

func formatBoundsHeader(h boundsHeader) []byte {
	le := binary.LittleEndian
	data := append(make([]byte, 0, boundsHeadEnd), boundsMagic...)
	data = le.AppendUint64(data, uint64(h.version))
	data = le.AppendUint64(data, h.incarnation)
	data = le.AppendUint64(data, h.boot)
	return le.AppendUint64(data, xxhash.Sum64(data))
}

func parseBoundsHeader(data []byte) (h boundsHeader, ok bool) {
	le := binary.LittleEndian
	h = boundsHeader{le.Uint32(data[8:]), le.Uint64(data[16:]), le.Uint64(data[24:])}
	return h, string(formatBoundsHeader(h)) == string(data[:boundsHeadEnd])
}
