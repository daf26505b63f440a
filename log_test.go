package riffle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// TestReopenFindsEverything closes and opens a log and shows that topics, ids,
// configurations and records are there.
func TestReopenFindsEverything(t *testing.T) {
	fsys, dir := testDir(t)
	l, err := open(fsys, filepath.Join(dir, "several", "levels"), nil)
	require.NoError(t, err)
	cfg := &TopicConfig{
		Partitions: 3, Flush: FlushAsync, FlushInterval: 5 * time.Second, Compression: CompressionZstd,
		TimestampType: LogAppendTime, MaxMessageBytes: 5000, SegmentBytes: 1 << 20, SegmentAge: time.Hour,
	}
	full, err := l.CreateTopic(ctx, "full", cfg)
	require.NoError(t, err)
	plain, err := l.CreateTopic(ctx, "plain", nil)
	require.NoError(t, err)
	require.NotEqual(t, full.ID(), plain.ID())
	for p := range full.Partitions() {
		for i := range p.Index() {
			_, err := p.Append(ctx, Record{Value: fmt.Appendf(nil, "v%d", i)})
			require.NoError(t, err)
		}
	}
	require.NoError(t, l.Close())

	l = openAt(t, fsys, filepath.Join(dir, "several", "levels"), nil)
	again, err := l.Topic("full")
	require.NoError(t, err)
	require.Equal(t, full.ID(), again.ID())
	require.Equal(t, cfg.over(builtin()), again.Config())
	require.Equal(t, "full", again.Name())
	require.Equal(t, 3, again.NumPartitions())
	for p := range again.Partitions() {
		require.Equal(t, wantValues(0, p.Index()), readValues(t, p, Earliest))
		require.Same(t, again, p.Topic())
	}
	var names []string
	for top := range l.Topics() {
		names = append(names, top.Name())
	}
	require.Equal(t, []string{"full", "plain"}, names)
	again, err = l.Topic("plain")
	require.NoError(t, err)
	require.Equal(t, builtin(), again.Config())
}

// TestDefaultsInTwoLayers shows that a field which a topic leaves zero follows
// Options.Defaults, also those of a later Open, and that Partitions and Flush
// stay what they were when the topic was created.
func TestDefaultsInTwoLayers(t *testing.T) {
	fsys, dir := testDir(t)
	l, err := open(fsys, dir, &Options{Defaults: TopicConfig{Partitions: 2, Flush: FlushAsync, MaxMessageBytes: 100}})
	require.NoError(t, err)
	top, err := l.CreateTopic(ctx, "topic", &TopicConfig{Compression: CompressionGzip})
	require.NoError(t, err)
	require.Equal(t, TopicConfig{
		Partitions: 2, Flush: FlushAsync, Compression: CompressionGzip, MaxMessageBytes: 100,
	}.over(builtin()), top.Config())
	require.NoError(t, l.Close())

	l = openAt(t, fsys, dir, &Options{Defaults: TopicConfig{
		Partitions: 5, Compression: CompressionLZ4, MaxMessageBytes: 200, FlushInterval: Forever,
	}})
	top, err = l.Topic("topic")
	require.NoError(t, err)
	require.Equal(t, TopicConfig{
		Partitions: 2, Flush: FlushAsync, FlushInterval: Forever, Compression: CompressionGzip, MaxMessageBytes: 200,
	}.over(builtin()), top.Config())
}

// TestInvalidOptionsListEveryProblem gives each field a value that it cannot
// have.
func TestInvalidOptionsListEveryProblem(t *testing.T) {
	bad := TopicConfig{
		Partitions: -1, Flush: 7, FlushInterval: time.Microsecond, Compression: -1, TimestampType: 3, MaxMessageBytes: 64<<20 + 1,
		SegmentBytes: 1023, SegmentAge: -time.Second, Cleanup: 9, Retention: -1, RetentionBytes: -2, MinCleanableRatio: 1.5,
		DeleteRetention: 1500 * time.Microsecond, MinCompactionLag: time.Hour, MaxCompactionLag: time.Minute,
	}
	fsys, dir := testDir(t)
	_, err := open(fsys, dir, &Options{Defaults: bad, DiskReserve: -2})
	require.ErrorIs(t, err, ErrInvalidOptions)
	require.ErrorContains(t, err, "DiskReserve")
	_, statErr := fsys.Stat(dir)
	require.ErrorIs(t, statErr, fs.ErrNotExist, "nothing was made")

	l := openAt(t, fsys, dir, nil)
	_, createErr := l.CreateTopic(ctx, "topic", &bad)
	require.ErrorIs(t, createErr, ErrInvalidOptions)
	for _, err := range []error{err, createErr} {
		for _, field := range []string{
			"Partitions", "Flush ", "FlushInterval", "Compression", "TimestampType", "MaxMessageBytes", "SegmentBytes", "SegmentAge",
			"Cleanup ", "Retention ", "RetentionBytes", "MinCleanableRatio", "DeleteRetention", "MinCompactionLag is 1h0m0s, more than MaxCompactionLag",
		} {
			require.ErrorContains(t, err, field)
		}
	}
	_, err = l.Topic("topic")
	require.ErrorIs(t, err, ErrTopicNotFound)
}

// TestTopicNames shows which names are taken (Kafka's Topic.validate), and that
// names which differ by '.' and '_' alone collide.
func TestTopicNames(t *testing.T) {
	fsys, dir := testDir(t)
	l := openAt(t, fsys, dir, nil)
	for _, name := range []string{"", ".", "..", "a b", "a/b", "ä", "a\x00", strings.Repeat("x", 250), "__cluster_metadata", "__consumer_offsets"} {
		_, err := l.CreateTopic(ctx, name, nil)
		require.ErrorIs(t, err, ErrInvalidTopic, name)
	}
	longest := strings.Repeat("x", 249)
	for _, name := range []string{"a", "A.b-c_9", "...", "-", longest} {
		appendValues(t, partOf(t, l, name, nil), 0, 1)
	}
	_, err := l.CreateTopic(ctx, "A_b-c.9", nil)
	require.ErrorIs(t, err, ErrInvalidTopic)
	_, err = l.CreateTopic(ctx, "a", nil)
	require.ErrorIs(t, err, ErrTopicExists)
	_, err = l.Topic("b")
	require.ErrorIs(t, err, ErrTopicNotFound)
	top, err := l.Topic("a")
	require.NoError(t, err)
	for _, i := range []int{-1, 1} {
		_, err = top.Partition(i)
		require.ErrorIs(t, err, ErrPartitionNotFound)
	}
}

// TestEnsureTopic shows that it creates once, returns what is there, and
// refuses one with fewer partitions.
func TestEnsureTopic(t *testing.T) {
	fsys, dir := testDir(t)
	l := openAt(t, fsys, dir, nil)
	var wg sync.WaitGroup
	topics := make([]*Topic, 20)
	for i := range topics {
		wg.Go(func() {
			var err error
			if topics[i], err = l.EnsureTopic(ctx, "topic", &TopicConfig{Partitions: 2}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, top := range topics {
		require.Same(t, topics[0], top)
	}
	_, err := l.EnsureTopic(ctx, "topic", &TopicConfig{Partitions: 1, Flush: FlushAsync})
	require.NoError(t, err)
	_, err = l.EnsureTopic(ctx, "topic", &TopicConfig{Partitions: 3})
	require.ErrorIs(t, err, ErrTopicMismatch)
	require.Equal(t, Offset(1), l.meta.Bounds().End, "created once")
}

// TestCreateTopicWhenContextEnds shows that a creation whose caller has left is
// finished all the same, and that the name is free again if it failed.
func TestCreateTopicWhenContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := errfs.New(memfs.New())
		l := openAt(t, fsys, "/data", nil)
		_, release := fsys.Block(errfs.Rule{Site: siteFlush})
		c, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := l.CreateTopic(c, "topic", nil)
		requireAll(t, err, ErrInDoubt, context.DeadlineExceeded)
		_, err = l.CreateTopic(c, "other", nil)
		requireAll(t, err, context.DeadlineExceeded)
		require.NotErrorIs(t, err, ErrInDoubt)
		release()
		_, err = l.CreateTopic(ctx, "topic", nil) // waits for the one under way
		require.ErrorIs(t, err, ErrTopicExists)

		fsys.FailKind(errfs.Write, 2, vfs.ErrNoSpace) // also with the space set aside
		_, err = l.CreateTopic(ctx, "third", nil)
		require.ErrorIs(t, err, ErrDiskFull)
		_, err = l.CreateTopic(ctx, "third", nil)
		require.NoError(t, err)
	})
}

// TestOneLogAtATime opens a directory that is open: ErrLocked, until the other
// is closed.
func TestOneLogAtATime(t *testing.T) {
	fsys, dir := testDir(t)
	l, err := open(fsys, dir, nil)
	require.NoError(t, err)
	_, err = open(fsys, dir, nil)
	require.ErrorIs(t, err, ErrLocked)
	require.ErrorContains(t, err, dir)
	require.NoError(t, l.Close())
	openAt(t, fsys, dir, nil)
}

// TestOpenSaysWhatIsInTheWay opens paths that cannot be a log: errors with the
// path, and nothing left open or locked.
func TestOpenSaysWhatIsInTheWay(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, []byte("x"), 0o644))
	for _, path := range []string{file, filepath.Join(file, "below")} {
		_, err := Open(path, nil)
		var pe *fs.PathError
		require.ErrorAs(t, err, &pe, path)
		require.Contains(t, []string{file, path}, pe.Path)
	}

	_, err := Open("", nil)
	require.ErrorIs(t, err, ErrInvalidOptions)

	fsys := errfs.New(memfs.New())
	fsys.FailKind(errfs.Mkdir, 1, fs.ErrPermission)
	_, err = open(fsys, "/data", nil)
	require.ErrorIs(t, err, fs.ErrPermission)
	require.ErrorContains(t, err, "/data")

	for content, want := range map[string]error{
		"":                          ErrCorrupt,
		"=x":                        ErrCorrupt,
		"version=1\ncluster.id=x\n": ErrCorrupt,
		"version=1\ncluster.id=x\ndirectory.id=y\n":                   errors.ErrUnsupported,
		"version=1\ncluster.id=x\ndirectory.id=y\nriffle.format=99\n": errors.ErrUnsupported,
	} {
		dir := t.TempDir()
		name := filepath.Join(dir, metaPropertiesName)
		require.NoError(t, os.WriteFile(name, []byte(content), 0o644))
		_, err := Open(dir, nil)
		require.ErrorIs(t, err, want, content)
		require.ErrorContains(t, err, name)
	}
}

// TestLaterVersionsMetadataIsRefused appends to the metadata log what this
// version does not know.
func TestLaterVersionsMetadataIsRefused(t *testing.T) {
	for _, rec := range []Record{
		{Key: []byte("quota"), Value: []byte("{}")},
		{Key: []byte(kindTopic), Value: []byte(`{"name":"x","id":"` + formatID(newID()) + `","partitions":1,"config":{},"rack":"a"}`)},
		{Key: []byte(kindTopic), Value: []byte(`{"name":"x","id":"` + formatID(newID()) + `","partitions":1,"config":{"segment.jitter.ms":"1"}}`)},
		{Key: []byte(kindTopic), Value: []byte(`not json`)},
		{Key: []byte(kindDeletion), Value: []byte(`{"id":"` + formatID(newID()) + `"}`)},
		{Key: []byte(kindHardState), Value: []byte(`{}`)},
	} {
		fsys, dir := testDir(t)
		l, err := open(fsys, dir, nil)
		require.NoError(t, err)
		_, err = l.meta.Append(ctx, rec)
		require.NoError(t, err)
		require.NoError(t, l.Close())
		_, err = open(fsys, dir, nil)
		require.ErrorIs(t, err, errors.ErrUnsupported)
	}
}

// TestErrorAtEveryOperation lets each operation of opening, creating, appending
// and closing fail once: the error comes back, nothing panics, nothing stays
// open, and what was acknowledged is there afterwards.
func TestErrorAtEveryOperation(t *testing.T) {
	for n := int64(1); ; n++ {
		mem := memfs.New()
		fsys := errfs.New(mem)
		fsys.FailOp(n, nil)
		acked := 0
		l, err := open(fsys, "/data", nil)
		if err == nil {
			acked, err = appendUntilError(l)
			err = errors.Join(err, l.Close())
		}
		if fsys.Ops() < n {
			require.NoError(t, err)
			require.Equal(t, 3, acked)
			require.Greater(t, n, int64(30), "the workload is not that short")
			return
		}
		require.Zero(t, mem.OpenFiles(), "operation %d", n)
		l = openAt(t, mem, "/data", nil)
		got := readValues(t, partOf(t, l, "topic", nil), Earliest)
		require.GreaterOrEqual(t, len(got), acked, "operation %d", n)
		require.Equal(t, wantValues(0, len(got)), got)
		require.NoError(t, l.Close())
	}
}

func appendUntilError(l *Log) (acked int, err error) {
	top, err := l.EnsureTopic(ctx, "topic", nil)
	if err != nil {
		return 0, err
	}
	for ; acked < 3; acked++ {
		if _, err := top.all()[0].Append(ctx, Record{Value: fmt.Appendf(nil, "v%d", acked)}); err != nil {
			return acked, err
		}
	}
	return acked, nil
}

// TestCloseTwiceFromEverywhere closes a log from many goroutines while others
// append and read: all get the same answer, and everything ends.
func TestCloseTwiceFromEverywhere(t *testing.T) {
	fsys, dir := testDir(t)
	l, err := open(fsys, dir, nil)
	require.NoError(t, err)
	p := partOf(t, l, "topic", nil)
	appendValues(t, p, 0, 1)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				if _, err := p.Append(ctx, Record{Value: []byte("x")}); err != nil {
					requireAll(t, err, ErrClosed)
					return
				}
			}
		})
		wg.Go(func() {
			for _, err := range p.Follow(ctx, Earliest, nil) {
				if err != nil {
					requireAll(t, err, ErrClosed)
				}
			}
		})
	}
	for range 4 {
		wg.Go(func() {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.NoError(t, l.Close())
	_, err = l.CreateTopic(ctx, "other", nil)
	require.ErrorIs(t, err, ErrClosed)
	_, err = l.Topic("topic")
	require.ErrorIs(t, err, ErrClosed)
	openAt(t, fsys, dir, nil)
}

// TestShutdownLeavesAHangingDisk closes a log whose disk does not answer: it
// returns with ctx, keeps the directory locked, and finishes when it can.
func TestShutdownLeavesAHangingDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := errfs.New(memfs.New())
		l := openAt(t, fsys, "/data", nil)
		p := partOf(t, l, "topic", async)
		appendValues(t, p, 0, 1)
		_, release := fsys.Block(errfs.Rule{Site: siteFlush})
		began := time.Now()
		require.ErrorIs(t, l.Close(), context.DeadlineExceeded)
		require.Equal(t, closeTimeout, time.Since(began))
		_, err := open(fsys, "/data", nil)
		require.ErrorIs(t, err, ErrLocked)
		release()
		require.NoError(t, l.Shutdown(ctx))
		openAt(t, fsys, "/data", nil)
	})
}

// TestPanicOfOursFailsTheLog makes code of the log panic, on a goroutine of its
// own and on the caller's: the host lives, the log is closed with the cause, and
// nobody waits for ever.
func TestPanicOfOursFailsTheLog(t *testing.T) {
	cancelable, cancel := context.WithCancel(ctx) // so that a goroutine of the log flushes
	defer cancel()
	for _, rule := range []errfs.Rule{{Site: siteFlush}, {Kind: errfs.Write}, {Site: siteRollSyncDir}, {Kind: errfs.Read}} {
		for _, c := range []context.Context{cancelable, ctx} {
			fsys := errfs.New(memfs.New())
			l, err := open(fsys, "/data", nil)
			require.NoError(t, err)
			p := partOf(t, l, "topic", &TopicConfig{SegmentBytes: 1024})
			appendValues(t, p, 0, 14) // the next one rolls
			rule.Times, rule.Before = 1, func(errfs.Op) { panic("made by the test") }
			fsys.Add(rule)
			if rule.Kind == errfs.Read {
				_, err = collect(p, Earliest)
			} else {
				_, err = p.Append(c, Record{})
			}
			requireAll(t, err, ErrClosed)
			require.ErrorContains(t, err, "made by the test")
			_, err = p.Append(ctx, Record{})
			require.ErrorIs(t, err, ErrClosed)
			_, err = l.CreateTopic(ctx, "other", nil)
			require.ErrorIs(t, err, ErrClosed)
			require.ErrorContains(t, l.Close(), "made by the test")
		}
	}
}

// TestPanicWhileCreatingOrClosing does the same to the creation of a topic and to
// Close itself.
func TestPanicWhileCreatingOrClosing(t *testing.T) {
	panics := errfs.Rule{Site: siteFlush, Times: 1, Before: func(errfs.Op) { panic("made by the test") }}
	fsys := errfs.New(memfs.New())
	l, err := open(fsys, "/data", nil)
	require.NoError(t, err)
	fsys.Add(panics)
	_, err = l.CreateTopic(ctx, "topic", nil)
	requireAll(t, err, ErrClosed)
	require.ErrorContains(t, l.Close(), "made by the test")

	fsys = errfs.New(memfs.New())
	l, err = open(fsys, "/data", nil)
	require.NoError(t, err)
	_, err = l.CreateTopic(ctx, "topic", nil)
	require.NoError(t, err)
	panics.Site = siteCloseBounds
	fsys.Add(panics)
	require.ErrorContains(t, l.Close(), "made by the test")
}

// TestLoggerMayUseTheLog gives the log a handler that appends to the partition
// whose failure it hears of.
func TestLoggerMayUseTheLog(t *testing.T) {
	var p *Partition
	heard := 0
	handler := slog.NewTextHandler(writerFunc(func([]byte) {
		heard++
		_, err := p.Append(ctx, Record{})
		requireAll(t, err, ErrPartitionFailed)
	}), nil)
	fsys := errfs.New(memfs.New())
	l := openAt(t, fsys, "/data", &Options{Logger: slog.New(handler)})
	p = partOf(t, l, "topic", nil)
	fsys.FailSite(siteFlush, 1, nil)
	_, err := p.Append(ctx, Record{})
	requireAll(t, err, ErrPartitionFailed, ErrInDoubt)
	require.Equal(t, 1, heard)
}

// TestLoggerMayAppend, also with a condition, to the partition that it hears of, where nothing
// has been appended since the log was opened, and an index is missing.
func TestLoggerMayAppend(t *testing.T) {
	var mu sync.Mutex // guards p and heard
	var p *Partition
	var heard []string
	handler := slog.NewTextHandler(writerFunc(func(line []byte) {
		mu.Lock()
		defer mu.Unlock()
		if p == nil {
			return
		}
		_, err := p.AppendIf(ctx, KeyUnchanged([]byte("key"), Earliest), Record{Value: line})
		require.NoError(t, err)
		heard = append(heard, strings.Split(string(line), `"`)[1])
	}), nil)
	fsys := memfs.New()
	l := openAt(t, fsys, "/data", nil)
	old := partOf(t, l, "topic", &TopicConfig{SegmentBytes: 1024})
	appendValues(t, old, 0, 60)
	name := old.path(indexName(old.Segments()[1].Base))
	require.NoError(t, l.Close())
	require.NoError(t, fsys.Remove(name))
	l = openAt(t, fsys, "/data", &Options{Logger: slog.New(handler)})
	opened := partOf(t, l, "topic", nil)
	mu.Lock()
	p = opened
	mu.Unlock()
	require.NoError(t, opened.DeleteBefore(ctx, opened.Segments()[1].Base+1))
	l.tasks.Wait()
	require.NoError(t, l.Close())
	require.ElementsMatch(t, []string{"records are deleted", "index is made anew"}, heard)
}

// TestLoggerThatPanics, or ends the goroutine that it is called on, ends nothing else: neither
// where a producer's goroutine calls it, nor an append, nor a log that fails.
func TestLoggerThatPanics(t *testing.T) {
	for what, end := range map[string]func(){"panics": func() { panic("of the test") }, "ends its goroutine": runtime.Goexit} {
		t.Run(what, func(t *testing.T) {
			var mu sync.Mutex
			var heard strings.Builder
			handler := slog.NewTextHandler(writerFunc(func(line []byte) {
				mu.Lock()
				heard.Write(line)
				mu.Unlock()
				end()
			}), nil)
			fsys := errfs.New(memfs.New())
			l, err := open(fsys, "/data", &Options{Logger: slog.New(handler)})
			require.NoError(t, err)
			partOf(t, l, "topic", nil)
			p, err := l.NewProducer(nil)
			require.NoError(t, err)
			require.NoError(t, p.Enqueue(ctx, to("v0"), func(RecordMetadata, error) { panic("a done") }))
			require.NoError(t, p.Flush(ctx))
			fsys.FailSite(siteFlush, 1, nil)
			var told []error
			for range 2 {
				require.NoError(t, p.Enqueue(ctx, to("v1"), func(_ RecordMetadata, err error) { told = append(told, err) }))
				require.NoError(t, p.Flush(ctx))
			}
			require.Len(t, told, 2)
			requireAll(t, told[0], ErrPartitionFailed, ErrInDoubt)
			requireAll(t, told[1], ErrPartitionFailed)
			require.NoError(t, p.Close())
			l.breakDown("of the test")
			require.ErrorIs(t, l.Close(), ErrClosed)
			mu.Lock()
			defer mu.Unlock()
			for _, said := range []string{"a callback of a producer has panicked", "partition is offline", "records are not sent", "log has failed"} {
				require.Contains(t, heard.String(), said)
			}
		})
	}
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) {
	f(p)
	return len(p), nil
}

// TestFirstAppendHonoursContext holds up the making of a partition's directory.
func TestFirstAppendHonoursContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := errfs.New(memfs.New())
		l := openAt(t, fsys, "/data", nil)
		p := partOf(t, l, "topic", nil)
		_, release := fsys.Block(errfs.Rule{Site: sitePartitionParent})
		c, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := p.Append(c, Record{})
		requireAll(t, err, context.DeadlineExceeded)
		require.NotErrorIs(t, err, ErrInDoubt)
		release()
		appendValues(t, p, 0, 1)
	})
}

// TestRelativeDirectory opens a log by a relative path and changes the working
// directory while it is open.
func TestRelativeDirectory(t *testing.T) {
	here := t.TempDir()
	t.Chdir(here)
	l, err := Open("data", nil)
	require.NoError(t, err)
	t.Chdir(t.TempDir())
	appendValues(t, partOf(t, l, "topic", nil), 0, 1)
	require.NoError(t, l.Close())
	l, err = Open(filepath.Join(here, "data"), nil)
	require.NoError(t, err)
	require.Equal(t, wantValues(0, 1), readValues(t, partOf(t, l, "topic", nil), Earliest))
	require.NoError(t, l.Close())
}
