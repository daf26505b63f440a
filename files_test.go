package riffle

import (
	"fmt"
	"io/fs"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// fewFiles is a file system on which a process may have 32 files open.
type fewFiles struct{ vfs.FS }

func (fewFiles) MaxFiles() int { return 32 }

// TestOpenFilesAreLimited appends to and reads from far more segments than may
// be open, under both policies and from several goroutines, and reopens the log:
// never are more open than a quarter of what the process may have.
func TestOpenFilesAreLimited(t *testing.T) {
	const topics, records, limit = 20, 100, 8
	disk := memfs.New()
	// .lock, bounds, one that is being opened, and what FlushAsync has not flushed.
	others := 3 + topics/2
	l, err := open(fewFiles{disk}, "/data", nil)
	require.NoError(t, err)
	part := func(i int) *Partition {
		return partOf(t, l, fmt.Sprint("topic", i), &TopicConfig{Flush: 1 + FlushPolicy(i%2), SegmentBytes: 1024})
	}
	var work sync.WaitGroup
	for i := range topics {
		p := part(i)
		work.Go(func() {
			for n := range records {
				appendValues(t, p, n, n+1)
			}
			if got := readValues(t, p, Earliest); len(got) != records {
				t.Errorf("%d records", len(got))
			}
		})
	}
	work.Wait()

	require.LessOrEqual(t, disk.OpenFiles(), limit+others)
	require.NoError(t, l.Close())
	require.Zero(t, disk.OpenFiles())

	l, err = open(fewFiles{disk}, "/data", nil)
	require.NoError(t, err)

	require.LessOrEqual(t, disk.OpenFiles(), limit+others)
	for i := range topics {
		require.Equal(t, wantValues(0, records), readValues(t, part(i), Earliest))
		appendValues(t, part(i), records, records+10)
	}

	require.LessOrEqual(t, disk.OpenFiles(), limit+others)
	require.NoError(t, l.Close())
	require.Zero(t, disk.OpenFiles())
}

// TestFileOpensAgain closes files under each operation, by using others: it does
// what it was asked all the same. Closed for good, it says so.
func TestFileOpensAgain(t *testing.T) {
	all := newFiles(fewFiles{memfs.New()})
	all.limit = 1
	file, err := all.create("/a")
	require.NoError(t, err)
	other, err := all.create("/b")
	require.NoError(t, err)
	closeIt := func() {
		require.NoError(t, file.Sync("")) // else it stays open
		for range 2 {                     // the first time it has been used
			_, err := other.Size()
			require.NoError(t, err)
			require.NoError(t, other.Close())
			other = all.file("/b")
			_, err = other.Size()
			require.NoError(t, err)
		}
		require.Nil(t, file.(*segmentFile).file.Load())
	}
	closeIt()
	_, err = file.WriteAt([]byte("abc"), 0)
	require.NoError(t, err)
	closeIt()
	buf := make([]byte, 3)
	_, err = file.ReadAt(buf, 0)
	require.NoError(t, err)
	require.Equal(t, "abc", string(buf))
	closeIt()
	require.NoError(t, file.Allocate(0, 100))
	closeIt()
	require.NoError(t, file.Zero("", 0, 1))
	closeIt()
	require.NoError(t, file.Truncate(2))
	closeIt()
	require.NoError(t, file.Sync(""))
	closeIt()
	m, err := file.Map(0, 2, true)
	require.NoError(t, err)
	require.NoError(t, m.Unmap())
	require.Equal(t, "/a", file.Name())
	require.NoError(t, file.(*segmentFile).rename("/c"))
	require.Equal(t, "/c", file.Name())
	closeIt()
	size, err := file.Size()
	require.NoError(t, err)
	require.Equal(t, int64(2), size)
	require.NoError(t, file.Close())
	require.ErrorIs(t, file.Close(), fs.ErrClosed)
	_, err = file.ReadAt(buf, 0)
	require.ErrorIs(t, err, fs.ErrClosed)
}

// TestAllocatedFileMayBeClosed: space that is set aside behind what was flushed is no
// reason to keep a file open.
func TestAllocatedFileMayBeClosed(t *testing.T) {
	all := newFiles(memfs.New())
	file, err := all.create("/a")
	require.NoError(t, err)
	_, err = file.WriteAt([]byte("abc"), 0)
	require.NoError(t, err)
	all.closeUnused()
	all.closeUnused()
	require.NotNil(t, file.(*segmentFile).file.Load())
	require.NoError(t, file.Sync(""))
	require.NoError(t, file.Allocate(0, 100))
	all.closeUnused()
	all.closeUnused()
	require.Nil(t, file.(*segmentFile).file.Load())
	size, err := file.Size()
	require.NoError(t, err)
	require.Equal(t, int64(100), size)
}

// TestTooManyOpenFilesHeals lets the process have no descriptor for a while:
// appends that need one say so, nothing is written, and all go on afterwards.
func TestTooManyOpenFilesHeals(t *testing.T) {
	for _, flush := range []FlushPolicy{FlushBeforeAck, FlushAsync} {
		fsys := errfs.New(fewFiles{memfs.New()})
		l, err := open(fsys, "/data", nil)
		require.NoError(t, err)
		var parts []*Partition
		for i := range 20 {
			parts = append(parts, partOf(t, l, fmt.Sprint("topic", i), &TopicConfig{Flush: flush}))
			appendValues(t, parts[i], 0, 1)
		}
		for _, p := range parts {
			p.mu.Lock()
			require.NoError(t, p.unlockAndFlush(ctx, 1))
		}
		_, err = l.CreateTopic(ctx, "other", nil) // a file more is open
		require.NoError(t, err)
		allow := fsys.FailKind(errfs.OpenWrite, 0, vfs.ErrNoFiles)
		refused := 0
		ends := make([]Offset, len(parts))
		for i, p := range parts {
			if _, err := p.Append(ctx, Record{}); err != nil {
				require.ErrorIs(t, err, vfs.ErrNoFiles)
				require.NoError(t, p.Sync(ctx), "there is nothing to flush")
				n, _, err := p.appendAhead(ctx, emptyBatches(t, p, 3), time.Now().UnixMilli(), func() {})
				require.ErrorIs(t, err, vfs.ErrNoFiles)
				require.NotErrorIs(t, err, ErrInDoubt)
				require.Equal(t, 3, n)
				refused++
			}
			ends[i] = p.Bounds().End
		}
		require.Positive(t, refused)
		allow()
		for i, p := range parts {
			at, err := p.Append(ctx, Record{})
			require.NoError(t, err)
			require.Equal(t, ends[i], at)
		}
		require.NoError(t, l.Close())
	}
}
