package dialog

import (
	"strconv"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A sink takes the frames that are written, for flush. The lock is held.
type sink struct{ c *conn }

func (w sink) Write(p []byte) (int, error) {
	w.c.out = append(w.c.out, p...)
	return len(p), nil
}

// park sends what was said; from now on who says something sends it. It is the
// reader's, as unpark is.
func (c *conn) park() {
	c.parked.Store(true)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flush()
}

func (c *conn) unpark() { c.parked.Store(false) }

// flushIfParked sends what was said if the reader won't. The lock is held.
func (c *conn) flushIfParked() {
	if c.parked.Load() {
		c.flush()
	}
}

// flush sends what was said. A failure ends the connection, of which its reader
// hears. The lock is held: while the peer takes nothing, nobody can say more.
func (c *conn) flush() {
	if len(c.out) == 0 || c.broken != nil {
		c.out = c.out[:0]
		return
	}
	if now := time.Now(); now.Sub(c.extended) > writeTime/2 {
		c.extended = now
		c.broken = c.net.SetWriteDeadline(now.Add(writeTime))
	}
	if c.broken == nil {
		_, c.broken = c.net.Write(c.out)
	}
	if c.broken != nil {
		_ = c.net.Close()
	}
	if c.out = c.out[:0]; cap(c.out) > keptOut {
		c.out = nil
	}
}

// goAway takes no further streams, and ends the connection with the last one.
func (c *conn) goAway() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.away {
		return
	}
	c.away = true
	c.sendGoAway(http2.ErrCodeNo)
	c.endIfIdle()
}

func (c *conn) sendGoAway(code http2.ErrCode) {
	_ = c.frames.WriteGoAway(c.last, code, nil)
	c.flush()
}

// endIfIdle ends a connection that takes no further streams and has none. The
// lock is held.
func (c *conn) endIfIdle() {
	if c.away && len(c.streams) == 0 {
		c.flush()
		_ = c.net.Close() // of which its reader hears
	}
}

// reset tells the peer that a stream has broken. The lock is held.
func (c *conn) reset(stream uint32, code http2.ErrCode) {
	_ = c.frames.WriteRSTStream(stream, code)
}

// trailers end a stream of the peer's. The lock is held.
func (c *conn) trailers(s *Stream, st *status.Status) {
	fields := []string{"grpc-status", strconv.Itoa(int(st.Code()))}
	if !s.began {
		fields = append([]string{":status", "200", "content-type", "application/grpc"}, fields...)
	}
	if st.Code() != codes.OK {
		fields = append(fields, "grpc-message", escape(st.Message()))
	}
	c.writeHeaders(s.id, true, fields...)
	if !s.heardAll.Load() {
		c.reset(s.id, http2.ErrCodeNo) // it need not go on
	}
}

// writeHeaders writes names and values. The lock is held.
func (c *conn) writeHeaders(stream uint32, last bool, fields ...string) {
	c.block.Reset()
	for i := 0; i < len(fields); i += 2 {
		_ = c.headers.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	_ = c.frames.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: c.block.Bytes(), EndStream: last, EndHeaders: true})
}

// mostMessage bounds the text of a status: it has to fit into a frame.
const mostMessage = 2 << 10

// escape writes text as gRPC wants it in a header.
func escape(text string) string {
	const hex = "0123456789ABCDEF"
	var b []byte
	for i := 0; i < len(text) && len(b) < mostMessage; i++ {
		if ch := text[i]; ch >= ' ' && ch <= '~' && ch != '%' {
			b = append(b, ch)
		} else {
			b = append(b, '%', hex[ch>>4], hex[ch&15])
		}
	}
	return string(b)
}
