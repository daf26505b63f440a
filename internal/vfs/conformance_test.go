package vfs_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// onEach runs test on every implementation, each with an empty directory.
func onEach(t *testing.T, test func(t *testing.T, fsys vfs.FS, dir string)) {
	t.Run("os", func(t *testing.T) { test(t, vfs.OS(), t.TempDir()) })
	t.Run("memfs", func(t *testing.T) {
		m := memfs.New()
		test(t, m, "/")
		require.Zero(t, m.OpenFiles(), "open files")
		require.Zero(t, m.Mappings(), "mappings")
	})
	t.Run("errfs on memfs", func(t *testing.T) { test(t, errfs.New(memfs.New()), "/") })
	t.Run("errfs on os", func(t *testing.T) { test(t, errfs.New(vfs.OS()), t.TempDir()) })
}

// class names what a caller can tell of err, and adds a complaint if it has no
// path.
func class(err error) string {
	if err == nil || err == io.EOF {
		return map[bool]string{true: "ok", false: "EOF"}[err == nil]
	}
	var path *fs.PathError
	var link *os.LinkError
	lacks := ""
	if !(errors.As(err, &path) && path.Path != "") && !errors.As(err, &link) {
		lacks = " without a path"
	}
	for _, known := range []error{
		syscall.ENOTEMPTY, syscall.ENOTDIR, syscall.EISDIR, fs.ErrExist, fs.ErrNotExist, fs.ErrInvalid,
		fs.ErrPermission, fs.ErrClosed, vfs.ErrFault, vfs.ErrLocked, vfs.ErrNoSpace, errors.ErrUnsupported,
	} {
		if errors.Is(err, known) {
			return known.Error() + lacks
		}
	}
	return err.Error() + lacks
}

func requireClass(t *testing.T, want, got error, msg string) {
	t.Helper()
	require.Equal(t, want.Error(), class(got), msg)
}

func put(t *testing.T, fsys vfs.FS, name, content string) {
	t.Helper()
	f, err := fsys.Create(name)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte(content), 0)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

func get(t *testing.T, fsys vfs.FS, name string) string {
	t.Helper()
	data, err := vfs.ReadFile(fsys, name, math.MaxInt64)
	require.NoError(t, err)
	return string(data)
}

// Every wrong use of a name gives the error that Linux gives, with the path in
// it: shown by a table, with a file "f", a directory "d" and a file in it.
func TestNamesAtFaultGiveErrorsWithTheirPath(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the codes differ there") // what the log asks of them, errors.Is, is tested everywhere
	}
	onEach(t, func(t *testing.T, fsys vfs.FS, dir string) {
		at := func(name string) string { return filepath.Join(dir, name) }
		require.NoError(t, fsys.Mkdir(at("d")))
		put(t, fsys, at("d/in"), "x")
		put(t, fsys, at("f"), "x")
		open := func(_ vfs.File, err error) error { return err }
		stat := func(_ vfs.DirEntry, err error) error { return err }
		list := func(_ []vfs.DirEntry, err error) error { return err }
		lock := func(_ io.Closer, err error) error { return err }
		space := func(_ vfs.Space, err error) error { return err }
		for what, c := range map[string]struct{ want, got error }{
			"open missing":         {fs.ErrNotExist, open(fsys.Open(at("no")))},
			"open below missing":   {fs.ErrNotExist, open(fsys.Open(at("no/no")))},
			"open below file":      {syscall.ENOTDIR, open(fsys.Open(at("f/no")))},
			"open dir":             {syscall.EISDIR, open(fsys.Open(at("d")))},
			"openwrite missing":    {fs.ErrNotExist, open(fsys.OpenWrite(at("no")))},
			"openwrite dir":        {syscall.EISDIR, open(fsys.OpenWrite(at("d")))},
			"create dir":           {syscall.EISDIR, open(fsys.Create(at("d")))},
			"create below missing": {fs.ErrNotExist, open(fsys.Create(at("no/no")))},
			"create below file":    {syscall.ENOTDIR, open(fsys.Create(at("f/no")))},
			"mkdir again":          {fs.ErrExist, fsys.Mkdir(at("d"))},
			"mkdir on file":        {fs.ErrExist, fsys.Mkdir(at("f"))},
			"mkdir below missing":  {fs.ErrNotExist, fsys.Mkdir(at("no/no"))},
			"mkdir below file":     {syscall.ENOTDIR, fsys.Mkdir(at("f/no"))},
			"remove missing":       {fs.ErrNotExist, fsys.Remove(at("no"))},
			"remove full dir":      {syscall.ENOTEMPTY, fsys.Remove(at("d"))},
			"remove below file":    {syscall.ENOTDIR, fsys.Remove(at("f/no"))},
			"stat missing":         {fs.ErrNotExist, stat(fsys.Stat(at("no")))},
			"stat below file":      {syscall.ENOTDIR, stat(fsys.Stat(at("f/no")))},
			"readdir missing":      {fs.ErrNotExist, list(fsys.ReadDir(at("no")))},
			"readdir file":         {syscall.ENOTDIR, list(fsys.ReadDir(at("f")))},
			"syncdir missing":      {fs.ErrNotExist, fsys.SyncDir("s", at("no"))},
			"syncdir file":         {syscall.ENOTDIR, fsys.SyncDir("s", at("f"))},
			"rename missing":       {fs.ErrNotExist, fsys.Rename(at("no"), at("f"))},
			"rename to dir":        {fs.ErrExist, fsys.Rename(at("f"), at("d"))},
			"rename dir to file":   {syscall.ENOTDIR, fsys.Rename(at("d"), at("f"))},
			"rename below missing": {fs.ErrNotExist, fsys.Rename(at("f"), at("no/no"))},
			"rename below file":    {syscall.ENOTDIR, fsys.Rename(at("d"), at("f/no"))},
			"lock dir":             {syscall.EISDIR, lock(fsys.Lock(at("d")))},
			"lock below missing":   {fs.ErrNotExist, lock(fsys.Lock(at("no/no")))},
			"space missing":        {fs.ErrNotExist, space(fsys.Space(at("no")))},
		} {
			requireClass(t, c.want, c.got, what)
		}
	})
}

// Arguments without sense, read-only and closed handles are refused, and
// nothing changes: each method of File is called in each of these ways.
func TestFilesRefuseWrongUse(t *testing.T) {
	onEach(t, func(t *testing.T, fsys vfs.FS, dir string) {
		name := filepath.Join(dir, "f")
		put(t, fsys, name, "content")
		write := func(_ int, err error) error { return err }
		maps := func(_ vfs.Mapping, err error) error { return err }
		changes := func(f vfs.File) map[string]error {
			return map[string]error{
				"write":    write(f.WriteAt([]byte("x"), 0)),
				"pieces":   write(f.WriteVec([][]byte{[]byte("x")}, 0)),
				"truncate": f.Truncate(1),
				"allocate": f.Allocate(0, 1),
				"zero":     f.Zero("s", 0, 1),
			}
		}
		f, err := fsys.OpenWrite(name)
		require.NoError(t, err)
		for what, err := range map[string]error{
			"read":           write(f.ReadAt(make([]byte, 1), -1)),
			"write":          write(f.WriteAt([]byte("x"), -1)),
			"pieces":         write(f.WriteVec([][]byte{[]byte("x")}, -1)),
			"truncate":       f.Truncate(-1),
			"allocate":       f.Allocate(-1, 1),
			"allocate none":  f.Allocate(0, 0),
			"allocate lots":  f.Allocate(math.MaxInt64, 1),
			"zero":           f.Zero("s", 0, -1),
			"map unaligned":  maps(f.Map(4096, 1, false)),
			"map before":     maps(f.Map(-vfs.PageSize, 1, false)),
			"map none":       maps(f.Map(0, 0, false)),
			"map far beyond": maps(f.Map(math.MaxInt64-vfs.PageSize+1, vfs.PageSize, false)),
		} {
			requireClass(t, fs.ErrInvalid, err, what)
		}
		require.NoError(t, f.Close())
		for what, err := range changes(f) {
			requireClass(t, fs.ErrClosed, err, what)
		}
		requireClass(t, fs.ErrClosed, f.Close(), "close")
		requireClass(t, fs.ErrClosed, f.Sync("s"), "sync")
		requireClass(t, fs.ErrClosed, write(f.ReadAt(make([]byte, 1), 0)), "read")

		f, err = fsys.Open(name)
		require.NoError(t, err)
		for what, err := range changes(f) {
			requireClass(t, fs.ErrPermission, err, what)
		}
		requireClass(t, fs.ErrPermission, maps(f.Map(0, 1, true)), "map")
		require.NoError(t, f.Close())
		require.Equal(t, "content", get(t, fsys, name))
	})
}

// Pieces are written one behind the other, empty ones and more of them than a system call
// takes too; they stay what they are.
func TestPieces(t *testing.T) {
	onEach(t, func(t *testing.T, fsys vfs.FS, dir string) {
		f, err := fsys.Create(filepath.Join(dir, "f"))
		require.NoError(t, err)
		defer f.Close()
		var pieces [][]byte
		want := []byte{0, 0, 0}
		for i := range 3000 {
			piece := bytes.Repeat([]byte{byte(i)}, i%7)
			if i == 1500 {
				piece = bytes.Repeat([]byte("x"), 100_000)
			}
			pieces, want = append(pieces, piece), append(want, piece...)
		}
		n, err := f.WriteVec(pieces, 3)
		require.NoError(t, err)
		require.Equal(t, len(want)-3, n)
		require.Equal(t, want[3:], bytes.Join(pieces, nil))
		got := make([]byte, len(want)+1)
		n, err = f.ReadAt(got, 0)
		require.Equal(t, io.EOF, err)
		require.True(t, bytes.Equal(want, got[:n]))
		n, err = f.WriteVec(nil, 0)
		require.NoError(t, err)
		require.Zero(t, n)
	})
}

// Sizes and zeros are as promised: what Truncate and Allocate add reads as
// zeros, Allocate never shrinks or changes bytes, Zero never changes the size.
func TestSizesAndZeros(t *testing.T) {
	onEach(t, func(t *testing.T, fsys vfs.FS, dir string) {
		f, err := fsys.Create(filepath.Join(dir, "f"))
		require.NoError(t, err)
		defer f.Close()
		want := bytes.Repeat([]byte("x"), 10_000)
		_, err = f.WriteAt(want, 0)
		require.NoError(t, err)
		check := func(what string) {
			t.Helper()
			size, err := f.Size()
			require.NoError(t, err)
			require.EqualValues(t, len(want), size, what)
			got := make([]byte, len(want)+1)
			n, err := f.ReadAt(got, 0)
			require.Equal(t, io.EOF, err, what)
			require.True(t, bytes.Equal(want, got[:n]), what)
		}
		require.NoError(t, f.Allocate(100, 50_000))
		want = append(want, make([]byte, 40_100)...)
		check("allocate beyond")
		require.NoError(t, f.Allocate(0, 10))
		check("allocate inside")
		require.NoError(t, f.Zero("s", 5_000, 4_000))
		clear(want[5_000:9_000])
		check("zero")
		require.NoError(t, f.Zero("s", 9_990, math.MaxInt64-9_990))
		clear(want[9_990:])
		check("zero beyond the end")
		require.NoError(t, f.Zero("s", 90_000, 10))
		check("zero wholly beyond the end")
		require.NoError(t, f.Truncate(4_500))
		want = want[:4_500:4_500]
		check("truncate")
		require.NoError(t, f.Truncate(9_000))
		want = append(want, make([]byte, 4_500)...)
		check("grow again")
		n, err := f.ReadAt(nil, 1<<40)
		require.True(t, n == 0 && err == nil, "an empty read ends nowhere")
		require.NoError(t, f.Sync("s"))
	})
}

// Allocate cuts nothing off that is written behind the end while it runs: a
// writer appends, another goroutine allocates a little more than there is.
func TestAllocateKeepsConcurrentWrites(t *testing.T) {
	onEach(t, func(t *testing.T, fsys vfs.FS, dir string) {
		f, err := fsys.Create(filepath.Join(dir, "f"))
		require.NoError(t, err)
		defer f.Close()
		const blocks, blockBytes = 5000, 100
		block := bytes.Repeat([]byte{1}, blockBytes)
		var written atomic.Bool
		done := make(chan error, 1)
		go func() {
			var err error
			for err == nil && !written.Load() {
				var size int64
				if size, err = f.Size(); err == nil {
					err = f.Allocate(size, 1)
				}
			}
			done <- err
		}()
		for i := range int64(blocks) {
			_, err := f.WriteAt(block, i*blockBytes)
			require.NoError(t, err)
		}
		written.Store(true)
		require.NoError(t, <-done)
		got := make([]byte, blocks*blockBytes)
		_, err = f.ReadAt(got, 0)
		require.NoError(t, err)
		require.Equal(t, len(got), bytes.Count(got, []byte{1}))
	})
}

// Rename replaces a file, but neither a file nor a directory takes a directory's
// name, empty or not; then nothing has changed.
func TestRenameReplacesFilesOnly(t *testing.T) {
	onEach(t, func(t *testing.T, fsys vfs.FS, dir string) {
		at := func(name string) string { return filepath.Join(dir, name) }
		for _, name := range []string{"d", "empty", "e"} {
			require.NoError(t, fsys.Mkdir(at(name)))
		}
		put(t, fsys, at("d/in"), "x")
		put(t, fsys, at("f"), "new")
		put(t, fsys, at("g"), "old")
		for _, from := range []string{"f", "e"} {
			for _, to := range []string{"d", "empty"} {
				requireClass(t, fs.ErrExist, fsys.Rename(at(from), at(to)), from+" to "+to)
			}
		}
		requireClass(t, fs.ErrNotExist, fsys.Rename(at("no"), at("d")), "missing")
		require.Equal(t, "x", get(t, fsys, at("d/in")))
		require.NoError(t, fsys.Rename(at("f"), at("g")))
		require.Equal(t, "new", get(t, fsys, at("g")))
		require.NoError(t, fsys.Rename(at("d"), at("h")))
		require.Equal(t, "x", get(t, fsys, at("h/in")))
	})
}

// A removed or replaced file stays usable through its handle; the new name is
// another file.
func TestRemovedFileStaysUsable(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("refused there") // FS.Remove says so
	}
	onEach(t, func(t *testing.T, fsys vfs.FS, dir string) {
		a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
		put(t, fsys, a, "old")
		put(t, fsys, b, "new")
		f, err := fsys.OpenWrite(a)
		require.NoError(t, err)
		require.NoError(t, fsys.Rename(b, a))
		_, err = f.WriteAt([]byte("!"), 3)
		require.NoError(t, err)
		got := make([]byte, 4)
		_, err = f.ReadAt(got, 0)
		require.NoError(t, err)
		require.Equal(t, "old!", string(got))
		require.Equal(t, "new", get(t, fsys, a))
		list, err := fsys.ReadDir(dir)
		require.NoError(t, err)
		require.Equal(t, []vfs.DirEntry{{Name: "a", Size: 3}}, list)
		require.NoError(t, f.Close())
	})
}

// ReadDir follows symbolic links, as Stat does; one that leads nowhere is a file.
func TestReadDirFollowsLinks(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	fsys := vfs.OS()
	require.NoError(t, fsys.Mkdir(at("d")))
	put(t, fsys, at("f"), "content")
	if err := os.Symlink(at("d"), at("to d")); err != nil {
		t.Skip(err) // Windows allows links to some users only
	}
	require.NoError(t, os.Symlink("f", at("to f")))
	require.NoError(t, os.Symlink("no", at("to nothing")))
	list, err := fsys.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, list, 5)
	for _, e := range list[:4] {
		info, err := fsys.Stat(at(e.Name))
		require.NoError(t, err)
		require.Equal(t, info, e)
	}
	require.Equal(t, vfs.DirEntry{Name: "to d", Dir: true}, list[2])
	require.Equal(t, "to nothing", list[4].Name)
	require.False(t, list[4].Dir)
}

// A lock excludes everybody, in this process too, until it is closed; then the
// file is still there.
func TestLockExcludes(t *testing.T) {
	onEach(t, func(t *testing.T, fsys vfs.FS, dir string) {
		name := filepath.Join(dir, ".lock")
		first, err := fsys.Lock(name)
		require.NoError(t, err)
		_, err = fsys.Lock(name)
		requireClass(t, vfs.ErrLocked, err, "second")
		require.NoError(t, first.Close())
		requireClass(t, fs.ErrClosed, first.Close(), "closed twice")
		second, err := fsys.Lock(name)
		require.NoError(t, err)
		require.NoError(t, second.Close())
		_, err = fsys.Stat(name)
		require.NoError(t, err)
	})
}

// mapped opens a file of the given size with a mapping of its first n bytes.
func mapped(t *testing.T, fsys vfs.FS, name string, size int64, n int) (vfs.File, vfs.Mapping) {
	t.Helper()
	f, err := fsys.Create(name)
	require.NoError(t, err)
	require.NoError(t, f.Allocate(0, size))
	m, err := f.Map(0, n, true)
	if errors.Is(err, errors.ErrUnsupported) {
		require.NoError(t, f.Close())
		t.Skip("no mappings here") // the portable path has none
	}
	require.NoError(t, err)
	return f, m
}

// A mapping and the file are the same bytes, in both directions, also as words;
// it refuses what is outside it, and outlives its handle.
func TestMappingIsTheFile(t *testing.T) {
	onEach(t, func(t *testing.T, fsys vfs.FS, dir string) {
		f, m := mapped(t, fsys, filepath.Join(dir, "f"), 3*vfs.PageSize, 2*vfs.PageSize)
		require.Equal(t, 2*vfs.PageSize, m.Len())
		require.NoError(t, m.Prefault(100, vfs.PageSize))
		require.NoError(t, m.Detach(100, vfs.PageSize))
		_, err := m.WriteAt([]byte("mapped"), 4093)
		require.NoError(t, err)
		got := make([]byte, 6)
		_, err = f.ReadAt(got, 4093)
		require.NoError(t, err)
		require.Equal(t, "mapped", string(got))
		_, err = f.WriteAt([]byte("filed!"), 4093)
		require.NoError(t, err)
		_, err = m.ReadAt(got, 4093)
		require.NoError(t, err)
		require.Equal(t, "filed!", string(got))

		require.NoError(t, m.Store(16, 0x0807060504030201))
		_, err = f.ReadAt(got, 16)
		require.NoError(t, err)
		require.Equal(t, []byte{1, 2, 3, 4, 5, 6}, got)
		v, err := m.Load(16)
		require.NoError(t, err)
		require.Equal(t, uint64(0x0807060504030201), v)

		outside := int64(m.Len())
		_, err = m.ReadAt(got, outside-5)
		requireClass(t, fs.ErrInvalid, err, "read over the end")
		_, err = m.WriteAt(got, -1)
		requireClass(t, fs.ErrInvalid, err, "write before")
		_, err = m.Load(m.Len())
		requireClass(t, fs.ErrInvalid, err, "load outside")
		requireClass(t, fs.ErrInvalid, m.Store(4, 0), "store unaligned")
		requireClass(t, fs.ErrInvalid, m.Prefault(m.Len(), 1), "prefault outside")
		requireClass(t, fs.ErrInvalid, m.Detach(m.Len(), 1), "detach outside")

		ro, err := f.Map(vfs.PageSize, 100, false)
		require.NoError(t, err)
		_, err = ro.WriteAt(got, 0)
		requireClass(t, fs.ErrPermission, err, "write read-only")
		requireClass(t, fs.ErrPermission, ro.Store(0, 1), "store read-only")
		require.NoError(t, ro.Unmap())

		require.NoError(t, f.Close())
		_, err = m.ReadAt(got, 4093)
		require.NoError(t, err)
		require.Equal(t, "filed!", string(got))
		require.NoError(t, m.Unmap())
		requireClass(t, fs.ErrClosed, m.Unmap(), "unmapped twice")
	})
}

// Touching a mapped page that a Truncate has taken away is ErrFault in every
// way of touching it, the process lives, and the pages before it still work.
func TestTouchingWhatWasCutIsAnError(t *testing.T) {
	onEach(t, func(t *testing.T, fsys vfs.FS, dir string) {
		f, m := mapped(t, fsys, filepath.Join(dir, "f"), 2*vfs.PageSize, 2*vfs.PageSize)
		require.NoError(t, f.Truncate(vfs.PageSize))
		p := make([]byte, 100)
		_, err := m.ReadAt(p, vfs.PageSize)
		requireClass(t, vfs.ErrFault, err, "read")
		_, err = m.ReadAt(p, vfs.PageSize-50)
		requireClass(t, vfs.ErrFault, err, "read across")
		_, err = m.WriteAt(p, vfs.PageSize)
		requireClass(t, vfs.ErrFault, err, "write")
		_, err = m.Load(vfs.PageSize)
		requireClass(t, vfs.ErrFault, err, "load")
		requireClass(t, vfs.ErrFault, m.Store(vfs.PageSize, 1), "store")
		requireClass(t, vfs.ErrFault, m.Prefault(vfs.PageSize, 100), "prefault")
		_, err = m.ReadAt(p, 0)
		require.NoError(t, err)
		require.NoError(t, m.Unmap())
		require.NoError(t, f.Close())
	})
}

// BootID stays the same until the machine starts again, which a power cut of
// memfs is; an error in asking for it makes it unknown.
func TestBootIDChangesWithTheBoot(t *testing.T) {
	onEach(t, func(t *testing.T, fsys vfs.FS, _ string) {
		require.Equal(t, fsys.BootID(), fsys.BootID())
	})
	m := memfs.New()
	again := m.CrashClone(1)
	twice := again.CrashClone(1)
	require.NotEqual(t, m.BootID(), again.BootID())
	require.NotEqual(t, m.BootID(), twice.BootID())
	require.NotEqual(t, again.BootID(), twice.BootID())
	m.SetBootID("")
	require.Empty(t, m.BootID())
	e := errfs.New(again)
	e.FailKind(errfs.BootID, 1, nil)
	require.Empty(t, e.BootID())
	require.Equal(t, again.BootID(), e.BootID())
}

// Space tells free bytes, and Check returns what it is given.
func TestSpaceAndCheck(t *testing.T) {
	onEach(t, func(t *testing.T, fsys vfs.FS, dir string) {
		space, err := fsys.Space(dir)
		require.NoError(t, err)
		require.Positive(t, space.Free)
		require.GreaterOrEqual(t, space.Total, space.Free)
		require.True(t, fsys.Check("s", true))
		require.False(t, fsys.Check("s", false))
	})
}

// WriteFileAtomic replaces, and leaves no second file; ReadFile keeps its limit.
func TestWriteFileAtomicAndReadFile(t *testing.T) {
	onEach(t, func(t *testing.T, fsys vfs.FS, dir string) {
		name := filepath.Join(dir, "f")
		for _, content := range []string{"one", "", "three"} {
			require.NoError(t, vfs.WriteFileAtomic(fsys, "test", name, []byte(content)))
			require.Equal(t, content, get(t, fsys, name))
		}
		list, err := fsys.ReadDir(dir)
		require.NoError(t, err)
		require.Equal(t, []vfs.DirEntry{{Name: "f", Size: 5}}, list)
		_, err = vfs.ReadFile(fsys, name, 4)
		require.ErrorContains(t, err, "limit of 4")
		data, err := vfs.ReadFile(fsys, name, 5)
		require.NoError(t, err)
		require.Equal(t, "three", string(data))
	})
}
