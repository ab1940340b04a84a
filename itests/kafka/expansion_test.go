package kafka

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// TestExpansionService has pipelines of Python's stock wrappers written with an
// expansion service of its own, and run by a Trestle that has not seen it.
func TestExpansionService(t *testing.T) {
	b, tool := need(t)
	addr := startServer(t, *program, t.TempDir(), "expansion-service", "--addr=127.0.0.1:0").Expansion
	job := serve(t)
	t.Setenv("EXPANSION_SERVICE", addr)
	topic := newTopic(t, tool, 2)
	if said, err := python(t, "write", job, b.Plain, topic, "100"); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	lines := flat(oracle(t, tool, topic))
	if len(lines) != 100 {
		t.Fatalf("the oracle has %d lines, want 100", len(lines))
	}
	t.Run("metadata", func(t *testing.T) {
		out := filepath.Join(t.TempDir(), "out")
		if said, err := python(t, "replay", job, b.Plain, topic, out, "metadata"); err != nil {
			t.Fatalf("%v\n%s", err, said)
		}
		mustBe(t, sortedLines(t, out+"*"), lines)
	})
	t.Run("schema transform", func(t *testing.T) {
		out := filepath.Join(t.TempDir(), "out")
		if said, err := python(t, "rows", job, b.Plain, topic, out, "STRING"); err != nil {
			t.Fatalf("%v\n%s", err, said)
		}
		if n := len(sortedLines(t, out+"*")); n != 100 {
			t.Errorf("%d rows, want 100", n)
		}
	})
}

// readConfig is what a wrapper's read may say.
type readConfig struct {
	ConsumerConfig map[string]string
	Topics         []string
}

const readURN = "beam:transform:org.apache.beam:kafka_read_without_metadata:v1"

func transform(urn string, payload []byte) *pipepb.PTransform {
	return &pipepb.PTransform{UniqueName: "Read", Spec: &pipepb.FunctionSpec{Urn: urn, Payload: payload}}
}

// An expansionRequest is answered with an error that says what is wanted, or with
// transforms.
type expansionRequest struct {
	name, want string
	request    *jobpb.ExpansionRequest
}

func requests() []expansionRequest {
	good := beam.CrossLanguagePayload(readConfig{map[string]string{"bootstrap.servers": "127.0.0.1:9", "trestle.stop": "now"}, []string{"t"}})
	some := &pipepb.Components{}
	return []expansionRequest{
		{"nothing", `this expansion service has no ""`, &jobpb.ExpansionRequest{}},
		{"unknown", `this expansion service has no "beam:magic"; it has ` + "beam:transform:", &jobpb.ExpansionRequest{Components: some, Transform: transform("beam:magic", good)}},
		{"garbage", "the payload is no external configuration", &jobpb.ExpansionRequest{Components: some, Transform: transform(readURN, []byte{0xff, 0xff, 0xff})}},
		{"no topic", "no topic is named", &jobpb.ExpansionRequest{Components: some, Transform: transform(readURN, beam.CrossLanguagePayload(readConfig{ConsumerConfig: map[string]string{"bootstrap.servers": "127.0.0.1:9"}}))}},
		{"no schema transform", "the schema transform's payload is broken", &jobpb.ExpansionRequest{Components: some, Transform: transform("beam:expansion:payload:schematransform:v1", []byte("\xff"))}},
		{"input from nowhere", `input "in" is not in the request`, &jobpb.ExpansionRequest{Components: some, Transform: &pipepb.PTransform{
			UniqueName: "Read", Inputs: map[string]string{"in": "p1"}, Spec: &pipepb.FunctionSpec{Urn: readURN, Payload: good},
		}}},
		{"without components", "", &jobpb.ExpansionRequest{Transform: transform(readURN, good)}},
		{"good", "", &jobpb.ExpansionRequest{Components: some, Transform: transform(readURN, good)}},
	}
}

// TestExpansionServiceBad asks an expansion service for what it can't do, and for
// nothing that makes sense: each time it says what is wrong, and goes on.
func TestExpansionServiceBad(t *testing.T) {
	need(t)
	addr := startServer(t, *program, t.TempDir(), "expansion-service", "--addr=127.0.0.1:0").Expansion
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(1<<30)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := jobpb.NewExpansionServiceClient(conn)
	for _, test := range requests() {
		t.Run(test.name, func(t *testing.T) {
			answer, err := c.Expand(t.Context(), test.request)
			switch {
			case err != nil:
				t.Fatal(err)
			case test.want == "" && (answer.GetError() != "" || len(answer.GetTransform().GetSubtransforms()) == 0):
				t.Errorf("it says %q, and has %d transforms", answer.GetError(), len(answer.GetTransform().GetSubtransforms()))
			case !strings.Contains(answer.GetError(), test.want):
				t.Errorf("it says %q, and not %q", answer.GetError(), test.want)
			}
		})
	}
	t.Run("too large", func(t *testing.T) {
		_, err := c.Expand(t.Context(), &jobpb.ExpansionRequest{Transform: transform(readURN, make([]byte, 65<<20))})
		if status.Code(err) != codes.ResourceExhausted {
			t.Errorf("%v", err)
		}
	})
	t.Run("jobs", func(t *testing.T) {
		_, err := jobpb.NewJobServiceClient(conn).Prepare(t.Context(), &jobpb.PrepareJobRequest{})
		if status.Code(err) != codes.Unimplemented {
			t.Errorf("%v", err)
		}
	})
	t.Run("noise", func(t *testing.T) {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write(make([]byte, 1<<20)); err == nil { // else it was cut off at once
			_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			for err == nil {
				_, err = conn.Read(make([]byte, 1<<10))
			}
			if os.IsTimeout(err) {
				t.Error("the connection is still open")
			}
		}
	})
	if _, err := c.DiscoverSchemaTransform(t.Context(), &jobpb.DiscoverSchemaTransformRequest{}); err != nil {
		t.Errorf("after all that: %v", err)
	}
}

// TestExpansionServiceAddress: it serves nobody beyond this machine unasked, and
// says so where it can't serve.
func TestExpansionServiceAddress(t *testing.T) {
	need(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for addr, want := range map[string]string{"0.0.0.0:0": "--insecure-listen", taken.Addr().String(): "address already in use", "nowhere": "--addr=nowhere"} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		said, err := trestleIn(ctx, t, "expansion-service", "--addr="+addr)
		if err == nil || !strings.Contains(string(said), want) {
			t.Errorf("%s: %v, and not %q:\n%s", addr, err, want, said)
		}
	}
}

// TestReplaced replaces the program of a Trestle that serves by another one, as an
// upgrade does: what it starts of itself from then on is still of its own version.
func TestReplaced(t *testing.T) {
	b, tool := need(t)
	topic := newTopic(t, tool, 1)
	do(t, tool, fmt.Sprintf("producer re\nbulk re %s 0 100 20 0\nclose re", topic))
	dir := t.TempDir()
	text, err := os.ReadFile(*program)
	if err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(dir, "trestle")
	if err := os.WriteFile(old, text, 0o700); err != nil {
		t.Fatal(err)
	}
	r := startServer(t, old, dir, "serve", "--job-addr=127.0.0.1:0", "--web-addr=127.0.0.1:0", "--data="+filepath.Join(dir, "data"))
	other := filepath.Join(dir, "other")
	if err := os.WriteFile(other, []byte("#!/bin/sh\necho another version >&2\nexit 9\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(other, old); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out")
	if said, err := trestle(t, "kafka", "replay", topic, "--brokers="+b.Plain, "--job-addr="+r.Job, "--web-addr="+r.Web, "--out="+out); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	files, err := filepath.Glob(filepath.Join(out, "*.jsonl"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files in %s: %v", out, err)
	}
	mustEqual(t, dumped(t, out), oracle(t, tool, topic))
}
