package lint

import (
	"go/ast"
	"go/token"
	"path"
	"slices"
	"strconv"
)

// Skips checks that a test that can skip, or that asks testing.Short, says why
// in a comment: on the line, above it, or above the innermost if around it.
func Skips(r *Repo) []Finding {
	return r.inTests(func(f *File, call *ast.CallExpr, stack []ast.Node) []Finding {
		sel, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return nil
		}
		skip := slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, sel.Sel.Name) && isTestingT(f, sel.X, stack)
		if !skip && !f.isFunc(sel, "testing", "Short") || f.commented(r.line(call.Pos())) {
			return nil
		}
		if around := innermostIf(stack); around != nil && f.commented(r.line(around.Pos())) {
			return nil
		}
		return []Finding{r.finding(f, call.Pos(), "%s.%s without a comment that says why", exprName(sel.X), sel.Sel.Name)}
	})
}

// innermostIf returns the if closest around the end of stack, in the same
// function, or nil.
func innermostIf(stack []ast.Node) ast.Node {
	for _, n := range slices.Backward(stack) {
		switch n.(type) {
		case *ast.IfStmt:
			return n
		case *ast.FuncDecl, *ast.FuncLit:
			return nil
		}
	}
	return nil
}

// Sleeps checks that no test sleeps, which is slow where it is right and flaky
// where it is not; to receive from time.After, or from a new timer, is to sleep
// unless a select waits for something else too. Inside synctest.Test time is not
// real; elsewhere a //lint:sleep comment gives the reason.
func Sleeps(r *Repo) []Finding {
	return r.inTests(func(f *File, call *ast.CallExpr, stack []ast.Node) []Finding {
		sel, ok := call.Fun.(*ast.SelectorExpr)
		if !ok || f.excused(r.line(call.Pos()), "sleep") {
			return nil
		}
		timer := f.isFunc(sel, "time", "After") || f.isFunc(sel, "time", "Tick") ||
			f.isFunc(sel, "time", "NewTimer") || f.isFunc(sel, "time", "NewTicker")
		if !f.isFunc(sel, "time", "Sleep") && !(timer && receivedAlone(stack)) {
			return nil
		}
		for _, n := range stack {
			outer, ok := n.(*ast.CallExpr)
			if !ok {
				continue
			}
			if bubble, ok := outer.Fun.(*ast.SelectorExpr); ok && f.isFunc(bubble, "testing/synctest", "Test") {
				return nil
			}
		}
		return []Finding{r.finding(f, call.Pos(), "time.%s in a test: wait for what happens, use synctest, or say //lint:sleep and why", sel.Sel.Name)}
	})
}

// receivedAlone reports whether what is at the end of stack, or its field, is
// received from at once, and not as one of several cases of a select.
func receivedAlone(stack []ast.Node) bool {
	received := false
	var statement ast.Node
	for i, n := range slices.Backward(stack) {
		switch n := n.(type) {
		case *ast.SelectorExpr, *ast.ParenExpr:
		case *ast.UnaryExpr:
			if n.Op != token.ARROW {
				return false
			}
			received = true
		case *ast.ExprStmt, *ast.AssignStmt:
			statement = n
		case *ast.CommClause:
			cases, ok := stack[i-1].(*ast.BlockStmt)
			return received && (n.Comm != statement || ok && len(cases.List) < 2)
		default:
			return received
		}
	}
	return received
}

// inTests runs look on every call in every test file, with the nodes around it
// from the outside in.
func (r *Repo) inTests(look func(f *File, call *ast.CallExpr, stack []ast.Node) []Finding) []Finding {
	var found []Finding
	for _, f := range r.Files {
		if !f.Test {
			continue
		}
		ast.PreorderStack(f.AST, nil, func(n ast.Node, stack []ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				found = append(found, look(f, call, stack)...)
			}
			return true
		})
	}
	return found
}

// isFunc reports whether sel is the function name of the package importPath.
func (f *File) isFunc(sel *ast.SelectorExpr, importPath, name string) bool {
	id, ok := sel.X.(*ast.Ident)
	return ok && sel.Sel.Name == name && f.importOf(id.Name) == importPath
}

// importOf returns the import path behind a package name in f, or "".
func (f *File) importOf(name string) string {
	for _, spec := range f.AST.Imports {
		importPath, err := strconv.Unquote(spec.Path.Value)
		if err == nil && (spec.Name != nil && spec.Name.Name == name || spec.Name == nil && path.Base(importPath) == name) {
			return importPath
		}
	}
	return ""
}

// isTestingT reports whether x is a *testing.T or its like: the parameter of a
// function around it, or a field called t or tb. rapid's T discards a drawn
// case when it skips, which hides nothing.
func isTestingT(f *File, x ast.Expr, stack []ast.Node) bool {
	id, ok := x.(*ast.Ident)
	if !ok {
		sel, ok := x.(*ast.SelectorExpr)
		return ok && slices.Contains([]string{"t", "tb", "T", "TB"}, sel.Sel.Name)
	}
	for _, n := range slices.Backward(stack) {
		var params *ast.FieldList
		switch n := n.(type) {
		case *ast.FuncLit:
			params = n.Type.Params
		case *ast.FuncDecl:
			params = n.Type.Params
		default:
			continue
		}
		for _, field := range params.List {
			if slices.ContainsFunc(field.Names, func(p *ast.Ident) bool { return p.Name == id.Name }) {
				return f.fromTesting(field.Type)
			}
		}
	}
	return false
}

// fromTesting reports whether t is a type of package testing, or a pointer to
// one.
func (f *File) fromTesting(t ast.Expr) bool {
	if star, ok := t.(*ast.StarExpr); ok {
		t = star.X
	}
	sel, ok := t.(*ast.SelectorExpr)
	return ok && f.importOf(exprName(sel.X)) == "testing"
}

func exprName(x ast.Expr) string {
	switch x := x.(type) {
	case *ast.Ident:
		return x.Name
	case *ast.SelectorExpr:
		return exprName(x.X) + "." + x.Sel.Name
	}
	return "?"
}
