package riffle

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"pgregory.net/rapid"

	"github.com/rifflelog/riffle/internal/model"
	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

func newMachine(t *rapid.T, skip vfs.Site) *machine {
	m := &machine{
		skip:        skip,
		bootUnknown: rapid.IntRange(0, 9).Draw(t, "boot") == 9,
		tuning:      tuning{ceilingStep: Offset(rapid.IntRange(2, 12).Draw(t, "ceiling step")), boundsDelay: Forever, reserveBytes: 4096, sealAtOnce: true},
	}
	policies := []FlushPolicy{FlushBeforeAck, FlushAsync}
	for i, flush := range append(policies, rapid.SampledFrom(policies).Draw(t, "flush")) {
		cfg := TopicConfig{
			Partitions:    rapid.IntRange(1, 2).Draw(t, "partitions"),
			Flush:         flush,
			FlushInterval: Forever,
			SegmentBytes:  rapid.SampledFrom([]int64{12 << 10, 4096, 1024, 60_000}).Draw(t, "segment bytes"),
			SegmentAge:    rapid.SampledFrom([]time.Duration{Forever, time.Hour}).Draw(t, "segment age"),
			Compression: rapid.SampledFrom([]Compression{
				CompressionNone, CompressionNone, CompressionNone, CompressionGzip, CompressionSnappy, CompressionLZ4, CompressionZstd,
			}).Draw(t, "compression"),
			TimestampType: rapid.SampledFrom([]TimestampType{CreateTime, CreateTime, LogAppendTime}).Draw(t, "timestamps"),
		}
		top := &machineTopic{name: string(rune('a' + i)), cfg: cfg}
		for range cfg.Partitions {
			top.parts = append(top.parts, &model.Partition{Durable: flush == FlushBeforeAck, AppendTime: cfg.TimestampType == LogAppendTime})
		}
		m.topics = append(m.topics, top)
	}
	for i, flush := range policies {
		m.replicas = append(m.replicas, &machineReplica{
			machineTopic: &machineTopic{name: string(rune('r' + i)), cfg: TopicConfig{
				Flush: flush, FlushInterval: Forever, Retention: Forever, SegmentBytes: rapid.SampledFrom([]int64{4096, 1024, 12 << 10}).Draw(t, "segment bytes"),
			}},
			model: &model.Replica{Durable: flush == FlushBeforeAck},
			ends:  map[int32]Offset{}, sent: map[model.Record]bool{},
		})
	}
	return m
}

// live opens a log and does one step after the other, to the first promise that
// is not kept. What else can be done with a log is a step here; if it changes what
// is there, it is an event of the model too.
func (m *machine) live(t *rapid.T) (broken error) {
	steps := map[string]func(*rapid.T) error{
		"append": m.appendOne, "append again": m.appendOne, "append together": m.appendTogether,
		"append if":    m.appendIfOne,
		"append ahead": m.appendAhead,
		"read":         m.readSome, "read from everywhere": m.readFromEverywhere,
		"flush": m.flushAll, "create": m.createOne,
		"fail": m.failSome, "die": m.dieSome, "stop": m.stop,
		"delete": m.deleteBefore, "retain": m.retain,
		"replicate": m.replicateSome, "replicate again": m.replicateSome, "show": m.showSome, "truncate": m.truncateSome,
	}
	actions := map[string]func(*rapid.T){}
	for name, step := range steps {
		actions[name] = func(t *rapid.T) {
			if broken != nil {
				return
			}
			m.before = m.faults.Load()
			err := step(t)
			if err == nil || errors.Is(err, errDead) {
				err = m.settle()
			}
			if err != nil {
				broken = fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	if broken = m.open(memfs.New(), nil, nil); broken == nil {
		t.Repeat(actions)
	}
	if broken == nil && m.l != nil {
		m.abandon()
	}
	return broken
}

// machineBatch is what is to be appended, where.
type machineBatch struct {
	top   *machineTopic
	part  int
	recs  []Record
	want  []model.Record
	cond  *machineCond // nil for none
	bytes int
	acked bool
}

func (m *machine) drawBatch(t *rapid.T) *machineBatch {
	top, part := m.drawPartition(t)
	b := &machineBatch{top: top, part: part}
	m.batches++
	at := time.UnixMilli(1_700_000_000_000).Add(time.Duration(rapid.SampledFrom([]int{0, 0, 0, 2, -2}).Draw(t, "hours")) * time.Hour)
	for i := range rapid.IntRange(1, 4).Draw(t, "records") {
		// Around the sizes of sectors, pages and segments.
		n := rapid.SampledFrom([]int{0, 300, 1500, 3900, int(top.cfg.SegmentBytes) - 200}).Draw(t, "bytes")
		if n > 1500 {
			n += rapid.IntRange(0, 150).Draw(t, "more bytes")
		}
		r := Record{Key: fmt.Appendf(nil, "%d.%d", m.batches, i), Value: noise(m.batches, n), Timestamp: at}
		b.recs = append(b.recs, r)
		b.want = append(b.want, modelRecord(r))
		b.bytes += n
	}
	return b
}

// noise returns bytes that do not compress.
func noise(seed, n int) []byte {
	value := make([]byte, n)
	r := rand.New(rand.NewPCG(uint64(seed), uint64(n)))
	for i := range value {
		value[i] = byte(r.Uint32())
	}
	return value
}

func (m *machine) drawPartition(t *rapid.T) (*machineTopic, int) {
	top := m.topics[rapid.IntRange(0, len(m.topics)-1).Draw(t, "topic")]
	return top, rapid.IntRange(0, len(top.parts)-1).Draw(t, "partition")
}

func drawDeath(t *rapid.T, most int64) *death {
	return &death{
		at:   rapid.Int64Range(1, most).Draw(t, "operation"),
		cut:  rapid.Bool().Draw(t, "power cut"),
		seed: rapid.Uint64().Draw(t, "seed"),
	}
}

// drawFault draws an error, most of writes and flushes.
func drawFault(t *rapid.T) *fault {
	f := &fault{
		kind: rapid.SampledFrom([]errfs.Kind{
			errfs.Write, errfs.Sync, errfs.SyncDir, errfs.Write, errfs.Sync, errfs.Create, errfs.Truncate, errfs.Rename, errfs.Mkdir,
			errfs.Allocate, errfs.Read, errfs.Open, errfs.OpenWrite, errfs.Remove, errfs.Size, errfs.ReadDir, errfs.Stat, errfs.Map,
		}).Draw(t, "kind"),
		wait:  rapid.Int64Range(0, 5).Draw(t, "wait"),
		times: rapid.Int64Range(1, 2).Draw(t, "times"),
		err:   rapid.SampledFrom([]error{vfs.ErrNoSpace, errfs.ErrInjected}).Draw(t, "error"),
		part:  rapid.Int64Range(0, 5000).Draw(t, "part"),
	}
	if f.kind == errfs.SyncDir && rapid.Bool().Draw(t, "roll") {
		f.site, f.wait = siteRollSyncDir, 0 // other directories are flushed more often
	}
	return f
}

// drawContext draws a context: one that does not end, one that ends at an
// operation, or one that has ended.
func (m *machine) drawContext(t *rapid.T) (context.Context, context.CancelFunc) {
	how := rapid.IntRange(0, 9).Draw(t, "context")
	if how < 7 {
		return ctx, func() {}
	}
	ends, cancel := context.WithCancel(ctx)
	if how == 9 {
		cancel()
	} else {
		m.ending.Store(&ending{m.fs.Ops() + rapid.Int64Range(1, 12).Draw(t, "ends at"), cancel})
	}
	return ends, func() {
		m.ending.Store(nil)
		cancel()
	}
}

func (m *machine) appendOne(t *rapid.T) error {
	b := m.drawBatch(t)
	ends, cancel := m.drawContext(t)
	defer cancel()
	return m.append(ends, b)
}

// appendTogether appends from several goroutines, while another one follows a
// partition and a topic may be created.
func (m *machine) appendTogether(t *rapid.T) error {
	writers := make([][]*machineBatch, rapid.IntRange(2, 4).Draw(t, "writers"))
	var all []*machineBatch
	for i := range writers {
		for range rapid.IntRange(1, 3).Draw(t, "batches") {
			writers[i] = append(writers[i], m.drawBatch(t))
		}
		all = append(all, writers[i]...)
	}
	ends, cancel := m.drawContext(t)
	defer cancel()
	create := m.topics[rapid.IntRange(0, len(m.topics)-1).Draw(t, "create")]

	follower := m.follow(all)
	errs := make(chan error, len(writers)+1)
	go func() { errs <- m.create(ends, create) }()
	for _, batches := range writers {
		go func() {
			var failed []error
			for _, b := range batches {
				failed = append(failed, m.append(ends, b))
			}
			errs <- errors.Join(failed...)
		}()
	}
	var err error
	for range cap(errs) {
		err = errors.Join(err, <-errs)
	}
	return errors.Join(err, follower())
}

// follow follows the partition of the first batch, if it is there, until it has
// seen as many records as are to be appended to it. What is returned waits for
// that, or ends it if some are not appended, and tells the model.
func (m *machine) follow(all []*machineBatch) (wait func() error) {
	top, part := all[0].top, all[0].part
	p := m.partition(top, part)
	if p == nil || p.damaged != nil {
		return func() error { return nil }
	}
	until := Offset(top.parts[part].Next())
	for _, b := range all {
		if b.top == top && b.part == part {
			until += Offset(len(b.recs))
		}
	}
	from := Offset(top.parts[part].Next())
	ends, cancel := context.WithCancel(ctx)
	var seen []model.Record
	var err error
	var wg sync.WaitGroup
	wg.Go(func() {
		for r, e := range p.Follow(ends, from, &ReadOptions{Until: until}) {
			if err = e; err != nil || m.dead.Load() {
				break // when it is dead this one may not have been shown in time
			}
			seen = append(seen, modelRecord(r))
		}
	})
	return func() error {
		complete := !m.dead.Load()
		for _, b := range all {
			complete = complete && (b.acked || b.top != top || b.part != part)
		}
		if !complete {
			cancel()
		}
		wg.Wait()
		cancel()
		if complete && m.faults.Load() == m.before && !m.dead.Load() && (err != nil || from+Offset(len(seen)) != until) {
			return fmt.Errorf("%v: a follower saw %d records from %d to %d: %w", p.name(), len(seen), from, until, err)
		}
		return top.parts[part].Saw(seen)
	}
}

func (m *machine) readSome(t *rapid.T) error {
	top, part := m.drawPartition(t)
	lo, hi := rapid.Int64Range(0, 1000).Draw(t, "from"), rapid.Int64Range(0, 1000).Draw(t, "until")
	lent := rapid.Bool().Draw(t, "views")
	p := m.partition(top, part)
	if p == nil || p.damaged != nil {
		return nil
	}
	b := boundsOf(p)
	from := b.Start + lo%(b.HighWatermark-b.Start+1)
	until := from + hi%(b.HighWatermark-from+1)
	if until == 0 {
		until = b.HighWatermark // as it is read
	}
	return m.compareRange(top, part, p, from, until, lent)
}

func (m *machine) compareRange(top *machineTopic, part int, p *Partition, from, until int64, lent bool) error {
	got, err := m.read(p, Offset(from), Offset(until), lent)
	if err != nil {
		return err
	}
	if want := top.parts[part].Records(from, until); !slices.Equal(got, want) {
		return fmt.Errorf("%v: [%d, %d) has %d records, want %d, or others", p.name(), from, until, len(got), len(want))
	}
	return nil
}

// readFromEverywhere reads from each offset of a partition to its end.
func (m *machine) readFromEverywhere(t *rapid.T) error {
	top, part := m.drawPartition(t)
	p := m.partition(top, part)
	if p == nil || p.damaged != nil {
		return nil
	}
	b := boundsOf(p)
	for from := b.Start; from < b.HighWatermark; from++ {
		if err := m.compareRange(top, part, p, from, b.HighWatermark, from%2 == 0); err != nil {
			return err
		}
	}
	return nil
}

// flushAll does what time does: it flushes what is not, then the recovery points.
func (m *machine) flushAll(t *rapid.T) error {
	bounds := rapid.Bool().Draw(t, "bounds")
	for p := range m.l.partitions() {
		if p.begun && p.unflushed() > 0 {
			p.flushOnTime()
		}
	}
	m.l.tasks.Wait()
	if bounds {
		m.l.flushBounds()
	}
	return nil
}

func (m *machine) createOne(t *rapid.T) error {
	top, _ := m.drawPartition(t)
	ends, cancel := m.drawContext(t)
	defer cancel()
	return m.create(ends, top)
}

func (m *machine) failSome(t *rapid.T) error {
	m.failSoon(drawFault(t))
	return nil
}

// dieSome ends the process at one of the next operations.
func (m *machine) dieSome(t *rapid.T) error {
	m.dieSoon(drawDeath(t, 40))
	return nil
}

// stop ends the process in one of three ways, and opens the log again, which may
// be interrupted in its turn.
func (m *machine) stop(t *rapid.T) error {
	how := rapid.IntRange(0, 2).Draw(t, "close, kill or cut")
	seed := rapid.Uint64().Draw(t, "seed")
	var deaths []*death
	for range rapid.SampledFrom([]int{0, 0, 1, 2}).Draw(t, "deaths") {
		deaths = append(deaths, drawDeath(t, 120))
	}
	var f *fault
	if rapid.IntRange(0, 3).Draw(t, "fault") == 3 {
		f = drawFault(t)
	}
	if how == 0 {
		return m.close(seed, deaths, f)
	}
	m.abandon()
	if how == 2 && !m.dead.Load() {
		m.clone = m.disk.CrashClone(seed)
	}
	return m.open(m.gone(), deaths, f)
}

// close closes the log. After that the power may fail.
func (m *machine) close(seed uint64, deaths []*death, f *fault) error {
	err := m.l.Close()
	dead := m.dead.Load()
	clean := !dead && m.faults.Load() == 0
	if err != nil && clean {
		return err
	}
	for _, top := range m.topics {
		for i, mp := range top.parts {
			if p := m.partition(top, i); p == nil || p.damaged != nil {
				continue
			}
			if !clean {
				mp.MayLeaveGap()
			}
			mp.Closed(clean)
		}
	}
	for _, r := range m.replicas {
		if clean && r.ready {
			r.model.Flushed(math.MaxInt64)
		}
		r.ready = false
	}
	if dead {
		return m.open(m.gone(), deaths, f)
	}
	disk := m.disk
	if seed%2 == 1 {
		disk = m.disk.CrashClone(seed)
		for _, r := range m.replicas {
			r.model.PowerCut()
		}
		for _, top := range m.topics {
			for _, mp := range top.parts {
				mp.PowerCut()
			}
		}
	}
	return m.open(disk, deaths, f)
}
