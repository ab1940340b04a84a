// Command keys submits a job with many keys, and fails unless each key comes out
// with all that was said of it. It is client and LOOPBACK worker in one.
//
// With -do=group the keys are grouped in the global window, with -do=windows in
// windows of event time that end one after another, and with -do=state each has
// a value state that is read and written with each of its records. The source
// is unbounded, unless -bounded is set: then the same pipeline is one of bounded
// data.
//
// With -do=live the source gives so many records a second, whose time is the
// clock's, and what is printed is how late the panes of windows of a second come,
// counted from the end of their window: the median, and what 99 of 100 are below.
package main

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"reflect"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/mtime"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/sdf"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/state"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/io/rtrackers/offsetrange"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/x/beamx"
)

var (
	count   = flag.Int64("records", 2000, "records")
	keys    = flag.Int64("keys", 1000, "keys; a divisor of the records")
	splits  = flag.Int64("splits", 4, "pieces that the source is cut into")
	do      = flag.String("do", "group", "group, windows, state or live")
	rate    = flag.Int64("rate", 5000, "with -do=live: records a second, a multiple of the keys")
	bounded = flag.Bool("bounded", false, "the source is bounded")
)

func init() {
	for _, t := range []reflect.Type{
		reflect.TypeFor[source](), reflect.TypeFor[boundedSource](), reflect.TypeFor[groupFn](), reflect.TypeFor[stateFn](),
		reflect.TypeFor[liveSource](), reflect.TypeFor[lateFn](),
	} {
		beam.RegisterType(t)
	}
	register.Emitter3[beam.EventTime, int64, []byte]()
	register.Iter1[[]byte]()
}

func main() {
	flag.Parse()
	beam.Init()
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	p, s := beam.NewPipelineWithRoot()
	numbers := numbers{Records: *count, Keys: *keys, Splits: *splits}
	if *do == "live" {
		live(s, numbers)
		return finish(ctx, p)
	}
	var pairs beam.PCollection
	if *bounded {
		pairs = beam.ParDo(s, &boundedSource{numbers}, beam.Impulse(s))
	} else {
		pairs = beam.ParDo(s, &source{numbers}, beam.Impulse(s))
	}
	switch *do {
	case "group":
		beam.ParDo0(s, &groupFn{}, beam.GroupByKey(s, pairs))
	case "windows":
		pairs = beam.WindowInto(s, window.NewFixedWindows(time.Second), pairs)
		beam.ParDo0(s, &groupFn{}, beam.GroupByKey(s, pairs))
	case "state":
		beam.ParDo0(s, &stateFn{Last: *count / *keys - 1, Seen: state.MakeValueState[int64]("seen")}, pairs)
	default:
		return fmt.Errorf("-do=%s is not known", *do)
	}
	return finish(ctx, p)
}

// finish runs the pipeline and looks at what came out.
func finish(ctx context.Context, p *beam.Pipeline) error {
	result, err := beamx.RunWithMetrics(ctx, p)
	if err != nil {
		return err
	}
	if err := verify(result); err != nil || *do != "live" {
		return err
	}
	return tellDelays()
}

var (
	records = beam.NewCounter("keys", "records")
	done    = beam.NewCounter("keys", "done")
)

// verify makes sure that all came out.
func verify(r beam.PipelineResult) error {
	got := map[string]int64{}
	for _, c := range r.Metrics().Query(func(m beam.MetricResult) bool { return m.Namespace() == "keys" }).Counters() {
		got[c.Name()] += max(c.Committed, c.Attempted)
	}
	if got["records"] != *count {
		return fmt.Errorf("%d records came out, want %d", got["records"], *count)
	}
	want := *keys
	switch *do {
	case "windows":
		return nil
	case "live":
		want *= *count / *rate // each key in each second
	}
	if got["done"] != want {
		return fmt.Errorf("%d groups were done, want %d", got["done"], want)
	}
	return nil
}

// numbers are the records: record i has key i modulo the keys, and its time is
// its place in its piece, a millisecond each, so that time goes on alike in all
// pieces.
type numbers struct{ Records, Keys, Splits int64 }

// CreateInitialRestriction is a splittable DoFn's, as are the methods below.
func (n *numbers) CreateInitialRestriction([]byte) offsetrange.Restriction {
	return offsetrange.Restriction{Start: 0, End: n.Records}
}

func (n *numbers) SplitRestriction(_ []byte, r offsetrange.Restriction) []offsetrange.Restriction {
	return r.EvenSplits(n.Splits)
}

func (n *numbers) RestrictionSize(_ []byte, r offsetrange.Restriction) float64 { return r.Size() * 24 }

func (n *numbers) CreateTracker(r offsetrange.Restriction) *sdf.LockRTracker {
	return sdf.NewLockRTracker(offsetrange.NewTracker(r))
}

func (n *numbers) produce(t *sdf.LockRTracker, emit func(beam.EventTime, int64, []byte), told func(time.Time)) {
	var value [16]byte
	piece := max(1, n.Records/n.Splits)
	for i := t.GetRestriction().(offsetrange.Restriction).Start; t.TryClaim(i); i++ {
		at := mtime.Time(i % piece)
		binary.BigEndian.PutUint64(value[:], uint64(i))
		emit(at, i%n.Keys, value[:])
		if i%1000 == 0 && told != nil {
			told(at.ToTime())
		}
	}
}

type source struct{ numbers }

func (f *source) CreateWatermarkEstimator() *sdf.ManualWatermarkEstimator {
	return &sdf.ManualWatermarkEstimator{}
}

func (f *source) ProcessElement(we *sdf.ManualWatermarkEstimator, t *sdf.LockRTracker, _ []byte, emit func(beam.EventTime, int64, []byte)) sdf.ProcessContinuation {
	f.produce(t, emit, we.UpdateWatermark)
	return sdf.StopProcessing()
}

type boundedSource struct{ numbers }

func (f *boundedSource) ProcessElement(t *sdf.LockRTracker, _ []byte, emit func(beam.EventTime, int64, []byte)) {
	f.produce(t, emit, nil)
}

// groupFn counts what is grouped.
type groupFn struct{}

func (f *groupFn) ProcessElement(ctx context.Context, _ int64, values func(*[]byte) bool) {
	var v []byte
	n := int64(0)
	for values(&v) {
		n++
	}
	records.Inc(ctx, n)
	done.Inc(ctx, 1)
}

// stateFn counts the records of each key.
type stateFn struct {
	Last int64
	Seen state.Value[int64]
}

func (f *stateFn) ProcessElement(ctx context.Context, p state.Provider, _ int64, _ []byte) error {
	n, _, err := f.Seen.Read(p)
	if err != nil {
		return err
	}
	records.Inc(ctx, 1)
	if n == f.Last {
		done.Inc(ctx, 1)
	}
	return f.Seen.Write(p, n+1)
}
