// Package jobgraph is what scheduling sees of a pipeline: stages, the datasets
// between them, and pipeline regions.
//
// Fusion makes a Graph from a pipeline, region computation types its edges and
// groups its stages, the catalog stores it with the job, and the scheduler
// reads it. There is no Beam proto in it: how a stage does its work is in the
// plan (package fusion), under the same ids.
//
// A Graph is immutable once region.Compute has returned it.
package jobgraph

import "strconv"

// Ids are unique within one job and are the same whenever the same pipeline is
// fused again.
type (
	StageID   string // s1, s2, … in topological order
	DatasetID string // d1, d2, …
	RegionID  string // r1, r2, … in topological order
)

// A Graph holds the stages of one job in topological order.
type Graph struct {
	Stages   []*Stage   `json:"stages"`
	Datasets []*Dataset `json:"datasets"`
	Regions  []*Region  `json:"regions,omitempty"` // filled by region.Compute
	// Streaming says that the job runs as a whole while its input is unbounded:
	// all datasets are pipelined, each has one reader, and all stages are one
	// region, of which a slot hosts one task each.
	Streaming bool `json:"streaming,omitempty"`
}

// RootKind says how a stage comes by its input.
type RootKind string

const (
	// RootImpulse starts from one empty element; such a stage has one task.
	RootImpulse RootKind = "impulse"
	// RootRead passes on the elements of its inputs as they are.
	RootRead RootKind = "read"
	// RootGroup groups its inputs by key and window.
	RootGroup RootKind = "group"
	// RootKeyed reads its inputs sorted by key, for a stage with user state or
	// timers: all elements of one key in one task, one key after another.
	RootKeyed RootKind = "keyed"
	// RootRestrictions works through a queue of splittable DoFn restrictions
	// (elements of a sized restriction collection) that all tasks of the stage
	// pull from.
	RootRestrictions RootKind = "restrictions"
	// RootTestStream plays the events of a TestStream. There is one only in a
	// streaming graph.
	RootTestStream RootKind = "teststream"
)

// A Stage is what one task runs: a root, one fused chain of transforms in one
// environment, and writes to datasets.
type Stage struct {
	ID          StageID     `json:"id"`
	Name        string      `json:"name"`                  // for people: the author's transform names
	Environment string      `json:"environment,omitempty"` // "" when the runner alone does the work
	Root        RootKind    `json:"root"`
	Inputs      []DatasetID `json:"inputs,omitempty"`     // all hold elements of one coder; none for impulse
	SideInputs  []DatasetID `json:"sideInputs,omitempty"` // distinct, always read whole
	Outputs     []DatasetID `json:"outputs,omitempty"`
	// Deterministic stages write the same again when they read the same again,
	// in whatever order it comes: what one of their tasks has lost can be made
	// again without running its readers again.
	Deterministic bool `json:"deterministic,omitempty"`
	// Bind is set of a RootImpulse stage that reads a bounded source, to the kind
	// of source. What exactly it reads is found out once for the job, before the
	// stage starts, and is its one element.
	Bind string `json:"bind,omitempty"`

	// Region and Head are filled by region.Compute.
	Region RegionID `json:"region,omitempty"`
	// Head is the stage that decides this one's parallelism: the first of the
	// chain of pipelined pointwise edges that ends here, or the stage itself.
	Head StageID `json:"head,omitempty"`
}

// Partitioning says how a producer's task spreads elements over sub-partitions.
type Partitioning string

const (
	ByKey   Partitioning = "key"     // hash of the encoded key
	Spread  Partitioning = "spread"  // evenly, whatever the element
	Forward Partitioning = "forward" // one sub-partition, read pointwise
	Whole   Partitioning = "whole"   // one sub-partition, read by every consumer task (side inputs)
)

// Exchange says when consumers may read.
type Exchange string

const (
	Blocking  Exchange = "blocking"  // when every producer task has finished
	Pipelined Exchange = "pipelined" // while the producer runs
)

// A Dataset is a collection handed from one stage to others. Each producer
// task writes one partition of it; a partition has sub-partitions.
type Dataset struct {
	ID           DatasetID    `json:"id"`
	Collection   string       `json:"collection"` // id in the plan's components
	Producer     StageID      `json:"producer"`
	Consumers    []StageID    `json:"consumers"` // in topological order, main and side
	Partitioning Partitioning `json:"partitioning"`
	Exchange     Exchange     `json:"exchange"` // filled by region.Compute
}

// AllToAll reports whether every consumer task may read from every partition.
func (d *Dataset) AllToAll() bool { return d.Partitioning != Forward }

// A Partition names what one attempt of one producer task writes of a dataset.
type Partition struct {
	Index   int
	Attempt uint32
}

// A Region is a set of stages that run together: no blocking edge inside, no
// pipelined edge to the outside.
type Region struct {
	ID     RegionID  `json:"id"`
	Stages []StageID `json:"stages"` // in topological order
	// Pointwise regions have no all-to-all edge inside: each index of their
	// tasks is an execution region of its own and may start, fail and restart
	// alone. In all others the whole region does.
	Pointwise bool `json:"pointwise"`
}

// Stage returns the stage with that id, or nil.
func (g *Graph) Stage(id StageID) *Stage {
	i := position(string(id), 's', len(g.Stages), func(i int) string { return string(g.Stages[i].ID) })
	if i < 0 {
		return nil
	}
	return g.Stages[i]
}

// Dataset returns the dataset with that id, or nil.
func (g *Graph) Dataset(id DatasetID) *Dataset {
	i := position(string(id), 'd', len(g.Datasets), func(i int) string { return string(g.Datasets[i].ID) })
	if i < 0 {
		return nil
	}
	return g.Datasets[i]
}

// Region returns the region with that id, or nil.
func (g *Graph) Region(id RegionID) *Region {
	i := position(string(id), 'r', len(g.Regions), func(i int) string { return string(g.Regions[i].ID) })
	if i < 0 {
		return nil
	}
	return g.Regions[i]
}

// RegionOf returns the region that holds the stage, or nil before
// region.Compute.
func (g *Graph) RegionOf(id StageID) *Region {
	s := g.Stage(id)
	if s == nil {
		return nil
	}
	return g.Region(s.Region)
}

// position finds an id among n. Fusion numbers in order (s1 stands first), so
// the number tells the place; ids made otherwise are searched for.
func position(id string, letter byte, n int, at func(int) string) int {
	if len(id) > 1 && id[0] == letter {
		if k, err := strconv.Atoi(id[1:]); err == nil && k >= 1 && k <= n && at(k-1) == id {
			return k - 1
		}
	}
	for i := range n {
		if at(i) == id {
			return i
		}
	}
	return -1
}
