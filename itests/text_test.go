package itests

import (
	"bufio"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// textBytes is how much text the word counts read, at least.
const textBytes = 20 << 20

// text makes a file of real English and Go: the sources and documents of the
// Beam module, over and over up to the size wanted. Only ASCII is kept, so that
// all SDKs agree what a word is.
func text(t *testing.T, least int) string {
	t.Helper()
	file := cached(t, fmt.Sprintf("text-%d.txt", least))
	if _, err := os.Stat(file); err == nil {
		return file
	}
	once := moduleText(t)
	out, err := os.Create(file + ".new")
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; n < least; n += len(once) {
		if _, err := out.Write(once); err != nil {
			t.Fatal(err)
		}
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
	return file
}

func moduleText(t *testing.T) []byte {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", beamModule).Output()
	if err != nil {
		t.Fatalf("find the Go SDK: %v", err)
	}
	var all []byte
	err = filepath.WalkDir(strings.TrimSpace(string(dir)), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".go" && filepath.Ext(path) != ".md" {
			return err
		}
		text, err := os.ReadFile(path)
		for _, c := range text {
			if c == '\n' || c >= ' ' && c < 0x7f {
				all = append(all, c)
			}
		}
		all = append(all, '\n')
		return err
	})
	if err != nil || len(all) == 0 {
		t.Fatalf("read the Beam module: %d bytes, %v", len(all), err)
	}
	return all
}

// countWords is the oracle: runs of letters, digits, "_" and "'".
func countWords(t *testing.T, file string) map[string]int {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	begin := 0
	for i, c := range text {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '\'' {
			continue
		}
		if i > begin {
			counts[string(text[begin:i])]++
		}
		begin = i + 1
	}
	if begin < len(text) {
		counts[string(text[begin:])]++
	}
	return counts
}

// mustHaveCounted compares what a pipeline wrote, lines "word: count" in files
// with a common beginning of their names, with the oracle.
func mustHaveCounted(t *testing.T, input, outputPrefix string) {
	t.Helper()
	want := countWords(t, input)
	files, err := filepath.Glob(outputPrefix + "*")
	if err != nil || len(files) == 0 {
		t.Fatalf("the pipeline wrote no %s*: %v", outputPrefix, err)
	}
	got := map[string]int{}
	for _, file := range files {
		readCounts(t, file, got)
	}
	wrong := 0
	for _, word := range slices.Sorted(maps.Keys(want)) {
		if got[word] != want[word] && wrong < 10 {
			t.Errorf("%q was counted %d times, want %d", word, got[word], want[word])
			wrong++
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d words, want %d", len(got), len(want))
	}
}

func readCounts(t *testing.T, file string, into map[string]int) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		word, number, _ := strings.Cut(lines.Text(), ": ")
		n, err := strconv.Atoi(number)
		if err != nil {
			t.Fatalf("%s: line %q", file, lines.Text())
		}
		if _, twice := into[word]; twice {
			t.Errorf("%q was written twice", word)
		}
		into[word] = n
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
}
