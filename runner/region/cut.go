package region

import "trestle/runner/jobgraph"

// kind of a chain for rule 3: chains of one kind may meet.
type kind int

// single is the kind of all chains whose head has one task whatever its input;
// every other chain has a kind of its own, its head's number.
const single kind = -1

func (w *work) kindOf(head int) kind {
	s := w.g.Stages[head]
	if s.Root == jobgraph.RootImpulse || len(s.Inputs) == 0 {
		return single
	}
	return kind(head)
}

// chains applies rule 3.
func (w *work) chains() {
	for v := range w.g.Stages {
		w.head[v] = v
		first := true
		for _, d := range w.in[v] {
			if !w.piped[d] || !w.forward[d] {
				continue
			}
			head := w.head[w.from[d]]
			if first {
				w.head[v], first = head, false
			}
			w.piped[d] = w.kindOf(head) == w.kindOf(w.head[v])
		}
	}
}

// fit applies rule 4.
func (w *work) fit(slots int) {
	s := newSets(len(w.g.Stages))
	size := make([]int, len(w.g.Stages)) // of a set, by its first stage
	for i := range size {
		size[i] = 1
	}
	union := func(a, b int) {
		if a != b {
			s.union(a, b)
			size[s.find(a)] = size[a] + size[b]
		}
	}
	for d, piped := range w.piped {
		if piped && w.forward[d] {
			union(s.find(w.from[d]), s.find(w.to[d][0]))
		}
	}
	for d, piped := range w.piped {
		if !piped || w.forward[d] {
			continue
		}
		a, b := s.find(w.from[d]), s.find(w.to[d][0])
		if a != b && size[a]+size[b] > slots || size[a] > slots {
			w.piped[d] = false
			continue
		}
		union(a, b)
	}
}

// untie applies rule 5. Stages of one level and knot that hang together become
// one region; blocking datasets lead to later levels, so within a knot regions
// can't wait for one another any more.
func (w *work) untie() {
	knot := w.knots()
	level := make([]int, len(w.g.Stages))
	for v := range w.g.Stages {
		if knot[v] == none {
			continue
		}
		late := 0
		for _, d := range w.in[v] {
			if u := w.from[d]; knot[u] == knot[v] {
				late = max(late, level[u])
				if !w.piped[d] {
					late = max(late, level[u]+1)
				}
			}
		}
		level[v] = late
		if !w.goOn(v, level) {
			level[v]++
		}
	}
}

// goOn cuts the pipelined datasets that come to v from earlier levels, and
// keeps those of v's own level if they agree on a head for v. Else it cuts
// these too, and v must be later.
func (w *work) goOn(v int, level []int) bool {
	w.head[v] = v
	first, agree := true, true
	for _, d := range w.in[v] {
		if !w.piped[d] {
			continue
		}
		u := w.from[d]
		w.piped[d] = level[u] == level[v]
		if !w.piped[d] || !w.forward[d] {
			continue
		}
		if first {
			w.head[v], first = w.head[u], false
		}
		agree = agree && w.kindOf(w.head[u]) == w.kindOf(w.head[v])
	}
	if agree {
		return true
	}
	w.head[v] = v
	for _, d := range w.in[v] {
		w.piped[d] = false
	}
	return false
}
