package main

import (
	"fmt"
	"time"
)

// row is one kind of work that all contenders do.
type row struct {
	key     string // what -only matches
	name    string // what the table says
	rate    bool   // the table has records a second, not the time of one operation
	turn    func(b *bench, c *contender) (sample, error)
	targets []target

	// often is how many turns there are for each of the scale's, that much shorter: for what
	// depends on the moods of a disk. 0 is 1.
	often int
}

// target is what Riffle is meant to reach in a row.
type target struct {
	than  string        // the name of the contender to compare with
	times float64       // Riffle takes at most its time divided by times
	rate  float64       // or: so many records a second
	most  time.Duration // or: an operation takes no longer
}

func (t target) String() string {
	switch {
	case t.rate > 0:
		return count(t.rate) + " records/s"
	case t.most > 0:
		return "at most " + duration(t.most.Seconds())
	case t.times >= 1:
		return fmt.Sprintf("%.3g × the rate of %s", t.times, t.than)
	default:
		return fmt.Sprintf("%.3g × the time of %s", 1/t.times, t.than)
	}
}

// scale is how much is done.
type scale struct {
	rounds int
	row    time.Duration // after which no new round begins, but for the first three
	turn   time.Duration // after which no new operation begins
	room   int           // bytes of records after which a turn ends too
	read   int           // records of 100 bytes that are read in order
	look   int           // and by number
	open   int           // records of 1 KiB in a log that is opened
}

var (
	quick = scale{rounds: 5, row: 10 * time.Second, turn: 150 * time.Millisecond, room: 64 << 20, read: 100_000, look: 20_000, open: 64 << 10}
	whole = scale{rounds: 11, row: 3 * time.Minute, turn: 700 * time.Millisecond, room: 256 << 20, read: 1_000_000, look: 200_000, open: 1 << 20}
)

// one and kib are sizes of records, many is how many there are in a large batch.
const one, many, kib = 100, 1000, 1024

// rows are all the work there is, in the order of the table.
func rows(s scale) []row { return append(appendRows(), readRows(s)...) }

func appendRows() []row {
	return []row{
		{
			key: "append-one", name: "append 100 bytes, 1 a call, not flushed", rate: true,
			turn:    fresh(settings{writers: 1}, one, func(t *turn) error { return t.calls(1) }),
			targets: []target{{than: "tidwall/wal", times: 3}},
		},
		{
			key: "append-1000", name: "append 100 bytes, 1,000 a call, not flushed", rate: true,
			turn: fresh(settings{writers: 1}, one, func(t *turn) error { return t.calls(many) }),
		},
		{
			key: "append-kib", name: "append 1 KiB, 1,000 a call, not flushed", rate: true,
			turn: fresh(settings{writers: 1}, kib, func(t *turn) error { return t.calls(many) }),
		},
		{
			key: "pipelined", name: "append 100 bytes, pipelined, not flushed", rate: true,
			turn:    fresh(settings{writers: 1}, one, (*turn).pipelined),
			targets: []target{{rate: 4.5e6}, {than: "kfake", times: 4}, {than: "JetStream", times: 30}},
		},
		{
			key: "durable-1", name: "append 100 bytes, 1 writer, durable: the median call",
			turn:    kept(settings{writers: 1, durable: true}, one, (*turn).singly),
			targets: []target{{than: "raw", times: 1 / 1.1}},
			often:   5,
		},
		{
			key: "durable-64", name: "append 100 bytes, 64 writers, durable", rate: true,
			turn:    kept(settings{writers: 64, durable: true}, one, (*turn).together),
			often:   3,
			targets: []target{{than: "raw", times: 1 / 1.25}},
		},
		{
			key: "sent-64", name: "send 100 bytes with a producer, 64 goroutines, durable", rate: true,
			turn:    kept(settings{writers: 64, durable: true}, one, (*turn).sentTogether),
			often:   3,
			targets: []target{{than: "raw", times: 0.85}},
		},
	}
}

func readRows(s scale) []row {
	return []row{
		{
			key: "consumed-p50", name: "send 100 bytes and consume them, one at a time, not flushed: the median",
			turn:    fresh(settings{writers: 1}, one, func(t *turn) error { return t.handedOver(0.5) }),
			targets: []target{{most: 2 * time.Microsecond}, {than: "JetStream", times: 15}},
		},
		{
			key: "consumed-p99", name: "the same: the 99th percentile",
			turn:    fresh(settings{writers: 1}, one, func(t *turn) error { return t.handedOver(0.99) }),
			targets: []target{{most: 15 * time.Microsecond}, {than: "JetStream", times: 7}},
		},
		{
			key: "consume", name: "consume 100 bytes in order, each may be kept", rate: true,
			turn:    filled(fill{"read", one, many, s.read}, (*turn).consumed),
			targets: []target{{rate: 8e6}},
		},
		{
			key: "read-look", name: "read 100 bytes in order, each looked at", rate: true,
			turn: filled(fill{"read", one, many, s.read}, func(t *turn) error { return t.readAll(false) }),
		},
		{
			key: "read-keep", name: "read 100 bytes in order, each may be kept", rate: true,
			turn: filled(fill{"read", one, many, s.read}, func(t *turn) error { return t.readAll(true) }),
		},
		{
			key: "read-number", name: "read 100 bytes by number, appended 1 a call",
			turn: filled(fill{"look", one, 1, s.look}, (*turn).readAt),
		},
		{
			key: "open", name: fmt.Sprintf("open %d MiB in records of 1 KiB, closed before, and read the first and the last", s.open>>10),
			turn: reopened(fill{"open", kib, many, s.open}),
		},
	}
}
