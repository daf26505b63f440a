package riffle

import (
	"encoding/binary"

	"github.com/cespare/xxhash/v2"

	"github.com/rifflelog/riffle/internal/invariants"
)

// The live words of an entry, each 8 bytes and little endian, in the order in
// which they are written:
//
//	0        8            16     24       32       40      48     64
//	+--------+------------+------+--------+--------+-------+------+
//	| owner  | generation | end  | high   | last   | start | 0    |
//	|        |            |      | waterm.| stable |       |      |
//	+--------+------------+------+--------+--------+-------+------+
//
// The owner is a hash of the file's incarnation and of the partition, so words
// that an earlier process or another partition left there are nobody's. It is
// written last, when the others are right, and cleared first.
//
// The generation is odd while the set of the partition's segments changes, and
// when bounds may go back. Each change adds 2; one by which bounds may go back
// adds 2^32 besides.
//
// Otherwise bounds only grow, and are written from the end to the start. Who
// reads them from the start to the end finds start <= last stable <= high
// watermark <= end without a lock: what he reads later is at least as new.
const (
	liveOwner      = 0
	liveGeneration = 8
	liveBounds     = 16
)

// liveWords are a partition's bounds, in the order of the file.
type liveWords [4]uint64

func liveOf(w Bounds) liveWords {
	return liveWords{uint64(w.End), uint64(w.HighWatermark), uint64(w.LastStable), uint64(w.Start)}
}

// boundsOwner is the owner word of a partition, never 0.
func boundsOwner(incarnation uint64, topic [16]byte, partition int32) uint64 {
	data := binary.LittleEndian.AppendUint64(make([]byte, 0, 28), incarnation)
	data = append(data, topic[:]...)
	data = binary.LittleEndian.AppendUint32(data, uint32(partition))
	return max(1, xxhash.Sum64(data))
}

// The words of the header that follow whoever watches the file: one load of each
// tells that nothing has happened.
//
//	64        72       80
//	+---------+--------+
//	| round   | layout |
//	+---------+--------+
//
// The round is another number after anything was published, the layout after a
// partition was shown for the first time, or is no more. Both go on from one
// incarnation to the next.
const (
	liveRound  = 64
	liveLayout = 72
)

// tell lets other processes know that something was published. Two calls at a
// time may store their rounds in any order: each is one that was never there, and
// all that was published before it was drawn can be seen by who sees any. A layout
// that is stored late would be one that was there before, and hide what the other
// call tells of: so it is stored until it is the last one.
func (b *bounds) tell() error {
	for told := false; !told; {
		layout := b.layout.Load()
		if err := b.setHeader(liveLayout, layout); err != nil {
			return err
		}
		told = b.layout.Load() == layout
	}
	return b.setHeader(liveRound, b.round.Add(1))
}

func (b *bounds) setHeader(at int64, word uint64) error {
	if b.head != nil {
		return b.head.Store(int(at), word)
	}
	var buf [8]byte
	binary.LittleEndian.PutUint64(buf[:], word)
	_, err := b.file.WriteAt(buf[:], at)
	return err
}

// publish lets other processes see the partition's bounds. Called under the
// partition's lock; tell follows. They may go back only between beginChange and
// endChange. After an error other processes see nothing, or old ones, until the
// next call.
func (e *boundsEntry) publish(w Bounds) error {
	err := e.writeLive(liveOf(w))
	if err != nil {
		e.hide()
	}
	return err
}

// hide has the partition shown anew: what is there may not fit together.
func (e *boundsEntry) hide() {
	e.shown = false
	_ = e.setWord(liveOwner, 0) // show clears it too
}

func (e *boundsEntry) writeLive(next liveWords) error {
	if !e.shown {
		return e.show(next)
	}
	if e.m == nil {
		return e.writeBounds(next)
	}
	for i, word := range next {
		// Most calls change two or three. Each store is one step by itself.
		if word == e.live[i] {
			continue
		}
		if err := e.m.Store(e.at+liveBounds+8*i, word); err != nil {
			return err
		}
		e.live[i] = word
	}
	return nil
}

// show publishes for the first time.
func (e *boundsEntry) show(w liveWords) error {
	if err := e.setWord(liveOwner, 0); err != nil {
		return err
	}
	for i, word := range w {
		if err := e.setWord(liveBounds+8*i, word); err != nil {
			return err
		}
	}
	err := e.setWord(liveGeneration, e.generation)
	if err == nil {
		err = e.setWord(liveOwner, boundsOwner(e.b.incarnation, e.key.topic, e.key.partition))
	}
	if err != nil {
		return err
	}
	e.live, e.shown = w, true
	e.b.layout.Add(1)
	return nil
}

// writeBounds writes all bounds at once, where they are not mapped: one system
// call costs more than the words. A reader that sees them half written finds
// them out of order, or bounds that were true one by one.
func (e *boundsEntry) writeBounds(w liveWords) error {
	if w == e.live {
		return nil
	}
	for i, word := range w {
		binary.LittleEndian.PutUint64(e.buf[8*i:], word)
	}
	if _, err := e.b.file.WriteAt(e.buf[:], e.off+liveBounds); err != nil {
		return err
	}
	e.live = w
	return nil
}

// liveBack is what a change adds to the generation by which bounds may go back.
const liveBack = 1 << 32

// beginChange tells other processes that the set of segments begins to change, or
// bounds to go back; endChange, that they are as they find them. Called under the
// partition's lock.
func (e *boundsEntry) beginChange(back bool) error {
	if back {
		e.generation += liveBack
	}
	return e.nextGeneration(1)
}

func (e *boundsEntry) endChange() error { return e.nextGeneration(0) }

func (e *boundsEntry) nextGeneration(odd uint64) error {
	invariants.Check(e.generation%2 != odd, "generation %d, next odd: %d", e.generation, odd)
	e.generation++
	if !e.shown {
		return nil // show writes it
	}
	err := e.setWord(liveGeneration, e.generation)
	if err != nil {
		e.hide()
	}
	return err
}

// setWord writes one live word.
func (e *boundsEntry) setWord(at int, word uint64) error {
	if e.m != nil {
		return e.m.Store(e.at+at, word)
	}
	var buf [8]byte
	binary.LittleEndian.PutUint64(buf[:], word)
	_, err := e.b.file.WriteAt(buf[:], e.off+int64(at))
	return err
}

// readLive reads the live words of an entry as another process does: load reads
// the word at a place in the entry. If ok is false, the partition is not shown
// there, or its segments are changing, or it is worth another try.
func readLive(load func(at int) (uint64, error), owner uint64) (w Bounds, generation uint64, ok bool, err error) {
	places := [...]int{
		liveOwner, liveGeneration, // before the bounds
		liveBounds + 24, liveBounds + 16, liveBounds + 8, liveBounds, // from start to end
		liveGeneration, liveOwner, // and after them
	}
	var v [len(places)]uint64
	for i, at := range places {
		if v[i], err = load(at); err != nil {
			return Bounds{}, 0, false, err
		}
	}
	w = Bounds{Start: Offset(v[2]), LastStable: Offset(v[3]), HighWatermark: Offset(v[4]), End: Offset(v[5])}
	ok = v[0] == owner && v[7] == owner && v[1] == v[6] && v[1]%2 == 0 &&
		0 <= w.Start && w.Start <= w.LastStable && w.LastStable <= w.HighWatermark && w.HighWatermark <= w.End
	return w, v[1], ok, nil
}
