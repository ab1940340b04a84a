package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// A Server answers the calls of other processes.
type Server struct {
	opts     Options
	security *Security
	services map[string]*grpc.ServiceDesc
	ctx      context.Context // of Serve; handlers' end with it
}

// NewServer returns a server that answers nothing but Ping.
func NewServer(security *Security, opts Options) *Server {
	s := &Server{opts: opts.withDefaults(), security: security, services: map[string]*grpc.ServiceDesc{}}
	s.Handle(ping.Serve(func(context.Context, *struct{}) (*pong, error) {
		return &pong{Name: security.Name()}, nil
	}))
	return s
}

// Handle adds methods. It is called before Serve.
func (s *Server) Handle(methods ...Method) {
	for _, m := range methods {
		desc := s.services[m.service]
		if desc == nil {
			desc = &grpc.ServiceDesc{ServiceName: m.service, HandlerType: (*any)(nil)}
			s.services[m.service] = desc
		}
		if m.unary != nil {
			desc.Methods = append(desc.Methods, *m.unary)
		}
		if m.stream != nil {
			desc.Streams = append(desc.Streams, *m.stream)
		}
	}
}

const (
	// drainTime is how long handlers may take to return when the server ends;
	// then their connections are cut.
	drainTime = 2 * time.Second
	// greeting is how long a peer may take from its connection to its first
	// words.
	greeting = 5 * time.Second
	// maxCalls bounds the calls of one connection that are answered at once.
	// Others wait, so it is far beyond what two processes have to say.
	maxCalls = 1 << 16
)

// Serve answers calls until ctx ends or the listener, which it closes, fails.
// When it returns, no handler runs any more. It is called once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	s.ctx = ctx
	srv := grpc.NewServer(s.options()...)
	for _, desc := range s.services {
		srv.RegisterService(desc, s)
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	select {
	case err := <-failed:
		srv.Stop()
		return fmt.Errorf("serve %v: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	cut := time.AfterFunc(drainTime, srv.Stop)
	defer cut.Stop()
	srv.GracefulStop()
	<-failed
	return nil
}

func (s *Server) options() []grpc.ServerOption {
	o := s.opts
	opts := []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec{}),
		grpc.MaxRecvMsgSize(o.MaxMessage),
		grpc.MaxSendMsgSize(o.MaxMessage),
		grpc.StaticStreamWindowSize(o.StreamWindow),
		grpc.StaticConnWindowSize(o.connWindow()),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: o.Silence, Timeout: o.Patience}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
		grpc.MaxConcurrentStreams(maxCalls),
		grpc.ConnectionTimeout(greeting),
		grpc.WaitForHandlers(true),
	}
	if !s.security.insecure {
		creds := credentials.NewTLS(s.security.ServerTLS(Nodes))
		opts = append(opts, grpc.Creds(doorkeeper{creds, s}))
	}
	return opts
}

// A doorkeeper says whom it didn't let in. By TLS 1.3 the other end has
// believed itself inside by then, and often learns no more than that it was
// hung up on.
type doorkeeper struct {
	credentials.TransportCredentials
	s *Server
}

func (d doorkeeper) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	secured, info, err := d.TransportCredentials.ServerHandshake(c)
	if err != nil {
		d.s.opts.Log.Warn("refused a connection", "from", c.RemoteAddr().String(), "err", err)
	}
	return secured, info, err
}

// while is a handler's context: it ends with the call, and with the server.
func (s *Server) while(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	unhook := context.AfterFunc(s.ctx, cancel)
	return ctx, func() { unhook(); cancel() }
}

// status is a handler's error for the caller. One that comes of the server's
// end says so: to ask another process, or again, may help.
func (s *Server) status(err error) error {
	if err != nil && s.ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return status.Error(codes.Unavailable, "is stopping")
	}
	return statusOf(err)
}

// recovered makes a handler's panic the call's error.
func (s *Server) recovered(method string, err *error) {
	if r := recover(); r != nil {
		s.opts.Log.Error("a call panicked", "method", method, "panic", r, "stack", string(debug.Stack()))
		*err = statusOf(&Error{Kind: KindPanic, Text: fmt.Sprintf("%s panicked: %v", method, r)})
	}
}

// Caller names the process that makes a call: by its certificate, or by its
// address where calls come in the clear.
func Caller(ctx context.Context) string {
	if name, ok := Verified(ctx); ok {
		return name
	}
	if p, ok := peer.FromContext(ctx); ok {
		return p.Addr.String()
	}
	return ""
}

// Verified names the process that makes a call, if its certificate does.
func Verified(ctx context.Context) (name string, ok bool) {
	p, there := peer.FromContext(ctx)
	if !there {
		return "", false
	}
	info, secure := p.AuthInfo.(credentials.TLSInfo)
	if !secure || len(info.State.PeerCertificates) == 0 {
		return "", false
	}
	return nameOf(info.State.PeerCertificates[0]), true
}
