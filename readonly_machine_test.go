package riffle

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// roMachine is a random life of a writer that is watched by read-only logs. They
// look between any two operations of the writer on the file system, recovery's
// included, and through his death and the machine's.
type roMachine struct {
	disk    *memfs.FS
	fs      *errfs.FS // the writer's
	w       *Log      // nil while there is no writer
	dead    atomic.Bool
	readers []*Log
	parts   []*roPart
	every   int64      // how many operations are between two looks
	mu      sync.Mutex // held while the writer's operations are looked at
	broken  error      // what a look has found
	quiet   bool       // a reader is in the midst of an operation, and cannot look
	midst   bool       // the writer is
	tuning  tuning
	segment int64 // bytes of a segment
	sent    int

	incarnation uint64 // of the last writer
}

// roPart is what is known of a partition.
type roPart struct {
	topic string
	index int
	flush FlushPolicy
	want  []roRecord // what is there or was deleted, and behind it what may be
	hw    Offset     // before it, all of want is committed
	acked int        // so many of want were acknowledged
	lo    Offset     // what is before it is deleted
	hi    Offset     // what is before it may be, if that is more
	ghost *roPart    // the same of the topic that was deleted before, during a read
}

type roRecord struct {
	offset Offset
	value  string
}

func (r roRecord) String() string { return fmt.Sprintf("%d:%.8s", r.offset, r.value) }

// writerPart returns the writer's partition; nil if he has none yet.
func (m *roMachine) writerPart(rp *roPart) *Partition {
	if m.w == nil {
		return nil
	}
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	return rp.in(m.w.topics[rp.topic])
}

// in returns the partition in t; nil if it has none.
func (rp *roPart) in(t *Topic) *Partition {
	if t == nil || rp.index >= t.NumPartitions() {
		return nil
	}
	return t.all()[rp.index]
}

// committed returns up to where records may be shown now.
func (m *roMachine) committed(rp *roPart) Offset {
	if p := m.writerPart(rp); p != nil {
		rp.hw = max(rp.hw, Offset(p.highWatermark.Load()))
	}
	return rp.hw
}

// readAll returns what a log shows of a partition.
func readAll(l *Log, rp *roPart) (got []roRecord, err error) {
	t, err := l.Topic(rp.topic)
	if errors.Is(err, ErrTopicNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	p := rp.in(t)
	if p == nil {
		return nil, nil
	}
	for r, err := range p.Records(ctx, Earliest, nil) {
		if err != nil {
			return got, err
		}
		got = append(got, roRecord{r.Offset, string(r.Value)})
	}
	return got, nil
}

// readBeside is readAll while records and topics may be deleted.
func readBeside(l *Log, rp *roPart) ([]roRecord, error) {
	got, err := readAll(l, rp)
	if errors.Is(err, ErrOffsetOutOfRange) && rp.hi > 0 || errors.Is(err, ErrTopicNotFound) && rp.ghost != nil {
		err = nil
	}
	return got, err
}

// look has each reader read all that it can see, and compares: nothing but what is
// committed, in order, nothing left out.
func (m *roMachine) look() error {
	for i, r := range m.readers {
		for _, rp := range m.parts {
			got, err := readAll(r, rp)
			if err == nil && !m.recovered(r, rp) {
				err = m.compare(rp, got)
			}
			if err != nil {
				return fmt.Errorf("reader %d of %s: %w", i, rp.topic, err)
			}
		}
	}
	return nil
}

// lookAnew is look, also by a reader that has seen nothing before.
func (m *roMachine) lookAnew() error {
	if err := m.addReader(); err != nil {
		return err
	}
	err := m.look()
	last := len(m.readers) - 1
	err = errors.Join(err, m.readers[last].Close())
	m.readers = m.readers[:last]
	return err
}

// recovered says whether the next writer has shown a reader what he has found.
func (m *roMachine) recovered(r *Log, rp *roPart) bool {
	t, err := r.Topic(rp.topic)
	p := rp.in(t)
	return err == nil && m.w == nil && p != nil && p.shadow.shown.words && p.shadow.shown.incarnation != m.incarnation
}

// onOp looks before some of the writer's operations.
func (m *roMachine) onOp(op errfs.Op) error {
	if m.dead.Load() {
		return errDead
	}
	m.mu.Lock() // the writer has goroutines
	defer m.mu.Unlock()
	if m.every > 0 && !m.quiet && op.N%m.every == 0 && m.broken == nil {
		m.midst = true
		m.broken = m.look()
		m.midst = false
	}
	if op.Kind == errfs.Create && !m.quiet && m.w != nil && m.broken == nil {
		m.midst = true
		m.broken = m.lookAnew()
		m.midst = false
	}
	return nil
}

// open begins the next writer's life.
func (m *roMachine) open() error {
	m.dead.Store(false)
	m.fs = errfs.New(m.disk)
	m.fs.OnOp(m.onOp)
	w, err := openTuned(m.fs, "/data", nil, m.tuning)
	if err != nil {
		return err
	}
	w.tasks.Wait() // what opening has begun
	m.w, m.incarnation = w, w.bounds.incarnation
	for _, rp := range m.parts {
		if err := m.found(rp); err != nil {
			return err
		}
	}
	return m.seen()
}

// found compares what the writer finds in a partition with what there should be, and
// makes the topic if there is none.
func (m *roMachine) found(rp *roPart) error {
	cfg := TopicConfig{Flush: rp.flush, FlushInterval: Forever, SegmentBytes: m.segment}
	if _, err := m.w.EnsureTopic(ctx, rp.topic, &cfg); err != nil {
		return err
	}
	got, err := readAll(m.w, rp)
	if err != nil {
		return err
	}
	start := m.writerPart(rp).Bounds().Start
	lost := len(got) == 0 && rp.flush == FlushAsync // and the log goes on at its ceiling
	if start < rp.lo || start > max(rp.lo, rp.hi) && !lost {
		return fmt.Errorf("the writer's log of %s starts at %d, want %d to %d", rp.topic, start, rp.lo, rp.hi)
	}
	deleted, rest := rp.split(start)
	acked := rp.acked - len(deleted)
	if n := min(len(got), len(rest)); !slices.Equal(got[:n], rest[:n]) || len(got) > n || n < acked && rp.flush == FlushBeforeAck {
		return fmt.Errorf("the writer has %v of %s, want %v, of which %d were acknowledged", got, rp.topic, rest, acked)
	}
	rp.want = append(deleted, got...)
	rp.acked, rp.lo, rp.hi = len(rp.want), start, start
	m.committed(rp)
	return nil
}

// split returns the records before offset o, and the others.
func (rp *roPart) split(o Offset) (before, rest []roRecord) {
	i := slices.IndexFunc(rp.want, func(r roRecord) bool { return r.offset >= o })
	if i < 0 {
		i = len(rp.want)
	}
	return slices.Clone(rp.want[:i]), rp.want[i:]
}

// seen has the readers look once the writer has published all, and compares: they
// see as much as he does.
func (m *roMachine) seen() error {
	m.w.tasks.Wait()
	m.w.publish()
	for _, rp := range m.parts {
		want, err := readAll(m.w, rp)
		if err != nil {
			return err
		}
		for i, r := range m.readers {
			got, err := readAll(r, rp)
			if err != nil {
				return fmt.Errorf("reader %d of %s: %w", i, rp.topic, err)
			}
			if !slices.Equal(got, want) {
				return fmt.Errorf("reader %d of %s sees %v, the writer %v", i, rp.topic, got, want)
			}
		}
	}
	return nil
}

func (m *roMachine) addReader() error {
	r, err := open(m.disk, "/data", &Options{ReadOnly: true})
	if err == nil {
		m.readers = append(m.readers, r)
	}
	return err
}

func (m *roMachine) closeReaders() error {
	var errs []error
	for _, r := range m.readers {
		errs = append(errs, r.Close())
	}
	m.readers = nil
	return errors.Join(errs...)
}

// append appends a batch.
func (m *roMachine) append(t *rapid.T) error {
	rp := rapid.SampledFrom(m.parts).Draw(t, "partition")
	var sizes []int
	for range rapid.IntRange(1, 4).Draw(t, "records") {
		sizes = append(sizes, rapid.SampledFrom([]int{0, 10, 300, int(m.segment) / 5}).Draw(t, "size"))
	}
	return m.appendTo(rp, sizes)
}

func (m *roMachine) appendTo(rp *roPart, sizes []int) error {
	p := m.writerPart(rp)
	var recs []Record
	had := len(rp.want)
	end := p.end
	for _, size := range sizes {
		m.sent++
		value := fmt.Sprintf("%08d%*s", m.sent, size, "")
		rp.want = append(rp.want, roRecord{end + Offset(len(recs)), value})
		recs = append(recs, Record{Value: []byte(value)})
	}
	at, err := p.Append(ctx, recs...)
	m.w.tasks.Wait()
	switch {
	case err == nil && at != end:
		return fmt.Errorf("appended at %d, want %d", at, end)
	case err == nil:
		rp.acked = len(rp.want)
	case !errors.Is(err, ErrInDoubt):
		rp.want = rp.want[:had]
	}
	if err != nil && !errors.Is(err, ErrPartitionFailed) {
		return err
	}
	return m.broken
}

// stop ends the writer's life: closed, killed, or with the machine.
func (m *roMachine) stop(t *rapid.T) error {
	for _, rp := range m.parts {
		m.committed(rp)
	}
	how := rapid.SampledFrom([]string{"close", "kill", "power", "kill"}).Draw(t, "how")
	if how == "close" {
		if err := m.w.Close(); err != nil {
			return err
		}
		m.w = nil
		return m.between(t)
	}
	m.w.tasks.Wait()
	if how == "kill" {
		_ = kill(m.w)
		m.dead.Store(true)
		m.w = nil
		return m.between(t)
	}
	clone := m.disk.CrashClone(rapid.Uint64().Draw(t, "seed"))
	_ = kill(m.w)
	m.dead.Store(true)
	m.w = nil
	if err := m.closeReaders(); err != nil {
		return err
	}
	m.disk = clone
	return m.afterPowerCut(t)
}

// between looks while there is no writer, and opens the log again.
func (m *roMachine) between(t *rapid.T) error {
	if rapid.Bool().Draw(t, "another") {
		if err := m.addReader(); err != nil {
			return err
		}
	}
	if err := m.look(); err != nil {
		return err
	}
	return m.open()
}

// interleave has a reader read while the writer goes on between two of the
// reader's operations: he appends, fails, or is restarted.
func (m *roMachine) interleave(t *rapid.T) error {
	fsys := errfs.New(m.disk)
	r, err := open(fsys, "/data", &Options{ReadOnly: true})
	if err != nil {
		return err
	}
	if rapid.Bool().Draw(t, "ready") {
		for _, rp := range m.parts {
			if _, err := readAll(r, rp); err != nil {
				return errors.Join(err, r.Close())
			}
		}
	}
	actions := map[int64]string{}
	for range rapid.IntRange(1, 3).Draw(t, "actions") {
		at := fsys.Ops() + int64(rapid.IntRange(1, 60).Draw(t, "at"))
		actions[at] = rapid.SampledFrom([]string{"append", "append more", "fail", "restart", "delete", "delete topic"}).Draw(t, "what")
	}
	var failed error
	fsys.OnOp(func(op errfs.Op) error {
		if what := actions[op.N]; what != "" && failed == nil {
			failed = m.act(what)
		}
		return nil
	})
	all, err := m.readBeside(r)
	fsys.OnOp(nil)
	m.readers = append(m.readers, r)
	return errors.Join(failed, err, m.compareBeside(all))
}

// act does something with the writer.
func (m *roMachine) act(what string) error {
	for _, rp := range m.parts {
		switch what {
		case "append":
			if err := m.appendTo(rp, []int{10}); err != nil {
				return err
			}
		case "append more":
			for range 10 {
				if err := m.appendTo(rp, []int{int(m.segment) / 5, 10}); err != nil {
					return err
				}
			}
		case "fail":
			remove := m.fs.FailSite(siteFlush, 1, nil)
			err := m.appendTo(rp, []int{10})
			remove()
			if err != nil {
				return err
			}
		case "delete":
			if err := m.deleteTo(rp, m.committed(rp)-1); err != nil {
				return err
			}
		}
		m.committed(rp)
	}
	if what == "delete topic" {
		return m.replaceTopic(m.parts[0])
	}
	if what != "restart" {
		return nil
	}
	m.w.tasks.Wait()
	_ = kill(m.w)
	m.w = nil
	return m.open()
}

// compare compares what a reader has shown with what may be shown now. While the
// writer changes bounds, deleted records may still be seen.
func (m *roMachine) compare(rp *roPart, got []roRecord) error {
	lo := rp.lo
	if m.midst {
		lo = 0
	}
	return rp.compare(got, m.committed(rp), lo)
}

// compare is that where all before hw is committed, and before lo deleted.
func (rp *roPart) compare(got []roRecord, hw, lo Offset) error {
	if len(got) == 0 {
		return nil
	}
	before, rest := rp.split(got[0].offset)
	switch n := len(before); {
	case len(got) > len(rest) || !slices.Equal(got, rest[:len(got)]):
		return fmt.Errorf("a reader of %s shows %v, want a beginning of %v", rp.topic, got, rest)
	case n > 0 && before[n-1].offset >= max(lo, rp.hi) || got[0].offset < lo:
		return fmt.Errorf("a reader of %s begins at %v, want %d to %d", rp.topic, got[0], lo, rp.hi)
	case got[len(got)-1].offset >= hw:
		return fmt.Errorf("a reader of %s shows %v, committed is what is before %d", rp.topic, got, hw)
	}
	return nil
}

// beside is what a reader has shown while the writer went on.
type beside struct {
	rp  *roPart
	lo  Offset // before the read
	got []roRecord
}

// readBeside has a reader read all partitions, and says which were deleted meanwhile.
func (m *roMachine) readBeside(r *Log) (all []beside, err error) {
	m.quiet = true
	defer func() { m.quiet = false }()
	for _, rp := range m.parts { // one partition's topic may be deleted while another's is read
		rp.ghost = nil
	}
	begun, writer := map[*roPart]Offset{}, m.incarnation
	for _, rp := range m.parts {
		begun[rp] = rp.lo
	}
	for _, rp := range slices.Clone(m.parts) {
		lo := rp.lo
		got, failed := readBeside(r, rp)
		if m.incarnation != writer {
			lo = begun[rp] // what was shown before stays while the writer restarts
		}
		all, err = append(all, beside{rp, lo, got}), errors.Join(err, failed)
	}
	return all, err
}

func (m *roMachine) compareBeside(all []beside) error {
	for _, b := range all {
		err := b.rp.compare(b.got, m.committed(b.rp), min(b.lo, b.rp.lo))
		for old := b.rp.ghost; err != nil && old != nil; old = old.ghost {
			err = old.compare(b.got, old.hw, b.lo)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// openMeanwhile has a reader read what is on the disk after a power cut, while a
// writer opens the log, and appends what he cannot commit.
func (m *roMachine) openMeanwhile(t *rapid.T) error {
	fsys := errfs.New(m.disk)
	at := int64(rapid.IntRange(1, 120).Draw(t, "at"))
	var failed error
	opened := false
	begin := func() {
		opened = true
		if failed = m.open(); failed != nil {
			return
		}
		for _, rp := range m.parts {
			rp.hw = 0
			m.committed(rp)
		}
		failed = m.act("fail")
	}
	fsys.OnOp(func(op errfs.Op) error {
		if op.N >= at && !opened {
			begin()
		}
		return nil
	})
	m.quiet = true
	r, err := open(fsys, "/data", &Options{ReadOnly: true})
	m.quiet = false
	if err != nil {
		return err
	}
	all, err := m.readBeside(r)
	if !opened {
		begin()
	}
	fsys.OnOp(nil)
	m.readers = append(m.readers, r)
	return errors.Join(failed, err, m.compareBeside(all))
}

// afterPowerCut compares what a reader finds on the disk with what recovery does.
func (m *roMachine) afterPowerCut(t *rapid.T) error {
	for _, rp := range m.parts {
		if rp.flush == FlushAsync {
			rp.acked = 0
		}
		rp.hw = 1 << 40 // what is on the disk is committed, as recovery will say
	}
	if rapid.Bool().Draw(t, "open meanwhile") {
		return m.openMeanwhile(t)
	}
	var got [][]roRecord
	if rapid.Bool().Draw(t, "read first") {
		if err := m.addReader(); err != nil {
			return err
		}
		for _, rp := range m.parts {
			g, err := readAll(m.readers[0], rp)
			if err != nil {
				return err
			}
			got = append(got, g)
		}
	}
	if err := m.look(); err != nil {
		return err
	}
	if err := m.open(); err != nil {
		return err
	}
	for i, g := range got {
		rp := m.parts[i]
		if _, rest := rp.split(rp.lo); !slices.Equal(g, rest) {
			return fmt.Errorf("a reader has found %v of %s on the disk, recovery %v", g, rp.topic, rest)
		}
	}
	for _, rp := range m.parts {
		rp.hw = 0
		m.committed(rp)
	}
	return nil
}

// failFlush appends while a flush fails.
func (m *roMachine) failFlush(t *rapid.T) error {
	defer m.fs.FailSite(siteFlush, 1, nil)()
	return m.append(t)
}

// deleteBefore deletes records.
func (m *roMachine) deleteBefore(t *rapid.T) error {
	rp := rapid.SampledFrom(m.parts).Draw(t, "partition")
	if rapid.IntRange(0, 4).Draw(t, "fail") == 0 {
		defer m.fs.FailSite(siteStart, 1, nil)()
	}
	b := m.writerPart(rp).Bounds()
	return m.deleteTo(rp, Offset(rapid.Int64Range(int64(b.Start), int64(b.HighWatermark)).Draw(t, "to")))
}

func (m *roMachine) deleteTo(rp *roPart, to Offset) error {
	p := m.writerPart(rp)
	if to <= p.Bounds().Start {
		return nil
	}
	rp.hi = max(rp.hi, to)
	err := p.DeleteBefore(ctx, to)
	m.w.tasks.Wait()
	switch {
	case err == nil:
		rp.lo = to
	case !errors.Is(err, ErrInDoubt) && !errors.Is(err, ErrPartitionFailed):
		return err
	}
	return m.broken
}

// deleteTopic deletes a topic and makes another one of that name.
func (m *roMachine) deleteTopic(t *rapid.T) error {
	return m.replaceTopic(rapid.SampledFrom(m.parts).Draw(t, "partition"))
}

func (m *roMachine) replaceTopic(of *roPart) error {
	for _, rp := range m.parts {
		m.committed(rp)
	}
	if err := m.w.DeleteTopic(ctx, of.topic); err != nil {
		return err
	}
	m.w.tasks.Wait()
	var left []*roPart
	for _, rp := range m.parts {
		if rp.topic == of.topic {
			old := *rp
			*rp = roPart{topic: rp.topic, index: rp.index, flush: rp.flush, ghost: &old}
		}
		if rp.topic != of.topic || rp.index == 0 {
			left = append(left, rp)
		}
	}
	m.parts = left
	for _, rp := range left {
		if rp.topic == of.topic {
			if err := m.found(rp); err != nil {
				return err
			}
		}
	}
	return m.broken
}

// grow adds a partition to a topic.
func (m *roMachine) grow(t *rapid.T) error {
	of := rapid.SampledFrom(m.parts).Draw(t, "partition")
	top, err := m.w.Topic(of.topic)
	if err != nil || top.NumPartitions() == 3 {
		return err
	}
	n := top.NumPartitions()
	if err := top.SetPartitions(ctx, n+1); err != nil {
		return err
	}
	m.w.tasks.Wait()
	m.parts = append(m.parts, &roPart{topic: of.topic, index: n, flush: of.flush})
	return m.broken
}

// TestReadOnlyMachine lives many random lives, see roMachine.
func TestReadOnlyMachine(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := &roMachine{
			disk: memfs.New(), every: int64(rapid.SampledFrom([]int{1, 3, 20, 0}).Draw(t, "every")),
			parts:   []*roPart{{topic: "sure", flush: FlushBeforeAck}, {topic: "async", flush: FlushAsync}},
			segment: int64(rapid.SampledFrom([]int{1500, 4 * indexInterval}).Draw(t, "segment")),
			tuning:  tuning{ceilingStep: 50, boundsDelay: Forever, reserveBytes: 4096, sealAtOnce: true},
		}
		broken := m.open()
		step := func(f func(*rapid.T) error) func(*rapid.T) {
			return func(t *rapid.T) {
				if broken == nil {
					broken = f(t)
				}
				if broken == nil && m.broken != nil {
					broken = m.broken
				}
				if broken != nil {
					t.Fatal(broken)
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"append": step(m.append), "append more": step(m.append), "append still more": step(m.append),
			"stop": step(m.stop), "fail": step(m.failFlush),
			"interleave": step(m.interleave), "delete": step(m.deleteBefore),
			"delete topic": step(m.deleteTopic), "grow": step(m.grow),
			"see":     step(func(*rapid.T) error { return m.seen() }),
			"look":    step(func(*rapid.T) error { return m.look() }),
			"read":    step(func(*rapid.T) error { return m.addReader() }),
			"forget":  step(func(*rapid.T) error { return m.closeReaders() }),
			"publish": step(func(*rapid.T) error { m.w.publish(); return nil }),
			"flush":   step(func(*rapid.T) error { return m.w.bounds.sync(siteBoundsFlush) }),
		})
		require.NoError(t, m.closeReaders())
		_ = kill(m.w)
	})
}
