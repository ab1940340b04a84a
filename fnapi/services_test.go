package fnapi_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"strings"
	"testing"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"trestle/fnapi"
	"trestle/fnapi/fnapitest"
)

// An inbook is a StateHandler that writes down what it is asked, and answers
// gets in pages.
type inbook struct {
	lines []string
	pages []string
	hold  chan struct{} // if set, Get waits for it or the end of the bundle
}

func (b *inbook) Get(ctx context.Context, key *fnpb.StateKey, req *fnpb.StateGetRequest) (data, next []byte, err error) {
	if b.hold != nil {
		select {
		case <-b.hold:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
	page := int(0)
	if token := req.GetContinuationToken(); len(token) > 0 {
		page = int(token[0])
	}
	if page >= len(b.pages) {
		return nil, nil, errors.New("no such page")
	}
	if page+1 < len(b.pages) {
		next = []byte{byte(page + 1)}
	}
	return []byte(b.pages[page]), next, nil
}

func (b *inbook) Append(_ context.Context, _ *fnpb.StateKey, data []byte) error {
	b.lines = append(b.lines, "append "+string(data))
	return nil
}

func (b *inbook) Clear(context.Context, *fnpb.StateKey) error {
	b.lines = append(b.lines, "clear")
	return nil
}

// A quickBook is an inbook that never waits.
type quickBook struct{ *inbook }

func (quickBook) Quick(*fnpb.StateKey) bool { return true }

// Requests of one bundle that are under way together are answered in order, as
// SDKs expect of a clear and the appends after it. Gets come in pages, errors
// as text.
func TestState(t *testing.T) {
	for _, c := range []struct {
		name  string
		own   bool // a listener for state
		quick bool // and everything is answered at once
	}{{"control", false, false}, {"own listener", true, false}, {"quick", true, true}} {
		t.Run(c.name, func(t *testing.T) { testState(t, c.own, c.quick) })
	}
}

func testState(t *testing.T, own, quick bool) {
	opts := fnapi.Options{}
	if own {
		opts.State = listen(t)
	}
	s := serveWith(t, 1, opts)
	var pages []string
	var refused *fnpb.StateResponse
	w := connect(t, s, &fnapitest.Harness{Process: func(c *fnapitest.Call, _ string, _ []byte) (err error) {
		pages, refused, err = askState(c)
		return err
	}})
	ctx := withTimeout(t)
	book := &inbook{pages: []string{"one", "two"}}
	start := echo(w, 0)
	start.State = book
	if quick {
		start.State = quickBook{book}
	}
	if own == (w.StateURL() == w.URL()) {
		t.Errorf("state is at %s, control at %s", w.StateURL(), w.URL())
	}
	b, err := w.Start(ctx, start)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.Send(ctx, "in", []byte("x")), b.CloseInput(ctx, []string{"in"}, nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	for n, line := range book.lines {
		want := fmt.Sprintf("append %d", n)
		if n%10 == 0 {
			want = "clear"
		}
		if line != want {
			t.Fatalf("request %d was %q, want %q", n, line, want)
		}
	}
	if len(book.lines) != 100 || strings.Join(pages, " ") != "one two" {
		t.Errorf("%d changes, pages %v", len(book.lines), pages)
	}
	if !strings.Contains(refused.GetError(), "no such page") {
		t.Errorf("the refused request: %v", refused)
	}
}

// askState makes 100 changes without waiting in between, reads the state, and
// asks for what there isn't. Some requests are about a bag, as most are, and
// some are not.
func askState(c *fnapitest.Call) (pages []string, refused *fnpb.StateResponse, err error) {
	bag := &fnpb.StateKey{Type: &fnpb.StateKey_BagUserState_{BagUserState: &fnpb.StateKey_BagUserState{TransformId: "e1", UserStateId: "s", Key: []byte("k")}}}
	other := &fnpb.StateKey{Type: &fnpb.StateKey_Runner_{Runner: &fnpb.StateKey_Runner{Key: []byte("k")}}}
	var last <-chan *fnpb.StateResponse
	for n := range 100 {
		req := &fnpb.StateRequest{StateKey: bag, Request: &fnpb.StateRequest_Append{Append: &fnpb.StateAppendRequest{Data: fmt.Append(nil, n)}}}
		if n%10 == 0 {
			req.Request = &fnpb.StateRequest_Clear{Clear: &fnpb.StateClearRequest{}}
		}
		if n%7 == 3 {
			req.StateKey = other
		}
		if last, err = c.StateLater(req); err != nil {
			return nil, nil, err
		}
	}
	<-last
	get := func(token []byte) (*fnpb.StateResponse, error) {
		return c.State(&fnpb.StateRequest{StateKey: bag, Request: &fnpb.StateRequest_Get{Get: &fnpb.StateGetRequest{ContinuationToken: token}}})
	}
	for token := []byte(nil); ; {
		resp, err := get(token)
		if err != nil || resp.GetError() != "" {
			return nil, nil, fmt.Errorf("get: %v, %w", resp.GetError(), err)
		}
		pages = append(pages, string(resp.GetGet().GetData()))
		if token = resp.GetGet().GetContinuationToken(); len(token) == 0 {
			break
		}
	}
	refused, err = get([]byte{99})
	return pages, refused, err
}

// Go's SDK reads the tails of large groups at the data URL of their heads.
func TestStateAtDataURL(t *testing.T) {
	s := serve(t, 1)
	var page string
	w := connect(t, s, &fnapitest.Harness{Process: func(c *fnapitest.Call, _ string, _ []byte) error {
		resp, err := c.State(&fnpb.StateRequest{Request: &fnpb.StateRequest_Get{Get: &fnpb.StateGetRequest{}}})
		page = string(resp.GetGet().GetData())
		return err
	}})
	w.SetDescriptor(fnapitest.Descriptor(fnapitest.Shape{
		ID: "d", DataURL: w.DataURL(0), StateURL: w.DataURL(0), Sources: []string{"in"}, Sinks: []string{"out"},
	}))
	ctx := withTimeout(t)
	b, err := w.Start(ctx, fnapi.BundleStart{Descriptor: "d", Sinks: []string{"out"}, Output: &collector{}, State: &inbook{pages: []string{"tail"}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.Send(ctx, "in", []byte("head")), b.CloseInput(ctx, []string{"in"}, nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if page != "tail" {
		t.Errorf("the worker read %q, want tail", page)
	}
}

// A state request that hangs holds its own bundle only, and ends with it. One
// for a bundle that is over is refused.
func TestStateHangs(t *testing.T) {
	t.Run("control", func(t *testing.T) { testStateHangs(t, fnapi.Options{}) })
	t.Run("own listener", func(t *testing.T) { testStateHangs(t, fnapi.Options{State: listen(t)}) })
}

func testStateHangs(t *testing.T, opts fnapi.Options) {
	s := serveWith(t, 2, opts)
	after := make(chan *fnpb.StateResponse, 1)
	get := func() *fnpb.StateRequest {
		return &fnpb.StateRequest{Request: &fnpb.StateRequest_Get{Get: &fnpb.StateGetRequest{}}}
	}
	asked := make(chan struct{})
	w := connect(t, s, &fnapitest.Harness{Process: func(c *fnapitest.Call, _ string, chunk []byte) error {
		if string(chunk) != "hang" {
			return c.Emit("out", chunk)
		}
		close(asked)
		if _, err := c.State(get()); err != nil {
			return err
		}
		resp, err := c.State(get())
		after <- resp
		return err
	}})
	ctx := withTimeout(t)
	start := echo(w, 0, "out")
	start.State = &inbook{pages: []string{"x"}, hold: make(chan struct{})}
	start.Output = &collector{}
	b, err := w.Start(ctx, start)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Send(ctx, "in", []byte("hang")); err != nil {
		t.Fatal(err)
	}
	<-asked
	works(t, w, 1)
	b.Abort(nil)
	if _, err := b.Wait(ctx); !errors.Is(err, fnapi.ErrAborted) {
		t.Errorf("Wait: %v", err)
	}
	if resp := <-after; resp.GetError() == "" {
		t.Errorf("a request after the end was answered: %v", resp)
	}
}

// admitted is a worker with these papers, and its client connection.
func admitted(t *testing.T, s *fnapi.Server, a fnapi.Admission) (*fnapi.Worker, *grpc.ClientConn, context.Context) {
	t.Helper()
	w, err := s.Admit(a)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := fnapitest.Dial(w.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return w, conn, metadata.AppendToOutgoingContext(withTimeout(t), "worker_id", w.ID())
}

func TestProvision(t *testing.T) {
	s := serve(t, 1)
	options, err := structpb.NewStruct(map[string]any{"beam:option:job_name:v1": "j"})
	if err != nil {
		t.Fatal(err)
	}
	w, conn, ctx := admitted(t, s, fnapi.Admission{
		Status:  true,
		Options: options, RetrievalToken: "tok", Metadata: map[string]string{"k": "v"},
		Capabilities: []string{"beam:x"}, Dependencies: []*pipepb.ArtifactInformation{{RoleUrn: "r"}},
	})
	resp, err := fnpb.NewProvisionServiceClient(conn).GetProvisionInfo(ctx, &fnpb.GetProvisionInfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	info := resp.GetInfo()
	if info.GetPipelineOptions().GetFields()["beam:option:job_name:v1"].GetStringValue() != "j" ||
		info.GetRetrievalToken() != "tok" || info.GetMetadata()["k"] != "v" || len(info.GetDependencies()) != 1 ||
		info.GetControlEndpoint().GetUrl() != w.URL() || info.GetLoggingEndpoint().GetUrl() != w.URL() ||
		info.GetArtifactEndpoint().GetUrl() != w.URL() || info.GetStatusEndpoint().GetUrl() != w.URL() ||
		fmt.Sprint(info.GetRunnerCapabilities()) != fmt.Sprint(w.Capabilities()) || len(w.Capabilities()) != 3 {
		t.Errorf("provision info: %v", info)
	}
}

// files is an ArtifactSource in memory.
type files map[string][]byte

func (f files) Open(_ context.Context, a *pipepb.ArtifactInformation) (io.ReadCloser, error) {
	b, ok := f[string(a.GetTypePayload())]
	if !ok {
		return nil, fmt.Errorf("artifact %q: %w", a.GetTypePayload(), fs.ErrNotExist)
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

func TestArtifacts(t *testing.T) {
	s := serve(t, 1)
	large := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	_, conn, ctx := admitted(t, s, fnapi.Admission{Artifacts: files{"large": large, "empty": nil}})
	client := jobpb.NewArtifactRetrievalServiceClient(conn)
	for name, want := range map[string][]byte{"large": large, "empty": nil} {
		a := &pipepb.ArtifactInformation{TypePayload: []byte(name)}
		resolved, err := client.ResolveArtifacts(ctx, &jobpb.ResolveArtifactsRequest{Artifacts: []*pipepb.ArtifactInformation{a}})
		if err != nil || len(resolved.GetReplacements()) != 1 {
			t.Fatalf("%s: %v, %v", name, resolved, err)
		}
		stream, err := client.GetArtifact(ctx, &jobpb.GetArtifactRequest{Artifact: resolved.GetReplacements()[0]})
		if err != nil {
			t.Fatal(err)
		}
		var got []byte
		for {
			chunk, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, chunk.GetData()...)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, want %d", name, len(got), len(want))
		}
	}
	stream, err := client.GetArtifact(ctx, &jobpb.GetArtifactRequest{Artifact: &pipepb.ArtifactInformation{TypePayload: []byte("../etc")}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.NotFound {
		t.Errorf("an unknown artifact: %v", err)
	}
}

// Log lines arrive before the control stream does, after it has ended and the
// worker was withdrawn, and clipped if they are too long.
func TestLogging(t *testing.T) {
	s := serve(t, 1)
	got := make(chan fnapi.LogEntry, 10)
	w, conn, ctx := admitted(t, s, fnapi.Admission{Logs: func(entries []fnapi.LogEntry) {
		for _, e := range entries {
			got <- e
		}
	}})
	logs, err := fnpb.NewBeamFnLoggingClient(conn).Logging(ctx)
	if err != nil {
		t.Fatal(err)
	}
	send := func(e ...*fnpb.LogEntry) {
		t.Helper()
		if err := logs.Send(&fnpb.LogEntry_List{LogEntries: e}); err != nil {
			t.Fatal(err)
		}
	}
	send(&fnpb.LogEntry{Message: "first", Severity: fnpb.LogEntry_Severity_WARN, InstructionId: "i1", TransformId: "t", Thread: "main", LogLocation: "a.py:1"},
		&fnpb.LogEntry{Message: strings.Repeat("é", 100_000)})
	first, second := <-got, <-got
	if first.Text != "first" || first.Level != slog.LevelWarn || first.Instruction != "i1" || first.Transform != "t" || first.Thread != "main" || first.Location != "a.py:1" {
		t.Errorf("first: %+v", first)
	}
	if len(second.Text) > 70_000 || !strings.HasSuffix(second.Text, "é… (134464 bytes more)") {
		t.Errorf("second: %d bytes, ends with %q", len(second.Text), second.Text[len(second.Text)-30:])
	}
	control, err := fnpb.NewBeamFnControlClient(conn).Control(ctx)
	if err != nil {
		t.Fatal(err)
	}
	_ = control.CloseSend()
	if _, err := control.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("control: %v", err)
	}
	w.Close()
	send(&fnpb.LogEntry{Message: "last words", Severity: fnpb.LogEntry_Severity_CRITICAL})
	if last := <-got; last.Text != "last words" || last.Level <= slog.LevelError {
		t.Errorf("last: %+v", last)
	}
	// Who doesn't end the stream has it ended.
	if _, err := logs.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream's end: %v", err)
	}
}

func TestStatus(t *testing.T) {
	s := serve(t, 1)
	w, conn, ctx := admitted(t, s, fnapi.Admission{})
	if _, err := w.Status(ctx); !errors.Is(err, fnapi.ErrNoStatus) {
		t.Errorf("Status without a stream: %v", err)
	}
	stream, err := fnpb.NewBeamFnWorkerStatusClient(conn).WorkerStatus(ctx)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			req, err := stream.Recv()
			if err != nil {
				return
			}
			_ = stream.Send(&fnpb.WorkerStatusResponse{Id: "nobody's", StatusInfo: "wrong"})
			_ = stream.Send(&fnpb.WorkerStatusResponse{Id: req.GetId(), StatusInfo: "well"})
		}
	}()
	var text string
	for err = fnapi.ErrNoStatus; errors.Is(err, fnapi.ErrNoStatus) && ctx.Err() == nil; {
		text, err = w.Status(ctx) // the stream is on its way
	}
	if err != nil || text != "well" {
		t.Errorf("Status: %q, %v", text, err)
	}
	w.Close()
	<-ended
}
