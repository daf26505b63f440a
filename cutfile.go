package riffle

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
)

// keepTorn keeps what is about to be cut, or removed with its file. If it cannot,
// nothing is cut.
func (p *Partition) keepTorn(s *scan) {
	if !s.torn || s.killed() {
		return
	}
	if err := p.topic.log.space.insist(func() error { return diskError(p.keepCut(s)) }); err != nil {
		p.damage(s, s.seg.size, NoOffset, fmt.Errorf("keep what is to be cut: %w", err))
	}
}

// keepCut copies what is to be cut to a file of its own, durably, without the
// zeros at the end: a torn end has other bytes. Only the last
// such file is kept: it is for those who want to see what was lost.
func (p *Partition) keepCut(s *scan) error {
	end, err := trimZeros(s.seg.file, s.seg.size, s.fileSize)
	if err != nil {
		return err
	}
	file, err := p.topic.log.fs.Create(p.path(cutName(s.end)))
	if err != nil {
		return err
	}
	err = copyBytes(file, 0, s.seg.file, s.seg.size, end)
	if err == nil {
		err = file.Sync(siteRecoveryCut)
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	if err := p.topic.log.fs.SyncDir(siteRecoveryCutDir, p.dir); err != nil {
		return err
	}
	p.removeOldCuts(cutName(s.end))
	return nil
}

// removeOldCuts removes what was cut earlier. What stays is in nobody's way.
func (p *Partition) removeOldCuts(newest string) {
	entries, err := p.topic.log.fs.ReadDir(p.dir)
	if err != nil {
		p.topic.log.opts.Logger.Warn("what was cut earlier is not removed", "dir", p.dir, "err", err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name, cutSuffix) && !e.Dir && e.Name != newest {
			p.removeSideFile(e.Name)
		}
	}
}

// cutSuffix ends the name of a file with what recovery has cut.
const cutSuffix = ".cut"

// cutName is the name of the file with what was cut where offset end would be.
func cutName(end Offset) string { return segmentFileName(end, cutSuffix) }

// trimZeros returns where the zeros at the end of bytes [pos, end) of a file
// begin.
func trimZeros(file io.ReaderAt, pos, end int64) (int64, error) {
	buf := make([]byte, min(maxWindow, end-pos))
	for pos < end {
		buf = buf[:min(int64(len(buf)), end-pos)]
		if _, err := file.ReadAt(buf, end-int64(len(buf))); err != nil {
			return 0, err
		}
		data := bytes.TrimRight(buf, "\x00")
		end -= int64(len(buf) - len(data))
		if len(data) > 0 {
			break
		}
	}
	return end, nil
}
