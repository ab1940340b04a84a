package fnapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
)

// A statusDesk is where a worker's status is asked for.
type statusDesk struct {
	mu     sync.Mutex
	stream *statusStream // nil while the worker offers none; a later one replaces it
}

// A statusStream is one open status stream of a worker.
type statusStream struct {
	requests chan *fnpb.WorkerStatusRequest // unbuffered: who asks waits for the writer
	ended    chan struct{}

	mu      sync.Mutex
	lastID  int
	waiting map[string]chan *fnpb.WorkerStatusResponse // capacity 1
}

type statusService struct {
	fnpb.UnimplementedBeamFnWorkerStatusServer
	server *Server
}

// WorkerStatus is open while the worker is willing to tell its status.
func (svc *statusService) WorkerStatus(stream fnpb.BeamFnWorkerStatus_WorkerStatusServer) error {
	w, err := svc.server.caller(stream.Context())
	if err != nil {
		return err
	}
	s := &statusStream{
		requests: make(chan *fnpb.WorkerStatusRequest),
		ended:    make(chan struct{}),
		waiting:  make(map[string]chan *fnpb.WorkerStatusResponse),
	}
	w.status.enter(s)
	defer w.status.leave(s)
	defer close(s.ended)
	svc.server.tasks.Go(func() { s.write(stream) })
	return svc.server.holdOn(stream.Context(), w, func() error { return s.read(stream) })
}

func (d *statusDesk) enter(s *statusStream) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stream = s
}

func (d *statusDesk) leave(s *statusStream) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stream == s {
		d.stream = nil
	}
}

func (d *statusDesk) current() *statusStream {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stream
}

func (s *statusStream) write(stream fnpb.BeamFnWorkerStatus_WorkerStatusServer) {
	for {
		select {
		case req := <-s.requests:
			if stream.Send(req) != nil {
				return
			}
		case <-s.ended:
			return
		}
	}
}

func (s *statusStream) read(stream fnpb.BeamFnWorkerStatus_WorkerStatusServer) error {
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		s.mu.Lock()
		asker := s.waiting[resp.GetId()]
		delete(s.waiting, resp.GetId())
		s.mu.Unlock()
		if asker != nil {
			asker <- resp
		}
	}
}

// ask registers a question.
func (s *statusStream) ask() (id string, answer <-chan *fnpb.WorkerStatusResponse) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastID++
	id = "s" + strconv.Itoa(s.lastID)
	c := make(chan *fnpb.WorkerStatusResponse, 1)
	s.waiting[id] = c
	return id, c
}

func (s *statusStream) forget(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.waiting, id)
}

// Status is the worker's own account of itself: memory, threads, bundles under
// way. It is ErrNoStatus if the worker offers none.
func (w *Worker) Status(ctx context.Context) (string, error) {
	s := w.status.current()
	if s == nil {
		return "", ErrNoStatus
	}
	id, answer := s.ask()
	defer s.forget(id)
	select {
	case s.requests <- &fnpb.WorkerStatusRequest{Id: id}:
	case <-s.ended:
		return "", ErrNoStatus
	case <-w.lost:
		return "", ErrNoStatus
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	select {
	case resp := <-answer:
		if text := resp.GetError(); text != "" {
			return "", fmt.Errorf("status of worker %s: %s", w.Name(), text)
		}
		return resp.GetStatusInfo(), nil
	case <-s.ended:
		return "", ErrNoStatus
	case <-w.lost:
		return "", ErrNoStatus
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}
