package memfs_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// A full disk refuses writes after a part, allocations and mapped stores into
// unallocated space; allocated space can be written; cutting and removing give
// space back, removing only when the last handle is closed.
func TestFullDisk(t *testing.T) {
	m := memfs.New()
	f, err := m.Create("/f")
	require.NoError(t, err)
	require.NoError(t, f.Allocate(0, 2*page))
	require.NoError(t, f.Truncate(4*page))
	p, err := f.Map(0, 4*page, true)
	require.NoError(t, err)

	m.SetFree(page + page/2)
	_, err = p.WriteAt(fill("a"), page)
	require.NoError(t, err, "allocated")
	require.ErrorIs(t, f.Allocate(4*page, 5*page), vfs.ErrNoSpace) // takes one page
	m.SetFree(page)
	n, err := f.WriteAt(fill("bcd"), page)
	require.ErrorIs(t, err, vfs.ErrNoSpace)
	require.Equal(t, 2*page, n)
	_, err = p.WriteAt([]byte("x"), 3*page)
	require.ErrorIs(t, err, vfs.ErrFault)
	require.Equal(t, "-bc-", content("/f")(m))

	require.NoError(t, f.Truncate(page))
	space, err := m.Space("/")
	require.NoError(t, err)
	require.EqualValues(t, 3*page, space.Free)
	require.NoError(t, m.Remove("/f"))
	require.NoError(t, p.Unmap())
	space, _ = m.Space("/")
	require.EqualValues(t, 3*page, space.Free)
	require.NoError(t, f.Close())
	space, _ = m.Space("/")
	require.EqualValues(t, 4*page, space.Free)
}

// A clone's disk is as large as the original's.
func TestCrashCloneKeepsTheDiskSize(t *testing.T) {
	m := memfs.New()
	durable(t, m, "/f", "aaa")
	m.SetFree(5 * page)
	space, err := m.CrashClone(1).Space("/")
	require.NoError(t, err)
	require.Equal(t, int64(5*page), space.Free)
	require.Equal(t, int64(8*page), space.Total)
}

// Counters of what is open go up and down with it.
func TestOpenFilesAndMappingsAreCounted(t *testing.T) {
	m := memfs.New()
	f := durable(t, m, "/f", "a")
	l, err := m.Lock("/l")
	require.NoError(t, err)
	p, err := f.Map(0, 1, false)
	require.NoError(t, err)
	require.Equal(t, 2, m.OpenFiles())
	require.Equal(t, 1, m.Mappings())
	require.NoError(t, f.Close())
	require.NoError(t, l.Close())
	require.NoError(t, p.Unmap())
	require.Zero(t, m.OpenFiles())
	require.Zero(t, m.Mappings())
}

// The paths of every read and of mapped stores into dirty pages allocate
// nothing, so that tests of allocations can run on memfs too.
func TestReadsAndMappedStoresDoNotAllocate(t *testing.T) {
	m := memfs.New()
	f := durable(t, m, "/f", "aa")
	p, err := f.Map(0, 2*page, true)
	require.NoError(t, err)
	b := make([]byte, 100)
	for range 100 { // until pages have memory for what they remember
		b[0]++
		_, _ = p.WriteAt(b, page-50)
		_, _ = p.WriteAt(b, page)
	}
	require.Zero(t, testing.AllocsPerRun(100, func() {
		b[0]++
		_, _ = p.WriteAt(b, page-50)
		_, _ = p.ReadAt(b, page-50)
		_, _ = f.ReadAt(b, page-50)
		_ = p.Store(8, uint64(b[0]))
		_, _ = p.Load(8)
	}))
}
