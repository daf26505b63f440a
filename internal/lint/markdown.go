package lint

import (
	"fmt"
	"net/url"
	"path"
	"regexp"
	"strings"
	"unicode"
)

var (
	linkInline    = regexp.MustCompile(`\]\(\s*<?([^)\s>]+)>?(?:\s+"[^"]*")?\s*\)`)
	linkReference = regexp.MustCompile(`^\s{0,3}\[[^\]]+\]:\s*<?([^\s>]+)>?`)
	codeSpan      = regexp.MustCompile("`+[^`]*`+")
	heading       = regexp.MustCompile(`^ {0,3}#{1,6}\s+(.*?)\s*#*\s*$`)
	htmlAnchor    = regexp.MustCompile(`<a\s+(?:id|name)="([^"]+)"`)
	linkText      = regexp.MustCompile(`!?\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])`)
	lineAnchor    = regexp.MustCompile(`^L\d+(?:-L\d+)?$`)
)

// Links checks that relative links in markdown files lead to files and headings
// that exist.
func Links(r *Repo) []Finding {
	var found []Finding
	anchors := map[string]map[string]bool{}
	for _, name := range r.texts(".md") {
		anchors[name] = anchorsOf(r.text[name])
	}
	for _, name := range r.texts(".md") {
		for i, line := range prose(r.text[name]) {
			line = codeSpan.ReplaceAllString(line, "")
			matches := append(linkInline.FindAllStringSubmatch(line, -1), linkReference.FindAllStringSubmatch(line, -1)...)
			for _, m := range matches {
				if why := r.broken(name, m[1], anchors); why != "" {
					found = append(found, Finding{name, i + 1, fmt.Sprintf("link to %s: %s", m[1], why)})
				}
			}
		}
	}
	return found
}

// broken returns why the link target in the markdown file from leads nowhere.
func (r *Repo) broken(from, target string, anchors map[string]map[string]bool) string {
	u, err := url.Parse(target)
	if err != nil {
		return err.Error()
	}
	if u.Scheme != "" || u.Host != "" {
		return "" // not ours to check
	}
	to := from
	if u.Path != "" {
		to = path.Join(path.Dir(from), u.Path)
	}
	if strings.HasPrefix(to, "../") || strings.HasPrefix(u.Path, "/") || !r.exists(to) {
		return "no such file"
	}
	if u.Fragment == "" || anchors[to][u.Fragment] {
		return ""
	}
	if anchors[to] == nil && lineAnchor.MatchString(u.Fragment) {
		return "" // a line of a source file
	}
	return "no such heading"
}

// anchorsOf returns the fragments that a rendered markdown file answers to.
func anchorsOf(text []byte) map[string]bool {
	anchors := map[string]bool{}
	count := map[string]int{}
	for _, line := range prose(text) {
		for _, m := range htmlAnchor.FindAllStringSubmatch(line, -1) {
			anchors[m[1]] = true
		}
		m := heading.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		slug := slugOf(m[1])
		if n := count[slug]; n > 0 {
			anchors[fmt.Sprintf("%s-%d", slug, n)] = true
		} else {
			anchors[slug] = true
		}
		count[slug]++
	}
	return anchors
}

// slugOf turns a heading into its fragment: lower case, hyphens for spaces, no
// punctuation.
func slugOf(title string) string {
	title = linkText.ReplaceAllString(title, "$1")
	return strings.Map(func(c rune) rune {
		switch {
		case c == ' ':
			return '-'
		case c == '-' || c == '_' || unicode.IsLetter(c) || unicode.IsDigit(c):
			return unicode.ToLower(c)
		}
		return -1
	}, title)
}

// prose returns the lines of a markdown text, with those of fenced code empty.
func prose(text []byte) []string {
	lines := strings.Split(string(text), "\n")
	fence := ""
	for i, line := range lines {
		line = strings.TrimSpace(line)
		mark := line[:len(line)-len(strings.TrimLeft(line, "`~"))]
		switch {
		case fence == "" && len(mark) >= 3:
			fence = mark
		case fence != "" && strings.HasPrefix(line, fence) && mark == line:
			fence = ""
		case fence == "":
			continue
		}
		lines[i] = ""
	}
	return lines
}
