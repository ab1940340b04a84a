package kafka

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"trestle/jobservice/expansion"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// A rowForm says what of a row is written.
type rowForm string

const (
	// formRaw writes the one field, of bytes, as the value.
	formRaw rowForm = "RAW"
	// formString writes the one field, a string, as the value.
	formString rowForm = "STRING"
	// formJSON writes the row as a JSON object.
	formJSON rowForm = "JSON"
	// formHeaders takes key, value and headers from fields, and topic, partition
	// and timestamp if there are such.
	formHeaders rowForm = "headers"
)

// check tells what is wrong with a schema for the form.
func (f rowForm) check(s *pipepb.Schema) error {
	atom := func(i int) pipepb.AtomicType { return s.GetFields()[i].GetType().GetAtomicType() }
	switch f {
	case formRaw:
		if len(s.GetFields()) != 1 || atom(0) != pipepb.AtomicType_BYTES {
			return fmt.Errorf("the format RAW takes rows of one field, of bytes; these have %s", fieldList(s))
		}
	case formString:
		if len(s.GetFields()) != 1 || atom(0) != pipepb.AtomicType_STRING {
			return fmt.Errorf("the format STRING takes rows of one field, a string; these have %s", fieldList(s))
		}
	case formJSON:
		if len(s.GetFields()) == 0 {
			return errors.New("the rows have no fields")
		}
	case formHeaders:
		for i, field := range s.GetFields() {
			if want, known := headerFields[field.GetName()]; known && !slices.Contains(want, atom(i)) {
				return fmt.Errorf("the field %q must be of the type %s", field.GetName(), want[0])
			} else if !known && field.GetName() != "headers" {
				return fmt.Errorf("the field %q means nothing here; rows have key, value, headers, topic, partition and timestamp", field.GetName())
			}
		}
	default:
		return fmt.Errorf("the format %q is not supported; use RAW, STRING or JSON", string(f))
	}
	return nil
}

// headerFields are what a row of formHeaders may have beside headers.
var headerFields = map[string][]pipepb.AtomicType{
	"key": {pipepb.AtomicType_BYTES}, "value": {pipepb.AtomicType_BYTES}, "topic": {pipepb.AtomicType_STRING},
	"partition": {pipepb.AtomicType_INT32, pipepb.AtomicType_INT64},
	"timestamp": {pipepb.AtomicType_INT64, pipepb.AtomicType_INT32},
}

func fieldList(s *pipepb.Schema) string {
	if len(s.GetFields()) == 0 {
		return "none"
	}
	text := ""
	for i, f := range s.GetFields() {
		if i > 0 {
			text += ", "
		}
		text += strconv.Quote(f.GetName())
	}
	return text
}

// writer makes records of rows of a schema that check has seen.
func (f rowForm) writer(s *pipepb.Schema) func(row expansion.Row) (outRecord, error) {
	if f == formHeaders {
		return headersRecord
	}
	if f == formJSON {
		return func(row expansion.Row) (outRecord, error) {
			text, err := appendRow(nil, s, row)
			return outRecord{value: text}, err
		}
	}
	name := s.GetFields()[0].GetName()
	return func(row expansion.Row) (outRecord, error) {
		switch v := row[name].(type) {
		case []byte:
			return outRecord{value: v}, nil
		case string:
			return outRecord{value: []byte(v)}, nil
		}
		return outRecord{}, nil // null
	}
}

// headersRecord reads a row of formHeaders.
func headersRecord(row expansion.Row) (outRecord, error) {
	var r outRecord
	r.key, _ = row["key"].([]byte)
	r.value, _ = row["value"].([]byte)
	r.topic, _ = row["topic"].(string)
	if n, ok := row["partition"].(int64); ok {
		p := int32(n)
		if int64(p) != n {
			return r, fmt.Errorf("%d is no partition", n)
		}
		r.partition = &p
	}
	if n, ok := row["timestamp"].(int64); ok {
		r.at = &n
	}
	list, _ := row["headers"].([]any)
	for _, one := range list {
		h, ok := one.(expansion.Row)
		if !ok {
			return r, errors.New("a header is no row of key and value")
		}
		key, ok := h["key"].(string)
		if !ok {
			return r, errors.New("a header has no key that is a string")
		}
		value, _ := h["value"].([]byte)
		r.headers = append(r.headers, Header{Key: key, Value: value})
	}
	return r, nil
}

// appendRow writes a row as a JSON object, its fields in the schema's order.
func appendRow(b []byte, s *pipepb.Schema, row expansion.Row) ([]byte, error) {
	b = append(b, '{')
	for i, f := range s.GetFields() {
		if i > 0 {
			b = append(b, ',')
		}
		name, err := json.Marshal(f.GetName())
		if err != nil {
			return nil, err
		}
		b = append(append(b, name...), ':')
		if b, err = appendValue(b, f.GetType(), row[f.GetName()]); err != nil {
			return nil, fmt.Errorf("field %q: %w", f.GetName(), err)
		}
	}
	return append(b, '}'), nil
}

func appendValue(b []byte, t *pipepb.FieldType, v any) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return append(b, "null"...), nil
	case []byte:
		b = append(b, '"')
		b = base64.StdEncoding.AppendEncode(b, v)
		return append(b, '"'), nil
	case expansion.Row:
		inner := t.GetRowType().GetSchema()
		if l := t.GetLogicalType(); l != nil {
			inner = l.GetRepresentation().GetRowType().GetSchema()
		}
		return appendRow(b, inner, v)
	case []any:
		of := t.GetArrayType().GetElementType()
		if of == nil {
			of = t.GetIterableType().GetElementType()
		}
		b = append(b, '[')
		for i, one := range v {
			if i > 0 {
				b = append(b, ',')
			}
			var err error
			if b, err = appendValue(b, of, one); err != nil {
				return nil, err
			}
		}
		return append(b, ']'), nil
	case map[any]any:
		return appendMap(b, t.GetMapType().GetValueType(), v)
	}
	text, err := json.Marshal(v)
	return append(b, text...), err
}

// appendMap writes a map whose keys become strings, in their order.
func appendMap(b []byte, of *pipepb.FieldType, m map[any]any) ([]byte, error) {
	all := make(map[string]json.RawMessage, len(m))
	for k, v := range m {
		text, err := appendValue(nil, of, v)
		if err != nil {
			return nil, err
		}
		all[fmt.Sprint(k)] = text
	}
	text, err := json.Marshal(all)
	return append(b, text...), err
}
