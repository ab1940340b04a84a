package main

import (
	"context"
	"reflect"
	"sync"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/mtime"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/state"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/timers"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/transforms/stats"
)

func init() {
	beam.RegisterType(reflect.TypeFor[sourceFn]())
	beam.RegisterType(reflect.TypeFor[mapFn]())
	beam.RegisterType(reflect.TypeFor[groupFn]())
	beam.RegisterType(reflect.TypeFor[valueFn]())
	beam.RegisterType(reflect.TypeFor[sideFn]())
	beam.RegisterType(reflect.TypeFor[stateFn]())
	beam.RegisterType(reflect.TypeFor[sinkFn]())
	register.Emitter3[beam.EventTime, string, int64]()
	register.Emitter2[string, int64]()
	register.Emitter1[int64]()
	register.Iter1[int64]()
}

// build makes the pipeline; what comes out goes to the results of that name.
func (p plan) build(name string) *beam.Pipeline {
	pipeline, s := beam.NewPipelineWithRoot()
	source := beam.ParDo(s, &sourceFn{Input: p.Input}, beam.Impulse(s))
	at := beam.WindowInto(s, p.In.fn(), source)
	for _, st := range p.Steps {
		at = p.apply(s, st, source, at)
	}
	beam.ParDo0(s, &sinkFn{Name: name}, at)
	return pipeline
}

func (p plan) apply(s beam.Scope, st step, source, at beam.PCollection) beam.PCollection {
	switch st.Kind {
	case "window":
		return beam.WindowInto(s, st.To.fn(), at)
	case "sum":
		return stats.SumPerKey(s, at)
	case "group":
		return beam.ParDo(s, &groupFn{}, beam.GroupByKey(s, at))
	case "flatten":
		return beam.Flatten(s, at, beam.ParDo(s, &mapFn{Kind: "add", Arg: st.Arg}, at))
	case "side":
		side := beam.ParDo(s, &valueFn{}, beam.WindowInto(s, sideWindowing(st).fn(), source))
		return beam.ParDo(s, &sideFn{}, at, beam.SideInput{Input: side})
	case "state":
		return beam.ParDo(s, &stateFn{
			Sum: state.MakeValueState[int64]("sum"), Count: state.MakeValueState[int64]("count"), End: timers.InEventTime("end"),
		}, at)
	}
	return beam.ParDo(s, &mapFn{Kind: st.Kind, Arg: st.Arg}, at)
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

type sourceFn struct{ Input []input }

func (f *sourceFn) ProcessElement(_ []byte, emit func(beam.EventTime, string, int64)) {
	for _, in := range f.Input {
		emit(mtime.Time(in.At), in.Key, in.Value)
	}
}

type mapFn struct {
	Kind string
	Arg  int64
}

func (f *mapFn) ProcessElement(key string, value int64) (string, int64) {
	if f.Kind == "rekey" {
		return rekey(value, f.Arg), value
	}
	return key, value + f.Arg
}

type groupFn struct{}

func (f *groupFn) ProcessElement(key string, values func(*int64) bool) (string, int64) {
	var v, sum, count int64
	for values(&v) {
		sum += v
		count++
	}
	return key, mix(sum, count)
}

type valueFn struct{}

func (f *valueFn) ProcessElement(_ string, value int64) int64 { return value }

type sideFn struct{}

func (f *sideFn) ProcessElement(key string, value int64, side func(*int64) bool) (string, int64) {
	var v int64
	for side(&v) {
		value += v
	}
	return key, value
}

// stateFn gives at the end of each window what groupFn would.
type stateFn struct {
	Sum, Count state.Value[int64]
	End        timers.EventTime
}

func (f *stateFn) ProcessElement(w beam.Window, s state.Provider, t timers.Provider, _ string, value int64, _ func(string, int64)) error {
	for _, add := range []struct {
		to state.Value[int64]
		n  int64
	}{{f.Sum, value}, {f.Count, 1}} {
		had, _, err := add.to.Read(s)
		if err != nil {
			return err
		}
		if err := add.to.Write(s, had+add.n); err != nil {
			return err
		}
	}
	f.End.Set(t, w.MaxTimestamp().ToTime())
	return nil
}

// OnTimer gives the result.
func (f *stateFn) OnTimer(_ context.Context, s state.Provider, _ timers.Provider, key string, _ timers.Context, emit func(string, int64)) error {
	sum, _, err := f.Sum.Read(s)
	if err != nil {
		return err
	}
	count, _, err := f.Count.Read(s)
	if err != nil {
		return err
	}
	emit(key, mix(sum, count))
	return nil
}

// results are what the sinks were given, by name: workers are in this process.
var results struct {
	sync.Mutex
	of map[string]rows
}

type sinkFn struct{ Name string }

func (f *sinkFn) ProcessElement(w beam.Window, key string, value int64) {
	results.Lock()
	defer results.Unlock()
	results.of[f.Name] = append(results.of[f.Name], row{Key: key, Value: value, end: int64(w.MaxTimestamp()) + 1})
}
