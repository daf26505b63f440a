package riffle

import (
	"encoding/binary"
	"fmt"
	"math"
)

// txnIndex lists the aborted transactions whose abort marker is in a segment,
// in the order of the markers: the content of its .txnindex file, in Kafka's
// format.
//
//	0    2           10          18          26          34
//	+----+-----------+-----------+-----------+-----------+
//	| 0  | producer  | first     | last      | last      |  int16, then
//	|    | id        | offset    | offset    | stable o. |  int64, big endian
//	+----+-----------+-----------+-----------+-----------+
//
// It is not allocated ahead and has no largest size. No entry is all zeros,
// since a transaction's last offset, the marker's, is above its first.
//
// One goroutine at a time changes it, any number look things up.
type txnIndex struct {
	indexTable[abortedTxn]
}

// abortedTxn is a transaction that was aborted, an entry as it is stored.
type abortedTxn struct {
	version     int16 // 0
	producerID  int64
	first, last Offset // of its first record, perhaps in an earlier segment, and of its abort marker
	// lastStable is the last stable offset once the marker was written: where
	// the earliest transaction begins that was still open, or last+1. All
	// transactions that begin before it have ended by then.
	lastStable Offset
}

// newTxnIndex returns the index of an empty segment.
func newTxnIndex(base Offset) *txnIndex {
	// Markers are in the segment. Other offsets need not be.
	origin := abortedTxn{last: base - 1}
	return &txnIndex{indexTable[abortedTxn]{origin: origin, maxBytes: math.MaxInt}}
}

// loadTxnIndex returns the index that data, the content of a file, holds.
// Whether the last offset of lastEntry is in the segment is the caller's to
// check. A lost entry would show aborted records, so nothing is cut.
func loadTxnIndex(data []byte, base Offset) (*txnIndex, error) {
	x := newTxnIndex(base)
	if err := x.parse(data, false); err != nil {
		return nil, fmt.Errorf("transaction index: %w", err)
	}
	return x, nil
}

// add takes note of an abort. Last offsets must grow.
func (x *txnIndex) add(txn abortedTxn) error {
	if err := x.push(txn, 0); err != nil {
		return fmt.Errorf("transaction index: %w", err)
	}
	return nil
}

// collect returns the aborted transactions that have offsets in [from, upper),
// and whether that is all: if not, those whose markers are in later segments
// are missing. [from, upper) is not empty.
func (x *txnIndex) collect(from, upper Offset) (aborted []abortedTxn, complete bool) {
	entries := x.entries()
	// Entries that end before from are skipped. None of them could say that it
	// is complete: their last stable offset is not above from.
	for i := entries.search(func(e abortedTxn) bool { return e.last >= from }); i < entries.len(); i++ {
		txn := entries.at(i)
		if txn.first < upper {
			aborted = append(aborted, txn)
		}
		if txn.lastStable >= upper {
			return aborted, true
		}
	}
	return aborted, false
}

// truncate drops the transactions whose markers are at o and above.
func (x *txnIndex) truncate(o Offset) {
	x.cut(func(e abortedTxn) bool { return e.last >= o })
}

func (abortedTxn) size() int { return 34 }

func (e abortedTxn) encode(b []byte) {
	binary.BigEndian.PutUint16(b, uint16(e.version))
	binary.BigEndian.PutUint64(b[2:], uint64(e.producerID))
	binary.BigEndian.PutUint64(b[10:], uint64(e.first))
	binary.BigEndian.PutUint64(b[18:], uint64(e.last))
	binary.BigEndian.PutUint64(b[26:], uint64(e.lastStable))
}

func (abortedTxn) decode(b []byte) abortedTxn {
	return abortedTxn{
		version:    int16(binary.BigEndian.Uint16(b)),
		producerID: int64(binary.BigEndian.Uint64(b[2:])),
		first:      Offset(binary.BigEndian.Uint64(b[10:])),
		last:       Offset(binary.BigEndian.Uint64(b[18:])),
		lastStable: Offset(binary.BigEndian.Uint64(b[26:])),
	}
}

// follows checks, besides the order, what collect relies on: when an entry says
// that all transactions before its last stable offset have ended, a later entry
// does not begin before it.
func (e abortedTxn) follows(prev abortedTxn) error {
	switch {
	case e.version != 0:
		return fmt.Errorf("version %d is not 0", e.version)
	case e.producerID < 0:
		return fmt.Errorf("producer id %d is negative", e.producerID)
	case e.last <= prev.last:
		return fmt.Errorf("last offset %d is not above %d", e.last, prev.last)
	case e.first < prev.lastStable || e.first >= e.last:
		return fmt.Errorf("first offset %d is not in [%d, %d)", e.first, prev.lastStable, e.last)
	case e.lastStable < prev.lastStable || e.lastStable > e.last+1:
		return fmt.Errorf("last stable offset %d is not in [%d, %d]", e.lastStable, prev.lastStable, e.last+1)
	}
	return nil
}
