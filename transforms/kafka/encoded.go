package kafka

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"trestle/jobservice/expansion"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/graphx"
	v1pb "github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/graphx/v1"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/util/protox"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	"google.golang.org/protobuf/proto"
)

func init() {
	beam.RegisterType(reflect.TypeFor[encodedFn]())
	beam.RegisterType(reflect.TypeFor[reifyFn]())
	register.Emitter2[int, []byte]()
}

// Go's SDK hands a DoFn no null: of a pair whose value is null it hands on the
// value before. And it makes Go structs of rows, whatever their fields are
// called. So what may be null, and rows, come to us as they are encoded: by way
// of the first half of the SDK's own Reshuffle, which encodes elements and is
// put into the place of a reifyFn.

// reifyFn keeps the place, and is never run.
type reifyFn struct{}

func (*reifyFn) ProcessElement(_, _ []byte, _ func(int, []byte)) {}

// encodedFn writes elements that come encoded.
type encodedFn struct {
	Sink Sink
	// Window is the URN of the coder of the elements' windows, which stand before
	// each.
	Window string
	// Parts are those of a pair, if the elements are pairs; else they are rows
	// of a schema, in a form.
	Parts  []Part
	Schema []byte
	Form   rowForm

	row   func(row expansion.Row) (outRecord, error)
	types *pipepb.Schema
	topicWriters
}

// A Part is a key or a value that is to be written.
type Part struct {
	As       Deserializer
	Nullable bool
	Short    bool // integers are written with 4 bytes
}

// Setup prepares for the rows.
func (f *encodedFn) Setup() error {
	if f.Schema != nil {
		f.types = &pipepb.Schema{}
		if err := proto.Unmarshal(f.Schema, f.types); err != nil {
			return fmt.Errorf("write to topic %q: the rows' schema: %w", f.Sink.Topic, err)
		}
		f.row = f.Form.writer(f.types)
	}
	return f.open(f.Sink)
}

// Teardown gives back connections.
func (f *encodedFn) Teardown() error { return f.closeAll() }

// StartBundle begins a bundle.
func (f *encodedFn) StartBundle(ctx context.Context) error { return f.begin(ctx) }

// ProcessElement takes an element behind its windows.
func (f *encodedFn) ProcessElement(ctx context.Context, _ int, element []byte) error {
	r, err := f.record(element)
	if err != nil {
		return fmt.Errorf("write to topic %q: %w", f.Sink.Topic, err)
	}
	return f.add(ctx, r)
}

// FinishBundle returns when all is acknowledged.
func (f *encodedFn) FinishBundle(ctx context.Context) error { return f.flush(ctx) }

var errElement = errors.New("an element is encoded in another way than its coder says")

// record makes a record of an encoded element.
func (f *encodedFn) record(element []byte) (r outRecord, err error) {
	left, ok := skipHeader(element, f.Window)
	if !ok {
		return r, errElement
	}
	if f.Parts == nil {
		row, err := expansion.DecodeRow(f.types, left)
		if err != nil {
			return r, err
		}
		return f.row(row)
	}
	if r.key, left, ok = f.Parts[0].take(left); !ok {
		return r, errElement
	}
	if r.value, left, ok = f.Parts[1].take(left); !ok || len(left) > 0 {
		return r, errElement
	}
	return r, nil
}

// skipHeader skips the time, windows and pane that stand before an element.
func skipHeader(b []byte, window string) (left []byte, ok bool) {
	if len(b) < 12 {
		return nil, false
	}
	n := int(int32(binary.BigEndian.Uint32(b[8:])))
	b = b[12:]
	if window == coderInterval {
		for range n {
			if len(b) < 8 {
				return nil, false
			}
			_, size := binary.Uvarint(b[8:])
			if size <= 0 {
				return nil, false
			}
			b = b[8+size:]
		}
	}
	if len(b) == 0 {
		return nil, false
	}
	pane, b := b[0]>>4, b[1:]
	if pane > 2 {
		return nil, false
	}
	for ; pane > 0; pane-- { // one index, or two
		_, size := binary.Uvarint(b)
		if size <= 0 {
			return nil, false
		}
		b = b[size:]
	}
	return b, true
}

const (
	coderGlobal   = "beam:coder:global_window:v1"
	coderInterval = "beam:coder:interval_window:v1"
	coderNullable = "beam:coder:nullable:v1"
	coderRow      = "beam:coder:row:v1"
)

// take reads the part from encoded bytes and gives it as Kafka's serializers
// write it; nil is null.
func (p Part) take(b []byte) (part, left []byte, ok bool) {
	if p.Nullable {
		if len(b) == 0 || b[0] > 1 {
			return nil, nil, false
		}
		if b[0] == 0 {
			return nil, b[1:], true
		}
		b = b[1:]
	}
	n, size := binary.Uvarint(b)
	if size <= 0 {
		return nil, nil, false
	}
	b = b[size:]
	switch {
	case p.As == AsLong && p.Short:
		if int64(int32(n)) != int64(n) {
			return nil, nil, false
		}
		return binary.BigEndian.AppendUint32(nil, uint32(n)), b, true
	case p.As == AsLong:
		return binary.BigEndian.AppendUint64(nil, n), b, true
	case n > uint64(len(b)):
		return nil, nil, false
	}
	return b[:n:n], b[n:], true
}

// expandEncoded builds a fragment that writes what comes in by fn.
func expandEncoded(ctx context.Context, r expansion.Request, fn *encodedFn) (expansion.Fragment, error) {
	var in string
	for _, id := range r.Inputs {
		in = id
	}
	var err error
	if fn.Window, err = windowCoder(r); err != nil {
		return expansion.Fragment{}, err
	}
	p, s := beam.NewPipelineWithRoot()
	pairs := beam.ParDo(s, &standInFn{}, beam.Impulse(s))
	s = s.Scope("kafka.Write")
	// What the Reshuffle's half gives is in no window, and no DoFn takes that.
	windowed := beam.WindowInto(s, window.NewGlobalWindows(), beam.ParDo(s, &reifyFn{}, pairs))
	beam.ParDo0(s, fn, windowed)
	f, err := build(ctx, p)
	if err != nil {
		return f, err
	}
	reshuffle := &v1pb.ReshufflePayload{CoderId: in, CoderPayloads: map[string][]byte{}}
	if err := coderPayloads(r.Components.GetCoders(), in, reshuffle.CoderPayloads); err != nil {
		return f, err
	}
	payload, err := proto.Marshal(&pipepb.ParDoPayload{DoFn: &pipepb.FunctionSpec{
		Urn:     graphx.URNReshuffleInput,
		Payload: []byte(protox.MustEncodeBase64(&v1pb.TransformPayload{Urn: graphx.URNReshuffleInput, Reshuffle: reshuffle})),
	}})
	if err != nil {
		return f, err
	}
	for _, t := range f.Pipeline.GetComponents().GetTransforms() {
		if len(t.GetSubtransforms()) == 0 && strings.HasSuffix(t.GetUniqueName(), ".reifyFn") {
			t.Spec.Payload = payload
		}
	}
	return f, nil
}

// coderPayloads adds a coder and those that it is made of.
func coderPayloads(all map[string]*pipepb.Coder, id string, to map[string][]byte) error {
	if to[id] != nil {
		return nil
	}
	payload, err := proto.Marshal(all[id])
	if err != nil {
		return err
	}
	to[id] = payload
	for _, part := range all[id].GetComponentCoderIds() {
		if err := coderPayloads(all, part, to); err != nil {
			return err
		}
	}
	return nil
}

// windowCoder is how the windows of the request's one input are encoded.
func windowCoder(r expansion.Request) (string, error) {
	c := r.Components
	for _, id := range r.Collections {
		ws := c.GetWindowingStrategies()[c.GetPcollections()[id].GetWindowingStrategyId()]
		urn := c.GetCoders()[ws.GetWindowCoderId()].GetSpec().GetUrn()
		if urn != coderGlobal && urn != coderInterval {
			return "", fmt.Errorf("the input has windows with the coder %q, which can't be read here; give it global, fixed, sliding or session windows", urn)
		}
		return urn, nil
	}
	return "", errors.New("it has no input")
}
