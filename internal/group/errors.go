package group

import "github.com/twmb/franz-go/pkg/kmsg"

// Kafka's error codes, as far as a coordinator has use for them.
const (
	codeUnknownServerError        int16 = -1
	codeUnknownTopicOrPartition   int16 = 3
	codeOffsetMetadataTooLarge    int16 = 12
	codeCoordinatorLoadInProgress int16 = 14
	codeIllegalGeneration         int16 = 22
	codeInconsistentGroupProtocol int16 = 23
	codeInvalidGroupID            int16 = 24
	codeUnknownMemberID           int16 = 25
	codeInvalidSessionTimeout     int16 = 26
	codeRebalanceInProgress       int16 = 27
	codeInvalidRequest            int16 = 42
	codeNonEmptyGroup             int16 = 68
	codeGroupIDNotFound           int16 = 69
	codeMemberIDRequired          int16 = 79
	codeGroupMaxSizeReached       int16 = 81
	codeFencedInstanceID          int16 = 82
	codeGroupSubscribedToTopic    int16 = 86
	codeUnknownTopicID            int16 = 100
)

// whileLoading is the error for a request that comes before Loaded. Older
// clients expect no other of these two: a heartbeat goes on blindly, and who
// syncs joins again.
func whileLoading(r kmsg.Request) int16 {
	switch r.(type) {
	case *kmsg.HeartbeatRequest:
		return 0
	case *kmsg.SyncGroupRequest:
		return codeRebalanceInProgress
	}
	return codeCoordinatorLoadInProgress
}

// Refuse returns the answer to a request with one error for all that it names.
func Refuse(r kmsg.Request, code int16) kmsg.Response {
	resp := r.ResponseKind()
	switch r := r.(type) {
	case *kmsg.LeaveGroupRequest:
		resp := resp.(*kmsg.LeaveGroupResponse)
		for _, l := range r.Members {
			m := kmsg.NewLeaveGroupResponseMember()
			m.MemberID, m.InstanceID = l.MemberID, l.InstanceID
			resp.Members = append(resp.Members, m)
		}
	case *kmsg.OffsetCommitRequest:
		commitAnswer(r, resp.(*kmsg.OffsetCommitResponse))
	case *kmsg.OffsetFetchRequest:
		fetchAnswer(r, resp.(*kmsg.OffsetFetchResponse))
	case *kmsg.DescribeGroupsRequest:
		resp := resp.(*kmsg.DescribeGroupsResponse)
		for _, name := range r.Groups {
			g := kmsg.NewDescribeGroupsResponseGroup()
			g.Group = name
			resp.Groups = append(resp.Groups, g)
		}
	case *kmsg.DeleteGroupsRequest:
		resp := resp.(*kmsg.DeleteGroupsResponse)
		for _, name := range r.Groups {
			g := kmsg.NewDeleteGroupsResponseGroup()
			g.Group = name
			resp.Groups = append(resp.Groups, g)
		}
	}
	return Answer{Response: resp}.Fail(code).Response
}

// Fail returns the answer with an error for all that it names, for one whose
// records could not be appended or committed. Of a join it says nothing but the
// error and the member id.
func (a Answer) Fail(code int16) Answer {
	switch resp := a.Response.(type) {
	case *kmsg.JoinGroupResponse:
		failed := kmsg.NewPtrJoinGroupResponse()
		failed.Version, failed.MemberID, failed.ErrorCode = resp.Version, resp.MemberID, code
		a.Response = failed
	case *kmsg.SyncGroupResponse:
		failed := kmsg.NewPtrSyncGroupResponse()
		failed.Version, failed.ErrorCode = resp.Version, code
		a.Response = failed
	case *kmsg.HeartbeatResponse:
		resp.ErrorCode = code
	case *kmsg.LeaveGroupResponse:
		resp.ErrorCode = code
		for i := range resp.Members {
			resp.Members[i].ErrorCode = code
		}
	case *kmsg.OffsetCommitResponse:
		for _, t := range resp.Topics {
			for i := range t.Partitions {
				t.Partitions[i].ErrorCode = code
			}
		}
	case *kmsg.OffsetFetchResponse:
		failFetch(resp, code)
	case *kmsg.OffsetDeleteResponse:
		resp.ErrorCode, resp.Topics = code, nil
	case *kmsg.DescribeGroupsResponse:
		for i, g := range resp.Groups {
			failed := kmsg.NewDescribeGroupsResponseGroup()
			failed.Group, failed.ErrorCode = g.Group, code
			resp.Groups[i] = failed
		}
	case *kmsg.ListGroupsResponse:
		resp.ErrorCode, resp.Groups = code, nil
	case *kmsg.DeleteGroupsResponse:
		for i := range resp.Groups {
			resp.Groups[i].ErrorCode = code
		}
	}
	return a
}

// failFetch leaves no offsets in an answer. Where no field is for the error of
// all, each partition has it.
func failFetch(resp *kmsg.OffsetFetchResponse, code int16) {
	resp.ErrorCode = code
	for _, t := range resp.Topics {
		for i := range t.Partitions {
			p := kmsg.NewOffsetFetchResponseTopicPartition()
			p.Partition, p.Offset, p.Metadata, p.ErrorCode = t.Partitions[i].Partition, -1, kmsg.StringPtr(""), code
			t.Partitions[i] = p
		}
	}
	for i := range resp.Groups {
		resp.Groups[i].ErrorCode, resp.Groups[i].Topics = code, nil
	}
}
