package riffle

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rifflelog/riffle/internal/group"
	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// failOffsets fails all operations of a kind on files of the topic of committed offsets.
func (w *groupWorld) failOffsets(kind errfs.Kind, err error) (heal func()) {
	return w.fs.Add(errfs.Rule{Kind: kind, Decide: func(op errfs.Op) error {
		if strings.Contains(op.Name, offsetsTopic) {
			return err
		}
		return nil
	}})
}

// offsetsFile is where the offsets of "group" are.
func (w *groupWorld) offsetsFile() string {
	return filepath.Join("/data", fmt.Sprintf("%s-%d", offsetsTopic, groupPartition("group", offsetsPartitions)), fmt.Sprintf("%020d.log", 0))
}

// TestCoordinatorOnAFullDisk: commits and joins are ErrDiskFull, members read on, nobody spins;
// with space again they go on by themselves, and nothing acknowledged is lost.
func TestCoordinatorOnAFullDisk(t *testing.T) {
	inGroupWorld(t, 2, nil, func(t *testing.T, w *groupWorld) {
		a := w.join(ConsumerOptions{ManualCommit: true})
		w.settle(a)
		w.send("topic")
		w.settle(a)
		require.NoError(t, a.Commit(ctx))
		w.send("topic")
		w.settle(a)
		require.Len(t, a.handed(), 4)
		heal := w.failOffsets(errfs.Write, vfs.ErrNoSpace)
		require.ErrorIs(t, a.Commit(ctx), ErrDiskFull)
		require.Equal(t, Offset(1), w.committed(0))
		require.ErrorIs(t, w.l.Group("new").Reset(ctx, map[TopicPartition]Offset{{"topic", 0}: Earliest}), ErrDiskFull)
		require.NoError(t, a.poll(), "a commit is its caller's")

		b := w.join(ConsumerOptions{ManualCommit: true})
		var failed []error
		for range 4 {
			failed = append(failed, b.poll(), a.poll())
		}
		err := errors.Join(failed...)
		require.ErrorIs(t, err, ErrDiskFull)
		w.send("topic")
		ops := w.fs.Ops()
		began := time.Now()
		errs := 0
		for time.Since(began) < 10*time.Second {
			for _, m := range []*worldMember{a, b} {
				if err := m.poll(); err != nil {
					require.ErrorIs(t, err, ErrDiskFull)
					errs++
				}
			}
		}
		require.NotZero(t, errs)
		require.Less(t, errs, 50, "in ten seconds")
		require.Less(t, w.fs.Ops()-ops, int64(2000))
		require.Len(t, a.handed(), 2, "it reads on")
		heal()
		letPass(2 * time.Second)
		w.settle(a, b)
		w.settle(a, b)
		require.Equal(t, GroupStable, w.describe("group").State)
		require.Len(t, append(a.Assignment(), b.Assignment()...), 2)
		require.Equal(t, Offset(1), w.committed(0))
		w.settle(a, b)
		require.NoError(t, a.Commit(ctx))
		require.NoError(t, b.Commit(ctx))
		require.Equal(t, Offset(3), w.committed(0))
		require.Equal(t, Offset(3), w.committed(1))
	})
}

// TestCommitsUseTheReserve: below DiskReserve users' appends fail, and commits do not, nor does
// the deletion of a topic that has offsets.
func TestCommitsUseTheReserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memfs.New()
		mem.SetFree(200 << 20)
		l := openAt(t, mem, "/data", nil)
		p := partOf(t, l, "topic", nil)
		appendValues(t, p, 0, 10)
		g := l.Group("group")
		require.NoError(t, g.Reset(ctx, map[TopicPartition]Offset{p.name(): 3}))
		mem.SetFree(10 << 20)
		letPass(creditTime + time.Millisecond) // it is looked at anew
		_, err := p.Append(ctx, Record{})
		require.ErrorIs(t, err, ErrDiskFull)
		require.NoError(t, g.Reset(ctx, map[TopicPartition]Offset{p.name(): 5}))
		mem.SetFree(0)
		require.NoError(t, g.Reset(ctx, map[TopicPartition]Offset{p.name(): 7}))
		require.NoError(t, l.DeleteTopic(ctx, "topic"))
		_, err = g.Progress(ctx)
		require.ErrorIs(t, err, ErrGroupNotFound, "it had nothing else")
	})
}

// TestCoordinatorOffline: a failed flush of the offsets takes their partition offline. What was
// acknowledged is still known, commits and joins are ErrPartitionFailed, members read on, and
// other groups, in other partitions, do not notice.
func TestCoordinatorOffline(t *testing.T) {
	for _, kind := range []errfs.Kind{errfs.Sync, errfs.Write} {
		inGroupWorld(t, 2, nil, func(t *testing.T, w *groupWorld) {
			var other string
			for i := 0; groupPartition(other, offsetsPartitions) == groupPartition("group", offsetsPartitions) || i == 0; i++ {
				other = fmt.Sprint("other", i)
			}
			a, b := w.join(ConsumerOptions{ManualCommit: true}), w.join(ConsumerOptions{Group: other, ManualCommit: true})
			w.settle(a, b)
			w.send("topic")
			w.settle(a, b)
			require.NoError(t, a.Commit(ctx))
			w.send("topic")
			w.settle(a, b)
			require.Len(t, a.handed(), 4)
			heal := w.failOffsets(kind, errfs.ErrInjected)
			err := a.Commit(ctx)
			requireAll(t, err, ErrPartitionFailed, ErrInDoubt)
			heal()
			require.ErrorIs(t, a.Commit(ctx), ErrPartitionFailed)
			require.NoError(t, b.Commit(ctx))
			require.Equal(t, Offset(1), w.committed(0))
			w.send("topic")
			errs := 0
			for range 1000 {
				if err := a.poll(); err != nil {
					require.ErrorIs(t, err, ErrPartitionFailed)
					errs++
				}
			}
			require.Len(t, a.handed(), 2)
			require.Less(t, errs, 10)
			c := w.join(ConsumerOptions{})
			var failed error
			for range 4 {
				failed = errors.Join(failed, a.poll(), c.poll())
			}
			require.ErrorIs(t, failed, ErrPartitionFailed)
			require.NoError(t, c.Close())
			require.ErrorIs(t, w.l.DeleteTopic(ctx, "topic"), ErrPartitionFailed, "its offsets would stay")
			require.NoError(t, a.Close(), "nothing of it is to be committed")
		})
	}
}

// TestDroppedCoordinatorLosesNothing: what a coordinator had appended when it was dropped, and was
// not committed yet, the next one knows.
func TestDroppedCoordinatorLosesNothing(t *testing.T) {
	inGroupWorld(t, 1, nil, func(t *testing.T, w *groupWorld) {
		a := w.join(ConsumerOptions{ManualCommit: true})
		w.settle(a)
		for range 5 {
			w.send("topic")
		}
		w.settle(a)
		arrived, release := w.fs.Block(errfs.Rule{Kind: errfs.Sync, Name: w.offsetsFile(), Times: 1})
		done := make(chan error, 1)
		go func() { done <- a.Commit(ctx) }() // it waits for its flush
		<-arrived
		heal := w.failOffsets(errfs.Write, vfs.ErrNoSpace)
		require.NoError(t, a.Close()) // the group's record cannot be written
		heal()
		time.AfterFunc(time.Second, release)
		require.Equal(t, Offset(5), w.committed(0), "it is in the log")
		require.NoError(t, <-done)
	})
}

// TestForeignRecordsInTheOffsets: keys of versions that are not known are passed over, what cannot
// be decoded is told, and the rest counts.
func TestForeignRecordsInTheOffsets(t *testing.T) {
	fsys, dir := testDir(t)
	l, err := open(fsys, dir, nil)
	require.NoError(t, err)
	p := partOf(t, l, "topic", nil)
	appendValues(t, p, 0, 10)
	g := l.Group("group")
	require.NoError(t, g.Reset(ctx, map[TopicPartition]Offset{p.name(): 3}))
	offsets, err := l.Topic(offsetsTopic)
	require.NoError(t, err)
	of, err := offsets.Partition(groupPartition("group", offsetsPartitions))
	require.NoError(t, err)
	key := kmsg.OffsetCommitKey{Version: 1, Group: "group", Topic: "topic"}
	for _, r := range []Record{
		{Key: []byte{}, Value: []byte{1}},
		{Key: []byte{0}, Value: []byte{1}},
		{Key: []byte{0, 99, 1, 2, 3}, Value: []byte{1}},
		{Key: []byte{0, 1, 255, 255}, Value: []byte{0, 3}},
		{Key: key.AppendTo(nil), Value: []byte{0, 99}},
		{Key: key.AppendTo(nil), Value: []byte{}},
		{Key: []byte("\x00\x02\x00\x05group"), Value: []byte("\x00\x03\x7f\xff\xff\xff\xff\xff\xff\xff")},
	} {
		b, err := new(encoder).encode([]Record{r}, offsets.config(), 1)
		require.NoError(t, err)
		_, err = of.append(ctx, b, 1)
		require.NoError(t, err)
	}
	require.NoError(t, l.Close())
	l = openAt(t, fsys, dir, nil)
	list, err := l.Group("group").Progress(ctx)
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.Equal(t, Offset(3), list[0].Committed.Offset)
	require.NoError(t, l.Group("group").Reset(ctx, map[TopicPartition]Offset{{"topic", 0}: 4}))
}

// TestDamagedOffsets: a group whose offsets cannot be read is ErrCorrupt; nothing is guessed, and
// other groups go on.
func TestDamagedOffsets(t *testing.T) {
	mem := memfs.New()
	l, err := open(mem, "/data", nil)
	require.NoError(t, err)
	p := partOf(t, l, "topic", nil)
	appendValues(t, p, 0, 10)
	for i := range 5 {
		require.NoError(t, l.Group("group").Reset(ctx, map[TopicPartition]Offset{p.name(): Offset(i)}))
		require.NoError(t, l.Group("other").Reset(ctx, map[TopicPartition]Offset{p.name(): Offset(i)}))
	}
	require.NotEqual(t, groupPartition("group", offsetsPartitions), groupPartition("other", offsetsPartitions))
	require.NoError(t, l.Close())
	name := filepath.Join("/data", fmt.Sprintf("%s-%d", offsetsTopic, groupPartition("group", offsetsPartitions)), fmt.Sprintf("%020d.log", 0))
	f, err := mem.OpenWrite(name)
	require.NoError(t, err)
	b := make([]byte, 1)
	_, err = f.ReadAt(b, 80)
	require.NoError(t, err)
	b[0] ^= 0x40
	_, err = f.WriteAt(b, 80)
	require.NoError(t, err)
	require.NoError(t, f.Close())

	l = openAt(t, mem, "/data", nil)
	_, err = l.Group("group").Progress(ctx)
	require.ErrorIs(t, err, ErrCorrupt)
	require.ErrorIs(t, l.Group("group").Reset(ctx, map[TopicPartition]Offset{{"topic", 0}: 4}), ErrCorrupt)
	c, err := l.NewConsumer(&ConsumerOptions{Group: "group", Topics: []string{"topic"}})
	require.NoError(t, err)
	_, err = c.Poll(ctx)
	require.ErrorIs(t, err, ErrCorrupt)
	require.NoError(t, c.Close())
	list, err := l.Group("other").Progress(ctx)
	require.NoError(t, err)
	require.Equal(t, Offset(4), list[0].Committed.Offset)
}

// TestOffsetsExpire: what a group has committed is kept while it has members, and for 7 days after
// the last one left; then the group is gone.
func TestOffsetsExpire(t *testing.T) {
	inGroupWorld(t, 1, nil, func(t *testing.T, w *groupWorld) {
		day := 24 * time.Hour
		a := w.join(ConsumerOptions{MaxPollInterval: Forever, ManualCommit: true})
		w.settle(a)
		w.send("topic")
		w.settle(a)
		require.NoError(t, a.Commit(ctx))
		require.NoError(t, w.l.Group("simple").Reset(ctx, map[TopicPartition]Offset{{"topic", 0}: 1}))
		letPass(6 * day)
		require.Len(t, slices.Collect(w.l.Groups()), 2)
		letPass(day + expireInterval)
		names := slices.Collect(w.l.Groups())
		require.Len(t, names, 1, "the one without members")
		require.Equal(t, "group", names[0].Name())
		require.Equal(t, Offset(1), w.committed(0))
		require.NoError(t, a.Close())
		letPass(7*day - expireInterval)
		require.Equal(t, Offset(1), w.committed(0))
		letPass(2 * expireInterval)
		require.Equal(t, NoOffset, w.committed(0))
		_, err := w.l.Group("group").Describe(ctx)
		require.ErrorIs(t, err, ErrGroupNotFound)
	})
}

// foreign asks as a member of another process does.
func (w *groupWorld) foreign(req kmsg.Request) kmsg.Response {
	w.t.Helper()
	short, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	resp, err := w.l.groupRequest(short, groupCaller{clientID: "far", host: "/10.0.0.1", node: nodeAddress{7, "here", 9092}}, req)
	require.NoError(w.t, err)
	return resp
}

// TestGroupRequests: each of Kafka's requests about groups, as it will come by the wire; those about
// several groups are of several coordinators.
func TestGroupRequests(t *testing.T) {
	inGroupWorld(t, 2, nil, func(t *testing.T, w *groupWorld) {
		find := &kmsg.FindCoordinatorRequest{Version: 4, CoordinatorKeys: []string{"a", "b"}}
		found := w.foreign(find).(*kmsg.FindCoordinatorResponse)
		require.Len(t, found.Coordinators, 2)
		require.Equal(t, "b", found.Coordinators[1].Key)
		require.Equal(t, int32(7), found.Coordinators[1].NodeID)
		find = &kmsg.FindCoordinatorRequest{Version: 3, CoordinatorKey: "a"}
		require.Equal(t, int32(9092), w.foreign(find).(*kmsg.FindCoordinatorResponse).Port)
		find.CoordinatorType = 1
		require.Equal(t, codeInvalidRequest, w.foreign(find).(*kmsg.FindCoordinatorResponse).ErrorCode)

		// Before any group has been used.
		require.Empty(t, w.foreign(&kmsg.ListGroupsRequest{Version: 5}).(*kmsg.ListGroupsResponse).Groups)
		names := []string{"g0", "g1", "g2", "g3", "g1"}
		for _, g := range w.foreign(&kmsg.DescribeGroupsRequest{Version: 5, Groups: names}).(*kmsg.DescribeGroupsResponse).Groups {
			require.Equal(t, "Dead", g.State)
		}
		for _, g := range w.foreign(&kmsg.DeleteGroupsRequest{Version: 2, Groups: names}).(*kmsg.DeleteGroupsResponse).Groups {
			require.Equal(t, codeGroupNotFound, g.ErrorCode)
		}
		beat := &kmsg.HeartbeatRequest{Version: 4, Group: "g0", MemberID: "x"}
		require.Equal(t, codeUnknownMember, w.foreign(beat).(*kmsg.HeartbeatResponse).ErrorCode)
		_, err := w.l.Topic(offsetsTopic)
		require.ErrorIs(t, err, ErrTopicNotFound, "nothing is made for that")

		for i, name := range names[:4] {
			req := &kmsg.OffsetCommitRequest{Version: 9, Group: name, Generation: -1}
			fillCommit(req, map[TopicPartition]Position{{"topic", 0}: {Offset: Offset(i)}, {"topic", 5}: {}, {"none", 0}: {}})
			resp := w.foreign(req).(*kmsg.OffsetCommitResponse)
			require.Equal(t, codeUnknownTopic, resp.Topics[0].Partitions[0].ErrorCode)
			require.Equal(t, codeNone, resp.Topics[1].Partitions[0].ErrorCode)
			require.Equal(t, codeUnknownTopic, resp.Topics[1].Partitions[1].ErrorCode)
		}
		fetch := &kmsg.OffsetFetchRequest{Version: 9}
		for _, name := range names {
			fetch.Groups = append(fetch.Groups, kmsg.OffsetFetchRequestGroup{Group: name})
		}
		got := w.foreign(fetch).(*kmsg.OffsetFetchResponse)
		for i, want := range []int64{0, 1, 2, 3, 1} {
			require.Equal(t, names[i], got.Groups[i].Group)
			require.Equal(t, want, got.Groups[i].Topics[0].Partitions[0].Offset)
		}
		old := &kmsg.OffsetFetchRequest{Version: 7, Group: "g3"}
		require.Equal(t, int64(3), w.foreign(old).(*kmsg.OffsetFetchResponse).Topics[0].Partitions[0].Offset)
		list := w.foreign(&kmsg.ListGroupsRequest{Version: 5}).(*kmsg.ListGroupsResponse)
		require.Len(t, list.Groups, 4)
		require.Equal(t, "g2", list.Groups[2].Group)
		for i, g := range w.foreign(&kmsg.DescribeGroupsRequest{Version: 5, Groups: names}).(*kmsg.DescribeGroupsResponse).Groups {
			require.Equal(t, names[i], g.Group)
			require.Equal(t, "Empty", g.State)
		}
		forget := &kmsg.OffsetDeleteRequest{Group: "g3", Topics: []kmsg.OffsetDeleteRequestTopic{{
			Topic: "topic", Partitions: []kmsg.OffsetDeleteRequestTopicPartition{{Partition: 0}},
		}}}
		require.Equal(t, codeNone, w.foreign(forget).(*kmsg.OffsetDeleteResponse).ErrorCode)
		require.Empty(t, w.foreign(old).(*kmsg.OffsetFetchResponse).Topics)
		deleted := w.foreign(&kmsg.DeleteGroupsRequest{Version: 2, Groups: []string{"g0", "x", "g1"}}).(*kmsg.DeleteGroupsResponse)
		require.Equal(t, codeNone, deleted.Groups[0].ErrorCode)
		require.Equal(t, codeGroupNotFound, deleted.Groups[1].ErrorCode)
		require.Equal(t, codeNone, deleted.Groups[2].ErrorCode)
		require.Len(t, w.foreign(&kmsg.ListGroupsRequest{Version: 5}).(*kmsg.ListGroupsResponse).Groups, 1, "g3 had nothing else")
	})
}

// TestForeignMember: a member that comes by Kafka's protocol shares a group with ours; its session
// rules it, and ours are woken.
func TestForeignMember(t *testing.T) {
	inGroupWorld(t, 2, nil, func(t *testing.T, w *groupWorld) {
		join := kmsg.NewPtrJoinGroupRequest()
		join.Version, join.Group, join.ProtocolType = 9, "group", "consumer"
		join.SessionTimeoutMillis, join.RebalanceTimeoutMillis = 10_000, 60_000
		p := kmsg.NewJoinGroupRequestProtocol()
		p.Name, p.Metadata = "range", group.EncodeSubscription(group.Member{Topics: []string{"topic"}, Generation: -1})
		join.Protocols = append(join.Protocols, p)
		first := w.foreign(join).(*kmsg.JoinGroupResponse)
		require.Equal(t, codeMemberIDRequired, first.ErrorCode)
		join.MemberID = first.MemberID
		a := w.join(ConsumerOptions{Assignors: []Assignor{RangeAssignor()}})
		w.settle(a)
		answer := make(chan kmsg.Response, 1)
		go func() { answer <- w.foreign(join) }()
		w.settle(a)
		resp := (<-answer).(*kmsg.JoinGroupResponse)
		require.Equal(t, codeNone, resp.ErrorCode)
		sync := kmsg.NewPtrSyncGroupRequest()
		sync.Version, sync.Group, sync.Generation, sync.MemberID = 5, "group", resp.Generation, resp.MemberID
		synced := w.foreign(sync).(*kmsg.SyncGroupResponse)
		parts, _, err := group.DecodeAssignment(synced.MemberAssignment)
		require.NoError(t, err)
		require.Len(t, parts, 1)
		w.settle(a)
		require.Len(t, a.Assignment(), 1)
		beat := &kmsg.HeartbeatRequest{Version: 4, Group: "group", Generation: resp.Generation, MemberID: resp.MemberID}
		for range 3 {
			letPass(9 * time.Second)
			require.Equal(t, codeNone, w.foreign(beat).(*kmsg.HeartbeatResponse).ErrorCode)
		}
		d := w.describe("group")
		require.Len(t, d.Members, 2)
		require.ElementsMatch(t, []string{"/10.0.0.1", "in-process"}, []string{d.Members[0].Host, d.Members[1].Host})
		letPass(11 * time.Second)
		w.settle(a)
		require.Len(t, a.Assignment(), 2)
		require.Equal(t, codeUnknownMember, w.foreign(beat).(*kmsg.HeartbeatResponse).ErrorCode)
		leave := &kmsg.LeaveGroupRequest{Version: 5, Group: "group", Members: []kmsg.LeaveGroupRequestMember{{MemberID: resp.MemberID}}}
		require.Equal(t, codeUnknownMember, w.foreign(leave).(*kmsg.LeaveGroupResponse).Members[0].ErrorCode)
	})
}

// TestLargeCommit: what is more than a batch takes is committed, and deleted, in several.
func TestLargeCommit(t *testing.T) {
	const parts = 3000
	l := openAt(t, memfs.New(), "/data", nil)
	_, err := l.CreateTopic(ctx, "topic", &TopicConfig{Partitions: parts, Flush: FlushAsync})
	require.NoError(t, err)
	at := make(map[TopicPartition]Position, parts)
	for i := range parts {
		at[TopicPartition{"topic", i}] = Position{Metadata: strings.Repeat("x", maxCommitMetadata)}
	}
	req := &kmsg.OffsetCommitRequest{Version: 9, Group: "group", Generation: -1}
	fillCommit(req, at)
	require.NoError(t, l.commitAs(ctx, groupCaller{}, req))
	got, err := l.committed(ctx, "group", nil)
	require.NoError(t, err)
	require.Equal(t, at, got)
	require.NoError(t, l.DeleteTopic(ctx, "topic"))
	got, err = l.committed(ctx, "group", nil)
	require.NoError(t, err)
	require.Empty(t, got)
}

// TestGroupPartitionIsKafkas: a group is in the partition in which Kafka looks for it. The hashes are
// Java's String.hashCode.
func TestGroupPartitionIsKafkas(t *testing.T) {
	for name, hash := range map[string]int32{
		"": 0, "a": 97, "Aa": 2112, "BB": 2112, "hello": 99162322, "polygenelubricants": math.MinInt32, "𝄞": 31*0xd834 + 0xdd1e,
	} {
		require.Equal(t, int(hash&math.MaxInt32)%50, groupPartition(name, 50), name)
	}
}
