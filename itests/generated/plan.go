package main

import "fmt"

// A windowing says into which windows elements are put.
type windowing struct {
	Kind         string // global, fixed, sliding, sessions
	Size, Period int64
	Lateness     int64 // how long windows live on; nothing is late
}

// A step is one transform.
type step struct {
	Kind string
	Arg  int64
	View string    // of side: iter, slice, reiter, map, single
	To   windowing // of window
}

// A firing is the end of some plans: a grouping that may fire early.
type firing struct {
	To         windowing
	Trigger    string
	Count      int32
	Accumulate bool
}

// A plan is a pipeline.
type plan struct {
	Seed  int64
	Input []input
	In    windowing
	Steps []step
	Fire  *firing // or nil
}

// An input is an element before it is in a window.
type input struct {
	Key   string
	Value int64
	At    int64
}

func (w windowing) String() string {
	s := w.Kind
	switch w.Kind {
	case "fixed", "sessions":
		s = fmt.Sprintf("%s of %d", w.Kind, w.Size)
	case "sliding":
		s = fmt.Sprintf("sliding of %d each %d", w.Size, w.Period)
	}
	if w.Lateness > 0 {
		s += fmt.Sprintf(" and %d late", w.Lateness)
	}
	return s
}

func (p plan) String() string {
	s := fmt.Sprintf("seed %d: %d elements in %v", p.Seed, len(p.Input), p.In)
	for _, st := range p.Steps {
		s += fmt.Sprintf(" | %s %d", st.Kind, st.Arg)
		switch st.Kind {
		case "window":
			s += fmt.Sprint(" ", st.To)
		case "side":
			s += " " + st.View
		}
	}
	if f := p.Fire; f != nil {
		s += fmt.Sprintf(" | fire %v %s %d accumulate=%v", f.To, f.Trigger, f.Count, f.Accumulate)
	}
	return s
}
