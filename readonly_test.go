package riffle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/batch"
	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// readOnlyAt opens the directory for reading, beside whoever writes it.
func readOnlyAt(t testing.TB, fsys vfs.FS, dir string) *Log {
	t.Helper()
	return openAt(t, fsys, dir, &Options{ReadOnly: true})
}

// followValues reads n values from offset from on, as they come.
func followValues(t testing.TB, p *Partition, from Offset, n int) (values []string) {
	t.Helper()
	if n == 0 {
		return nil
	}
	for r, err := range p.Follow(ctx, from, nil) {
		require.NoError(t, err)
		values = append(values, string(r.Value))
		if len(values) == n {
			break
		}
	}
	return values
}

// A second log on the same directory sees what the first one commits, over many
// segments, and a topic that is created meanwhile.
func TestReadOnlyFollowsAWriter(t *testing.T) {
	eachFlush(t, func(t *testing.T, flush FlushPolicy) {
		fsys, dir := testDir(t)
		w := openAt(t, fsys, dir, nil)
		p := partOf(t, w, "topic", &TopicConfig{Flush: flush, SegmentBytes: 2048})
		appendValues(t, p, 0, 50)
		r := readOnlyAt(t, fsys, dir)
		q := partOf(t, r, "topic", nil)
		require.Equal(t, wantValues(0, 50), followValues(t, q, 0, 50))
		done := make(chan []string)
		go func() { done <- followValues(t, q, 50, 450) }()
		appendValues(t, p, 50, 500)
		require.Equal(t, wantValues(50, 500), <-done)
		require.Greater(t, len(p.segs.Load().list), 10)
		require.Equal(t, wantValues(0, 500), readValues(t, q, Earliest))
		require.Equal(t, p.Bounds(), q.Bounds())

		other := partOf(t, w, "other", nil)
		appendValues(t, other, 0, 3)
		require.Equal(t, wantValues(0, 3), followValues(t, partOf(t, r, "other", nil), 0, 3))
	})
}

// The writer is killed and restarted: what it had committed stays, and the loop
// goes on.
func TestReadOnlySurvivesARestart(t *testing.T) {
	eachFlush(t, func(t *testing.T, flush FlushPolicy) {
		fsys, dir := testDir(t)
		w, err := open(fsys, dir, nil)
		require.NoError(t, err)
		r := (*Log)(nil)
		var q *Partition
		next := 0
		for i := range 10 {
			p := partOf(t, w, "topic", &TopicConfig{Flush: flush, SegmentBytes: 2048})
			appendValues(t, p, next, next+20)
			if r == nil {
				r = readOnlyAt(t, fsys, dir)
				q = partOf(t, r, "topic", nil)
			}
			require.Equal(t, wantValues(next, next+20), followValues(t, q, Offset(next), 20))
			next += 20
			killed := i%2 == 0 && (flush == FlushBeforeAck || fsys.BootID() != "") // else it leaves a gap
			if killed {
				require.NoError(t, kill(w))
			} else {
				require.NoError(t, w.Close())
			}
			require.Equal(t, wantValues(0, next), readValues(t, q, 0))
			if !killed || fsys.BootID() != "" { // else who comes late sees what was flushed
				require.Equal(t, wantValues(0, next), readValues(t, partOf(t, readOnlyAt(t, fsys, dir), "topic", nil), 0))
			}
			w, err = open(fsys, dir, nil)
			require.NoError(t, err)
			require.Equal(t, wantValues(0, next), readValues(t, q, 0))
		}
		require.NoError(t, w.Close())
	})
}

// A read-only log does nothing that could change anything, and works where
// nothing may be changed: it opens files for reading, reads and lists.
func TestReadOnlyNeverWrites(t *testing.T) {
	mem := memfs.New()
	w := openAt(t, mem, "/data", nil)
	p := partOf(t, w, "topic", &TopicConfig{SegmentBytes: 2048})
	appendValues(t, p, 0, 100)
	// Without indexes and seals it makes its own, in memory.
	for _, seg := range p.segs.Load().list[:2] {
		require.NoError(t, p.forget(seg))
	}
	fsys := errfs.New(mem)
	harmless := []errfs.Kind{
		errfs.Open, errfs.ReadDir, errfs.Stat, errfs.BootID, errfs.Check, errfs.Read, errfs.Size,
		errfs.Map, errfs.MapRead, errfs.Unmap, errfs.Close,
	}
	fsys.OnOp(func(op errfs.Op) error {
		if !slices.Contains(harmless, op.Kind) {
			t.Errorf("%v", op)
		}
		return nil
	})
	r, err := open(fsys, "/data", &Options{ReadOnly: true})
	require.NoError(t, err)
	q := partOf(t, r, "topic", nil)
	require.Equal(t, wantValues(0, 100), followValues(t, q, 0, 100))
	require.Equal(t, wantValues(30, 100), readValues(t, q, 30))
	at, err := q.offsetAt(ctx, 0)
	require.NoError(t, err)
	require.Zero(t, at)
	_, err = q.offsetOfMaxTimestamp(ctx)
	require.NoError(t, err)
	requireReadOnly(t, r, q)
	r.Metrics()
	appendValues(t, p, 100, 200)
	require.Equal(t, wantValues(100, 200), followValues(t, q, 100, 100))
	require.NoError(t, r.Close())
	require.NoError(t, r.Close())
}

// requireReadOnly calls all that would write.
func requireReadOnly(t *testing.T, r *Log, q *Partition) {
	t.Helper()
	_, err := q.Append(ctx, Record{})
	requireAll(t, err, ErrReadOnly)
	_, err = r.CreateTopic(ctx, "other", nil)
	requireAll(t, err, ErrReadOnly)
	_, err = r.EnsureTopic(ctx, "other", nil)
	requireAll(t, err, ErrReadOnly)
	_, err = r.CreateTopic(ctx, "topic", nil)
	requireAll(t, err, ErrReadOnly)
	_, err = r.EnsureTopic(ctx, "topic", &TopicConfig{Partitions: 2})
	requireAll(t, err, ErrTopicMismatch)
	_, err = r.Topic("other")
	requireAll(t, err, ErrTopicNotFound)
	requireAll(t, r.DeleteTopic(ctx, "topic"), ErrReadOnly)
	requireAll(t, q.topic.SetPartitions(ctx, 2), ErrReadOnly)
	requireAll(t, q.topic.SetConfig(ctx, func(*TopicConfig) {}), ErrReadOnly)
	requireAll(t, q.DeleteBefore(ctx, 1), ErrReadOnly)
	_, err = q.AppendIf(ctx, NextOffset(100), Record{})
	requireAll(t, err, ErrReadOnly)
	requireAll(t, r.Sync(ctx), ErrReadOnly)
	requireAll(t, q.topic.Sync(ctx), ErrReadOnly)
	requireAll(t, q.Sync(ctx), ErrReadOnly)
}

// A directory that may not be written, with files that may not, can be read.
func TestReadOnlyOfAnUnwritableDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	w, err := Open(dir, nil)
	require.NoError(t, err)
	appendValues(t, partOf(t, w, "topic", nil), 0, 10)
	require.NoError(t, w.Close())
	chmod := func(files, dirs fs.FileMode) {
		require.NoError(t, filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
			if e.IsDir() {
				return errors.Join(err, os.Chmod(name, dirs))
			}
			return errors.Join(err, os.Chmod(name, files))
		}))
	}
	chmod(0o444, 0o555)
	defer chmod(0o644, 0o755)
	before := listing(t, dir)
	r, err := Open(dir, &Options{ReadOnly: true})
	require.NoError(t, err)
	require.Equal(t, wantValues(0, 10), readValues(t, partOf(t, r, "topic", nil), 0))
	require.NoError(t, r.Close())
	require.Equal(t, before, listing(t, dir))
}

// listing describes all files below dir, with the times at which they changed.
func listing(t *testing.T, dir string) (list []string) {
	require.NoError(t, filepath.Walk(dir, func(name string, info fs.FileInfo, err error) error {
		list = append(list, fmt.Sprint(name, info.Size(), info.ModTime(), info.Mode()))
		return err
	}))
	return list
}

// A directory that is no log cannot be opened for reading, and is not made one; it
// is found once it is.
func TestReadOnlyOfNoLog(t *testing.T) {
	mem := memfs.New()
	_, err := open(mem, "/data", &Options{ReadOnly: true})
	requireAll(t, err, fs.ErrNotExist)
	require.NoError(t, mem.Mkdir("/data"))
	_, err = open(mem, "/data", &Options{ReadOnly: true})
	requireAll(t, err, fs.ErrNotExist)
	entries, err := mem.ReadDir("/data")
	require.NoError(t, err)
	require.Empty(t, entries)
	writeFile(t, mem, "/data/"+metaPropertiesName, []byte("version=1\ncluster.id=a\ndirectory.id=b\n"))
	_, err = open(mem, "/data", &Options{ReadOnly: true})
	requireAll(t, err, errors.ErrUnsupported)
	require.NoError(t, mem.Remove("/data/"+metaPropertiesName))
	openAt(t, mem, "/data", nil)
	r := readOnlyAt(t, mem, "/data")
	for range r.Topics() {
		t.Error("a topic appears")
	}
	require.Zero(t, mem.Mappings()-1-1, "one of the writer, one of the reader")
}

// Nothing is left of a read-only log that was closed, whoever was reading.
func TestReadOnlyLeavesNothing(t *testing.T) {
	mem := memfs.New()
	w := openAt(t, mem, "/data", nil)
	p := partOf(t, w, "topic", &TopicConfig{SegmentBytes: 2048})
	appendValues(t, p, 0, 100)
	files, mappings := mem.OpenFiles(), mem.Mappings()
	r, err := open(mem, "/data", &Options{ReadOnly: true})
	require.NoError(t, err)
	q := partOf(t, r, "topic", nil)
	var loops sync.WaitGroup
	read := make(chan struct{}, 4)
	for range 4 {
		loops.Go(func() {
			n := 0
			for _, err := range q.Follow(ctx, 0, nil) {
				if err != nil {
					requireAll(t, err, ErrClosed)
					return
				}
				if n++; n == 100 {
					read <- struct{}{}
				}
			}
		})
	}
	for range 4 {
		<-read
	}
	require.Greater(t, mem.OpenFiles(), files+5)
	require.NoError(t, r.Close())
	loops.Wait()
	require.Equal(t, files, mem.OpenFiles())
	require.Equal(t, mappings, mem.Mappings())
	_, err = collect(q, 0)
	requireAll(t, err, ErrClosed)
	_, err = r.Topic("topic")
	requireAll(t, err, ErrClosed)
}

// One goroutine looks at bounds while a loop waits, and none when none does; the
// writer has a timer only when there was something to be shown.
func TestReadOnlyPollsWhileSomebodyWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memfs.New()
		w := openAt(t, mem, "/data", nil)
		p := partOf(t, w, "topic", nil)
		appendValues(t, p, 0, 1)
		time.Sleep(publishDelay)
		synctest.Wait()
		require.False(t, w.publisher.armed)
		fsys := errfs.New(mem)
		r := openAt(t, fsys, "/data", &Options{ReadOnly: true})
		q := partOf(t, r, "topic", nil)
		require.Equal(t, wantValues(0, 1), readValues(t, q, 0))
		require.False(t, r.watch.running)

		waiting, stop := context.WithCancel(ctx)
		seen := make(chan time.Time)
		go func() {
			defer close(seen)
			for _, err := range q.Follow(waiting, 1, nil) {
				if err != nil {
					return
				}
				seen <- time.Now()
			}
		}()
		time.Sleep(time.Second)
		before := fsys.Ops()
		time.Sleep(time.Second)
		require.LessOrEqual(t, fsys.Ops()-before, 2*int64(time.Second/maxPoll)+2, "an idle second is 63 looks of two loads")

		appended := time.Now()
		appendValues(t, p, 1, 2)
		require.LessOrEqual(t, (<-seen).Sub(appended), publishDelay+maxPoll)
		require.True(t, r.watch.running)
		stop()
		time.Sleep(maxPoll)
		synctest.Wait()
		require.False(t, r.watch.running)
		_, open := <-seen
		require.False(t, open)
	})
}

// Nothing of publishing hurts an append: if the file of bounds cannot be written,
// that is logged once, others see what they saw, and see all of it later.
func TestPublishingHurtsNoAppend(t *testing.T) {
	for name, kind := range map[string]errfs.Kind{"mapped": errfs.MapWrite, "written": errfs.Write} {
		t.Run(name, func(t *testing.T) {
			mem := memfs.New()
			fsys := errfs.New(mem)
			var under vfs.FS = fsys
			if kind == errfs.Write {
				under = unmapped{fsys}
			}
			var out strings.Builder
			logger := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelWarn}))
			w, err := openTuned(under, "/data", &Options{Logger: logger}, tuning{ceilingStep: 1000, boundsDelay: Forever, reserveBytes: 4096, sealAtOnce: true})
			require.NoError(t, err)
			p := partOf(t, w, "topic", &TopicConfig{SegmentBytes: 2048})
			appendValues(t, p, 0, 10)
			w.publish()
			r := readOnlyAt(t, mem, "/data")
			q := partOf(t, r, "topic", nil)
			require.Equal(t, wantValues(0, 10), readValues(t, q, 0))
			remove := fsys.Add(errfs.Rule{Kind: kind, Decide: func(op errfs.Op) error {
				if filepath.Base(op.Name) == boundsName && op.Len == 8 {
					return vfs.ErrFault
				}
				return nil
			}})
			appendValues(t, p, 10, 100)
			w.publish()
			w.publish()
			_, err = collect(q, 0)
			require.NoError(t, err)
			require.Equal(t, 1, strings.Count(out.String(), "level=WARN"), out.String())
			remove()
			appendValues(t, p, 100, 101)
			w.publish()
			require.Equal(t, wantValues(0, 101), readValues(t, q, 0))
			require.NoError(t, w.Close())
		})
	}
}

// Where the system does not tell one boot from another, what was flushed is
// shown, and once the writer is seen to write, all that he commits.
func TestReadOnlyWithoutABootID(t *testing.T) {
	mem := memfs.New()
	mem.SetBootID("")
	w, err := openTuned(mem, "/data", nil, tuning{ceilingStep: 1000, boundsDelay: Forever, reserveBytes: 4096, sealAtOnce: true})
	require.NoError(t, err)
	p := partOf(t, w, "topic", nil)
	appendValues(t, p, 0, 10)
	require.NoError(t, w.bounds.sync(siteBoundsFlush))
	appendValues(t, p, 10, 20)
	w.publish()
	r := readOnlyAt(t, mem, "/data")
	q := partOf(t, r, "topic", nil)
	require.Equal(t, wantValues(0, 10), readValues(t, q, 0))
	require.NoError(t, w.bounds.sync(siteBoundsFlush))
	require.Equal(t, wantValues(0, 20), readValues(t, q, 0))
	appendValues(t, p, 20, 30)
	require.Equal(t, wantValues(0, 20), readValues(t, q, 0))
	w.publish()
	require.Equal(t, wantValues(0, 30), readValues(t, q, 0))
	appendValues(t, p, 30, 31)
	require.NoError(t, kill(w)) // before it was published
	require.Equal(t, wantValues(0, 30), readValues(t, q, 0))
	w = openAt(t, mem, "/data", nil)
	require.Equal(t, wantValues(0, 31), readValues(t, q, 0))
	require.Equal(t, wantValues(0, 31), readValues(t, partOf(t, w, "topic", nil), 0))
}

// What is damaged is said to be so, and what is before and behind it can be read.
func TestReadOnlyOfDamage(t *testing.T) {
	mem := memfs.New()
	w := openAt(t, mem, "/data", nil)
	p := partOf(t, w, "topic", &TopicConfig{SegmentBytes: 2048})
	appendValues(t, p, 0, 100)
	second := p.segs.Load().list[1]
	r := readOnlyAt(t, mem, "/data")
	q := partOf(t, r, "topic", nil)
	followValues(t, q, 0, 100)
	flip := func(seg *segment, pos int64) {
		var b [1]byte
		_, err := seg.file.ReadAt(b[:], pos)
		require.NoError(t, err)
		b[0] ^= 1
		_, err = seg.file.WriteAt(b[:], pos)
		require.NoError(t, err)
	}
	flip(second, batch.HeaderSize) // the first record's length
	got, err := collect(q, 0)
	requireAll(t, err, ErrCorrupt)
	require.Equal(t, wantValues(0, int(second.base)), got)
	require.Equal(t, wantValues(int(second.base)+1, 100), readValues(t, q, second.base+1))

	// A header in the active segment, which a new reader walks over.
	active := p.active()
	flip(active, 3)
	other := partOf(t, readOnlyAt(t, mem, "/data"), "topic", nil)
	_, err = collect(other, active.base)
	requireAll(t, err, ErrCorrupt)
	require.Equal(t, wantValues(int(active.base)+1, 100), readValues(t, other, active.base+1))

	// All that follows is lost.
	require.NoError(t, w.bounds.sync(siteBoundsFlush))
	require.NoError(t, active.file.Truncate(10))
	last := partOf(t, readOnlyAt(t, mem, "/data"), "topic", nil)
	_, err = collect(last, active.base)
	requireAll(t, err, ErrCorrupt)

	name := filepath.Join(p.dir, logFileName(0))
	require.NoError(t, mem.Remove(name))
	missing := partOf(t, readOnlyAt(t, mem, "/data"), "topic", nil)
	_, err = collect(missing, Earliest)
	requireAll(t, err, ErrCorrupt, fs.ErrNotExist)
}

// Damage to the metadata log fails opening: topics that would be missing, or should
// be gone, are not to be guessed.
func TestReadOnlyOfDamagedMetadata(t *testing.T) {
	mem := memfs.New()
	w := openAt(t, mem, "/data", nil)
	partOf(t, w, "one", nil)
	r := readOnlyAt(t, mem, "/data")
	partOf(t, w, "two", nil)
	partOf(t, r, "two", nil)
	f, err := mem.OpenWrite("/data/meta/" + logFileName(0))
	require.NoError(t, err)
	_, err = f.WriteAt([]byte{0xff}, 100)
	require.NoError(t, errors.Join(err, f.Close()))
	_, err = open(mem, "/data", &Options{ReadOnly: true})
	requireAll(t, err, ErrCorrupt)
	partOf(t, r, "one", nil) // what was known stays known
}

// Bounds that go back by a truncation: a loop that had gone further gets the place
// at which the log and what it saw part.
func TestReadOnlyOfATruncation(t *testing.T) {
	mem := memfs.New()
	w := openAt(t, mem, "/data", nil)
	p := partOf(t, w, "topic", &TopicConfig{SegmentBytes: 2048})
	appendValues(t, p, 0, 100)
	q := partOf(t, readOnlyAt(t, mem, "/data"), "topic", nil)
	require.Equal(t, wantValues(0, 100), followValues(t, q, 0, 100))
	next, stop := iter.Pull2(q.Follow(ctx, 98, nil))
	defer stop()
	for range 2 {
		_, err, _ := next()
		require.NoError(t, err)
	}
	require.NoError(t, p.becomeReplica(ctx, 100))
	require.NoError(t, p.truncateTo(ctx, 51))
	_, err := p.setHighWatermark(ctx, 51)
	require.NoError(t, err)
	p.publishNow()
	_, err, _ = next()
	requireAll(t, err, ErrOffsetOutOfRange)
	var o *OffsetError
	require.ErrorAs(t, err, &o)
	require.EqualValues(t, 51, o.End)
	require.Equal(t, wantValues(0, 51), readValues(t, q, 0))
}

// Where less is committed than there is, as of a replica, both ends are shown.
func TestReadOnlyShowsTheLogEnd(t *testing.T) {
	mem := memfs.New()
	p := partOf(t, openAt(t, mem, "/data", nil), "topic", async)
	appendValues(t, p, 0, 10)
	q := partOf(t, readOnlyAt(t, mem, "/data"), "topic", nil)
	require.NoError(t, p.becomeReplica(ctx, 7))
	p.publishNow()
	require.Equal(t, Bounds{LastStable: 7, HighWatermark: 7, End: 10}, p.Bounds())
	require.Equal(t, p.Bounds(), q.Bounds())
}

// Topics that the writer creates, changes and deletes: a loop that is at the end
// of a deleted one ends with ErrTopicNotFound, also if there is another of that
// name, whose records it never shows.
func TestReadOnlySeesTopicsChange(t *testing.T) {
	fsys, dir := testDir(t)
	w := openAt(t, fsys, dir, nil)
	p := partOf(t, w, "topic", &TopicConfig{SegmentBytes: 2048})
	appendValues(t, p, 0, 100)
	r := readOnlyAt(t, fsys, dir)
	r.files.limit = 2 // files are closed, and opened again by their names
	q := partOf(t, r, "topic", nil)
	require.Equal(t, wantValues(0, 100), followValues(t, q, 0, 100))
	next, stop := iter.Pull2(q.Follow(ctx, 99, nil))
	defer stop()
	_, err, _ := next()
	require.NoError(t, err)
	behind, stopBehind := iter.Pull2(q.Records(ctx, 0, nil))
	defer stopBehind()
	_, err, _ = behind()
	require.NoError(t, err)

	require.NoError(t, p.topic.SetPartitions(ctx, 2))
	require.NoError(t, p.topic.SetConfig(ctx, func(c *TopicConfig) { c.MaxMessageBytes = 500 }))
	top, err := r.Topic("topic")
	require.NoError(t, err)
	require.Equal(t, p.topic.Config(), top.Config())
	require.Same(t, top, q.topic)
	require.Equal(t, 2, top.NumPartitions())

	require.NoError(t, w.DeleteTopic(ctx, "topic"))
	again := partOf(t, w, "topic", &TopicConfig{SegmentBytes: 2048})
	for i := range 100 {
		_, err := again.Append(ctx, Record{Value: fmt.Appendf(nil, "w%d", i)})
		require.NoError(t, err)
	}
	_, err, _ = next()
	requireAll(t, err, ErrTopicNotFound)
	for n := 1; ; n++ {
		rec, err, ok := behind()
		if err != nil || !ok {
			requireAll(t, err, ErrTopicNotFound)
			break
		}
		require.Equal(t, fmt.Sprintf("v%d", n), string(rec.Value))
	}
	_, err = collect(q, 0)
	requireAll(t, err, ErrTopicNotFound)
	_, err = q.offsetAt(ctx, 0)
	requireAll(t, err, ErrTopicNotFound)

	fresh := partOf(t, r, "topic", nil)
	require.Equal(t, again.topic.ID(), fresh.topic.ID())
	require.Equal(t, "w99", followValues(t, fresh, 0, 100)[99])
	require.Equal(t, "w50", readValues(t, fresh, 50)[0])
	require.NoError(t, w.DeleteTopic(ctx, "topic"))
	for range r.Topics() {
		t.Error("the topic is still there")
	}
}

// The metadata log is read from a snapshot, and the reader goes on from it.
func TestReadOnlyReadsMetadataSnapshots(t *testing.T) {
	mem := memfs.New()
	tune := defaultTuning
	tune.snapshotEvery, tune.sealAtOnce = 3, true
	w, err := openTuned(mem, "/data", nil, tune)
	require.NoError(t, err)
	r := readOnlyAt(t, mem, "/data")
	for i := range 20 {
		name := fmt.Sprintf("topic-%d", i)
		partOf(t, w, name, nil)
		partOf(t, r, name, nil)
		partOf(t, readOnlyAt(t, mem, "/data"), name, nil)
	}
	require.NoError(t, w.Close())
}

// Retention removes segments: a loop in front of them goes on, one that it passes
// gets an *OffsetError with the start, and never jumps.
func TestReadOnlySurvivesRetention(t *testing.T) {
	fsys, dir := testDir(t)
	w := openAt(t, fsys, dir, nil)
	p := partOf(t, w, "topic", &TopicConfig{SegmentBytes: 2048})
	appendValues(t, p, 0, 200)
	r := readOnlyAt(t, fsys, dir)
	r.files.limit = 2
	q := partOf(t, r, "topic", nil)
	require.Equal(t, wantValues(0, 200), followValues(t, q, 0, 200))
	at := func(o Offset) func() (Record, error, bool) {
		next, stop := iter.Pull2(q.Follow(ctx, o, nil))
		t.Cleanup(stop)
		rec, err, _ := next()
		require.NoError(t, err)
		require.Equal(t, o, rec.Offset)
		return next
	}
	passed, behind, ahead := at(0), at(10), at(199)
	list := p.segs.Load().list
	n := len(list) - 2
	start := list[n].base
	require.NoError(t, p.DeleteBefore(ctx, start))
	w.tasks.Wait() // until the files are gone, they can be read
	for last := Offset(0); ; last++ {
		rec, err, _ := passed()
		if err != nil {
			var o *OffsetError
			require.ErrorAs(t, err, &o)
			require.Equal(t, start, o.Start)
			break
		}
		require.Equal(t, last+1, rec.Offset)
		require.Less(t, last, start)
	}
	appendValues(t, p, 200, 300)
	rec, err, _ := ahead()
	require.NoError(t, err)
	require.EqualValues(t, 200, rec.Offset)
	require.Equal(t, wantValues(200, 300), followValues(t, q, 200, 100))
	require.Equal(t, wantValues(int(start), 300), readValues(t, q, Earliest))
	require.Equal(t, start, q.Bounds().Start)
	for last := Offset(10); ; last++ {
		rec, err, _ := behind()
		if err != nil {
			requireAll(t, err, ErrOffsetOutOfRange)
			break
		}
		require.Equal(t, last+1, rec.Offset)
		require.Less(t, last, start)
	}
	_, err = collect(q, 0)
	requireAll(t, err, ErrOffsetOutOfRange)
	require.NoError(t, p.DeleteBefore(ctx, start+1)) // inside a segment
	require.Equal(t, wantValues(int(start)+1, 300), readValues(t, q, Earliest))
	require.NoError(t, p.DeleteBefore(ctx, Latest))
	require.Equal(t, p.Bounds(), q.Bounds())
	require.Empty(t, readValues(t, q, Earliest))
	requireAll(t, q.DeleteBefore(ctx, 300), ErrReadOnly)
}

// What a reader finds on the disk after a restart of the machine counts only if no
// writer has come meanwhile, who may have written what is not committed.
func TestReadOnlyLooksAgainWhenAWriterComes(t *testing.T) {
	mem := memfs.New()
	w, err := open(mem, "/data", nil)
	require.NoError(t, err)
	appendValues(t, partOf(t, w, "topic", nil), 0, 3)
	require.NoError(t, kill(w))
	disk := mem.CrashClone(1)
	fsys := errfs.New(disk)
	r := openAt(t, fsys, "/data", &Options{ReadOnly: true})
	top, err := r.Topic("topic")
	require.NoError(t, err)
	q := top.all()[0]
	var once sync.Once
	fsys.Add(errfs.Rule{Kind: errfs.ReadDir, Before: func(op errfs.Op) {
		if op.Name != q.dir {
			return
		}
		once.Do(func() {
			under := errfs.New(disk)
			w = openAt(t, under, "/data", nil)
			p := partOf(t, w, "topic", nil)
			w.tasks.Wait() // opening has begun flushes, of the metadata log too
			under.FailSite(siteFlush, 1, nil)
			_, err := p.Append(ctx, Record{Value: []byte("not committed")})
			requireAll(t, err, ErrInDoubt)
		})
	}})
	require.Equal(t, wantValues(0, 3), readValues(t, q, 0))
	require.NotNil(t, w)
}

// An index is written at a roll, and may know a batch that is not shown yet. A
// reader that comes then finds the place of that batch at once, and all before it
// is there to be read.
func TestReadOnlyBeginsWhereTheIndexEnds(t *testing.T) {
	eachFlush(t, func(t *testing.T, flush FlushPolicy) {
		mem := memfs.New()
		fsys := errfs.New(mem)
		w, err := openTuned(fsys, "/data", nil, tuning{ceilingStep: 1000, boundsDelay: Forever, reserveBytes: 4096, sealAtOnce: true})
		require.NoError(t, err)
		p := partOf(t, w, "topic", &TopicConfig{Flush: flush, SegmentBytes: 4 * indexInterval})
		appendSized := func(from, n, size int) {
			for i := range n {
				_, err := p.Append(ctx, Record{Key: fmt.Appendf(nil, "v%d", from+i), Value: make([]byte, size)})
				require.NoError(t, err)
			}
		}
		appendSized(0, 10, 10)
		w.publish()
		appendSized(10, 1, indexInterval) // behind it, an entry is due
		appendSized(11, 1, indexInterval)
		w.publish()
		appendSized(12, 1, indexInterval)
		var got []int64
		reader := func(op errfs.Op) {
			if filepath.Ext(op.Name) != logSuffix || len(got) > 0 {
				return
			}
			q := partOf(t, readOnlyAt(t, mem, "/data"), "topic", nil)
			for v, err := range q.Views(ctx, 0, nil) {
				require.NoError(t, err)
				got = append(got, int64(v.Offset()))
			}
			require.EqualValues(t, len(got), q.Bounds().HighWatermark)
		}
		defer fsys.Add(errfs.Rule{Kind: errfs.Create, Before: reader})()
		appendSized(13, 1, 2*indexInterval) // rolls
		require.Len(t, p.segs.Load().list, 2)
		require.Equal(t, []int64{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, got)
		require.NoError(t, w.Close())
	})
}

// The same behind a gap that a power cut has left: the batch that the index knows is
// the first one behind it.
func TestReadOnlyBeginsBeforeAGap(t *testing.T) {
	disk := memfs.New()
	tune := tuning{ceilingStep: 50, boundsDelay: Forever, reserveBytes: 4096, sealAtOnce: true}
	cfg := &TopicConfig{Flush: FlushAsync, FlushInterval: Forever, SegmentBytes: 4 * indexInterval}
	w, err := openTuned(disk, "/data", nil, tune)
	require.NoError(t, err)
	large := Record{Value: make([]byte, indexInterval)}
	_, err = partOf(t, w, "topic", cfg).Append(ctx, large)
	require.NoError(t, err)
	require.NoError(t, w.Sync(ctx))
	disk = disk.CrashClone(1)
	require.NoError(t, kill(w))
	fsys := errfs.New(disk)
	w, err = openTuned(fsys, "/data", nil, tune)
	require.NoError(t, err)
	p := partOf(t, w, "topic", cfg)
	require.EqualValues(t, 50, p.Bounds().End)
	for range 2 {
		_, err = p.Append(ctx, large)
		require.NoError(t, err)
	}
	looked := false
	defer fsys.Add(errfs.Rule{Kind: errfs.Create, Before: func(op errfs.Op) {
		if filepath.Ext(op.Name) == logSuffix {
			looked = true
			q := partOf(t, readOnlyAt(t, disk, "/data"), "topic", nil)
			require.Len(t, readValues(t, q, 0), 1)
		}
	}})()
	_, err = p.Append(ctx, large) // rolls
	require.NoError(t, err)
	require.True(t, looked)
	w.publish()
	require.Len(t, readValues(t, partOf(t, readOnlyAt(t, disk, "/data"), "topic", nil), 0), 4)
	require.NoError(t, w.Close())
}

// A writer that closes cuts the space that it has set aside behind the end, also
// while a reader that has seen the file longer walks over it.
func TestReadOnlyWalksOverWhatIsCut(t *testing.T) {
	mem := memfs.New()
	w, err := openTuned(mem, "/data", nil, tuning{ceilingStep: 1000, boundsDelay: Forever, reserveBytes: 4096, sealAtOnce: true})
	require.NoError(t, err)
	p := partOf(t, w, "topic", &TopicConfig{Flush: FlushAsync, FlushInterval: Forever})
	appendValues(t, p, 0, 10)
	w.tasks.Wait()
	name := p.active().file.Name()
	long, err := mem.Stat(name)
	require.NoError(t, err)
	w.publish()
	fsys := errfs.New(mem)
	q := partOf(t, openAt(t, fsys, "/data", &Options{ReadOnly: true}), "topic", nil)
	var once sync.Once
	defer fsys.Add(errfs.Rule{Kind: errfs.Read, Before: func(op errfs.Op) {
		if op.Name == name {
			once.Do(func() { require.NoError(t, w.Close()) })
		}
	}})()
	require.Equal(t, wantValues(0, 10), readValues(t, q, 0))
	short, err := mem.Stat(name)
	require.NoError(t, err)
	require.Less(t, short.Size, long.Size)
}

// A writer that rolls whenever the reader lists the files keeps nothing from it.
func TestReadOnlyKeepsUpWithRolls(t *testing.T) {
	mem := memfs.New()
	w, err := openTuned(mem, "/data", nil, tuning{ceilingStep: 1000, boundsDelay: Forever, reserveBytes: 4096, sealAtOnce: true})
	require.NoError(t, err)
	p := partOf(t, w, "topic", &TopicConfig{SegmentBytes: 2048})
	appendValues(t, p, 0, 50)
	w.publish()
	fsys := errfs.New(mem)
	q := partOf(t, openAt(t, fsys, "/data", &Options{ReadOnly: true}), "topic", nil)
	n := 50
	remove := fsys.Add(errfs.Rule{Kind: errfs.ReadDir, Before: func(op errfs.Op) {
		if op.Name == q.dir {
			appendValues(t, p, n, n+50)
			n += 50
		}
	}})
	for from := 0; from < 500; from += 50 {
		require.Equal(t, wantValues(from, from+50), followValues(t, q, Offset(from), 50))
	}
	remove()
	require.GreaterOrEqual(t, n, 500)
	w.publish()
	require.Equal(t, wantValues(0, n), readValues(t, q, 0))
	require.NoError(t, w.Close())
}

// While a writer is in the midst of a truncation, or has died there, what is asked
// for may not be there: a loop waits a while for that to end, but not once its ctx has.
func TestReadOnlyWaitsForATruncation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memfs.New()
		w := openAt(t, mem, "/data", nil)
		p := partOf(t, w, "topic", &TopicConfig{SegmentBytes: 2048})
		appendValues(t, p, 0, 100)
		p.publishNow()
		r := readOnlyAt(t, mem, "/data")
		q := partOf(t, r, "topic", nil)
		require.Equal(t, wantValues(0, 100), readValues(t, q, 0))
		r.files.closeUnused()
		r.files.closeUnused()
		p.mu.Lock()
		p.beginChange(true)
		p.mu.Unlock()
		require.NoError(t, mem.Remove(p.segs.Load().list[0].file.Name()))
		waiting, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
		defer cancel()
		began := time.Now()
		for _, err := range q.Records(waiting, 0, nil) {
			requireAll(t, err, context.DeadlineExceeded)
		}
		require.Equal(t, 10*time.Millisecond, time.Since(began))
		_, err := collect(q, 0)
		requireAll(t, err, errUnsettled)
		require.Greater(t, time.Since(began), time.Second)
		p.mu.Lock()
		p.endChange()
		p.mu.Unlock()
	})
}

// The directory of a deleted topic's name may be another topic's before a reader has
// heard of that: what it has shown stays as it is.
func TestReadOnlyListsNoOtherTopic(t *testing.T) {
	mem := memfs.New()
	w := openAt(t, mem, "/data", nil)
	p := partOf(t, w, "topic", &TopicConfig{SegmentBytes: 2048})
	appendValues(t, p, 0, 100)
	p.publishNow()
	q := partOf(t, readOnlyAt(t, mem, "/data"), "topic", nil)
	require.Equal(t, wantValues(0, 100), readValues(t, q, 0))
	before := q.Segments()
	require.NoError(t, w.DeleteTopic(ctx, "topic"))
	w.tasks.Wait()
	appendValues(t, partOf(t, w, "topic", &TopicConfig{SegmentBytes: 1500}), 0, 100)
	_, err := q.refresh(ctx, true)
	requireAll(t, err, ErrCorrupt)
	require.Equal(t, before, q.Segments())
}

// What is asked of a reader that has not read anything is as of now.
func TestReadOnlyAnswersAtOnce(t *testing.T) {
	mem := memfs.New()
	p := partOf(t, openAt(t, mem, "/data", nil), "topic", &TopicConfig{SegmentBytes: 2048})
	appendValues(t, p, 0, 100)
	p.publishNow()
	fresh := func() *Partition { return partOf(t, readOnlyAt(t, mem, "/data"), "topic", nil) }
	require.Equal(t, p.Bounds(), fresh().Bounds())
	require.Equal(t, p.Segments(), fresh().Segments())
	late, err := fresh().OffsetAt(ctx, time.Now().Add(time.Hour))
	require.NoError(t, err)
	require.EqualValues(t, 100, late)
	first, err := fresh().OffsetAt(ctx, time.Time{})
	require.NoError(t, err)
	require.Zero(t, first)
	require.Equal(t, wantValues(99, 100), readValues(t, fresh(), 99))
}

// A writer has deleted records, and was killed; the next one is opening the log. A
// reader that has not looked meanwhile sees what is left.
func TestReadOnlyAfterADeletionAndAKill(t *testing.T) {
	mem := memfs.New()
	w, err := open(mem, "/data", nil)
	require.NoError(t, err)
	p := partOf(t, w, "topic", &TopicConfig{SegmentBytes: 2048})
	appendValues(t, p, 0, 100)
	p.publishNow()
	r := readOnlyAt(t, mem, "/data")
	q := partOf(t, r, "topic", nil)
	require.Equal(t, wantValues(0, 100), readValues(t, q, 0))
	require.NoError(t, p.DeleteBefore(ctx, 60))
	w.tasks.Wait()
	require.NoError(t, kill(w))
	r.files.closeUnused()
	r.files.closeUnused()
	fsys := errfs.New(mem)
	looked := false
	fsys.Add(errfs.Rule{Kind: errfs.ReadDir, Before: func(op errfs.Op) {
		if op.Name == q.dir && !looked {
			looked = true
			require.Equal(t, wantValues(60, 100), readValues(t, q, Earliest))
		}
	}})
	openAt(t, fsys, "/data", nil)
	require.True(t, looked)
	require.Equal(t, wantValues(60, 100), readValues(t, q, Earliest))
}

// A reader that could not read leader-epoch-checkpoint for once goes on when the next
// writer has begun an epoch behind the one that it did not hear of.
func TestReadOnlyMissesAnEpoch(t *testing.T) {
	mem := memfs.New()
	fsys := errfs.New(mem)
	var q *Partition
	var next func() (Record, error, bool)
	for life := range 3 {
		w, err := open(mem, "/data", nil)
		require.NoError(t, err)
		p := partOf(t, w, "topic", nil)
		remove := func() {}
		if life == 1 {
			remove = fsys.Add(errfs.Rule{Kind: errfs.Open, Decide: func(op errfs.Op) error {
				if filepath.Base(op.Name) == epochCheckpointName {
					return vfs.ErrNoFiles
				}
				return nil
			}})
		}
		appendValues(t, p, 10*life, 10*life+10)
		if q == nil {
			q = partOf(t, openAt(t, fsys, "/data", &Options{ReadOnly: true}), "topic", nil)
			n, stop := iter.Pull2(q.Follow(ctx, 0, nil))
			defer stop()
			next = n
		}
		for i := range 10 {
			rec, err, _ := next()
			require.NoError(t, err)
			require.EqualValues(t, 10*life+i, rec.Offset)
		}
		remove()
		require.NoError(t, kill(w))
	}
}
