package main

import (
	"github.com/apache/beam/sdks/v2/go/pkg/beam"
)

type mapFn struct {
	Kind string
	Arg  int64
}

func (f *mapFn) ProcessElement(key string, value int64) (string, int64) {
	switch f.Kind {
	case "rekey":
		return rekey(value, f.Arg), value
	case "rekey and times seven":
		return rekey(value, f.Arg), 7 * value
	}
	return key, value + f.Arg
}

// partsFn has an output for even values, to which it adds something, and one for
// odd ones.
type partsFn struct{ Arg int64 }

func (f *partsFn) ProcessElement(key string, value int64, even, odd func(string, int64)) {
	if value%2 == 0 {
		even(key, value+f.Arg)
	} else {
		odd(key, value)
	}
}

type groupFn struct{}

func (f *groupFn) ProcessElement(key string, values func(*int64) bool) (string, int64) {
	sum, count := total(values)
	return key, mix(sum, count)
}

func total(values func(*int64) bool) (sum, count int64) {
	for v := int64(0); values(&v); count++ {
		sum += v
	}
	return sum, count
}

type cogroupFn struct{}

func (f *cogroupFn) ProcessElement(key string, a, b func(*int64) bool) (string, int64) {
	sumA, countA := total(a)
	sumB, countB := total(b)
	return key, mix(sumA+sumB, countA+countB)
}

// meanFn combines what groupFn would be given to what it would give.
type meanFn struct{}

// A tally is meanFn's accumulator.
type tally struct{ Sum, Count int64 }

func (f *meanFn) CreateAccumulator() tally { return tally{} }

func (f *meanFn) AddInput(t tally, value int64) tally { return tally{t.Sum + value, t.Count + 1} }

func (f *meanFn) MergeAccumulators(a, b tally) tally { return tally{a.Sum + b.Sum, a.Count + b.Count} }

func (f *meanFn) ExtractOutput(t tally) int64 { return mix(t.Sum, t.Count) }

type valueFn struct{}

func (f *valueFn) ProcessElement(_ string, value int64) int64 { return value }

type sideIterFn struct{}

func (f *sideIterFn) ProcessElement(key string, value int64, side func(*int64) bool) (string, int64) {
	sum, _ := total(side)
	return key, value + sum
}

type sideSliceFn struct{}

func (f *sideSliceFn) ProcessElement(key string, value int64, side []int64) (string, int64) {
	for _, v := range side {
		value += v
	}
	return key, value
}

// sideReIterFn reads the side input three times, and counts it once.
type sideReIterFn struct{}

func (f *sideReIterFn) ProcessElement(key string, value int64, side func() func(*int64) bool) (string, int64) {
	once, _ := total(side())
	twice, _ := total(side())
	again, _ := total(side())
	return key, value + once + twice - again
}

type sideMapFn struct{}

func (f *sideMapFn) ProcessElement(key string, value int64, side func(string) func(*int64) bool) (string, int64) {
	sum, _ := total(side(lookUp(value)))
	return key, value + sum
}

type sideSingleFn struct{}

func (f *sideSingleFn) ProcessElement(key string, value, side int64) (string, int64) {
	return key, value + side
}

// textFn writes elements as rows do.
type textFn struct{ Plan string }

func (f *textFn) ProcessElement(w beam.Window, at beam.EventTime, key string, value int64) (string, string) {
	return f.Plan, text(key, value, at.Milliseconds(), w.MaxTimestamp().Milliseconds()+1)
}
