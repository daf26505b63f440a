package riffle

import (
	"errors"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/vfs"
)

// TestFilesCutByAnotherProcess cuts a file of a log again and again while the log
// appends to it and reads it. Whoever appends or reads goes on, or gets an error
// that says what is wrong; the process lives. Other partitions, which share
// nothing with that file, notice nothing. The log can be closed and opened again.
func TestFilesCutByAnotherProcess(t *testing.T) {
	for name, mode := range fullDiskModes {
		t.Run(name, func(t *testing.T) {
			c := cutLog{t: t, cfg: mode.cfg, size: mode.size}
			for _, c.file = range []string{boundsName, "cut-0"} {
				c.fs, c.dir = testDir(t)
				c.run()
			}
			onDisks(t, func(t *testing.T, d *disk) {
				for range 3 {
					d.free()
				}
				c := c
				c.t, c.fs, c.dir = t, d.fs, d.dir
				c.run()
			})
		})
	}
}

// cutLog is a log of which somebody cuts a file, or the last of a directory.
type cutLog struct {
	t    *testing.T
	fs   vfs.FS
	dir  string
	cfg  TopicConfig
	size sizes
	file string
}

// run appends to two partitions, reads both meanwhile, and cuts after each few
// appends.
func (c *cutLog) run() {
	l, err := open(c.fs, c.dir, toTheBrim)
	require.NoError(c.t, err)
	whole, cut := partOf(c.t, l, "whole", &c.cfg), partOf(c.t, l, "cut", &c.cfg)
	known, done := newLedger(), make(chan struct{})
	var readers sync.WaitGroup
	for _, p := range []*Partition{whole, cut} {
		readers.Go(func() {
			for range until(done) {
				_, err := collect(p, Earliest)
				c.expect(p, err)
			}
		})
	}
	for run := range 6 {
		for _, p := range []*Partition{whole, cut} {
			appended := 0
			err := appendRun(p, run, c.size, func(at Offset, key string, full bool) bool {
				require.False(c.t, full)
				if p == whole {
					known.ack(p.name(), at, key)
				}
				appended++
				return appended < 4
			})
			c.expect(p, err)
		}
		c.cut(run)
	}
	close(done)
	readers.Wait()
	require.NoError(c.t, l.Close())
	l = openAt(c.t, c.fs, c.dir, nil)
	_, err = collect(partOf(c.t, l, "cut", nil), Earliest)
	c.expect(partOf(c.t, l, "cut", nil), err)
	found, err := compareRuns(partOf(c.t, l, "whole", nil), known.known[whole.name()])
	require.NoError(c.t, err)
	require.Len(c.t, found, 24)
}

// expect allows err if it says that p was cut.
func (c *cutLog) expect(p *Partition, err error) {
	if err == nil {
		return
	}
	said := errors.Is(err, ErrCorrupt) || errors.Is(err, ErrPartitionFailed) || errors.Is(err, ErrReadOnly)
	if c.file != boundsName && p.topic.name == "cut" && said {
		return
	}
	c.t.Errorf("%v: %v", p.name(), err)
}

// cut makes the file, or the last segment of the directory, shorter.
func (c *cutLog) cut(run int) {
	name := filepath.Join(c.dir, c.file)
	if c.file != boundsName {
		entries, err := c.fs.ReadDir(name)
		require.NoError(c.t, err)
		for _, e := range entries {
			if filepath.Ext(e.Name) == ".log" {
				name = filepath.Join(c.dir, c.file, e.Name)
			}
		}
	}
	edit(c.t, c.fs, name, func(f vfs.File, size int64) error { return f.Truncate(size / 4 * int64(run%3)) })
}

// until goes round until done is closed.
func until(done <-chan struct{}) func(yield func(struct{}) bool) {
	return func(yield func(struct{}) bool) {
		for {
			select {
			case <-done:
				return
			default:
				if !yield(struct{}{}) {
					return
				}
			}
		}
	}
}
