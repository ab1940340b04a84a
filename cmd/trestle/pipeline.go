package main

import (
	"bytes"
	"fmt"
	"os"

	"trestle/internal/node"
	"trestle/runner/region"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// readPipeline reads a pipeline proto, binary or as JSON.
func readPipeline(file string) (*pipepb.Pipeline, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var p pipepb.Pipeline
	if trimmed := bytes.TrimSpace(b); len(trimmed) > 0 && trimmed[0] == '{' {
		err = protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(trimmed, &p)
	} else {
		err = proto.Unmarshal(b, &p)
	}
	if err != nil {
		return nil, fmt.Errorf("%s is no pipeline (org.apache.beam.model.pipeline.v1.Pipeline, binary or as JSON): %w", file, err)
	}
	return &p, nil
}

func planCommand() *cobra.Command {
	var asJSON, asDot bool
	var mode string
	var slots int
	c := &cobra.Command{
		Use:   "plan FILE",
		Short: "Show the stages, edges and regions that a pipeline would run as",
		Long: `Show the stages, edges and regions that a pipeline would run as.

FILE holds a pipeline proto, binary or as JSON. Nothing is run, and no server is
needed. All that is wrong with the pipeline is told at once.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			p, err := readPipeline(args[0])
			if err != nil {
				return err
			}
			m, err := region.ParseMode(mode)
			if err != nil {
				return err
			}
			plan, err := node.Plan(p, node.PlanOptions{Mode: m, Slots: slots})
			if err != nil {
				return err
			}
			switch {
			case asJSON:
				return printJSON(c, plan.View())
			case asDot:
				fmt.Fprint(c.OutOrStdout(), plan.Graph.Dot())
			default:
				fmt.Fprint(c.OutOrStdout(), plan.Graph.String())
			}
			return nil
		},
	}
	jsonFlag(c, &asJSON)
	c.Flags().BoolVar(&asDot, "dot", false, "print Graphviz' language")
	c.Flags().StringVar(&mode, "exchange-mode", string(region.PointwisePipelined), "`MODE` of the edges: all-blocking, pointwise-pipelined or all-pipelined")
	c.Flags().IntVar(&slots, "slots", node.Defaults().Slots, "slots that regions may need with all-pipelined")
	c.MarkFlagsMutuallyExclusive("json", "dot")
	return c
}

func pipelineCommand() *cobra.Command {
	var cl client
	var asJSON bool
	c := &cobra.Command{
		Use:   "pipeline ID",
		Short: "Write a job's pipeline, as it was submitted, to standard output",
		Long: `Write a job's pipeline, as it was submitted, to standard output.

The proto is binary, or JSON with --json. trestle plan reads it, and trestle run
if its workers can be started again: not those of a client that has gone
(LOOPBACK).`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			jobs, conn, err := cl.dial()
			if err != nil {
				return err
			}
			defer conn.Close()
			r, err := jobs.GetPipeline(c.Context(), &jobpb.GetJobPipelineRequest{JobId: args[0]})
			if err != nil {
				return said(err)
			}
			b, err := proto.Marshal(r.GetPipeline())
			if asJSON {
				b, err = protojson.MarshalOptions{Multiline: true}.Marshal(r.GetPipeline())
				b = append(b, '\n')
			}
			if err != nil {
				return err
			}
			_, err = c.OutOrStdout().Write(b)
			return err
		},
	}
	addressFlags(c, &cl)
	jsonFlag(c, &asJSON)
	return c
}
