package riffle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rifflelog/riffle/internal/vfs/memfs"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// groupLife is a random life of a group, drawn before it is lived, in a bubble of synctest.
type groupLife struct {
	flush    FlushPolicy
	assignor int
	parts    int
	steps    []groupStep
}

type groupStep struct {
	what string
	who  int // which member, among those that there are
	n    int
}

func (s groupStep) String() string { return fmt.Sprintf("%s(%d, %d)", s.what, s.who, s.n) }

var (
	// cleanSteps neither lose nor repeat anything.
	cleanSteps = []string{"poll", "poll", "poll", "poll", "send", "send", "join", "commit", "close", "round", "sleep", "restart"}
	// roughSteps may repeat.
	roughSteps = []string{"abandon", "stall", "kill", "power cut", "subscribe"}
)

func drawGroupLife(t *rapid.T) groupLife {
	life := groupLife{
		flush:    rapid.SampledFrom([]FlushPolicy{FlushAsync, FlushBeforeAck}).Draw(t, "flush"),
		assignor: rapid.IntRange(0, 4).Draw(t, "assignor"),
		parts:    rapid.IntRange(1, 5).Draw(t, "partitions"),
	}
	kinds := cleanSteps
	if rapid.Bool().Draw(t, "rough") {
		kinds = slices.Concat(cleanSteps, roughSteps)
	}
	for range rapid.IntRange(1, 40).Draw(t, "steps") {
		life.steps = append(life.steps, groupStep{
			rapid.SampledFrom(kinds).Draw(t, "what"), rapid.IntRange(0, 3).Draw(t, "who"), rapid.IntRange(0, 9).Draw(t, "n"),
		})
	}
	return life
}

// groupMachine lives a life and holds it against what is promised.
type groupMachine struct {
	mem       *memfs.FS
	life      groupLife
	l         *Log
	members   []*Consumer
	sent      int
	handed    map[string]int         // by value: how often
	last      map[*Consumer][]Record // what the last poll of each has handed out
	passed    map[[2]int]bool        // by partition and offset: also what a commit has covered
	committed []Offset               // what was seen to be committed last, by partition
	rough     bool
}

// TestGroupMachine: over any schedule of joins, polls, commits, closes, restarts, stalls, kills and
// power cuts, every record that is there in the end was handed out, nothing is committed that was
// not passed, and what is committed goes back never; without the rough ones nothing comes twice.
func TestGroupMachine(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		life := drawGroupLife(rt)
		var err error
		synctest.Test(t, func(*testing.T) { err = liveGroup(life) })
		require.NoError(rt, err)
	})
}

func liveGroup(life groupLife) error {
	m := &groupMachine{
		mem: memfs.New(), life: life, handed: map[string]int{}, last: map[*Consumer][]Record{}, passed: map[[2]int]bool{}, committed: make([]Offset, life.parts),
	}
	err := m.open()
	if err == nil {
		_, err = m.l.CreateTopic(ctx, "topic", &TopicConfig{Partitions: life.parts, Flush: life.flush})
	}
	for i, step := range life.steps {
		if err == nil {
			err = errors.Join(m.do(step), m.check())
		}
		if err != nil {
			return fmt.Errorf("step %d, %v: %w", i, step, err)
		}
	}
	return m.end()
}

func (m *groupMachine) open() (err error) {
	m.l, err = open(m.mem, "/data", nil)
	return err
}

func (m *groupMachine) do(step groupStep) error {
	var c *Consumer
	if len(m.members) > 0 {
		c = m.members[step.who%len(m.members)]
	}
	switch step.what {
	case "send":
		return m.send(step.n)
	case "round":
		return m.round(m.members)
	case "sleep":
		letPass(time.Duration(step.n) * time.Second)
		return m.round(m.members)
	case "restart":
		return m.restart()
	case "kill", "power cut":
		return m.crash(step)
	case "stall": // all of them, or all but one that goes on
		m.rough = true
		for range 20 {
			letPass(30 * time.Second)
			if c != nil && step.n%2 == 0 {
				if err := m.poll(c); err != nil {
					return err
				}
			}
		}
	}
	switch {
	case step.what == "join" && len(m.members) < 4:
		return m.join(step)
	case c == nil:
	case step.what == "poll":
		return m.poll(c)
	case step.what == "commit":
		m.pass(c)
		return m.beside(c, func() error { return tolerate(c.Commit(ctx), m.rough, ErrUnknownMember, ErrRebalance) })
	case step.what == "close":
		return m.close(c, true)
	case step.what == "abandon":
		m.rough = true
		return m.close(c, false)
	case step.what == "subscribe": // to nothing, and again
		m.rough = true
		if err := c.Subscribe(); err != nil {
			return err
		}
		if step.n%2 == 0 {
			if err := m.poll(c); !errors.Is(err, ErrInvalidState) {
				return fmt.Errorf("poll without a subscription: %w", err)
			}
		}
		return c.Subscribe("topic")
	}
	return nil
}

// tolerate drops the errors that rough lives have.
func tolerate(err error, rough bool, targets ...error) error {
	for _, target := range targets {
		if rough && errors.Is(err, target) {
			return nil
		}
	}
	return err
}

func (m *groupMachine) join(step groupStep) error {
	all := []Assignor{CooperativeStickyAssignor(), StickyAssignor(), RangeAssignor(), RoundRobinAssignor()}
	list := all[:1]
	if m.life.assignor < 4 {
		list = all[m.life.assignor : m.life.assignor+1]
	} else if step.n%2 == 0 {
		list = []Assignor{all[0], all[2]}
	}
	c, err := m.l.NewConsumer(&ConsumerOptions{Group: "group", Topics: []string{"topic"}, Assignors: list, MaxPollRecords: 3})
	if err == nil {
		m.members = append(m.members, c)
	}
	return err
}

// poll polls once, for a millisecond.
func (m *groupMachine) poll(c *Consumer) error {
	short, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	m.pass(c)
	recs, err := c.Poll(short)
	m.last[c] = recs
	for _, r := range recs {
		m.handed[string(r.Value)]++
		if n := m.handed[string(r.Value)]; n > 1 && !m.rough {
			return fmt.Errorf("%s comes %d times", r.Value, n)
		}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

// pass takes note that what was handed out may be committed.
func (m *groupMachine) pass(c *Consumer) {
	for _, r := range m.last[c] {
		m.passed[[2]int{r.Partition, int(r.Offset)}] = true
	}
}

func (m *groupMachine) round(members []*Consumer) error {
	for range 6 {
		for _, c := range members {
			if err := m.poll(c); err != nil {
				return err
			}
		}
	}
	return nil
}

// beside calls f, which may wait for other members, while these poll.
func (m *groupMachine) beside(c *Consumer, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	others := slices.DeleteFunc(slices.Clone(m.members), func(o *Consumer) bool { return o == c })
	for {
		synctest.Wait()
		select {
		case err := <-done:
			return err
		default:
		}
		if err := m.round(others); err != nil {
			return err
		}
		if len(others) == 0 {
			return <-done
		}
	}
}

// close closes a member; cleanly, if it commits first what it was handed.
func (m *groupMachine) close(c *Consumer, commits bool) error {
	err := m.beside(c, func() error {
		var err error
		if commits {
			m.pass(c)
			err = c.Commit(ctx)
		}
		return errors.Join(err, c.Close())
	})
	m.members = slices.DeleteFunc(m.members, func(o *Consumer) bool { return o == c })
	return tolerate(err, m.rough, ErrUnknownMember, ErrRebalance)
}

func (m *groupMachine) send(n int) error {
	top, err := m.l.Topic("topic")
	for range n {
		if err == nil {
			m.sent++
			_, err = top.all()[m.sent%m.life.parts].Append(ctx, Record{Value: fmt.Append(nil, m.sent)})
		}
	}
	return err
}

// restart closes and opens the log; with Close each member leaves, having committed.
func (m *groupMachine) restart() error {
	for len(m.members) > 0 {
		if err := m.close(m.members[0], true); err != nil {
			return err
		}
	}
	return errors.Join(m.l.Close(), m.open())
}

func (m *groupMachine) crash(step groupStep) error {
	m.rough = true
	disk := m.mem
	if step.what == "power cut" {
		disk = m.mem.CrashClone(uint64(step.n))
	}
	if err := kill(m.l); err != nil {
		return err
	}
	m.l.stopGroups()
	m.mem, m.members = disk, nil
	return m.open()
}

// check looks at what is committed.
func (m *groupMachine) check() error {
	at, err := m.l.committed(ctx, "group", nil)
	if err != nil {
		return err
	}
	for tp, pos := range at {
		if pos.Offset < m.committed[tp.Partition] {
			return fmt.Errorf("what is committed for %v goes back from %d to %d", tp, m.committed[tp.Partition], pos.Offset)
		}
		m.committed[tp.Partition] = pos.Offset
		p, err := m.l.partition(tp)
		if err != nil {
			return err
		}
		for r, err := range p.Records(ctx, Earliest, nil) {
			if err != nil {
				return err
			}
			if r.Offset < pos.Offset && !m.passed[[2]int{tp.Partition, int(r.Offset)}] {
				return fmt.Errorf("%d is committed for %v, %d was not passed", pos.Offset, tp, r.Offset)
			}
		}
	}
	return nil
}

// end lets the group, or a new one of its members, read the rest, and sees that nothing is missing.
func (m *groupMachine) end() error {
	if len(m.members) == 0 {
		if err := m.join(groupStep{}); err != nil {
			return err
		}
	}
	for range 20 + m.sent/3 {
		if err := m.round(m.members); err != nil {
			return err
		}
	}
	var missing []string
	top, err := m.l.Topic("topic")
	if err != nil {
		return err
	}
	for p := range top.Partitions() {
		for r, err := range p.Records(ctx, Earliest, nil) {
			if err != nil {
				return err
			}
			if m.handed[string(r.Value)] == 0 {
				missing = append(missing, string(r.Value))
			}
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("not handed out: %s", strings.Join(missing, ", "))
	}
	return errors.Join(m.restart(), m.check(), m.l.Close())
}
