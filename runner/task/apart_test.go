package task

import (
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"trestle/coders"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// What is in two windows becomes two elements, and what is in one stays as it is.
func TestApart(t *testing.T) {
	table := coders.NewTable(map[string]*pipepb.Coder{
		"e": {Spec: &pipepb.FunctionSpec{Urn: "beam:coder:bytes:v1"}},
		"w": {Spec: &pipepb.FunctionSpec{Urn: "beam:coder:interval_window:v1"}},
	})
	e, err := table.Coder("e")
	if err != nil {
		t.Fatal(err)
	}
	w, err := table.Coder("w")
	if err != nil {
		t.Fatal(err)
	}
	const at, one, two, pane, elem = "8000000000000007", "800000000000000a" + "0a", "8000000000000014" + "14", "0f", "03616263"
	whole := strings.Join([]string{at, "00000002", one, two, pane, elem, at, "00000001", two, pane, elem}, "")
	want := []string{strings.Join([]string{at, "00000001", one, pane, elem}, ""), strings.Join([]string{at, "00000001", two, pane, elem}, ""), strings.Join([]string{at, "00000001", two, pane, elem}, "")}
	block, err := hex.DecodeString(whole)
	if err != nil {
		t.Fatal(err)
	}
	elems, err := cutAll(coders.NewWindowed(e, w), block)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, x := range elems {
		got = append(got, hex.EncodeToString(x))
	}
	if !slices.Equal(got, want) {
		t.Errorf("cut into %q, want %q", got, want)
	}
}
