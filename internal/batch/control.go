package batch

import (
	"encoding/binary"
	"fmt"

	"github.com/rifflelog/riffle/internal/compress"
)

// ControlType is what a control record says.
type ControlType int16

// The control types that a log of data holds, by Kafka's numbers. Others
// (leader changes, snapshots of its metadata quorum) are read as they are and
// mean nothing here.
const (
	ControlAbort  ControlType = 0
	ControlCommit ControlType = 1
)

// Marker is the control record that ends a transaction in one partition.
//
//	key:   version (0) int16 | type int16
//	value: version (0) int16 | coordinator epoch int32
type Marker struct {
	Commit           bool
	CoordinatorEpoch int32
}

const (
	controlKeySize  = 4
	markerValueSize = 6
)

// AppendMarker appends a control batch of the one marker m to dst, for the
// transaction of producer p, whose sequence numbers a marker does not use. It
// is not of a client: the log assigns offset and leader epoch as for any batch.
func (b *Builder) AppendMarker(dst []byte, timestamp int64, p Producer, m Marker) ([]byte, error) {
	var key [controlKeySize]byte
	if m.Commit {
		binary.BigEndian.PutUint16(key[2:], uint16(ControlCommit))
	}
	var value [markerValueSize]byte
	binary.BigEndian.PutUint32(value[2:], uint32(m.CoordinatorEpoch))

	b.Begin(dst, compress.None, 0)
	if err := Add[struct {
		Key   string
		Value []byte
	}](b, timestamp, key[:], value[:], nil); err != nil {
		return dst, err
	}
	p.Sequence, p.Transactional = NoSequence, true
	return b.finish(p, attrControl)
}

// ParseControl returns the type of a control record.
func ParseControl(key []byte) (ControlType, error) {
	if len(key) < controlKeySize || int16(binary.BigEndian.Uint16(key)) < 0 {
		return 0, fmt.Errorf("%w: control record with key %x", ErrCorrupt, key)
	}
	return ControlType(binary.BigEndian.Uint16(key[2:])), nil
}

// ParseMarker returns the marker that a control record is. Versions above 0 may
// have more fields: they are ignored.
func ParseMarker(key, value []byte) (Marker, error) {
	t, err := ParseControl(key)
	if err != nil {
		return Marker{}, err
	}
	if t != ControlAbort && t != ControlCommit {
		return Marker{}, fmt.Errorf("%w: control type %d ends no transaction", ErrInvalid, t)
	}
	if len(value) < markerValueSize || int16(binary.BigEndian.Uint16(value)) < 0 {
		return Marker{}, fmt.Errorf("%w: transaction marker with value %x", ErrCorrupt, value)
	}
	return Marker{Commit: t == ControlCommit, CoordinatorEpoch: int32(binary.BigEndian.Uint32(value[2:]))}, nil
}
