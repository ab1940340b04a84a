package node

import (
	"net/http"

	"trestle/runner"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

var (
	jobsDesc   = prometheus.NewDesc("trestle_jobs", "Jobs that are remembered, by state.", []string{"state"}, nil)
	tasksDesc  = prometheus.NewDesc("trestle_tasks", "Tasks of jobs that have not ended, by state.", []string{"state"}, nil)
	slotsDesc  = prometheus.NewDesc("trestle_slots", "Slots of the TaskManager.", nil, nil)
	budgetDesc = prometheus.NewDesc("trestle_memory_budget_bytes", "Bytes of the memory budget for data.", nil, nil)
	usedDesc   = prometheus.NewDesc("trestle_memory_used_bytes", "Bytes of the memory budget that are taken.", nil, nil)
	infoDesc   = prometheus.NewDesc("trestle_build_info", "Always 1.", []string{"version"}, nil)
)

// numbers are what Prometheus is told. They are counted when it asks.
type numbers struct{ node *Node }

// Describe names the numbers.
func (c numbers) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{jobsDesc, tasksDesc, slotsDesc, budgetDesc, usedDesc, infoDesc} {
		out <- d
	}
}

// Collect counts.
func (c numbers) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	byState := map[string]int{"RUNNING": 0, "DONE": 0, "FAILED": 0, "CANCELLED": 0}
	var tasks runner.Counts
	for _, j := range c.node.dispatcher.Jobs() {
		byState[string(j.State)]++
		if !j.State.Terminal() {
			tasks.Waiting += j.Tasks.Waiting
			tasks.Running += j.Tasks.Running
			tasks.Finished += j.Tasks.Finished
		}
	}
	for state, count := range byState {
		gauge(jobsDesc, float64(count), state)
	}
	gauge(tasksDesc, float64(tasks.Waiting), "waiting")
	gauge(tasksDesc, float64(tasks.Running), "running")
	gauge(tasksDesc, float64(tasks.Finished), "finished")
	gauge(slotsDesc, float64(c.node.cfg.Slots))
	gauge(budgetDesc, float64(c.node.side.budget.Limit()))
	gauge(usedDesc, float64(c.node.side.budget.Used()))
	gauge(infoDesc, 1, c.node.version)
}

func (n *Node) metricsHandler() http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(numbers{n}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{})
}
