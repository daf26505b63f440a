package group

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// The versions that Kafka 4.0 writes. An offset with an expiry of its own, which
// OffsetCommit asked for until version 4, is written as version 1, which has no
// leader epoch.
const (
	offsetKeyVersion      = 1
	offsetValueVersion    = 3
	offsetWithExpiry      = 1
	groupKeyVersion       = 2
	groupValueVersion     = 3
	maxOffsetValueVersion = 4 // read, written by Kafka 4.1 and later
	maxGroupValueVersion  = 4 // likewise
	firstFlexibleVersion  = 4
)

// Apply changes the committed state as a record says: in replay, and after a
// step's records were appended. at is the offset of the record in the log. Keys
// of versions that are not known are passed over. A record that cannot be
// decoded, or cannot follow from what was decided, is an error and changes
// nothing.
func (c *Coordinator) Apply(r Record, at int64) error {
	if len(r.Key) < 2 {
		return fmt.Errorf("group record at offset %d: a key of %d bytes", at, len(r.Key))
	}
	var err error
	switch version := int16(binary.BigEndian.Uint16(r.Key)); version {
	case 0, offsetKeyVersion:
		err = c.applyOffset(r, at)
	case groupKeyVersion:
		err = c.applyGroup(r)
	}
	if err != nil {
		return fmt.Errorf("group record at offset %d: %w", at, err)
	}
	return nil
}

func (c *Coordinator) applyOffset(r Record, at int64) error {
	var key kmsg.OffsetCommitKey
	if err := key.ReadFrom(r.Key); err != nil {
		return fmt.Errorf("key of an offset: %w", err)
	}
	if r.Value == nil {
		if g := c.groups[key.Group]; g != nil {
			g.deleteOffset(key.Topic, key.Partition)
			c.forget(g)
		}
		return nil
	}
	var value kmsg.OffsetCommitValue
	if err := readVersioned(r.Value, maxOffsetValueVersion, (*walk).offset, value.ReadFrom); err != nil {
		return fmt.Errorf("offset of group %q, partition %s-%d: %w", key.Group, key.Topic, key.Partition, err)
	}
	o := offset{at: at, offset: value.Offset, epoch: -1, metadata: value.Metadata, committed: value.CommitTimestamp, expires: -1}
	if value.Version >= 3 {
		o.epoch = value.LeaderEpoch
	}
	if value.Version == offsetWithExpiry {
		o.expires = value.ExpireTimestamp
	}
	c.group(key.Group).setOffset(key.Topic, key.Partition, o)
	return nil
}

// readVersioned decodes bytes that begin with a version from 0 to highest.
func readVersioned(src []byte, highest int16, fields func(*walk, int16), read func([]byte) error) error {
	if len(src) < 2 {
		return fmt.Errorf("a value of %d bytes", len(src))
	}
	if v := int16(binary.BigEndian.Uint16(src)); v < 0 || v > highest {
		return fmt.Errorf("a value of version %d", v)
	}
	if err := walkOver(src, fields); err != nil {
		return err
	}
	return read(src)
}

func (c *Coordinator) applyGroup(r Record) error {
	var key kmsg.GroupMetadataKey
	if err := key.ReadFrom(r.Key); err != nil {
		return fmt.Errorf("key of a group: %w", err)
	}
	g := c.groups[key.Group]
	if r.Value == nil {
		if c.loaded && g.size() > 0 {
			return fmt.Errorf("group %q is deleted, and has %d members", key.Group, g.size())
		}
		if g != nil {
			c.clear(g)
			c.forget(g)
		}
		return nil
	}
	var value kmsg.GroupMetadataValue
	err := readVersioned(r.Value, maxGroupValueVersion, (*walk).group, value.ReadFrom)
	if err == nil {
		err = checkGroup(&value)
	}
	if err != nil {
		return fmt.Errorf("group %q: %w", key.Group, err)
	}
	if !c.loaded {
		g = c.group(key.Group)
		c.clear(g)
		g.load(&value)
		return nil
	}
	if g.size() == 0 && len(value.Members) == 0 && (g == nil || g.state == empty) {
		c.group(key.Group).load(&value)
		return nil
	}
	if !g.decided(&value) {
		return fmt.Errorf("group %q: the record does not follow from its members and generation", key.Group)
	}
	g.confirm(&value)
	return nil
}

// checkGroup checks what the coordinator relies on.
func checkGroup(v *kmsg.GroupMetadataValue) error {
	if v.Generation < 0 {
		return fmt.Errorf("generation %d", v.Generation)
	}
	if len(v.Members) > 0 && (v.Protocol == nil || *v.Protocol == "" || v.ProtocolType == "") {
		return errors.New("members without a protocol")
	}
	ids, instances := map[string]bool{}, map[string]bool{}
	for _, m := range v.Members {
		if m.MemberID == "" || ids[m.MemberID] {
			return fmt.Errorf("member id %q, empty or not the first", m.MemberID)
		}
		ids[m.MemberID] = true
		if m.InstanceID != nil {
			if *m.InstanceID == "" || instances[*m.InstanceID] {
				return fmt.Errorf("instance id %q, empty or not the first", *m.InstanceID)
			}
			instances[*m.InstanceID] = true
		}
	}
	return nil
}

// walk goes over the fields of a value without decoding them. It is done first
// because decoding trusts counts: of members, each of which is many times as
// large in memory as a short one is in bytes, and of tags.
type walk struct {
	rest     []byte
	flexible bool
	short    bool // the bytes have ended too early
}

// walkOver reports whether src has as many bytes as it claims.
func walkOver(src []byte, fields func(w *walk, version int16)) error {
	version := int16(binary.BigEndian.Uint16(src))
	w := &walk{rest: src[2:], flexible: version >= firstFlexibleVersion}
	fields(w, version)
	if w.short {
		return errors.New("the value is cut short")
	}
	return nil
}

func (w *walk) offset(version int16) {
	w.skip(8)
	if version >= 3 {
		w.skip(4)
	}
	w.text()
	w.skip(8)
	if version == offsetWithExpiry {
		w.skip(8)
	}
	w.tags()
}

func (w *walk) group(version int16) {
	w.text() // protocol type
	w.skip(4)
	w.text() // protocol
	w.text() // leader
	if version >= 2 {
		w.skip(8)
	}
	for n := w.length(4); n > 0 && !w.short; n-- {
		w.member(version)
	}
	w.tags()
}

func (w *walk) member(version int16) {
	w.text() // id
	if version >= 3 {
		w.text() // instance id
	}
	w.text() // client id
	w.text() // client host
	if version >= 1 {
		w.skip(4)
	}
	w.skip(4)
	w.skip(w.length(4)) // subscription
	w.skip(w.length(4)) // assignment
	w.tags()
}

func (w *walk) text() { w.skip(w.length(2)) }

func (w *walk) tags() {
	if !w.flexible {
		return
	}
	for n := w.uvarint(); n > 0 && !w.short; n-- {
		w.uvarint()
		w.skip(w.uvarint())
	}
}

func (w *walk) skip(n int) {
	if n > len(w.rest) {
		w.rest, w.short = nil, true
		return
	}
	w.rest = w.rest[n:]
}

// length reads a length, of size bytes or compact. Negative ones, which stand
// for null, are zero.
func (w *walk) length(size int) int {
	if w.flexible {
		return max(w.uvarint()-1, 0)
	}
	field := w.rest
	if w.skip(size); w.short {
		return 0
	}
	if size == 2 {
		return max(int(int16(binary.BigEndian.Uint16(field))), 0)
	}
	return max(int(int32(binary.BigEndian.Uint32(field))), 0)
}

func (w *walk) uvarint() int {
	n, used := binary.Uvarint(w.rest)
	if used <= 0 || n > math.MaxInt32 {
		w.rest, w.short = nil, true
		return 0
	}
	w.skip(used)
	return int(n)
}

// clear takes from a group what its record said.
func (c *Coordinator) clear(g *group) {
	for _, t := range g.pending { //lint:order all are stopped
		c.stop(t)
	}
	for _, m := range g.members {
		c.stop(&m.timer)
	}
	c.stop(&g.joinTimer)
	c.stop(&g.syncTimer)
	fresh := newGroup(g.name)
	fresh.offsets = g.offsets
	*g = *fresh
	g.joinTimer.group, g.syncTimer.group = g, g
}

// load takes over what a record says of a group without members.
func (g *group) load(v *kmsg.GroupMetadataValue) {
	g.written = true
	g.generation, g.protocolType, g.protocol = v.Generation, strings.Clone(v.ProtocolType), ""
	g.since = -1
	if v.Version >= 2 {
		g.since = v.CurrentStateTimestamp
	}
	g.state = empty
	if len(v.Members) == 0 {
		return
	}
	g.state, g.protocol = stable, *v.Protocol
	for i := range v.Members {
		g.add(loadMember(&v.Members[i], g.protocol), v.ProtocolType)
	}
	if v.Leader != nil && g.byID[*v.Leader] != nil {
		g.leader = *v.Leader
	}
}

func loadMember(v *kmsg.GroupMetadataValueMember, chosen string) *member {
	m := &member{
		id:         v.MemberID,
		clientID:   v.ClientID,
		host:       v.ClientHost,
		local:      v.ClientHost == localHost,
		rebalance:  time.Duration(v.RebalanceTimeoutMillis) * time.Millisecond,
		session:    max(time.Duration(v.SessionTimeoutMillis)*time.Millisecond, 0),
		protocols:  []protocol{{chosen, bytes.Clone(v.Subscription)}},
		assignment: bytes.Clone(v.Assignment),
	}
	if v.InstanceID != nil {
		m.instance = *v.InstanceID
	}
	if m.rebalance <= 0 { // version 0 has none
		m.rebalance = max(m.session, time.Second)
	}
	return m
}

// decided reports whether a record is the one that the group waits for, after
// its leader synced or a static member was replaced.
func (g *group) decided(v *kmsg.GroupMetadataValue) bool {
	if g == nil || g.state != completing && g.state != stable || v.Generation != g.generation || len(v.Members) != len(g.members) {
		return false
	}
	for i, m := range g.members {
		if v.Members[i].MemberID != m.id {
			return false
		}
	}
	return true
}

func (g *group) confirm(v *kmsg.GroupMetadataValue) {
	g.written, g.state, g.since = true, stable, v.CurrentStateTimestamp
	for i, m := range g.members {
		m.assignment = bytes.Clone(v.Members[i].Assignment)
	}
}

func (m *member) assigned() []byte { return m.assignment }

// record returns the record of the group as it is, with what each member is
// assigned.
func (g *group) record(since int64, assigned func(*member) []byte) Record {
	key := kmsg.GroupMetadataKey{Version: groupKeyVersion, Group: g.name}
	value := kmsg.GroupMetadataValue{
		Version:               groupValueVersion,
		ProtocolType:          g.protocolType,
		Generation:            g.generation,
		CurrentStateTimestamp: since,
		Members:               make([]kmsg.GroupMetadataValueMember, 0, len(g.members)),
	}
	if len(g.members) > 0 {
		value.Protocol, value.Leader = &g.protocol, &g.leader
	}
	for _, m := range g.members {
		value.Members = append(value.Members, kmsg.GroupMetadataValueMember{
			MemberID:               m.id,
			InstanceID:             m.instanceID(),
			ClientID:               m.clientID,
			ClientHost:             m.host,
			RebalanceTimeoutMillis: int32(m.rebalance.Milliseconds()),
			SessionTimeoutMillis:   int32(m.session.Milliseconds()),
			Subscription:           m.metadata(g.protocol),
			Assignment:             assigned(m),
		})
	}
	return Record{Key: key.AppendTo(nil), Value: value.AppendTo(nil)}
}

func groupTombstone(name string) Record {
	key := kmsg.GroupMetadataKey{Version: groupKeyVersion, Group: name}
	return Record{Key: key.AppendTo(nil)}
}

func offsetKey(group, topic string, partition int32) []byte {
	key := kmsg.OffsetCommitKey{Version: offsetKeyVersion, Group: group, Topic: topic, Partition: partition}
	return key.AppendTo(nil)
}

func offsetTombstone(group, topic string, partition int32) Record {
	return Record{Key: offsetKey(group, topic, partition)}
}

func (o *offset) record(group, topic string, partition int32) Record {
	value := kmsg.OffsetCommitValue{
		Version:         offsetValueVersion,
		Offset:          o.offset,
		LeaderEpoch:     o.epoch,
		Metadata:        o.metadata,
		CommitTimestamp: o.committed,
	}
	if o.expires != -1 {
		value.Version, value.ExpireTimestamp = offsetWithExpiry, o.expires
	}
	return Record{Key: offsetKey(group, topic, partition), Value: value.AppendTo(nil)}
}

// fits reports whether a record can be appended.
func (c *Coordinator) fits(r Record) bool { return len(r.Key)+len(r.Value) <= c.cfg.MaxRecordBytes }

// write has a group's record appended. The group in memory is ahead of it.
func (s *step) write(r Record) {
	s.Records = append(s.Records, r)
	s.Soft = true
}
