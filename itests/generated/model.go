// Command generated makes small pipelines by chance, runs them on a job
// endpoint, and compares what comes out with what Beam's model says, which is
// worked out here by the plainest means: lists, maps and nothing that the runner
// has. Each pipeline is run in several ways that must give the same: in batch,
// in streaming, and with one element in a bundle.
//
// Pipelines are drawn from those of which the model promises one result:
// nothing fires early, nothing is late, and no function looks at the order of
// what it is given.
package main

import (
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"
)

// Times are in milliseconds.
const (
	minTime     = math.MinInt64 / 1000
	endOfGlobal = math.MaxInt64/1000 - 24*60*60*1000
)

// A row is an element: a key and a number, in one window.
type row struct {
	Key        string
	Value      int64
	at         int64
	start, end int64 // of its window; the end is exclusive
}

// rows in any order.
type rows []row

// String is one line for each row, sorted.
func (rs rows) String() string {
	lines := make([]string, len(rs))
	for i, r := range rs {
		lines[i] = fmt.Sprintf("%s=%d until %d", r.Key, r.Value, r.end)
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

// A windowing says into which windows elements are put.
type windowing struct {
	Kind         string // global, fixed, sliding, sessions
	Size, Period int64
}

func (w windowing) assign(at int64) [][2]int64 {
	switch w.Kind {
	case "fixed":
		start := floor(at, w.Size)
		return [][2]int64{{start, start + w.Size}}
	case "sliding":
		var all [][2]int64
		for start := floor(at, w.Period); start+w.Size > at; start -= w.Period {
			all = append(all, [2]int64{start, start + w.Size})
		}
		return all
	case "sessions":
		return [][2]int64{{at, at + w.Size}}
	}
	return [][2]int64{{minTime, endOfGlobal + 1}}
}

func floor(at, step int64) int64 { return at - ((at%step)+step)%step }

// A step is one transform.
type step struct {
	Kind string // add, rekey, sum, group, window, flatten, side, state
	Arg  int64
	To   windowing // of window
}

// A plan is a pipeline.
type plan struct {
	Seed  int64
	Input []input
	In    windowing
	Steps []step
}

// An input is an element before it is in a window.
type input struct {
	Key   string
	Value int64
	At    int64
}

func (p plan) String() string {
	s := fmt.Sprintf("seed %d: %d elements in %v", p.Seed, len(p.Input), p.In)
	for _, st := range p.Steps {
		s += fmt.Sprintf(" | %s %d", st.Kind, st.Arg)
		if st.Kind == "window" {
			s += fmt.Sprint(" ", st.To)
		}
	}
	return s
}

// result is what the model says.
func (p plan) result() rows {
	var source rows
	for _, in := range p.Input {
		source = append(source, row{Key: in.Key, Value: in.Value, at: in.At})
	}
	w := p.In
	at := rewindow(source, w)
	for _, st := range p.Steps {
		switch st.Kind {
		case "window":
			w = st.To
			at = rewindow(at, w)
		case "sum", "group", "state":
			at = grouped(at, w, st)
		case "side":
			at = withSide(at, source, st)
		default:
			at = mapped(at, st)
		}
	}
	return at
}

// rewindow puts rows into other windows, each once for each that it was in.
func rewindow(in rows, w windowing) rows {
	var out rows
	for _, r := range in {
		for _, win := range w.assign(r.at) {
			r.start, r.end = win[0], win[1]
			out = append(out, r)
		}
	}
	return out
}

func mapped(in rows, st step) rows {
	var out rows
	for _, r := range in {
		switch st.Kind {
		case "add":
			r.Value += st.Arg
		case "rekey":
			r.Key = rekey(r.Value, st.Arg)
		case "flatten":
			out = append(out, r)
			r.Value += st.Arg
		}
		out = append(out, r)
	}
	return out
}

func rekey(value, n int64) string { return fmt.Sprintf("r%d", ((value%n)+n)%n) }

type group struct {
	key        string
	start, end int64
}

// grouped brings rows together by key and window, sessions of a key that
// overlap as one. What comes out is at the end of its window.
func grouped(in rows, w windowing, st step) rows {
	in = slices.Clone(in)
	if w.Kind == "sessions" && st.Kind != "state" {
		sort.Slice(in, func(i, j int) bool { return in[i].start < in[j].start })
		last := map[string][]int{} // the rows of a key's session under way
		for i := range in {
			r := &in[i]
			of := last[r.Key]
			if len(of) > 0 && r.start < in[of[0]].end {
				end := max(r.end, in[of[0]].end)
				r.start = in[of[0]].start
				of = append(of, i)
				for _, j := range of {
					in[j].end = end
				}
			} else {
				of = []int{i}
			}
			last[r.Key] = of
		}
	}
	sums, counts := map[group]int64{}, map[group]int64{}
	for _, r := range in {
		g := group{r.Key, r.start, r.end}
		sums[g] += r.Value
		counts[g]++
	}
	var out rows
	for g, sum := range sums {
		r := row{Key: g.key, Value: sum, at: g.end - 1, start: g.start, end: g.end}
		if st.Kind != "sum" {
			r.Value = mix(sum, counts[g])
		}
		out = append(out, r)
	}
	return out
}

// mix makes one number of a sum and a count.
func mix(sum, count int64) int64 { return 31*sum + count }

// withSide adds to each row the sum of the source in the window of a side input
// that it looks at: fixed windows of so many milliseconds, or the global one.
func withSide(in, source rows, st step) rows {
	w := sideWindowing(st)
	side := rewindow(source, w)
	var out rows
	for _, r := range in {
		looks := w.assign(r.end - 1)[0]
		for _, s := range side {
			if s.start == looks[0] {
				r.Value += s.Value
			}
		}
		out = append(out, r)
	}
	return out
}

func sideWindowing(st step) windowing {
	if st.Arg == 0 {
		return windowing{Kind: "global"}
	}
	return windowing{Kind: "fixed", Size: st.Arg}
}
