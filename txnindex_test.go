package riffle

import (
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestTxnIndexBytes compares what is stored with bytes worked out by hand:
// producer 7 began at offset 90 and aborted at 110, when the last stable offset
// became 111; producer 2^32 began at 256 and aborted at 300, when another
// transaction was open from 260 on.
func TestTxnIndexBytes(t *testing.T) {
	x := newTxnIndex(100)
	txns := []abortedTxn{
		{producerID: 7, first: 90, last: 110, lastStable: 111},
		{producerID: 1 << 32, first: 256, last: 300, lastStable: 260},
	}
	for _, txn := range txns {
		require.NoError(t, x.add(txn))
	}
	require.Equal(t, unhex(t, `0000 0000000000000007 000000000000005a 000000000000006e 000000000000006f`+
		`0000 0000000100000000 0000000000000100 000000000000012c 0000000000000104`), x.bytesFrom(0))

	x, err := loadTxnIndex(x.bytesFrom(0), 100)
	require.NoError(t, err)
	aborted, _ := x.collect(0, 1000)
	require.Equal(t, txns, aborted)
}

// TestTxnIndexCollectsWhatOverlaps asks for ranges of offsets that lie before,
// over, within, between and after transactions. The first three overlap each
// other: while 1 and 2 are open, 0 is aborted, then 2, then 1. Transaction 4 is
// on its own. What is complete does not depend on later segments.
func TestTxnIndexCollectsWhatOverlaps(t *testing.T) {
	x := newTxnIndex(100)
	aborted, complete := x.collect(0, 1000)
	require.Empty(t, aborted)
	require.False(t, complete)

	txns := []abortedTxn{
		{producerID: 0, first: 90, last: 110, lastStable: 102},
		{producerID: 2, first: 105, last: 120, lastStable: 102},
		{producerID: 1, first: 102, last: 130, lastStable: 131},
		{producerID: 4, first: 150, last: 160, lastStable: 161},
	}
	for _, txn := range txns {
		require.NoError(t, x.add(txn))
	}
	for _, c := range []struct {
		from, upper Offset
		want        []int64 // producers
		complete    bool
	}{
		{80, 90, nil, true},
		{80, 91, []int64{0}, true},
		{0, 102, []int64{0}, true},
		{0, 103, []int64{0, 1}, true},
		{0, 106, []int64{0, 2, 1}, true},
		{110, 111, []int64{0, 2, 1}, true},
		{111, 112, []int64{2, 1}, true},
		{120, 121, []int64{2, 1}, true},
		{121, 131, []int64{1}, true},
		{130, 131, []int64{1}, true},
		{131, 132, nil, true},
		{131, 150, nil, true},
		{130, 151, []int64{1, 4}, true},
		{160, 161, []int64{4}, true},
		{160, 162, []int64{4}, false},
		{161, 162, nil, false},
		{0, 1000, []int64{0, 2, 1, 4}, false},
		{1000, math.MaxInt64, nil, false},
	} {
		var got []int64
		aborted, complete := x.collect(c.from, c.upper)
		for _, txn := range aborted {
			got = append(got, txn.producerID)
		}
		require.Equal(t, c.want, got, "[%d, %d)", c.from, c.upper)
		require.Equal(t, c.complete, complete, "[%d, %d)", c.from, c.upper)
	}
}

// TestTxnIndexRefusesWhatDoesNotFollow: entries with one thing wrong each, both
// added and loaded.
func TestTxnIndexRefusesWhatDoesNotFollow(t *testing.T) {
	good := abortedTxn{producerID: 7, first: 90, last: 110, lastStable: 95}
	for says, bad := range map[string]abortedTxn{
		"version 1 is not 0":                          {version: 1, producerID: 7, first: 95, last: 120, lastStable: 95},
		"producer id -1 is negative":                  {producerID: -1, first: 95, last: 120, lastStable: 95},
		"last offset 110 is not above 110":            {producerID: 7, first: 95, last: 110, lastStable: 95},
		"last offset 109 is not above 110":            {producerID: 7, first: 95, last: 109, lastStable: 95},
		"first offset 94 is not in [95, 120)":         {producerID: 7, first: 94, last: 120, lastStable: 95},
		"first offset 120 is not in [95, 120)":        {producerID: 7, first: 120, last: 120, lastStable: 95},
		"last stable offset 94 is not in [95, 121]":   {producerID: 7, first: 95, last: 120, lastStable: 94},
		"last stable offset 122 is not in [95, 121]":  {producerID: 7, first: 95, last: 120, lastStable: 122},
		"last offset 0 is not above 110":              {},
		"last stable offset 9223372036854775807 is n": {producerID: 7, first: 95, last: math.MaxInt64, lastStable: math.MaxInt64},
	} {
		x := newTxnIndex(100)
		require.NoError(t, x.add(good))
		require.ErrorContains(t, x.add(bad), "add entry 1: "+says)
		require.Equal(t, 1, x.len())

		data := append(slices.Clone(x.bytesFrom(0)), make([]byte, bad.size())...)
		bad.encode(data[bad.size():])
		_, err := loadTxnIndex(data, 100)
		require.ErrorContains(t, err, "entry 1: "+says)
	}
}

// TestTxnIndexRefusesDamage loads files that are wrong by themselves. Zeros are
// no space allocated ahead, they stand where aborted transactions were.
func TestTxnIndexRefusesDamage(t *testing.T) {
	const zeros = "0000 0000000000000000 0000000000000000 0000000000000000 0000000000000000"
	const good = "0000 0000000000000007 000000000000005a 000000000000006e 000000000000006f"
	for _, bad := range []badIndex{
		{"a byte short", good[:len(good)-2], "33 bytes are not a multiple of 34"},
		{"zeros", zeros, "entry 0: last offset 0 is not above 99"},
		{"zeros at the end", good + zeros, "entry 1: last offset 0 is not above 110"},
		{"marker below the base", "0000 0000000000000007 000000000000005a 0000000000000063 0000000000000064", "entry 0: last offset 99 is not above 99"},
		{"negative first offset", "0000 0000000000000007 ffffffffffffffff 000000000000006e 000000000000006f", "entry 0: first offset -1 is not in [0, 110)"},
		{"negative last stable offset", "0000 0000000000000007 000000000000005a 000000000000006e ffffffffffffffff", "entry 0: last stable offset -1 is not in [0, 111]"},
	} {
		bad.check(t, func(data []byte) error { _, err := loadTxnIndex(data, 100); return err })
	}
	_, err := loadTxnIndex(make([]byte, 34), 0)
	require.ErrorContains(t, err, "entry 0: first offset 0 is not in [0, 0)")
}

// txnEvent is a record of a log in which each producer writes, commits or
// aborts.
type txnEvent struct {
	producer int64
	kind     byte // 'w', 'c' or 'a'
}

// replay returns the aborted transactions of a log that begins at base, and its
// last stable offset.
func replay(base Offset, log []txnEvent) (aborted []abortedTxn, stable Offset) {
	open := map[int64]Offset{}
	for i, event := range log {
		at := base + Offset(i)
		first, isOpen := open[event.producer]
		if event.kind == 'w' && !isOpen {
			open[event.producer] = at
		}
		if event.kind != 'w' {
			delete(open, event.producer)
		}
		stable = at + 1
		for _, first := range open {
			stable = min(stable, first)
		}
		if event.kind == 'a' && isOpen {
			aborted = append(aborted, abortedTxn{0, event.producer, first, at, stable})
		}
	}
	return aborted, max(stable, base)
}

// TestTxnIndexFollowsTheLog writes random logs of transactions, and truncates
// and loads their indexes. For every range of offsets below the last stable one
// the index gives the aborted transactions that have offsets in it, and says
// that it is complete when one of them tells so.
func TestTxnIndexFollowsTheLog(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const base = 50
		x := newTxnIndex(base)
		var log []txnEvent
		write := func(t *rapid.T) {
			before, _ := replay(base, log)
			log = append(log, txnEvent{rapid.Int64Range(0, 3).Draw(t, "producer"), rapid.SampledFrom([]byte("wwca")).Draw(t, "kind")})
			if after, _ := replay(base, log); len(after) > len(before) {
				require.NoError(t, x.add(after[len(before)]))
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"write": write, "write more": write, "and more": write,
			"truncate": func(t *rapid.T) {
				log = log[:rapid.IntRange(max(0, len(log)-10), len(log)).Draw(t, "cut")]
				x.truncate(base + Offset(len(log)))
			},
			"load": func(t *rapid.T) {
				var err error
				x, err = loadTxnIndex(x.bytesFrom(0), base)
				require.NoError(t, err)
			},
			"": func(t *rapid.T) {
				all, stable := replay(base, log)
				require.Equal(t, len(all), x.len())
				if stable == base {
					return
				}
				from := Offset(rapid.Int64Range(base, int64(stable)-1).Draw(t, "from"))
				upper := Offset(rapid.Int64Range(int64(from)+1, int64(stable)).Draw(t, "upper"))
				var want []abortedTxn
				wantComplete := false
				for _, txn := range all {
					if txn.first < upper && txn.last >= from {
						want = append(want, txn)
					}
					wantComplete = wantComplete || txn.lastStable >= upper
				}
				got, complete := x.collect(from, upper)
				require.Equal(t, want, got)
				require.Equal(t, wantComplete, complete)
			},
		})
	})
}

// FuzzLoadTxnIndex gives any bytes to loadTxnIndex. Stated properties: an
// error, or an index of all of them, that collects for any range what a walk
// over all entries finds.
func FuzzLoadTxnIndex(f *testing.F) {
	x := newTxnIndex(100)
	for _, txn := range []abortedTxn{{0, 0, 90, 110, 102}, {0, 2, 105, 120, 102}, {0, 1, 102, 130, 131}} {
		require.NoError(f, x.add(txn))
	}
	f.Add([]byte{}, int64(0), int64(1))
	f.Add(make([]byte, 34), int64(0), int64(1))
	f.Add(x.bytesFrom(0), int64(105), int64(120))
	f.Fuzz(func(t *testing.T, data []byte, from, upper int64) {
		x, err := loadTxnIndex(data, 100)
		if err != nil || upper <= from {
			return
		}
		require.Equal(t, data, append([]byte{}, x.bytesFrom(0)...))
		var want []abortedTxn
		wantComplete := false
		for i := range x.len() {
			txn := abortedTxn{}.decode(data[34*i:])
			require.True(t, txn.last >= 100 && txn.first >= 0 && txn.first < txn.last)
			if int64(txn.first) < upper && int64(txn.last) >= from {
				want = append(want, txn)
			}
			wantComplete = wantComplete || int64(txn.lastStable) >= upper
		}
		got, complete := x.collect(Offset(from), Offset(upper))
		require.Equal(t, want, got)
		require.Equal(t, wantComplete, complete)
	})
}
