package group

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"
)

// strange draws requests with fields that clients do not send, among some that
// they do.
type strange struct{ t *rapid.T }

func (x strange) text(more ...string) string {
	return rapid.SampledFrom(append(more, "", "g", "x", "i", "client-1", "client-2", "\xff", strings.Repeat("y", 1<<15))).Draw(x.t, "text")
}

func (x strange) maybe(more ...string) *string {
	if rapid.Bool().Draw(x.t, "none") {
		return nil
	}
	return kmsg.StringPtr(x.text(more...))
}

func (x strange) number() int32 {
	return rapid.SampledFrom([]int32{math.MinInt32, -2, -1, 0, 1, 2, 10_000, math.MaxInt32}).Draw(x.t, "number")
}

func (x strange) bytes() []byte {
	return rapid.SampledFrom([][]byte{nil, {}, {0}, subscription("t"), {0, 0, 0x7f, 0xff, 0xff, 0xff, 0}, {0, 0, 0, 0, 0, 1, 0xff, 0xff}}).Draw(x.t, "bytes")
}

func (x strange) many() int { return rapid.IntRange(0, 2).Draw(x.t, "many") }

// to is the group's name, mostly the one.
func (x strange) to() string { return x.text("g", "g", "g", "g", "g", "g") }

func (x strange) request() kmsg.Request {
	requests := []func() kmsg.Request{x.join, x.join, x.sync, x.heartbeat, x.leave, x.commit, x.fetch, x.others}
	req := rapid.SampledFrom(requests).Draw(x.t, "request")()
	req.SetVersion(int16(rapid.IntRange(0, int(req.MaxVersion())).Draw(x.t, "version")))
	return req
}

func (x strange) join() kmsg.Request {
	r := kmsg.NewPtrJoinGroupRequest()
	r.Group, r.MemberID, r.ProtocolType = x.to(), x.text("", "", ""), x.text("consumer", "consumer", "consumer")
	r.SessionTimeoutMillis = rapid.SampledFrom([]int32{10_000, 10_000, x.number()}).Draw(x.t, "session")
	r.RebalanceTimeoutMillis = x.number()
	if rapid.IntRange(0, 3).Draw(x.t, "static") == 0 {
		r.InstanceID = x.maybe()
	}
	for range x.many() {
		p := kmsg.NewJoinGroupRequestProtocol()
		p.Name, p.Metadata = x.text("range", "range", "range"), x.bytes()
		r.Protocols = append(r.Protocols, p)
	}
	return r
}

func (x strange) sync() kmsg.Request {
	r := kmsg.NewPtrSyncGroupRequest()
	r.Group, r.MemberID, r.Generation = x.to(), x.text(), x.number()
	if rapid.Bool().Draw(x.t, "more") {
		r.InstanceID, r.ProtocolType, r.Protocol = x.maybe(), x.maybe("consumer"), x.maybe("range")
	}
	for range x.many() {
		a := kmsg.NewSyncGroupRequestGroupAssignment()
		a.MemberID, a.MemberAssignment = x.text(), x.bytes()
		r.GroupAssignment = append(r.GroupAssignment, a)
	}
	return r
}

func (x strange) heartbeat() kmsg.Request {
	r := kmsg.NewPtrHeartbeatRequest()
	r.Group, r.MemberID, r.InstanceID, r.Generation = x.to(), x.text(), x.maybe(), x.number()
	return r
}

func (x strange) leave() kmsg.Request {
	r := kmsg.NewPtrLeaveGroupRequest()
	r.Group, r.MemberID = x.to(), x.text()
	for range x.many() {
		m := kmsg.NewLeaveGroupRequestMember()
		m.MemberID, m.InstanceID = x.text(), x.maybe()
		r.Members = append(r.Members, m)
	}
	return r
}

func (x strange) commit() kmsg.Request {
	r := commitRequest(x.to(), 0, x.text("t"), x.number(), int64(x.number()))
	r.MemberID, r.InstanceID, r.Generation, r.RetentionTimeMillis = x.text(), x.maybe(), x.number(), int64(x.number())<<31
	p := &r.Topics[0].Partitions[0]
	p.Metadata, p.LeaderEpoch, p.Timestamp = x.maybe(), x.number(), int64(x.number())<<31
	return r
}

func (x strange) fetch() kmsg.Request {
	r := kmsg.NewPtrOffsetFetchRequest()
	r.Group = x.to()
	for range x.many() {
		t := kmsg.NewOffsetFetchRequestTopic()
		t.Topic, t.Partitions = x.text("t"), []int32{x.number()}
		r.Topics = append(r.Topics, t)
		g := kmsg.NewOffsetFetchRequestGroup()
		g.Group = x.to()
		for range x.many() {
			t := kmsg.NewOffsetFetchRequestGroupTopic()
			t.Topic, t.Partitions = x.text("t"), []int32{x.number()}
			g.Topics = append(g.Topics, t)
		}
		r.Groups = append(r.Groups, g)
	}
	return r
}

func (x strange) others() kmsg.Request {
	switch rapid.IntRange(0, 4).Draw(x.t, "other") {
	case 0:
		r := kmsg.NewPtrOffsetDeleteRequest()
		r.Group = x.to()
		t := kmsg.NewOffsetDeleteRequestTopic()
		t.Topic, t.Partitions = x.text("t"), []kmsg.OffsetDeleteRequestTopicPartition{{Partition: x.number()}}
		r.Topics = append(r.Topics, t)
		return r
	case 1:
		r := kmsg.NewPtrDescribeGroupsRequest()
		r.Groups = []string{x.to(), x.to()}
		return r
	case 2:
		r := kmsg.NewPtrListGroupsRequest()
		r.StatesFilter, r.TypesFilter = []string{x.text("Stable")}, []string{x.text("classic")}
		return r
	case 3:
		r := kmsg.NewPtrDeleteGroupsRequest()
		r.Groups = []string{x.to(), x.to()}
		return r
	}
	return kmsg.NewPtrMetadataRequest()
}

// Whatever fields requests have, and in whatever order they come: nothing
// panics, every call is answered once with bytes that can be sent, what is
// written can be read, and the group is in order.
func TestStrangeRequests(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newRig(t, func(c *Config) {
			ids := 0
			c.MaxSize, c.MaxRecordBytes = 3, 1<<15
			c.NewMemberID = func(string) string { // which clients guess
				ids++
				return rapid.SampledFrom([]string{"client-1", "client-2", "x", "i", ""}).Draw(t, "id")
			}
		})
		for range rapid.IntRange(1, 60).Draw(t, "calls") {
			req := strange{t}.request()
			id := r.call(rapid.IntRange(0, 3).Draw(t, "local") == 0, req)
			if resp := r.answers[id]; resp != nil {
				require.Equal(t, req.GetVersion(), resp.GetVersion())
				require.NotPanics(t, func() { resp.AppendTo(nil) })
			}
			if rapid.IntRange(0, 9).Draw(t, "time") == 0 {
				r.pass(time.Duration(rapid.IntRange(1, 60_000).Draw(t, "ms")) * time.Millisecond)
			}
		}
		before := slices.Clone(r.log)
		r.reload()
		require.Equal(t, before, r.log[:len(before)])
		for id := uint64(1); id <= r.calls; id++ {
			require.Contains(t, r.answers, id)
		}
	})
}
