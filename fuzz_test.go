package riffle

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/batch"
	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

// FuzzSideFiles gives any bytes to the parsers of the small files. Stated properties: nothing panics; what is accepted prints
// as something that is accepted again and means the same.
func FuzzSideFiles(f *testing.F) {
	f.Add([]byte("version=1\ncluster.id=x\ndirectory.id=y\nriffle.format=1\n"))
	f.Add(formatPartitionMetadata(metadataTopicID))
	f.Add([]byte("0\n1\n0 0\n"))
	f.Add([]byte("=x"))
	f.Fuzz(func(t *testing.T, data []byte) {
		_ = checkMetaProperties("name", data)
		if id, err := parsePartitionMetadata(data); err == nil {
			if again, err := parsePartitionMetadata(formatPartitionMetadata(id)); err != nil || again != id {
				t.Fatalf("%q: %v", data, err)
			}
		}
		if c, err := parseEpochs(data); err == nil {
			if again, err := parseEpochs(c.format()); err != nil || !slices.Equal(again.load(), c.load()) {
				t.Fatalf("%q: %v", data, err)
			}
		}
	})
}

// FuzzMetadata gives any bytes to the reader of metadata records, after a topic was
// created, and to that of snapshots. Stated properties: nothing panics; what is
// accepted leaves topics that could have been created, each under its own name and
// id; a snapshot of them says the same.
func FuzzMetadata(f *testing.F) {
	f.Add(kindTopic, []byte(`{"name":"x","id":"AAAAAAAAAAAAAAAAAAAAAQ","partitions":1,"config":{"flush.ms":"5"}}`))
	f.Add(kindConfig, []byte(`{"id":"AAAAAAAAAAAAAAAAAAAAAg","config":{"retention.ms":"-1"}}`))
	f.Add(kindPartitions, []byte(`{"id":"AAAAAAAAAAAAAAAAAAAAAg","partitions":7}`))
	f.Add(kindDeletion, []byte(`{"id":"AAAAAAAAAAAAAAAAAAAAAg"}`))
	f.Add(kindHardState, []byte(`{}`))
	f.Fuzz(func(t *testing.T, kind string, value []byte) {
		image := newMetaImage()
		require.NoError(t, image.apply(kindTopic, []byte(`{"name":"first","id":"AAAAAAAAAAAAAAAAAAAAAg","partitions":2,"config":{"riffle.flush":"async"}}`)))
		if err := image.apply(kind, value); err != nil {
			require.ErrorIs(t, err, errors.ErrUnsupported)
			require.Len(t, image.topics, 1, "an error leaves all as it was")
		}
		for _, top := range image.sorted() {
			if checkTopicName(top.name) != nil || top.own.Partitions < 1 || len(top.own.problems()) > 0 ||
				image.topics[top.id] != top || image.names[top.name] != top {
				t.Fatalf("%q: topic %+v", value, top)
			}
		}
		data, err := formatSnapshot(image, 7, 1, &TopicConfig{MaxMessageBytes: 1 << 20, SegmentBytes: 1 << 20}, 1)
		require.NoError(t, err)
		again, end, err := parseSnapshot(data)
		require.NoError(t, err)
		require.Equal(t, Offset(7), end)
		require.Equal(t, image.sorted(), again.sorted())
		if image, _, err := parseSnapshot(value); err == nil {
			require.NotNil(t, image)
		}
	})
}

// FuzzSeal gives any bytes to the reader of seals, as they are and with a right
// hash. Stated properties: nothing panics; what is accepted is the format of
// what was read from it, byte for byte, and makes sense: a size, and the largest
// timestamp's offset among those that are there.
func FuzzSeal(f *testing.F) {
	f.Add(goldenSeal().format())
	f.Add((&seal{maxTimestamp: batch.NoTimestamp}).format())
	f.Add(make([]byte, sealSize))
	f.Fuzz(func(t *testing.T, data []byte) {
		for range 2 {
			if s, err := parseSeal(data); err == nil {
				if !bytes.Equal(s.format(), data) {
					t.Fatalf("%x is read as %+v", data, s)
				}
				if s.base < 0 || s.size < 0 || s.maxOffset < s.base || s.maxOffset > s.next || s.maxTimestamp < batch.NoTimestamp {
					t.Fatalf("%+v", s)
				}
			}
			if len(data) < 8 {
				return
			}
			rest := data[:len(data)-8]
			data = binary.BigEndian.AppendUint64(bytes.Clone(rest), xxhash.Sum64(rest))
		}
	})
}

// FuzzOpen puts any bytes into a partition's file, after some batches. Stated
// properties: opening neither fails nor panics; every batch before the bytes is
// there; reading ends, with the end or with ErrCorrupt; then the log takes
// appends or says that it is read-only.
func FuzzOpen(f *testing.F) {
	disk := memfs.New()
	l, err := open(disk, "/data", nil)
	if err != nil {
		f.Fatal(err)
	}
	p := partOf(f, l, "topic", nil)
	appendValues(f, p, 0, 3)
	name := p.path(logFileName(0))
	if err := l.Close(); err != nil {
		f.Fatal(err)
	}
	whole, err := vfs.ReadFile(disk, name, 1<<20)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(make([]byte, 200))
	f.Fuzz(func(t *testing.T, tail []byte) {
		fsys := disk.CrashClone(0)
		file, err := fsys.OpenWrite(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.WriteAt(tail, int64(len(whole))); err != nil {
			t.Fatal(err)
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
		l, err := open(fsys, "/data", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		p := partOf(t, l, "topic", nil)
		values, err := collect(p, Earliest)
		if len(values) < 3 || values[2] != "v2" {
			t.Fatalf("%d records, %v", len(values), err)
		}
		if _, aerr := p.Append(ctx, Record{}); aerr == nil && err != nil {
			t.Fatalf("appended behind %v", err)
		}
	})
}
