package fnapi

import (
	"errors"
	"fmt"
	"io"
	"sync"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
)

type stateService struct {
	fnpb.UnimplementedBeamFnStateServer
	server *Server
}

// A stateStream is one open state stream of a worker; workers have one or few.
type stateStream struct {
	worker *Worker
	stream fnpb.BeamFnState_StateServer

	sending sync.Mutex // held while a response is sent
}

// A stateRequest is a request on its way through its bundle's queue.
type stateRequest struct {
	from interface {
		answer(resp *fnpb.StateResponse)
	}
	req *fnpb.StateRequest
}

// State answers a worker's state requests. Those of one bundle are answered in
// order, those of different bundles at once; Options.StateRequests bounds how
// many are in hand, and the stream is not read beyond.
func (svc *stateService) State(stream fnpb.BeamFnState_StateServer) error {
	w, err := svc.server.caller(stream.Context())
	if err != nil {
		return err
	}
	s := &stateStream{worker: w, stream: stream}
	return svc.server.hold(w.lost, s.read)
}

func (s *stateStream) read() error {
	for {
		req, err := s.stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case s.worker.stateSlots <- struct{}{}:
		case <-s.worker.lost:
			return nil
		case <-s.stream.Context().Done():
			return s.stream.Context().Err()
		}
		b := s.worker.bundle([]byte(req.GetInstructionId()))
		if b == nil {
			s.answer(refusal(req.GetId(), fmt.Errorf("no bundle %q is under way", req.GetInstructionId())))
			<-s.worker.stateSlots
			continue
		}
		b.enqueue(stateRequest{from: s, req: req})
	}
}

// answer sends a response. If the stream has ended, nobody wants it any more.
func (s *stateStream) answer(resp *fnpb.StateResponse) {
	s.sending.Lock()
	defer s.sending.Unlock()
	_ = s.stream.Send(resp)
}

// enqueue appends r to the bundle's queue, whose bound is the worker's slots:
// each request in a queue has one.
func (b *Bundle) enqueue(r stateRequest) {
	b.queueMu.Lock()
	defer b.queueMu.Unlock()
	b.queue = append(b.queue, r)
	if !b.draining {
		b.draining = true
		b.worker.server.tasks.Go(b.drain)
	}
}

// drain answers the queued requests in their order until there are none.
func (b *Bundle) drain() {
	for {
		b.queueMu.Lock()
		if len(b.queue) == 0 {
			b.queue = nil
			b.draining = false
			b.queueMu.Unlock()
			return
		}
		r := b.queue[0]
		b.queue = b.queue[1:]
		b.queueMu.Unlock()
		r.from.answer(b.answerState(r.req))
		<-b.worker.stateSlots
	}
}

// answerState asks the bundle's handler.
func (b *Bundle) answerState(req *fnpb.StateRequest) *fnpb.StateResponse {
	resp := &fnpb.StateResponse{Id: req.GetId()}
	var err error
	switch r := req.GetRequest().(type) {
	case *fnpb.StateRequest_Get:
		get := &fnpb.StateGetResponse{}
		get.Data, get.ContinuationToken, err = b.ask(verbGet, req.GetStateKey(), r.Get, nil)
		resp.Response = &fnpb.StateResponse_Get{Get: get}
	case *fnpb.StateRequest_Append:
		_, _, err = b.ask(verbAppend, req.GetStateKey(), nil, r.Append.GetData())
		resp.Response = &fnpb.StateResponse_Append{Append: &fnpb.StateAppendResponse{}}
	case *fnpb.StateRequest_Clear:
		_, _, err = b.ask(verbClear, req.GetStateKey(), nil, nil)
		resp.Response = &fnpb.StateResponse_Clear{Clear: &fnpb.StateClearResponse{}}
	default:
		err = errors.New("a state request is get, append or clear")
	}
	if err != nil {
		return refusal(req.GetId(), err)
	}
	return resp
}

// ask asks the bundle's handler; get is for a get, data for an append.
func (b *Bundle) ask(v verb, key *fnpb.StateKey, get *fnpb.StateGetRequest, data []byte) (page, next []byte, err error) {
	b.stateMu.Lock()
	defer b.stateMu.Unlock()
	if b.over.Load() {
		return nil, nil, errors.New("the bundle is over")
	}
	h := b.start.State
	if h == nil {
		return nil, nil, errors.New("the bundle has no state")
	}
	switch v {
	case verbGet:
		return h.Get(b.ctx, key, get)
	case verbAppend:
		return nil, nil, h.Append(b.ctx, key, data)
	default:
		return nil, nil, h.Clear(b.ctx, key)
	}
}

func refusal(id string, err error) *fnpb.StateResponse {
	return &fnpb.StateResponse{Id: id, Error: fmt.Sprintf("state request %s: %v", id, err)}
}
