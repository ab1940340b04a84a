// Package trigger decides when the pane of a key and window is ready.
//
// A Tree is a trigger of Beam's model, made from its proto; it is immutable. A
// State is what the trigger remembers of one key and window, small enough to be
// kept for millions of them: the zero State is the one of a new window, and the
// default trigger never has another. The Tree's methods are functions of a
// State and of Now; they never look at elements, and no time passes unless Now
// says so.
//
// The order of calls is: Add for elements that have come, then Ready, and if it
// is, Fire. When the tree is Finished, the window is closed: nothing more will
// fire, and what still comes is not wanted. When windows merge, Merge gives the
// state of the result, before any of the elements that made them merge is
// added, so that nothing ripens in a window that is no more.
//
// What triggers mean is as Beam's Java runners have it, with three liberties.
// A trigger that repeats by nature (early and late firings) forgets all that it
// remembers, parts of parts included. A time delay is over when its time is
// reached, not one moment later. And a processing-time trigger that had
// finished in one of merging windows only is alive again in the result.
//
// What is in a pane, its index and its timing are left to package pane.
package trigger

import (
	"fmt"
	"strings"

	"trestle/element"
)

// A kind is one of the model's triggers.
type kind uint8

const (
	byDefault    kind = iota // whenever the window has ended
	endOfWindow              // once when it has ended; with subs: early, late or none
	elementCount             // once, with so many elements
	processing               // once, some processing time after the first element
	synchronized             // once, when all upstream has passed the first element's time
	always
	never
	afterAll  // once, when all subs are ready
	afterAny  // once, when one sub is
	afterEach // one sub after the other
	orFinally // subs: main and until
	repeat    // sub: what starts again when it has finished
)

// A node is one trigger of a tree.
type node struct {
	kind      kind
	subs      []int       // their indices in the tree
	end       int         // index after the last node below this one
	slot      int         // its slot in a State, or where it would be
	endSlot   int         // slot after those of this node and all below
	count     int64       // of elementCount, > 0
	transform []transform // of processing
	ends      bool        // this node or one below watches the end of the window
}

// A transform moves a time to a later one: by a delay, or to the next multiple
// of a period plus an offset.
type transform struct {
	delay, period, offset int64
}

// A Tree is a trigger. It is immutable and safe for concurrent use.
type Tree struct {
	nodes   []node // each before those below it
	slotted []int  // the nodes that have a slot, by slot
	merging bool
	finite  bool // some node can finish
	timed   bool // some node waits for processing time
}

// Now is what a trigger may know when it is asked.
type Now struct {
	// Ended says that the input watermark has passed the window's last
	// timestamp.
	Ended bool
	// Processing and Synchronized are the job's clock, and the time that all
	// upstream stages have passed; milliseconds like all times.
	Processing, Synchronized element.Timestamp
}

// Timed reports whether the passing of processing time alone can make the
// trigger ready.
func (t *Tree) Timed() bool { return t.timed }

// Blind reports whether nothing but the end of the window makes the trigger
// ready: until then its State is the zero State, whatever is added.
func (t *Tree) Blind() bool {
	switch root := &t.nodes[0]; root.kind {
	case byDefault, never:
		return true
	case endOfWindow:
		return len(root.subs) == 0
	}
	return false
}

var names = [...]string{
	byDefault: "default", endOfWindow: "eow", elementCount: "count", processing: "after",
	synchronized: "synchronized", always: "always", never: "never", afterAll: "all",
	afterAny: "any", afterEach: "each", orFinally: "orFinally", repeat: "repeat",
}

// String prints the trigger in one line, as tests and plans write it.
func (t *Tree) String() string {
	var b strings.Builder
	t.print(&b, 0)
	return b.String()
}

func (t *Tree) print(b *strings.Builder, i int) {
	n := &t.nodes[i]
	b.WriteString(names[n.kind])
	var args []string
	if n.kind == elementCount {
		args = append(args, fmt.Sprint(n.count))
	}
	for _, tr := range n.transform {
		if tr.period > 0 {
			args = append(args, fmt.Sprintf("align %d+%d", tr.period, tr.offset))
		} else {
			args = append(args, fmt.Sprintf("delay %d", tr.delay))
		}
	}
	for k, sub := range n.subs {
		var s strings.Builder
		if n.kind == endOfWindow {
			s.WriteString([]string{"early=", "late="}[k])
		}
		t.print(&s, sub)
		args = append(args, s.String())
	}
	if len(args) > 0 {
		b.WriteString("(" + strings.Join(args, ", ") + ")")
	}
}
