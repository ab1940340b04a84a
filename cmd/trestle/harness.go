package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"trestle/internal/node"
	// The DoFns that this worker runs.
	_ "trestle/transforms/kafka"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/harness"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/util/grpcx"
	"github.com/spf13/cobra"
)

// harnessCommand is the worker that runs Trestle's own transforms. It is told
// what Beam's Go workers are told, by the same flags.
func harnessCommand() *cobra.Command {
	var id, logging, control string
	var worker bool
	c := &cobra.Command{
		Use:    "harness",
		Short:  "Run Trestle's own transforms; started by the runner",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if !worker || control == "" || logging == "" {
				return errors.New("this is a worker, to be started by the runner with --worker=true, --id, --control_endpoint and --logging_endpoint")
			}
			if err := importOptions(os.Getenv("PIPELINE_OPTIONS_FILE")); err != nil {
				return err
			}
			beam.Init()
			ctx := grpcx.WriteWorkerID(c.Context(), id)
			return harness.MainWithOptions(ctx, logging, control, harness.Options{
				StatusEndpoint:     os.Getenv("STATUS_ENDPOINT"),
				RunnerCapabilities: strings.Fields(os.Getenv("RUNNER_CAPABILITIES")),
			})
		},
	}
	c.Flags().BoolVar(&worker, "worker", false, "")
	c.Flags().StringVar(&id, "id", "", "")
	c.Flags().StringVar(&logging, "logging_endpoint", "", "")
	c.Flags().StringVar(&control, "control_endpoint", "", "")
	c.FParseErrWhitelist.UnknownFlags = true // of later boot conventions
	return c
}

// askCommand asks a job's source what it holds, apart from the JobManager, which
// starts it: it may die of what it is told.
func askCommand() *cobra.Command {
	return &cobra.Command{
		Use:    node.AskCommand,
		Short:  "Ask a job's source what it holds; started by the JobManager",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return node.AnswerSource(c.Context(), c.InOrStdin(), c.OutOrStdout())
		},
	}
}

// importOptions takes the pipeline's options as the Go SDK has them. Other SDKs'
// pipelines have none of these.
func importOptions(file string) error {
	if file == "" {
		return nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("pipeline options: %w", err)
	}
	var wrapped runtime.RawOptionsWrapper
	if err := json.Unmarshal(text, &wrapped); err != nil {
		return nil // not written by the Go SDK
	}
	runtime.GlobalOptions.Import(wrapped.Options)
	return nil
}
