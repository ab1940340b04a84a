package kafka

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"trestle/jobservice/expansion"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
)

func init() {
	beam.RegisterType(reflect.TypeFor[bytesRowsFn]())
	beam.RegisterType(reflect.TypeFor[textRowsFn]())
	register.Emitter2[beam.EventTime, BytesRow]()
	register.Emitter2[beam.EventTime, TextRow]()
}

// The identifiers by which Beam YAML and Managed know reading and writing.
const (
	schemaRead  = "beam:schematransform:org.apache.beam:kafka_read:v1"
	schemaWrite = "beam:schematransform:org.apache.beam:kafka_write:v1"
)

// SchemaTransforms are those for Beam YAML and Managed.
func (p Provider) SchemaTransforms() map[string]expansion.SchemaTransform {
	all := map[string]expansion.SchemaTransform{
		schemaRead: {
			Config: readConfig(), Outputs: []string{"output"},
			Description: "Reads Kafka topics, without an end or, as bounded input, what they hold: rows with the field payload, from the records' values, or of a JSON Schema.",
		},
		schemaWrite: {
			Config: writeConfig(), Inputs: []string{"input"},
			Description: "Writes rows to a Kafka topic, as the records' values.",
		},
	}
	if p.ParseYAML != nil {
		all[schemaManaged] = expansion.SchemaTransform{
			Config: managedConfig(), Inputs: []string{"input"}, Outputs: []string{"output"},
			Description: "Kafka's transforms by Beam's Managed.",
		}
	}
	return all
}

// readConfig is the schema of the configuration.
func readConfig() *pipepb.Schema {
	text, number := pipepb.AtomicType_STRING, pipepb.AtomicType_INT64
	return schemaOf("trestle-kafka-read-2", 2, []*pipepb.Field{
		field("bootstrap_servers", text, "HOST:PORT,... of the cluster"),
		field("topic", text, ""),
		field("format", text, "RAW, STRING or JSON"),
		field("schema", text, "of the format JSON, as JSON Schema"),
		field("auto_offset_reset_config", text, ""),
		configField("consumer_config_updates", "more consumer config; with "+keyStop+"=now reading ends"),
		field("max_num_records", number, ""),
		field("max_read_time_seconds", number, ""),
	})
}

// writeConfig is the schema of the configuration.
func writeConfig() *pipepb.Schema {
	text := pipepb.AtomicType_STRING
	return schemaOf("trestle-kafka-write-1", 3, []*pipepb.Field{
		field("bootstrap_servers", text, "HOST:PORT,... of the cluster"),
		field("topic", text, ""),
		field("format", text, "RAW, STRING or JSON"),
		configField("producer_config_updates", "more producer config"),
	})
}

func field(name string, t pipepb.AtomicType, about string) *pipepb.Field {
	return &pipepb.Field{Name: name, Description: about, Type: &pipepb.FieldType{TypeInfo: &pipepb.FieldType_AtomicType{AtomicType: t}}}
}

// configField is a map of strings to strings.
func configField(name, about string) *pipepb.Field {
	text := &pipepb.FieldType{TypeInfo: &pipepb.FieldType_AtomicType{AtomicType: pipepb.AtomicType_STRING}}
	config := &pipepb.FieldType{TypeInfo: &pipepb.FieldType_MapType{MapType: &pipepb.MapType{KeyType: text, ValueType: text}}}
	return &pipepb.Field{Name: name, Description: about, Type: config}
}

// schemaOf is a schema of which all fields but the first few may be left out.
func schemaOf(id string, needed int, fields []*pipepb.Field) *pipepb.Schema {
	for i, f := range fields {
		f.Id, f.EncodingPosition = int32(i), int32(i)
		f.Type.Nullable = i >= needed
	}
	return &pipepb.Schema{Fields: fields, Id: id}
}

func expandSchemaRead(ctx context.Context, f *fields) (expansion.Fragment, error) {
	config := f.config("consumer_config_updates")
	config["bootstrap.servers"] = f.text("bootstrap_servers")
	if reset := f.text("auto_offset_reset_config"); reset != "" {
		config["auto.offset.reset"] = reset
	}
	topic := f.text("topic")
	f.errs = append(f.errs, validTopic(topic), f.unsupported("confluent_schema_registry_url", "confluent_schema_registry_subject", "file_descriptor_path", "message_name", "error_handling"))
	var r reading
	if f.ends(config, "max_num_records", "max_read_time_seconds") {
		r = f.replay(config, []string{topic}, ByProcessing)
	} else {
		r = f.live(config, []string{topic}, ByProcessing)
	}
	p, scope := beam.NewPipelineWithRoot()
	form := rowForm(strings.ToUpper(f.text("format")))
	if form != formJSON {
		f.errs = append(f.errs, f.unsupported("schema"))
	}
	switch form {
	case formString:
		r.textRows(scope)
	case formRaw, "":
		r.bytesRows(scope)
	case formJSON:
		t, err := rowType(f.text("schema"))
		if err != nil {
			f.errs = append(f.errs, err)
			break
		}
		r.jsonRows(scope, f.text("schema"), t)
	default:
		f.errs = append(f.errs, fmt.Errorf("the format %q is not supported; use RAW, STRING or JSON", f.text("format")))
	}
	if err := f.err(); err != nil {
		return expansion.Fragment{}, err
	}
	return build(ctx, p)
}

func (r Replay) bytesRows(s beam.Scope) beam.PCollection {
	return beam.ParDo(s, &bytesRowsFn{r.reader()}, r.pieces(s))
}

func (r Replay) textRows(s beam.Scope) beam.PCollection {
	return beam.ParDo(s, &textRowsFn{r.reader()}, r.pieces(s))
}

func (r Replay) jsonRows(s beam.Scope, text string, t reflect.Type) beam.PCollection {
	fn := &jsonRowsFn{pieceReader: r.reader(), jsonReading: jsonReading{Schema: text}}
	return beam.ParDo(s, fn, r.pieces(s), beam.TypeDefinition{Var: beam.TType, T: t})
}

// A BytesRow is a record's value as a row.
type BytesRow struct {
	Payload []byte `beam:"payload"`
}

// A TextRow is a record's value as a row.
type TextRow struct {
	Payload string `beam:"payload"`
}

// errTombstone is for records that have no value to make a row of.
var errTombstone = errors.New("it has a null value, of which no row can be made; read it with metadata")

// bytesRowsFn reads values as bytes.
type bytesRowsFn struct{ pieceReader }

func (f *bytesRowsFn) ProcessElement(ctx context.Context, rt *tracker, p Piece, emit func(beam.EventTime, BytesRow)) error {
	return f.read(ctx, rt, p, toBytes(emit))
}

func toBytes(emit func(beam.EventTime, BytesRow)) taker {
	return func(at beam.EventTime, r *Record) error {
		if r.Value == nil {
			return fmt.Errorf("record %d: %w", r.Offset, errTombstone)
		}
		emit(at, BytesRow{r.Value})
		return nil
	}
}

// textRowsFn reads values as texts.
type textRowsFn struct{ pieceReader }

func (f *textRowsFn) ProcessElement(ctx context.Context, rt *tracker, p Piece, emit func(beam.EventTime, TextRow)) error {
	return f.read(ctx, rt, p, toTexts(emit))
}

func toTexts(emit func(beam.EventTime, TextRow)) taker {
	return func(at beam.EventTime, r *Record) error {
		if r.Value == nil {
			return fmt.Errorf("record %d: %w", r.Offset, errTombstone)
		}
		emit(at, TextRow{string(r.Value)})
		return nil
	}
}
