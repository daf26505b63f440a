package main

import (
	"math"
	"slices"
)

// figures are the turns of one contender at one row: seconds an operation, in the order
// of the rounds, and allocations.
type figures struct {
	seconds []float64
	allocs  []float64
}

func (f *figures) add(s sample) {
	f.seconds = append(f.seconds, s.seconds())
	f.allocs = append(f.allocs, float64(s.allocs)/float64(s.operations))
}

// median is the middle of x, or the mean of the two in the middle; 0 if there is none.
func median(x []float64) float64 {
	if len(x) == 0 {
		return 0
	}
	x = slices.Sorted(slices.Values(x))
	return (x[(len(x)-1)/2] + x[len(x)/2]) / 2
}

// quantile is the smallest of x that a share of them does not exceed; 0 if there is none.
func quantile(x []float64, share float64) float64 {
	if len(x) == 0 {
		return 0
	}
	x = slices.Sorted(slices.Values(x))
	return x[max(0, int(math.Ceil(share*float64(len(x))))-1)]
}

// ratio is the median, over the rounds that both have, of how many times b took what a
// took. A slow moment of the machine hits both of a round, and so not the ratio. It is
// 0 if there is no such round.
func ratio(a, b figures) float64 {
	var x []float64
	for i := range min(len(a.seconds), len(b.seconds)) {
		x = append(x, b.seconds[i]/a.seconds[i])
	}
	return median(x)
}

// verdict is what became of a target: what was reached, in the target's terms, and
// whether that is enough. Both figures must be there.
func (t target) verdict(ours, theirs figures) (reached float64, met bool) {
	if t.rate > 0 {
		reached = 1 / median(ours.seconds)
		return reached, reached >= t.rate
	}
	if t.most > 0 {
		reached = median(ours.seconds)
		return reached, reached <= t.most.Seconds()
	}
	reached = ratio(ours, theirs)
	return reached, reached >= t.times
}
