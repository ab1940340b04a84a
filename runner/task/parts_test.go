package task

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"trestle/coders"
	"trestle/runner/bundle"
	"trestle/runner/bundle/bundletest"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// pairs cuts pairs of bytes in the global window.
func pairs(t *testing.T) *coders.Windowed {
	t.Helper()
	table := coders.NewTable(map[string]*pipepb.Coder{
		"b":  {Spec: &pipepb.FunctionSpec{Urn: "beam:coder:bytes:v1"}},
		"kv": {Spec: &pipepb.FunctionSpec{Urn: "beam:coder:kv:v1"}, ComponentCoderIds: []string{"b", "b"}},
		"w":  {Spec: &pipepb.FunctionSpec{Urn: "beam:coder:global_window:v1"}},
	})
	kv, err := table.Coder("kv")
	if err != nil {
		t.Fatal(err)
	}
	global, err := table.Coder("w")
	if err != nil {
		t.Fatal(err)
	}
	return coders.NewWindowed(kv, global)
}

// A bundle that is cut by keys has all elements of a key in one part, in their
// order, and no part is much longer than its share unless one key is.
func TestSplitByKey(t *testing.T) {
	w := pairs(t)
	chance := rand.New(rand.NewPCG(1, 2))
	for _, keys := range []int{1, 3, 500} {
		in := &bundle.Input{Elements: 5000}
		want := map[string][]string{}
		for i := range in.Elements {
			if i%700 == 0 {
				in.Chunks = append(in.Chunks, nil)
			}
			key, value := fmt.Sprint("k", chance.IntN(keys)), fmt.Sprint(i)
			want[key] = append(want[key], value)
			last := &in.Chunks[len(in.Chunks)-1]
			*last = append(*last, bundletest.Element(0, key, value)...)
		}
		parts, err := splitByKey(in, w, 8)
		if err != nil {
			t.Fatal(err)
		}
		if most := min(8, keys); len(parts) > most || keys == 500 && len(parts) < 8 {
			t.Errorf("%d keys are in %d parts", keys, len(parts))
		}
		got := map[string][]string{}
		for _, p := range parts {
			mine := map[string][]string{}
			n, size := 0, 0
			var v coders.Value
			for _, chunk := range p.Chunks {
				size += len(chunk)
				for len(chunk) > 0 {
					if chunk, err = w.Next(chunk, &v); err != nil {
						t.Fatal(err)
					}
					n++
					key := bundletest.Word(v.Key())
					mine[key] = append(mine[key], bundletest.Word(v.KVValue()))
				}
			}
			if n != p.Elements || int64(size) != p.Bytes {
				t.Errorf("a part has %d elements in %d bytes, and says %d in %d", n, size, p.Elements, p.Bytes)
			}
			if keys == 500 && n > in.Elements/8*5/4 {
				t.Errorf("a part of 8 has %d elements of %d", n, in.Elements)
			}
			for key := range mine {
				if got[key] != nil {
					t.Errorf("key %s is in two parts", key)
				}
			}
			maps.Copy(got, mine)
		}
		if !maps.EqualFunc(got, want, slices.Equal) {
			t.Errorf("of %d keys something else came out than went in", keys)
		}
	}
}
