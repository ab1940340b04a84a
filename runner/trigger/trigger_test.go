package trigger_test

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"trestle/element"
	"trestle/runner/trigger"
	"trestle/runner/trigger/triggertest"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/cockroachdb/datadriven"
	"google.golang.org/protobuf/proto"
)

// TestTrigger tells a trigger and what happens in windows, and prints when it
// fires, and what it waits for. What panes come of it is tested with package
// pane.
//
//	trigger [merging] [open]   T        the trigger; prints it and its continuation
//	run
//	add [WINDOW] 3 | ended [WINDOW] | time 5 | sync 5 | merge A B C=A+B…
//	show                               what each window waits for, and its encoding's length
//
// After an intended change run go test ./runner/trigger -rewrite, then read the
// diff as you would read code.
func TestTrigger(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var b *bench
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd == "trigger" {
				p := triggertest.Parse(strings.TrimSpace(d.Input))
				tree, err := trigger.New(p, trigger.Options{Merging: d.HasArg("merging"), Open: d.HasArg("open")})
				if err != nil {
					return "error: " + err.Error() + "\n"
				}
				then, err := trigger.New(trigger.Continuation(p), trigger.Options{})
				if err != nil {
					t.Fatal(err)
				}
				b = &bench{tree: tree, windows: map[string]*watched{}}
				return fmt.Sprintf("%s\nthen %s\n", tree, then)
			}
			b.t = t
			b.out.Reset()
			for line := range strings.Lines(d.Input) {
				b.line(strings.Fields(line))
			}
			return b.out.String()
		})
	})
}

// A bench is a trigger with some windows.
type bench struct {
	t       *testing.T
	tree    *trigger.Tree
	windows map[string]*watched
	names   []string
	now     trigger.Now
	out     strings.Builder
}

type watched struct {
	state []byte
	ended bool
}

// with gives a window's state to f, and keeps it encoded.
func (b *bench) with(name string, f func(s *trigger.State, now trigger.Now)) {
	w := b.windows[name]
	if w == nil {
		w = &watched{state: b.tree.Append(nil, trigger.State{})}
		b.windows[name] = w
		b.names = append(b.names, name)
	}
	s, rest, err := b.tree.Decode(w.state)
	if err != nil || len(rest) > 0 {
		b.t.Fatalf("state %x: %v, %d bytes left", w.state, err, len(rest))
	}
	now := b.now
	now.Ended = w.ended
	f(&s, now)
	w.state = b.tree.Append(w.state[:0], s)
}

// fire fires a window as often as it is ready, but not for ever.
func (b *bench) fire(name string) {
	b.with(name, func(s *trigger.State, now trigger.Now) {
		if b.tree.Finished(*s) || !b.tree.Ready(*s, now) {
			return
		}
		b.tree.Fire(s, now)
		fmt.Fprintf(&b.out, "%s fires", name)
		if b.tree.Finished(*s) {
			b.out.WriteString(", finished")
		}
		b.out.WriteByte('\n')
	})
}

func (b *bench) line(words []string) {
	name := "w"
	if len(words) > 2 && words[0] == "add" || len(words) > 1 && words[0] == "ended" {
		name = words[1]
	}
	switch words[0] {
	case "add":
		b.with(name, func(s *trigger.State, now trigger.Now) {
			if !b.tree.Finished(*s) {
				b.tree.Add(s, b.number(words[len(words)-1]), now)
			}
		})
		b.fire(name)
	case "ended":
		b.windows[name].ended = true
		b.fire(name)
	case "time", "sync":
		at := element.Timestamp(b.number(words[1]))
		if words[0] == "time" {
			b.now.Processing = at
		}
		b.now.Synchronized = at
		for _, name := range b.names {
			b.fire(name)
		}
	case "merge": // into from from…
		b.merge(words[1], words[2:])
	case "show":
		for _, name := range b.names {
			b.with(name, func(s *trigger.State, now trigger.Now) {
				at, sync := b.tree.Wake(*s, now)
				fmt.Fprintf(&b.out, "%s time=%s sync=%s, %d bytes\n", name, at, sync, len(b.windows[name].state))
			})
		}
	default:
		b.t.Fatalf("what is %q?", words[0])
	}
}

func (b *bench) merge(into string, from []string) {
	var states []trigger.State
	for _, name := range from {
		b.with(name, func(s *trigger.State, _ trigger.Now) { states = append(states, s.Clone()) })
		if name != into {
			delete(b.windows, name)
			b.names = remove(b.names, name)
		}
	}
	b.with(into, func(s *trigger.State, now trigger.Now) { *s = b.tree.Merge(states, now) })
}

func remove(names []string, name string) (out []string) {
	for _, n := range names {
		if n != name {
			out = append(out, n)
		}
	}
	return out
}

func (b *bench) number(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		b.t.Fatal(err)
	}
	return n
}

// TestRefused makes trees of protos that are no triggers.
func TestRefused(t *testing.T) {
	deep := triggertest.Parse("always")
	for range 60 {
		deep = &pipepb.Trigger{Trigger: &pipepb.Trigger_Repeat_{Repeat: &pipepb.Trigger_Repeat{Subtrigger: deep}}}
	}
	wide := triggertest.Parse("all(" + strings.Repeat("always, ", 1200) + ")")
	for name, c := range map[string]struct {
		t    *pipepb.Trigger
		want string
	}{
		"no count":     {triggertest.Parse("count(0)"), "after 0 elements"},
		"no sub":       {triggertest.Parse("repeat(any)"), "has none"},
		"empty sub":    {&pipepb.Trigger{Trigger: &pipepb.Trigger_Repeat_{Repeat: &pipepb.Trigger_Repeat{}}}, "no kind that is known"},
		"no period":    {triggertest.Parse("after(align 0+0)"), "must be positive"},
		"past":         {triggertest.Parse("after(delay -1)"), "must not be negative"},
		"too deep":     {deep, "nested more than 50 deep"},
		"too wide":     {wide, "more than 1000 parts"},
		"no transform": {&pipepb.Trigger{Trigger: &pipepb.Trigger_AfterProcessingTime_{AfterProcessingTime: &pipepb.Trigger_AfterProcessingTime{TimestampTransforms: []*pipepb.TimestampTransform{{}}}}}, "not known"},
	} {
		if _, err := trigger.New(c.t, trigger.Options{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, c.want)
		}
	}
	if tree, err := trigger.New(nil, trigger.Options{}); err != nil || tree.String() != "default" {
		t.Errorf("no trigger is %v, %v", tree, err)
	}
}

// TestPrinted checks that what a tree prints is the trigger that it was made of.
func TestPrinted(t *testing.T) {
	for _, text := range []string{
		"default", "repeat(eow(early=never, late=count(3)))", "eow(early=after(delay 5, align 60+3))",
		"orFinally(each(always, synchronized), any(eow, all(count(1), never)))",
	} {
		tree, err := trigger.New(triggertest.Parse(text), trigger.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if tree.String() != text || !proto.Equal(triggertest.Parse(tree.String()), triggertest.Parse(text)) {
			t.Errorf("%s is printed as %s", text, tree)
		}
	}
}

// FuzzState decodes bytes as a state. They are none, or one that can be used
// and encodes as the same state.
func FuzzState(f *testing.F) {
	tree, err := trigger.New(triggertest.Parse(
		"each(eow(early=any(count(2), after(delay 5)), late=synchronized), orFinally(repeat(count(3)), all(eow, never)))",
	), trigger.Options{Merging: true})
	if err != nil {
		f.Fatal(err)
	}
	var s trigger.State
	for i := range 5 {
		now := trigger.Now{Ended: i > 2, Processing: element.Timestamp(3 * i), Synchronized: element.Timestamp(2 * i)}
		tree.Add(&s, 1, now)
		f.Add(tree.Append(nil, s))
		if tree.Ready(s, now) {
			tree.Fire(&s, now)
			f.Add(tree.Append(nil, s))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, rest, err := tree.Decode(b)
		if err != nil {
			return
		}
		again := tree.Append(nil, s)
		s2, rest2, err := tree.Decode(append(again, rest...))
		if err != nil || !bytes.Equal(rest, rest2) || !bytes.Equal(again, tree.Append(nil, s2)) {
			t.Fatalf("%x changes when it is encoded again: %x, %v", b, again, err)
		}
		now := trigger.Now{Ended: true, Processing: 1 << 40, Synchronized: 1 << 40}
		s = tree.Merge([]trigger.State{s, s2, {}}, now)
		for range 10 {
			tree.Add(&s, 1, now)
			tree.Wake(s, now)
			if tree.Ready(s, now) {
				tree.Fire(&s, now)
			}
		}
	})
}
