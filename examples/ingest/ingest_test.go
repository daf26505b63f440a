package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rifflelog/riffle"
)

// TestMain is the program itself in a process that a test has started.
func TestMain(m *testing.M) {
	if os.Getenv("INGEST_CHILD") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// Eight clients post to a process of its own, which gets SIGTERM in the midst, while
// another client has sent half of its lines. The process ends by itself, without an
// error, and each line that it has answered for is in the log, once. That other
// client gets its answer.
func TestTerminatedWhilePosting(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("windows") // which has no SIGTERM
	}
	dir := t.TempDir()
	child, url := startChild(t, dir)
	var clients posters
	clients.start(t, url)
	half := someLines("half")
	body, rest := io.Pipe()
	reading := make(chan struct{})
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got100Continue: func() { close(reading) }})
	clients.Go(func() {
		status, a, err := send(ctx, url, body)
		if err != nil || status != http.StatusOK || a.Taken != len(half) {
			t.Errorf("of the client that is slow: %d, %+v, %v", status, a, err)
		}
	})
	<-reading
	_, err := io.WriteString(rest, half[0]+"\n")
	require.NoError(t, err)
	require.NoError(t, child.Process.Signal(syscall.SIGTERM))
	for err == nil { // until it takes no more
		_, _, err = send(t.Context(), url, strings.NewReader(""))
	}
	_, err = io.WriteString(rest, strings.Join(half[1:], "\n"))
	require.NoError(t, err)
	require.NoError(t, rest.Close())
	clients.Wait()
	require.NoError(t, child.Wait(), "it ends by itself")
	clients.answered = append(clients.answered, half...)
	clients.require(t, dir)
}

// What a process has answered for is in the log too if it is killed.
func TestKilledWhilePosting(t *testing.T) {
	dir := t.TempDir()
	child, url := startChild(t, dir)
	var clients posters
	clients.start(t, url)
	require.NoError(t, child.Process.Kill())
	clients.Wait()
	require.Error(t, child.Wait())
	clients.require(t, dir)
}

// startChild starts the program on a log, and returns where it listens.
func startChild(t *testing.T, dir string) (child *exec.Cmd, url string) {
	t.Helper()
	child = exec.Command(os.Args[0], "-addr", "localhost:0", dir)
	child.Env = append(os.Environ(), "INGEST_CHILD=1")
	child.Stderr = os.Stderr
	stdout, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	t.Cleanup(func() { _ = child.Process.Kill() })
	first, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	return child, strings.TrimSpace(strings.TrimPrefix(first, "listening on "))
}

// posters are clients that post until the server ends.
type posters struct {
	sync.WaitGroup

	mu       sync.Mutex
	posts    int
	answered []string // lines; once all have ended
}

// start starts eight of them, and returns when they have had a hundred answers.
func (p *posters) start(t *testing.T, url string) {
	enough := make(chan struct{})
	for c := range 8 {
		p.Go(func() {
			for n := 0; ; n++ {
				lines := someLines(fmt.Sprintf("%d-%d", c, n))
				status, a, err := send(t.Context(), url, strings.NewReader(strings.Join(lines, "\n")))
				if err != nil {
					return // the server has ended
				}
				if status != http.StatusOK || a.Taken != len(lines) {
					t.Errorf("%d, %+v", status, a)
				}
				p.mu.Lock()
				p.answered = append(p.answered, lines...)
				if p.posts++; p.posts == 100 {
					close(enough)
				}
				p.mu.Unlock()
			}
		})
	}
	<-enough
}

// require compares what they were answered for with what is in the log.
func (p *posters) require(t *testing.T, dir string) {
	t.Helper()
	found := stored(t, dir)
	for _, line := range p.answered {
		require.Equal(t, 1, found[line], line)
	}
}

// What a client is told of good, bad and too large requests, and what is in the log
// of each.
func TestAnswers(t *testing.T) {
	dir := t.TempDir()
	db, err := riffle.Open(dir, nil)
	require.NoError(t, err)
	in, err := newIngest(t.Context(), db)
	require.NoError(t, err)
	long := `"` + strings.Repeat("x", maxLine) + `"`
	for _, c := range []struct {
		name, body string
		status     int
		want       answer
	}{
		{"nothing", "", 200, answer{}},
		{"two", "{\"a\":1}\r\n\n  2\n", 200, answer{Taken: 2}},
		{
			"bad", "1\n{\n3\nx", 400,
			answer{Taken: 2, Refused: 2, Refusals: []refusal{{2, "no JSON", false}, {4, "no JSON", false}}},
		},
		{"long line", "1\n" + long + "\n3\n", 413, answer{Taken: 1, Error: "after line 1: bufio.Scanner: token too long"}},
		{
			"large", strings.Repeat("1"+strings.Repeat(" ", 1<<18)+"\n", 40), 413,
			answer{Taken: 31, Error: "after line 32: http: request body too large"},
		},
	} {
		status, got := post1(in, c.body)
		if c.name == "large" { // the line that is cut is read, or not
			require.Contains(t, got.Error, "request body too large")
			require.InDelta(t, 31, got.Taken, 1)
			got = c.want
		}
		require.Equal(t, c.status, status, c.name)
		require.Equal(t, c.want, got, c.name)
	}
	status, got := post1(in, strings.Repeat("x\n", 200))
	require.Equal(t, 400, status)
	require.Equal(t, 200, got.Refused)
	require.Len(t, got.Refusals, maxRefusals)

	require.NoError(t, in.producer.Close())
	status, got = post1(in, "1\n2\n")
	require.Equal(t, 503, status)
	require.Equal(t, 1, got.Refused, "the rest was not read")
	require.Contains(t, got.Error, "line 1: ")
	require.NoError(t, db.Close())
	require.Equal(t, 1, stored(t, dir)[`{"a":1}`])
}

// Lines with a key are in one partition, in order.
func TestKeyKeepsOrder(t *testing.T) {
	dir := t.TempDir()
	db, err := riffle.Open(dir, nil)
	require.NoError(t, err)
	in, err := newIngest(t.Context(), db)
	require.NoError(t, err)
	for range 3 {
		w := httptest.NewRecorder()
		in.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/events?key=ann", strings.NewReader("1\n2\n3\n")))
		require.Equal(t, 200, w.Code)
	}
	var got []byte
	for rec, err := range in.topic.PartitionFor([]byte("ann")).Records(t.Context(), riffle.Earliest, nil) {
		require.NoError(t, err)
		got = append(got, rec.Value...)
	}
	require.Equal(t, "123123123", string(got))
	require.NoError(t, db.Close())
}

// Arguments that make no sense print the usage and touch nothing.
func TestUsage(t *testing.T) {
	var stderr bytes.Buffer
	require.NoError(t, run(t.Context(), []string{"-h"}, io.Discard, &stderr))
	require.Equal(t, usage, stderr.String())
	require.ErrorContains(t, run(t.Context(), nil, io.Discard, io.Discard), "one directory")
	require.ErrorContains(t, run(t.Context(), []string{"-x"}, io.Discard, io.Discard), "-x")
}

// post1 has in answer a request.
func post1(in *ingest, body string) (status int, a answer) {
	w := httptest.NewRecorder()
	in.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/events", strings.NewReader(body)))
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
		panic(err)
	}
	return w.Code, a
}

// send posts a body. The server says when it begins to read it.
func send(ctx context.Context, url string, body io.Reader) (status int, a answer, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, body)
	if err != nil {
		return 0, a, err
	}
	req.Header.Set("Expect", "100-continue")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, a, err
	}
	defer func() { _ = resp.Body.Close() }()
	err = json.NewDecoder(resp.Body).Decode(&a)
	return resp.StatusCode, a, err
}

// someLines are 20 that are nobody else's.
func someLines(of string) (lines []string) {
	for i := range 20 {
		lines = append(lines, fmt.Sprintf(`{"id":"%s-%d"}`, of, i))
	}
	return lines
}

// stored returns how often each line is in the log.
func stored(t *testing.T, dir string) map[string]int {
	t.Helper()
	db, err := riffle.Open(dir, nil)
	require.NoError(t, err)
	topic, err := db.Topic("events")
	require.NoError(t, err)
	found := map[string]int{}
	for part := range topic.Partitions() {
		for rec, err := range part.Records(t.Context(), riffle.Earliest, nil) {
			require.NoError(t, err)
			found[string(rec.Value)]++
		}
	}
	require.NoError(t, db.Close())
	return found
}
