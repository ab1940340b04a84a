package cluster

import (
	"context"
	"crypto/x509"
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
	opts       Options
	security   *Security
	services   map[string]*grpc.ServiceDesc
	registered []registered
	roles      map[string][]Role // that may call a method; those without are for all of Trestle's own
	ctx        context.Context   // of Serve; handlers' end with it
}

// Registered is a service of generated code.
type registered struct {
	desc *grpc.ServiceDesc
	impl any
}

// NewServer returns a server that answers nothing but Ping.
func NewServer(security *Security, opts Options) *Server {
	s := &Server{opts: opts.withDefaults(), security: security, services: map[string]*grpc.ServiceDesc{}, roles: map[string][]Role{}}
	s.Handle(ping.Serve(func(context.Context, *struct{}) (*pong, error) {
		return &pong{Name: security.Name()}, nil
	}))
	return s
}

// Handle adds methods, which all of Trestle's own processes may call. It is
// called before Serve.
func (s *Server) Handle(methods ...Method) { s.HandleFor(nil, methods...) }

// HandleFor adds methods for those whose certificate has one of the roles. In
// the clear nobody can be told from others: then all may call. It is called
// before Serve.
func (s *Server) HandleFor(roles []Role, methods ...Method) {
	for _, m := range methods {
		if roles != nil {
			s.roles[m.path()] = roles
		}
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

// For is a registrar for services of generated code, whose callers must have
// one of the roles, as with HandleFor. They are called through Conn.GRPC, and
// their errors and messages travel as gRPC's do. It is used before Serve.
func (s *Server) For(roles ...Role) grpc.ServiceRegistrar { return registrar{s, roles} }

type registrar struct {
	s     *Server
	roles []Role
}

// RegisterService is grpc.ServiceRegistrar.
func (r registrar) RegisterService(desc *grpc.ServiceDesc, impl any) {
	r.s.registered = append(r.s.registered, registered{desc, impl})
	for _, m := range desc.Methods {
		r.s.roles["/"+desc.ServiceName+"/"+m.MethodName] = r.roles
	}
	for _, m := range desc.Streams {
		r.s.roles["/"+desc.ServiceName+"/"+m.StreamName] = r.roles
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
	for _, r := range s.registered {
		srv.RegisterService(r.desc, r.impl)
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
	<-failed //nolint:errcheck // it was stopped
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
		grpc.UnaryInterceptor(s.guardUnary), grpc.StreamInterceptor(s.guardStream),
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

// guardUnary stands before the calls of registered services; Call.Serve looks
// after its own, before it reads what comes.
func (s *Server) guardUnary(ctx context.Context, in any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (out any, err error) {
	if err := s.permit(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	defer s.recovered(info.FullMethod, &err)
	return handle(ctx, in)
}

// guardStream stands before all streams.
func (s *Server) guardStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) (err error) {
	if err := s.permit(stream.Context(), info.FullMethod); err != nil {
		return err
	}
	defer s.recovered(info.FullMethod, &err)
	return handle(srv, stream)
}

// permit refuses a caller whose certificate has none of the roles that a method
// is for.
func (s *Server) permit(ctx context.Context, method string) error {
	wanted := s.roles[method]
	if s.security.insecure || wanted == nil {
		return nil
	}
	leaf := certificateOf(ctx)
	if leaf != nil && mayBe(leaf, wanted...) {
		return nil
	}
	s.opts.Log.Warn("refused a call", "method", method, "caller", Caller(ctx))
	return statusOf(&Error{Kind: KindForbidden, Text: fmt.Sprintf("the certificate of %s: %s is for %s", described(leaf), method, list(wanted))})
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
	leaf := certificateOf(ctx)
	if leaf == nil {
		return "", false
	}
	return nameOf(leaf), true
}

// certificateOf is the one that a caller has shown, nil if there was none.
func certificateOf(ctx context.Context) *x509.Certificate {
	p, there := peer.FromContext(ctx)
	if !there {
		return nil
	}
	info, secure := p.AuthInfo.(credentials.TLSInfo)
	if !secure || len(info.State.PeerCertificates) == 0 {
		return nil
	}
	return info.State.PeerCertificates[0]
}
