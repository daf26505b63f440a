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
// when bounds may go back.
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

// publish lets other processes see the partition's bounds. Called under the
// partition's lock. They may go back only between beginChange and endChange. An
// error means that other processes see old ones.
func (e *boundsEntry) publish(w Bounds) error {
	next := liveOf(w)
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

// beginChange tells other processes that the set of segments begins to change;
// endChange, that it is as they find it. Called under the partition's lock.
func (e *boundsEntry) beginChange() error { return e.nextGeneration(1) }

func (e *boundsEntry) endChange() error { return e.nextGeneration(0) }

func (e *boundsEntry) nextGeneration(odd uint64) error {
	invariants.Check(e.generation%2 != odd, "generation %d, next odd: %d", e.generation, odd)
	e.generation++
	if !e.shown {
		return nil // show writes it
	}
	return e.setWord(liveGeneration, e.generation)
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
