// Ingest takes events over HTTP, one JSON value a line, and answers when they are
// on stable storage:
//
//	go run ./examples/ingest /tmp/events
//	printf '{"user":"ann"}\n{"user":"bob"}\n' | curl --data-binary @- 'localhost:8080/events?key=ann'
//
// The answer says how many lines were taken, and of the others why they were not:
// {"taken":2}. Lines with a key go to the partition of that key, in order. SIGTERM
// and Ctrl-C end the program when all that it is reading is answered; what it has
// answered for is in the log, whatever ends it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/rifflelog/riffle"
)

const usage = `Usage: go run ./examples/ingest [-addr host:port] directory

Serves POST /events: takes JSON values, one a line, into the topic "events" of the
log in the directory.
`

const (
	// deliveryTimeout is how long a line may wait for a disk that is full, before
	// it is answered that it was not taken. It is shorter than grace.
	deliveryTimeout = 20 * time.Second
	// grace is how long the program goes on after SIGTERM, to answer.
	grace = 30 * time.Second
	// readTimeout is how long a client may take to send its lines.
	readTimeout = 15 * time.Second
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second one ends the program at once
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "ingest:", err)
		os.Exit(1)
	}
}

// run is the program without its process: it serves until ctx ends.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	flags := flag.NewFlagSet("ingest", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // the caller reports the error
	addr := flags.String("addr", "localhost:8080", "")
	err = flags.Parse(args)
	if err == nil && flags.NArg() != 1 {
		err = fmt.Errorf("want one directory, got %q", flags.Args())
	}
	if err != nil {
		fmt.Fprint(stderr, usage)
	}
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	db, err := riffle.Open(flags.Arg(0), nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	in, err := newIngest(ctx, db)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "listening on http://%s/events\n", listener.Addr())
	return serve(ctx, listener, in)
}

// serve serves until ctx ends, and then answers what it is reading.
func serve(ctx context.Context, listener net.Listener, in *ingest) error {
	mux := http.NewServeMux()
	mux.Handle("POST /events", in)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: readTimeout, ReadTimeout: readTimeout}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	// In this order: no more requests, and an answer to each that there is; then no
	// more records. Closing the log comes last.
	patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	err := srv.Shutdown(patience)
	return errors.Join(err, in.producer.Shutdown(patience))
}
