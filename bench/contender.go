package main

import (
	"context"
	"runtime/debug"
	"strings"
)

// contender is one way to keep records. Its stores do the same work as everybody's.
type contender struct {
	name    string
	module  string // its module, whose version the output says; empty for the raw operations
	version string // set by contenders
	notes   string // its settings, and what it promises when an append returns

	// open opens the store in s.dir, which may hold one that was closed.
	open func(s settings) (store, error)
}

// settings are what a store has to know before it is opened.
type settings struct {
	dir     string
	durable bool // an append returns when its records are on stable storage
	writers int  // goroutines that append at a time
	room    int  // bytes of records, at most, that are appended before it is closed
}

// store keeps records in order. The records it is given are the caller's again when the
// call returns. What some cannot do is in the interfaces below.
type store interface {
	// appendOne appends one record and waits for what the settings ask. It is called by
	// so many goroutines as the settings say, the rest by one.
	appendOne(record []byte) error
	// appendMany appends records in one call, or what comes nearest to it, and waits.
	appendMany(records [][]byte) error
	// close closes the store. What was appended is there when it is opened again.
	close() error
}

// pipeliner is a store that takes records one by one and acknowledges them later.
type pipeliner interface {
	// enqueue takes a record, which must not change until drain has returned.
	enqueue(record []byte) error
	// drain waits until all that were enqueued are acknowledged.
	drain() error
}

// reader is a store that can be read from.
type reader interface {
	// readAll calls each for every record in order. If owned, each may keep it;
	// else it is each's only until each returns.
	readAll(owned bool, each func(record []byte)) error
	// readAt returns the record with the number i, which counts from 0; it is the
	// caller's only until the next call.
	readAt(i int) ([]byte, error)
}

// sender is a store with a producer: what sends records, from many goroutines, wherever
// they belong.
type sender interface {
	// send sends one record, and waits for what the settings ask.
	send(record []byte) error
}

// consumable is a store with a consumer: what gets records as they come.
type consumable interface {
	sender
	// consume calls each for every record from the first one on, in order, as they come,
	// until it returns false or ctx ends. Each may keep the record.
	consume(ctx context.Context, each func(record []byte) (more bool)) error
}

// contenders are all that compete, ours first.
func contenders() []*contender {
	all := []*contender{riffleContender, rawContender, walContender, pebbleContender, bboltContender, kfakeContender, jetStreamContender}
	versions := map[string]string{}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			versions[m.Path] = m.Version
		}
	}
	for _, c := range all {
		var said []string
		for module := range strings.FieldsSeq(c.module) {
			said = append(said, strings.TrimSpace(module+" "+versions[module]))
		}
		c.version = strings.Join(said, ", ")
	}
	return all
}

// clone returns a copy of record that may be kept.
func clone(record []byte) []byte {
	return append(make([]byte, 0, len(record)), record...)
}
