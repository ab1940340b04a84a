package itests

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"trestle/itests/fleet"
	"trestle/itests/jobs"
)

// heavy is a fleet with so little memory that much of what tasks of heavyJob write
// goes to their TaskManagers' own disks.
var heavy = fleet.Config{JobManagers: 3, TaskManagers: 2, Memory: "64MiB"}

// heavyTasks is one where each task writes more than there is memory, so that all
// of it goes there.
var heavyTasks = fleet.Config{JobManagers: 3, TaskManagers: 2, Memory: "64MiB", Slots: 1, TaskSize: "256MiB"}

// heavyJob carries 110 MB through each of draw and first.
func heavyJob() jobs.Shape {
	s := size(880, 3*time.Second)
	s.Payload = 128 << 10
	return s
}

// untilStored waits until the job's stage that does this step has finished, and
// returns it, with the number of its tasks whose output is on disks.
func (x *trial) untilStored(at *fleet.Node, step string) (stage fleet.Stage, stored int) {
	t := x.r.t
	t.Helper()
	err := fleet.Await(t.Context(), faultyJobTime, step+" has finished", func() bool {
		j := x.note(at)
		if j == nil {
			return false
		}
		i := slices.IndexFunc(j.Stages, func(s fleet.Stage) bool { return strings.Contains(s.Name, step+"Fn") })
		if i < 0 {
			t.Fatalf("no stage has %sFn:\n%s", step, shownTasks(j))
		}
		stage = j.Stages[i]
		return stage.State == "finished"
	})
	if err != nil {
		t.Fatal(err, x.where())
	}
	for _, task := range stage.Tasks {
		if task.Durable == "disk" {
			stored++
		}
	}
	return stage, stored
}

// TestFailoverStored takes the power from all hosts when a stage has finished whose
// output is on the TaskManagers' own disks. It is read from there afterwards: no
// task of it runs again, nor any before it, as the users' code can tell.
func TestFailoverStored(t *testing.T) {
	r := startRig(t, heavyTasks)
	managers := r.Of(fleet.JobManager)
	for range fullOrQuick(5, 1) {
		x := r.begin(heavyJob(), managers[0], managers[1])
		x.watch(managers[1])
		stage, stored := x.untilStored(managers[1], jobs.First)
		r.powerCut(t)
		if stored < len(stage.Tasks) {
			t.Fatalf("of %d tasks %d have written to disks; the job is too small for this test", len(stage.Tasks), stored)
		}
		before, err := jobs.ReadJournal(x.shape.Dir)
		if err != nil {
			t.Fatal(err)
		}
		<-x.watched
		x.follow(managers[2])
		x.watch(managers[2])
		end, ran := x.mustEnd(managers[0])
		for _, wrong := range x.needlessOf(end, volatile) {
			t.Errorf("ran again without need after all had lost power: %s", wrong)
		}
		for _, step := range []string{jobs.Source, jobs.Salt, jobs.Draw, jobs.First} {
			if was, is := before.Count(step), ran.Count(step); was != is {
				t.Errorf("%s ran for %d elements before the power was lost, and for %d more later, though what it had made was on disks", step, was, is-was)
			}
		}
		t.Logf("%d tasks of %s had written to disks; %s", len(stage.Tasks), stage.Name, ran.Summary())
	}
}

// TestFailoverDamagedPartitions cuts files of finished partitions anywhere, or
// flips bits in them, on TaskManagers' own disks while the job still needs them.
// That is found, and what was in them is made again as a new generation: keys are
// drawn by chance, so that a mixture of two would lose or double something.
func TestFailoverDamagedPartitions(t *testing.T) {
	need(t, "failover")
	// Some of the output is in memory, and TaskManagers find the damage when they
	// read what they thought they had.
	t.Run("serving", func(t *testing.T) {
		r := startRig(t, heavy)
		for i := range fullOrQuick(10, 2) {
			r.damage(t, i%2 == 0, func() {})
		}
	})
	// All is on disks, and processes are away meanwhile, which find some of it when
	// they start.
	t.Run("away", func(t *testing.T) {
		r := startRig(t, heavyTasks)
		for i := range fullOrQuick(6, 1) {
			r.damage(t, i%2 == 1, func() {
				for _, n := range r.Of(fleet.TaskManager) {
					if err := n.PowerOff(); err != nil {
						t.Fatal(err)
					}
				}
			})
		}
	})
}

// damage runs a job and harms what its first has written.
func (r *rig) damage(t *testing.T, cut bool, before func()) {
	managers := r.Of(fleet.JobManager)
	x := r.begin(heavyJob(), managers[0], managers[1])
	stage, stored := x.untilStored(managers[1], jobs.First)
	before()
	harmed := r.harmPartitions(cut)
	for _, n := range r.Of(fleet.TaskManager) {
		if !n.Running() {
			if err := n.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	end, ran := x.mustEnd(managers[1])
	for _, f := range end.Failures {
		t.Logf("found: %.300s", f.Message)
	}
	// Had nothing been made again, damage would have been read.
	if len(end.Failures) == 0 || ran.Count(jobs.First) == x.shape.Elements {
		t.Errorf("nothing was made again though %s", strings.Join(harmed, ", "))
	}
	t.Logf("%d of %d tasks of %s had written to disks; %.300s; %s", stored, len(stage.Tasks), stage.Name, strings.Join(harmed, ", "), ran.Summary())
}

// harmPartitions harms some of the partitions that TaskManagers have on their own
// disks.
func (r *rig) harmPartitions(cut bool) (harmed []string) {
	var files []string
	for _, n := range r.Of(fleet.TaskManager) {
		_ = filepath.WalkDir(n.Data(), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() && strings.HasSuffix(path, ".part") {
				files = append(files, path)
			}
			return nil
		})
	}
	if len(files) == 0 {
		r.t.Fatal("no TaskManager has a partition on its disk")
	}
	r.chance.Shuffle(len(files), func(i, k int) { files[i], files[k] = files[k], files[i] })
	for _, path := range files[:min(len(files), 4)] {
		info, err := os.Stat(path)
		if err != nil || info.Size() == 0 {
			continue // it was freed meanwhile
		}
		if cut {
			at := r.chance.Int64N(info.Size())
			err = os.Truncate(path, at)
			harmed = append(harmed, fmt.Sprintf("%s cut to %d of %d bytes", filepath.Base(path), at, info.Size()))
		} else {
			for range 3 {
				at := r.chance.Int64N(info.Size())
				if err == nil {
					err = flip(path, at, byte(1<<r.chance.IntN(8)))
				}
				harmed = append(harmed, fmt.Sprintf("%s with a bit flipped at %d of %d bytes", filepath.Base(path), at, info.Size()))
			}
		}
		if err != nil && !os.IsNotExist(err) {
			r.t.Fatal(err)
		}
	}
	return harmed
}
