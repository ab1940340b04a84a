package itests

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// prepare submits a pipeline as far as Prepare.
func prepare(t *testing.T, s server, p *pipepb.Pipeline, options ...string) (*jobpb.PrepareJobResponse, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), jobLimit)
	defer cancel()
	return jobpb.NewJobServiceClient(dial(t, s.Job)).Prepare(ctx,
		&jobpb.PrepareJobRequest{JobName: "bad", Pipeline: p, PipelineOptions: optionStruct(options)})
}

// A breakage is a way in which a good pipeline is made a bad one.
type breakage struct {
	name  string
	apply func(p *pipepb.Pipeline)
	want  string // in the answer
}

// leaf finds a transform without subtransforms by the end of its name.
func leaf(p *pipepb.Pipeline, suffix string) (id string, tr *pipepb.PTransform) {
	for id, tr := range p.GetComponents().GetTransforms() {
		if len(tr.GetSubtransforms()) == 0 && strings.HasSuffix(tr.GetUniqueName(), suffix) {
			return id, tr
		}
	}
	panic("no transform " + suffix)
}

func only(m map[string]string) (key, value string) {
	for k, v := range m {
		return k, v
	}
	return "", ""
}

var breakages = []breakage{
	{"nothing at all", func(p *pipepb.Pipeline) { proto.Reset(p) }, "no pipeline"},
	{"no components' content", func(p *pipepb.Pipeline) { p.Components = &pipepb.Components{} }, "root"},
	{"unknown root", func(p *pipepb.Pipeline) { p.RootTransformIds = append(p.RootTransformIds, "nobody") }, "nobody"},
	{"unknown input", func(p *pipepb.Pipeline) {
		_, tr := leaf(p, "sumFn")
		key, _ := only(tr.Inputs)
		tr.Inputs[key] = "nowhere"
	}, "nowhere"},
	{"unknown coder", func(p *pipepb.Pipeline) {
		_, tr := leaf(p, "sumFn")
		_, out := only(tr.Outputs)
		p.Components.Pcollections[out].CoderId = "c-nobody"
	}, "c-nobody"},
	{"coder of itself", func(p *pipepb.Pipeline) {
		for id, c := range p.Components.Coders {
			if len(c.GetComponentCoderIds()) > 0 {
				c.ComponentCoderIds[0] = id
			}
		}
	}, "coder"},
	{"unknown windowing", func(p *pipepb.Pipeline) {
		for _, c := range p.Components.Pcollections {
			c.WindowingStrategyId = "w-nobody"
		}
	}, "w-nobody"},
	{"unknown environment", func(p *pipepb.Pipeline) {
		_, tr := leaf(p, "sumFn")
		tr.EnvironmentId = "e-nobody"
	}, "e-nobody"},
	{"unknown kind of environment", func(p *pipepb.Pipeline) {
		for _, e := range p.Components.Environments {
			e.Urn = "beam:env:quantum:v1"
		}
	}, "beam:env:quantum:v1"},
	{"garbage in the environment", func(p *pipepb.Pipeline) {
		for _, e := range p.Components.Environments {
			e.Payload = []byte("\xff\xff\xff\xff garbage")
		}
	}, "environment"},
	{"cycle", func(p *pipepb.Pipeline) {
		_, up := leaf(p, "numbersFn")
		_, down := leaf(p, "sumFn")
		_, out := only(down.Outputs)
		key, _ := only(up.Inputs)
		up.Inputs[key] = out
	}, "cycle"},
	{"transform in itself", func(p *pipepb.Pipeline) {
		for id, tr := range p.Components.Transforms {
			if len(tr.Subtransforms) > 0 {
				tr.Subtransforms = append(tr.Subtransforms, id)
			}
		}
	}, "itself"},
	{"two makers", func(p *pipepb.Pipeline) {
		_, a := leaf(p, "numbersFn")
		_, b := leaf(p, "sumFn")
		_, out := only(a.Outputs)
		key, _ := only(b.Outputs)
		b.Outputs[key] = out
	}, "sumFn"},
	{"unknown leaf", func(p *pipepb.Pipeline) {
		_, tr := leaf(p, "sumFn")
		tr.Spec.Urn = "beam:transform:teleport:v1"
	}, "beam:transform:teleport:v1"},
	{"garbage in a ParDo", func(p *pipepb.Pipeline) {
		_, tr := leaf(p, "sumFn")
		tr.Spec.Payload = []byte("\xff\xff\xff garbage")
	}, "sumFn"},
	{"grouping without keys", func(p *pipepb.Pipeline) {
		_, tr := leaf(p, "CoGBK")
		_, numbers := leaf(p, "numbersFn")
		_, out := only(numbers.Outputs)
		key, _ := only(tr.Inputs)
		tr.Inputs[key] = out
	}, "CoGBK"},
	{"unknown requirement", func(p *pipepb.Pipeline) {
		p.Requirements = append(p.Requirements, "beam:requirement:time_travel:v1")
	}, "beam:requirement:time_travel:v1"},
}

// TestBrokenPipelines has each refused at Prepare, in words that name what is
// wrong.
func TestBrokenPipelines(t *testing.T) {
	need(t, "behaviour")
	s := serve(t)
	dir := t.TempDir()
	good := sums(t, goBoot(t, filepath.Join(dir, "pids")), 100, filepath.Join(dir, "out"))
	if _, err := prepare(t, s, good); err != nil {
		t.Fatalf("the pipeline is refused unbroken: %v", err)
	}
	for _, b := range breakages {
		t.Run(b.name, func(t *testing.T) {
			p := proto.Clone(good).(*pipepb.Pipeline)
			b.apply(p)
			_, err := prepare(t, s, p)
			if status.Code(err) != codes.InvalidArgument {
				t.Fatalf("answered %v, want InvalidArgument", err)
			}
			if text := status.Convert(err).Message(); !strings.Contains(text, b.want) || len(text) > 20_000 {
				t.Errorf("refused without the words %q: %.2000s", b.want, text)
			}
		})
	}
	t.Run("options", func(t *testing.T) {
		_, err := prepare(t, s, good, "exchange_mode=fast", "priority=high", "restart_strategy=never")
		for _, name := range []string{"exchange_mode", "priority", "restart_strategy"} {
			if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), name) {
				t.Errorf("option %s was not refused: %v", name, err)
			}
		}
	})
	mustStillWork(t, s)
}

// TestDamagedPipelines flips bytes of a pipeline at random. Each is refused
// clearly or taken; those that are taken may fail, but not take the server with
// them.
func TestDamagedPipelines(t *testing.T) {
	need(t, "behaviour")
	s := serve(t)
	dir := t.TempDir()
	boot := goBoot(t, filepath.Join(dir, "pids"))
	good, err := proto.MarshalOptions{Deterministic: true}.Marshal(sums(t, boot, 100, filepath.Join(dir, "out")))
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	rounds, runs, taken, refused := 2000, 40, 0, 0
	if *quick {
		rounds, runs = 200, 5
	}
	for i := range rounds {
		damaged := slices.Clone(good)
		for range 1 + i%4 {
			damaged[random.IntN(len(damaged))] = byte(random.Uint32())
		}
		var p pipepb.Pipeline
		if proto.Unmarshal(damaged, &p) != nil {
			continue // this client can't even send it
		}
		_, err := prepare(t, s, &p, "restart_strategy=none")
		switch status.Code(err) {
		case codes.OK:
			taken++
		case codes.InvalidArgument:
			refused++
		default:
			t.Errorf("damage %d: answered %v", i, err)
		}
		if err == nil && taken <= runs {
			submit(t, s, "damaged", &p, "restart_strategy=none").end()
		}
	}
	t.Logf("%d taken, %d refused", taken, refused)
	mustStillWork(t, s)
}

// stagedAs is a file artifact with a staged name and a promised hash.
func stagedAs(name, hash string) *pipepb.ArtifactInformation {
	file, _ := proto.Marshal(&pipepb.ArtifactFilePayload{Path: "/client/file", Sha256: hash})
	// Not by proto: a name that is no UTF-8 can't be encoded by its rules.
	role := append([]byte{0x0a}, varint(len(name))...)
	return &pipepb.ArtifactInformation{
		TypeUrn: "beam:artifact:type:file:v1", TypePayload: file,
		RoleUrn: "beam:artifact:role:staging_to:v1", RolePayload: append(role, name...),
	}
}

func varint(n int) []byte {
	var b []byte
	for ; n >= 0x80; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(b, byte(n))
}

func hashOf(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// TestBadArtifacts stages what must not be staged.
func TestBadArtifacts(t *testing.T) {
	need(t, "behaviour")
	s := launch(t, t.TempDir())
	content := []byte("the content of a file")
	names := map[string]string{
		"parent":   "../../outside",
		"inner":    "a/../../outside",
		"absolute": "/tmp/outside",
		"nul":      "a\x00b",
		"newline":  "a\nb",
		"long":     strings.Repeat("x", 4<<10),
		"empty":    "",
		"dot":      ".",
		"no utf-8": "a\xff\xfeb",
	}
	for what, name := range names {
		t.Run("name "+what, func(t *testing.T) {
			_, err := prepare(t, s.server, withArtifact(t, stagedAs(name, hashOf(content))))
			if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "staged name") && !strings.Contains(err.Error(), "staging_to") {
				t.Errorf("answered %v, want InvalidArgument about the name", err)
			}
		})
	}
	t.Run("wrong hash", func(t *testing.T) {
		p := withArtifact(t, stagedAs("file", hashOf([]byte("another content"))))
		stageErr, runErr := stageAndRun(t, s.server, p, content)
		for _, err := range []error{stageErr, runErr} {
			if err == nil || !strings.Contains(err.Error(), "SHA-256") {
				t.Errorf("answered %v, want an error about the hash", err)
			}
		}
	})
	t.Run("never staged", func(t *testing.T) {
		resp, err := prepare(t, s.server, withArtifact(t, stagedAs("file", hashOf(content))))
		if err != nil {
			t.Fatal(err)
		}
		_, err = jobpb.NewJobServiceClient(dial(t, s.Job)).Run(t.Context(), &jobpb.RunJobRequest{PreparationId: resp.GetPreparationId()})
		if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "not staged") {
			t.Errorf("answered %v, want FailedPrecondition", err)
		}
	})
	t.Run("resolved to a harmful name", func(t *testing.T) {
		p := withArtifact(t, stagedAs("file", hashOf(content)))
		stageErr, _ := stageAndRun(t, s.server, p, content, stagedAs("../../outside", hashOf(content)))
		if stageErr == nil || !strings.Contains(stageErr.Error(), "staged name") {
			t.Errorf("answered %v, want an error about the name", stageErr)
		}
	})
	t.Run("unknown token", func(t *testing.T) {
		stream, err := jobpb.NewArtifactStagingServiceClient(dial(t, s.Job)).ReverseArtifactRetrievalService(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_ = stream.Send(&jobpb.ArtifactResponseWrapper{StagingToken: "../../outside"})
		if _, err := stream.Recv(); status.Code(err) != codes.NotFound {
			t.Errorf("answered %v, want NotFound", err)
		}
	})
	t.Run("good", func(t *testing.T) {
		if stageErr, runErr := stageAndRun(t, s.server, withArtifact(t, stagedAs("dir/file", hashOf(content))), content); stageErr != nil || runErr != nil {
			t.Errorf("a good artifact is refused: %v, %v", stageErr, runErr)
		}
	})
	mustStillWork(t, s.server)
	s.stopCleanly(t)
	if found := findContent(t, s.dir, []byte("another content")); found != "" {
		t.Errorf("what was refused is in %s", found)
	}
}

// withArtifact is a small pipeline whose environment has a dependency.
func withArtifact(t *testing.T, a *pipepb.ArtifactInformation) *pipepb.Pipeline {
	t.Helper()
	dir := t.TempDir()
	p := smallJob(t, goBoot(t, filepath.Join(dir, "pids")), filepath.Join(dir, "out"))
	for _, env := range p.GetComponents().GetEnvironments() {
		env.Dependencies = []*pipepb.ArtifactInformation{a}
	}
	return p
}

// stageAndRun prepares a pipeline, answers all requests for artifacts with the
// content, under other names if there are any, and runs the job.
func stageAndRun(t *testing.T, s server, p *pipepb.Pipeline, content []byte, resolved ...*pipepb.ArtifactInformation) (stageErr, runErr error) {
	t.Helper()
	resp, err := prepare(t, s, p)
	if err != nil {
		t.Fatal(err)
	}
	conn := dial(t, s.Job)
	stageErr = answerStaging(t.Context(), jobpb.NewArtifactStagingServiceClient(conn), resp.GetStagingSessionToken(), content, resolved)
	_, runErr = jobpb.NewJobServiceClient(conn).Run(t.Context(), &jobpb.RunJobRequest{PreparationId: resp.GetPreparationId()})
	return stageErr, runErr
}

func answerStaging(ctx context.Context, client jobpb.ArtifactStagingServiceClient, token string, content []byte, resolved []*pipepb.ArtifactInformation) error {
	stream, err := client.ReverseArtifactRetrievalService(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&jobpb.ArtifactResponseWrapper{StagingToken: token}); err != nil {
		return err
	}
	for {
		req, err := stream.Recv()
		if err != nil {
			if err == io.EOF {
				return nil
			}
			return err
		}
		out := &jobpb.ArtifactResponseWrapper{IsLast: true}
		if r := req.GetResolveArtifact(); r != nil {
			answer := &jobpb.ResolveArtifactsResponse{Replacements: r.GetArtifacts()}
			if len(resolved) > 0 {
				answer.Replacements = resolved
			}
			out.Response = &jobpb.ArtifactResponseWrapper_ResolveArtifactResponse{ResolveArtifactResponse: answer}
		} else {
			out.Response = &jobpb.ArtifactResponseWrapper_GetArtifactResponse{GetArtifactResponse: &jobpb.GetArtifactResponse{Data: content}}
		}
		_ = stream.Send(out) // Recv tells why it failed
	}
}
