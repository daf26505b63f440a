//go:build !portable

package crc32c

import "testing"

// processors are those that this one can be, by what they have: each a function that
// makes it so, until t has ended.
func processors(t *testing.T) map[string]func() {
	streams, wide := hasStreams, hasWide
	t.Cleanup(func() { hasStreams, hasWide = streams, wide })
	all := map[string]func(){"neither": func() { hasStreams, hasWide = false, false }}
	if streams {
		all["streams"] = func() { hasStreams, hasWide = true, false }
	}
	if wide {
		all["wide"] = func() { hasStreams, hasWide = true, true }
	}
	return all
}
