package riffle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"pgregory.net/rapid"

	"github.com/rifflelog/riffle/internal/batch"
	"github.com/rifflelog/riffle/internal/model"
)

// appendAhead appends some batches to a partition, as many at a time as it takes, as a
// producer does, and waits for each round.
func (m *machine) appendAhead(t *rapid.T) error {
	all := []*machineBatch{m.drawBatch(t)}
	top, part := all[0].top, all[0].part
	for range rapid.IntRange(1, 4).Draw(t, "behind") {
		b := m.drawBatch(t)
		b.top, b.part = top, part
		all = append(all, b)
	}
	ends, cancel := m.drawContext(t)
	defer cancel()
	if m.partition(top, part) == nil {
		if err := m.create(ends, top); err != nil {
			return err
		}
	}
	p := m.partition(top, part)
	if p == nil {
		return nil
	}
	for len(all) > 0 {
		n, err := m.appendSome(ends, p, all)
		if err != nil {
			return err
		}
		all = all[n:]
	}
	return nil
}

// appendSome appends the first batches, as many as leave at once, and tells the model what
// came of them. It returns how many they are.
func (m *machine) appendSome(ctx context.Context, p *Partition, all []*machineBatch) (int, error) {
	mp := all[0].top.parts[all[0].part]
	known := make([]*model.Batch, len(all))
	m.mu.Lock()
	for i, b := range all {
		known[i] = mp.Append(b.want)
	}
	m.mu.Unlock()
	n, bases, err := p.tryAhead(ctx, all)
	dead := m.dead.Load()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range known[n:] {
		mp.Failed(b) // nothing was tried
	}
	for i, b := range all[:n] {
		switch {
		case err == nil && dead: // perhaps too late
			continue
		case err == nil:
			b.acked = true
			if err := mp.Acked(known[i], int64(bases[i])); err != nil {
				return n, err
			}
			continue
		case !errors.Is(err, ErrInDoubt):
			mp.Failed(known[i])
		}
		if !dead && !m.expected(ctx, p, b, err) {
			return n, fmt.Errorf("%v: %d at once: %w", p.name(), n, err)
		}
	}
	return n, nil
}

// tryAhead encodes batches and appends the first ones.
func (p *Partition) tryAhead(ctx context.Context, all []*machineBatch) (n int, bases []Offset, err error) {
	defer p.topic.log.guardAppend(&err)
	now := time.Now().UnixMilli()
	var e encoder
	var encoded []batch.Batch
	for i, b := range all {
		var data batch.Batch
		if data, err = e.encode(b.recs, p.topic.config(), now); err != nil && i == 0 {
			return 1, nil, err
		} else if err != nil {
			break
		}
		encoded = append(encoded, bytes.Clone(data))
	}
	n, round, err := p.appendAhead(ctx, encoded, now, func() {})
	if err != nil {
		return n, nil, err
	}
	for _, b := range encoded[:n] {
		bases = append(bases, Offset(b.BaseOffset()))
	}
	if round == nil {
		return n, bases, nil
	}
	select {
	case <-round.done:
		return n, bases, inDoubt(round.err)
	case <-p.topic.log.broken:
		return n, bases, inDoubt(p.topic.log.closedError())
	}
}
