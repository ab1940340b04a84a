package fnapi

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// Options of a Server. The zero value is good.
type Options struct {
	// Host is the host that workers are told to dial, where the listeners' own
	// address won't do. Default: the listener's host, and 127.0.0.1 for a
	// listener on all interfaces.
	Host string
	// Logger takes the server's own remarks. Default: slog.Default().
	Logger *slog.Logger
	// Keepalive is how long a connection may be silent before it is probed. A
	// probe may stay unanswered for three times as long. Default: 20 s.
	Keepalive time.Duration
	// StateRequests bounds the state requests of one worker that are answered or
	// queued at once; further ones stay unread. Default: 64.
	StateRequests int
	// State is where state requests are answered at the least cost. Default: they
	// are answered where control is.
	State net.Listener
}

// A Server serves the Fn API to the workers that were admitted.
type Server struct {
	opts     Options
	control  net.Listener
	data     []net.Listener
	urls     []string // of data, by lane
	url      string   // of control
	stateURL string

	lastInstruction atomic.Uint64
	tasks           sync.WaitGroup // what outlives a gRPC handler; Serve waits for it

	mu      sync.RWMutex
	workers map[string]*Worker // by id; admitted and not closed
	lines   map[string]*Worker // by connection, of those whose control stream is open
	ended   bool               // no worker is admitted any more
}

// NewServer makes a server of all services on control, and of the data service
// on each of data, of which there is at least one. Addresses are known from now
// on; nothing is answered before Serve, which closes the listeners.
func NewServer(opts Options, control net.Listener, data []net.Listener) (*Server, error) {
	if len(data) == 0 {
		return nil, errors.New("fn api server: no listener for data")
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	if opts.Keepalive <= 0 {
		opts.Keepalive = 20 * time.Second
	}
	if opts.StateRequests <= 0 {
		opts.StateRequests = 64
	}
	s := &Server{opts: opts, control: control, data: data, workers: make(map[string]*Worker), lines: make(map[string]*Worker)}
	s.url = dialURL(control.Addr(), opts.Host)
	s.stateURL = s.url
	if opts.State != nil {
		s.stateURL = dialURL(opts.State.Addr(), opts.Host)
	}
	for _, l := range data {
		s.urls = append(s.urls, dialURL(l.Addr(), opts.Host))
	}
	return s, nil
}

// dialURL is what a worker must dial to reach addr. All SDKs understand
// host:port, and unix:// with an absolute path.
func dialURL(addr net.Addr, host string) string {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		if addr.Network() == "unix" {
			return "unix://" + addr.String()
		}
		return addr.String()
	}
	if host == "" {
		host = tcp.IP.String()
		if tcp.IP.IsUnspecified() {
			host = "127.0.0.1"
		}
	}
	return net.JoinHostPort(host, fmt.Sprint(tcp.Port))
}

// Lanes is the number of data listeners.
func (s *Server) Lanes() int { return len(s.data) }

// URL is the address of all services but data.
func (s *Server) URL() string { return s.url }

// drainTime is how long workers may take to notice the end of their streams
// when the server ends; then their connections are cut.
const drainTime = 2 * time.Second

// greeting is how long a peer may take from its connection to its first words.
// gRPC's end waits for them, even when it cuts all other connections.
const greeting = 3 * time.Second

// Serve answers workers until ctx is done or a listener fails. It owns every
// goroutine of the server: when it returns, none is left, all workers are lost
// and all bundles have failed. It may be called once.
func (s *Server) Serve(ctx context.Context) error {
	servers, listeners := s.servers()
	failed := make(chan error, len(servers))
	var serving sync.WaitGroup
	for i, srv := range servers {
		serving.Go(func() {
			if err := srv.Serve(listeners[i]); err != nil {
				failed <- fmt.Errorf("serve the fn api on %v: %w", listeners[i].Addr(), err)
			}
		})
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}

	s.closeWorkers()
	for _, srv := range servers {
		serving.Go(func() {
			cut := time.AfterFunc(drainTime, srv.Stop)
			defer cut.Stop()
			srv.GracefulStop()
		})
	}
	serving.Wait()
	s.tasks.Wait()
	return err
}

// A server is what answers on a listener.
type server interface {
	Serve(l net.Listener) error
	GracefulStop()
	Stop()
}

// servers makes the servers, each with its listener.
func (s *Server) servers() (servers []server, listeners []net.Listener) {
	servers, listeners = []server{s.controlServer()}, []net.Listener{s.control}
	for lane, l := range s.data {
		servers, listeners = append(servers, s.dataServer(lane)), append(listeners, l)
	}
	if l := s.opts.State; l != nil {
		servers, listeners = append(servers, s.stateServer()), append(listeners, l)
	}
	return servers, listeners
}

// Workers is the number of workers that are admitted and connected.
func (s *Server) Workers() (n int) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, w := range s.workers {
		select {
		case <-w.ready:
			n++
		default:
		}
	}
	return n
}

// closeWorkers withdraws all workers and admits no further one.
func (s *Server) closeWorkers() {
	s.mu.Lock()
	s.ended = true
	all := make([]*Worker, 0, len(s.workers))
	for _, w := range s.workers {
		all = append(all, w)
	}
	s.mu.Unlock()
	for _, w := range all {
		w.Close()
	}
}

const (
	maxMessageBytes = math.MaxInt32 // what protobuf and the SDKs allow
	stateWindow     = 1 << 20       // what a worker may have sent, on a stream, that we have not read
)

// commonOptions are those of the control and the data servers alike.
func (s *Server) commonOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxMessageBytes),
		grpc.MaxSendMsgSize(maxMessageBytes),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: s.opts.Keepalive, Timeout: 3 * s.opts.Keepalive}),
		// Python pings every 20 seconds, streams or not; gRPC's default would end
		// its connections for that.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
		grpc.WaitForHandlers(true),
		grpc.ConnectionTimeout(greeting),
	}
}

func (s *Server) controlServer() *grpc.Server {
	srv := grpc.NewServer(append(s.commonOptions(),
		grpc.InitialWindowSize(stateWindow),
		grpc.InitialConnWindowSize(4*stateWindow),
	)...)
	fnpb.RegisterBeamFnControlServer(srv, &controlService{server: s})
	fnpb.RegisterBeamFnStateServer(srv, &stateService{server: s})
	fnpb.RegisterBeamFnLoggingServer(srv, &loggingService{server: s})
	fnpb.RegisterBeamFnWorkerStatusServer(srv, &statusService{server: s})
	fnpb.RegisterProvisionServiceServer(srv, &provisionService{server: s})
	jobpb.RegisterArtifactRetrievalServiceServer(srv, &artifactService{server: s})
	return srv
}

// Admit makes a worker known. Its id is to be given to the worker process that
// is started next, and to nobody else. The id begins with the admission's name
// and holds nothing but ASCII letters, digits, "-" and "_".
func (s *Server) Admit(a Admission) (*Worker, error) {
	secret := make([]byte, 16)
	rand.Read(secret) // never fails
	id := hex.EncodeToString(secret)
	if a.Name == "" {
		a.Name = "worker"
	}
	w := newWorker(s, strings.Map(plain, a.Name)+"-"+id, a)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return nil, fmt.Errorf("admit worker %s: %w", a.Name, ErrClosed)
	}
	s.workers[w.id] = w
	return w, nil
}

// plain is r, if it may be in a worker's id, and a dash if not.
func plain(r rune) rune {
	if 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '_' {
		return r
	}
	return '-'
}

// workerKey is the name under which gRPC metadata carry a worker's id.
const workerKey = "worker_id"

// caller is the admitted worker that makes a call.
func (s *Server) caller(ctx context.Context) (*Worker, error) {
	ids := metadata.ValueFromIncomingContext(ctx, workerKey)
	if len(ids) != 1 {
		return nil, status.Errorf(codes.Unauthenticated, "want one %s in the metadata, have %d", workerKey, len(ids))
	}
	s.mu.RLock()
	w := s.workers[ids[0]]
	s.mu.RUnlock()
	if w == nil {
		return nil, status.Error(codes.Unauthenticated, "no worker of this id is expected")
	}
	return w, nil
}

// callerOrLine is caller, but a call without an id is its connection's worker's,
// whose control stream has shown one: TypeScript's workers send none when they
// ask for a bundle descriptor.
func (s *Server) callerOrLine(ctx context.Context) (*Worker, error) {
	if len(metadata.ValueFromIncomingContext(ctx, workerKey)) == 0 {
		s.mu.RLock()
		w := s.lines[lineOf(ctx)]
		s.mu.RUnlock()
		if w != nil {
			return w, nil
		}
	}
	return s.caller(ctx)
}

// lineOf names the TCP connection of a call by both its ends, which no other
// connection has meanwhile. It is "" for others.
func lineOf(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return ""
	}
	if _, ok := p.Addr.(*net.TCPAddr); !ok || p.LocalAddr == nil {
		return ""
	}
	return p.Addr.String() + ">" + p.LocalAddr.String()
}

// answersFor notes that a connection is a worker's, until the returned function
// is called.
func (s *Server) answersFor(ctx context.Context, w *Worker) (done func()) {
	line := lineOf(ctx)
	if line == "" {
		return func() {}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines[line] = w
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.lines[line] == w {
			delete(s.lines, line)
		}
	}
}

// farewell is how long a withdrawn worker may take to end streams by itself.
// Workers do so once their control stream has ended. When it is done for them,
// Java calls the end of its logging stream a failure and says so to its user,
// and Python opens its status stream again.
const farewell = time.Second

// holdOn is hold until a little after w was withdrawn.
func (s *Server) holdOn(ctx context.Context, w *Worker, read func() error) error {
	enough, stop := context.WithCancel(ctx)
	defer stop()
	s.tasks.Go(func() {
		defer stop()
		select {
		case <-w.closed:
		case <-enough.Done():
			return
		}
		late := time.NewTimer(farewell)
		defer late.Stop()
		select {
		case <-late.C:
		case <-enough.Done():
		}
	})
	return s.hold(enough.Done(), read)
}

// hold runs read, which reads a stream to its end, and returns when it has
// ended, or when stop is closed. In the latter case the caller, a gRPC handler,
// must return at once: that ends the stream and so read, for which Serve waits.
func (s *Server) hold(stop <-chan struct{}, read func() error) error {
	ended := make(chan error, 1)
	s.tasks.Go(func() { ended <- read() })
	select {
	case err := <-ended:
		return err
	case <-stop:
		return nil
	}
}
