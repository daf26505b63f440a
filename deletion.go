package riffle

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/rifflelog/riffle/internal/vfs"
)

// The places at which directories that get another name make that durable.
const (
	siteDeleteDir vfs.Site = "topic.delete.syncdir" // before the topic's name is free
	siteSortDir   vfs.Site = "open.dirs.syncdir"    // before anything is made under their old names
)

const (
	// maxFileName is how long a file's name is at most, on all file systems.
	maxFileName = 255
	// deletedSuffix and straySuffix end the names of directories that are no
	// partition's any more, as in Kafka. The id before them makes the name unique.
	deletedSuffix = "-delete"
	straySuffix   = "-stray"
	// strayTime is how long a stray directory is kept.
	strayTime = 24 * time.Hour
)

// goneName returns the name that the directory of a partition gets: what fits of
// the topic's name, the number, an id, and a suffix.
func goneName(tp TopicPartition, id [16]byte, suffix string) string {
	end := fmt.Sprintf("-%d.%s%s", tp.Partition, hex.EncodeToString(id[:]), suffix)
	return tp.Topic[:min(len(tp.Topic), maxFileName-len(end))] + end
}

// gonePattern matches such names.
var gonePattern = regexp.MustCompile(`^.*-\d+\.([0-9a-f]{32})(-delete|-stray)$`)

// parseGoneName returns the id in such a name, and its suffix.
func parseGoneName(name string) (id [16]byte, suffix string, ok bool) {
	m := gonePattern.FindStringSubmatch(name)
	if m == nil {
		return id, "", false
	}
	_, err := hex.Decode(id[:], []byte(m[1]))
	return id, m[2], err == nil
}

// strayID returns an id that tells when it was made, as those of UUID version 7
// do: it begins with the time.
func strayID(now time.Time) (id [16]byte) {
	binary.BigEndian.PutUint64(id[:], uint64(now.UnixMilli())<<16)
	_, _ = rand.Read(id[6:]) // never fails
	return id
}

// strayTimeOf is when a strayID was made.
func strayTimeOf(id [16]byte) time.Time {
	return time.UnixMilli(int64(binary.BigEndian.Uint64(id[:]) >> 16))
}

// partitionPattern matches the names of partitions' directories.
var partitionPattern = regexp.MustCompile(`^(.+)-(0|[1-9]\d{0,4})$`)

// parsePartitionName returns the partition whose directory has that name.
func parsePartitionName(name string) (tp TopicPartition, ok bool) {
	m := partitionPattern.FindStringSubmatch(name)
	if m == nil || checkTopicName(m[1]) != nil {
		return tp, false
	}
	n, err := strconv.Atoi(m[2])
	return TopicPartition{m[1], n}, err == nil
}

// moveAway gives the directories of a topic, whose deletion is durable, names
// that are nobody's, so that its own is free. What is there already is left out:
// an earlier attempt may have failed half-way.
//
// Step by step, and what would go wrong otherwise: (1) each partition ends what it
// is doing, or it would make files in the next topic's directory; (2) its directory
// is renamed; (3) that is made durable, or it could come back under a name that is
// another topic's by then; (4) its place in bounds is free; (5) its files are
// removed, once the last loop has left them.
func (l *Log) moveAway(t *Topic) error {
	for _, p := range t.all() {
		if p.moved.Load() != nil {
			continue
		}
		p.retire()
		if err := p.moveDir(); err != nil {
			return p.error("delete", err)
		}
	}
	if err := l.space.insist(func() error { return diskError(l.fs.SyncDir(siteDeleteDir, l.dir)) }); err != nil {
		return err
	}
	for _, p := range t.all() {
		if p.entry != nil {
			if err := l.bounds.remove(p.entry); err != nil {
				l.opts.Logger.Warn("other processes are not told of a deletion", "topic", t.name, "partition", p.index, "err", err)
			}
		}
	}
	l.mu.Lock()
	delete(l.halfGone, t.name)
	l.countDeleted(t) // what it did is done
	l.mu.Unlock()
	for _, p := range t.all() {
		p.leave() // as the one who was there from the beginning
	}
	return nil
}

// retire ends what a partition does, for good: what was appended is answered, and
// nothing of it writes any more.
func (p *Partition) retire() {
	p.refuse()
	p.awaitFlushes()
	p.leaveDeleted()
	segs := p.segs.Load()
	if segs == nil {
		return
	}
	p.endGrowing(segs.active())
	p.mu.Lock()
	unmapped := segs.active().mapped.unmap()
	p.mu.Unlock()
	p.topic.log.release(unmapped)
	for _, seg := range segs.list {
		seg.saving.Lock()
		seg.forgotten = true
		seg.saving.Unlock()
	}
}

// moveDir renames the partition's directory, if it has one. Loops that are in it
// go on under the new name.
func (p *Partition) moveDir() error {
	to := filepath.Join(p.topic.log.dir, goneName(p.name(), p.topic.id, deletedSuffix))
	if has, err := p.hasDir(); err != nil || !has {
		if err == nil {
			p.moved.Store(&to)
		}
		return err
	}
	rename := func() error { return diskError(p.topic.log.fs.Rename(p.dir, to)) }
	var files []*segmentFile
	if segs := p.segs.Load(); segs != nil {
		for _, seg := range segs.list {
			files = append(files, seg.file.(*segmentFile))
		}
	}
	err := p.topic.log.space.insist(func() error { return moveFiles(files, to, rename) })
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	p.moved.Store(&to)
	return nil
}

// hasDir says whether there is a directory of the partition's. On a file system that
// folds case, what is found under its name may be another topic's: that one was made
// under a name of its own, and is listed so.
func (p *Partition) hasDir() (bool, error) {
	if p.segs.Load() != nil {
		return true, nil
	}
	l := p.topic.log
	_, err := l.fs.Stat(p.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	entries, err := l.fs.ReadDir(l.dir)
	return slices.ContainsFunc(entries, func(e vfs.DirEntry) bool { return e.Name == filepath.Base(p.dir) }), err
}

// moveFiles calls rename, by which the files come to another directory, while none
// is open: Windows wants it so.
func moveFiles(files []*segmentFile, dir string, rename func() error) error {
	for _, f := range files {
		f.mu.Lock()
		defer f.mu.Unlock()
		if o := f.files.forget(f); o != nil {
			_ = o.Close() // what is in it is deleted
		}
	}
	if err := rename(); err != nil {
		return err
	}
	for _, f := range files {
		f.name = filepath.Join(dir, filepath.Base(f.name))
	}
	return nil
}

// enter keeps the partition's files until leave is called. It returns false if its
// topic is deleted.
func (p *Partition) enter() bool {
	for {
		n := p.users.Load()
		if p.gone.Load() || n == 0 {
			return false
		}
		if p.users.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// leave ends what enter began. Who leaves last removes the files.
func (p *Partition) leave() {
	if p.users.Add(-1) > 0 {
		return
	}
	l := p.topic.log
	l.mu.Lock()
	delete(l.remains, p)
	l.mu.Unlock()
	if p.shadow != nil {
		_ = p.closeShadow() // nothing was written
		return
	}
	_ = p.closeSegments() // closing the log may have done so
	dir := *p.moved.Load()
	l.inBackground(func() { l.removeDir(dir) })
}

// closeRemains closes the files of deleted topics in which loops still are.
func (l *Log) closeRemains() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for p := range l.remains {
		_ = p.closeSegments() // who leaves last may have done so
	}
}

// removeDir removes a directory with the files in it. What is left, the next Open
// removes.
func (l *Log) removeDir(dir string) {
	entries, err := l.fs.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return // nothing was ever appended to the partition
	}
	for _, e := range entries {
		if l.isClosing() {
			return
		}
		err = errors.Join(err, l.fs.Remove(filepath.Join(dir, e.Name)))
	}
	if err == nil {
		err = l.fs.Remove(dir)
	}
	if err != nil {
		l.opts.Logger.Warn("directory of a deleted topic is not removed", "dir", dir, "err", err)
	}
}

// sortDirs looks at the directories that are no living partition's. Those of
// deleted topics are to be removed. A directory that says of itself to be
// another topic's is a stray one: it is moved out of the way and kept for a day,
// since what is missing may be what the metadata log has lost.
//
// One that cannot be read or moved stays where it is, and holds up no other topic:
// it says whose it is, so nobody takes it for his own, and the next opening tries
// again. It returns those that are to be removed.
func (l *Log) sortDirs(deleted map[[16]byte]bool) (remove []string, err error) {
	entries, err := l.fs.ReadDir(l.dir)
	if err != nil {
		return nil, err
	}
	moved := false
	for _, e := range entries {
		if !e.Dir {
			continue
		}
		name := e.Name
		if tp, ok := parsePartitionName(name); ok {
			to, err := l.moveUnlessAlive(tp, deleted)
			if err != nil {
				l.opts.Logger.Warn("directory stays where it is", "dir", name, "err", err)
			}
			if err != nil || to == "" {
				continue
			}
			l.opts.Logger.Warn("directory of another topic is moved", "dir", name, "to", to)
			name, moved = to, true
		}
		switch _, suffix, ok := parseGoneName(name); {
		case !ok: // nothing of ours
		case suffix == deletedSuffix:
			remove = append(remove, filepath.Join(l.dir, name))
		default:
			l.strays.Store(true)
		}
	}
	if moved {
		err = diskError(l.fs.SyncDir(siteSortDir, l.dir))
	}
	return remove, err
}

// moveUnlessAlive moves a directory to the place that placeFor says, and returns that.
func (l *Log) moveUnlessAlive(tp TopicPartition, deleted map[[16]byte]bool) (to string, err error) {
	to, err = l.placeFor(tp, deleted)
	if err == nil && to != "" {
		err = l.space.insist(func() error {
			return diskError(l.fs.Rename(filepath.Join(l.dir, tp.String()), filepath.Join(l.dir, to)))
		})
	}
	return to, err
}

// placeFor returns the name that a partition's directory is to get; none if it is
// a living partition's, or does not say whose it is: then it is a remainder of
// one that was being made, or nothing of ours.
func (l *Log) placeFor(tp TopicPartition, deleted map[[16]byte]bool) (string, error) {
	name := filepath.Join(l.dir, tp.String(), partitionMetadataName)
	data, err := vfs.ReadFile(l.fs, name, maxSideFile)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return "", err
	}
	id, err := parsePartitionMetadata(data)
	if err != nil {
		return "", nil // recovery says so, if it is a living partition's
	}
	t := l.topics[tp.Topic]
	mine := t != nil && t.id == id && tp.Partition < t.NumPartitions()
	switch {
	case l.fs.Check(siteRecoveryID, mine):
		return "", nil
	case deleted[id]:
		return goneName(tp, id, deletedSuffix), nil
	case t != nil:
		if _, _, known := l.bounds.lookup(boundsKey{t.id, int32(tp.Partition)}); known {
			return "", nil // it may be that partition's, and its id be wrong: recovery says so
		}
	}
	return goneName(tp, strayID(time.Now()), straySuffix), nil
}

// removeStrays removes what has been stray for long enough, if opening has seen any.
// Recovery never does.
func (l *Log) removeStrays(now time.Time) {
	if !l.strays.Load() {
		return
	}
	entries, err := l.fs.ReadDir(l.dir)
	if err != nil {
		l.opts.Logger.Warn("stray directories are not looked for", "err", err)
		return
	}
	left := false
	for _, e := range entries {
		id, suffix, ok := parseGoneName(e.Name)
		if !ok || !e.Dir || suffix != straySuffix {
			continue
		}
		if now.Sub(strayTimeOf(id)) > strayTime {
			l.removeDir(filepath.Join(l.dir, e.Name))
		} else {
			left = true
		}
	}
	l.strays.Store(left)
}
