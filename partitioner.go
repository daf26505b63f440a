package riffle

import (
	"encoding/binary"
	"sync/atomic"
)

// keyPartition is the partition of a key among n, as Java's clients choose it
// (BuiltInPartitioner.partitionForKey).
func keyPartition(key []byte, n int) int {
	return int(murmur2(key)&0x7fffffff) % n
}

// murmur2 is Kafka's variant of MurmurHash2 (Utils.murmur2): 32 bits, a seed of
// its own, four bytes at a time, little endian.
func murmur2(data []byte) uint32 {
	const (
		seed = 0x9747b28c
		m    = 0x5bd1e995
		r    = 24
	)
	h := seed ^ uint32(len(data))
	for ; len(data) >= 4; data = data[4:] {
		k := binary.LittleEndian.Uint32(data) * m
		h = h*m ^ (k^k>>r)*m
	}
	switch len(data) {
	case 3:
		h ^= uint32(data[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(data[1]) << 8
		fallthrough
	case 1:
		h = (h ^ uint32(data[0])) * m
	}
	h = (h ^ h>>13) * m
	return h ^ h>>15
}

// Partitioner chooses the partition of a record, from 0 to partitions-1, before it is
// sent. It may be called concurrently and must not change r. With a negative number it
// leaves the choice to the default; what is too large is ErrPartitionNotFound.
type Partitioner func(r *Record, partitions int) int

// RoundRobin returns a partitioner that gives each record, whatever its key, to the
// next partition. It is for one topic: several share one counter. Kafka:
// RoundRobinPartitioner.
func RoundRobin() Partitioner {
	var next atomic.Uint32
	return func(_ *Record, partitions int) int {
		return int((next.Add(1) - 1) % uint32(partitions))
	}
}

// Manual sends each record to its own Partition.
func Manual(r *Record, _ int) int { return r.Partition }
