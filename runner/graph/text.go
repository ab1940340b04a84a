package graph

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"trestle/coders"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

var kindNames = map[Kind]string{
	Impulse: "impulse", ParDo: "pardo", GroupByKey: "gbk", Flatten: "flatten", Reshuffle: "reshuffle",
	Restrictions: "restrictions", TestStream: "teststream", CombinePerKey: "combine", Splittable: "splittable",
}

// String is the kind's word in printed graphs.
func (k Kind) String() string {
	if s, ok := kindNames[k]; ok {
		return s
	}
	return "kind" + strconv.Itoa(int(k))
}

// specials are the URNs that a printed ParDo tells apart.
var specials = map[string]string{
	URNPrecombine: "precombine", URNMergeAccumulators: "merge", URNExtractOutputs: "extract",
	URNConvertAccumulators: "convert", URNCombineGroupedValues: "combine_values",
	URNPairWithRestriction: "pair", URNSplitAndSize: "split", URNTruncate: "truncate",
	URNWindowInto: "window", URNMapWindows: "map_windows", URNMergeWindows: "merge_windows",
	URNToString: "to_string", URNFlatten: "transcode",
}

// String prints the graph as package graphtest reads it: a line for each
// transform, in order, then a line for each collection.
func (g *Graph) String() string {
	var b strings.Builder
	for _, t := range g.Transforms {
		b.WriteString(t.String())
		b.WriteByte('\n')
		for _, p := range t.Parts {
			fmt.Fprintf(&b, "  part %s\n", p)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(g.Collections)) {
		c := g.Collections[id]
		fmt.Fprintf(&b, "collection %s coder=%s window=%s", word(string(id)), CoderText(g.Coders, c.Coder), word(c.Windowing))
		if c.Declared != "" {
			fmt.Fprintf(&b, " declared=%s", CoderText(g.Coders, c.Declared))
		}
		if !c.Bounded {
			b.WriteString(" unbounded")
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// String prints the transform as one line.
func (t *Transform) String() string {
	kind := t.Kind.String()
	if s, ok := specials[t.Proto.GetSpec().GetUrn()]; ok && t.Kind == ParDo {
		kind = s
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", kind, word(string(t.ID)))
	if t.Name != "" && t.Name != string(t.ID) {
		fmt.Fprintf(&b, " name=%s", word(t.Name))
	}
	list(&b, "in", t.Inputs)
	for i, s := range t.SideInputs {
		if i == 0 {
			b.WriteString(" side=")
		} else {
			b.WriteByte(',')
		}
		b.WriteString(word(s.Tag) + ":" + word(string(s.Collection)))
		if s.Access == AccessMultimap {
			b.WriteString(":multimap")
		}
	}
	list(&b, "out", t.Outputs)
	if t.Environment != "" {
		fmt.Fprintf(&b, " env=%s", word(string(t.Environment)))
	}
	if t.Stateful {
		b.WriteString(" stateful")
	}
	if t.ParDo.GetRequiresStableInput() {
		b.WriteString(" stable")
	}
	if t.Origin != t.ID {
		fmt.Fprintf(&b, " origin=%s", word(string(t.Origin)))
	}
	return b.String()
}

func list(b *strings.Builder, name string, ids []CollectionID) {
	for i, id := range ids {
		if i == 0 {
			b.WriteString(" " + name + "=")
		} else {
			b.WriteByte(',')
		}
		b.WriteString(word(string(id)))
	}
}

// word quotes what would not be read back as one word.
func word(s string) string {
	if s == "" || strings.ContainsAny(s, " ,=\"\t\r\n") || strconv.Quote(s) != `"`+s+`"` {
		return strconv.Quote(s)
	}
	return s
}

// CoderText writes a coder as a person would: kv<bytes,iterable<varint>>. A
// coder that isn't Beam's own goes by its id.
func CoderText(protos map[string]*pipepb.Coder, id string) string {
	return coderText(protos, id, 0)
}

func coderText(protos map[string]*pipepb.Coder, id string, depth int) string {
	p := protos[id]
	urn := p.GetSpec().GetUrn()
	name, std := strings.CutPrefix(urn, "beam:coder:")
	if !std || urn == coders.URNRow || depth > maxCoderHeight {
		return word(id)
	}
	name = strings.TrimSuffix(name, ":v1")
	if urn == coders.URNLengthPrefix {
		name = "lp"
	}
	var parts []string
	for _, c := range p.GetComponentCoderIds() {
		parts = append(parts, coderText(protos, c, depth+1))
	}
	if len(parts) == 0 {
		return name
	}
	return name + "<" + strings.Join(parts, ",") + ">"
}
