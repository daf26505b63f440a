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
// and files stay within their limits. A function literal outside of a function
// is one too. Generated files may be longer.
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
			if fn, ok := decl.(*ast.FuncDecl); ok {
				found = append(found, r.tooLong(f, fn, fn.Name.Name)...)
				continue
			}
			ast.Inspect(decl, func(n ast.Node) bool {
				lit, ok := n.(*ast.FuncLit)
				if ok {
					found = append(found, r.tooLong(f, lit, "a function literal")...)
				}
				return !ok
			})
		}
	}
	return found
}

func (r *Repo) tooLong(f *File, fn ast.Node, name string) []Finding {
	n := r.line(fn.End()) - r.line(fn.Pos()) + 1
	if n <= maxFunction {
		return nil
	}
	return []Finding{r.finding(f, fn.Pos(), "%s has %d lines, at most %d", name, n, maxFunction)}
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
