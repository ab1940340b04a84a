package cluster

import (
	"encoding/json"
	"fmt"

	"trestle/internal/bufpool"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// A Frame is a message of raw bytes in a pooled buffer. To send it gives it
// away, also when sending fails. Whoever receives one frees it; a frame that
// nobody frees is the garbage collector's.
type Frame struct {
	buffer mem.Buffer // what came in; nil if room is set or when given away
	room   *[]byte    // what goes out, from frames
}

// NewFrame returns a frame of n bytes, whose content is whatever was there.
func NewFrame(n int) *Frame { return &Frame{room: frames.Get(n)} }

// Bytes are the frame's. They are void after Free, and once it was sent.
func (f *Frame) Bytes() []byte {
	switch {
	case f.room != nil:
		return *f.room
	case f.buffer != nil:
		return f.buffer.ReadOnlyData()
	}
	return nil
}

// Cut shortens a frame that was made by NewFrame to its first n bytes.
func (f *Frame) Cut(n int) { *f.room = (*f.room)[:n] }

// Free gives the bytes back. It may be called twice.
func (f *Frame) Free() {
	if f.room != nil {
		frames.Put(f.room)
	}
	if f.buffer != nil {
		f.buffer.Free()
	}
	f.room, f.buffer = nil, nil
}

// codec is what all calls use: a *Frame travels as it is, messages of services
// that were registered as protocol buffers, all else as JSON.
type codec struct{}

// Name is the content subtype of the calls.
func (codec) Name() string { return "trestle" }

// Marshal hands an outgoing message to gRPC, which frees it once it is written.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	f, ok := v.(*Frame)
	if !ok {
		b, err := encode(v)
		if err != nil {
			return nil, err
		}
		return mem.BufferSlice{mem.SliceBuffer(b)}, nil
	}
	out := f.buffer // passed on as it came
	if f.room != nil {
		out = mem.NewBuffer(f.room, frames)
	}
	f.room, f.buffer = nil, nil
	if out == nil {
		return mem.BufferSlice{}, nil
	}
	return mem.BufferSlice{out}, nil
}

// Unmarshal reads an incoming message. A frame is made contiguous, which copies
// it once unless it came in one piece. gRPC frees its own buffers afterwards.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	whole := data.MaterializeToBuffer(frames)
	if f, ok := v.(*Frame); ok {
		f.buffer = whole
		return nil
	}
	defer whole.Free()
	if err := decode(whole.ReadOnlyData(), v); err != nil {
		return fmt.Errorf("read message: %w", err)
	}
	return nil
}

func encode(v any) ([]byte, error) {
	if m, ok := v.(proto.Message); ok {
		return proto.Marshal(m)
	}
	return json.Marshal(v)
}

// decode copies what it takes out of data.
func decode(data []byte, v any) error {
	if m, ok := v.(proto.Message); ok {
		return proto.Unmarshal(data, m)
	}
	return json.Unmarshal(data, v)
}

// frames is the pool of frames' bytes: from 1 KiB, below which gRPC doesn't give
// buffers back, to 8 MiB.
var frames = bufpool.New(10, 23)
