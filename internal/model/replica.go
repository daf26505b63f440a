package model

import (
	"fmt"
	"slices"
)

// Replica is what is known of a partition whose batches come from a leader: their
// offsets and epochs are given, they are shown below a high watermark, and the end
// may be cut off again. Its zero value is one that has nothing, under FlushAsync.
// It is for one goroutine at a time.
//
// A test tells it of what is about to be done: from then on several logs may be
// found. Is, Acked and Opened say which one it is.
type Replica struct {
	// Durable says that what was acknowledged survives a power cut: FlushBeforeAck.
	Durable bool

	may    []history // what may be there
	starts []int64   // where a log may begin that has nothing, or had
	hw     int64     // what was committed when it was last looked at
	cut    bool      // the power has failed since then
}

// history is a log that may be found: batches from start on, of which the last
// ones may be missing.
type history struct {
	start   int64
	batches [][]Record
	begun   bool  // it had nothing, and nothing was acknowledged since
	gap     int64 // where it goes on behind its last batch; 0 if right there
	least   int   // so many of them survive whatever happens
	written int   // so many survive the end of a process
}

// endOf returns the offset after the first n batches.
func (h history) endOf(n int) int64 {
	if n == 0 {
		return h.start
	}
	last := h.batches[n-1]
	return last[len(last)-1].Offset + 1
}

// before returns how many batches lie before an offset as a whole.
func (h history) before(o int64) int {
	n := 0
	for n < len(h.batches) && h.endOf(n+1) <= o {
		n++
	}
	return n
}

// first is h with its first n batches, as they are found.
func (h history) first(n int, end int64) history {
	h.batches = h.batches[:n:n]
	if h.least, h.written, h.gap = min(h.least, n), n, 0; end != h.endOf(n) {
		h.gap = end
	}
	return h
}

// goesOn says whether h may go on at end after its first n batches: behind a gap
// if the next one was to leave one.
func (h history) goesOn(n int, end int64) bool {
	return end == h.gap || h.between(n, end)
}

// between says whether o is where the first n batches end or the next one begins.
func (h history) between(n int, o int64) bool {
	return o == h.endOf(n) || n < len(h.batches) && o == h.batches[n][0].Offset
}

// holds returns how many batches got is, exactly; -1 if it is something else.
func (h history) holds(got []Record) int {
	n := 0
	for ; len(got) > 0; n++ {
		if n == len(h.batches) || len(got) < len(h.batches[n]) || !slices.Equal(got[:len(h.batches[n])], h.batches[n]) {
			return -1
		}
		got = got[len(h.batches[n]):]
	}
	return n
}

// now is the log as it is, if nothing is in doubt.
func (r *Replica) now() history {
	if len(r.may) == 0 {
		r.may, r.starts = []history{{}}, []int64{0}
	}
	return r.may[0]
}

// Append notes that batches are about to be appended.
func (r *Replica) Append(batches [][]Record) {
	h := r.now()
	r.cut = false // a power cut that no opening has followed was before it was made
	if len(h.batches) == 0 {
		// It begins with its first batch then, unless a file was made before.
		h.begun, r.starts = true, append(r.starts, batches[0][0].Offset)
	}
	h.batches = append(h.batches[:len(h.batches):len(h.batches)], batches...)
	r.may = []history{h}
}

// Truncate notes that the log is about to be cut at an offset: to nothing, if that
// is not behind the first batch, and to begin there, if it is below the start.
func (r *Replica) Truncate(n int64) {
	h := r.now()
	kept := h.before(n)
	if kept == 0 {
		r.Restart(min(n, h.start))
		return
	}
	h.least, h.written = min(h.least, kept), min(h.written, kept)
	r.may = []history{h}
}

// Restart notes that all is about to be removed, and the log to go on at n.
func (r *Replica) Restart(n int64) {
	h := r.now()
	h.least, h.written = 0, 0
	r.may, r.starts = []history{h, {start: n}}, append(r.starts, n)
}

// TakenBack notes that nothing is committed any more.
func (r *Replica) TakenBack() { r.hw = 0 }

// Is notes that nothing is under way any more, and where the log begins and ends.
func (r *Replica) Is(b Bounds) error {
	r.now()
	for _, h := range slices.Backward(r.may) { // begun anew rather than cut to nothing
		n := h.before(b.End)
		if (n == 0 || h.begun) && slices.Contains(r.starts, b.Start) {
			h.start = b.Start
		}
		if h.start == b.Start && n >= h.written && h.goesOn(n, b.End) {
			r.may = []history{h.first(n, b.End)}
			return nil
		}
	}
	return fmt.Errorf("the replica has offsets from %d to %d, want %s", b.Start, b.End, r)
}

// Acked is Is after what was begun last has been done: it is durable, if it was to
// be.
func (r *Replica) Acked(b Bounds) error {
	if err := r.Is(b); err != nil {
		return err
	}
	r.starts, r.may[0].begun = []int64{b.Start}, false
	if r.Durable {
		r.may[0].least = len(r.may[0].batches)
	}
	return nil
}

// Flushed notes that nothing before end may be lost any more.
func (r *Replica) Flushed(end int64) {
	h := r.now()
	r.may[0].least = max(h.least, h.before(end))
}

// PowerCut notes that the machine stopped: what was not flushed may be gone. Without
// it, what was written is there.
func (r *Replica) PowerCut() { r.cut = true }

// Opened compares all that an opened log has with what may be there, and takes it
// for what is there. A negative start is unknown.
func (r *Replica) Opened(start int64, got []Record) error {
	r.now()
	for _, h := range r.may {
		n, least := h.holds(got), h.least
		if !r.cut {
			least = max(least, h.written)
		}
		if (n == 0 || h.begun) && slices.Contains(r.starts, start) {
			h.start = start
		}
		if start < 0 {
			start = h.start
		}
		if n < least || h.start != start {
			continue
		}
		if h = h.first(n, h.endOf(n)); r.Durable || r.cut {
			h.least = n
		}
		r.may, r.cut, r.hw = []history{h}, false, start
		return nil
	}
	return fmt.Errorf("%d records are found from offset %d on, want %s", len(got), start, r)
}

// Shows compares what is readable while nothing is under way.
func (r *Replica) Shows(b Bounds, got []Record) error {
	if err := r.Is(b); err != nil {
		return err
	}
	h := r.now()
	n := h.holds(got)
	switch {
	case n < 0:
		return fmt.Errorf("%d records are shown, want some of %s", len(got), r)
	case !h.between(n, b.HighWatermark):
		return fmt.Errorf("high watermark is %d, and records are shown to %d", b.HighWatermark, h.endOf(n))
	case b.LastStable != b.HighWatermark:
		return fmt.Errorf("last stable offset is %d, high watermark %d", b.LastStable, b.HighWatermark)
	case b.HighWatermark < min(r.hw, b.End):
		return fmt.Errorf("high watermark goes back from %d to %d", r.hw, b.HighWatermark)
	}
	r.hw = b.HighWatermark
	return nil
}

// Epochs returns the epoch at the first and last offset of each batch.
func (r *Replica) Epochs() map[int64]int32 {
	epochs := map[int64]int32{}
	for _, b := range r.now().batches {
		epochs[b[0].Offset], epochs[b[len(b)-1].Offset] = b[0].Epoch, b[0].Epoch
	}
	return epochs
}

// Follows says why no loop over a replica can have seen these records one after the
// other: epochs go back, or offsets do not go on.
func Follows(got []Record) error {
	for i := 1; i < len(got); i++ {
		before, r := got[i-1], got[i]
		if r.Epoch < before.Epoch || r.Offset <= before.Offset || r.Offset > before.Offset+1 && r.Epoch == before.Epoch {
			return fmt.Errorf("%v is seen after %v", short(r), short(before))
		}
	}
	return nil
}

// String lists what may be there.
func (r *Replica) String() string {
	var s string
	for i, h := range r.may {
		if i > 0 {
			s += " or "
		}
		s += fmt.Sprintf("%d to %d batches in [%d, %d)", h.least, len(h.batches), h.start, h.endOf(len(h.batches)))
	}
	return s
}
