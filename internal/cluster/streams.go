package cluster

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"time"
)

// Streams are plain connections between JobManagers, for a protocol of their own
// such as Raft's, under the same Security as calls. It is a net.Listener that
// can dial, too.
type Streams struct {
	net.Listener
	security *Security
	protocol string
	patience time.Duration
	// Greeting is what Dial writes first, in the clear: for a port that others
	// share, whose listener takes it off again. Set it before the first Dial.
	Greeting string
}

// Streams makes connections out of those of a listener. Both ends must name the
// same protocol, so that a call or another protocol's stream that comes to the
// wrong port is refused.
func (s *Security) Streams(l net.Listener, protocol string) *Streams {
	return &Streams{Listener: l, security: s, protocol: protocol, patience: 5 * time.Second}
}

// Accept waits for a connection. Who is at its other end is found out by the
// first Read or Write, which fails when they don't show it within seconds.
func (s *Streams) Accept() (net.Conn, error) {
	c, err := s.Listener.Accept()
	if err != nil || s.security.insecure {
		return c, err
	}
	config := s.security.ServerTLS(Deciders)
	config.NextProtos = []string{s.protocol}
	verify := config.VerifyConnection
	config.VerifyConnection = func(state tls.ConnectionState) error {
		if state.NegotiatedProtocol != s.protocol {
			return fmt.Errorf("this port speaks %s", s.protocol)
		}
		return verify(state)
	}
	return &accepted{Conn: tls.Server(c, config), patience: s.patience}, nil
}

// Dial connects to the same protocol's listener at HOST:PORT.
func (s *Streams) Dial(addr string, timeout time.Duration) (net.Conn, error) {
	if timeout <= 0 {
		timeout = s.patience
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	c, err := dial(ctx, addr, s.patience)
	if err == nil && s.Greeting != "" {
		if _, err = c.Write([]byte(s.Greeting)); err != nil {
			_ = c.Close()
		}
	}
	if err != nil || s.security.insecure {
		return c, err
	}
	config := s.security.ClientTLS()
	config.NextProtos = []string{s.protocol}
	config.VerifyConnection = only("it is dialled as a JobManager's", JobManager)
	config.ServerName, _, err = net.SplitHostPort(addr)
	if err == nil {
		t := tls.Client(c, config)
		if err = t.HandshakeContext(ctx); err == nil {
			return t, nil
		}
	}
	_ = c.Close()
	return nil, fmt.Errorf("dial %s: %w", addr, err)
}

// accepted is a connection whose other end has yet to show who it is. The
// listener doesn't wait for that, nor may a stranger keep a reader for ever.
type accepted struct {
	*tls.Conn
	patience time.Duration
	once     sync.Once
	err      error
}

func (a *accepted) greet() error {
	a.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), a.patience)
		defer cancel()
		a.err = a.HandshakeContext(ctx)
	})
	return a.err
}

func (a *accepted) Read(b []byte) (int, error) {
	if err := a.greet(); err != nil {
		return 0, err
	}
	return a.Conn.Read(b)
}

func (a *accepted) Write(b []byte) (int, error) {
	if err := a.greet(); err != nil {
		return 0, err
	}
	return a.Conn.Write(b)
}
