package riffle

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/rifflelog/riffle/internal/invariants"
	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// topicRun makes, changes and deletes topics on a file system in memory, and at each
// operation lets the power fail, or the process die. What is found then is what was
// there before the change that was under way, or after it.
type topicRun struct {
	mem    *memfs.FS
	fs     *errfs.FS
	skip   vfs.Site
	seeds  uint64
	now    topicWorld // what was acknowledged
	next   topicWorld // what the step that is under way makes of it
	found  topicWorld // which of them compare has found
	broken error
}

// topicWorld is the topics that there are, by name.
type topicWorld map[string]topicFacts

// topicFacts are what can be seen of a topic.
type topicFacts struct {
	made       int // how many topics were made before: no record of another one is seen
	partitions int
	retention  time.Duration
	records    int // in partition 0, of one value each
}

func openTopics(fsys vfs.FS) (*Log, error) {
	l, err := openTuned(fsys, crashDir, nil, tuning{
		ceilingStep: 100, boundsDelay: Forever, minTouch: 8 << 10, reserveBytes: 4096, sealAtOnce: true, snapshotEvery: 3,
	})
	if err == nil {
		l.tasks.Wait()
	}
	return l, err
}

// topicStep is a change of the log and of what is expected of it.
type topicStep struct {
	name   string
	change func(l *Log) error
	expect func(w topicWorld)
}

// The steps that there are. A topic knows by its records how many were made before.

func createStep(name string, made int) topicStep {
	return topicStep{"create " + name, func(l *Log) error {
		_, err := l.CreateTopic(ctx, name, &TopicConfig{SegmentBytes: 1024})
		return err
	}, func(w topicWorld) { w[name] = topicFacts{made: made, partitions: 1, retention: defaultRetention} }}
}

func onTopic(what, name string, change func(*Topic) error, expect func(*topicFacts)) topicStep {
	return topicStep{what + " " + name, func(l *Log) error {
		top, err := l.Topic(name)
		if err == nil {
			err = change(top)
		}
		return err
	}, func(w topicWorld) {
		f := w[name]
		expect(&f)
		w[name] = f
	}}
}

// appendStep appends a record that fills a file.
func appendStep(name string, made int) topicStep {
	return onTopic("append to", name, func(top *Topic) error {
		_, err := top.all()[0].Append(ctx, Record{Value: fmt.Appendf(nil, "of topic %d%600s", made, "")})
		return err
	}, func(f *topicFacts) { f.records++ })
}

func configStep(name string, d time.Duration) topicStep {
	return onTopic("configure", name, func(top *Topic) error {
		return top.SetConfig(ctx, func(c *TopicConfig) { c.Retention = d })
	}, func(f *topicFacts) { f.retention = d })
}

func growStep(name string, n int) topicStep {
	return onTopic("grow", name, func(top *Topic) error { return top.SetPartitions(ctx, n) }, func(f *topicFacts) { f.partitions = n })
}

func deleteStep(name string) topicStep {
	return topicStep{"delete " + name, func(l *Log) error { return l.DeleteTopic(ctx, name) }, func(w topicWorld) { delete(w, name) }}
}

// topicSteps are those of a run.
func topicSteps() []topicStep {
	var steps []topicStep
	for i, retention := range []time.Duration{time.Hour, 2 * time.Hour} {
		steps = append(
			steps, createStep("a", 2*i+1), appendStep("a", 2*i+1), appendStep("a", 2*i+1), configStep("a", retention), deleteStep("a"),
			createStep("a", 2*i+2), appendStep("a", 2*i+2), growStep("a", 2), deleteStep("a"),
		)
	}
	return append(steps, createStep("b", 5), configStep("b", time.Minute), createStep("a", 6), appendStep("a", 6))
}

// run makes all steps, on a log that is closed and opened in between.
func (c *topicRun) run() error {
	c.now, c.next = topicWorld{}, topicWorld{}
	l, err := openTopics(c.fs)
	if err != nil {
		return err
	}
	for i, step := range topicSteps() {
		if i%8 == 7 {
			if err := l.Close(); err != nil {
				return err
			}
			if l, err = openTopics(c.fs); err != nil {
				return err
			}
		}
		c.next = maps.Clone(c.now)
		step.expect(c.next)
		err := step.change(l)
		l.tasks.Wait()
		if err != nil {
			return errors.Join(fmt.Errorf("%s: %w", step.name, err), kill(l))
		}
		c.now = c.next
	}
	return l.Close()
}

// compare holds a log against what may be there.
func (c *topicRun) compare(l *Log) error {
	got := topicWorld{}
	for top := range l.Topics() {
		f := topicFacts{partitions: top.NumPartitions(), retention: top.Config().Retention}
		for r, err := range top.all()[0].Records(ctx, Earliest, nil) {
			if err != nil {
				return err
			}
			if _, err := fmt.Sscanf(string(r.Value), "of topic %d", &f.made); err != nil {
				return fmt.Errorf("%s has a record %q", top.name, r.Value)
			}
			f.records++
		}
		got[top.name] = f
	}
	same := func(w topicWorld) bool {
		return maps.EqualFunc(got, w, func(g, f topicFacts) bool {
			if g.records == 0 {
				f.made = 0
			}
			return g == f
		})
	}
	switch {
	case same(c.now):
		c.found = c.now
	case same(c.next):
		c.found = c.next
	default:
		return fmt.Errorf("found %v, want %v or %v", got, c.now, c.next)
	}
	return nil
}

// verify is check, with the power failing during recovery too.
func (c *topicRun) verify(disk *memfs.FS, seed uint64) error {
	l, err := crashWhileOpening(disk, c.skip, seed*5, openTopics, func(disk *memfs.FS) error { return c.check(disk, seed) })
	for more := range c.seeds { // what was to be removed is half removed
		if err == nil {
			err = c.check(disk.CrashClone(seed+more), seed)
		}
	}
	if err == nil {
		err = c.compare(l)
	}
	if err != nil {
		return err
	}
	return c.goesOn(l, disk, seed)
}

// goesOn appends to the topic whose name was free at times, and to all later ones
// after another crash.
func (c *topicRun) goesOn(l *Log, disk *memfs.FS, seed uint64) error {
	top, err := l.EnsureTopic(ctx, "a", nil)
	if err != nil {
		return err
	}
	p := top.all()[0]
	before := p.Bounds().End
	if _, err := p.Append(ctx, Record{Value: []byte("one more")}); err != nil {
		return fmt.Errorf("append afterwards: %w", err)
	}
	fsys := errfs.New(disk.CrashClone(seed))
	fsys.Skip(c.skip)
	if l, err = openTopics(fsys); err != nil {
		return err
	}
	if p = partitionOf(l, "a"); p == nil || p.Bounds().End != before+1 {
		return errors.New("the topic that was made afterwards is lost")
	}
	if _, err := p.Append(ctx, Record{}); err != nil {
		return fmt.Errorf("append after the second crash: %w", err)
	}
	return l.Close()
}

// check opens what a crash left, compares, and lets the log go on.
func (c *topicRun) check(disk *memfs.FS, seed uint64) error {
	fsys := errfs.New(disk)
	fsys.Skip(c.skip)
	l, err := openTopics(fsys)
	if err == nil {
		err = c.compare(l)
	}
	if err == nil {
		err = c.goesOn(l, disk, seed)
	}
	return err
}

// crashTopics lets the power fail before one operation of every, see sampled.
func crashTopics(skip vfs.Site, seeds uint64, every, from int64) (sites []vfs.Site, broken error) {
	mem := memfs.New()
	c := &topicRun{mem: mem, fs: errfs.New(mem), skip: skip, seeds: seeds}
	c.fs.Skip(skip)
	var mu sync.Mutex
	c.fs.OnOp(func(op errfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		for seed := range c.seeds {
			if c.broken != nil || op.N%every != from%every || !changes(op) {
				break
			}
			if err := c.verify(c.mem.CrashClone(seed), seed); err != nil {
				c.broken = fmt.Errorf("crash before %v, seed %d: %w", op, seed, err)
			}
		}
		return nil
	})
	err := c.run()
	if c.broken == nil {
		c.broken = err
	}
	return c.fs.Sites(), c.broken
}

// dieInTopics lets the process die at one operation of every, and the power fail later.
func dieInTopics(skip vfs.Site, every, from int64) error {
	for n := 1 + from%every; ; n += every {
		mem := memfs.New()
		c := &topicRun{mem: mem, fs: errfs.New(mem), skip: skip}
		c.fs.Skip(skip)
		c.fs.OnOp(func(op errfs.Op) error {
			if op.N >= n {
				return errDead
			}
			return nil
		})
		err := c.run()
		if c.fs.Ops() < n {
			return err
		}
		if err := c.verify(mem, uint64(n)); err != nil {
			return fmt.Errorf("killed at operation %d: %w", n, err)
		}
	}
}

// topicSites are the places that making, changing and deleting topics rests on.
var topicSites = []vfs.Site{
	siteDeleteDir, siteSortDir, siteSnapshot + ".flush", siteSnapshot + ".syncdir", siteRecoveryID, siteFlush,
}

// TestNoCrashBreaksATopic crashes and kills at each operation of creating,
// configuring, growing and deleting topics, and of making snapshots of that.
func TestNoCrashBreaksATopic(t *testing.T) {
	t.Parallel()
	seeds := uint64(4)
	if invariants.Enabled {
		seeds = 1
	}
	every, from := sampled(t, 1)
	sites, broken := crashTopics("", seeds, every, from)
	require.NoError(t, broken)
	require.NoError(t, dieInTopics("", every, from))
	for _, site := range []vfs.Site{siteDeleteDir, siteSnapshot + ".flush", siteSnapshot + ".syncdir"} {
		require.True(t, slices.Contains(sites, site), site)
	}
}

// TestEveryTopicSiteIsNeeded leaves out one after the other.
func TestEveryTopicSiteIsNeeded(t *testing.T) {
	t.Parallel()
	if invariants.Enabled {
		return // as TestEverySiteIsNeeded
	}
	for _, site := range topicSites {
		t.Run(string(site), func(t *testing.T) {
			t.Parallel()
			_, broken := crashTopics(site, 2, 1, 0)
			if broken == nil {
				broken = dieInTopics(site, 1, 0)
			}
			if broken == nil {
				_, broken = crashTopics(site, 5, 1, 0)
			}
			require.Error(t, broken, "nothing breaks without %s", site)
			t.Log(broken)
		})
	}
}

// TestTopicMachine holds random lives of topics against what may be there: steps in
// any order, a kill or a power cut at any operation, restarts. A crash decides what the
// step that was under way has done; from then on that stays.
func TestTopicMachine(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		mem := memfs.New()
		c := &topicRun{now: topicWorld{}}
		made := 0
		for range rapid.IntRange(1, 4).Draw(t, "processes") {
			process := &process{disk: mem, fs: errfs.New(mem)}
			process.fs.OnOp(process.onOp)
			l, err := openTopics(process.fs)
			require.NoError(t, err)
			c.next = c.now
			require.NoError(t, c.compare(l))
			c.now = c.found
			process.dieSoon(drawTopicDeath(t))
			for range rapid.IntRange(0, 12).Draw(t, "steps") {
				step := drawTopicStep(t, c.now, &made)
				c.next = maps.Clone(c.now)
				step.expect(c.next)
				err = step.change(l)
				l.tasks.Wait()
				if err != nil {
					break
				}
				c.now = c.next
			}
			if err == nil && !process.dead.Load() {
				err = l.Close()
			}
			if !process.dead.Load() {
				require.NoError(t, err)
				continue
			}
			_ = kill(l)
			if mem = process.disk; process.clone != nil {
				mem = process.clone
			}
			l, err = openTopics(mem)
			require.NoError(t, err)
			require.NoError(t, c.compare(l))
			c.now = c.found
			require.NoError(t, l.Close())
		}
	})
}

// drawTopicDeath draws the end of a process: nil if it is closed.
func drawTopicDeath(t *rapid.T) *death {
	if !rapid.Bool().Draw(t, "dies") {
		return nil
	}
	return &death{
		at: rapid.Int64Range(1, 200).Draw(t, "at"), cut: rapid.Bool().Draw(t, "power cut"), seed: rapid.Uint64().Draw(t, "seed"),
	}
}

func drawTopicStep(t *rapid.T, w topicWorld, made *int) topicStep {
	name := rapid.SampledFrom([]string{"a", "b", "c.d"}).Draw(t, "name")
	f, there := w[name]
	if !there {
		*made++
		return createStep(name, *made)
	}
	switch rapid.IntRange(0, 4).Draw(t, "step") {
	case 0:
		return deleteStep(name)
	case 1:
		return growStep(name, f.partitions+rapid.IntRange(0, 2).Draw(t, "more"))
	case 2:
		return configStep(name, time.Duration(rapid.IntRange(1, 9).Draw(t, "hours"))*time.Hour)
	}
	return appendStep(name, f.made)
}
