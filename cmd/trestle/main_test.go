package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"trestle/internal/node"
	"trestle/runner/fusion"
	"trestle/web"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// trestle runs a command line and returns what it printed.
func trestle(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	root := rootCommand()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&errs)
	err = root.ExecuteContext(t.Context())
	return out.String(), errs.String(), err
}

// pipelineFile writes a pipeline of an Impulse that nobody reads.
func pipelineFile(t *testing.T, asJSON bool) string {
	t.Helper()
	p := &pipepb.Pipeline{
		RootTransformIds: []string{"i"},
		Components: &pipepb.Components{
			Transforms: map[string]*pipepb.PTransform{"i": {
				UniqueName: "Start", Spec: &pipepb.FunctionSpec{Urn: "beam:transform:impulse:v1"}, Outputs: map[string]string{"o": "c"},
			}},
			Pcollections: map[string]*pipepb.PCollection{"c": {UniqueName: "c", CoderId: "b", IsBounded: pipepb.IsBounded_BOUNDED, WindowingStrategyId: "w"}},
			Coders: map[string]*pipepb.Coder{
				"b": {Spec: &pipepb.FunctionSpec{Urn: "beam:coder:bytes:v1"}},
				"g": {Spec: &pipepb.FunctionSpec{Urn: "beam:coder:global_window:v1"}},
			},
			WindowingStrategies: map[string]*pipepb.WindowingStrategy{"w": {
				WindowFn: &pipepb.FunctionSpec{Urn: "beam:window_fn:global_windows:v1"}, WindowCoderId: "g",
				Trigger:          &pipepb.Trigger{Trigger: &pipepb.Trigger_Default_{Default: &pipepb.Trigger_Default{}}},
				MergeStatus:      pipepb.MergeStatus_NON_MERGING,
				AccumulationMode: pipepb.AccumulationMode_DISCARDING,
				OutputTime:       pipepb.OutputTime_END_OF_WINDOW,
				ClosingBehavior:  pipepb.ClosingBehavior_EMIT_IF_NONEMPTY,
				OnTimeBehavior:   pipepb.OnTimeBehavior_FIRE_IF_NONEMPTY,
			}},
		},
	}
	encode := func() ([]byte, error) { return proto.Marshal(p) }
	if asJSON {
		encode = func() ([]byte, error) { return protojson.Marshal(p) }
	}
	b, err := encode()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "start.pb")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// A pipeline is planned without a server, from either encoding; what is none is
// refused in words.
func TestPlan(t *testing.T) {
	for _, asJSON := range []bool{false, true} {
		out, _, err := trestle(t, "plan", pipelineFile(t, asJSON), "--json")
		var v fusion.View
		if err == nil {
			err = json.Unmarshal([]byte(out), &v)
		}
		if err != nil {
			t.Errorf("plan: %v", err)
		}
	}
	garbage := filepath.Join(t.TempDir(), "garbage")
	if err := os.WriteFile(garbage, []byte("\xff\xff\xff"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := trestle(t, "plan", garbage); err == nil || !strings.Contains(err.Error(), "is no pipeline") {
		t.Errorf("garbage: %v", err)
	}
	if _, _, err := trestle(t, "plan", pipelineFile(t, false), "--exchange-mode=odd"); err == nil {
		t.Error("an unknown mode was taken")
	}
}

// The commands against a real server: run a job, and look at it.
func TestClient(t *testing.T) {
	dir := t.TempDir()
	c := node.Defaults()
	c.JobAddr, c.WebAddr, c.Data, c.ReadyFile = "127.0.0.1:0", "127.0.0.1:0", filepath.Join(dir, "data"), filepath.Join(dir, "ready")
	n, err := node.New(c, "test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- n.Run(ctx, func() { close(served) }) }()
	<-served
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	ready := "--ready-file=" + c.ReadyFile

	out, _, err := trestle(t, "run", pipelineFile(t, false), ready, "--name=My Job", "-o", "priority=2")
	if err != nil || !strings.HasPrefix(out, "my-job-") || !strings.Contains(out, "DONE") {
		t.Fatalf("run: %q %v", out, err)
	}
	id, _, _ := strings.Cut(out, " ")
	if out, _, err = trestle(t, "jobs", ready); err != nil || !strings.Contains(out, id) || !strings.Contains(out, "My Job") {
		t.Errorf("jobs: %q %v", out, err)
	}
	var list web.JobList
	if out, _, err = trestle(t, "jobs", ready, "--json"); err != nil || json.Unmarshal([]byte(out), &list) != nil || len(list.Jobs) != 1 || list.Jobs[0].Priority != 2 {
		t.Errorf("jobs --json: %q %v", out, err)
	}
	for _, args := range [][]string{{"job", id, ready, "--tasks"}, {"job", id, ready, "--json"}, {"logs", id, ready, "-f"}, {"metrics", id, ready}, {"pipeline", id, ready, "--json"}, {"wait", id, ready}, {"cancel", id, ready}} {
		if out, _, err := trestle(t, args...); err != nil || out == "" {
			t.Errorf("%v: %q %v", args, out, err)
		}
		nobody := append([]string{args[0], "nobody"}, args[2:]...)
		if _, _, err := trestle(t, nobody...); err == nil {
			t.Errorf("%v went well", nobody)
		}
	}
	if _, _, err := trestle(t, "run", pipelineFile(t, false), ready, "-o", "priority=high"); err == nil || !strings.Contains(err.Error(), "option priority") {
		t.Errorf("a bad option: %v", err)
	}
	if _, _, err := trestle(t, "run", pipelineFile(t, false), ready, "-o", "priority"); err == nil {
		t.Error("an option without value was taken")
	}
}

// Every setting of a role is a flag of its command, whose help names it, and no
// setting is nobody's.
func TestServeHelp(t *testing.T) {
	told := map[string]bool{}
	for name, role := range map[string]node.Role{"serve": node.Embedded, "jobmanager": node.JobManager, "taskmanager": node.TaskManager} {
		out, _, err := trestle(t, name, "--help")
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range node.SettingsOf(role) {
			told[s.Name] = true
			if !strings.Contains(out, "--"+s.Name+" ") {
				t.Errorf("help of %s doesn't tell of --%s", name, s.Name)
			}
		}
	}
	for _, s := range node.Settings {
		if !told[s.Name] {
			t.Errorf("--%s is a setting of no process", s.Name)
		}
	}
	if _, _, err := trestle(t, "serve", "--job-addr=0.0.0.0:0"); err == nil || !strings.Contains(err.Error(), "--insecure-listen") {
		t.Errorf("open to the network: %v", err)
	}
	if _, _, err := trestle(t, "worker-pool", "--addr=0.0.0.0:0", "--", "true"); err == nil || !strings.Contains(err.Error(), "--insecure-listen") {
		t.Errorf("worker pool open to the network: %v", err)
	}
}

// A command that lacks an argument, or has one too many, says what it takes.
func TestArguments(t *testing.T) {
	for _, args := range [][]string{{"plan"}, {"job"}, {"run", "a", "b"}, {"cluster", "add", "x"}, {"kafka", "describe"}} {
		_, _, err := trestle(t, args...)
		if want := "usage: trestle " + args[0]; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("trestle %s: %v, want %q in it", strings.Join(args, " "), err, want)
		}
	}
}

// The doctor says what it found, and fails only for what Trestle itself needs.
func TestDoctor(t *testing.T) {
	out, _, err := trestle(t, "doctor", "--job-addr=127.0.0.1:0", "--web-addr=127.0.0.1:0", "--data="+t.TempDir(), "--json")
	var findings []finding
	if jsonErr := json.Unmarshal([]byte(out), &findings); jsonErr != nil || len(findings) < 8 {
		t.Fatalf("%q: %v", out, jsonErr)
	}
	for _, f := range findings[:2] {
		if f.State != "ok" {
			t.Errorf("%+v", f)
		}
	}
	_ = err // disk and memory are those of the machine
	_, _, err = trestle(t, "doctor", "--job-addr=192.0.2.1:1", "--web-addr=127.0.0.1:0", "--data="+t.TempDir())
	var code exitCode
	if !errors.As(err, &code) || code != 1 {
		t.Errorf("a port that can't be had: %v", err)
	}
}

// What others have named can't move the terminal's cursor.
func TestPlain(t *testing.T) {
	if got := plain("a\x1b[2Jb\nc\x00\x9b"); strings.ContainsAny(got, "\x1b\n\x00") || strings.IndexByte(got, 0x9b) >= 0 {
		t.Errorf("%q", got)
	}
	if got := firstLine("first\nmiddle\nlast\n"); got != "first" {
		t.Errorf("%q", got)
	}
}
