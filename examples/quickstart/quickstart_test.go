package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle"
)

// A second run on the same directory reads what the first one sent and
// sends nothing: the first on a tree of three Go files and one other, the
// second on an empty tree, print the same counts. Each file is whole in one
// partition.
func TestSecondRunSendsNothing(t *testing.T) {
	dir := t.TempDir()
	src := writeTree(t, map[string]string{
		"a.go":       "package a // the end\n\nfunc f(x int) int { return x + 0x1f }\r\n",
		"b/empty.go": "",
		"b/end.go":   "package b\nvar s = \"x \\x00 π\" // no newline follows",
		"b/text.md":  "x x x x x\n",
	})
	first, err := runOn(t.Context(), dir, src)
	require.NoError(t, err)
	require.Equal(t, `sent:      5 records
reopened:  all there: 5 records, checksum 44750aa7
        3  x
        2  int
        1  a
        1  b
        1  f
        1  s
on disk:   0 MB
counted:   5 records
`, first)
	require.Equal(t, []string{
		"2 a.go: package a // the end",
		"2 a.go: ",
		"2 a.go: func f(x int) int { return x + 0x1f }\r",
		"3 b/end.go: package b",
		"3 b/end.go: var s = \"x \\x00 π\" // no newline follows",
	}, stored(t, dir))

	second, err := runOn(t.Context(), dir, os.DirFS(t.TempDir()))
	require.NoError(t, err)
	first = strings.TrimPrefix(first, "sent:      5 records\n")
	require.Equal(t, strings.Replace(first, "counted:   5 records", "counted:   0 records", 1), second)
	require.Len(t, stored(t, dir), 5)
}

// An import that ends early goes on where it stopped: the context ends, as by
// Ctrl-C, while the 30th file is opened. The run returns that error and closes
// the log, which sends what the producer has taken, the next one completes it, and what it then holds is what one run
// without interruption leaves.
func TestInterruptedImportGoesOn(t *testing.T) {
	src := writeTree(t, manyFiles())
	dir := interrupted(t, src)
	require.Len(t, stored(t, dir), 2900)

	out, err := runOn(t.Context(), dir, src)
	require.NoError(t, err)
	require.Contains(t, out, "stored:    2900 records, ")
	require.Contains(t, out, "sent:      1100 records\n")
	require.Contains(t, out, "counted:   4000 records\n")

	whole := t.TempDir()
	_, err = runOn(t.Context(), whole, src)
	require.NoError(t, err)
	require.Equal(t, stored(t, whole), stored(t, dir))
}

// Lines that a power cut took are sent again, though the import was stored
// as complete: that record is put beside half of the lines.
func TestLinesLostAfterCompletionAreSentAgain(t *testing.T) {
	src := writeTree(t, manyFiles())
	dir := interrupted(t, src)
	withTopic(t, dir, "imports", func(top *riffle.Topic) {
		imports, err := top.Partition(0)
		require.NoError(t, err)
		require.NoError(t, completeImport(t.Context(), imports, tally{records: 4000, sum: 1}))
	})
	out, err := runOn(t.Context(), dir, src)
	require.NoError(t, err)
	require.Contains(t, out, "sent:      1100 records\n")
	require.Contains(t, out, "counted:   4000 records\n")
	require.Len(t, stored(t, dir), 4000)

	out, err = runOn(t.Context(), dir, src)
	require.NoError(t, err, "the new record of completion counts")
	require.NotContains(t, out, "sent")
}

// An interrupted import does not go on with another source: one line that
// differs, or too few lines, end it before anything is sent.
func TestOtherSourceIsRefused(t *testing.T) {
	src := writeTree(t, manyFiles())
	dir := interrupted(t, src)

	changed := manyFiles()
	changed["f05.go"] = strings.Replace(changed["f05.go"], "7", "8", 1)
	for _, other := range []fs.FS{writeTree(t, changed), writeTree(t, map[string]string{"f00.go": "package f\n"})} {
		_, err := runOn(t.Context(), dir, other)
		require.ErrorIs(t, err, errOtherLines)
		require.Len(t, stored(t, dir), 2900)
	}
}

// A tree without Go is an error, and leaves nothing that a later run would take
// for an import.
func TestTreeWithoutGoIsAnError(t *testing.T) {
	dir := t.TempDir()
	_, err := runOn(t.Context(), dir, os.DirFS(t.TempDir()))
	require.ErrorIs(t, err, errNoLines)
	out, err := runOn(t.Context(), dir, writeTree(t, map[string]string{"a.go": "package a\n"}))
	require.NoError(t, err)
	require.Contains(t, out, "sent:      1 records\n")
}

// The output depends on the source alone: two directories filled from twenty
// identifiers of equal count print the same ten, by name.
func TestOutputIsStable(t *testing.T) {
	src := writeTree(t, map[string]string{"a.go": "t s r q p o n m l k j i h g f e d c b a\n"})
	first, err := runOn(t.Context(), t.TempDir(), src)
	require.NoError(t, err)
	require.Regexp(t, `(?s)1  a\n.* 1  b\n.* 1  j\non disk`, first)
	second, err := runOn(t.Context(), t.TempDir(), src)
	require.NoError(t, err)
	require.Equal(t, first, second)
}

// Counts go on where they were, each line is counted once: the members of the group stop
// three times, and in between the group's own offsets are moved behind everything, as if
// they had been committed and the counts not stored, and then to the start, as if it were the
// other way round.
func TestCountGoesOnWhereItWas(t *testing.T) {
	dir := interrupted(t, writeTree(t, manyFiles()))
	db, err := riffle.Open(dir, options)
	require.NoError(t, err)
	lines, err := db.Topic("lines")
	require.NoError(t, err)
	counts, err := db.EnsureTopic(t.Context(), "counts", countsConfig)
	require.NoError(t, err)
	var all int64
	for i, until := range []int64{1, 1000, 2000, 2900} {
		cr, err := newCounter(t.Context(), db, lines, counts)
		require.NoError(t, err)
		require.Equal(t, all, cr.all())
		n, err := cr.until(t.Context(), until)
		require.NoError(t, err)
		all += n
		require.GreaterOrEqual(t, all, until)
		to := make(map[riffle.TopicPartition]riffle.Offset)
		for p := range lines.NumPartitions() {
			to[riffle.TopicPartition{Topic: "lines", Partition: p}] = []riffle.Offset{riffle.Latest, riffle.Earliest}[i%2]
		}
		require.NoError(t, db.Group(groupName).Reset(t.Context(), to))
	}
	require.EqualValues(t, 2900, all)

	cr, err := newCounter(t.Context(), db, lines, counts)
	require.NoError(t, err)
	words, counted, err := cr.result(t.Context())
	require.NoError(t, err)
	want, err := tallyOf(t.Context(), lines)
	require.NoError(t, err)
	require.Equal(t, together(want), counted)
	require.Equal(t, 2900, *words["var"])
	require.Equal(t, 29, *words["x99"])
	require.NoError(t, db.Close())
}

// Counts are read as they were written, also without a word; other bytes are an error.
func TestCountsAreReadAsWritten(t *testing.T) {
	for _, words := range []wordCount{{}, {"a": new(1)}, {"a": new(7), "b": new(1 << 30)}} {
		want := partCount{tally: tally{5, 1}, next: 6, words: words}
		got := partCount{words: make(wordCount)}
		require.NoError(t, got.decode(want.encode()))
		require.Equal(t, want, got)
	}
	for _, bad := range []string{"", "6", "to 6: 5 records, checksum 00000001\na 1\n"} {
		require.ErrorContains(t, new(partCount).decode([]byte(bad)), "parse", bad)
	}
}

// What was counted when the context ends is stored, and the next run goes on behind it.
func TestInterruptedCountGoesOn(t *testing.T) {
	dir := interrupted(t, writeTree(t, manyFiles()))
	db, err := riffle.Open(dir, options)
	require.NoError(t, err)
	lines, err := db.Topic("lines")
	require.NoError(t, err)
	counts, err := db.EnsureTopic(t.Context(), "counts", countsConfig)
	require.NoError(t, err)
	cr, err := newCounter(t.Context(), db, lines, counts)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		_, err := cr.until(ctx, 2901) // one more than there are
		ended <- err
	}()
	require.Eventually(t, func() bool { return cr.all() == 2900 }, time.Minute, time.Millisecond)
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)

	next, err := newCounter(t.Context(), db, lines, counts)
	require.NoError(t, err)
	require.EqualValues(t, 2900, next.all())
	require.NoError(t, db.Close())
}

// Words are ASCII identifiers and keywords before a //: each case is a line and
// what is found in it.
func TestWords(t *testing.T) {
	for line, want := range map[string]string{
		"":                         "",
		"for _, x1 := range y_z {": "for _ x1 range y_z",
		"0x1f + 1e3 + a":           "a",
		"a // b":                   "a",
		"`//` + b":                 "",
		`"\x00\n" + '\''`:          "",
		`"a\"b"`:                   "a b",
		"é1 = naïve":               "na ve",
		`ends in \`:                "ends in",
	} {
		got := make(wordCount)
		got.add([]byte(line))
		require.ElementsMatch(t, strings.Fields(want), slices.Collect(maps.Keys(got)), "%q", line)
	}
}

// Counting words that were seen before allocates nothing.
func TestCountingAllocatesNothing(t *testing.T) {
	count := make(wordCount)
	line := []byte("for i := range longerThanThirtyTwoBytesToBeSureOfIt { x[i]++ }")
	count.add(line)
	require.Zero(t, testing.AllocsPerRun(100, func() { count.add(line) }))
}

// Asking for help, and arguments that make no sense, print the usage and touch
// nothing.
func TestUsage(t *testing.T) {
	var stdout, stderr bytes.Buffer
	require.NoError(t, run(t.Context(), []string{"-h"}, &stdout, &stderr))
	require.Equal(t, usage, stderr.String())
	stderr.Reset()
	require.ErrorContains(t, run(t.Context(), []string{"-x"}, &stdout, &stderr), "-x")
	require.Equal(t, usage, stderr.String(), "the caller reports the error")
	stderr.Reset()
	require.ErrorContains(t, run(t.Context(), []string{"a", "b"}, &stdout, &stderr), "one directory")
	require.Equal(t, usage, stderr.String())
	require.Empty(t, stdout.String())
}

// A directory with files of somebody else's is refused, and nothing is made in
// it. One with what Open makes first, and was interrupted behind, is not.
func TestOtherFilesAreRefused(t *testing.T) {
	src := writeTree(t, map[string]string{"a.go": "package a\n"})
	for _, name := range []string{"README.md", ".git", "meta"} {
		dir := t.TempDir()
		require.NoError(t, os.Mkdir(filepath.Join(dir, name), 0o755))
		_, err := runOn(t.Context(), dir, src)
		require.ErrorIs(t, err, errOtherFiles)
		require.ErrorContains(t, err, name)
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Len(t, entries, 1)
	}
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, ".lock"), nil, 0o644))
	_, err := runOn(t.Context(), dir, src)
	require.NoError(t, err)
	_, err = runOn(t.Context(), filepath.Join(dir, "meta.properties"), src)
	require.ErrorContains(t, err, "look for a log")
}

// Only a directory that the program made itself is one to remove, and a path is
// printed so that a shell takes it as one word.
func TestOnlyOwnDirectoryIsToBeRemoved(t *testing.T) {
	src := writeTree(t, map[string]string{"a.go": "package a\n"})
	dir := filepath.Join(t.TempDir(), "it's a log")
	for _, temporary := range []bool{false, true} {
		var out strings.Builder
		q := quickstart{dir: dir, temporary: temporary, source: src, stdout: &out, stderr: io.Discard}
		require.NoError(t, q.run(t.Context()))
		require.Equal(t, temporary, strings.Contains(out.String(), "rm -r"))
		require.Equal(t, temporary, strings.HasSuffix(out.String(), `rm -r '`+filepath.Dir(dir)+`/it'\''s a log'`+"\n"))
	}
}

var (
	times  = regexp.MustCompile(` in [0-9.]+[nµm]?s, \d+ a second`)
	opened = regexp.MustCompile(`in [0-9.]+[nµm]?s, all there`)
	counts = regexp.MustCompile(`counted:   (\d+) records.*\n`)
)

// runOn runs the program on a directory and a source, and returns what it
// prints without what differs from run to run: times, the directory, and how many lines
// are counted before and after the log is opened again, of which it appends the sum.
func runOn(ctx context.Context, dir string, source fs.FS) (string, error) {
	var out strings.Builder
	q := quickstart{dir: dir, source: source, stdout: &out, stderr: io.Discard}
	err := q.run(ctx)
	s := times.ReplaceAllString(out.String(), "")
	s = opened.ReplaceAllString(s, "all there")
	sum := 0
	for _, m := range counts.FindAllStringSubmatch(s, -1) {
		n, _ := strconv.Atoi(m[1]) // it is digits
		sum += n
	}
	s = counts.ReplaceAllString(s, "") + fmt.Sprintf("counted:   %d records\n", sum)
	return strings.ReplaceAll(s, dir, "DIR"), err
}

// writeTree writes files, by their names, to a new directory.
func writeTree(t *testing.T, files map[string]string) fs.FS {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, filepath.FromSlash(name))
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
	return os.DirFS(root)
}

// manyFiles are 40 files of 100 lines.
func manyFiles() map[string]string {
	files := make(map[string]string)
	for i := range 40 {
		var text strings.Builder
		for j := range 100 {
			fmt.Fprintf(&text, "var x%d = y%d\n", j, i)
		}
		files[fmt.Sprintf("f%02d.go", i)] = text.String()
	}
	return files
}

// interrupted returns the directory of an import of manyFiles that is
// interrupted after 29 of them.
func interrupted(t *testing.T, src fs.FS) string {
	t.Helper()
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := runOn(ctx, dir, openHook{src, func(name string) {
		if name == "f29.go" {
			cancel()
		}
	}})
	require.ErrorIs(t, err, context.Canceled)
	return dir
}

// openHook is a file system that calls a function before it opens a file.
type openHook struct {
	fs.FS
	before func(name string)
}

func (h openHook) Open(name string) (fs.File, error) {
	h.before(name)
	return h.FS.Open(name)
}

// stored returns the records of the log in dir, as "partition key: value".
func stored(t *testing.T, dir string) (lines []string) {
	t.Helper()
	withTopic(t, dir, "lines", func(top *riffle.Topic) {
		for p := range top.Partitions() {
			for rec, err := range p.Records(t.Context(), riffle.Earliest, nil) {
				require.NoError(t, err)
				lines = append(lines, fmt.Sprintf("%d %s: %s", p.Index(), rec.Key, rec.Value))
			}
		}
	})
	return lines
}

// withTopic opens the log in dir while body runs.
func withTopic(t *testing.T, dir, name string, body func(*riffle.Topic)) {
	t.Helper()
	db, err := riffle.Open(dir, nil)
	require.NoError(t, err)
	top, err := db.Topic(name)
	require.NoError(t, err)
	body(top)
	require.NoError(t, db.Close())
}
