package lint

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
)

// maxText is the largest file that the rules about text read.
const maxText = 1 << 20

// Lookup opens the compiled export data of a package outside the repository,
// the standard library included.
type Lookup func(importPath string) (io.ReadCloser, error)

// Repo is a source tree, read once and shared by all rules. It is not safe for
// concurrent use: what is type-checked is kept.
type Repo struct {
	Module string         // the module path in the root's go.mod
	Fset   *token.FileSet // positions of all Go files
	Files  []*File        // every Go file outside testdata, in path order

	text    map[string][]byte // text files of at most maxText bytes, by path
	size    map[string]int64  // all files
	modules []string          // directories with a go.mod
	lookup  Lookup
	checked map[string]*checker // by build tags
}

// File is one parsed Go file.
type File struct {
	Path   string // relative to the root, with slashes
	Dir    string // its directory, "." for the root package
	Module string // directory of the go.mod that governs it, "." for the root's
	Test   bool   // its name ends in _test.go
	AST    *ast.File

	comments map[int]bool   // lines on which a comment ends: whether it stands alone there
	excuses  map[int]string // name of the //lint: comment on a line
}

// Load reads the tree, without what is built into it (bin, .cache, Java's
// target). Testdata and directories that begin with "_" or "." hold no packages.
func Load(tree fs.FS, lookup Lookup) (*Repo, error) {
	r := &Repo{
		Fset:    token.NewFileSet(),
		text:    map[string][]byte{},
		size:    map[string]int64{},
		lookup:  lookup,
		checked: map[string]*checker{},
	}
	if err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		return r.visit(tree, name, d, err)
	}); err != nil {
		return nil, fmt.Errorf("read the tree: %w", err)
	}
	m := regexp.MustCompile(`(?m)^module (\S+)`).FindSubmatch(r.text["go.mod"])
	if m == nil {
		return nil, errors.New("read the tree: no module line in go.mod")
	}
	r.Module = string(m[1])
	var errs []error
	for _, name := range r.texts(".go") {
		if isPackageFile(name) {
			errs = append(errs, r.parse(name))
		}
	}
	return r, errors.Join(errs...)
}

// visit keeps one file of the tree. A file that goes while we walk was
// temporary.
func (r *Repo) visit(tree fs.FS, name string, d fs.DirEntry, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if name == ".git" && !d.IsDir() {
		return nil // a linked work tree's
	}
	if d.IsDir() {
		if slices.Contains([]string{".git", ".cache", "bin"}, name) || d.Name() == "target" {
			return fs.SkipDir
		}
		return nil
	}
	info, err := d.Info()
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
		return nil
	}
	if err != nil {
		return err
	}
	r.size[name] = info.Size()
	if path.Base(name) == "go.mod" && isPackageFile(name) {
		r.modules = append(r.modules, path.Dir(name))
	}
	if info.Size() > maxText {
		return nil
	}
	src, err := fs.ReadFile(tree, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !bytes.Contains(src, []byte{0}) {
		r.text[name] = src
	}
	return nil
}

// isPackageFile reports whether the go command looks into the directory of name.
func isPackageFile(name string) bool {
	dir := path.Dir(name)
	if dir == "." {
		return true
	}
	return !slices.ContainsFunc(strings.Split(dir, "/"), func(part string) bool {
		return part == "testdata" || strings.HasPrefix(part, "_") || strings.HasPrefix(part, ".")
	})
}

func (r *Repo) parse(name string) error {
	syntax, err := parser.ParseFile(r.Fset, name, r.text[name], parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	f := &File{
		Path:     name,
		Dir:      path.Dir(name),
		Module:   r.moduleOf(name),
		Test:     strings.HasSuffix(name, "_test.go"),
		AST:      syntax,
		comments: map[int]bool{},
		excuses:  map[int]string{},
	}
	for _, group := range syntax.Comments {
		for _, c := range group.List {
			line := r.line(c.End())
			f.comments[line] = r.alone(name, c)
			word, reason, _ := strings.Cut(c.Text, " ")
			if name, ok := strings.CutPrefix(word, "//lint:"); ok && strings.TrimSpace(reason) != "" {
				f.excuses[line] = name
			}
		}
	}
	r.Files = append(r.Files, f)
	return nil
}

// alone reports whether nothing is before the comment on its line.
func (r *Repo) alone(name string, c *ast.Comment) bool {
	pos := r.Fset.Position(c.Pos())
	before := r.text[name][pos.Offset-(pos.Column-1) : pos.Offset]
	return len(bytes.TrimSpace(before)) == 0
}

// moduleOf returns the deepest directory with a go.mod above name.
func (r *Repo) moduleOf(name string) string {
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if slices.Contains(r.modules, dir) {
			return dir
		}
	}
	return "."
}

// texts returns the paths of the text files with the suffix, in order.
func (r *Repo) texts(suffix string) []string {
	var names []string
	for name := range r.text {
		if strings.HasSuffix(name, suffix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// exists reports whether name is a file of the tree, or a directory with one.
func (r *Repo) exists(name string) bool {
	if _, ok := r.size[name]; ok || name == "." {
		return true
	}
	for file := range r.size {
		if strings.HasPrefix(file, name+"/") {
			return true
		}
	}
	return false
}

// rootFiles returns the Go files of the root module.
func (r *Repo) rootFiles() []*File {
	var files []*File
	for _, f := range r.Files {
		if f.Module == "." {
			files = append(files, f)
		}
	}
	return files
}

// inDir returns the Go files of one directory, tests included or not.
func (r *Repo) inDir(dir string, tests bool) []*File {
	var files []*File
	for _, f := range r.Files {
		if f.Dir == dir && (tests || !f.Test) {
			files = append(files, f)
		}
	}
	return files
}

func (r *Repo) line(pos token.Pos) int { return r.Fset.Position(pos).Line }

func (r *Repo) finding(f *File, pos token.Pos, format string, args ...any) Finding {
	return Finding{Path: f.Path, Line: r.line(pos), Text: fmt.Sprintf(format, args...)}
}

// excused reports whether a //lint:name comment with a reason is on the line,
// or alone on the one above.
func (f *File) excused(line int, name string) bool {
	return f.excuses[line] == name || f.comments[line-1] && f.excuses[line-1] == name
}

// commented reports whether a comment ends on the line, or alone on the one
// above.
func (f *File) commented(line int) bool {
	_, here := f.comments[line]
	return here || f.comments[line-1]
}

// generated reports whether the file says that a program wrote it.
func (f *File) generated() bool { return ast.IsGenerated(f.AST) }
