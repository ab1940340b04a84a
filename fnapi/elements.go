package fnapi

import (
	"errors"
	"fmt"
	"math/bits"

	"google.golang.org/protobuf/encoding/protowire"
)

// Field numbers of org.apache.beam.model.fn_execution.v1.Elements and its parts.
const (
	fieldData   = 1 // of Elements
	fieldTimers = 2

	fieldInstruction = 1 // of Data and Timers
	fieldTransform   = 2

	fieldDataPayload = 3 // of Data
	fieldDataLast    = 4

	fieldFamily        = 3 // of Timers
	fieldTimersPayload = 4
	fieldTimersLast    = 5
)

// An entry is one Data or Timers message of an Elements message. Its slices
// point into the message.
type entry struct {
	instruction []byte
	transform   []byte
	family      []byte // of timers
	payload     []byte
	timers      bool
	last        bool
}

var errTruncated = errors.New("elements message: it ends in the middle of a field")

// nextEntry cuts the first entry off an encoded Elements message and returns
// the rest. Fields of other numbers are skipped. At the end of the message, ok
// is false.
func nextEntry(msg []byte, e *entry) (rest []byte, ok bool, err error) {
	for len(msg) > 0 {
		number, kind, n := consumeTag(msg)
		if n < 0 {
			return nil, false, errTruncated
		}
		msg = msg[n:]
		isEntry := number == fieldData || number == fieldTimers
		if isEntry && kind != protowire.BytesType {
			return nil, false, fmt.Errorf("elements message: field %d has wire type %d", number, kind)
		}
		if isEntry {
			body, n := protowire.ConsumeBytes(msg)
			if n < 0 {
				return nil, false, errTruncated
			}
			err := parseEntry(body, number == fieldTimers, e)
			return msg[n:], err == nil, err
		}
		n = protowire.ConsumeFieldValue(number, kind, msg)
		if n < 0 {
			return nil, false, errTruncated
		}
		msg = msg[n:]
	}
	return nil, false, nil
}

// consumeTag is protowire.ConsumeTag with the fast path that matters: one byte.
func consumeTag(b []byte) (protowire.Number, protowire.Type, int) {
	if len(b) > 0 && b[0] >= 8 && b[0] < 0x80 {
		return protowire.Number(b[0] >> 3), protowire.Type(b[0] & 7), 1
	}
	return protowire.ConsumeTag(b)
}

// parseEntry reads a Data or Timers message into e.
func parseEntry(b []byte, timers bool, e *entry) error {
	*e = entry{timers: timers}
	for len(b) > 0 {
		number, kind, n := consumeTag(b)
		if n < 0 {
			return errTruncated
		}
		b = b[n:]
		into, isLast := e.field(number)
		switch {
		case into != nil && kind == protowire.BytesType:
			*into, n = protowire.ConsumeBytes(b)
		case isLast && kind == protowire.VarintType:
			var v uint64
			v, n = protowire.ConsumeVarint(b)
			e.last = v != 0
		case into != nil || isLast:
			return fmt.Errorf("elements message: field %d of an entry has wire type %d", number, kind)
		default:
			n = protowire.ConsumeFieldValue(number, kind, b)
		}
		if n < 0 {
			return errTruncated
		}
		b = b[n:]
	}
	return nil
}

// field says where in e a field belongs.
func (e *entry) field(number protowire.Number) (into *[]byte, isLast bool) {
	switch {
	case number == fieldInstruction:
		return &e.instruction, false
	case number == fieldTransform:
		return &e.transform, false
	case e.timers && number == fieldFamily:
		return &e.family, false
	case e.timers && number == fieldTimersPayload, !e.timers && number == fieldDataPayload:
		return &e.payload, false
	}
	return nil, e.timers && number == fieldTimersLast || !e.timers && number == fieldDataLast
}

// encodeData is an Elements message of one chunk of data.
func encodeData(instruction, transform string, chunk []byte) *outgoing {
	size := sizeString(instruction) + sizeString(transform) + sizeBytes(len(chunk))
	m := newOutgoing(sizeBytes(size))
	b := m.start(fieldData, size)
	b = appendString(b, fieldInstruction, instruction)
	b = appendString(b, fieldTransform, transform)
	return m.finish(appendBytes(b, fieldDataPayload, chunk))
}

// encodeTimers is an Elements message of one chunk of timers.
func encodeTimers(instruction, transform, family string, chunk []byte) *outgoing {
	size := sizeString(instruction) + sizeString(transform) + sizeString(family) + sizeBytes(len(chunk))
	m := newOutgoing(sizeBytes(size))
	b := m.start(fieldTimers, size)
	b = appendString(b, fieldInstruction, instruction)
	b = appendString(b, fieldTransform, transform)
	b = appendString(b, fieldFamily, family)
	return m.finish(appendBytes(b, fieldTimersPayload, chunk))
}

// encodeLast is an Elements message of last marks.
func encodeLast(instruction string, sources []string, timers [][2]string) *outgoing {
	const mark = 2 // tag and true
	dataSize := func(s string) int { return sizeString(instruction) + sizeString(s) + mark }
	timerSize := func(t [2]string) int { return dataSize(t[0]) + sizeString(t[1]) }
	total := 0
	for _, s := range sources {
		total += sizeBytes(dataSize(s))
	}
	for _, t := range timers {
		total += sizeBytes(timerSize(t))
	}
	m := newOutgoing(total)
	b := (*m.bytes)[:0]
	for _, s := range sources {
		b = appendHeader(b, fieldData, dataSize(s))
		b = appendString(b, fieldInstruction, instruction)
		b = appendString(b, fieldTransform, s)
		b = appendTrue(b, fieldDataLast)
	}
	for _, t := range timers {
		b = appendHeader(b, fieldTimers, timerSize(t))
		b = appendString(b, fieldInstruction, instruction)
		b = appendString(b, fieldTransform, t[0])
		b = appendString(b, fieldFamily, t[1])
		b = appendTrue(b, fieldTimersLast)
	}
	return m.finish(b)
}

// The sizes are of fields whose tag is one byte, as all are here.

func sizeBytes(n int) int     { return 1 + (bits.Len64(uint64(n)|1)+6)/7 + n }
func sizeString(s string) int { return sizeBytes(len(s)) }

func appendHeader(b []byte, number protowire.Number, size int) []byte {
	b = protowire.AppendTag(b, number, protowire.BytesType)
	return protowire.AppendVarint(b, uint64(size))
}

func appendString(b []byte, number protowire.Number, s string) []byte {
	return append(appendHeader(b, number, len(s)), s...)
}

func appendBytes(b []byte, number protowire.Number, p []byte) []byte {
	return append(appendHeader(b, number, len(p)), p...)
}

func appendTrue(b []byte, number protowire.Number) []byte {
	return append(protowire.AppendTag(b, number, protowire.VarintType), 1)
}
