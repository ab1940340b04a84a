package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"
)

// largeState has a streaming job remember more keys than the runner may hold in
// memory. That each comes out again with all that was said of it is checked in
// the pipeline; here the memory is. What it costs to remember shows the same
// pipeline as a batch.
func largeState(ctx context.Context, w *workshop, o *options) ([]table, error) {
	if err := w.build(ctx, w.client("keys"), "./bench/keys"); err != nil {
		return nil, err
	}
	t := table{
		title: "More keys than memory",
		note: fmt.Sprintf("Unbounded source, --memory=%s, LOOPBACK worker. Groups wait in the global window for the end of the input; "+
			"with state, each key's value is read and written with both of its records; the same is done as a batch, with a bounded source, which has the state of a few keys at a time. "+
			"× is how many times as fast that is. Memory is the runner process's VmHWM; more than %.1f × the budget fails.",
			mebibytes(o.stateMemory), overBudget),
		text: 1,
		head: []string{"keys in", "records", "keys", "wall", "×", "runner CPU", "worker CPU", "peak memory", "÷ budget", "passed"},
	}
	var failures []error
	var streamed time.Duration // the case before, which is the same pipeline
	for _, c := range []stateCase{
		{"groups", "group", o.stateKeys, false}, {"user state", "state", o.userKeys, false}, {"user state, as a batch", "state", o.userKeys, true},
	} {
		m, err := w.stateOnce(ctx, o, c)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if most := int64(overBudget * float64(o.stateMemory)); err == nil && m.peak > most {
			err = fmt.Errorf("the runner had %s of memory, at most %s is allowed", mebibytes(m.peak), mebibytes(most))
		}
		if err != nil {
			failures = append(failures, fmt.Errorf("streaming state, %s: %w", c.name, err))
		}
		w.note(m)
		fmt.Fprintf(os.Stderr, "%-36s %s  passed: %s\n", c.name, m, verdict(err))
		faster := ""
		if c.bounded && m.wall > 0 {
			faster = fmt.Sprintf("%.2f", quotient(streamed, m.wall))
		}
		streamed = m.wall
		t.rows = append(t.rows, []string{c.name, short(c.records(), ""), short(c.keys, ""), seconds(m.wall), faster, seconds(m.runner),
			seconds(m.worker), mebibytes(m.peak), ratio(m.peak, o.stateMemory), verdict(err)})
	}
	return []table{t}, errors.Join(failures...)
}

// A stateCase is a job that remembers many keys.
type stateCase struct {
	name, do string
	keys     int64
	bounded  bool
}

func (c stateCase) records() int64 { return 2 * c.keys }

func (w *workshop) stateOnce(ctx context.Context, o *options, c stateCase) (measurement, error) {
	s, err := w.start(ctx, trestleName, setting{flags: []string{fmt.Sprintf("--memory=%d", o.stateMemory)}})
	if err != nil {
		return measurement{}, err
	}
	defer s.close()
	ctx, cancel := context.WithTimeoutCause(ctx, 4*o.timeout, fmt.Errorf("longer than %s", 4*o.timeout))
	defer cancel()
	m, err := onServer(ctx, s, w.keysJob(s, c.do, c.records(), c.keys, c.bounded), true)
	if err != nil {
		// The memory of a runner that failed is told, too, if it still lives.
		m.peak, _ = s.peak()
	}
	return m, err
}

// keysJob is the command of a job of bench/keys.
func (w *workshop) keysJob(s *server, do string, records, keys int64, bounded bool) *exec.Cmd {
	return exec.Command(w.client("keys"), "--runner=universal", "--environment_type=LOOPBACK", "--endpoint="+s.endpoint,
		"--do="+do, fmt.Sprintf("--records=%d", records), fmt.Sprintf("--keys=%d", keys), fmt.Sprintf("--bounded=%v", bounded))
}
