package lint

import (
	"go/ast"
	"go/types"
	"slices"
)

// clock names what in package time reads the clock or waits for it.
var clock = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker", "Timer", "Ticker"}

// lockFree names what in package sync no caller can wait for.
var lockFree = []string{"Pool", "Once", "OnceFunc", "OnceValue", "OnceValues"}

// Purity checks that pure packages start no goroutine, read no clock and take
// no lock.
func Purity(r *Repo) []Finding {
	return r.inPure(func(p *Package, f *File) []Finding {
		var found []Finding
		ast.Inspect(f.AST, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				found = append(found, r.finding(f, n.Pos(), "a go statement in a pure package: the caller owns goroutines"))
			case *ast.Ident:
				obj := p.Info.Uses[n]
				if packageLevel(obj, "time") && slices.Contains(clock, obj.Name()) {
					found = append(found, r.finding(f, n.Pos(), "time.%s in a pure package: now is an argument", obj.Name()))
				}
				if packageLevel(obj, "sync") && !slices.Contains(lockFree, obj.Name()) {
					found = append(found, r.finding(f, n.Pos(), "sync.%s in a pure package: the caller locks", obj.Name()))
				}
			}
			return true
		})
		return found
	})
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
