package interop

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pierrec/lz4/v4"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"

	"github.com/rifflelog/riffle/internal/batch"
	"github.com/rifflelog/riffle/internal/compress"
)

const topic = "t"

// timeout ends a test that waits for a reply which does not come.
const timeout = 20 * time.Second

// franzCodecs are franz-go's codecs, each with the ends of its levels.
var franzCodecs = []struct {
	name  string
	codec compress.Codec
	opt   kgo.CompressionCodec
}{
	{"none", compress.None, kgo.NoCompression()},
	{"gzip", compress.Gzip, kgo.GzipCompression()},
	{"gzip-1", compress.Gzip, kgo.GzipCompression().WithLevel(1)},
	{"gzip-9", compress.Gzip, kgo.GzipCompression().WithLevel(9)},
	{"snappy", compress.Snappy, kgo.SnappyCompression()},
	{"lz4", compress.LZ4, kgo.Lz4Compression()},
	{"lz4-1", compress.LZ4, kgo.Lz4Compression().WithLevel(int(lz4.Level1))},
	{"lz4-9", compress.LZ4, kgo.Lz4Compression().WithLevel(int(lz4.Level9))},
	{"zstd", compress.Zstd, kgo.ZstdCompression()},
	{"zstd-1", compress.Zstd, kgo.ZstdCompression().WithLevel(1)},
	{"zstd-4", compress.Zstd, kgo.ZstdCompression().WithLevel(4)},
}

// TestWeReadWhatFranzProduces lets franz-go's client produce records of every
// kind, by every codec and level, without an id, idempotent and in a
// transaction, to kfake on loopback. Of each request the batch is taken as it
// was sent: we must take it as valid and read what was produced, and our encoder
// must give the same bytes before compression.
func TestWeReadWhatFranzProduces(t *testing.T) {
	k := newKafka(t)
	for _, mode := range []string{"plain", "idempotent", "transactional"} {
		for _, f := range franzCodecs {
			t.Run(mode+"/"+f.name, func(t *testing.T) {
				opts := []kgo.Opt{kgo.ProducerBatchCompression(f.opt)}
				switch mode {
				case "plain":
					opts = append(opts, kgo.DisableIdempotentWrite())
				case "transactional":
					opts = append(opts, kgo.TransactionalID(t.Name()))
				}
				cl := k.client(t, opts...)
				var sequence int32
				var compressed bool
				for _, records := range [][]record{everyKind(), big(300)} {
					if mode == "transactional" {
						sequence = 0 // each transaction has an epoch of its own (KIP-890)
					}
					batches := k.produce(t, cl, mode == "transactional", records)
					requireProduced(t, batches, records)
					for _, b := range batches {
						compressed = compressed || b.Codec() == f.codec
						require.Equal(t, mode == "transactional", b.Transactional())
						require.Equal(t, mode != "plain", b.ProducerID() >= 0)
						require.Equal(t, sequence, b.BaseSequence())
						if mode != "plain" { // without an id, franz-go says 0
							sequence += b.Count()
						}
					}
				}
				require.True(t, compressed, "no batch is compressed")
			})
		}
	}
}

// TestWeReadWhatFranzProducesAtRandom is the same for random records by an
// idempotent client of each codec. Random records may compress badly: then
// franz-go sends them as they are.
func TestWeReadWhatFranzProducesAtRandom(t *testing.T) {
	k := newKafka(t)
	for _, opt := range []kgo.CompressionCodec{kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()} {
		cl := k.client(t, kgo.ProducerBatchCompression(opt))
		times := rapid.Int64Range(start-1_000_000_000, start+1_000_000_000)
		rapid.Check(t, func(rt *rapid.T) {
			records := genRecords(times).Draw(rt, "records")
			requireProduced(rt, k.produce(rt, cl, false, records), records)
		})
	}
}

// TestWeReadFranzsStreams has franz-go merge a backlog of records into batches as
// large as they may be compressed: many flushes in one stream, and snappy in
// Java's framing. One batch must be larger before compression than a batch may be.
func TestWeReadFranzsStreams(t *testing.T) {
	k := newKafka(t)
	const batchBytes = 100_000
	for _, f := range franzCodecs {
		if f.codec == compress.None || strings.Contains(f.name, "-") {
			continue // what is streamed does not depend on the level
		}
		t.Run(f.name, func(t *testing.T) {
			cl := k.client(t, kgo.ProducerBatchCompression(f.opt), kgo.StreamingCompression(), kgo.ProducerBatchMaxBytes(batchBytes), kgo.MaxBufferedRecords(1<<20))
			k.produce(t, cl, false, everyKind()) // the client merges after its first reply
			records := big(1 << 10)
			batches := k.produce(t, cl, false, records)
			requireProduced(t, batches, records)
			merged := false
			for _, b := range batches {
				merged = merged || b.Codec() == f.codec && len(inflated(t, b)) > batchBytes
			}
			require.True(t, merged, "no batch is larger than %d bytes before compression", batchBytes)
		})
	}
}

// TestKfakeTakesAndServesOurBatches sends batches of our encoder to kfake in
// Produce requests, as they are, and consumes them by franz-go's client.
func TestKfakeTakesAndServesOurBatches(t *testing.T) {
	k := newKafka(t)
	cl := k.client(t)
	var want []record
	for i, codec := range codecs {
		c := plain(codec, everyKind()...)
		if i%2 == 0 {
			c.Producer = batch.Producer{ID: int64(100 + i)}
		}
		k.produceRaw(t, cl, c.encode(t))
		c.BaseOffset = int64(len(want))
		want = append(want, c.want()...)
	}

	consumer := k.client(t, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	var got []*kgo.Record
	for len(got) < len(want) {
		fetches := consumer.PollFetches(ctx)
		require.NoError(t, fetches.Err())
		got = append(got, fetches.Records()...)
	}
	requireRecords(t, want, fromFranz(got))
}

// TestWeReadKfakesLog has franz-go's client commit a transaction and abort
// another, and reads the partition as kfake serves it to followers and
// consumers, with offsets and markers.
func TestWeReadKfakesLog(t *testing.T) {
	k := newKafka(t)
	cl := k.client(t, kgo.TransactionalID("x"), kgo.ProducerBatchCompression(kgo.ZstdCompression()))
	k.produce(t, cl, true, everyKind())
	require.NoError(t, cl.BeginTransaction())
	k.produce(t, cl, false, everyKind())
	require.NoError(t, cl.EndTransaction(t.Context(), kgo.TryAbort))

	log := k.fetch(t, cl)
	end := int64(2 * (len(everyKind()) + 1))
	n, next, err := batch.Replicated(log, 0)
	require.NoError(t, err)
	require.Equal(t, len(log), n)
	require.Equal(t, end, next)

	var data []record
	var commits []bool
	next = 0
	for len(log) > 0 {
		var b batch.Batch
		b, log, err = batch.Split(log)
		require.NoError(t, err)
		require.Equal(t, next, b.BaseOffset())
		require.True(t, b.Transactional())
		got := read(t, b)
		if b.Control() {
			require.Len(t, got, 1)
			m, err := batch.ParseMarker(got[0].Key, got[0].Value)
			require.NoError(t, err)
			commits = append(commits, m.Commit)
		} else {
			data = append(data, got...)
		}
		next = b.NextOffset()
	}
	require.Equal(t, []bool{true, false}, commits)

	n = len(everyKind())
	require.Len(t, data, 2*n)
	c := content{LogAppendTime: batch.NoTimestamp, Records: everyKind()}
	requireRecords(t, c.want(), data[:n])
	c.BaseOffset = int64(n) + 1
	requireRecords(t, c.want(), data[n:])
}

// requireProduced checks batches that were produced with records, which franz-go
// may cut where it likes.
func requireProduced(t require.TestingT, batches []batch.Batch, records []record) {
	for _, b := range batches {
		n := int(b.Count())
		require.LessOrEqual(t, n, len(records))
		requireOneProduced(t, b, records[:n])
		records = records[n:]
	}
	require.Zero(t, len(records), "records not sent")
}

// requireOneProduced checks all that there is to check of a batch that was
// produced with records.
func requireOneProduced(t require.TestingT, b batch.Batch, records []record) {
	c := plain(b.Codec(), records...)
	requireRecords(t, c.want(), read(t, b))
	requireValid(t, b)

	// Our encoder writes the same bytes, or would if it compressed alike.
	c.Producer = batch.Producer{ID: b.ProducerID(), Epoch: b.ProducerEpoch(), Sequence: b.BaseSequence(), Transactional: b.Transactional()}
	requireSameEncoding(t, c.encode(t), b)

	// A topic of another codec has them encoded again, and franz-go reads that.
	c.Codec = compress.Zstd
	if b.Codec() == compress.Zstd {
		c.Codec = compress.LZ4
	}
	rules := topicRules()
	rules.KeepCodec, rules.Codec, rules.Level = false, c.Codec, c.Codec.DefaultLevel()
	rules.MaxMessageBytes = math.MaxInt32
	var v batch.Validator
	anew, err := v.Produce(b, &rules)
	require.NoError(t, err)
	requireFields(t, &c, anew)
	requireFranzReads(t, &c, anew)
}

// requireValid checks that a topic with Kafka's defaults takes b as it is.
func requireValid(t require.TestingT, b batch.Batch) {
	var v batch.Validator
	rules := topicRules()
	before := bytes.Clone(b)
	got, err := v.Produce(b, &rules)
	require.NoError(t, err)
	require.Equal(t, before, []byte(got))
}

// topicRules are Kafka's defaults, an hour before the newest of random records.
func topicRules() batch.Rules {
	return batch.Rules{
		Now: start + 1_000_000_000, BeforeMax: math.MaxInt64, AfterMax: 3_600_000, KeepCodec: true,
		MaxMessageBytes: 1_048_588, SegmentBytes: 1 << 30,
	}
}

// requireSameEncoding compares the records before compression byte for byte, and
// the headers in all that does not follow from the compressed bytes: all but
// length and CRC.
func requireSameEncoding(t require.TestingT, want, got batch.Batch) {
	require.True(t, bytes.Equal(inflated(t, want), inflated(t, got)), "records differ before compression")
	const posLength, posEpoch, posCRC, posAttributes = 8, 12, 17, 21
	for _, field := range [][2]int{{0, posLength}, {posEpoch, posCRC}, {posAttributes, batch.HeaderSize}} {
		require.Equal(t, want[field[0]:field[1]], got[field[0]:field[1]], "header bytes %d to %d", field[0], field[1])
	}
	if want.Codec() == compress.None {
		require.True(t, bytes.Equal(want, got))
	}
}

// kafka is one kfake broker with one topic, and the batches that clients sent to
// it, in order.
type kafka struct {
	cluster *kfake.Cluster
	mu      sync.Mutex // guards sent
	sent    [][]byte
}

// newKafka starts a broker on loopback that ends with the test.
func newKafka(t *testing.T) *kafka {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, topic))
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	k := &kafka{cluster: cluster}
	cluster.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		k.mu.Lock()
		defer k.mu.Unlock()
		for _, topic := range req.(*kmsg.ProduceRequest).Topics {
			for _, part := range topic.Partitions {
				k.sent = append(k.sent, bytes.Clone(part.Records))
			}
		}
		return nil, nil, false // the broker goes on with it
	})
	return k
}

// take returns what has been sent since the last call.
func (k *kafka) take() [][]byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	sent := k.sent
	k.sent = nil
	return sent
}

// client connects a client that ends with the test. It is told when to send, so
// that records go together.
func (k *kafka) client(t *testing.T, opts ...kgo.Opt) *kgo.Client {
	cl, err := kgo.NewClient(append(slices.Clone(opts),
		kgo.SeedBrokers(k.cluster.ListenAddrs()...), kgo.DefaultProduceTopic(topic), kgo.ManualFlushing())...)
	require.NoError(t, err)
	t.Cleanup(cl.Close)
	return cl
}

// produce sends records, perhaps as a transaction, waits for the replies and
// returns the batches that were sent.
func (k *kafka) produce(t require.TestingT, cl *kgo.Client, transaction bool, records []record) []batch.Batch {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	k.take()
	if transaction {
		require.NoError(t, cl.BeginTransaction())
	}
	var failed kgo.FirstErrPromise
	for _, r := range records {
		out := &kgo.Record{Timestamp: time.UnixMilli(r.Timestamp), Key: r.Key, Value: r.Value}
		for _, h := range r.Headers {
			out.Headers = append(out.Headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
		}
		cl.Produce(ctx, out, failed.Promise())
	}
	require.NoError(t, cl.Flush(ctx))
	require.NoError(t, failed.Err())
	if transaction {
		require.NoError(t, cl.EndTransaction(ctx, kgo.TryCommit))
	}
	var batches []batch.Batch
	for _, set := range k.take() {
		b, rest, err := batch.Split(set)
		require.NoError(t, err)
		require.Empty(t, rest)
		batches = append(batches, b)
	}
	return batches
}

// produceRaw sends the bytes of a batch.
func (k *kafka) produceRaw(t *testing.T, cl *kgo.Client, b batch.Batch) {
	part := kmsg.NewProduceRequestTopicPartition()
	part.Records = b
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic, rt.TopicID = topic, k.cluster.TopicInfo(topic).TopicID
	rt.Partitions = append(rt.Partitions, part)
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, 1000
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(t.Context(), cl)
	require.NoError(t, err)
	got := resp.Topics[0].Partitions[0]
	require.NoError(t, kerr.ErrorForCode(got.ErrorCode), fmt.Sprint(got.ErrorMessage))
}

// fetch returns the partition's bytes.
func (k *kafka) fetch(t *testing.T, cl *kgo.Client) []byte {
	part := kmsg.NewFetchRequestTopicPartition()
	part.PartitionMaxBytes = 1 << 20
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic, rt.TopicID = topic, k.cluster.TopicInfo(topic).TopicID
	rt.Partitions = append(rt.Partitions, part)
	req := kmsg.NewPtrFetchRequest()
	req.MaxBytes = 1 << 20
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(t.Context(), cl)
	require.NoError(t, err)
	got := resp.Topics[0].Partitions[0]
	require.NoError(t, kerr.ErrorForCode(got.ErrorCode))
	return got.RecordBatches
}
