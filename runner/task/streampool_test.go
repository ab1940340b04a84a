package task_test

import (
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"trestle/coders"
	"trestle/fnapi/fnapitest"
	"trestle/runner/bundle/bundletest"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
)

// streamingSource is source, whose restrictions end, in a streaming pipeline.
const streamingSource = source + `
impulse    Other         out=y
pardo      Live   in=y   out=z
collection z unbounded`

// endlessSource is one whose restrictions have no end as far as is known.
const endlessSource = source + `
collection c unbounded
collection d unbounded
collection e unbounded`

// A meeting is where two bundles are at work at the same time.
type meeting struct {
	mu   sync.Mutex
	here int
	met  chan struct{}
}

// await waits for a second bundle, but not for long: it may come the next time.
func (m *meeting) await() {
	m.mu.Lock()
	m.here++
	if m.here == 2 {
		select {
		case <-m.met:
		default:
			close(m.met)
		}
	}
	m.mu.Unlock()
	select {
	case <-m.met:
	case <-time.After(50 * time.Millisecond):
	}
	m.mu.Lock()
	m.here--
	m.mu.Unlock()
}

// streamSource runs a streaming source with two tasks, and returns what its
// spans gave. All spans come to one of the tasks.
func streamSource(t *testing.T, pipeline string, p *splitter, bundleTime time.Duration, all ...span) *tally {
	t.Helper()
	p.t, p.bundles = t, map[string]*spans{}
	got := newTally()
	var r *rig
	r = newRig(t, pipeline, options{
		worker: func(_ int, h *fnapitest.Harness) {
			h.Process = func(c *fnapitest.Call, transform string, chunk []byte) error {
				switch stage, _, _ := strings.Cut(c.Descriptor.GetId(), "/"); stage {
				case string(r.stage("Read.process")):
					return p.process(c, chunk)
				case string(r.stage("Make")):
					for began := time.Now(); r.member.tm.Sharing("job", r.stage("Read.process")) < 2 && time.Since(began) < patience; {
						time.Sleep(time.Millisecond) // who comes later, finds others gone
					}
					for _, s := range all { // every other one is the other task's
						if err := c.Emit(c.Sinks[0], s.encode()); err != nil {
							return err
						}
						if err := c.Emit(c.Sinks[0], span{name: "nothing"}.encode()); err != nil {
							return err
						}
					}
					return nil
				}
				return r.code.Process(c, transform, chunk)
			}
			h.Finish, h.Split = p.finish, p.split
		},
		fns: map[string]bundletest.Fn{
			"End": func(_ *bundletest.Call, v *coders.Value) error {
				name, numbers, _ := strings.Cut(groupText(v), "=")
				for _, n := range strings.Split(numbers, "+") {
					got.note(name + ":" + n)
				}
				return nil
			},
		},
	})
	r.bundleTime = bundleTime
	wide := r.stage("Read.process")
	for _, s := range r.plan.Graph.Stages {
		r.width[s.ID] = 1
	}
	r.width[wide] = 2
	r.streamAll()
	return got
}

func numbersOf(all ...span) map[string]int {
	want := map[string]int{}
	for _, s := range all {
		for i := s.lo; i < s.hi; i++ {
			want[s.name+":"+strconv.Itoa(i)]++
		}
	}
	return want
}

// What one task of a streaming source has not come to, another one begins; and
// where restrictions end, it gets halves of those that are under way. Each number
// is given once all the same, and no group is given out before all is in it.
func TestStreamSourceIsShared(t *testing.T) {
	tests := []struct {
		name, pipeline string
		checkpoints    bool
		all            []span
	}{
		{"whole restrictions", endlessSource, true, []span{{"x", 0, 150}, {"y", 0, 150}}},
		{"halves", streamingSource, false, []span{{"x", 0, 300}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			both := &meeting{met: make(chan struct{})}
			p := &splitter{emit: func(*fnapitest.Call, span, int) error { both.await(); return nil }}
			if test.checkpoints {
				p.stop = func(s span) (int, time.Duration, bool) { return s.lo + 1, 0, s.hi > s.lo+1 }
			}
			got := streamSource(t, test.pipeline, p, 0, test.all...)
			got.compare(t, numbersOf(test.all...))
			select {
			case <-both.met:
			default:
				t.Error("one task has done all the work")
			}
		})
	}
}

// What has no end is read by one bundle at a time: the rest of it is begun when
// what was read before is committed, and not when it is split off.
func TestStreamEndlessInOrder(t *testing.T) {
	var atWork, splits atomic.Int64
	p := &splitter{
		emit: func(*fnapitest.Call, span, int) error {
			if atWork.Add(1) > 1 {
				t.Error("two bundles read the same restriction")
			}
			time.Sleep(5 * time.Millisecond)
			atWork.Add(-1)
			return nil
		},
		onSplit: func(*fnpb.ProcessBundleSplitResponse) { splits.Add(1) },
	}
	all := []span{{"x", 0, 60}}
	got := streamSource(t, endlessSource, p, time.Millisecond, all...)
	got.compare(t, numbersOf(all...))
	if splits.Load() == 0 {
		t.Error("nothing was split off")
	}
}
