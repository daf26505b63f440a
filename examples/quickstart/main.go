// Quickstart fills a log with the source of your Go installation, one record a
// line, through a producer and into four partitions. A group of four consumers
// counts the identifiers in it. Half-way it breaks off: the log is closed and
// opened again, every record is still there, and the group goes on where it was,
// so that each line is counted once:
//
//	go run ./examples/quickstart
//
// The file quickstart.go is the story, import.go sends, count.go reads.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
)

const usage = `Usage: go run ./examples/quickstart [directory]

Sends every line of every .go file under GOROOT/src to a log in the directory, or
in a new temporary one, and counts the identifiers in them; half-way it closes the
log and goes on with a new one. A directory that was filled before is only read, and
counts are kept; where filling or counting was interrupted, it goes on. One that holds
other files is refused.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

// run is the program without its process.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("quickstart", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // the caller reports the error
	err := flags.Parse(args)
	if err == nil && flags.NArg() > 1 {
		err = fmt.Errorf("want one directory, got %q", flags.Args())
	}
	if err != nil {
		fmt.Fprint(stderr, usage)
	}
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	src, err := goSource(ctx)
	if err != nil {
		return fmt.Errorf("find Go's source: %w", err)
	}
	dir, temporary := flags.Arg(0), false
	if dir == "" {
		temporary = true
		if dir, err = os.MkdirTemp("", "riffle-quickstart-"); err != nil {
			return fmt.Errorf("make a directory for the log: %w", err)
		}
	}
	fmt.Fprintf(stdout, "source:    %s\nlog:       %s\n", src, dir)
	q := quickstart{dir: dir, temporary: temporary, source: os.DirFS(src), stdout: stdout, stderr: stderr}
	err = q.run(ctx)
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("interrupted; go run ./examples/quickstart %s goes on: %w", quoted(dir), err)
	}
	return err
}

// quoted returns s as a word of a shell's command line.
func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// goSource returns the directory with the source of the Go installation.
func goSource(ctx context.Context) (string, error) {
	// Without a go command, the variable may still say it.
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	root := cmp.Or(strings.TrimSpace(string(out)), os.Getenv("GOROOT"))
	if root == "" {
		return "", cmp.Or(err, errors.New("GOROOT is empty"))
	}
	return filepath.EvalSymlinks(filepath.Join(root, "src"))
}
