package main

import (
	"context"
	"fmt"
	"os/exec"
)

// exchangeModes are the ways in which Trestle can hand data from stage to
// stage.
var exchangeModes = []string{"all-blocking", "pointwise-pipelined", "all-pipelined"}

// exchangeJobs run a pipeline of two environments on Trestle, once with each
// exchange mode: elements are made in one, cross to the other element by
// element, and are grouped there.
func exchangeJobs(ctx context.Context, w *workshop, o *options) ([]*job, error) {
	if !o.wants("exchange") {
		return nil, nil
	}
	if err := w.build(ctx, w.client("twoenv"), "./bench/twoenv"); err != nil {
		return nil, err
	}
	records := o.sizes[len(o.sizes)-1]
	var jobs []*job
	for _, mode := range exchangeModes {
		jobs = append(jobs, &job{
			name: "exchange", size: mode, records: records, loopback: true,
			runners: []string{trestleName},
			flags:   []string{"--exchange-mode=" + mode},
			client: func(s *server, warmUp bool) (*exec.Cmd, error) {
				n := records
				if warmUp {
					n = min(n, warmRecords)
				}
				return exec.Command(w.client("twoenv"), "--endpoint="+s.endpoint, fmt.Sprintf("--records=%d", n)), nil
			},
		})
	}
	return jobs, nil
}
