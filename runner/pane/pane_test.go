package pane_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"trestle/element"
	"trestle/runner/pane"
	"trestle/runner/trigger"
	"trestle/runner/trigger/triggertest"
	"trestle/runner/window"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/cockroachdb/datadriven"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		if err := f.Value.Set("300"); err != nil { // histories are long
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// TestPanes tells a strategy and then what happens, and prints what comes out.
//
//	window fixed=10s lateness=5s trigger=(default) mode=accumulating combiner=earliest closing=always ontime=always
//	  (or sliding=10s/5s, sessions=10s, global, custom, custom-merging)
//	run
//	add k=x at=1s v=a          elements one by one; v may hold several, a,b
//	together k=x at=1s v=a at=2s v=b
//	watermark 10s | time 5s | sync 5s | end
//	show                       what is remembered, held and waited for
//
// After an intended change run go test ./runner/pane -rewrite, then read the
// diff as you would read code.
func TestPanes(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		if strings.HasSuffix(path, ".fail") {
			return // what a property left when it failed, for its own test
		}
		var r *rig
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd == "window" {
				ws := strategy(t, d)
				s, err := pane.StrategyOf(ws)
				if err != nil {
					return "error: " + err.Error() + "\n"
				}
				fn, _ := window.FnOf(ws)
				r = newRig(t, s, fn)
				return ""
			}
			r.t = t
			r.out.Reset()
			for line := range strings.Lines(d.Input) {
				r.line(strings.TrimSpace(line))
			}
			return r.out.String()
		})
	})
}

// line carries out one line of a test.
func (r *rig) line(line string) {
	words := strings.Fields(line)
	switch words[0] {
	case "add", "together":
		key, items := r.items(words[1:])
		if words[0] == "together" {
			r.add(key, items)
			return
		}
		for i := range items {
			r.add(key, items[i:i+1])
		}
	case "watermark":
		r.now.Input = r.parse(words[1])
		r.advance()
	case "time":
		r.now.Processing = r.parse(words[1])
		r.now.Synchronized = r.now.Processing
		r.advance()
	case "sync": // the stages upstream are behind
		r.now.Synchronized = r.parse(words[1])
		r.advance()
	case "time-only":
		r.now.Processing = r.parse(words[1])
		r.advance()
	case "end":
		r.now.Input = element.MaxTimestamp
		r.advance()
		if len(r.keys) > 0 || r.now.Output != element.MaxTimestamp {
			r.t.Fatalf("after the end %d keys are left, and the output watermark is %s", len(r.keys), r.now.Output)
		}
	case "show":
		r.show()
	default:
		r.t.Fatalf("what is %q?", line)
	}
}

// items reads k=x and then at=, w= and v= of elements.
func (r *rig) items(words []string) (key string, items []item) {
	var at element.Timestamp
	var windows []window.Window
	for _, word := range words {
		name, value, _ := strings.Cut(word, "=")
		switch name {
		case "k":
			key = value
		case "at":
			at = r.parse(value)
		case "w": // code@last
			windows = nil
			for _, w := range strings.Split(value, ",") {
				code, last, _ := strings.Cut(w, "@")
				windows = append(windows, window.Opaque([]byte(code), r.parse(last)))
			}
		case "v":
			for _, v := range strings.Split(value, ",") {
				w := windows
				if r.fn.Kind != window.CustomKind {
					w = r.fn.Assign(nil, at)
				}
				items = append(items, item{at: at, windows: w, word: v})
			}
		default:
			r.t.Fatalf("what is %q?", word)
		}
	}
	return key, items
}

func (r *rig) parse(text string) element.Timestamp {
	if text == "+inf" {
		return element.MaxTimestamp
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		r.t.Fatal(err)
	}
	return element.Timestamp(d.Milliseconds())
}

func (r *rig) show() {
	for _, key := range slices.Sorted(maps.Keys(r.keys)) {
		k := r.load(key)
		names := []string{}
		for _, w := range k.Windows() {
			names = append(names, name(w))
		}
		wake := r.s.Wake(k)
		fmt.Fprintf(&r.out, "%s %s hold=%s wake=%s", key, strings.Join(names, " "), ms(r.s.Hold(k)), ms(wake.Event))
		if wake.Processing != element.MaxTimestamp {
			fmt.Fprintf(&r.out, " time=%s", ms(wake.Processing))
		}
		if wake.Synchronized != element.MaxTimestamp {
			fmt.Fprintf(&r.out, " sync=%s", ms(wake.Synchronized))
		}
		r.out.WriteByte('\n')
	}
	fmt.Fprintf(&r.out, "watermarks %s %s\n", ms(r.now.Input), ms(r.now.Output))
}

// strategy reads the arguments of a window command.
func strategy(t *testing.T, d *datadriven.TestData) *pipepb.WindowingStrategy {
	ws := &pipepb.WindowingStrategy{
		AccumulationMode: pipepb.AccumulationMode_DISCARDING,
		OutputTime:       pipepb.OutputTime_END_OF_WINDOW,
		ClosingBehavior:  pipepb.ClosingBehavior_EMIT_IF_NONEMPTY,
		OnTimeBehavior:   pipepb.OnTimeBehavior_FIRE_IF_NONEMPTY,
		MergeStatus:      pipepb.MergeStatus_NON_MERGING,
	}
	for _, arg := range d.CmdArgs {
		value := strings.Join(arg.Vals, ",")
		switch arg.Key {
		case "trigger":
			ws.Trigger = triggertest.Parse(value)
		case "lateness":
			if ws.AllowedLateness, _ = strconv.ParseInt(value, 10, 64); ws.AllowedLateness == 0 {
				ws.AllowedLateness = duration(t, value).Milliseconds()
			}
		case "mode":
			ws.AccumulationMode = pipepb.AccumulationMode_Enum(pipepb.AccumulationMode_Enum_value[strings.ToUpper(value)])
		case "combiner":
			ws.OutputTime = map[string]pipepb.OutputTime_Enum{
				"earliest": pipepb.OutputTime_EARLIEST_IN_PANE, "latest": pipepb.OutputTime_LATEST_IN_PANE,
			}[value]
		case "closing":
			ws.ClosingBehavior = pipepb.ClosingBehavior_EMIT_ALWAYS
		case "ontime":
			ws.OnTimeBehavior = pipepb.OnTimeBehavior_FIRE_ALWAYS
		default:
			windowFn(t, ws, arg.Key, value)
		}
	}
	return ws
}

// windowFn sets a strategy's window function.
func windowFn(t *testing.T, ws *pipepb.WindowingStrategy, kind, value string) {
	var payload proto.Message
	urn := "test:windows"
	switch kind {
	case "global":
		urn, payload = window.URNGlobal, nil
	case "fixed":
		urn, payload = window.URNFixed, &pipepb.FixedWindowsPayload{Size: durationpb.New(duration(t, value))}
	case "sliding":
		size, period, _ := strings.Cut(value, "/")
		urn, payload = window.URNSliding, &pipepb.SlidingWindowsPayload{
			Size: durationpb.New(duration(t, size)), Period: durationpb.New(duration(t, period)),
		}
	case "sessions":
		urn, payload = window.URNSessions, &pipepb.SessionWindowsPayload{GapSize: durationpb.New(duration(t, value))}
		ws.MergeStatus = pipepb.MergeStatus_NEEDS_MERGE
	case "custom":
	case "custom-merging":
		ws.MergeStatus = pipepb.MergeStatus_NEEDS_MERGE
	default:
		t.Fatalf("what is %q?", kind)
	}
	ws.WindowFn = &pipepb.FunctionSpec{Urn: urn}
	if payload != nil {
		b, err := proto.Marshal(payload)
		if err != nil {
			t.Fatal(err)
		}
		ws.WindowFn.Payload = b
	}
}

func duration(t *testing.T, text string) time.Duration {
	if n, err := strconv.Atoi(text); err == nil { // milliseconds
		return time.Duration(n) * time.Millisecond
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// What an SDK says of windows that it was not asked about, or in a way that makes
// no sense, is refused, and changes nothing.
func TestForeignMerges(t *testing.T) {
	tree, err := trigger.New(nil, trigger.Options{Merging: true})
	if err != nil {
		t.Fatal(err)
	}
	s := &pane.Strategy{Trigger: tree, Merging: window.MergeByTheirFn}
	of := func(name string) window.Window { return window.Opaque([]byte(name), 1000) }
	var k pane.Key
	now := pane.Now{Input: element.MinTimestamp, Output: element.MinTimestamp}
	add := func(name string, merges ...window.Merge) error {
		_, err := s.Add(&k, now, []pane.Element{{Timestamp: 1, Windows: []window.Window{of(name)}}}, merges, nil)
		return err
	}
	if err := add("a"); err != nil {
		t.Fatal(err)
	}
	if err := add("b", window.Merge{Into: of("c"), From: []window.Window{of("a"), of("x")}}); err == nil {
		t.Error("a window of nobody's was merged")
	}
	if got := k.Windows(); len(got) != 1 || got[0] != of("a") {
		t.Errorf("after an error there are %v", got)
	}
	if err := add("b", window.Merge{Into: of("c"), From: []window.Window{of("a"), of("b")}}); err != nil {
		t.Error(err)
	}
	if got := k.Windows(); len(got) != 1 || got[0] != of("c") {
		t.Errorf("at last there are %v", got)
	}
}

// Windows become one, which may be one of them, and fire when they have enough
// between them, though none of the elements that came is in it. What has fired in
// the one counts on, and what was in a pane isn't in the next.
func TestMergedByTheirFn(t *testing.T) {
	tree, err := trigger.New(triggertest.Parse("repeat(count(2))"), trigger.Options{Merging: true})
	if err != nil {
		t.Fatal(err)
	}
	s := &pane.Strategy{Trigger: tree, Merging: window.MergeByTheirFn}
	of := func(name string) window.Window { return window.Opaque([]byte(name), 1000) }
	into := func(name string, from ...string) window.Merge {
		m := window.Merge{Into: of(name)}
		for _, f := range from {
			m.From = append(m.From, of(f))
		}
		return m
	}
	var k pane.Key
	for _, step := range []struct {
		name   string
		merges []window.Merge
		want   string
	}{
		{"a", nil, "append a"},
		{"b", nil, "append b"},
		{"c", []window.Merge{into("ab", "a", "b")}, "merge ab append c emit ab 0 clear ab"},
		{"d", []window.Merge{into("cd", "c", "d")}, "merge cd append cd emit cd 0 clear cd"},
		{"e", nil, "append e"},
		{"f", []window.Merge{into("cd", "cd", "e", "f")}, "merge cd append cd emit cd 1 clear cd"},
	} {
		now := pane.Now{Input: element.MinTimestamp, Output: element.MinTimestamp}
		ops, err := s.Add(&k, now, []pane.Element{{Timestamp: 1, Windows: []window.Window{of(step.name)}}}, step.merges, nil)
		if err != nil {
			t.Fatal(err)
		}
		var told []string
		for _, op := range ops {
			what := map[pane.OpKind]string{pane.Append: "append", pane.Merge: "merge", pane.Emit: "emit", pane.Clear: "clear"}[op.Kind] + " " + op.Window.Code
			if op.Kind == pane.Emit {
				what += fmt.Sprint(" ", op.Pane.Index)
			}
			told = append(told, what)
		}
		if got := strings.Join(told, " "); got != step.want {
			t.Errorf("%s: %s, want %s", step.name, got, step.want)
		}
	}
}
