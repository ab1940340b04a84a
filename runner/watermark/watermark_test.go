package watermark_test

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"trestle/element"
	"trestle/runner/watermark"

	"github.com/cockroachdb/datadriven"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		if err := f.Value.Set("2000"); err != nil { // they are quick
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// TestTracker tells what inputs say and prints the watermarks: input, output,
// and whether the stage is idle. After an intended change run go test
// ./runner/watermark -rewrite, then read the diff as you would read code.
func TestTracker(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		if strings.HasSuffix(path, ".fail") {
			return // what a property left when it failed, for its own test
		}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var inputs int
			d.ScanArgs(t, "inputs", &inputs)
			w := watermark.NewTracker(inputs)
			var out strings.Builder
			for line := range strings.Lines(d.Input) {
				words := strings.Fields(line)
				at := func() element.Timestamp { return timestamp(t, words[len(words)-1]) }
				switch words[0] {
				case "say": // INPUT WATERMARK
					w.Advance(index(t, words[1]), watermark.Mark{Watermark: at()})
				case "idle":
					w.Advance(index(t, words[1]), watermark.Mark{Watermark: at(), Idle: true})
				case "hold":
					w.Hold(at())
				case "release":
					w.Release(at())
				case "settle":
				default:
					t.Fatalf("what is %q?", line)
				}
				note := ""
				if words[0] == "settle" {
					if _, changed := w.Settle(w.Input()); changed {
						note = ", new"
					}
				}
				if w.Mark().Idle {
					note = ", idle" + note
				}
				fmt.Fprintf(&out, "%-14s input %s, output %s%s\n", strings.Join(words, " "), w.Input(), w.Output(), note)
			}
			return out.String()
		})
	})
}

func index(t *testing.T, text string) int {
	i, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func timestamp(t *testing.T, text string) element.Timestamp {
	switch text {
	case "+inf":
		return element.MaxTimestamp
	case "-inf":
		return element.MinTimestamp
	}
	return element.Timestamp(index(t, text))
}

// TestNeverFalls has a stage live through anything, and looks at its promises.
func TestNeverFalls(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 3).Draw(t, "inputs")
		w := watermark.NewTracker(n)
		said := slices.Repeat([]watermark.Mark{watermark.Start}, n)
		var held []element.Timestamp
		input, output := w.Input(), w.Output()
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			at := element.Timestamp(rapid.IntRange(0, 50).Draw(t, "at"))
			switch rapid.IntRange(0, 4).Draw(t, "step") {
			case 0, 1:
				i := rapid.IntRange(0, n-1).Draw(t, "input")
				m := watermark.Mark{Watermark: at, Idle: rapid.Bool().Draw(t, "idle")}
				w.Advance(i, m)
				m.Watermark = max(m.Watermark, said[i].Watermark)
				said[i] = m
			case 2:
				w.Hold(at)
				held = append(held, at)
			case 3:
				if len(held) > 0 {
					i := rapid.IntRange(0, len(held)-1).Draw(t, "which")
					w.Release(held[i])
					held = slices.Delete(held, i, i+1)
				}
			case 4:
				w.Settle(w.Input())
			}
			least := element.MaxTimestamp
			for _, h := range held {
				least = min(least, h)
			}
			if w.Input() < input || w.Output() < output || w.Output() > w.Input() || w.Output() > output && w.Output() > least {
				t.Fatalf("from %s, %s to %s, %s with holds %v", input, output, w.Input(), w.Output(), held)
			}
			for _, m := range said {
				if !m.Idle && w.Input() > input && w.Input() > m.Watermark {
					t.Fatalf("the input rose to %s, but one said %s", w.Input(), m.Watermark)
				}
			}
			input, output = w.Input(), w.Output()
		}
	})
}

// TestHolds compares Holds with a list.
func TestHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var h watermark.Holds
		var list []element.Timestamp
		for range rapid.IntRange(1, 400).Draw(t, "steps") {
			if len(list) == 0 || rapid.IntRange(0, 2).Draw(t, "add") > 0 && len(list) < 200 {
				at := element.Timestamp(rapid.IntRange(0, 300).Draw(t, "at"))
				h.Add(at)
				list = append(list, at)
			} else {
				i := rapid.IntRange(0, len(list)-1).Draw(t, "which")
				h.Remove(list[i])
				list = slices.Delete(list, i, i+1)
			}
			want := element.MaxTimestamp
			if len(list) > 0 {
				want = slices.Min(list)
			}
			if h.Least() != want {
				t.Fatalf("least of %v is %s", list, h.Least())
			}
		}
	})
}
