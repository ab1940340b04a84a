package task_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"trestle/coders"
	"trestle/fnapi/fnapitest"
	"trestle/runner/bundle/bundletest"
	"trestle/runner/metrics"
	"trestle/runner/task"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// grouped has a stage in front of a GroupByKey and one behind.
const grouped = `
impulse   Start         out=a
pardo     Make   in=a   out=b
gbk       Group  in=b   out=c
pardo     Count  in=c   out=d
gbk       Again  in=d   out=e
pardo     End    in=e   out=f`

// count is user code behind a GroupByKey: it emits key:number of values.
func countValues(c *bundletest.Call, v *coders.Value) error {
	n := len(iterable(v.KVValue()))
	return c.Emit("d", bundletest.Element(0, bundletest.Word(v.Key()), fmt.Sprint(n)))
}

// iterable decodes an iterable of byte strings, of known length or not.
func iterable(b []byte) (values []string) {
	take := func(n int) {
		for range n {
			size, used := binary.Uvarint(b)
			values = append(values, string(b[used:used+int(size)]))
			b = b[used+int(size):]
		}
	}
	n := int32(binary.BigEndian.Uint32(b))
	b = b[4:]
	if n >= 0 {
		take(int(n))
		return values
	}
	for {
		n, used := binary.Uvarint(b)
		b = b[used:]
		if n == 0 {
			return values
		}
		take(int(n))
	}
}

// An impulse feeds a stage, whose output is grouped by several tasks.
func TestGroup(t *testing.T) {
	r := newRig(t, grouped, options{fns: map[string]bundletest.Fn{
		"Make": emits("b", numbers(1000, 10)), "Count": countValues,
	}})
	r.run(r.stage("Make"), 1)
	done := r.run(r.stage("Count"), 3)
	in, out := int64(0), int64(0)
	for _, f := range done {
		in += f.InElements
		out += f.Outputs[0].Count
	}
	if in != 10 || out != 10 {
		t.Errorf("%d groups came in and %d elements went out, want 10 of both", in, out)
	}
	want := []string{}
	for i := range 10 {
		want = append(want, fmt.Sprintf("k%d:100", i))
	}
	if got := r.output("d"); got != strings.Join(want, " ") {
		t.Errorf("output %q", got)
	}
}

// An impulse is one empty byte string.
func TestImpulse(t *testing.T) {
	var mu sync.Mutex
	var got []string
	r := newRig(t, grouped, options{fns: map[string]bundletest.Fn{
		"Make": func(_ *bundletest.Call, v *coders.Value) error {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, fmt.Sprintf("%x at %d in %d window", v.Elem, v.Timestamp(), v.NumWindows))
			return nil
		},
	}})
	r.run(r.stage("Make"), 1)
	if want := "[00 at -9223372036854775 in 1 window]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := r.output("b"); got != "" {
		t.Errorf("output %q", got)
	}
}

// The same pipeline with any fault of its workers gives the same result.
func TestFaults(t *testing.T) {
	want := ""
	for _, fault := range []fnapitest.Fault{
		fnapitest.None, fnapitest.Die, fnapitest.Fail, fnapitest.GarbleAnswer, fnapitest.GarbleStream, fnapitest.Duplicate,
	} {
		t.Run(fmt.Sprint(fault), func(t *testing.T) {
			r := newRig(t, grouped, options{
				fns: map[string]bundletest.Fn{"Make": emits("b", numbers(500, 7)), "Count": countValues},
				worker: func(n int, h *fnapitest.Harness) {
					h.Behave = func(bundle int, _ string) fnapitest.Behaviour {
						if bundle%2 == 0 && n < 3 {
							return fnapitest.Behaviour{Fault: fault, Text: "no"}
						}
						return fnapitest.Behaviour{}
					}
				},
				config: func(c *task.Config) { c.BundleElements = 2; c.UserTries, c.WorkerTries = 5, 5 },
			})
			r.runTo("End")
			got := r.output("d")
			if want == "" {
				want = got
			}
			if got != want || got == "" {
				t.Errorf("output %q, want %q", got, want)
			}
		})
	}
}

// A stage that nothing feeds ends at once, whatever its root.
func TestNothingIn(t *testing.T) {
	for _, tt := range []struct{ name, pipeline, stage string }{
		{"read", "flatten All out=b\nreshuffle R in=b out=b2\npardo Work in=b2 out=c\ngbk G in=c out=d\npardo End in=d out=e", "Work"},
		{"group", "flatten All out=b\ngbk First in=b out=x\npardo Work in=x out=c\ngbk G in=c out=d\npardo End in=d out=e", "Work"},
		{"keyed", "flatten All out=b\npardo Work in=b out=c stateful\ngbk G in=c out=d\npardo End in=d out=e", "Work"},
		{"restrictions", "flatten All out=b\nsplittable Work in=b out=c\ngbk G in=c out=d\npardo End in=d out=e", "Work.process"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, tt.pipeline, options{})
			r.runAll()
			if n := r.workers.Started(); n != 0 {
				t.Errorf("%d workers were started for nothing", n)
			}
			if got := r.output("c"); got != "" {
				t.Errorf("output %q", got)
			}
		})
	}
}

// A GroupByKey of what another one gives is done by the runner alone.
func TestRunnerOnly(t *testing.T) {
	r := newRig(t, `
impulse   Start         out=a
pardo     Make   in=a   out=b
collection b coder=kv<bytes,bytes>
gbk       One    in=b   out=c
gbk       Two    in=c   out=d
pardo     End    in=d   out=e
gbk       Last   in=e   out=f
pardo     Drop   in=f   out=g`, options{fns: map[string]bundletest.Fn{
		"Make": emits("b", numbers(100, 5)),
		"End": func(c *bundletest.Call, v *coders.Value) error {
			// kv<K, iterable<iterable<V>>>, with one inner iterable
			inner := v.KVValue()[4:]
			return c.Emit("e", bundletest.Element(0, bundletest.Word(v.Key()), fmt.Sprint(len(iterable(inner)))))
		},
	}})
	r.runTo("Drop")
	if got := r.output("e"); got != "k0:20 k1:20 k2:20 k3:20 k4:20" {
		t.Errorf("output %q", got)
	}
}

// readAllState reads an iterable over the state API.
func readAllState(c *bundletest.Call, key *fnpb.StateKey) (all []byte, pages int, err error) {
	var token []byte
	for {
		resp, err := c.State(&fnpb.StateRequest{StateKey: key, Request: &fnpb.StateRequest_Get{Get: &fnpb.StateGetRequest{ContinuationToken: token}}})
		if err != nil {
			return nil, pages, err
		}
		if resp.GetError() != "" {
			return nil, pages, errors.New(resp.GetError())
		}
		pages++
		all = append(all, resp.GetGet().GetData()...)
		if token = resp.GetGet().GetContinuationToken(); len(token) == 0 {
			return all, pages, nil
		}
	}
}

// backed decodes a state-backed iterable: its values, what follows it, and the
// token under which the rest is.
func backed(b []byte) (values []string, rest, token []byte) {
	next := func() string {
		n, used := binary.Uvarint(b)
		w := string(b[used : used+int(n)])
		b = b[used+int(n):]
		return w
	}
	n := int32(binary.BigEndian.Uint32(b))
	b = b[4:]
	for range n {
		values = append(values, next())
	}
	for n == -1 {
		count, used := binary.Uvarint(b)
		b = b[used:]
		if count == 0 {
			return values, b, nil
		}
		if int64(count) == -1 {
			return values, b, []byte(next())
		}
		for range count {
			values = append(values, next())
		}
	}
	return values, b, nil
}

// The values of a large group are read by pages, as often as the worker likes,
// also by a bundle that is tried again.
func TestLargeGroup(t *testing.T) {
	const values, size = 400, 20_000
	var bundles, pages atomic.Int64
	r := newRig(t, grouped, options{
		edit: []func(*pipepb.Pipeline){bundletest.Capable(coders.URNStateBackedIterable)},
		fns: map[string]bundletest.Fn{"Make": func(c *bundletest.Call, _ *coders.Value) error {
			for i := range values {
				if err := c.Emit("b", bundletest.Element(0, "hot", fmt.Sprintf("%0*d", size, i))); err != nil {
					return err
				}
			}
			return c.EmitAll("b", "cold:1")
		}},
		config: func(c *task.Config) { c.LargeBytes = 1 << 20 },
		worker: func(_ int, h *fnapitest.Harness) {
			process := h.Process
			h.Process = func(c *fnapitest.Call, source string, chunk []byte) error {
				if !strings.HasPrefix(c.Descriptor.GetId(), "s2/") {
					return process(c, source, chunk)
				}
				for len(chunk) > 0 {
					n := int(chunk[13]) // of the key, behind timestamp, windows and pane
					key := string(chunk[14 : 14+n])
					all, rest, token := backed(chunk[14+n:])
					chunk = rest
					seen := map[string]bool{}
					for _, v := range all {
						seen[v] = true
					}
					for range 2 { // as often as it likes
						if token == nil {
							break
						}
						tail, n, err := readAllState(&bundletest.Call{Call: c}, &fnpb.StateKey{Type: &fnpb.StateKey_Runner_{Runner: &fnpb.StateKey_Runner{Key: token}}})
						if err != nil {
							return err
						}
						pages.Add(int64(n))
						for len(tail) > 0 {
							n, used := binary.Uvarint(tail)
							seen[string(tail[used:used+int(n)])] = true
							tail = tail[used+int(n):]
						}
					}
					if err := c.Emit(c.Sinks[0], bundletest.Element(0, key, fmt.Sprint(len(seen)))); err != nil {
						return err
					}
				}
				if bundles.Add(1) == 1 {
					return errors.New("once more")
				}
				return nil
			}
		},
	})
	r.run(r.stage("Make"), 1)
	r.run(r.stage("Count"), 1)
	if got := r.output("d"); got != "cold:1 hot:400" {
		t.Errorf("output %q", got)
	}
	if pages.Load() < 10 {
		t.Errorf("%d pages: the tail of 7 MB must come by some more", pages.Load())
	}
}

// Metrics that a failed try told are not committed; those of each committed
// bundle are, once.
func TestMetricsOnce(t *testing.T) {
	info := func() *pipepb.MonitoringInfo {
		return &pipepb.MonitoringInfo{
			Urn: "beam:metric:user:sum_int64:v1", Type: "beam:metrics:sum_int64:v1", Payload: []byte{1},
			Labels: map[string]string{"PTRANSFORM": "Count", "NAMESPACE": "n", "NAME": "bundles"},
		}
	}
	var bundles atomic.Int64
	r := newRig(t, grouped, options{
		fns: map[string]bundletest.Fn{"Make": emits("b", numbers(60, 6)), "Count": countValues},
		worker: func(n int, h *fnapitest.Harness) {
			h.Finish = func(c *fnapitest.Call) (*fnpb.ProcessBundleResponse, error) {
				if strings.HasPrefix(c.Descriptor.GetId(), "s2/") {
					if n == 0 {
						h.Die()
						return nil, errors.New("dead")
					}
					bundles.Add(1)
				}
				return &fnpb.ProcessBundleResponse{MonitoringInfos: []*pipepb.MonitoringInfo{info()}}, nil
			}
		},
		config: func(c *task.Config) { c.BundleElements = 2 },
	})
	r.run(r.stage("Make"), 1)
	done := r.run(r.stage("Count"), 1)
	var set metrics.Set
	if err := set.Unmarshal(done[0].Metrics); err != nil {
		t.Fatal(err)
	}
	if n := bundles.Load(); n != 3 {
		t.Fatalf("%d bundles, want 3", n)
	}
	got := ""
	for _, i := range set.Infos() {
		if i.GetLabels()["NAME"] == "bundles" {
			got += fmt.Sprint(i.GetPayload())
		}
	}
	if got != "[3]" {
		t.Errorf("the counter's payload is %s, want [3]", got)
	}
}

// Tasks share side inputs; what one reads by pages is all there is.
func TestSideInput(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	r := newRig(t, `
impulse   Start         out=a
pardo     Make   in=a   out=b
pardo     Aside  in=a   out=s
gbk       Group  in=b   out=c
pardo     Count  in=c   out=d side=tag:s
gbk       Again  in=d   out=e
pardo     End    in=e   out=f`, options{fns: map[string]bundletest.Fn{
		"Make": func(c *bundletest.Call, _ *coders.Value) error {
			if err := c.EmitAll("b", numbers(40, 20)); err != nil {
				return err
			}
			return c.EmitAll("s", numbers(300, 3))
		},
		"Count": func(c *bundletest.Call, v *coders.Value) error {
			all, _, err := readAllState(c, &fnpb.StateKey{Type: &fnpb.StateKey_IterableSideInput_{IterableSideInput: &fnpb.StateKey_IterableSideInput{
				TransformId: "Count", SideInputId: "tag",
			}}})
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, fmt.Sprint(len(all)))
			return err
		},
	}})
	r.runTo("Count")
	r.run(r.stage("Count"), 3)
	want := 0
	for _, w := range strings.Fields(numbers(300, 3)) {
		want += len(w) + 1 // two lengths instead of a colon
	}
	if len(seen) != 20 || slices.ContainsFunc(seen, func(s string) bool { return s != fmt.Sprint(want) }) {
		t.Errorf("%d reads gave %v bytes, want 20 of %d", len(seen), seen, want)
	}
}
