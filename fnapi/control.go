package fnapi

import (
	"context"
	"errors"
	"io"
	"strconv"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

type controlService struct {
	fnpb.UnimplementedBeamFnControlServer
	server *Server
}

// GetProcessBundleDescriptor serves what SetDescriptor has set.
func (c *controlService) GetProcessBundleDescriptor(ctx context.Context, req *fnpb.GetProcessBundleDescriptorRequest) (*fnpb.ProcessBundleDescriptor, error) {
	w, err := c.server.callerOrLine(ctx)
	if err != nil {
		return nil, err
	}
	d, err := w.descriptor(req.GetProcessBundleDescriptorId())
	if err != nil {
		return nil, status.Error(codes.NotFound, err.Error())
	}
	return d.proto, nil
}

// Control is the life of a worker: when this stream ends, the worker is lost.
func (c *controlService) Control(stream fnpb.BeamFnControl_ControlServer) error {
	w, err := c.server.caller(stream.Context())
	if err != nil {
		return err
	}
	defer c.server.answersFor(stream.Context(), w)()
	if err := w.attach(); err != nil {
		return err
	}
	c.server.tasks.Go(func() { w.writeControl(stream) })
	err = c.server.hold(w.lost, func() error { return w.readControl(stream) })
	w.lose(streamEnd(err))
	return err
}

// writeControl alone sends on the control stream, in the order of w.requests: a
// bundle's start before its splits. It ends with the worker, or with the
// stream, whose reader then notices too.
func (w *Worker) writeControl(stream fnpb.BeamFnControl_ControlServer) {
	for {
		select {
		case req := <-w.requests:
			if stream.Send(req) != nil {
				return
			}
		case <-w.lost:
			return
		}
	}
}

// readControl takes responses until the stream ends. It never waits for
// anything but the stream.
func (w *Worker) readControl(stream fnpb.BeamFnControl_ControlServer) error {
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		w.dispatch(resp)
	}
}

// dispatch gives a response to who waits for it. Responses that nobody waits
// for are late, doubled or invented, and mean nothing.
func (w *Worker) dispatch(resp *fnpb.InstructionResponse) {
	id := resp.GetInstructionId()
	w.mu.Lock()
	b, c := w.bundles[id], w.calls[id]
	delete(w.calls, id)
	w.mu.Unlock()
	switch {
	case b != nil:
		b.respond(resp)
	case c != nil:
		c.end(resp, nil)
	default:
		w.server.opts.Logger.Debug("response to no instruction", "worker", w.Name(), "instruction", id)
	}
}

// A call is an instruction, other than a bundle, that waits for its response.
type call struct {
	done chan struct{}
	resp *fnpb.InstructionResponse
	err  error
}

// end is called once, by whoever took the call out of Worker.calls.
func (c *call) end(resp *fnpb.InstructionResponse, err error) {
	c.resp, c.err = resp, err
	close(c.done)
}

// newInstruction is an id that no other instruction of this server has.
func (s *Server) newInstruction() string {
	return "i" + strconv.FormatUint(s.lastInstruction.Add(1), 10)
}

// Do sends an instruction, whose id it chooses, and waits for its response. An
// answer that is an error is a *UserError, a lost worker a *WorkerLostError.
// Bundles are started with Start instead.
func (w *Worker) Do(ctx context.Context, req *fnpb.InstructionRequest) (*fnpb.InstructionResponse, error) {
	id := w.server.newInstruction()
	req.InstructionId = id
	c := &call{done: make(chan struct{})}
	w.mu.Lock()
	if err := w.err; err != nil {
		w.mu.Unlock()
		return nil, err
	}
	w.calls[id] = c
	w.mu.Unlock()

	if err := w.request(ctx, req); err != nil {
		w.hangUp(id)
		return nil, err
	}
	select {
	case <-c.done:
	case <-ctx.Done():
		w.hangUp(id)
		return nil, context.Cause(ctx)
	}
	if c.err != nil {
		return nil, c.err
	}
	if text := c.resp.GetError(); text != "" {
		return nil, &UserError{Worker: w.Name(), Instruction: id, Text: text}
	}
	return c.resp, nil
}

func (w *Worker) hangUp(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.calls, id)
}

// request queues req for the control stream. It waits while the worker doesn't
// read its control stream.
func (w *Worker) request(ctx context.Context, req *fnpb.InstructionRequest) error {
	select {
	case w.requests <- req:
		return nil
	case <-w.lost:
		return w.Err()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Ping returns when the worker has answered an instruction that is cheap and
// beside all bundles: it says whether a silent worker still reads its control
// stream.
func (w *Worker) Ping(ctx context.Context) error {
	_, err := w.HarnessMonitoring(ctx)
	var answered *UserError
	if errors.As(err, &answered) {
		return nil // an SDK that doesn't know the instruction is alive as well
	}
	return err
}

// HarnessMonitoring asks for the metrics of the worker process as a whole, by
// short id.
func (w *Worker) HarnessMonitoring(ctx context.Context) (map[string][]byte, error) {
	resp, err := w.Do(ctx, &fnpb.InstructionRequest{
		Request: &fnpb.InstructionRequest_HarnessMonitoringInfos{HarnessMonitoringInfos: &fnpb.HarnessMonitoringInfosRequest{}},
	})
	return resp.GetHarnessMonitoringInfos().GetMonitoringData(), err
}
