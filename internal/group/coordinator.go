// Package group decides for consumer groups. Its Coordinator is Kafka's classic
// group protocol and committed offsets as a state machine: a request and the
// time go in; records to append, answers, and who should look come out.
//
// All of it is pure: no goroutine, channel, lock, clock or random source, and
// the same input gives the same result.
package group

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/google/btree"
	"github.com/rifflelog/riffle/internal/invariants"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Config holds the limits of a coordinator. Zero fields are not defaulted:
// DefaultConfig gives Kafka's values.
type Config struct {
	InitialDelay     time.Duration // how long an empty group waits for more members. Kafka: group.initial.rebalance.delay.ms
	MinSession       time.Duration // Kafka: group.min.session.timeout.ms
	MaxSession       time.Duration // Kafka: group.max.session.timeout.ms
	MaxSize          int           // members of a group. Kafka: group.max.size
	OffsetRetention  time.Duration // Kafka: offsets.retention.minutes
	MaxMetadataBytes int           // of one committed offset. Kafka: offset.metadata.max.bytes
	MaxRecordBytes   int           // key and value of the record of a group: a larger one could not be appended
	// Known says whether there is such a partition, of a topic of that id unless it is
	// zero: for others nothing is committed. Nil: there are all.
	Known func(topic string, id [16]byte, partition int32) bool
	// NewMemberID returns a member id that was never used, beginning with prefix:
	// the client's id, or the instance id of a static member.
	NewMemberID func(prefix string) string
}

// DefaultConfig returns Kafka's defaults. NewMemberID has none.
func DefaultConfig() Config {
	return Config{
		InitialDelay:     3 * time.Second,
		MinSession:       6 * time.Second,
		MaxSession:       30 * time.Minute,
		MaxSize:          math.MaxInt32,
		OffsetRetention:  7 * 24 * time.Hour,
		MaxMetadataBytes: 4096,
		MaxRecordBytes:   1<<20 - 1<<10, // a batch of 1 MiB, less its headers
	}
}

// Call is one request. The coordinator copies what it keeps of it; Answers may
// share strings with it.
type Call struct {
	ID       uint64 // chosen by the caller; its Answer carries it
	Local    bool   // from a consumer in this process: no session, no round trip for a member id (KIP-394), forgotten by Loaded
	Whole    bool   // an OffsetCommit commits all or nothing: if one is refused, the others, without an error of their own, are not committed
	ClientID string
	Host     string
	// Request is a JoinGroup, SyncGroup, Heartbeat, LeaveGroup, OffsetCommit,
	// OffsetFetch, OffsetDelete, DescribeGroups, ListGroups or DeleteGroups. Where
	// its version names topics by id, the caller fills in their names; a topic
	// that is left without one is answered with UNKNOWN_TOPIC_ID.
	Request kmsg.Request
}

// Answer is what to answer to the call with that ID. Its bytes are shared with
// the coordinator and must not be changed.
type Answer struct {
	ID       uint64
	Response kmsg.Response
}

// Record is a record of the offsets topic. A nil Value is a tombstone.
type Record struct{ Key, Value []byte }

// Result is what one step wants done.
//
// Records are appended in order, in one batch or in several, since each stands
// alone; then each is applied, before the next step. Answers are given when all
// that was appended until then is committed, also where Records is empty: a
// step may rest on records of the one before it. If Records cannot be appended,
// Answers are failed with Answer.Fail, and if the result is Soft, the
// coordinator is dropped and loaded again.
type Result struct {
	Records []Record
	Answers []Answer
	Wake    []string // ids of local members that should look (Heartbeat) and join again, or that were removed or fenced
	Soft    bool     // more has changed than Records say
}

const (
	// maxString is what fits into a string of Kafka's records.
	maxString = math.MaxInt16
	// MaxName is the length of a topic's name and of an instance id.
	MaxName = 249
)

// validName reports whether a group can have members under that name.
func validName(name string) bool { return name != "" && len(name) <= maxString }

// Coordinator holds the groups of one partition of the offsets topic. It is not
// safe for concurrent use.
//
// What is committed, offsets and the groups as their records describe them,
// changes in Apply alone. Who waits, who is about to join, the generation being
// prepared and the timers are in memory only; Kafka keeps no more.
type Coordinator struct {
	cfg    Config
	groups map[string]*group
	timers *btree.BTreeG[*timer]
	armed  uint64 // timers armed so far: orders those that are due at one time
	loaded bool
}

// New returns a coordinator without groups. Until Loaded, requests are answered
// as of one that is loading.
func New(cfg Config) *Coordinator {
	return &Coordinator{cfg: cfg, groups: map[string]*group{}, timers: newTimers()}
}

// step gathers the result of one call of the coordinator.
type step struct {
	Result
	now   time.Time
	woken map[string]bool // those in Wake
}

func (c *Coordinator) begin(now time.Time) *step {
	c.check()
	return &step{now: now}
}

// check looks at the groups before a step: then all records are applied.
func (c *Coordinator) check() {
	if !invariants.Enabled || !c.loaded || len(c.groups) > maxChecked {
		return
	}
	for _, name := range c.Groups() {
		c.groups[name].check()
	}
}

// maxChecked is how many groups are checked at each step, in builds that check.
const maxChecked = 16

func (s *step) answer(id uint64, r kmsg.Response) {
	s.Answers = append(s.Answers, Answer{ID: id, Response: r})
}

func (s *step) wake(m *member) {
	if !m.local || s.woken[m.id] {
		return
	}
	if s.woken == nil {
		s.woken = map[string]bool{}
	}
	s.woken[m.id] = true
	s.Wake = append(s.Wake, m.id)
}

// Handle takes one request. Its answer comes with this result or with a later
// one, exactly once.
func (c *Coordinator) Handle(call Call, now time.Time) Result {
	s := c.begin(now)
	if !c.loaded {
		s.answer(call.ID, Refuse(call.Request, whileLoading(call.Request)))
		return s.Result
	}
	switch r := call.Request.(type) {
	case *kmsg.JoinGroupRequest:
		c.join(s, call, r)
	case *kmsg.SyncGroupRequest:
		c.sync(s, call, r)
	case *kmsg.HeartbeatRequest:
		c.heartbeat(s, call, r)
	case *kmsg.LeaveGroupRequest:
		c.leave(s, call, r)
	case *kmsg.OffsetCommitRequest:
		c.commit(s, call, r)
	case *kmsg.OffsetFetchRequest:
		c.fetch(s, call, r)
	case *kmsg.OffsetDeleteRequest:
		c.deleteOffsets(s, call, r)
	case *kmsg.DescribeGroupsRequest:
		c.describe(s, call, r)
	case *kmsg.ListGroupsRequest:
		c.list(s, call, r)
	case *kmsg.DeleteGroupsRequest:
		c.deleteGroups(s, call, r)
	default:
		s.answer(call.ID, Refuse(call.Request, codeInvalidRequest))
	}
	return s.Result
}

// Loaded ends the replay. It forgets the members that were local: they ended
// with their process. It restarts the sessions of the others, who have to join
// again if some are gone. It has no answers.
func (c *Coordinator) Loaded(now time.Time) Result {
	s := &step{now: now}
	for _, name := range c.Groups() {
		g := c.groups[name]
		gone := false
		for _, m := range slices.Clone(g.members) {
			if m.local {
				c.remove(s, m)
				gone = true
			} else {
				c.touch(s, m)
			}
		}
		if gone || len(g.members) > c.cfg.MaxSize {
			c.rebalance(s, g) // without members, that ends at once
		}
	}
	c.loaded = true
	s.Wake = nil // they are gone
	return s.Result
}

// DeleteTopic returns the tombstones of a topic's offsets in all groups.
func (c *Coordinator) DeleteTopic(topic string) Result {
	s := &step{}
	for _, name := range c.Groups() {
		for _, partition := range slices.Sorted(maps.Keys(c.groups[name].offsets[topic])) {
			s.Records = append(s.Records, offsetTombstone(name, topic, partition))
		}
	}
	return s.Result
}

// Detach says that the process of a local member closed it, or that it stopped
// polling, and that it did not leave, as static members do not: its session
// begins. That ends when the member joins, syncs or sends a heartbeat; when it
// commits, its session begins anew. It is woken, to say so if it polls after all.
func (c *Coordinator) Detach(group, member string, now time.Time) Result {
	s := c.begin(now)
	if g := c.groups[group]; g != nil && g.byID[member] != nil {
		m := g.byID[member]
		m.detached = m.local
		c.touch(s, m)
		if !m.waits() {
			s.wake(m)
		}
	}
	return s.Result
}

// Drop returns answers with that error to all who wait, and forgets everything.
// Answers of earlier results that were not given yet are the caller's to fail.
// A dropped coordinator can be loaded again from the records; local members
// that live on have to be woken then, since it does not know them.
func (c *Coordinator) Drop(code int16) []Answer {
	s := &step{}
	for _, name := range c.Groups() {
		for _, m := range c.groups[name].members {
			s.refuseWaiting(m, code)
		}
	}
	*c = *New(c.cfg)
	return s.Answers
}

// Groups returns the names of the groups, sorted.
func (c *Coordinator) Groups() []string { return slices.Sorted(maps.Keys(c.groups)) }

// group returns the group of that name, which it makes if there is none.
func (c *Coordinator) group(name string) *group {
	g := c.groups[name]
	if g == nil {
		g = newGroup(name)
		c.groups[g.name] = g
	}
	return g
}

// forget removes a group that holds nothing, in memory or in the log.
func (c *Coordinator) forget(g *group) {
	if g.written || g.generation > 0 || len(g.members) > 0 || len(g.pending) > 0 || len(g.offsets) > 0 {
		return
	}
	c.stop(&g.joinTimer)
	c.stop(&g.syncTimer)
	delete(c.groups, g.name)
}

// maxPrefix is how much of a client's id is in the ids of its members.
const maxPrefix = 255

// newID returns an id for a new member of g, or an error if NewMemberID repeats
// itself.
func (c *Coordinator) newID(g *group, prefix string) (string, error) {
	id := c.cfg.NewMemberID(cut(prefix, maxPrefix))
	if id == "" || len(id) > maxString || g.byID[id] != nil || g.pending[id] != nil {
		return "", fmt.Errorf("member id %q is not a new one", id)
	}
	return id, nil
}
