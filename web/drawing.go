package web

import (
	"fmt"
	"strings"

	"trestle/runner"
	"trestle/runner/jobgraph"
	"trestle/web/layout"
)

// A plan with more stages than this is not drawn.
const stagesDrawn = 400

const (
	boxWidth  = 210
	boxInside = boxWidth - 26 // that text may fill
	nameLines = 2
	rowHeight = 16
)

// A planDrawing is a job's plan as boxes and lines.
type planDrawing struct {
	TooLarge      int // stages, where there are too many to draw
	Width, Height int
	Boxes         []box
	Lines         []line
	Shared        bool // some region has several stages
	Pipelined     bool // there are pipelined edges, side inputs
	Side          bool
}

// A box is one stage.
type box struct {
	ID         string
	X, Y, W, H int
	Kind       string   // of its root, and how many tasks
	Name       []string // in lines
	Note       string   // its counts
	Done       int      // width of the bar that shows how much of it is done
	State      runner.Progress
	Region     string
	Tint       int // regions of several stages have colours, from 1 on; 0 for others
	Full       string
}

// Where things stand in a box: its texts from left to right, their base lines
// from top to bottom.
func (b box) TextX() int    { return b.X + 15 }
func (b box) RightX() int   { return b.X + b.W - 11 }
func (b box) HeadY() int    { return b.Y + 19 }
func (b box) NoteY() int    { return b.Y + b.H - 14 }
func (b box) BarY() int     { return b.Y + b.H - 8 }
func (b box) BarWidth() int { return b.W - 26 }

// A nameLine is one line of a box's name.
type nameLine struct {
	Y    int
	Text string
}

// Rows are the lines of the name.
func (b box) Rows() []nameLine {
	var out []nameLine
	for i, text := range b.Name {
		out = append(out, nameLine{b.Y + 38 + rowHeight*i, text})
	}
	return out
}

// A line is what one stage reads of another: one dataset, or several.
type line struct {
	Path  string
	Class string // of the exchange and, for side inputs, "side"
	Title string
}

// drawPlan draws the stages of a job and the datasets between them.
func drawPlan(job *runner.Job) *planDrawing {
	if job.Graph == nil {
		return nil
	}
	if len(job.Graph.Stages) > stagesDrawn {
		return &planDrawing{TooLarge: len(job.Graph.Stages)}
	}
	d := &planDrawing{}
	at := map[jobgraph.StageID]int{}
	tints := d.tints(job.Graph)
	var nodes []layout.Node
	for i, st := range job.Graph.Stages {
		at[st.ID] = i
		b := stageBox(job, st)
		if r := regionOf(job.Graph, st.ID); r != nil {
			b.Region, b.Tint = string(r.ID), tints[r.ID]
		}
		d.Boxes = append(d.Boxes, b)
		nodes = append(nodes, layout.Node{Width: float64(b.W), Height: float64(b.H)})
	}
	edges := d.edges(job.Graph, at)
	placed := layout.Place(nodes, edges)
	d.Width, d.Height = int(placed.Width), int(placed.Height)
	for i, p := range placed.Nodes {
		d.Boxes[i].X = int(p.X) - d.Boxes[i].W/2
		d.Boxes[i].Y = int(p.Y) - d.Boxes[i].H/2
	}
	for i, points := range placed.Edges {
		d.Lines[i].Path = path(points)
	}
	return d
}

// tints gives colours to the regions of several stages.
func (d *planDrawing) tints(g *jobgraph.Graph) map[jobgraph.RegionID]int {
	tints := map[jobgraph.RegionID]int{}
	for _, r := range g.Regions {
		if len(r.Stages) > 1 {
			tints[r.ID] = 1 + len(tints)%6
			d.Shared = true
		}
	}
	return tints
}

func regionOf(g *jobgraph.Graph, id jobgraph.StageID) *jobgraph.Region {
	for _, r := range g.Regions {
		for _, s := range r.Stages {
			if s == id {
				return r
			}
		}
	}
	return nil
}

// edges makes one line for all datasets of one kind between two stages.
func (d *planDrawing) edges(g *jobgraph.Graph, at map[jobgraph.StageID]int) []layout.Edge {
	type key struct {
		from, to int
		class    string
	}
	known := map[key]int{}
	var edges []layout.Edge
	for _, ds := range g.Datasets {
		from, ok := at[ds.Producer]
		if !ok {
			continue
		}
		class := string(ds.Exchange)
		d.Pipelined = d.Pipelined || ds.Exchange == jobgraph.Pipelined
		if ds.Partitioning == jobgraph.Whole {
			class, d.Side = class+" side", true
		}
		title := fmt.Sprintf("%s: %s, %s, by %s", ds.ID, ds.Collection, ds.Exchange, ds.Partitioning)
		for _, c := range ds.Consumers {
			to, ok := at[c]
			if !ok {
				continue
			}
			k := key{from, to, class}
			if i, ok := known[k]; ok {
				d.Lines[i].Title += "\n" + title
				continue
			}
			known[k] = len(d.Lines)
			d.Lines = append(d.Lines, line{Class: class, Title: title})
			edges = append(edges, layout.Edge{From: from, To: to})
		}
	}
	return edges
}

func stageBox(job *runner.Job, st *jobgraph.Stage) box {
	b := box{
		ID: string(st.ID), W: boxWidth, Kind: string(st.Root), State: runner.Waiting, Full: st.Name,
		Name: wrap(StageLabel(st.Name), boxInside, nameLines),
	}
	b.H = 54 + rowHeight*len(b.Name)
	b.Note = string(b.State)
	for i := range job.Stages {
		s := &job.Stages[i]
		if s.ID != st.ID {
			continue
		}
		b.State, b.Note = s.State, string(s.State)
		if s.Parallelism > 0 {
			b.Note = fmt.Sprintf("%s in · %s out", Count(s.InElements), Count(s.OutElements))
			b.Kind = fmt.Sprintf("%s × %d", st.Root, s.Parallelism)
			b.Done = b.BarWidth() * finished(*s) / s.Parallelism
		}
	}
	return b
}

func finished(s runner.Stage) (n int) {
	for _, t := range s.Tasks {
		if t.State == runner.Finished {
			n++
		}
	}
	return n
}

// path draws an edge: aside in soft curves, upright in straight lines.
func path(points []layout.Point) string {
	if len(points) < 2 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "M%.0f %.0f", points[0].X, points[0].Y)
	for i := 1; i < len(points); i++ {
		from, to := points[i-1], points[i]
		if from.X == to.X {
			fmt.Fprintf(&b, " L%.0f %.0f", to.X, to.Y)
			continue
		}
		middle := (from.Y + to.Y) / 2
		fmt.Fprintf(&b, " C%.0f %.0f %.0f %.0f %.0f %.0f", from.X, middle, to.X, middle, to.X, to.Y)
	}
	return b.String()
}
