package kafka

import (
	"context"
	"reflect"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

func init() {
	beam.RegisterType(reflect.TypeFor[copyFn]())
}

// CopyPipeline is a pipeline that writes a replay's records to another topic:
// key, value, headers and event time, nulls as nulls. Where a record goes is its
// key's affair, as with Kafka's own producers. At least once: what a bundle has
// written is written again when the bundle is tried again.
func CopyPipeline(ctx context.Context, r Replay, to Sink) (*pipepb.Pipeline, error) {
	p, s := beam.NewPipelineWithRoot()
	to.WriteMessages(s, r.Messages(s))
	return pipelineProto(ctx, p)
}

// WriteMessages writes messages as they were read, to the sink's topic: key,
// value, headers and event time. At least once, like Write.
func (k Sink) WriteMessages(s beam.Scope, messages beam.PCollection) {
	beam.ParDo0(s.Scope("kafka.WriteMessages"), &copyFn{Sink: k}, messages)
}

// copyFn writes messages.
type copyFn struct {
	Sink Sink

	topicWriters
}

func (f *copyFn) Setup() error { return f.open(f.Sink) }

func (f *copyFn) Teardown() error { return f.closeAll() }

func (f *copyFn) StartBundle(ctx context.Context) error { return f.begin(ctx) }

func (f *copyFn) ProcessElement(ctx context.Context, at beam.EventTime, m Message) error {
	when := at.Milliseconds()
	r := outRecord{key: present(m.Key), value: present(m.Value), at: &when}
	if m.Headers != nil {
		for _, h := range *m.Headers {
			r.headers = append(r.headers, Header{Key: h.Key, Value: present(h.Value)})
		}
	}
	return f.add(ctx, r)
}

func (f *copyFn) FinishBundle(ctx context.Context) error { return f.flush(ctx) }

// present is what a pointer of a Message points to: nil only where that is.
func present(b *[]byte) []byte {
	switch {
	case b == nil:
		return nil
	case *b == nil:
		return []byte{}
	}
	return *b
}
