package kafka

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/graphx/schema"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
)

func init() {
	beam.RegisterType(reflect.TypeFor[jsonRowsFn]())
	register.Emitter2[beam.EventTime, beam.T]()
}

// A jsonType is the part of JSON Schema that has an equal among Beam's schemas.
type jsonType struct {
	Type       string     `json:"type"`
	Properties jsonFields `json:"properties"`
	Required   []string   `json:"required"`
	Items      *jsonType  `json:"items"`
	Ref        string     `json:"$ref"`
	AnyOf      []jsonType `json:"anyOf"`
	OneOf      []jsonType `json:"oneOf"`
}

// jsonFields are properties in the order of the text.
type jsonFields []jsonField

type jsonField struct {
	name string
	is   jsonType
}

// UnmarshalJSON keeps the order.
func (f *jsonFields) UnmarshalJSON(text []byte) error {
	d := json.NewDecoder(bytes.NewReader(text))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return errors.New("properties must be an object")
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return err
		}
		one := jsonField{name: fmt.Sprint(name)}
		if err := d.Decode(&one.is); err != nil {
			return err
		}
		*f = append(*f, one)
	}
	return nil
}

// deepestJSON bounds how deep types nest.
const deepestJSON = 20

// parseJSONSchema makes the schema of rows. What isn't required may be null.
func parseJSONSchema(text string) (*pipepb.Schema, error) {
	var t jsonType
	if err := json.Unmarshal([]byte(text), &t); err != nil {
		return nil, fmt.Errorf("schema is no JSON Schema: %w", err)
	}
	if t.Type != "object" {
		return nil, errors.New("schema must be a JSON Schema of the type object, with properties")
	}
	s, err := t.row(0)
	if err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	return s, readable(s)
}

func (t jsonType) row(depth int) (*pipepb.Schema, error) {
	if depth > deepestJSON {
		return nil, errors.New("it is nested too deep")
	}
	if len(t.Properties) == 0 {
		return nil, errors.New("an object has no properties")
	}
	s := &pipepb.Schema{}
	for i, p := range t.Properties {
		of, err := p.is.field(depth)
		if err != nil {
			return nil, fmt.Errorf("property %q: %w", p.name, err)
		}
		of.Nullable = of.Nullable || !slices.Contains(t.Required, p.name)
		s.Fields = append(s.Fields, &pipepb.Field{Name: p.name, Type: of, Id: int32(i), EncodingPosition: int32(i)})
	}
	return s, nil
}

func (t jsonType) field(depth int) (*pipepb.FieldType, error) {
	if t.Ref != "" || t.AnyOf != nil || t.OneOf != nil {
		return nil, errors.New("$ref, anyOf and oneOf are not supported")
	}
	atom := map[string]pipepb.AtomicType{
		"string": pipepb.AtomicType_STRING, "integer": pipepb.AtomicType_INT64,
		"number": pipepb.AtomicType_DOUBLE, "boolean": pipepb.AtomicType_BOOLEAN,
	}
	switch t.Type {
	case "string", "integer", "number", "boolean":
		return &pipepb.FieldType{TypeInfo: &pipepb.FieldType_AtomicType{AtomicType: atom[t.Type]}}, nil
	case "array":
		if t.Items == nil {
			return nil, errors.New("an array needs items")
		}
		of, err := t.Items.field(depth + 1)
		if err != nil {
			return nil, err
		}
		return &pipepb.FieldType{TypeInfo: &pipepb.FieldType_ArrayType{ArrayType: &pipepb.ArrayType{ElementType: of}}}, nil
	case "object":
		s, err := t.row(depth + 1)
		if err != nil {
			return nil, err
		}
		return &pipepb.FieldType{TypeInfo: &pipepb.FieldType_RowType{RowType: &pipepb.RowType{Schema: s}}}, nil
	}
	return nil, fmt.Errorf("the type %q is not supported; use string, integer, number, boolean, array or object", t.Type)
}

// A jsonReading makes rows of values that are JSON objects.
type jsonReading struct {
	Schema string // JSON Schema

	row reflect.Type
}

// rowType is the type of a schema's rows.
func rowType(text string) (reflect.Type, error) {
	if text == "" {
		return nil, errors.New("the format JSON needs a schema, as JSON Schema")
	}
	rows, err := parseJSONSchema(text)
	if err != nil {
		return nil, err
	}
	return schema.ToType(rows)
}

func (f *jsonReading) prepare() (err error) {
	f.row, err = rowType(f.Schema)
	return err
}

func (f *jsonReading) to(emit func(beam.EventTime, beam.T)) taker {
	return func(at beam.EventTime, r *Record) error {
		if r.Value == nil {
			return fmt.Errorf("record %d: %w", r.Offset, errTombstone)
		}
		row, err := parseJSONRow(r.Value, f.row)
		if err != nil {
			return fmt.Errorf("record %d: its value is no JSON object of the schema: %w", r.Offset, err)
		}
		emit(at, row.Interface())
		return nil
	}
}

// jsonRowsFn reads values as JSON objects.
type jsonRowsFn struct {
	pieceReader
	jsonReading
}

// Setup prepares for the rows.
func (f *jsonRowsFn) Setup() error {
	if err := f.prepare(); err != nil {
		return err
	}
	return f.pieceReader.Setup()
}

// ProcessElement reads a piece.
func (f *jsonRowsFn) ProcessElement(ctx context.Context, rt *tracker, p Piece, emit func(beam.EventTime, beam.T)) error {
	return f.read(ctx, rt, p, f.to(emit))
}

// parseJSONRow makes a row of a text.
func parseJSONRow(text []byte, t reflect.Type) (reflect.Value, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return reflect.Value{}, err
	}
	if d.More() {
		return reflect.Value{}, errors.New("more follows the object")
	}
	row := reflect.New(t).Elem()
	return row, setJSON(row, v)
}

// setJSON sets a field to a value of JSON.
func setJSON(to reflect.Value, v any) error {
	if to.Kind() == reflect.Pointer {
		if v == nil {
			return nil
		}
		to.Set(reflect.New(to.Type().Elem()))
		return setJSON(to.Elem(), v)
	}
	switch v := v.(type) {
	case string:
		if to.Kind() == reflect.String {
			to.SetString(v)
			return nil
		}
	case bool:
		if to.Kind() == reflect.Bool {
			to.SetBool(v)
			return nil
		}
	case json.Number:
		return setNumber(to, v)
	case []any:
		if to.Kind() == reflect.Slice {
			to.Set(reflect.MakeSlice(to.Type(), len(v), len(v)))
			for i := range v {
				if err := setJSON(to.Index(i), v[i]); err != nil {
					return fmt.Errorf("[%d]: %w", i, err)
				}
			}
			return nil
		}
	case map[string]any:
		if to.Kind() == reflect.Struct {
			return setObject(to, v)
		}
	case nil:
		return errors.New("it is null or not there, and the schema requires it")
	}
	return fmt.Errorf("it is a JSON %T, and the schema wants a %s", v, to.Kind())
}

func setNumber(to reflect.Value, v json.Number) error {
	switch to.Kind() {
	case reflect.Int64:
		n, err := v.Int64()
		if err != nil {
			f, bad := v.Float64()
			if bad != nil || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
				return fmt.Errorf("%s is no integer of 64 bits", v)
			}
			n = int64(f)
		}
		to.SetInt(n)
		return nil
	case reflect.Float64:
		n, err := v.Float64()
		to.SetFloat(n)
		return err
	}
	return fmt.Errorf("it is a number, and the schema wants a %s", to.Kind())
}

// setObject sets the fields of a row. What the schema doesn't name is left out.
func setObject(to reflect.Value, v map[string]any) error {
	for i := range to.NumField() {
		field := to.Type().Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("beam"), ",")
		if name == "" {
			name = field.Name
		}
		if err := setJSON(to.Field(i), v[name]); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}
