package riffle

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/rifflelog/riffle/internal/group"
	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// siteCommitFlush is the flush of records, before an offset behind them is committed.
const siteCommitFlush vfs.Site = "commit.flush"

// Kafka's error codes, as far as groups have them.
const (
	codeNone                   int16 = 0
	codeUnknownTopic           int16 = 3
	codeMetadataTooLarge       int16 = 12
	codeLoadInProgress         int16 = 14
	codeCoordinatorUnavailable int16 = 15
	codeIllegalGeneration      int16 = 22
	codeInconsistentProtocol   int16 = 23
	codeInvalidGroup           int16 = 24
	codeUnknownMember          int16 = 25
	codeInvalidSession         int16 = 26
	codeRebalanceInProgress    int16 = 27
	codeInvalidRequest         int16 = 42
	codeNonEmptyGroup          int16 = 68
	codeGroupNotFound          int16 = 69
	codeMemberIDRequired       int16 = 79
	codeGroupMaxSize           int16 = 81
	codeFencedInstance         int16 = 82
	codeStorage                int16 = 56
	codeGroupSubscribed        int16 = 86
	codeUnknownTopicID         int16 = 100
)

// groupError is what a code means to a caller in this process.
func groupError(code int16) error {
	switch code {
	case codeNone:
		return nil
	case codeUnknownTopic, codeUnknownTopicID:
		return ErrTopicNotFound
	case codeStorage:
		return ErrPartitionFailed
	case codeMetadataTooLarge:
		return fmt.Errorf("%w: metadata is longer than %d bytes", ErrInvalidOptions, maxCommitMetadata)
	case codeIllegalGeneration:
		return fmt.Errorf("%w: it has ended without this member", ErrRebalance)
	case codeRebalanceInProgress:
		return ErrRebalance
	case codeInconsistentProtocol:
		return fmt.Errorf("%w: no assignor of this consumer is one of all members", ErrInvalidOptions)
	case codeInvalidGroup:
		return fmt.Errorf("%w: illegal name of a group", ErrInvalidOptions)
	case codeUnknownMember:
		return ErrUnknownMember
	case codeInvalidSession:
		return fmt.Errorf("%w: SessionTimeout", ErrInvalidOptions)
	case codeNonEmptyGroup:
		return ErrGroupNotEmpty
	case codeGroupNotFound:
		return ErrGroupNotFound
	case codeGroupMaxSize:
		return fmt.Errorf("%w: the group has as many members as it may", ErrInvalidState)
	case codeFencedInstance:
		return fmt.Errorf("%w: another consumer has this InstanceID", ErrFenced)
	case codeGroupSubscribed:
		return fmt.Errorf("%w: it subscribes to the topic", ErrGroupNotEmpty)
	}
	return fmt.Errorf("group coordinator: Kafka's error %d", code)
}

// groupRequest answers one of Kafka's requests about groups, whoever it comes from:
// FindCoordinator, JoinGroup, SyncGroup, Heartbeat, LeaveGroup, OffsetCommit, OffsetFetch,
// OffsetDelete, DescribeGroups, ListGroups or DeleteGroups. Where its version names topics by
// id, their names are to be filled in. Who must not wait uses callGroup for the first five.
//
// An error says that a coordinator could not do its work: of a request about several of them,
// only if none could; else what it was asked for has COORDINATOR_NOT_AVAILABLE. If ctx ends,
// what was asked for may come to be: ErrInDoubt, unless it changes nothing.
func (l *Log) groupRequest(ctx context.Context, from groupCaller, req kmsg.Request) (kmsg.Response, error) {
	switch r := req.(type) {
	case *kmsg.FindCoordinatorRequest:
		return findCoordinator(from, r), nil
	case *kmsg.OffsetCommitRequest:
		return l.commitOffsets(ctx, from, r)
	case *kmsg.OffsetFetchRequest:
		if r.Version >= 8 {
			return l.fetchOffsets(ctx, from, r)
		}
	case *kmsg.DescribeGroupsRequest:
		return l.describeGroups(ctx, from, r)
	case *kmsg.DeleteGroupsRequest:
		return l.deleteGroups(ctx, from, r)
	case *kmsg.ListGroupsRequest:
		return l.listGroups(ctx, from, r)
	}
	return l.askGroup(ctx, from, req)
}

// groupOf is the group that a request is about.
func groupOf(req kmsg.Request) string {
	switch r := req.(type) {
	case *kmsg.JoinGroupRequest:
		return r.Group
	case *kmsg.SyncGroupRequest:
		return r.Group
	case *kmsg.HeartbeatRequest:
		return r.Group
	case *kmsg.LeaveGroupRequest:
		return r.Group
	case *kmsg.OffsetCommitRequest:
		return r.Group
	case *kmsg.OffsetFetchRequest:
		return r.Group
	case *kmsg.OffsetDeleteRequest:
		return r.Group
	}
	return ""
}

// createsOffsets says whether a request makes offsetsTopic, if there is none.
func createsOffsets(req kmsg.Request) bool {
	switch req.(type) {
	case *kmsg.JoinGroupRequest, *kmsg.OffsetCommitRequest:
		return true
	}
	return false
}

// callGroup sends a request to the coordinator of the one group that it is about.
func (l *Log) callGroup(from groupCaller, req kmsg.Request, reply groupReply) {
	co, err := l.coordinatorOf(groupOf(req), createsOffsets(req))
	if err != nil {
		reply(nil, err)
		return
	}
	co.handle(from, req, reply)
}

// askGroup is callGroup that waits.
func (l *Log) askGroup(ctx context.Context, from groupCaller, req kmsg.Request) (kmsg.Response, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	co, err := l.coordinatorOf(groupOf(req), createsOffsets(req))
	if err != nil {
		return nil, err
	}
	return co.ask(ctx, from, req)
}

// ask is handle that waits.
func (co *coordinator) ask(ctx context.Context, from groupCaller, req kmsg.Request) (kmsg.Response, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	type result struct {
		resp kmsg.Response
		err  error
	}
	done := make(chan result, 1)
	co.handle(from, req, func(resp kmsg.Response, err error) { done <- result{resp, err} })
	select {
	case r := <-done:
		return r.resp, r.err
	case <-co.log.broken:
		return nil, inDoubt(co.log.closedError())
	case <-ctx.Done():
	}
	select {
	case r := <-done:
		return r.resp, r.err
	default:
	}
	if reads(req) {
		return nil, ctx.Err()
	}
	return nil, inDoubt(ctx.Err())
}

// askEach asks the coordinator of each of the groups that a request names, for those that are
// its own, by their place among the names. Of an error of one of several coordinators put gets
// the refusal.
func (l *Log) askEach(
	ctx context.Context, from groupCaller, names []string, ask func(own []int) kmsg.Request, put func(own []int, resp kmsg.Response),
) error {
	var all []*coordinator
	own := make(map[*coordinator][]int)
	for i, name := range names {
		co, err := l.coordinatorOf(name, false)
		if err != nil {
			return err
		}
		if own[co] == nil {
			all = append(all, co)
		}
		own[co] = append(own[co], i)
	}
	for _, co := range all {
		req := ask(own[co])
		resp, err := co.ask(ctx, from, req)
		switch {
		case err == nil:
		case len(all) == 1 || ctx.Err() != nil || l.isClosing():
			return err
		default:
			resp = group.Refuse(req, codeCoordinatorUnavailable)
		}
		put(own[co], resp)
	}
	return nil
}

// pick returns the elements of list at some places.
func pick[T any](list []T, at []int) []T {
	some := make([]T, len(at))
	for i, k := range at {
		some[i] = list[k]
	}
	return some
}

// place puts elements to their places.
func place[T any](list []T, at []int, some []T) {
	for i, k := range at {
		list[k] = some[i]
	}
}

func (l *Log) describeGroups(ctx context.Context, from groupCaller, r *kmsg.DescribeGroupsRequest) (kmsg.Response, error) {
	resp := r.ResponseKind().(*kmsg.DescribeGroupsResponse)
	resp.Groups = make([]kmsg.DescribeGroupsResponseGroup, len(r.Groups))
	err := l.askEach(ctx, from, r.Groups, func(own []int) kmsg.Request {
		part := *r
		part.Groups = pick(r.Groups, own)
		return &part
	}, func(own []int, answer kmsg.Response) {
		place(resp.Groups, own, answer.(*kmsg.DescribeGroupsResponse).Groups)
	})
	return resp, err
}

func (l *Log) deleteGroups(ctx context.Context, from groupCaller, r *kmsg.DeleteGroupsRequest) (kmsg.Response, error) {
	resp := r.ResponseKind().(*kmsg.DeleteGroupsResponse)
	resp.Groups = make([]kmsg.DeleteGroupsResponseGroup, len(r.Groups))
	err := l.askEach(ctx, from, r.Groups, func(own []int) kmsg.Request {
		part := *r
		part.Groups = pick(r.Groups, own)
		return &part
	}, func(own []int, answer kmsg.Response) {
		place(resp.Groups, own, answer.(*kmsg.DeleteGroupsResponse).Groups)
	})
	return resp, err
}

// fetchOffsets answers for the groups that version 8 and later name.
func (l *Log) fetchOffsets(ctx context.Context, from groupCaller, r *kmsg.OffsetFetchRequest) (kmsg.Response, error) {
	resp := r.ResponseKind().(*kmsg.OffsetFetchResponse)
	resp.Groups = make([]kmsg.OffsetFetchResponseGroup, len(r.Groups))
	names := make([]string, len(r.Groups))
	for i := range r.Groups {
		names[i] = r.Groups[i].Group
	}
	err := l.askEach(ctx, from, names, func(own []int) kmsg.Request {
		part := *r
		part.Groups = pick(r.Groups, own)
		return &part
	}, func(own []int, answer kmsg.Response) {
		place(resp.Groups, own, answer.(*kmsg.OffsetFetchResponse).Groups)
	})
	return resp, err
}

// listGroups answers for all coordinators. One that cannot say its groups is an error for all:
// a group that is not listed would be taken for one that is not there.
func (l *Log) listGroups(ctx context.Context, from groupCaller, r *kmsg.ListGroupsRequest) (kmsg.Response, error) {
	resp := r.ResponseKind().(*kmsg.ListGroupsResponse)
	all, err := l.coordinators(false)
	if errors.Is(err, errNoGroups) {
		return resp, nil
	}
	if err != nil {
		return nil, err
	}
	for _, co := range all {
		if co.isUnused() {
			continue
		}
		answer, err := co.ask(ctx, from, r)
		if err != nil {
			return nil, err
		}
		part := answer.(*kmsg.ListGroupsResponse)
		if part.ErrorCode != codeNone {
			return part, nil
		}
		resp.Groups = append(resp.Groups, part.Groups...)
	}
	slices.SortFunc(resp.Groups, func(a, b kmsg.ListGroupsResponseGroup) int { return cmp.Compare(a.Group, b.Group) })
	return resp, nil
}

// findCoordinator answers where groups are coordinated: at the node that is asked.
func findCoordinator(from groupCaller, r *kmsg.FindCoordinatorRequest) *kmsg.FindCoordinatorResponse {
	const groups = 0
	resp := r.ResponseKind().(*kmsg.FindCoordinatorResponse)
	code := codeNone
	if r.CoordinatorType != groups {
		code = codeInvalidRequest
	}
	if r.Version < 4 {
		resp.ErrorCode, resp.NodeID, resp.Host, resp.Port = code, from.node.id, from.node.host, from.node.port
		return resp
	}
	for _, key := range r.CoordinatorKeys {
		c := kmsg.NewFindCoordinatorResponseCoordinator()
		c.Key, c.ErrorCode, c.NodeID, c.Host, c.Port = key, code, from.node.id, from.node.host, from.node.port
		resp.Coordinators = append(resp.Coordinators, c)
	}
	return resp
}

// commitOffsets commits offsets, once all records before them are on stable storage: a power
// cut must not leave a group beyond the end of its topic. Those whose records cannot be flushed
// are KAFKA_STORAGE_ERROR.
func (l *Log) commitOffsets(ctx context.Context, from groupCaller, r *kmsg.OffsetCommitRequest) (kmsg.Response, error) {
	failed, err := l.flushBefore(ctx, r)
	if err != nil {
		return nil, err
	}
	if len(failed) == 0 {
		return l.askGroup(ctx, from, r)
	}
	if from.whole {
		tp := slices.SortedFunc(maps.Keys(failed), comparePartitions)[0]
		return nil, &PartitionError{Op: "commit", Topic: tp.Topic, Partition: tp.Partition, Err: ErrPartitionFailed}
	}
	part := *r
	part.Topics = slices.Clone(r.Topics)
	for i := range part.Topics {
		t := &part.Topics[i]
		t.Partitions = slices.DeleteFunc(slices.Clone(t.Partitions), func(p kmsg.OffsetCommitRequestTopicPartition) bool {
			return failed[TopicPartition{t.Topic, int(p.Partition)}]
		})
	}
	answer, err := l.askGroup(ctx, from, &part)
	if err != nil {
		return nil, err
	}
	resp := answer.(*kmsg.OffsetCommitResponse)
	for i := range resp.Topics { // in the order of the request
		for _, p := range r.Topics[i].Partitions {
			if failed[TopicPartition{r.Topics[i].Topic, int(p.Partition)}] {
				bad := kmsg.NewOffsetCommitResponseTopicPartition()
				bad.Partition, bad.ErrorCode = p.Partition, codeStorage
				resp.Topics[i].Partitions = append(resp.Topics[i].Partitions, bad)
			}
		}
	}
	return resp, nil
}

// flushBefore flushes what offsets cover, of partitions that there are. It returns those that
// cannot be flushed.
func (l *Log) flushBefore(ctx context.Context, r *kmsg.OffsetCommitRequest) (failed map[TopicPartition]bool, err error) {
	dirty := make(map[*Partition]Offset)
	for _, t := range r.Topics {
		for _, rp := range t.Partitions {
			p, err := l.partition(TopicPartition{t.Topic, int(rp.Partition)})
			if err != nil {
				continue // the coordinator says what that means
			}
			if end := Offset(rp.Offset); !l.fs.Check(siteCommitFlush, p.isFlushed(end)) {
				dirty[p] = max(dirty[p], end)
			}
		}
	}
	if len(dirty) == 0 {
		return nil, nil
	}
	err = l.sync(ctx, maps.Keys(dirty))
	if err != nil && !errors.Is(err, ErrPartitionFailed) {
		return nil, err
	}
	failed = make(map[TopicPartition]bool)
	for p, end := range dirty {
		if !p.isFlushed(end) {
			failed[p.name()] = true
		}
	}
	return failed, nil
}

// isFlushed says whether all records before end are on stable storage.
func (p *Partition) isFlushed(end Offset) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.flushed >= min(end, p.dataEnd)
}

// commitAs commits offsets for a caller of this process. If one of them cannot be committed,
// the error is that one's.
func (l *Log) commitAs(ctx context.Context, from groupCaller, r *kmsg.OffsetCommitRequest) error {
	answer, err := l.groupRequest(ctx, from, r)
	if err != nil {
		return err
	}
	resp, ok := answer.(*kmsg.OffsetCommitResponse)
	if !ok {
		return errUnexpected(answer)
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			switch err := groupError(p.ErrorCode); p.ErrorCode {
			case codeNone:
			case codeUnknownTopic, codeUnknownTopicID, codeStorage, codeMetadataTooLarge:
				return &PartitionError{Op: "commit", Topic: t.Topic, Partition: int(p.Partition), Err: err}
			case codeGroupNotFound: // it has been forgotten, with its members
				return ErrUnknownMember
			default:
				return err
			}
		}
	}
	return nil
}

// committed returns what a group has committed for partitions; for all of its partitions if
// parts is nil.
func (l *Log) committed(ctx context.Context, name string, parts []TopicPartition) (map[TopicPartition]Position, error) {
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Version, req.RequireStable = 9, true
	asked := kmsg.NewOffsetFetchRequestGroup()
	asked.Group, asked.Topics = name, nil
	if parts != nil {
		asked.Topics = []kmsg.OffsetFetchRequestGroupTopic{}
		byTopic := make(map[string]int)
		for _, tp := range parts {
			if !isPartitionNumber(tp.Partition) {
				continue // nothing is committed for it
			}
			i, ok := byTopic[tp.Topic]
			if !ok {
				i = len(asked.Topics)
				byTopic[tp.Topic] = i
				t := kmsg.NewOffsetFetchRequestGroupTopic()
				t.Topic = tp.Topic
				asked.Topics = append(asked.Topics, t)
			}
			asked.Topics[i].Partitions = append(asked.Topics[i].Partitions, int32(tp.Partition))
		}
	}
	req.Groups = append(req.Groups, asked)
	answer, err := l.groupRequest(ctx, groupCaller{}, req)
	if err != nil {
		return nil, err
	}
	resp, ok := answer.(*kmsg.OffsetFetchResponse)
	if !ok || len(resp.Groups) != 1 {
		return nil, errUnexpected(answer)
	}
	if err := groupError(resp.Groups[0].ErrorCode); err != nil {
		return nil, err
	}
	return ourPositions(resp.Groups[0].Topics)
}

// isPartitionNumber says whether a partition can have that number: in Kafka's messages it has 31
// bits, and what is cut off would make it another's.
func isPartitionNumber(n int) bool { return 0 <= n && n <= math.MaxInt32 }

func ourPositions(topics []kmsg.OffsetFetchResponseGroupTopic) (map[TopicPartition]Position, error) {
	at := make(map[TopicPartition]Position)
	for _, t := range topics {
		for _, p := range t.Partitions {
			if err := groupError(p.ErrorCode); err != nil {
				return nil, err
			}
			if p.Offset < 0 {
				continue
			}
			pos := Position{Offset: Offset(p.Offset), LeaderEpoch: max(p.LeaderEpoch, 0)}
			if p.Metadata != nil {
				pos.Metadata = *p.Metadata
			}
			at[TopicPartition{t.Topic, int(p.Partition)}] = pos
		}
	}
	return at, nil
}

func errUnexpected(resp kmsg.Response) error {
	return fmt.Errorf("group coordinator: unexpected answer %T", resp)
}
