package riffle

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/rifflelog/riffle/internal/vfs"
)

// The small text files beside the batches, in Kafka's formats. Each is replaced
// as a whole, so that a crash leaves the old or the new one.

const (
	metaPropertiesName = "meta.properties"
	// maxSideFile bounds what is read of one: the largest, of leader epochs, has
	// a line for each unclean stop.
	maxSideFile = 16 << 20

	siteMetaProperties vfs.Site = "log.metaproperties.flush"
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
	// Its name is durable when openBounds has flushed the directory, which comes
	// before anything else is made there.
	return diskError(vfs.ReplaceFile(l.fs, siteMetaProperties, name, b.Bytes()))
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
