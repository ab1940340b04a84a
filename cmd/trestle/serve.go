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
	cfg := node.Defaults()
	var file string
	c := &cobra.Command{
		Use:   "serve",
		Short: "Serve the job endpoint and run jobs: JobManager and TaskManager in one process",
		Long: `Serve the job endpoint and run jobs: JobManager and TaskManager in one process.

Every setting below may be given as a flag (--memory=2GiB), in the environment
(TRESTLE_MEMORY=2GiB) or in the file that --config or TRESTLE_CONFIG names (a
YAML file with a line "memory: 2GiB"). Flags win over the environment, and the
environment over the file.

SIGTERM or SIGINT stops it; jobs that run are taken up at the next start. A
second signal stops it at once.`,
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
		fmt.Fprintf(c.OutOrStdout(), "Trestle %s serves.\n  job endpoint  %s\n  web page      http://%s/\n  data          %s\n",
			fullVersion(), ready.Job, ready.Web, cfg.Data)
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
