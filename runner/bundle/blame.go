package bundle

import (
	"regexp"
	"slices"
	"strings"
)

// How SDKs say in an error which transform was at work: Python by its label,
// Go by its id.
var (
	whileRunning = regexp.MustCompile(`\[while running '([^']+)'`)
	goTransform  = regexp.MustCompile(`PID: ?([^,\]\s]+)`)
)

// Blame finds the transform of the stage that an SDK's error text is about, and
// gives its author's name; "" if the text doesn't say.
func (p *Program) Blame(text string) string {
	// The innermost transform is told last in Python, first in Go.
	if m := whileRunning.FindAllStringSubmatch(text, -1); m != nil {
		label := m[len(m)-1][1]
		for _, id := range p.Stage.Transforms {
			if name := p.author(id); name == label || strings.HasSuffix(name, "/"+label) {
				return name
			}
		}
		return label
	}
	for _, m := range goTransform.FindAllStringSubmatch(text, -1) {
		if slices.Contains(p.Stage.Transforms, m[1]) {
			return p.author(m[1])
		}
	}
	return p.panicked(text)
}

// panicked finds the transform whose function is innermost on Go's stack: of a
// panic, nothing but that tells. A transform is named after its function unless
// its author said otherwise.
func (p *Program) panicked(text string) string {
	found, at := "", len(text)
	for _, id := range p.Stage.Transforms {
		name := p.author(id)
		function := name[strings.LastIndexByte(name, '/')+1:]
		if i := strings.Index(text, "\n"+function+"("); function != "" && i >= 0 && i < at {
			found, at = name, i
		}
	}
	return found
}

// author is the author's name of a transform of the stage.
func (p *Program) author(id string) string {
	return p.template.GetTransforms()[id].GetUniqueName()
}

// suspectsShown bounds the list of who may be to blame, in bytes.
const suspectsShown = 300

// Suspects are the transforms of the stage, where an error doesn't say which of
// them it is about: not each by its full name, but the parts of the pipeline
// that they are of.
func (p *Program) Suspects() string {
	var parts []string
	bytes := 0
	for _, id := range p.Stage.Transforms {
		name := p.author(id)
		if at := strings.IndexByte(name, '/'); at >= 0 {
			if next := strings.IndexByte(name[at+1:], '/'); next >= 0 {
				name = name[:at+1+next]
			}
		}
		if name == "" || slices.Contains(parts, name) {
			continue
		}
		if bytes += len(name); bytes > suspectsShown {
			parts = append(parts, "…")
			break
		}
		parts = append(parts, name)
	}
	return strings.Join(parts, ", ")
}
