package kafka

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"

	"trestle/jobservice/expansion"
	"trestle/runner/graph"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

// pairRequest asks for a write of pairs with coders of these URNs; "?" before
// one makes it nullable.
func pairRequest(config expansion.Row, key, value string) expansion.Request {
	c := &pipepb.Components{
		Pcollections:        map[string]*pipepb.PCollection{"in": {CoderId: "kv", WindowingStrategyId: "w"}},
		WindowingStrategies: map[string]*pipepb.WindowingStrategy{"w": {WindowCoderId: "global"}},
		Coders: map[string]*pipepb.Coder{
			"kv":     {Spec: &pipepb.FunctionSpec{Urn: "beam:coder:kv:v1"}, ComponentCoderIds: []string{"k", "v"}},
			"global": {Spec: &pipepb.FunctionSpec{Urn: coderGlobal}},
		},
	}
	for id, urn := range map[string]string{"k": key, "v": value} {
		urn, null := strings.CutPrefix(urn, "?")
		c.Coders[id] = &pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: "beam:coder:" + urn + ":v1"}}
		if null {
			c.Coders[id+"n"] = c.Coders[id]
			c.Coders[id] = &pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: coderNullable}, ComponentCoderIds: []string{id + "n"}}
		}
	}
	return expansion.Request{URN: urnWrite, Config: config, Inputs: map[string]string{"input": "kv"}, Collections: map[string]string{"input": "in"}, Components: c}
}

// rowRequest asks for a write of rows of these fields.
func rowRequest(t *testing.T, urn string, config expansion.Row, fields ...*pipepb.Field) expansion.Request {
	t.Helper()
	payload, err := proto.Marshal(&pipepb.Schema{Fields: fields})
	if err != nil {
		t.Fatal(err)
	}
	r := pairRequest(config, "bytes", "bytes")
	r.URN, r.Inputs = urn, map[string]string{"input": "row"}
	r.Components.Coders["row"] = &pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: coderRow, Payload: payload}}
	return r
}

func readRequest(urn string, config expansion.Row) expansion.Request {
	r := expansion.Row{"topics": []any{"t"}, "consumer_config": map[any]any{"bootstrap.servers": "b:1", keyStop: "now"}}
	for name, v := range config {
		r[name] = v
	}
	return expansion.Request{URN: urn, Config: r}
}

// liveRequest asks for a read that doesn't end.
func liveRequest(consumer map[any]any, config expansion.Row) expansion.Request {
	r := expansion.Row{"topics": []any{"t"}}
	maps.Copy(r, config)
	all := map[any]any{"bootstrap.servers": "b:1"}
	maps.Copy(all, consumer)
	r["consumer_config"] = all
	return expansion.Request{URN: urnReadPlain, Config: r}
}

func writeTo(more ...string) expansion.Row {
	config := map[any]any{"bootstrap.servers": "b:1"}
	for i := 0; i < len(more); i += 2 {
		config[more[i]] = more[i+1]
	}
	return expansion.Row{"topic": "t", "producer_config": config}
}

// What can't be done is refused when the pipeline is written, in words that say
// what would be right, and never a secret.
func TestExpandRefuses(t *testing.T) {
	consumer := func(key, value string) expansion.Row {
		return expansion.Row{"consumer_config": map[any]any{"bootstrap.servers": "b:1", keyStop: "now", key: value}}
	}
	text, raw := pipepb.AtomicType_STRING, pipepb.AtomicType_BYTES
	schemaConfig := expansion.Row{"bootstrap_servers": "b:1", "topic": "t", "format": "RAW", "consumer_config_updates": map[any]any{keyStop: "now"}}
	with := func(more expansion.Row) expansion.Row {
		all := expansion.Row{}
		for _, m := range []expansion.Row{schemaConfig, more} {
			for k, v := range m {
				all[k] = v
			}
		}
		return all
	}
	for want, r := range map[string]expansion.Request{
		"no topic is named":                                                         readRequest(urnReadPlain, expansion.Row{"topics": []any{}}),
		"topics must be a list of strings":                                          readRequest(urnReadPlain, expansion.Row{"topics": "t"}),
		"deserializer \"com.acme.Mine\"":                                            readRequest(urnReadPlain, expansion.Row{"value_deserializer": "com.acme.Mine"}),
		"with metadata keys and values":                                             readRequest(urnReadMetadata, expansion.Row{"value_deserializer": serialization + "LongDeserializer"}),
		"timestamp policy \"Mine\"":                                                 readRequest(urnReadPlain, expansion.Row{"timestamp_policy": "Mine"}),
		"files or addresses are not allowed":                                        readRequest(urnReadPlain, consumer("ssl.truststore.location", "/etc/passwd")),
		"oauthbearer.token.endpoint.url: values":                                    readRequest(urnReadPlain, consumer("sasl.oauthbearer.token.endpoint.url", "http://x")),
		"interceptor.classes is not supported":                                      readRequest(urnReadPlain, consumer("interceptor.classes", "x")),
		"sasl.jaas.config must begin with":                                          readRequest(urnReadPlain, consumer("sasl.jaas.config", "com.acme.Login required password=secret;")),
		"want read_committed":                                                       readRequest(urnReadPlain, consumer("isolation.level", "secret")),
		"transactions are not supported yet":                                        pairRequest(writeTo("transactional.id", "x"), "bytes", "bytes"),
		"not what org.apache.kafka.common.serialization.ByteArraySerializer writes": pairRequest(writeTo(), "bytes", "double"),
		"\"a b\" is not a topic's name":                                             pairRequest(expansion.Row{"topic": "a b"}, "bytes", "bytes"),
		"the input must be rows":                                                    {URN: urnWriteRows, Config: writeTo(), Inputs: pairRequest(nil, "bytes", "bytes").Inputs, Components: pairRequest(nil, "bytes", "bytes").Components},
		"\"x\" means nothing here":                                                  rowRequest(t, urnWriteRows, writeTo(), field("x", raw, "")),
		"\"key\" must be of the type BYTES":                                         rowRequest(t, urnWriteRows, writeTo(), field("key", text, "")),
		"RAW takes rows of one field, of bytes; these have \"a\", \"b\"":            rowRequest(t, schemaWrite, schemaConfig, field("a", raw, ""), field("b", raw, "")),
		"format \"AVRO\" is not supported":                                          rowRequest(t, schemaWrite, with(expansion.Row{"format": "AVRO"}), field("a", raw, "")),
		"can't be read: ":                                                           rowRequest(t, schemaWrite, with(expansion.Row{"format": "JSON"}), field("not a name", raw, "")),
		"error_handling is not supported":                                           {URN: schemaRead, Config: with(expansion.Row{"error_handling": expansion.Row{"output": "x"}})},
		"the format \"PROTO\" is not supported":                                     {URN: schemaRead, Config: with(expansion.Row{"format": "PROTO"})},
		"JSON needs a schema":                                                       {URN: schemaRead, Config: with(expansion.Row{"format": "JSON"})},
		"anyOf and oneOf are not supported":                                         {URN: schemaRead, Config: with(expansion.Row{"format": "JSON", "schema": `{"type":"object","properties":{"a":{"anyOf":[]}}}`})},
		"reads no YAML":                                                             {URN: schemaManaged, Config: expansion.Row{"transform_identifier": schemaRead}},
		"no consumer group is named":                                                liveRequest(nil, expansion.Row{"commit_offset_in_finalize": true}),
		"use commit_offset_in_finalize, and leave this out":                         liveRequest(map[any]any{"enable.auto.commit": "true"}, nil),
		"read when it is started again":                                             liveRequest(nil, expansion.Row{"dynamic_read_poll_interval_seconds": int64(10)}),
		"want a number of milliseconds, or never":                                   liveRequest(map[any]any{keyIdleAfter: "10s"}, nil),
		"want earliest or latest or none":                                           liveRequest(map[any]any{"auto.offset.reset": "secret"}, nil),
		"has no stop":                                                               liveRequest(map[any]any{keyOpenTransactions: "wait"}, nil),
		"commits nothing; leave it out":                                             readRequest(urnReadPlain, expansion.Row{"commit_offset_in_finalize": true}),
		"nothing is there after the latest record":                                  readRequest(urnReadPlain, consumer("auto.offset.reset", "latest")),
	} {
		_, err := Provider{}.Expand(t.Context(), r)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", r.URN, err, want)
		} else if strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "passwd") {
			t.Errorf("the error quotes what may be secret: %v", err)
		}
	}
}

// Every transform that is offered can be expanded; those that read begin with an
// Impulse that is described, and hold no description elsewhere.
func TestExpand(t *testing.T) {
	raw := pipepb.AtomicType_BYTES
	rows := expansion.Row{"bootstrap_servers": "b:1", "topic": "t", "format": "json"}
	reads := expansion.Row{"bootstrap_servers": "b:1", "topic": "t", "consumer_config_updates": expansion.Row{keyStop: "now"}}
	asJSON := expansion.Row{"bootstrap_servers": "b:1", "topic": "t", "format": "JSON", "schema": `{"type":"object","properties":{"a":{"type":"string"}}}`, "max_num_records": int64(7)}
	for name, r := range map[string]expansion.Request{
		"read":      readRequest(urnReadPlain, nil),
		"metadata":  readRequest(urnReadMetadata, nil),
		"longs":     readRequest(urnReadPlain, expansion.Row{"key_deserializer": serialization + "LongDeserializer"}),
		"live":      liveRequest(map[any]any{"group.id": "g"}, expansion.Row{"commit_offset_in_finalize": true, "timestamp_policy": "CreateTime"}),
		"live rows": {URN: schemaRead, Config: expansion.Row{"bootstrap_servers": "b:1", "topic": "t", "format": "STRING"}},
		"live json": {URN: schemaRead, Config: expansion.Row{"bootstrap_servers": "b:1", "topic": "t", "format": "JSON", "schema": `{"type":"object","properties":{"a":{"type":"string"}}}`}},
		"raw rows":  {URN: schemaRead, Config: reads},
		"json rows": {URN: schemaRead, Config: asJSON},
		"write":     pairRequest(writeTo(), "bytes", "bytes"),
		"nulls":     pairRequest(writeTo(), "?bytes", "?bytes"),
		"headers":   rowRequest(t, urnWriteRows, writeTo(), field("key", raw, ""), field("value", raw, "")),
		"to rows":   rowRequest(t, schemaWrite, rows, field("key", raw, ""), field("n", pipepb.AtomicType_DOUBLE, "")),
	} {
		t.Run(name, func(t *testing.T) {
			f, err := Provider{}.Expand(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			bound := 0
			for _, tr := range f.Pipeline.GetComponents().GetTransforms() {
				if spec := graph.BoundOf(tr); spec != nil {
					bound++
					if spec.Urn != URNBound || !strings.Contains(string(spec.Payload), `"b:1"`) {
						t.Errorf("described as %v", spec)
					}
				}
				if graph.AnnotatedBound(tr) != nil {
					t.Errorf("%s is annotated", tr.GetUniqueName())
				}
			}
			writes := len(r.Inputs) > 0
			for _, id := range f.Outputs {
				live := f.Pipeline.GetComponents().GetPcollections()[id].GetIsBounded() == pipepb.IsBounded_UNBOUNDED
				if live != strings.HasPrefix(name, "live") {
					t.Errorf("unbounded: %v", live)
				}
			}
			if bound != 1 && !writes || bound != 0 && writes || len(f.Inputs) != len(r.Inputs) || writes == (len(f.Outputs) > 0) {
				t.Errorf("%d sources, inputs %v, outputs %v", bound, f.Inputs, f.Outputs)
			}
		})
	}
}

// Managed hands its configuration on; JSON is YAML, too.
func TestManagedConfig(t *testing.T) {
	p := Provider{ParseYAML: json.Unmarshal}
	config := expansion.Row{"transform_identifier": schemaRead, "config": `{"bootstrap_servers":"b:1","topic":"t","consumer_config_updates":{"trestle.stop":"now"}}`}
	f, err := p.Expand(t.Context(), expansion.Request{URN: schemaManaged, Config: config})
	if err != nil || len(f.Outputs) != 1 {
		t.Errorf("outputs %v, %v", f.Outputs, err)
	}
	for want, more := range map[string]expansion.Row{
		"config_url is not supported": {"config_url": "http://x"},
		"config is no YAML":           {"config": "{password"},
		"no managed transform \"x\"":  {"transform_identifier": "x"},
		"want now":                    {"config": `{"bootstrap_servers":"b:1","topic":"t","consumer_config_updates":{"trestle.stop":"never"}}`},
	} {
		wrong := maps.Clone(config)
		maps.Copy(wrong, more)
		if _, err := p.Expand(t.Context(), expansion.Request{URN: schemaManaged, Config: wrong}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// FuzzExpand asks an expansion service for whatever comes in: it answers, and
// what it offers has the transform that was asked for.
func FuzzExpand(f *testing.F) {
	service := expansion.New(Provider{ParseYAML: json.Unmarshal})
	row := beam.CrossLanguagePayload(struct {
		ConsumerConfig map[string]string
		Topics         []string
	}{map[string]string{"bootstrap.servers": "b:1", keyStop: "now"}, []string{"t"}})
	to := beam.CrossLanguagePayload(struct {
		ProducerConfig map[string]string
		Topic          string
	}{map[string]string{"bootstrap.servers": "b:1"}, "t"})
	for _, r := range []*jobpb.ExpansionRequest{
		{},
		{Transform: &pipepb.PTransform{Spec: &pipepb.FunctionSpec{Urn: urnReadPlain, Payload: row}}},
		{Transform: &pipepb.PTransform{Spec: &pipepb.FunctionSpec{Urn: urnReadMetadata, Payload: row}}, Components: &pipepb.Components{}},
		{
			Transform:  &pipepb.PTransform{Spec: &pipepb.FunctionSpec{Urn: urnWrite, Payload: to}, Inputs: map[string]string{"input": "in"}},
			Components: pairRequest(nil, "bytes", "?bytes").Components,
		},
	} {
		b, err := proto.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var r jobpb.ExpansionRequest
		if proto.Unmarshal(b, &r) != nil {
			return
		}
		answer, err := service.Expand(t.Context(), &r)
		if err != nil {
			t.Fatal(err)
		}
		if answer.GetError() == "" && len(answer.GetTransform().GetSubtransforms()) == 0 {
			t.Error("it has neither an error nor transforms")
		}
	})
}

// FuzzEncoded takes elements apart, whatever they are.
func FuzzEncoded(f *testing.F) {
	head := "\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"
	f.Add([]byte(head+"\x0f\x01\x01k\x00"), true)
	f.Add([]byte(head+"\x80\x00\x00\x00\x00\x00\x00\x01\x05\x1f\x03\x01\x01k\x01\x02vv"), false)
	parts := []Part{{Nullable: true}, {Nullable: true}}
	f.Fuzz(func(t *testing.T, element []byte, global bool) {
		fn := &encodedFn{Window: coderInterval, Parts: parts}
		if global {
			fn.Window = coderGlobal
		}
		r, err := fn.record(element)
		if err == nil && len(r.key)+len(r.value) > len(element) {
			t.Errorf("%q and %q from %q", r.key, r.value, element)
		}
	})
}
