package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestMedian(t *testing.T) {
	x := []float64{5, 1, 3}
	require.Equal(t, 3.0, median(x))
	require.Equal(t, []float64{5, 1, 3}, x, "the order of the rounds is kept")
	require.Equal(t, 2.5, median([]float64{4, 1, 2, 3}))
	require.Equal(t, 7.0, median([]float64{7}))
	require.Zero(t, median(nil))
}

func TestQuantile(t *testing.T) {
	x := make([]float64, 0, 100)
	for i := range 100 {
		x = append(x, float64((i*37)%100+1)) // 1 to 100
	}
	require.Equal(t, 50.0, quantile(x, 0.5))
	require.Equal(t, 99.0, quantile(x, 0.99))
	require.Equal(t, 100.0, quantile(x, 1))
	require.Equal(t, 1.0, quantile(x, 0))
	require.Equal(t, 7.0, quantile([]float64{7}, 0.99))
	require.Zero(t, quantile(nil, 0.5))
}

// TestRatioComparesRounds has a machine that gets ten times slower after the first of three
// rounds: what counts is that in each of them it is 2.
func TestRatioComparesRounds(t *testing.T) {
	us := figures{seconds: []float64{1, 1, 10}}
	them := figures{seconds: []float64{2, 2, 20}}
	require.Equal(t, 2.0, ratio(us, them))
	require.Equal(t, 0.5, ratio(them, us))
	require.Equal(t, 2.0, ratio(us, figures{seconds: []float64{2}}), "rounds that one has are left out")
	require.Zero(t, ratio(us, figures{}))
}

func TestSamplesAreCountedPerOperation(t *testing.T) {
	var f figures
	f.add(sample{operations: 4, elapsed: 2 * time.Second, allocs: 6})
	f.add(sample{operations: 1000, elapsed: time.Millisecond})
	require.Equal(t, figures{seconds: []float64{0.5, 1e-6}, allocs: []float64{1.5, 0}}, f)
}

func TestTargets(t *testing.T) {
	us, them := figures{seconds: []float64{0.25e-6}}, figures{seconds: []float64{1e-6}}
	for _, c := range []struct {
		target  target
		text    string
		reached float64
		terms   string
		met     bool
	}{
		{target{than: "x", times: 3}, "3 × the rate of x", 4, "4.00 × the rate", true},
		{target{than: "x", times: 4}, "4 × the rate of x", 4, "4.00 × the rate", true},
		{target{than: "x", times: 4.5}, "4.5 × the rate of x", 4, "4.00 × the rate", false},
		{target{rate: 4e6}, "4.00 M records/s", 4e6, "4.00 M records/s", true},
		{target{rate: 4.1e6}, "4.10 M records/s", 4e6, "4.00 M records/s", false},
		{target{most: 250 * time.Nanosecond}, "at most 250 ns", 0.25e-6, "250 ns", true},
		{target{most: 249 * time.Nanosecond}, "at most 249 ns", 0.25e-6, "250 ns", false},
		{target{than: "x", times: 1 / 1.25}, "1.25 × the time of x", 4, "0.25 × the time", true},
	} {
		reached, met := c.target.verdict(us, them)
		require.InDelta(t, c.reached, reached, 1e-9*c.reached, c.text)
		require.Equal(t, c.met, met, c.text)
		require.Equal(t, c.text, c.target.String())
		require.Equal(t, c.terms, c.target.inTerms(reached))
	}
	// 1.25 times the time is met by a time, and missed by a longer one.
	slower := target{than: "x", times: 1 / 1.25}
	_, met := slower.verdict(figures{seconds: []float64{5}}, figures{seconds: []float64{4}})
	require.True(t, met)
	_, met = slower.verdict(figures{seconds: []float64{5.1}}, figures{seconds: []float64{4}})
	require.False(t, met)
}
