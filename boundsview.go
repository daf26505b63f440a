package riffle

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"sync"

	"github.com/rifflelog/riffle/internal/vfs"
)

// boundsView is the file of bounds as another process sees it: never written, and
// read while the writer writes. It is safe for concurrent use.
//
// # What it believes
//
// Live words are of the writer whose incarnation the header has. They are right as
// long as the machine runs, also when that writer is dead: what it had written to
// the partition can still be read. After a restart of the machine they mean
// nothing; then the slots say what was flushed, and all that is found in the
// partitions' files came from the disk, since who opens the log for writing
// changes the header before anything else.
//
// Where the system does not tell one boot from another, nothing is believed but
// the slots, until the header or the round is seen to change: then its writer has
// been running meanwhile.
type boundsView struct {
	fs   vfs.FS
	name string
	boot uint64

	mu     sync.Mutex // guards what follows
	file   vfs.File   // nil while there is none
	closed bool
	maps   []boundsMap
	size   int64 // that maps cover, or that could not be mapped
	head   viewHead
	// first is what was seen first, and moved that something else was seen since.
	first viewHead
	moved bool
	index viewIndex
}

// viewHead says how new a view is. Two that are equal show the same.
type viewHead struct {
	trust              viewTrust
	incarnation, round uint64
}

// viewTrust is what may be believed.
type viewTrust int

const (
	trustSlots viewTrust = iota // and nothing else
	trustLive                   // also live words of the header's incarnation
	trustDisk                   // slots, and what the partitions' files hold
)

// viewIndex says where in the file what is, as of an incarnation and a layout.
type viewIndex struct {
	valid               bool
	incarnation, layout uint64
	owners              map[uint64]int64    // where an owner's words are
	slots               map[boundsKey]int64 // where a partition's slots are
}

// viewEntry is what the file says of a partition.
type viewEntry struct {
	head  viewHead
	part  crashPart // all zeros if nothing is known
	shown bool      // words are there, and settled
	owned bool      // words are there; if they are not shown, they are changing

	words      Bounds
	generation uint64
}

func newBoundsView(fsys vfs.FS, dir string) *boundsView {
	return &boundsView{fs: fsys, name: filepath.Join(dir, boundsName), boot: hashBootID(fsys.BootID())}
}

// open opens the file, if there is one by now.
func (v *boundsView) open() error {
	switch {
	case v.closed:
		return fs.ErrClosed
	case v.file != nil:
		return nil
	}
	file, err := v.fs.Open(v.name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	v.file = file
	return err
}

// close closes the file. What follows is fs.ErrClosed.
func (v *boundsView) close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.closed = true
	var errs []error
	for _, m := range v.maps {
		errs = append(errs, m.Unmap())
	}
	if v.file != nil {
		errs = append(errs, v.file.Close())
	}
	return errors.Join(errs...)
}

// look returns how new the view is now. If nothing has happened, that is two loads.
func (v *boundsView) look() (viewHead, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.open(); err != nil {
		return viewHead{}, err
	}
	if v.file == nil {
		// A copy of a directory: its writer would have made the file.
		v.head = viewHead{trust: trustDisk}
		return v.head, nil
	}
	now, err := v.readHead()
	if err != nil {
		return viewHead{}, err
	}
	if v.first == (viewHead{}) {
		v.first = now
	}
	v.moved = v.moved || now.incarnation != v.first.incarnation || now.round != v.first.round
	if now.trust == trustSlots && v.moved {
		now.trust = trustLive
	}
	v.head = now
	return now, nil
}

// maxViewTries is how often the same is read until nobody writes it meanwhile.
const maxViewTries = 100

// readHead reads incarnation and round, and the header if that is another one. One
// that stays damaged has nothing to follow: slots have a hash of their own.
func (v *boundsView) readHead() (now viewHead, err error) {
	now.trust = v.head.trust
	for range maxViewTries {
		if now.incarnation, err = v.load(16); err != nil {
			break
		}
		if now.round, err = v.load(liveRound); err != nil {
			break
		}
		if now.incarnation == v.head.incarnation && v.index.valid {
			return now, nil
		}
		var head [boundsHeaderSize]byte
		if _, err = v.file.ReadAt(head[:boundsHeadEnd], 0); err != nil {
			break
		}
		if h, ok := parseBoundsHeader(head[:]); ok && h.incarnation == now.incarnation {
			if h.version != boundsVersion {
				return now, fmt.Errorf("%s: %w: version %d, this one reads %d", v.name, errors.ErrUnsupported, h.version, boundsVersion)
			}
			now.trust = v.trustIn(h)
			return now, nil
		}
	}
	if errors.Is(err, io.EOF) || errors.Is(err, vfs.ErrFault) {
		err = nil // it is being made
	}
	now.trust = trustSlots
	return now, err
}

func (v *boundsView) trustIn(h boundsHeader) viewTrust {
	switch {
	case h.boot == 0 || v.boot == 0:
		return trustSlots
	case h.boot == v.boot:
		return trustLive
	}
	return trustDisk
}

// load reads the word at a place in the file: from memory in one step, where that
// is possible. Bytes of words must not be read otherwise.
func (v *boundsView) load(off int64) (uint64, error) {
	if off+8 > v.size {
		v.mapMore()
	}
	for _, m := range v.maps {
		if off >= m.off && off < m.off+int64(m.Len()) {
			return m.Load(int(off - m.off))
		}
	}
	var buf [8]byte
	_, err := v.file.ReadAt(buf[:], off)
	return binary.LittleEndian.Uint64(buf[:]), err
}

// mapMore maps what the file has grown by.
func (v *boundsView) mapMore() {
	size, err := v.file.Size()
	size = min(size, maxBoundsSize) / vfs.PageSize * vfs.PageSize
	if err != nil || size <= v.size {
		return
	}
	if m, err := v.file.Map(v.size, int(size-v.size), false); err == nil {
		v.maps = append(v.maps, boundsMap{m, v.size})
	}
	v.size = size
}

// entry returns what the file says of a partition.
func (v *boundsView) entry(key boundsKey) (e viewEntry, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	e.head = v.head
	switch {
	case v.closed:
		return e, fs.ErrClosed
	case v.file == nil:
		return e, nil
	}
	if err := v.updateIndex(); err != nil {
		return e, err
	}
	if off, ok := v.index.slots[key]; ok {
		of, part, err := v.readSlots(off)
		if err != nil {
			return e, err
		}
		if of == key { // else it has become another partition's since
			e.part = part
		}
	}
	owner := boundsOwner(v.index.incarnation, key.topic, key.partition)
	off, ok := v.index.owners[owner]
	if !ok || v.head.trust != trustLive {
		return e, nil
	}
	e.owned = true
	e.words, e.generation, e.shown, err = v.words(off, owner)
	return e, err
}

// words reads live words until they are found the same twice: where they are not
// stored in one step, that shows that none was half written.
func (v *boundsView) words(off int64, owner uint64) (w Bounds, generation uint64, ok bool, err error) {
	load := func(at int) (uint64, error) { return v.load(off + int64(at)) }
	for range maxViewTries {
		w, generation, ok, err = readLive(load, owner)
		if err != nil || !ok {
			continue
		}
		again, g, ok, err := readLive(load, owner)
		if err == nil && ok && again == w && g == generation {
			return w, generation, true, nil
		}
	}
	return Bounds{}, 0, false, err
}

// updateIndex looks for what there is, if that may have changed.
func (v *boundsView) updateIndex() error {
	layout, err := v.load(liveLayout)
	if err != nil {
		return v.unlessShort(err)
	}
	if x := &v.index; x.valid && x.layout == layout && x.incarnation == v.head.incarnation {
		return nil
	}
	x := viewIndex{
		valid: true, incarnation: v.head.incarnation, layout: layout,
		owners: make(map[uint64]int64), slots: make(map[boundsKey]int64),
	}
	size, err := v.file.Size()
	if err != nil {
		return err
	}
	for off := int64(boundsHeaderSize); off+boundsEntrySize <= min(size, maxBoundsSize); off += boundsEntrySize {
		owner, err := v.load(off + liveOwner)
		if err != nil {
			return v.unlessShort(err)
		}
		if owner != 0 {
			x.owners[owner] = off
		}
		key, _, err := v.readSlots(off)
		if err != nil {
			return v.unlessShort(err)
		}
		if key != (boundsKey{}) {
			x.slots[key] = off
		}
	}
	v.index = x
	return nil
}

// unlessShort returns err unless it says that the file is still being made.
func (v *boundsView) unlessShort(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, vfs.ErrFault) {
		return nil
	}
	return err
}

// readSlots returns the newest good slot of an entry, and whose it is; nobody's if
// there is none. A slot that is being written is a bad one, beside a good one.
func (v *boundsView) readSlots(off int64) (key boundsKey, part crashPart, err error) {
	var data [2 * boundsSlotSize]byte
	if _, err := v.file.ReadAt(data[:], off+boundsSlots); err != nil {
		return key, part, err
	}
	newest := uint64(0)
	for i := range 2 {
		s, ok := parseSlot(data[i*boundsSlotSize:][:boundsSlotSize])
		if ok && s.seq > newest {
			newest, key, part = s.seq, s.key, s.part
		}
	}
	return key, part, nil
}
