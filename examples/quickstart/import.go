package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"path"
	"time"

	"github.com/rifflelog/riffle"
)

// A batch is large enough to make Append cheap per record, and far below the
// topic's MaxMessageBytes. A line longer than batchBytes goes alone.
const (
	batchRecords = 1000
	batchBytes   = 256 << 10 // of keys and values
)

var (
	errNoLines = errors.New("no line of Go in it")
	// errOtherLines: what is stored did not come from this source.
	errOtherLines = errors.New("the log holds other lines; remove it, or name another directory")
)

// tally is the number and checksum of a sequence of records. Two that are equal
// are of the same records, as far as a checksum can tell.
type tally struct {
	records int64
	sum     uint32
}

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	separator  = []byte{'\n'} // is in no line
)

func (t *tally) add(key, value []byte) {
	t.records++
	t.sum = crc32.Update(t.sum, castagnoli, key)
	t.sum = crc32.Update(t.sum, castagnoli, separator)
	t.sum = crc32.Update(t.sum, castagnoli, value)
	t.sum = crc32.Update(t.sum, castagnoli, separator)
}

// tallyFormat is how a tally is printed, and stored in the topic "imports".
const tallyFormat = "%d records, checksum %08x"

// String implements fmt.Stringer.
func (t tally) String() string { return fmt.Sprintf(tallyFormat, t.records, t.sum) }

// completeImport stores that all lines are appended. It is never found without
// them, except after a power cut, which may take lines and leave it: whoever
// reads it compares.
func completeImport(ctx context.Context, imports *riffle.Partition, all tally) error {
	_, err := imports.Append(ctx, riffle.Record{Key: []byte("lines"), Value: []byte(all.String())})
	return err
}

// lastImport returns what completeImport stored last, the zero tally if nothing
// was.
func lastImport(ctx context.Context, imports *riffle.Partition) (last tally, err error) {
	for rec, err := range imports.Records(ctx, riffle.Earliest, nil) {
		if err != nil {
			return tally{}, err
		}
		if _, err := fmt.Sscanf(string(rec.Value), tallyFormat, &last.records, &last.sum); err != nil {
			return tally{}, fmt.Errorf("parse import %q: %w", rec.Value, err)
		}
	}
	return last, nil
}

// importer appends the lines of a source tree to a partition, in batches.
//
// The tree is walked in the order of its names, so the n-th line is always the
// record at offset n. Where an import was interrupted, the next one skips as
// many lines as there are records: none is lost, none is there twice.
type importer struct {
	lines  *riffle.Partition
	stored tally // what was there before
	seen   tally // of the source so far
	batch  []riffle.Record
	bytes  int // of keys and values in batch

	start    time.Time
	progress io.Writer
	reported time.Time
}

func newImporter(lines *riffle.Partition, stored tally, progress io.Writer) *importer {
	now := time.Now()
	return &importer{lines: lines, stored: stored, start: now, progress: progress, reported: now}
}

// tree appends the lines of every regular .go file in source.
func (im *importer) tree(ctx context.Context, source fs.FS) error {
	err := fs.WalkDir(source, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || path.Ext(name) != ".go" {
			return err
		}
		text, err := fs.ReadFile(source, name)
		if err != nil {
			return err
		}
		return im.file(ctx, name, text)
	})
	if err != nil {
		return err
	}
	if im.seen.records == 0 {
		return errNoLines
	}
	if im.seen.records <= im.stored.records && im.seen != im.stored {
		return errOtherLines
	}
	return im.flush(ctx)
}

// file appends the lines of one file, with its name as their key.
func (im *importer) file(ctx context.Context, name string, text []byte) error {
	key := []byte(name)
	for line := range bytes.Lines(text) {
		if err := im.line(ctx, key, bytes.TrimSuffix(line, separator)); err != nil {
			return err
		}
	}
	return nil
}

// line adds a line to the batch, unless it is stored.
func (im *importer) line(ctx context.Context, key, value []byte) error {
	if im.seen.records == im.stored.records && im.seen != im.stored {
		return errOtherLines // before anything is appended to them
	}
	im.seen.add(key, value)
	if im.seen.records <= im.stored.records {
		return nil
	}
	if len(im.batch) == batchRecords || im.bytes+len(key)+len(value) > batchBytes {
		if err := im.flush(ctx); err != nil {
			return err
		}
	}
	im.batch = append(im.batch, riffle.Record{Key: key, Value: value})
	im.bytes += len(key) + len(value)
	return nil
}

// flush appends the batch: all of it or nothing.
func (im *importer) flush(ctx context.Context) error {
	if len(im.batch) == 0 {
		return nil
	}
	if _, err := im.lines.Append(ctx, im.batch...); err != nil {
		return err
	}
	im.batch, im.bytes = im.batch[:0], 0 // Append keeps nothing of what it got
	if now := time.Now(); now.Sub(im.reported) >= time.Second {
		im.reported = now
		fmt.Fprintf(im.progress, "           %s\n", im.speed())
	}
	return nil
}

// speed describes the import so far.
func (im *importer) speed() string {
	return speed(im.seen.records-im.stored.records, time.Since(im.start))
}
