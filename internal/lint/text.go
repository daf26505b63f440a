package lint

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

// The patterns are written so that they do not match themselves.
var (
	// foreign finds words about a place where the code was written: they tell
	// a reader nothing about Riffle.
	foreign = regexp.MustCompile(`(?i)/wor[k]/|/far[m]/|\.[l]ibrary|\bsub[a]gent|\bthis [s]ession\b|\bas an [a]i\b|\b[c]laude\b|` +
		`\.\./[s]hared\b|\b[b]ehaviours/\d|\b[P]EERS\.md|\b[W]IRE\.md|prox[y]\.golang|\bthe c[e]o\b`)
	// reminder finds work left for later, which belongs in an issue.
	reminder = regexp.MustCompile(`\b(?:TO[D]O|FIX[M]E|XX[X])\b`)
)

// Words checks that no text of the tree speaks about where it was written.
func Words(r *Repo) []Finding {
	return r.matches(foreign, "%q is about a workplace, not about Riffle")
}

// Reminders checks that no file carries a note to do something later. Test data
// may say what it likes.
func Reminders(r *Repo) []Finding {
	return slices.DeleteFunc(r.matches(reminder, "%q: do it, or open an issue"), func(f Finding) bool {
		return slices.Contains(strings.Split(f.Path, "/"), "testdata") || path.Base(f.Path) == "go.sum"
	})
}

// matches returns a finding for each line that pattern matches, in any text.
func (r *Repo) matches(pattern *regexp.Regexp, format string) []Finding {
	var found []Finding
	for _, name := range r.texts("") {
		if !pattern.Match(r.text[name]) {
			continue
		}
		for i, line := range strings.Split(string(r.text[name]), "\n") {
			if m := pattern.FindString(line); m != "" {
				found = append(found, Finding{name, i + 1, fmt.Sprintf(format, m)})
			}
		}
	}
	return found
}
