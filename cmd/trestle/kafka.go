package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"trestle/transforms/kafka"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/structpb"
)

func kafkaCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "kafka",
		Short: "Look at Kafka topics and replay them, without writing code",
	}
	c.AddCommand(kafkaDescribeCommand(), kafkaReplayCommand())
	return c
}

// brokers are the flags that say where a cluster is.
type brokers struct {
	servers string
	config  []string
}

func (b *brokers) flags(c *cobra.Command) {
	c.Flags().StringVar(&b.servers, "brokers", "127.0.0.1:9092", "`HOST:PORT,…` of the cluster")
	c.Flags().StringArrayVarP(&b.config, "config", "c", nil, "consumer config `KEY=VALUE`; may be given several times")
}

func (b *brokers) source() (kafka.Source, error) {
	config := map[string]string{"bootstrap.servers": b.servers}
	for _, c := range b.config {
		key, value, ok := strings.Cut(c, "=")
		if !ok {
			return kafka.Source{}, errors.New("--config must be KEY=VALUE") // not the value: it may be a secret
		}
		config[key] = value
	}
	return kafka.ParseConsumer(config)
}

func kafkaDescribeCommand() *cobra.Command {
	var b brokers
	var asJSON bool
	c := &cobra.Command{
		Use:   "describe TOPIC",
		Short: "Tell what a topic's partitions hold",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := b.source()
			if err != nil {
				return err
			}
			all, err := kafka.Describe(c.Context(), s.Connection, args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(c.OutOrStdout()).Encode(all)
			}
			w := tabwriter.NewWriter(c.OutOrStdout(), 0, 8, 2, ' ', tabwriter.AlignRight)
			fmt.Fprintln(w, "partition\tstart\tend\toffsets\topen from\tfirst time\tlast time\t")
			var offsets int64
			for _, p := range all {
				open := "-"
				if p.Stable < p.End {
					open = fmt.Sprint(p.Stable)
				}
				fmt.Fprintf(w, "%d\t%d\t%d\t%d\t%s\t%s\t%s\t\n", p.Partition, p.Start, p.End, p.End-p.Start, open, instant(p.FirstTime), instant(p.LastTime))
				offsets += p.End - p.Start
			}
			fmt.Fprintf(w, "all\t\t\t%d\t\t\t\t\n", offsets)
			return w.Flush()
		},
	}
	b.flags(c)
	jsonFlag(c, &asJSON)
	return c
}

// instant is a time for people.
func instant(ms int64) string {
	if ms < 0 {
		return "-"
	}
	return time.UnixMilli(ms).UTC().Format(time.RFC3339)
}

func kafkaReplayCommand() *cobra.Command {
	var b brokers
	var cl client
	var out, window string
	var count, asJSON, detach bool
	var most int64
	c := &cobra.Command{
		Use:   "replay TOPIC...",
		Short: "Run a ready pipeline over what topics hold now",
		Long: `Run a ready pipeline over what topics hold now.

Without --count the records are written to files in --out, as lines of JSON with
keys and values in base64. With it they are counted by key and --window of
their own time. The files are written by the TaskManagers.

Bounds are consumer config: -c trestle.start.time=2026-01-01T00:00:00Z
-c trestle.stop.offsets=0:1000,1:2000`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := b.source()
			if err != nil {
				return err
			}
			s.Topics, s.MaxRecords = args, most
			dir, err := filepath.Abs(out)
			if err != nil {
				return err
			}
			r := kafka.Replay{Source: s}
			var p *pipepb.Pipeline
			if count {
				size, bad := time.ParseDuration(window)
				if bad != nil || size < time.Millisecond {
					return fmt.Errorf("--window=%s: want a duration like 1m", window)
				}
				p, err = kafka.CountPipeline(c.Context(), r, size, dir)
			} else {
				p, err = kafka.DumpPipeline(c.Context(), r, dir)
			}
			if err != nil {
				return err
			}
			id, err := submit(c.Context(), &cl, &jobpb.PrepareJobRequest{JobName: "replay-" + args[0], Pipeline: p, PipelineOptions: &structpb.Struct{}})
			if err != nil {
				return said(err)
			}
			if detach {
				fmt.Fprintln(c.OutOrStdout(), id)
				return nil
			}
			return waitFor(c.Context(), c, &cl, id, asJSON)
		},
	}
	b.flags(c)
	c.Flags().StringVar(&out, "out", "replay", "`DIR` for the files")
	c.Flags().BoolVar(&count, "count", false, "count by key and window in place of writing records")
	c.Flags().StringVar(&window, "window", "1h", "`DURATION` of the windows of --count")
	c.Flags().Int64Var(&most, "max-records", 0, "read at most so many records; 0 for all")
	c.Flags().BoolVar(&detach, "detach", false, "print the job's id and don't wait")
	addressFlags(c, &cl)
	jsonFlag(c, &asJSON)
	return c
}
