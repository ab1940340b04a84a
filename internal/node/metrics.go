package node

import (
	"net/http"
	"slices"

	"trestle/raftmeta/catalog"
	"trestle/runner"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// A number is one family of what Prometheus is told.
type number struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	// value is asked for each value of the label, or once if there is no label.
	labels []string
	value  func(s *sample) []float64
}

// A sample is what is counted once for all numbers.
type sample struct {
	node  *Node
	jobs  map[catalog.JobState]int
	tasks runner.Counts // of jobs that have not ended
}

var jobStates = []catalog.JobState{catalog.Starting, catalog.Running, catalog.Draining, catalog.Cancelling, catalog.Done, catalog.Drained, catalog.Failed, catalog.Cancelled}

func gauge(name, help string, value func(s *sample) float64) number {
	return number{desc: prometheus.NewDesc(name, help, nil, nil), kind: prometheus.GaugeValue, value: func(s *sample) []float64 { return []float64{value(s)} }}
}

func counter(name, help string, value func(s *sample) float64) number {
	n := gauge(name, help, value)
	n.kind = prometheus.CounterValue
	return n
}

func labelled(n number, name, help, label string, labels []string, values func(s *sample) []float64) number {
	n.desc, n.labels, n.value = prometheus.NewDesc(name, help, []string{label}, nil), labels, values
	return n
}

// jobNumbers, taskNumbers and commonNumbers are all that Prometheus is told of
// a JobManager, a TaskManager and either. They are counted when it asks.
var jobNumbers = []number{
	labelled(number{kind: prometheus.GaugeValue}, "trestle_jobs", "Jobs that are remembered, by state.", "state", stateNames(),
		func(s *sample) (out []float64) {
			for _, st := range jobStates {
				out = append(out, float64(s.jobs[st]))
			}
			return out
		}),
	labelled(number{kind: prometheus.GaugeValue}, "trestle_tasks", "Tasks of jobs that have not ended, by state.", "state", []string{"waiting", "running", "finished"},
		func(s *sample) []float64 {
			return []float64{float64(s.tasks.Waiting), float64(s.tasks.Running), float64(s.tasks.Finished)}
		}),
	counter("trestle_journal_appends_total", "Batches of decisions that were written to the log, by whichever JobManager.",
		func(s *sample) float64 { return float64(s.node.raft.Status().AppliedBatches) }),
	counter("trestle_journal_records_total", "Records of the log of decisions.",
		func(s *sample) float64 { return float64(s.node.raft.Status().AppliedRecords) }),
	counter("trestle_log_entries_total", "Entries that this JobManager wrote to its copy of the log, those of the group itself among them.",
		func(s *sample) float64 { return float64(s.node.raft.Status().Stored) }),
	counter("trestle_log_syncs_total", "Times that this JobManager waited for its disk, for entries and votes.",
		func(s *sample) float64 { return float64(s.node.raft.Status().Syncs) }),
	gauge("trestle_leader", "1 on the JobManager that leads.",
		func(s *sample) float64 {
			if s.node.lead.leading() != nil {
				return 1
			}
			return 0
		}),
}

var taskNumbers = []number{
	labelled(number{kind: prometheus.CounterValue}, "trestle_tasks_ended_total", "Tasks that have ended since the start, by how.", "how", []string{"finished", "failed"},
		func(s *sample) []float64 {
			t := s.node.side.TaskManager.Totals()
			return []float64{float64(t.TasksFinished), float64(t.TasksFailed)}
		}),
	counter("trestle_bundles_total", "Bundles that workers have processed and that were committed.",
		func(s *sample) float64 { return float64(s.node.side.TaskManager.Totals().Bundles) }),
	labelled(number{kind: prometheus.CounterValue}, "trestle_elements_total", "Elements that bundles were given (in) and have written (out).", "direction", []string{"in", "out"},
		func(s *sample) []float64 {
			t := s.node.side.TaskManager.Totals()
			return []float64{float64(t.InElements), float64(t.OutElements)}
		}),
	labelled(number{kind: prometheus.CounterValue}, "trestle_bytes_total", "Bytes that bundles were given (in) and have written (out).", "direction", []string{"in", "out"},
		func(s *sample) []float64 {
			t := s.node.side.TaskManager.Totals()
			return []float64{float64(t.InBytes), float64(t.OutBytes)}
		}),
	gauge("trestle_slots", "Slots of the TaskManager.",
		func(s *sample) float64 { return float64(s.node.cfg.Slots) }),
	gauge("trestle_workers", "SDK workers that are connected.",
		func(s *sample) float64 { return float64(s.node.side.server.Workers()) }),
	gauge("trestle_memory_budget_bytes", "Bytes of memory that there are for data.",
		func(s *sample) float64 { return float64(s.node.side.budget.Limit()) }),
	gauge("trestle_memory_used_bytes", "Bytes of memory for data that are taken.",
		func(s *sample) float64 { return float64(s.node.side.budget.Used()) }),
	counter("trestle_spilled_bytes_total", "Bytes of data that were written to disk for want of memory.",
		func(s *sample) float64 { return float64(s.node.side.budget.SpilledBytes()) }),
}

var commonNumbers = []number{
	counter("trestle_messages_lost_total", "Messages of jobs that came faster than they could be written.",
		func(s *sample) float64 { return float64(s.node.mail.lostInAll.Load()) }),
}

func stateNames() []string {
	names := make([]string, len(jobStates))
	for i, s := range jobStates {
		names[i] = string(s)
	}
	return names
}

// collector tells the numbers of one node.
type collector struct {
	node    *Node
	numbers []number
}

// Describe names the numbers.
func (c collector) Describe(out chan<- *prometheus.Desc) {
	for _, n := range c.numbers {
		out <- n.desc
	}
}

// Collect counts.
func (c collector) Collect(out chan<- prometheus.Metric) {
	s := &sample{node: c.node, jobs: map[catalog.JobState]int{}}
	for _, j := range c.node.summaries() {
		s.jobs[j.State]++
		if !j.State.Terminal() {
			s.tasks.Waiting += j.Tasks.Waiting
			s.tasks.Running += j.Tasks.Running
			s.tasks.Finished += j.Tasks.Finished
		}
	}
	for _, n := range c.numbers {
		for i, v := range n.value(s) {
			var labels []string
			if n.labels != nil {
				labels = n.labels[i : i+1]
			}
			out <- prometheus.MustNewConstMetric(n.desc, n.kind, v, labels...)
		}
	}
}

func (n *Node) metricsHandler() http.Handler {
	r := prometheus.NewRegistry()
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "trestle_build_info", Help: "Always 1."}, []string{"version"})
	build.WithLabelValues(n.version).Set(1)
	numbers := slices.Clone(commonNumbers)
	if n.is(JobManager) {
		numbers = append(numbers, jobNumbers...)
	}
	if n.is(TaskManager) {
		numbers = append(numbers, taskNumbers...)
	}
	r.MustRegister(collector{n, numbers}, build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{})
}

// summaries are the jobs that this process knows of.
func (n *Node) summaries() []runner.Summary {
	if n.board == nil {
		return nil
	}
	return n.board.Jobs()
}
