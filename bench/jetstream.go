package main

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

var jetStreamContender = &contender{
	name:   "JetStream",
	module: "github.com/nats-io/nats-server/v2 github.com/nats-io/nats.go",
	notes: "embedded server with no listener, its client in process, one stream on disk, one replica. Not flushed: the default `SyncInterval` of 2 minutes; messages are with the operating " +
		"system when they are acknowledged. Durable: `SyncAlways`. One a call: `Publish`; many a call and pipelined: `PublishAsync`, at most 4,000 unacknowledged, its default. " +
		"Consumed and in order: an ordered consumer with a callback; by number: a direct get. Each message has a checksum.",
	open: openJetStream,
}

const streamName = "topic"

// jetStreamPatience is how long the server may take to start, and the last acknowledgement to come.
const jetStreamPatience = time.Minute

type jetStreamStore struct {
	server *server.Server
	conn   *nats.Conn
	js     jetstream.JetStream
	stream jetstream.Stream
	failed chan error // the first of what was enqueued
}

func openJetStream(s settings) (_ store, err error) {
	opts := &server.Options{JetStream: true, StoreDir: s.dir, DontListen: true, NoLog: true, NoSigs: true}
	if s.durable {
		opts.SyncAlways = true
	}
	j := &jetStreamStore{failed: make(chan error, 1)}
	if j.server, err = server.NewServer(opts); err != nil {
		return nil, err
	}
	j.server.Start()
	defer func() {
		if err != nil {
			_ = j.close()
		}
	}()
	if !j.server.ReadyForConnections(jetStreamPatience) {
		return nil, errors.New("the server does not start")
	}
	if j.conn, err = nats.Connect("", nats.InProcessServer(j.server)); err != nil {
		return nil, err
	}
	j.js, err = jetstream.New(j.conn, jetstream.WithPublishAsyncErrHandler(func(_ jetstream.JetStream, _ *nats.Msg, err error) {
		select {
		case j.failed <- err:
		default: // the first is enough
		}
	}))
	if err != nil {
		return nil, err
	}
	j.stream, err = j.js.CreateOrUpdateStream(context.Background(), jetstream.StreamConfig{
		Name: streamName, Subjects: []string{streamName}, Storage: jetstream.FileStorage, AllowDirect: true,
	})
	return j, err
}

func (s *jetStreamStore) appendOne(record []byte) error {
	_, err := s.js.Publish(context.Background(), streamName, record)
	return err
}

func (s *jetStreamStore) send(record []byte) error { return s.appendOne(record) }

func (s *jetStreamStore) appendMany(records [][]byte) error {
	for _, r := range records {
		if err := s.enqueue(r); err != nil {
			return err
		}
	}
	return s.drain()
}

func (s *jetStreamStore) enqueue(record []byte) error {
	_, err := s.js.PublishAsync(streamName, record)
	return err
}

func (s *jetStreamStore) drain() error {
	late := time.NewTimer(jetStreamPatience)
	defer late.Stop()
	select {
	case <-s.js.PublishAsyncComplete():
	case <-late.C:
		return errors.New("acknowledgements do not come")
	}
	select {
	case err := <-s.failed:
		return err
	default:
		return nil
	}
}

// consume has the client call it back, which takes a goroutine less than its iterator.
func (s *jetStreamStore) consume(ctx context.Context, each func([]byte) bool) error {
	c, err := s.stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return err
	}
	ended := false // the callback is not called by two at a time
	done := make(chan struct{})
	consuming, err := c.Consume(func(m jetstream.Msg) {
		if !ended && !each(m.Data()) {
			ended = true
			close(done)
		}
	}, jetstream.PullMaxMessages(10_000))
	if err != nil {
		return err
	}
	defer consuming.Stop()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// readAll ends with the last message as it is now. The messages are the caller's anyway.
func (s *jetStreamStore) readAll(_ bool, each func([]byte)) error {
	ctx := context.Background()
	info, err := s.stream.Info(ctx)
	if err != nil || info.State.Msgs == 0 {
		return err
	}
	left := info.State.Msgs
	return s.consume(ctx, func(record []byte) bool {
		each(record)
		left--
		return left > 0
	})
}

func (s *jetStreamStore) readAt(i int) ([]byte, error) {
	m, err := s.stream.GetMsg(context.Background(), uint64(i)+1)
	if err != nil {
		return nil, err
	}
	return m.Data, nil
}

func (s *jetStreamStore) close() error {
	if s.conn != nil {
		s.conn.Close()
	}
	s.server.Shutdown()
	s.server.WaitForShutdown()
	return nil
}
