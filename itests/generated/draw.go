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
			At:    1000*int64(r.IntN(60)) + int64(r.IntN(2)),
		})
	}
	mayMove := p.In.single()
	for range 1 + r.IntN(5) {
		st := drawStep(r, mayMove)
		if st.Kind == "side" && p.windowing().Kind == "global" {
			st.Arg = 0 // the SDK wants it so
		}
		switch st.Kind {
		case "window":
			mayMove = st.To.single()
		case "sum", "group", "state":
			// An element has one window, and a time within it.
			mayMove = mayMove || p.windowing().Kind == "sliding"
		}
		p.Steps = append(p.Steps, st)
	}
	return p
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
	switch r.IntN(4) {
	case 0:
		return windowing{Kind: "fixed", Size: size}
	case 1:
		return windowing{Kind: "sliding", Size: size, Period: max(1000, 1000*(size/int64(1000*(1+r.IntN(3)))))}
	case 2:
		return windowing{Kind: "sessions", Size: size}
	}
	return windowing{Kind: "global"}
}

func drawStep(r *rand.Rand, mayMove bool) step {
	for {
		switch r.IntN(8) {
		case 0:
			return step{Kind: "add", Arg: int64(r.IntN(9) - 4)}
		case 1:
			return step{Kind: "rekey", Arg: int64(1 + r.IntN(4))}
		case 2:
			return step{Kind: "sum"}
		case 3:
			return step{Kind: "group"}
		case 4:
			if to := drawWindowing(r); mayMove {
				return step{Kind: "window", To: to}
			}
		case 5:
			return step{Kind: "flatten", Arg: int64(r.IntN(9))}
		case 6:
			return step{Kind: "side", Arg: 1000 * int64(r.IntN(3)) * int64(1+r.IntN(10))}
		case 7:
			return step{Kind: "state"}
		}
	}
}
