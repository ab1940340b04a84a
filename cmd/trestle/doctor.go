package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"trestle/internal/node"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// A finding is one thing that the doctor looked at.
type finding struct {
	What   string `json:"what"`
	State  string `json:"state"` // ok, missing or bad
	Detail string `json:"detail"`
	Advice string `json:"advice,omitempty"`
}

func doctorCommand() *cobra.Command {
	var asJSON bool
	cfg := node.Defaults()
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Look at this machine: ports, disk, memory, languages, and what to install",
		Long: `Look at this machine: ports, disk, memory, languages, and what to install.

What is missing is needed only by pipelines of that language, or environments of
that type. The exit status is 1 if Trestle itself can't run.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			findings := examine(c.Context(), cfg)
			bad := false
			for _, f := range findings {
				bad = bad || f.State == "bad"
			}
			if asJSON {
				if err := printJSON(c, findings); err != nil {
					return err
				}
			} else {
				t := newTable("WHAT", "STATE", "FOUND")
				for _, f := range findings {
					t.row(f.What, f.State, f.Detail)
				}
				t.print(c.OutOrStdout())
				for _, f := range findings {
					if f.Advice != "" {
						fmt.Fprintf(c.OutOrStdout(), "\n%s: %s\n", f.What, f.Advice)
					}
				}
			}
			if bad {
				return exitCode(1)
			}
			return nil
		},
	}
	for _, s := range node.Settings {
		if s.Name == "job-addr" || s.Name == "web-addr" || s.Name == "data" {
			c.Flags().VarP(named{s.Of(&cfg), s.Value}, s.Name, "", s.Help)
		}
	}
	jsonFlag(c, &asJSON)
	return c
}

func examine(ctx context.Context, cfg node.Config) []finding {
	out := []finding{
		port("job endpoint", "--job-addr", cfg.JobAddr),
		port("web page", "--web-addr", cfg.WebAddr),
		disk(cfg.Data),
		{What: "memory", State: "ok", Detail: fmt.Sprintf("%s for Trestle by default (--memory)", cfg.Memory)},
	}
	return append(out,
		program(ctx, "Go", "", "for pipelines in Go: install Go from https://go.dev/dl/", "go", "version"),
		program(ctx, "Python", "", "for pipelines in Python: install Python 3.10 or later, then in a virtual environment: pip install apache-beam", "python3", "--version"),
		program(ctx, "Beam for Python", "import apache_beam", "for workers in Python on this machine, in a virtual environment that is first in PATH: pip install apache-beam",
			"python3", "-c", "import apache_beam; print('apache-beam', apache_beam.__version__)"),
		program(ctx, "Java", "", "for pipelines in Java: install a JDK of version 11 or later", "java", "-version"),
		program(ctx, "Node.js", "", "for pipelines in TypeScript: install Node.js 18 or later", "node", "--version"),
		engine(ctx),
	)
}

// port tries to listen where Trestle would.
func port(what, flag, addr string) finding {
	f := finding{What: what, State: "ok", Detail: addr + " is free"}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		f.State, f.Detail = "bad", err.Error()
		f.Advice = "end what listens there (perhaps a Trestle that runs already), or choose another port with " + flag
		return f
	}
	l.Close()
	return f
}

// disk looks at the room where the data directory is or would be.
func disk(dir string) finding {
	f := finding{What: "disk", State: "ok"}
	at, err := filepath.Abs(dir)
	if err != nil {
		return finding{What: "disk", State: "bad", Detail: err.Error()}
	}
	for {
		if _, err := os.Stat(at); err == nil || at == filepath.Dir(at) {
			break
		}
		at = filepath.Dir(at)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(at, &st); err != nil {
		return finding{What: "disk", State: "bad", Detail: err.Error()}
	}
	free := node.Size(int64(st.Bavail) * st.Bsize)
	f.Detail = fmt.Sprintf("%s free at %s", free, at)
	if err := unix.Access(at, unix.W_OK); err != nil {
		f.State, f.Detail, f.Advice = "bad", at+" can't be written to", "choose another directory with --data"
	} else if free < 1<<30 {
		f.State, f.Advice = "bad", "less than 1 GiB is free; data that doesn't fit into memory goes to the disk. Choose another directory with --data"
	}
	return f
}

// program asks a program for its version.
func program(ctx context.Context, what, needs, advice, name string, args ...string) finding {
	path, err := exec.LookPath(name)
	if err != nil {
		return finding{what, "missing", name + " is not in PATH", advice}
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	b, err := exec.CommandContext(ctx, path, args...).CombinedOutput()
	first, _, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
	if err != nil {
		if needs != "" {
			first = needs + " fails with " + path
		}
		return finding{what, "missing", first, advice}
	}
	return finding{What: what, State: "ok", Detail: first + " (" + path + ")"}
}

// engine looks for something that runs containers.
func engine(ctx context.Context) finding {
	for _, name := range []string{"docker", "podman"} {
		if f := program(ctx, "containers", "", "", name, "info", "--format", "{{.ServerVersion}}"); f.State == "ok" {
			f.Detail = name + " " + f.Detail
			return f
		}
	}
	return finding{"containers", "missing", "no docker or podman that works",
		"only for environments of type DOCKER in Python and Java: use LOOPBACK, PROCESS or EXTERNAL instead, or install docker or podman. Go pipelines need none"}
}
