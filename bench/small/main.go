// Command small submits one small job after the other and prints how long each
// took, from the built pipeline to its result, as a JSON list of nanoseconds.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/log"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/transforms/stats"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/x/beamx"
)

var (
	n     = flag.Int("n", 50, "jobs to submit")
	shape = flag.String("shape", "pardo", "pardo: Impulse and one ParDo; count: with a count for each of ten keys behind it")
)

const keys = 10

func init() {
	register.Function2x0(emitKeys)
	register.Emitter1[int]()
}

func emitKeys(_ []byte, emit func(int)) {
	for i := range keys {
		emit(i)
	}
}

func main() {
	flag.Parse()
	beam.Init()
	log.SetLogger(quiet{})
	times := make([]time.Duration, *n)
	for i := range times {
		p := pipeline()
		began := time.Now()
		if _, err := beamx.RunWithMetrics(context.Background(), p); err != nil {
			fmt.Fprintln(os.Stderr, "job", i, "failed:", err)
			os.Exit(1)
		}
		times[i] = time.Since(began)
	}
	if err := json.NewEncoder(os.Stdout).Encode(times); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func pipeline() *beam.Pipeline {
	p, s := beam.NewPipelineWithRoot()
	numbers := beam.ParDo(s, emitKeys, beam.Impulse(s))
	if *shape == "count" {
		stats.Count(s, numbers)
	}
	return p
}

// quiet is a logger that says nothing.
type quiet struct{}

func (quiet) Log(context.Context, log.Severity, int, string) {}
