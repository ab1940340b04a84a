package remote

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"trestle/runner/joblog"
)

type line struct {
	job, source string
	seq         uint64
	text        string
}

// Lines come to every JobManager, once each and in order, whichever leads and
// however often its connection breaks or it fails to write them.
func TestLines(t *testing.T) {
	const n = 500
	var got [2]chan line
	var addrs []string
	var wires []*wire
	for i := range got {
		got[i] = make(chan line, n+1)
		var failures atomic.Int64
		jm := newJobManager(t, ServerConfig{Lines: func(job, source string, seq uint64, entries []joblog.Entry) error {
			if i == 1 && seq%50 == 7 && failures.Add(1)%3 != 0 {
				return errors.New("disk full")
			}
			for _, e := range entries {
				got[i] <- line{job, source, seq, e.Text}
			}
			return nil
		}})
		w := newWire(t, jm.addr)
		wires = append(wires, w)
		addrs = append(addrs, w.addr())
	}
	lines := NewLines("tm1", 0)
	wires[1].open(false)
	run(t, newRecorder("tm1"), ClientConfig{Lines: lines}, addrs...)
	for i := range n {
		lines.Append(fmt.Sprint("j", i%3), joblog.Entry{Text: fmt.Sprint(i), Level: joblog.Info})
	}
	for which, c := range got {
		wires[which].open(true)
		for i := range n {
			l := receive(t, c)
			if l.text != fmt.Sprint(i) || l.job != fmt.Sprint("j", i%3) || !strings.HasPrefix(l.source, "tm1/") || l.seq != uint64(i+1) {
				t.Fatalf("JobManager %d: line %d is %+v", which, i, l)
			}
			if i%100 == 50 {
				wires[which].cut()
			}
		}
	}
	if lines.Lost() != 0 {
		t.Errorf("%d lines are lost", lines.Lost())
	}
	// What all have is forgotten.
	for {
		lines.mu.Lock()
		left := len(lines.batches)
		lines.mu.Unlock()
		if left == 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
}

// Of a JobManager that is away for too long, the oldest lines are lost, and
// counted.
func TestLinesBound(t *testing.T) {
	got := make(chan line, 10_000)
	jm := newJobManager(t, ServerConfig{
		Lines: func(job, source string, seq uint64, entries []joblog.Entry) error {
			got <- line{job, source, seq, entries[0].Text}
			return nil
		},
		Have: func(string) uint64 { return 3 },
	})
	lines := NewLines("tm1", 100_000)
	for i := range 1000 {
		lines.Append("j", joblog.Entry{Text: fmt.Sprintf("%d %s", i, strings.Repeat("x", 900))})
	}
	if lines.bytes > 100_000 || lines.Lost() < 850 || lines.Lost() > 950 {
		t.Errorf("%d bytes wait, %d lines are lost", lines.bytes, lines.Lost())
	}
	run(t, newRecorder("tm1"), ClientConfig{Lines: lines}, jm.addr)
	for i := int(lines.Lost()); i < 1000; i++ {
		if l := receive(t, got); l.seq != uint64(i+1) || !strings.HasPrefix(l.text, fmt.Sprint(i, " ")) {
			t.Fatalf("line %d is %d %.10s", i, l.seq, l.text)
		}
	}
}
