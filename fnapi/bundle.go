package fnapi

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
)

// A Bundle is one ProcessBundle instruction under way. Its input belongs to one
// goroutine (Send, SendTimers, CloseInput); all else is safe for concurrent use.
//
// Whoever starts a bundle must Wait for it: Wait is what ends it.
type Bundle struct {
	worker *Worker
	id     string
	lane   int
	start  BundleStart
	stream atomic.Pointer[dataStream] // the one that has carried its data, if any

	ctx    context.Context // of state requests; ends with the bundle
	cancel context.CancelFunc

	responded chan struct{} // closed when the response is there
	done      chan struct{} // closed when the bundle is complete or has failed
	over      atomic.Bool   // set before done is closed: Output and State are left alone

	mu       sync.Mutex
	response *fnpb.ProcessBundleResponse // set before responded is closed
	embedded bool                        // the response has elements that wait for Wait
	open     int                         // outlets that have not sent their last chunk
	err      error                       // why it failed; set before done is closed

	outMu   sync.Mutex // held while Output is called
	outlets []outlet

	stateMu sync.Mutex // held while State is called

	queueMu  sync.Mutex
	queue    []stateRequest // at most Options.StateRequests
	draining bool           // a goroutine empties queue
}

// An outlet is a sink or timer family of the bundle.
type outlet struct {
	transform, family string
	timers            bool
	last              bool // its last chunk has been seen; guarded by outMu
}

// Start sends the ProcessBundleRequest. The bundle is the caller's to Wait for.
func (w *Worker) Start(ctx context.Context, start BundleStart) (*Bundle, error) {
	b, err := w.newBundle(ctx, start)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	if err := w.err; err != nil {
		w.mu.Unlock()
		b.cancel()
		return nil, err
	}
	w.bundles[b.id] = b // known before the worker can send anything for it
	w.mu.Unlock()
	if stream, _ := w.lanes[b.lane].current(); stream != nil {
		b.claim(stream) // and so shares its fate from now on
	}

	err = w.request(ctx, &fnpb.InstructionRequest{
		InstructionId: b.id,
		Request: &fnpb.InstructionRequest_ProcessBundle{ProcessBundle: &fnpb.ProcessBundleRequest{
			ProcessBundleDescriptorId: start.Descriptor,
			CacheTokens:               start.CacheTokens,
			Elements:                  start.Embedded,
		}},
	})
	if err != nil {
		b.finish(err)
		return nil, err
	}
	return b, nil
}

func (w *Worker) newBundle(ctx context.Context, start BundleStart) (*Bundle, error) {
	d, err := w.descriptor(start.Descriptor)
	if err != nil {
		return nil, err
	}
	if start.Output == nil && len(start.Sinks)+len(start.Timers) > 0 {
		return nil, fmt.Errorf("bundle of descriptor %s has sinks and no Output", start.Descriptor)
	}
	b := &Bundle{
		worker:    w,
		id:        w.server.newInstruction(),
		lane:      d.lane,
		start:     start,
		responded: make(chan struct{}),
		done:      make(chan struct{}),
		outlets:   make([]outlet, 0, len(start.Sinks)+len(start.Timers)),
	}
	for _, s := range start.Sinks {
		b.outlets = append(b.outlets, outlet{transform: s})
	}
	for _, t := range start.Timers {
		b.outlets = append(b.outlets, outlet{transform: t[0], family: t[1], timers: true})
	}
	b.open = len(b.outlets)
	b.ctx, b.cancel = context.WithCancel(context.WithoutCancel(ctx))
	b.address(start.Embedded)
	return b, nil
}

// address writes the bundle's id into elements that go inside its request.
func (b *Bundle) address(e *fnpb.Elements) {
	for _, d := range e.GetData() {
		d.InstructionId = b.id
	}
	for _, t := range e.GetTimers() {
		t.InstructionId = b.id
	}
}

// ID is the bundle's instruction id.
func (b *Bundle) ID() string { return b.id }

// Done is closed when the bundle has failed, or nothing more will come of it;
// Wait then returns without waiting for the worker.
func (b *Bundle) Done() <-chan struct{} { return b.done }

// Wait returns when the bundle is complete: response and all last chunks. If
// ctx ends first, Wait aborts the bundle. In every case the bundle is over when
// Wait returns: no call of its Output or StateHandler is under way or follows.
// A user error is a *UserError with the SDK's text, a lost worker a
// *WorkerLostError; an error of Output or the reason of an Abort comes back as
// it is.
func (b *Bundle) Wait(ctx context.Context) (*fnpb.ProcessBundleResponse, error) {
	select {
	case <-b.responded:
		b.takeEmbedded()
	case <-b.done:
	case <-ctx.Done():
		b.Abort(context.Cause(ctx))
	}
	select {
	case <-b.done:
	case <-ctx.Done():
		b.Abort(context.Cause(ctx))
	}
	// The bundle is over; wait for the calls that had begun before.
	b.outMu.Lock()
	b.outMu.Unlock() //nolint:staticcheck // an empty section is the point
	b.stateMu.Lock()
	b.stateMu.Unlock() //nolint:staticcheck // likewise
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return nil, b.err
	}
	return b.response, nil
}

// Abort ends the bundle on our side, with err or ErrAborted: late chunks and
// requests of it are dropped. (The Fn API has no way to stop the worker's side;
// it goes on until it has all its input.) Abort doesn't wait for calls of
// Output or StateHandler that are under way; Wait does. Abort after the end
// does nothing.
func (b *Bundle) Abort(err error) {
	if err == nil {
		err = ErrAborted
	}
	b.finish(err)
}

// finish ends the bundle; the first end stays.
func (b *Bundle) finish(err error) {
	b.mu.Lock()
	if b.over.Load() {
		b.mu.Unlock()
		return
	}
	b.err = err
	b.over.Store(true)
	close(b.done)
	b.mu.Unlock()
	b.cancel()
	b.worker.forget(b)
}

// respond takes the worker's answer. A second answer means nothing.
func (b *Bundle) respond(resp *fnpb.InstructionResponse) {
	if text := resp.GetError(); text != "" {
		// Last chunks may never come after an error.
		b.finish(&UserError{Worker: b.worker.Name(), Instruction: b.id, Text: text})
		return
	}
	answer := resp.GetProcessBundle()
	if answer == nil {
		b.violated("the response is not that of a bundle")
		return
	}
	b.mu.Lock()
	if b.response != nil || b.over.Load() {
		b.mu.Unlock()
		return
	}
	b.response = answer
	b.embedded = len(answer.GetElements().GetData())+len(answer.GetElements().GetTimers()) > 0
	close(b.responded)
	complete := b.isComplete()
	b.mu.Unlock()
	if complete {
		b.finish(nil)
	}
}

// isComplete says that nothing more will come. It wants b.mu.
func (b *Bundle) isComplete() bool {
	return b.response != nil && b.open == 0 && !b.embedded
}

// violated fails the bundle for what its worker did.
func (b *Bundle) violated(what string) {
	b.finish(&ProtocolError{Worker: b.worker.Name(), Instruction: b.id, What: what})
}

// Progress asks how far the bundle is.
func (b *Bundle) Progress(ctx context.Context) (*fnpb.ProcessBundleProgressResponse, error) {
	resp, err := b.worker.Do(ctx, &fnpb.InstructionRequest{
		Request: &fnpb.InstructionRequest_ProcessBundleProgress{
			ProcessBundleProgress: &fnpb.ProcessBundleProgressRequest{InstructionId: b.id},
		},
	})
	return resp.GetProcessBundleProgress(), err
}

// Split asks the worker to give back a part of the bundle's input. A response
// without channel splits is a no.
func (b *Bundle) Split(ctx context.Context, desired map[string]*fnpb.ProcessBundleSplitRequest_DesiredSplit) (*fnpb.ProcessBundleSplitResponse, error) {
	resp, err := b.worker.Do(ctx, &fnpb.InstructionRequest{
		Request: &fnpb.InstructionRequest_ProcessBundleSplit{
			ProcessBundleSplit: &fnpb.ProcessBundleSplitRequest{InstructionId: b.id, DesiredSplits: desired},
		},
	})
	return resp.GetProcessBundleSplit(), err
}

// Finalize tells the worker that the bundle's output is durable, where its
// response has required that.
func (b *Bundle) Finalize(ctx context.Context) error {
	_, err := b.worker.Do(ctx, &fnpb.InstructionRequest{
		Request: &fnpb.InstructionRequest_FinalizeBundle{
			FinalizeBundle: &fnpb.FinalizeBundleRequest{InstructionId: b.id},
		},
	})
	return err
}
