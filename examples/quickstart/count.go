package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"go/token"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/rifflelog/riffle"
)

// groupName is the group of the consumers that count.
const groupName = "counters"

// counter counts the words of all lines, by a group of consumers, one for each
// partition. What is counted of a partition is stored in the topic "counts", in
// the partition of that number, together with where it goes on: both are one
// record, so neither is ever there without the other, and a line is counted once,
// however the program ends.
type counter struct {
	db            *riffle.Log
	lines, counts *riffle.Topic
	done          []atomic.Int64 // of each partition, how many lines are counted
}

func newCounter(ctx context.Context, db *riffle.Log, lines, counts *riffle.Topic) (*counter, error) {
	cr := &counter{db: db, lines: lines, counts: counts, done: make([]atomic.Int64, lines.NumPartitions())}
	for i := range cr.done {
		last, err := cr.last(ctx, i)
		if err != nil {
			return nil, err
		}
		cr.done[i].Store(last.records)
	}
	return cr, nil
}

// all is how many lines are counted.
func (cr *counter) all() (n int64) {
	for i := range cr.done {
		n += cr.done[i].Load()
	}
	return n
}

// until counts until at least that many lines are counted in all, for which it waits,
// and returns how many it has counted.
func (cr *counter) until(ctx context.Context, enough int64) (n int64, err error) {
	before := cr.all()
	if before >= enough {
		return 0, nil
	}
	counting, stop := context.WithCancel(ctx)
	defer stop()
	errs := make([]error, len(cr.done))
	var members sync.WaitGroup
	for i := range errs {
		members.Go(func() {
			defer stop() // who fails ends it for all
			errs[i] = cr.member(counting, enough)
		})
	}
	members.Wait()
	return cr.all() - before, cmp.Or(errors.Join(errs...), ctx.Err())
}

// member counts the lines of the partitions that are its share, until ctx ends or
// enough are counted by all members.
func (cr *counter) member(ctx context.Context, enough int64) (err error) {
	m := &member{counter: cr, counts: make([]*partCount, len(cr.done))}
	c, err := cr.db.NewConsumer(&riffle.ConsumerOptions{
		Group: groupName, Topics: []string{cr.lines.Name()},
		Assigned: m.load, Revoked: m.save, Lost: m.drop,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }() // which calls save
	for {
		lines, err := c.Poll(ctx)
		if ctx.Err() != nil {
			return nil // lines that have come all the same come again
		}
		if err != nil {
			return err
		}
		for i := range lines {
			m.counts[lines[i].Partition].count(&lines[i])
		}
		for i, count := range m.counts {
			if count != nil {
				cr.done[i].Store(count.records)
			}
		}
		if cr.all() >= enough {
			return nil
		}
	}
}

// member is what one consumer of the group has counted.
type member struct {
	*counter
	counts []*partCount // by partition; nil of those that it does not have
}

// load takes over partitions where their last member has left them. The group's own
// offsets would not do: they may be of a moment before or after that.
func (m *member) load(ctx context.Context, c *riffle.Consumer, parts []riffle.TopicPartition) error {
	for _, tp := range parts {
		last, err := m.last(ctx, tp.Partition)
		if err != nil {
			return err
		}
		if err := c.Seek(tp, last.next); err != nil {
			return err
		}
		m.counts[tp.Partition] = last
		m.done[tp.Partition].Store(last.records)
	}
	return nil
}

// save stores what is counted of partitions that another member is to have, or that
// are left alone by closing the consumer. What was counted is worth more than the
// moment that it takes, also if ctx has ended.
func (m *member) save(ctx context.Context, c *riffle.Consumer, parts []riffle.TopicPartition) error {
	for _, tp := range parts {
		count := m.counts[tp.Partition]
		if count == nil || count.next == count.stored {
			continue
		}
		to, err := m.counter.counts.Partition(tp.Partition)
		if err != nil {
			return err
		}
		if _, err := to.Append(context.WithoutCancel(ctx), riffle.Record{Value: count.encode()}); err != nil {
			return fmt.Errorf("store counts: %w", err)
		}
	}
	return m.drop(ctx, c, parts)
}

// drop forgets what is counted of partitions that others have already: they go on
// from what is stored.
func (m *member) drop(_ context.Context, _ *riffle.Consumer, parts []riffle.TopicPartition) error {
	for _, tp := range parts {
		m.counts[tp.Partition] = nil
	}
	return nil
}

// partCount is what is counted of one partition.
type partCount struct {
	tally
	next   riffle.Offset // of the lines before it
	stored riffle.Offset // next, as far as it is stored
	words  wordCount
}

func (pc *partCount) count(line *riffle.Record) {
	pc.add(line.Key, line.Value)
	pc.next = line.Offset + 1
	pc.words.add(line.Value)
}

// countFormat is the first line of a record of "counts". The others have a number and
// a word each.
const countFormat = "to %d: " + tallyFormat

func (pc *partCount) encode() []byte {
	text := fmt.Appendf(nil, countFormat, pc.next, pc.records, pc.sum)
	for word, n := range pc.words {
		text = strconv.AppendInt(append(text, '\n'), int64(*n), 10)
		text = append(append(text, ' '), word...)
	}
	return text
}

func (pc *partCount) decode(text []byte) error {
	head, rest, _ := bytes.Cut(text, separator)
	if _, err := fmt.Sscanf(string(head), countFormat, &pc.next, &pc.records, &pc.sum); err != nil {
		return fmt.Errorf("parse %q: %w", head, err)
	}
	for line := range bytes.Lines(rest) {
		number, word, _ := bytes.Cut(bytes.TrimSuffix(line, separator), []byte(" "))
		n, err := strconv.Atoi(string(number))
		if err != nil {
			return fmt.Errorf("parse %q: %w", line, err)
		}
		pc.words[string(word)] = &n
	}
	return nil
}

// last returns what was stored last of a partition: its last record, if there is one.
func (cr *counter) last(ctx context.Context, i int) (*partCount, error) {
	count := &partCount{words: make(wordCount)}
	part, err := cr.counts.Partition(i)
	if err != nil {
		return nil, err
	}
	b := part.Bounds()
	for v, err := range part.Views(ctx, max(b.Start, b.HighWatermark-1), nil) {
		if err == nil {
			err = count.decode(v.Value())
		}
		if err != nil {
			return nil, fmt.Errorf("load counts: %w", err)
		}
	}
	count.stored = count.next
	return count, nil
}

// result returns the counts of all partitions, and the tally of what was counted.
func (cr *counter) result(ctx context.Context) (wordCount, tally, error) {
	words := make(wordCount)
	tallies := make([]tally, len(cr.done))
	for i := range tallies {
		last, err := cr.last(ctx, i)
		if err != nil {
			return nil, tally{}, err
		}
		tallies[i] = last.tally
		words.merge(last.words)
	}
	return words, together(tallies), nil
}

// tallyOf reads all records of a topic without a consumer, each partition on a
// goroutine of its own. Views lends each record until the loop asks for the next:
// nothing is allocated for it.
func tallyOf(ctx context.Context, topic *riffle.Topic) ([]tally, error) {
	tallies := make([]tally, topic.NumPartitions())
	errs := make([]error, len(tallies))
	var wg sync.WaitGroup
	for part := range topic.Partitions() {
		wg.Go(func() {
			i := part.Index()
			for view, err := range part.Views(ctx, riffle.Earliest, nil) {
				if err != nil {
					errs[i] = err
					return
				}
				tallies[i].add(view.Key(), view.Value())
			}
		})
	}
	wg.Wait()
	return tallies, errors.Join(errs...)
}

// wordCount is how often each word was seen. The counts are behind pointers so
// that only a new word allocates: a map is read with a []byte for free, but
// assigning to it would make a string of the word each time.
type wordCount map[string]*int

// merge adds the counts of other, which is not used again.
func (w wordCount) merge(other wordCount) {
	for word, n := range other {
		if count := w[word]; count != nil {
			*count += *n
		} else {
			w[word] = n
		}
	}
}

// add counts the words of a line, up to a // in it. This is no parser: words in
// strings and in /* comments */ count too.
func (w wordCount) add(line []byte) {
	code, _, _ := bytes.Cut(line, []byte("//"))
	for word, rest := nextWord(code); word != nil; word, rest = nextWord(rest) {
		if count := w[string(word)]; count != nil {
			*count++
		} else {
			w[string(word)] = new(1)
		}
	}
}

// nextWord returns the first identifier or keyword in code, of ASCII letters,
// and what follows it: nil if there is none.
func nextWord(code []byte) (word, rest []byte) {
	for i := 0; i < len(code); {
		start := i
		for i < len(code) && inWord[code[i]] {
			i++
		}
		switch {
		case start < i && (code[start] < '0' || '9' < code[start]):
			return code[start:i], code[i:]
		case start < i: // a number
		case code[i] == '\\':
			i += 2 // the x00 of \x00 is no identifier
		default:
			i++
		}
	}
	return nil, nil
}

// inWord says of each byte whether it may be part of an identifier.
var inWord = func() (in [256]bool) {
	for _, c := range []byte("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") {
		in[c] = true
	}
	return in
}()

// identifier is a word that is no keyword, and how often it was seen.
type identifier struct {
	name  string
	count int
}

// top returns the n most frequent identifiers, those of equal count by name.
func (w wordCount) top(n int) []identifier {
	var ids []identifier
	for name, count := range w {
		if !token.IsKeyword(name) {
			ids = append(ids, identifier{name, *count})
		}
	}
	slices.SortFunc(ids, func(a, b identifier) int {
		return cmp.Or(cmp.Compare(b.count, a.count), cmp.Compare(a.name, b.name))
	})
	return ids[:min(n, len(ids))]
}
