package riffle

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
)

// ledger is what is known of logs whose records are all appended by appendRun,
// one run a partition at a time: which key stands at which offset, because its
// append was acknowledged or because it was read. It is safe for concurrent use.
type ledger struct {
	mu    sync.Mutex
	known map[TopicPartition]map[Offset]string
}

func newLedger() *ledger { return &ledger{known: map[TopicPartition]map[Offset]string{}} }

// ack notes that key was acknowledged at offset at.
func (g *ledger) ack(tp TopicPartition, at Offset, key string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.known[tp] == nil {
		g.known[tp] = map[Offset]string{}
	}
	g.known[tp][at] = key
}

// compare reads all partitions and holds them against what is known: all of that
// is there, at its offset. Each run left its records in order, none twice and none
// missing between others, and of those that nobody knew at most the last one: the
// append that was under way when the run ended. What is read is known from then on.
func (g *ledger) compare(l *Log) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for top := range l.Topics() {
		for p := range top.Partitions() {
			found, err := compareRuns(p, g.known[p.name()])
			if err != nil {
				return fmt.Errorf("%v: %w", p.name(), err)
			}
			g.known[p.name()] = found
		}
	}
	for tp, known := range g.known {
		if _, err := l.Topic(tp.Topic); err != nil && len(known) > 0 {
			return err
		}
	}
	return nil
}

func compareRuns(p *Partition, known map[Offset]string) (found map[Offset]string, err error) {
	found = map[Offset]string{}
	run, n, doubtful := -1, 0, false
	for v, err := range p.Views(ctx, Earliest, nil) {
		if err != nil {
			return nil, err
		}
		var r, i int
		if _, err := fmt.Sscanf(string(v.Key()), "%d.%d", &r, &i); err != nil {
			return nil, fmt.Errorf("offset %d: key %q: %w", v.Offset(), v.Key(), err)
		}
		goesOn := r == run && i == n+1 && !doubtful
		if !goesOn && (r <= run || i != 0) {
			return nil, fmt.Errorf("offset %d: %d.%d follows %d.%d, acknowledged: %t", v.Offset(), r, i, run, n, !doubtful)
		}
		run, n = r, i
		found[v.Offset()] = string(v.Key())
		doubtful = known[v.Offset()] == ""
	}
	for at, key := range known {
		if found[at] != key {
			return nil, fmt.Errorf("offset %d: %q is there, want %q", at, found[at], key)
		}
	}
	return found, nil
}

// sizes are those of the values of a run's records.
type sizes func(n int) int

// mixedSizes are mostly small; one in 50 is of 100 KiB.
func mixedSizes(n int) int {
	if n%50 == 11 {
		return 100 << 10
	}
	return []int{0, 10, 300, 3000}[n%4]
}

// appendRun appends records to p, with the keys "<run>.0", "<run>.1" and so on,
// until told returns false. It tells of each append that was acknowledged, and of
// each that found the disk full, after which it tries again with half of the
// value. Any other error ends it.
func appendRun(p *Partition, run int, size sizes, told func(at Offset, key string, full bool) bool) error {
	value := make([]byte, 100<<10)
	rng := rand.NewChaCha8([32]byte{byte(run)})
	_, _ = rng.Read(value) // no codec makes less of it
	half := 0
	for n := 0; ; {
		key := fmt.Sprintf("%d.%d", run, n)
		at, err := p.Append(ctx, Record{Key: []byte(key), Value: value[:size(n)>>half]})
		full := errors.Is(err, ErrDiskFull)
		switch {
		case err == nil:
			n, half = n+1, 0
		case full:
			half++
		default:
			return err
		}
		if !told(at, key, full) {
			return nil
		}
	}
}
