package remote

import (
	"encoding/json"
	"slices"

	"trestle/runner/task"
)

// A tracker knows the tasks of a TaskManager that its JobManager may not yet
// be done with. Not for two goroutines.
type tracker struct {
	open map[task.ID]int // by task that was started and has not ended: its slot
	// ended are ends that the leader may not have written down, by slot. A slot
	// is given to others when they are, so there is one column in each.
	ended map[int][]ending
}

type ending struct {
	id     task.ID
	report json.RawMessage
}

func newTracker() *tracker {
	return &tracker{open: map[task.ID]int{}, ended: map[int][]ending{}}
}

// start notes a column that is about to be started. Its slot is free: what has
// ended there is written down, unless it is started again. Of such tasks it
// gives the ends, which their TaskManager will not report a second time.
func (t *tracker) start(column []task.Spec) (again []json.RawMessage) {
	for _, s := range column {
		i := slices.IndexFunc(t.ended[s.Slot], func(e ending) bool { return e.id == s.ID })
		if i >= 0 {
			again = append(again, t.ended[s.Slot][i].report)
		} else {
			t.open[s.ID] = s.Slot
		}
	}
	for _, s := range column {
		t.ended[s.Slot] = slices.DeleteFunc(t.ended[s.Slot], func(e ending) bool {
			return !slices.ContainsFunc(column, func(s task.Spec) bool { return s.ID == e.id })
		})
	}
	return again
}

// end notes the end of a task.
func (t *tracker) end(id task.ID, report json.RawMessage) {
	slot, there := t.open[id]
	if !there {
		return // an end of which nobody has asked for the beginning
	}
	delete(t.open, id)
	t.ended[slot] = append(t.ended[slot], ending{id, report})
}

// releaseJob forgets a job, none of whose ends is waited for any more.
func (t *tracker) releaseJob(job string) {
	for slot, ends := range t.ended {
		ends = slices.DeleteFunc(ends, func(e ending) bool { return e.id.Job == job })
		if t.ended[slot] = ends; len(ends) == 0 {
			delete(t.ended, slot)
		}
	}
}

// running adds to what the TaskManager says of itself those whose ends the
// leader has yet to hear, so that it waits for them. They are told in the slots
// that they had, which keeps it from giving those away before.
func (t *tracker) running(told []task.RunningTask) []task.RunningTask {
	all := slices.Clone(told)
	known := map[task.ID]bool{}
	for _, r := range told {
		known[r.ID] = true
	}
	add := func(id task.ID, slot int) {
		if !known[id] {
			all = append(all, task.RunningTask{ID: id, Slot: slot})
		}
	}
	for id, slot := range t.open {
		add(id, slot)
	}
	for slot, ends := range t.ended {
		for _, e := range ends {
			add(e.id, slot)
		}
	}
	return all
}

// ends are the ends to tell again, those of one slot in the order in which
// they came.
func (t *tracker) ends() []json.RawMessage {
	var all []json.RawMessage
	for _, ends := range t.ended {
		for _, e := range ends {
			all = append(all, e.report)
		}
	}
	return all
}
