package riffle

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestConfigKeysRoundTrip prints every field under Kafka's key and reads it
// back, and refuses what no version of ours wrote.
func TestConfigKeysRoundTrip(t *testing.T) {
	cfg := TopicConfig{
		Flush: FlushBeforeAck, FlushInterval: 1500 * time.Millisecond, Compression: CompressionSnappy,
		TimestampType: LogAppendTime, MaxMessageBytes: 1 << 20, SegmentBytes: 1 << 30, SegmentAge: time.Minute,
		Cleanup: CleanupCompactDelete, Retention: time.Hour, RetentionBytes: 1 << 40, MinCleanableRatio: 0.25,
		DeleteRetention: time.Second, MinCompactionLag: 2 * time.Second, MaxCompactionLag: 3 * time.Second,
	}
	want := map[string]string{
		"riffle.flush": "before-ack", "flush.ms": "1500", "compression.type": "snappy",
		"message.timestamp.type": "LogAppendTime", "max.message.bytes": "1048576",
		"segment.bytes": "1073741824", "segment.ms": "60000",
		"cleanup.policy": "compact,delete", "retention.ms": "3600000", "retention.bytes": "1099511627776",
		"min.cleanable.dirty.ratio": "0.25", "delete.retention.ms": "1000",
		"min.compaction.lag.ms": "2000", "max.compaction.lag.ms": "3000",
	}
	require.Equal(t, want, cfg.configMap())
	var back TopicConfig
	require.NoError(t, back.setConfigMap(want))
	require.Equal(t, cfg, back)
	require.Len(t, want, len(configKeys))
	require.Empty(t, (&TopicConfig{}).configMap())
	require.Equal(t, cfg, TopicConfig{}.over(cfg), "every field is taken from the defaults")
	over := cfg.over(builtin())
	over.Partitions = 0
	require.Equal(t, cfg, over, "none that is set")

	// Neither of those that are left out here by intention is taken for one that does something.
	for _, key := range []string{"segment.jitter.ms", "flush.messages"} {
		err := back.setConfigMap(map[string]string{key: "1"})
		require.ErrorIs(t, err, errors.ErrUnsupported)
		require.ErrorContains(t, err, key)
	}
}

// TestConfigValues shows Kafka's ways to say a value, and how it is printed:
// "no limit", zeros, lists in any order.
func TestConfigValues(t *testing.T) {
	for _, c := range []struct {
		key, value string
		want       TopicConfig
		printed    string
	}{
		{"compression.type", "none", TopicConfig{Compression: CompressionNone}, "uncompressed"},
		{"flush.ms", "9223372036854775807", TopicConfig{FlushInterval: Forever}, "9223372036854775807"},
		{"retention.ms", "-1", TopicConfig{Retention: Forever}, "-1"},
		{"retention.ms", "9223372036854775807", TopicConfig{Retention: Forever}, "-1"},
		{"retention.ms", "0", TopicConfig{Retention: kafkaZero}, "0"},
		{"delete.retention.ms", " 0 ", TopicConfig{DeleteRetention: kafkaZero}, "0"},
		{"retention.bytes", "-1", TopicConfig{RetentionBytes: NoLimit}, "-1"},
		{"min.cleanable.dirty.ratio", "0", TopicConfig{MinCleanableRatio: math.SmallestNonzeroFloat64}, "0"},
		{"min.cleanable.dirty.ratio", "1", TopicConfig{MinCleanableRatio: 1}, "1"},
		{"cleanup.policy", "delete,compact", TopicConfig{Cleanup: CleanupCompactDelete}, "compact,delete"},
		{"cleanup.policy", "compact, delete,compact", TopicConfig{Cleanup: CleanupCompactDelete}, "compact,delete"},
		{"compression.type", "uncompressed", TopicConfig{Compression: CompressionNone}, "uncompressed"},
		{"cleanup.policy", "compact", TopicConfig{Cleanup: CleanupCompact}, "compact"},
	} {
		var got TopicConfig
		require.NoError(t, got.setConfigMap(map[string]string{c.key: c.value}), "%s=%s", c.key, c.value)
		require.Equal(t, c.want, got, "%s=%s", c.key, c.value)
		require.Empty(t, got.problems(), "%s=%s", c.key, c.value)
		require.Equal(t, map[string]string{c.key: c.printed}, got.configMap(), "%s=%s", c.key, c.value)
	}
	for _, bad := range [][2]string{
		{"compression.type", "brotli"},
		{"compression.type", ""},
		{"cleanup.policy", "delete,shred"},
		{"cleanup.policy", ""},
		{"flush.ms", "soon"},
		{"flush.ms", "-1"},
		{"retention.ms", "-2"},
		{"retention.bytes", "0"},
		{"max.message.bytes", "9223372036854775808"},
		{"min.cleanable.dirty.ratio", "half"},
	} {
		var c TopicConfig
		err := c.setConfigMap(map[string]string{bad[0]: bad[1]})
		require.ErrorContains(t, err, bad[0], "%s=%s", bad[0], bad[1])
		require.Equal(t, TopicConfig{}, c, "%s=%s", bad[0], bad[1])
	}
	nan := TopicConfig{MinCleanableRatio: math.NaN()}
	require.NotEmpty(t, nan.problems())
}

// TestCompactedTopicTakesOnlyKeys: a record without a key could never be
// compacted, so the batch that has one is refused whole. An empty key is a key.
func TestCompactedTopicTakesOnlyKeys(t *testing.T) {
	fsys, dir := testDir(t)
	l := openAt(t, fsys, dir, nil)
	for _, policy := range []CleanupPolicy{CleanupCompact, CleanupCompactDelete} {
		name := map[CleanupPolicy]string{CleanupCompact: "compact", CleanupCompactDelete: "both"}[policy]
		topic, err := l.CreateTopic(ctx, name, &TopicConfig{Cleanup: policy})
		require.NoError(t, err)
		p, err := topic.Partition(0)
		require.NoError(t, err)
		_, err = p.Append(ctx, Record{Key: []byte("a")}, Record{Value: []byte("no key")})
		require.ErrorIs(t, err, ErrInvalidRecord)
		require.ErrorContains(t, err, "record 1")
		require.Zero(t, p.Bounds().End)
		at, err := p.Append(ctx, Record{Key: []byte{}}, Record{Key: []byte("a")})
		require.NoError(t, err)
		require.Zero(t, at)
	}
}
