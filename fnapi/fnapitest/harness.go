// Package fnapitest is a fake SDK harness: the worker's end of the Fn API, for
// tests of the runner's end and of what stands on it.
//
// A Harness runs bundles with a plain Go function instead of user code; without
// one it echoes, each chunk of a source to all sinks. It takes its sources,
// sinks and timer families from the bundle descriptor as a real SDK does. And it
// misbehaves on demand: delay, refuse, garble, duplicate, drop or die, for one
// instruction.
//
// It is small and straight, not fast: one goroutine per bundle, protobuf
// messages throughout.
package fnapitest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

// A Fault is how a harness deals with one bundle.
type Fault int

// The faults.
const (
	None         Fault = iota
	Delay              // begin only when Behaviour.Until is closed
	Refuse             // answer with an error, Behaviour.Text, before reading any input
	Fail               // answer with an error, Behaviour.Text, after reading all input
	GarbleData         // send bytes that are no Elements on the data stream
	GarbleAnswer       // answer with another instruction's kind of response
	GarbleStream       // send bytes that are no InstructionResponse on the control stream
	Stray              // send elements for a transform that is no sink
	Duplicate          // send last marks and the response twice
	DropLast           // never send the last marks
	DropAnswer         // never send the response
	Die                // cut all connections when the input has begun
)

// A Behaviour is a fault and what it needs.
type Behaviour struct {
	Fault Fault
	Until <-chan struct{}
	Text  string
}

// A Harness is one fake worker. Set its fields, then Run it.
type Harness struct {
	ID  string // the identity it was admitted with
	URL string // of the control service

	// Behave chooses the behaviour for the nth bundle, from 0; nil: no faults.
	Behave func(n int, descriptor string) Behaviour
	// Process handles one chunk of a source; nil: emit it to all sinks.
	Process func(c *Call, source string, chunk []byte) error
	// ProcessTimers handles one chunk of timers; nil: drop it.
	ProcessTimers func(c *Call, transform, family string, chunk []byte) error
	// Finish is called when all input of a bundle has been processed, and may
	// emit; nil: an empty response.
	Finish func(c *Call) (*fnpb.ProcessBundleResponse, error)
	// Split answers a split request; nil: an empty response, which is a no.
	Split func(req *fnpb.ProcessBundleSplitRequest) *fnpb.ProcessBundleSplitResponse
	// Progress answers a progress request; nil: an empty response.
	Progress func(req *fnpb.ProcessBundleProgressRequest) *fnpb.ProcessBundleProgressResponse
	// Before sees each instruction first; false: it is dropped without an answer.
	// nil: none is. It is called by the reader of the control stream.
	Before func(req *fnpb.InstructionRequest) bool
	// Infos are the metrics behind short ids.
	Infos map[string]*pipepb.MonitoringInfo
	// Embed puts all output inside the response, as Java does with small output.
	Embed bool

	ctx     context.Context
	cancel  context.CancelCauseFunc
	control fnpb.BeamFnControl_ControlClient
	tasks   sync.WaitGroup

	sending sync.Mutex // held while the control stream is sent on

	mu          sync.Mutex
	conns       map[string]*grpc.ClientConn
	channels    map[string]*channel // data, by URL
	descriptors map[string]*fnpb.ProcessBundleDescriptor
	state       *stateClient
	bundles     int
	hungUp      bool // no further connection is made
	finalized   []string
}

var errDied = errors.New("fake harness died, as told")

// Run connects and serves instructions until the runner ends the control
// stream, which is nil, or the harness dies, or ctx ends. It owns the harness's
// goroutines.
func (h *Harness) Run(ctx context.Context) error {
	h.ctx, h.cancel = context.WithCancelCause(metadata.AppendToOutgoingContext(ctx, "worker_id", h.ID))
	h.conns = make(map[string]*grpc.ClientConn)
	h.channels = make(map[string]*channel)
	h.descriptors = make(map[string]*fnpb.ProcessBundleDescriptor)
	err := h.serve()
	h.cancel(err)
	h.hangUp()
	h.tasks.Wait()
	if cause := context.Cause(h.ctx); errors.Is(cause, errDied) {
		return cause
	}
	return err
}

func (h *Harness) serve() error {
	conn, err := h.dial(h.URL)
	if err != nil {
		return err
	}
	h.control, err = fnpb.NewBeamFnControlClient(conn).Control(h.ctx)
	if err != nil {
		return fmt.Errorf("fake harness: control: %w", err)
	}
	for {
		req, err := h.control.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("fake harness: control: %w", err)
		}
		h.handle(req)
	}
}

// dial returns the connection to url, one for each.
func (h *Harness) dial(url string) (*grpc.ClientConn, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.hungUp {
		return nil, errors.New("fake harness: it has hung up")
	}
	if c := h.conns[url]; c != nil {
		return c, nil
	}
	c, err := Dial(url)
	if err != nil {
		return nil, fmt.Errorf("fake harness: dial %s: %w", url, err)
	}
	h.conns[url] = c
	return c, nil
}

// Dial makes a client connection as SDKs have them, over which Raw messages may
// be sent too.
func Dial(url string) (*grpc.ClientConn, error) {
	return grpc.NewClient(url,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(math.MaxInt32),
			grpc.MaxCallSendMsgSize(math.MaxInt32),
			grpc.ForceCodecV2(rawCodec{}),
		))
}

// Finalized are the bundles that the runner has finalized.
func (h *Harness) Finalized() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.finalized...)
}

// Die cuts all connections.
func (h *Harness) Die() {
	h.cancel(errDied)
	h.hangUp()
}

// hangUp closes all connections for good.
func (h *Harness) hangUp() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.hungUp = true
	for _, c := range h.conns {
		c.Close()
	}
}

func (h *Harness) answer(resp any) {
	h.sending.Lock()
	defer h.sending.Unlock()
	_ = h.control.SendMsg(resp) // an ended stream is noticed by its reader
}

func (h *Harness) handle(req *fnpb.InstructionRequest) {
	if h.Before != nil && !h.Before(req) {
		return
	}
	resp := &fnpb.InstructionResponse{InstructionId: req.GetInstructionId()}
	switch r := req.GetRequest().(type) {
	case *fnpb.InstructionRequest_ProcessBundle:
		n := h.bundles
		h.bundles++
		h.tasks.Go(func() { h.process(n, req.GetInstructionId(), r.ProcessBundle) })
		return
	case *fnpb.InstructionRequest_ProcessBundleSplit:
		split := &fnpb.ProcessBundleSplitResponse{}
		if h.Split != nil {
			split = h.Split(r.ProcessBundleSplit)
		}
		resp.Response = &fnpb.InstructionResponse_ProcessBundleSplit{ProcessBundleSplit: split}
	case *fnpb.InstructionRequest_ProcessBundleProgress:
		progress := &fnpb.ProcessBundleProgressResponse{}
		if h.Progress != nil {
			progress = h.Progress(r.ProcessBundleProgress)
		}
		resp.Response = &fnpb.InstructionResponse_ProcessBundleProgress{ProcessBundleProgress: progress}
	case *fnpb.InstructionRequest_FinalizeBundle:
		h.mu.Lock()
		h.finalized = append(h.finalized, r.FinalizeBundle.GetInstructionId())
		h.mu.Unlock()
		resp.Response = &fnpb.InstructionResponse_FinalizeBundle{FinalizeBundle: &fnpb.FinalizeBundleResponse{}}
	case *fnpb.InstructionRequest_MonitoringInfos:
		infos := &fnpb.MonitoringInfosMetadataResponse{MonitoringInfo: map[string]*pipepb.MonitoringInfo{}}
		for _, id := range r.MonitoringInfos.GetMonitoringInfoId() {
			if info := h.Infos[id]; info != nil {
				infos.MonitoringInfo[id] = info
			}
		}
		resp.Response = &fnpb.InstructionResponse_MonitoringInfos{MonitoringInfos: infos}
	case *fnpb.InstructionRequest_HarnessMonitoringInfos:
		resp.Response = &fnpb.InstructionResponse_HarnessMonitoringInfos{HarnessMonitoringInfos: &fnpb.HarnessMonitoringInfosResponse{}}
	default:
		resp.Error = fmt.Sprintf("fake harness: no answer to %T", r)
	}
	h.answer(resp)
}
