package schedule

import (
	"fmt"
	"strings"

	"trestle/raftmeta/catalog"
	"trestle/runner/jobgraph"
)

// chooseReady fixes the parallelism of every region whose blocking inputs are
// there.
func (c *call) chooseReady() {
	slots := c.seen.totalSlots()
	if slots == 0 {
		return // parallelism is measured by slots: wait for some
	}
	held := c.heldByStreams()
	for _, j := range c.state.Active() {
		if j.State == catalog.Cancelling {
			continue
		}
		for r := range j.Regions {
			open := slots
			if !j.Graph.Regions[r].Pointwise {
				open = c.lasting(j, slots-held)
			}
			if c.toChoose(j, r, open) && inputsComplete(j, r) {
				c.choose(j, r, open)
			}
		}
	}
}

// heldByStreams is how many slots streaming jobs have.
func (c *call) heldByStreams() (held int) {
	for _, j := range c.state.Active() {
		if j.Graph.Streaming {
			held += c.seen.job(j).slots
		}
	}
	return held
}

// lasting is how many slots the job can have at once, sooner or later, of those
// that no streaming job holds: what such a job has it keeps. A region that wanted
// more at once would wait for ever, and have all others wait.
func (c *call) lasting(j *catalog.Job, open int) int {
	if j.Graph.Streaming {
		open += c.seen.job(j).slots
	}
	return max(open, 1)
}

// toChoose reports whether the region's parallelism must be chosen: it was
// not, or the region must run at once and there are no longer slots enough.
func (c *call) toChoose(j *catalog.Job, region, slots int) bool {
	if j.Regions[region].Chosen == 0 {
		return true
	}
	if j.Graph.Regions[region].Pointwise || width(j, region) <= slots {
		return false
	}
	js := c.seen.job(j)
	for _, id := range j.Graph.Regions[region].Stages {
		at := j.StageAt(id)
		for i := range j.Stages[at].Tasks {
			t := &j.Stages[at].Tasks[i]
			if t.Done != nil || js.begun(t, at, i) {
				return false // it has begun
			}
		}
	}
	return true
}

// inputsComplete reports whether all that the region reads from others is
// there, and what it reads of bounded sources known.
func inputsComplete(j *catalog.Job, region int) bool {
	for _, id := range j.Graph.Regions[region].Stages {
		spec := j.Graph.Stages[j.StageAt(id)]
		if unbound(j, j.StageAt(id)) {
			return false
		}
		for _, ids := range [][]jobgraph.DatasetID{spec.Inputs, spec.SideInputs} {
			for _, d := range ids {
				producer := j.StageAt(j.Dataset(d).Producer)
				if j.RegionOf(producer) != region && !j.Stages[producer].Complete() {
					return false
				}
			}
		}
	}
	return true
}

// A chooser chooses for the stages of one region, in topological order.
type chooser struct {
	j      *catalog.Job
	region int
	slots  int
	policy Policy
	out    *catalog.ParallelismChosen
	chosen map[jobgraph.StageID]int // in this region so far: number in out.Stages
	widths map[jobgraph.StageID]int // of a streaming job's stages, as they were asked for
}

func (c *call) choose(j *catalog.Job, region, slots int) {
	spec := j.Graph.Regions[region]
	ch := &chooser{
		j: j, region: region, slots: slots, policy: c.policy,
		out:    &catalog.ParallelismChosen{Job: j.ID, Region: spec.ID, At: c.now, Slots: slots},
		chosen: map[jobgraph.StageID]int{},
	}
	for _, id := range spec.Stages {
		ch.stage(j.Graph.Stages[j.StageAt(id)])
	}
	ch.out.Why = ch.why()
	c.propose(ch.out)
	js := c.seen.job(j)
	for _, id := range spec.Stages {
		js.grow(j, j.StageAt(id))
		for _, out := range j.Graph.Stages[j.StageAt(id)].Outputs {
			js.parts[j.DatasetAt(out)] = nil
		}
	}
	js.cursor[region] = 0
}

// gang reports whether all tasks of the region need slots at once.
func (ch *chooser) gang() bool { return !ch.j.Graph.Regions[ch.region].Pointwise }

// stage chooses for one stage. Its producers inside the region come earlier.
func (ch *chooser) stage(spec *jobgraph.Stage) {
	in := ch.look(spec)
	c := catalog.StageChoice{Stage: spec.ID, InputBytes: in.bytes, Parallelism: ch.parallelism(spec, in)}
	if in.ranged && !in.fixed() {
		// What is unevenly spread may fill fewer ranges.
		c.Parallelism = len(balance(in.heaviest(), c.Parallelism)) - 1
	}
	for _, id := range spec.Inputs {
		c.Inputs = append(c.Inputs, ch.reading(spec, in, id, c.Parallelism))
	}
	for _, id := range spec.Outputs {
		c.Outputs = append(c.Outputs, catalog.OutputChoice{Dataset: id, Subpartitions: ch.subpartitions(id)})
	}
	ch.chosen[spec.ID] = len(ch.out.Stages)
	ch.out.Stages = append(ch.out.Stages, c)
}

// inputs is what a stage's parallelism is chosen from.
type inputs struct {
	bytes     int64 // of blocking inputs read by ranges
	spreadOut int64 // elements of those that are spread
	ranged    bool  // there are such
	streams   bool  // there are pipelined inputs from all to all
	pointwise int   // greatest parallelism of producers read pointwise
	limit     int   // greatest number of sub-partitions
	keyed     []int64
	spread    map[jobgraph.DatasetID][]int64 // bytes by sub-partition; for look-ups
	order     []jobgraph.DatasetID           // of spread
}

// fixed reports whether something but the bytes has a say in the parallelism.
func (in *inputs) fixed() bool { return in.streams || in.pointwise > 0 }

// heaviest is the bytes by sub-partition of the inputs that matter most.
func (in *inputs) heaviest() []int64 {
	best, most := in.keyed, total(in.keyed)
	for _, id := range in.order {
		if n := total(in.spread[id]); best == nil || n > most {
			best, most = in.spread[id], n
		}
	}
	return best
}

func total(bySub []int64) (n int64) {
	for _, b := range bySub {
		n += b
	}
	return n
}

func (ch *chooser) look(spec *jobgraph.Stage) *inputs {
	in := &inputs{spread: map[jobgraph.DatasetID][]int64{}}
	if spec.Root == jobgraph.RootRestrictions {
		return in
	}
	for _, id := range spec.Inputs {
		d := ch.j.Dataset(id)
		inside := ch.j.RegionOf(ch.j.StageAt(d.Producer)) == ch.region
		switch {
		case d.Partitioning == jobgraph.Whole:
		case d.Partitioning == jobgraph.Forward:
			in.pointwise = max(in.pointwise, ch.producer(d).Parallelism)
		case inside:
			in.streams = true
			in.limit = max(in.limit, ch.written(d))
		default:
			ch.weigh(in, d)
		}
	}
	return in
}

// weigh adds a complete dataset that is read by ranges.
func (ch *chooser) weigh(in *inputs, d *jobgraph.Dataset) {
	subs := ch.written(d)
	in.ranged, in.limit = true, max(in.limit, subs)
	sum, elements := catalog.NewSketchSum(subs), int64(0)
	producer := ch.j.Stages[ch.j.StageAt(d.Producer)]
	for i := range producer.Tasks {
		for _, o := range producer.Tasks[i].Done.Outputs {
			if o.Dataset == d.ID {
				in.bytes += o.Bytes
				elements += o.Count
				sum.Add(o.Sketch)
			}
		}
	}
	bySub := sum.BySub()
	if d.Partitioning != jobgraph.ByKey {
		in.spreadOut += elements
		in.spread[d.ID] = bySub
		in.order = append(in.order, d.ID)
		return
	}
	if in.keyed == nil {
		in.keyed = make([]int64, subs)
	}
	for i, bytes := range bySub {
		in.keyed[i] += bytes
	}
}

// producer is the choice for the dataset's producer, in this region or before.
func (ch *chooser) producer(d *jobgraph.Dataset) *catalog.StageChoice {
	if at, ok := ch.chosen[d.Producer]; ok {
		return &ch.out.Stages[at]
	}
	return &ch.j.Stages[ch.j.StageAt(d.Producer)].StageChoice
}

// written is the number of sub-partitions that a dataset is written in.
func (ch *chooser) written(d *jobgraph.Dataset) int {
	for _, o := range ch.producer(d).Outputs {
		if o.Dataset == d.ID {
			return o.Subpartitions
		}
	}
	return 1
}

func (ch *chooser) parallelism(spec *jobgraph.Stage, in *inputs) int {
	if ch.j.Graph.Streaming {
		return ch.streamWidth(spec.ID)
	}
	n := max(1, in.pointwise)
	switch spec.Root {
	case jobgraph.RootImpulse:
		return 1
	case jobgraph.RootRestrictions:
		// One restriction may be split into work for all.
		return min(ch.slots, ch.most())
	}
	if in.ranged {
		n = max(n, ch.forBytes(in))
	}
	if in.streams {
		n = max(n, min(ch.slots, in.limit))
	}
	if ch.gang() {
		n = min(n, ch.slots)
	}
	return min(n, ch.most())
}

// most is the most tasks that a stage of the job may have.
func (ch *chooser) most() int {
	if n := ch.j.MaxParallelism; n > 0 {
		return min(n, catalog.MaxParallelism)
	}
	return catalog.MaxParallelism
}

// forBytes is the number of tasks that the input is worth.
func (ch *chooser) forBytes(in *inputs) int {
	tasks := ceil(in.bytes, ch.policy.TargetBytes)
	tasks = max(tasks, min(int64(ch.slots), ceil(in.bytes, ch.policy.LeastBytes)))
	// Who asks for elements to be spread has much to do for each, however small
	// they are.
	tasks = max(tasks, min(int64(ch.slots), in.spreadOut))
	if slots := int64(ch.slots); tasks > slots {
		tasks = ceil(tasks, slots) * slots // so that no slot is idle in the last round
	}
	most := min(int64(ch.slots)*int64(ch.policy.TasksPerSlot), int64(in.limit))
	return int(max(1, min(tasks, most)))
}

func ceil(a, b int64) int64 { return (a + b - 1) / b }

// reading says how n tasks share an input.
func (ch *chooser) reading(spec *jobgraph.Stage, in *inputs, id jobgraph.DatasetID, n int) catalog.InputChoice {
	d := ch.j.Dataset(id)
	c := catalog.InputChoice{Dataset: id}
	if ch.j.Graph.Streaming {
		return ch.streamReading(d, n)
	}
	switch {
	case spec.Root == jobgraph.RootRestrictions:
		c.Reading = catalog.ReadQueue
	case d.Partitioning == jobgraph.Forward:
		c.Reading, c.Cuts = catalog.ReadPointwise, pointwise(ch.producer(d).Parallelism, n)
	case d.Partitioning == jobgraph.Whole:
		// Read by one alone, or each element would be there n times.
		c.Reading, c.Cuts = catalog.ReadPointwise, pad([]int{0, ch.producer(d).Parallelism}, n)
	case d.Partitioning == jobgraph.ByKey && in.streams:
		// What is read together must be cut alike, and of the streams no bytes
		// are known.
		c.Reading, c.Cuts = catalog.ReadRange, cutEven(ch.written(d), n)
	case d.Partitioning == jobgraph.ByKey:
		c.Reading, c.Cuts = catalog.ReadRange, pad(balance(in.keyed, n), n)
	case in.spread[id] != nil:
		c.Reading, c.Cuts = catalog.ReadRange, pad(balance(in.spread[id], n), n)
	default:
		c.Reading, c.Cuts = catalog.ReadRange, cutEven(ch.written(d), n)
	}
	return c
}

// cutEven cuts the sub-partitions into n even ranges, some of them empty if
// there are fewer.
func cutEven(subs, n int) []int { return pad(even(subs, min(subs, n)), n) }

func (ch *chooser) subpartitions(id jobgraph.DatasetID) int {
	if ch.j.Graph.Streaming {
		return ch.channels(ch.j.Dataset(id))
	}
	switch ch.j.Dataset(id).Partitioning {
	case jobgraph.ByKey:
		return ch.j.KeyGroups
	case jobgraph.Spread:
		if ch.policy.SpreadGroups > 0 {
			return ch.policy.SpreadGroups
		}
		return min(max(16, 4*ch.slots), 256)
	}
	return 1
}

// why tells people what the choice was made from.
func (ch *chooser) why() string {
	var parts []string
	for _, s := range ch.out.Stages {
		spec := ch.j.Graph.Stages[ch.j.StageAt(s.Stage)]
		switch {
		case spec.Root == jobgraph.RootRestrictions:
			parts = append(parts, fmt.Sprintf("%s: %d for %d slots", s.Stage, s.Parallelism, ch.slots))
		case s.InputBytes > 0:
			parts = append(parts, fmt.Sprintf("%s: %d for %d bytes of input", s.Stage, s.Parallelism, s.InputBytes))
		default:
			parts = append(parts, fmt.Sprintf("%s: %d", s.Stage, s.Parallelism))
		}
	}
	return strings.Join(parts, "; ")
}
