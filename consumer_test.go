package riffle

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/rifflelog/riffle/internal/vfs/memfs"
	"github.com/stretchr/testify/require"
)

// TestConsumerReadsItsTopics: without a group, a consumer reads all partitions of its topics.
func TestConsumerReadsItsTopics(t *testing.T) {
	fsys := memfs.New()
	l := openAt(t, fsys, "/data", nil)
	top, err := l.CreateTopic(ctx, "topic", &TopicConfig{Partitions: 3})
	require.NoError(t, err)
	for i := range 30 {
		_, err := top.all()[i%3].Append(ctx, Record{Value: fmt.Appendf(nil, "%d", i)})
		require.NoError(t, err)
	}
	c, err := l.NewConsumer(&ConsumerOptions{Topics: []string{"topic"}})
	require.NoError(t, err)
	got := map[string]bool{}
	for len(got) < 30 {
		recs, err := c.Poll(ctx)
		require.NoError(t, err)
		for _, r := range recs {
			require.False(t, got[string(r.Value)])
			got[string(r.Value)] = true
		}
	}
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	_, err = c.Poll(short)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NoError(t, c.Close())
}

func TestGroupSmoke(t *testing.T) {
	fsys := memfs.New()
	l := openAt(t, fsys, "/data", nil)
	top, err := l.CreateTopic(ctx, "topic", &TopicConfig{Partitions: 4})
	require.NoError(t, err)
	for i := range 40 {
		_, err := top.all()[i%4].Append(ctx, Record{Value: fmt.Appendf(nil, "%d", i)})
		require.NoError(t, err)
	}
	c, err := l.NewConsumer(&ConsumerOptions{Topics: []string{"topic"}, Group: "g"})
	require.NoError(t, err)
	n := 0
	for r, err := range c.Records(ctx) {
		require.NoError(t, err)
		_ = r
		if n++; n == 20 {
			break
		}
	}
	require.NoError(t, c.Commit(ctx))
	d, err := l.Group("g").Describe(ctx)
	require.NoError(t, err)
	t.Logf("%+v", d)
	pr, err := l.Group("g").Progress(ctx)
	require.NoError(t, err)
	t.Logf("%+v", pr)
	require.NoError(t, c.Close())
	c, err = l.NewConsumer(&ConsumerOptions{Topics: []string{"topic"}, Group: "g"})
	require.NoError(t, err)
	for r, err := range c.Records(ctx) {
		require.NoError(t, err)
		_ = r
		if n++; n == 40 {
			break
		}
	}
	require.NoError(t, c.Close())
}
