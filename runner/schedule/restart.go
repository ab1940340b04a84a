package schedule

import (
	"fmt"
	"math"
	"sort"
	"time"

	"trestle/raftmeta/catalog"
	"trestle/runner/jobgraph"
)

// A unit is what starts, fails and restarts as one: of a pointwise region one
// column, the tasks with one index; of any other region all of it.
type unit struct {
	region int
	column int // -1 for a region that is one unit
}

// unitOf returns the unit that holds a task.
func unitOf(j *catalog.Job, stage, index int) unit {
	r := j.RegionOf(stage)
	if j.Graph.Regions[r].Pointwise {
		return unit{r, index}
	}
	return unit{r, -1}
}

// width is the number of columns of a region: its greatest parallelism.
func width(j *catalog.Job, region int) int {
	n := 0
	for _, id := range j.Graph.Regions[region].Stages {
		n = max(n, j.Stages[j.StageAt(id)].Parallelism)
	}
	return n
}

// A restartSet grows from what failed to all that must run again with it: the
// producers of inputs that are gone, and the readers of what is made again,
// finished ones too, because user code may give other output the second time;
// unless it is declared not to, and reads the same as before.
type restartSet struct {
	j       *catalog.Job
	js      *jobSeen
	whole   []bool    // by region: all of it
	columns [][]again // by region: some of its columns
	queues  []bool    // by stage: the restriction queue begins again
	// Edges from all to all are followed once, however many units share them:
	// ten thousand tasks reading from ten thousand stay linear.
	producersDone []bool // by dataset
	readersDone   []bool // by dataset
	todo          []unit
}

// again says whether a column runs again, and what comes of it.
type again uint8

const (
	not     again = iota
	alike         // it will write the same again
	changed       // it may write something else
)

func newRestartSet(j *catalog.Job, js *jobSeen) *restartSet {
	return &restartSet{
		j: j, js: js,
		whole: make([]bool, len(j.Regions)), columns: make([][]again, len(j.Regions)), queues: make([]bool, len(j.Stages)),
		producersDone: make([]bool, len(j.Graph.Datasets)), readersDone: make([]bool, len(j.Graph.Datasets)),
	}
}

// add puts a unit into the set that reads the same as before.
func (s *restartSet) add(u unit) {
	how := changed
	if u.column >= 0 && deterministic(s.j, u.region) {
		how = alike
	}
	s.put(u, how)
}

// deterministic reports whether each column of a region writes the same again
// when it reads the same again. What was pulled from a queue never is the same.
func deterministic(j *catalog.Job, region int) bool {
	for _, id := range j.Graph.Regions[region].Stages {
		if st := j.Graph.Stages[j.StageAt(id)]; !st.Deterministic || st.Root == jobgraph.RootRestrictions {
			return false
		}
	}
	return true
}

// put puts a unit into the set, if it isn't there.
func (s *restartSet) put(u unit, how again) {
	if s.whole[u.region] {
		return
	}
	if u.column < 0 {
		s.addRegion(u.region)
		return
	}
	if s.columns[u.region] == nil {
		s.columns[u.region] = make([]again, width(s.j, u.region))
	}
	if s.columns[u.region][u.column] >= how {
		return
	}
	s.columns[u.region][u.column] = how
	s.todo = append(s.todo, u)
	s.checkQueue(u)
}

// addRegion puts all units of a region into the set.
func (s *restartSet) addRegion(region int) {
	if s.whole[region] {
		return
	}
	s.whole[region] = true
	s.todo = append(s.todo, unit{region, -1})
	for _, id := range s.j.Graph.Regions[region].Stages {
		at := s.j.StageAt(id)
		s.queues[at] = s.j.Graph.Stages[at].Root == jobgraph.RootRestrictions
	}
}

// checkQueue widens the set to the whole region where a column pulled its work
// from a queue that can't take it back, because its TaskManager is gone.
func (s *restartSet) checkQueue(u unit) {
	for _, id := range s.j.Graph.Regions[u.region].Stages {
		at := s.j.StageAt(id)
		st := s.j.Stages[at]
		if s.j.Graph.Stages[at].Root == jobgraph.RootRestrictions && u.column < len(st.Tasks) && s.js.queue(at, st).lost {
			s.addRegion(u.region)
			return
		}
	}
}

// close follows the edges until the set holds all that it must.
func (s *restartSet) close() {
	for len(s.todo) > 0 {
		u := s.todo[len(s.todo)-1]
		s.todo = s.todo[:len(s.todo)-1]
		for _, id := range s.j.Graph.Regions[u.region].Stages {
			at := s.j.StageAt(id)
			lo, hi := 0, len(s.j.Stages[at].Tasks)
			if u.column >= 0 {
				lo, hi = min(u.column, hi), min(u.column+1, hi)
			}
			if lo == hi {
				continue
			}
			s.addProducers(at, lo, hi)
			if u.column < 0 {
				s.addAllReaders(at)
			} else if s.whole[u.region] || s.columns[u.region][u.column] == changed {
				s.addReaders(at, lo)
			}
		}
	}
}

// addProducers adds the makers of what tasks [lo, hi) of the stage read and
// is gone.
func (s *restartSet) addProducers(stage, lo, hi int) {
	spec, st := s.j.Graph.Stages[stage], s.j.Stages[stage]
	for i, id := range spec.Inputs {
		if s.js.fed(stage, st) && !s.whole[s.j.RegionOf(stage)] {
			break
		}
		if in := st.Inputs[i]; in.Reading == catalog.ReadPointwise {
			s.addMissing(id, in.Cuts[lo], in.Cuts[hi])
		} else {
			s.addAllMissing(id)
		}
	}
	for _, id := range spec.SideInputs {
		s.addAllMissing(id)
	}
}

func (s *restartSet) addAllMissing(id jobgraph.DatasetID) {
	d := s.j.DatasetAt(id)
	if s.producersDone[d] {
		return
	}
	s.producersDone[d] = true
	s.addMissing(id, 0, len(s.j.Stages[s.j.StageAt(s.j.Graph.Datasets[d].Producer)].Tasks))
}

func (s *restartSet) addMissing(id jobgraph.DatasetID, lo, hi int) {
	d := s.j.DatasetAt(id)
	producer := s.j.StageAt(s.j.Graph.Datasets[d].Producer)
	tasks := s.j.Stages[producer].Tasks
	for p := lo; p < min(hi, len(tasks)); p++ {
		// One that is still being made is not missing: its unit runs, or was
		// put into the set by whoever failed.
		if tasks[p].Done != nil && !s.js.available(d, p, &tasks[p]) {
			s.add(unitOf(s.j, producer, p))
		}
	}
}

// addAllReaders adds all regions that read from the stage, also columns that
// read pointwise and found nothing: what restarts whole may be cut anew, and
// then its readers are, too.
func (s *restartSet) addAllReaders(stage int) {
	for _, id := range s.j.Graph.Stages[stage].Outputs {
		for _, consumer := range s.j.Dataset(id).Consumers {
			if at := s.j.StageAt(consumer); s.j.Stages[at].Parallelism > 0 {
				s.addRegion(s.j.RegionOf(at))
			}
		}
	}
}

// addReaders adds whoever reads what one task of the stage writes. Stages
// that are not yet cut into tasks will wait for the new generation.
func (s *restartSet) addReaders(stage, index int) {
	for _, id := range s.j.Graph.Stages[stage].Outputs {
		d := s.j.DatasetAt(id)
		if s.readersDone[d] {
			continue
		}
		one := false // some stage reads it column by column
		for _, consumer := range s.j.Dataset(id).Consumers {
			at := s.j.StageAt(consumer)
			if s.j.Stages[at].Parallelism == 0 {
				continue
			}
			reader, pointwise := pointwiseReader(s.j, at, id, index)
			one = one || pointwise
			if !pointwise {
				s.addRegion(s.j.RegionOf(at))
			} else if reader >= 0 {
				s.put(unitOf(s.j, at, reader), changed)
			}
		}
		s.readersDone[d] = !one
	}
}

// pointwiseReader returns the task of the consumer that reads the partition of
// the dataset, -1 if none does. It is false if more than one may.
func pointwiseReader(j *catalog.Job, consumer int, id jobgraph.DatasetID, partition int) (reader int, one bool) {
	for _, side := range j.Graph.Stages[consumer].SideInputs {
		if side == id {
			return 0, false
		}
	}
	for _, in := range j.Stages[consumer].Inputs {
		if in.Dataset != id {
			continue
		}
		if in.Reading != catalog.ReadPointwise {
			return 0, false
		}
		// The first cut beyond the partition ends its reader's part.
		reader := sort.SearchInts(in.Cuts, partition+1) - 1
		if reader >= len(in.Cuts)-1 {
			return -1, true
		}
		return reader, true
	}
	return 0, false // not yet chosen
}

// tasks lists the set by stages, and the stages whose queues begin again.
func (s *restartSet) tasks() (ranges []catalog.TaskRange, queues []jobgraph.StageID) {
	for at, st := range s.j.Stages {
		r := s.j.RegionOf(at)
		if s.whole[r] && len(st.Tasks) > 0 {
			ranges = append(ranges, catalog.TaskRange{Stage: st.Stage, Lo: 0, Hi: len(st.Tasks)})
			if s.queues[at] {
				queues = append(queues, st.Stage)
			}
			continue
		}
		ranges = appendRanges(ranges, st.Stage, s.columns[r], len(st.Tasks))
	}
	return ranges, queues
}

// appendRanges adds the marked ones of the stage's tasks.
func appendRanges(ranges []catalog.TaskRange, stage jobgraph.StageID, marked []again, tasks int) []catalog.TaskRange {
	n := min(len(marked), tasks)
	for lo := 0; lo < n; lo++ {
		if marked[lo] == not {
			continue
		}
		hi := lo + 1
		for hi < n && marked[hi] != not {
			hi++
		}
		ranges = append(ranges, catalog.TaskRange{Stage: stage, Lo: lo, Hi: hi})
		lo = hi
	}
	return ranges
}

// restart runs the seeds again, and all that must run again with them, or ends
// the job if those to blame have failed too often.
func (c *call) restart(j *catalog.Job, seeds, blamed []unit, f catalog.Failure) {
	delay, again := c.verdict(j, blamed, f)
	if !again {
		if j.Graph.Streaming && f.Kind.Blameless() {
			f.Message = lostStream(f)
		}
		c.propose(&catalog.JobEnded{Job: j.ID, At: c.now, State: catalog.Failed, Failure: &f})
		c.stray = true
		return
	}
	js := c.seen.job(j)
	set := newRestartSet(j, js)
	for _, u := range seeds {
		set.add(u)
	}
	set.close()
	r := &catalog.TasksReset{Job: j.ID, At: c.now, Failure: f, Delay: delay}
	r.Tasks, r.Queues = set.tasks()
	r.Blamed = unitTasks(j, blamed)
	for _, x := range r.Tasks {
		for _, id := range j.Graph.Stages[j.StageAt(x.Stage)].Outputs {
			d := j.DatasetAt(id)
			// Readers that were given up, too, are stopped first.
			c.later = append(c.later, c.free(j, d, x.Lo, x.Hi)...)
			js.parts[d], js.released[d] = nil, false
		}
	}
	clear(js.cursor)
	c.propose(r)
	c.stray = true
}

// unitTasks lists the tasks of the units.
func unitTasks(j *catalog.Job, units []unit) []catalog.TaskRange {
	s := &restartSet{j: j, whole: make([]bool, len(j.Regions)), columns: make([][]again, len(j.Regions)), queues: make([]bool, len(j.Stages))}
	for _, u := range units {
		if u.column < 0 {
			s.whole[u.region] = true
			continue
		}
		if s.columns[u.region] == nil {
			s.columns[u.region] = make([]again, width(j, u.region))
		}
		s.columns[u.region][u.column] = changed
	}
	ranges, _ := s.tasks()
	return ranges
}

// verdict says whether what is to blame may be tried again, and after what
// delay.
func (c *call) verdict(j *catalog.Job, blamed []unit, f catalog.Failure) (delay time.Duration, again bool) {
	if j.Graph.Streaming {
		return 0, false // what it has read and remembered is gone with the task
	}
	failures, losses := 0, 0
	for _, x := range unitTasks(j, blamed) {
		st := j.Stages[j.StageAt(x.Stage)]
		for i := x.Lo; i < x.Hi; i++ {
			failures, losses = max(failures, st.Tasks[i].Failures), max(losses, st.Tasks[i].Losses)
		}
	}
	if f.Kind.Blameless() {
		return lossDelay(losses), losses < c.policy.Losses
	}
	s := j.Restart
	switch s.Kind {
	case catalog.RestartFixedDelay:
		return s.Delay, failures < s.Attempts
	case catalog.RestartExponential:
		return c.backoff(j), s.Attempts == 0 || failures < s.Attempts
	case catalog.RestartFailureRate:
		recent := 0
		for _, at := range j.FailureTimes {
			if c.now.Sub(at) < s.Interval {
				recent++
			}
		}
		return s.Delay, recent < s.Attempts
	}
	return 0, false
}

// lostStream is what the author of a streaming job is told when the job ends by
// somebody else's fault.
func lostStream(f catalog.Failure) string {
	where := f.Message
	if f.TaskManager != "" {
		where = fmt.Sprintf("TaskManager %q: %s", f.TaskManager, f.Message)
	}
	return where + ". What a streaming job has read and remembered is gone with its tasks, since it has no checkpoints yet; start it again"
}

// lossDelay lets the first loss be made good at once; a task that is lost
// again and again waits longer each time.
func lossDelay(losses int) time.Duration {
	if losses == 0 {
		return 0
	}
	return min(50*time.Millisecond<<min(losses, 10), 10*time.Second)
}

// backoff is the exponential strategy's next delay.
func (c *call) backoff(j *catalog.Job) time.Duration {
	s := j.Restart
	n := len(j.FailureTimes)
	if n == 0 || s.Interval > 0 && c.now.Sub(j.FailureTimes[n-1]) >= s.Interval {
		return s.Delay
	}
	next := float64(j.Delay) * math.Max(s.Factor, 1)
	if s.MaxDelay > 0 {
		next = math.Min(next, float64(s.MaxDelay))
	}
	return time.Duration(math.Min(next, float64(24*time.Hour)))
}
