package riffle

import (
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// What is committed is in the live words publishDelay later, and after a clean
// close; a roll and a truncation are there at once; opening shows what it found.
// No timer runs while there is nothing to be shown.
func TestCommitsArePublished(t *testing.T) {
	eachFlush(t, func(t *testing.T, flush FlushPolicy) {
		synctest.Test(t, func(t *testing.T) {
			mem := memfs.New()
			w, err := open(mem, "/data", nil)
			require.NoError(t, err)
			p := partOf(t, w, "topic", &TopicConfig{Flush: flush, SegmentBytes: 2048})
			appendValues(t, p, 0, 1)
			load, done := liveReader(t, mem, "/data", p.entry.off)
			words := func() (Bounds, uint64) {
				owner := boundsOwner(p.topic.log.bounds.incarnation, p.topic.id, int32(p.index))
				b, generation, ok, err := readLive(load, owner)
				require.NoError(t, err)
				require.True(t, ok)
				return b, generation
			}
			time.Sleep(publishDelay)
			synctest.Wait()
			b, generation := words()
			require.Equal(t, p.Bounds(), b)
			require.False(t, w.publisher.armed)

			appendValues(t, p, 1, 100)
			_, rolled := words()
			require.Equal(t, generation+2*uint64(len(p.segs.Load().list)-1), rolled)
			time.Sleep(publishDelay)
			synctest.Wait()
			b, _ = words()
			require.Equal(t, p.Bounds(), b)
			appendValues(t, p, 100, 110)
			require.NoError(t, w.Close())
			b, _ = words()
			require.EqualValues(t, 110, b.HighWatermark)

			w = openAt(t, mem, "/data", nil)
			p = partOf(t, w, "topic", nil)
			b, _ = words()
			require.EqualValues(t, 110, b.HighWatermark)
			require.NoError(t, p.becomeReplica(ctx, 110))
			require.NoError(t, p.truncateTo(ctx, 50))
			b, cut := words()
			require.EqualValues(t, 50, b.End)
			require.EqualValues(t, 2, cut/liveBack, "bounds went back twice")
			done()
		})
	})
}

// Two partitions are published at a time, one of them for the first time: whoever
// stores late hides nothing of what the other has told of.
func TestPublishedTogether(t *testing.T) {
	mem := memfs.New()
	fsys := errfs.New(mem)
	w, err := openTuned(fsys, "/data", nil, tuning{ceilingStep: 1000, boundsDelay: Forever, reserveBytes: 4096, sealAtOnce: true})
	require.NoError(t, err)
	first, second := partOf(t, w, "first", nil), partOf(t, w, "second", nil)
	appendValues(t, first, 0, 10)
	w.publish()
	r := readOnlyAt(t, mem, "/data")
	require.Equal(t, wantValues(0, 10), readValues(t, partOf(t, r, "first", nil), 0))
	q := partOf(t, r, "second", nil)
	require.Empty(t, readValues(t, q, 0))
	done := false
	defer fsys.Add(errfs.Rule{Kind: errfs.MapWrite, Before: func(op errfs.Op) {
		if filepath.Base(op.Name) == boundsName && op.Off == liveLayout && !done {
			done = true
			appendValues(t, second, 0, 10)
			w.publish()
		}
	}})()
	appendValues(t, first, 10, 20)
	w.publish()
	require.True(t, done)
	require.Equal(t, wantValues(0, 10), readValues(t, q, 0))
	require.NoError(t, w.Close())
}

// eachFlush runs a test for both flush policies.
func eachFlush(t *testing.T, f func(t *testing.T, flush FlushPolicy)) {
	t.Run("before ack", func(t *testing.T) { f(t, FlushBeforeAck) })
	t.Run("async", func(t *testing.T) { f(t, FlushAsync) })
}
