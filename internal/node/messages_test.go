package node

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"trestle/runner/joblog"
)

// Every line of an entry of the log is kept, also where lines of several jobs
// take turns, and each once, however often the log is told.
func TestLinesOfOneEntry(t *testing.T) {
	dir := t.TempDir()
	for range 3 {
		store, err := joblog.New(filepath.Join(dir, "messages"), joblog.Options{})
		if err != nil {
			t.Fatal(err)
		}
		m := newMailbox(store, "", quiet)
		for _, line := range []string{"a 1", "b 1", "a 2", "b 2", "a 3"} {
			m.Post(7, line[:1], time.Unix(1, 0), slog.LevelInfo, line)
		}
		m.Post(8, "a", time.Unix(2, 0), slog.LevelInfo, "a 4")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := m.run(ctx); err != nil {
			t.Fatal(err)
		}
		for job, want := range map[string]string{"a": "a 1, a 2, a 3, a 4", "b": "b 1, b 2"} {
			r, err := store.Open(job, 0)
			if err != nil {
				t.Fatal(err)
			}
			entries, err := r.Read(100)
			r.Close()
			var got []string
			for _, e := range entries {
				got = append(got, e.Text)
			}
			if err != nil || strings.Join(got, ", ") != want {
				t.Errorf("job %s: %q, want %q (%v)", job, strings.Join(got, ", "), want, err)
			}
		}
		store.Close()
	}
}
