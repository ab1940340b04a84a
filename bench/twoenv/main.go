// Command twoenv submits a job of two environments: records are made in one,
// handed to the other element by element, and grouped and checked there.
//
// The Go SDK knows one environment. So the pipeline is built as ever, and then
// most of its transforms are moved to a second environment, a copy of the
// first. Both are LOOPBACK workers in this process.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	"trestle/bench/records"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/graphx"
	_ "github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/harness/init"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/options/jobopts"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/runners/universal/extworker"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/runners/universal/runnerlib"
	"google.golang.org/protobuf/proto"
)

var (
	count  = flag.Int64("records", 1000, "records to make")
	splits = flag.Int64("splits", 16, "pieces that the source is cut into at first")
)

func main() {
	flag.Parse()
	beam.Init()
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// first is the scope whose transforms stay in the first environment.
const first = "first"

func run(ctx context.Context) error {
	c := records.Config{Records: *count, Keys: max(1, *count/4), Splits: *splits}
	p, s := beam.NewPipelineWithRoot()
	records.Check(s, c, records.Pass(s, records.Make(s.Scope(first), c)))

	workers, err := extworker.StartLoopback(ctx, 0)
	if err != nil {
		return err
	}
	defer func() { _ = workers.Stop(ctx) }() // never fails
	env, err := graphx.CreateEnvironment(ctx, graphx.URNEnvExternal, workers.EnvironmentConfig)
	if err != nil {
		return err
	}
	edges, _, err := p.Build()
	if err != nil {
		return err
	}
	pipeline, err := graphx.Marshal(edges, &graphx.Options{Environment: env})
	if err != nil {
		return err
	}
	if err := moveToSecond(pipeline); err != nil {
		return err
	}
	opts := &runnerlib.JobOptions{Name: "twoenv", Loopback: true, Parallelism: -1}
	result, err := runnerlib.Execute(ctx, pipeline, *jobopts.Endpoint, opts, false)
	if err != nil {
		return err
	}
	return records.Verify(result)
}

func moveToSecond(p *pipepb.Pipeline) error {
	const second = "go-second"
	envs := p.GetComponents().GetEnvironments()
	if len(envs) != 1 {
		return fmt.Errorf("the pipeline has %d environments, want 1", len(envs))
	}
	for _, e := range envs {
		moved := proto.Clone(e).(*pipepb.Environment)
		moved.Dependencies = nil // LOOPBACK has nothing to stage
		envs[second] = moved
		break
	}
	stayed := 0
	for _, t := range p.GetComponents().GetTransforms() {
		switch {
		case t.EnvironmentId == "":
		case strings.HasPrefix(t.UniqueName, first+"/"):
			stayed++
		default:
			t.EnvironmentId = second
		}
	}
	if stayed == 0 {
		return errors.New("no transform stayed in the first environment")
	}
	return nil
}
