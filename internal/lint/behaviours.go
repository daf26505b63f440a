package lint

import (
	"fmt"
	"go/ast"
	"regexp"
	"slices"
	"strings"
)

// behavioursFile lists Kafka's behaviours, one a line, with the tests that show
// them.
const behavioursFile = "docs/BEHAVIOURS.md"

var (
	testName  = regexp.MustCompile(`\b(?:Test|Fuzz|Example|Benchmark)(?:[A-Z_]\w*)`)
	emptyCell = regexp.MustCompile(`^[-–—?\s]*$`)
)

// Behaviours checks that every test that docs/BEHAVIOURS.md names exists, in
// the root module or a nested one, and that every row of a table with a "shown
// by" column says what shows it.
func Behaviours(r *Repo) []Finding {
	text, ok := r.text[behavioursFile]
	if !ok {
		return []Finding{{Path: behavioursFile, Text: "missing: it says which test shows which behaviour"}}
	}
	tests := r.testNames()
	var found []Finding
	for i, line := range strings.Split(string(text), "\n") {
		for _, name := range testName.FindAllString(line, -1) {
			if !tests[name] {
				found = append(found, Finding{behavioursFile, i + 1, "there is no " + name})
			}
		}
	}
	column, rows := -1, 0
	for i, line := range prose(text) {
		cells := rowOf(line)
		switch {
		case cells == nil:
			column = -1
		case column < 0:
			column = slices.IndexFunc(cells, func(c string) bool { return strings.EqualFold(c, "shown by") })
		case strings.Trim(strings.Join(cells, ""), "-: ") == "":
			// the line under the header
		default:
			rows++
			if column >= len(cells) || emptyCell.MatchString(cells[column]) {
				found = append(found, Finding{behavioursFile, i + 1, fmt.Sprintf("item %s: shown by nothing", cells[0])})
			}
		}
	}
	if rows == 0 {
		found = append(found, Finding{Path: behavioursFile, Text: `no rows in a table with a "shown by" column`})
	}
	return found
}

// testNames returns the names of all tests, fuzz targets, benchmarks and
// Examples.
func (r *Repo) testNames() map[string]bool {
	names := map[string]bool{}
	for _, f := range r.Files {
		if !f.Test {
			continue
		}
		for _, decl := range f.AST.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && testName.MatchString(fn.Name.Name) {
				names[fn.Name.Name] = true
			}
		}
	}
	return names
}

// rowOf splits a line of a table into its cells, or returns nil if it is none.
func rowOf(line string) []string {
	line = strings.TrimSpace(line)
	if !strings.HasPrefix(line, "|") {
		return nil
	}
	line = strings.ReplaceAll(line, `\|`, "\x00")
	cells := strings.Split(strings.TrimSuffix(line[1:], "|"), "|")
	for i, c := range cells {
		cells[i] = strings.TrimSpace(strings.ReplaceAll(c, "\x00", "|"))
	}
	return cells
}
