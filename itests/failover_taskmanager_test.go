package itests

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"trestle/itests/fleet"
	"trestle/itests/jobs"
)

// TestFailoverTaskManager kills TaskManagers at random instants. What is done
// again is what they alone had, and what had read it.
func TestFailoverTaskManager(t *testing.T) {
	t.Run("own", func(t *testing.T) {
		r := startRig(t, standard)
		for range fullOrQuick(20, 4) {
			x, victim := r.loseTaskManager()
			end, ran := x.mustEnd(r.one(r.Of(fleet.JobManager)))
			again := x.again(end)
			for _, wrong := range x.needless(end, victim.Name) {
				t.Errorf("ran again without need after the end of %s: %s", victim.Name, wrong)
			}
			t.Logf("of %d finished tasks %d ran again; %s", len(x.done), len(again), ran.Summary())
		}
	})
	t.Run("blob", func(t *testing.T) {
		cfg := standard
		cfg.Blob = true
		r := startRig(t, cfg)
		for range fullOrQuick(20, 4) {
			x, victim := r.loseTaskManager()
			end, ran := x.mustEnd(r.one(r.Of(fleet.JobManager)))
			if again := x.again(end); len(again) > 0 {
				t.Errorf("finished tasks ran again after the end of %s, whose output outlives it: %q", victim.Name, again)
			}
			x.mustHaveRunOn(t, ran, victim.Name)
			t.Logf("%d tasks were finished; %s", len(x.done), ran.Summary())
		}
	})
}

// loseTaskManager begins a job, takes the power from a TaskManager's host at a
// random instant, and gives it back after another.
func (r *rig) loseTaskManager() (*trial, *fleet.Node) {
	r.t.Helper()
	managers := r.Of(fleet.JobManager)
	x := r.begin(size(600, 3*time.Second), r.one(managers), r.one(managers))
	r.pause(r.within(3 * time.Second))
	leader, _ := r.leader()
	x.watch(leader)
	x.note(leader)
	victim := r.one(r.Of(fleet.TaskManager))
	if err := victim.PowerOff(); err != nil {
		r.t.Fatal(err)
	}
	r.pause(r.within(4 * time.Second))
	if err := victim.Restart(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	return x, victim
}

// mustHaveRunOn checks that what ran again had run first where it was lost; or that
// it was the source's, whose tasks pull from a queue: one TaskManager keeps it, and
// which one isn't shown. If that is lost before the source is done, all of it begins
// again.
func (x *trial) mustHaveRunOn(t *testing.T, ran jobs.Journal, hosts ...string) {
	t.Helper()
	<-x.watched
	if twice := x.twice(t, x.r.Of(fleet.JobManager)[0]); len(twice) > 0 {
		t.Logf("%d tasks took long: %q", len(twice), twice)
		return
	}
	pulling := slices.ContainsFunc(x.turns, func(turn turn) bool {
		return slices.ContainsFunc(turn.before.Stages, func(s fleet.Stage) bool { return s.Root == "restrictions" && s.State != "finished" })
	})
	for step, runs := range ran.Again() {
		if step == jobs.Source && pulling {
			continue
		}
		for _, run := range runs {
			first := slices.ContainsFunc(hosts, func(host string) bool { return ran.FirstOn(host)[[2]string{step, run.ID}] })
			if !first {
				t.Errorf("%s of %s ran again, on %s, though it had not run on %v", step, run.ID, run.Host, hosts)
				return // one is enough
			}
		}
	}
}

// TestFailoverWorker kills SDK workers. Their bundles run again, and nothing
// that was finished.
func TestFailoverWorker(t *testing.T) {
	r := startRig(t, standard)
	managers := r.Of(fleet.JobManager)
	for range fullOrQuick(10, 2) {
		x := r.begin(size(600, 3*time.Second), r.one(managers), r.one(managers))
		killed := 0
		for range 3 {
			r.pause(r.within(time.Second))
			leader, _ := r.leader()
			x.note(leader)
			if r.killWorker(x) {
				killed++
			}
		}
		end, ran := x.mustEnd(r.one(managers))
		if again := x.again(end); len(again) > 0 {
			t.Errorf("finished tasks ran again after a worker's death: %q", again)
		}
		t.Logf("%d workers killed, %d tasks were finished; %s", killed, len(x.done), ran.Summary())
	}
}

// killWorker ends one of the job's workers that live, by chance.
func (r *rig) killWorker(x *trial) bool {
	var living []int
	for _, line := range lines(filepath.Join(x.shape.Dir, "pids")) {
		if pid, err := strconv.Atoi(line); err == nil && alive(line) {
			living = append(living, pid)
		}
	}
	if len(living) == 0 {
		return false
	}
	return syscall.Kill(living[r.chance.IntN(len(living))], syscall.SIGKILL) == nil
}

// slowFactor is how many times slower a slow host is.
const slowFactor = 10

// TestFailoverSlow has one host run ten times slower than the others. Its tasks are
// run a second time elsewhere, and the job doesn't wait for it.
func TestFailoverSlow(t *testing.T) {
	r := startRig(t, standard)
	managers := r.Of(fleet.JobManager)
	run := func() (*fleet.Job, time.Duration) {
		began := time.Now()
		x := r.begin(size(600, 6*time.Second), r.one(managers), r.one(managers))
		end, ran := x.mustEnd(r.one(managers))
		took := time.Since(began)
		t.Log(ran.Summary(), "; ", len(x.twice(t, managers[0])), " tasks were begun a second time")
		return end, took
	}
	healthy, quickly := run()
	if n := seconds(healthy); n > 0 {
		t.Errorf("%d second attempts have won, and nobody was slow:\n%s", n, shownTasks(healthy))
	}
	slow := r.one(r.Of(fleet.TaskManager))
	stop := r.slow(slow)
	hurt, slowly := run()
	stop()
	n := seconds(hurt)
	t.Logf("the job took %s, and %s with %s ten times slower; %d second attempts have won", quickly, slowly, slow.Name, n)
	if hurt.Restarts == 0 && n == 0 {
		t.Errorf("no second attempt has won:\n%s", shownTasks(hurt))
	}
	// Without second attempts it would take most of the factor.
	if slowly > slowFactor*quickly/2 {
		t.Errorf("%s for a job of %s: it waited for %s", slowly, quickly, slow.Name)
	}
}

// seconds is the number of a job's tasks of which a second attempt has won, if
// nothing was taken back.
func seconds(j *fleet.Job) (n int) {
	for _, s := range j.Stages {
		for _, task := range s.Tasks {
			if j.Restarts == 0 && task.Attempt > 0 {
				n++
			}
		}
	}
	return n
}

// timed is how long a job takes to its end.
func (r *rig) timed(begin func() *trial) time.Duration {
	r.t.Helper()
	began := time.Now()
	x := begin()
	x.mustEnd(r.one(r.Of(fleet.JobManager)))
	return time.Since(began)
}

// TestFailoverEqual runs one shape on one, two and four TaskManagers. Each
// result is exact.
func TestFailoverEqual(t *testing.T) {
	need(t, "failover")
	for _, n := range []int{1, 2, 4} {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			r := startRig(t, fleet.Config{JobManagers: 1, TaskManagers: n})
			at := r.Of(fleet.JobManager)[0]
			took := r.timed(func() *trial { return r.begin(size(1000, 2*time.Second), at, at) })
			t.Logf("%d TaskManagers: %s", n, took)
		})
	}
}

// diskUse is the bytes of all files below a directory.
func diskUse(dir string) (total int64) {
	_ = filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil //nolint:nilerr // files come and go
		}
		if info, err := d.Info(); err == nil {
			total += info.Size()
		}
		return nil
	})
	return total
}

// TestFailoverRelease sees that what jobs wrote is removed again, from the
// object store and from the disks, also where a JobManager or a TaskManager was
// lost meanwhile.
func TestFailoverRelease(t *testing.T) {
	cfg := standard
	cfg.Blob = true
	r := startRig(t, cfg)
	managers := r.Of(fleet.JobManager)
	heavy := size(400, 2*time.Second)
	heavy.Payload = 8 << 10
	r.begin(heavy, managers[0], managers[0]).mustEnd(managers[0]) // fills caches
	before := r.settled(2 << 20)
	leader, _ := r.leader()
	at := r.others(leader)[0]
	x := r.begin(heavy, managers[0], at)
	var most int64
	err := fleet.Await(t.Context(), faultyJobTime, "the job has written something", func() bool {
		most = r.taskDisk()
		return most > before+heavyEnough
	})
	if err != nil {
		t.Error(errors.Join(err, x.where()))
	}
	leader.Kill()
	if err := leader.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	victim := r.one(r.Of(fleet.TaskManager))
	if err := victim.PowerOff(); err != nil {
		t.Fatal(err)
	}
	if err := victim.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	x.mustEnd(at)
	after := r.settled(before)
	t.Logf("store and TaskManagers' disks: %d bytes before, %d in mid-job, %d after", before, most, after)
}

// heavyEnough is what the job above writes, at least.
const heavyEnough = 1 << 20

// taskDisk is what all TaskManagers have stored.
func (r *rig) taskDisk() (total int64) {
	total = diskUse(r.Store())
	for _, n := range r.Of(fleet.TaskManager) {
		total += diskUse(n.Data())
	}
	return total
}

// settled waits until the TaskManagers have not much more on disk than before,
// and tells how much.
func (r *rig) settled(before int64) int64 {
	r.t.Helper()
	const slack = 256 << 10 // logs
	var now int64
	err := fleet.Await(r.t.Context(), 15*time.Second, "disks are as before", func() bool {
		now = r.taskDisk()
		return now <= before+slack
	})
	if err != nil {
		r.t.Errorf("%v: %d bytes, want %d: %q", err, now, before, r.largest())
	}
	return now
}

// largest are the largest files that TaskManagers have.
func (r *rig) largest() []string {
	type file struct {
		path string
		size int64
	}
	var all []file
	for _, n := range r.Of(fleet.TaskManager) {
		_ = filepath.WalkDir(n.Data(), func(path string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				if info, err := d.Info(); err == nil {
					all = append(all, file{path, info.Size()})
				}
			}
			return nil
		})
	}
	slices.SortFunc(all, func(a, b file) int { return int(b.size - a.size) })
	var out []string
	for _, f := range all[:min(len(all), 10)] {
		out = append(out, fmt.Sprintf("%s: %d", f.path, f.size))
	}
	return out
}
