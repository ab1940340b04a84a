package itests

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
)

// A drainer watches a server's jobs, and drains each that has a transform of a
// certain name, some time after it has begun to run.
type drainer struct {
	client jobpb.JobServiceClient
	named  string
	after  time.Duration

	mu    sync.Mutex
	since map[string]time.Time // when a job was first seen to run
	asked []string
}

// drainJobs drains jobs until the test ends. The result tells which were asked
// to.
func drainJobs(t *testing.T, s server, named string, after time.Duration) *drainer {
	t.Helper()
	d := &drainer{client: jobpb.NewJobServiceClient(dial(t, s.Job)), named: named, after: after, since: map[string]time.Time{}}
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
		if began := d.since[id]; began.IsZero() || time.Since(began) < d.after {
			continue
		}
		if _, err := d.client.Drain(ctx, &jobpb.DrainJobRequest{JobId: id}); err == nil {
			d.asked = append(d.asked, id)
		}
	}
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
