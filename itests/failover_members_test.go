package itests

import (
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"trestle/itests/fleet"
)

// TestFailoverMembers adds a JobManager in mid-job, which learns all from a
// snapshot, removes the one that leads, and kills another: the new one counts.
func TestFailoverMembers(t *testing.T) {
	cfg := standard
	cfg.Spare = 1
	r := startRig(t, cfg)
	fresh := r.Node("jm4")
	leader, term := r.leader()
	at := r.others(leader)[0]
	for range 3 { // something to take a snapshot of
		r.begin(size(50, 100*time.Millisecond), at, at).mustEnd(at)
	}
	x := r.begin(size(600, 8*time.Second), at, at)
	r.pause(r.within(time.Second))

	if err := fresh.Launch(); err != nil {
		t.Fatal(err)
	}
	if err := leader.AddMember(t.Context(), fresh); err != nil {
		t.Fatal(err)
	}
	if err := fresh.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.mustKnow(x, fresh)
	x.note(at)

	if err := leader.RemoveMember(t.Context(), leader); err != nil {
		t.Fatal(err)
	}
	rest := append(r.others(leader)[:2:2], fresh)
	next, term := r.leaderAfter(term, rest...)
	t.Logf("%s was added, %s, which led, removed; %s leads", fresh.Name, leader.Name, next.Name)
	if err := leader.PowerOff(); err != nil {
		t.Fatal(err)
	}
	x.note(at)

	// Two of three are a majority only if the new one is counted.
	victim := r.one(rest, at, fresh)
	victim.Kill()
	if victim == next {
		next, _ = r.leaderAfter(term, at, fresh)
		t.Logf("%s was killed, %s leads", victim.Name, next.Name)
	}
	end, ran := x.mustEnd(at)
	if again := x.again(end); len(again) > 0 {
		t.Errorf("finished tasks ran again: %q", again)
	}
	x.mustNotRepeat(t, at, ran)
	r.mustKnow(x, fresh)
	r.begin(size(50, 100*time.Millisecond), fresh, fresh).mustEnd(fresh)
}

// TestFailoverSnapshot has a JobManager be away while the others put a snapshot in
// place of the log that it lacks, and come back while a job runs. It takes the
// snapshot, goes on from there, and holds the same state.
func TestFailoverSnapshot(t *testing.T) {
	cfg := standard
	cfg.JobManagerArgs = []string{"--snapshot-entries=16", "--log-level=debug"}
	r := startRig(t, cfg)
	for range fullOrQuick(5, 1) {
		leader, _ := r.leader()
		away, at := r.others(leader)[0], r.others(leader)[1]
		said := len(fleet.Tail(away.Log(), 1<<30))
		if err := away.PowerOff(); err != nil {
			t.Fatal(err)
		}
		had := newestSnapshot(t, leader)
		err := fleet.Await(t.Context(), faultyJobTime, leader.Name+" has put two snapshots in place of its log", func() bool {
			r.begin(size(50, 100*time.Millisecond), at, at).mustEnd(at)
			return newestSnapshot(t, leader) > had+2*16
		})
		if err != nil {
			t.Fatal(err)
		}
		x := r.begin(size(600, 4*time.Second), at, at)
		r.pause(r.within(time.Second))
		if err := away.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		err = fleet.Await(t.Context(), 20*time.Second, away.Name+" has taken the snapshot", func() bool {
			return strings.Contains(fleet.Tail(away.Log(), 1<<30)[said:], "Installed remote snapshot")
		})
		if err != nil {
			t.Error(err)
		}
		r.mustKnow(x, away)
		end, ran := x.mustEnd(away)
		if again := x.again(end); len(again) > 0 {
			t.Errorf("finished tasks ran again: %q", again)
		}
		x.mustNotRepeat(t, away, ran)
		r.mustAgree(t)
	}
}

// newestSnapshot is the entry of the log that a node's newest snapshot ends with; 0
// if there is none.
func newestSnapshot(t *testing.T, n *fleet.Node) (index int) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(n.Data(), "journal", "snapshots", "*-*.snapshot"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		_, entry, _ := strings.Cut(strings.TrimSuffix(filepath.Base(path), ".snapshot"), "-")
		at, err := strconv.Atoi(entry)
		if err != nil {
			t.Fatal(err)
		}
		index = max(index, at)
	}
	return index
}

// mustKnow waits until a node shows the job as another one does.
func (r *rig) mustKnow(x *trial, n *fleet.Node) {
	r.t.Helper()
	err := fleet.Await(r.t.Context(), 15*time.Second, n.Name+" knows "+x.id, func() bool {
		j, err := n.Show(r.t.Context(), x.id)
		return err == nil && len(j.Stages) > 0
	})
	if err != nil {
		r.t.Error(err)
	}
}

// TestFailoverJoin has a TaskManager come in mid-job and take waiting tasks,
// and another one leave politely.
func TestFailoverJoin(t *testing.T) {
	cfg := standard
	cfg.TaskManagers, cfg.Spare = 2, 1
	r := startRig(t, cfg)
	managers := r.Of(fleet.JobManager)
	x := r.begin(size(900, 12*time.Second), managers[0], managers[1])
	r.pause(r.within(2 * time.Second))
	fresh := r.Node("tm3")
	if err := fresh.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.pause(r.within(2 * time.Second))
	x.note(managers[1])
	leaves := r.Node("tm1")
	began := time.Now()
	if err := leaves.Terminate(60 * time.Second); err != nil {
		t.Error(err)
	}
	t.Logf("%s left after %s", leaves.Name, time.Since(began))
	end, ran := x.mustEnd(managers[1])
	if len(ran.FirstOn(fresh.Name)) == 0 {
		t.Error("the new TaskManager had nothing to do")
	}
	if again := x.again(end); len(again) > 0 {
		t.Errorf("ran again though %s left politely: %q", leaves.Name, again)
	}
	t.Logf("%d elements were taken by the new one; %s", len(ran.FirstOn(fresh.Name)), ran.Summary())
}
