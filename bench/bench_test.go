package main

import (
	"flag"
	"testing"
	"time"
)

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{
		"1": 1, "200k": 200_000, "1M": 1e6, "4GB": 4e9, "512MiB": 512 << 20, "21MB": 21e6,
		"": 0, "k": 0, "-1k": 0, "1.5M": 0, "0": 0, "9999999GiB": 0, "5kk": 0,
	} {
		got, err := parseSize(text)
		if got != want || (err != nil) != (want == 0) {
			t.Errorf("parseSize(%q) = %d, %v, want %d", text, got, err, want)
		}
	}
}

// TestNarrowed: a run of some cases must not overwrite the tables of all.
func TestNarrowed(t *testing.T) {
	for _, test := range []struct {
		args []string
		doc  string
	}{
		{nil, defaultDoc},
		{[]string{"-runs=1"}, defaultDoc},
		{[]string{"-only=pardo"}, ""},
		{[]string{"-quick"}, ""},
		{[]string{"-only=kafka"}, defaultDoc}, // a section of its own
		{[]string{"-only=stream"}, defaultDoc},
		{[]string{"-only=kafka", "-quick"}, ""},
		{[]string{"-only=stream", "-sizes=50k"}, ""},
		{[]string{"-only=kafka,pardo"}, ""},
		{[]string{"-sizes=1k", "-doc=x.md"}, "x.md"},
	} {
		o, err := parseOptions(flag.NewFlagSet("bench", flag.ContinueOnError), test.args)
		if err != nil || o.doc != test.doc {
			t.Errorf("%v: document %q, %v, want %q", test.args, o.doc, err, test.doc)
		}
	}
}

func TestReplaceSection(t *testing.T) {
	const document = "before\n<!-- bench:a -->\nold\n<!-- /bench:a -->\nafter\n<!-- bench:b -->\n<!-- /bench:b -->\n"
	const want = "before\n<!-- bench:a -->\nnew\n<!-- /bench:a -->\nafter\n<!-- bench:b -->\n<!-- /bench:b -->\n"
	got, err := replaceSection(document, "a", "new\n")
	if err != nil || got != want {
		t.Errorf("got %q, %v", got, err)
	}
	for _, broken := range []string{"", "<!-- bench:a -->\n", "<!-- /bench:a -->\n<!-- bench:a -->\n"} {
		if _, err := replaceSection(broken, "a", "new\n"); err == nil {
			t.Errorf("%q was taken for a document with a section", broken)
		}
	}
}

// TestAims: an aim is judged by Trestle's worst case and the peers' largest.
func TestAims(t *testing.T) {
	small := &job{name: "group_by_key", size: "200 k", records: 200_000}
	large := &job{name: "group_by_key", size: "1 M", records: 1_000_000}
	run := func(j *job, runner string, wall time.Duration) result {
		return result{job: j, runner: runner, runs: []measurement{{wall: wall, runner: time.Second, worker: 4 * time.Second}}}
	}
	got := aimsTable([]result{
		run(small, trestleName, time.Second), run(small, prismName, time.Second),
		run(large, trestleName, 2*time.Second), run(large, prismName, 8*time.Second),
	})
	found := map[string]string{}
	for _, row := range got.rows {
		found[row[0]] = row[1] + ", " + row[2]
	}
	for aim, want := range map[string]string{
		"group_by_key: 4.0 × as fast as Prism 2.77":            "4.00 × (1 M), yes",
		"in load tests, the runner's CPU ≤ 0.4 × the worker's": "0.25 at worst (group_by_key 200 k), yes",
	} {
		if found[aim] != want {
			t.Errorf("%s: found %q, want %q", aim, found[aim], want)
		}
	}
	if len(got.rows) != 3 {
		t.Errorf("aims without a measurement must be left out: %q", found)
	}
}

// TestStat reads the statistics of the one process that every machine has.
func TestStat(t *testing.T) {
	s, err := readStat(1)
	if err != nil || s.pid != 1 || s.parent != 0 {
		t.Errorf("the first process is %+v, %v", s, err)
	}
}
