package main

import (
	"encoding/binary"
	"path/filepath"
	"sync/atomic"

	"go.etcd.io/bbolt"
)

var bboltContender = &contender{
	name:   "bbolt",
	module: "go.etcd.io/bbolt",
	notes: "8-byte keys that count up, `FillPercent` 1, as its documentation says for keys in order, freelist in a map. Not flushed: `NoSync`. " +
		"Several writers: `Batch`, with as many calls a batch as there are writers, so that none waits for the batch's delay. No checksum of records.",
	open: openBbolt,
}

var bucketName = []byte("log")

type bboltStore struct {
	db      *bbolt.DB
	update  func(func(*bbolt.Tx) error) error
	next    atomic.Uint64
	reading *bbolt.Tx
}

func openBbolt(s settings) (store, error) {
	db, err := bbolt.Open(filepath.Join(s.dir, "bbolt"), 0o600, &bbolt.Options{
		NoSync: !s.durable, FreelistType: bbolt.FreelistMapType,
	})
	if err != nil {
		return nil, err
	}
	b := &bboltStore{db: db, update: db.Update}
	if s.writers > 1 {
		db.MaxBatchSize = s.writers
		b.update = db.Batch
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		bucket, err := tx.CreateBucketIfNotExists(bucketName)
		if err != nil {
			return err
		}
		if last, _ := bucket.Cursor().Last(); last != nil {
			b.next.Store(binary.BigEndian.Uint64(last) + 1)
		}
		return nil
	})
	return b, err
}

func (s *bboltStore) appendOne(record []byte) error {
	return s.update(func(tx *bbolt.Tx) error { return s.put(tx, record) })
}

func (s *bboltStore) appendMany(records [][]byte) error {
	return s.update(func(tx *bbolt.Tx) error { return s.put(tx, records...) })
}

// put adds records in tx. The number is taken here, where one transaction runs at a time.
func (s *bboltStore) put(tx *bbolt.Tx, records ...[]byte) error {
	bucket := tx.Bucket(bucketName)
	bucket.FillPercent = 1
	for _, r := range records {
		var key [8]byte
		binary.BigEndian.PutUint64(key[:], s.next.Add(1)-1)
		if err := bucket.Put(key[:], r); err != nil {
			return err
		}
	}
	return nil
}

func (s *bboltStore) readAll(owned bool, each func([]byte)) error {
	return s.db.View(func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucketName).Cursor()
		for k, v := c.First(); k != nil; k, v = c.Next() {
			if owned {
				v = clone(v)
			}
			each(v)
		}
		return nil
	})
}

// readAt looks up one record in a transaction of its own.
func (s *bboltStore) readAt(i int) (record []byte, err error) {
	err = s.endReading()
	if err != nil {
		return nil, err
	}
	if s.reading, err = s.db.Begin(false); err != nil {
		return nil, err
	}
	var key [8]byte
	binary.BigEndian.PutUint64(key[:], uint64(i))
	record = s.reading.Bucket(bucketName).Get(key[:])
	if record == nil {
		return nil, errMissing(i)
	}
	return record, nil
}

// endReading ends the transaction that lends the last record of readAt.
func (s *bboltStore) endReading() error {
	if s.reading == nil {
		return nil
	}
	tx := s.reading
	s.reading = nil
	return tx.Rollback()
}

func (s *bboltStore) close() error {
	if err := s.endReading(); err != nil {
		return err
	}
	if err := s.db.Sync(); err != nil {
		return err
	}
	return s.db.Close()
}
