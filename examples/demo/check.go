package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// beamModule has several megabytes of Go and English in every module cache that
// Trestle was built from.
const beamModule = "github.com/apache/beam/sdks/v2"

// texts finds the files to count.
func texts(patterns string) ([]string, error) {
	if patterns == "" {
		return moduleTexts()
	}
	var all []string
	for _, pattern := range strings.Fields(patterns) {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return nil, fmt.Errorf("pattern %q: %w", pattern, err)
		}
		for _, name := range found {
			// The worker reads them from wherever it runs.
			path, err := filepath.Abs(name)
			if err != nil {
				return nil, err
			}
			if strings.ContainsAny(path, "\n\t ") {
				return nil, fmt.Errorf("%q: names with spaces are more than this demo can do", path)
			}
			all = append(all, path)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no file is named %s", patterns)
	}
	return all, nil
}

func moduleTexts() ([]string, error) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", beamModule).Output()
	if err != nil {
		return nil, fmt.Errorf("find the Beam module: %w", err)
	}
	var all []string
	err = filepath.WalkDir(strings.TrimSpace(string(dir)), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && (filepath.Ext(path) == ".go" || filepath.Ext(path) == ".md") {
			all = append(all, path)
		}
		return err
	})
	return all, err
}

// check counts again without Beam and compares every word.
func check(files []string, counts string) error {
	want := map[string]int{}
	bytes := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		bytes += len(text)
		addWords(want, text)
	}
	got, err := readCounts(counts)
	if err != nil {
		return err
	}
	if len(got) != len(want) {
		return fmt.Errorf("the pipeline found %d words, plain Go %d", len(got), len(want))
	}
	for word, n := range want {
		if got[word] != n {
			return fmt.Errorf("the pipeline counted %q %d times, plain Go %d times", word, got[word], n)
		}
	}
	fmt.Printf("All %d counts, of %.1f MB of text, are the same as those of a plain Go program.\n", len(want), float64(bytes)/1e6)
	return nil
}

// addWords counts runs of ASCII letters.
func addWords(counts map[string]int, text []byte) {
	begin := -1
	for i := 0; i <= len(text); i++ {
		letter := i < len(text) && (text[i]|0x20) >= 'a' && (text[i]|0x20) <= 'z'
		switch {
		case letter && begin < 0:
			begin = i
		case !letter && begin >= 0:
			counts[string(text[begin:i])]++
			begin = -1
		}
	}
}

// readCounts reads what the pipeline wrote.
func readCounts(file string) (map[string]int, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	counts := map[string]int{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		word, number, _ := strings.Cut(lines.Text(), ": ")
		n, err := strconv.Atoi(number)
		if err != nil {
			return nil, fmt.Errorf("the pipeline wrote the line %q", lines.Text())
		}
		if _, twice := counts[word]; twice {
			return nil, errors.New("the pipeline wrote twice: " + word)
		}
		counts[word] = n
	}
	return counts, lines.Err()
}
