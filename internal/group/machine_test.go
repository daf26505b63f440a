package group

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"
)

const machinePartitions = 6

// phase is how far a client is.
type phase int

const (
	idle        phase = iota // has to join
	joins                    // waits for its join answer
	hasToSync                // has one
	syncs                    // waits for its sync answer
	consumesNow              // has partitions
	gone                     // killed, closed or fenced
)

// client is a member as it sees itself. Answers reach it late, or never.
type client struct {
	who
	name     string
	phase    phase
	call     uint64 // that it waits for
	parts    []int32
	notified bool // local: was woken since it last looked
}

// machine drives one group with clients that come, go, stall and lose answers,
// while appends fail and the coordinator is loaded anew.
type machine struct {
	*rapid.T
	r       *rig
	clients []*client
	names   int
	fail    bool // the next records cannot be appended
	asked   map[uint64]bool

	acked      map[int32]int64            // what was committed last, by partition
	generation int32                      // of the group, while it is loaded
	owners     map[int32]map[int32]string // by generation and partition
}

func (m *machine) group() *group { return m.r.c.groups["g"] }

// take does what the one does who embeds the coordinator.
func (m *machine) take(res Result) {
	if len(res.Records) > 0 && m.fail {
		m.fail = false
		for _, a := range res.Answers {
			m.answer(a.Fail(codeNotCoordinator))
		}
		if res.Soft {
			m.load()
		}
		return
	}
	for _, rec := range res.Records {
		m.r.log = append(m.r.log, rec)
		require.NoError(m, m.r.c.Apply(rec, int64(len(m.r.log))))
	}
	for _, a := range res.Answers {
		m.answer(a)
	}
	for _, c := range m.clients {
		c.notified = c.notified || slices.Contains(res.Wake, c.id)
	}
}

func (m *machine) answer(a Answer) {
	require.True(m, m.asked[a.ID], "an answer to nothing")
	require.NotContains(m, m.r.answers, a.ID, "answered twice")
	m.r.answers[a.ID] = a.Response
	resp, ok := a.Response.(*kmsg.SyncGroupResponse)
	if !ok || resp.ErrorCode != 0 {
		return
	}
	for _, c := range m.clients {
		if c.call == a.ID {
			m.owns(c, c.generation, resp.MemberAssignment)
		}
	}
}

// owns notes what a client was assigned: nobody else was in that generation.
// Who takes the place of a static member has what it had.
func (m *machine) owns(c *client, generation int32, parts []byte) {
	owner := c.id
	if c.instance != "" {
		owner = c.instance
	}
	if m.owners[generation] == nil {
		m.owners[generation] = map[int32]string{}
	}
	for _, p := range parts {
		before, taken := m.owners[generation][int32(p)]
		require.False(m, taken && before != owner, "partition %d of generation %d: of %s and %s", p, generation, before, owner)
		m.owners[generation][int32(p)] = owner
	}
}

// load drops the coordinator and loads it from the records. In this process
// everybody looks what became of it.
func (m *machine) load() {
	for _, a := range m.r.c.Drop(codeNotCoordinator) {
		m.answer(a)
	}
	m.r.c = New(m.r.cfg)
	for i, rec := range m.r.log {
		require.NoError(m, m.r.c.Apply(rec, int64(i+1)))
	}
	m.generation = 0
	for _, c := range m.clients {
		c.notified = true
	}
	m.take(m.r.c.Loaded(m.r.now))
}

func (m *machine) handle(c *client, req kmsg.Request) uint64 {
	m.r.calls++
	id := m.r.calls
	m.asked[id] = true
	if c.phase == joins || c.phase == syncs {
		c.call = id // before the answer comes
	}
	m.take(m.r.c.Handle(Call{ID: id, Local: c.local, ClientID: c.name, Host: "/h", Request: req}, m.r.now))
	return id
}

// pick draws a client in one of the phases, or nil.
func (m *machine) pick(phases ...phase) *client {
	var in []*client
	for _, c := range m.clients {
		if slices.Contains(phases, c.phase) {
			in = append(in, c)
		}
	}
	if len(in) == 0 {
		return nil
	}
	return rapid.SampledFrom(in).Draw(m.T, "client")
}

func (m *machine) live() (in []*client) {
	for _, c := range m.clients {
		if c.phase != gone {
			in = append(in, c)
		}
	}
	return in
}

func (m *machine) start(kind string) {
	if len(m.live()) >= m.r.cfg.MaxSize {
		return
	}
	m.names++
	c := &client{name: fmt.Sprintf("c%d", m.names)}
	c.who = *m.r.member(func(w *who) { w.rebalance = 30 * time.Second })
	c.session = rapid.SampledFrom([]time.Duration{10 * time.Second, time.Minute}).Draw(m.T, "session")
	c.local = strings.HasPrefix(kind, "local")
	if strings.HasSuffix(kind, "static") {
		c.instance = rapid.SampledFrom([]string{"x", "y"}).Draw(m.T, "instance")
	}
	c.version = rapid.SampledFrom([]int16{3, 9}).Draw(m.T, "version")
	m.clients = append(m.clients, c)
	m.join(c)
}

func (m *machine) join(c *client) {
	c.phase = joins
	m.handle(c, c.joinRequest())
}

// sync assigns the partitions in turn, if it leads.
func (m *machine) sync(c *client) {
	c.phase = syncs
	req := kmsg.NewPtrSyncGroupRequest()
	req.Version, req.Group, req.MemberID, req.InstanceID, req.Generation = 5, "g", c.id, c.instanceID(), c.generation
	for i := range c.members {
		a := kmsg.NewSyncGroupRequestGroupAssignment()
		a.MemberID = c.members[i].MemberID
		for p := i; p < machinePartitions && c.leader; p += len(c.members) {
			a.MemberAssignment = append(a.MemberAssignment, byte(p))
		}
		req.GroupAssignment = append(req.GroupAssignment, a)
	}
	m.handle(c, req)
}

// failed is what a client does about an error.
func (m *machine) failed(c *client, code int16) {
	c.phase, c.parts = idle, nil
	switch code {
	case codeUnknownMemberID, codeIllegalGeneration:
		c.id = ""
	case codeFencedInstanceID:
		c.phase = gone
	case codeRebalanceInProgress, codeNotCoordinator, codeGroupMaxSizeReached, codeInconsistentGroupProtocol:
	default:
		require.Fail(m, "unexpected error", "code %d", code)
	}
}

// receive gives a client the answer that it waits for, if there is one.
func (m *machine) receive(c *client) {
	switch resp := m.r.answers[c.call].(type) {
	case *kmsg.JoinGroupResponse:
		switch resp.ErrorCode {
		case 0:
			c.phase = hasToSync
			c.id, c.generation, c.members = resp.MemberID, resp.Generation, resp.Members
			c.leader = resp.LeaderID == resp.MemberID && !resp.SkipAssignment
		case codeMemberIDRequired:
			c.phase, c.id = idle, resp.MemberID
		default:
			m.failed(c, resp.ErrorCode)
		}
	case *kmsg.SyncGroupResponse:
		if resp.ErrorCode != 0 {
			m.failed(c, resp.ErrorCode)
			return
		}
		c.phase, c.notified, c.parts = consumesNow, false, nil
		for _, p := range resp.MemberAssignment {
			c.parts = append(c.parts, int32(p))
		}
		// It was woken if its generation ended before it got this.
		g := m.group()
		c.notified = g == nil || g.generation != c.generation || g.state == preparing || g.byID[c.id] == nil
	}
}

func (m *machine) beat(c *client) {
	req := kmsg.NewPtrHeartbeatRequest()
	req.Version, req.Group, req.MemberID, req.InstanceID, req.Generation = 4, "g", c.id, c.instanceID(), c.generation
	id := m.handle(c, req)
	c.notified = false
	if code := m.r.answers[id].(*kmsg.HeartbeatResponse).ErrorCode; code != 0 {
		m.failed(c, code)
	}
}

// commit commits for a partition that the client believes to own. It is refused
// if a later generation has been given to anybody.
func (m *machine) commit(c *client, p int32, to int64) {
	req := commitRequest("g", 9, "t", p, to)
	req.MemberID, req.InstanceID, req.Generation = c.id, c.instanceID(), c.generation
	id := m.handle(c, req)
	code := m.r.answers[id].(*kmsg.OffsetCommitResponse).Topics[0].Partitions[0].ErrorCode
	if code == codeGroupIDNotFound {
		code = codeUnknownMemberID
	}
	if code != 0 {
		m.failed(c, code)
		return
	}
	m.acked[p] = to
	latest := slices.Max(append(slices.Collect(maps.Keys(m.owners)), 0))
	require.LessOrEqual(m, latest, c.generation, "committed by who lost its partitions")
}

// step moves a client on by what it would do next.
func (m *machine) step(c *client) {
	switch c.phase {
	case idle:
		m.join(c)
	case joins, syncs:
		m.receive(c)
	case hasToSync:
		m.sync(c)
	case consumesNow:
		m.beat(c)
	case gone:
	}
}

func (m *machine) elapse(d time.Duration, late bool) {
	end := m.r.now.Add(d)
	for !late {
		at, ok := m.r.c.Next()
		if !ok || at.After(end) {
			break
		}
		m.r.now = at
		m.take(m.r.c.Tick(at))
	}
	m.r.now = end
	m.take(m.r.c.Tick(end))
}

// check holds after each step.
func (m *machine) check() {
	m.r.c.check()
	g := m.group()
	if g == nil {
		m.generation, m.owners = 0, map[int32]map[int32]string{}
		require.Empty(m, m.acked)
		return
	}
	require.GreaterOrEqual(m, g.generation, m.generation)
	m.generation = g.generation
	for p := range int32(machinePartitions) {
		want, ok := m.acked[p]
		if !ok {
			want = -1
		}
		require.Equal(m, want, m.r.fetch("g", "t", p), "partition %d", p)
	}
	for _, c := range m.clients {
		if c.local && c.phase == consumesNow && !c.notified {
			require.NotNil(m, g.byID[c.id], "%s was removed and not woken", c.name)
			require.Equal(m, c.generation, g.generation)
			require.NotEqual(m, preparing, g.state, "%s has to join and was not woken", c.name)
		}
	}
}

// settle lets the clients that there are do what they should, until each has
// its partitions: all of them are consumed, each by one.
func (m *machine) settle() {
	m.fail = false
	for range 400 {
		for _, c := range m.clients {
			m.step(c)
			m.check()
		}
		m.elapse(time.Second, false)
		if m.settled() {
			return
		}
	}
	require.Fail(m, "does not become stable", m.r.dump())
}

func (m *machine) settled() bool {
	g := m.group()
	live := m.live()
	if len(live) == 0 {
		return g == nil || g.state == empty
	}
	if g == nil || g.state != stable || len(g.members) != len(live) {
		return false
	}
	var parts []int32
	for _, c := range live {
		if c.phase != consumesNow || c.generation != g.generation || g.byID[c.id] == nil {
			return false
		}
		parts = append(parts, c.parts...)
	}
	slices.Sort(parts)
	require.Equal(m, []int32{0, 1, 2, 3, 4, 5}, parts)
	return true
}

// clientActions are what clients do, or what becomes of them.
func (m *machine) clientActions() map[string]func(*rapid.T) {
	each := func(f func(c *client), phases ...phase) func(*rapid.T) {
		return func(*rapid.T) {
			if c := m.pick(phases...); c != nil {
				f(c)
			}
		}
	}
	next := each(m.step, idle, joins, hasToSync, syncs, consumesNow)
	return map[string]func(*rapid.T){
		"start": func(t *rapid.T) {
			m.start(rapid.SampledFrom([]string{"remote", "remote static", "local", "local static"}).Draw(t, "kind"))
		},
		"next": next, "next 2": next, "next 3": next, "next 4": next,
		"lose the answer": each(func(c *client) {
			if c.phase == joins || rapid.Bool().Draw(m.T, "join") {
				m.join(c)
			} else {
				m.sync(c)
			}
		}, joins, syncs),
		"other topics": each(func(c *client) {
			c.topics = []string{"t", fmt.Sprint("u", rapid.IntRange(0, 1).Draw(m.T, "topic"))}
			m.join(c)
		}, idle, joins, syncs, consumesNow),
		"commit": each(func(c *client) {
			if len(c.parts) > 0 {
				m.commit(c, rapid.SampledFrom(c.parts).Draw(m.T, "partition"), rapid.Int64Range(0, 99).Draw(m.T, "to"))
			}
		}, consumesNow),
		"leave": each(func(c *client) {
			req := kmsg.NewPtrLeaveGroupRequest()
			req.Version, req.Group = 5, "g"
			l := kmsg.NewLeaveGroupRequestMember()
			l.MemberID, l.InstanceID = c.id, c.instanceID()
			req.Members = append(req.Members, l)
			c.phase = gone
			m.handle(c, req)
		}, consumesNow, idle, hasToSync),
		// One of this process cannot vanish; a static one is detached when it
		// is closed, and its call, if one waits, is given up.
		"kill": each(func(c *client) {
			if c.local && c.instance == "" && c.phase != idle {
				return
			}
			if c.local {
				m.take(m.r.c.Detach("g", c.id, m.r.now))
				if c.id == "" || c.phase == joins {
					return // nobody knows its id yet
				}
			}
			c.phase = gone
		}, idle, joins, hasToSync, syncs, consumesNow),
	}
}

// actions are those of clients, and what else happens.
func (m *machine) actions() map[string]func(*rapid.T) {
	all := map[string]func(*rapid.T){
		"": func(*rapid.T) { m.check() },
		"time": func(t *rapid.T) {
			m.elapse(time.Duration(rapid.IntRange(1, 40_000).Draw(t, "ms"))*time.Millisecond, rapid.Bool().Draw(t, "late"))
		},
		"fail": func(*rapid.T) { m.fail = true },
		"load": func(*rapid.T) { m.load() },
		"delete": func(*rapid.T) {
			req := kmsg.NewPtrDeleteGroupsRequest()
			req.Groups = []string{"g"}
			id := m.handle(&client{}, req)
			if m.r.answers[id].(*kmsg.DeleteGroupsResponse).Groups[0].ErrorCode == 0 {
				m.acked = map[int32]int64{}
			}
		},
		"delete the topic": func(*rapid.T) {
			m.fail = false
			m.take(m.r.c.DeleteTopic("t"))
			m.acked = map[int32]int64{}
		},
		"expire": func(*rapid.T) {
			m.fail = false
			res := m.r.c.Expire(m.r.now)
			if g := m.group(); g != nil && g.state != empty {
				require.Empty(m, res.Records, "members subscribe to it")
			}
			for _, rec := range res.Records {
				var key kmsg.OffsetCommitKey
				if key.ReadFrom(rec.Key) == nil {
					delete(m.acked, key.Partition)
				}
			}
			m.take(res)
		},
		"settle": func(*rapid.T) { m.settle() },
	}
	maps.Copy(all, m.clientActions())
	return all
}

// Whatever clients do, and whatever becomes of their calls, of appends and of
// the coordinator: no partition has two owners in one generation, generations
// do not go back, what is committed is what was acknowledged last, who lost its
// partitions commits nothing, members of this process are woken, and in the end
// every call has been answered once and the group becomes stable.
func TestCoordinatorMachine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		delay := rapid.SampledFrom([]time.Duration{0, 3 * time.Second}).Draw(t, "delay")
		m := &machine{T: t, asked: map[uint64]bool{}, acked: map[int32]int64{}, owners: map[int32]map[int32]string{}}
		m.r = newRig(t, func(c *Config) {
			c.InitialDelay, c.MaxSize, c.OffsetRetention = delay, 5, time.Minute
		})
		t.Repeat(m.actions())
		m.settle()
		for _, a := range m.r.c.Drop(codeNotCoordinator) {
			m.answer(a)
		}
		for id := range m.asked {
			require.Contains(t, m.r.answers, id, "call %d was never answered", id)
		}
	})
}
