package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/runners/universal"
)

// ways are the options with which each pipeline is run.
var ways = []string{"", "streaming=true", "max_bundle_size=1", "streaming=true,max_bundle_size=1"}

func main() {
	first := flag.Int64("seed", 1, "the seed of the first pipeline")
	count := flag.Int64("count", 100, "how many pipelines")
	only := flag.String("way", "all", "run them in this way only")
	flag.Parse()
	beam.Init() // doesn't return in a worker
	slog.SetLogLoggerLevel(slog.LevelError)
	results.of = map[string]rows{}
	bad := 0
	for seed := *first; seed < *first+*count; seed++ {
		p := draw(seed)
		want := p.result().String()
		for _, way := range ways {
			if *only != "all" && way != *only {
				continue
			}
			if err := run(p, way, want); err != nil {
				bad++
				fmt.Printf("%v\n%s\nagain: -seed=%d -count=1 -way=%q\n", p, err, seed, way)
			}
		}
	}
	fmt.Printf("%d pipelines, %d failures\n", *count, bad)
	if bad > 0 {
		os.Exit(1)
	}
}

// run runs a plan once.
func run(p plan, way, want string) error {
	name := fmt.Sprintf("generated-%d-%s", p.Seed, strings.NewReplacer("=", "-", ",", "-", "_", "-").Replace(way))
	for flagName, value := range map[string]string{"experiments": way, "job_name": name} {
		if err := flag.Set(flagName, value); err != nil {
			return err
		}
	}
	results.Lock()
	delete(results.of, name)
	results.Unlock()
	if _, err := universal.Execute(context.Background(), p.build(name)); err != nil {
		return fmt.Errorf("failed: %w", err)
	}
	results.Lock()
	defer results.Unlock()
	if got := results.of[name].String(); got != want {
		return fmt.Errorf("gives\n%s\nand should give\n%s", got, want)
	}
	return nil
}
