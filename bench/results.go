package main

import (
	"fmt"
	"time"
)

func loadTable(results []result) table {
	return costTable(results, table{
		title: "Go SDK load tests",
		note: "Records of 10 + 90 bytes, LOOPBACK worker, which is the client's process. × is the peer's figure divided by Trestle's: " +
			"above 1 Trestle is better. Limit is the CPU of runner and worker divided by the cores.",
	})
}

func wordcountTable(results []result) table {
	return costTable(results, table{
		title: "Python word count",
		note: fmt.Sprintf("The SDK's own example, PROCESS workers, %d where the runner can have several. Every count is compared with a plain count in Go. "+
			"The limit includes the client's CPU, about 2 seconds of imports. Clients of job services run with the SDK's experiment "+
			"disable_logging_submission_environment: without it they run pip for half a second before they submit, which FnApiRunner's never do.", pythonWorkers),
	})
}

// costTable has a row for each job and runner.
func costTable(results []result, t table) table {
	t.text = 3
	t.head = []string{"job", "size", "runner", "wall", "×", "runner CPU", "×", "worker CPU", "peak memory", "×", "wall ÷ limit", "runner ÷ worker CPU"}
	for _, r := range results {
		if r.err != nil {
			t.rows = append(t.rows, failedRow(r, len(t.head)))
			continue
		}
		m := r.median()
		base := find(results, r.job, trestleName)
		own := r.runner == trestleName
		t.rows = append(t.rows, []string{r.job.name, r.job.size, titles[r.runner],
			seconds(m.wall), unless(own, ratio(m.wall, base.wall)),
			seconds(m.runner), unless(own, ratio(m.runner, base.runner)),
			seconds(m.worker),
			megabytes(m.peak), unless(own, ratio(m.peak, base.peak)),
			ratio(m.wall, m.limit()), ratio(m.runner, m.worker)})
	}
	return t
}

func failedRow(r result, columns int) []string {
	row := make([]string, columns)
	copy(row, []string{r.job.name, r.job.size, titles[r.runner], "failed"})
	return row
}

func unless(own bool, s string) string {
	if own {
		return ""
	}
	return s
}

// find is the median of a runner at a job, zero if there is none.
func find(results []result, j *job, runner string) measurement {
	for _, r := range results {
		if r.job == j && r.runner == runner && r.err == nil {
			return r.median()
		}
	}
	return measurement{}
}

func smallTable(results []result) table {
	t := table{
		title: "Small jobs",
		note: "Time of one job from the pipeline to DONE and its metrics, one client that submits one job after the other. " +
			"pardo is Impulse and one ParDo; count is a count for each of ten keys. Trestle writes its decisions to a durable log, Prism does not.",
		text: 2,
		head: []string{"job", "runner", "median", "×", "nine of ten below", "slowest", "runner CPU of one", "worker CPU of one"},
	}
	for _, r := range results {
		times, err := smallTimes(r)
		if r.err != nil || err != nil || len(times) == 0 {
			row := make([]string, len(t.head))
			copy(row, []string{r.job.size, titles[r.runner], "failed"})
			t.rows = append(t.rows, row)
			continue
		}
		m := r.median()
		each := time.Duration(r.job.records)
		t.rows = append(t.rows, []string{r.job.size, titles[r.runner], millis(quantile(times, 0.5)),
			unless(r.runner == trestleName, ratio(quantile(times, 0.5), smallMedian(results, r.job))),
			millis(quantile(times, 0.9)), millis(quantile(times, 1)), millis(m.runner / each), millis(m.worker / each)})
	}
	return t
}

// smallMedian is Trestle's median time, zero if there is none.
func smallMedian(results []result, j *job) time.Duration {
	for _, r := range results {
		if r.job == j && r.runner == trestleName {
			if times, err := smallTimes(r); err == nil && len(times) > 0 {
				return quantile(times, 0.5)
			}
		}
	}
	return 0
}

func exchangeTable(results []result) table {
	t := table{
		title: "Exchange modes",
		note: "Records of 100 bytes made in one environment, checked in a second one (a pointwise edge) and grouped there (an all-to-all edge). " +
			"Both environments live in the client's process.",
		text: 1,
		head: []string{"mode", "records", "wall", "runner CPU", "worker CPU", "peak memory", "wall ÷ limit"},
	}
	for _, r := range results {
		if r.err != nil {
			t.rows = append(t.rows, []string{r.job.size, short(r.job.records, ""), "failed", "", "", "", ""})
			continue
		}
		m := r.median()
		t.rows = append(t.rows, []string{r.job.size, short(r.job.records, ""), seconds(m.wall), seconds(m.runner),
			seconds(m.worker), megabytes(m.peak), ratio(m.wall, m.limit())})
	}
	return t
}

func linearTable(results []result) table {
	t := table{
		title: "Linearity",
		note:  "group_by_key on Trestle. In time linear in the records, the figures of one record stay as they are.",
		text:  0,
		head:  []string{"records", "wall", "peak memory", "wall of one", "runner CPU of one", "worker CPU of one"},
	}
	for _, r := range results {
		if r.err != nil {
			t.rows = append(t.rows, []string{r.job.size, "failed", "", "", "", ""})
			continue
		}
		m := r.median()
		one := func(d time.Duration) string {
			return fmt.Sprintf("%.2f µs", float64(d.Microseconds())/float64(r.job.records))
		}
		t.rows = append(t.rows, []string{r.job.size, seconds(m.wall), megabytes(m.peak), one(m.wall), one(m.runner), one(m.worker)})
	}
	return t
}
