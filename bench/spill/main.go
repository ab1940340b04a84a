// Command spill submits a job that groups more than the runner can hold, and
// fails unless every record comes out once, in its group, with all its bytes.
// It is client and LOOPBACK worker in one.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"trestle/bench/records"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/x/beamx"
)

var (
	count  = flag.Int64("records", 1000, "records to group")
	keys   = flag.Int64("keys", 250, "groups that they make")
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

func run(ctx context.Context) error {
	c := records.Config{Records: *count, Keys: *keys, Splits: *splits}
	p, s := beam.NewPipelineWithRoot()
	records.Check(s, c, records.Make(s, c))
	result, err := beamx.RunWithMetrics(ctx, p)
	if err != nil {
		return err
	}
	return records.Verify(result)
}
