package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"trestle/internal/node"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func serveCommand() *cobra.Command {
	return processCommand(node.Embedded, "serve", "Serve the job endpoint and run jobs: JobManager and TaskManager in one process", `
SIGTERM or SIGINT stops it; jobs that run are taken up at the next start. A
second signal stops it at once.`)
}

func jobManagerCommand() *cobra.Command {
	return processCommand(node.JobManager, "jobmanager", "Serve the job endpoint and decide about jobs, as one of a group", `
One JobManager, or three or five that found a group together: each is told the
same list, and decides nothing until most of them are there. Clients may use the
job endpoint of any.
  trestle jobmanager --name=jm1 --cluster-addr=10.0.0.1:8098 --members=jm1=10.0.0.1:8098,jm2=10.0.0.2:8098,jm3=10.0.0.3:8098 …
A member that comes later is started with --join, and added by
  trestle cluster add NAME HOST:PORT

SIGTERM or SIGINT stops it; the others go on. A second signal stops it at once.`)
}

func taskManagerCommand() *cobra.Command {
	return processCommand(node.TaskManager, "taskmanager", "Run tasks for a group of JobManagers", `
  trestle taskmanager --name=tm1 --jobmanagers=10.0.0.1:8098,10.0.0.2:8098 --data-addr=10.0.0.4:8097 …

SIGTERM or SIGINT lets running tasks finish, and takes no new ones; what others
still have to read is served until then. A second signal stops it at once.`)
}

// processCommand starts a process of a role.
func processCommand(role node.Role, use, short, more string) *cobra.Command {
	cfg := node.DefaultsOf(role)
	var file string
	c := &cobra.Command{
		Use:   use,
		Short: short,
		Long: short + `.

Every setting below may be given as a flag (--memory=2GiB), in the environment
(TRESTLE_MEMORY=2GiB) or in the file that --config or TRESTLE_CONFIG names (a
YAML file with a line "memory: 2GiB"; processes may share one). Flags win over
the environment, and the environment over the file.
` + more,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if file == "" {
				file = os.Getenv("TRESTLE_CONFIG")
			}
			if err := node.Load(&cfg, c.Flags().Changed, os.LookupEnv, file); err != nil {
				return err
			}
			return serve(c, cfg)
		},
	}
	c.Flags().StringVar(&file, "config", "", "YAML `FILE` with settings")
	addSettings(c.Flags(), &cfg)
	c.Flags().SortFlags = false
	return c
}

// addSettings makes a flag of each setting.
func addSettings(flags *pflag.FlagSet, cfg *node.Config) {
	for _, s := range node.SettingsOf(cfg.Role) {
		field := s.Of(cfg)
		f := flags.VarPF(named{field, s.Value}, s.Name, "", s.Help)
		if field.Type() == "bool" {
			f.NoOptDefVal = "true"
		}
	}
}

// named is a setting whose help names its value.
type named struct {
	pflag.Value
	value string
}

// Type is what a help text puts behind the flag.
func (n named) Type() string {
	if n.value == "" {
		return n.Value.Type()
	}
	return n.value
}

func serve(c *cobra.Command, cfg node.Config) error {
	log := newLogger(c.ErrOrStderr(), cfg)
	slog.SetDefault(log)
	n, err := node.New(cfg, fullVersion(), log)
	if err != nil {
		return err
	}
	began := time.Now()
	ready := n.Ready()
	err = n.Run(c.Context(), func() {
		fmt.Fprintf(c.OutOrStdout(), "Trestle %s serves.\n", fullVersion())
		for _, line := range []struct{ what, where string }{
			{"job endpoint", ready.Job}, {"with TLS", ready.JobTLS}, {"cluster", ready.Cluster}, {"data port", ready.Data},
			{"web page", "http://" + ready.Web + "/"}, {"data", cfg.Data},
		} {
			if line.where != "" {
				fmt.Fprintf(c.OutOrStdout(), "  %-12s  %s\n", line.what, line.where)
			}
		}
		log.Info("serving", "job", ready.Job, "web", ready.Web, "slots", cfg.Slots, "memory", cfg.Memory.String(), "took", time.Since(began))
	})
	if err != nil {
		return err
	}
	log.Info("stopped")
	return nil
}

func newLogger(w io.Writer, cfg node.Config) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(cfg.LogLevel)) // validated; info if not
	opts := &slog.HandlerOptions{Level: level}
	if cfg.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
