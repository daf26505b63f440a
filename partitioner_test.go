package riffle

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMurmur2AgreesWithJava has the vectors of Kafka's UtilsTest.testMurmur2.
func TestMurmur2AgreesWithJava(t *testing.T) {
	for key, want := range map[string]int32{
		"21":                         -973932308,
		"foobar":                     -790332482,
		"a-little-bit-long-string":   -985981536,
		"a-little-bit-longer-string": -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
		"abc": 479470107,
	} {
		require.Equal(t, want, int32(murmur2([]byte(key))), key)
	}
}

// TestPartitionForIsStable: a key has one partition, keys spread over all, and no
// key is the first partition.
func TestPartitionForIsStable(t *testing.T) {
	fsys, dir := testDir(t)
	l := openAt(t, fsys, dir, nil)
	topic, err := l.CreateTopic(ctx, "topic", &TopicConfig{Partitions: 7})
	require.NoError(t, err)
	hit := map[int]int{}
	for i := range 700 {
		key := fmt.Appendf(nil, "key-%d", i)
		p := topic.PartitionFor(key)
		require.Same(t, p, topic.PartitionFor(key))
		require.Equal(t, int(murmur2(key)&0x7fffffff)%7, p.Index())
		hit[p.Index()]++
	}
	require.Len(t, hit, 7)
	require.Zero(t, topic.PartitionFor(nil).Index())
	require.Equal(t, int(murmur2(nil)&0x7fffffff)%7, topic.PartitionFor([]byte{}).Index(), "an empty key is a key")
}
