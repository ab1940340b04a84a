package sim

import (
	"fmt"
	"io"
	"time"

	"trestle/internal/sim"
	"trestle/raftmeta/catalog"
	"trestle/runner/schedule"
)

// A kind of world says what goes wrong in it.
type kind struct {
	name string
	// quiet worlds lose JobManagers and messages only: nothing that has
	// finished or runs may be run again.
	quiet   bool
	tasks   bool // tasks fail
	loss    bool // partitions get lost
	drain   bool // TaskManagers leave politely
	durable []catalog.Durability
}

var kinds = []kind{
	{name: "JobManagers die", quiet: true, durable: []catalog.Durability{catalog.InMemory, catalog.OnDisk, catalog.InBlob}},
	{name: "everything dies", tasks: true, loss: true, durable: []catalog.Durability{catalog.InMemory, catalog.OnDisk, catalog.InBlob}},
	{name: "TaskManagers come and go", tasks: true, drain: true, durable: []catalog.Durability{catalog.OnDisk}},
	{name: "everything dies but the object store", durable: []catalog.Durability{catalog.InBlob}},
}

// A cluster is all that is in a world.
type cluster struct {
	w        *sim.World
	net      *network
	kind     kind
	policy   schedule.Policy
	raft     []*raftNode
	managers []*taskManager
	blob     map[partKey]*part
	jobs     map[catalog.JobID]*job // for look-ups
	order    []*job
	leaders  map[uint64]int // by term
	check    *checks
	healed   time.Duration // when the world is kind again
	failing  float64       // chance that a task fails by itself
	coded    bool          // records go through their codec
	mute     bool          // TaskManagers don't tell of what is read as it is written
	log      io.Writer
}

func newCluster(seed uint64, k kind, log io.Writer) *cluster {
	w := sim.New(seed)
	c := &cluster{
		w: w, net: newNetwork(w), kind: k, blob: map[partKey]*part{}, jobs: map[catalog.JobID]*job{}, leaders: map[uint64]int{}, log: log,
		policy: schedule.Policy{TargetBytes: 100, LeastBytes: 10, TasksPerSlot: 3, KeyGroups: 8, SpreadGroups: 5, Losses: 1 << 30},
		coded:  w.Chance(0.05), mute: w.Chance(0.5),
	}
	c.policy.SlowAfter = pick(w, -1, time.Millisecond, 500*time.Millisecond)
	c.check = newChecks(c)
	for i := range 3 {
		n := &raftNode{process: &process{w: w, name: fmt.Sprintf("jm%d", i+1)}, c: c, id: i, voted: -1, log: make([]entry, 1)}
		c.raft = append(c.raft, n)
	}
	for i := range 1 + w.Rand.IntN(4) {
		c.managers = append(c.managers, &taskManager{
			process: &process{w: w, name: fmt.Sprintf("tm%d", i+1)}, c: c, slow: 1,
			slots: make([][]*attempt, 1+w.Rand.IntN(3)), durable: pick(w, k.durable...), held: map[partKey]*part{},
		})
	}
	for _, n := range c.raft {
		n.begin()
	}
	for _, m := range c.managers {
		m.begin(true)
	}
	for i := range 1 + w.Rand.IntN(3) {
		j := newJob(w, catalog.JobID(fmt.Sprintf("j%d", i+1)))
		c.jobs[j.id] = j
		c.order = append(c.order, j)
		w.After(w.Between(0, 20*time.Second), func() { c.submit(j) })
		if w.Chance(0.15) {
			w.After(w.Between(0, 40*time.Second), func() { c.cancel(j) })
		}
	}
	return c
}

func (c *cluster) instant() catalog.Instant { return epoch.Add(c.w.Now) }

func (c *cluster) trace(format string, args ...any) {
	if c.log != nil {
		_, _ = fmt.Fprintf(c.log, "%11v  %s\n", c.w.Now.Truncate(time.Microsecond), fmt.Sprintf(format, args...))
	}
}

func (c *cluster) manager(name string) *taskManager {
	for _, m := range c.managers {
		if m.name == name {
			return m
		}
	}
	panic(fault(fmt.Sprintf("somebody names TaskManager %q, which there is not", name)))
}

// holds finds a partition, whether or not its TaskManager answers.
func (c *cluster) holds(name string, k partKey) *part {
	if p := c.blob[k]; p != nil {
		return p
	}
	if m := c.manager(name); m.alive {
		return m.held[k]
	}
	return nil
}

// recode passes a record through its codec now and then.
func (c *cluster) recode(r catalog.Record) catalog.Record {
	if !c.coded {
		return r
	}
	data, err := catalog.Encode(r)
	must(err == nil, "%v", err)
	back, err := catalog.Decode(data)
	must(err == nil, "%v", err)
	return back
}

// submit asks one JobManager after another until one says yes.
func (c *cluster) submit(j *job) {
	if j.accepted {
		return
	}
	c.w.After(1500*time.Millisecond, func() { c.submit(j) })
	n := c.raft[c.w.Rand.IntN(len(c.raft))]
	c.net.send("client", n.name, func() {
		n.hear(func() {
			if n.leads != nil {
				n.leads.submit(j.record, func() {
					c.net.send(n.name, "client", func() { j.accepted = true })
				})
			}
		})
	})
}

func (c *cluster) cancel(j *job) {
	j.stopAsked = true
	if j.stopped {
		return
	}
	if t := c.check.truth.Job(j.id); t != nil && t.State.Terminal() {
		return
	}
	c.w.After(1500*time.Millisecond, func() { c.cancel(j) })
	n := c.raft[c.w.Rand.IntN(len(c.raft))]
	c.net.send("client", n.name, func() {
		n.hear(func() {
			if n.leads == nil {
				return
			}
			n.leads.stop(j.id, catalog.StopCancel, func() {
				if t := c.check.truth.Job(j.id); t.State == catalog.Cancelling || t.State == catalog.Cancelled {
					j.stopped = true
				}
			})
		})
	})
}
