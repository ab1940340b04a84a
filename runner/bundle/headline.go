package bundle

import (
	"regexp"
	"strings"
	"unicode/utf8"
)

var (
	whileRunningSuffix = regexp.MustCompile(`( \[while running '[^']*'\])+$`)
	goFailed           = regexp.MustCompile(`^DoFn\[.*\] failed:$`)
	goRoutine          = regexp.MustCompile(` goroutine \d+ \[.*$`)
	// Exceptions that Java's SDK puts around the user's.
	javaWrapper = regexp.MustCompile(`^(org\.apache\.beam\.sdk\.util\.UserCodeException|java\.util\.concurrent\.ExecutionException|java\.lang\.RuntimeException): ([\w$]+\.[\w.$]+(: |$))`)
)

// maxHeadline bounds a headline, in characters.
const maxHeadline = 400

// Headline is what a person wants to know first of an SDK's error text: the
// exception, which a stack trace hides at its top, its end or in its middle.
func Headline(text string) string {
	text = strings.TrimSpace(text)
	var head string
	switch {
	case strings.Contains(text, "Traceback (most recent call last)"):
		head = pythonHead(text)
	case strings.Contains(text, "\n\tat "):
		head = javaHead(text)
	case strings.Contains(text, "\tcaused by:\n"):
		head = goHead(text)
	}
	if head == "" {
		head, _, _ = strings.Cut(text, "\n")
	}
	if utf8.RuneCountInString(head) > maxHeadline {
		head = string([]rune(head)[:maxHeadline-1]) + "…"
	}
	return head
}

// pythonHead is the line behind the last traceback.
func pythonHead(text string) string {
	at := strings.LastIndex(text, "\n  File \"")
	if at < 0 {
		return ""
	}
	for line := range strings.SplitSeq(text[at+1:], "\n") {
		if line != "" && line[0] != ' ' && line[0] != '\t' {
			return whileRunningSuffix.ReplaceAllString(line, "")
		}
	}
	return ""
}

// javaHead is the first line without what the SDK has put around the user's
// exception.
func javaHead(text string) string {
	head, _, _ := strings.Cut(text, "\n")
	for {
		m := javaWrapper.FindStringSubmatch(head)
		if m == nil {
			return head
		}
		head = head[len(m[1])+len(": "):]
	}
}

// goHead is what stands between the innermost "caused by" and its stack.
func goHead(text string) string {
	const causedBy = "\tcaused by:\n"
	lines := strings.Split(text[strings.LastIndex(text, causedBy)+len(causedBy):], "\n")
	if len(lines) > 1 && goFailed.MatchString(lines[0]) {
		lines = lines[1:]
	}
	var head []string
	for i, line := range lines {
		if i+1 < len(lines) && strings.HasPrefix(lines[i+1], "\t") && i > 0 {
			break // a stack frame
		}
		head = append(head, strings.TrimSpace(goRoutine.ReplaceAllString(line, "")))
		if goRoutine.MatchString(line) {
			break
		}
	}
	return strings.TrimSpace(strings.Join(head, " "))
}
