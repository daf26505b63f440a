package group

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Two members join, the second makes the first join again; the leader's
// assignment reaches both, and only then is the group stable.
func TestMembersJoinAndSync(t *testing.T) {
	r := newRig(t)
	a := r.member().join().joined()
	require.Equal(t, int32(1), a.generation)
	require.True(t, a.leader)
	a.sync().synced()
	require.Equal(t, "Stable", r.state("g"))

	b := r.member().join()
	require.True(t, r.waits(b.joinID))
	require.Equal(t, codeRebalanceInProgress, a.heartbeat())
	a.join().joined()
	b.joined()
	require.Equal(t, int32(2), b.generation)
	require.False(t, b.leader)
	require.Empty(t, b.members)
	require.Len(t, a.members, 2)

	b.sync()
	require.True(t, r.waits(b.syncID))
	require.Equal(t, "CompletingRebalance", r.state("g"))
	a.sync().synced()
	b.synced()
	require.Equal(t, "to "+b.id, b.assigned)
	require.Equal(t, "Stable", r.state("g"))
	r.settle(a, b)
}
