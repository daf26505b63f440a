package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

var kfakeContender = &contender{
	name:   "kfake",
	module: "github.com/twmb/franz-go/pkg/kfake github.com/twmb/franz-go",
	notes: "one broker with a data directory, one partition, franz-go's client on loopback, no compression, acks from all, idempotent as by default. " +
		"Durable: `SyncWrites`, a flush a batch. One a call: `ProduceSync` without linger; many a call: `Produce` and `Flush`; pipelined: `Produce` with the default linger of 10 ms. " +
		"Consumed and in order: `PollRecords`, at most 10,000, without a group. By number: a fetch request for one batch. Each batch has a CRC.",
	open: openKfake,
}

const kfakeTopic = "topic"

type kfakeStore struct {
	cluster *kfake.Cluster
	one     *kgo.Client // without linger
	batches *kgo.Client // flushed by hand
	lingers *kgo.Client
	id      [16]byte // of the topic

	mu     sync.Mutex // guards failed
	failed error      // the first of what was enqueued
}

func openKfake(s settings) (store, error) {
	opts := []kfake.Opt{kfake.NumBrokers(1), kfake.DataDir(s.dir), kfake.SeedTopics(1, kfakeTopic)}
	if s.durable {
		opts = append(opts, kfake.SyncWrites())
	}
	cluster, err := kfake.NewCluster(opts...)
	if err != nil {
		return nil, err
	}
	k := &kfakeStore{cluster: cluster}
	if k.one, err = k.client(kgo.ProducerLinger(0)); err != nil {
		cluster.Close()
		return nil, err
	}
	return k, nil
}

// client returns a client of the cluster.
func (s *kfakeStore) client(more ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(s.cluster.ListenAddrs()...),
		kgo.DefaultProduceTopic(kfakeTopic),
		kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.ProducerBatchMaxBytes(1<<20 + 12),
	}, more...)...)
}

func (s *kfakeStore) appendOne(record []byte) error {
	return s.one.ProduceSync(context.Background(), &kgo.Record{Value: record}).FirstErr()
}

func (s *kfakeStore) send(record []byte) error { return s.appendOne(record) }

func (s *kfakeStore) appendMany(records [][]byte) (err error) {
	if s.batches == nil {
		if s.batches, err = s.client(kgo.ManualFlushing()); err != nil {
			return err
		}
	}
	recs := make([]kgo.Record, len(records))
	for i, r := range records {
		recs[i].Value = r
		s.batches.Produce(context.Background(), &recs[i], s.produced)
	}
	if err := s.batches.Flush(context.Background()); err != nil {
		return err
	}
	return s.failure()
}

func (s *kfakeStore) enqueue(record []byte) (err error) {
	if s.lingers == nil {
		if s.lingers, err = s.client(); err != nil {
			return err
		}
	}
	s.lingers.Produce(context.Background(), &kgo.Record{Value: record}, s.produced)
	return nil
}

func (s *kfakeStore) drain() error {
	if err := s.lingers.Flush(context.Background()); err != nil {
		return err
	}
	return s.failure()
}

func (s *kfakeStore) produced(_ *kgo.Record, err error) {
	if err == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil {
		s.failed = err
	}
}

func (s *kfakeStore) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// poll returns records that have come, at most so many.
func poll(ctx context.Context, c *kgo.Client, most int) ([]*kgo.Record, error) {
	fetches := c.PollRecords(ctx, most)
	for _, err := range fetches.Errors() {
		return nil, fmt.Errorf("poll %s/%d: %w", err.Topic, err.Partition, err.Err)
	}
	return fetches.Records(), nil
}

func (s *kfakeStore) consume(ctx context.Context, each func([]byte) bool) error {
	c, err := s.client(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{kfakeTopic: {0: kgo.NewOffset().At(0)}}), kgo.FetchMaxPartitionBytes(8<<20))
	if err != nil {
		return err
	}
	defer c.Close()
	for {
		recs, err := poll(ctx, c, 10_000)
		if err != nil {
			return err
		}
		for _, r := range recs {
			if !each(r.Value) {
				return nil
			}
		}
	}
}

// readAll ends with the record before the log end as it is now. The records are the caller's anyway.
func (s *kfakeStore) readAll(_ bool, each func([]byte)) error {
	info := s.cluster.PartitionInfo(kfakeTopic, 0)
	if info == nil || info.HighWatermark == 0 {
		return nil
	}
	left := info.HighWatermark
	return s.consume(context.Background(), func(record []byte) bool {
		each(record)
		left--
		return left > 0
	})
}

// readAt asks for the batch with the record: to move a consumer takes milliseconds.
func (s *kfakeStore) readAt(i int) ([]byte, error) {
	if s.id == [16]byte{} {
		s.id = s.cluster.TopicInfo(kfakeTopic).TopicID
	}
	req := kmsg.NewPtrFetchRequest()
	req.MinBytes = 1
	req.MaxBytes = 1 // at least a batch comes
	topic := kmsg.NewFetchRequestTopic()
	topic.Topic, topic.TopicID = kfakeTopic, s.id
	part := kmsg.NewFetchRequestTopicPartition()
	part.FetchOffset, part.PartitionMaxBytes = int64(i), 1
	topic.Partitions = append(topic.Partitions, part)
	req.Topics = append(req.Topics, topic)
	resp, err := req.RequestWith(context.Background(), s.one)
	if err != nil {
		return nil, err
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return nil, fmt.Errorf("fetch %d: error code %d", i, resp.ErrorCode)
	}
	got, _ := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{Offset: int64(i)}, &resp.Topics[0].Partitions[0], kgo.DefaultDecompressor(), nil)
	if got.Err != nil || len(got.Records) == 0 || got.Records[0].Offset != int64(i) {
		return nil, errors.Join(errMissing(i), got.Err)
	}
	return got.Records[0].Value, nil
}

func (s *kfakeStore) close() error {
	for _, c := range []*kgo.Client{s.one, s.batches, s.lingers} {
		if c != nil {
			c.Close()
		}
	}
	s.cluster.Close()
	return nil
}
