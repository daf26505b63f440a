package riffle

import (
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/vfs"
)

// mapReads is a file system that notes what is read through mappings.
type mapReads struct {
	vfs.FS
	mu   sync.Mutex // guards what follows
	from map[string]int64
}

type mapReadsFile struct {
	vfs.File
	fs *mapReads
}

type mapReadsMapping struct {
	vfs.Mapping
	file *mapReadsFile
	off  int64
}

func (m *mapReads) wrap(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &mapReadsFile{f, m}, nil
}

func (m *mapReads) Create(name string) (vfs.File, error)    { return m.wrap(m.FS.Create(name)) }
func (m *mapReads) Open(name string) (vfs.File, error)      { return m.wrap(m.FS.Open(name)) }
func (m *mapReads) OpenWrite(name string) (vfs.File, error) { return m.wrap(m.FS.OpenWrite(name)) }

func (f *mapReadsFile) Map(off int64, n int, writable bool) (vfs.Mapping, error) {
	mapping, err := f.File.Map(off, n, writable)
	if err != nil {
		return nil, err
	}
	return &mapReadsMapping{mapping, f, off}, nil
}

func (m *mapReadsMapping) ReadAt(p []byte, off int64) (int, error) {
	m.file.fs.note(m.file.Name(), m.off+off)
	return m.Mapping.ReadAt(p, off)
}

func (m *mapReadsMapping) Load(off int) (uint64, error) {
	m.file.fs.note(m.file.Name(), m.off+int64(off))
	return m.Mapping.Load(off)
}

// note keeps the lowest byte that was read of each segment.
func (m *mapReads) note(name string, off int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if filepath.Ext(name) != ".log" {
		return
	}
	if least, ok := m.from[name]; !ok || off < least {
		m.from[name] = off
	}
}

// TestOldRecordsAreNotReadThroughMappings opens a log of several segments and
// reads it from all over, before appending and after. A mapping is read, if at
// all, from the page on in which this incarnation began to write: a page that is
// not in memory would hold one of the host's processors until the disk has
// answered (BenchmarkHostLatency).
func TestOldRecordsAreNotReadThroughMappings(t *testing.T) {
	const pageBytes = 4096
	for _, flush := range []FlushPolicy{FlushBeforeAck, FlushAsync} {
		inner, dir := testDir(t)
		fsys := &mapReads{FS: inner, from: map[string]int64{}}
		cfg := &TopicConfig{Flush: flush, SegmentBytes: 64 << 10}
		l := openAt(t, fsys, dir, nil)
		known := newLedger()
		appendSome(t, partOf(t, l, "topic", cfg), 0, known)
		require.NoError(t, l.Close())

		clear(fsys.from)
		l = openAt(t, fsys, dir, nil)
		p := partOf(t, l, "topic", cfg)
		bases := segmentBases(p)
		require.Greater(t, len(bases), 3)
		active := p.path(logFileName(bases[len(bases)-1]))
		end := fileSize(t, fsys, active)
		readAllOver(t, p)
		require.Empty(t, fsys.from)
		appendSome(t, p, 1, known)
		readAllOver(t, p)
		for _, base := range bases[:len(bases)-1] {
			require.NotContains(t, fsys.from, p.path(logFileName(base)))
		}
		if from, ok := fsys.from[active]; ok {
			require.GreaterOrEqual(t, from, end/pageBytes*pageBytes)
		}
		require.NoError(t, known.compare(l))
	}
}

// appendSome appends a run of records, a few segments of 64 KiB.
func appendSome(t *testing.T, p *Partition, run int, known *ledger) {
	n := 0
	require.NoError(t, appendRun(p, run, func(int) int { return 3000 }, func(at Offset, key string, full bool) bool {
		require.False(t, full)
		known.ack(p.name(), at, key)
		n++
		return n < 90
	}))
}

func readAllOver(t *testing.T, p *Partition) {
	for from := range p.Bounds().End {
		if from%7 == 0 {
			_, err := collect(p, from)
			require.NoError(t, err)
		}
	}
}
