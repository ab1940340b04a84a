package main

import (
	"context"
	"os/exec"
)

// streamJobs show what streaming costs: elements into windows by key, which end
// one after another, beside Prism; and one pipeline with user state, once with
// an unbounded source and once with a bounded one.
func streamJobs(ctx context.Context, w *workshop, o *options) ([]*job, error) {
	if !o.wants("stream") {
		return nil, nil
	}
	if err := w.build(ctx, w.client("keys"), "./bench/keys"); err != nil {
		return nil, err
	}
	var jobs []*job
	for _, c := range []struct {
		size, do string
		bounded  bool
		runners  []string
	}{
		{"windows", "windows", false, without(o, trestleName, prismName)},
		{"state, unbounded", "state", false, without(o, trestleName, prismName)},
		{"state, bounded", "state", true, without(o, trestleName, prismName)},
	} {
		records := o.sizes[0]
		keys := max(1, records/100)
		records = keys * 100
		jobs = append(jobs, &job{
			name: "stream", size: c.size, records: records, loopback: true, runners: c.runners,
			client: func(s *server, warmUp bool) (*exec.Cmd, error) {
				n := records
				if warmUp {
					n = min(n, warmRecords)
				}
				return w.keysJob(s, c.do, n/keys*keys, keys, c.bounded), nil
			},
		})
	}
	return jobs, nil
}

func streamTable(results []result) table {
	return costTable(results, table{
		title: "Streaming",
		note: "Records of a key and 16 bytes, 100 of each key, LOOPBACK worker. windows groups them in windows of event time that end while the source runs; " +
			"state reads and writes a value state with every record. Its source is unbounded, and then bounded: the same pipeline as a batch.",
	})
}
