package task_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"trestle/coders"
	"trestle/element"
	"trestle/fnapi/fnapitest"
	"trestle/runner/bundle/bundletest"
	"trestle/runner/jobgraph"
	"trestle/runner/task"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// unbounded makes a pipeline a streaming one.
func unbounded(p *pipepb.Pipeline) {
	for _, c := range p.Components.Pcollections {
		c.IsBounded = pipepb.IsBounded_UNBOUNDED
	}
}

// streamGroups is the number of key groups: more than tasks, and shared out
// unevenly among three.
const streamGroups = 8

// streamSpec is spec for a task of a streaming stage: it has a channel from each
// task that it reads.
func (r *rig) streamSpec(s task.Spec, node *jobgraph.Stage) task.Spec {
	s.KeyGroups = streamGroups
	read := func(id jobgraph.DatasetID) task.Input {
		in := r.input(id)
		if r.plan.Graph.Dataset(id).Partitioning == jobgraph.Forward {
			lo, hi := min(s.Index, len(in.Partitions)), min(s.Index+1, len(in.Partitions))
			in.Partitions = in.Partitions[lo:hi]
			return in
		}
		in.Lo, in.Hi = s.Index, s.Index+1
		return in
	}
	for _, id := range node.Inputs {
		s.Inputs = append(s.Inputs, read(id))
	}
	for _, id := range node.SideInputs {
		s.SideInputs = append(s.SideInputs, read(id))
	}
	for _, id := range node.Outputs {
		s.Outputs = append(s.Outputs, task.Output{Dataset: id, Subpartitions: r.subsOf(r.plan.Graph.Dataset(id))})
	}
	return s
}

// stream runs all stages of a streaming plan at once, to their ends. Those that
// group or have state have n tasks, as have those behind them.
func (r *rig) stream(n int) {
	r.t.Helper()
	for _, s := range r.plan.Graph.Stages {
		r.width[s.ID] = 1
		if s.Root == jobgraph.RootGroup || s.Root == jobgraph.RootKeyed {
			r.width[s.ID] = n
		}
		for _, id := range s.Inputs {
			if s.Root == jobgraph.RootRead {
				r.width[s.ID] = max(r.width[s.ID], r.width[r.plan.Graph.Dataset(id).Producer])
			}
		}
	}
	r.streamAll()
}

// streamAll runs all stages of a streaming plan at once, as wide as they are.
func (r *rig) streamAll() {
	r.t.Helper()
	if !r.plan.Graph.Streaming {
		r.t.Fatalf("the plan is not a streaming one:\n%v", r.plan)
	}
	var specs []task.Spec
	for _, s := range r.plan.Graph.Stages {
		for i := range r.width[s.ID] {
			specs = append(specs, r.spec(s.ID, i, r.width[s.ID], 1))
		}
	}
	r.start(specs...)
	r.finish(specs...)
}

// A tally counts what user code has seen.
type tally struct {
	mu   sync.Mutex
	seen map[string]int
}

func newTally() *tally { return &tally{seen: map[string]int{}} }

func (y *tally) note(text string) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.seen[text]++
}

// compare says where two tallies differ.
func (y *tally) compare(t *testing.T, want map[string]int) {
	t.Helper()
	if maps.Equal(y.seen, want) {
		return
	}
	told := 0
	for k, n := range want {
		if y.seen[k] != n && told < 5 {
			t.Errorf("%.60q was seen %d times, want %d", k, y.seen[k], n)
			told++
		}
	}
	for k, n := range y.seen {
		if want[k] == 0 && told < 10 {
			t.Errorf("%.60q was seen %d times, want none", k, n)
			told++
		}
	}
}

// groupText is a key and the values of a group, in the order in which they came.
func groupText(v *coders.Value) string {
	values := v.KVValue()
	n := binary.BigEndian.Uint32(values)
	values = values[4:]
	var words []string
	for range n {
		size, used := binary.Uvarint(values)
		words = append(words, string(values[used:used+int(size)]))
		values = values[used+int(size):]
	}
	return bundletest.Word(v.Key()) + "=" + strings.Join(words, "+")
}

// Streaming groups are the same whether memory holds them or next to none of
// them, and whatever keys of theirs come again after they went to disk.
func TestStreamGroupsOnDisk(t *testing.T) {
	const keys, rounds = 8000, 3
	want := map[string]int{}
	for k := range keys {
		var values []string
		for i := range rounds {
			values = append(values, fmt.Sprintf("%d-%s", i, strings.Repeat("x", k%50)))
		}
		want[fmt.Sprintf("k%d=%s", k, strings.Join(values, "+"))]++
	}
	for _, memory := range []int64{256 << 20, 4 << 20} {
		t.Run(fmt.Sprint(memory>>20, " MiB"), func(t *testing.T) {
			got := newTally()
			r := newRig(t, "impulse Start out=a\npardo Make in=a out=b\ngbk Group in=b out=c\npardo End in=c out=d", options{
				budget: memory, edit: []func(*pipepb.Pipeline){unbounded},
				fns: map[string]bundletest.Fn{
					"Make": func(c *bundletest.Call, _ *coders.Value) error {
						for i := range rounds {
							for k := range keys {
								elem := bundletest.Element(0, fmt.Sprint("k", k), fmt.Sprintf("%d-%s", i, strings.Repeat("x", k%50)))
								if err := c.Emit("b", elem); err != nil {
									return err
								}
							}
						}
						return nil
					},
					"End": func(_ *bundletest.Call, v *coders.Value) error {
						got.note(groupText(v))
						return nil
					},
				},
			})
			r.stream(1)
			got.compare(t, want)
			if spilled := r.budget.SpilledBytes() > 0; spilled != (memory < 100<<20) {
				t.Errorf("state went to disk: %v", spilled)
			}
		})
	}
}

// stateHow is how TestStreamStateOnDisk runs its pipeline.
type stateHow struct {
	memory int64
	tasks  int
	apart  bool
	fails  string
}

const stateKeys = 3000

// A key's state and timers are the same whether memory holds them or next to
// none of them, whether one task has all keys or three have a share each, and
// whether bundles run one after another or apart, at once, of which some fail:
// each timer fires once, and finds all that was remembered.
func TestStreamStateOnDisk(t *testing.T) {
	for _, how := range []stateHow{
		{256 << 20, 1, false, ""}, {4 << 20, 1, false, ""}, {256 << 20, 3, false, ""},
		{256 << 20, 1, true, ""}, {4 << 20, 1, true, ""}, {256 << 20, 2, true, "code"}, {256 << 20, 1, true, "worker"},
	} {
		t.Run(fmt.Sprintf("%+v", how), func(t *testing.T) { testStreamState(t, how) })
	}
}

func testStreamState(t *testing.T, how stateHow) {
	got, want := newTally(), map[string]int{}
	for k := range stateKeys {
		want[fmt.Sprintf("k%d t@%d a%d+b%d", k, k%1000, k, k)]++
		want[fmt.Sprintf("k%d t@%d a%d+b%d+again", k, 2000+k%7, k, k)]++
	}
	edit := []func(*pipepb.Pipeline){unbounded}
	if how.apart {
		edit = append(edit, bundletest.Capable("beam:protocol:multi_core_bundle_processing:v1"))
	}
	together := meeting{met: make(chan struct{})}
	var calls atomic.Int64
	var r *rig
	r = newRig(t, keyed, options{
		budget: how.memory, edit: edit,
		fns: map[string]bundletest.Fn{
			"Make": makeState,
			"State": func(c *bundletest.Call, v *coders.Value) error {
				if how.apart {
					together.await()
				}
				if n := calls.Add(1); n == 700 && how.fails != "" {
					if how.fails == "worker" {
						r.workers.Harness(0).Die()
					}
					return errors.New("boom")
				}
				key := bundletest.Word(v.Key())
				if err := remember(c, key, bundletest.Word(v.KVValue())); err != nil {
					return err
				}
				return set(c, key, fmt.Sprintf("t x@%d", v.Timestamp()))
			},
		},
		worker: func(_ int, h *fnapitest.Harness) {
			h.ProcessTimers = onTimer(&r, func(c *bundletest.Call, family, key, _ string, at int) error {
				return fireState(c, got, family, key, at)
			})
		},
		config: func(c *task.Config) { c.BundleElements = 500 },
	})
	r.stream(how.tasks)
	got.compare(t, want)
	select {
	case <-together.met:
	default:
		if how.apart {
			t.Error("no two bundles ran at once")
		}
	}
	if spilled := r.budget.SpilledBytes() > 0; spilled != (how.memory < 100<<20) {
		t.Errorf("state went to disk: %v", spilled)
	}
}

// makeState emits two elements of each key.
func makeState(c *bundletest.Call, _ *coders.Value) error {
	for _, what := range "ab" {
		for k := range stateKeys {
			if err := c.Emit("b", bundletest.Element(element.Timestamp(k%1000), fmt.Sprint("k", k), fmt.Sprintf("%c%d", what, k))); err != nil {
				return err
			}
		}
	}
	return nil
}

// fireState notes what a timer finds, and sets the first one of a key again.
func fireState(c *bundletest.Call, got *tally, family, key string, at int) error {
	all, err := recall(c, key)
	if err != nil {
		return err
	}
	got.note(fmt.Sprintf("%s %s@%d %s", key, family, at, all))
	if at >= 2000 {
		return nil
	}
	var k int
	fmt.Sscanf(key, "k%d", &k)
	if err := remember(c, key, "again"); err != nil {
		return err
	}
	return set(c, key, fmt.Sprintf("t x@%d", 2000+k%7))
}

// regroup has two groupings, one behind the other, of what comes from two
// sources, one of them unbounded.
const regroup = `
impulse   One           out=a
pardo     Make   in=a   out=b
impulse   Two           out=c
pardo     More   in=c   out=d
flatten   Both   in=b,d out=e
gbk       Group  in=e   out=f
pardo     Turn   in=f   out=g
collection g coder=kv<bytes,bytes>
gbk       Again  in=g   out=h
pardo     End    in=h   out=i
collection d unbounded`

// Streaming stages may have several tasks: a key is one task's, and a group
// waits for all tasks that might still send something for it, so that it comes
// out once and whole.
func TestStreamTasks(t *testing.T) {
	const keys, classes = 500, 7
	want := map[string]int{}
	for class := range classes {
		var all []string
		for k := class; k < keys; k += classes {
			all = append(all, fmt.Sprintf("k%d=2", k))
		}
		slices.Sort(all)
		want[fmt.Sprintf("c%d: %s", class, strings.Join(all, " "))]++
	}
	emit := func(collection string) bundletest.Fn {
		return func(c *bundletest.Call, _ *coders.Value) error {
			for k := range keys {
				if err := c.Emit(collection, bundletest.Element(0, fmt.Sprint("k", k), collection)); err != nil {
					return err
				}
			}
			return nil
		}
	}
	for _, n := range []int{1, 2, 3} {
		for _, managers := range []int{1, 2} {
			t.Run(fmt.Sprint(n, " tasks, ", managers, " managers"), func(t *testing.T) {
				got := newTally()
				r := newRig(t, regroup, options{
					managers: managers,
					fns: map[string]bundletest.Fn{
						"Make": emit("b"), "More": emit("d"),
						"Turn": func(c *bundletest.Call, v *coders.Value) error {
							key, values, _ := strings.Cut(groupText(v), "=")
							var k int
							fmt.Sscanf(key, "k%d", &k)
							count := strings.Count(values, "+") + 1
							return c.Emit("g", bundletest.Element(0, fmt.Sprint("c", k%classes), fmt.Sprintf("%s=%d", key, count)))
						},
						"End": func(_ *bundletest.Call, v *coders.Value) error {
							class, values, _ := strings.Cut(groupText(v), "=")
							all := strings.Split(values, "+")
							slices.Sort(all)
							got.note(class + ": " + strings.Join(all, " "))
							return nil
						},
					},
				})
				r.stream(n)
				got.compare(t, want)
			})
		}
	}
}
