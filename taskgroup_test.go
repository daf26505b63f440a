package riffle

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestTaskGroupWaitsForAll: who waits goes on when all have ended, those too that began
// meanwhile; many may wait, also while others begin.
func TestTaskGroupWaitsForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g taskGroup
		g.Wait() // for nobody
		var ended atomic.Int32
		for i := range 5 {
			g.Go(func() {
				time.Sleep(time.Duration(i) * time.Second)
				g.Go(func() {
					time.Sleep(10 * time.Second)
					ended.Add(1)
				})
			})
		}
		var waiting sync.WaitGroup
		for range 3 {
			waiting.Go(func() {
				g.Wait()
				if n := ended.Load(); n != 5 {
					t.Errorf("%d have ended", n)
				}
			})
		}
		waiting.Wait()
	})
}
