package itests

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"trestle/itests/fleet"
	"trestle/itests/jobs"
)

// A turn is a job as it was shown before some of its tasks were taken back, and
// after.
type turn struct{ before, after *fleet.Job }

// watch looks at the job, as a node shows it, many times a second until its
// follower has seen the end. All that judges what ran again judges by what was
// shown right before the decision: a job goes on while nobody knows of a loss, and
// what must run again is what is lost when that is decided. Where TaskManagers are
// lost the node is to lead: of tasks that run only a leader knows.
func (x *trial) watch(at *fleet.Node) {
	x.watched = make(chan struct{})
	ended := x.ended
	go func() { // ends with the job, or with the follower's time
		defer close(x.watched)
		tick := time.NewTicker(30 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				x.look(at)
			case <-ended:
				return
			}
		}
	}()
}

// look is one look of watch.
func (x *trial) look(at *fleet.Node) {
	ctx, cancel := context.WithTimeout(x.r.t.Context(), 5*time.Second)
	defer cancel()
	if j, err := at.Show(ctx, x.id); err == nil {
		x.shown(j)
	}
}

// shown takes a view of the job, which is later than all others.
func (x *trial) shown(j *fleet.Job) {
	if x.last != nil && j.Restarts > x.last.Restarts {
		x.turns = append(x.turns, turn{x.last, j})
	}
	x.last = j
}

// needless are the finished tasks that ran again and had not to, when the
// TaskManagers were lost that are named. What had to is worked out from what was
// shown right before they were taken back; see mustAgain.
func (x *trial) needless(end *fleet.Job, lost ...string) []string {
	if len(lost) == 0 {
		return x.needlessOf(end, nil)
	}
	return x.needlessOf(end, func(task fleet.Task) bool { return slices.Contains(lost, task.TaskManager) })
}

// needlessOf is needless when the output of some tasks was lost; of none if lost
// is nil.
func (x *trial) needlessOf(end *fleet.Job, lost func(fleet.Task) bool) (wrong []string) {
	<-x.watched
	x.shown(end)
	for _, t := range x.turns {
		must := map[string]fate{}
		if lost != nil {
			// What is shown may be older than the decision by a moment, in which
			// stages end: either is right.
			must = mustAgain(t, lost, false)
			for id, f := range mustAgain(t, lost, true) {
				must[id] = fate{must[id].lost || f.lost, must[id].all || f.all}
			}
		}
		for i, s := range t.before.Stages {
			for k, was := range s.Tasks {
				now := t.after.Stages[i].Tasks
				if was.State != "finished" || k < len(now) && now[k].Attempt == was.Attempt {
					continue
				}
				if f := must[s.ID]; !f.all && !(f.lost && lost(was)) {
					wrong = append(wrong, fmt.Sprintf("%s[%d] of %s, attempt %d, taken back with restart %d", s.ID, was.Index, was.TaskManager, was.Attempt, t.after.Restarts))
				}
			}
		}
	}
	if len(wrong) > 0 {
		for _, t := range x.turns {
			x.r.t.Logf("before restart %d:\n%safter it:\n%s", t.after.Restarts, shownTasks(t.before), shownTasks(t.after))
		}
	}
	return wrong
}

// A fate is what of a stage runs again: what was lost, or all.
type fate struct{ lost, all bool }

// mustAgain works out, by stage, what runs again when the output of some tasks is
// lost, by the rules of D7:
//   - what is lost and somebody still needs;
//   - all readers of what is written again;
//   - what they read, if it had been freed because they had finished once;
//   - all of a stage that pulls from a queue: the queue may be lost, or closed.
//
// Stages that may have ended since they were shown count as ended if ended says so.
func mustAgain(t turn, lost func(fleet.Task) bool, ended bool) map[string]fate {
	j := t.before
	must := map[string]fate{}
	complete := map[string]bool{}
	pulls := map[string]bool{}
	consumers := map[string][]string{}
	for i, s := range j.Stages {
		complete[s.ID], pulls[s.ID] = s.State == "finished" || ended && mayHaveEnded(j, s, t.after.Stages[i]), s.Root == "restrictions"
		for _, p := range j.Producers(s.ID) {
			consumers[p] = append(consumers[p], s.ID)
		}
	}
	for _, s := range j.Stages {
		needed := !complete[s.ID] || slices.ContainsFunc(consumers[s.ID], func(c string) bool { return !complete[c] })
		there := slices.ContainsFunc(s.Tasks, lost)
		// Who keeps a queue isn't shown.
		if needed && len(s.Tasks) > 0 && (there || pulls[s.ID] && !complete[s.ID]) {
			must[s.ID] = fate{lost: true, all: pulls[s.ID]}
		}
	}
	for changed := true; changed; {
		changed = false
		put := func(id string, f fate) {
			f.all = f.all || f.lost && pulls[id]
			old := must[id]
			f = fate{old.lost || f.lost, old.all || f.all}
			changed = changed || f != old
			must[id] = f
		}
		for _, s := range j.Stages {
			if must[s.ID] == (fate{}) {
				continue
			}
			for _, p := range j.Producers(s.ID) {
				put(p, fate{lost: true, all: complete[s.ID]})
			}
			// Running tasks of an unfinished stage have no readers yet.
			if complete[s.ID] || must[s.ID].all {
				for _, c := range consumers[s.ID] {
					put(c, fate{lost: true, all: true})
				}
			}
		}
	}
	return must
}

// mayHaveEnded reports whether a stage may have finished between two views of it,
// the later of which is after a restart: all that was left to do ran when it was
// shown, and has ended or was taken back. Who doesn't lead shows nothing to run.
func mayHaveEnded(j *fleet.Job, before, after fleet.Stage) bool {
	leads := false
	for _, s := range j.Stages {
		leads = leads || slices.ContainsFunc(s.Tasks, func(t fleet.Task) bool { return t.State == "running" })
	}
	for k, was := range before.Tasks {
		if was.State == "finished" {
			continue
		}
		if leads && was.State != "running" || k < len(after.Tasks) && after.Tasks[k].State != "finished" && after.Tasks[k].Attempt == was.Attempt {
			return false
		}
	}
	return len(before.Tasks) > 0
}

// mustNotRepeat checks that the users' code has seen each element once, but for tasks
// that took long and were begun a second time: the job says so of each.
func (x *trial) mustNotRepeat(t *testing.T, at *fleet.Node, ran jobs.Journal) {
	t.Helper()
	if len(ran.Again()) == 0 {
		return
	}
	if twice := x.twice(t, at); len(twice) > 0 {
		t.Logf("%d tasks took long: %q", len(twice), twice)
		return
	}
	t.Errorf("job %s: elements ran again: %s", x.id, ran.Summary())
}

// twice is what a job says of tasks that were begun a second time because they took
// long.
func (x *trial) twice(t *testing.T, at *fleet.Node) (said []string) {
	t.Helper()
	var list struct{ Messages []struct{ Text string } }
	if err := at.Get(t.Context(), "/api/v1/jobs/"+x.id+"/messages?max=1000", &list); err != nil {
		t.Error(err)
	}
	for _, m := range list.Messages {
		if strings.Contains(m.Text, "started a second time") {
			said = append(said, m.Text)
		}
	}
	return said
}

// shownTasks tells a job's stages and tasks, for messages.
func shownTasks(j *fleet.Job) (out string) {
	for _, s := range j.Stages {
		out += fmt.Sprintf("  %s %s %s, reads %v, %s:", s.ID, s.Root, s.State, j.Producers(s.ID), s.Name)
		for _, task := range s.Tasks {
			out += fmt.Sprintf(" %d#%d %s@%s", task.Index, task.Attempt, task.State, task.TaskManager)
		}
		out += "\n"
	}
	for _, f := range j.Failures {
		out += fmt.Sprintf("  failure %s %s[%d]#%d on %s: %.200s\n", f.Kind, f.Stage, f.Index, f.Attempt, f.TaskManager, f.Message)
	}
	return out
}
