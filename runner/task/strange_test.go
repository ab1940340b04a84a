package task_test

import (
	"encoding/binary"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"trestle/coders"
	"trestle/element"
	"trestle/fnapi/fnapitest"
	"trestle/runner/bundle/bundletest"
	"trestle/runner/task"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

var strangeJobs = flag.Int("strange", 48, "how many jobs of strange times to run")

// strange groups twice, with state and timers in between.
const strange = `
impulse   Start         out=a
pardo     Make  in=a    out=b
gbk       Group in=b    out=g
pardo     Turn  in=g    out=h
pardo     State in=h    out=i stateful timer=bytes
gbk       Again in=i    out=j
pardo     End   in=j    out=k
collection b window=%[1]s
collection g window=%[1]s
collection j window=%[1]s
collection h coder=kv<bytes,bytes> window=%[1]s
collection i window=%[1]s`

// A stranger makes up times that nobody has, and windows of them.
type stranger struct {
	mu     sync.Mutex
	random *rand.Rand
	window string
	sane   bool // its windows can be
}

var strangeTimes = []element.Timestamp{
	math.MinInt64, math.MinInt64 + 1, element.MinTimestamp - 1, element.MinTimestamp, element.MinTimestamp + 1, -1, 0, 1, 5, 10, 99, 1000,
	element.EndOfGlobalWindow - 1, element.EndOfGlobalWindow, element.EndOfGlobalWindow + 1,
	element.MaxTimestamp - 1, element.MaxTimestamp, element.MaxTimestamp + 1, math.MaxInt64 - 1, math.MaxInt64,
}

func (s *stranger) time() element.Timestamp {
	if s.random.IntN(3) == 0 {
		return element.Timestamp(s.random.IntN(50))
	}
	return strangeTimes[s.random.IntN(len(strangeTimes))]
}

// windows are the encodings of some, with their number.
func (s *stranger) windows(most int) (b []byte, n int) {
	n = 1
	if s.random.IntN(4) == 0 && s.window != "global" {
		n = s.random.IntN(most + 1)
	}
	for range n {
		if s.window == "global" {
			continue
		}
		end := s.time()
		if s.sane || s.random.IntN(30) > 0 {
			end = min(max(end, element.MinTimestamp+10), element.MaxTimestamp)
		}
		b = coders.AppendTimestamp(b, end)
		span := uint64(10)
		if !s.sane && s.random.IntN(30) == 0 {
			span = []uint64{0, 1, 10, 1 << 40, 1<<63 - 1, 1 << 63, math.MaxUint64}[s.random.IntN(7)]
		}
		b = binary.AppendUvarint(b, span)
	}
	return b, n
}

func (s *stranger) element() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	w, n := s.windows(3)
	b := coders.AppendHeader(nil, s.time(), n, w, coders.NoFiring)
	b = append(b, bundletest.Bytes(fmt.Sprint("k", s.random.IntN(3)))...)
	return append(b, bundletest.Bytes("v")...)
}

func (s *stranger) timer() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := append(bundletest.Bytes(fmt.Sprint("k", s.random.IntN(3))), bundletest.Bytes("")...)
	w, n := s.windows(1)
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	b = append(b, w...)
	if s.random.IntN(5) == 0 {
		return append(b, 1)
	}
	b = coders.AppendTimestamp(append(b, 0), s.time())
	b = coders.AppendTimestamp(b, s.time())
	return append(b, coders.NoFiring...)
}

// payloads gives window functions what they need.
func payloads(p *pipepb.Pipeline) {
	ms := func(n int) *durationpb.Duration { return durationpb.New(time.Duration(n) * time.Millisecond) }
	for _, w := range p.Components.WindowingStrategies {
		var m proto.Message
		switch w.WindowFn.Urn {
		case "beam:window_fn:fixed_windows:v1":
			m = &pipepb.FixedWindowsPayload{Size: ms(10)}
		case "beam:window_fn:sliding_windows:v1":
			m = &pipepb.SlidingWindowsPayload{Size: ms(10), Period: ms(3)}
		case "beam:window_fn:session_windows:v1":
			m = &pipepb.SessionWindowsPayload{GapSize: ms(10)}
		default:
			continue
		}
		w.WindowFn.Payload, _ = proto.Marshal(m)
	}
}

// Workers may tell any times and windows: a task fails by them, or drops what
// is late, but the process doesn't end and the job does.
func TestStrangeTimes(t *testing.T) {
	for n := range *strangeJobs {
		x := &stranger{random: rand.New(rand.NewPCG(uint64(n), 7)), window: []string{"global", "fixed", "sliding", "sessions"}[n%4], sane: n/8%2 == 0}
		streaming := n/4%2 == 0
		t.Run(fmt.Sprintf("%d-%s-%v", n, x.window, streaming), func(t *testing.T) { x.run(t, streaming) })
	}
}

func (s *stranger) run(t *testing.T, streaming bool) {
	edit := []func(*pipepb.Pipeline){payloads}
	if streaming {
		edit = append(edit, unbounded)
	}
	some := func(emit func() error) error {
		for range 5 {
			if err := emit(); err != nil {
				return err
			}
		}
		return nil
	}
	to := func(collection string) bundletest.Fn {
		return func(c *bundletest.Call, _ *coders.Value) error {
			return some(func() error { return c.Emit(collection, s.element()) })
		}
	}
	fired := 0
	var r *rig
	r = newRig(t, fmt.Sprintf(strange, s.window), options{
		edit: edit,
		fns: map[string]bundletest.Fn{
			"Make": to("b"), "Turn": to("h"),
			"State": func(c *bundletest.Call, v *coders.Value) error {
				if err := some(func() error { return c.EmitTimers("State", "t", s.timer()) }); err != nil {
					return err
				}
				return c.Emit("i", v.Raw)
			},
			"End": func(*bundletest.Call, *coders.Value) error { return nil },
		},
		worker: func(_ int, h *fnapitest.Harness) {
			h.ProcessTimers = func(c *fnapitest.Call, transform, family string, _ []byte) error {
				call, err := r.code.Call(c)
				if err != nil {
					return err
				}
				if s.mu.Lock(); fired < 100 {
					fired++
					s.mu.Unlock()
					return call.EmitTimers("State", "t", s.timer())
				}
				s.mu.Unlock()
				return nil
			}
		},
	})
	if streaming {
		r.streamSomehow(t)
		return
	}
	for _, st := range r.plan.Graph.Stages {
		spec := r.spec(st.ID, 0, 1, 1)
		r.start(spec)
		if rep := r.end(spec.ID); rep.Failed != nil {
			t.Log(rep.Failed.Message)
			return
		}
		r.finish(spec)
	}
}

// streamSomehow runs all stages of a streaming plan until all have ended, or one
// has failed.
func (r *rig) streamSomehow(t *testing.T) {
	var ids []task.ID
	for _, st := range r.plan.Graph.Stages {
		r.width[st.ID] = 1
	}
	for _, st := range r.plan.Graph.Stages {
		spec := r.spec(st.ID, 0, 1, 1)
		ids = append(ids, spec.ID)
		r.start(spec)
	}
	r.until(func() bool {
		failed := false
		for _, id := range ids {
			failed = failed || r.ended[id].Failed != nil
		}
		return failed || len(r.ended) == len(ids)
	})
	r.tm.Cancel(ids)
	for _, id := range ids {
		if f := r.end(id).Failed; f != nil {
			t.Log(f.Message)
		}
	}
}
