package cluster

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
)

// A Method is one of a Server's, with its handler. It is made by Call.Serve or
// Talk.Serve.
type Method struct {
	service string
	unary   *grpc.MethodDesc
	stream  *grpc.StreamDesc
}

// path is how gRPC names the method.
func (m Method) path() string {
	if m.unary != nil {
		return "/" + m.service + "/" + m.unary.MethodName
	}
	return "/" + m.service + "/" + m.stream.StreamName
}

// prefix keeps our services apart from all others.
const prefix = "trestle."

// A Call is a method with one request and one answer. In and Out are structs
// that JSON can carry, or Frame.
type Call[In, Out any] struct{ service, name string }

// NewCall names a method. Both ends use it.
func NewCall[In, Out any](service, name string) Call[In, Out] {
	return Call[In, Out]{service, name}
}

// Do calls the method and waits for the answer. It fails with an *Error if
// that is what the handler says, with an *UnreachableError, or with ctx's.
func (c Call[In, Out]) Do(ctx context.Context, to *Conn, in *In) (*Out, error) {
	if to.broken != nil {
		release(in)
		return nil, to.broken
	}
	defer to.use()()
	out := new(Out)
	err := to.grpc.Invoke(ctx, "/"+prefix+c.service+"/"+c.name, in, out)
	release(in)
	if err != nil {
		return nil, received(to.addr, err)
	}
	return out, nil
}

// release frees a frame that was to be sent and wasn't taken.
func release(message any) {
	if f, ok := message.(*Frame); ok {
		f.Free()
	}
}

// Serve makes the method with its handler, which may be called many times at
// once. An incoming frame is the handler's; the answer is given away.
func (c Call[In, Out]) Serve(handle func(ctx context.Context, in *In) (*Out, error)) Method {
	desc := &grpc.MethodDesc{
		MethodName: c.name,
		Handler: func(srv any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (out any, err error) {
			s := srv.(*Server)
			if err := s.permit(ctx, "/"+prefix+c.service+"/"+c.name); err != nil {
				return nil, err
			}
			in := new(In)
			if err := decode(in); err != nil {
				return nil, err
			}
			ctx, stop := s.while(ctx)
			defer stop()
			defer s.recovered("/"+c.service+"/"+c.name, &err)
			answer, err := handle(ctx, in)
			if err != nil {
				return nil, s.status(err)
			}
			return answer, nil
		},
	}
	return Method{service: prefix + c.service, unary: desc}
}

// A Talk is a method over which both sides send as they like until the handler
// returns. Up is what the caller sends, Down what the handler sends.
type Talk[Up, Down any] struct{ service, name string }

// NewTalk names a method. Both ends use it.
func NewTalk[Up, Down any](service, name string) Talk[Up, Down] {
	return Talk[Up, Down]{service, name}
}

// Open begins a stream, which the caller must Close. That the peer can't be
// reached may come out here or at the first Recv.
func (t Talk[Up, Down]) Open(ctx context.Context, to *Conn) (*Stream[Up, Down], error) {
	if to.broken != nil {
		return nil, to.broken
	}
	done := to.use()
	ctx, cancel := context.WithCancel(ctx)
	desc := &grpc.StreamDesc{StreamName: t.name, ClientStreams: true, ServerStreams: true}
	s, err := to.grpc.NewStream(ctx, desc, "/"+prefix+t.service+"/"+t.name)
	if err != nil {
		cancel()
		done()
		return nil, received(to.addr, err)
	}
	return &Stream[Up, Down]{
		raw: s, peer: to.addr, finish: s.CloseSend,
		close: func() { cancel(); done() },
	}, nil
}

// Serve makes the method with its handler. The stream ends with nil or the
// error when the handler returns; ctx ends when the caller or the server do.
func (t Talk[Up, Down]) Serve(handle func(ctx context.Context, s *Stream[Down, Up]) error) Method {
	desc := &grpc.StreamDesc{
		StreamName: t.name, ClientStreams: true, ServerStreams: true,
		Handler: func(srv any, raw grpc.ServerStream) (err error) {
			s := srv.(*Server)
			ctx, stop := s.while(raw.Context())
			defer stop()
			defer s.recovered("/"+t.service+"/"+t.name, &err)
			return s.status(handle(ctx, &Stream[Down, Up]{raw: raw, peer: Caller(ctx)}))
		},
	}
	return Method{service: prefix + t.service, stream: desc}
}

// A Stream is one end of a Talk. One goroutine may send while another receives.
type Stream[Out, In any] struct {
	raw interface {
		SendMsg(any) error
		RecvMsg(any) error
	}
	peer   string
	finish func() error // nil at the handler's end
	close  func()       // nil at the handler's end
}

// ErrEnded is what Send says when the stream has ended; Recv knows why.
var ErrEnded = errors.New("the stream has ended")

// Send hands a message to the connection. It waits while more than the
// stream's window is under way: that is how a slow receiver holds it up. What
// was sent may be lost if the stream ends with an error.
func (s *Stream[Out, In]) Send(m *Out) error {
	err := s.raw.SendMsg(m)
	release(m)
	if errors.Is(err, io.EOF) {
		return ErrEnded
	}
	return received(s.peer, err)
}

// Recv waits for a message. It gives io.EOF when the other end has said all: at
// the caller's end when the handler returned nil, at the handler's when the
// caller has called CloseSend.
func (s *Stream[Out, In]) Recv() (*In, error) {
	m := new(In)
	if err := s.raw.RecvMsg(m); err != nil {
		return nil, received(s.peer, err)
	}
	return m, nil
}

// CloseSend says that the caller sends no more.
func (s *Stream[Out, In]) CloseSend() error { return s.finish() }

// Close ends the stream at the caller's end, whatever is under way, and frees
// what it holds. Send and Recv return. It may be called twice.
func (s *Stream[Out, In]) Close() {
	if s.close != nil {
		s.close()
	}
}
