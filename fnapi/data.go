package fnapi

import (
	"errors"
	"fmt"
	"io"
	"sync"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/status"
)

// Sizes of the data connections; see BenchmarkEcho for the measurements.
const (
	streamWindow = 4 << 20   // what a worker may have sent that we have not read
	socketBuffer = 128 << 10 // bytes per system call
)

// A dataService is the data service of one lane. Its gRPC description is
// written by hand so that messages are *incoming and *outgoing.
type dataService struct {
	server *Server
	lane   int
}

var dataDescription = grpc.ServiceDesc{
	ServiceName: "org.apache.beam.model.fn_execution.v1.BeamFnData",
	HandlerType: (*any)(nil),
	Streams: []grpc.StreamDesc{{
		StreamName:    "Data",
		Handler:       func(srv any, stream grpc.ServerStream) error { return srv.(*dataService).data(stream) },
		ServerStreams: true,
		ClientStreams: true,
	}},
	Metadata: "org/apache/beam/model/fn_execution/v1/beam_fn_api.proto",
}

func (s *Server) dataServer(lane int) *grpc.Server {
	srv := grpc.NewServer(append(s.commonOptions(),
		grpc.ForceServerCodecV2(codec{}),
		experimental.BufferPool(chunks),
		grpc.InitialWindowSize(streamWindow),
		grpc.InitialConnWindowSize(streamWindow),
		grpc.ReadBufferSize(socketBuffer),
		grpc.WriteBufferSize(socketBuffer),
	)...)
	srv.RegisterService(&dataDescription, &dataService{server: s, lane: lane})
	// Go's SDK asks for the tails of state-backed iterables where their heads came
	// from: at the data URL.
	fnpb.RegisterBeamFnStateServer(srv, &stateService{server: s})
	return srv
}

// A lane is one worker's place for a data stream.
type lane struct {
	mu      sync.Mutex
	stream  *dataStream   // nil while there is none
	arrived chan struct{} // closed when stream is set
}

// current is the lane's stream, or nil and what to wait for.
func (l *lane) current() (*dataStream, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stream, l.arrived
}

// enter makes s the lane's stream and ends the one before: a worker opens
// another when it thinks that the first is broken.
func (l *lane) enter(s *dataStream) {
	l.mu.Lock()
	old := l.stream
	l.stream = s
	if old == nil {
		close(l.arrived)
	}
	l.mu.Unlock()
	if old != nil {
		old.end(errors.New("the worker opened another data stream in its place"))
	}
}

func (l *lane) leave(s *dataStream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stream == s {
		l.stream = nil
		l.arrived = make(chan struct{})
	}
}

// A dataStream is one open stream of a lane.
type dataStream struct {
	worker *Worker
	lane   *lane
	stream grpc.ServerStream
	// out are messages for the writer. It is short: who finds it full waits,
	// which is how a worker that doesn't read holds back its input.
	out   chan *outgoing
	ended chan struct{}

	endOnce sync.Once
	err     error // why it ended; set before ended is closed

	last *Bundle // whose data came last, if under way; the reader's own
}

// data runs one stream of a worker to its end.
func (d *dataService) data(stream grpc.ServerStream) error {
	w, err := d.server.caller(stream.Context())
	if err != nil {
		return err
	}
	select {
	case <-w.ready:
	default:
		return status.Error(codes.FailedPrecondition, "a worker opens its control stream first")
	}
	l := &w.lanes[d.lane]
	s := &dataStream{worker: w, lane: l, stream: stream, out: make(chan *outgoing, 2), ended: make(chan struct{})}
	l.enter(s)
	w.adopt(d.lane, s)
	d.server.tasks.Go(s.write)
	d.server.tasks.Go(func() { s.end(s.read()) })
	select {
	case <-s.ended:
	case <-w.lost:
		s.end(w.Err())
	}
	w.loseStream(s)
	if w.Err() != nil {
		return nil // the end of a worker is no error of its streams
	}
	return s.err
}

// end closes the stream from our side; the first reason stays. The handler then
// returns, and that ends reader and writer. Whoever hears of the end finds the
// lane without the stream: the next bundle must not begin on it.
func (s *dataStream) end(err error) {
	s.endOnce.Do(func() {
		s.err = err
		s.lane.leave(s)
		close(s.ended)
	})
}

// lostError is what bundles hear when the stream has ended.
func (s *dataStream) lostError() error {
	if err := s.worker.Err(); err != nil {
		return err
	}
	return &WorkerLostError{Worker: s.worker.Name(), Cause: fmt.Errorf("its data stream has ended: %w", streamEnd(s.err))}
}

// write alone sends on the stream.
func (s *dataStream) write() {
	for {
		select {
		case m := <-s.out:
			if err := s.stream.SendMsg(m); err != nil {
				s.end(err)
				return
			}
		case <-s.ended:
			return
		}
	}
}

// read alone receives from the stream, and routes what comes until it ends.
func (s *dataStream) read() error {
	for {
		var m incoming
		err := s.stream.RecvMsg(&m)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		err = s.route(m.buffer.ReadOnlyData())
		m.free()
		if err != nil {
			return status.Error(codes.InvalidArgument, err.Error())
		}
	}
}

// route gives each entry of a message to its bundle. What belongs to no bundle
// under way is dropped: it came too late.
func (s *dataStream) route(msg []byte) error {
	var e entry
	for {
		rest, ok, err := nextEntry(msg, &e)
		if !ok {
			return err
		}
		msg = rest
		b := s.last
		if b == nil || b.id != string(e.instruction) {
			b = s.worker.bundle(e.instruction)
			s.last = b
		}
		if b == nil {
			continue
		}
		if !b.claim(s) {
			b.violated("its data come by two streams")
			continue
		}
		b.deliver(&e)
		if b.over.Load() {
			s.last = nil // not to keep its Output alive
		}
	}
}

// adopt gives the bundles that wait for their lane's stream to it.
func (w *Worker) adopt(lane int, s *dataStream) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	for _, b := range w.bundles {
		if b.lane == lane {
			b.claim(s)
		}
	}
}

// loseStream fails the bundles under way whose data s carries: some may be
// lost, of the input or of the output.
func (w *Worker) loseStream(s *dataStream) {
	w.mu.RLock()
	var hit []*Bundle
	for _, b := range w.bundles {
		if b.stream.Load() == s {
			hit = append(hit, b)
		}
	}
	w.mu.RUnlock()
	for _, b := range hit {
		b.finish(s.lostError())
	}
}
