package riffle

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/invariants"
	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// The model of one partition for porcupine. Its state is what is committed, as a
// string of records. An append takes effect when it is committed: a group commits
// one after the other. So a conflict, which waits for the end that it names, takes
// effect when that was the committed end.

// linRecord is the size of a record in the state: its key, and a number that no
// other record has.
const linRecord = 3

// linDoes is what an operation does.
type linDoes string

const (
	linAppend linDoes = "append"
	linNext   linDoes = "append if next offset"
	linKey    linDoes = "append if key unchanged"
	linRead   linDoes = "read"
	linBounds linDoes = "bounds"
)

type linInput struct {
	does linDoes
	recs string // what is appended
	at   int64  // of linNext the offset, of linKey since, of linRead the offset
	key  string
}

type linOutput struct {
	unknown  bool // it may have been done, or be done later
	conflict bool
	at       int64  // of the first record, of the conflict; of linBounds the high watermark
	next     int64  // of the conflict, of linBounds: the log end
	rec      string // of linRead: empty at the readable end
}

var linModel = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		ok, next := linStep(state.(string), input.(linInput), output.(linOutput))
		return ok, next
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v: %+v", input, output) },
}

// linStep says whether an operation may have that output in a state, and which state
// is next.
func linStep(state string, in linInput, out linOutput) (ok bool, next string) {
	n := int64(len(state) / linRecord)
	switch in.does {
	case linRead:
		want := ""
		if in.at < n {
			want = state[linRecord*in.at:][:linRecord]
		}
		return out.rec == want, state
	case linBounds:
		return out.at == n && out.next >= n, state // what is not committed is not in the model
	}
	broken := linBroken(state, in)
	switch {
	case out.conflict:
		return out.at == broken && out.next == n, state
	case out.unknown && broken != int64(NoOffset):
		return true, state
	case out.unknown:
		return true, state + in.recs
	}
	return broken == int64(NoOffset) && out.at == n, state + in.recs
}

// linBroken returns the offset that breaks a condition, NoOffset if it holds.
func linBroken(state string, in linInput) int64 {
	n := int64(len(state) / linRecord)
	switch in.does {
	case linNext:
		if in.at != n {
			return in.at
		}
	case linKey:
		for o := in.at; o < n; o++ {
			if state[linRecord*o:][:1] == in.key {
				return o
			}
		}
	}
	return int64(NoOffset)
}

// linHistory is the history of one partition.
type linHistory struct {
	p     *Partition
	clock atomic.Int64 // counts calls and returns
	ids   atomic.Int64
	ends  atomic.Int64 // contexts that end: judging takes exponentially more time with each unknown answer
	mu    sync.Mutex
	ops   []porcupine.Operation // guarded by mu
}

// client does some operations, one after the other. With pause it lets time go by
// and its contexts may end, for which it must be in a bubble.
func (h *linHistory) client(id int, r *rand.Rand, n int, pause bool) error {
	seen := int64(0) // of the committed end
	for range n {
		in := h.draw(r, seen)
		c, cancel := ctx, func() {}
		if pause {
			//lint:sleep in a bubble, where time does not pass
			time.Sleep(time.Duration(r.IntN(30)) * time.Microsecond)
			if r.IntN(8) == 0 && in.recs != "" && h.ends.Add(1) <= 6 {
				c, cancel = context.WithTimeout(ctx, time.Duration(r.IntN(30))*time.Microsecond)
			}
		}
		call := h.clock.Add(1)
		out, err := h.do(c, in)
		ret := h.clock.Add(1)
		cancel()
		switch {
		case out.unknown:
			ret = math.MaxInt64 // after all others, if it was not done
		case errors.Is(err, context.DeadlineExceeded):
			continue // not done
		case err != nil:
			return fmt.Errorf("%+v: %w", in, err)
		}
		switch {
		case in.does == linBounds:
			seen = out.at
		case out.conflict:
			seen = out.next
		}
		h.mu.Lock()
		h.ops = append(h.ops, porcupine.Operation{ClientId: id, Input: in, Call: call, Output: out, Return: ret})
		h.mu.Unlock()
	}
	return nil
}

func (h *linHistory) draw(r *rand.Rand, seen int64) linInput {
	in := linInput{does: []linDoes{linAppend, linNext, linNext, linKey, linKey, linRead, linRead, linBounds}[r.IntN(8)]}
	in.key = string(rune('x' + r.IntN(3)))
	switch in.does {
	case linRead:
		in.at = max(0, seen+int64(r.IntN(6)-3))
		return in
	case linBounds:
		return in
	case linNext:
		in.at = seen
	case linKey:
		in.at = max(0, seen-int64(r.IntN(3)))
	}
	for range 1 + r.IntN(2) {
		in.recs += fmt.Sprintf("%s%02x", in.key, h.ids.Add(1))
	}
	return in
}

func (h *linHistory) do(c context.Context, in linInput) (out linOutput, err error) {
	var recs []Record
	for i := 0; i < len(in.recs); i += linRecord {
		recs = append(recs, Record{Key: []byte(in.recs[i:][:1]), Value: []byte(in.recs[i+1:][:linRecord-1])})
	}
	var at Offset
	switch in.does {
	case linBounds:
		b := h.p.Bounds()
		return linOutput{at: int64(b.HighWatermark), next: int64(b.End)}, nil
	case linRead:
		for r, err := range h.p.Records(c, Offset(in.at), &ReadOptions{Until: Offset(in.at + 1)}) {
			var oe *OffsetError
			if errors.As(err, &oe) && oe.Offset > oe.End {
				return out, nil // there is none yet
			}
			return linOutput{rec: string(r.Key) + string(r.Value)}, err
		}
		return out, nil
	case linAppend:
		at, err = h.p.Append(c, recs...)
	case linNext:
		at, err = h.p.AppendIf(c, NextOffset(Offset(in.at)), recs...)
	case linKey:
		at, err = h.p.AppendIf(c, KeyUnchanged([]byte(in.key), Offset(in.at)), recs...)
	}
	var ce *ConflictError
	switch {
	case errors.As(err, &ce):
		return linOutput{conflict: true, at: int64(ce.Offset), next: int64(ce.Next)}, nil
	case errors.Is(err, ErrInDoubt):
		return linOutput{unknown: true}, nil
	}
	return linOutput{at: int64(at)}, err
}

// run lets clients work on a new partition.
func (h *linHistory) run(t *testing.T, seed uint64, flush FlushPolicy, pause bool) {
	fsys := errfs.New(memfs.New())
	cfg := &TopicConfig{Flush: flush, SegmentBytes: 1 << 10}
	if pause {
		// Of one segment: the indexes of others are read under a lock, and time does
		// not go by while somebody waits for a lock.
		cfg.SegmentBytes = 0
		var mu sync.Mutex
		r := rand.New(rand.NewPCG(seed, 99))
		wait := func(errfs.Op) {
			mu.Lock()
			d := time.Duration(r.IntN(40)) * time.Microsecond
			mu.Unlock()
			//lint:sleep in a bubble
			time.Sleep(d)
		}
		fsys.Add(errfs.Rule{Site: siteFlush, Before: wait})
		fsys.Add(errfs.Rule{Kind: errfs.Read, Before: wait})
	}
	h.p = partOf(t, openAt(t, fsys, "/data", nil), "topic", cfg)
	const clients = 5
	errs := make([]error, clients)
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() { errs[i] = h.client(i, rand.New(rand.NewPCG(seed, uint64(i))), 12, pause) })
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
}

// TestPartitionIsLinearizable lets clients append, with and without conditions, read
// and look at bounds, all at once: each answer is one that a partition could give
// that does one thing after the other. In a bubble flushes and reads take time, and
// contexts end meanwhile; outside of it only processors are in each other's way.
func TestPartitionIsLinearizable(t *testing.T) {
	t.Parallel()
	histories := 150
	if invariants.Enabled {
		histories = 40 // the race detector is slow
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	done := map[string]int{} // so that each kind of answer is among those that are judged
	for i := range uint64(histories) {
		for _, flush := range []FlushPolicy{FlushBeforeAck, FlushAsync} {
			for _, pause := range []bool{false, true} {
				var h linHistory
				if pause {
					synctest.Test(t, func(t *testing.T) { h.run(t, seed+i, flush, true) })
				} else {
					h.run(t, seed+i, flush, false)
				}
				for _, op := range h.ops {
					out := op.Output.(linOutput)
					done[fmt.Sprint(op.Input.(linInput).does, out.conflict, out.unknown)]++
				}
				if !porcupine.CheckOperations(linModel, h.ops) {
					for _, op := range h.ops {
						t.Logf("%d: [%d, %d] %s", op.ClientId, op.Call, op.Return, linModel.DescribeOperation(op.Input, op.Output))
					}
					t.Fatalf("history %d, flush policy %d, pauses %t: not linearizable", i, flush, pause)
				}
			}
		}
	}
	t.Log(done)
	for _, does := range []linDoes{linAppend, linNext, linKey} {
		require.Positive(t, done[fmt.Sprint(does, false, false)], does)
		require.Positive(t, done[fmt.Sprint(does, false, true)], "%s: unknown", does)
		require.Equal(t, does != linAppend, done[fmt.Sprint(does, true, false)] > 0, "%s: conflict", does)
	}
}

// linOps returns a history of operations of which each ends before the next begins.
func linOps(steps ...any) (ops []porcupine.Operation) {
	for i := 0; i < len(steps); i += 2 {
		op := porcupine.Operation{Input: steps[i], Output: steps[i+1], Call: int64(10 * i), Return: int64(10*i + 5)}
		if op.Output.(linOutput).unknown {
			op.Return = math.MaxInt64
		}
		ops = append(ops, op)
	}
	return ops
}

// TestLinearizabilityIsJudged breaks one rule of a partition after the other in a
// history that keeps them: each is found. Of what is unknown, both outcomes are
// right, but not one after the other.
func TestLinearizabilityIsJudged(t *testing.T) {
	type in = linInput
	type out = linOutput
	base := func() []porcupine.Operation {
		return linOps(
			in{does: linAppend, recs: "x01y02"}, out{at: 0}, // 0
			in{does: linRead, at: 1}, out{rec: "y02"}, // 1
			in{does: linRead, at: 2}, out{}, // 2
			in{does: linNext, recs: "z03", at: 2}, out{at: 2}, // 3
			in{does: linNext, recs: "z04", at: 2}, out{conflict: true, at: 2, next: 3}, // 4
			in{does: linKey, recs: "x05", key: "x", at: 1}, out{at: 3}, // 5
			in{does: linKey, recs: "x06", key: "x", at: 1}, out{conflict: true, at: 3, next: 4}, // 6
			in{does: linBounds}, out{at: 4, next: 4}, // 7
			in{does: linAppend, recs: "y07"}, out{unknown: true}, // 8
		)
	}
	after := func(steps ...any) []porcupine.Operation {
		ops := base()
		for _, op := range linOps(steps...) {
			op.Call += 1000
			op.Return += 1000
			ops = append(ops, op)
		}
		return ops
	}
	with := func(i int, o out) []porcupine.Operation {
		ops := base()
		ops[i].Output = o
		return ops
	}
	seen := []any{in{does: linRead, at: 4}, out{rec: "y07"}}
	none := []any{in{does: linRead, at: 4}, out{}}
	for name, ops := range map[string][]porcupine.Operation{
		"as it is":                base(),
		"what is unknown is done": after(seen...),
		"what is unknown is not":  after(none...),
		"or is done later":        after(append(none, seen...)...),
		"the end is ahead":        with(7, out{at: 4, next: 6}),
	} {
		require.True(t, porcupine.CheckOperations(linModel, ops), name)
	}
	for name, ops := range map[string][]porcupine.Operation{
		"an append at another offset":         with(0, out{at: 1}),
		"another record is read":              with(1, out{rec: "x01"}),
		"a committed record is not read":      with(1, out{}),
		"a record is read before it is there": with(2, out{rec: "z03"}),
		"appended at another next offset":     with(3, out{at: 3}),
		"a conflict with the next offset":     with(3, out{conflict: true, at: 2, next: 2}),
		"appended at a wrong next offset":     with(4, out{at: 3}),
		"a conflict with another end":         with(4, out{conflict: true, at: 2, next: 4}),
		"a conflict with another offset":      with(4, out{conflict: true, at: 1, next: 3}),
		"a conflict without the key":          with(5, out{conflict: true, at: 2, next: 3}),
		"a conflict before since":             with(5, out{conflict: true, at: 0, next: 3}),
		"appended though the key is there":    with(6, out{at: 4}),
		"a key is found elsewhere":            with(6, out{conflict: true, at: 2, next: 4}),
		"a key is found at another end":       with(6, out{conflict: true, at: 3, next: 5}),
		"the high watermark is behind":        with(7, out{at: 3, next: 4}),
		"the high watermark is ahead":         with(7, out{at: 5, next: 5}),
		"the end is behind it":                with(7, out{at: 4, next: 3}),
		"what was seen is gone":               after(append(seen, none...)...),
		"what was acknowledged is gone":       after(in{does: linRead, at: 3}, out{}),
		"an append goes over what was seen":   after(append(seen, in{does: linAppend, recs: "z08"}, out{at: 4})...),
	} {
		require.False(t, porcupine.CheckOperations(linModel, ops), name)
	}
}
