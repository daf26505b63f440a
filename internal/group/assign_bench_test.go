package group

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// reading says which share of the topics a member of a benchmark reads.
type reading struct {
	name  string
	share float64
}

var readings = []reading{{"all", 1}, {"half", 0.5}, {"few", 0.01}}

// grown is a group with a settled assignment in which a tenth of the members are
// new and a tenth have left, so that there is something to give and to take.
func grown(members, topics, partitions int, r reading) drawnGroup {
	random := rand.New(rand.NewPCG(1, 2))
	g := drawnGroup{partitions: map[string]int32{}}
	var names []string
	for i := range topics {
		names = append(names, fmt.Sprintf("topic-%04d", i))
		g.partitions[names[i]] = int32(partitions / topics)
	}
	for i := range members + members/10 {
		m := Member{ID: fmt.Sprintf("member-%04d", i), Topics: []string{names[i%topics]}, Generation: 7}
		for _, name := range names {
			if random.Float64() < r.share {
				m.Topics = append(m.Topics, name)
			}
		}
		g.members = append(g.members, m)
	}
	before := Sticky(g.members[:members], g.partitions)
	for i := range members {
		g.members[i].Owned = before[g.members[i].ID]
	}
	g.members = g.members[members/10:]
	return g
}

func BenchmarkAssign(b *testing.B) {
	for _, size := range []struct{ members, topics, partitions int }{{100, 100, 1000}, {1000, 1000, 10000}} {
		for _, r := range readings {
			g := grown(size.members, size.topics, size.partitions, r)
			fresh := cloneMembers(g.members)
			for i := range fresh {
				fresh[i].Owned = nil
			}
			for _, name := range slices.Sorted(maps.Keys(assignors)) {
				assign := assignors[name]
				of := fmt.Sprintf("%s/members=%d/partitions=%d/reads=%s", name, size.members, size.partitions, r.name)
				b.Run(of+"/fresh", func(b *testing.B) {
					for b.Loop() {
						assign(fresh, g.partitions)
					}
				})
				b.Run(of+"/grown", func(b *testing.B) {
					for b.Loop() {
						assign(g.members, g.partitions)
					}
				})
			}
		}
	}
}
