package model_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/model"
)

// life is a partition, and the log that it is to be held against: what the test
// says is there.
type life struct {
	*model.Partition
	log []model.Record
	end int64
}

func begin(durable bool) *life {
	return &life{Partition: &model.Partition{Durable: durable}}
}

// try begins to append a batch of n records with the given name.
func (l *life) try(name string, n int) (*model.Batch, []model.Record) {
	var recs []model.Record
	for i := range n {
		recs = append(recs, model.Record{Timestamp: 7, Key: fmt.Sprintf("%s%d", name, i), Value: name})
	}
	return l.Append(recs), recs
}

// put puts records at the end of the log, in an epoch.
func (l *life) put(recs []model.Record, epoch int32) {
	for _, r := range recs {
		r.Offset, r.Epoch = l.end, epoch
		l.log = append(l.log, r)
		l.end++
	}
}

// cut takes all from an offset on from the log, which goes on at end.
func (l *life) cut(from, end int64) {
	for len(l.log) > 0 && l.log[len(l.log)-1].Offset >= from {
		l.log = l.log[:len(l.log)-1]
	}
	l.end = end
}

func (l *life) bounds() model.Bounds {
	b := model.Bounds{Start: l.end, LastStable: l.end, HighWatermark: l.end, End: l.end}
	if len(l.log) > 0 {
		b.Start = l.log[0].Offset
	}
	return b
}

func (l *life) opened() error { return l.Opened(l.bounds(), l.log) }

func (l *life) shows() error { return l.Shows(l.bounds(), 0, l.log) }

// append appends a batch, which is acknowledged and shown.
func (l *life) append(t *testing.T, name string, n int, epoch int32) {
	t.Helper()
	b, recs := l.try(name, n)
	base := l.end
	l.put(recs, epoch)
	require.NoError(t, l.Acked(b, base))
	require.NoError(t, l.shows())
}

// TestWhatACrashMayTake lets the power fail after three batches, of which the
// first was flushed, and says how much of them may be found, by policy.
func TestWhatACrashMayTake(t *testing.T) {
	for _, c := range []struct {
		name     string
		durable  bool
		stop     func(*life)
		left     int64 // records before this offset are found
		end      int64 // where the log goes on
		rejected string
	}{
		{"all is there", true, (*life).powerCut, 6, 6, ""},
		{"flushed before ack", true, (*life).powerCut, 4, 4, "is lost"},
		{"all is there, async", false, (*life).powerCut, 6, 6, ""},
		{"behind a gap all the same", false, (*life).powerCut, 6, 9, ""},
		{"a suffix", false, (*life).powerCut, 2, 6, ""},
		{"a suffix, behind a gap", false, (*life).powerCut, 4, 100, ""},
		{"offsets are used again", false, (*life).powerCut, 4, 5, "were used"},
		{"half a batch", false, (*life).powerCut, 3, 6, "want offset 2"},
		{"what was flushed", false, (*life).powerCut, 0, 6, "was flushed"},
		{"killed", false, (*life).killed, 6, 6, ""},
		{"killed, and lost", false, (*life).killed, 4, 6, "without a power cut"},
		{"killed, and a gap", false, (*life).killed, 6, 7, "goes on at 7"},
		{"a gap before ack", true, (*life).powerCut, 6, 7, "goes on at 7"},
		{"closed", false, (*life).closed, 6, 6, ""},
		{"closed, and lost", false, (*life).closed, 4, 6, "is lost"},
		{"closed, and a gap", false, (*life).closed, 6, 7, "goes on at 7"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := begin(c.durable)
			for i := range 3 {
				l.append(t, string(rune('a'+i)), 2, 0)
			}
			l.Flushed(2)
			c.stop(l)
			l.cut(c.left, c.end)
			if err := l.opened(); c.rejected != "" {
				require.ErrorContains(t, err, c.rejected)
			} else {
				require.NoError(t, err)
				require.Equal(t, c.end, l.Next())
			}
		})
	}
}

func (l *life) powerCut() { l.PowerCut() }
func (l *life) killed()   { l.Killed() }

// closed is a clean stop, after which the power fails.
func (l *life) closed() {
	l.Flushed(l.end) // closing flushes
	l.Closed(true)
	l.PowerCut()
}

// TestWhatIsOpenedStays finds less after a power cut; what was found then is not
// lost by the next one, and what was not does not come back.
func TestWhatIsOpenedStays(t *testing.T) {
	for _, left := range []int64{2, 4} {
		l := begin(false)
		l.append(t, "a", 2, 0)
		l.append(t, "b", 2, 0)
		before := l.log
		l.PowerCut()
		l.cut(2, 6)
		require.NoError(t, l.opened())
		l.PowerCut()
		if left == 2 {
			l.cut(0, 6)
			require.ErrorContains(t, l.opened(), "was flushed")
		} else {
			l.log = before
			require.ErrorContains(t, l.opened(), "appears")
		}
	}
}

// TestDoubtEndsWithOpening: a batch that is in doubt may be found, whole and at
// its place, until the log is opened next.
func TestDoubtEndsWithOpening(t *testing.T) {
	for name, c := range map[string]struct {
		first, second func(*life, []model.Record)
		rejected      string
	}{
		"found":      {func(l *life, recs []model.Record) { l.put(recs, 0) }, nil, ""},
		"lost":       {nil, nil, ""},
		"half":       {func(l *life, recs []model.Record) { l.put(recs[:1], 0) }, nil, "appears"},
		"other half": {func(l *life, recs []model.Record) { l.put(recs[1:], 0) }, nil, "appears"},
		"twice":      {func(l *life, recs []model.Record) { l.put(recs, 0); l.put(recs, 0) }, nil, "appears"},
		"changed":    {func(l *life, recs []model.Record) { recs[1].Value = "x"; l.put(recs, 0) }, nil, "not what was appended"},
		"at another time": {func(l *life, recs []model.Record) {
			recs[0].Timestamp, recs[1].Timestamp = 8, 8
			l.put(recs, 0)
		}, nil, "not what was appended"},
		"elsewhere": {func(l *life, recs []model.Record) { l.end++; l.put(recs, 0) }, nil, "not what was appended"},
		"later":     {nil, func(l *life, recs []model.Record) { l.put(recs, 0) }, "appears"},
	} {
		t.Run(name, func(t *testing.T) {
			l := begin(true)
			l.append(t, "a", 2, 0)
			_, recs := l.try("b", 2)
			for _, found := range []func(*life, []model.Record){c.first, c.second} {
				l.Killed()
				if found != nil {
					found(l, recs)
				}
				if err := l.opened(); err != nil {
					require.NotEmpty(t, c.rejected, err)
					require.ErrorContains(t, err, c.rejected)
					return
				}
			}
			require.Empty(t, c.rejected)
		})
	}
}

// TestFailedAppendsAreNotFound: nothing of a batch that failed may appear, and no
// record that nobody appended.
func TestFailedAppendsAreNotFound(t *testing.T) {
	l := begin(false)
	b, recs := l.try("a", 1)
	l.Failed(b)
	l.put(recs, 0)
	require.ErrorContains(t, l.shows(), "appears")
	require.ErrorContains(t, l.opened(), "appears")
}

// TestWhatIsShownStaysShown compares an open log: what was shown or acknowledged
// is there, at its place.
func TestWhatIsShownStaysShown(t *testing.T) {
	l := begin(true)
	l.append(t, "a", 2, 0)
	b, recs := l.try("b", 1)
	require.NoError(t, l.Acked(b, 2))
	require.ErrorContains(t, l.shows(), "is not shown")
	l.put(recs, 0)
	require.NoError(t, l.shows())
	require.Equal(t, l.log[1:3], l.Records(1, 3))
	require.ErrorContains(t, l.Shows(l.bounds(), 0, l.log[:2]), "not shown any more")

	b, recs = l.try("c", 1)
	require.ErrorContains(t, l.Acked(b, 2), "went on at 3")
	require.NoError(t, l.Acked(b, 4))
	l.put(recs, 0)
	require.ErrorContains(t, l.shows(), "acknowledged or seen at 4")
	l.log[0].Value = "x"
	require.ErrorContains(t, l.shows(), "was offset 0")
}

// TestLostAcknowledged loses batches that were acknowledged, or seen, but not yet
// compared.
func TestLostAcknowledged(t *testing.T) {
	for _, durable := range []bool{true, false} {
		for _, seen := range []bool{true, false} {
			l := begin(durable)
			b, recs := l.try("a", 2)
			if seen {
				recs[1].Offset = 1
				require.NoError(t, l.Saw(recs[1:]))
			} else {
				require.NoError(t, l.Acked(b, 0))
			}
			l.PowerCut()
			l.end = 2
			if durable {
				require.ErrorContains(t, l.opened(), "is lost")
			} else {
				require.NoError(t, l.opened())
			}
		}
	}
}

// TestSaw compares what a reader saw with what may be there.
func TestSaw(t *testing.T) {
	l := begin(false)
	l.append(t, "a", 2, 0)
	require.NoError(t, l.Saw(l.log))
	_, recs := l.try("b", 1)
	require.ErrorContains(t, l.Saw([]model.Record{{Offset: 2, Key: "x"}}), `saw "x"`)
	require.ErrorContains(t, l.Saw([]model.Record{{Offset: 1, Key: "b0"}}), `saw "b0"`)
	recs[0].Offset = 2
	require.NoError(t, l.Saw(recs))
	require.ErrorContains(t, l.shows(), "is not shown")
	recs[0].Offset = 3
	require.ErrorContains(t, l.Saw(recs), "was seen at 2")
}

// TestEpochs: after an unclean stop a new epoch begins, else none need to.
func TestEpochs(t *testing.T) {
	for name, c := range map[string]struct {
		stop     func(*life)
		epoch    int32
		rejected string
	}{
		"killed":                 {(*life).killed, 3, ""},
		"killed, the same epoch": {(*life).killed, 2, "epoch 2, want at least 3"},
		"closed":                 {(*life).closed, 2, ""},
		"closed, an older epoch": {(*life).closed, 1, "epoch 1, want at least 2"},
		"closed with errors":     {func(l *life) { l.Closed(false); l.Killed() }, 2, ""},
	} {
		t.Run(name, func(t *testing.T) {
			l := begin(true)
			l.append(t, "a", 1, 2)
			c.stop(l)
			require.NoError(t, l.opened())
			_, recs := l.try("b", 1)
			l.put(recs, c.epoch)
			if err := l.shows(); c.rejected != "" {
				require.ErrorContains(t, err, c.rejected)
			} else {
				require.NoError(t, err)
			}
		})
	}
}

// TestGapAfterAFailedFlush: a stop may leave a gap without a power cut if a flush
// had failed, until the partition is in use again.
func TestGapAfterAFailedFlush(t *testing.T) {
	l := begin(false)
	l.append(t, "a", 2, 0)
	l.MayLeaveGap()
	l.Killed()
	l.end = 9
	require.NoError(t, l.opened())
	l.append(t, "b", 1, 1)
	l.Killed()
	l.end = 20
	require.ErrorContains(t, l.opened(), "goes on at 20, want 10")
}

// TestAppendTime: the log gives a batch one time, and keeps it.
func TestAppendTime(t *testing.T) {
	l := begin(true)
	l.AppendTime = true
	_, recs := l.try("a", 2)
	recs[0].Timestamp, recs[1].Timestamp = 50, 51
	l.put(recs, 0)
	require.ErrorContains(t, l.shows(), "not what was appended")
	l.log[1].Timestamp = 50
	require.NoError(t, l.shows())
	l.log[1].Timestamp = 51
	require.ErrorContains(t, l.shows(), "was offset 1")
}

// TestBoundsAreInOrder rejects bounds that are not, or not where the records are.
func TestBoundsAreInOrder(t *testing.T) {
	for _, b := range []model.Bounds{
		{Start: 0, LastStable: 3, HighWatermark: 2, End: 2},
		{Start: 0, LastStable: 2, HighWatermark: 2, End: 1},
		{Start: 0, LastStable: 1, HighWatermark: 1, End: 2},
		{Start: 1, LastStable: 2, HighWatermark: 2, End: 2},
		{Start: -1, LastStable: 2, HighWatermark: 2, End: 2},
	} {
		l := begin(false)
		l.append(t, "a", 2, 0)
		require.Error(t, l.Shows(b, 0, l.log), b)
	}
}

// TestDeletedStaysDeleted deletes records: those that were to go may be gone, and
// are once that is acknowledged; no others are, and none comes back.
func TestDeletedStaysDeleted(t *testing.T) {
	for _, c := range []struct {
		name     string
		asked    int64
		acked    bool
		start    int64
		rejected string
	}{
		{"not asked for", 0, false, 0, ""},
		{"asked for", 3, false, 3, ""},
		{"asked for, and not done", 3, false, 0, ""},
		{"acknowledged", 3, true, 3, ""},
		{"all", 6, true, 6, ""},
		{"acknowledged, and back", 3, true, 0, "what is before 3 was deleted"},
		{"less than was acknowledged", 3, true, 2, "what is before 3 was deleted"},
		{"more than was asked for", 3, true, 4, "offset 4"},
		{"without being asked for", 0, false, 2, "offset 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := begin(true)
			for i := range 3 {
				l.append(t, string(rune('a'+i)), 2, 0)
			}
			undo := l.Deleting(5)
			undo()
			l.Deleting(c.asked)
			if c.acked {
				l.Deleted(c.asked)
			}
			l.log = l.log[c.start:]
			l.PowerCut()
			err := l.opened()
			if c.rejected != "" {
				require.ErrorContains(t, err, c.rejected)
				return
			}
			require.NoError(t, err)
			require.Equal(t, l.log, append([]model.Record{}, l.Records(0, 100)...))
			require.NoError(t, l.opened(), "as it was found")
			if len(l.log) > 1 {
				l.log = l.log[1:]
				require.Error(t, l.opened(), "it was decided when the log was opened")
			}
		})
	}
}
