package group

import (
	"fmt"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// describe takes a DescribeGroups request. One that does not exist is Dead,
// which is an error since version 6 (KIP-1043).
func (c *Coordinator) describe(s *step, call Call, r *kmsg.DescribeGroupsRequest) {
	resp := r.ResponseKind().(*kmsg.DescribeGroupsResponse)
	s.answer(call.ID, resp)
	for _, name := range r.Groups {
		d := kmsg.NewDescribeGroupsResponseGroup()
		d.Group = name
		g := c.groups[name]
		if g == nil {
			d.State = "Dead"
			if r.Version >= 6 {
				d.ErrorCode = codeGroupIDNotFound
				d.ErrorMessage = kmsg.StringPtr(fmt.Sprintf("Group %s not found.", name))
			}
			resp.Groups = append(resp.Groups, d)
			continue
		}
		d.State, d.ProtocolType = g.state.String(), g.protocolType
		if g.state == stable {
			d.Protocol = g.protocol
		}
		for _, m := range g.members {
			d.Members = append(d.Members, m.describe())
		}
		resp.Groups = append(resp.Groups, d)
	}
}

// describe says what m has. Between generations that is nothing.
func (m *member) describe() kmsg.DescribeGroupsResponseGroupMember {
	d := kmsg.NewDescribeGroupsResponseGroupMember()
	d.MemberID, d.InstanceID, d.ClientID, d.ClientHost = m.id, m.instanceID(), m.clientID, m.host
	if m.group.state == stable {
		d.ProtocolMetadata, d.MemberAssignment = m.metadata(m.group.protocol), m.assignment
	}
	return d
}

// list takes a ListGroups request, with the filters of KIP-518 and KIP-848.
func (c *Coordinator) list(s *step, call Call, r *kmsg.ListGroupsRequest) {
	const kind = "classic"
	resp := r.ResponseKind().(*kmsg.ListGroupsResponse)
	s.answer(call.ID, resp)
	passes := func(filter []string, value string) bool {
		return len(filter) == 0 || slices.ContainsFunc(filter, func(f string) bool { return strings.EqualFold(f, value) })
	}
	for _, name := range c.Groups() {
		g := c.groups[name]
		if !passes(r.StatesFilter, g.state.String()) || !passes(r.TypesFilter, kind) {
			continue
		}
		l := kmsg.NewListGroupsResponseGroup()
		l.Group, l.ProtocolType, l.GroupState, l.GroupType = name, g.protocolType, g.state.String(), kind
		resp.Groups = append(resp.Groups, l)
	}
}

// deleteGroups takes a DeleteGroups request, for groups without members.
func (c *Coordinator) deleteGroups(s *step, call Call, r *kmsg.DeleteGroupsRequest) {
	resp := r.ResponseKind().(*kmsg.DeleteGroupsResponse)
	s.answer(call.ID, resp)
	deleted := map[string]bool{}
	for _, name := range r.Groups {
		d := kmsg.NewDeleteGroupsResponseGroup()
		d.Group = name
		switch g := c.groups[name]; {
		case g == nil:
			d.ErrorCode = codeGroupIDNotFound
		case g.state != empty:
			d.ErrorCode = codeNonEmptyGroup
		case !deleted[name]:
			deleted[name] = true
			s.Records = append(s.Records, g.tombstones()...)
			s.Records = append(s.Records, groupTombstone(name))
		}
		resp.Groups = append(resp.Groups, d)
	}
}
