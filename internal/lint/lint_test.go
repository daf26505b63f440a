package lint

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/invariants"
)

var update = flag.Bool("update", false, "rewrite docs/api.txt")

// Every rule holds for this repository.
func TestRepositoryFollowsTheRules(t *testing.T) {
	if invariants.Enabled {
		return // it starts no goroutine, and checks all types of the repository
	}
	root, err := repositoryRoot()
	require.NoError(t, err)
	repo, err := Load(os.DirFS(root), exports(t).open)
	require.NoError(t, err)
	if *update {
		require.Empty(t, Types(repo), "an API is written of packages that compile")
		require.NoError(t, os.MkdirAll(filepath.Join(root, "docs"), 0o777))
		require.NoError(t, os.WriteFile(filepath.Join(root, filepath.FromSlash(apiFile)), []byte(repo.APIText()), 0o666))
		repo.text[apiFile] = []byte(repo.APIText())
		repo.size[apiFile] = int64(len(repo.text[apiFile]))
	}
	for _, rule := range Rules() {
		t.Run(rule.Name, func(t *testing.T) {
			for _, f := range sorted(rule.Check(repo)) {
				t.Error(f)
			}
		})
	}
}

// Every rule has a test in this package that shows what it rejects: a rule that
// cannot fail is worth nothing.
func TestEveryRuleCanFail(t *testing.T) {
	for _, rule := range Rules() {
		require.Contains(t, cases, rule.Name)
		rejects, passes := false, false
		for _, c := range cases[rule.Name] {
			rejects = rejects || len(c.want) > 0
			passes = passes || len(c.want) == 0
		}
		require.True(t, rejects, "%s: no tree that it rejects", rule.Name)
		require.True(t, passes, "%s: no tree that it lets pass", rule.Name)
	}
}

// Each rule reports exactly the lines that are wrong, in each small tree.
func TestRules(t *testing.T) {
	for _, rule := range Rules() {
		for _, c := range cases[rule.Name] {
			t.Run(rule.Name+"/"+c.name, func(t *testing.T) {
				var got []string
				for _, f := range sorted(rule.Check(tree(t, c.files))) {
					got = append(got, f.String())
				}
				require.Equal(t, c.want, got)
			})
		}
	}
}

func TestLoadReportsWhatIsNoRepository(t *testing.T) {
	_, err := Load(fstest.MapFS{}, nil)
	require.ErrorContains(t, err, "no module line")
	_, err = Load(parseTree("-- go.mod --\nmodule m\n-- a.go --\npackage\n"), nil)
	require.ErrorContains(t, err, "a.go:1")
}

// A rule's case is a small tree and the findings in it; none: the tree is good.
type ruleCase struct {
	name  string
	files string // "-- path --" lines, each before a file's text
	want  []string
}

// tree loads a small tree. Without a go.mod of its own it is module m.
func tree(t *testing.T, files string) *Repo {
	t.Helper()
	tree := parseTree(files)
	if tree["go.mod"] == nil {
		tree["go.mod"] = &fstest.MapFile{Data: []byte("module m\n\ngo 1.26.0\n")}
	}
	repo, err := Load(tree, exports(t).open)
	require.NoError(t, err)
	return repo
}

func parseTree(files string) fstest.MapFS {
	tree := fstest.MapFS{}
	for _, part := range strings.Split("\n"+files, "\n-- ")[1:] {
		name, text, _ := strings.Cut(part, " --\n")
		tree[name] = &fstest.MapFile{Data: []byte(strings.TrimRight(text, "\n") + "\n")}
	}
	return tree
}

// repositoryRoot walks up from the test's directory to the root's go.mod.
func repositoryRoot() (string, error) {
	dir, err := os.Getwd()
	for err == nil {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("no go.mod above the test's directory")
		}
		dir = filepath.Dir(dir)
	}
	return "", err
}

// exportData is where the go command keeps the compiled packages that packages
// of the repository, and the small trees here, import from outside it.
type exportData map[string]string

func (e exportData) open(importPath string) (io.ReadCloser, error) {
	if e[importPath] == "" {
		return nil, fmt.Errorf("%s: no export data; does go.mod require its module?", importPath)
	}
	return os.Open(e[importPath])
}

func exports(t *testing.T) exportData {
	t.Helper()
	data, err := listExports()
	require.NoError(t, err)
	return data
}

// listExports asks the go command once. It compiles what is not compiled yet,
// and answers for all packages that it can.
var listExports = sync.OnceValues(func() (exportData, error) {
	root, err := repositoryRoot()
	if err != nil {
		return nil, err
	}
	repo, err := Load(os.DirFS(root), nil)
	if repo == nil {
		return nil, err
	}
	args := []string{"list", "-e", "-export", "-deps", "-f", "{{.ImportPath}}\t{{.Export}}", "--", "fmt", "io", "iter", "maps", "slices", "sync", "time"}
	for _, f := range repo.rootFiles() {
		for _, im := range f.imports() {
			if _, ours := repo.dirOf(im.path); !ours && !f.Test && !slices.Contains(args, im.path) {
				args = append(args, im.path)
			}
		}
	}
	command := exec.Command("go", args...)
	command.Dir = root
	var stderr bytes.Buffer
	command.Stderr = &stderr
	out, err := command.Output()
	if err != nil {
		return nil, fmt.Errorf("go list -export: %w: %s", err, stderr.Bytes())
	}
	data := exportData{}
	for line := range strings.Lines(string(out)) {
		importPath, file, _ := strings.Cut(strings.TrimSpace(line), "\t")
		data[importPath] = file
	}
	return data, nil
})
