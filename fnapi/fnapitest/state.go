package fnapitest

import (
	"context"
	"fmt"
	"sync"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
)

// A stateClient is the worker's end of the state stream.
type stateClient struct {
	stream fnpb.BeamFnState_StateClient

	mu      sync.Mutex // also held while the stream is sent on
	lastID  int
	waiting map[string]chan *fnpb.StateResponse
}

// ask sends a request without waiting; its answer comes on the channel, which
// is closed without one when the stream ends.
func (s *stateClient) ask(req *fnpb.StateRequest) (<-chan *fnpb.StateResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting == nil {
		return nil, fmt.Errorf("fake harness: the state stream has ended")
	}
	s.lastID++
	req.Id = fmt.Sprint(s.lastID)
	c := make(chan *fnpb.StateResponse, 1)
	s.waiting[req.Id] = c
	return c, s.stream.Send(req)
}

func (s *stateClient) read() {
	for {
		resp, err := s.stream.Recv()
		s.mu.Lock()
		if err != nil {
			for _, c := range s.waiting {
				close(c)
			}
			s.waiting = nil
			s.mu.Unlock()
			return
		}
		c := s.waiting[resp.GetId()]
		delete(s.waiting, resp.GetId())
		s.mu.Unlock()
		if c != nil {
			c <- resp
		}
	}
}

// askState sends a state request on the stream to url, and waits.
func (h *Harness) askState(url string, req *fnpb.StateRequest) (*fnpb.StateResponse, error) {
	s, err := h.stateClient(url)
	if err != nil {
		return nil, err
	}
	answer, err := s.ask(req)
	if err != nil {
		return nil, err
	}
	select {
	case resp, ok := <-answer:
		if !ok {
			return nil, fmt.Errorf("fake harness: the state stream has ended")
		}
		return resp, nil
	case <-h.ctx.Done():
		return nil, context.Cause(h.ctx)
	}
}

func (h *Harness) stateClient(url string) (*stateClient, error) {
	conn, err := h.dial(url)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.state != nil {
		return h.state, nil
	}
	stream, err := fnpb.NewBeamFnStateClient(conn).State(h.ctx)
	if err != nil {
		return nil, err
	}
	h.state = &stateClient{stream: stream, waiting: make(map[string]chan *fnpb.StateResponse)}
	h.tasks.Go(h.state.read)
	return h.state, nil
}

// StateLater sends a state request without waiting for its answer, which comes
// on the channel.
func (c *Call) StateLater(req *fnpb.StateRequest) (<-chan *fnpb.StateResponse, error) {
	req.InstructionId = c.Instruction
	s, err := c.harness.stateClient(c.Descriptor.GetStateApiServiceDescriptor().GetUrl())
	if err != nil {
		return nil, err
	}
	return s.ask(req)
}
