package lint

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/build"
	"go/importer"
	"go/types"
	"io"
	"path"
	"slices"
	"strings"
)

// buildTags are the ways in which the rules look at a package: once without
// tags, once for each tag that the module knows.
var buildTags = []string{"", "invariants", "race", "portable"}

// Package is a type-checked package of the root module, tests left out.
type Package struct {
	Types *types.Package
	Info  *types.Info
	Files []*File // those that the build tags choose
	errs  []Finding
}

// checker type-checks packages of the root module from source, under one build
// tag, and takes all others from their export data.
type checker struct {
	repo    *Repo
	context build.Context
	outside types.Importer
	done    map[string]*Package // by directory; nil while it is being checked
}

// check returns the package in dir as the host's platform and tag build it, or
// nil if there is none.
func (r *Repo) check(dir, tag string) *Package {
	c := r.checked[tag]
	if c == nil {
		c = &checker{repo: r, context: build.Default, done: map[string]*Package{}}
		c.context.BuildTags = []string{tag}
		c.context.JoinPath = path.Join
		c.context.OpenFile = func(name string) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(r.text[name])), nil
		}
		c.outside = importer.ForCompiler(r.Fset, "gc", importer.Lookup(r.lookup))
		r.checked[tag] = c
	}
	return c.check(dir)
}

func (c *checker) check(dir string) *Package {
	if p, ok := c.done[dir]; ok {
		return p
	}
	c.done[dir] = nil
	p := &Package{Info: &types.Info{
		Types: map[ast.Expr]types.TypeAndValue{},
		Defs:  map[*ast.Ident]types.Object{},
		Uses:  map[*ast.Ident]types.Object{},
	}}
	var syntax []*ast.File
	for _, f := range c.repo.inDir(dir, false) {
		if ok, err := c.context.MatchFile(dir, path.Base(f.Path)); ok && err == nil {
			p.Files = append(p.Files, f)
			syntax = append(syntax, f.AST)
		}
	}
	if len(p.Files) == 0 {
		return nil
	}
	config := types.Config{Importer: c, Error: func(err error) { p.errs = append(p.errs, c.typeError(dir, err)) }}
	p.Types, _ = config.Check(c.repo.importPath(dir), c.repo.Fset, syntax, p.Info) // errors went to p.errs
	c.done[dir] = p
	return p
}

func (c *checker) typeError(dir string, err error) Finding {
	var e types.Error
	if !errors.As(err, &e) {
		return Finding{Path: dir, Text: err.Error()}
	}
	pos := c.repo.Fset.Position(e.Pos)
	return Finding{Path: pos.Filename, Line: pos.Line, Text: e.Msg}
}

// Import implements [types.Importer].
func (c *checker) Import(importPath string) (*types.Package, error) {
	dir, ok := c.repo.dirOf(importPath)
	if !ok {
		return c.outside.Import(importPath)
	}
	p := c.check(dir)
	if p == nil {
		return nil, fmt.Errorf("no package in %s, or it imports itself", dir)
	}
	return p.Types, nil
}

// importPath returns the path under which a directory of the root module is
// imported; dirOf is its inverse.
func (r *Repo) importPath(dir string) string { return path.Join(r.Module, dir) }

func (r *Repo) dirOf(importPath string) (string, bool) {
	if importPath == r.Module {
		return ".", true
	}
	return strings.CutPrefix(importPath, r.Module+"/")
}

// typedDirs returns the directories whose packages the rules look at with types.
func (r *Repo) typedDirs() []string {
	dirs := slices.Clone(apiDirs)
	for _, dir := range r.packageDirs() {
		if kinds[dir] == pure {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// packageDirs returns the directories of the root module with Go files other
// than tests, in order.
func (r *Repo) packageDirs() []string {
	var dirs []string
	for _, f := range r.rootFiles() {
		if !f.Test && !slices.Contains(dirs, f.Dir) {
			dirs = append(dirs, f.Dir)
		}
	}
	return dirs
}

// Types reports what does not type-check. The other rules go on with what does,
// so their answers are complete only when this one is silent.
func Types(r *Repo) []Finding {
	var found []Finding
	for _, dir := range r.typedDirs() {
		for _, tag := range buildTags {
			if p := r.check(dir, tag); p != nil {
				found = append(found, p.errs...)
			}
		}
	}
	return sorted(found)
}
