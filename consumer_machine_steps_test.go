package riffle

import (
	"slices"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// The steps of TestConsumerAgreesWithAModel that do not read.

// anySource draws one of the consumer's partitions, or sometimes another one.
func (m *consumerMachine) anySource() TopicPartition {
	have := m.c.Assignment()
	if len(have) == 0 || rapid.IntRange(0, 9).Draw(m.t, "any") == 0 {
		return m.anyPart()
	}
	return rapid.SampledFrom(have).Draw(m.t, "partition")
}

// see has the model's source be of the partition that there is now, as a call about it does.
func (m *consumerMachine) see(tp TopicPartition) *modelSource {
	s := m.sources[tp]
	if s != nil && s.part != m.parts[tp] {
		if s.part != nil {
			s.startAt(seekTo{})
		}
		s.part = m.parts[tp]
	}
	return s
}

func (m *consumerMachine) seek() {
	tp := m.anySource()
	s, p := m.see(tp), m.parts[tp]
	var b modelPart
	if p != nil {
		b = *p
	}
	to := rapid.SampledFrom([]Offset{
		Earliest, Latest, b.start, b.end, b.start - 1, b.end + 1, NoOffset,
		Offset(rapid.IntRange(int(b.start), int(b.end)).Draw(m.t, "offset")),
	}).Draw(m.t, "to")
	err := m.c.Seek(tp, to)
	switch {
	case s == nil:
		require.ErrorIs(m.t, err, ErrNotAssigned)
	case to == Earliest:
		require.NoError(m.t, err)
		s.startAt(seekTo{kind: seekStart})
	case to == Latest:
		require.NoError(m.t, err)
		s.startAt(seekTo{kind: seekEnd})
	case p != nil && b.start <= to && to <= b.end:
		require.NoError(m.t, err)
		s.startAt(seekTo{})
		s.found(to)
	default:
		require.ErrorIs(m.t, err, ErrOffsetOutOfRange)
	}
}

func (m *consumerMachine) seekTime() {
	tp := m.anySource()
	at := time.UnixMilli(int64(rapid.IntRange(0, 60).Draw(m.t, "time"))).UTC()
	s := m.see(tp)
	if err := m.c.SeekTime(tp, at); s == nil {
		require.ErrorIs(m.t, err, ErrNotAssigned)
	} else {
		require.NoError(m.t, err)
		s.startAt(seekTo{kind: seekTime, at: at})
	}
}

func (m *consumerMachine) position() {
	tp := m.anySource()
	s := m.see(tp)
	at, err := m.c.Position(tp)
	switch {
	case s == nil:
		require.ErrorIs(m.t, err, ErrNotAssigned)
		return
	case s.part == nil:
		require.Error(m.t, err)
		return
	}
	seeking := s.next == NoOffset && !s.failed
	m.resolve(tp, s)
	if s.failed && s.next == NoOffset {
		require.ErrorIs(m.t, err, ErrNoOffset)
		if seeking { // a poll is still to tell it
			s.failed, s.failing = false, false
		}
		return
	}
	require.NoError(m.t, err)
	m.sameOffset(s.part, s.next, at)
}

func (m *consumerMachine) lag() {
	for tp, lag := range m.c.Lag() {
		if s := m.sources[tp]; s.part != nil && s.part == m.parts[tp] && s.next != NoOffset && !s.failed {
			require.LessOrEqual(m.t, lag.Records, int64(s.part.end-max(s.next, s.part.start)))
			require.GreaterOrEqual(m.t, lag.Records, int64(len(s.part.from(s.next))))
		}
	}
}

func (m *consumerMachine) pause() {
	tp, on := m.anySource(), rapid.Bool().Draw(m.t, "pause")
	if s := m.sources[tp]; s != nil {
		s.paused = on
	}
	if on {
		m.c.Pause(tp)
	} else {
		m.c.Resume(tp)
	}
}

// commit commits what was handed out.
func (m *consumerMachine) commit() {
	err := m.c.Commit(ctx)
	if m.opts.Group == "" {
		require.ErrorIs(m.t, err, ErrInvalidState)
		return
	}
	require.NoError(m.t, err)
	m.expectCommitted(true)
}

// expectCommitted: the positions of all sources are committed now.
func (m *consumerMachine) expectCommitted(handedOut bool) {
	got := m.fetchCommitted()
	for tp, s := range m.sources {
		if s.part != nil && s.part == m.parts[tp] {
			if at := m.toCommit(s, handedOut); at != NoOffset {
				require.Contains(m.t, got, tp)
				m.sameOffset(s.part, at, got[tp])
				m.committed[tp] = got[tp]
				m.coverBy(s, got[tp])
			}
		}
	}
	require.Equal(m.t, m.committed, got)
}

// coverBy: what is committed by hand is as good as passed, and done.
func (m *consumerMachine) coverBy(s *modelSource, at Offset) {
	if s.next == NoOffset {
		return
	}
	if rest := s.part.from(s.next); len(rest) > 0 && rest[0].Offset < at {
		return // it is beyond what was handed out
	}
	at = min(at, s.next) // the rest is a gap
	s.passed = max(s.passed, at)
	if s.doneTo < at {
		s.undone = slices.DeleteFunc(s.undone, func(o Offset) bool { return o < at })
		s.doneTo = at
		s.passDone()
	}
}

// commitSome commits one position, right or wrong.
func (m *consumerMachine) commitSome() {
	tp := m.anySource()
	s, p := m.see(tp), m.parts[tp]
	var at Offset
	var err error
	if s != nil && len(s.handed) > 0 && rapid.Bool().Draw(m.t, "record") {
		r := rapid.SampledFrom(s.handed).Draw(m.t, "handed out")
		at, err = r.Offset+1, m.c.CommitRecords(ctx, r)
	} else {
		end := Offset(0)
		if p != nil {
			end = p.end
		}
		at = Offset(rapid.IntRange(-1, int(end)+1).Draw(m.t, "at"))
		err = m.c.CommitTo(ctx, map[TopicPartition]Position{tp: {Offset: at}})
	}
	switch {
	case s == nil:
		require.ErrorIs(m.t, err, ErrNotAssigned)
	case p == nil:
		require.ErrorIs(m.t, err, ErrTopicNotFound)
	case at < 0 || at > p.end:
		require.ErrorIs(m.t, err, ErrOffsetOutOfRange)
	case m.opts.Group == "":
		require.ErrorIs(m.t, err, ErrInvalidState)
	default:
		require.NoError(m.t, err)
		m.committed[tp] = at
		m.coverBy(s, at)
		require.Equal(m.t, m.committed, m.fetchCommitted())
	}
}

// done tells of some records, in any order.
func (m *consumerMachine) done() {
	for _, tp := range m.c.Assignment() {
		s := m.sources[tp]
		if s == nil || len(s.undone) == 0 || s.part != m.parts[tp] {
			continue
		}
		o := rapid.SampledFrom(s.undone).Draw(m.t, "done")
		m.c.Done(Record{Topic: tp.Topic, Partition: tp.Partition, Offset: o})
		s.done[o] = true
		s.passDone()
	}
}

func (s *modelSource) passDone() {
	for len(s.undone) > 0 && s.done[s.undone[0]] {
		s.doneTo = s.undone[0] + 1
		s.undone = s.undone[1:]
	}
}

func (m *consumerMachine) deleteBefore() {
	tp := m.anyPart()
	p, err := m.l.partition(tp)
	if err != nil {
		return
	}
	mp := m.parts[tp]
	to := Offset(rapid.IntRange(int(mp.start), int(mp.end)).Draw(m.t, "before"))
	require.NoError(m.t, p.DeleteBefore(ctx, to))
	mp.start = to
}

// grow adds partitions to a topic.
func (m *consumerMachine) grow() {
	name := rapid.SampledFrom([]string{"a", "b"}).Draw(m.t, "topic")
	t, err := m.l.Topic(name)
	if err != nil || t.NumPartitions() == 4 {
		return
	}
	n := t.NumPartitions()
	require.NoError(m.t, t.SetPartitions(ctx, n+1))
	m.parts[TopicPartition{name, n}] = &modelPart{}
}

// remake deletes a topic, or makes it again, or both.
func (m *consumerMachine) remake() {
	name := rapid.SampledFrom([]string{"a", "b"}).Draw(m.t, "topic")
	if _, err := m.l.Topic(name); err == nil {
		require.NoError(m.t, m.l.DeleteTopic(ctx, name))
		for i := range 4 {
			delete(m.parts, TopicPartition{name, i})
			delete(m.committed, TopicPartition{name, i})
		}
		if rapid.Bool().Draw(m.t, "only") {
			return
		}
	}
	m.create(name)
}

// assign changes what is assigned by hand.
func (m *consumerMachine) assign() {
	var parts []TopicPartition
	for range rapid.IntRange(0, 4).Draw(m.t, "parts") {
		if tp := m.anyPart(); !slices.Contains(parts, tp) {
			parts = append(parts, tp)
		}
	}
	if m.topics != nil {
		if len(parts) > 0 {
			require.ErrorIs(m.t, m.c.Assign(parts...), ErrInvalidState)
		}
		require.NoError(m.t, m.c.Assign())
		m.topics, m.byHand = nil, false
		m.drain() // it gives up what it had
		require.Empty(m.t, m.c.Assignment())
	}
	require.NoError(m.t, m.c.Assign(parts...))
	for tp, s := range m.sources {
		if !slices.Contains(parts, tp) {
			if at := m.toCommit(s, false); m.opts.Group != "" && !m.opts.ManualCommit && at != NoOffset && s.part == m.parts[tp] {
				got := m.fetchCommitted()[tp]
				m.sameOffset(s.part, at, got)
			}
		}
	}
	m.byHand = len(parts) > 0
	m.observe()
	m.adoptCommits()
	for tp := range m.sources {
		m.see(tp)
	}
	require.Len(m.t, m.sources, len(parts))
}

// subscribe changes the topics.
func (m *consumerMachine) subscribe() {
	topics := rapid.SampledFrom([][]string{{"a"}, {"b"}, {"a", "b"}}).Draw(m.t, "topics")
	if m.byHand {
		require.ErrorIs(m.t, m.c.Subscribe(topics...), ErrInvalidState)
		return
	}
	require.NoError(m.t, m.c.Subscribe(topics...))
	m.topics = topics
	m.drain()
}

func (m *consumerMachine) wake() {
	m.c.Wakeup()
	m.wakeup = true
}

func (m *consumerMachine) hookPanics() { m.panics = true }

// another closes the consumer, whose commits cover what was passed, and makes another one.
func (m *consumerMachine) another() {
	require.NoError(m.t, m.c.Close())
	m.expectClosed()
	m.begin()
}

func (m *consumerMachine) expectClosed() {
	m.panics = false
	if m.opts.Group == "" {
		return
	}
	if m.opts.ManualCommit {
		require.Equal(m.t, m.committed, m.fetchCommitted())
	} else {
		m.expectCommitted(false)
	}
}

// stop stops the log cleanly, and opens it again.
func (m *consumerMachine) stop() {
	require.NoError(m.t, m.l.Close())
	m.open()
	m.expectClosed()
	m.begin()
}

// crash cuts the power: what was committed by the group is there, with all records before it,
// as are those of the topic that is flushed before it is read.
func (m *consumerMachine) crash() {
	l, c := m.l, m.c
	m.fs = m.fs.CrashClone(rapid.Uint64().Draw(m.t, "seed"))
	_ = c.Close()
	_ = l.Close()
	m.open()
	for tp, mp := range m.parts {
		p, err := m.l.partition(tp)
		require.NoError(m.t, err)
		b := p.Bounds()
		left := mp.from(0)
		var kept []Record
		for r, err := range p.Records(ctx, Earliest, nil) {
			require.NoError(m.t, err)
			require.NotEmpty(m.t, left)
			require.Equal(m.t, left[0].Value, r.Value)
			require.Equal(m.t, left[0].Offset, r.Offset)
			kept, left = append(kept, left[0]), left[1:]
		}
		for _, r := range left {
			require.False(m.t, tp.Topic == "a" || r.Offset < m.committed[tp], "%v at %d is lost", tp, r.Offset)
		}
		mp.recs, mp.start, mp.end = kept, b.Start, b.End
	}
	if len(m.parts) > 0 {
		require.Equal(m.t, m.committed, m.fetchCommitted())
	}
	m.panics = false
	m.begin()
}
