package task

import (
	"testing"

	"trestle/element"
)

// A worker sets a timer some time within its bundle; the delay that a test's
// author wrote is found, however long the bundle took to begin and to end.
func TestMeantDelays(t *testing.T) {
	tests := []struct {
		delay, before, after int64 // before the timer was set, and after it, in the bundle
	}{
		{5_000, 0, 0}, {5_000, 40, 3}, {5_000, 900, 900}, {5_000, 3_000, 20}, {1_000, 300, 200}, {60_000, 4_000, 4_000},
		{250, 7, 2}, {1, 0, 0}, {0, 0, 0}, {0, 500, 20}, {-3_000, 10, 10},
	}
	const now = 1_700_000_000_000
	for _, test := range tests {
		got := meant(element.Timestamp(now+test.delay), element.Timestamp(now-test.before), element.Timestamp(now+test.after))
		if want := element.Timestamp(max(0, test.delay)); got != want {
			t.Errorf("%+v: got %d", test, got)
		}
	}
}
