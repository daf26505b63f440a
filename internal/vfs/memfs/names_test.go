package memfs_test

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// Random operations on names in three directories, two of which move and come
// and go: a crash gives no file two names, loses none that had been flushed
// with its directories and was not removed since, and changes nothing when all
// directories have been flushed. The oracle is the live file system, in which
// each file has a content of its own.
func TestCrashKeepsFlushedNames(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := memfs.New()
		sure := map[string]bool{} // contents whose names have been flushed
		for i := range rapid.IntRange(1, 30).Draw(t, "operations") {
			changeName(t, m, fmt.Sprint(i))
			live := walk(t, m, "/")
			if rapid.IntRange(0, 9).Draw(t, "flush all") == 0 {
				flushAll(t, m, "/")
				require.Equal(t, live, walk(t, m.CrashClone(uint64(i)), "/"))
				for content := range maps.Values(live) {
					sure[content] = true
				}
			}
			requireEachOnce(t, live, walk(t, m.CrashClone(rapid.Uint64().Draw(t, "seed")), "/"), sure)
		}
	})
}

func changeName(t *rapid.T, m *memfs.FS, content string) {
	names := []string{"/a", "/b", "/f", "/g", "/a/f", "/a/g", "/b/f", "/b/g", "/a/b", "/b/a", "/a/b/f", "/b/a/f"}
	name := rapid.SampledFrom(names).Draw(t, "name")
	var err error
	switch rapid.IntRange(0, 5).Draw(t, "what") {
	case 0:
		err = m.Mkdir(name)
	case 1:
		if _, missing := m.Stat(name); errors.Is(missing, fs.ErrNotExist) {
			var f vfs.File
			if f, err = m.Create(name); err == nil {
				_, err = f.WriteAt([]byte(content), 0)
				require.NoError(t, errors.Join(err, f.Sync("s"), f.Close()))
			}
		}
	case 2:
		err = m.Remove(name)
	case 3, 4:
		err = m.Rename(name, rapid.SampledFrom(names).Draw(t, "to"))
	case 5:
		err = m.SyncDir("s", name)
	}
	_ = err // half of them make no sense
}

// walk returns the contents of all files by name, and "dir" for directories.
func walk(t *rapid.T, m *memfs.FS, dir string) map[string]string {
	all := map[string]string{}
	list, err := m.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range list {
		name := dir + e.Name
		if e.Dir {
			all[name] = "dir"
			maps.Copy(all, walk(t, m, name+"/"))
			continue
		}
		data, err := vfs.ReadFile(m, name, 100)
		require.NoError(t, err)
		all[name] = string(data)
	}
	return all
}

func flushAll(t *rapid.T, m *memfs.FS, dir string) {
	require.NoError(t, m.SyncDir("s", dir))
	list, err := m.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range list {
		if e.Dir {
			flushAll(t, m, dir+e.Name+"/")
		}
	}
}

func requireEachOnce(t *rapid.T, live, crashed map[string]string, sure map[string]bool) {
	count := map[string]int{}
	for content := range maps.Values(crashed) {
		count[content]++
		require.True(t, content == "dir" || count[content] == 1, "%q has two names in %v", content, crashed)
	}
	for name, content := range live {
		if sure[content] && content != "dir" {
			require.Equal(t, 1, count[content], "%s (%q) is lost: live %v, crashed %v", name, content, live, crashed)
		}
	}
}
