package riffle

import "sync"

// taskGroup is goroutines that somebody waits for. Unlike a sync.WaitGroup it may be
// waited for while others begin: who waits goes on at a moment when there are none.
type taskGroup struct {
	mu      sync.Mutex // guards what follows; nothing is locked under it
	running int
	idle    chan struct{} // closed when none is running; nil if nobody waits
}

// Go runs f on a goroutine of its own.
func (g *taskGroup) Go(f func()) {
	g.mu.Lock()
	g.running++
	g.mu.Unlock()
	go func() {
		defer g.end()
		f()
	}()
}

func (g *taskGroup) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.running--; g.running == 0 && g.idle != nil {
		close(g.idle)
		g.idle = nil
	}
}

// Wait returns when none is running.
func (g *taskGroup) Wait() {
	g.mu.Lock()
	if g.running == 0 {
		g.mu.Unlock()
		return
	}
	if g.idle == nil {
		g.idle = make(chan struct{})
	}
	idle := g.idle
	g.mu.Unlock()
	<-idle
}

// apart runs f on a goroutine of its own, which f may end, and returns when it has ended.
func apart(f func()) {
	var running sync.WaitGroup
	running.Go(f)
	running.Wait()
}
