package itests

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

// expected reads a list of tests that are not expected to pass yet. A line is a
// test's name and, after a space, the reason.
func expected(t *testing.T, file string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	list := map[string]string{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, reason, _ := strings.Cut(line, " ")
		if strings.TrimSpace(reason) == "" {
			t.Errorf("%s: %s has no reason", file, name)
		}
		list[name] = strings.TrimSpace(reason)
	}
	return list
}

// An outcome is how one test of a suite ended.
type outcome struct {
	status string // pass, fail, skip, timeout
	detail string
}

// compare judges a suite's outcomes by the list.
func compare(t *testing.T, outcomes map[string]outcome, listed map[string]string) {
	t.Helper()
	counts := map[string]int{}
	for _, name := range slices.Sorted(maps.Keys(outcomes)) {
		got := outcomes[name]
		counts[got.status]++
		reason, isListed := listed[name]
		switch {
		case got.status == "pass" && isListed:
			t.Errorf("%s passes: take it off the list", name)
		case (got.status == "fail" || got.status == "timeout") && !isListed:
			t.Errorf("%s: %s\n%s", name, got.status, got.detail)
		case isListed:
			t.Logf("%s: %s as expected (%s)", name, got.status, reason)
		case got.status == "skip":
			t.Logf("%s: skipped by its suite: %.200s", name, got.detail)
		}
	}
	t.Logf("%d pass, %d fail, %d time out, %d skipped of %d",
		counts["pass"], counts["fail"], counts["timeout"], counts["skip"], len(outcomes))
	if len(outcomes) == 0 {
		t.Error("no test was run")
	}
}
