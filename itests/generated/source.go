package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/mtime"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/sdf"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/typex"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/io/rtrackers/offsetrange"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

const urnTestStream = "beam:transform:teststream:v1"

// source is the plan's input, in the way's order and by the way's means.
func (b *builder) source(start beam.PCollection) beam.PCollection {
	in := slices.Clone(b.Input)
	if b.Shuffle {
		chance := rand.New(rand.NewPCG(uint64(b.Seed), 2))
		chance.Shuffle(len(in), func(i, j int) { in[i], in[j] = in[j], in[i] })
	}
	var all beam.PCollection
	switch b.Source {
	case "ranges":
		all = beam.ParDo(b.s, &rangesFn{Input: in, PauseMillis: b.PauseMillis}, start)
	case "resuming":
		all = beam.ParDo(b.s, &resumingFn{Input: in, PauseMillis: b.PauseMillis}, start)
	case "played":
		all = b.played()
	default:
		all = beam.ParDo(b.s, &sourceFn{Input: in}, start)
	}
	if b.Shuffle && b.Source == "" {
		all = beam.Reshuffle(b.s, all)
	}
	return all
}

type sourceFn struct{ Input []input }

func (f *sourceFn) ProcessElement(_ []byte, emit func(beam.EventTime, string, int64)) {
	for _, in := range f.Input {
		emit(mtime.Time(in.At), in.Key, in.Value)
	}
}

// rangesFn is a bounded source that can be split anywhere.
type rangesFn struct {
	Input       []input
	PauseMillis int
}

// CreateInitialRestriction is all of the input.
func (f *rangesFn) CreateInitialRestriction(_ []byte) offsetrange.Restriction {
	return offsetrange.Restriction{End: int64(len(f.Input))}
}

// SplitRestriction is where splits begin.
func (f *rangesFn) SplitRestriction(_ []byte, rest offsetrange.Restriction) []offsetrange.Restriction {
	return split(rest)
}

// split cuts a restriction into two.
func split(rest offsetrange.Restriction) []offsetrange.Restriction {
	if rest.End-rest.Start < 2 {
		return []offsetrange.Restriction{rest}
	}
	return rest.EvenSplits(2)
}

// RestrictionSize counts elements.
func (f *rangesFn) RestrictionSize(_ []byte, rest offsetrange.Restriction) float64 {
	return rest.Size()
}

// CreateTracker is the SDK's own.
func (f *rangesFn) CreateTracker(rest offsetrange.Restriction) *sdf.LockRTracker {
	return sdf.NewLockRTracker(offsetrange.NewTracker(rest))
}

// ProcessElement takes its time, so that there is some for splits.
func (f *rangesFn) ProcessElement(rt *sdf.LockRTracker, _ []byte, emit func(beam.EventTime, string, int64)) {
	for at := rt.GetRestriction().(offsetrange.Restriction).Start; rt.TryClaim(at); at++ {
		in := f.Input[at]
		emit(mtime.Time(in.At), in.Key, in.Value)
		nap(f.PauseMillis)
	}
}

func nap(millis int) { time.Sleep(time.Duration(millis) * time.Millisecond) }

// resumingFn is an unbounded source that gives back what is left after each
// element or two, and tells the watermark.
type resumingFn struct {
	Input       []input
	PauseMillis int
}

// CreateInitialRestriction is all of the input.
func (f *resumingFn) CreateInitialRestriction(_ []byte) offsetrange.Restriction {
	return offsetrange.Restriction{End: int64(len(f.Input))}
}

// SplitRestriction is where splits begin.
func (f *resumingFn) SplitRestriction(_ []byte, rest offsetrange.Restriction) []offsetrange.Restriction {
	return split(rest)
}

// RestrictionSize counts elements.
func (f *resumingFn) RestrictionSize(_ []byte, rest offsetrange.Restriction) float64 {
	return rest.Size()
}

// CreateTracker is the SDK's own.
func (f *resumingFn) CreateTracker(rest offsetrange.Restriction) *sdf.LockRTracker {
	return sdf.NewLockRTracker(offsetrange.NewTracker(rest))
}

// InitialWatermarkEstimatorState is the least time of what the restriction has.
func (f *resumingFn) InitialWatermarkEstimatorState(_ beam.EventTime, rest offsetrange.Restriction, _ []byte) int64 {
	return f.least(rest.Start, rest.End)
}

func (f *resumingFn) least(from, to int64) int64 {
	at := mtime.MaxTimestamp.Milliseconds()
	for _, in := range f.Input[from:to] {
		at = min(at, in.At)
	}
	return at
}

// CreateWatermarkEstimator goes on from where another one was.
func (f *resumingFn) CreateWatermarkEstimator(at int64) *sdf.ManualWatermarkEstimator {
	return &sdf.ManualWatermarkEstimator{State: time.UnixMilli(at)}
}

// WatermarkEstimatorState is where another one goes on from.
func (f *resumingFn) WatermarkEstimatorState(e *sdf.ManualWatermarkEstimator) int64 {
	return e.State.UnixMilli()
}

// ProcessElement does a little.
func (f *resumingFn) ProcessElement(e *sdf.ManualWatermarkEstimator, rt *sdf.LockRTracker, _ []byte, emit func(beam.EventTime, string, int64)) sdf.ProcessContinuation {
	rest := rt.GetRestriction().(offsetrange.Restriction)
	for at := rest.Start; rt.TryClaim(at); at++ {
		in := f.Input[at]
		emit(mtime.Time(in.At), in.Key, in.Value)
		if next := f.least(at+1, rest.End); next < mtime.MaxTimestamp.Milliseconds() {
			e.UpdateWatermark(time.UnixMilli(next))
		}
		nap(f.PauseMillis)
		if at%2 == 0 {
			return sdf.ResumeProcessingIn(0)
		}
	}
	return sdf.StopProcessing()
}

// spreadFn gives N elements for one, and can be split between them.
type spreadFn struct {
	N           int64
	PauseMillis int
}

// CreateInitialRestriction is what to add to the element.
func (f *spreadFn) CreateInitialRestriction(_ string, _ int64) offsetrange.Restriction {
	return offsetrange.Restriction{End: f.N}
}

// SplitRestriction is where splits begin.
func (f *spreadFn) SplitRestriction(_ string, _ int64, rest offsetrange.Restriction) []offsetrange.Restriction {
	return split(rest)
}

// RestrictionSize counts elements.
func (f *spreadFn) RestrictionSize(_ string, _ int64, rest offsetrange.Restriction) float64 {
	return rest.Size()
}

// CreateTracker is the SDK's own.
func (f *spreadFn) CreateTracker(rest offsetrange.Restriction) *sdf.LockRTracker {
	return sdf.NewLockRTracker(offsetrange.NewTracker(rest))
}

// ProcessElement takes its time, so that there is some for splits.
func (f *spreadFn) ProcessElement(rt *sdf.LockRTracker, key string, value int64, emit func(string, int64)) {
	for i := rt.GetRestriction().(offsetrange.Restriction).Start; rt.TryClaim(i); i++ {
		emit(key, value+i)
		nap(f.PauseMillis)
	}
}

// played has a TestStream of two outputs give the input: in about the order of
// its times, and the watermark always as far as what is still to come allows.
func (b *builder) played() beam.PCollection {
	chance := rand.New(rand.NewPCG(uint64(b.Seed), 3))
	in := slices.Clone(b.Input)
	order := make(map[input]int64, len(in))
	for _, x := range in {
		order[x] = x.At + chance.Int64N(20_000)
	}
	slices.SortStableFunc(in, func(a, b input) int { return int(order[a] - order[b]) })
	tags := make([]int, len(in))
	for i := range in {
		tags[i] = chance.IntN(2)
	}
	encoder := beam.NewElementEncoder(stringType.Type())
	pay := &pipepb.TestStreamPayload{}
	told := [2]int64{minTime, minTime}
	for i, x := range in {
		var enc bytes.Buffer
		if err := encoder.Encode(fmt.Sprintf("%s %d", x.Key, x.Value), &enc); err != nil {
			panic(err)
		}
		pay.Events = append(pay.Events, &pipepb.TestStreamPayload_Event{Event: &pipepb.TestStreamPayload_Event_ElementEvent{
			ElementEvent: &pipepb.TestStreamPayload_Event_AddElements{Tag: fmt.Sprint("i", tags[i]), Elements: []*pipepb.TestStreamPayload_TimestampedElement{
				{EncodedElement: enc.Bytes(), Timestamp: x.At},
			}},
		}})
		for tag := range told {
			if chance.IntN(3) > 0 {
				continue // not every time
			}
			least := mtime.MaxTimestamp.Milliseconds()
			for j, y := range in[i+1:] {
				if tags[i+1+j] == tag {
					least = min(least, y.At)
				}
			}
			if least > told[tag] {
				told[tag] = least
				pay.Events = append(pay.Events, &pipepb.TestStreamPayload_Event{Event: &pipepb.TestStreamPayload_Event_WatermarkEvent{
					WatermarkEvent: &pipepb.TestStreamPayload_Event_AdvanceWatermark{Tag: fmt.Sprint("i", tag), NewWatermark: least},
				}})
			}
		}
	}
	payload, err := proto.Marshal(pay)
	if err != nil {
		panic(err)
	}
	outs := beam.External(b.s, urnTestStream, payload, nil, []beam.FullType{stringType, stringType}, false)
	return beam.ParDo(b.s, &parseFn{}, beam.Flatten(b.s, outs[0], outs[1]))
}

var stringType = typex.New(reflect.TypeFor[string]())

// parseFn reads what played wrote.
type parseFn struct{}

func (f *parseFn) ProcessElement(line string) (key string, value int64, err error) {
	_, err = fmt.Sscanf(line, "%s %d", &key, &value)
	return key, value, err
}

// setCoders tells the TestStreams of a pipeline the coder of what they give,
// which the SDK makes last.
func setCoders(p *pipepb.Pipeline) error {
	for _, t := range p.GetComponents().GetTransforms() {
		if t.GetSpec().GetUrn() != urnTestStream {
			continue
		}
		var pay pipepb.TestStreamPayload
		if err := proto.Unmarshal(t.GetSpec().GetPayload(), &pay); err != nil {
			return err
		}
		for _, out := range t.GetOutputs() {
			pay.CoderId = p.GetComponents().GetPcollections()[out].GetCoderId()
		}
		enc, err := proto.Marshal(&pay)
		if err != nil {
			return err
		}
		t.Spec.Payload = enc
	}
	return nil
}
