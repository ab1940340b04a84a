package cluster

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

// Peers are connections to other processes, one to each, made when they are
// needed and kept.
type Peers struct {
	security *Security
	opts     Options

	mu     sync.Mutex
	conns  map[string]*Conn
	closed bool
}

const (
	// minConnect and maxConnect bound the pause between two dials of a peer that
	// doesn't answer.
	minConnect = 50 * time.Millisecond
	maxConnect = time.Second
	// idleAfter is when an unused connection is hung up.
	idleAfter = 5 * time.Minute
	// manyPeers is from where on connections that are not in use are forgotten:
	// processes that come back elsewhere leave their addresses behind.
	manyPeers = 256
)

// NewPeers returns connections to nobody yet. They must be closed.
func NewPeers(security *Security, opts Options) *Peers {
	return &Peers{security: security, opts: opts.withDefaults(), conns: map[string]*Conn{}}
}

// A Conn is the connection to one process. It connects with the first call, and
// again after it was lost.
type Conn struct {
	addr   string
	grpc   *grpc.ClientConn
	broken error        // why no call is made at all
	users  atomic.Int64 // calls and open streams
	used   atomic.Int64 // Unix nanoseconds of the last time
}

// Addr is where the process is.
func (c *Conn) Addr() string { return c.addr }

// use counts a user until the returned function is called the first time.
func (c *Conn) use() func() {
	c.users.Add(1)
	c.used.Store(time.Now().UnixNano())
	var once sync.Once
	return func() { once.Do(func() { c.users.Add(-1) }) }
}

// GRPC is the connection for clients of generated code, for what a Server has
// by For. Errors are gRPC's: codes.Unavailable is also a peer that can't be
// reached.
func (c *Conn) GRPC() grpc.ClientConnInterface { return generated{c} }

type generated struct{ conn *Conn }

// Invoke is grpc.ClientConnInterface.
func (g generated) Invoke(ctx context.Context, method string, in, out any, opts ...grpc.CallOption) error {
	if g.conn.broken != nil {
		return status.Error(codes.Unavailable, g.conn.broken.Error())
	}
	defer g.conn.use()()
	return g.conn.grpc.Invoke(ctx, method, in, out, opts...)
}

// NewStream is grpc.ClientConnInterface.
func (g generated) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if g.conn.broken != nil {
		return nil, status.Error(codes.Unavailable, g.conn.broken.Error())
	}
	done := g.conn.use()
	s, err := g.conn.grpc.NewStream(ctx, desc, method, opts...)
	if err != nil {
		done()
		return nil, err
	}
	context.AfterFunc(s.Context(), done) // which ends with the stream
	return s, nil
}

// To is the connection to the process at HOST:PORT. It doesn't wait. After
// Close, calls over it fail.
func (p *Peers) To(addr string) *Conn { return p.to(addr, addr) }

// ToJobManager is To for an address that is known for a JobManager's: it is not
// taken from anybody else. What goes there has secrets, and what comes from there
// is obeyed.
func (p *Peers) ToJobManager(addr string) *Conn { return p.to("jobmanager at "+addr, addr, JobManager) }

// to finds or makes the connection of that key. Who answers must have one of the
// roles, if there are any.
func (p *Peers) to(key, addr string, roles ...Role) *Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.conns[key]; c != nil {
		return c
	}
	c := &Conn{addr: addr}
	var err error
	// Addresses are dialled as they are: no resolver of gRPC's has a say, and
	// HTTP proxies of the environment are for other things.
	c.grpc, err = grpc.NewClient("passthrough:///"+addr, p.options(roles)...)
	if err != nil { // no address
		c.broken = &UnreachableError{Peer: addr, Reason: err.Error()}
		return c
	}
	if p.closed {
		c.broken = &UnreachableError{Peer: addr, Reason: "this process is stopping"}
		_ = c.grpc.Close()
		return c
	}
	p.forget()
	p.conns[key] = c
	return c
}

// forget hangs up what was long unused, if there is much. The lock is held.
func (p *Peers) forget() {
	if len(p.conns) < manyPeers {
		return
	}
	limit := time.Now().Add(-idleAfter).UnixNano()
	for addr, c := range p.conns {
		if c.users.Load() == 0 && c.used.Load() < limit {
			_ = c.grpc.Close()
			delete(p.conns, addr)
		}
	}
}

// Close ends all calls and connections.
func (p *Peers) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for addr, c := range p.conns {
		_ = c.grpc.Close()
		delete(p.conns, addr)
	}
}

func (p *Peers) options(roles []Role) []grpc.DialOption {
	o := p.opts
	creds := insecure.NewCredentials()
	if !p.security.insecure {
		c := p.security.ClientTLS()
		if len(roles) > 0 {
			c.VerifyConnection = only("only a "+list(roles)+" may answer there", roles...)
		}
		creds = credentials.NewTLS(c)
	}
	pause := backoff.Config{BaseDelay: minConnect, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxConnect}
	return []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithDefaultCallOptions(
			grpc.ForceCodecV2(codec{}),
			grpc.MaxCallRecvMsgSize(o.MaxMessage), grpc.MaxCallSendMsgSize(o.MaxMessage),
		),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return dial(ctx, addr, o.Patience)
		}),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(), // whether a call may be made again is the caller's to say
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: pause, MinConnectTimeout: o.Patience}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: o.Silence, Timeout: o.Patience, PermitWithoutStream: true}),
		grpc.WithStaticStreamWindowSize(o.StreamWindow),
		grpc.WithStaticConnWindowSize(o.connWindow()),
		grpc.WithIdleTimeout(idleAfter),
	}
}

// dial connects to HOST:PORT. The system probes the connection, too: it notices
// a machine that has gone before gRPC does, which may not probe so often.
func dial(ctx context.Context, addr string, patience time.Duration) (net.Conn, error) {
	d := net.Dialer{Timeout: patience, KeepAliveConfig: probes(patience)}
	return d.DialContext(ctx, "tcp", addr)
}

func probes(patience time.Duration) net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: patience, Interval: max(patience/3, time.Second), Count: 3}
}

// Ping asks the process who it is: by its certificate's name, "" where it has
// none. A call needs no Ping before it.
func (c *Conn) Ping(ctx context.Context) (name string, err error) {
	out, err := ping.Do(ctx, c, &struct{}{})
	if err != nil {
		return "", err
	}
	return out.Name, nil
}

type pong struct {
	Name string `json:"name"`
}

// ping is answered by every Server.
var ping = NewCall[struct{}, pong]("cluster", "Ping")
