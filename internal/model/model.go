// Package model is a partition as a slice: what its history may look like,
// whatever happens to the process and the machine. A test tells a [Partition]
// of each event and shows it what can be read; it says what must not be so.
//
// It knows nothing of files. Adding an event is adding a method: those that
// change what is there are beside Flushed, those that end a process beside
// Killed.
package model

import (
	"errors"
	"fmt"
	"slices"
)

// Record is a record at its place.
type Record struct {
	Offset    int64
	Epoch     int32 // the leader epoch in which it was appended
	Timestamp int64 // in ms
	Key       string
	Value     string
}

// Bounds are a partition's bounds, in Kafka's words.
type Bounds struct {
	Start, LastStable, HighWatermark, End int64
}

// Batch is records that are appended together: all are found, or none.
type Batch struct {
	records []Record // offsets and epoch are set when the batch is found
	base    int64    // known when it is acknowledged or seen; unknown before
	least   int32    // no lower epoch can be its own
}

// unknown is the base offset of a batch about which nobody has heard.
const unknown = -1

// Partition is what is known of a partition. Its zero value is one that nobody
// has appended to, under FlushAsync. It is for one goroutine at a time.
type Partition struct {
	// Durable says that what is acknowledged or shown survives a power cut:
	// FlushBeforeAck.
	Durable bool
	// AppendTime says that the log gives the records of a batch their timestamp.
	AppendTime bool

	batches [][]Record // what was shown and is there
	pending []*Batch   // what may be found, once each
	start   int64      // what was before it is deleted
	most    int64      // what is before it may be deleted
	next    int64      // where the log goes on: after the batches, or after a gap
	used    int64      // no record gets an offset below it any more, but the pending ones
	flushed int64      // before it, nothing may be lost
	epoch   int32      // the highest that was shown
	least   int32      // no lower epoch is given to what is appended from now on
	tried   bool       // something was to be appended since the last clean stop
	dirty   bool       // something was appended since the log was opened, as somebody has heard
	crashed bool       // the process was killed or the power failed, and nothing was opened since
	cut     bool       // the latter
	gap     bool       // the log may go on behind a gap when it is opened next
}

// Next is where the log goes on.
func (p *Partition) Next() int64 { return p.next }

// Records returns the records that are there in [lo, hi).
func (p *Partition) Records(lo, hi int64) []Record {
	var found []Record
	for _, b := range p.batches {
		for _, r := range b {
			if lo <= r.Offset && r.Offset < hi {
				found = append(found, r)
			}
		}
	}
	return found
}

// Append notes that records are about to be appended as a batch. The key of the
// first is no other batch's. Offsets and epochs are ignored.
func (p *Partition) Append(records []Record) *Batch {
	b := &Batch{records: slices.Clone(records), base: unknown, least: p.least}
	if !p.tried && len(p.batches) == 0 {
		p.crashed, p.cut = false, false // that was before it was made
	}
	p.pending = append(p.pending, b)
	p.tried = true
	return b
}

// Failed notes that nothing of b was written. A batch of which no more is heard
// is in doubt: it may be found until the partition is opened next.
func (p *Partition) Failed(b *Batch) {
	p.pending = slices.DeleteFunc(p.pending, func(other *Batch) bool { return other == b })
}

// Acked notes that b was acknowledged, at base.
func (p *Partition) Acked(b *Batch, base int64) error {
	if b.base != unknown && b.base != base {
		return fmt.Errorf("batch %q is acknowledged at offset %d, and was seen at %d", b.records[0].Key, base, b.base)
	}
	if base < p.next {
		return fmt.Errorf("batch %q is acknowledged at offset %d, the log went on at %d", b.records[0].Key, base, p.next)
	}
	b.base = base
	p.used = max(p.used, base+int64(len(b.records)))
	p.dirty = true
	return nil
}

// Saw notes what a reader saw while appends went on: it is as good as
// acknowledged.
func (p *Partition) Saw(records []Record) error {
	for _, r := range records {
		known := p.Records(r.Offset, r.Offset+1)
		if len(known) == 1 && known[0] == r {
			continue
		}
		b, i := p.find(r.Key)
		if b == nil || len(known) == 1 {
			return fmt.Errorf("a reader saw %q at offset %d", r.Key, r.Offset)
		}
		if err := p.Acked(b, r.Offset-int64(i)); err != nil {
			return err
		}
	}
	return nil
}

// find returns the pending batch with a record of that key, and its place there.
func (p *Partition) find(key string) (*Batch, int) {
	for _, b := range p.pending {
		for i, r := range b.records {
			if r.Key == key {
				return b, i
			}
		}
	}
	return nil, 0
}

// Flushed notes that nothing before end may be lost any more.
func (p *Partition) Flushed(end int64) { p.flushed = max(p.flushed, end) }

// MayLeaveGap notes that the next unclean stop cannot be told from one that took
// what was shown: a flush has failed, or the system does not tell one boot from
// another.
func (p *Partition) MayLeaveGap() { p.gap = p.gap || !p.Durable && p.tried }

// Closed notes that the log was closed. If nothing went wrong on the way, that is
// a clean stop of what was appended to.
func (p *Partition) Closed(clean bool) {
	if clean {
		p.tried = p.tried && !p.dirty
	}
	p.dirty = false
}

// Killed notes that the process was killed: what it wrote is there.
func (p *Partition) Killed() { p.crashed = true }

// PowerCut notes that the machine stopped: what was not flushed may be gone. What
// stopped cleanly before has nothing to lose.
func (p *Partition) PowerCut() {
	p.crashed, p.cut = true, true
	p.MayLeaveGap()
}

// Opened compares what an opened log shows, from its first record on, with what
// may be there, and takes it for what is there from now on: nothing of it may
// be lost again, unless all that had happened was a kill and it is not Durable.
func (p *Partition) Opened(b Bounds, got []Record) error {
	if err := p.drop(b); err != nil {
		return err
	}
	kept := 0
	rest := got
	for kept < len(p.batches) && len(rest) >= len(p.batches[kept]) && slices.Equal(rest[:len(p.batches[kept])], p.batches[kept]) {
		rest = rest[len(p.batches[kept]):]
		kept++
	}
	if kept < len(p.batches) {
		if err := p.lost(p.batches[kept], rest); err != nil {
			return err
		}
		p.batches = p.batches[:kept]
	} else if err := p.grow(rest); err != nil {
		return err
	}
	if err := p.allKept(); err != nil {
		return err
	}
	if err := p.goesOn(b); err != nil {
		return err
	}
	p.pending = nil
	p.used = max(p.used, p.next)
	if p.Durable || p.cut {
		p.flushed = p.next
	}
	p.least = max(p.least, p.epoch)
	if p.crashed && p.dirty {
		p.least++
	}
	p.dirty, p.crashed, p.cut = false, false, false
	p.most = p.start
	return p.check(b)
}

// lost says why a batch may not be missing, with rest in its place.
func (p *Partition) lost(batch, rest []Record) error {
	last := batch[len(batch)-1]
	switch {
	case len(rest) > 0:
		return fmt.Errorf("%v, want %v", short(rest[0]), short(batch[0]))
	case !p.cut:
		return fmt.Errorf("%v is lost without a power cut", short(batch[0]))
	case last.Offset < p.flushed:
		return fmt.Errorf("%v is lost, but was flushed, as all before %d", short(batch[0]), p.flushed)
	}
	return nil
}

// allKept says which pending batch may not be missing after opening.
func (p *Partition) allKept() error {
	for _, b := range p.pending {
		if b.base != unknown && (p.Durable || !p.cut || b.base < p.flushed) {
			return fmt.Errorf("batch %q, acknowledged or seen at offset %d, is lost", b.records[0].Key, b.base)
		}
	}
	return nil
}

// goesOn checks where an opened log goes on.
func (p *Partition) goesOn(b Bounds) error {
	switch {
	case p.gap && b.End < max(p.used, p.end()):
		return fmt.Errorf("the log goes on at %d, but offsets up to %d were used", b.End, p.used)
	case !p.gap && b.End != p.next:
		return fmt.Errorf("the log goes on at %d, want %d", b.End, p.next)
	}
	p.next = b.End
	return nil
}

// end is the offset after the last record that is there.
func (p *Partition) end() int64 {
	if len(p.batches) == 0 {
		return 0
	}
	last := p.batches[len(p.batches)-1]
	return last[len(last)-1].Offset + 1
}

// Shows compares what an open log shows from an offset on, while nothing is under
// way, and takes in what is new.
func (p *Partition) Shows(b Bounds, from int64, got []Record) error {
	if err := p.drop(b); err != nil {
		return err
	}
	known := p.Records(from, p.next)
	for i, r := range known {
		if i == len(got) {
			return fmt.Errorf("%v is not shown any more", short(r))
		}
		if got[i] != r {
			return fmt.Errorf("%v, was %v", short(got[i]), short(r))
		}
	}
	if err := p.grow(got[len(known):]); err != nil {
		return err
	}
	for _, b := range p.pending {
		if b.base != unknown {
			return fmt.Errorf("batch %q, acknowledged or seen at offset %d, is not shown", b.records[0].Key, b.base)
		}
	}
	if len(got) > len(known) {
		p.gap = false // the partition is in use again, which is durable
	}
	return p.check(b)
}

// check checks the bounds of a log that shows what is there.
func (p *Partition) check(b Bounds) error {
	switch {
	case b.Start > b.LastStable || b.LastStable > b.HighWatermark || b.HighWatermark > b.End:
		return fmt.Errorf("bounds are out of order: %+v", b)
	case b.HighWatermark != p.next:
		return fmt.Errorf("high watermark is %d, want %d", b.HighWatermark, p.next)
	}
	return p.checkStart(b)
}

// grow takes in records that were not shown before: pending batches, whole, one
// after the other.
func (p *Partition) grow(rest []Record) error {
	for len(rest) > 0 {
		b, i := p.find(rest[0].Key)
		if b == nil || i > 0 || len(rest) < len(b.records) {
			return fmt.Errorf("%v appears", short(rest[0]))
		}
		found := rest[:len(b.records)]
		if err := p.accept(b, found); err != nil {
			return err
		}
		p.Failed(b) // it is pending no more
		p.batches = append(p.batches, slices.Clone(found))
		p.next, p.epoch = p.next+int64(len(found)), found[0].Epoch
		p.used = max(p.used, p.next)
		p.dirty = true
		rest = rest[len(found):]
	}
	if p.Durable {
		p.flushed = p.next
	}
	return nil
}

// accept says why found cannot be b.
func (p *Partition) accept(b *Batch, found []Record) error {
	if b.base != unknown && b.base != found[0].Offset {
		return fmt.Errorf("%v was acknowledged or seen at %d", short(found[0]), b.base)
	}
	if found[0].Epoch < max(b.least, p.epoch) {
		return fmt.Errorf("%v: epoch %d, want at least %d", short(found[0]), found[0].Epoch, max(b.least, p.epoch))
	}
	for i, want := range b.records {
		want.Offset, want.Epoch = p.next+int64(i), found[0].Epoch
		if p.AppendTime {
			want.Timestamp = found[0].Timestamp
		}
		if found[i] != want {
			return errors.Join(fmt.Errorf("%v is not what was appended", short(found[i])), fmt.Errorf("%v is", short(want)))
		}
	}
	return nil
}

// short describes a record without all of its value.
func short(r Record) string {
	return fmt.Sprintf("offset %d, epoch %d, time %d: %q with %d bytes", r.Offset, r.Epoch, r.Timestamp, r.Key, len(r.Value))
}
