package kafka

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/mtime"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/sdf"
)

func init() {
	beam.RegisterType(reflect.TypeFor[livePairsFn]())
	beam.RegisterType(reflect.TypeFor[liveMessagesFn]())
	beam.RegisterType(reflect.TypeFor[liveBytesRowsFn]())
	beam.RegisterType(reflect.TypeFor[liveTextRowsFn]())
	beam.RegisterType(reflect.TypeFor[liveJSONRowsFn]())
	beam.RegisterType(reflect.TypeFor[Estimate]())
}

// Live is an unbounded read of a source: of what its topics hold from some place
// on, and of what comes. The partitions are those that there are when the job
// starts.
type Live struct {
	// Source says where reading starts, and has no Stop and no MaxRecords. If Start
	// says nothing of a partition, its Group does, and else its Reset.
	Source Source `json:"source"`
	// Policy's Stamp is ByCreate if empty.
	Policy
	// Commit tells the group's coordinator how far the partitions have been read,
	// when the bundles that did so have been committed.
	Commit bool `json:"commit,omitempty"`
}

// Pairs reads keys and values as bytes. Null ones are empty: who must tell them
// apart reads Messages.
func (l Live) Pairs(s beam.Scope) beam.PCollection {
	return l.pairs(s.Scope("kafka.LivePairs"), Format{}, false)
}

// Messages reads records with all that Kafka knows of them.
func (l Live) Messages(s beam.Scope) beam.PCollection {
	s = s.Scope("kafka.LiveMessages")
	return beam.ParDo(s, &liveMessagesFn{l.reader()}, l.pieces(s))
}

func (l Live) pairs(s beam.Scope, f Format, nulls bool) beam.PCollection {
	how := pairing{Format: f, Nulls: nulls}
	return beam.ParDo(s, &livePairsFn{liveReader: l.reader(), pairing: how}, l.pieces(s), how.types()...)
}

func (l Live) bytesRows(s beam.Scope) beam.PCollection {
	return beam.ParDo(s, &liveBytesRowsFn{l.reader()}, l.pieces(s))
}

func (l Live) textRows(s beam.Scope) beam.PCollection {
	return beam.ParDo(s, &liveTextRowsFn{l.reader()}, l.pieces(s))
}

func (l Live) jsonRows(s beam.Scope, text string, t reflect.Type) beam.PCollection {
	fn := &liveJSONRowsFn{liveReader: l.reader(), jsonReading: jsonReading{Schema: text}}
	return beam.ParDo(s, fn, l.pieces(s), beam.TypeDefinition{Var: beam.TType, T: t})
}

// reader is what the DoFns need of it.
func (l Live) reader() liveReader {
	r := liveReader{dialler: l.Source.dialler(), Policy: l.Policy}
	if r.Stamp == "" {
		r.Stamp = ByCreate
	}
	if l.Commit {
		r.Group = l.Source.Group
	}
	return r
}

// pieces spreads the partitions over the workers.
func (l Live) pieces(s beam.Scope) beam.PCollection {
	fn := &resolveFn{Live: &l}
	fn.Annotations = map[string][]byte{annotationBound: describe(unendingSource{l, true})}
	return fn.pieces(s)
}

// A liveReader is what the splittable DoFns of a live reading have in common: a
// partition is an element, and each call reads a slice of it.
//
// What is left of a partition is given out again when the bundle that read up to
// there is committed. That is when the group is told: what a reading starts with
// has been read. (The Go SDK's own bundle finalization forgets the callbacks of
// all bundles of a plan but the first. See docs/decisions/0012.)
type liveReader struct {
	dialler
	Policy
	Group string // that is told how far partitions have been read; none if empty

	commitLeft time.Duration // that telling the group may take of the bundle
}

// CreateInitialRestriction is all of a partition.
func (f *liveReader) CreateInitialRestriction(p Piece) Restriction {
	return Restriction{Start: p.Start, End: p.End}
}

// SplitRestriction leaves it whole: a partition is read in order.
func (f *liveReader) SplitRestriction(_ Piece, r Restriction) []Restriction { return []Restriction{r} }

// RestrictionSize is the same for all: nobody knows what will come.
func (f *liveReader) RestrictionSize(_ Piece, r Restriction) float64 {
	return float64(min(max(r.End-r.Start, 0), 1))
}

// CreateTracker begins to read.
func (f *liveReader) CreateTracker(r Restriction) *tracker { return newTracker(r) }

// TruncateRestriction ends the reading where it is: a job that drains reads no
// more.
func (f *liveReader) TruncateRestriction(rt *tracker, _ Piece) Restriction {
	r := rt.GetRestriction().(Restriction)
	if r.End == unending {
		r.End = r.Start
	}
	return r
}

// InitialWatermarkEstimatorState knows nothing yet.
func (f *liveReader) InitialWatermarkEstimatorState(beam.EventTime, Restriction, Piece) Estimate {
	return Estimate{At: mtime.MinTimestamp.Milliseconds()}
}

// CreateWatermarkEstimator goes on with an estimate.
func (f *liveReader) CreateWatermarkEstimator(e Estimate) *estimator { return newEstimator(e) }

// WatermarkEstimatorState is what is known by now.
func (f *liveReader) WatermarkEstimatorState(e *estimator) Estimate { return e.state() }

const (
	// soon is the pause after a slice that left something over: the others of the
	// task come first, and this one at once.
	soon = time.Millisecond
	// pollEvery is the pause before a partition is looked at again that had
	// nothing more, and retryEvery before one that could not be read.
	pollEvery  = 100 * time.Millisecond
	retryEvery = time.Second
)

// read gives the records of one slice.
func (f *liveReader) read(ctx context.Context, e *estimator, rt *tracker, p Piece, give taker) (sdf.ProcessContinuation, error) {
	rest := rt.GetRestriction().(Restriction)
	if err := f.committed(ctx, p, rest); err != nil {
		return nil, fmt.Errorf("kafka: %s: %w", partitionName(p.Topic, p.Partition), err)
	}
	f.seen(e, rest.Seen, time.Now().UnixMilli())
	s := liveSpan(f.client, f.How, p, rest)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	pages := make(chan page, pagesAhead)
	failed := make(chan error, 1)
	go func() { failed <- s.runLive(ctx, pages) }()
	var err error
	some, going := false, true
	for pg := range pages {
		if !going {
			continue // see what is under way to its end
		}
		var n int
		rt.reaches(pg.limit)
		to := rt.claimAll(pg.next, pg.newest())
		n, err = f.page(e, pg, to, give)
		some = some || n > 0
		if going = err == nil && to == pg.next; !going {
			stop()
		}
	}
	stop()
	ended := <-failed
	switch {
	case err != nil:
	case !going || rt.IsDone():
		return sdf.StopProcessing(), nil
	case ended != nil:
		err = ended
	case s.live.failing != nil:
		err = f.failing(p, s.live.failing)
	default:
		outages.over(f.place(p))
		f.rest(e, some, s.live.caughtUp, s.live.asked.UnixMilli())
		if s.live.caughtUp || s.position == rest.Start { // what there is may be a transaction's that is open
			return sdf.ResumeProcessingIn(pollEvery), nil
		}
		return sdf.ResumeProcessingIn(soon), nil
	}
	if err != nil {
		return nil, fmt.Errorf("kafka: %s: %w", partitionName(p.Topic, p.Partition), err)
	}
	return sdf.ResumeProcessingIn(retryEvery), nil
}

// newest is the greatest time of a page's records, 0 if it has none.
func (pg *page) newest() (at int64) {
	for i := range pg.batches {
		at = max(at, pg.batches[i].maxTime)
	}
	return at
}

// page gives a page's records before to, and counts them.
func (f *liveReader) page(e *estimator, pg page, to int64, give taker) (n int, err error) {
	now := time.Now().UnixMilli()
	for i := range pg.batches {
		err := pg.batches[i].each(func(r *Record) error {
			if r.Offset < pg.from || r.Offset >= to {
				return nil
			}
			n++
			at, err := f.stamp(e, r, now)
			if err != nil {
				return err
			}
			return give(mtime.FromMilliseconds(at), r)
		})
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// failing notes that a partition could not be read. It is an error when that has
// been so for longer than the connection's patience.
func (f *liveReader) failing(p Piece, err error) error {
	if since := outages.lasts(f.place(p), f.client.oneCall); since > f.client.patience {
		return fmt.Errorf("still failing after %s: %w", f.client.patience, explain(err, f.client.servers))
	}
	return nil
}

func (f *liveReader) place(p Piece) place {
	return place{servers: strings.Join(f.How.Connection.Servers, ","), topic: p.Topic, partition: p.Partition}
}

// livePairsFn reads keys and values.
type livePairsFn struct {
	liveReader
	pairing
}

// StartBundle begins a bundle.
func (f *livePairsFn) StartBundle(_ func(beam.EventTime, beam.T, beam.U)) { f.begin() }

// ProcessElement reads a slice of a partition.
func (f *livePairsFn) ProcessElement(ctx context.Context, e *estimator, rt *tracker, p Piece, emit func(beam.EventTime, beam.T, beam.U)) (sdf.ProcessContinuation, error) {
	return f.read(ctx, e, rt, p, f.to(emit))
}

// liveMessagesFn reads records with all that is known of them.
type liveMessagesFn struct{ liveReader }

// StartBundle begins a bundle.
func (f *liveMessagesFn) StartBundle(_ func(beam.EventTime, Message)) { f.begin() }

// ProcessElement reads a slice of a partition.
func (f *liveMessagesFn) ProcessElement(ctx context.Context, e *estimator, rt *tracker, p Piece, emit func(beam.EventTime, Message)) (sdf.ProcessContinuation, error) {
	return f.read(ctx, e, rt, p, toMessages(p, emit))
}

// liveBytesRowsFn reads values as bytes.
type liveBytesRowsFn struct{ liveReader }

// StartBundle begins a bundle.
func (f *liveBytesRowsFn) StartBundle(_ func(beam.EventTime, BytesRow)) { f.begin() }

// ProcessElement reads a slice of a partition.
func (f *liveBytesRowsFn) ProcessElement(ctx context.Context, e *estimator, rt *tracker, p Piece, emit func(beam.EventTime, BytesRow)) (sdf.ProcessContinuation, error) {
	return f.read(ctx, e, rt, p, toBytes(emit))
}

// liveTextRowsFn reads values as texts.
type liveTextRowsFn struct{ liveReader }

// StartBundle begins a bundle.
func (f *liveTextRowsFn) StartBundle(_ func(beam.EventTime, TextRow)) { f.begin() }

// ProcessElement reads a slice of a partition.
func (f *liveTextRowsFn) ProcessElement(ctx context.Context, e *estimator, rt *tracker, p Piece, emit func(beam.EventTime, TextRow)) (sdf.ProcessContinuation, error) {
	return f.read(ctx, e, rt, p, toTexts(emit))
}

// liveJSONRowsFn reads values as JSON objects.
type liveJSONRowsFn struct {
	liveReader
	jsonReading
}

// Setup prepares for the rows.
func (f *liveJSONRowsFn) Setup() error {
	if err := f.prepare(); err != nil {
		return err
	}
	return f.liveReader.Setup()
}

// StartBundle begins a bundle.
func (f *liveJSONRowsFn) StartBundle(_ func(beam.EventTime, beam.T)) { f.begin() }

// ProcessElement reads a slice of a partition.
func (f *liveJSONRowsFn) ProcessElement(ctx context.Context, e *estimator, rt *tracker, p Piece, emit func(beam.EventTime, beam.T)) (sdf.ProcessContinuation, error) {
	return f.read(ctx, e, rt, p, f.to(emit))
}
