package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"trestle/internal/cluster"

	"github.com/spf13/cobra"
)

func certsCommand() *cobra.Command {
	var dir string
	var days int
	kinds := certKinds()
	c := &cobra.Command{
		Use:   "certs --jobmanager=NAME[=HOST,…]… --taskmanager=NAME[=HOST,…]… --operator=NAME… --client=NAME…",
		Short: "Make the certificates that Trestle's processes show each other",
		Long: `Make the certificates that Trestle's processes show each other.

For each NAME, DIR/NAME.crt and DIR/NAME.key are made; a process's is valid for
the hosts (names or addresses) under which others reach it. The first call makes
the authority, too: DIR/ca.crt and DIR/ca.key; later ones use it again.
  trestle certs --jobmanager=jm1=10.0.0.1 --jobmanager=jm2=10.0.0.2 \
    --jobmanager=jm3=10.0.0.3 --taskmanager=tm1=10.0.0.4 --operator=me
Each process gets its own two files and ca.crt:
  trestle jobmanager --tls-cert=jm1.crt --tls-key=jm1.key --tls-ca=ca.crt …
What a certificate is for stands in it: a TaskManager's is not let in where
JobManagers decide, an operator's is for trestle cluster, and a client's opens
job endpoints through trestle proxy and nothing else. NAME=HOST,… without a flag
makes one for all three roles of a process: simple where all machines are trusted
alike. Keep ca.key away from the machines: whoever has it is let in.`,
		RunE: func(c *cobra.Command, args []string) error {
			asked := len(args)
			for _, k := range kinds {
				asked += len(k.names)
			}
			if asked == 0 {
				return errors.New("whom for? Name processes by --jobmanager=NAME=HOST,… and --taskmanager=NAME=HOST,…, people by --operator=NAME and --client=NAME")
			}
			authority, err := openAuthority(c, dir)
			if err != nil {
				return err
			}
			life := cluster.ValidFor(time.Duration(days) * 24 * time.Hour)
			for _, k := range append(kinds, &certKind{names: args, issue: process()}) {
				for _, a := range k.names {
					name, hosts, _ := strings.Cut(a, "=")
					cert, err := k.issue(authority, name, split(hosts), life)
					if err := errors.Join(err, save(c, cert, dir)); err != nil {
						return err
					}
				}
			}
			return nil
		},
	}
	for _, k := range kinds {
		c.Flags().StringArrayVar(&k.names, k.flag, nil, k.help+"; may be repeated")
	}
	c.Flags().StringVar(&dir, "dir", "trestle-certs", "`DIR` that holds the authority and the certificates")
	c.Flags().IntVar(&days, "days", 365, "`DAYS` that the certificates are valid")
	return c
}

// A certKind is one flag that asks for certificates.
type certKind struct {
	flag, help string
	names      []string // NAME[=HOST,…]
	issue      func(a *cluster.Authority, name string, hosts []string, life cluster.Life) (*cluster.Certificate, error)
}

func certKinds() []*certKind {
	person := func(issue func(*cluster.Authority, string, cluster.Life) (*cluster.Certificate, error)) func(*cluster.Authority, string, []string, cluster.Life) (*cluster.Certificate, error) {
		return func(a *cluster.Authority, name string, hosts []string, life cluster.Life) (*cluster.Certificate, error) {
			if len(hosts) > 0 {
				return nil, fmt.Errorf("%s: nobody calls an operator or a client, so there are no hosts to name", name)
			}
			if strings.Contains(name, ",") {
				return nil, fmt.Errorf("%s: one name at a time; say the flag once for each", name)
			}
			return issue(a, name, life)
		}
	}
	return []*certKind{
		{flag: "jobmanager", help: "`NAME[=HOST,…]` of a JobManager", issue: process(cluster.JobManager)},
		{flag: "taskmanager", help: "`NAME[=HOST,…]` of a TaskManager", issue: process(cluster.TaskManager)},
		{flag: "operator", help: "`NAME` of one who uses trestle cluster", issue: person((*cluster.Authority).Operator)},
		{flag: "client", help: "`NAME` of one who submits jobs", issue: person((*cluster.Authority).Client)},
	}
}

// process issues certificates of Trestle's own processes.
func process(roles ...cluster.Role) func(*cluster.Authority, string, []string, cluster.Life) (*cluster.Certificate, error) {
	return func(a *cluster.Authority, name string, hosts []string, life cluster.Life) (*cluster.Certificate, error) {
		return a.Node(name, hosts, life, roles...)
	}
}

// openAuthority reads the authority of a directory, or makes one.
func openAuthority(c *cobra.Command, dir string) (*cluster.Authority, error) {
	if _, err := os.Stat(filepath.Join(dir, "ca.key")); err == nil {
		return cluster.LoadAuthority(dir)
	}
	a, err := cluster.NewAuthority("Trestle", cluster.ValidFor(cluster.AuthorityLife))
	if err != nil {
		return nil, err
	}
	if err := a.Save(dir); err != nil {
		return nil, err
	}
	fmt.Fprintf(c.OutOrStdout(), "made the authority: %s, until %s\n", filepath.Join(dir, "ca.crt"), a.Expiry().Format(time.DateOnly))
	return a, nil
}

func save(c *cobra.Command, cert *cluster.Certificate, dir string) error {
	if cert == nil {
		return nil // why not is known already
	}
	if err := cert.Save(dir); err != nil {
		return err
	}
	fmt.Fprintf(c.OutOrStdout(), "made %s, until %s\n", filepath.Join(dir, cert.Name+".crt"), cert.Expiry.Format(time.DateOnly))
	return nil
}

// split cuts a list with commas; an empty one is none.
func split(list string) []string {
	var out []string
	for _, x := range strings.Split(list, ",") {
		if x = strings.TrimSpace(x); x != "" {
			out = append(out, x)
		}
	}
	return out
}
