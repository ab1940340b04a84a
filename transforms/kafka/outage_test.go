package kafka

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestOutages counts how long a partition can't be read, whoever tries; a success
// ends that, and so does a time in which nobody tries.
func TestOutages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all outageTable
		p, q := place{topic: "t"}, place{topic: "t", partition: 1}
		for i, step := range []struct {
			after time.Duration
			of    place
			over  bool
			want  time.Duration
		}{
			{of: p},
			{after: 10 * time.Second, of: p, want: 10 * time.Second},
			{of: q},
			{after: 20 * time.Second, of: p, want: 30 * time.Second}, // the call took its time
			{of: q, want: 20 * time.Second},
			{of: p, over: true},
			{after: time.Second, of: p},
			{of: q, want: 21 * time.Second},
			{after: time.Minute, of: q},
		} {
			time.Sleep(step.after) // of the bubble
			if step.over {
				all.over(step.of)
			} else if got := all.lasts(step.of, 10*time.Second); got != step.want {
				t.Errorf("step %d: for %s, want %s", i, got, step.want)
			}
		}
	})
}
