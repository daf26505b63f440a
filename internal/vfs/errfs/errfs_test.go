package errfs_test

import (
	"errors"
	"io/fs"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

func create(t *testing.T, fsys vfs.FS, name, content string) vfs.File {
	t.Helper()
	f, err := fsys.Create(name)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte(content), 0)
	require.NoError(t, err)
	return f
}

func content(t *testing.T, fsys vfs.FS, name string) string {
	t.Helper()
	data, err := vfs.ReadFile(fsys, name, 1<<20)
	require.NoError(t, err)
	return string(data)
}

// Each method of the file system, files, locks and mappings is one operation,
// described to OnOp in order with its number, name, site and range.
func TestEveryCallIsAnOperation(t *testing.T) {
	e := errfs.New(memfs.New())
	var ops []errfs.Op
	e.OnOp(func(op errfs.Op) error { ops = append(ops, op); return nil })
	callAll(e)
	want := []errfs.Op{
		{Kind: errfs.Create, Name: "/f"},
		{Kind: errfs.Allocate, Name: "/f", Len: vfs.PageSize},
		{Kind: errfs.Write, Name: "/f", Off: 1, Len: 3},
		{Kind: errfs.Read, Name: "/f", Off: 3, Len: 2},
		{Kind: errfs.Truncate, Name: "/f", Off: 9},
		{Kind: errfs.Zero, Name: "/f", Site: "z", Off: 4, Len: 5},
		{Kind: errfs.Sync, Name: "/f", Site: "s"},
		{Kind: errfs.Size, Name: "/f"},
		{Kind: errfs.Map, Name: "/f", Len: 8},
		{Kind: errfs.MapRead, Name: "/f", Off: 1, Len: 4},
		{Kind: errfs.MapWrite, Name: "/f", Off: 2, Len: 1},
		{Kind: errfs.MapRead, Name: "/f", Len: 8},
		{Kind: errfs.MapWrite, Name: "/f", Len: 8},
		{Kind: errfs.Prefault, Name: "/f", Len: 8},
		{Kind: errfs.Detach, Name: "/f", Len: 8},
		{Kind: errfs.Unmap, Name: "/f", Len: 8},
		{Kind: errfs.Close, Name: "/f"},
		{Kind: errfs.Open, Name: "/no"},
		{Kind: errfs.OpenWrite, Name: "/no"},
		{Kind: errfs.Rename, Name: "/f"},
		{Kind: errfs.Mkdir, Name: "/d"},
		{Kind: errfs.ReadDir, Name: "/"},
		{Kind: errfs.Stat, Name: "/g"},
		{Kind: errfs.SyncDir, Name: "/", Site: "sd"},
		{Kind: errfs.Lock, Name: "/l"},
		{Kind: errfs.Unlock, Name: "/l"},
		{Kind: errfs.Space, Name: "/"},
		{Kind: errfs.BootID},
		{Kind: errfs.Check, Site: "c"},
		{Kind: errfs.Remove, Name: "/g"},
	}
	for i := range want {
		want[i].N = int64(i + 1)
	}
	require.Equal(t, want, ops)
	require.EqualValues(t, len(want), e.Ops())
	require.Equal(t, []vfs.Site{"c", "s", "sd", "z"}, e.Sites())
}

// callAll calls each method once, Load and Store too.
func callAll(e *errfs.FS) {
	f, _ := e.Create("/f")
	_ = f.Allocate(0, vfs.PageSize)
	_, _ = f.WriteAt([]byte("abc"), 1)
	_, _ = f.ReadAt(make([]byte, 2), 3)
	_ = f.Truncate(9)
	_ = f.Zero("z", 4, 5)
	_ = f.Sync("s")
	_, _ = f.Size()
	m, _ := f.Map(0, 8, true)
	_, _ = m.ReadAt(make([]byte, 4), 1)
	_, _ = m.WriteAt([]byte("x"), 2)
	_, _ = m.Load(0)
	_ = m.Store(0, 1)
	_ = m.Prefault(0, 8)
	_ = m.Detach(0, 8)
	_ = m.Unmap()
	_ = f.Close()
	_, _ = e.Open("/no")
	_, _ = e.OpenWrite("/no")
	_ = e.Rename("/f", "/g")
	_ = e.Mkdir("/d")
	_, _ = e.ReadDir("/")
	_, _ = e.Stat("/g")
	_ = e.SyncDir("sd", "/")
	l, _ := e.Lock("/l")
	_ = l.Close()
	_, _ = e.Space("/")
	e.BootID()
	e.Check("c", true)
	_ = e.Remove("/g")
}

// WriteFileAtomic keeps the old content or has the new one when any one of its
// operations fails, and when the power is cut before any of them; it leaves no
// temporary file after an error.
func TestWriteFileAtomicAtEveryOperation(t *testing.T) {
	for n := int64(1); ; n++ {
		m := memfs.New()
		require.NoError(t, vfs.WriteFileAtomic(m, "s", "/f", []byte("old")))
		e := errfs.New(m)
		e.OnOp(func(op errfs.Op) error {
			for seed := range uint64(50) {
				require.Contains(t, []string{"old", "new"}, content(t, m.CrashClone(seed), "/f"), op)
			}
			return nil
		})
		e.FailOp(n, nil)
		err := vfs.WriteFileAtomic(e, "s", "/f", []byte("new"))
		_, missing := m.Stat("/f" + vfs.TempSuffix)
		require.ErrorIs(t, missing, fs.ErrNotExist, "operation %d", n)
		require.Zero(t, m.OpenFiles())
		if err == nil {
			require.Greater(t, n, e.Ops())
			require.Equal(t, []vfs.Site{"s.flush", "s.syncdir"}, e.Sites())
			return
		}
		require.ErrorIs(t, err, errfs.ErrInjected)
	}
}

// Leaving out either flush of WriteFileAtomic shows after a crash: the flushes
// are needed, and Skip finds them by name.
func TestSkippedFlushShowsAfterACrash(t *testing.T) {
	for _, site := range []vfs.Site{"s.flush", "s.syncdir"} {
		m := memfs.New()
		e := errfs.New(m)
		e.Skip(site)
		require.NoError(t, vfs.WriteFileAtomic(e, "s", "/f", []byte("new")))
		lost := 0
		for seed := range uint64(100) {
			if data, err := vfs.ReadFile(m.CrashClone(seed), "/f", 9); err != nil || string(data) != "new" {
				lost++
			}
		}
		require.Positive(t, lost, site)
	}
	e := errfs.New(memfs.New())
	e.Skip("c")
	e.Skip("z")
	require.True(t, e.Check("c", false))
	require.False(t, e.Check("d", false))
	f := create(t, e, "/f", "abc")
	require.NoError(t, f.Zero("z", 0, 3))
	require.Equal(t, "abc", content(t, e, "/f"))
}

// An injected error of a flush leaves the content readable, lets the next flush
// work, and loses the content in a crash all the same.
func TestFailedFlushLosesContent(t *testing.T) {
	m := memfs.New()
	e := errfs.New(m)
	f := create(t, e, "/f", "old")
	require.NoError(t, f.Sync("s"))
	require.NoError(t, e.SyncDir("d", "/"))
	_, err := f.WriteAt([]byte("new"), 0)
	require.NoError(t, err)
	e.FailSite("s", 1, nil)
	require.ErrorIs(t, f.Sync("s"), errfs.ErrInjected)
	require.Equal(t, "new", content(t, e, "/f"))
	require.NoError(t, f.Sync("s"))
	old := 0
	for seed := range uint64(100) {
		if content(t, m.CrashClone(seed), "/f") == "old" {
			old++
		}
	}
	require.Greater(t, old, 30)
}

// Rules match by number, kind, site and name, as often as they say, until they
// are removed; the error has a path, and nothing is done.
func TestRulesFailWhatTheyMatch(t *testing.T) {
	e := errfs.New(memfs.New())
	mine := errors.New("mine")
	e.FailOp(2, mine)
	require.NoError(t, e.Mkdir("/a"))
	err := e.Mkdir("/b")
	require.ErrorIs(t, err, mine)
	var path *fs.PathError
	require.ErrorAs(t, err, &path)
	require.Equal(t, "/b", path.Path)
	_, err = e.Stat("/b")
	require.ErrorIs(t, err, fs.ErrNotExist)

	e.FailKind(errfs.Mkdir, 2, nil)
	require.Error(t, e.Mkdir("/b"))
	require.Error(t, e.Mkdir("/b"))
	require.NoError(t, e.Mkdir("/b"))

	remove := e.FailSite("s", 0, nil)
	require.Error(t, e.SyncDir("s", "/"))
	require.NoError(t, e.SyncDir("other", "/"))
	require.Error(t, e.SyncDir("s", "/"))
	remove()
	require.NoError(t, e.SyncDir("s", "/"))

	e.Add(errfs.Rule{Name: "/c", Err: mine})
	require.Error(t, e.Mkdir("/c"))
	require.NoError(t, e.Mkdir("/d"))
}

// A write can fail after a part of it, through the file and through a mapping.
func TestPartialWrites(t *testing.T) {
	e := errfs.New(memfs.New())
	f := create(t, e, "/f", "......")
	m, err := f.Map(0, 6, true)
	require.NoError(t, err)
	part := &errfs.Partial{Bytes: 2, Err: vfs.ErrNoSpace}
	e.FailKind(errfs.Write, 1, part)
	e.FailKind(errfs.MapWrite, 1, part)
	n, err := f.WriteAt([]byte("abc"), 0)
	require.ErrorIs(t, err, vfs.ErrNoSpace)
	require.Equal(t, 2, n)
	n, err = m.WriteAt([]byte("def"), 3)
	require.ErrorIs(t, err, vfs.ErrNoSpace)
	require.Equal(t, 2, n)
	require.Equal(t, "ab.de.", content(t, e, "/f"))
}

// Full refuses what needs space and nothing else, until there is some again.
func TestFullDiskCanBeEmptied(t *testing.T) {
	e := errfs.New(memfs.New())
	f := create(t, e, "/f", "abc")
	free := e.Full()
	_, err := f.WriteAt([]byte("x"), 0)
	require.ErrorIs(t, err, vfs.ErrNoSpace)
	require.ErrorIs(t, f.Allocate(0, 1), vfs.ErrNoSpace)
	require.ErrorIs(t, e.Mkdir("/d"), vfs.ErrNoSpace)
	require.NoError(t, f.Sync("s"))
	require.NoError(t, f.Close())
	require.NoError(t, e.Remove("/f"))
	free()
	require.NoError(t, e.Mkdir("/d"))
}

// On a full disk Prefault fails as the stores do that it prepares, and Lock and
// Create fail where they would make a file, and only there.
func TestFullDiskIsConsistent(t *testing.T) {
	m := memfs.New()
	e := errfs.New(m)
	f := create(t, e, "/f", "abc")
	p, err := f.Map(0, 3, true)
	require.NoError(t, err)
	free := e.Full()
	require.ErrorIs(t, p.Prefault(0, 3), vfs.ErrFault)
	_, err = p.WriteAt([]byte("x"), 0)
	require.ErrorIs(t, err, vfs.ErrFault)
	_, err = e.Lock("/l")
	require.ErrorIs(t, err, vfs.ErrNoSpace)
	_, err = e.Create("/l")
	require.ErrorIs(t, err, vfs.ErrNoSpace)
	_, err = m.Stat("/l")
	require.ErrorIs(t, err, fs.ErrNotExist)
	l, err := e.Lock("/f")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	require.ErrorIs(t, e.Mkdir("/f"), fs.ErrExist)
	g, err := e.Create("/f")
	require.NoError(t, err)
	require.NoError(t, g.Close())
	require.Empty(t, content(t, e, "/f"))
	free()
	l, err = e.Lock("/l")
	require.NoError(t, err)
	require.NoError(t, l.Close())
}

// A disk that is found full by a flush takes writes and loses them.
func TestDiskFoundFullByAFlush(t *testing.T) {
	m := memfs.New()
	e := errfs.New(m)
	f := create(t, e, "/f", "old")
	require.NoError(t, f.Sync("s"))
	require.NoError(t, e.SyncDir("s", "/"))
	free := e.FullAtSync()
	_, err := f.WriteAt([]byte("new"), 0)
	require.NoError(t, err)
	require.ErrorIs(t, f.Sync("s"), vfs.ErrNoSpace)
	free()
	require.NoError(t, f.Sync("s"))
	old := 0
	for seed := range uint64(100) {
		if content(t, m.CrashClone(seed), "/f") == "old" {
			old++
		}
	}
	require.Greater(t, old, 30)
}

// What is closed with an injected error is closed all the same.
func TestFailedCloseCloses(t *testing.T) {
	m := memfs.New()
	e := errfs.New(m)
	f := create(t, e, "/f", "abc")
	p, err := f.Map(0, 1, false)
	require.NoError(t, err)
	l, err := e.Lock("/l")
	require.NoError(t, err)
	for _, kind := range []errfs.Kind{errfs.Close, errfs.Unmap, errfs.Unlock} {
		e.FailKind(kind, 0, nil)
	}
	require.Error(t, f.Close())
	require.Error(t, p.Unmap())
	require.Error(t, l.Close())
	require.Zero(t, m.OpenFiles())
	require.Zero(t, m.Mappings())
}

// A blocked operation arrives, waits until it is released, and goes on then;
// others pass meanwhile.
func TestBlockHoldsOperationsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := errfs.New(memfs.New())
		f := create(t, e, "/f", "abc")
		arrived, release := e.Block(errfs.Rule{Kind: errfs.Sync})
		done := make(chan error)
		go func() { done <- f.Sync("s") }()
		op := <-arrived
		require.Equal(t, vfs.Site("s"), op.Site)
		synctest.Wait()
		require.NoError(t, e.SyncDir("d", "/"))
		select {
		case <-done:
			t.Fatal("not blocked")
		default:
		}
		release()
		release()
		require.NoError(t, <-done)
		require.NoError(t, f.Sync("s"))
	})
}

// A write of pieces is one operation, and fails as one: a part of it may be there.
func TestPartOfPieces(t *testing.T) {
	e := errfs.New(memfs.New())
	f := create(t, e, "/f", "......")
	e.FailKind(errfs.Write, 1, &errfs.Partial{Bytes: 3, Err: vfs.ErrNoSpace})
	n, err := f.WriteVec([][]byte{[]byte("ab"), []byte("cd")}, 1)
	require.ErrorIs(t, err, vfs.ErrNoSpace)
	require.Equal(t, 3, n)
	require.Equal(t, ".abc..", content(t, e, "/f"))
	n, err = f.WriteVec([][]byte{[]byte("ab"), []byte("cd")}, 1)
	require.NoError(t, err)
	require.Equal(t, 4, n)
	require.Equal(t, ".abcd.", content(t, e, "/f"))
}
