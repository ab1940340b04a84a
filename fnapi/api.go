// Package fnapi is the wire to SDK harness workers: the Beam Fn API's control,
// data, state, logging, provision, artifact retrieval and worker status
// services on one listener (data on several). It knows instructions and
// chunks of bytes; it knows no pipelines.
//
// (Skeleton of what package bundle and harness call; the room's owner
// completes and documents it, and may turn interfaces into concrete types with
// these methods.)
package fnapi

import (
	"context"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
)

// A BundleStart says how an instruction is to run.
type BundleStart struct {
	Descriptor string // id of a ProcessBundleDescriptor set with SetDescriptor
	// Sinks are the transform ids of the descriptor's data sinks, Timers the
	// transform and family ids: the bundle is complete when the response is
	// there and each of them has sent its last chunk.
	Sinks  []string
	Timers [][2]string
	// Output takes what the worker sends. Calls for one bundle never overlap.
	Output Output
	// State answers state requests; calls may overlap.
	State       StateHandler
	CacheTokens []*fnpb.ProcessBundleRequest_CacheToken
	// Embedded goes inside the request where the SDK can read it there; nil if
	// input comes by Send.
	Embedded *fnpb.Elements
}

// An Output takes a bundle's chunks. The bytes are valid during the call only.
// An error fails the bundle; its later chunks are read and thrown away.
type Output interface {
	Data(transform string, chunk []byte) error
	Timers(transform, family string, chunk []byte) error
}

// A StateHandler answers the state requests of one bundle. An error becomes
// the response's error text, and is not the end of the bundle by itself.
type StateHandler interface {
	// Get returns encoded elements and the token of the next page, nil at the end.
	Get(ctx context.Context, key *fnpb.StateKey, req *fnpb.StateGetRequest) (data, next []byte, err error)
	Append(ctx context.Context, key *fnpb.StateKey, data []byte) error
	Clear(ctx context.Context, key *fnpb.StateKey) error
}

// WorkerAPI is one connected SDK harness (concrete type: *Worker).
type WorkerAPI interface {
	ID() string
	// SetDescriptor makes d known to the worker, which fetches it by its id.
	SetDescriptor(d *fnpb.ProcessBundleDescriptor)
	// DataURL is the data endpoint of a lane: concurrent bundles of one worker
	// use different lanes, each its own URL, so that one can't block another.
	DataURL(lane int) string
	StateURL() string
	// Start sends the ProcessBundleRequest.
	Start(ctx context.Context, b BundleStart) (BundleAPI, error)
	// Do sends any other instruction and waits for its response.
	Do(ctx context.Context, req *fnpb.InstructionRequest) (*fnpb.InstructionResponse, error)
	// Lost is closed when the worker's control stream has ended; Err says why.
	Lost() <-chan struct{}
	Err() error
}

// BundleAPI is one bundle under way (concrete type: *Bundle).
type BundleAPI interface {
	// Send gives the worker a chunk of encoded windowed values for a source
	// transform. It blocks while the worker doesn't read (back-pressure), and
	// keeps no reference to chunk when it returns. Only one goroutine calls it.
	Send(ctx context.Context, transform string, chunk []byte) error
	SendTimers(ctx context.Context, transform, family string, chunk []byte) error
	// CloseInput sends the last marks for these sources and timer families.
	CloseInput(ctx context.Context, sources []string, timers [][2]string) error
	// Wait returns when the bundle is complete: response and all last chunks
	// (then every Output call has returned). A user error is a *UserError with
	// the SDK's text, a lost worker a *WorkerLostError.
	Wait(ctx context.Context) (*fnpb.ProcessBundleResponse, error)
	Progress(ctx context.Context) (*fnpb.ProcessBundleProgressResponse, error)
	Split(ctx context.Context, desired map[string]*fnpb.ProcessBundleSplitRequest_DesiredSplit) (*fnpb.ProcessBundleSplitResponse, error)
	// Abort ends the bundle on our side; late chunks and requests of it are
	// dropped. Abort after Wait does nothing.
	Abort(err error)
}
