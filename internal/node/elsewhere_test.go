package node

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	shapes "trestle/itests/jobs"
	"trestle/jobservice/artifact"

	_ "github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/harness/init" // the workers' flags
	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// carrying is a pipeline that brings a file along, which nobody reads.
func carrying() *pipepb.Pipeline {
	return withFile(nothing(), "e")
}

// withFile has the workers of one environment need a file.
func withFile(p *pipepb.Pipeline, env string) *pipepb.Pipeline {
	path, _ := proto.Marshal(&pipepb.ArtifactFilePayload{Path: "/home/me/f"})
	role, _ := proto.Marshal(&pipepb.ArtifactStagingToRolePayload{StagedName: "f"})
	command, _ := proto.Marshal(&pipepb.ProcessPayload{Command: "/bin/true"})
	if p.Components.Environments == nil {
		p.Components.Environments = map[string]*pipepb.Environment{env: {Urn: "beam:env:process:v1", Payload: command}}
	}
	p.Components.Environments[env].Dependencies = []*pipepb.ArtifactInformation{{TypeUrn: artifact.TypeFile, TypePayload: path, RoleUrn: artifact.RoleStagingTo, RolePayload: role}}
	return p
}

// some is a pipeline with work for a TaskManager: it goes on until there is one.
func some(t *testing.T) (shapes.Shape, *pipepb.Pipeline) {
	t.Helper()
	s := shapes.Shape{Dir: t.TempDir(), Elements: 40, FirstKeys: 5, SecondKeys: 4}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	boot, err := shapes.Boot(s.Dir, self)
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.Proto(t.Context(), boot)
	if err != nil {
		t.Fatal(err)
	}
	return s, p
}

// prepare makes a preparation.
func prepare(t *testing.T, at jobpb.JobServiceClient, p *pipepb.Pipeline) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := at.Prepare(ctx, &jobpb.PrepareJobRequest{JobName: "carrying", Pipeline: p})
	if err != nil {
		t.Fatal(err)
	}
	return out.GetPreparationId()
}

// stage gives what is asked for: content, for every file.
func stage(t *testing.T, addr, token, content string) {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stream, err := jobpb.NewArtifactStagingServiceClient(conn).ReverseArtifactRetrievalService(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&jobpb.ArtifactResponseWrapper{StagingToken: token}); err != nil {
		t.Fatal(err)
	}
	const chunk = 1 << 20
	for {
		m, err := stream.Recv()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if q := m.GetResolveArtifact(); q != nil {
			err = stream.Send(&jobpb.ArtifactResponseWrapper{Response: &jobpb.ArtifactResponseWrapper_ResolveArtifactResponse{
				ResolveArtifactResponse: &jobpb.ResolveArtifactsResponse{Replacements: q.GetArtifacts()}}})
		}
		for rest := content; m.GetGetArtifact() != nil && err == nil; {
			n := min(chunk, len(rest))
			err = stream.Send(&jobpb.ArtifactResponseWrapper{IsLast: n == len(rest), Response: &jobpb.ArtifactResponseWrapper_GetArtifactResponse{
				GetArtifactResponse: &jobpb.GetArtifactResponse{Data: []byte(rest[:n])}}})
			if rest = rest[n:]; rest == "" {
				break
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// run runs a preparation.
func run(t *testing.T, at jobpb.JobServiceClient, preparation string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := at.Run(ctx, &jobpb.RunJobRequest{PreparationId: preparation})
	return out.GetJobId(), err
}

// leaderIs tells the leader from the others, as all of them see it.
func leaderIs(t *testing.T, all []*process) (leader *process, others []*process) {
	t.Helper()
	name := leaderOf(t, &all[0].cfg, []string{all[0].cfg.ClusterAddr, all[1].cfg.ClusterAddr})
	for _, p := range all {
		if p.name == name {
			leader = p
		} else {
			others = append(others, p)
		}
	}
	if leader == nil {
		t.Fatalf("%q leads", name)
	}
	return leader, others
}

// A job is prepared at one JobManager, staged at the next and run at the third.
// When the one that prepared it dies, what was accepted answers everywhere, and
// what wasn't is to be prepared again.
func TestPreparedElsewhere(t *testing.T) {
	secure := certificates(t, "jm1", "jm2", "jm3", "tm1")
	configs, addrs := trio(t, secure)
	var managers []*process
	for _, c := range configs {
		p := start(t, c)
		defer p.stop()
		managers = append(managers, p)
	}
	worker := start(t, taskManager(t, addrs, secure))
	defer worker.stop()
	at := map[string]jobpb.JobServiceClient{}
	for _, m := range managers {
		at[m.name] = jobsAt(t, m.ready.Job)
	}
	_ = finish(t, at["jm1"], at["jm2"]) // there is a leader
	leader, others := leaderIs(t, managers)
	maker, other := others[0], others[1]

	content := strings.Repeat("0123456789abcdef", 300_000) // some of the wire's windows
	accepted := prepare(t, at[maker.name], carrying())
	stage(t, leader.ready.Job, accepted, content)
	id, err := run(t, at[other.name], accepted)
	if err != nil || !strings.HasPrefix(id, "carrying-") {
		t.Fatalf("%q %v", id, err)
	}
	done(t, at[leader.name], id)
	waiting := prepare(t, at[maker.name], nothing())
	maker.stop()
	for _, m := range []*process{leader, other} {
		if again, err := run(t, at[m.name], accepted); err != nil || again != id {
			t.Errorf("%s: the job that was accepted: %q %v", m.name, again, err)
		}
		if _, err := run(t, at[m.name], waiting); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "prepare the job again") {
			t.Errorf("%s: the preparation that has gone: %v", m.name, err)
		}
	}
	_ = finish(t, at[other.name], at[leader.name])
}

// follow opens both streams of a job, reads what there is, and tells how they
// end.
func follow(t *testing.T, at jobpb.JobServiceClient, job string) (ends func() []codes.Code) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	states, err := at.GetStateStream(ctx, &jobpb.GetJobStateRequest{JobId: job})
	if err != nil {
		t.Fatal(err)
	}
	messages, err := at.GetMessageStream(ctx, &jobpb.JobMessagesRequest{JobId: job})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := states.Recv(); err != nil {
		t.Fatal(err)
	}
	if _, err := messages.Recv(); err != nil {
		t.Fatal(err)
	}
	return func() []codes.Code {
		var out []codes.Code
		for _, recv := range []func() error{
			func() error { _, err := states.Recv(); return err },
			func() error { _, err := messages.Recv(); return err },
		} {
			var err error
			for err == nil {
				err = recv()
			}
			if err == io.EOF {
				out = append(out, codes.OK)
			} else {
				out = append(out, status.Code(err))
			}
		}
		return out
	}
}

// Clients that follow a job at a JobManager that was removed, or is cut off, are
// sent elsewhere; those at others go on to the job's end over it all.
func TestCutOff(t *testing.T) {
	configs, addrs := trio(t, open)
	var managers []*process
	for _, c := range configs {
		p := start(t, c, func(n *Node) { n.contact.patience = 4 * time.Second })
		defer p.stop()
		managers = append(managers, p)
	}
	_, pipeline := some(t)
	id, err := run(t, jobsAt(t, managers[0].ready.Job), prepare(t, jobsAt(t, managers[0].ready.Job), pipeline))
	if err != nil {
		t.Fatal(err)
	}
	leader, others := leaderIs(t, managers)
	removed, left := others[0], others[1]
	atRemoved, atLeft := follow(t, jobsAt(t, removed.ready.Job), id), follow(t, jobsAt(t, left.ready.Job), id)
	g, err := OpenGroup(addrs, "", "", "")
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := g.Remove(ctx, removed.name); err != nil {
		t.Fatal(err)
	}
	gone := []codes.Code{codes.Unavailable, codes.Unavailable}
	if got := atRemoved(); !slices.Equal(got, gone) {
		t.Errorf("streams at the one that was removed end with %v", got)
	}
	if _, err := removed.node.jobs.Watch(ctx, id); err == nil {
		t.Error("the one that was removed has a job followed")
	}
	// Two are left. Without the leader there is no majority, until it is back.
	leader.stop()
	if got := atLeft(); !slices.Equal(got, gone) {
		t.Errorf("streams at the one that is cut off end with %v", got)
	}
	again := start(t, leader.cfg)
	defer again.stop()
	if err := left.node.lead.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	for left.node.contact.lost() != nil {
		time.Sleep(10 * time.Millisecond)
	}
	atLeft = follow(t, jobsAt(t, left.ready.Job), id)
	worker := start(t, taskManager(t, addrs, open))
	defer worker.stop()
	if got := atLeft(); !slices.Equal(got, []codes.Code{codes.OK, codes.OK}) {
		t.Errorf("streams at the one that is back end with %v", got)
	}
}

// Contact is lost after a minute without a leader, not by changes of leaders;
// and for good by removal.
func TestContact(t *testing.T) {
	c := newContact(nil)
	steps := func(n int, leader bool) {
		for range n {
			c.seen(leader, true, time.Second)
		}
	}
	for _, step := range []struct {
		n            int
		leader, lost bool
	}{{59, false, false}, {1, true, false}, {59, false, false}, {1, false, true}, {100, false, true}, {1, true, false}, {59, false, false}} {
		steps(step.n, step.leader)
		if got := c.lost() != nil; got != step.lost {
			t.Errorf("after %+v: lost %v", step, got)
		}
	}
	ctx, free := c.keep(t.Context())
	defer free()
	c.seen(true, false, time.Second)
	if c.lost() != errRemoved {
		t.Errorf("removed: %v", c.lost())
	}
	<-ctx.Done()
	c.seen(true, false, time.Second)
	if c.lost() == nil {
		t.Error("a leader that is heard of doesn't make a member")
	}
}

// keeps are the files in a member's stores.
func keeps(t *testing.T, p *process) (blobs, artifacts []string) {
	t.Helper()
	for dir, into := range map[string]*[]string{"blobs": &blobs, "artifacts/sha256": &artifacts} {
		entries, err := os.ReadDir(filepath.Join(p.cfg.Data, dir))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			*into = append(*into, e.Name())
		}
	}
	return blobs, artifacts
}

// submitSome submits a job that goes on until there is a TaskManager, and that
// brings a file along.
func submitSome(t *testing.T, at *process) (shape shapes.Shape, id string) {
	t.Helper()
	shape, pipeline := some(t)
	for env := range pipeline.GetComponents().GetEnvironments() {
		pipeline = withFile(pipeline, env)
	}
	client := jobsAt(t, at.ready.Job)
	preparation := prepare(t, client, pipeline)
	stage(t, at.ready.Job, preparation, "the file")
	id, err := run(t, client, preparation)
	if err != nil {
		t.Fatal(err)
	}
	return shape, id
}

// comeToHave waits until a member's stores hold these files.
func comeToHave(t *testing.T, p *process, wantBlobs, wantArtifacts []string) {
	t.Helper()
	for late := time.After(time.Minute); ; {
		blobs, artifacts := keeps(t, p)
		if slices.Equal(blobs, wantBlobs) && slices.Equal(artifacts, wantArtifacts) {
			return
		}
		select {
		case <-late:
			t.Fatalf("%s has %v and %v, and lacks some of %v and %v", p.name, blobs, artifacts, wantBlobs, wantArtifacts)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// A member that was away when a job was submitted gets what the job needs; so
// does one whose files were lost. When it is the only one that has it, and
// leads, the job ends as if nothing had been.
func TestLateMember(t *testing.T) {
	configs, addrs := trio(t, open)
	var managers []*process
	for _, c := range configs {
		managers = append(managers, start(t, c))
	}
	defer func() {
		for _, m := range managers {
			m.stop()
		}
	}()
	if err := managers[0].node.lead.Sync(t.Context()); err != nil { // there is a leader
		t.Fatal(err)
	}
	managers[2].stop()
	shape, id := submitSome(t, managers[0])
	wantBlobs, wantArtifacts := keeps(t, managers[0])
	if len(wantBlobs) != 2 || len(wantArtifacts) != 1 {
		t.Fatalf("where the job was submitted there are %v and %v", wantBlobs, wantArtifacts)
	}
	complete := func(p *process) { t.Helper(); comeToHave(t, p, wantBlobs, wantArtifacts) }
	managers[2] = start(t, configs[2])
	complete(managers[2])

	managers[1].stop() // its disk is lost, but for the log
	for _, dir := range []string{"blobs", "artifacts"} {
		if err := os.RemoveAll(filepath.Join(configs[1].Data, dir)); err != nil {
			t.Fatal(err)
		}
	}
	managers[1] = start(t, configs[1])
	complete(managers[1])

	g, err := OpenGroup(addrs, "", "", "")
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	late := managers[1]
	for leaderOf(t, &configs[0], addrs) != late.name {
		if err := g.Transfer(t.Context(), late.name); err != nil {
			t.Fatal(err)
		}
	}
	managers[0].stop()
	for _, name := range wantBlobs { // nobody else has them
		if err := os.Remove(filepath.Join(configs[2].Data, "blobs", name)); err != nil {
			t.Fatal(err)
		}
	}
	worker := start(t, taskManager(t, addrs, open))
	defer worker.stop()
	done(t, jobsAt(t, managers[2].ready.Job), id)
	if err := shape.Check(); err != nil {
		t.Error(err)
	}
	if got := leaderOf(t, &configs[0], addrs[1:]); got != late.name {
		t.Errorf("%s leads, not %s", got, late.name)
	}
}

// What jobs have left in the store of shuffle, and nobody was there to remove,
// goes when a leader begins; what runs stays, and what isn't this group's.
func TestShuffleSwept(t *testing.T) {
	store := t.TempDir()
	c := DefaultsOf(JobManager)
	c.Name, c.Data = "jm1", filepath.Join(t.TempDir(), "jm1")
	c.JobAddr, c.WebAddr, c.ClusterAddr = "127.0.0.1:0", "127.0.0.1:0", freePorts(t, 1)[0]
	c.ShuffleStore = "file://" + store
	p := start(t, c)
	at := jobsAt(t, p.ready.Job)
	_, pipeline := some(t)
	id, err := run(t, at, prepare(t, at, pipeline))
	if err != nil {
		t.Fatal(err)
	}
	group := p.node.raft.Group()
	p.stop()
	const old = 2 * youngShuffle
	stays := map[string]time.Duration{
		group + "/" + id + "/d.0.0.part":   old,
		group + "/just-begun-1/d.0.0.part": time.Minute,
		group + "/just-begun-1/d.0.1.part": old,
		"other-group/ended-1/d.0.0.part":   old,
		group + "0/ended-1/d.0.0.part":     old,
	}
	goes := map[string]time.Duration{
		group + "/ended-1/d.0.0.part": old,
		group + "/ended-1/d.1.0.part": old,
		group + "/ended-2/d.0.0.part": old,
	}
	for _, files := range []map[string]time.Duration{stays, goes} {
		for name, age := range files {
			file := filepath.Join(store, "shuffle", name)
			when := time.Now().Add(-age)
			for _, err := range []error{os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte("x"), 0o600), os.Chtimes(file, when, when)} {
				if err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	there := func(name string) bool {
		_, err := os.Stat(filepath.Join(store, "shuffle", name))
		return err == nil
	}
	p = start(t, c)
	defer p.stop()
	for name := range goes {
		for late := time.After(time.Minute); there(name); {
			select {
			case <-late:
				t.Fatalf("%s is still there", name)
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	for name := range stays {
		if !there(name) {
			t.Error(fmt.Sprint(name, " is gone"))
		}
	}
}
