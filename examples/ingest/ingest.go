package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/rifflelog/riffle"
)

const (
	// maxBody is how large a request may be, in bytes. More than that is for
	// several requests, so that one client does not hold all of the buffer.
	maxBody = 8 << 20
	// maxLine is the longest line, in bytes: what a batch of the topic takes,
	// without what it adds.
	maxLine = 1<<20 - 1<<10
	// maxRefusals is how many lines are listed of those that are refused.
	maxRefusals = 100
)

// ingest takes lines over HTTP. It is safe for concurrent use.
type ingest struct {
	topic    *riffle.Topic
	producer *riffle.Producer
}

func newIngest(ctx context.Context, db *riffle.Log) (*ingest, error) {
	topic, err := db.EnsureTopic(ctx, "events", &riffle.TopicConfig{Partitions: 4})
	if err != nil {
		return nil, err
	}
	producer, err := db.NewProducer(&riffle.ProducerOptions{DeliveryTimeout: deliveryTimeout, ClientID: "ingest"})
	if err != nil {
		return nil, err
	}
	return &ingest{topic, producer}, nil
}

// ServeHTTP takes the lines of a request, and answers when each is on stable
// storage or refused: 200 if all were taken, 400 if lines are no JSON or the
// request ends early, 413 if it or a line is too large, 503 if the log did not
// take them.
func (in *ingest) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	post := newPost()
	err := in.read(r.Context(), http.MaxBytesReader(w, r.Body, maxBody), r.URL.Query().Get("key"), post)
	answer, status, ok := post.answer(r.Context(), err)
	if !ok {
		return // the client is gone
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer) // who does not get it knows nothing, and may send again
}

// read enqueues the lines of a body. Enqueue waits while the producer's buffer is
// full: so the body is read no faster than the disk takes it, and the client waits.
// The error says why the rest was not read.
func (in *ingest) read(ctx context.Context, body io.Reader, key string, post *post) error {
	record := riffle.Record{Topic: in.topic.Name()}
	if key != "" {
		record.Key = []byte(key)
	}
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, maxLine)
	n := 0
	for lines.Scan() {
		n++
		record.Value = bytes.TrimSpace(lines.Bytes())
		if len(record.Value) == 0 {
			continue
		}
		ended := post.begin(n)
		if !json.Valid(record.Value) {
			ended(errNoJSON)
			continue
		}
		// The scanner's buffer is used again: Enqueue keeps nothing of it.
		err := in.producer.Enqueue(ctx, record, func(_ riffle.RecordMetadata, err error) { ended(err) })
		if err != nil {
			ended(err)
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("after line %d: %w", n, err)
	}
	return nil
}

var errNoJSON = errors.New("no JSON")

// answer is what a client gets.
type answer struct {
	Taken    int       `json:"taken"`              // lines that are on stable storage
	Refused  int       `json:"refused,omitempty"`  // lines that are not, or may not be
	Refusals []refusal `json:"refusals,omitempty"` // the first of these
	Error    string    `json:"error,omitempty"`    // why no more was read
}

type refusal struct {
	Line  int    `json:"line"` // the first is 1
	Error string `json:"error"`
	// InDoubt: it may be found in the log all the same.
	InDoubt bool `json:"inDoubt,omitempty"`
}

// post is a request whose lines are on their way.
type post struct {
	ended chan struct{} // closed when pending is 0

	// mu guards what follows: lines end on the producer's goroutine.
	mu      sync.Mutex
	pending int // lines that have not ended, and one more until all are read
	known   answer
	failed  bool // a good line was not taken
}

func newPost() *post { return &post{ended: make(chan struct{}), pending: 1} }

// begin takes note of a line, and returns what is to be called once with how it
// has ended.
func (p *post) begin(line int) func(error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pending++
	return func(err error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if err == nil {
			p.known.Taken++
		} else {
			p.known.Refused++
			p.failed = p.failed || !errors.Is(err, errNoJSON) && !errors.Is(err, riffle.ErrRecordTooLarge)
			if len(p.known.Refusals) < maxRefusals {
				p.known.Refusals = append(p.known.Refusals, refusal{line, err.Error(), errors.Is(err, riffle.ErrInDoubt)})
			}
		}
		p.release()
	}
}

// release is called with mu held.
func (p *post) release() {
	if p.pending--; p.pending == 0 {
		close(p.ended)
	}
}

// answer waits until all lines have ended, which the producer's DeliveryTimeout
// bounds. It returns false if ctx ends first: nobody waits for the answer. Err is
// why no more lines were read.
func (p *post) answer(ctx context.Context, err error) (a answer, status int, ok bool) {
	p.mu.Lock()
	p.release()
	p.mu.Unlock()
	select {
	case <-p.ended:
	case <-ctx.Done():
		return answer{}, 0, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	a = p.known
	if err != nil {
		a.Error = err.Error()
	}
	var tooLarge *http.MaxBytesError
	switch {
	case p.failed:
		status = http.StatusServiceUnavailable
	case errors.As(err, &tooLarge), errors.Is(err, bufio.ErrTooLong), errors.Is(err, riffle.ErrRecordTooLarge):
		status = http.StatusRequestEntityTooLarge
	case err != nil || a.Refused > 0:
		status = http.StatusBadRequest
	default:
		status = http.StatusOK
	}
	return a, status, true
}
