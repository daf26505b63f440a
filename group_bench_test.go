package riffle

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/rifflelog/riffle/internal/vfs/memfs"
	"github.com/stretchr/testify/require"
)

// BenchmarkGroupSettles has 100 members share 1,000 partitions: from the first poll of the first
// one until all of them have their share, on one goroutine.
func BenchmarkGroupSettles(b *testing.B) {
	for _, assignor := range []Assignor{CooperativeStickyAssignor(), RangeAssignor()} {
		b.Run(assignor.Name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				l, err := open(memfs.New(), "/data", nil)
				require.NoError(b, err)
				_, err = l.CreateTopic(ctx, "topic", &TopicConfig{Partitions: 1000, Flush: FlushAsync})
				require.NoError(b, err)
				members := make([]*Consumer, 100)
				for i := range members {
					members[i], err = l.NewConsumer(&ConsumerOptions{Group: "group", Topics: []string{"topic"}, Assignors: []Assignor{assignor}})
					require.NoError(b, err)
				}
				b.StartTimer()
				settleAll(b, members, 1000)
				b.StopTimer()
				require.NoError(b, l.Close())
				b.StartTimer()
			}
		})
	}
}

// settleAll attends to all members in turn, as polls do, until each has its share.
func settleAll(b *testing.B, members []*Consumer, parts int) {
	for {
		n, least := 0, parts
		for _, c := range members {
			require.NoError(b, c.attend(ctx))
			has := len(c.Assignment())
			n, least = n+has, min(least, has)
		}
		if n == parts && least == parts/len(members) {
			return
		}
	}
}

// BenchmarkRestart opens a log whose group has 10,000 committed offsets, and polls once.
func BenchmarkRestart(b *testing.B) {
	mem := memfs.New()
	l, err := open(mem, "/data", nil)
	require.NoError(b, err)
	top, err := l.CreateTopic(ctx, "topic", &TopicConfig{Partitions: 10_000, Flush: FlushAsync})
	require.NoError(b, err)
	at := make(map[TopicPartition]Offset, 10_000)
	for p := range top.Partitions() {
		at[p.name()] = Earliest
	}
	require.NoError(b, l.Group("group").Reset(ctx, at))
	_, err = top.all()[0].Append(ctx, Record{Value: []byte("first")})
	require.NoError(b, err)
	require.NoError(b, l.Close())
	var worst time.Duration
	for b.Loop() {
		b.StopTimer()
		l, err := open(mem, "/data", nil)
		require.NoError(b, err)
		b.StartTimer()
		began := time.Now()
		c, err := l.NewConsumer(&ConsumerOptions{Group: "group", Topics: []string{"topic"}, ManualCommit: true})
		require.NoError(b, err)
		short, cancel := context.WithTimeout(ctx, 10*time.Second)
		recs, err := c.Poll(short)
		cancel()
		require.NoError(b, err, fmt.Sprint(len(recs)))
		worst = max(worst, time.Since(began))
		b.StopTimer()
		require.NoError(b, l.Close())
		b.StartTimer()
	}
	b.ReportMetric(float64(worst.Microseconds())/1000, "ms-worst")
}
