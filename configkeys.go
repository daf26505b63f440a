package riffle

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// configKey is one field of a TopicConfig under the key and in the words that
// Kafka has for it: what the metadata log stores. An empty string is a field
// left zero.
type configKey struct {
	name string
	get  func(*TopicConfig) string
	set  func(*TopicConfig, string) error // leaves the field alone if it fails
	take func(c, base *TopicConfig)       // takes the field from base if c leaves it zero
}

// configKeys are all fields but Partitions, which is no configuration in Kafka
// either.
var configKeys = []configKey{
	cleanupKey(),
	compressionKey(),
	millisKey("delete.retention.ms", func(c *TopicConfig) *time.Duration { return &c.DeleteRetention }),
	millisKey("flush.ms", func(c *TopicConfig) *time.Duration { return &c.FlushInterval }),
	millisKey("max.compaction.lag.ms", func(c *TopicConfig) *time.Duration { return &c.MaxCompactionLag }),
	bytesKey("max.message.bytes", func(c *TopicConfig) *int { return &c.MaxMessageBytes }),
	enumKey("message.timestamp.type", []string{"", "CreateTime", "LogAppendTime"},
		func(c *TopicConfig) *TimestampType { return &c.TimestampType }),
	ratioKey("min.cleanable.dirty.ratio", func(c *TopicConfig) *float64 { return &c.MinCleanableRatio }),
	millisKey("min.compaction.lag.ms", func(c *TopicConfig) *time.Duration { return &c.MinCompactionLag }),
	bytesKey("retention.bytes", func(c *TopicConfig) *int64 { return &c.RetentionBytes }),
	endlessKey("retention.ms", func(c *TopicConfig) *time.Duration { return &c.Retention }),
	enumKey("riffle.flush", []string{"", "before-ack", "async"}, // ours: Kafka has no such key
		func(c *TopicConfig) *FlushPolicy { return &c.Flush }),
	bytesKey("segment.bytes", func(c *TopicConfig) *int64 { return &c.SegmentBytes }),
	millisKey("segment.ms", func(c *TopicConfig) *time.Duration { return &c.SegmentAge }),
}

// keyOf is a key of a field, whose values are printed and parsed so.
func keyOf[T comparable](name string, field func(*TopicConfig) *T, format func(T) string, parse func(string) (T, error)) configKey {
	var zero T
	return configKey{
		name: name,
		get: func(c *TopicConfig) string {
			if *field(c) == zero {
				return ""
			}
			return format(*field(c))
		},
		set: func(c *TopicConfig, s string) error {
			v, err := parse(strings.TrimSpace(s))
			if err == nil && v == zero {
				err = errors.New("it cannot be said here")
			}
			if err != nil {
				return fmt.Errorf("%s is %q: %w", name, s, err)
			}
			*field(c) = v
			return nil
		},
		take: func(c, base *TopicConfig) {
			if *field(c) == zero {
				*field(c) = *field(base)
			}
		},
	}
}

// bytesKey is a key whose values are a number of bytes.
func bytesKey[T ~int | ~int64](name string, field func(*TopicConfig) *T) configKey {
	return keyOf(name, field,
		func(n T) string { return strconv.FormatInt(int64(n), 10) },
		func(s string) (T, error) {
			n, err := strconv.ParseInt(s, 10, 64)
			if err == nil && int64(T(n)) != n {
				err = strconv.ErrRange
			}
			return T(n), err
		})
}

// millisKey is a key whose values are a number of milliseconds; Kafka's largest
// number is Forever.
func millisKey(name string, field func(*TopicConfig) *time.Duration) configKey {
	return keyOf(name, field, formatMillis, parseMillis)
}

// endlessKey is a millisKey where -1 is Forever.
func endlessKey(name string, field func(*TopicConfig) *time.Duration) configKey {
	return keyOf(name, field,
		func(d time.Duration) string {
			if d == Forever {
				return "-1"
			}
			return formatMillis(d)
		},
		func(s string) (time.Duration, error) {
			if s == "-1" {
				return Forever, nil
			}
			return parseMillis(s)
		})
}

// ratioKey is a key whose values are numbers up to 1.
func ratioKey(name string, field func(*TopicConfig) *float64) configKey {
	return keyOf(name, field,
		func(r float64) string {
			if r == math.SmallestNonzeroFloat64 {
				return "0"
			}
			return strconv.FormatFloat(r, 'g', -1, 64)
		},
		func(s string) (float64, error) {
			r, err := strconv.ParseFloat(s, 64)
			if r == 0 {
				r = math.SmallestNonzeroFloat64 // zero is left to the defaults
			}
			return r, err
		})
}

// enumKey is a key whose values are words, listed by their number.
func enumKey[T ~int](name string, words []string, field func(*TopicConfig) *T) configKey {
	return keyOf(name, field,
		func(v T) string { return words[v] },
		func(s string) (T, error) {
			if i := slices.Index(words, s); i > 0 {
				return T(i), nil
			}
			return 0, fmt.Errorf("want one of %s", strings.Join(words[1:], ", "))
		})
}

// compressionKey is compression.type. "none" is the producer's word, which an earlier
// version wrote here too.
func compressionKey() configKey {
	k := enumKey("compression.type", []string{"", "producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"},
		func(c *TopicConfig) *Compression { return &c.Compression })
	set := k.set
	k.set = func(c *TopicConfig, s string) error {
		if strings.TrimSpace(s) == "none" {
			s = "uncompressed"
		}
		return set(c, s)
	}
	return k
}

// cleanupKey is cleanup.policy, a list in any order.
func cleanupKey() configKey {
	k := enumKey("cleanup.policy", []string{"", "delete", "compact", "compact,delete"},
		func(c *TopicConfig) *CleanupPolicy { return &c.Cleanup })
	set := k.set
	k.set = func(c *TopicConfig, s string) error {
		words := strings.Split(s, ",")
		for i := range words {
			words[i] = strings.TrimSpace(words[i])
		}
		slices.Sort(words)
		return set(c, strings.Join(slices.Compact(words), ","))
	}
	return k
}

// formatMillis prints a duration as Kafka does; Forever is its largest number.
func formatMillis(d time.Duration) string {
	if d == Forever {
		return strconv.FormatInt(math.MaxInt64, 10)
	}
	return strconv.FormatInt(d.Milliseconds(), 10)
}

// kafkaZero is 0 milliseconds in Kafka: zero is left to the defaults here.
const kafkaZero = time.Nanosecond

func parseMillis(s string) (time.Duration, error) {
	ms, err := strconv.ParseInt(s, 10, 64)
	switch {
	case err != nil || ms < 0:
		return 0, errors.New("it is no number of milliseconds")
	case ms == 0:
		return kafkaZero, nil
	case ms > int64(Forever/time.Millisecond):
		return Forever, nil
	}
	return time.Duration(ms) * time.Millisecond, nil
}

// configMap returns the fields of c that are set, by Kafka's keys.
func (c *TopicConfig) configMap() map[string]string {
	m := make(map[string]string)
	for _, k := range configKeys {
		if s := k.get(c); s != "" {
			m[k.name] = s
		}
	}
	return m
}

// setConfigMap sets the fields that m names. A key that it does not know is an
// error: a later version wrote it and means something by it.
func (c *TopicConfig) setConfigMap(m map[string]string) error {
	known := 0
	for _, k := range configKeys {
		s, ok := m[k.name]
		if !ok {
			continue
		}
		known++
		if err := k.set(c, s); err != nil {
			return err
		}
	}
	if known != len(m) {
		return fmt.Errorf("%w: topic configuration %v", errors.ErrUnsupported, m)
	}
	return nil
}
