package node

import (
	"testing"
	"time"
)

// What a worker has logged is known when it comes again from its process, with
// or without what Python writes before it, and no more often than it was logged.
func TestEchoes(t *testing.T) {
	now := time.Now()
	e := newEchoes()
	e.logged("j", "w", "a: message\nof two lines", now)
	for _, tt := range []struct {
		job, worker, line string
		want              bool
	}{
		{"j", "w", "printed", false},
		{"j", "v", "INFO:root:a: message", false},
		{"i", "w", "INFO:root:a: message", false},
		{"j", "w", "INFO:my.module:a: message", true},
		{"j", "w", "INFO:my.module:a: message", false},
		{"j", "w", "of two lines", true},
		{"j", "w", "", false},
	} {
		if got := e.take(tt.job, tt.worker, tt.line); got != tt.want {
			t.Errorf("take(%s, %s, %q) = %v", tt.job, tt.worker, tt.line, got)
		}
	}
	e.logged("j", "w", "late", now)
	e.expire(now.Add(2 * time.Minute))
	if e.take("j", "w", "late") || len(e.recent) != 0 {
		t.Error("it remembers for ever")
	}
	for range 3 * heardLines {
		e.logged("j", "w", now.String(), now)
		now = now.Add(time.Second)
	}
	if h := e.recent[echoKey("j", "w")]; len(h.now)+len(h.before) > 2*heardLines {
		t.Errorf("%d lines are remembered", len(h.now)+len(h.before))
	}
}
