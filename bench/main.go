// Command bench measures Trestle beside its peers: Prism and Flink, and for
// Python the SDK's own FnApiRunner.
//
// Every case is one job that each runner does in turn, several times, in one
// run of this program on one machine. What counts is the wall time of the
// client, the CPU seconds of runner and of worker apart, and the greatest
// memory of the runner's process. Each figure comes from a runner that was
// started for it and has done the same job once before over few records, so
// that neither a cold JVM nor another job's garbage is measured.
//
// A figure is only worth something beside the limit: the CPU that runner and
// worker took together, divided by the cores. A runner that keeps all cores
// busy takes just that long.
//
// The tables go to docs/performance.md, between markers; the text around them
// is written by hand. A run that was narrowed (-only, -sizes, -peers, -quick)
// prints its tables and leaves the file alone unless -doc names one.
//
// With -spill it does something else: it groups far more data than the runner
// may hold, and fails if a result is wrong or memory grows beyond its budget.
// With -state a streaming job remembers far more than the runner may hold.
// With -failover it starts many processes, each on a host of its own, and
// measures what it costs a job that some of them die.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	o, err := parseOptions(flag.CommandLine, os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o *options) error {
	w, err := newWorkshop(o)
	if err != nil {
		return err
	}
	defer w.close()
	var failures []error
	for _, p := range o.parts() {
		began := time.Now()
		w.wall, w.others = 0, 0
		tables, failed := p.measure(ctx, w, o)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		failures = append(failures, failed)
		text := render(tables, describe(ctx, o, began, w.disturbed()))
		fmt.Print(text)
		if o.doc != "" && len(tables) > 0 {
			if err := writeDocument(o.doc, p.section, text); err != nil {
				return err
			}
			fmt.Fprintln(os.Stderr, "wrote", o.doc)
		}
	}
	return errors.Join(failures...)
}
