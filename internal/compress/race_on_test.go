//go:build race

package compress

// raceEnabled is for tests of allocations: under the race detector a sync.Pool forgets at random.
const raceEnabled = true
