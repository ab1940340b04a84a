package region_test

import (
	"flag"
	"fmt"
	"math/rand"
	"os"
	"slices"
	"strings"
	"testing"

	"trestle/runner/jobgraph"
	"trestle/runner/region"

	"github.com/cockroachdb/datadriven"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		if err := f.Value.Set("500"); err != nil { // small graphs are quick
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// TestCompute reads job graphs and prints their edges, regions, and those heads
// that aren't the stage itself. A line is a stage, its root, and what it reads:
// producer/partitioning. After an intended change run go test ./runner/region
// -rewrite, then read the diff as you would read code.
func TestCompute(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		if strings.HasSuffix(path, ".fail") {
			return // what a property left when it failed, for its own test
		}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			g := parse(t, d.Input)
			var o region.Options
			var mode string
			d.MaybeScanArgs(t, "mode", &mode)
			d.MaybeScanArgs(t, "slots", &o.Slots)
			var err error
			if o.Mode, err = region.ParseMode(mode); err != nil {
				return err.Error() + "\n"
			}
			region.Compute(g, o)
			check(t, g, o)
			out := g.Edges().String() + g.RegionString()
			for _, s := range g.Stages {
				if s.Head != s.ID {
					out += fmt.Sprintf("%s follows %s\n", s.ID, s.Head)
				}
			}
			return out
		})
	})
}

func parse(t *testing.T, text string) *jobgraph.Graph {
	g := &jobgraph.Graph{}
	made := map[string]*jobgraph.Dataset{}
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		s := &jobgraph.Stage{ID: jobgraph.StageID(words[0]), Root: jobgraph.RootKind(words[1])}
		for _, w := range words[2:] {
			from, partitioning, _ := strings.Cut(w, "/")
			d := made[w]
			if d == nil {
				partitioning, _, _ = strings.Cut(partitioning, "/") // a third part tells datasets apart
				d = write(g, jobgraph.StageID(from), jobgraph.Partitioning(partitioning))
				made[w] = d
			}
			read(s, d)
		}
		g.Stages = append(g.Stages, s)
	}
	return g
}

func write(g *jobgraph.Graph, from jobgraph.StageID, p jobgraph.Partitioning) *jobgraph.Dataset {
	d := &jobgraph.Dataset{
		ID:           jobgraph.DatasetID(fmt.Sprintf("d%d", len(g.Datasets)+1)),
		Producer:     from,
		Partitioning: p,
	}
	g.Datasets = append(g.Datasets, d)
	producer := g.Stage(from)
	producer.Outputs = append(producer.Outputs, d.ID)
	return d
}

func read(s *jobgraph.Stage, d *jobgraph.Dataset) {
	if d.Partitioning == jobgraph.Whole {
		s.SideInputs = append(s.SideInputs, d.ID)
	} else {
		s.Inputs = append(s.Inputs, d.ID)
	}
	d.Consumers = append(d.Consumers, s.ID)
}

type failer interface {
	Helper()
	Fatalf(string, ...any)
}

// check holds regions to what every mode promises.
func check(t failer, g *jobgraph.Graph, o region.Options) {
	t.Helper()
	waits := map[jobgraph.RegionID][]jobgraph.RegionID{}
	rank := map[jobgraph.RegionID]int{}
	for i, r := range g.Regions {
		rank[r.ID] = i
	}
	inside := map[jobgraph.RegionID]bool{}
	for _, d := range g.Datasets {
		from := g.Stage(d.Producer).Region
		for _, c := range d.Consumers {
			to := g.Stage(c).Region
			switch d.Exchange {
			case jobgraph.Blocking:
				if from == to {
					t.Fatalf("%s has the blocking dataset %s inside", from, d.ID)
				}
				if rank[from] >= rank[to] {
					t.Fatalf("%s waits for %s of a later region", to, d.ID)
				}
				waits[to] = append(waits[to], from)
			case jobgraph.Pipelined:
				if from != to || len(d.Consumers) != 1 || d.Partitioning == jobgraph.Whole {
					t.Fatalf("%s can't be pipelined from %s to %s", d.ID, from, to)
				}
				inside[from] = inside[from] || d.AllToAll()
			default:
				t.Fatalf("%s has exchange %q", d.ID, d.Exchange)
			}
		}
	}
	checkRegions(t, g, o, inside)
	checkHeads(t, g)
}

func checkRegions(t failer, g *jobgraph.Graph, o region.Options, allToAll map[jobgraph.RegionID]bool) {
	t.Helper()
	var all []jobgraph.StageID
	for _, r := range g.Regions {
		for _, s := range r.Stages {
			if g.RegionOf(s) != r {
				t.Fatalf("%s isn't of %s", s, r.ID)
			}
		}
		if r.Pointwise == allToAll[r.ID] {
			t.Fatalf("%s: pointwise is %v", r.ID, r.Pointwise)
		}
		if o.Mode == region.AllPipelined && o.Slots > 0 && len(r.Stages) > o.Slots && allToAll[r.ID] {
			t.Fatalf("%s has %d stages, more than slots", r.ID, len(r.Stages))
		}
		if !connected(g, r) {
			t.Fatalf("%s doesn't hang together", r.ID)
		}
		all = append(all, r.Stages...)
	}
	if len(all) != len(g.Stages) {
		t.Fatalf("%d stages in regions, %d stages", len(all), len(g.Stages))
	}
}

func connected(g *jobgraph.Graph, r *jobgraph.Region) bool {
	reached := map[jobgraph.StageID]bool{r.Stages[0]: true}
	for range r.Stages {
		for _, d := range g.Datasets {
			if d.Exchange == jobgraph.Pipelined && (reached[d.Producer] || reached[d.Consumers[0]]) {
				reached[d.Producer], reached[d.Consumers[0]] = true, true
			}
		}
	}
	return len(reached) == len(r.Stages)
}

// checkHeads follows every pipelined pointwise edge: both ends have one head, or
// heads that both have one task.
func checkHeads(t failer, g *jobgraph.Graph) {
	t.Helper()
	one := func(id jobgraph.StageID) bool {
		s := g.Stage(id)
		return s.Root == jobgraph.RootImpulse || len(s.Inputs) == 0
	}
	follows := map[jobgraph.StageID]bool{}
	for _, d := range g.Datasets {
		if d.Exchange == jobgraph.Pipelined && !d.AllToAll() {
			a, b := g.Stage(d.Producer).Head, g.Stage(d.Consumers[0]).Head
			if a != b && !(one(a) && one(b)) {
				t.Fatalf("%s leads from head %s to head %s", d.ID, a, b)
			}
			follows[d.Consumers[0]] = true
		}
	}
	for _, s := range g.Stages {
		if (s.Head == s.ID) == follows[s.ID] {
			t.Fatalf("%s has head %s", s.ID, s.Head)
		}
	}
}

// randomGraph has stages that read a few datasets of earlier ones.
func randomGraph(n int, intn func(n int) int) *jobgraph.Graph {
	g := &jobgraph.Graph{}
	kinds := []jobgraph.Partitioning{jobgraph.Forward, jobgraph.Forward, jobgraph.Forward, jobgraph.ByKey, jobgraph.Spread, jobgraph.Whole}
	roots := map[jobgraph.Partitioning]jobgraph.RootKind{jobgraph.Forward: jobgraph.RootRead, jobgraph.ByKey: jobgraph.RootGroup, jobgraph.Spread: jobgraph.RootRestrictions}
	for i := range n {
		s := &jobgraph.Stage{ID: jobgraph.StageID(fmt.Sprintf("s%d", i+1)), Root: jobgraph.RootImpulse}
		main := kinds[intn(len(kinds)-1)]
		for range intn(4) {
			if i == 0 {
				break
			}
			p := main
			if intn(3) == 0 {
				p = jobgraph.Whole
			}
			d := source(g, i, p, intn)
			if slices.Contains(d.Consumers, s.ID) {
				continue
			}
			if p != jobgraph.Whole {
				s.Root = roots[p]
			}
			read(s, d)
		}
		g.Stages = append(g.Stages, s)
	}
	return g
}

// source is a dataset of one of the last stages before i: a new one, or now and
// then one that has a reader.
func source(g *jobgraph.Graph, i int, p jobgraph.Partitioning, intn func(n int) int) *jobgraph.Dataset {
	from := g.Stages[i-1-intn(min(i, 6))]
	if len(from.Outputs) > 0 && intn(4) == 0 {
		if d := g.Dataset(from.Outputs[intn(len(from.Outputs))]); d.Partitioning == p {
			return d
		}
	}
	return write(g, from.ID, p)
}

func TestEveryGraphGetsLawfulRegions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := randomGraph(rapid.IntRange(1, 20).Draw(t, "stages"), func(n int) int {
			if n == 1 {
				return 0
			}
			return rapid.IntRange(0, n-1).Draw(t, "choice")
		})
		for _, mode := range []region.Mode{region.AllBlocking, region.PointwisePipelined, region.AllPipelined} {
			for _, slots := range []int{0, 1, 4} {
				o := region.Options{Mode: mode, Slots: slots}
				region.Compute(g, o)
				check(t, g, o)
			}
		}
	})
}

func BenchmarkCompute(b *testing.B) {
	for _, n := range []int{1000, 10_000, 100_000} {
		for _, mode := range []region.Mode{region.PointwisePipelined, region.AllPipelined} {
			b.Run(fmt.Sprintf("stages=%d/%s", n, mode), func(b *testing.B) {
				g := randomGraph(n, rand.New(rand.NewSource(1)).Intn)
				b.ReportAllocs()
				for b.Loop() {
					region.Compute(g, region.Options{Mode: mode})
				}
			})
		}
	}
}
