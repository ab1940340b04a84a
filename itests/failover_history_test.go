package itests

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"trestle/itests/fleet"
	"trestle/itests/jobs"

	"github.com/anishathalye/porcupine"
	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A call is what a client asked about one preparation, and an answer what it
// was told.
type (
	call struct {
		what string // run, state or cancel
		prep string
		node string
	}
	answer struct {
		code  codes.Code
		id    string // run's
		state string // state's
	}
)

// A believed job is what the model holds of one.
type believed struct {
	id    string // "" before it was run
	state string // the furthest that it was seen, or was asked for
}

var ranks = map[string]int{"": 0, "STOPPED": 1, "STARTING": 2, "RUNNING": 3, "DRAINING": 4, "CANCELLING": 4,
	"DONE": 5, "FAILED": 5, "CANCELLED": 5, "DRAINED": 5}

// reach is whether a job that was in one state may be in the other now.
func reach(from, to string) bool {
	if fleet.Ended(from) {
		return from == to
	}
	return ranks[to] >= ranks[from]
}

// certain answers say what happened; after others a call may have had its
// effect or not.
func (a answer) certain() bool {
	return a.code == codes.OK || a.code == codes.NotFound || a.code == codes.InvalidArgument
}

// jobModel says: a job is there from its acknowledged Run on, under one id; its
// state goes only forward; its end is final; what was cancelled runs no more.
var jobModel = porcupine.NondeterministicModel{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		by := map[string][]porcupine.Operation{}
		for _, op := range history {
			prep := op.Input.(call).prep
			by[prep] = append(by[prep], op)
		}
		var out [][]porcupine.Operation
		for _, ops := range by {
			out = append(out, ops)
		}
		return out
	},
	Init: func() []any { return []any{believed{}} },
	Step: func(state, input, output any) []any {
		var out []any
		for _, b := range stepJob(state.(believed), input.(call), output.(answer)) {
			out = append(out, b)
		}
		return out
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v: %+v", input, output) },
}

func stepJob(b believed, c call, a answer) []believed {
	exists := b.id != ""
	switch {
	case a.code == codes.NotFound || a.code == codes.InvalidArgument:
		if exists {
			return nil // it was there already
		}
		return []believed{b}
	case c.what == "run":
		id := a.id
		if !a.certain() {
			id = "unknown"
		}
		if exists {
			if a.certain() && b.id != "unknown" && b.id != id {
				return nil // there are two
			}
			if a.certain() {
				b.id = id
			}
			return []believed{b}
		}
		ran := believed{id: id, state: "STOPPED"}
		if a.certain() {
			return []believed{ran}
		}
		return []believed{b, ran}
	case c.what == "cancel":
		asked := b
		if !fleet.Ended(b.state) {
			asked.state = "CANCELLING"
		}
		switch {
		case !a.certain() && exists:
			return []believed{b, asked}
		case !a.certain():
			return []believed{b}
		case !exists:
			return nil
		}
		return []believed{asked}
	case !exists && a.state == "STOPPED":
		return []believed{b} // it is prepared, and that is all
	default:
		if !exists || !reach(b.state, a.state) {
			return nil
		}
		b.state = a.state
		return []believed{b}
	}
}

// A historian lets clients call, and writes down what they hear.
type historian struct {
	r       *rig
	clients []*fleet.Client
	nodes   []*fleet.Node
	began   time.Time

	mu      sync.Mutex
	history []porcupine.Operation
}

func newHistorian(r *rig) *historian {
	h := &historian{r: r, nodes: r.Of(fleet.JobManager), began: time.Now()}
	for _, n := range h.nodes {
		c, err := n.Dial()
		if err != nil {
			r.t.Fatal(err)
		}
		h.clients = append(h.clients, c)
		r.t.Cleanup(c.Close)
	}
	return h
}

// do makes one call at one node by chance.
func (h *historian) do(ctx context.Context, client int, what, prep string) answer {
	return h.doAt(ctx, client, rand.IntN(len(h.clients)), what, prep)
}

func (h *historian) doAt(ctx context.Context, client, at int, what, prep string) answer {
	c := h.clients[at]
	ctx, cancel := context.WithTimeout(ctx, 4*time.Second)
	defer cancel()
	op := porcupine.Operation{ClientId: client, Input: call{what, prep, h.nodes[at].Name}, Call: time.Since(h.began).Nanoseconds()}
	var a answer
	var err error
	switch what {
	case "run":
		var r *jobpb.RunJobResponse
		r, err = c.Run(ctx, &jobpb.RunJobRequest{PreparationId: prep})
		a.id = r.GetJobId()
	case "cancel":
		_, err = c.Cancel(ctx, &jobpb.CancelJobRequest{JobId: prep})
	default:
		var s *jobpb.JobStateEvent
		s, err = c.GetState(ctx, &jobpb.GetJobStateRequest{JobId: prep})
		a.state = s.GetState().String()
	}
	a.code = status.Code(err)
	op.Output, op.Return = a, time.Since(h.began).Nanoseconds()
	if !a.certain() {
		if what == "state" {
			return a // nothing was learnt and nothing done
		}
		op.Return = 1 << 60 // its effect may come at any time
	}
	h.mu.Lock()
	h.history = append(h.history, op)
	h.mu.Unlock()
	return a
}

// TestFailoverHistory has clients run, watch and cancel the same jobs through
// all nodes while leaders die, freeze and are cut off. What they are told fits
// one story.
func TestFailoverHistory(t *testing.T) {
	r := startRig(t, standard)
	h := newHistorian(r)
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(fullOrQuick(240, 25))*time.Second)
	defer cancel()
	var clients sync.WaitGroup
	var submitted sync.Map // preparation → trial
	for i := range 3 {
		clients.Go(func() { h.client(ctx, i, &submitted) })
	}
	faults := r.trouble(ctx, t)
	clients.Wait()

	judge := h.settle(t, &submitted)
	result, info := porcupine.CheckOperationsVerbose(jobModel.ToModel(), h.history, 2*time.Minute)
	if result != porcupine.Ok {
		path := filepath.Join(os.TempDir(), "trestle-history.html")
		_ = porcupine.VisualizePath(jobModel.ToModel(), info, path)
		t.Errorf("porcupine says %s; see %s\n%s", result, path, h.unclear())
	}
	uncertain := 0
	for _, op := range h.history {
		if !op.Output.(answer).certain() {
			uncertain++
		}
	}
	t.Logf("%d calls, %d of uncertain outcome, about %d jobs; %s", len(h.history), uncertain, judge, strings.Join(faults, ", "))
}

// client prepares jobs and shares each with others: runs it, often twice, looks
// at it, and sometimes cancels it.
func (h *historian) client(ctx context.Context, number int, submitted *sync.Map) {
	for n := 0; ctx.Err() == nil; n++ {
		prep, at, ok := h.prepare(ctx, fmt.Sprintf("history-%d-%d", number, n), submitted)
		if !ok {
			continue // somebody was away; that is not what is judged here
		}
		var some sync.WaitGroup
		for twin := range 2 {
			some.Go(func() {
				// A preparation is known where it was made until it is run. Who got no
				// answer there tries elsewhere.
				for try := 0; ctx.Err() == nil && try < 4; try++ {
					if h.doAt(ctx, 3*number+twin, (at+try)%len(h.clients), "run", prep).certain() {
						break
					}
				}
			})
		}
		some.Go(func() {
			cancels := rand.IntN(4) == 0
			for look := range 12 {
				a := h.do(ctx, 3*number+2, "state", prep)
				if fleet.Ended(a.state) && look > 3 {
					return
				}
				if cancels && look == 5 {
					h.do(ctx, 3*number+2, "cancel", prep)
				}
				sleepFor(ctx, time.Duration(rand.IntN(120))*time.Millisecond)
			}
		})
		some.Wait()
	}
}

// prepare makes one preparation.
func (h *historian) prepare(ctx context.Context, name string, submitted *sync.Map) (prep string, at int, ok bool) {
	x := &trial{r: h.r, name: name, shape: jobs.Shape{Elements: 20, FirstKeys: 4, SecondKeys: 3, Dir: filepath.Join(h.r.dir, name)}}
	if err := os.Mkdir(x.shape.Dir, 0o700); err != nil {
		h.r.t.Error(err)
		return "", 0, false
	}
	p, err := x.goProto()
	if err != nil {
		h.r.t.Error(err)
		return "", 0, false
	}
	ctx, cancel := context.WithTimeout(ctx, 4*time.Second)
	defer cancel()
	at = rand.IntN(len(h.clients))
	prep, err = h.clients[at].Prepared(ctx, name, p)
	if err != nil {
		return "", 0, false
	}
	submitted.Store(prep, x)
	return prep, at, true
}

// settle waits until all that was run has ended, the same at all nodes, with
// each result exact and each job there once. It returns the number of jobs.
func (h *historian) settle(t *testing.T, submitted *sync.Map) int {
	t.Helper()
	acknowledged := map[string]string{} // preparation → job
	for _, op := range h.history {
		if a := op.Output.(answer); op.Input.(call).what == "run" && a.code == codes.OK {
			acknowledged[op.Input.(call).prep] = a.id
		}
	}
	for prep, id := range acknowledged {
		x, _ := submitted.Load(prep)
		states := map[string]string{}
		err := fleet.Await(t.Context(), faultyJobTime, id+" has ended", func() bool {
			for _, n := range h.nodes {
				j, err := n.Show(t.Context(), id)
				if err != nil || !fleet.Ended(j.State) {
					states[n.Name] = fmt.Sprint(j.State, err)
					return false
				}
				states[n.Name] = j.State
			}
			return true
		})
		if err != nil {
			t.Errorf("%v: %v", err, states)
			continue
		}
		first := states[h.nodes[0].Name]
		for name, s := range states {
			if s != first {
				t.Errorf("job %s is %s at %s and %s at %s", id, first, h.nodes[0].Name, s, name)
			}
		}
		if s := x.(*trial).shape; first == "DONE" {
			if err := s.Check(); err != nil {
				t.Errorf("job %s: %v", id, err)
			}
		} else if first == "FAILED" {
			t.Errorf("job %s FAILED", id)
		}
		h.do(t.Context(), 0, "state", prep)
	}
	h.once(t)
	return len(acknowledged)
}

// once checks that no preparation became two jobs.
func (h *historian) once(t *testing.T) {
	t.Helper()
	var list struct{ Jobs []fleet.Job }
	if err := h.nodes[0].Get(t.Context(), "/api/v1/jobs", &list); err != nil {
		t.Error(err)
	}
	names := map[string]string{}
	for _, j := range list.Jobs {
		if other, twice := names[j.Name]; twice {
			t.Errorf("%s is two jobs: %s and %s", j.Name, other, j.ID)
		}
		names[j.Name] = j.ID
	}
}

// unclear are the stories that don't fit, shortest first, for the log.
func (h *historian) unclear() string {
	by := jobModel.Partition(h.history)
	slices.SortFunc(by, func(a, b []porcupine.Operation) int { return len(a) - len(b) })
	var out strings.Builder
	told := 0
	for _, ops := range by {
		if porcupine.CheckOperations(jobModel.ToModel(), ops) {
			continue
		}
		slices.SortFunc(ops, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
		for _, op := range ops {
			fmt.Fprintf(&out, "%9.3f–%9.3f client %d %+v → %+v\n", float64(op.Call)/1e9, float64(op.Return)/1e9, op.ClientId, op.Input, op.Output)
		}
		out.WriteString("\n")
		if told++; told == 3 {
			break
		}
	}
	return out.String()
}

// trouble kills, freezes and cuts off leaders until ctx ends, and then lets all
// be well. It tells what it did.
func (r *rig) trouble(ctx context.Context, t *testing.T) (did []string) {
	t.Helper()
	for {
		sleepFor(ctx, time.Second+r.within(2*time.Second))
		if ctx.Err() != nil {
			return did
		}
		n, _ := r.leader()
		if r.chance.IntN(4) == 0 {
			n = r.one(r.Of(fleet.JobManager))
		}
		switch r.chance.IntN(3) {
		case 0:
			did = append(did, "killed "+n.Name)
			n.Kill()
			r.pause(r.within(2 * time.Second))
			if err := n.Restart(t.Context()); err != nil {
				t.Error(err)
				return did
			}
		case 1:
			did = append(did, "stopped "+n.Name)
			n.Pause()
			r.pause(r.within(5 * time.Second))
			n.Resume()
		default:
			did = append(did, "cut off "+n.Name)
			if err := r.Net.Part([]string{n.Name}, r.Others(n)[1:]); err != nil {
				t.Error(err)
			}
			r.pause(r.within(5 * time.Second))
			if err := r.Net.HealAll(); err != nil {
				t.Error(err)
			}
		}
	}
}

func sleepFor(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// TestFailoverModel sees that the judge of histories finds what is wrong in
// them.
func TestFailoverModel(t *testing.T) {
	op := func(from, to int64, what string, a answer) porcupine.Operation {
		return porcupine.Operation{Input: call{what: what, prep: "p"}, Call: from, Output: a, Return: to}
	}
	ran := answer{id: "j"}
	tests := []struct {
		name string
		ok   bool
		ops  []porcupine.Operation
	}{
		{"run, seen, ended", true, []porcupine.Operation{op(1, 2, "run", ran), op(3, 4, "state", answer{state: "RUNNING"}), op(5, 6, "state", answer{state: "DONE"})}},
		{"lost after it was acknowledged", false, []porcupine.Operation{op(1, 2, "run", ran), op(3, 4, "state", answer{code: codes.NotFound})}},
		{"not found while it was being run", true, []porcupine.Operation{op(1, 4, "run", ran), op(2, 3, "state", answer{code: codes.NotFound})}},
		{"run without an answer", true, []porcupine.Operation{op(1, 1<<60, "run", answer{code: codes.Unavailable}), op(2, 3, "state", answer{code: codes.NotFound}), op(4, 5, "state", answer{state: "RUNNING"})}},
		{"two jobs", false, []porcupine.Operation{op(1, 2, "run", ran), op(3, 4, "run", answer{id: "k"})}},
		{"revived", false, []porcupine.Operation{op(1, 2, "run", ran), op(3, 4, "state", answer{state: "DONE"}), op(5, 6, "state", answer{state: "RUNNING"})}},
		{"another end", false, []porcupine.Operation{op(1, 2, "run", ran), op(3, 4, "state", answer{state: "DONE"}), op(5, 6, "state", answer{state: "CANCELLED"})}},
		{"backwards", false, []porcupine.Operation{op(1, 2, "run", ran), op(3, 4, "state", answer{state: "RUNNING"}), op(5, 6, "state", answer{state: "STARTING"})}},
		{"runs on though cancelled", false, []porcupine.Operation{op(1, 2, "run", ran), op(3, 4, "cancel", answer{}), op(5, 6, "state", answer{state: "RUNNING"})}},
		{"cancelled", true, []porcupine.Operation{op(1, 2, "run", ran), op(3, 4, "cancel", answer{}), op(5, 6, "state", answer{state: "CANCELLED"})}},
		{"prepared", true, []porcupine.Operation{op(1, 2, "state", answer{state: "STOPPED"}), op(3, 4, "state", answer{code: codes.NotFound})}},
		{"seen though nobody ran it", false, []porcupine.Operation{op(1, 2, "state", answer{state: "RUNNING"})}},
	}
	for _, test := range tests {
		if ok := porcupine.CheckOperations(jobModel.ToModel(), test.ops); ok != test.ok {
			t.Errorf("%s: %v, want %v", test.name, ok, test.ok)
		}
	}
}
