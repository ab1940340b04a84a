package jobgraph

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// A Layout places stages in a drawing: edges lead from one layer to a later
// one, and few of them cross. A page can draw it without further thought.
type Layout struct {
	Layers  int    `json:"layers"`
	Columns int    `json:"columns"` // of the widest layer
	Nodes   []Node `json:"nodes"`   // in order of stages
}

// A Node is a stage's place.
type Node struct {
	Stage  StageID `json:"stage"`
	Layer  int     `json:"layer"`  // one more than the last of its producers
	Column int     `json:"column"` // from 0, distinct in a layer
}

// sweeps over the layers, down and up in turn; more hardly change a drawing.
const sweeps = 4

// Layout places each stage.
func (g *Graph) Layout() Layout {
	index := make(map[StageID]int, len(g.Stages))
	for i, s := range g.Stages {
		index[s.ID] = i
	}
	up, down := make([][]int, len(g.Stages)), make([][]int, len(g.Stages))
	for _, d := range g.Datasets {
		for _, c := range d.Consumers {
			up[index[c]] = append(up[index[c]], index[d.Producer])
			down[index[d.Producer]] = append(down[index[d.Producer]], index[c])
		}
	}
	nodes := make([]Node, len(g.Stages))
	var layers [][]int
	for i, s := range g.Stages { // topological, so producers have their layer
		nodes[i].Stage = s.ID
		for _, p := range up[i] {
			nodes[i].Layer = max(nodes[i].Layer, nodes[p].Layer+1)
		}
		if nodes[i].Layer == len(layers) {
			layers = append(layers, nil)
		}
		nodes[i].Column = len(layers[nodes[i].Layer])
		layers[nodes[i].Layer] = append(layers[nodes[i].Layer], i)
	}
	for i := range sweeps {
		if i%2 == 0 {
			for _, layer := range layers {
				arrange(nodes, layer, up)
			}
		} else {
			for _, layer := range slices.Backward(layers) {
				arrange(nodes, layer, down)
			}
		}
	}
	l := Layout{Layers: len(layers), Nodes: nodes}
	for _, layer := range layers {
		l.Columns = max(l.Columns, len(layer))
	}
	return l
}

// arrange puts each stage of a layer near the mean column of its neighbours;
// one that has none stays where it is.
func arrange(nodes []Node, layer []int, neighbours [][]int) {
	mean := make(map[int]float64, len(layer))
	for _, i := range layer {
		mean[i] = float64(nodes[i].Column)
		if len(neighbours[i]) > 0 {
			sum := 0
			for _, n := range neighbours[i] {
				sum += nodes[n].Column
			}
			mean[i] = float64(sum) / float64(len(neighbours[i]))
		}
	}
	slices.SortStableFunc(layer, func(a, b int) int { return cmp.Compare(mean[a], mean[b]) })
	for column, i := range layer {
		nodes[i].Column = column
	}
}

// Dot draws the graph in Graphviz' language: regions as boxes, pointwise edges
// thin and all-to-all ones thick, blocking ones dashed, side inputs dotted.
func (g *Graph) Dot() string {
	var b strings.Builder
	b.WriteString("digraph plan {\n  node [shape=box fontname=\"sans-serif\"];\n")
	inRegion := map[StageID]bool{}
	for _, r := range g.Regions {
		fmt.Fprintf(&b, "  subgraph %s {\n    label=%s; style=rounded;\n", quote("cluster_"+string(r.ID)), quote(string(r.ID)))
		for _, id := range r.Stages {
			inRegion[id] = true
			g.Stage(id).dot(&b, "    ")
		}
		b.WriteString("  }\n")
	}
	for _, s := range g.Stages {
		if !inRegion[s.ID] {
			s.dot(&b, "  ")
		}
	}
	for _, e := range g.Edges() {
		style, width := "solid", 1
		if e.Exchange == Blocking {
			style = "dashed"
		}
		if e.Side {
			style = "dotted"
		}
		if e.Pattern == "all-to-all" {
			width = 2
		}
		label := strings.TrimSpace(fmt.Sprintf("%s %s %s", e.Dataset, e.Pattern, e.Exchange))
		fmt.Fprintf(&b, "  %s -> %s [label=%s style=%s penwidth=%d];\n", quote(string(e.From)), quote(string(e.To)), quote(label), style, width)
	}
	b.WriteString("}\n")
	return b.String()
}

func (s *Stage) dot(b *strings.Builder, indent string) {
	env := s.Environment
	if env == "" {
		env = "runner"
	}
	fmt.Fprintf(b, "%s%s [label=%s];\n", indent, quote(string(s.ID)), quote(fmt.Sprintf("%s %s %s\n%s", s.ID, s.Root, env, s.Name)))
}

// quote writes a string of Graphviz' language; names come from outside.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s) + `"`
}
