package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A job is one case at one size, done by each of its runners in turn.
type job struct {
	name     string // of the case, as -only has it
	size     string // as the table has it
	records  int64
	loopback bool // the client is the worker
	runners  []string
	flags    []string // of trestle serve
	once     bool     // long enough that one run is as good as several
	// beside is the CPU that what the job needs has taken so far, such as a broker;
	// nil if it needs nothing.
	beside func() (time.Duration, error)

	// client makes the client's command. A warm-up is the same job over few
	// records. For a runner that is no server, s is nil.
	client func(s *server, warmUp bool) (*exec.Cmd, error)
	// check looks at the results of one run; nil if the job checks itself.
	check func() error
}

func (j *job) String() string { return j.name + " " + j.size }

// A result is what all runs of one job on one runner gave.
type result struct {
	job    *job
	runner string
	runs   []measurement
	err    error // of the run that failed; no more were tried
}

func (r *result) median() measurement { return median(r.runs) }

// A comparison is jobs and the table of their results.
type comparison struct {
	jobs func(context.Context, *workshop, *options) ([]*job, error)
	show func([]result) table
}

// compare runs every chosen case and makes the tables.
func compare(ctx context.Context, w *workshop, o *options) ([]table, error) {
	return w.compareAll(ctx, o, []comparison{
		{loadJobs, loadTable},
		{wordcountJobs, wordcountTable},
		{smallJobs, smallTable},
		{exchangeJobs, exchangeTable},
		{linearJobs, linearTable},
	})
}

// streaming does the same for streaming jobs.
func streaming(ctx context.Context, w *workshop, o *options) ([]table, error) {
	return w.compareAll(ctx, o, []comparison{{streamJobs, streamTable}, {liveJobs, liveTable}})
}

// compareAll goes on after a failure, so that one broken job costs one row, and
// reports all at the end.
func (w *workshop) compareAll(ctx context.Context, o *options, all []comparison) ([]table, error) {
	for _, p := range o.peers {
		if err := w.ready(ctx, p); err != nil {
			return nil, err
		}
	}
	var tables []table
	var failures []error
	var loads []result
	for _, part := range all {
		jobs, err := part.jobs(ctx, w, o)
		if err != nil {
			return nil, err
		}
		results, err := w.measureAll(ctx, o, jobs)
		if err != nil {
			return nil, err
		}
		if len(results) > 0 {
			tables = append(tables, part.show(results))
		}
		loads = append(loads, results...)
		failures = append(failures, judge(results)...)
	}
	if aims := aimsTable(loads); len(aims.rows) > 0 {
		tables = slices.Insert(tables, 0, aims)
	}
	return tables, errors.Join(failures...)
}

// judge says which failures fail the benchmark: all of Trestle's, and a peer
// that got nothing done.
func judge(results []result) []error {
	var errs []error
	last := map[string]error{}
	worked := map[string]bool{}
	for _, r := range results {
		worked[r.runner] = worked[r.runner] || r.err == nil
		if r.err != nil {
			last[r.runner] = fmt.Errorf("%s on %s: %w", r.job, titles[r.runner], r.err)
			if r.runner == trestleName || r.runner == aloneName {
				errs = append(errs, last[r.runner])
			}
		}
	}
	for _, name := range []string{prismName, flinkName, fnapiName} {
		if last[name] != nil && !worked[name] {
			errs = append(errs, last[name])
		}
	}
	return errs
}

// measureAll measures jobs one after another.
func (w *workshop) measureAll(ctx context.Context, o *options, jobs []*job) ([]result, error) {
	var results []result
	for _, j := range jobs {
		rs, err := w.measure(ctx, o, j)
		if err != nil {
			return nil, err
		}
		results = append(results, rs...)
	}
	return results, nil
}

// measure does a job the wanted number of times on each of its runners, in
// turn. The error is of a runner that doesn't start; that ends all.
func (w *workshop) measure(ctx context.Context, o *options, j *job) ([]result, error) {
	results := make([]result, len(j.runners))
	for i, name := range j.runners {
		results[i] = result{job: j, runner: name}
	}
	runs := o.runs
	if j.once {
		runs = 1
	}
	for range runs {
		for i := range results {
			r := &results[i]
			if r.err != nil {
				continue
			}
			m, err := w.once(ctx, o, j, r.runner)
			var broken *startError
			if errors.As(err, &broken) {
				return nil, err
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if err != nil {
				r.err = err
				fmt.Fprintf(os.Stderr, "%s on %s: %v\n", j, titles[r.runner], err)
				continue
			}
			r.runs = append(r.runs, m)
			w.note(m)
			fmt.Fprintf(os.Stderr, "%-28s %-12s %s\n", j, titles[r.runner], m)
		}
	}
	return results, nil
}

// A startError is a runner that doesn't come up.
type startError struct{ error }

func (e *startError) Unwrap() error { return e.error }

// once starts a runner, warms it, and measures one run.
func (w *workshop) once(ctx context.Context, o *options, j *job, runner string) (measurement, error) {
	if !isServer(runner) {
		return w.onceAlone(ctx, o, j, runner)
	}
	s, err := w.start(ctx, runner, setting{flags: j.flags, profile: o.profile != ""})
	if err != nil {
		return measurement{}, &startError{err}
	}
	defer s.close()
	if _, err := w.serve(ctx, o, j, s, true); err != nil {
		return measurement{}, fmt.Errorf("warm-up: %w", err)
	}
	m, err := w.serve(ctx, o, j, s, false)
	if err != nil {
		return m, err
	}
	if j.check != nil {
		if err := j.check(); err != nil {
			return m, err
		}
	}
	if o.profile != "" && runner == trestleName {
		err = w.profiled(ctx, o, j, s, m.wall)
	}
	return m, err
}

func (w *workshop) serve(ctx context.Context, o *options, j *job, s *server, warmUp bool) (measurement, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, o.timeout, fmt.Errorf("longer than %s", o.timeout))
	defer cancel()
	cmd, err := j.client(s, warmUp)
	if err != nil {
		return measurement{}, err
	}
	return j.beneath(func() (measurement, error) { return onServer(ctx, s, cmd, j.loopback) })
}

// beneath measures, and counts what the job needs beside runner and worker as
// the job's, not as others'.
func (j *job) beneath(measure func() (measurement, error)) (measurement, error) {
	if j.beside == nil {
		return measure()
	}
	before, err := j.beside()
	if err != nil {
		return measurement{}, err
	}
	m, err := measure()
	if err != nil {
		return m, err
	}
	after, err := j.beside()
	m.beside = after - before
	m.others = max(0, m.others-m.beside)
	return m, err
}

// onceAlone measures a client without a server: its own runner, or none at all.
func (w *workshop) onceAlone(ctx context.Context, o *options, j *job, runner string) (measurement, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, o.timeout, fmt.Errorf("longer than %s", o.timeout))
	defer cancel()
	cmd, err := j.client(nil, false)
	if err != nil {
		return measurement{}, err
	}
	m, err := j.beneath(func() (measurement, error) { return alone(ctx, cmd) })
	if runner == aloneName {
		m.worker, m.runner = m.runner+m.worker, 0
	}
	if err == nil && j.check != nil {
		err = j.check()
	}
	return m, err
}

// profiled runs the job once more, unmeasured, while it reads a profile that
// is as long as the measured run was.
func (w *workshop) profiled(ctx context.Context, o *options, j *job, s *server, length time.Duration) error {
	if err := os.MkdirAll(o.profile, 0o755); err != nil {
		return err
	}
	name := strings.Join(strings.FieldsFunc(j.String(), func(r rune) bool { return r == ' ' || r == '×' }), "-")
	file := filepath.Join(o.profile, name+".pprof")
	done := make(chan error, 1)
	go func() { done <- recordProfile(ctx, s.web, file, length) }() // waited for below
	_, err := w.serve(ctx, o, j, s, false)
	return errors.Join(err, <-done)
}

// without is the list of all runners of a case but those that were not asked
// for.
func without(o *options, runners ...string) []string {
	return slices.DeleteFunc(runners, func(n string) bool {
		return n != trestleName && !slices.Contains(o.peers, n)
	})
}
