package main

import (
	"fmt"
	"math/rand/v2"
)

// draw makes the plan of a seed.
func draw(seed int64) plan {
	r := rand.New(rand.NewPCG(uint64(seed), 1))
	p := plan{Seed: seed, In: drawWindowing(r)}
	for range r.IntN(25) {
		p.Input = append(p.Input, input{
			Key:   fmt.Sprintf("k%d", r.IntN(4)),
			Value: int64(r.IntN(20)),
			At:    1000*int64(1+r.IntN(60)) + int64(r.IntN(3)-1), // around the ends of windows
		})
	}
	mayMove := p.In.single()
	apart := false // sessions have ended, each for itself, and may overlap
	for range 1 + r.IntN(5) {
		st, ok := drawStep(r, p, mayMove)
		for !ok || apart && merges[st.Kind] {
			st, ok = drawStep(r, p, mayMove)
		}
		switch {
		case st.Kind == "window":
			mayMove, apart = st.To.single(), false
		case st.Kind == "loop":
			mayMove = false // what it gives may be behind the watermark
			apart = p.windowing().Kind == "sessions"
		case gathers[st.Kind]:
			// An element has one window, and a time within it.
			mayMove = mayMove || p.windowing().Kind == "sliding"
			apart = p.windowing().Kind == "sessions"
		}
		p.Steps = append(p.Steps, st)
	}
	if mayMove && r.IntN(3) == 0 {
		p.Fire = &firing{
			To: drawWindowing(r), Trigger: triggers[r.IntN(len(triggers))],
			Count: int32(1 + r.IntN(4)), Accumulate: r.IntN(2) == 0,
		}
	}
	return p
}

// gathers are the steps that bring together what has one key and window.
var gathers = map[string]bool{
	"sum": true, "mean": true, "group": true, "cogroup": true,
	"value": true, "bag": true, "combining": true, "map": true, "set": true, "ordered": true, "cleared": true, "tags": true, "loop": true,
}

// merges are those for which sessions are brought together.
var merges = map[string]bool{"sum": true, "mean": true, "group": true, "cogroup": true}

// stateful are those that do so without bringing sessions together.
var stateful = map[string]bool{
	"value": true, "bag": true, "combining": true, "map": true, "set": true, "ordered": true, "cleared": true, "tags": true, "loop": true,
}

// single reports whether elements can be put into other windows. What is in
// several is one element for some SDKs then, and several for others; and what
// was grouped in the global window is at the end of time.
func (w windowing) single() bool { return w.Kind == "fixed" || w.Kind == "sessions" }

// windowing is that of what the steps give.
func (p plan) windowing() windowing {
	w := p.In
	for _, st := range p.Steps {
		if st.Kind == "window" {
			w = st.To
		}
	}
	return w
}

func drawWindowing(r *rand.Rand) windowing {
	size := 1000 * int64(1+r.IntN(15))
	late := int64(0)
	if r.IntN(3) == 0 {
		late = 1000 * int64(r.IntN(20))
	}
	switch r.IntN(4) {
	case 0:
		return windowing{Kind: "fixed", Size: size, Lateness: late}
	case 1:
		return windowing{Kind: "sliding", Size: size, Period: max(1000, 1000*(size/int64(1000*(1+r.IntN(3))))), Lateness: late}
	case 2:
		return windowing{Kind: "sessions", Size: size, Lateness: late}
	}
	return windowing{Kind: "global"}
}

// drawStep makes a step, which may be one that the plan can't go on with.
func drawStep(r *rand.Rand, p plan, mayMove bool) (step, bool) {
	switch r.IntN(14) {
	case 0:
		return step{Kind: "add", Arg: int64(r.IntN(9) - 4)}, true
	case 1:
		return step{Kind: "rekey", Arg: int64(1 + r.IntN(4))}, true
	case 2:
		return step{Kind: []string{"sum", "mean"}[r.IntN(2)]}, true
	case 3:
		return step{Kind: "group"}, true
	case 4, 5:
		return step{Kind: "window", To: drawWindowing(r)}, mayMove
	case 6:
		return step{Kind: "flatten", Arg: int64(r.IntN(9))}, true
	case 7, 8:
		return drawSide(r, p), true
	case 9:
		return step{Kind: "cogroup", Arg: int64(1 + r.IntN(4))}, true
	case 10:
		return step{Kind: "spread", Arg: int64(1 + r.IntN(4))}, true
	case 11:
		return step{Kind: []string{"parts", "reshuffle"}[r.IntN(2)], Arg: int64(r.IntN(9))}, true
	}
	kinds := []string{"value", "bag", "combining", "map", "set", "ordered", "cleared", "tags", "loop"}
	st := step{Kind: kinds[r.IntN(len(kinds))]}
	// A loop in the global window has no end.
	return st, st.Kind != "loop" || p.windowing().Kind != "global"
}

func drawSide(r *rand.Rand, p plan) step {
	st := step{Kind: "side", Arg: 1000 * int64(r.IntN(3)) * int64(1+r.IntN(10))}
	if p.windowing().Kind == "global" {
		st.Arg = 0 // the SDK wants it so
	}
	views := []string{"iter", "slice", "reiter", "map"}
	if st.Arg == 0 && len(p.Input) > 0 {
		views = append(views, "single") // which there must be one of
	}
	st.View = views[r.IntN(len(views))]
	return st
}
