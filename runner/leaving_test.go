package runner_test

import (
	"testing"
	"testing/synctest"

	"trestle/runner/task"
)

// A leaver is a TaskManager that counts how often it was told that it can leave.
type leaver struct {
	*fakeManager
	told chan bool
}

func (l leaver) MayLeave() { l.told <- true }

// A TaskManager that drains is told that it can leave, once, when what it wrote
// was read, and not before that is durable.
func TestMayLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := leaver{newManager("a", 1), make(chan bool, 9)}, newManager("b", 1)
		a.behave = func(task.Spec) *task.Report { return nil }
		b.behave = a.behave
		j := &memoryJournal{}
		d, stop := run(t, j, a)
		submit(t, d, "j", twoStages())
		synctest.Wait()
		a.reports <- task.Report{Draining: true}
		if err := d.Join(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		a.reports <- *finish(a.started[0])
		synctest.Wait()
		if len(b.started) != 1 || len(a.told) > 0 {
			t.Errorf("b was started %v; a was told to leave %d times, while it is read", b.tasks(), len(a.told))
		}
		j.gate = make(chan struct{})
		b.reports <- *finish(b.started[0])
		synctest.Wait()
		if len(a.told) > 0 {
			t.Error("a was told to leave before it is durable that it was read")
		}
		close(j.gate)
		expect(t, "states", states(t, d, "j"), []string{"STARTING", "RUNNING", "DONE"})
		synctest.Wait()
		if len(a.told) != 1 {
			t.Errorf("a was told to leave %d times", len(a.told))
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}
