package riffle

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// tail follows a partition of a read-only log, and keeps what it sees.
type tail struct {
	p    *Partition
	mu   sync.Mutex
	keys map[Offset]string
	last Offset
}

// follow reads until ctx ends. Offsets only grow.
func (tl *tail) follow(ctx context.Context) error {
	for v, err := range tl.p.FollowViews(ctx, Earliest, nil) {
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%v: %w", tl.p.name(), err)
		}
		tl.mu.Lock()
		if len(tl.keys) > 0 && v.Offset() <= tl.last {
			return fmt.Errorf("%v: offset %d after %d", tl.p.name(), v.Offset(), tl.last)
		}
		tl.keys[v.Offset()], tl.last = string(v.Key()), v.Offset()
		tl.mu.Unlock()
	}
	return nil
}

func (tl *tail) seen() Offset {
	tl.mu.Lock()
	defer tl.mu.Unlock()
	return tl.last
}

// compare says at which offset first it has seen anything but what is there.
func (tl *tail) compare(there map[Offset]string) error {
	first := Offset(math.MaxInt64)
	for _, keys := range []map[Offset]string{there, tl.keys} {
		for at := range keys {
			if there[at] != tl.keys[at] {
				first = min(first, at)
			}
		}
	}
	if first == math.MaxInt64 {
		return nil
	}
	return fmt.Errorf("%v: offset %d: %q was seen, %q is there", tl.p.name(), first, tl.keys[first], there[first])
}

// TestReaderOutlivesKilledWriters follows all partitions of a log while its
// writers, processes of their own, are killed one after the other, often while they
// open the log. What the reader has seen then is, record for record, what is there:
// each one that was acknowledged, once, in order, and none that was not committed.
func TestReaderOutlivesKilledWriters(t *testing.T) {
	seed := *killSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-killseed=%d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	dir, g := filepath.Join(t.TempDir(), "data"), newLedger()
	ctx, stop := context.WithCancel(ctx)
	var following sync.WaitGroup
	var reader *Log
	var tails []*tail
	errs := make(chan error, 100)
	for run := range *kills {
		most := 30 * time.Millisecond
		if run > 0 && r.IntN(3) == 0 {
			most = 2 * time.Millisecond // it opens the log, recovering it
		}
		delay := time.Duration(r.Int64N(int64(most)))
		topics := map[string]bool{} // the first child makes them
		runChild(t, dir, run, g, func(line string, kill func()) {
			topics[strings.Fields(line)[0]] = line != "up"
			if line == "up" && run > 0 || topics["sure"] && topics["async"] {
				time.AfterFunc(delay, kill)
			}
		})
		if run > 0 {
			continue
		}
		var err error
		reader, err = Open(dir, &Options{ReadOnly: true})
		require.NoError(t, err)
		for name := range killTopics {
			top, err := reader.Topic(name)
			require.NoError(t, err)
			for p := range top.Partitions() {
				tl := &tail{p: p, keys: map[Offset]string{}, last: NoOffset}
				tails = append(tails, tl)
				following.Go(func() { errs <- tl.follow(ctx) })
			}
		}
	}
	l, err := Open(dir, toTheBrim)
	require.NoError(t, err)
	require.NoError(t, g.compare(l))
	for _, tl := range tails {
		last := NoOffset // there may be a gap behind it
		for at := range g.known[tl.p.name()] {
			last = max(last, at)
		}
		for tl.seen() < last {
			select {
			case err := <-errs:
				require.NoError(t, err)
			case <-time.After(time.Millisecond):
			}
		}
	}
	stop()
	following.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	for _, tl := range tails {
		require.NoError(t, tl.compare(g.known[tl.p.name()]))
	}
	require.NoError(t, l.Close())
	require.NoError(t, reader.Close())
}
