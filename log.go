package riffle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rifflelog/riffle/internal/vfs"
)

// siteCloseBounds is the flush of bounds that makes a stop a clean one.
const siteCloseBounds vfs.Site = "close.bounds.flush"

// siteLogParent is the making of the log's own directory.
const siteLogParent vfs.Site = "log.create.syncparent"

// lockName is the file whose lock says that a process writes the directory.
const lockName = ".lock"

// closeTimeout bounds Close.
const closeTimeout = 30 * time.Second

// Log is an open log directory. Its methods are safe for concurrent use.
type Log struct {
	fs   vfs.FS
	dir  string
	opts Options
	lock io.Closer
	meta *Partition // the metadata log
	tuning

	files     *files
	bounds    *bounds
	mapWrites bool         // the file system takes stores into allocated space
	mappings  atomic.Int64 // extents that are mapped
	asides    atomic.Int64 // tasks that set space aside; see maxSettingAside
	strays    atomic.Bool  // there are directories that are to be removed in time
	space     *diskSpace
	seals     sealQueue
	snapshots metaSnapshots
	publisher publisher
	view      *boundsView // of a read-only log, which has neither lock nor bounds of its own; else nil
	watch     watch
	following metaShadow
	groups    coordinators

	// mu guards what follows.
	mu          sync.Mutex
	topics      map[string]*Topic
	metricNames map[string]*Topic        // the same topics
	changing    map[string]chan struct{} // by such a name: closed when the change that is under way has ended
	halfGone    map[string]*Topic        // their deletion is durable, but not all of their directories have been moved
	producers   map[*Producer]bool       // open
	consumers   map[*Consumer]bool       // likewise
	draining    bool                     // and no more are made: the log is to be closed
	remains     map[*Partition]bool      // of deleted topics, whose files are still there
	deleted     *TopicMetrics            // the sum of what deleted topics have counted; nil if there were none

	closing chan struct{} // closed when the log begins to close, or has failed
	closed  chan struct{} // closed when it is closed
	err     error         // of closing; set before closed is closed
	ending  atomic.Bool   // closing is closed, or is about to be
	finish  sync.Once     // starts shutdown

	broken chan struct{} // closed when a goroutine of ours has panicked
	cause  atomic.Pointer[string]

	// tasks is our goroutines; stopped says that no more may start. The timer
	// runs, and armed says so, while a change of bounds is to be flushed. Guarded
	// by taskMu, under which no other lock is taken.
	taskMu      sync.Mutex
	tasks       taskGroup
	stopped     bool
	flushers    int      // goroutines that flush
	flushes     []func() // what they have to do, in order
	boundsTimer *time.Timer
	armed       bool
	sinceBounds int64 // bytes that were flushed since
	// retentionTimer runs between two checks of retention.
	retentionTimer *time.Timer
}

// tuning is what tests set otherwise.
type tuning struct {
	// ceilingStep is how many offsets a partition may give out before it must
	// raise its ceiling on the disk: a million cost a flush a second at most.
	ceilingStep Offset
	// boundsDelay is how long a recovery point that has risen waits for others
	// before it is flushed.
	boundsDelay time.Duration
	// publishDelay is how long a commit waits for others before other processes
	// are shown it; 0: until something else has it published.
	publishDelay time.Duration
	// mapAfter is how many unflushed bytes have a partition's file mapped.
	mapAfter int64
	// minTouch is how much of it is touched ahead at first.
	minTouch int64
	// reserveBytes is the size of the file that is given up on a full disk: what
	// many operations of the metadata log need.
	reserveBytes int64
	// retentionInterval is how long retention rests between two checks, of which the
	// first comes after retentionDelay; zero: there is none.
	retentionDelay, retentionInterval time.Duration
	// sealAtOnce seals a segment on the goroutine that rolls, so that operations
	// come in one order.
	sealAtOnce bool
	// snapshotEvery is how many records of the metadata log have a snapshot made.
	snapshotEvery int64
}

var defaultTuning = tuning{
	ceilingStep: 1_000_000, boundsDelay: time.Second, publishDelay: publishDelay,
	mapAfter: mapAfter, minTouch: minTouch, reserveBytes: 16 << 20, snapshotEvery: snapshotEvery,
	retentionDelay: retentionDelay, retentionInterval: retentionInterval,
}

// Open opens the log in dir, making it if there is none and recovering it if it
// was not closed. Other files in dir are left alone. It reads what is there once;
// it waits for no other process.
// One process at a time may have a directory open for writing, once: ErrLocked. An
// error that is about a path is a *fs.PathError, and ErrCorrupt names the file.
//
// With [Options.ReadOnly] any number may open it besides. There must be a log:
// fs.ErrNotExist if there is none, errors.ErrUnsupported if it is another program's.
// Damage to the metadata log is ErrCorrupt, as for a writer: which topics there are
// is not guessed. Topics that the writer creates appear; loops over one that he
// deletes end with ErrTopicNotFound; a loop that retention passes ends with an
// *OffsetError.
// Where the system does not tell one start of the machine from another (macOS,
// Windows), only what was flushed is seen, a second late, until the writer is seen
// to commit something.
func Open(dir string, opts *Options) (*Log, error) {
	return open(vfs.OS(), dir, opts)
}

// open is Open on any file system.
func open(fsys vfs.FS, dir string, opts *Options) (*Log, error) {
	return openTuned(fsys, dir, opts, defaultTuning)
}

func openTuned(fsys vfs.FS, dir string, opts *Options, tune tuning) (*Log, error) {
	if tune.minTouch == 0 {
		tune.minTouch = minTouch
	}
	if tune.snapshotEvery == 0 {
		tune.snapshotEvery = snapshotEvery
	}
	resolved, err := opts.resolve()
	if err == nil && dir == "" {
		err = invalidOptions("directory", []error{errors.New("its name is empty")})
	}
	if err != nil {
		return nil, err
	}
	// The host may change its working directory while the log is open.
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	l := &Log{
		fs: fsys, files: newFiles(fsys), dir: abs, opts: resolved, tuning: tune,
		topics: make(map[string]*Topic), metricNames: make(map[string]*Topic), changing: make(map[string]chan struct{}),
		halfGone: make(map[string]*Topic), remains: make(map[*Partition]bool),
		producers: make(map[*Producer]bool), consumers: make(map[*Consumer]bool),
		closing: make(chan struct{}), closed: make(chan struct{}), broken: make(chan struct{}),
	}
	if resolved.ReadOnly {
		return l.openReadOnly()
	}
	l.meta, l.space = l.newMetadataPartition(), newDiskSpace(l)
	if err := l.load(); err != nil {
		for p := range l.partitions() {
			err = errors.Join(err, p.closeFiles())
		}
		if l.bounds != nil {
			err = errors.Join(err, l.bounds.close())
		}
		if l.lock != nil {
			err = errors.Join(err, l.lock.Close())
		}
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	return l, nil
}

// load reads the directory. Its order: the lock before anything is read, the
// directory's identity before its contents, the topics before their partitions.
func (l *Log) load() (err error) {
	defer l.guard(&err)
	if err := makeDir(l.fs, l.dir); err != nil {
		return err
	}
	lock, err := l.fs.Lock(filepath.Join(l.dir, lockName))
	if errors.Is(err, vfs.ErrLocked) {
		return fmt.Errorf("%w: %w", ErrLocked, err)
	}
	if err != nil {
		return err
	}
	l.lock = lock
	if err := l.loadMetaProperties(); err != nil {
		return err
	}
	err = l.space.insist(func() (err error) {
		l.bounds, err = openBounds(l.fs, l.dir, l.fs.BootID())
		return diskError(err)
	})
	if err == nil {
		l.mapWrites = l.bounds.mapWrites
		err = diskError(l.recoverPartition(l.meta))
	}
	if err != nil {
		return err
	}
	deleted, err := l.loadTopics()
	if err != nil {
		return err
	}
	remains, err := l.sortDirs(deleted)
	if err != nil {
		return err
	}
	if l.recoverTopics(); l.cause.Load() != nil {
		return l.closedError()
	}
	for p := range l.partitions() {
		p.flushFound()
	}
	l.publishOpened()
	l.space.open()
	if len(remains) > 0 {
		l.inBackground(func() {
			for _, dir := range remains {
				l.removeDir(dir)
			}
		})
	}
	l.checkRetentionAfter(l.retentionDelay)
	return nil
}

// recoverTopics opens the files of all topics' partitions. What is wrong with one
// does not hold up the others.
func (l *Log) recoverTopics() {
	parts := make(chan *Partition)
	var all sync.WaitGroup
	recoverAll := func() {
		for p := range parts {
			if err := l.recoverPartition(p); err != nil {
				p.damaged = err
				l.opts.Logger.Error("partition cannot be opened", "topic", p.topic.name, "partition", p.index, "err", err)
			}
		}
	}
	workers := runtime.GOMAXPROCS(0)
	if l.sealAtOnce {
		workers = 1
	}
	for range workers {
		all.Go(func() {
			defer func() {
				for range parts { // after a panic of ours
				}
			}()
			l.run(recoverAll)
		})
	}
	for t := range l.Topics() {
		for _, p := range t.all() {
			parts <- p
		}
	}
	close(parts)
	all.Wait()
	l.files.closeUnused() // twice: what was read is not in use
	l.files.closeUnused()
}

// recoverPartition opens a partition's files, on a full disk too. ErrDiskFull is
// not what appends are to say ever after: that heals.
func (l *Log) recoverPartition(p *Partition) (err error) {
	_ = l.space.insist(func() error {
		err = p.recover()
		return diskError(err)
	})
	return err
}

// makeDir makes a directory and its parents, where they are missing.
func makeDir(fsys vfs.FS, dir string) error {
	e, err := fsys.Stat(dir)
	if err == nil && !e.Dir {
		_, err = fsys.ReadDir(dir) // says that it is none
	}
	parent := filepath.Dir(dir)
	if !errors.Is(err, fs.ErrNotExist) || parent == dir {
		return err
	}
	if err := makeDir(fsys, parent); err != nil {
		return err
	}
	if err := fsys.Mkdir(dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return diskError(err)
	}
	return nil
}

// syncParents makes the name of a new log's directory durable, and those that
// lead to it: whoever made them may not have. It ends where we may not look.
func syncParents(fsys vfs.FS, dir string) error {
	for parent := filepath.Dir(dir); parent != dir; dir, parent = parent, filepath.Dir(parent) {
		err := fsys.SyncDir(siteLogParent, parent)
		if errors.Is(err, fs.ErrPermission) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// partitions iterates over all partitions, the metadata log's last. It is for
// opening and closing, when no topic comes or goes.
func (l *Log) partitions() iter.Seq[*Partition] {
	return func(yield func(*Partition) bool) {
		for t := range l.known() {
			for _, p := range t.all() {
				if !yield(p) {
					return
				}
			}
		}
		yield(l.meta)
	}
}

// isClosing says whether the log is closed, closing or failed.
func (l *Log) isClosing() bool { return l.ending.Load() }

// beginClosing lets everybody know that the log is closing, or has failed.
func (l *Log) beginClosing() {
	if !l.ending.Swap(true) {
		close(l.closing)
	}
}

// hasFailed says whether the log has failed, through a panic of ours.
func (l *Log) hasFailed() bool { return l.cause.Load() != nil }

// closedError is ErrClosed, with the cause if it was a failure of ours.
func (l *Log) closedError() error {
	if cause := l.cause.Load(); cause != nil {
		return fmt.Errorf("%w after an internal failure: %s", ErrClosed, *cause)
	}
	return ErrClosed
}

// start runs f on a goroutine that the log owns: closing waits for it. It
// returns false if the log is too far closed.
func (l *Log) start(f func()) bool {
	l.taskMu.Lock()
	defer l.taskMu.Unlock()
	if l.stopped {
		return false
	}
	l.tasks.Go(func() { l.run(f) })
	return true
}

// goOn runs f on a goroutine that takes the place of the one that it is called on, which the
// log has started.
func (l *Log) goOn(f func()) { l.tasks.Go(func() { l.run(f) }) }

// maxFlushers is how many goroutines of ours flush partitions at a time.
const maxFlushers = 8

// startFlush is start for a flush: those that are too many wait for others.
// They begin in order, so that a round whose predecessor waits here too is
// behind it.
func (l *Log) startFlush(f func()) bool {
	l.taskMu.Lock()
	defer l.taskMu.Unlock()
	switch {
	case l.stopped:
		return false
	case l.flushers == maxFlushers:
		l.flushes = append(l.flushes, f)
	default:
		l.flushers++
		l.tasks.Go(func() { l.flush(f) })
	}
	return true
}

// flush calls f, and then what waits.
func (l *Log) flush(f func()) {
	for f != nil {
		l.run(f)
		l.taskMu.Lock()
		if f = nil; len(l.flushes) > 0 {
			f, l.flushes = l.flushes[0], l.flushes[1:]
		} else {
			l.flushers--
		}
		l.taskMu.Unlock()
	}
}

// run calls f, and keeps a panic of ours in it from the caller.
func (l *Log) run(f func()) {
	defer l.catch()
	f()
}

// after runs f like start when d has passed, unless the log is closed by then.
func (l *Log) after(d time.Duration, f func()) *time.Timer {
	return time.AfterFunc(d, func() { l.start(f) })
}

// boundsBytes is how much may be flushed until recovery points are: opening
// after a kill reads that much once more.
const boundsBytes = 32 << 20

// flushBoundsSoon sees to it that what was set in bounds, since another n bytes
// of a partition were flushed, is flushed before long: recovery points, which are
// better new, but true when they are old.
func (l *Log) flushBoundsSoon(n int64) {
	l.taskMu.Lock()
	defer l.taskMu.Unlock()
	if l.stopped || l.boundsDelay == Forever {
		return
	}
	delay := l.boundsDelay
	if l.sinceBounds += n; l.sinceBounds >= boundsBytes {
		l.sinceBounds, l.armed, delay = 0, false, 0
	}
	switch {
	case l.armed:
		return
	case l.boundsTimer == nil:
		l.boundsTimer = l.after(delay, l.flushBounds)
	default:
		l.boundsTimer.Reset(delay)
	}
	l.armed = true
}

func (l *Log) flushBounds() {
	l.taskMu.Lock()
	l.armed, l.sinceBounds = false, 0
	l.taskMu.Unlock()
	if err := l.bounds.sync(siteBoundsFlush); err != nil {
		l.opts.Logger.Warn("recovery points are not written", "err", err)
	}
}

// catch, deferred around code of ours, keeps a panic in it from the host: the
// log fails instead.
func (l *Log) catch() {
	if r := recover(); r != nil {
		l.breakDown(r)
	}
}

// guard is catch for a function that returns an error.
func (l *Log) guard(err *error) {
	if r := recover(); r != nil {
		l.breakDown(r)
		*err = l.closedError()
	}
}

// guardAppend is guard for an append, which may have written something.
func (l *Log) guardAppend(err *error) {
	if r := recover(); r != nil {
		l.breakDown(r)
		*err = inDoubt(l.closedError())
	}
}

func (l *Log) breakDown(r any) {
	cause := fmt.Sprintf("panic: %v\n%s", r, debug.Stack())
	if l.cause.CompareAndSwap(nil, &cause) {
		l.beginClosing()
		close(l.broken)
		l.opts.Logger.Error("log has failed", "cause", cause)
	}
}

// Shutdown closes the log: producers send what they hold, calls and loops that wait
// end with ErrClosed, what is unflushed is flushed. When ctx ends it stops waiting and
// returns ctx's error; what producers have not appended by then fails with ErrClosed,
// the rest is done in the background, and the directory stays locked until then.
// Nothing acknowledged is at risk.
func (l *Log) Shutdown(ctx context.Context) error {
	drained, consumers := l.beginDraining()
	if len(drained) == 0 && len(consumers) == 0 {
		l.beginClosing()
	}
	l.finish.Do(func() {
		go func() {
			defer close(l.closed)
			for _, p := range drained {
				_ = p.Shutdown(ctx) // who waits for a record hears of it
			}
			l.closeConsumers(ctx, consumers)
			l.beginClosing()
			l.run(l.shutdown)
			if l.cause.Load() != nil {
				l.err = fmt.Errorf("close %s: %w", l.dir, errors.Join(l.closedError(), l.err))
			}
		}()
	})
	select {
	case <-l.closed:
		return l.err
	default:
	}
	select {
	case <-l.closed:
		return l.err
	case <-ctx.Done():
		return fmt.Errorf("close %s: %w", l.dir, ctx.Err())
	}
}

// beginDraining ends the making of producers and consumers, and the sending to producers
// that there are. It returns what is to be closed.
func (l *Log) beginDraining() ([]*Producer, []*Consumer) {
	l.mu.Lock()
	l.draining = true
	producers, consumers := slices.Collect(maps.Keys(l.producers)), slices.Collect(maps.Keys(l.consumers))
	l.mu.Unlock()
	for _, p := range producers {
		p.mu.Lock()
		p.stop()
		p.mu.Unlock()
	}
	return producers, consumers
}

// closeConsumers closes consumers beside each other: what one has passed can be committed only
// when another one, the leader of their group, has assigned the partitions.
func (l *Log) closeConsumers(ctx context.Context, list []*Consumer) {
	var all sync.WaitGroup
	for _, c := range list {
		all.Go(func() {
			l.run(func() {
				if err := c.Shutdown(ctx); err != nil {
					l.opts.Logger.Warn("consumer is not closed as it should", "client", c.opts.ClientID, "err", err)
				}
			})
		})
	}
	all.Wait()
}

// addConsumer takes note of a consumer that is made.
func (l *Log) addConsumer(c *Consumer) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.draining || l.isClosing() {
		return l.closedError()
	}
	l.consumers[c] = true
	return nil
}

// dropConsumer forgets one that is closed.
func (l *Log) dropConsumer(c *Consumer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.consumers, c)
}

// tellConsumers has consumers look at what topics there are. Called under mu.
func (l *Log) tellConsumers() {
	for c := range l.consumers {
		c.topicsNews.Store(true)
		c.lookUp()
	}
}

// addProducer takes note of a producer that is made.
func (l *Log) addProducer(p *Producer) error {
	if err := l.errReadOnly(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.draining || l.isClosing() {
		return l.closedError()
	}
	l.producers[p] = true
	return nil
}

// dropProducer forgets one that is closed.
func (l *Log) dropProducer(p *Producer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.producers, p)
}

// Close is Shutdown with 30 seconds to do it in. It may be called again, and
// returns the same error again.
func (l *Log) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return l.Shutdown(ctx)
}

// shutdown closes everything, in the order in which it depends on each other.
// It runs once, on a goroutine that ends with the closing of closed.
func (l *Log) shutdown() {
	if l.view != nil {
		l.shutdownReadOnly()
		return
	}
	var errs []error
	for p := range l.partitions() {
		p.refuse()
	}
	l.taskMu.Lock()
	l.stopped = true
	if l.boundsTimer != nil {
		l.boundsTimer.Stop()
	}
	if l.retentionTimer != nil {
		l.retentionTimer.Stop()
	}
	l.taskMu.Unlock()
	l.stopGroups()
	l.tasks.Wait()

	for p := range l.partitions() {
		if l.cause.Load() == nil { // else what holds a flush may never let go
			errs = append(errs, p.flushRest())
			p.markClean()
		}
	}
	l.publishRest()
	if err := l.bounds.sync(siteCloseBounds); err != nil {
		// Nothing is lost: the next Open takes it for a crash.
		l.opts.Logger.Warn("clean stop is not recorded", "err", err)
	}
	for p := range l.partitions() {
		errs = append(errs, p.closeFiles())
	}
	l.closeRemains()
	errs = append(errs, l.bounds.close())
	errs = append(errs, l.lock.Close())
	if err := errors.Join(errs...); err != nil {
		l.err = fmt.Errorf("close %s: %w", l.dir, err)
	}
}
