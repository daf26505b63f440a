package riffle

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
)

// epochCheckpointName is the file that keeps an epochCache.
const epochCheckpointName = "leader-epoch-checkpoint"

// noEpoch is the leader epoch of nothing, Kafka's UNDEFINED_EPOCH. The offset
// that goes with it is NoOffset; on the wire Kafka has -1 for both.
const noEpoch int32 = -1

// epochEntry says that batches of a leader epoch begin at an offset.
type epochEntry struct {
	epoch int32
	start Offset
}

// epochCache knows at which offset each leader epoch of a partition begins.
// Kafka: LeaderEpochFileCache. It is memory alone; the caller keeps the file.
//
// Changes are made under the partition's lock. Reading takes none: an immutable
// slice stands behind an atomic pointer. Epochs begin rarely and there are few,
// so each change copies them.
type epochCache struct {
	// Invariant: epochs and starts ascend, and none is negative.
	entries atomic.Pointer[[]epochEntry]
}

func newEpochCache(entries []epochEntry) *epochCache {
	c := new(epochCache)
	c.entries.Store(&entries)
	return c
}

func (c *epochCache) load() []epochEntry { return *c.entries.Load() }

// assign notes that batches of epoch begin at start. Nothing changes if epoch is
// the latest one already and begins no later. What contradicts the new entry is
// removed: entries of that epoch or a later one, or that begin at start or
// beyond. If it returns true, the file is to be written before the batches are.
func (c *epochCache) assign(epoch int32, start Offset) (changed bool) {
	all := c.load()
	if n := len(all); n > 0 && all[n-1].epoch == epoch && all[n-1].start <= start {
		return false
	}
	kept := slices.IndexFunc(all, func(e epochEntry) bool { return e.epoch >= epoch || e.start >= start })
	if kept < 0 {
		kept = len(all)
	}
	c.replace(append(slices.Clone(all[:kept]), epochEntry{epoch, start}))
	return true
}

func (c *epochCache) replace(entries []epochEntry) { c.entries.Store(&entries) }

// latest returns the last epoch that began.
func (c *epochCache) latest() (epoch int32, ok bool) {
	all := c.load()
	if len(all) == 0 {
		return noEpoch, false
	}
	return all[len(all)-1].epoch, true
}

// endOffsetFor says where the requested epoch ends in this log, whose end is
// logEnd, as a follower or consumer asks to find where its log and this one
// part. There are four answers:
//
//   - The epoch is unknown, as it is negative or later than the latest, or there
//     are none: noEpoch, NoOffset.
//   - It is the latest: it goes on to the end. That epoch, logEnd.
//   - Earlier ones and later ones are known: the largest epoch up to it, and the
//     start of the next.
//   - Only later ones are known: the requested epoch, the start of the first.
func (c *epochCache) endOffsetFor(requested int32, logEnd Offset) (epoch int32, end Offset) {
	all := c.load()
	next := slices.IndexFunc(all, func(e epochEntry) bool { return e.epoch > requested })
	switch n := len(all); {
	case requested < 0:
		return noEpoch, NoOffset
	case next < 0 && n > 0 && all[n-1].epoch == requested:
		return requested, logEnd
	case next < 0:
		return noEpoch, NoOffset
	case next == 0:
		return requested, all[0].start
	}
	return all[next-1].epoch, all[next].start
}

// parting returns where a log whose epochs were then, and of which all before
// seen had been read, to a batch of epoch, parts from what it is now: seen, if it
// does not. What has the same epoch and offset is of one leader, and the same. Of
// what is below start, which is at most seen, the log does not tell any more.
func parting(then []epochEntry, epoch int32, seen, start Offset, now []epochEntry) Offset {
	// The log may have been without its file: the batch has an epoch all the same.
	for _, e := range slices.Backward(append(slices.Clone(then), epochEntry{epoch, seen})) {
		if e.epoch > epoch {
			continue
		}
		i := slices.IndexFunc(now, func(other epochEntry) bool { return other.epoch == e.epoch })
		switch {
		case i < 0:
			seen = min(seen, max(e.start, start)) // all of it is gone
			continue
		case i < len(now)-1:
			return min(seen, now[i+1].start)
		}
		return seen
	}
	return seen
}

// epochAt returns the epoch of the batch with offset o.
func (c *epochCache) epochAt(o Offset) (epoch int32, ok bool) {
	all := c.load()
	next := slices.IndexFunc(all, func(e epochEntry) bool { return e.start > o })
	if next < 0 {
		next = len(all)
	}
	if next == 0 {
		return noEpoch, false
	}
	return all[next-1].epoch, true
}

// truncateFromEnd drops the entries that begin at end or beyond. The file may
// follow later: one that is too long is cut by clamp when it is read.
func (c *epochCache) truncateFromEnd(end Offset) (changed bool) {
	all := c.load()
	kept := slices.IndexFunc(all, func(e epochEntry) bool { return e.start >= end })
	if kept < 0 {
		return false
	}
	c.replace(slices.Clone(all[:kept]))
	return true
}

// truncateFromStart drops the entries of epochs that ended before start. The
// one that start is in begins there from now on. The file may follow later.
func (c *epochCache) truncateFromStart(start Offset) (changed bool) {
	all := slices.Clone(c.load())
	next := slices.IndexFunc(all, func(e epochEntry) bool { return e.start > start })
	if next < 0 {
		next = len(all)
	}
	if next == 0 || next == 1 && all[0].start == start {
		return false
	}
	all = all[next-1:]
	all[0].start = start
	c.replace(all)
	return true
}

// clamp cuts what a file held to the bounds of the log that was found beside
// it. Kafka: LogLoader.load.
func (c *epochCache) clamp(start, end Offset) (changed bool) {
	cut := c.truncateFromEnd(end)
	return c.truncateFromStart(start) || cut
}

// format returns a leader-epoch-checkpoint file: version 0, the number of
// entries, and a line for each.
func (c *epochCache) format() []byte {
	all := c.load()
	data := fmt.Appendf(nil, "0\n%d\n", len(all))
	for _, e := range all {
		data = fmt.Appendf(data, "%d %d\n", e.epoch, e.start)
	}
	return data
}

// parseEpochs reads such a file. What is not exactly as format writes it is an
// error: there is no checksum, and the batches say the same.
func parseEpochs(data []byte) (*epochCache, error) {
	lines := strings.Split(string(data), "\n")
	var entries []epochEntry
	for _, line := range lines[min(2, len(lines)-1) : len(lines)-1] {
		first, second, _ := strings.Cut(line, " ")
		epoch, err1 := strconv.ParseInt(first, 10, 32)
		start, err2 := strconv.ParseInt(second, 10, 64)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("line %q: %w", line, err)
		}
		e := epochEntry{int32(epoch), Offset(start)}
		last := epochEntry{noEpoch, -1}
		if n := len(entries); n > 0 {
			last = entries[n-1]
		}
		if e.epoch <= last.epoch || e.start <= last.start {
			return nil, fmt.Errorf("line %q does not go on from %d %d", line, last.epoch, last.start)
		}
		entries = append(entries, e)
	}
	c := newEpochCache(entries)
	if !bytes.Equal(c.format(), data) {
		return nil, errors.New("version, count or a line is not as it is written")
	}
	return c, nil
}
