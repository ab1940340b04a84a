package jobgraph_test

import (
	"fmt"
	"strings"
	"testing"

	"trestle/runner/jobgraph"
)

// diamond is s1 read by s2 and s3, which s4 reads, and s5 alone.
func diamond() *jobgraph.Graph {
	g := &jobgraph.Graph{}
	for i := range 5 {
		g.Stages = append(g.Stages, &jobgraph.Stage{ID: jobgraph.StageID(fmt.Sprintf("s%d", i+1)), Root: jobgraph.RootRead, Name: `a "name"`})
	}
	edge := func(id jobgraph.DatasetID, from jobgraph.StageID, p jobgraph.Partitioning, to ...jobgraph.StageID) {
		g.Datasets = append(g.Datasets, &jobgraph.Dataset{ID: id, Collection: "c", Producer: from, Partitioning: p, Consumers: to})
	}
	edge("d1", "s1", jobgraph.ByKey, "s2", "s3")
	edge("d2", "s2", jobgraph.Forward, "s4")
	edge("d3", "s3", jobgraph.Whole, "s4")
	return g
}

func TestLookUp(t *testing.T) {
	g := diamond()
	g.Stages[4].ID = "odd" // ids that weren't numbered in order are found, too
	for _, id := range []jobgraph.StageID{"s1", "s4", "odd"} {
		if s := g.Stage(id); s == nil || s.ID != id {
			t.Errorf("stage %s: found %v", id, s)
		}
	}
	for _, id := range []jobgraph.StageID{"", "s", "s0", "s5", "s6", "s01", "d1", "s99999999999999999999"} {
		if s := g.Stage(id); s != nil {
			t.Errorf("stage %q: found %s", id, s.ID)
		}
	}
	if d := g.Dataset("d3"); d == nil || d.ID != "d3" || g.Dataset("d4") != nil {
		t.Errorf("dataset d3: found %v", d)
	}
	if g.RegionOf("s1") != nil || g.RegionOf("none") != nil {
		t.Error("a region before there are any")
	}
	g.Regions = []*jobgraph.Region{{ID: "r1", Stages: []jobgraph.StageID{"s1"}}}
	g.Stages[0].Region = "r1"
	if g.RegionOf("s1") != g.Regions[0] {
		t.Error("no region")
	}
}

func TestGraphPrintsItself(t *testing.T) {
	want := `s1 read runner a "name"
s2 read runner a "name"
s3 read runner a "name"
s4 read runner a "name"
s5 read runner a "name"
d1 s1 -> s2 all-to-all
d1 s1 -> s3 all-to-all
d2 s2 -> s4 pointwise
d3 s3 -> s4 all-to-all side
`
	if got := diamond().String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestLayoutLeadsDownwards(t *testing.T) {
	g := diamond()
	l := g.Layout()
	if l.Layers != 3 || l.Columns != 2 {
		t.Errorf("%d layers of up to %d columns", l.Layers, l.Columns)
	}
	place := map[jobgraph.StageID]jobgraph.Node{}
	taken := map[[2]int]bool{}
	for _, n := range l.Nodes {
		place[n.Stage] = n
		if at := [2]int{n.Layer, n.Column}; taken[at] || n.Column >= l.Columns {
			t.Errorf("%s is at %v", n.Stage, at)
		} else {
			taken[at] = true
		}
	}
	for _, e := range g.Edges() {
		if place[e.From].Layer >= place[e.To].Layer {
			t.Errorf("edge %s leads from layer %d to %d", e.Dataset, place[e.From].Layer, place[e.To].Layer)
		}
	}
}

// TestLayoutUncrosses gives two chains whose ends stand in the wrong order.
func TestLayoutUncrosses(t *testing.T) {
	g := diamond()
	g.Stages = g.Stages[:4]
	g.Datasets = []*jobgraph.Dataset{
		{ID: "d1", Producer: "s1", Consumers: []jobgraph.StageID{"s4"}},
		{ID: "d2", Producer: "s2", Consumers: []jobgraph.StageID{"s3"}},
	}
	at := map[jobgraph.StageID]int{}
	for _, n := range g.Layout().Nodes {
		at[n.Stage] = n.Column
	}
	if (at["s1"] < at["s2"]) != (at["s4"] < at["s3"]) {
		t.Errorf("edges cross: %v", at)
	}
}

func TestEmptyGraphsHaveALayout(t *testing.T) {
	if l := (&jobgraph.Graph{}).Layout(); l.Layers != 0 || len(l.Nodes) != 0 {
		t.Errorf("got %v", l)
	}
}

func TestDot(t *testing.T) {
	g := diamond()
	g.Regions = []*jobgraph.Region{{ID: "r1", Stages: []jobgraph.StageID{"s2", "s4"}}}
	g.Datasets[0].Exchange = jobgraph.Blocking
	got := g.Dot()
	for _, want := range []string{
		"digraph plan {\n", "\n}\n",
		`subgraph "cluster_r1"`, `label="r1"`,
		`"s1" [label="s1 read runner\na \"name\""]`,
		`"s1" -> "s2" [label="d1 all-to-all blocking" style=dashed penwidth=2]`,
		`"s2" -> "s4" [label="d2 pointwise" style=solid penwidth=1]`,
		`"s3" -> "s4" [label="d3 all-to-all" style=dotted penwidth=2]`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	for _, s := range g.Stages {
		if n := strings.Count(got, fmt.Sprintf("%q [label=\"%s read", s.ID, s.ID)); n != 1 {
			t.Errorf("%s is drawn %d times", s.ID, n)
		}
	}
}
