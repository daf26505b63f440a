package riffle

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rifflelog/riffle/internal/vfs/memfs"
	"github.com/stretchr/testify/require"
)

// TestWaitingConsumersCostNothing has consumers wait in Poll for an hour, alone and in groups:
// almost nothing is allocated for them in that time, so no timer of theirs has fired, and no
// request of theirs was answered. Their group is looked at every ten minutes, for offsets that
// expire.
func TestWaitingConsumersCostNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const consumers = 100
		l := openAt(t, memfs.New(), "/data", nil)
		_, err := l.CreateTopic(ctx, "topic", &TopicConfig{Partitions: 10, Flush: FlushAsync})
		require.NoError(t, err)
		hour := func() uint64 {
			var before, after runtime.MemStats
			synctest.Wait()
			runtime.ReadMemStats(&before)
			time.Sleep(time.Hour) //lint:sleep the clock is synctest's
			synctest.Wait()
			runtime.ReadMemStats(&after)
			return after.Mallocs - before.Mallocs
		}
		ended, end := context.WithCancel(ctx)
		var all sync.WaitGroup
		for i := range consumers {
			group := ""
			if i%2 == 0 {
				group = fmt.Sprint("group-", i/10)
			}
			c, err := l.NewConsumer(&ConsumerOptions{Topics: []string{"topic"}, Group: group})
			require.NoError(t, err)
			all.Go(func() {
				if _, err := c.Poll(ended); !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		hour() // the offsets of the groups are flushed and the like
		with := hour()
		end()
		all.Wait()
		hour()
		without := hour()
		require.Less(t, with, without+20*consumers, "once a minute would be 60 each; without them: %d", without)
	})
}

// countedNews counts what a follower hears.
type countedNews struct{ n atomic.Int64 }

func (c *countedNews) news() { c.n.Add(1) }

// TestFollowersComeAndGoWhileRecordsDo has followers come and go beside a writer: of a commit
// those hear who have come and not gone, once.
func TestFollowersComeAndGoWhileRecordsDo(t *testing.T) {
	p := newPart(t, &TopicConfig{Flush: FlushAsync, FlushInterval: Forever})
	ended, beside := make(chan struct{}), make(chan error)
	go func() {
		for {
			select {
			case <-ended:
				beside <- nil
				return
			default:
			}
			if _, err := p.Append(ctx, Record{}); err != nil {
				beside <- err
				return
			}
		}
	}()
	stays, goes := make([]countedNews, 100), make([]countedNews, 100)
	for i := range stays {
		p.follow(&goes[i])
		p.follow(&stays[i])
		if i%2 == 0 {
			p.unfollow(&goes[i])
		}
	}
	for i := 1; i < len(goes); i += 2 {
		p.unfollow(&goes[i])
	}
	close(ended)
	require.NoError(t, <-beside)
	require.NoError(t, p.Sync(ctx)) // none begins with the next append
	p.topic.log.tasks.Wait()        // followers hear of a flush too
	heard := func(all []countedNews) (list []int64) {
		for i := range all {
			list = append(list, all[i].n.Load())
		}
		return list
	}
	want, gone := heard(stays), heard(goes)
	for i := range want {
		want[i]++
	}
	_, err := p.Append(ctx, Record{})
	require.NoError(t, err)
	require.Equal(t, want, heard(stays))
	require.Equal(t, gone, heard(goes))
	for i := range stays {
		p.unfollow(&stays[i])
	}
	require.Nil(t, p.followers.Load())
}
