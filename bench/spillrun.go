package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"trestle/bench/records"
)

// overBudget is how far the runner's memory may go beyond its budget.
const overBudget = 1.1

// spill groups far more data than the runner may hold in memory. The results
// are checked inside the pipeline; here the memory is.
func spill(ctx context.Context, w *workshop, o *options) ([]table, error) {
	if err := w.build(ctx, w.client("spill"), "./bench/spill"); err != nil {
		return nil, err
	}
	t := table{
		title: "More data than memory",
		note: fmt.Sprintf("GroupByKey of incompressible records of %d bytes, --memory=%s, LOOPBACK worker. "+
			"Every byte of every record is checked in the pipeline. Memory is the runner process's VmHWM; more than %.1f × the budget fails.",
			records.Bytes, mebibytes(o.spillMemory), overBudget),
		text: 2,
		head: []string{"job", "slots", "records", "groups", "wall", "runner CPU", "worker CPU", "peak memory", "÷ budget", "passed"},
	}
	many, hot := o.spillBytes/records.Bytes, o.hotBytes/records.Bytes
	var failures []error
	for _, c := range []spillCase{
		{"four records a key", "", many, max(1, many/4)},
		{"four records a key", "1", many, max(1, many/4)},
		{"one key", "", hot, 1},
	} {
		m, err := w.spillOnce(ctx, o, c)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if most := int64(overBudget * float64(o.spillMemory)); err == nil && m.peak > most {
			err = fmt.Errorf("the runner had %s of memory, at most %s is allowed", mebibytes(m.peak), mebibytes(most))
		}
		if err != nil {
			failures = append(failures, fmt.Errorf("spill, %s: %w", c, err))
		}
		w.note(m)
		fmt.Fprintf(os.Stderr, "%-36s %s  passed: %s\n", c, m, verdict(err))
		t.rows = append(t.rows, []string{c.name, c.slotsText(), short(c.records, ""), short(c.keys, ""),
			seconds(m.wall), seconds(m.runner), seconds(m.worker), mebibytes(m.peak), ratio(m.peak, o.spillMemory), verdict(err)})
	}
	return []table{t}, errors.Join(failures...)
}

// A spillCase is one job that must not need more memory than there is.
type spillCase struct {
	name    string
	slots   string // "": as many as there are cores
	records int64
	keys    int64
}

func (c spillCase) slotsText() string {
	if c.slots == "" {
		return "all cores"
	}
	return c.slots
}

func (c spillCase) String() string { return fmt.Sprintf("%s, slots: %s", c.name, c.slotsText()) }

func (w *workshop) spillOnce(ctx context.Context, o *options, c spillCase) (measurement, error) {
	flags := []string{fmt.Sprintf("--memory=%d", o.spillMemory)}
	if c.slots != "" {
		flags = append(flags, "--slots="+c.slots)
	}
	s, err := w.start(ctx, trestleName, setting{flags: flags})
	if err != nil {
		return measurement{}, err
	}
	defer s.close()
	ctx, cancel := context.WithTimeoutCause(ctx, 4*o.timeout, fmt.Errorf("longer than %s", 4*o.timeout))
	defer cancel()
	cmd := exec.Command(w.client("spill"), "--runner=universal", "--environment_type=LOOPBACK", "--endpoint="+s.endpoint,
		fmt.Sprintf("--records=%d", c.records), fmt.Sprintf("--keys=%d", c.keys))
	m, err := onServer(ctx, s, cmd, true)
	if err != nil {
		// The memory of a runner that failed is told, too, if it still lives.
		m.peak, _ = s.peak()
	}
	return m, err
}

func verdict(err error) string {
	if err != nil {
		return "no"
	}
	return "yes"
}

func mebibytes(n int64) string { return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20)) }
