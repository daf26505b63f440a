package riffle

import (
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/rifflelog/riffle/internal/batch"
	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// sent is a batch of n records as a leader sends it. Its records say which it
// is, and are longer if pad says so.
type sent struct {
	base  Offset
	n     int
	epoch int32
	pad   int
}

func (s sent) next() Offset { return s.base + Offset(s.n) }

func (s sent) value() string {
	return fmt.Sprintf("%d@%d", s.base, s.epoch) + strings.Repeat(".", s.pad)
}

func (s sent) encode() []byte { return s.encodeAt(1) }

// encodeAt is encode with a timestamp.
func (s sent) encodeAt(ts int64) []byte {
	var bld batch.Builder
	bld.Begin(nil, 0, 0)
	for range s.n {
		if err := batch.Add(&bld, ts, nil, []byte(s.value()), []Header(nil)); err != nil {
			panic(err)
		}
	}
	b, err := bld.Finish(batch.NoProducer)
	if err != nil {
		panic(err)
	}
	batch.Batch(b).SetBaseOffset(int64(s.base))
	batch.Batch(b).SetLeaderEpoch(s.epoch)
	return b
}

func encodeAll(all []sent) (set []byte) {
	for _, s := range all {
		set = append(set, s.encode()...)
	}
	return set
}

// run returns batches of one epoch that follow each other, of 1, 2, 3, 1... records.
func run(base Offset, epoch int32, batches int) (all []sent) {
	for i := range batches {
		s := sent{base: base, n: i%3 + 1, epoch: epoch}
		all, base = append(all, s), s.next()
	}
	return all
}

// endOf returns the offset after the last of all, which begin at start.
func endOf(start Offset, all []sent) Offset {
	if len(all) == 0 {
		return start
	}
	return all[len(all)-1].next()
}

// before returns those of all that lie before offset n as a whole.
func before(all []sent, n Offset) []sent {
	for i, s := range all {
		if s.next() > n {
			return all[:i]
		}
	}
	return all
}

// replicate appends all to p, as a follower does.
func replicate(t testing.TB, p *Partition, all []sent) {
	t.Helper()
	end, err := p.appendReplica(ctx, encodeAll(all))
	require.NoError(t, err)
	require.Equal(t, endOf(end, all), end)
}

// readSent returns the batches that p shows.
func readSent(p *Partition) (all []sent, err error) {
	for r, err := range p.Records(ctx, Earliest, nil) {
		if err != nil {
			return all, err
		}
		s := sent{n: 1}
		if _, err := fmt.Sscanf(string(r.Value), "%d@%d", &s.base, &s.epoch); err != nil {
			return all, err
		}
		if s.pad = strings.Count(string(r.Value), "."); s.value() != string(r.Value) || s.epoch != r.LeaderEpoch {
			return all, fmt.Errorf("record %d of epoch %d is %q", r.Offset, r.LeaderEpoch, r.Value)
		}
		last := len(all) - 1
		if last >= 0 && all[last].base == s.base {
			all[last].n++
		} else {
			all = append(all, s)
		}
		if got := endOf(0, all) - 1; got != r.Offset {
			return all, fmt.Errorf("record %d of the batch at %d is at offset %d", all[len(all)-1].n, s.base, r.Offset)
		}
	}
	return all, nil
}

func requireSent(t testing.TB, want []sent, p *Partition, args ...any) {
	t.Helper()
	got, err := readSent(p)
	require.NoError(t, err, args...)
	if len(want) == 0 {
		require.Empty(t, got, args...)
		return
	}
	require.Equal(t, want, got, args...)
}

// showAll commits all that p has.
func showAll(t testing.TB, p *Partition) {
	t.Helper()
	_, err := p.setHighWatermark(ctx, math.MaxInt64)
	require.NoError(t, err)
}

// epochsIn are the epochs of batches, as the cache has them.
func epochsIn(all []sent) []epochEntry {
	entries := []epochEntry(nil)
	for _, s := range all {
		if n := len(entries); n == 0 || entries[n-1].epoch < s.epoch {
			entries = append(entries, epochEntry{s.epoch, s.base})
		}
	}
	return entries
}

func requireEpochs(t require.TestingT, want []epochEntry, p *Partition) {
	require.Equal(t, want, append([]epochEntry(nil), p.epochs.load()...))
}

// A replica keeps its leader's offsets and epochs, shows none of the batches
// before it is told to, gives out no offsets itself, and finds all after
// opening again. Other partitions take nothing from a leader.
func TestReplicaKeepsOffsetsAndEpochs(t *testing.T) {
	for _, flush := range []FlushPolicy{FlushBeforeAck, FlushAsync} {
		fsys, dir := testDir(t)
		l := openAt(t, fsys, dir, nil)
		p := partOf(t, l, "topic", &TopicConfig{Flush: flush, SegmentBytes: 1024})
		_, err := p.appendReplica(ctx, run(0, 3, 1)[0].encode())
		require.ErrorIs(t, err, errNoReplica)
		require.ErrorIs(t, p.truncateTo(ctx, 0), errNoReplica)
		_, err = p.setHighWatermark(ctx, 0)
		require.ErrorIs(t, err, errNoReplica)

		require.NoError(t, p.becomeReplica(ctx, 0))
		all := run(0, 3, 40)
		all = append(all, run(endOf(0, all), 7, 40)...)
		replicate(t, p, all[:1])
		replicate(t, p, all[1:70])
		replicate(t, p, all[70:])
		_, err = p.Append(ctx, Record{})
		require.ErrorIs(t, err, errReplica)
		require.Equal(t, Bounds{End: endOf(0, all)}, p.Bounds())
		requireSent(t, nil, p)
		showAll(t, p)
		requireSent(t, all, p)
		require.Greater(t, len(segmentBases(p)), 5)
		require.NoError(t, l.Close())

		p = partOf(t, openAt(t, fsys, dir, nil), "topic", nil)
		requireSent(t, all, p)
		requireEpochs(t, epochsIn(all), p)
		require.NoError(t, p.becomeReplica(ctx, 5))
		requireSent(t, before(all, 5), p)
		more := run(endOf(0, all), 7, 10)
		replicate(t, p, more)
		showAll(t, p)
		requireSent(t, append(all, more...), p)
	}
}

// One bad batch refuses all of a leader's; what was cut short is left out, and
// nothing at all changes nothing. No batch is too large for a replica. Kafka:
// UnifiedLogTest, "append as follower".
func TestReplicaTakesWhatGoesOn(t *testing.T) {
	p := newPart(t, &TopicConfig{SegmentBytes: 1024, MaxMessageBytes: 200})
	require.NoError(t, p.becomeReplica(ctx, 0))
	all := run(0, 3, 5)
	replicate(t, p, all)
	end := endOf(0, all)
	corrupt := encodeAll(run(end, 3, 3))
	corrupt[len(corrupt)-1] ^= 1
	for name, c := range map[string]struct {
		set  []byte
		want error
	}{
		"corrupt":                 {corrupt, batch.ErrCorrupt},
		"below the end":           {encodeAll(run(end-1, 3, 3)), batch.ErrOffsetOrder},
		"overlapping":             {encodeAll([]sent{{end, 3, 3, 0}, {end + 2, 1, 3, 0}}), batch.ErrOffsetOrder},
		"an epoch that goes back": {encodeAll([]sent{{end, 1, 4, 0}, {end + 1, 1, 3, 0}}), batch.ErrOffsetOrder},
		"an older epoch":          {encodeAll(run(end, 2, 1)), batch.ErrOffsetOrder},
		"no epoch":                {encodeAll(run(end, -1, 1)), batch.ErrOffsetOrder},
		"a gap in an epoch":       {encodeAll([]sent{{end, 1, 3, 0}, {end + 2, 1, 3, 0}}), errGap},
		"a gap in a new epoch":    {encodeAll([]sent{{end + 1, 1, 4, 0}, {end + 9, 1, 4, 0}}), errGap},
	} {
		got, err := p.appendReplica(ctx, c.set)
		require.ErrorIs(t, err, c.want, name)
		require.Equal(t, end, got, name)
	}
	whole := run(end, 3, 30)
	set := encodeAll(whole)
	got, err := p.appendReplica(ctx, append(set, whole[0].encode()[:50]...))
	require.NoError(t, err)
	require.Equal(t, endOf(0, whole), got)
	bases := segmentBases(p)
	for _, nothing := range [][]byte{nil, whole[0].encode()[:7]} {
		got, err = p.appendReplica(ctx, nothing)
		require.NoError(t, err)
		require.Equal(t, endOf(0, whole), got)
	}
	require.Equal(t, bases, segmentBases(p))
	large := sent{got, 2, 3, 3000}
	replicate(t, p, []sent{large})
	showAll(t, p)
	requireSent(t, append(append(all, whole...), large), p)
}

// A leader's epoch may begin behind a gap. A segment's offsets span less than
// 2^31, and the next one begins with the first batch that is in it, however far
// that is. Kafka: UnifiedLogTest, "offset overflow", LogSegment.shouldRoll.
func TestReplicaOfASparseLog(t *testing.T) {
	fsys, dir := testDir(t)
	l := openAt(t, fsys, dir, nil)
	p := partOf(t, l, "topic", nil)
	require.NoError(t, p.becomeReplica(ctx, 0))
	all := []sent{{10, 2, 0, 0}, {100, 1, 1, 0}, {10 + math.MaxInt32, 1, 2, 0}, {11 + math.MaxInt32, 1, 2, 0}, {1 << 40, 3, 5, 0}}
	for _, s := range all {
		replicate(t, p, []sent{s})
	}
	bases := []Offset{10, 11 + math.MaxInt32, 1 << 40}
	require.Equal(t, bases, segmentBases(p))
	for i, s := range all {
		// Round down, and show what is before.
		for _, o := range []Offset{s.base, s.next() - 1, s.next()} {
			require.NoError(t, p.becomeReplica(ctx, o))
			requireSent(t, before(all, o), p, "batch %d, high watermark %d", i, o)
		}
	}
	require.NoError(t, l.Close())
	p = partOf(t, openAt(t, fsys, dir, nil), "topic", nil)
	require.Equal(t, bases, segmentBases(p))
	requireSent(t, all, p)
	require.NoError(t, p.becomeReplica(ctx, 0))
	for i := len(all) - 1; i >= 0; i-- {
		require.NoError(t, p.truncateTo(ctx, all[i].base))
		showAll(t, p)
		requireSent(t, all[:i], p)
	}
}

// A leader's first batch may be behind a gap: the log starts with it, and its bounds
// are in order before anything is committed.
func TestReplicaThatStartsBehindAGap(t *testing.T) {
	p := newPart(t, nil)
	require.NoError(t, p.becomeReplica(ctx, 0))
	for _, base := range []Offset{10, 105} {
		all := run(base, int32(base), 3)
		replicate(t, p, all)
		end := endOf(base, all)
		require.Equal(t, Bounds{Start: base, LastStable: base, HighWatermark: base, End: end}, p.Bounds())
		requireSent(t, nil, p)
		showAll(t, p)
		requireSent(t, all, p)
		require.NoError(t, p.truncateFullyAndStartAt(ctx, 100))
	}
}

// A first append that failed has begun the log at its offset. Behind a gap another
// one begins it anew: what is appended there is found again.
func TestFirstAppendThatFailsLeavesNoGap(t *testing.T) {
	for _, flush := range []FlushPolicy{FlushBeforeAck, FlushAsync} {
		fsys := errfs.New(memfs.New())
		l, err := open(fsys, "/data", nil)
		require.NoError(t, err)
		p := partOf(t, l, "topic", &TopicConfig{Flush: flush, FlushInterval: Forever})
		require.NoError(t, p.becomeReplica(ctx, 0))
		for _, kind := range []errfs.Kind{errfs.Write, errfs.MapWrite} {
			fsys.Add(errfs.Rule{Kind: kind, Name: p.path(logFileName(0)), Times: 1, Err: vfs.ErrNoSpace})
		}
		_, err = p.appendReplica(ctx, sent{0, 1, 0, 0}.encode())
		require.ErrorIs(t, err, ErrDiskFull)
		all := run(10, 1, 3)
		replicate(t, p, all)
		require.Equal(t, Offset(10), p.Bounds().Start)
		require.NoError(t, kill(l))
		l, err = open(fsys, "/data", nil)
		require.NoError(t, err)
		p = partOf(t, l, "topic", nil)
		requireSent(t, all, p)
		require.Equal(t, []Offset{10}, segmentBases(p))
		require.NoError(t, l.Close())
	}
}

// A replica that begins anew, behind a gap or not, has the process killed before its
// directory is whole: the file that was made is not one that others are missing
// before, nor one of which all was deleted.
func TestKilledWhileBeginningAnewBehindAGap(t *testing.T) {
	for _, base := range []Offset{10, 20} {
		fsys := errfs.New(memfs.New())
		l, err := open(fsys, "/data", nil)
		require.NoError(t, err)
		p := partOf(t, l, "topic", nil)
		require.NoError(t, p.becomeReplica(ctx, 0))
		require.NoError(t, p.truncateFullyAndStartAt(ctx, 10))
		remove := fsys.FailSite(siteEpochs+".flush", 1, vfs.ErrNoSpace)
		_, err = p.appendReplica(ctx, sent{base, 1, 0, 0}.encode())
		require.ErrorIs(t, err, ErrDiskFull)
		remove()
		require.NoError(t, kill(l))
		l = openAt(t, fsys, "/data", nil)
		p = partOf(t, l, "topic", nil)
		require.NoError(t, p.becomeReplica(ctx, 0))
		all := run(base, 1, 3)
		replicate(t, p, all)
		showAll(t, p)
		requireSent(t, all, p)
	}
}

// A first append that fails behind a gap leaves a file. That the log begins before
// that is not forgotten for its sake when the process is killed.
func TestUnfinishedFileIsNoStart(t *testing.T) {
	fsys := errfs.New(memfs.New())
	l, err := open(fsys, "/data", nil)
	require.NoError(t, err)
	p := partOf(t, l, "topic", nil)
	require.NoError(t, p.becomeReplica(ctx, 0))
	require.NoError(t, p.truncateFullyAndStartAt(ctx, 3))
	remove := fsys.FailSite(siteEpochs+".flush", 1, vfs.ErrNoSpace)
	_, err = p.appendReplica(ctx, sent{5, 1, 0, 0}.encode())
	require.ErrorIs(t, err, ErrDiskFull)
	remove()
	require.NoError(t, kill(l))
	l = openAt(t, fsys, "/data", nil)
	p = partOf(t, l, "topic", nil)
	require.NoError(t, p.becomeReplica(ctx, 0))
	require.Equal(t, Bounds{3, 3, 3, 3}, p.Bounds())
}

// An epoch that began at the end, and of which no batch was kept, is in the checkpoint.
// A replica's leader may go on there in an earlier one: after a clean stop the
// checkpoint has that.
func TestEpochWithoutABatchIsForgotten(t *testing.T) {
	fsys := errfs.New(memfs.New())
	l, err := open(fsys, "/data", nil)
	require.NoError(t, err)
	p := partOf(t, l, "topic", nil)
	require.NoError(t, p.becomeReplica(ctx, 0))
	all := run(0, 7, 3)
	replicate(t, p, all)
	remove := fsys.FailSite(siteBeginBounds, 1, vfs.ErrNoSpace)
	write := noSpaceFor(fsys, p.path(logFileName(0)))
	_, err = p.appendReplica(ctx, sent{6, 1, 8, 0}.encode())
	require.ErrorIs(t, err, ErrDiskFull)
	remove()
	write()
	require.NoError(t, kill(l))
	l, err = open(fsys, "/data", nil)
	require.NoError(t, err)
	p = partOf(t, l, "topic", nil)
	require.NoError(t, p.becomeReplica(ctx, 0))
	all = append(all, run(6, 7, 3)...)
	replicate(t, p, all[3:])
	data, err := vfs.ReadFile(fsys, p.path(epochCheckpointName), maxSideFile)
	require.NoError(t, err)
	require.Equal(t, "0\n1\n7 0\n", string(data))
	require.NoError(t, l.Close())
	p = partOf(t, openAt(t, fsys, "/data", nil), "topic", nil)
	requireSent(t, all, p)
	requireEpochs(t, epochsIn(all), p)
}

// An epoch does not begin, since the disk is full: an earlier one goes on where it was
// to begin, in memory and in the checkpoint, before its batches are written.
func TestEarlierEpochGoesOnWhereOneDidNotBegin(t *testing.T) {
	for _, site := range []vfs.Site{siteEpochs + ".syncdir", siteBeginBounds} {
		fsys := errfs.New(memfs.New())
		l, err := open(fsys, "/data", nil)
		require.NoError(t, err)
		p := partOf(t, l, "topic", nil)
		require.NoError(t, p.becomeReplica(ctx, 0))
		all := run(0, 7, 3)
		replicate(t, p, all)
		remove := fsys.FailSite(site, 1, vfs.ErrNoSpace)
		_, err = p.appendReplica(ctx, sent{6, 1, 8, 0}.encode())
		require.ErrorIs(t, err, ErrDiskFull)
		remove()
		requireEpochs(t, epochsIn(all), p)
		all = append(all, run(6, 7, 3)...)
		replicate(t, p, all[3:])
		requireEpochs(t, epochsIn(all), p)
		data, err := vfs.ReadFile(fsys, p.path(epochCheckpointName), maxSideFile)
		require.NoError(t, err)
		require.Equal(t, "0\n1\n7 0\n", string(data))
		require.NoError(t, l.Close())
	}
}

// A power cut leaves a replica's epochs and none of its batches: the last epoch is behind
// where the log began. The process is killed while the gap is cut off: the log does not
// begin behind it, where it would miss what its leader has before.
func TestKilledWhileAnEmptyReplicaIsCut(t *testing.T) {
	disk := memfs.New()
	l, err := open(disk, "/data", nil)
	require.NoError(t, err)
	p := partOf(t, l, "topic", &TopicConfig{Flush: FlushAsync, FlushInterval: Forever})
	require.NoError(t, p.becomeReplica(ctx, 0))
	replicate(t, p, []sent{{0, 1, 0, 0}, {1, 1, 0, 0}, {2, 1, 1, 0}})
	require.NoError(t, kill(l))
	fsys := errfs.New(powerCut(t, disk, func(c *memfs.FS) bool {
		data, err := vfs.ReadFile(c, "/data/topic-0/"+logFileName(0), 1<<20)
		return err == nil && allZero(data)
	}))
	l, err = open(fsys, "/data", nil)
	require.NoError(t, err)
	p = partOf(t, l, "topic", nil)
	remove := fsys.FailSite(siteTruncateEpochs, 1, errfs.ErrInjected)
	require.ErrorIs(t, p.becomeReplica(ctx, 0), errfs.ErrInjected)
	remove()
	require.NoError(t, kill(l))
	p = partOf(t, openAt(t, fsys, "/data", nil), "topic", nil)
	require.NoError(t, p.becomeReplica(ctx, 0))
	require.Equal(t, Bounds{}, p.Bounds())
}

// What an attempt to begin a segment has left is gone when one begins at another
// offset: beside that, a killed process would leave it as a segment, or as damage. The
// attempts are a first append, a roll, and one that is to replace an empty segment.
func TestUnfinishedFileIsRemoved(t *testing.T) {
	large := func(base Offset, epoch int32) sent { return sent{base, 1, epoch, 1000} }
	for _, c := range []struct {
		name  string
		there []sent
		fails sent
		site  vfs.Site
		then  []sent
		bases []Offset
	}{
		{"first append, behind", nil, sent{5, 1, 0, 0}, siteEpochs + ".flush", run(0, 1, 4), []Offset{0}},
		{"first append, before", nil, sent{5, 1, 0, 0}, siteEpochs + ".flush", run(20, 1, 4), []Offset{20}},
		{"roll", run(0, 0, 2), large(3, 0), siteRollSyncDir, []sent{large(9, 1)}, []Offset{0, 9}},
	} {
		fsys := errfs.New(memfs.New())
		l, err := open(fsys, "/data", nil)
		require.NoError(t, err, c.name)
		p := partOf(t, l, "topic", &TopicConfig{SegmentBytes: 1024})
		require.NoError(t, p.becomeReplica(ctx, 0), c.name)
		replicate(t, p, c.there)
		remove := fsys.FailSite(c.site, 1, vfs.ErrNoSpace)
		_, err = p.appendReplica(ctx, c.fails.encode())
		require.ErrorIs(t, err, ErrDiskFull, c.name)
		remove()
		replicate(t, p, c.then)
		require.NoError(t, kill(l), c.name)
		l, err = open(fsys, "/data", nil)
		require.NoError(t, err, c.name)
		p = partOf(t, l, "topic", nil)
		require.Equal(t, c.bases, segmentBases(p), c.name)
		requireSent(t, append(c.there, c.then...), p, c.name)
		require.NoError(t, l.Close(), c.name)
	}
}

// A segment that has no batch is to be replaced by one behind a gap, which fails. A
// batch that goes where the first one was finds a segment, not one that is removed, also
// after a truncation.
func TestEmptySegmentIsMadeAgain(t *testing.T) {
	testEmptySegment(t, false)
	testEmptySegment(t, true)
}

func testEmptySegment(t *testing.T, truncate bool) {
	fsys := errfs.New(memfs.New())
	l, err := open(fsys, "/data", nil)
	require.NoError(t, err)
	p := partOf(t, l, "topic", nil)
	require.NoError(t, p.becomeReplica(ctx, 0))
	write := noSpaceFor(fsys, p.path(logFileName(0)))
	_, err = p.appendReplica(ctx, sent{0, 1, 1, 0}.encode())
	require.ErrorIs(t, err, ErrDiskFull)
	write()
	remove := fsys.FailSite(siteRollSyncDir, 1, vfs.ErrNoSpace)
	_, err = p.appendReplica(ctx, sent{10, 1, 2, 0}.encode())
	require.ErrorIs(t, err, ErrDiskFull)
	remove()
	if truncate {
		require.NoError(t, p.truncateTo(ctx, 0))
	}
	all := run(0, 1, 3)
	replicate(t, p, all)
	require.NoError(t, kill(l))
	l = openAt(t, fsys, "/data", nil)
	p = partOf(t, l, "topic", nil)
	requireSent(t, all, p)
	require.Equal(t, []Offset{0}, segmentBases(p))
}

// Two first appends fail, at different offsets, before the directory is whole, and
// the process is killed: nothing was appended, and nothing is missed.
func TestFirstAppendsThatFailElsewhere(t *testing.T) {
	fsys := errfs.New(memfs.New())
	l, err := open(fsys, "/data", nil)
	require.NoError(t, err)
	p := partOf(t, l, "topic", nil)
	require.NoError(t, p.becomeReplica(ctx, 0))
	for _, base := range []Offset{0, 10} {
		remove := fsys.FailSite(siteEpochs+".flush", 1, vfs.ErrNoSpace)
		_, err := p.appendReplica(ctx, sent{base, 1, 0, 0}.encode())
		require.ErrorIs(t, err, ErrDiskFull)
		remove()
	}
	require.NoError(t, kill(l))
	for range 2 {
		l, err := open(fsys, "/data", nil)
		require.NoError(t, err)
		p = partOf(t, l, "topic", nil)
		require.NoError(t, p.becomeReplica(ctx, 0))
		all := run(p.Bounds().End, 1, 3)
		replicate(t, p, all)
		showAll(t, p)
		require.NoError(t, l.Close())
	}
}

// The high watermark is between start and end, at the end of a batch, and only
// rises; what is shown ends there. Kafka: UnifiedLogTest, "high watermark".
func TestHighWatermarkOfAReplica(t *testing.T) {
	all := run(0, 1, 60)
	p := newPart(t, &TopicConfig{SegmentBytes: 1024})
	require.NoError(t, p.becomeReplica(ctx, 0))
	replicate(t, p, all)
	hw, err := p.setHighWatermark(ctx, -5)
	require.NoError(t, err)
	require.Zero(t, hw)
	for o := range endOf(0, all) + 3 {
		hw, err := p.setHighWatermark(ctx, o)
		require.NoError(t, err)
		shown := before(all, o)
		require.Equal(t, endOf(0, shown), hw)
		require.Equal(t, Bounds{LastStable: hw, HighWatermark: hw, End: endOf(0, all)}, p.Bounds())
		requireSent(t, shown, p)
		back, err := p.setHighWatermark(ctx, o-2)
		require.NoError(t, err)
		require.Equal(t, hw, back)
	}
	for _, from := range []Offset{-3, endOf(0, all) + 1} {
		_, err = collect(p, from)
		require.Error(t, err)
	}
}

// A truncation waits for a high watermark whose place is being looked for among
// batches that are not committed: they may be cut in place.
func TestHighWatermarkIsSetBeforeACut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys, _, p := slowFS(t, nil)
		require.NoError(t, p.becomeReplica(ctx, 0))
		all := run(0, 1, 12)
		replicate(t, p, all)
		arrived, release := fsys.Block(errfs.Rule{Kind: errfs.Read, Name: p.path(logFileName(0)), Times: 1})
		var wg sync.WaitGroup
		wg.Go(func() {
			hw, err := p.setHighWatermark(ctx, 8)
			require.NoError(t, err)
			require.LessOrEqual(t, hw, Offset(7))
		})
		<-arrived
		wg.Go(func() { require.NoError(t, p.truncateTo(ctx, 3)) })
		synctest.Wait()
		require.Equal(t, endOf(0, all), p.Bounds().End)
		release()
		wg.Wait()
		require.Equal(t, Bounds{LastStable: 3, HighWatermark: 3, End: 3}, p.Bounds())
		requireSent(t, before(all, 3), p)
	})
}

// A crash may bring back space that was cut behind the end of a segment. Neither a
// high watermark nor a cut in the one that follows takes that for damage.
func TestSpaceBehindASegmentIsNoDamage(t *testing.T) {
	fsys, dir := testDir(t)
	cfg := &TopicConfig{SegmentBytes: 1024}
	l := openAt(t, fsys, dir, nil)
	p := partOf(t, l, "topic", cfg)
	require.NoError(t, p.becomeReplica(ctx, 0))
	all := []sent{{0, 1, 1, 0}, {1, 3, 1, 1000}, {4, 1, 1, 1000}}
	replicate(t, p, all)
	require.Equal(t, []Offset{0, 1, 4}, segmentBases(p))
	require.NoError(t, l.Close())
	for _, spare := range []int64{20, 3000} {
		edit(t, fsys, p.path(logFileName(0)), func(f vfs.File, _ int64) error { return f.Truncate(int64(len(all[0].encode())) + spare) })
		l = openAt(t, fsys, dir, nil)
		p = partOf(t, l, "topic", nil)
		require.NoError(t, p.becomeReplica(ctx, 2))
		requireSent(t, all[:1], p)
		require.NoError(t, p.truncateTo(ctx, 3))
		require.Equal(t, Offset(1), p.Bounds().End)
		replicate(t, p, all[1:])
		showAll(t, p)
		requireSent(t, all, p)
		require.NoError(t, l.Close())
	}
}

// Where a high watermark cannot be found since a header is damaged, it stays, and
// the error says where. The partition goes on.
func TestHighWatermarkBehindADamagedHeader(t *testing.T) {
	p := newPart(t, nil)
	require.NoError(t, p.becomeReplica(ctx, 0))
	all := run(0, 1, 12)
	replicate(t, p, all)
	edit(t, p.topic.log.fs, p.path(logFileName(0)), func(f vfs.File, _ int64) error {
		_, err := f.WriteAt([]byte{9}, int64(len(encodeAll(all[:3])))+7) // the base offset, 6
		return err
	})
	hw, err := p.setHighWatermark(ctx, 8)
	var ce *CorruptError
	require.ErrorAs(t, err, &ce)
	require.Equal(t, Offset(6), ce.Offset)
	require.Zero(t, hw)
	hw, err = p.setHighWatermark(ctx, 6)
	require.NoError(t, err)
	require.Equal(t, Offset(6), hw)
	replicate(t, p, run(endOf(0, all), 1, 3))
}

// Who waits behind a gap hears of it when becoming a replica cuts that off.
func TestBecomingAReplicaWakesWhoWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, p := openGap(t, afterLoss(t, 3))
		failed := make(chan error)
		go func() {
			var err error
			for _, err = range p.Follow(ctx, 0, nil) {
				continue
			}
			failed <- err
		}()
		synctest.Wait()
		require.NoError(t, p.becomeReplica(ctx, 0)) // nothing is committed by that
		var oe *OffsetError
		require.ErrorAs(t, <-failed, &oe)
		require.Equal(t, OffsetError{Offset: 100, End: 3}, *oe)
		require.NoError(t, l.Close())
	})
}

// The log end is shown at every moment, with nobody waiting for the lock: whether the
// high watermark is that, or less, or goes back since the partition becomes a replica.
// Who looks finds it never below the high watermark, and going back only by a cut.
func TestLogEndAtEveryMoment(t *testing.T) {
	for name, cfg := range bothPolicies {
		t.Run(name, func(t *testing.T) {
			p := partOf(t, openAt(t, memfs.New(), "/data", nil), "topic", cfg)
			done := make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() {
				var last snapshot
				for range until(done) {
					s := p.snapshot()
					if s.end < s.highWatermark || s.end < last.end && s.cuts == last.cuts {
						t.Errorf("log end %d, high watermark %d; log end before: %d", s.end, s.highWatermark, last.end)
						return
					}
					last = s
				}
			})
			shown := func(hw, end Offset) {
				t.Helper()
				require.Equal(t, Bounds{LastStable: hw, HighWatermark: hw, End: end}, p.Bounds())
			}
			for i := range 60 {
				appendValues(t, p, i, i+1)
				shown(Offset(i+1), Offset(i+1))
			}
			require.NoError(t, p.becomeReplica(ctx, 50))
			shown(50, 60)
			for _, s := range run(60, 1, 30) {
				replicate(t, p, []sent{s})
				shown(50, s.next())
			}
			showAll(t, p)
			shown(120, 120)
			require.NoError(t, p.truncateTo(ctx, 70))
			shown(69, 69) // the batch that 70 is in goes as a whole
			close(done)
			wg.Wait()
		})
	}
}

// Who follows sees records when they are committed, not when they are there.
func TestFollowAReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, l, p := slowFS(t, &TopicConfig{SegmentBytes: 1024})
		require.NoError(t, p.becomeReplica(ctx, 0))
		var got []Offset
		var wg sync.WaitGroup
		wg.Go(func() {
			for r, err := range p.Follow(ctx, 0, nil) {
				if err != nil {
					require.ErrorIs(t, err, ErrClosed)
					return
				}
				got = append(got, r.Offset)
			}
		})
		all := run(0, 1, 40)
		replicate(t, p, all)
		synctest.Wait()
		require.Empty(t, got)
		for _, s := range all {
			_, err := p.setHighWatermark(ctx, s.next())
			require.NoError(t, err)
			synctest.Wait()
			require.Len(t, got, int(s.next()))
		}
		require.NoError(t, l.Close())
		wg.Wait()
	})
}

// Under FlushBeforeAck nothing is committed that is not flushed, whatever the
// leader says.
func TestReplicaShowsOnlyWhatIsFlushed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys, _, p := slowFS(t, nil)
		require.NoError(t, p.becomeReplica(ctx, 0))
		all := run(0, 1, 6)
		replicate(t, p, all[:3])
		arrived, release := fsys.Block(errfs.Rule{Site: siteFlush})
		done := make(chan struct{})
		go func() { defer close(done); replicate(t, p, all[3:]) }()
		<-arrived
		hw, err := p.setHighWatermark(ctx, endOf(0, all))
		require.NoError(t, err)
		require.Equal(t, endOf(0, all[:3]), hw)
		requireSent(t, all[:3], p)
		release()
		<-done
		showAll(t, p)
		requireSent(t, all, p)
	})
}

// A batch behind a gap has begun its epoch and was not written: the log goes on behind the
// gap, and nothing of that is committed, until there is a batch.
func TestHighWatermarkStaysOutOfAGap(t *testing.T) {
	for _, flush := range []FlushPolicy{FlushBeforeAck, FlushAsync} {
		fsys, _, p := slowFS(t, &TopicConfig{Flush: flush, FlushInterval: Forever})
		require.NoError(t, p.becomeReplica(ctx, 0))
		all := run(0, 1, 3)
		replicate(t, p, all)
		for _, kind := range []errfs.Kind{errfs.Write, errfs.MapWrite} {
			fsys.Add(errfs.Rule{Kind: kind, Name: p.path(logFileName(0)), Times: 1, Err: vfs.ErrNoSpace})
		}
		end, err := p.appendReplica(ctx, sent{20, 1, 2, 0}.encode())
		require.ErrorIs(t, err, ErrDiskFull)
		require.Equal(t, Offset(20), end)
		showAll(t, p)
		require.Equal(t, Bounds{LastStable: 6, HighWatermark: 6, End: 20}, p.Bounds())
		requireSent(t, all, p)
		more := sent{30, 2, 3, 0}
		_, err = p.appendReplica(ctx, more.encode())
		require.NoError(t, err)
		require.Equal(t, Bounds{LastStable: 6, HighWatermark: 6, End: 32}, p.Bounds())
		showAll(t, p)
		requireSent(t, append(all, more), p)
	}
}

// An unclean stop of a partition of its own leaves a gap; becoming a replica
// cuts it off, also if an epoch has begun behind it.
func TestReplicaHasNoGapAtItsEnd(t *testing.T) {
	for _, kept := range []int{0, 3} {
		for _, begun := range []bool{false, true} {
			disk := afterLoss(t, kept)
			fsys := errfs.New(disk)
			l, p := openGap(t, fsys)
			if begun {
				remove := noSpaceFor(fsys, p.path(logFileName(0)), p.path(logFileName(100)))
				_, err := p.Append(ctx, Record{})
				require.ErrorIs(t, err, ErrDiskFull)
				remove()
			}
			require.Equal(t, Offset(100), p.Bounds().End)
			require.NoError(t, p.becomeReplica(ctx, 100))
			want := Bounds{LastStable: Offset(kept), HighWatermark: Offset(kept), End: Offset(kept)}
			require.Equal(t, want, p.Bounds(), "%d kept, begun: %v", kept, begun)
			more := run(Offset(kept), 1, 3)
			replicate(t, p, more)
			require.NoError(t, kill(l))
			l, p = openGap(t, disk)
			require.Equal(t, endOf(0, more), p.Bounds().End)
			require.NoError(t, l.Close())
		}
	}
}

// After any truncations, appends and high watermarks, killed in between or not,
// a replica is what a list of batches says.
func TestReplicaAgreesWithAList(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		fsys := memfs.New()
		flush := rapid.SampledFrom([]FlushPolicy{FlushBeforeAck, FlushAsync}).Draw(t, "flush")
		var all []sent
		var start, hw Offset
		epoch := int32(0)
		var l *Log
		var p *Partition
		reopen := func() {
			l = openAt2(t, fsys)
			top, err := l.EnsureTopic(ctx, "topic", &TopicConfig{Flush: flush, FlushInterval: Forever, SegmentBytes: 1024})
			require.NoError(t, err)
			p = top.all()[0]
			require.NoError(t, p.becomeReplica(ctx, hw))
		}
		reopen()
		offset := func(name string) Offset {
			return Offset(rapid.Int64Range(max(0, int64(start)-3), int64(endOf(start, all))+3).Draw(t, name))
		}
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			switch rapid.IntRange(0, 7).Draw(t, "what") {
			case 0, 1, 2:
				epoch += rapid.Int32Range(0, 1).Draw(t, "epoch")
				more := run(endOf(start, all), epoch, rapid.IntRange(1, 25).Draw(t, "batches"))
				_, err := p.appendReplica(ctx, encodeAll(more))
				require.NoError(t, err)
				all = append(all, more...)
			case 3:
				o := offset("high watermark")
				got, err := p.setHighWatermark(ctx, o)
				require.NoError(t, err)
				hw = max(hw, endOf(start, before(all, o)))
				require.Equal(t, hw, got)
			case 4, 5:
				n := offset("cut")
				require.NoError(t, p.truncateTo(ctx, n))
				all, epoch = before(all, n), epoch+1
				start = min(start, n)
				if hw = min(hw, endOf(start, all)); len(all) == 0 {
					hw = start
				}
			case 6:
				start = offset("restart")
				require.NoError(t, p.truncateFullyAndStartAt(ctx, start))
				all, hw, epoch = nil, start, epoch+1
			case 7:
				if rapid.Bool().Draw(t, "killed") {
					require.NoError(t, kill(l))
				} else {
					require.NoError(t, l.Close())
				}
				reopen()
			}
			all = all[:len(all):len(all)]
			require.Equal(t, Bounds{Start: start, LastStable: hw, HighWatermark: hw, End: endOf(start, all)}, p.Bounds())
			requireEpochs(t, epochsIn(all), p)
			got, err := readSent(p)
			require.NoError(t, err)
			require.Equal(t, append([]sent{}, before(all, hw)...), append([]sent{}, got...))
		}
		require.NoError(t, l.Close())
	})
}

// openAt2 is openAt for a rapid.T.
func openAt2(t *rapid.T, fsys vfs.FS) *Log {
	l, err := open(fsys, "/data", nil)
	require.NoError(t, err)
	return l
}
