package compress

import (
	"bytes"
	"errors"
	"flag"
	"testing"
	"time"
)

// fuzzLimit keeps an execution short, and is small enough for the fuzzer to reach.
const fuzzLimit = 1 << 18

// inTime ends the fuzzer's worker, with every goroutine's stack, unless the timer is stopped in 3
// seconds: an input with an endless loop is one that fails. The fuzzer itself would only lose a worker.
func inTime() *time.Timer {
	within := 3 * time.Second
	if flag.Lookup("test.fuzz").Value.String() == "" {
		within = time.Hour // of a test, -timeout is the bound
	}
	return time.AfterFunc(within, func() { panic("this input takes too long") })
}

// Property: for any bytes, any codec and any limit, AppendDecoded does not panic, does not write to
// its input, gives at most the limit, keeps what dst held, and returns one of its errors with dst as
// it was. What it accepts, it accepts again with exactly the room it needs, and not with a byte less.
func FuzzDecode(f *testing.F) {
	for _, src := range [][]byte{nil, []byte("abc"), records(2000), make([]byte, 70_000)} {
		for _, c := range allCodecs {
			for _, packed := range variants(f, c, src) {
				if len(packed) < 4<<10 {
					f.Add(int8(c), uint32(len(src)), packed)
				}
			}
		}
	}
	f.Add(int8(5), uint32(0), []byte("unknown"))
	f.Fuzz(func(t *testing.T, codec int8, limit uint32, src []byte) {
		defer inTime().Stop()
		c, max := Codec(codec), int(limit%fuzzLimit)
		if !c.Valid() {
			if _, err := AppendDecoded(nil, c, src, max); !errors.Is(err, ErrUnknownCodec) {
				t.Fatal(err)
			}
			return
		}
		checkDecode(t, c, src, max)
		out, err := AppendDecoded(nil, c, src, max)
		if err != nil {
			return
		}
		again, err := AppendDecoded(make([]byte, 0, len(out)), c, src, len(out))
		if err != nil || !bytes.Equal(out, again) {
			t.Fatalf("with exactly the room: %d bytes, then %d and %v", len(out), len(again), err)
		}
		if len(out) > 0 {
			if _, err := AppendDecoded(nil, c, src, len(out)-1); !errors.Is(err, ErrTooLarge) {
				t.Fatalf("with a byte less: %v", err)
			}
		}
	})
}

// Property: any bytes, compressed with any codec and level that CheckLevel accepts, come out as they
// went in, with a limit of their length; and a level that it does not accept is its error.
func FuzzRoundTrip(f *testing.F) {
	for _, c := range allCodecs {
		for _, level := range levels(c) {
			f.Add(int8(c), level, records(300))
		}
		f.Add(int8(c), c.DefaultLevel(), []byte(nil))
		f.Add(int8(c), c.DefaultLevel(), make([]byte, 70_000))
		f.Add(int8(c), 99, []byte("no such level"))
	}
	f.Fuzz(func(t *testing.T, codec int8, level int, src []byte) {
		defer inTime().Stop()
		c := Codec(codec)
		packed, err := Append([]byte("kept"), c, level, src)
		if want := CheckLevel(c, level); want != nil {
			if err == nil || err.Error() != want.Error() {
				t.Fatalf("%v, want %v", err, want)
			}
			return
		}
		if err != nil || string(packed[:4]) != "kept" {
			t.Fatalf("%q %v", packed, err)
		}
		out, err := AppendDecoded([]byte("kept"), c, packed[4:], len(src))
		if err != nil || string(out[:4]) != "kept" || !bytes.Equal(out[4:], src) {
			t.Fatalf("%d bytes came back as %d: %v", len(src), len(out)-4, err)
		}
	})
}
