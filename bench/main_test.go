package main

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestTurnsAreInterleaved has three contenders, of which one cannot do the work and one fails
// in its second turn: all others go on in turns, in an order that changes, and neither has figures.
func TestTurnsAreInterleaved(t *testing.T) {
	var order []string
	turns := map[string]int{}
	r := row{often: 5, turn: func(b *bench, c *contender) (sample, error) {
		require.Equal(t, time.Second, b.scale.turn)
		order = append(order, c.name)
		turns[c.name]++
		switch {
		case c.name == "never":
			return sample{}, errors.Join(errCannot, nil)
		case c.name == "fails" && turns[c.name] == 2:
			return sample{}, errors.New("broken")
		}
		return sample{operations: 1, elapsed: 1}, nil
	}}
	b := newBench(scale{rounds: 2, row: time.Hour, turn: 5 * time.Second}, t.TempDir())
	res, err := b.measure(r, []*contender{{name: "ours"}, {name: "other"}, {name: "never"}, {name: "fails"}})
	require.NoError(t, err)
	require.Equal(t, map[string]int{"ours": 10, "other": 10, "never": 1, "fails": 2}, turns)
	require.ElementsMatch(t, []string{"ours", "other", "never", "fails"}, order[:4])
	rounds := order[7:] // those of two contenders
	first := map[string]bool{}
	for i := 0; i < len(rounds); i += 2 {
		require.NotEqual(t, rounds[i], rounds[i+1])
		first[rounds[i]] = true
	}
	require.Len(t, first, 2)
	require.Len(t, res.figures, 2)
	require.Len(t, res.figures["ours"].seconds, 10)
	require.EqualError(t, res.failed["fails"], "broken")
	require.Len(t, res.failed, 1)
	require.Equal(t, 5*time.Second, b.scale.turn)
}

// TestRowsEnd has no time for a row: it has three rounds nevertheless, and no more.
func TestRowsEnd(t *testing.T) {
	r := row{often: 10, turn: func(*bench, *contender) (sample, error) { return sample{operations: 1, elapsed: 1}, nil }}
	res, err := newBench(scale{rounds: 2}, t.TempDir()).measure(r, []*contender{{name: "ours"}})
	require.NoError(t, err)
	require.Len(t, res.figures["ours"].seconds, 3)
}

// TestEveryRowRuns does each row once with each contender, as short as it can be. It shows
// that all work can be done, not how fast.
func TestEveryRowRuns(t *testing.T) {
	s := scale{rounds: 1, turn: 1, room: 1 << 20, read: 1500, look: 20, open: 1500}
	keys := map[string]bool{}
	for _, r := range rows(s) {
		require.False(t, keys[r.key], "two rows called %s", r.key)
		keys[r.key] = true
	}
	b := newBench(s, t.TempDir())
	for _, r := range rows(s) {
		r.often = 1
		res, err := b.measure(r, contenders())
		require.NoError(t, err)
		require.Empty(t, res.failed, r.key)
		for _, tg := range r.targets {
			if tg.than != "" {
				require.Contains(t, res.figures, tg.than, r.key)
			}
		}
	}
}
