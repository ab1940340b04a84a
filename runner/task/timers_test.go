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
	"trestle/element"
	"trestle/fnapi/fnapitest"
	"trestle/runner/bundle"
	"trestle/runner/bundle/bundletest"
	"trestle/runner/task"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// keyed has a stage with a bag, seen, and timers: t in event time, p in
// processing time.
const keyed = `
impulse   Start         out=a
pardo     Make   in=a   out=b
pardo     State  in=b   out=c stateful timer=bytes
gbk       Again  in=c   out=d
pardo     End    in=d   out=e`

func withProcessingTime(p *pipepb.Pipeline) {
	bundletest.EditParDo("State", func(pd *pipepb.ParDoPayload, _ *pipepb.Components) {
		pd.TimerFamilySpecs["p"] = &pipepb.TimerFamilySpec{
			TimeDomain:         pipepb.TimeDomain_PROCESSING_TIME,
			TimerFamilyCoderId: pd.TimerFamilySpecs["t"].TimerFamilyCoderId,
		}
	})(p)
}

// timer encodes a timer of the global window; a negative time clears it.
func timer(key, tag string, fire int) []byte {
	b := append(bundletest.Bytes(key), bundletest.Bytes(tag)...)
	b = binary.BigEndian.AppendUint32(b, 1)
	if fire < 0 {
		return append(b, 1)
	}
	b = append(b, 0)
	b = coders.AppendTimestamp(b, element.Timestamp(fire))
	b = coders.AppendTimestamp(b, element.Timestamp(fire))
	return append(b, coders.NoFiring...)
}

// A timerFn is user code of a timer.
type timerFn func(c *bundletest.Call, family, key, tag string, at int) error

// onTimer makes a harness's ProcessTimers of user code.
func onTimer(r **rig, fn timerFn) func(c *fnapitest.Call, transform, family string, chunk []byte) error {
	return func(c *fnapitest.Call, _, family string, chunk []byte) error {
		call, err := (*r).code.Call(c)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(call.Program.Families, func(f bundle.Family) bool { return f.ID == family })
		for len(chunk) > 0 {
			var tm bundle.Timer
			if tm, chunk, err = call.Program.Families[i].Cut(chunk); err != nil {
				return err
			}
			if err := fn(call, family, bundletest.Word(tm.Key), string(tm.Tag), int(tm.Fire)); err != nil {
				return err
			}
		}
		return nil
	}
}

// set sets timers, "family tag@time" or "family -tag", of a key.
func set(c *bundletest.Call, key, timers string) error {
	for _, w := range strings.Split(timers, ",") {
		family, what, _ := strings.Cut(w, " ")
		tag, at, _ := strings.Cut(what, "@")
		tag = strings.TrimPrefix(tag, "-")
		fire := -1
		if at != "" {
			_, _ = fmt.Sscan(at, &fire)
		}
		if err := c.EmitTimers("State", family, timer(key, tag, fire)); err != nil {
			return err
		}
	}
	return nil
}

func seenKey(key string) *fnpb.StateKey {
	return &fnpb.StateKey{Type: &fnpb.StateKey_BagUserState_{BagUserState: &fnpb.StateKey_BagUserState{
		TransformId: "State", UserStateId: "seen", Key: bundletest.Bytes(key),
	}}}
}

// remember appends to a key's bag.
func remember(c *bundletest.Call, key, value string) error {
	resp, err := c.State(&fnpb.StateRequest{StateKey: seenKey(key), Request: &fnpb.StateRequest_Append{Append: &fnpb.StateAppendRequest{Data: bundletest.Bytes(value)}}})
	if err == nil && resp.GetError() != "" {
		err = errors.New(resp.GetError())
	}
	return err
}

// recall reads a key's bag.
func recall(c *bundletest.Call, key string) (string, error) {
	all, _, err := readAllState(c, seenKey(key))
	var words []string
	for len(all) > 0 {
		n, used := binary.Uvarint(all)
		words = append(words, string(all[used:used+int(n)]))
		all = all[used+int(n):]
	}
	return strings.Join(words, "+"), err
}

// Each key's timers fire in the order of their time, one after another, those of
// processing time last; and a timer may set and clear others, also ones that
// are due.
func TestTimers(t *testing.T) {
	for _, tt := range []struct {
		name string
		set  string
		on   map[string]string // what a timer sets when it fires, by tag
		want string
	}{
		{"by time", "t c@30,t a@10,t b@20", nil, "a10 b20 c30"},
		{"of equal time as they were set", "t b@5,t a@5", nil, "b5 a5"},
		{"set again", "t a@10,t b@20,t a@30", nil, "b20 a30"},
		{"cleared", "t a@10,t b@20,t -a", nil, "b20"},
		{"cleared and set again", "t a@10,t -a,t a@5", nil, "a5"},
		{"cleared though never set", "t -a,t b@1", nil, "b1"},
		{"processing time last", "p a@1,t b@100,p c@0", nil, "b100 c0 a1"},
		{"one tag in two families", "p a@1,t a@100,t -a", nil, "a1"},
		{"a timer sets one between", "t a@10,t c@30", map[string]string{"a": "t b@20"}, "a10 b20 c30"},
		{"a timer clears one that is due", "t a@10,t b@10", map[string]string{"a": "t -b"}, "a10"},
		{"a timer moves another", "t a@10,t b@20", map[string]string{"a": "t b@40,t c@30"}, "a10 c30 b40"},
		{"a timer sets one in its past", "t a@10,t c@30", map[string]string{"a": "t b@1"}, "a10 b1 c30"},
		{"processing time sets event time", "p a@1,p b@2", map[string]string{"a": "t c@7"}, "a1 c7 b2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var mu sync.Mutex
			fired := map[string][]string{}
			var r *rig
			r = newRig(t, keyed, options{
				edit: []func(*pipepb.Pipeline){withProcessingTime},
				fns: map[string]bundletest.Fn{
					"Make":  emits("b", "k1:x k2:x k3:x"),
					"State": func(c *bundletest.Call, v *coders.Value) error { return set(c, bundletest.Word(v.Key()), tt.set) },
				},
				worker: func(_ int, h *fnapitest.Harness) {
					h.ProcessTimers = onTimer(&r, func(c *bundletest.Call, _, key, tag string, at int) error {
						mu.Lock()
						fired[key] = append(fired[key], fmt.Sprintf("%s%d", tag, at))
						mu.Unlock()
						if more := tt.on[tag]; more != "" {
							return set(c, key, more)
						}
						return nil
					})
				},
			})
			r.runTo("End")
			for _, k := range []string{"k1", "k2", "k3"} {
				if got := strings.Join(fired[k], " "); got != tt.want {
					t.Errorf("%s: fired %q, want %q", k, got, tt.want)
				}
			}
		})
	}
}

// The end of its windows is the last that happens to a key, once for each
// window, whatever its timers do.
func TestOnWindowExpiration(t *testing.T) {
	var mu sync.Mutex
	got := map[string][]string{}
	var r *rig
	fixed := func(p *pipepb.Pipeline) {
		bundletest.EditParDo("State", func(pd *pipepb.ParDoPayload, _ *pipepb.Components) {
			pd.TimerFamilySpecs["end"] = &pipepb.TimerFamilySpec{
				TimeDomain:         pipepb.TimeDomain_EVENT_TIME,
				TimerFamilyCoderId: pd.TimerFamilySpecs["t"].TimerFamilyCoderId,
			}
			pd.OnWindowExpirationTimerFamilySpec = "end"
		})(p)
	}
	element := func(key string, ends ...element.Timestamp) []byte {
		var windows []byte
		for _, e := range ends {
			windows = coders.AppendInterval(windows, intervalTo(e))
		}
		b := coders.AppendHeader(nil, 5, len(ends), windows, coders.NoFiring)
		return append(append(b, bundletest.Bytes(key)...), bundletest.Bytes("x")...)
	}
	r = newRig(t, keyed+"\ncollection b window=fixed", options{
		edit: []func(*pipepb.Pipeline){withProcessingTime, fixed},
		fns: map[string]bundletest.Fn{
			"Make": func(c *bundletest.Call, _ *coders.Value) error {
				for _, e := range [][]byte{element("a", 20), element("a", 10), element("b", 10), element("a", 10), element("b", 10, 30)} {
					if err := c.Emit("b", e); err != nil {
						return err
					}
				}
				return nil
			},
			"State": func(c *bundletest.Call, v *coders.Value) error {
				window := v.Windows[:len(v.Windows)/v.NumWindows]
				return c.EmitTimers("State", "p", bundle.AppendTimer(nil, v.Key(), window, 1000))
			},
		},
		worker: func(_ int, h *fnapitest.Harness) {
			h.ProcessTimers = onTimer(&r, func(_ *bundletest.Call, family, key, _ string, at int) error {
				mu.Lock()
				defer mu.Unlock()
				got[key] = append(got[key], fmt.Sprintf("%s@%d", family, at))
				return nil
			})
		},
		config: func(c *task.Config) { c.BundleElements = 1 },
	})
	r.runTo("End")
	if s := strings.Join(got["a"], " "); s != "p@1000 p@1000 end@9 end@19" {
		t.Errorf("a: %s", s)
	}
	if s := strings.Join(got["b"], " "); s != "p@1000 end@9 end@29" {
		t.Errorf("b: %s", s)
	}
}

func intervalTo(end element.Timestamp) element.Interval {
	return element.Interval{Start: end - 10, End: end}
}

// State lives as long as its key is at hand: through the key's timers, but not
// into the next bundle; and a try that failed, of data or timers, has changed
// nothing.
func TestStateThroughRetries(t *testing.T) {
	for _, fails := range []string{"nothing", "user code on data", "worker on data", "user code on timers", "worker on timers"} {
		t.Run(fails, func(t *testing.T) {
			var r *rig
			var data, timers atomic.Int64
			fail := func(c *bundletest.Call, kind string, n *atomic.Int64) error {
				if !strings.HasSuffix(fails, kind) || n.Add(1) != 2 {
					return nil
				}
				if strings.HasPrefix(fails, "worker") {
					r.workers.Harness(0).Die()
				}
				return errors.New("boom")
			}
			r = newRig(t, keyed, options{
				fns: map[string]bundletest.Fn{
					"Make": emits("b", numbers(12, 4)),
					"State": func(c *bundletest.Call, v *coders.Value) error {
						key := bundletest.Word(v.Key())
						if err := remember(c, key, bundletest.Word(v.KVValue())); err != nil {
							return err
						}
						if err := set(c, key, "t flush@10"); err != nil {
							return err
						}
						return fail(c, "data", &data)
					},
				},
				worker: func(_ int, h *fnapitest.Harness) {
					h.ProcessTimers = onTimer(&r, func(c *bundletest.Call, _, key, tag string, _ int) error {
						all, err := recall(c, key)
						if err != nil {
							return err
						}
						if err := c.Emit("c", bundletest.Element(0, key, tag+all)); err != nil {
							return err
						}
						if tag == "flush" {
							if err := remember(c, key, "late"); err != nil {
								return err
							}
							if err := set(c, key, "t last@20"); err != nil {
								return err
							}
						}
						return fail(c, "timers", &timers)
					})
				},
				config: func(c *task.Config) { c.BundleElements = 5 },
			})
			r.runTo("End")
			want := sorted("k0:flush0+4+8 k0:last0+4+8+late k1:flush1+5+9 k1:last1+5+9+late " +
				"k2:flush2+6+10 k2:last2+6+10+late k3:flush3+7+11 k3:last3+7+11+late")
			if got := r.output("c"); got != want {
				t.Errorf("output\n %s, want\n %s", got, want)
			}
		})
	}
}

// One key has more elements than a bundle may have. They come in several
// bundles, whose state goes on, and its timers fire when all are in.
func TestKeyLargerThanABundle(t *testing.T) {
	const values, size = 300, 20_000
	var r *rig
	var bundles, fired atomic.Int64
	r = newRig(t, keyed, options{
		fns: map[string]bundletest.Fn{
			"Make": func(c *bundletest.Call, v *coders.Value) error {
				for i := range values {
					if err := c.Emit("b", bundletest.Element(0, "hot", fmt.Sprintf("%0*d", size, i))); err != nil {
						return err
					}
				}
				return c.EmitAll("b", numbers(20, 10))
			},
			"State": func(c *bundletest.Call, v *coders.Value) error {
				if fired.Load() > 0 && bundletest.Word(v.Key()) == "hot" {
					return errors.New("an element comes after its key's timers")
				}
				if err := remember(c, bundletest.Word(v.Key()), "x"); err != nil {
					return err
				}
				return set(c, bundletest.Word(v.Key()), "t flush@10")
			},
		},
		worker: func(_ int, h *fnapitest.Harness) {
			h.Behave = func(_ int, descriptor string) fnapitest.Behaviour {
				if strings.HasPrefix(descriptor, "s2/") {
					bundles.Add(1)
				}
				return fnapitest.Behaviour{}
			}
			h.ProcessTimers = onTimer(&r, func(c *bundletest.Call, _, key, _ string, _ int) error {
				all, err := recall(c, key)
				if err != nil {
					return err
				}
				if key == "hot" {
					fired.Add(1)
				}
				return c.Emit("c", bundletest.Element(0, key, fmt.Sprint(strings.Count(all, "x"))))
			})
		},
		config: func(c *task.Config) { c.BundleBytes = 1 << 20 },
	})
	r.runTo("End")
	want := []string{"hot:300"}
	for i := range 10 {
		want = append(want, fmt.Sprintf("k%d:2", i))
	}
	if got := r.output("c"); got != sorted(strings.Join(want, " ")) {
		t.Errorf("output %q", got)
	}
	if n := bundles.Load(); n < 5 {
		t.Errorf("%d bundles: six megabytes were given at once", n)
	}
}

// A ParDo that asks for it is given each key's elements in the order of time.
func TestTimeSortedInput(t *testing.T) {
	var mu sync.Mutex
	got := map[string][]int{}
	r := newRig(t, keyed, options{
		edit: []func(*pipepb.Pipeline){bundletest.EditParDo("State", func(pd *pipepb.ParDoPayload, _ *pipepb.Components) {
			pd.RequiresTimeSortedInput = true
		})},
		fns: map[string]bundletest.Fn{
			"Make": func(c *bundletest.Call, _ *coders.Value) error {
				for i := range 2000 {
					ts := element.Timestamp(i * 7919 % 2003) // a permutation
					if err := c.Emit("b", bundletest.Element(ts-1000, fmt.Sprintf("k%d", i%3), strings.Repeat("x", i))); err != nil {
						return err
					}
				}
				return nil
			},
			"State": func(_ *bundletest.Call, v *coders.Value) error {
				mu.Lock()
				defer mu.Unlock()
				k := bundletest.Word(v.Key())
				got[k] = append(got[k], int(v.Timestamp()))
				return nil
			},
		},
		config: func(c *task.Config) { c.BundleBytes = 100 << 10 },
	})
	r.runTo("End")
	n := 0
	for k, times := range got {
		n += len(times)
		if !slices.IsSorted(times) {
			t.Errorf("%s: the times are not in order", k)
		}
	}
	if n != 2000 {
		t.Errorf("%d elements, want 2000", n)
	}
}
