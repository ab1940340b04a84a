package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// Python's word count runs with two worker processes, the cores of the machine
// that the figures are from.
const pythonWorkers = 2

// wordcountJobs are the Python SDK's word count over text of the given sizes.
// The workers are processes that the runner starts; FnApiRunner starts its own.
func wordcountJobs(ctx context.Context, w *workshop, o *options) ([]*job, error) {
	if !o.wants("wordcount") {
		return nil, nil
	}
	if _, err := os.Stat(w.python); err != nil {
		return nil, fmt.Errorf("%w (make bench makes it)", err)
	}
	boot, err := w.bootScript()
	if err != nil {
		return nil, err
	}
	once, err := moduleText(ctx)
	if err != nil {
		return nil, err
	}
	warm, err := w.textFile(once, 200_000)
	if err != nil {
		return nil, err
	}
	var jobs []*job
	for _, size := range o.texts {
		file, err := w.textFile(once, size)
		if err != nil {
			return nil, err
		}
		want, err := countWords(file)
		if err != nil {
			return nil, err
		}
		out := filepath.Join(w.scratch, "counts")
		jobs = append(jobs, &job{
			name: "wordcount", size: short(size, "B"), records: size,
			runners: without(o, trestleName, fnapiName, prismName, flinkName),
			client: func(s *server, warmUp bool) (*exec.Cmd, error) {
				input := file
				if warmUp {
					input = warm
				}
				return w.wordcount(s, boot, input, out)
			},
			check: func() error { return mustHaveCounted(out, want) },
		})
	}
	return jobs, nil
}

func (w *workshop) wordcount(s *server, boot, input, out string) (*exec.Cmd, error) {
	if err := removeAll(out); err != nil {
		return nil, err
	}
	args := []string{filepath.Join("bench", "python", "wordcount.py"), "--input=" + input, "--output=" + out}
	if s == nil {
		args = append(args, "--runner=FnApiRunner", "--direct_running_mode=multi_processing",
			fmt.Sprintf("--direct_num_workers=%d", pythonWorkers))
	} else {
		args = append(args, "--runner=PortableRunner", "--job_endpoint="+s.endpoint, "--environment_type=PROCESS",
			fmt.Sprintf(`--environment_config={"command": %q}`, boot),
			fmt.Sprintf("--sdk_worker_parallelism=%d", pythonWorkers),
			// FnApiRunner's clients don't list their packages either.
			"--experiments=disable_logging_submission_environment")
	}
	cmd := exec.Command(w.python, args...)
	// FnApiRunner starts "python" from the path.
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(w.python)+":"+os.Getenv("PATH"))
	return cmd, nil
}

// removeAll removes the files whose names begin with prefix.
func removeAll(prefix string) error {
	files, err := filepath.Glob(prefix + "*")
	for _, f := range files {
		err = errors.Join(err, os.RemoveAll(f))
	}
	return err
}

// bootScript writes the command of the PROCESS environment. exec, so that the
// worker is the very process that the runner started.
func (w *workshop) bootScript() (string, error) {
	boot, err := filepath.Abs(filepath.Join("bench", "python", "boot.py"))
	if err != nil {
		return "", err
	}
	path := filepath.Join(w.scratch, "boot.sh")
	text := fmt.Sprintf("#!/bin/sh\nexec '%s' '%s' \"$@\"\n", w.python, boot)
	return path, os.WriteFile(path, []byte(text), 0o755) // #nosec G306: it is to be executed
}

// moduleText is the Go sources and documents of the Beam module as one text.
// Only ASCII is kept, so that Python and Go agree what a word is.
func moduleText(ctx context.Context) ([]byte, error) {
	dir, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/apache/beam/sdks/v2").Output()
	if err != nil {
		return nil, fmt.Errorf("find the Beam module: %w", err)
	}
	var all []byte
	err = filepath.WalkDir(strings.TrimSpace(string(dir)), func(path string, d fs.DirEntry, err error) error {
		if ext := filepath.Ext(path); err != nil || d.IsDir() || ext != ".go" && ext != ".md" {
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
	if err == nil && len(all) < 1<<20 {
		err = fmt.Errorf("the Beam module has only %d bytes of text", len(all))
	}
	return all, err
}

// textFile writes a text of that size, cut after a line, once.
func (w *workshop) textFile(once []byte, size int64) (string, error) {
	path := filepath.Join(w.scratch, fmt.Sprintf("text-%d.txt", size))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	text := make([]byte, 0, size)
	for int64(len(text)) < size {
		text = append(text, once[:min(int64(len(once)), size-int64(len(text)))]...)
	}
	text[len(text)-1] = '\n'
	if err := os.WriteFile(path+".new", text, 0o644); err != nil {
		return "", err
	}
	return path, os.Rename(path+".new", path)
}

func isWordByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '\''
}

// countWords is the oracle: runs of letters, digits, "_" and "'".
func countWords(file string) (map[string]int, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	counts := map[string]int{}
	for word := range strings.FieldsFuncSeq(string(text), func(r rune) bool { return !isWordByte(byte(r)) }) {
		counts[word]++
	}
	return counts, nil
}

// mustHaveCounted compares what a pipeline wrote with the oracle.
func mustHaveCounted(prefix string, want map[string]int) error {
	files, err := filepath.Glob(prefix + "*")
	if err != nil || len(files) == 0 {
		return fmt.Errorf("the word count wrote no %s*: %w", prefix, err)
	}
	words := 0
	for _, f := range files {
		n, err := compareCounts(f, want)
		if err != nil {
			return err
		}
		words += n
	}
	if words != len(want) {
		return fmt.Errorf("the word count has %d words, want %d", words, len(want))
	}
	return nil
}

func compareCounts(file string, want map[string]int) (words int, err error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		word, number, _ := strings.Cut(lines.Text(), ": ")
		if n, err := strconv.Atoi(number); err != nil || n != want[word] {
			return 0, fmt.Errorf("the word count has %q, want %d", lines.Text(), want[word])
		}
		words++
	}
	return words, lines.Err()
}
