package riffle

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rifflelog/riffle/internal/batch"
	"github.com/rifflelog/riffle/internal/vfs"
)

// A snapshot is what the metadata log says up to an offset, in one file:
//
//	00000000000000000123-0000000004.checkpoint
//
// named, as in Kafka's KRaft, for the offset at which it ends and the epoch of the
// record before that. It is batches from offset 0 on, of records as in the log: a
// snapshotRecord, then one that creates each topic as it is, then a
// snapshotEndRecord, which says that nothing is missing.

// siteSnapshot is the replacing of a snapshot: .flush and .syncdir.
const siteSnapshot vfs.Site = "meta.snapshot"

const (
	snapshotSuffix = ".checkpoint"
	// snapshotEvery is how many records are behind a snapshot until the next one
	// is made, at least: also as many as there are topics, so that writing
	// snapshots costs no more than a few times what writing records costs.
	snapshotEvery = 1000
	// keptSnapshots is how many are kept, and the log from the oldest on: should one
	// be damaged, the one before it and the log say the same.
	keptSnapshots = 2
	// snapshotBatch is how large a batch of a snapshot grows, in bytes of values.
	snapshotBatch = 64 << 10
	// maxSnapshot bounds what is read of one: a million topics.
	maxSnapshot = 1 << 30
)

type snapshotRecord struct {
	End   Offset `json:"end"`   // before which all is in it
	Epoch int32  `json:"epoch"` // of the record before that; -1 if there was none
}

type snapshotEndRecord struct {
	Topics int `json:"topics"` // how many there are
}

// metaSnapshots is what is known of the snapshots. It is safe for concurrent use.
type metaSnapshots struct {
	mu      sync.Mutex // guards what follows; nothing is locked under it
	end     Offset     // the newest one's
	running bool       // one is being made
}

// snapshotName is the name of a snapshot.
func snapshotName(end Offset, epoch int32) string {
	return fmt.Sprintf("%020d-%010d%s", end, max(0, epoch), snapshotSuffix)
}

// parseSnapshotName returns where the snapshot of that name ends.
func parseSnapshotName(name string) (end Offset, ok bool) {
	s, ok := strings.CutSuffix(name, snapshotSuffix)
	if !ok || len(s) != 31 || s[20] != '-' {
		return 0, false
	}
	n, err := strconv.ParseUint(s[:20], 10, 63)
	_, bad := strconv.ParseUint(s[21:], 10, 31)
	return Offset(n), err == nil && bad == nil
}

// formatSnapshot returns the file of a snapshot of what m says up to end.
func formatSnapshot(m *metaImage, end Offset, epoch int32, cfg *TopicConfig, now int64) ([]byte, error) {
	w := snapshotWriter{cfg: cfg, now: now}
	w.put(kindSnapshot, snapshotRecord{End: end, Epoch: epoch})
	for _, t := range m.sorted() {
		w.put(kindTopic, t.record())
	}
	w.put(kindSnapshotEnd, snapshotEndRecord{Topics: len(m.topics)})
	w.flush()
	return w.data, w.err
}

// snapshotWriter gathers records into batches.
type snapshotWriter struct {
	cfg  *TopicConfig
	now  int64
	e    encoder
	recs []Record
	size int
	next int64
	data []byte
	err  error // the first
}

func (w *snapshotWriter) put(kind string, record any) {
	value, err := json.Marshal(record)
	w.err = cmp.Or(w.err, err)
	w.recs = append(w.recs, Record{Key: []byte(kind), Value: value})
	if w.size += len(value); w.size >= snapshotBatch {
		w.flush()
	}
}

func (w *snapshotWriter) flush() {
	if w.err != nil || len(w.recs) == 0 {
		return
	}
	b, err := w.e.encode(w.recs, w.cfg, w.now)
	if w.err = err; err != nil {
		return
	}
	b.SetBaseOffset(w.next)
	b.SetLeaderEpoch(0)
	w.data = append(w.data, b...)
	w.recs, w.size, w.next = w.recs[:0], 0, b.NextOffset()
}

// parseSnapshot reads the file of a snapshot. An error that isDamage says that it
// is not whole, ErrUnsupported that a later version wrote it.
func parseSnapshot(data []byte) (*metaImage, Offset, error) {
	r := snapshotReader{image: newMetaImage(), end: NoOffset}
	for next := int64(0); len(data) > 0; {
		b, rest, err := batch.Split(data)
		if err == nil {
			err = b.Check()
		}
		if err == nil && (b.BaseOffset() != next || r.whole) {
			err = fmt.Errorf("%w: batch has base offset %d, want %d and no end before", batch.ErrCorrupt, b.BaseOffset(), next)
		}
		if err == nil {
			err = r.apply(b)
		}
		if err != nil {
			return nil, 0, err
		}
		data, next = rest, b.NextOffset()
	}
	if !r.whole {
		return nil, 0, fmt.Errorf("%w: it has no end", batch.ErrTruncated)
	}
	return r.image, r.end, nil
}

// snapshotReader takes in the records of a snapshot.
type snapshotReader struct {
	records batch.Reader
	image   *metaImage
	end     Offset // NoOffset before the first record
	whole   bool   // the last record was seen
}

func (r *snapshotReader) apply(b batch.Batch) error {
	defer r.records.Release()
	if err := r.records.Reset(b, batch.MaxInflated); err != nil {
		return err
	}
	for r.records.Next() {
		kind, value := string(r.records.Record.Key), r.records.Record.Value
		switch {
		case r.whole || (kind == kindSnapshot) != (r.end == NoOffset):
			return fmt.Errorf("%w: %q is out of place", batch.ErrCorrupt, kind)
		case kind == kindSnapshot:
			var head snapshotRecord
			if err := decodeStrictly(value, &head); err != nil {
				return fmt.Errorf("%w: %q: %w", errors.ErrUnsupported, kind, err)
			}
			r.end = head.End
		case kind == kindSnapshotEnd:
			var last snapshotEndRecord
			if err := decodeStrictly(value, &last); err != nil {
				return fmt.Errorf("%w: %q: %w", errors.ErrUnsupported, kind, err)
			}
			if last.Topics != len(r.image.topics) {
				return fmt.Errorf("%w: %d topics, want %d", batch.ErrCorrupt, len(r.image.topics), last.Topics)
			}
			r.whole = true
		default:
			if err := r.image.apply(kind, value); err != nil {
				return err
			}
		}
	}
	return r.records.Err()
}

// listSnapshots returns the names of the snapshots that there are, the newest
// first, and those of unfinished ones.
func (l *Log) listSnapshots() (names, unfinished []string, err error) {
	entries, err := l.fs.ReadDir(l.metaPath(""))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	for _, e := range entries {
		if _, ok := parseSnapshotName(e.Name); ok {
			names = append(names, e.Name)
		} else if strings.HasSuffix(e.Name, snapshotSuffix+vfs.TempSuffix) {
			unfinished = append(unfinished, e.Name)
		}
	}
	slices.Reverse(names) // they are in name order
	return names, unfinished, nil
}

// loadSnapshot returns what the newest whole snapshot says, and the offset at
// which the log goes on from it.
func (l *Log) loadSnapshot() (*metaImage, Offset, error) {
	names, _, err := l.listSnapshots()
	if err != nil {
		return nil, 0, err
	}
	bounds := l.meta.Bounds()
	var damage error
	for _, name := range names {
		image, end, err := l.readSnapshot(name)
		switch {
		case err != nil:
		case end > bounds.End && l.view != nil:
			continue // it is new, and the end of the log not yet shown
		case end > bounds.End:
			// An older one would go without what the log has lost.
			err := fmt.Errorf("the log ends at offset %d, before this snapshot of it", bounds.End)
			return nil, 0, &CorruptError{File: l.metaPath(name), Offset: NoOffset, Next: NoOffset, Err: err}
		case end >= bounds.Start:
			image.from = end
			return image, end, nil
		}
		if err != nil && !isDamage(err) {
			return nil, 0, fmt.Errorf("%s: %w", l.metaPath(name), err)
		}
		if err != nil && damage == nil {
			damage = &CorruptError{File: l.metaPath(name), Offset: NoOffset, Next: NoOffset, Err: err}
			l.opts.Logger.Error("metadata snapshot is damaged", "err", damage)
		}
	}
	if bounds.Start == 0 {
		return newMetaImage(), 0, nil // the log has all of it
	}
	if damage == nil {
		damage = &CorruptError{File: l.metaPath(""), Offset: 0, Next: NoOffset, Err: errors.New("there is no snapshot of what is before the log")}
	}
	return nil, 0, damage
}

func (l *Log) readSnapshot(name string) (*metaImage, Offset, error) {
	data, err := vfs.ReadFile(l.fs, l.metaPath(name), maxSnapshot)
	if err != nil {
		return nil, 0, err
	}
	image, end, err := parseSnapshot(data)
	if named, _ := parseSnapshotName(name); err == nil && named != end {
		err = fmt.Errorf("%w: it ends at offset %d", batch.ErrCorrupt, end)
	}
	return image, end, err
}

// snapshotSoon has a snapshot made in the background, if it is time.
func (l *Log) snapshotSoon() {
	l.mu.Lock()
	topics := len(l.topics)
	l.mu.Unlock()
	s := &l.snapshots
	s.mu.Lock()
	behind := l.meta.Bounds().HighWatermark - s.end
	start := !s.running && behind >= Offset(max(l.snapshotEvery, int64(topics)))
	s.running = s.running || start
	s.mu.Unlock()
	if start {
		l.inBackground(l.makeSnapshot)
	}
}

func (l *Log) makeSnapshot() {
	end, err := l.writeSnapshot()
	if err == nil {
		err = l.trimMetadata()
	}
	if err != nil && !l.isClosing() {
		l.opts.Logger.Warn("metadata snapshot is not made", "err", err)
	}
	s := &l.snapshots
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end, s.running = max(s.end, end), false // after an error as well: not with each record once more
}

// writeSnapshot makes a snapshot of what the log says now, durably. It returns
// where it ends.
func (l *Log) writeSnapshot() (Offset, error) {
	image, end, err := l.replayMetadata()
	if err != nil {
		return l.meta.Bounds().HighWatermark, err
	}
	epoch := l.meta.epochBefore(end)
	data, err := formatSnapshot(image, end, epoch, l.meta.topic.config(), time.Now().UnixMilli())
	if err == nil {
		err = l.space.insist(func() error {
			return diskError(vfs.WriteFileAtomic(l.fs, siteSnapshot, l.metaPath(snapshotName(end, epoch)), data))
		})
	}
	return end, err
}

// trimMetadata removes the snapshots that are too many, and what of the log is in the
// oldest that is kept.
func (l *Log) trimMetadata() error {
	names, remove, err := l.listSnapshots()
	if err != nil {
		return err
	}
	if len(names) >= keptSnapshots {
		remove = append(remove, names[keptSnapshots:]...)
		end, _ := parseSnapshotName(names[keptSnapshots-1])
		err = l.meta.moveStart(end, "they are in a snapshot")
	}
	for _, name := range remove {
		if err == nil {
			err = l.fs.Remove(l.metaPath(name))
		}
	}
	return err
}
