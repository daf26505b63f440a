package riffle

import (
	"errors"
	"fmt"

	"pgregory.net/rapid"
)

// deleteBefore deletes the records before some offset: what is acknowledged as
// deleted never comes back, what was not to be deleted stays.
func (m *machine) deleteBefore(t *rapid.T) error {
	top, part := m.drawPartition(t)
	to := rapid.Int64Range(-4, 1000).Draw(t, "to")
	ends, cancel := m.drawContext(t)
	defer cancel()
	p := m.partition(top, part)
	if p == nil || p.damaged != nil {
		return nil
	}
	hw := boundsOf(p).HighWatermark
	if to > 0 {
		to %= hw + 3
	}
	want := to
	if Offset(to) == Latest {
		want = hw
	}
	legal := 0 <= want && want <= hw
	mp, undo := top.parts[part], func() {}
	if legal {
		undo = mp.Deleting(want)
	}
	err := p.DeleteBefore(ends, Offset(to))
	dead := m.dead.Load()
	switch {
	case err == nil && dead: // perhaps too late
		return nil
	case err == nil && legal:
		mp.Deleted(want)
		return nil
	case err == nil:
		return fmt.Errorf("%v: DeleteBefore(%d) of %d", p.name(), to, hw)
	case !errors.Is(err, ErrInDoubt):
		undo()
	}
	faulty := m.faults.Load() > m.before
	if faulty {
		mp.Doubted() // bounds may be torn
	}
	switch {
	case dead,
		errors.Is(err, ErrOffsetOutOfRange) && !legal,
		errors.Is(err, ErrPartitionFailed) && m.faults.Load() > 0,
		errors.Is(err, ErrInDoubt) && (faulty || ends.Err() != nil),
		faulty, ends.Err() != nil && errors.Is(err, ends.Err()):
		return nil
	}
	return fmt.Errorf("%v: %w", p.name(), err)
}
