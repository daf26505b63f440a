package riffle

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/rifflelog/riffle/internal/invariants"
	"github.com/rifflelog/riffle/internal/model"
	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// machine is a random life of a log: appends, reads, errors of the file system,
// kills and power cuts at any operation. After each step the log is compared
// with its model, which says what must not be so.
//
// All that is random is drawn, what is drawn does not depend on what the log
// does, goroutines run one after the other except in together, and time does
// nothing: so a failure is found again, and shrinks. What the steps draw and do
// is in machine_steps_test.go.
type machine struct {
	skip        vfs.Site // left out everywhere; none if empty
	bootUnknown bool     // the system does not tell one boot from another
	tuning      tuning
	topics      []*machineTopic
	replicas    []*machineReplica
	batches     int // so far
	*process
}

// process is what ends with a kill or a power cut.
type process struct {
	disk   *memfs.FS
	fs     *errfs.FS
	l      *Log
	dies   atomic.Pointer[death]
	dead   atomic.Bool
	clone  *memfs.FS              // what a power cut left; nil if the process was killed
	ending atomic.Pointer[ending] // of a context
	faults atomic.Int64           // errors that the file system gave
	before int64                  // so many of them before this step
	heals  []func()               // end the errors that are still to come

	mu sync.Mutex // guards the models and topics while several append
}

// machineTopic is a topic that may be there.
type machineTopic struct {
	name  string
	cfg   TopicConfig
	tried bool     // it was to be created, and may be there
	id    [16]byte // zero until it is known to be there
	parts []*model.Partition
}

// death ends a process at an operation: no later one is done.
type death struct {
	at   int64 // counted from now on when it is drawn, then from the first one
	cut  bool  // the power fails
	seed uint64
	once sync.Once
}

// ending ends a context at an operation.
type ending struct {
	at     int64
	cancel context.CancelFunc
}

// onOp is called before each operation of a process.
func (p *process) onOp(op errfs.Op) error {
	if d := p.dies.Load(); d != nil && op.N >= d.at {
		d.once.Do(func() {
			p.dead.Store(true) // first: what is acknowledged from now on may not be in the clone
			if d.cut {
				p.clone = p.disk.CrashClone(d.seed)
			}
		})
	}
	if p.dead.Load() {
		return errDead
	}
	if e := p.ending.Load(); e != nil && op.N >= e.at {
		e.cancel()
	}
	return nil
}

// dieSoon lets the process die, if d is not nil.
func (p *process) dieSoon(d *death) {
	if d != nil {
		d.at += p.fs.Ops()
		p.dies.Store(d)
	}
}

// fault is errors that the file system gives.
type fault struct {
	kind  errfs.Kind
	site  vfs.Site // any, if empty
	wait  int64    // operations of the kind that work
	times int64
	err   error
	part  int64 // of a write that fails: bytes that are written all the same
}

// failSoon lets the file system give errors, if f is not nil.
func (p *process) failSoon(f *fault) {
	if f == nil {
		return
	}
	var seen atomic.Int64 // operations come from the log's goroutines too
	heal := p.fs.Add(errfs.Rule{Kind: f.kind, Site: f.site, Decide: func(op errfs.Op) error {
		if n := seen.Add(1); n <= f.wait || n > f.wait+f.times {
			return nil
		}
		p.faults.Add(1)
		if f.kind == errfs.Write && op.Len > 0 {
			return &errfs.Partial{Bytes: int(f.part % op.Len), Err: f.err}
		}
		return f.err
	}})
	p.heals = append(p.heals, heal)
}

// heal ends the errors that are still to come.
func (p *process) heal() {
	for _, heal := range p.heals {
		heal()
	}
	p.heals = nil
}

// start begins a process on a disk.
func (m *machine) start(disk *memfs.FS) {
	if m.bootUnknown {
		disk.SetBootID("")
	}
	m.process = &process{disk: disk, fs: errfs.New(disk)}
	m.fs.Skip(m.skip)
	m.fs.OnOp(m.process.onOp)
}

// open opens the log and compares all of it. Before that, openings are
// interrupted by deaths, one each, and the last one may meet a fault.
func (m *machine) open(disk *memfs.FS, deaths []*death, f *fault) error {
	for {
		m.start(disk)
		if len(deaths) > 0 {
			m.dieSoon(deaths[0])
			deaths = deaths[1:]
		} else {
			m.failSoon(f)
			f = nil
		}
		l, err := openTuned(m.fs, crashDir, nil, m.tuning)
		if err == nil {
			m.l = l
			if err = m.opened(); !errors.Is(err, errDead) {
				return err
			}
			m.abandon()
		} else if !m.dead.Load() && m.faults.Load() == 0 {
			return err
		}
		disk = m.gone()
	}
}

// abandon ends the process: what it has begun ends, as far as it can.
func (m *machine) abandon() {
	for p := range m.l.partitions() {
		p.refuse()
	}
	m.l.tasks.Wait()
	_ = kill(m.l) // a dead process's lock is free
}

// gone tells the models that the process is no more, and returns the disk that it
// leaves.
func (m *machine) gone() *memfs.FS {
	for _, top := range m.topics {
		for i, mp := range top.parts {
			if m.bootUnknown || m.faults.Load() > 0 || m.hasFailed(top, i) {
				mp.MayLeaveGap()
			}
			if m.clone != nil {
				mp.PowerCut()
			} else {
				mp.Killed()
			}
		}
	}
	for _, r := range m.replicas {
		if r.ready = false; m.clone != nil {
			r.model.PowerCut()
		}
	}
	if m.clone != nil {
		return m.clone
	}
	return m.disk
}

// partition returns a partition of the open log; nil if there is none.
func (m *machine) partition(top *machineTopic, i int) *Partition {
	if m.l == nil {
		return nil
	}
	m.l.mu.Lock()
	defer m.l.mu.Unlock()
	if t := m.l.topics[top.name]; t != nil {
		return t.all()[i]
	}
	return nil
}

func (m *machine) hasFailed(top *machineTopic, i int) bool {
	p := m.partition(top, i)
	if p == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failed != nil
}

// opened compares a log that was just opened with what may be there.
func (m *machine) opened() error {
	for _, top := range m.topics {
		t, err := m.openedTopic(top)
		if err != nil {
			return err
		}
		if t == nil {
			continue
		}
		for p := range t.Partitions() {
			if err := m.openedPartition(top, p); err != nil {
				return fmt.Errorf("%v: %w", p.name(), err)
			}
		}
	}
	for _, r := range m.replicas {
		t, err := m.openedTopic(r.machineTopic)
		if err == nil && t != nil {
			err = m.openedReplica(r, m.partition(r.machineTopic, 0))
		}
		if err != nil {
			return fmt.Errorf("replica %s: %w", r.name, err)
		}
	}
	return nil
}

// openedTopic returns a topic of a log that was just opened; nil if it may not be
// there, and is not.
func (m *machine) openedTopic(top *machineTopic) (*Topic, error) {
	t, err := m.l.Topic(top.name)
	switch {
	case err == nil && !top.tried:
		return nil, fmt.Errorf("topic %s appears", top.name)
	case err == nil && top.id != [16]byte{} && top.id != t.ID():
		return nil, fmt.Errorf("topic %s has another id", top.name)
	case err != nil && top.id != [16]byte{}:
		return nil, fmt.Errorf("topic %s is lost: %w", top.name, err)
	case err != nil:
		top.tried = false
		return nil, nil
	}
	top.id = t.ID()
	return t, nil
}

func (m *machine) openedPartition(top *machineTopic, p *Partition) error {
	if p.damaged != nil && m.faults.Load() > 0 {
		return nil // it could not be opened
	}
	got, err := m.read(p, Earliest, 0, false)
	if err != nil {
		return err
	}
	return top.parts[p.Index()].Opened(boundsOf(p), got)
}

// boundsOf returns the bounds of a partition as the model has them.
func boundsOf(p *Partition) model.Bounds {
	b := p.Bounds()
	return model.Bounds{Start: int64(b.Start), LastStable: int64(b.LastStable), HighWatermark: int64(b.HighWatermark), End: int64(b.End)}
}

// read returns the records in [from, until), in one of two ways. It reads again
// when the file system fails, and returns errDead when the process has died.
func (m *machine) read(p *Partition, from, until Offset, lent bool) (got []model.Record, err error) {
	for again := true; again; {
		faults := m.faults.Load()
		if lent {
			got, err = collectViews(p, from, until)
		} else {
			got, err = collectRecords(p.Records(ctx, from, &ReadOptions{Until: until}))
		}
		again = err != nil && m.faults.Load() > faults
	}
	if m.dead.Load() {
		return nil, errDead
	}
	return got, err
}

func collectRecords(records func(func(Record, error) bool)) (got []model.Record, err error) {
	for r, err := range records {
		if err != nil {
			return got, err
		}
		got = append(got, modelRecord(r))
	}
	return got, nil
}

func collectViews(p *Partition, from, until Offset) (got []model.Record, err error) {
	for v, err := range p.Views(ctx, from, &ReadOptions{Until: until}) {
		if err != nil {
			return got, err
		}
		got = append(got, modelRecord(v.Clone()))
	}
	return got, nil
}

func modelRecord(r Record) model.Record {
	return model.Record{Offset: int64(r.Offset), Epoch: r.LeaderEpoch, Timestamp: r.Timestamp.UnixMilli(), Key: string(r.Key), Value: string(r.Value)}
}

// settle waits until nothing is under way, and compares what is new; if the
// process has died, a next one opens the log.
func (m *machine) settle() error {
	m.l.tasks.Wait()
	if err := m.compareNew(); !errors.Is(err, errDead) {
		return err
	}
	m.abandon()
	return m.open(m.gone(), nil, nil)
}

// compareNew compares what the partitions show beyond what is known. It returns
// errDead when the process has died.
func (m *machine) compareNew() error {
	if m.dead.Load() {
		return errDead
	}
	for _, top := range m.topics {
		for i, mp := range top.parts {
			p := m.partition(top, i)
			if p == nil || p.damaged != nil {
				continue
			}
			top.id = p.topic.ID()
			got, err := m.read(p, Offset(mp.Next()), 0, false)
			if err == nil {
				err = mp.Shows(boundsOf(p), mp.Next(), got)
			}
			if err != nil {
				return fmt.Errorf("%v: %w", p.name(), err)
			}
			p.mu.Lock()
			mp.Flushed(int64(p.flushed))
			p.mu.Unlock()
		}
	}
	for _, r := range m.replicas {
		if err := m.compareReplica(r); err != nil {
			return fmt.Errorf("replica %s: %w", r.name, err)
		}
	}
	return nil
}

// create creates a topic, unless it is there.
func (m *machine) create(ctx context.Context, top *machineTopic) error {
	m.mu.Lock()
	top.tried = true
	m.mu.Unlock()
	t, err := m.l.EnsureTopic(ctx, top.name, &top.cfg)
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.dead.Load():
	case err == nil:
		top.id = t.ID()
	case ctx.Err() == nil && m.faults.Load() == 0:
		return fmt.Errorf("create topic: %w", err)
	}
	return nil
}

// append appends a batch, if the topic is there or can be created, and tells the
// model what came of it.
func (m *machine) append(ctx context.Context, b *machineBatch) error {
	if m.partition(b.top, b.part) == nil {
		if err := m.create(ctx, b.top); err != nil {
			return err
		}
	}
	p := m.partition(b.top, b.part)
	if p == nil {
		return nil
	}
	mp := b.top.parts[b.part]
	m.mu.Lock()
	mb := mp.Append(b.want)
	m.mu.Unlock()
	at, err := b.appendTo(ctx, p)
	dead := m.dead.Load()
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case err == nil && dead: // perhaps too late
		return nil
	case err == nil:
		b.acked = true
		return mp.Acked(mb, int64(at))
	case !errors.Is(err, ErrInDoubt):
		mp.Failed(mb)
	}
	if dead || m.expected(ctx, p, b, err) || m.expectedOf(b, err) {
		return nil
	}
	return fmt.Errorf("%v: %w", p.name(), err)
}

// expected says whether an append may fail with err.
func (m *machine) expected(ctx context.Context, p *Partition, b *machineBatch, err error) bool {
	switch {
	case errors.Is(err, ErrReadOnly):
		return p.damaged != nil
	case errors.Is(err, ErrRecordTooLarge), errors.Is(err, ErrBatchTooLarge):
		return b.bytes+100+40*len(b.recs) > int(b.top.cfg.SegmentBytes)
	case errors.Is(err, context.Canceled):
		return ctx.Err() != nil
	case errors.Is(err, ErrPartitionFailed):
		return m.faults.Load() > 0
	}
	return errors.Is(err, ErrDiskFull) && m.faults.Load() > m.before // else it has healed
}

// TestMachine lives many random lives, see machine. Each has tens of steps; what
// is acknowledged is there, what was shown stays as its flush policy says, nothing
// else appears, and the log goes on.
func TestMachine(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		if err := newMachine(t, "").live(t); err != nil {
			t.Fatal(err)
		}
	})
}

// TestMachineFindsWhatIsLeftOut leaves out one site after the other: each of them
// breaks a promise in one of a few lives, always the same ones.
func TestMachineFindsWhatIsLeftOut(t *testing.T) {
	t.Parallel()
	if invariants.Enabled {
		return // builds without the race detector see as much
	}
	for _, site := range []vfs.Site{
		siteFlush, siteRecoveryFlush, siteRollFlushed, siteRollSyncDir, siteCeiling, siteBeginBounds, siteCloseBounds,
		sitePartitionParent, siteEpochs + ".flush", siteStart,
		siteTruncateBounds, siteTruncateDir, siteTruncateFlush, siteTruncateCopy, siteTruncateSwap, siteRestartBounds,
	} {
		lives := rapid.Custom(func(t *rapid.T) error { return newMachine(t, site).live(t) })
		var broken error
		for seed := 0; seed < 400 && broken == nil; seed++ {
			broken = lives.Example(seed)
		}
		require.Error(t, broken, "nothing breaks without %s", site)
		t.Logf("%s: %v", site, broken)
	}
}
