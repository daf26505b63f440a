package riffle

import (
	"context"
	"log/slog"
	"regexp"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/batch"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// inConsumerWorld runs test in a bubble of synctest with a log that has a topic "topic", which
// is not flushed before it is read.
func inConsumerWorld(t *testing.T, partitions int, test func(t *testing.T, l *Log)) {
	synctest.Test(t, func(t *testing.T) {
		l := openAt(t, memfs.New(), "/data", nil)
		_, err := l.CreateTopic(ctx, "topic", &TopicConfig{Partitions: partitions, Flush: FlushAsync})
		require.NoError(t, err)
		test(t, l)
	})
}

// at0 is the partition that most tests use.
var at0 = TopicPartition{"topic", 0}

func consumerOf(t testing.TB, l *Log, o ConsumerOptions) *Consumer {
	t.Helper()
	c, err := l.NewConsumer(&o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// polled returns the values that one poll hands out.
func polled(t testing.TB, c *Consumer) []string {
	t.Helper()
	recs, err := c.Poll(ctx)
	require.NoError(t, err)
	values := make([]string, len(recs))
	for i, r := range recs {
		values[i] = string(r.Value)
	}
	return values
}

// requireIdle shows, in a bubble, that a consumer waits.
func requireIdle(t testing.TB, c *Consumer) {
	t.Helper()
	short, cancel := context.WithTimeout(ctx, time.Hour)
	defer cancel()
	_, err := c.Poll(short)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func part0(t testing.TB, l *Log) *Partition {
	t.Helper()
	p, err := l.partition(at0)
	require.NoError(t, err)
	return p
}

// TestSubscribeAndAssignExclude: one at a time, until it is ended; each replaces what was, and
// without any poll is refused.
func TestSubscribeAndAssignExclude(t *testing.T) {
	inConsumerWorld(t, 2, func(t *testing.T, l *Log) {
		c := consumerOf(t, l, ConsumerOptions{})
		_, err := c.Poll(ctx)
		require.ErrorIs(t, err, ErrInvalidState)
		require.NoError(t, c.Subscribe("topic"))
		require.ErrorIs(t, c.Assign(at0), ErrInvalidState)
		requireIdle(t, c)
		require.Len(t, c.Assignment(), 2)
		require.NoError(t, c.Subscribe("other"), "replaces")
		requireIdle(t, c)
		require.Empty(t, c.Assignment())
		require.NoError(t, c.Subscribe())
		require.NoError(t, c.Assign(at0))
		require.ErrorIs(t, c.Subscribe("topic"), ErrInvalidState)
		require.NoError(t, c.Assign(TopicPartition{"topic", 1}), "replaces")
		require.Equal(t, []TopicPartition{{"topic", 1}}, c.Assignment())
		require.NoError(t, c.Subscribe(), "ends that too")
		require.Empty(t, c.Assignment())
		require.NoError(t, c.Assign(at0))
		require.NoError(t, c.Assign())
		_, err = c.Poll(ctx)
		require.ErrorIs(t, err, ErrInvalidState)
		require.ErrorIs(t, c.Subscribe(""), ErrInvalidTopic)
		require.ErrorIs(t, c.Assign(TopicPartition{"", 0}), ErrInvalidTopic)
		require.ErrorIs(t, c.Assign(TopicPartition{"topic", -1}), ErrPartitionNotFound)
		_, err = l.NewConsumer(&ConsumerOptions{Topics: []string{"topic"}, TopicPattern: regexp.MustCompile("x")})
		require.ErrorIs(t, err, ErrInvalidOptions)
	})
}

// TestPatternFollowsTopics: the whole name, never the log's own topics, and what comes and goes.
func TestPatternFollowsTopics(t *testing.T) {
	inConsumerWorld(t, 1, func(t *testing.T, l *Log) {
		require.NoError(t, consumerOf(t, l, ConsumerOptions{Group: "g"}).Assign(at0))
		c := consumerOf(t, l, ConsumerOptions{TopicPattern: regexp.MustCompile("top.*|_.*|x")})
		requireIdle(t, c)
		require.Equal(t, []TopicPartition{at0}, c.Assignment())
		for _, name := range []string{"x", "xy", "_own"} {
			_, err := l.CreateTopic(ctx, name, nil)
			require.NoError(t, err)
		}
		require.NoError(t, l.DeleteTopic(ctx, "topic"))
		requireIdle(t, c)
		require.Equal(t, []TopicPartition{{"_own", 0}, {"x", 0}}, c.Assignment())
	})
}

// TestPatternsAreTakenAsTheyAre: whatever can be compiled, and the whole name, by whichever of its
// alternatives.
func TestPatternsAreTakenAsTheyAre(t *testing.T) {
	for _, pattern := range []*regexp.Regexp{
		regexp.MustCompile(`\Qtopic`), regexp.MustCompilePOSIX("topicx**"), regexp.MustCompile("t|topic"),
		regexp.MustCompile("topic.*?"), regexp.MustCompile("(?i)TOPIC"), regexp.MustCompile("^topic$"),
	} {
		whole := wholeName(pattern)
		require.True(t, whole("topic"), pattern)
		require.False(t, whole("a-topic") || whole("topi") || whole("topic\n"), pattern)
	}
	require.False(t, wholeName(regexp.MustCompile("opi|topi"))("topic"))
}

// TestAssignKeepsPositions of partitions that stay, and calls no callback.
func TestAssignKeepsPositions(t *testing.T) {
	inConsumerWorld(t, 2, func(t *testing.T, l *Log) {
		appendValues(t, part0(t, l), 0, 4)
		never := func(context.Context, *Consumer, []TopicPartition) error { panic("called") }
		c := consumerOf(t, l, ConsumerOptions{MaxPollRecords: 2, Assigned: never, Revoked: never, Lost: never})
		require.NoError(t, c.Assign(at0))
		require.Equal(t, wantValues(0, 2), polled(t, c))
		require.NoError(t, c.Assign(TopicPartition{"topic", 1}, at0))
		require.Equal(t, wantValues(2, 4), polled(t, c))
		require.NoError(t, c.Assign(TopicPartition{"topic", 1}))
		require.NoError(t, c.Assign(at0))
		require.Equal(t, wantValues(0, 2), polled(t, c), "begins anew")
	})
}

// TestConsumerReadsItsTopics: without a group, a consumer reads all partitions of its topics.
func TestConsumerReadsItsTopics(t *testing.T) {
	inConsumerWorld(t, 3, func(t *testing.T, l *Log) {
		top, err := l.Topic("topic")
		require.NoError(t, err)
		for p := range top.Partitions() {
			appendValues(t, p, 0, 3)
		}
		c := consumerOf(t, l, ConsumerOptions{Topics: []string{"topic"}})
		require.Equal(t, []string{"v0", "v1", "v2", "v0", "v1", "v2", "v0", "v1", "v2"}, polled(t, c))
		requireIdle(t, c)
	})
}

// TestConsumerWithoutGroup reads, and commits nothing.
func TestConsumerWithoutGroup(t *testing.T) {
	inConsumerWorld(t, 1, func(t *testing.T, l *Log) {
		appendValues(t, part0(t, l), 0, 1)
		c := consumerOf(t, l, ConsumerOptions{Topics: []string{"topic"}})
		require.Equal(t, wantValues(0, 1), polled(t, c))
		require.ErrorIs(t, c.Commit(ctx), ErrInvalidState)
		require.ErrorIs(t, c.CommitTo(ctx, map[TopicPartition]Position{at0: {Offset: 1}}), ErrInvalidState)
		_, err := c.Committed(ctx, at0)
		require.ErrorIs(t, err, ErrInvalidState)
		_, err = l.NewConsumer(&ConsumerOptions{MarkDone: true, InstanceID: "a", AutoCommitInterval: -1})
		require.ErrorIs(t, err, ErrInvalidOptions)
		require.ErrorContains(t, err, "MarkDone")
		require.ErrorContains(t, err, "InstanceID")
		require.ErrorContains(t, err, "AutoCommitInterval")
	})
}

// TestSecondPollerIsRefused at once, while the first one waits; so is one in a loop over Records.
func TestSecondPollerIsRefused(t *testing.T) {
	inConsumerWorld(t, 1, func(t *testing.T, l *Log) {
		c := consumerOf(t, l, ConsumerOptions{Topics: []string{"topic"}})
		short, cancel := context.WithCancel(ctx)
		ended := make(chan error)
		go func() { _, err := c.Poll(short); ended <- err }()
		synctest.Wait()
		_, err := c.Poll(ctx)
		require.ErrorIs(t, err, ErrInvalidState)
		for _, err := range c.Records(ctx) {
			require.ErrorIs(t, err, ErrInvalidState)
		}
		cancel()
		require.ErrorIs(t, <-ended, context.Canceled)
		appendValues(t, part0(t, l), 0, 1)
		for _, err := range c.Records(ctx) {
			require.NoError(t, err)
			_, err = c.Poll(ctx)
			require.ErrorIs(t, err, ErrInvalidState)
			break
		}
	})
}

// TestPollLimits: the limits are of one poll, what is left comes with the next ones, and a
// record that is larger than a limit comes alone.
func TestPollLimits(t *testing.T) {
	inConsumerWorld(t, 2, func(t *testing.T, l *Log) {
		p := part0(t, l)
		recs := make([]Record, 7)
		for i := range recs {
			recs[i].Value = make([]byte, 100)
		}
		_, err := p.Append(ctx, recs...)
		require.NoError(t, err)
		c := consumerOf(t, l, ConsumerOptions{Topics: []string{"topic"}, MaxPollRecords: 3, MaxBytes: 150})
		before := l.Metrics().Total.ReadBatches
		for _, n := range []int{2, 2, 2, 1} {
			require.Len(t, polled(t, c), n)
		}
		requireIdle(t, c)
		require.Equal(t, before+1, l.Metrics().Total.ReadBatches, "what is left is not read again")
		_, err = p.Append(ctx, recs...)
		require.NoError(t, err)
		c = consumerOf(t, l, ConsumerOptions{Topics: []string{"topic"}, MaxPollRecords: 3, MaxBytes: 10, MinBytes: 200})
		require.Len(t, polled(t, c), 1)
		begun := time.Now()
		require.Len(t, polled(t, c), 1)
		require.Equal(t, begun, time.Now(), "more than MaxBytes is not waited for")
		_, err = p.Append(ctx, make([]Record, 20_000)...)
		require.NoError(t, err)
		c = consumerOf(t, l, ConsumerOptions{Topics: []string{"topic"}, MaxPollRecords: 1 << 30, MaxBytes: 10})
		got, err := c.Poll(ctx)
		require.NoError(t, err)
		require.LessOrEqual(t, cap(got), maxAhead, "room for what MaxBytes keeps away is not made")
	})
}

// TestTurnsAreFair: who has had MaxPartitionBytes goes behind the others, at the end of a batch.
func TestTurnsAreFair(t *testing.T) {
	inConsumerWorld(t, 3, func(t *testing.T, l *Log) {
		top, err := l.Topic("topic")
		require.NoError(t, err)
		for p := range top.Partitions() {
			for range 10 {
				_, err := p.Append(ctx, Record{Value: make([]byte, 40)}, Record{Value: make([]byte, 40)})
				require.NoError(t, err)
			}
		}
		c := consumerOf(t, l, ConsumerOptions{Topics: []string{"topic"}, MaxPartitionBytes: 100, MaxPollRecords: 1})
		var turns []int
		for range 24 {
			recs, err := c.Poll(ctx)
			require.NoError(t, err)
			turns = append(turns, recs[0].Partition)
		}
		require.Equal(t, []int{0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2}, turns)
		held := 0
		for _, s := range c.sources {
			if s.r != nil {
				held++
			}
		}
		require.LessOrEqual(t, held, 1, "who holds a batch in memory")
	})
}

// TestMinBytesGathers until there is enough, or MaxWait has passed since there was something.
func TestMinBytesGathers(t *testing.T) {
	inConsumerWorld(t, 1, func(t *testing.T, l *Log) {
		c := consumerOf(t, l, ConsumerOptions{Topics: []string{"topic"}, MinBytes: 6, MaxWait: 10 * time.Second})
		p := part0(t, l)
		go func() {
			for i := range 4 {
				time.Sleep(time.Second) //lint:sleep in a bubble of synctest
				appendValues(t, p, i, i+1)
			}
		}()
		require.Equal(t, wantValues(0, 3), polled(t, c))
		begun := time.Now()
		require.Equal(t, wantValues(3, 4), polled(t, c))
		require.Equal(t, 11*time.Second, time.Since(begun))
	})
}

// TestPartitionThatComesWhileOneRests: it has found the source in the queue, and said nothing. The
// poll that takes it out looks again.
func TestPartitionThatComesWhileOneRests(t *testing.T) {
	inConsumerWorld(t, 1, func(t *testing.T, l *Log) {
		c := consumerOf(t, l, ConsumerOptions{})
		require.NoError(t, c.Assign(at0))
		require.NoError(t, c.Seek(at0, 0))
		s := c.sources[at0]
		require.True(t, s.queued.Load())
		require.True(t, s.rest(nil), "there was no partition when the poll looked")
		require.True(t, s.queued.Load())
		require.False(t, s.rest(s.p))
	})
}

// TestCommitBesidePollThatGathers covers what was handed out before it, and not what it holds.
func TestCommitBesidePollThatGathers(t *testing.T) {
	inConsumerWorld(t, 1, func(t *testing.T, l *Log) {
		appendValues(t, part0(t, l), 0, 1)
		c := consumerOf(t, l, ConsumerOptions{Group: "g", Topics: []string{"topic"}, MinBytes: 6})
		require.Equal(t, wantValues(0, 1), polled(t, c))
		appendValues(t, part0(t, l), 1, 2)
		got := make(chan []Record)
		go func() { recs, _ := c.Poll(ctx); got <- recs }()
		synctest.Wait()
		require.NoError(t, c.Commit(ctx))
		require.Equal(t, Offset(1), committedAt(t, l, at0))
		require.Len(t, <-got, 1)
		require.NoError(t, c.Commit(ctx))
		require.Equal(t, Offset(2), committedAt(t, l, at0))
	})
}

// TestContextThatHasEnded is the error, also if there are records: they come later.
func TestContextThatHasEnded(t *testing.T) {
	inConsumerWorld(t, 1, func(t *testing.T, l *Log) {
		appendValues(t, part0(t, l), 0, 2)
		c := consumerOf(t, l, ConsumerOptions{Topics: []string{"topic"}})
		ended, cancel := context.WithCancel(ctx)
		cancel()
		recs, err := c.Poll(ended)
		require.ErrorIs(t, err, context.Canceled)
		require.Empty(t, recs)
		require.Equal(t, wantValues(0, 2), polled(t, c))
	})
}

// TestControlRecordsArePassed: they are handed out in neither mode, and the position goes on
// behind them, also for commits.
func TestControlRecordsArePassed(t *testing.T) {
	for _, uncommitted := range []bool{false, true} {
		inConsumerWorld(t, 1, func(t *testing.T, l *Log) {
			p := part0(t, l)
			appendValues(t, p, 0, 1)
			for range 2 {
				var b batch.Builder
				marker, err := b.AppendMarker(nil, 1, batch.Producer{ID: 1}, batch.Marker{Commit: true})
				require.NoError(t, err)
				_, err = p.append(ctx, marker, 0)
				require.NoError(t, err)
			}
			c := consumerOf(t, l, ConsumerOptions{Group: "g", Uncommitted: uncommitted})
			require.NoError(t, c.Assign(at0))
			require.Equal(t, wantValues(0, 1), polled(t, c))
			requireIdle(t, c)
			at, err := c.Position(at0)
			require.NoError(t, err)
			require.Equal(t, Offset(3), at)
			require.Zero(t, c.Lag()[at0])
			require.NoError(t, c.Commit(ctx))
			pos, err := c.Committed(ctx, at0)
			require.NoError(t, err)
			require.Equal(t, Offset(3), pos[at0].Offset)
		})
	}
}

// TestWakeup: the poll that waits, or else the next one, and no other; nothing is lost by it.
func TestWakeup(t *testing.T) {
	inConsumerWorld(t, 1, func(t *testing.T, l *Log) {
		c := consumerOf(t, l, ConsumerOptions{Topics: []string{"topic"}})
		ended := make(chan error)
		go func() { _, err := c.Poll(ctx); ended <- err }()
		synctest.Wait()
		c.Wakeup()
		require.ErrorIs(t, <-ended, ErrWakeup)
		appendValues(t, part0(t, l), 0, 2)
		c.Wakeup()
		c.Wakeup()
		recs, err := c.Poll(ctx)
		require.ErrorIs(t, err, ErrWakeup)
		require.Empty(t, recs)
		require.Equal(t, wantValues(0, 2), polled(t, c))
		c.Wakeup()
		require.NoError(t, c.Close(), "closing ignores it")

		c = consumerOf(t, l, ConsumerOptions{
			Topics: []string{"topic"}, OffsetReset: ResetLatest,
			Assigned: func(_ context.Context, c *Consumer, _ []TopicPartition) error { c.Wakeup(); return nil },
		})
		short, cancel := context.WithTimeout(ctx, time.Hour)
		defer cancel()
		_, err = c.Poll(short)
		require.ErrorIs(t, err, ErrWakeup, "while it finds its positions")
	})
}

// TestHookThatPanics is the poll's error, and its records come again, also those of the hooks
// before.
func TestHookThatPanics(t *testing.T) {
	inConsumerWorld(t, 1, func(t *testing.T, l *Log) {
		appendValues(t, part0(t, l), 0, 3)
		bad := func() { panic("no") }
		c := consumerOf(t, l, ConsumerOptions{Group: "g", Topics: []string{"topic"}, Hooks: []ConsumerHooks{
			{},
			{Deliver: func(_ context.Context, r *Record) { r.Value = append([]byte("+"), r.Value...) }},
			{Deliver: func(_ context.Context, r *Record) {
				if r.Offset == 1 {
					bad()
				}
			}},
		}})
		for range 2 {
			_, err := c.Poll(ctx)
			require.ErrorContains(t, err, "Deliver has panicked: no")
		}
		bad = runtime.Goexit // as FailNow of a test does
		apart(func() { _, _ = c.Poll(ctx) })
		require.NoError(t, c.Commit(ctx))
		pos, err := c.Committed(ctx, at0)
		require.NoError(t, err)
		require.Equal(t, Offset(0), pos[at0].Offset, "nothing was handed out")
		bad = func() {}
		require.Equal(t, []string{"+v0", "+v1", "+v2"}, polled(t, c))
	})
}

// TestPollMeetsDamage: what is before it is handed out, then the error, once, and the position
// stays; a Seek goes behind it. The other partition goes on.
func TestPollMeetsDamage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := memfs.New()
		l := openAt(t, disk, "/data", nil)
		top, err := l.CreateTopic(ctx, "topic", &TopicConfig{Partitions: 2})
		require.NoError(t, err)
		appendValues(t, top.all()[0], 0, 3)
		appendValues(t, top.all()[1], 0, 1)
		require.NoError(t, l.Close())
		require.NoError(t, flipValueAt(disk, "/data/topic-0", 75)) // of the record before the last
		l = openAt(t, disk, "/data", nil)
		c := consumerOf(t, l, ConsumerOptions{Group: "g"})
		require.NoError(t, c.Assign(at0, TopicPartition{"topic", 1}))
		require.Equal(t, []string{"v0", "v0"}, polled(t, c), "of both")
		_, err = c.Poll(ctx)
		var at *PartitionError
		require.ErrorAs(t, err, &at)
		require.Equal(t, 0, at.Partition)
		var damage *CorruptError
		require.ErrorAs(t, err, &damage)
		require.Equal(t, Offset(2), damage.Next)
		requireIdle(t, c)
		now, err := c.Position(at0)
		require.NoError(t, err)
		require.Equal(t, Offset(1), now)
		require.NoError(t, c.Commit(ctx))
		require.NoError(t, c.Seek(at0, damage.Next))
		require.Equal(t, []string{"v2"}, polled(t, c))
	})
}

// TestErrorOfOnePartition comes with the next poll, while the others have records all the time,
// and once.
func TestErrorOfOnePartition(t *testing.T) {
	inConsumerWorld(t, 2, func(t *testing.T, l *Log) {
		top, err := l.Topic("topic")
		require.NoError(t, err)
		appendValues(t, top.all()[0], 0, 3)
		appendValues(t, top.all()[1], 0, 9)
		c := consumerOf(t, l, ConsumerOptions{OffsetReset: ResetError, MaxPollRecords: 1})
		require.NoError(t, c.Assign(at0, TopicPartition{"topic", 1}))
		require.NoError(t, c.Seek(at0, 0))
		require.NoError(t, c.Seek(TopicPartition{"topic", 1}, 0))
		require.NoError(t, top.all()[0].DeleteBefore(ctx, 2))
		require.Equal(t, wantValues(0, 1), polled(t, c))
		_, err = c.Poll(ctx)
		requireAll(t, err, ErrOffsetOutOfRange)
		var out *OffsetError
		require.ErrorAs(t, err, &out)
		require.Equal(t, OffsetError{Offset: 0, Start: 2, End: 3}, *out)
		for i := 1; i < 9; i++ {
			require.Equal(t, wantValues(i, i+1), polled(t, c))
		}
		requireIdle(t, c)
		require.NoError(t, c.Seek(at0, Earliest))
		require.Equal(t, wantValues(2, 3), polled(t, c))
	})
}

// TestLoggerMayAskTheConsumer whose offset it hears of.
func TestLoggerMayAskTheConsumer(t *testing.T) {
	var c *Consumer
	heard := 0
	handler := slog.NewTextHandler(writerFunc(func([]byte) {
		if c != nil && c.Assignment() != nil {
			heard++
		}
	}), nil)
	l := openAt(t, memfs.New(), "/data", &Options{Logger: slog.New(handler), Defaults: TopicConfig{Flush: FlushAsync}})
	p := partOf(t, l, "topic", nil)
	appendValues(t, p, 0, 3)
	c = consumerOf(t, l, ConsumerOptions{})
	require.NoError(t, c.Assign(at0))
	require.NoError(t, c.Seek(at0, 0))
	require.NoError(t, p.DeleteBefore(ctx, 2))
	require.Equal(t, wantValues(2, 3), polled(t, c))
	require.Equal(t, 2, heard, "of the deletion, and of the offset")
}

// TestNoPositionForMany: with ResetError all partitions without a commit are one error.
func TestNoPositionForMany(t *testing.T) {
	inConsumerWorld(t, 2, func(t *testing.T, l *Log) {
		c := consumerOf(t, l, ConsumerOptions{Topics: []string{"topic"}, OffsetReset: ResetError})
		_, err := c.Poll(ctx)
		require.ErrorIs(t, err, ErrNoOffset)
		require.ErrorContains(t, err, "topic-0")
		require.ErrorContains(t, err, "topic-1")
		_, err = c.Position(at0)
		require.ErrorIs(t, err, ErrNoOffset)
		requireIdle(t, c)
	})
}

// TestNilIsDeliveredAsNil, and empty as empty.
func TestNilIsDeliveredAsNil(t *testing.T) {
	inConsumerWorld(t, 1, func(t *testing.T, l *Log) {
		p := part0(t, l)
		_, err := p.Append(ctx, Record{Key: []byte("k"), Headers: []Header{{Key: "h"}}}, Record{Value: []byte{}}, Record{Key: []byte{}})
		require.NoError(t, err)
		c := consumerOf(t, l, ConsumerOptions{Topics: []string{"topic"}})
		recs, err := c.Poll(ctx)
		require.NoError(t, err)
		require.Equal(t, []byte("k"), recs[0].Key)
		require.Nil(t, recs[0].Value)
		require.Nil(t, recs[0].Headers[0].Value)
		require.Nil(t, recs[1].Key)
		require.Equal(t, []byte{}, recs[1].Value)
		require.Nil(t, recs[1].Headers)
		require.Equal(t, []byte{}, recs[2].Key)
		require.NoError(t, c.Seek(at0, 0))
		for r, err := range c.Records(ctx) {
			require.NoError(t, err)
			require.Equal(t, r.Offset == 1, r.Key == nil)
			require.Equal(t, r.Offset != 1, r.Value == nil)
			if r.Offset == 2 {
				break
			}
		}
	})
}
