// Command trestle runs Apache Beam pipelines, and looks at those that run.
//
// trestle serve is the runner. The other commands ask a running one: by its
// REST address for what there is to see, by its job endpoint for what is to be
// done.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := interruptible()
	defer stop()
	root := rootCommand()
	if err := root.ExecuteContext(ctx); err != nil {
		var code exitCode
		if errors.As(err, &code) {
			os.Exit(int(code))
		}
		fmt.Fprintln(os.Stderr, "trestle: "+strings.ReplaceAll(err.Error(), "\n", "\ntrestle: "))
		os.Exit(1)
	}
}

// An exitCode ends the program when all has been said.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// interruptible returns a context that ends with the first SIGINT or SIGTERM.
// The second ends the process at once: children die with it.
func interruptible() (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	go func() { // ends with stop
		select {
		case <-signals:
			cancel()
		case <-done:
			return
		}
		select {
		case <-signals:
			os.Exit(130)
		case <-done:
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(done)
		cancel()
	}
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "trestle",
		Short: "A portable Apache Beam runner",
		Long: `Trestle runs Apache Beam pipelines written with any Beam SDK.

Start it with
  trestle serve
and submit from any SDK to its job endpoint (127.0.0.1:8099), or a pipeline
file with
  trestle run FILE.pb
See what runs with trestle jobs, or on the web page (127.0.0.1:8081).`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddGroup(
		&cobra.Group{ID: "run", Title: "Running:"},
		&cobra.Group{ID: "look", Title: "Jobs:"},
		&cobra.Group{ID: "other", Title: "Other:"})
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("run", serveCommand(), jobManagerCommand(), taskManagerCommand(), workerPoolCommand(), expansionServiceCommand(), runCommand(), planCommand())
	add("look", jobsCommand(), jobCommand(), logsCommand(), metricsCommand(), pipelineCommand(), waitCommand(), cancelCommand(), kafkaCommand())
	add("other", clusterCommand(), certsCommand(), proxyCommand(), doctorCommand(), versionCommand(), harnessCommand(), askCommand())
	root.SetHelpCommandGroupID("other")
	root.SetCompletionCommandGroupID("other")
	tellUse(root)
	return root
}

// tellUse has commands that are given too few arguments, or too many, say which
// they take.
func tellUse(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return fmt.Errorf("%w\nusage: %s", err, c.UseLine())
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		tellUse(sub)
	}
}
