package records

import (
	"context"
	"fmt"
	"reflect"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/sdf"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/util/reflectx"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/io/rtrackers/offsetrange"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
)

// Types are registered one by one: the SDK's generic registration of a whole
// DoFn takes the compiler minutes. The two that are called for each record or
// key are called without reflection.
func init() {
	beam.RegisterType(reflect.TypeFor[sourceFn]())
	beam.RegisterType(reflect.TypeFor[groupFn]())
	beam.RegisterType(reflect.TypeFor[compareFn]())
	register.Function3x0(pass)
	register.Emitter2[[]byte, []byte]()
	register.Emitter1[Totals]()
	register.Iter1[[]byte]()
	register.Iter1[Totals]()
	reflectx.RegisterStructWrapper(reflect.TypeFor[groupFn](), func(fn any) map[string]reflectx.Func {
		f := fn.(*groupFn)
		return map[string]reflectx.Func{
			"StartBundle":    reflectx.MakeFunc(f.StartBundle),
			"ProcessElement": groupCaller(f.ProcessElement),
			"FinishBundle":   reflectx.MakeFunc(f.FinishBundle),
		}
	})
}

// A groupCaller calls ProcessElement of a groupFn.
type groupCaller func(key []byte, values func(*[]byte) bool, emit func(Totals))

func (c groupCaller) Name() string { return "groupFn.ProcessElement" }

func (c groupCaller) Type() reflect.Type {
	return reflect.TypeFor[func([]byte, func(*[]byte) bool, func(Totals))]()
}

func (c groupCaller) Call(args []any) []any {
	c.Call3x0(args[0], args[1], args[2])
	return nil
}

func (c groupCaller) Call3x0(key, values, emit any) {
	c(key.([]byte), values.(func(*[]byte) bool), emit.(func(Totals)))
}

// Make is the source: pairs of key and value.
func Make(s beam.Scope, c Config) beam.PCollection {
	return beam.ParDo(s, &sourceFn{}, beam.Create(s, c))
}

// Pass hands every pair on as it is. It stands for user code in the middle.
func Pass(s beam.Scope, pairs beam.PCollection) beam.PCollection {
	return beam.ParDo(s, pass, pairs)
}

// Check groups the pairs and fails the job if the groups are not what they
// must be.
func Check(s beam.Scope, c Config, pairs beam.PCollection) {
	totals := beam.ParDo(s, &groupFn{Config: c}, beam.GroupByKey(s, pairs))
	// An impulse, so that the comparison runs even if nothing arrives.
	beam.ParDo0(s, &compareFn{Config: c}, beam.Impulse(s), beam.SideInput{Input: totals})
}

var compared = beam.NewCounter("records", "compared")

// Verify makes sure that the comparison did run.
func Verify(r beam.PipelineResult) error {
	found := r.Metrics().Query(func(m beam.MetricResult) bool { return m.Name() == "compared" }).Counters()
	var n int64
	for _, c := range found {
		n += max(c.Committed, c.Attempted)
	}
	if n != 1 {
		return fmt.Errorf("the totals were compared %d times, want once (%d counters)", n, len(found))
	}
	return nil
}

// sourceFn is splittable at every record.
type sourceFn struct{}

func (*sourceFn) CreateInitialRestriction(c Config) offsetrange.Restriction {
	return offsetrange.Restriction{Start: 0, End: c.Records}
}

func (*sourceFn) SplitRestriction(c Config, r offsetrange.Restriction) []offsetrange.Restriction {
	return r.EvenSplits(c.Splits)
}

func (*sourceFn) RestrictionSize(_ Config, r offsetrange.Restriction) float64 {
	return r.Size() * Bytes
}

func (*sourceFn) CreateTracker(r offsetrange.Restriction) *sdf.LockRTracker {
	return sdf.NewLockRTracker(offsetrange.NewTracker(r))
}

func (*sourceFn) ProcessElement(t *sdf.LockRTracker, c Config, emit func([]byte, []byte)) error {
	for i := t.GetRestriction().(offsetrange.Restriction).Start; t.TryClaim(i); i++ {
		b := make([]byte, Bytes)
		c.fill(b, i)
		emit(b[:KeyBytes:KeyBytes], b[KeyBytes:])
	}
	return t.GetError()
}

func pass(key, value []byte, emit func([]byte, []byte)) { emit(key, value) }

// groupFn adds up the groups of a bundle and emits their totals at its end.
type groupFn struct {
	Config  Config
	totals  Totals
	scratch []byte
}

func (f *groupFn) StartBundle(func(Totals)) {
	f.totals = Totals{}
	f.scratch = make([]byte, Bytes)
}

func (f *groupFn) ProcessElement(key []byte, values func(*[]byte) bool, _ func(Totals)) {
	f.totals.Groups++
	var value []byte
	for values(&value) {
		i, ok := f.Config.number(key, value, f.scratch)
		f.totals.count(i, ok)
	}
}

func (f *groupFn) FinishBundle(emit func(Totals)) { emit(f.totals) }

// compareFn compares all totals with the closed form.
type compareFn struct{ Config Config }

func (f *compareFn) ProcessElement(ctx context.Context, _ []byte, totals func(*Totals) bool) error {
	var got, t Totals
	for totals(&t) {
		got.add(t)
	}
	if want := f.Config.Want(); got != want {
		return fmt.Errorf("grouped records are wrong: got %+v, want %+v", got, want)
	}
	compared.Inc(ctx, 1)
	return nil
}
