package itests

import (
	"context"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/state"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/timers"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/testing/teststream"
)

func init() {
	for _, t := range []reflect.Type{reflect.TypeFor[oneFn](), reflect.TypeFor[countFn](), reflect.TypeFor[pickFn](), reflect.TypeFor[besideFn]()} {
		beam.RegisterType(t)
	}
}

// oneFn makes a key of each word.
type oneFn struct{}

func (*oneFn) ProcessElement(word string) (string, int) { return word, 1 }

// countFn counts, and tells at the end of the window.
type countFn struct {
	Count state.Value[int]
	End   timers.EventTime
	Never timers.EventTime // of another family; set and cleared
}

func (f *countFn) ProcessElement(w beam.Window, s state.Provider, t timers.Provider, _ string, n int, _ func(string)) error {
	had, _, err := f.Count.Read(s)
	if err != nil {
		return err
	}
	f.End.Set(t, w.MaxTimestamp().ToTime())
	f.Never.Set(t, w.MaxTimestamp().ToTime())
	f.Never.Clear(t)
	return f.Count.Write(s, had+n)
}

// OnTimer tells the count.
func (f *countFn) OnTimer(_ context.Context, s state.Provider, _ timers.Provider, key string, timer timers.Context, emit func(string)) error {
	n, _, err := f.Count.Read(s)
	emit(fmt.Sprintf("%s of %s: %d", timer.Family, key, n))
	return err
}

// pickFn passes one word on.
type pickFn struct{ Word string }

func (f *pickFn) ProcessElement(word string, emit func(string)) {
	if word == f.Word {
		emit(word)
	}
}

// besideFn tells what stood beside an element.
type besideFn struct{}

func (*besideFn) ProcessElement(word string, side func(*string) bool, emit func(string)) {
	for s := ""; side(&s); {
		word += " beside " + s
	}
	emit(word)
}

// played is a TestStream of words, which come at their times in milliseconds,
// and of watermarks.
func played(t *testing.T, s beam.Scope, events ...func(c *teststream.Config) error) beam.PCollection {
	t.Helper()
	c := teststream.NewConfig()
	for _, e := range events {
		if err := e(&c); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.AdvanceWatermarkToInfinity(); err != nil {
		t.Fatal(err)
	}
	return teststream.Create(s, c)
}

func word(at int64, w string) func(*teststream.Config) error {
	return func(c *teststream.Config) error { return c.AddElements(at, w) }
}

func watermark(at int64) func(*teststream.Config) error {
	return func(c *teststream.Config) error { return c.AdvanceWatermark(at) }
}

// TestTimerAtWatermark sets a timer at the last moment of a window. It fires
// when the watermark has passed that, and not when it is there: there may still
// be elements of that very time. That the DoFn has a second family of timers
// doesn't matter.
func TestTimerAtWatermark(t *testing.T) {
	need(t, "behaviour")
	s := serve(t)
	dir := t.TempDir()
	p := goPipeline(t, goBoot(t, filepath.Join(dir, "pids")), func(s beam.Scope) {
		words := played(t, s, word(5000, "a"), watermark(9999), word(9999, "a"))
		words = beam.WindowInto(s, window.NewFixedWindows(10*time.Second), words)
		gather(s, beam.ParDo(s, &countFn{
			Count: state.MakeValueState[int]("count"), End: timers.InEventTime("end"), Never: timers.InEventTime("never"),
		}, beam.ParDo(s, &oneFn{}, words)), filepath.Join(dir, "out"))
	})
	submit(t, s, "timer-at-watermark", p).mustEnd()
	if got, want := lines(filepath.Join(dir, "out")), []string{"end of a: 2"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestSideInputOfNewWindows puts an element into a window other than that with
// which its stage would begin. It waits for the side input of the new one.
func TestSideInputOfNewWindows(t *testing.T) {
	need(t, "behaviour")
	s := serve(t)
	dir := t.TempDir()
	p := goPipeline(t, goBoot(t, filepath.Join(dir, "pids")), func(s beam.Scope) {
		words := played(t, s, word(1000, "main"), watermark(11_000), word(12_000, "side"))
		side := beam.WindowInto(s, window.NewFixedWindows(10*time.Second), beam.ParDo(s, &pickFn{Word: "side"}, words))
		at := beam.WindowInto(s, window.NewFixedWindows(2*time.Second), beam.ParDo(s, &pickFn{Word: "main"}, words))
		at = beam.WindowInto(s, window.NewFixedWindows(20*time.Second), beam.Reshuffle(s, at))
		gather(s, beam.ParDo(s, &besideFn{}, at, beam.SideInput{Input: side}), filepath.Join(dir, "out"))
	})
	submit(t, s, "side-of-new-windows", p).mustEnd()
	if got, want := lines(filepath.Join(dir, "out")), []string{"main beside side"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
