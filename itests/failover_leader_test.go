package itests

import (
	"slices"
	"testing"
	"time"

	"trestle/itests/fleet"
)

// standard is the fleet of most tests.
var standard = fleet.Config{JobManagers: 3, TaskManagers: 3}

// leader is who leads, and his term.
func (r *rig) leader() (*fleet.Node, uint64) { return r.leaderAfter(0, r.Of(fleet.JobManager)...) }

// leaderAfter waits for a leader of a later term among the nodes.
func (r *rig) leaderAfter(term uint64, among ...*fleet.Node) (*fleet.Node, uint64) {
	r.t.Helper()
	n, term, err := r.AwaitLeader(r.t.Context(), leaderTime, term, among)
	if err != nil {
		r.t.Fatal(err)
	}
	return n, term
}

// but are the nodes of a kind without some.
func (r *rig) but(kind fleet.Kind, some ...*fleet.Node) []*fleet.Node {
	return slices.DeleteFunc(r.Of(kind), func(n *fleet.Node) bool { return slices.Contains(some, n) })
}

// killLeader ends the process that leads, and returns it with the time that
// passed until another one led.
func (r *rig) killLeader() (dead *fleet.Node, took time.Duration) {
	r.t.Helper()
	dead, term := r.leader()
	began := time.Now()
	dead.Kill()
	r.leaderAfter(term, r.but(fleet.JobManager, dead)...)
	return dead, time.Since(began)
}

// A stopwatch gathers times to be told.
type stopwatch []time.Duration

func (s stopwatch) percentile(p int) time.Duration {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	return sorted[min(len(sorted)-1, len(sorted)*p/100)]
}

// TestFailoverLeader kills the leader at random instants of jobs, and their
// clients' nodes with it. Outputs are exact, and nothing runs again: neither
// what was finished nor what was running.
func TestFailoverLeader(t *testing.T) {
	r := startRig(t, standard)
	var took stopwatch
	finished := 0
	for kills := fullOrQuick(200, 20); len(took) < kills; {
		managers := r.Of(fleet.JobManager)
		at := r.one(managers)
		trials := []*trial{r.begin(size(600, 3*time.Second), r.one(managers), at)}
		if r.chance.IntN(3) == 0 {
			trials = append(trials, r.begin(size(200, time.Second), r.one(managers), at))
		}
		for i := 0; i < 3 && len(took) < kills; i++ {
			r.pause(r.within(time.Second))
			leader, _ := r.leader()
			for _, x := range trials {
				x.note(leader)
			}
			dead, gone := r.killLeader()
			took = append(took, gone)
			if dead == at {
				// Its clients ask elsewhere, for the same jobs.
				at = r.one(managers, dead)
				for _, x := range trials {
					<-x.ended
					x.follow(at)
				}
			}
			if err := dead.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		for _, x := range trials {
			shows := r.one(managers)
			end, ran := x.mustEnd(shows)
			finished += len(x.done)
			if again := x.again(end); len(again) > 0 {
				t.Errorf("finished tasks ran again after the leader's death: %q", again)
			}
			x.mustNotRepeat(t, shows, ran) // nor what was running
		}
	}
	t.Logf("%d leaders killed; another one led after %s (median), %s (p90), %s (p99); %d finished tasks, none ran again",
		len(took), took.percentile(50), took.percentile(90), took.percentile(99), finished)
	if p := took.percentile(99); p > leaderTime {
		t.Errorf("no leader for %s", p)
	}
}
