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

// schemaRead is what Beam YAML and Managed know ReadFromKafka by.
const schemaRead = "beam:schematransform:org.apache.beam:kafka_read:v1"

// SchemaTransforms are those for Beam YAML and Managed.
func (Provider) SchemaTransforms() map[string]expansion.SchemaTransform {
	return map[string]expansion.SchemaTransform{
		schemaRead: {
			Config: readConfig(), Outputs: []string{"output"},
			Description: "Replays what Kafka topics hold as bounded input: rows with the field payload, from the records' values.",
		},
	}
}

// readConfig is the schema of the configuration.
func readConfig() *pipepb.Schema {
	atomic := func(t pipepb.AtomicType) *pipepb.FieldType {
		return &pipepb.FieldType{TypeInfo: &pipepb.FieldType_AtomicType{AtomicType: t}}
	}
	text, number := pipepb.AtomicType_STRING, pipepb.AtomicType_INT64
	config := &pipepb.FieldType{TypeInfo: &pipepb.FieldType_MapType{MapType: &pipepb.MapType{KeyType: atomic(text), ValueType: atomic(text)}}}
	fields := []*pipepb.Field{
		{Name: "bootstrap_servers", Type: atomic(text), Description: "HOST:PORT,... of the cluster"},
		{Name: "topic", Type: atomic(text)},
		{Name: "format", Type: atomic(text), Description: "RAW or STRING"},
		{Name: "auto_offset_reset_config", Type: atomic(text)},
		{Name: "consumer_config_updates", Type: config, Description: "more consumer config, " + keyStop + "=now among it"},
		{Name: "max_num_records", Type: atomic(number)},
		{Name: "max_read_time_seconds", Type: atomic(number)},
	}
	for i, f := range fields {
		f.Id, f.EncodingPosition = int32(i), int32(i)
		f.Type.Nullable = i > 1
	}
	return &pipepb.Schema{Fields: fields, Id: "trestle-kafka-read-1"}
}

func expandSchemaRead(ctx context.Context, f *fields) (expansion.Fragment, error) {
	config := f.config("consumer_config_updates")
	config["bootstrap.servers"] = f.text("bootstrap_servers")
	if reset := f.text("auto_offset_reset_config"); reset != "" {
		config["auto.offset.reset"] = reset
	}
	s, err := ParseConsumer(config)
	s.Topics = []string{f.text("topic")}
	most, limited := f.number("max_num_records")
	s.MaxRecords = most
	_, timed := f.number("max_read_time_seconds")
	format := strings.ToUpper(f.text("format"))
	errs := []error{err, f.bounded(config, limited || timed), validTopic(s.Topics[0])}
	if format != "" && format != "RAW" && format != "STRING" {
		errs = append(errs, fmt.Errorf("format %q is not supported yet; use RAW or STRING", format))
	}
	for _, name := range []string{"schema", "confluent_schema_registry_url", "confluent_schema_registry_subject", "file_descriptor_path", "message_name"} {
		if f.text(name) != "" {
			errs = append(errs, fmt.Errorf("%s is not supported yet; use the format RAW or STRING without it", name))
		}
	}
	if err := f.err(errs...); err != nil {
		return expansion.Fragment{}, err
	}
	r := Replay{Source: s, Stamp: ByProcessing}
	p, scope := beam.NewPipelineWithRoot()
	if format == "STRING" {
		beam.ParDo(scope, &textRowsFn{r.reader()}, r.pieces(scope))
	} else {
		beam.ParDo(scope, &bytesRowsFn{r.reader()}, r.pieces(scope))
	}
	return build(ctx, p)
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
	return f.read(ctx, rt, p, func(at beam.EventTime, r *Record) error {
		if r.Value == nil {
			return fmt.Errorf("record %d: %w", r.Offset, errTombstone)
		}
		emit(at, BytesRow{r.Value})
		return nil
	})
}

// textRowsFn reads values as texts.
type textRowsFn struct{ pieceReader }

func (f *textRowsFn) ProcessElement(ctx context.Context, rt *tracker, p Piece, emit func(beam.EventTime, TextRow)) error {
	return f.read(ctx, rt, p, func(at beam.EventTime, r *Record) error {
		if r.Value == nil {
			return fmt.Errorf("record %d: %w", r.Offset, errTombstone)
		}
		emit(at, TextRow{string(r.Value)})
		return nil
	})
}
