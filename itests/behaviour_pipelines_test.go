package itests

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/graphx"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/transforms/stats"
	"google.golang.org/protobuf/proto"
)

// Here are the functions that the behaviour tests' pipelines are made of. They
// run in workers, which are other processes: they speak with the test by files.

func init() {
	beam.RegisterType(reflect.TypeFor[numbersFn]())
	beam.RegisterType(reflect.TypeFor[blobsFn]())
	beam.RegisterType(reflect.TypeFor[crashFn]())
	beam.RegisterType(reflect.TypeFor[failFn]())
	beam.RegisterType(reflect.TypeFor[measureFn]())
	beam.RegisterType(reflect.TypeFor[waitFn]())
	beam.RegisterType(reflect.TypeFor[slowFn]())
	beam.RegisterType(reflect.TypeFor[luggageFn]())
	beam.RegisterType(reflect.TypeFor[paceFn]())
	beam.RegisterType(reflect.TypeFor[gatherFn]())
	beam.RegisterType(reflect.TypeFor[keyFn]())
	beam.RegisterType(reflect.TypeFor[sumFn]())
	register.Emitter1[int]()
	register.Emitter1[[]byte]()
	register.Emitter2[string, int]()
	register.Iter1[string]()
	register.Iter1[int]()
	beam.RegisterType(reflect.TypeFor[blobCheckFn]())
	register.Iter1[[]byte]()
	register.Function1x1(decimal)
	register.Function1x2(blobKey)
}

// numbersFn emits From, From+1, … , To-1.
type numbersFn struct{ From, To int }

func (f *numbersFn) ProcessElement(_ []byte, emit func(int)) {
	for i := f.From; i < f.To; i++ {
		emit(i)
	}
}

// blobsFn emits N byte strings of Size bytes that don't compress, each with its
// number in decimal and a colon before.
type blobsFn struct{ N, Size int }

func (f *blobsFn) ProcessElement(_ []byte, emit func([]byte)) {
	for i := range f.N {
		emit(blob(i, f.Size))
	}
}

// blob is a byte string that is told by its number.
func blob(number, size int) []byte {
	out := make([]byte, 0, size+8)
	out = fmt.Appendf(out, "%d:", number)
	x := uint64(number)*0x9e3779b97f4a7c15 + 1
	for len(out) < size {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		out = append(out, byte(x), byte(x>>8), byte(x>>16), byte(x>>24), byte(x>>32), byte(x>>40), byte(x>>48), byte(x>>56))
	}
	return out[:size]
}

// blobKey is a blob's number, and the blob.
func blobKey(b []byte) (string, []byte) {
	return string(b[:bytes.IndexByte(b, ':')]), b
}

// blobCheckFn tells of each blob its number and size, or that it was damaged.
type blobCheckFn struct{}

func (*blobCheckFn) ProcessElement(key string, values func(*[]byte) bool) string {
	said := key
	for b := []byte(nil); values(&b); {
		n, err := strconv.Atoi(key)
		if err != nil || !bytes.Equal(b, blob(n, len(b))) {
			return key + " was damaged"
		}
		said += fmt.Sprintf(" of %d bytes", len(b))
	}
	return said
}

// crashFn kills its process at the element At, as often as there are Times.
type crashFn struct {
	Dir   string
	At    int
	Times int
}

func (f *crashFn) ProcessElement(x int, emit func(int)) {
	if x == f.At {
		for i := range f.Times {
			if first(filepath.Join(f.Dir, fmt.Sprintf("crash-%d", i))) {
				fmt.Fprintf(os.Stderr, "last words of a worker at element %d\n", x)
				dieHere()
			}
		}
	}
	emit(x)
}

// first makes a file, and is true for whoever made it.
func first(path string) bool {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

// failFn returns an error at the element At, each time leaving a file.
type failFn struct {
	Dir string
	At  int
}

func (f *failFn) ProcessElement(x int, emit func(int)) error {
	if x == f.At {
		if n, err := os.CreateTemp(f.Dir, "try-"); err == nil {
			n.Close()
		}
		return fmt.Errorf("the number %d is one too many", x)
	}
	emit(x)
	return nil
}

var (
	seenNumbers = beam.NewCounter("itests", "numbers")
	oddNumbers  = beam.NewCounter("itests", "odd")
	numberSizes = beam.NewDistribution("itests", "sizes")
	lastNumber  = beam.NewGauge("itests", "last")
)

// measureFn counts what it passes on.
type measureFn struct{}

func (*measureFn) ProcessElement(ctx context.Context, x int, emit func(int)) {
	seenNumbers.Inc(ctx, 1)
	if x%2 == 1 {
		oddNumbers.Inc(ctx, 1)
	}
	numberSizes.Update(ctx, int64(x))
	lastNumber.Set(ctx, 42)
	emit(x)
}

// waitFn waits at the element At until the file Until is there, and makes the
// file Reached before. It gives up after a time that no test lasts.
type waitFn struct {
	At             int
	Reached, Until string
}

func (f *waitFn) ProcessElement(x int, emit func(int)) {
	if x == f.At {
		first(f.Reached)
		await(f.Until, time.Minute)
	}
	emit(x)
}

// slowFn takes its time.
type slowFn struct{ Millis int }

func (f *slowFn) ProcessElement(x int, emit func(int)) {
	time.Sleep(time.Duration(f.Millis) * time.Millisecond)
	emit(x)
}

// luggageFn carries bytes in the pipeline, and emits how many are as they were.
type luggageFn struct{ Luggage []byte }

func (f *luggageFn) ProcessElement(_ []byte, emit func(int)) {
	if bytes.Equal(f.Luggage, blob(0, len(f.Luggage))) {
		emit(len(f.Luggage))
	}
}

// await waits for a file, in a worker.
func await(path string, limit time.Duration) bool {
	for began := time.Now(); time.Since(began) < limit; time.Sleep(5 * time.Millisecond) {
		if exists(path) {
			return true
		}
	}
	return false
}

// paceFn passes on byte strings. From its third bundle on it waits for the file
// Until.
type paceFn struct {
	Dir, Until string
}

// paced counts the bundles of all instances of paceFn in this process.
var paced atomic.Int64

func (f *paceFn) StartBundle(func([]byte)) error {
	if paced.Add(1) < 3 {
		return nil
	}
	first(filepath.Join(f.Dir, "waits"))
	if !await(f.Until, 20*time.Second) {
		return errors.New("whoever reads from here doesn't run")
	}
	return nil
}

func (f *paceFn) ProcessElement(x []byte, emit func([]byte)) error {
	emit(x)
	return nil
}

func (f *paceFn) FinishBundle(func([]byte)) error { return nil }

// keyFn makes pairs of one of Keys keys and the number.
type keyFn struct{ Keys int }

func (f *keyFn) ProcessElement(x int, emit func(string, int)) {
	emit(fmt.Sprintf("key-%d", x%f.Keys), x)
}

// sumFn tells of each key's values.
type sumFn struct{}

func (*sumFn) ProcessElement(key string, values func(*int) bool) string {
	sum, n, x := 0, 0, 0
	for values(&x) {
		sum += x
		n++
	}
	return fmt.Sprintf("%s: %d numbers, sum %d", key, n, sum)
}

// gatherFn writes all lines, sorted, to a file that appears at once.
type gatherFn struct{ Path string }

func (f *gatherFn) ProcessElement(_ int, values func(*string) bool) error {
	var all []string
	for v := ""; values(&v); {
		all = append(all, v)
	}
	slices.Sort(all)
	temp := fmt.Sprintf("%s.%d", f.Path, os.Getpid())
	if err := os.WriteFile(temp, []byte(strings.Join(all, "\n")), 0o600); err != nil {
		return err
	}
	return os.Rename(temp, f.Path)
}

func decimal(x int) string { return fmt.Sprint(x) }

// gather writes what a collection of strings holds to a file.
func gather(s beam.Scope, col beam.PCollection, path string) {
	s = s.Scope("Gather")
	beam.ParDo0(s, &gatherFn{Path: path}, beam.GroupByKey(s, beam.AddFixedKey(s, col)))
}

// gatherNumbers writes what a collection of ints holds to a file.
func gatherNumbers(s beam.Scope, col beam.PCollection, path string) {
	gather(s, beam.ParDo(s, decimal, col), path)
}

// mustHaveNumbers checks a file that gatherNumbers wrote: each number once.
func mustHaveNumbers(t *testing.T, path string, from, to int) {
	t.Helper()
	var want []string
	for i := from; i < to; i++ {
		want = append(want, fmt.Sprint(i))
	}
	slices.Sort(want)
	if got := lines(path); !slices.Equal(got, want) {
		t.Errorf("%s holds %d lines, want the %d numbers from %d: %.200q", filepath.Base(path), len(got), len(want), from, got)
	}
}

// goPipeline is a pipeline of Go functions whose workers the command starts.
func goPipeline(t *testing.T, boot string, build func(s beam.Scope)) *pipepb.Pipeline {
	t.Helper()
	p, s := beam.NewPipelineWithRoot()
	build(s)
	edges, _, err := p.Build()
	if err != nil {
		t.Fatal(err)
	}
	env, err := graphx.CreateEnvironment(t.Context(), "beam:env:external:v1", func(context.Context) string { return "localhost:1" })
	if err != nil {
		t.Fatal(err)
	}
	out, err := graphx.Marshal(edges, &graphx.Options{Environment: env})
	if err != nil {
		t.Fatal(err)
	}
	startBy(t, out, boot)
	return out
}

// startBy has all of a pipeline's workers started by a command.
func startBy(t *testing.T, p *pipepb.Pipeline, command string) {
	t.Helper()
	payload, err := proto.Marshal(&pipepb.ProcessPayload{Command: command})
	if err != nil {
		t.Fatal(err)
	}
	for _, env := range p.GetComponents().GetEnvironments() {
		env.Urn, env.Payload, env.Dependencies = "beam:env:process:v1", payload, nil
	}
}

// numbers is Impulse, the numbers from 0 to n, and a reshuffle, so that what
// comes after runs in bundles of its own.
func numbers(s beam.Scope, n int) beam.PCollection {
	return beam.Reshuffle(s, beam.ParDo(s, &numbersFn{To: n}, beam.Impulse(s)))
}

// smallJob is a pipeline that says whether a server still works.
func smallJob(t *testing.T, boot, output string) *pipepb.Pipeline {
	return goPipeline(t, boot, func(s beam.Scope) {
		gatherNumbers(s, numbers(s, 100), output)
	})
}

// mustStillWork runs a small job.
func mustStillWork(t *testing.T, s server) {
	t.Helper()
	dir := t.TempDir()
	submit(t, s, "still-works", smallJob(t, goBoot(t, filepath.Join(dir, "pids")), filepath.Join(dir, "out"))).mustEnd()
	mustHaveNumbers(t, filepath.Join(dir, "out"), 0, 100)
}

// sums is a pipeline with grouping, a lifted combine and a side input.
func sums(t *testing.T, boot string, n int, output string) *pipepb.Pipeline {
	return goPipeline(t, boot, func(s beam.Scope) {
		pairs := beam.ParDo(s, &keyFn{Keys: 10}, numbers(s, n))
		grouped := beam.ParDo(s, &sumFn{}, beam.GroupByKey(s, pairs))
		totals := beam.ParDo(s, &sumFn{}, beam.GroupByKey(s, stats.SumPerKey(s, pairs)))
		gather(s, beam.Flatten(s, grouped, totals), output)
	})
}

// wantSums is the oracle of sums.
func wantSums(n int) []byte {
	var all []string
	for k := range 10 {
		sum, count := 0, 0
		for x := k; x < n; x += 10 {
			sum += x
			count++
		}
		all = append(all, fmt.Sprintf("key-%d: %d numbers, sum %d", k, count, sum), fmt.Sprintf("key-%d: 1 numbers, sum %d", k, sum))
	}
	slices.Sort(all)
	return []byte(strings.Join(all, "\n"))
}

func mustHaveSums(t *testing.T, output string, n int) {
	t.Helper()
	got, err := os.ReadFile(output)
	if err != nil || !bytes.Equal(got, wantSums(n)) {
		t.Errorf("sums of %d numbers: %v\n%s\nwant\n%s", n, err, got, wantSums(n))
	}
}

// waitingPipeline makes dir/reached in mid-bundle, waits for dir/go, and writes
// the numbers from 0 to 100 to dir/out.
func waitingPipeline(t *testing.T, dir string) *pipepb.Pipeline {
	return goPipeline(t, goBoot(t, filepath.Join(dir, "pids")), func(s beam.Scope) {
		wait := &waitFn{At: 50, Reached: filepath.Join(dir, "reached"), Until: filepath.Join(dir, "go")}
		gatherNumbers(s, beam.ParDo(s, wait, numbers(s, 100)), filepath.Join(dir, "out"))
	})
}
