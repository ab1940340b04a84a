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
	var clients []string
	var days int
	c := &cobra.Command{
		Use:   "certs [flags] NAME[=HOST,…]...",
		Short: "Make the certificates that Trestle's processes show each other",
		Long: `Make the certificates that Trestle's processes show each other.

For each NAME, a process's, DIR/NAME.crt and DIR/NAME.key are made, valid for
the hosts (names or addresses) under which others reach it. The first call makes
the authority, too: DIR/ca.crt and DIR/ca.key; later ones use it again.
  trestle certs jm1=10.0.0.1 jm2=10.0.0.2 jm3=10.0.0.3 tm1=10.0.0.4
Each process gets its own two files and ca.crt:
  trestle jobmanager --tls-cert=jm1.crt --tls-key=jm1.key --tls-ca=ca.crt …
Clients' certificates (--client) open job endpoints through trestle proxy, and
nothing else. Keep ca.key away from the machines: whoever has it is let in.`,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args)+len(clients) == 0 {
				return errors.New("whom for? Name processes as NAME=HOST,…, or clients with --client")
			}
			authority, err := openAuthority(c, dir)
			if err != nil {
				return err
			}
			life := cluster.ValidFor(time.Duration(days) * 24 * time.Hour)
			for _, a := range args {
				name, hosts, _ := strings.Cut(a, "=")
				cert, err := authority.Node(name, split(hosts), life)
				if err := errors.Join(err, save(c, cert, dir)); err != nil {
					return err
				}
			}
			for _, name := range clients {
				cert, err := authority.Client(name, life)
				if err := errors.Join(err, save(c, cert, dir)); err != nil {
					return err
				}
			}
			return nil
		},
	}
	c.Flags().StringVar(&dir, "dir", "trestle-certs", "`DIR` that holds the authority and the certificates")
	c.Flags().StringSliceVar(&clients, "client", nil, "`NAME` of a client to make a certificate for; may be repeated")
	c.Flags().IntVar(&days, "days", 365, "`DAYS` that the certificates are valid")
	return c
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
