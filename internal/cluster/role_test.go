package cluster

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// health is a service of generated code.
type health struct {
	grpc_health_v1.UnimplementedHealthServer
}

func (health) Check(_ context.Context, in *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	switch in.GetService() {
	case "panic":
		panic("at the disco")
	case "none":
		return nil, status.Error(codes.NotFound, "no such service")
	}
	return &grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_SERVING}, nil
}

func (health) Watch(in *grpc_health_v1.HealthCheckRequest, stream grpc_health_v1.Health_WatchServer) error {
	if in.GetService() == "panic" {
		panic("at the disco")
	}
	return stream.Send(&grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_SERVING})
}

// serveBoth serves our own methods to JobManagers, and a service of generated
// code to operators, too.
func serveBoth(t *testing.T, as *Security) (addr string) {
	t.Helper()
	l, err := as.Listen("127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(as, Options{})
	s.HandleFor([]Role{JobManager}, ask.Serve(answered), chat.Serve(func(context.Context, *Stream[answer, question]) error { return nil }))
	grpc_health_v1.RegisterHealthServer(s.For(JobManager, Operator), health{})
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Serve(ctx, l); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { stop(); wg.Wait() })
	return l.Addr().String()
}

// Services of generated code are served beside our own methods, to those whose
// role they are for; what they say arrives as it was said, and a panic is an
// error.
func TestGenerated(t *testing.T) {
	a, dir := authority(t)
	card := func(name string, roles ...Role) *Security {
		c, err := a.Node(name, nil, ValidFor(time.Hour), roles...)
		return member(t, dir, c, err)
	}
	addr := serveBoth(t, card("jm1", JobManager))
	operator, err := a.Operator("op", ValidFor(time.Hour))
	op := member(t, dir, operator, err)
	for name, as := range map[string]*Security{"jm2": card("jm2", JobManager), "both": card("both"), "op": op, "tm1": card("tm1", TaskManager)} {
		to := dialer(t, as).To(addr)
		client := grpc_health_v1.NewHealthClient(to.GRPC())
		_, err := client.Check(within(t), &grpc_health_v1.HealthCheckRequest{})
		stream, streamErr := client.Watch(within(t), &grpc_health_v1.HealthCheckRequest{})
		if streamErr == nil {
			_, streamErr = stream.Recv()
		}
		for _, err := range []error{err, streamErr} {
			if (err == nil) != (name != "tm1") || err != nil && !strings.Contains(err.Error(), `"tm1" is for a taskmanager`) {
				t.Errorf("%s: %v", name, err)
			}
		}
		_, err = ask.Do(within(t), to, &question{})
		if own := as.MayBe(JobManager); (err == nil) != own || !own && !IsKind(err, KindForbidden) {
			t.Errorf("%s asks: %v", name, err)
		}
		if _, err := to.Ping(within(t)); err != nil {
			t.Errorf("%s pings: %v", name, err)
		}
		c, err := chat.Open(within(t), to)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = c.Recv(); IsKind(err, KindForbidden) == as.MayBe(JobManager) {
			t.Errorf("%s chats: %v", name, err)
		}
		c.Close()
	}
	client := grpc_health_v1.NewHealthClient(dialer(t, op).To(addr).GRPC())
	if _, err := client.Check(within(t), &grpc_health_v1.HealthCheckRequest{Service: "none"}); status.Code(err) != codes.NotFound {
		t.Errorf("an error of its own: %v", err)
	}
	if _, err := client.Check(within(t), &grpc_health_v1.HealthCheckRequest{Service: "panic"}); err == nil || !strings.Contains(err.Error(), "disco") {
		t.Errorf("a panic: %v", err)
	}
	stream, err := client.Watch(within(t), &grpc_health_v1.HealthCheckRequest{Service: "panic"})
	if err == nil {
		_, err = stream.Recv()
	}
	if err == nil || !strings.Contains(err.Error(), "disco") {
		t.Errorf("a stream's panic: %v", err)
	}
	gone := dialer(t, op).To(freeAddr(t)).GRPC()
	if err := gone.Invoke(within(t), "/x/y", &grpc_health_v1.HealthCheckRequest{}, &grpc_health_v1.HealthCheckResponse{}, grpc.WaitForReady(false)); status.Code(err) != codes.Unavailable {
		t.Errorf("nobody there: %v", err)
	}
}

// freeAddr is where nobody listens.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Raft's line is for JobManagers, at both of its ends.
func TestStreamRoles(t *testing.T) {
	a, dir := authority(t)
	card := func(name string, role Role) *Security {
		c, err := a.Node(name, nil, ValidFor(time.Hour), role)
		return member(t, dir, c, err)
	}
	jm, tm := card("jm1", JobManager), card("tm1", TaskManager)
	for _, c := range []struct {
		name          string
		serves, dials *Security
		want          bool
	}{{"JobManagers", jm, jm, true}, {"a TaskManager calls", jm, tm, false}, {"a TaskManager is called", tm, jm, false}} {
		l, err := c.serves.Listen("127.0.0.1:0", false)
		if err != nil {
			t.Fatal(err)
		}
		in := c.serves.Streams(l, "raft")
		var wg sync.WaitGroup
		wg.Go(func() {
			if conn, err := in.Accept(); err == nil {
				_, _ = conn.Write([]byte("x"))
				_ = conn.Close()
			}
		})
		conn, err := c.dials.Streams(nil, "raft").Dial(l.Addr().String(), patient)
		if err == nil {
			_, err = conn.Read(make([]byte, 1))
			_ = conn.Close()
		}
		if (err == nil) != c.want {
			t.Errorf("%s: %v", c.name, err)
		}
		_ = l.Close()
		wg.Wait()
	}
}

// Who is known for a JobManager is obeyed, and told secrets: nobody else may
// answer in its place, though a TaskManager may answer for itself.
func TestAnswersForJobManager(t *testing.T) {
	a, dir := authority(t)
	card := func(name string, roles ...Role) *Security {
		c, err := a.Node(name, nil, ValidFor(time.Hour), roles...)
		return member(t, dir, c, err)
	}
	caller := dialer(t, card("jm2", JobManager))
	for name, c := range map[string]struct {
		as    *Security
		wrong bool
	}{"jm1": {as: card("jm1", JobManager)}, "both": {as: card("both", JobManager, TaskManager)}, "tm1": {as: card("tm1", TaskManager), wrong: true}} {
		addr := serveBoth(t, c.as)
		check := func(to *Conn) error {
			_, err := grpc_health_v1.NewHealthClient(to.GRPC()).Check(within(t), &grpc_health_v1.HealthCheckRequest{})
			return err
		}
		if err := check(caller.To(addr)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		err := check(caller.ToJobManager(addr))
		if c.wrong && (err == nil || !strings.Contains(err.Error(), "only a jobmanager may answer there")) || !c.wrong && err != nil {
			t.Errorf("%s as a JobManager: %v", name, err)
		}
	}
}
