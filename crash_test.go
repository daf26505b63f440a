package riffle

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/invariants"
	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// crashRun runs a small workload on a file system in memory, and at each of its
// operations lets the power fail in several ways. Each state that the disk
// could be in is opened, compared with what had been acknowledged, and lives on
// for a while: recovery itself is crashed too.
type crashRun struct {
	mem   *memfs.FS
	fs    *errfs.FS
	skip  vfs.Site // left out everywhere; none if empty
	seeds uint64   // states drawn per operation

	// What was promised so far.
	topic       bool   // the topic "sure" exists
	acked, sent int    // records of "sure", which is FlushBeforeAck
	asyncSent   int    // records of "async", which is FlushAsync
	asyncEnd    Offset // no offset below it may be used again
	asyncEpoch  int32  // the last one of "async" with a record
	clean       bool   // the log is closed, or being closed

	extra  int   // records that verify appended to each topic, here and not in a copy
	broken error // the first promise that was not kept
	states int
}

// crashEverywhere returns the first promise that a crash broke, with the given
// site left out, and how many states it looked at.
func crashEverywhere(skip vfs.Site, seeds uint64) (states int, sites []vfs.Site, broken error) {
	// What shows without a crash at each operation shows sooner.
	if c := newCrashRun(skip, seeds, 0, 0); c.broken != nil || seeds == 0 {
		return c.states, c.fs.Sites(), c.broken
	}
	c := newCrashRun(skip, seeds, 1, 0)
	return c.states, c.fs.Sites(), c.broken
}

var errDead = errors.New("the process is dead")

// killEverywhere runs the workload once for each of its operations, or for one of
// every from a given one on, and lets the process die there: neither that operation
// nor any later one is done. The next process must find what was acknowledged, and
// what it shows and appends must survive a power cut.
func killEverywhere(skip vfs.Site, every, from int64) error {
	for n := 1 + from%every; ; n += every {
		mem := memfs.New()
		c := &crashRun{mem: mem, fs: errfs.New(mem), skip: skip}
		c.fs.Skip(skip)
		c.fs.OnOp(func(op errfs.Op) error {
			if op.N >= n {
				return errDead
			}
			return nil
		})
		err := c.workload()
		if c.fs.Ops() < n {
			return err
		}
		for seed := range uint64(3) {
			if err := c.verify(mem, seed); err != nil {
				return fmt.Errorf("killed at operation %d, seed %d: %w", n, seed, err)
			}
			c.extra++ // verify has appended one more
		}
	}
}

// newCrashRun lets the power fail at one operation of every, see sampled; at none if that
// is 0.
func newCrashRun(skip vfs.Site, seeds uint64, every, from int64) *crashRun {
	mem := memfs.New()
	c := &crashRun{mem: mem, fs: errfs.New(mem), skip: skip, seeds: seeds}
	c.fs.Skip(skip)
	var mu sync.Mutex // opening flushes in the background
	c.fs.OnOp(func(op errfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		if every > 0 && op.N%every == from%every && c.broken == nil && changes(op) {
			c.crash(op)
		}
		return nil
	})
	err := c.workload()
	if c.broken == nil {
		c.broken = err
	}
	c.fs.OnOp(nil)
	if c.broken == nil {
		c.broken = c.afterwards()
	}
	return c
}

// changes says whether an operation may change what a crash leaves. Until the next that
// does, a crash leaves the same, while more is promised: so the moment before it is the
// one to look at.
func changes(op errfs.Op) bool {
	switch op.Kind {
	case errfs.Open, errfs.OpenWrite, errfs.ReadDir, errfs.Stat, errfs.Space, errfs.BootID, errfs.Check, errfs.Read,
		errfs.Close, errfs.Size, errfs.Map, errfs.MapRead, errfs.Prefault, errfs.Detach, errfs.Unmap, errfs.Unlock:
		return false
	}
	return true
}

const crashDir = "/parent/data"

// openCrashed opens a log that has to raise its ceiling often, maps files at once,
// and flushes bounds only where something depends on it. What opening does in the
// background is done when it returns.
func openCrashed(fsys vfs.FS) (*Log, error) { return openCrashedWith(fsys, nil) }

func openCrashedWith(fsys vfs.FS, opts *Options) (*Log, error) {
	l, err := openTuned(fsys, crashDir, opts, tuning{ceilingStep: 3, boundsDelay: Forever, minTouch: 8 << 10, reserveBytes: 4096, sealAtOnce: true})
	if err == nil {
		l.tasks.Wait()
	}
	return l, err
}

// crashSegment lets two or three batches into a file.
const crashSegment = 24 << 10

// workload opens, appends, closes, opens again and appends more. Then it stops
// twice without closing, as a killed process does.
func (c *crashRun) workload() error {
	for range 2 {
		l, err := openCrashed(c.fs)
		if err != nil {
			return err
		}
		if err := c.appends(l, 3); err != nil {
			return errors.Join(err, l.Close())
		}
		if err := c.failedRoll(l); err != nil {
			return errors.Join(err, l.Close())
		}
		c.clean = true // or on the way to it
		if err := l.Close(); err != nil {
			return err
		}
	}
	for range 2 { // the second time after an unclean stop
		l, err := openCrashed(c.fs)
		if err != nil {
			return err
		}
		if err := errors.Join(c.appends(l, 2), kill(l)); err != nil {
			return err
		}
	}
	return nil
}

// failedRoll lets a roll fail after it has made its file.
func (c *crashRun) failedRoll(l *Log) error {
	remove := c.fs.FailSite(siteRollSyncDir, 0, vfs.ErrNoSpace)
	defer remove()
	_, err := partitionOf(l, "sure").Append(ctx, Record{Value: make([]byte, crashSegment-100)})
	if !errors.Is(err, ErrDiskFull) && c.skip != siteRollSyncDir {
		return fmt.Errorf("roll with a full disk: %w", err)
	}
	return nil
}

// kill ends l as the end of its process would: what is in memory is gone, what
// the operating system has stays. What l has begun in the background ends first.
func kill(l *Log) error {
	l.taskMu.Lock()
	l.stopped = true
	l.taskMu.Unlock()
	l.tasks.Wait()
	stopTimers(l)
	return l.lock.Close()
}

// stopTimers stops what would keep a killed log in memory until it rings, for minutes: tests
// kill thousands.
func stopTimers(l *Log) {
	stop := func(t *time.Timer) {
		if t != nil {
			t.Stop()
		}
	}
	l.taskMu.Lock()
	stop(l.boundsTimer)
	stop(l.retentionTimer)
	l.taskMu.Unlock()
	l.publisher.mu.Lock()
	stop(l.publisher.timer)
	l.publisher.mu.Unlock()
	for p := range l.partitions() {
		p.mu.Lock()
		stop(p.timer)
		p.mu.Unlock()
	}
	l.groups.mu.Lock()
	stop(l.groups.expiry)
	all := slices.Clone(l.groups.list)
	l.groups.mu.Unlock()
	for _, co := range all {
		co.turn <- struct{}{}
		stop(co.timer)
		<-co.turn
	}
}

func (c *crashRun) appends(l *Log, n int) error {
	sure, err := l.EnsureTopic(ctx, "sure", &TopicConfig{SegmentBytes: crashSegment})
	if err != nil {
		return err
	}
	c.topic = true
	later, err := l.EnsureTopic(ctx, "async", &TopicConfig{Flush: FlushAsync, FlushInterval: Forever, SegmentBytes: crashSegment})
	if err != nil {
		return err
	}
	for range n {
		rec := crashRecord(c.sent)
		c.sent++
		if _, err := sure.all()[0].Append(ctx, rec, rec); err != nil {
			return err
		}
		c.acked = c.sent
		rec = crashRecord(c.asyncSent)
		c.asyncSent++
		at, err := later.all()[0].Append(ctx, rec, rec)
		l.tasks.Wait() // one goroutine at a time, so that a seed says it all
		if err != nil {
			return err
		}
		c.asyncEnd, c.asyncEpoch, c.clean = at+2, later.all()[0].epoch, false
	}
	return nil
}

// crashRecord is the i-th record, appended twice in one batch. It is longer
// than a page at times, so that batches are torn in every way. Its time goes
// forward and back.
func crashRecord(i int) Record {
	return Record{Timestamp: time.UnixMilli(int64(1000 + 7*i%10)), Key: fmt.Appendf(nil, "%d", i), Value: []byte(strings.Repeat(fmt.Sprintf("%d.", i), 300+1500*(i%3)))}
}

// crash draws states of the disk as of now, and verifies each.
func (c *crashRun) crash(op errfs.Op) {
	for seed := range c.seeds {
		c.states++
		if err := c.verify(c.mem.CrashClone(seed), seed); err != nil {
			c.broken = fmt.Errorf("crash before %v, seed %d: %w", op, seed, err)
			return
		}
	}
}

// verify opens a state that a crash left and holds it against what was
// promised; then what it shows must survive the next crash, which comes at any
// operation of recovery or right after it; and the log must go on.
func (c *crashRun) verify(disk *memfs.FS, seed uint64) error {
	l, err := crashWhileOpening(disk, c.skip, seed, openCrashed, func(disk *memfs.FS) error {
		_, err := c.check(disk, c.acked, 0)
		return err
	})
	if err != nil {
		return err
	}
	sure, later, err := c.compare(l, c.acked, 0)
	if err != nil {
		return err
	}
	if _, err := c.check(disk.CrashClone(seed), sure, later); err != nil {
		return fmt.Errorf("shown, then lost: %w", err)
	}
	if !c.topic {
		return l.Close()
	}
	rec := crashRecord(sure)
	if _, err := partitionOf(l, "sure").Append(ctx, rec, rec); err != nil {
		return err
	}
	if p := partitionOf(l, "async"); p != nil {
		rec = crashRecord(later)
		at, err := p.Append(ctx, rec, rec)
		if err != nil {
			return err
		}
		if at < c.asyncEnd && later < c.asyncSent {
			return fmt.Errorf("offset %d is used again: %d records of %d are left, which end at %d", at, later, c.asyncSent, c.asyncEnd)
		}
		if !c.clean && c.asyncEnd > 0 && p.epoch <= c.asyncEpoch {
			return fmt.Errorf("epoch %d is used again after %d", p.epoch, c.asyncEpoch)
		}
	}
	c.extra++
	defer func() { c.extra-- }()
	if _, err := c.check(disk.CrashClone(seed), sure+1, later); err != nil {
		return fmt.Errorf("after one more append: %w", err)
	}
	return l.Close()
}

// crashWhileOpening opens a log with a site left out, and lets the power fail before
// some of the operations of that: check gets the states.
func crashWhileOpening(
	disk *memfs.FS, skip vfs.Site, seed uint64, open func(vfs.FS) (*Log, error), check func(*memfs.FS) error,
) (*Log, error) {
	fsys := errfs.New(disk)
	fsys.Skip(skip)
	var mu sync.Mutex // opening flushes in the background
	var broken error
	fsys.OnOp(func(op errfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		if broken == nil && op.N%19 == int64(seed)%19 {
			broken = check(disk.CrashClone(seed))
		}
		return nil
	})
	l, err := open(fsys)
	fsys.OnOp(nil)
	return l, errors.Join(err, broken)
}

// check opens disk and compares.
func (c *crashRun) check(disk *memfs.FS, sureAtLeast, asyncAtLeast int) (*Log, error) {
	fsys := errfs.New(disk)
	fsys.Skip(c.skip)
	l, err := openCrashed(fsys)
	if err != nil {
		return nil, err
	}
	_, _, err = c.compare(l, sureAtLeast, asyncAtLeast)
	return l, errors.Join(err, l.Close())
}

// compare returns how many records each topic has: at least what is given, no
// more than was sent and what verify appended, each at its place.
func (c *crashRun) compare(l *Log, sureAtLeast, asyncAtLeast int) (sure, later int, err error) {
	if !c.topic && partitionOf(l, "sure") == nil {
		return 0, 0, nil
	}
	if sure, err = countRecords(partitionOf(l, "sure")); err != nil {
		return 0, 0, err
	}
	if sure < sureAtLeast || sure > c.sent+c.extra {
		return 0, 0, fmt.Errorf("sure has %d records, want %d to %d", sure, sureAtLeast, c.sent)
	}
	if p := partitionOf(l, "async"); p != nil {
		later, err = countRecords(p)
	}
	if err == nil && (later < asyncAtLeast || later > c.asyncSent+c.extra) {
		err = fmt.Errorf("async has %d records, want %d to %d", later, asyncAtLeast, c.asyncSent)
	}
	return sure, later, err
}

func partitionOf(l *Log, topic string) *Partition {
	t, err := l.Topic(topic)
	if err != nil {
		return nil
	}
	return t.all()[0]
}

// countRecords reads all of p, which must be the crashRecords from the first on,
// without gaps if nothing could be lost.
func countRecords(p *Partition) (int, error) {
	if p == nil {
		return 0, errors.New("topic is lost")
	}
	n, next := 0, Offset(0)
	first := map[int64]Offset{} // of at least that time
	for r, err := range p.Records(ctx, Earliest, nil) {
		if err != nil {
			return 0, err
		}
		want := crashRecord(n / 2)
		if string(r.Key) != string(want.Key) || string(r.Value) != string(want.Value) {
			return 0, fmt.Errorf("record %d is %q at offset %d", n, r.Key, r.Offset)
		}
		if r.Offset < next || r.Offset > next && p.topic.name == "sure" {
			return 0, fmt.Errorf("record %d is at offset %d, want %d", n, r.Offset, next)
		}
		n, next = n+1, r.Offset+1
		for ts := int64(1000); ts <= r.Timestamp.UnixMilli(); ts++ {
			if _, ok := first[ts]; !ok {
				first[ts] = r.Offset
			}
		}
	}
	for ts, want := range first {
		if got, err := p.offsetAt(ctx, ts); err != nil || got != want {
			return 0, fmt.Errorf("time %d is found at offset %d, want %d: %w", ts, got, want, err)
		}
	}
	if n%2 != 0 {
		return 0, fmt.Errorf("half a batch: %d records", n)
	}
	return n / 2, nil
}

// afterwards is what operations of the workload alone do not show: a killed
// process, damage, another topic's directory.
func (c *crashRun) afterwards() error {
	// The process was killed, the machine was not: all is there, and what is
	// shown is durable.
	l, err := openCrashed(c.fs)
	if err != nil {
		return err
	}
	if _, _, err := c.compare(l, c.sent, c.asyncSent); err != nil {
		return fmt.Errorf("killed: %w", err)
	}
	for seed := range c.seeds {
		if _, err := c.check(c.mem.CrashClone(seed), c.sent, c.asyncSent); err != nil {
			return fmt.Errorf("killed, shown, then lost: %w", err)
		}
	}
	if err := errors.Join(c.appends(l, 1), l.Close()); err != nil {
		return err
	}
	for seed := range c.seeds {
		if err := c.goesOn(c.mem.CrashClone(seed)); err != nil {
			return err
		}
		if err := c.damage(c.mem.CrashClone(seed)); err != nil {
			return err
		}
		if err := c.stranger(c.mem.CrashClone(seed)); err != nil {
			return err
		}
	}
	return nil
}

// goesOn shows that a clean stop leaves no gap, whatever happens to the machine
// afterwards.
func (c *crashRun) goesOn(disk *memfs.FS) error {
	l, err := openCrashed(disk)
	if err != nil {
		return err
	}
	at, err := partitionOf(l, "async").Append(ctx, Record{})
	if err == nil && at != c.asyncEnd {
		err = fmt.Errorf("append after a clean stop at %d, want %d", at, c.asyncEnd)
	}
	return errors.Join(err, l.Close())
}

// damage flips a bit of the last batch of a log that was closed cleanly: it is
// not to be cut like a torn end. Then another, while the log is open.
func (c *crashRun) damage(disk *memfs.FS) error {
	if err := flipValue(disk, crashDir+"/sure-0"); err != nil {
		return err
	}
	fsys := errfs.New(disk)
	fsys.Skip(c.skip)
	l, err := openCrashed(fsys)
	if err != nil {
		return err
	}
	if _, err := partitionOf(l, "sure").Append(ctx, Record{}); !errors.Is(err, ErrReadOnly) {
		return fmt.Errorf("append to a damaged partition: %w", err)
	}
	if err := flipValue(disk, crashDir+"/async-0"); err != nil {
		return err
	}
	if _, err := countRecords(partitionOf(l, "async")); !errors.Is(err, ErrCorrupt) {
		return fmt.Errorf("read of a damaged batch: %w", err)
	}
	return l.Close()
}

// stranger puts another topic's directory in place of "sure".
func (c *crashRun) stranger(disk *memfs.FS) error {
	name := crashDir + "/sure-0/" + partitionMetadataName
	if err := vfs.WriteFileAtomic(disk, "", name, formatPartitionMetadata(newID())); err != nil {
		return err
	}
	fsys := errfs.New(disk)
	fsys.Skip(c.skip)
	l, err := openCrashed(fsys)
	if err != nil {
		return err
	}
	if _, err := countRecords(partitionOf(l, "sure")); !errors.Is(err, ErrReadOnly) {
		return fmt.Errorf("read of another topic's directory: %w", err)
	}
	return l.Close()
}

// inValue is how far from the end of the last file a byte of the last record's value
// is: nothing but the CRC can tell that it changed.
const inValue = 100

func flipValue(fsys vfs.FS, dir string) error { return flipValueAt(fsys, dir, inValue) }

func flipValueAt(fsys vfs.FS, dir string, fromEnd int64) error {
	entries, err := fsys.ReadDir(dir)
	if err != nil {
		return err
	}
	var name string
	for _, e := range entries {
		if _, ok := parseLogFileName(e.Name); ok && e.Size > 0 {
			name = e.Name
		}
	}
	f, err := fsys.OpenWrite(dir + "/" + name)
	if err != nil {
		return err
	}
	size, err := f.Size()
	if err != nil {
		return err
	}
	var b [1]byte
	if _, err := f.ReadAt(b[:], size-fromEnd); err != nil {
		return err
	}
	b[0] ^= 1
	_, err = f.WriteAt(b[:], size-fromEnd)
	return errors.Join(err, f.Close())
}

// TestNoCrashBreaksAPromise lets the power fail before each operation of a
// small workload, in several ways each, and during and after the recovery from
// that. What was acknowledged is there, what was shown stays, nothing else
// appears, and the log goes on.
func TestNoCrashBreaksAPromise(t *testing.T) {
	t.Parallel()
	seeds := uint64(6)
	if invariants.Enabled {
		seeds = 2 // see TestEverySiteIsNeeded
	}
	every, from := sampled(t, 1)
	c := newCrashRun("", seeds, every, from)
	require.NoError(t, c.broken)
	t.Logf("%d states", c.states)
}

// crashSites are all places in the code that flush, zero or check something for
// the sake of a crash. docs/CRASH.md lists them with their reasons.
var crashSites = []vfs.Site{
	siteLogParent,
	siteMetaProperties,
	sitePartitionMetadata + ".flush", sitePartitionMetadata + ".syncdir",
	sitePartitionParent,
	siteFlush,
	siteReadCheck,
	siteEpochs + ".flush", siteEpochs + ".syncdir",
	siteBeginBounds, siteCeiling, siteCloseBounds,
	siteRecoveryCheck, siteRecoveryDamage, siteRecoveryID, siteRecoveryFlush, siteRecoveryDir,
	siteRollFlushed, siteRollSyncDir,
}

// TestNoKillBreaksAPromise lets the process die before each operation of the
// same workload.
func TestNoKillBreaksAPromise(t *testing.T) {
	t.Parallel()
	every, from := sampled(t, 1)
	require.NoError(t, killEverywhere("", every, from))
}

// TestEverySiteIsNeeded leaves out one site after the other and shows that the
// same run then finds a broken promise: no flush and no check is there for
// nothing, and none can be lost unnoticed.
func TestEverySiteIsNeeded(t *testing.T) {
	t.Parallel()
	if invariants.Enabled {
		return // one goroutine at a time: builds without the race detector see as much
	}
	for _, site := range crashSites {
		t.Run(string(site), func(t *testing.T) {
			t.Parallel()
			_, _, broken := crashEverywhere(site, 1)
			if broken == nil {
				broken = killEverywhere(site, 1, 0)
			}
			if broken == nil {
				_, _, broken = crashEverywhere(site, 12)
			}
			require.Error(t, broken, "nothing breaks without %s", site)
			t.Log(broken)
		})
	}
	t.Run("all are listed", func(t *testing.T) {
		_, seen, _ := crashEverywhere("", 0)
		listed := slices.Sorted(slices.Values(crashSites))
		for _, site := range seen {
			if !strings.HasPrefix(string(site), "bounds.") { // TestEveryBoundsSiteIsNeeded
				require.Contains(t, listed, site)
			}
		}
	})
}
