package riffle

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Kafka's requests about groups, whoever they come from: one function each.

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
	codeUnsupportedVersion     int16 = 35
	codeNonEmptyGroup          int16 = 68
	codeGroupNotFound          int16 = 69
	codeMemberIDRequired       int16 = 79
	codeGroupMaxSize           int16 = 81
	codeFencedInstance         int16 = 82
	codeGroupSubscribed        int16 = 86
)

// groupError is what a code means to a caller in this process.
func groupError(code int16) error {
	switch code {
	case codeNone:
		return nil
	case codeUnknownTopic:
		return ErrTopicNotFound
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

// commitOffsets commits offsets, once all records before them are on stable storage: a power
// cut must not leave a group beyond the end of its topic. If one of them cannot be committed,
// the error is that one's.
func (l *Log) commitOffsets(ctx context.Context, from groupCaller, req *kmsg.OffsetCommitRequest) error {
	if err := l.flushBefore(ctx, req); err != nil {
		return err
	}
	resp, err := l.askGroup(ctx, req.Group, from, req)
	if err != nil {
		return err
	}
	commit, ok := resp.(*kmsg.OffsetCommitResponse)
	if !ok {
		return errUnexpected(resp)
	}
	for _, t := range commit.Topics {
		for _, p := range t.Partitions {
			if err := groupError(p.ErrorCode); err != nil {
				return err
			}
		}
	}
	return nil
}

// flushBefore flushes what offsets cover.
func (l *Log) flushBefore(ctx context.Context, req *kmsg.OffsetCommitRequest) error {
	var dirty []*Partition
	for _, rt := range req.Topics {
		t, err := l.Topic(rt.Topic)
		if err != nil {
			return err
		}
		for _, rp := range rt.Partitions {
			p, err := t.Partition(int(rp.Partition))
			if err != nil {
				return err
			}
			if p.isDirty(Offset(rp.Offset)) {
				dirty = append(dirty, p)
			}
		}
	}
	if len(dirty) == 0 {
		return nil
	}
	return l.sync(ctx, func(yield func(*Partition) bool) {
		for _, p := range dirty {
			if !yield(p) {
				return
			}
		}
	})
}

// isDirty says whether something before end is not on stable storage.
func (p *Partition) isDirty(end Offset) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.flushed < min(end, p.dataEnd) || p.cut != p.cutFlushed
}

// fetchOffsets returns what a group has committed for partitions; for all of its partitions
// if parts is nil.
func (l *Log) fetchOffsets(ctx context.Context, name string, parts []TopicPartition) (map[TopicPartition]Position, error) {
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Version = 7
	req.Group, req.RequireStable = name, true
	req.Topics = nil
	if parts != nil {
		req.Topics = []kmsg.OffsetFetchRequestTopic{}
		byTopic := make(map[string]int)
		for _, tp := range parts {
			i, ok := byTopic[tp.Topic]
			if !ok {
				i = len(req.Topics)
				byTopic[tp.Topic] = i
				t := kmsg.NewOffsetFetchRequestTopic()
				t.Topic = tp.Topic
				req.Topics = append(req.Topics, t)
			}
			req.Topics[i].Partitions = append(req.Topics[i].Partitions, int32(tp.Partition))
		}
	}
	resp, err := l.askGroup(ctx, name, groupCaller{}, req)
	if err != nil {
		return nil, err
	}
	fetch, ok := resp.(*kmsg.OffsetFetchResponse)
	if !ok {
		return nil, errUnexpected(resp)
	}
	if err := groupError(fetch.ErrorCode); err != nil {
		return nil, err
	}
	at := make(map[TopicPartition]Position)
	for _, t := range fetch.Topics {
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

// findCoordinator answers where groups are coordinated: here.
func (l *Log) findCoordinator(req *kmsg.FindCoordinatorRequest, nodeID int32, host string, port int32) *kmsg.FindCoordinatorResponse {
	resp := req.ResponseKind().(*kmsg.FindCoordinatorResponse)
	keys := req.CoordinatorKeys
	if req.Version < 4 {
		resp.NodeID, resp.Host, resp.Port = nodeID, host, port
		return resp
	}
	for _, key := range keys {
		c := kmsg.NewFindCoordinatorResponseCoordinator()
		c.Key, c.NodeID, c.Host, c.Port = key, nodeID, host, port
		resp.Coordinators = append(resp.Coordinators, c)
	}
	return resp
}

// errNoGroups: a log without the topic of committed offsets has no groups.
var errNoGroups = errors.New("no group has been used yet")
