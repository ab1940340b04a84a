package jobs

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// right writes what a faultless run of the pipeline would.
func right(t *testing.T, s Shape) {
	t.Helper()
	parts := make([][]string, s.SecondKeys)
	for id := range s.Elements {
		drawn := (id * 7) % s.FirstKeys
		second := id % s.SecondKeys
		e := element{id: int64(id), drawn: int64(drawn), read: int64(drawn), group: fmt.Sprintf("group-%d", drawn), salt: "saltsalt"}
		parts[second] = append(parts[second], fmt.Sprintf("%d %s", second, e))
	}
	var names []string
	for i, lines := range parts {
		name := fmt.Sprintf("parts/%d", i)
		if err := appear(filepath.Join(s.Dir, name), lines); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	if err := appear(filepath.Join(s.Dir, manifest), names); err != nil {
		t.Fatal(err)
	}
}

// TestCheck sees that a right result passes, and that each way of being wrong
// has its name.
func TestCheck(t *testing.T) {
	edit := func(change func(lines []string) []string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			path := filepath.Join(dir, "parts", "3")
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			lines := change(strings.Split(string(text), "\n"))
			if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	replace := func(old, by string) func(t *testing.T, dir string) {
		return edit(func(lines []string) []string {
			lines[0] = strings.Replace(lines[0], old, by, 1)
			return lines
		})
	}
	tests := []struct {
		name string
		harm func(t *testing.T, dir string)
		want string
	}{
		{"right", func(*testing.T, string) {}, ""},
		{"lost", edit(func(l []string) []string { return l[1:] }), "lost: 1 times"},
		{"doubled", edit(func(l []string) []string { return append(l, l[0]) }), "doubled: 1 times"},
		{"other salt", replace("saltsalt", "saltmine"), "side inputs of two generations"},
		{"other group", replace("group-", "group+"), "groups of two generations"},
		{"other key", edit(func(l []string) []string {
			f := strings.Split(l[0], " ")
			f[5] = "49"
			l[0] = strings.Join(f, " ")
			return l
		}), "in a group of another key"},
		{"no part", func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "parts", "3")) }, "a part of the result"},
		{"no result", func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, manifest)) }, "there is no result"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := Shape{Dir: t.TempDir(), Elements: 200, FirstKeys: 50, SecondKeys: 20}
			right(t, s)
			test.harm(t, s.Dir)
			err := s.Check()
			switch {
			case test.want == "" && err != nil:
				t.Errorf("a right result is refused: %v", err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// TestJournal sees what ran again, and where it had run before.
func TestJournal(t *testing.T) {
	dir := t.TempDir()
	write := func(host string, lines ...string) {
		if err := appear(filepath.Join(dir, "journal", host+".1.x"), append(lines, "")); err != nil {
			t.Fatal(err)
		}
	}
	write("tm1", "draw 1 100", "draw 2 101", "first 1 300", "draw 3 1")
	write("tm2", "draw 2 200", "draw 9 201")
	j, err := ReadJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	again := j.Again()
	if len(again) != 1 || len(again[Draw]) != 1 || again[Draw][0].ID != "2" || again[Draw][0].Host != "tm2" {
		t.Errorf("again: %v", again)
	}
	var on []string
	for key := range j.FirstOn("tm1") {
		on = append(on, strings.Join(key[:], " "))
	}
	slices.Sort(on)
	if got := strings.Join(on, ", "); got != "draw 1, draw 2, draw 3, first 1" {
		t.Errorf("first on tm1: %s", got)
	}
	if j.Count(Draw) != 5 || !slices.IsSortedFunc(j, func(a, b Run) int { return a.At.Compare(b.At) }) {
		t.Errorf("read %v", j)
	}
}
