package crc32c

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// onEachProcessor runs f as on each processor that this one can be.
func onEachProcessor(t *testing.T, f func(t *testing.T)) {
	for name, be := range processors(t) {
		t.Run(name, func(t *testing.T) {
			be()
			f(t)
		})
	}
}

// TestUpdate sums pieces of all short lengths and some long ones, from each place in a word
// on and after any bytes, as hash/crc32 does.
func TestUpdate(t *testing.T) {
	bytes := make([]byte, 20_000)
	for i := range bytes {
		bytes[i] = byte(rand.Uint32())
	}
	onEachProcessor(t, func(t *testing.T) {
		require.Zero(t, Checksum(nil))
		check := func(n, from int) {
			p, crc := bytes[from:from+n:from+n], rand.Uint32()
			if got, want := Update(crc, p), crc32.Update(crc, table, p); got != want {
				t.Fatalf("%d bytes at %d after %08x: %08x, want %08x", n, from, crc, got, want)
			}
		}
		for n := range 1200 {
			check(n, n%11)
		}
		for n := 1200; n < 19_000; n += 37 {
			check(n, n%11)
		}
		for from := range 64 {
			check(3000, from)
		}
		require.Zero(t, testing.AllocsPerRun(10, func() { Checksum(bytes) }))
	})
}

// TestJoin joins the CRCs of two pieces of any lengths, and compares that with the CRC of
// both.
func TestJoin(t *testing.T) {
	onEachProcessor(t, func(t *testing.T) {
		rapid.Check(t, func(t *rapid.T) {
			first := rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "first")
			n := rapid.OneOf(rapid.IntRange(0, 300), rapid.IntRange(0, 1<<20)).Draw(t, "length")
			second := bytes.Repeat([]byte{rapid.Byte().Draw(t, "byte"), 3, 0, 255}, n/4+1)[:n]
			want := crc32.Checksum(append(bytes.Clone(first), second...), table)
			require.Equal(t, want, Join(crc32.Checksum(first, table), crc32.Checksum(second, table), n))
		})
	})
}

// TestMove moves by more than there is memory for: in one step it is as in two, and it is
// linear.
func TestMove(t *testing.T) {
	onEachProcessor(t, func(t *testing.T) {
		rapid.Check(t, func(t *rapid.T) {
			length := rapid.IntRange(0, math.MaxInt/2)
			a, b := length.Draw(t, "a"), length.Draw(t, "b")
			x, y := rapid.Uint32().Draw(t, "x"), rapid.Uint32().Draw(t, "y")
			require.Equal(t, Move(x, a+b), Move(Move(x, a), b))
			require.Equal(t, Move(x^y, a), Move(x, a)^Move(y, a))
		})
		require.NotPanics(t, func() { Move(1, math.MaxInt) })
	})
}

// BenchmarkChecksum sums pieces beside hash/crc32: of a small batch, of what a builder sums
// at a time, and of a large batch.
func BenchmarkChecksum(b *testing.B) {
	p := make([]byte, 1<<20)
	for _, n := range []int{40, 148, 1000, 8 << 10, 100 << 10, 1 << 20} {
		b.Run(fmt.Sprint(n, "/ours"), func(b *testing.B) {
			b.SetBytes(int64(n))
			for b.Loop() {
				Checksum(p[:n])
			}
		})
		b.Run(fmt.Sprint(n, "/raw"), func(b *testing.B) {
			b.SetBytes(int64(n))
			for b.Loop() {
				crc32.Checksum(p[:n], table)
			}
		})
	}
}
