package web

import (
	"regexp"
	"slices"
	"strings"
)

// StageLabel is a stage's name as short as it can be understood: its transforms
// by the part of the pipeline that its author gave a name to; where all of the
// stage is of one such part, by that part and what is of it in the stage.
//
//	Count/Group, Count/Merge, Format   Count, Format
//	Write/Impl/GroupByKey, Write/Impl/Extract   Write › GroupByKey, Extract
func StageLabel(name string) string {
	names := splitNames(name)
	more := ""
	if last := names[len(names)-1]; strings.HasPrefix(last, "… ") {
		names, more = names[:len(names)-1], ", …"
	}
	if len(names) == 0 {
		return name
	}
	paths := make([][]string, len(names))
	for i, n := range names {
		paths[i] = splitPath(n)
	}
	common := len(paths[0]) - 1
	for _, p := range paths {
		common = min(common, len(p)-1)
		for i := range common {
			if p[i] != paths[0][i] {
				common = i
				break
			}
		}
	}
	var parts []string
	for _, p := range paths {
		if part := short(p[common]); !slices.Contains(parts, part) {
			parts = append(parts, part)
		}
	}
	label := strings.Join(parts, ", ") + more
	if common > 0 {
		label = short(paths[0][0]) + " › " + label
	}
	return label
}

var lambda = regexp.MustCompile(`<lambda at [^>]*>`)

// short is one part of a name without what the SDK added for its own sake.
func short(part string) string {
	part = lambda.ReplaceAllString(strings.Join(strings.Fields(part), " "), "lambda")
	if r := []rune(part); len(r) > 48 {
		part = string(r[:47]) + "…"
	}
	return part
}

// splitNames splits a list of names, splitPath a name, where they are not
// inside of brackets: those hold arguments.
func splitNames(s string) []string { return splitOutside(s, ", ") }

func splitPath(s string) []string { return splitOutside(s, "/") }

func splitOutside(s, separator string) []string {
	var out []string
	depth, from := 0, 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '(' || c == '<' || c == '[' || c == '{':
			depth++
		case c == ')' || c == '>' || c == ']' || c == '}':
			depth = max(0, depth-1)
		case depth == 0 && i > from && strings.HasPrefix(s[i:], separator):
			out = append(out, s[from:i])
			from = i + len(separator)
		}
	}
	return append(out, s[from:])
}

// wrap breaks a text into at most most lines that are about width wide, and
// ends the last with "…" if it doesn't hold the rest.
func wrap(s string, width float64, most int) []string {
	var lines []string
	words := strings.Fields(s)
	for len(words) > 0 {
		n := 1
		for n < len(words) && textWidth(strings.Join(words[:n+1], " ")) <= width {
			n++
		}
		line := strings.Join(words[:n], " ")
		words = words[n:]
		if len(lines) == most-1 && len(words) > 0 {
			return append(lines, cut(line+" "+words[0], width))
		}
		lines = append(lines, cut(line, width))
	}
	return lines
}

// cut shortens a text to a width.
func cut(s string, width float64) string {
	if textWidth(s) <= width {
		return s
	}
	r := []rune(s)
	for len(r) > 1 && textWidth(string(r)+"…") > width {
		r = r[:len(r)-1]
	}
	return strings.TrimRight(string(r), " ,") + "…"
}

// textWidth is about how wide a bold text of 12 pixels is, in whatever font the
// reader's browser has: rather too much.
func textWidth(s string) float64 {
	w := 0.0
	for _, r := range s {
		switch {
		case strings.ContainsRune("iljtfrI.,:;'|!()[]/ ", r):
			w += 5
		case strings.ContainsRune("mwMW@%", r):
			w += 12.2
		case r >= 'A' && r <= 'Z' || r > 0x2000:
			w += 9.6
		default:
			w += 8.2
		}
	}
	return w
}
