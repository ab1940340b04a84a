package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"trestle/itests/fleet"
	"trestle/itests/jobs"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
)

// The job that failures are measured with: most of its time it sleeps, so that
// what is measured is what has to be done again, and not the machine.
const (
	failoverElements = 1200
	failoverSleep    = 60 * time.Second // over all elements and steps
	failoverHosts    = 3                // JobManagers, and as many TaskManagers of two slots
)

// failover measures what the end of processes costs a job: a leader's, and
// TaskManagers' again and again.
func failover(ctx context.Context, w *workshop, o *options) ([]table, error) {
	if err := w.build(ctx, w.client("failover"), "./itests/worker"); err != nil {
		return nil, err
	}
	leaders := table{
		title: "A leader that dies",
		note: fmt.Sprintf("Three JobManagers and three TaskManagers of two slots, each on a host of its own. A job of five regions over %d elements, "+
			"PROCESS workers in Go; results are compared with what must come out. The leader is killed by SIGKILL at a part of the job's usual time. "+
			"Done again is counted by the pipeline's functions outside of Trestle. From zero: at that time the job is cancelled and submitted again.",
			failoverElements),
		text: 1,
		head: []string{"leader killed at", "job", "× undisturbed", "another leads after", "elements done again", "the same, started from zero", "× undisturbed"},
	}
	managers := table{
		title: "TaskManagers that die again and again",
		note: "The same job. Every so often a TaskManager's host loses its power and its disk, and comes back empty. By region: what was lost and what had read it " +
			"runs again. Whole: the job is cancelled and submitted again each time. Blob: what tasks have written is in an object store.",
		text: 2,
		head: []string{"a TaskManager dies every", "what runs again", "job", "× undisturbed", "died", "elements done again"},
	}
	b, err := newFailoverBench(ctx, w, fleet.Config{JobManagers: failoverHosts, TaskManagers: failoverHosts})
	if err != nil {
		return nil, err
	}
	defer b.close()
	log, err := b.leaders(ctx, o, &leaders)
	if err != nil {
		return nil, err
	}
	if err := b.managers(ctx, "by region, disk", &managers); err != nil {
		return nil, err
	}
	if err := b.wholes(ctx, &managers); err != nil {
		return nil, err
	}
	blob, err := newFailoverBench(ctx, w, fleet.Config{JobManagers: failoverHosts, TaskManagers: failoverHosts, Blob: true})
	if err != nil {
		return nil, err
	}
	defer blob.close()
	blob.usual = b.usual
	err = blob.managers(ctx, "by region, blob", &managers)
	return []table{leaders, managers, log}, err
}

// A failoverBench is a fleet with jobs to be disturbed.
type failoverBench struct {
	*fleet.Fleet
	dir    string
	worker string
	jobs   int
	usual  time.Duration // of the job when nothing happens
}

func newFailoverBench(ctx context.Context, w *workshop, cfg fleet.Config) (*failoverBench, error) {
	dir, err := os.MkdirTemp(w.scratch, "failover-")
	if err != nil {
		return nil, err
	}
	cfg.Trestle, cfg.Dir, cfg.TaskSize = w.trestle, dir, "8KiB"
	f, err := fleet.New(cfg)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	b := &failoverBench{Fleet: f, dir: dir, worker: w.client("failover")}
	if err := f.Start(ctx); err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

func (b *failoverBench) close() {
	if err := errors.Join(b.Close(), os.RemoveAll(b.dir)); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
}

// A disturbed job is one that runs while things happen.
type disturbed struct {
	b     *failoverBench
	shape jobs.Shape
	id    string
	at    *fleet.Node // its client's
	began time.Time
	ended chan error
}

// begin submits the job at a node and follows it there.
func (b *failoverBench) begin(ctx context.Context, at *fleet.Node) (*disturbed, error) {
	b.jobs++
	d := &disturbed{b: b, at: at, ended: make(chan error, 1), shape: jobs.Shape{
		Dir:       filepath.Join(b.dir, fmt.Sprintf("job-%d", b.jobs)),
		Elements:  failoverElements,
		FirstKeys: 120, SecondKeys: 120, Splits: 2 * failoverHosts,
		Pause: failoverSleep / failoverElements / time.Duration(len(jobs.Steps)),
	}}
	if err := os.Mkdir(d.shape.Dir, 0o700); err != nil {
		return nil, err
	}
	boot, err := jobs.Boot(d.shape.Dir, b.worker)
	if err != nil {
		return nil, err
	}
	p, err := d.shape.Proto(ctx, boot)
	if err != nil {
		return nil, err
	}
	c, err := at.Dial()
	if err != nil {
		return nil, err
	}
	d.began = time.Now()
	if d.id, err = c.Submit(ctx, filepath.Base(d.shape.Dir), p, "restart_attempts=100"); err != nil {
		c.Close()
		return nil, err
	}
	go func() { // ends with the job, or ctx
		defer c.Close()
		state, failure, err := c.Follow(ctx, d.id)
		if err == nil && state != jobpb.JobState_DONE {
			err = fmt.Errorf("job %s ended %s: %w", d.id, state, failure)
		}
		d.ended <- err
	}()
	return d, nil
}

// await waits until a moment of the job, or its end.
func (d *disturbed) await(ctx context.Context, moment time.Duration) (over bool, err error) {
	timer := time.NewTimer(time.Until(d.began.Add(moment)))
	defer timer.Stop()
	select {
	case <-timer.C:
		return false, nil
	case err := <-d.ended:
		d.ended <- err
		return true, err
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// end waits for the job's end and checks its result. It tells how long the job
// took and how many elements were done more than once.
func (d *disturbed) end() (took time.Duration, again int, err error) {
	if err := <-d.ended; err != nil {
		return 0, 0, err
	}
	took = time.Since(d.began)
	if err := d.shape.Check(); err != nil {
		return 0, 0, fmt.Errorf("job %s: %w", d.id, err)
	}
	ran, err := jobs.ReadJournal(d.shape.Dir)
	for _, runs := range ran.Again() {
		again += len(runs)
	}
	return took, again, err
}

// cancel ends the job for good.
func (d *disturbed) cancel(ctx context.Context) error {
	c, err := d.at.Dial()
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Cancel(ctx, &jobpb.CancelJobRequest{JobId: d.id})
	return err
}

// leader is who leads, and one who doesn't.
func (b *failoverBench) leader(ctx context.Context, after uint64) (leader, other *fleet.Node, term uint64, err error) {
	leader, term, err = b.AwaitLeader(ctx, time.Minute, after, b.running())
	if err != nil {
		return nil, nil, 0, err
	}
	i := slices.IndexFunc(b.running(), func(n *fleet.Node) bool { return n != leader })
	return leader, b.running()[i], term, nil
}

func (b *failoverBench) running() []*fleet.Node {
	return slices.DeleteFunc(b.Of(fleet.JobManager), func(n *fleet.Node) bool { return !n.Running() })
}

// leaders fills the table of leaders, and makes one of what was logged for an
// undisturbed job.
func (b *failoverBench) leaders(ctx context.Context, o *options, t *table) (table, error) {
	log, err := b.undisturbed(ctx, o)
	if err != nil {
		return log, err
	}
	t.rows = append(t.rows, []string{"never", seconds(b.usual), "1.00", "", "0", "", ""})
	for _, percent := range []int{25, 50, 75} {
		at := b.usual * time.Duration(percent) / 100
		took, away, again, err := b.withoutLeader(ctx, at)
		if err != nil {
			return log, fmt.Errorf("leader killed at %d %%: %w", percent, err)
		}
		zero, err := b.fromZero(ctx, at)
		if err != nil {
			return log, fmt.Errorf("from zero at %d %%: %w", percent, err)
		}
		fmt.Fprintf(os.Stderr, "leader killed at %d %%: %s, led again after %s, %d elements again; from zero %s\n", percent, took, away, again, zero)
		t.rows = append(t.rows, []string{fmt.Sprintf("%d %%", percent), seconds(took), ratio(took, b.usual), seconds(away),
			fmt.Sprint(again), seconds(zero), ratio(zero, b.usual)})
	}
	return log, nil
}

// undisturbed measures the job's usual time, and what it costs the log.
func (b *failoverBench) undisturbed(ctx context.Context, o *options) (table, error) {
	t := table{
		title: "What a job costs the log",
		note:  "The same job, undisturbed: what was decided, and what the leader and a follower wrote to disk for it.",
		text:  1,
		head:  []string{"", "batches of decisions", "records in them", "entries written", "fsyncs"},
	}
	var all []time.Duration
	for range 1 + o.runs { // the first one's workers are cold
		leader, other, _, err := b.leader(ctx, 0)
		if err != nil {
			return t, err
		}
		before := []map[string]float64{logCounters(ctx, leader), logCounters(ctx, other)}
		d, err := b.begin(ctx, other)
		if err != nil {
			return t, err
		}
		took, _, err := d.end()
		if err != nil {
			return t, err
		}
		fmt.Fprintf(os.Stderr, "undisturbed: %s\n", took)
		all = append(all, took)
		t.rows = nil
		for i, n := range []*fleet.Node{leader, other} {
			row := []string{[]string{"leader", "follower"}[i]}
			now := logCounters(ctx, n)
			for _, name := range logNames {
				row = append(row, fmt.Sprintf("%.0f", now[name]-before[i][name]))
			}
			t.rows = append(t.rows, row)
		}
	}
	all = all[1:]
	slices.Sort(all)
	b.usual = all[len(all)/2]
	return t, nil
}

// logNames are the counters of the log, in the table's order.
var logNames = []string{"trestle_journal_appends_total", "trestle_journal_records_total", "trestle_log_entries_total", "trestle_log_syncs_total"}

// logCounters reads them. What can't be read is zero.
func logCounters(ctx context.Context, n *fleet.Node) map[string]float64 {
	c, err := n.Counters(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
	return c
}

// withoutLeader kills the leader at a moment of the job. away is the time until
// another one led.
func (b *failoverBench) withoutLeader(ctx context.Context, at time.Duration) (took, away time.Duration, again int, err error) {
	leader, other, term, err := b.leader(ctx, 0)
	if err != nil {
		return 0, 0, 0, err
	}
	d, err := b.begin(ctx, other)
	if err != nil {
		return 0, 0, 0, err
	}
	if _, err := d.await(ctx, at); err != nil {
		return 0, 0, 0, err
	}
	killed := time.Now()
	leader.Kill()
	if _, _, _, err := b.leader(ctx, term); err != nil {
		return 0, 0, 0, err
	}
	away = time.Since(killed)
	took, again, err = d.end()
	return took, away, again, errors.Join(err, leader.Restart(ctx))
}

// fromZero cancels the job at a moment and submits it again.
func (b *failoverBench) fromZero(ctx context.Context, at time.Duration) (time.Duration, error) {
	_, other, _, err := b.leader(ctx, 0)
	if err != nil {
		return 0, err
	}
	first, err := b.begin(ctx, other)
	if err != nil {
		return 0, err
	}
	if _, err := first.await(ctx, at); err != nil {
		return 0, err
	}
	if err := first.cancel(ctx); err != nil {
		return 0, err
	}
	second, err := b.begin(ctx, other)
	if err != nil {
		return 0, err
	}
	_, _, err = second.end()
	return time.Since(first.began), err
}
