package main

import (
	"sync"

	"github.com/tidwall/wal"
)

var walContender = &contender{
	name:   "tidwall/wal",
	module: "github.com/tidwall/wal",
	notes: "not flushed: `NoSync`, records are with the operating system when a write returns. Durable: without it, a flush a write; it has no group commit. " +
		"Binary format, 64 cached segments (by default there are one or two, and a read from another one takes milliseconds), `NoCopy` where records are only looked at. No checksum.",
	open: openWAL,
}

// walStore gives each record the next index, which the library asks for.
type walStore struct {
	log *wal.Log

	mu    sync.Mutex // guards what follows, and keeps indexes in the order of writes
	next  uint64
	batch wal.Batch
}

func openWAL(s settings) (store, error) {
	o := *wal.DefaultOptions
	o.NoSync = !s.durable
	o.SegmentCacheSize = 64
	o.NoCopy = true
	log, err := wal.Open(s.dir, &o)
	if err != nil {
		return nil, err
	}
	last, err := log.LastIndex()
	return &walStore{log: log, next: last + 1}, err
}

func (s *walStore) appendOne(record []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.log.Write(s.next, record); err != nil {
		return err
	}
	s.next++
	return nil
}

func (s *walStore) appendMany(records [][]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.batch.Clear()
	for i, r := range records {
		s.batch.Write(s.next+uint64(i), r)
	}
	if err := s.log.WriteBatch(&s.batch); err != nil {
		return err
	}
	s.next += uint64(len(records))
	return nil
}

func (s *walStore) readAll(owned bool, each func([]byte)) error {
	first, err := s.log.FirstIndex()
	if err != nil {
		return err
	}
	for i := first; i < s.next; i++ {
		data, err := s.log.Read(i)
		if err != nil {
			return err
		}
		if owned {
			data = clone(data) // as the library does without NoCopy
		}
		each(data)
	}
	return nil
}

func (s *walStore) readAt(i int) ([]byte, error) { return s.log.Read(uint64(i) + 1) }

func (s *walStore) close() error { return s.log.Close() }
