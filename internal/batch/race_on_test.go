//go:build race

package batch

// raceEnabled is for tests of allocations: under the race detector a sync.Pool forgets at random.
const raceEnabled = true
