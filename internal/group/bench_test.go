package group

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// BenchmarkRebalance is 100 members that join and sync again, with an
// assignment of ten partitions to each.
func BenchmarkRebalance(b *testing.B) {
	r := newRig(b)
	var all []*who
	for i := range 100 {
		w := r.member(isLocal, func(w *who) { w.instance = fmt.Sprint("i", i) })
		all = append(all, w)
	}
	r.settle(all...)
	assignment := make([]byte, 10*4+20)
	syncs := make([]*kmsg.SyncGroupRequest, len(all))
	joins := make([]*kmsg.JoinGroupRequest, len(all))
	for i, w := range all {
		joins[i] = w.joinRequest()
		syncs[i] = kmsg.NewPtrSyncGroupRequest()
		syncs[i].Version, syncs[i].Group, syncs[i].MemberID = 5, "g", w.id
	}
	for _, w := range all {
		a := kmsg.NewSyncGroupRequestGroupAssignment()
		a.MemberID, a.MemberAssignment = w.id, assignment
		syncs[0].GroupAssignment = append(syncs[0].GroupAssignment, a)
	}
	at, answers := int64(len(r.log)), 0
	do := func(req kmsg.Request) {
		res := r.c.Handle(Call{Local: true, Request: req}, r.now)
		for _, rec := range res.Records {
			at++
			require.NoError(b, r.c.Apply(rec, at))
		}
		answers += len(res.Answers)
	}
	b.ReportAllocs()
	for b.Loop() {
		for _, req := range joins {
			do(req)
		}
		for i := range syncs {
			req := syncs[len(syncs)-1-i] // the leader last
			req.Generation = r.c.groups["g"].generation
			do(req)
		}
	}
	require.Equal(b, b.N*200, answers)
	require.Equal(b, stable, r.c.groups["g"].state)
}

// manyMembers returns a coordinator with groups of ten members, n in all.
func manyMembers(r *rig, n int) (all []*who) {
	for i := 0; i < n; i += 10 {
		var group []*who
		for range 10 {
			group = append(group, r.member(func(w *who) { w.group, w.version = fmt.Sprint("g", i), 3 }))
		}
		r.settle(group...)
		all = append(all, group...)
	}
	return all
}

// BenchmarkHeartbeat is one of 10,000 members.
func BenchmarkHeartbeat(b *testing.B) {
	r := newRig(b)
	all := manyMembers(r, 10_000)
	reqs := make([]*kmsg.HeartbeatRequest, len(all))
	for i, w := range all {
		reqs[i] = kmsg.NewPtrHeartbeatRequest()
		reqs[i].Version, reqs[i].Group, reqs[i].MemberID, reqs[i].Generation = 4, w.group, w.id, w.generation
	}
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		r.now = r.now.Add(time.Microsecond)
		r.c.Handle(Call{Request: reqs[i%len(reqs)]}, r.now)
		i++
	}
}

// BenchmarkCommit is a commit of one offset, applied.
func BenchmarkCommit(b *testing.B) {
	r := newRig(b)
	w := r.member(isLocal)
	r.settle(w)
	req := commitRequest("g", 9, "t", 0, 5)
	req.MemberID, req.Generation = w.id, w.generation
	at := int64(100)
	b.ReportAllocs()
	for b.Loop() {
		res := r.c.Handle(Call{Local: true, Request: req}, r.now)
		at++
		require.NoError(b, r.c.Apply(res.Records[0], at))
	}
}

// Idle members have timers and nothing else to do: the next one is found, and
// finding that none is due costs nothing, however many there are.
func TestIdleMembersCostNothing(t *testing.T) {
	r := newRig(t)
	manyMembers(r, 1000)
	require.Equal(t, 1000, r.c.timers.Len())
	allocs := testing.AllocsPerRun(100, func() {
		_, ok := r.c.Next()
		require.True(t, ok)
		r.c.Tick(r.now)
	})
	require.LessOrEqual(t, allocs, 1.0)
}
