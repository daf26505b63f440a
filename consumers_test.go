package riffle

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
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
