package riffle

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/invariants"
	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// fsFlag runs the tests that work on any file system on another one: under the
// race detector, "mem" also sees unordered access to mapped memory.
var fsFlag = flag.String("fs", "os", "file system of the tests: os or mem")

// everyFlag and fromFlag are for the tests that crash or die at each operation: they do at one
// of so many, from one that is drawn, so that several runs cover all. Builds without the race
// detector do at each.
var (
	everyFlag = flag.Int64("every", 8, "under the race detector, crash at one operation of so many")
	fromFlag  = flag.Int64("from", -1, "the first operation to crash at, or any such; -1: a random one")
)

// sampled returns at which operations to crash: one of every, from among them. Plain is every
// in builds without the race detector.
func sampled(t testing.TB, plain int64) (every, from int64) {
	every = plain
	if invariants.Enabled {
		every *= max(*everyFlag, 1)
	}
	if from = *fromFlag; from < 0 {
		from = rand.Int64N(every)
	}
	t.Logf("-every=%d -from=%d", *everyFlag, from)
	return every, from
}

var ctx = context.Background()

// testDir returns a file system and a directory in it that does not exist yet.
func testDir(t testing.TB) (vfs.FS, string) {
	if *fsFlag == "mem" {
		return memfs.New(), "/data"
	}
	return vfs.OS(), filepath.Join(t.TempDir(), "data")
}

// openAt opens the log in dir and closes it when the test ends. Closing must
// leave nothing behind: no goroutine, file or mapping.
func openAt(t testing.TB, fsys vfs.FS, dir string, opts *Options) *Log {
	t.Helper()
	l, err := open(fsys, dir, opts)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, l.Close())
		requireNothingLeft(t, l)
	})
	return l
}

// openQuiet opens a log of its own in which nothing but flushes happens in time, for tests that
// count allocations: those of the whole process.
func openQuiet(t testing.TB) *Log {
	t.Helper()
	fsys, dir := testDir(t)
	tune := defaultTuning
	tune.boundsDelay, tune.publishDelay, tune.retentionInterval = Forever, 0, 0
	l, err := openTuned(fsys, dir, nil, tune)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l
}

// quiet is async without flushes in time.
var quiet = &TopicConfig{Flush: FlushAsync, FlushInterval: Forever}

// slowFlushes has what appends wait for take so long, in a bubble of synctest, until heal is
// called.
func slowFlushes(fsys *errfs.FS, d time.Duration) (heal func()) {
	return fsys.Add(errfs.Rule{Kind: errfs.Sync, Site: siteFlush, Decide: func(errfs.Op) error {
		time.Sleep(d) //lint:sleep in a bubble of synctest
		return nil
	}})
}

// requireNothingLeft shows that a log that is closed has given back what it held.
func requireNothingLeft(t testing.TB, l *Log) {
	t.Helper()
	l.tasks.Wait()
	l.files.mu.Lock()
	defer l.files.mu.Unlock()
	require.Empty(t, l.files.ring, "open files")
	require.Zero(t, l.mappings.Load(), "mappings")
}

// newTopicAt opens a log with one topic of one partition, and returns that.
func newPart(t testing.TB, cfg *TopicConfig) *Partition {
	t.Helper()
	fsys, dir := testDir(t)
	return partOf(t, openAt(t, fsys, dir, nil), "topic", cfg)
}

func partOf(t testing.TB, l *Log, topic string, cfg *TopicConfig) *Partition {
	t.Helper()
	top, err := l.EnsureTopic(ctx, topic, cfg)
	require.NoError(t, err)
	p, err := top.Partition(0)
	require.NoError(t, err)
	return p
}

// async is the configuration of a topic that is not flushed before it is read.
var async = &TopicConfig{Flush: FlushAsync}

// appendValues appends one record a call, with the values v<from>…v<to-1>.
func appendValues(t testing.TB, p *Partition, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		at, err := p.Append(ctx, Record{Value: fmt.Appendf(nil, "v%d", i)})
		require.NoError(t, err)
		require.Equal(t, Offset(i), at)
	}
}

// readValues returns the values from offset from to the readable end.
func readValues(t testing.TB, p *Partition, from Offset) []string {
	t.Helper()
	values, err := collect(p, from)
	require.NoError(t, err)
	return values
}

// collect is readValues with the error that ended the loop.
func collect(p *Partition, from Offset) (values []string, err error) {
	for r, err := range p.Records(ctx, from, nil) {
		if err != nil {
			return values, err
		}
		values = append(values, string(r.Value))
	}
	return values, nil
}

// wantValues are the values that appendValues appends.
func wantValues(from, to int) []string {
	var values []string
	for i := from; i < to; i++ {
		values = append(values, fmt.Sprintf("v%d", i))
	}
	return values
}

// TestMain checks that the whole suite leaves no goroutine of ours running. In
// a child that is to be killed it runs that instead.
func TestMain(m *testing.M) {
	if dir := os.Getenv(killDirEnv); dir != "" {
		fmt.Fprintln(os.Stderr, killChild(dir))
		os.Exit(1)
	}
	if dir := os.Getenv(benchReaderEnv); dir != "" {
		fmt.Fprintln(os.Stderr, followChild(dir))
		os.Exit(1)
	}
	lives := "300" // of TestMachine, unless -rapid.checks says otherwise
	if invariants.Enabled {
		lives = "75" // the race detector is slow
	}
	if err := flag.Set("rapid.checks", lives); err != nil {
		panic(err)
	}
	flag.Parse()
	// The heap of most tests is small and short-lived: collecting it all the time, and
	// profiling it, would be half of what they cost. Benchmarks shall pay for both.
	if os.Getenv("GOGC") == "" && flagOf("test.bench") == "" {
		debug.SetGCPercent(400)
		if os.Getenv("GOMEMLIMIT") == "" {
			debug.SetMemoryLimit(3 << 30) // and then all the time
		}
		if flagOf("test.memprofile") == "" {
			runtime.MemProfileRate = 0
		}
	}
	code := m.Run()
	if left := leftGoroutines(); code == 0 && left != "" {
		fmt.Printf("goroutines are left running:\n%s\n", left)
		code = 1
	}
	os.Exit(code)
}

// flagOf returns the value of a flag of the test's, empty if there is none.
func flagOf(name string) string {
	if f := flag.Lookup(name); f != nil {
		return f.Value.String()
	}
	return ""
}

// leftGoroutines returns the stacks of goroutines that run our code, once those
// that are ending have had time to.
func leftGoroutines() string {
	for deadline := time.Now().Add(5 * time.Second); ; {
		left := otherGoroutines()
		if len(left) == 0 || time.Now().After(deadline) {
			return strings.Join(left, "\n\n")
		}
		runtime.Gosched()
	}
}

// otherGoroutines returns the stacks of those that run our code, but for the caller's.
func otherGoroutines() (all []string) {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	for _, g := range strings.Split(string(buf), "\n\n")[1:] {
		if strings.Contains(g, "rifflelog/riffle.") {
			all = append(all, g)
		}
	}
	return all
}

// ourGoroutines is how many run our code. The runtime has some too, to clean up what a
// collection has found, and runtime.NumGoroutine counts those at times.
func ourGoroutines() int { return len(otherGoroutines()) }

// requireAll asserts that err is each of targets.
func requireAll(t testing.TB, err error, targets ...error) {
	t.Helper()
	for _, target := range targets {
		if !errors.Is(err, target) {
			t.Fatalf("error %q is not %q", err, target)
		}
	}
}
