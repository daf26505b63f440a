package riffle

import (
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var mutantsFlag = flag.Bool("mutants", false, "TestEveryStepIsNeeded builds the package without each step, and runs the tests that fail then")

// stepMutant is a step of docs/CRASH.md that neither flushes nor checks anything, so that it
// has no site by which TestEverySiteIsNeeded and its like could leave it out.
type stepMutant struct {
	step, without string // as the table there names it
	file          string
	old, new      string   // lines of the file, and what is there without the step
	tests         []string // each of them fails then
}

var stepMutants = []stepMutant{
	{
		"the first append, 1; a roll, 2", "removing the file that an earlier attempt left elsewhere", "roll.go",
		"if err := p.removeSegment(left); err != nil && !errors.Is(err, fs.ErrNotExist) {",
		"if err := error(nil); err != nil && !errors.Is(err, fs.ErrNotExist) {",
		[]string{"TestUnfinishedFileIsRemoved"},
	},
	{
		"a roll, 2", "emptying the one that it left there", "internal/vfs/memfs/memfs.go",
		"	if create {\n		n.file.truncate(0)\n",
		"	if create {\n",
		[]string{"TestRollThatFails"},
	},
	{
		"the ceiling, 2", "waiting for step 1", "roll.go",
		"	asked := p.asked\n	p.setBounds(false)\n",
		"	asked := p.asked\n	p.ceiling = asked\n	p.setBounds(false)\n",
		[]string{"TestCeilingIsRaisedAhead"},
	},
	{
		"an append, 1", "the cut after a write that failed", "segment.go",
		"if cut := s.cut(); cut != nil {",
		"if cut := error(nil); cut != nil {",
		[]string{"TestFailedWriteThatCannotBeUndone", "TestCutOfAFailedWriteIsFlushedBeforeARoll"},
	},
	{
		"an append, 2", "taking the end before the flush", "flush.go",
		"		p.flushed = max(p.flushed, end)\n		p.cutFlushed",
		"		end = p.dataEnd\n		p.flushed = max(p.flushed, end)\n		p.cutFlushed",
		[]string{"TestConcurrentAppendsShareFlushes", "TestSyncWaitsForTheNextFlush"},
	},
	{
		"an append, 3", "waiting for step 2", "partition.go",
		"		if cfg.Flush == FlushAsync {\n			p.flushLater(cfg)\n",
		"		p.commit(p.end, seg, seg.size)\n		if cfg.Flush == FlushAsync {\n			p.flushLater(cfg)\n",
		[]string{"TestNothingIsSeenBeforeItIsFlushed"},
	},
	{
		"moving the log start, 1", "the roll", "start.go",
		"p.makeWay(func() bool { return to >= p.end })",
		"p.makeWay(func() bool { return false })",
		[]string{"TestDeleteAllKeepsTheEnd"},
	},
	{
		"moving the log start, 4; recovery, 0", "removing at opening what is left", "recovery.go",
		"for len(s.segments) > 1 && s.segments[1].base <= s.part.start {",
		"for false {",
		[]string{"TestGarbageIsRemovedWhenOpened"},
	},
	{
		"recovery, 5", "the cut", "recovery.go",
		"if err := seg.file.Truncate(seg.size); err != nil {",
		"if err := error(nil); err != nil {",
		[]string{"TestTornTailIsCut"},
	},
	{
		"recovery, 6", "writing them over themselves", "recovery.go",
		"if err := rewrite(seg.file, max(s.pointSize, seg.size-maxUnflushed), seg.size); err != nil {",
		"if err := error(nil); err != nil {",
		[]string{"TestShownAfterAFailedFlushStays"},
	},
	{
		"recovery, 6", "the same in the background", "recovery.go",
		"if err := rewrite(seg.file, from, seg.again); err != nil {",
		"if err := error(nil); err != nil {",
		[]string{"TestNoKillBreaksAPromise"},
	},
	{
		"deleting a topic, 2", "ending what they do", "deletion.go",
		"		p.retire()\n",
		"",
		[]string{"TestDeleteTopicBesideAppends"},
	},
	{
		"deleting a topic, 5", "waiting for the last loop", "deletion.go",
		"if p.users.Add(-1) > 0 {",
		"if p.users.Add(-1) < 0 {",
		[]string{"TestDeleteTopicWithLoopsInIt"},
	},
	{
		"a commit, 3", "waiting for step 2", "groupcoordinator.go",
		"err := co.log.await(context.Background(), first.round)",
		"err := error(nil)",
		[]string{"TestNoErrorBreaksACommit"},
	},
	{
		"the file of bounds, 1", "taking the other slot", "bounds.go",
		"int64(1-e.durable.index)*boundsSlotSize",
		"int64(e.durable.index)*boundsSlotSize",
		[]string{"TestBoundsSurviveCrashes"},
	},
	{
		"the file of bounds, 3", "keeping the old slot after an error", "bounds.go",
		"			b.setPending(e)\n		} else {",
		"			b.setPending(e)\n			e.durable = slotState{e.durable.seq + 1, 1 - e.durable.index}\n		} else {",
		[]string{"TestFailedSyncKeepsTheDurableSlot"},
	},
}

// TestEveryStepIsNeeded: each step that has no site is in the table of docs/CRASH.md, with
// the tests that fail without it. With -mutants each is left out, and they do.
func TestEveryStepIsNeeded(t *testing.T) {
	doc, err := os.ReadFile("docs/CRASH.md")
	require.NoError(t, err)
	for _, m := range stepMutants {
		t.Run(m.step+": "+m.without, func(t *testing.T) {
			require.Contains(t, string(doc), "| "+m.step+" | "+m.without+" | `"+strings.Join(m.tests, "`, `")+"` |\n")
			code, err := os.ReadFile(m.file)
			require.NoError(t, err)
			require.Equal(t, 1, strings.Count(string(code), m.old), "what is left out is there once")
			if !*mutantsFlag {
				return
			}
			file := filepath.Join(t.TempDir(), filepath.Base(m.file))
			require.NoError(t, os.WriteFile(file, []byte(strings.Replace(string(code), m.old, m.new, 1)), 0o600))
			for _, test := range m.tests {
				requireFails(t, test, m.file, file)
			}
		})
	}
}

// requireFails requires that a test of this package fails with other contents of a file.
func requireFails(t *testing.T, test, file, contents string) {
	t.Helper()
	replaced, err := filepath.Abs(file)
	require.NoError(t, err)
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{replaced: contents}})
	require.NoError(t, err)
	overlayFile := filepath.Join(t.TempDir(), "overlay.json")
	require.NoError(t, os.WriteFile(overlayFile, overlay, 0o600))
	out, err := exec.Command("go", "test", "-overlay", overlayFile, "-run", "^"+test+"$", "-count=1", "-timeout=90s", ".").CombinedOutput()
	require.Error(t, err, "%s passes", test)
	require.NotContains(t, string(out), "[build failed]", "%s", out)
	require.Regexp(t, "(?m)^--- FAIL: "+test+"|^panic: |^fatal error: ", string(out))
}
