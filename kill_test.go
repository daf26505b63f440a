package riffle

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/vfs"
)

// kills is how many children TestKilledProcessLosesNothing kills; more for a soak.
// killSeed repeats what a failed run drew, as far as the scheduler does.
var (
	kills    = flag.Int("kills", 100, "children to kill")
	killSeed = flag.Uint64("killseed", 0, "seed of the moments at which children are killed; 0: a random one")
)

// In a child of the test, killDirEnv names the directory in which it appends,
// and killRunEnv the number of its run.
const (
	killDirEnv = "RIFFLE_TEST_KILL_DIR"
	killRunEnv = "RIFFLE_TEST_KILL_RUN"
)

// killTopics are one topic a flush policy.
var killTopics = map[string]*TopicConfig{
	"sure":  {Partitions: 3, Flush: FlushBeforeAck, SegmentBytes: 256 << 10, Compression: CompressionLZ4},
	"async": {Partitions: 3, Flush: FlushAsync, SegmentBytes: 256 << 10, FlushInterval: 20 * time.Millisecond},
}

// TestKilledProcessLosesNothing starts this test's binary as a child that
// appends to all partitions at once and tells of each append that was
// acknowledged, and kills it: often while it opens the log, else at some moment
// later. After one or a few kills the parent opens the log and compares. A killed
// process loses nothing under either policy. See ledger for what is compared.
func TestKilledProcessLosesNothing(t *testing.T) {
	t.Parallel()
	seed := *killSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-killseed=%d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	var g *ledger
	var dir string
	for run := range *kills {
		if run%12 == 0 { // a long log takes long to read
			require.NoError(t, os.RemoveAll(dir))
			dir, g = filepath.Join(t.TempDir(), "data"), newLedger()
		}
		most := 50 * time.Millisecond
		if r.IntN(3) == 0 {
			most = 2 * time.Millisecond // it opens the log, recovering it
		}
		delay := time.Duration(r.Int64N(int64(most)))
		runChild(t, dir, run, g, func(line string, kill func()) {
			if line == "up" {
				time.AfterFunc(delay, kill)
			}
		})
		if r.IntN(3) > 0 || run == *kills-1 {
			l, err := Open(dir, toTheBrim)
			require.NoError(t, err)
			require.NoError(t, g.compare(l), "run %d", run)
			require.NoError(t, l.Close())
		}
	}
}

// TestSecondProcessIsLockedOut opens, in a child, the directory that this process
// has open: ErrLocked there, and nothing changes here.
func TestSecondProcessIsLockedOut(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	l, err := Open(dir, toTheBrim)
	require.NoError(t, err)
	p := partOf(t, l, "topic", nil)
	appendValues(t, p, 0, 1)
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), killDirEnv+"="+dir)
	out, err := child.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), ErrLocked.Error())
	require.Contains(t, string(out), dir)
	appendValues(t, p, 1, 2)
	require.NoError(t, l.Close())
}

// runChild runs a child until look, which gets each line that the child prints,
// kills it. The appends of which it told until its end are in g.
func runChild(t *testing.T, dir string, run int, g *ledger, look func(line string, kill func())) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), killDirEnv+"="+dir, fmt.Sprintf("%s=%d", killRunEnv, run))
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if f := strings.Fields(lines.Text()); len(f) == 4 {
			part, err1 := strconv.Atoi(f[1])
			at, err2 := strconv.ParseInt(f[2], 10, 64)
			require.NoError(t, errors.Join(err1, err2))
			g.ack(TopicPartition{f[0], part}, Offset(at), f[3])
		}
		look(lines.Text(), func() { _ = child.Process.Kill() }) // it may be killed already
	}
	require.ErrorContains(t, child.Wait(), "killed")
}

// killChild is the child: it appends to all partitions until it is killed, and
// prints "up" before it opens the log, "full" when an append finds the disk
// full, and for each that is acknowledged the place and the key.
func killChild(dir string) error {
	run, _ := strconv.Atoi(os.Getenv(killRunEnv))
	fmt.Println("up")
	l, err := Open(dir, toTheBrim)
	if err != nil {
		return err
	}
	failed := make(chan error)
	for name, cfg := range killTopics {
		top, err := l.EnsureTopic(ctx, name, cfg)
		if err != nil {
			return err
		}
		for p := range top.Partitions() {
			go func() {
				err := appendRun(p, run, mixedSizes, func(at Offset, key string, full bool) bool {
					if full {
						fmt.Println("full")
					} else {
						fmt.Println(p.Topic().Name(), p.Index(), at, key)
					}
					return true
				})
				for copiesOnWrite(vfs.OS(), dir) && errors.Is(err, vfs.ErrNoSpace) {
					fmt.Println("full")
				}
				failed <- err
			}()
		}
	}
	return <-failed
}
