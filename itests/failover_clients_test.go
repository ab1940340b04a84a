package itests

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"testing"
	"time"

	"trestle/itests/fleet"
)

// TestFailoverGoClient has a client written with the Go SDK wait for its job at
// a follower while leaders die. Its worker is staged, and reaches all hosts.
func TestFailoverGoClient(t *testing.T) {
	r := startRig(t, standard)
	for range fullOrQuick(5, 1) {
		leader, _ := r.leader()
		at := r.others(leader)[0]
		x := r.prepareTrial(size(600, 4*time.Second))
		client, said := x.goClient(t.Context(), at)
		if err := client.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- client.Wait() }()
		r.pause(500*time.Millisecond + r.within(2*time.Second))
		if leader, _ := r.leader(); leader != at {
			dead, took := r.killLeader()
			t.Logf("%s was killed, another one leads after %s", dead.Name, took)
			if err := dead.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case err := <-ended:
			if err != nil {
				t.Fatalf("the client: %v\n%s", err, said)
			}
		case <-time.After(faultyJobTime):
			_ = client.Process.Kill()
			<-ended
			t.Fatalf("the client hangs; it said\n%s", said)
		}
		m := regexp.MustCompile(`Job\[([^]]+)\] state: DONE`).FindSubmatch(said.Bytes())
		if m == nil {
			t.Fatalf("the client did not see the state DONE:\n%s", said)
		}
		x.id = string(m[1])
		x.follow(at) // it can still be asked for
		_, ran := x.mustEnd(at)
		x.mustNotRepeat(t, at, ran)
	}
}

// goClient is the program of package jobs, started on a node's host, that asks
// for containers and so has its worker started natively.
func (x *trial) goClient(ctx context.Context, at *fleet.Node) (*exec.Cmd, *bytes.Buffer) {
	s := x.shape
	cmd := at.Host().Command(x.r.worker,
		"--dir="+s.Dir, "--elements="+strconv.Itoa(s.Elements), "--pause="+s.Pause.String(),
		fmt.Sprintf("--first-keys=%d", s.FirstKeys), fmt.Sprintf("--second-keys=%d", s.SecondKeys), fmt.Sprintf("--splits=%d", s.Splits),
		"--endpoint="+at.JobAddr(), "--environment_type=DOCKER", "--worker_binary="+x.r.worker, "--job_name="+x.name)
	said := new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = said, said
	cmd.WaitDelay = 5 * time.Second
	return cmd, said
}

// TestFailoverPython has a pipeline in Python live through the end of a leader,
// of a TaskManager and of a worker.
func TestFailoverPython(t *testing.T) {
	r := startRig(t, standard)
	managers := r.Of(fleet.JobManager)
	for range fullOrQuick(5, 1) {
		x := r.prepareTrial(size(300, 4*time.Second))
		p, err := x.pythonProto()
		if err != nil {
			t.Fatal(err)
		}
		leader, _ := r.leader()
		at := r.others(leader)[0]
		x.submit(p, at)
		x.follow(at)
		r.pause(time.Second + r.within(3*time.Second))
		x.note(at)
		leader.Kill()
		if err := leader.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.pause(r.within(time.Second))
		if !r.killWorker(x) {
			t.Log("no worker lived")
		}
		x.watch(at)
		victim := r.one(r.Of(fleet.TaskManager))
		r.pause(r.within(time.Second))
		if err := victim.PowerOff(); err != nil {
			t.Fatal(err)
		}
		if err := victim.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		end, ran := x.mustEnd(managers[0])
		for _, wrong := range x.needless(end, victim.Name) {
			t.Errorf("ran again without need after the end of %s: %s", victim.Name, wrong)
		}
		t.Logf("%d tasks were finished, %d ran again; %s", len(x.done), len(x.again(end)), ran.Summary())
	}
}
