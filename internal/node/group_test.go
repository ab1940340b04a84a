package node

import (
	"context"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"trestle/internal/cluster"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// A process is one node of a group.
type process struct {
	name  string
	ready Ready
	stop  func()
}

// start runs a node until stop is called.
func start(t *testing.T, c Config) *process {
	t.Helper()
	n, err := New(c, "test", quiet)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- n.Run(ctx, func() { close(served) }) }()
	select {
	case <-served:
	case err := <-ended:
		t.Fatalf("%s ended at once: %v", c.Name, err)
	}
	p := &process{name: c.Name, ready: n.Ready()}
	stopped := false
	p.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
	}
	return p
}

// freePorts are n addresses that nobody listens on.
func freePorts(t *testing.T, n int) []string {
	t.Helper()
	var out []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		out = append(out, l.Addr().String())
	}
	return out
}

// certificates makes those of all names, and tells a Config to use them.
func certificates(t *testing.T, names ...string) func(c *Config) {
	t.Helper()
	dir := t.TempDir()
	life := cluster.ValidFor(time.Hour)
	a, err := cluster.NewAuthority("test", life)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Save(dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		cert, err := a.Node(name, nil, life)
		if err != nil {
			t.Fatal(err)
		}
		if err := cert.Save(dir); err != nil {
			t.Fatal(err)
		}
	}
	return func(c *Config) {
		c.TLSCert, c.TLSKey, c.TLSCA = filepath.Join(dir, c.Name+".crt"), filepath.Join(dir, c.Name+".key"), filepath.Join(dir, "ca.crt")
	}
}

// jobsAt is a client of a job endpoint.
func jobsAt(t *testing.T, addr string) jobpb.JobServiceClient {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return jobpb.NewJobServiceClient(conn)
}

// finish runs a job at one endpoint and sees its end at another.
func finish(t *testing.T, at, seenAt jobpb.JobServiceClient) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	prepared, err := at.Prepare(ctx, &jobpb.PrepareJobRequest{JobName: "nothing", Pipeline: nothing()})
	if err != nil {
		t.Fatal(err)
	}
	run, err := at.Run(ctx, &jobpb.RunJobRequest{PreparationId: prepared.GetPreparationId()})
	if err != nil {
		t.Fatal(err)
	}
	states, err := seenAt.GetStateStream(ctx, &jobpb.GetJobStateRequest{JobId: run.GetJobId()})
	if err != nil {
		t.Fatal(err)
	}
	var last jobpb.JobState_Enum
	for {
		s, err := states.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		last = s.GetState()
	}
	if last != jobpb.JobState_DONE {
		t.Errorf("the job ended %v", last)
	}
	return run.GetJobId()
}

// Three JobManagers and a TaskManager with certificates: any of them takes jobs
// and shows all; when the leader goes the others go on, and know what was.
func TestGroup(t *testing.T) {
	here := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, here) }) // after all clients are closed
	names := []string{"jm1", "jm2", "jm3"}
	secure := certificates(t, append(names, "tm1")...)
	addrs := freePorts(t, len(names))
	var members []string
	for i, name := range names {
		members = append(members, name+"="+addrs[i])
	}
	var managers []*process
	for i, name := range names {
		c := DefaultsOf(JobManager)
		c.Name, c.Data = name, filepath.Join(t.TempDir(), name)
		c.JobAddr, c.WebAddr, c.ClusterAddr = "127.0.0.1:0", "127.0.0.1:0", addrs[i]
		c.Members = strings.Join(members, ",")
		secure(&c)
		p := start(t, c)
		defer p.stop()
		managers = append(managers, p)
	}
	c := DefaultsOf(TaskManager)
	c.Name, c.Data, c.Slots, c.JobManagers = "tm1", filepath.Join(t.TempDir(), "tm1"), 2, addrs[0] // the others it hears of
	c.StopTimeout = 10 * time.Second
	secure(&c)
	worker := start(t, c)
	defer worker.stop()

	first := finish(t, jobsAt(t, managers[0].ready.Job), jobsAt(t, managers[1].ready.Job))
	group := &Config{Name: "jm1"}
	secure(group)
	leader := leaderOf(t, group, addrs)
	var left []*process
	for _, m := range managers {
		if m.name == leader {
			m.stop()
		} else {
			left = append(left, m)
		}
	}
	second := finish(t, jobsAt(t, left[0].ready.Job), jobsAt(t, left[1].ready.Job))
	for _, m := range left {
		all, err := jobsAt(t, m.ready.Job).GetJobs(t.Context(), &jobpb.GetJobsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, j := range all.GetJobInfo() {
			ids = append(ids, fmt.Sprint(j.GetJobId(), " ", j.GetState()))
		}
		if got, want := strings.Join(ids, ", "), fmt.Sprint(first, " DONE, ", second, " DONE"); got != want {
			t.Errorf("%s shows %s, want %s", m.name, got, want)
		}
	}
	if again := leaderOf(t, group, addrs); again == leader || again == "" {
		t.Errorf("%q leads after %q has gone", again, leader)
	}
}

func leaderOf(t *testing.T, c *Config, addrs []string) string {
	t.Helper()
	g, err := OpenGroup(addrs, c.TLSCert, c.TLSKey, c.TLSCA)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s, err := g.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range s.Members {
		if m.Leader {
			return m.Name
		}
	}
	return ""
}
