package riffle

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/rifflelog/riffle/internal/vfs"
)

// BenchmarkHostLatency replays a log that is not in the page cache, on two
// processors, while another goroutine wants to run every 200 µs and a third collects
// garbage, and reports how late the timer of the former was. A page fault holds a
// processor for as long as the disk takes, a system call does not: a replay is to be
// like pread, which reads the same bytes, not like mapped.
func BenchmarkHostLatency(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "data")
	l, err := Open(dir, nil)
	require.NoError(b, err)
	p := partOf(b, l, "topic", &TopicConfig{Flush: FlushAsync, SegmentBytes: 16 << 20})
	recs := benchRecs(100, 1000)
	const batches = 1000
	for range batches {
		_, err := p.Append(ctx, recs...)
		require.NoError(b, err)
	}
	require.NoError(b, l.Close())
	l, err = Open(dir, nil) // nothing is mapped for writing now
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, l.Close()) })
	p = partOf(b, l, "topic", nil)
	files, err := filepath.Glob(filepath.Join(dir, "topic-0", "*.log"))
	require.NoError(b, err)

	for _, way := range []struct {
		name   string
		replay func() error
	}{
		{"riffle", func() error { return replayViews(p, batches*len(recs)) }},
		{"pread", func() error { return readFiles(files, false) }},
		{"mapped", func() error { return readFiles(files, true) }},
	} {
		b.Run(way.name, func(b *testing.B) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
			var late []time.Duration
			for b.Loop() {
				b.StopTimer()
				require.NoError(b, dropCache(files))
				b.StartTimer()
				one, err := lateness(way.replay)
				require.NoError(b, err)
				late = append(late, one...)
			}
			slices.Sort(late)
			require.NotEmpty(b, late)
			for name, i := range map[string]int{"p50": len(late) / 2, "p99": len(late) * 99 / 100, "max": len(late) - 1} {
				b.ReportMetric(float64(late[i])/1e3, name+"-late-µs")
			}
			b.SetBytes(int64(batches * len(recs) * len(recs[0].Value)))
		})
	}
}

// lateness returns how late a timer of 200 µs fires, each time, while work runs
// beside it and garbage is collected.
func lateness(work func() error) (late []time.Duration, err error) {
	const every = 200 * time.Microsecond
	done := make(chan struct{})
	var others sync.WaitGroup
	others.Go(func() {
		for range until(done) {
			runtime.GC()
		}
	})
	others.Go(func() {
		timer := time.NewTimer(0)
		defer timer.Stop()
		for due := time.Now(); ; {
			select {
			case <-timer.C:
				late = append(late, time.Since(due))
			case <-done:
				return
			}
			due = time.Now().Add(every)
			timer.Reset(every)
		}
	})
	err = work()
	close(done)
	others.Wait()
	return late, err
}

func replayViews(p *Partition, want int) error {
	n := 0
	for _, err := range p.Views(ctx, Earliest, nil) {
		if err != nil {
			return err
		}
		n++
	}
	if n != want {
		return io.ErrUnexpectedEOF
	}
	return nil
}

// readFiles reads all bytes of files, in pieces as large as the largest that
// reading a partition takes.
func readFiles(files []string, mapped bool) error {
	buf := make([]byte, maxWindow)
	for _, name := range files {
		if err := readFile(name, buf, mapped); err != nil {
			return err
		}
	}
	return nil
}

func readFile(name string, buf []byte, mapped bool) error {
	f, err := vfs.OS().Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return err
	}
	from := io.ReaderAt(f)
	if mapped {
		m, err := f.Map(0, int(size), false)
		if err != nil {
			return err
		}
		defer func() { _ = m.Unmap() }()
		from = m
	}
	for pos := int64(0); pos < size; pos += int64(len(buf)) {
		if _, err := from.ReadAt(buf[:min(int64(len(buf)), size-pos)], pos); err != nil {
			return err
		}
	}
	return nil
}

// dropCache takes the files, which are flushed, out of the page cache.
func dropCache(files []string) error {
	var errs []error
	for _, name := range files {
		f, err := os.Open(name)
		if err == nil {
			err = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
			f.Close()
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
