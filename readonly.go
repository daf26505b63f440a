package riffle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/rifflelog/riffle/internal/vfs"
)

// openReadOnly is open of a log that writes nothing.
func (l *Log) openReadOnly() (*Log, error) {
	l.view = newBoundsView(l.fs, l.dir)
	l.following.turn = make(chan struct{}, 1)
	l.meta = l.newMetadataPartition()
	if err := l.loadReadOnly(); err != nil {
		return nil, fmt.Errorf("open %s: %w", l.dir, errors.Join(err, l.closeReadOnly()))
	}
	return l, nil
}

// loadReadOnly opens a directory that another process may be writing. It takes no
// lock and changes nothing.
func (l *Log) loadReadOnly() error {
	l.files.readOnly = true
	name := filepath.Join(l.dir, metaPropertiesName)
	data, err := vfs.ReadFile(l.fs, name, maxSideFile)
	if err == nil {
		err = checkMetaProperties(name, data)
	}
	if err == nil {
		_, err = l.view.look()
	}
	if err == nil {
		err = l.followMetadata(context.Background())
	}
	return err
}

// errReadOnly is why a read-only log does not write.
func (l *Log) errReadOnly() error {
	if l.view == nil {
		return nil
	}
	return fmt.Errorf("%w: the log was opened with Options.ReadOnly", ErrReadOnly)
}

// shutdownReadOnly is shutdown of a log that has nothing to write.
func (l *Log) shutdownReadOnly() {
	l.taskMu.Lock()
	l.stopped = true
	l.taskMu.Unlock()
	l.tasks.Wait()
	if err := l.closeReadOnly(); err != nil {
		l.err = fmt.Errorf("close %s: %w", l.dir, err)
	}
}

func (l *Log) closeReadOnly() error {
	var errs []error
	for p := range l.partitions() {
		errs = append(errs, p.closeShadow())
	}
	l.mu.Lock()
	remains := slices.Collect(maps.Keys(l.remains))
	l.mu.Unlock()
	for _, p := range remains {
		_ = p.closeShadow() // who leaves last may have done so
	}
	return errors.Join(append(errs, l.view.close())...)
}

// closeShadow closes the partition's files, once the refresh that is under way has
// ended. No other one begins.
func (p *Partition) closeShadow() error {
	p.shadow.turn <- struct{}{}
	defer func() { <-p.shadow.turn }()
	return p.closeSegments()
}

// metaShadow is what of the metadata log a read-only log has applied.
type metaShadow struct {
	turn  chan struct{} // held by who applies more; guards what follows
	image *metaImage    // nil before the first time, and after an error
	next  Offset        // the first record that is not in it
}

// followMetadata has the log know the topics that the metadata log says by now.
func (l *Log) followMetadata(ctx context.Context) error {
	m := &l.following
	select {
	case m.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-l.closing:
		return l.closedError()
	}
	defer func() { <-m.turn }()
	if _, err := l.meta.refresh(ctx, false); err != nil {
		return l.meta.error("read", err)
	}
	if m.image != nil && m.next == Offset(l.meta.highWatermark.Load()) {
		return nil
	}
	err := m.update(ctx, l)
	if err != nil {
		m.image = nil
		return err
	}
	l.applyImage(m.image)
	return nil
}

// update applies what is new to the image. Where the log does not reach back as
// far, or something is wrong, it begins with a snapshot; the writer may remove
// that while it is read, and then there is another.
func (m *metaShadow) update(ctx context.Context, l *Log) (err error) {
	if m.image != nil && m.next >= l.meta.bounds().Start {
		for v, err := range l.meta.Views(ctx, m.next, nil) {
			if err == nil {
				err = m.image.apply(string(v.Key()), v.Value())
			}
			if err != nil {
				return fmt.Errorf("replay metadata: %w", err)
			}
			m.next = v.Offset() + 1
		}
		return nil
	}
	for try := 1; try <= maxRefreshTries; try++ {
		m.image, m.next, err = l.replayMetadata()
		if err == nil || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrOffsetOutOfRange) {
			return err
		}
		if failed := l.rest(ctx, try); failed != nil {
			return failed
		}
	}
	return err
}

// applyImage makes the topics what an image says. Who reads a topic that it does
// not know reads on as far as he can.
func (l *Log) applyImage(image *metaImage) {
	var gone []*Topic
	l.mu.Lock()
	for _, t := range l.topics {
		if image.topics[t.id] == nil {
			gone = append(gone, t)
			l.dropTopic(t)
		}
	}
	for _, m := range image.sorted() {
		t := l.topics[m.name]
		if t == nil {
			l.putTopic(l.newTopic(m.name, m.id, m.own))
		} else if t.state.Load().own != m.own {
			t.setState(m.own, t.all())
			l.tellConsumers()
		}
	}
	l.mu.Unlock()
	for _, t := range gone {
		for _, p := range t.all() {
			p.gone.Store(true)
			p.wake()
			p.leave() // as the one who was there from the beginning
		}
	}
}

// lookForTopics has a read-only log see topics that were created and deleted.
func (l *Log) lookForTopics() error {
	if l.view == nil {
		return nil
	}
	return l.followMetadata(context.Background())
}

// watch is the partitions of a read-only log for whose records loops wait. One
// goroutine looks at bounds for them all while there are any.
type watch struct {
	mu      sync.Mutex         // guards what follows; taskMu alone is locked under it
	waiting map[*Partition]int // how many loops wait
	running bool
}

// await has the partition looked after until the function that it returns is
// called. An error says that the log is closed.
func (p *Partition) await() (done func(), err error) {
	l := p.topic.log
	w := &l.watch
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.waiting == nil {
		w.waiting = make(map[*Partition]int)
	}
	if !w.running {
		if w.running = l.start(l.poll); !w.running {
			return nil, l.closedError()
		}
	}
	w.waiting[p]++
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.waiting[p]--; w.waiting[p] == 0 {
			delete(w.waiting, p)
		}
	}, nil
}

// watched returns the partitions that are waited for. If there are none, the
// poller ends.
func (w *watch) watched() []*Partition {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := make([]*Partition, 0, len(w.waiting))
	for p := range w.waiting {
		list = append(list, p)
	}
	w.running = len(list) > 0
	return list
}

// poll looks at bounds, again and again, and wakes the loops for which there is
// something. While nothing happens that is two loads.
func (l *Log) poll() {
	pause, last, settled := minPoll, viewHead{}, false
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-l.closing:
			return
		}
		list := l.watch.watched()
		if len(list) == 0 {
			return
		}
		pause = min(2*pause, maxPoll)
		if head, err := l.view.look(); err != nil || head != last || !settled {
			last = head
			var news bool
			if news, settled = l.pollAll(list); news {
				pause = minPoll
			}
		}
		timer.Reset(pause)
	}
}

// pollAll refreshes partitions, and wakes their loops where there is something new.
func (l *Log) pollAll(list []*Partition) (news, settled bool) {
	ctx := context.Background()
	settled = l.followMetadata(ctx) == nil
	for _, p := range list {
		hw, cuts := p.highWatermark.Load(), p.cuts.Load()
		ok, err := p.refresh(ctx, false)
		settled = settled && ok
		if err != nil || p.highWatermark.Load() != hw || p.cuts.Load() != cuts || p.gone.Load() {
			p.wake()
			news = true
		}
	}
	return news, settled
}

// isGone says whether the partition's topic was deleted.
func (p *Partition) isGone(ctx context.Context) bool {
	if p.topic.internal {
		return false
	}
	_ = p.topic.log.followMetadata(ctx) // what it knows, it knows
	return p.gone.Load()
}
