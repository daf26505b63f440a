//go:build linux && !portable

package vfs

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func mapping2(t *testing.T) (File, *mapping) {
	t.Helper()
	f, err := OS().Create(filepath.Join(t.TempDir(), "f"))
	require.NoError(t, err)
	require.NoError(t, f.Allocate(0, 2*PageSize))
	m, err := f.Map(0, 2*PageSize, true)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, m.Unmap())
		require.NoError(t, f.Close())
	})
	return f, m.(*mapping)
}

// The kernel's boot id is 36 characters, as it prints a uuid.
func TestBootIDIsTheKernels(t *testing.T) {
	require.Len(t, OS().BootID(), 36)
}

// The four guarded accesses allocate nothing: they are on the path of every
// record.
func TestMappingAccessDoesNotAllocate(t *testing.T) {
	_, m := mapping2(t)
	p := make([]byte, 1000)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		_, err1 := m.WriteAt(p, 100)
		_, err2 := m.ReadAt(p, 100)
		_, err3 := m.Load(8)
		err4 := m.Store(8, 1)
		if err := errors.Join(err1, err2, err3, err4); err != nil {
			t.Fatal(err)
		}
	}))
}

// The goroutine's own setting of SetPanicOnFault is what it was before, after
// an access that works and after one that faults.
func TestMappingAccessRestoresPanicOnFault(t *testing.T) {
	f, m := mapping2(t)
	require.NoError(t, f.Truncate(PageSize))
	for _, mine := range []bool{true, false} {
		before := debug.SetPanicOnFault(mine)
		_, err := m.ReadAt(make([]byte, 8), 0)
		require.NoError(t, err)
		require.Equal(t, mine, debug.SetPanicOnFault(mine))
		_, err = m.ReadAt(make([]byte, 8), PageSize)
		require.ErrorIs(t, err, ErrFault)
		require.Equal(t, mine, debug.SetPanicOnFault(before))
	}
}

// Only a fault of the mapping itself is turned into an error. A copy from one
// mapping into the memory of another one that faults, and a panic that is no
// fault, go on as panics.
func TestForeignPanicsPassTheGuard(t *testing.T) {
	_, good := mapping2(t)
	cut, bad := mapping2(t)
	require.NoError(t, cut.Truncate(0))
	require.Panics(t, func() { _, _ = good.ReadAt(bad.mem[:100], 0) })
	require.Panics(t, func() { _, _ = good.WriteAt(bad.mem[:100], 0) })
	require.PanicsWithValue(t, "mine", func() {
		defer good.catch(debug.SetPanicOnFault(true))
		panic("mine")
	})
	require.Panics(t, func() {
		defer good.catch(debug.SetPanicOnFault(true))
		var p *int
		*p = 1
	})
}

// A full device is ErrNoSpace, with the path and the system's own code: shown
// on /dev/full.
func TestFullDeviceIsErrNoSpace(t *testing.T) {
	f, err := OS().OpenWrite("/dev/full")
	if err != nil {
		t.Skip(err) // a container without devices
	}
	defer f.Close()
	_, err = f.WriteAt([]byte("x"), 0)
	require.ErrorIs(t, err, ErrNoSpace)
	require.ErrorIs(t, err, syscall.ENOSPC)
	var path *fs.PathError
	require.ErrorAs(t, err, &path)
	require.Equal(t, "/dev/full", path.Path)
	require.ErrorContains(t, err, "no space left")
}

// Errors of the system that mean a full disk unwrap to ErrNoSpace and to
// themselves, in their old place; others are left alone.
func TestNoSpaceKeepsThePlace(t *testing.T) {
	for _, code := range []error{syscall.ENOSPC, syscall.EDQUOT} {
		err := shortage(&os.LinkError{Op: "rename", Old: "a", New: "b", Err: code})
		require.ErrorIs(t, err, ErrNoSpace)
		require.ErrorIs(t, err, code)
		var link *os.LinkError
		require.ErrorAs(t, err, &link)
		require.Equal(t, "b", link.New)
		require.ErrorIs(t, shortage(code), ErrNoSpace)
	}
	require.NoError(t, shortage(nil))
	require.NotErrorIs(t, shortage(syscall.EIO), ErrNoSpace)
}

// Allocate really takes blocks from the disk, and the fall-backs for file
// systems that lack fallocate do the same to sizes and bytes.
func TestAllocateTakesBlocks(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	f, err := OS().Create(name)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, f.Allocate(0, 1<<20))
	var st syscall.Stat_t
	require.NoError(t, syscall.Stat(name, &st))
	if st.Blocks < 1<<20/512 {
		t.Skip("this file system does not allocate ahead") // Allocate may do less there
	}
	o := f.(*osFile)
	_, err = f.WriteAt([]byte("0123456789"), 200_000)
	require.NoError(t, err)
	require.NoError(t, o.appendZeros(10))
	require.NoError(t, o.writeZeros(100, 200_000-95))
	got := make([]byte, 10)
	_, err = f.ReadAt(got, 200_000)
	require.NoError(t, err)
	require.Equal(t, "\x00\x00\x00\x00\x0056789", string(got))
	size, err := f.Size()
	require.NoError(t, err)
	require.EqualValues(t, 1<<20, size)
}

// Where the file system does not know fallocate the file grows by zeros, and
// concurrent writes beyond its end are kept.
func TestAppendedZerosKeepConcurrentWrites(t *testing.T) {
	f, err := OS().Create(filepath.Join(t.TempDir(), "f"))
	require.NoError(t, err)
	defer f.Close()
	o := f.(*osFile)
	if err := o.appendZeros(zeroChunk + 7); unsupported(err) {
		t.Skip(err) // a kernel before 4.16
	}
	size, err := f.Size()
	require.NoError(t, err)
	require.EqualValues(t, zeroChunk+7, size)
	const n, block = 2000, 500
	done := make(chan error, 1)
	go func() {
		var err error
		for i := 0; i < n && err == nil; i++ {
			err = o.appendZeros(int64(zeroChunk + i*block))
		}
		done <- err
	}()
	ones := bytes.Repeat([]byte{1}, block)
	for i := range n {
		_, err := f.WriteAt(ones, int64(zeroChunk+i*block))
		require.NoError(t, err)
	}
	require.NoError(t, <-done)
	got := make([]byte, zeroChunk+n*block)
	_, err = f.ReadAt(got, 0)
	require.NoError(t, err)
	require.Equal(t, zeroChunk, bytes.IndexByte(got, 1))
	require.Equal(t, n*block, bytes.Count(got, []byte{1}))
}

// A large range is allocated in pieces that touch, and an error ends that.
func TestFallocateGoesInPieces(t *testing.T) {
	type piece struct{ off, n int64 }
	var got []piece
	fail := errors.New("third")
	err := inPieces(5, 3*pieceBytes+1, func(off, n int64) error {
		got = append(got, piece{off, n})
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, []piece{
		{5, pieceBytes}, {5 + pieceBytes, pieceBytes}, {5 + 2*pieceBytes, pieceBytes}, {5 + 3*pieceBytes, 1},
	}, got)
	calls := 0
	require.Equal(t, fail, inPieces(0, 10*pieceBytes, func(int64, int64) error {
		if calls++; calls == 3 {
			return fail
		}
		return nil
	}))
	require.Equal(t, 3, calls)
}

// A system call that a signal interrupts is tried again, but not for ever.
func TestRetryHasABound(t *testing.T) {
	calls := 0
	require.NoError(t, retry(func() error {
		if calls++; calls < 5 {
			return syscall.EINTR
		}
		return nil
	}))
	require.Equal(t, syscall.EINTR, retry(func() error { return syscall.EINTR }))
}

// Space names the file system, and says that mapped stores are safe only where
// that is known: tmpfs is, when there is one.
func TestSpaceKnowsTmpfs(t *testing.T) {
	space, err := OS().Space("/dev/shm")
	if err != nil || space.Type != "tmpfs" {
		t.Skip("no tmpfs here") // nothing to ask about
	}
	require.True(t, space.MapWrites)
	require.False(t, space.Network)
	space, err = OS().Space("/proc")
	require.NoError(t, err)
	require.False(t, space.MapWrites)
}

func BenchmarkMappingWrite(b *testing.B) {
	f, err := OS().Create(filepath.Join(b.TempDir(), "f"))
	require.NoError(b, err)
	require.NoError(b, f.Allocate(0, PageSize))
	m, err := f.Map(0, PageSize, true)
	require.NoError(b, err)
	p := make([]byte, 128)
	for b.Loop() {
		_, _ = m.WriteAt(p, 128)
	}
	require.NoError(b, m.Unmap())
	require.NoError(b, f.Close())
}
