package main

import (
	"fmt"
	"reflect"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/state"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/timers"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/transforms/stats"
)

func init() {
	for _, t := range []reflect.Type{
		reflect.TypeFor[sourceFn](), reflect.TypeFor[rangesFn](), reflect.TypeFor[resumingFn](), reflect.TypeFor[parseFn](),
		reflect.TypeFor[mapFn](), reflect.TypeFor[partsFn](), reflect.TypeFor[spreadFn](),
		reflect.TypeFor[groupFn](), reflect.TypeFor[cogroupFn](), reflect.TypeFor[meanFn](), reflect.TypeFor[tally](),
		reflect.TypeFor[valueFn](), reflect.TypeFor[sideIterFn](), reflect.TypeFor[sideSliceFn](), reflect.TypeFor[sideReIterFn](),
		reflect.TypeFor[sideMapFn](), reflect.TypeFor[sideSingleFn](),
		reflect.TypeFor[stateFn](), reflect.TypeFor[mapsFn](), reflect.TypeFor[timersFn](),
		reflect.TypeFor[bombFn](), reflect.TypeFor[textFn](), reflect.TypeFor[paneFn](), reflect.TypeFor[putFn](),
	} {
		beam.RegisterType(t)
	}
	beam.RegisterFunction(add)
	register.Emitter3[beam.EventTime, string, int64]()
	register.Emitter2[string, int64]()
	register.Emitter2[string, string]()
	register.Emitter1[int64]()
	register.Iter1[int64]()
	register.Iter1[string]()
}

// build makes the pipeline of several plans. What comes out of each goes to the
// collector, under the job's name and the plan's seed.
func build(plans []plan, w way, job string, c *collector) *beam.Pipeline {
	pipeline, s := beam.NewPipelineWithRoot()
	start := beam.Impulse(s)
	var all []beam.PCollection
	for i, p := range plans {
		b := builder{plan: p, way: w, job: job, address: c.address, s: s.Scope(fmt.Sprint("seed ", p.Seed)), bomb: -1}
		if w.Kill && (i%3 == 0 || len(plans) == 1) { // of more than die, as some bombs see no element
			b.bomb = int(p.Seed) % (len(p.Steps) + 1)
		}
		all = append(all, beam.WindowInto(b.s, window.NewGlobalWindows(), b.build(start)))
	}
	beam.ParDo0(s, &putFn{Job: job, Address: c.address}, beam.GroupByKey(s, beam.Flatten(s, all...)))
	return pipeline
}

// A builder makes a plan's part of a pipeline.
type builder struct {
	plan
	way
	job, address string
	s            beam.Scope
	bomb         int // the step before which a worker dies; -1: none
}

// build gives the lines of text that come of the plan, with its seed as the key.
func (b *builder) build(start beam.PCollection) beam.PCollection {
	source := b.source(start)
	at := into(b.s, b.In, source)
	for i, st := range b.Steps {
		at = b.apply(b.explosive(at, i), st, source)
	}
	at = b.explosive(at, len(b.Steps))
	if b.Fire != nil {
		return b.fire(at)
	}
	return beam.ParDo(b.s, &textFn{Plan: fmt.Sprint(b.Seed)}, at)
}

func (b *builder) explosive(at beam.PCollection, step int) beam.PCollection {
	if b.bomb != step {
		return at
	}
	return beam.ParDo(b.s, &bombFn{Job: b.job, Address: b.address}, at)
}

func (b *builder) apply(at beam.PCollection, st step, source beam.PCollection) beam.PCollection {
	s := b.s
	switch st.Kind {
	case "window":
		return into(s, st.To, at)
	case "reshuffle":
		return beam.Reshuffle(s, at)
	case "sum":
		return stats.SumPerKey(s, at)
	case "mean":
		return beam.CombinePerKey(s, &meanFn{}, at)
	case "group":
		return beam.ParDo(s, &groupFn{}, beam.GroupByKey(s, at))
	case "cogroup":
		other := beam.ParDo(s, &mapFn{Kind: "rekey and times seven", Arg: st.Arg}, at)
		return beam.ParDo(s, &cogroupFn{}, beam.CoGroupByKey(s, at, other))
	case "flatten":
		return beam.Flatten(s, at, beam.ParDo(s, &mapFn{Kind: "add", Arg: st.Arg}, at))
	case "parts":
		even, odd := beam.ParDo2(s, &partsFn{Arg: st.Arg}, at)
		return beam.Flatten(s, even, odd)
	case "spread":
		return beam.ParDo(s, &spreadFn{N: st.Arg, PauseMillis: b.PauseMillis}, at)
	case "side":
		return b.side(at, st, source)
	case "value", "bag", "combining":
		return beam.ParDo(s, &stateFn{
			Kind: st.Kind, Sum: state.MakeValueState[int64]("sum"), Count: state.MakeValueState[int64]("count"),
			Bag: state.MakeBagState[int64]("bag"), Combined: state.MakeCombiningState[int64, int64, int64]("combined", add),
			End: timers.InEventTime("end"),
		}, at)
	case "map", "set", "ordered", "cleared":
		return beam.ParDo(s, &mapsFn{
			Kind: st.Kind, Map: state.MakeMapState[int64, int64]("map"), Set: state.MakeSetState[int64]("set"),
			List: state.MakeOrderedListState[int64]("list"), Count: state.MakeValueState[int64]("count"),
			End: timers.InEventTime("end"), Never: timers.InEventTime("never"),
		}, at)
	case "tags", "loop":
		return beam.ParDo(s, &timersFn{
			Kind: st.Kind, Tick: state.MakeValueState[int64]("tick"), Next: state.MakeValueState[int64]("next"), Pace: state.MakeValueState[int64]("pace"),
			Timer: timers.InEventTime("timer"),
		}, at)
	}
	return beam.ParDo(s, &mapFn{Kind: st.Kind, Arg: st.Arg}, at)
}

func (b *builder) side(at beam.PCollection, st step, source beam.PCollection) beam.PCollection {
	s := b.s
	side := into(s, sideWindowing(st), source)
	if st.View == "map" {
		return beam.ParDo(s, &sideMapFn{}, at, beam.SideInput{Input: side})
	}
	side = beam.ParDo(s, &valueFn{}, side)
	switch st.View {
	case "slice":
		return beam.ParDo(s, &sideSliceFn{}, at, beam.SideInput{Input: side})
	case "reiter":
		return beam.ParDo(s, &sideReIterFn{}, at, beam.SideInput{Input: side})
	case "single":
		return beam.ParDo(s, &sideSingleFn{}, at, beam.SideInput{Input: stats.Sum(s, side)})
	}
	return beam.ParDo(s, &sideIterFn{}, at, beam.SideInput{Input: side})
}

// into puts elements into windows.
func into(s beam.Scope, w windowing, at beam.PCollection, more ...beam.WindowIntoOption) beam.PCollection {
	if w.Lateness > 0 {
		more = append(more, beam.AllowedLateness(time.Duration(w.Lateness)*time.Millisecond))
	}
	return beam.WindowInto(s, w.fn(), at, more...)
}

func (w windowing) fn() *window.Fn {
	millis := func(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
	switch w.Kind {
	case "fixed":
		return window.NewFixedWindows(millis(w.Size))
	case "sliding":
		return window.NewSlidingWindows(millis(w.Period), millis(w.Size))
	case "sessions":
		return window.NewSessions(millis(w.Size))
	}
	return window.NewGlobalWindows()
}
