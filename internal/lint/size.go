package lint

import (
	"fmt"
	"go/ast"
	"path"
	"slices"
	"strings"
)

// The limits on what a reader has to hold in mind, in lines.
const (
	maxFunction = 70
	maxFile     = 800
	maxTestFile = 1500
)

// maxTestdata is the largest file that a clone should have to carry, in bytes.
const maxTestdata = 1 << 20

// Lengths checks that functions, from the line of func to the closing brace,
// and files stay within their limits. Generated files may be longer.
func Lengths(r *Repo) []Finding {
	var found []Finding
	for _, f := range r.Files {
		if f.generated() {
			continue
		}
		limit := maxFile
		if f.Test {
			limit = maxTestFile
		}
		if n := r.Fset.File(f.AST.Pos()).LineCount(); n > limit {
			found = append(found, Finding{Path: f.Path, Text: fmt.Sprintf("%d lines, at most %d: split it by noun", n, limit)})
		}
		for _, decl := range f.AST.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if n := r.line(fn.End()) - r.line(fn.Pos()) + 1; n > maxFunction {
				found = append(found, r.finding(f, fn.Name.Pos(), "%s has %d lines, at most %d", fn.Name.Name, n, maxFunction))
			}
		}
	}
	return found
}

// Testdata checks the size of files in testdata directories.
func Testdata(r *Repo) []Finding {
	var found []Finding
	for name, size := range r.size {
		if slices.Contains(strings.Split(path.Dir(name), "/"), "testdata") && size > maxTestdata {
			found = append(found, Finding{Path: name, Text: fmt.Sprintf("%d bytes, at most %d in testdata: make it in the test", size, maxTestdata)})
		}
	}
	return sorted(found)
}
