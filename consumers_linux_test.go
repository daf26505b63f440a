package riffle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// processorTime is what the process has taken of its processors.
func processorTime(b *testing.B) time.Duration {
	var u unix.Rusage
	require.NoError(b, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// polling has consumers poll, each in a goroutine, until end is called, which closes them.
func polling(b *testing.B, consumers []*Consumer) (end func()) {
	ended, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	for _, c := range consumers {
		all.Go(func() {
			for {
				if _, err := c.Poll(ended); err != nil {
					if !errors.Is(err, context.Canceled) {
						b.Error(err)
					}
					return
				}
			}
		})
	}
	return func() {
		cancel()
		all.Wait()
		for _, c := range consumers {
			require.NoError(b, c.Close())
		}
	}
}

// awaitShares waits until each of the partitions is one's and everybody has as many as everybody.
func awaitShares(b *testing.B, consumers []*Consumer, partitions int) {
	fair := func() bool {
		n := 0
		for _, c := range consumers {
			mine := len(c.Assignment())
			if mine < partitions/len(consumers) || mine > (partitions+len(consumers)-1)/len(consumers) || c.member != nil && c.member.isMoving() {
				return false
			}
			n += mine
		}
		return n == partitions
	}
	for began := time.Now(); !fair(); time.Sleep(time.Millisecond) { //lint:sleep it polls what nobody tells
		if time.Since(began) > time.Minute {
			b.Fatal("the group does not settle")
		}
	}
}

// BenchmarkIdleConsumers has 10,000 consumers wait in Poll, each with the goroutine of its
// caller and one partition: alone, or in groups of ten. It reports bytes of memory and of
// stacks a consumer, the seconds until each has its partition, and the milliseconds of
// processors that a second of waiting takes all of them; without them it takes some too.
func BenchmarkIdleConsumers(b *testing.B) {
	const consumers, members = 10_000, 10
	idle := func(b *testing.B, partitions, together int, group func(i int) string) {
		l, err := open(memfs.New(), "/data", nil)
		require.NoError(b, err)
		_, err = l.CreateTopic(ctx, "topic", &TopicConfig{Partitions: partitions, Flush: FlushAsync})
		require.NoError(b, err)
		second := func(unit string) {
			before := processorTime(b)
			time.Sleep(time.Second) //lint:sleep it is what is measured
			b.ReportMetric(float64((processorTime(b)-before).Microseconds())/1000, unit)
		}
		empty, stacks := heapBytes(), stackBytes()
		second("cpu-ms/s-without")
		began := time.Now()
		all := make([]*Consumer, consumers)
		for i := range all {
			all[i], err = l.NewConsumer(&ConsumerOptions{Topics: []string{"topic"}, Group: group(i)})
			require.NoError(b, err)
		}
		end := polling(b, all)
		for i := 0; i < consumers; i += together {
			awaitShares(b, all[i:i+together], partitions)
		}
		b.ReportMetric(time.Since(began).Seconds(), "s/settled")
		b.ReportMetric(float64(heapBytes()-empty)/consumers, "B/consumer")
		b.ReportMetric(float64(stackBytes()-stacks)/consumers, "stackB/consumer")
		second("cpu-ms/s")
		end()
		require.NoError(b, l.Close())
	}
	b.Run("alone", func(b *testing.B) {
		for b.Loop() {
			idle(b, 1, 1, func(int) string { return "" })
		}
	})
	b.Run("groups", func(b *testing.B) {
		for b.Loop() {
			idle(b, members, members, func(i int) string { return fmt.Sprint("group-", i/members) })
		}
	})
}

func stackBytes() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.StackInuse)
}

// BenchmarkSettle has 100 members come to a group at once, share 1,000 partitions, and give one
// that comes and one that leaves its part. It reports the milliseconds of processors that each
// takes, without a disk.
func BenchmarkSettle(b *testing.B) {
	const members, partitions = 100, 1000
	sums := map[string]float64{}
	for b.Loop() {
		l, err := open(memfs.New(), "/data", nil)
		require.NoError(b, err)
		_, err = l.CreateTopic(ctx, "topic", &TopicConfig{Partitions: partitions, Flush: FlushAsync})
		require.NoError(b, err)
		opts := &ConsumerOptions{Topics: []string{"topic"}, Group: "group"}
		all := make([]*Consumer, members)
		for i := range all {
			all[i], err = l.NewConsumer(opts)
			require.NoError(b, err)
		}
		taken := func(unit string, f func()) {
			before, began := processorTime(b), time.Now()
			f()
			sums["cpu-ms/"+unit] += float64((processorTime(b) - before).Microseconds()) / 1000
			sums["ms/"+unit] += float64(time.Since(began).Microseconds()) / 1000
		}
		var end, endOne func()
		taken("all", func() {
			end = polling(b, all)
			awaitShares(b, all, partitions)
		})
		one, err := l.NewConsumer(opts)
		require.NoError(b, err)
		taken("join", func() {
			endOne = polling(b, []*Consumer{one})
			awaitShares(b, append(all[:members:members], one), partitions)
		})
		taken("leave", func() {
			endOne()
			awaitShares(b, all, partitions)
		})
		end()
		require.NoError(b, l.Close())
	}
	for unit, sum := range sums {
		b.ReportMetric(sum/float64(b.N), unit)
	}
}

// copyFlushed copies a directory and flushes the copy, so that who opens it does not.
func copyFlushed(b *testing.B, to, from string) {
	require.NoError(b, os.CopyFS(to, os.DirFS(from)))
	require.NoError(b, filepath.WalkDir(to, func(name string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	}))
}

// BenchmarkResume opens a log with 64 partitions of which a group has committed half, as it
// was closed or as a kill would have left it, and polls once. It reports the milliseconds of
// Open and of the first Poll.
func BenchmarkResume(b *testing.B) {
	const partitions, many = 64, 256_000
	for _, killed := range []bool{false, true} {
		b.Run(fmt.Sprintf("killed=%t", killed), func(b *testing.B) {
			filled := b.TempDir()
			l, err := Open(filled, nil)
			require.NoError(b, err)
			top, err := l.CreateTopic(ctx, "topic", &TopicConfig{Partitions: partitions, Flush: FlushAsync})
			require.NoError(b, err)
			batch := make([]Record, 500)
			for i := range batch {
				batch[i] = Record{Value: make([]byte, 100)}
			}
			for i := range many / len(batch) {
				_, err := top.all()[i%partitions].Append(ctx, batch...)
				require.NoError(b, err)
			}
			opts := &ConsumerOptions{Topics: []string{"topic"}, Group: "group", ManualCommit: true}
			c, err := l.NewConsumer(opts)
			require.NoError(b, err)
			_, err = c.Poll(ctx)
			require.NoError(b, err)
			half := map[TopicPartition]Position{}
			for i := range partitions {
				half[TopicPartition{"topic", i}] = Position{Offset: Offset(many / partitions / 2)}
			}
			require.NoError(b, c.CommitTo(ctx, half))
			as := filepath.Join(b.TempDir(), "data")
			if killed {
				copyFlushed(b, as, filled)
			}
			require.NoError(b, c.Close())
			require.NoError(b, l.Close())
			if !killed {
				as = filled
			}
			var opening, polling time.Duration
			for b.Loop() {
				dir := as
				if killed {
					b.StopTimer()
					dir = filepath.Join(b.TempDir(), "data")
					copyFlushed(b, dir, as)
					b.StartTimer()
				}
				began := time.Now()
				l, err := Open(dir, nil)
				require.NoError(b, err)
				opening += time.Since(began)
				began = time.Now()
				c, err := l.NewConsumer(opts)
				require.NoError(b, err)
				recs, err := c.Poll(ctx)
				require.NoError(b, err)
				require.EqualValues(b, many/partitions/2, recs[0].Offset)
				polling += time.Since(began)
				b.StopTimer()
				require.NoError(b, c.Close())
				require.NoError(b, l.Close())
				b.StartTimer()
			}
			b.ReportMetric(float64(opening.Microseconds())/1000/float64(b.N), "ms/open")
			b.ReportMetric(float64(polling.Microseconds())/1000/float64(b.N), "ms/poll")
		})
	}
}
