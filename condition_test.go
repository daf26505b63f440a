package riffle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/rifflelog/riffle/internal/batch"
	"github.com/rifflelog/riffle/internal/compress"
	"github.com/rifflelog/riffle/internal/invariants"
	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// keyed returns n records of size bytes, each with a key of its own.
func keyed(from, n, size int) []Record {
	recs := make([]Record, n)
	for i := range recs {
		recs[i] = Record{Key: nthKey(from + i), Value: make([]byte, size-11)}
	}
	return recs
}

func nthKey(i int) []byte { return fmt.Appendf(nil, "key-%07d", i) }

// appendIf is AppendIf of one record without a value.
func appendIf(p *Partition, cond Condition, key string) (Offset, error) {
	return p.AppendIf(ctx, cond, Record{Key: []byte(key)})
}

// requireConflict asserts that err is a conflict at offset at, with the log end
// next, and that nothing was appended.
func requireConflict(t testing.TB, p *Partition, at, next Offset, err error) {
	t.Helper()
	requireAll(t, err, ErrConflict)
	var pe *PartitionError
	require.ErrorAs(t, err, &pe)
	var ce *ConflictError
	require.ErrorAs(t, err, &ce)
	require.Equal(t, ConflictError{Offset: at, Next: next}, *ce)
	require.Equal(t, next, p.Bounds().End)
}

// TestNextOffset: the record is appended only at the offset that was named.
func TestNextOffset(t *testing.T) {
	for _, cfg := range []*TopicConfig{nil, async} {
		p := newPart(t, cfg)
		for o := range Offset(3) {
			_, err := appendIf(p, NextOffset(o+1), "ahead")
			requireConflict(t, p, o+1, o, err)
			at, err := appendIf(p, NextOffset(o), "key")
			require.NoError(t, err)
			require.Equal(t, o, at)
			_, err = appendIf(p, NextOffset(o), "behind")
			requireConflict(t, p, o, o+1, err)
		}
	}
}

// TestKeyUnchanged: what counts is a record with exactly that key from since on, in
// batches of several, of which the first few are before since. No key is no key,
// not even the empty one.
func TestKeyUnchanged(t *testing.T) {
	p := newPart(t, async)
	_, err := p.Append(ctx, Record{Key: []byte("a")}, Record{Key: []byte("b")}, Record{Key: []byte("a")}, Record{})
	require.NoError(t, err)
	_, err = p.Append(ctx, Record{Key: []byte("ab")}, Record{Value: []byte("c")}, Record{Headers: []Header{{Key: "c"}}})
	require.NoError(t, err)
	for _, c := range []struct {
		key   string
		since Offset
		at    Offset // NoOffset if the condition holds
	}{
		{"a", 0, 0},
		{"a", Earliest, 0},
		{"a", 1, 2},
		{"a", 2, 2},
		{"a", 3, NoOffset},
		{"b", 0, 1},
		{"b", 2, NoOffset},
		{"ab", 0, 4},
		{"ab", 5, NoOffset},
		{"c", 0, NoOffset},
		{"", 0, NoOffset},
	} {
		end := p.Bounds().End
		_, err := p.AppendIf(ctx, KeyUnchanged([]byte(c.key), c.since), Record{Value: []byte("no key")})
		if c.at == NoOffset {
			require.NoError(t, err, c)
		} else {
			requireConflict(t, p, c.at, end, err)
		}
	}
	at, err := appendIf(p, KeyUnchanged([]byte{}, Earliest), "")
	require.NoError(t, err)
	_, err = appendIf(p, KeyUnchanged([]byte{}, Earliest), "")
	requireConflict(t, p, at, at+1, err)
}

// TestConditionsThatHaveNoAnswer: offsets that there are not, no condition, no key;
// and what is an error of Append. Nothing is written.
func TestConditionsThatHaveNoAnswer(t *testing.T) {
	p := newPart(t, async)
	appendValues(t, p, 0, 3)
	key := []byte("key")
	for _, since := range []Offset{4, Latest, NoOffset} {
		_, err := appendIf(p, KeyUnchanged(key, since), "key")
		var oe *OffsetError
		require.ErrorAs(t, err, &oe)
		require.Equal(t, OffsetError{Offset: since, Start: 0, End: 3}, *oe)
	}
	for _, cond := range []Condition{{}, KeyUnchanged(nil, 0), NextOffset(Latest), NextOffset(Earliest), NextOffset(NoOffset)} {
		_, err := appendIf(p, cond, "key")
		requireAll(t, err, ErrInvalidOptions)
	}
	_, err := p.AppendIf(ctx, NextOffset(3))
	requireAll(t, err, ErrInvalidRecord)
	ended, cancel := context.WithCancel(ctx)
	cancel()
	_, err = p.AppendIf(ended, NextOffset(3), Record{})
	requireAll(t, err, context.Canceled)
	require.NotErrorIs(t, err, ErrInDoubt)
	require.Equal(t, wantValues(0, 3), readValues(t, p, Earliest))
	require.NoError(t, p.topic.log.Close())
	for _, cond := range []Condition{NextOffset(3), NextOffset(0), KeyUnchanged(key, 0)} {
		_, err = appendIf(p, cond, "key")
		requireAll(t, err, ErrClosed)
	}
}

// TestConditionIsTheCallersToKeep: a key may be changed after KeyUnchanged, and a
// condition used again.
func TestConditionIsTheCallersToKeep(t *testing.T) {
	p := newPart(t, async)
	key := []byte("key")
	cond := KeyUnchanged(key, 0)
	key[0] = 'x'
	_, err := appendIf(p, cond, "key")
	require.NoError(t, err)
	_, err = appendIf(p, cond, "key")
	requireConflict(t, p, 0, 1, err)
}

// TestControlRecordsHaveNoKeys: the key of a marker, which is the log's own, is not
// one that a caller asks for.
func TestControlRecordsHaveNoKeys(t *testing.T) {
	p := newPart(t, async)
	var b batch.Builder
	marker, err := b.AppendMarker(nil, 1, batch.Producer{ID: 1}, batch.Marker{Commit: true})
	require.NoError(t, err)
	_, err = p.append(ctx, marker, 0)
	require.NoError(t, err)
	at, err := appendIf(p, KeyUnchanged([]byte{0, 0, 0, 1}, 0), "key")
	require.NoError(t, err)
	require.Equal(t, Offset(1), at)
}

// TestKeyUnchangedIsThatOfAPlainScan appends batches of random keys, compressed or
// not, in small segments, closes or kills the log now and then, and asks for each key
// since each offset what a scan of all keys says.
func TestKeyUnchangedIsThatOfAPlainScan(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		disk := memfs.New()
		cfg := &TopicConfig{
			Flush:        rapid.SampledFrom([]FlushPolicy{FlushBeforeAck, FlushAsync}).Draw(t, "flush"),
			SegmentBytes: rapid.Int64Range(6<<10, 30<<10).Draw(t, "segment"),
		}
		var keys []string
		for range rapid.IntRange(1, 3).Draw(t, "incarnations") {
			l, err := open(disk, "/data", nil)
			require.NoError(t, err)
			top, err := l.EnsureTopic(ctx, "topic", cfg)
			require.NoError(t, err)
			p := top.all()[0]
			for range rapid.IntRange(0, 30).Draw(t, "batches") {
				codec := rapid.SampledFrom([]compress.Codec{compress.None, compress.None, compress.Snappy}).Draw(t, "codec")
				var b batch.Builder
				b.Begin(nil, codec, codec.DefaultLevel())
				size := rapid.IntRange(0, 1200).Draw(t, "size")
				for range rapid.IntRange(1, 4).Draw(t, "records") {
					key := rapid.SampledFrom([]string{"a", "b", "c", "aa", ""}).Draw(t, "key")
					keys = append(keys, key)
					require.NoError(t, batch.Add(&b, 1, []byte(key), make([]byte, size), []Header(nil)))
				}
				out, err := b.Finish(batch.NoProducer)
				require.NoError(t, err)
				_, err = p.append(ctx, out, 0)
				require.NoError(t, err)
			}
			key := rapid.SampledFrom([]string{"a", "b", "c", "aa", ""}).Draw(t, "asked")
			for since := range Offset(len(keys)) {
				at := slices.Index(keys[since:], key)
				if at < 0 {
					break
				}
				_, err := appendIf(p, KeyUnchanged([]byte(key), since), key)
				var ce *ConflictError
				require.ErrorAs(t, err, &ce)
				require.Equal(t, ConflictError{Offset: since + Offset(at), Next: Offset(len(keys))}, *ce)
			}
			at, err := appendIf(p, KeyUnchanged([]byte("new"), Earliest), "a")
			require.NoError(t, err)
			require.Equal(t, Offset(len(keys)), at)
			keys = append(keys, "a")
			if rapid.Bool().Draw(t, "kill") {
				require.NoError(t, kill(l))
			} else {
				require.NoError(t, l.Close())
			}
		}
	})
}

// TestOneOfManyWins lets several raise a version each, from the one that they have
// seen, by either condition: each version has one winner, and none is passed over.
func TestOneOfManyWins(t *testing.T) {
	const writers, each = 4, 100
	for _, cfg := range []*TopicConfig{{SegmentBytes: 8 << 10}, {Flush: FlushAsync, SegmentBytes: 8 << 10}} {
		for name, cond := range map[string]func(key []byte, next Offset) Condition{
			"offset": func(_ []byte, next Offset) Condition { return NextOffset(next) },
			"key":    KeyUnchanged,
		} {
			p := newPart(t, cfg)
			var wg sync.WaitGroup
			for range writers {
				wg.Go(func() {
					next := Offset(0)
					for won := 0; won < each; {
						_, err := p.AppendIf(ctx, cond([]byte("version"), next), Record{Key: []byte("version"), Value: fmt.Appendf(nil, "v%d", next)})
						var ce *ConflictError
						switch {
						case err == nil:
							won++
							next++
						case errors.As(err, &ce):
							next = ce.Next
						default:
							t.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			require.Equal(t, wantValues(0, writers*each), readValues(t, p, Earliest), name)
			require.EqualValues(t, writers*each, p.topic.log.Metrics().Total.Appends)
		}
	}
}

// TestHundredsOfThousandsOfKeys looks for keys in all of 300,000 records, while
// others are appended without end.
func TestHundredsOfThousandsOfKeys(t *testing.T) {
	t.Parallel()
	n, batchOf := 300_000, 100
	if invariants.Enabled {
		n = 60_000
	}
	p := newPart(t, &TopicConfig{Flush: FlushAsync, SegmentBytes: 4 << 20})
	for i := 0; i < n; i += batchOf {
		_, err := p.Append(ctx, keyed(i, batchOf, 20)...)
		require.NoError(t, err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range 2 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := p.Append(ctx, keyed((w+1)*1_000_000+i, 1, 100)...); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for _, i := range []int{0, 1, n / 2, n - 1} {
		_, err := appendIf(p, KeyUnchanged(nthKey(i), 0), "x")
		var ce *ConflictError
		require.ErrorAs(t, err, &ce)
		require.Equal(t, Offset(i), ce.Offset)
		at, err := appendIf(p, KeyUnchanged(nthKey(i), Offset(i+1)), "x")
		require.NoError(t, err)
		require.Greater(t, at, Offset(n-1))
	}
	for i := range 5 {
		key := fmt.Sprintf("new %d", i)
		at, err := appendIf(p, KeyUnchanged([]byte(key), 0), key)
		require.NoError(t, err)
		_, err = appendIf(p, KeyUnchanged([]byte(key), 0), key)
		var ce *ConflictError
		require.ErrorAs(t, err, &ce)
		require.Equal(t, at, ce.Offset)
	}
	close(stop)
	wg.Wait()
}

// blockRead holds up one read of what users have stored.
func blockRead(fsys *errfs.FS, p *Partition) (arrived <-chan errfs.Op, release func()) {
	return fsys.Block(errfs.Rule{Kind: errfs.Read, Name: p.path(logFileName(0)), Times: 1})
}

// TestAppendsWaitForTheRestAlone holds up the reads of a search. While it looks at
// what was there, others append. While it looks at what they have appended, they
// wait, or leave when their ctx ends; nothing else waits. Then its record comes
// next.
func TestAppendsWaitForTheRestAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys, l, p := slowFS(t, &TopicConfig{Flush: FlushAsync, FlushInterval: Forever})
		appendValues(t, p, 0, 10)
		arrived, release := blockRead(fsys, p)
		won := make(chan Offset, 1)
		go func() {
			at, err := appendIf(p, KeyUnchanged([]byte("key"), 0), "key")
			if err != nil {
				t.Error(err)
			}
			won <- at
		}()
		<-arrived
		appendValues(t, p, 10, 12)
		arrived, releaseRest := blockRead(fsys, p)
		release()
		<-arrived

		late := make(chan Offset, 1)
		go func() {
			at, err := p.Append(ctx, Record{})
			if err != nil {
				t.Error(err)
			}
			late <- at
		}()
		c, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		_, err := p.Append(c, Record{})
		requireAll(t, err, context.DeadlineExceeded)
		require.NotErrorIs(t, err, ErrInDoubt)
		require.Equal(t, Offset(12), p.Bounds().End)
		require.EqualValues(t, 12, l.Metrics().Total.Appends)
		require.NoError(t, p.Sync(ctx))
		releaseRest()
		require.Equal(t, Offset(12), <-won)
		require.Equal(t, Offset(13), <-late)
	})
}

// TestSearchEndsBesideAppends appends more than may hold others up at each read of a
// search: after some rounds it reads the rest while appends wait.
func TestSearchEndsBesideAppends(t *testing.T) {
	fsys := errfs.New(memfs.New())
	p := partOf(t, openAt(t, fsys, "/data", nil), "topic", async)
	appendValues(t, p, 0, 10)
	n := 0
	remove := fsys.Add(errfs.Rule{Kind: errfs.Read, Name: p.path(logFileName(0)), Before: func(errfs.Op) {
		p.mu.Lock()
		alone := p.changing != nil
		p.mu.Unlock()
		if alone || n > 1000 {
			return // an append would wait
		}
		n++
		if _, err := p.Append(ctx, Record{Value: make([]byte, 2*maxHeldUp)}); err != nil {
			t.Error(err)
		}
	}})
	at, err := appendIf(p, KeyUnchanged([]byte("key"), 0), "key")
	require.NoError(t, err)
	remove()
	require.Equal(t, Offset(10+n), at)
	require.GreaterOrEqual(t, n, maxRounds)
	require.Less(t, n, 10*maxRounds, "a few reads a round")
}

// TestSearchEndsEarly ends the context, or closes the log, in the middle of a search:
// it does not go on to its end, and nothing is written.
func TestSearchEndsEarly(t *testing.T) {
	for _, closes := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			fsys, l, p := slowFS(t, &TopicConfig{Flush: FlushAsync, FlushInterval: Forever})
			for i := range 10 {
				_, err := p.Append(ctx, keyed(1000*i, 1000, 100)...)
				require.NoError(t, err)
			}
			arrived, release := blockRead(fsys, p)
			c, cancel := context.WithCancel(ctx)
			defer cancel()
			failed := make(chan error, 1)
			go func() {
				_, err := p.AppendIf(c, KeyUnchanged(nthKey(9999), 0), Record{})
				failed <- err
			}()
			<-arrived
			want, closed := context.Canceled, make(chan error, 1)
			if closes {
				want = ErrClosed
				go func() { closed <- l.Close() }()
				synctest.Wait()
			} else {
				cancel()
			}
			release()
			err := <-failed
			requireAll(t, err, want)
			require.NotErrorIs(t, err, ErrInDoubt)
			require.NotErrorIs(t, err, ErrConflict)
			require.Equal(t, Offset(10_000), p.Bounds().End)
			if closes {
				require.NoError(t, <-closed)
			} else {
				appendValues(t, p, 10_000, 10_001)
			}
		})
	}
}

// TestDeletionEndsASearch deletes the topic in the middle of a search: it ends, and
// then the files go.
func TestDeletionEndsASearch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys, l, p := slowFS(t, &TopicConfig{Flush: FlushAsync, FlushInterval: Forever})
		for i := range 10 {
			_, err := p.Append(ctx, keyed(1000*i, 1000, 100)...)
			require.NoError(t, err)
		}
		arrived, release := blockRead(fsys, p)
		failed := make(chan error, 1)
		go func() {
			_, err := appendIf(p, KeyUnchanged(nthKey(9999), 0), "key")
			failed <- err
		}()
		<-arrived
		deleted := make(chan error, 1)
		go func() { deleted <- l.DeleteTopic(ctx, "topic") }()
		synctest.Wait()
		release()
		requireAll(t, <-failed, ErrTopicNotFound)
		require.NoError(t, <-deleted)
		synctest.Wait()
		_, err := fsys.Stat(*p.moved.Load())
		require.ErrorIs(t, err, fs.ErrNotExist)
		_, err = appendIf(p, NextOffset(10_000), "key")
		requireAll(t, err, ErrTopicNotFound)
	})
}

// TestCloseWaitsForASearchAlone closes the log while appends wait for a search: it
// writes nothing, and they end too.
func TestCloseWaitsForASearchAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys, l, p := slowFS(t, async)
		appendValues(t, p, 0, 10)
		arrived, release := blockRead(fsys, p)
		failed := make(chan error, 2)
		go func() {
			_, err := appendIf(p, KeyUnchanged([]byte("key"), 0), "key")
			failed <- err
		}()
		<-arrived
		appendValues(t, p, 10, 11)
		arrived, releaseRest := blockRead(fsys, p)
		release()
		<-arrived
		go func() {
			_, err := p.Append(ctx, Record{})
			failed <- err
		}()
		synctest.Wait()
		closed := make(chan error, 1)
		go func() { closed <- l.Close() }()
		synctest.Wait()
		require.Empty(t, closed)
		releaseRest()
		requireAll(t, <-failed, ErrClosed)
		requireAll(t, <-failed, ErrClosed)
		require.NoError(t, <-closed)
		require.Equal(t, Offset(11), p.Bounds().End)
	})
}

// TestConflictIsCommitted holds up the flush of a record: who conflicts with it
// hears so when it is committed, hears of ctx or of the failed flush instead, and is
// never in doubt.
func TestConflictIsCommitted(t *testing.T) {
	for name, cond := range map[string]Condition{"offset": NextOffset(1), "key": KeyUnchanged([]byte("key"), 0)} {
		for _, fails := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				fsys, _, p := slowFS(t, nil)
				appendValues(t, p, 0, 1)
				rule := errfs.Rule{Site: siteFlush}
				if fails {
					rule.Err = errfs.ErrInjected
				}
				arrived, release := fsys.Block(rule)
				first := make(chan error, 1)
				go func() { _, err := p.Append(ctx, Record{Key: []byte("key")}); first <- err }()
				<-arrived
				second := make(chan error, 1)
				go func() { _, err := appendIf(p, cond, "key"); second <- err }()
				synctest.Wait()
				require.Empty(t, second, "%s: an answer before what it rests on is committed", name)
				c, cancel := context.WithTimeout(ctx, time.Minute)
				defer cancel()
				_, err := p.AppendIf(c, cond, Record{})
				requireAll(t, err, context.DeadlineExceeded)
				require.NotErrorIs(t, err, ErrConflict)
				require.NotErrorIs(t, err, ErrInDoubt)
				release()
				err, inDoubt := <-second, <-first
				if !fails {
					require.NoError(t, inDoubt)
					requireConflict(t, p, 1, 2, err)
					return
				}
				requireAll(t, inDoubt, ErrInDoubt, ErrPartitionFailed)
				requireAll(t, err, ErrPartitionFailed)
				require.NotErrorIs(t, err, ErrConflict)
				require.NotErrorIs(t, err, ErrInDoubt)
			})
		}
	}
}

// TestAppendIfIsInDoubtLikeAppend: the condition held and the record is written,
// but ctx ends before the flush does.
func TestAppendIfIsInDoubtLikeAppend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys, _, p := slowFS(t, nil)
		_, release := fsys.Block(errfs.Rule{Site: siteFlush})
		c, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		_, err := p.AppendIf(c, NextOffset(0), Record{})
		requireAll(t, err, ErrInDoubt, context.DeadlineExceeded)
		require.Equal(t, Offset(1), p.Bounds().End)
		release()
	})
}

// TestKeyUnchangedMeetsDamage flips a bit of a batch: a search that must read it
// says so and writes nothing, one that begins behind it does not.
func TestKeyUnchangedMeetsDamage(t *testing.T) {
	disk := memfs.New()
	cfg := &TopicConfig{Flush: FlushAsync, SegmentBytes: 10 << 10}
	l, err := open(disk, "/data", nil)
	require.NoError(t, err)
	p := partOf(t, l, "topic", cfg)
	for i := range 30 {
		_, err := p.Append(ctx, keyed(i, 1, 900)...)
		require.NoError(t, err)
	}
	bad := segmentBases(p)[1] + 3
	b, err := p.batchAt(bad)
	require.NoError(t, err)
	require.NoError(t, l.Close())
	flipBit(t, disk, "/data/topic-0/"+logFileName(segmentBases(p)[1]), 8*(3*int64(b)+500))

	p = partOf(t, openAt(t, disk, "/data", nil), "topic", cfg)
	for since := range Offset(30) {
		at, err := appendIf(p, KeyUnchanged([]byte("key"), since), "x")
		if since > bad {
			require.NoError(t, err)
			require.GreaterOrEqual(t, at, Offset(30))
			continue
		}
		var ce *CorruptError
		require.ErrorAs(t, err, &ce)
		require.Equal(t, bad, ce.Offset)
		require.Equal(t, Offset(30), p.Bounds().End)
	}
	_, err = appendIf(p, KeyUnchanged(nthKey(int(bad)-1), 0), "x")
	requireAll(t, err, ErrConflict)
}

// batchAt returns the size of the batch that begins with offset o.
func (p *Partition) batchAt(o Offset) (int, error) {
	seg := p.segs.Load().find(o)
	var w window
	w.reset(seg, seg.size)
	b, err := w.batch(0)
	return len(b), err
}

// TestReplicaTakesNoConditions: its batches are its leader's to append.
func TestReplicaTakesNoConditions(t *testing.T) {
	p := newPart(t, nil)
	appendValues(t, p, 0, 3)
	require.NoError(t, p.becomeReplica(ctx, 3))
	for _, cond := range []Condition{NextOffset(3), KeyUnchanged([]byte("key"), 0)} {
		_, err := appendIf(p, cond, "key")
		requireAll(t, err, errReplica)
	}
}

// TestConflictsAreCounted: beside errors, not among them; what a search reads is
// read for no loop.
func TestConflictsAreCounted(t *testing.T) {
	p := newPart(t, async)
	for i := range 3 {
		_, err := appendIf(p, KeyUnchanged([]byte("key"), 0), "key")
		require.Equal(t, i > 0, err != nil)
	}
	_, err := appendIf(p, NextOffset(0), "key")
	requireAll(t, err, ErrConflict)
	_, err = appendIf(p, Condition{}, "key")
	requireAll(t, err, ErrInvalidOptions)
	m := p.topic.log.Metrics().Total
	require.Equal(t, []int64{1, 3, 1, 0}, []int64{m.Appends, m.AppendConflicts, m.AppendErrors, m.ReadBatches})
}

// TestSearchAllocatesNothingARecord: what AppendIf allocates does not depend on how
// far back it looks.
func TestSearchAllocatesNothingARecord(t *testing.T) {
	if invariants.Enabled {
		return // the checks allocate
	}
	p := partOf(t, openQuiet(t), "topic", quiet)
	for i := range 1000 {
		_, err := p.Append(ctx, keyed(i, 1, 100)...)
		require.NoError(t, err)
	}
	_, err := p.Append(ctx, keyed(1000, 1000, 100)...)
	require.NoError(t, err)
	one := keyed(9999, 1, 100)
	for back, most := range map[Offset]float64{0: 1.2, 10: 1.2, 2000: 2} {
		allocs := testing.AllocsPerRun(200, func() {
			if _, err := p.AppendIf(ctx, KeyUnchanged([]byte("another"), p.Bounds().End-back), one...); err != nil {
				t.Error(err)
			}
		})
		require.LessOrEqual(t, allocs, most, "%d records back: the key's copy, an index entry now and then", back)
	}
}

// A search goes on where it was when the log start moves: appends do not wait for all
// of it, however often that happens.
func TestSearchGoesOnBesideDeletion(t *testing.T) {
	fsys := errfs.New(memfs.New())
	p := partOf(t, openAt(t, fsys, "/data", nil), "topic", async)
	for range 100 {
		_, err := p.Append(ctx, Record{Value: make([]byte, 2*maxHeldUp)})
		require.NoError(t, err)
	}
	reads, alone, start := 0, 0, Offset(0)
	remove := fsys.Add(errfs.Rule{Kind: errfs.Read, Name: p.path(logFileName(0)), Before: func(errfs.Op) {
		p.mu.Lock()
		waiting := p.changing != nil
		p.mu.Unlock()
		if reads++; waiting {
			alone++
		} else if reads%4 == 0 && start < 60 {
			start++
			if err := p.DeleteBefore(ctx, start); err != nil {
				t.Error(err)
			}
		}
	}})
	at, err := appendIf(p, KeyUnchanged([]byte("key"), 60), "key")
	require.NoError(t, err)
	remove()
	require.Equal(t, Offset(100), at)
	require.Positive(t, start)
	require.LessOrEqual(t, alone, 1)
}
