package group

import (
	"encoding/binary"
	"encoding/hex"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// unhex reads hexadecimal bytes with spaces and lines between them.
func unhex(t testing.TB, s string) []byte {
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	require.NoError(t, err)
	return b
}

// The bytes of every version, field by field, as ConsumerProtocolSubscription.json
// has them.
const (
	fieldsTopics = `00000002 0001 61 0001 62`                    // "a", "b"
	fieldsData   = `00000003 010203`                             // user data
	fieldsNoData = `ffffffff`                                    //
	fieldsOwned  = `00000001 0001 61 00000002 00000000 00000002` // a:0,2
	fieldsGen    = `00000007`                                    //
	fieldsNoRack = `ffff`
	fieldsRack   = `0002 7231` // "r1"
)

// What is written has the version and the order of what Kafka 4.0 writes: topics
// and partitions sorted, no rack.
func TestGoldenSubscription(t *testing.T) {
	m := Member{
		ID: "not in there", Topics: []string{"b", "a", "b"}, Owned: parseParts(t, "a:2,0"), Generation: 7, UserData: []byte{1, 2, 3},
	}
	require.Equal(t, unhex(t, "0003"+fieldsTopics+fieldsData+fieldsOwned+fieldsGen+fieldsNoRack), EncodeSubscription(m))
	require.Equal(t, unhex(t, "0003 00000000 ffffffff 00000000 ffffffff ffff"), EncodeSubscription(Member{Generation: -1}))
}

// Every version is read, and a newer one as the newest that is known.
func TestSubscriptionOfEveryVersion(t *testing.T) {
	topics := []string{"a", "b"}
	owned := parseParts(t, "a:0,2")
	data := []byte{1, 2, 3}
	for _, c := range []struct {
		name, bytes string
		want        Member
	}{
		{"0", "0000" + fieldsTopics + fieldsData, Member{Topics: topics, UserData: data, Generation: -1}},
		{"0, null user data", "0000" + fieldsTopics + fieldsNoData, Member{Topics: topics, Generation: -1}},
		{"1", "0001" + fieldsTopics + fieldsData + fieldsOwned, Member{Topics: topics, UserData: data, Owned: owned, Generation: -1}},
		{"2", "0002" + fieldsTopics + fieldsData + fieldsOwned + fieldsGen, Member{Topics: topics, UserData: data, Owned: owned, Generation: 7}},
		{"3", "0003" + fieldsTopics + fieldsData + fieldsOwned + fieldsGen + fieldsRack, Member{Topics: topics, UserData: data, Owned: owned, Generation: 7}},
		{
			"4, and more than is known", "0004" + fieldsTopics + fieldsData + fieldsOwned + fieldsGen + fieldsNoRack + "abcdef",
			Member{Topics: topics, UserData: data, Owned: owned, Generation: 7},
		},
		{
			"owned twice, in disorder", "0001" + fieldsTopics + fieldsNoData + "00000002 0001 62 00000001 00000001 0001 61 00000003 00000002 00000000 00000002",
			Member{Topics: topics, Owned: parseParts(t, "a:0,2 b:1"), Generation: -1},
		},
		{
			"an impossible generation", "0002" + fieldsTopics + fieldsNoData + fieldsOwned + "80000000",
			Member{Topics: topics, Owned: owned, Generation: -1},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := DecodeSubscription(unhex(t, c.bytes))
			require.NoError(t, err)
			require.Equal(t, c.want, m)
		})
	}
}

// A member of Kafka's StickyAssignor has revoked all when it joins; what it had
// is in its user data, of either version. A member of CooperativeStickyAssignor
// has its generation there, which counts where the subscription has none. Other
// user data tells nothing.
func TestStickyUserData(t *testing.T) {
	had := parseParts(t, "a:2,0")
	owned := parseParts(t, "a:0,2")
	v0, v1 := unhex(t, fieldsOwned), unhex(t, fieldsOwned+"00000005")
	require.Equal(t, v1, EncodeStickyUserData(had, 5))
	require.Equal(t, unhex(t, fieldsOwned+"ffffffff"), EncodeStickyUserData(had, -1))
	require.Equal(t, unhex(t, "00000000 00000005"), EncodeStickyUserData(nil, 5))
	for _, c := range []struct {
		name     string
		m        Member // as joined
		owned    []TopicPartition
		sinceGen int32
	}{
		{"version 1", Member{UserData: v1, Generation: 6}, owned, 5},
		{"version 1, no generation", Member{UserData: unhex(t, fieldsOwned+"ffffffff"), Generation: 6}, owned, -1},
		{"version 0", Member{UserData: v0, Generation: 6}, owned, -1},
		{"it had nothing", Member{UserData: EncodeStickyUserData(nil, 5), Generation: 6}, nil, 5},
		{"what the subscription says is newer", Member{UserData: v1, Owned: parseParts(t, "b:1"), Generation: 6}, parseParts(t, "b:1"), 6},
		{"cooperative, generation in the subscription", Member{UserData: unhex(t, "00000005"), Generation: 6}, nil, 6},
		{"cooperative, generation in the user data", Member{UserData: unhex(t, "00000005"), Generation: -1}, nil, 5},
		{"one byte too few", Member{UserData: v0[:len(v0)-1], Generation: 6}, nil, 6},
		{"one byte too many", Member{UserData: append(slices.Clone(v1), 0), Generation: 6}, nil, 6},
		{"something else", Member{UserData: []byte("rack=7"), Generation: 6}, nil, 6},
		{"no partition's number", Member{UserData: unhex(t, "00000001 0001 61 00000002 00000000 fffffffe"), Generation: 6}, nil, 6},
		{"a count that is not there", Member{UserData: unhex(t, "7fffffff 00000000"), Generation: 6}, nil, 6},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := DecodeSubscription(EncodeSubscription(c.m))
			require.NoError(t, err)
			require.Equal(t, c.m.UserData, m.UserData)
			require.Equal(t, c.owned, m.Owned)
			require.Equal(t, c.sinceGen, m.Generation)
		})
	}
}

func TestGoldenAssignment(t *testing.T) {
	golden := unhex(t, "0003"+fieldsOwned+fieldsData)
	require.Equal(t, golden, EncodeAssignment(parseParts(t, "a:2,0"), []byte{1, 2, 3}))
	require.Equal(t, unhex(t, "0003 00000000 ffffffff"), EncodeAssignment(nil, nil))
	for _, version := range []byte{0, 1, 2, 3, 4} {
		b := slices.Clone(golden)
		b[1] = version
		parts, data, err := DecodeAssignment(b)
		require.NoError(t, err)
		require.Equal(t, parseParts(t, "a:0,2"), parts)
		require.Equal(t, []byte{1, 2, 3}, data)
	}
	parts, data, err := DecodeAssignment(EncodeAssignment(nil, nil))
	require.NoError(t, err)
	require.Empty(t, parts)
	require.Nil(t, data)
}

// What is cut anywhere, has a negative version or partition, or counts what is
// not there is an error, and what it counts is not allocated.
func TestBadProtocolBytes(t *testing.T) {
	whole := unhex(t, "0003"+fieldsTopics+fieldsData+fieldsOwned+fieldsGen+fieldsNoRack)
	for n := range whole {
		_, err := DecodeSubscription(whole[:n])
		require.Error(t, err, "%d bytes", n)
	}
	assignment := unhex(t, "0003"+fieldsOwned+fieldsData)
	for n := range assignment {
		_, _, err := DecodeAssignment(assignment[:n])
		require.Error(t, err, "%d bytes", n)
	}
	for _, bad := range []string{
		"ffff" + fieldsTopics + fieldsData,
		"0001" + fieldsTopics + fieldsData + "00000001 0001 61 00000001 ffffffff",
		"0000 7fffffff 0001 61" + fieldsData,
		"0001" + fieldsTopics + fieldsData + "7fffffff 0001 61",
		"0001" + fieldsTopics + "7fffffff 01",
	} {
		_, err := DecodeSubscription(unhex(t, bad))
		require.ErrorContains(t, err, "read a member's subscription: ", bad)
	}
	for _, bad := range []string{
		"8000" + fieldsOwned + fieldsData,
		"0003 00000001 0001 61 00000001 ffffffff" + fieldsData,
		"0003 00000001 0001 61 7fffffff 00000000" + fieldsData,
	} {
		_, _, err := DecodeAssignment(unhex(t, bad))
		require.ErrorContains(t, err, "read an assignment: ", bad)
	}
	large := binary.BigEndian.AppendUint32([]byte{0, 0}, 1<<16) // as many topics as bytes, all of which are empty
	large = append(large, make([]byte, 1<<16)...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := DecodeSubscription(large)
	runtime.ReadMemStats(&after)
	require.Error(t, err)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(64*len(large)))
}

// What is decoded shares no memory with the bytes.
func TestDecodedIsACopy(t *testing.T) {
	b := EncodeSubscription(Member{Topics: []string{"topic"}, Owned: parseParts(t, "topic:1"), UserData: []byte("data"), Generation: 1})
	m, err := DecodeSubscription(b)
	require.NoError(t, err)
	a := EncodeAssignment(m.Owned, m.UserData)
	got, data, err := DecodeAssignment(a)
	require.NoError(t, err)
	clear(b)
	clear(a)
	require.Equal(t, Member{Topics: []string{"topic"}, Owned: parseParts(t, "topic:1"), UserData: []byte("data"), Generation: 1}, m)
	require.Equal(t, m.Owned, got)
	require.Equal(t, m.UserData, data)
}

// What is written reads the same, sorted and each once.
func TestProtocolRoundTrip(t *testing.T) {
	name := rapid.SampledFrom([]string{"a", "topic", "", strings.Repeat("x", 249)})
	rapid.Check(t, func(t *rapid.T) {
		m := Member{
			Topics:     rapid.SliceOf(name).Draw(t, "topics"),
			Generation: rapid.Int32Range(-1, math.MaxInt32).Draw(t, "generation"),
			Owned: rapid.SliceOf(rapid.Custom(func(t *rapid.T) TopicPartition {
				return TopicPartition{name.Draw(t, "topic"), rapid.Int32Range(0, math.MaxInt32).Draw(t, "partition")}
			})).Draw(t, "owned"),
		}
		want := Member{
			Topics:     slices.Compact(slices.Sorted(slices.Values(m.Topics))),
			Generation: m.Generation,
			Owned:      slices.Compact(slices.SortedFunc(slices.Values(m.Owned), comparePartitions)),
		}
		joined, err := DecodeSubscription(EncodeSubscription(m))
		require.NoError(t, err)
		requireSameMember(t, want, joined)

		eager := Member{Topics: m.Topics, UserData: EncodeStickyUserData(m.Owned, m.Generation), Generation: -1}
		joined, err = DecodeSubscription(EncodeSubscription(eager))
		require.NoError(t, err)
		joined.UserData = nil
		requireSameMember(t, want, joined)

		parts, _, err := DecodeAssignment(EncodeAssignment(m.Owned, nil))
		require.NoError(t, err)
		require.ElementsMatch(t, want.Owned, parts)
	})
}

// requireSameMember takes nil and empty for the same.
func requireSameMember(t require.TestingT, want, got Member) {
	for _, m := range []*Member{&want, &got} {
		m.Topics, m.Owned = append([]string{}, m.Topics...), append([]TopicPartition{}, m.Owned...)
	}
	require.Equal(t, want, got)
}

// FuzzProtocol gives any bytes to both decoders. Stated properties: nothing
// panics; what reads without error, written again, reads the same.
func FuzzProtocol(f *testing.F) {
	f.Add(unhex(f, "0003"+fieldsTopics+fieldsData+fieldsOwned+fieldsGen+fieldsRack))
	f.Add(unhex(f, "0000"+fieldsTopics+"00000017"+fieldsOwned+"00000005"))
	f.Add(unhex(f, "0001"+fieldsTopics+"00000004 00000005"+fieldsOwned))
	f.Add(unhex(f, "0003"+fieldsOwned+fieldsData))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := DecodeSubscription(b); err == nil {
			again, err := DecodeSubscription(EncodeSubscription(m))
			require.NoError(t, err)
			m.Topics = slices.Compact(slices.Sorted(slices.Values(m.Topics)))
			requireSameMember(t, m, again)
		}
		if parts, data, err := DecodeAssignment(b); err == nil {
			again, sameData, err := DecodeAssignment(EncodeAssignment(parts, data))
			require.NoError(t, err)
			require.Equal(t, parts, again)
			require.Equal(t, data, sameData)
		}
	})
}
