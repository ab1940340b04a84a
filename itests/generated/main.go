package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	_ "github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/harness/init" // what --worker=true does
)

func main() {
	first := flag.Int64("first", 1, "the seed of the first pipeline")
	count := flag.Int64("count", 100, "how many pipelines")
	var o options
	flag.StringVar(&o.way, "way", "", "run them in this way only; all: in all of them")
	flag.Int64Var(&o.together, "together", 25, "how many pipelines are in a job")
	flag.IntVar(&o.parallel, "parallel", 2, "how many jobs run at a time")
	flag.StringVar(&o.endpoint, "job-endpoint", "127.0.0.1:8099", "where jobs are submitted")
	flag.DurationVar(&o.limit, "limit", time.Minute, "how long a job may take")
	show := flag.Bool("show", false, "print the pipelines, and run nothing")
	flag.Parse()
	beam.Init() // doesn't return in a worker
	slog.SetLogLoggerLevel(slog.LevelError)
	if *show {
		for seed := *first; seed < *first+*count; seed++ {
			fmt.Println(draw(seed))
		}
		return
	}
	bad, err := runAll(*first, *count, o)
	if err != nil {
		fmt.Println(err)
	}
	if err != nil || bad > 0 {
		os.Exit(1)
	}
}

// options say how to run plans.
type options struct {
	endpoint, way string
	together      int64
	parallel      int
	limit         time.Duration
}

// runAll runs the plans of many seeds in all ways. It returns how many of them
// failed.
func runAll(first, count int64, o options) (bad int, err error) {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "generated-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	c, hangUp, err := dial(ctx, o.endpoint, dir, o.limit)
	if err != nil {
		return 0, err
	}
	defer hangUp()
	results, stop, err := listen()
	if err != nil {
		return 0, err
	}
	defer stop()

	began := time.Now()
	t := &tester{client: c, results: results, took: map[string]time.Duration{}}
	var running sync.WaitGroup
	places := make(chan struct{}, max(1, o.parallel))
	for seed := first; seed < first+count; seed += o.together {
		var plans []plan
		for s := seed; s < min(seed+o.together, first+count); s++ {
			plans = append(plans, draw(s))
		}
		for _, w := range waysOf(int(seed/o.together), o) {
			places <- struct{}{}
			running.Go(func() {
				defer func() { <-places }()
				t.test(ctx, plans, w)
			})
		}
	}
	running.Wait()
	fmt.Print(t.summary(count, time.Since(began)))
	return t.bad, nil
}
