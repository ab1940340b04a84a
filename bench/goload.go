package main

import (
	"context"
	"fmt"
	"os/exec"
)

// warmRecords is how many records warm a runner up.
const warmRecords = 10_000

// A loadTest is one of the Go SDK's own.
type loadTest struct {
	name  string
	flags []string
	two   bool // two inputs
}

var loadTests = []loadTest{
	{name: "pardo", flags: []string{"--iterations=10"}},
	{name: "group_by_key"},
	{name: "combine"},
	{name: "cogbk", two: true},
	{name: "sideinput"},
}

func loadJobs(ctx context.Context, w *workshop, o *options) ([]*job, error) {
	var jobs []*job
	for _, t := range loadTests {
		if !o.wants(t.name) {
			continue
		}
		for _, records := range o.sizes {
			j := w.loadJob(t.name, t.flags, t.two, records)
			j.runners = without(o, trestleName, prismName, flinkName)
			jobs = append(jobs, j)
		}
		if err := w.build(ctx, w.client(t.name), module+"test/load/"+t.name); err != nil {
			return nil, err
		}
	}
	return jobs, nil
}

func (w *workshop) loadJob(name string, flags []string, two bool, records int64) *job {
	size := short(records, "")
	if two {
		size = "2 × " + size
	}
	return &job{
		name: name, size: size, records: records, loopback: true,
		client: func(s *server, warmUp bool) (*exec.Cmd, error) {
			n := records
			if warmUp {
				n = min(n, warmRecords)
			}
			input := fmt.Sprintf(`{"num_records":%d,"key_size":10,"value_size":90}`, n)
			args := append([]string{"--runner=universal", "--environment_type=LOOPBACK",
				"--endpoint=" + s.endpoint, "--input_options=" + input}, flags...)
			if two {
				args = append(args, "--co_input_options="+input)
			}
			return exec.Command(w.client(name), args...), nil
		},
	}
}

// linearJobs group ever more records on Trestle alone.
func linearJobs(ctx context.Context, w *workshop, o *options) ([]*job, error) {
	if !o.wants("linear") {
		return nil, nil
	}
	const test = "group_by_key"
	if err := w.build(ctx, w.client(test), module+"test/load/"+test); err != nil {
		return nil, err
	}
	var jobs []*job
	for _, records := range o.linear {
		j := w.loadJob(test, nil, false, records)
		j.name, j.runners, j.once = "linear", []string{trestleName}, true
		jobs = append(jobs, j)
	}
	return jobs, nil
}
