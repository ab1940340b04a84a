package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"

	"trestle/internal/node"

	"github.com/spf13/cobra"
)

func clusterCommand() *cobra.Command {
	var jobManagers []string
	var cert, key, ca string
	c := &cobra.Command{
		Use:   "cluster",
		Short: "Look after a group of JobManagers",
	}
	flags := c.PersistentFlags()
	flags.StringSliceVar(&jobManagers, "jobmanagers", []string{"127.0.0.1:8098"}, "cluster addresses `HOST:PORT,…` of some of its members")
	flags.StringVar(&cert, "tls-cert", "", "`FILE` of a process's certificate")
	flags.StringVar(&key, "tls-key", "", "`FILE` of its key")
	flags.StringVar(&ca, "tls-ca", "", "`FILE` of the authority's certificate")
	with := func(do func(ctx context.Context, g *node.Group, c *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
		return func(c *cobra.Command, args []string) error {
			g, err := node.OpenGroup(jobManagers, cert, key, ca)
			if err != nil {
				return err
			}
			defer g.Close()
			return do(c.Context(), g, c, args)
		}
	}
	var asJSON bool
	status := &cobra.Command{
		Use:   "status",
		Short: "Show the members, who leads, and the TaskManagers",
		Args:  cobra.NoArgs,
		RunE: with(func(ctx context.Context, g *node.Group, c *cobra.Command, _ []string) error {
			s, err := g.Status(ctx)
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(c.OutOrStdout()).Encode(s)
			}
			return printGroup(c, s)
		}),
	}
	status.Flags().BoolVar(&asJSON, "json", false, "print JSON, for programs")
	c.AddCommand(status, &cobra.Command{
		Use:   "add NAME HOST:PORT",
		Short: "Add a JobManager that was started with --join, by its name and cluster address",
		Args:  cobra.ExactArgs(2),
		RunE: with(func(ctx context.Context, g *node.Group, _ *cobra.Command, args []string) error {
			return g.Add(ctx, args[0], args[1])
		}),
	}, &cobra.Command{
		Use:   "remove NAME",
		Short: "Remove a JobManager for good; stop it afterwards",
		Args:  cobra.ExactArgs(1),
		RunE: with(func(ctx context.Context, g *node.Group, _ *cobra.Command, args []string) error {
			return g.Remove(ctx, args[0])
		}),
	}, &cobra.Command{
		Use:   "transfer [NAME]",
		Short: "Make another JobManager the leader, as before work on the one that leads",
		Args:  cobra.MaximumNArgs(1),
		RunE: with(func(ctx context.Context, g *node.Group, _ *cobra.Command, args []string) error {
			name := ""
			if len(args) == 1 {
				name = args[0]
			}
			return g.Transfer(ctx, name)
		}),
	})
	return c
}

func printGroup(c *cobra.Command, s *node.GroupStatus) error {
	out := c.OutOrStdout()
	fmt.Fprintf(out, "term %d\n\n", s.Term)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "JOBMANAGER\tADDRESS\tROLE\tLOG\tSTATE")
	states := map[uint64]string{} // by place in the log
	differ := false
	for _, m := range s.Members {
		role := "follower"
		switch {
		case m.Leader:
			role = "leader"
		case !m.Voter:
			role = "learner"
		}
		if m.Error != "" {
			fmt.Fprintf(w, "%s\t%s\t%s\t-\t%s\n", m.Name, m.Address, role, m.Error)
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%.12s\n", m.Name, m.Address, role, m.Applied, m.State)
		if before, ok := states[m.Applied]; ok && before != m.State {
			differ = true
		}
		states[m.Applied] = m.State
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if differ {
		return errors.New("members that have come to the same place in the log tell different stories: this must not be; keep their data directories and report it")
	}
	fmt.Fprintf(out, "\n%d TaskManagers\n", len(s.TaskManagers))
	for _, t := range s.TaskManagers {
		fmt.Fprintln(out, " ", t)
	}
	return nil
}
