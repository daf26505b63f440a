package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"path"
	"time"

	"github.com/rifflelog/riffle"
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

// completeImport stores that all lines are stored. It is never found without
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

// together returns the tally of all partitions, from one of each.
func together(parts []tally) (all tally) {
	for _, t := range parts {
		all.records += t.records
		all.sum = crc32.Update(all.sum, castagnoli, binary.BigEndian.AppendUint32(nil, t.sum))
	}
	return all
}

// importer sends the lines of a source tree to a topic. Their key is the name of
// their file, so the lines of one are in one partition, in order.
//
// The tree is walked in the order of its names, and a producer keeps the order
// within a partition: so the n-th line that belongs to a partition is its record
// at offset n. Where an import was interrupted, the next one skips as many lines
// of each partition as it has records: none is lost, none is there twice.
type importer struct {
	lines  *riffle.Topic
	stored []tally // of each partition, what was there before
	seen   []tally // of the source so far

	start    time.Time
	progress io.Writer
	reported time.Time
}

func newImporter(lines *riffle.Topic, stored []tally, progress io.Writer) *importer {
	now := time.Now()
	return &importer{
		lines: lines, stored: stored, seen: make([]tally, len(stored)),
		start: now, progress: progress, reported: now,
	}
}

// compare returns errOtherLines if what is stored is not the beginning of
// source. So nothing of another source is sent to any partition.
func (im *importer) compare(ctx context.Context, source fs.FS) error {
	seen := make([]tally, len(im.stored))
	behind := 0 // partitions of which not all that is stored was seen
	for _, t := range im.stored {
		if t.records > 0 {
			behind++
		}
	}
	if behind == 0 {
		return nil
	}
	err := im.walk(ctx, source, func(part int, key, value []byte) error {
		got, want := &seen[part], im.stored[part]
		if got.records == want.records {
			return nil
		}
		got.add(key, value)
		if got.records < want.records {
			return nil
		}
		if *got != want {
			return errOtherLines
		}
		if behind--; behind == 0 {
			return fs.SkipAll
		}
		return nil
	})
	if err == nil && behind > 0 {
		return errOtherLines
	}
	return err
}

// send sends the lines that are not stored yet, and returns when all are
// acknowledged.
//
// Enqueue waits where the producer's buffer is full. One line that fails ends
// the import: lines that were on their way behind it may be stored without it,
// and then the next run finds other lines.
func (im *importer) send(ctx context.Context, p *riffle.Producer, source fs.FS) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	done := func(_ riffle.RecordMetadata, err error) {
		if err != nil {
			fail(err)
		}
	}
	name := im.lines.Name()
	err := im.walk(ctx, source, func(part int, key, value []byte) error {
		seen := &im.seen[part]
		seen.add(key, value)
		if seen.records <= im.stored[part].records {
			return nil
		}
		return p.Enqueue(ctx, riffle.Record{Topic: name, Key: key, Value: value}, done)
	})
	if err == nil {
		err = p.Flush(ctx)
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if err == nil && together(im.seen).records == 0 {
		return errNoLines
	}
	return err
}

// walk calls line for each line of every regular .go file in source, with the
// partition that it belongs to and the name of its file.
func (im *importer) walk(ctx context.Context, source fs.FS, line func(part int, key, value []byte) error) error {
	return fs.WalkDir(source, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || path.Ext(name) != ".go" {
			return err
		}
		text, err := fs.ReadFile(source, name)
		if err != nil {
			return err
		}
		key := []byte(name)
		part := im.lines.PartitionFor(key).Index() // the producer's choice too
		for value := range bytes.Lines(text) {
			if err := line(part, key, bytes.TrimSuffix(value, separator)); err != nil {
				return err
			}
		}
		im.report()
		return ctx.Err()
	})
}

// report says once a second how far the import is.
func (im *importer) report() {
	if now := time.Now(); now.Sub(im.reported) >= time.Second {
		im.reported = now
		fmt.Fprintf(im.progress, "           %s\n", im.speed())
	}
}

// speed describes the import so far.
func (im *importer) speed() string {
	sent := together(im.seen).records - together(im.stored).records
	return speed(max(0, sent), time.Since(im.start))
}
