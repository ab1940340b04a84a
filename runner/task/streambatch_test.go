package task

import (
	"slices"
	"testing"
	"time"

	"trestle/coders"
	"trestle/runner/bundle/bundletest"
)

// A bundle of a stream takes about as long as it is meant to: those of slow
// functions become small, and grow again when they are quick.
func TestPace(t *testing.T) {
	var p pace
	for _, step := range []struct {
		name  string
		count int
		took  time.Duration
		want  int
	}{
		{"a full one that was quick", firstBundle, time.Second, 2 * firstBundle},
		{"one that wasn't full says nothing", firstBundle, time.Second, 2 * firstBundle},
		{"a slow one", 2 * firstBundle, 4 * bundleTime, firstBundle / 2},
		{"one that is quick again", firstBundle / 2, bundleTime, firstBundle},
		{"one that takes for ever", firstBundle, 1000 * time.Hour, 1},
	} {
		if p.ran(step.count, step.took); p.limit() != step.want {
			t.Fatalf("%s: %d elements, want %d", step.name, p.limit(), step.want)
		}
	}
}

// A batch is cut between elements, and what is added later follows the rest.
func TestCutBatch(t *testing.T) {
	w := pairs(t)
	var b batchOut
	add := func(keys ...string) {
		for _, k := range keys {
			b.chunk = append(b.chunk, bundletest.Element(0, k, "value")...)
			b.count++
		}
	}
	add("a", "bb", "c")
	var got []string
	take := func() {
		one, err := b.cut(w, 2)
		if err != nil {
			t.Fatal(err)
		}
		keys, n := "", 0
		var v coders.Value
		for rest := one.chunk; len(rest) > 0; n++ {
			if rest, err = w.Next(rest, &v); err != nil {
				t.Fatal(err)
			}
			keys += bundletest.Word(v.Key())
		}
		if n != one.count {
			t.Errorf("%d elements are called %d", n, one.count)
		}
		got = append(got, keys)
	}
	take()
	add("d", "e")
	take()
	take()
	if want := []string{"abb", "cd", "e"}; !slices.Equal(got, want) || b.count != 0 || len(b.chunk) != 0 {
		t.Errorf("bundles %q, want %q; %d elements are left", got, want, b.count)
	}
}
