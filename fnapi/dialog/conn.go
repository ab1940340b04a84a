package dialog

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	readBuffer = 64 << 10 // bytes per system call
	keptOut    = 1 << 20  // a buffer for what is said that is larger is not kept
	mostFrame  = 16 << 10 // of a peer's frames; HTTP/2's default and least
	mostHeader = 64 << 10 // of a stream's headers
	mostAtOnce = 128      // streams of a connection

	connWindow = 4 * streamWindow
	http2Start = 65535 // each window before anybody says otherwise

	// writeTime is how long a peer may leave all that was said unread before its
	// connection counts as dead; at least half of it.
	writeTime = time.Minute
	// pongAfter is how long a ping waits for its answer. gRPC clients send a ping,
	// and an update of their window, with what they hear unless one is under way,
	// to measure the line: with answers at once that is twice the frames.
	pongAfter = 20 * time.Millisecond
	// mostPings may wait for their answer.
	mostPings = 16
)

// A conn is one connection of a peer. Its reader is serve's goroutine.
type conn struct {
	server *Server
	net    net.Conn
	in     *bufio.Reader
	frames *http2.Framer // reading is the reader's, writing wants mu
	owed   int           // what the peer has sent since it was told of more room

	parked atomic.Bool // the reader waits: who says something sends it

	mu       sync.Mutex
	out      []byte // frames to be sent
	headers  *hpack.Encoder
	block    bytes.Buffer // what headers writes to
	streams  map[uint32]*Stream
	last     uint32 // the latest stream's id
	away     bool   // no further stream
	room     int64  // what the peer will take
	begin    int64  // what it will take of a new stream
	maxFrame int
	pings    [][8]byte // to be answered
	broken   error     // why nothing can be sent any more
	extended time.Time // when the deadline for writing was set
}

func newConn(s *Server, nc net.Conn) *conn {
	c := &conn{server: s, net: nc, streams: make(map[uint32]*Stream), room: http2Start, begin: http2Start, maxFrame: mostFrame}
	c.in = bufio.NewReaderSize(source{c}, readBuffer)
	c.frames = http2.NewFramer(sink{c}, c.in)
	c.frames.SetReuseFrames()
	c.frames.SetMaxReadFrameSize(mostFrame)
	c.frames.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.frames.MaxHeaderListSize = mostHeader
	c.headers = hpack.NewEncoder(&c.block)
	c.headers.SetMaxDynamicTableSize(0) // the peer's limit is none of our business then
	return c
}

// serve runs the connection to its end.
func (c *conn) serve() {
	err := c.greet()
	for err == nil {
		var f http2.Frame
		if f, err = c.frames.ReadFrame(); err == nil {
			err = c.handle(f)
		}
		var one http2.StreamError
		if errors.As(err, &one) {
			c.refuse(one)
			err = nil
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var broken http2.ConnectionError
	if errors.As(err, &broken) {
		c.sendGoAway(http2.ErrCode(broken))
	}
	c.broken = net.ErrClosed
	_ = c.net.Close()
	for _, s := range c.streams {
		s.remove()
	}
}

// greet does what comes before the first stream. Both sides speak at once.
func (c *conn) greet() error {
	c.mu.Lock()
	// What is written to memory doesn't fail.
	_ = c.frames.WriteSettings(
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: streamWindow},
		http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: mostAtOnce},
		http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: mostHeader},
	)
	_ = c.frames.WriteWindowUpdate(0, connWindow-http2Start)
	c.mu.Unlock()
	if err := c.net.SetReadDeadline(time.Now().Add(c.server.opts.Greeting)); err != nil {
		return err
	}
	var preface [len(http2.ClientPreface)]byte
	if _, err := io.ReadFull(c.in, preface[:]); err != nil {
		return err
	}
	if string(preface[:]) != http2.ClientPreface {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	f, err := c.frames.ReadFrame()
	if err != nil {
		return err
	}
	settings, ok := f.(*http2.SettingsFrame)
	if !ok || settings.IsAck() {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	if err := c.net.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	return c.set(settings)
}

// handle does what a frame says.
func (c *conn) handle(f http2.Frame) error {
	switch f := f.(type) {
	case *http2.DataFrame:
		return c.data(f)
	case *http2.WindowUpdateFrame:
		return c.update(f)
	case *http2.MetaHeadersFrame:
		return c.call(f)
	case *http2.SettingsFrame:
		return c.set(f)
	case *http2.PingFrame:
		return c.ping(f)
	case *http2.RSTStreamFrame:
		c.mu.Lock()
		defer c.mu.Unlock()
		if s := c.streams[f.StreamID]; s != nil {
			s.remove()
		} else if f.StreamID > c.last {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
	case *http2.PushPromiseFrame:
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	return nil // what is left may be ignored
}

// data gives a frame to its stream. What belongs to none came too late.
func (c *conn) data(f *http2.DataFrame) error {
	size := int(f.Length)
	if c.owed += size; c.owed >= connWindow/2 {
		c.grant(0, c.owed)
		c.owed = 0
	}
	c.mu.Lock()
	s, last := c.streams[f.StreamID], c.last
	c.mu.Unlock()
	switch {
	case s == nil && f.StreamID > last:
		return http2.ConnectionError(http2.ErrCodeProtocol)
	case s == nil:
		return nil
	case s.heardAll.Load():
		return http2.StreamError{StreamID: s.id, Code: http2.ErrCodeStreamClosed}
	case size > s.window:
		return http2.ConnectionError(http2.ErrCodeFlowControl)
	}
	s.take(f.Data(), size, f.StreamEnded())
	return nil
}

// grant tells the peer that it may send more on a stream, or, for 0, in all.
func (c *conn) grant(stream uint32, bytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.frames.WriteWindowUpdate(stream, uint32(bytes))
}

const mostRoom = 1<<31 - 1 // by HTTP/2's rules

// update notes that the peer will take more.
func (c *conn) update(f *http2.WindowUpdateFrame) error {
	err := c.more(f.StreamID, int64(f.Increment))
	c.push()
	return err
}

func (c *conn) more(stream uint32, bytes int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if stream == 0 {
		if c.room += bytes; c.room > mostRoom {
			return http2.ConnectionError(http2.ErrCodeFlowControl)
		}
	} else if s := c.streams[stream]; s != nil {
		if s.room += bytes; s.room > mostRoom {
			return http2.StreamError{StreamID: stream, Code: http2.ErrCodeFlowControl}
		}
	}
	return nil
}

// push sends what the peer has room for now, and hears those that had to wait
// for that.
func (c *conn) push() {
	c.mu.Lock()
	var waiting []*Stream
	for _, s := range c.streams {
		// What a deaf one had to send may have gone with what another goroutine said.
		if len(s.unsent) > 0 || s.deaf {
			s.push()
			waiting = append(waiting, s)
		}
	}
	c.mu.Unlock()
	for _, s := range waiting {
		s.again()
	}
}

// set heeds the peer's settings.
func (c *conn) set(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return nil
	}
	c.mu.Lock()
	err := f.ForeachSetting(func(s http2.Setting) error {
		if err := s.Valid(); err != nil {
			return err
		}
		switch s.ID {
		case http2.SettingInitialWindowSize:
			more := int64(s.Val) - c.begin
			c.begin = int64(s.Val)
			for _, s := range c.streams {
				if s.room += more; s.room > mostRoom {
					return http2.ConnectionError(http2.ErrCodeFlowControl)
				}
			}
		case http2.SettingMaxFrameSize:
			c.maxFrame = int(s.Val)
		}
		return nil
	})
	_ = c.frames.WriteSettingsAck()
	c.mu.Unlock()
	c.push()
	return err
}

// ping has the ping answered a little later; at once where the peer's window is
// what holds us up, which it may widen by what it measures.
func (c *conn) ping(f *http2.PingFrame) error {
	if f.IsAck() {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pings = append(c.pings, f.Data)
	for _, s := range c.streams {
		if len(s.unsent) > 0 {
			return c.pong()
		}
	}
	switch len(c.pings) {
	case 1:
		return c.net.SetReadDeadline(time.Now().Add(pongAfter)) // see source.Read
	case mostPings:
		return c.pong()
	}
	return nil
}

// pong answers all pings. The lock is held.
func (c *conn) pong() error {
	for _, data := range c.pings {
		_ = c.frames.WritePing(true, data)
	}
	c.pings = c.pings[:0]
	return c.net.SetReadDeadline(time.Time{})
}

// refuse resets a stream.
func (c *conn) refuse(err http2.StreamError) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = max(c.last, err.StreamID)
	c.reset(err.StreamID, err.Code)
	if s := c.streams[err.StreamID]; s != nil {
		s.remove()
	}
}

// call begins a stream.
func (c *conn) call(f *http2.MetaHeadersFrame) error {
	ctx, cancel := context.WithCancel(metadata.NewIncomingContext(context.Background(), metadataOf(f)))
	s := &Stream{conn: c, id: f.StreamID, cancel: cancel, window: streamWindow}
	if err := c.enter(s, f); err != nil {
		cancel()
		return err
	}
	var err error
	switch {
	case f.Truncated:
		err = status.Errorf(codes.ResourceExhausted, "headers of more than %d bytes", mostHeader)
	case f.PseudoValue("path") != c.server.method:
		err = status.Errorf(codes.Unimplemented, "nothing but %s is served here", c.server.method)
	case f.PseudoValue("method") != "POST":
		err = status.Error(codes.Internal, "a call is a POST")
	default:
		s.listener, err = c.server.open(ctx, s)
	}
	if err != nil {
		s.End(err)
		return nil
	}
	c.mu.Lock()
	if !s.over {
		c.writeHeaders(s.id, false, ":status", "200", "content-type", "application/grpc")
		s.began = true
	}
	c.mu.Unlock()
	if f.StreamEnded() {
		s.take(nil, 0, true)
	}
	return nil
}

// enter makes s one of the connection's streams, if it may be.
func (c *conn) enter(s *Stream, f *http2.MetaHeadersFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.streams[s.id]; old != nil || s.id%2 == 0 || s.id <= c.last {
		return http2.ConnectionError(http2.ErrCodeProtocol) // gRPC's callers send no trailers
	}
	c.last = s.id
	if c.away || len(c.streams) >= mostAtOnce {
		return http2.StreamError{StreamID: s.id, Code: http2.ErrCodeRefusedStream}
	}
	s.room = c.begin
	c.streams[s.id] = s
	return nil
}

// metadataOf are the headers that are the caller's.
func metadataOf(f *http2.MetaHeadersFrame) metadata.MD {
	md := metadata.MD{}
	for _, h := range f.RegularFields() {
		if !strings.HasSuffix(h.Name, "-bin") { // nobody asks for these
			md.Append(h.Name, h.Value)
		}
	}
	return md
}

// A source is what the reader reads from.
type source struct{ c *conn }

// Read sends what was said before it waits, and answers pings meanwhile.
func (r source) Read(p []byte) (int, error) {
	for {
		r.c.park()
		n, err := r.c.net.Read(p)
		r.c.unpark()
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) || !r.c.late() {
			return n, err
		}
	}
}

// late answers pings whose time has come; it reports whether there were any.
func (c *conn) late() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.pings) > 0 && c.pong() == nil
}
