package web

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"trestle/runner"
	"trestle/runner/jobgraph"
	"trestle/web/layout"
)

// A plan with more stages than this is not drawn.
const stagesDrawn = 400

const (
	boxHeight  = 58
	charWidth  = 7.2
	leastWidth = 150
	nameLength = 40
)

// A planDrawing is a job's plan as boxes and lines.
type planDrawing struct {
	TooLarge      int // stages, where there are too many to draw
	Width, Height int
	Boxes         []box
	Lines         []line
}

type box struct {
	X, Y, W, H        int
	Title, Name, Note string
	State             runner.Progress
	Tint              int // boxes of one region have one
	Full              string
}

// TextX is where a box's text begins.
func (b box) TextX() int { return b.X + 14 }

// Row is the base line of a box's nth line of text.
func (b box) Row(n int) int { return b.Y + 3 + 16*n }

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
	at := map[jobgraph.StageID]int{}
	d := &planDrawing{}
	var nodes []layout.Node
	for i, st := range job.Graph.Stages {
		at[st.ID] = i
		b := stageBox(job, st)
		d.Boxes = append(d.Boxes, b)
		nodes = append(nodes, layout.Node{Width: float64(b.W), Height: float64(b.H)})
	}
	var edges []layout.Edge
	for _, ds := range job.Graph.Datasets {
		from, ok := at[ds.Producer]
		if !ok {
			continue
		}
		for _, c := range ds.Consumers {
			to, ok := at[c]
			if !ok {
				continue
			}
			edges = append(edges, layout.Edge{From: from, To: to})
			class := string(ds.Exchange)
			if ds.Partitioning == jobgraph.Whole {
				class += " side"
			}
			d.Lines = append(d.Lines, line{Class: class,
				Title: fmt.Sprintf("%s: %s, %s, by %s", ds.ID, ds.Collection, ds.Exchange, ds.Partitioning)})
		}
	}
	placed := layout.Place(nodes, edges)
	d.Width, d.Height = int(placed.Width), int(placed.Height)
	for i, p := range placed.Nodes {
		d.Boxes[i].X = int(p.X) - d.Boxes[i].W/2
		d.Boxes[i].Y = int(p.Y) - d.Boxes[i].H/2
	}
	for i, points := range placed.Edges {
		d.Lines[i].Path = curve(points)
	}
	return d
}

func stageBox(job *runner.Job, st *jobgraph.Stage) box {
	b := box{Title: string(st.ID) + " · " + string(st.Root), Name: shorten(st.Name), Full: st.Name, H: boxHeight, State: runner.Waiting}
	for i, r := range job.Graph.Regions {
		for _, s := range r.Stages {
			if s == st.ID {
				b.Title = string(st.ID) + " · " + string(st.Root) + " · " + string(r.ID)
				b.Tint = i % 6
			}
		}
	}
	for i := range job.Stages {
		if s := &job.Stages[i]; s.ID == st.ID {
			b.State = s.State
			if s.Parallelism > 0 {
				b.Note = fmt.Sprintf("%d × · %s in · %s out", s.Parallelism, Count(s.InElements), Count(s.OutElements))
			}
		}
	}
	if b.Note == "" {
		b.Note = string(b.State)
	}
	longest := max(utf8.RuneCountInString(b.Title), utf8.RuneCountInString(b.Name), utf8.RuneCountInString(b.Note))
	b.W = max(leastWidth, int(float64(longest)*charWidth)+28)
	return b
}

// shorten leaves of each transform's name what stands behind the last slash,
// and of all of them together as many characters as fit into a box.
func shorten(name string) string {
	parts := strings.Split(strings.Join(strings.Fields(name), " "), ", ")
	for i, p := range parts {
		outside := p
		if at := strings.IndexAny(p, "(<"); at >= 0 {
			outside = p[:at] // a slash in brackets belongs to an argument
		}
		parts[i] = p[strings.LastIndexByte(outside, '/')+1:]
	}
	r := []rune(strings.Join(parts, ", "))
	if len(r) <= nameLength {
		return string(r)
	}
	return string(r[:nameLength-1]) + "…"
}

// curve is a path through the points that leaves and arrives upright.
func curve(points []layout.Point) string {
	if len(points) < 2 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "M%.0f %.0f", points[0].X, points[0].Y)
	for i := 1; i < len(points); i++ {
		from, to := points[i-1], points[i]
		middle := (from.Y + to.Y) / 2
		fmt.Fprintf(&b, " C%.0f %.0f %.0f %.0f %.0f %.0f", from.X, middle, to.X, middle, to.X, to.Y)
	}
	return b.String()
}
