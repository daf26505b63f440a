package riffle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
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

// dirsOf lists the directories in a log's, but meta.
func dirsOf(t testing.TB, fsys vfs.FS, dir string) []string {
	entries, err := fsys.ReadDir(dir)
	require.NoError(t, err)
	names := []string{}
	for _, e := range entries {
		if e.Dir && e.Name != metadataDir {
			names = append(names, e.Name)
		}
	}
	return names
}

// TestDeleteTopic deletes a topic: it is gone from the list, what it had is
// gone from the disk, appends and loops that begin say so, and the name is free for
// a topic with another id that has none of the records, also after a restart.
func TestDeleteTopic(t *testing.T) {
	fsys, dir := testDir(t)
	l := openAt(t, fsys, dir, nil)
	for _, name := range []string{"other", "topic"} {
		appendValues(t, partOf(t, l, name, &TopicConfig{Partitions: 3}), 0, 5)
	}
	old := partOf(t, l, "topic", nil)
	require.Equal(t, []string{"other-0", "topic-0"}, dirsOf(t, fsys, dir))
	require.NoError(t, l.DeleteTopic(ctx, "topic"))

	_, err := l.Topic("topic")
	require.ErrorIs(t, err, ErrTopicNotFound)
	require.ErrorIs(t, l.DeleteTopic(ctx, "topic"), ErrTopicNotFound)
	require.Len(t, slices.Collect(l.Topics()), 1)
	_, err = old.Append(ctx, Record{})
	require.ErrorIs(t, err, ErrTopicNotFound)
	var at *PartitionError
	require.ErrorAs(t, err, &at)
	_, err = collect(old, Earliest)
	require.ErrorIs(t, err, ErrTopicNotFound)
	_, err = old.offsetAt(ctx, 0)
	require.ErrorIs(t, err, ErrTopicNotFound)
	require.ErrorIs(t, old.Topic().SetConfig(ctx, func(*TopicConfig) {}), ErrTopicNotFound)
	require.ErrorIs(t, old.Topic().SetPartitions(ctx, 9), ErrTopicNotFound)

	next := partOf(t, l, "topic", nil)
	require.NotEqual(t, old.Topic().ID(), next.Topic().ID())
	require.Empty(t, readValues(t, next, Earliest))
	appendValues(t, next, 0, 2)
	require.NoError(t, l.Close())

	l = openAt(t, fsys, dir, nil)
	l.tasks.Wait()
	require.Equal(t, []string{"other-0", "topic-0"}, dirsOf(t, fsys, dir))
	require.Equal(t, wantValues(0, 2), readValues(t, partOf(t, l, "topic", nil), Earliest))
	require.Equal(t, wantValues(0, 5), readValues(t, partOf(t, l, "other", nil), Earliest))
}

// TestTotalsOutliveTopics: what a deleted topic has counted stays in the total; what
// it holds does not.
func TestTotalsOutliveTopics(t *testing.T) {
	fsys, dir := testDir(t)
	l := openAt(t, fsys, dir, nil)
	for range 2 {
		appendValues(t, partOf(t, l, "topic", nil), 0, 5)
		appendValues(t, partOf(t, l, "other", nil), 0, 1)
		require.NoError(t, l.DeleteTopic(ctx, "topic"))
		require.NoError(t, l.DeleteTopic(ctx, "other"))
	}
	m := l.Metrics()
	require.Empty(t, m.Topics)
	require.EqualValues(t, 12, m.Total.Appends)
	require.EqualValues(t, 12, m.Total.BatchBytes.Count)
	require.GreaterOrEqual(t, m.Total.FlushSeconds.Count, int64(12))
	require.Zero(t, m.Total.Segments+m.Total.Bytes+m.Total.UnflushedBytes)
	require.Zero(t, m.Total.Partitions)
}

// TestDeleteTopicWithLoopsInIt: a loop that has begun reads on to the end that the
// topic had, over several files; one that follows ends there with ErrTopicNotFound;
// then the files go.
func TestDeleteTopicWithLoopsInIt(t *testing.T) {
	fsys, dir := testDir(t)
	l := openAt(t, fsys, dir, nil)
	p := partOf(t, l, "topic", &TopicConfig{SegmentBytes: 1024})
	appendValues(t, p, 0, 100)
	follow, stop := context.WithCancel(ctx)
	defer stop()
	waits := make(chan error, 1)
	go func() {
		for _, err := range p.Follow(follow, Latest, nil) {
			waits <- err
		}
	}()
	i := 0
	for r, err := range p.Records(ctx, Earliest, nil) {
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("v%d", i), string(r.Value))
		if i++; i == 10 {
			require.NoError(t, l.DeleteTopic(ctx, "topic"))
			require.ErrorIs(t, <-waits, ErrTopicNotFound)
			require.Len(t, dirsOf(t, fsys, dir), 1)
			require.True(t, strings.HasSuffix(dirsOf(t, fsys, dir)[0], deletedSuffix))
			appendValues(t, partOf(t, l, "topic", nil), 0, 3)
		}
	}
	require.Equal(t, 100, i)
	l.tasks.Wait()
	require.Equal(t, []string{"topic-0"}, dirsOf(t, fsys, dir))
	require.Empty(t, l.remains)
}

// TestCloseWithALoopInADeletedTopic: closing waits for no loop body; what could
// not be removed is removed by the next Open.
func TestCloseWithALoopInADeletedTopic(t *testing.T) {
	fsys, dir := testDir(t)
	l := openAt(t, fsys, dir, nil)
	p := partOf(t, l, "topic", &TopicConfig{SegmentBytes: 1024})
	appendValues(t, p, 0, 50)
	n, last := 0, error(nil)
	for _, err := range p.Records(ctx, Earliest, nil) {
		if n++; n == 5 {
			require.NoError(t, l.DeleteTopic(ctx, "topic"))
			require.NoError(t, l.Close())
		}
		last = err
	}
	require.ErrorIs(t, last, ErrClosed)
	require.Len(t, dirsOf(t, fsys, dir), 1)
	l = openAt(t, fsys, dir, nil)
	l.tasks.Wait()
	require.Empty(t, dirsOf(t, fsys, dir))
}

// TestDeleteTopicBesideAppends deletes and makes a topic again and again while
// others append to what they find: each append is acknowledged and was to the
// topic of that id, or is ErrTopicNotFound.
func TestDeleteTopicBesideAppends(t *testing.T) {
	for _, cfg := range []*TopicConfig{nil, {Flush: FlushAsync, FlushInterval: time.Millisecond}} {
		fsys, dir := testDir(t)
		l := openAt(t, fsys, dir, nil)
		done := make(chan struct{})
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				for {
					select {
					case <-done:
						return
					default:
					}
					top, err := l.Topic("topic")
					if err == nil {
						_, err = top.all()[0].Append(ctx, Record{Value: make([]byte, 3000)})
					}
					if err != nil && !errors.Is(err, ErrTopicNotFound) {
						t.Error(err)
						return
					}
				}
			})
		}
		for range 30 {
			p := partOf(t, l, "topic", cfg)
			_, err := p.Append(ctx, Record{Value: []byte("mine")})
			require.NoError(t, err)
			require.NoError(t, l.DeleteTopic(ctx, "topic"))
		}
		close(done)
		wg.Wait()
		require.NoError(t, l.Close())
		l = openAt(t, fsys, dir, nil)
		l.tasks.Wait() // closing may have kept it from removing the last ones
		require.Empty(t, dirsOf(t, fsys, dir))
		require.NoError(t, l.Close())
	}
}

// TestDeleteLongName: the name of the directory that is left fits into what a file
// may be called, of a topic whose name is as long as can be (LocalLog.logDeleteDirName).
func TestDeleteLongName(t *testing.T) {
	fsys, dir := testDir(t)
	l := openAt(t, fsys, dir, nil)
	name := strings.Repeat("x", maxTopicName)
	appendValues(t, partOf(t, l, name, nil), 0, 1)
	require.NoError(t, l.DeleteTopic(ctx, name))
	l.tasks.Wait()
	require.Empty(t, dirsOf(t, fsys, dir))

	id := newID()
	for _, suffix := range []string{deletedSuffix, straySuffix} {
		for _, topic := range []string{name, "a", "a.b-7"} {
			gone := goneName(TopicPartition{topic, 9999}, id, suffix)
			require.LessOrEqual(t, len(gone), maxFileName)
			got, s, ok := parseGoneName(gone)
			require.True(t, ok, gone)
			require.Equal(t, id, got)
			require.Equal(t, suffix, s)
			_, ok = parsePartitionName(gone)
			require.False(t, ok, "it is no partition's")
		}
	}
	_, _, ok := parseGoneName("my-delete")
	require.False(t, ok)
}

// TestDeleteThatFailsHalfWay: the topic is gone and its name is not free until
// another call, or Open, has done the rest.
func TestDeleteThatFailsHalfWay(t *testing.T) {
	for _, finish := range []string{"delete", "create", "open"} {
		mem := memfs.New()
		fsys := errfs.New(mem)
		l := openAt(t, fsys, "/data", nil)
		top, err := l.CreateTopic(ctx, "topic", &TopicConfig{Partitions: 2})
		require.NoError(t, err)
		for _, p := range top.all() {
			appendValues(t, p, 0, 3)
		}
		broken := errors.New("broken")
		heal := fsys.Add(errfs.Rule{Kind: errfs.Rename, Decide: func(op errfs.Op) error {
			if strings.HasSuffix(op.Name, "topic-1") {
				return broken
			}
			return nil
		}})
		err = l.DeleteTopic(ctx, "topic")
		require.ErrorIs(t, err, broken)
		_, err = l.Topic("topic")
		require.ErrorIs(t, err, ErrTopicNotFound)
		_, err = l.CreateTopic(ctx, "topic", nil)
		require.ErrorIs(t, err, broken)
		heal()
		switch finish {
		case "delete":
			require.NoError(t, l.DeleteTopic(ctx, "topic"))
		case "create":
			require.Empty(t, readValues(t, partOf(t, l, "topic", nil), Earliest))
		case "open":
			require.NoError(t, l.Close())
			l = openAt(t, fsys, "/data", nil)
		}
		l.tasks.Wait()
		require.Empty(t, dirsOf(t, mem, "/data"), finish)
		require.NoError(t, l.Close())
	}
}

// TestStrayDirectories: a directory of a topic that the metadata log does not know,
// or of another incarnation of one, is moved out of the way, stays for a day with all
// in it, and is nobody's records. What is not ours is left alone.
func TestStrayDirectories(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := memfs.New()
		l := openAt(t, fsys, "/data", nil)
		appendValues(t, partOf(t, l, "topic", nil), 0, 3)
		appendValues(t, partOf(t, l, "grown", nil), 0, 3)
		require.NoError(t, l.Close())
		// Another log has topics of these names, and partitions that are not there.
		require.NoError(t, fsys.Rename("/data", "/old"))
		l = openAt(t, fsys, "/data", nil)
		appendValues(t, partOf(t, l, "topic", nil), 0, 1)
		require.NoError(t, l.Close())
		require.NoError(t, fsys.Rename("/old/topic-0", "/data/topic-7"))
		require.NoError(t, fsys.Rename("/old/grown-0", "/data/grown-0"))
		for _, name := range []string{"/data/mine-1", "/data/notes", "/data/x-delete"} {
			require.NoError(t, fsys.Mkdir(name))
		}

		l = openAt(t, fsys, "/data", nil)
		l.tasks.Wait()
		require.Equal(t, wantValues(0, 1), readValues(t, partOf(t, l, "topic", nil), Earliest))
		require.Empty(t, readValues(t, partOf(t, l, "grown", nil), Earliest))
		dirs := dirsOf(t, fsys, "/data")
		require.Len(t, dirs, 6)
		require.Subset(t, dirs, []string{"mine-1", "notes", "topic-0", "x-delete"})
		stray := slices.DeleteFunc(dirs, func(s string) bool { return !strings.HasSuffix(s, straySuffix) })
		require.Regexp(t, `^grown-0\.[0-9a-f]{32}-stray$`, stray[0])
		require.Regexp(t, `^topic-7\.[0-9a-f]{32}-stray$`, stray[1])
		_, err := fsys.Stat(filepath.Join("/data", stray[0], logFileName(0)))
		require.NoError(t, err)

		time.Sleep(strayTime)
		l.removeStrays(time.Now())
		require.Len(t, dirsOf(t, fsys, "/data"), 6, "a day is not over")
		time.Sleep(time.Minute)
		l.removeStrays(time.Now())
		require.Equal(t, []string{"mine-1", "notes", "topic-0", "x-delete"}, dirsOf(t, fsys, "/data"))
	})
}

// TestSetConfig changes a topic's configuration: it is in effect with the next
// append, is there after a restart, what is left zero follows the defaults, and what
// is wrong changes nothing.
func TestSetConfig(t *testing.T) {
	fsys, dir := testDir(t)
	l := openAt(t, fsys, dir, nil)
	p := partOf(t, l, "topic", &TopicConfig{Retention: Forever, MaxMessageBytes: 5000})
	top := p.Topic()
	appendValues(t, p, 0, 30)
	require.Len(t, p.segs.Load().list, 1)
	err := top.SetConfig(ctx, func(c *TopicConfig) {
		require.Equal(t, TopicConfig{Partitions: 1, Flush: FlushBeforeAck, Retention: Forever, MaxMessageBytes: 5000}, *c)
		c.SegmentBytes, c.MaxMessageBytes, c.Retention = 1024, 0, time.Hour
	})
	require.NoError(t, err)
	appendValues(t, p, 30, 31)
	require.Len(t, p.segs.Load().list, 2, "the next append rolls")
	require.Equal(t, defaultMaxMessageBytes, top.Config().MaxMessageBytes)

	before := top.Config()
	for _, change := range []func(*TopicConfig){
		func(c *TopicConfig) { c.Partitions = 2 },
		func(c *TopicConfig) { c.Flush = FlushAsync },
		func(c *TopicConfig) { c.Flush = FlushDefault },
		func(c *TopicConfig) { c.SegmentBytes = 1; c.Cleanup = 9 },
		func(c *TopicConfig) { c.MinCompactionLag = Forever; c.MaxCompactionLag = time.Hour },
	} {
		require.ErrorIs(t, top.SetConfig(ctx, change), ErrInvalidOptions)
	}
	require.Equal(t, before, top.Config())
	require.Panics(t, func() { _ = top.SetConfig(ctx, func(*TopicConfig) { panic("the caller's") }) })
	require.NoError(t, top.SetConfig(ctx, func(*TopicConfig) {}), "its panic leaves nothing reserved")
	require.NoError(t, l.Close())

	l = openAt(t, fsys, dir, &Options{Defaults: TopicConfig{Compression: CompressionZstd, Retention: time.Minute}})
	got := partOf(t, l, "topic", nil).Topic().Config()
	before.Compression = CompressionZstd
	require.Equal(t, before, got)
}

// TestNoConfigChangeIsLost: changes of one topic from many goroutines follow each
// other, each sees the one before.
func TestNoConfigChangeIsLost(t *testing.T) {
	fsys, dir := testDir(t)
	l := openAt(t, fsys, dir, nil)
	top := partOf(t, l, "topic", &TopicConfig{SegmentBytes: 2000}).Topic()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5 {
				if err := top.SetConfig(ctx, func(c *TopicConfig) { c.SegmentBytes++ }); err != nil {
					t.Error(err)
				}
				if err := top.SetPartitions(ctx, top.NumPartitions()); err != nil && !errors.Is(err, ErrInvalidOptions) {
					t.Error(err)
				}
			}
		})
	}
	for n := 2; n < 10; n++ {
		require.NoError(t, top.SetPartitions(ctx, n))
	}
	wg.Wait()
	require.Equal(t, int64(2040), top.Config().SegmentBytes)
	require.Equal(t, 9, top.NumPartitions())
	require.NoError(t, l.Close())
	l = openAt(t, fsys, dir, nil)
	top = partOf(t, l, "topic", nil).Topic()
	require.Equal(t, int64(2040), top.Config().SegmentBytes)
	require.Equal(t, 9, top.NumPartitions())
}

// TestFlushIntervalApplies: a shorter interval flushes what waits for a longer one.
func TestFlushIntervalApplies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := openAt(t, memfs.New(), "/data", nil)
		for _, interval := range []time.Duration{Forever, time.Hour} {
			p := partOf(t, l, "topic"+interval.String()[:1], &TopicConfig{Flush: FlushAsync, FlushInterval: interval})
			appendValues(t, p, 0, 3)
			flushed := func() Offset {
				synctest.Wait()
				p.mu.Lock()
				defer p.mu.Unlock()
				return p.flushed
			}
			time.Sleep(time.Minute)
			require.Zero(t, flushed())
			require.NoError(t, p.Topic().SetConfig(ctx, func(c *TopicConfig) { c.FlushInterval = time.Second }))
			time.Sleep(time.Second)
			require.Equal(t, Offset(3), flushed())
		}
	})
}

// TestSetPartitions adds partitions: what is there stays, the new ones take
// records, also after a restart; fewer or too many are refused.
func TestSetPartitions(t *testing.T) {
	fsys, dir := testDir(t)
	l := openAt(t, fsys, dir, nil)
	first := partOf(t, l, "topic", nil)
	top := first.Topic()
	appendValues(t, first, 0, 3)
	require.NoError(t, top.SetPartitions(ctx, 3))
	require.Equal(t, 3, top.Config().Partitions)
	p, err := top.Partition(0)
	require.NoError(t, err)
	require.Same(t, first, p)
	last, err := top.Partition(2)
	require.NoError(t, err)
	appendValues(t, last, 0, 2)
	for _, n := range []int{2, 0, -1, maxPartitions + 1} {
		require.ErrorIs(t, top.SetPartitions(ctx, n), ErrInvalidOptions)
	}
	require.NoError(t, top.SetPartitions(ctx, 3))
	_, err = top.Partition(3)
	require.ErrorIs(t, err, ErrPartitionNotFound)
	require.NoError(t, l.Close())

	l = openAt(t, fsys, dir, nil)
	top = partOf(t, l, "topic", nil).Topic()
	require.Equal(t, 3, top.NumPartitions())
	require.Equal(t, wantValues(0, 3), readValues(t, top.all()[0], Earliest))
	require.Empty(t, readValues(t, top.all()[1], Earliest))
	require.Equal(t, wantValues(0, 2), readValues(t, top.all()[2], Earliest))
}

// TestChangesWhoseContextEnds: a change that has begun goes on, and says that it is
// in doubt; one that has not begun is not made.
func TestChangesWhoseContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := errfs.New(memfs.New())
		l := openAt(t, fsys, "/data", nil)
		top := partOf(t, l, "topic", nil).Topic()
		slowFlushes(fsys, time.Minute)
		for _, change := range []func(context.Context) error{
			func(c context.Context) error { return top.SetPartitions(c, 2) },
			func(c context.Context) error {
				return top.SetConfig(c, func(c *TopicConfig) { c.Retention = time.Hour })
			},
			func(c context.Context) error { return l.DeleteTopic(c, "topic") },
		} {
			gone, cancel := context.WithCancel(ctx)
			cancel()
			err := change(gone)
			require.ErrorIs(t, err, context.Canceled)
			require.NotErrorIs(t, err, ErrInDoubt)
			short, cancel := context.WithTimeout(ctx, time.Second)
			requireAll(t, change(short), ErrInDoubt, context.DeadlineExceeded)
			cancel()
			short, cancel = context.WithTimeout(ctx, time.Second)
			err = change(short) // waits for the one before
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.NotErrorIs(t, err, ErrInDoubt)
			cancel()
			time.Sleep(2 * time.Minute)
		}
		require.Equal(t, 2, top.NumPartitions())
		require.Equal(t, time.Hour, top.Config().Retention)
		_, err := l.Topic("topic")
		require.ErrorIs(t, err, ErrTopicNotFound)
	})
}

// foldingFS is a file system that does not tell capital letters from small ones.
type foldingFS struct{ vfs.FS }

func (f foldingFS) Create(name string) (vfs.File, error) { return f.FS.Create(strings.ToLower(name)) }
func (f foldingFS) Open(name string) (vfs.File, error)   { return f.FS.Open(strings.ToLower(name)) }
func (f foldingFS) OpenWrite(name string) (vfs.File, error) {
	return f.FS.OpenWrite(strings.ToLower(name))
}

func (f foldingFS) Rename(from, to string) error {
	return f.FS.Rename(strings.ToLower(from), strings.ToLower(to))
}
func (f foldingFS) Remove(name string) error { return f.FS.Remove(strings.ToLower(name)) }
func (f foldingFS) Mkdir(name string) error  { return f.FS.Mkdir(strings.ToLower(name)) }

func (f foldingFS) ReadDir(name string) ([]vfs.DirEntry, error) {
	return f.FS.ReadDir(strings.ToLower(name))
}

func (f foldingFS) Stat(name string) (vfs.DirEntry, error) { return f.FS.Stat(strings.ToLower(name)) }

func (f foldingFS) SyncDir(site vfs.Site, name string) error {
	return f.FS.SyncDir(site, strings.ToLower(name))
}

// TestDeleteWhereCaseIsFolded: of two topics whose names differ by case alone, the one
// that came too late for the directory is deleted, and the other keeps it, whether it
// had tried to append or not, and when it was opened with the other's in its place.
func TestDeleteWhereCaseIsFolded(t *testing.T) {
	for _, tries := range []bool{false, true} {
		for _, reopened := range []bool{false, true} {
			fsys := foldingFS{memfs.New()}
			l := openAt(t, fsys, "/data", nil)
			appendValues(t, partOf(t, l, "orders", nil), 0, 3)
			late := partOf(t, l, "Orders", nil)
			if tries {
				_, err := late.Append(ctx, Record{})
				require.ErrorIs(t, err, ErrCorrupt)
			}
			if reopened {
				require.NoError(t, l.Close())
				l = openAt(t, fsys, "/data", nil)
			}
			require.NoError(t, l.DeleteTopic(ctx, "Orders"))
			l.tasks.Wait()
			appendValues(t, partOf(t, l, "orders", nil), 3, 4)
			require.NoError(t, l.Close())
			l = openAt(t, fsys, "/data", nil)
			require.Equal(t, wantValues(0, 4), readValues(t, partOf(t, l, "orders", nil), Earliest))
		}
	}
}

// TestDirectoryThatCannotBeSorted: one that cannot be read, or not be moved, holds up
// no other topic, and is moved when the log is opened with that mended.
func TestDirectoryThatCannotBeSorted(t *testing.T) {
	mem := memfs.New()
	fsys := errfs.New(mem)
	l := openAt(t, fsys, "/data", nil)
	for _, name := range []string{"deleted", "other", "unreadable"} {
		appendValues(t, partOf(t, l, name, nil), 0, 3)
	}
	unreadable := "/data/unreadable-0/" + partitionMetadataName
	mend := []func(){
		fsys.Add(errfs.Rule{Kind: errfs.Rename, Name: "/data/deleted-0", Err: fs.ErrPermission}),
		fsys.Add(errfs.Rule{Kind: errfs.Open, Name: unreadable, Err: fs.ErrPermission}),
	}
	require.ErrorIs(t, l.DeleteTopic(ctx, "deleted"), fs.ErrPermission)
	require.NoError(t, l.Close())

	l = openAt(t, fsys, "/data", nil)
	appendValues(t, partOf(t, l, "other", nil), 3, 4)
	_, err := partOf(t, l, "unreadable", nil).Append(ctx, Record{})
	requireAll(t, err, ErrReadOnly, fs.ErrPermission)
	_, err = partOf(t, l, "deleted", nil).Append(ctx, Record{})
	require.ErrorIs(t, err, ErrCorrupt, "the directory is another topic's")
	require.NoError(t, l.Close())

	for _, f := range mend {
		f()
	}
	l = openAt(t, fsys, "/data", nil)
	l.tasks.Wait()
	require.Equal(t, []string{"other-0", "unreadable-0"}, dirsOf(t, mem, "/data"))
	appendValues(t, partOf(t, l, "unreadable", nil), 3, 4)
	appendValues(t, partOf(t, l, "deleted", nil), 0, 1)
}

// TestCloseEndsChangesThatWait: a change that waits for another one, whose callback is
// still at it, ends when the log closes, and so does that one.
func TestCloseEndsChangesThatWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := openAt(t, memfs.New(), "/data", nil)
		top := partOf(t, l, "topic", nil).Topic()
		goOn := make(chan struct{})
		first, second := make(chan error, 1), make(chan error, 1)
		go func() { first <- top.SetConfig(ctx, func(*TopicConfig) { <-goOn }) }()
		synctest.Wait()
		go func() { second <- top.SetPartitions(ctx, 2) }()
		synctest.Wait()
		require.NoError(t, l.Close())
		require.ErrorIs(t, <-second, ErrClosed)
		close(goOn)
		require.ErrorIs(t, <-first, ErrClosed)
	})
}

// TestTotalsCountToTheEnd: what a topic does while it is being deleted, such as the
// flush that an append waits for, is in the total.
func TestTotalsCountToTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := errfs.New(memfs.New())
		l := openAt(t, fsys, "/data", nil)
		p := partOf(t, l, "topic", nil)
		appendValues(t, p, 0, 1)
		fsys.Add(errfs.Rule{Kind: errfs.Sync, Name: "/data/topic-0/" + logFileName(0), Decide: func(errfs.Op) error {
			time.Sleep(time.Minute)
			return nil
		}})
		acked := make(chan error, 1)
		go func() { _, err := p.Append(ctx, Record{}); acked <- err }()
		synctest.Wait()
		require.EqualValues(t, 1, l.Metrics().Total.Flushes)
		require.NoError(t, l.DeleteTopic(ctx, "topic"))
		require.NoError(t, <-acked)
		require.EqualValues(t, 2, l.Metrics().Total.Flushes)
		require.EqualValues(t, 2, l.Metrics().Total.Appends)
	})
}
