package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestNumbersAreShownShort(t *testing.T) {
	for x, want := range map[float64]string{
		0: "0.00", 0.126: "0.13", 1: "1.00", 9.994: "9.99", 9.996: "10.0", 52.34: "52.3", 99.94: "99.9", 99.96: "100", 18672.4: "18672",
	} {
		require.Equal(t, want, significant(x), x)
	}
	for x, want := range map[float64]string{
		17: "17", 999.4: "999", 999.6: "1.00 k", 12_345: "12.3 k", 999_400: "999 k", 999_600: "1.00 M", 4_567_890: "4.57 M", 123e6: "123 M",
	} {
		require.Equal(t, want, count(x), x)
	}
	for x, want := range map[float64]string{
		2.5: "2.50 s", 1: "1.00 s", 0.9996: "1.00 s", 0.0123: "12.3 ms", 1e-3: "1.00 ms", 258e-6: "258 µs", 1e-6: "1.00 µs", 48.6e-9: "48.6 ns", 1e-10: "0.10 ns",
	} {
		require.Equal(t, want, duration(x), x)
	}
}

// TestReport compares a report of made-up figures, with a contender that cannot do the work of
// a row and one that failed at it, with what it should say.
func TestReport(t *testing.T) {
	at := func(seconds ...float64) figures { return figures{seconds: seconds, allocs: []float64{2}} }
	r := report{
		command: "go run . -quick", machine: "go1.26 on plan9/mips, 3 processors", scale: scale{rounds: 3, turn: 150 * time.Millisecond, room: 64 << 20},
		contenders: []*contender{{name: ours, notes: "by default."}, {name: "raw", notes: "a copy."}, {name: "other", version: "m v1", notes: "as it is."}},
		results: []result{{
			row: row{key: "append", name: "append", rate: true, targets: []target{{than: "raw", times: 1 / 1.1}, {than: "other", times: 3}}},
			figures: map[string]figures{
				ours: at(2e-6, 1e-6, 4e-6), "raw": at(1e-6, 0.5e-6, 1e-6), "other": at(8e-6, 3e-6, 16e-6),
			},
		}, {
			row:     row{key: "open", name: "open", targets: []target{{than: "other", times: 3}, {most: time.Millisecond}, {most: 900 * time.Microsecond}}},
			figures: map[string]figures{ours: at(1e-3)},
			failed:  map[string]error{"other": errors.New("no luck")},
		}},
	}
	want := strings.TrimPrefix(`
’go run . -quick’: medians of 3 turns each or more short ones, one contender after the other in each round, of at most 150ms or 64 MiB each. go1.26 on plan9/mips, 3 processors.
In brackets: how many times the contender took what Riffle took, the median over the rounds.

| work | Riffle | raw | other |
| --- | --- | --- | --- |
| append | 500 k/s | 1.00 M/s (0.50) | 125 k/s (4.00) |
| open | 1.00 ms | – | failed |

## Targets

| work | target | reached |  |
| --- | --- | --- | --- |
| append | 1.1 × the time of raw | 2.00 × the time | **missed** |
| append | 3 × the rate of other | 4.00 × the rate | met |
| open | 3 × the rate of other | – | not measured |
| open | at most 1.00 ms | 1.00 ms | met |
| open | at most 900 µs | 1.00 ms | **missed** |

other failed at "open": no luck

## Contenders

- **Riffle**: by default.
- **raw**: a copy.
- **other** (m v1): as it is.

## Details

| work | contender | turns | median | slowest – fastest turn | × Riffle's time | allocations |
| --- | --- | --- | --- | --- | --- | --- |
| append | Riffle | 3 | 500 k/s | 250 k/s – 1.00 M/s | 1.00 | 2.00 |
| append | raw | 3 | 1.00 M/s | 1.00 M/s – 2.00 M/s | 0.50 | 2.00 |
| append | other | 3 | 125 k/s | 62.5 k/s – 333 k/s | 4.00 | 2.00 |
| open | Riffle | 1 | 1.00 ms | 1.00 ms – 1.00 ms | 1.00 | 2.00 |
`, "\n")
	require.Equal(t, strings.ReplaceAll(want, "’", "`"), r.markdown())
}
