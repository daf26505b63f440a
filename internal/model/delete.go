package model

import "fmt"

// Deleting notes that the records before to are about to be deleted: from now on
// they may be gone, from the first on. What is returned takes that back, since
// nothing was deleted.
func (p *Partition) Deleting(to int64) (undo func()) {
	before := p.most
	p.most = max(p.most, to)
	return func() { p.most = before }
}

// Deleted notes that the records before to are deleted, and never come back.
func (p *Partition) Deleted(to int64) { p.start = max(p.start, to) }

// Doubted notes that what says how the partition was stopped may have been torn,
// since writing that has failed: the next stop may not be a clean one.
func (p *Partition) Doubted() { p.tried = true }

// drop takes in how far deletion has come, as a log shows it.
func (p *Partition) drop(b Bounds) error {
	if b.Start < p.start {
		return fmt.Errorf("start is %d, but what is before %d was deleted", b.Start, p.start)
	}
	p.start = max(p.start, min(b.Start, p.most))
	for len(p.batches) > 0 && p.batches[0][0].Offset < p.start {
		first := p.batches[0]
		for len(first) > 0 && first[0].Offset < p.start {
			first = first[1:]
		}
		if p.batches[0] = first; len(first) == 0 {
			p.batches = p.batches[1:]
		}
	}
	return nil
}

// checkStart checks where a log starts that shows what is there: at its first
// record, or in a gap before that in which deletion has ended.
func (p *Partition) checkStart(b Bounds) error {
	want := p.next
	if len(p.batches) > 0 {
		want = p.batches[0][0].Offset
	}
	if b.Start > want || b.Start < want && p.start == 0 {
		return fmt.Errorf("start is %d, want %d", b.Start, want)
	}
	return nil
}
