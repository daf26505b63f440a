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

// The four consumers of a group come at once. Without a delay the first one would get all
// partitions, and give up three.
var options = &riffle.Options{GroupInitialDelay: 10 * time.Millisecond}

// The configurations of the three topics.
var (
	// FlushAsync is fast: a record waits for no disk. A crash of the program loses
	// nothing that was acknowledged, a power cut at most the last second, which the
	// next run sends again. The longest line, with the time zones, is larger than
	// the default.
	linesConfig = &riffle.TopicConfig{
		Partitions: 4, Flush: riffle.FlushAsync, Retention: riffle.Forever, MaxMessageBytes: 16 << 20,
	}
	// A record of this one says that all lines are there. It is worth a flush.
	importsConfig = &riffle.TopicConfig{Flush: riffle.FlushBeforeAck, Retention: riffle.Forever}
	// A record of this one has all that was counted of a partition.
	countsConfig = &riffle.TopicConfig{
		Partitions: 4, Flush: riffle.FlushBeforeAck, Retention: riffle.Forever, MaxMessageBytes: 16 << 20,
	}
)

// quickstart is one run of the program.
type quickstart struct {
	dir       string // of the log
	temporary bool   // nothing else is in dir, or is meant to stay there
	source    fs.FS  // whose .go files are imported
	stdout    io.Writer
	stderr    io.Writer // hears of progress
}

// run fills the log, counts half of what is there, closes the log, opens it again
// and counts the rest.
func (q *quickstart) run(ctx context.Context) error {
	if err := refuseOthers(q.dir); err != nil {
		return err
	}
	var want tally
	err := q.open(ctx, func(s *store) (err error) {
		if want, err = q.fill(ctx, s); err != nil {
			return err
		}
		return q.countHalf(ctx, s, want.records)
	})
	if err != nil {
		return err
	}
	err = q.open(ctx, func(s *store) error {
		if err := q.compare(ctx, s, want); err != nil {
			return err
		}
		return q.countRest(ctx, s, want)
	})
	if err != nil {
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

// store is the open log.
type store struct {
	db      *riffle.Log
	lines   *riffle.Topic
	counts  *riffle.Topic
	imports *riffle.Partition
	opening time.Duration // what it took
}

// open opens the log while body runs.
func (q *quickstart) open(ctx context.Context, body func(*store) error) (err error) {
	start := time.Now()
	db, err := riffle.Open(q.dir, options)
	if err != nil {
		return err
	}
	s := &store{db: db, opening: time.Since(start)}
	// Closing flushes what is still unflushed, so its error counts.
	defer func() { err = errors.Join(err, db.Close()) }()
	if s.lines, err = db.EnsureTopic(ctx, "lines", linesConfig); err != nil {
		return err
	}
	if s.counts, err = db.EnsureTopic(ctx, "counts", countsConfig); err != nil {
		return err
	}
	notes, err := db.EnsureTopic(ctx, "imports", importsConfig)
	if err != nil {
		return err
	}
	if s.imports, err = notes.Partition(0); err != nil {
		return err
	}
	return body(s)
}

// fill brings all lines of the source into the log, unless they are there, and
// returns the tally of all of them.
func (q *quickstart) fill(ctx context.Context, s *store) (tally, error) {
	want, err := lastImport(ctx, s.imports)
	if err != nil {
		return tally{}, err
	}
	// It may be complete and yet lack lines, which a power cut took.
	if want.records > 0 && recordsOf(s.lines) >= want.records {
		return want, nil
	}
	stored, err := tallyOf(ctx, s.lines)
	if err != nil {
		return tally{}, err
	}
	if all := together(stored); all.records > 0 {
		fmt.Fprintf(q.stdout, "stored:    %v, goes on behind them\n", all)
	}
	producer, err := s.db.NewProducer(nil)
	if err != nil {
		return tally{}, err
	}
	im := newImporter(s.lines, stored, q.stderr)
	if err := im.compare(ctx, q.source); err != nil {
		return tally{}, fmt.Errorf("compare with source: %w", err)
	}
	if err := im.send(ctx, producer, q.source); err != nil {
		return tally{}, fmt.Errorf("import source: %w", err)
	}
	fmt.Fprintf(q.stdout, "sent:      %s\n", im.speed())
	if err := producer.Close(); err != nil {
		return tally{}, err
	}
	// What is counted must be there when the count goes on, also after a power cut.
	return together(im.seen), s.lines.Sync(ctx)
}

// countHalf counts the words of half of all lines, unless that was done before.
func (q *quickstart) countHalf(ctx context.Context, s *store, all int64) error {
	_, err := q.count(ctx, s, all/2, "; breaks off half-way")
	return err
}

// count counts the words of the lines by a group of consumers, until that many are
// counted.
func (q *quickstart) count(ctx context.Context, s *store, until int64, note string) (*counter, error) {
	cr, err := newCounter(ctx, s.db, s.lines, s.counts)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	n, err := cr.until(ctx, until)
	if err != nil {
		return nil, fmt.Errorf("count: %w", err)
	}
	if n > 0 {
		fmt.Fprintf(q.stdout, "counted:   %s%s\n", speed(n, time.Since(start)), note)
	}
	return cr, nil
}

// compare checks that the log, which was opened a second time as by the next start of
// a program, has the lines that it should.
func (q *quickstart) compare(ctx context.Context, s *store, want tally) error {
	parts, err := tallyOf(ctx, s.lines)
	if err != nil {
		return err
	}
	if got := together(parts); got != want {
		return fmt.Errorf("compare after opening again: read %v, want %v", got, want)
	}
	fmt.Fprintf(q.stdout, "reopened:  in %v, all there: %v\n", s.opening.Round(time.Millisecond), want)
	last, err := lastImport(ctx, s.imports)
	if err == nil && last != want {
		err = completeImport(ctx, s.imports, want)
	}
	return err
}

// countRest goes on with counting, and prints the ten most frequent identifiers if each
// line was counted once, in the order of its partition.
func (q *quickstart) countRest(ctx context.Context, s *store, want tally) error {
	cr, err := q.count(ctx, s, want.records, "; went on behind them")
	if err != nil {
		return err
	}
	words, counted, err := cr.result(ctx)
	if err != nil {
		return err
	}
	if counted != want {
		return fmt.Errorf("compare: counted %v, want %v", counted, want)
	}
	for _, id := range words.top(10) {
		fmt.Fprintf(q.stdout, "%9d  %s\n", id.count, id.name)
	}
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
