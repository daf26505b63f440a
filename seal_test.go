package riffle

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle/internal/batch"
	"github.com/rifflelog/riffle/internal/compress"
	"github.com/rifflelog/riffle/internal/vfs"
	"github.com/rifflelog/riffle/internal/vfs/errfs"
	"github.com/rifflelog/riffle/internal/vfs/memfs"
)

func goldenSeal() *seal {
	return &seal{
		base: 1000, size: 65536, next: 1257, maxTimestamp: 1_700_000_000_000, maxOffset: 1255,
		log: 0x1111111111111111, index: 0x2222222222222222, timeIndex: 0x3333333333333333,
	}
}

const sealGolden = "testdata/seal.golden"

// TestSealBytes compares what is stored with bytes worked out by hand, except
// for the hash, and with the file of an earlier version.
func TestSealBytes(t *testing.T) {
	want := unhex(t, "72666c2d7365616c 00000001 00000000 00000000000003e8 0000000000010000 00000000000004e9"+
		"0000018bcfe56800 00000000000004e7 1111111111111111 2222222222222222 3333333333333333 0000000000000000")
	got := goldenSeal().format()
	require.Equal(t, want, got[:sealSize-8])
	if *updateGolden {
		require.NoError(t, os.WriteFile(sealGolden, got, 0o666))
	}
	golden, err := os.ReadFile(sealGolden)
	require.NoError(t, err)
	require.Equal(t, golden, got)
	s, err := parseSeal(golden)
	require.NoError(t, err)
	require.Equal(t, goldenSeal(), s)
}

// TestSealRefusesDamage: no seal with a flipped bit, of another length or of
// zeros is one, nor is one with a right hash that makes no sense.
func TestSealRefusesDamage(t *testing.T) {
	whole := goldenSeal().format()
	for bit := range 8 * len(whole) {
		bad := append([]byte(nil), whole...)
		bad[bit/8] ^= 1 << (bit % 8)
		_, err := parseSeal(bad)
		require.Error(t, err, bit)
	}
	for n := range whole {
		_, err := parseSeal(whole[:n])
		require.Error(t, err, n)
	}
	for _, bad := range [][]byte{make([]byte, sealSize), append(whole, 0)} {
		_, err := parseSeal(bad)
		require.Error(t, err)
	}
	for says, change := range map[string]func(*seal){
		"bytes with offsets":              func(s *seal) { s.base = -1 },
		"-1 bytes":                        func(s *seal) { s.size = -1 },
		"[1000, 999)":                     func(s *seal) { s.next = 999 },
		"largest timestamp -2":            func(s *seal) { s.maxTimestamp = batch.NoTimestamp - 1 },
		"offset 999 of":                   func(s *seal) { s.maxOffset = 999 },
		"offset 1258 of":                  func(s *seal) { s.maxOffset = 1258 },
		"largest timestamp 1700000000000": func(s *seal) { s.maxOffset = -1 },
	} {
		s := goldenSeal()
		change(s)
		_, err := parseSeal(s.format())
		require.ErrorContains(t, err, says)
	}
}

// sealedLog is a timedLog of 60 records of about 1 KB, with timestamps that go
// forward and back, in segments of ten or so.
func sealedLog(t *testing.T, fsys vfs.FS) *timedLog {
	l := &timedLog{cfg: &TopicConfig{SegmentBytes: 10 << 10, SegmentAge: Forever}}
	log, err := open(fsys, "/data", nil)
	require.NoError(t, err)
	l.log, l.p = log, partOf(t, log, "topic", l.cfg)
	for i := range int64(60) {
		l.append(t, compress.None, 900, i/2*3%40)
	}
	return l
}

// sealed returns the segments that are not active.
func (l *timedLog) sealed() []*segment {
	list := l.p.segs.Load().list
	return list[:len(list)-1]
}

// sideFiles returns the content of the derived files by their name.
func sideFiles(t *testing.T, fsys vfs.FS) map[string]string {
	entries, err := fsys.ReadDir("/data/topic-0")
	require.NoError(t, err)
	files := map[string]string{}
	for _, e := range entries {
		if isSideFile(e.Name) {
			data, err := vfs.ReadFile(fsys, "/data/topic-0/"+e.Name, 1<<20)
			require.NoError(t, err)
			files[e.Name] = string(data)
		}
	}
	return files
}

// TestRolledSegmentsAreSealed: when all is quiet, each segment but the active one
// has a seal, with the hash of its log and of what is beside it, and takes no
// memory for its indexes. The seal says what all batches say.
func TestRolledSegmentsAreSealed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := memfs.New()
		fsys := errfs.New(disk)
		var mu sync.Mutex // the log's goroutines make files too
		made := map[string]int{}
		fsys.OnOp(func(op errfs.Op) error {
			mu.Lock()
			defer mu.Unlock()
			if op.Kind == errfs.Create {
				made[filepath.Ext(op.Name)]++
			}
			return nil
		})
		l := sealedLog(t, fsys)
		synctest.Wait()
		require.Len(t, l.sealed(), 5)
		require.Equal(t, []int{5, 5, 10}, []int{made[indexSuffix], made[timeIndexSuffix], made[sealSuffix]},
			"the hash of the log comes later")
		files := sideFiles(t, disk)
		require.Len(t, files, 3*5)
		for _, seg := range l.sealed() {
			require.Nil(t, seg.index.Load())
			s, err := parseSeal([]byte(files[segmentFileName(seg.base, sealSuffix)]))
			require.NoError(t, err)
			_, want, err := l.p.survey(seg, nil)
			require.NoError(t, err)
			require.Equal(t, want, s)
			require.NotZero(t, s.log)
			require.Equal(t, s, seg.seal.Load())
			next := l.p.segs.Load().after(seg)
			require.Equal(t, next.base, s.next)
			largest, at := int64(batch.NoTimestamp), seg.base
			for o := seg.base; o < next.base; o++ {
				if l.times[o] > largest {
					largest, at = l.times[o], o
				}
			}
			require.Equal(t, []int64{largest, int64(at)}, []int64{s.maxTimestamp, int64(s.maxOffset)})
			x, err := l.p.indexOf(seg, true)
			require.NoError(t, err)
			ts, o := x.time.last()
			require.Equal(t, []int64{largest, int64(at)}, []int64{ts, int64(o)}, "the closing entry")
		}
		l.check(t)
		require.NoError(t, l.log.Close())
	})
}

// TestCheckSealedFindsAFlippedBit flips one bit after the other in the file of a
// sealed segment, some of them in what no CRC covers.
func TestCheckSealedFindsAFlippedBit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := memfs.New()
		l := sealedLog(t, disk)
		synctest.Wait()
		seg := l.sealed()[2]
		require.NoError(t, l.p.checkSealed(seg))
		for bit := int64(0); bit < 8*seg.size; bit += 1009 {
			flipBit(t, disk, seg.file.Name(), bit)
			err := l.p.checkSealed(seg)
			var ce *CorruptError
			require.ErrorAs(t, err, &ce, bit)
			require.Equal(t, seg.file.Name(), ce.File)
			flipBit(t, disk, seg.file.Name(), bit)
		}
		require.NoError(t, l.p.checkSealed(seg))
		require.NoError(t, seg.file.Truncate(seg.size-1))
		requireAll(t, l.p.checkSealed(seg), ErrCorrupt)
		require.NoError(t, l.log.Close())
		requireAll(t, l.p.checkSealed(seg), ErrClosed)
	})
}

// TestMissingSealIsMadeWhenNeeded removes the seals of a closed log. Opening and
// reading do not miss them; asking for a time and checking make them anew, as
// they were.
func TestMissingSealIsMadeWhenNeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := memfs.New()
		l := sealedLog(t, disk)
		synctest.Wait()
		require.NoError(t, l.log.Close())
		before := sideFiles(t, disk)
		for _, spoil := range []func(name string){
			func(name string) { require.NoError(t, disk.Remove(name)) },
			func(name string) { flipBit(t, disk, name, 300) },
			func(name string) { require.NoError(t, vfs.WriteFileAtomic(disk, "", name, make([]byte, sealSize))) },
		} {
			for _, seg := range l.sealed() {
				spoil(l.p.path(segmentFileName(seg.base, sealSuffix)))
			}
			l.disk = disk
			openTimed(t, l)
			n := 0
			for _, err := range l.p.Records(ctx, 5, nil) {
				require.NoError(t, err)
				n++
			}
			require.Equal(t, len(l.times)-5, n)
			for i, seg := range l.sealed() {
				require.Nil(t, seg.seal.Load())
				if i%2 == 0 {
					require.NoError(t, l.p.checkSealed(seg))
				}
			}
			l.check(t)
			synctest.Wait()
			require.NoError(t, l.log.Close())
			require.Equal(t, before, sideFiles(t, disk))
		}
	})
}

// TestSegmentThatCouldNotBeSealedIsNotDamaged: its seal could not be written when it was
// full, nor could its batches be read after that. When that has passed, what it holds is
// known, and retention deletes it.
func TestSegmentThatCouldNotBeSealedIsNotDamaged(t *testing.T) {
	fsys := errfs.New(memfs.New())
	tune := defaultTuning
	tune.sealAtOnce, tune.retentionInterval = true, 0
	l, err := openTuned(fsys, "/data", nil, tune)
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	p := partOf(t, l, "topic", &TopicConfig{SegmentBytes: 4096, RetentionBytes: 1})
	full := Record{Value: make([]byte, 4000)}
	_, err = p.Append(ctx, full)
	require.NoError(t, err)
	seal := p.path(segmentFileName(0, sealSuffix))
	var heals []func()
	for _, rule := range []errfs.Rule{
		{Kind: errfs.Create, Name: seal, Err: vfs.ErrNoSpace},
		{Kind: errfs.Write, Name: seal, Err: vfs.ErrNoSpace},
		{Kind: errfs.Read, Name: p.path(logFileName(0)), Err: os.ErrDeadlineExceeded},
	} {
		heals = append(heals, fsys.Add(rule))
	}
	_, err = p.Append(ctx, full)
	require.NoError(t, err)
	for _, heal := range heals {
		heal()
	}
	require.Nil(t, p.segs.Load().list[0].seal.Load())
	s, err := p.sealOf(p.segs.Load().list[0])
	require.NoError(t, err)
	require.NotNil(t, s)
	l.checkRetention(time.Now())
	require.Equal(t, Offset(1), p.Bounds().Start)
}

// TestSideFileIsBelievedOnlyAsSealed flips bits in, empties and removes each
// derived file of a closed log, one at a time: every time is found where it is,
// and what was wrong is as it was.
func TestSideFileIsBelievedOnlyAsSealed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		whole := memfs.New()
		l := sealedLog(t, whole)
		synctest.Wait()
		require.NoError(t, l.log.Close())
		before := sideFiles(t, whole)
		require.Len(t, before, 3*6, "those of the active one too")
		for name, data := range before {
			spoils := map[string]func(fsys vfs.FS, name string) error{
				"removed": func(fsys vfs.FS, name string) error { return fsys.Remove(name) },
				"empty":   func(fsys vfs.FS, name string) error { return vfs.WriteFileAtomic(fsys, "", name, nil) },
			}
			for bit := 0; bit < 8*len(data); bit += 41 {
				spoils[fmt.Sprintf("bit %d", bit)] = func(fsys vfs.FS, name string) error {
					flipBit(t, fsys, name, int64(bit))
					return nil
				}
			}
			for how, spoil := range spoils {
				l.disk = whole.CrashClone(0)
				for file, data := range before { // they were not flushed
					require.NoError(t, vfs.WriteFileAtomic(l.disk, "", "/data/topic-0/"+file, []byte(data)))
				}
				require.NoError(t, spoil(l.disk, "/data/topic-0/"+name))
				openTimed(t, l)
				l.check(t)
				for from := range Offset(len(l.times)) {
					for r, err := range l.p.Records(ctx, from, nil) {
						require.NoError(t, err)
						require.Equal(t, from, r.Offset)
						break
					}
				}
				require.NoError(t, l.log.Close())
				require.Equal(t, before, sideFiles(t, l.disk), "%s: %s", name, how)
			}
		}
	})
}

// TestSealedSegmentsCostNothingAtOpen counts what opening a closed log reads: of
// sealed segments nothing, and of the active one its derived files. Then the
// largest timestamp of a sealed segment costs its seal, once.
func TestSealedSegmentsCostNothingAtOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := memfs.New()
		l := sealedLog(t, disk)
		synctest.Wait()
		active := l.p.active().base
		require.NoError(t, l.log.Close())
		fsys := errfs.New(disk)
		var read []string
		fsys.OnOp(func(op errfs.Op) error {
			if op.Kind == errfs.Read && strings.Contains(op.Name, "topic-0/0") {
				read = append(read, filepath.Base(op.Name))
			}
			return nil
		})
		log := openAt(t, fsys, "/data", nil)
		for _, name := range read {
			require.True(t, strings.HasPrefix(name, segmentFileName(active, "")), name)
		}
		l.log, l.p = log, partOf(t, log, "topic", nil)
		for range 2 {
			read = nil
			_, err := l.p.sealOf(l.sealed()[1])
			require.NoError(t, err)
			require.LessOrEqual(t, len(read), 1)
		}
		require.Empty(t, read)
		require.NoError(t, log.Close())
	})
}

// TestActiveSegmentGoesOn opens a log that was closed, or of a killed process: of
// the active segment the same is known as before, and of others nothing.
func TestActiveSegmentGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, end := range []func(l *Log) error{(*Log).Close, kill} {
			disk := memfs.New()
			l := sealedLog(t, disk)
			synctest.Wait()
			for _, ts := range []int64{39, 5, 5, 5, 5, 5, 5, 5, 38} {
				l.append(t, compress.None, 600, ts)
			}
			before := l.p.active()
			require.NoError(t, end(l.log))
			l.disk = disk
			openTimed(t, l)
			after := l.p.active()
			require.Equal(t, before.base, after.base)
			require.Equal(t, []int64{before.size, before.indexed, before.maxTimestamp, int64(before.maxOffset)},
				[]int64{after.size, after.indexed, after.maxTimestamp, int64(after.maxOffset)})
			require.Equal(t, before.index.Load().offset.bytesFrom(0), after.index.Load().offset.bytesFrom(0))
			require.Equal(t, before.index.Load().time.bytesFrom(0), after.index.Load().time.bytesFrom(0))
			for _, seg := range l.sealed() {
				require.Nil(t, seg.index.Load())
			}
			l.check(t)
			require.NoError(t, l.log.Close())
		}
	})
}

// TestSegmentIndexTruncates drops what both indexes know of a batch and of what
// is behind it, and keeps the rest.
func TestSegmentIndexTruncates(t *testing.T) {
	x := newSegmentIndex(0)
	for i := range Offset(4) {
		require.True(t, x.add(10*i+9, int64(5000*i+1), int64(i), 10*i+5))
	}
	x.truncate(29, 10001)
	last, pos := x.offset.last()
	require.Equal(t, []int64{19, 5001}, []int64{int64(last), pos})
	ts, at := x.time.last()
	require.Equal(t, []int64{2, 25}, []int64{ts, int64(at)}, "before the batch")
	x.truncate(25, 10001)
	ts, at = x.time.last()
	require.Equal(t, []int64{1, 15}, []int64{ts, int64(at)})
}

// TestOldSealIsNotBelieved closes a log, and appends more to the segment and
// behind it without a side file being written any more: the old ones fit
// together, but do not know the rest.
func TestOldSealIsNotBelieved(t *testing.T) {
	l := &timedLog{disk: memfs.New(), cfg: &TopicConfig{SegmentBytes: 10 << 10}}
	openTimed(t, l)
	for range 6 {
		l.append(t, compress.None, 900, 1)
	}
	require.NoError(t, l.log.Close())
	before := sideFiles(t, l.disk)
	require.Len(t, before, 3)
	fsys := errfs.New(l.disk)
	for suffix := range before {
		fsys.Add(errfs.Rule{Kind: errfs.Create, Name: "/data/topic-0/" + suffix, Err: fs.ErrPermission})
	}
	log, err := open(fsys, "/data", nil)
	require.NoError(t, err)
	l.log, l.p = log, partOf(t, log, "topic", nil)
	for ts := range int64(10) {
		l.append(t, compress.None, 900, 10-ts)
	}
	require.Len(t, l.sealed(), 1)
	require.NoError(t, log.Close())
	for name, data := range before {
		require.Equal(t, data, sideFiles(t, l.disk)[name])
	}
	openTimed(t, l)
	l.check(t)
	require.NoError(t, l.log.Close())
}

// TestIdleCloseWritesNothing opens and closes a log, having read or not.
func TestIdleCloseWritesNothing(t *testing.T) {
	disk := memfs.New()
	require.NoError(t, sealedLog(t, disk).log.Close())
	before := sideFiles(t, disk)
	fsys := errfs.New(disk)
	var wrote []string
	fsys.OnOp(func(op errfs.Op) error {
		if op.Kind == errfs.Create || op.Kind == errfs.Write && strings.Contains(op.Name, "topic-0") {
			wrote = append(wrote, op.String())
		}
		return nil
	})
	for range 2 {
		l := openAt(t, fsys, "/data", nil)
		p := partOf(t, l, "topic", nil)
		for _, err := range p.Records(ctx, Earliest, nil) {
			require.NoError(t, err)
		}
		require.NoError(t, l.Close())
	}
	require.Empty(t, wrote)
	require.Equal(t, before, sideFiles(t, disk))
}

// TestSideFilesWithoutALogAreRemoved leaves derived files of segments that are
// not there: they go. What has another name, or is a directory, stays.
func TestSideFilesWithoutALogAreRemoved(t *testing.T) {
	disk := memfs.New()
	require.NoError(t, sealedLog(t, disk).log.Close())
	before := sideFiles(t, disk)
	for _, suffix := range sideSuffixes {
		require.NoError(t, vfs.WriteFileAtomic(disk, "", "/data/topic-0/"+segmentFileName(5, suffix), []byte("left")))
	}
	others := []string{"5" + indexSuffix, "notes.txt", segmentFileName(5, ".snapshot"), segmentFileName(5, indexSuffix) + ".bak"}
	for _, name := range others {
		require.NoError(t, vfs.WriteFileAtomic(disk, "", "/data/topic-0/"+name, []byte("kept")))
	}
	require.NoError(t, disk.Mkdir("/data/topic-0/"+segmentFileName(6, sealSuffix)))
	require.NoError(t, openAt(t, disk, "/data", nil).Close())
	for _, name := range append(others, segmentFileName(6, sealSuffix)) {
		_, err := disk.Stat("/data/topic-0/" + name)
		require.NoError(t, err)
		require.NoError(t, disk.Remove("/data/topic-0/"+name))
	}
	require.Equal(t, before, sideFiles(t, disk))
}

// TestCloseDoesNotWaitForSealing holds up the first read of sealing while the log
// closes: once it goes on, no other follows. The next process finds every time
// all the same.
func TestCloseDoesNotWaitForSealing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := memfs.New()
		fsys := errfs.New(disk)
		reads := 0
		held, release := fsys.Block(errfs.Rule{Kind: errfs.Read, Name: "/data/topic-0/" + logFileName(0)})
		l := sealedLog(t, fsys)
		<-held
		fsys.OnOp(func(op errfs.Op) error {
			if op.Kind == errfs.Read {
				reads++
			}
			return nil
		})
		done := make(chan error)
		go func() { done <- l.log.Close() }()
		synctest.Wait()
		release()
		require.NoError(t, <-done)
		require.Zero(t, reads)
		for _, seg := range l.sealed() {
			s, err := l.p.readSeal(seg.base)
			require.NoError(t, err)
			require.Zero(t, s.log)
		}
		l.disk = disk
		openTimed(t, l)
		l.check(t)
		require.NoError(t, l.p.checkSealed(l.sealed()[0]))
		require.NotZero(t, l.sealed()[0].seal.Load().log)
		require.NoError(t, l.log.Close())
	})
}

// TestCutEndIsForgotten loses the file of bounds of a closed log, and with it
// the recovery point, and damages all batches from one on: they pass for a torn
// end and are cut.
// What the side files knew of what followed is not believed when other batches
// of the same sizes stand there.
func TestCutEndIsForgotten(t *testing.T) {
	l := &timedLog{disk: memfs.New(), cfg: &TopicConfig{Flush: FlushAsync}}
	openTimed(t, l)
	for i := range int64(30) {
		l.append(t, compress.None, 900, i)
	}
	require.NoError(t, l.log.Close())
	require.Positive(t, l.p.active().index.Load().time.len())
	require.NoError(t, l.disk.Remove("/data/bounds"))
	for i := int64(10); i < 30; i++ {
		flipBit(t, l.disk, "/data/topic-0/"+logFileName(0), 8*(i*971+500))
	}
	openTimed(t, l)
	require.EqualValues(t, 10, l.p.Bounds().End)
	require.Empty(t, sideFiles(t, l.disk))
	l.times = l.times[:10]
	for range 20 {
		l.append(t, compress.None, 900, 3)
	}
	l.append(t, compress.None, 900, 15)
	require.NoError(t, l.p.flushRest())
	require.NoError(t, l.log.bounds.sync(siteBoundsFlush))
	require.NoError(t, kill(l.log))
	openTimed(t, l)
	l.check(t)
	require.NoError(t, l.log.Close())
}

// TestUnflushedIsNotRemembered lets the flush fail, and closes the log: indexes
// of batches that a power cut may take are not written.
func TestUnflushedIsNotRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := errfs.New(memfs.New())
		l, err := open(fsys, "/data", nil)
		require.NoError(t, err)
		p := partOf(t, l, "topic", &TopicConfig{Flush: FlushAsync, FlushInterval: Forever})
		for range 3 {
			_, err := p.Append(ctx, Record{Value: make([]byte, 5000)})
			require.NoError(t, err)
		}
		require.NoError(t, p.closeFiles())
		require.Empty(t, sideFiles(t, fsys), "as after a kill")
		fsys.FailSite(siteFlush, 0, nil)
		require.Error(t, l.Shutdown(ctx))
		require.Empty(t, sideFiles(t, fsys))
	})
}
