package riffle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rifflelog/riffle/internal/invariants"
	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
	"github.com/stretchr/testify/require"
)

// offsetsRun commits offsets of a group in a FlushAsync topic that comes and goes, on a file
// system in memory, and at each operation lets the power fail, or the process die, or that
// operation fail. What is found then is what was acknowledged last, or what was tried since.
type offsetsRun struct {
	mem    *memfs.FS
	fs     *errfs.FS
	skip   vfs.Site
	begun  bool           // there is a topic with records: what comes before is other tests'
	now    offsetsState   // what was acknowledged
	may    []offsetsState // what was tried since
	broken error
}

// offsetsState is what can be seen of the topic and the group.
type offsetsState struct {
	made int    // which topic of its name, from 1; 0 if there is none
	at   Offset // what the group has committed; NoOffset if nothing
}

var crashPlace = TopicPartition{"t", 0}

// offsetsStep is a change, and what it may make of a state: the last one is what it makes of it
// if it succeeds.
type offsetsStep struct {
	name   string
	change func(l *Log) error
	makes  []offsetsState
}

// offsetsSteps let two topics of one name live, and groups commit in each.
func offsetsSteps() []offsetsStep {
	var steps []offsetsStep
	for made := 1; made <= 2; made++ {
		steps = append(
			steps,
			offsetsStep{fmt.Sprint("create ", made), func(l *Log) error {
				_, err := l.CreateTopic(ctx, "t", &TopicConfig{Flush: FlushAsync, FlushInterval: Forever})
				return err
			}, []offsetsState{{made, NoOffset}}},
			offsetsStep{"append", func(l *Log) error { return appendMade(l, made, 4) }, nil},
			offsetsStep{"commit 2", func(l *Log) error { return commitAt(l, 2) }, []offsetsState{{made, 2}}},
			offsetsStep{"read", readAsMember, []offsetsState{{made, 3}, {made, 4}}},
			offsetsStep{"append more", func(l *Log) error { return appendMade(l, made, 3) }, nil},
			offsetsStep{"commit 6", func(l *Log) error { return commitAt(l, 6) }, []offsetsState{{made, 6}}},
			offsetsStep{"rewind", func(l *Log) error {
				return l.Group("g").Reset(ctx, map[TopicPartition]Offset{crashPlace: 1})
			}, []offsetsState{{made, 1}}},
			offsetsStep{"commit 7", func(l *Log) error { return commitAt(l, 7) }, []offsetsState{{made, 7}}},
		)
		if made == 1 {
			steps = append(steps, offsetsStep{
				"delete", func(l *Log) error { return l.DeleteTopic(ctx, "t") }, []offsetsState{{0, 7}, {0, NoOffset}},
			})
		}
	}
	return steps
}

// appendMade appends records that say of which topic they are.
func appendMade(l *Log, made, n int) error {
	p, err := l.partition(crashPlace)
	for range n {
		if err == nil {
			_, err = p.Append(ctx, Record{Value: fmt.Appendf(nil, "of topic %d%900s", made, "")})
		}
	}
	return err
}

func commitAt(l *Log, at Offset) error {
	p, err := l.partition(crashPlace)
	if err != nil {
		return err
	}
	return l.Group("g").reset(ctx, map[*Partition]Offset{p: at})
}

// readAsMember joins the group, reads what there is, and commits it.
func readAsMember(l *Log) error {
	short, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	c, err := l.NewConsumer(&ConsumerOptions{Group: "g", Topics: []string{"t"}, MaxPollRecords: 1})
	if err != nil {
		return err
	}
	for range 2 {
		if _, err = c.Poll(short); err != nil {
			return errors.Join(err, c.Close())
		}
	}
	return errors.Join(c.Commit(short), c.Close())
}

func (r *offsetsRun) run() error {
	r.now = offsetsState{0, NoOffset}
	l, err := openTopics(r.fs)
	if err != nil {
		return err
	}
	for i, step := range offsetsSteps() {
		if i%6 == 5 {
			if err := l.Close(); err != nil {
				return err
			}
			if l, err = openTopics(r.fs); err != nil {
				return err
			}
		}
		r.may, r.begun = step.makes, i > 1
		err := step.change(l)
		l.tasks.Wait()
		if err != nil {
			return errors.Join(fmt.Errorf("%s: %w", step.name, err), kill(l))
		}
		if n := len(step.makes); n > 0 {
			r.now = step.makes[n-1]
		}
		r.may = nil
	}
	return l.Close()
}

// compare holds a log against what may be there.
func (r *offsetsRun) compare(l *Log) (found offsetsState, err error) {
	found = offsetsState{at: NoOffset}
	var end Offset
	if p, err := l.partition(crashPlace); err == nil {
		found.made = -1 // one without a record
		for rec, err := range p.Records(ctx, Earliest, nil) {
			if err != nil {
				return found, err
			}
			if _, err := fmt.Sscanf(string(rec.Value), "of topic %d", &found.made); err != nil {
				return found, fmt.Errorf("a record %q", rec.Value)
			}
			end = rec.Offset + 1 // the log end may be behind a gap
		}
	}
	at, err := l.committed(ctx, "g", nil)
	if err != nil {
		return found, err
	}
	if pos, ok := at[crashPlace]; ok {
		if found.at = pos.Offset; found.at > end && found.made != 0 {
			return found, fmt.Errorf("offset %d is committed, the last record is before %d", found.at, end)
		}
	}
	fits := func(s offsetsState) bool {
		return s.at == found.at && (s.made == found.made || s.made > 0 && found.made < 0)
	}
	if !slices.ContainsFunc(append([]offsetsState{r.now}, r.may...), fits) {
		return found, fmt.Errorf("found %v, want %v or one of %v", found, r.now, r.may)
	}
	return found, nil
}

// verify opens what a crash left, with the power failing during that too, compares, and lets the log go on.
func (r *offsetsRun) verify(disk *memfs.FS, seed uint64) error {
	l, err := crashWhileOpening(disk, r.skip, seed, openTopics, func(disk *memfs.FS) error {
		l, err := openTopics(disk)
		if err == nil {
			_, err = r.compare(l)
			err = errors.Join(err, kill(l))
		}
		return err
	})
	if err != nil {
		return err
	}
	found, err := r.compare(l)
	if err != nil {
		return err
	}
	if _, err := l.EnsureTopic(ctx, "t", &TopicConfig{Flush: FlushAsync, FlushInterval: Forever}); err != nil {
		return err
	}
	if found.made == 0 {
		at, err := l.committed(ctx, "g", nil)
		if err != nil || len(at) > 0 {
			return fmt.Errorf("a topic that is new inherits %v: %w", at, err)
		}
	}
	if err := errors.Join(appendMade(l, max(found.made, 9), 1), commitAt(l, 1)); err != nil {
		return fmt.Errorf("afterwards: %w", err)
	}
	clone := disk.CrashClone(seed)
	if err := kill(l); err != nil {
		return err
	}
	if l, err = openTopics(clone); err != nil {
		return err
	}
	at, err := l.committed(ctx, "g", nil)
	if err != nil || at[crashPlace].Offset != 1 || partitionOf(l, "t").Bounds().End < 1 {
		return fmt.Errorf("after another crash %v is committed, of %v: %w", at, partitionOf(l, "t").Bounds(), err)
	}
	return l.Close()
}

// crashOffsets lets the power fail before each operation.
func crashOffsets(skip vfs.Site, seeds uint64) (sites []vfs.Site, broken error) {
	mem := memfs.New()
	r := &offsetsRun{mem: mem, fs: errfs.New(mem), skip: skip}
	r.fs.Skip(skip)
	var mu sync.Mutex
	r.fs.OnOp(func(op errfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		for seed := range seeds {
			if r.broken != nil || !r.begun || !changes(op) {
				break
			}
			if err := r.verify(r.mem.CrashClone(seed), seed); err != nil {
				r.broken = fmt.Errorf("crash before %v, seed %d: %w", op, seed, err)
			}
		}
		return nil
	})
	if err := r.run(); r.broken == nil {
		r.broken = err
	}
	return r.fs.Sites(), r.broken
}

// TestNoCrashBreaksACommit lets the power fail before each operation of committing, joining,
// deleting the topic and making it again.
func TestNoCrashBreaksACommit(t *testing.T) {
	seeds := uint64(2)
	if invariants.Enabled {
		seeds = 1
	}
	sites, broken := crashOffsets("", seeds)
	require.NoError(t, broken)
	for _, site := range []vfs.Site{siteCommitFlush, siteForgetDeleted} {
		require.Contains(t, sites, site)
	}
}

// TestNoErrorBreaksACommit lets one operation after another fail, or the process die there: what
// was acknowledged is there in the next process.
func TestNoErrorBreaksACommit(t *testing.T) {
	whole := errfs.New(memfs.New())
	r := &offsetsRun{fs: whole}
	first := int64(0) // operation behind what other tests are about
	whole.OnOp(func(op errfs.Op) error {
		if first == 0 && r.begun {
			first = op.N
		}
		return nil
	})
	require.NoError(t, r.run())
	for dies, step := range map[bool]int64{false: 2, true: 9} {
		if invariants.Enabled {
			step *= 7
		}
		for n := first; ; n += step {
			mem := memfs.New()
			r := &offsetsRun{mem: mem, fs: errfs.New(mem)}
			r.fs.OnOp(func(op errfs.Op) error {
				if op.N == n || dies && op.N > n {
					return errDead
				}
				return nil
			})
			_ = r.run()
			if r.fs.Ops() < n {
				break
			}
			require.NoError(t, r.verify(mem, uint64(n)), "operation %d fails, dies %v", n, dies)
		}
	}
}

// TestEveryCommitSiteIsNeeded leaves out one after the other.
func TestEveryCommitSiteIsNeeded(t *testing.T) {
	if invariants.Enabled {
		return // as TestEverySiteIsNeeded
	}
	for _, site := range []vfs.Site{siteCommitFlush, siteForgetDeleted, siteForgetMade} {
		t.Run(string(site), func(t *testing.T) {
			_, broken := crashOffsets(site, 2)
			require.Error(t, broken, "nothing breaks without %s", site)
			t.Log(broken)
		})
	}
}
