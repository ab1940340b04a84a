package itests

import (
	"testing"
	"time"

	"trestle/itests/fleet"
)

// TestFailoverServe kills an embedded Trestle at random instants of a job and
// starts it again: the job goes on, and tasks that were finished stay finished.
func TestFailoverServe(t *testing.T) {
	r := startRig(t, fleet.Config{Serves: 1})
	n := r.Node("serve1")
	for range fullOrQuick(10, 3) {
		x := r.begin(size(600, 2*time.Second), n, n)
		began := time.Now()
		r.pause(r.within(3 * time.Second))
		x.note(n)
		killed := time.Since(began)
		if err := r.Node("serve1").PowerOff(); err != nil {
			t.Fatal(err)
		}
		if err := n.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		ready := time.Since(began)
		x.follow(n)
		end, ran := x.mustEnd(n)
		t.Logf("killed after %s, ready after %s, ended after %s", killed, ready, time.Since(began))
		t.Logf("%d tasks were finished, %d of them ran again; %s", len(x.done), len(x.again(end)), ran.Summary())
	}
}

// TestFailoverServePython is the same for a pipeline in Python.
func TestFailoverServePython(t *testing.T) {
	r := startRig(t, fleet.Config{Serves: 1})
	n := r.Node("serve1")
	x := r.prepareTrial(size(200, 2*time.Second))
	p, err := x.pythonProto()
	if err != nil {
		t.Fatal(err)
	}
	x.submit(p, n)
	r.pause(r.within(4 * time.Second))
	if err := n.PowerOff(); err != nil {
		t.Fatal(err)
	}
	if err := n.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	x.follow(n)
	_, ran := x.mustEnd(n)
	t.Log(ran.Summary())
}
