package riffle

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// letPass lets time pass in a bubble.
func letPass(d time.Duration) {
	time.Sleep(d) //lint:sleep in a bubble of synctest, where it costs nothing
}

// groupWorld is a log and the members of groups, which one goroutine polls in turn: in a bubble
// of synctest, so that every wait costs nothing and all of it is one order of events.
type groupWorld struct {
	t    testing.TB
	fs   *errfs.FS
	l    *Log
	sent int
}

// worldMember is a consumer with what it was told and handed.
type worldMember struct {
	*Consumer
	w     *groupWorld
	calls []string // since the last look
	got   []string // values
}

// inGroupWorld runs a test in a bubble, on a log with the topic "topic" of so many partitions.
func inGroupWorld(t *testing.T, partitions int, opts *Options, test func(t *testing.T, w *groupWorld)) {
	synctest.Test(t, func(t *testing.T) {
		fsys := errfs.New(memfs.New())
		w := &groupWorld{t: t, fs: fsys, l: openAt(t, fsys, "/data", opts)}
		w.topic("topic", partitions)
		test(t, w)
	})
}

func (w *groupWorld) topic(name string, partitions int) {
	_, err := w.l.CreateTopic(ctx, name, &TopicConfig{Partitions: partitions, Flush: FlushAsync})
	require.NoError(w.t, err)
}

// send appends a record to each partition of a topic, with the name of the partition and a
// running number as its value.
func (w *groupWorld) send(topic string) {
	top, err := w.l.Topic(topic)
	require.NoError(w.t, err)
	for p := range top.Partitions() {
		w.sent++
		_, err := p.Append(ctx, Record{Value: fmt.Appendf(nil, "%s-%d:%d", topic, p.index, w.sent)})
		require.NoError(w.t, err)
	}
}

// join makes a member of "group", which reads "topic" unless told otherwise.
func (w *groupWorld) join(opts ConsumerOptions) *worldMember {
	w.t.Helper()
	m := &worldMember{w: w}
	setDefault(&opts.Group, "group")
	if opts.Topics == nil && opts.TopicPattern == nil {
		opts.Topics = []string{"topic"}
	}
	note := func(what string, also func(context.Context, *Consumer, []TopicPartition) error) func(context.Context, *Consumer, []TopicPartition) error {
		return func(ctx context.Context, c *Consumer, parts []TopicPartition) error {
			m.calls = append(m.calls, what+partitionNames(parts))
			if also != nil {
				return also(ctx, c, parts)
			}
			return nil
		}
	}
	opts.Assigned, opts.Revoked, opts.Lost = note("assigned", opts.Assigned), note("revoked", opts.Revoked), note("lost", opts.Lost)
	c, err := w.l.NewConsumer(&opts)
	require.NoError(w.t, err)
	m.Consumer = c
	return m
}

func partitionNames(parts []TopicPartition) string {
	var b strings.Builder
	for _, tp := range parts {
		fmt.Fprintf(&b, " %s-%d", tp.Topic, tp.Partition)
	}
	return b.String()
}

// poll polls once, for a millisecond, and returns the error unless that is the end of the
// millisecond.
func (m *worldMember) poll() error {
	short, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	recs, err := m.Poll(short)
	for _, r := range recs {
		m.got = append(m.got, string(r.Value))
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

// settle polls members in turn until all that is under way has ended.
func (w *groupWorld) settle(members ...*worldMember) {
	w.t.Helper()
	for range 12 {
		for _, m := range members {
			require.NoError(w.t, m.poll())
		}
	}
}

// told returns the callbacks since the last look, but for those about nothing.
func (m *worldMember) told() []string {
	calls := slices.DeleteFunc(m.calls, func(s string) bool { return s == "assigned" })
	m.calls = nil
	return calls
}

// handed returns the values since the last look.
func (m *worldMember) handed() []string {
	got := m.got
	m.got = nil
	return got
}

// has returns what a member is assigned.
func (m *worldMember) has() string { return strings.TrimPrefix(partitionNames(m.Assignment()), " ") }

func (w *groupWorld) describe(name string) GroupDescription {
	w.t.Helper()
	d, err := w.l.Group(name).Describe(ctx)
	require.NoError(w.t, err)
	return d
}

// committed returns what "group" has committed for a partition of "topic", NoOffset if it has not.
func (w *groupWorld) committed(partition int) Offset {
	at, err := w.l.committed(ctx, "group", []TopicPartition{{"topic", partition}})
	require.NoError(w.t, err)
	if pos, ok := at[TopicPartition{"topic", partition}]; ok {
		return pos.Offset
	}
	return NoOffset
}

// TestCooperativeRebalance: who joins gets what others give up, and they give up nothing else;
// what stays is delivered while the rebalance goes on.
func TestCooperativeRebalance(t *testing.T) {
	inGroupWorld(t, 6, nil, func(t *testing.T, w *groupWorld) {
		a := w.join(ConsumerOptions{})
		w.settle(a)
		require.Equal(t, []string{"assigned topic-0 topic-1 topic-2 topic-3 topic-4 topic-5"}, a.told())
		b := w.join(ConsumerOptions{})
		w.settle(a, b)
		require.Equal(t, []string{"revoked topic-3 topic-4 topic-5"}, a.told())
		require.Equal(t, []string{"assigned topic-3 topic-4 topic-5"}, b.told())
		w.send("topic")
		w.settle(a, b)
		require.Len(t, a.handed(), 3)
		require.Len(t, b.handed(), 3)

		c := w.join(ConsumerOptions{})
		require.NoError(t, c.poll())
		w.send("topic")
		w.send("topic")
		require.NoError(t, a.poll()) // it joins, and waits for b
		for range 5 {
			require.NoError(t, a.poll())
		}
		require.Equal(t, GroupPreparingRebalance, w.describe("group").State)
		require.Len(t, a.handed(), 6, "during the rebalance")
		require.NoError(t, b.poll())
		require.Equal(t, GroupCompletingRebalance, w.describe("group").State)
		for range 5 {
			require.NoError(t, b.poll())
		}
		require.Len(t, b.handed(), 6)
		require.Empty(t, append(a.told(), b.told()...))
		w.settle(a, b, c)
		gaveUp := append(a.told(), b.told()...)
		require.Len(t, gaveUp, 2)
		require.Equal(t, "assigned"+strings.TrimPrefix(gaveUp[0], "revoked")+strings.TrimPrefix(gaveUp[1], "revoked"), c.told()[0])
		require.Empty(t, c.handed(), "what others have passed is committed")

		had := a.has()
		require.NoError(t, a.Close())
		require.Equal(t, []string{"revoked " + had}, a.told())
		w.settle(b, c)
		require.Len(t, append(b.told(), c.told()...), 2, "what they have is not assigned again")
		require.Empty(t, append(b.handed(), c.handed()...))
	})
}

// TestEagerRebalance: with an assignor that is not cooperative, alone or in the list, each gives
// up all it has before it joins.
func TestEagerRebalance(t *testing.T) {
	for _, list := range [][]Assignor{
		{RangeAssignor()}, {RoundRobinAssignor()}, {StickyAssignor()}, {CooperativeStickyAssignor(), RangeAssignor()},
	} {
		inGroupWorld(t, 2, nil, func(t *testing.T, w *groupWorld) {
			a := w.join(ConsumerOptions{Assignors: list})
			w.settle(a)
			require.Equal(t, []string{"assigned topic-0 topic-1"}, a.told())
			b := w.join(ConsumerOptions{Assignors: list})
			require.NoError(t, b.poll())
			require.NoError(t, a.poll())
			w.send("topic")
			w.settle(a, b)
			require.Equal(t, []string{"revoked topic-0 topic-1", "assigned " + a.has()}, a.told())
			require.Len(t, b.told(), 1)
			require.Len(t, a.handed(), 1)
			require.Len(t, b.handed(), 1)
			require.Equal(t, list[0].Name, w.describe("group").Protocol)
		})
	}
}

// TestMaxPollInterval: who does not poll leaves the group, and others go on with what it had; its
// commits are refused; with its next poll Lost is called, and it joins again.
func TestMaxPollInterval(t *testing.T) {
	inGroupWorld(t, 2, nil, func(t *testing.T, w *groupWorld) {
		a := w.join(ConsumerOptions{MaxPollInterval: time.Minute, ManualCommit: true})
		b := w.join(ConsumerOptions{MaxPollInterval: time.Hour, ManualCommit: true})
		w.settle(a, b)
		require.Equal(t, "topic-0", a.has())
		w.send("topic")
		w.settle(a, b)
		a.told()
		b.told()
		letPass(59 * time.Second)
		w.settle(b)
		require.Equal(t, "topic-1", b.has())
		letPass(17 * time.Second) // up to a quarter longer
		w.settle(b)
		require.Equal(t, "topic-0 topic-1", b.has())
		require.Len(t, w.describe("group").Members, 1)
		require.Equal(t, "topic-0", a.has(), "it does not know yet")
		require.ErrorIs(t, a.Commit(ctx), ErrUnknownMember)
		require.Equal(t, NoOffset, w.committed(0))
		require.Empty(t, a.told(), "callbacks are called in polls")

		require.NoError(t, a.poll())
		require.Equal(t, []string{"lost topic-0"}, a.told())
		w.settle(a, b)
		require.Len(t, a.Assignment(), 1)
		require.Len(t, b.Assignment(), 1)

		waits, cancel := context.WithTimeout(ctx, time.Hour)
		defer cancel()
		_, err := a.Poll(waits) // one poll may wait for as long as it likes
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 2, len(w.describe("group").Members))
	})
}

// TestMaxPollIntervalForever: such a member never leaves of itself.
func TestMaxPollIntervalForever(t *testing.T) {
	inGroupWorld(t, 1, nil, func(t *testing.T, w *groupWorld) {
		a := w.join(ConsumerOptions{MaxPollInterval: Forever})
		w.settle(a)
		letPass(1000 * time.Hour)
		require.Len(t, w.describe("group").Members, 1)
	})
}

// TestRebalanceWaitsForMembers: a rebalance waits for a member that does not poll, for as long
// as the longest MaxPollInterval, then goes on without it.
func TestRebalanceWaitsForMembers(t *testing.T) {
	inGroupWorld(t, 2, nil, func(t *testing.T, w *groupWorld) {
		a := w.join(ConsumerOptions{MaxPollInterval: time.Minute})
		w.settle(a)
		b := w.join(ConsumerOptions{MaxPollInterval: time.Minute})
		w.settle(b)
		letPass(30 * time.Second)
		w.settle(b)
		require.Equal(t, GroupPreparingRebalance, w.describe("group").State)
		letPass(40 * time.Second)
		w.settle(b)
		require.Equal(t, "topic-0 topic-1", b.has())
		require.NoError(t, a.poll())
		require.Contains(t, a.told(), "lost topic-0 topic-1")
	})
}

// TestLeaderThatStalls: members that have joined wait for the leader's assignment, then go on
// without it.
func TestLeaderThatStalls(t *testing.T) {
	inGroupWorld(t, 2, nil, func(t *testing.T, w *groupWorld) {
		o := ConsumerOptions{MaxPollInterval: time.Minute, Assignors: []Assignor{RangeAssignor()}}
		a, b := w.join(o), w.join(o)
		w.settle(a, b)
		c := w.join(o)
		require.NoError(t, c.poll())
		require.NoError(t, a.poll())
		require.NoError(t, b.poll()) // the leader's answer comes, and nobody looks at it
		synctest.Wait()
		require.Equal(t, GroupCompletingRebalance, w.describe("group").State)
		for range 90 {
			letPass(time.Second)
			w.settle(b, c)
		}
		require.Equal(t, GroupStable, w.describe("group").State)
		require.Len(t, append(b.Assignment(), c.Assignment()...), 2)
		w.settle(a, b, c)
		require.Len(t, w.describe("group").Members, 3)
	})
}

// TestGroupInitialDelay: an empty group waits for more members before it gives partitions away.
func TestGroupInitialDelay(t *testing.T) {
	inGroupWorld(t, 2, &Options{GroupInitialDelay: 3 * time.Second}, func(t *testing.T, w *groupWorld) {
		a := w.join(ConsumerOptions{})
		w.settle(a)
		require.Equal(t, GroupPreparingRebalance, w.describe("group").State)
		b := w.join(ConsumerOptions{})
		w.settle(a, b)
		require.Empty(t, a.has()+b.has())
		letPass(7 * time.Second) // b has prolonged it
		w.settle(a, b)
		require.Len(t, a.Assignment(), 1)
		require.Len(t, b.Assignment(), 1)
		require.Equal(t, []string{"assigned " + a.has()}, a.told(), "it never had more")
	})
}

// TestStaticMemberComesBack: the partitions of a static member wait for it, also while it is
// closed; nobody else hears of it.
func TestStaticMemberComesBack(t *testing.T) {
	inGroupWorld(t, 2, nil, func(t *testing.T, w *groupWorld) {
		a := w.join(ConsumerOptions{InstanceID: "a"})
		b := w.join(ConsumerOptions{})
		w.settle(a, b)
		had := a.has()
		w.send("topic")
		w.settle(a, b)
		a.handed()
		a.told()
		b.told()
		require.NoError(t, a.Close())
		require.Equal(t, []string{"revoked " + had}, a.told())
		w.send("topic")
		letPass(44 * time.Second)
		w.settle(b)
		again := w.join(ConsumerOptions{InstanceID: "a"})
		w.settle(again, b)
		require.Equal(t, had, again.has())
		require.Len(t, again.handed(), 1)
		require.Empty(t, b.told())

		require.NoError(t, again.Close())
		letPass(46 * time.Second)
		w.settle(b)
		require.Equal(t, "topic-0 topic-1", b.has(), "SessionTimeout has passed")
	})
}

// TestStaticMemberThatStalls keeps its partitions for SessionTimeout after MaxPollInterval.
func TestStaticMemberThatStalls(t *testing.T) {
	inGroupWorld(t, 2, nil, func(t *testing.T, w *groupWorld) {
		a := w.join(ConsumerOptions{InstanceID: "a", MaxPollInterval: time.Minute})
		b := w.join(ConsumerOptions{MaxPollInterval: time.Minute})
		w.settle(a, b)
		had := a.has()
		for range 110 {
			letPass(time.Second)
			w.settle(b)
		}
		require.Len(t, b.Assignment(), 1)
		a.told()
		w.settle(a, b)
		require.Equal(t, []string{"lost " + had, "assigned " + had}, a.told())
		for range 180 {
			letPass(time.Second)
			w.settle(b)
		}
		require.Len(t, b.Assignment(), 2)
		w.settle(a, b)
		require.Len(t, a.Assignment(), 1)
	})
}

// TestStaticMemberIsFenced: of two consumers of one InstanceID the later one is the member; the
// first can never be one again.
func TestStaticMemberIsFenced(t *testing.T) {
	inGroupWorld(t, 2, nil, func(t *testing.T, w *groupWorld) {
		first := w.join(ConsumerOptions{InstanceID: "a", ManualCommit: true})
		w.settle(first)
		w.send("topic")
		w.settle(first)
		first.told()
		second := w.join(ConsumerOptions{InstanceID: "a"})
		w.settle(second)
		require.Equal(t, "topic-0 topic-1", second.has())
		require.ErrorIs(t, first.Commit(ctx), ErrFenced)
		require.ErrorIs(t, first.poll(), ErrFenced)
		require.Equal(t, []string{"lost topic-0 topic-1"}, first.told())
		require.ErrorIs(t, first.poll(), ErrFenced)
		w.settle(second)
		require.NoError(t, first.Close())
		w.settle(second)
		require.Len(t, w.describe("group").Members, 1)
		require.Equal(t, "a", w.describe("group").Members[0].InstanceID)
	})
}

// TestMembersBeyondPartitions wait, and take the place of one that leaves.
func TestMembersBeyondPartitions(t *testing.T) {
	inGroupWorld(t, 1, nil, func(t *testing.T, w *groupWorld) {
		a, b, c := w.join(ConsumerOptions{}), w.join(ConsumerOptions{}), w.join(ConsumerOptions{})
		w.settle(a, b, c)
		require.Equal(t, "topic-0", a.has())
		require.Empty(t, b.has()+c.has())
		require.Empty(t, b.told())
		require.NoError(t, a.Close())
		w.settle(b, c)
		require.Equal(t, "topic-0", b.has()+c.has())
	})
}

// TestSeveralGroups read the same records, each all of them.
func TestSeveralGroups(t *testing.T) {
	inGroupWorld(t, 2, nil, func(t *testing.T, w *groupWorld) {
		a, b := w.join(ConsumerOptions{Group: "a"}), w.join(ConsumerOptions{Group: "b"})
		w.send("topic")
		w.settle(a, b)
		require.Len(t, a.handed(), 2)
		require.Len(t, b.handed(), 2)
		require.NoError(t, a.Close())
		w.send("topic")
		w.settle(b)
		require.Len(t, b.handed(), 2)
		a = w.join(ConsumerOptions{Group: "a"})
		w.settle(a, b)
		require.Len(t, a.handed(), 2)
		require.Empty(t, b.handed())
	})
}

// TestCallbacks: errors of Revoked and Lost are returned and change nothing; Assigned is called
// until it succeeds, and nothing is delivered from what it failed for; a panic is an error. The
// group goes on. They get the context of the call, and may use the consumer.
func TestCallbacks(t *testing.T) {
	inGroupWorld(t, 2, nil, func(t *testing.T, w *groupWorld) {
		type key struct{}
		oops := errors.New("oops")
		fails := true
		var seen any
		a := w.join(ConsumerOptions{
			Assigned: func(ctx context.Context, c *Consumer, parts []TopicPartition) error {
				seen = ctx.Value(key{})
				switch {
				case len(parts) == 0:
					return nil
				case fails:
					return oops
				}
				return c.Seek(TopicPartition{"topic", 0}, Latest)
			},
			Revoked: func(ctx context.Context, c *Consumer, parts []TopicPartition) error {
				if _, err := c.Position(parts[0]); err != nil { // it still has it
					return err
				}
				panic("at the disco")
			},
		})
		w.send("topic")
		for range 4 {
			_ = a.poll()
		}
		require.ErrorIs(t, a.poll(), oops)
		require.ErrorIs(t, a.poll(), oops)
		require.Empty(t, a.handed())
		fails = false
		for range 4 {
			short, cancel := context.WithTimeout(context.WithValue(ctx, key{}, "mine"), time.Millisecond)
			recs, err := a.Poll(short)
			cancel()
			if err == nil {
				a.got = append(a.got, string(recs[0].Value))
			}
		}
		require.Equal(t, "mine", seen)
		require.Equal(t, []string{"topic-1:2"}, a.handed(), "it has sought to the end of the other")

		b := w.join(ConsumerOptions{})
		var failed []error
		for range 12 {
			if err := a.poll(); err != nil {
				failed = append(failed, err)
			}
			require.NoError(t, b.poll())
		}
		require.Len(t, failed, 1)
		require.ErrorContains(t, failed[0], "at the disco")
		require.Equal(t, "topic-1", b.has())
		require.Equal(t, "topic-0", a.has())
		require.Equal(t, GroupStable, w.describe("group").State)
		err := a.Close()
		require.ErrorContains(t, err, "at the disco")
		require.Equal(t, err, a.Close())
		w.settle(b)
		require.Equal(t, "topic-0 topic-1", b.has())
	})
}

// TestCallbackThatEndsItsGoroutine, as FailNow of a test does, where a poll or Close has called
// it: the consumer can be used again, or is closed, and the group goes on at once.
func TestCallbackThatEndsItsGoroutine(t *testing.T) {
	inGroupWorld(t, 2, nil, func(t *testing.T, w *groupWorld) {
		exits := 1
		exit := func(context.Context, *Consumer, []TopicPartition) error {
			if exits--; exits >= 0 {
				runtime.Goexit()
			}
			return nil
		}
		w.send("topic")
		a := w.join(ConsumerOptions{Assigned: exit, Revoked: exit})
		for range 4 {
			apart(func() { _ = a.poll() })
		}
		w.settle(a)
		require.Equal(t, "topic-0 topic-1", a.has())
		require.Len(t, a.handed(), 2)
		require.NoError(t, a.poll()) // passes them
		b := w.join(ConsumerOptions{})
		exits = 1
		began := time.Now()
		apart(func() { _ = a.Close() })
		require.Zero(t, exits)
		require.NoError(t, a.Close())
		w.settle(b)
		require.Equal(t, "topic-0 topic-1", b.has())
		require.Less(t, time.Since(began), time.Second, "by the clock of the bubble")
		require.Equal(t, Offset(1), w.committed(0))
		require.ErrorIs(t, a.poll(), ErrClosed)
	})
}

// TestCallbackThatEndsItsGoroutineIsMadeGood: whichever it is, the next polls do what it has left
// undone, and nobody reads what others may have.
func TestCallbackThatEndsItsGoroutineIsMadeGood(t *testing.T) {
	for _, which := range []string{"Assigned", "Revoked", "Lost", "Assign", "UserData"} {
		inGroupWorld(t, 2, nil, func(t *testing.T, w *groupWorld) {
			armed := ""
			exit := func(what string) {
				if what == armed {
					armed = ""
					runtime.Goexit()
				}
			}
			callback := func(what string) func(context.Context, *Consumer, []TopicPartition) error {
				return func(context.Context, *Consumer, []TopicPartition) error { exit(what); return nil }
			}
			own := RangeAssignor()
			assign := own.Assign
			own.Assign = func(members []GroupMember, partitions map[string]int) (map[string][]TopicPartition, error) {
				exit("Assign")
				return assign(members, partitions)
			}
			own.UserData = func([]TopicPartition, int32) []byte { exit("UserData"); return nil }
			opts := ConsumerOptions{
				Assigned: callback("Assigned"), Revoked: callback("Revoked"), Lost: callback("Lost"), Assignors: []Assignor{own},
			}
			a := w.join(opts)
			w.settle(a)
			w.send("topic")
			w.settle(a)
			require.Len(t, a.handed(), 2, which)
			require.NoError(t, a.Commit(ctx))
			armed = which
			var b *worldMember
			if which == "Lost" {
				letPass(10 * time.Minute)
			} else {
				b = w.join(opts)
			}
			for range 12 {
				apart(func() { _ = a.poll() })
				if b != nil {
					apart(func() { _ = b.poll() })
				} else if armed == "" {
					require.Empty(t, a.has(), "it is lost")
					break
				}
			}
			require.Empty(t, armed, which)
			all := []*worldMember{a}
			if b != nil {
				all = append(all, b)
			}
			w.settle(all...)
			w.send("topic")
			w.settle(all...)
			var got []string
			for _, m := range all {
				require.Len(t, m.Assignment(), 2/len(all), which)
				got = append(got, m.handed()...)
			}
			require.Len(t, got, 2, which)
		})
	}
}

// TestCommitWhoseAssignorEndsItsGoroutine lets polls go on.
func TestCommitWhoseAssignorEndsItsGoroutine(t *testing.T) {
	inGroupWorld(t, 1, nil, func(t *testing.T, w *groupWorld) {
		own := RangeAssignor()
		a := w.join(ConsumerOptions{Assignors: []Assignor{own}})
		w.settle(a)
		a.opts.Assignors[0].Assign = func([]GroupMember, map[string]int) (map[string][]TopicPartition, error) {
			runtime.Goexit()
			return nil, nil
		}
		a.mu.Lock()
		answer := kmsg.NewPtrJoinGroupResponse()
		answer.MemberID, answer.LeaderID, answer.Protocol, answer.Generation = a.member.id, a.member.id, &own.Name, a.member.generation
		a.member.answer = answer
		a.mu.Unlock()
		apart(func() { _ = a.advance(ctx, false) })
		a.opts.Assignors[0].Assign = own.Assign
		w.settle(a)
		require.Equal(t, "topic-0", a.has())
	})
}

// TestCustomAssignor decides for its group; a result that cannot be is refused, as are its error
// and its panic, and nobody gets anything from it; the next one counts.
func TestCustomAssignor(t *testing.T) {
	inGroupWorld(t, 3, nil, func(t *testing.T, w *groupWorld) {
		var decide func([]GroupMember, map[string]int) (map[string][]TopicPartition, error)
		var data func([]TopicPartition, int32) []byte
		calls := 0
		own := Assignor{
			Name: "own",
			Assign: func(members []GroupMember, partitions map[string]int) (map[string][]TopicPartition, error) {
				calls++
				return decide(members, partitions)
			},
			UserData: func(owned []TopicPartition, generation int32) []byte { return data(owned, generation) },
		}
		data = func([]TopicPartition, int32) []byte { panic("no data") }
		a := w.join(ConsumerOptions{Assignors: []Assignor{own}})
		require.ErrorContains(t, a.poll(), "no data")
		require.False(t, w.l.isClosing(), "a panic of the caller's is not ours")
		data = func(owned []TopicPartition, generation int32) []byte { return fmt.Append(nil, len(owned), generation) }

		p := func(n int) TopicPartition { return TopicPartition{"topic", n} }
		for what, result := range map[string]func(id string) (map[string][]TopicPartition, error){
			"oops":         func(string) (map[string][]TopicPartition, error) { return nil, errors.New("oops") },
			"has panicked": func(string) (map[string][]TopicPartition, error) { panic("oops") },
			"is given to both": func(id string) (map[string][]TopicPartition, error) {
				return map[string][]TopicPartition{id: {p(0), p(0)}}, nil
			},
			"there is no": func(id string) (map[string][]TopicPartition, error) {
				return map[string][]TopicPartition{id: {p(3)}}, nil
			},
			"does not subscribe": func(string) (map[string][]TopicPartition, error) {
				return map[string][]TopicPartition{"x": {p(0)}}, nil
			},
		} {
			decide = func(members []GroupMember, _ map[string]int) (map[string][]TopicPartition, error) {
				return result(members[0].ID)
			}
			letPass(2 * time.Second)
			var err error
			for range 4 {
				err = errors.Join(err, a.poll())
			}
			require.ErrorContains(t, err, what)
			require.Empty(t, a.has())
		}
		before := calls
		for range 500 {
			_ = a.poll() // it rests: a loop that polls on does not spin
		}
		require.LessOrEqual(t, calls-before, 7)

		decide = func(members []GroupMember, partitions map[string]int) (map[string][]TopicPartition, error) {
			require.Equal(t, map[string]int{"topic": 3}, partitions)
			require.Equal(t, []string{"topic"}, members[0].Topics)
			require.Equal(t, "0-1", strings.ReplaceAll(string(members[0].UserData), " ", ""))
			return map[string][]TopicPartition{members[0].ID: {p(2), p(0)}}, nil
		}
		letPass(2 * time.Second)
		w.settle(a)
		require.Equal(t, "topic-0 topic-2", a.has())
		require.Equal(t, "own", w.describe("group").Protocol)
	})
}

// TestCooperativeAssignorThatMovesWhatIsOwned: that is refused, since two would read it.
func TestCooperativeAssignorThatMovesWhatIsOwned(t *testing.T) {
	inGroupWorld(t, 1, nil, func(t *testing.T, w *groupWorld) {
		o := ConsumerOptions{Assignors: []Assignor{{
			Name: "own", Cooperative: true,
			Assign: func(members []GroupMember, _ map[string]int) (map[string][]TopicPartition, error) {
				return map[string][]TopicPartition{members[len(members)-1].ID: {{"topic", 0}}}, nil
			},
		}}}
		a := w.join(o)
		w.settle(a)
		require.Equal(t, "topic-0", a.has())
		b := w.join(o)
		var err error
		for range 4 {
			err = errors.Join(err, b.poll(), a.poll())
		}
		require.ErrorContains(t, err, "still owns")
		require.Equal(t, "topic-0", a.has())
		w.send("topic")
		require.NoError(t, a.poll())
		require.Len(t, a.handed(), 1, "it reads on")
	})
}

// TestAssignorsWithoutOneInCommon: who has none of the group's is not let in; nothing changes for
// the others.
func TestAssignorsWithoutOneInCommon(t *testing.T) {
	inGroupWorld(t, 1, nil, func(t *testing.T, w *groupWorld) {
		a := w.join(ConsumerOptions{Assignors: []Assignor{RangeAssignor()}})
		w.settle(a)
		a.told()
		b := w.join(ConsumerOptions{Assignors: []Assignor{RoundRobinAssignor(), StickyAssignor()}})
		require.ErrorIs(t, b.poll(), ErrInvalidOptions)
		w.settle(a)
		require.Empty(t, a.told())
		require.Equal(t, "topic-0", a.has())
		require.NoError(t, a.Close())
		letPass(time.Second)
		w.settle(b)
		require.Equal(t, "topic-0", b.has(), "the group is empty")
	})
}

// TestSubscribedTopicsComeGrowAndGo: the members get what there is, also of a pattern, and a
// topic that is missing is waited for.
func TestSubscribedTopicsComeGrowAndGo(t *testing.T) {
	inGroupWorld(t, 1, nil, func(t *testing.T, w *groupWorld) {
		a := w.join(ConsumerOptions{TopicPattern: regexp.MustCompile("t.*")})
		b := w.join(ConsumerOptions{Topics: []string{"topic", "later"}})
		w.settle(a, b)
		require.Equal(t, "topic-0", a.has()+b.has())
		w.topic("later", 1)
		w.topic("two", 2)
		w.topic("other", 1)
		w.settle(a, b)
		require.Equal(t, "later-0", strings.TrimSpace(strings.ReplaceAll(b.has(), "topic-0", "")))
		require.Contains(t, a.has(), "two-0 two-1")
		require.Len(t, append(a.Assignment(), b.Assignment()...), 4)
		w.send("later")
		w.send("two")
		w.settle(a, b)
		require.Len(t, append(a.handed(), b.handed()...), 3)

		two, err := w.l.Topic("two")
		require.NoError(t, err)
		require.NoError(t, two.SetPartitions(ctx, 3))
		w.settle(a, b)
		require.Contains(t, a.has(), "two-0 two-1 two-2")
		require.NoError(t, w.l.DeleteTopic(ctx, "two"))
		w.settle(a, b)
		require.NotContains(t, a.has(), "two")
		require.Contains(t, strings.Join(a.told(), ","), "two-0 two-1 two-2")
		w.send("topic")
		w.settle(a, b)
		require.Len(t, append(a.handed(), b.handed()...), 1)
	})
}

// TestTopicMadeAgain: a topic that is deleted and made again, while members read it, is read from
// its start: nothing that they commit is of the one before.
func TestTopicMadeAgain(t *testing.T) {
	inGroupWorld(t, 2, nil, func(t *testing.T, w *groupWorld) {
		a := w.join(ConsumerOptions{})
		for range 5 {
			w.send("topic")
		}
		w.settle(a)
		require.Len(t, a.handed(), 10)
		require.NoError(t, w.l.DeleteTopic(ctx, "topic"))
		require.Equal(t, NoOffset, w.committed(0))
		w.topic("topic", 2)
		w.send("topic")
		require.NoError(t, a.Commit(ctx), "there is nothing to commit, or it is of the new one")
		require.LessOrEqual(t, w.committed(0), Offset(1))
		w.settle(a)
		require.Len(t, a.handed(), 2)
		require.NoError(t, a.Commit(ctx))
		require.Equal(t, Offset(1), w.committed(0))
	})
}

// TestSubscribeInTheMidst: a member may change what it reads at any time; without a subscription
// it leaves, having committed what was passed, and may come back.
func TestSubscribeInTheMidst(t *testing.T) {
	inGroupWorld(t, 2, nil, func(t *testing.T, w *groupWorld) {
		w.topic("other", 1)
		a, b := w.join(ConsumerOptions{}), w.join(ConsumerOptions{})
		require.NoError(t, a.poll())
		require.NoError(t, b.poll())
		require.NoError(t, a.Subscribe("other")) // while they join
		w.settle(a, b)
		require.Equal(t, "other-0", a.has())
		require.Equal(t, "topic-0 topic-1", b.has())
		w.send("other")
		w.settle(a, b)
		require.Len(t, a.handed(), 1)
		require.NoError(t, a.Subscribe("other", "topic"))
		w.settle(a, b)
		require.Len(t, append(a.Assignment(), b.Assignment()...), 3)

		require.NoError(t, a.Subscribe())
		a.told()
		require.ErrorIs(t, a.poll(), ErrInvalidState)
		require.Len(t, a.told(), 1, "Revoked")
		w.settle(b)
		require.Equal(t, "topic-0 topic-1", b.has())
		require.Len(t, w.describe("group").Members, 1)
		require.NoError(t, a.Subscribe("other"))
		w.settle(a, b)
		require.Empty(t, a.handed(), "it is committed")
	})
}

// TestLeaveWhileJoining: who closes while its join waits is not waited for.
func TestLeaveWhileJoining(t *testing.T) {
	for _, assignor := range []Assignor{CooperativeStickyAssignor(), RangeAssignor()} {
		inGroupWorld(t, 2, nil, func(t *testing.T, w *groupWorld) {
			o := ConsumerOptions{Assignors: []Assignor{assignor}}
			a := w.join(o)
			w.settle(a)
			b := w.join(o)
			require.NoError(t, b.poll())
			require.NoError(t, b.Close()) // its join has no answer yet
			c := w.join(o)
			require.NoError(t, c.poll())
			require.NoError(t, a.poll())
			require.NoError(t, c.Close()) // its join has one, that it has not seen
			w.settle(a)
			require.Equal(t, "topic-0 topic-1", a.has())
			require.Len(t, w.describe("group").Members, 1)
			require.Equal(t, GroupStable, w.describe("group").State)
		})
	}
}

// TestCloseDuringRebalance: at each step of a rebalance a member, the leader or another one,
// is closed; what it has passed is committed, and nothing comes twice or is lost.
func TestCloseDuringRebalance(t *testing.T) {
	for _, assignor := range []Assignor{CooperativeStickyAssignor(), RangeAssignor()} {
		for steps := range 16 {
			inGroupWorld(t, 4, nil, func(t *testing.T, w *groupWorld) {
				o := ConsumerOptions{Assignors: []Assignor{assignor}}
				members := []*worldMember{w.join(o), w.join(o)}
				w.settle(members...)
				w.send("topic")
				w.settle(members...)
				members = append(members, w.join(o))
				for i := range steps {
					w.send("topic")
					require.NoError(t, members[(i*2+2)%3].poll())
				}
				var got []string
				gone := members[steps%3]
				rest := slices.Delete(slices.Clone(members), steps%3, steps%3+1)
				left := make(chan error, 1)
				go func() { left <- errors.Join(gone.Commit(ctx), gone.Close()) }()
				w.settle(rest...)
				require.NoError(t, <-left)
				w.settle(rest...)
				for _, m := range members {
					got = append(got, m.handed()...)
				}
				require.Len(t, got, w.sent, "%s, after %d steps", assignor.Name, steps)
				slices.Sort(got)
				require.Len(t, slices.Compact(got), w.sent)
			})
		}
	}
}
