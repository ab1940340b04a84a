package itests

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

// TestLargePipeline submits pipelines beyond 4 MB, which is where gRPC stops if
// nobody tells it to go on.
func TestLargePipeline(t *testing.T) {
	need(t, "behaviour")
	s := serve(t)
	tests := []struct {
		name  string
		bytes int
		build func(t *testing.T, dir string) *pipepb.Pipeline
	}{
		{"go", 10 << 20, func(t *testing.T, dir string) *pipepb.Pipeline {
			return goPipeline(t, goBoot(t, filepath.Join(dir, "pids")), func(s beam.Scope) {
				gatherNumbers(s, beam.ParDo(s, &luggageFn{Luggage: blob(0, 10<<20)}, beam.Impulse(s)), filepath.Join(dir, "out"))
			})
		}},
		// The SDK's worker takes a second for each megabyte of a function.
		{"python", 5 << 20, func(t *testing.T, dir string) *pipepb.Pipeline {
			p := pythonPipeline(t, "luggage", dir)
			startBy(t, p, notedBoot(t, filepath.Join(dir, "pids")))
			return p
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			p := test.build(t, dir)
			if proto.Size(p) < 4<<20 {
				t.Fatalf("the pipeline has only %d bytes", proto.Size(p))
			}
			submit(t, s, "large", p).mustEnd()
			mustHaveNumbers(t, filepath.Join(dir, "out"), test.bytes, test.bytes+1)
		})
	}
}

// TestLargeElements groups single elements of many megabytes.
func TestLargeElements(t *testing.T) {
	need(t, "behaviour")
	sizes := []int{10 << 20, 100 << 20}
	if *quick {
		sizes = sizes[:1]
	}
	s := serve(t, "--memory=1GiB")
	for _, size := range sizes {
		t.Run(fmt.Sprintf("%d MiB", size>>20), func(t *testing.T) {
			dir := t.TempDir()
			p := goPipeline(t, goBoot(t, filepath.Join(dir, "pids")), func(s beam.Scope) {
				blobs := beam.Reshuffle(s, beam.ParDo(s, &blobsFn{N: 2, Size: size}, beam.Impulse(s)))
				gather(s, beam.ParDo(s, &blobCheckFn{}, beam.GroupByKey(s, beam.ParDo(s, blobKey, blobs))), filepath.Join(dir, "out"))
			})
			submit(t, s, "elements", p).mustEnd()
			want := []string{fmt.Sprintf("0 of %d bytes", size), fmt.Sprintf("1 of %d bytes", size)}
			if got := lines(filepath.Join(dir, "out")); !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

// TestShapes runs pipelines of unusual shapes.
func TestShapes(t *testing.T) {
	need(t, "behaviour")
	s := serve(t)
	tests := []struct {
		name  string
		build func(s beam.Scope, output string)
		want  int // numbers from 0 to; 0: no output at all
	}{
		{"empty", func(s beam.Scope, output string) {
			empty := numbers(s, 0)
			pairs := beam.ParDo(s, &keyFn{Keys: 10}, empty)
			grouped := beam.ParDo(s, &sumFn{}, beam.GroupByKey(s, pairs))
			gather(s, beam.Flatten(s, grouped, beam.ParDo(s, decimal, empty)), output)
		}, 0},
		{"nothing read", func(s beam.Scope, _ string) {
			beam.ParDo(s, &numbersFn{To: 1000}, beam.Impulse(s))
		}, 0},
		{"deep", func(s beam.Scope, output string) {
			for i := range 300 {
				s = s.Scope(fmt.Sprintf("level %d", i))
			}
			gatherNumbers(s, numbers(s, 100), output)
		}, 100},
		{"wide", func(s beam.Scope, output string) {
			start := beam.Impulse(s)
			var all []beam.PCollection
			for i := range 200 {
				all = append(all, beam.ParDo(s, &numbersFn{From: i, To: i + 1}, start))
			}
			gatherNumbers(s, beam.Flatten(s, all...), output)
		}, 200},
		{"wide and grouped", func(s beam.Scope, output string) {
			start := beam.Impulse(s)
			var all []beam.PCollection
			for i := range 200 {
				all = append(all, beam.Reshuffle(s, beam.ParDo(s, &numbersFn{From: i, To: i + 1}, start)))
			}
			gatherNumbers(s, beam.Flatten(s, all...), output)
		}, 200},
		{"long", func(s beam.Scope, output string) {
			col := numbers(s, 100)
			for range 50 {
				col = beam.Reshuffle(s, col)
			}
			gatherNumbers(s, col, output)
		}, 100},
		{"flatten of itself", func(s beam.Scope, output string) {
			a := beam.ParDo(s, &numbersFn{To: 50}, beam.Impulse(s))
			b := beam.ParDo(s, &numbersFn{From: 50, To: 100}, beam.Impulse(s))
			gatherNumbers(s, beam.Flatten(s, beam.Flatten(s, a, numbers(s, 0)), beam.Flatten(s, b)), output)
		}, 100},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			output := filepath.Join(dir, "out")
			p := goPipeline(t, goBoot(t, filepath.Join(dir, "pids")), func(s beam.Scope) { test.build(s, output) })
			submit(t, s, test.name, p).mustEnd()
			if test.want > 0 {
				mustHaveNumbers(t, output, 0, test.want)
			} else if exists(output) {
				t.Errorf("a group of nothing was written: %q", lines(output))
			}
		})
	}
}
