package lint

import (
	"go/ast"
	"go/doc"
	"go/token"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// PackageComments checks that the root package, every package in internal/ and
// every example says what it is for.
func PackageComments(r *Repo) []Finding {
	comment := map[string]bool{} // by directory
	first := map[string]*File{}
	var dirs []string
	for _, f := range r.Files {
		if f.Test || f.Dir != "." && !isInternal(f.Dir) && !strings.HasPrefix(f.Dir, "examples/") {
			continue
		}
		if first[f.Dir] == nil {
			first[f.Dir] = f
			dirs = append(dirs, f.Dir)
		}
		text := f.AST.Doc.Text()
		name := f.AST.Name.Name
		comment[f.Dir] = comment[f.Dir] || text != "" && (name == "main" || begins(text, "Package "+name))
	}
	var found []Finding
	for _, dir := range dirs {
		if !comment[dir] {
			found = append(found, r.finding(first[dir], first[dir].AST.Package, "package %s has no package comment in any file", first[dir].AST.Name.Name))
		}
	}
	if first["."] == nil {
		found = append(found, Finding{Path: ".", Text: "no root package"})
	}
	return found
}

// DocComments checks that every exported name outside tests has a doc comment
// that begins with it. In a grouped const or var block, the block's comment or
// one on the line is enough.
func DocComments(r *Repo) []Finding {
	var found []Finding
	for _, f := range r.Files {
		if f.Test || f.generated() {
			continue
		}
		for _, decl := range f.AST.Decls {
			for _, id := range undocumented(decl) {
				found = append(found, r.finding(f, id.Pos(), "%s needs a doc comment that begins with its name", id.Name))
			}
		}
	}
	return found
}

// undocumented returns the exported names that decl declares without telling.
func undocumented(decl ast.Decl) []*ast.Ident {
	var ids []*ast.Ident
	switch d := decl.(type) {
	case *ast.FuncDecl:
		if d.Name.IsExported() && receiverExported(d) && !begins(d.Doc.Text(), d.Name.Name) {
			ids = append(ids, d.Name)
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				text := spec.Doc.Text()
				if !d.Lparen.IsValid() {
					text = d.Doc.Text()
				}
				if spec.Name.IsExported() && !begins(text, spec.Name.Name) {
					ids = append(ids, spec.Name)
				}
			case *ast.ValueSpec:
				ids = append(ids, undocumentedValues(d, spec)...)
			}
		}
	}
	return ids
}

func undocumentedValues(d *ast.GenDecl, spec *ast.ValueSpec) []*ast.Ident {
	if d.Lparen.IsValid() && (d.Doc.Text() != "" || spec.Doc.Text() != "" || spec.Comment.Text() != "") {
		return nil
	}
	var ids []*ast.Ident
	for i, id := range spec.Names {
		if id.IsExported() && (i > 0 || !begins(d.Doc.Text(), id.Name)) {
			ids = append(ids, id)
		}
	}
	return ids
}

// receiverExported reports whether fn is a function, or a method of an exported
// type.
func receiverExported(fn *ast.FuncDecl) bool {
	if fn.Recv == nil || len(fn.Recv.List) == 0 {
		return true
	}
	expr := fn.Recv.List[0].Type
	for {
		switch e := expr.(type) {
		case *ast.StarExpr:
			expr = e.X
		case *ast.ParenExpr:
			expr = e.X
		case *ast.IndexExpr:
			expr = e.X
		case *ast.IndexListExpr:
			expr = e.X
		case *ast.Ident:
			return e.IsExported()
		default:
			return true
		}
	}
}

// begins reports whether text begins with the word or words.
func begins(text, words string) bool {
	rest, ok := strings.CutPrefix(text, words)
	next, _ := utf8.DecodeRuneInString(rest)
	return ok && !unicode.IsLetter(next) && !unicode.IsDigit(next) && next != '_'
}

// FieldComments checks that the exported fields of exported structs in the root
// package say what they mean. Fields declared in one line share a comment.
func FieldComments(r *Repo) []Finding {
	var found []Finding
	for _, f := range r.inDir(".", false) {
		for _, decl := range f.AST.Decls {
			d, ok := decl.(*ast.GenDecl)
			if !ok || d.Tok != token.TYPE {
				continue
			}
			for _, spec := range d.Specs {
				for _, id := range silentFields(spec.(*ast.TypeSpec)) {
					found = append(found, r.finding(f, id.Pos(), "the field %s needs a comment, above it or beside it", id.Name))
				}
			}
		}
	}
	return found
}

func silentFields(spec *ast.TypeSpec) []*ast.Ident {
	s, ok := spec.Type.(*ast.StructType)
	if !ok || !spec.Name.IsExported() {
		return nil
	}
	var ids []*ast.Ident
	for _, field := range s.Fields.List {
		if field.Doc.Text() != "" || field.Comment.Text() != "" {
			continue
		}
		for _, id := range field.Names {
			if id.IsExported() {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// nouns are the public types that users hold and call; each has an Example as
// soon as it exists.
var nouns = []string{"Log", "Topic", "Partition", "Producer", "Consumer", "Group", "Txn"}

// Examples checks that each public noun in the root package has an Example,
// alone or by one of its methods, with output: without it, it would not run.
func Examples(r *Repo) []Finding {
	var tests []*ast.File
	for _, f := range r.inDir(".", true) {
		if f.Test {
			tests = append(tests, f.AST)
		}
	}
	runs := map[string]bool{} // by noun
	for _, example := range doc.Examples(tests...) {
		noun, _, _ := strings.Cut(example.Name, "_")
		runs[noun] = runs[noun] || example.Output != "" || example.EmptyOutput
	}
	var found []Finding
	for _, f := range r.inDir(".", false) {
		for _, decl := range f.AST.Decls {
			d, ok := decl.(*ast.GenDecl)
			if !ok || d.Tok != token.TYPE {
				continue
			}
			for _, spec := range d.Specs {
				id := spec.(*ast.TypeSpec).Name
				if slices.Contains(nouns, id.Name) && !runs[id.Name] {
					found = append(found, r.finding(f, id.Pos(), "%s has no Example%s with an output comment", id.Name, id.Name))
				}
			}
		}
	}
	return found
}
