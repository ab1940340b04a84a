package itests

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"trestle/itests/fleet"
	"trestle/itests/jobs"
)

// TestFailoverEnd moves leadership, or ends the leader, around the instant at
// which a job ends. The end is neither lost nor taken back.
func TestFailoverEnd(t *testing.T) {
	r := startRig(t, standard)
	managers := r.Of(fleet.JobManager)
	const around = 50 * time.Millisecond
	// Between the sign below and the end as a client sees it.
	lead := r.leadTime(managers[0])
	near, offsets := 0, stopwatch{}
	for i := range fullOrQuick(100, 10) {
		leader, term := r.leader()
		others := r.others(leader)
		at := others[0]
		x := r.begin(jobs.Shape{Elements: 40, FirstKeys: 8, SecondKeys: 6, Pause: 3 * time.Millisecond}, leader, at)
		r.awaitSign(x)
		if wait := lead - around + r.within(2*around); wait > 0 {
			r.pause(wait)
		}
		moved := time.Now()
		if i%4 == 3 {
			leader.Kill()
		} else if err := leader.Transfer(t.Context(), others[1]); err != nil {
			t.Logf("%s doesn't hand over: %v", leader.Name, err)
		}
		var ended time.Time
		if err := x.wait(); err != nil {
			t.Fatal(err)
		}
		ended = x.at
		if off := ended.Sub(moved); off.Abs() <= around {
			near++
		}
		offsets = append(offsets, ended.Sub(moved))
		r.leaderAfter(term, r.others(leader)...)
		if !leader.Running() {
			if err := leader.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if end, ran := x.mustEnd(at); len(ran.Again()) > 0 || end.State != "DONE" {
			t.Errorf("%s; ran again: %s", end.State, ran.Summary())
		}
		x.mustStayEnded()
	}
	t.Logf("%d of %d within %s of the end; from %s to %s before it", near, len(offsets), around, offsets.percentile(100), offsets.percentile(0))
}

// leadTime is how long after the sign a job ends.
func (r *rig) leadTime(at *fleet.Node) time.Duration {
	r.t.Helper()
	var all stopwatch
	for range 3 {
		x := r.begin(jobs.Shape{Elements: 40, FirstKeys: 8, SecondKeys: 6, Pause: 3 * time.Millisecond}, at, at)
		r.awaitSign(x)
		sign := time.Now()
		if err := x.wait(); err != nil {
			r.t.Fatal(err)
		}
		all = append(all, x.at.Sub(sign))
	}
	return all.percentile(50)
}

// awaitSign waits until the job has begun its last step.
func (r *rig) awaitSign(x *trial) {
	r.t.Helper()
	late := time.After(faultyJobTime)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if parts, _ := os.ReadDir(filepath.Join(x.shape.Dir, "parts")); len(parts) >= x.shape.SecondKeys {
			return
		}
		select {
		case <-tick.C:
		case <-late:
			r.t.Fatalf("job %s has no result: %v", x.id, x.where())
		}
	}
}

// mustStayEnded checks that all nodes hold the job to be DONE, and that none of
// its workers is left.
func (x *trial) mustStayEnded() {
	t := x.r.t
	t.Helper()
	for _, n := range x.r.Of(fleet.JobManager) {
		err := fleet.Await(t.Context(), 10*time.Second, n.Name+" shows "+x.id+" DONE", func() bool {
			j, err := n.Show(t.Context(), x.id)
			return err == nil && j.State == "DONE"
		})
		if err != nil {
			t.Error(err)
		}
	}
	mustBeGone(t, filepath.Join(x.shape.Dir, "pids"), 20*time.Second)
}
