package riffle

import (
	"context"
	"errors"
	"fmt"

	"pgregory.net/rapid"

	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/errfs"
)

// machineCond is a condition as it is drawn: what it means depends on what is there
// when it is asked for.
type machineCond struct {
	byKey bool
	ahead Offset // of NextOffset: how far from the log end
	key   string
	since int64 // of KeyUnchanged: how far from the start, more or less
}

// appendIfOne appends a batch on a condition.
func (m *machine) appendIfOne(t *rapid.T) error {
	b := m.drawBatch(t)
	b.cond = &machineCond{
		byKey: rapid.Bool().Draw(t, "by key"),
		ahead: rapid.SampledFrom([]Offset{0, 0, 0, 1, -1}).Draw(t, "ahead"),
		key:   fmt.Sprintf("%d.%d", rapid.IntRange(1, m.batches).Draw(t, "batch of the key"), rapid.IntRange(0, 2).Draw(t, "record of the key")),
		since: rapid.Int64Range(0, 1000).Draw(t, "since"),
	}
	ends, cancel := m.drawContext(t)
	defer cancel()
	return m.append(ends, b)
}

// appendTo appends b. If it has a condition, the answer must be that of the model:
// nobody else appends meanwhile.
func (b *machineBatch) appendTo(ctx context.Context, p *Partition) (Offset, error) {
	if b.cond == nil {
		return p.Append(ctx, b.recs...)
	}
	mp, start := b.top.parts[b.part], int64(p.Bounds().Start)
	next, broken := Offset(mp.Next()), NoOffset
	cond := NextOffset(max(0, next+b.cond.ahead))
	if b.cond.byKey {
		since := start + b.cond.since%(int64(next)-start+1)
		cond = KeyUnchanged([]byte(b.cond.key), Offset(since))
		for _, r := range mp.Records(since, int64(next)) {
			if r.Key == b.cond.key {
				broken = Offset(r.Offset)
				break
			}
		}
	} else if cond.offset != next {
		broken = cond.offset
	}
	at, err := p.AppendIf(ctx, cond, b.recs...)
	var ce *ConflictError
	switch conflict := errors.As(err, &ce); {
	case conflict && (ce.Offset != broken || ce.Next != next):
		return at, fmt.Errorf("%+v: offset %d breaks it, of %d, but: %v", cond, broken, next, err)
	case err == nil && broken != NoOffset:
		return at, fmt.Errorf("%+v: appended at %d, but offset %d breaks it", cond, at, broken)
	}
	return at, err
}

// expectedOf says whether a condition may fail with err: it conflicts, which has been
// compared, or what it must read cannot be read.
func (m *machine) expectedOf(b *machineBatch, err error) bool {
	if b.cond == nil {
		return false
	}
	failed := errors.Is(err, errfs.ErrInjected) || errors.Is(err, vfs.ErrNoSpace)
	return errors.Is(err, ErrConflict) || failed && m.faults.Load() > m.before
}
