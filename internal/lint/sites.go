package lint

import (
	"fmt"
	"go/ast"
	"go/constant"
	"go/token"
	"go/types"
	"regexp"
	"slices"
)

// crashFile says what happens at each site when the power goes.
const crashFile = "docs/CRASH.md"

// Sites checks the places that a test can leave out by name: in the root
// package every vfs.Site is a constant, no two have the same value, and
// docs/CRASH.md mentions each.
func Sites(r *Repo) []Finding {
	p := r.check(".", "")
	if p == nil {
		return []Finding{{Path: ".", Text: "no root package"}}
	}
	crash, ok := r.text[crashFile]
	if !ok {
		return []Finding{{Path: crashFile, Text: "missing: it describes every site"}}
	}
	var found []Finding
	names := map[string]string{} // by value
	for _, c := range r.siteConstants(p) {
		pos := r.Fset.Position(c.Pos())
		value := constant.StringVal(c.Val())
		if other, ok := names[value]; ok {
			found = append(found, Finding{pos.Filename, pos.Line, fmt.Sprintf("%s and %s are both %q", other, c.Name(), value)})
		}
		names[value] = c.Name()
		if !mentions(crash, value) {
			found = append(found, Finding{pos.Filename, pos.Line, fmt.Sprintf("%s does not mention the site %q", crashFile, value)})
		}
	}
	for _, f := range p.Files {
		found = append(found, r.unnamedSites(p, f)...)
	}
	return found
}

// siteConstants returns the constants of type vfs.Site, in order of position.
func (r *Repo) siteConstants(p *Package) []*types.Const {
	var sites []*types.Const
	for _, obj := range p.Info.Defs {
		if c, ok := obj.(*types.Const); ok && r.isSite(c.Type()) {
			sites = append(sites, c)
		}
	}
	slices.SortFunc(sites, func(a, b *types.Const) int { return int(a.Pos() - b.Pos()) })
	return sites
}

func (r *Repo) isSite(t types.Type) bool {
	named, ok := types.Unalias(t).(*types.Named)
	return ok && named.Obj().Name() == "Site" && named.Obj().Pkg() != nil &&
		named.Obj().Pkg().Path() == r.importPath("internal/vfs")
}

// unnamedSites returns the places in f, outside constant declarations, where a
// site is not one of siteConstants: a literal, a conversion, a constant of
// another type, or an expression of constants.
func (r *Repo) unnamedSites(p *Package, f *File) []Finding {
	var found []Finding
	ast.Inspect(f.AST, func(n ast.Node) bool {
		if decl, ok := n.(*ast.GenDecl); ok {
			return decl.Tok != token.CONST
		}
		x, ok := n.(ast.Expr)
		if !ok || !r.isSite(p.Info.TypeOf(x)) {
			return true
		}
		if what := r.notConstant(p, x); what != "" {
			found = append(found, r.finding(f, x.Pos(), "a site is a named constant of type vfs.Site, not %s", what))
			return false
		}
		return true
	})
	return found
}

// notConstant says what x, a site, is instead of a declared one, or nothing: a
// variable got its value elsewhere.
func (r *Repo) notConstant(p *Package, x ast.Expr) string {
	var name *ast.Ident
	switch x := x.(type) {
	case *ast.Ident:
		name = x
	case *ast.SelectorExpr:
		name = x.Sel
	case *ast.ParenExpr:
		return "" // what is in it comes next
	case *ast.BasicLit:
		return "a literal"
	case *ast.BinaryExpr:
		return "an expression"
	case *ast.CallExpr:
		if p.Info.Types[x.Fun].IsType() {
			return "a conversion"
		}
		return ""
	}
	if name == nil {
		return ""
	}
	if c, ok := p.Info.Uses[name].(*types.Const); ok && (!r.isSite(c.Type()) || c.Pkg() != p.Types) {
		return name.Name
	}
	return ""
}

// mentions reports whether text has the value as a word of its own, so that
// "roll.sync" is not found in "roll.syncdir".
func mentions(text []byte, value string) bool {
	return value != "" && regexp.MustCompile(`(^|[^\w.-])`+regexp.QuoteMeta(value)+`($|[^\w.-]|\.($|\W))`).Match(text)
}
