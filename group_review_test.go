package riffle

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestLogClosesWhileALeaderIsToAssign: members that wait for what their leader assigns are closed
// beside it, so what they have passed is committed: none waits for another that is closed after it.
func TestLogClosesWhileALeaderIsToAssign(t *testing.T) {
	inGroupWorld(t, 6, nil, func(t *testing.T, w *groupWorld) {
		var members []*worldMember
		for range 6 {
			members = append(members, w.join(ConsumerOptions{}))
		}
		w.settle(members...)
		w.send("topic")
		for range 2 { // the second one passes what the first has handed out
			for _, m := range members {
				require.NoError(t, m.poll())
			}
		}
		late := w.join(ConsumerOptions{})
		require.NoError(t, late.poll())
		for _, m := range members {
			require.NoError(t, m.poll())
		}
		require.Equal(t, GroupCompletingRebalance, w.describe("group").State)
		began := time.Now()
		require.NoError(t, w.l.Close())
		require.Less(t, time.Since(began), closeTimeout, "by the clock of the bubble")
		w.l = openAt(t, w.fs, "/data", nil)
		defer w.l.Close()
		for i := range 6 {
			require.Equal(t, Offset(1), w.committed(i), "partition %d", i)
		}
	})
}

// TestMemberThatSomebodyElseRemoves: an administrator's LeaveGroup takes a member out, which
// hears of it, so that two do not go on with one partition.
func TestMemberThatSomebodyElseRemoves(t *testing.T) {
	inGroupWorld(t, 1, nil, func(t *testing.T, w *groupWorld) {
		a := w.join(ConsumerOptions{})
		w.settle(a)
		a.told()
		leave := &kmsg.LeaveGroupRequest{Version: 5, Group: "group", Members: []kmsg.LeaveGroupRequestMember{
			{MemberID: w.describe("group").Members[0].ID},
		}}
		require.Equal(t, codeNone, w.foreign(leave).(*kmsg.LeaveGroupResponse).Members[0].ErrorCode)
		w.settle(a)
		require.Equal(t, []string{"lost topic-0", "assigned topic-0"}, a.told())
		require.Len(t, w.describe("group").Members, 1)
	})
}

// TestLeaveOfAnotherGroupsMember: a LeaveGroup that names a member of another group takes nothing
// from that one, not its wakes either.
func TestLeaveOfAnotherGroupsMember(t *testing.T) {
	inGroupWorld(t, 2, nil, func(t *testing.T, w *groupWorld) {
		other := ""
		for i := 0; other == "" || groupPartition(other, offsetsPartitions) != groupPartition("group", offsetsPartitions); i++ {
			other = fmt.Sprint("other", i)
		}
		a := w.join(ConsumerOptions{})
		w.settle(a)
		leave := &kmsg.LeaveGroupRequest{Version: 5, Group: other, Members: []kmsg.LeaveGroupRequestMember{
			{MemberID: w.describe("group").Members[0].ID},
		}}
		require.Equal(t, codeUnknownMember, w.foreign(leave).(*kmsg.LeaveGroupResponse).Members[0].ErrorCode)
		b := w.join(ConsumerOptions{})
		w.settle(a, b)
		require.Len(t, b.Assignment(), 1)
	})
}

// TestStaticMemberThatOnlyCommits: a commit of a static member that does not poll any more, by
// another of its goroutines, begins its session anew, and does not end it: its partitions go to
// others some time.
func TestStaticMemberThatOnlyCommits(t *testing.T) {
	inGroupWorld(t, 1, nil, func(t *testing.T, w *groupWorld) {
		a := w.join(ConsumerOptions{InstanceID: "a", MaxPollInterval: time.Minute, ManualCommit: true})
		b := w.join(ConsumerOptions{})
		w.settle(a)
		w.send("topic")
		w.settle(a)
		require.Len(t, a.handed(), 1)
		w.settle(a, b)
		letPass(80 * time.Second) // MaxPollInterval has passed
		require.NoError(t, a.Commit(ctx))
		require.Equal(t, Offset(1), w.committed(0))
		letPass(44 * time.Second)
		w.settle(b)
		require.Empty(t, b.Assignment())
		letPass(2 * time.Second)
		w.settle(b)
		require.Equal(t, "topic-0", b.has())
	})
}

// TestStaticLeaderFindsNewPartitions: a leader that comes back to a stable group assigns nothing
// (KIP-814), and sees all the same that a topic has grown while it was away.
func TestStaticLeaderFindsNewPartitions(t *testing.T) {
	inGroupWorld(t, 1, nil, func(t *testing.T, w *groupWorld) {
		a := w.join(ConsumerOptions{InstanceID: "a"})
		w.settle(a)
		require.NoError(t, a.Close())
		top, err := w.l.Topic("topic")
		require.NoError(t, err)
		require.NoError(t, top.SetPartitions(ctx, 3))
		again := w.join(ConsumerOptions{InstanceID: "a"})
		w.settle(again)
		require.Equal(t, "topic-0 topic-1 topic-2", again.has())
		again.told()
		require.NoError(t, again.Close())
		again.told()
		third := w.join(ConsumerOptions{InstanceID: "a"})
		w.settle(third)
		require.Equal(t, []string{"assigned topic-0 topic-1 topic-2"}, third.told(), "nothing has changed: no rebalance")
	})
}

// TestAssignFromACallback: a callback may end the subscription and assign partitions by hand, which
// a rebalance that is under way does not take back.
func TestAssignFromACallback(t *testing.T) {
	for _, assignor := range []Assignor{CooperativeStickyAssignor(), RangeAssignor()} {
		inGroupWorld(t, 4, nil, func(t *testing.T, w *groupWorld) {
			w.topic("other", 1)
			byHand := []TopicPartition{{"other", 0}, {"topic", 0}, {"topic", 1}, {"topic", 2}, {"topic", 3}}
			o := ConsumerOptions{Assignors: []Assignor{assignor}}
			var once bool
			o.Revoked = func(_ context.Context, c *Consumer, _ []TopicPartition) error {
				if once {
					return nil
				}
				once = true
				require.NoError(t, c.Assign())
				return c.Assign(byHand...)
			}
			a := w.join(o)
			w.settle(a)
			b := w.join(ConsumerOptions{Assignors: []Assignor{assignor}})
			w.settle(a, b)
			require.True(t, once)
			require.Equal(t, byHand, a.Assignment(), assignor.Name)
			require.Len(t, b.Assignment(), 4)
			require.Len(t, w.describe("group").Members, 1)
		})
	}
}

// TestLostStaticMemberIsGivenUp: a static member that is closed after it has heard that its
// generation is over, and before it has joined again, is not kept for ever.
func TestLostStaticMemberIsGivenUp(t *testing.T) {
	inGroupWorld(t, 1, nil, func(t *testing.T, w *groupWorld) {
		a := w.join(ConsumerOptions{InstanceID: "a"})
		b := w.join(ConsumerOptions{})
		w.settle(a)
		w.settle(a, b)
		require.NoError(t, a.member.judge(codeIllegalGeneration))
		require.NoError(t, a.Close())
		letPass(46 * time.Second)
		w.settle(b)
		require.Equal(t, "topic-0", b.has())
	})
}

// TestPartitionNumbersBeyondKafkas: no partition has a number of more than 31 bits. Such a name is
// of nothing, and not of another partition.
func TestPartitionNumbersBeyondKafkas(t *testing.T) {
	inGroupWorld(t, 1, nil, func(t *testing.T, w *groupWorld) {
		g := w.l.Group("group")
		require.NoError(t, g.Reset(ctx, map[TopicPartition]Offset{{"topic", 0}: Earliest}))
		beyond := -1
		if math.MaxInt > math.MaxInt32 {
			beyond <<= 32
		}
		for _, number := range []int{-1, beyond, -beyond} {
			if number == 1 {
				continue // of 32 bits there is none beyond
			}
			require.NoError(t, g.DeleteOffsets(ctx, TopicPartition{"topic", number}))
			at, err := w.l.committed(ctx, "group", []TopicPartition{{"topic", number}})
			require.NoError(t, err)
			require.Empty(t, at)
		}
		require.Equal(t, Offset(0), w.committed(0))
	})
}

// TestResetIsAllOrNothing: also where a partition takes nothing any more.
func TestResetIsAllOrNothing(t *testing.T) {
	inGroupWorld(t, 2, nil, func(t *testing.T, w *groupWorld) {
		w.send("topic")
		top, err := w.l.Topic("topic")
		require.NoError(t, err)
		failed, err := top.Partition(1)
		require.NoError(t, err)
		failed.mu.Lock()
		failed.fail(fmt.Errorf("no more"))
		failed.mu.Unlock()
		err = w.l.Group("group").Reset(ctx, map[TopicPartition]Offset{{"topic", 0}: 1, {"topic", 1}: 1})
		require.ErrorIs(t, err, ErrPartitionFailed)
		require.Equal(t, NoOffset, w.committed(0))
		_, err = w.l.Group("group").Describe(ctx)
		require.ErrorIs(t, err, ErrGroupNotFound)
	})
}

// TestResetBesideATopicMadeAgain: an offset of the topic before is no offset of the one of that
// name now, and no other partition is reset then either.
func TestResetBesideATopicMadeAgain(t *testing.T) {
	inGroupWorld(t, 1, nil, func(t *testing.T, w *groupWorld) {
		w.topic("other", 1)
		w.send("topic")
		to := make(map[*Partition]Offset)
		for _, name := range []string{"other", "topic"} {
			p, err := w.l.partition(TopicPartition{name, 0})
			require.NoError(t, err)
			to[p] = p.Bounds().End
		}
		require.NoError(t, w.l.DeleteTopic(ctx, "topic"))
		w.topic("topic", 1)
		g := w.l.Group("group")
		require.ErrorIs(t, g.reset(ctx, to), ErrTopicNotFound)
		_, err := g.Describe(ctx)
		require.ErrorIs(t, err, ErrGroupNotFound)
	})
}

// TestWaitingCallsEndWithTheLog: who waits for an answer to a join gets ErrClosed.
func TestWaitingCallsEndWithTheLog(t *testing.T) {
	inGroupWorld(t, 1, &Options{GroupInitialDelay: time.Hour}, func(t *testing.T, w *groupWorld) {
		join := kmsg.NewPtrJoinGroupRequest()
		join.Version, join.Group, join.ProtocolType = 3, "group", "consumer"
		join.SessionTimeoutMillis, join.RebalanceTimeoutMillis = 10_000, 60_000
		p := kmsg.NewJoinGroupRequestProtocol()
		p.Name = "range"
		join.Protocols = append(join.Protocols, p)
		answer := make(chan error, 1)
		go func() {
			_, err := w.l.groupRequest(ctx, groupCaller{clientID: "far"}, join)
			answer <- err
		}()
		letPass(time.Second)
		require.Empty(t, answer)
		require.NoError(t, w.l.Close())
		require.ErrorIs(t, <-answer, ErrClosed)
	})
}

// TestMemberOptionsThatNoGroupTakes are refused at once, not by each Poll.
func TestMemberOptionsThatNoGroupTakes(t *testing.T) {
	inGroupWorld(t, 1, nil, func(t *testing.T, w *groupWorld) {
		_, err := w.l.NewConsumer(&ConsumerOptions{Group: "group", InstanceID: string(make([]byte, 250))})
		require.ErrorIs(t, err, ErrInvalidOptions)
		require.ErrorContains(t, err, "InstanceID")
		var many []Assignor
		for i := range 65 {
			a := RangeAssignor()
			a.Name = fmt.Sprint(i)
			many = append(many, a)
		}
		_, err = w.l.NewConsumer(&ConsumerOptions{Group: "group", Assignors: many})
		require.ErrorIs(t, err, ErrInvalidOptions)
		require.ErrorContains(t, err, "Assignors")
	})
}

// TestPartitionsOfADeletedTopicAreLost: nothing can be committed for them any more.
func TestPartitionsOfADeletedTopicAreLost(t *testing.T) {
	for _, assignor := range []Assignor{CooperativeStickyAssignor(), RangeAssignor()} {
		inGroupWorld(t, 1, nil, func(t *testing.T, w *groupWorld) {
			w.topic("other", 1)
			a := w.join(ConsumerOptions{Topics: []string{"other", "topic"}, Assignors: []Assignor{assignor}})
			w.settle(a)
			a.told()
			require.NoError(t, w.l.DeleteTopic(ctx, "other"))
			w.settle(a)
			require.Contains(t, a.told(), "lost other-0", assignor.Name)
		})
	}
}

// TestCommitOfAPartitionThatHasGone: a commit that waits for its turn while a rebalance gives its
// partition to another member does not take back what that one has committed.
func TestCommitOfAPartitionThatHasGone(t *testing.T) {
	inGroupWorld(t, 2, nil, func(t *testing.T, w *groupWorld) {
		a, b := w.join(ConsumerOptions{ManualCommit: true}), w.join(ConsumerOptions{ManualCommit: true})
		w.settle(a)
		w.send("topic")
		w.settle(a)
		a.committing <- struct{}{} // another commit is under way
		answer := make(chan error, 1)
		go func() {
			answer <- a.CommitTo(ctx, map[TopicPartition]Position{{"topic", 0}: {}, {"topic", 1}: {}})
		}()
		w.settle(a, b)
		w.settle(b)
		require.Len(t, b.handed(), 1)
		require.NoError(t, b.Commit(ctx))
		<-a.committing
		require.ErrorIs(t, <-answer, ErrNotAssigned)
		require.Equal(t, Offset(1), w.committed(b.Assignment()[0].Partition))
		require.Equal(t, NoOffset, w.committed(a.Assignment()[0].Partition), "with an error nothing is committed")
	})
}

// TestLargeCommitThatFailsInTheMidst: of a commit in several batches the first may be there. That is
// in doubt until it is flushed: who asks is not told of it before.
func TestLargeCommitThatFailsInTheMidst(t *testing.T) {
	inGroupWorld(t, 3000, nil, func(t *testing.T, w *groupWorld) {
		at := make(map[TopicPartition]Position)
		for i := range 3000 {
			at[TopicPartition{"topic", i}] = Position{Metadata: strings.Repeat("x", maxCommitMetadata)}
		}
		require.NoError(t, w.l.Group("group").Reset(ctx, map[TopicPartition]Offset{{"topic", 2999}: 0}))
		heal := w.fs.Add(errfs.Rule{Kind: errfs.Write, Decide: func(op errfs.Op) error {
			if strings.Contains(op.Name, offsetsTopic) && op.Off > maxGroupBatch/2 {
				return vfs.ErrNoSpace
			}
			return nil
		}})
		held := make(chan struct{})
		release := w.fs.Add(errfs.Rule{Kind: errfs.Sync, Decide: func(op errfs.Op) error {
			if strings.Contains(op.Name, offsetsTopic) {
				<-held
			}
			return nil
		}})
		req := &kmsg.OffsetCommitRequest{Version: 9, Group: "group", Generation: -1}
		fillCommit(req, at)
		requireAll(t, w.l.commitAs(ctx, groupCaller{}, req), ErrDiskFull, ErrInDoubt)
		answer := make(chan Offset, 1)
		go func() { answer <- w.committed(0) }()
		letPass(time.Second)
		require.Empty(t, answer, "it is not flushed")
		close(held)
		require.Equal(t, Offset(0), <-answer)
		release()
		heal()
		require.NoError(t, w.l.Close())
	})
}
