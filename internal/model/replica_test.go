package model_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/model"
)

// sentAt is a batch of n records from an offset on, as a leader of an epoch sends it.
func sentAt(base int64, epoch int32, n int) (records []model.Record) {
	for i := range n {
		records = append(records, model.Record{Offset: base + int64(i), Epoch: epoch, Key: "k"})
	}
	return records
}

func to(start, hw, end int64) model.Bounds {
	return model.Bounds{Start: start, LastStable: hw, HighWatermark: hw, End: end}
}

// replica has the batches [0, 2), [2, 3) and [3, 6), all acknowledged.
func replica(t *testing.T, durable bool) (*model.Replica, []model.Record) {
	r := &model.Replica{Durable: durable}
	batches := [][]model.Record{sentAt(0, 1, 2), sentAt(2, 1, 1), sentAt(3, 2, 3)}
	r.Append(batches)
	require.NoError(t, r.Acked(to(0, 0, 6)))
	return r, append(append(batches[0], batches[1]...), batches[2]...)
}

// What was acknowledged is not lost: by a kill never, by a power cut only if it is not
// durable, and then whole batches from the end on.
func TestReplicaLosesWhatItMay(t *testing.T) {
	for _, durable := range []bool{false, true} {
		r, all := replica(t, durable)
		require.Error(t, r.Opened(0, all[:3]))
		require.NoError(t, r.Opened(0, all))
		r, all = replica(t, durable)
		r.Flushed(2)
		r.PowerCut()
		for _, wrong := range [][]model.Record{all[:4], all[1:], sentAt(0, 2, 6), nil} {
			require.Error(t, r.Opened(0, wrong))
		}
		require.Error(t, r.Opened(1, all))
		if err := r.Opened(0, all[:3]); durable {
			require.Error(t, err)
			require.NoError(t, r.Opened(0, all))
		} else {
			require.NoError(t, err)
			r.PowerCut()
			require.Error(t, r.Opened(0, all[:2]), "it was shown")
		}
	}
}

// A power cut before there was a replica says nothing of what was flushed since: after a
// kill, the next one may take all.
func TestPowerCutBeforeAReplicaWasMade(t *testing.T) {
	r := &model.Replica{}
	r.PowerCut()
	require.NoError(t, r.Shows(to(0, 0, 0), nil))
	all := sentAt(0, 1, 2)
	r.Append([][]model.Record{all})
	require.NoError(t, r.Acked(to(0, 0, 2)))
	require.NoError(t, r.Opened(0, all))
	r.PowerCut()
	require.NoError(t, r.Opened(0, nil))
}

// A truncation that is begun may have been done in part, one that is done is not
// taken back, and cuts no more than it was to.
func TestReplicaIsCutAsItWasTold(t *testing.T) {
	r, all := replica(t, true)
	r.Truncate(5)
	require.Error(t, r.Opened(0, all[:2]))
	require.NoError(t, r.Opened(0, all))
	r.Truncate(5)
	require.Error(t, r.Acked(to(0, 0, 2)))
	require.NoError(t, r.Acked(to(0, 0, 3)))
	require.Error(t, r.Opened(0, all))
	require.Error(t, r.Opened(0, all[:2]))
	require.NoError(t, r.Opened(0, all[:3]))
	r.Restart(9)
	require.NoError(t, r.Acked(to(9, 9, 9)))
	require.Error(t, r.Opened(0, all[:3]))
	require.NoError(t, r.Opened(9, nil))
}

// What is shown ends at the high watermark, which does not go back.
func TestReplicaShowsWhatIsCommitted(t *testing.T) {
	r, all := replica(t, false)
	require.NoError(t, r.Shows(to(0, 3, 6), all[:3]))
	require.Error(t, r.Shows(to(0, 2, 6), all[:2]))
	require.Error(t, r.Shows(to(0, 3, 6), all[:2]))
	require.Error(t, r.Shows(to(0, 3, 6), all))
	require.Error(t, r.Shows(to(0, 4, 6), all[:4]))
	require.Error(t, r.Shows(to(0, 3, 7), all[:3]))
	r.TakenBack()
	require.NoError(t, r.Shows(to(0, 2, 6), all[:2]))
	r.Append([][]model.Record{sentAt(11, 3, 1)})
	require.NoError(t, r.Shows(to(0, 6, 11), all), "its epoch has begun behind a gap")
	require.Error(t, r.Shows(to(0, 11, 11), all))
	r.Append([][]model.Record{sentAt(11, 3, 1)})
	require.NoError(t, r.Shows(to(0, 11, 12), all))
	require.NoError(t, model.Follows(all))
	require.Error(t, model.Follows([]model.Record{all[3], all[5]}))
	require.Error(t, model.Follows([]model.Record{all[5], all[2]}))
}
