package riffle

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

const (
	testKeep    = 1 << 20  // DiskReserve
	testReserve = 64 << 10 // the size of the file
)

// openKeeping opens a log with a small reserve, and closes it when the test ends.
func openKeeping(t testing.TB, fsys vfs.FS, keep int64) *Log {
	t.Helper()
	tune := defaultTuning
	tune.reserveBytes = testReserve
	l, err := openTuned(fsys, "/data", &Options{DiskReserve: keep}, tune)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l
}

func free(t testing.TB, m *memfs.FS) int64 {
	t.Helper()
	space, err := m.Space("/")
	require.NoError(t, err)
	return space.Free
}

// reserveSize is the size of the file reserve, -1 if there is none.
func reserveSize(fsys vfs.FS) int64 {
	e, err := fsys.Stat("/data/" + reserveName)
	if err != nil {
		return -1
	}
	return e.Size
}

// fill appends records of 1,000 bytes until one is refused, and returns how many
// there were and the error.
func fill(p *Partition) (n int, err error) {
	for ; err == nil; n++ {
		_, err = p.Append(ctx, Record{Value: make([]byte, 1000)})
	}
	return n - 1, err
}

// left is what is left of the credit of the last look, and of what p has drawn on it.
func left(p *Partition) int64 { return p.topic.log.space.last.Load().credit.Load() + p.drawn }

// TestDiskReserveStopsAppends fills the disk: appends are refused before they
// would leave less than the reserve, and while that is so; topics can still be
// created; with room, the next append goes on. What was refused is not there.
func TestDiskReserveStopsAppends(t *testing.T) {
	m := memfs.New()
	l := openKeeping(t, m, testKeep)
	p := partOf(t, l, "topic", nil)
	_, err := p.Append(ctx, Record{Value: make([]byte, 1000)})
	require.NoError(t, err)
	l.space.last.Store(new(diskLook))
	m.SetFree(testKeep + 100_000)
	n, err := fill(p)
	require.InDelta(t, 93, n, 5, "about 100,000 bytes, in pages")
	requireAll(t, err, ErrDiskFull)
	require.NotErrorIs(t, err, ErrInDoubt)
	require.NotErrorIs(t, err, ErrPartitionFailed)
	var place *PartitionError
	require.ErrorAs(t, err, &place)
	require.Equal(t, TopicPartition{"topic", 0}, TopicPartition{place.Topic, place.Partition})
	require.Regexp(t, `^append topic-0: riffle: disk is full: 10\d{5} bytes are free, DiskReserve keeps 1048576$`, err.Error())
	require.GreaterOrEqual(t, free(t, m), int64(testKeep-4096))

	_, err = l.CreateTopic(ctx, "other", nil)
	require.NoError(t, err)
	_, err = partitionOf(l, "other").Append(ctx, Record{})
	require.ErrorIs(t, err, ErrDiskFull)
	require.EqualValues(t, testReserve, reserveSize(m), "there was other space")

	m.SetFree(testKeep + 10_000)
	at, err := p.Append(ctx, Record{Value: []byte("room")})
	require.NoError(t, err)
	require.Equal(t, Offset(n+1), at)
	last, err := collect(p, at)
	require.NoError(t, err)
	require.Equal(t, []string{"room"}, last)
}

// TestLastingErrorsComeBeforeAFullDisk: a full disk is what may heal, so it is
// not what is said if something else will not.
func TestLastingErrorsComeBeforeAFullDisk(t *testing.T) {
	m := memfs.New()
	l := openKeeping(t, m, testKeep)
	p := partOf(t, l, "topic", nil)
	appendValues(t, p, 0, 1)
	l.space.last.Store(new(diskLook))
	m.SetFree(0)
	p.mu.Lock()
	p.fail(errors.New("broken"))
	p.mu.Unlock()
	_, err := p.Append(ctx, Record{})
	require.ErrorIs(t, err, ErrPartitionFailed)
	require.NotErrorIs(t, err, ErrDiskFull)
}

// TestCreditGrowsOld: between two looks appends draw on a credit, of a quarter
// of the room at most; after a second the next one looks again, whether the
// clock has gone on or back.
func TestCreditGrowsOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := memfs.New()
		fsys := errfs.New(m)
		l := openKeeping(t, fsys, testKeep)
		p := partOf(t, l, "topic", &TopicConfig{FlushInterval: Forever, Flush: FlushAsync})
		looks := 0
		fsys.Add(errfs.Rule{Kind: errfs.Space, Before: func(errfs.Op) { looks++ }})
		m.SetFree(testKeep + 401_000)
		appendValues(t, p, 0, 3)
		require.Equal(t, 1, looks)
		require.InDelta(t, 100_000, left(p), 1000)
		m.SetFree(20_000)
		appendValues(t, p, 3, 5) // on credit
		<-time.After(creditTime)
		_, err := p.Append(ctx, Record{})
		require.ErrorIs(t, err, ErrDiskFull)
		require.Equal(t, 2, looks)

		m.SetFree(1 << 40)
		appendValues(t, p, 5, 7)
		require.Equal(t, 3, looks)
		require.InDelta(t, maxCredit, left(p), 1000)
		now := time.Now().UnixMilli()
		l.space.last.Load().at = now + creditTime.Milliseconds()
		appendValues(t, p, 7, 8)
		require.Equal(t, 4, looks)
		require.Equal(t, now, l.space.last.Load().at)

		fsys.FailKind(errfs.Space, 1, nil)
		l.space.last.Store(new(diskLook))
		appendValues(t, p, 8, 9) // what is not known stops nobody
		require.Equal(t, 5, looks)
	})
}

// TestReserveIsUsedAndMadeAgain leaves no byte free: a topic can be created, for
// which the file is given up, once; users gain nothing by that. With room there
// is a file again.
func TestReserveIsUsedAndMadeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := memfs.New()
		l := openKeeping(t, m, testKeep)
		p := partOf(t, l, "topic", nil)
		appendValues(t, p, 0, 1)
		require.EqualValues(t, testReserve, reserveSize(m))
		m.SetFree(0)
		var err error
		create := func(i int) {
			_, err = l.CreateTopic(ctx, fmt.Sprintf("%0200d", i), nil)
		}
		i := 0 // at first there is room in the page that the metadata log ends in
		for ; reserveSize(m) >= 0; i++ {
			create(i)
			require.NoError(t, err)
		}
		m.SetFree(0)
		for ; err == nil; i++ {
			create(i)
		}
		require.ErrorIs(t, err, ErrDiskFull, "there is no second file")

		<-time.After(creditTime)
		m.SetFree(testKeep + testReserve)
		_, err = p.Append(ctx, Record{})
		require.ErrorIs(t, err, ErrDiskFull)
		require.ErrorContains(t, err, `riffle: disk is full: 1114112 bytes are free, DiskReserve keeps 1048576, and the file "reserve" is to have 65536`)
		synctest.Wait()
		require.EqualValues(t, -1, reserveSize(m))
		m.SetFree(testKeep + testReserve + 10_000)
		appendValues(t, p, 1, 2)
		synctest.Wait()
		require.EqualValues(t, testReserve, reserveSize(m))
		appendValues(t, p, 2, 3)
	})
}

// TestReserveThatCannotBeMade: the log works, and a later look tries again.
func TestReserveThatCannotBeMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := memfs.New()
		fsys := errfs.New(m)
		fsys.Add(errfs.Rule{Kind: errfs.Allocate, Name: "/data/" + reserveName, Times: 2, Err: vfs.ErrNoSpace})
		l := openKeeping(t, fsys, testKeep)
		require.EqualValues(t, -1, reserveSize(m), "a part of it is of no use")
		p := partOf(t, l, "topic", nil)
		appendValues(t, p, 0, 2)
		synctest.Wait()
		require.EqualValues(t, -1, reserveSize(m))
		<-time.After(creditTime)
		appendValues(t, p, 2, 4)
		synctest.Wait()
		require.EqualValues(t, testReserve, reserveSize(m))
	})
}

// TestOpenOnAFullDisk opens a log that was not closed on a disk without a free
// byte: as it is; and on a file system that needs new space for whatever it
// writes, with what the file has set aside.
func TestOpenOnAFullDisk(t *testing.T) {
	for name, copying := range map[string]bool{"writes in place": false, "copies on write": true} {
		t.Run(name, func(t *testing.T) {
			m := memfs.New()
			l := openKeeping(t, m, testKeep)
			appendValues(t, partOf(t, l, "topic", nil), 0, 3)
			disk := m.CrashClone(1)
			disk.SetFree(0)
			fsys := errfs.New(disk)
			full := func() {}
			if copying {
				full = fsys.Add(errfs.Rule{Kind: errfs.Write, Decide: func(errfs.Op) error {
					if reserveSize(disk) >= 0 {
						return vfs.ErrNoSpace
					}
					return nil
				}})
			}
			again := openKeeping(t, fsys, testKeep)
			p := partitionOf(again, "topic")
			require.Equal(t, wantValues(0, 3), readValues(t, p, Earliest))
			_, err := p.Append(ctx, Record{})
			require.ErrorIs(t, err, ErrDiskFull)
			require.NotErrorIs(t, err, ErrReadOnly)
			disk.SetFree(1 << 30)
			full() // or the file, which is made again, would count
			appendValues(t, p, 3, 4)
		})
	}
}

// TestOpenMakesTheReserve: where there is room beside what is kept, whatever was
// there; it does not grow with each Open, and without a limit it goes.
func TestOpenMakesTheReserve(t *testing.T) {
	m := memfs.New()
	fsys := errfs.New(m)
	looks := 0
	fsys.Add(errfs.Rule{Kind: errfs.Space, Before: func(errfs.Op) { looks++ }})
	for _, c := range []struct {
		free, keep, want int64
	}{
		{testKeep + testReserve - 1, testKeep, -1},
		{1 << 30, testKeep, testReserve},
		{1 << 30, testKeep, testReserve},
		{0, testKeep, testReserve},
		{0, NoLimit, -1},
		{1 << 30, NoLimit, -1},
		{1 << 30, 1 << 62, -1},
		{1 << 30, 0, testReserve},
	} {
		m.SetFree(1 << 20)
		l := openKeeping(t, fsys, NoLimit) // what else an Open takes is there
		require.NoError(t, l.Close())
		if c.want == testReserve && c.free == 0 {
			require.NoError(t, vfs.WriteFileAtomic(m, "", "/data/"+reserveName, make([]byte, testReserve)))
		}
		m.SetFree(c.free)
		l = openKeeping(t, fsys, c.keep)
		require.Equal(t, c.want, reserveSize(m), "%+v", c)
		if c.keep == NoLimit && c.free > 0 {
			before := looks
			appendValues(t, partOf(t, l, "topic", nil), 0, 2)
			require.Equal(t, before, looks)
		}
		require.NoError(t, l.Close())
	}
}

// TestConcurrentAppendsKeepTheReserve has many partitions fill the disk at once:
// each is refused in the end, with nothing else, and what they overshoot is less
// than a batch each.
func TestConcurrentAppendsKeepTheReserve(t *testing.T) {
	m := memfs.New()
	l := openKeeping(t, m, testKeep)
	l.mapAfter = 1 << 40 // space that is allocated ahead is more than a batch
	top, err := l.CreateTopic(ctx, "topic", &TopicConfig{Partitions: 8, Flush: FlushAsync})
	require.NoError(t, err)
	for p := range top.Partitions() {
		appendValues(t, p, 0, 1)
	}
	l.space.last.Store(new(diskLook))
	m.SetFree(testKeep + 500_000)
	var wg sync.WaitGroup
	for p := range top.Partitions() {
		wg.Go(func() {
			if _, err := fill(p); !errors.Is(err, ErrDiskFull) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.Greater(t, free(t, m), int64(testKeep-8*2*4096))
	require.Less(t, free(t, m), int64(testKeep+8*4096))
}

// TestPiecesOfACredit: partitions that draw at once admit no more on a look than its
// credit, and leave at most a piece each of it unused. Drawn one by one it would all be
// used, but for the append that does not fit.
func TestPiecesOfACredit(t *testing.T) {
	const credit, largest = 64<<20 + creditPiece/2, 3000
	l := openKeeping(t, memfs.New(), testKeep)
	top, err := l.CreateTopic(ctx, "topic", &TopicConfig{Partitions: 8})
	require.NoError(t, err)
	look := &diskLook{at: 1}
	look.credit.Store(credit)
	l.space.last.Store(look)
	var sum atomic.Int64
	var wg sync.WaitGroup
	for p := range top.Partitions() {
		wg.Go(func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			for n := int64(p.index + 1); p.draw(n, 1); n = n*7%largest + 1 {
				sum.Add(n)
			}
		})
	}
	wg.Wait()
	require.LessOrEqual(t, sum.Load(), int64(credit))
	require.GreaterOrEqual(t, sum.Load(), int64(credit-8*max(creditPiece, largest)))
	require.Less(t, look.credit.Load(), int64(largest), "less than a piece is drawn too")
	large := int64(creditPiece + 1)
	l.space.last.Store(&diskLook{at: 1})
	l.space.last.Load().credit.Store(large)
	p := partitionOf(l, "topic")
	require.True(t, p.draw(large, 1))
	require.False(t, p.draw(1, 1))
}

// TestAnotherLookEndsACredit: what a partition has drawn and not used is worth nothing
// once somebody has found the disk full, in the same millisecond too.
func TestAnotherLookEndsACredit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := memfs.New()
		l := openKeeping(t, m, testKeep)
		p, other := partOf(t, l, "topic", nil), partOf(t, l, "other", nil)
		appendValues(t, other, 0, 1)
		l.space.last.Store(new(diskLook))
		m.SetFree(testKeep + 400_000)
		appendValues(t, p, 0, 2) // the second one draws
		credit := l.space.last.Load().credit.Load()
		appendValues(t, p, 2, 50)
		require.Equal(t, credit, l.space.last.Load().credit.Load(), "one piece serves many")
		require.Greater(t, p.drawn, int64(creditPiece/2))
		m.SetFree(testKeep - 1)
		appendValues(t, p, 50, 51) // on credit
		_, err := other.Append(ctx, Record{Value: make([]byte, 100_000)})
		require.ErrorIs(t, err, ErrDiskFull)
		_, err = p.Append(ctx, Record{})
		require.ErrorIs(t, err, ErrDiskFull)
	})
}

// TestReserveServesAllWhoNeedIt: who finds the disk full while somebody else gives the
// reserve up tries again with what that has freed.
func TestReserveServesAllWhoNeedIt(t *testing.T) {
	l := openKeeping(t, memfs.New(), testKeep)
	calls := 0
	require.NoError(t, l.space.insist(func() error {
		if calls++; calls > 1 {
			return nil
		}
		require.True(t, l.space.release())
		return ErrDiskFull
	}))
	require.Equal(t, 2, calls)
	require.ErrorIs(t, l.space.insist(func() error { calls++; return ErrDiskFull }), ErrDiskFull)
	require.Equal(t, 3, calls, "nothing is left to give up")
}
