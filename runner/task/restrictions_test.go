package task_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"trestle/coders"
	"trestle/fnapi/fnapitest"
	"trestle/runner/bundle/bundletest"
	"trestle/runner/task"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"google.golang.org/protobuf/types/known/durationpb"
)

// source has a splittable DoFn.
const source = `
impulse    Start         out=a
pardo      Make   in=a   out=b
splittable Read   in=b   out=c
gbk        Again  in=c   out=d
pardo      End    in=d   out=e`

// A span is a restriction of the fake source: it gives n:i for lo <= i < hi.
type span struct {
	name   string
	lo, hi int
}

func (s span) String() string { return fmt.Sprintf("%s:%d-%d", s.name, s.lo, s.hi) }

// encode makes the sized restriction element that splitting gives:
// kv<kv<element, restriction>, size>, in the coders of the plan.
func (s span) encode() []byte {
	b := coders.AppendHeader(nil, 0, 1, nil, coders.NoFiring)
	b = append(b, bundletest.Bytes(s.name)...)                           // the element's key
	b = append(b, bundletest.Bytes("")...)                               // and value
	b = append(b, bundletest.Bytes(fmt.Sprintf("%d-%d", s.lo, s.hi))...) // the restriction
	return binary.BigEndian.AppendUint64(b, math.Float64bits(float64(s.hi-s.lo)))
}

func decodeSpan(b []byte) (s span, rest []byte, err error) {
	b = b[13:]
	words := make([]string, 3)
	for i := range words {
		n, used := binary.Uvarint(b)
		words[i], b = string(b[used:used+int(n)]), b[used+int(n):]
	}
	s.name = words[0]
	_, err = fmt.Sscanf(words[2], "%d-%d", &s.lo, &s.hi)
	return s, b[8:], err
}

// A splitter is the user code of a source: bundles work off spans and can be
// split, as SDKs do.
type splitter struct {
	t  *testing.T
	mu sync.Mutex
	// emit is called for each number before it is given, and may hold up or fail.
	emit func(c *fnapitest.Call, s span, i int) error
	// stop says where a span checkpoints itself; nil: nowhere.
	stop func(s span) (at int, delay time.Duration, ok bool)
	// onSplit sees each split that gives something; nil: nobody does.
	onSplit func(resp *fnpb.ProcessBundleSplitResponse)
	// managers is the number of TaskManagers.
	managers int
	bundles  map[string]*spans
}

// spans are a bundle's.
type spans struct {
	all  []span
	at   int // in all
	done int // of all[at]: numbers before it are given or being given
}

// process is a harness's Process for the source's stage.
func (p *splitter) process(c *fnapitest.Call, chunk []byte) error {
	p.mu.Lock()
	b := p.bundles[c.Instruction]
	if b == nil {
		b = &spans{}
		p.bundles[c.Instruction] = b
	}
	for len(chunk) > 0 {
		s, rest, err := decodeSpan(chunk)
		if err != nil {
			p.mu.Unlock()
			return err
		}
		b.all = append(b.all, s)
		chunk = rest
	}
	p.mu.Unlock()
	return nil
}

// finish works the spans off, when all are there.
func (p *splitter) finish(c *fnapitest.Call) (*fnpb.ProcessBundleResponse, error) {
	resp := &fnpb.ProcessBundleResponse{}
	p.mu.Lock()
	b := p.bundles[c.Instruction]
	p.mu.Unlock()
	if b == nil {
		return resp, nil
	}
	for {
		p.mu.Lock()
		if b.at == len(b.all) {
			p.mu.Unlock()
			return resp, nil
		}
		s := b.all[b.at]
		if b.done < s.lo {
			b.done = s.lo
		}
		i := b.done
		var stop bool
		var delay time.Duration
		if p.stop != nil && i < s.hi {
			var at int
			if at, delay, stop = p.stop(s); stop && i >= at {
				rest := s
				rest.lo = at
				b.all[b.at].hi = at
				resp.ResidualRoots = append(resp.ResidualRoots, &fnpb.DelayedBundleApplication{
					Application:        &fnpb.BundleApplication{Element: rest.encode()},
					RequestedTimeDelay: durationpb.New(delay),
				})
				s.hi = at
			}
		}
		if i >= s.hi {
			b.at++
			b.done = 0
			p.mu.Unlock()
			continue
		}
		b.done++
		p.mu.Unlock()
		if err := p.emit(c, s, i); err != nil {
			return nil, err
		}
		if err := c.Emit(c.Sinks[0], bundletest.Element(0, s.name, fmt.Sprint(i))); err != nil {
			return nil, err
		}
	}
}

// split answers a split request.
func (p *splitter) split(req *fnpb.ProcessBundleSplitRequest) *fnpb.ProcessBundleSplitResponse {
	p.mu.Lock()
	defer p.mu.Unlock()
	resp := p.halve(req)
	if p.onSplit != nil && len(resp.GetChannelSplits()) > 0 {
		p.onSplit(resp)
	}
	return resp
}

// halve halves what the bundle has not begun, or leaves none of it. The lock is
// held.
func (p *splitter) halve(req *fnpb.ProcessBundleSplitRequest) *fnpb.ProcessBundleSplitResponse {
	resp := &fnpb.ProcessBundleSplitResponse{}
	b := p.bundles[req.GetInstructionId()]
	if b == nil || b.at >= len(b.all) {
		return resp
	}
	none := true
	for _, d := range req.GetDesiredSplits() {
		none = none && d.GetFractionOfRemainder() == 0
	}
	if left := len(b.all) - b.at - 1; left > 0 { // whole spans first
		keep := b.at + left/2
		if none {
			keep = b.at
		}
		b.all = b.all[:keep+1]
		resp.ChannelSplits = []*fnpb.ProcessBundleSplitResponse_ChannelSplit{{
			TransformId: "trestle:source", LastPrimaryElement: int64(keep), FirstResidualElement: int64(keep + 1),
		}}
		return resp
	}
	s := b.all[b.at]
	mid := (max(b.done, s.lo) + s.hi + 1) / 2
	if none {
		mid = b.done
	}
	if mid >= s.hi || mid <= s.lo {
		return resp
	}
	rest := s
	rest.lo = mid
	b.all[b.at].hi = mid
	resp.PrimaryRoots = []*fnpb.BundleApplication{{Element: b.all[b.at].encode()}}
	resp.ResidualRoots = []*fnpb.DelayedBundleApplication{{Application: &fnpb.BundleApplication{Element: rest.encode()}}}
	resp.ChannelSplits = []*fnpb.ProcessBundleSplitResponse_ChannelSplit{{
		TransformId: "trestle:source", LastPrimaryElement: int64(b.at) - 1, FirstResidualElement: int64(b.at) + 1,
	}}
	return resp
}

// newSource makes a rig whose source has these spans, up to the start of its
// stage.
func newSource(t *testing.T, p *splitter, config func(*task.Config), all ...span) *rig {
	t.Helper()
	p.t, p.bundles = t, map[string]*spans{}
	if p.emit == nil {
		p.emit = func(*fnapitest.Call, span, int) error { return nil }
	}
	r := newRig(t, source, options{
		config: config, managers: p.managers,
		worker: func(_ int, h *fnapitest.Harness) {
			h.Process = func(c *fnapitest.Call, _ string, chunk []byte) error {
				if strings.HasPrefix(c.Descriptor.GetId(), "s2/") {
					return p.process(c, chunk)
				}
				for _, s := range all {
					if err := c.Emit(c.Sinks[0], s.encode()); err != nil {
						return err
					}
				}
				return nil
			}
			h.Finish, h.Split = p.finish, p.split
		},
	})
	r.run(r.stage("Make"), 1)
	return r
}

// onSomeManagers runs a test on one TaskManager, and on three, of which one
// keeps the queue; and once with all that was pulled in a file.
func onSomeManagers(t *testing.T, test func(t *testing.T, managers int)) {
	for _, n := range []int{1, 3} {
		t.Run(fmt.Sprintf("managers=%d", n), func(t *testing.T) { test(t, n) })
	}
	t.Run("in a file", func(t *testing.T) {
		t.Cleanup(task.SetLedgerBytes(1)) // runs after the TaskManagers'
		test(t, 1)
	})
}

// want is all that spans give.
func want(all ...span) string {
	var words []string
	for _, s := range all {
		for i := s.lo; i < s.hi; i++ {
			words = append(words, fmt.Sprintf("%s:%d", s.name, i))
		}
	}
	return sorted(strings.Join(words, " "))
}

// One span feeds all tasks, by splits, and each number is given once.
func TestSourceIsSplit(t *testing.T) { onSomeManagers(t, testSourceIsSplit) }

func testSourceIsSplit(t *testing.T, managers int) {
	p := &splitter{managers: managers, emit: func(_ *fnapitest.Call, _ span, i int) error {
		time.Sleep(200 * time.Microsecond) // as user code that takes its time
		return nil
	}}
	s := span{"x", 0, 1000}
	r := newSource(t, p, nil, s)
	done := r.run(r.stage("Read.process"), 3)
	if got := r.output("c"); got != want(s) {
		t.Errorf("%d numbers, want %d, each once", len(strings.Fields(got)), s.hi)
	}
	for _, f := range done {
		if f.OutElements < 100 {
			t.Errorf("%v did %d of 1000", f.ID, f.OutElements)
		}
	}
}

// A bundle that lasts longer than the job allows leaves the rest to another one,
// also where no other task waits, and also what it was left.
func TestBundleTime(t *testing.T) { onSomeManagers(t, testBundleTime) }

func testBundleTime(t *testing.T, managers int) {
	var splits atomic.Int64
	p := &splitter{
		managers: managers,
		emit: func(c *fnapitest.Call, s span, i int) error {
			if i != s.lo || s.hi-s.lo < 10 {
				return nil
			}
			late := time.After(10 * time.Second)
			for seen := splits.Load(); splits.Load() == seen; { // not on before it is split
				select {
				case <-late:
					return errors.New("nobody splits")
				case <-c.Context().Done():
					return errors.New("dead")
				case <-time.After(time.Millisecond):
				}
			}
			return nil
		},
		onSplit: func(*fnpb.ProcessBundleSplitResponse) { splits.Add(1) },
	}
	s := span{"x", 0, 100}
	r := newSource(t, p, nil, s)
	r.bundleTime = time.Millisecond
	r.run(r.stage("Read.process"), 1)
	if got := r.output("c"); got != want(s) {
		t.Errorf("%d numbers, want %d, each once", len(strings.Fields(got)), s.hi)
	}
	if n := splits.Load(); n < 3 {
		t.Errorf("%d splits, want at least three", n)
	}
}

// A worker dies after its bundle was split: what the bundle kept runs again, and
// what it gave is done by others, once.
func TestDeathAfterSplit(t *testing.T) { onSomeManagers(t, testDeathAfterSplit) }

func testDeathAfterSplit(t *testing.T, managers int) {
	for _, how := range []string{"worker dies", "user code fails", "all fails until the task does"} {
		t.Run(how, func(t *testing.T) {
			var r *rig
			var splits, fails atomic.Int64
			p := &splitter{managers: managers}
			split := make(chan struct{})
			p.emit = func(c *fnapitest.Call, s span, i int) error {
				if i != 0 {
					return nil
				}
				select {
				case <-split:
				case <-c.Context().Done():
					return errors.New("dead")
				}
				if fails.Add(1) > 1 && how != "all fails until the task does" || fails.Load() > 2 {
					return nil
				}
				if how == "worker dies" {
					r.workers.Harness(0).Die()
				}
				return errors.New("boom")
			}
			s := []span{{"x", 0, 100}, {"y", 1, 50}, {"z", 1, 50}}
			p.onSplit = func(*fnpb.ProcessBundleSplitResponse) {
				if splits.Add(1) == 3 {
					close(split)
				}
			}
			r = newSource(t, p, func(c *task.Config) { c.UserTries, c.WorkerTries = 2, 2 }, s...)
			var specs []task.Spec
			for i := range 3 {
				specs = append(specs, r.spec(r.stage("Read.process"), i, 3, 1))
			}
			r.start(specs...)
			for i := range specs {
				rep := r.end(specs[i].ID)
				if rep.Failed == nil {
					continue
				}
				if how != "all fails until the task does" || rep.Failed.Cause != task.CauseUser {
					t.Fatalf("%+v", rep.Failed)
				}
				specs[i].Attempt = 2
				r.start(specs[i])
			}
			r.finish(specs...)
			if got := r.output("c"); got != want(s...) {
				t.Errorf("output %s, want each number once", got)
			}
		})
	}
}

// What a bundle leaves by a checkpoint of its own waits for its delay, and all
// comes once, though a task fails and is tried again.
func TestSelfCheckpoint(t *testing.T) { onSomeManagers(t, testSelfCheckpoint) }

func testSelfCheckpoint(t *testing.T, managers int) {
	var failed atomic.Bool
	p := &splitter{
		managers: managers,
		stop:     func(s span) (int, time.Duration, bool) { return s.lo + 10, 2 * time.Millisecond, s.hi > s.lo+10 },
		emit: func(_ *fnapitest.Call, s span, i int) error {
			if s.name == "x" && i == 35 && !failed.Swap(true) {
				return errors.New("boom")
			}
			return nil
		},
	}
	all := []span{{"x", 0, 57}, {"y", 0, 33}, {"z", 0, 5}}
	r := newSource(t, p, func(c *task.Config) { c.UserTries = 1 }, all...)
	var specs []task.Spec
	for i := range 2 {
		specs = append(specs, r.spec(r.stage("Read.process"), i, 2, 1))
	}
	r.start(specs...)
	failures := 0
	for i := range specs {
		if rep := r.end(specs[i].ID); rep.Failed != nil {
			failures++
			specs[i].Attempt = 2
			r.start(specs[i])
		}
	}
	if failures != 1 {
		t.Errorf("%d tasks failed, want 1", failures)
	}
	r.finish(specs...)
	if got := r.output("c"); got != want(all...) {
		t.Errorf("output %s, want each number once", got)
	}
}

// A task that waits for work, and one whose work waits for its delay, end when
// they are cancelled.
func TestSourceCancel(t *testing.T) {
	p := &splitter{stop: func(s span) (int, time.Duration, bool) { return s.lo + 1, time.Hour, true }}
	r := newSource(t, p, nil, span{"x", 0, 10})
	specs := []task.Spec{r.spec(r.stage("Read.process"), 0, 2, 1), r.spec(r.stage("Read.process"), 1, 2, 1)}
	r.start(specs...)
	canceled := 0
	for _, s := range specs {
		r.began(s.ID)
	}
	r.tm.Cancel([]task.ID{specs[0].ID, specs[1].ID})
	for _, s := range specs {
		if f := r.end(s.ID).Failed; f != nil && f.Cause == task.CauseCanceled {
			canceled++
		}
	}
	// The one without work may have come to the end of the queue when the other
	// was gone.
	if canceled == 0 {
		t.Error("both tasks finished, an hour too early")
	}
}

// A split that makes no sense loses nothing: the bundle runs again.
func TestNonsenseSplit(t *testing.T) {
	p := &splitter{}
	asked := make(chan struct{})
	var once sync.Once
	p.onSplit = func(resp *fnpb.ProcessBundleSplitResponse) {
		once.Do(func() {
			resp.ChannelSplits[0].FirstResidualElement = 7
			close(asked)
		})
	}
	p.emit = func(c *fnapitest.Call, _ span, _ int) error {
		select {
		case <-asked:
		case <-c.Context().Done():
		}
		return nil
	}
	s := span{"x", 0, 20}
	r := newSource(t, p, nil, s)
	r.run(r.stage("Read.process"), 2)
	if got := r.output("c"); got != want(s) {
		t.Errorf("output %s, want each number once", got)
	}
}
