package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"trestle/jobservice/expansion"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/graphx/schema"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

// expandWrite writes pairs to a topic.
func expandWrite(ctx context.Context, f *fields, r expansion.Request) (expansion.Fragment, error) {
	sink, err := ParseProducer(f.config("producer_config"))
	sink.Topic = f.topic()
	var errs []error
	errs = append(errs, err, validTopic(sink.Topic))
	var as [2]Deserializer
	for i, part := range []string{"key", "value"} {
		if as[i], err = parseClass(f.classOf(part+"_serializer", "Serializer"), "Serializer"); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", part, err))
		}
	}
	parts, err := pairsIn(r, as)
	if err := f.err(append(errs, err)...); err != nil {
		return expansion.Fragment{}, err
	}
	if parts[0].Nullable || parts[1].Nullable {
		return expandEncoded(ctx, r, &encodedFn{Sink: sink, Parts: parts})
	}
	p, s := beam.NewPipelineWithRoot()
	in := beam.ParDo(s, &standInFn{}, beam.Impulse(s))
	beam.ParDo0(s.Scope("kafka.Write"), &writeFn{Sink: sink, Short: [2]bool{parts[0].Short, parts[1].Short}}, in)
	return build(ctx, p)
}

// topic is the one to write to. TypeScript's wrapper calls it topics, and takes
// what it is given: a name, or a list of one.
func (f *fields) topic() string {
	if name := f.text("topic"); name != "" {
		return name
	}
	if name, ok := f.value("topics").(string); ok {
		return name
	}
	if all := f.texts("topics"); len(all) == 1 {
		return all[0]
	}
	return ""
}

// writable are the coders of keys and values that can be written, and Kafka's
// serializer that they ask for.
var writable = map[string]Deserializer{
	"beam:coder:bytes:v1":       AsBytes,
	"beam:coder:string_utf8:v1": AsString,
	"beam:coder:varint:v1":      AsLong,
}

// input is the coder of the request's one input.
func input(r expansion.Request) (*pipepb.Coder, error) {
	if len(r.Inputs) != 1 {
		return nil, fmt.Errorf("it has %d inputs, and takes one", len(r.Inputs))
	}
	for _, id := range r.Inputs {
		return r.Components.GetCoders()[id], nil
	}
	return nil, nil
}

// pairsIn sees that what comes in are pairs whose parts can be written as the
// serializers say.
func pairsIn(r expansion.Request, serializers [2]Deserializer) ([]Part, error) {
	kv, err := input(r)
	if err != nil {
		return nil, err
	}
	if kv.GetSpec().GetUrn() != "beam:coder:kv:v1" || len(kv.GetComponentCoderIds()) != 2 {
		return nil, errors.New("the input must be pairs of keys and values; in Python, say .with_output_types(tuple[bytes, bytes]) before it")
	}
	coders := r.Components.GetCoders()
	parts := make([]Part, 2)
	for i, name := range []string{"key", "value"} {
		c := coders[kv.GetComponentCoderIds()[i]]
		if c.GetSpec().GetUrn() == coderNullable && len(c.GetComponentCoderIds()) == 1 {
			parts[i].Nullable = true
			c = coders[c.GetComponentCoderIds()[0]]
		}
		urn := c.GetSpec().GetUrn()
		has, ok := writable[urn]
		if !ok || has != serializers[i] && !(has == AsLong && serializers[i] == AsInteger) {
			return nil, fmt.Errorf("the %s has the coder %q, which is not what %s%sSerializer writes", name, urn, serialization, cmp.Or(string(serializers[i]), "ByteArray"))
		}
		parts[i].As, parts[i].Short = has, serializers[i] == AsInteger
	}
	return parts, nil
}

// expandWriteRows writes rows with a key, a value, headers and where they belong.
func expandWriteRows(ctx context.Context, f *fields, r expansion.Request) (expansion.Fragment, error) {
	sink, err := ParseProducer(f.config("producer_config"))
	sink.Topic = f.text("topic")
	errs := []error{err, validTopic(sink.Topic)}
	for _, part := range []string{"key", "value"} {
		if as, err := parseClass(f.classOf(part+"_serializer", "Serializer"), "Serializer"); err != nil || as != AsBytes {
			errs = append(errs, fmt.Errorf("%s: with headers, keys and values are bytes; use ByteArraySerializer", part))
		}
	}
	return expandRows(ctx, r, sink, formHeaders, f.err(errs...))
}

// expandSchemaWrite writes rows in a format.
func expandSchemaWrite(ctx context.Context, f *fields, r expansion.Request) (expansion.Fragment, error) {
	config := f.config("producer_config_updates")
	config["bootstrap.servers"] = f.text("bootstrap_servers")
	sink, err := ParseProducer(config)
	sink.Topic = f.text("topic")
	errs := []error{err, validTopic(sink.Topic), f.unsupported("schema", "file_descriptor_path", "message_name", "error_handling")}
	return expandRows(ctx, r, sink, rowForm(strings.ToUpper(f.text("format"))), f.err(errs...))
}

// unsupported refuses settings that would be ignored at the user's cost.
func (f *fields) unsupported(names ...string) error {
	for _, name := range names {
		if v := f.value(name); v != nil && v != "" {
			return fmt.Errorf("%s is not supported; leave it out", name)
		}
	}
	return nil
}

// expandRows writes rows in a form, unless something is wrong already.
func expandRows(ctx context.Context, r expansion.Request, sink Sink, form rowForm, wrong error) (expansion.Fragment, error) {
	types, err := rowsIn(r)
	if err == nil {
		err = form.check(types)
	}
	if err := errors.Join(wrong, err); err != nil {
		return expansion.Fragment{}, err
	}
	encoded, err := proto.Marshal(types)
	if err != nil {
		return expansion.Fragment{}, err
	}
	return expandEncoded(ctx, r, &encodedFn{Sink: sink, Schema: encoded, Form: form})
}

// rowsIn is the schema of the rows that come in.
func rowsIn(r expansion.Request) (*pipepb.Schema, error) {
	c, err := input(r)
	if err != nil {
		return nil, err
	}
	if c.GetSpec().GetUrn() != coderRow {
		return nil, fmt.Errorf("the input must be rows with a schema, and has the coder %q; in Python, make beam.Row(…) of it or name a NamedTuple as its type", c.GetSpec().GetUrn())
	}
	var s pipepb.Schema
	if err := proto.Unmarshal(c.GetSpec().GetPayload(), &s); err != nil {
		return nil, errors.New("the schema of the input's rows can't be read")
	}
	return &s, readable(&s)
}

// readable sees that our worker can read rows of the schema.
func readable(s *pipepb.Schema) (err error) {
	defer func() {
		if wrong := recover(); wrong != nil {
			err = fmt.Errorf("rows of this schema can't be read: %v", wrong)
		}
	}()
	for _, f := range s.GetFields() {
		if f.GetName() == "" {
			return errors.New("a field of the input's rows has no name")
		}
	}
	if _, err := schema.ToType(s); err != nil {
		return fmt.Errorf("rows of this schema can't be read: %w", err)
	}
	return nil
}
