package riffle

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestLogClosesWhileALeaderIsToAssign: members that wait for what their leader assigns are closed
// beside it, so what they have passed is committed: none waits for another that is closed after it.
func TestLogClosesWhileALeaderIsToAssign(t *testing.T) {
	inGroupWorld(t, 6, nil, func(t *testing.T, w *groupWorld) {
		var members []*worldMember
		for range 6 {
			members = append(members, w.join(ConsumerOptions{}))
		}
		w.settle(members...)
		w.send("topic")
		for range 2 { // the second one passes what the first has handed out
			for _, m := range members {
				require.NoError(t, m.poll())
			}
		}
		late := w.join(ConsumerOptions{})
		require.NoError(t, late.poll())
		for _, m := range members {
			require.NoError(t, m.poll())
		}
		require.Equal(t, GroupCompletingRebalance, w.describe("group").State)
		began := time.Now()
		require.NoError(t, w.l.Close())
		require.Less(t, time.Since(began), closeTimeout, "by the clock of the bubble")
		w.l = openAt(t, w.fs, "/data", nil)
		defer w.l.Close()
		for i := range 6 {
			require.Equal(t, Offset(1), w.committed(i), "partition %d", i)
		}
	})
}
