package web

import (
	"slices"
	"testing"
)

// Stages are called by what their author named, as deep as it takes to tell
// them apart.
func TestStageLabel(t *testing.T) {
	for name, want := range map[string]string{
		"GroupAndSum/Group, GroupAndSum/Merge, GroupAndSum/Extract, Format, Write/Write/Window, … 2 more": "GroupAndSum, Format, Write, …",
		"Write/Write/WriteImpl/GroupByKey, Write/Write/WriteImpl/Extract":                                 "Write › GroupByKey, Extract",
		"Write/Write/WriteImpl/PreFinalize":                                                               "Write › PreFinalize",
		"Parse":                                                                                           "Parse",
		"Read/Impulse, Read/FlatMap(<lambda at core.py:4094>)":                                            "Read › Impulse, FlatMap(lambda)",
		"MapElements(a/b, c)/Map/ParMultiDo(x), MapElements(a/b, c)/Map/ParMultiDo(y)":                    "MapElements(a/b, c) › ParMultiDo(x), ParMultiDo(y)",
		"a/b, a":   "a",
		"/x, y/":   "/x, y",
		"… 3 more": "… 3 more",
		"":         "",
		"(((":      "(((",
	} {
		if got := StageLabel(name); got != want {
			t.Errorf("StageLabel(%q) = %q, want %q", name, got, want)
		}
	}
}

// What is too wide is broken, and what is too long ends with dots.
func TestWrap(t *testing.T) {
	if got := wrap("Enrich orders with the customer master data of all years", 170, 2); !slices.Equal(got, []string{"Enrich orders with the", "customer master data…"}) {
		t.Errorf("%q", got)
	}
	if got := wrap("short", 170, 2); !slices.Equal(got, []string{"short"}) {
		t.Errorf("%q", got)
	}
	if got := wrap("Aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 60, 2); !slices.Equal(got, []string{"Aaaaa…"}) {
		t.Errorf("%q", got)
	}
}

func FuzzStageLabel(f *testing.F) {
	f.Add("a/b, c/(d, e)")
	f.Fuzz(func(_ *testing.T, s string) { wrap(StageLabel(s), 100, 2) })
}
