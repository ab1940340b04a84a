package itests

import (
	"errors"
	"testing"
	"time"

	"trestle/itests/fleet"
)

// lease is how long a TaskManager may be silent before it is taken for lost, in
// these tests: shorter than usual, so that they are.
const lease = 3 * time.Second

// A cut is one way in which hosts lose each other.
type cut struct {
	name string
	// cut cuts wires and says which TaskManagers may have lost something by it.
	cut func(r *rig) (lost []*fleet.Node, err error)
	// elsewhere: while the wires are cut somebody else leads. Otherwise the leader
	// stays, also when they are whole again.
	elsewhere bool
	// off is who tells nothing while the wires are cut.
	off func(r *rig) *fleet.Node
}

// others are the nodes of its kind without itself.
func (r *rig) others(n *fleet.Node) []*fleet.Node { return r.but(n.Kind, n) }

// cuts are the five shapes.
func cuts() []cut {
	none := func(*rig) *fleet.Node { return nil }
	leads := func(r *rig) *fleet.Node { return r.before }
	follows := func(r *rig) *fleet.Node { return r.others(r.before)[0] }
	return []cut{
		{"leader-alone", func(r *rig) ([]*fleet.Node, error) {
			return nil, r.Net.Part([]string{r.before.Name}, r.Others(r.before)[1:])
		}, true, leads},
		{"minority", func(r *rig) ([]*fleet.Node, error) {
			// A follower and a TaskManager, together.
			tm := r.one(r.Of(fleet.TaskManager))
			some := []*fleet.Node{follows(r), tm}
			return []*fleet.Node{tm}, r.Net.Part(fleet.Names(some), r.Others(some...)[1:])
		}, false, follows},
		{"leader-not-heard", func(r *rig) ([]*fleet.Node, error) {
			var errs []error
			for _, n := range r.others(r.before) {
				errs = append(errs, r.Net.Cut(r.before.Name, n.Name))
			}
			return nil, errors.Join(errs...)
		}, true, leads},
		{"leader-deaf", func(r *rig) ([]*fleet.Node, error) {
			var errs []error
			for _, n := range r.others(r.before) {
				errs = append(errs, r.Net.Cut(n.Name, r.before.Name))
			}
			return nil, errors.Join(errs...)
		}, true, leads},
		{"between-taskmanagers", func(r *rig) ([]*fleet.Node, error) {
			tms := r.Of(fleet.TaskManager)
			return tms[:2], r.Net.Part(fleet.Names(tms[:1]), fleet.Names(tms[1:2]))
		}, false, none},
		{"taskmanager-off", func(r *rig) ([]*fleet.Node, error) {
			tm := r.one(r.Of(fleet.TaskManager))
			return []*fleet.Node{tm}, r.Net.Part([]string{tm.Name}, fleet.Names(r.Of(fleet.JobManager)))
		}, false, none},
	}
}

// TestFailoverPartition cuts the wires between hosts in mid-job and mends them
// later. Whoever leads while they are cut, the result is exact, and nobody is
// held to have lost what he has.
func TestFailoverPartition(t *testing.T) {
	cfg := standard
	cfg.JobManagerArgs = []string{"--lease=" + lease.String()}
	r := startRig(t, cfg)
	for _, c := range cuts() {
		t.Run(c.name, func(t *testing.T) {
			for _, length := range []time.Duration{2 * lease, time.Second, 20 * time.Second}[:fullOrQuick(3, 1)] {
				r.partition(t, c, length)
			}
		})
	}
}

func (r *rig) partition(t *testing.T, c cut, length time.Duration) {
	var term uint64
	r.before, term = r.leader()
	client := r.others(r.before)[1] // whom no cut leaves alone
	x := r.begin(size(600, 5*time.Second), client, client)
	r.pause(r.within(1500 * time.Millisecond))
	x.note(client)
	x.watch(map[bool]*fleet.Node{true: client, false: r.before}[c.elsewhere])
	lost, err := c.cut(r)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if c.elsewhere && length > leaderTime/3 {
		now, _ := r.leaderAfter(term, r.but(fleet.JobManager, r.before)...)
		t.Logf("%s leads after %s", now.Name, time.Since(began))
	}
	r.pause(length - time.Since(began))
	x.note(client)
	if err := r.Net.HealAll(); err != nil {
		t.Fatal(err)
	}
	end, ran := x.mustEnd(client)
	for _, wrong := range x.needless(end, fleet.Names(lost)...) {
		t.Errorf("%s for %s: ran again without need: %s", c.name, length, wrong)
	}
	if !c.elsewhere {
		if now, later := r.leader(); now != r.before || later != term {
			t.Errorf("%s led in term %d; after the wires were mended %s leads in term %d", r.before.Name, term, now.Name, later)
		}
	}
	t.Logf("cut for %s: %d tasks were finished, %d ran again; %s", length, len(x.done), len(x.again(end)), ran.Summary())
	// All know the same in the end, also who was alone.
	for _, n := range r.Of(fleet.JobManager) {
		err := fleet.Await(t.Context(), 15*time.Second, n.Name+" knows the job's end", func() bool {
			j, err := n.Show(t.Context(), x.id)
			return err == nil && j.State == "DONE"
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// TestFailoverPause stops processes for a while and lets them go on, not
// knowing that they were away.
func TestFailoverPause(t *testing.T) {
	cfg := standard
	cfg.JobManagerArgs = []string{"--lease=" + lease.String()}
	r := startRig(t, cfg)
	lengths := []time.Duration{6 * time.Second, time.Second, 15 * time.Second, 30 * time.Second}[:fullOrQuick(4, 1)]
	for _, who := range []string{"leader", "follower", "taskmanager"} {
		t.Run(who, func(t *testing.T) {
			for _, length := range lengths {
				r.pauseOne(t, who, length)
			}
		})
	}
}

func (r *rig) pauseOne(t *testing.T, who string, length time.Duration) {
	leader, term := r.leader()
	client := r.others(leader)[0]
	x := r.begin(size(600, 4*time.Second), client, client)
	r.pause(r.within(1500 * time.Millisecond))
	x.note(client)
	paused := map[string]*fleet.Node{"leader": leader, "follower": r.others(leader)[1], "taskmanager": r.one(r.Of(fleet.TaskManager))}[who]
	x.watch(map[bool]*fleet.Node{true: leader, false: client}[who == "taskmanager"])
	paused.Pause()
	began := time.Now()
	if who == "leader" && length > leaderTime/3 {
		r.leaderAfter(term, r.others(leader)...)
		t.Logf("another one leads after %s", time.Since(began))
	}
	r.pause(length - time.Since(began))
	x.note(client)
	paused.Resume()
	end, ran := x.mustEnd(client)
	var lost []string
	if who == "taskmanager" {
		lost = append(lost, paused.Name)
	}
	for _, wrong := range x.needless(end, lost...) {
		t.Errorf("%s stopped for %s: ran again without need: %s", paused.Name, length, wrong)
	}
	t.Logf("%s stopped for %s: %d tasks were finished, %d ran again; %s", paused.Name, length, len(x.done), len(x.again(end)), ran.Summary())
}

// TestFailoverAll takes the power from all hosts at once in the middle of
// several jobs. All goes on, and what had been written to disks or to an object
// store isn't made again.
func TestFailoverAll(t *testing.T) {
	for _, blob := range []bool{false, true} {
		t.Run(map[bool]string{false: "own", true: "blob"}[blob], func(t *testing.T) {
			cfg := standard
			cfg.Blob = blob
			r := startRig(t, cfg)
			for range fullOrQuick(10, 1) {
				r.loseAll(t)
			}
		})
	}
}

func (r *rig) loseAll(t *testing.T) {
	managers := r.Of(fleet.JobManager)
	var trials []*trial
	for range 3 {
		trials = append(trials, r.begin(size(300, 2*time.Second), r.one(managers), r.one(managers)))
	}
	for _, x := range trials {
		x.watch(managers[0])
	}
	r.pause(r.within(4 * time.Second))
	for _, x := range trials {
		x.note(managers[0])
	}
	began := time.Now()
	r.powerCut(t)
	r.leader()
	t.Logf("one leads again after %s", time.Since(began))
	for _, x := range trials {
		<-x.watched
		x.follow(r.one(managers))
		x.watch(managers[0])
	}
	for _, x := range trials {
		end, ran := x.mustEnd(managers[0])
		for _, wrong := range x.needlessOf(end, volatile) {
			t.Errorf("ran again without need after all had lost power: %s", wrong)
		}
		t.Logf("%d tasks were finished, %d ran again; %s", len(x.done), len(x.again(end)), ran.Summary())
	}
}

// volatile reports whether what a task has written is lost with its process.
func volatile(task fleet.Task) bool { return task.Durable != "disk" && task.Durable != "blob" }

// powerCut ends everything and starts it again.
func (r *rig) powerCut(t *testing.T) {
	t.Helper()
	running := append(r.Of(fleet.JobManager), r.Of(fleet.TaskManager)...)
	for _, n := range running {
		n.Kill() // as close together as can be; what they started follows
	}
	for _, n := range running {
		if err := n.PowerOff(); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range running {
		if err := n.Launch(); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range running {
		if err := n.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
