package riffle

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// disksFlag names small file systems that the tests of full disks fill; .ci/disks
// makes some. Without it they fill one in memory.
var disksFlag = flag.String("disks", "", "directories, each on a file system of its own, of at most 300 MiB, that the tests fill; separated as in PATH")

const (
	maxDisk  = 300 << 20 // the least that mkfs.xfs makes
	diskRoom = 4 << 20   // what free frees
)

// disk is a file system that is full but for what a test frees.
type disk struct {
	fs  vfs.FS
	dir string // for a log; it does not exist yet
	// free makes room for diskRoom bytes more.
	free func()
}

// toTheBrim keeps no space free: the disk is to be full for good.
var toTheBrim = &Options{DiskReserve: NoLimit}

// onDisks runs test on each file system that -disks names, else on one in memory.
func onDisks(t *testing.T, test func(t *testing.T, d *disk)) {
	if *disksFlag == "" {
		m := memfs.New()
		m.SetFree(0)
		test(t, &disk{fs: m, dir: "/data", free: func() {
			space, err := m.Space("/")
			require.NoError(t, err)
			m.SetFree(space.Free + diskRoom)
		}})
	}
	for _, dir := range filepath.SplitList(*disksFlag) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			t.Parallel() // a full btrfs is slow to say so
			test(t, realDisk(t, dir))
		})
	}
}

// realDisk fills the file system that dir is on with ballast. When the test ends
// dir is as it was.
func realDisk(t *testing.T, dir string) *disk {
	space, err := vfs.OS().Space(dir)
	require.NoError(t, err)
	require.LessOrEqual(t, space.Total, int64(maxDisk), "%s is not on a small file system", dir)
	sub, err := os.MkdirTemp(dir, "")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(sub)) })
	var ballast []string // files of diskRoom
	for piece := int64(diskRoom); piece >= 4<<10; {
		name := filepath.Join(sub, fmt.Sprint("ballast", len(ballast), "-", piece))
		err := allocateFile(name, piece)
		switch {
		case err != nil:
			require.ErrorIs(t, err, vfs.ErrNoSpace)
			piece /= 2
		case piece == diskRoom:
			ballast = append(ballast, name)
		default:
			piece /= 2 // two of these would have been one
		}
	}
	return &disk{
		fs: vfs.OS(), dir: filepath.Join(sub, "data"),
		free: func() {
			require.NotEmpty(t, ballast)
			require.NoError(t, os.Remove(ballast[0]))
			ballast = ballast[1:]
			require.NoError(t, vfs.OS().SyncDir("", sub))
		},
	}
}

// allocateFile makes a file of so many bytes.
func allocateFile(name string, bytes int64) error {
	f, err := vfs.OS().Create(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Allocate(0, bytes), f.Close())
}

// fullDiskModes are ways in which a disk becomes full.
var fullDiskModes = map[string]struct {
	cfg  TopicConfig
	size sizes
}{
	"small": {
		TopicConfig{Flush: FlushAsync, SegmentBytes: 64 << 10, FlushInterval: 5 * time.Millisecond},
		func(n int) int { return []int{0, 100, 300, 3000}[n%4] },
	},
	"large": {
		TopicConfig{Flush: FlushAsync, SegmentBytes: 256 << 10, FlushInterval: 5 * time.Millisecond},
		func(int) int { return 100 << 10 },
	},
	"before-ack": {
		TopicConfig{Flush: FlushBeforeAck, SegmentBytes: 128 << 10},
		func(n int) int { return []int{10, 3000, 20 << 10, 60 << 10}[n%4] },
	},
}

// fullDisk is a log on a disk that becomes full, again and again.
type fullDisk struct {
	*disk
	t     *testing.T
	known *ledger
	size  sizes
	top   *Topic
	runs  int
}

// TestFullDiskLosesNothing fills a disk through several partitions at once, down
// to its last page, and rolls on it. Appends get ErrDiskFull, and what was
// acknowledged can be read; with space again they go on by themselves. Then the
// log is closed and opened again on the full disk, and goes on with space again.
func TestFullDiskLosesNothing(t *testing.T) {
	for name, mode := range fullDiskModes {
		t.Run(name, func(t *testing.T) {
			onDisks(t, func(t *testing.T, d *disk) {
				f := &fullDisk{disk: d, t: t, known: newLedger(), size: mode.size}
				d.free()
				l, err := open(d.fs, d.dir, toTheBrim)
				require.NoError(t, err)
				cfg := mode.cfg
				cfg.Partitions = 3
				f.top, err = l.CreateTopic(ctx, "topic", &cfg)
				require.NoError(t, err)
				f.fill()
				require.NoError(t, f.known.compare(l))
				f.heal()
				f.fill()
				require.NoError(t, f.known.compare(l))
				require.NoError(t, l.Close())

				l = f.reopen()
				require.NoError(t, f.known.compare(l))
				f.fill()
				f.heal()
				require.NoError(t, l.Close())
				l = f.reopen()
				require.NoError(t, f.known.compare(l))
				require.NoError(t, l.Close())
			})
		})
	}
}

// TestKillOnAFullDiskLosesNothing kills a child that appends to a full disk,
// opens the log on the disk as it is, and compares; after that it heals.
func TestKillOnAFullDiskLosesNothing(t *testing.T) {
	if *disksFlag == "" {
		t.Skip("-disks names no file system") // a child cannot share one in memory
	}
	onDisks(t, func(t *testing.T, d *disk) {
		f := &fullDisk{disk: d, t: t, known: newLedger(), size: mixedSizes}
		d.free()
		l, err := open(d.fs, d.dir, toTheBrim)
		require.NoError(t, err)
		for name, cfg := range killTopics {
			_, err := l.CreateTopic(ctx, name, cfg)
			require.NoError(t, err)
		}
		require.NoError(t, l.Close())
		for range 2 {
			seen := 0
			runChild(t, d.dir, f.runs, f.known, func(line string, kill func()) {
				if line == "full" {
					seen++
				}
				if seen == 40 {
					kill()
				}
			})
			f.runs++
			l := f.reopen()
			require.NoError(t, f.known.compare(l))
			for f.top = range l.Topics() {
				f.heal()
			}
			require.NoError(t, f.known.compare(l))
			require.NoError(t, l.Close())
		}
	})
}

// fill appends to all partitions until nothing goes into any of them.
func (f *fullDisk) fill() {
	f.appendAll(func() func(bool) bool {
		inARow := 0
		return func(full bool) bool {
			inARow++
			if !full {
				inARow = 0
			}
			return inARow < 22
		}
	})
}

// heal appends to all partitions until each has found the disk full, gives them
// space, and appends until each has gone on.
func (f *fullDisk) heal() {
	var waiting atomic.Int64
	waiting.Store(int64(f.top.NumPartitions()))
	f.appendAll(func() func(bool) bool {
		found, after := false, 0
		return func(full bool) bool {
			if full && !found {
				found = true
				if waiting.Add(-1) == 0 {
					f.free()
				}
			}
			if !full && waiting.Load() == 0 {
				after++
			}
			return after < 3
		}
	})
}

// appendAll appends a run to each partition until that one's function, which is
// told whether the disk was full, returns false.
func (f *fullDisk) appendAll(more func() func(full bool) bool) {
	var wg sync.WaitGroup
	errs := make(chan error, f.top.NumPartitions())
	for p := range f.top.Partitions() {
		more := more()
		wg.Go(func() {
			err := appendRun(p, f.runs, f.size, func(at Offset, key string, full bool) bool {
				if !full {
					f.known.ack(p.name(), at, key)
				}
				return more(full)
			})
			if copiesOnWrite(f.fs, f.dir) && errors.Is(err, vfs.ErrNoSpace) {
				more(true)
				err = nil
			}
			errs <- err
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		require.NoError(f.t, err)
	}
	f.runs++
}

// reopen opens the log on the full disk, where that can be.
func (f *fullDisk) reopen() *Log {
	if copiesOnWrite(f.fs, f.dir) {
		f.free()
	}
	l, err := open(f.fs, f.dir, toTheBrim)
	require.NoError(f.t, err)
	if f.top != nil {
		f.top, err = l.Topic(f.top.Name())
		require.NoError(f.t, err)
	}
	return l
}

// copiesOnWrite says whether dir is on btrfs. There, to overwrite, to cut and to
// flush a file take space too. So a full disk may take a partition offline until
// the log is opened again, which needs some space.
func copiesOnWrite(fsys vfs.FS, dir string) bool {
	space, err := fsys.Space(dir)
	return err == nil && space.Type == "btrfs"
}
