package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/mtime"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window/trigger"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/typex"
)

// triggers are the names of those that a firing may have. What is marked with
// "once" closes its window when it has fired: what comes later is dropped.
var triggers = []string{
	"default", "early", "early and late", "count", "always", "never", "processing", "each", "all", "finally",
	"count once", "any once",
}

func (f *firing) trigger() trigger.Trigger {
	count := trigger.AfterCount(f.Count)
	switch f.Trigger {
	case "early":
		return trigger.AfterEndOfWindow().EarlyFiring(count)
	case "early and late":
		return trigger.AfterEndOfWindow().EarlyFiring(count).LateFiring(trigger.AfterCount(1))
	case "count":
		return trigger.Repeat(count)
	case "always":
		return trigger.Always()
	case "never":
		return trigger.Never()
	case "processing":
		return trigger.Repeat(trigger.AfterProcessingTime().PlusDelay(time.Millisecond))
	case "each":
		return trigger.AfterEach([]trigger.Trigger{count, trigger.Repeat(trigger.AfterCount(1))})
	case "all":
		return trigger.AfterAll([]trigger.Trigger{count, trigger.AfterEndOfWindow()})
	case "finally":
		return trigger.OrFinally(trigger.Repeat(count), trigger.AfterEndOfWindow())
	case "count once":
		return count
	case "any once":
		return trigger.AfterAny([]trigger.Trigger{count, trigger.AfterEndOfWindow()})
	}
	return trigger.Default()
}

func (f *firing) once() bool { return f.Trigger == "count once" || f.Trigger == "any once" }

// fire groups what came, and gives a line for each pane.
func (b *builder) fire(at beam.PCollection) beam.PCollection {
	mode := beam.PanesDiscard()
	if b.Fire.Accumulate {
		mode = beam.PanesAccumulate()
	}
	at = into(b.s, b.Fire.To, at, beam.Trigger(b.Fire.trigger()), mode)
	return beam.ParDo(b.s, &paneFn{Plan: fmt.Sprint(b.Seed)}, beam.GroupByKey(b.s, at))
}

// A pane is what a grouping gave of a key and window at one time.
type pane struct {
	Key         string
	Start, End  int64
	Values      []int64 // sorted
	Index       int64
	NotEarly    int64 // its number among those that are not early, -1 for an early one
	First, Last bool
	Timing      typex.PaneTiming
}

// paneFn writes panes as JSON.
type paneFn struct{ Plan string }

func (f *paneFn) ProcessElement(pn beam.PaneInfo, w beam.Window, key string, values func(*int64) bool) (plan, line string, err error) {
	p := pane{Key: key, Index: pn.Index, NotEarly: pn.NonSpeculativeIndex, First: pn.IsFirst, Last: pn.IsLast, Timing: pn.Timing}
	p.Start, p.End = bounds(w)
	for v := int64(0); values(&v); {
		p.Values = append(p.Values, v)
	}
	slices.Sort(p.Values)
	enc, err := json.Marshal(p)
	return f.Plan, string(enc), err
}

// bounds are those of a window, the end exclusive.
func bounds(w beam.Window) (start, end int64) {
	if w, ok := w.(window.IntervalWindow); ok {
		return w.Start.Milliseconds(), w.End.Milliseconds()
	}
	return minTime, mtime.EndOfGlobalWindowTime.Milliseconds() + 1
}

// wrongPanes tells what no outcome of a firing may have, "" for nothing.
func (p plan) wrongPanes(lines []string) string {
	wants := map[group][]int64{}
	for g, of := range groups(rewindow(p.result(), p.Fire.To), p.Fire.To.Kind == "sessions") {
		for _, r := range of {
			wants[g] = append(wants[g], r.Value)
		}
	}
	got := map[group][]pane{}
	for _, line := range lines {
		var x pane
		if err := json.Unmarshal([]byte(line), &x); err != nil {
			return fmt.Sprintf("gives %q: %v", line, err)
		}
		home := group{x.Key, x.Start, x.End}
		if p.Fire.To.Kind == "sessions" {
			for g := range wants { // it may have fired before it was brought together with others
				if g.key == x.Key && g.start <= x.Start && x.End <= g.end {
					home = g
				}
			}
		}
		got[home] = append(got[home], x)
	}
	for g, panes := range got {
		if wants[g] == nil {
			return fmt.Sprintf("gives %+v, of which nothing should come", panes)
		}
	}
	for g, want := range wants {
		slices.Sort(want)
		if what := p.Fire.wrong(got[g], want); what != "" {
			return fmt.Sprintf("gives of %+v\n%+v\nof the values %v: %s", g, got[g], want, what)
		}
	}
	return ""
}

// wrong looks at the panes of a window whose values are those wanted.
func (f *firing) wrong(panes []pane, want []int64) string {
	sort.Slice(panes, func(i, j int) bool { return panes[i].Index < panes[j].Index })
	if len(panes) == 0 {
		return "nothing came"
	}
	merging := f.To.Kind == "sessions" // each that was brought together has counted for itself
	if what := wrongOrder(panes); what != "" && !merging {
		return what
	}
	var all []int64
	for i, p := range panes {
		if len(p.Values) == 0 && p.Timing != typex.PaneOnTime && !p.Last {
			return "an empty pane came, and had no reason to"
		}
		if f.needs() && !(f.Trigger == "each" && (i > 0 || merging)) && !f.Accumulate && !p.Last && p.Timing == typex.PaneEarly && len(p.Values) < int(f.Count) {
			return fmt.Sprintf("pane %d came before it had %d elements", p.Index, f.Count)
		}
		all = append(all, p.Values...)
	}
	slices.Sort(all)
	last := panes[len(panes)-1].Values
	switch {
	case f.once() && !merging:
		if len(panes) != 1 {
			return "a trigger that fires once did so more often"
		}
		if len(last) < min(len(want), int(f.Count)) && f.Trigger == "count once" || !within(last, want) {
			return "these can't be among them"
		}
	case f.once():
		if !within(last, want) {
			return "these can't be among them"
		}
	case f.Accumulate && !merging:
		if !slices.Equal(last, want) {
			return "the last pane should have them all"
		}
		for i := range panes[1:] {
			if !within(panes[i].Values, panes[i+1].Values) {
				return "a pane has lost what the one before had"
			}
		}
	case f.Accumulate:
		if !within(want, all) {
			return "some are lost"
		}
	case !slices.Equal(all, want):
		return "each should have come once"
	}
	return ""
}

// needs reports whether early panes hold at least so many elements as were
// asked for.
func (f *firing) needs() bool {
	switch f.Trigger {
	case "early", "early and late", "count", "each", "finally":
		return true
	}
	return false
}

// wrongOrder looks at how panes are numbered.
func wrongOrder(panes []pane) string {
	notEarly := int64(0)
	for i, p := range panes {
		switch {
		case p.Index != int64(i):
			return fmt.Sprintf("pane %d of them has the number %d", i, p.Index)
		case p.First != (i == 0):
			return fmt.Sprintf("is pane %d the first?", i)
		case p.Last && i != len(panes)-1:
			return fmt.Sprintf("pane %d is not the last", i)
		case i > 0 && p.Timing < panes[i-1].Timing:
			return fmt.Sprintf("pane %d is %v after one that was %v", i, p.Timing, panes[i-1].Timing)
		case i > 0 && p.Timing == typex.PaneOnTime && panes[i-1].Timing == typex.PaneOnTime:
			return "two are on time"
		case p.Timing == typex.PaneEarly && p.NotEarly != -1, p.Timing != typex.PaneEarly && p.NotEarly != notEarly:
			return fmt.Sprintf("pane %d is number %d of those that are not early", i, p.NotEarly)
		}
		if p.Timing != typex.PaneEarly {
			notEarly++
		}
	}
	return ""
}

// within reports whether all of a, sorted, are in b, sorted, as often.
func within(a, b []int64) bool {
	for _, x := range b {
		if len(a) > 0 && a[0] == x {
			a = a[1:]
		}
	}
	return len(a) == 0
}
