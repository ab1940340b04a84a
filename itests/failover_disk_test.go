package itests

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"trestle/itests/fleet"

	"golang.org/x/sys/unix"
)

// small gives a node a disk of its own for its data, of so many bytes. The node
// must not run.
func (r *rig) small(n *fleet.Node, size int) {
	r.t.Helper()
	if os.Geteuid() != 0 {
		r.t.Skip("a disk of its own needs root to be mounted")
	}
	if err := unix.Mount("tmpfs", n.Data(), "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", size)); err != nil {
		r.t.Fatal(err)
	}
	// Before the directory is removed; processes may still stand there.
	r.t.Cleanup(func() {
		if err := unix.Unmount(n.Data(), unix.MNT_DETACH); err != nil {
			r.t.Error(err)
		}
	})
}

// TestFailoverDiskFull has a TaskManager's disk, and then a leader's, be full in
// mid-job.
func TestFailoverDiskFull(t *testing.T) {
	t.Run("taskmanager", func(t *testing.T) {
		cfg := standard
		cfg.Memory = "64MiB" // so that not all stays in memory
		r := newRig(t, cfg)
		r.small(r.Node("tm1"), 3<<20)
		if err := r.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		shape := size(500, time.Second)
		shape.Payload = 128 << 10
		at := r.Of(fleet.JobManager)[0]
		// No restart is the job's own: others have room.
		x := r.begin(shape, at, at, "restart_attempts=0")
		end, ran := x.mustEnd(at)
		if !slices.ContainsFunc(end.Failures, func(f fleet.Failure) bool { return f.Kind == "disk" && f.TaskManager == "tm1" }) {
			t.Errorf("no task has met the full disk: %+v", end.Failures)
		}
		t.Logf("the job went on after %d restarts; %s", end.Restarts, ran.Summary())
	})
	t.Run("leader", func(t *testing.T) {
		r := newRig(t, standard)
		for _, n := range r.Of(fleet.JobManager) {
			r.small(n, 24<<20)
		}
		if err := r.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		leader, _ := r.leader()
		at := r.others(leader)[0]
		x := r.begin(size(600, 5*time.Second), at, at)
		r.pause(r.within(time.Second))
		x.note(at)
		fill(t, filepath.Join(leader.Data(), "filler"))
		// One more, for which its pipeline has to be stored: taken, or refused with
		// the reason, but not lost.
		second := r.prepareTrial(size(100, 100*time.Millisecond))
		err := second.trySubmit(at)
		t.Logf("%s, which led, has no room any more; a new job there: %v", leader.Name, err)
		end, ran := x.mustEnd(at)
		if again := x.again(end); len(again) > 0 {
			t.Errorf("finished tasks ran again: %q", again)
		}
		t.Log(ran.Summary())
		if err == nil {
			second.follow(at)
			second.mustEnd(at)
		}
	})
}

// trySubmit submits the job, which may be refused.
func (x *trial) trySubmit(at *fleet.Node) error {
	p, err := x.goProto()
	if err != nil {
		x.r.t.Fatal(err)
	}
	c, err := at.Dial()
	if err != nil {
		x.r.t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(x.r.t.Context(), 20*time.Second)
	defer cancel()
	x.id, err = c.Submit(ctx, x.name, p)
	return err
}

// fill writes a file until the disk is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 4096); err == nil; {
		_, err = f.Write(block)
	}
}

// TestFailoverDamage harms files of a JobManager that was killed: cut somewhere
// in their last 4 KiB, or with a bit flipped. It finds that, says so or mends
// it from the others, and is never silently wrong.
func TestFailoverDamage(t *testing.T) {
	r := startRig(t, standard)
	managers := r.Of(fleet.JobManager)
	for i := range fullOrQuick(40, 4) {
		leader, _ := r.leader()
		victim := r.one(managers)
		at := r.one(managers, victim)
		x := r.begin(size(300, 3*time.Second), at, at)
		r.pause(r.within(1500 * time.Millisecond))
		x.note(at)
		victim.Kill()
		harmed := r.harm(victim.Data(), i%2 == 0)
		err := victim.Restart(t.Context())
		said := fleet.Tail(victim.Log(), 2<<10)
		switch {
		case err == nil:
			t.Logf("%s (led: %v) with %s: serves", victim.Name, victim == leader, harmed)
		case strings.Contains(said, "panic:") || strings.Contains(said, "goroutine "):
			t.Errorf("%s with %s panics:\n%s", victim.Name, harmed, said)
		default:
			last := said[strings.LastIndex(strings.TrimSpace(said), "\n")+1:]
			t.Logf("%s with %s refuses: %.300s", victim.Name, harmed, last)
		}
		end, ran := x.mustEnd(at)
		if again := x.again(end); len(again) > 0 {
			t.Errorf("finished tasks ran again: %q", again)
		}
		x.mustNotRepeat(t, at, ran)
		if err == nil {
			r.mustAgree(t)
			continue
		}
		// As docs/operations.md says of a lost disk: out, emptied, in again.
		if err := r.replace(victim); err != nil {
			t.Fatal(err)
		}
	}
}

// harm cuts or flips one of the larger files of the log of decisions: in its
// last 4 KiB, or anywhere.
func (r *rig) harm(data string, cut bool) string {
	var files []string
	_ = filepath.WalkDir(data, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.Contains(path, "raft") {
			if info, err := d.Info(); err == nil && info.Size() > 64 {
				files = append(files, path)
			}
		}
		return nil
	})
	if len(files) == 0 {
		r.t.Fatalf("there is no log in %s", data)
	}
	slices.Sort(files)
	path := files[r.chance.IntN(len(files))]
	rel, _ := filepath.Rel(data, path)
	info, err := os.Stat(path)
	if err != nil {
		r.t.Fatal(err)
	}
	end := r.written(path)
	at := end - 1 - r.chance.Int64N(min(end-1, 4096))
	if r.chance.IntN(2) == 0 {
		at = r.chance.Int64N(end)
	}
	if cut {
		err = os.Truncate(path, at)
	} else {
		err = flip(path, at, byte(1<<r.chance.IntN(8)))
	}
	if err != nil {
		r.t.Fatal(err)
	}
	if cut {
		return fmt.Sprintf("%s cut to %d of %d bytes", rel, at, info.Size())
	}
	return fmt.Sprintf("%s with a bit flipped at %d of %d bytes", rel, at, info.Size())
}

// written is where a file's content ends that is not zero: a store grows by more
// than it needs.
func (r *rig) written(path string) int64 {
	text, err := os.ReadFile(path)
	if err != nil {
		r.t.Fatal(err)
	}
	return int64(len(bytes.TrimRight(text, "\x00")))
}

func flip(path string, at int64, bit byte) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		return err
	}
	b[0] ^= bit
	_, err = f.WriteAt(b, at)
	return err
}

// replace takes a member out of the group, empties its disk and takes it in
// again.
func (r *rig) replace(n *fleet.Node) error {
	leader, _ := r.leaderAfter(0, r.but(fleet.JobManager, n)...)
	ctx := r.t.Context()
	if err := leader.RemoveMember(ctx, n); err != nil {
		return err
	}
	if err := n.PowerOff(); err != nil {
		return err
	}
	if err := os.RemoveAll(n.Data()); err != nil {
		return err
	}
	if err := os.Mkdir(n.Data(), 0o700); err != nil {
		return err
	}
	if err := n.Launch(); err != nil {
		return err
	}
	if err := leader.AddMember(ctx, n); err != nil {
		return err
	}
	return n.Ready(ctx)
}

// mustAgree waits until all JobManagers are at one place of the log, and
// compares the hashes of what it folds to.
func (r *rig) mustAgree(t *testing.T) {
	t.Helper()
	var s *fleet.Standing
	err := fleet.Await(t.Context(), 30*time.Second, "all JobManagers are at one place of the log", func() bool {
		var err error
		if s, err = r.Status(t.Context(), r.Of(fleet.JobManager)...); err != nil {
			return false
		}
		for _, m := range s.Members {
			if m.Error != "" || m.State == "" || m.Applied != s.Members[0].Applied {
				return false
			}
		}
		return true
	})
	if err != nil {
		t.Errorf("%v: %+v", err, s)
		return
	}
	for _, m := range s.Members {
		if m.State != s.Members[0].State {
			t.Errorf("at %d of the log, %s holds the state %s, %s %s", m.Applied, m.Name, m.State, s.Members[0].Name, s.Members[0].State)
		}
	}
}
