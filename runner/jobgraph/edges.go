package jobgraph

import (
	"fmt"
	"strings"
	"text/tabwriter"
)

// An Edge is one consumer's reading of one dataset.
type Edge struct {
	Dataset    DatasetID `json:"dataset"`
	Collection string    `json:"collection"`
	From       StageID   `json:"from"`
	To         StageID   `json:"to"`
	Side       bool      `json:"side,omitempty"`     // read as a side input
	Pattern    string    `json:"pattern"`            // "pointwise" or "all-to-all"
	Exchange   Exchange  `json:"exchange,omitempty"` // empty before region.Compute
}

// Edges are in order of datasets, then of consumers.
type Edges []Edge

// Edges gives all edges of the graph.
func (g *Graph) Edges() Edges {
	edges := Edges{}
	for _, d := range g.Datasets {
		pattern := "pointwise"
		if d.AllToAll() {
			pattern = "all-to-all"
		}
		for _, to := range d.Consumers {
			edges = append(edges, Edge{d.ID, d.Collection, d.Producer, to, d.Partitioning == Whole, pattern, d.Exchange})
		}
	}
	return edges
}

// String prints one edge a line.
func (es Edges) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 1, ' ', 0)
	for _, e := range es {
		pattern := e.Pattern
		if e.Side {
			pattern += " side"
		}
		fmt.Fprintf(w, "%s\t%s -> %s\t%s\t%s\n", e.Dataset, e.From, e.To, pattern, e.Exchange)
	}
	w.Flush()
	return trim(b.String())
}

// trim takes the blanks from the ends of lines that columns leave there.
func trim(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n")
}

// RegionString prints one region a line; nothing before region.Compute.
func (g *Graph) RegionString() string {
	var b strings.Builder
	for _, r := range g.Regions {
		fmt.Fprintf(&b, "%s", r.ID)
		for _, s := range r.Stages {
			fmt.Fprintf(&b, " %s", s)
		}
		if r.Pointwise {
			b.WriteString(" pointwise")
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// String prints stages, edges and regions, one a line.
func (g *Graph) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 1, ' ', 0)
	for _, s := range g.Stages {
		env := s.Environment
		if env == "" {
			env = "runner"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", s.ID, s.Root, env, s.Name)
	}
	w.Flush()
	return trim(b.String()) + g.Edges().String() + g.RegionString()
}
