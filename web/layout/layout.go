// Package layout places the nodes of a directed acyclic graph on a drawing, in
// layers from top to bottom, so that edges point down and few of them cross.
//
// Place is a function of its input: equal graphs give equal drawings. It costs
// about edges × layers, so callers bound what they draw.
package layout

import (
	"cmp"
	"slices"
)

// A Node is a box to be placed.
type Node struct {
	Width, Height float64
}

// An Edge runs from one node to another, by their indexes.
type Edge struct {
	From, To int
}

// A Point is a place on the drawing.
type Point struct {
	X, Y float64
}

// A Drawing says where everything is.
type Drawing struct {
	Width, Height float64
	Nodes         []Point // the middle of each node
	// Edges run from the lower side of one node to the upper side of the other:
	// from the first point to the second, aside if need be; from the second to
	// the third upright; from the third to the fourth aside again; and so on.
	Edges [][]Point
}

// Spaces between things.
const (
	gapX    = 26
	gapY    = 52
	margin  = 16
	dummyW  = 4 // room that an edge takes in a layer that it passes
	portGap = 22
	sweeps  = 6
	aligned = 12
)

// A cell is a node, or an edge's passage through a layer.
type cell struct {
	layer      int
	width      float64
	height     float64
	up, down   []int // cells in the neighbouring layers
	x, y       float64
	barycenter float64
}

type placer struct {
	cells  []cell
	layers [][]int
	routes [][]int // the cells that each edge visits
}

// Place lays out a graph. Edges out of range, to their own node or on a cycle
// get no route.
func Place(nodes []Node, edges []Edge) Drawing {
	p := &placer{cells: make([]cell, len(nodes)), routes: make([][]int, len(edges))}
	layer, ok := layersOf(len(nodes), edges)
	for i, n := range nodes {
		p.cells[i] = cell{layer: layer[i], width: n.Width, height: n.Height}
	}
	for i, e := range edges {
		if ok[i] {
			p.route(i, e)
		}
	}
	for i := range p.cells {
		for len(p.layers) <= p.cells[i].layer {
			p.layers = append(p.layers, nil)
		}
		p.layers[p.cells[i].layer] = append(p.layers[p.cells[i].layer], i)
	}
	p.order()
	p.coordinates()
	return p.drawing(len(nodes))
}

// layersOf gives each node the length of the longest path to it, and tells
// which edges are part of the acyclic graph.
func layersOf(n int, edges []Edge) (layer []int, ok []bool) {
	layer, ok = make([]int, n), make([]bool, len(edges))
	waiting := make([]int, n)
	out := make([][]int, n)
	for i, e := range edges {
		if e.From < 0 || e.To < 0 || e.From >= n || e.To >= n || e.From == e.To {
			continue
		}
		waiting[e.To]++
		out[e.From] = append(out[e.From], i)
	}
	var ready []int
	for i := range n {
		if waiting[i] == 0 {
			ready = append(ready, i)
		}
	}
	for len(ready) > 0 {
		v := ready[0]
		ready = ready[1:]
		for _, i := range out[v] {
			to := edges[i].To
			ok[i] = true
			layer[to] = max(layer[to], layer[v]+1)
			if waiting[to]--; waiting[to] == 0 {
				ready = append(ready, to)
			}
		}
	}
	for i, e := range edges {
		ok[i] = ok[i] && layer[e.From] < layer[e.To]
	}
	lower(layer, edges, ok)
	return layer, ok
}

// lower moves nodes that nothing comes to down to those that need them, which
// makes long edges short.
func lower(layer []int, edges []Edge, ok []bool) {
	fed, next := make([]bool, len(layer)), make([]int, len(layer))
	for i, e := range edges {
		if !ok[i] {
			continue
		}
		fed[e.To] = true
		if next[e.From] == 0 || layer[e.To] < next[e.From] {
			next[e.From] = layer[e.To]
		}
	}
	for v := range layer {
		if !fed[v] && next[v] > 0 {
			layer[v] = next[v] - 1
		}
	}
}

// route makes a cell in each layer between an edge's ends.
func (p *placer) route(i int, e Edge) {
	at := e.From
	p.routes[i] = []int{at}
	link := func(to int) {
		p.cells[at].down = append(p.cells[at].down, to)
		p.cells[to].up = append(p.cells[to].up, at)
		p.routes[i] = append(p.routes[i], to)
		at = to
	}
	for l := p.cells[e.From].layer + 1; l < p.cells[e.To].layer; l++ {
		p.cells = append(p.cells, cell{layer: l, width: dummyW})
		link(len(p.cells) - 1)
	}
	link(e.To)
}

// order sorts each layer by the middle of its neighbours, down and up again.
func (p *placer) order() {
	position := make([]float64, len(p.cells))
	for _, l := range p.layers {
		for i, c := range l {
			position[c] = float64(i)
		}
	}
	sort := func(l []int, neighbours func(*cell) []int) {
		for _, c := range l {
			near := neighbours(&p.cells[c])
			sum := 0.0
			for _, n := range near {
				sum += position[n]
			}
			p.cells[c].barycenter = position[c]
			if len(near) > 0 {
				p.cells[c].barycenter = sum / float64(len(near))
			}
		}
		slices.SortStableFunc(l, func(a, b int) int { return cmp.Compare(p.cells[a].barycenter, p.cells[b].barycenter) })
		for i, c := range l {
			position[c] = float64(i)
		}
	}
	for range sweeps {
		for _, l := range p.layers {
			sort(l, func(c *cell) []int { return c.up })
		}
		for _, l := range slices.Backward(p.layers) {
			sort(l, func(c *cell) []int { return c.down })
		}
	}
}

// coordinates spreads each layer out, then moves cells towards their
// neighbours as far as their order allows.
func (p *placer) coordinates() {
	y := 0.0
	for _, l := range p.layers {
		height := 0.0
		x := 0.0
		for _, c := range l {
			p.cells[c].x = x + p.cells[c].width/2
			x += p.cells[c].width + gapX
			height = max(height, p.cells[c].height)
		}
		for _, c := range l {
			p.cells[c].x -= x / 2 // all layers share a middle
			p.cells[c].y = y + height/2
		}
		y += height + gapY
	}
	for range aligned {
		for _, l := range p.layers {
			p.align(l, func(c *cell) []int { return c.up })
		}
		for _, l := range slices.Backward(p.layers) {
			p.align(l, func(c *cell) []int { return c.down })
		}
	}
}

// align places a layer's cells under (or over) their neighbours: each where it
// wants to be, pushed aside by those before it, then by those after it, and
// the middle of both.
func (p *placer) align(l []int, neighbours func(*cell) []int) {
	left, right := make([]float64, len(l)), make([]float64, len(l))
	for i, c := range l {
		want := p.cells[c].x
		if near := neighbours(&p.cells[c]); len(near) > 0 {
			want = 0
			for _, n := range near {
				want += p.cells[n].x / float64(len(near))
			}
		}
		left[i], right[i] = want, want
	}
	room := func(i int) float64 { return (p.cells[l[i]].width+p.cells[l[i+1]].width)/2 + gapX }
	for i := 1; i < len(l); i++ {
		left[i] = max(left[i], left[i-1]+room(i-1))
	}
	for i := len(l) - 2; i >= 0; i-- {
		right[i] = min(right[i], right[i+1]-room(i))
	}
	for i, c := range l {
		p.cells[c].x = (left[i] + right[i]) / 2
	}
}

func (p *placer) drawing(nodes int) Drawing {
	var d Drawing
	if len(p.cells) == 0 {
		return d
	}
	least := p.cells[0].x - p.cells[0].width/2
	for _, c := range p.cells {
		least = min(least, c.x-c.width/2)
	}
	for i := range p.cells {
		c := &p.cells[i]
		c.x += margin - least
		c.y += margin
		d.Width = max(d.Width, c.x+c.width/2+margin)
		d.Height = max(d.Height, c.y+c.height/2+margin)
	}
	for i := range nodes {
		d.Nodes = append(d.Nodes, Point{p.cells[i].x, p.cells[i].y})
	}
	leaves, arrives := p.ports(true), p.ports(false)
	for i, r := range p.routes {
		d.Edges = append(d.Edges, p.points(r, leaves[i], arrives[i]))
	}
	return d
}

// points is an edge's way. Between two layers it may go aside; a layer it passes
// upright, in the room that was kept for it, so that it crosses no node.
func (p *placer) points(route []int, from, to float64) []Point {
	if len(route) < 2 {
		return nil
	}
	first, last := p.cells[route[0]], p.cells[route[len(route)-1]]
	points := []Point{{from, first.y + first.height/2}}
	for _, c := range route[1 : len(route)-1] {
		height := 0.0
		for _, n := range p.layers[p.cells[c].layer] {
			height = max(height, p.cells[n].height)
		}
		x, y := p.cells[c].x, p.cells[c].y
		points = append(points, Point{x, y - height/2}, Point{x, y + height/2})
	}
	return append(points, Point{to, last.y - last.height/2})
}

// ports gives each edge a place of its own at the side of the node that it
// leaves (or arrives at), in the order of where the edges go, so that they
// don't cross there.
func (p *placer) ports(leaving bool) []float64 {
	xs := make([]float64, len(p.routes))
	edges := map[int][]int{} // by node
	next := func(edge int) float64 {
		r := p.routes[edge]
		if leaving {
			return p.cells[r[1]].x
		}
		return p.cells[r[len(r)-2]].x
	}
	for i, r := range p.routes {
		switch {
		case len(r) < 2:
		case leaving:
			edges[r[0]] = append(edges[r[0]], i)
		default:
			edges[r[len(r)-1]] = append(edges[r[len(r)-1]], i)
		}
	}
	for node, list := range edges {
		slices.SortStableFunc(list, func(a, b int) int { return cmp.Compare(next(a), next(b)) })
		c := &p.cells[node]
		step := min(portGap, c.width*0.8/float64(len(list)))
		for i, e := range list {
			xs[e] = c.x + step*(float64(i)-float64(len(list)-1)/2)
		}
	}
	return xs
}
