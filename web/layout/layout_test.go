package layout

import (
	"testing"

	"pgregory.net/rapid"
)

// Edges point down, and boxes of one layer stand beside one another, whatever
// the graph.
func TestPlace(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 30).Draw(t, "nodes")
		nodes := make([]Node, n)
		for i := range nodes {
			nodes[i] = Node{Width: float64(rapid.IntRange(1, 300).Draw(t, "width")), Height: 50}
		}
		var edges []Edge
		if n > 1 {
			for range rapid.IntRange(0, 60).Draw(t, "edges") {
				to := rapid.IntRange(1, n-1).Draw(t, "to")
				edges = append(edges, Edge{rapid.IntRange(0, to-1).Draw(t, "from"), to})
			}
		}
		d := Place(nodes, edges)
		for i, e := range d.Edges {
			for j := 1; j < len(e); j++ {
				if e[j].Y <= e[j-1].Y {
					t.Fatalf("edge %v goes up: %v", edges[i], e)
				}
			}
			if len(e) < 2 || len(e)%2 != 0 {
				t.Fatalf("edge %v has no route", edges[i])
			}
			for j := 2; j < len(e)-1; j += 2 {
				if e[j].X != e[j-1].X {
					t.Fatalf("edge %v passes a layer aslant: %v", edges[i], e)
				}
				for k, b := range d.Nodes {
					if e[j].X > b.X-nodes[k].Width/2 && e[j].X < b.X+nodes[k].Width/2 && e[j-1].Y < b.Y+25 && e[j].Y > b.Y-25 {
						t.Fatalf("edge %v crosses node %d: %v", edges[i], k, e)
					}
				}
			}
		}
		for i, a := range d.Nodes {
			if a.X-nodes[i].Width/2 < 0 || a.X+nodes[i].Width/2 > d.Width || a.Y+nodes[i].Height/2 > d.Height {
				t.Fatalf("node %d is outside of the drawing", i)
			}
			for j := range i {
				b := d.Nodes[j]
				if a.Y == b.Y && abs(a.X-b.X) < (nodes[i].Width+nodes[j].Width)/2 {
					t.Fatalf("nodes %d and %d overlap: %v %v", i, j, a, b)
				}
			}
		}
	})
}

func abs(x float64) float64 {
	if x < 0 {
		return -x
	}
	return x
}

// What is no edge of an acyclic graph is left out, and nothing ends for it.
func TestOddEdges(t *testing.T) {
	d := Place([]Node{{10, 10}, {10, 10}}, []Edge{{0, 1}, {1, 0}, {0, 0}, {-1, 5}})
	if len(d.Nodes) != 2 || len(d.Edges) != 4 || d.Edges[2] != nil || d.Edges[3] != nil {
		t.Errorf("%+v", d)
	}
}
