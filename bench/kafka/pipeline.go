package main

import (
	"context"
	"fmt"
	"reflect"
	"time"

	"trestle/transforms/kafka"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/transforms/stats"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/x/beamx"
)

func init() {
	for _, t := range []reflect.Type{reflect.TypeFor[countFn](), reflect.TypeFor[addFn]()} {
		beam.RegisterType(t)
	}
	register.Function2x1(shortKey)
}

// What came out. Counters of a bundle that was tried twice count once.
var (
	recordsSeen = beam.NewCounter("replay", "records")
	countsSeen  = beam.NewCounter("replay", "counts")
)

// runAndVerify runs a pipeline and sees that it has seen every record.
func runAndVerify(ctx context.Context, p *beam.Pipeline) error {
	result, err := beamx.RunWithMetrics(ctx, p)
	if err != nil {
		return err
	}
	got := map[string]int64{}
	for _, c := range result.Metrics().Query(func(m beam.MetricResult) bool { return m.Namespace() == "replay" }).Counters() {
		got[c.Name()] += max(c.Committed, c.Attempted)
	}
	if *way == "windows" && got["counts"] < 1 {
		return fmt.Errorf("%d counts came out", got["counts"])
	}
	return mustBe("records", got["records"], *records)
}

// countFn counts records, a bundle at a time.
type countFn struct{ n int64 }

func (f *countFn) ProcessElement(_, _ []byte) { f.n++ }

// FinishBundle is Beam's.
func (f *countFn) FinishBundle(ctx context.Context) {
	recordsSeen.Inc(ctx, f.n)
	f.n = 0
}

// count is a pipeline that only counts.
func count(ctx context.Context, s kafka.Source) error {
	p, scope := beam.NewPipelineWithRoot()
	beam.ParDo0(scope, &countFn{}, kafka.Replay{Source: s}.Pairs(scope))
	return runAndVerify(ctx, p)
}

// shortKey leaves the last four digits of a key: 10,000 different ones.
func shortKey(key, _ []byte) string { return string(key[max(0, len(key)-4):]) }

// windowSize is of event time: producers write for some seconds.
const windowSize = 5 * time.Second

// windows is a pipeline that counts by key and window of the records' own time.
func windows(ctx context.Context, s kafka.Source) error {
	p, scope := beam.NewPipelineWithRoot()
	keys := beam.ParDo(scope, shortKey, kafka.Replay{Source: s}.Pairs(scope))
	counts := stats.Count(scope, beam.WindowInto(scope, window.NewFixedWindows(windowSize), keys))
	beam.ParDo0(scope, &addFn{}, counts)
	return runAndVerify(ctx, p)
}

// addFn adds counts, a bundle at a time.
type addFn struct{ counts, records int64 }

func (f *addFn) ProcessElement(_ string, n int) {
	f.counts++
	f.records += int64(n)
}

// FinishBundle is Beam's.
func (f *addFn) FinishBundle(ctx context.Context) {
	countsSeen.Inc(ctx, f.counts)
	recordsSeen.Inc(ctx, f.records)
	f.counts, f.records = 0, 0
}
