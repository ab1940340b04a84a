package itests

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	"google.golang.org/protobuf/encoding/protowire"
)

// A drainer watches a server's jobs, and drains each that has a transform of a
// certain name, some time after it has begun to run.
type drainer struct {
	client jobpb.JobServiceClient
	named  string
	after  time.Duration
	// counter, if set, must have come to more than least before.
	counter string
	least   int64

	mu    sync.Mutex
	since map[string]time.Time // when a job was first seen to run
	asked []string
}

// drainJobs drains jobs until the test ends, some time after they have begun.
// The result tells which were asked to.
func drainJobs(t *testing.T, s server, named string, after time.Duration) *drainer {
	t.Helper()
	return (&drainer{named: named, after: after}).begin(t, s)
}

// drainCounting drains jobs when a counter of theirs has come to more than least.
func drainCounting(t *testing.T, s server, named, counter string, least int64) *drainer {
	t.Helper()
	return (&drainer{named: named, counter: counter, least: least}).begin(t, s)
}

func (d *drainer) begin(t *testing.T, s server) *drainer {
	t.Helper()
	d.client, d.since = jobpb.NewJobServiceClient(dial(t, s.Job)), map[string]time.Time{}
	ctx, stop := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				d.look(ctx)
			case <-ctx.Done():
				return
			}
		}
	})
	t.Cleanup(func() {
		stop()
		done.Wait()
	})
	return d
}

// look drains what is due. What fails is tried again.
func (d *drainer) look(ctx context.Context) {
	all, err := d.client.GetJobs(ctx, &jobpb.GetJobsRequest{})
	if err != nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, j := range all.GetJobInfo() {
		if j.GetState() != jobpb.JobState_RUNNING {
			continue
		}
		id := j.GetJobId()
		if d.since[id].IsZero() && d.has(ctx, id) {
			d.since[id] = time.Now()
		}
		if began := d.since[id]; began.IsZero() || time.Since(began) < d.after || !d.counted(ctx, id) {
			continue
		}
		if _, err := d.client.Drain(ctx, &jobpb.DrainJobRequest{JobId: id}); err == nil {
			d.asked = append(d.asked, id)
		}
	}
}

// counted reports whether the job's counter has come far enough.
func (d *drainer) counted(ctx context.Context, id string) bool {
	if d.counter == "" {
		return true
	}
	m, err := d.client.GetJobMetrics(ctx, &jobpb.GetJobMetricsRequest{JobId: id})
	if err != nil {
		return false
	}
	sum := int64(0)
	for _, info := range m.GetMetrics().GetAttempted() {
		if info.GetLabels()["NAME"] == d.counter {
			n, _ := protowire.ConsumeVarint(info.GetPayload())
			sum += int64(n)
		}
	}
	return sum > d.least
}

func (d *drainer) has(ctx context.Context, id string) bool {
	p, err := d.client.GetPipeline(ctx, &jobpb.GetJobPipelineRequest{JobId: id})
	if err != nil {
		return false
	}
	for _, t := range p.GetPipeline().GetComponents().GetTransforms() {
		if strings.Contains(t.GetUniqueName(), d.named) {
			return true
		}
	}
	return false
}

// mustHaveDrained checks that one job was drained, and has come to its end.
func (d *drainer) mustHaveDrained(t *testing.T) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.asked) == 0 {
		t.Errorf("no job with a transform %q was there to be drained", d.named)
	}
	for _, id := range d.asked {
		st, err := d.client.GetState(t.Context(), &jobpb.GetJobStateRequest{JobId: id})
		if err != nil || st.GetState() != jobpb.JobState_DRAINED {
			t.Errorf("the job that was drained is %v (%v), not DRAINED", st.GetState(), err)
		}
	}
}
