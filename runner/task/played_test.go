package task_test

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"trestle/coders"
	"trestle/fnapi/fnapitest"
	"trestle/runner/bundle/bundletest"
	"trestle/runner/graph"
	"trestle/runner/metrics"
	"trestle/runner/task"
	"trestle/runner/trigger/triggertest"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/cockroachdb/datadriven"
	"google.golang.org/protobuf/proto"
)

// TestPlayed runs streaming pipelines whose root Play is a TestStream, and
// prints what their user code saw, in order.
//
//	pipeline [lateness=5] [combiner=earliest_in_pane] [trigger=(count(2))] [accumulating] [expiry] [sorted]
//	  lines as package graphtest has them; lateness=fixed:5 is for fixed windows
//	  only. What a transform does goes by its name:
//	  Window  (and Beside) puts elements into the windows of its output: fixed and
//	          sessions of 10 ms, sliding ones of 10 each 3
//	  Regroup makes values of groups, all of one key, and does as Window
//	  Flat    makes elements of groups again, and does as Window
//	  State   does what values say, see act
//	  Look    tells what its side input m holds, and passes elements on
//	  Hush    passes nothing on
//	  End     tells what comes: key, values, timestamp, window, pane
//	play
//	  add k:v@5 l:w@7      elements; "o1 add" where Play has several outputs
//	  watermark 10
//	  time 500             milliseconds that pass
//	  also add k:v@5       an event of the other TestStream, Also
//	  on x y=20,+seen      what a timer of tag x does when it fires
//
// Between two events all is done that can be done. Elements of different keys
// come in no order: tell of one.
func TestPlayed(t *testing.T) {
	datadriven.Walk(t, "testdata/played", func(t *testing.T, path string) {
		var s *show
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd == "pipeline" {
				s = &show{text: d.Input, args: map[string]string{}}
				for _, a := range d.CmdArgs {
					s.args[a.Key] = strings.Join(a.Vals, ",")
				}
				return ""
			}
			return s.play(t, d.Input)
		})
	})
}

// A show is a pipeline that is played, and what its user code has told.
type show struct {
	text string
	args map[string]string

	r    *rig
	pipe *pipepb.Pipeline
	on   map[string]string // actions by the tag of the timer that does them

	mu   sync.Mutex // guards what follows
	told []string
	left map[string][]*fnpb.DelayedBundleApplication // by bundle
}

func (s *show) tell(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told = append(s.told, fmt.Sprintf(format, args...))
}

func (s *show) has(arg string) bool { _, ok := s.args[arg]; return ok }

// play plays events to the end, and gives what was told.
func (s *show) play(t *testing.T, text string) string {
	s.told, s.on, s.left = nil, map[string]string{}, map[string][]*fnpb.DelayedBundleApplication{}
	events := map[string][]*pipepb.TestStreamPayload_Event{}
	for line := range strings.Lines(text) {
		by := "Play"
		line, also := strings.CutPrefix(strings.TrimSpace(line), "also ")
		if also {
			by = "Also"
		}
		if e := s.event(line); e != nil {
			events[by] = append(events[by], e)
		}
	}
	fns := map[string]bundletest.Fn{
		"Window": s.window, "Regroup": s.regroup, "Flat": s.flat, "Beside": s.window, "Beside2": s.window, "State": s.state, "Look": s.look, "End": s.end,
		"Make": s.restrict, "Read.process": s.read,
		"Hush": func(*bundletest.Call, *coders.Value) error { return nil },
	}
	edit := []func(*pipepb.Pipeline){payloads, s.edit(events)}
	if strings.Contains(s.text, " State ") {
		edit = append(edit, withProcessingTime, s.editState)
	}
	s.r = newRig(t, s.text, options{
		fns: fns, edit: edit,
		worker: func(_ int, h *fnapitest.Harness) { h.ProcessTimers, h.Finish = s.timers, s.finish },
	})
	var specs []task.Spec
	for _, st := range s.r.plan.Graph.Stages {
		s.r.width[st.ID] = 1
	}
	for _, st := range s.r.plan.Graph.Stages {
		specs = append(specs, s.r.spec(st.ID, 0, 1, 1))
	}
	s.r.start(specs...)
	s.r.until(func() bool {
		for _, rep := range s.r.ended {
			if rep.Failed != nil {
				t.Errorf("%v failed: %s", rep.Failed.ID, rep.Failed.Message)
				return true
			}
		}
		return len(s.r.ended) == len(specs)
	})
	if t.Failed() {
		s.r.tm.Cancel(idsOf(specs))
		return ""
	}
	counted := map[string]int{}
	for _, f := range s.r.finish(specs...) {
		var set metrics.Set
		if err := set.Unmarshal(f.Metrics); err != nil {
			t.Fatal(err)
		}
		for _, i := range set.Infos() {
			if l := i.GetLabels(); l["NAMESPACE"] == "trestle" {
				counted[l["PTRANSFORM"]+" "+l["NAME"]] += int(i.GetPayload()[0])
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(counted)) {
		s.tell("%s: %d", name, counted[name])
	}
	return strings.Join(append(s.told, ""), "\n")
}

func idsOf(specs []task.Spec) (all []task.ID) {
	for _, sp := range specs {
		all = append(all, sp.ID)
	}
	return all
}

// event reads a line; nil for one that is no event.
func (s *show) event(line string) *pipepb.TestStreamPayload_Event {
	words := strings.Fields(line)
	tag := ""
	if len(words) > 0 && strings.HasPrefix(words[0], "o") && words[0] != "on" {
		tag, words = words[0], words[1:]
	}
	number := func() int64 { n, _ := strconv.ParseInt(words[1], 10, 64); return n }
	switch words[0] {
	case "add":
		e := &pipepb.TestStreamPayload_Event_AddElements{Tag: tag}
		for _, w := range words[1:] {
			what, at, _ := strings.Cut(w, "@")
			key, value, _ := strings.Cut(what, ":")
			ts, _ := strconv.Atoi(at)
			e.Elements = append(e.Elements, &pipepb.TestStreamPayload_TimestampedElement{
				EncodedElement: append(bundletest.Bytes(key), value...), Timestamp: int64(ts),
			})
		}
		return &pipepb.TestStreamPayload_Event{Event: &pipepb.TestStreamPayload_Event_ElementEvent{ElementEvent: e}}
	case "watermark":
		return &pipepb.TestStreamPayload_Event{Event: &pipepb.TestStreamPayload_Event_WatermarkEvent{
			WatermarkEvent: &pipepb.TestStreamPayload_Event_AdvanceWatermark{NewWatermark: number(), Tag: tag},
		}}
	case "time":
		return &pipepb.TestStreamPayload_Event{Event: &pipepb.TestStreamPayload_Event_ProcessingTimeEvent{
			ProcessingTimeEvent: &pipepb.TestStreamPayload_Event_AdvanceProcessingTime{AdvanceDuration: number()},
		}}
	case "on":
		s.on[words[1]] = words[2]
	}
	return nil
}

// edit makes Play a TestStream, and gives windowing strategies what the text
// can't say.
func (s *show) edit(events map[string][]*pipepb.TestStreamPayload_Event) func(*pipepb.Pipeline) {
	return func(p *pipepb.Pipeline) {
		s.pipe = p
		for by, all := range events {
			play := p.Components.Transforms[by]
			coder := ""
			for _, out := range play.Outputs {
				coder = p.Components.Pcollections[out].CoderId
			}
			b, err := proto.Marshal(&pipepb.TestStreamPayload{CoderId: coder, Events: all})
			if err != nil {
				panic(err) // it is all ours
			}
			play.Spec = &pipepb.FunctionSpec{Urn: graph.URNTestStream, Payload: b}
		}
		for id, w := range p.Components.WindowingStrategies {
			lateness := s.args["lateness"]
			if of, some, ok := strings.Cut(lateness, ":"); ok {
				if lateness = some; id != of {
					lateness = ""
				}
			}
			w.AllowedLateness, _ = strconv.ParseInt(lateness, 10, 64)
			w.OutputTime = pipepb.OutputTime_Enum(pipepb.OutputTime_Enum_value[strings.ToUpper(s.args["combiner"])])
			if s.has("trigger") {
				w.Trigger = triggertest.Parse(s.args["trigger"])
			}
			if s.has("accumulating") {
				w.AccumulationMode = pipepb.AccumulationMode_ACCUMULATING
			}
		}
	}
}

func (s *show) editState(p *pipepb.Pipeline) {
	bundletest.EditParDo("State", func(pd *pipepb.ParDoPayload, _ *pipepb.Components) {
		pd.RequiresTimeSortedInput = s.has("sorted")
		if s.has("expiry") {
			pd.TimerFamilySpecs["end"] = proto.Clone(pd.TimerFamilySpecs["t"]).(*pipepb.TimerFamilySpec)
			pd.OnWindowExpirationTimerFamilySpec = "end"
		}
	})(p)
}
