package cluster

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"slices"
	"strings"
)

// A Role is what the holder of a certificate may act as. It stands in the
// certificate as an organisational unit; there may be several. Who has none is
// a client.
type Role string

const (
	JobManager  Role = "jobmanager"  // takes part in Raft, and decides
	TaskManager Role = "taskmanager" // works for JobManagers, and serves what it has written to its like
	Operator    Role = "operator"    // changes the members of a group
)

func subject(name string, roles ...Role) pkix.Name {
	s := pkix.Name{CommonName: name}
	for _, r := range roles {
		s.OrganizationalUnit = append(s.OrganizationalUnit, string(r))
	}
	return s
}

// mayBe reports whether a certificate has one of the roles.
func mayBe(c *x509.Certificate, roles ...Role) bool {
	return slices.ContainsFunc(roles, func(r Role) bool {
		return slices.Contains(c.Subject.OrganizationalUnit, string(r))
	})
}

// described says whose a certificate is, and for what.
func described(c *x509.Certificate) string {
	if c == nil {
		return "nobody"
	}
	all := []Role{JobManager, TaskManager, Operator}
	has := slices.DeleteFunc(all, func(r Role) bool { return !mayBe(c, r) })
	if len(has) == 0 {
		return fmt.Sprintf("%q is a client's", nameOf(c))
	}
	return fmt.Sprintf("%q is for a %s", nameOf(c), list(has))
}

func list(roles []Role) string {
	words := make([]string, len(roles))
	for i, r := range roles {
		words[i] = string(r)
	}
	return strings.Join(words, " or ")
}
