package riffle

import (
	"encoding/binary"
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestOffsetIndexBytes compares what is stored with bytes worked out by hand:
// base 1000, an append up to offset 1009 at byte 4200 and one up to 1256 at
// byte 65536.
func TestOffsetIndexBytes(t *testing.T) {
	x := newOffsetIndex(1000, 16)
	require.NoError(t, x.add(1009, 4200))
	require.NoError(t, x.add(1256, 65536))
	require.Equal(t, unhex(t, "00000009 00001068  00000100 00010000"), x.bytesFrom(0))

	x, err := loadOffsetIndex(x.bytesFrom(0), 1000, 65537, 16)
	require.NoError(t, err)
	at, pos := x.last()
	require.Equal(t, []int64{1256, 65536}, []int64{int64(at), pos})
}

// TestOffsetIndexFindsTheEntryAtOrBefore looks for offsets and positions
// before, at, between and after the entries; without entries, and before the
// first, it is the beginning of the segment.
func TestOffsetIndexFindsTheEntryAtOrBefore(t *testing.T) {
	type found struct {
		at  Offset
		pos int64
		ok  bool
	}
	begin := found{at: 100}
	x := newOffsetIndex(100, 1024)
	find := func(o Offset) (f found) { f.at, f.pos, f.ok = x.find(o); return f }
	findPos := func(pos int64) (f found) { f.at, f.pos, f.ok = x.findPos(pos); return f }
	for _, o := range []Offset{Earliest, 0, 100, math.MaxInt64} {
		require.Equal(t, begin, find(o))
	}
	at, pos := x.last()
	require.Equal(t, begin, found{at, pos, false})

	require.NoError(t, x.add(110, 5000))
	require.NoError(t, x.add(120, 10000))
	require.NoError(t, x.add(100+math.MaxInt32, math.MaxInt32))
	first, second, third := found{110, 5000, true}, found{120, 10000, true}, found{100 + math.MaxInt32, math.MaxInt32, true}
	for o, want := range map[Offset]found{
		math.MinInt64: begin, 99: begin, 100: begin, 109: begin, 110: first, 111: first, 119: first, 120: second,
		99 + math.MaxInt32: second, 100 + math.MaxInt32: third, math.MaxInt64: third,
	} {
		require.Equal(t, want, find(o), o)
	}
	for pos, want := range map[int64]found{
		-1: begin, 0: begin, 4999: begin, 5000: first, 9999: first, 10000: second, math.MaxInt64: third,
	} {
		require.Equal(t, want, findPos(pos), pos)
	}
}

// TestOffsetIndexRefusesWhatDoesNotFollow: offsets and positions must grow, lie
// within 31 bits, and not be the segment's beginning; nothing is added then.
func TestOffsetIndexRefusesWhatDoesNotFollow(t *testing.T) {
	x := newOffsetIndex(100, 1024)
	require.ErrorContains(t, x.add(100, 10), "relative offset 0 is not above 0")
	require.ErrorContains(t, x.add(101, 0), "position 0 is not in")
	require.NoError(t, x.add(110, 5000))
	for _, bad := range []struct {
		last Offset
		pos  int64
		says string
	}{
		{110, 6000, "relative offset 10 is not above 10"},
		{105, 6000, "relative offset 5 is not above 10"},
		{111, 5000, "position 5000 is not above 5000"},
		{111, 4000, "position 4000 is not above 5000"},
		{111, -1, "position -1 is not in"},
		{111, 1 << 31, "position 2147483648 is not in"},
		{111, 1<<32 + 6000, "is not in"},
		{99, 6000, "offset 99 is not in"},
		{NoOffset, 6000, "offset -1001 is not in"},
		{101 + math.MaxInt32, 6000, "offset 2147483748 is not in"},
	} {
		require.ErrorContains(t, x.add(bad.last, bad.pos), bad.says)
	}
	require.Equal(t, 1, x.len())
}

// TestFullOffsetIndexTakesNoMore: the largest size is rounded down to entries;
// truncation regains the space, and a file that is longer is full.
func TestFullOffsetIndexTakesNoMore(t *testing.T) {
	x := newOffsetIndex(0, 3*8+7)
	for i := range 3 {
		require.False(t, x.full())
		require.NoError(t, x.add(Offset(i+1), int64(i+1)))
	}
	require.True(t, x.full())
	require.ErrorContains(t, x.add(9, 9), "add entry 3: index of at most 31 bytes is full")

	x.truncate(2)
	require.Equal(t, 1, x.len())
	require.False(t, x.full())
	require.NoError(t, x.add(8, 8))
	require.NoError(t, x.add(9, 9))
	require.True(t, x.full())

	x, err := loadOffsetIndex(x.bytesFrom(0), 0, 10, 8)
	require.NoError(t, err)
	require.True(t, x.full())
	require.Equal(t, 3, x.len())
	require.Error(t, x.add(10, 10))
}

// TestOffsetIndexTruncatesByPosition: the entry at the cut goes, those before
// it stay.
func TestOffsetIndexTruncatesByPosition(t *testing.T) {
	for cut, want := range map[int64]int{0: 0, 9: 0, 10: 0, 11: 1, 20: 1, 21: 2, 30: 2, 31: 3, math.MaxInt64: 3} {
		x := newOffsetIndex(0, 1024)
		for i := range 3 {
			require.NoError(t, x.add(Offset(i+1), int64(10*(i+1))))
		}
		x.truncate(cut)
		require.Equal(t, want, x.len(), cut)
	}
}

// TestOffsetIndexCutsSpaceAllocatedAhead: zeros at the end are no entries, also
// if they are all there is, or follow an entry that ends with a zero byte.
func TestOffsetIndexCutsSpaceAllocatedAhead(t *testing.T) {
	for _, content := range []string{"", "00000001 00000100", "00000001 00000005 00000100 01000000"} {
		data := unhex(t, content)
		x, err := loadOffsetIndex(append(slices.Clone(data), make([]byte, 80)...), 0, 1<<30, 1<<20)
		require.NoError(t, err)
		require.Equal(t, len(data)/8, x.len())
		require.True(t, slices.Equal(data, x.bytesFrom(0)))
	}
	_, err := loadOffsetIndex(make([]byte, 80), 0, 0, 1<<20)
	require.NoError(t, err, "of an empty segment")
}

// TestLoadedIndexKeepsNoMemoryOfTheCaller: what was loaded stays when the bytes
// that it was loaded from change.
func TestLoadedIndexKeepsNoMemoryOfTheCaller(t *testing.T) {
	data := unhex(t, "00000009 00001068 00000100 00010000")
	x, err := loadOffsetIndex(data, 1000, 1<<20, 1<<20)
	require.NoError(t, err)
	clear(data)
	at, pos, _ := x.find(1009)
	require.Equal(t, []int64{1009, 4200}, []int64{int64(at), pos})
}

// TestOffsetIndexRefusesDamage loads files with one thing wrong each, for a
// segment of 256 bytes.
func TestOffsetIndexRefusesDamage(t *testing.T) {
	for _, bad := range []badIndex{
		{"a byte short", "00000001 000000", "7 bytes are not a multiple of 8"},
		{"a byte of zeros more", "00000001 00000010 00", "9 bytes are not a multiple of 8"},
		{"the beginning of the segment", "00000000 00000000 00000001 00000010", "entry 0: relative offset 0 is not above 0"},
		{"offset zero", "00000000 00000010", "entry 0: relative offset 0 is not above 0"},
		{"position zero", "00000001 00000000", "entry 0: position 0 is not above 0"},
		{"offset below the base", "ffffffff 00000010", "entry 0: relative offset -1 is not above 0"},
		{"negative position", "00000001 ffffffff", "entry 0: position -1 is not above 0"},
		{"the same offset", "00000001 00000010 00000001 00000020", "entry 1: relative offset 1 is not above 1"},
		{"the same position", "00000001 00000010 00000002 00000010", "entry 1: position 16 is not above 16"},
		{"offsets go back", "00000002 00000010 00000001 00000020", "entry 1: relative offset 1 is not above 2"},
		{"positions go back", "00000001 00000010 00000002 0000000f", "entry 1: position 15 is not above 16"},
		{"zeros between", "00000001 00000010 00000000 00000000 00000002 00000020", "entry 1: relative offset 0 is not above 1"},
		{"at the segment's end", "00000001 00000010 00000002 00000100", "entry 1: position 256 is beyond the segment's 256 bytes"},
	} {
		bad.check(t, func(data []byte) error { _, err := loadOffsetIndex(data, 100, 256, 1024); return err })
	}
	_, err := loadOffsetIndex(unhex(t, "00000001 000000ff"), 100, 256, 1024)
	require.NoError(t, err)
}

// TestOffsetIndexIsASortedList does random things to an index and to a plain
// list of its entries, and compares what they answer.
func TestOffsetIndexIsASortedList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const base, most = 1000, 20
		x := newOffsetIndex(base, most*8)
		var list []offsetEntry
		number := rapid.Int64Range(0, 200)
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				at, pos := x.last()
				at += Offset(rapid.Int64Range(0, 10).Draw(t, "offset"))
				pos += rapid.Int64Range(0, 10).Draw(t, "position")
				e := offsetEntry{int32(at - base), int32(pos)}
				var prev offsetEntry
				if len(list) > 0 {
					prev = list[len(list)-1]
				}
				ok := e.rel > prev.rel && e.pos > prev.pos && len(list) < most
				require.Equal(t, ok, x.add(at, pos) == nil)
				if ok {
					list = append(list, e)
				}
			},
			"truncate": func(t *rapid.T) {
				cut := number.Draw(t, "cut")
				x.truncate(cut)
				list = slices.DeleteFunc(list, func(e offsetEntry) bool { return int64(e.pos) >= cut })
			},
			"load": func(t *rapid.T) {
				var err error
				x, err = loadOffsetIndex(x.bytesFrom(0), base, math.MaxInt64, most*8)
				require.NoError(t, err)
			},
			"": func(t *rapid.T) {
				require.Equal(t, len(list), x.len())
				require.Equal(t, len(list) == most, x.full())
				target, begin := number.Draw(t, "target"), offsetEntry{}
				wantAt, wantNext, wantPos := begin, begin, begin
				for _, e := range list {
					if int64(e.rel) <= target {
						wantAt = e
					} else if wantNext == begin {
						wantNext = e
					}
					if int64(e.pos) <= target {
						wantPos = e
					}
				}
				at, pos, next, ok := x.findBetween(base + Offset(target))
				require.Equal(t, wantAt, offsetEntry{int32(at - base), int32(pos)})
				require.Equal(t, int64(wantNext.pos), next)
				require.Equal(t, wantAt != begin, ok)
				at, pos, ok = x.findPos(target)
				require.Equal(t, wantPos, offsetEntry{int32(at - base), int32(pos)})
				require.Equal(t, wantPos != begin, ok)
			},
		})
	})
}

// FuzzLoadOffsetIndex gives any bytes to loadOffsetIndex. Stated properties: an
// error, or an index of what is before the zeros at the end, in which any
// offset and position is found within the segment.
func FuzzLoadOffsetIndex(f *testing.F) {
	f.Add([]byte{}, int64(0), int64(5))
	f.Add(unhex(f, "00000009 00001068 00000100 00010000"), int64(1<<20), int64(5000))
	f.Add(unhex(f, "00000009 00001068 00000000 00000000"), int64(1<<20), int64(9))
	f.Add(unhex(f, "00000009 00001068 00000008 00010000"), int64(1<<20), int64(9))
	f.Fuzz(func(t *testing.T, data []byte, segmentSize, target int64) {
		const base = 1 << 40
		x, err := loadOffsetIndex(data, base, segmentSize, 1<<20)
		if err != nil {
			return
		}
		used := len(x.bytesFrom(0))
		require.Equal(t, data[:used], append([]byte{}, x.bytesFrom(0)...))
		require.Equal(t, make([]byte, len(data)-used), data[used:])
		targets := []int64{target, 0, math.MaxInt64}
		for i := range x.len() {
			targets = append(targets, int64(int32(binary.BigEndian.Uint32(data[8*i:]))), int64(int32(binary.BigEndian.Uint32(data[8*i+4:]))))
		}
		for _, target := range targets {
			at, pos, ok := x.find(base + Offset(max(0, target%(1<<40))))
			require.True(t, !ok && at == base && pos == 0 || ok && at > base && at <= base+math.MaxInt32 && pos > 0 && pos < segmentSize)
			at, pos, ok = x.findPos(target)
			require.True(t, !ok && at == base && pos == 0 || ok && at > base && pos > 0 && pos <= target && pos < segmentSize)
		}
	})
}
