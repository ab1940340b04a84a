package cluster

import (
	"encoding/json"
	"fmt"
	"math/bits"
	"sync"

	"google.golang.org/grpc/mem"
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

// codec is what all calls use: a *Frame travels as it is, all else as JSON.
type codec struct{}

// Name is the content subtype of the calls.
func (codec) Name() string { return "trestle" }

// Marshal hands an outgoing message to gRPC, which frees it once it is written.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	f, ok := v.(*Frame)
	if !ok {
		b, err := json.Marshal(v)
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
	if err := json.Unmarshal(whole.ReadOnlyData(), v); err != nil {
		return fmt.Errorf("read message: %w", err)
	}
	return nil
}

// frames is the pool of frames' bytes. It leaves old bytes in them: they are
// overwritten anyway.
var frames = &framePool{}

const (
	minFrameBits = 10 // below a KiB gRPC doesn't give buffers back
	maxFrameBits = 23 // 8 MiB
)

// A framePool keeps buffers by powers of two. It implements mem.BufferPool.
// What it holds is the garbage collector's to take.
type framePool struct {
	byBits [maxFrameBits + 1]sync.Pool // of *[]byte
}

// Get returns a buffer of that length, with any content.
func (p *framePool) Get(length int) *[]byte {
	class := max(bits.Len(uint(max(length, 1)-1)), minFrameBits)
	if class > maxFrameBits {
		b := make([]byte, length)
		return &b
	}
	if b, ok := p.byBits[class].Get().(*[]byte); ok {
		*b = (*b)[:length]
		return b
	}
	b := make([]byte, length, 1<<class)
	return &b
}

// Put takes a buffer back.
func (p *framePool) Put(b *[]byte) {
	class := bits.Len(uint(cap(*b))) - 1
	if class < minFrameBits || class > maxFrameBits || cap(*b) != 1<<class {
		return // too large to keep, or a stranger's
	}
	p.byBits[class].Put(b)
}
