package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/structpb"
)

// A Client is a client of one node's job endpoint, on the node's own host.
type Client struct {
	jobpb.JobServiceClient
	conn *grpc.ClientConn
}

// Dial makes a client. Nothing is connected before the first call.
func (n *Node) Dial() (*Client, error) {
	conn, err := grpc.NewClient("passthrough:///"+n.JobAddr(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return n.host.Dial(ctx, "tcp", addr) }))
	if err != nil {
		return nil, err
	}
	return &Client{jobpb.NewJobServiceClient(conn), conn}, nil
}

// Close ends the client and its streams.
func (c *Client) Close() { c.conn.Close() }

// Submit prepares and runs a pipeline without artifacts. Options are
// name=value.
func (c *Client) Submit(ctx context.Context, name string, p *pipepb.Pipeline, options ...string) (id string, err error) {
	prepared, err := c.Prepared(ctx, name, p, options...)
	if err != nil {
		return "", err
	}
	run, err := c.Run(ctx, &jobpb.RunJobRequest{PreparationId: prepared})
	if err != nil {
		return "", fmt.Errorf("run %s: %w", name, err)
	}
	return run.GetJobId(), nil
}

// Prepared is the first half of Submit; it returns the preparation's id.
func (c *Client) Prepared(ctx context.Context, name string, p *pipepb.Pipeline, options ...string) (string, error) {
	o := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for _, option := range options {
		key, value, _ := strings.Cut(option, "=")
		o.Fields["beam:option:"+key+":v1"] = structpb.NewStringValue(value)
	}
	prepared, err := c.Prepare(ctx, &jobpb.PrepareJobRequest{JobName: name, Pipeline: p, PipelineOptions: o})
	if err != nil {
		return "", fmt.Errorf("prepare %s: %w", name, err)
	}
	return prepared.GetPreparationId(), nil
}

// Follow reads a job's messages and states to the stream's end, as SDKs do, and
// returns the last state with the ERROR messages.
func (c *Client) Follow(ctx context.Context, id string) (state jobpb.JobState_Enum, failure error, err error) {
	stream, err := c.GetMessageStream(ctx, &jobpb.JobMessagesRequest{JobId: id})
	if err != nil {
		return 0, nil, err
	}
	var said []error
	for {
		in, err := stream.Recv()
		if err == io.EOF {
			return state, errors.Join(said...), nil
		}
		if err != nil {
			return state, errors.Join(said...), err
		}
		if s := in.GetStateResponse(); s != nil {
			state = s.GetState()
		}
		if m := in.GetMessageResponse(); m.GetImportance() == jobpb.JobMessage_JOB_MESSAGE_ERROR {
			said = append(said, errors.New(m.GetMessageText()))
		}
	}
}

// A Job is what the REST API shows of one, as far as tests look.
type Job struct {
	ID       string  `json:"id"`
	Name     string  `json:"name"`
	State    string  `json:"state"`
	Error    string  `json:"error"`
	Restarts int     `json:"restarts"`
	Stages   []Stage `json:"stages"`
	Graph    struct {
		Datasets []struct {
			ID, Producer string
			Consumers    []string
		}
	}
	Failures []Failure `json:"failures"`
}

// A Failure is why tasks of a Job were taken back.
type Failure struct {
	At                                time.Time
	Kind, Stage, TaskManager, Message string
	Index, Attempt                    int
}

// A Stage is one of a Job.
type Stage struct {
	ID, Name, Root, Region, State string
	Parallelism                   int
	Started, Ended                time.Time
	Tasks                         []Task
}

// A Task is one of a Stage.
type Task struct {
	Index, Attempt, Slot        int
	State, TaskManager, Durable string
	Started, Ended              time.Time
	OutBytes, OutElements       int64
	Failures                    int
}

// Producers are the stages that a stage reads from.
func (j *Job) Producers(stage string) []string {
	var out []string
	for _, d := range j.Graph.Datasets {
		if slices.Contains(d.Consumers, stage) {
			out = append(out, d.Producer)
		}
	}
	return out
}

// InOrder are the stages, each after those that it reads from.
func (j *Job) InOrder() []Stage {
	var out []Stage
	placed := map[string]bool{}
	for len(out) < len(j.Stages) {
		before := len(out)
		for _, s := range j.Stages {
			ready := !slices.ContainsFunc(j.Producers(s.ID), func(p string) bool { return !placed[p] })
			if !placed[s.ID] && ready {
				placed[s.ID] = true
				out = append(out, s)
			}
		}
		if len(out) == before {
			panic("fleet: stages read in a circle")
		}
	}
	return out
}

// Ended reports states that are final.
func Ended(state string) bool {
	return state == "DONE" || state == "FAILED" || state == "CANCELLED" || state == "DRAINED"
}

// Show asks a node's REST API for a job.
func (n *Node) Show(ctx context.Context, id string) (*Job, error) {
	var j Job
	return &j, n.Get(ctx, "/api/v1/jobs/"+id, &j)
}

// Get asks a node's REST API.
func (n *Node) Get(ctx context.Context, path string, into any) error {
	text, err := n.get(ctx, path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s%s: %w", n.Name, path, err)
	}
	return nil
}

// get asks a node's web address.
func (n *Node) get(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.WebAddr()+path, nil)
	if err != nil {
		return nil, err
	}
	// A connection for each question: the process may be another one next time.
	client := http.Client{Transport: &http.Transport{DialContext: n.host.Dial, DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s%s: %s: %.200s", n.Name, path, resp.Status, text)
	}
	return text, err
}

// Counters are the node's Prometheus metrics, summed over their labels.
func (n *Node) Counters(ctx context.Context) (map[string]float64, error) {
	text, err := n.get(ctx, "/metrics")
	if err != nil {
		return nil, err
	}
	out := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		name, _, _ := strings.Cut(words[0], "{")
		if value, err := strconv.ParseFloat(words[len(words)-1], 64); err == nil {
			out[name] += value
		}
	}
	return out, nil
}
