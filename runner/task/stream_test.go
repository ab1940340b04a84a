package task_test

import (
	"encoding/binary"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"

	"trestle/coders"
	"trestle/element"
	"trestle/fnapi/fnapitest"
	"trestle/runner/bundle/bundletest"
	"trestle/runner/task"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// unbounded makes a pipeline a streaming one.
func unbounded(p *pipepb.Pipeline) {
	for _, c := range p.Components.Pcollections {
		c.IsBounded = pipepb.IsBounded_UNBOUNDED
	}
}

// stream runs all stages of a streaming plan at once, to their ends.
func (r *rig) stream() {
	r.t.Helper()
	if !r.plan.Graph.Streaming {
		r.t.Fatalf("the plan is not a streaming one:\n%v", r.plan)
	}
	var specs []task.Spec
	for _, s := range r.plan.Graph.Stages {
		specs = append(specs, r.spec(s.ID, 0, 1, 1))
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
	const keys, rounds = 20_000, 3
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
			r.stream()
			got.compare(t, want)
			if spilled := r.budget.SpilledBytes() > 0; spilled != (memory < 100<<20) {
				t.Errorf("state went to disk: %v", spilled)
			}
		})
	}
}

// A key's state and timers are the same whether memory holds them or next to
// none of them: each timer fires once, and finds all that was remembered.
func TestStreamStateOnDisk(t *testing.T) {
	const keys = 8000
	want := map[string]int{}
	for k := range keys {
		want[fmt.Sprintf("k%d t@%d a%d+b%d", k, k%1000, k, k)]++
		want[fmt.Sprintf("k%d t@%d a%d+b%d+again", k, 2000+k%7, k, k)]++
	}
	for _, memory := range []int64{256 << 20, 4 << 20} {
		t.Run(fmt.Sprint(memory>>20, " MiB"), func(t *testing.T) {
			got := newTally()
			var r *rig
			r = newRig(t, keyed, options{
				budget: memory, edit: []func(*pipepb.Pipeline){unbounded},
				fns: map[string]bundletest.Fn{
					"Make": func(c *bundletest.Call, _ *coders.Value) error {
						for _, what := range "ab" {
							for k := range keys {
								if err := c.Emit("b", bundletest.Element(element.Timestamp(k%1000), fmt.Sprint("k", k), fmt.Sprintf("%c%d", what, k))); err != nil {
									return err
								}
							}
						}
						return nil
					},
					"State": func(c *bundletest.Call, v *coders.Value) error {
						key := bundletest.Word(v.Key())
						if err := remember(c, key, bundletest.Word(v.KVValue())); err != nil {
							return err
						}
						return set(c, key, fmt.Sprintf("t x@%d", v.Timestamp()))
					},
				},
				worker: func(_ int, h *fnapitest.Harness) {
					h.ProcessTimers = onTimer(&r, func(c *bundletest.Call, family, key, _ string, at int) error {
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
					})
				},
				config: func(c *task.Config) { c.BundleElements = 500 },
			})
			r.stream()
			got.compare(t, want)
			if spilled := r.budget.SpilledBytes() > 0; spilled != (memory < 100<<20) {
				t.Errorf("state went to disk: %v", spilled)
			}
		})
	}
}
