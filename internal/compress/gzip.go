package compress

import (
	"bytes"
	"errors"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
)

// Bytes 4 to 8 of a gzip member are the time of the file that it holds; zero means that there is none.
const (
	gzipTimePos = 4
	gzipTimeEnd = 8
)

// gzipEncoders are pooled by level, since a gzip.Writer cannot change its own. Index 0 is the default.
var gzipEncoders [10]sync.Pool

// gzipEncoder is a writer and what it writes to. Not safe for concurrent use.
type gzipEncoder struct {
	z   *gzip.Writer
	out []byte // nil in the pool: these are the caller's bytes
}

// Write appends to the output, for the gzip.Writer.
func (e *gzipEncoder) Write(p []byte) (int, error) {
	e.out = append(e.out, p...)
	return len(p), nil
}

func newGzipEncoder(level int) (e *gzipEncoder, err error) {
	e = &gzipEncoder{}
	e.z, err = gzip.NewWriterLevel(e, level)
	return e, err
}

func appendGzip(dst []byte, level int, src []byte) ([]byte, error) {
	pool := &gzipEncoders[max(level, 0)]
	e, _ := pool.Get().(*gzipEncoder)
	if e == nil {
		var err error
		if e, err = newGzipEncoder(level); err != nil {
			return dst, err
		}
	}
	out, err := e.append(dst, src)
	pool.Put(e)
	return out, err
}

func (e *gzipEncoder) append(dst, src []byte) ([]byte, error) {
	e.out = dst
	e.z.Reset(e)
	_, err := e.z.Write(src)
	if err == nil {
		err = e.z.Close()
	}
	out := e.out
	e.out = nil
	if err != nil {
		return dst, err
	}
	// The writer takes Go's zero time for a time, and writes some year of our century.
	clear(out[len(dst)+gzipTimePos : len(dst)+gzipTimeEnd])
	return out, nil
}

var gzipDecoders = sync.Pool{New: func() any { return new(gzipDecoder) }}

// gzipDecoder is a reader and what it reads from. Not safe for concurrent use.
type gzipDecoder struct {
	z     gzip.Reader
	in    bytes.Reader // holds nothing in the pool
	probe [1]byte      // what is read into at the limit
}

func appendGunzipped(dst, src []byte, limit int) ([]byte, error) {
	d := gzipDecoders.Get().(*gzipDecoder)
	out, err := d.append(dst, src, limit)
	d.release()
	gzipDecoders.Put(d)
	return out, err
}

// release makes the decoder forget the input, and the name and extra field in its header.
func (d *gzipDecoder) release() {
	d.in.Reset(nil)
	d.z.Header = gzip.Header{}
}

// append reads all members of src. An extra field in a member's header is read into memory, at most
// 64 KiB at a time; everything else grows with the output.
func (d *gzipDecoder) append(dst, src []byte, limit int) ([]byte, error) {
	d.in.Reset(src)
	if err := d.z.Reset(&d.in); err != nil {
		return dst, corrupt(Gzip, unexpectedEOF(err))
	}
	base, end := len(dst), len(dst)+limit
	for {
		// Where nothing more fits, or may come, one byte is read aside: mostly all is there already.
		into := d.probe[:]
		if room := min(cap(dst), end); len(dst) < room {
			into = dst[len(dst):room]
		}
		n, err := d.z.Read(into)
		if len(dst)+n > end {
			return dst, tooLarge(Gzip, limit)
		}
		if n > 0 && &into[0] == &d.probe[0] {
			// Records shrink to a quarter or so: most batches then need one allocation.
			dst = grow(dst, base, max(512, 4*len(src)), end)
			dst = append(dst, d.probe[0])
		} else {
			dst = dst[:len(dst)+n]
		}
		if err == io.EOF {
			return dst, nil
		}
		if err != nil {
			return dst, corrupt(Gzip, err)
		}
	}
}

// unexpectedEOF is for a reader that says that all is read before anything was.
func unexpectedEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
