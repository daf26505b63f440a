// Bench runs Riffle beside the raw operations that limit it and beside other logs and
// stores, on the same work in turns, and writes the comparison as Markdown.
//
//	go run . [-quick] [-dir D] [-only regexp] [-out file.md]
package main

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"runtime"
	"strings"
	"time"
)

func main() {
	isQuick := flag.Bool("quick", false, "take less than two minutes: fewer, shorter turns")
	dir := flag.String("dir", "", "directory on the disk to measure (default: the one for temporary files)")
	only := flag.String("only", "", "do only the rows whose key this regular expression matches")
	out := flag.String("out", "", "file to write the Markdown to (default: standard output)")
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*isQuick, *dir, *only, *out); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run measures and writes the report. What a contender fails at is in the report, and an
// error once it is written.
func run(isQuick bool, dir, only, out string) (err error) {
	match, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	s := whole
	if isQuick {
		s = quick
	}
	if dir, err = os.MkdirTemp(dir, "riffle-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b := newBench(s, dir)
	r := report{command: command(), machine: machine(), scale: s, contenders: contenders()}
	var failed error
	for _, row := range rows(s) {
		if !match.MatchString(row.key) {
			continue
		}
		began := time.Now()
		res, err := b.measure(row, r.contenders)
		failed = errors.Join(failed, err)
		for name, err := range res.failed {
			failed = errors.Join(failed, fmt.Errorf("%s: %s: %w", row.key, name, err))
		}
		r.results = append(r.results, res)
		fmt.Fprintf(os.Stderr, "%-12s %s\n", row.key, time.Since(began).Round(100*time.Millisecond))
	}
	if len(r.results) == 0 {
		return fmt.Errorf("no row matches %q", only)
	}
	if out == "" {
		_, err = os.Stdout.WriteString(r.markdown())
	} else {
		err = os.WriteFile(out, []byte(r.markdown()), 0o600)
	}
	return errors.Join(err, failed)
}

// fewestRounds is how many a row has at least: fewer have no middle.
const fewestRounds = 3

// measure gives each contender its turns at a row: one of each in every round, so that a
// slow moment of the machine hits all. Their order changes, as what one leaves behind in
// the disk's queue is the next one's to wait for.
func (b *bench) measure(row row, contenders []*contender) (result, error) {
	res := result{row: row, figures: map[string]figures{}, failed: map[string]error{}}
	out := map[string]bool{}
	scale, often := b.scale, max(1, row.often)
	b.scale.turn /= time.Duration(often)
	defer func() { b.scale = scale }()
	began, order := time.Now(), rand.New(rand.NewPCG(1, 1))
	for n := range scale.rounds * often {
		if n >= fewestRounds && time.Since(began) >= scale.row {
			break
		}
		for _, i := range order.Perm(len(contenders)) {
			c := contenders[i]
			if out[c.name] {
				continue
			}
			s, err := row.turn(b, c)
			if err != nil {
				out[c.name] = true
				delete(res.figures, c.name)
				if !errors.Is(err, errCannot) {
					res.failed[c.name] = err
				}
				continue
			}
			f := res.figures[c.name]
			f.add(s)
			res.figures[c.name] = f
		}
	}
	return res, b.closeKept()
}

// command is the command line, as it is typed in this directory.
func command() string {
	return strings.Join(append([]string{"go", "run", "."}, os.Args[1:]...), " ")
}

// machine says where it ran.
func machine() string {
	return fmt.Sprintf("%s on %s/%s, %d processors", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
}
