package riffle

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// killDirEnv names the directory in which a child of the test appends.
const killDirEnv = "RIFFLE_TEST_KILL_DIR"

const killPartitions = 4

// killTopics are one topic a flush policy.
var killTopics = map[string]*TopicConfig{
	"sure":  {Partitions: killPartitions, Flush: FlushBeforeAck, Compression: CompressionLZ4},
	"async": {Partitions: killPartitions, Flush: FlushAsync},
}

// TestKilledProcessLosesNothing starts this test's binary as a child that
// appends to all partitions at once and tells of each append that was
// acknowledged, kills it, and compares; several times over the same directory.
// A killed process loses nothing under either policy.
func TestKilledProcessLosesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	acked := map[TopicPartition]int{}
	for round := range 8 {
		killAfter(t, dir, 50+97*round, acked)
		l, err := Open(dir, nil)
		require.NoError(t, err)
		for name := range killTopics {
			top, err := l.Topic(name)
			if err != nil {
				continue // killed before it was made
			}
			for p := range top.Partitions() {
				got := readValues(t, p, Earliest)
				require.GreaterOrEqual(t, len(got), acked[p.name()], "%v", p.name())
				require.LessOrEqual(t, len(got), acked[p.name()]+1, "one append was under way in %v", p.name())
				require.Equal(t, wantValues(0, len(got)), got)
				acked[p.name()] = len(got)
			}
		}
		require.NoError(t, l.Close())
	}
}

// TestSecondProcessIsLockedOut opens, in a child, the directory that this process
// has open: ErrLocked there, and nothing changes here.
func TestSecondProcessIsLockedOut(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	l, err := Open(dir, nil)
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

// killAfter runs a child until it has told of that many appends, and kills it. What it
// told until its end is in acked.
func killAfter(t *testing.T, dir string, after int, acked map[TopicPartition]int) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), killDirEnv+"="+dir)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	lines := bufio.NewScanner(out)
	for i := 0; lines.Scan(); i++ {
		f := strings.Fields(lines.Text())
		require.Len(t, f, 3)
		part, err1 := strconv.Atoi(f[1])
		n, err2 := strconv.Atoi(f[2])
		require.NoError(t, err1)
		require.NoError(t, err2)
		acked[TopicPartition{f[0], part}] = n + 1
		if i == after {
			require.NoError(t, child.Process.Kill())
		}
	}
	require.ErrorContains(t, child.Wait(), "killed")
}

// killChild is the child: it appends until it is killed.
func killChild(dir string) error {
	l, err := Open(dir, nil)
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
				values, err := collect(p, Earliest) // offsets may have gaps
				for i := len(values); err == nil; i++ {
					if _, err = p.Append(ctx, Record{Value: fmt.Appendf(nil, "v%d", i)}); err == nil {
						fmt.Fprintf(os.Stdout, "%s %d %d\n", name, p.Index(), i)
					}
				}
				failed <- err
			}()
		}
	}
	return <-failed
}
