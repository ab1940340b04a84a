package cluster

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// hole is a proxy that swallows everything once it is told to, without
// breaking a connection: as a network does that has lost a machine.
func hole(t *testing.T, to string) (addr string, swallow *atomic.Bool) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	swallow = new(atomic.Bool)
	var wg sync.WaitGroup
	carry := func(to, from net.Conn) {
		defer to.Close()
		b := make([]byte, 32<<10)
		for {
			n, err := from.Read(b)
			if err != nil {
				return
			}
			if swallow.Load() {
				_, _ = io.Copy(io.Discard, from)
				return
			}
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
	}
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				_ = in.Close()
				continue
			}
			wg.Go(func() { carry(out, in) })
			wg.Go(func() { carry(in, out) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return l.Addr().String(), swallow
}

// A peer that has vanished fails the calls that wait for it, at both ends.
func TestVanished(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as a silence")
	}
	t.Parallel()
	ended := make(chan error, 1)
	entered := make(chan struct{})
	addr, swallow := hole(t, serve(t, Insecure(), flow.Serve(func(_ context.Context, s *Stream[Frame, question]) error {
		close(entered)
		_, err := s.Recv()
		ended <- err
		return err
	})))
	s, err := flow.Open(within(t), dialer(t, Insecure()).To(addr))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	<-entered
	swallow.Store(true)
	if _, err := s.Recv(); !IsUnreachable(err) {
		t.Errorf("the caller: %v", err)
	}
	if err := <-ended; err == nil {
		t.Error("the handler: no error")
	}
}
