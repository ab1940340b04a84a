package node

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"trestle/internal/cluster"
	"trestle/raftmeta/catalog"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	"google.golang.org/grpc/status"
)

// cards makes one certificate for each role, and tells a Config to use the one
// of its name.
func cards(t *testing.T) func(c *Config) {
	t.Helper()
	dir := t.TempDir()
	life := cluster.ValidFor(time.Hour)
	a, err := cluster.NewAuthority("test", life)
	if err != nil {
		t.Fatal(err)
	}
	jm, jmErr := a.Node("jm1", nil, life, cluster.JobManager)
	tm, tmErr := a.Node("tm1", nil, life, cluster.TaskManager)
	op, opErr := a.Operator("op", life)
	me, meErr := a.Client("me", life)
	for _, err := range []error{a.Save(dir), jmErr, tmErr, opErr, meErr} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []*cluster.Certificate{jm, tm, op, me} {
		if err := c.Save(dir); err != nil {
			t.Fatal(err)
		}
	}
	return func(c *Config) {
		c.TLSCert, c.TLSKey, c.TLSCA = filepath.Join(dir, c.Name+".crt"), filepath.Join(dir, c.Name+".key"), filepath.Join(dir, "ca.crt")
	}
}

// A certificate lets its holder do what it was made for, and no more.
func TestRoles(t *testing.T) {
	secure := cards(t)
	c := DefaultsOf(JobManager)
	c.Name, c.Data = "jm1", filepath.Join(t.TempDir(), "jm1")
	c.JobAddr, c.WebAddr, c.ClusterAddr = "127.0.0.1:0", "127.0.0.1:0", freePorts(t, 1)[0]
	secure(&c)
	manager := start(t, c)
	defer manager.stop()
	addr := manager.cfg.ClusterAddr
	worker := start(t, taskManager(t, []string{addr}, secure))
	defer worker.stop()
	jobs := jobsAt(t, manager.ready.Job)
	_ = finish(t, jobs, jobs) // with a certificate for each, all works

	at := map[string]*cluster.Peers{}
	dials := map[string]*cluster.Security{}
	for _, name := range []string{"jm1", "tm1", "op", "me"} {
		who := &Config{Name: name}
		secure(who)
		s, err := securityOf(*who)
		if err != nil {
			t.Fatal(err)
		}
		p := cluster.NewPeers(s, cluster.Options{})
		defer p.Close()
		at[name], dials[name] = p, s
	}
	calls := roleCalls(t)
	for name, peers := range at {
		for what, call := range calls {
			err := call(peers.To(addr))
			refused := cluster.IsKind(err, cluster.KindForbidden) || cluster.IsUnreachable(err) || err != nil && strings.Contains(status.Convert(err).Message(), "is for")
			if name == "me" {
				refused = err != nil // by TLS, in one way or another
			}
			if allowed := strings.Contains(rolesMay[name], what); refused == allowed {
				t.Errorf("%s wants to %s: %v", name, what, err)
			}
		}
	}
	for name, s := range dials {
		raftLine(t, addr, s, name == "jm1")
	}
}

// rolesMay is what of roleCalls each may do.
var rolesMay = map[string]string{
	"op":  "see the group, remove a member",
	"jm1": "see a job, stop a job, read the log's end, see the group, remove a member, run a preparation",
}

func roleCalls(t *testing.T) map[string]func(to *cluster.Conn) error {
	return map[string]func(to *cluster.Conn) error{
		"see a job": func(to *cluster.Conn) error {
			_, err := callJob.Do(t.Context(), to, &jobRequest{"none"})
			return err
		},
		"stop a job": func(to *cluster.Conn) error {
			_, err := callStop.Do(t.Context(), to, &stopRequest{"none", catalog.StopCancel})
			return err
		},
		"read the log's end": func(to *cluster.Conn) error { _, err := callSync.Do(t.Context(), to, &struct{}{}); return err },
		"see the group":      func(to *cluster.Conn) error { _, err := callStatus.Do(t.Context(), to, &struct{}{}); return err },
		"remove a member": func(to *cluster.Conn) error {
			_, err := callRemove.Do(t.Context(), to, &memberRequest{Name: "nobody"})
			return err
		},
		"run a preparation": func(to *cluster.Conn) error {
			_, err := jobpb.NewJobServiceClient(to.GRPC()).GetJobs(t.Context(), &jobpb.GetJobsRequest{})
			return err
		},
	}
}

// raftLine calls a JobManager as another would, who is let in or not.
func raftLine(t *testing.T, addr string, as *cluster.Security, want bool) {
	t.Helper()
	streams := as.Streams(nil, "trestle-raft")
	streams.Greeting = raftGreeting
	conn, err := streams.Dial(addr, 10*time.Second)
	if err == nil {
		_ = conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		_, err = conn.Read(make([]byte, 1))
		conn.Close()
	}
	if waits := err != nil && strings.Contains(err.Error(), "timeout"); waits != want { // it waits for a greeting
		t.Errorf("%s on Raft's line: %v", as.Name(), err)
	}
}

// A process doesn't start with a certificate that is for other things.
func TestWrongCertificate(t *testing.T) {
	secure := cards(t)
	for role, names := range map[Role][]string{JobManager: {"tm1", "op", "me"}, TaskManager: {"jm1", "op", "me"}} {
		for _, name := range names {
			c := DefaultsOf(role)
			c.Name, c.Data, c.JobManagers = name, filepath.Join(t.TempDir(), "x"), "127.0.0.1:1"
			c.JobAddr, c.WebAddr, c.ClusterAddr, c.DataAddr = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
			secure(&c)
			n, err := New(c, "test", quiet)
			if err == nil {
				n.Close()
			}
			if err == nil || !strings.Contains(err.Error(), "trestle certs --") {
				t.Errorf("role %d with the certificate of %s: %v", role, name, err)
			}
		}
	}
}
