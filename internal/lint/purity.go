package lint

import (
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"slices"
	"strings"
)

// pureImport says which names of a package a pure package may not use, or which
// alone it may use, and why. A method is "Type.Method".
type pureImport struct {
	not, only []string
	why       string
}

// pureImports are the packages of the standard library that pure packages may
// import: they compute. One that reaches the clock, randomness, the disk, the
// network or other goroutines is not here, or not with all of its names.
var pureImports = map[string]pureImport{
	"bytes":           {},
	"cmp":             {},
	"encoding/binary": {},
	"errors":          {},
	"fmt":             {not: []string{"Print", "Printf", "Println", "Scan", "Scanf", "Scanln"}, why: "the caller prints"},
	"hash/crc32":      {},
	"io":              {not: []string{"Pipe"}, why: "the caller waits"},
	"iter":            {not: []string{"Pull", "Pull2"}, why: "the caller owns goroutines"},
	"maps":            {}, // see MapOrder
	"math":            {},
	"math/bits":       {},
	"slices":          {},
	"strconv":         {},
	"strings":         {},
	// A Pool makes nobody wait for what another caller does. A Once does.
	"sync": {only: []string{"Pool"}, why: "the caller locks"},
	"time": {not: []string{
		"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker", "Timer", "Ticker",
		"Local", "Time.Local", "LoadLocation",
	}, why: "time and zone are arguments"},
	"unicode/utf8": {},
	"unsafe":       {}, // where SystemImports has it
}

func (im pureImport) allows(name string) bool {
	top, _, _ := strings.Cut(name, ".")
	return !slices.Contains(im.not, name) && (im.only == nil || slices.Contains(im.only, top))
}

// Purity checks that pure packages import what computes alone, start no
// goroutine, use no channel, read no clock and take no lock.
func Purity(r *Repo) []Finding {
	return r.inPure(func(p *Package, f *File) []Finding {
		var found []Finding
		for _, im := range f.imports() {
			first, _, _ := strings.Cut(im.path, "/")
			_, ours := r.dirOf(im.path)
			if _, ok := pureImports[im.path]; !ok && !ours && !strings.Contains(first, ".") {
				found = append(found, r.finding(f, im.pos, "imports %s in a pure package: it is not in pureImports in internal/lint/purity.go", im.path))
			}
		}
		ast.Inspect(f.AST, func(n ast.Node) bool {
			if what := impure(p, n); what != "" {
				found = append(found, r.finding(f, n.Pos(), "%s", what))
			}
			return true
		})
		return found
	})
}

// impure says why a node does not belong into a pure package, or nothing.
func impure(p *Package, n ast.Node) string {
	const channel = " in a pure package: the caller owns channels"
	switch n := n.(type) {
	case *ast.GoStmt:
		return "a go statement in a pure package: the caller owns goroutines"
	case *ast.ChanType:
		return "a channel" + channel
	case *ast.SendStmt:
		return "a send" + channel
	case *ast.SelectStmt:
		return "a select" + channel
	case *ast.UnaryExpr:
		if n.Op == token.ARROW {
			return "a receive" + channel
		}
	case *ast.RangeStmt:
		if t := p.Info.TypeOf(n.X); t != nil {
			if _, ok := t.Underlying().(*types.Chan); ok {
				return "a range over a channel" + channel
			}
		}
	case *ast.Ident:
		obj := p.Info.Uses[n]
		if _, ok := obj.(*types.Builtin); ok && (n.Name == "print" || n.Name == "println") {
			return n.Name + " in a pure package: the caller prints"
		}
		pkg, name := memberOf(obj)
		if im, ok := pureImports[pkg]; ok && !im.allows(name) {
			return fmt.Sprintf("%s.%s in a pure package: %s", pkg, name, im.why)
		}
	}
	return ""
}

// memberOf returns the package of what is declared at its top, and its name; of
// a method, "Type.Method". Of anything else it returns nothing.
func memberOf(obj types.Object) (pkg, name string) {
	if obj == nil || obj.Pkg() == nil {
		return "", ""
	}
	if obj.Parent() == obj.Pkg().Scope() {
		return obj.Pkg().Path(), obj.Name()
	}
	method, ok := obj.(*types.Func)
	if !ok || method.Signature().Recv() == nil {
		return "", ""
	}
	t := method.Signature().Recv().Type()
	if pointer, ok := t.(*types.Pointer); ok {
		t = pointer.Elem()
	}
	if named, ok := t.(*types.Named); ok {
		return obj.Pkg().Path(), named.Obj().Name() + "." + obj.Name()
	}
	return "", ""
}

// MapOrder checks that pure packages do not go through a map, unless a
// //lint:order comment says why the order cannot escape. slices.Sorted around
// maps.Keys or maps.Values needs no comment.
func MapOrder(r *Repo) []Finding {
	return r.inPure(func(p *Package, f *File) []Finding {
		var found []Finding
		sortedCalls := map[ast.Node]bool{}
		report := func(n ast.Node, what string) {
			if !f.excused(r.line(n.Pos()), "order") {
				found = append(found, r.finding(f, n.Pos(), "%s in a pure package: sort, or say //lint:order and why it does not matter", what))
			}
		}
		ast.Inspect(f.AST, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.RangeStmt:
				if isMap(p.Info.TypeOf(n.X)) {
					report(n, "range over a map")
				}
			case *ast.CallExpr:
				if len(n.Args) > 0 && calls(p, n, "slices", "Sorted", "SortedFunc", "SortedStableFunc") {
					sortedCalls[n.Args[0]] = true
				}
				if calls(p, n, "maps", "All", "Keys", "Values") && !sortedCalls[n] {
					report(n, "map order")
				}
			}
			return true
		})
		return found
	})
}

// inPure runs look on every file of every pure package, under each build tag
// that chooses the file; a file that none chooses is a finding of its own.
func (r *Repo) inPure(look func(*Package, *File) []Finding) []Finding {
	var found []Finding
	for _, dir := range r.packageDirs() {
		if kinds[dir] != pure {
			continue
		}
		seen := map[*File]bool{}
		for _, tag := range buildTags {
			p := r.check(dir, tag)
			if p == nil {
				continue
			}
			for _, f := range p.Files {
				seen[f] = true
				found = append(found, look(p, f)...)
			}
		}
		for _, f := range r.inDir(dir, false) {
			if !seen[f] {
				found = append(found, Finding{Path: f.Path, Text: "built under no tag in buildTags, so nothing checks that it is pure"})
			}
		}
	}
	return sorted(found)
}

// packageLevel reports whether obj is declared at the top of package pkg; its
// methods and fields are not.
func packageLevel(obj types.Object, pkg string) bool {
	return obj != nil && obj.Pkg() != nil && obj.Pkg().Path() == pkg && obj.Parent() == obj.Pkg().Scope()
}

// calls reports whether the call is of one of the functions of package pkg,
// under whatever name the file imports it.
func calls(p *Package, call *ast.CallExpr, pkg string, names ...string) bool {
	fun := ast.Unparen(call.Fun)
	if index, ok := fun.(*ast.IndexExpr); ok {
		fun = index.X // a function with explicit type arguments
	}
	var id *ast.Ident
	switch fun := fun.(type) {
	case *ast.Ident:
		id = fun
	case *ast.SelectorExpr:
		id = fun.Sel
	}
	if id == nil {
		return false
	}
	obj := p.Info.Uses[id]
	return packageLevel(obj, pkg) && slices.Contains(names, obj.Name())
}

// isMap reports whether t is a map, or a type parameter that may be one.
func isMap(t types.Type) bool {
	if t == nil {
		return false
	}
	switch u := t.Underlying().(type) {
	case *types.Map:
		return true
	case *types.Interface:
		for embedded := range u.EmbeddedTypes() {
			if isMap(embedded) {
				return true
			}
		}
	case *types.Union:
		for term := range u.Terms() {
			if isMap(term.Type()) {
				return true
			}
		}
	}
	return false
}
