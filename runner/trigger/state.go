package trigger

import (
	"encoding/binary"
	"errors"
	"slices"
)

// A State is what a trigger remembers of one key and window. The zero State is
// that of a window in which nothing has happened. A State belongs to one Tree;
// a copy of it shares memory with it (see Clone).
type State struct {
	// done has a bit for each node that has finished. It is nil, or has all
	// words that the tree needs.
	done []uint64
	// slots are the counts, times and flags of the nodes that have one. They
	// are nil, or all there.
	slots []slot
}

// A slot is one thing that a node remembers.
type slot struct {
	set bool
	n   int64 // 0 unless set
}

// Clone is an equal state that shares nothing with s.
func (s State) Clone() State {
	return State{done: slices.Clone(s.done), slots: slices.Clone(s.slots)}
}

func (s *State) isDone(i int) bool {
	return s.done != nil && s.done[i/64]>>(i%64)&1 != 0
}

func (t *Tree) words() int { return (len(t.nodes) + 63) / 64 }

func (t *Tree) setDone(s *State, i int) {
	if s.done == nil {
		s.done = make([]uint64, t.words())
	}
	s.done[i/64] |= 1 << (i % 64)
}

func (t *Tree) get(s *State, i int) slot {
	if s.slots == nil {
		return slot{}
	}
	return s.slots[t.nodes[i].slot]
}

func (t *Tree) set(s *State, i int, n int64) {
	if s.slots == nil {
		s.slots = make([]slot, len(t.slotted))
	}
	s.slots[t.nodes[i].slot] = slot{set: true, n: n}
}

// clear makes a node and all below it forget the pane that they watch.
func (t *Tree) clear(s *State, i int) {
	if s.slots != nil {
		clear(s.slots[t.nodes[i].slot:t.nodes[i].endSlot])
	}
}

// reset makes a node and all below it as new.
func (t *Tree) reset(s *State, i int) {
	t.clear(s, i)
	if s.done == nil {
		return
	}
	for k := i; k < t.nodes[i].end; k++ {
		s.done[k/64] &^= 1 << (k % 64)
	}
}

// Append appends the state's encoding: nothing at all for a tree that never
// remembers anything; else the words of finished nodes, and for each slot 0 or
// 1 and the value.
func (t *Tree) Append(dst []byte, s State) []byte {
	if t.finite {
		for i := range t.words() {
			var word uint64
			if s.done != nil {
				word = s.done[i]
			}
			dst = binary.AppendUvarint(dst, word)
		}
	}
	for i := range t.slotted {
		if s.slots == nil || !s.slots[i].set {
			dst = append(dst, 0)
			continue
		}
		dst = binary.AppendVarint(append(dst, 1), s.slots[i].n)
	}
	return dst
}

// ErrState says that bytes are no state of the trigger.
var ErrState = errors.New("malformed state of a trigger")

// Decode decodes the state that b begins with, and returns what follows it.
func (t *Tree) Decode(b []byte) (s State, rest []byte, err error) {
	if t.finite {
		for i := range t.words() {
			word, n := binary.Uvarint(b)
			if n <= 0 || i == t.words()-1 && len(t.nodes)%64 != 0 && word>>(len(t.nodes)%64) != 0 {
				return State{}, nil, ErrState
			}
			if word != 0 && s.done == nil {
				s.done = make([]uint64, t.words())
			}
			if word != 0 {
				s.done[i] = word
			}
			b = b[n:]
		}
	}
	for i, of := range t.slotted {
		if len(b) == 0 || b[0] > 1 {
			return State{}, nil, ErrState
		}
		set := b[0] == 1
		b = b[1:]
		if !set {
			continue
		}
		v, n := binary.Varint(b)
		if n <= 0 || !t.nodes[of].holds(v) {
			return State{}, nil, ErrState
		}
		b = b[n:]
		if s.slots == nil {
			s.slots = make([]slot, len(t.slotted))
		}
		s.slots[i] = slot{set: true, n: v}
	}
	return s, b, nil
}

// holds reports whether v can be in the node's slot.
func (n *node) holds(v int64) bool {
	switch n.kind {
	case elementCount:
		return v > 0 && v <= n.count
	case endOfWindow:
		return v == 0
	}
	return true
}
