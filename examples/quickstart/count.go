package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"go/token"
	"slices"
	"sync"

	"github.com/rifflelog/riffle"
)

// readAll reads all records of a topic, each partition on a goroutine of its
// own, and returns a tally of each. Views lends each record until each returns:
// nothing is allocated for it.
func readAll(ctx context.Context, topic *riffle.Topic, each func(part int, value []byte)) ([]tally, error) {
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
				each(i, view.Value())
			}
		})
	}
	wg.Wait()
	return tallies, errors.Join(errs...)
}

// tallyOf reads all records of a topic.
func tallyOf(ctx context.Context, topic *riffle.Topic) ([]tally, error) {
	return readAll(ctx, topic, func(int, []byte) {})
}

// countWords counts the words of all lines, and returns their tally.
func countWords(ctx context.Context, lines *riffle.Topic) (wordCount, []tally, error) {
	counts := make([]wordCount, lines.NumPartitions())
	for i := range counts {
		counts[i] = make(wordCount)
	}
	tallies, err := readAll(ctx, lines, func(part int, value []byte) { counts[part].add(value) })
	for _, other := range counts[1:] {
		counts[0].merge(other)
	}
	return counts[0], tallies, err
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
