package riffle

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/vfs"
)

// BenchmarkAppendPublished appends to two partitions in turn, in slices of 50 ms: of
// one the commits are published to other processes, of the other they are not. It
// reports how much more time the former takes.
func BenchmarkAppendPublished(b *testing.B) {
	for _, flush := range []FlushPolicy{FlushAsync, FlushBeforeAck} {
		name := map[FlushPolicy]string{FlushAsync: "async", FlushBeforeAck: "before-ack"}[flush]
		b.Run(name, func(b *testing.B) {
			silent := defaultTuning
			silent.publishDelay = 0
			var parts []*Partition
			for _, tune := range []tuning{defaultTuning, silent} {
				l, err := openTuned(vfs.OS(), filepath.Join(b.TempDir(), "data"), nil, tune)
				require.NoError(b, err)
				b.Cleanup(func() { require.NoError(b, l.Close()) })
				parts = append(parts, partOf(b, l, "topic", &TopicConfig{Flush: flush, SegmentBytes: 1 << 30}))
			}
			recs := benchRecs(1, 100)
			var ratios []float64
			const slice = 50 * time.Millisecond
			for b.Loop() {
				var took [2]float64
				for i := range parts {
					i = (i + len(ratios)) % 2
					n, began := 0, time.Now()
					for time.Since(began) < slice {
						for range 20 {
							if _, err := parts[i].Append(ctx, recs...); err != nil {
								b.Fatal(err)
							}
							n++
						}
					}
					took[i] = float64(time.Since(began)) / float64(n)
				}
				ratios = append(ratios, took[0]/took[1])
			}
			slices.Sort(ratios)
			b.ReportMetric(ratios[len(ratios)/2], "published/silent")
		})
	}
}

// benchReaderEnv names, in a child of BenchmarkSeenByAnotherProcess, the directory
// that it follows.
const benchReaderEnv = "RIFFLE_TEST_FOLLOW_DIR"

// BenchmarkSeenByAnotherProcess appends a record now and then, while another
// process follows, and reports how long it takes until that has it.
func BenchmarkSeenByAnotherProcess(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "data")
	l, err := Open(dir, nil)
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, l.Close()) })
	p := partOf(b, l, "topic", async)
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), benchReaderEnv+"="+dir)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	require.NoError(b, err)
	require.NoError(b, child.Start())
	lines := bufio.NewScanner(out)
	var late []time.Duration
	for b.Loop() {
		time.Sleep(time.Duration(len(late)*7%50) * time.Millisecond) //lint:sleep the reader rests longer and longer
		value := binary.BigEndian.AppendUint64(nil, uint64(time.Now().UnixNano()))
		_, err := p.Append(ctx, Record{Value: value})
		require.NoError(b, err)
		require.True(b, lines.Scan())
		ns, err := strconv.ParseInt(lines.Text(), 10, 64)
		require.NoError(b, err)
		late = append(late, time.Duration(ns))
	}
	require.NoError(b, child.Process.Kill())
	_ = child.Wait()
	slices.Sort(late)
	for name, i := range map[string]int{"p50": len(late) / 2, "p99": len(late) * 99 / 100, "max": len(late) - 1} {
		b.ReportMetric(float64(late[i])/1e6, name+"-ms")
	}
}

// followChild is that process: it prints how old each record is when it has it.
func followChild(dir string) error {
	l, err := Open(dir, &Options{ReadOnly: true})
	if err != nil {
		return err
	}
	top, err := l.Topic("topic")
	if err != nil {
		return err
	}
	for r, err := range top.all()[0].Follow(ctx, Earliest, nil) {
		if err != nil {
			return err
		}
		fmt.Println(time.Now().UnixNano() - int64(binary.BigEndian.Uint64(r.Value)))
	}
	return nil
}
