// Package graph is a Beam pipeline, checked once and typed.
//
// FromProto takes the proto that a client sent, refuses it with all that is
// wrong with it at once, and gives a Graph of its leaf transforms in a fixed
// topological order. Later rooms trust a Graph and check nothing again.
// Composites are gone but for the names that they lend to their leaves, and
// for those that the runner understands as a whole: a Reshuffle, a
// CombinePerKey.
//
// Rewrites (package transforms) make a new Graph from a Graph; cutting it into
// stages is package fusion's.
package graph

import (
	"maps"
	"slices"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// Ids are the pipeline proto's component ids.
type (
	TransformID   string
	CollectionID  string
	EnvironmentID string
)

// A Kind says what fusion must know of a transform.
type Kind int

const (
	// Impulse gives one empty element; the runner does it.
	Impulse Kind = iota + 1
	// ParDo covers everything that an SDK worker runs element by element: ParDo,
	// the parts of a lifted combine, of a splittable DoFn, map_windows, and any
	// transform that has an environment and whose URN the runner doesn't know.
	// It has one main input.
	ParDo
	// GroupByKey groups by key and window; the runner does it.
	GroupByKey
	// Flatten is the union of its inputs: no work, see package fusion. One of no
	// inputs makes an empty collection.
	Flatten
	// Reshuffle spreads its input anew and is a persistence point: what comes
	// out of it is never computed twice.
	Reshuffle
	// Restrictions is the process half of a splittable DoFn: it runs like a
	// ParDo and may be split, so it must be fed from a queue of its own.
	Restrictions

	// TestStream plays events that a test has written down; the runner does it.
	TestStream

	// CombinePerKey is a combine that may be lifted. It stands only in what
	// FromProto returns: transforms.Apply leaves none, so fusion sees none.
	CombinePerKey
	// Splittable is a splittable DoFn, whole. As with CombinePerKey,
	// transforms.Apply leaves none.
	Splittable
)

// A Graph is an immutable pipeline of leaf transforms.
type Graph struct {
	Transforms   []*Transform // topological; ties in the order of ids
	Collections  map[CollectionID]*Collection
	Environments map[EnvironmentID]*pipepb.Environment
	Windowings   map[string]*pipepb.WindowingStrategy
	Coders       map[string]*pipepb.Coder
	Requirements []string
	// Streaming says that the pipeline is run while its input may be unbounded.
	// It is so where something in it never ends, or its author wants it.
	Streaming bool
}

// A Transform is one leaf.
type Transform struct {
	ID   TransformID
	Name string // the author's name for it: the proto's unique_name
	Kind Kind
	// Proto is the leaf as a worker must see it. Rewrites replace it, they never
	// change it in place.
	Proto       *pipepb.PTransform
	Environment EnvironmentID        // "" for what the runner does alone
	ParDo       *pipepb.ParDoPayload // set where the spec carries one
	Inputs      []CollectionID       // main inputs: one, or a flatten's in order of tags
	SideInputs  []SideInput          // in order of tags
	Outputs     []CollectionID       // in order of tags
	Stateful    bool                 // has user state or timers: input must come keyed
	// Origin is the transform of the submitted pipeline that this one stands
	// for; itself unless a rewrite made it. Metrics and errors are told by it.
	Origin TransformID
	// Parts are what a CombinePerKey does if it isn't lifted: its own leaves, in
	// no particular order. Only a CombinePerKey has them.
	Parts []*Transform
}

// A SideInput is a collection read whole by a ParDo.
type SideInput struct {
	Tag        string
	Collection CollectionID
	Access     string // beam:side_input:iterable:v1 or …multimap:v1
}

// A Collection is what flows between transforms.
type Collection struct {
	ID CollectionID
	// Coder is an id in Graph.Coders; of the element, not windowed. After
	// transforms.Apply it is the wire coder: what the runner can't cut in it is
	// length prefixed.
	Coder string
	// Declared is the coder by which SDKs know the collection, where it isn't
	// Coder; else "". A worker's data ports always use Coder. Its transforms are
	// told Declared for all collections but those that they encode to the runner
	// or decode from it without a port: side inputs, and main inputs of stateful
	// transforms and Restrictions. (Some look at the type of a collection's
	// coder: Java for schemas, Python for batches, Go to encode a CoGBK.)
	Declared  string
	Windowing string // id in Graph.Windowings
	Bounded   bool
	Producer  TransformID
}

// Clone is a copy that a rewrite may add to and remove from. The values in it
// are shared: replace them, never change them.
func (g *Graph) Clone() *Graph {
	return &Graph{
		Transforms:   slices.Clone(g.Transforms),
		Collections:  maps.Clone(g.Collections),
		Environments: maps.Clone(g.Environments),
		Windowings:   maps.Clone(g.Windowings),
		Coders:       maps.Clone(g.Coders),
		Requirements: slices.Clone(g.Requirements),
		Streaming:    g.Streaming,
	}
}

// Transform returns the transform with that id, or nil.
func (g *Graph) Transform(id TransformID) *Transform {
	for _, t := range g.Transforms {
		if t.ID == id {
			return t
		}
	}
	return nil
}
