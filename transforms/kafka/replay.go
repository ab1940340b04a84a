package kafka

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/mtime"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/log"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
)

func init() {
	beam.RegisterType(reflect.TypeFor[resolveFn]())
	beam.RegisterType(reflect.TypeFor[pairsFn]())
	beam.RegisterType(reflect.TypeFor[messagesFn]())
	register.Emitter1[Piece]()
	register.Emitter3[beam.EventTime, beam.T, beam.U]()
	register.Emitter2[beam.EventTime, Message]()
	beam.RegisterType(reflect.TypeFor[Restriction]())
	beam.RegisterType(reflect.TypeFor[MessageHeader]())
}

// A Stamp says what the event time of records is.
type Stamp string

const (
	// ByProcessing gives all records the one time at which the bounds were
	// resolved, so that a replay stays repeatable.
	ByProcessing Stamp = "ProcessingTime"
	// ByCreate takes the time that the producer gave the record.
	ByCreate Stamp = "CreateTime"
	// ByLog takes the time that the broker gave it.
	ByLog Stamp = "LogAppendTime"
)

// A Replay is a bounded read of a source.
type Replay struct {
	Source Source `json:"source"`
	// Bounds are read if they are there, in place of those that Source means now.
	Bounds *Bounds `json:"bounds,omitempty"`
	// Stamp is ByCreate if empty.
	Stamp Stamp `json:"stamp,omitempty"`
}

// Pairs reads keys and values as bytes. Null ones are empty: who must tell them
// apart reads Messages.
func (r Replay) Pairs(s beam.Scope) beam.PCollection {
	return r.pairs(s.Scope("kafka.Pairs"), Format{}, false)
}

// Messages reads records with all that Kafka knows of them.
func (r Replay) Messages(s beam.Scope) beam.PCollection {
	s = s.Scope("kafka.Messages")
	return beam.ParDo(s, &messagesFn{pieceReader: r.reader()}, r.pieces(s))
}

// pairs reads keys and values in a format. With nulls, null ones are nil, which
// only a nullable coder can write.
func (r Replay) pairs(s beam.Scope, f Format, nulls bool) beam.PCollection {
	how := pairing{Format: f, Nulls: nulls}
	return beam.ParDo(s, &pairsFn{pieceReader: r.reader(), pairing: how}, r.pieces(s), how.types()...)
}

func (r Replay) reader() pieceReader {
	stamp := r.Stamp
	if stamp == "" {
		stamp = ByCreate
	}
	return pieceReader{dialler: r.Source.dialler(), Stamp: stamp}
}

func (s Source) dialler() dialler { return dialler{How: s.Reading(), Topics: s.Topics} }

// pieces spreads the bounds over the workers. They are the runner's, which finds
// them out once for a job: see Bind. Other runners give none, and have them
// found out in a stage whose output is kept, so that whatever is tried again
// reads the same pieces.
func (r Replay) pieces(s beam.Scope) beam.PCollection {
	fn := &resolveFn{Replay: r}
	if r.Bounds == nil {
		fn.Annotations = map[string][]byte{annotationBound: describe(r)}
	}
	return fn.pieces(s)
}

// A Piece is a range to be read, and the time for records that are to have the
// time of processing.
type Piece struct {
	Topic      string
	Partition  int32
	Start, End int64
	Time       int64
}

func (p Piece) asRange() Range {
	return Range{Topic: p.Topic, Partition: p.Partition, Start: p.Start, End: p.End}
}

// resolveFn makes pieces of what a replay says, or a live reading.
type resolveFn struct {
	Replay Replay
	Live   *Live
	// Annotations go with the transform, not with the function.
	Annotations map[string][]byte `json:"-"`
}

func (f *resolveFn) pieces(s beam.Scope) beam.PCollection {
	return beam.Reshuffle(s, beam.ParDo(s, f, beam.Impulse(s)))
}

// ProcessElement is given the bounds in the form of Bind, or nothing.
func (f *resolveFn) ProcessElement(ctx context.Context, given []byte, emit func(Piece)) error {
	what := "kafka replay"
	if f.Live != nil {
		what = "kafka"
	}
	bounds, err := f.bounds(ctx, given)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	for _, r := range bounds.Ranges {
		log.Infof(ctx, "%s: reading %s", what, r)
		emit(Piece{Topic: r.Topic, Partition: r.Partition, Start: r.Start, End: r.End, Time: bounds.Time})
	}
	return nil
}

// bounds are those that are given, or said in the pipeline, or else found out
// here.
func (f *resolveFn) bounds(ctx context.Context, given []byte) (*Bounds, error) {
	var bounds Bounds
	switch {
	case len(given) > 0:
		// Whoever found them out has told their warnings.
		if err := json.Unmarshal(given, &bounds); err != nil {
			return nil, fmt.Errorf("the bounds that the runner gives can't be read: %w", err)
		}
		return &bounds, nil
	case f.Live != nil:
		bounds, err := f.Live.Resolve(ctx)
		for _, w := range bounds.Warnings {
			log.Warnf(ctx, "kafka: %s", w)
		}
		return &bounds, err
	case f.Replay.Bounds != nil:
		bounds = *f.Replay.Bounds
	default:
		var err error
		if bounds, err = Resolve(ctx, f.Replay.Source); err != nil {
			return nil, err
		}
	}
	for _, w := range f.Replay.notes(bounds) {
		log.Warnf(ctx, "kafka replay: %s", w)
	}
	return &bounds, nil
}

// A dialler is what all DoFns that read have in common.
type dialler struct {
	How    Reading
	Topics []string

	client *client
}

func (f *dialler) Setup() (err error) {
	f.client, err = dial(f.How.Connection, f.Topics...)
	return err
}

func (f *dialler) Teardown() error {
	f.client.close()
	return nil
}

// A pieceReader is what the splittable DoFns of a replay have in common.
type pieceReader struct {
	dialler
	Stamp Stamp
}

func (f *pieceReader) CreateInitialRestriction(p Piece) Restriction {
	return Restriction{Start: p.Start, End: p.End}
}

// Initial splits are small enough to be shared out, and so large that what a
// split costs doesn't count: the offsets of splitting are all the same to Kafka.
const (
	splitOffsets = 256 << 10
	mostSplits   = 16
)

func (f *pieceReader) SplitRestriction(_ Piece, r Restriction) []Restriction {
	size := r.End - r.Start
	n := min((size+splitOffsets-1)/splitOffsets, mostSplits)
	if n <= 1 {
		return []Restriction{r}
	}
	var all []Restriction
	for i := range n {
		all = append(all, Restriction{Start: r.Start + size*i/n, End: r.Start + size*(i+1)/n})
	}
	return all
}

func (f *pieceReader) RestrictionSize(_ Piece, r Restriction) float64 {
	return float64(max(r.End-r.Start, 0))
}

func (f *pieceReader) CreateTracker(r Restriction) *tracker { return newTracker(r) }

// claimAhead is how many offsets are claimed at a time: records that are claimed
// can't be split off any more.
const claimAhead = 1000

// read gives the records of what the tracker allows.
func (f *pieceReader) read(ctx context.Context, rt *tracker, p Piece, give taker) error {
	rest := rt.GetRestriction().(Restriction)
	one := p.asRange()
	one.Start, one.End = rest.Start, rest.End
	granted := one.Start
	err := read(ctx, f.client, f.How, one, func(b *batch, from, to int64) (bool, error) {
		err := b.each(func(r *Record) error {
			if r.Offset < from || r.Offset >= to {
				return nil
			}
			if r.Offset >= granted {
				if granted = rt.claim(r.Offset + claimAhead); r.Offset >= granted {
					return errEnough
				}
			}
			at, err := f.eventTime(p, r)
			if err != nil {
				return err
			}
			return give(at, r)
		})
		if errors.Is(err, errEnough) {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		return fmt.Errorf("kafka replay of %s: %w", partitionName(p.Topic, p.Partition), err)
	}
	rt.claim(rest.End)
	return nil
}

// eventTime is a record's.
func (f *pieceReader) eventTime(p Piece, r *Record) (beam.EventTime, error) {
	if f.Stamp == ByProcessing {
		return mtime.FromMilliseconds(p.Time), nil
	}
	at, err := recordTime(f.Stamp, r)
	return mtime.FromMilliseconds(at), err
}

// recordTime is the time that a record has by itself, in milliseconds since 1970.
func recordTime(stamp Stamp, r *Record) (int64, error) {
	switch {
	case r.Time < 0:
		return 0, fmt.Errorf("record %d has no time; use the timestamp policy ProcessingTime", r.Offset)
	case r.ByLog != (stamp == ByLog):
		has := ByCreate
		if r.ByLog {
			has = ByLog
		}
		return 0, fmt.Errorf("record %d has a %s, and the timestamp policy is %s; use that of the topic's message.timestamp.type", r.Offset, has, stamp)
	}
	return r.Time, nil
}

// A taker is given records and their event times.
type taker func(beam.EventTime, *Record) error

// A pairing makes keys and values of records. With Nulls, null ones are nil.
type pairing struct {
	Format Format
	Nulls  bool
}

func (f pairing) to(emit func(beam.EventTime, beam.T, beam.U)) taker {
	return func(at beam.EventTime, r *Record) error {
		key, err := f.Format.Key.read(r.Key, f.Nulls)
		if err != nil {
			return fmt.Errorf("key of record %d: %w", r.Offset, err)
		}
		value, err := f.Format.Value.read(r.Value, f.Nulls)
		if err != nil {
			return fmt.Errorf("value of record %d: %w", r.Offset, err)
		}
		emit(at, key, value)
		return nil
	}
}

// types are those of the pairs.
func (f pairing) types() []beam.Option {
	return []beam.Option{
		beam.TypeDefinition{Var: beam.TType, T: f.Format.Key.goType()}, beam.TypeDefinition{Var: beam.UType, T: f.Format.Value.goType()},
	}
}

// pairsFn reads keys and values.
type pairsFn struct {
	pieceReader
	pairing
}

func (f *pairsFn) ProcessElement(ctx context.Context, rt *tracker, p Piece, emit func(beam.EventTime, beam.T, beam.U)) error {
	return f.read(ctx, rt, p, f.to(emit))
}

// A Message is a record as an element: the row that Beam's Kafka wrappers give
// with metadata.
type Message struct {
	Topic         string           `beam:"topic" json:"topic"`
	Partition     int32            `beam:"partition" json:"partition"`
	Offset        int64            `beam:"offset" json:"offset"`
	Timestamp     int64            `beam:"timestamp" json:"timestamp"`
	Key           *[]byte          `beam:"key" json:"key"`
	Value         *[]byte          `beam:"value" json:"value"`
	Headers       *[]MessageHeader `beam:"headers" json:"headers"`
	TimestampID   int32            `beam:"timestampTypeId" json:"timestamp_type_id"`
	TimestampName string           `beam:"timestampTypeName" json:"timestamp_type"`
}

// A MessageHeader is one of a message's headers.
type MessageHeader struct {
	Key   string  `beam:"key" json:"key"`
	Value *[]byte `beam:"value" json:"value"`
}

// messagesFn reads records with all that is known of them.
type messagesFn struct{ pieceReader }

func (f *messagesFn) ProcessElement(ctx context.Context, rt *tracker, p Piece, emit func(beam.EventTime, Message)) error {
	return f.read(ctx, rt, p, toMessages(p, emit))
}

func toMessages(p Piece, emit func(beam.EventTime, Message)) taker {
	return func(at beam.EventTime, r *Record) error {
		emit(at, message(p, r))
		return nil
	}
}

func message(p Piece, r *Record) Message {
	m := Message{
		Topic: p.Topic, Partition: p.Partition, Offset: r.Offset, Timestamp: r.Time,
		Key: nullable(r.Key), Value: nullable(r.Value), TimestampName: string(ByCreate),
	}
	if r.ByLog {
		m.TimestampID, m.TimestampName = 1, string(ByLog)
	}
	headers := make([]MessageHeader, len(r.Headers))
	for i, h := range r.Headers {
		headers[i] = MessageHeader{Key: h.Key, Value: nullable(h.Value)}
	}
	m.Headers = &headers
	return m
}

func nullable(b []byte) *[]byte {
	if b == nil {
		return nil
	}
	return &b
}
