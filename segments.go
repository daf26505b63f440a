package riffle

import (
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// segmentSet is a partition's segments by their base offset. It never changes:
// to change the set is to replace it.
type segmentSet struct {
	list []*segment // at least one, except on the way to another set
	// from is the log start offset, if it lies behind the first base: the records
	// before it are deleted.
	from Offset
}

// active is the segment that is appended to.
func (s *segmentSet) active() *segment { return s.list[len(s.list)-1] }

// start is the log start offset.
func (s *segmentSet) start() Offset { return max(s.from, s.list[0].base) }

// find returns the segment whose range o is in: the last with a base at or
// before o, or else the first.
func (s *segmentSet) find(o Offset) *segment {
	i := sort.Search(len(s.list), func(i int) bool { return s.list[i].base > o })
	return s.list[max(i-1, 0)]
}

// after returns the segment that follows seg, nil if it is the active one.
func (s *segmentSet) after(seg *segment) *segment {
	i := sort.Search(len(s.list), func(i int) bool { return s.list[i].base > seg.base })
	if i == len(s.list) {
		return nil
	}
	return s.list[i]
}

// with returns the set with one more segment at its end.
func (s *segmentSet) with(seg *segment) *segmentSet {
	list := make([]*segment, 0, len(s.list)+1)
	return &segmentSet{list: append(append(list, s.list...), seg), from: s.from}
}

// startingAt returns the set without its first n segments and without the records
// before from.
func (s *segmentSet) startingAt(n int, from Offset) *segmentSet {
	return &segmentSet{list: slices.Clone(s.list[n:]), from: from}
}

// withoutActive returns the set without its active segment.
func (s *segmentSet) withoutActive() *segmentSet {
	return &segmentSet{list: s.list[:len(s.list)-1], from: s.from}
}

// logSuffix ends the name of a file of batches.
const logSuffix = ".log"

// segmentFileName is the name of a file of the segment that begins at base: 20
// digits, as in Kafka, so that names sort like offsets.
func segmentFileName(base Offset, suffix string) string { return fmt.Sprintf("%020d%s", base, suffix) }

// logFileName is the name of the file of batches whose first offset is base.
func logFileName(base Offset) string { return segmentFileName(base, logSuffix) }

// parseLogFileName returns the base offset that the name of a file of batches
// says, and whether it is such a name at all.
func parseLogFileName(name string) (Offset, bool) { return parseFileName(name, logSuffix) }

func parseFileName(name, suffix string) (Offset, bool) {
	digits, ok := strings.CutSuffix(name, suffix)
	if !ok || len(digits) != 20 {
		return 0, false
	}
	base, err := strconv.ParseUint(digits, 10, 63)
	return Offset(base), err == nil
}
