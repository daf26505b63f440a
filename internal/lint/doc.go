// Package lint holds the house rules of this repository as code: which package
// may import which, what pure packages may not do, how long a function may be,
// and that docs, examples and docs/api.txt follow the code.
//
// A rule is a function from a source tree, loaded once, to findings. Each has a
// test on small trees that shows what it rejects and what it lets pass; one more
// test runs all of them on this repository:
//
//	go test ./internal/lint            # check
//	go test ./internal/lint -update    # rewrite docs/api.txt first
//
// Three comments excuse one line, on it or alone on the line above it, and each
// gives its reason:
//
//	//lint:order the sums do not depend on the order
//	//lint:sleep the kernel's clock is what is tested
//	t.Skip("no btrfs") // a comment of any form, here or above the if around it
package lint

import (
	"cmp"
	"fmt"
	"slices"
)

// Finding is one place where a rule does not hold.
type Finding struct {
	Path string // relative to the root of the repository, with slashes
	Line int    // from 1; 0 where the whole file is meant
	Text string // what is wrong, and what to do where that is not plain
}

// String returns the finding as an editor reads it, "path:line: text".
func (f Finding) String() string {
	if f.Line == 0 {
		return fmt.Sprintf("%s: %s", f.Path, f.Text)
	}
	return fmt.Sprintf("%s:%d: %s", f.Path, f.Line, f.Text)
}

// Rule is one house rule. Check reads the tree and changes nothing.
type Rule struct {
	Name  string                // one or two words, the name of its subtest
	Check func(*Repo) []Finding // what does not hold, in any order
}

// Rules returns all house rules.
func Rules() []Rule {
	return []Rule{
		{"layers", Layers},
		{"system imports", SystemImports},
		{"dependencies", Dependencies},
		{"go.mod", GoMod},
		{"types", Types},
		{"purity", Purity},
		{"map order", MapOrder},
		{"lengths", Lengths},
		{"testdata", Testdata},
		{"package comments", PackageComments},
		{"doc comments", DocComments},
		{"field comments", FieldComments},
		{"examples", Examples},
		{"api", API},
		{"sites", Sites},
		{"links", Links},
		{"behaviours", Behaviours},
		{"words", Words},
		{"reminders", Reminders},
		{"skips", Skips},
		{"sleeps", Sleeps},
	}
}

// sorted returns findings by path and line, each once.
func sorted(found []Finding) []Finding {
	slices.SortFunc(found, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Text, b.Text))
	})
	return slices.Compact(found)
}
