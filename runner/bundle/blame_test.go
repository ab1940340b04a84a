package bundle

import (
	"strings"
	"testing"

	"trestle/runner/fusion"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// An error names the transform that the SDK's words are about, by its author's
// name, and none where they don't say.
func TestBlame(t *testing.T) {
	p := &Program{
		Stage: &fusion.Stage{Transforms: []string{"e1", "e2", "ref_3"}},
		template: &fnpb.ProcessBundleDescriptor{Transforms: map[string]*pipepb.PTransform{
			"e1":    {UniqueName: "Read/main.split"},
			"e2":    {UniqueName: "Parse"},
			"ref_3": {UniqueName: "Clean/StageC"},
		}},
	}
	tests := []struct{ name, text, want string }{
		{"Python's label", "ValueError: no [while running 'Clean/StageC']", "Clean/StageC"},
		{"the innermost of several", "x [while running 'Parse']\ny [while running 'Clean/StageC-ptransform-7']", "Clean/StageC-ptransform-7"},
		{"Go's id", "DoFn[UID:2, PID:e2, Name: main.parse] failed:\nboom", "Parse"},
		{"an id of ours is not blamed", "Source[PID:trestle:source] failed", ""},
		{"a panic of Go's", "panic: x\nruntime/debug.Stack()\n\t/a.go:1\nmain.split({0x1, 0x2})\n\t/b.go:2\n", "Read/main.split"},
		{"a bare stack trace", "java.lang.RuntimeException: boom\n\tat x.Y.z(Y.java:3)", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := p.Blame(tt.text); got != tt.want {
				t.Errorf("Blame = %q, want %q", got, tt.want)
			}
		})
	}
}

// Where an error doesn't say, the parts of the pipeline are told.
func TestSuspects(t *testing.T) {
	p := &Program{
		Stage: &fusion.Stage{Transforms: []string{"a", "b", "c", "d", "e"}},
		template: &fnpb.ProcessBundleDescriptor{Transforms: map[string]*pipepb.PTransform{
			"a": {UniqueName: "Create/Read(Source)/Process"},
			"b": {UniqueName: "Create/Read(Source)/Split"},
			"c": {UniqueName: "Clean/Parse numbers/Map/ParMultiDo(Anonymous)"},
			"d": {UniqueName: "Print"},
			"e": {UniqueName: strings.Repeat("x", 400)},
		}},
	}
	if got, want := p.Suspects(), "Create/Read(Source), Clean/Parse numbers, Print, …"; got != want {
		t.Errorf("Suspects = %q, want %q", got, want)
	}
}
