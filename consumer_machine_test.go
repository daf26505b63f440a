package riffle

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// TestConsumerAgreesWithAModel draws lives of one consumer, alone or as the only member of its
// group, over a few partitions that grow, lose their beginning, are deleted and made again,
// and over clean stops and power cuts. After each step its positions, what it has handed out
// and what its group has committed are the model's: nothing is lost, nothing comes twice that
// need not, and no partition waits for longer than one turn of each other one.
func TestConsumerAgreesWithAModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var failed any
		synctest.Test(t, func(*testing.T) {
			m := &consumerMachine{t: rt, fs: memfs.New(), parts: map[TopicPartition]*modelPart{}, committed: map[TopicPartition]Offset{}, dropped: map[TopicPartition]*modelSource{}}
			defer func() { // rapid's own panics too are for outside of the bubble
				failed = recover()
				if m.c != nil {
					_ = m.c.Close()
				}
				_ = m.l.Close()
			}()
			m.live()
		})
		if fmt.Sprintf("%T", failed) == "rapid.invalidData" {
			panic(failed) // rapid tells by the line that this is no failure like the other
		}
		if failed != nil {
			panic(failed)
		}
	})
}

// modelPart is what a partition holds.
type modelPart struct {
	recs       []Record
	start, end Offset
}

// from returns the records from offset o on.
func (p *modelPart) from(o Offset) []Record { return p.since(o, p.start) }

func (p *modelPart) since(o, start Offset) []Record {
	i := slices.IndexFunc(p.recs, func(r Record) bool { return r.Offset >= max(o, start) })
	if i < 0 {
		return nil
	}
	return p.recs[i:]
}

// modelSource is what a consumer knows of a partition.
type modelSource struct {
	part         *modelPart // nil: it has not seen one
	seek         seekTo     // of use while next is NoOffset
	next, passed Offset
	handed       []Record // since the last poll
	done         map[Offset]bool
	undone       []Offset // handed out, not done before
	doneTo       Offset
	paused       bool
	failed       bool // it waits for a Seek
	failing      bool // and its error is still to be told
	waited       map[TopicPartition]int
}

func (s *modelSource) startAt(to seekTo) {
	s.seek, s.next, s.passed, s.handed = to, NoOffset, NoOffset, nil
	s.done, s.undone, s.doneTo = map[Offset]bool{}, nil, NoOffset
	s.failed, s.failing = false, false
}

func (s *modelSource) found(o Offset) { s.next, s.passed = o, o }

type consumerMachine struct {
	t         *rapid.T
	fs        *memfs.FS
	l         *Log
	c         *Consumer
	opts      ConsumerOptions
	parts     map[TopicPartition]*modelPart
	sources   map[TopicPartition]*modelSource
	committed map[TopicPartition]Offset
	dropped   map[TopicPartition]*modelSource // from sources, by the last poll
	topics    []string                        // subscribed to
	byHand    bool
	appended  int
	wakeup    bool
	panics    bool // the hook
	seen      []Record
}

func (m *consumerMachine) live() {
	m.open()
	for _, name := range []string{"a", "b"} {
		m.create(name)
	}
	m.begin()
	steps := map[string]func(){
		"append": m.appendSome, "poll": m.poll, "loop": m.loop, "poll that waits": m.pollThatWaits,
		"seek": m.seek, "seek time": m.seekTime, "position": m.position, "lag": m.lag, "pause": m.pause,
		"commit": m.commit, "commit some": m.commitSome, "done": m.done,
		"delete before": m.deleteBefore, "grow": m.grow, "remake": m.remake,
		"assign": m.assign, "subscribe": m.subscribe, "wake": m.wake, "hook panics": m.hookPanics,
		"stop": m.stop, "crash": m.crash, "another": m.another,
	}
	names := append(slices.Sorted(maps.Keys(steps)), "append", "append", "poll", "poll", "poll")
	for range rapid.IntRange(1, 40).Draw(m.t, "steps") {
		steps[rapid.SampledFrom(names).Draw(m.t, "step")]()
		m.check()
	}
	m.drain()
}

func (m *consumerMachine) open() {
	l, err := open(m.fs, "/data", nil)
	require.NoError(m.t, err)
	m.l = l
}

// create makes a topic: "a" is flushed before it is read, "b" is not.
func (m *consumerMachine) create(name string) {
	n := rapid.IntRange(1, 3).Draw(m.t, "partitions")
	cfg := &TopicConfig{Partitions: n, SegmentBytes: 2 << 10, Retention: Forever}
	if name == "b" {
		cfg.Flush = FlushAsync
	}
	_, err := m.l.CreateTopic(ctx, name, cfg)
	require.NoError(m.t, err)
	for i := range n {
		m.parts[TopicPartition{name, i}] = &modelPart{}
	}
}

// begin makes a consumer.
func (m *consumerMachine) begin() {
	o := ConsumerOptions{
		MaxPartitionBytes: 300, AutoCommitInterval: 1000 * time.Hour, MaxPollInterval: 1000 * time.Hour,
		OffsetReset: rapid.SampledFrom([]OffsetReset{ResetEarliest, ResetEarliest, ResetLatest, ResetError}).Draw(m.t, "reset"),
		Hooks: []ConsumerHooks{{Deliver: func(_ context.Context, r *Record) {
			if m.panics {
				panic("hook")
			}
			m.seen = append(m.seen, *r)
		}}},
	}
	if rapid.IntRange(0, 3).Draw(m.t, "group") > 0 {
		o.Group = "group"
		o.ManualCommit = rapid.Bool().Draw(m.t, "manual")
		o.MarkDone = rapid.Bool().Draw(m.t, "done")
	}
	m.topics, m.byHand = nil, false
	switch rapid.IntRange(0, 2).Draw(m.t, "subscription") {
	case 0:
		m.topics = []string{"a", "b"}
		o.Topics = m.topics
	case 1:
		m.topics = []string{"a", "b"}
		o.TopicPattern = regexp.MustCompile("a|b|c")
	}
	m.opts, m.sources, m.wakeup = o, map[TopicPartition]*modelSource{}, false
	c, err := m.l.NewConsumer(&o)
	require.NoError(m.t, err)
	m.c = c
	if m.topics == nil {
		m.assign()
	}
}

// anyPart draws a partition, of which there may be none.
func (m *consumerMachine) anyPart() TopicPartition {
	return TopicPartition{
		rapid.SampledFrom([]string{"a", "b"}).Draw(m.t, "topic"), rapid.IntRange(0, 3).Draw(m.t, "partition"),
	}
}

func (m *consumerMachine) appendSome() {
	tp := m.anyPart()
	p, err := m.l.partition(tp)
	if m.parts[tp] == nil {
		require.Error(m.t, err)
		return
	}
	require.NoError(m.t, err)
	for range rapid.IntRange(1, 4).Draw(m.t, "batches") {
		m.appendTo(p, rapid.IntRange(1, 8).Draw(m.t, "records"), time.UnixMilli(int64(rapid.IntRange(1, 50).Draw(m.t, "time"))).UTC())
	}
}

func (m *consumerMachine) appendTo(p *Partition, n int, at time.Time) {
	recs := make([]Record, n)
	for i := range recs {
		m.appended++
		recs[i] = Record{Value: fmt.Appendf(nil, "%020d", m.appended), Timestamp: at}
		if m.appended%3 == 0 {
			recs[i].Key, recs[i].Headers = []byte("key"), []Header{{Key: "h", Value: []byte("v")}}
		}
	}
	base, err := p.Append(ctx, recs...)
	require.NoError(m.t, err)
	mp := m.parts[p.name()]
	require.GreaterOrEqual(m.t, base, mp.end)
	for i := range recs {
		recs[i].Topic, recs[i].Partition, recs[i].Offset = p.topic.name, p.index, base+Offset(i)
	}
	mp.recs = append(mp.recs, recs...)
	mp.end = base + Offset(n)
}

// resolve gives the model's source its position, as the consumer does when it polls.
func (m *consumerMachine) resolve(tp TopicPartition, s *modelSource) {
	p := m.parts[tp]
	if s.part != p {
		if s.part != nil {
			s.startAt(seekTo{})
		}
		s.part = p
	}
	if p == nil || s.next != NoOffset || s.failed {
		return
	}
	at, has := m.committed[tp]
	switch {
	case s.seek.kind == seekStart:
		s.found(p.start)
	case s.seek.kind == seekEnd:
		s.found(p.end)
	case s.seek.kind == seekTime:
		s.found(m.offsetAt(p, s.seek.at))
	case s.seek.kind == seekInitial && has && m.opts.Group != "":
		s.found(at)
	case m.opts.OffsetReset == ResetLatest:
		s.found(p.end)
	case m.opts.OffsetReset == ResetEarliest:
		s.found(p.start)
	default:
		s.failed, s.failing = true, true
	}
}

func (m *consumerMachine) offsetAt(p *modelPart, t time.Time) Offset {
	for _, r := range p.from(0) {
		if !r.Timestamp.Before(t) {
			return r.Offset
		}
	}
	return p.end
}

// pass is the beginning of a poll.
func (m *consumerMachine) pass() {
	for _, s := range m.sources {
		if len(s.handed) > 0 {
			s.passed, s.handed = s.next, nil
		}
	}
}

// poll polls once, for no longer than it takes to see that there is nothing.
func (m *consumerMachine) poll() {
	m.c.opts.MaxPollRecords = rapid.SampledFrom([]int{1, 3, 10, 500}).Draw(m.t, "MaxPollRecords")
	m.c.opts.MaxBytes = rapid.SampledFrom([]int{1, 100, 1 << 20}).Draw(m.t, "MaxBytes")
	m.c.opts.MinBytes = rapid.SampledFrom([]int{1, 1, 200}).Draw(m.t, "MinBytes")
	short, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if rapid.IntRange(0, 9).Draw(m.t, "cancelled") == 0 {
		cancel()
	}
	m.seen = nil
	recs, err := m.c.Poll(short)
	m.judgePoll(short, recs, err)
	require.LessOrEqual(m.t, len(recs), m.c.opts.MaxPollRecords)
	size := 0
	for i := range recs[:max(len(recs)-1, 0)] {
		size += recordSize(&recs[i])
	}
	require.LessOrEqual(m.t, size, m.c.opts.MaxBytes)
}

// loop takes some records from Records.
func (m *consumerMachine) loop() {
	most := rapid.IntRange(1, 10).Draw(m.t, "records")
	short, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	m.seen = nil
	for r, err := range m.c.Records(short) {
		if err != nil {
			m.judgePoll(short, nil, err)
			return
		}
		m.judgePoll(short, []Record{r}, nil)
		m.check()
		m.seen = nil
		if most--; most == 0 {
			return
		}
	}
}

// pollThatWaits polls while somebody else appends.
func (m *consumerMachine) pollThatWaits() {
	tp := m.anyPart()
	p, err := m.l.partition(tp)
	if err != nil {
		m.drain()
		return
	}
	m.drain()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		time.Sleep(time.Second) //lint:sleep in a bubble of synctest
		m.appendTo(p, 2, time.UnixMilli(25).UTC())
	}()
	short, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	m.seen = nil
	recs, err := m.c.Poll(short)
	<-ended
	m.judgePoll(short, recs, err)
}

// drain polls until there is no more, and sees that nothing is missing.
func (m *consumerMachine) drain() {
	for {
		short, cancel := context.WithTimeout(ctx, 30*time.Second)
		m.seen = nil
		recs, err := m.c.Poll(short)
		m.judgePoll(short, recs, err)
		m.check()
		cancel()
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrInvalidState) {
			return
		}
	}
}

// judgePoll compares what a poll has returned with what it may.
func (m *consumerMachine) judgePoll(ctx context.Context, recs []Record, err error) {
	m.pass()
	if !errors.Is(err, ErrWakeup) && !errors.Is(err, context.Canceled) { // else it has ended before it has looked
		m.observe()
		for tp, s := range m.sources {
			if m.parts[tp] == nil && m.topics != nil && m.opts.Group == "" {
				require.Fail(m.t, "a partition that is deleted is assigned", "%v", tp)
			}
			m.resolve(tp, s)
		}
	}
	require.False(m.t, len(recs) == 0 && err == nil || len(recs) > 0 && err != nil)
	var at *PartitionError
	switch {
	case err == nil:
		require.Equal(m.t, len(m.seen), len(recs), "each is shown to the hooks once")
		m.take(recs)
	case m.wakeup && errors.Is(err, ErrWakeup):
		m.wakeup = false
	case m.panics && strings.Contains(err.Error(), "Deliver has panicked: hook"):
		m.panics = false
	case errors.As(err, &at):
		m.takeErrors(err)
	case errors.Is(err, ErrInvalidState):
		require.True(m.t, m.topics == nil && len(m.sources) == 0)
	default:
		require.ErrorIs(m.t, err, ctx.Err())
	}
	m.notice()
	if errors.Is(err, context.DeadlineExceeded) {
		m.requireNothingToCome()
	}
	m.adoptCommits()
}

// observe has the model's sources be those of the consumer.
func (m *consumerMachine) observe() {
	have := m.c.Assignment()
	clear(m.dropped)
	for tp, s := range m.sources {
		if !slices.Contains(have, tp) {
			m.dropped[tp] = s
			delete(m.sources, tp)
		}
	}
	for _, tp := range have {
		if m.sources[tp] == nil {
			s := &modelSource{}
			s.startAt(seekTo{})
			m.sources[tp] = s
		}
	}
	if m.topics == nil {
		return
	}
	for _, tp := range have {
		require.Contains(m.t, m.topics, tp.Topic)
	}
}

// take compares records with those that come next in their partitions.
func (m *consumerMachine) take(recs []Record) {
	for _, r := range recs {
		tp := TopicPartition{r.Topic, r.Partition}
		s := m.sources[tp]
		require.NotNil(m.t, s, "%v is not assigned", tp)
		require.False(m.t, s.paused || s.failed, "%v", tp)
		rest := s.part.since(s.next, 0) // the start may have passed what was read already
		if s.next == NoOffset || len(rest) == 0 || rest[0].Offset != r.Offset {
			m.overtake(tp, s)
			rest = s.part.from(s.next)
		}
		require.NotEmpty(m.t, rest, "%v: %+v", tp, r)
		r.LeaderEpoch = rest[0].LeaderEpoch
		require.Equal(m.t, rest[0], r)
		s.next = r.Offset + 1
		s.handed = append(s.handed, r)
		s.undone = append(s.undone, r.Offset)
		m.countTurn(tp, recordSize(&r))
	}
}

// overtake has a source go on as OffsetReset says, if its position is deleted.
func (m *consumerMachine) overtake(tp TopicPartition, s *modelSource) {
	if s.part == nil || s.next == NoOffset || s.next >= s.part.start {
		return
	}
	switch s.startAt(seekTo{kind: seekReset}); m.opts.OffsetReset {
	case ResetEarliest:
		s.found(s.part.start)
	case ResetLatest:
		s.found(s.part.end)
	default:
		require.Fail(m.t, "records behind an error", "%v", tp)
	}
}

// notice has the model know of resets, which come when the partition is read next.
func (m *consumerMachine) notice() {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	for tp, s := range m.sources {
		real := m.c.sources[tp]
		if s.part == nil || s.next == NoOffset || s.next >= s.part.start || real.passed != NoOffset && real.next == s.next && real.state == sourceReading {
			continue
		}
		if m.opts.OffsetReset == ResetError {
			if real.state == sourceFailed && !s.failed {
				s.failed, s.failing = true, true
			}
			continue
		}
		switch s.startAt(seekTo{kind: seekReset}); {
		case real.passed == NoOffset: // to be found by the next poll
		case m.opts.OffsetReset == ResetEarliest:
			s.found(s.part.start)
		default:
			s.found(s.part.end)
		}
	}
}

// takeErrors compares the errors of partitions with what is wrong with them.
func (m *consumerMachine) takeErrors(err error) {
	list := []error{err}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		list = many.Unwrap()
	}
	for _, err := range list {
		var at *PartitionError
		require.ErrorAs(m.t, err, &at)
		tp := TopicPartition{at.Topic, at.Partition}
		s := m.sources[tp]
		require.NotNil(m.t, s)
		require.Equal(m.t, ResetError, m.opts.OffsetReset)
		if errors.Is(err, ErrOffsetOutOfRange) {
			require.Less(m.t, s.next, s.part.start)
			require.False(m.t, s.failed && !s.failing, "told twice")
			s.failed, s.failing = true, false
			continue
		}
		require.ErrorIs(m.t, err, ErrNoOffset)
		require.True(m.t, s.failing)
		s.failing = false
	}
}

// requireNothingToCome is for a poll that has found nothing.
func (m *consumerMachine) requireNothingToCome() {
	for tp, s := range m.sources {
		require.False(m.t, s.failing, "%v: an error is not told", tp)
		if s.part != nil && !s.paused && !s.failed {
			require.NotEqual(m.t, NoOffset, s.next, "%v", tp)
			require.Empty(m.t, s.part.from(s.next), "%v from %d", tp, s.next)
			require.False(m.t, s.next < s.part.start, "%v was passed by the start", tp)
		}
	}
	for tp := range m.parts {
		if slices.Contains(m.topics, tp.Topic) {
			require.Contains(m.t, m.sources, tp)
		}
	}
}

// countTurn counts what each source that waits sees of others.
func (m *consumerMachine) countTurn(tp TopicPartition, size int) {
	const most = 300 + 8*40 // MaxPartitionBytes and a batch
	for other, s := range m.sources {
		switch {
		case other == tp && len(s.part.from(s.next)) == 0:
			s.waited = nil // it waits for nothing now
		case other == tp:
			clear(s.waited)
		case s.waited != nil:
			s.waited[tp] += size
			require.LessOrEqual(m.t, s.waited[tp], most, "%v waits while %v has more than its turn", other, tp)
		}
	}
}

// check compares the consumer with the model.
func (m *consumerMachine) check() {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	for tp, s := range m.sources {
		real := m.c.sources[tp]
		require.NotNil(m.t, real)
		require.Equal(m.t, s.paused, real.paused)
		if s.part == nil || s.part != m.parts[tp] || s.failed {
			continue // what it knows is of a partition that is deleted
		}
		if s.next != NoOffset {
			require.Equal(m.t, sourceReading, real.state, "%v", tp)
			m.sameOffset(s.part, s.next, real.next)
			m.sameOffset(s.part, s.passed, real.passed)
		}
		ready := real.readable() && len(s.part.from(s.next)) > 0 && s.next >= s.part.start
		switch {
		case !ready:
			s.waited = nil
		case s.waited == nil:
			s.waited = map[TopicPartition]int{}
		}
	}
}

// sameOffset: no record lies between the two.
func (m *consumerMachine) sameOffset(p *modelPart, want, got Offset) {
	require.LessOrEqual(m.t, want, got)
	require.LessOrEqual(m.t, got, p.end)
	for _, r := range p.from(want) {
		require.GreaterOrEqual(m.t, r.Offset, got, "want %d, got %d", want, got)
	}
}

// toCommit is what is to be committed for a partition.
func (m *consumerMachine) toCommit(s *modelSource, handedOut bool) Offset {
	switch {
	case s.next == NoOffset:
		return NoOffset
	case m.opts.MarkDone:
		return s.doneTo
	case handedOut:
		return s.next
	}
	return s.passed
}

// adoptCommits: what is committed is what was, or automatically what was passed.
func (m *consumerMachine) adoptCommits() {
	if m.opts.Group == "" {
		return
	}
	got := m.fetchCommitted()
	for tp, at := range m.committed {
		require.Contains(m.t, got, tp, "committed at %d", at)
	}
	for tp, pos := range got {
		at, has := m.committed[tp]
		if has && at == pos {
			continue
		}
		require.False(m.t, m.opts.ManualCommit)
		s := m.sources[tp]
		if s == nil {
			s = m.dropped[tp]
		}
		require.NotNil(m.t, s, "%v is not assigned, and committed", tp)
		m.sameOffset(m.parts[tp], m.toCommit(s, false), pos)
		m.committed[tp] = pos
	}
}

func (m *consumerMachine) fetchCommitted() map[TopicPartition]Offset {
	all := slices.Collect(maps.Keys(m.parts))
	got, err := m.l.committed(ctx, "group", all)
	require.NoError(m.t, err)
	at := map[TopicPartition]Offset{}
	for tp, pos := range got {
		at[tp] = pos.Offset
	}
	return at
}
