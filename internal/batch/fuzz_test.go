package batch

import (
	"bytes"
	"encoding/binary"
	"flag"
	"testing"
	"time"

	"github.com/rifflelog/riffle/internal/compress"
)

// fuzzLimit bounds what a fuzzed batch may inflate to.
const fuzzLimit = 1 << 20

// inTime ends the fuzzer's worker, with every goroutine's stack, unless the timer is
// stopped in 3 seconds: an input with an endless loop is one that fails. The fuzzer
// itself would only lose a worker.
func inTime() *time.Timer {
	within := 3 * time.Second
	if flag.Lookup("test.fuzz").Value.String() == "" {
		within = time.Hour // of a test, -timeout is the bound
	}
	return time.AfterFunc(within, func() { panic("this input takes too long") })
}

// FuzzRead gives any bytes to Split, Check and Reader. Stated properties:
// nothing panics; every key, value and header lies within what was given or
// inflated; a batch that reads without error, encoded again without
// compression, reads the same; NextKey goes as far as Next, and finds the same
// offsets and keys. The checksum is also set right, so that mutations reach the
// records.
func FuzzRead(f *testing.F) {
	for _, codec := range codecs {
		f.Add([]byte(encode(f, codec, NoProducer, values(3, []byte("key"))...)))
		f.Add([]byte(encode(f, codec, NoProducer, rec{Key: []byte{}, Headers: []header{{"h", nil}, {"", []byte("v")}}})))
	}
	f.Add(make([]byte, 100))
	f.Fuzz(func(t *testing.T, data []byte) {
		defer inTime().Stop()
		if n := Claimed(data); n < 0 || n > MaxSize {
			t.Fatalf("%d bytes are claimed", n)
		}
		for rest := bytes.Clone(data); len(rest) > 0; {
			var b Batch
			var err error
			b, rest, err = Split(rest)
			if err != nil {
				return
			}
			b.putCRC()
			checkFuzzed(t, b)
		}
	})
}

func checkFuzzed(t *testing.T, b Batch) {
	if b.Check() != nil {
		return
	}
	var r Reader
	if r.Reset(b, fuzzLimit) != nil {
		return
	}
	budget := r.Remaining()
	var recs []rec
	for r.Next() {
		c := clone(&r.Record)
		budget -= len(c.Key) + len(c.Value) + r.Record.Headers.Size()
		recs = append(recs, c)
	}
	checkKeys(t, b, recs, r.Err())
	if budget < 0 {
		t.Fatalf("records have more bytes than the batch: %d", budget)
	}
	if r.Err() != nil || len(recs) == 0 {
		return
	}
	again, err := decode(encode(t, compress.None, NoProducer, recs...))
	if err != nil || len(again) != len(recs) {
		t.Fatalf("%d records, encoded again %d: %v", len(recs), len(again), err)
	}
	for i := range recs {
		if !bytes.Equal(recs[i].Key, again[i].Key) || !bytes.Equal(recs[i].Value, again[i].Value) ||
			recs[i].Timestamp != again[i].Timestamp || len(recs[i].Headers) != len(again[i].Headers) {
			t.Fatalf("record %d: %+v, encoded again %+v", i, recs[i], again[i])
		}
	}
}

// checkKeys reads the keys of b, of which Next has read recs before it ended with
// err.
func checkKeys(t *testing.T, b Batch, recs []rec, err error) {
	var r Reader
	if r.Reset(b, fuzzLimit) != nil {
		t.Fatal("Reset fails the second time")
	}
	n := 0
	for ; r.NextKey(); n++ {
		if n < len(recs) && (r.Record.Offset != recs[n].Offset || !bytes.Equal(r.Record.Key, recs[n].Key) || (r.Record.Key == nil) != (recs[n].Key == nil)) {
			t.Fatalf("record %d: key %q at %d, Next reads %q at %d", n, r.Record.Key, r.Record.Offset, recs[n].Key, recs[n].Offset)
		}
	}
	if n < len(recs) || err == nil && (n > len(recs) || r.Err() != nil) {
		t.Fatalf("%d keys and %v, Next reads %d records and %v", n, r.Err(), len(recs), err)
	}
}

// FuzzProduce gives any bytes to the validator under several topics' rules.
// Stated properties: nothing panics; what is accepted has a valid checksum,
// starts at 0, and holds as many records as offsets, all readable in order.
func FuzzProduce(f *testing.F) {
	for i, codec := range codecs {
		f.Add([]byte(encode(f, codec, NoProducer, values(3, []byte("key"))...)), byte(i))
	}
	f.Fuzz(func(t *testing.T, data []byte, mode byte) {
		defer inTime().Stop()
		set := bytes.Clone(data)
		if b, _, err := Split(set); err == nil {
			b.putCRC()
		}
		var v Validator
		got, err := v.Produce(set, rules(func(r *Rules) {
			r.KeepCodec = mode&8 != 0
			r.Codec = codecs[int(mode&7)%len(codecs)]
			r.Level = r.Codec.DefaultLevel()
			r.Compacted = mode&16 != 0
			r.TimestampType = TimestampType(mode >> 5 & 1)
		}))
		if err != nil {
			return
		}
		recs, err := decode(got)
		if err != nil || got.BaseOffset() != 0 || int(got.LastOffsetDelta())+1 != len(recs) {
			t.Fatalf("accepted: %d records to offset %d: %v", len(recs), got.LastOffset(), err)
		}
	})
}

// FuzzReplicated gives any bytes to the follower's check. Stated properties:
// nothing panics; what is accepted is whole batches whose offsets go on from
// the end.
func FuzzReplicated(f *testing.F) {
	one := encode(f, compress.None, NoProducer, values(10, nil)...)
	two := bytes.Clone(one)
	Batch(two).SetBaseOffset(10)
	f.Add(append(bytes.Clone(one), two...), int64(0))
	f.Fuzz(func(t *testing.T, set []byte, end int64) {
		defer inTime().Stop()
		if end < 0 {
			return
		}
		n, next, err := Replicated(set, end)
		if err != nil {
			return
		}
		at := end
		for rest := set[:n]; len(rest) > 0; {
			b, after, err := Split(rest)
			if err != nil || b.BaseOffset() < at {
				t.Fatalf("batch at %d after %d: %v", binary.BigEndian.Uint64(rest), at, err)
			}
			at, rest = b.NextOffset(), after
		}
		if at != next {
			t.Fatalf("end %d, batches end at %d", next, at)
		}
	})
}
