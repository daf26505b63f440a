package lint

import (
	"fmt"
	"go/ast"
	"go/constant"
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
	named, ok := t.(*types.Named)
	return ok && named.Obj().Name() == "Site" && named.Obj().Pkg() != nil &&
		named.Obj().Pkg().Path() == r.importPath("internal/vfs")
}

// unnamedSites returns the sites that f writes as a literal, outside constant
// declarations.
func (r *Repo) unnamedSites(p *Package, f *File) []Finding {
	var found []Finding
	ast.Inspect(f.AST, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GenDecl:
			return n.Tok.String() != "const"
		case *ast.CallExpr: // a conversion
			if p.Info.Types[n.Fun].IsType() && r.isSite(p.Info.TypeOf(n)) {
				found = append(found, r.finding(f, n.Pos(), "a site is a constant with a name, not a conversion"))
				return false
			}
		case *ast.BasicLit:
			if r.isSite(p.Info.TypeOf(n)) {
				found = append(found, r.finding(f, n.Pos(), "a site is a constant with a name, not a literal"))
			}
		}
		return true
	})
	return found
}

// mentions reports whether text has the value as a word of its own, so that
// "roll.sync" is not found in "roll.syncdir".
func mentions(text []byte, value string) bool {
	return value != "" && regexp.MustCompile(`(^|[^\w.-])`+regexp.QuoteMeta(value)+`($|[^\w.-]|\.($|\W))`).Match(text)
}
