package lint

import (
	"fmt"
	"strings"
)

// lines returns n lines.
func lines(n int) string { return strings.Repeat("// line\n", n) }

// vfsTree is what the cases about sites stand on.
const vfsTree = `
-- internal/vfs/vfs.go --
package vfs
type Site string
type FS struct{}
func (FS) Sync(s Site) {}
`

// cases holds, by the rule's name, trees that the rule rejects and trees that
// it lets pass.
var cases = map[string][]ruleCase{
	"layers": {
		{"arrows down", `
-- log.go --
package riffle
import (
	_ "m/internal/batch"
	_ "m/internal/vfs"
)
-- log_test.go --
package riffle
import _ "m/internal/model"
-- internal/batch/batch.go --
package batch
import (
	_ "m/internal/compress"
	_ "m/internal/invariants"
)
-- internal/batch/batch_test.go --
package batch
import _ "m/internal/vfs/memfs"
-- internal/vfs/memfs/memfs.go --
package memfs
import _ "m/internal/vfs"
-- bench/go.mod --
module m/bench
-- bench/bench.go --
package bench
import _ "m/internal/model"
`, nil},
		{"arrows up and across", `
-- log.go --
package riffle
import _ "m/internal/model"
-- internal/batch/batch.go --
package batch
import "m/internal/vfs"
-- internal/batch/batch_test.go --
package batch
import _ "m"
-- internal/vfs/vfs.go --
package vfs
import _ "m/internal/group"
-- internal/vfs/memfs/memfs.go --
package memfs
import _ "m/riffletest"
-- internal/invariants/invariants.go --
package invariants
import _ "m/internal/vfs"
`, []string{
			"internal/batch/batch.go:2: imports m/internal/vfs: a pure package does not import a mechanism package",
			"internal/batch/batch_test.go:2: imports m: nothing in internal/ imports the root package or what stands on it",
			"internal/invariants/invariants.go:2: imports m/internal/vfs: a base package does not import a mechanism package",
			"internal/vfs/memfs/memfs.go:2: imports m/riffletest: nothing in internal/ imports the root package or what stands on it",
			"internal/vfs/vfs.go:2: imports m/internal/group: a mechanism package does not import a pure package",
			"log.go:2: imports m/internal/model: it is for tests",
		}},
		{"a package without a kind", `
-- internal/util/util.go --
package util
`, []string{"internal/util: no kind: add the package to kinds in internal/lint/imports.go"}},
	},

	"system imports": {
		{"in their place", `
-- internal/vfs/os_unix.go --
package vfs
import (
	_ "os"
	_ "syscall"
	_ "unsafe"
	_ "golang.org/x/sys/unix"
)
-- internal/batch/batch.go --
package batch
import _ "unsafe"
-- log_test.go --
package riffle
import _ "os"
-- cmd/riffle/main.go --
package main
import _ "os"
-- kafka.go --
package riffle
import _ "net"
-- internal/wire/conn.go --
package wire
import (
	_ "crypto/tls"
	_ "net/netip"
)
-- log.go --
package riffle
import (
	"path/filepath"
	_ "net/url"
)
var abs, _ = filepath.Abs(filepath.Clean("x"))
-- internal/vfs/walk.go --
package vfs
import "path/filepath"
var names, _ = filepath.Glob("*")
`, nil},
		{"around the door", `
-- log.go --
package riffle
import (
	"net/http"
	_ "plugin"
	p "path/filepath"
)
var names, _ = p.Glob("*")
var walk = p.WalkDir
-- internal/group/group.go --
package group
import . "path/filepath"
-- internal/wire/wire.go --
package wire
import "path/filepath"
var abs, _ = filepath.Abs("x")
var link, _ = filepath.EvalSymlinks("x")
var err = filepath.Walk("x", nil)
-- log_test.go --
package riffle
import "path/filepath"
var found, _ = filepath.Glob("*")
`, []string{
			"internal/group/group.go:2: imports all names of path/filepath: some reach the operating system",
			"internal/wire/wire.go:3: filepath.Abs: outside tests that is for . and internal/vfs",
			"internal/wire/wire.go:4: filepath.EvalSymlinks: outside tests that is for internal/vfs",
			"internal/wire/wire.go:5: filepath.Walk: outside tests that is for internal/vfs",
			"log.go:3: imports net/http: outside tests that is for internal/wire and kafka.go",
			"log.go:4: imports plugin: outside tests that is for no package here",
			"log.go:7: filepath.Glob: outside tests that is for internal/vfs",
			"log.go:8: filepath.WalkDir: outside tests that is for internal/vfs",
		}},
		{"elsewhere", `
-- log.go --
package riffle
import (
	_ "io/fs"
	_ "os"
	system "syscall"
	_ "unsafe"
)
-- internal/group/group.go --
package group
import _ "golang.org/x/sys/unix"
-- internal/batch/batch.go --
package batch
import (
	_ "golang.org/x/sys/cpu"
	_ "os/exec"
)
`, []string{
			"internal/batch/batch.go:4: imports os/exec: outside tests that is for no package here",
			"internal/group/group.go:2: imports golang.org/x/sys/unix: outside tests that is for internal/vfs",
			"log.go:4: imports os: outside tests that is for internal/vfs and internal/vfs/memfs and internal/vfs/errfs",
			"log.go:5: imports syscall: outside tests that is for internal/vfs and internal/vfs/memfs",
			"log.go:6: imports unsafe: outside tests that is for internal/vfs and internal/vfs/memfs and internal/batch",
		}},
	},

	"dependencies": {
		{"known ones in their place", `
-- log.go --
package riffle
import (
	_ "fmt"
	_ "github.com/klauspost/compress/zstd"
	_ "github.com/twmb/franz-go/pkg/kmsg"
	_ "m/internal/batch"
)
-- log_test.go --
package riffle
import _ "github.com/stretchr/testify/require"
-- internal/model/model.go --
package model
import _ "pgregory.net/rapid"
-- cmd/riffle/main.go --
package main
import _ "github.com/urfave/cli/v3"
-- bench/go.mod --
module m/bench
-- bench/bench.go --
package bench
import _ "go.etcd.io/bbolt"
`, nil},
		{"others, and known ones elsewhere", `
-- log.go --
package riffle
import (
	_ "github.com/klauspost/compressor"
	_ "github.com/stretchr/testify/require"
	_ "github.com/twmb/franz-go/pkg/kgo"
	_ "github.com/urfave/cli/v3"
)
-- log_test.go --
package riffle
import _ "go.etcd.io/bbolt"
`, []string{
			"log.go:3: imports github.com/klauspost/compressor: a new dependency needs a reason in ARCHITECTURE.md and a line in internal/lint/imports.go",
			"log.go:4: imports github.com/stretchr/testify/require: that module is for tests alone",
			"log.go:5: imports github.com/twmb/franz-go/pkg/kgo: a new dependency needs a reason in ARCHITECTURE.md and a line in internal/lint/imports.go",
			"log.go:6: imports github.com/urfave/cli/v3: that module is for cmd/riffle alone",
			"log_test.go:2: imports go.etcd.io/bbolt: a new dependency needs a reason in ARCHITECTURE.md and a line in internal/lint/imports.go",
		}},
	},

	"go.mod": {
		{"known modules", `
-- go.mod --
module m

go 1.26.0

require github.com/google/btree v1.1.3

require (
	golang.org/x/sys v0.49.0
	gopkg.in/yaml.v3 v3.0.1 // indirect
)
`, nil},
		{"others, and lines that importers do not follow", `
-- go.mod --
module m

go 1.26.0

toolchain go1.26.8

require go.etcd.io/bbolt v1.4.0

require (
	github.com/rs/zerolog v1.0.0
)

replace golang.org/x/sys => ../sys
`, []string{
			"go.mod:5: the root module has no toolchain line",
			"go.mod:7: go.etcd.io/bbolt is not a known dependency: see dependencies in internal/lint/imports.go",
			"go.mod:10: github.com/rs/zerolog is not a known dependency: see dependencies in internal/lint/imports.go",
			"go.mod:13: the root module has no replace line",
		}},
	},

	"types": {
		{"a package that compiles", `
-- log.go --
package riffle
import (
	"time"
	"m/internal/batch"
)
var D time.Duration = batch.D
-- internal/batch/batch.go --
package batch
const D = 5
`, nil},
		{"one that does not, under one tag", `
-- internal/batch/batch.go --
package batch
import "m/internal/group"
const A = B + group.X
-- internal/batch/b.go --
//go:build !invariants
package batch
const B = 1
-- internal/group/group.go --
package group
const X = 1
`, []string{"internal/batch/batch.go:3: undefined: B"}},
		{"one that is not there", `
-- log.go --
package riffle
import _ "m/internal/batch"
`, []string{"log.go:2: could not import m/internal/batch (no package in internal/batch, or it imports itself)"}},
	},

	"purity": {
		{"time and sync without waiting", `
-- internal/group/group.go --
package group
import (
	"sync"
	"time"
)
var pool sync.Pool
func get() any { return pool.Get() }
func Later(now time.Time, d time.Duration) bool { return now.Add(d).After(now) }
-- internal/group/group_test.go --
package group
import "time"
func f() { go time.Now() }
-- internal/vfs/vfs.go --
package vfs
import "time"
func f() { go time.Sleep(1) }
`, nil},
		{"goroutines, clocks and locks", `
-- internal/group/group.go --
package group
import (
	. "sync"
	clock "time"
)
type G struct {
	mu RWMutex
	t  *clock.Timer
}
func f() {
	go f()
	_ = clock.Since(clock.Now())
}
-- internal/group/invariants.go --
//go:build invariants
package group
import "time"
func g() { time.Sleep(1) }
-- internal/group/plan9.go --
//go:build plan9
package group
`, []string{
			"internal/group/group.go:7: sync.RWMutex in a pure package: the caller locks",
			"internal/group/group.go:8: time.Timer in a pure package: time and zone are arguments",
			"internal/group/group.go:11: a go statement in a pure package: the caller owns goroutines",
			"internal/group/group.go:12: time.Now in a pure package: time and zone are arguments",
			"internal/group/group.go:12: time.Since in a pure package: time and zone are arguments",
			"internal/group/invariants.go:4: time.Sleep in a pure package: time and zone are arguments",
			"internal/group/plan9.go: built under no tag in buildTags, so nothing checks that it is pure",
		}},
		{"channels", `
-- internal/group/group.go --
package group
type done chan int
func f(c done) {
	for range c {
	}
	c <- <-c
	select {}
}
`, []string{
			"internal/group/group.go:2: a channel in a pure package: the caller owns channels",
			"internal/group/group.go:4: a range over a channel in a pure package: the caller owns channels",
			"internal/group/group.go:6: a receive in a pure package: the caller owns channels",
			"internal/group/group.go:6: a send in a pure package: the caller owns channels",
			"internal/group/group.go:7: a select in a pure package: the caller owns channels",
		}},
		{"imports that do more than compute", `
-- internal/group/group.go --
package group
import (
	"C"
	_ "context"
	_ "github.com/klauspost/compress/zstd"
	_ "m/internal/batch"
	_ "math/rand"
	_ "net"
	_ "path/filepath"
	_ "plugin"
	_ "strings"
	_ "unsafe"
)
-- internal/batch/batch.go --
package batch
-- internal/batch/batch_test.go --
package batch
import _ "math/rand"
`, []string{
			"internal/group/group.go:3: imports C in a pure package: it is not in pureImports in internal/lint/purity.go",
			"internal/group/group.go:4: imports context in a pure package: it is not in pureImports in internal/lint/purity.go",
			"internal/group/group.go:7: imports math/rand in a pure package: it is not in pureImports in internal/lint/purity.go",
			"internal/group/group.go:8: imports net in a pure package: it is not in pureImports in internal/lint/purity.go",
			"internal/group/group.go:9: imports path/filepath in a pure package: it is not in pureImports in internal/lint/purity.go",
			"internal/group/group.go:10: imports plugin in a pure package: it is not in pureImports in internal/lint/purity.go",
		}},
		{"names that do more than compute", `
-- internal/group/group.go --
package group
import (
	"fmt"
	"io"
	"iter"
	"sync"
	"time"
)
var once = sync.OnceValue(func() int { return 1 })
func f(t time.Time, s iter.Seq[int]) {
	fmt.Println(fmt.Sprint(1))
	println(io.Pipe())
	iter.Pull(s)
	_ = t.Local().UTC().In(time.Local)
}
`, []string{
			"internal/group/group.go:9: sync.OnceValue in a pure package: the caller locks",
			"internal/group/group.go:11: fmt.Println in a pure package: the caller prints",
			"internal/group/group.go:12: io.Pipe in a pure package: the caller waits",
			"internal/group/group.go:12: println in a pure package: the caller prints",
			"internal/group/group.go:13: iter.Pull in a pure package: the caller owns goroutines",
			"internal/group/group.go:14: time.Local in a pure package: time and zone are arguments",
			"internal/group/group.go:14: time.Time.Local in a pure package: time and zone are arguments",
		}},
	},

	"map order": {
		{"slices, sorted keys and excuses", `
-- internal/txn/txn.go --
package txn
import (
	"maps"
	"slices"
)
type set map[string]int
func f(s []int, m set) (sum int) {
	for range s {
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		sum += m[k]
	}
	//lint:order a sum
	for _, v := range m {
		sum += v
	}
	for range m { //lint:order counts
		sum++
	}
	return sum
}
-- internal/vfs/vfs.go --
package vfs
func f(m map[int]int) {
	for range m {
	}
}
`, nil},
		{"maps in disguise", `
-- internal/txn/txn.go --
package txn
import (
	each "maps"
	"slices"
)
type set map[string]int
type holder struct{ s set }
func f(h holder) []string {
	for range h.s {
	}
	//lint:order
	for range map[int]int{} {
	}
	for range each.All(h.s) {
	}
	return slices.Collect(each.Keys[set](h.s))
}
func g[M ~map[K]V, K comparable, V any](m M) {
	for range m {
	}
}
`, []string{
			"internal/txn/txn.go:9: range over a map in a pure package: sort, or say //lint:order and why it does not matter",
			"internal/txn/txn.go:12: range over a map in a pure package: sort, or say //lint:order and why it does not matter",
			"internal/txn/txn.go:14: map order in a pure package: sort, or say //lint:order and why it does not matter",
			"internal/txn/txn.go:16: map order in a pure package: sort, or say //lint:order and why it does not matter",
			"internal/txn/txn.go:19: range over a map in a pure package: sort, or say //lint:order and why it does not matter",
		}},
	},

	"lengths": {
		{"as long as may be", `
-- a.go --
package a
// Doc does not count.
func f() {
` + lines(68) + `}
-- b.go --
package a
` + lines(799) + `
-- b_test.go --
package a
` + lines(1499) + `
-- c.go --
// Code generated by stringer. DO NOT EDIT.
package a
` + lines(900), nil},
		{"one line more", `
-- a.go --
package a
type t int
func (t) f() {
` + lines(69) + `}
var g, h = 1, func() {
` + lines(69) + `}
-- b.go --
package a
` + lines(800) + `
-- b_test.go --
package a
` + lines(1500), []string{
			"a.go:3: f has 71 lines, at most 70",
			"a.go:74: a function literal has 71 lines, at most 70",
			"b.go: 801 lines, at most 800: split it by noun",
			"b_test.go: 1501 lines, at most 1500: split it by noun",
		}},
	},

	"testdata": {
		{"small there, large elsewhere", "-- testdata/a --\nx\n-- a --\n" + strings.Repeat("x", maxTestdata+1), nil},
		{"large there", "-- a/testdata/b/c --\n" + strings.Repeat("x", maxTestdata), []string{
			fmt.Sprintf("a/testdata/b/c: %d bytes, at most %d in testdata: make it in the test", maxTestdata+1, maxTestdata),
		}},
	},

	"package comments": {
		{"one file of each says it", `
-- doc.go --
// Package riffle is a log.
package riffle
-- log.go --
package riffle
-- internal/batch/batch.go --
// Package batch reads batches.
package batch
-- examples/quickstart/main.go --
// Quickstart reads source code into a log.
package main
-- cmd/riffle/main.go --
package main
`, nil},
		{"none says it", `
-- internal/batch/batch.go --
// Batches are read here.
package batch
-- internal/batch/batch_test.go --
// Package batch is tested.
package batch
-- examples/quickstart/main.go --
//go:build linux

package main
`, []string{
			".: no root package",
			"examples/quickstart/main.go:3: package main has no package comment in any file",
			"internal/batch/batch.go:2: package batch has no package comment in any file",
		}},
	},
}
