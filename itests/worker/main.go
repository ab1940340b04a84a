// Command worker is a client that submits the pipeline of package jobs and
// waits for its end, as any program written with the Go SDK does; and the
// worker that runs the pipeline's functions, when it is started with
// --worker=true.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	"trestle/itests/jobs"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/runners/universal"
)

func main() {
	var s jobs.Shape
	flag.StringVar(&s.Dir, "dir", "", "where the pipeline writes")
	flag.IntVar(&s.Elements, "elements", 1000, "how many elements there are")
	flag.IntVar(&s.FirstKeys, "first-keys", 50, "keys to draw from")
	flag.IntVar(&s.SecondKeys, "second-keys", 20, "keys that follow from the number")
	flag.DurationVar(&s.Pause, "pause", time.Millisecond, "what each element takes in each step")
	flag.IntVar(&s.Payload, "payload", 0, "bytes that each element carries")
	flag.IntVar(&s.Splits, "splits", 2, "restrictions that the source begins with")
	flag.Parse()
	beam.Init() // doesn't return in a worker
	if _, err := universal.Execute(context.Background(), s.Pipeline()); err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(1)
	}
}
