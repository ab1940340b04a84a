package main

import (
	"fmt"
	"slices"
	"time"
)

// The aims that Trestle is held to, as factors. They suppose two cores.
const (
	aimLimit     = 1.3 // wall of a load test ÷ limit, at most
	aimRunnerCPU = 0.4 // runner's CPU ÷ worker's, at most
	aimLinear    = 1.2 // time of one record among most ÷ among fewest, at most
	aimSmall     = 2.0 // small job ÷ Prism's, at most
	aimBatch     = 3.0 // state with an unbounded source ÷ with a bounded one, at least
	aimReplay    = 0.9 // records a second of a counting pipeline ÷ a plain loop's, at least
)

// aimSpeedups are how many times faster than a peer Trestle wants to be at the
// most records measured.
var aimSpeedups = []struct {
	test, peer string
	factor     float64
}{
	{"group_by_key", prismName, 4}, {"group_by_key", flinkName, 2},
	{"pardo", prismName, 1.4}, {"pardo", flinkName, 1.4},
	{"wordcount", fnapiName, 1},
	{windowsJob, prismName, 3},
}

// aimsTable compares what was found with what is aimed at. An aim whose jobs
// did not run is left out.
func aimsTable(results []result) table {
	t := aimsOf()
	row := t.aim
	if v, of := worst(results, func(m measurement) float64 { return quotient(m.wall, m.limit()) }); of != nil {
		row(fmt.Sprintf("every load test's wall time ≤ %.1f × limit", aimLimit), fmt.Sprintf("%.2f at worst (%s)", v, of), v <= aimLimit)
	}
	if v, of := worst(results, func(m measurement) float64 { return quotient(m.runner, m.worker) }); of != nil {
		row(fmt.Sprintf("in load tests, the runner's CPU ≤ %.1f × the worker's", aimRunnerCPU), fmt.Sprintf("%.2f at worst (%s)", v, of), v <= aimRunnerCPU)
	}
	for _, a := range aimSpeedups {
		if v, of := speedup(results, a.test, a.peer); of != nil {
			row(fmt.Sprintf("%s: %.1f × as fast as %s", a.test, a.factor, titles[a.peer]), fmt.Sprintf("%.2f × (%s)", v, of.size), v >= a.factor)
		}
	}
	for _, name := range []string{stateJob, pythonJob} {
		if v, ok := batchAgainstStreaming(results, name); ok {
			row(fmt.Sprintf("%s, bounded: %.1f × as fast as the same unbounded", name, aimBatch), fmt.Sprintf("%.2f ×", v), v >= aimBatch)
		}
	}
	if v, ok := linearity(results); ok {
		row(fmt.Sprintf("time linear in the records: one among most costs ≤ %.1f × one among fewest", aimLinear), fmt.Sprintf("%.2f ×", v), v <= aimLinear)
	}
	if v, ok := smallAgainstPrism(results); ok {
		row(fmt.Sprintf("a small job ≤ %.0f × %s's", aimSmall, titles[prismName]), fmt.Sprintf("%.2f ×", v), v <= aimSmall)
	}
	return t
}

// aimsOf is a table of aims, still empty.
func aimsOf() table {
	return table{
		title: "Aims and what was found",
		text:  1,
		head:  []string{"aim", "found", "reached"},
	}
}

// aim adds one.
func (t *table) aim(aim, found string, reached bool) {
	yes := map[bool]string{true: "yes", false: "no"}[reached]
	t.rows = append(t.rows, []string{aim, found, yes})
}

func quotient(a, b time.Duration) float64 {
	if b == 0 {
		return 0
	}
	return float64(a) / float64(b)
}

// worst is the greatest figure of Trestle's load tests.
func worst(results []result, of func(measurement) float64) (v float64, j *job) {
	for _, r := range results {
		isLoad := slices.ContainsFunc(loadTests, func(t loadTest) bool { return t.name == r.job.name })
		if r.runner != trestleName || r.err != nil || !isLoad {
			continue
		}
		if f := of(r.median()); j == nil || f > v {
			v, j = f, r.job
		}
	}
	return v, j
}

// speedup is a peer's wall time divided by Trestle's, at the greatest size of
// a test that both did.
func speedup(results []result, test, peer string) (v float64, j *job) {
	for _, r := range results {
		if r.job.name != test || r.runner != peer || r.err != nil || j != nil && r.job.records < j.records {
			continue
		}
		if own := find(results, r.job, trestleName); own.wall > 0 {
			v, j = quotient(r.median().wall, own.wall), r.job
		}
	}
	return v, j
}

func linearity(results []result) (float64, bool) {
	var costs []float64 // of one record, in order of size
	for _, r := range results {
		if r.job.name == "linear" && r.err == nil {
			costs = append(costs, float64(r.median().wall)/float64(r.job.records))
		}
	}
	if len(costs) < 2 {
		return 0, false
	}
	return costs[len(costs)-1] / costs[0], true
}

func smallAgainstPrism(results []result) (float64, bool) {
	for _, r := range results {
		if r.job.name != "small" || r.runner != prismName || r.err != nil {
			continue
		}
		times, err := smallTimes(r)
		if own := smallMedian(results, r.job); err == nil && len(times) > 0 && own > 0 {
			return quotient(own, quantile(times, 0.5)), true
		}
	}
	return 0, false
}
