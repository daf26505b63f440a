package riffle

import "sort"

// maxUndone is how many records of a partition may be handed out beyond the first that is
// not done: what is remembered of them takes 16 bytes each.
const maxUndone = 100_000

// undone remembers, for MarkDone, which of the records that were handed out are done. It is
// guarded by the consumer's lock; a nil one remembers nothing.
type undone struct {
	list  []handedOut // by offset, behind the longest prefix that is done
	next  Offset      // after that prefix; NoOffset if nothing is done yet
	epoch int32       // of its last record
}

type handedOut struct {
	offset Offset
	epoch  int32
	done   bool
}

// reset forgets everything.
func (u *undone) reset() {
	if u != nil {
		*u = undone{next: NoOffset}
	}
}

// room is how many records may be handed out.
func (u *undone) room() int {
	if u == nil {
		return maxUndone
	}
	return maxUndone - len(u.list)
}

// add takes note of records that are handed out.
func (u *undone) add(recs []Record) {
	for i := range recs {
		u.list = append(u.list, handedOut{recs[i].Offset, recs[i].LeaderEpoch, false})
	}
}

// takeBack forgets the records from offset o on: they are handed out again.
func (u *undone) takeBack(o Offset) {
	if u != nil {
		u.list = u.list[:u.search(o)]
	}
}

// committed takes note that all before offset o is committed, and so is done.
func (u *undone) committed(o Offset, epoch int32) {
	if u != nil && o > u.next {
		u.list = u.list[u.search(o):]
		u.next, u.epoch = o, epoch
		u.pass()
	}
}

// search returns the place of the first record from offset o on.
func (u *undone) search(o Offset) int {
	return sort.Search(len(u.list), func(i int) bool { return u.list[i].offset >= o })
}

// done takes note that a record is done. One that is not known was handed out before a
// Seek, or before its partition was another member's.
func (u *undone) done(o Offset) {
	i := u.search(o)
	if i == len(u.list) || u.list[i].offset != o {
		return
	}
	u.list[i].done = true
	u.pass()
}

// pass goes behind the longest prefix that is done.
func (u *undone) pass() {
	n := 0
	for n < len(u.list) && u.list[n].done {
		u.next, u.epoch = u.list[n].offset+1, u.list[n].epoch
		n++
	}
	if u.list = u.list[n:]; len(u.list) == 0 {
		u.list = nil
	}
}
