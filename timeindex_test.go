package riffle

import (
	"encoding/binary"
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/rifflelog/riffle/internal/batch"
)

// TestTimeIndexBytes compares what is stored with bytes worked out by hand:
// base 1000, largest timestamp 1 at offset 1000 and 1,700,000,000,000 (a time
// in 2023) at offset 1256.
func TestTimeIndexBytes(t *testing.T) {
	x := newTimeIndex(1000, 36)
	require.NoError(t, x.maybeAdd(1, 1000))
	require.NoError(t, x.maybeAdd(1_700_000_000_000, 1256))
	require.Equal(t, unhex(t, "0000000000000001 00000000  0000018bcfe56800 00000100"), x.bytesFrom(0))

	x, err := loadTimeIndex(x.bytesFrom(0), 1000, 36)
	require.NoError(t, err)
	ts, at := x.last()
	require.Equal(t, []int64{1_700_000_000_000, 1256}, []int64{ts, int64(at)})
}

// TestTimeIndexFindsTheEntryAtOrBefore looks for timestamps before, at, between
// and after the entries; without entries, and before the first, it is the
// segment's base.
func TestTimeIndexFindsTheEntryAtOrBefore(t *testing.T) {
	x := newTimeIndex(100, 1024)
	check := func(ts int64, want Offset, wantOK bool) {
		t.Helper()
		at, ok := x.find(ts)
		require.Equal(t, want, at)
		require.Equal(t, wantOK, ok)
	}
	check(math.MinInt64, 100, false)
	check(math.MaxInt64, 100, false)
	ts, at := x.last()
	require.Equal(t, []int64{batch.NoTimestamp, 100}, []int64{ts, int64(at)})

	require.NoError(t, x.maybeAdd(5000, 110))
	require.NoError(t, x.maybeAdd(6000, 120))
	check(-1, 100, false)
	check(4999, 100, false)
	check(5000, 110, true)
	check(5999, 110, true)
	check(6000, 120, true)
	check(math.MaxInt64, 120, true)
}

// TestTimeIndexAddsWhatGrew: a timestamp that did not grow is passed over, none
// is as well, and going back is an error. Nothing is added then.
func TestTimeIndexAddsWhatGrew(t *testing.T) {
	x := newTimeIndex(100, 1024)
	require.NoError(t, x.maybeAdd(batch.NoTimestamp, 105))
	require.Zero(t, x.len())
	require.NoError(t, x.maybeAdd(50, 110))
	require.NoError(t, x.maybeAdd(50, 110))
	require.NoError(t, x.maybeAdd(50, 120))
	require.NoError(t, x.maybeAddClosing(50, 120))
	require.Equal(t, 1, x.len())
	for _, bad := range []struct {
		ts   int64
		o    Offset
		says string
	}{
		{49, 120, "timestamp 49 is not above 50"},
		{batch.NoTimestamp, 120, "timestamp -1 is not above 50"},
		{50, 109, "relative offset 9 is below 10"},
		{60, 109, "relative offset 9 is below 10"},
		{60, 99, "offset 99 is not in"},
		{60, 101 + math.MaxInt32, "offset 2147483748 is not in"},
	} {
		require.ErrorContains(t, x.maybeAdd(bad.ts, bad.o), bad.says)
	}
	require.Equal(t, 1, x.len())
	require.NoError(t, x.maybeAdd(60, 110), "offsets may stay")
	require.Error(t, newTimeIndex(0, 1024).maybeAdd(-2, 5))
}

// TestTimeIndexKeepsRoomForTheClosingEntry: with one place left it is full, and
// takes the closing entry. That may come twice. Truncation regains the space.
func TestTimeIndexKeepsRoomForTheClosingEntry(t *testing.T) {
	x := newTimeIndex(0, 3*12+11)
	require.NoError(t, x.maybeAdd(1, 1))
	require.False(t, x.full())
	require.NoError(t, x.maybeAdd(2, 2))
	require.True(t, x.full())
	require.NoError(t, x.maybeAdd(2, 3), "nothing to add")
	require.ErrorContains(t, x.maybeAdd(3, 3), "add entry 2: index of at most 47 bytes is full")
	require.NoError(t, x.maybeAddClosing(3, 3))
	require.NoError(t, x.maybeAddClosing(3, 3))
	require.ErrorContains(t, x.maybeAddClosing(4, 4), "is full")
	ts, at := x.last()
	require.Equal(t, []int64{3, 3}, []int64{ts, int64(at)})

	x.truncate(2)
	require.Equal(t, 1, x.len())
	require.False(t, x.full())
	require.NoError(t, x.maybeAdd(9, 9))
}

// TestTimeIndexTruncatesByOffset: all entries of the offset go, those before it
// stay.
func TestTimeIndexTruncatesByOffset(t *testing.T) {
	for o, want := range map[Offset]int{0: 0, 110: 0, 111: 1, 120: 1, 121: 3, math.MaxInt64: 3} {
		x := newTimeIndex(100, 1024)
		require.NoError(t, x.maybeAdd(1, 110))
		require.NoError(t, x.maybeAdd(2, 120))
		require.NoError(t, x.maybeAdd(3, 120))
		x.truncate(o)
		require.Equal(t, want, x.len(), o)
	}
}

// TestTimeIndexTellsTimestampZeroFromSpace: an entry of zeros, timestamp 0 at
// the base, is kept where it cannot be space that was allocated ahead.
func TestTimeIndexTellsTimestampZeroFromSpace(t *testing.T) {
	const zero, one = "0000000000000000 00000000", "0000000000000100 00000100"
	for content, want := range map[string]int{
		"": 0, zero: 1, zero + zero: 0, zero + one: 2, one + zero: 1, one + zero + zero: 1, zero + one + zero: 2,
	} {
		x, err := loadTimeIndex(unhex(t, content), 100, 1024)
		require.NoError(t, err, content)
		require.Equal(t, want, x.len(), content)
	}
	x := newTimeIndex(100, 1024)
	require.NoError(t, x.maybeAdd(0, 100))
	require.Equal(t, unhex(t, zero), x.bytesFrom(0))
	at, ok := x.find(0)
	require.True(t, ok && at == 100)
}

// TestTimeIndexRefusesDamage loads files with one thing wrong each.
func TestTimeIndexRefusesDamage(t *testing.T) {
	for _, bad := range []badIndex{
		{"a byte short", "0000000000000001 000000", "11 bytes are not a multiple of 12"},
		{"no timestamp", "ffffffffffffffff 00000000", "entry 0: timestamp -1 is not above -1"},
		{"timestamp before 1970", "fffffffffffffffe 00000001", "entry 0: timestamp -2 is not above -1"},
		{"offset below the base", "0000000000000001 ffffffff", "entry 0: relative offset -1 is below 0"},
		{"the same timestamp", "0000000000000001 00000000 0000000000000001 00000001", "entry 1: timestamp 1 is not above 1"},
		{"timestamps go back", "0000000000000002 00000000 0000000000000001 00000001", "entry 1: timestamp 1 is not above 2"},
		{"offsets go back", "0000000000000001 00000002 0000000000000002 00000001", "entry 1: relative offset 1 is below 2"},
		{"zeros between", "0000000000000001 00000000 0000000000000000 00000000 0000000000000002 00000001", "entry 1: timestamp 0 is not above 1"},
	} {
		bad.check(t, func(data []byte) error { _, err := loadTimeIndex(data, 100, 1024); return err })
	}
}

// TestTimeIndexIsASortedList does random things to an index and to a plain list
// of its entries, and compares what they answer.
func TestTimeIndexIsASortedList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const base, most = 1000, 10
		x := newTimeIndex(base, most*12)
		var list []timeEntry
		number := rapid.Int64Range(-1, 60)
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				last := timeEntry{ts: -1}
				if len(list) > 0 {
					last = list[len(list)-1]
				}
				e := timeEntry{last.ts + rapid.Int64Range(-1, 5).Draw(t, "timestamp"), last.rel + rapid.Int32Range(-1, 3).Draw(t, "offset")}
				free, add := 1, x.maybeAdd
				if rapid.Bool().Draw(t, "closing") {
					free, add = 0, x.maybeAddClosing
				}
				back := e.rel < last.rel || e.ts < last.ts
				grows := e.ts > last.ts
				ok := !back && (!grows || len(list)+free < most)
				require.Equal(t, ok, add(e.ts, base+Offset(e.rel)) == nil)
				if ok && grows {
					list = append(list, e)
				}
			},
			"truncate": func(t *rapid.T) {
				cut := number.Draw(t, "cut")
				x.truncate(base + Offset(cut))
				list = slices.DeleteFunc(list, func(e timeEntry) bool { return int64(e.rel) >= cut })
			},
			"load": func(t *rapid.T) {
				var err error
				x, err = loadTimeIndex(x.bytesFrom(0), base, most*12)
				require.NoError(t, err)
			},
			"": func(t *rapid.T) {
				require.Equal(t, len(list), x.len())
				require.Equal(t, len(list) >= most-1, x.full())
				target, want, found := number.Draw(t, "target"), Offset(base), false
				for _, e := range list {
					if e.ts <= target {
						want, found = base+Offset(e.rel), true
					}
				}
				at, ok := x.find(target)
				require.Equal(t, want, at)
				require.Equal(t, found, ok)
			},
		})
	})
}

// FuzzLoadTimeIndex gives any bytes to loadTimeIndex. Stated properties: an
// error, or an index of what is before the zeros at the end, in which any
// timestamp is found at an offset that the segment can have.
func FuzzLoadTimeIndex(f *testing.F) {
	f.Add([]byte{}, int64(0))
	f.Add(make([]byte, 12), int64(0))
	f.Add(unhex(f, "0000000000000001 00000000 0000018bcfe56800 00000100"), int64(1))
	f.Add(unhex(f, "0000000000000001 00000000 0000000000000000 00000000"), int64(1))
	f.Fuzz(func(t *testing.T, data []byte, target int64) {
		const base = 1 << 40
		x, err := loadTimeIndex(data, base, 1<<20)
		if err != nil {
			return
		}
		used := len(x.bytesFrom(0))
		require.Equal(t, data[:used], append([]byte{}, x.bytesFrom(0)...))
		require.Equal(t, make([]byte, len(data)-used), data[used:])
		targets := []int64{target, -1, 0, math.MaxInt64}
		for i := range x.len() {
			targets = append(targets, int64(binary.BigEndian.Uint64(data[12*i:])))
		}
		last, end := x.last()
		for _, target := range targets {
			at, ok := x.find(target)
			require.True(t, at >= base && at <= base+math.MaxInt32 && at <= end && (ok || at == base))
			require.Equal(t, last >= 0 && target >= int64(binary.BigEndian.Uint64(append(data, 0, 0, 0, 0, 0, 0, 0, 0))), ok)
		}
	})
}
