package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/mtime"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/sdf"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/io/rtrackers/offsetrange"
)

// live is a pipeline whose source gives records as time goes by.
func live(s beam.Scope, n numbers) {
	n.Splits = 1
	pairs := beam.ParDo(s, &liveSource{n, *rate}, beam.Impulse(s))
	pairs = beam.WindowInto(s, window.NewFixedWindows(time.Second), pairs)
	beam.ParDo0(s, &lateFn{*rate / *keys}, beam.GroupByKey(s, pairs))
}

// began is when the first record is made: the beginning of a second. The worker
// is this process, and the only one.
var began = sync.OnceValue(func() time.Time { return time.Now().Truncate(time.Second).Add(time.Second) })

// liveSource gives record i at its time, which is its place by the rate.
type liveSource struct {
	Numbers numbers
	Rate    int64
}

// pollEvery is how often the source looks what is due.
const pollEvery = 10 * time.Millisecond

// CreateInitialRestriction is a splittable DoFn's, as are the methods below.
func (f *liveSource) CreateInitialRestriction(b []byte) offsetrange.Restriction {
	return f.Numbers.CreateInitialRestriction(b)
}

func (f *liveSource) SplitRestriction(b []byte, r offsetrange.Restriction) []offsetrange.Restriction {
	return f.Numbers.SplitRestriction(b, r)
}

func (f *liveSource) RestrictionSize(b []byte, r offsetrange.Restriction) float64 {
	return f.Numbers.RestrictionSize(b, r)
}

func (f *liveSource) CreateTracker(r offsetrange.Restriction) *sdf.LockRTracker {
	return f.Numbers.CreateTracker(r)
}

func (f *liveSource) CreateWatermarkEstimator() *sdf.ManualWatermarkEstimator {
	return &sdf.ManualWatermarkEstimator{}
}

func (f *liveSource) ProcessElement(we *sdf.ManualWatermarkEstimator, t *sdf.LockRTracker, _ []byte, emit func(beam.EventTime, int64, []byte)) sdf.ProcessContinuation {
	var value [16]byte
	from := began()
	at := func(i int64) time.Time { return from.Add(time.Duration(i * int64(time.Second) / f.Rate)) }
	i := t.GetRestriction().(offsetrange.Restriction).Start
	for ; !at(i).After(time.Now()); i++ {
		if !t.TryClaim(i) {
			return sdf.StopProcessing()
		}
		binary.BigEndian.PutUint64(value[:], uint64(i))
		emit(mtime.FromTime(at(i)), i%f.Numbers.Keys, value[:])
	}
	// Nothing before the next record's time will come.
	we.UpdateWatermark(at(i))
	return sdf.ResumeProcessingIn(pollEvery)
}

var (
	delaysMu sync.Mutex
	delays   []time.Duration // of panes, from the ends of their windows
)

// lateFn notes when panes come. Each has Each records.
type lateFn struct{ Each int64 }

func (f *lateFn) ProcessElement(ctx context.Context, w beam.Window, _ int64, values func(*[]byte) bool) error {
	late := time.Since(w.MaxTimestamp().ToTime().Add(time.Millisecond))
	var v []byte
	n := int64(0)
	for values(&v) {
		n++
	}
	if n != f.Each {
		return fmt.Errorf("a pane of window %v has %d records, want %d", w, n, f.Each)
	}
	records.Inc(ctx, n)
	done.Inc(ctx, 1)
	delaysMu.Lock()
	defer delaysMu.Unlock()
	delays = append(delays, late)
	return nil
}

// tellDelays prints the delays of all panes, in milliseconds.
func tellDelays() error {
	delaysMu.Lock()
	defer delaysMu.Unlock()
	if len(delays) == 0 {
		return fmt.Errorf("no pane came")
	}
	slices.Sort(delays)
	at := func(part int) float64 { return float64(delays[(len(delays)-1)*part/100]) / float64(time.Millisecond) }
	fmt.Printf("delays %.3f %.3f %.3f\n", at(50), at(99), at(100))
	return nil
}
