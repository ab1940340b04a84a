package dialog_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"trestle/fnapi/dialog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const method = "/trestle.Test/Talk"

const patience = 20 * time.Second

// A heard is a listener that is a function.
type heard func(message []byte) error

func (h heard) Hear(message []byte) error { return h(message) }

type opener func(ctx context.Context, s *dialog.Stream) (dialog.Listener, error)

// serve serves to the end of the test, and returns where.
func serve(t *testing.T, opts dialog.Options, open opener) (*dialog.Server, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := dialog.NewServer(method, open, opts)
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return s, l.Addr().String()
}

// echo answers each message with itself.
func echo(_ context.Context, s *dialog.Stream) (dialog.Listener, error) {
	return heard(func(m []byte) error { s.Say(m); return nil }), nil
}

func dial(t *testing.T, addr string, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(addr, append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30), grpc.MaxCallSendMsgSize(1<<30)))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// talk opens a stream with gRPC's own client.
func talk(t *testing.T, conn *grpc.ClientConn, opts ...grpc.CallOption) grpc.ClientStream {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	ctx = metadata.AppendToOutgoingContext(ctx, "who", "me")
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func send(t *testing.T, s grpc.ClientStream, b []byte) {
	t.Helper()
	if err := s.SendMsg(&wrapperspb.BytesValue{Value: b}); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, s grpc.ClientStream) []byte {
	t.Helper()
	var m wrapperspb.BytesValue
	if err := s.RecvMsg(&m); err != nil {
		t.Fatal(err)
	}
	return m.Value
}

// What gRPC's client says on several streams of a connection at once comes back
// as it was, in its order, however long; many messages at once and one by one.
func TestEcho(t *testing.T) {
	_, addr := serve(t, dialog.Options{}, echo)
	conn := dial(t, addr)
	var all sync.WaitGroup
	for n := range 8 {
		s := talk(t, conn)
		all.Go(func() {
			r := rand.New(rand.NewPCG(uint64(n), 1))
			var want [][]byte
			for range 300 {
				size := r.IntN(200)
				if r.IntN(20) == 0 {
					size = r.IntN(300_000)
				}
				want = append(want, bytes.Repeat([]byte{byte(size)}, size))
			}
			want = append(want, bytes.Repeat([]byte{1}, 5<<20), nil)
			go func() {
				for _, m := range want {
					if s.SendMsg(&wrapperspb.BytesValue{Value: m}) != nil {
						return // the reader tells
					}
				}
			}()
			for i, w := range want {
				var m wrapperspb.BytesValue
				if err := s.RecvMsg(&m); err != nil || !bytes.Equal(m.Value, w) {
					t.Errorf("stream %d: message %d of %d bytes came back with %d, %v", n, i, len(w), len(m.Value), err)
					return
				}
			}
			for i := range 100 {
				send(t, s, []byte{byte(i)})
				if got := receive(t, s); len(got) != 1 || got[0] != byte(i) {
					t.Errorf("stream %d: %v came back for %d", n, got, i)
				}
			}
			if err := s.CloseSend(); err != nil {
				t.Error(err)
			}
			if err := s.RecvMsg(&wrapperspb.BytesValue{}); !errors.Is(err, io.EOF) {
				t.Errorf("the end: %v", err)
			}
		})
	}
	all.Wait()
}

// What somebody else says goes out while the reader waits for the peer.
func TestSayLater(t *testing.T) {
	streams := make(chan *dialog.Stream, 1)
	_, addr := serve(t, dialog.Options{}, func(ctx context.Context, s *dialog.Stream) (dialog.Listener, error) {
		if who := metadata.ValueFromIncomingContext(ctx, "who"); len(who) != 1 || who[0] != "me" {
			return nil, fmt.Errorf("who is %v", who)
		}
		streams <- s
		return heard(func([]byte) error { return nil }), nil
	})
	s := talk(t, dial(t, addr))
	said := <-streams
	for i := range 50 {
		b, _ := proto.Marshal(&wrapperspb.BytesValue{Value: []byte{byte(i)}})
		said.Say(b)
		if got := receive(t, s); got[0] != byte(i) {
			t.Fatalf("%v came for %d", got, i)
		}
	}
	said.End(nil)
	said.Say([]byte("nobody wants this"))
	if err := s.RecvMsg(&wrapperspb.BytesValue{}); !errors.Is(err, io.EOF) {
		t.Errorf("the end: %v", err)
	}
}

// A peer that asks and doesn't listen is held up; when it listens, nothing is
// missing.
func TestDeafPeer(t *testing.T) {
	const questions, size = 300, 100_000
	var asked atomic.Int64
	answer, _ := proto.Marshal(&wrapperspb.BytesValue{Value: make([]byte, size)})
	_, addr := serve(t, dialog.Options{}, func(_ context.Context, s *dialog.Stream) (dialog.Listener, error) {
		return heard(func([]byte) error { asked.Add(1); s.Say(answer); return nil }), nil
	})
	s := talk(t, dial(t, addr))
	question := make([]byte, 30_000)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for range questions {
			if s.SendMsg(&wrapperspb.BytesValue{Value: question}) != nil {
				return
			}
		}
		_ = s.SendMsg(&wrapperspb.BytesValue{})
	}()
	// It is heard until a megabyte waits for it, and no more. That is for how long
	// nothing moves, which no event tells.
	for before := int64(-1); before != asked.Load(); {
		before = asked.Load()
		select {
		case <-sent:
			t.Fatal("the peer asked all without listening")
		case <-time.After(200 * time.Millisecond):
		}
	}
	if n := asked.Load(); n < 5 || n*size > 4<<20 {
		t.Errorf("%d answers of %d bytes were made for a deaf peer", n, size)
	}
	for i := range questions + 1 {
		if got := receive(t, s); len(got) != size {
			t.Fatalf("answer %d has %d bytes", i, len(got))
		}
	}
	<-sent
}

// Streams end with the status that they were given, or that they deserve.
func TestStatus(t *testing.T) {
	_, addr := serve(t, dialog.Options{MaxMessageBytes: 1000}, func(ctx context.Context, s *dialog.Stream) (dialog.Listener, error) {
		if len(metadata.ValueFromIncomingContext(ctx, "refuse")) > 0 {
			return nil, status.Error(codes.Unauthenticated, "not you")
		}
		return heard(func(m []byte) error {
			s.Say(m)
			return status.Error(codes.InvalidArgument, "100 % wörong\n")
		}), nil
	})
	conn := dial(t, addr)
	end := func(s grpc.ClientStream) error {
		var m wrapperspb.BytesValue
		for {
			if err := s.RecvMsg(&m); err != nil {
				return err
			}
		}
	}
	check := func(name string, err error, code codes.Code, text string) {
		t.Helper()
		if status.Code(err) != code || !strings.Contains(status.Convert(err).Message(), text) {
			t.Errorf("%s: %v, want %v with %q", name, err, code, text)
		}
	}
	s := talk(t, conn)
	send(t, s, []byte("x"))
	if got := receive(t, s); string(got) != "x" {
		t.Errorf("%q came back", got)
	}
	check("an error", end(s), codes.InvalidArgument, "100 % wörong\n")
	s = talk(t, conn)
	send(t, s, make([]byte, 2000))
	check("a long message", end(s), codes.ResourceExhausted, "at most 1000")
	s = talk(t, conn, grpc.UseCompressor(gzip.Name))
	send(t, s, make([]byte, 200))
	check("a compressed message", end(s), codes.Unimplemented, "compressed")

	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := conn.Invoke(ctx, "/trestle.Test/Other", &wrapperspb.BytesValue{}, &wrapperspb.BytesValue{})
	check("another method", err, codes.Unimplemented, method)
	err = conn.Invoke(metadata.AppendToOutgoingContext(ctx, "refuse", "x"), method, &wrapperspb.BytesValue{}, &wrapperspb.BytesValue{})
	check("a stranger", err, codes.Unauthenticated, "not you")
	s = talk(t, conn)
	send(t, s, nil) // the connection is as good as before
	check("after all that", end(s), codes.InvalidArgument, "wörong")
}

// GracefulStop lets streams end; Stop doesn't.
func TestStop(t *testing.T) {
	ends := make(chan context.Context, 2)
	s, addr := serve(t, dialog.Options{}, func(ctx context.Context, s *dialog.Stream) (dialog.Listener, error) {
		ends <- ctx
		return echo(ctx, s)
	})
	a := talk(t, dial(t, addr))
	send(t, a, []byte("a"))
	receive(t, a)
	stopped := make(chan struct{})
	go func() { defer close(stopped); s.GracefulStop() }()
	for range 10 {
		send(t, a, []byte("b"))
		receive(t, a)
	}
	select {
	case <-stopped:
		t.Fatal("GracefulStop returned before the stream's end")
	default:
	}
	s.Stop()
	<-stopped
	<-(<-ends).Done()
	if err := a.RecvMsg(&wrapperspb.BytesValue{}); status.Code(err) != codes.Unavailable {
		t.Errorf("the stream that was cut ended with %v", err)
	}
}

// The one who says nothing is not waited for.
func TestGreeting(t *testing.T) {
	s, addr := serve(t, dialog.Options{Greeting: 50 * time.Millisecond}, echo)
	silent := connect(t, addr)
	defer silent.Close()
	if _, err := io.ReadAll(silent); err != nil {
		t.Errorf("the end of a silent connection: %v", err)
	}
	s.GracefulStop()
}

func connect(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// Who breaks HTTP/2's rules loses their connection, with the reason.
func TestViolations(t *testing.T) {
	_, addr := serve(t, dialog.Options{}, echo)
	for name, c := range map[string]struct {
		do   func(f *http2.Framer) error
		want http2.ErrCode
	}{
		"data of no stream": {func(f *http2.Framer) error { return f.WriteData(1, false, []byte("x")) }, http2.ErrCodeProtocol},
		"too much data": {func(f *http2.Framer) error {
			if err := open(f); err != nil {
				return err
			}
			// The echo has nowhere to go, for no window is opened for it, and so
			// none is for this.
			long := append([]byte{0, 0, 0, 0x3a, 0x98}, make([]byte, 15_000)...)
			for range 3 << 20 / len(long) {
				if err := f.WriteData(1, false, long); err != nil {
					return err
				}
			}
			return nil
		}, http2.ErrCodeFlowControl},
		"an even stream": {func(f *http2.Framer) error {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2, EndHeaders: true, BlockFragment: []byte{0x82}})
		}, http2.ErrCodeProtocol},
		"a window beyond all bounds": {func(f *http2.Framer) error { return f.WriteWindowUpdate(0, 1<<31-1) }, http2.ErrCodeFlowControl},
		"a promise": {func(f *http2.Framer) error {
			return f.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, EndHeaders: true})
		}, http2.ErrCodeProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			conn := connect(t, addr)
			defer conn.Close()
			f := greet(t, conn)
			if err := c.do(f); err != nil {
				t.Fatal(err)
			}
			for {
				got, err := f.ReadFrame()
				if err != nil {
					t.Fatalf("no word of the end: %v", err)
				}
				if g, ok := got.(*http2.GoAwayFrame); ok {
					if g.ErrCode != c.want {
						t.Errorf("the reason is %v, want %v", g.ErrCode, c.want)
					}
					return
				}
			}
		})
	}
}

func greet(t *testing.T, conn net.Conn) *http2.Framer {
	t.Helper()
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	f := http2.NewFramer(conn, conn)
	if err := f.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return f
}

// open begins stream 1 by literal headers.
func open(f *http2.Framer) error {
	block := []byte{0x83} // :method POST
	for _, h := range [][2]string{{":path", method}, {":scheme", "http"}, {"content-type", "application/grpc"}} {
		block = append(append(append(block, 0, byte(len(h[0]))), h[0]...), byte(len(h[1])))
		block = append(block, h[1]...)
	}
	return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, BlockFragment: block})
}

// A ping is answered though nothing else happens, and all are when they are many.
func TestPing(t *testing.T) {
	_, addr := serve(t, dialog.Options{}, echo)
	conn := connect(t, addr)
	defer conn.Close()
	f := greet(t, conn)
	for _, many := range []int{1, 40, 3} {
		for i := range many {
			if err := f.WritePing(false, [8]byte{byte(i)}); err != nil {
				t.Fatal(err)
			}
		}
		for i := 0; i < many; {
			got, err := f.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			if p, ok := got.(*http2.PingFrame); ok {
				if !p.IsAck() || p.Data[0] != byte(i) {
					t.Fatalf("ping %d was answered by %v", i, p)
				}
				i++
			}
		}
	}
}

// FuzzConn sends anything after the greeting. Nothing may come of it but the
// connection's end.
func FuzzConn(f *testing.F) {
	var b bytes.Buffer
	fr := http2.NewFramer(&b, nil)
	if err := errors.Join(open(fr), fr.WriteData(1, false, []byte{0, 0, 0, 0, 1, 'x', 0, 0}), fr.WriteData(1, true, []byte{0, 0, 0}),
		fr.WritePing(false, [8]byte{}), fr.WriteWindowUpdate(1, 5), fr.WriteRSTStream(1, http2.ErrCodeCancel),
		fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1})); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		_, addr := serve(t, dialog.Options{}, echo)
		conn := connect(t, addr)
		defer conn.Close()
		greet(t, conn)
		if _, err := conn.Write(b); err == nil {
			_ = conn.(*net.TCPConn).CloseWrite()
		}
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("the connection goes on without its peer")
		}
	})
}
