package node

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// raftGreeting is what a connection of Raft begins with, before anything is
// encrypted. gRPC over TLS or in the clear begins otherwise.
const raftGreeting = "TRSTRAFT"

// greetWithin is how long a connection may take to say what it is.
const greetWithin = 5 * time.Second

// A split is one port for two protocols: a JobManager has one address.
type split struct {
	net.Listener
	raft, rest *branch
	greeting   sync.WaitGroup
}

// newSplit divides what comes to l. Run does the work.
func newSplit(l net.Listener) *split {
	s := &split{Listener: l}
	s.raft = &branch{split: s, conns: make(chan net.Conn), closed: make(chan struct{})}
	s.rest = &branch{split: s, conns: make(chan net.Conn), closed: make(chan struct{})}
	return s
}

// run accepts connections until ctx ends, which closes the listener.
func (s *split) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.Listener.Close() })
	defer stop()
	defer s.greeting.Wait()
	defer s.raft.Close()
	defer s.rest.Close()
	pause := time.Millisecond
	for {
		c, err := s.Listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil: // no file descriptors, perhaps; it passes
			time.Sleep(pause)
			pause = min(2*pause, time.Second)
			continue
		}
		pause = time.Millisecond
		s.greeting.Go(func() { s.sort(ctx, c) })
	}
}

// sort reads the first bytes of a connection and hands it on.
func (s *split) sort(ctx context.Context, c net.Conn) {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	first := make([]byte, len(raftGreeting))
	_ = c.SetReadDeadline(time.Now().Add(greetWithin)) // a connection that is gone says so when it is read
	if _, err := io.ReadFull(c, first); err != nil {
		c.Close()
		return
	}
	_ = c.SetReadDeadline(time.Time{})
	to := s.rest
	if string(first) == raftGreeting {
		to, first = s.raft, nil
	}
	select {
	case to.conns <- &begun{Conn: c, first: first}:
	case <-to.closed:
		c.Close()
	case <-ctx.Done():
		c.Close()
	}
}

// A branch is the listener of one protocol.
type branch struct {
	*split
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// Accept waits for a connection of the branch's protocol.
func (b *branch) Accept() (net.Conn, error) {
	select {
	case c := <-b.conns:
		return c, nil
	case <-b.closed:
		return nil, net.ErrClosed
	}
}

// Close ends the branch; the port is the split's.
func (b *branch) Close() error {
	b.once.Do(func() { close(b.closed) })
	return nil
}

// Addr is the port's.
func (b *branch) Addr() net.Addr { return b.split.Listener.Addr() }

// begun is a connection whose first bytes were read already.
type begun struct {
	net.Conn
	first []byte
}

func (c *begun) Read(p []byte) (int, error) {
	if len(c.first) > 0 {
		n := copy(p, c.first)
		c.first = c.first[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}
