package lint

import (
	"fmt"
	"go/types"
	"slices"
	"strings"
)

// apiDirs are the packages of the root module that users import.
var apiDirs = []string{".", "riffletest"}

// apiFile keeps their exported names.
const apiFile = "docs/api.txt"

// API checks that docs/api.txt is the exported API, so that a change of it is a
// line in the diff.
func API(r *Repo) []Finding {
	kept, ok := r.text[apiFile]
	if !ok {
		return []Finding{{Path: apiFile, Text: "missing: go test ./internal/lint -update"}}
	}
	if string(kept) == r.APIText() {
		return nil
	}
	now, before := strings.Split(r.APIText(), "\n"), strings.Split(string(kept), "\n")
	found := []Finding{{Path: apiFile, Text: "differs from the code: go test ./internal/lint -update, and read the diff"}}
	for _, line := range now {
		if !slices.Contains(before, line) {
			found = append(found, Finding{Path: apiFile, Text: fmt.Sprintf("lacks %q", line)})
		}
	}
	for i, line := range before {
		if !slices.Contains(now, line) {
			found = append(found, Finding{apiFile, i + 1, fmt.Sprintf("has %q, which is not in the code", line)})
		}
	}
	return found
}

// APIText returns the exported API of the packages that users import: a line
// for each constant, variable, function and type, sorted, and below a type one
// for each field and method.
func (r *Repo) APIText() string {
	var b strings.Builder
	for _, dir := range apiDirs {
		p := r.check(dir, "")
		if p == nil {
			continue
		}
		fmt.Fprintf(&b, "package %s\n\n", p.Types.Name())
		qualify := types.RelativeTo(p.Types)
		for _, describe := range []func(types.Object, types.Qualifier) []string{constLines, varLines, funcLines, typeLines} {
			for _, name := range p.Types.Scope().Names() { // sorted
				obj := p.Types.Scope().Lookup(name)
				if !obj.Exported() {
					continue
				}
				for _, line := range describe(obj, qualify) {
					b.WriteString(line + "\n")
				}
			}
		}
		b.WriteString("\n")
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

func constLines(obj types.Object, q types.Qualifier) []string {
	c, ok := obj.(*types.Const)
	if !ok {
		return nil
	}
	return []string{fmt.Sprintf("const %s %s = %s", c.Name(), types.TypeString(c.Type(), q), c.Val().ExactString())}
}

func varLines(obj types.Object, q types.Qualifier) []string {
	if _, ok := obj.(*types.Var); !ok {
		return nil
	}
	return []string{fmt.Sprintf("var %s %s", obj.Name(), types.TypeString(obj.Type(), q))}
}

func funcLines(obj types.Object, q types.Qualifier) []string {
	if _, ok := obj.(*types.Func); !ok {
		return nil
	}
	return []string{"func " + obj.Name() + signature(obj, q)}
}

// typeLines describes a type with what is exported of it.
func typeLines(obj types.Object, q types.Qualifier) []string {
	t, ok := obj.(*types.TypeName)
	if !ok {
		return nil
	}
	if t.IsAlias() {
		return []string{fmt.Sprintf("type %s = %s", t.Name(), types.TypeString(types.Unalias(t.Type()), q))}
	}
	head := "type " + t.Name() + typeParameters(t.Type(), q)
	switch u := t.Type().Underlying().(type) {
	case *types.Struct:
		return slices.Concat([]string{head + " struct"}, fields(u, q), methods(t, q))
	case *types.Interface:
		return slices.Concat([]string{head + " interface"}, requirements(u, q))
	default:
		return slices.Concat([]string{head + " " + types.TypeString(u, q)}, methods(t, q))
	}
}

// fields returns the exported fields of a struct, sorted.
func fields(s *types.Struct, q types.Qualifier) []string {
	var lines []string
	for field := range s.Fields() {
		if field.Exported() {
			lines = append(lines, fmt.Sprintf("\t%s %s", field.Name(), types.TypeString(field.Type(), q)))
		}
	}
	return sortedLines(lines)
}

// requirements returns what a type has to have to implement an interface,
// sorted. Unexported methods count: nobody else can have them.
func requirements(i *types.Interface, q types.Qualifier) []string {
	var lines []string
	for m := range i.ExplicitMethods() {
		lines = append(lines, "\t"+m.Name()+signature(m, q))
	}
	for t := range i.EmbeddedTypes() {
		lines = append(lines, "\t"+types.TypeString(t, q))
	}
	return sortedLines(lines)
}

// methods returns the exported methods of *T, promoted ones included, sorted.
func methods(t *types.TypeName, q types.Qualifier) []string {
	var lines []string
	byValue := types.NewMethodSet(t.Type())
	for m := range types.NewMethodSet(types.NewPointer(t.Type())).Methods() {
		obj := m.Obj()
		if !obj.Exported() {
			continue
		}
		receiver := "*" + t.Name()
		if byValue.Lookup(obj.Pkg(), obj.Name()) != nil {
			receiver = t.Name()
		}
		lines = append(lines, fmt.Sprintf("\tfunc (%s) %s%s", receiver, obj.Name(), signature(obj, q)))
	}
	return sortedLines(lines)
}

func signature(obj types.Object, q types.Qualifier) string {
	return strings.TrimPrefix(types.TypeString(obj.Type(), q), "func")
}

func typeParameters(t types.Type, q types.Qualifier) string {
	named, ok := t.(*types.Named)
	if !ok || named.TypeParams().Len() == 0 {
		return ""
	}
	var names []string
	for p := range named.TypeParams().TypeParams() {
		names = append(names, p.Obj().Name()+" "+types.TypeString(p.Constraint(), q))
	}
	return "[" + strings.Join(names, ", ") + "]"
}

func sortedLines(lines []string) []string {
	slices.Sort(lines)
	return lines
}
