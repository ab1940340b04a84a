package expansion

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// A Row is a decoded row: values by field names. A value is nil, bool, int64,
// float64, string, []byte, []any, map[any]any or a Row.
type Row map[string]any

// deepest bounds how far rows nest.
const deepest = 20

var errShort = errors.New("the row is cut short")

// DecodeRow reads a row as Beam's row coder writes it.
func DecodeRow(schema *pipepb.Schema, data []byte) (Row, error) {
	d := decoder{left: data}
	row, err := d.row(schema, 0)
	if err != nil {
		return nil, err
	}
	if len(d.left) > 0 {
		return nil, fmt.Errorf("%d bytes are left over behind the row", len(d.left))
	}
	return row, nil
}

type decoder struct{ left []byte }

func (d *decoder) take(n uint64) ([]byte, error) {
	if n > uint64(len(d.left)) {
		return nil, errShort
	}
	b := d.left[:n]
	d.left = d.left[n:]
	return b, nil
}

func (d *decoder) varint() (uint64, error) {
	v, n := binary.Uvarint(d.left)
	if n <= 0 {
		return 0, errShort
	}
	d.left = d.left[n:]
	return v, nil
}

// prefixed reads bytes after their length.
func (d *decoder) prefixed() ([]byte, error) {
	n, err := d.varint()
	if err != nil {
		return nil, err
	}
	return d.take(n)
}

func (d *decoder) row(schema *pipepb.Schema, depth int) (Row, error) {
	if depth > deepest {
		return nil, errors.New("rows are nested too deep")
	}
	fields := schema.GetFields()
	count, err := d.varint()
	if err != nil {
		return nil, err
	}
	if count > uint64(len(fields)) {
		return nil, fmt.Errorf("a row of %d fields for a schema of %d", count, len(fields))
	}
	nulls, err := d.prefixed()
	if err != nil {
		return nil, err
	}
	order := fields
	if schema.GetEncodingPositionsSet() {
		order = make([]*pipepb.Field, len(fields))
		for _, f := range fields {
			if at := f.GetEncodingPosition(); at < 0 || int(at) >= len(fields) || order[at] != nil {
				return nil, errors.New("the schema's encoding positions are no order of its fields")
			}
			order[f.GetEncodingPosition()] = f
		}
	}
	row := Row{}
	for i, f := range order[:count] {
		if i/8 < len(nulls) && nulls[i/8]&(1<<(i%8)) != 0 {
			row[f.GetName()] = nil
			continue
		}
		if row[f.GetName()], err = d.value(f.GetType(), depth); err != nil {
			return nil, fmt.Errorf("field %q: %w", f.GetName(), err)
		}
	}
	return row, nil
}

func (d *decoder) value(t *pipepb.FieldType, depth int) (any, error) {
	switch info := t.GetTypeInfo().(type) {
	case *pipepb.FieldType_AtomicType:
		return d.atom(info.AtomicType)
	case *pipepb.FieldType_ArrayType:
		return d.list(info.ArrayType.GetElementType(), depth)
	case *pipepb.FieldType_IterableType:
		return d.list(info.IterableType.GetElementType(), depth)
	case *pipepb.FieldType_MapType:
		return d.table(info.MapType, depth)
	case *pipepb.FieldType_RowType:
		return d.row(info.RowType.GetSchema(), depth+1)
	case *pipepb.FieldType_LogicalType:
		return d.value(info.LogicalType.GetRepresentation(), depth)
	}
	return nil, errors.New("a type that is not known")
}

func (d *decoder) atom(t pipepb.AtomicType) (any, error) {
	fixed := func(n uint64) (uint64, error) {
		b, err := d.take(n)
		var v uint64
		for _, x := range b {
			v = v<<8 | uint64(x)
		}
		return v, err
	}
	switch t {
	case pipepb.AtomicType_BOOLEAN:
		v, err := fixed(1)
		return v != 0, err
	case pipepb.AtomicType_BYTE:
		v, err := fixed(1)
		return int64(int8(v)), err
	case pipepb.AtomicType_INT16:
		v, err := fixed(2)
		return int64(int16(v)), err
	case pipepb.AtomicType_INT32:
		v, err := d.varint()
		return int64(int32(v)), err
	case pipepb.AtomicType_INT64:
		v, err := d.varint()
		return int64(v), err
	case pipepb.AtomicType_FLOAT:
		v, err := fixed(4)
		return float64(math.Float32frombits(uint32(v))), err
	case pipepb.AtomicType_DOUBLE:
		v, err := fixed(8)
		return math.Float64frombits(v), err
	case pipepb.AtomicType_STRING:
		b, err := d.prefixed()
		return string(b), err
	case pipepb.AtomicType_BYTES:
		return d.prefixed()
	}
	return nil, fmt.Errorf("the type %s is not known", t)
}

// count reads how many elements follow, each of which has a byte at least.
func (d *decoder) count() (int, error) {
	b, err := d.take(4)
	if err != nil {
		return 0, err
	}
	n := int32(binary.BigEndian.Uint32(b))
	if n < 0 || int(n) > len(d.left) {
		return 0, errShort
	}
	return int(n), nil
}

// element is a value that says itself whether it is null.
func (d *decoder) element(t *pipepb.FieldType, depth int) (any, error) {
	if t.GetNullable() {
		b, err := d.take(1)
		if err != nil || b[0] == 0 {
			return nil, err
		}
	}
	return d.value(t, depth)
}

func (d *decoder) list(t *pipepb.FieldType, depth int) (any, error) {
	n, err := d.count()
	if err != nil {
		return nil, err
	}
	all := make([]any, n)
	for i := range all {
		if all[i], err = d.element(t, depth); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (d *decoder) table(t *pipepb.MapType, depth int) (any, error) {
	n, err := d.count()
	if err != nil {
		return nil, err
	}
	all := make(map[any]any, n)
	for range n {
		k, err := d.value(t.GetKeyType(), depth)
		if err != nil {
			return nil, err
		}
		switch k.(type) {
		case string, int64, bool:
		default:
			return nil, errors.New("a map's keys must be strings, integers or booleans")
		}
		if all[k], err = d.element(t.GetValueType(), depth); err != nil {
			return nil, err
		}
	}
	return all, nil
}
