package dialog

import (
	"context"
	"encoding/binary"
	"sync/atomic"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// streamWindow is what a peer may send on a stream that has not been heard.
	streamWindow = 1 << 20
	// mostUnsent is from how many bytes on that the peer has no room for a stream
	// is left unheard.
	mostUnsent = 1 << 20
	// prefix is the length of what stands before each gRPC message.
	prefix = 5
)

// A Stream is one call of the method. Its methods may be called by any
// goroutine at any time.
type Stream struct {
	conn     *conn
	id       uint32
	listener Listener
	cancel   context.CancelFunc

	// Of the connection's reader alone.
	in     []byte // has come and was not heard: less than a message, or deaf
	deaf   bool   // because of unsent
	window int    // what the peer may send
	owed   int    // what it has sent since it was told of more room

	heardAll atomic.Bool // the peer says no more; set by the reader

	// Guarded by conn.mu.
	over   bool
	began  bool   // its headers are sent
	room   int64  // what the peer will take
	unsent []byte // what the peer has no room for
}

// Say sends a message. It copies it, and doesn't wait for the peer's flow
// control. After the stream's end nobody wants it any more.
func (s *Stream) Say(message []byte) {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.over {
		return
	}
	size := prefix + len(message)
	if whole := int64(size); len(s.unsent) == 0 && whole <= s.room && whole <= c.room && size <= c.maxFrame {
		c.out = appendFrameHeader(c.out, s.id, size)
		c.out = appendMessage(c.out, message)
		s.room -= whole
		c.room -= whole
	} else {
		s.unsent = appendMessage(s.unsent, message)
		s.push()
	}
	c.flushIfParked()
}

// End ends the stream with the status of err, OK if that is nil. What was said
// and could not be sent yet is thrown away.
func (s *Stream) End(err error) {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	s.end(err)
	c.flushIfParked()
}

// Wait runs f, which may wait for something other than the connection: what was
// said goes out before, and what is said meanwhile at once. It is for Hear.
func (s *Stream) Wait(f func()) {
	s.conn.park()
	defer s.conn.unpark()
	f()
}

// end is End. The lock is held.
func (s *Stream) end(err error) {
	if s.over {
		return
	}
	if len(s.unsent) > 0 {
		s.conn.reset(s.id, http2.ErrCodeCancel)
	} else {
		s.conn.trailers(s, status.Convert(err))
	}
	s.remove()
}

// remove forgets the stream. The lock is held.
func (s *Stream) remove() {
	s.over, s.unsent = true, nil
	s.cancel()
	delete(s.conn.streams, s.id)
	s.conn.endIfIdle()
}

// push sends what the peer has room for. The lock is held.
func (s *Stream) push() {
	c := s.conn
	for len(s.unsent) > 0 {
		n := min(int64(len(s.unsent)), s.room, c.room, int64(c.maxFrame))
		if n <= 0 {
			return
		}
		c.out = appendFrameHeader(c.out, s.id, int(n))
		c.out = append(c.out, s.unsent[:n]...)
		s.unsent = s.unsent[n:]
		s.room -= n
		c.room -= n
	}
	s.unsent = nil
}

// take hears what a frame of size bytes has brought.
func (s *Stream) take(data []byte, size int, last bool) {
	s.window -= size
	s.owed += size
	if last {
		s.heardAll.Store(true)
	}
	if len(s.in) > 0 {
		s.in = append(s.in, data...)
		data = s.in
	}
	s.hear(data)
}

// again hears what was left unheard.
func (s *Stream) again() {
	if s.deaf {
		s.hear(s.in)
	}
}

// hear hears the whole messages in b, and keeps the rest.
func (s *Stream) hear(b []byte) {
	rest, err := s.messages(b)
	switch {
	case len(rest) == 0:
		s.in = nil
	case len(rest) != len(s.in): // else it is kept already
		s.in = append([]byte(nil), rest...)
	}
	if err == nil && s.heardAll.Load() && len(rest) > 0 && !s.deaf {
		err = status.Error(codes.Internal, "the stream ended within a message")
	}
	if err != nil || s.heardAll.Load() && len(rest) == 0 {
		s.End(err)
		return
	}
	if !s.deaf && s.owed >= streamWindow/2 {
		s.conn.grant(s.id, s.owed)
		s.window += s.owed
		s.owed = 0
	}
}

func (s *Stream) messages(b []byte) (rest []byte, err error) {
	for {
		var over bool
		if s.deaf, over = s.state(); over {
			return nil, nil
		}
		if s.deaf || len(b) < prefix {
			return b, nil
		}
		if b[0] != 0 {
			return nil, status.Error(codes.Unimplemented, "messages must not be compressed")
		}
		n := uint64(binary.BigEndian.Uint32(b[1:]))
		if n > uint64(s.conn.server.opts.MaxMessageBytes) {
			return nil, status.Errorf(codes.ResourceExhausted, "a message of %d bytes; at most %d are taken", n, s.conn.server.opts.MaxMessageBytes)
		}
		if n > uint64(len(b)-prefix) {
			return b, nil
		}
		if err := s.listener.Hear(b[prefix : prefix+n]); err != nil {
			return nil, err
		}
		b = b[prefix+n:]
	}
}

func (s *Stream) state() (full, over bool) {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	return len(s.unsent) > mostUnsent, s.over
}

func appendMessage(dst, message []byte) []byte {
	dst = append(dst, 0) // not compressed
	return append(binary.BigEndian.AppendUint32(dst, uint32(len(message))), message...)
}

// appendFrameHeader begins a DATA frame.
func appendFrameHeader(dst []byte, stream uint32, size int) []byte {
	dst = append(dst, byte(size>>16), byte(size>>8), byte(size), byte(http2.FrameData), 0)
	return binary.BigEndian.AppendUint32(dst, stream)
}
