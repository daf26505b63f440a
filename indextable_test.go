package riffle

import (
	"bytes"
	"encoding/hex"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// unhex returns the bytes that text spells, spaces aside.
func unhex(t testing.TB, text string) []byte {
	t.Helper()
	data, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	require.NoError(t, err)
	return data
}

// badIndex is the content of a file that loading must refuse, with a part of
// what it must say.
type badIndex struct{ name, hex, says string }

func (bad badIndex) check(t *testing.T, load func([]byte) error) {
	t.Helper()
	require.ErrorContains(t, load(unhex(t, bad.hex)), bad.says, bad.name)
}

// TestIndexReadersNeedNoLock: while one goroutine adds, truncates and adds
// something else in the place of what was dropped, the entries that others find
// are whole, and what bytesFrom once returned stays as it was.
func TestIndexReadersNeedNoLock(t *testing.T) {
	const entries = 100
	x := newOffsetIndex(1000, 1<<20)
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for target := Offset(1000); ; target++ {
				select {
				case <-done:
					return
				default:
				}
				target = 1000 + target%(4*entries)
				at, pos, ok := x.find(target)
				if at > target || pos != 10*int64(at-1000) || ok != (pos > 0) {
					t.Errorf("find(%d) = %d, %d, %t", target, at, pos, ok)
				}
				content := x.bytesFrom(0)
				before := bytes.Clone(content)
				if at, pos, _ := x.findPos(1000); at > 1100 || pos > 1000 {
					t.Errorf("findPos(1000) = %d, %d", at, pos)
				}
				if !bytes.Equal(before, content) {
					t.Error("bytes changed under a reader")
				}
			}
		})
	}
	step := Offset(1)
	for range 200 {
		last, _ := x.last()
		for range entries / 2 {
			last += step
			require.NoError(t, x.add(last, 10*int64(last-1000)))
		}
		step = 4 - step // other entries than those that are dropped
		x.truncate(10 * int64(step) * 20)
	}
	close(done)
	readers.Wait()
}

// TestIndexAllocatesOnlyToGrow: within a block, adding allocates nothing, and
// looking up never does.
func TestIndexAllocatesOnlyToGrow(t *testing.T) {
	offsets, times, txns := newOffsetIndex(0, 1<<20), newTimeIndex(0, 1<<20), newTxnIndex(0)
	next := Offset(0)
	add := func() {
		for range 100 {
			next += 2
			e := abortedTxn{producerID: 7, first: next - 1, last: next, lastStable: next}
			if offsets.add(next, int64(next)) != nil || times.maybeAdd(int64(next), next) != nil || txns.add(e) != nil {
				t.Error("entry refused")
			}
		}
	}
	for range 6 {
		add() // 600 entries: the blocks have room for 1024
	}
	require.Zero(t, testing.AllocsPerRun(3, add)) // and once before it counts; there is room for 1000
	require.Zero(t, testing.AllocsPerRun(100, func() {
		offsets.find(500)
		offsets.findPos(500)
		times.find(500)
		txns.collect(10_000, 10_001) // none
		offsets.bytesFrom(80)
	}))
}

// TestIndexGivesWhatIsNotWritten: a file that gets bytesFrom of its size after
// each addition, and is cut with the index, has the bytes of the index.
func TestIndexGivesWhatIsNotWritten(t *testing.T) {
	x := newOffsetIndex(0, 1<<20)
	var file []byte
	for i := range 50 {
		require.Empty(t, x.bytesFrom(len(file)))
		require.NoError(t, x.add(Offset(x.len()+1), int64(x.len()+1)))
		file = append(file, x.bytesFrom(len(file))...)
		if i%20 == 19 {
			x.truncate(5)
			require.Nil(t, x.bytesFrom(len(file)))
			file = file[:len(x.bytesFrom(0))]
		}
		require.Equal(t, x.bytesFrom(0), file)
	}
}
