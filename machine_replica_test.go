package riffle

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"pgregory.net/rapid"

	"github.com/rifflelog/riffle/internal/batch"
	"github.com/rifflelog/riffle/internal/model"
)

// machineReplica is a topic of one partition that takes batches from leaders, which
// do not agree: its end is cut off again and again.
type machineReplica struct {
	*machineTopic
	model *model.Replica
	ends  map[int32]Offset      // no leader of an epoch has sent anything at this offset or beyond
	sent  map[model.Record]bool // all that any leader has sent
	ready bool                  // it is a replica, and nothing of that is in doubt
}

// openedReplica compares what an opened log has of a replica, which shows all of it
// as yet, and makes it one again.
func (m *machine) openedReplica(r *machineReplica, p *Partition) error {
	r.ready = false
	if p.damaged != nil && m.faults.Load() > 0 {
		return nil // it could not be opened
	}
	got, err := m.read(p, Earliest, 0, false)
	if err == nil {
		err = m.become(r, p)
	}
	if err != nil {
		return err
	}
	start := int64(p.Bounds().Start)
	if !r.ready && len(got) == 0 {
		start = -1 // where it began was not durable, perhaps, and it has not been told to begin there
	}
	return r.model.Opened(start, got)
}

// become makes a partition a replica, of which nothing is committed.
func (m *machine) become(r *machineReplica, p *Partition) error {
	err := p.becomeReplica(ctx, 0)
	if m.dead.Load() {
		return errDead
	}
	r.model.TakenBack()
	r.ready = err == nil
	return m.mayFail(ctx, p, err)
}

// replica returns the partition, if something can be done with it.
func (m *machine) replica(r *machineReplica) (*Partition, error) {
	p := m.partition(r.machineTopic, 0)
	if p == nil {
		if err := m.create(ctx, r.machineTopic); err != nil {
			return nil, err
		}
		if p = m.partition(r.machineTopic, 0); p == nil {
			return nil, nil
		}
	}
	if p.damaged != nil || m.hasFailed(r.machineTopic, 0) || m.dead.Load() {
		return nil, nil
	}
	if !r.ready {
		if err := m.become(r, p); err != nil || !r.ready {
			return nil, err
		}
	}
	return p, nil
}

// mayFail returns err if an operation of a replica may not fail with it.
func (m *machine) mayFail(ctx context.Context, p *Partition, err error) error {
	switch {
	case err == nil || m.dead.Load() || m.faults.Load() > m.before:
		return nil
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return nil
	case errors.Is(err, ErrPartitionFailed) && m.faults.Load() > 0:
		return nil
	}
	return fmt.Errorf("%v: %w", p.name(), err)
}

// done tells the model that what was begun is done, or says why it may not have
// failed.
func (m *machine) done(ctx context.Context, r *machineReplica, p *Partition, err error) error {
	if err == nil && !m.dead.Load() {
		return r.model.Acked(boundsOf(p))
	}
	return m.mayFail(ctx, p, err)
}

// compareReplica compares a replica with its model while nothing is under way.
func (m *machine) compareReplica(r *machineReplica) error {
	p := m.partition(r.machineTopic, 0)
	if !r.ready || p == nil || m.hasFailed(r.machineTopic, 0) {
		return nil
	}
	got, err := m.read(p, Earliest, 0, false)
	if err == nil {
		err = r.model.Shows(boundsOf(p), got)
	}
	if err != nil {
		return err
	}
	p.mu.Lock()
	r.model.Flushed(int64(p.flushed))
	p.mu.Unlock()
	for o, want := range r.model.Epochs() {
		if epoch, _ := p.epochs.epochAt(Offset(o)); epoch != want {
			return fmt.Errorf("epoch at offset %d is %d, want %d: %v", o, epoch, want, p.epochs.load())
		}
	}
	return nil
}

// machineSent is a batch that a leader is to send.
type machineSent struct {
	records, bytes int
	epochs         int32  // it begins so many epochs later
	gap            Offset // and leaves so many offsets out, if it does
}

func (m *machine) drawReplica(t *rapid.T) *machineReplica {
	return m.replicas[rapid.IntRange(0, len(m.replicas)-1).Draw(t, "replica")]
}

// replicateSome appends batches as a follower does.
func (m *machine) replicateSome(t *rapid.T) error {
	r := m.drawReplica(t)
	var sends []machineSent
	for range rapid.IntRange(1, 5).Draw(t, "batches") {
		sends = append(sends, machineSent{
			records: rapid.IntRange(1, 3).Draw(t, "records"),
			bytes:   rapid.SampledFrom([]int{0, 300, 1500, 3900, 9000}).Draw(t, "bytes"),
			epochs:  rapid.SampledFrom([]int32{0, 0, 0, 1, 2}).Draw(t, "epochs"),
			gap:     rapid.SampledFrom([]Offset{0, 0, 5}).Draw(t, "gap"),
		})
	}
	ends, cancel := m.drawContext(t)
	defer cancel()
	p, err := m.replica(r)
	if p == nil {
		return err
	}
	set, batches := m.encodeSent(r, p, sends)
	r.model.Append(batches)
	_, err = p.appendReplica(ends, set)
	return m.done(ends, r, p, err)
}

// encodeSent returns batches that go on from the end of a replica, as a leader sends
// them. No two leaders have an epoch, so what was sent in one is not sent otherwise.
func (m *machine) encodeSent(r *machineReplica, p *Partition, sends []machineSent) (set []byte, batches [][]model.Record) {
	p.mu.Lock()
	base, last := p.end, p.epoch
	p.mu.Unlock()
	for _, s := range sends {
		epoch := max(last, 0) + s.epochs
		for r.ends[epoch] > base {
			epoch++
		}
		if epoch > last {
			base += s.gap
		}
		m.batches++
		var recs []model.Record
		var bld batch.Builder
		bld.Begin(nil, 0, 0)
		for i := range s.records {
			rec := model.Record{Offset: int64(base) + int64(i), Epoch: epoch, Timestamp: 1, Key: fmt.Sprintf("%d.%d", m.batches, i)}
			rec.Value = string(noise(m.batches, s.bytes))
			if err := batch.Add(&bld, 1, []byte(rec.Key), []byte(rec.Value), []Header(nil)); err != nil {
				panic(err)
			}
			r.sent[rec] = true
			recs = append(recs, rec)
		}
		b, err := bld.Finish(batch.NoProducer)
		if err != nil {
			panic(err)
		}
		batch.Batch(b).SetBaseOffset(int64(base))
		batch.Batch(b).SetLeaderEpoch(epoch)
		set, batches = append(set, b...), append(batches, recs)
		base, last = base+Offset(s.records), epoch
		r.ends[epoch] = base
	}
	return set, batches
}

func (m *machine) showSome(t *rapid.T) error {
	r := m.drawReplica(t)
	at := rapid.Int64Range(0, 1000).Draw(t, "high watermark")
	ends, cancel := m.drawContext(t)
	defer cancel()
	p, err := m.replica(r)
	if p == nil {
		return err
	}
	_, err = p.setHighWatermark(ends, near(p, at))
	return m.mayFail(ends, p, err)
}

// near returns an offset between 2 before the start of a partition and 2 behind its
// end, as at says.
func near(p *Partition, at int64) Offset {
	b := p.Bounds()
	lo := max(0, b.Start-2)
	return lo + Offset(at)%(b.End+3-lo)
}

// truncateSome cuts a replica, mostly near its end, or has it begin anew, while
// another goroutine follows it.
func (m *machine) truncateSome(t *rapid.T) error {
	r := m.drawReplica(t)
	at := rapid.Int64Range(0, 1000).Draw(t, "offset")
	anew := rapid.IntRange(0, 9).Draw(t, "begin anew") == 9
	followed := rapid.Bool().Draw(t, "followed")
	ends, cancel := m.drawContext(t)
	defer cancel()
	p, err := m.replica(r)
	if p == nil {
		return err
	}
	m.heal() // an error half-way leaves a directory of which the model knows too little
	n := near(p, at)
	wait := func() error { return nil }
	if followed {
		wait = m.followReplica(r, p)
	}
	if anew {
		r.model.Restart(int64(n))
		err = p.truncateFullyAndStartAt(ends, n)
	} else {
		r.model.Truncate(int64(n))
		err = p.truncateTo(ends, n)
	}
	return errors.Join(m.done(ends, r, p, err), wait())
}

// followReplica follows a replica until what it returns is called, which says what
// cannot have been seen.
func (m *machine) followReplica(r *machineReplica, p *Partition) (wait func() error) {
	ends, cancel := context.WithCancel(ctx)
	var seen []model.Record
	var err error
	var wg sync.WaitGroup
	wg.Go(func() {
		for rec, e := range p.Follow(ends, Earliest, nil) {
			if err = e; err != nil {
				return
			}
			seen = append(seen, modelRecord(rec))
		}
	})
	return func() error {
		cancel()
		wg.Wait()
		for _, rec := range seen {
			if !r.sent[rec] {
				return fmt.Errorf("%v: a follower saw %q of epoch %d at offset %d", p.name(), rec.Key, rec.Epoch, rec.Offset)
			}
		}
		if failed := model.Follows(seen); failed != nil {
			return failed
		}
		if errors.Is(err, ErrOffsetOutOfRange) {
			return nil
		}
		return m.mayFail(ends, p, err)
	}
}
