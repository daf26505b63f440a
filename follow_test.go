package riffle

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// TestFollowWaitsWithoutPolling shows, in a bubble in which all goroutines must
// be parked, that a loop at the end waits, sees each record as it is committed,
// and ends with ctx.
func TestFollowWaitsWithoutPolling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := openAt(t, memfs.New(), "/data", nil)
		p := partOf(t, l, "topic", nil)
		appendValues(t, p, 0, 3)
		c, cancel := context.WithCancel(ctx)
		var got []string
		var ended error
		done := make(chan struct{})
		go func() {
			defer close(done)
			for r, err := range p.Follow(c, 1, nil) {
				got, ended = append(got, string(r.Value)), err
			}
		}()
		synctest.Wait()
		require.Equal(t, wantValues(1, 3), got)
		require.NoError(t, ended)
		for i := 3; i < 10; i++ {
			appendValues(t, p, i, i+1)
			synctest.Wait()
			require.Equal(t, wantValues(1, i+1), got)
		}
		cancel()
		<-done
		require.ErrorIs(t, ended, context.Canceled)
		require.Equal(t, append(wantValues(1, 10), ""), got, "the error comes with a zero record")
	})
}

// TestFollowFromTheEndAndBeyond follows from Latest, from the end before there
// is a file, and until an offset that is yet to come.
func TestFollowFromTheEndAndBeyond(t *testing.T) {
	p := newPart(t, nil)
	var got []string
	appended := make(chan struct{})
	go func() {
		defer close(appended)
		appendValues(t, p, 0, 5)
	}()
	for v, err := range p.FollowViews(ctx, 0, &ReadOptions{Until: 5}) {
		require.NoError(t, err)
		got = append(got, string(v.Value()))
	}
	<-appended
	require.Equal(t, wantValues(0, 5), got)

	n := 0
	for _, err := range p.Follow(ctx, Earliest, &ReadOptions{Until: Latest}) {
		require.NoError(t, err)
		n++
	}
	require.Equal(t, 5, n, "until the end as it was")

	for r, err := range p.Follow(ctx, 4, nil) {
		require.NoError(t, err)
		if r.Offset == 5 {
			break
		}
		appendValues(t, p, 5, 6)
	}
}

// TestFollowEndsWhenTheLogCloses parks loops at the end of two partitions, one
// of them without a file, and closes the log.
func TestFollowEndsWhenTheLogCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := openAt(t, memfs.New(), "/data", nil)
		p := partOf(t, l, "topic", nil)
		appendValues(t, p, 0, 1)
		empty := partOf(t, l, "empty", nil)
		var wg sync.WaitGroup
		for _, p := range []*Partition{p, empty, p} {
			wg.Go(func() {
				for _, err := range p.Follow(ctx, Latest, nil) {
					requireAll(t, err, ErrClosed)
				}
			})
		}
		synctest.Wait()
		require.NoError(t, l.Close())
		wg.Wait()
		for _, err := range p.Records(ctx, Earliest, nil) {
			require.ErrorIs(t, err, ErrClosed)
		}
		_, err := p.Append(ctx, Record{})
		require.ErrorIs(t, err, ErrClosed)
		require.NotErrorIs(t, err, ErrInDoubt)
	})
}

// TestFollowEndsWhenThePartitionFails lets a flush fail: who waits at the end
// hears that nothing will come, what is committed can be read.
func TestFollowEndsWhenThePartitionFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := errfs.New(memfs.New())
		l := openAt(t, fsys, "/data", nil)
		p := partOf(t, l, "topic", nil)
		appendValues(t, p, 0, 2)
		var got []string
		var ended error
		done := make(chan struct{})
		go func() {
			defer close(done)
			for r, err := range p.Follow(ctx, Earliest, nil) {
				if ended = err; err == nil {
					got = append(got, string(r.Value))
				}
			}
		}()
		synctest.Wait()
		fsys.FailSite(siteFlush, 1, nil)
		_, err := p.Append(ctx, Record{Value: []byte("lost")})
		requireAll(t, err, ErrPartitionFailed, ErrInDoubt, errfs.ErrInjected)
		<-done
		require.ErrorIs(t, ended, ErrPartitionFailed)
		require.Equal(t, wantValues(0, 2), got)
		require.Equal(t, wantValues(0, 2), readValues(t, p, Earliest))
	})
}

// TestManyFollowersManyAppenders runs both at once: each follower sees every
// record once, in order.
func TestManyFollowersManyAppenders(t *testing.T) {
	const appenders, each = 4, 200
	for _, flush := range []FlushPolicy{FlushBeforeAck, FlushAsync} {
		p := newPart(t, &TopicConfig{Flush: flush})
		var wg sync.WaitGroup
		for a := range appenders {
			wg.Go(func() {
				for i := range each {
					_, err := p.Append(ctx, Record{Key: []byte{byte(a)}, Value: fmt.Appendf(nil, "%d", i)})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		for range 3 {
			wg.Go(func() {
				if err := followAll(p, appenders, each); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
}

// followAll follows p until it has seen all, and checks their order.
func followAll(p *Partition, appenders, each int) error {
	next := make([]int, appenders)
	at := Offset(0)
	for r, err := range p.Follow(ctx, Earliest, &ReadOptions{Until: Offset(appenders * each)}) {
		if err != nil {
			return err
		}
		if r.Offset != at || string(r.Value) != fmt.Sprint(next[r.Key[0]]) {
			return fmt.Errorf("offset %d, want %d: %s of appender %d, want %d", r.Offset, at, r.Value, r.Key[0], next[r.Key[0]])
		}
		if p.Bounds().HighWatermark <= r.Offset {
			return errors.New("a record is seen before it is committed")
		}
		at++
		next[r.Key[0]]++
	}
	if at != Offset(appenders*each) {
		return fmt.Errorf("ended at %d", at)
	}
	return nil
}
