package group

import (
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// records writes down what the coordinator holds, as records.
func (c *Coordinator) records() (all []Record) {
	for _, name := range c.Groups() {
		g := c.groups[name]
		if g.written {
			all = append(all, g.record(g.since, (*member).assigned))
		}
		for _, topic := range slices.Sorted(maps.Keys(g.offsets)) {
			for _, partition := range slices.Sorted(maps.Keys(g.offsets[topic])) {
				o := g.offsets[topic][partition]
				all = append(all, o.record(name, topic, partition))
			}
		}
	}
	return all
}

// FuzzApply: no record panics; what is accepted can be written and read again
// without a change, and the coordinator goes on with it.
func FuzzApply(f *testing.F) {
	for version := range int16(5) {
		f.Add(groupKey("g"), groupValue(version).AppendTo(nil), groupKey("g"), []byte(nil))
	}
	first := (&offset{offset: 5, epoch: 2, metadata: "m", committed: 9, expires: -1}).record("g", "t", 1)
	second := (&offset{offset: 5, epoch: 2, expires: 10}).record("g", "t", 1)
	f.Add(first.Key, first.Value, second.Key, second.Value)
	f.Add(first.Key, first.Value, first.Key, []byte(nil))
	f.Add(groupKey("g"), hugeCount(3), groupKey("g"), hugeCount(4))
	f.Add(groupKey("g"), hugeTags(), offsetKey("g", "t", 1), []byte{0, 4})
	f.Fuzz(func(t *testing.T, key, value, nextKey, nextValue []byte) {
		if len(value) == 0 {
			value = nil
		}
		if len(nextValue) == 0 {
			nextValue = nil
		}
		c := New(DefaultConfig())
		for i, r := range []Record{{key, value}, {nextKey, nextValue}} {
			before := c.records()
			if c.Apply(r, int64(i)) != nil {
				require.Equal(t, before, c.records())
			}
		}
		written := c.records()
		again := New(DefaultConfig())
		for i, r := range written {
			require.NoError(t, again.Apply(r, int64(i)))
		}
		require.Equal(t, written, again.records())

		res := c.Loaded(epoch)
		for i, r := range res.Records {
			require.NoError(t, c.Apply(r, int64(i)))
		}
		for range 3 {
			if at, ok := c.Next(); ok {
				for i, r := range c.Tick(at).Records {
					require.NoError(t, c.Apply(r, int64(i)))
				}
			}
			c.check()
		}
		for _, r := range c.Expire(epoch).Records {
			require.NoError(t, c.Apply(r, 100))
		}
	})
}
