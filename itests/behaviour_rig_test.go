package itests

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"flag"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	_ "github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/harness/init" // what --worker=true does
	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/structpb"
)

// TestMain lets this test's program be a worker of the pipelines that it
// submits (with --worker=true), or one that breaks the rules.
func TestMain(m *testing.M) {
	if mode := os.Getenv(rogueVariable); mode != "" {
		rogue(mode)
		return
	}
	flag.Parse()
	beam.Init()
	os.Exit(m.Run())
}

// goBoot is a command for a PROCESS environment whose workers are this program.
// Each writes its process id to a line of the file pids.
func goBoot(t *testing.T, pids string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return script(t,
		`echo $$ >>'`+pids+`'`,
		`for a; do`,
		`  case $a in --id=*|--logging_endpoint=*|--control_endpoint=*) set -- "$@" "$a";; esac`,
		`  shift`,
		`done`,
		`exec `+self+` --worker=true "$@"`)
}

// notedBoot is pythonBoot with the process ids of workers in a file.
func notedBoot(t *testing.T, pids string) string {
	t.Helper()
	return script(t, `echo $$ >>'`+pids+`'`, "exec "+python(t)+" -m apache_beam.runners.worker.sdk_worker_main")
}

// A trestle is a server that the test itself stops, and starts again on the
// same data.
type trestle struct {
	server
	dir    string // holds data, tmp and the log
	mark   string
	cmd    *exec.Cmd
	exited chan error
}

// launch starts a server on dir/data. Unless the test has ended it, it is
// killed in the end.
func launch(t *testing.T, dir string, args ...string) *trestle {
	t.Helper()
	temp := filepath.Join(dir, "tmp")
	if err := os.MkdirAll(temp, 0o700); err != nil {
		t.Fatal(err)
	}
	s := &trestle{dir: dir, mark: "ITEST_MARK=" + rand.Text(), exited: make(chan error, 1)}
	ready := filepath.Join(dir, "ready.json")
	_ = os.Remove(ready)
	s.cmd = exec.Command(*binary, append([]string{
		"serve", "--job-addr=127.0.0.1:0", "--web-addr=127.0.0.1:0",
		"--data=" + s.data(), "--ready-file=" + ready}, args...)...)
	s.cmd.Env = append(os.Environ(), s.mark, "TMPDIR="+temp)
	log, err := os.OpenFile(filepath.Join(dir, "trestle.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { s.exited <- s.cmd.Wait() }()
	t.Cleanup(func() {
		if s.cmd.ProcessState == nil {
			s.kill()
		}
		if t.Failed() {
			t.Logf("the server's log ends:\n%s", tailOf(log.Name(), 8<<10))
		}
	})
	s.server = awaitReady(t, ready, s.exited)
	return s
}

func (s *trestle) data() string { return filepath.Join(s.dir, "data") }

// kill ends the server as a power cut does.
func (s *trestle) kill() {
	_ = s.cmd.Process.Kill()
	<-s.exited
}

// stopCleanly has the server stop by SIGTERM, with all that this promises.
func (s *trestle) stopCleanly(t *testing.T) {
	t.Helper()
	stop(t, s.cmd, s.exited)
	mustHaveLeftNothing(t, s.mark, filepath.Join(s.dir, "tmp"))
}

// jobLimit bounds one job of the behaviour tests.
const jobLimit = 30 * time.Second

// A job is one that was submitted.
type job struct {
	t    *testing.T
	s    server
	id   string
	jobs jobpb.JobServiceClient
}

// dial connects to a job endpoint for the length of the test.
func dial(t *testing.T, addr string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(256<<20), grpc.MaxCallSendMsgSize(256<<20)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// submit prepares and runs a pipeline that has no artifacts. Options are
// name=value.
func submit(t *testing.T, s server, name string, p *pipepb.Pipeline, options ...string) *job {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), jobLimit)
	defer cancel()
	jobs := jobpb.NewJobServiceClient(dial(t, s.Job))
	prepared, err := jobs.Prepare(ctx, &jobpb.PrepareJobRequest{JobName: name, Pipeline: p, PipelineOptions: optionStruct(options)})
	if err != nil {
		t.Fatalf("prepare %s: %v", name, err)
	}
	run, err := jobs.Run(ctx, &jobpb.RunJobRequest{PreparationId: prepared.GetPreparationId()})
	if err != nil {
		t.Fatalf("run %s: %v", name, err)
	}
	return &job{t: t, s: s, id: run.GetJobId(), jobs: jobs}
}

func optionStruct(options []string) *structpb.Struct {
	o := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for _, option := range options {
		name, value, _ := strings.Cut(option, "=")
		v := structpb.NewStringValue(value)
		if value == "true" || value == "false" { // which Python's workers want so
			v = structpb.NewBoolValue(value == "true")
		}
		o.Fields["beam:option:"+name+":v1"] = v
	}
	return o
}

// at is the same job as another server process knows it.
func (j *job) at(s server) *job {
	return &job{t: j.t, s: s, id: j.id, jobs: jobpb.NewJobServiceClient(dial(j.t, s.Job))}
}

// end waits for the job's end and returns its state and its ERROR messages.
func (j *job) end() (state jobpb.JobState_Enum, failure string) {
	j.t.Helper()
	ctx, cancel := context.WithTimeout(j.t.Context(), jobLimit)
	defer cancel()
	stream, err := j.jobs.GetMessageStream(ctx, &jobpb.JobMessagesRequest{JobId: j.id})
	if err != nil {
		j.t.Fatal(err)
	}
	var errs, all []string
	for {
		in, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			j.t.Fatalf("job %s has not ended: %v (state %s); its messages:\n%s", j.id, err, state, strings.Join(all, "\n"))
		}
		if st := in.GetStateResponse(); st != nil {
			state = st.GetState()
		}
		if m := in.GetMessageResponse(); m != nil {
			all = append(all, m.GetMessageText())
			if m.GetImportance() == jobpb.JobMessage_JOB_MESSAGE_ERROR {
				errs = append(errs, m.GetMessageText())
			}
		}
	}
	if len(errs) > 1 || (state == jobpb.JobState_FAILED) != (len(errs) == 1) {
		j.t.Errorf("job %s ended %s with the error messages %q", j.id, state, errs)
	}
	return state, strings.Join(errs, "\n")
}

// mustEnd waits for the job's end, which must be DONE.
func (j *job) mustEnd() {
	j.t.Helper()
	if state, failure := j.end(); state != jobpb.JobState_DONE {
		j.t.Fatalf("job %s ended %s: %s", j.id, state, failure)
	}
}

// mustFail waits for the job's end, which must be FAILED for a reason that
// holds all the words.
func (j *job) mustFail(words ...string) {
	j.t.Helper()
	state, failure := j.end()
	if state != jobpb.JobState_FAILED {
		j.t.Fatalf("job %s ended %s, want FAILED", j.id, state)
	}
	for _, w := range words {
		if !strings.Contains(failure, w) {
			j.t.Errorf("job %s failed without the words %q: %s", j.id, w, failure)
		}
	}
}

// shownJob is what /api/v1/jobs/ID answers, as far as these tests look.
type shownJob struct {
	ID       string       `json:"id"`
	State    string       `json:"state"`
	Error    string       `json:"error"`
	Restarts int          `json:"restarts"`
	Stages   []shownStage `json:"stages"`
	Regions  []struct {
		ID, Why string
		Stages  []string
	} `json:"regions"`
	Graph struct {
		Datasets []shownDataset `json:"datasets"`
	} `json:"graph"`
	Failures []struct{ Kind, Message string } `json:"failures"`
}

type shownDataset struct {
	ID, Producer, Partitioning, Exchange string
	Consumers                            []string
}

type shownStage struct {
	ID, Name, Environment, Root, Region, State string
	Parallelism                                int
	ChosenFrom                                 int64
	Started, Ended                             time.Time
	InBytes, OutBytes, InElements, OutElements int64
	Tasks                                      []struct {
		Index, Attempt, Slot              int
		State, TaskManager, Durable       string
		Started, Ended                    time.Time
		InBytes, OutBytes                 int64
		InElements, OutElements, Failures int64
	}
}

// shown asks the REST API.
func (j *job) shown() shownJob {
	j.t.Helper()
	var out shownJob
	getJSON(j.t, j.s, "/api/v1/jobs/"+j.id, &out)
	return out
}

func getJSON(t *testing.T, s server, path string, into any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), jobLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Web+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %v %s", path, resp.Status, err, body)
	}
	if err := json.Unmarshal(body, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// stageNamed is the stage whose name holds the word.
func (s shownJob) stageNamed(t *testing.T, word string) shownStage {
	t.Helper()
	i := slices.IndexFunc(s.Stages, func(st shownStage) bool { return strings.Contains(st.Name, word) })
	if i < 0 {
		t.Fatalf("no stage is named %q: %+v", word, s.Stages)
	}
	return s.Stages[i]
}

// eventually polls for what others bring about.
func eventually(t *testing.T, limit time.Duration, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	late := time.After(limit)
	for !holds() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// count is the number of files that match.
func count(t *testing.T, pattern string) int {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return len(found)
}

// lines are the lines of a file, none if it isn't there.
func lines(path string) []string {
	text, _ := os.ReadFile(path)
	return strings.FieldsFunc(string(text), func(r rune) bool { return r == '\n' })
}

// mustBeGone waits for the end of the processes whose ids are in a file.
func mustBeGone(t *testing.T, pids string, limit time.Duration) {
	t.Helper()
	all := lines(pids)
	if len(all) == 0 {
		t.Fatal("no worker was ever started")
	}
	eventually(t, limit, "the workers "+strings.Join(all, " ")+" end", func() bool {
		return !slices.ContainsFunc(all, func(pid string) bool { return alive(pid) })
	})
}

// alive reports whether a process runs; one that only waits to be reaped
// doesn't.
func alive(pid string) bool {
	stat, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

// dieHere ends the process as a crash of native code does.
func dieHere() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// findContent returns a file below a folder that holds the bytes, or "".
func findContent(t *testing.T, dir string, content []byte) string {
	t.Helper()
	found := ""
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		if bytes.Contains(text, content) {
			found = path
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return found
}
