package group

import (
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// hexOf joins fields that are written one by one.
func hexOf(fields ...string) string { return strings.ReplaceAll(strings.Join(fields, ""), " ", "") }

func text(s string) string {
	return hex.EncodeToString(append(binary.BigEndian.AppendUint16(nil, uint16(len(s))), s...))
}

func data(b []byte) string {
	return hex.EncodeToString(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
}

// The records have the bytes of Kafka's schemas, in the versions that Kafka 4.0
// writes: OffsetCommitKey 1, OffsetCommitValue 3 or, with an expiry, 1,
// GroupMetadataKey 2, GroupMetadataValue 3.
func TestGoldenRecords(t *testing.T) {
	r := newRig(t)
	golden := func(rec Record, key, value string) {
		t.Helper()
		require.Equal(t, key, hex.EncodeToString(rec.Key))
		require.Equal(t, value, hex.EncodeToString(rec.Value))
	}
	offset := hexOf("0001", text("g"), text("t"), "00000002")
	req := commitRequest("g", 9, "t", 2, 5)
	req.Topics[0].Partitions[0].LeaderEpoch = 7
	req.Topics[0].Partitions[0].Metadata = kmsg.StringPtr("m")
	require.Zero(t, r.commit(false, req))
	golden(r.log[0], offset, hexOf("0003", "0000000000000005", "00000007", text("m"), "0000018bcfe56800"))
	req.Version, req.RetentionTimeMillis = 4, 1000
	require.Zero(t, r.commit(false, req))
	golden(r.log[1], offset, hexOf("0001", "0000000000000005", text("m"), "0000018bcfe56800", "0000018bcfe56be8"))
	r.take(r.c.DeleteTopic("t"))
	golden(r.log[2], offset, "")

	a := r.member(isStatic("i"))
	r.settle(a)
	member := hexOf(text("i-1"), text("i"), text("client"), text("/10.0.0.1"), "0000ea60", "00002710",
		data(subscription("t")), data([]byte("to i-1")))
	golden(r.log[3], hexOf("0002", text("g")), hexOf("0003", text("consumer"), "00000001", text("range"), text("i-1"),
		"0000018bcfe56800", "00000001", member))
	require.Zero(t, a.leave())
	golden(r.log[4], hexOf("0002", text("g")), hexOf("0003", text("consumer"), "00000002", "ffff", "ffff",
		"0000018bcfe56800", "00000000"))
	r.take(r.c.Expire(r.now))
	golden(r.log[5], hexOf("0002", text("g")), "")

	b := r.member(isLocal)
	r.settle(b)
	member = hexOf(text("client-2"), "ffff", text("client"), text("in-process"), "0000ea60", "00002710",
		data(subscription("t")), data([]byte("to client-2")))
	golden(r.log[6], hexOf("0002", text("g")), hexOf("0003", text("consumer"), "00000001", text("range"), text("client-2"),
		"0000018bcfe56800", "00000001", member))
}

// groupValue returns the value of a group with one member, in a version.
func groupValue(version int16) *kmsg.GroupMetadataValue {
	return &kmsg.GroupMetadataValue{
		Version: version, ProtocolType: "consumer", Generation: 4, Protocol: kmsg.StringPtr("range"), Leader: kmsg.StringPtr("a"),
		CurrentStateTimestamp: 99,
		Members: []kmsg.GroupMetadataValueMember{{
			MemberID: "a", InstanceID: kmsg.StringPtr("i"), ClientID: "c", ClientHost: "/h",
			RebalanceTimeoutMillis: 60_000, SessionTimeoutMillis: 10_000, Subscription: subscription("t"), Assignment: []byte("x"),
		}},
	}
}

func groupKey(group string) []byte { return groupTombstone(group).Key }

// All versions of values can be read; where one lacks a field, that is not known.
func TestOlderAndNewerValues(t *testing.T) {
	for version := range int16(5) {
		c := New(DefaultConfig())
		require.NoError(t, c.Apply(Record{groupKey("g"), groupValue(version).AppendTo(nil)}, 1))
		g := c.groups["g"]
		require.Equal(t, int32(4), g.generation)
		require.Equal(t, stable, g.state)
		m := g.byID["a"]
		require.Equal(t, "x", string(m.assignment))
		require.Equal(t, version >= 3, m.instance == "i")
		require.Equal(t, version >= 2, g.since == 99)
		if version == 0 {
			require.Equal(t, 10*time.Second, m.rebalance)
		} else {
			require.Equal(t, time.Minute, m.rebalance)
		}

		value := kmsg.OffsetCommitValue{
			Version: version, Offset: 5, LeaderEpoch: 3, Metadata: "m",
			CommitTimestamp: 7, ExpireTimestamp: 8, TopicID: [16]byte{1},
		}
		require.NoError(t, c.Apply(Record{offsetKey("h", "t", 0), value.AppendTo(nil)}, 2))
		o := c.groups["h"].offsets["t"][0]
		require.Equal(t, int64(5), o.offset)
		require.Equal(t, version >= 3, o.epoch == 3)
		require.Equal(t, version < 3, o.epoch == -1)
		require.Equal(t, version == 1, o.expires == 8)
		require.Equal(t, version != 1, o.expires == -1)
	}
}

// A record that cannot be read is an error that names it, and changes nothing;
// a key of a version that is not known is passed over.
func TestUnreadableRecords(t *testing.T) {
	change := func(f func(*kmsg.GroupMetadataValue)) []byte {
		v := groupValue(3)
		f(v)
		return v.AppendTo(nil)
	}
	c := New(DefaultConfig())
	require.NoError(t, c.Apply(Record{groupKey("g"), groupValue(3).AppendTo(nil)}, 1))
	r := &rig{t: t, c: c}
	before := r.dump()
	second := groupValue(3).Members[0]
	for name, test := range map[string]struct {
		rec  Record
		want string
	}{
		"no key":             {Record{nil, []byte{1}}, "a key of 0 bytes"},
		"half a version":     {Record{[]byte{0}, nil}, "a key of 1 bytes"},
		"cut offset key":     {Record{offsetKey("g", "t", 0)[:5], nil}, "key of an offset"},
		"cut group key":      {Record{groupKey("g")[:4], nil}, "key of a group"},
		"empty value":        {Record{groupKey("g"), []byte{}}, `group "g": a value of 0 bytes`},
		"cut value":          {Record{groupKey("g"), groupValue(3).AppendTo(nil)[:70]}, `group "g": `},
		"newer value":        {Record{groupKey("g"), []byte{0, 5}}, "a value of version 5"},
		"older value":        {Record{groupKey("g"), []byte{0xff, 0xff}}, "a value of version -1"},
		"empty offset":       {Record{offsetKey("g", "t", 3), []byte{}}, "t-3: a value of 0 bytes"},
		"newer offset":       {Record{offsetKey("g", "t", 3), []byte{0, 5}}, "a value of version 5"},
		"cut offset":         {Record{offsetKey("g", "t", 3), []byte{0, 3, 0}}, "t-3: "},
		"too many members":   {Record{groupKey("g"), hugeCount(3)}, "cut short"},
		"too many, flexible": {Record{groupKey("g"), hugeCount(4)}, "cut short"},
		"too many tags":      {Record{groupKey("g"), hugeTags()}, "cut short"},
		"generation":         {Record{groupKey("g"), change(func(v *kmsg.GroupMetadataValue) { v.Generation = -1 })}, "generation -1"},
		"no protocol":        {Record{groupKey("g"), change(func(v *kmsg.GroupMetadataValue) { v.Protocol = nil })}, "without a protocol"},
		"no type":            {Record{groupKey("g"), change(func(v *kmsg.GroupMetadataValue) { v.ProtocolType = "" })}, "without a protocol"},
		"no id":              {Record{groupKey("g"), change(func(v *kmsg.GroupMetadataValue) { v.Members[0].MemberID = "" })}, `member id ""`},
		"an id twice":        {Record{groupKey("g"), change(func(v *kmsg.GroupMetadataValue) { v.Members = append(v.Members, second) })}, `member id "a"`},
		"an instance twice": {Record{groupKey("g"), change(func(v *kmsg.GroupMetadataValue) {
			v.Members = append(v.Members, second)
			v.Members[1].MemberID = "b"
		})}, `instance id "i"`},
	} {
		err := c.Apply(test.rec, 17)
		require.ErrorContains(t, err, test.want, name)
		require.ErrorContains(t, err, "offset 17", name)
		require.Equal(t, before, r.dump(), name)
	}
	for _, version := range []byte{3, 4, 5, 15, 0x7f} {
		require.NoError(t, c.Apply(Record{[]byte{0, version}, []byte{1, 2, 3}}, 1))
		require.NoError(t, c.Apply(Record{[]byte{0xff, version}, nil}, 1))
	}
	require.Equal(t, before, r.dump())
}

// hugeCount is a value that claims more members than its bytes can hold.
func hugeCount(version int16) []byte {
	v := groupValue(version)
	v.Members = nil
	b := v.AppendTo(nil)
	if version < 4 {
		return append(binary.BigEndian.AppendUint32(b[:len(b)-4], 100_000), make([]byte, 100_000)...)
	}
	return append(binary.AppendUvarint(b[:len(b)-2], 100_001), make([]byte, 100_000)...)
}

// hugeTags is a value that claims billions of tags.
func hugeTags() []byte {
	b := groupValue(4).AppendTo(nil)
	return append(b[:len(b)-1], 0xff, 0xff, 0xff, 0xff, 0x07)
}

// Once a coordinator is loaded, a group's record has to be the one that it
// waits for.
func TestRecordThatDoesNotFollow(t *testing.T) {
	r := newRig(t)
	a := r.member()
	r.settle(a)
	before := r.dump()
	for _, v := range []*kmsg.GroupMetadataValue{groupValue(3), {Version: 3, Generation: 1}} {
		require.ErrorContains(t, r.c.Apply(Record{groupKey("g"), v.AppendTo(nil)}, 9), "does not follow")
	}
	require.ErrorContains(t, r.c.Apply(groupTombstone("g"), 9), "has 1 members")
	require.Equal(t, before, r.dump())
	require.NoError(t, r.c.Apply(Record{groupKey("h"), (&kmsg.GroupMetadataValue{Version: 3, Generation: 6}).AppendTo(nil)}, 9))
	require.Equal(t, int32(6), r.c.groups["h"].generation)
}
