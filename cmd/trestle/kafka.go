package main

import (
	"context"
	"encoding/json"
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
	config, err := keysAndValues(b.servers, "--config", b.config)
	if err != nil {
		return kafka.Source{}, err
	}
	return kafka.ParseConsumer(config)
}

// sink is a topic of the cluster.
func (b *brokers) sink(topic string, more []string) (kafka.Sink, error) {
	config, err := keysAndValues(b.servers, "--to-config", more)
	if err != nil {
		return kafka.Sink{}, err
	}
	k, err := kafka.ParseProducer(config)
	k.Topic = topic
	return k, err
}

// keysAndValues reads what a flag has of a client's config.
func keysAndValues(servers, flag string, all []string) (map[string]string, error) {
	config := map[string]string{"bootstrap.servers": servers}
	for _, c := range all {
		key, value, ok := strings.Cut(c, "=")
		if !ok {
			return nil, fmt.Errorf("%s must be KEY=VALUE", flag) // not the value: it may be a secret
		}
		config[key] = value
	}
	return config, nil
}

func kafkaDescribeCommand() *cobra.Command {
	var b brokers
	var group string
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
			all, err := kafka.Describe(c.Context(), s.Connection, args[0], group)
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(c.OutOrStdout()).Encode(all)
			}
			w := tabwriter.NewWriter(c.OutOrStdout(), 0, 8, 2, ' ', tabwriter.AlignRight)
			fmt.Fprintln(w, "partition\tstart\tend\toffsets\topen from\tfirst time\tlast time\tlag\t")
			var offsets, lag int64
			for _, p := range all {
				open := "-"
				if p.Stable < p.End {
					open = fmt.Sprint(p.Stable)
				}
				behind := "-"
				if n := p.Lag(); n >= 0 {
					behind = fmt.Sprint(n)
					lag += n
				}
				fmt.Fprintf(w, "%d\t%d\t%d\t%d\t%s\t%s\t%s\t%s\t\n", p.Partition, p.Start, p.End, p.End-p.Start, open, instant(p.FirstTime), instant(p.LastTime), behind)
				offsets += p.End - p.Start
			}
			fmt.Fprintf(w, "all\t\t\t%d\t\t\t\t%d\t\n", offsets, lag)
			return w.Flush()
		},
	}
	b.flags(c)
	c.Flags().StringVar(&group, "group", "", "`NAME` of a consumer group, whose lag is told")
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

// A replayOutput is what becomes of the records.
type replayOutput struct {
	dir, window, to string
	toConfig        []string
	count           bool
}

func (o *replayOutput) flags(c *cobra.Command) {
	c.Flags().StringVar(&o.dir, "out", "replay", "`DIR` for the files")
	c.Flags().BoolVar(&o.count, "count", false, "count by key and window in place of writing records")
	c.Flags().StringVar(&o.window, "window", "1h", "`DURATION` of the windows of --count")
	c.Flags().StringVar(&o.to, "to", "", "`TOPIC` to write the records to, in place of files")
	c.Flags().StringArrayVar(&o.toConfig, "to-config", nil, "producer config `KEY=VALUE` for --to, such as its own bootstrap.servers; may be given several times")
	c.MarkFlagsMutuallyExclusive("to", "out")
	c.MarkFlagsMutuallyExclusive("to", "count")
}

func (o *replayOutput) pipeline(ctx context.Context, b *brokers, r kafka.Replay) (*pipepb.Pipeline, error) {
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		return nil, err
	}
	switch {
	case o.to != "":
		sink, err := b.sink(o.to, o.toConfig)
		if err != nil {
			return nil, err
		}
		return kafka.CopyPipeline(ctx, r, sink)
	case o.count:
		size, bad := time.ParseDuration(o.window)
		if bad != nil || size < time.Millisecond {
			return nil, fmt.Errorf("--window=%s: want a duration like 1m", o.window)
		}
		return kafka.CountPipeline(ctx, r, size, dir)
	}
	return kafka.DumpPipeline(ctx, r, dir)
}

func kafkaReplayCommand() *cobra.Command {
	var b brokers
	var cl client
	var o replayOutput
	var asJSON, detach bool
	var most int64
	c := &cobra.Command{
		Use:   "replay TOPIC...",
		Short: "Run a ready pipeline over what topics hold now",
		Long: `Run a ready pipeline over what topics hold now.

Without --count the records are written to files in --out, as lines of JSON with
keys and values in base64. With it they are counted by key and --window of
their own time. The files are written by the TaskManagers. With --to they are
written to another topic, with key, value, headers and time: at least once.

Bounds are consumer config: -c trestle.start.time=2026-01-01T00:00:00Z
-c trestle.stop.offsets=0:1000,1:2000`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := b.source()
			if err != nil {
				return err
			}
			s.Topics, s.MaxRecords = args, most
			p, err := o.pipeline(c.Context(), &b, kafka.Replay{Source: s})
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
	o.flags(c)
	c.Flags().Int64Var(&most, "max-records", 0, "read at most so many records; 0 for all")
	c.Flags().BoolVar(&detach, "detach", false, "print the job's id and don't wait")
	addressFlags(c, &cl)
	jsonFlag(c, &asJSON)
	return c
}
