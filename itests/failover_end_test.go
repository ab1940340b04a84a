package itests

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"trestle/itests/fleet"
	"trestle/itests/jobs"
)

// brief is a job whose end can be foretold.
var brief = jobs.Shape{Elements: 60, FirstKeys: 8, SecondKeys: 12, Pause: 5 * time.Millisecond}

// TestFailoverEnd moves leadership, or ends the leader, around the instant at
// which a job would end. The end is neither lost nor taken back.
func TestFailoverEnd(t *testing.T) {
	r := startRig(t, standard)
	const around = 50 * time.Millisecond
	rest := r.afterSign()
	command := r.commandTime()
	t.Logf("a job ends %s after the sign; a command takes %s to start", rest, command)
	before, after := 0, 0
	for i := range fullOrQuick(100, 10) {
		leader, term := r.leader()
		others := r.others(leader)
		at := others[0]
		x := r.begin(brief, leader, at)
		r.awaitSign(x)
		moment := time.Now().Add(rest - around + r.within(2*around))
		if i%2 == 0 {
			r.pause(time.Until(moment))
			leader.Kill()
		} else {
			r.pause(time.Until(moment.Add(-command)))
			if err := leader.Transfer(t.Context(), others[1]); err != nil {
				t.Logf("%s doesn't hand over: %v", leader.Name, err)
			}
		}
		if err := x.wait(); err != nil {
			t.Fatal(errors.Join(err, x.where()))
		}
		if x.at.Before(moment) {
			before++
		} else {
			after++
		}
		r.leaderAfter(term, r.others(leader)...)
		if !leader.Running() {
			if err := leader.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		_, ran := x.mustEnd(at)
		x.mustNotRepeat(t, at, ran)
		x.mustStayEnded()
	}
	t.Logf("%d jobs had ended when their leader went, %d had not", before, after)
}

// afterSign is how long after the sign a job ends.
func (r *rig) afterSign() time.Duration {
	r.t.Helper()
	at := r.Of(fleet.JobManager)[0]
	var all stopwatch
	for range 5 {
		x := r.begin(brief, at, at)
		r.awaitSign(x)
		sign := time.Now()
		if err := x.wait(); err != nil {
			r.t.Fatal(err)
		}
		all = append(all, x.at.Sub(sign))
	}
	return all.percentile(50)
}

// commandTime is how long a command takes that does nothing.
func (r *rig) commandTime() time.Duration {
	r.t.Helper()
	var all stopwatch
	for range 5 {
		began := time.Now()
		if _, err := r.Status(r.t.Context(), r.Of(fleet.JobManager)...); err != nil {
			r.t.Fatal(err)
		}
		all = append(all, time.Since(began))
	}
	return all.percentile(50)
}

// awaitSign waits until the job has all parts of its result.
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
