package itests

import (
	"context"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
)

// TestClientGone kills a client in whose process the workers of a streaming job
// live, while the job has nothing to do. The job fails within seconds, and gives
// its slots back.
func TestClientGone(t *testing.T) {
	need(t, "behaviour")
	s := serve(t)
	jobs := jobpb.NewJobServiceClient(dial(t, s.Job))
	client := exec.CommandContext(t.Context(), python(t), absolute(t, "python/idle_client.py"),
		"--runner=PortableRunner", "--job_endpoint="+s.Job, "--environment_type=LOOPBACK", "--streaming")
	client.Dir = t.TempDir()
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = client.Process.Kill(), client.Wait() }()
	id := awaitState(t, jobs, jobpb.JobState_RUNNING, time.Minute)
	awaitIdle(t, s, id)
	if err := client.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	awaitState(t, jobs, jobpb.JobState_FAILED, 20*time.Second)
	said, err := exec.CommandContext(t.Context(), *binary, "job", id, "--web-addr="+s.Web).CombinedOutput()
	if err != nil || !strings.Contains(string(said), "the client's own worker (LOOPBACK") {
		t.Errorf("the job doesn't say why it failed: %v %s", err, said)
	}
}

// awaitIdle waits until a job's source has made what there is for now, and waits
// for the next: its watermark is that time, minutes ahead.
func awaitIdle(t *testing.T, s server, id string) {
	t.Helper()
	for began := time.Now(); time.Since(began) < time.Minute; time.Sleep(100 * time.Millisecond) {
		var job struct {
			Stages []struct {
				Root       string
				Watermarks struct{ Output string }
			}
		}
		getJSON(t, s, "/api/v1/jobs/"+id, &job)
		for _, st := range job.Stages {
			millis, err := strconv.ParseInt(st.Watermarks.Output, 10, 64)
			if st.Root == "restrictions" && err == nil && time.Until(time.UnixMilli(millis)) > time.Minute {
				return
			}
		}
	}
	t.Fatal("the job's source doesn't wait")
}

// awaitState waits until the one job there is has come to a state, and tells its
// id.
func awaitState(t *testing.T, jobs jobpb.JobServiceClient, want jobpb.JobState_Enum, limit time.Duration) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		all, err := jobs.GetJobs(ctx, &jobpb.GetJobsRequest{})
		if err == nil && len(all.GetJobInfo()) == 1 && all.GetJobInfo()[0].GetState() == want {
			return all.GetJobInfo()[0].GetJobId()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("the job is not %s after %s: %v %v", want, limit, all, err)
		}
	}
}
