package node

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strconv"
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
	cfg   Config
	node  *Node
	ready Ready
	stop  func()
}

// start runs a node until stop is called; change may change it before.
func start(t *testing.T, c Config, change ...func(*Node)) *process {
	t.Helper()
	n, err := New(c, "test", quiet)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range change {
		f(n)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- n.Run(ctx, func() { close(served) }) }()
	select {
	case <-served:
	case err := <-ended:
		t.Fatalf("%s ended at once: %v", c.Name, err)
	}
	p := &process{name: c.Name, cfg: c, node: n, ready: n.Ready()}
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

// freePorts are n addresses that nobody listens on. They are none of those that
// the system gives to who dials, which may be taken before they are used.
func freePorts(t *testing.T, n int) []string {
	t.Helper()
	var out []string
	for tries := 0; len(out) < n; tries++ {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(15_000+rand.IntN(15_000))))
		if err != nil && tries < 100 {
			continue
		}
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
	done(t, seenAt, run.GetJobId())
	return run.GetJobId()
}

// done waits until a job has ended well.
func done(t *testing.T, at jobpb.JobServiceClient, job string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	states, err := at.GetStateStream(ctx, &jobpb.GetJobStateRequest{JobId: job})
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
		messages, err := at.GetMessageStream(ctx, &jobpb.JobMessagesRequest{JobId: job})
		for err == nil {
			var m *jobpb.JobMessagesResponse
			m, err = messages.Recv()
			t.Log(m.GetMessageResponse().GetMessageText())
		}
	}
}

// trio are the settings of three JobManagers, jm1 to jm3, and their addresses.
func trio(t *testing.T, change func(*Config)) (configs []Config, addrs []string) {
	t.Helper()
	addrs = freePorts(t, 3)
	var members []string
	for i, addr := range addrs {
		c := DefaultsOf(JobManager)
		c.Name = fmt.Sprint("jm", i+1)
		c.Data = filepath.Join(t.TempDir(), c.Name)
		c.JobAddr, c.WebAddr, c.ClusterAddr = "127.0.0.1:0", "127.0.0.1:0", addr
		members = append(members, c.Name+"="+addr)
		configs = append(configs, c)
	}
	for i := range configs {
		configs[i].Members = strings.Join(members, ",")
		change(&configs[i])
	}
	return configs, addrs
}

// taskManager are the settings of tm1.
func taskManager(t *testing.T, jobManagers []string, change func(*Config)) Config {
	t.Helper()
	c := DefaultsOf(TaskManager)
	c.Name, c.Data, c.Slots, c.JobManagers = "tm1", filepath.Join(t.TempDir(), "tm1"), 2, strings.Join(jobManagers, ",")
	c.StopTimeout = 10 * time.Second
	change(&c)
	return c
}

// open is for processes without certificates.
func open(*Config) {}

// Three JobManagers and a TaskManager with certificates: any of them takes jobs
// and shows all; when the leader goes the others go on, and know what was.
func TestGroup(t *testing.T) {
	here := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, here) }) // after all clients are closed
	secure := certificates(t, "jm1", "jm2", "jm3", "tm1")
	configs, addrs := trio(t, secure)
	var managers []*process
	for _, c := range configs {
		p := start(t, c)
		defer p.stop()
		managers = append(managers, p)
	}
	worker := start(t, taskManager(t, addrs[:1], secure)) // the others it hears of
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

// leaderOf waits until there is one.
func leaderOf(t *testing.T, c *Config, addrs []string) string {
	t.Helper()
	g, err := OpenGroup(addrs, c.TLSCert, c.TLSKey, c.TLSCA)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for { // there may be none for a moment
		s, err := g.Status(ctx)
		if ctx.Err() != nil {
			t.Fatal(err)
		}
		if err != nil {
			continue
		}
		for _, m := range s.Members {
			if m.Leader {
				return m.Name
			}
		}
	}
}
