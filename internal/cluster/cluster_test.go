package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
)

// Structs and frames of all sizes arrive as they were sent.
func TestCall(t *testing.T) {
	addr := serve(t, Insecure(), ask.Serve(answered), double.Serve(func(_ context.Context, f *Frame) (*Frame, error) {
		defer f.Free()
		out := NewFrame(2 * len(f.Bytes()))
		copy(out.Bytes()[copy(out.Bytes(), f.Bytes()):], f.Bytes())
		return out, nil
	}))
	to := dialer(t, Insecure()).To(addr)
	got, err := ask.Do(within(t), to, &question{Text: "wörds"})
	if err != nil || got.Text != "wörds" || got.Caller == "" {
		t.Fatalf("answer %+v, %v", got, err)
	}
	for _, n := range []int{0, 1, 1000, 1025, 70_000, 9 << 20} {
		in := NewFrame(n + 1)
		for i := range in.Bytes() {
			in.Bytes()[i] = byte(i * 7)
		}
		in.Cut(n)
		want := bytes.Repeat(bytes.Clone(in.Bytes()), 2)
		out, err := double.Do(within(t), to, in)
		if err != nil || !bytes.Equal(out.Bytes(), want) {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if in.Bytes() != nil {
			t.Errorf("%d bytes: a frame that was sent is still there", n)
		}
		out.Free()
		out.Free()
	}
}

// What a handler says comes out as it was said; a panic is one more answer.
func TestErrors(t *testing.T) {
	addr := serve(t, Insecure(), ask.Serve(answered))
	to := dialer(t, Insecure()).To(addr)
	for _, c := range []struct{ do, kind, detail, text string }{
		{"fail", "", "", "no such thing"},
		{"refuse", "elsewhere", "10.0.0.1:1", "ask the leader"},
		{"panic", KindPanic, "", "/test/Ask panicked: at the disco"},
	} {
		_, err := ask.Do(within(t), to, &question{Do: c.do})
		e := (*Error)(nil)
		if !errors.As(err, &e) || e.Kind != c.kind || e.Detail != c.detail || e.Text != c.text || e.Peer != addr {
			t.Errorf("%s: %#v", c.do, err)
		}
	}
	if _, err := NewCall[question, answer]("test", "Other").Do(within(t), to, &question{}); !IsKind(err, KindUnknown) {
		t.Errorf("an unknown method: %v", err)
	}
	ctx, cancel := context.WithCancel(within(t))
	cancel()
	if _, err := ask.Do(ctx, to, &question{}); !errors.Is(err, context.Canceled) {
		t.Errorf("a call that was given up: %v", err)
	}
	// Bytes that are no question are an error, too.
	if _, err := NewCall[Frame, Frame]("test", "Ask").Do(within(t), to, NewFrame(10)); err == nil {
		t.Error("garbage was answered")
	}
	big := NewFrame(65 << 20)
	if _, err := NewCall[Frame, Frame]("test", "Ask").Do(within(t), to, big); err == nil || !strings.Contains(err.Error(), "larger than max") {
		t.Errorf("a message that is too large: %v", err)
	}
}

// Whoever can't be reached is named, with the reason.
func TestUnreachable(t *testing.T) {
	peers := dialer(t, Insecure())
	for _, addr := range []string{"127.0.0.1:1", silent(t), "no port", "%zz:1", "\x00"} {
		_, err := ask.Do(within(t), peers.To(addr), &question{})
		e := (*UnreachableError)(nil)
		if !errors.As(err, &e) || e.Peer != addr || e.Reason == "" || strings.Contains(e.Reason, "desc =") {
			t.Errorf("%q: %v", addr, err)
		}
		_, err = chat.Open(within(t), peers.To(addr))
		if !IsUnreachable(err) {
			t.Errorf("%q: a stream: %v", addr, err)
		}
	}
	peers.Close()
	if _, err := ask.Do(within(t), peers.To("127.0.0.1:2"), &question{}); !IsUnreachable(err) {
		t.Errorf("after Close: %v", err)
	}
}

// Both sides of a talk send as they like, and it ends as the handler says.
func TestTalk(t *testing.T) {
	addr := serve(t, Insecure(), chat.Serve(func(ctx context.Context, s *Stream[answer, question]) error {
		for n := 0; ; n++ {
			q, err := s.Recv()
			if errors.Is(err, io.EOF) {
				return s.Send(&answer{Text: fmt.Sprint(n, " in all")})
			}
			if err != nil {
				return err
			}
			if _, err := answered(ctx, q); err != nil {
				return err
			}
			if err := s.Send(&answer{Text: q.Text}); err != nil {
				return err
			}
		}
	}))
	to := dialer(t, Insecure()).To(addr)
	s, err := chat.Open(within(t), to)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i := range 10 {
		if err := s.Send(&question{Text: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
		if a, err := s.Recv(); err != nil || a.Text != fmt.Sprint(i) {
			t.Fatal(a, err)
		}
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if a, err := s.Recv(); err != nil || a.Text != "10 in all" {
		t.Fatal(a, err)
	}
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	for do, kind := range map[string]string{"panic": KindPanic, "refuse": "elsewhere"} {
		s, err := chat.Open(within(t), to)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Send(&question{Do: do}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Recv(); !IsKind(err, kind) {
			t.Errorf("%s: %v", do, err)
		}
		s.Close()
	}
}

// A stream that nobody reads holds its own sender up, and no other on the same
// connection.
func TestBackPressure(t *testing.T) {
	const size, frames = 64 << 10, 2000
	var sent atomic.Int64 // on the stream that nobody reads
	addr := serve(t, Insecure(), flow.Serve(func(_ context.Context, s *Stream[Frame, question]) error {
		q, err := s.Recv()
		if err != nil {
			return err
		}
		for range frames {
			if err := s.Send(NewFrame(size)); err != nil {
				return err
			}
			if q.Text == "slow" {
				sent.Add(1)
			}
		}
		return nil
	}))
	to := dialer(t, Insecure()).To(addr)
	open := func(name string) *Stream[question, Frame] {
		s, err := flow.Open(within(t), to)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		if err := s.Send(&question{Text: name}); err != nil {
			t.Fatal(err)
		}
		return s
	}
	slow, fast := open("slow"), open("fast")
	read := func(s *Stream[question, Frame]) {
		for n := 0; ; n++ {
			f, err := s.Recv()
			if errors.Is(err, io.EOF) && n == frames {
				return
			}
			if err != nil {
				t.Fatalf("after %d frames: %v", n, err)
			}
			f.Free()
		}
	}
	read(fast)
	if n, most := sent.Load(), int64(3<<20/size); n > most {
		t.Errorf("%d frames went into a stream that nobody reads, at most %d should", n, most)
	}
	read(slow)
}

// The end of a server ends the calls that wait in it, and says why.
func TestServerEnds(t *testing.T) {
	l, err := Insecure().Listen("127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(Insecure(), Options{})
	entered := make(chan struct{}, 1)
	s.Handle(ask.Serve(func(ctx context.Context, q *question) (*answer, error) {
		entered <- struct{}{}
		return answered(ctx, q)
	}))
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	to := dialer(t, Insecure()).To(l.Addr().String())
	told := make(chan error, 1)
	go func() {
		_, err := ask.Do(within(t), to, &question{Do: "wait"})
		told <- err
	}()
	<-entered
	stop()
	if err := <-told; !IsUnreachable(err) {
		t.Errorf("the waiting call: %v", err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
