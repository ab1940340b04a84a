package fusion_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"trestle/runner/fusion"
	"trestle/runner/graph"
	"trestle/runner/region"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
)

const sample = `
impulse S1              out=a
impulse S2              out=b
pardo   P1     in=a     out=c
pardo   P2     in=b     out=d env=py
flatten All    in=c,d   out=e
pardo   Work   in=e     out=f origin=Whole side=d
gbk     Group  in=f     out=g
pardo   State  in=g     out=h stateful
`

func sampleGraph(t *testing.T) *graph.Graph {
	t.Helper()
	g, err := parse(sample)
	if err != nil {
		t.Fatal(err)
	}
	g.Collections["f"].Declared = "declared"
	return g
}

func samplePlan(t *testing.T) *fusion.Plan {
	t.Helper()
	g := sampleGraph(t)
	p, err := fusion.Fuse(g, g.Components())
	if err != nil {
		t.Fatal(err)
	}
	region.Compute(p.Graph, region.Options{})
	return p
}

func TestPlanSurvivesStorage(t *testing.T) {
	p := samplePlan(t)
	data, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var back fusion.Plan
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(p, &back, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestEqualGraphsGiveEqualPlans(t *testing.T) {
	want, err := samplePlan(t).Hash()
	if err != nil {
		t.Fatal(err)
	}
	for range 20 { // maps have other orders each time
		if got, err := samplePlan(t).Hash(); err != nil || got != want {
			t.Fatalf("hash %s, %v; want %s", got, err, want)
		}
	}
}

func TestCopiesAreDeclaredAsTheirOriginals(t *testing.T) {
	p := samplePlan(t)
	for _, id := range []string{"f@s1", "f@s3"} {
		if p.Declared[id] == "" && p.Components.GetPcollections()[id] != nil {
			t.Errorf("%s has no declared coder: %v", id, p.Declared)
		}
	}
	if len(p.Declared) == 0 {
		t.Error("nothing is declared")
	}
}

func TestStoredPlansAreChecked(t *testing.T) {
	for _, data := range []string{
		`{}`, `[]`, `{"graph":{"stages":[{"id":"s1"}]},"stages":[]}`,
		`{"graph":{"stages":[{"id":"s1"}]},"stages":[{"ID":"s2"}]}`,
		`{"graph":{"stages":[null]},"stages":[null]}`,
		`{"graph":{"stages":[]},"stages":[],"components":"AAAA"}`,
	} {
		if err := json.Unmarshal([]byte(data), new(fusion.Plan)); err == nil {
			t.Errorf("%s was accepted", data)
		}
	}
}

func TestViewTellsStagesEdgesRegions(t *testing.T) {
	data, err := json.Marshal(samplePlan(t).View())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"id":"s1"`, `"root":"impulse"`, `"transforms":["all/P`, `"pattern":"pointwise"`, `"exchange":"blocking"`, `"regions":[{"id":"r1"`, `"layer":1`,
	} {
		if !strings.Contains(string(data), want) {
			t.Errorf("no %s in %s", want, data)
		}
	}
}

// TestCopiesAreBounded joins many branches again and again: beyond the bound,
// consumers read datasets.
func TestCopiesAreBounded(t *testing.T) {
	defer fusion.SetMaxCopies(8)()
	var text, all strings.Builder
	for i := range 5 {
		fmt.Fprintf(&text, "impulse I%d out=i%d\npardo P%d in=i%d out=p%d\n", i, i, i, i, i)
		fmt.Fprintf(&all, ",p%d", i)
	}
	fmt.Fprintf(&text, "flatten All in=%s out=c0\n", all.String()[1:])
	for i := range 6 {
		fmt.Fprintf(&text, "pardo C%d in=c%d out=c%d\n", i, i, i+1)
	}
	g, err := parse(text.String())
	if err != nil {
		t.Fatal(err)
	}
	p, err := fusion.Fuse(g, g.Components())
	if err != nil {
		t.Fatal(err)
	}
	checkPlan(t, g, p)
	count := 0
	for _, s := range p.Stages {
		count += len(s.Transforms)
	}
	if want := 5 + 6 + 8; count > want {
		t.Errorf("%d transforms in all stages, want at most %d:\n%s", count, want, p)
	}
	if got := run(p)["C5"].sum(); got != interpret(g)["C5"].sum() {
		t.Errorf("the plan does something else:\n%s", p)
	}
}

func TestTooManyBranchesAreRefused(t *testing.T) {
	defer fusion.SetMaxParts(20)()
	var text strings.Builder
	text.WriteString("impulse I0 out=c0\n")
	for i := 1; i < 10; i++ {
		fmt.Fprintf(&text, "impulse I%d out=i%d\nflatten F%d in=c%d,i%d out=c%d\n", i, i, i, i-1, i, i)
	}
	text.WriteString("pardo End in=c9 out=z\n")
	g, err := parse(text.String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fusion.Fuse(g, g.Components()); err == nil || !strings.Contains(err.Error(), `"all/F`) {
		t.Errorf("got %v, want a refusal that names a flatten", err)
	}
}

func BenchmarkFuse(b *testing.B) {
	for _, n := range []int{1000, 10_000} {
		b.Run(fmt.Sprintf("stages=%d", n), func(b *testing.B) {
			var text strings.Builder
			text.WriteString("impulse I out=c0\n")
			for i := range n {
				fmt.Fprintf(&text, "pardo P%d in=c%d out=p%d,q%d\ngbk G%d in=p%d out=c%d\n", i, i, i, i, i, i, i+1)
				if i > 0 {
					fmt.Fprintf(&text, "pardo S%d in=p%d out=s%d side=q%d\n", i, i, i, i-1)
				}
			}
			g, err := parse(text.String())
			if err != nil {
				b.Fatal(err)
			}
			comps := g.Components()
			for b.Loop() {
				if _, err := fusion.Fuse(g, comps); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
