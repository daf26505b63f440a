// Package invariants holds checks of what can only be false by a mistake of
// ours. They run in builds with -tags invariants or -race and cost nothing in
// others.
package invariants

import "fmt"

// Check panics with the formatted message if ok is false and checks are on.
// Where building the arguments costs something, ask Enabled first.
func Check(ok bool, format string, args ...any) {
	if Enabled && !ok {
		panic("riffle: broken invariant: " + fmt.Sprintf(format, args...))
	}
}

// Scribble overwrites memory that its borrower must not use any more, so that a
// test sees it if he does.
func Scribble(p []byte) {
	if Enabled {
		for i := range p {
			p[i] = 0xdb
		}
	}
}
