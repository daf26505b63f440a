package riffle

import (
	"bytes"
	"math"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func epochsOf(entries ...epochEntry) *epochCache { return newEpochCache(entries) }

// A new latest epoch is added, the latest one may come to begin earlier, and
// what contradicts the new entry is removed first. Kafka:
// LeaderEpochFileCacheTest, "should enforce monotonically increasing".
func TestEpochsAscend(t *testing.T) {
	for name, c := range map[string]struct {
		assign, want []epochEntry
		unchanged    bool // by the last
	}{
		"first":                    {[]epochEntry{{2, 5}}, []epochEntry{{2, 5}}, false},
		"a new latest":             {[]epochEntry{{0, 0}, {2, 5}}, []epochEntry{{0, 0}, {2, 5}}, false},
		"the same again":           {[]epochEntry{{2, 5}, {2, 5}}, []epochEntry{{2, 5}}, true},
		"the same later":           {[]epochEntry{{2, 5}, {2, 9}}, []epochEntry{{2, 5}}, true},
		"the same earlier":         {[]epochEntry{{1, 4}, {2, 9}, {2, 5}}, []epochEntry{{1, 4}, {2, 5}}, false},
		"the same before another":  {[]epochEntry{{1, 4}, {2, 9}, {2, 4}}, []epochEntry{{2, 4}}, false},
		"a new one at an old end":  {[]epochEntry{{1, 4}, {2, 9}, {3, 9}}, []epochEntry{{1, 4}, {3, 9}}, false},
		"a new one before old":     {[]epochEntry{{1, 4}, {2, 9}, {3, 2}}, []epochEntry{{3, 2}}, false},
		"an old one, further on":   {[]epochEntry{{1, 4}, {3, 9}, {2, 20}}, []epochEntry{{1, 4}, {2, 20}}, false},
		"an old one that is known": {[]epochEntry{{1, 4}, {2, 6}, {3, 9}, {2, 20}}, []epochEntry{{1, 4}, {2, 20}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			e := epochsOf()
			changed := false
			for _, a := range c.assign {
				changed = e.assign(a.epoch, a.start)
			}
			require.Equal(t, c.want, e.load())
			require.Equal(t, !c.unchanged, changed)
		})
	}
}

// The four answers to where an epoch ends. Kafka: LeaderEpochFileCacheTest,
// "should return".
func TestEpochEndOffsets(t *testing.T) {
	known := epochsOf(epochEntry{2, 10}, epochEntry{4, 20}, epochEntry{7, 30})
	for _, c := range []struct {
		cache     *epochCache
		requested int32
		epoch     int32
		end       Offset
	}{
		{epochsOf(), 0, noEpoch, NoOffset},
		{known, noEpoch, noEpoch, NoOffset},
		{known, math.MinInt32, noEpoch, NoOffset},
		{known, 8, noEpoch, NoOffset},
		{known, math.MaxInt32, noEpoch, NoOffset},
		{known, 7, 7, 99},
		{known, 6, 4, 30},
		{known, 4, 4, 30},
		{known, 3, 2, 20},
		{known, 2, 2, 20},
		{known, 1, 1, 10},
		{known, 0, 0, 10},
	} {
		epoch, end := c.cache.endOffsetFor(c.requested, 99)
		require.Equal(t, c.epoch, epoch, c.requested)
		require.Equal(t, c.end, end, c.requested)
	}
}

// Each offset is in the last epoch that begins at it or before.
func TestEpochOfAnOffset(t *testing.T) {
	_, ok := epochsOf().epochAt(0)
	require.False(t, ok)
	_, ok = epochsOf().latest()
	require.False(t, ok)
	known := epochsOf(epochEntry{2, 10}, epochEntry{4, 20})
	for o, want := range map[Offset]int32{0: noEpoch, 9: noEpoch, 10: 2, 19: 2, 20: 4, 1000: 4} {
		epoch, ok := known.epochAt(o)
		require.Equal(t, want, epoch, o)
		require.Equal(t, want != noEpoch, ok)
	}
	epoch, ok := known.latest()
	require.True(t, ok)
	require.EqualValues(t, 4, epoch)
}

// A new log start keeps the epoch that it is in and stamps it anew; a new log
// end drops what begins at it or beyond; both cut what a file held to the log.
// Kafka: LeaderEpochFileCacheTest, "should retain latest epoch".
func TestEpochsAreCutToTheLog(t *testing.T) {
	all := []epochEntry{{2, 10}, {4, 20}, {7, 30}}
	for name, c := range map[string]struct {
		cut  func(*epochCache) bool
		want []epochEntry
	}{
		"start before all":       {func(e *epochCache) bool { return e.truncateFromStart(5) }, all},
		"start at the first":     {func(e *epochCache) bool { return e.truncateFromStart(10) }, all},
		"start in the first":     {func(e *epochCache) bool { return e.truncateFromStart(11) }, []epochEntry{{2, 11}, {4, 20}, {7, 30}}},
		"start at the second":    {func(e *epochCache) bool { return e.truncateFromStart(20) }, []epochEntry{{4, 20}, {7, 30}}},
		"start in the last":      {func(e *epochCache) bool { return e.truncateFromStart(90) }, []epochEntry{{7, 90}}},
		"end beyond all":         {func(e *epochCache) bool { return e.truncateFromEnd(31) }, all},
		"end at the last":        {func(e *epochCache) bool { return e.truncateFromEnd(30) }, all[:2]},
		"end in the first":       {func(e *epochCache) bool { return e.truncateFromEnd(11) }, all[:1]},
		"end at the first":       {func(e *epochCache) bool { return e.truncateFromEnd(10) }, []epochEntry{}},
		"clamp to what is there": {func(e *epochCache) bool { return e.clamp(10, 31) }, all},
		"clamp both ends":        {func(e *epochCache) bool { return e.clamp(15, 25) }, []epochEntry{{2, 15}, {4, 20}}},
		"clamp to an empty log":  {func(e *epochCache) bool { return e.clamp(25, 25) }, []epochEntry{{4, 25}}},
	} {
		t.Run(name, func(t *testing.T) {
			e := epochsOf(all...)
			changed := c.cut(e)
			require.Equal(t, c.want, e.load())
			require.Equal(t, len(c.want) != 3 || c.want[0] != all[0], changed)
			require.Equal(t, epochEntry{2, 10}, all[0], "a reader's slice changed")
		})
	}
}

// The file is Kafka's, byte for byte, and nothing else is taken for one.
func TestEpochFile(t *testing.T) {
	const file = "0\n2\n2 10\n4 20\n"
	require.Equal(t, file, string(epochsOf(epochEntry{2, 10}, epochEntry{4, 20}).format()))
	e, err := parseEpochs([]byte(file))
	require.NoError(t, err)
	require.Equal(t, []epochEntry{{2, 10}, {4, 20}}, e.load())
	e, err = parseEpochs([]byte("0\n0\n"))
	require.NoError(t, err)
	require.Empty(t, e.load())
	for _, bad := range []string{
		"", "\n", "0", "0\n", "0\n0", "1\n0\n", "0\n1\n", "0\n1\n2 10", "0\n2\n2 10\n", "0\n1\n2 10\n\n",
		"0\n1\n2 10 \n", "0\n1\n2  10\n", "0\n1\n02 10\n", "0\n1\n+2 10\n", "0\n1\n2\n", "0\n1\na b\n",
		"0\n1\n-1 10\n", "0\n1\n2 -1\n", "0\n2\n4 20\n2 10\n", "0\n2\n2 10\n4 10\n", "0\n2\n2 10\n2 20\n",
		"0\n1\n2147483648 0\n", "0\n1\n0 9223372036854775808\n", "0\r\n1\r\n2 10\r\n",
	} {
		_, err := parseEpochs([]byte(bad))
		require.Error(t, err, "%q", bad)
	}
}

// After any changes the entries ascend, the file says the same, and every
// answer is that of a list of the epoch of each offset.
func TestEpochsAgreeWithTheOffsets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cache, start := epochsOf(), Offset(0)
		var epochs []int32 // of offsets from start on
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			end := start + Offset(len(epochs))
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0, 1: // a leader appends
				latest, _ := cache.latest()
				epoch := max(latest, 0) + rapid.Int32Range(0, 2).Draw(t, "epoch")
				cache.assign(epoch, end)
				for range rapid.IntRange(1, 3).Draw(t, "records") {
					epochs = append(epochs, epoch)
				}
			case 2:
				to := rapid.Int64Range(int64(start), int64(end)).Draw(t, "to")
				cache.truncateFromEnd(Offset(to))
				epochs = epochs[:Offset(to)-start]
			case 3:
				to := rapid.Int64Range(int64(start), int64(end)).Draw(t, "from")
				cache.truncateFromStart(Offset(to))
				epochs = epochs[Offset(to)-start:]
				start = Offset(to)
			}
			for i, want := range epochs {
				got, ok := cache.epochAt(start + Offset(i))
				require.True(t, ok)
				require.Equal(t, want, got)
			}
			again, err := parseEpochs(cache.format())
			require.NoError(t, err)
			require.True(t, slices.Equal(cache.load(), again.load()))
		}
	})
}

// Wherever a log was cut and whatever has been appended since, it parts from what
// was seen of it at the first offset from its start on that has another epoch, or none.
func TestPartingIsTheFirstOffsetThatDiffers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cache, last := epochsOf(), int32(0)
		var epochs []int32 // by offset
		grow := func() {
			for range rapid.IntRange(0, 4).Draw(t, "epochs") {
				epoch, _ := cache.latest()
				if epoch == noEpoch || rapid.Bool().Draw(t, "new") {
					last += rapid.Int32Range(1, 2).Draw(t, "epoch")
					epoch = last
				}
				cache.assign(epoch, Offset(len(epochs)))
				for range rapid.IntRange(1, 3).Draw(t, "records") {
					epochs = append(epochs, epoch)
				}
			}
		}
		grow()
		if len(epochs) == 0 {
			return
		}
		seen := rapid.IntRange(1, len(epochs)).Draw(t, "seen")
		then, shown := slices.Clone(cache.load()), slices.Clone(epochs[:seen])
		start := 0
		for range rapid.IntRange(1, 3).Draw(t, "cuts") {
			end := rapid.IntRange(start, len(epochs)).Draw(t, "cut")
			cache.truncateFromEnd(Offset(end))
			epochs = epochs[:end]
			grow()
			start = rapid.IntRange(start, max(start, min(seen, len(epochs)))).Draw(t, "start")
			cache.truncateFromStart(Offset(start))
		}
		want := start
		for want < seen && want < len(epochs) && epochs[want] == shown[want] {
			want++
		}
		got := min(parting(then, shown[seen-1], Offset(seen), Offset(start), cache.load()), Offset(len(epochs)))
		require.Equal(t, Offset(want), got, "%v, now %v from %d", shown, epochs, start)
	})
}

// Readers need no lock: shown by the race detector.
func TestEpochsAreReadWhileTheyChange(t *testing.T) {
	e := epochsOf()
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for last := noEpoch; last < 1000; {
				latest, _ := e.latest()
				epoch, _ := e.epochAt(math.MaxInt64)
				_, end := e.endOffsetFor(latest-1, 0)
				if latest < last || epoch < latest || latest > 0 && end == NoOffset {
					t.Errorf("latest %d after %d, epoch %d, end %d", latest, last, epoch, end)
					return
				}
				last = latest
			}
		})
	}
	for i := range int32(1001) {
		e.assign(i, Offset(i))
	}
	readers.Wait()
}

// FuzzEpochs: no bytes make the reader panic, and what it takes is exactly what
// the writer writes.
func FuzzEpochs(f *testing.F) {
	f.Add([]byte("0\n2\n2 10\n4 20\n"))
	f.Add([]byte("0\n0\n"))
	f.Add([]byte("0\n1\n2 10"))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := parseEpochs(data)
		if err == nil && !bytes.Equal(e.format(), data) {
			t.Fatalf("%q is taken for %q", data, e.format())
		}
	})
}
