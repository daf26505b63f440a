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

// done takes note that a record is done. One that is not known was handed out before a
// Seek, or before its partition was another member's.
func (u *undone) done(o Offset) {
	i := sort.Search(len(u.list), func(i int) bool { return u.list[i].offset >= o })
	if i == len(u.list) || u.list[i].offset != o {
		return
	}
	u.list[i].done = true
	n := 0
	for n < len(u.list) && u.list[n].done {
		u.next, u.epoch = u.list[n].offset+1, u.list[n].epoch
		n++
	}
	if u.list = u.list[n:]; len(u.list) == 0 {
		u.list = nil
	}
}
