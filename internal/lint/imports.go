package lint

import (
	"bytes"
	"cmp"
	"fmt"
	"go/ast"
	"go/token"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// kind says what a package in internal/ is for, and so what it may import.
type kind string

const (
	base      kind = "base"      // checks and constants; imports nothing of ours
	pure      kind = "pure"      // decides; no goroutine, channel, clock, lock or file
	mechanism kind = "mechanism" // does: files, connections
	forTests  kind = "test"      // what only tests import
)

// kinds lists every package in internal/. A new one gets its line here and in
// ARCHITECTURE.md.
var kinds = map[string]kind{
	"internal/invariants":    base,
	"internal/batch":         pure,
	"internal/compress":      pure,
	"internal/prefetch":      pure,
	"internal/crc32c":        pure,
	"internal/producerstate": pure,
	"internal/group":         pure,
	"internal/txn":           pure,
	"internal/vfs":           mechanism,
	"internal/vfs/memfs":     mechanism,
	"internal/vfs/errfs":     mechanism,
	"internal/wire":          mechanism,
	"internal/model":         forTests,
	"internal/script":        forTests,
	"internal/lint":          forTests,
}

// below says which kinds a kind may import.
var below = map[kind][]kind{
	base:      {},
	pure:      {pure, base},
	mechanism: {mechanism, base},
	forTests:  {forTests, mechanism, pure, base},
}

// Layers checks that arrows go down: nothing in internal/ imports the root or
// what stands on it, pure packages and mechanism do not import each other, and
// packages for tests are imported by tests and their like.
func Layers(r *Repo) []Finding {
	var found []Finding
	for _, dir := range r.packageDirs() {
		if isInternal(dir) && kinds[dir] == "" {
			found = append(found, Finding{Path: dir, Text: "no kind: add the package to kinds in internal/lint/imports.go"})
		}
	}
	for _, f := range r.rootFiles() {
		for _, im := range f.imports() {
			dir, ours := r.dirOf(im.path)
			if !ours {
				continue
			}
			if why := f.mayNotImport(dir); why != "" {
				found = append(found, Finding{f.Path, r.line(im.pos), fmt.Sprintf("imports %s: %s", im.path, why)})
			}
		}
	}
	return found
}

// mayNotImport returns the reason why f must not import the package in dir, or
// nothing. Tests of a package in internal/ may import all other packages there.
func (f *File) mayNotImport(dir string) string {
	from, to := kinds[f.Dir], kinds[dir]
	switch {
	case isInternal(f.Dir) && !isInternal(dir):
		return "nothing in internal/ imports the root package or what stands on it"
	case f.Test || to == "":
		return ""
	case from != "" && !slices.Contains(below[from], to):
		return fmt.Sprintf("a %s package does not import a %s package", from, to)
	case f.Dir == "." && to == forTests:
		return "it is for tests"
	}
	return ""
}

func isInternal(dir string) bool { return strings.HasPrefix(dir, "internal/") }

// systemImports are the packages that reach the operating system, with what is
// below them, and the directories and files in the root package and internal/
// that may import them.
var systemImports = map[string][]string{
	"os":               {"internal/vfs", "internal/vfs/memfs", "internal/vfs/errfs"}, // the latter for its error types
	"os/exec":          {},
	"io/ioutil":        {},
	"plugin":           {},
	"net":              {"internal/wire", "kafka.go"},
	"crypto/tls":       {"internal/wire", "kafka.go"},
	"log/syslog":       {},
	"expvar":           {},                                     // it listens at net/http's default server
	"syscall":          {"internal/vfs", "internal/vfs/memfs"}, // likewise
	"golang.org/x/sys": {"internal/vfs"},
	"unsafe":           {"internal/vfs", "internal/vfs/memfs", "internal/batch"},
}

// computing are packages below those of systemImports that only compute, or say what the
// processor can.
var computing = []string{"net/netip", "net/url", "golang.org/x/sys/cpu"}

// systemFuncs are the functions of path/filepath that ask the operating system,
// with the directories that may call them.
var systemFuncs = map[string][]string{
	"Abs":          {".", "internal/vfs"}, // the root package fixes its directory once
	"EvalSymlinks": {"internal/vfs"},
	"Glob":         {"internal/vfs"},
	"Walk":         {"internal/vfs"},
	"WalkDir":      {"internal/vfs"},
}

// SystemImports checks that, outside tests, only internal/vfs talks to the
// operating system, and only internal/wire and what stands on it to the network.
func SystemImports(r *Repo) []Finding {
	var found []Finding
	for _, f := range r.rootFiles() {
		if f.Test || f.Dir != "." && !isInternal(f.Dir) {
			continue
		}
		for _, im := range f.imports() {
			if users, ok := systemUsers(im.path); ok && !slices.Contains(users, f.Dir) && !slices.Contains(users, f.Path) {
				who := cmp.Or(strings.Join(users, " and "), "no package here")
				found = append(found, r.finding(f, im.pos, "imports %s: outside tests that is for %s", im.path, who))
			}
		}
		found = append(found, r.systemCalls(f)...)
	}
	return found
}

// systemUsers returns who may import a package that reaches the operating
// system: its own line in systemImports, or that of the nearest one above.
func systemUsers(importPath string) (users []string, ok bool) {
	if slices.Contains(computing, importPath) {
		return nil, false
	}
	for ; importPath != "."; importPath = path.Dir(importPath) {
		if users, ok = systemImports[importPath]; ok {
			return users, true
		}
	}
	return nil, false
}

// systemCalls returns the uses of systemFuncs in a file that may not use them.
func (r *Repo) systemCalls(f *File) []Finding {
	var found []Finding
	ast.Inspect(f.AST, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ImportSpec:
			if n.Name != nil && n.Name.Name == "." && n.Path.Value == `"path/filepath"` {
				found = append(found, r.finding(f, n.Pos(), "imports all names of path/filepath: some reach the operating system"))
			}
		case *ast.SelectorExpr:
			dirs, ok := systemFuncs[n.Sel.Name]
			if ok && f.isFunc(n, "path/filepath", n.Sel.Name) && !slices.Contains(dirs, f.Dir) {
				found = append(found, r.finding(f, n.Pos(), "filepath.%s: outside tests that is for %s", n.Sel.Name, strings.Join(dirs, " and ")))
			}
		}
		return true
	})
	return found
}

// dependencies are the modules that the root module may require itself, with
// who may import them: everyone, tests, or one directory.
var dependencies = map[string]string{
	"github.com/cespare/xxhash/v2":      "",
	"github.com/klauspost/compress":     "",
	"github.com/pierrec/lz4/v4":         "",
	"github.com/google/btree":           "",
	"github.com/twmb/franz-go/pkg/kmsg": "",
	"golang.org/x/sys":                  "",
	"github.com/stretchr/testify":       "tests",
	"pgregory.net/rapid":                "tests",
	"github.com/anishathalye/porcupine": "tests",
	"github.com/urfave/cli/v3":          "cmd/riffle",
}

// Dependencies checks that files of the root module import the known modules
// alone, and each where it belongs.
func Dependencies(r *Repo) []Finding {
	var found []Finding
	for _, f := range r.rootFiles() {
		for _, im := range f.imports() {
			if why := r.mayNotDepend(f, im.path); why != "" {
				found = append(found, Finding{f.Path, r.line(im.pos), fmt.Sprintf("imports %s: %s", im.path, why)})
			}
		}
	}
	return found
}

func (r *Repo) mayNotDepend(f *File, importPath string) string {
	first, _, _ := strings.Cut(importPath, "/")
	if _, ours := r.dirOf(importPath); ours || !strings.Contains(first, ".") {
		return ""
	}
	for module, user := range dependencies {
		if importPath != module && !strings.HasPrefix(importPath, module+"/") {
			continue
		}
		if user == "" || user == f.Dir || user == "tests" && (f.Test || kinds[f.Dir] == forTests) {
			return ""
		}
		return "that module is for " + user + " alone"
	}
	return "a new dependency needs a reason in ARCHITECTURE.md and a line in internal/lint/imports.go"
}

var (
	goModRequire = regexp.MustCompile(`^(?:require )?\s*([^\s/]+\.[^\s]+) v\S+$`)
	goModBanned  = regexp.MustCompile(`^(toolchain|replace|exclude|tool)\b`)
)

// GoMod checks that the root's go.mod requires nothing itself but the known
// modules, and has no line that a module importing ours would not follow.
func GoMod(r *Repo) []Finding {
	var found []Finding
	for i, text := range bytes.Split(r.text["go.mod"], []byte("\n")) {
		line := strings.TrimSpace(string(text))
		if m := goModBanned.FindString(line); m != "" {
			found = append(found, Finding{"go.mod", i + 1, "the root module has no " + m + " line"})
		}
		m := goModRequire.FindStringSubmatch(line)
		if m == nil {
			continue // no requirement, or one marked indirect
		}
		if _, ok := dependencies[m[1]]; !ok {
			found = append(found, Finding{"go.mod", i + 1, m[1] + " is not a known dependency: see dependencies in internal/lint/imports.go"})
		}
	}
	return found
}

type importSpec struct {
	path string
	pos  token.Pos
}

func (f *File) imports() []importSpec {
	var specs []importSpec
	for _, spec := range f.AST.Imports {
		name, err := strconv.Unquote(spec.Path.Value)
		if err == nil {
			specs = append(specs, importSpec{name, spec.Pos()})
		}
	}
	return specs
}
