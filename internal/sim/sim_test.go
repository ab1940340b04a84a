package sim

import (
	"fmt"
	"testing"
	"time"
)

// Things happen in the order of their times, equal ones in the order in which
// they came, and the same again with the same seed.
func TestWorld(t *testing.T) {
	run := func(seed uint64) (said string) {
		w := New(seed)
		say := func(what string) func() { return func() { said += fmt.Sprint(what, "@", w.Now, " ") } }
		w.After(2*time.Second, say("c"))
		w.After(time.Second, say("a"))
		w.After(time.Second, func() { say("b")(); w.After(-time.Hour, say("at once")) })
		w.After(w.Between(3*time.Second, 4*time.Second), say("d"))
		w.After(time.Hour, say("never"))
		if w.RunUntil(func() bool { return false }, time.Minute) {
			t.Error("what never is was")
		}
		return said
	}
	got := run(1)
	if want := "a@1s b@1s at once@1s c@2s d@3."; len(got) < len(want) || got[:len(want)] != want {
		t.Errorf("%s, want %s", got, want)
	}
	if again := run(1); again != got {
		t.Errorf("%s, then %s", got, again)
	}
}
