package fnapi_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"trestle/fnapi"
	"trestle/fnapi/fnapitest"
)

func TestMain(m *testing.M) {
	if order := os.Getenv(echoEnv); order != "" {
		os.Exit(echoMain(order))
	}
	if order := os.Getenv(goSDKEnv); order != "" {
		os.Exit(goSDKMain(order))
	}
	goleak.VerifyTestMain(m)
}

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

func withTimeout(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// serve starts a server, and ends it with the test.
func serve(t testing.TB, lanes int) *fnapi.Server {
	t.Helper()
	return serveWith(t, lanes, fnapi.Options{})
}

func serveWith(t testing.TB, lanes int, opts fnapi.Options) *fnapi.Server {
	t.Helper()
	opts.Logger = slog.New(slog.DiscardHandler)
	data := make([]net.Listener, lanes)
	for i := range data {
		data[i] = listen(t)
	}
	s, err := fnapi.NewServer(opts, listen(t), data)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return s
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// connect admits a worker and runs h as it, to the end of the test.
func connect(t testing.TB, s *fnapi.Server, h *fnapitest.Harness) *fnapi.Worker {
	t.Helper()
	w, err := s.Admit(fnapi.Admission{Name: "fake"})
	if err != nil {
		t.Fatal(err)
	}
	h.ID, h.URL = w.ID(), w.URL()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = h.Run(context.Background())
	}()
	t.Cleanup(func() { w.Close(); <-ended })
	if err := w.Ready(withTimeout(t)); err != nil {
		t.Fatal(err)
	}
	return w
}

// echo sets a descriptor with one source, "in", and sinks on a lane.
func echo(w *fnapi.Worker, lane int, sinks ...string) fnapi.BundleStart {
	id := fmt.Sprintf("echo-%d-%s", lane, strings.Join(sinks, "-"))
	w.SetDescriptor(fnapitest.Descriptor(fnapitest.Shape{
		ID: id, DataURL: w.DataURL(lane), StateURL: w.StateURL(), Sources: []string{"in"}, Sinks: sinks,
	}))
	return fnapi.BundleStart{Descriptor: id, Sinks: sinks}
}

// A collector is an Output that keeps everything.
type collector struct {
	mu     sync.Mutex
	chunks map[string][]string // by transform, or transform/family
	err    error               // returned, if set
}

func (c *collector) Data(transform string, chunk []byte) error {
	return c.add(transform, chunk)
}

func (c *collector) Timers(transform, family string, chunk []byte) error {
	return c.add(transform+"/"+family, chunk)
}

func (c *collector) add(key string, chunk []byte) error {
	if !c.mu.TryLock() {
		return errors.New("two calls of one Output at once")
	}
	defer c.mu.Unlock()
	if c.chunks == nil {
		c.chunks = make(map[string][]string)
	}
	c.chunks[key] = append(c.chunks[key], string(chunk))
	return c.err
}

func (c *collector) all(key string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.chunks[key], "|")
}

// roundTrip runs a bundle of one input chunk, and says what came out of "out".
func roundTrip(t testing.TB, w *fnapi.Worker, lane int, chunk string) (string, error) {
	t.Helper()
	ctx := withTimeout(t)
	out := &collector{}
	start := echo(w, lane, "out")
	start.Output = out
	b, err := w.Start(ctx, start)
	if err != nil {
		return "", err
	}
	if err := b.Send(ctx, "in", []byte(chunk)); err != nil {
		_, err = b.Wait(ctx)
		return "", err
	}
	if err := b.CloseInput(ctx, []string{"in"}, nil); err != nil {
		_, err = b.Wait(ctx)
		return "", err
	}
	_, err = b.Wait(ctx)
	return out.all("out"), err
}

// works fails the test unless the worker still runs bundles.
func works(t testing.TB, w *fnapi.Worker, lane int) {
	t.Helper()
	if got, err := roundTrip(t, w, lane, "hello"); err != nil || got != "hello" {
		t.Fatalf("a bundle afterwards: %q, %v; want hello", got, err)
	}
}
