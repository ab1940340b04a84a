package main

import (
	"context"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/state"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/timers"
)

func add(a, b int64) int64 { return a + b }

// increase adds to a value.
func increase(p state.Provider, v *state.Value[int64], n int64) error {
	had, _, err := v.Read(p)
	if err != nil {
		return err
	}
	return v.Write(p, had+n)
}

// stateFn gives at the end of each window what groupFn would.
type stateFn struct {
	Kind       string // value, bag, combining
	Sum, Count state.Value[int64]
	Bag        state.Bag[int64]
	Combined   state.Combining[int64, int64, int64]
	End        timers.EventTime
}

func (f *stateFn) ProcessElement(w beam.Window, s state.Provider, t timers.Provider, _ string, value int64, _ func(string, int64)) (err error) {
	f.End.Set(t, w.MaxTimestamp().ToTime())
	switch f.Kind {
	case "bag":
		return f.Bag.Add(s, value)
	case "combining":
		err = f.Combined.Add(s, value)
	default:
		err = increase(s, &f.Sum, value)
	}
	if err != nil {
		return err
	}
	return increase(s, &f.Count, 1)
}

// OnTimer gives the result.
func (f *stateFn) OnTimer(_ context.Context, s state.Provider, _ timers.Provider, key string, _ timers.Context, emit func(string, int64)) error {
	var sum int64
	count, _, err := f.Count.Read(s)
	if err != nil {
		return err
	}
	switch f.Kind {
	case "bag":
		all, _, err := f.Bag.Read(s)
		if err != nil {
			return err
		}
		for _, v := range all {
			sum += v
			count++
		}
	case "combining":
		sum, _, err = f.Combined.Read(s)
	default:
		sum, _, err = f.Sum.Read(s)
	}
	if err != nil {
		return err
	}
	emit(key, mix(sum, count))
	return nil
}

// mapsFn remembers in ways that are told apart by key.
type mapsFn struct {
	Kind       string // map, set, ordered, cleared
	Map        state.Map[int64, int64]
	Set        state.Set[int64]
	List       state.OrderedList[int64]
	Count      state.Value[int64]
	End, Never timers.EventTime
}

func (f *mapsFn) ProcessElement(w beam.Window, s state.Provider, t timers.Provider, _ string, value int64, _ func(string, int64)) error {
	f.End.Set(t, w.MaxTimestamp().ToTime())
	switch f.Kind {
	case "map":
		had, _, err := f.Map.Get(s, value)
		if err != nil {
			return err
		}
		return f.Map.Put(s, value, had+1)
	case "set":
		return f.Set.Add(s, value)
	case "ordered":
		return f.List.Add(s, value, value)
	}
	// What was there before is cleared, and so is the timer.
	f.Never.Set(t, w.MaxTimestamp().ToTime())
	if err := f.Map.Put(s, 100+value, 1); err != nil {
		return err
	}
	if err := f.Map.Clear(s); err != nil {
		return err
	}
	count, _, err := f.Count.Read(s)
	if err != nil {
		return err
	}
	if err := f.Count.Write(s, count+1); err != nil {
		return err
	}
	f.Never.Clear(t)
	return f.Map.Put(s, 0, count+1)
}

// wrong is what no plan comes to.
const wrong = -1 << 40

// OnTimer gives the result.
func (f *mapsFn) OnTimer(_ context.Context, s state.Provider, _ timers.Provider, key string, timer timers.Context, emit func(string, int64)) error {
	if timer.Family == f.Never.Family {
		emit(key, wrong)
		return nil
	}
	var sum, count int64
	switch f.Kind {
	case "set":
		keys, _, err := f.Set.Keys(s)
		if err != nil {
			return err
		}
		for _, k := range keys {
			sum += k
			count++
		}
	case "ordered":
		all, _, err := f.List.ReadRange(s, rangeFrom, rangeTo)
		if err != nil {
			return err
		}
		for _, v := range all {
			sum += v.Value
			count++
		}
	default:
		keys, _, err := f.Map.Keys(s)
		if err != nil {
			return err
		}
		for _, k := range keys {
			n, _, err := f.Map.Get(s, k)
			if err != nil {
				return err
			}
			if f.Kind == "cleared" {
				k = 1
			}
			sum += k * n
			count++
		}
	}
	emit(key, mix(sum, count))
	return nil
}

// timersFn sets timers that are told apart by their tags, or one that sets
// itself again.
type timersFn struct {
	Kind             string // tags, loop
	Tick, Next, Pace state.Value[int64]
	Timer            timers.EventTime
}

func (f *timersFn) ProcessElement(w beam.Window, s state.Provider, t timers.Provider, _ string, value int64, _ func(string, int64)) error {
	if f.Kind == "tags" {
		f.Timer.Set(t, w.MaxTimestamp().ToTime(), timers.WithTag(string(rune('a'+tagOf(value)))))
		return nil
	}
	_, begun, err := f.Pace.Read(s)
	if begun || err != nil {
		return err
	}
	start, end := bounds(w)
	if err := f.Pace.Write(s, pace(end-start)); err != nil {
		return err
	}
	return f.set(s, t, start+pace(end-start))
}

func (f *timersFn) set(s state.Provider, t timers.Provider, at int64) error {
	f.Timer.Set(t, time.UnixMilli(at))
	return f.Next.Write(s, at)
}

// OnTimer tells that a timer has fired.
func (f *timersFn) OnTimer(_ context.Context, s state.Provider, t timers.Provider, key string, timer timers.Context, emit func(string, int64)) error {
	if f.Kind == "tags" {
		emit(key, int64(timer.Tag[0]-'a'))
		return nil
	}
	tick, _, err := f.Tick.Read(s)
	if err != nil {
		return err
	}
	emit(key, tick)
	if tick == ticks-1 {
		return nil
	}
	at, _, err := f.Next.Read(s)
	if err != nil {
		return err
	}
	by, _, err := f.Pace.Read(s)
	if err != nil {
		return err
	}
	if err := f.Tick.Write(s, tick+1); err != nil {
		return err
	}
	return f.set(s, t, at+by)
}
