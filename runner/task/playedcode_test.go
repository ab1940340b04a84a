package task_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"trestle/coders"
	"trestle/element"
	"trestle/fnapi/fnapitest"
	"trestle/runner/bundle"
	"trestle/runner/bundle/bundletest"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// What the transforms of a show do.

// windowFn is the name of a collection's window function.
func (s *show) windowFn(collection string) string {
	c := s.pipe.Components
	urn := c.WindowingStrategies[c.Pcollections[collection].GetWindowingStrategyId()].GetWindowFn().GetUrn()
	return strings.TrimSuffix(strings.TrimPrefix(urn, "beam:window_fn:"), "_windows:v1")
}

func windowsAt(fn string, at element.Timestamp) (all []element.Interval) {
	from := func(start element.Timestamp) {
		all = append(all, element.Interval{Start: start, End: start + 10})
	}
	switch fn {
	case "fixed":
		from(at - at%10)
	case "sliding":
		for start := at - at%3 - 9; start <= at; start += 3 {
			if start > at-10 {
				from(start)
			}
		}
	case "session":
		from(at)
	}
	return all
}

// window puts an element into windows.
func (s *show) window(c *bundletest.Call, v *coders.Value) error {
	for _, sink := range c.Program.Sinks {
		var windows []byte
		n := 0
		for _, w := range windowsAt(s.windowFn(sink.Output.Collection), v.Timestamp()) {
			windows = coders.AppendInterval(windows, w)
			n++
		}
		b := coders.AppendHeader(nil, v.Timestamp(), max(n, 1), windows, v.Pane)
		if err := c.Call.Emit(sink.ID, append(b, v.Elem...)); err != nil {
			return err
		}
	}
	return nil
}

// regroup makes a value of a group, of one key for all groups, and puts it into
// windows.
func (s *show) regroup(c *bundletest.Call, v *coders.Value) error {
	value := *v
	value.Elem = append(bundletest.Bytes("all"), bundletest.Bytes(groupText(v))...)
	return s.window(c, &value)
}

// flat makes elements of a group's values again.
func (s *show) flat(c *bundletest.Call, v *coders.Value) error {
	key, values, _ := strings.Cut(groupText(v), "=")
	for _, value := range strings.Split(values, "+") {
		one := *v
		one.Elem = append(bundletest.Bytes(key), bundletest.Bytes(value)...)
		if err := s.window(c, &one); err != nil {
			return err
		}
	}
	return nil
}

// where writes a window; nothing is the global one.
func where(window []byte) string {
	if len(window) == 0 {
		return "global"
	}
	w, _, err := coders.DecodeInterval(window)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("[%d,%d)", w.Start, w.End)
}

// end tells of an element, or a group.
func (s *show) end(_ *bundletest.Call, v *coders.Value) error {
	p, _, err := coders.DecodePane(v.Pane)
	if err != nil {
		return err
	}
	what := groupText(v)
	s.tell("%s @%v %s%s", what, v.Timestamp(), where(v.Windows), firing(p))
	return nil
}

func firing(p element.Pane) string {
	if p.Timing == element.Unknown {
		return ""
	}
	text := fmt.Sprintf(" %s %d", map[element.Timing]string{element.Early: "early", element.OnTime: "on-time", element.Late: "late"}[p.Timing], p.Index)
	if p.Last {
		text += " last"
	}
	return text
}

// state does what an element's value says; see act.
func (s *show) state(c *bundletest.Call, v *coders.Value) error {
	for i := range v.NumWindows {
		size := len(v.Windows) / v.NumWindows
		w := stateful{show: s, c: c, key: v.Key(), window: v.Windows[i*size : (i+1)*size], at: v.Timestamp()}
		for _, action := range strings.Split(bundletest.Word(v.KVValue()), ",") {
			if err := w.act(action); err != nil {
				return err
			}
		}
	}
	return nil
}

// timers has timers do what was said of their tags, after they have told what
// their key has in its bag and have given it out.
func (s *show) timers(c *fnapitest.Call, _, family string, chunk []byte) error {
	call, err := s.r.code.Call(c)
	if err != nil {
		return err
	}
	f := call.Program.Families[slices.IndexFunc(call.Program.Families, func(f bundle.Family) bool { return f.ID == family })]
	for len(chunk) > 0 {
		var tm bundle.Timer
		if tm, chunk, err = f.Cut(chunk); err != nil {
			return err
		}
		w := stateful{show: s, c: call, key: tm.Key, window: tm.Windows, at: tm.Hold}
		all, _, err := readAllState(call, w.bag())
		if err != nil {
			return err
		}
		name := string(tm.Tag)
		switch {
		case f.Expiry:
			name = "expired"
		case !f.ProcessingTime:
			name += fmt.Sprintf("=%v", tm.Fire)
		}
		s.tell("%s fires %s %s: %s", bundletest.Word(tm.Key), name, where(tm.Windows), bagText(all))
		if err := w.act("give"); err != nil {
			return err
		}
		for _, action := range strings.Split(s.on[string(tm.Tag)], ",") {
			if err := w.act(action); err != nil {
				return err
			}
		}
	}
	return nil
}

func bagText(all []byte) string {
	var words []string
	for len(all) > 0 {
		n, used := binary.Uvarint(all)
		words = append(words, string(all[used:used+int(n)]))
		all = all[used+int(n):]
	}
	return strings.Join(words, "+")
}

// stateful is a key and window of State's at work.
type stateful struct {
	*show
	c           *bundletest.Call
	key, window []byte
	at          element.Timestamp
}

func (w *stateful) bag() *fnpb.StateKey {
	return &fnpb.StateKey{Type: &fnpb.StateKey_BagUserState_{BagUserState: &fnpb.StateKey_BagUserState{
		TransformId: "State", UserStateId: "seen", Key: w.key, Window: w.window,
	}}}
}

// act does one action:
//
//	x=15      sets timer x of event time; x=15^12 with output timestamp 12
//	x!500     sets timer x of processing time, 500 ms from now
//	-x -x!    clear them
//	+w        adds w to the bag
//	read      tells the bag
//	give      gives the key, at the element's timestamp or the timer's
//	drain     has the job drained
func (w *stateful) act(action string) error {
	switch {
	case action == "":
		return nil
	case action == "drain":
		w.r.tm.DrainJob("job")
		return nil
	case action == "give":
		for _, sink := range w.c.Program.Sinks {
			b := coders.AppendHeader(nil, w.at, 1, w.window, coders.NoFiring)
			if err := w.c.Call.Emit(sink.ID, append(append(b, w.key...), bundletest.Bytes("given")...)); err != nil {
				return err
			}
		}
		return nil
	case action == "read":
		all, _, err := readAllState(w.c, w.bag())
		w.tell("%s reads %s: %s", bundletest.Word(w.key), where(w.window), bagText(all))
		return err
	case action[0] == '+':
		_, err := w.c.State(&fnpb.StateRequest{StateKey: w.bag(), Request: &fnpb.StateRequest_Append{
			Append: &fnpb.StateAppendRequest{Data: bundletest.Bytes(action[1:])},
		}})
		return err
	}
	return w.timer(action)
}

func (w *stateful) timer(action string) error {
	family, hold := "t", w.at
	tag, clears := strings.CutPrefix(action, "-")
	var fire element.Timestamp
	if name, after, processing := strings.Cut(tag, "!"); processing {
		n, _ := strconv.Atoi(after)
		family, tag, fire = "p", name, element.Timestamp(time.Now().UnixMilli()+int64(n))
	} else if name, at, ok := strings.Cut(tag, "="); ok {
		at, held, some := strings.Cut(at, "^")
		n, _ := strconv.Atoi(at)
		tag, fire, hold = name, element.Timestamp(n), element.Timestamp(n)
		if some {
			n, _ = strconv.Atoi(held)
			hold = element.Timestamp(n)
		}
	}
	b := append(slices.Clone(w.key), bundletest.Bytes(tag)...)
	b = binary.BigEndian.AppendUint32(b, 1)
	b = append(b, w.window...)
	if clears {
		return w.c.EmitTimers("State", family, append(b, 1))
	}
	b = coders.AppendTimestamp(append(b, 0), fire)
	b = coders.AppendTimestamp(b, hold)
	return w.c.EmitTimers("State", family, append(b, coders.NoFiring...))
}

// look tells what the side input holds for an element, whose window is that of
// the side input, or the earliest such that ends no earlier, or global.
func (s *show) look(c *bundletest.Call, v *coders.Value) error {
	pd := &pipepb.ParDoPayload{}
	side := s.pipe.Components.Transforms["Look"]
	if err := proto.Unmarshal(side.Spec.Payload, pd); err != nil {
		return err
	}
	for i := range v.NumWindows {
		size := len(v.Windows) / v.NumWindows
		window := v.Windows[i*size : (i+1)*size]
		at := element.EndOfGlobalWindow
		if len(window) > 0 {
			w, _, _ := coders.DecodeInterval(window)
			at = w.MaxTimestamp()
		}
		var looked []byte
		all := windowsAt(s.windowFn(side.Inputs["m"]), at)
		if len(all) > 0 {
			looked = coders.AppendInterval(nil, all[0])
		}
		data, _, err := readAllState(c, &fnpb.StateKey{Type: &fnpb.StateKey_IterableSideInput_{IterableSideInput: &fnpb.StateKey_IterableSideInput{
			TransformId: "Look", SideInputId: "m", Window: looked,
		}}})
		if err != nil {
			return err
		}
		s.tell("%s @%v %s sees %s", bundletest.Word(v.Key()), v.Timestamp(), where(window), bagText(data))
	}
	for _, sink := range c.Program.Sinks {
		if err := c.Call.Emit(sink.ID, v.Raw); err != nil {
			return err
		}
	}
	return nil
}

// sized is the element that splitting gives for a restriction of a key, in the
// windows of v.
func sized(v *coders.Value, key, restriction string) []byte {
	b := coders.AppendHeader(nil, v.Timestamp(), v.NumWindows, v.Windows, v.Pane)
	b = append(append(b, bundletest.Bytes(key)...), bundletest.Bytes("")...)
	b = append(b, bundletest.Bytes(restriction)...)
	return binary.BigEndian.AppendUint64(b, math.Float64bits(1))
}

// restrict makes a restriction of an element's value.
func (s *show) restrict(c *bundletest.Call, v *coders.Value) error {
	return c.Call.Emit(c.Sinks[0], sized(v, bundletest.Word(v.Key()), bundletest.Word(v.KVValue())))
}

// read reads some of a restriction, and leaves the rest.
func (s *show) read(c *bundletest.Call, v *coders.Value) error {
	var words []string
	for b := v.Raw[len(v.Raw)-len(v.Elem):]; len(words) < 3; {
		n, used := binary.Uvarint(b)
		words, b = append(words, string(b[used:used+int(n)])), b[used+int(n):]
	}
	key, text := words[0], words[2]
	var lo, hi, step, delay int64
	var known rune
	if _, err := fmt.Sscanf(text, "%d-%d/%d%c%d", &lo, &hi, &step, &known, &delay); err != nil {
		return fmt.Errorf("restriction %q: %w", text, err)
	}
	until := min(lo+step, hi)
	windows := ""
	for rest := v.Windows; len(rest) > 0; rest = rest[len(v.Windows)/v.NumWindows:] {
		windows += " " + where(rest)
	}
	s.tell("%s reads %d to %d%s", key, lo, until-1, windows)
	for _, sink := range c.Sinks {
		for i := lo; i < until; i++ {
			b := coders.AppendHeader(nil, element.Timestamp(i), v.NumWindows, v.Windows, coders.NoFiring)
			if err := c.Call.Emit(sink, append(append(b, bundletest.Bytes(key)...), bundletest.Bytes(fmt.Sprint(i))...)); err != nil {
				return err
			}
		}
	}
	if until == hi {
		return nil
	}
	rest := &fnpb.BundleApplication{Element: sized(v, key, fmt.Sprintf("%d-%d/%d%c%d", until, hi, step, known, delay))}
	if known == '+' {
		rest.OutputWatermarks = map[string]*timestamppb.Timestamp{"o0": timestamppb.New(time.UnixMilli(until))}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left[c.Instruction] = append(s.left[c.Instruction], &fnpb.DelayedBundleApplication{
		Application: rest, RequestedTimeDelay: durationpb.New(time.Duration(delay) * time.Millisecond),
	})
	return nil
}

// finish ends a bundle.
func (s *show) finish(c *fnapitest.Call) (*fnpb.ProcessBundleResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &fnpb.ProcessBundleResponse{ResidualRoots: s.left[c.Instruction]}, nil
}
