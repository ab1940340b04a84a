// Package fnapi is the wire to SDK harness workers: the Beam Fn API's control,
// data, state, logging, provision, artifact retrieval and worker status
// services.
//
// A Server serves them on one listener, the data service on further ones, its
// lanes, and, at the least cost, the state service on one more. Admit invents
// the identity of a worker before the worker is started; nobody without such an
// identity is heard, and nobody may use one twice. Once its control stream is
// there, the Worker runs bundles: Start sends the request, Send the input, the
// bundle's Output takes what comes back, its StateHandler answers state
// requests, Wait ends it.
//
// What it promises. Elements stay bytes: a chunk is copied once on its way in
// and once on its way out, and nothing is done per element. A worker's data
// stream is always read, whatever one bundle does with its chunks: an Output
// that has no room must spill. Input is held back by HTTP/2 flow control, lane
// by lane. When a worker is lost, all that waits for it fails at once. One
// worker's garbage fails that worker's stream, one bundle's misbehaviour that
// bundle.
//
// It knows instructions and chunks of bytes. What a pipeline, a coder or an
// element is, and how workers are started, it leaves to others: see packages
// runner/bundle and harness.
package fnapi

import (
	"context"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
)

// A BundleStart says how a bundle is to run.
type BundleStart struct {
	// Descriptor is the id of a ProcessBundleDescriptor set with SetDescriptor.
	// Bundles that run at once on one worker have descriptors with different
	// DataURLs: a worker that is slow with one bundle's input leaves the rest of
	// its lane unread.
	Descriptor string
	// Sinks are the transform ids of the descriptor's data sinks, Timers the
	// transform and family ids: the bundle is complete when the response is
	// there and each of them has sent its last chunk.
	Sinks  []string
	Timers [][2]string
	// Output takes what the worker sends; it may be nil if there is no sink.
	Output Output
	// State answers state requests; nil refuses them.
	State       StateHandler
	CacheTokens []*fnpb.ProcessBundleRequest_CacheToken
	// Embedded is the whole input, with its last marks, for an SDK that declares
	// CapabilityRequestEmbedding; nil if input comes by Send. Entries without
	// instruction id get that of the bundle.
	Embedded *fnpb.Elements
}

// An Output takes a bundle's chunks. A chunk holds whole elements (or timers),
// one after the other. Its bytes are valid during the call only. Calls for one
// bundle never overlap. While a call lasts, nothing else is read from the
// bundle's lane. An error fails the bundle; its later chunks are read and
// thrown away.
//
// An Output must not call its Bundle's Wait.
type Output interface {
	Data(transform string, chunk []byte) error
	Timers(transform, family string, chunk []byte) error
}

// A StateHandler answers the state requests of one bundle, one at a time and in
// the order in which the worker sent them: SDKs send a clear and the appends
// after it without waiting in between. An error becomes the response's error
// text, and is not the end of the bundle by itself. The context ends with the
// bundle. Returned slices must stay as they are until the response is encoded:
// for ever, to be sure.
type StateHandler interface {
	// Get returns encoded elements and the token of the next page, nil at the end.
	Get(ctx context.Context, key *fnpb.StateKey, req *fnpb.StateGetRequest) (data, next []byte, err error)
	Append(ctx context.Context, key *fnpb.StateKey, data []byte) error
	Clear(ctx context.Context, key *fnpb.StateKey) error
}

// A QuickStateHandler is a StateHandler that can tell what it answers without
// waiting. The keys, requests and data that it is given are good during the
// call only.
type QuickStateHandler interface {
	StateHandler
	// Quick reports whether a request about key, whatever it wants, is answered
	// from memory, now. It must not wait either.
	Quick(key *fnpb.StateKey) bool
}

// Protocol names of capabilities that this room has an opinion on.
const (
	// CapabilityRequestEmbedding is declared by SDKs which read BundleStart.Embedded.
	CapabilityRequestEmbedding = "beam:protocol:control_request_elements_embedding:v1"
	// CapabilityResponseEmbedding tells SDKs that output may come inside the
	// ProcessBundleResponse.
	CapabilityResponseEmbedding = "beam:protocol:control_response_elements_embedding:v1"
	// CapabilityShortIDs tells SDKs that metrics may be named by short ids.
	CapabilityShortIDs = "beam:protocol:monitoring_info_short_ids:v1"
)

// serverCapabilities is what every worker is told that the runner can do.
// (Whether multimap_keys_values_side_input is possible depends on the
// StateHandler: see Admission.Capabilities.)
var serverCapabilities = []string{CapabilityResponseEmbedding, CapabilityShortIDs}
