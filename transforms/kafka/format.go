package kafka

import (
	"encoding/binary"
	"fmt"
	"reflect"
	"strings"
)

// A Format says how keys and values are to be read.
type Format struct {
	Key   Deserializer `json:"key,omitempty"`
	Value Deserializer `json:"value,omitempty"`
}

// A Deserializer makes a value of bytes, or the other way round.
type Deserializer string

// The deserializers, by the last part of the names of Kafka's classes.
const (
	AsBytes   Deserializer = "" // ByteArray
	AsString  Deserializer = "String"
	AsLong    Deserializer = "Long"
	AsInteger Deserializer = "Integer"
)

const serialization = "org.apache.kafka.common.serialization."

// parseClass reads the name of one of Kafka's classes; kind is Deserializer or
// Serializer.
func parseClass(class, kind string) (Deserializer, error) {
	if name, ok := strings.CutSuffix(strings.TrimPrefix(class, serialization), kind); ok {
		switch name {
		case "ByteArray":
			return AsBytes, nil
		case "String", "Long", "Integer":
			return Deserializer(name), nil
		}
	}
	return "", fmt.Errorf("%s %q is not supported: it would need Java; use ByteArray%s, String%s, Long%s or Integer%s of %s", strings.ToLower(kind), class, kind, kind, kind, kind, strings.TrimSuffix(serialization, "."))
}

func (d Deserializer) goType() reflect.Type {
	switch d {
	case AsString:
		return reflect.TypeFor[string]()
	case AsLong:
		return reflect.TypeFor[int64]()
	case AsInteger:
		return reflect.TypeFor[int32]()
	}
	return reflect.TypeFor[[]byte]()
}

// read makes the value. Null is nil with nulls, and the zero value without.
func (d Deserializer) read(b []byte, nulls bool) (any, error) {
	if b == nil && nulls {
		return nil, nil
	}
	switch d {
	case AsString:
		return string(b), nil
	case AsLong:
		if b == nil {
			return int64(0), nil
		}
		if len(b) != 8 {
			return nil, fmt.Errorf("%d bytes are no long, which has 8", len(b))
		}
		return int64(binary.BigEndian.Uint64(b)), nil
	case AsInteger:
		if b == nil {
			return int32(0), nil
		}
		if len(b) != 4 {
			return nil, fmt.Errorf("%d bytes are no integer, which has 4", len(b))
		}
		return int32(binary.BigEndian.Uint32(b)), nil
	}
	return b, nil
}
