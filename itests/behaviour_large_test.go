package itests

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/sdf"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/state"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/timers"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/io/rtrackers/offsetrange"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
)

func init() {
	for _, t := range []reflect.Type{
		reflect.TypeFor[largeKeyFn](), reflect.TypeFor[largeSumFn](), reflect.TypeFor[longestFn](), reflect.TypeFor[largeStateFn](),
		reflect.TypeFor[largeSideFn](), reflect.TypeFor[largeLookUpFn](), reflect.TypeFor[largeRangesFn](), reflect.TypeFor[largeSingleFn](),
	} {
		beam.RegisterType(t)
	}
	register.Emitter1[string]()
}

// said tells a blob's number and size, or that it was damaged.
func said(b []byte) string {
	if i := bytes.IndexByte(b, ':'); i > 0 {
		if n, err := strconv.Atoi(string(b[:i])); err == nil && bytes.Equal(b, blob(n, len(b))) {
			return fmt.Sprintf("%d of %d bytes", n, len(b))
		}
	}
	return "damaged"
}

// largeKeyFn makes a blob a key, of itself or of its size.
type largeKeyFn struct{ Both bool }

func (f *largeKeyFn) ProcessElement(b []byte) (string, []byte) {
	if f.Both {
		return string(b), b
	}
	return string(b), []byte{1}
}

type largeSumFn struct{}

func (*largeSumFn) ProcessElement(key string, values func(*[]byte) bool) string {
	n := 0
	for v := []byte(nil); values(&v); {
		n += len(v)
	}
	return fmt.Sprintf("key %s: %d", said([]byte(key)), n)
}

// longestFn combines to the longest, whose accumulators are large.
type longestFn struct{}

func (*longestFn) MergeAccumulators(a, b []byte) []byte {
	if len(a) > len(b) || len(a) == len(b) && bytes.Compare(a, b) < 0 {
		return a
	}
	return b
}

// largeStateFn keeps large values under large keys, and gives them at the end.
type largeStateFn struct {
	Bag   state.Bag[[]byte]
	Value state.Value[[]byte]
	Map   state.Map[string, []byte]
	End   timers.EventTime
}

func (f *largeStateFn) ProcessElement(w beam.Window, s state.Provider, t timers.Provider, key string, b []byte, _ func(string)) error {
	if err := f.Bag.Add(s, b); err != nil {
		return err
	}
	if err := f.Value.Write(s, b); err != nil {
		return err
	}
	f.End.Set(t, w.MaxTimestamp().ToTime())
	return f.Map.Put(s, key, b)
}

// OnTimer tells what is kept.
func (f *largeStateFn) OnTimer(_ context.Context, s state.Provider, _ timers.Provider, key string, _ timers.Context, emit func(string)) error {
	bag, _, err := f.Bag.Read(s)
	if err != nil {
		return err
	}
	value, _, err := f.Value.Read(s)
	if err != nil {
		return err
	}
	entry, _, err := f.Map.Get(s, key)
	if err != nil {
		return err
	}
	for _, b := range bag {
		emit(fmt.Sprintf("state of %s: %s, %s, %s", said([]byte(key)), said(b), said(value), said(entry)))
	}
	return nil
}

type largeSideFn struct{}

func (*largeSideFn) ProcessElement(_ []byte, side func(*[]byte) bool, emit func(string)) {
	for b := []byte(nil); side(&b); {
		emit("side " + said(b))
	}
}

type largeSingleFn struct{}

func (*largeSingleFn) ProcessElement(_ []byte, side []byte) string { return "longest " + said(side) }

// largeLookUpFn looks a blob up by itself.
type largeLookUpFn struct{}

func (*largeLookUpFn) ProcessElement(b []byte, side func(string) func(*[]byte) bool, emit func(string)) {
	values := side(string(b))
	for v := []byte(nil); values(&v); {
		emit("looked up " + said(v))
	}
}

// largeRangesFn is a splittable function of large elements.
type largeRangesFn struct{}

func (*largeRangesFn) CreateInitialRestriction(_ []byte) offsetrange.Restriction {
	return offsetrange.Restriction{End: 2}
}

func (*largeRangesFn) SplitRestriction(_ []byte, rest offsetrange.Restriction) []offsetrange.Restriction {
	return rest.EvenSplits(2)
}

func (*largeRangesFn) RestrictionSize(_ []byte, rest offsetrange.Restriction) float64 {
	return rest.Size()
}

func (*largeRangesFn) CreateTracker(rest offsetrange.Restriction) *sdf.LockRTracker {
	return sdf.NewLockRTracker(offsetrange.NewTracker(rest))
}

func (*largeRangesFn) ProcessElement(rt *sdf.LockRTracker, b []byte, emit func(string)) {
	for i := rt.GetRestriction().(offsetrange.Restriction).Start; rt.TryClaim(i); i++ {
		emit(fmt.Sprintf("part %d of %s", i, said(b)))
	}
}

// TestLargeRecords has keys, values, state, timers, side inputs, accumulators
// and restrictions of more than ten megabytes, which is beyond what gRPC and
// buffers take if nobody tells them to.
func TestLargeRecords(t *testing.T) {
	need(t, "behaviour")
	const size = 11 << 20
	want := []string{fmt.Sprintf("longest 0 of %d bytes", size)}
	for n := range 2 {
		is := fmt.Sprintf("%d of %d bytes", n, size)
		want = append(want, "key "+is+": 1", fmt.Sprintf("state of %s: %s, %s, %s", is, is, is, is),
			"side "+is, "looked up "+is, "part 0 of "+is, "part 1 of "+is)
	}
	slices.Sort(want)
	s := serve(t, "--memory=1GiB")
	for name, option := range map[string]string{"batch": "streaming=false", "streaming": "streaming=true"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			p := goPipeline(t, goBoot(t, filepath.Join(dir, "pids")), func(s beam.Scope) {
				start := beam.Impulse(s)
				blobs := beam.Reshuffle(s, beam.ParDo(s, &blobsFn{N: 2, Size: size}, start))
				itself := beam.ParDo(s, &largeKeyFn{Both: true}, blobs)
				gather(s, beam.Flatten(s,
					beam.ParDo(s, &largeSumFn{}, beam.GroupByKey(s, beam.ParDo(s, &largeKeyFn{}, blobs))),
					beam.ParDo(s, &largeStateFn{
						Bag: state.MakeBagState[[]byte]("bag"), Value: state.MakeValueState[[]byte]("value"),
						Map: state.MakeMapState[string, []byte]("map"), End: timers.InEventTime("end"),
					}, itself),
					beam.ParDo(s, &largeSideFn{}, start, beam.SideInput{Input: blobs}),
					beam.ParDo(s, &largeSingleFn{}, start, beam.SideInput{Input: beam.Combine(s, &longestFn{}, blobs)}),
					beam.ParDo(s, &largeLookUpFn{}, blobs, beam.SideInput{Input: itself}),
					beam.ParDo(s, &largeRangesFn{}, blobs),
				), filepath.Join(dir, "out"))
			})
			j := submit(t, s, "large-records-"+name, p, option)
			eventually(t, 4*time.Minute, "a job of large records ends", func() bool { return slices.Contains([]string{"DONE", "FAILED"}, j.shown().State) })
			j.mustEnd()
			if got := lines(filepath.Join(dir, "out")); !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}
