package riffle

import (
	"bytes"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// indexedLog returns a log of values of about 500 bytes in segments of 20 KiB,
// closed, and their number.
func indexedLog(t *testing.T) (*memfs.FS, int) {
	disk := memfs.New()
	l, err := open(disk, "/data", nil)
	require.NoError(t, err)
	p := partOf(t, l, "topic", &TopicConfig{Flush: FlushAsync, SegmentBytes: 20 << 10})
	const n = 150
	for i := range n {
		_, err := p.Append(ctx, Record{Value: indexedValue(i)})
		require.NoError(t, err)
	}
	require.NoError(t, l.Close())
	return disk, n
}

func indexedValue(i int) []byte { return bytes.Repeat(fmt.Appendf(nil, "%d,", i), 500/4) }

// requireIndexed reads from every offset of a log that indexedLog made.
func requireIndexed(t *testing.T, fsys vfs.FS, n int) {
	t.Helper()
	l, err := open(fsys, "/data", nil)
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	p := partOf(t, l, "topic", nil)
	for from := range n {
		i := from
		for r, err := range p.Records(ctx, Offset(from), &ReadOptions{Until: Offset(from + 2)}) {
			require.NoError(t, err, "from %d", from)
			require.Equal(t, Offset(i), r.Offset)
			require.Equal(t, indexedValue(i), r.Value)
			i++
		}
		require.Equal(t, min(from+2, n), i)
	}
}

// indexFiles returns the names of the index files.
func indexFiles(t *testing.T, fsys vfs.FS) (names []string) {
	entries, err := fsys.ReadDir("/data/topic-0")
	require.NoError(t, err)
	for _, e := range entries {
		var base int64
		if n, _ := fmt.Sscanf(e.Name, "%020d.index", &base); n == 1 && e.Name == indexName(Offset(base)) {
			names = append(names, "/data/topic-0/"+e.Name)
		}
	}
	return names
}

// TestIndexIsBelievedOnlyWhenChecked spoils the index files of a closed log in
// ways that can be told at once, that only the batches show, and that lead
// somewhere else: every record is found all the same.
func TestIndexIsBelievedOnlyWhenChecked(t *testing.T) {
	entry := func(rel, pos int32) []byte {
		return []byte{byte(rel >> 24), byte(rel >> 16), byte(rel >> 8), byte(rel), byte(pos >> 24), byte(pos >> 16), byte(pos >> 8), byte(pos)}
	}
	for name, content := range map[string][]byte{
		"empty":                   {},
		"half an entry":           {0, 0, 0, 9, 0},
		"garbage":                 []byte("garbage!garbage!"),
		"zeros":                   make([]byte, 80),
		"no batch there":          entry(10, 5001),
		"a batch, another offset": entry(10, 562*5),
		"two, the second is bad":  append(entry(9, 5620), entry(11, 5000)...),
		"beyond the segment":      entry(10, 1<<30),
	} {
		disk, n := indexedLog(t)
		files := indexFiles(t, disk)
		require.Greater(t, len(files), 3)
		for _, file := range files {
			require.NoError(t, vfs.WriteFileAtomic(disk, "", file, content), name)
		}
		requireIndexed(t, disk, n)
	}
	disk, n := indexedLog(t)
	for _, file := range indexFiles(t, disk) {
		require.NoError(t, disk.Remove(file))
	}
	requireIndexed(t, disk, n)
	requireIndexed(t, disk, n)
	requireIndexed(t, disk.CrashClone(1), n)
}

// TestOpenAfterCloseReadsLittle counts what opening a closed log reads: of the
// batches no more than what lies behind the last index entry, however many
// there are; and that a look-up reads the index of one segment only.
func TestOpenAfterCloseReadsLittle(t *testing.T) {
	disk, n := indexedLog(t)
	fsys := errfs.New(disk)
	read := map[string]int64{} // bytes by suffix, of the partition's files
	fsys.OnOp(func(op errfs.Op) error {
		if op.Kind == errfs.Read && strings.Contains(op.Name, "topic-0") {
			read[filepath.Ext(op.Name)] += op.Len
		}
		return nil
	})
	l := openAt(t, fsys, "/data", nil)
	require.LessOrEqual(t, read[logSuffix], int64(3*minWindow), "a few windows at the end of the last of five files")
	p := partOf(t, l, "topic", nil)
	clear(read)
	for r, err := range p.Records(ctx, Offset(n/2), nil) {
		require.NoError(t, err)
		require.Equal(t, indexedValue(n/2), r.Value)
		break
	}
	require.Positive(t, read[indexSuffix])
	require.Less(t, read[indexSuffix], int64(200), "of one segment only")
}

// TestLookUpReadsOnce shows that finding a small batch between two entries of the
// index is one read, of little more than what lies between them.
func TestLookUpReadsOnce(t *testing.T) {
	disk, _ := indexedLog(t)
	fsys := errfs.New(disk)
	l := openAt(t, fsys, "/data", nil)
	p := partOf(t, l, "topic", nil)
	x, err := p.indexOf(p.segs.Load().list[0], false)
	require.NoError(t, err)
	var reads []int64
	fsys.OnOp(func(op errfs.Op) error {
		if op.Kind == errfs.Read {
			reads = append(reads, op.Len)
		}
		return nil
	})
	between := 0
	for o := range p.segs.Load().list[1].base {
		_, pos, next, ok := x.offset.findBetween(o)
		if !ok || next == 0 {
			continue
		}
		between++
		reads = nil
		for r, err := range p.Records(ctx, o, nil) {
			require.NoError(t, err)
			require.Equal(t, indexedValue(int(o)), r.Value)
			break
		}
		require.Equal(t, []int64{next - pos + spareWindow}, reads)
	}
	require.Greater(t, between, 10)
}

// TestUnwritableIndexCostsNothingButTime lets every index file fail to be
// written.
func TestUnwritableIndexCostsNothingButTime(t *testing.T) {
	disk := memfs.New()
	fsys := errfs.New(disk)
	for base := range Offset(300) {
		fsys.Add(errfs.Rule{Kind: errfs.Create, Name: "/data/topic-0/" + indexName(base), Err: fs.ErrPermission})
	}
	l := openAt(t, fsys, "/data", nil)
	p := partOf(t, l, "topic", &TopicConfig{SegmentBytes: 5 << 10})
	for i := range 60 {
		_, err := p.Append(ctx, Record{Value: indexedValue(i)})
		require.NoError(t, err)
	}
	require.NoError(t, l.Close())
	require.Empty(t, indexFiles(t, disk))
	requireIndexed(t, fsys, 60)
}
