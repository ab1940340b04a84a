// Package dialog serves one gRPC method, a stream of small questions and their
// answers, at little cost for each.
//
// All that a connection has sent is read at once. Each message is heard in the
// goroutine that reads, and what is said in answer goes out together, before
// that goroutine waits for more: a system call each way for many messages, and
// nobody to wake. gRPC's server takes a message through four goroutines, which
// costs several times what most questions take to be answered.
//
// Messages of a stream are heard one at a time and in their order. Say never
// waits for the peer's flow control: what the peer has no room for is kept, and
// while that is much no further message of the stream is heard; in the end flow
// control holds up a peer that asks and doesn't listen.
//
// Who may call, and what messages mean, is for others to say; see package
// fnapi, whose state service this is for. It is no server for messages that come
// in pieces by the megabyte, or whose answers have to be waited for.
package dialog

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"
)

// A Listener hears a stream.
type Listener interface {
	// Hear is called with each message, by the goroutine that all streams of a
	// connection share: what has to wait is done elsewhere; but see Stream.Wait.
	// The bytes are valid during the call. An error ends the stream with its
	// status.
	Hear(message []byte) error
}

// Options of a Server. The zero value is good.
type Options struct {
	// Greeting is how long a peer may take from its connection to its first
	// words. Default: 3 s.
	Greeting time.Duration
	// MaxMessageBytes bounds a message of a peer. Default: 1 GiB.
	MaxMessageBytes int
}

// A Server serves a method to whoever connects.
type Server struct {
	method string
	open   func(ctx context.Context, s *Stream) (Listener, error)
	opts   Options

	ended   chan struct{}  // closed when no connection is taken any more
	running sync.WaitGroup // of connections

	mu       sync.Mutex
	listener net.Listener
	over     bool // ended is closed
	conns    map[*conn]struct{}
}

// NewServer makes a server of a method, "/package.Service/Method". open is
// called for each stream, with the caller's metadata in a context that ends
// with the stream; its error refuses the stream with its status.
func NewServer(method string, open func(ctx context.Context, s *Stream) (Listener, error), opts Options) *Server {
	if opts.Greeting <= 0 {
		opts.Greeting = 3 * time.Second
	}
	if opts.MaxMessageBytes <= 0 {
		opts.MaxMessageBytes = 1 << 30
	}
	return &Server{method: method, open: open, opts: opts, ended: make(chan struct{}), conns: make(map[*conn]struct{})}
}

// pauseAfterError is how long nothing is accepted where there was no room for
// another connection.
const pauseAfterError = 100 * time.Millisecond

// Serve takes connections until GracefulStop or Stop; then it returns nil. It
// may be called once. Connections may outlive it: GracefulStop waits for them.
func (s *Server) Serve(l net.Listener) error {
	s.mu.Lock()
	over := s.over
	s.listener = l
	s.mu.Unlock()
	if over {
		_ = l.Close()
		return nil
	}
	for {
		nc, err := l.Accept()
		if err == nil {
			s.take(nc)
			continue
		}
		select {
		case <-s.ended:
			return nil
		default:
		}
		if !crowded(err) {
			return fmt.Errorf("accept: %w", err)
		}
		select {
		case <-time.After(pauseAfterError):
		case <-s.ended:
			return nil
		}
	}
}

// crowded reports errors of Accept that pass.
func crowded(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// take serves a connection in a goroutine of its own.
func (s *Server) take(nc net.Conn) {
	c := newConn(s, nc)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		_ = nc.Close()
		return
	}
	s.conns[c] = struct{}{}
	s.running.Go(func() {
		c.serve()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, c)
	})
}

// GracefulStop takes no more connections and streams, and returns when those
// that are there have ended. A stream ends when its peer wants, or by End.
func (s *Server) GracefulStop() {
	for _, c := range s.end() {
		c.goAway()
	}
	s.running.Wait()
}

// Stop cuts all connections.
func (s *Server) Stop() {
	for _, c := range s.end() {
		_ = c.net.Close()
	}
	s.running.Wait()
}

// end takes no more connections, and returns those that there are.
func (s *Server) end() (all []*conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.over {
		s.over = true
		close(s.ended)
		if s.listener != nil {
			_ = s.listener.Close()
		}
	}
	for c := range s.conns {
		all = append(all, c)
	}
	return all
}
