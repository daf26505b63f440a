package vfs_test

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// machine does the same to the operating system's file system and to memfs.
type machine struct {
	t     *rapid.T
	os    vfs.FS
	mem   *memfs.FS
	dir   string // on os; "/" on mem
	files []pair[vfs.File]
	maps  []pair[vfs.Mapping]
}

type pair[T any] struct{ os, mem T }

// Memfs answers as the operating system does: random operations on names,
// files and mappings are done on both, and the results are compared.
func TestMemfsAnswersAsTheOperatingSystem(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("memfs follows Linux") // so there is nothing to compare
	}
	base := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(base, "")
		require.NoError(t, err)
		m := &machine{t: t, os: vfs.OS(), mem: memfs.New(), dir: dir}
		actions := map[string]func(*rapid.T){
			"names": m.changeNames, "names again": m.changeNames, "list": m.list, "open": m.open,
			"write": m.write, "read": m.read, "resize": m.resize, "zero": m.zero, "close": m.close,
			"map": m.mapFile, "unmap": m.unmap, "mapwrite": m.mapWrite, "mapread": m.mapRead,
		}
		t.Repeat(actions)
		m.finish()
	})
}

func (m *machine) finish() {
	for _, p := range m.maps {
		require.NoError(m.t, p.os.Unmap())
		require.NoError(m.t, p.mem.Unmap())
	}
	for _, f := range m.files {
		require.NoError(m.t, f.os.Close())
		require.NoError(m.t, f.mem.Close())
	}
	require.Zero(m.t, m.mem.OpenFiles())
	require.Zero(m.t, m.mem.Mappings())
}

// name draws a name, as it is on os and on mem.
func (m *machine) name(label string) (string, string) {
	names := []string{"a", "b", "d", "e", "d/x", "d/y", "e/x", "a/x", "d/e", "d/e/x"}
	n := rapid.SampledFrom(names).Draw(m.t, label)
	return filepath.Join(m.dir, n), "/" + n
}

// same compares two errors and returns whether the operation worked.
func (m *machine) same(os, mem error) bool {
	require.Equal(m.t, class(os), class(mem), "%v / %v", os, mem)
	return os == nil
}

func (m *machine) changeNames(t *rapid.T) {
	o, n := m.name("name")
	switch rapid.IntRange(0, 3).Draw(t, "what") {
	case 0:
		m.same(m.os.Mkdir(o), m.mem.Mkdir(n))
	case 1:
		m.same(m.os.Remove(o), m.mem.Remove(n))
	case 2:
		o2, n2 := m.name("to")
		if m.intoItself(n, n2) {
			t.Skip("Linux has other codes")
		}
		m.same(m.os.Rename(o, o2), m.mem.Rename(n, n2))
	case 3:
		a, errA := m.os.Stat(o)
		b, errB := m.mem.Stat(n)
		m.same(errA, errB)
		require.Equal(t, a, b)
	}
}

func (m *machine) intoItself(from, to string) bool {
	return len(to) > len(from) && to[:len(from)+1] == from+"/"
}

func (m *machine) list(t *rapid.T) {
	for _, dir := range []string{"", "d", "e", "d/e"} {
		a, errA := m.os.ReadDir(filepath.Join(m.dir, dir))
		b, errB := m.mem.ReadDir("/" + dir)
		m.same(errA, errB)
		require.Equal(t, a, b)
	}
}

func (m *machine) open(t *rapid.T) {
	o, n := m.name("name")
	open := []func(vfs.FS, string) (vfs.File, error){vfs.FS.Create, vfs.FS.Open, vfs.FS.OpenWrite, vfs.FS.Create}
	how := rapid.SampledFrom(open).Draw(t, "how")
	a, errA := how(m.os, o)
	b, errB := how(m.mem, n)
	if m.same(errA, errB) {
		m.files = append(m.files, pair[vfs.File]{a, b})
	}
}

func pick[T any](t *rapid.T, from []pair[T]) (int, pair[T]) {
	if len(from) == 0 {
		t.Skip("none is open")
	}
	i := rapid.IntRange(0, len(from)-1).Draw(t, "which")
	return i, from[i]
}

// aRange draws a range that often ends or begins where pages do.
func aRange(t *rapid.T) (off, n int64) {
	off = rapid.Int64Range(0, 40).Draw(t, "page") * 4096
	off += rapid.Int64Range(0, 4095).Draw(t, "in page")
	return off, rapid.Int64Range(0, 9000).Draw(t, "n")
}

func aBuffer(t *rapid.T, n int64) []byte {
	p := make([]byte, n)
	seed := rapid.Byte().Draw(t, "fill")
	for i := range p {
		p[i] = seed + byte(i)
	}
	return p
}

func (m *machine) write(t *rapid.T) {
	_, f := pick(t, m.files)
	off, n := aRange(t)
	p := aBuffer(t, n)
	write := func(f vfs.File) (int, error) { return f.WriteAt(p, off) }
	if rapid.Bool().Draw(t, "pieces") {
		cut := rapid.IntRange(0, len(p)).Draw(t, "cut")
		write = func(f vfs.File) (int, error) { return f.WriteVec([][]byte{p[:cut], p[cut:]}, off) }
	}
	a, errA := write(f.os)
	b, errB := write(f.mem)
	m.same(errA, errB)
	require.Equal(t, a, b)
	m.compare(f)
}

// compare compares all of a file.
func (m *machine) compare(f pair[vfs.File]) {
	a, errA := f.os.Size()
	b, errB := f.mem.Size()
	m.same(errA, errB)
	require.Equal(m.t, a, b)
	m.compareAt(f, 0, a+1)
}

func (m *machine) compareAt(f pair[vfs.File], off, n int64) {
	p, q := make([]byte, n), make([]byte, n)
	a, errA := f.os.ReadAt(p, off)
	b, errB := f.mem.ReadAt(q, off)
	m.same(errA, errB)
	require.Equal(m.t, a, b)
	require.True(m.t, string(p) == string(q), "content differs")
}

func (m *machine) read(t *rapid.T) {
	_, f := pick(t, m.files)
	off, n := aRange(t)
	m.compareAt(f, off, n)
}

func (m *machine) resize(t *rapid.T) {
	_, f := pick(t, m.files)
	off, n := aRange(t)
	if rapid.Bool().Draw(t, "allocate") {
		m.same(f.os.Allocate(off, n), f.mem.Allocate(off, n))
	} else {
		m.same(f.os.Truncate(off), f.mem.Truncate(off))
	}
	m.compare(f)
}

func (m *machine) zero(t *rapid.T) {
	_, f := pick(t, m.files)
	off, n := aRange(t)
	m.same(f.os.Zero("s", off, n), f.mem.Zero("s", off, n))
	m.compare(f)
}

func (m *machine) close(t *rapid.T) {
	i, f := pick(t, m.files)
	m.same(f.os.Close(), f.mem.Close())
	m.files = append(m.files[:i], m.files[i+1:]...)
}

func (m *machine) mapFile(t *rapid.T) {
	_, f := pick(t, m.files)
	off := rapid.Int64Range(0, 2).Draw(t, "off") * vfs.PageSize
	n := rapid.IntRange(0, 2*vfs.PageSize).Draw(t, "n")
	writable := rapid.Bool().Draw(t, "writable")
	a, errA := f.os.Map(off, n, writable)
	if class(errA) == "unsupported operation" {
		t.Skip("no mappings here")
	}
	b, errB := f.mem.Map(off, n, writable)
	if m.same(errA, errB) {
		m.maps = append(m.maps, pair[vfs.Mapping]{a, b})
	}
}

func (m *machine) unmap(t *rapid.T) {
	i, p := pick(t, m.maps)
	m.same(p.os.Unmap(), p.mem.Unmap())
	m.maps = append(m.maps[:i], m.maps[i+1:]...)
}

func (m *machine) mapWrite(t *rapid.T) {
	_, p := pick(t, m.maps)
	off, n := aRange(t)
	b := aBuffer(t, n)
	if m.touchesTail(p, off, n) {
		t.Skip("the last page's tail differs")
	}
	_, errA := p.os.WriteAt(b, off)
	_, errB := p.mem.WriteAt(b, off)
	m.same(errA, errB)
	m.same(p.os.Store(int(off), 77), p.mem.Store(int(off), 77))
}

func (m *machine) mapRead(t *rapid.T) {
	_, p := pick(t, m.maps)
	off, n := aRange(t)
	if m.touchesTail(p, off, n) {
		t.Skip("the last page's tail differs")
	}
	a, b := make([]byte, n), make([]byte, n)
	_, errA := p.os.ReadAt(a, off)
	_, errB := p.mem.ReadAt(b, off)
	if m.same(errA, errB) {
		require.True(t, string(a) == string(b), "content differs")
	}
	v, errA := p.os.Load(int(off))
	w, errB := p.mem.Load(int(off))
	m.same(errA, errB)
	require.Equal(t, v, w)
}

// touchesTail tells whether [off, off+n), or the word at off, ends after the
// file's end but in its last page, where the operating system gives zeros
// instead of a fault.
func (m *machine) touchesTail(p pair[vfs.Mapping], off, n int64) bool {
	inside := func(off, n int64) bool {
		_, err := p.mem.ReadAt(make([]byte, n), off)
		return err == nil
	}
	for _, n := range []int64{n, 8} {
		last := off + n - 1
		page := last - last%int64(os.Getpagesize())
		if n > 0 && last < int64(p.mem.Len()) && inside(page, 1) && !inside(page, last-page+1) {
			return true
		}
	}
	return false
}
