package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// result is what came out of one row.
type result struct {
	row     row
	figures map[string]figures // by contender
	failed  map[string]error   // likewise
}

// report is what came out of a run.
type report struct {
	command    string
	machine    string
	scale      scale
	contenders []*contender
	results    []result
}

// ours is the name that ratios are to.
const ours = "Riffle"

// markdown is the whole report.
func (r report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "`%s`: medians of %d turns each or more short ones, one contender after the other in each round, of at most %s or %d MiB each. %s.\n",
		r.command, r.scale.rounds, r.scale.turn, r.scale.room>>20, r.machine)
	b.WriteString("In brackets: how many times the contender took what Riffle took, the median over the rounds.\n\n")
	r.overview(&b)
	r.targets(&b)
	r.failures(&b)
	b.WriteString("\n## Contenders\n\n")
	for _, c := range r.contenders {
		fmt.Fprintf(&b, "- **%s**", c.name)
		if c.version != "" {
			fmt.Fprintf(&b, " (%s)", c.version)
		}
		fmt.Fprintf(&b, ": %s\n", c.notes)
	}
	r.details(&b)
	return b.String()
}

// overview is the table of all rows and contenders.
func (r report) overview(b *strings.Builder) {
	head := []string{"work"}
	for _, c := range r.contenders {
		head = append(head, c.name)
	}
	writeRow(b, head...)
	writeRow(b, slices.Repeat([]string{"---"}, len(head))...)
	for _, res := range r.results {
		cells := []string{res.row.name}
		for _, c := range r.contenders {
			cells = append(cells, res.cell(c.name))
		}
		writeRow(b, cells...)
	}
}

// cell is a contender's median and its ratio to ours; a dash if it cannot do the work.
func (r result) cell(name string) string {
	f, ok := r.figures[name]
	if !ok {
		if r.failed[name] != nil {
			return "failed"
		}
		return "–"
	}
	text := r.row.value(median(f.seconds))
	if us, ok := r.figures[ours]; ok && name != ours {
		text += fmt.Sprintf(" (%s)", significant(ratio(us, f)))
	}
	return text
}

// value is a time of one operation as the row shows it.
func (r row) value(seconds float64) string {
	if r.rate {
		return count(1/seconds) + "/s"
	}
	return duration(seconds)
}

// targets is the table of what Riffle is meant to reach.
func (r report) targets(b *strings.Builder) {
	var lines [][]string
	for _, res := range r.results {
		for _, t := range res.row.targets {
			us, ok := res.figures[ours]
			them, theirs := res.figures[t.than]
			if !ok || !theirs && t.than != "" {
				lines = append(lines, []string{res.row.name, t.String(), "–", "not measured"})
				continue
			}
			reached, met := t.verdict(us, them)
			verdict := "**missed**"
			if met {
				verdict = "met"
			}
			lines = append(lines, []string{res.row.name, t.String(), t.inTerms(reached), verdict})
		}
	}
	if len(lines) == 0 {
		return
	}
	b.WriteString("\n## Targets\n\n")
	writeRow(b, "work", "target", "reached", "")
	writeRow(b, "---", "---", "---", "---")
	for _, l := range lines {
		writeRow(b, l...)
	}
}

// inTerms is what was reached, in the words of the target.
func (t target) inTerms(reached float64) string {
	switch {
	case t.rate > 0:
		return count(reached) + " records/s"
	case t.most > 0:
		return duration(reached)
	case t.times >= 1:
		return significant(reached) + " × the rate"
	default:
		return significant(1/reached) + " × the time"
	}
}

// failures are the errors of contenders that failed.
func (r report) failures(b *strings.Builder) {
	for _, res := range r.results {
		for _, c := range r.contenders {
			if err := res.failed[c.name]; err != nil {
				fmt.Fprintf(b, "\n%s failed at %q: %v\n", c.name, res.row.name, err)
			}
		}
	}
}

// details is the table of all that was measured.
func (r report) details(b *strings.Builder) {
	b.WriteString("\n## Details\n\n")
	writeRow(b, "work", "contender", "turns", "median", "slowest – fastest turn", "× Riffle's time", "allocations")
	writeRow(b, "---", "---", "---", "---", "---", "---", "---")
	for _, res := range r.results {
		for _, c := range r.contenders {
			f, ok := res.figures[c.name]
			if !ok {
				continue
			}
			times := "–"
			if us, ok := res.figures[ours]; ok {
				times = significant(ratio(us, f))
			}
			writeRow(b, res.row.key, c.name, fmt.Sprint(len(f.seconds)), res.row.value(median(f.seconds)),
				res.row.value(slices.Max(f.seconds))+" – "+res.row.value(slices.Min(f.seconds)), times, significant(median(f.allocs)))
		}
	}
}

func writeRow(b *strings.Builder, cells ...string) {
	fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | "))
}

// significant is x with about three digits that matter, and no more than two behind the point.
func significant(x float64) string {
	switch {
	case x >= 99.95:
		return fmt.Sprintf("%.0f", x)
	case x >= 9.995:
		return fmt.Sprintf("%.1f", x)
	default:
		return fmt.Sprintf("%.2f", x)
	}
}

// count is a number of things: 950, 12.3 k, 4.56 M.
func count(x float64) string {
	// What is rounded up to a thousand takes the next unit.
	switch {
	case x < 999.5:
		return fmt.Sprintf("%.0f", x)
	case x < 999_500:
		return significant(x/1e3) + " k"
	default:
		return significant(x/1e6) + " M"
	}
}

// duration is a time with its unit, from ns to s.
func duration(seconds float64) string {
	units := []string{"s", "ms", "µs", "ns"}
	i := 0
	for x := seconds; i < len(units)-1 && math.Round(x*1000)/1000 < 1; i++ {
		x *= 1000
		seconds = x
	}
	return significant(seconds) + " " + units[i]
}
