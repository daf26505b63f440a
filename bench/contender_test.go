package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestContendersKeepRecords appends in all the ways that a contender has, closes it, opens it
// again and reads: what is compared is the same records in the same order.
func TestContendersKeepRecords(t *testing.T) {
	for _, c := range contenders() {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			st, err := c.open(settings{dir: dir, writers: 1, room: 1 << 20})
			if errors.Is(err, errCannot) {
				t.Skip(err) // nothing is mapped on this platform
			}
			require.NoError(t, err)
			want := numbered(0, 300)
			require.NoError(t, st.appendOne(want[0]))
			require.NoError(t, st.appendMany(want[1:100]))
			if p, ok := st.(pipeliner); ok {
				for _, r := range want[100:200] {
					require.NoError(t, p.enqueue(r))
				}
				require.NoError(t, p.drain())
			} else {
				require.NoError(t, st.appendMany(want[100:200]))
			}
			require.NoError(t, st.appendMany(want[200:]))
			require.NoError(t, st.close())

			st, err = c.open(settings{dir: dir, writers: 1})
			require.NoError(t, err)
			r := st.(reader)
			var kept, looked [][]byte
			require.NoError(t, r.readAll(true, func(b []byte) { kept = append(kept, b) }))
			require.NoError(t, r.readAll(false, func(b []byte) { looked = append(looked, clone(b)) }))
			require.Equal(t, want, kept)
			require.Equal(t, want, looked)
			for _, i := range []int{0, 299, 100, 7, 7, 250} {
				b, err := r.readAt(i)
				require.NoError(t, err)
				require.Equal(t, want[i], b)
			}
			if s, ok := st.(consumable); ok {
				var consumed [][]byte
				require.NoError(t, s.consume(t.Context(), func(b []byte) bool {
					consumed = append(consumed, b)
					return len(consumed) < len(want)
				}))
				require.Equal(t, want, consumed)
			}
			require.NoError(t, st.close())
		})
	}
}

// TestConsumersGetRecordsAsTheyCome sends each record when a consumer has the one before, and has
// consumers that wait end with their context.
func TestConsumersGetRecordsAsTheyCome(t *testing.T) {
	for _, c := range contenders() {
		t.Run(c.name, func(t *testing.T) {
			st, err := c.open(settings{dir: t.TempDir(), writers: 1, room: 1 << 20})
			if errors.Is(err, errCannot) {
				t.Skip(err) // nothing is mapped on this platform
			}
			require.NoError(t, err)
			defer func() { require.NoError(t, st.close()) }()
			s, ok := st.(consumable)
			if !ok {
				t.Skip("it has no consumer") // so its cell is empty
			}
			ctx, cancel := context.WithCancel(t.Context())
			got, ended := make(chan []byte), make(chan error)
			go func() {
				ended <- s.consume(ctx, func(b []byte) bool { got <- b; return true })
			}()
			for _, r := range numbered(0, 20) {
				require.NoError(t, s.send(r))
				require.Equal(t, r, <-got)
			}
			cancel()
			require.ErrorIs(t, <-ended, context.Canceled)
		})
	}
}

// brokenConsumer hands over another record than the third that is sent.
type brokenConsumer struct {
	store
	sent chan []byte
	n    int
}

func (c *brokenConsumer) send(record []byte) error {
	if c.n++; c.n == 3 {
		record = []byte("another")
	}
	c.sent <- record
	return nil
}

func (c *brokenConsumer) consume(ctx context.Context, each func([]byte) bool) error {
	for {
		select {
		case r := <-c.sent:
			if !each(r) {
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func TestHandedOverComparesRecords(t *testing.T) {
	turn := &turn{scale: quick, size: 100, records: numbered(0, 10), store: &brokenConsumer{sent: make(chan []byte, 1)}}
	require.ErrorContains(t, turn.handedOver(0.5), "did not get what was sent")
}

// TestContendersAppendDurably has several writers append durably, and counts what is there. The
// raw operations cannot be read here; their file has to be large enough.
func TestContendersAppendDurably(t *testing.T) {
	const writers, each = 8, 5
	for _, c := range contenders() {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			st, err := c.open(settings{dir: dir, durable: true, writers: writers})
			require.NoError(t, err)
			errs := make(chan error, writers)
			for w := range writers {
				go func() {
					for _, r := range numbered(w*each, each) {
						if err := st.appendOne(r); err != nil {
							errs <- err
							return
						}
					}
					errs <- nil
				}()
			}
			for range writers {
				require.NoError(t, <-errs)
			}
			require.NoError(t, st.close())
			if c == rawContender {
				info, err := os.Stat(filepath.Join(dir, "raw"))
				require.NoError(t, err)
				require.EqualValues(t, writers*each*(rawHeader+rawPrefix+100), info.Size())
				return
			}
			st, err = c.open(settings{dir: dir, durable: true, writers: 1})
			require.NoError(t, err)
			seen := map[string]bool{}
			require.NoError(t, st.(reader).readAll(false, func(b []byte) { seen[string(b)] = true }))
			require.Len(t, seen, writers*each)
			require.NoError(t, st.close())
		})
	}
}

// numbered returns n records of 100 bytes that say their numbers, from first on.
func numbered(first, n int) [][]byte {
	records := make([][]byte, n)
	for i := range records {
		records[i] = fmt.Appendf(nil, "%-100d", first+i)
	}
	return records
}
