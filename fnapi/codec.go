package fnapi

import (
	"trestle/internal/bufpool"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"trestle/internal/invariant"
)

// A codec carries Elements messages as they are on the wire, so that chunks are
// neither copied by protobuf nor allocated for. It is that of the lanes' gRPC
// servers; what else they serve is protobuf's.
type codec struct{}

var protobuf = encoding.GetCodecV2("proto")

// Name is that of the codec it stands in for, since SDKs speak protobuf.
func (codec) Name() string { return "proto" }

// Marshal hands an outgoing message over to gRPC, which frees it once it is
// written.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(*outgoing)
	if !ok {
		return protobuf.Marshal(v)
	}
	return mem.BufferSlice{m.release()}, nil
}

// Unmarshal makes an incoming message contiguous, which copies it once unless it
// came in one HTTP/2 frame. gRPC frees its own buffers afterwards.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(*incoming)
	if !ok {
		return protobuf.Unmarshal(data, v)
	}
	m.buffer = data.MaterializeToBuffer(chunks)
	return nil
}

// An incoming is an encoded Elements message from a worker.
type incoming struct {
	buffer mem.Buffer
}

// free gives the bytes back to the pool; entries of it are void.
func (m *incoming) free() {
	m.buffer.Free()
	m.buffer = nil
}

// An outgoing is an encoded Elements message to a worker, in a pooled buffer.
// It is sent once or freed.
type outgoing struct {
	bytes *[]byte // from chunks; nil when released
}

// newOutgoing makes room for a message of that size.
func newOutgoing(size int) *outgoing {
	return &outgoing{bytes: chunks.Get(size)}
}

// start begins a message of one entry.
func (m *outgoing) start(number protowire.Number, size int) []byte {
	return appendHeader((*m.bytes)[:0], number, size)
}

// finish takes the whole message, which has been appended in place.
func (m *outgoing) finish(b []byte) *outgoing {
	invariant.Check(len(b) == len(*m.bytes) && &b[0] == &(*m.bytes)[0], "elements message of %d bytes was measured as %d", len(b), len(*m.bytes))
	return m
}

func (m *outgoing) release() mem.Buffer {
	b := mem.NewBuffer(m.bytes, chunks)
	m.bytes = nil
	return b
}

func (m *outgoing) free() {
	chunks.Put(m.bytes)
	m.bytes = nil
}

// chunks is the pool of all data buffers: from 256 B, for last marks, to 16 MiB;
// Python flushes at 10, Go at 4.
var chunks = bufpool.New(8, 24)
