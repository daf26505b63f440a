package main

import (
	"encoding/binary"
	"io"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
)

var pebbleContender = &contender{
	name:   "pebble",
	module: "github.com/cockroachdb/pebble/v2",
	notes: "8-byte keys that count up, newest format, otherwise its default options; a batch a call. Not flushed: `NoSync`, which keeps acknowledged records " +
		"in the process for a while: a killed process loses some. Durable: `Sync`, with its own group commit. Checksums of what is on disk.",
	open: openPebble,
}

type pebbleStore struct {
	db      *pebble.DB
	write   *pebble.WriteOptions
	next    atomic.Uint64
	reading io.Closer
}

// silent is a logger that says nothing, and that ends the program where pebble asks for that.
type silent struct{}

func (silent) Infof(string, ...any)           {}
func (silent) Errorf(string, ...any)          {}
func (silent) Fatalf(format string, _ ...any) { panic("pebble: " + format) }

func openPebble(s settings) (store, error) {
	db, err := pebble.Open(s.dir, &pebble.Options{Logger: silent{}, FormatMajorVersion: pebble.FormatNewest})
	if err != nil {
		return nil, err
	}
	p := &pebbleStore{db: db, write: pebble.NoSync}
	if s.durable {
		p.write = pebble.Sync
	}
	it, err := db.NewIter(nil)
	if err != nil {
		return nil, err
	}
	if it.Last() {
		p.next.Store(binary.BigEndian.Uint64(it.Key()) + 1)
	}
	return p, it.Close()
}

func (s *pebbleStore) appendOne(record []byte) error {
	var key [8]byte
	binary.BigEndian.PutUint64(key[:], s.next.Add(1)-1)
	return s.db.Set(key[:], record, s.write)
}

func (s *pebbleStore) appendMany(records [][]byte) error {
	batch := s.db.NewBatch()
	defer func() { _ = batch.Close() }()
	for _, r := range records {
		var key [8]byte
		binary.BigEndian.PutUint64(key[:], s.next.Add(1)-1)
		if err := batch.Set(key[:], r, nil); err != nil {
			return err
		}
	}
	return batch.Commit(s.write)
}

func (s *pebbleStore) readAll(owned bool, each func([]byte)) error {
	it, err := s.db.NewIter(nil)
	if err != nil {
		return err
	}
	for ok := it.First(); ok; ok = it.Next() {
		v, err := it.ValueAndErr()
		if err != nil {
			_ = it.Close()
			return err
		}
		if owned {
			v = clone(v)
		}
		each(v)
	}
	return it.Close()
}

func (s *pebbleStore) readAt(i int) (record []byte, err error) {
	if err := s.endReading(); err != nil {
		return nil, err
	}
	var key [8]byte
	binary.BigEndian.PutUint64(key[:], uint64(i))
	record, s.reading, err = s.db.Get(key[:])
	return record, err
}

// endReading gives the last record of readAt back.
func (s *pebbleStore) endReading() error {
	if s.reading == nil {
		return nil
	}
	c := s.reading
	s.reading = nil
	return c.Close()
}

// close writes what is in memory alone to the log first: NoSync has kept some of it back.
func (s *pebbleStore) close() error {
	if err := s.endReading(); err != nil {
		return err
	}
	if err := s.db.LogData(nil, pebble.Sync); err != nil {
		return err
	}
	return s.db.Close()
}
