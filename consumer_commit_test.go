package riffle

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// committedAt is what group "g" has committed for a partition; NoOffset if nothing.
func committedAt(t testing.TB, l *Log, tp TopicPartition) Offset {
	t.Helper()
	got, err := l.committed(ctx, "g", []TopicPartition{tp})
	require.NoError(t, err)
	if pos, ok := got[tp]; ok {
		return pos.Offset
	}
	return NoOffset
}

// TestStartPosition: a Seek, else what the group has committed, else as OffsetReset says.
func TestStartPosition(t *testing.T) {
	inConsumerWorld(t, 1, func(t *testing.T, l *Log) {
		p := part0(t, l)
		appendValues(t, p, 0, 5)
		c := consumerOf(t, l, ConsumerOptions{Group: "g", Topics: []string{"topic"}})
		require.Equal(t, wantValues(0, 5), polled(t, c))
		require.NoError(t, c.CommitTo(ctx, map[TopicPartition]Position{at0: {Offset: 3}}))
		c.opts.ManualCommit = true
		require.NoError(t, c.Close())
		c = consumerOf(t, l, ConsumerOptions{Group: "g", Topics: []string{"topic"}, OffsetReset: ResetLatest})
		require.Equal(t, wantValues(3, 5), polled(t, c))
		require.NoError(t, c.Close())
		c = consumerOf(t, l, ConsumerOptions{
			Group: "other", Topics: []string{"topic"}, OffsetReset: ResetLatest,
			Assigned: func(_ context.Context, c *Consumer, _ []TopicPartition) error { return c.Seek(at0, 1) },
		})
		require.Equal(t, wantValues(1, 5), polled(t, c))
		c = consumerOf(t, l, ConsumerOptions{Topics: []string{"topic"}, OffsetReset: ResetLatest})
		requireIdle(t, c)
		appendValues(t, p, 5, 6)
		require.Equal(t, wantValues(5, 6), polled(t, c))
	})
}

// TestCommitOfWhatIsCommitted: after a Seek back, what is read again is committed by Commit,
// which had been there before, and no automatic commit takes that back.
func TestCommitOfWhatIsCommitted(t *testing.T) {
	inConsumerWorld(t, 1, func(t *testing.T, l *Log) {
		appendValues(t, part0(t, l), 0, 3)
		c := consumerOf(t, l, ConsumerOptions{Group: "g", Topics: []string{"topic"}})
		require.Equal(t, wantValues(0, 3), polled(t, c))
		require.NoError(t, c.Commit(ctx))
		require.NoError(t, c.Seek(at0, 1))
		require.Equal(t, wantValues(1, 3), polled(t, c))
		require.NoError(t, c.Commit(ctx))
		require.NoError(t, c.Close())
		require.Equal(t, Offset(3), committedAt(t, l, at0))
	})
}

// TestResetOfADeletedPosition: what is deleted before it is read is passed as OffsetReset says.
func TestResetOfADeletedPosition(t *testing.T) {
	for reset, want := range map[OffsetReset][]string{ResetEarliest: wantValues(4, 7), ResetLatest: wantValues(6, 7)} {
		inConsumerWorld(t, 1, func(t *testing.T, l *Log) {
			p := part0(t, l)
			appendValues(t, p, 0, 6)
			c := consumerOf(t, l, ConsumerOptions{OffsetReset: reset})
			require.NoError(t, c.Assign(at0))
			require.NoError(t, c.Seek(at0, 1))
			require.NoError(t, p.DeleteBefore(ctx, 4))
			if reset == ResetLatest {
				requireIdle(t, c)
			}
			appendValues(t, p, 6, 7)
			require.Equal(t, want, polled(t, c))
		})
	}
}

// TestSeeksAreLookedUpLate: Earliest, Latest and times as of the next poll, before the first one
// too; a later Seek outweighs.
func TestSeeksAreLookedUpLate(t *testing.T) {
	inConsumerWorld(t, 1, func(t *testing.T, l *Log) {
		p := part0(t, l)
		appendValues(t, p, 0, 4)
		c := consumerOf(t, l, ConsumerOptions{MaxPollRecords: 1})
		require.NoError(t, c.Assign(at0))
		require.NoError(t, c.Seek(at0, 2), "before any poll")
		require.Equal(t, wantValues(2, 3), polled(t, c))
		require.NoError(t, c.Seek(at0, Earliest))
		require.NoError(t, p.DeleteBefore(ctx, 1))
		require.Equal(t, wantValues(1, 2), polled(t, c))
		require.NoError(t, c.Seek(at0, Latest))
		appendValues(t, p, 4, 5)
		at, err := c.Position(at0)
		require.NoError(t, err)
		require.Equal(t, Offset(5), at)
		time.Sleep(time.Minute) //lint:sleep in a bubble of synctest
		require.NoError(t, c.SeekTime(at0, time.Now()))
		appendValues(t, p, 5, 6)
		require.Equal(t, wantValues(5, 6), polled(t, c))
		require.NoError(t, c.Seek(at0, Latest))
		require.NoError(t, c.Seek(at0, 3))
		require.Equal(t, wantValues(3, 4), polled(t, c))
		var out *OffsetError
		for _, to := range []Offset{0, 7, -7, NoOffset} {
			require.ErrorAs(t, c.Seek(at0, to), &out)
		}
		require.Equal(t, wantValues(4, 5), polled(t, c), "as it was")
		require.ErrorIs(t, c.Seek(TopicPartition{"topic", 1}, 0), ErrNotAssigned)
		require.ErrorIs(t, c.SeekTime(TopicPartition{"topic", 1}, time.Now()), ErrNotAssigned)
	})
}

// TestPauseKeepsThePlace: nothing is handed out until Resume, a Seek goes on paused, and who
// loses the partition finds it not paused.
func TestPauseKeepsThePlace(t *testing.T) {
	inConsumerWorld(t, 1, func(t *testing.T, l *Log) {
		appendValues(t, part0(t, l), 0, 1)
		p := part0(t, l)
		_, err := p.Append(ctx, Record{Value: []byte("a")}, Record{Value: []byte("b")}, Record{Value: []byte("c")})
		require.NoError(t, err)
		c := consumerOf(t, l, ConsumerOptions{MaxPollRecords: 2})
		require.NoError(t, c.Assign(at0))
		require.Equal(t, []string{"v0", "a"}, polled(t, c))
		c.Pause(at0, TopicPartition{"none", 7})
		requireIdle(t, c)
		c.Resume(at0, TopicPartition{"none", 7})
		require.Equal(t, []string{"b", "c"}, polled(t, c))
		c.Pause(at0)
		require.NoError(t, c.Seek(at0, 0))
		requireIdle(t, c)
		require.NoError(t, c.Assign())
		require.NoError(t, c.Assign(at0))
		require.Equal(t, []string{"v0", "a"}, polled(t, c))
	})
}

// TestAutoCommitCoversWhatWasPassed: AutoCommitInterval after it was passed, while a poll waits;
// and at the end, never what is at hand.
func TestAutoCommitCoversWhatWasPassed(t *testing.T) {
	inConsumerWorld(t, 1, func(t *testing.T, l *Log) {
		appendValues(t, part0(t, l), 0, 5)
		c := consumerOf(t, l, ConsumerOptions{Group: "g", Topics: []string{"topic"}, MaxPollRecords: 2})
		polled(t, c)
		time.Sleep(time.Minute) //lint:sleep in a bubble of synctest
		require.Equal(t, NoOffset, committedAt(t, l, at0), "it is at hand")
		polled(t, c)
		time.Sleep(time.Minute) //lint:sleep in a bubble of synctest
		require.Equal(t, NoOffset, committedAt(t, l, at0), "no poll has come since")
		polled(t, c)
		synctest.Wait()
		require.Equal(t, Offset(4), committedAt(t, l, at0))
		short, cancel := context.WithTimeout(ctx, 6*time.Second)
		defer cancel()
		_, err := c.Poll(short)
		require.Error(t, err)
		require.Equal(t, Offset(5), committedAt(t, l, at0), "while it waits")
		appendValues(t, part0(t, l), 5, 8)
		polled(t, c)
		polled(t, c)
		require.NoError(t, c.Close())
		require.Equal(t, Offset(7), committedAt(t, l, at0))
	})
}

// TestManualCommit commits nothing of itself.
func TestManualCommit(t *testing.T) {
	inConsumerWorld(t, 1, func(t *testing.T, l *Log) {
		appendValues(t, part0(t, l), 0, 3)
		c := consumerOf(t, l, ConsumerOptions{Group: "g", Topics: []string{"topic"}, ManualCommit: true})
		polled(t, c)
		requireIdle(t, c)
		require.NoError(t, c.Close())
		require.Equal(t, NoOffset, committedAt(t, l, at0))
	})
}

// TestCommitCarriesEpochAndMetadata, of one partition or many, and refuses what cannot be; by
// hand it needs no member, and somebody else's commit in between is no reason to leave it out.
func TestCommitCarriesEpochAndMetadata(t *testing.T) {
	inConsumerWorld(t, 1, func(t *testing.T, l *Log) {
		appendValues(t, part0(t, l), 0, 3)
		c := consumerOf(t, l, ConsumerOptions{Group: "g", ManualCommit: true})
		require.NoError(t, c.Assign(at0))
		pos := map[TopicPartition]Position{at0: {Offset: 2, LeaderEpoch: 3, Metadata: "mine"}}
		require.NoError(t, c.CommitTo(ctx, pos), "before any poll")
		got, err := c.Committed(ctx, at0, TopicPartition{"topic", 7})
		require.NoError(t, err)
		require.Equal(t, pos, got)
		require.Equal(t, wantValues(2, 3), polled(t, c))
		require.NoError(t, c.Commit(ctx))
		require.NoError(t, l.Group("g").Reset(ctx, map[TopicPartition]Offset{at0: 1}))
		require.NoError(t, c.Commit(ctx))
		require.Equal(t, Offset(3), committedAt(t, l, at0))
		for _, bad := range []Position{{Offset: -1}, {Offset: 4}} {
			require.ErrorIs(t, c.CommitTo(ctx, map[TopicPartition]Position{at0: bad}), ErrOffsetOutOfRange)
		}
		require.ErrorIs(t, c.CommitTo(ctx, map[TopicPartition]Position{at0: {Offset: 1, Metadata: strings.Repeat("x", 4097)}}), ErrInvalidOptions)
		require.ErrorIs(t, c.CommitRecords(ctx, Record{Topic: "topic", Partition: 1}), ErrNotAssigned)
		require.Equal(t, Offset(3), committedAt(t, l, at0))
		ended, cancel := context.WithCancel(ctx)
		cancel()
		require.ErrorIs(t, c.Commit(ended), context.Canceled)
	})
}

// TestAssignNeedsNoCoordinator: with positions that are given, a group is not asked.
func TestAssignNeedsNoCoordinator(t *testing.T) {
	inConsumerWorld(t, 1, func(t *testing.T, l *Log) {
		appendValues(t, part0(t, l), 0, 3)
		c := consumerOf(t, l, ConsumerOptions{Group: "g", ManualCommit: true})
		require.NoError(t, c.Assign(at0))
		require.NoError(t, c.Seek(at0, 1))
		require.Equal(t, wantValues(1, 3), polled(t, c))
		_, err := l.Topic(offsetsTopic)
		require.ErrorIs(t, err, ErrTopicNotFound)
	})
}

// TestAssignCommitsWhatWasPassed of partitions that it drops.
func TestAssignCommitsWhatWasPassed(t *testing.T) {
	inConsumerWorld(t, 2, func(t *testing.T, l *Log) {
		appendValues(t, part0(t, l), 0, 3)
		c := consumerOf(t, l, ConsumerOptions{Group: "g"})
		require.NoError(t, c.Assign(at0))
		polled(t, c)
		requireIdle(t, c)
		appendValues(t, part0(t, l), 3, 4)
		polled(t, c)
		require.NoError(t, c.Assign(TopicPartition{"topic", 1}))
		require.Equal(t, Offset(3), committedAt(t, l, at0))
	})
}

// TestDoneInAnyOrder: commits cover the longest prefix that is done; while too many are handed
// out behind a record that is not, no more are.
func TestDoneInAnyOrder(t *testing.T) {
	inConsumerWorld(t, 1, func(t *testing.T, l *Log) {
		appendValues(t, part0(t, l), 0, 5)
		c := consumerOf(t, l, ConsumerOptions{Group: "g", Topics: []string{"topic"}, MarkDone: true})
		recs, err := c.Poll(ctx)
		require.NoError(t, err)
		c.Done(recs[2], recs[1])
		require.NoError(t, c.Commit(ctx))
		require.Equal(t, NoOffset, committedAt(t, l, at0))
		c.Done(recs[0], recs[0], Record{Topic: "topic", Offset: 77}, Record{Topic: "none"})
		requireIdle(t, c)
		require.Equal(t, Offset(3), committedAt(t, l, at0), "automatically")
		require.NoError(t, c.CommitRecords(ctx, recs[3]))
		c.Done(recs[1])
		require.NoError(t, c.Close())
		require.Equal(t, Offset(4), committedAt(t, l, at0), "not taken back")
	})
	inConsumerWorld(t, 1, func(t *testing.T, l *Log) {
		batch := make([]Record, 20_000)
		for range 6 {
			_, err := part0(t, l).Append(ctx, batch...)
			require.NoError(t, err)
		}
		c := consumerOf(t, l, ConsumerOptions{Group: "g", Topics: []string{"topic"}, MarkDone: true, MaxPollRecords: 60_000})
		first, err := c.Poll(ctx)
		require.NoError(t, err)
		second, err := c.Poll(ctx)
		require.NoError(t, err)
		require.Equal(t, maxUndone, len(first)+len(second))
		requireIdle(t, c)
		c.Done(first...)
		require.Len(t, polled(t, c), 20_000)
		requireIdle(t, c)
		c.Done(second...)

		_, err = part0(t, l).Append(ctx, batch...)
		require.NoError(t, err)
		require.NoError(t, c.Seek(at0, Earliest))
		first, err = c.Poll(ctx)
		require.NoError(t, err)
		require.Len(t, polled(t, c), maxUndone-len(first))
		requireIdle(t, c)
		require.NoError(t, c.CommitRecords(ctx, first...))
		require.NotEmpty(t, polled(t, c), "what is committed makes room too")
	})
}

// TestDoneAfterAHookThatPanics: what comes again is waited for once.
func TestDoneAfterAHookThatPanics(t *testing.T) {
	inConsumerWorld(t, 1, func(t *testing.T, l *Log) {
		appendValues(t, part0(t, l), 0, 3)
		bad := true
		c := consumerOf(t, l, ConsumerOptions{
			Group: "g", Topics: []string{"topic"}, MarkDone: true,
			Hooks: []ConsumerHooks{{Deliver: func(context.Context, *Record) {
				if bad {
					panic("no")
				}
			}}},
		})
		_, err := c.Poll(ctx)
		require.ErrorContains(t, err, "panicked")
		bad = false
		for range 2 {
			recs, err := c.Poll(ctx)
			require.NoError(t, err)
			c.Done(recs...)
			appendValues(t, part0(t, l), int(recs[len(recs)-1].Offset)+1, int(recs[len(recs)-1].Offset)+2)
		}
		require.NoError(t, c.Commit(ctx))
		require.Equal(t, Offset(4), committedAt(t, l, at0))
	})
}

// TestDeletedTopicDoesNotHinderCommits of the others.
func TestDeletedTopicDoesNotHinderCommits(t *testing.T) {
	inConsumerWorld(t, 1, func(t *testing.T, l *Log) {
		_, err := l.CreateTopic(ctx, "other", nil)
		require.NoError(t, err)
		appendValues(t, part0(t, l), 0, 3)
		c := consumerOf(t, l, ConsumerOptions{Group: "g", Topics: []string{"topic", "other"}})
		polled(t, c)
		require.NoError(t, l.DeleteTopic(ctx, "other"))
		require.NoError(t, c.Commit(ctx))
		require.NoError(t, c.Close())
		require.Equal(t, Offset(3), committedAt(t, l, at0))
	})
}

// TestCloseEndsAll: the poll that waits, and every call after it; Revoked may commit; it may be
// called again.
func TestCloseEndsAll(t *testing.T) {
	inConsumerWorld(t, 1, func(t *testing.T, l *Log) {
		appendValues(t, part0(t, l), 0, 3)
		var revoked error
		c := consumerOf(t, l, ConsumerOptions{
			Group: "g", Topics: []string{"topic"}, ManualCommit: true,
			Revoked: func(ctx context.Context, c *Consumer, _ []TopicPartition) error {
				revoked = c.Commit(ctx)
				return revoked
			},
		})
		polled(t, c)
		ended := make(chan error)
		go func() { _, err := c.Poll(ctx); ended <- err }()
		synctest.Wait()
		require.NoError(t, c.Close())
		require.ErrorIs(t, <-ended, ErrClosed)
		require.NoError(t, revoked)
		require.Equal(t, Offset(3), committedAt(t, l, at0))
		require.NoError(t, c.Close())
		_, err := c.Poll(ctx)
		require.ErrorIs(t, err, ErrClosed)
		_, err = c.Position(at0)
		require.ErrorIs(t, err, ErrClosed)
		_, err = c.Committed(ctx, at0)
		require.ErrorIs(t, err, ErrClosed)
		for _, err := range []error{
			c.Commit(ctx), c.Subscribe("topic"), c.Assign(at0), c.Seek(at0, 0), c.SeekTime(at0, time.Now()), c.CommitRecords(ctx, Record{Topic: "topic"}),
		} {
			require.ErrorIs(t, err, ErrClosed)
		}
		require.Empty(t, c.Lag())
	})
}

// TestLag counts to the readable end, and tells how old the next record is.
func TestLag(t *testing.T) {
	inConsumerWorld(t, 1, func(t *testing.T, l *Log) {
		appendValues(t, part0(t, l), 0, 3)
		time.Sleep(time.Minute) //lint:sleep in a bubble of synctest
		c := consumerOf(t, l, ConsumerOptions{Topics: []string{"topic"}, MaxPollRecords: 1})
		require.Empty(t, c.Lag(), "its position is not known")
		polled(t, c)
		require.Equal(t, map[TopicPartition]Lag{at0: {Records: 2, Time: time.Minute}}, c.Lag())
	})
}

// TestLoopThatBreaks: the record at hand is not passed, and comes again to who is next.
func TestLoopThatBreaks(t *testing.T) {
	inConsumerWorld(t, 1, func(t *testing.T, l *Log) {
		appendValues(t, part0(t, l), 0, 5)
		for range 2 {
			c := consumerOf(t, l, ConsumerOptions{Group: "g", Topics: []string{"topic"}})
			func() {
				defer func() { _ = recover() }()
				for r, err := range c.Records(ctx) {
					require.NoError(t, err)
					if r.Offset == 3 {
						panic("in the body")
					}
				}
			}()
			require.NoError(t, c.Close())
			require.Equal(t, Offset(3), committedAt(t, l, at0))
		}
	})
}

// TestEverythingAtOnce polls in one goroutine while others do all the rest: under the race
// detector, and so that each record comes, those of one partition in order between seeks.
func TestEverythingAtOnce(t *testing.T) {
	l := openAt(t, memfs.New(), "/data", nil)
	top, err := l.CreateTopic(ctx, "topic", &TopicConfig{Partitions: 3, Flush: FlushAsync})
	require.NoError(t, err)
	c := consumerOf(t, l, ConsumerOptions{Group: "g", Topics: []string{"topic"}, TopicPattern: nil, MaxPollRecords: 3, MaxPartitionBytes: 50})
	var all sync.WaitGroup
	var stop atomic.Bool
	busy := func(f func()) {
		all.Go(func() {
			for !stop.Load() {
				f()
			}
		})
	}
	other := TopicPartition{"topic", 1}
	busy(func() { _ = c.Seek(at0, Earliest); _ = c.SeekTime(at0, time.Now()); _ = c.Seek(at0, 0) })
	busy(func() { c.Pause(other); c.Resume(other); c.Wakeup(); time.Sleep(time.Millisecond) }) //lint:sleep a wakeup now and then
	busy(func() { _ = c.Commit(ctx); _ = c.CommitTo(ctx, map[TopicPartition]Position{other: {Offset: 0}}) })
	busy(func() { c.Lag(); c.Assignment(); _, _ = c.Position(other); _, _ = c.Committed(ctx, other) })
	busy(func() { _ = c.Assign(at0); _ = c.Subscribe("topic", "gone") })
	busy(func() { _, _ = l.CreateTopic(ctx, "gone", nil); _ = l.DeleteTopic(ctx, "gone") })
	const many = 3000
	all.Go(func() { appendAll(t, top.all()[2], many) })
	next := Offset(0)
	for next < many {
		short, cancel := context.WithTimeout(ctx, time.Millisecond)
		recs, err := c.Poll(short)
		cancel()
		if err != nil && !errors.Is(err, ErrWakeup) && !errors.Is(err, context.DeadlineExceeded) {
			require.NoError(t, err)
		}
		for _, r := range recs {
			if r.Topic == "topic" && r.Partition == 2 {
				require.Equal(t, next, r.Offset)
				next++
			}
		}
	}
	stop.Store(true)
	all.Wait()
}

func appendAll(t *testing.T, p *Partition, many int) {
	for range many {
		if _, err := p.Append(ctx, Record{Value: []byte("value")}); err != nil {
			t.Error(err)
			return
		}
	}
}

// TestLogEndsBesidePolls: closing the log, or the consumer, ends a poll that is busy and one that
// waits, and nothing is left.
func TestLogEndsBesidePolls(t *testing.T) {
	for _, closes := range []func(*Log, *Consumer) error{
		func(l *Log, _ *Consumer) error { return l.Close() },
		func(_ *Log, c *Consumer) error { return c.Close() },
		func(l *Log, _ *Consumer) error { l.breakDown("for the test"); return nil },
		func(l *Log, _ *Consumer) error { return l.DeleteTopic(ctx, "topic") },
	} {
		for _, waits := range []bool{false, true} {
			l, err := open(memfs.New(), "/data", nil)
			require.NoError(t, err)
			p := partOf(t, l, "topic", async)
			_, err = p.Append(ctx, make([]Record, 10_000)...)
			require.NoError(t, err)
			c, err := l.NewConsumer(&ConsumerOptions{Topics: []string{"topic"}})
			require.NoError(t, err)
			ended, polls := make(chan error), make(chan struct{}, 1)
			short, cancel := context.WithCancel(ctx)
			go func() {
				for {
					_, err := c.Poll(short)
					if err != nil {
						ended <- err
						return
					}
					if !waits {
						_ = c.Seek(at0, 0)
					}
					select {
					case polls <- struct{}{}:
					default:
					}
				}
			}()
			<-polls
			require.NoError(t, closes(l, c))
			if p.gone.Load() {
				cancel()
			}
			require.Error(t, <-ended)
			cancel()
			_ = l.Close()
			if err := c.Close(); err != nil {
				require.ErrorIs(t, err, ErrClosed, "of a log that has failed")
			}
		}
	}
}

// TestDoneBesidePoll: workers tell what is done while polls go on. The race detector says
// what is wrong.
func TestDoneBesidePoll(t *testing.T) {
	l := openAt(t, memfs.New(), "/data", nil)
	p := partOf(t, l, "topic", async)
	_, err := p.Append(ctx, make([]Record, 2000)...)
	require.NoError(t, err)
	c := consumerOf(t, l, ConsumerOptions{Group: "g", Topics: []string{"topic"}, MarkDone: true, MaxPollRecords: 7})
	work := make(chan []Record, 100)
	var workers sync.WaitGroup
	for range 3 {
		workers.Go(func() {
			for recs := range work {
				c.Done(recs...)
			}
		})
	}
	for n := 0; n < 2000; {
		recs, err := c.Poll(ctx)
		require.NoError(t, err)
		n += len(recs)
		work <- recs
	}
	close(work)
	workers.Wait()
	require.NoError(t, c.Commit(ctx))
	require.Equal(t, Offset(2000), committedAt(t, l, TopicPartition{"topic", 0}))
}

// TestPollBesideACommitThatWaits for the leader of a rebalance, who does not poll: the poll does
// not wait for it, and hands out what the consumer keeps.
func TestPollBesideACommitThatWaits(t *testing.T) {
	inConsumerWorld(t, 2, func(t *testing.T, l *Log) {
		top, err := l.Topic("topic")
		require.NoError(t, err)
		for p := range top.Partitions() {
			appendValues(t, p, 0, 2)
		}
		o := ConsumerOptions{Group: "g", Topics: []string{"topic"}, MaxPollRecords: 1}
		leader, other := consumerOf(t, l, o), consumerOf(t, l, o)
		look := func(c *Consumer) (recs []Record, err error) {
			short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
			defer cancel()
			return c.Poll(short)
		}
		_, err = look(leader)
		require.NoError(t, err)
		for len(other.Assignment()) == 0 {
			_, _ = look(other)
			_, _ = look(leader)
		}
		for _, tp := range append(leader.Assignment(), other.Assignment()...) {
			_ = leader.Seek(tp, Earliest)
			_ = other.Seek(tp, Earliest)
		}
		require.NoError(t, top.SetPartitions(ctx, 3)) // the leader joins again, and with it all
		_, err = look(leader)
		require.NoError(t, err)
		recs, err := look(other)
		require.NoError(t, err)
		require.Len(t, recs, 1)
		ended := make(chan error)
		begun := time.Now()
		go func() {
			long, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			ended <- other.Commit(long)
		}()
		synctest.Wait()
		recs, err = look(other)
		require.NoError(t, err)
		require.Len(t, recs, 1)
		_, err = look(other)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Less(t, time.Since(begun), time.Second)
		require.ErrorIs(t, <-ended, ErrRebalance)
		require.NoError(t, leader.Close(), "which lets the rebalance go on")
	})
}

// TestPanicInACommitFailsTheLog and not the host.
func TestPanicInACommitFailsTheLog(t *testing.T) {
	l, err := open(memfs.New(), "/data", nil)
	require.NoError(t, err)
	c, err := l.NewConsumer(&ConsumerOptions{Group: "g", Topics: []string{"topic"}})
	require.NoError(t, err)
	require.ErrorIs(t, c.commit(ctx, false, func() (map[TopicPartition]Position, error) { panic("for the test") }), ErrClosed)
	_ = c.Close()
	require.ErrorIs(t, l.Close(), ErrClosed)
}

// TestCommitAfterOneInDoubt: a commit that ended in doubt may have come to be, so the next one
// is made, also where it is at the offset that was committed before.
func TestCommitAfterOneInDoubt(t *testing.T) {
	fsys := errfs.New(memfs.New())
	l := openAt(t, fsys, "/data", nil)
	appendValues(t, partOf(t, l, "topic", nil), 0, 5)
	c := consumerOf(t, l, ConsumerOptions{Group: "g", Topics: []string{"topic"}, ManualCommit: true, MaxPollRecords: 3})
	require.Len(t, polled(t, c), 3)
	require.NoError(t, c.Commit(ctx))
	require.Equal(t, Offset(3), committedAt(t, l, at0))

	require.Len(t, polled(t, c), 2)
	arrived, release := fsys.Block(errfs.Rule{Kind: errfs.Sync, Site: siteFlush})
	ends, cancel := context.WithCancel(ctx)
	go func() {
		<-arrived
		cancel()
	}()
	require.ErrorIs(t, c.Commit(ends), ErrInDoubt)
	release()
	require.NoError(t, c.Seek(at0, 3))
	require.NoError(t, c.Commit(ctx))
	require.Equal(t, Offset(3), committedAt(t, l, at0))
}
