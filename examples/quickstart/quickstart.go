package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rifflelog/riffle"
)

// The configurations of the two topics.
var (
	// FlushAsync is fast: a record waits for no disk. A crash of the program loses
	// nothing that was acknowledged, a power cut at most the last second, which the
	// next run sends again. The longest line, with the time zones, is larger than
	// the default.
	linesConfig = &riffle.TopicConfig{Partitions: 4, Flush: riffle.FlushAsync, MaxMessageBytes: 16 << 20}
	// A record of this one says that all lines are there. It is worth a flush.
	importsConfig = &riffle.TopicConfig{Flush: riffle.FlushBeforeAck}
)

// quickstart is one run of the program.
type quickstart struct {
	dir       string // of the log
	temporary bool   // nothing else is in dir, or is meant to stay there
	source    fs.FS  // whose .go files are imported
	stdout    io.Writer
	stderr    io.Writer // hears of progress
}

// run fills the log and counts, closes it, opens it again and compares.
func (q *quickstart) run(ctx context.Context) error {
	if err := refuseOthers(q.dir); err != nil {
		return err
	}
	before, err := q.fillAndCount(ctx)
	if err != nil {
		return err
	}
	if err := q.openAgain(ctx, before); err != nil {
		return err
	}
	size, err := sizeOf(q.dir)
	if err != nil {
		return fmt.Errorf("measure the log: %w", err)
	}
	fmt.Fprintf(q.stdout, "on disk:   %d MB\n", size/1e6)
	if q.temporary {
		fmt.Fprintf(q.stdout, "when you have looked: rm -r %s\n", quoted(q.dir))
	}
	return nil
}

// errOtherFiles: a log has its directory for itself.
var errOtherFiles = errors.New("there are other files and no log; name an empty or a new directory")

// refuseOthers returns an error if dir holds files, but no log.
func refuseOthers(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // Open makes it
	}
	if err != nil {
		return fmt.Errorf("look for a log: %w", err)
	}
	var other string
	for _, e := range entries {
		switch {
		case e.Name() == "meta.properties": // every log has it
			return nil
		case e.Name() == ".lock", strings.HasPrefix(e.Name(), "meta.properties"):
			// Open makes them first, and may have been interrupted.
		default:
			other = e.Name()
		}
	}
	if other != "" {
		return fmt.Errorf("look for a log in %s: found %q: %w", dir, other, errOtherFiles)
	}
	return nil
}

// fillAndCount brings all lines of the source into the log, unless they are
// there, reads them back and prints the ten most frequent identifiers.
func (q *quickstart) fillAndCount(ctx context.Context) (got tally, err error) {
	db, err := riffle.Open(q.dir, nil)
	if err != nil {
		return tally{}, err
	}
	// Closing flushes what is still unflushed, so its error counts.
	defer func() { err = errors.Join(err, db.Close()) }()

	lines, err := db.EnsureTopic(ctx, "lines", linesConfig)
	if err != nil {
		return tally{}, err
	}
	notes, err := db.EnsureTopic(ctx, "imports", importsConfig)
	if err != nil {
		return tally{}, err
	}
	imports, err := notes.Partition(0)
	if err != nil {
		return tally{}, err
	}

	want, err := lastImport(ctx, imports)
	if err != nil {
		return tally{}, err
	}
	// It may be complete and yet lack lines, which a power cut took.
	complete := want.records > 0 && recordsOf(lines) >= want.records
	if !complete {
		if want, err = q.fill(ctx, db, lines); err != nil {
			return tally{}, err
		}
	}
	if got, err = q.count(ctx, lines); err != nil {
		return tally{}, err
	}
	if got != want {
		return tally{}, fmt.Errorf("compare: read %v, want %v", got, want)
	}
	if !complete {
		err = completeImport(ctx, imports, want)
	}
	return got, err
}

// fill sends the lines of the source that are not stored yet, and returns the
// tally of all of them.
func (q *quickstart) fill(ctx context.Context, db *riffle.Log, lines *riffle.Topic) (tally, error) {
	stored, err := tallyOf(ctx, lines)
	if err != nil {
		return tally{}, err
	}
	if all := together(stored); all.records > 0 {
		fmt.Fprintf(q.stdout, "stored:    %v, goes on behind them\n", all)
	}
	producer, err := db.NewProducer(nil)
	if err != nil {
		return tally{}, err
	}
	im := newImporter(lines, stored, q.stderr)
	if err := im.compare(ctx, q.source); err != nil {
		return tally{}, fmt.Errorf("compare with source: %w", err)
	}
	if err := im.send(ctx, producer, q.source); err != nil {
		return tally{}, fmt.Errorf("import source: %w", err)
	}
	fmt.Fprintf(q.stdout, "sent:      %s\n", im.speed())
	return together(im.seen), producer.Close()
}

// count reads all lines, prints the ten most frequent identifiers, and returns
// the tally of what it has read.
func (q *quickstart) count(ctx context.Context, lines *riffle.Topic) (tally, error) {
	start := time.Now()
	words, tallies, err := countWords(ctx, lines)
	if err != nil {
		return tally{}, err
	}
	got := together(tallies)
	fmt.Fprintf(q.stdout, "read:      %s\n", speed(got.records, time.Since(start)))
	for _, id := range words.top(10) {
		fmt.Fprintf(q.stdout, "%9d  %s\n", id.count, id.name)
	}
	return got, nil
}

// openAgain opens the log a second time, as the next start of a program would,
// and checks that the same records are in it.
func (q *quickstart) openAgain(ctx context.Context, before tally) (err error) {
	start := time.Now()
	db, err := riffle.Open(q.dir, nil)
	if err != nil {
		return err
	}
	opened := time.Since(start)
	defer func() { err = errors.Join(err, db.Close()) }()

	lines, err := db.EnsureTopic(ctx, "lines", linesConfig)
	if err != nil {
		return err
	}
	parts, err := tallyOf(ctx, lines)
	if err != nil {
		return err
	}
	after := together(parts)
	if after != before {
		return fmt.Errorf("compare after opening again: read %v, want %v", after, before)
	}
	fmt.Fprintf(q.stdout, "reopened:  in %v, all there: %v\n", opened.Round(time.Millisecond), after)
	return nil
}

// recordsOf returns how many records a topic has of which none was deleted.
func recordsOf(topic *riffle.Topic) (n int64) {
	for part := range topic.Partitions() {
		n += int64(part.Bounds().HighWatermark)
	}
	return n
}

// sizeOf returns how many bytes the files in dir have, without the space that
// is set aside for a full disk.
func sizeOf(dir string) (size int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "reserve" {
			return err
		}
		info, err := d.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	})
	return size, err
}

// speed describes how fast n records went.
func speed(n int64, took time.Duration) string {
	return fmt.Sprintf("%d records in %v, %.0f a second", n, took.Round(time.Millisecond), float64(n)/took.Seconds())
}
