package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"trestle/runner"
	"trestle/runner/joblog"
	"trestle/web"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	"github.com/spf13/cobra"
)

func jobsCommand() *cobra.Command {
	var cl client
	var asJSON bool
	c := &cobra.Command{
		Use:   "jobs",
		Short: "List jobs, the newest first",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var list web.JobList
			if err := cl.get(c.Context(), "/api/v1/jobs", nil, &list); err != nil {
				return err
			}
			if asJSON {
				return printJSON(c, list)
			}
			t := newTable("JOB", "NAME", "STATE", "SUBMITTED", "TOOK", "TASKS", "RESTARTS")
			for _, j := range list.Jobs {
				t.row(j.ID, j.Name, string(j.State), j.Accepted.Local().Format(time.DateTime), took(j.Accepted, j.Ended),
					fmt.Sprintf("%d/%d", j.Tasks.Finished, j.Tasks.Total()), strconv.Itoa(j.Restarts))
			}
			t.print(c.OutOrStdout())
			return nil
		},
	}
	addressFlags(c, &cl)
	jsonFlag(c, &asJSON)
	return c
}

func took(from, to time.Time) string {
	if from.IsZero() {
		return ""
	}
	if to.IsZero() {
		to = time.Now()
	}
	return web.Duration(to.Sub(from))
}

func jobPath(id, what string) string { return "/api/v1/jobs/" + url.PathEscape(id) + what }

func jobCommand() *cobra.Command {
	var cl client
	var asJSON, tasks bool
	c := &cobra.Command{
		Use:   "job ID",
		Short: "Show one job: its state, stages, regions and failures",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if asJSON {
				var raw json.RawMessage
				if err := cl.get(c.Context(), jobPath(args[0], ""), nil, &raw); err != nil {
					return err
				}
				return printJSON(c, raw)
			}
			var job runner.Job
			if err := cl.get(c.Context(), jobPath(args[0], ""), nil, &job); err != nil {
				return err
			}
			printJob(c.OutOrStdout(), &job, tasks)
			return nil
		},
	}
	c.Flags().BoolVar(&tasks, "tasks", false, "show every task, too")
	addressFlags(c, &cl)
	jsonFlag(c, &asJSON)
	return c
}

func metricsCommand() *cobra.Command {
	var cl client
	var asJSON bool
	c := &cobra.Command{
		Use:   "metrics ID",
		Short: "Show a job's counters, distributions, gauges and element counts",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			var list web.MetricList
			if err := cl.get(c.Context(), jobPath(args[0], "/metrics"), nil, &list); err != nil {
				return err
			}
			if asJSON {
				return printJSON(c, list)
			}
			t := newTable("OF", "NAME", "KIND", "ATTEMPTED", "COMMITTED")
			for _, m := range list.Metrics {
				t.row(m.Transform, m.Name, m.Kind, m.Attempted, m.Committed)
			}
			t.print(c.OutOrStdout())
			return nil
		},
	}
	addressFlags(c, &cl)
	jsonFlag(c, &asJSON)
	return c
}

func logsCommand() *cobra.Command {
	var cl client
	var asJSON, follow bool
	var level string
	c := &cobra.Command{
		Use:   "logs ID",
		Short: "Print what a job and its workers had to say",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			query := url.Values{"max": {"1000"}, "level": {level}}
			if follow {
				query.Set("wait", "20s")
			}
			for {
				var list web.MessageList
				if err := cl.get(c.Context(), jobPath(args[0], "/messages"), query, &list); err != nil {
					return err
				}
				for _, m := range list.Messages {
					if asJSON {
						line, err := json.Marshal(m)
						if err != nil {
							return err
						}
						fmt.Fprintf(c.OutOrStdout(), "%s\n", line)
						continue
					}
					printMessage(c.OutOrStdout(), m)
				}
				if list.Ended || (len(list.Messages) == 0 && !follow) {
					return nil
				}
				query.Set("after", strconv.FormatUint(list.Next, 10))
			}
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on with new messages until the job ends")
	c.Flags().StringVar(&level, "level", joblog.Debug.String(), "least `LEVEL` to print: debug, info, warn, error or failure")
	addressFlags(c, &cl)
	jsonFlag(c, &asJSON)
	return c
}

func cancelCommand() *cobra.Command {
	var cl client
	c := &cobra.Command{
		Use:   "cancel ID...",
		Short: "Cancel jobs",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			jobs, conn, err := cl.dial()
			if err != nil {
				return err
			}
			defer conn.Close()
			for _, id := range args {
				r, err := jobs.Cancel(c.Context(), &jobpb.CancelJobRequest{JobId: id})
				if err != nil {
					return said(err)
				}
				fmt.Fprintf(c.OutOrStdout(), "%s is %s\n", id, r.GetState())
			}
			return nil
		},
	}
	addressFlags(c, &cl)
	return c
}
