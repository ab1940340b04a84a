package schedule

import (
	"slices"

	"trestle/raftmeta/catalog"
	"trestle/runner/jobgraph"
)

// A streaming job's tasks hold their slots until the job ends, one task of each
// stage to a slot. Between two stages there is a channel from each task of the
// one to each of the other, a sub-partition; key groups are shared out to the
// readers in ranges, as they are when keyed work is done. So each reader knows
// from whom it hears what time it is.

// streamWidth is the number of tasks of a stage of a streaming job.
func (ch *chooser) streamWidth(id jobgraph.StageID) int {
	if n, known := ch.widths[id]; known {
		return n
	}
	n := 1
	spec := ch.j.Graph.Stage(id)
	switch spec.Root {
	case jobgraph.RootGroup, jobgraph.RootKeyed:
		n = ch.streamSlots()
	case jobgraph.RootRead, jobgraph.RootRestrictions:
		for _, in := range spec.Inputs {
			switch d := ch.j.Dataset(in); d.Partitioning {
			case jobgraph.Forward:
				n = max(n, ch.streamWidth(d.Producer))
			case jobgraph.ByKey, jobgraph.Spread:
				n = max(n, ch.streamSlots())
			}
		}
	}
	if ch.widths == nil {
		ch.widths = map[jobgraph.StageID]int{}
	}
	ch.widths[id] = n
	return n
}

// streamSlots is how many slots the job has. If its author doesn't say, half of
// those there are: others want to run before it ends. A TestStream's clock is
// one task's.
func (ch *chooser) streamSlots() int {
	if slices.ContainsFunc(ch.j.Graph.Stages, func(s *jobgraph.Stage) bool { return s.Root == jobgraph.RootTestStream }) {
		return 1
	}
	n := (ch.slots + 1) / 2
	if most := ch.j.MaxParallelism; most > 0 {
		n = min(most, ch.slots)
	}
	return max(1, min(n, ch.j.KeyGroups))
}

// streamReading says how n tasks of a streaming stage share an input.
func (ch *chooser) streamReading(d *jobgraph.Dataset, n int) catalog.InputChoice {
	if d.Partitioning == jobgraph.Forward {
		return catalog.InputChoice{Dataset: d.ID, Reading: catalog.ReadPointwise, Cuts: pointwise(ch.streamWidth(d.Producer), n)}
	}
	return catalog.InputChoice{Dataset: d.ID, Reading: catalog.ReadRange, Cuts: even(n, n)}
}

// channels is the number of sub-partitions of a dataset between streaming
// stages: one for each task that reads it.
func (ch *chooser) channels(d *jobgraph.Dataset) int {
	if d.Partitioning == jobgraph.Forward || len(d.Consumers) == 0 {
		return 1
	}
	return ch.streamWidth(d.Consumers[0])
}
