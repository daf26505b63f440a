package memfs_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

const (
	page   = 4096
	sector = 512
	seeds  = 300 // enough for every state that a test looks for
)

// states returns what look sees in CrashClones of m, with how often.
func states(m *memfs.FS, look func(c *memfs.FS) string) map[string]int {
	seen := map[string]int{}
	for seed := range uint64(seeds) {
		seen[look(m.CrashClone(seed))]++
	}
	return seen
}

func requireStates(t *testing.T, m *memfs.FS, look func(c *memfs.FS) string, want ...string) {
	t.Helper()
	var got []string
	for s := range states(m, look) {
		got = append(got, s)
	}
	require.ElementsMatch(t, want, got)
}

// content describes a file of pages of one letter each: "aab", "-" for zeros,
// "?" for a torn page, "none" if there is no file.
func content(name string) func(*memfs.FS) string {
	return func(c *memfs.FS) string {
		data, err := vfs.ReadFile(c, name, 1<<30)
		if errors.Is(err, fs.ErrNotExist) {
			return "none"
		}
		var s []byte
		for p := range slices.Chunk(data, page) {
			letter := p[0]
			for _, b := range p {
				if b != p[0] {
					letter = '?'
				}
			}
			s = append(s, max(letter, '-'))
		}
		return string(s)
	}
}

// exist describes which of the names there are.
func exist(names ...string) func(*memfs.FS) string {
	return func(c *memfs.FS) string {
		s := ""
		for _, name := range names {
			if _, err := c.Stat(name); err == nil {
				s += name + " "
			}
		}
		return s
	}
}

func fill(letters string) []byte {
	var p []byte
	for _, l := range letters {
		p = append(p, bytes.Repeat([]byte{byte(l)}, page)...)
	}
	return p
}

// durable makes a flushed file of pages of one letter each.
func durable(t *testing.T, m *memfs.FS, name, letters string) vfs.File {
	t.Helper()
	f, err := m.Create(name)
	require.NoError(t, err)
	write(t, f, 0, letters)
	require.NoError(t, f.Sync("s"))
	require.NoError(t, m.SyncDir("s", name[:max(1, bytes.LastIndexByte([]byte(name), '/'))]))
	return f
}

func write(t *testing.T, f vfs.File, at int, letters string) {
	t.Helper()
	_, err := f.WriteAt(fill(letters), int64(at)*page)
	require.NoError(t, err)
}

// A page that was written over twice since its flush is found as it was, as it
// was between, as it is, and torn; its neighbours never change.
func TestCrashLeavesAPageOldBetweenNewOrTorn(t *testing.T) {
	m := memfs.New()
	f := durable(t, m, "/f", "xax")
	write(t, f, 1, "b")
	write(t, f, 1, "c")
	requireStates(t, m, content("/f"), "xax", "xbx", "xcx", "x?x")
}

// A torn page is torn between sectors of 512 bytes, each of which is whole.
func TestCrashTearsBetweenSectors(t *testing.T) {
	m := memfs.New()
	f := durable(t, m, "/f", "a")
	write(t, f, 0, "b")
	for seed := range uint64(seeds) {
		data, err := vfs.ReadFile(m.CrashClone(seed), "/f", page)
		require.NoError(t, err)
		for s := range slices.Chunk(data, sector) {
			require.Equal(t, sector, bytes.Count(s, s[:1]))
		}
	}
}

// Pages survive independently of each other: all four combinations of two.
func TestCrashTakesPagesInAnyOrder(t *testing.T) {
	m := memfs.New()
	f := durable(t, m, "/f", "aa")
	write(t, f, 0, "bb")
	seen := states(m, content("/f"))
	for _, want := range []string{"aa", "ab", "ba", "bb"} {
		require.Positive(t, seen[want], want)
	}
}

// Size and content survive independently: the file may be longer than its
// content (zeros), or shorter.
func TestCrashSeparatesSizeAndContent(t *testing.T) {
	m := memfs.New()
	f := durable(t, m, "/f", "a")
	write(t, f, 1, "b")
	requireStates(t, m, content("/f"), "a", "ab", "a-", "a?")
}

// A write that makes the file longer does so page by page: the file may end at
// each page boundary inside it, and nowhere else.
func TestCrashEndsAFileInsideAWrite(t *testing.T) {
	m := memfs.New()
	f := durable(t, m, "/f", "a")
	_, err := f.WriteAt(fill("bbb"), page+100)
	require.NoError(t, err)
	size := func(c *memfs.FS) string {
		e, err := c.Stat("/f")
		require.NoError(t, err)
		return fmt.Sprint(e.Size)
	}
	requireStates(t, m, size, "4096", "8192", "12288", "16384", "16484")
	require.NoError(t, f.Sync("s"))
	require.NoError(t, f.Allocate(6*page, 2*page))
	requireStates(t, m, size, "16484", "28672", "32768")
	require.NoError(t, f.Sync("s"))
	require.NoError(t, f.Truncate(20*page))
	requireStates(t, m, size, "32768", "81920")
}

// The boundaries inside one large write do not push out the sizes before it.
func TestCrashRemembersSizesBeforeALargeWrite(t *testing.T) {
	m := memfs.New()
	f := durable(t, m, "/f", "a")
	require.NoError(t, f.Truncate(page+1))
	require.NoError(t, f.Truncate(page+2))
	_, err := f.WriteAt(make([]byte, 1000*page), page)
	require.NoError(t, err)
	seen := map[int64]int{}
	for seed := range uint64(seeds) {
		e, err := m.CrashClone(seed).Stat("/f")
		require.NoError(t, err)
		seen[e.Size]++
	}
	for _, size := range []int64{page, page + 1, page + 2, 1001 * page} {
		require.Positive(t, seen[size], size)
	}
	require.Greater(t, len(seen), 20)
}

// An unflushed cut has happened or not. If not, what it uncovers is what was
// flushed there, also when other bytes were written there since.
func TestCrashMayUndoACut(t *testing.T) {
	m := memfs.New()
	f := durable(t, m, "/f", "abc")
	require.NoError(t, f.Truncate(page))
	requireStates(t, m, content("/f"), "abc", "a")
	write(t, f, 2, "d")
	requireStates(t, m, content("/f"), "abc", "a", "a--", "a-d", "a-?")
	require.NoError(t, f.Sync("s"))
	requireStates(t, m, content("/f"), "a-d")
}

// The same where nothing had been written before: what comes after the cut is
// not seen in a file that was not cut.
func TestCrashMayUndoACutOfAHole(t *testing.T) {
	m := memfs.New()
	f := durable(t, m, "/f", "a")
	require.NoError(t, f.Truncate(3*page))
	require.NoError(t, f.Sync("s"))
	require.NoError(t, f.Truncate(page))
	write(t, f, 1, "b")
	requireStates(t, m, content("/f"), "a--", "a", "a-", "ab", "a?")
}

// A cut inside a page leaves zeros after it, or the whole page as it was.
func TestCrashAtACutInsideAPage(t *testing.T) {
	m := memfs.New()
	f := durable(t, m, "/f", "aa")
	require.NoError(t, f.Truncate(page+100))
	require.NoError(t, f.Truncate(2*page))
	seen := states(m, content("/f"))
	require.Len(t, seen, 2, "%v", seen)
	require.Positive(t, seen["aa"])
	require.Positive(t, seen["a?"]) // shorter, or with a zero tail
}

// A cut inside a page and a write into it after that: the page is written in its
// place, so the disk may have that and not the cut. Zeros after the cut are part
// of it, and pages beyond are as they were.
func TestCrashAfterAWriteIntoAPageThatWasCut(t *testing.T) {
	m := memfs.New()
	f := durable(t, m, "/f", "aa")
	require.NoError(t, f.Truncate(600))
	_, err := f.WriteAt([]byte("b"), 50)
	require.NoError(t, err)
	look := func(c *memfs.FS) string {
		data, err := vfs.ReadFile(c, "/f", 1<<20)
		require.NoError(t, err)
		if len(data) == 600 {
			return fmt.Sprintf("cut %c", data[50])
		}
		return fmt.Sprintf("%d %c %c %c", len(data), data[50], max(data[1024], '-'), data[page])
	}
	// Of the page as it was, cut, and cut and written: whole or torn.
	requireStates(t, m, look, "cut a", "cut b", "8192 a a a", "8192 a - a", "8192 b a a", "8192 b - a")

	require.NoError(t, f.Truncate(0))
	write(t, f, 0, "c")
	seen := states(m, content("/f"))
	require.Zero(t, seen["ca"], "written where a lost cut has taken the whole page away: %v", seen)
	require.Positive(t, seen["c"])
}

// A page that was written twice and then cut may be as after the first write,
// cut.
func TestCrashAtACutOfAPageWrittenTwice(t *testing.T) {
	m := memfs.New()
	f := durable(t, m, "/f", "a")
	write(t, f, 0, "b")
	write(t, f, 0, "c")
	require.NoError(t, f.Truncate(sector))
	for _, want := range []byte("abc") {
		require.Positive(t, states(m, func(c *memfs.FS) string {
			data, err := vfs.ReadFile(c, "/f", page)
			require.NoError(t, err)
			return fmt.Sprintf("%d %c", len(data), data[0])
		})[fmt.Sprintf("512 %c", want)])
	}
}

// Stores through a mapping are changes like others, lost and kept by pages, and
// a flush makes them durable.
func TestCrashSeesMappedStores(t *testing.T) {
	m := memfs.New()
	f := durable(t, m, "/f", "aa")
	p, err := f.Map(0, 2*page, true)
	require.NoError(t, err)
	_, err = p.WriteAt(fill("b"), page)
	require.NoError(t, err)
	requireStates(t, m, content("/f"), "aa", "ab", "a?")
	require.NoError(t, f.Sync("s"))
	requireStates(t, m, content("/f"), "ab")
	_, err = p.WriteAt(fill("c"), page)
	require.NoError(t, err)
	requireStates(t, m, content("/f"), "ab", "ac", "a?")
}

// Of several stores into one page, bytes and words, the disk may have the first
// ones only, in their order; also after a write and a flush between them.
func TestCrashSeesTheTimeBetweenMappedStores(t *testing.T) {
	m := memfs.New()
	f := durable(t, m, "/f", "-")
	p, err := f.Map(0, page, true)
	require.NoError(t, err)
	store := func(letters ...byte) {
		for i, l := range letters {
			if i%2 == 0 {
				_, err = p.WriteAt([]byte{l}, int64(8*i))
			} else {
				err = p.Store(8*i, uint64(l))
			}
			require.NoError(t, err)
		}
	}
	look := func(c *memfs.FS) string {
		data, err := vfs.ReadFile(c, "/f", page)
		require.NoError(t, err)
		return string([]byte{data[0], data[8], data[16], data[24]})
	}
	store('a', 'b', 'c', 'd')
	requireStates(t, m, look, "----", "a---", "ab--", "abc-", "abcd")
	_, err = f.WriteAt([]byte("e"), 0)
	require.NoError(t, err)
	store('f')
	requireStates(t, m, look, "----", "a---", "ab--", "abc-", "abcd", "ebcd", "fbcd")
	require.NoError(t, f.Sync("s"))
	store('g', 'h')
	requireStates(t, m, look, "fbcd", "gbcd", "ghcd")
}

// However many changes there were, some from each quarter of that time are
// remembered: of a page that was stored into or written, and of a size.
func TestCrashRemembersStatesSpreadOverTime(t *testing.T) {
	m := memfs.New()
	f := durable(t, m, "/f", "--")
	p, err := f.Map(0, page, true)
	require.NoError(t, err)
	for v := range uint64(1000) {
		require.NoError(t, p.Store(0, v))
		_, err := f.WriteAt(binary.LittleEndian.AppendUint64(nil, v), page)
		require.NoError(t, err)
		require.NoError(t, f.Truncate(int64(2*page+v)))
	}
	seen := map[string]bool{}
	for seed := range uint64(seeds) {
		data, err := vfs.ReadFile(m.CrashClone(seed), "/f", 1<<20)
		require.NoError(t, err)
		word := func(off int) uint64 { return binary.LittleEndian.Uint64(data[off:]) }
		for i, v := range []uint64{word(0), word(page), uint64(len(data) - 2*page)} {
			seen[fmt.Sprintf("%d: %d", i, v/250)] = true
		}
	}
	for i := range 3 {
		for quarter := range 4 {
			require.True(t, seen[fmt.Sprintf("%d: %d", i, quarter)], "%d %d: %v", i, quarter, seen)
		}
	}
}

// Each change of a name survives on its own until its directory is flushed; the
// file's own flush does not help.
func TestCrashTakesNamesInAnyOrder(t *testing.T) {
	m := memfs.New()
	for _, name := range []string{"/a", "/b"} {
		f, err := m.Create(name)
		require.NoError(t, err)
		require.NoError(t, f.Sync("s"))
	}
	requireStates(t, m, exist("/a", "/b"), "", "/a ", "/b ", "/a /b ")
	require.NoError(t, m.SyncDir("s", "/"))
	requireStates(t, m, exist("/a", "/b"), "/a /b ")
	require.NoError(t, m.Remove("/a"))
	requireStates(t, m, exist("/a", "/b"), "/b ", "/a /b ")
	require.NoError(t, m.SyncDir("s", "/"))
	requireStates(t, m, exist("/a", "/b"), "/b ")
}

// A flushed name whose content was not flushed is there with any part of it.
func TestCrashLeavesANameWithoutContent(t *testing.T) {
	m := memfs.New()
	f, err := m.Create("/f")
	require.NoError(t, err)
	write(t, f, 0, "a")
	require.NoError(t, m.SyncDir("s", "/"))
	requireStates(t, m, content("/f"), "", "-", "a", "?")
}

// A rename over another file is one step: the name is never missing, and holds
// the old content or the new one.
func TestCrashLeavesARenameWholeOrUndone(t *testing.T) {
	m := memfs.New()
	durable(t, m, "/f", "a")
	f, err := m.Create("/f.tmp")
	require.NoError(t, err)
	write(t, f, 0, "b")
	require.NoError(t, f.Sync("s"))
	require.NoError(t, m.Rename("/f.tmp", "/f"))
	look := func(c *memfs.FS) string { return content("/f")(c) + " " + content("/f.tmp")(c) }
	requireStates(t, m, look, "a none", "a b", "b none")
	require.NoError(t, m.SyncDir("s", "/"))
	requireStates(t, m, look, "b none")
}

// WriteFileAtomic leaves the old or the new content at each of its operations,
// and the new one for good when it has returned.
func TestWriteFileAtomicSurvivesCrashes(t *testing.T) {
	m := memfs.New()
	require.NoError(t, vfs.WriteFileAtomic(m, "s", "/f", fill("ab")))
	requireStates(t, m, content("/f"), "ab")
	require.NoError(t, vfs.WriteFileAtomic(m, "s", "/f", fill("c")))
	requireStates(t, m, content("/f"), "c")
}

// A directory whose name was not flushed takes all in it along.
func TestCrashLosesADirectoryWithAllInIt(t *testing.T) {
	m := memfs.New()
	require.NoError(t, m.Mkdir("/d"))
	durable(t, m, "/d/f", "a")
	requireStates(t, m, exist("/d", "/d/f"), "", "/d /d/f ")
	require.NoError(t, m.SyncDir("s", "/"))
	requireStates(t, m, exist("/d", "/d/f"), "/d /d/f ")
}

// A file that is moved between directories has exactly one name after a crash,
// whichever directories were flushed, and whether the old directory was removed
// or the new one has just been made. Flushing both settles it.
func TestCrashNeverLosesAMovedFile(t *testing.T) {
	for _, flush := range [][]string{nil, {"/a"}, {"/b"}, {"/a", "/b"}} {
		for _, made := range []bool{false, true} {
			for _, removed := range []bool{false, true} {
				t.Run(fmt.Sprint(flush, made, removed), func(t *testing.T) {
					testMoved(t, flush, made, removed)
				})
			}
		}
	}
}

func testMoved(t *testing.T, flush []string, made, removed bool) {
	m := memfs.New()
	require.NoError(t, m.Mkdir("/a"))
	if !made {
		require.NoError(t, m.Mkdir("/b"))
	}
	require.NoError(t, m.SyncDir("s", "/"))
	durable(t, m, "/a/f", "x")
	if made {
		require.NoError(t, m.Mkdir("/b"))
	}
	require.NoError(t, m.Rename("/a/f", "/b/f"))
	for _, dir := range flush {
		require.NoError(t, m.SyncDir("s", dir))
	}
	if removed {
		require.NoError(t, m.Remove("/a"))
		if !made { // the old directory is surely gone, the new entry is not flushed
			require.NoError(t, m.SyncDir("s", "/"))
		}
	}
	seen := states(m, func(c *memfs.FS) string { return content("/a/f")(c) + " " + content("/b/f")(c) })
	for s := range seen {
		require.Contains(t, []string{"x none", "none x"}, s)
	}
	if len(flush) == 2 && !made {
		require.Len(t, seen, 1)
		require.Positive(t, seen["none x"])
	}
}

// A directory moved into another one, and that one into it under a name that it
// never got, still leaves every directory in the tree.
func TestCrashMakesNoRings(t *testing.T) {
	m := memfs.New()
	require.NoError(t, m.Mkdir("/a"))
	require.NoError(t, m.Mkdir("/b"))
	require.NoError(t, m.SyncDir("s", "/"))
	require.NoError(t, m.Rename("/a", "/b/a"))
	require.NoError(t, m.Rename("/b/a", "/a"))
	require.NoError(t, m.Rename("/b", "/a/b"))
	requireStates(t, m, exist("/a", "/b", "/a/b", "/b/a"), "/a /b ", "/b /b/a ", "/a /a/b ")
}

// A failed flush leaves the content readable, and a later flush that works does
// not bring it to the disk; writing it again, also the same bytes, and flushing
// does.
func TestFailedFlushLosesWhatIsNotWrittenAgain(t *testing.T) {
	m := memfs.New()
	f := durable(t, m, "/f", "aa")
	write(t, f, 0, "bb")
	f.(interface{ FailSync() }).FailSync()
	require.Equal(t, "bb", content("/f")(m), "readable")
	require.NoError(t, f.Sync("s"))
	seen := states(m, content("/f"))
	require.Greater(t, seen["aa"], seeds/3, "most likely lost")
	require.Positive(t, seen["ab"], "some may have survived")
	write(t, f, 1, "b")
	require.NoError(t, f.Sync("s"))
	seen = states(m, content("/f"))
	require.Equal(t, seeds, seen["ab"]+seen["bb"]+seen["?b"])
	write(t, f, 0, "b")
	require.NoError(t, f.Sync("s"))
	requireStates(t, m, content("/f"), "bb")
}

// The same for a store through a mapping.
func TestFailedFlushLosesMappedStores(t *testing.T) {
	m := memfs.New()
	f := durable(t, m, "/f", "a")
	p, err := f.Map(0, page, true)
	require.NoError(t, err)
	for _, again := range []bool{false, true} {
		_, err = p.WriteAt(fill("b"), 0)
		require.NoError(t, err)
		if !again {
			f.(interface{ FailSync() }).FailSync()
		}
		require.NoError(t, f.Sync("s"))
		if again {
			requireStates(t, m, content("/f"), "b")
		} else {
			require.Positive(t, states(m, content("/f"))["a"])
		}
	}
}

// The same operations and seed give the same state, and a clone is a file
// system of its own: unlocked, durable, and not changed by the original.
func TestCrashCloneIsDeterministicAndIndependent(t *testing.T) {
	build := func() (*memfs.FS, []vfs.File) {
		m := memfs.New()
		var files []vfs.File
		for i := range 20 {
			f, err := m.Create(fmt.Sprintf("/f%d", i))
			require.NoError(t, err)
			write(t, f, 0, "abcdef")
			files = append(files, f)
		}
		_, err := m.Lock("/lock")
		require.NoError(t, err)
		return m, files
	}
	dump := func(c *memfs.FS) string {
		list, err := c.ReadDir("/")
		require.NoError(t, err)
		s := ""
		for _, e := range list {
			data, err := vfs.ReadFile(c, "/"+e.Name, 1<<20)
			require.NoError(t, err)
			s += fmt.Sprintln(e, data)
		}
		return s
	}
	m, files := build()
	again, _ := build()
	different := map[string]bool{}
	for seed := range uint64(20) {
		c := m.CrashClone(seed)
		was := dump(c)
		require.True(t, was == dump(again.CrashClone(seed)), "seed %d differs", seed)
		require.True(t, was == dump(c.CrashClone(99)), "a clone is durable")
		require.Zero(t, c.OpenFiles())
		l, err := c.Lock("/lock")
		require.NoError(t, err)
		require.NoError(t, l.Close())
		different[was] = true
	}
	require.Greater(t, len(different), 10)
	c := m.CrashClone(1)
	was := dump(c)
	write(t, files[0], 0, "zzz")
	require.True(t, was == dump(c))
}

// Random operations on one file: each sector of a crashed file has a content
// that the file had there since its last flush, and its size is one that it
// had, or a page boundary inside a write or allocation. The oracle is a list of
// all contents and sizes since then.
func TestCrashShowsOnlyWhatOnceWas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := memfs.New()
		f, err := m.Create("/f")
		require.NoError(t, err)
		require.NoError(t, m.SyncDir("s", "/"))
		p, err := f.Map(0, 10*page, true)
		require.NoError(t, err)
		once := &history{contents: [][]byte{nil}, sizes: map[int]bool{0: true}}
		for range rapid.IntRange(1, 25).Draw(t, "operations") {
			what, off := randomOperation(t, f, p)
			now, err := vfs.ReadFile(m, "/f", 1<<20)
			require.NoError(t, err)
			once.add(what, off, now)
			once.require(t, m.CrashClone(rapid.Uint64().Draw(t, "seed")))
		}
	})
}

// randomOperation tells what it did, and where.
func randomOperation(t *rapid.T, f vfs.File, p vfs.Mapping) (what string, off int64) {
	off = rapid.Int64Range(0, 6*8).Draw(t, "sector") * sector
	n := rapid.Int64Range(1, 20).Draw(t, "sectors") * sector
	data := bytes.Repeat([]byte{rapid.Byte().Draw(t, "byte")}, int(n))
	all := []string{"write", "write", "store", "truncate", "allocate", "zero", "sync", "nothing"}
	what = rapid.SampledFrom(all).Draw(t, "what")
	var err error
	switch what {
	case "write":
		_, err = f.WriteAt(data, off)
	case "store":
		if _, err = p.WriteAt(data, off); errors.Is(err, vfs.ErrFault) {
			err = nil
		}
	case "truncate":
		err = f.Truncate(off)
	case "allocate":
		err = f.Allocate(off, n)
	case "zero":
		err = f.Zero("s", off, n)
	case "sync":
		err = f.Sync("s")
	}
	require.NoError(t, err)
	return what, off
}

// history is what a file was since its last flush.
type history struct {
	contents [][]byte
	sizes    map[int]bool
}

func (h *history) add(what string, off int64, now []byte) {
	before := len(h.contents[len(h.contents)-1])
	switch what {
	case "sync":
		h.contents, h.sizes = nil, map[int]bool{}
	case "write", "allocate":
		for size := page; size < len(now); size += page {
			if size > max(before, int(off)) {
				h.sizes[size] = true
			}
		}
	}
	h.contents = append(h.contents, now)
	h.sizes[len(now)] = true
}

func (h *history) require(t *rapid.T, c *memfs.FS) {
	got, err := vfs.ReadFile(c, "/f", 1<<20)
	require.NoError(t, err)
	require.True(t, h.sizes[len(got)], "size %d", len(got))
	at := func(p []byte, off int) []byte {
		s := make([]byte, sector)
		copy(s, p[min(off, len(p)):])
		return s
	}
	for off := 0; off < len(got); off += sector {
		require.True(t, slices.ContainsFunc(h.contents, func(p []byte) bool {
			return bytes.Equal(at(p, off), at(got, off))
		}), "sector at %d", off)
	}
}

// TestLostDirectoryTakesItsFilesAlong makes a directory, flushes all that is in
// it, a renamed file too, but not its own name: in some crash all of it is gone.
func TestLostDirectoryTakesItsFilesAlong(t *testing.T) {
	m := memfs.New()
	require.NoError(t, m.Mkdir("/d"))
	require.NoError(t, vfs.WriteFileAtomic(m, "", "/d/file", []byte("x")))
	gone := 0
	for seed := range uint64(100) {
		if _, err := m.CrashClone(seed).Stat("/d"); err != nil {
			gone++
		}
	}
	require.Positive(t, gone)
	require.NoError(t, m.SyncDir("", "/"))
	for seed := range uint64(100) {
		_, err := m.CrashClone(seed).Stat("/d/file")
		require.NoError(t, err)
	}
}
