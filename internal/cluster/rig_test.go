package cluster

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patient is how long a test waits for what must come.
const patient = 30 * time.Second

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	t.Cleanup(cancel)
	return ctx
}

// serve runs a server over loopback until the test ends, and gives its address.
func serve(t *testing.T, security *Security, methods ...Method) string {
	t.Helper()
	l, err := security.Listen("127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(security, Options{Log: slog.New(slog.DiscardHandler)})
	s.Handle(methods...)
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Serve(ctx, l); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { stop(); wg.Wait() })
	return l.Addr().String()
}

// dialer gives connections until the test ends.
func dialer(t *testing.T, security *Security) *Peers {
	t.Helper()
	p := NewPeers(security, Options{Patience: time.Second})
	t.Cleanup(p.Close)
	return p
}

type question struct {
	Text string
	Do   string
}

type answer struct {
	Text   string
	Caller string
}

var (
	ask    = NewCall[question, answer]("test", "Ask")
	double = NewCall[Frame, Frame]("test", "Double")
	chat   = NewTalk[question, answer]("test", "Chat")
	flow   = NewTalk[question, Frame]("test", "Flow")
)

func answered(ctx context.Context, q *question) (*answer, error) {
	switch q.Do {
	case "panic":
		panic("at the disco")
	case "fail":
		return nil, errors.New("no such thing")
	case "refuse":
		return nil, &Error{Kind: "elsewhere", Detail: "10.0.0.1:1", Text: "ask the leader"}
	case "wait":
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &answer{Text: q.Text, Caller: Caller(ctx)}, nil
}

// silent accepts connections and never says a word.
func silent(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { _, _ = io.Copy(io.Discard, c); _ = c.Close() })
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return l.Addr().String()
}
