package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// A table is one table of the document. The first columns are text, the others
// numbers.
type table struct {
	title string
	note  string
	text  int // columns of text
	head  []string
	rows  [][]string
}

// render prints the tables as Markdown.
func render(tables []table, about string) string {
	var b strings.Builder
	b.WriteString(about)
	for _, t := range tables {
		fmt.Fprintf(&b, "\n### %s\n\n", t.title)
		if t.note != "" {
			b.WriteString(t.note + "\n\n")
		}
		b.WriteString("| " + strings.Join(t.head, " | ") + " |\n|")
		for i := range t.head {
			if i < t.text {
				b.WriteString("---|")
			} else {
				b.WriteString("--:|")
			}
		}
		b.WriteString("\n")
		for _, row := range t.rows {
			b.WriteString("| " + strings.Join(row, " | ") + " |\n")
		}
	}
	return b.String()
}

// describe says where the figures are from, and how busy others kept the
// machine: figures of a busy machine are worth little but for their CPU seconds.
func describe(ctx context.Context, o *options, began time.Time, others float64) string {
	version := "unknown"
	if out, err := exec.CommandContext(ctx, "git", "describe", "--tags", "--always", "--dirty").Output(); err == nil {
		version = strings.TrimSpace(string(out))
	}
	runs := fmt.Sprintf("medians of %d runs", o.runs)
	if o.runs == 1 || o.spill || o.state {
		runs = "one run each"
	}
	return fmt.Sprintf("Trestle %s, %s, %d cores (%s), %s memory, %s. Other processes took %.0f %% of the machine while the jobs ran.\n",
		version, began.Format(time.DateOnly), runtime.NumCPU(), processor(), memory(), runs, 100*others)
}

func processor() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func memory() string {
	text, _ := os.ReadFile("/proc/meminfo")
	var kib int64
	if _, err := fmt.Sscanf(string(text), "MemTotal: %d kB", &kib); err != nil {
		return "unknown"
	}
	return megabytes(kib << 10)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

func millis(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/1e6) }

func megabytes(n int64) string {
	if n >= 1e9 {
		return fmt.Sprintf("%.2f GB", float64(n)/1e9)
	}
	return fmt.Sprintf("%.0f MB", float64(n)/1e6)
}

func ratio[T ~int64](a, b T) string {
	if b == 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f", float64(a)/float64(b))
}
