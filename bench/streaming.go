package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Names of the streaming jobs, which -only knows as stream.
const (
	windowsJob = "windows"
	stateJob   = "state"
	pythonJob  = "state, Python"
	liveJob    = "live"

	unboundedSource = "unbounded"
	boundedSource   = "bounded"
)

// streamJobs show what streaming costs: elements into windows by key, which end
// one after another, beside Prism; and pipelines with user state, each with an
// unbounded source and with a bounded one.
func streamJobs(ctx context.Context, w *workshop, o *options) ([]*job, error) {
	if err := w.build(ctx, w.client("keys"), "./bench/keys"); err != nil {
		return nil, err
	}
	var jobs []*job
	for _, c := range []struct {
		do, size string
		records  int64
	}{
		{windowsJob, unboundedSource, o.sizes[len(o.sizes)-1]},
		{stateJob, unboundedSource, o.sizes[0]},
		{stateJob, boundedSource, o.sizes[0]},
	} {
		keys := max(1, c.records/100)
		records := keys * 100
		jobs = append(jobs, &job{
			name: c.do, size: short(records, "") + ", " + c.size, records: records, loopback: true, runners: without(o, trestleName, prismName),
			client: func(s *server, warmUp bool) (*exec.Cmd, error) {
				if warmUp {
					return w.keysJob(s, c.do, warmRecords, warmRecords/100, c.size == boundedSource), nil
				}
				return w.keysJob(s, c.do, records, keys, c.size == boundedSource), nil
			},
		})
	}
	python, err := w.pythonStateJobs(o)
	return append(jobs, python...), err
}

// pythonStateJobs are the same in Python, whose SDK keeps a key's state for the
// length of a bundle. Its keys come in a random order.
func (w *workshop) pythonStateJobs(o *options) ([]*job, error) {
	if _, err := os.Stat(w.python); err != nil {
		return nil, fmt.Errorf("%w (make bench makes it)", err)
	}
	keys := max(1, o.sizes[len(o.sizes)-1]/100) // the imports, two seconds, are not to count much
	records := keys * 100
	var jobs []*job
	for _, source := range []string{unboundedSource, boundedSource} {
		jobs = append(jobs, &job{
			name: pythonJob, size: short(records, "") + ", " + source, records: records, loopback: true, runners: without(o, trestleName),
			client: func(s *server, warmUp bool) (*exec.Cmd, error) {
				records, keys := records, keys
				if warmUp {
					records, keys = warmRecords, warmRecords/100
				}
				args := []string{
					filepath.Join("bench", "python", "state.py"), "--runner=PortableRunner", "--environment_type=LOOPBACK", "--job_endpoint=" + s.endpoint,
					fmt.Sprintf("--records=%d", records), fmt.Sprintf("--keys=%d", keys),
				}
				if source == unboundedSource {
					args = append(args, "--unbounded")
				}
				return exec.Command(w.python, args...), nil
			},
		})
	}
	return jobs, nil
}

func streamTable(results []result) table {
	return costTable(results, table{
		title: "Streaming",
		note: "Records of a key and 16 bytes, 100 of each key, LOOPBACK worker. windows groups them in windows of event time that end while the source runs; " +
			"state reads and writes a value state with every record. Its source is unbounded, and then bounded: the same pipeline as a batch. Go's SDK makes three requests for each record, " +
			"which the model has no way to spare it; Python's keeps a key's state until its bundle ends, and a batch has all records of a key in one bundle. " +
			"Python's wall time has two seconds of imports in it.",
	})
}

// liveKeys is the number of keys of live records.
const liveKeys = 500

// liveJobs show how late panes come where records come by the clock.
func liveJobs(_ context.Context, w *workshop, o *options) ([]*job, error) {
	length := max(3, min(10, o.sizes[0]/20_000)) // seconds
	var jobs []*job
	for _, rate := range []int64{5000, 20_000} {
		jobs = append(jobs, &job{
			name: liveJob, size: short(rate, "") + " a second", records: rate * length, loopback: true,
			runners: without(o, trestleName, prismName),
			client: func(s *server, warmUp bool) (*exec.Cmd, error) {
				records := rate * length
				if warmUp {
					records = rate
				}
				cmd := w.keysJob(s, liveJob, records, liveKeys, false)
				cmd.Args = append(cmd.Args, fmt.Sprintf("--rate=%d", rate))
				return cmd, nil
			},
		})
	}
	return jobs, nil
}

// delays are how late the panes of a live job came.
type delays struct{ median, most99, most time.Duration }

func delaysOf(m measurement) (d delays, err error) {
	var ms [3]float64
	if _, err = fmt.Sscanf(string(m.stdout), "delays %f %f %f", &ms[0], &ms[1], &ms[2]); err != nil {
		return d, fmt.Errorf("live job's client printed %q: %w", m.stdout, err)
	}
	for i, p := range []*time.Duration{&d.median, &d.most99, &d.most} {
		*p = time.Duration(ms[i] * float64(time.Millisecond))
	}
	return d, nil
}

// medianDelays has the median of each figure of all runs.
func medianDelays(r result) (delays, bool) {
	var all [3][]time.Duration
	for _, m := range r.runs {
		d, err := delaysOf(m)
		if err != nil {
			return delays{}, false
		}
		all[0], all[1], all[2] = append(all[0], d.median), append(all[1], d.most99), append(all[2], d.most)
	}
	if len(all[0]) == 0 {
		return delays{}, false
	}
	return delays{quantile(all[0], 0.5), quantile(all[1], 0.5), quantile(all[2], 0.5)}, true
}

func liveTable(results []result) table {
	t := table{
		title: "How late panes come",
		note: fmt.Sprintf("Records come by the clock, with its time, and are grouped by %d keys in windows of a second. A pane's delay is from the end of its window to the "+
			"beginning of its work behind the grouping. The source looks every 10 ms what is due. Every pane must have all its records.", liveKeys),
		text: 2,
		head: []string{"records", "runner", "median", "×", "99 of 100 below", "×", "latest", "runner CPU", "worker CPU", "peak memory"},
	}
	for _, r := range results {
		d, ok := medianDelays(r)
		if r.err != nil || !ok {
			t.rows = append(t.rows, append([]string{r.job.size, titles[r.runner], "failed"}, make([]string, len(t.head)-3)...))
			continue
		}
		var base delays
		for _, other := range results {
			if other.job == r.job && other.runner == trestleName {
				base, _ = medianDelays(other)
			}
		}
		m, own := r.median(), r.runner == trestleName
		t.rows = append(t.rows, []string{r.job.size, titles[r.runner], millis(d.median), unless(own, ratio(d.median, base.median)),
			millis(d.most99), unless(own, ratio(d.most99, base.most99)), millis(d.most), seconds(m.runner), seconds(m.worker), megabytes(m.peak)})
	}
	return t
}

// batchAgainstStreaming is how many times faster a bounded pipeline with state is
// than the same one unbounded.
func batchAgainstStreaming(results []result, name string) (float64, bool) {
	var batch, streaming time.Duration
	for _, r := range results {
		if r.job.name != name || r.runner != trestleName || r.err != nil {
			continue
		}
		if wall := r.median().wall; strings.HasSuffix(r.job.size, ", "+unboundedSource) {
			streaming = wall
		} else {
			batch = wall
		}
	}
	return quotient(streaming, batch), batch > 0 && streaming > 0
}
