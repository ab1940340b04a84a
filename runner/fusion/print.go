package fusion

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"unicode/utf8"

	"trestle/internal/invariant"
	"trestle/runner/graph"
	"trestle/runner/jobgraph"
)

// maxNameBytes bounds a stage's name; what doesn't fit is counted.
const maxNameBytes = 120

// name lists the author's names of what the stage does.
func (s *stage) name() string {
	var all []string
	if s.by != nil {
		all = append(all, authorsName(s.by))
	}
	for _, n := range s.nodes {
		all = append(all, authorsName(n.transform))
	}
	invariant.Check(len(all) > 0, "stage %s has nothing to do", s.id)
	name := clip(all[0])
	for i, next := range all[1:] {
		if len(name)+len(next) > maxNameBytes {
			return fmt.Sprintf("%s, … %d more", name, len(all)-1-i)
		}
		name += ", " + next
	}
	return name
}

func authorsName(t *graph.Transform) string {
	if t.Name == "" {
		return string(t.ID)
	}
	return t.Name
}

// clip shortens one name that alone is too long.
func clip(name string) string {
	if len(name) <= maxNameBytes {
		return name
	}
	end := maxNameBytes
	for !utf8.RuneStart(name[end]) {
		end--
	}
	return name[:end] + "…"
}

// String prints a line for each stage: its root, environment, [transforms],
// inputs and -> outputs; then a line for each dataset; then one for each region
// if they are known. The same printer serves the command line, logs and tests.
func (p *Plan) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 1, ' ', 0)
	for _, v := range p.Graph.Stages {
		fmt.Fprintln(w, strings.Join(p.line(v, p.Stages[v.ID]), "\t"))
	}
	w.Flush()
	return trimmed(b.String()) + p.Graph.Edges().String() + p.Graph.RegionString()
}

// line is the stage in columns.
func (p *Plan) line(v *jobgraph.Stage, s *Stage) []string {
	env := v.Environment
	if env == "" {
		env = "runner"
	}
	var does []string
	if s.RootTransform != "" {
		does = append(does, s.RootTransform+":")
	}
	does = append(does, s.Transforms...)
	in := spaced(v.Inputs)
	for _, side := range s.SideInputs {
		in += fmt.Sprintf(" %s.%s=(%s)", side.Transform, side.Tag, spaced(side.Datasets))
	}
	var out string
	for _, o := range s.Outputs {
		out += fmt.Sprintf(" %s=(%s)", o.Collection, spaced(o.Datasets))
	}
	if out != "" {
		out = "->" + out
	}
	return []string{string(v.ID), string(v.Root), env, "[" + strings.Join(does, " ") + "]", strings.TrimSpace(in), out}
}

func spaced[ID ~string](ids []ID) string {
	var b strings.Builder
	for i, id := range ids {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(string(id))
	}
	return b.String()
}

// trimmed takes the blanks from the ends of lines that columns leave there.
func trimmed(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n")
}

// A View is a plan for people and their programs: what trestle plan --json
// prints and the web page draws.
type View struct {
	Stages  []StageView        `json:"stages"`
	Edges   jobgraph.Edges     `json:"edges"`
	Regions []*jobgraph.Region `json:"regions"`
	Layout  jobgraph.Layout    `json:"layout"`
}

// A StageView is one stage of a View. Transforms are the author's names.
type StageView struct {
	jobgraph.Stage
	RootTransform string   `json:"rootTransform,omitempty"`
	Transforms    []string `json:"transforms"`
}

// View describes the plan.
func (p *Plan) View() View {
	v := View{Stages: []StageView{}, Edges: p.Graph.Edges(), Regions: p.Graph.Regions, Layout: p.Graph.Layout()}
	for _, s := range p.Graph.Stages {
		stage := p.Stages[s.ID]
		sv := StageView{Stage: *s, Transforms: []string{}}
		if stage.RootTransform != "" {
			sv.RootTransform = p.Components.GetTransforms()[stage.RootTransform].GetUniqueName()
		}
		for _, id := range stage.Transforms {
			sv.Transforms = append(sv.Transforms, p.Components.GetTransforms()[id].GetUniqueName())
		}
		v.Stages = append(v.Stages, sv)
	}
	return v
}
