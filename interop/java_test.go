package interop

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/batch"
)

var forJava = flag.String("for-java", "", "directory to which TestBatchesForJava writes")

// TestWeReadWhatJavaWrites reads every file that Kafka's Java classes wrote (see
// java/): checked, split and printed by us, it is the text that Kafka prints of
// it, field by field. A follower would append it as it is.
func TestWeReadWhatJavaWrites(t *testing.T) {
	for _, f := range javaFiles(t) {
		t.Run(f.name, func(t *testing.T) {
			want, err := os.ReadFile(filepath.Join("testdata/java", f.name+".txt"))
			require.NoError(t, err)
			require.Equal(t, string(want), text(t, f.set))

			first, _, err := batch.Split(f.set)
			require.NoError(t, err)
			n, _, err := batch.Replicated(f.set, first.BaseOffset())
			require.NoError(t, err)
			require.Equal(t, len(f.set), n)
		})
	}
}

// TestWeEncodeAsJava encodes the records of every file again, whose offsets have
// no gaps: byte for byte, our encoder writes what Kafka's does, in the batch's
// header and in the records before compression, markers too.
func TestWeEncodeAsJava(t *testing.T) {
	encoded := 0
	for _, f := range javaFiles(t) {
		for _, b := range split(t, f.set) {
			c := contentOf(t, b)
			if int(b.LastOffsetDelta()) != len(c.Records)-1 || b.Control() && c.Marker == nil {
				continue // compacted, or of Kafka's metadata: not ours to write
			}
			t.Run(f.name, func(t *testing.T) { requireSameEncoding(t, c.encode(t), b) })
			encoded++
		}
	}
	require.Greater(t, encoded, 30)
}

// TestWeTakeWhatJavaProduces gives those files to a topic with Kafka's defaults
// that a producer could have sent: they are taken as they are.
func TestWeTakeWhatJavaProduces(t *testing.T) {
	taken := 0
	for _, f := range javaFiles(t) {
		b := split(t, f.set)[0]
		if b.BaseOffset() != 0 || b.TimestampType() != batch.CreateTime {
			continue
		}
		t.Run(f.name, func(t *testing.T) {
			rules := topicRules()
			rules.AfterMax = math.MaxInt64 // some records are from the future
			var v batch.Validator
			got, err := v.Produce(bytes.Clone(f.set), &rules)
			require.NoError(t, err)
			require.Equal(t, f.set, []byte(got))
		})
		taken++
	}
	require.Greater(t, taken, 20)
}

// TestBatchesForJava writes batches of ours for Kafka's Java classes to read, and
// what they must print of each: to a directory of its own, where it shows only
// that we print what the batches were made of, or to that of -for-java, where
// java/run.sh has Kafka read them.
func TestBatchesForJava(t *testing.T) {
	dir := *forJava
	if dir == "" {
		dir = t.TempDir()
	}
	contents := map[string]content{}
	for _, codec := range codecs {
		for _, level := range levels[codec] {
			c := plain(codec, everyKind()...)
			c.Level = level
			contents[fmt.Sprintf("%v%d-kinds", codec, level)] = c
			c.Records = big(1 << 10)
			contents[fmt.Sprintf("%v%d-big", codec, level)] = c
		}
	}
	for i := range 300 {
		contents[fmt.Sprintf("random-%03d", i)] = genContent().Example(i)
	}
	for name, c := range contents {
		b := c.encode(t)
		requireRecords(t, c.want(), read(t, b))
		file := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(file+".batch", b, 0o666))
		require.NoError(t, os.WriteFile(file+".want", []byte(text(t, b)), 0o666))
	}
}

// javaFile is the batches of one file that java/run.sh keeps.
type javaFile struct {
	name string
	set  []byte
}

func javaFiles(t *testing.T) []javaFile {
	paths, err := filepath.Glob("testdata/java/*.batch")
	require.NoError(t, err)
	require.Len(t, paths, 34)
	var files []javaFile
	for _, path := range paths {
		set, err := os.ReadFile(path)
		require.NoError(t, err)
		files = append(files, javaFile{strings.TrimSuffix(filepath.Base(path), ".batch"), set})
	}
	return files
}

func split(t require.TestingT, set []byte) []batch.Batch {
	var batches []batch.Batch
	for len(set) > 0 {
		b, rest, err := batch.Split(set)
		require.NoError(t, err)
		batches = append(batches, b)
		set = rest
	}
	return batches
}

// contentOf returns what to ask our encoder for to have b again. LogAppendTime is
// in the header alone: the records have times of their own below it, which are
// those of a copy without the attribute.
func contentOf(t require.TestingT, b batch.Batch) content {
	c := plain(b.Codec())
	c.BaseOffset, c.LeaderEpoch = b.BaseOffset(), b.LeaderEpoch()
	c.Producer = batch.Producer{ID: b.ProducerID(), Epoch: b.ProducerEpoch(), Sequence: b.BaseSequence(), Transactional: b.Transactional()}
	c.Records = read(t, b)
	if b.TimestampType() == batch.LogAppendTime {
		c.LogAppendTime = b.MaxTimestamp()
		c.Records = read(t, createTime(b))
	}
	if b.Control() {
		if m, err := batch.ParseMarker(c.Records[0].Key, c.Records[0].Value); err == nil {
			c.Marker = &m
		}
	}
	return c
}

// createTime returns a copy of b of type CreateTime.
func createTime(b batch.Batch) batch.Batch {
	const posCRC, posAttributes, logAppendTime = 17, 21, 1 << 3
	b = clone(b)
	b[posAttributes+1] &^= logAppendTime
	binary.BigEndian.PutUint32(b[posCRC:], crc32.Checksum(b[posAttributes:], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// text prints batches as java/src/main/java/Interop.java does.
func text(t require.TestingT, set []byte) string {
	var s strings.Builder
	for _, b := range split(t, set) {
		kind := [...]string{"CreateTime", "LogAppendTime"}[b.TimestampType()]
		horizon := "none"
		if ms, ok := b.DeleteHorizon(); ok {
			horizon = fmt.Sprint(ms)
		}
		fmt.Fprintf(&s, "batch offsets=%d..%d count=%d epoch=%d codec=%v type=%s base=%d max=%d producer=%d/%d/%d transactional=%t control=%t horizon=%s size=%d crc=%08x\n",
			b.BaseOffset(), b.LastOffset(), b.Count(), b.LeaderEpoch(), b.Codec(), kind, b.BaseTimestamp(), b.MaxTimestamp(),
			b.ProducerID(), b.ProducerEpoch(), b.BaseSequence(), b.Transactional(), b.Control(), horizon, len(b), b.CRC())
		for _, r := range read(t, b) {
			var headers []string
			for _, h := range r.Headers {
				headers = append(headers, show([]byte(h.Key))+":"+show(h.Value))
			}
			fmt.Fprintf(&s, "record offset=%d time=%d key=%s value=%s headers=[%s]", r.Offset, r.Timestamp, show(r.Key), show(r.Value), strings.Join(headers, " "))
			if b.Control() {
				s.WriteString(controlText(t, r))
			}
			s.WriteByte('\n')
		}
	}
	return s.String()
}

func controlText(t require.TestingT, r record) string {
	kind, err := batch.ParseControl(r.Key)
	require.NoError(t, err)
	if kind != batch.ControlAbort && kind != batch.ControlCommit {
		return fmt.Sprintf(" control=%d", kind)
	}
	m, err := batch.ParseMarker(r.Key, r.Value)
	require.NoError(t, err)
	return fmt.Sprintf(" control=%d coordinator=%d", kind, m.CoordinatorEpoch)
}

// show prints bytes in hex, or by length and CRC-32C where they are many.
func show(p []byte) string {
	switch {
	case p == nil:
		return "null"
	case len(p) <= 32:
		return `"` + hex.EncodeToString(p) + `"`
	}
	return fmt.Sprintf("%d#%08x", len(p), crc32.Checksum(p, castagnoli))
}
