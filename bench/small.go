package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"time"
)

// smallJobs submit one small job after the other from one client. The time of
// each is the client's own measurement, from the pipeline to its result.
func smallJobs(ctx context.Context, w *workshop, o *options) ([]*job, error) {
	if !o.wants("small") {
		return nil, nil
	}
	if err := w.build(ctx, w.client("small"), "./bench/small"); err != nil {
		return nil, err
	}
	var jobs []*job
	for _, shape := range []string{"pardo", "count"} {
		jobs = append(jobs, &job{
			name: "small", size: shape, records: int64(o.smallN), loopback: true,
			runners: without(o, trestleName, prismName, flinkName),
			client: func(s *server, warmUp bool) (*exec.Cmd, error) {
				n := o.smallN
				if warmUp {
					n = min(n, 5)
				}
				return exec.Command(w.client("small"), "--runner=universal", "--environment_type=LOOPBACK",
					"--endpoint="+s.endpoint, "--shape="+shape, fmt.Sprintf("--n=%d", n)), nil
			},
		})
	}
	return jobs, nil
}

// smallTimes are the times of all small jobs of a result.
func smallTimes(r result) ([]time.Duration, error) {
	var all []time.Duration
	for _, m := range r.runs {
		var times []time.Duration
		if err := json.Unmarshal(m.stdout, &times); err != nil {
			return nil, fmt.Errorf("small job's client: %w", err)
		}
		all = append(all, times...)
	}
	return all, nil
}
