package transforms_test

import (
	"strings"
	"testing"

	"trestle/runner/graph"
	"trestle/transforms"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window/trigger"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/graphx"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/transforms/stats"
	"github.com/apache/beam/sdks/v2/go/test/integration/primitives"
	"github.com/cockroachdb/datadriven"
)

func init() {
	register.Function2x0(split)
	register.Emitter1[string]()
	register.Function2x1(enrich)
	register.Iter1[string]()
	register.Function3x1(join)
	register.Iter1[int]()
	register.Function1x2(keyed)
}

func split(line string, emit func(string)) {
	for w := range strings.FieldsSeq(line) {
		emit(w)
	}
}

func enrich(w string, all func(*string) bool) string { return w }

func keyed(w string) (string, int) { return w, len(w) }

func join(w string, a, b func(*int) bool) string { return w }

// pipelines are as a person writes them with Beam's Go SDK.
var pipelines = map[string]func(s beam.Scope){
	"wordcount": func(s beam.Scope) {
		stats.Count(s, beam.ParDo(s, split, beam.Create(s, "a b", "b c")))
	},
	"windowed": func(s beam.Scope) {
		words := beam.ParDo(s, split, beam.Create(s, "a b", "b c"))
		stats.SumPerKey(s, beam.ParDo(s, keyed, beam.WindowInto(s, window.NewSessions(1000), words)))
	},
	"sideinput": func(s beam.Scope) {
		words := beam.ParDo(s, split, beam.Create(s, "a b", "b c"))
		beam.ParDo(s, enrich, words, beam.SideInput{Input: words})
	},
	"cogbk": func(s beam.Scope) {
		a := beam.ParDo(s, keyed, beam.Create(s, "a", "b"))
		b := beam.ParDo(s, keyed, beam.Create(s, "b", "c"))
		beam.ParDo(s, join, beam.CoGroupByKey(s, a, b))
	},
	"reshuffle":  primitives.Reshuffle,
	"flatten":    primitives.FlattenDup,
	"splittable": primitives.Checkpoints,
	"state":      primitives.BagStateParDo,
	"list":       primitives.OrderedListStateParDo,
	"map":        primitives.MapStateParDo,
	"timers":     primitives.TimersEventTimeBounded,
	"sides":      primitives.ValidateWindowedSideInputs,
	"triggers": func(s beam.Scope) {
		trig := trigger.AfterEndOfWindow().EarlyFiring(trigger.Repeat(trigger.AfterCount(2)))
		words := beam.WindowInto(s, window.NewFixedWindows(1000), beam.Create(s, "a", "b"), beam.Trigger(trig), beam.PanesAccumulate())
		stats.SumPerKey(s, beam.ParDo(s, keyed, words))
	},
	"teststream": primitives.TestStreamStrings,
}

func goPipeline(t *testing.T, build func(s beam.Scope)) *pipepb.Pipeline {
	t.Helper()
	p, s := beam.NewPipelineWithRoot()
	build(s)
	edges, _, err := p.Build()
	if err != nil {
		t.Fatal(err)
	}
	pb, err := graphx.Marshal(edges, &graphx.Options{Environment: &pipepb.Environment{Urn: "beam:env:external:v1"}})
	if err != nil {
		t.Fatal(err)
	}
	return pb
}

// TestGoSDK shows what becomes of the Go SDK's own pipelines.
func TestGoSDK(t *testing.T) {
	datadriven.RunTest(t, "testdata/gosdk", func(t *testing.T, d *datadriven.TestData) string {
		build := pipelines[d.CmdArgs[0].Key]
		if build == nil {
			d.Fatalf(t, "no pipeline %q", d.CmdArgs[0].Key)
		}
		g, err := graph.FromProto(goPipeline(t, build))
		if err != nil {
			return err.Error()
		}
		if g, err = transforms.Apply(g, transforms.Options{}); err != nil {
			return err.Error()
		}
		text := g.String()
		if !d.HasArg("coders") {
			text, _, _ = strings.Cut(text, "collection ")
		}
		return text
	})
}

// TestGoSDKPasses lets through all that the SDK's tests do.
func TestGoSDKPasses(t *testing.T) {
	for name, build := range pipelines {
		g, err := graph.FromProto(goPipeline(t, build))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if g, err = transforms.Apply(g, transforms.Options{}); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		check(t, g)
	}
}
