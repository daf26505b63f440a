package riffle

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// histories is how many seeds TestHistories takes; more for a soak.
var histories = flag.Int("histories", 300, "random histories to run")

// history is a random life of a log of two partitions, one a flush policy:
// several incarnations with appends, full disks at any operation, clean closes,
// kills and power cuts. Every offset is remembered.
type history struct {
	r     *rand.Rand
	disk  *memfs.FS
	next  int                          // of the keys
	shown map[string]map[Offset]string // by topic: what stood at an offset
	acked map[string]map[Offset]string // what must be there
}

var historyConfigs = map[string]*TopicConfig{
	"async": {Flush: FlushAsync, FlushInterval: Forever, SegmentBytes: 12 << 10},
	"sure":  {SegmentBytes: 12 << 10},
}

var historyTopics = []string{"async", "sure"}

func runHistory(seed uint64) error {
	h := &history{
		r: rand.New(rand.NewPCG(seed, 1)), disk: memfs.New(),
		shown: map[string]map[Offset]string{"async": {}, "sure": {}},
		acked: map[string]map[Offset]string{"async": {}, "sure": {}},
	}
	for range 6 {
		if err := h.incarnation(); err != nil {
			return err
		}
	}
	return nil
}

// incarnation opens the log, compares, appends, and ends in some way.
func (h *history) incarnation() error {
	fsys := errfs.New(h.disk)
	l, err := openTuned(fsys, "/data", nil, tuning{ceilingStep: 5, boundsDelay: Forever, minTouch: 4 << 10})
	if err != nil {
		return err
	}
	for _, name := range historyTopics {
		top, err := l.EnsureTopic(ctx, name, historyConfigs[name])
		if err == nil {
			err = h.compare(name, top.partitions[0])
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, errors.Join(err, l.Close()))
		}
	}
	for range h.r.IntN(8) {
		if h.r.IntN(8) == 0 {
			h.fillDisk(fsys)
		} else if err := h.append(l); err != nil {
			return errors.Join(err, l.Close())
		}
	}
	end := h.r.IntN(3)
	if end == 0 {
		_ = l.Close() // it may find the disk full, which is an unclean stop
		return nil
	}
	for p := range l.partitions() {
		p.refuse()
	}
	l.tasks.Wait() // what was raised in the background
	if end == 2 {
		h.disk = h.disk.CrashClone(h.r.Uint64())
		h.acked["async"] = map[Offset]string{}
	}
	return kill(l)
}

// fillDisk lets some operation soon, once or twice, find the disk full.
func (h *history) fillDisk(fsys *errfs.FS) {
	kinds := []errfs.Kind{errfs.Write, errfs.Create, errfs.Sync, errfs.Allocate, errfs.Mkdir, errfs.Rename, errfs.SyncDir}
	var seen atomic.Int64 // operations come from the log's goroutines too
	wait, times := int64(h.r.IntN(6)), int64(1+h.r.IntN(2))
	fsys.Add(errfs.Rule{Kind: kinds[h.r.IntN(len(kinds))], Decide: func(errfs.Op) error {
		if n := seen.Add(1); n > wait && n <= wait+times {
			return vfs.ErrNoSpace
		}
		return nil
	}})
}

// append appends a batch, at offsets that nothing was shown at.
func (h *history) append(l *Log) error {
	name := historyTopics[h.r.IntN(2)]
	h.next++
	key := fmt.Sprint(h.next)
	recs := make([]Record, 1+h.r.IntN(4))
	for i := range recs {
		recs[i] = Record{Key: []byte(key), Value: make([]byte, []int{5, 1500, 2900}[h.r.IntN(3)])}
	}
	at, err := partitionOf(l, name).Append(ctx, recs...)
	if errors.Is(err, ErrReadOnly) {
		return err
	}
	if err != nil {
		return nil // a full disk, or what a failed flush has left
	}
	for o := at; o < at+Offset(len(recs)); o++ {
		if was, ok := h.shown[name][o]; ok {
			return fmt.Errorf("%s: offset %d, once of %s, is given to %s", name, o, was, key)
		}
		h.shown[name][o], h.acked[name][o] = key, key
	}
	return nil
}

// compare reads from every offset, and holds what is there against what was
// shown and acknowledged.
func (h *history) compare(name string, p *Partition) error {
	b := p.Bounds()
	got := map[Offset]string{}
	for r, err := range p.Records(ctx, Earliest, nil) {
		if err != nil {
			return err
		}
		if was, ok := h.shown[name][r.Offset]; ok && was != string(r.Key) {
			return fmt.Errorf("offset %d was %s and is %s", r.Offset, was, r.Key)
		}
		got[r.Offset] = string(r.Key)
		h.shown[name][r.Offset] = string(r.Key)
		if name == "sure" {
			h.acked[name][r.Offset] = string(r.Key) // shown, so it stays
		}
	}
	for o, key := range h.acked[name] {
		if got[o] != key {
			return fmt.Errorf("offset %d is lost", o)
		}
	}
	for from, want := b.End, 0; from >= b.Start; from-- {
		if _, ok := got[from]; ok {
			want++
		}
		values, err := collect(p, from)
		if err != nil || len(values) != want {
			return fmt.Errorf("from %d: %d records, want %d: %w", from, len(values), want, err)
		}
	}
	return nil
}

// TestHistories runs random lives of a log. No offset is given out twice, what
// was acknowledged stays as far as its flush policy says, what was shown under
// FlushBeforeAck stays, every offset can be read from, and a full disk heals.
func TestHistories(t *testing.T) {
	for seed := range uint64(*histories) {
		require.NoError(t, runHistory(seed), "seed %d", seed)
	}
}
