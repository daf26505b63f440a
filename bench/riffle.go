package main

import (
	"context"
	"errors"

	"github.com/rifflelog/riffle"
)

var riffleContender = &contender{
	name:   "Riffle",
	module: "",
	notes: "one partition, the default configuration. Not flushed: `FlushAsync`, records are with the operating system when an append returns, " +
		"and are flushed each second or 16 MiB. Durable: `FlushBeforeAck`. Pipelined: `Producer.Enqueue` and `Flush`; sent: `Producer.Send`; consumed: `Consumer.Poll`, without a group; all with the default options. Each batch has a CRC.",
	open: openRiffle,
}

const topicName = "topic"

type riffleStore struct {
	log  *riffle.Log
	part *riffle.Partition
	recs []riffle.Record

	producer *riffle.Producer
}

func openRiffle(s settings) (store, error) {
	log, err := riffle.Open(s.dir, nil)
	if err != nil {
		return nil, err
	}
	cfg := &riffle.TopicConfig{Flush: riffle.FlushAsync}
	if s.durable {
		cfg.Flush = riffle.FlushBeforeAck
	}
	topic, err := log.EnsureTopic(context.Background(), topicName, cfg)
	if err != nil {
		_ = log.Close()
		return nil, err
	}
	part, err := topic.Partition(0)
	if err != nil {
		_ = log.Close()
		return nil, err
	}
	producer, err := log.NewProducer(nil)
	return &riffleStore{log: log, part: part, producer: producer}, err
}

func (s *riffleStore) appendOne(record []byte) error {
	_, err := s.part.Append(context.Background(), riffle.Record{Value: record})
	return err
}

func (s *riffleStore) appendMany(records [][]byte) error {
	s.recs = s.recs[:0]
	for _, r := range records {
		s.recs = append(s.recs, riffle.Record{Value: r})
	}
	_, err := s.part.Append(context.Background(), s.recs...)
	return err
}

func (s *riffleStore) send(record []byte) error {
	_, err := s.producer.Send(context.Background(), riffle.Record{Topic: topicName, Value: record})
	return err
}

func (s *riffleStore) consume(ctx context.Context, each func([]byte) bool) (err error) {
	c, err := s.log.NewConsumer(&riffle.ConsumerOptions{Topics: []string{topicName}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	for {
		recs, err := c.Poll(ctx)
		if err != nil {
			return err
		}
		for i := range recs {
			if !each(recs[i].Value) {
				return nil
			}
		}
	}
}

func (s *riffleStore) enqueue(record []byte) error {
	return s.producer.Enqueue(context.Background(), riffle.Record{Topic: topicName, Value: record}, nil)
}

// drain waits for all that were enqueued; it returns the first error of one of them.
func (s *riffleStore) drain() error { return s.producer.Flush(context.Background()) }

func (s *riffleStore) readAll(owned bool, each func([]byte)) error {
	if owned {
		for rec, err := range s.part.Records(context.Background(), riffle.Earliest, nil) {
			if err != nil {
				return err
			}
			each(rec.Value)
		}
		return nil
	}
	for v, err := range s.part.Views(context.Background(), riffle.Earliest, nil) {
		if err != nil {
			return err
		}
		each(v.Value())
	}
	return nil
}

func (s *riffleStore) readAt(i int) (record []byte, err error) {
	for rec, err := range s.part.Records(context.Background(), riffle.Offset(i), nil) {
		return rec.Value, err
	}
	return nil, errMissing(i)
}

func (s *riffleStore) close() error { return s.log.Close() }
