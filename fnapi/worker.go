package fnapi

import (
	"context"
	"errors"
	"fmt"
	"sync"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
)

// An Admission is what a worker may ask for while it boots.
type Admission struct {
	Name           string           // what people call the worker: "python-1"; also the beginning of its id
	Options        *structpb.Struct // the pipeline options
	RetrievalToken string
	Dependencies   []*pipepb.ArtifactInformation
	Metadata       map[string]string
	Capabilities   []string // of the runner, besides those of this room
	// Status asks the worker to keep a status stream, so that Worker.Status can be
	// asked. A Python worker pays for it with a few percent of its time.
	Status bool
	// Artifacts serves the files of Dependencies; nil if there are none.
	Artifacts ArtifactSource
	// Logs takes what the worker logs; nil throws it away.
	Logs LogSink
}

// A Worker is one SDK harness, from before its process is started until it is
// withdrawn. All methods are safe for concurrent use.
type Worker struct {
	server    *Server
	id        string
	admission Admission

	ready  chan struct{} // closed when the control stream is there
	lost   chan struct{} // closed when the control stream has ended, or with closed
	closed chan struct{} // closed when the worker is withdrawn

	requests   chan *fnpb.InstructionRequest // to the control stream's writer; full: the caller waits
	stateSlots chan struct{}                 // one per state request in hand
	lanes      []lane
	status     statusDesk
	shortIDs   shortIDs

	mu          sync.RWMutex
	attached    bool  // a control stream has come, once and for all
	err         error // why lost; set before lost is closed
	isClosed    bool
	descriptors map[string]descriptor
	bundles     map[string]*Bundle // under way, by instruction
	calls       map[string]*call   // other instructions, by id
}

func newWorker(s *Server, id string, a Admission) *Worker {
	w := &Worker{
		server:      s,
		id:          id,
		admission:   a,
		ready:       make(chan struct{}),
		lost:        make(chan struct{}),
		closed:      make(chan struct{}),
		requests:    make(chan *fnpb.InstructionRequest, 16),
		stateSlots:  make(chan struct{}, s.opts.StateRequests),
		lanes:       make([]lane, len(s.data)),
		descriptors: make(map[string]descriptor),
		bundles:     make(map[string]*Bundle),
		calls:       make(map[string]*call),
	}
	for i := range w.lanes {
		w.lanes[i].arrived = make(chan struct{})
	}
	return w
}

// ID is the worker's identity, and the only proof of it: a secret.
func (w *Worker) ID() string { return w.id }

// Name is what errors and logs call the worker.
func (w *Worker) Name() string { return w.admission.Name }

// URL is the address of all services but data: control, state, logging,
// provision, artifact retrieval and status.
func (w *Worker) URL() string { return w.server.url }

// StateURL is the address of the state service.
func (w *Worker) StateURL() string { return w.server.stateURL }

// DataURL is the data endpoint of a lane, any non-negative number: concurrent
// bundles of one worker use different lanes, so that one can't block another.
// Lanes that are equal modulo Server.Lanes are the same.
func (w *Worker) DataURL(lane int) string { return w.server.urls[max(lane, 0)%len(w.lanes)] }

// Ready waits until the worker's control stream is there.
func (w *Worker) Ready(ctx context.Context) error {
	select {
	case <-w.ready:
		return nil
	case <-w.lost:
		return w.Err()
	case <-ctx.Done():
		return fmt.Errorf("worker %s has not connected: %w", w.Name(), context.Cause(ctx))
	}
}

// Lost is closed when the worker's control stream has ended, or the worker has
// been withdrawn; Err says why.
func (w *Worker) Lost() <-chan struct{} { return w.lost }

// Err is a *WorkerLostError once Lost is closed, and nil before.
func (w *Worker) Err() error {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.err
}

// Close withdraws the worker: its streams end, what waits for it fails, its
// identity is worth nothing any more. Closing the streams is also how a worker
// is told to end; its logging stream is heard a little longer, for its last
// words. Close twice does nothing.
func (w *Worker) Close() {
	w.server.mu.Lock()
	delete(w.server.workers, w.id)
	w.server.mu.Unlock()
	w.lose(ErrClosed)
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.isClosed {
		w.isClosed = true
		close(w.closed)
	}
}

// lose fails all that waits for the worker. The first cause stays.
func (w *Worker) lose(cause error) {
	w.mu.Lock()
	if w.err != nil {
		w.mu.Unlock()
		return
	}
	w.err = &WorkerLostError{Worker: w.Name(), Cause: cause}
	bundles, calls := w.bundles, w.calls
	w.bundles, w.calls = nil, nil // no further one is added to a lost worker
	close(w.lost)
	w.mu.Unlock()

	for _, b := range bundles {
		b.finish(w.err)
	}
	for _, c := range calls {
		c.end(nil, w.err)
	}
}

// attach claims the worker's only control stream.
func (w *Worker) attach() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.attached || w.err != nil {
		return status.Error(codes.PermissionDenied, "this worker id has been used")
	}
	w.attached = true
	close(w.ready)
	return nil
}

// SetDescriptor makes d known to the worker, which fetches it by its id. The
// worker may keep it: a changed descriptor needs a new id. All its ports have
// the DataURL of one lane; if not, Start says so.
func (w *Worker) SetDescriptor(d *fnpb.ProcessBundleDescriptor) {
	lane, err := laneOf(d, w.server.urls)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.descriptors[d.GetId()] = descriptor{proto: d, lane: lane, err: err}
}

func (w *Worker) descriptor(id string) (descriptor, error) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	d, ok := w.descriptors[id]
	if !ok {
		return d, fmt.Errorf("no bundle descriptor %q is set", id)
	}
	return d, d.err
}

// bundle is the bundle under way of this instruction, or nil.
func (w *Worker) bundle(instruction []byte) *Bundle {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.bundles[string(instruction)]
}

// forget makes late data, state requests and responses of b strangers.
func (w *Worker) forget(b *Bundle) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.bundles, b.id)
}

// streamEnd is why a stream ended, for people.
func streamEnd(err error) error {
	switch {
	case err == nil:
		return errors.New("it ended its stream")
	case status.Code(err) == codes.Canceled:
		return errors.New("its connection broke")
	}
	return err
}
