// Command generated makes small pipelines by chance, runs them on a job
// endpoint, and compares what comes out with what Beam's model says, which is
// worked out here by the plainest means: lists, maps and nothing that the runner
// has.
//
// Each pipeline is run in some of the ways that must give the same (see ways): in
// batch and in streaming; with one element in a bundle; with what arrives
// shuffled; played by a TestStream with several outputs, whose watermark moves
// between the elements; from a source that is split, by the runner and by
// itself, wherever that can be; and with workers that die in mid-bundle.
//
// Pipelines are drawn from those of which the model promises one result:
// nothing is late, and no function looks at the order of what it is given. Some
// end in a grouping that may fire early: of that the model allows a set of
// outcomes, and what came is looked at for what all of them have in common.
//
// A job holds many pipelines. Where one of it fails, the command that runs that
// one alone is told.
package main

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"sort"
)

// Times are in milliseconds.
const (
	minTime     = math.MinInt64 / 1000
	endOfGlobal = math.MaxInt64/1000 - 24*60*60*1000
)

// A row is an element: a key and a number, at a time in one window.
type row struct {
	Key        string
	Value      int64
	at         int64
	start, end int64 // of its window; the end is exclusive
}

// rows in any order.
type rows []row

// text is a row as the pipelines write it.
func text(key string, value, at, end int64) string {
	return fmt.Sprintf("%s=%d at %d until %d", key, value, at, end)
}

// lines has one for each row, sorted.
func (rs rows) lines() []string {
	lines := make([]string, len(rs))
	for i, r := range rs {
		lines[i] = text(r.Key, r.Value, r.at, r.end)
	}
	sort.Strings(lines)
	return lines
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

// result is what the model says of all but the firing.
func (p plan) result() rows {
	var source rows
	for _, in := range p.Input {
		source = append(source, row{Key: in.Key, Value: in.Value, at: in.At})
	}
	w := p.In
	at := rewindow(source, w)
	for _, st := range p.Steps {
		switch {
		case st.Kind == "window":
			w = st.To
			at = rewindow(at, w)
		case gathers[st.Kind]:
			at = gathered(at, w, st)
		case st.Kind == "side":
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
		case "parts":
			if r.Value%2 == 0 {
				r.Value += st.Arg
			}
		case "spread":
			for i := range st.Arg - 1 {
				s := r
				s.Value += i
				out = append(out, s)
			}
			r.Value += st.Arg - 1
		case "reshuffle":
		}
		out = append(out, r)
	}
	return out
}

func rekey(value, n int64) string { return fmt.Sprintf("r%d", ((value%n)+n)%n) }

// A group is what has one key and window.
type group struct {
	key        string
	start, end int64
}

// groups brings rows together by key and window, and if it is to, sessions of a
// key that overlap as one.
func groups(in rows, merge bool) map[group]rows {
	in = slices.Clone(in)
	if merge {
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
	out := map[group]rows{}
	for _, r := range in {
		g := group{r.Key, r.start, r.end}
		out[g] = append(out[g], r)
	}
	return out
}

// gathered is what becomes of groups. It is at the end of their windows.
func gathered(in rows, w windowing, st step) rows {
	if st.Kind == "cogroup" {
		n := len(in)
		in = append(slices.Clone(in), mapped(in, step{Kind: "rekey", Arg: st.Arg})...)
		for i := range in[n:] {
			in[n+i].Value *= 7 // so that it is told apart
		}
	}
	var out rows
	for g, of := range groups(in, w.Kind == "sessions" && !stateful[st.Kind]) {
		r := row{Key: g.key, at: g.end - 1, start: g.start, end: g.end}
		switch st.Kind {
		case "tags":
			seen := map[int64]bool{}
			for _, x := range of {
				if t := tagOf(x.Value); !seen[t] {
					seen[t] = true
					r.Value = t
					out = append(out, r)
				}
			}
		case "loop":
			for i := range int64(ticks) {
				r.Value, r.at = i, g.start+(i+1)*pace(g.end-g.start)
				out = append(out, r)
			}
		default:
			r.Value = number(of, st.Kind)
			out = append(out, r)
		}
	}
	return out
}

// number is what a step makes of a group.
func number(of rows, kind string) int64 {
	var sum, count, distinct, inRange, inRangeCount int64
	seen := map[int64]bool{}
	for _, x := range of {
		sum += x.Value
		count++
		if !seen[x.Value] {
			seen[x.Value] = true
			distinct += x.Value
		}
		if x.Value >= rangeFrom && x.Value < rangeTo {
			inRange += x.Value
			inRangeCount++
		}
	}
	switch kind {
	case "sum":
		return sum
	case "map":
		return mix(sum, int64(len(seen)))
	case "set":
		return mix(distinct, int64(len(seen)))
	case "ordered":
		return mix(inRange, inRangeCount)
	case "cleared":
		return mix(count, 1)
	}
	return mix(sum, count)
}

// mix makes one number of a sum and a count.
func mix(sum, count int64) int64 { return 31*sum + count }

// tagOf is the tag of a value's timer.
func tagOf(value int64) int64 { return ((value % 3) + 3) % 3 }

// A looping timer fires so many times in a window, always a pace later.
const ticks = 3

func pace(size int64) int64 { return size / (ticks + 1) }

// What is read of an ordered list.
const rangeFrom, rangeTo = 0, 12

// withSide adds to each row the sum of the source in the window of a side input
// that it looks at: fixed windows of so many milliseconds, or the global one. Of
// a map it is that of one key.
func withSide(in, source rows, st step) rows {
	w := sideWindowing(st)
	side := rewindow(source, w)
	var out rows
	for _, r := range in {
		looks, key := w.assign(r.end - 1)[0], lookUp(r.Value)
		for _, s := range side {
			if s.start == looks[0] && (st.View != "map" || s.Key == key) {
				r.Value += s.Value
			}
		}
		out = append(out, r)
	}
	return out
}

// lookUp is the key of the source that a value looks up.
func lookUp(value int64) string { return fmt.Sprintf("k%d", ((value%4)+4)%4) }

func sideWindowing(st step) windowing {
	if st.Arg == 0 {
		return windowing{Kind: "global"}
	}
	return windowing{Kind: "fixed", Size: st.Arg}
}

// differ tells how what came differs from what should have, "" for not at all.
func differ(got, want []string) string {
	if slices.Equal(got, want) {
		return ""
	}
	less := map[string]int{}
	for _, line := range got {
		less[line]--
	}
	for _, line := range want {
		less[line]++
	}
	s := "gives"
	for _, line := range slices.Sorted(maps.Keys(less)) {
		if n := less[line]; n > 0 {
			s += fmt.Sprintf("\n%d less of %s", n, line)
		} else if n < 0 {
			s += fmt.Sprintf("\n%d more of %s", -n, line)
		}
	}
	return s
}
