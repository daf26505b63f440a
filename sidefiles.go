package riffle

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/rifflelog/riffle/internal/vfs"
)

// The small text files beside the batches, in Kafka's formats. Each is replaced
// as a whole, so that a crash leaves the old or the new one.

const (
	metaPropertiesName = "meta.properties"
	checkpointName     = "recovery-point-offset-checkpoint"
	// maxSideFile bounds what is read of one: the largest has a line for each
	// partition.
	maxSideFile = 64 << 20

	siteMetaProperties vfs.Site = "log.metaproperties" // .flush and .syncdir
	siteCheckpoint     vfs.Site = "log.checkpoint"     // likewise
)

// newID returns a random id that does not begin with '-' when it is printed,
// which Kafka avoids for the sake of command lines.
func newID() [16]byte {
	var id [16]byte
	for id == [16]byte{} || formatID(id)[0] == '-' {
		_, _ = rand.Read(id[:]) // never fails
	}
	return id
}

// formatID prints an id as Kafka's Uuid does.
func formatID(id [16]byte) string { return base64.RawURLEncoding.EncodeToString(id[:]) }

func parseID(s string) (id [16]byte, err error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("id %q is not 16 bytes in base64", s)
	}
	return [16]byte(b), nil
}

// formatPartitionMetadata returns a partition.metadata file, which says of
// which topic the directory is.
func formatPartitionMetadata(id [16]byte) []byte {
	return []byte("version: 0\ntopic_id: " + formatID(id) + "\n")
}

func parsePartitionMetadata(data []byte) (id [16]byte, err error) {
	version, rest, _ := strings.Cut(string(data), "\n")
	topicID, rest, _ := strings.Cut(rest, "\n")
	s, ok := strings.CutPrefix(topicID, "topic_id: ")
	if version != "version: 0" || !ok || rest != "" {
		return id, fmt.Errorf("%q is no partition metadata of version 0", data)
	}
	return parseID(s)
}

// metaFormat is the version of this directory's layout, under a key of our own
// in meta.properties.
const metaFormat = "1"

// loadMetaProperties reads the directory's identity, or gives it one if it is
// new.
func (l *Log) loadMetaProperties() error {
	name := filepath.Join(l.dir, metaPropertiesName)
	data, err := vfs.ReadFile(l.fs, name, maxSideFile)
	if err == nil {
		return checkMetaProperties(name, data)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := l.fs.Stat(filepath.Join(l.dir, metadataDir)); !errors.Is(err, fs.ErrNotExist) {
		// It is made before anything else, so it was lost.
		return &CorruptError{File: name, Offset: NoOffset, Next: NoOffset, Err: errors.Join(fs.ErrNotExist, err)}
	}
	if err := syncParents(l.fs, l.dir); err != nil {
		return err
	}
	var b bytes.Buffer
	for _, kv := range [][2]string{
		{"version", "1"}, // Kafka's, of this file
		{"cluster.id", formatID(newID())},
		{"node.id", "1"},
		{"directory.id", formatID(newID())},
		{"riffle.format", metaFormat},
	} {
		fmt.Fprintf(&b, "%s=%s\n", kv[0], kv[1])
	}
	return diskError(vfs.WriteFileAtomic(l.fs, siteMetaProperties, name, b.Bytes()))
}

// checkMetaProperties refuses a directory that is not ours, or of a later
// version.
func checkMetaProperties(name string, data []byte) error {
	props := make(map[string]string)
	for line := range strings.Lines(string(data)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			props[k] = v
		}
	}
	switch format := props["riffle.format"]; {
	case props["version"] != "1" || props["cluster.id"] == "" || props["directory.id"] == "":
		return &CorruptError{File: name, Offset: NoOffset, Next: NoOffset, Err: errors.New("version, cluster.id or directory.id is missing")}
	case format == "":
		return fmt.Errorf("%w: %s is another program's: it has no riffle.format", errors.ErrUnsupported, name)
	case format != metaFormat:
		return fmt.Errorf("%w: %s has riffle.format %s, this version reads %s", errors.ErrUnsupported, name, format, metaFormat)
	}
	return nil
}

// checkpoint says up to which offset partitions were flushed once. It is a
// lower bound: offsets are not used twice, so an old one stays true.
type checkpoint map[TopicPartition]Offset

// format returns the file: version 0, the number of lines, and a line for each
// partition.
func (c checkpoint) format() []byte {
	var lines []string
	for tp, o := range c {
		lines = append(lines, fmt.Sprintf("%s %d %d\n", tp.Topic, tp.Partition, o))
	}
	slices.Sort(lines)
	return fmt.Appendf(nil, "0\n%d\n%s", len(lines), strings.Join(lines, ""))
}

// parseCheckpoint reads the file; what is not whole is worth nothing.
func parseCheckpoint(data []byte) (checkpoint, error) {
	s := bufio.NewScanner(bytes.NewReader(data))
	if !s.Scan() || s.Text() != "0" {
		return nil, errors.New("not of version 0")
	}
	if !s.Scan() {
		return nil, errors.New("cut short")
	}
	n, err := strconv.Atoi(s.Text())
	if err != nil {
		return nil, err
	}
	c := make(checkpoint)
	for s.Scan() {
		f := strings.Fields(s.Text())
		if len(f) != 3 {
			return nil, fmt.Errorf("line %q has not three fields", s.Text())
		}
		part, err1 := strconv.Atoi(f[1])
		o, err2 := strconv.ParseInt(f[2], 10, 64)
		if err := errors.Join(err1, err2, s.Err()); err != nil || o < 0 {
			return nil, fmt.Errorf("line %q: %w", s.Text(), errors.Join(err, errors.New("no offset")))
		}
		c[TopicPartition{f[0], part}] = Offset(o)
	}
	if len(c) != n {
		return nil, fmt.Errorf("%d lines of %d", len(c), n)
	}
	return c, s.Err()
}

// loadCheckpoint returns the recovery points. Without a readable file nothing
// is known, and recovery looks at everything.
func (l *Log) loadCheckpoint() checkpoint {
	name := filepath.Join(l.dir, checkpointName)
	data, err := vfs.ReadFile(l.fs, name, maxSideFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var c checkpoint
	if err == nil {
		c, err = parseCheckpoint(data)
	}
	if err != nil {
		l.opts.Logger.Warn("recovery points are lost", "file", name, "err", err)
		return nil
	}
	return c
}
